//! The stores whose bits are tried: one history with every structure in it, looked at in several
//! moments.
//!
//! Each operation that commits is one batch, so that the states which the history went through can
//! be counted back from its end: the last of them belong to the batches of the live log.

use super::anatomy::Anatomy;
use crate::history::{DiskOp, History};
use crate::image::Image;
use crate::model::{Change, Contents, Ledger};
use crate::rng::Rng;
use crate::sim_disk::SimDisk;
use crate::subject::{Env, Run, Subject};
use crate::whole::{Op, Whole, entry_value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A store at one moment, and all that is known of it.
pub struct Specimen {
    /// Which moment.
    pub name: &'static str,
    /// The store's file then.
    pub image: Image,
    /// The states that it went through, oldest first; the last one is what it holds.
    pub states: Vec<Contents>,
    /// Whose each sector is.
    pub anatomy: Anatomy,
    /// What each sector held earlier and does not hold now, newest first.
    pub earlier: BTreeMap<u64, Vec<Arc<[u8]>>>,
    /// The writes that led here: where each one went, and what would stand there without it.
    pub lost: Vec<(u64, Arc<[u8]>)>,
}

/// The history of a store in the making.
struct Making {
    run: Run,
    subject: Whole,
    states: Vec<Contents>,
}

/// All moments of the history that a seed makes.
pub fn specimens(seed: u64) -> Result<Vec<Specimen>, String> {
    let mut rng = Rng::new(seed);
    let disk = SimDisk::recording(Image::empty(Whole::SECTOR));
    let mut run = Run {
        env: Env::new(disk, rng.number(), None),
        ledger: Ledger::of_nothing(),
    };
    let created = run.ledger.create(0);
    let subject = Whole::create(&run.env)?;
    run.acknowledge(created);
    let mut making = Making {
        run,
        subject,
        states: vec![Contents::new()],
    };
    for op in script(&mut rng) {
        making.does(&op)?;
    }
    let mut moments = vec![making.moment("crashed behind commits")?];
    // A checkpoint whose superblock is down and whose stamp is not: both slots may be opened.
    let before = moments[0].anatomy.generation;
    let stamped = loop {
        making.does(&Op::Step(1))?;
        let now = making.moment("crashed before the stamp")?;
        if now.anatomy.generation > before {
            break now;
        }
    };
    moments.push(stamped);
    making.does(&Op::Checkpoint)?;
    for op in tail(&mut rng) {
        making.does(&op)?;
    }
    let store = making.subject.store()?.clone();
    store.close().map_err(|error| error.to_string())?;
    moments.push(making.moment("closed")?);
    Ok(moments)
}

impl Making {
    fn does(&mut self, op: &Op) -> Result<(), String> {
        self.subject
            .run_op(op, &mut self.run)
            .map_err(|what| format!("{op:?}: {what}"))?;
        if matches!(op, Op::Commit(..) | Op::CreateOrDrop(_)) {
            let newest = self.run.ledger.newest().cloned();
            self.states.push(newest.unwrap_or_default());
        }
        Ok(())
    }

    fn moment(&self, name: &'static str) -> Result<Specimen, String> {
        let disk = &self.run.env.disk;
        let image = disk.image();
        let anatomy = Anatomy::of(&image)?;
        assert!(
            anatomy.batches.len() < self.states.len(),
            "{name}: a batch of the log that nobody committed"
        );
        let (earlier, lost) = past(&disk.history(), &image);
        Ok(Specimen {
            name,
            states: self.states.clone(),
            anatomy,
            earlier,
            lost,
            image,
        })
    }
}

/// What `past` gives.
type Past = (BTreeMap<u64, Vec<Arc<[u8]>>>, Vec<(u64, Arc<[u8]>)>);

/// What the sectors held before, and what each write would leave behind if it alone were lost.
fn past(history: &History, now: &Image) -> Past {
    let sector = now.sector();
    let mut image = Image::empty(sector);
    let mut earlier: BTreeMap<u64, Vec<Arc<[u8]>>> = BTreeMap::new();
    // Of each write: what stood there before. Later writes of the same sectors hide the loss.
    let mut writes: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut last_write: BTreeMap<u64, usize> = BTreeMap::new();
    for op in history.ops() {
        match op {
            DiskOp::Size(size) => image.set_size(*size),
            DiskOp::Punch { offset, bytes } => image.zero(*offset, *bytes),
            DiskOp::Write { offset, bytes } => {
                let mut before = vec![0; bytes.len()];
                image.copy_out(*offset, &mut before);
                for (at, old) in before.chunks(sector).enumerate() {
                    let place = offset + (at * sector) as u64;
                    earlier.entry(place).or_default().push(old.into());
                    last_write.insert(place, writes.len());
                }
                image.write(*offset, bytes);
                writes.push((*offset, before));
            }
            DiskOp::Flush | DiskOp::FlushFailed(_) | DiskOp::Rot { .. } => {}
        }
    }
    for (place, versions) in &mut earlier {
        versions.reverse();
        let mut kept: Vec<Arc<[u8]>> = Vec::new();
        for version in versions.drain(..) {
            let is_now = now.holds(*place, &version);
            if !is_now && !kept.contains(&version) {
                kept.push(version);
            }
        }
        *versions = kept;
    }
    earlier.retain(|_, versions| !versions.is_empty());
    let lost = writes
        .into_iter()
        .enumerate()
        .filter_map(|(number, write)| {
            let (offset, before) = write;
            let mut without = vec![0; before.len()];
            now.copy_out(offset, &mut without);
            let mut changed = false;
            for (at, old) in before.chunks(sector).enumerate() {
                let place = offset + (at * sector) as u64;
                // A hole punched since is newer than the write, and reads as zeros either way.
                if last_write[&place] == number && !now.holds(place, &vec![0; sector]) {
                    without[at * sector..][..sector].copy_from_slice(old);
                    changed |= !now.holds(place, old);
                }
            }
            changed.then(|| (offset, without.into()))
        });
    let lost = lost.collect();
    (earlier, lost)
}

fn put(rng: &mut Rng, tree: &[u8], key: u64, least: u64, most: u64) -> Change {
    let mut bytes = |least: u64, most: u64| {
        let length = least + rng.below(most - least);
        let mut bytes = vec![0; usize::try_from(length).expect("small")];
        rng.fill(&mut bytes);
        bytes
    };
    let parts = match key % 7 {
        // A sibling beside the value, and a tombstone now and then.
        0 => vec![bytes(least, most), bytes(0, 60)],
        1 if least < 100 => Vec::new(),
        _ => vec![bytes(least, most)],
    };
    let meta = if key.is_multiple_of(3) {
        bytes(1, 40)
    } else {
        Vec::new()
    };
    Change::Put {
        tree: tree.to_vec(),
        key: format!("key {key:03}").into_bytes(),
        value: entry_value(&meta, &parts),
    }
}

fn script(rng: &mut Rng) -> Vec<Op> {
    let mut ops: Vec<Op> = [b"s", b"t", b"u", b"v"]
        .map(|name| Op::CreateOrDrop(name.to_vec()))
        .into();
    // Trees deep enough for branches over branches, values of all sizes.
    for first in (0..72).step_by(6) {
        let some = (first..first + 6).map(|key| put(rng, b"s", key, 0, 90));
        ops.push(Op::Commit(some.collect(), true));
        ops.push(Op::Commit(vec![put(rng, b"t", first, 1025, 9000)], true));
        ops.push(Op::Commit(
            vec![put(rng, b"t", first + 1, 1025, 3000)],
            true,
        ));
        let both = vec![
            put(rng, b"s", first, 1025, 2500),
            put(rng, b"u", first, 0, 2000),
        ];
        ops.push(Op::Commit(both, true));
        ops.push(Op::Commit(vec![put(rng, b"v", first, 200, 4000)], true));
        if first % 24 == 18 {
            ops.push(Op::Checkpoint);
        }
    }
    ops.push(Op::Reopen(1));
    for key in [3, 9, 30, 66] {
        ops.push(Op::Commit(vec![put(rng, b"s", key, 0, 3000)], true));
        let (tree, key) = (b"t".to_vec(), format!("key {:03}", key * 2).into_bytes());
        ops.push(Op::Commit(vec![Change::Delete { tree, key }], true));
    }
    ops.push(Op::Checkpoint);
    // Dropped, and hidden by a checkpoint that has removed none of it yet; the other one is dropped
    // by the log alone.
    ops.push(Op::CreateOrDrop(b"u".to_vec()));
    ops.push(Op::Checkpoint);
    ops.push(Op::Reopen(2));
    ops.push(Op::CreateOrDrop(b"v".to_vec()));
    ops.extend(tail(rng));
    ops
}

/// Commits that no checkpoint has yet, by two incarnations; the last group holds several batches.
fn tail(rng: &mut Rng) -> Vec<Op> {
    let mut ops = Vec::new();
    for key in [5, 12, 40, 200, 201] {
        ops.push(Op::Commit(vec![put(rng, b"s", key, 0, 300)], true));
        // One part of the log's, the rest with units of their own.
        let (least, most) = if key == 40 {
            (1025, 1900)
        } else {
            (2049, 5000)
        };
        ops.push(Op::Commit(vec![put(rng, b"t", key, least, most)], true));
    }
    ops.push(Op::Reopen(1));
    ops.push(Op::Commit(vec![put(rng, b"s", 300, 300, 900)], true));
    ops.push(Op::Commit(vec![put(rng, b"t", 300, 2049, 4000)], true));
    for (key, durable) in [(301, false), (302, false), (303, true)] {
        let (least, most) = if key == 302 { (2049, 2500) } else { (300, 900) };
        ops.push(Op::Commit(vec![put(rng, b"s", key, least, most)], durable));
    }
    ops
}
