//! A reference to an extent: the contiguous run of units that holds one part too big for a leaf.
//!
//! The same bytes stand in the leaf and in the log record. The extent itself is the part's bytes
//! and zero padding to a whole unit, nothing else, so that it can be handed out without a copy;
//! it is known by its hash and by a CRC32C per chunk, kept here.

use crate::error::{Corrupt, Fault, Structure};
use crate::format::bytes::{Reader, u32_at};
use crate::geometry::Geometry;
use crate::types::{BlockId, Run};
use crc_fast::{CrcAlgorithm, Digest};

/// Bytes of an encoded reference before its chunk checksums.
pub const EXTENT_HEADER_BYTES: usize = 72;

/// The longest part, in bytes.
pub const PART_BYTES_MAX: u64 = 256 << 20;

/// Bytes that are summed at once where what comes behind is fetched meanwhile. Of half of it the
/// summing costs more; asking for twice as much at once makes the processor wait for its own hints.
const PIECE_BYTES: usize = 2 << 10;

/// How far before they are summed bytes are fetched: a page, so that the way to the next one is
/// looked up in time too.
const AHEAD_BYTES: usize = 4 << 10;

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
        self.verify_length(part)?;
        self.verify_chunks(0, part)
    }

    /// The same of a part that lies far from the processor: `fetch` is shown every byte once, in
    /// order, 4 KiB before it is summed; those at the start are summed at once.
    pub fn verify_fetching(&self, part: &[u8], fetch: impl Fn(&[u8])) -> Result<(), Corrupt> {
        self.verify_length(part)?;
        let chunk_bytes = usize::try_from(self.chunk_bytes()).expect("at most 256 MiB");
        let (_, mut later) = part.split_at(AHEAD_BYTES.min(part.len()));
        for (index, chunk) in part.chunks(chunk_bytes).enumerate() {
            let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
            for piece in chunk.chunks(PIECE_BYTES) {
                let (next, rest) = later.split_at(piece.len().min(later.len()));
                fetch(next);
                later = rest;
                digest.update(piece);
            }
            let got = u32::try_from(digest.finalize()).expect("32 bits");
            self.compare(index, got)?;
        }
        Ok(())
    }

    fn verify_length(&self, part: &[u8]) -> Result<(), Corrupt> {
        if part.len() as u64 != self.length() {
            return Err(Corrupt::new(
                Structure::Extent,
                Fault::Truncated {
                    need: self.length(),
                    got: part.len() as u64,
                },
            ));
        }
        Ok(())
    }

    /// Whether `bytes`, which begin at chunk `first` and end at a chunk's end or the part's,
    /// carry their checksums.
    pub fn verify_chunks(&self, first: usize, bytes: &[u8]) -> Result<(), Corrupt> {
        let chunk_bytes = usize::try_from(self.chunk_bytes()).expect("at most 256 MiB");
        for (index, chunk) in bytes.chunks(chunk_bytes).enumerate() {
            self.compare(first + index, crc_fast::crc32_iscsi(chunk))?;
        }
        Ok(())
    }

    /// Whether chunk `index` has the checksum that was computed.
    fn compare(&self, index: usize, got: u32) -> Result<(), Corrupt> {
        let expected = self.chunk_checksum(index);
        if got != expected {
            return Err(Corrupt::new(
                Structure::Extent,
                Fault::Checksum { expected, got },
            ));
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;

    fn reference(part: &[u8]) -> Vec<u8> {
        let geometry = Geometry::default();
        let chunk_bytes = usize::try_from(geometry.chunk_bytes(part.len() as u64)).unwrap();
        // By the other implementation of the checksum.
        let checksums: Vec<_> = part.chunks(chunk_bytes).map(crc32c::crc32c).collect();
        let mut out = Vec::new();
        let length = part.len() as u64;
        encode_extent(
            &geometry,
            BlockId(7),
            length,
            &[0; 32],
            &checksums,
            &mut out,
        );
        out
    }

    /// What comes of it, and the places of the bytes that were shown, in order.
    fn verify_and_watch(extent: ExtentRef<'_>, part: &[u8]) -> (Result<(), Corrupt>, Vec<usize>) {
        let shown = RefCell::new(Vec::new());
        let start = part.as_ptr().addr();
        let verified = extent.verify_fetching(part, |piece| {
            let at = piece.as_ptr().addr() - start;
            assert!(piece.len() <= PIECE_BYTES);
            shown.borrow_mut().extend(at..at + piece.len());
        });
        (verified, shown.into_inner())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn fetching_ahead_verifies_the_same_and_shows_each_byte_once(
            length in prop_oneof![1..10_000usize, 15_000..70_000usize, 1_000_000..1_400_000usize],
            seed in any::<u64>(),
            flips in proptest::collection::vec((any::<prop::sample::Index>(), 0..8u32), 0..3),
        ) {
            let mut part: Vec<u8> = (0..length as u64)
                .map(|at| (at ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[7])
                .collect();
            let encoded = reference(&part);
            let extent = ExtentRef::decode(&mut Reader::new(&encoded, Structure::Extent)).unwrap();
            prop_assert!(extent.verify(&part).is_ok());
            let (verified, shown) = verify_and_watch(extent, &part);
            prop_assert!(verified.is_ok());
            prop_assert!(shown.into_iter().eq(AHEAD_BYTES.min(length)..length));

            let sound = part.clone();
            for (at, bit) in flips {
                part[at.index(length)] ^= 1 << bit;
            }
            let (verified, _) = verify_and_watch(extent, &part);
            prop_assert_eq!(verified.is_ok(), part == sound);
            prop_assert_eq!(verified, extent.verify(&part));

            let (shorter, shown) = verify_and_watch(extent, &sound[..length - 1]);
            prop_assert_eq!(shorter, extent.verify(&sound[..length - 1]));
            prop_assert!(shown.is_empty());
        }
    }
}
