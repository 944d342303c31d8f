//! The body of an entry: its meta and its parts, encoded the same way in a leaf, in a log record
//! and in a memtable, so that it is encoded once and then only copied.
//!
//! ```text
//! offset size field
//! 0       2   meta_len   0 to 1024
//! 2       1   parts      0 to 255
//! 3       .   meta
//! then per part:
//! 0       1   kind       0 = inline, 1 = extent
//! inline: 4 length, then the bytes;  extent: see `extent`
//! ```
//!
//! Invariants: meta is at most 1 KiB; a part held as an extent is longer than 1024 bytes; nothing
//! follows the last part.

use crate::error::{Corrupt, Structure};
use crate::format::bytes::{Reader, u16_at};
use crate::format::extent::ExtentRef;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 4096;
/// The longest meta, in bytes.
pub const META_BYTES_MAX: usize = 1024;
/// The most parts of an entry.
pub const PARTS_MAX: usize = 255;
/// A part this long or shorter is always inline, and enters its entry's fingerprint as it is.
pub const INLINE_ALWAYS_BYTES: usize = 1024;

const INLINE: u8 = 0;
const EXTENT: u8 = 1;

/// One part of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartRef<'a> {
    /// The part's bytes.
    Inline(&'a [u8]),
    /// Where the part's bytes are.
    Extent(ExtentRef<'a>),
}

impl PartRef<'_> {
    /// Bytes of the part.
    pub fn length(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Extent(extent) => extent.length(),
        }
    }
}

/// A validated, encoded body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyRef<'a> {
    bytes: &'a [u8],
}

impl<'a> BodyRef<'a> {
    /// Reads a body that fills `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Corrupt> {
        let mut reader = Reader::new(bytes, Structure::Body);
        let meta_len = reader.u16()? as usize;
        let parts = reader.u8()?;
        if meta_len > META_BYTES_MAX {
            return Err(Corrupt::field(
                Structure::Body,
                "meta_len",
                META_BYTES_MAX as u64,
                meta_len as u64,
            ));
        }
        reader.take(meta_len)?;
        for _ in 0..parts {
            decode_part(&mut reader)?;
        }
        if !reader.rest().is_empty() {
            return Err(Corrupt::rule(Structure::Body, "bytes follow the last part"));
        }
        Ok(Self { bytes })
    }

    /// Takes bytes that [`BodyRef::decode`] has accepted before (or [`BodyBuilder`] has made) and
    /// that nobody has touched since. On other bytes the accessors may panic.
    #[inline]
    pub fn trusted(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The encoded bytes.
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The entry's meta.
    #[inline]
    pub fn meta(&self) -> &'a [u8] {
        &self.bytes[3..3 + self.meta_len()]
    }

    #[inline]
    fn meta_len(&self) -> usize {
        u16_at(self.bytes, 0).into()
    }

    /// How many parts.
    #[inline]
    pub fn parts_len(&self) -> usize {
        self.bytes[2].into()
    }

    /// The parts in order.
    #[inline]
    pub fn parts(&self) -> Parts<'a> {
        Parts {
            reader: Reader::new(&self.bytes[3 + self.meta_len()..], Structure::Body),
            left: self.parts_len(),
        }
    }

    /// The extents among the parts, in order.
    pub fn extents(&self) -> impl Iterator<Item = ExtentRef<'a>> + use<'a> {
        self.parts().filter_map(|part| match part {
            PartRef::Inline(_) => None,
            PartRef::Extent(extent) => Some(extent),
        })
    }
}

/// Iterates over the parts of a validated body.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl<'a> Iterator for Parts<'a> {
    type Item = PartRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<PartRef<'a>> {
        self.left = self.left.checked_sub(1)?;
        Some(decode_part(&mut self.reader).expect("the body was validated"))
    }
}

#[inline]
fn decode_part<'a>(reader: &mut Reader<'a>) -> Result<PartRef<'a>, Corrupt> {
    match reader.u8()? {
        INLINE => {
            let length = reader.u32()? as usize;
            Ok(PartRef::Inline(reader.take(length)?))
        }
        EXTENT => {
            let extent = ExtentRef::decode(reader)?;
            if extent.length() <= INLINE_ALWAYS_BYTES as u64 {
                return Err(Corrupt::field(
                    Structure::Body,
                    "extent length",
                    INLINE_ALWAYS_BYTES as u64 + 1,
                    extent.length(),
                ));
            }
            Ok(PartRef::Extent(extent))
        }
        kind => Err(Corrupt::field(Structure::Body, "kind", 1, kind.into())),
    }
}

/// Builds the encoding of a body.
#[derive(Debug, Clone)]
pub struct BodyBuilder {
    bytes: Vec<u8>,
    /// Where the body begins.
    start: usize,
}

impl BodyBuilder {
    /// A body with `meta` and no part.
    ///
    /// # Panics
    /// Panics if `meta` is over [`META_BYTES_MAX`].
    pub fn new(meta: &[u8]) -> Self {
        Self::behind(Vec::with_capacity(3 + meta.len() + 64), meta)
    }

    /// The same behind what `bytes` hold already, so that nothing has to be copied there.
    ///
    /// # Panics
    /// Panics if `meta` is over [`META_BYTES_MAX`].
    pub fn behind(mut bytes: Vec<u8>, meta: &[u8]) -> Self {
        assert!(meta.len() <= META_BYTES_MAX, "meta over its limit");
        let start = bytes.len();
        let meta_len = u16::try_from(meta.len()).expect("at most 1024");
        bytes.extend_from_slice(&meta_len.to_le_bytes());
        bytes.push(0);
        bytes.extend_from_slice(meta);
        Self { bytes, start }
    }

    fn count_part(&mut self) {
        let parts = &mut self.bytes[self.start + 2];
        *parts = parts.checked_add(1).expect("at most 255 parts");
    }

    /// Adds an inline part.
    ///
    /// # Panics
    /// Panics past [`PARTS_MAX`] parts, or 4 GiB.
    pub fn inline(&mut self, part: &[u8]) -> &mut Self {
        self.count_part();
        self.bytes.push(INLINE);
        let length = u32::try_from(part.len()).expect("an inline part is short");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(part);
        self
    }

    /// Adds a part that is an extent: `reference` is what [`super::extent::encode_extent`] made.
    ///
    /// # Panics
    /// Panics past [`PARTS_MAX`] parts.
    pub fn extent(&mut self, reference: &[u8]) -> &mut Self {
        self.count_part();
        self.bytes.push(EXTENT);
        self.bytes.extend_from_slice(reference);
        self
    }

    /// Adds a part as it stands in another body.
    pub fn part(&mut self, part: PartRef<'_>) -> &mut Self {
        match part {
            PartRef::Inline(bytes) => self.inline(bytes),
            PartRef::Extent(extent) => self.extent(extent.as_bytes()),
        }
    }

    /// The encoded body, behind what was there before it.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::extent::encode_extent;
    use crate::geometry::Geometry;
    use crate::types::BlockId;

    #[test]
    fn what_was_built_is_read_back() {
        let g = Geometry::tiny();
        let mut reference = Vec::new();
        encode_extent(&g, BlockId(99), 2500, &[7; 32], &[1, 2, 3], &mut reference);
        let mut body = BodyBuilder::new(b"meta");
        body.inline(b"one").extent(&reference).inline(b"");
        let bytes = body.finish();
        let body = BodyRef::decode(&bytes).unwrap();
        assert_eq!(body.meta(), b"meta");
        let parts: Vec<_> = body.parts().collect();
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[0], PartRef::Inline(b"one"));
        assert_eq!(parts[1].length(), 2500);
        assert_eq!(body.extents().next().unwrap().run(&g).units, 5);
        assert_eq!(parts[2], PartRef::Inline(b""));
    }

    #[test]
    fn every_truncation_is_refused() {
        let mut body = BodyBuilder::new(b"m");
        body.inline(b"part");
        let bytes = body.finish();
        for end in 0..bytes.len() {
            assert!(BodyRef::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
}
