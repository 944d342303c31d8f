//! Blocks of the log ring, and how a group of batches is laid out in them.
//!
//! A *group* is what one write puts into the ring: consecutive blocks, each with a header of its
//! own, whose payloads joined are a stream of batches. The LSN of a payload byte is its place in
//! the endless log with the headers counted, so that `lsn % ring` is its place in the file.
//!
//! Invariants:
//! - Every block can be judged alone: its checksum is seeded with the store's nonce (no bytes of a
//!   user, and no block of another store, can pass for one), and it names its own LSN.
//! - `incarnation_start <= durable <= group's LSN <= lsn`: an incarnation begins on a durable log,
//!   and no group knows of its own durability.
//! - A group never wraps round the ring's end; a *skip* block, a group of one without payload,
//!   says that the rest of the ring is passed over.
//! - An LSN is written once per opening: two blocks of one LSN and one opening are equal.

use crate::error::{Corrupt, Fault, Structure};
use crate::format::bytes::{Reader, put_at, u32_at, u64_at};
use crate::format::layout::layout;
use crate::format::superblock::{LSN_MAX, NUMBER_MAX};
use crate::geometry::Geometry;
use crate::types::{Generation, Incarnation, Lsn, OpeningId};

/// Bytes of a log block's header.
pub const LOG_HEADER_BYTES: usize = 72;

/// Stands in every log block, for the eyes of who reads a raw disk.
pub const LOG_MAGIC: u32 = u32::from_le_bytes(*b"dlog");

layout! {
    AT_CHECKSUM "checksum" 0 + 4;
    AT_MAGIC "magic" 4 + 4;
    AT_LSN "lsn" 8 + 8;
    AT_INCARNATION "incarnation" 16 + 8;
    AT_OPENING "opening" 24 + 8;
    AT_START "incarnation_start" 32 + 8;
    AT_DURABLE "durable" 40 + 8;
    AT_STAMP "stamp" 48 + 8;
    AT_PAYLOAD_LEN "payload_len" 56 + 4;
    AT_GROUP_BLOCKS "group_blocks" 60 + 4;
    AT_INDEX "index" 64 + 4;
    AT_KIND "kind" 68 + 1;
    AT_ZERO "zero" 69 + 3;
}

/// What a block is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// Part of a group of batches (or an empty group, which only says what is durable).
    Group,
    /// The log goes on at the ring's beginning.
    Skip,
}

const GROUP: u8 = 1;
const SKIP: u8 = 2;

/// What every block of a group says of the group and its writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHeader {
    /// The group's first byte: that of its first block.
    pub lsn: Lsn,
    /// Which opening for writing writes it.
    pub incarnation: Incarnation,
    /// That opening's random number.
    pub opening: OpeningId,
    /// Where that incarnation's log begins, to the byte.
    pub incarnation_start: Lsn,
    /// Every byte of the log below is durable.
    pub durable: Lsn,
    /// The newest generation whose superblock is durable.
    pub stamp: Generation,
}

/// A block that carries its checksum and obeys the rules above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBlock<'a> {
    /// What it says of its group.
    pub group: GroupHeader,
    /// Group or skip.
    pub kind: BlockKind,
    /// Its own place.
    pub lsn: Lsn,
    /// Blocks of the group.
    pub group_blocks: u32,
    /// Payload bytes of the whole group.
    pub payload_len: u32,
    /// Which block of the group it is.
    pub index: u32,
    /// The part of the group's payload that stands in this block.
    pub payload: &'a [u8],
}

/// Payload bytes that one block holds.
pub fn block_payload_bytes(geometry: &Geometry) -> usize {
    geometry.log_block_bytes as usize - LOG_HEADER_BYTES
}

/// Blocks of a group of `payload_len` bytes; at least one.
pub fn group_blocks(geometry: &Geometry, payload_len: usize) -> u32 {
    let blocks = payload_len.div_ceil(block_payload_bytes(geometry)).max(1);
    u32::try_from(blocks).expect("a group is at most 4 GiB")
}

/// Whether `blocks` blocks at `lsn` end before or at the ring's end. If not, a skip block comes
/// first and the group stands at [`after_skip`].
pub fn group_fits(geometry: &Geometry, lsn: Lsn, blocks: u32) -> bool {
    let bytes = u64::from(blocks) * u64::from(geometry.log_block_bytes);
    lsn.0 % geometry.ring_bytes + bytes <= geometry.ring_bytes
}

/// Where the log goes on behind a skip block at `lsn`: the ring's next beginning.
pub fn after_skip(geometry: &Geometry, lsn: Lsn) -> Lsn {
    Lsn((lsn.0 / geometry.ring_bytes + 1) * geometry.ring_bytes)
}

/// The first log block at or behind `lsn`: where an incarnation that was cut at `lsn` writes first.
pub fn block_at_or_after(geometry: &Geometry, lsn: Lsn) -> Lsn {
    Lsn(lsn.0.next_multiple_of(geometry.log_block_bytes.into()))
}

/// The LSN of the payload byte at `offset` of the group at `group`.
pub fn payload_lsn(geometry: &Geometry, group: Lsn, offset: usize) -> Lsn {
    let room = block_payload_bytes(geometry);
    let block = (offset / room) as u64 * u64::from(geometry.log_block_bytes);
    Lsn(group.0 + block + (LOG_HEADER_BYTES + offset % room) as u64)
}

/// The LSN one past the last payload byte before `offset`: where a batch that ends there ends. It
/// differs from [`payload_lsn`] at the end of a block, by the next block's header.
pub fn payload_end_lsn(geometry: &Geometry, group: Lsn, offset: usize) -> Lsn {
    match offset.checked_sub(1) {
        None => group,
        Some(last) => Lsn(payload_lsn(geometry, group, last).0 + 1),
    }
}

/// Encodes a group into `out`, which is exactly its blocks; bytes behind the payload become zero.
///
/// # Panics
/// Panics if `out` is not [`group_blocks`] long, the group would wrap, or the header breaks the
/// order of its LSNs.
pub fn encode_group(
    geometry: &Geometry,
    nonce: u64,
    header: &GroupHeader,
    payload: &[u8],
    out: &mut [u8],
) {
    encode_group_of(geometry, nonce, header, &[payload], out);
}

/// [`encode_group`] with the payload in pieces (one per batch, say), to save joining them first.
///
/// # Panics
/// As [`encode_group`] does.
pub fn encode_group_of(
    geometry: &Geometry,
    nonce: u64,
    header: &GroupHeader,
    payload: &[&[u8]],
    out: &mut [u8],
) {
    let block_bytes = geometry.log_block_bytes as usize;
    let total: usize = payload.iter().map(|piece| piece.len()).sum();
    let blocks = group_blocks(geometry, total);
    assert_eq!(out.len(), blocks as usize * block_bytes, "bytes of a group");
    assert!(group_fits(geometry, header.lsn, blocks), "a group wraps");
    let payload_len = u32::try_from(total).expect("a group is at most 4 GiB");
    let mut pieces = payload.iter();
    let mut piece: &[u8] = &[];
    for (index, block) in (0..blocks).zip(out.chunks_exact_mut(block_bytes)) {
        put_header(header, GROUP, payload_len, blocks, index, block);
        let mut room = &mut block[LOG_HEADER_BYTES..];
        while !room.is_empty() {
            if piece.is_empty() {
                match pieces.next() {
                    Some(next) => piece = next,
                    None => break,
                }
            }
            let length = piece.len().min(room.len());
            let (now, later) = piece.split_at(length);
            let (to, rest) = room.split_at_mut(length);
            to.copy_from_slice(now);
            room = rest;
            piece = later;
        }
        room.fill(0);
        seal(nonce, block);
    }
}

/// Encodes a skip block into `out`, which is exactly one block.
///
/// # Panics
/// Panics if `out` is not one block or the header breaks the order of its LSNs.
pub fn encode_skip(geometry: &Geometry, nonce: u64, header: &GroupHeader, out: &mut [u8]) {
    assert_eq!(out.len(), geometry.log_block_bytes as usize, "one block");
    put_header(header, SKIP, 0, 1, 0, out);
    out[LOG_HEADER_BYTES..].fill(0);
    seal(nonce, out);
}

fn put_header(
    header: &GroupHeader,
    kind: u8,
    payload_len: u32,
    blocks: u32,
    index: u32,
    block: &mut [u8],
) {
    let lsn = header.lsn.0 + u64::from(index) * block.len() as u64;
    assert!(lsn.is_multiple_of(block.len() as u64), "a block's place");
    assert!(
        header.incarnation_start <= header.durable && header.durable <= header.lsn,
        "start {} <= durable {} <= group {}",
        header.incarnation_start,
        header.durable,
        header.lsn
    );
    put_at(block, AT_MAGIC, LOG_MAGIC.to_le_bytes());
    put_at(block, AT_LSN, lsn.to_le_bytes());
    put_at(block, AT_INCARNATION, header.incarnation.0.to_le_bytes());
    put_at(block, AT_OPENING, header.opening.0.to_le_bytes());
    put_at(block, AT_START, header.incarnation_start.0.to_le_bytes());
    put_at(block, AT_DURABLE, header.durable.0.to_le_bytes());
    put_at(block, AT_STAMP, header.stamp.0.to_le_bytes());
    put_at(block, AT_PAYLOAD_LEN, payload_len.to_le_bytes());
    put_at(block, AT_GROUP_BLOCKS, blocks.to_le_bytes());
    put_at(block, AT_INDEX, index.to_le_bytes());
    block[AT_KIND] = kind;
    block[AT_ZERO..LOG_HEADER_BYTES].fill(0);
}

fn seal(nonce: u64, block: &mut [u8]) {
    let sum = checksum(nonce, block);
    put_at(block, AT_CHECKSUM, sum.to_le_bytes());
}

/// CRC32C of the nonce and then of all of the block but its checksum.
fn checksum(nonce: u64, block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&nonce.to_le_bytes()), &block[AT_MAGIC..])
}

/// What a block claims before anything of it is verified: enough to pass over most stale blocks
/// without the cost of their checksum. Never believe it.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// The place that it claims.
    pub lsn: Lsn,
    /// The incarnation that it claims.
    pub incarnation: Incarnation,
}

/// The claim of a block, or `None` if it does not even begin as one. `bytes` is a whole block.
pub fn claim(bytes: &[u8]) -> Option<Claim> {
    (u32_at(bytes, AT_MAGIC) == LOG_MAGIC).then(|| Claim {
        lsn: Lsn(u64_at(bytes, AT_LSN)),
        incarnation: Incarnation(u64_at(bytes, AT_INCARNATION)),
    })
}

impl<'a> LogBlock<'a> {
    /// Reads and verifies one block; `bytes` is exactly a block.
    pub fn decode(bytes: &'a [u8], nonce: u64, geometry: &Geometry) -> Result<Self, Corrupt> {
        let block_bytes = geometry.log_block_bytes as usize;
        if bytes.len() != block_bytes {
            return Err(Corrupt::new(
                Structure::LogBlock,
                Fault::Truncated {
                    need: block_bytes as u64,
                    got: bytes.len() as u64,
                },
            ));
        }
        let mut reader = Reader::new(bytes, Structure::LogBlock);
        let expected = reader.u32()?;
        let magic = reader.u32()?;
        if magic != LOG_MAGIC {
            return field("magic", LOG_MAGIC.into(), magic.into());
        }
        let got = checksum(nonce, bytes);
        if got != expected {
            let fault = Fault::Checksum { expected, got };
            return Err(Corrupt::new(Structure::LogBlock, fault));
        }
        let lsn = Lsn(reader.u64()?);
        let incarnation = Incarnation(reader.u64()?);
        let opening = OpeningId(reader.u64()?);
        let incarnation_start = Lsn(reader.u64()?);
        let durable = Lsn(reader.u64()?);
        let stamp = Generation(reader.u64()?);
        let payload_len = reader.u32()?;
        let blocks = reader.u32()?;
        let index = reader.u32()?;
        let kind = match reader.u8()? {
            GROUP => BlockKind::Group,
            SKIP => BlockKind::Skip,
            other => return field("kind", GROUP.into(), other.into()),
        };
        reader.zeros(LOG_HEADER_BYTES - AT_ZERO)?;
        if !lsn.0.is_multiple_of(block_bytes as u64) || lsn > LSN_MAX {
            return field("lsn", block_bytes as u64, lsn.0);
        }
        for (name, got) in [("incarnation", incarnation.0), ("stamp", stamp.0)] {
            if got > NUMBER_MAX {
                return field(name, NUMBER_MAX, got);
            }
        }
        if blocks != group_blocks(geometry, payload_len as usize) {
            let needed = group_blocks(geometry, payload_len as usize);
            return field("group_blocks", needed.into(), blocks.into());
        }
        if kind == BlockKind::Skip && payload_len != 0 {
            return field("payload_len", 0, payload_len.into());
        }
        if index >= blocks {
            return field("index", blocks.into(), index.into());
        }
        let Some(first) = lsn.0.checked_sub(u64::from(index) * block_bytes as u64) else {
            return field("index", 0, index.into());
        };
        if !group_fits(geometry, Lsn(first), blocks) {
            return Err(Corrupt::rule(Structure::LogBlock, "the group wraps"));
        }
        if incarnation_start > durable {
            return field("durable", incarnation_start.0, durable.0);
        }
        if durable.0 > first {
            return field("durable", first, durable.0);
        }
        let before = index as usize * block_payload_bytes(geometry);
        let here = (payload_len as usize - before).min(block_payload_bytes(geometry));
        let payload = reader.take(here)?;
        reader.zeros(reader.rest().len())?;
        Ok(Self {
            group: GroupHeader {
                lsn: Lsn(first),
                incarnation,
                opening,
                incarnation_start,
                durable,
                stamp,
            },
            kind,
            lsn,
            group_blocks: blocks,
            payload_len,
            index,
            payload,
        })
    }

    /// One past the group's last block: where the log goes on (for a skip, the ring's beginning).
    pub fn group_end(&self, geometry: &Geometry) -> Lsn {
        match self.kind {
            BlockKind::Skip => after_skip(geometry, self.lsn),
            BlockKind::Group => {
                let bytes = u64::from(self.group_blocks) * u64::from(geometry.log_block_bytes);
                Lsn(self.group.lsn.0 + bytes)
            }
        }
    }
}

fn field<T>(name: &'static str, expected: u64, got: u64) -> Result<T, Corrupt> {
    Err(Corrupt::field(Structure::LogBlock, name, expected, got))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONCE: u64 = 77;

    fn header(lsn: u64) -> GroupHeader {
        GroupHeader {
            lsn: Lsn(lsn),
            incarnation: Incarnation(3),
            opening: OpeningId(4),
            incarnation_start: Lsn(100),
            durable: Lsn(lsn.min(600)),
            stamp: Generation(9),
        }
    }

    fn group(lsn: u64, payload: &[u8]) -> Vec<u8> {
        let g = Geometry::tiny();
        let blocks = group_blocks(&g, payload.len()) as usize;
        let mut out = vec![0xaa; blocks * g.log_block_bytes as usize];
        encode_group(&g, NONCE, &header(lsn), payload, &mut out);
        out
    }

    /// The next one would be no number.
    #[test]
    fn numbers_that_no_store_counts_to_are_refused() {
        let g = Geometry::tiny();
        let decoded = |header: GroupHeader| {
            let mut out = vec![0; g.log_block_bytes as usize];
            encode_group(&g, NONCE, &header, b"", &mut out);
            LogBlock::decode(&out, NONCE, &g).map(|_| ())
        };
        assert_eq!(decoded(header(1024)), Ok(()));
        for most in [NUMBER_MAX + 1, u64::MAX] {
            assert!(
                decoded(GroupHeader {
                    incarnation: Incarnation(most),
                    ..header(1024)
                })
                .is_err()
            );
            assert!(
                decoded(GroupHeader {
                    stamp: Generation(most),
                    ..header(1024)
                })
                .is_err()
            );
        }
    }

    proptest! {
        #[test]
        fn a_group_is_read_back_block_by_block(payload in prop::collection::vec(any::<u8>(), 0..3000)) {
            let g = Geometry::tiny();
            let out = group(1024, &payload);
            let mut joined = Vec::new();
            for (index, bytes) in out.chunks(512).enumerate() {
                let block = LogBlock::decode(bytes, NONCE, &g).unwrap();
                prop_assert_eq!(block.group, header(1024));
                prop_assert_eq!(block.index as usize, index);
                prop_assert_eq!(block.lsn, Lsn(1024 + 512 * index as u64));
                prop_assert_eq!(block.group_end(&g), Lsn(1024 + out.len() as u64));
                joined.extend_from_slice(block.payload);
            }
            prop_assert_eq!(joined, payload);
        }

        #[test]
        fn pieces_and_whole_give_the_same_blocks(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..6)) {
            let g = Geometry::tiny();
            let whole = pieces.concat();
            let expected = group(1024, &whole);
            let mut out = vec![1; expected.len()];
            let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            encode_group_of(&g, NONCE, &header(1024), &slices, &mut out);
            prop_assert_eq!(out, expected);
        }

        #[test]
        fn arbitrary_blocks_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 512), honest in any::<bool>(), at in 8usize..72) {
            if honest {
                // Rotten fields under a good checksum: a bug of ours must not become a panic.
                let good = group(1024, b"payload");
                let rotten = bytes[at];
                bytes.copy_from_slice(&good);
                bytes[at] = rotten;
                seal(NONCE, &mut bytes);
            }
            let _ = LogBlock::decode(&bytes, NONCE, &Geometry::tiny());
        }
    }

    #[test]
    fn the_last_byte_of_the_payload_stands_where_its_lsn_says() {
        let g = Geometry::tiny();
        for length in [1, 439, 440, 441, 880, 881, 2000] {
            let mut payload = vec![0; length];
            payload[length - 1] = 0xee;
            let out = group(1024, &payload);
            let end = payload_end_lsn(&g, Lsn(1024), length);
            let at = usize::try_from(end.0 - 1024).unwrap();
            assert_eq!(out[at - 1], 0xee, "length {length}");
            assert_eq!(payload_lsn(&g, Lsn(1024), length - 1).0 + 1, end.0);
        }
    }

    #[test]
    fn another_nonce_and_every_flipped_bit_are_noticed() {
        let g = Geometry::tiny();
        let block = group(1024, b"payload");
        assert!(LogBlock::decode(&block, NONCE + 1, &g).is_err());
        for bit in 0..block.len() * 8 {
            let mut rotten = block.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(LogBlock::decode(&rotten, NONCE, &g).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_skip_leads_to_the_rings_beginning() {
        let g = Geometry::tiny();
        let lsn = g.ring_bytes * 3 - 1024;
        assert!(group_fits(&g, Lsn(lsn), 2) && !group_fits(&g, Lsn(lsn), 3));
        let mut out = vec![7; 512];
        encode_skip(&g, NONCE, &header(lsn), &mut out);
        let block = LogBlock::decode(&out, NONCE, &g).unwrap();
        assert_eq!(block.kind, BlockKind::Skip);
        assert_eq!(block.group_end(&g), Lsn(g.ring_bytes * 3));
    }
}
