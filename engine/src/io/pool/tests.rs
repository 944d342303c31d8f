//! Every backend keeps the pool's promises, on a direct file and on a buffered one; and where rings
//! are refused, by a kernel or by a sandbox, the pool works without.

use super::*;
use crate::io::{FileDisk, OpenError, places};
use io_uring::IoUring;
use std::os::fd::RawFd;
use std::process::{Command, Stdio};
use std::sync::Weak;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use tempfile::TempDir;

const SECTOR: usize = 4096;

fn options(backend: Backend) -> PoolOptions {
    PoolOptions {
        threads: 2,
        backend,
        depth: 4,
    }
}

fn disk_in(place: &TempDir) -> Arc<dyn Disk> {
    Arc::new(FileDisk::create(&place.path().join("store")).unwrap())
}

/// Runs the test with every backend that each place allows.
fn each_pool(test: impl Fn(IoPool)) {
    for place in places::all() {
        for backend in [Backend::Auto, Backend::Threads, Backend::Inline] {
            let place = TempDir::new_in(place.path()).unwrap();
            test(IoPool::new(disk_in(&place), options(backend)).unwrap());
        }
    }
}

/// A sector that says where it stands.
fn sector(number: u64, version: u64) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(SECTOR);
    for (at, word) in buf.chunks_mut(8).enumerate() {
        let value = number << 32 | version << 16 | at as u64;
        word.copy_from_slice(&value.to_le_bytes());
    }
    buf
}

fn fill(pool: &IoPool, sectors: u64) {
    let writes = (0..sectors).map(|number| (number * SECTOR as u64, sector(number, 0)));
    pool.write_many(writes.collect()).unwrap();
}

#[test]
fn a_cached_read_takes_any_place_and_tells_of_the_end() {
    each_pool(|pool| {
        fill(&pool, 4);
        let (tell, told) = mpsc::channel();
        let places = [
            (0, 3 * SECTOR),
            (SECTOR as u64 + 5, 1001),
            (9, 0),
            (3, 4 * SECTOR),
        ];
        for (at, (offset, len)) in places.into_iter().enumerate() {
            let tell = tell.clone();
            pool.submit(Request {
                op: Op::ReadCached { offset, len },
                done: Box::new(move |read| tell.send((at, read)).unwrap()),
            });
        }
        let mut answers: Vec<_> = told.iter().take(places.len()).collect();
        answers.sort_by_key(|(at, _)| *at);
        let all: Vec<u8> = (0..4)
            .flat_map(|number| sector(number, 0).to_vec())
            .collect();
        for ((offset, len), (_, read)) in places.into_iter().zip(answers) {
            let from = usize::try_from(offset).unwrap();
            match all.get(from..from + len) {
                Some(bytes) => assert_eq!(&*read.unwrap(), bytes),
                None => assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof),
            }
        }
    });
}

#[test]
fn the_backend_is_the_one_that_the_disk_allows() {
    let place = places::on_disk();
    let disk = disk_in(&place);
    let pool = IoPool::new(Arc::clone(&disk), options(Backend::Threads)).unwrap();
    assert_eq!(pool.backend(), "threads");
    let pool = IoPool::new(disk, options(Backend::Auto)).unwrap();
    // Rings may be forbidden where this runs, or direct I/O; then the pool says why.
    assert_eq!(pool.backend() == "io_uring", pool.refusal().is_none());
    println!("{} here: {:?}", pool.backend(), pool.refusal());
    let Ok(place) = TempDir::new_in("/dev/shm") else {
        return;
    };
    let disk = disk_in(&place);
    let pool = IoPool::new(Arc::clone(&disk), options(Backend::Auto)).unwrap();
    assert_eq!(pool.backend(), "threads");
    assert!(pool.refusal().is_some());
    assert!(IoPool::new(disk, options(Backend::Uring)).is_err());
}

#[test]
fn what_many_wrote_many_read() {
    each_pool(|pool| {
        fill(&pool, 300);
        let ranges: Vec<_> = (0..300)
            .rev()
            .map(|at| (at * SECTOR as u64, SECTOR))
            .collect();
        for (number, read) in (0..300).rev().zip(pool.read_many(&ranges)) {
            assert!(*read.unwrap() == *sector(number, 0));
        }
        let large = [(0, 300 * SECTOR), (SECTOR as u64, SECTOR)];
        let read = pool.read_many(&large).remove(0).unwrap();
        assert!(read[299 * SECTOR..] == *sector(299, 0));
        assert!(pool.read_many(&[]).is_empty());
        pool.write_many(Vec::new()).unwrap();
    });
}

#[test]
fn misaligned_and_empty_reads_are_served() {
    each_pool(|pool| {
        fill(&pool, 3);
        let results = pool.read_many(&[(1, 5000), (8, 8), (3, 0), (0, 0)]);
        let lengths: Vec<_> = results
            .iter()
            .map(|read| read.as_ref().unwrap().len())
            .collect();
        assert_eq!(lengths, [5000, 8, 0, 0]);
        assert!(*results[1].as_ref().unwrap().as_ref() == sector(0, 0)[8..16]);
    });
}

#[test]
fn errors_go_to_the_request_that_met_them() {
    each_pool(|pool| {
        fill(&pool, 2);
        let end = 2 * SECTOR as u64;
        let mut results = pool.read_many(&[(0, SECTOR), (end, SECTOR), (4096, 2 * SECTOR)]);
        for past_end in results.drain(1..) {
            assert_eq!(past_end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        assert!(*results.remove(0).unwrap() == *sector(0, 0));
    });
}

#[test]
fn a_read_only_disk_refuses_writes_and_flushes_go_through() {
    for place in places::all() {
        let path = place.path().join("store");
        drop(FileDisk::create(&path).unwrap());
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::open_read_only(&path).unwrap());
        for backend in [Backend::Auto, Backend::Threads, Backend::Inline] {
            let pool = IoPool::new(Arc::clone(&disk), options(backend)).unwrap();
            let writes = (0..3).map(|number| (number * SECTOR as u64, sector(number, 0)));
            let error = pool.write_many(writes.collect()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
            let (sender, receiver) = mpsc::channel();
            pool.submit(Request {
                op: Op::Flush,
                done: Box::new(move |result| sender.send(result).unwrap()),
            });
            assert!(receiver.recv().unwrap().unwrap().is_empty());
        }
    }
}

/// Reads one sector after the other, each from the completion of the one before.
fn chain(pool: Weak<IoPool>, number: u64, last: u64, end: mpsc::Sender<thread::ThreadId>) {
    let Some(strong) = pool.upgrade() else { return };
    let done = Box::new(move |read: io::Result<AlignedBuf>| {
        assert!(*read.unwrap() == *sector(number % 8, 0));
        if number == last {
            end.send(thread::current().id()).unwrap();
        } else {
            chain(pool, number + 1, last, end);
        }
    });
    let offset = number % 8 * SECTOR as u64;
    let len = SECTOR;
    strong.submit(Request {
        op: Op::Read { offset, len },
        done,
    });
}

#[test]
fn completions_may_submit_however_long_the_chain() {
    each_pool(|pool| {
        fill(&pool, 8);
        let pool = Arc::new(pool);
        let (end, ended) = mpsc::channel();
        for _ in 0..9 {
            chain(Arc::downgrade(&pool), 0, 20_000 / 9, end.clone());
        }
        let inline = pool.backend() == "inline";
        for _ in 0..9 {
            let thread = ended.recv().unwrap();
            assert_eq!(thread == thread::current().id(), inline);
        }
    });
}

#[test]
fn blocking_calls_from_a_completion_do_not_wait_for_themselves() {
    each_pool(|pool| {
        fill(&pool, 8);
        let pool = Arc::new(pool);
        let (sender, receiver) = mpsc::channel();
        for _ in 0..8 {
            let (weak, sender) = (Arc::downgrade(&pool), sender.clone());
            let done = Box::new(move |_| {
                let pool = weak.upgrade().unwrap();
                let reads = pool.read_many(&[(0, SECTOR), (4096, SECTOR)]);
                sender
                    .send(reads.into_iter().all(|read| read.is_ok()))
                    .unwrap();
            });
            pool.submit(Request {
                op: Op::Flush,
                done,
            });
        }
        assert!((0..8).all(|_| receiver.recv().unwrap()));
    });
}

#[test]
fn dropping_the_pool_completes_what_was_submitted() {
    each_pool(|pool| {
        fill(&pool, 8);
        let completed = Arc::new(AtomicUsize::new(0));
        for number in 0..1000 {
            let completed = Arc::clone(&completed);
            let (offset, len) = (number % 8 * SECTOR as u64, SECTOR);
            pool.submit(Request {
                op: Op::Read { offset, len },
                done: Box::new(move |read| {
                    read.unwrap();
                    completed.fetch_add(1, Ordering::SeqCst);
                }),
            });
        }
        drop(pool);
        assert_eq!(completed.load(Ordering::SeqCst), 1000);
    });
}

#[test]
fn a_completion_may_drop_the_last_handle() {
    each_pool(|pool| {
        let pool = Arc::new(pool);
        let (sender, receiver) = mpsc::channel();
        let mine = Arc::clone(&pool);
        let (go, gone) = mpsc::channel();
        let inline = pool.backend() == "inline";
        pool.submit(Request {
            op: Op::Flush,
            done: Box::new(move |_| {
                if !inline {
                    gone.recv().unwrap();
                }
                drop(mine);
                sender.send(()).unwrap();
            }),
        });
        drop(pool);
        let _ = go.send(());
        receiver.recv().unwrap();
    });
}

#[test]
fn a_completion_that_panics_harms_nobody_but_is_not_forgotten() {
    for place in places::all() {
        for backend in [Backend::Auto, Backend::Threads] {
            let place = TempDir::new_in(place.path()).unwrap();
            let pool = IoPool::new(disk_in(&place), options(backend)).unwrap();
            fill(&pool, 8);
            for _ in 0..20 {
                pool.submit(Request {
                    op: Op::Flush,
                    done: Box::new(|_| panic!("on purpose")),
                });
            }
            fill(&pool, 8);
            let dropped = catch_unwind(AssertUnwindSafe(|| drop(pool)));
            let panic = dropped.unwrap_err();
            assert_eq!(*panic.downcast::<&str>().unwrap(), "on purpose");
        }
    }
}

const SECTORS: u64 = 64;

/// Every fourth sector belongs to one submitter.
fn owned_by(mine: u64) -> impl Iterator<Item = u64> {
    (mine..SECTORS).step_by(4)
}

#[test]
fn many_submitters_at_once_each_get_their_own() {
    each_pool(|pool| {
        fill(&pool, SECTORS);
        thread::scope(|scope| {
            for mine in 0..4u64 {
                let pool = &pool;
                scope.spawn(move || {
                    let mut version = 0;
                    for round in 0..150u64 {
                        let numbers: Vec<_> = owned_by(mine).collect();
                        if round % 3 == 0 {
                            let writes = owned_by(mine)
                                .map(|number| (number * SECTOR as u64, sector(number, round)));
                            pool.write_many(writes.collect()).unwrap();
                            version = round;
                        }
                        let ranges: Vec<_> = numbers
                            .iter()
                            .map(|number| (number * SECTOR as u64, SECTOR))
                            .collect();
                        for (number, read) in numbers.iter().zip(pool.read_many(&ranges)) {
                            assert!(*read.unwrap() == *sector(*number, version));
                        }
                    }
                });
            }
        });
    });
}

fn refuse(_: RawFd, _: usize) -> io::Result<IoUring> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

#[test]
fn where_rings_are_refused_threads_serve() {
    let place = places::on_disk();
    let disk = disk_in(&place);
    let pool = IoPool::with_rings(Arc::clone(&disk), options(Backend::Auto), refuse).unwrap();
    assert_eq!(pool.backend(), "threads");
    if disk.is_direct() {
        assert_eq!(pool.refusal().unwrap().raw_os_error(), Some(libc::ENOSYS));
    }
    fill(&pool, 8);
    assert!(IoPool::with_rings(disk, options(Backend::Uring), refuse).is_err());
}

/// A ring that was never enabled: every attempt to enter it fails.
fn broken(fd: RawFd, _: usize) -> io::Result<IoUring> {
    let ring = IoUring::builder().setup_r_disabled().build(8)?;
    ring.submitter().register_files(&[fd])?;
    Ok(ring)
}

#[test]
fn a_ring_that_fails_later_leaves_a_pool_that_works() {
    let place = places::on_disk();
    let disk = disk_in(&place);
    let Ok(pool) = IoPool::with_rings(disk, options(Backend::Uring), broken) else {
        return;
    };
    // What was in a ring when it failed fails with it; nothing hangs.
    for _ in 0..10 {
        let _ = pool.write_many((0..8).map(|at| (at * 4096, sector(at, 0))).collect());
    }
    fill(&pool, 8);
    for (number, read) in (0..).zip(pool.read_many(&[(0, SECTOR), (4096, SECTOR)])) {
        assert!(*read.unwrap() == *sector(number, 0));
    }
}

/// Makes `io_uring_setup` fail for this thread and its children, as container sandboxes do.
fn forbid_rings(error: i32) {
    let error = u32::try_from(error).unwrap();
    let setup = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt,
        jf,
        k,
    };
    let mut steps = [
        // Load the number of the call; if it is the one, fail, else allow.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, setup),
        step(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | error,
        ),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the call takes numbers only.
    let status = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(status, 0);
    let program = &raw const program;
    // SAFETY: the program and its steps live until the call returns; the kernel copies them.
    let status = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, program) };
    assert_eq!(status, 0, "{}", io::Error::last_os_error());
}

#[test]
fn under_a_seccomp_filter_threads_serve() {
    for error in [libc::ENOSYS, libc::EPERM] {
        let sandboxed = thread::spawn(move || {
            forbid_rings(error);
            let place = places::on_disk();
            let pool = IoPool::new(disk_in(&place), options(Backend::Auto)).unwrap();
            assert_eq!(pool.backend(), "threads");
            assert_eq!(pool.refusal().unwrap().raw_os_error(), Some(error));
            fill(&pool, 64);
            let read = pool
                .read_many(&[(0, SECTOR), (63 * 4096, SECTOR)])
                .remove(1);
            assert!(*read.unwrap() == *sector(63, 0));
        });
        sandboxed.join().unwrap();
    }
}

/// Where the process to be killed finds its store; set for that process alone.
const VICTIM: &str = "DYNOMITE_TEST_VICTIM";

/// No test, but the process that the next one kills: it writes until then.
#[test]
#[ignore = "run by the test that kills it"]
fn victim() {
    let Some(path) = std::env::var_os(VICTIM) else {
        return;
    };
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::create(path.as_ref()).unwrap());
    let pool = IoPool::new(disk, options(Backend::Auto)).unwrap();
    loop {
        fill(&pool, 1000);
    }
}

#[test]
fn who_is_killed_in_the_middle_of_writing_leaves_no_lock() {
    for place in places::all() {
        for _ in 0..2 {
            let place = TempDir::new_in(place.path()).unwrap();
            let path = place.path().join("store");
            let mut victim = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "io::pool::tests::victim", "--ignored"])
                .env(VICTIM, &path)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let begun = || std::fs::metadata(&path).is_ok_and(|file| file.len() > 0);
            while !begun() {
                assert!(victim.try_wait().unwrap().is_none(), "it ended by itself");
                thread::yield_now();
            }
            assert!(matches!(FileDisk::open(&path), Err(OpenError::Locked)));
            victim.kill().unwrap();
            victim.wait().unwrap();
            let disk = FileDisk::open(&path).unwrap();
            let mut first = AlignedBuf::zeroed(SECTOR);
            disk.read(0, &mut first).unwrap();
            assert!(*first == *sector(0, 0) || first.iter().all(|&byte| byte == 0));
        }
    }
}
