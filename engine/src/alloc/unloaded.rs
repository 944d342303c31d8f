//! What is known of the regions whose maps are not loaded.
//!
//! Per region an upper bound of its largest free run, so that a region is loaded only if it may
//! help, and the lowest such is found in O(log n); and what was marked and freed there meanwhile,
//! to be applied when the map is loaded.
//!
//! Invariants: a unit is remembered as marked or as freed or not at all, by what was said last; a
//! loaded region has a bound of zero and nothing remembered.

use super::span::{Span, SpanSet};

#[derive(Debug, Clone, Default)]
pub(super) struct Unloaded {
    bounds: MaxTree,
    pub marked: SpanSet,
    pub freed: SpanSet,
}

impl Unloaded {
    /// With a bound for each region, zero for those that are loaded.
    pub fn new(bounds: &[u32]) -> Self {
        Self {
            bounds: MaxTree::new(bounds),
            ..Self::default()
        }
    }

    /// The lowest region that may have a free run of `units`.
    pub fn lowest(&self, units: u32) -> Option<u32> {
        self.bounds.first_at_least(units.max(1))
    }

    /// The region's largest run is at most this.
    pub fn bound(&self, region: u32) -> u32 {
        self.bounds.get(region)
    }

    pub fn mark(&mut self, span: Span) {
        self.freed.remove(span);
        self.marked.insert(span);
    }

    /// `free` is the most that can be free in the region now.
    pub fn free(&mut self, region: u32, span: Span, free: u32) {
        if let Some(twice) = self.freed.pieces(span).next() {
            panic!(
                "units {}..{} are given back, but {}..{} are free",
                span.start, span.end, twice.start, twice.end
            );
        }
        self.marked.remove(span);
        self.freed.insert(span);
        // The run may join two runs that were free.
        let bound = self.bound(region);
        let joined = bound.saturating_mul(2).saturating_add(span.units());
        self.bounds.set(region, joined.min(free));
    }

    /// Forgets the region whose units are `data`; it is loaded now. Gives what was marked and
    /// what was freed.
    pub fn leave(&mut self, region: u32, data: Span) -> (Vec<Span>, Vec<Span>) {
        self.bounds.set(region, 0);
        let leave = |set: &mut SpanSet| {
            if set.is_empty() {
                return Vec::new();
            }
            let pieces = set.pieces(data).collect();
            set.remove(data);
            pieces
        };
        (leave(&mut self.marked), leave(&mut self.freed))
    }
}

/// A complete binary tree of maxima over an array.
#[derive(Debug, Clone, Default)]
struct MaxTree {
    /// Node 1 is the root, the children of `i` are `2i` and `2i + 1`, the leaves are the last half.
    nodes: Vec<u32>,
}

impl MaxTree {
    fn new(values: &[u32]) -> Self {
        if values.is_empty() {
            return Self::default();
        }
        let leaves = values.len().next_power_of_two();
        let mut nodes = vec![0; 2 * leaves];
        nodes[leaves..leaves + values.len()].copy_from_slice(values);
        for i in (1..leaves).rev() {
            nodes[i] = nodes[2 * i].max(nodes[2 * i + 1]);
        }
        Self { nodes }
    }

    fn get(&self, index: u32) -> u32 {
        let leaf = self.nodes.len() / 2 + index as usize;
        self.nodes.get(leaf).copied().unwrap_or(0)
    }

    fn set(&mut self, index: u32, value: u32) {
        let mut i = self.nodes.len() / 2 + index as usize;
        self.nodes[i] = value;
        while i > 1 {
            i /= 2;
            self.nodes[i] = self.nodes[2 * i].max(self.nodes[2 * i + 1]);
        }
    }

    fn first_at_least(&self, value: u32) -> Option<u32> {
        if *self.nodes.get(1)? < value {
            return None;
        }
        let leaves = self.nodes.len() / 2;
        let mut i = 1;
        while i < leaves {
            i *= 2;
            if self.nodes[i] < value {
                i += 1;
            }
        }
        Some(u32::try_from(i - leaves).expect("regions are counted in 32 bits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_region_that_may_help_is_found() {
        for count in 1..20u32 {
            let values: Vec<u32> = (0..count).map(|i| (i * 7919) % 13).collect();
            let mut tree = MaxTree::new(&values);
            let mut model = values;
            for step in 0..count {
                for wanted in 1..15 {
                    let expected = model.iter().position(|&v| v >= wanted);
                    let got = tree.first_at_least(wanted).map(|i| i as usize);
                    assert_eq!(got, expected);
                }
                tree.set(step, (step * 31) % 14);
                model[step as usize] = (step * 31) % 14;
            }
        }
    }
}
