//! A small correct store with planted bugs: the proof that the harness catches bugs, and knows a
//! correct store when it sees one.
//!
//! ```text
//! header A | header B | snapshot 0 | snapshot 1 | log | large values
//! ```
//!
//! It follows the engine's rules in small. A header names a snapshot and an epoch of the log; the
//! log's records of that epoch are replayed on the snapshot up to the first bad one. A bad record
//! below a later record's `durable` is rot, not a crash. An opening takes a checkpoint, whose new
//! epoch makes what it cut off dead. Every record is stamped with the newest generation, so that
//! the older header is not believed when the newer one rots.

mod codec;

use crate::model::{Change, Contents};
use crate::rng::Rng;
use crate::subject::{Env, RotPlace, Run, Subject};
use codec::{HEADER_BYTES, Header, Record, Value, decode_contents, encode_contents};
use engine::io::Disk;
use std::io;

const SECTOR: u64 = 512;
const AREA_BYTES: u64 = 24 * 1024;
const LOG_AT: u64 = 2 * SECTOR + 2 * AREA_BYTES;
const LOG_BYTES: u64 = 8 * 1024;
const VALUES_AT: u64 = LOG_AT + LOG_BYTES;
const VALUES_BYTES: u64 = 16 * 1024;
const FILE_BYTES: u64 = VALUES_AT + VALUES_BYTES;

/// What can be wrong with the toy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    NoFlush,
    AckBeforeFlush,
    HeaderBeforeSnapshot,
    LogReusedEarly,
    ValueUnchecked,
    RecordUnchecked,
    HoleSkipped,
    DeadTailAlive,
    OneSlot,
    StaleHeaderBelieved,
    RotCutOff,
    LengthTrusted,
    FailedFlushForgotten,
}

const BUGS: [(Bug, &str); 13] = [
    (Bug::NoFlush, "acknowledge without a flush"),
    (Bug::AckBeforeFlush, "acknowledge before the flush"),
    (
        Bug::HeaderBeforeSnapshot,
        "header before the snapshot is down",
    ),
    (Bug::LogReusedEarly, "log reused before the header is down"),
    (Bug::ValueUnchecked, "large value not verified at replay"),
    (Bug::RecordUnchecked, "record's checksum not verified"),
    (Bug::HoleSkipped, "replay goes on behind a bad record"),
    (Bug::DeadTailAlive, "cut tail left alive"),
    (Bug::OneSlot, "header rewritten in place"),
    (Bug::StaleHeaderBelieved, "stale header believed"),
    (Bug::RotCutOff, "rotten acknowledged record cut off"),
    (Bug::LengthTrusted, "length believed before the checksum"),
    (Bug::FailedFlushForgotten, "goes on after a failed flush"),
];

/// One step of a toy's history.
#[derive(Debug, Clone)]
pub enum Op {
    /// Commits a batch, durably or not.
    Commit(Vec<Change>, bool),
    /// Takes a checkpoint.
    Checkpoint,
    /// Is killed and opened again.
    Reopen,
}

/// The store.
pub struct Toy {
    env: Env,
    bug: Option<Bug>,
    contents: Contents,
    header: Header,
    slot: u64,
    log_at: u64,
    values_at: u64,
    /// The next record's number, and the number below which all records are durable.
    sequence: u64,
    durable: u64,
    /// A write or flush failed: what is on the medium is not known until the next opening.
    poisoned: bool,
}

impl Toy {
    fn blank(env: &Env) -> Self {
        Self {
            env: env.clone(),
            bug: env.bug.map(|bug| BUGS[bug].0),
            contents: Contents::new(),
            header: Header::default(),
            slot: 1,
            log_at: 0,
            values_at: 0,
            sequence: 0,
            durable: 0,
            poisoned: false,
        }
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(512), 0);
        self.env.disk.write(offset, &padded)
    }

    fn flush(&self) -> io::Result<()> {
        self.env.disk.flush()
    }

    fn read(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; crate::image::index(length)];
        self.fill(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads, twice if need be: an error that passes must not look like a sector that a crash
    /// spoilt, or an acknowledged record would be cut off with it.
    fn fill(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let disk = &self.env.disk;
        disk.read_cached(offset, bytes)
            .or_else(|_| disk.read_cached(offset, bytes))
    }

    /// Makes the contents the state that survives a crash, and starts the log anew.
    fn checkpoint(&mut self) -> io::Result<()> {
        let snapshot = encode_contents(&self.contents);
        let next = Header {
            generation: self.header.generation + 1,
            epoch: self.env.world.random(),
            area: self.header.area ^ 1,
            length: snapshot.len() as u64,
            checksum: crc32c::crc32c(&snapshot),
        };
        let slot = if self.has(Bug::OneSlot) {
            0
        } else {
            self.slot ^ 1
        };
        self.write(area_at(next.area), &snapshot)?; // over the snapshot before the last
        if !self.has(Bug::HeaderBeforeSnapshot) {
            self.flush()?; // down before the header names it
        }
        self.write(slot * SECTOR, &next.encode())?;
        if !self.has(Bug::LogReusedEarly) {
            self.flush()?; // from here a crash finds the new snapshot
        }
        (self.header, self.slot) = (next, slot);
        (self.log_at, self.values_at, self.sequence, self.durable) = (0, 0, 0, 0);
        self.append(&[])?; // the stamp: from here there is no way back to the other slot
        self.flush()?;
        self.durable = self.sequence;
        Ok(())
    }

    fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut values = Vec::new();
        for change in changes {
            if let Change::Put { value, .. } = change
                && value.len() > 256
            {
                self.write(VALUES_AT + self.values_at, value)?;
                values.push(self.values_at);
                self.values_at += (value.len() as u64).next_multiple_of(SECTOR);
            }
        }
        let record = Record::encode(&self.header, self.sequence, self.durable, changes, &values);
        self.write(LOG_AT + self.log_at, &record)?;
        self.log_at += (record.len() as u64).next_multiple_of(SECTOR);
        self.sequence += 1;
        Ok(())
    }

    fn commit(&mut self, changes: &[Change], durable: bool, run: &mut Run) -> io::Result<()> {
        if self.log_at + 2048 > LOG_BYTES || self.values_at + 4096 > VALUES_BYTES {
            self.checkpoint()?;
            run.acknowledge_all();
        }
        let batch = run.issue(changes);
        self.append(changes)?;
        for change in changes {
            codec::apply(&mut self.contents, change.clone());
        }
        if durable {
            if self.has(Bug::AckBeforeFlush) {
                run.acknowledge(batch);
            }
            if !self.has(Bug::NoFlush) {
                self.flush()?;
            }
            self.durable = self.sequence;
            run.acknowledge(batch);
        }
        Ok(())
    }

    fn recover(env: &Env) -> Result<Self, String> {
        let mut toy = Self::blank(env);
        toy.flush().map_err(|e| e.to_string())?; // what is read next is on the medium
        let headers = [0, 1].map(|slot| {
            let bytes = toy.read(slot * SECTOR, HEADER_BYTES).ok()?;
            Header::decode(&bytes)
        });
        let newer = |slot: usize| headers[slot].as_ref().map_or(0, |header| header.generation);
        let slot = usize::from(newer(1) > newer(0));
        toy.header = headers[slot].clone().ok_or("no header can be read")?;
        toy.slot = slot as u64;
        let log = toy.read_log();
        if headers[slot ^ 1].is_none()
            && !toy.has(Bug::StaleHeaderBelieved)
            && let Some(record) = (0..LOG_BYTES / SECTOR)
                .filter_map(|at| toy.record(&log, at * SECTOR))
                .find(|record| record.generation > toy.header.generation)
        {
            return Err(format!("generation {} was here", record.generation));
        }
        let snapshot = toy
            .read(area_at(toy.header.area), toy.header.length)
            .map_err(|e| e.to_string())?;
        if crc32c::crc32c(&snapshot) != toy.header.checksum {
            return Err("the snapshot is damaged".into());
        }
        toy.contents = decode_contents(&snapshot);
        toy.replay(&log)?;
        // The header could be read before: a disk that now refuses it refuses everything, and what
        // it refused of the log was not lost in a crash.
        toy.read(toy.slot * SECTOR, SECTOR)
            .map_err(|e| e.to_string())?;
        if toy.has(Bug::DeadTailAlive) {
            toy.durable = toy.sequence;
        } else {
            toy.checkpoint().map_err(|e| e.to_string())?;
        }
        Ok(toy)
    }

    /// The log; an unreadable sector reads as zeros, which are no record.
    fn read_log(&self) -> Vec<u8> {
        self.read(LOG_AT, LOG_BYTES).unwrap_or_else(|_| {
            let mut log = vec![0; crate::image::index(LOG_BYTES)];
            for (at, sector) in (LOG_AT..).step_by(512).zip(log.chunks_mut(512)) {
                if self.fill(at, sector).is_err() {
                    sector.fill(0);
                }
            }
            log
        })
    }

    fn record(&self, log: &[u8], at: u64) -> Option<Record> {
        let rest = &log[crate::image::index(at)..];
        Record::decode(
            rest,
            !self.has(Bug::RecordUnchecked),
            self.has(Bug::LengthTrusted),
        )
    }

    fn replay(&mut self, log: &[u8]) -> Result<(), String> {
        while self.log_at < LOG_BYTES {
            let record = self.record(log, self.log_at).filter(|record| {
                record.epoch == self.header.epoch && record.sequence == self.sequence
            });
            let changes = record.as_ref().and_then(|record| self.resolve(record));
            let (Some(record), Some(changes)) = (record, changes) else {
                let later: Vec<Record> = (self.log_at / SECTOR + 1..LOG_BYTES / SECTOR)
                    .filter_map(|at| self.record(log, at * SECTOR))
                    .filter(|record| record.epoch == self.header.epoch)
                    .collect();
                if self.has(Bug::HoleSkipped) && !later.is_empty() {
                    self.log_at += SECTOR;
                    let at = self.log_at;
                    if let Some(next) = self.record(log, at) {
                        self.sequence = next.sequence;
                    }
                    continue;
                }
                let durable = later.iter().any(|record| record.durable > self.sequence);
                if durable && !self.has(Bug::RotCutOff) {
                    return Err(format!("acknowledged record {} is bad", self.sequence));
                }
                return Ok(());
            };
            for change in changes {
                codec::apply(&mut self.contents, change);
            }
            self.log_at += record.length.next_multiple_of(SECTOR);
            self.sequence += 1;
        }
        Ok(())
    }

    /// The record's changes with their large values, or `None` if one of those did not survive.
    fn resolve(&mut self, record: &Record) -> Option<Vec<Change>> {
        let mut changes = Vec::new();
        let mut end = self.values_at;
        for (change, value) in &record.changes {
            let mut change = change.clone();
            if let (
                Change::Put { value: bytes, .. },
                Value::Large {
                    at,
                    length,
                    checksum,
                },
            ) = (&mut change, value)
            {
                *bytes = self.read(VALUES_AT + at, *length).ok()?;
                if crc32c::crc32c(bytes) != *checksum && !self.has(Bug::ValueUnchecked) {
                    return None;
                }
                end = at + length.next_multiple_of(SECTOR);
            }
            changes.push(change);
        }
        self.values_at = end;
        Some(changes)
    }
}

fn area_at(area: u64) -> u64 {
    2 * SECTOR + area * AREA_BYTES
}

impl Subject for Toy {
    type Op = Op;

    const KINDS: &'static [&'static str] = &[
        "put small",
        "put large",
        "put buffered",
        "delete",
        "batch over two trees",
        "create tree",
        "drop tree",
        "checkpoint",
        "reopen",
    ];
    const BUGS: &'static [&'static str] = &{
        let mut names = [""; BUGS.len()];
        let mut at = 0;
        while at < names.len() {
            names[at] = BUGS[at].1;
            at += 1;
        }
        names
    };
    const SECTOR: usize = 512;

    fn op(kind: usize, rng: &mut Rng) -> Op {
        let tree = |rng: &mut Rng| vec![b'r' + u8::try_from(rng.below(2)).expect("small")];
        let key = |rng: &mut Rng| vec![b'a' + u8::try_from(rng.below(3)).expect("small")];
        let value = |rng: &mut Rng, least: u64, most: u64| {
            let mut value = vec![0; crate::image::index(least + rng.below(most - least))];
            rng.fill(&mut value);
            value
        };
        let put = |rng: &mut Rng, tree: Vec<u8>, least, most| Change::Put {
            tree,
            key: key(rng),
            value: value(rng, least, most),
        };
        let here = tree(rng);
        match Self::KINDS[kind] {
            // The tree is made with its first entry, or most random puts would meet none.
            "put small" => Op::Commit(
                vec![Change::CreateTree(here.clone()), put(rng, here, 0, 200)],
                true,
            ),
            "put large" => Op::Commit(
                vec![Change::CreateTree(here.clone()), put(rng, here, 600, 1500)],
                true,
            ),
            "put buffered" => Op::Commit(
                vec![Change::CreateTree(here.clone()), put(rng, here, 0, 200)],
                false,
            ),
            "delete" => Op::Commit(
                vec![Change::Delete {
                    tree: here,
                    key: key(rng),
                }],
                true,
            ),
            "batch over two trees" => {
                let both = [b"r".to_vec(), b"s".to_vec()];
                let mut changes: Vec<Change> =
                    both.iter().cloned().map(Change::CreateTree).collect();
                changes.extend(both.map(|tree| put(rng, tree, 100, 400)));
                Op::Commit(changes, true)
            }
            "create tree" => Op::Commit(vec![Change::CreateTree(here)], true),
            "drop tree" => Op::Commit(vec![Change::DropTree(here)], true),
            "checkpoint" => Op::Checkpoint,
            _ => Op::Reopen,
        }
    }

    fn create(env: &Env) -> Result<Self, String> {
        let mut toy = Self::blank(env);
        env.disk
            .allocate(0, FILE_BYTES)
            .and_then(|()| toy.checkpoint())
            .map_err(|e| e.to_string())?;
        Ok(toy)
    }

    fn open(env: &Env) -> Result<Self, String> {
        Self::recover(env)
    }

    fn run_op(&mut self, op: &Op, run: &mut Run) -> Result<(), String> {
        if let Op::Reopen = op {
            self.poisoned = true; // should the opening fail
            *self = Self::recover(&run.env)?;
            return run.show(&self.contents);
        }
        if self.poisoned && !self.has(Bug::FailedFlushForgotten) {
            return Err("a write failed before".into());
        }
        let done = match op {
            Op::Commit(changes, durable) => self.commit(changes, *durable, run),
            _ => self.checkpoint().map(|()| run.acknowledge_all()),
        };
        self.poisoned |= done.is_err();
        done.map_err(|error| error.to_string())
    }

    fn dump(&mut self) -> Result<Contents, String> {
        Ok(self.contents.clone())
    }

    fn audit(&mut self) -> Result<(), String> {
        if self.log_at > LOG_BYTES || self.values_at > VALUES_BYTES {
            return Err("past the end of the log".into());
        }
        Ok(())
    }

    fn rot_places(_size: u64, _rng: &mut Rng) -> Vec<RotPlace> {
        let slots = (0..2).map(|slot| {
            let at = slot * SECTOR;
            RotPlace::new(format!("header {slot}"), at..at + SECTOR)
        });
        let log = (0..LOG_BYTES / SECTOR).map(|sector| {
            let at = LOG_AT + sector * SECTOR;
            RotPlace {
                may_lose_last_ack: true,
                ..RotPlace::new(format!("log sector {sector}"), at..at + SECTOR)
            }
        });
        slots.chain(log).collect()
    }
}

#[cfg(test)]
mod tests;
