//! The store verifies itself while it is used.
//!
//! A state is pinned, and with it what the durable superblock of the same generation names: region
//! table and maps. Then every tree is walked from the disk, every part read and compared with its
//! checksums and its hash, and what the walk reaches is compared with the maps, both ways.
//!
//! Invariants:
//! - The checkpoint's lock is held for as long as it takes to read superblocks and region table.
//! - Map and walk are of one generation. A checkpoint that ends meanwhile changes neither: what the
//!   walk reads is pinned, and the maps were read before.

use crate::core::Core;
use crate::error::Error;
use crate::io::AlignedBuf;
use crate::memtable::{Key, OpRef};
use crate::recovery::read_region_rows;
use crate::scrub::{Found, Pace, Scrub};
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::units::Units;
use crate::view::View;
use dmerkle::check::{self, Check};
use dmerkle::format::map::decode_map;
use dmerkle::format::region_table::RegionRow;
use dmerkle::format::superblock::{SUPERBLOCK_BYTES, Slot, Superblock};
use dmerkle::geometry::SUPERBLOCK_OFFSETS;
use dmerkle::tree::Root;
use dmerkle::{Run, Summary, TreeId};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Maps that are read at once.
const WINDOW_MAPS: usize = 32;

/// What a store found when it verified itself.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// The generation of the trees that were walked.
    pub generation: u64,
    /// Trees, those that are dropped and not emptied yet included; without the catalog.
    pub trees: u64,
    /// Entries in the trees.
    pub entries: u64,
    /// Nodes read.
    pub nodes: u64,
    /// Newer operations that are not in the trees yet.
    pub newer: u64,
    /// Parts read that have units of their own.
    pub extents: u64,
    /// Bytes read from the disk.
    pub bytes_read: u64,
    /// What is broken, the first ten thousand.
    pub violations: Vec<Violation>,
    /// How many more there are.
    pub violations_more: u64,
}

impl Report {
    /// Whether nothing is broken.
    pub fn is_sound(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "generation {}: {} trees, {} entries, {} nodes, {} newer operations, {} extents, {} \
             bytes read, {} violations",
            self.generation,
            self.trees,
            self.entries,
            self.nodes,
            self.newer,
            self.extents,
            self.bytes_read,
            self.violations.len() as u64 + self.violations_more
        )
    }
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A copy of the newest superblock is damaged.
    Superblock {
        /// Which of the four copies.
        copy: usize,
        /// How.
        fault: String,
    },
    /// The region table is damaged, so nothing is known of the maps.
    RegionTable(String),
    /// A region's map is damaged, or is not what the region table says.
    Map {
        /// The region.
        region: u32,
        /// How.
        fault: String,
    },
    /// The catalog and the trees in use do not agree.
    Catalog {
        /// The catalog's key: a tree's id, if it is sound.
        key: Vec<u8>,
        /// How.
        fault: String,
    },
    /// An invariant of a tree.
    Tree(check::Violation),
    /// A part is not what was written.
    Part {
        /// The tree.
        tree: TreeId,
        /// The entry's key.
        key: Vec<u8>,
        /// Where the part stands.
        run: Run,
        /// How.
        fault: String,
    },
    /// The trees reach these units and the map says that they are free.
    Unmarked(Run),
    /// The map says that these units are reachable and no tree reaches them.
    Unreached(Run),
    /// The superblock counts other units of nodes than there are.
    NodeUnits {
        /// What the superblock says.
        said: u64,
        /// What the walk met.
        met: u64,
    },
    /// These units are in use and the allocator would hand them out.
    Free(Run),
    /// A newer part shares units with something else.
    Shared(Run),
    /// These units are taken and nothing names them.
    Leaked(Run),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = |run: &Run| format!("units {} to {}", run.start, run.end() - 1);
        match self {
            Self::Superblock { copy, fault } => write!(f, "superblock copy {copy}: {fault}"),
            Self::RegionTable(fault) => write!(f, "region table: {fault}"),
            Self::Map { region, fault } => write!(f, "map of region {region}: {fault}"),
            Self::Catalog { key, fault } => {
                write!(f, "catalog entry {}: {fault}", key.escape_ascii())
            }
            Self::Tree(violation) => violation.fmt(f),
            Self::Part {
                tree,
                key,
                run,
                fault,
            } => write!(
                f,
                "tree {tree}, key {}, part in {}: {fault}",
                key.escape_ascii(),
                units(run)
            ),
            Self::Unmarked(run) => {
                write!(f, "{} are reachable, their map says free", units(run))
            }
            Self::Unreached(run) => write!(
                f,
                "{} are reachable by their map, no tree names them",
                units(run)
            ),
            Self::NodeUnits { said, met } => write!(
                f,
                "the superblock counts {said} units of nodes, there are {met}"
            ),
            Self::Free(run) => write!(f, "{} are in use and would be handed out", units(run)),
            Self::Shared(run) => write!(f, "{} have more than one owner", units(run)),
            Self::Leaked(run) => write!(f, "{} are taken and nobody names them", units(run)),
        }
    }
}

impl Store {
    /// Verifies everything that can be reached: superblocks, maps, every node and every part, from
    /// the disk, each against what is kept of it elsewhere. Works while the store is used and
    /// gives way to commits. A part that was replaced since the last checkpoint counts no more. What
    /// is broken is in the report; an error means that the store could
    /// not be walked (it was closed).
    pub fn verify(&self) -> Result<Report, Error> {
        verify(self.core(), false)
    }

    /// [`Store::verify`], and that every unit has exactly one owner and none is lost: for a store
    /// without threads, between two calls, with no part written that no entry names.
    #[doc(hidden)]
    pub fn audit(&self) -> Result<Report, Error> {
        verify(self.core(), true)
    }
}

/// One generation: the state to walk, and what the disk says of its units.
struct Pinned {
    snapshot: Snapshot,
    /// What the maps say; nothing if the region table cannot be read.
    marked: Option<Units>,
    /// Units of nodes, as the superblock counts them.
    node_units: u64,
    found: Found,
    bytes_read: u64,
}

fn verify(core: &Arc<Core>, exact: bool) -> Result<Report, Error> {
    let Pinned {
        snapshot,
        marked,
        node_units,
        found,
        bytes_read,
    } = pin(core)?;
    let _exempt = snapshot.exempt();
    let held = snapshot.held()?;
    let view = &held.view;
    let base = &view.state.base;
    let mut reached = Units::new(core.identity.geometry);
    let mut scrub = Scrub::new(core);
    scrub.found = found;
    scrub.bytes_read = bytes_read;

    let mut visit = |_, named: check::Named| reached.add(named.run());
    let key = core.identity.key.clone();
    let mut walk = Check::new(core.identity.geometry, key, &mut visit);
    walk.tree(&mut scrub, TreeId::CATALOG, &base.catalog, base.generation);
    for (tree, root) in &base.trees {
        walk.tree(&mut scrub, *tree, root, base.generation);
    }
    let walked = walk.finish();
    scrub.finish()?;
    let met = walked.node_bytes / core.identity.geometry.unit();
    // Below a node that cannot be read nothing was counted.
    if met != node_units && walked.violations.is_empty() {
        let said = node_units;
        scrub.found.push(Violation::NodeUnits { said, met });
    }
    for violation in walked.violations {
        scrub.found.push(Violation::Tree(violation));
    }
    compare_catalog(&mut scrub, view);
    if let Some(marked) = &marked {
        let unmarked = reached.without(marked).into_iter();
        unmarked.for_each(|run| scrub.found.push(Violation::Unmarked(run)));
        let unreached = marked.without(&reached).into_iter();
        unreached.for_each(|run| scrub.found.push(Violation::Unreached(run)));
    }
    let newer = verify_newer(&mut scrub, view, &mut reached)?;
    forget_superseded(&mut scrub.found, view);
    for run in core.space.free_among(&reached) {
        scrub.found.push(Violation::Free(run));
    }
    if exact {
        find_leaks(view, &mut reached, &mut scrub.found);
    }
    Ok(Report {
        generation: base.generation.0,
        // A tree that nothing was ever put into is in the catalog alone.
        trees: scrub.catalog.len().max(base.trees.len()) as u64,
        entries: walked.entries - scrub.catalog.len() as u64,
        nodes: walked.nodes,
        newer: newer.ops,
        extents: walked.extents + newer.extents,
        bytes_read: scrub.bytes_read,
        violations: scrub.found.violations,
        violations_more: scrub.found.more,
    })
}

/// Pins the newest state and reads the maps of its generation.
fn pin(core: &Arc<Core>) -> Result<Pinned, Error> {
    loop {
        let mut checkpointer = core.checkpointer.lock();
        let snapshot = Snapshot::take(core);
        let generation = snapshot.held()?.view.state.base.generation;
        let (superblock, slot) = checkpointer.durable();
        if superblock.generation != generation {
            // A poisoned store will never show it.
            core.refuse_writes()?;
            // The superblock is down and its base not shown yet: one step more shows it.
            if core.is_threaded() {
                drop(checkpointer);
                thread::sleep(Duration::from_millis(1));
            } else {
                checkpointer.step(core)?;
            }
            continue;
        }
        let superblock = superblock.clone();
        let mut pinned = Pinned {
            snapshot,
            marked: None,
            node_units: superblock.node_units,
            found: Found::default(),
            bytes_read: 0,
        };
        read_superblocks(core, &superblock, slot, &mut pinned);
        let rows = read_region_rows(core.disk.as_ref(), &superblock);
        drop(checkpointer);
        match rows {
            Ok(rows) => {
                let sound = read_maps(core, &rows, &mut pinned)?;
                // The checkpoint after the next writes over the maps that this one named.
                if !sound && core.state.load().base.generation != generation {
                    continue;
                }
            }
            Err(error) => pinned.found.push(Violation::RegionTable(error.to_string())),
        }
        return Ok(pinned);
    }
}

/// Both copies of the newest slot, or of a store that is only read one: a crash may have torn the
/// other.
fn read_superblocks(core: &Core, expected: &Superblock, slot: Slot, pinned: &mut Pinned) {
    let block_bytes = core.identity.geometry.log_block_bytes as usize;
    let faults: Vec<_> = slot
        .copies()
        .into_iter()
        .filter_map(|copy| {
            let mut block = AlignedBuf::zeroed(block_bytes);
            pinned.bytes_read += block_bytes as u64;
            let fault = match core.disk.read(SUPERBLOCK_OFFSETS[copy], &mut block) {
                Err(error) => error.to_string(),
                Ok(()) => match Superblock::decode(&block[..SUPERBLOCK_BYTES]) {
                    Err(corrupt) => corrupt.to_string(),
                    Ok((found, found_slot)) if (&found, found_slot) != (expected, slot) => {
                        "it is not the one that was written".to_owned()
                    }
                    Ok(_) => return None,
                },
            };
            Some(Violation::Superblock { copy, fault })
        })
        .collect();
    if !core.read_only || faults.len() > 1 {
        for fault in faults {
            pinned.found.push(fault);
        }
    }
}

/// Reads the maps that a region table names. Whether all are sound.
fn read_maps(core: &Core, rows: &[RegionRow], pinned: &mut Pinned) -> Result<bool, Error> {
    let geometry = &core.identity.geometry;
    let bytes = usize::try_from(geometry.map_bytes()).expect("32 KiB");
    let mut marked = Units::new(*geometry);
    let mut pace = Pace::new(core);
    let mut sound = true;
    let numbered: Vec<(u32, &RegionRow)> = (0..).zip(rows).collect();
    let mut broken = |region, fault| {
        sound = false;
        pinned.found.push(Violation::Map { region, fault });
    };
    for window in numbered.chunks(WINDOW_MAPS) {
        let with_map = || window.iter().filter(|(_, row)| row.has_map());
        let places: Vec<_> = with_map()
            .map(|(region, row)| (geometry.map_offset(*region, row.copy), bytes))
            .collect();
        pinned.bytes_read += (places.len() * bytes) as u64;
        for ((region, row), answer) in with_map().zip(core.pool.read_many(&places)) {
            let map = match answer {
                Ok(map) => map,
                Err(error) => {
                    broken(*region, error.to_string());
                    continue;
                }
            };
            let nonce = core.identity.nonce;
            let (generation, checksum) = (row.generation, row.map_checksum);
            match decode_map(geometry, nonce, *region, generation, checksum, &map) {
                Ok(bits) => marked.take_region(*region, bits),
                Err(corrupt) => broken(*region, corrupt.to_string()),
            }
        }
        for (region, row) in window {
            let (free, largest) = marked.free_of(*region);
            if (free, largest) != (row.free_units, row.largest_run) {
                let (said, longest) = (row.free_units, row.largest_run);
                let fault = format!(
                    "{free} units are free, at most {largest} in a row; the region table says \
                     {said} and {longest}"
                );
                broken(*region, fault);
            }
        }
        pace.rest()?;
    }
    pinned.marked = Some(marked);
    Ok(sound)
}

/// Takes out the parts that the tree of the last checkpoint names and a newer operation does not:
/// they are nobody's any more, and who has put a damaged value anew has healed it. A part that both
/// name was read twice, and is named once.
fn forget_superseded(found: &mut Found, view: &View) {
    let mut named = BTreeSet::new();
    let geometry = &view.core.identity.geometry;
    found.violations.retain(|violation| {
        let Violation::Part { tree, key, run, .. } = violation else {
            return true;
        };
        let stands = match view.entry(*tree, key) {
            Ok(entry) => entry.is_some_and(|entry| {
                let mut extents = entry.body().extents();
                extents.any(|extent| extent.run(geometry) == *run)
            }),
            Err(_) => true,
        };
        stands && named.insert((*tree, key.clone(), *run))
    });
}

/// What the catalog's leaves say against the roots in use.
fn compare_catalog(scrub: &mut Scrub<'_>, view: &View) {
    let base = &view.state.base;
    let ids: BTreeSet<TreeId> = scrub
        .catalog
        .keys()
        .chain(base.trees.keys())
        .copied()
        .collect();
    for tree in ids {
        let said = scrub.catalog.get(&tree).copied().unwrap_or(Root::EMPTY);
        let root = base.root(tree);
        if said != root {
            let summary = |summary: Summary| format!("{} entries", summary.count);
            scrub.found.push(Violation::Catalog {
                key: tree.0.to_be_bytes().to_vec(),
                fault: format!(
                    "it names the root at unit {} with {}, in use is the one at unit {} with {}",
                    said.pointer.block,
                    summary(said.summary),
                    root.pointer.block,
                    summary(root.summary)
                ),
            });
        }
    }
}

/// What was met in the memtables.
#[derive(Default)]
struct Newer {
    ops: u64,
    extents: u64,
}

/// Verifies what the memtables name, and adds it to what is reached.
fn verify_newer(scrub: &mut Scrub<'_>, view: &View, reached: &mut Units) -> Result<Newer, Error> {
    let mut met = Newer::default();
    let mut runs: BTreeSet<Run> = BTreeSet::new();
    let core = &view.core;
    for table in view.state.memtables() {
        for place in table.places() {
            let Some(op) = table.at(place, view.at).found else {
                continue;
            };
            met.ops += 1;
            let OpRef::Put(body) = op else {
                continue;
            };
            let Key { tree, key } = table.key(place);
            scrub.body(tree, key, body);
            for run in op.runs(&core.identity.geometry) {
                met.extents += 1;
                runs.insert(run);
            }
        }
    }
    scrub.finish()?;
    // A part that was kept is the base's as well, whole; any other is nobody's else.
    let mut end = 0;
    for run in &runs {
        let kept = reached.holds_all(*run);
        if run.start.0 < end || (!kept && reached.holds_any(*run)) {
            scrub.found.push(Violation::Shared(*run));
        }
        end = end.max(run.end());
    }
    for run in runs {
        reached.add(run);
    }
    Ok(met)
}

/// Names the units that are taken although no tree, no log record and nothing that waits for its
/// release names them.
fn find_leaks(view: &View, named: &mut Units, found: &mut Found) {
    let core = &view.core;
    if core.is_threaded() || core.checkpointer.lock().is_running() {
        return;
    }
    let geometry = &core.identity.geometry;
    for table in view.state.memtables() {
        let versions = table.places().flat_map(|place| table.versions(place));
        versions.for_each(|op| op.runs(geometry).for_each(|run| named.add(run)));
        table
            .superseded()
            .into_iter()
            .for_each(|run| named.add(run));
    }
    for retired in core.retired.lock().iter() {
        retired.runs.iter().for_each(|run| named.add(*run));
    }
    for run in core.space.taken_besides(named) {
        found.push(Violation::Leaked(run));
    }
}
