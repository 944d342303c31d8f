//! A disk that is a file: two descriptors on it, one past the page cache and one through it.
//!
//! Invariants:
//! - The lock is held by the cached descriptor, which no ring registers: it goes with the disk and
//!   the last extent mapped from it, never later.
//! - All writes go through one descriptor, direct where the file system allows; then the page cache
//!   holds clean pages only, and never bytes that the medium refused.
//! - No call leaves a transfer half done with `Ok`.

use super::aligned::AlignedBuf;
use super::disk::Disk;
use super::map::{MappedExtent, Segments};
use super::sys::{self, Direct};
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// How often, and how long between, a lock is asked for: a process that was just killed holds its
/// lock until its rings are torn down, some milliseconds later.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The most bytes of a misaligned direct transfer that are copied at a time.
const BOUNCE_BYTES: usize = 1 << 20;

/// The store's file.
pub struct FileDisk {
    /// Holds the lock; values are read through it, and everything if there is no other.
    cached: File,
    /// Opened with `O_DIRECT`, if that means anything here.
    direct: Option<File>,
    alignment: usize,
    writable: bool,
    segments: Segments,
    /// The file was at least so long.
    seen_bytes: AtomicU64,
}

/// Why a store's file was not opened.
#[derive(Debug)]
pub enum OpenError {
    /// Another process, or another handle of this one, has it open.
    Locked,
    /// The path names a directory, a device, a pipe.
    NotAFile,
    /// The system refused.
    Io(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked => f.write_str("the store is open elsewhere: its file is locked"),
            Self::NotAFile => f.write_str("not a regular file"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Locked | Self::NotAFile => None,
            Self::Io(error) => Some(error),
        }
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl FileDisk {
    /// Makes a file that was not there, readable and writable by its owner alone (it will hold the
    /// fingerprint key), and locks it.
    pub fn create(path: &Path) -> Result<Self, OpenError> {
        let cached = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        lock(&cached, true)?;
        if cached.metadata()?.nlink() == 0 {
            // Somebody took it for a left-over before it was locked.
            return Err(OpenError::Locked);
        }
        if on_btrfs(&cached) {
            // Must come before the first byte. Whether it worked is seen below.
            sys::forbid_copy_on_write(&cached);
        }
        let disk = Self::on(path, cached, true)?;
        disk.settle(path)?;
        Ok(disk)
    }

    /// Opens for reading and writing, and locks against everybody else. What a killed process
    /// wrote is on the medium when this returns, so that no later crash undoes what was read.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_as(path, true)
    }

    /// Opens for reading. Other readers may too; a writer may not.
    pub fn open_read_only(path: &Path) -> Result<Self, OpenError> {
        Self::open_as(path, false)
    }

    fn open_as(path: &Path, writable: bool) -> Result<Self, OpenError> {
        // Asked before opening, because opening a pipe waits for its other end.
        if !fs::metadata(path)?.is_file() {
            return Err(OpenError::NotAFile);
        }
        let cached = OpenOptions::new().read(true).write(writable).open(path)?;
        lock(&cached, writable)?;
        if cached.metadata()?.nlink() == 0 {
            // As above: what is written to it would be nobody's.
            return Err(OpenError::Locked);
        }
        let disk = Self::on(path, cached, writable)?;
        if writable {
            disk.settle(path)?;
        }
        Ok(disk)
    }

    /// The disk on a locked descriptor.
    fn on(path: &Path, cached: File, writable: bool) -> Result<Self, OpenError> {
        // The default readahead of a disk may be megabytes: a value would drag its neighbours in.
        sys::advise(&cached, 0, 0, libc::POSIX_FADV_RANDOM);
        let direct = open_direct(path, &cached, writable)?;
        let alignment = direct.as_ref().map_or(1, |(_, alignment)| *alignment);
        Ok(Self {
            segments: Segments::default(),
            seen_bytes: AtomicU64::new(0),
            cached,
            direct: direct.map(|(file, _)| file),
            alignment,
            writable,
        })
    }

    /// Brings the file and its name down to the medium.
    fn settle(&self, path: &Path) -> io::Result<()> {
        self.cached.sync_all()?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        File::open(folder)?.sync_all()
    }

    fn require_writable(&self) -> io::Result<()> {
        if self.writable {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::ReadOnlyFilesystem,
            "the store was opened for reading only",
        ))
    }

    /// Reads what direct I/O does not take as it is, through a buffer of its own.
    fn read_bounced(&self, file: &File, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        let align = self.alignment as u64;
        while !buf.is_empty() {
            let start = offset - offset % align;
            let skip = usize::try_from(offset - start).map_err(io::Error::other)?;
            let want = buf.len().min(BOUNCE_BYTES);
            let mut bounce = AlignedBuf::zeroed((skip + want).next_multiple_of(self.alignment));
            let got = read_some(file, start, &mut bounce, self.alignment)?;
            if got < skip + want {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (head, rest) = buf.split_at_mut(want);
            head.copy_from_slice(&bounce[skip..skip + want]);
            buf = rest;
            offset += want as u64;
        }
        Ok(())
    }
}

impl Disk for FileDisk {
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let Some(direct) = &self.direct else {
            return self.read_cached(offset, buf);
        };
        if !is_multiple(offset, buf.len(), self.alignment)
            || !AlignedBuf::is_aligned(buf, self.alignment)
        {
            return self.read_bounced(direct, offset, buf);
        }
        if read_some(direct, offset, buf, self.alignment)? < buf.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn write(&self, mut offset: u64, buf: &[u8]) -> io::Result<()> {
        self.admit_write(offset, buf.len())?;
        let Some(direct) = &self.direct else {
            return write_all(&self.cached, offset, buf, 1);
        };
        if AlignedBuf::is_aligned(buf, self.alignment) {
            return write_all(direct, offset, buf, self.alignment);
        }
        for chunk in buf.chunks(BOUNCE_BYTES) {
            write_all(direct, offset, &AlignedBuf::copy_of(chunk), self.alignment)?;
            offset += chunk.len() as u64;
        }
        Ok(())
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        // Loops over EINTR and short reads.
        self.cached.read_exact_at(buf, offset)
    }

    fn read_resident(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let mut done = 0;
        while done < buf.len() {
            match sys::read_resident(&self.cached, offset + done as u64, &mut buf[done..]) {
                Ok(0) => return Ok(false),
                Ok(got) => done += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                // Some file systems do not know the question.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn map(&self, offset: u64, len: usize) -> io::Result<MappedExtent> {
        let end = offset.saturating_add(len as u64);
        // A file of ours only grows.
        if end > self.seen_bytes.load(Ordering::Relaxed) {
            let size = self.size()?;
            if end > size {
                // A page behind the end cannot be touched at all.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.seen_bytes.store(size, Ordering::Relaxed);
        }
        if let Some(extent) = self.segments.map(&self.cached, offset, len) {
            return Ok(extent);
        }
        // No map, or a page that cannot be read: reading tells which.
        let mut bytes = vec![0; len];
        self.read_cached(offset, &mut bytes)?;
        Ok(MappedExtent::copied(bytes))
    }

    fn flush(&self) -> io::Result<()> {
        let file = self.direct.as_ref().unwrap_or(&self.cached);
        loop {
            match file.sync_data() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.cached.metadata()?.len())
    }

    fn held(&self) -> io::Result<u64> {
        // Counted in 512 bytes, whatever the file system's blocks are.
        Ok(self.cached.metadata()?.blocks() * 512)
    }

    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.require_writable()?;
        if bytes == 0 {
            return Ok(());
        }
        match sys::fallocate(&self.cached, 0, offset, bytes) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                // Without fallocate space cannot be promised; a write may then say ENOSPC, which
                // poisons as any failed write does. The size at least is there.
                let end = offset.saturating_add(bytes);
                if self.size()? < end {
                    self.cached.set_len(end)?;
                }
                Ok(())
            }
            done => done,
        }
    }

    fn is_written(&self, offset: u64, bytes: u64) -> io::Result<bool> {
        match sys::next_hole(&self.cached, offset) {
            Ok(hole) => Ok(hole >= offset.saturating_add(bytes)),
            // Past the end of the file.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(false),
            // File systems that do not know the question have no holes.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.require_writable()?;
        if bytes == 0 {
            return Ok(());
        }
        self.segments.assert_unshown(offset, bytes);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        sys::fallocate(&self.cached, mode, offset, bytes)
    }

    fn alignment(&self) -> usize {
        self.alignment
    }

    fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    fn direct_fd(&self) -> Option<RawFd> {
        self.direct.as_ref().map(AsRawFd::as_raw_fd)
    }

    fn admit_write(&self, offset: u64, bytes: usize) -> io::Result<()> {
        self.require_writable()?;
        assert!(
            is_multiple(offset, bytes, self.alignment),
            "a write of {bytes} bytes at {offset} is not made of sectors of {}",
            self.alignment
        );
        self.segments.assert_unshown(offset, bytes as u64);
        Ok(())
    }
}

fn is_multiple(offset: u64, bytes: usize, alignment: usize) -> bool {
    offset.is_multiple_of(alignment as u64) && bytes.is_multiple_of(alignment)
}

/// Takes the lock, asking again for a moment.
fn lock(file: &File, exclusive: bool) -> Result<(), OpenError> {
    for attempt in 1.. {
        let taken = if exclusive {
            file.try_lock()
        } else {
            file.try_lock_shared()
        };
        match taken {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if attempt >= LOCK_TRIES => {
                return Err(OpenError::Locked);
            }
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The second descriptor and its alignment, if direct I/O is what the file system does with it.
fn open_direct(
    path: &Path,
    cached: &File,
    writable: bool,
) -> Result<Option<(File, usize)>, OpenError> {
    let opened = OpenOptions::new()
        .read(true)
        .write(writable)
        .custom_flags(libc::O_DIRECT)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (one, other) = (cached.metadata()?, file.metadata()?);
    if (one.dev(), one.ino()) != (other.dev(), other.ino()) {
        return Err(io::Error::other("the file was replaced while it was opened").into());
    }
    // Copy-on-write file systems checksum what they read back while a buffer may still change,
    // and move every rewritten block of the ring.
    if on_btrfs(cached) && !sys::forbids_copy_on_write(cached) {
        return Ok(None);
    }
    let alignment = match sys::direct(&file) {
        Direct::Refused => return Ok(None),
        Direct::Aligned(alignment) => alignment,
        Direct::Unknown if is_memory(cached) => return Ok(None),
        Direct::Unknown if refuses_direct(&file) => return Ok(None),
        Direct::Unknown => AlignedBuf::ALIGN,
    };
    let usable = alignment.is_power_of_two() && alignment <= AlignedBuf::ALIGN;
    Ok(usable.then_some((file, alignment)))
}

/// Tries a read of the largest alignment; what a bad sector answers is no refusal.
fn refuses_direct(file: &File) -> bool {
    let mut buf = AlignedBuf::zeroed(AlignedBuf::ALIGN);
    matches!(file.read_at(&mut buf, 0), Err(error) if error.kind() == io::ErrorKind::InvalidInput)
}

fn on_btrfs(file: &File) -> bool {
    sys::file_system(file).is_ok_and(|magic| magic == u64::from(BTRFS))
}

fn is_memory(file: &File) -> bool {
    sys::file_system(file).is_ok_and(|magic| magic == u64::from(TMPFS) || magic == u64::from(RAMFS))
}

/// Magic numbers of `linux/magic.h`; libc's have a type that differs between C libraries.
const BTRFS: u32 = 0x9123_683E;
const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58F6;

/// Reads until `buf` is full or the file ends. Direct reads go on at whole sectors only, so a
/// short one that ends inside a sector is asked for again from that sector's start.
fn read_some(
    file: &impl FileExt,
    offset: u64,
    buf: &mut [u8],
    alignment: usize,
) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(got) if got < alignment => return Ok(done + got),
            Ok(got) => done += got - got % alignment,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `buf`, going on at whole sectors after a short write.
fn write_all(file: &impl FileExt, offset: u64, buf: &[u8], alignment: usize) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match file.write_at(&buf[done..], offset + done as u64) {
            Ok(got) if got < alignment => return Err(io::ErrorKind::WriteZero.into()),
            Ok(got) => done += got - got % alignment,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
