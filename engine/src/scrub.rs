//! Reading everything again: nodes and parts as they stand on the disk, past cache and page cache.
//!
//! Invariants:
//! - Memory is bounded: a window of nodes, a window of parts' bytes.
//! - Commits come first: while they flow, half of the time is theirs.
//! - What is broken is named, and the walk goes on behind it.

use crate::cache::{CachedNode, place_of, verify_node};
use crate::core::Core;
use crate::entry::Entry;
use crate::error::Error;
use crate::io::AlignedBuf;
use crate::verify::Violation;
use dmerkle::error::Fault;
use dmerkle::format::body::{BodyRef, PartRef};
use dmerkle::format::bytes::Reader;
use dmerkle::format::catalog::{CatalogEntry, tree_of_key};
use dmerkle::format::extent::ExtentRef;
use dmerkle::format::pointer::Pointer;
use dmerkle::tree::{Root, Source};
use dmerkle::{BlockId, Corrupt, Place, Structure, TreeId};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// Bytes of parts that are read at once.
const WINDOW_BYTES: usize = 4 << 20;

/// Bytes that are read in one piece.
const PIECE_BYTES: usize = 1 << 20;

/// Parts that are looked at together: most are short.
const WINDOW_PARTS: usize = 64;

/// Leaves that are read at once.
const WINDOW_NODES: usize = 32;

/// The longest pause between two windows.
const PAUSE_MS_MAX: u64 = 50;

/// Violations that are kept; more are counted.
const VIOLATIONS_MAX: usize = 10_000;

/// Violations so far.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) violations: Vec<Violation>,
    pub(crate) more: u64,
}

impl Found {
    pub(crate) fn push(&mut self, violation: Violation) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(violation);
        } else {
            self.more += 1;
        }
    }
}

/// Gives way to commits.
pub(crate) struct Pace<'a> {
    core: &'a Core,
    since_ms: u64,
    flushes: u64,
}

impl<'a> Pace<'a> {
    pub(crate) fn new(core: &'a Core) -> Self {
        Self {
            core,
            since_ms: core.world.clock.now_ms(),
            flushes: core.counters.flushes.load(Ordering::Relaxed),
        }
    }

    /// To be called between windows: if anything was committed meanwhile, rests for as long as
    /// the window took. An error once the store is closed.
    pub(crate) fn rest(&mut self) -> Result<(), Error> {
        if self.core.queue.lock().is_closed() {
            return Err(Error::Closed);
        }
        let flushes = self.core.counters.flushes.load(Ordering::Relaxed);
        let busy = flushes != self.flushes;
        if busy && self.core.is_threaded() {
            let took_ms = self.core.world.clock.now_ms().saturating_sub(self.since_ms);
            thread::sleep(Duration::from_millis(took_ms.clamp(1, PAUSE_MS_MAX)));
        }
        self.flushes = flushes;
        self.since_ms = self.core.world.clock.now_ms();
        Ok(())
    }
}

/// A part to be read.
struct Part {
    tree: TreeId,
    key: Vec<u8>,
    /// The encoded reference, as the leaf or the memtable has it.
    reference: Vec<u8>,
}

impl Part {
    fn extent(&self) -> ExtentRef<'_> {
        ExtentRef::decode(&mut Reader::new(&self.reference, Structure::Extent))
            .expect("the reference was decoded before")
    }
}

/// Brings nodes from the disk, and reads the parts that leaves name.
pub(crate) struct Scrub<'a> {
    core: &'a Core,
    /// Leaves that will be asked for, in that order.
    ahead: VecDeque<Pointer>,
    /// Leaves that were read and not asked for yet.
    ready: HashMap<BlockId, io::Result<AlignedBuf>>,
    parts: Vec<Part>,
    parts_bytes: u64,
    pace: Pace<'a>,
    unpaced_bytes: usize,
    /// The first reason to end the walk early.
    ended: Option<Error>,
    pub(crate) bytes_read: u64,
    pub(crate) found: Found,
    /// What the catalog's leaves say of the trees.
    pub(crate) catalog: BTreeMap<TreeId, Root>,
}

impl<'a> Scrub<'a> {
    pub(crate) fn new(core: &'a Core) -> Self {
        Self {
            core,
            ahead: VecDeque::new(),
            ready: HashMap::new(),
            parts: Vec::new(),
            parts_bytes: 0,
            pace: Pace::new(core),
            unpaced_bytes: 0,
            ended: None,
            bytes_read: 0,
            found: Found::default(),
            catalog: BTreeMap::new(),
        }
    }

    /// Why the walk was ended early, if it was.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        self.read_parts();
        self.ended.take().map_or(Ok(()), Err)
    }

    fn counted(&mut self, bytes: usize) {
        self.bytes_read += bytes as u64;
        self.unpaced_bytes += bytes;
        if self.unpaced_bytes >= PIECE_BYTES {
            self.unpaced_bytes = 0;
            if let Err(error) = self.pace.rest() {
                self.ended.get_or_insert(error);
            }
        }
    }

    fn node_bytes(&mut self, pointer: &Pointer) -> Result<AlignedBuf, Error> {
        const READING: &str = "reading a tree node";
        let (offset, bytes) = place_of(&self.core.identity.geometry, pointer);
        if let Some(read) = self.ready.remove(&pointer.block) {
            return read.map_err(Error::reading(READING, offset));
        }
        let expected = self.ahead.iter().position(|next| next == pointer);
        let Some(position) = expected else {
            let mut buffer = AlignedBuf::zeroed(bytes);
            let read = self.core.disk.read(offset, &mut buffer);
            self.counted(bytes);
            return read
                .map(|()| buffer)
                .map_err(Error::reading(READING, offset));
        };
        self.ahead.drain(..position);
        let count = self.ahead.len().min(WINDOW_NODES);
        let window: Vec<Pointer> = self.ahead.drain(..count).collect();
        let geometry = &self.core.identity.geometry;
        let places: Vec<_> = window.iter().map(|next| place_of(geometry, next)).collect();
        let answers = self.core.pool.read_many(&places);
        self.ready = window.iter().map(|next| next.block).zip(answers).collect();
        self.counted(places.iter().map(|(_, bytes)| bytes).sum());
        let read = self.ready.remove(&pointer.block);
        read.expect("it was just read")
            .map_err(Error::reading(READING, offset))
    }

    /// Reads what a body names.
    pub(crate) fn body(&mut self, tree: TreeId, key: &[u8], body: BodyRef<'_>) {
        for extent in body.extents() {
            self.parts_bytes += extent.length();
            self.parts.push(Part {
                tree,
                key: key.to_vec(),
                reference: extent.as_bytes().to_vec(),
            });
            if self.parts.len() >= WINDOW_PARTS || self.parts_bytes >= WINDOW_BYTES as u64 {
                self.read_parts();
            }
        }
    }

    /// Reads all parts that wait, and compares them with what is kept of them.
    fn read_parts(&mut self) {
        let parts = std::mem::take(&mut self.parts);
        self.parts_bytes = 0;
        let geometry = self.core.identity.geometry;
        let mut pieces: VecDeque<(usize, u64, usize)> = VecDeque::new();
        for (index, part) in parts.iter().enumerate() {
            let bytes = u64::from(part.extent().run(&geometry).units) * geometry.unit();
            for at in (0..bytes).step_by(PIECE_BYTES) {
                let now = usize::try_from(bytes - at).map_or(PIECE_BYTES, |n| n.min(PIECE_BYTES));
                pieces.push_back((index, at, now));
            }
        }
        let mut judge: Option<(usize, Judge<'_>)> = None;
        while !pieces.is_empty() && self.ended.is_none() {
            let mut window = Vec::new();
            let mut bytes = 0;
            while let Some((_, _, next)) = pieces.front()
                && (window.is_empty() || bytes + next <= WINDOW_BYTES)
            {
                bytes += next;
                window.extend(pieces.pop_front());
            }
            let places: Vec<_> = window
                .iter()
                .map(|(index, at, bytes)| {
                    let start = parts[*index].extent().start();
                    (geometry.offset_of(start) + at, *bytes)
                })
                .collect();
            let answers = self.core.pool.read_many(&places);
            for ((index, _, _), answer) in window.iter().zip(answers) {
                if judge.as_ref().is_none_or(|(last, _)| last != index) {
                    self.pronounce(&parts, judge.take());
                    judge = Some((*index, Judge::new(parts[*index].extent())));
                }
                if let Some((_, judge)) = &mut judge {
                    judge.take(answer);
                }
            }
            self.counted(bytes);
        }
        if self.ended.is_none() {
            self.pronounce(&parts, judge);
        }
    }

    fn pronounce(&mut self, parts: &[Part], judge: Option<(usize, Judge<'_>)>) {
        let Some((index, judge)) = judge else {
            return;
        };
        if let Err(fault) = judge.verdict() {
            let part = &parts[index];
            self.found.push(Violation::Part {
                tree: part.tree,
                key: part.key.clone(),
                run: part.extent().run(&self.core.identity.geometry),
                fault: fault.to_string(),
            });
        }
    }

    fn catalog_leaf(&mut self, node: &CachedNode) {
        for (key, body) in node.entries() {
            let key = key.to_vec();
            let named = tree_of_key(&key)
                .and_then(|tree| CatalogEntry::from_body(body).map(|entry| (tree, entry)));
            match named {
                Ok((tree, entry)) => {
                    let root = Root {
                        pointer: entry.root,
                        summary: entry.summary,
                    };
                    self.catalog.insert(tree, root);
                }
                Err(corrupt) => self.found.push(Violation::Catalog {
                    key,
                    fault: corrupt.to_string(),
                }),
            }
        }
    }
}

impl Source for Scrub<'_> {
    type Bytes = AlignedBuf;
    type Error = Error;

    fn node(&mut self, tree: TreeId, pointer: &Pointer) -> Result<Arc<CachedNode>, Error> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let bytes = self.node_bytes(pointer)?;
        let node = verify_node(bytes, tree, pointer)?;
        if node.is_leaf() && tree == TreeId::CATALOG {
            self.catalog_leaf(&node);
        } else if node.is_leaf() {
            for (key, body) in node.entries() {
                if body.extents().next().is_some() {
                    self.body(tree, &key.to_vec(), body);
                }
            }
        }
        Ok(node)
    }

    fn prefetch(&mut self, _tree: TreeId, pointers: &[Pointer]) {
        self.ready.clear();
        self.ahead = pointers.iter().copied().collect();
    }
}

/// Compares one part with its reference, piece by piece.
struct Judge<'a> {
    extent: ExtentRef<'a>,
    taken: u64,
    checksum: u32,
    chunk: usize,
    hasher: blake3::Hasher,
    fault: Option<Error>,
}

impl<'a> Judge<'a> {
    fn new(extent: ExtentRef<'a>) -> Self {
        Self {
            extent,
            taken: 0,
            checksum: 0,
            chunk: 0,
            hasher: blake3::Hasher::new(),
            fault: None,
        }
    }

    /// Takes the next piece: whole units, behind the part's end zeros.
    fn take(&mut self, piece: io::Result<AlignedBuf>) {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => {
                self.fault
                    .get_or_insert_with(|| Error::io("reading an extent")(error));
                return;
            }
        };
        if self.fault.is_some() {
            return;
        }
        let left = self.extent.length().saturating_sub(self.taken);
        let length = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
        let (bytes, padding) = piece.split_at(length);
        self.hasher.update(bytes);
        let mut rest = bytes;
        while !rest.is_empty() && self.fault.is_none() {
            let chunk_bytes = self.extent.chunk_bytes();
            let room = chunk_bytes - self.taken % chunk_bytes;
            let now = usize::try_from(room).map_or(rest.len(), |room| room.min(rest.len()));
            self.checksum = crc32c::crc32c_append(self.checksum, &rest[..now]);
            self.taken += now as u64;
            rest = &rest[now..];
            if self.taken.is_multiple_of(chunk_bytes) || self.taken == self.extent.length() {
                self.end_chunk();
            }
        }
        if padding.iter().any(|byte| *byte != 0) {
            let rule = "bytes behind the part's end are not zero";
            self.broken(Fault::Rule(rule));
        }
    }

    fn end_chunk(&mut self) {
        let got = std::mem::take(&mut self.checksum);
        let expected = self.extent.chunk_checksum(self.chunk);
        self.chunk += 1;
        if got != expected {
            self.broken(Fault::Checksum { expected, got });
        }
    }

    fn broken(&mut self, fault: Fault) {
        let corrupt = Corrupt::new(Structure::Extent, fault);
        let place = Place::Block(self.extent.start());
        self.fault.get_or_insert_with(|| corrupt.at(place).into());
    }

    fn verdict(mut self) -> Result<(), Error> {
        if self.fault.is_none() && self.hasher.finalize().as_bytes() != self.extent.hash() {
            self.broken(Fault::Hash);
        }
        self.fault.map_or(Ok(()), Err)
    }
}

impl Entry {
    /// Reads part `index` from the disk, past the page cache, and compares it with its checksums
    /// and its hash. A part that stands in its entry was verified with it. Memory: 1 MiB.
    pub fn verify_part(&self, index: usize) -> Result<(), Error> {
        let Some(PartRef::Extent(extent)) = self.body().parts().nth(index) else {
            return Ok(());
        };
        let core = self.core();
        let geometry = &core.identity.geometry;
        let offset = geometry.offset_of(extent.start());
        let mut left = u64::from(extent.run(geometry).units) * geometry.unit();
        let mut judge = Judge::new(extent);
        let mut at = offset;
        while left > 0 && judge.fault.is_none() {
            let bytes = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let mut piece = AlignedBuf::zeroed(bytes);
            let read = core.disk.read(at, &mut piece);
            judge.take(read.map(|()| piece));
            at += bytes as u64;
            left -= bytes as u64;
        }
        judge.verdict()
    }
}
