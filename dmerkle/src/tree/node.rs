//! A node: validated bytes, and what they say.
//!
//! Invariants: [`Node::decode`] has seen every byte that an accessor will ever read, so accessors
//! neither fail nor panic; none of them allocates; the bytes never change while a `Node` owns them.

use core::cmp::Ordering;

use crate::error::{Corrupt, Fault, Place, Structure};
use crate::format::body::{BodyRef, KEY_BYTES_MAX};
use crate::format::bytes::{Reader, put_at, u16_at, u32_at, u64_at};
use crate::format::node as layout;
use crate::format::pointer::Pointer;
use crate::types::{BlockId, Generation, OpeningId, Order, TreeId};

/// A node over its block's bytes.
///
/// The offsets are kept outside the bytes, so that a search begins at the key heads without
/// touching the header.
#[derive(Debug, Clone)]
pub struct Node<B> {
    bytes: B,
    pointer: Pointer,
    level: u8,
    count: u16,
    prefix_len: u16,
    aux_len: u16,
    heads: u32,
    slots: u32,
    children: u32,
    heap_end: u32,
    high_at: u32,
    bounded: bool,
}

/// A key of a node in its two pieces.
#[derive(Debug, Clone, Copy)]
pub struct KeyRef<'n> {
    /// What all keys of the node begin with.
    pub prefix: &'n [u8],
    /// The rest.
    pub suffix: &'n [u8],
}

impl KeyRef<'_> {
    /// Bytes of the whole key.
    pub fn len(&self) -> usize {
        self.prefix.len() + self.suffix.len()
    }

    /// Whether it is the empty key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the whole key.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix);
        out.extend_from_slice(self.suffix);
    }

    /// The whole key.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len());
        self.append_to(&mut out);
        out
    }

    /// What follows the first `count` bytes, in two pieces.
    pub(crate) fn behind(&self, count: usize) -> (&[u8], &[u8]) {
        match count.checked_sub(self.prefix.len()) {
            Some(more) => (&[], &self.suffix[more..]),
            None => (&self.prefix[count..], self.suffix),
        }
    }

    /// Bytes that both keys begin with alike.
    pub(crate) fn common_prefix(&self, other: KeyRef<'_>) -> usize {
        let mut whole = 0;
        loop {
            let (a, a_rest) = self.behind(whole);
            let (b, b_rest) = other.behind(whole);
            let a = if a.is_empty() { a_rest } else { a };
            let b = if b.is_empty() { b_rest } else { b };
            let shared = common_prefix(a, b);
            whole += shared;
            if shared == 0 || shared < a.len().min(b.len()) {
                return whole;
            }
        }
    }

    /// How the whole key compares with another.
    pub fn cmp_key(&self, key: &[u8]) -> Ordering {
        let shared = self.prefix.len().min(key.len());
        self.prefix
            .cmp(&key[..shared])
            .then_with(|| self.suffix.cmp(&key[shared..]))
    }
}

/// What a node is called besides its contents: written into its header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Label {
    pub tree: TreeId,
    pub block: BlockId,
    pub order: Order,
    pub generation: Generation,
    pub opening: OpeningId,
}

/// The header's fields that describe the contents.
pub(crate) struct Shape<'a> {
    pub level: u8,
    pub count: usize,
    pub prefix: &'a [u8],
    pub low: &'a [u8],
    pub high: Option<&'a [u8]>,
    pub used: usize,
}

impl<B: AsRef<[u8]>> Node<B> {
    /// Takes a block for the node that `pointer` names in `tree`, if it is exactly that.
    pub fn decode(bytes: B, pointer: &Pointer, tree: TreeId) -> Result<Self, Corrupt> {
        Self::validate(bytes, Some(pointer), Some(tree))
            .map_err(|corrupt| corrupt.at(Place::Block(pointer.block)))
    }

    /// Takes a block for a node if it is one by its own word: for salvage, where no parent
    /// vouches for it. The caller compares [`Node::pointer`]'s block with where it read.
    pub fn decode_orphan(bytes: B) -> Result<Self, Corrupt> {
        Self::validate(bytes, None, None)
    }

    fn validate(
        bytes: B,
        pointer: Option<&Pointer>,
        tree: Option<TreeId>,
    ) -> Result<Self, Corrupt> {
        let node = Self::header(bytes, pointer, tree)?;
        node.validate_records()?;
        node.validate_fences()?;
        node.validate_range()?;
        if node.level > 0 {
            node.validate_children()?;
        }
        Ok(node)
    }

    /// Checks the header and that all arrays lie inside the block.
    fn header(bytes: B, pointer: Option<&Pointer>, tree: Option<TreeId>) -> Result<Self, Corrupt> {
        let block = bytes.as_ref();
        let size = block.len();
        if size < layout::HEADER_BYTES || u32::try_from(size).is_err() {
            let need = layout::HEADER_BYTES as u64;
            let got = size as u64;
            return Err(Corrupt::new(
                Structure::Node,
                Fault::Truncated { need, got },
            ));
        }
        let checksum = verify_checksum(block, pointer)?;
        let header = Header::read(block)?;
        header.validate(pointer, tree)?;
        let Header {
            level,
            count,
            prefix_len,
            aux_len,
            low_len,
            high_len,
            ..
        } = header;
        let branch = usize::from(level > 0);
        let keys = usize::from(count) - branch;
        let heads = layout::heads_at(prefix_len.into());
        let slots = heads + keys * layout::HEAD_BYTES;
        let children = slots + keys * layout::SLOT_BYTES;
        let stride = layout::CHILD_BYTES + usize::from(aux_len);
        let heap = children + branch * usize::from(count) * stride;
        let fences = usize::from(low_len) + usize::from(high_len);
        let used = header.used as usize;
        let rule = |text| Err(Corrupt::rule(Structure::Node, text));
        if heap + fences > used || used > size {
            return rule("the arrays do not fit the used bytes");
        }
        let prefix_end = layout::HEADER_BYTES + usize::from(prefix_len);
        // All bytes are looked at, which is faster than to stop at the first that is not zero.
        let any = |bytes: &[u8]| bytes.iter().fold(0, |any, byte| any | byte) != 0;
        if any(&block[prefix_end..heads]) || any(&block[used..]) {
            return rule("padding is not zero");
        }
        let short = |at: usize| u32::try_from(at).expect("inside the block");
        let node = Self {
            pointer: Pointer {
                block: header.block,
                order: header.order,
                checksum,
                generation: header.generation,
                logical_bytes: header.used,
            },
            level,
            count,
            prefix_len,
            aux_len,
            heads: short(heads),
            slots: short(slots),
            children: short(children),
            heap_end: short(used - fences),
            high_at: short(used - usize::from(high_len)),
            bounded: header.flags & layout::FLAG_UNBOUNDED == 0,
            bytes,
        };
        Ok(node)
    }

    fn validate_fences(&self) -> Result<(), Corrupt> {
        let longest = self
            .low()
            .len()
            .max(self.high().map_or(0, <[u8]>::len))
            .max(self.prefix_len.into());
        if longest > KEY_BYTES_MAX {
            expect("key length", KEY_BYTES_MAX as u64, longest as u64)?;
        }
        if self.high().is_some_and(|high| high <= self.low()) {
            return Err(Corrupt::rule(Structure::Node, "the fences are crossed"));
        }
        Ok(())
    }

    /// The records tile the heap, heads are those of their keys, keys ascend strictly, and every
    /// body is one.
    fn validate_records(&self) -> Result<(), Corrupt> {
        let rule = |text| Err(Corrupt::rule(Structure::Node, text));
        let block = self.block();
        let (heads, _) = block[self.heads as usize..self.slots as usize].as_chunks::<4>();
        let (slots, _) = block[self.slots as usize..self.children as usize].as_chunks::<4>();
        let end = self.heap_end as usize;
        let mut at = self.children as usize + self.children_bytes();
        let mut before: Option<(u32, &[u8])> = None;
        for (index, (head, slot)) in heads.iter().zip(slots).enumerate() {
            let next = slots
                .get(index + 1)
                .map_or(end, |next| u32::from_le_bytes(*next) as usize);
            if u32::from_le_bytes(*slot) as usize != at || next < at || next > end {
                return rule("the records do not tile the heap");
            }
            let mut suffix = &block[at..next];
            if self.level == 0 {
                let Some((length, rest)) = suffix.split_first_chunk::<2>() else {
                    return rule("a record is too short for its key");
                };
                let length = usize::from(u16::from_le_bytes(*length));
                let Some((own, body)) = rest.split_at_checked(length) else {
                    return rule("a record is too short for its key");
                };
                BodyRef::decode(body)?;
                suffix = own;
            }
            let length = usize::from(self.prefix_len) + suffix.len();
            if length > KEY_BYTES_MAX {
                expect("key length", KEY_BYTES_MAX as u64, length as u64)?;
            }
            let head = u32::from_le_bytes(*head);
            if head != layout::head_of(suffix) {
                return rule("a head is not that of its key");
            }
            // Heads that ascend say all; only equal ones leave the suffixes to be compared.
            let ascends = before
                .is_none_or(|(other, shorter)| other < head || (other == head && shorter < suffix));
            if !ascends {
                return rule("the keys do not ascend");
            }
            before = Some((head, suffix));
            at = next;
        }
        if at != end {
            return rule("the records do not tile the heap");
        }
        Ok(())
    }

    /// The first key and the last lie between the fences, and so do all others.
    fn validate_range(&self) -> Result<(), Corrupt> {
        let Some(last) = self.keys().checked_sub(1) else {
            return Ok(());
        };
        let above_low = match self.key(0).cmp_key(self.low()) {
            Ordering::Less => false,
            Ordering::Equal => self.level == 0,
            Ordering::Greater => true,
        };
        let below_high = self
            .high()
            .is_none_or(|high| self.key(last).cmp_key(high).is_lt());
        if !above_low || !below_high {
            return Err(Corrupt::rule(
                Structure::Node,
                "a key lies outside the fences",
            ));
        }
        Ok(())
    }

    fn validate_children(&self) -> Result<(), Corrupt> {
        for index in 0..self.count() {
            let mut reader = Reader::new(self.child_record(index), Structure::Node);
            if Pointer::decode(&mut reader)?.is_none() {
                return Err(Corrupt::rule(Structure::Node, "a child points to no block"));
            }
        }
        Ok(())
    }

    /// The block's bytes.
    pub fn block(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The pointer that names this node.
    pub fn pointer(&self) -> &Pointer {
        &self.pointer
    }

    /// Gives the bytes back.
    pub fn into_bytes(self) -> B {
        self.bytes
    }

    /// Whether it holds entries.
    pub fn is_leaf(&self) -> bool {
        self.level == 0
    }

    /// Steps down to a leaf.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Entries of a leaf, children of a branch.
    pub fn count(&self) -> usize {
        self.count.into()
    }

    /// The tree that the node says it belongs to.
    pub fn tree(&self) -> TreeId {
        TreeId(u64_at(self.block(), layout::TREE))
    }

    /// The opening that wrote it.
    pub fn opening(&self) -> OpeningId {
        OpeningId(u64_at(self.block(), layout::OPENING))
    }

    /// The low fence, inclusive.
    pub fn low(&self) -> &[u8] {
        &self.block()[self.heap_end as usize..self.high_at as usize]
    }

    /// The high fence, exclusive; `None` if there is no upper bound.
    pub fn high(&self) -> Option<&[u8]> {
        self.bounded
            .then(|| &self.block()[self.high_at as usize..self.pointer.logical_bytes as usize])
    }

    /// Whether `key` lies between the fences.
    pub fn covers(&self, key: &[u8]) -> bool {
        self.low() <= key && self.high().is_none_or(|high| key < high)
    }

    /// What all keys of the node begin with.
    pub fn prefix(&self) -> &[u8] {
        &self.block()[layout::HEADER_BYTES..layout::HEADER_BYTES + usize::from(self.prefix_len)]
    }

    /// How many keys: one fewer than children in a branch.
    pub(crate) fn keys(&self) -> usize {
        self.count() - usize::from(self.level > 0)
    }

    pub(crate) fn slot(&self, index: usize) -> usize {
        u32_at(
            self.block(),
            self.slots as usize + index * layout::SLOT_BYTES,
        ) as usize
    }

    /// The heads of keys `from..to`.
    pub(crate) fn heads(&self, from: usize, to: usize) -> &[u8] {
        let at = self.heads as usize;
        &self.block()[at + from * layout::HEAD_BYTES..at + to * layout::HEAD_BYTES]
    }

    /// The slots of keys `from..to`.
    pub(crate) fn slots(&self, from: usize, to: usize) -> &[u8] {
        let at = self.slots as usize;
        &self.block()[at + from * layout::SLOT_BYTES..at + to * layout::SLOT_BYTES]
    }

    /// The records of keys `from..to`, at least one.
    pub(crate) fn records(&self, from: usize, to: usize) -> &[u8] {
        let end = if to < self.keys() {
            self.slot(to)
        } else {
            self.heap_end as usize
        };
        &self.block()[self.slot(from)..end]
    }

    /// The record of key `index`.
    pub(crate) fn record(&self, index: usize) -> &[u8] {
        self.records(index, index + 1)
    }

    fn suffix(&self, index: usize) -> &[u8] {
        let record = self.record(index);
        if self.level > 0 {
            return record;
        }
        let length = usize::from(u16_at(record, 0));
        &record[layout::SUFFIX_LEN_BYTES..layout::SUFFIX_LEN_BYTES + length]
    }

    /// Key `index`: of an entry, or in a branch the separator of child `index + 1`.
    pub(crate) fn key(&self, index: usize) -> KeyRef<'_> {
        KeyRef {
            prefix: self.prefix(),
            suffix: self.suffix(index),
        }
    }

    fn child_stride(&self) -> usize {
        layout::CHILD_BYTES + usize::from(self.aux_len)
    }

    /// Bytes of the child records; none in a leaf.
    fn children_bytes(&self) -> usize {
        if self.is_leaf() {
            return 0;
        }
        self.count() * self.child_stride()
    }

    pub(crate) fn child_record(&self, index: usize) -> &[u8] {
        let stride = self.child_stride();
        let at = self.children as usize + index * stride;
        &self.block()[at..at + stride]
    }

    /// The first key at or above `key`, and whether it is `key`. The index is `keys()` if all
    /// are below.
    ///
    /// Binary search over the heads alone; suffixes are read only where heads are equal.
    pub(crate) fn search(&self, key: &[u8]) -> (usize, bool) {
        let block = self.block();
        let prefix = self.prefix();
        if !key.starts_with(prefix) {
            let past = key > prefix;
            return (if past { self.keys() } else { 0 }, false);
        }
        let suffix = &key[prefix.len()..];
        let head = layout::head_of(suffix);
        let (heads, _) = block[self.heads as usize..self.slots as usize].as_chunks::<4>();
        let mut at = heads.partition_point(|&own| u32::from_le_bytes(own) < head);
        if heads
            .get(at)
            .is_none_or(|&own| u32::from_le_bytes(own) != head)
        {
            return (at, false);
        }
        let ties = heads[at..].partition_point(|&own| u32::from_le_bytes(own) == head);
        let mut end = at + ties;
        while at < end {
            let middle = usize::midpoint(at, end);
            match self.suffix(middle).cmp(suffix) {
                Ordering::Less => at = middle + 1,
                Ordering::Equal => return (middle, true),
                Ordering::Greater => end = middle,
            }
        }
        (at, false)
    }
}

/// The header's fields as they stand.
struct Header {
    kind: u8,
    order: Order,
    level: u8,
    flags: u8,
    count: u16,
    prefix_len: u16,
    block: BlockId,
    tree: TreeId,
    generation: Generation,
    used: u32,
    low_len: u16,
    high_len: u16,
    aux_len: u16,
}

impl Header {
    /// Reads the header of a block that is long enough for it.
    fn read(block: &[u8]) -> Result<Self, Corrupt> {
        let mut reader = Reader::new(&block[layout::MAGIC..layout::HEADER_BYTES], Structure::Node);
        expect("magic", layout::MAGIC_VALUE.into(), reader.u32()?.into())?;
        let header = Self {
            kind: reader.u8()?,
            order: Order(reader.u8()?),
            level: reader.u8()?,
            flags: reader.u8()?,
            count: reader.u16()?,
            prefix_len: reader.u16()?,
            block: BlockId(reader.u64()?),
            tree: TreeId(reader.u64()?),
            generation: {
                let generation = Generation(reader.u64()?);
                reader.u64()?; // the opening is nobody's to judge
                generation
            },
            used: reader.u32()?,
            low_len: reader.u16()?,
            high_len: reader.u16()?,
            aux_len: reader.u16()?,
        };
        reader.zeros(layout::HEADER_BYTES - layout::RESERVED)?;
        Ok(header)
    }

    /// Compares with what the parent says and with itself.
    fn validate(&self, pointer: Option<&Pointer>, tree: Option<TreeId>) -> Result<(), Corrupt> {
        let kind = if self.level == 0 {
            layout::KIND_LEAF
        } else {
            layout::KIND_BRANCH
        };
        expect("kind", kind.into(), self.kind.into())?;
        if let Some(pointer) = pointer {
            expect("order", pointer.order.0.into(), self.order.0.into())?;
            expect("block", pointer.block.0, self.block.0)?;
            expect("generation", pointer.generation.0, self.generation.0)?;
            expect("used", pointer.logical_bytes.into(), self.used.into())?;
        }
        if let Some(tree) = tree {
            expect("tree", tree.0, self.tree.0)?;
        }
        if self.flags > layout::FLAG_UNBOUNDED {
            expect("flags", layout::FLAG_UNBOUNDED.into(), self.flags.into())?;
        }
        if self.flags == layout::FLAG_UNBOUNDED {
            expect("high_len", 0, self.high_len.into())?;
        }
        if self.level == 0 {
            expect("aux_len", 0, self.aux_len.into())?;
        }
        if self.count == 0 {
            expect("count", 1, 0)?;
        }
        Ok(())
    }
}

/// The checksum of the block, which is both the parent's word and the block's own.
fn verify_checksum(block: &[u8], pointer: Option<&Pointer>) -> Result<u32, Corrupt> {
    let got = crc32c::crc32c(&block[layout::MAGIC..]);
    let own = u32_at(block, layout::CHECKSUM);
    for expected in pointer
        .map(|pointer| pointer.checksum)
        .into_iter()
        .chain([own])
    {
        if got != expected {
            let fault = Fault::Checksum { expected, got };
            return Err(Corrupt::new(Structure::Node, fault));
        }
    }
    Ok(got)
}

fn expect(name: &'static str, expected: u64, got: u64) -> Result<(), Corrupt> {
    if expected == got {
        return Ok(());
    }
    Err(Corrupt::field(Structure::Node, name, expected, got))
}

/// Writes everything but keys, children and checksum into a zeroed block.
pub(crate) fn encode_frame(block: &mut [u8], label: &Label, shape: &Shape<'_>) {
    let short = |length: usize| u16::try_from(length).expect("within a node's limits");
    let leaf = shape.level == 0;
    let kind = if leaf {
        layout::KIND_LEAF
    } else {
        layout::KIND_BRANCH
    };
    let high = shape.high.unwrap_or_default();
    assert!(shape.count > 0 && shape.used <= block.len());
    put_at(block, layout::MAGIC, layout::MAGIC_VALUE.to_le_bytes());
    block[layout::KIND] = kind;
    block[layout::ORDER] = label.order.0;
    block[layout::LEVEL] = shape.level;
    block[layout::FLAGS] = if shape.high.is_none() {
        layout::FLAG_UNBOUNDED
    } else {
        0
    };
    put_at(block, layout::COUNT, short(shape.count).to_le_bytes());
    let prefix_len = short(shape.prefix.len());
    put_at(block, layout::PREFIX_LEN, prefix_len.to_le_bytes());
    put_at(block, layout::BLOCK, label.block.0.to_le_bytes());
    put_at(block, layout::TREE, label.tree.0.to_le_bytes());
    put_at(block, layout::GENERATION, label.generation.0.to_le_bytes());
    put_at(block, layout::OPENING, label.opening.0.to_le_bytes());
    let used = u32::try_from(shape.used).expect("a block is under 4 GiB");
    put_at(block, layout::USED, used.to_le_bytes());
    put_at(block, layout::LOW_LEN, short(shape.low.len()).to_le_bytes());
    put_at(block, layout::HIGH_LEN, short(high.len()).to_le_bytes());
    block[layout::HEADER_BYTES..][..shape.prefix.len()].copy_from_slice(shape.prefix);
    let fences = shape.used - shape.low.len() - high.len();
    block[fences..][..shape.low.len()].copy_from_slice(shape.low);
    block[fences + shape.low.len()..][..high.len()].copy_from_slice(high);
}

/// Writes the checksum and gives the pointer that names the node.
pub(crate) fn seal(block: &mut [u8], label: &Label, used: usize) -> Pointer {
    let checksum = crc32c::crc32c(&block[layout::MAGIC..]);
    put_at(block, layout::CHECKSUM, checksum.to_le_bytes());
    Pointer {
        block: label.block,
        order: label.order,
        checksum,
        generation: label.generation,
        logical_bytes: u32::try_from(used).expect("a block is under 4 GiB"),
    }
}

/// Bytes that `a` and `b` begin with alike.
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let (a8, _) = a.as_chunks::<8>();
    let (b8, _) = b.as_chunks::<8>();
    let whole = a8.iter().zip(b8).take_while(|(a, b)| a == b).count() * 8;
    whole
        + a[whole..]
            .iter()
            .zip(&b[whole..])
            .take_while(|(a, b)| a == b)
            .count()
}

#[cfg(test)]
mod tests;
