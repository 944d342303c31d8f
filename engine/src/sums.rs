//! Checksums and hash of a part, and how two cores take them for several parts at once.
//!
//! A batch of large values would keep the disk waiting for one core that hashes them. So the writer
//! offers its parts to a thread that stands by, and both take one part after the other. The writer
//! never waits for the thread to wake: what that has not begun the writer does itself.
//!
//! Invariants: each part is summed by whoever got its number, once; a part that the other has begun
//! is waited for, which is at most a piece's time. Without the thread the writer does all.

use crate::io::AlignedBuf;
use crate::planted::{Race, races};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes that are worth waking a thread for; in the tests of schedules any are.
const SHARED_BYTES_MIN: usize = if cfg!(all(test, shuttle)) {
    0
} else {
    512 << 10
};

/// What stands beside a part: its hash, and a checksum per chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) hash: [u8; 32],
    pub(crate) checksums: Vec<u32>,
}

/// Takes the sums of a part as it comes.
pub(crate) struct Summer {
    chunk_bytes: u64,
    length: u64,
    checksums: Vec<u32>,
    /// Of the chunk that is not complete.
    checksum: u32,
    hasher: blake3::Hasher,
}

impl Summer {
    /// `chunk_bytes` by [`dmerkle::Geometry::chunk_bytes`].
    pub(crate) fn new(chunk_bytes: u64) -> Self {
        Self {
            chunk_bytes,
            length: 0,
            checksums: Vec::new(),
            checksum: 0,
            hasher: blake3::Hasher::new(),
        }
    }

    /// Adds the next bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = usize::try_from(self.chunk_bytes - self.length % self.chunk_bytes)
                .expect("a chunk is at most 4 MiB");
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.checksum = crc32c::crc32c_append(self.checksum, now);
            self.length += now.len() as u64;
            if self.length.is_multiple_of(self.chunk_bytes) {
                self.checksums.push(std::mem::take(&mut self.checksum));
            }
            rest = later;
        }
    }

    pub(crate) fn finish(mut self) -> Sums {
        if !self.length.is_multiple_of(self.chunk_bytes) {
            self.checksums.push(self.checksum);
        }
        Sums {
            hash: *self.hasher.finalize().as_bytes(),
            checksums: self.checksums,
        }
    }
}

/// A part in memory, with what it takes to sum it.
pub(crate) struct Part {
    /// The part, and padding behind it.
    pub(crate) bytes: Arc<AlignedBuf>,
    pub(crate) length: usize,
    pub(crate) chunk_bytes: u64,
}

impl Part {
    fn sums(&self) -> Sums {
        let mut summer = Summer::new(self.chunk_bytes);
        summer.add(&self.bytes[..self.length]);
        summer.finish()
    }
}

/// Parts that are being summed.
struct Job {
    parts: Vec<Part>,
    next: AtomicUsize,
    sums: Mutex<Vec<Option<Sums>>>,
    /// A part was summed.
    summed: Condvar,
}

impl Job {
    /// Sums parts as long as there are any that nobody has begun.
    fn work(&self) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = self.parts.get(number) else {
                return;
            };
            let sums = part.sums();
            self.sums.lock()[number] = Some(sums);
            if !races(Race::ForgetSummed) {
                self.summed.notify_one();
            }
        }
    }

    /// All sums, once all are there.
    fn wait(&self) -> Vec<Sums> {
        let mut sums = self.sums.lock();
        while sums.iter().any(Option::is_none) {
            self.summed.wait(&mut sums);
        }
        sums.drain(..).flatten().collect()
    }
}

/// Where parts are offered to the thread that helps.
#[derive(Default)]
pub(crate) struct Helper {
    offers: Mutex<Offers>,
    offered: Condvar,
}

#[derive(Default)]
struct Offers {
    /// Whether the thread is there to take any.
    open: bool,
    jobs: VecDeque<Arc<Job>>,
}

impl Helper {
    /// From now on parts are offered: a thread will call [`Helper::serve`].
    pub(crate) fn begin(&self) {
        self.offers.lock().open = true;
    }

    /// Lets the thread end.
    pub(crate) fn end(&self) {
        self.offers.lock().open = false;
        self.offered.notify_all();
    }

    /// Helps until [`Helper::end`].
    pub(crate) fn serve(&self) {
        let mut offers = self.offers.lock();
        while offers.open {
            let Some(job) = offers.jobs.pop_front() else {
                self.offered.wait(&mut offers);
                continue;
            };
            drop(offers);
            job.work();
            offers = self.offers.lock();
        }
        offers.jobs.clear();
    }

    /// The sums of all parts, in their order.
    pub(crate) fn sum(&self, parts: Vec<Part>) -> Vec<Sums> {
        let bytes: usize = parts.iter().map(|part| part.length).sum();
        let is_worth_it = parts.len() > 1 && bytes >= SHARED_BYTES_MIN;
        if !is_worth_it {
            return parts.iter().map(Part::sums).collect();
        }
        let job = Arc::new(Job {
            sums: Mutex::new(vec![None; parts.len()]),
            parts,
            next: AtomicUsize::new(0),
            summed: Condvar::new(),
        });
        {
            let mut offers = self.offers.lock();
            if offers.open {
                offers.jobs.push_back(Arc::clone(&job));
                self.offered.notify_one();
            }
        }
        job.work();
        // All parts are begun: the thread, busy with another's, must not keep them in memory.
        let is_other = |other: &Arc<Job>| !Arc::ptr_eq(other, &job);
        self.offers.lock().jobs.retain(is_other);
        job.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Vec<Part> {
        let lengths = (0..40_usize).map(|number| 1025 + number * 7919);
        lengths
            .map(|length| {
                let bytes: Vec<u8> = (0..length)
                    .map(|at| u8::try_from(at * 31 % 251).unwrap())
                    .collect();
                Part {
                    bytes: Arc::new(AlignedBuf::padded_copy(
                        &bytes,
                        length.next_multiple_of(4096),
                    )),
                    length,
                    chunk_bytes: 16 << 10,
                }
            })
            .collect()
    }

    #[test]
    fn sums_are_the_same_whoever_takes_them() {
        let alone = Helper::default().sum(parts());
        let helper = Helper::default();
        helper.begin();
        std::thread::scope(|scope| {
            scope.spawn(|| helper.serve());
            for _ in 0..20 {
                assert_eq!(helper.sum(parts()), alone);
            }
            helper.end();
        });
        // Nobody is there to help any more.
        assert_eq!(helper.sum(parts()), alone);
        for (part, sums) in parts().iter().zip(&alone) {
            let bytes = &part.bytes[..part.length];
            assert_eq!(&sums.hash, blake3::hash(bytes).as_bytes());
            let chunks = bytes.chunks(16 << 10).map(crc32c::crc32c);
            assert_eq!(sums.checksums, chunks.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_part_in_pieces_has_the_sums_of_the_whole() {
        for part in parts() {
            let mut summer = Summer::new(part.chunk_bytes);
            for piece in part.bytes[..part.length].chunks(5000) {
                summer.add(piece);
            }
            assert_eq!(summer.finish(), part.sums());
        }
    }
}
