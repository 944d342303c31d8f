//! Dots and version vectors.

use std::fmt;

use super::bytes::{put_varint, take_u64, take_varint};

/// The largest count. It leaves room above any that a node reaches by counting milliseconds, so
/// that adding one never overflows.
pub const COUNT_MAX: u64 = 1 << 62;

/// A node among those that ever wrote: a random number, made when its store is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One write: the `count`-th of `node`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// Who took the write.
    pub node: NodeId,
    /// Its place in that node's order; counts may be passed over.
    pub count: u64,
}

/// Up to which count the writes of each node are known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VersionVector {
    /// Ascending by node, each once, no count 0.
    entries: Vec<Dot>,
}

impl VersionVector {
    /// The count of `node`; 0 when nothing of it is known.
    pub fn count(&self, node: NodeId) -> u64 {
        match self.place(node) {
            Ok(index) => self.entries[index].count,
            Err(_) => 0,
        }
    }

    /// Whether the write is known.
    pub fn covers(&self, dot: Dot) -> bool {
        dot.count <= self.count(dot.node)
    }

    /// Whether all that `other` knows is known.
    pub fn covers_all(&self, other: &Self) -> bool {
        other.entries.iter().all(|&dot| self.covers(dot))
    }

    /// Learns of a write and all before it.
    pub fn learn(&mut self, dot: Dot) {
        match self.place(dot.node) {
            Ok(index) => {
                let known = &mut self.entries[index].count;
                *known = dot.count.max(*known);
            }
            Err(index) if dot.count > 0 => self.entries.insert(index, dot),
            Err(_) => {}
        }
    }

    /// Learns all that `other` knows.
    pub fn join(&mut self, other: &Self) {
        for &dot in &other.entries {
            self.learn(dot);
        }
    }

    /// How many nodes are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The newest known write of each node, ascending by node.
    pub fn dots(&self) -> &[Dot] {
        &self.entries
    }

    /// Where `node` stands, or would.
    pub(super) fn place(&self, node: NodeId) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&node, |dot| dot.node)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.entries.len() as u64);
        for dot in &self.entries {
            out.extend_from_slice(&dot.node.0.to_le_bytes());
            put_varint(out, dot.count);
        }
    }

    /// Takes a vector off the front. Nothing is allocated beyond what the bytes hold.
    pub(super) fn decode(input: &mut &[u8]) -> Option<Self> {
        let mut entries = Vec::<Dot>::new();
        for _ in 0..take_varint(input)? {
            let node = NodeId(take_u64(input)?);
            let count = take_varint(input)?;
            let ascending = entries.last().is_none_or(|last| last.node < node);
            if !ascending || !(1..=COUNT_MAX).contains(&count) {
                return None;
            }
            entries.push(Dot { node, count });
        }
        Some(Self { entries })
    }
}

impl FromIterator<Dot> for VersionVector {
    fn from_iter<T: IntoIterator<Item = Dot>>(dots: T) -> Self {
        let mut vector = Self::default();
        for dot in dots {
            vector.learn(dot);
        }
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn vectors() -> impl Strategy<Value = VersionVector> {
        prop::collection::vec((0u64..4, 1u64..6), 0..6).prop_map(|dots| {
            let dots = dots.into_iter();
            dots.map(|(node, count)| Dot {
                node: NodeId(node),
                count,
            })
            .collect()
        })
    }

    proptest! {
        #[test]
        fn join_is_the_least_that_covers_both(a in vectors(), b in vectors(), c in vectors()) {
            let mut ab = a.clone();
            ab.join(&b);
            let mut ba = b.clone();
            ba.join(&a);
            prop_assert_eq!(&ab, &ba);
            prop_assert!(ab.covers_all(&a) && ab.covers_all(&b));
            prop_assert_eq!(c.covers_all(&ab), c.covers_all(&a) && c.covers_all(&b));
            prop_assert_eq!(a.covers_all(&b) && b.covers_all(&a), a == b);
        }

        #[test]
        fn what_was_encoded_comes_back(vector in vectors()) {
            let mut out = Vec::new();
            vector.encode(&mut out);
            prop_assert_eq!(VersionVector::decode(&mut &out[..]), Some(vector));
            for end in 0..out.len() {
                prop_assert_eq!(VersionVector::decode(&mut &out[..end]), None);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            VersionVector::decode(&mut &bytes[..]);
        }
    }
}
