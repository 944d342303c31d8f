//! The layout of a node: where its fields stand, for leaf and branch alike.
#![doc = include_str!("../../FORMAT-node.md")]

/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;

/// CRC32C of all the block behind this field.
pub const CHECKSUM: usize = 0;
/// [`MAGIC_VALUE`].
pub const MAGIC: usize = 4;
/// [`KIND_LEAF`] or [`KIND_BRANCH`].
pub const KIND: usize = 8;
/// The block's order.
pub const ORDER: usize = 9;
/// Steps down to a leaf: 0 in a leaf.
pub const LEVEL: usize = 10;
/// [`FLAG_UNBOUNDED`] or 0.
pub const FLAGS: usize = 11;
/// Entries of a leaf, children of a branch.
pub const COUNT: usize = 12;
/// Bytes that all keys of the node begin with.
pub const PREFIX_LEN: usize = 14;
/// The block's own first unit.
pub const BLOCK: usize = 16;
/// The tree that the node belongs to.
pub const TREE: usize = 24;
/// The checkpoint that wrote it.
pub const GENERATION: usize = 32;
/// The opening that wrote it.
pub const OPENING: usize = 40;
/// Bytes of the block in use; the rest is zero.
pub const USED: usize = 48;
/// Bytes of the low fence.
pub const LOW_LEN: usize = 52;
/// Bytes of the high fence; 0 if unbounded.
pub const HIGH_LEN: usize = 54;
/// Bytes per child behind its sum; 0 in a leaf, and 0 today.
pub const AUX_LEN: usize = 56;
/// Zero up to the header's end.
pub const RESERVED: usize = 58;

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

/// Where a child's pointer stands in its record.
pub const CHILD_POINTER: usize = 0;
/// How many entries are below the child.
pub const CHILD_COUNT: usize = 48;
/// The sum of the fingerprints below the child.
pub const CHILD_SUM: usize = 56;
/// Bytes of a child's record, before its `aux_len` more.
pub const CHILD_BYTES: usize = 72;

/// The head of a key's suffix. Heads order as the suffixes do, except that equal heads say nothing.
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

    /// The rows `offset | size | field` of the document's tables, below the given heading.
    fn rows(heading: &str) -> Vec<(usize, usize, String)> {
        let document = include_str!("../../FORMAT-node.md");
        let section = document.split(heading).nth(1).expect("the heading stands");
        section
            .lines()
            .skip_while(|line| !line.starts_with("| offset"))
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .map(|line| {
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                let field = cells[3].trim_matches('`').to_owned();
                (cells[1].parse().unwrap(), cells[2].parse().unwrap(), field)
            })
            .collect()
    }

    fn compare(rows: &[(usize, usize, String)], fields: &[(&str, usize)], total: usize) {
        let mut at = 0;
        assert_eq!(rows.len(), fields.len());
        for (row, field) in rows.iter().zip(fields) {
            assert_eq!((row.2.as_str(), row.0), *field);
            assert_eq!(row.0, at, "no gap before {}", row.2);
            at += row.1;
        }
        assert_eq!(at, total);
    }

    #[test]
    fn the_document_and_the_constants_agree() {
        compare(
            &rows("### Header"),
            &[
                ("checksum", CHECKSUM),
                ("magic", MAGIC),
                ("kind", KIND),
                ("order", ORDER),
                ("level", LEVEL),
                ("flags", FLAGS),
                ("count", COUNT),
                ("prefix_len", PREFIX_LEN),
                ("block", BLOCK),
                ("tree", TREE),
                ("generation", GENERATION),
                ("opening", OPENING),
                ("used", USED),
                ("low_len", LOW_LEN),
                ("high_len", HIGH_LEN),
                ("aux_len", AUX_LEN),
                ("reserved", RESERVED),
            ],
            HEADER_BYTES,
        );
        compare(
            &rows("### Child record"),
            &[
                ("pointer", CHILD_POINTER),
                ("count", CHILD_COUNT),
                ("sum", CHILD_SUM),
            ],
            CHILD_BYTES,
        );
    }

    #[test]
    fn heads_order_as_suffixes_do() {
        let suffixes: [&[u8]; 6] = [b"", b"\0", b"a", b"ab", b"abcde", b"\xff"];
        for pair in suffixes.windows(2) {
            assert!(head_of(pair[0]) <= head_of(pair[1]));
        }
    }
}
