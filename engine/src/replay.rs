//! Replay: what the live log says, as a memtable and a directory, and where it ends.
//!
//! Invariants:
//! - A batch is taken in whole or not at all, in the order of the log; the first one that does not
//!   hold ends it, and nothing behind it is looked at.
//! - A batch that no flush is known to cover counts only if each extent that it brought is on the disk.
//!   One that it kept was durable before it: damage there is met by who reads it, and says nothing of
//!   the batch.
//! - Every extent that a batch names is marked in use when the batch is taken in.

use crate::core::TreeChange;
use crate::directory::Directory;
use crate::error::Error;
use crate::io::{AlignedBuf, Disk};
use crate::medium;
use crate::memtable::{Key, Memtable, OpRef};
use crate::planted::{self, Bug};
use crate::space::Space;
use dmerkle::fingerprint::part_hash;
use dmerkle::format::extent::ExtentRef;
use dmerkle::format::log_block::block_at_or_after;
use dmerkle::format::record::{BatchRef, Operation};
use dmerkle::recover::{ReadAt, Scan, ScanInput, Tail, scan};
use dmerkle::{Corrupt, Geometry, Lsn, Place, Run, Structure};
use std::collections::VecDeque;

/// What a replay stands on.
pub(crate) struct Ground<'a> {
    pub(crate) reads: &'a dyn ReadAt,
    pub(crate) disk: &'a dyn Disk,
    pub(crate) input: ScanInput<'a>,
    pub(crate) space: &'a Space,
    pub(crate) directory: &'a Directory,
    /// Bytes of a memtable.
    pub(crate) memtable_bytes: u64,
    /// Whether damage to acknowledged commits ends the replay instead of refusing it.
    pub(crate) read_only: bool,
}

/// What the log said.
pub(crate) struct Replayed {
    pub(crate) memtable: Memtable,
    /// Units that its medium parts will be moved to.
    pub(crate) owed_units: u64,
    /// Where the live log ends, to the byte.
    pub(crate) cut: Lsn,
    pub(crate) scan: Scan,
}

/// Replays the live log.
pub(crate) fn replay(ground: &Ground<'_>) -> Result<Replayed, Error> {
    let superblock = ground.input.superblock;
    let geometry = superblock.geometry;
    let mut replay = Replay {
        reads: ground.reads,
        disk: ground.disk,
        geometry: &geometry,
        file_bytes: ground.reads.len(),
        space: ground.space,
        directory: ground.directory,
        memtable: Memtable::new(ground.memtable_bytes),
        owed_units: 0,
        end: superblock.log_start,
    };
    // What is not known to be covered yet waits for a later block to say so: never more than what
    // may be written past the durable LSN, however long the log is.
    let mut doubtful: VecDeque<Doubtful> = VecDeque::new();
    let scanned = scan(ground.reads, &ground.input, &mut |batch| {
        while let Some(first) = doubtful.pop_front_if(|first| first.end <= batch.durable) {
            replay.apply(first.end, &first.bytes)?;
        }
        if batch.end <= batch.durable {
            return replay.apply(batch.end, batch.bytes);
        }
        doubtful.push_back(Doubtful {
            start: batch.start,
            end: batch.end,
            bytes: batch.bytes.to_vec(),
        });
        Ok(())
    })?;
    if scanned.lost_generation(superblock).is_some() && !planted::has(Bug::StaleSuperblock) {
        return Err(Error::SuperblockLost);
    }
    if let Tail::Corrupt { at, durable } = scanned.tail
        && !ground.read_only
        && !planted::has(Bug::CutAcknowledged)
    {
        return Err(Error::AcknowledgedLoss { at, durable });
    }
    let mut whole = true;
    for batch in doubtful {
        if batch.end > scanned.durable && !replay.extents_hold(&batch.bytes, batch.end)? {
            whole = false; // torn: this batch and all behind it were never acknowledged
            break;
        }
        debug_assert!(batch.start >= replay.end, "batches come in order");
        replay.apply(batch.end, &batch.bytes)?;
    }
    // The scan's end may lie behind the last batch: an older cut, where nothing may be written.
    let mut cut = if whole {
        scanned.end.max(replay.end)
    } else {
        replay.end
    };
    if planted::has(Bug::CutByBlock) {
        cut = block_at_or_after(&geometry, cut);
    }
    Ok(Replayed {
        memtable: replay.memtable,
        owed_units: replay.owed_units,
        cut,
        scan: scanned,
    })
}

/// A batch that no flush is known to cover yet.
struct Doubtful {
    start: Lsn,
    end: Lsn,
    bytes: Vec<u8>,
}

/// The memtable and the trees as the log tells them.
struct Replay<'a> {
    reads: &'a dyn ReadAt,
    disk: &'a dyn Disk,
    geometry: &'a Geometry,
    file_bytes: u64,
    space: &'a Space,
    directory: &'a Directory,
    memtable: Memtable,
    owed_units: u64,
    /// The end of the last batch that counts.
    end: Lsn,
}

impl Replay<'_> {
    /// Takes one batch in.
    fn apply(&mut self, end: Lsn, bytes: &[u8]) -> Result<(), Error> {
        let batch = decode(bytes, end)?;
        let mut last = None;
        for operation in batch.ops() {
            if let Some(key) = key_of(&operation)
                && last.replace(key).is_some_and(|last| last >= key)
            {
                let rule = "the keys of a batch must ascend";
                return Err(Corrupt::rule(Structure::LogRecord, rule)
                    .at(Place::Lsn(end))
                    .into());
            }
            match operation {
                Operation::Put { body, .. } => {
                    for extent in body.extents() {
                        self.mark(extent.run(self.geometry))?;
                    }
                    self.owed_units += medium::units_of(body, self.geometry);
                }
                Operation::Delete { .. } => {}
                Operation::CreateTree { tree, name } => {
                    let name = name.to_vec();
                    self.directory.apply(TreeChange::Create { tree, name }, end);
                }
                Operation::DropTree { tree } => {
                    self.directory.apply(TreeChange::Drop { tree }, end);
                }
            }
        }
        let ops = batch.ops().filter_map(|operation| {
            let op = match operation {
                Operation::Put { body, .. } => OpRef::Put(body),
                _ => OpRef::Delete,
            };
            Some((key_of(&operation)?, op))
        });
        // Nobody reads yet, so every older version leaves.
        self.memtable
            .insert(ops, end, end, &|_, _| false, self.geometry);
        self.end = end;
        Ok(())
    }

    fn mark(&self, run: Run) -> Result<(), Error> {
        if planted::has(Bug::ForgetLogNamed) {
            return Ok(());
        }
        if self.space.mark(run, self.file_bytes) {
            return Ok(());
        }
        let outside = "an extent outside the data regions";
        Err(Corrupt::rule(Structure::LogRecord, outside)
            .at(Place::Block(run.start))
            .into())
    }

    /// Whether every extent that a batch brought is on the disk as its record says.
    fn extents_hold(&self, bytes: &[u8], end: Lsn) -> Result<bool, Error> {
        for operation in decode(bytes, end)?.ops() {
            if let Operation::Put {
                tree, key, body, ..
            } = operation
            {
                for extent in body.extents() {
                    let run = extent.run(self.geometry);
                    if !self.was_kept(Key::new(tree, key), run) && !self.extent_holds(extent) {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Whether an extent is one that the entry had before: the log or the base names it.
    fn was_kept(&self, key: Key<'_>, run: Run) -> bool {
        let older = self.memtable.probe(key, self.end).found;
        let mut named = older.into_iter().flat_map(|op| op.runs(self.geometry));
        // What the base reaches belongs to nobody else. A map that cannot be read says nothing.
        named.any(|named| named == run) || self.space.is_reached(self.disk, run).unwrap_or(false)
    }

    fn extent_holds(&self, extent: ExtentRef<'_>) -> bool {
        if planted::has(Bug::SkipExtentHash) {
            return true;
        }
        let run = extent.run(self.geometry);
        if run.end() * self.geometry.unit() > self.file_bytes {
            return false;
        }
        let bytes = u64::from(run.units) * self.geometry.unit();
        let mut buffer = AlignedBuf::zeroed(usize::try_from(bytes).expect("at most 256 MiB"));
        let length = usize::try_from(extent.length()).expect("at most 256 MiB");
        let offset = self.geometry.offset_of(run.start);
        self.reads.read_at(offset, &mut buffer).is_ok()
            && extent.verify(&buffer[..length]).is_ok()
            && part_hash(&buffer[..length]) == *extent.hash()
            // Garbled in flight, so no flush covers it, and no reader would ever forgive it.
            && buffer[length..].iter().all(|byte| *byte == 0)
    }
}

/// The key that a put or a delete is about.
fn key_of<'a>(operation: &Operation<'a>) -> Option<Key<'a>> {
    match *operation {
        Operation::Put { tree, key, .. } | Operation::Delete { tree, key, .. } => {
            Some(Key::new(tree, key))
        }
        Operation::CreateTree { .. } | Operation::DropTree { .. } => None,
    }
}

fn decode(bytes: &[u8], end: Lsn) -> Result<BatchRef<'_>, Error> {
    BatchRef::decode(bytes).map_err(|corrupt| corrupt.at(Place::Lsn(end)).into())
}
