//! The catalog: an ordinary tree that maps each tree's id to its name and root.
//!
//! Invariants: a key is the id as 8 bytes big-endian, so that byte order is id order; a body has no
//! meta and one inline part, the encoded entry; a dropped tree keeps its entry, hidden, until the
//! last of its blocks is given back.

use crate::error::{Corrupt, Structure};
use crate::format::body::{BodyBuilder, BodyRef, PartRef};
use crate::format::bytes::Reader;
use crate::format::layout::layout;
use crate::format::pointer::Pointer;
use crate::format::record::TREE_NAME_BYTES_MAX;
use crate::format::superblock::NUMBER_MAX;
use crate::types::{Generation, Sum, Summary, TreeId};

layout! {
    AT_ROOT "root" 0 + 48;
    AT_COUNT "count" 48 + 8;
    AT_SUM "sum" 56 + 16;
    AT_CREATED "created" 72 + 8;
    AT_FLAGS "flags" 80 + 4;
    AT_NAME_LEN "name_len" 84 + 2;
    AT_ZERO "zero" 86 + 2;
}

/// Bytes of an entry before the name.
pub const CATALOG_HEADER_BYTES: usize = 88;

const FLAG_DROPPED: u32 = 1;

/// What the catalog holds of one tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    /// The tree's name; of a dropped tree, the name that it had.
    pub name: Vec<u8>,
    /// Its root in this generation.
    pub root: Pointer,
    /// Count and sum of its entries.
    pub summary: Summary,
    /// Whether it was dropped, and only waits for its blocks to be given back.
    pub dropped: bool,
    /// The generation that first held it.
    pub created: Generation,
}

/// The catalog's key of a tree.
#[expect(
    clippy::big_endian_bytes,
    reason = "keys are ordered by their bytes, and ids must be"
)]
pub fn catalog_key(tree: TreeId) -> [u8; 8] {
    tree.0.to_be_bytes()
}

/// The tree that a key of the catalog names.
#[expect(
    clippy::big_endian_bytes,
    reason = "keys are ordered by their bytes, and ids must be"
)]
pub fn tree_of_key(key: &[u8]) -> Result<TreeId, Corrupt> {
    let Ok(bytes) = key.try_into() else {
        return field("key length", 8, key.len() as u64);
    };
    let tree = TreeId(u64::from_be_bytes(bytes));
    if tree == TreeId::CATALOG || tree.0 > NUMBER_MAX {
        return field("key", NUMBER_MAX, tree.0);
    }
    Ok(tree)
}

impl CatalogEntry {
    /// The body under which the catalog holds the entry.
    ///
    /// # Panics
    /// Panics on a name over its limit.
    pub fn to_body(&self) -> Vec<u8> {
        assert!(
            self.name.len() <= TREE_NAME_BYTES_MAX,
            "name over its limit"
        );
        let mut out = Vec::with_capacity(CATALOG_HEADER_BYTES + self.name.len());
        self.root.encode(&mut out);
        out.extend_from_slice(&self.summary.count.to_le_bytes());
        out.extend_from_slice(&self.summary.sum.0.to_le_bytes());
        out.extend_from_slice(&self.created.0.to_le_bytes());
        let flags = if self.dropped { FLAG_DROPPED } else { 0 };
        out.extend_from_slice(&flags.to_le_bytes());
        let name_len = u16::try_from(self.name.len()).expect("at most 1024");
        out.extend_from_slice(&name_len.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.name);
        let mut body = BodyBuilder::new(&[]);
        body.inline(&out);
        body.finish()
    }

    /// Reads the entry from its body.
    pub fn from_body(body: BodyRef<'_>) -> Result<Self, Corrupt> {
        let mut parts = body.parts();
        let (Some(PartRef::Inline(bytes)), None) = (parts.next(), parts.next()) else {
            return Err(Corrupt::rule(
                Structure::CatalogEntry,
                "not one inline part",
            ));
        };
        if !body.meta().is_empty() {
            return field("meta_len", 0, body.meta().len() as u64);
        }
        let mut reader = Reader::new(bytes, Structure::CatalogEntry);
        let root = Pointer::decode(&mut reader)?;
        let summary = Summary {
            count: reader.u64()?,
            sum: Sum(reader.u128()?),
        };
        let created = Generation(reader.u64()?);
        let flags = reader.u32()?;
        let name_len = usize::from(reader.u16()?);
        reader.zeros(CATALOG_HEADER_BYTES - AT_ZERO)?;
        if flags & !FLAG_DROPPED != 0 {
            return field("flags", FLAG_DROPPED.into(), flags.into());
        }
        if name_len > TREE_NAME_BYTES_MAX {
            return field("name_len", TREE_NAME_BYTES_MAX as u64, name_len as u64);
        }
        if root.is_none() && summary != Summary::EMPTY {
            return field("count", 0, summary.count);
        }
        let name = reader.take(name_len)?.to_vec();
        if !reader.rest().is_empty() {
            return Err(Corrupt::rule(
                Structure::CatalogEntry,
                "bytes follow the name",
            ));
        }
        Ok(Self {
            name,
            root,
            summary,
            dropped: flags & FLAG_DROPPED != 0,
            created,
        })
    }
}

fn field<T>(name: &'static str, expected: u64, got: u64) -> Result<T, Corrupt> {
    Err(Corrupt::field(Structure::CatalogEntry, name, expected, got))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BlockId, Order};
    use proptest::prelude::*;

    #[test]
    fn an_entry_is_read_back_and_no_truncation_is() {
        let entry = CatalogEntry {
            name: b"images".to_vec(),
            root: Pointer {
                block: BlockId(900),
                order: Order(2),
                checksum: 1,
                generation: Generation(3),
                logical_bytes: 777,
            },
            summary: Summary {
                count: 4,
                sum: Sum(1 << 90),
            },
            dropped: true,
            created: Generation(2),
        };
        let body = entry.to_body();
        let body = BodyRef::decode(&body).unwrap();
        assert_eq!(CatalogEntry::from_body(body), Ok(entry));
        let Some(PartRef::Inline(bytes)) = body.parts().next() else {
            panic!("an inline part");
        };
        for end in 0..bytes.len() {
            let mut cut = BodyBuilder::new(&[]);
            cut.inline(&bytes[..end]);
            let cut = cut.finish();
            assert!(CatalogEntry::from_body(BodyRef::decode(&cut).unwrap()).is_err());
        }
    }

    #[test]
    fn keys_order_as_ids_do() {
        assert!(catalog_key(TreeId(255)) < catalog_key(TreeId(256)));
        assert_eq!(tree_of_key(&catalog_key(TreeId(256))), Ok(TreeId(256)));
        assert!(tree_of_key(&[0; 8]).is_err() && tree_of_key(&[1; 7]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_parts_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let mut body = BodyBuilder::new(&[]);
            body.inline(&bytes);
            let body = body.finish();
            let _ = CatalogEntry::from_body(BodyRef::decode(&body).unwrap());
        }
    }
}
