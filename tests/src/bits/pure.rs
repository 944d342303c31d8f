//! Each bit of each structure, one at a time, before the pure decoder that reads it, with the checks
//! that the engine applies: what comes out is an error. Nothing of a structure is declared free to
//! change: padding is zero and is checked.
//!
//! A flipped bit is tried in two ways:
//! - *as rot leaves it*: the checksum is of the sound bytes. The decoder refuses.
//! - *sealed*: the structure's own checksum, and what is kept of it elsewhere, are made to fit. No
//!   rot does that. The decoder may take it for something else, but it does not panic, and neither
//!   does anything that reads what it took.

use super::anatomy::{Reads, bytes_at, place};
use super::specimen::Specimen;
use crate::check::guarded;
use dmerkle::fingerprint::part_hash;
use dmerkle::format::body::BodyRef;
use dmerkle::format::bytes::{Reader, u32_at};
use dmerkle::format::catalog::{CatalogEntry, tree_of_key};
use dmerkle::format::extent::ExtentRef;
use dmerkle::format::log_block::LogBlock;
use dmerkle::format::map::decode_map;
use dmerkle::format::pointer::Pointer;
use dmerkle::format::record::{BatchRef, Operation, batch_len};
use dmerkle::format::region_table::{decode_region_table, table_bytes};
use dmerkle::format::superblock::{RegionTableRef, SUPERBLOCK_BYTES, Slot, Superblock};
use dmerkle::geometry::SUPERBLOCK_OFFSETS;
use dmerkle::recover::ReadAt;
use dmerkle::tree::Node;
use dmerkle::{Geometry, Lsn, Structure, TreeId};

/// What was flipped, and what came of it.
#[derive(Debug, Default)]
pub struct Flipped {
    /// Bits, each counted once for each way.
    pub flips: u64,
    /// Broken promises.
    pub violations: Vec<String>,
}

/// Whether bytes are what the engine takes them for.
type Judge<'a> = Box<dyn Fn(&[u8]) -> bool + 'a>;

/// Makes checksums fit, and looks at all that the bytes then say.
type Look<'a> = Box<dyn Fn(&mut [u8]) + 'a>;

/// A structure of a store, and how the engine reads it.
struct Piece<'a> {
    name: String,
    bytes: Vec<u8>,
    /// Whether the bytes are what the engine takes them for, word for word.
    reads_as: Judge<'a>,
    /// Makes the checksums fit, reads the bytes with what is kept elsewhere made to fit too, and
    /// looks at all that they say.
    sealed: Option<Look<'a>>,
}

/// Flips each bit of each structure of a store; one structure of each kind in `one_in`.
pub fn flip_all(specimen: &Specimen, one_in: usize) -> Flipped {
    let mut flipped = Flipped::default();
    let kinds = [
        superblocks(specimen),
        log_blocks(specimen),
        region_table(specimen),
        maps(specimen),
        nodes(specimen),
        extents(specimen),
        batches(specimen),
        bare(specimen),
    ];
    for pieces in kinds {
        for piece in pieces.iter().step_by(one_in) {
            flipped.take(specimen.name, piece);
        }
    }
    flipped
}

impl Flipped {
    fn take(&mut self, specimen: &str, piece: &Piece<'_>) {
        if !(piece.reads_as)(&piece.bytes) {
            let name = &piece.name;
            self.violations
                .push(format!("{specimen}, {name}: it is not sound to begin with"));
            return;
        }
        let mut bytes = piece.bytes.clone();
        for bit in 0..bytes.len() * 8 {
            let mask = 1 << (bit % 8);
            bytes[bit / 8] ^= mask;
            self.flips += 1;
            let judged = guarded(|| {
                if (piece.reads_as)(&bytes) {
                    return Err("it is taken for something".to_owned());
                }
                Ok(())
            });
            let judged = judged.and_then(|()| match &piece.sealed {
                None => Ok(()),
                Some(sealed) => {
                    self.flips += 1;
                    let mut bytes = bytes.clone();
                    guarded(|| {
                        sealed(&mut bytes);
                        Ok(())
                    })
                }
            });
            bytes[bit / 8] ^= mask;
            if let Err(what) = judged {
                let name = &piece.name;
                self.violations
                    .push(format!("{specimen}, bit {bit} of {name}: {what}"));
                if self.violations.len() > 20 {
                    return;
                }
            }
        }
    }
}

fn put(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

/// CRC32C of all bytes but the four at `at`.
fn checksum_around(bytes: &[u8], at: usize) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..at]), &bytes[at + 4..])
}

/// Makes the checksums of a superblock fit what it says.
pub fn seal_superblock(bytes: &mut [u8]) {
    let geometry = part_hash(&bytes[24..56]);
    bytes[16..24].copy_from_slice(&geometry[..8]);
    put(bytes, 12, checksum_around(bytes, 12));
}

/// Makes the checksum of a log block fit what it says.
pub fn seal_log_block(nonce: u64, bytes: &mut [u8]) {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&nonce.to_le_bytes()), &bytes[4..]);
    put(bytes, 0, checksum);
}

fn superblocks(specimen: &Specimen) -> Vec<Piece<'_>> {
    let pieces = SUPERBLOCK_OFFSETS.iter().enumerate().map(|(copy, at)| {
        let bytes = bytes_at(&specimen.image, &(*at..at + SUPERBLOCK_BYTES as u64));
        Piece {
            name: format!("superblock copy {copy}"),
            // The first decoding says what the sound bytes mean; any other answer is wrong.
            reads_as: Box::new(move |bytes| {
                Superblock::decode(bytes).is_ok_and(|(_, slot)| slot == Slot::of_copy(copy))
            }),
            sealed: Some(Box::new(|bytes| {
                seal_superblock(bytes);
                if let Ok((superblock, _)) = Superblock::decode(bytes) {
                    let geometry = superblock.geometry;
                    let _ = geometry.file_bytes(superblock.region_table.regions);
                    let _ = geometry.region_table_offset(1);
                    let _ = geometry.log_offset(superblock.log_start);
                }
            })),
            bytes,
        }
    });
    pieces.collect()
}

fn log_blocks(specimen: &Specimen) -> Vec<Piece<'_>> {
    let anatomy = &specimen.anatomy;
    let geometry = &anatomy.geometry;
    let nonce = anatomy.superblock.nonce;
    let block = u64::from(geometry.log_block_bytes);
    let pieces = anatomy.claims.keys().map(move |at| Piece {
        name: format!("log block at byte {at}"),
        bytes: bytes_at(&specimen.image, &(*at..at + block)),
        reads_as: Box::new(move |bytes| {
            LogBlock::decode(bytes, nonce, geometry)
                .is_ok_and(|found| geometry.log_offset(found.lsn) == *at)
        }),
        sealed: Some(Box::new(move |bytes| {
            seal_log_block(nonce, bytes);
            if let Ok(found) = LogBlock::decode(bytes, nonce, geometry) {
                let _ = found.group_end(geometry);
                look_at_batches(found.payload);
            }
        })),
    });
    pieces.collect()
}

/// The batches at the front of a payload, as replay takes them.
fn look_at_batches(mut payload: &[u8]) {
    while let Some(length) = batch_len(payload).filter(|&length| length <= payload.len()) {
        let (batch, rest) = payload.split_at(length);
        look_at_batch(batch);
        payload = rest;
    }
}

fn look_at_batch(batch: &[u8]) {
    let geometry = Geometry::tiny();
    if let Ok(batch) = BatchRef::decode(batch) {
        for operation in batch.ops() {
            if let Operation::Put { body, .. } = operation {
                look_at_body(body, &geometry);
            }
        }
    }
}

fn look_at_body(body: BodyRef<'_>, geometry: &Geometry) {
    let _ = (body.meta(), body.parts_len());
    for part in body.parts() {
        let _ = part.length();
    }
    for extent in body.extents() {
        let _ = (extent.run(geometry), extent.hash(), extent.chunk_bytes());
        for chunk in 0..extent.chunks() {
            let _ = extent.chunk_checksum(chunk);
        }
    }
}

fn region_table(specimen: &Specimen) -> Vec<Piece<'_>> {
    let anatomy = &specimen.anatomy;
    let geometry = &anatomy.geometry;
    let nonce = anatomy.superblock.nonce;
    let described = anatomy.superblock.region_table;
    let at = geometry.region_table_offset(described.copy);
    let used = table_bytes(described.regions);
    let padded = (used as u64).next_multiple_of(geometry.unit());
    vec![Piece {
        name: "the region table".into(),
        bytes: bytes_at(&specimen.image, &(at..at + padded)),
        reads_as: Box::new(move |bytes| {
            decode_region_table(geometry, nonce, described, bytes).is_ok()
        }),
        sealed: Some(Box::new(move |bytes| {
            let checksum = checksum_around(&bytes[..used], 8);
            put(bytes, 8, checksum);
            let described = RegionTableRef {
                checksum,
                ..described
            };
            let _ = decode_region_table(geometry, nonce, described, bytes);
        })),
    }]
}

fn maps(specimen: &Specimen) -> Vec<Piece<'_>> {
    let anatomy = &specimen.anatomy;
    let geometry = &anatomy.geometry;
    let nonce = anatomy.superblock.nonce;
    let pieces = anatomy.maps.iter().map(move |(region, row)| {
        let at = geometry.map_offset(*region, row.copy);
        let decode = move |bytes: &[u8], checksum| {
            decode_map(geometry, nonce, *region, row.generation, checksum, bytes).is_ok()
        };
        Piece {
            name: format!("the map of region {region}"),
            bytes: bytes_at(&specimen.image, &(at..at + geometry.map_bytes())),
            reads_as: Box::new(move |bytes| decode(bytes, row.map_checksum)),
            sealed: Some(Box::new(move |bytes| {
                let checksum = checksum_around(bytes, 8);
                put(bytes, 8, checksum);
                let _ = decode(bytes, checksum);
            })),
        }
    });
    pieces.collect()
}

fn nodes(specimen: &Specimen) -> Vec<Piece<'_>> {
    let anatomy = &specimen.anatomy;
    let geometry = &anatomy.geometry;
    let pieces = anatomy.nodes.iter().map(move |(tree, pointer)| {
        let at = geometry.offset_of(pointer.block);
        let size = u64::from(pointer.order.units()) * geometry.unit();
        Piece {
            name: format!("the node at unit {} of tree {tree}", pointer.block),
            bytes: bytes_at(&specimen.image, &(at..at + size)),
            reads_as: Box::new(move |bytes| Node::decode(bytes, pointer, *tree).is_ok()),
            sealed: Some(Box::new(move |bytes| {
                let checksum = crc32c::crc32c(&bytes[4..]);
                put(bytes, 0, checksum);
                let pointer = Pointer {
                    checksum,
                    ..*pointer
                };
                if let Ok(node) = Node::decode(&*bytes, &pointer, *tree) {
                    look_at_node(&node, *tree, geometry);
                }
                if let Ok(node) = Node::decode_orphan(&*bytes) {
                    look_at_node(&node, *tree, geometry);
                }
            })),
        }
    });
    pieces.collect()
}

fn look_at_node(node: &Node<&[u8]>, tree: TreeId, geometry: &Geometry) {
    let _ = (
        node.low(),
        node.high(),
        node.prefix(),
        node.tree(),
        node.opening(),
    );
    if node.is_leaf() {
        for (key, body) in node.entries() {
            let key = key.to_vec();
            let _ = node.find(&key);
            look_at_body(body, geometry);
            if tree == TreeId::CATALOG {
                let _ = (tree_of_key(&key), CatalogEntry::from_body(body));
            }
        }
        return;
    }
    let mut fence = Vec::new();
    for child in 0..node.count() {
        let _ = node.child(child);
        node.child_low(child, &mut fence);
        let _ = node.child_for(&fence);
        node.child_high(child, &mut fence);
    }
    let _ = node.summary_of_children();
}

/// The parts themselves: their bytes against chunk checksums and hash, and the padding behind them,
/// which recovery and `verify` want to be zero.
fn extents(specimen: &Specimen) -> Vec<Piece<'_>> {
    let geometry = &specimen.anatomy.geometry;
    let pieces = specimen
        .anatomy
        .extents
        .iter()
        .filter_map(move |reference| {
            let extent = ExtentRef::decode(&mut Reader::new(reference, Structure::Extent)).ok()?;
            let length = usize::try_from(extent.length()).ok()?;
            let run = extent.run(geometry);
            let bytes = bytes_at(&specimen.image, &place(geometry, run));
            // The hash alone would do; the chunks' checksums must, because readers check only these.
            let reads_as = move |bytes: &[u8]| {
                let (part, padding) = bytes.split_at(length);
                extent.verify(part).is_ok() && padding.iter().all(|byte| *byte == 0)
            };
            // What the log named once may have been given back since.
            let is_there = reads_as(&bytes) && part_hash(&bytes[..length]) == *extent.hash();
            is_there.then(|| Piece {
                name: format!("the extent at unit {}", run.start),
                bytes,
                reads_as: Box::new(reads_as),
                sealed: None,
            })
        });
    pieces.collect()
}

/// Whole groups, as one stream of batches: the frame of the last block is another than the first's.
fn batches(specimen: &Specimen) -> Vec<Piece<'_>> {
    let anatomy = &specimen.anatomy;
    let reads = Reads(&specimen.image);
    let mut pieces = Vec::new();
    let mut payload = Vec::new();
    let block_bytes = u64::from(anatomy.geometry.log_block_bytes);
    let mut at = anatomy.superblock.log_start;
    let mut bytes = vec![0; usize::try_from(block_bytes).expect("small")];
    for _ in 0..anatomy.claims.len() {
        if reads
            .read_at(anatomy.geometry.log_offset(at), &mut bytes)
            .is_err()
        {
            break;
        }
        let nonce = anatomy.superblock.nonce;
        let Ok(block) = LogBlock::decode(&bytes, nonce, &anatomy.geometry) else {
            break;
        };
        payload.extend_from_slice(block.payload);
        let group_end = block.group_end(&anatomy.geometry);
        at = if block.index + 1 == block.group_blocks {
            pieces.extend(bare_batches(&payload, block.group.lsn));
            payload.clear();
            group_end
        } else {
            Lsn(at.0 + block_bytes)
        };
    }
    pieces
}

/// Batches without the blocks that carry their checksums: no promise but that they do no harm.
fn bare_batches(mut payload: &[u8], group: Lsn) -> Vec<Piece<'static>> {
    let mut pieces = Vec::new();
    while let Some(length) = batch_len(payload).filter(|&length| length <= payload.len()) {
        let (batch, rest) = payload.split_at(length);
        pieces.push(harmless(
            format!("a batch of the group at LSN {group}"),
            batch,
            |bytes| {
                look_at_batch(bytes);
            },
        ));
        payload = rest;
    }
    pieces
}

/// Extent references and catalog entries without the node or record around them.
fn bare(specimen: &Specimen) -> Vec<Piece<'_>> {
    let anatomy = &specimen.anatomy;
    let mut pieces = Vec::new();
    for reference in &anatomy.extents {
        pieces.push(harmless("an extent reference".into(), reference, |bytes| {
            let mut reader = Reader::new(bytes, Structure::Extent);
            if let Ok(extent) = ExtentRef::decode(&mut reader) {
                let _ = (extent.run(&Geometry::tiny()), extent.hash());
                let _ = extent.verify(&[0; 2000]);
                let _ = u32_at(extent.as_bytes(), 8);
            }
        }));
    }
    for (tree, pointer) in anatomy
        .nodes
        .iter()
        .filter(|(tree, _)| *tree == TreeId::CATALOG)
    {
        let at = anatomy.geometry.offset_of(pointer.block);
        let size = u64::from(pointer.order.units()) * anatomy.geometry.unit();
        let bytes = bytes_at(&specimen.image, &(at..at + size));
        if let Ok(node) = Node::decode(bytes.as_slice(), pointer, *tree)
            && node.is_leaf()
        {
            for (_, body) in node.entries() {
                pieces.push(harmless(
                    "a catalog entry".into(),
                    body.as_bytes(),
                    |bytes| {
                        if let Ok(body) = BodyRef::decode(bytes) {
                            let _ = CatalogEntry::from_body(body);
                        }
                    },
                ));
            }
        }
    }
    pieces
}

/// Bytes that carry no checksum of their own: whatever they say, they do no harm.
fn harmless<'a>(name: String, bytes: &[u8], look: impl Fn(&[u8]) + 'a) -> Piece<'a> {
    let sound = bytes.to_vec();
    Piece {
        name,
        bytes: bytes.to_vec(),
        reads_as: Box::new(move |bytes| bytes == sound),
        sealed: Some(Box::new(move |bytes| look(bytes))),
    }
}
