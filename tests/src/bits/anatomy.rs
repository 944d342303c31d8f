//! Whose each sector of a sound store is, found out by the pure functions of `dmerkle` alone.
//!
//! This is what the oracle stands on: which batches a damaged sector may take with it, what must be
//! noticed, and whether an error names what is damaged.

use crate::image::Image;
use dmerkle::check::{Check, Named};
use dmerkle::format::catalog::{CatalogEntry, tree_of_key};
use dmerkle::format::log_block::{LogBlock, block_at_or_after};
use dmerkle::format::pointer::Pointer;
use dmerkle::format::record::{BatchRef, Operation};
use dmerkle::format::region_table::{RegionRow, decode_region_table, table_bytes};
use dmerkle::format::superblock::{Slot, Superblock};
use dmerkle::geometry::SUPERBLOCK_OFFSETS;
use dmerkle::recover::{ReadAt, ScanInput, Unreadable, choose, read_superblocks, scan};
use dmerkle::tree::{Node, Root, Source};
use dmerkle::{Corrupt, Generation, Geometry, Lsn, Run, TreeId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// What a sector is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A copy of the superblock that is opened.
    NewestSlot,
    /// A copy of the other one.
    OtherSlot,
    /// The live log.
    Log,
    /// The region table that the superblock names.
    RegionTable,
    /// A map that the region table names.
    Map,
    /// A node of the catalog.
    Catalog,
    /// A branch of a tree.
    Branch,
    /// A leaf of a tree.
    Leaf,
    /// A part in the base that no batch of the live log has replaced.
    Extent,
    /// A part that only the live log names.
    LoggedExtent,
    /// Nothing that the newest state consists of: free, or of an older one, as are the parts that the
    /// live log has replaced.
    Free,
}

/// A key of a tree.
type Key = (TreeId, Vec<u8>);

/// A batch of the live log.
#[derive(Debug, Clone)]
pub struct Batch {
    /// One past its last byte.
    pub end: Lsn,
    /// The sectors of the log that hold a byte of it.
    pub log: BTreeSet<u64>,
    /// The sectors of the parts that it names.
    pub extents: BTreeSet<u64>,
}

/// A sound store, taken apart.
#[derive(Debug, Clone)]
pub struct Anatomy {
    /// Its sizes.
    pub geometry: Geometry,
    /// The superblock that is opened.
    pub superblock: Superblock,
    /// Where that stands.
    pub slot: Slot,
    /// Its generation.
    pub generation: Generation,
    /// The batches of the live log, in order.
    pub batches: Vec<Batch>,
    /// Of each sector of the live log: all below this LSN was durable when it was written.
    pub claims: BTreeMap<u64, Lsn>,
    /// What each sector is part of, if it is of anything.
    pub kinds: BTreeMap<u64, Kind>,
    /// Nodes and extents, by their first unit.
    pub owners: BTreeMap<u64, Run>,
    /// The pointers of all nodes.
    pub nodes: Vec<(TreeId, Pointer)>,
    /// Extent references as leaves and records have them, each once.
    pub extents: BTreeSet<Vec<u8>>,
    /// The regions that have a map, and their rows.
    pub maps: Vec<(u32, RegionRow)>,
}

/// An image as recovery reads it.
pub struct Reads<'a>(pub &'a Image);

impl ReadAt for Reads<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        self.0.read(offset, buf).map_err(|_| Unreadable)
    }

    fn len(&self) -> u64 {
        self.0.size()
    }
}

/// The bytes of an image.
pub fn bytes_at(image: &Image, range: &Range<u64>) -> Vec<u8> {
    let length = usize::try_from(range.end - range.start).expect("small");
    let mut bytes = vec![0; length];
    image.copy_out(range.start, &mut bytes);
    bytes
}

/// Brings nodes from an image and remembers them.
struct Nodes<'a> {
    image: &'a Image,
    geometry: Geometry,
    met: Vec<(TreeId, Arc<Node<Vec<u8>>>)>,
}

impl Source for Nodes<'_> {
    type Bytes = Vec<u8>;
    type Error = Corrupt;

    fn node(&mut self, tree: TreeId, pointer: &Pointer) -> Result<Arc<Node<Vec<u8>>>, Corrupt> {
        let at = self.geometry.offset_of(pointer.block);
        let bytes = u64::from(pointer.order.units()) * self.geometry.unit();
        let bytes = bytes_at(self.image, &(at..at + bytes));
        let node = Arc::new(Node::decode(bytes, pointer, tree)?);
        self.met.push((tree, Arc::clone(&node)));
        Ok(node)
    }
}

impl Anatomy {
    /// Takes a store apart; an error if it is not sound.
    pub fn of(image: &Image) -> Result<Self, String> {
        let reads = Reads(image);
        let superblocks = read_superblocks(&reads).map_err(|fault| fault.to_string())?;
        let choice = choose(&reads, &superblocks).map_err(|refusal| refusal.to_string())?;
        let superblock = choice.superblock;
        let geometry = superblock.geometry;
        let mut anatomy = Self {
            generation: superblock.generation,
            slot: choice.slot,
            geometry,
            batches: Vec::new(),
            claims: BTreeMap::new(),
            kinds: BTreeMap::new(),
            owners: BTreeMap::new(),
            nodes: Vec::new(),
            extents: BTreeSet::new(),
            maps: Vec::new(),
            superblock,
        };
        for slot in [Slot::A, Slot::B] {
            let newest = slot == anatomy.slot;
            let kind = if newest {
                Kind::NewestSlot
            } else {
                Kind::OtherSlot
            };
            for copy in slot.copies() {
                let at = SUPERBLOCK_OFFSETS[copy];
                anatomy.claim(kind, &(at..at + geometry.unit()));
            }
        }
        anatomy
            .take_maps(image)
            .map_err(|corrupt| corrupt.to_string())?;
        let parts = anatomy.take_trees(image)?;
        let newest = anatomy.take_log(image)?;
        for (key, run) in parts {
            if newest.get(&key).is_some_and(|runs| !runs.contains(&run)) {
                for sector in sectors(&place(&geometry, run)) {
                    anatomy.kinds.remove(&sector);
                }
            }
        }
        Ok(anatomy)
    }

    fn claim(&mut self, kind: Kind, range: &Range<u64>) {
        for sector in sectors(range) {
            self.kinds.entry(sector).or_insert(kind);
        }
    }

    /// What the sector is part of.
    pub fn kind(&self, sector: u64) -> Kind {
        self.kinds.get(&sector).copied().unwrap_or(Kind::Free)
    }

    fn take_maps(&mut self, image: &Image) -> Result<(), Corrupt> {
        let geometry = self.geometry;
        let described = self.superblock.region_table;
        let at = geometry.region_table_offset(described.copy);
        let used = table_bytes(described.regions) as u64;
        let table = at..at + used.next_multiple_of(geometry.unit());
        let bytes = bytes_at(image, &table);
        let nonce = self.superblock.nonce;
        let (_, rows) = decode_region_table(&geometry, nonce, described, &bytes)?;
        self.claim(Kind::RegionTable, &table);
        for (region, row) in (0..).zip(rows) {
            if row.has_map() {
                let at = geometry.map_offset(region, row.copy);
                self.claim(Kind::Map, &(at..at + geometry.map_bytes()));
                self.maps.push((region, row));
            }
        }
        Ok(())
    }

    /// Gives the parts of the base.
    fn take_trees(&mut self, image: &Image) -> Result<Vec<(Key, Run)>, String> {
        let mut parts = Vec::new();
        let geometry = self.geometry;
        let superblock = self.superblock.clone();
        let mut named: Vec<(TreeId, Named)> = Vec::new();
        let mut visit = |tree, what| named.push((tree, what));
        let key = superblock.fingerprint_key.clone();
        let mut check = Check::new(geometry, key, &mut visit);
        let mut nodes = Nodes {
            image,
            geometry,
            met: Vec::new(),
        };
        let catalog = Root {
            pointer: superblock.catalog,
            summary: superblock.catalog_summary,
        };
        let generation = superblock.generation;
        check.tree(&mut nodes, TreeId::CATALOG, &catalog, generation);
        let mut trees = Vec::new();
        for (_, node) in nodes.met.iter().filter(|(_, node)| node.is_leaf()) {
            for (key, body) in node.entries() {
                let tree = tree_of_key(&key.to_vec()).map_err(|corrupt| corrupt.to_string())?;
                let entry = CatalogEntry::from_body(body).map_err(|corrupt| corrupt.to_string())?;
                trees.push((tree, entry));
            }
        }
        for (tree, entry) in trees {
            let root = Root {
                pointer: entry.root,
                summary: entry.summary,
            };
            check.tree(&mut nodes, tree, &root, generation);
        }
        if let Some(violation) = check.finish().violations.first() {
            return Err(violation.to_string());
        }
        for (tree, node) in &nodes.met {
            let pointer = *node.pointer();
            let at = geometry.offset_of(pointer.block);
            let kind = match (*tree, node.is_leaf()) {
                (TreeId::CATALOG, _) => Kind::Catalog,
                (_, true) => Kind::Leaf,
                (_, false) => Kind::Branch,
            };
            self.claim(kind, &(at..at + node.block().len() as u64));
            self.nodes.push((*tree, pointer));
            if node.is_leaf() {
                for (key, body) in node.entries() {
                    for extent in body.extents() {
                        self.extents.insert(extent.as_bytes().to_vec());
                        parts.push(((*tree, key.to_vec()), extent.run(&geometry)));
                    }
                }
            }
        }
        for (_, what) in named {
            let run = what.run();
            self.owners.insert(run.start.0, run);
            if matches!(what, Named::Extent(_)) {
                self.claim(Kind::Extent, &place(&geometry, run));
            }
        }
        Ok(parts)
    }

    /// Gives the parts of the newest operation of each key.
    fn take_log(&mut self, image: &Image) -> Result<BTreeMap<Key, Vec<Run>>, String> {
        let geometry = self.geometry;
        let superblock = self.superblock.clone();
        let input = ScanInput {
            superblock: &superblock,
            starts: &[],
            accept_loss: None,
        };
        let block = u64::from(geometry.log_block_bytes);
        // The extents of the newest operation of each key, which readers read.
        let mut newest: BTreeMap<Key, Vec<Run>> = BTreeMap::new();
        let mut visit = |batch: dmerkle::recover::BatchAt<'_>| -> Result<(), Corrupt> {
            let first = batch.start.0 / block * block;
            let blocks = (first..batch.end.0).step_by(usize::try_from(block).expect("small"));
            let log = blocks.map(|lsn| geometry.log_offset(Lsn(lsn))).collect();
            let mut extents = BTreeSet::new();
            for operation in BatchRef::decode(batch.bytes)?.ops() {
                match operation {
                    Operation::Put {
                        tree, key, body, ..
                    } => {
                        let runs: Vec<Run> =
                            body.extents().map(|extent| extent.run(&geometry)).collect();
                        for extent in body.extents() {
                            self.extents.insert(extent.as_bytes().to_vec());
                        }
                        for run in &runs {
                            extents.extend(sectors(&place(&geometry, *run)));
                            self.owners.insert(run.start.0, *run);
                        }
                        newest.insert((tree, key.to_vec()), runs);
                    }
                    Operation::Delete { tree, key, .. } => {
                        newest.insert((tree, key.to_vec()), Vec::new());
                    }
                    Operation::DropTree { tree } => newest.retain(|(of, _), _| *of != tree),
                    Operation::CreateTree { .. } => {}
                }
            }
            self.batches.push(Batch {
                end: batch.end,
                log,
                extents,
            });
            Ok(())
        };
        let scanned = scan(&Reads(image), &input, &mut visit).map_err(|error| error.to_string())?;
        for run in newest.values().flatten() {
            self.claim(Kind::LoggedExtent, &place(&geometry, *run));
        }
        let end = block_at_or_after(&geometry, scanned.end);
        let mut at = superblock.log_start;
        while at < end {
            let offset = geometry.log_offset(at);
            let bytes = bytes_at(image, &(offset..offset + block));
            if let Ok(found) = LogBlock::decode(&bytes, superblock.nonce, &geometry)
                && found.lsn == at
            {
                self.claims.insert(offset, found.group.durable);
                self.claim(Kind::Log, &(offset..offset + block));
            }
            at.0 += block;
        }
        Ok(newest)
    }
}

/// Where units stand in the file.
pub fn place(geometry: &Geometry, run: Run) -> Range<u64> {
    let at = geometry.offset_of(run.start);
    at..at + u64::from(run.units) * geometry.unit()
}

/// The beginnings of the sectors of a range.
pub fn sectors(range: &Range<u64>) -> impl Iterator<Item = u64> + use<> {
    (range.start / 512 * 512..range.end).step_by(512)
}
