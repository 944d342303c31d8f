//! Where the stream of entries is cut into leaves.
//!
//! Three wishes: few blocks (each leaf fills the block of its order), fences where the old ones
//! were (then no entry is hashed, and what follows is not shifted), and room to grow where the
//! leaves beside stay as they are. While more entries come, leaves are cut as full as they get, or
//! at an old fence that leaves little empty. The last ones before a clean leaf share their room.

use crate::tree::branch::Root;
use crate::tree::entries::Entries;
use crate::tree::pending::Limits;

/// The pending entries, seen by one who looks for a cut.
pub(crate) struct Cuts<'a, B> {
    pub entries: &'a Entries<B>,
    pub limits: Limits,
    /// Bytes of the fence below the first of them.
    pub low_len: usize,
}

impl<B: AsRef<[u8]>> Cuts<'_, B> {
    /// How many entries make the next leaf, once it does not matter to it what follows; until
    /// then, how many bytes must come before it is worth asking again.
    pub fn ready(&self) -> Result<usize, usize> {
        let (entries, limits) = (self.entries, &self.limits);
        let enough = 2 * limits.bytes;
        if entries.len() < 2 {
            return Err(0);
        }
        if entries.len() <= 2 * limits.fanout {
            let bound = entries.bytes_bound();
            if bound < enough {
                return Err(enough - bound);
            }
            let bytes = entries.size(0, entries.len(), 0);
            if bytes < enough {
                return Err(enough - bytes);
            }
        }
        Ok(self.full())
    }

    /// How many entries make the next leaf if no entry follows before a fence of `high_len`
    /// bytes, or none at all; `None` if that is all of them.
    pub fn last(&self, high_len: Option<usize>) -> Option<usize> {
        let count = self.entries.len();
        let end = high_len.unwrap_or_default();
        if count == 1 || self.leaf_bytes(0, count, end).is_some() {
            return None;
        }
        let bytes = self.entries.size(0, count, self.low_len + end);
        let two = bytes < 2 * self.limits.bytes && count <= 2 * self.limits.fanout;
        // At the end of the tree is where appended entries come: they need no room before them.
        let shared = high_len.filter(|_| two);
        let shared = shared.and_then(|high_len| self.share(bytes, high_len));
        Some(shared.unwrap_or_else(|| self.full()))
    }

    /// Whether a clean leaf that follows should join the pending entries: if that saves blocks,
    /// and leaves room to grow.
    pub fn wants(&self, neighbour: &Root) -> bool {
        let max = self.limits.bytes;
        let pointer = &neighbour.pointer;
        if pointer.order.0 > self.limits.order {
            return false;
        }
        let count = self.entries.len();
        let all = usize::try_from(neighbour.summary.count)
            .unwrap_or(usize::MAX)
            .saturating_add(count);
        let own = self.entries.size(0, count, 0);
        let leaves = if own <= max { 1 } else { 2 };
        all <= leaves * self.limits.fanout && self.limits.join(own, pointer.logical_bytes as usize)
    }

    /// Bytes of the block that a leaf of `size` bytes takes.
    fn block(&self, size: usize) -> usize {
        self.limits.block(size)
    }

    fn fence_len(&self, index: usize) -> usize {
        if index == 0 {
            self.low_len
        } else {
            self.entries.fence_len(index)
        }
    }

    /// Bytes of a leaf of entries `from..to`, unless they are too many for one.
    fn leaf_bytes(&self, from: usize, to: usize, high_len: usize) -> Option<usize> {
        if to - from > self.limits.fanout {
            return None;
        }
        let fences = self.fence_len(from) + high_len;
        let size = self.entries.size(from, to, fences);
        (size <= self.limits.bytes || to - from == 1).then_some(size)
    }

    /// The largest next leaf, or the largest that ends at an old fence and is nearly full.
    fn full(&self) -> usize {
        let fits = |end| self.leaf_bytes(0, end, self.fence_len(end));
        let mut fit = 1;
        for border in self.entries.borders() {
            let Some(size) = fits(border) else { continue };
            if size * 16 >= self.block(size) * 15 {
                return border;
            }
            fit = fit.max(border);
            if size * 8 < self.limits.bytes * 3 {
                break;
            }
        }
        let mut over = self.entries.len();
        while over - fit > 1 {
            let middle = usize::midpoint(fit, over);
            if fits(middle).is_some() {
                fit = middle;
            } else {
                over = middle;
            }
        }
        fit
    }

    /// Where to cut `bytes` of entries, too many for a leaf, into two that have room to grow:
    /// at an old fence or in proportion to their blocks, as takes the least of those.
    fn share(&self, bytes: usize, high_len: usize) -> Option<usize> {
        let max = self.limits.bytes;
        let count = self.entries.len();
        let least = max / 8 + max / 32;
        let price = |cut: usize| {
            let first = self.leaf_bytes(0, cut, self.fence_len(cut))?;
            let second = self.leaf_bytes(cut, count, high_len)?;
            let small = if first.min(second) < least { max } else { 0 };
            Some(self.block(first) + self.block(second) + small)
        };
        let share = |part: usize, whole: usize| {
            let cut = self.entries.index_at(self.entries.bytes() * part / whole);
            cut.clamp(1, count - 1)
        };
        let mut other = self.limits.unit;
        while other < max && max + other < bytes + bytes / 32 {
            other *= 2;
        }
        let whole = max + other;
        let cuts =
            self.entries
                .borders()
                .chain([share(max, whole), share(other, whole), share(1, 2)]);
        cuts.filter_map(|cut| Some((price(cut)?, cut)))
            .min_by_key(|(price, _)| *price)
            .map(|(_, cut)| cut)
    }
}
