//! Each structure of the format: what decodes can be read without fear, and encodes again to the
//! bytes that it came from.

use dmerkle::format::body::{BodyBuilder, BodyRef, PartRef};
use dmerkle::format::catalog::{CatalogEntry, tree_of_key};
use dmerkle::format::log_block::{BlockKind, LogBlock, encode_group, encode_skip};
use dmerkle::format::map::{decode_map, encode_map};
use dmerkle::format::record::{BatchRef, BatchWriter, batch_len};
use dmerkle::format::region_table::{decode_region_table, encode_region_table};
use dmerkle::format::superblock::{RegionTableRef, SUPERBLOCK_BYTES, Superblock};
use dmerkle::tree::{Lookup, Node, Step};
use dmerkle::{Generation, Geometry};

/// Seeds the checksums of the log blocks, maps and tables that are tried here.
pub(crate) const NONCE: u64 = 11;

/// Writes CRC32C of all bytes but the four at `at` there; too short an input stays as it is.
fn mend(bytes: &mut [u8], at: usize) -> u32 {
    let Some(rest) = bytes.get(at + 4..) else {
        return 0;
    };
    let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..at]), rest);
    bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    sum
}

/// Mends a superblock's checksum and the hash of its geometry.
pub(crate) fn mend_superblock(bytes: &mut [u8]) {
    if let Some(bytes) = bytes.get_mut(..SUPERBLOCK_BYTES) {
        let hash = blake3::hash(&bytes[24..56]);
        bytes[16..24].copy_from_slice(&hash.as_bytes()[..8]);
        mend(bytes, 12);
    }
}

/// Mends a log block's checksum.
pub(crate) fn mend_log_block(nonce: u64, bytes: &mut [u8]) {
    if bytes.len() >= 4 {
        let sum = crc32c::crc32c_append(crc32c::crc32c(&nonce.to_le_bytes()), &bytes[4..]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
    }
}

/// `data`, cut or filled up with zeros to `length` bytes.
fn fitted(data: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = data[..data.len().min(length)].to_vec();
    bytes.resize(length, 0);
    bytes
}

/// What decodes as a superblock encodes to the same bytes.
pub fn superblock(data: &[u8]) {
    let one = |bytes: &[u8]| {
        if let Ok((superblock, slot)) = Superblock::decode(bytes) {
            assert_eq!(&superblock.encode(slot)[..], &bytes[..SUPERBLOCK_BYTES]);
        }
    };
    one(data);
    let mut mended = data.to_vec();
    mend_superblock(&mut mended);
    one(&mended);
}

/// Every operation of a validated batch can be read, and writing them gives the batch again.
pub fn batch(data: &[u8]) {
    let one = |bytes: &[u8]| {
        let Ok(batch) = BatchRef::decode(bytes) else {
            return;
        };
        assert_eq!(batch_len(bytes), Some(bytes.len()));
        let mut writer = BatchWriter::new();
        for operation in batch.ops() {
            writer.push(&operation);
        }
        assert_eq!(writer.ops(), batch.ops_len());
        assert_eq!(writer.finish(), bytes);
    };
    one(data);
    let mut mended = data.to_vec();
    if let (Some(length), Ok(true_length)) = (mended.get_mut(..4), u32::try_from(data.len())) {
        length.copy_from_slice(&true_length.to_le_bytes());
        one(&mended);
    }
}

/// Every part of a validated body can be read, and writing them gives the body again.
pub fn body(data: &[u8]) {
    let Ok(body) = BodyRef::decode(data) else {
        return;
    };
    let geometry = Geometry::tiny();
    let mut again = BodyBuilder::new(body.meta());
    for part in body.parts() {
        if let PartRef::Extent(extent) = part {
            assert_eq!(extent.run(&geometry).start, extent.start());
            assert!(extent.chunk_bytes() * extent.chunks() as u64 >= extent.length());
            for index in 0..extent.chunks() {
                extent.chunk_checksum(index);
            }
            assert!(extent.verify(&[]).is_err(), "an extent is not empty");
        }
        again.part(part);
    }
    assert_eq!(body.parts().count(), body.parts_len());
    assert_eq!(again.finish(), data);
}

/// What decodes as a log block keeps the order of its LSNs, and if it is a group of its own, it
/// encodes to the same bytes.
pub fn log_block(data: &[u8]) {
    let geometry = Geometry::tiny();
    let block_bytes = geometry.log_block_bytes as usize;
    let one = |bytes: &[u8]| {
        let Ok(block) = LogBlock::decode(bytes, NONCE, &geometry) else {
            return;
        };
        let group = &block.group;
        assert!(group.incarnation_start <= group.durable);
        assert!(group.durable <= group.lsn && group.lsn <= block.lsn);
        assert!(block.lsn < block.group_end(&geometry));
        let mut again = vec![0xAA; block_bytes];
        match block.kind {
            BlockKind::Skip => encode_skip(&geometry, NONCE, group, &mut again),
            BlockKind::Group if block.group_blocks == 1 => {
                encode_group(&geometry, NONCE, group, block.payload, &mut again);
            }
            BlockKind::Group => return,
        }
        assert_eq!(again, bytes);
    };
    one(data);
    let mut mended = fitted(data, block_bytes);
    mend_log_block(NONCE, &mut mended);
    one(&mended);
}

/// A map that is taken has no bit where none may be, and encodes to the same bytes.
pub fn map(data: &[u8]) {
    let geometry = Geometry::tiny();
    let (region, generation) = (3, Generation(5));
    let one = |bytes: &[u8], kept| {
        if let Ok(bits) = decode_map(&geometry, NONCE, region, generation, kept, bytes) {
            let mut again = vec![0xAA; bytes.len()];
            let sum = encode_map(&geometry, NONCE, region, generation, bits, &mut again);
            assert_eq!((&again[..], sum), (bytes, kept));
        }
    };
    one(data, 0);
    let length = usize::try_from(geometry.map_bytes()).unwrap_or(usize::MAX);
    let mut mended = fitted(data, length);
    let sum = mend(&mut mended, 8);
    one(&mended, sum);
}

/// A region table that is taken encodes to the same bytes. The first byte says how many regions
/// the superblock knows of.
pub fn region_table(data: &[u8]) {
    let geometry = Geometry::tiny();
    let Some((&regions, data)) = data.split_first() else {
        return;
    };
    let one = |bytes: &[u8], checksum, regions| {
        let described = RegionTableRef {
            copy: 0,
            regions,
            checksum,
        };
        if let Ok((generation, rows)) = decode_region_table(&geometry, NONCE, described, bytes) {
            assert_eq!(rows.len(), regions as usize);
            if regions <= geometry.regions_max {
                let (again, sum) = encode_region_table(&geometry, NONCE, generation, &rows);
                let used = dmerkle::format::region_table::table_bytes(regions);
                assert_eq!((&again[..used], sum), (&bytes[..used], checksum));
            }
        }
    };
    one(data, 0, regions.into());
    let regions = u32::from(regions) % (geometry.regions_max + 2);
    let mut mended = fitted(data, dmerkle::format::region_table::table_bytes(regions));
    let sum = mend(&mut mended, 8);
    one(&mended, sum, regions);
}

/// An entry of the catalog that is taken encodes to the same body.
pub fn catalog(data: &[u8]) {
    let _ = tree_of_key(data);
    let one = |bytes: &[u8]| {
        let Ok(body) = BodyRef::decode(bytes) else {
            return;
        };
        if let Ok(entry) = CatalogEntry::from_body(body) {
            assert_eq!(entry.to_body(), bytes);
        }
    };
    one(data);
    let mut whole = BodyBuilder::new(&[]);
    whole.inline(data);
    one(&whole.finish());
}

/// A block that is taken for a node can be searched and walked: no accessor panics, its keys
/// ascend between its fences, and each is found where it stands.
pub fn leaf_and_branch(data: &[u8]) {
    let one = |bytes: &[u8]| {
        let Ok(orphan) = Node::decode_orphan(bytes) else {
            return;
        };
        let (pointer, tree) = (*orphan.pointer(), orphan.tree());
        if let Ok(node) = Node::decode(bytes, &pointer, tree) {
            assert_eq!(node.count(), orphan.count());
        }
        if orphan.is_leaf() {
            walk_leaf(&orphan);
        } else {
            walk_branch(&orphan);
        }
    };
    one(data);
    let mut mended = fitted(data, data.len().next_multiple_of(64));
    mend(&mut mended, 0);
    one(&mended);
}

fn walk_leaf(node: &Node<&[u8]>) {
    let mut last: Option<Vec<u8>> = None;
    for (index, (key, body)) in node.entries().enumerate() {
        let key = key.to_vec();
        assert!(node.covers(&key));
        assert!(last.as_ref().is_none_or(|last| *last < key));
        assert_eq!(node.position(&key), (index, true));
        assert_eq!(node.find(&key), Some(body));
        let found = Lookup::new(&key)
            .step(node)
            .expect("no parent says a level");
        assert_eq!(found, Step::Found(body));
        assert_eq!(body.parts().count(), body.parts_len());
        last = Some(key);
    }
}

fn walk_branch(node: &Node<&[u8]>) {
    let (mut low, mut high) = (Vec::new(), Vec::new());
    node.summary_of_children();
    for index in 0..node.count() {
        low.clear();
        high.clear();
        node.child_low(index, &mut low);
        let bounded = node.child_high(index, &mut high);
        assert!(!bounded || low < high, "a child's fences are crossed");
        assert_eq!(node.child_index(&low), index);
        assert_eq!(node.child_for(&low), (index, node.child_pointer(index)));
        assert_eq!(node.child(index).summary, node.child_summary(index));
    }
    assert_eq!(&high[..], node.high().unwrap_or_default());
}
