//! The disk does what its trait says, on real files: beside the build (a journaling file system,
//! direct I/O) and in `/dev/shm` (no direct I/O). Each test runs in both places.

use super::*;
use crate::io::places;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;

fn each_place(test: impl Fn(PathBuf)) {
    for place in places::all() {
        test(place.path().join("store"));
    }
}

fn pattern(len: usize, seed: u8) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(len);
    for (at, byte) in buf.iter_mut().enumerate() {
        *byte = u8::try_from(at % 251).unwrap() ^ seed;
    }
    buf
}

#[test]
fn what_was_written_is_read_back_also_past_the_end() {
    each_place(|path| {
        let disk = FileDisk::create(&path).unwrap();
        for (offset, len, seed) in [(0, 4096, 1), (1 << 20, 140 << 10, 2), (8192, 512 << 3, 3)] {
            let written = pattern(len, seed);
            disk.write(offset, &written).unwrap();
            let mut read = AlignedBuf::zeroed(len);
            disk.read(offset, &mut read).unwrap();
            assert!(*read == *written);
            let mut cached = vec![0; len];
            disk.read_cached(offset, &mut cached).unwrap();
            assert!(*cached == *written);
        }
        disk.flush().unwrap();
        assert_eq!(disk.size().unwrap(), (1 << 20) + (140 << 10));
        let mut hole = AlignedBuf::zeroed(4096);
        disk.read(4096, &mut hole).unwrap();
        assert!(hole.iter().all(|&byte| byte == 0));
    });
}

#[test]
fn a_rewrite_is_seen_through_the_page_cache() {
    each_place(|path| {
        let disk = FileDisk::create(&path).unwrap();
        for seed in 0..20 {
            let written = pattern(16384, seed);
            disk.write(4096, &written).unwrap();
            let mut cached = vec![0; 100];
            disk.read_cached(4096 + 5000, &mut cached).unwrap();
            assert!(*cached == written[5000..5100]);
        }
    });
}

#[test]
fn misaligned_reads_and_buffers_are_served() {
    each_place(|path| {
        let disk = FileDisk::create(&path).unwrap();
        let written = pattern(3 << 20, 9);
        // A slice that no device would take where it stands.
        let mut shifted = vec![0; written.len() + 1];
        shifted[1..].copy_from_slice(&written);
        disk.write(0, &shifted[1..]).unwrap();
        for (offset, len) in [
            (0, 1),
            (1, 4096),
            (511, 2 << 20),
            (3 << 20, 0),
            ((3 << 20) - 1, 1),
        ] {
            let mut read = vec![0; len];
            disk.read(offset as u64, &mut read).unwrap();
            assert!(*read == written[offset..offset + len]);
        }
    });
}

#[test]
fn the_end_of_a_file_inside_a_sector_is_an_end() {
    each_place(|path| {
        fs::write(&path, [7; 4096 + 100]).unwrap();
        let disk = FileDisk::open_read_only(&path).unwrap();
        let mut tail = [0; 100];
        disk.read(4096, &mut tail).unwrap();
        assert_eq!(tail, [7; 100]);
        for (offset, len) in [
            (4096, 101),
            (4096, 4096),
            (8192, 4096),
            (0, 8192),
            (1 << 40, 1),
        ] {
            let mut buf = AlignedBuf::zeroed(len);
            let error = disk.read(offset, &mut buf).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            let error = disk.read_cached(offset, &mut buf).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            let error = disk.map(offset, len).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    });
}

#[test]
fn allocated_space_reads_as_zeros_and_punched_space_does_again() {
    each_place(|path| {
        let disk = FileDisk::create(&path).unwrap();
        disk.allocate(0, 1 << 20).unwrap();
        assert_eq!(disk.size().unwrap(), 1 << 20);
        let backed = || fs::metadata(&path).unwrap().blocks() * 512;
        assert!(backed() >= 1 << 20);
        disk.write(0, &pattern(1 << 20, 5)).unwrap();
        disk.allocate(0, 1 << 20).unwrap();
        disk.punch(256 << 10, 512 << 10).unwrap();
        assert_eq!(disk.size().unwrap(), 1 << 20);
        assert!(backed() <= 600 << 10);
        let mut buf = AlignedBuf::zeroed(512 << 10);
        disk.read(256 << 10, &mut buf).unwrap();
        assert!(buf.iter().all(|&byte| byte == 0));
        disk.read(768 << 10, &mut buf[..4096]).unwrap();
        assert!(buf[..4096] == pattern(1 << 20, 5)[768 << 10..(768 << 10) + 4096]);
    });
}

#[test]
fn a_file_is_its_owners_alone_and_made_once() {
    each_place(|path| {
        let disk = FileDisk::create(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(disk);
        match FileDisk::create(&path) {
            Err(OpenError::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::AlreadyExists),
            other => panic!("created twice: {:?}", other.err()),
        }
    });
}

#[test]
fn one_writer_or_many_readers() {
    each_place(|path| {
        let writer = FileDisk::create(&path).unwrap();
        assert!(matches!(FileDisk::open(&path), Err(OpenError::Locked)));
        let reader = FileDisk::open_read_only(&path);
        assert!(matches!(reader, Err(OpenError::Locked)));
        drop(writer);
        let reader = FileDisk::open_read_only(&path).unwrap();
        let another = FileDisk::open_read_only(&path).unwrap();
        assert!(matches!(FileDisk::open(&path), Err(OpenError::Locked)));
        for error in [
            reader.write(0, &pattern(4096, 0)),
            another.allocate(0, 4096),
            another.punch(0, 4096),
        ] {
            assert_eq!(error.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
        drop((reader, another));
        FileDisk::open(&path).unwrap();
    });
}

#[test]
fn a_lock_that_is_let_go_in_time_is_waited_for() {
    each_place(|path| {
        let writer = FileDisk::create(&path).unwrap();
        let dying = thread::spawn(move || {
            thread::sleep(LOCK_PAUSE * 5);
            drop(writer);
        });
        FileDisk::open(&path).unwrap();
        dying.join().unwrap();
    });
}

#[test]
fn what_is_no_regular_file_is_refused() {
    each_place(|path| {
        let folder = path.parent().unwrap();
        assert!(matches!(FileDisk::open(folder), Err(OpenError::NotAFile)));
        let null = FileDisk::open(Path::new("/dev/null"));
        assert!(matches!(null, Err(OpenError::NotAFile)));
        match FileDisk::open(&path) {
            Err(OpenError::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
            other => panic!("opened: {:?}", other.err()),
        }
    });
}

#[test]
fn memory_file_systems_count_as_buffered() {
    let Ok(place) = TempDir::new_in("/dev/shm") else {
        return;
    };
    let disk = FileDisk::create(&place.path().join("store")).unwrap();
    assert!(!disk.is_direct());
    assert_eq!(disk.direct_fd(), None);
    assert_eq!(disk.alignment(), 1);
}

#[test]
#[should_panic(expected = "not made of sectors")]
fn a_direct_write_of_part_of_a_sector_is_our_bug() {
    let place = places::on_disk();
    let disk = FileDisk::create(&place.path().join("store")).unwrap();
    assert!(disk.is_direct(), "not made of sectors: buffered here");
    let _ = disk.write(1, &pattern(4096, 0));
}

#[test]
fn a_full_disk_says_so_when_space_is_asked_for() {
    // In memory only: elsewhere the attempt would take all space from others for a moment.
    let Ok(place) = TempDir::new_in("/dev/shm") else {
        return;
    };
    let disk = FileDisk::create(&place.path().join("store")).unwrap();
    let error = disk.allocate(0, 1 << 50).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.size().unwrap(), 0);
}

#[test]
fn what_a_file_system_cannot_do_is_told_from_what_went_wrong() {
    // `allocate` falls back, and callers of `punch` stop asking, by this kind.
    let error = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
}

/// A file whose calls move less than was asked for, or are interrupted, as a script says.
struct Grudging {
    bytes: std::cell::RefCell<Vec<u8>>,
    /// Bytes of each call, or its error; then all is moved.
    script: std::cell::RefCell<std::collections::VecDeque<Result<usize, i32>>>,
}

impl Grudging {
    fn new(bytes: &[u8], script: &[Result<usize, i32>]) -> Self {
        Self {
            bytes: bytes.to_vec().into(),
            script: std::collections::VecDeque::from(script.to_vec()).into(),
        }
    }

    /// Bytes that the next call moves.
    fn next(&self, wanted: usize) -> io::Result<usize> {
        match self.script.borrow_mut().pop_front() {
            None => Ok(wanted),
            Some(Ok(most)) => Ok(most.min(wanted)),
            Some(Err(error)) => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

impl FileExt for Grudging {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes.borrow();
        let rest = &bytes[usize::try_from(offset).unwrap()..];
        let moved = self.next(buf.len().min(rest.len()))?;
        buf[..moved].copy_from_slice(&rest[..moved]);
        Ok(moved)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let moved = self.next(buf.len())?;
        let start = usize::try_from(offset).unwrap();
        self.bytes.borrow_mut()[start..start + moved].copy_from_slice(&buf[..moved]);
        Ok(moved)
    }
}

/// At each call of a transfer: a short one (whole sectors, or not), an interrupted one, one that
/// fails. All is moved, or the error is told.
#[test]
fn a_short_or_interrupted_call_is_gone_on_with_and_a_failed_one_told() {
    let bytes = pattern(8 * 512, 9);
    let outcomes = [Ok(512), Ok(700), Ok(1536), Err(libc::EINTR), Err(libc::EIO)];
    for nth in 0..4 {
        for outcome in outcomes {
            let mut script = vec![Ok(512); nth];
            script.extend([outcome; 3]);
            let file = Grudging::new(&bytes, &script);
            let mut back = vec![0; bytes.len()];
            let read = read_some(&file, 0, &mut back, 512);
            let to = Grudging::new(&vec![0; bytes.len()], &script);
            let written = write_all(&to, 0, &bytes, 512);
            if outcome == Err(libc::EIO) {
                assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO));
                assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EIO));
            } else {
                assert_eq!(read.unwrap(), bytes.len(), "{outcome:?} at {nth}");
                assert!(back[..] == bytes[..], "{outcome:?} at {nth}");
                written.unwrap();
                assert!(to.bytes.borrow()[..] == bytes[..], "{outcome:?} at {nth}");
            }
        }
    }
}

/// Less than a sector moves nothing on: a read is at the file's end, and a write would never end.
#[test]
fn a_call_that_moves_less_than_a_sector_ends_the_transfer() {
    let bytes = pattern(2048, 9);
    let script = [Ok(512), Ok(100)];
    let mut back = vec![0; bytes.len()];
    let read = read_some(&Grudging::new(&bytes, &script), 0, &mut back, 512);
    assert_eq!(read.unwrap(), 612);
    let file = Grudging::new(&bytes, &script);
    let written = write_all(&file, 0, &bytes, 512).unwrap_err();
    assert_eq!(written.kind(), io::ErrorKind::WriteZero);
}
