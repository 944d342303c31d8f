//! The simulated disk under the whole engine.
//!
//! It behaves as the machine does while nothing goes wrong (a read gives the newest write), keeps
//! the history of what was done to it, from which [`crate::history`] makes every image that a
//! crash could leave, and fails where a [`FaultPlan`] says so.
//!
//! Invariants: the history's base with all its operations applied equals the image that reads see;
//! direct I/O that is not aligned is the engine's bug and panics.

use crate::faults::{Class, Fault, FaultPlan, no_space};
use crate::history::{DiskOp, Effect, History, Pick};
use crate::image::{Image, Rot, index};
use crate::rng::Rng;
use engine::io::Disk;
use parking_lot::Mutex;
use std::io;

/// A disk in memory.
pub struct SimDisk {
    state: Mutex<State>,
    sector: usize,
}

struct State {
    image: Image,
    /// What a crash would be made from; `None` where nobody will ask.
    history: Option<History>,
    faults: FaultPlan,
    space: Option<Space>,
    counts: Counts,
    /// The operations that failed by order.
    failures: Vec<Failure>,
    /// More operations than these are taken for a loop that does not end.
    operations_max: u64,
}

/// An operation that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What it was.
    pub class: Class,
    /// Where it was; zero for a flush.
    pub offset: u64,
    /// How it failed.
    pub fault: Fault,
}

/// Operations so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads, direct and cached.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Allocations.
    pub allocations: u64,
    /// Punches.
    pub punches: u64,
    /// Writes to a sector that was not allocated before, on a disk with a capacity: the engine
    /// promises that there are none, because they may meet a full disk.
    pub unbacked_writes: u64,
}

/// The space of the file system, if the test bounds it.
struct Space {
    /// Sectors that there are.
    capacity: u64,
    /// Sectors in use.
    used: u64,
    /// Which sectors of the file are backed.
    backed: Vec<bool>,
}

impl SimDisk {
    /// A disk that holds `image`, all of it on the medium, and forgets what is done to it.
    pub fn of(image: Image) -> Self {
        Self::make(image, None)
    }

    /// A disk that holds `image` and keeps the history of what is done to it.
    pub fn recording(image: Image) -> Self {
        let history = History::from(image.clone());
        Self::make(image, Some(history))
    }

    fn make(image: Image, history: Option<History>) -> Self {
        Self {
            sector: image.sector(),
            state: Mutex::new(State {
                image,
                history,
                faults: FaultPlan::none(),
                space: None,
                counts: Counts::default(),
                failures: Vec::new(),
                operations_max: u64::MAX,
            }),
        }
    }

    /// How many operations the history has: where a crash "now" would be.
    pub fn position(&self) -> usize {
        self.state.lock().history.as_ref().map_or(0, History::len)
    }

    /// The history so far. Panics on a disk that keeps none.
    pub fn history(&self) -> History {
        let state = self.state.lock();
        state.history.clone().expect("a recording disk")
    }

    /// What a read sees now.
    pub fn image(&self) -> Image {
        self.state.lock().image.clone()
    }

    /// Operations so far.
    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// Panics at the operation past this number: whoever is at work does not end.
    pub fn set_operations_max(&self, operations_max: u64) {
        self.state.lock().operations_max = operations_max;
    }

    /// How many operations failed because they were ordered to.
    pub fn failures(&self) -> u64 {
        self.state.lock().failures.len() as u64
    }

    /// The operations that failed because they were ordered to, from the `first`-th on.
    pub fn failures_from(&self, first: u64) -> Vec<Failure> {
        let state = self.state.lock();
        state.failures.iter().skip(index(first)).copied().collect()
    }

    /// Orders faults, counted from now on.
    pub fn set_faults(&self, plan: FaultPlan) {
        self.state.lock().faults = plan;
    }

    /// Spoils the sector that begins at `offset`, now.
    pub fn rot(&self, offset: u64, rot: Rot) {
        let mut state = self.state.lock();
        state.image.rot(offset, rot);
        if let Some(history) = &mut state.history {
            history.push(DiskOp::Rot { offset, rot });
        }
    }

    /// Bounds the space of the file system to `bytes`, of which the whole of the file as it stands
    /// is in use; `None` takes the bound away. A later, larger bound is space that returns.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        let mut state = self.state.lock();
        let sectors = index(state.image.size().div_ceil(self.sector as u64));
        state.space = match (bytes, state.space.take()) {
            (None, _) => None,
            (Some(bytes), before) => {
                let backed = before.map_or_else(|| vec![true; sectors], |space| space.backed);
                Some(Space {
                    capacity: bytes / self.sector as u64,
                    used: backed.iter().filter(|&&backed| backed).count() as u64,
                    backed,
                })
            }
        };
    }

    fn check_alignment(&self, what: &str, offset: u64, length: usize) {
        assert!(
            offset.is_multiple_of(self.sector as u64) && length.is_multiple_of(self.sector),
            "direct {what} of {length} bytes at {offset} on sectors of {}",
            self.sector
        );
    }

    fn sectors(&self, offset: u64, bytes: u64) -> std::ops::Range<usize> {
        let sector = self.sector as u64;
        index(offset / sector)..index((offset + bytes).div_ceil(sector))
    }
}

impl Counts {
    /// All operations.
    pub fn all(&self) -> u64 {
        self.reads + self.writes + self.flushes + self.allocations + self.punches
    }
}

impl State {
    fn meet(&mut self, class: Class, offset: u64) -> Option<Fault> {
        let (all, most) = (self.counts.all(), self.operations_max);
        assert!(
            all <= most,
            "more than {most} disk operations: this does not end"
        );
        let fault = self.faults.meet(class);
        if let Some(fault) = fault {
            self.failures.push(Failure {
                class,
                offset,
                fault,
            });
        }
        fault
    }

    fn record(&mut self, op: impl FnOnce() -> DiskOp) {
        if let Some(history) = &mut self.history {
            history.push(op());
        }
    }

    fn grow(&mut self, size: u64) {
        if size > self.image.size() {
            self.image.set_size(size);
            self.record(|| DiskOp::Size(size));
        }
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) {
        self.grow(offset + bytes.len() as u64);
        self.image.write(offset, bytes);
        self.record(|| DiskOp::Write {
            offset,
            bytes: bytes.into(),
        });
    }

    /// Chance for what a fault leaves, different at each operation.
    fn draws(&self) -> Rng {
        Rng::new(self.history.as_ref().map_or(0, History::len) as u64 ^ (self.counts.flushes << 32))
    }

    /// A flush failed: all, none or some of the pending sectors are gone, and reads show it. A
    /// disk that keeps no history does not know what is pending and loses nothing.
    fn lose_pending(&mut self) {
        let mut draws = self.draws();
        let Some(history) = &mut self.history else {
            return;
        };
        let kept = draws.below(3);
        let (picks, image) = history.last_epoch(|epoch| {
            let picks: Vec<Pick> = epoch
                .atoms
                .iter()
                .map(|atom| match atom.effect {
                    Effect::Sector { .. } if draws.below(2) >= kept => Pick::Old,
                    // The file system's journal keeps its own.
                    _ => Pick::New,
                })
                .collect();
            let image = epoch.image(&picks);
            (picks, image)
        });
        self.image = image;
        history.push(DiskOp::FlushFailed(picks));
    }

    /// Backs sectors with space, or says that there is none left.
    fn back(&mut self, sectors: std::ops::Range<usize>) -> io::Result<u64> {
        let Some(space) = &mut self.space else {
            return Ok(0);
        };
        if space.backed.len() < sectors.end {
            space.backed.resize(sectors.end, false);
        }
        let range = &mut space.backed[sectors];
        let fresh = range.iter().filter(|&&backed| !backed).count() as u64;
        if space.used + fresh > space.capacity {
            return Err(no_space());
        }
        space.used += fresh;
        range.fill(true);
        Ok(fresh)
    }
}

impl Disk for SimDisk {
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check_alignment("read", offset, buf.len());
        self.read_cached(offset, buf)
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        state.counts.reads += 1;
        if let Some(fault) = state.meet(Class::Read, offset) {
            if fault == Fault::Short {
                let half = buf.len() / 2;
                state.image.read(offset, &mut buf[..half])?;
            }
            return Err(fault.error());
        }
        state.image.read(offset, buf)
    }

    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.check_alignment("write", offset, buf.len());
        let mut state = self.state.lock();
        state.counts.writes += 1;
        match state.meet(Class::Write, offset) {
            None => {}
            Some(fault @ (Fault::NoSpace | Fault::Interrupted)) => return Err(fault.error()),
            Some(Fault::Short) => {
                let sectors = buf.len() / self.sector;
                state.put(offset, &buf[..sectors / 2 * self.sector]);
                return Err(Fault::Short.error());
            }
            Some(Fault::Eio) => {
                let mut draws = state.draws();
                let lost = draws.below(3);
                for (at, bytes) in buf.chunks(self.sector).enumerate() {
                    if draws.below(2) >= lost {
                        state.put(offset + (at * self.sector) as u64, bytes);
                    }
                }
                return Err(Fault::Eio.error());
            }
        }
        let fresh = state.back(self.sectors(offset, buf.len() as u64))?;
        state.counts.unbacked_writes += u64::from(fresh > 0);
        state.put(offset, buf);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.counts.flushes += 1;
        if let Some(fault) = state.meet(Class::Flush, 0) {
            if matches!(fault, Fault::Eio | Fault::Short) {
                state.lose_pending();
            }
            return Err(fault.error());
        }
        state.record(|| DiskOp::Flush);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.state.lock().image.size())
    }

    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.counts.allocations += 1;
        if let Some(fault) = state.meet(Class::Allocate, offset) {
            return Err(fault.error());
        }
        state.back(self.sectors(offset, bytes))?;
        state.grow(offset + bytes);
        Ok(())
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        assert!(
            offset.is_multiple_of(self.sector as u64) && bytes.is_multiple_of(self.sector as u64)
        );
        let mut state = self.state.lock();
        state.counts.punches += 1;
        if let Some(fault) = state.meet(Class::Punch, offset) {
            return Err(fault.error());
        }
        let sectors = self.sectors(offset, bytes);
        if let Some(space) = &mut state.space {
            let end = sectors.end.min(space.backed.len());
            let range = &mut space.backed[sectors.start.min(end)..end];
            space.used -= range.iter().filter(|&&backed| backed).count() as u64;
            range.fill(false);
        }
        state.image.zero(offset, bytes);
        state.record(|| DiskOp::Punch { offset, bytes });
        Ok(())
    }

    fn alignment(&self) -> usize {
        self.sector
    }

    fn is_direct(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
