//! The entries that are in no leaf of the new tree yet, in key order.
//!
//! An entry of an old leaf is not looked at: a *stretch* of a leaf stands for all entries between
//! two operations, and its bytes go from the old block into the new one in one piece. So what an
//! operation costs does not depend on how many entries its leaf has, but for that copy.
//!
//! Nor is it hashed. An old leaf's sum is known from its parent; what is replaced is taken out of
//! it, and when the leaf's entries go into two new leaves, only the smaller part is hashed.
//!
//! Invariants:
//! - Entries are numbered as they come, and keep their numbers; so do origins, and bytes of the
//!   arena. What is in a leaf of the new tree is forgotten from the front.
//! - An origin's sum is that of its entries that are pending and of those that the walk has not
//!   come to. No other leaf than the last one opened has any of the latter.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::fingerprint::FingerprintKey;
use crate::format::node as layout;
use crate::tree::leaf::LeafWriter;
use crate::tree::node::{KeyRef, Node};
use crate::types::Sum;

/// Bytes of the arena that may lie forgotten before it is moved together.
const ARENA_SLACK_BYTES: usize = 64 * 1024;

/// An old leaf whose entries join the stream.
#[derive(Debug)]
struct Origin<B> {
    node: Arc<Node<B>>,
    sum: Sum,
    /// Its entries that the walk has passed.
    walked: usize,
    /// Its entries that are pending.
    pending: usize,
    /// The number that its first entry has, or would have: where the old fence lies.
    first: usize,
}

impl<B: AsRef<[u8]>> Origin<B> {
    fn is_walked(&self) -> bool {
        self.walked == self.node.count()
    }
}

/// Neighbouring entries that lie in one place.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// The first one's number.
    first: usize,
    /// Bytes of keys and bodies of all entries before it.
    before: usize,
    place: Place,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// In an old leaf.
    Old {
        origin: usize,
        from: usize,
        to: usize,
    },
    /// In the arena: one new entry.
    New {
        at: usize,
        key_len: usize,
        body_len: usize,
        sum: Sum,
    },
}

/// The entries of the stream that are in no new leaf yet.
#[derive(Debug)]
pub(crate) struct Entries<B> {
    stretches: VecDeque<Stretch>,
    /// The number of the first pending entry, and of the one behind the last.
    start: usize,
    end: usize,
    /// Bytes of keys and bodies of all entries so far.
    bytes: usize,
    origins: VecDeque<Origin<B>>,
    /// The number of the first of `origins`.
    origin_first: usize,
    /// Keys and bodies of new entries, those before `arena_first` forgotten.
    arena: Vec<u8>,
    arena_first: usize,
}

impl<B: AsRef<[u8]>> Entries<B> {
    pub fn new() -> Self {
        Self {
            stretches: VecDeque::new(),
            start: 0,
            end: 0,
            bytes: 0,
            origins: VecDeque::new(),
            origin_first: 0,
            arena: Vec::new(),
            arena_first: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Takes the entries of `node` into the stream as they come from now on. `sum` is that of
    /// all of them.
    pub fn open(&mut self, node: Arc<Node<B>>, sum: Sum) {
        // Or a range of deletions would hold every leaf in it.
        while let Some(last) = self.origins.back()
            && last.is_walked()
            && last.pending == 0
        {
            self.origins.pop_back();
        }
        self.origins.push_back(Origin {
            node,
            sum,
            walked: 0,
            pending: 0,
            first: self.end,
        });
    }

    /// The next entries of the leaf opened last.
    pub fn push_old(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        let number = self.origin_first + self.origins.len() - 1;
        let origin = self.origins.back_mut().expect("a leaf was opened");
        assert_eq!(origin.walked, from);
        origin.walked = to;
        origin.pending += to - from;
        let bytes = origin.node.entry_bytes(from, to);
        match self.stretches.back_mut().map(|last| &mut last.place) {
            Some(Place::Old {
                origin, to: end, ..
            }) if *origin == number && *end == from => {
                *end = to;
            }
            _ => self.stretches.push_back(Stretch {
                first: self.end,
                before: self.bytes,
                place: Place::Old {
                    origin: number,
                    from,
                    to,
                },
            }),
        }
        self.end += to - from;
        self.bytes += bytes;
    }

    /// The next entry of the leaf opened last is gone. Gives what it was.
    pub fn forget(&mut self, index: usize, key: &FingerprintKey, own: &[u8]) {
        let origin = self.origins.back_mut().expect("a leaf was opened");
        assert_eq!(origin.walked, index);
        origin.walked = index + 1;
        let fingerprint = key.of_entry(own, origin.node.body(index));
        origin.sum = origin.sum.minus(fingerprint);
    }

    /// A new entry.
    pub fn push_new(&mut self, key: &[u8], body: &[u8], sum: Sum) {
        let at = self.arena_first + self.arena.len();
        self.arena.extend_from_slice(key);
        self.arena.extend_from_slice(body);
        self.stretches.push_back(Stretch {
            first: self.end,
            before: self.bytes,
            place: Place::New {
                at,
                key_len: key.len(),
                body_len: body.len(),
                sum,
            },
        });
        self.end += 1;
        self.bytes += key.len() + body.len();
    }

    fn origin(&self, number: usize) -> &Origin<B> {
        &self.origins[number - self.origin_first]
    }

    /// The stretch of pending entry `index`, and the entry's place in it.
    fn locate(&self, index: usize) -> (&Stretch, usize) {
        let number = self.start + index;
        let behind = self
            .stretches
            .partition_point(|stretch| stretch.first <= number);
        let stretch = &self.stretches[behind - 1];
        (stretch, number - stretch.first)
    }

    /// The key of pending entry `index`.
    pub fn key(&self, index: usize) -> KeyRef<'_> {
        let (stretch, skip) = self.locate(index);
        match stretch.place {
            Place::Old { origin, from, .. } => self.origin(origin).node.key(from + skip),
            Place::New { at, key_len, .. } => self.new_key(at, key_len),
        }
    }

    fn new_key(&self, at: usize, key_len: usize) -> KeyRef<'_> {
        KeyRef {
            prefix: &[],
            suffix: &self.arena[at - self.arena_first..][..key_len],
        }
    }

    /// Bytes of keys and bodies of all entries before pending entry `index`.
    fn bytes_before(&self, index: usize) -> usize {
        if index == self.len() {
            return self.bytes;
        }
        let (stretch, skip) = self.locate(index);
        stretch.before + self.bytes_in(stretch, skip)
    }

    /// Bytes of the first `count` entries of a stretch.
    fn bytes_in(&self, stretch: &Stretch, count: usize) -> usize {
        match stretch.place {
            Place::Old { origin, from, .. } if count > 0 => {
                self.origin(origin).node.entry_bytes(from, from + count)
            }
            _ => 0,
        }
    }

    /// Bytes of a leaf of the pending entries `from..to`, at most: without what a common prefix
    /// saves.
    pub fn bytes_bound(&self) -> usize {
        let bytes = self.bytes - self.stretches.front().map_or(self.bytes, |s| s.before);
        layout::leaf_bytes(self.len(), bytes, 0, 0, 0)
    }

    /// Bytes of a leaf of the pending entries `from..to`.
    pub fn size(&self, from: usize, to: usize, fences: usize) -> usize {
        let bytes = self.bytes_before(to) - self.bytes_before(from);
        let prefix = self.key(from).common_prefix(self.key(to - 1));
        layout::leaf_bytes(to - from, bytes, 0, prefix, fences)
    }

    /// How many entries lie before the one in which byte `bytes` of all pending ones lies.
    pub fn index_at(&self, bytes: usize) -> usize {
        let wanted = self.bytes_before(0) + bytes;
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.bytes_before(middle + 1) <= wanted {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Bytes of keys and bodies of all pending entries.
    pub fn bytes(&self) -> usize {
        self.bytes - self.bytes_before(0)
    }

    /// Bytes of the shortest fence between pending entries `index - 1` and `index`.
    pub fn fence_len(&self, index: usize) -> usize {
        self.key(index - 1).common_prefix(self.key(index)) + 1
    }

    /// The shortest fence between pending entries `index - 1` and `index`.
    pub fn fence(&self, index: usize) -> Vec<u8> {
        let mut fence = self.key(index).to_vec();
        fence.truncate(self.fence_len(index));
        fence
    }

    /// Where old fences lie among the pending entries, from the last to the first.
    pub fn borders(&self) -> impl Iterator<Item = usize> {
        self.origins
            .iter()
            .rev()
            .map(|origin| origin.first)
            .skip_while(|first| *first >= self.end)
            .take_while(|first| *first > self.start)
            .map(|first| first - self.start)
    }

    /// Writes the first `count` pending entries as the records of a leaf.
    pub fn encode(&self, count: usize, writer: &mut LeafWriter) {
        let end = self.start + count;
        let stretches = || {
            let within = self.stretches.iter().take_while(|s| s.first < end);
            within.map(|stretch| (stretch.place, end - stretch.first))
        };
        for (place, room) in stretches() {
            match place {
                Place::Old { origin, from, to } => {
                    writer.heads_of(&self.origin(origin).node, from, to.min(from + room));
                }
                Place::New { at, key_len, .. } => writer.head(self.new_key(at, key_len)),
            }
        }
        for (place, room) in stretches() {
            match place {
                Place::Old { origin, from, to } => {
                    writer.slots_of(&self.origin(origin).node, from, to.min(from + room));
                }
                Place::New {
                    key_len, body_len, ..
                } => writer.slot(key_len, body_len),
            }
        }
        for (place, room) in stretches() {
            match place {
                Place::Old { origin, from, to } => {
                    writer.records_of(&self.origin(origin).node, from, to.min(from + room));
                }
                Place::New {
                    at,
                    key_len,
                    body_len,
                    ..
                } => {
                    let body = &self.arena[at - self.arena_first + key_len..][..body_len];
                    writer.record(self.new_key(at, key_len), body);
                }
            }
        }
    }

    /// Forgets the first `count` pending entries, which are in a leaf now. Gives their sum.
    pub fn drop_first(&mut self, count: usize, key: &FingerprintKey) -> Sum {
        let end = self.start + count;
        let mut sum = Sum(0);
        let mut last = None;
        for stretch in self.stretches.iter().take_while(|s| s.first < end) {
            match stretch.place {
                Place::New { sum: own, .. } => sum = sum.plus(own),
                Place::Old { origin, .. } if last != Some(origin) => {
                    if let Some(before) = last.replace(origin) {
                        sum = sum.plus(self.origin(before).sum);
                    }
                }
                Place::Old { .. } => {}
            }
        }
        if let Some(last) = last {
            let part = self.sum_before(last, end, key);
            sum = sum.plus(part);
            let origin = &mut self.origins[last - self.origin_first];
            origin.sum = origin.sum.minus(part);
        }
        self.start = end;
        self.drop_stretches();
        sum
    }

    /// The sum of the pending entries of an origin that lie before entry number `end`.
    fn sum_before(&self, number: usize, end: usize, key: &FingerprintKey) -> Sum {
        let origin = self.origin(number);
        let count: usize = self.parts(number, 0, end).map(|(from, to)| to - from).sum();
        let behind = origin.pending - count;
        let hash = |parts: &mut dyn Iterator<Item = (usize, usize)>| {
            let mut whole = Vec::new();
            parts
                .flat_map(|(from, to)| from..to)
                .fold(Sum(0), |sum, index| {
                    whole.clear();
                    origin.node.key(index).append_to(&mut whole);
                    sum.plus(key.of_entry(&whole, origin.node.body(index)))
                })
        };
        if !origin.is_walked() || count < behind {
            return hash(&mut self.parts(number, 0, end));
        }
        origin
            .sum
            .minus(hash(&mut self.parts(number, end, self.end)))
    }

    /// The pending entries of an origin with numbers in `low..high`, as stretches of its node.
    fn parts(
        &self,
        number: usize,
        low: usize,
        high: usize,
    ) -> impl Iterator<Item = (usize, usize)> {
        let from = self
            .stretches
            .partition_point(|stretch| stretch.first < low)
            .saturating_sub(1);
        self.stretches
            .range(from..)
            .take_while(move |stretch| stretch.first < high)
            .filter_map(move |stretch| match stretch.place {
                Place::Old { origin, from, to } if origin == number => {
                    let skip = low.saturating_sub(stretch.first);
                    Some((from + skip, to.min(from + (high - stretch.first))))
                }
                _ => None,
            })
            .filter(|(from, to)| from < to)
    }

    /// Drops what lies before the first pending entry.
    fn drop_stretches(&mut self) {
        let mut arena = None;
        while let Some(stretch) = self.stretches.front().copied() {
            if stretch.first >= self.start {
                break;
            }
            let skip = self.start - stretch.first;
            match stretch.place {
                Place::Old { origin, from, to } => {
                    let gone = skip.min(to - from);
                    let node = &mut self.origins[origin - self.origin_first];
                    node.pending -= gone;
                    if gone < to - from {
                        let before = stretch.before + node.node.entry_bytes(from, from + gone);
                        self.stretches[0] = Stretch {
                            first: self.start,
                            before,
                            place: Place::Old {
                                origin,
                                from: from + gone,
                                to,
                            },
                        };
                        break;
                    }
                }
                Place::New {
                    at,
                    key_len,
                    body_len,
                    ..
                } => arena = Some(at + key_len + body_len),
            }
            self.stretches.pop_front();
        }
        if let Some(arena) = arena {
            self.drop_arena(arena);
        }
        while let Some(origin) = self.origins.front()
            && origin.pending == 0
            && origin.is_walked()
            && origin.first <= self.start
        {
            self.origins.pop_front();
            self.origin_first += 1;
        }
    }

    fn drop_arena(&mut self, until: usize) {
        let gone = until - self.arena_first;
        if gone == self.arena.len() {
            self.arena.clear();
        } else if gone > ARENA_SLACK_BYTES && gone * 2 > self.arena.len() {
            self.arena.drain(..gone);
        } else {
            return;
        }
        self.arena_first = until;
    }
}
