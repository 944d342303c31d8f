//! Verified nodes, bounded by bytes.
//!
//! Invariants: a node enters verified against the pointer that named it, and its key holds that
//! pointer's generation, checksum and length, so that a reused block is another key and nothing is ever
//! invalidated (a checkpoint that failed is tried again under the same generation).

use crate::error::Error;
use crate::io::{AlignedBuf, Disk};
use crate::planted::{Race, races};
use crate::sync::Cache;
use dmerkle::format::pointer::Pointer;
use dmerkle::tree::Node;
use dmerkle::{BlockId, Corrupt, Generation, Geometry, Place, TreeId};
use quick_cache::Weighter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A node in memory, verified.
pub(crate) type CachedNode = Node<AlignedBuf>;

type Key = (BlockId, Generation, u32, u32);

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Arc<CachedNode>> for ByBytes {
    fn weight(&self, _key: &Key, node: &Arc<CachedNode>) -> u64 {
        node.block().len() as u64 + 128
    }
}

pub(crate) struct NodeCache {
    nodes: Cache<Key, Arc<CachedNode>, ByBytes>,
    /// Lookups that were only to say that a node is wanted, and whether it was there.
    said: [AtomicU64; 2],
    /// Bytes that it may hold.
    held: AtomicU64,
}

impl NodeCache {
    /// A cache of about `bytes` bytes of nodes.
    pub(crate) fn new(bytes: u64) -> Self {
        // Nodes are 4 to 16 KiB; 8 is a fair guess for the table's size.
        let nodes = usize::try_from(bytes / 8192).unwrap_or(usize::MAX).max(16);
        Self {
            nodes: Cache::with_weighter(nodes, bytes, ByBytes),
            said: Default::default(),
            held: AtomicU64::new(bytes),
        }
    }

    pub(crate) fn get(&self, pointer: &Pointer) -> Option<Arc<CachedNode>> {
        self.nodes.get(&key_of(pointer))
    }

    /// The same, without a word to the cache that somebody wants the node.
    pub(crate) fn peek(&self, pointer: &Pointer) -> Option<Arc<CachedNode>> {
        self.nodes.peek(&key_of(pointer))
    }

    pub(crate) fn insert(&self, pointer: &Pointer, node: &Arc<CachedNode>) {
        self.nodes.insert(key_of(pointer), Arc::clone(node));
    }

    /// The same, for a node that replaces some that readers want. Newcomers wait in a short queue, and
    /// leave at its end if nobody has asked for them.
    pub(crate) fn insert_wanted(&self, pointer: &Pointer, node: &Arc<CachedNode>) {
        let key = key_of(pointer);
        self.nodes.insert(key, Arc::clone(node));
        let is_there = self.nodes.get(&key).is_some();
        self.said[usize::from(is_there)].fetch_add(1, Ordering::Relaxed);
    }

    /// Makes room where these nodes were.
    pub(crate) fn forget(&self, pointers: &[Pointer]) {
        if races(Race::CacheByBlock) {
            return;
        }
        for pointer in pointers {
            self.nodes.remove(&key_of(pointer));
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.nodes.weight()
    }

    /// Holds no more than so many bytes from now on. Who calls has the checkpointer.
    pub(crate) fn hold(&self, bytes: u64) {
        if self.held.swap(bytes, Ordering::Relaxed) != bytes {
            self.nodes.set_capacity(bytes);
        }
    }

    /// How many that are.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// How often somebody has asked for a node.
    pub(crate) fn lookups(&self) -> u64 {
        self.hits() + self.misses()
    }

    pub(crate) fn hits(&self) -> u64 {
        let said = self.said[1].load(Ordering::Relaxed);
        self.nodes.hits().saturating_sub(said)
    }

    pub(crate) fn misses(&self) -> u64 {
        let said = self.said[0].load(Ordering::Relaxed);
        self.nodes.misses().saturating_sub(said)
    }
}

fn key_of(pointer: &Pointer) -> Key {
    if races(Race::CacheByBlock) {
        return (pointer.block, Generation(0), 0, 0);
    }
    (
        pointer.block,
        pointer.generation,
        pointer.checksum,
        pointer.logical_bytes,
    )
}

/// Where a node stands in the file, and how many bytes.
pub(crate) fn place_of(geometry: &Geometry, pointer: &Pointer) -> (u64, usize) {
    let bytes = usize::try_from(u64::from(pointer.order.units()) * geometry.unit())
        .expect("a block is far smaller than memory");
    (geometry.offset_of(pointer.block), bytes)
}

/// Reads a node from the disk and verifies it.
pub(crate) fn read_node(
    disk: &dyn Disk,
    geometry: &Geometry,
    tree: TreeId,
    pointer: &Pointer,
) -> Result<Arc<CachedNode>, Error> {
    let (offset, bytes) = place_of(geometry, pointer);
    let mut buffer = AlignedBuf::zeroed(bytes);
    disk.read(offset, &mut buffer)
        .map_err(Error::reading("reading a tree node", offset))?;
    verify_node(buffer, tree, pointer).map_err(Error::from)
}

/// Takes bytes for the node that a pointer names, if they are it.
pub(crate) fn verify_node(
    bytes: AlignedBuf,
    tree: TreeId,
    pointer: &Pointer,
) -> Result<Arc<CachedNode>, Corrupt> {
    Node::decode(bytes, pointer, tree)
        .map(Arc::new)
        .map_err(|corrupt| corrupt.at(Place::Block(pointer.block)))
}
