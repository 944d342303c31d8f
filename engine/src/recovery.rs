//! Opening: from what a crash left to a core that takes writes.
//!
//! The order: flush (what the page cache holds must be what the disk holds), read the disk,
//! choose the superblock, read region table and catalog, replay the log, write the new
//! incarnation, accept. A crash in here is the crash before it: until the new incarnation's
//! superblock nothing is written, and that one goes into the slot that was not opened from.
//!
//! Invariant: no tree is read but the catalog, so the time does not depend on the store's size.

use crate::cache::read_node;
use crate::checkpoint::{Checkpointer, next_slot, write_superblock};
use crate::core::{Core, Identity, Parts};
use crate::creation::{Ring, check_alignment};
use crate::directory::Directory;
use crate::error::Error;
use crate::io::{AlignedBuf, Disk, IoPool};
use crate::medium::Owed;
use crate::options::Options;
use crate::planted::{self, Bug};
use crate::queue::Queue;
use crate::reads::PlainReads;
use crate::replay::{Ground, Replayed, replay};
use crate::space::Space;
use crate::state::{Base, State};
use crate::world::World;
use dmerkle::format::catalog::{CatalogEntry, tree_of_key};
use dmerkle::format::region_table::{RegionRow, decode_region_table, table_bytes};
use dmerkle::format::superblock::{EARLIER_MAX, Slot, Superblock};
use dmerkle::recover::{
    Choice, CopyFault, NotAStore, ReadAt, Scan, ScanInput, Superblocks, Tail, choose,
    read_superblocks,
};
use dmerkle::tree::Root;
use dmerkle::{Corrupt, Geometry, Incarnation, Lsn, OpeningId, Place, Structure, TreeId};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// What a store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// For reading.
    Read,
    /// For reading and writing, with this log.
    Write(Ring),
}

/// Opens the store on a disk.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    pool: IoPool,
    world: World,
    options: &Options,
    access: Access,
) -> Result<Arc<Core>, Error> {
    let read_only = access == Access::Read;
    if !read_only {
        disk.flush()
            .map_err(Error::io("flushing before recovery"))?;
    }
    let reads = PlainReads::new(disk.as_ref(), &pool)?;
    let choice = choose_superblock(&reads);
    reads.check()?;
    let (choice, faults) = choice?;
    let geometry = choice.superblock.geometry;
    check_alignment(disk.as_ref(), &geometry)?;
    let cut_off = |reaches: u64| -> Result<(), Error> {
        if reaches <= reads.len() {
            return Ok(());
        }
        let fault = "the file is shorter than what it holds: it was cut off";
        let end = Place::Byte(reads.len());
        Err(Corrupt::rule(Structure::RegionTable, fault).at(end).into())
    };
    cut_off(geometry.file_bytes(0))?;
    let space = read_space(disk.as_ref(), &choice.superblock)?;
    cut_off(space.end(disk.as_ref()) * geometry.unit())?;
    let catalog = read_catalog(disk.as_ref(), &choice.superblock)?;
    let live = catalog.iter().filter(|(_, entry)| !entry.dropped);
    let used = catalog.last_key_value().map_or(0, |(tree, _)| tree.0);
    let directory = Directory::new(
        live.map(|(tree, entry)| (*tree, entry.name.clone())),
        TreeId(choice.superblock.next_tree.0.max(used + 1)),
    );
    let replayed = replay(&Ground {
        reads: &reads,
        disk: disk.as_ref(),
        input: ScanInput {
            superblock: &choice.superblock,
            starts: &choice.starts,
            accept_loss: options.accept_loss,
        },
        space: &space,
        directory: &directory,
        memtable_bytes: options.memtable_bytes,
        read_only,
    });
    reads.check()?;
    let replayed = replayed?;
    if access == Access::Write(Ring::Written) {
        back_ring(disk.as_ref(), &geometry)?;
    }

    let next = next_superblock(&choice, &replayed, &directory, &world);
    let slot = if planted::has(Bug::OverwriteOpenedSlot) {
        choice.slot
    } else if planted::has(Bug::SlotByParity) {
        next_slot(choice.slot, next.generation)
    } else {
        choice.write_next
    };
    let checkpointer = if read_only && !planted::has(Bug::ReadOnlyWrites) {
        Checkpointer::new(choice.superblock.clone(), choice.slot, catalog.clone())
    } else {
        write_superblock(disk.as_ref(), &geometry, &next, slot)?;
        Checkpointer::new(next.clone(), slot, catalog.clone())
    };
    let crowded = next.earlier.len() + 2 > EARLIER_MAX;
    let core = Core::new(Parts {
        disk,
        pool,
        identity: identity(&next),
        options: options.clone(),
        world,
        state: Arc::new(State {
            base: Arc::new(base(&next, &catalog)),
            active: Arc::new(replayed.memtable),
            frozen: None,
        }),
        queue: Queue::new(geometry, next.cut, next.log_start, next.generation),
        space,
        directory,
        checkpointer,
        owed: Owed::new(replayed.owed_units),
        read_only,
        mended: mended(&faults, &choice, options.accept_loss, &replayed.scan),
    });
    if crowded && !read_only {
        // Each opening since the last checkpoint is named in the superblock: make room for more.
        match core.checkpoint_now() {
            // On a full disk it waits for space, like any other.
            Ok(_) | Err(Error::DiskFull | Error::StoreFull) => {}
            // What is sound is served, and a backup can be made.
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(core)
}

/// A copy of a log ring is made as a hole: its space is taken before the first commit, for a write
/// to the ring must not be the one that finds the disk full.
fn back_ring(disk: &dyn Disk, geometry: &Geometry) -> Result<(), Error> {
    let (offset, bytes) = (geometry.ring_offset(), geometry.ring_bytes);
    let backed = disk.is_written(offset, bytes);
    if backed.map_err(Error::io("looking for holes in the log"))? {
        return Ok(());
    }
    disk.allocate(offset, bytes)
        .map_err(Error::io("taking the space of the log"))
}

/// Which copies of the superblocks were damaged: sentences.
fn mended(faults: &Faults, choice: &Choice, accept_loss: Option<Lsn>, scan: &Scan) -> Vec<String> {
    let sentence = |(copy, fault): (usize, &Option<CopyFault>)| {
        let fault = fault.as_ref()?;
        let (of, from) = (Slot::of_copy(copy), choice.slot);
        let when = if of == choice.write_next {
            "it was written anew"
        } else {
            "the checkpoint after the next writes it anew"
        };
        Some(format!(
            "superblock copy {copy}, of slot {of:?}, was damaged ({fault}): the store was opened from \
             slot {from:?}, generation {}; {when}",
            choice.superblock.generation
        ))
    };
    let log = accept_loss.map(|given_up| match scan.tail {
        Tail::Torn { at } if at == given_up => format!(
            "the loss of everything from LSN {given_up} on was accepted: the log was cut off there"
        ),
        _ => format!("no loss was to be accepted at LSN {given_up}: nothing was cut off"),
    });
    let superblocks = faults.iter().enumerate().filter_map(sentence);
    superblocks.chain(log).collect()
}

/// What is wrong with each copy of the superblocks.
type Faults = [Option<CopyFault>; 4];

fn choose_superblock(reads: &dyn ReadAt) -> Result<(Choice, Faults), Error> {
    let mut superblocks = read_superblocks(reads).map_err(|fault| not_a_store(&fault))?;
    if planted::has(Bug::StaleSuperblock) {
        forget_newest(&mut superblocks);
    }
    let faults = superblocks
        .copies
        .each_ref()
        .map(|copy| copy.as_ref().err().copied());
    let choice = choose(reads, &superblocks).map_err(|_| Error::SuperblockLost)?;
    Ok((choice, faults))
}

/// The superblock of the new incarnation: the same roots, and where its own log begins.
fn next_superblock(
    choice: &Choice,
    replayed: &Replayed,
    directory: &Directory,
    world: &World,
) -> Superblock {
    let (scan, cut) = (&replayed.scan, replayed.cut);
    Superblock {
        incarnation: Incarnation(scan.incarnation.max(choice.incarnation).0 + 1),
        opening: OpeningId(world.random()),
        cut,
        durable: cut,
        next_tree: directory.next_id(),
        earlier: scan
            .earlier
            .iter()
            .filter(|earlier| earlier.start <= cut)
            .copied()
            .collect(),
        ..choice.superblock.clone()
    }
}

fn identity(superblock: &Superblock) -> Identity {
    Identity {
        geometry: superblock.geometry,
        store_id: superblock.store_id,
        nonce: superblock.nonce,
        created_unix_s: superblock.created,
        key: superblock.fingerprint_key.clone(),
        incarnation: superblock.incarnation,
        opening: superblock.opening,
        cut: superblock.cut,
    }
}

fn base(superblock: &Superblock, catalog: &BTreeMap<TreeId, CatalogEntry>) -> Base {
    let root = |entry: &CatalogEntry| Root {
        pointer: entry.root,
        summary: entry.summary,
    };
    Base::new(
        superblock.generation,
        superblock.log_start,
        Root {
            pointer: superblock.catalog,
            summary: superblock.catalog_summary,
        },
        catalog
            .iter()
            .map(|(tree, entry)| (*tree, root(entry)))
            .collect(),
    )
}

/// A planted fault: as if the newest superblock could not be read.
fn forget_newest(superblocks: &mut Superblocks) {
    let valid = superblocks.copies.iter().flatten();
    let Some(newest) = valid.map(Superblock::age).max() else {
        return;
    };
    let older = superblocks
        .copies
        .iter()
        .flatten()
        .any(|copy| copy.age() < newest);
    for copy in &mut superblocks.copies {
        if older && copy.as_ref().is_ok_and(|copy| copy.age() == newest) {
            *copy = Err(CopyFault::Unreadable);
        }
    }
}

fn not_a_store(fault: &NotAStore) -> Error {
    match fault {
        NotAStore::NewerVersion(found) => Error::FormatVersion { found: *found },
        NotAStore::Blank => Error::NotAStore(
            "nothing or only zeros stand where its superblocks belong: its creation never ended, or \
             its beginning was wiped",
        ),
        NotAStore::Foreign => Error::NotAStore("it is another kind of file"),
        NotAStore::Damaged(_) => Error::NotAStore("all four copies of its superblock are damaged"),
    }
}

fn read_space(disk: &dyn Disk, superblock: &Superblock) -> Result<Space, Error> {
    let rows = read_region_rows(disk, superblock)?;
    let copy = superblock.region_table.copy;
    Ok(Space::new(
        superblock.geometry,
        superblock.nonce,
        rows,
        copy,
    ))
}

/// The region table that a superblock names.
pub(crate) fn read_region_rows(
    disk: &dyn Disk,
    superblock: &Superblock,
) -> Result<Vec<RegionRow>, Error> {
    let geometry = superblock.geometry;
    let described = superblock.region_table;
    let used = table_bytes(described.regions);
    let bytes = used.next_multiple_of(geometry.unit_bytes as usize);
    if bytes as u64 > geometry.region_table_bytes() {
        let place = Place::Byte(geometry.region_table_offset(described.copy));
        return Err(
            Corrupt::rule(Structure::RegionTable, "more regions than rows")
                .at(place)
                .into(),
        );
    }
    let mut buffer = AlignedBuf::zeroed(bytes);
    let offset = geometry.region_table_offset(described.copy);
    disk.read(offset, &mut buffer)
        .map_err(Error::reading("reading the region table", offset))?;
    let (_, rows) = decode_region_table(&geometry, superblock.nonce, described, &buffer)
        .map_err(|corrupt| corrupt.at(Place::Byte(offset)))?;
    Ok(rows)
}

/// The trees that the catalog names.
fn read_catalog(
    disk: &dyn Disk,
    superblock: &Superblock,
) -> Result<BTreeMap<TreeId, CatalogEntry>, Error> {
    let mut catalog = BTreeMap::new();
    let mut seen = HashSet::new();
    let mut todo = Vec::new();
    if !superblock.catalog.is_none() {
        todo.push((superblock.catalog, None));
    }
    while let Some((pointer, level)) = todo.pop() {
        if !seen.insert(pointer.block) {
            // A tree that is none may have more ways than anybody can go.
            let rule = "a node has two parents";
            return Err(Corrupt::rule(Structure::Node, rule)
                .at(Place::Block(pointer.block))
                .into());
        }
        let node = read_node(disk, &superblock.geometry, TreeId::CATALOG, &pointer)?;
        if level.is_some_and(|level| level != node.level()) {
            return Err(
                Corrupt::rule(Structure::Node, "a child is not one level down")
                    .at(Place::Block(pointer.block))
                    .into(),
            );
        }
        if node.is_leaf() {
            for (key, body) in node.entries() {
                let at = |corrupt: Corrupt| corrupt.at(Place::Block(pointer.block));
                let entry = CatalogEntry::from_body(body).map_err(at)?;
                catalog.insert(tree_of_key(&key.to_vec()).map_err(at)?, entry);
            }
        } else {
            todo.extend(
                (0..node.count()).map(|child| (node.child_pointer(child), Some(node.level() - 1))),
            );
        }
    }
    Ok(catalog)
}
