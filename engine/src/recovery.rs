//! Opening: from what a crash left to a core that takes writes.
//!
//! The order: flush (what the page cache holds must be what the disk holds), read the disk,
//! choose the superblock, read region table and catalog, scan the log, verify the extents that no
//! flush is known to cover, write the new incarnation, accept. A crash in here is the crash before
//! it: until the new incarnation's superblock nothing is written, and that one goes into the slot
//! that was not opened from.
//!
//! Invariants:
//! - Every extent that the live log names is marked in use before anything is allocated.
//! - No tree is read but the catalog, so the time does not depend on the store's size.

use crate::cache::read_node;
use crate::checkpoint::{Checkpointer, next_slot, write_superblock};
use crate::core::{Core, Identity, Parts, TreeChange};
use crate::directory::Directory;
use crate::error::Error;
use crate::io::{AlignedBuf, Disk, IoPool};
use crate::memtable::{Memtable, Op, full_key};
use crate::options::Options;
use crate::planted::{self, Bug};
use crate::queue::Queue;
use crate::space::Space;
use crate::state::{Base, State};
use crate::world::World;
use dmerkle::fingerprint::{FingerprintKey, part_hash};
use dmerkle::format::catalog::{CatalogEntry, tree_of_key};
use dmerkle::format::extent::ExtentRef;
use dmerkle::format::pointer::Pointer;
use dmerkle::format::record::{BatchRef, Operation};
use dmerkle::format::region_table::decode_region_table;
use dmerkle::format::superblock::{EARLIER_MAX, RegionTableRef, Slot, Superblock};
use dmerkle::recover::{
    NotAStore, ReadAt, ScanInput, Tail, Unreadable, choose, read_superblocks, scan,
};
use dmerkle::tree::Root;
use dmerkle::{Corrupt, Geometry, Incarnation, Lsn, OpeningId, Place, Run, Structure, TreeId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The disk as the recovery plan reads it: never through the page cache.
struct PlainReads<'a> {
    disk: &'a dyn Disk,
    pool: &'a IoPool,
    size: u64,
}

impl ReadAt for PlainReads<'_> {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), Unreadable> {
        self.disk.read(offset, into).map_err(|_| Unreadable)
    }

    fn len(&self) -> u64 {
        self.size
    }

    fn read_many(&self, offsets: &[u64], size: usize, into: &mut [u8]) {
        let places: Vec<_> = offsets.iter().map(|offset| (*offset, size)).collect();
        let answers = self.pool.read_many(&places);
        for (piece, answer) in into.chunks_exact_mut(size).zip(answers) {
            match answer {
                Ok(bytes) => piece.copy_from_slice(&bytes),
                Err(_) => piece.fill(0),
            }
        }
    }
}

/// What a new store's file is made of: everything but its name.
pub(crate) fn format_disk(
    disk: &dyn Disk,
    world: &World,
    options: &Options,
    created_unix_s: u64,
) -> Result<(), Error> {
    let geometry = options.geometry()?;
    let bytes = geometry.file_bytes(0);
    disk.allocate(0, bytes)
        .map_err(Error::io("creating the file"))?;
    // The ring is written, not only allocated: an append to it then costs one flush, not two.
    let zeros =
        AlignedBuf::zeroed(usize::try_from(geometry.ring_bytes.min(4 << 20)).expect("4 MiB"));
    let ring = geometry.ring_offset()..geometry.ring_offset() + geometry.ring_bytes;
    let mut at = ring.start;
    while at < ring.end {
        let now = (ring.end - at).min(zeros.len() as u64);
        let piece = &zeros[..usize::try_from(now).expect("4 MiB")];
        disk.write(at, piece)
            .map_err(Error::io("zeroing the log"))?;
        at += now;
    }
    let nonce = world.random();
    let generation = dmerkle::Generation(1);
    let (table, checksum) =
        dmerkle::format::region_table::encode_region_table(&geometry, nonce, generation, &[]);
    disk.write(
        geometry.region_table_offset(0),
        &AlignedBuf::copy_of(&table),
    )
    .map_err(Error::io("writing the region table"))?;
    disk.flush().map_err(Error::io("flushing the new file"))?;
    let mut store_id = [0; 16];
    world.entropy.fill(&mut store_id);
    let superblock = Superblock {
        geometry,
        store_id,
        nonce,
        generation,
        incarnation: Incarnation(0),
        opening: OpeningId(0),
        log_start: Lsn(0),
        cut: Lsn(0),
        durable: Lsn(0),
        next_tree: TreeId(1),
        catalog: Pointer::NONE,
        catalog_summary: Root::EMPTY.summary,
        region_table: RegionTableRef {
            copy: 0,
            regions: 0,
            checksum,
        },
        fingerprint_key: options.fingerprint_key.clone(),
        created: created_unix_s,
        earlier: Vec::new(),
        node_units: 0,
    };
    write_superblock(disk, &geometry, &superblock, Slot::B)?;
    write_superblock(disk, &geometry, &superblock, Slot::A)
}

/// A batch that no flush is known to cover yet.
struct Doubtful {
    start: Lsn,
    end: Lsn,
    bytes: Vec<u8>,
}

/// The memtable and the trees as the log tells them.
struct Replay<'a> {
    disk: &'a dyn Disk,
    geometry: &'a Geometry,
    file_bytes: u64,
    key: &'a FingerprintKey,
    space: &'a Space,
    directory: &'a Directory,
    memtable: Memtable,
    /// The end of the last batch that counts.
    end: Lsn,
}

impl Replay<'_> {
    /// Takes one batch in.
    fn apply(&mut self, end: Lsn, bytes: &[u8]) -> Result<(), Error> {
        let batch = decode(bytes, end)?;
        for operation in batch.ops() {
            match operation {
                Operation::Put {
                    tree, key, body, ..
                } => {
                    for extent in body.extents() {
                        self.mark(extent.run(self.geometry))?;
                    }
                    let fingerprint = self.key.of_entry(key, body);
                    let body = body.as_bytes().into();
                    self.insert(tree, key, end, Op::Put { body, fingerprint });
                }
                Operation::Delete { tree, key, .. } => self.insert(tree, key, end, Op::Delete),
                Operation::CreateTree { tree, name } => {
                    let name = name.to_vec();
                    self.directory.apply(TreeChange::Create { tree, name });
                }
                Operation::DropTree { tree } => {
                    self.directory.apply(TreeChange::Drop { tree });
                }
            }
        }
        self.end = end;
        Ok(())
    }

    fn insert(&self, tree: TreeId, key: &[u8], end: Lsn, op: Op) {
        let full = full_key(tree, key).into();
        // Nobody reads yet, so every older version leaves.
        self.memtable
            .insert(full, end, op, end, &|_, _| false, self.geometry);
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

    /// Whether every extent of a batch is on the disk as its record says.
    fn extents_hold(&self, bytes: &[u8], end: Lsn) -> Result<bool, Error> {
        for operation in decode(bytes, end)?.ops() {
            if let Operation::Put { body, .. } = operation {
                for extent in body.extents() {
                    if !self.extent_holds(extent) {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
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
        self.disk
            .read(self.geometry.offset_of(run.start), &mut buffer)
            .is_ok()
            && extent.verify(&buffer[..length]).is_ok()
            && part_hash(&buffer[..length]) == *extent.hash()
    }
}

fn decode(bytes: &[u8], end: Lsn) -> Result<BatchRef<'_>, Error> {
    BatchRef::decode(bytes).map_err(|corrupt| corrupt.at(Place::Lsn(end)).into())
}

/// Opens the store on a disk.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    pool: IoPool,
    world: World,
    options: &Options,
    read_only: bool,
) -> Result<Arc<Core>, Error> {
    if !read_only {
        disk.flush()
            .map_err(Error::io("flushing before recovery"))?;
    }
    let reads = PlainReads {
        disk: disk.as_ref(),
        pool: &pool,
        size: disk.size().map_err(Error::io("reading the file's size"))?,
    };
    let mut superblocks = read_superblocks(&reads).map_err(not_a_store)?;
    if planted::has(Bug::StaleSuperblock) {
        forget_newest(&mut superblocks);
    }
    let choice = choose(&reads, &superblocks).map_err(|_| Error::SuperblockLost)?;
    let superblock = &choice.superblock;
    let geometry = superblock.geometry;

    let space = read_space(disk.as_ref(), superblock)?;
    let catalog = read_catalog(disk.as_ref(), superblock)?;
    let live = catalog.iter().filter(|(_, entry)| !entry.dropped);
    let directory = Directory::new(
        live.map(|(tree, entry)| (*tree, entry.name.clone())),
        superblock.next_tree,
    );

    let mut replay = Replay {
        disk: disk.as_ref(),
        geometry: &geometry,
        file_bytes: reads.size,
        key: &superblock.fingerprint_key,
        space: &space,
        directory: &directory,
        memtable: Memtable::new(),
        end: superblock.log_start,
    };
    let covered = superblock.durable.max(superblock.cut);
    let mut doubtful: Vec<Doubtful> = Vec::new();
    let scanned = scan(
        &reads,
        &ScanInput {
            superblock,
            starts: &choice.starts,
            accept_loss: options.accept_loss,
        },
        &mut |batch| {
            if batch.end <= covered && doubtful.is_empty() {
                return replay.apply(batch.end, batch.bytes);
            }
            doubtful.push(Doubtful {
                start: batch.start,
                end: batch.end,
                bytes: batch.bytes.to_vec(),
            });
            Ok(())
        },
    )?;
    if scanned.lost_generation(superblock).is_some() && !planted::has(Bug::StaleSuperblock) {
        return Err(Error::SuperblockLost);
    }
    if let Tail::Corrupt { at, durable } = scanned.tail
        && !read_only
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
        cut = dmerkle::format::log_block::block_at_or_after(&geometry, cut);
    }

    let incarnation = Incarnation(scanned.incarnation.max(choice.incarnation).0 + 1);
    let identity = Identity {
        geometry,
        store_id: superblock.store_id,
        nonce: superblock.nonce,
        created_unix_s: superblock.created,
        key: superblock.fingerprint_key.clone(),
        incarnation,
        opening: OpeningId(world.random()),
        cut,
    };
    let memtable = replay.memtable;
    let mut superblock = superblock.clone();
    let mut slot = choice.slot;
    if !read_only {
        superblock = Superblock {
            incarnation,
            opening: identity.opening,
            cut,
            durable: cut,
            next_tree: directory.next_id(),
            earlier: scanned
                .earlier
                .iter()
                .filter(|earlier| earlier.start <= cut)
                .copied()
                .collect(),
            ..superblock
        };
        slot = if planted::has(Bug::OverwriteOpenedSlot) {
            choice.slot
        } else if planted::has(Bug::SlotByParity) {
            next_slot(choice.slot, superblock.generation)
        } else {
            choice.write_next
        };
        write_superblock(disk.as_ref(), &geometry, &superblock, slot)?;
    }

    let root = |entry: &CatalogEntry| Root {
        pointer: entry.root,
        summary: entry.summary,
    };
    let base = Base {
        generation: superblock.generation,
        newest: superblock.log_start,
        catalog: Root {
            pointer: superblock.catalog,
            summary: superblock.catalog_summary,
        },
        trees: catalog
            .iter()
            .map(|(tree, entry)| (*tree, root(entry)))
            .collect(),
    };
    let queue = Queue::new(geometry, cut, superblock.log_start, superblock.generation);
    let crowded = superblock.earlier.len() + 2 > EARLIER_MAX;
    let core = Core::new(Parts {
        disk,
        pool,
        identity,
        options: options.clone(),
        world,
        state: Arc::new(State {
            base: Arc::new(base),
            active: Arc::new(memtable),
            frozen: None,
        }),
        queue,
        space,
        directory,
        checkpointer: Checkpointer::new(superblock, slot, catalog),
        read_only,
    });
    if crowded && !read_only {
        // Each opening since the last checkpoint is named in the superblock: make room for more.
        core.checkpoint_now()?;
    }
    Ok(core)
}

/// A planted fault: as if the newest superblock could not be read.
fn forget_newest(superblocks: &mut dmerkle::recover::Superblocks) {
    use dmerkle::recover::CopyFault;
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

fn not_a_store(fault: NotAStore) -> Error {
    match fault {
        NotAStore::NewerVersion(found) => Error::FormatVersion { found },
        NotAStore::Blank => Error::NotAStore("the file is empty; its creation never ended"),
        NotAStore::Foreign => Error::NotAStore("it is another kind of file"),
        NotAStore::Damaged(_) => Error::NotAStore("all four copies of its superblock are damaged"),
    }
}

fn read_space(disk: &dyn Disk, superblock: &Superblock) -> Result<Space, Error> {
    let geometry = superblock.geometry;
    let described = superblock.region_table;
    let used = dmerkle::format::region_table::table_bytes(described.regions);
    let bytes = used.next_multiple_of(geometry.unit_bytes as usize);
    if bytes as u64 > geometry.region_table_bytes() {
        return Err(Corrupt::rule(Structure::RegionTable, "more regions than rows").into());
    }
    let mut buffer = AlignedBuf::zeroed(bytes);
    disk.read(geometry.region_table_offset(described.copy), &mut buffer)
        .map_err(Error::io("reading the region table"))?;
    let (_, rows) = decode_region_table(&geometry, superblock.nonce, described, &buffer)?;
    Ok(Space::new(geometry, superblock.nonce, rows, described.copy))
}

/// The trees that the catalog names.
fn read_catalog(
    disk: &dyn Disk,
    superblock: &Superblock,
) -> Result<BTreeMap<TreeId, CatalogEntry>, Error> {
    let mut catalog = BTreeMap::new();
    let mut todo = Vec::new();
    if !superblock.catalog.is_none() {
        todo.push((superblock.catalog, None));
    }
    while let Some((pointer, level)) = todo.pop() {
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
                let entry = CatalogEntry::from_body(body)?;
                catalog.insert(tree_of_key(&key.to_vec())?, entry);
            }
        } else {
            todo.extend(
                (0..node.count()).map(|child| (node.child_pointer(child), Some(node.level() - 1))),
            );
        }
    }
    Ok(catalog)
}
