//! What a leaf holds: entries in key order.

use crate::format::body::BodyRef;
use crate::format::bytes::{put_at, u16_at};
use crate::format::node as layout;
use crate::format::pointer::Pointer;
use crate::tree::node::{KeyRef, Label, Node, Shape, common_prefix, encode_frame, seal};

/// In a leaf; in a branch they panic.
impl<B: AsRef<[u8]>> Node<B> {
    /// The body of `key`'s entry.
    pub fn find(&self, key: &[u8]) -> Option<BodyRef<'_>> {
        debug_assert!(self.is_leaf());
        let (index, found) = self.search(key);
        found.then(|| self.body(index))
    }

    /// The index of the first entry at or above `key` (the count if none), and whether it is
    /// `key`'s.
    pub fn position(&self, key: &[u8]) -> (usize, bool) {
        debug_assert!(self.is_leaf());
        self.search(key)
    }

    /// The key of entry `index`.
    pub fn entry_key(&self, index: usize) -> KeyRef<'_> {
        assert!(self.is_leaf());
        self.key(index)
    }

    /// The body of entry `index`.
    pub fn body(&self, index: usize) -> BodyRef<'_> {
        assert!(self.is_leaf());
        let record = self.record(index);
        let suffix = usize::from(u16_at(record, 0));
        BodyRef::trusted(&record[layout::SUFFIX_LEN_BYTES + suffix..])
    }

    /// The entries in key order.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (KeyRef<'_>, BodyRef<'_>)> {
        assert!(self.is_leaf());
        (0..self.count()).map(|index| (self.key(index), self.body(index)))
    }
}

/// Writes a leaf of `count` entries (key and encoded body, ascending) into a zeroed block.
pub(crate) fn encode_leaf<'a>(
    block: &mut [u8],
    label: &Label,
    low: &[u8],
    high: Option<&[u8]>,
    count: usize,
    entry: impl Fn(usize) -> (&'a [u8], &'a [u8]),
) -> Pointer {
    let (first, _) = entry(0);
    let (last, _) = entry(count - 1);
    let prefix = &first[..common_prefix(first, last)];
    let mut head = layout::heads_at(prefix.len());
    let mut slot = head + count * layout::HEAD_BYTES;
    let mut at = slot + count * layout::SLOT_BYTES;
    for index in 0..count {
        let (key, body) = entry(index);
        let suffix = &key[prefix.len()..];
        put_at(block, head, layout::head_of(suffix).to_le_bytes());
        let record = u32::try_from(at).expect("a block is under 4 GiB");
        put_at(block, slot, record.to_le_bytes());
        let length = u16::try_from(suffix.len()).expect("a key is at most 4096 bytes");
        put_at(block, at, length.to_le_bytes());
        at += layout::SUFFIX_LEN_BYTES;
        block[at..at + suffix.len()].copy_from_slice(suffix);
        at += suffix.len();
        block[at..at + body.len()].copy_from_slice(body);
        at += body.len();
        head += layout::HEAD_BYTES;
        slot += layout::SLOT_BYTES;
    }
    let shape = Shape {
        level: 0,
        count,
        prefix,
        low,
        high,
        used: at + low.len() + high.map_or(0, <[u8]>::len),
    };
    encode_frame(block, label, &shape);
    seal(block, label, shape.used)
}
