//! What the I/O pool costs: 4 KiB blocks and values of 140 KiB, each way beside the plain calls.
//!
//! `cargo bench -p dynomite-engine --bench io`. The file is made in `$DYNOMITE_BENCH_DIR`, or beside
//! the program; other places measure other disks. Wall time is per operation of the whole run,
//! processor time that of all threads; compare figures of one run with each other only.

use engine::io::{AlignedBuf, Backend, Disk, FileDisk, IoPool, Op, PoolOptions, Request};
use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Instant;

const BLOCK: usize = 4096;
const VALUE: usize = 140 << 10;
const DEPTH: u64 = 16;
const DEPTH_SIZE: usize = 16;

struct Bench {
    disk: Arc<FileDisk>,
    places: Places,
}

/// Where operations go.
#[derive(Clone, Copy)]
struct Places {
    /// Bytes of the file, all written.
    bytes: u64,
    /// Operations of a case.
    count: u64,
}

impl Places {
    /// Where the n-th operation goes: scattered over the file.
    fn offset(self, number: u64, len: u64) -> u64 {
        let scattered = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        scattered % (self.bytes / len) * len
    }
}

fn main() {
    // `cargo test` runs this too, without the flag: then it only shows that it runs.
    let measured = std::env::args().any(|arg| arg == "--bench");
    let (bytes, count) = if measured {
        (1 << 30, 40_000)
    } else {
        (8 << 20, 64)
    };
    let folder = match std::env::var_os("DYNOMITE_BENCH_DIR") {
        Some(folder) => folder.into(),
        None => std::env::current_exe()
            .expect("the program has a path")
            .parent()
            .expect("the program stands in a folder")
            .to_path_buf(),
    };
    let place = tempfile::TempDir::new_in(folder).expect("the folder takes another");
    let disk = FileDisk::create(&place.path().join("file")).expect("a new file");
    let bench = Bench {
        disk: Arc::new(disk),
        places: Places { bytes, count },
    };
    bench.fill();
    println!("direct: {}", bench.disk.is_direct());
    bench.blocks(false);
    bench.blocks(true);
    bench.values();
}

impl Bench {
    fn fill(&self) {
        let mut buf = AlignedBuf::zeroed(1 << 20);
        self.disk.allocate(0, self.places.bytes).expect("space");
        for offset in (0..self.places.bytes).step_by(buf.len()) {
            buf.fill(u8::try_from(offset >> 20 & 0xFF).expect("masked"));
            self.disk.write(offset, &buf).expect("written");
        }
        self.disk.flush().expect("flushed");
    }

    fn blocks(&self, write: bool) {
        let verb = if write { "write" } else { "read" };
        let plain = |numbers: &mut dyn Iterator<Item = u64>| {
            let mut buf = AlignedBuf::zeroed(BLOCK);
            for number in numbers {
                let offset = self.places.offset(number, BLOCK as u64);
                let result = if write {
                    self.disk.write(offset, &buf)
                } else {
                    self.disk.read(offset, &mut buf)
                };
                result.expect("the disk works");
            }
        };
        time(
            &format!("{verb} 4 KiB, one thread"),
            self.places.count / 4,
            || {
                plain(&mut (0..self.places.count / 4));
            },
        );
        time(
            &format!("{verb} 4 KiB, 16 threads, no pool"),
            self.places.count,
            || {
                thread::scope(|scope| {
                    for mine in 0..DEPTH {
                        let numbers = (mine..self.places.count).step_by(DEPTH_SIZE);
                        scope.spawn(move || plain(&mut { numbers }));
                    }
                });
            },
        );
        for (name, backend, threads) in [
            ("threads", Backend::Threads, 16),
            ("1 ring", Backend::Uring, 1),
            ("2 rings", Backend::Uring, 2),
        ] {
            let options = PoolOptions {
                threads,
                backend,
                depth: DEPTH_SIZE,
            };
            let pool = match IoPool::new(self.disk.clone(), options) {
                Ok(pool) => Arc::new(pool),
                Err(refusal) => {
                    println!("{verb} 4 KiB, pool of {name}: {refusal}");
                    continue;
                }
            };
            time(
                &format!("{verb} 4 KiB, {name}, 16 under way"),
                self.places.count,
                || {
                    let (end, ended) = channel();
                    for number in 0..DEPTH {
                        chain(&pool, self.places, number, write, end.clone());
                    }
                    drop(end);
                    assert_eq!(ended.iter().count(), DEPTH_SIZE);
                },
            );
            time(
                &format!("{verb} 4 KiB, {name}, 16 and wait"),
                self.places.count,
                || {
                    for first in (0..self.places.count).step_by(DEPTH_SIZE) {
                        self.batch(&pool, first, write);
                    }
                },
            );
        }
        self.disk.flush().expect("flushed");
    }

    /// 16 at once by the blocking calls.
    fn batch(&self, pool: &IoPool, first: u64, write: bool) {
        let offsets = (first..first + DEPTH).map(|number| self.places.offset(number, BLOCK as u64));
        if write {
            let writes = offsets.map(|offset| (offset, AlignedBuf::zeroed(BLOCK)));
            pool.write_many(writes.collect()).expect("the disk works");
        } else {
            let ranges: Vec<_> = offsets.map(|offset| (offset, BLOCK)).collect();
            for read in pool.read_many(&ranges) {
                black_box(read.expect("the disk works"));
            }
        }
    }

    /// Values through the page cache: first cold (a rewrite past the cache emptied it), then warm.
    fn values(&self) {
        let count = (self.places.bytes / VALUE as u64).min(2000);
        let offset = |number: u64| number * VALUE as u64;
        let touched = AtomicU64::new(0);
        let mut buf = vec![0; VALUE];
        let mut rounds = |name: &str, touch: &mut dyn FnMut(u64, &mut [u8])| {
            self.fill();
            for state in ["cold", "warm"] {
                time(&format!("140 KiB {state}, {name}"), count, || {
                    for number in 0..count {
                        touch(offset(number), &mut buf);
                    }
                });
            }
        };
        let sum =
            |bytes: &[u8]| touched.fetch_add(u64::from(crc32c::crc32c(bytes)), Ordering::Relaxed);
        rounds("pread", &mut |offset, buf| {
            self.disk.read_cached(offset, buf).expect("the disk works");
            sum(buf);
        });
        rounds("mapped", &mut |offset, _| {
            sum(&self.disk.map(offset, VALUE).expect("the disk works"));
        });
        black_box(touched);
    }
}

/// Runs `case` and prints what one operation took.
fn time(name: &str, count: u64, case: impl FnOnce()) {
    let (start, used) = (Instant::now(), processor_us());
    case();
    let wall = start.elapsed().as_secs_f64() * 1e6;
    #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes")]
    let (wall, used) = (
        wall / count as f64,
        (processor_us() - used) as f64 / count as f64,
    );
    println!("{name:<44} {wall:8.2} us  {used:8.2} us of processor");
}

/// Sends for the operations of every 16th number from this one on, each when the one before is
/// done, on the pool's own threads: as a lookup does that needs one node after the other.
fn chain(pool: &Arc<IoPool>, place: Places, number: u64, write: bool, end: Sender<()>) {
    let offset = place.offset(number, BLOCK as u64);
    let op = if write {
        let buf = AlignedBuf::zeroed(BLOCK);
        Op::Write { offset, buf }
    } else {
        Op::Read { offset, len: BLOCK }
    };
    let mine = Arc::clone(pool);
    let done = Box::new(move |result: io::Result<AlignedBuf>| {
        black_box(result.expect("the disk works"));
        if number + DEPTH < place.count {
            chain(&mine, place, number + DEPTH, write, end);
        } else {
            drop(mine);
            let _ = end.send(());
        }
    });
    pool.submit(Request { op, done });
}

/// Microseconds of processor that this process used.
fn processor_us() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the structure is as large as the kernel's.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    // SAFETY: all fields are numbers, for which zeros are valid.
    let usage = unsafe { usage.assume_init() };
    let us = |time: libc::timeval| time.tv_sec * 1_000_000 + time.tv_usec;
    u64::try_from(us(usage.ru_utime) + us(usage.ru_stime)).unwrap_or(0)
}
