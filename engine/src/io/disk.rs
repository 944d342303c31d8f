//! The store's file as the engine sees it.

use super::map::MappedExtent;
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

    /// Writes all of `buf`. Beyond the end of the file it grows the file.
    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()>;

    /// Fills `buf` through the page cache, any offset and length: for values.
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read(offset, buf)
    }

    /// Fills `buf` if all of it stands in the page cache, without waiting for the medium. Whether
    /// it did; what is in `buf` otherwise is nothing.
    fn read_resident(&self, _offset: u64, _buf: &mut [u8]) -> io::Result<bool> {
        Ok(false)
    }

    /// Bytes of the file as a reference that outlives the call: zero-copy from the page cache
    /// where the disk can, else a copy. Any offset and length. Nothing may write to or punch
    /// these bytes of the file before the last clone of the extent is dropped.
    fn map(&self, offset: u64, len: usize) -> io::Result<MappedExtent> {
        let mut bytes = vec![0; len];
        self.read_cached(offset, &mut bytes)?;
        Ok(MappedExtent::copied(bytes))
    }

    /// fdatasync: everything written (and the file's length) is on the medium when it returns.
    fn flush(&self) -> io::Result<()>;

    /// Bytes of the file.
    fn size(&self) -> io::Result<u64>;

    /// Bytes of space that the file system has given to the file; its length where nobody knows.
    fn held(&self) -> io::Result<u64> {
        self.size()
    }

    /// fallocate: backs `[offset, offset + bytes)` with space, growing the file if it ends before.
    /// The only call that may say that the disk is full.
    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Whether all of `[offset, offset + bytes)` was written, as far as the file system tells; false
    /// where there is a hole, or space that is only allocated.
    fn is_written(&self, _offset: u64, _bytes: u64) -> io::Result<bool> {
        Ok(true)
    }

    /// Gives the space of `[offset, offset + bytes)` back to the file system; it reads as zeros.
    /// The size stays. `Unsupported` where the file system cannot.
    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Bytes that offsets, lengths and buffers of direct I/O are multiples of: a power of two,
    /// at most `AlignedBuf::ALIGN`. 1 where reads and writes are buffered.
    fn alignment(&self) -> usize;

    /// Whether reads and writes bypass the page cache.
    fn is_direct(&self) -> bool;

    /// The descriptor for direct I/O, for the `io_uring` backend; none when simulated. A disk that
    /// counts, delays or refuses calls gives none either: the ring would pass it by.
    fn direct_fd(&self) -> Option<RawFd> {
        None
    }

    /// Refuses what [`Disk::write`] would refuse before any byte moves: for backends that write
    /// through [`Disk::direct_fd`]. Panics if a handed-out [`MappedExtent`] shows these bytes.
    fn admit_write(&self, _offset: u64, _bytes: usize) -> io::Result<()> {
        Ok(())
    }
}
