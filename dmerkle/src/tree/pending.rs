//! What will become the next branches of one level: children in key order, cut into branches as
//! they come. (Entries of leaves: see `entries`.)
//!
//! Invariants: children ascend strictly; every run between cuts fits a node of ordinary size, or has
//! as few children as a node may have; at most one cut stands once the caller has taken what is
//! ready, so that a last run that turns out short is evened out with the one before it.

use crate::format::node as layout;
use crate::geometry::Geometry;
use crate::tree::node::common_prefix;

/// How full nodes of a level may get, and how full they should.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of the largest ordinary node.
    pub bytes: usize,
    /// The largest ordinary order.
    pub order: u8,
    /// Items at most.
    pub fanout: usize,
    /// Items at least: a branch of one child would only be a longer way.
    pub least: usize,
    /// Bytes of the smallest block.
    pub unit: usize,
}

impl Limits {
    pub fn new(geometry: &Geometry, level: u8) -> Self {
        let leaf = level == 0;
        let order = if leaf {
            geometry.leaf_order
        } else {
            geometry.branch_order
        };
        Self {
            bytes: (geometry.unit_bytes as usize) << order,
            order,
            fanout: geometry.fanout_max.into(),
            least: if leaf { 1 } else { 2 },
            unit: geometry.unit_bytes as usize,
        }
    }

    /// Bytes of the block that a node of `size` bytes takes.
    pub fn block(&self, size: usize) -> usize {
        size.next_power_of_two().max(self.unit)
    }

    /// Whether entries of `own` bytes and a leaf of `other` bytes behind them take fewer blocks
    /// together than each by itself, with room to grow.
    pub fn join(&self, own: usize, other: usize) -> bool {
        let leaves = if own <= self.bytes { 1 } else { 2 };
        let room = self.bytes / 32;
        own + other + room <= leaves * self.bytes
            && self.blocks(own + other) < self.blocks(own) + self.block(other)
    }

    /// Bytes of the blocks that one or two leaves of together `size` bytes take.
    fn blocks(&self, size: usize) -> usize {
        if size <= self.bytes {
            return self.block(size);
        }
        self.bytes + self.block(size - self.bytes + self.bytes / 32)
    }
}

#[derive(Debug)]
struct Item<T> {
    at: usize,
    extra: T,
}

/// The children of one level that are in no branch yet: low fence and what is known of the child.
#[derive(Debug)]
pub(crate) struct Pending<T> {
    limits: Limits,
    /// The key of each item, one behind the other.
    bytes: Vec<u8>,
    items: Vec<Item<T>>,
    /// Ends of the runs that are as full as they get.
    cuts: [usize; 2],
    cut_count: usize,
}

impl<T> Pending<T> {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            bytes: Vec::new(),
            items: Vec::new(),
            cuts: [0; 2],
            cut_count: 0,
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn key(&self, index: usize) -> &[u8] {
        &self.bytes[self.items[index].at..self.end(index)]
    }

    pub fn extra(&self, index: usize) -> &T {
        &self.items[index].extra
    }

    fn end(&self, index: usize) -> usize {
        self.items
            .get(index + 1)
            .map_or(self.bytes.len(), |next| next.at)
    }

    /// Adds an item behind all others. `low_len` is the length of the fence below the first item.
    pub fn push(&mut self, key: &[u8], extra: T, low_len: usize) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.items.push(Item { at, extra });
        let last = self.items.len() - 1;
        let start = self.last_cut();
        // Only now is the fence known that would end a run before this item.
        if last > start + self.limits.least && !self.fits(start, last, low_len, key.len()) {
            self.cuts[self.cut_count] = last - 1;
            self.cut_count += 1;
        }
    }

    fn last_cut(&self) -> usize {
        match self.cut_count {
            0 => 0,
            count => self.cuts[count - 1],
        }
    }

    /// How many items make a node that no later item can change.
    pub fn ready(&self) -> Option<usize> {
        (self.cut_count == 2).then_some(self.cuts[0])
    }

    /// Forgets the first `count` items, which are in a node now.
    pub fn drop_first(&mut self, count: usize) {
        let cut = self.items.get(count).map_or(self.bytes.len(), |i| i.at);
        self.bytes.drain(..cut);
        self.items.drain(..count);
        for item in &mut self.items {
            item.at -= cut;
        }
        if self.cut_count == 2 && self.cuts[0] == count {
            self.cuts[0] = self.cuts[1] - count;
            self.cut_count = 1;
        } else {
            self.cut_count = 0;
        }
    }

    /// Takes the last item off.
    pub fn pop(&mut self) -> Option<(Vec<u8>, T)> {
        let item = self.items.pop()?;
        let key = self.bytes.split_off(item.at);
        while self.cut_count > 0 && self.last_cut() >= self.items.len() {
            self.cut_count -= 1;
        }
        Some((key, item.extra))
    }

    /// The items in order, with their keys, for putting them elsewhere.
    pub fn into_items(mut self) -> impl Iterator<Item = (Vec<u8>, T)> {
        let mut items = Vec::with_capacity(self.len());
        while let Some(item) = self.pop() {
            items.push(item);
        }
        items.into_iter().rev()
    }

    /// Bytes of a node of items `from..to`.
    pub fn size(&self, from: usize, to: usize, fences: usize) -> usize {
        let total = self.end(to - 1) - self.items[from].at;
        let prefix = if to - from > 1 {
            common_prefix(self.key(from + 1), self.key(to - 1))
        } else {
            0
        };
        layout::branch_bytes(to - from, total - self.key(from).len(), prefix, fences)
    }

    /// Whether items `from..to` make an ordinary node. `low_len` is the fence below item 0.
    fn fits(&self, from: usize, to: usize, low_len: usize, high_len: usize) -> bool {
        let low = if from == 0 {
            low_len
        } else {
            self.key(from).len()
        };
        to - from <= self.limits.fanout && self.size(from, to, low + high_len) <= self.limits.bytes
    }

    /// Whether all items together would leave most of a node empty. Three eighths and not a
    /// half: a node just split in two must not be merged again at the next deletion.
    pub fn is_underfull(&self) -> bool {
        let count = self.len();
        if count == 0 {
            return false;
        }
        count < self.limits.least
            || (self.cut_count == 0
                && count * 8 < self.limits.fanout * 3
                && self.size(0, count, 0) * 8 < self.limits.bytes * 3)
    }

    /// The ends of the nodes that all items make when the last of them ends at a fence of
    /// `high_len` bytes.
    pub fn plan(&self, low_len: usize, high_len: usize) -> Vec<usize> {
        let count = self.len();
        let least = self.limits.least;
        if count < 2 * least || self.fits(0, count, low_len, high_len) {
            return vec![count];
        }
        let cut = self.last_cut();
        let short = count - cut < least
            || (cut > 0
                && (count - cut) * 8 < self.limits.fanout * 3
                && self.size(cut, count, 0) * 8 < self.limits.bytes * 3);
        if cut > 0 && !short && self.fits(cut, count, low_len, high_len) {
            return vec![cut, count];
        }
        if let Some(cut) = self.halves(low_len, high_len) {
            return vec![cut, count];
        }
        let mut ends = Vec::with_capacity(3);
        let mut from = cut;
        if cut > 0 {
            from = cut.min(count - least);
            ends.push(from);
        }
        if count - from >= 2 * least && !self.fits(from, count, low_len, high_len) {
            ends.push(count - least);
        }
        ends.push(count);
        ends
    }

    /// Where to cut all items into two nodes that are both more than little: in the middle, or
    /// where one of them just fits a block of half the size, if that takes fewer units.
    fn halves(&self, low_len: usize, high_len: usize) -> Option<usize> {
        let count = self.len();
        let least = self.limits.least;
        let at = |bytes: usize| {
            self.items
                .partition_point(|item| item.at < bytes)
                .clamp(least, count - least)
        };
        let cost = |cut: usize| {
            let fence = self.key(cut).len();
            let fits =
                self.fits(0, cut, low_len, fence) && self.fits(cut, count, low_len, high_len);
            let first = self.size(0, cut, low_len + fence);
            let second = self.size(cut, count, fence + high_len);
            fits.then(|| first.next_power_of_two() + second.next_power_of_two())
        };
        // Record headers make a node larger than its items; the block of half the size is full
        // somewhere below its bytes of items, found from above.
        let half = self.limits.bytes / 2;
        let total = self.bytes.len();
        let low_share = self.limits.bytes * 3 / 8;
        let mut best = at(total / 2);
        let mut best_cost = cost(best);
        for end in (0..=16).map(|step| half - step * half / 64) {
            for cut in [at(end), at(total.saturating_sub(end))] {
                let small = self.size(0, cut, 0).min(self.size(cut, count, 0));
                let price = cost(cut);
                if small >= low_share
                    && price.is_some_and(|price| best_cost.is_none_or(|best| price < best))
                {
                    (best, best_cost) = (cut, price);
                }
            }
        }
        best_cost.map(|_| best)
    }
}
