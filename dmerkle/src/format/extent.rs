//! A reference to an extent: the contiguous run of units that holds one part too big for a leaf.
//!
//! The same bytes stand in the leaf and in the log record. The extent itself is the part's bytes
//! and zero padding to a whole unit, nothing else, so that it can be handed out without a copy;
//! it is known by its hash and by a CRC32C per chunk, kept here.

use crate::error::{Corrupt, Fault, Structure};
use crate::format::bytes::{Reader, u32_at};
use crate::geometry::Geometry;
use crate::types::{BlockId, Run};

/// Bytes of an encoded reference before its chunk checksums.
pub const EXTENT_HEADER_BYTES: usize = 72;

/// The longest part, in bytes.
pub const PART_BYTES_MAX: u64 = 256 << 20;

/// A validated, encoded reference to an extent.
///
/// ```text
/// offset size field
///  0      8   start          first unit
///  8      4   length         bytes of the part
/// 12      4   stored_length  bytes on disk (equal to length: codec 0)
/// 16      1   codec          0
/// 17      1   chunk_shift    log2 of the chunk's bytes
/// 18      2   key_id         0
/// 20      4   chunks         how many checksums follow
/// 24     32   hash           BLAKE3-256 of the part's bytes
/// 56     16   check          0
/// 72      4n  checksums      CRC32C of each chunk of the part's bytes
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtentRef<'a> {
    bytes: &'a [u8],
}

impl<'a> ExtentRef<'a> {
    /// Reads one reference, checksums included.
    pub fn decode(reader: &mut Reader<'a>) -> Result<Self, Corrupt> {
        let whole = reader.rest();
        let begin = reader.position();
        let start = reader.u64()?;
        let length = reader.u32()?;
        let stored = reader.u32()?;
        let codec = reader.u8()?;
        let chunk_shift = reader.u8()?;
        let key_id = reader.u16()?;
        let chunks = reader.u32()?;
        reader.take(32)?;
        reader.zeros(16)?;
        let field = |name, expected: u64, got: u64| {
            Err(Corrupt::field(Structure::Extent, name, expected, got))
        };
        if start == 0 || start > BlockId::MAX.0 {
            return field("start", 1, start);
        }
        if length == 0 || u64::from(length) > PART_BYTES_MAX {
            return field("length", PART_BYTES_MAX, length.into());
        }
        if stored != length {
            return field("stored_length", length.into(), stored.into());
        }
        if codec != 0 || key_id != 0 {
            return field("codec", 0, u64::from(codec) | u64::from(key_id) << 8);
        }
        if !(9..=28).contains(&chunk_shift) {
            return field("chunk_shift", 14, chunk_shift.into());
        }
        let expected = u64::from(length).div_ceil(1 << chunk_shift);
        if u64::from(chunks) != expected || chunks > 64 {
            return field("chunks", expected, chunks.into());
        }
        reader.take(chunks as usize * 4)?;
        Ok(Self {
            bytes: &whole[..reader.position() - begin],
        })
    }

    /// The encoded bytes, as they stand in leaf and log.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The first unit.
    pub fn start(&self) -> BlockId {
        BlockId(u64::from_le_bytes(
            self.bytes[0..8].try_into().expect("validated"),
        ))
    }

    /// Bytes of the part.
    pub fn length(&self) -> u64 {
        u32_at(self.bytes, 8).into()
    }

    /// The units that the extent takes.
    pub fn run(&self, geometry: &Geometry) -> Run {
        Run {
            start: self.start(),
            units: u32::try_from(geometry.units_for(self.length())).expect("256 MiB of units"),
        }
    }

    /// BLAKE3-256 of the part's bytes.
    pub fn hash(&self) -> &'a [u8; 32] {
        self.bytes[24..56].try_into().expect("validated")
    }

    /// Bytes of a chunk; the last one may be shorter.
    pub fn chunk_bytes(&self) -> u64 {
        1 << self.bytes[17]
    }

    /// How many chunks.
    pub fn chunks(&self) -> usize {
        u32_at(self.bytes, 20) as usize
    }

    /// CRC32C of chunk `index`.
    pub fn chunk_checksum(&self, index: usize) -> u32 {
        u32_at(self.bytes, EXTENT_HEADER_BYTES + 4 * index)
    }

    /// Whether `part`, the whole part as read from disk, is what was written: length and every
    /// chunk's checksum.
    pub fn verify(&self, part: &[u8]) -> Result<(), Corrupt> {
        if part.len() as u64 != self.length() {
            return Err(Corrupt::new(
                Structure::Extent,
                Fault::Truncated {
                    need: self.length(),
                    got: part.len() as u64,
                },
            ));
        }
        self.verify_chunks(0, part)
    }

    /// Whether `bytes`, which begin at chunk `first` and end at a chunk's end or the part's,
    /// carry their checksums.
    pub fn verify_chunks(&self, first: usize, bytes: &[u8]) -> Result<(), Corrupt> {
        let chunk_bytes = usize::try_from(self.chunk_bytes()).expect("at most 256 MiB");
        for (index, chunk) in bytes.chunks(chunk_bytes).enumerate() {
            let got = crc_fast::crc32_iscsi(chunk);
            let expected = self.chunk_checksum(first + index);
            if got != expected {
                return Err(Corrupt::new(
                    Structure::Extent,
                    Fault::Checksum { expected, got },
                ));
            }
        }
        Ok(())
    }
}

/// Encodes the reference to an extent.
///
/// # Panics
/// Panics if `length` is 0 or over [`PART_BYTES_MAX`], or `checksums` are not one per chunk of
/// `geometry.chunk_bytes(length)`.
pub fn encode_extent(
    geometry: &Geometry,
    start: BlockId,
    length: u64,
    hash: &[u8; 32],
    checksums: &[u32],
    out: &mut Vec<u8>,
) {
    assert!(length > 0 && length <= PART_BYTES_MAX && !start.is_none());
    let chunk = geometry.chunk_bytes(length);
    assert_eq!(length.div_ceil(chunk), checksums.len() as u64);
    let length = u32::try_from(length).expect("at most 256 MiB");
    let chunks = u32::try_from(checksums.len()).expect("at most 64");
    out.extend_from_slice(&start.0.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.push(0); // codec: plain
    out.push(u8::try_from(chunk.trailing_zeros()).expect("at most 28"));
    out.extend_from_slice(&0u16.to_le_bytes()); // key id: none
    out.extend_from_slice(&chunks.to_le_bytes());
    out.extend_from_slice(hash);
    out.extend_from_slice(&[0; 16]); // check
    for checksum in checksums {
        out.extend_from_slice(&checksum.to_le_bytes());
    }
}
