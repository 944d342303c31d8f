//! The keys of a memtable, each with its versions: found by a hash at once, and by a skip list in
//! order. One writer at a time, readers without a lock.
//!
//! A writer needs no order, so it makes none: a new node stands in the [`Index`] and is *loose*. Who
//! comes to walk links what is loose into the skip list first, sorted, all at once: so a load costs
//! one sort where each key on its own would cost a walk down the list, a cache miss a step.
//!
//! A node holds a key, a version what a batch did to it; both stand in [`Chunks`], each with its
//! bytes behind it, a node with its links before it:
//!
//! ```text
//! link of level h-1 | .. | link of level 0 | Node | key          Version | body
//! ```
//!
//! Invariants:
//! - A node or version is complete before anything names it (release), and never changes after but
//!   for its links; who has loaded its address (acquire) may read it.
//! - Nodes never leave. A version leaves its chain by the writer storing the link around it, and
//!   stays readable for who still looks at it: memory goes back only with the list.
//! - Every node is in the index. It is loose, one of a chain by its link of level 0, or linked in,
//!   but for those that whoever holds `order` has just taken to link; `unlinked` counts all that
//!   are not linked in. A [`Place`] is a node that is.
//! - Level 0 has all linked nodes in strictly ascending order of their keys; a higher level has some
//!   of those of the level below.
//! - `before[l]` of who links is the last node of level `l` below the key it came to last (none: the
//!   head), or that key's node itself.
//! - A commit never waits for who walks: the writer's lock is not taken to link.

use super::chunks::{ALIGN, Chunks, Spare};
use super::index::Index;
use super::{Key, OpRef};
use crate::planted::{Race, races};
use crate::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{HashState, Mutex, MutexGuard};
use dmerkle::format::body::{BodyRef, KEY_BYTES_MAX};
use dmerkle::{Lsn, TreeId};
use std::hash::{BuildHasher, Hasher};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// Levels at most: each has a quarter of the nodes of the one below.
const HEIGHT_MAX: usize = 12;

/// Gives every list a number of its own.
static LISTS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

type Link = AtomicPtr<Node>;

#[repr(C)]
struct Node {
    newest: AtomicPtr<Version>,
    tree: TreeId,
    /// Of tree and key.
    hash: u32,
    key_len: u16,
    /// Links before it.
    levels: u8,
}

#[repr(C)]
struct Version {
    older: AtomicPtr<Version>,
    lsn: Lsn,
    /// None is a deletion.
    body_len: Option<u32>,
    /// Versions in the chain from here on, when it was made.
    chain: u32,
}

const _: () = assert!(align_of::<Node>() <= ALIGN && align_of::<Version>() <= ALIGN);
const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize && HEIGHT_MAX <= u8::MAX as usize);

/// A node of one list, to come back to: of no use with any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    list: u64,
    node: NonNull<()>,
}

// SAFETY: a place is a number; only the list it came from turns it into a node.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

/// Keys, each with its versions.
pub(super) struct List {
    number: u64,
    hasher: HashState,
    index: Index<Node>,
    head: [Link; HEIGHT_MAX],
    /// Levels in use.
    height: AtomicUsize,
    /// The newest loose node.
    loose: Link,
    /// Nodes that are not linked in yet.
    unlinked: AtomicUsize,
    /// Bytes taken for nodes and versions, in one number: a growing index must not make them fewer
    /// meanwhile.
    data_bytes: AtomicU64,
    writer: Mutex<Hand>,
    order: Mutex<Fingers>,
}

/// What only the writer needs.
struct Hand {
    chunks: Chunks,
    /// The hash of the key that it came to last, and that key's node if it is there.
    hash: u32,
    last: *const Node,
    draws: u64,
}

/// Where a node was linked in last.
struct Fingers {
    before: [*const Node; HEIGHT_MAX],
    last: *const Node,
}

// SAFETY: the pointers lead into the chunks, which belong to no thread.
unsafe impl Send for Hand {}
// SAFETY: as above.
unsafe impl Send for Fingers {}

/// A loose node, to be sorted: by tree, the key's first bytes behind those that all have, the key.
struct Loose {
    tree: TreeId,
    head: u64,
    node: NonNull<Node>,
}

/// The right to insert.
pub(super) struct Writer<'a> {
    list: &'a List,
    hand: MutexGuard<'a, Hand>,
}

/// A version of a key.
#[derive(Clone, Copy)]
pub(super) struct VersionRef<'a> {
    version: NonNull<Version>,
    list: PhantomData<&'a List>,
}

impl<'a> VersionRef<'a> {
    fn new(version: *const Version) -> Option<Self> {
        Some(Self {
            version: NonNull::new(version.cast_mut())?,
            list: PhantomData,
        })
    }

    fn header(self) -> &'a Version {
        // SAFETY: complete before it was linked to, and there for as long as the list.
        unsafe { &*self.version.as_ptr() }
    }

    pub(super) fn lsn(self) -> Lsn {
        self.header().lsn
    }

    pub(super) fn chain(self) -> u32 {
        self.header().chain
    }

    pub(super) fn older(self) -> Option<Self> {
        Self::new(self.header().older.load(Ordering::Acquire))
    }

    pub(super) fn op(self) -> OpRef<'a> {
        let header = self.header();
        let Some(length) = header.body_len else {
            return OpRef::Delete;
        };
        let start = self.version.as_ptr().wrapping_add(1).cast::<u8>();
        // SAFETY: the body was written behind the version before that was linked to; the pointer
        // is the chunk's, not the header's.
        let body = unsafe { std::slice::from_raw_parts(start, length as usize) };
        OpRef::Put(BodyRef::trusted(body))
    }
}

/// The key of a node.
///
/// # Safety
/// `node` is a node of a list that is there for all of `'a`.
unsafe fn key_of<'a>(node: *const Node) -> Key<'a> {
    // SAFETY: as the caller says; a node never changes but for its links.
    let header = unsafe { &*node };
    let start = node.wrapping_add(1).cast::<u8>();
    // SAFETY: the key's bytes stand behind the node, and the pointer is the chunk's.
    let key = unsafe { std::slice::from_raw_parts(start, usize::from(header.key_len)) };
    let tree = header.tree;
    Key { tree, key }
}

/// Sorts nodes by their keys. They are touched twice each, in the order in which they were made,
/// and else only where heads are equal.
fn sort(loose: &mut [Loose]) {
    // SAFETY: what is loose is a node of a list that is there.
    let key = |loose: &Loose| unsafe { key_of(loose.node.as_ptr()) }.key;
    loose.sort_by_key(|loose| loose.tree);
    for of_tree in loose.chunk_by_mut(|a, b| a.tree == b.tree) {
        let first = key(&of_tree[0]);
        let mut common = first.len();
        for loose in &of_tree[1..] {
            let pairs = key(loose).iter().zip(&first[..common]);
            common = pairs.take_while(|(a, b)| a == b).count();
        }
        for loose in of_tree.iter_mut() {
            let own = &key(loose)[common..];
            let mut head = [0; 8];
            let length = own.len().min(head.len());
            head[..length].copy_from_slice(&own[..length]);
            loose.head = u64::from_be_bytes(head);
        }
        of_tree.sort_unstable_by(|a, b| a.head.cmp(&b.head).then_with(|| key(a).cmp(key(b))));
    }
}

/// The newest version of the key of a node.
///
/// # Safety
/// As [`key_of`].
unsafe fn newest_of<'a>(node: *const Node) -> VersionRef<'a> {
    // SAFETY: as the caller says.
    let newest = unsafe { &(*node).newest };
    VersionRef::new(newest.load(Ordering::Acquire)).expect("a node is made with a version")
}

impl List {
    /// A list of memory that others gave back, with room for so many keys in a table of at most
    /// so many bytes; more grow it.
    pub(super) fn new(spare: &Arc<Spare>, keys: usize, table_bytes_max: u64) -> Self {
        let mut chunks = Chunks::new(Arc::clone(spare));
        Self {
            index: Index::with_room(keys, table_bytes_max, &mut chunks),
            data_bytes: AtomicU64::new(0),
            number: LISTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            hasher: HashState::default(),
            head: [const { Link::new(ptr::null_mut()) }; HEIGHT_MAX],
            height: AtomicUsize::new(1),
            loose: Link::new(ptr::null_mut()),
            unlinked: AtomicUsize::new(0),
            writer: Mutex::new(Hand {
                chunks,
                hash: 0,
                last: ptr::null(),
                draws: 0x9e37_79b9_7f4a_7c15,
            }),
            order: Mutex::new(Fingers {
                before: [ptr::null(); HEIGHT_MAX],
                last: ptr::null(),
            }),
        }
    }

    /// How many keys it has.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Bytes of memory in use.
    pub(super) fn bytes(&self) -> u64 {
        self.data_bytes() + self.index.bytes()
    }

    /// Those of them that nodes and versions take.
    pub(super) fn data_bytes(&self) -> u64 {
        self.data_bytes.load(Ordering::Relaxed)
    }

    /// The link of a node, or of the head, at a level.
    ///
    /// # Safety
    /// `node` is null or a node of this list with more than `level` levels.
    unsafe fn link(&self, node: *const Node, level: usize) -> &Link {
        if node.is_null() {
            return &self.head[level];
        }
        let link = node.cast::<Link>().wrapping_sub(level + 1);
        // SAFETY: a node's links stand before it, that of level 0 nearest.
        unsafe { &*link }
    }

    /// The last node below `key` and the first at or above it; null if there is none.
    fn around(&self, key: Key<'_>) -> (*const Node, *const Node) {
        let mut at: *const Node = ptr::null();
        let mut above: *const Node = ptr::null();
        for level in (0..self.height.load(Ordering::Acquire)).rev() {
            // SAFETY: `at` was met at this level or above.
            (at, above) = unsafe { self.walk(at, above, level, key) };
        }
        (at, above)
    }

    /// Goes on at one level from `at` to the last node below `key`. Returns it and the one behind.
    /// `above` is known to be at or above `key`, or null.
    ///
    /// # Safety
    /// `at` and `above` are null or nodes of this list; `at` has more than `level` levels.
    unsafe fn walk(
        &self,
        mut at: *const Node,
        above: *const Node,
        level: usize,
        key: Key<'_>,
    ) -> (*const Node, *const Node) {
        loop {
            // SAFETY: as the caller says, and then met at this level.
            let next = unsafe { self.link(at, level) }
                .load(Ordering::Acquire)
                .cast_const();
            // SAFETY: linked to, so a node.
            if next.is_null() || next == above || unsafe { key_of(next) } >= key {
                return (at, next);
            }
            at = next;
        }
    }

    fn place(&self, node: *const Node) -> Option<Place> {
        Some(Place {
            list: self.number,
            node: NonNull::new(node.cast_mut().cast())?,
        })
    }

    fn node(&self, place: Place) -> *const Node {
        assert_eq!(place.list, self.number, "a place is of one list");
        place.node.as_ptr().cast_const().cast()
    }

    /// The hash of a key that will be sought, the way to which begins now.
    pub(super) fn announce(&self, key: Key<'_>) -> u32 {
        let hash = self.hash(key);
        self.index.announce(hash);
        hash
    }

    fn hash(&self, key: Key<'_>) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(key.tree.0);
        hasher.write(key.key);
        u32::try_from(hasher.finish() >> 32).expect("32 bits are left")
    }

    /// Links all nodes in that were added before the call.
    fn link_loose(&self) {
        let linked = if races(Race::WalkUnlinked) {
            self.loose.load(Ordering::Acquire).is_null()
        } else {
            self.unlinked.load(Ordering::Acquire) == 0
        };
        if linked {
            return;
        }
        // Whoever holds it may have taken nodes and not linked them yet.
        let mut fingers = self.order.lock();
        let mut loose = Vec::with_capacity(self.unlinked.load(Ordering::Relaxed));
        let mut next = self.loose.swap(ptr::null_mut(), Ordering::Acquire);
        while let Some(node) = NonNull::new(next) {
            // SAFETY: a loose node; nodes stay.
            let Key { tree, .. } = unsafe { key_of(node.as_ptr()) };
            let head = 0;
            loose.push(Loose { tree, head, node });
            // SAFETY: every node has a level 0.
            next = unsafe { self.link(node.as_ptr(), 0) }.load(Ordering::Relaxed);
        }
        sort(&mut loose);
        for Loose { node, .. } in &loose {
            // SAFETY: taken off the chain by this thread, and in no other list.
            unsafe { fingers.link_in(self, *node) };
        }
        self.unlinked.fetch_sub(loose.len(), Ordering::Release);
    }

    /// The first key at or above this one.
    pub(super) fn first_from(&self, key: Key<'_>) -> Option<Place> {
        self.link_loose();
        self.place(self.around(key).1)
    }

    /// The last key below this one.
    pub(super) fn last_below(&self, key: Key<'_>) -> Option<Place> {
        self.link_loose();
        self.place(self.around(key).0)
    }

    /// The key before, of those that were linked in when the place was found at the least.
    pub(super) fn before(&self, place: Place) -> Option<Place> {
        self.place(self.around(self.key(place)).0)
    }

    /// The next key.
    pub(super) fn after(&self, place: Place) -> Option<Place> {
        // SAFETY: a place of this list is a node, and every node has a level 0.
        let link = unsafe { self.link(self.node(place), 0) };
        self.place(link.load(Ordering::Acquire))
    }

    pub(super) fn key(&self, place: Place) -> Key<'_> {
        // SAFETY: a place of this list is a node.
        unsafe { key_of(self.node(place)) }
    }

    /// The newest version of the key at a place.
    pub(super) fn newest(&self, place: Place) -> VersionRef<'_> {
        // SAFETY: a place of this list is a node.
        unsafe { newest_of(self.node(place)) }
    }

    /// The newest version of exactly this key.
    pub(super) fn find(&self, key: Key<'_>) -> Option<VersionRef<'_>> {
        let node = self.node_of(key, self.hash(key));
        // SAFETY: a node of this list.
        (!node.is_null()).then(|| unsafe { newest_of(node) })
    }

    /// The node of a key with this hash, or null.
    fn node_of(&self, key: Key<'_>, hash: u32) -> *const Node {
        // SAFETY: what the index names is a node of this list.
        self.index.find(hash, |node| unsafe { key_of(node) } == key)
    }

    pub(super) fn writer(&self) -> Writer<'_> {
        Writer {
            list: self,
            hand: self.writer.lock(),
        }
    }
}

impl<'a> Writer<'a> {
    /// Goes to a key, whose hash is this: its newest version, if it is there. [`Writer::push`] is for
    /// this key then.
    pub(super) fn seek(&mut self, key: Key<'_>, hash: u32) -> Option<VersionRef<'a>> {
        self.hand.hash = hash;
        self.hand.last = self.list.node_of(key, hash);
        // SAFETY: a node of this list.
        (!self.hand.last.is_null()).then(|| unsafe { newest_of(self.hand.last) })
    }

    /// Adds a version of the key that was just sought, newer than all others of it, before
    /// `older`, from where on the chain has `chain` versions.
    pub(super) fn push(
        &mut self,
        key: Key<'_>,
        lsn: Lsn,
        op: OpRef<'_>,
        older: Option<VersionRef<'a>>,
        chain: u32,
    ) {
        let body = match op {
            OpRef::Put(body) => Some(body.as_bytes()),
            OpRef::Delete => None,
        };
        let bytes = body.map_or(0, <[u8]>::len);
        let version = Version {
            older: AtomicPtr::new(older.map_or(ptr::null_mut(), |older| older.version.as_ptr())),
            lsn,
            body_len: body.map(|_| u32::try_from(bytes).expect("a body is under 4 GiB")),
            chain: chain + 1,
        };
        let place = self.hand.chunks.take(size_of::<Version>() + bytes);
        let place = place.cast::<Version>();
        // SAFETY: so many bytes were taken for nobody else.
        unsafe { place.write(version) };
        let start = place.as_ptr().wrapping_add(1).cast::<u8>();
        // SAFETY: as above; the body is not in what was just taken.
        unsafe { ptr::copy_nonoverlapping(body.unwrap_or(&[]).as_ptr(), start, bytes) };
        if self.hand.last.is_null() {
            self.add_node(key, place);
        } else {
            // SAFETY: the node that `seek` found.
            let newest = unsafe { &(*self.hand.last).newest };
            newest.store(place.as_ptr(), Ordering::Release);
        }
        let data = self.hand.chunks.used() - self.list.index.bytes();
        self.list.data_bytes.store(data, Ordering::Relaxed);
    }

    /// Adds a loose node for a new key.
    fn add_node(&mut self, key: Key<'_>, newest: NonNull<Version>) {
        let list = self.list;
        let hand = &mut *self.hand;
        let levels = hand.draw_levels();
        let links = (levels * size_of::<Link>()).next_multiple_of(ALIGN);
        let start = hand.chunks.take(links + size_of::<Node>() + key.key.len());
        let links_end = start.cast::<Link>().as_ptr().wrapping_byte_add(links);
        let node = links_end.cast::<Node>();
        let header = Node {
            newest: AtomicPtr::new(newest.as_ptr()),
            tree: key.tree,
            hash: hand.hash,
            key_len: u16::try_from(key.key.len()).expect("a key is at most 4 KiB"),
            levels: u8::try_from(levels).expect("at most 12"),
        };
        // SAFETY: so many bytes were taken for nobody else, the links' a multiple of the alignment.
        unsafe { node.write(header) };
        let bytes = node.wrapping_add(1).cast::<u8>();
        // SAFETY: as above; the key is not in what was just taken.
        unsafe { ptr::copy_nonoverlapping(key.key.as_ptr(), bytes, key.key.len()) };
        for level in 0..levels {
            let place = node.cast::<Link>().wrapping_sub(level + 1);
            // SAFETY: as above, before the node.
            unsafe { place.write(Link::new(ptr::null_mut())) };
        }
        // Counted before it shows: who is told of it finds the count.
        list.unlinked.fetch_add(1, Ordering::Relaxed);
        // SAFETY: every node has a level 0.
        let link = unsafe { list.link(node, 0) };
        let mut older = list.loose.load(Ordering::Relaxed);
        loop {
            link.store(older, Ordering::Relaxed);
            // Who links takes all at once, so what is at the head was not somewhere else meanwhile.
            let pushed =
                list.loose
                    .compare_exchange_weak(older, node, Ordering::Release, Ordering::Relaxed);
            match pushed {
                Ok(_) => break,
                Err(now) => older = now,
            }
        }
        let named = NonNull::new(node).expect("a node is somewhere");
        // SAFETY: what the index names is a node of this list.
        let hash_of = |node: *const Node| unsafe { (*node).hash };
        // SAFETY: the writer's lock is held, and chunks and index go with the list.
        unsafe { list.index.add(named, hand.hash, &mut hand.chunks, hash_of) };
        hand.last = node;
    }

    /// Lets the versions between two leave; readers that stand on one of them go on from there.
    #[expect(clippy::unused_self, reason = "only who may write may do it")]
    pub(super) fn bypass(&self, newer: VersionRef<'a>, older: Option<VersionRef<'a>>) {
        let older = older.map_or(ptr::null_mut(), |older| older.version.as_ptr());
        newer.header().older.store(older, Ordering::Release);
    }
}

impl Fingers {
    /// Links a node in. Keys that ascend are found from the last one on.
    ///
    /// # Safety
    /// `node` is a complete node of `list` that is not linked in, and that nobody else links.
    unsafe fn link_in(&mut self, list: &List, node: NonNull<Node>) {
        let node = node.as_ptr();
        // SAFETY: as the caller says.
        let key = unsafe { key_of(node) };
        // SAFETY: as above.
        let levels = usize::from(unsafe { (*node).levels });
        self.seek(list, key);
        for level in 0..levels {
            // SAFETY: `before` is made of nodes of that level, and of the head.
            let next = unsafe { list.link(self.before[level], level) }.load(Ordering::Relaxed);
            // SAFETY: so many levels it has.
            unsafe { list.link(node, level) }.store(next, Ordering::Relaxed);
        }
        if levels > list.height.load(Ordering::Relaxed) {
            list.height.store(levels, Ordering::Release);
        }
        for level in 0..levels {
            // SAFETY: `before` is made of nodes of that level, and of the head.
            let link = unsafe { list.link(self.before[level], level) };
            link.store(node, Ordering::Release);
            self.before[level] = node;
        }
        self.last = node;
    }

    /// Brings `before` to a key that is not linked in.
    fn seek(&mut self, list: &List, key: Key<'_>) {
        let height = list.height.load(Ordering::Relaxed);
        let mut level = height - 1;
        // SAFETY: `last` is a node of this list.
        if !self.last.is_null() && unsafe { key_of(self.last) } < key {
            // Up to the lowest level whose next node is not below the key.
            level = 0;
            while level + 1 < height {
                // SAFETY: `before` is made of nodes of that level.
                let next = unsafe { list.link(self.before[level], level) }.load(Ordering::Relaxed);
                // SAFETY: linked to, so a node.
                if next.is_null() || unsafe { key_of(next) } >= key {
                    break;
                }
                level += 1;
            }
        } else {
            self.before = [ptr::null(); HEIGHT_MAX];
        }
        let mut above: *const Node = ptr::null();
        let mut moved: *const Node = ptr::null();
        for level in (0..=level).rev() {
            // What was found above lies behind what is remembered here, if the walk has moved.
            let from = if moved.is_null() {
                self.before[level]
            } else {
                moved
            };
            // SAFETY: nodes of this level or one above.
            let (at, next) = unsafe { list.walk(from, above, level, key) };
            if at != from {
                moved = at;
            }
            self.before[level] = at;
            above = next;
        }
    }
}

impl Hand {
    /// How many levels the next node has: one more with a chance of a quarter each.
    fn draw_levels(&mut self) -> usize {
        // xorshift64: Marsaglia 2003.
        self.draws ^= self.draws << 13;
        self.draws ^= self.draws >> 7;
        self.draws ^= self.draws << 17;
        let quarters = self.draws.trailing_zeros() as usize / 2;
        (1 + quarters).min(HEIGHT_MAX)
    }
}
