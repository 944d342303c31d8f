//! A pointer to a node: where it is, and the checksum that its bytes must give.
//!
//! The checksum is kept here, in the parent, because one kept only inside a block misses a write
//! that was lost or that went elsewhere. `codec`, `key_id`, `logical_bytes` and `check` are
//! reserved, so that compression and encryption need no new format; today they are 0, 0, the
//! node's used bytes, and 0.

use crate::error::{Corrupt, Structure};
use crate::format::bytes::Reader;
use crate::types::{BlockId, Generation, Order};

/// Bytes of an encoded pointer.
pub const POINTER_BYTES: usize = 48;

/// Where a node is and how to know it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Pointer {
    /// The node's first unit; none for an empty tree.
    pub block: BlockId,
    /// The size of its block.
    pub order: Order,
    /// CRC32C of the block behind its checksum field.
    pub checksum: u32,
    /// The checkpoint that wrote it.
    pub generation: Generation,
    /// Bytes of the block that are used; the rest is zero.
    pub logical_bytes: u32,
}

impl Pointer {
    /// Of an empty tree.
    pub const NONE: Self = Self {
        block: BlockId::NONE,
        order: Order(0),
        checksum: 0,
        generation: Generation(0),
        logical_bytes: 0,
    };

    /// Whether it points to nothing.
    #[inline]
    pub fn is_none(&self) -> bool {
        self.block.is_none()
    }

    /// Appends the encoding to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.block.0.to_le_bytes());
        out.push(self.order.0);
        out.push(0); // codec: plain
        out.extend_from_slice(&0u16.to_le_bytes()); // key id: none
        out.extend_from_slice(&self.checksum.to_le_bytes());
        out.extend_from_slice(&self.generation.0.to_le_bytes());
        out.extend_from_slice(&self.logical_bytes.to_le_bytes());
        out.extend_from_slice(&[0; 4 + 16]); // padding, check
    }

    /// Reads one pointer.
    #[inline]
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Corrupt> {
        let block = BlockId(reader.u64()?);
        let order = Order(reader.u8()?);
        let codec = reader.u8()?;
        let key_id = reader.u16()?;
        let checksum = reader.u32()?;
        let generation = Generation(reader.u64()?);
        let logical_bytes = reader.u32()?;
        reader.zeros(4 + 16)?;
        if codec != 0 || key_id != 0 {
            return Err(Corrupt::field(
                Structure::Node,
                "codec",
                0,
                u64::from(codec) | u64::from(key_id) << 8,
            ));
        }
        if block > BlockId::MAX {
            return Err(Corrupt::field(
                Structure::Node,
                "block",
                BlockId::MAX.0,
                block.0,
            ));
        }
        if order.0 > 16 {
            return Err(Corrupt::field(Structure::Node, "order", 16, order.0.into()));
        }
        Ok(Self {
            block,
            order,
            checksum,
            generation,
            logical_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block so far away that its place in the file was no number panicked whoever read it.
    #[test]
    fn a_block_beyond_any_file_is_refused() {
        let read = |block| {
            let mut bytes = Vec::new();
            Pointer {
                block: BlockId(block),
                ..Pointer::NONE
            }
            .encode(&mut bytes);
            Pointer::decode(&mut Reader::new(&bytes, Structure::Node))
        };
        assert!(read(BlockId::MAX.0).is_ok());
        assert!(BlockId::MAX.0.checked_mul(65_536).is_some());
        assert!(read(BlockId::MAX.0 + 1).is_err() && read(u64::MAX).is_err());
    }
}
