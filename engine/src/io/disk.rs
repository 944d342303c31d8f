//! The store's file as the engine sees it.

use std::io;
use std::os::fd::RawFd;

/// A file of fixed-size sectors: real or simulated.
///
/// What the engine assumes of it: a write that returned is on the medium after a later `flush`
/// that returned `Ok`; before that, any subset of its sectors may be. A sector holds old bytes or
/// new ones, or garbage while a write to it was in flight.
///
/// Direct reads and writes bypass the page cache where the file system allows; their offset and
/// length are multiples of [`Disk::alignment`], and buffers come from `AlignedBuf`.
pub trait Disk: Send + Sync + 'static {
    /// Fills `buf` from the medium. Past the end of the file is `UnexpectedEof`.
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `buf`.
    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()>;

    /// Fills `buf` through the page cache, any offset and length: for values.
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read(offset, buf)
    }

    /// fdatasync: everything written (and the file's length) is on the medium when it returns.
    fn flush(&self) -> io::Result<()>;

    /// Bytes of the file.
    fn size(&self) -> io::Result<u64>;

    /// fallocate: backs `[offset, offset + bytes)` with space, growing the file if it ends before.
    /// The only call that may say that the disk is full.
    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Gives the space of `[offset, offset + bytes)` back to the file system; it reads as zeros.
    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Bytes that offsets, lengths and buffers of direct I/O are multiples of.
    fn alignment(&self) -> usize;

    /// Whether reads and writes bypass the page cache.
    fn is_direct(&self) -> bool;

    /// The descriptor for direct I/O, for the io_uring backend; none when simulated.
    fn direct_fd(&self) -> Option<RawFd> {
        None
    }
}
