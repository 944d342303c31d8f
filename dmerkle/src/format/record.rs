//! A batch: the record of one commit in the log, over any trees, all of it or nothing.
//!
//! ```text
//! batch: len u32 | ops u32 | flags u32 | operations
//! operation: header of 16 bytes | fingerprint (16, if replaced = 2) | key | body
//! ```
//!
//! Invariants: `len` counts the whole batch; operations fill it exactly; keys are at most 4096
//! bytes, names of trees at most 1024; bodies are valid; none names the catalog, which only a
//! checkpoint writes. A batch holds bodies exactly as leaves do.

use crate::error::{Corrupt, Structure};
use crate::format::body::{BodyBuilder, BodyRef, KEY_BYTES_MAX};
use crate::format::bytes::{Reader, put_at};
use crate::format::layout::layout;
use crate::format::superblock::NUMBER_MAX;
use crate::types::{Sum, TreeId};
use std::ops::Range;

/// Bytes of a batch's header.
pub const BATCH_HEADER_BYTES: usize = 12;

/// Bytes of an operation's header.
pub const OPERATION_HEADER_BYTES: usize = 16;

/// The longest name of a tree, in bytes.
pub const TREE_NAME_BYTES_MAX: usize = 1024;

layout! {
    AT_LEN "len" 0 + 4;
    AT_OPS "ops" 4 + 4;
    AT_FLAGS "flags" 8 + 4;
}

/// The layout of an operation's header, which is pushed and read in order.
pub mod operation {
    use crate::format::layout::layout;
    layout! {
        AT_KIND "kind" 0 + 1;
        AT_REPLACED "replaced" 1 + 1;
        AT_KEY_LEN "key_len" 2 + 2;
        pub(super) AT_BODY_LEN "body_len" 4 + 4;
        AT_TREE "tree" 8 + 8;
    }
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
const CREATE_TREE: u8 = 3;
const DROP_TREE: u8 = 4;

/// What is known of the entry that an operation replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Replaced {
    /// Nothing: a blind write.
    Unknown,
    /// There was none.
    Absent,
    /// There was one, with this fingerprint.
    Fingerprint(Sum),
}

/// One operation of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Sets the entry of a key.
    Put {
        /// In which tree.
        tree: TreeId,
        /// The key.
        key: &'a [u8],
        /// Meta and parts.
        body: BodyRef<'a>,
        /// What it replaces.
        replaced: Replaced,
    },
    /// Removes the entry of a key, if there is one.
    Delete {
        /// In which tree.
        tree: TreeId,
        /// The key.
        key: &'a [u8],
        /// What it removes.
        replaced: Replaced,
    },
    /// Makes an empty tree.
    CreateTree {
        /// Its id, never used before.
        tree: TreeId,
        /// Its name.
        name: &'a [u8],
    },
    /// Drops a tree with all its entries.
    DropTree {
        /// Its id.
        tree: TreeId,
    },
}

/// Builds the encoding of a batch; can be cleared and used again.
#[derive(Debug, Clone)]
pub struct BatchWriter {
    bytes: Vec<u8>,
    ops: u32,
}

impl Default for BatchWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchWriter {
    /// A batch without operations.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; BATCH_HEADER_BYTES],
            ops: 0,
        }
    }

    /// Forgets all operations, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.truncate(BATCH_HEADER_BYTES);
        self.ops = 0;
    }

    /// How many operations it holds.
    pub fn ops(&self) -> u32 {
        self.ops
    }

    /// Bytes of the batch so far, its header included.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds an operation.
    ///
    /// # Panics
    /// Panics on a key, name or tree that the format does not hold.
    pub fn push(&mut self, operation: &Operation<'_>) {
        match *operation {
            Operation::Put {
                tree,
                key,
                body,
                replaced,
            } => {
                assert!(key.len() <= KEY_BYTES_MAX, "key over its limit");
                self.push_raw(PUT, tree, key, body.as_bytes(), replaced);
            }
            Operation::Delete {
                tree,
                key,
                replaced,
            } => {
                assert!(key.len() <= KEY_BYTES_MAX, "key over its limit");
                self.push_raw(DELETE, tree, key, &[], replaced);
            }
            Operation::CreateTree { tree, name } => {
                assert!(name.len() <= TREE_NAME_BYTES_MAX, "name over its limit");
                self.push_raw(CREATE_TREE, tree, name, &[], Replaced::Unknown);
            }
            Operation::DropTree { tree } => {
                self.push_raw(DROP_TREE, tree, &[], &[], Replaced::Unknown);
            }
        }
    }

    /// Adds a put whose body `build` makes in place, beginning with `meta`. Returns where its key
    /// and its body stand in the encoded batch. After an error it is as it was, but empty of
    /// operations.
    ///
    /// # Panics
    /// Panics on a key, meta or tree that the format does not hold.
    pub fn put<E>(
        &mut self,
        tree: TreeId,
        key: &[u8],
        replaced: Replaced,
        meta: &[u8],
        build: impl FnOnce(BodyBuilder) -> Result<BodyBuilder, E>,
    ) -> Result<(Range<usize>, Range<usize>), E> {
        assert!(key.len() <= KEY_BYTES_MAX, "key over its limit");
        let header = self.bytes.len();
        self.push_raw(PUT, tree, key, &[], replaced);
        let body = self.bytes.len();
        let builder = BodyBuilder::behind(std::mem::take(&mut self.bytes), meta);
        match build(builder) {
            Ok(builder) => self.bytes = builder.finish(),
            Err(error) => {
                *self = Self::new();
                return Err(error);
            }
        }
        let end = self.bytes.len();
        let body_len = u32::try_from(end - body).expect("a body is at most 4 GiB");
        put_at(
            &mut self.bytes[header..],
            operation::AT_BODY_LEN,
            body_len.to_le_bytes(),
        );
        Ok((body - key.len()..body, body..end))
    }

    fn push_raw(&mut self, kind: u8, tree: TreeId, key: &[u8], body: &[u8], replaced: Replaced) {
        assert_ne!(
            tree,
            TreeId::CATALOG,
            "only a checkpoint writes the catalog"
        );
        let key_len = u16::try_from(key.len()).expect("checked by the caller");
        let body_len = u32::try_from(body.len()).expect("a body is at most 4 GiB");
        let (replaced, sum) = match replaced {
            Replaced::Unknown => (0, None),
            Replaced::Absent => (1, None),
            Replaced::Fingerprint(sum) => (2, Some(sum)),
        };
        self.bytes.reserve(32 + key.len() + body.len());
        self.bytes.extend_from_slice(&[kind, replaced]);
        self.bytes.extend_from_slice(&key_len.to_le_bytes());
        self.bytes.extend_from_slice(&body_len.to_le_bytes());
        self.bytes.extend_from_slice(&tree.0.to_le_bytes());
        if let Some(sum) = sum {
            self.bytes.extend_from_slice(&sum.0.to_le_bytes());
        }
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(body);
        self.ops = self.ops.checked_add(1).expect("at most 2^32 operations");
    }

    /// The encoded batch. More operations may be added afterwards.
    ///
    /// # Panics
    /// Panics on a batch of 4 GiB.
    pub fn finish(&mut self) -> &[u8] {
        let length = u32::try_from(self.bytes.len()).expect("a batch is under 4 GiB");
        put_at(&mut self.bytes, AT_LEN, length.to_le_bytes());
        put_at(&mut self.bytes, AT_OPS, self.ops.to_le_bytes());
        put_at(&mut self.bytes, AT_FLAGS, [0; 4]);
        &self.bytes
    }

    /// The encoded batch, to be kept.
    ///
    /// # Panics
    /// Panics on a batch of 4 GiB.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.finish();
        self.bytes
    }
}

/// A validated, encoded batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRef<'a> {
    bytes: &'a [u8],
    ops: u32,
}

impl<'a> BatchRef<'a> {
    /// Reads a batch that fills `bytes`, every operation included.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Corrupt> {
        let mut reader = Reader::new(bytes, Structure::LogRecord);
        let length = reader.u32()?;
        let ops = reader.u32()?;
        let flags = reader.u32()?;
        if u64::from(length) != bytes.len() as u64 {
            return field("len", bytes.len() as u64, length.into());
        }
        if flags != 0 {
            return field("flags", 0, flags.into());
        }
        for _ in 0..ops {
            decode_operation(&mut reader, Check::All)?;
        }
        if !reader.rest().is_empty() {
            let rule = "bytes follow the last operation";
            return Err(Corrupt::rule(Structure::LogRecord, rule));
        }
        Ok(Self { bytes, ops })
    }

    /// The encoded bytes.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many operations.
    pub fn ops_len(&self) -> u32 {
        self.ops
    }

    /// The operations in order.
    pub fn ops(&self) -> Operations<'a> {
        Operations {
            reader: Reader::new(&self.bytes[BATCH_HEADER_BYTES..], Structure::LogRecord),
            left: self.ops,
        }
    }
}

/// Bytes that the batch at the front of `bytes` says it has, if its header is there and the
/// length is one that a batch can have.
pub fn batch_len(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(AT_LEN..AT_OPS)?;
    let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
    (length >= BATCH_HEADER_BYTES).then_some(length)
}

/// Iterates over the operations of a validated batch.
#[derive(Debug, Clone)]
pub struct Operations<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl<'a> Iterator for Operations<'a> {
    type Item = Operation<'a>;

    fn next(&mut self) -> Option<Operation<'a>> {
        self.left = self.left.checked_sub(1)?;
        let operation = decode_operation(&mut self.reader, Check::Trust);
        Some(operation.expect("the batch was validated"))
    }
}

/// Whether bodies are validated, or were before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    All,
    Trust,
}

fn decode_operation<'a>(reader: &mut Reader<'a>, check: Check) -> Result<Operation<'a>, Corrupt> {
    let kind = reader.u8()?;
    let replaced = reader.u8()?;
    let key_len = reader.u16()? as usize;
    let body_len = reader.u32()? as usize;
    let tree = TreeId(reader.u64()?);
    if tree == TreeId::CATALOG || tree.0 > NUMBER_MAX {
        return field("tree", NUMBER_MAX, tree.0);
    }
    if kind > DELETE && replaced != 0 {
        return field("replaced", 0, replaced.into());
    }
    if kind != PUT && body_len != 0 {
        return field("body_len", 0, body_len as u64);
    }
    let key_len_max = match kind {
        PUT | DELETE => KEY_BYTES_MAX,
        CREATE_TREE => TREE_NAME_BYTES_MAX,
        DROP_TREE => 0,
        other => return field("kind", PUT.into(), other.into()),
    };
    if key_len > key_len_max {
        return field("key_len", key_len_max as u64, key_len as u64);
    }
    let replaced = match replaced {
        0 => Replaced::Unknown,
        1 => Replaced::Absent,
        2 => Replaced::Fingerprint(Sum(reader.u128()?)),
        other => return field("replaced", 2, other.into()),
    };
    let key = reader.take(key_len)?;
    let body = reader.take(body_len)?;
    Ok(match kind {
        PUT => Operation::Put {
            tree,
            key,
            body: match check {
                Check::All => BodyRef::decode(body)?,
                Check::Trust => BodyRef::trusted(body),
            },
            replaced,
        },
        DELETE => Operation::Delete {
            tree,
            key,
            replaced,
        },
        CREATE_TREE => Operation::CreateTree { tree, name: key },
        _ => Operation::DropTree { tree },
    })
}

fn field<T>(name: &'static str, expected: u64, got: u64) -> Result<T, Corrupt> {
    Err(Corrupt::field(Structure::LogRecord, name, expected, got))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::body::BodyBuilder;
    use proptest::prelude::*;

    fn replaced() -> impl Strategy<Value = Replaced> {
        prop_oneof![
            Just(Replaced::Unknown),
            Just(Replaced::Absent),
            any::<u128>().prop_map(|sum| Replaced::Fingerprint(Sum(sum))),
        ]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back_and_no_truncation_is(
            ops in prop::collection::vec((0u8..4, 1u64..9, prop::collection::vec(any::<u8>(), 0..20), replaced()), 0..6),
        ) {
            let bodies: Vec<Vec<u8>> = ops.iter().map(|(_, _, key, _)| {
                let mut body = BodyBuilder::new(key);
                body.inline(key).inline(b"x");
                body.finish()
            }).collect();
            let expected: Vec<Operation<'_>> = ops.iter().zip(&bodies).map(|((kind, tree, key, replaced), body)| {
                let (tree, replaced) = (TreeId(*tree), *replaced);
                match kind {
                    0 => Operation::Put { tree, key, body: BodyRef::trusted(body), replaced },
                    1 => Operation::Delete { tree, key, replaced },
                    2 => Operation::CreateTree { tree, name: key },
                    _ => Operation::DropTree { tree },
                }
            }).collect();
            let mut writer = BatchWriter::new();
            for operation in &expected {
                writer.push(operation);
            }
            let bytes = writer.finish().to_vec();
            prop_assert_eq!(batch_len(&bytes), Some(bytes.len()));
            let batch = BatchRef::decode(&bytes).unwrap();
            prop_assert_eq!(batch.ops().collect::<Vec<_>>(), expected);
            for end in 0..bytes.len() {
                let mut cut = bytes[..end].to_vec();
                prop_assert!(BatchRef::decode(&cut).is_err());
                if end >= 4 {
                    // The length agrees, the operations do not.
                    let length = u32::try_from(end).unwrap();
                    put_at(&mut cut, AT_LEN, length.to_le_bytes());
                    prop_assert!(BatchRef::decode(&cut).is_err());
                }
            }
        }

        #[test]
        fn a_tree_that_no_store_counts_to_is_refused(tree in NUMBER_MAX + 1..) {
            let mut writer = BatchWriter::new();
            writer.push(&Operation::CreateTree { tree: TreeId(tree), name: b"t" });
            prop_assert!(BatchRef::decode(writer.finish()).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(length) = u32::try_from(bytes.len()) && length >= 12 {
                put_at(&mut bytes, AT_LEN, length.to_le_bytes());
                put_at(&mut bytes, AT_FLAGS, [0; 4]);
            }
            if let Ok(batch) = BatchRef::decode(&bytes) {
                let _ = batch.ops().count();
            }
        }
    }
}
