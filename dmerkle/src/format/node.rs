//! The layout of a node: where its fields stand, for leaf and branch alike.
//! The picture and the tables stand in the section "Node" of `FORMAT.md`.

use super::layout::layout;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;

layout! {
    pub(crate) CHECKSUM "checksum" 0 + 4;
    pub(crate) MAGIC "magic" 4 + 4;
    pub(crate) KIND "kind" 8 + 1;
    pub(crate) ORDER "order" 9 + 1;
    pub(crate) LEVEL "level" 10 + 1;
    pub(crate) FLAGS "flags" 11 + 1;
    pub(crate) COUNT "count" 12 + 2;
    pub(crate) PREFIX_LEN "prefix_len" 14 + 2;
    pub(crate) BLOCK "block" 16 + 8;
    pub(crate) TREE "tree" 24 + 8;
    pub(crate) GENERATION "generation" 32 + 8;
    pub(crate) OPENING "opening" 40 + 8;
    pub(crate) USED "used" 48 + 4;
    pub(crate) LOW_LEN "low_len" 52 + 2;
    pub(crate) HIGH_LEN "high_len" 54 + 2;
    pub(crate) AUX_LEN "aux_len" 56 + 2;
    pub(crate) RESERVED "reserved" 58 + 6;
}

/// Says that the block is a node of this format.
pub const MAGIC_VALUE: u32 = 0x646f_4e44;
/// A node that holds entries.
pub const KIND_LEAF: u8 = 1;
/// A node that holds children.
pub const KIND_BRANCH: u8 = 2;
/// The node's range has no upper bound.
pub const FLAG_UNBOUNDED: u8 = 1;

/// Bytes of a key's head: its first suffix bytes as a number, the first byte most significant.
pub const HEAD_BYTES: usize = 4;
/// Bytes of a slot: where the key's record begins in the block.
pub const SLOT_BYTES: usize = 4;
/// Bytes before a leaf record's suffix: the suffix's length.
pub const SUFFIX_LEN_BYTES: usize = 2;

/// A child's record: pointer, count and sum.
pub mod child {
    super::layout! {
        pub(crate) POINTER "pointer" 0 + 48;
        pub(crate) COUNT "count" 48 + 8;
        pub(crate) SUM "sum" 56 + 16;
    }
}

/// Bytes of a child's record, before its `aux_len` more.
pub const CHILD_BYTES: usize = 72;

/// The head of a key's suffix. Heads order as the suffixes do, except that equal heads say nothing.
#[inline]
pub fn head_of(suffix: &[u8]) -> u32 {
    if let Some(four) = suffix.first_chunk::<4>() {
        return u32::from_le_bytes(*four).swap_bytes();
    }
    let mut four = [0; 4];
    four[..suffix.len()].copy_from_slice(suffix);
    u32::from_le_bytes(four).swap_bytes()
}

/// Where the array of heads begins: behind the prefix, at a multiple of 4.
pub fn heads_at(prefix_len: usize) -> usize {
    (HEADER_BYTES + prefix_len).next_multiple_of(4)
}

/// Used bytes of a leaf. `keys` and `bodies` are total bytes, keys with their prefix.
pub fn leaf_bytes(
    entries: usize,
    keys: usize,
    bodies: usize,
    prefix: usize,
    fences: usize,
) -> usize {
    heads_at(prefix) + entries * (HEAD_BYTES + SLOT_BYTES + SUFFIX_LEN_BYTES) + keys
        - prefix * entries
        + bodies
        + fences
}

/// Used bytes of a branch. `keys` is the total of the separators behind the first child.
pub fn branch_bytes(children: usize, keys: usize, prefix: usize, fences: usize) -> usize {
    let separators = children.saturating_sub(1);
    heads_at(prefix) + separators * (HEAD_BYTES + SLOT_BYTES) + children * CHILD_BYTES + keys
        - prefix * separators
        + fences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_order_as_suffixes_do() {
        let suffixes: [&[u8]; 6] = [b"", b"\0", b"a", b"ab", b"abcde", b"\xff"];
        for pair in suffixes.windows(2) {
            assert!(head_of(pair[0]) <= head_of(pair[1]));
        }
    }
}
