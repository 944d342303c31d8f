//! What a leaf holds: entries in key order.

use crate::format::body::BodyRef;
use crate::format::bytes::u16_at;
use crate::format::node as layout;
use crate::format::pointer::Pointer;
use crate::tree::node::{KeyRef, Label, Node, Shape, encode_frame, seal};

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

    /// Bytes of keys and bodies of the entries `from..to`.
    pub(crate) fn entry_bytes(&self, from: usize, to: usize) -> usize {
        let count = to - from;
        self.records(from, to).len() + count * self.prefix().len()
            - count * layout::SUFFIX_LEN_BYTES
    }

    /// The entries in key order.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (KeyRef<'_>, BodyRef<'_>)> {
        assert!(self.is_leaf());
        (0..self.count()).map(|index| (self.key(index), self.body(index)))
    }
}

/// Writes the records of a leaf into a new block, array by array: all heads, then all slots, then
/// all records. What comes from a leaf whose keys have the same prefix is copied as it stands.
#[derive(Debug)]
pub(crate) struct LeafWriter {
    block: Vec<u8>,
    prefix_len: usize,
    count: usize,
    /// Where the next slot points to.
    record_at: usize,
}

impl LeafWriter {
    /// Of `count` entries whose keys begin with the first `prefix_len` bytes of `first`, in a
    /// block of `bytes`.
    pub fn new(first: KeyRef<'_>, prefix_len: usize, count: usize, bytes: usize) -> Self {
        let heads = layout::heads_at(prefix_len);
        let mut block = Vec::with_capacity(bytes);
        block.resize(layout::HEADER_BYTES, 0);
        first.append_to(&mut block);
        block.truncate(layout::HEADER_BYTES + prefix_len);
        block.resize(heads, 0);
        Self {
            block,
            prefix_len,
            count,
            record_at: heads + count * (layout::HEAD_BYTES + layout::SLOT_BYTES),
        }
    }

    pub fn head(&mut self, key: KeyRef<'_>) {
        let head = match key.behind(self.prefix_len) {
            ([], suffix) => layout::head_of(suffix),
            (first, second) => {
                let mut four = [0; 4];
                let bytes = first.iter().chain(second);
                four.iter_mut()
                    .zip(bytes)
                    .for_each(|(to, from)| *to = *from);
                layout::head_of(&four)
            }
        };
        self.block.extend_from_slice(&head.to_le_bytes());
    }

    pub fn heads_of<B: AsRef<[u8]>>(&mut self, node: &Node<B>, from: usize, to: usize) {
        if node.prefix().len() == self.prefix_len {
            self.block.extend_from_slice(node.heads(from, to));
            return;
        }
        (from..to).for_each(|index| self.head(node.key(index)));
    }

    pub fn slot(&mut self, key_len: usize, body_len: usize) {
        let at = u32::try_from(self.record_at).expect("a block is under 4 GiB");
        self.block.extend_from_slice(&at.to_le_bytes());
        self.record_at += layout::SUFFIX_LEN_BYTES + key_len - self.prefix_len + body_len;
    }

    pub fn slots_of<B: AsRef<[u8]>>(&mut self, node: &Node<B>, from: usize, to: usize) {
        let short = |at: usize| u32::try_from(at).expect("a block is under 4 GiB");
        // Each record is longer or shorter by the difference of the prefixes. Wrapping, for both
        // differences may be negative; what comes out is in the block.
        let longer = short(node.prefix().len()).wrapping_sub(short(self.prefix_len));
        let mut moved = short(self.record_at).wrapping_sub(short(node.slot(from)));
        let (slots, _) = node.slots(from, to).as_chunks::<4>();
        if longer == 0 {
            self.block.extend(slots.iter().flat_map(|slot| {
                let at = u32::from_le_bytes(*slot).wrapping_add(moved);
                at.to_le_bytes()
            }));
        } else {
            for slot in slots {
                let at = u32::from_le_bytes(*slot).wrapping_add(moved);
                self.block.extend_from_slice(&at.to_le_bytes());
                moved = moved.wrapping_add(longer);
            }
        }
        let bytes = node.entry_bytes(from, to) + (to - from) * layout::SUFFIX_LEN_BYTES;
        self.record_at += bytes - (to - from) * self.prefix_len;
    }

    pub fn record(&mut self, key: KeyRef<'_>, body: &[u8]) {
        let length = key.len() - self.prefix_len;
        let length = u16::try_from(length).expect("a key is at most 4096 bytes");
        let (first, second) = key.behind(self.prefix_len);
        self.block.extend_from_slice(&length.to_le_bytes());
        self.block.extend_from_slice(first);
        self.block.extend_from_slice(second);
        self.block.extend_from_slice(body);
    }

    pub fn records_of<B: AsRef<[u8]>>(&mut self, node: &Node<B>, from: usize, to: usize) {
        if node.prefix().len() == self.prefix_len {
            self.block.extend_from_slice(node.records(from, to));
            return;
        }
        (from..to).for_each(|index| self.record(node.key(index), node.body(index).as_bytes()));
    }

    /// Writes the rest. Gives the block and the pointer that names it.
    pub fn finish(
        mut self,
        label: &Label,
        block_bytes: usize,
        low: &[u8],
        high: Option<&[u8]>,
    ) -> (Vec<u8>, Pointer) {
        assert_eq!(self.block.len(), self.record_at);
        let used = self.block.len() + low.len() + high.map_or(0, <[u8]>::len);
        let prefix = self.block[layout::HEADER_BYTES..][..self.prefix_len].to_vec();
        self.block.resize(block_bytes, 0);
        let shape = Shape {
            level: 0,
            count: self.count,
            prefix: &prefix,
            low,
            high,
            used,
        };
        encode_frame(&mut self.block, label, &shape);
        let pointer = seal(&mut self.block, label, used);
        (self.block, pointer)
    }
}
