//! Medium parts: too long for a leaf, too short to be worth a write of their own at every commit.
//!
//! Such a part travels to the log inside its record, one write and one flush per group, and the
//! memtable holds it. The next checkpoint moves what is newest then to extents, before it applies:
//! the parts go one behind the other into as few runs as there are, each run in one write, and the
//! operation's body becomes one that names them. So leaves stay small, and a part that is replaced
//! before a checkpoint never gets an extent.
//!
//! Invariants:
//! - No leaf of a tree holds a part of more than [`INLINE_ALWAYS_BYTES`]. The part's hash enters the
//!   entry's fingerprint wherever the part is, so moving it changes no sum.
//! - The units belong to the running checkpoint until its maps reach them, as its new nodes do: a
//!   checkpoint that ends early gives them back, and the memtable and the log still hold the parts.
//! - They are written before the flush that stands before the superblock. A crash before that finds
//!   the parts in the log.
//! - A batch is admitted only while free space covers what its parts will need ([`Owed`]): each takes
//!   whole units.
//! - A record in the log is at most an eighth of the ring for the sake of its parts, and no batch is
//!   refused that would have been taken with its parts as extents: beyond that they are extents at
//!   once, and so they are where a batch has many, since then they are large writes anyway.

use crate::batch::Change as NewChange;
use crate::core::Core;
use crate::entry::Entry;
use crate::error::Error;
use crate::io::AlignedBuf;
use crate::memtable::{Memtable, OpRef, Place};
use crate::planted::{self, Bug};
use crate::sums::Summer;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::write::Changes;
use dmerkle::format::body::{BodyBuilder, BodyRef, INLINE_ALWAYS_BYTES, PartRef};
use dmerkle::format::extent::encode_extent;
use dmerkle::{BlockId, Geometry, Run, TreeId};
use std::collections::{BTreeSet, VecDeque};

/// The longest part that goes through the log: its bytes are written twice, which costs less than
/// a write of its own up to here.
const MEDIUM_BYTES_MAX: usize = 16 << 10;

/// Bytes of medium parts that one batch may bring to the log.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// What a record is at most, with its medium parts, in shares of the ring.
const RING_SHARE: u64 = 8;

/// What an operation takes in a record beside key, meta and parts, generously.
const RECORD_BYTES: usize = 64;

/// What a reference to an extent takes, generously.
const REFERENCE_BYTES: usize = 320;

/// Bytes of units that one step of a checkpoint fills.
const STEP_BYTES: u64 = 1 << 20;

/// The longest part that stays in the body, of a batch with these changes. What an update keeps of
/// `old` counts like what is new: it goes to the log again.
pub(crate) fn inline_bytes_max(
    changes: &Changes<'_>,
    old: Option<&Entry>,
    geometry: &Geometry,
) -> usize {
    let record_max = usize::try_from(geometry.ring_bytes / RING_SHARE).unwrap_or(usize::MAX);
    let longest = MEDIUM_BYTES_MAX.min(record_max).max(INLINE_ALWAYS_BYTES);
    let (mut medium, mut all) = (0, 0);
    for (_, key, change) in changes {
        all += RECORD_BYTES + key.len();
        if let NewChange::Put(entry) = change {
            all += entry.meta.len() + entry.parts.len() * REFERENCE_BYTES;
        }
        for part in change.bytes(old).filter(|part| part.len() <= longest) {
            all += part.len();
            if part.len() > INLINE_ALWAYS_BYTES {
                medium += part.len();
            }
        }
    }
    if medium > BATCH_BYTES_MAX || all > record_max {
        return INLINE_ALWAYS_BYTES;
    }
    longest
}

/// The parts of a body that a checkpoint will move.
fn medium_parts(body: BodyRef<'_>) -> impl Iterator<Item = &[u8]> {
    // Most bodies are too short to hold one.
    let parts = (body.as_bytes().len() > INLINE_ALWAYS_BYTES).then(|| body.parts());
    parts.into_iter().flatten().filter_map(|part| match part {
        PartRef::Inline(bytes) if bytes.len() > INLINE_ALWAYS_BYTES => Some(bytes),
        _ => None,
    })
}

/// Units of the extents that a body's parts will be moved to.
pub(crate) fn units_of(body: BodyRef<'_>, geometry: &Geometry) -> u64 {
    medium_parts(body)
        .map(|part| geometry.units_for(part.len() as u64))
        .sum()
}

/// Units that checkpoints will need for the medium parts in the memtables. Parts that are replaced
/// before count too: too much is promised rather than too little.
#[derive(Default)]
pub(crate) struct Owed {
    active: AtomicU64,
    frozen: AtomicU64,
}

impl Owed {
    /// Of a memtable that was refilled from the log.
    pub(crate) fn new(units: u64) -> Self {
        Self {
            active: AtomicU64::new(units),
            frozen: AtomicU64::default(),
        }
    }

    /// Of all memtables.
    pub(crate) fn units(&self) -> u64 {
        // In this order nothing is missed that is being frozen.
        self.active.load(Ordering::Acquire) + self.frozen.load(Ordering::Acquire)
    }

    /// Of a batch that joins.
    pub(crate) fn add(&self, units: u64) {
        self.active.fetch_add(units, Ordering::Relaxed);
    }

    /// The active memtable is frozen, under the lock under which batches join.
    pub(crate) fn freeze(&self) {
        let units = self.active.load(Ordering::Relaxed);
        self.frozen.fetch_add(units, Ordering::Release);
        self.active.fetch_sub(units, Ordering::Release);
    }

    /// The frozen memtable is part of the base.
    pub(crate) fn settle(&self) {
        self.frozen.store(0, Ordering::Release);
    }
}

/// Operations whose parts were moved, in the order of their keys: where each stands in the frozen
/// memtable, and the body that counts instead of its own.
pub(crate) type Moved = VecDeque<(Place, Vec<u8>)>;

/// A checkpoint's moving of parts.
pub(crate) struct Move {
    /// The operation that comes next.
    next: Option<Place>,
    /// Trees whose operations are let go.
    given_up: BTreeSet<TreeId>,
    pub(crate) moved: Moved,
    /// What the extents take.
    pub(crate) placed: Vec<Run>,
    /// A planted fault: writes that come too late.
    late: Vec<(u64, AlignedBuf)>,
}

impl Move {
    /// Of the newest operations of a memtable that is frozen, but for those of some trees.
    pub(crate) fn new(table: &Memtable, given_up: BTreeSet<TreeId>) -> Self {
        Self {
            given_up,
            next: table.places().next(),
            moved: Moved::new(),
            placed: Vec::new(),
            late: Vec::new(),
        }
    }

    /// Moves some parts of the memtable's operations. `true` when none is left.
    pub(crate) fn step(&mut self, core: &Core, table: &Memtable) -> Result<bool, Error> {
        let geometry = &core.identity.geometry;
        let units_max = STEP_BYTES / geometry.unit();
        let mut units = 0;
        let mut found = Vec::new();
        while units < units_max
            && let Some(place) = self.next
        {
            if !self.given_up.contains(&table.key(place).tree)
                && let Some(OpRef::Put(body)) = table.versions(place).next()
            {
                let wanted = units_of(body, geometry);
                if wanted > 0 {
                    found.push((place, body));
                    units += wanted;
                }
            }
            self.next = table.after(place);
        }
        if found.is_empty() {
            return Ok(true);
        }
        let mut packer = Packer {
            core,
            placed: &mut self.placed,
            units_left: units,
            room: None,
            writes: Vec::new(),
        };
        for (place, body) in found {
            self.moved.push_back((place, packer.take(body)?));
        }
        packer.close_room();
        let writes = packer.writes;
        let bytes: usize = writes.iter().map(|(_, buffer)| buffer.len()).sum();
        core.counters
            .extent_bytes_written
            .fetch_add(bytes as u64, Ordering::Relaxed);
        if planted::has(Bug::MoveLate) {
            self.late.extend(writes);
            return Ok(false);
        }
        write(core, writes)?;
        Ok(false)
    }

    /// The runs that the next maps must reach.
    pub(crate) fn reached(&self) -> impl Iterator<Item = &Run> {
        let forgotten = planted::has(Bug::ForgetMoved);
        self.placed.iter().filter(move |_| !forgotten)
    }

    /// Units of all extents.
    pub(crate) fn units(&self) -> u64 {
        self.placed.iter().map(|run| u64::from(run.units)).sum()
    }

    /// A planted fault: writes what should have been written before the superblock.
    pub(crate) fn write_late(&mut self, core: &Core) -> Result<(), Error> {
        write(core, std::mem::take(&mut self.late))
    }
}

fn write(core: &Core, writes: Vec<(u64, AlignedBuf)>) -> Result<(), Error> {
    core.pool
        .write_many(writes)
        .map_err(|error| core.poison_write(&Error::io("writing extents")(error)))
}

/// Lays parts one behind the other.
struct Packer<'a> {
    core: &'a Core,
    placed: &'a mut Vec<Run>,
    /// Units of the parts that are still to come in this step.
    units_left: u64,
    /// The last run placed, and what of it is filled.
    room: Option<Vec<u8>>,
    writes: Vec<(u64, AlignedBuf)>,
}

impl Packer<'_> {
    /// Gives each medium part of a body its extent. Returns the body that names them.
    fn take(&mut self, body: BodyRef<'_>) -> Result<Vec<u8>, Error> {
        let mut moved = BodyBuilder::new(body.meta());
        for part in body.parts() {
            match part {
                PartRef::Inline(bytes) if bytes.len() > INLINE_ALWAYS_BYTES => {
                    moved.extent(&self.place(bytes)?);
                }
                part => {
                    moved.part(part);
                }
            }
        }
        Ok(moved.finish())
    }

    /// Copies a part to where it will be written. Returns the reference to it.
    fn place(&mut self, part: &[u8]) -> Result<Vec<u8>, Error> {
        let geometry = &self.core.identity.geometry;
        let length = part.len() as u64;
        let units = geometry.units_for(length);
        let start = self.find_room(u32::try_from(units).expect("a medium part is short"))?;
        let mut summer = Summer::new(geometry.chunk_bytes(length));
        summer.add(part);
        let sums = summer.finish();
        let room = self.room.as_mut().expect("it was just found");
        room.extend_from_slice(part);
        room.resize(room.len().next_multiple_of(geometry.unit_bytes as usize), 0);
        self.units_left -= units;
        let mut reference = Vec::new();
        encode_extent(
            geometry,
            start,
            length,
            &sums.hash,
            &sums.checksums,
            &mut reference,
        );
        Ok(reference)
    }

    /// Where the next part begins.
    fn find_room(&mut self, units: u32) -> Result<BlockId, Error> {
        if let (Some(room), Some(run)) = (&self.room, self.placed.last()) {
            let used = room.len() as u64 / self.core.identity.geometry.unit();
            if used + u64::from(units) <= u64::from(run.units) {
                return Ok(BlockId(run.start.0 + used));
            }
        }
        self.close_room();
        let most = u32::try_from(self.units_left).expect("the units of a step");
        let disk = self.core.disk.as_ref();
        let run = self.core.space.allocate_room(disk, units, most)?;
        self.placed.push(run);
        self.room = Some(Vec::new());
        Ok(run.start)
    }

    /// Lets what was filled be written, and gives the rest of the run back.
    fn close_room(&mut self) {
        let (Some(room), Some(run)) = (self.room.take(), self.placed.last_mut()) else {
            return;
        };
        let geometry = &self.core.identity.geometry;
        let used = u32::try_from(geometry.units_for(room.len() as u64)).expect("within the run");
        if used < run.units {
            self.core.space.free(&[Run {
                start: BlockId(run.start.0 + u64::from(used)),
                units: run.units - used,
            }]);
            run.units = used;
        }
        let write = (geometry.offset_of(run.start), AlignedBuf::copy_of(&room));
        self.writes.push(write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What joins while the checkpoint freezes counts for the next one.
    #[test]
    fn what_is_owed_is_owed_until_its_own_checkpoint() {
        let owed = Owed::new(3);
        owed.freeze();
        owed.add(4);
        assert_eq!(owed.units(), 7);
        owed.settle();
        assert_eq!(owed.units(), 4);
        owed.freeze();
        owed.settle();
        assert_eq!(owed.units(), 0);
    }

    #[test]
    fn a_small_ring_takes_shorter_parts_and_no_batch_of_many() {
        let of = |length: usize, count: usize, geometry: &Geometry| {
            let value = vec![1; length];
            let changes = (0..count)
                .map(|_| {
                    let key: &[u8] = &[7; 8];
                    (dmerkle::TreeId(1), key, NewChange::PutPlain(&value))
                })
                .collect();
            inline_bytes_max(&changes, None, geometry)
        };
        let usual = Geometry::default();
        assert_eq!(of(16_384, 1, &usual), 16_384);
        assert_eq!(of(16_384, 16, &usual), 16_384);
        assert_eq!(of(16_384, 17, &usual), INLINE_ALWAYS_BYTES);
        assert_eq!(of(100, 10_000, &usual), 16_384, "no medium part is there");
        let small = Geometry {
            ring_bytes: 1 << 20,
            ..usual
        };
        assert_eq!(of(16_384, 1, &small), 16_384);
        assert_eq!(of(16_384, 8, &small), INLINE_ALWAYS_BYTES);
        let tiny = Geometry::tiny();
        assert_eq!(of(1900, 1, &tiny), 2048);
        assert_eq!(of(2000, 1, &tiny), INLINE_ALWAYS_BYTES, "with its record");
    }
}
