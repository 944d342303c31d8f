//! The ground that a checkpoint's applies stand on: the cache and the disk below, free blocks for
//! what is new. Nothing here changes what is durable: what was placed can be given back once its
//! writes have ended, and what was retired is only noted.
//!
//! A checkpoint does not say what readers want. So a leaf that it reads from the disk does not come
//! into the cache, and a new one stands there from the start if one of the last that were opened
//! before it did (it is made of one of those, and wanted as that was), or if there was none. Every
//! branch does. What was retired leaves the cache when the new base is published: who still reads
//! the old one is rare; and so does what was new in a checkpoint that is given up.

use crate::cache::{CachedNode, read_node, verify_node};
use crate::coming::Coming;
use crate::core::Core;
use crate::error::Error;
use crate::io::{AlignedBuf, Writes};
use crate::planted::{Race, races};
use dmerkle::format::pointer::Pointer;
use dmerkle::tree::{Ground, Source};
use dmerkle::{BlockId, Order, Run, TreeId};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Node bytes that are gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// Of so many leaves that were read last, a bit each, a new one is made: one is written once two
/// leaves' worth of entries has come behind its first.
const LAST_LEAVES: u8 = 0b111;

/// What an apply has placed, written and retired.
#[derive(Default)]
pub(crate) struct NewNodes {
    pub(crate) placed: Vec<Run>,
    pub(crate) retired_nodes: Vec<Pointer>,
    pub(crate) retired_extents: Vec<Run>,
    coming: Coming,
    /// Whether each of the last leaves that were read was not in the cache, a bit each.
    unwanted: u8,
    /// And whether it was.
    wanted: u8,
    /// New nodes in the cache.
    shown: Vec<Pointer>,
    pending: Vec<(u64, Vec<u8>)>,
    pending_bytes: usize,
    /// Those that are under way while the apply goes on.
    writes: Option<Writes>,
}

/// The ground an apply stands on: the cache and disk below, free blocks for what is new.
pub(crate) struct CheckpointGround<'a> {
    pub(crate) core: &'a Arc<Core>,
    pub(crate) tree: TreeId,
    pub(crate) writes: &'a mut NewNodes,
}

impl Source for CheckpointGround<'_> {
    type Bytes = AlignedBuf;
    type Error = Error;

    fn node(&mut self, tree: TreeId, pointer: &Pointer) -> Result<Arc<CachedNode>, Error> {
        if let Some(node) = self.core.cache.peek(pointer) {
            if node.is_leaf() {
                self.writes.has_read_leaf(true);
            }
            return Ok(node);
        }
        let geometry = &self.core.identity.geometry;
        let node = if let Some(node) = self.writes.coming.take(pointer) {
            node
        } else {
            read_node(self.core.disk.as_ref(), geometry, tree, pointer)?
        };
        if node.is_leaf() {
            self.writes.has_read_leaf(false);
        } else {
            self.core.cache.insert(pointer, &node);
        }
        Ok(node)
    }

    fn prefetch(&mut self, tree: TreeId, pointers: &[Pointer]) {
        self.writes.coming.ask(self.core, tree, pointers);
    }
}

impl Ground for CheckpointGround<'_> {
    fn place(&mut self, order: Order) -> Result<BlockId, Error> {
        let start = self
            .core
            .space
            .allocate_node(self.core.disk.as_ref(), order)?;
        self.writes.placed.push(Run {
            start,
            units: order.units(),
        });
        Ok(start)
    }

    fn write(&mut self, level: u8, pointer: &Pointer, bytes: Vec<u8>) -> Result<(), Error> {
        let replaces_wanted = level > 0 || self.writes.wanted & LAST_LEAVES != 0;
        let replaces_unwanted = self.writes.unwanted & LAST_LEAVES == LAST_LEAVES;
        if (replaces_wanted || !replaces_unwanted) && !races(Race::CacheByBlock) {
            let copy = AlignedBuf::copy_of(&bytes);
            let node = verify_node(copy, self.tree, pointer)?;
            if replaces_wanted {
                self.core.cache.insert_wanted(pointer, &node);
            } else {
                self.core.cache.insert(pointer, &node);
            }
            self.writes.shown.push(*pointer);
        }
        let offset = self.core.identity.geometry.offset_of(pointer.block);
        self.writes.pending_bytes += bytes.len();
        self.writes.pending.push((offset, bytes));
        if self.writes.pending_bytes >= WRITE_BYTES {
            self.writes.start(self.core)?;
        }
        Ok(())
    }

    fn retire_node(&mut self, pointer: &Pointer) {
        self.writes.retired_nodes.push(*pointer);
    }

    fn retire_extent(&mut self, run: Run) {
        self.writes.retired_extents.push(run);
    }
}

impl NewNodes {
    /// Another tree begins, of which no leaf was read yet.
    pub(crate) fn begin(&mut self) {
        (self.unwanted, self.wanted) = (0, 0);
    }

    fn has_read_leaf(&mut self, cached: bool) {
        self.unwanted = self.unwanted << 1 | u8::from(!cached);
        self.wanted = self.wanted << 1 | u8::from(cached);
    }

    /// The blocks of the nodes that were retired.
    pub(crate) fn retired_blocks(&self) -> impl Iterator<Item = Run> + '_ {
        self.retired_nodes.iter().map(|pointer| Run {
            start: pointer.block,
            units: pointer.order.units(),
        })
    }

    /// Sends the gathered nodes off, neighbours in one go.
    fn start(&mut self, core: &Core) -> Result<(), Error> {
        let bytes = std::mem::take(&mut self.pending_bytes) as u64;
        let mut pending = std::mem::take(&mut self.pending);
        pending.sort_unstable_by_key(|(offset, _)| *offset);
        let writes = self.writes.get_or_insert_with(|| core.pool.writes());
        let is_next = |(offset, node): &(u64, Vec<u8>), (next, _): &(u64, Vec<u8>)| {
            offset + node.len() as u64 == *next
        };
        for neighbours in pending.chunk_by(is_next) {
            let (offset, nodes) = joined(neighbours);
            writes
                .start(offset, &Arc::new(nodes))
                .map_err(|error| core.poison_write(&Error::io("writing tree nodes")(error)))?;
        }
        core.counters
            .node_bytes_written
            .fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Writes what was gathered and waits for all of it.
    pub(crate) fn flush(&mut self, core: &Core) -> Result<(), Error> {
        self.start(core)?;
        let written = self
            .writes
            .take()
            .map_or(Ok(()), |mut writes| writes.wait());
        written.map_err(|error| core.poison_write(&Error::io("writing tree nodes")(error)))
    }

    /// Gives everything up: waits until nothing is under way any more, for then the blocks may be
    /// another's, and what was shown leaves the cache.
    pub(crate) fn give_up(&mut self, core: &Core) {
        self.writes = None;
        core.cache.forget(&std::mem::take(&mut self.shown));
    }
}

/// Neighbours as one write.
fn joined(nodes: &[(u64, Vec<u8>)]) -> (u64, AlignedBuf) {
    let bytes = || nodes.iter().map(|(_, node)| node.as_slice());
    let offset = nodes.first().map_or(0, |(offset, _)| *offset);
    let len = bytes().map(<[u8]>::len).sum();
    (offset, AlignedBuf::padded_join(bytes(), len))
}
