//! The system calls that std does not wrap, each behind a safe function.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};

/// `FS_NOCOW_FL` of `linux/fs.h`, which libc does not carry.
const FS_NOCOW_FL: libc::c_long = 0x0080_0000;

/// What the file system says about direct I/O on a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direct {
    /// It says nothing: an old kernel, or a file system that does not report. Try.
    Unknown,
    /// It buffers, whatever the open flags say (tmpfs takes `O_DIRECT` and ignores it).
    Refused,
    /// Offsets, lengths and addresses must be multiples of this.
    Aligned(usize),
}

/// Asks statx for the alignment of direct I/O.
pub(super) fn direct(file: &File) -> Direct {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the descriptor is open, the path is a terminated empty string as AT_EMPTY_PATH asks,
    // and `answer` is as large as the kernel's structure.
    let status = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            answer.as_mut_ptr(),
        )
    };
    if status != 0 {
        return Direct::Unknown;
    }
    // SAFETY: all fields are numbers, for which the zeros that stood there before are valid too.
    let answer = unsafe { answer.assume_init() };
    if answer.stx_mask & libc::STATX_DIOALIGN == 0 {
        return Direct::Unknown;
    }
    match answer.stx_dio_offset_align.max(answer.stx_dio_mem_align) {
        0 => Direct::Refused,
        align => Direct::Aligned(align as usize),
    }
}

/// The magic number of the file system that the file is on.
pub(super) fn file_system(file: &File) -> io::Result<u64> {
    let mut answer = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is open and `answer` is as large as the kernel's structure.
    let status = unsafe { libc::fstatfs(file.as_raw_fd(), answer.as_mut_ptr()) };
    check(status)?;
    // SAFETY: all fields are numbers, for which the zeros that stood there before are valid too.
    let answer = unsafe { answer.assume_init() };
    // The field's type differs between C libraries; the magic numbers have 32 bits.
    #[allow(
        clippy::unnecessary_cast,
        reason = "the type differs between C libraries"
    )]
    #[allow(clippy::cast_sign_loss, reason = "a pattern of bits, not a number")]
    let magic = answer.f_type as u64 & 0xFFFF_FFFF;
    Ok(magic)
}

/// Asks for no copy-on-write on an empty file, and says whether it has it now.
pub(super) fn forbid_copy_on_write(file: &File) -> bool {
    let Some(flags) = inode_flags(file) else {
        return false;
    };
    let wanted = flags | FS_NOCOW_FL;
    // SAFETY: FS_IOC_SETFLAGS reads one c_long, to which the pointer leads.
    unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const wanted) };
    forbids_copy_on_write(file)
}

/// Whether the file is rewritten in place.
pub(super) fn forbids_copy_on_write(file: &File) -> bool {
    inode_flags(file).is_some_and(|flags| flags & FS_NOCOW_FL != 0)
}

fn inode_flags(file: &File) -> Option<libc::c_long> {
    let mut flags: libc::c_long = 0;
    // SAFETY: FS_IOC_GETFLAGS writes at most one c_long, to which the pointer leads.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) };
    (status == 0).then_some(flags)
}

/// fallocate with these mode flags.
pub(super) fn fallocate(file: &File, mode: i32, offset: u64, bytes: u64) -> io::Result<()> {
    let offset = signed(offset)?;
    let bytes = signed(bytes)?;
    loop {
        // SAFETY: the call takes numbers only, and the descriptor is open.
        let status = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, bytes) };
        match check(status) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Where the next hole begins at or behind `offset`; the file's end counts as one. Moves the
/// descriptor's own place, which nothing else here uses.
pub(super) fn next_hole(file: &File, offset: u64) -> io::Result<u64> {
    let offset = signed(offset)?;
    // SAFETY: the call takes numbers only, and the descriptor is open.
    let hole = unsafe { libc::lseek(file.as_raw_fd(), offset, libc::SEEK_HOLE) };
    u64::try_from(hole).map_err(|_| io::Error::last_os_error())
}

/// `posix_fadvise`. Advice may be refused: nothing but speed depends on it.
pub(super) fn advise(file: &File, offset: u64, bytes: u64, advice: i32) {
    if let (Ok(offset), Ok(bytes)) = (signed(offset), signed(bytes)) {
        // SAFETY: the call takes numbers only, and the descriptor is open.
        let _ = unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, bytes, advice) };
    }
}

/// Reads what of the range stands in the page cache, from its start on; `WouldBlock` if nothing.
pub(super) fn read_resident(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let offset = signed(offset)?;
    let into = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    // SAFETY: the descriptor is open, there is one vector, and it names `buf`, which is ours alone
    // to write for as long as the call takes.
    let got = unsafe {
        libc::preadv2(
            file.as_raw_fd(),
            &raw const into,
            1,
            offset,
            libc::RWF_NOWAIT,
        )
    };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Pages that are asked about at once.
const ASKED_PAGES: usize = 1024;

/// Whether all of a mapped range stands in the page cache. `page_bytes` is the size of a page, and
/// `start` lies on one. Who neither owns the file nor may write to it is told yes, whatever is true.
pub(super) fn is_resident(start: *const u8, bytes: usize, page_bytes: usize) -> bool {
    let mut pages = [0; ASKED_PAGES];
    (0..bytes).step_by(ASKED_PAGES * page_bytes).all(|at| {
        let asked = (bytes - at).min(ASKED_PAGES * page_bytes);
        let from = start.wrapping_add(at).cast_mut().cast();
        // SAFETY: the call writes a byte per page asked about, for which `pages` has room; it reads
        // no memory of ours, and a range that is not mapped is an error.
        let status = unsafe { libc::mincore(from, asked, pages.as_mut_ptr()) };
        status == 0
            && pages[..asked.div_ceil(page_bytes)]
                .iter()
                .all(|page| page & 1 == 1)
    })
}

/// Bytes of a page.
pub(super) fn page_bytes() -> usize {
    // SAFETY: the call takes a number only.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// An eventfd: written to by whoever wakes, read by whoever sleeps.
pub(super) fn event() -> io::Result<File> {
    // SAFETY: the call takes numbers only.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    check(fd)?;
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn check(status: i32) -> io::Result<()> {
    if status < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn signed(number: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(number).map_err(|_| io::ErrorKind::InvalidInput.into())
}
