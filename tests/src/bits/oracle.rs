//! What a damaged store may answer: right bytes, or an error that names what is damaged.
//!
//! The rule, for damage of the sectors `D` of a store that held the state `E`:
//!
//! 1. *Opening.* A refusal names a block, and that block is in `D`. `SuperblockLost` names a slot
//!    both copies of which are in `D`; `AcknowledgedLoss` names the LSN of a log block in `D` above
//!    which the log is known to have been durable by something that is not in `D`.
//! 2. *What it holds then.* Let `x` be the first block of the live log in `D`, and `C` the largest
//!    LSN below which the log is known to have been durable by a log block or superblock that is
//!    not in `D`. If `C > x` the opening refuses. Else it holds `E` less the first batch that ends
//!    above `x`, or that ends above `C` and names an extent in `D`, and all batches after it:
//!    exactly these. That is the honest limit: with one damaged sector `C` reaches the last group,
//!    so only a batch of the last group can be missing, and only if it is itself damaged.
//! 3. *Reading.* Each key, both directions of the range, and the fingerprint give what that state
//!    holds, or an error that names a block in `D`.
//! 4. *Nothing goes unnoticed.* Damage of the region table, a map, a node or a part is met by the
//!    opening, a reader or `verify`; of anything free, of the other slot, or of one copy of the
//!    newest superblock, nobody speaks.
//! 5. Whatever is damaged: no panic, a bounded number of reads, no allocation beyond the file.

use super::anatomy::{Anatomy, Kind, place, sectors};
use super::specimen::Specimen;
use crate::allocations::{self, Allocations};
use crate::check::guarded;
use crate::image::Image;
use crate::model::Contents;
use crate::sim_disk::SimDisk;
use crate::subject::Env;
use crate::whole::{entry_of_value, options};
use dmerkle::format::superblock::Slot;
use dmerkle::geometry::SUPERBLOCK_OFFSETS;
use dmerkle::{BlockId, Lsn, Place, Summary};
use engine::io::Disk;
use engine::{Entry, Error, Store, Tree, Violation};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How a damaged store fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// All was right, and nobody noticed anything.
    Right,
    /// The opening refused.
    Refused,
    /// A reader met the damage.
    Read,
    /// Only `verify` met it.
    Verified,
    /// The last group of the log is missing: the honest limit.
    Shorter,
}

/// The fates, as the table shows them.
pub const FATES: [&str; 5] = ["right", "refused", "read", "verify", "shorter"];

/// What the sound store costs and sums up to: what bounds the damaged ones.
#[derive(Debug, Clone, Default)]
pub struct Sound {
    /// Operations of the disk.
    pub operations: u64,
    /// Memory.
    pub allocations: Allocations,
    /// Count and fingerprint of each tree.
    pub sums: BTreeMap<Vec<u8>, Summary>,
}

/// Bytes that an opening takes whatever is on the disk, more or less by chance: tables of the
/// cache, pages of the simulated disk that are copied when they are written.
const SLACK_BYTES: u64 = 64 << 10;

/// A damaged store may ask the disk so many times more often than the sound one.
const OPERATIONS_TIMES: u64 = 4;

/// Damage, and what follows from it.
struct Damage<'a> {
    specimen: &'a Specimen,
    damaged: &'a BTreeSet<u64>,
    /// The first damaged block of the live log.
    first_bad: Option<Lsn>,
    /// Below this the log is known to have been durable.
    claim: Lsn,
}

impl<'a> Damage<'a> {
    fn new(specimen: &'a Specimen, damaged: &'a BTreeSet<u64>) -> Self {
        let anatomy = &specimen.anatomy;
        let superblock = &anatomy.superblock;
        let is_sound = |sector: &u64| !damaged.contains(sector);
        let claims = anatomy.claims.iter();
        let sound_claims = claims.filter(|(sector, _)| is_sound(sector));
        let mut claim = sound_claims
            .map(|(_, durable)| *durable)
            .max()
            .unwrap_or_default();
        if !is_slot_lost(anatomy.slot, damaged) {
            claim = claim.max(superblock.cut).max(superblock.durable);
        }
        let bad = anatomy
            .claims
            .keys()
            .filter(|sector| damaged.contains(sector));
        Self {
            first_bad: bad.map(|sector| anatomy.lsn_of(*sector)).min(),
            specimen,
            damaged,
            claim,
        }
    }

    fn any(&self, range: &std::ops::Range<u64>) -> bool {
        sectors(range).any(|sector| self.damaged.contains(&sector))
    }

    /// How many batches of the live log must be missing.
    fn missing(&self) -> usize {
        let batches = &self.specimen.anatomy.batches;
        let is_cut = |batch: &&super::anatomy::Batch| {
            self.first_bad.is_some_and(|bad| batch.end > bad)
                || (batch.end > self.claim && !batch.extents.is_disjoint(self.damaged))
        };
        let first = batches.iter().position(|batch| is_cut(&batch));
        first.map_or(0, |first| batches.len() - first)
    }

    /// The state without the newest batches.
    fn state(&self, missing: usize) -> &'a Contents {
        let states = &self.specimen.states;
        &states[states.len() - 1 - missing]
    }

    /// Whether an error names a block, and one that is damaged.
    fn names_damage(&self, error: &Error) -> Result<(), String> {
        let anatomy = &self.specimen.anatomy;
        let at_unit = |block: BlockId| {
            let run = anatomy.owners.get(&block.0);
            run.is_some_and(|run| self.any(&place(&anatomy.geometry, *run)))
        };
        let named = match error {
            Error::Corrupt(corrupt) => match corrupt.place {
                Place::Unknown => return Err(format!("an error that names no block: {error}")),
                Place::Byte(at) => self.at_byte(at),
                Place::Block(block) => at_unit(block),
                Place::Lsn(lsn) => self.damaged.contains(&anatomy.sector_of(lsn)),
                Place::Region(region) => {
                    let at = anatomy.geometry.map_offset(region, 0);
                    self.any(&(at..at + 2 * anatomy.geometry.map_bytes()))
                }
            },
            Error::AcknowledgedLoss { at, .. } => {
                self.damaged.contains(&anatomy.sector_of(*at)) && self.claim > *at
            }
            Error::SuperblockLost => [Slot::A, Slot::B]
                .iter()
                .any(|slot| is_slot_lost(*slot, self.damaged)),
            Error::NotAStore(_) => SUPERBLOCK_OFFSETS
                .iter()
                .all(|at| self.damaged.contains(at)),
            Error::Io { .. } => {
                let text = error.to_string();
                let number = text.split_once("at byte ").map(|(_, rest)| rest);
                let digits =
                    number.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
                let Some(at) = digits.and_then(|digits| digits.parse().ok()) else {
                    return Err(format!("an error that names no place: {error}"));
                };
                self.at_byte(at) || at_unit(BlockId(at / anatomy.geometry.unit()))
            }
            _ => false,
        };
        if named {
            return Ok(());
        }
        Err(format!("an error that names what is not damaged: {error}"))
    }

    fn at_byte(&self, at: u64) -> bool {
        self.damaged.contains(&(at / 512 * 512))
    }

    /// Whether what `verify` says names what is damaged.
    fn is_damage(&self, violation: &Violation) -> bool {
        let anatomy = &self.specimen.anatomy;
        let run_is = |run| self.any(&place(&anatomy.geometry, run));
        match violation {
            Violation::Superblock { copy, .. } => self.at_byte(SUPERBLOCK_OFFSETS[*copy]),
            Violation::RegionTable(_) => self.has(|kind| kind == Kind::RegionTable),
            Violation::Map { region, .. } => {
                let at = anatomy.geometry.map_offset(*region, 0);
                self.any(&(at..at + 2 * anatomy.geometry.map_bytes()))
            }
            Violation::Tree(broken) => {
                let run = anatomy.owners.get(&broken.block.0);
                run.is_some_and(|run| run_is(*run))
            }
            Violation::Part { run, .. } => run_is(*run),
            _ => false,
        }
    }

    fn has(&self, is: impl Fn(Kind) -> bool) -> bool {
        let kinds = self.damaged.iter();
        kinds
            .map(|sector| self.specimen.anatomy.kind(*sector))
            .any(is)
    }

    /// Whether somebody must meet the damage.
    fn must_be_noticed(&self) -> bool {
        self.has(|kind| {
            matches!(
                kind,
                Kind::RegionTable
                    | Kind::Map
                    | Kind::Catalog
                    | Kind::Branch
                    | Kind::Leaf
                    | Kind::Extent
                    | Kind::LoggedExtent
            )
        })
    }

    /// Whether nobody may speak of it.
    fn is_harmless(&self) -> bool {
        !self.has(|kind| !matches!(kind, Kind::Free | Kind::OtherSlot | Kind::NewestSlot))
            && !is_slot_lost(self.specimen.anatomy.slot, self.damaged)
    }
}

impl Anatomy {
    fn sector_of(&self, lsn: Lsn) -> u64 {
        self.geometry.log_offset(lsn) / 512 * 512
    }

    /// The LSN of a sector of the live log.
    fn lsn_of(&self, sector: u64) -> Lsn {
        let start = self.superblock.log_start.0;
        let ring = self.geometry.ring_bytes;
        let within = sector - self.geometry.ring_offset();
        Lsn(start + (within + ring - start % ring) % ring)
    }
}

fn is_slot_lost(slot: Slot, damaged: &BTreeSet<u64>) -> bool {
    let copies = slot.copies().map(|copy| SUPERBLOCK_OFFSETS[copy]);
    copies.iter().all(|at| damaged.contains(at))
}

/// What reading everything gave.
#[derive(Default)]
struct Seen {
    errors: Vec<Error>,
    violations: Vec<Violation>,
    sums: BTreeMap<Vec<u8>, Summary>,
}

/// Opens a sound specimen and reads everything.
pub fn sound(specimen: &Specimen) -> Result<Sound, String> {
    let mut sound = Sound::default();
    // Twice: the first opening of a thread also makes what the thread keeps.
    for _ in 0..2 {
        let disk = Arc::new(SimDisk::of(specimen.image.clone()));
        let env = Env::with(Arc::clone(&disk), 1, None);
        allocations::begin();
        let newest = specimen.states.last().expect("there is a first");
        let store = Store::open_on(Arc::clone(&disk) as Arc<dyn Disk>, env.world, &options());
        let store = store.map_err(|error| error.to_string())?;
        let seen = read_all(&store, newest, None)?;
        store.abandon();
        drop(store);
        if let Some(error) = seen.errors.first() {
            return Err(error.to_string());
        }
        if let Some(violation) = seen.violations.first() {
            return Err(violation.to_string());
        }
        sound = Sound {
            operations: disk.counts().all(),
            allocations: allocations::taken(),
            sums: seen.sums,
        };
    }
    Ok(sound)
}

/// Opens a damaged store, reads everything, and judges.
pub fn try_one(
    specimen: &Specimen,
    sound: &Sound,
    image: Image,
    damaged: &BTreeSet<u64>,
) -> Result<(Fate, Allocations), String> {
    let damage = Damage::new(specimen, damaged);
    let size = image.size();
    let disk = Arc::new(SimDisk::of(image));
    disk.set_operations_max(OPERATIONS_TIMES * sound.operations + 1000);
    let env = Env::with(Arc::clone(&disk), 1, None);
    let world = env.world;
    allocations::begin();
    let fate = guarded(|| {
        let disk = Arc::clone(&disk) as Arc<dyn Disk>;
        match Store::open_on(Arc::clone(&disk), world.clone(), &options()) {
            Ok(store) => {
                let fate = damage.judge(&store, sound);
                store.abandon();
                fate
            }
            Err(refusal) => {
                damage.names_damage(&refusal)?;
                if let Error::AcknowledgedLoss { at, .. } = refusal {
                    damage.judge_read_only(disk, world, at)?;
                }
                Ok(Fate::Refused)
            }
        }
    })?;
    let taken = allocations::taken();
    let bound = Allocations {
        largest_bytes: sound.allocations.largest_bytes.max(size),
        peak_bytes: sound.allocations.peak_bytes + size + SLACK_BYTES,
    };
    if taken.largest_bytes > bound.largest_bytes || taken.peak_bytes > bound.peak_bytes {
        return Err(format!(
            "{taken:?} for a file of {size} bytes, the bound is {bound:?}"
        ));
    }
    Ok((fate, taken))
}

/// Opens a store that somebody has changed so that all checksums fit, and reads what it can: it must
/// end, and not panic.
pub fn try_sealed(
    specimen: &Specimen,
    sound: &Sound,
    image: Image,
) -> Result<(Fate, Allocations), String> {
    let disk = Arc::new(SimDisk::of(image));
    disk.set_operations_max(OPERATIONS_TIMES * sound.operations + 1000);
    let env = Env::with(Arc::clone(&disk), 1, None);
    let newest = specimen.states.last().expect("there is a first");
    let fate = guarded(
        || match Store::open_on(disk as Arc<dyn Disk>, env.world, &options()) {
            Ok(store) => {
                let read = read_all(&store, newest, None);
                let verified = store.verify().is_ok_and(|report| report.is_sound());
                store.abandon();
                Ok(match read {
                    Ok(seen) if seen.errors.is_empty() && verified => Fate::Right,
                    Ok(seen) if seen.errors.is_empty() => Fate::Verified,
                    _ => Fate::Read,
                })
            }
            Err(_) => Ok(Fate::Refused),
        },
    )?;
    Ok((fate, Allocations::default()))
}

impl Damage<'_> {
    fn judge(&self, store: &Store, sound: &Sound) -> Result<Fate, String> {
        if let Some(bad) = self.first_bad
            && self.claim > bad
            && !is_slot_lost(self.specimen.anatomy.slot, self.damaged)
        {
            return Err(format!(
                "opened, although the log is damaged at LSN {bad}, below the durable {}",
                self.claim
            ));
        }
        let missing = self.missing();
        let sums = (missing == 0).then_some(&sound.sums);
        let seen = read_all(store, self.state(missing), sums)?;
        for error in &seen.errors {
            self.names_damage(error)?;
        }
        if !seen.violations.is_empty() && !seen.violations.iter().any(|v| self.is_damage(v)) {
            return Err(format!(
                "verify names nothing that is damaged: {:?}",
                seen.violations
            ));
        }
        let quiet = seen.errors.is_empty() && seen.violations.is_empty();
        if quiet && missing == 0 && self.must_be_noticed() {
            return Err("nobody noticed it".into());
        }
        if !quiet && self.is_harmless() {
            return Err("an alarm for what nobody needs".into());
        }
        Ok(match (missing, seen.errors.is_empty(), quiet) {
            (1.., ..) => Fate::Shorter,
            (_, false, _) => Fate::Read,
            (_, _, false) => Fate::Verified,
            _ => Fate::Right,
        })
    }

    /// What a store with damaged commits shows to who opens it for reading: all before them.
    fn judge_read_only(
        &self,
        disk: Arc<dyn Disk>,
        world: engine::world::World,
        at: Lsn,
    ) -> Result<(), String> {
        let store = match Store::open_read_only_on(disk, world, &options()) {
            Ok(store) => store,
            Err(refusal) => return self.names_damage(&refusal),
        };
        let batches = &self.specimen.anatomy.batches;
        let missing = batches.iter().filter(|batch| batch.end > at).count();
        let seen = read_all(&store, self.state(missing.max(self.missing())), None)
            .map_err(|what| format!("opened for reading: {what}"))?;
        seen.errors
            .iter()
            .try_for_each(|error| self.names_damage(error))
    }
}

/// Reads everything in every way and compares it with `expected`; errors are collected.
fn read_all(
    store: &Store,
    expected: &Contents,
    sums: Option<&BTreeMap<Vec<u8>, Summary>>,
) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let names: Vec<Vec<u8>> = store.trees().into_iter().map(|tree| tree.name).collect();
    if !names.iter().eq(expected.keys()) {
        return Err(format!("other trees: {names:?}"));
    }
    for (name, entries) in expected {
        let tree = store.tree(name).map_err(|error| error.to_string())?;
        seen.read_tree(&tree, entries)
            .map_err(|what| format!("tree {}: {what}", name.escape_ascii()))?;
        match tree.fingerprint(&[], None) {
            Ok(sum) if sum.count != entries.len() as u64 => {
                return Err(format!(
                    "it counts {} of {} entries",
                    sum.count,
                    entries.len()
                ));
            }
            Ok(sum) if sums.is_some_and(|sums| sums[name] != sum) => {
                return Err("it has another fingerprint".into());
            }
            Ok(sum) => {
                seen.sums.insert(name.clone(), sum);
            }
            Err(error) => seen.errors.push(error),
        }
    }
    match store.verify() {
        Ok(report) => seen.violations = report.violations,
        Err(error) => seen.errors.push(error),
    }
    Ok(seen)
}

impl Seen {
    fn read_tree(
        &mut self,
        tree: &Tree,
        entries: &BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<(), String> {
        // What is there, and what lies beside it or was there once.
        for (key, value) in entries {
            let (_, parts) = entry_of_value(value);
            match tree.get(key) {
                Ok(got) if got.as_ref() == parts.first() => {}
                Ok(_) => return Err(format!("get of {} gives other bytes", key.escape_ascii())),
                Err(error) => self.errors.push(error),
            }
        }
        for key in (0..310)
            .step_by(10)
            .map(|key| format!("key {key:03}").into_bytes())
        {
            match tree.has(&key) {
                Ok(has) if has == entries.contains_key(&key) => {}
                Ok(_) => return Err(format!("has of {} is wrong", key.escape_ascii())),
                Err(error) => self.errors.push(error),
            }
        }
        let mut expected: Vec<_> = entries.iter().collect();
        self.walk(tree.range(b"", None), &expected)?;
        expected.reverse();
        self.walk(tree.range_back(b"", None), &expected)
    }

    fn walk(
        &mut self,
        range: engine::Range,
        expected: &[(&Vec<u8>, &Vec<u8>)],
    ) -> Result<(), String> {
        let mut expected = expected.iter();
        for entry in range {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.errors.push(error);
                    return Ok(());
                }
            };
            let Some((key, value)) = expected.next() else {
                return Err("a range gives more than there is".into());
            };
            if entry.key() != key.as_slice() {
                return Err(format!("a range passes over {}", key.escape_ascii()));
            }
            self.compare(&entry, value)?;
        }
        if let Some((key, _)) = expected.next() {
            return Err(format!("a range ends before {}", key.escape_ascii()));
        }
        Ok(())
    }

    fn compare(&mut self, entry: &Entry, value: &[u8]) -> Result<(), String> {
        let (meta, parts) = entry_of_value(value);
        let other = || {
            format!(
                "a range gives other bytes for {}",
                entry.key().escape_ascii()
            )
        };
        if entry.meta() != meta.as_slice() || entry.parts_len() != parts.len() {
            return Err(other());
        }
        for (index, part) in parts.iter().enumerate() {
            match entry.part(index) {
                Ok(Some(got)) if got == *part => {}
                Ok(_) => return Err(other()),
                Err(error) => self.errors.push(error),
            }
        }
        Ok(())
    }
}
