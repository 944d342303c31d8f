//! Where each key's node is: a hash table of addresses, with one writer at a time and readers without
//! a lock.
//!
//! Open addressing with linear probing (Knuth, TAOCP 3, 6.4, algorithm L). A slot names a node by its
//! address and, in the bits that alignment leaves free, has four bits of its key's hash: so of the
//! nodes that are not the one sought, one in sixteen is touched.
//!
//! Invariants:
//! - Nothing is removed, and a table is at most half full: a probe ends at an empty slot, behind
//!   every node of its hash that was added before it began.
//! - A longer table is published when all are in it; the one before stays readable for who still
//!   probes it. Who was told of a node before it loads the table finds it.

use super::chunks::{ALIGN, Chunks};
use crate::io::ahead;
use crate::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::ptr::{self, NonNull};

/// Slots of the first table.
const FIRST_SLOTS: usize = 16;

/// The bits of an address that alignment leaves free.
const TAG: usize = ALIGN - 1;

type Slot<T> = AtomicPtr<T>;

struct Table<T> {
    /// As many as a power of two.
    slots: *const Slot<T>,
    /// One less than there are.
    mask: usize,
}

/// Nodes by the hash of their keys.
pub(super) struct Index<T> {
    table: AtomicPtr<Table<T>>,
    /// Nodes in it.
    len: AtomicUsize,
    /// Bytes of all tables.
    bytes: AtomicU64,
}

impl<T> Index<T> {
    pub(super) fn new() -> Self {
        Self {
            table: AtomicPtr::new(ptr::null_mut()),
            len: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// One with room for `len` nodes, or for as many as a table of at most `bytes_max` bytes has.
    pub(super) fn with_room(len: usize, bytes_max: u64, chunks: &mut Chunks) -> Self {
        let index = Self::new();
        let fit = usize::try_from(bytes_max).unwrap_or(usize::MAX) / size_of::<Slot<T>>();
        let most = (fit / 2 + 1).next_power_of_two(); // the last power of two that fits
        let slots = (2 * len).next_power_of_two().min(most);
        if slots > FIRST_SLOTS {
            let table = index.empty(slots, chunks);
            index.table.store(table.as_ptr(), Ordering::Release);
        }
        index
    }

    /// A table without nodes.
    fn empty(&self, slots: usize, chunks: &mut Chunks) -> NonNull<Table<T>> {
        let before = chunks.used();
        let table = Table::empty(slots, chunks);
        let bytes = chunks.used() - before;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        table
    }

    /// Bytes that its tables take, those too that a longer one replaced.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Nodes in it.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Says that a hash will be looked for.
    pub(super) fn announce(&self, hash: u32) {
        if let Some(table) = self.table() {
            ahead::fetch_place(table.slot(hash as usize));
        }
    }

    fn table(&self) -> Option<&Table<T>> {
        let table = self.table.load(Ordering::Acquire);
        // SAFETY: complete before it was published, and there for as long as the index.
        unsafe { table.as_ref() }
    }

    /// The node with this hash of which `is_sought` is true; null if there is none.
    pub(super) fn find(&self, hash: u32, is_sought: impl Fn(*const T) -> bool) -> *const T {
        let Some(table) = self.table() else {
            return ptr::null();
        };
        let mut at = hash as usize;
        loop {
            let named = table.slot(at).load(Ordering::Acquire).cast_const();
            if named.is_null() {
                return named;
            }
            let node = named.map_addr(|address| address & !TAG);
            if named.addr() & TAG == tag(hash) && is_sought(node) {
                return node;
            }
            at += 1;
        }
    }

    /// Adds a node, which no key that is there already has.
    ///
    /// # Safety
    /// Only one thread adds at a time, always with the same chunks, and those stay for as long as
    /// the index. `node` is aligned to [`ALIGN`]; `hash_of` gives a node's hash.
    pub(super) unsafe fn add(
        &self,
        node: NonNull<T>,
        hash: u32,
        chunks: &mut Chunks,
        hash_of: impl Fn(*const T) -> u32,
    ) {
        let len = self.len.load(Ordering::Relaxed) + 1;
        self.len.store(len, Ordering::Relaxed);
        match self.table() {
            Some(table) if 2 * len <= table.mask + 1 => table.add(node.as_ptr(), hash),
            shorter => {
                let slots = shorter.map_or(FIRST_SLOTS, |table| 2 * (table.mask + 1));
                let place = self.empty(slots, chunks);
                // SAFETY: just made.
                let table = unsafe { place.as_ref() };
                for slot in shorter.into_iter().flat_map(Table::slots) {
                    let named = slot.load(Ordering::Relaxed);
                    if !named.is_null() {
                        let node = named.map_addr(|address| address & !TAG);
                        table.add(node, hash_of(node));
                    }
                }
                table.add(node.as_ptr(), hash);
                self.table.store(place.as_ptr(), Ordering::Release);
            }
        }
    }
}

impl<T> Table<T> {
    /// A table without nodes, in the chunks.
    fn empty(slots: usize, chunks: &mut Chunks) -> NonNull<Self> {
        let start: NonNull<Slot<T>> = chunks.take(slots * size_of::<Slot<T>>()).cast();
        for nth in 0..slots {
            // SAFETY: so many were taken.
            let slot = unsafe { start.add(nth) };
            // SAFETY: taken for nobody else.
            unsafe { slot.write(Slot::new(ptr::null_mut())) };
        }
        let table = Self {
            slots: start.as_ptr(),
            mask: slots - 1,
        };
        let place = chunks.take(size_of::<Self>()).cast();
        // SAFETY: taken for nobody else.
        unsafe { place.write(table) };
        place
    }

    fn slots(&self) -> &[Slot<T>] {
        // SAFETY: so many were taken and written, and slots change through atomics only.
        unsafe { std::slice::from_raw_parts(self.slots, self.mask + 1) }
    }

    /// The slot at a number, counted around.
    fn slot(&self, at: usize) -> &Slot<T> {
        &self.slots()[at & self.mask]
    }

    /// Names a node in the first empty slot from its hash on.
    fn add(&self, node: *mut T, hash: u32) {
        let mut at = hash as usize;
        while !self.slot(at).load(Ordering::Relaxed).is_null() {
            at += 1;
        }
        let named = node.map_addr(|address| address | tag(hash));
        self.slot(at).store(named, Ordering::Release);
    }
}

/// What a slot says of a hash: bits that do not choose the slot.
fn tag(hash: u32) -> usize {
    hash as usize >> (u32::BITS - TAG.count_ones())
}

const _: () = assert!(ALIGN.is_power_of_two() && TAG.count_ones() < u32::BITS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memtable::chunks::Spare;
    use std::collections::HashMap;
    use std::sync::Arc;

    #[repr(align(16))]
    struct Node {
        key: u64,
        hash: u32,
    }

    /// Hashes that crowd: many keys share one, and runs of slots grow into each other and around
    /// the end.
    #[test]
    fn every_node_is_found_and_no_other_one_whatever_their_hashes() {
        let keys: u64 = if cfg!(miri) { 60 } else { 3000 };
        for crowd in [1, 3, 64, u32::MAX] {
            let (index, mut chunks) = (Index::<Node>::new(), Chunks::new(Arc::new(Spare::new(0))));
            let hash = |key: u64| {
                let hash = u32::try_from(key).unwrap().wrapping_mul(0x9e37_79b1) % crowd;
                if key < keys / 2 {
                    hash
                } else {
                    u32::MAX - hash
                }
            };
            let find = |key: u64| {
                // SAFETY: the index names nodes that are in the chunks.
                index.find(hash(key), |node| unsafe { (*node).key } == key)
            };
            let keys = if crowd < 64 { keys / 10 } else { keys };
            let mut places = HashMap::new();
            for key in 0..keys {
                assert!(find(key).is_null(), "{key} is not there yet");
                let place: NonNull<Node> = chunks.take(size_of::<Node>()).cast();
                let node = Node {
                    key,
                    hash: hash(key),
                };
                // SAFETY: taken for nobody else.
                unsafe { place.write(node) };
                // SAFETY: the index names nodes that are in the chunks.
                let hash_of = |node: *const Node| unsafe { (*node).hash };
                // SAFETY: one thread, one set of chunks; a node has its hash.
                unsafe { index.add(place, hash(key), &mut chunks, hash_of) };
                places.insert(key, place);
            }
            for (key, place) in &places {
                assert_eq!(find(*key), place.as_ptr().cast_const());
            }
            assert!(find(keys).is_null());
        }
    }
}
