//! The skip list under a memtable: one writer at a time, readers without a lock.
//!
//! A node holds a key, a version what a batch did to it; both stand in [`Chunks`], each with its
//! bytes behind it, a node with its links before it:
//!
//! ```text
//! link of level h-1 | .. | link of level 0 | Node | key          Version | body
//! ```
//!
//! Invariants:
//! - A node or version is complete before a link to it is stored (release), and never changes
//!   after but for its links; who has loaded a link (acquire) may read what it names.
//! - Nodes never leave. A version leaves its chain by the writer storing the link around it, and
//!   stays readable for who still looks at it: memory goes back only with the list.
//! - Level 0 has all nodes in strictly ascending order of their keys; a higher level has some of
//!   those of the level below.
//! - The writer's `before[l]` is the last node of level `l` below the key it came to last (none:
//!   the head), or that key's node itself.

use super::chunks::{ALIGN, Chunks};
use super::{Key, OpRef};
use crate::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};
use dmerkle::format::body::BodyRef;
use dmerkle::{Lsn, Sum, TreeId};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

/// Levels at most: each has a quarter of the nodes of the one below.
const HEIGHT_MAX: usize = 12;

/// Gives every list a number of its own.
static LISTS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

type Link = AtomicPtr<Node>;

#[repr(C)]
struct Node {
    newest: AtomicPtr<Version>,
    tree: TreeId,
    key_len: usize,
}

#[repr(C)]
struct Version {
    older: AtomicPtr<Version>,
    lsn: Lsn,
    fingerprint: Sum,
    /// None is a deletion.
    body_len: Option<u32>,
    /// Versions in the chain from here on, when it was made.
    chain: u32,
}

const _: () = assert!(align_of::<Node>() <= ALIGN && align_of::<Version>() <= ALIGN);

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

/// Keys in order, each with its versions.
pub(super) struct List {
    number: u64,
    head: [Link; HEIGHT_MAX],
    /// Levels in use.
    height: AtomicUsize,
    /// Bytes taken for nodes and versions.
    bytes: AtomicU64,
    writer: Mutex<Hand>,
}

/// What only the writer needs.
struct Hand {
    chunks: Chunks,
    before: [*const Node; HEIGHT_MAX],
    /// The node of the key that the writer came to last.
    last: *const Node,
    draws: u64,
}

// SAFETY: the pointers lead into `chunks`, which belong to no thread.
unsafe impl Send for Hand {}

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
        OpRef::Put {
            body: BodyRef::trusted(body),
            fingerprint: header.fingerprint,
        }
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
    let key = unsafe { std::slice::from_raw_parts(start, header.key_len) };
    let tree = header.tree;
    Key { tree, key }
}

impl List {
    pub(super) fn new() -> Self {
        Self {
            number: LISTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            head: [const { Link::new(ptr::null_mut()) }; HEIGHT_MAX],
            height: AtomicUsize::new(1),
            bytes: AtomicU64::new(0),
            writer: Mutex::new(Hand {
                chunks: Chunks::new(),
                before: [ptr::null(); HEIGHT_MAX],
                last: ptr::null(),
                draws: 0x9e37_79b9_7f4a_7c15,
            }),
        }
    }

    /// Bytes of memory in use.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
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

    /// The first key at or above this one.
    pub(super) fn first_from(&self, key: Key<'_>) -> Option<Place> {
        self.place(self.around(key).1)
    }

    /// The last key below this one.
    pub(super) fn last_below(&self, key: Key<'_>) -> Option<Place> {
        self.place(self.around(key).0)
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

    /// The newest version of a key.
    pub(super) fn newest(&self, place: Place) -> VersionRef<'_> {
        // SAFETY: a place of this list is a node.
        let newest = unsafe { &(*self.node(place)).newest };
        VersionRef::new(newest.load(Ordering::Acquire)).expect("a node is linked with a version")
    }

    /// The place of exactly this key.
    pub(super) fn find(&self, key: Key<'_>) -> Option<Place> {
        let place = self.first_from(key)?;
        (self.key(place) == key).then_some(place)
    }

    pub(super) fn writer(&self) -> Writer<'_> {
        Writer {
            list: self,
            hand: self.writer.lock(),
        }
    }
}

impl<'a> Writer<'a> {
    /// Goes to a key: its newest version, if it is there. [`Writer::push`] is for this key then.
    /// Keys that ascend are found from the last one on.
    pub(super) fn seek(&mut self, key: Key<'_>) -> Option<VersionRef<'a>> {
        let list = self.list;
        let hand = &mut *self.hand;
        let height = list.height.load(Ordering::Relaxed);
        let mut level = height - 1;
        // SAFETY: `last` is a node of this list.
        if !hand.last.is_null() && unsafe { key_of(hand.last) } < key {
            // Up to the lowest level whose next node is not below the key.
            level = 0;
            while level + 1 < height {
                // SAFETY: `before` is made of nodes of that level.
                let next = unsafe { list.link(hand.before[level], level) }.load(Ordering::Relaxed);
                // SAFETY: linked to, so a node.
                if next.is_null() || unsafe { key_of(next) } >= key {
                    break;
                }
                level += 1;
            }
        } else {
            hand.before = [ptr::null(); HEIGHT_MAX];
        }
        let mut above: *const Node = ptr::null();
        let mut moved: *const Node = ptr::null();
        for level in (0..=level).rev() {
            // What was found above lies behind what is remembered here, if the walk has moved.
            let from = if moved.is_null() {
                hand.before[level]
            } else {
                moved
            };
            // SAFETY: nodes of this level or one above.
            let (at, next) = unsafe { list.walk(from, above, level, key) };
            if at != from {
                moved = at;
            }
            hand.before[level] = at;
            above = next;
        }
        hand.last = ptr::null();
        // SAFETY: linked to, so a node.
        if above.is_null() || unsafe { key_of(above) } != key {
            return None;
        }
        hand.last = above;
        // SAFETY: as above.
        VersionRef::new(unsafe { (*above).newest.load(Ordering::Relaxed) })
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
        let (body, fingerprint) = match op {
            OpRef::Put { body, fingerprint } => (Some(body.as_bytes()), fingerprint),
            OpRef::Delete => (None, Sum::default()),
        };
        let bytes = body.map_or(0, <[u8]>::len);
        let version = Version {
            older: AtomicPtr::new(older.map_or(ptr::null_mut(), |older| older.version.as_ptr())),
            lsn,
            fingerprint,
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
            self.link_node(key, place);
        } else {
            // SAFETY: the node that `seek` found.
            let newest = unsafe { &(*self.hand.last).newest };
            newest.store(place.as_ptr(), Ordering::Release);
        }
        let used = self.hand.chunks.used();
        self.list.bytes.store(used, Ordering::Relaxed);
    }

    /// Links a node for a new key in behind `before`.
    fn link_node(&mut self, key: Key<'_>, newest: NonNull<Version>) {
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
            key_len: key.key.len(),
        };
        // SAFETY: so many bytes were taken for nobody else, the links' a multiple of the alignment.
        unsafe { node.write(header) };
        let bytes = node.wrapping_add(1).cast::<u8>();
        // SAFETY: as above; the key is not in what was just taken.
        unsafe { ptr::copy_nonoverlapping(key.key.as_ptr(), bytes, key.key.len()) };
        for level in 0..levels {
            // SAFETY: `before` is made of nodes of that level, and of the head.
            let next = unsafe { list.link(hand.before[level], level) };
            let link = Link::new(next.load(Ordering::Relaxed));
            let place = node.cast::<Link>().wrapping_sub(level + 1);
            // SAFETY: as above, before the node.
            unsafe { place.write(link) };
        }
        if levels > list.height.load(Ordering::Relaxed) {
            list.height.store(levels, Ordering::Release);
        }
        for level in 0..levels {
            // SAFETY: `before` is made of nodes of that level, and of the head.
            let link = unsafe { list.link(hand.before[level], level) };
            link.store(node, Ordering::Release);
            hand.before[level] = node;
        }
        hand.last = node;
    }

    /// Lets the versions between two leave; readers that stand on one of them go on from there.
    #[expect(clippy::unused_self, reason = "only who may write may do it")]
    pub(super) fn bypass(&self, newer: VersionRef<'a>, older: Option<VersionRef<'a>>) {
        let older = older.map_or(ptr::null_mut(), |older| older.version.as_ptr());
        newer.header().older.store(older, Ordering::Release);
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
