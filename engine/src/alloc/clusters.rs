//! Node clusters: aligned runs of up to 64 units that a buddy allocator hands out as blocks.
//!
//! Nodes live a checkpoint long or for ever, extents live as their values do. Mixed, a node of one
//! unit splits a hole that a value of a megabyte could have taken; kept together they also are
//! written in longer stretches. A cluster that becomes empty goes back to the free runs.
//!
//! A node that is rewritten leaves a hole in its cluster, for other nodes. At rest nobody wants it,
//! and clusters that were half holes held twice what a million entries need: so they may all end,
//! and what was free in them is free space as any other.
//!
//! Invariants:
//! - A cluster's units are aligned to its size, and none of them is in the free runs.
//! - A cluster stands in the index of exactly the largest order that it can still hand out.
//!
//! Which runs are clusters is known in memory only. After opening, what older clusters hold is
//! plain space; it comes back as its nodes are rewritten.

use super::span::Span;
use std::collections::{BTreeMap, BTreeSet};

/// A mask of 64 units: buddies are found in it by shifts.
pub(super) const CLUSTER_ORDER_MAX: u8 = 6;

/// Per order, the bits at which a block of it may begin.
const STARTS: [u64; 7] = [
    u64::MAX,
    0x5555_5555_5555_5555,
    0x1111_1111_1111_1111,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0000_0001_0000_0001,
    1,
];

#[derive(Debug, Clone, Copy)]
struct Cluster {
    order: u8,
    /// One bit per unit. Bits past the cluster's end are set.
    used: u64,
}

impl Cluster {
    fn empty(order: u8) -> Self {
        Self {
            order,
            used: !ones(1 << order),
        }
    }

    fn is_empty(self) -> bool {
        self.used == Self::empty(self.order).used
    }

    /// Per bit, whether a free block of this order begins there.
    fn free_starts(self, order: u8) -> u64 {
        let mut starts = !self.used;
        for k in 0..order {
            starts &= starts >> (1u32 << k);
        }
        starts & STARTS[usize::from(order)]
    }

    fn largest_order(self) -> Option<u8> {
        (0..=self.order).rev().find(|&k| self.free_starts(k) != 0)
    }
}

/// The clusters of all loaded regions.
#[derive(Debug, Clone, Default)]
pub(super) struct Clusters {
    by_start: BTreeMap<u64, Cluster>,
    /// Per order, the clusters whose largest free block has it.
    with_room: [BTreeSet<u64>; 7],
    free_units: u64,
}

impl Clusters {
    /// Units of clusters that no node has.
    pub fn free_units(&self) -> u64 {
        self.free_units
    }

    /// Makes the free units `[start, start + 2^order)` an empty cluster.
    pub fn add(&mut self, start: u64, order: u8) {
        let cluster = Cluster::empty(order);
        let before = self.by_start.insert(start, cluster);
        assert!(before.is_none(), "unit {start} begins a cluster already");
        self.index(start, cluster, true);
        self.free_units += 1 << order;
    }

    /// A block of `order` from the fullest cluster that has one, the lowest of equals.
    pub fn take(&mut self, order: u8) -> Option<u64> {
        let start = self.with_room[usize::from(order)..]
            .iter()
            .find_map(BTreeSet::first)
            .copied()?;
        let starts = self.by_start[&start].free_starts(order);
        let block = start + u64::from(starts.trailing_zeros());
        self.set(start, Span::at(block, 1 << order), true);
        Some(block)
    }

    /// A block of `order` for which `good` holds. Looks at every block there is.
    pub fn take_if(&mut self, order: u8, good: impl Fn(Span) -> bool) -> Option<u64> {
        let (start, block) = self.with_room[usize::from(order)..]
            .iter()
            .flatten()
            .find_map(|&start| {
                let mut starts = self.by_start[&start].free_starts(order);
                while starts != 0 {
                    let block = start + u64::from(starts.trailing_zeros());
                    if good(Span::at(block, 1 << order)) {
                        return Some((start, block));
                    }
                    starts &= starts - 1;
                }
                None
            })?;
        self.set(start, Span::at(block, 1 << order), true);
        Some(block)
    }

    /// Marks units of one cluster as used, and tells those that were not.
    pub fn mark(&mut self, start: u64, span: Span, mut taken: impl FnMut(Span)) {
        let free: Vec<Span> = self.free_in(start, span).collect();
        for piece in free {
            self.set(start, piece, true);
            taken(piece);
        }
    }

    /// Gives back units of the cluster at `start`. They must be in use. If the cluster becomes
    /// empty it ends, and its units are the caller's.
    pub fn give(&mut self, start: u64, span: Span) -> Option<Span> {
        let mask = mask_of(start, span);
        assert!(
            self.by_start[&start].used & mask == mask,
            "units {}..{} are given back, but some are free",
            span.start,
            span.end
        );
        self.set(start, span, false);
        let cluster = self.by_start[&start];
        if !cluster.is_empty() {
            return None;
        }
        Some(self.end(start))
    }

    /// The first stretch of `span` that lies wholly in one cluster (whose start it gives) or
    /// wholly outside of all.
    pub fn first_piece(&self, span: Span) -> (Span, Option<u64>) {
        if let Some((&start, cluster)) = self.by_start.range(..=span.start).next_back() {
            let end = start + (1 << cluster.order);
            if span.start < end {
                return (Span::new(span.start, span.end.min(end)), Some(start));
            }
        }
        let next = self.by_start.range(span.start..span.end).next();
        let end = next.map_or(span.end, |(&start, _)| start);
        (Span::new(span.start, end), None)
    }

    /// What is free of `span`, which lies in the cluster at `start`, ascending.
    pub fn free_in(&self, start: u64, span: Span) -> impl Iterator<Item = Span> + use<> {
        let mut free = !self.by_start[&start].used & mask_of(start, span);
        std::iter::from_fn(move || {
            if free == 0 {
                return None;
            }
            let first = free.trailing_zeros();
            let units = (free >> first).trailing_ones();
            free &= !(ones(units) << first);
            Some(Span::at(start + u64::from(first), units))
        })
    }

    /// Ends all clusters, full ones too, and gives what was free in them.
    pub fn dissolve(&mut self) -> Vec<Span> {
        let mut free = Vec::new();
        for (&start, cluster) in &self.by_start {
            free.extend(self.free_in(start, Span::at(start, 1 << cluster.order)));
        }
        *self = Self::default();
        free
    }

    fn set(&mut self, start: u64, span: Span, used: bool) {
        let before = self.by_start[&start];
        self.index(start, before, false);
        let mut after = before;
        if used {
            after.used |= mask_of(start, span);
            self.free_units -= span.len();
        } else {
            after.used &= !mask_of(start, span);
            self.free_units += span.len();
        }
        self.by_start.insert(start, after);
        self.index(start, after, true);
    }

    fn end(&mut self, start: u64) -> Span {
        let cluster = self.by_start.remove(&start).expect("the cluster is known");
        self.index(start, cluster, false);
        self.free_units -= 1 << cluster.order;
        Span::at(start, 1 << cluster.order)
    }

    fn index(&mut self, start: u64, cluster: Cluster, present: bool) {
        if let Some(order) = cluster.largest_order() {
            let set = &mut self.with_room[usize::from(order)];
            let changed = if present {
                set.insert(start)
            } else {
                set.remove(&start)
            };
            debug_assert!(changed, "the index of clusters is wrong at {start}");
        }
    }

    /// Asserts that the index and the count say what the masks say.
    #[cfg(test)]
    pub fn verify(&self) {
        let mut free = 0;
        for (&start, cluster) in &self.by_start {
            free += u64::from((!cluster.used).count_ones());
            assert!(!cluster.is_empty());
            for (order, set) in (0..).zip(&self.with_room) {
                assert_eq!(set.contains(&start), cluster.largest_order() == Some(order));
            }
        }
        assert_eq!(free, self.free_units);
    }
}

/// The lowest `units` bits.
fn ones(units: u32) -> u64 {
    1u64.checked_shl(units).map_or(u64::MAX, |bit| bit - 1)
}

fn mask_of(start: u64, span: Span) -> u64 {
    ones(span.units()) << (span.start - start)
}
