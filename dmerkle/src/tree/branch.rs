//! What a branch holds: children in key order, each with what is below it.

use crate::error::Structure;
use crate::format::bytes::{Reader, put_at, u64_at};
use crate::format::node as layout;
use crate::format::pointer::{POINTER_BYTES, Pointer};
use crate::tree::node::{Label, Node, Shape, common_prefix, encode_frame, seal};
use crate::types::{Sum, Summary};

/// A child: where it is and what is below it. Also what is known of a whole tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Root {
    /// Where the topmost node is; none for an empty tree.
    pub pointer: Pointer,
    /// Of all entries below.
    pub summary: Summary,
}

impl Root {
    /// The empty tree.
    pub const EMPTY: Self = Self {
        pointer: Pointer::NONE,
        summary: Summary::EMPTY,
    };
}

/// In a branch; in a leaf they panic.
impl<B: AsRef<[u8]>> Node<B> {
    /// The child whose range holds `key`, which lies between this node's fences.
    pub fn child_for(&self, key: &[u8]) -> (usize, Pointer) {
        let index = self.child_index(key);
        (index, self.child_pointer(index))
    }

    /// The index of the child whose range holds `key`.
    pub fn child_index(&self, key: &[u8]) -> usize {
        assert!(!self.is_leaf());
        let (index, found) = self.search(key);
        index + usize::from(found)
    }

    /// Where child `index` is.
    pub fn child_pointer(&self, index: usize) -> Pointer {
        assert!(!self.is_leaf());
        let mut reader = Reader::new(
            &self.child_record(index)[layout::child::POINTER..],
            Structure::Node,
        );
        Pointer::decode(&mut reader).expect("validated")
    }

    /// What is below child `index`.
    pub fn child_summary(&self, index: usize) -> Summary {
        assert!(!self.is_leaf());
        let record = self.child_record(index);
        let sum = record[layout::child::SUM..layout::CHILD_BYTES]
            .try_into()
            .expect("sixteen bytes");
        Summary {
            count: u64_at(record, layout::child::COUNT),
            sum: Sum(u128::from_le_bytes(sum)),
        }
    }

    /// Child `index`: where it is and what is below it.
    pub fn child(&self, index: usize) -> Root {
        Root {
            pointer: self.child_pointer(index),
            summary: self.child_summary(index),
        }
    }

    /// Appends the low fence of child `index`.
    pub fn child_low(&self, index: usize, out: &mut Vec<u8>) {
        assert!(!self.is_leaf());
        match index.checked_sub(1) {
            None => out.extend_from_slice(self.low()),
            Some(key) => self.key(key).append_to(out),
        }
    }

    /// Appends the high fence of child `index`, or gives `false` if it has none.
    pub fn child_high(&self, index: usize, out: &mut Vec<u8>) -> bool {
        assert!(!self.is_leaf());
        if index < self.keys() {
            self.key(index).append_to(out);
            return true;
        }
        self.high()
            .inspect(|high| out.extend_from_slice(high))
            .is_some()
    }

    /// Whether the whole range of child `index` is below `key`, or begins at it.
    pub(crate) fn child_ends_by(&self, index: usize, key: &[u8]) -> bool {
        if index < self.keys() {
            return self.key(index).cmp_key(key).is_le();
        }
        self.high().is_some_and(|high| high <= key)
    }

    /// Of all that is below this branch.
    pub fn summary_of_children(&self) -> Summary {
        (0..self.count()).fold(Summary::EMPTY, |sum, index| {
            sum.plus(self.child_summary(index))
        })
    }
}

/// Writes a branch of `count` children (low fence and child, ascending) into a zeroed block.
pub(crate) fn encode_branch<'a>(
    block: &mut [u8],
    label: &Label,
    level: u8,
    high: Option<&[u8]>,
    count: usize,
    child: impl Fn(usize) -> (&'a [u8], Root),
) -> Pointer {
    let (low, _) = child(0);
    let keys = count - 1;
    let prefix = if keys == 0 {
        &[]
    } else {
        let (first, _) = child(1);
        let (last, _) = child(count - 1);
        &first[..common_prefix(first, last)]
    };
    let heads = layout::heads_at(prefix.len());
    let slots = heads + keys * layout::HEAD_BYTES;
    let records = slots + keys * layout::SLOT_BYTES;
    let mut at = records + count * layout::CHILD_BYTES;
    let mut pointer = Vec::with_capacity(POINTER_BYTES);
    for index in 0..count {
        let (key, root) = child(index);
        if let Some(slot) = index.checked_sub(1) {
            let suffix = &key[prefix.len()..];
            put_at(
                block,
                heads + slot * layout::HEAD_BYTES,
                layout::head_of(suffix).to_le_bytes(),
            );
            let record = u32::try_from(at).expect("a block is under 4 GiB");
            put_at(
                block,
                slots + slot * layout::SLOT_BYTES,
                record.to_le_bytes(),
            );
            block[at..at + suffix.len()].copy_from_slice(suffix);
            at += suffix.len();
        }
        let record = records + index * layout::CHILD_BYTES;
        pointer.clear();
        root.pointer.encode(&mut pointer);
        let place = record + layout::child::POINTER;
        block[place..place + pointer.len()].copy_from_slice(&pointer);
        let count = root.summary.count.to_le_bytes();
        put_at(block, record + layout::child::COUNT, count);
        let sum = root.summary.sum.0.to_le_bytes();
        put_at(block, record + layout::child::SUM, sum);
    }
    let shape = Shape {
        level,
        count,
        prefix,
        low,
        high,
        used: at + low.len() + high.map_or(0, <[u8]>::len),
    };
    encode_frame(block, label, &shape);
    seal(block, label, shape.used)
}
