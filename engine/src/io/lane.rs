//! Lanes: small rings that the writer of a large value, or of several groups of the log, drives
//! itself. The write goes off, the writer works on, and no other thread has to wake: on a quiet
//! machine waking one costs as much as the write.
//!
//! Invariants:
//! - While the kernel may read a buffer, its flight stands in a slot of the lane, which holds the
//!   buffer; nobody writes to a shared buffer. If the ring fails, what the kernel has taken is
//!   waited for, and what it has not, it never gets.
//! - A lane that is idle has no flight.
//! - [`Writes`] is dropped only with nothing under way.

use super::aligned::AlignedBuf;
use super::disk::Disk;
use super::ring::{Verdict, judge};
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use parking_lot::Mutex;
use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Writes of one lane under way at once.
const DEPTH: usize = 32;

/// Bytes of one lane under way at once, unless one write has more.
const BYTES_MAX: usize = 4 << 20;

/// The most lanes. Whoever finds none writes by plain calls.
const LANES_MAX: usize = 64;

/// The most bytes that one call moves; the kernel's limit is a page under 2 GiB.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

/// How often a lane whose ring has failed looks for completions.
const GIVE_UP_PAUSE: Duration = Duration::from_millis(1);

/// How often the kernel may say "again" before plain calls take over.
const AGAIN_MAX: u32 = 64;

/// The lanes of a disk.
pub(super) struct Lanes {
    fd: RawFd,
    idle: Mutex<Vec<Lane>>,
    count: AtomicUsize,
}

struct Lane {
    ring: IoUring,
    fd: RawFd,
    slots: [Option<Flight>; DEPTH],
    /// The first write that failed.
    error: Option<io::Error>,
}

struct Flight {
    offset: u64,
    buf: Arc<AlignedBuf>,
    again: u32,
}

/// Writes that are under way while their owner works on.
pub struct Writes {
    disk: Arc<dyn Disk>,
    /// None where rings are not to be had: then a write is done when it was started.
    lanes: Option<Arc<Lanes>>,
    lane: Option<Lane>,
}

impl Lanes {
    pub(super) fn new(fd: RawFd) -> Arc<Self> {
        Arc::new(Self {
            fd,
            idle: Mutex::default(),
            count: AtomicUsize::new(0),
        })
    }

    fn take(&self) -> Option<Lane> {
        if let Some(lane) = self.idle.lock().pop() {
            return Some(lane);
        }
        if self.count.fetch_add(1, Ordering::Relaxed) >= LANES_MAX {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        // The thread that waits for a completion enters the kernel anyhow: nobody need be
        // interrupted for it.
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .build(u32::try_from(DEPTH).expect("small"))
            .ok()?; // counted still, so that a refusal is not asked for again and again
        Some(Lane {
            ring,
            fd: self.fd,
            slots: Default::default(),
            error: None,
        })
    }
}

impl Writes {
    pub(super) fn new(disk: &Arc<dyn Disk>, lanes: Option<&Arc<Lanes>>) -> Self {
        Self {
            disk: Arc::clone(disk),
            lanes: lanes.map(Arc::clone),
            lane: None,
        }
    }

    /// Starts a write. An error may be an earlier write's.
    pub fn start(&mut self, offset: u64, buf: &Arc<AlignedBuf>) -> io::Result<()> {
        if self.lane.is_none() {
            self.lane = self.lanes.as_ref().and_then(|lanes| lanes.take());
        }
        match &mut self.lane {
            None => self.disk.write(offset, buf),
            Some(lane) => {
                self.disk.admit_write(offset, buf.len())?;
                lane.start(&*self.disk, offset, buf)
            }
        }
    }

    /// Whether there may be something to wait for.
    pub fn under_way(&self) -> bool {
        self.lane.is_some()
    }

    /// Waits until every write has ended. The first error of any; the others have ended, too.
    pub fn wait(&mut self) -> io::Result<()> {
        let Some(mut lane) = self.lane.take() else {
            return Ok(());
        };
        if let Err(error) = lane.wait(&*self.disk) {
            lane.give_up(&*self.disk);
            return Err(error);
        }
        let failed = lane.error.take();
        if let Some(lanes) = &self.lanes {
            lanes.idle.lock().push(lane);
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        // Who cares for the answer has waited.
        let _ = self.wait();
    }
}

impl Lane {
    fn start(&mut self, disk: &dyn Disk, offset: u64, buf: &Arc<AlignedBuf>) -> io::Result<()> {
        let slot = loop {
            // Before anything else, so that no buffer is held after its write has ended.
            self.complete(disk);
            let free = self.slots.iter().position(Option::is_none);
            let under_way: usize = self.slots.iter().flatten().map(|f| f.buf.len()).sum();
            match free {
                Some(slot) if under_way == 0 || under_way + buf.len() <= BYTES_MAX => break slot,
                _ => self.enter(1)?,
            }
        };
        self.slots[slot] = Some(Flight {
            offset,
            buf: Arc::clone(buf),
            again: 0,
        });
        self.push(slot);
        self.enter(0)
    }

    fn wait(&mut self, disk: &dyn Disk) -> io::Result<()> {
        loop {
            self.complete(disk);
            if self.slots.iter().all(Option::is_none) {
                return Ok(());
            }
            self.enter(1)?;
        }
    }

    /// After a failure of the ring: waits for the writes that the kernel has taken. It will not take
    /// the others, because nobody enters this ring again.
    fn give_up(&mut self, disk: &dyn Disk) {
        loop {
            self.complete(disk);
            let not_taken = self.ring.submission().len();
            if self.slots.iter().flatten().count() <= not_taken {
                return;
            }
            thread::sleep(GIVE_UP_PAUSE);
        }
    }

    /// Queues the call of a slot's flight.
    fn push(&mut self, slot: usize) {
        let flight = self.slots[slot].as_ref().expect("the slot was just filled");
        let len = flight.buf.len().min(TRANSFER_BYTES_MAX);
        let len = u32::try_from(len).expect("a gibibyte fits");
        let call = opcode::Write::new(Fd(self.fd), flight.buf.as_ptr(), len)
            .offset(flight.offset)
            .build()
            .user_data(slot as u64);
        // SAFETY: the call's buffer is held by the slot until `complete` saw its completion, and
        // leaked if the lane goes before. The disk keeps the descriptor open, and every `Writes`
        // holds the disk.
        let pushed = unsafe { self.ring.submission().push(&call) };
        pushed.expect("the ring has an entry for every slot");
    }

    /// Gives the kernel what is new and waits for so many completions.
    fn enter(&mut self, want: usize) -> io::Result<()> {
        match self.ring.submit_and_wait(want) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => Ok(()),
                Some(libc::EAGAIN | libc::EBUSY) => {
                    thread::yield_now();
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    /// Empties the slots whose writes have ended.
    fn complete(&mut self, disk: &dyn Disk) {
        let mut again = [false; DEPTH];
        for entry in self.ring.completion() {
            let slot = usize::try_from(entry.user_data()).expect("what we queued was a slot");
            let flight = self.slots[slot].as_mut().expect("only flights complete");
            let (offset, buf) = (flight.offset, &flight.buf);
            let written = match judge(entry.result(), buf.len(), disk.alignment()) {
                Verdict::All => Ok(()),
                Verdict::Part(bytes) => disk.write(offset + bytes as u64, &buf[bytes..]),
                Verdict::Again if flight.again < AGAIN_MAX => {
                    flight.again += 1;
                    again[slot] = true;
                    continue;
                }
                Verdict::Again => disk.write(offset, buf),
                Verdict::Failed(error) => Err(io::Error::from_raw_os_error(error)),
            };
            self.slots[slot] = None;
            if let Err(error) = written {
                self.error.get_or_insert(error);
            }
        }
        for slot in (0..DEPTH).filter(|slot| again[*slot]) {
            self.push(slot);
        }
    }
}

impl Drop for Lane {
    /// Leaks what the kernel may still read, which after [`Lane::give_up`] is nothing, and in a panic
    /// may be something.
    fn drop(&mut self) {
        for flight in self.slots.iter_mut().filter_map(Option::take) {
            mem::forget(flight.buf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::FileDisk;

    #[test]
    fn what_was_started_is_written_when_it_was_waited_for() {
        let place = tempfile::TempDir::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let disk = FileDisk::create(&place.path().join("file")).unwrap();
        let fd = disk.direct_fd();
        let disk: Arc<dyn Disk> = Arc::new(disk);
        disk.allocate(0, 64 * 4096).unwrap();
        for lanes in [None, fd.map(Lanes::new)] {
            let mut writes = Writes::new(&disk, lanes.as_ref());
            for round in 0..3_u8 {
                for at in 0..64_u8 {
                    let buf = Arc::new(AlignedBuf::copy_of(&[at ^ round; 4096]));
                    writes.start(u64::from(at) * 4096, &buf).unwrap();
                }
                writes.wait().unwrap();
                for at in 0..64_u8 {
                    let mut back = AlignedBuf::zeroed(4096);
                    disk.read(u64::from(at) * 4096, &mut back).unwrap();
                    assert!(back.iter().all(|&byte| byte == at ^ round));
                }
            }
        }
    }

    #[test]
    fn a_ring_that_fails_is_told_and_not_waited_for() {
        let place = tempfile::TempDir::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let disk = FileDisk::create(&place.path().join("file")).unwrap();
        let Some(lanes) = disk.direct_fd().map(Lanes::new) else {
            return;
        };
        let disk: Arc<dyn Disk> = Arc::new(disk);
        disk.allocate(0, 8192).unwrap();
        let buf = Arc::new(AlignedBuf::zeroed(4096));
        let mut writes = Writes::new(&disk, Some(&lanes));
        writes.start(0, &buf).unwrap();
        let Some(lane) = writes.lane.as_mut() else {
            return; // no rings here
        };
        lane.wait(&*disk).unwrap();
        // What is no ring in its place refuses every call from now on.
        let no_ring = std::fs::File::open("/dev/null").unwrap();
        let (from, to) = (
            std::os::fd::AsRawFd::as_raw_fd(&no_ring),
            std::os::fd::AsRawFd::as_raw_fd(&lane.ring),
        );
        // SAFETY: both descriptors are open, and the ring's is only this test's.
        assert_eq!(unsafe { libc::dup2(from, to) }, to);
        assert!(writes.start(4096, &buf).is_err());
        assert!(writes.wait().is_err());
        assert!(lanes.idle.lock().is_empty(), "the lane is not used again");
        writes.start(4096, &buf).unwrap();
        writes.wait().unwrap();
    }

    #[test]
    fn a_write_that_fails_is_told_once_and_the_lane_serves_on() {
        let place = tempfile::TempDir::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = place.path().join("file");
        drop(FileDisk::create(&path).unwrap());
        let disk = FileDisk::open(&path).unwrap();
        // A descriptor that cannot write stands for a disk that refuses.
        let read_only = std::fs::File::open(&path).unwrap();
        let lanes = Lanes::new(std::os::fd::AsRawFd::as_raw_fd(&read_only));
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let mut writes = Writes::new(&disk, Some(&lanes));
        let buf = Arc::new(AlignedBuf::zeroed(4096));
        writes.start(0, &buf).unwrap();
        if lanes.idle.lock().is_empty() && writes.lane.is_none() {
            return; // no rings here
        }
        assert!(writes.wait().is_err());
        assert_eq!(lanes.idle.lock().len(), 1);
        writes.wait().unwrap();
    }

    /// A streaming writer may go from thread to thread. When one ends, the kernel gives up those of
    /// its writes that it has not begun.
    #[test]
    fn writes_outlive_the_thread_that_started_them() {
        let place = tempfile::TempDir::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let disk = FileDisk::create(&place.path().join("file")).unwrap();
        let Some(lanes) = disk.direct_fd().map(Lanes::new) else {
            return;
        };
        let disk: Arc<dyn Disk> = Arc::new(disk);
        for round in 1..=20_u8 {
            let buf = Arc::new(AlignedBuf::copy_of(&vec![round; 128 << 10]));
            let len = buf.len() as u64;
            // No space of its own yet: such writes the kernel hands to threads of its own.
            let start = u64::from(round) * DEPTH as u64 * len;
            let mut writes = Writes::new(&disk, Some(&lanes));
            let mut writes = thread::scope(|scope| {
                let starting = scope.spawn(|| {
                    for at in 0..DEPTH as u64 {
                        writes.start(start + at * len, &buf).unwrap();
                    }
                    writes
                });
                starting.join().unwrap()
            });
            writes.wait().unwrap();
            let mut back = AlignedBuf::zeroed(buf.len());
            for at in 0..DEPTH as u64 {
                disk.read(start + at * len, &mut back).unwrap();
                assert!(back[..] == buf[..], "round {round}, write {at}");
            }
        }
    }
}
