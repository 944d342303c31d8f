//! What is in a key range: its summary, and where to cut it; both a node at a time.
//!
//! A summary reads two paths, however large the range: every child that lies wholly inside brings
//! its own. Only the entries of the two leaves at the ends are hashed, and of each leaf only the
//! smaller side; where cuts fall into a leaf, all but its largest part.

use crate::error::Corrupt;
use crate::fingerprint::FingerprintKey;
use crate::format::pointer::Pointer;
use crate::tree::branch::Root;
use crate::tree::ground::Source;
use crate::tree::lookup::expect_level;
use crate::tree::node::Node;
use crate::types::{Summary, TreeId};

/// A half-open range of keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Range {
    /// The first key that may be in it.
    pub low: Vec<u8>,
    /// The first key above it that is not; none if there is no upper bound.
    pub high: Option<Vec<u8>>,
}

impl Range {
    /// All keys.
    pub const ALL: Self = Self {
        low: Vec::new(),
        high: None,
    };

    /// From `low` up to `high`.
    pub fn new(low: &[u8], high: Option<&[u8]>) -> Self {
        Self {
            low: low.to_vec(),
            high: high.map(<[u8]>::to_vec),
        }
    }

    /// Whether `key` is in it.
    pub fn holds(&self, key: &[u8]) -> bool {
        self.low[..] <= *key && self.high.as_deref().is_none_or(|high| key < high)
    }

    /// Whether no key can be in it.
    pub fn is_empty(&self) -> bool {
        self.high.as_ref().is_some_and(|high| *high <= self.low)
    }

    /// The children of a branch that may have keys in the range: first, and one past the last.
    fn children<B: AsRef<[u8]>>(&self, node: &Node<B>) -> (usize, usize) {
        let first = node.child_index(&self.low);
        let end = self.high.as_ref().map_or(node.count(), |high| {
            let last = node.child_index(high);
            let begins = last > 0 && node.key(last - 1).cmp_key(high).is_eq();
            last + usize::from(!begins)
        });
        (first, end)
    }

    /// The entries of a leaf that are in the range: first, and one past the last.
    fn entries<B: AsRef<[u8]>>(&self, node: &Node<B>) -> (usize, usize) {
        let first = node.position(&self.low).0;
        let end = self
            .high
            .as_ref()
            .map_or(node.count(), |high| node.position(high).0);
        (first, end)
    }
}

/// Sums a range up, whole or the parts that cuts make of it.
///
/// All parts are summed up in one walk: a leaf in which a cut falls is met once, though two parts
/// end there.
#[derive(Debug, Clone)]
pub struct RangeSummary {
    key: FingerprintKey,
    /// The range's low bound, the cuts, and its high bound if there is one; ascending.
    bounds: Vec<Vec<u8>>,
    bounded: bool,
    /// Of the keys below the first bound (never summed up), then of those from each bound on.
    sums: Vec<Summary>,
    todo: Vec<Todo>,
}

/// A node that is not wholly between two bounds.
#[derive(Debug, Clone)]
struct Todo {
    root: Root,
    /// If it is known.
    level: Option<u8>,
    /// The bounds that fall into it.
    bounds: core::ops::Range<usize>,
}

impl RangeSummary {
    /// Will sum `range` of the tree of `root` up.
    pub fn new(key: FingerprintKey, root: &Root, range: Range) -> Self {
        Self::of_parts(key, root, range, &[])
    }

    /// Will sum up each part of `range` that `cuts` make, which ascend inside it.
    pub fn of_parts(key: FingerprintKey, root: &Root, range: Range, cuts: &[Vec<u8>]) -> Self {
        let empty = range.is_empty() || root.pointer.is_none();
        let all = range == Range::ALL && cuts.is_empty();
        let bounded = range.high.is_some();
        let mut bounds = Vec::with_capacity(cuts.len() + 2);
        bounds.push(range.low);
        bounds.extend_from_slice(cuts);
        bounds.extend(range.high);
        let mut sum = Self {
            key,
            sums: vec![Summary::EMPTY; bounds.len() + 1],
            bounds,
            bounded,
            todo: Vec::new(),
        };
        if all {
            sum.sums[1] = root.summary;
        } else if !empty {
            sum.todo.push(Todo {
                root: *root,
                level: None,
                bounds: 0..sum.bounds.len(),
            });
        }
        sum
    }

    /// The next node to bring; none when [`RangeSummary::summary`] stands.
    pub fn need(&self) -> Option<Pointer> {
        self.todo.last().map(|todo| todo.root.pointer)
    }

    /// What was summed up so far.
    pub fn summary(&self) -> Summary {
        let parts = self.parts().iter();
        parts.fold(Summary::EMPTY, |all, part| all.plus(*part))
    }

    /// What was summed up so far of each part.
    pub fn parts(&self) -> &[Summary] {
        &self.sums[1..self.sums.len() - usize::from(self.bounded)]
    }

    /// Whether the keys behind the first `passed` bounds, up to the next, are in the range.
    fn is_inside(&self, passed: usize) -> bool {
        passed > 0 && (passed < self.bounds.len() || !self.bounded)
    }

    /// Goes on with the node that was asked for.
    ///
    /// # Panics
    /// Panics if no node was asked for.
    pub fn supply<B: AsRef<[u8]>>(&mut self, node: &Node<B>) -> Result<(), Corrupt> {
        let todo = self.todo.pop().expect("a node is due");
        expect_level(todo.level, node)?;
        if node.is_leaf() {
            self.leaf(node, &todo);
            return Ok(());
        }
        let (mut passed, mut from) = (todo.bounds.start, 0);
        while passed < todo.bounds.end {
            let bound = &self.bounds[passed];
            let cut = node.child_index(bound);
            let begins = match cut.checked_sub(1) {
                None => bound[..] <= *node.low(),
                Some(key) => node.key(key).cmp_key(bound).is_eq(),
            };
            self.children(node, passed, from..cut);
            if begins {
                from = cut;
                passed += 1;
                continue;
            }
            let inside = &self.bounds[passed..todo.bounds.end];
            let more = (inside[1..].iter())
                .take_while(|bound| !node.child_ends_by(cut, bound))
                .count();
            let end = passed + 1 + more;
            self.todo.push(Todo {
                root: node.child(cut),
                level: Some(node.level() - 1),
                bounds: passed..end,
            });
            (passed, from) = (end, cut + 1);
        }
        self.children(node, passed, from..node.count());
        Ok(())
    }

    /// Adds whole children that lie behind the first `passed` bounds.
    fn children<B: AsRef<[u8]>>(
        &mut self,
        node: &Node<B>,
        passed: usize,
        children: core::ops::Range<usize>,
    ) {
        if self.is_inside(passed) {
            self.sums[passed] = children.fold(self.sums[passed], |sum, index| {
                sum.plus(node.child_summary(index))
            });
        }
    }

    /// Hashes the entries of all parts, or of all that is not the largest.
    fn leaf<B: AsRef<[u8]>>(&mut self, node: &Node<B>, todo: &Todo) {
        let count = node.count();
        let mut from = 0;
        let mut pieces = Vec::with_capacity(todo.bounds.len() + 1);
        for passed in todo.bounds.clone() {
            let to = node.position(&self.bounds[passed]).0;
            pieces.push((passed, from..to));
            from = to;
        }
        pieces.push((todo.bounds.end, from..count));
        let inside = pieces.iter().filter(|(at, _)| self.is_inside(*at));
        let hashed: usize = inside.clone().map(|(_, piece)| piece.len()).sum();
        let largest = inside
            .max_by_key(|(_, piece)| piece.len())
            .filter(|(_, piece)| count - piece.len() < hashed)
            .map(|(at, _)| *at);
        let mut rest = todo.root.summary;
        let mut whole = Vec::new();
        for (at, piece) in pieces {
            if largest == Some(at) || (largest.is_none() && !self.is_inside(at)) {
                continue;
            }
            let sum = piece.fold(Summary::EMPTY, |summary, index| {
                whole.clear();
                node.entry_key(index).append_to(&mut whole);
                let sum = self.key.of_entry(&whole, node.body(index));
                summary.plus(Summary::of(sum))
            });
            rest = rest.minus(sum);
            self.sums[at] = self.sums[at].plus(sum);
        }
        if let Some(largest) = largest {
            self.sums[largest] = self.sums[largest].plus(rest);
        }
    }

    /// Brings nodes from `source` until the summary stands.
    pub fn run<S: Source>(self, source: &mut S, tree: TreeId) -> Result<Summary, S::Error> {
        self.complete(source, tree).map(|sum| sum.summary())
    }

    /// Brings nodes from `source` until the summaries of the parts stand.
    pub fn run_parts<S: Source>(
        self,
        source: &mut S,
        tree: TreeId,
    ) -> Result<Vec<Summary>, S::Error> {
        self.complete(source, tree).map(|sum| sum.parts().to_vec())
    }

    fn complete<S: Source>(mut self, source: &mut S, tree: TreeId) -> Result<Self, S::Error> {
        while let Some(pointer) = self.need() {
            let node = source.node(tree, &pointer)?;
            self.supply(&node)?;
        }
        Ok(self)
    }
}

/// Finds keys that cut a range into parts of about as many entries each: fences between nodes
/// where there are enough, keys of entries where the range is down to few leaves.
#[derive(Debug, Clone)]
pub struct Split {
    range: Range,
    parts: usize,
    /// The nodes of one level that meet the range and were not brought yet, last first.
    todo: Vec<Pointer>,
    level: Option<u8>,
    /// What the brought nodes of the level consist of.
    pieces: Vec<Piece>,
    /// The first keys of the pieces, one after the other: few of hundreds become a cut.
    lows: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Piece {
    low: core::ops::Range<usize>,
    pointer: Pointer,
    count: u64,
}

impl Split {
    /// Will cut `range` of the tree of `root` into at most `parts`.
    pub fn new(root: &Root, range: Range, parts: usize) -> Self {
        let empty = root.pointer.is_none() || range.is_empty() || parts < 2;
        Self {
            range,
            parts,
            todo: if empty { vec![] } else { vec![root.pointer] },
            level: None,
            pieces: Vec::new(),
            lows: Vec::new(),
        }
    }

    /// The next node to bring; none when [`Split::boundaries`] stand.
    pub fn need(&self) -> Option<Pointer> {
        self.todo.last().copied()
    }

    /// All nodes that will be asked for before any other, in no order: for reading them at once.
    pub fn upcoming(&self) -> &[Pointer] {
        &self.todo
    }

    /// Goes on with the node that was asked for.
    ///
    /// # Panics
    /// Panics if no node was asked for.
    pub fn supply<B: AsRef<[u8]>>(&mut self, node: &Node<B>) -> Result<(), Corrupt> {
        self.todo.pop().expect("a node is due");
        expect_level(self.level, node)?;
        let leaf = node.is_leaf();
        let (first, end) = if leaf {
            self.range.entries(node)
        } else {
            self.range.children(node)
        };
        for index in first..end {
            let from = self.lows.len();
            let (pointer, count) = if leaf {
                node.entry_key(index).append_to(&mut self.lows);
                (Pointer::NONE, 1)
            } else {
                node.child_low(index, &mut self.lows);
                (node.child_pointer(index), node.child_summary(index).count)
            };
            self.pieces.push(Piece {
                low: from..self.lows.len(),
                pointer,
                count,
            });
        }
        // A sum of part of a leaf costs hashing its entries: half as many parts do without.
        let enough = match node.level() {
            1 => self.parts.div_ceil(2).max(2),
            _ => self.parts,
        };
        if self.todo.is_empty() && !leaf && self.pieces.len() < enough {
            self.level = Some(node.level() - 1);
            self.todo = self.pieces.drain(..).map(|piece| piece.pointer).collect();
            self.lows.clear();
            self.todo.reverse();
        } else {
            self.level = Some(node.level());
        }
        Ok(())
    }

    /// The keys that cut the range: strictly ascending, strictly inside, at most `parts - 1`.
    pub fn boundaries(self) -> Vec<Vec<u8>> {
        let counts = self.pieces.iter().map(|piece| u128::from(piece.count));
        let total: u128 = counts.sum();
        let parts = self.parts as u128;
        let mut cuts = Vec::new();
        let mut before = 0;
        for piece in self.pieces {
            // A cut stands where a new share comes to its full, or at the bound of two pieces that
            // is nearest to there.
            let count = u128::from(piece.count);
            let due = 2 * total * (cuts.len() as u128 + 1) <= (2 * before + count) * parts;
            let low = &self.lows[piece.low];
            if due && before > 0 && *low > self.range.low[..] {
                cuts.push(low.to_vec());
            }
            before += count;
        }
        cuts
    }

    /// Brings nodes from `source` until the boundaries stand.
    pub fn run<S: Source>(
        mut self,
        source: &mut S,
        tree: TreeId,
    ) -> Result<Vec<Vec<u8>>, S::Error> {
        while let Some(pointer) = self.need() {
            let node = source.node(tree, &pointer)?;
            self.supply(&node)?;
        }
        Ok(self.boundaries())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::geometry::Geometry;
    use crate::tree::testing::{KEY, Memory, Model, Ops, TREE, body, summary};

    fn forest(model: &Model, geometry: Geometry) -> (Memory, Root) {
        let ops: Ops = model
            .iter()
            .map(|(key, body)| (key.clone(), Some(body.clone())))
            .collect();
        let mut memory = Memory::new(Geometry {
            regions_max: 4000,
            ..geometry
        });
        let root = memory.apply(1, Root::EMPTY, &ops).root;
        (memory, root)
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0..4u8, 0..5)
    }

    proptest! {
        #[test]
        fn a_range_sums_up_and_splits_as_the_model_does(
            keys in proptest::collection::vec(key(), 0..150),
            ranges in proptest::collection::vec((key(), proptest::option::of(key())), 1..10),
            parts in 0..20usize,
            large in any::<bool>(),
        ) {
            let model: Model = keys.iter().map(|k| (k.clone(), body(k))).collect();
            let geometry = if large { Geometry::default() } else { Geometry::tiny() };
            let (mut memory, root) = forest(&model, geometry);
            for (low, high) in ranges {
                let range = Range::new(&low, high.as_deref());
                let expected = summary(&model, &low, high.as_deref());
                let expected = if range.is_empty() { Summary::EMPTY } else { expected };
                let sum = RangeSummary::new(KEY, &root, range.clone());
                prop_assert_eq!(sum.run(&mut memory, TREE).unwrap(), expected);

                let mut cuts: Vec<_> = keys.iter().step_by(parts + 1).cloned().collect();
                cuts.sort();
                cuts.dedup();
                cuts.retain(|cut| range.holds(cut) && *cut > low);
                let sums = RangeSummary::of_parts(KEY, &root, range.clone(), &cuts);
                let lows = core::iter::once(&low).chain(&cuts);
                let highs = cuts.iter().map(|cut| Some(&cut[..])).chain([high.as_deref()]);
                let each: Vec<_> = (lows.zip(highs))
                    .map(|(low, high)| match high {
                        Some(high) if high <= &low[..] => Summary::EMPTY,
                        _ => summary(&model, low, high),
                    })
                    .collect();
                prop_assert_eq!(sums.run_parts(&mut memory, TREE).unwrap(), each);

                let cuts = Split::new(&root, range.clone(), parts).run(&mut memory, TREE).unwrap();
                prop_assert!(cuts.len() < parts.max(1));
                prop_assert!(cuts.iter().all(|cut| range.holds(cut) && *cut > low));
                prop_assert!(cuts.windows(2).all(|pair| pair[0] < pair[1]));
                if expected.count >= 2 && parts >= 2 {
                    prop_assert!(!cuts.is_empty());
                }
            }
        }
    }

    #[test]
    fn a_range_of_few_leaves_is_cut_between_them() {
        let model: Model = (0..20_000u32)
            .map(|n| (format!("{n:08}").into_bytes(), body(&[7; 150])))
            .collect();
        let (mut memory, root) = forest(&model, Geometry::default());
        for low in [500, 7777, 15_000] {
            let low = format!("{low:08}");
            let high = format!("{:08}", low.parse::<u32>().unwrap() + 1000);
            let range = Range::new(low.as_bytes(), Some(high.as_bytes()));
            for parts in [2, 12, 16] {
                memory.reads = 0;
                let cuts = Split::new(&root, range.clone(), parts).run(&mut memory, TREE);
                assert!(!cuts.unwrap().is_empty());
                assert!(memory.reads <= 4, "{parts} parts: {} nodes", memory.reads);
            }
        }
    }

    #[test]
    fn a_summary_reads_two_paths_and_a_split_is_even() {
        let model: Model = (0..100_000u32)
            .map(|n| (format!("{n:08}").into_bytes(), body(b"x")))
            .collect();
        let (mut memory, root) = forest(&model, Geometry::default());
        memory.reads = 0;
        let range = Range::new(b"00012345", Some(b"00087654"));
        let sum = RangeSummary::new(KEY, &root, range.clone());
        let got = sum.run(&mut memory, TREE).unwrap();
        assert_eq!(got, summary(&model, &range.low, range.high.as_deref()));
        assert!(memory.reads <= 5, "{} nodes", memory.reads);

        let mut bounds = Split::new(&root, range.clone(), 16)
            .run(&mut memory, TREE)
            .unwrap();
        assert_eq!(bounds.len(), 15);
        memory.reads = 0;
        let parts = RangeSummary::of_parts(KEY, &root, range.clone(), &bounds);
        let parts = parts.run_parts(&mut memory, TREE).unwrap();
        let all = parts
            .iter()
            .fold(Summary::EMPTY, |all, part| all.plus(*part));
        assert_eq!((parts.len(), all), (16, got));
        assert!(memory.reads <= 5, "{} nodes: no path twice", memory.reads);
        bounds.insert(0, range.low.clone());
        bounds.extend(range.high);
        for pair in bounds.windows(2) {
            let count = summary(&model, &pair[0], Some(&pair[1])).count;
            assert!((3500..6000).contains(&count), "{count} entries");
        }
    }
}
