//! The superblock: what a crash leaves the store with.
//!
//! Two slots, A and B, each written twice, at [`SUPERBLOCK_OFFSETS`](crate::geometry). A slot
//! says which roots are durable (`generation`), which opening wrote it (`incarnation`), and where
//! in the log the newer operations begin.
//!
//! Invariants: the newer slot is the one with the larger (incarnation, generation); magic,
//! version and checksum stand at the same place in every version, so that a newer store is told
//! from a damaged one; a slot's copy repeats the slot's name, so that a misdirected write is seen.

use crate::error::{Corrupt, Fault, Structure};
use crate::fingerprint::FingerprintKey;
use crate::format::bytes::{Reader, put_at, u32_at};
use crate::format::layout::layout;
use crate::format::pointer::Pointer;
use crate::geometry::Geometry;
use crate::types::{Generation, Incarnation, Lsn, OpeningId, Sum, Summary, TreeId};

/// Bytes of an encoded superblock: one sector, which is written whole or not at all.
pub const SUPERBLOCK_BYTES: usize = 512;

/// The first bytes of every store.
pub const MAGIC: [u8; 8] = *b"dynomite";

/// The version that this code writes and the newest that it reads.
pub const VERSION: u32 = 0;

layout! {
    AT_MAGIC "magic" 0 + 8;
    AT_VERSION "version" 8 + 4;
    AT_CHECKSUM "checksum" 12 + 4;
    AT_GEOMETRY_HASH "geometry_hash" 16 + 8;
    AT_UNIT_BYTES "unit_bytes" 24 + 4;
    AT_LOG_BLOCK_BYTES "log_block_bytes" 28 + 4;
    AT_RING_BYTES "ring_bytes" 32 + 8;
    AT_REGION_UNITS "region_units" 40 + 4;
    AT_REGIONS_MAX "regions_max" 44 + 4;
    AT_CHUNK_BYTES_MIN "chunk_bytes_min" 48 + 4;
    AT_LEAF_ORDER "leaf_order" 52 + 1;
    AT_BRANCH_ORDER "branch_order" 53 + 1;
    AT_FANOUT_MAX "fanout_max" 54 + 2;
    AT_SLOT "slot" 56 + 1;
    AT_TABLE_COPY "table_copy" 57 + 1;
    AT_EARLIER_COUNT "earlier_count" 58 + 1;
    AT_ZERO "zero" 59 + 5;
    AT_STORE_ID "store_id" 64 + 16;
    AT_NONCE "nonce" 80 + 8;
    AT_GENERATION "generation" 88 + 8;
    AT_INCARNATION "incarnation" 96 + 8;
    AT_OPENING "opening" 104 + 8;
    AT_LOG_START "log_start" 112 + 8;
    AT_CUT "cut" 120 + 8;
    AT_DURABLE "durable" 128 + 8;
    AT_NEXT_TREE "next_tree" 136 + 8;
    AT_CATALOG "catalog" 144 + 48;
    AT_CATALOG_COUNT "catalog_count" 192 + 8;
    AT_CATALOG_SUM "catalog_sum" 200 + 16;
    AT_REGIONS "regions" 216 + 4;
    AT_TABLE_CHECKSUM "table_checksum" 220 + 4;
    AT_FINGERPRINT_KEY "fingerprint_key" 224 + 32;
    AT_CREATED "created" 256 + 8;
    AT_EARLIER "earlier" 264 + 240;
    AT_NODE_UNITS "node_units" 504 + 8;
}

/// One of the two places that a superblock is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// Copies 0 and 2.
    A,
    /// Copies 1 and 3.
    B,
}

impl Slot {
    /// The slot of copy 0, 1, 2 or 3.
    pub fn of_copy(copy: usize) -> Self {
        if copy.is_multiple_of(2) {
            Self::A
        } else {
            Self::B
        }
    }

    /// The two copies of the slot, as indexes into `SUPERBLOCK_OFFSETS`.
    pub fn copies(self) -> [usize; 2] {
        match self {
            Self::A => [0, 2],
            Self::B => [1, 3],
        }
    }

    /// The slot that is not this one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }
}

/// Where an incarnation's log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IncarnationStart {
    /// Which one.
    pub incarnation: Incarnation,
    /// Its random number.
    pub opening: OpeningId,
    /// Its first LSN, to the byte.
    pub start: Lsn,
}

/// The most earlier incarnations that a superblock names.
pub const EARLIER_MAX: usize = 10;

/// Bytes of one of them.
const EARLIER_BYTES: usize = 24;

/// Which copy of the region table belongs to a generation, and how to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RegionTableRef {
    /// Copy 0 or 1.
    pub copy: u8,
    /// How many rows it has: the regions that the file has.
    pub regions: u32,
    /// CRC32C of its header and rows.
    pub checksum: u32,
}

/// What a superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The store's sizes.
    pub geometry: Geometry,
    /// Random, drawn at creation: which store this is.
    pub store_id: [u8; 16],
    /// Random, drawn at creation: seeds the checksums of log blocks.
    pub nonce: u64,
    /// Which checkpoint the roots belong to.
    pub generation: Generation,
    /// The opening for writing that wrote this.
    pub incarnation: Incarnation,
    /// That opening's random number.
    pub opening: OpeningId,
    /// Where replay begins: the first byte of a log block, and of a group.
    pub log_start: Lsn,
    /// Where this incarnation's log begins, to the byte: all below was live and durable when the
    /// incarnation began, and nothing that an older one wrote at or above counts.
    pub cut: Lsn,
    /// Every byte of the log below was durable when this was written.
    pub durable: Lsn,
    /// The id of the next tree to be created.
    pub next_tree: TreeId,
    /// The root of the catalog.
    pub catalog: Pointer,
    /// Count and sum of the catalog's entries.
    pub catalog_summary: Summary,
    /// The region table of this generation.
    pub region_table: RegionTableRef,
    /// Under which the store's fingerprints are made.
    pub fingerprint_key: FingerprintKey,
    /// When the store was created, in Unix seconds.
    pub created: u64,
    /// The earlier incarnations that wrote the log between `log_start` and `cut`, oldest first: so
    /// that none is forgotten when its blocks rot. The scan gives them to the next opening; a
    /// checkpoint, whose log starts behind the cut, needs none. Past [`EARLIER_MAX`] the oldest
    /// are left out.
    pub earlier: Vec<IncarnationStart>,
    /// Units that the nodes of all trees take: what a checkpoint rewrites at the most.
    pub node_units: u64,
}

impl Superblock {
    /// Encodes the superblock as it stands in `slot`.
    ///
    /// # Panics
    /// Panics if the geometry is not valid or `log_start` is not at a log block.
    pub fn encode(&self, slot: Slot) -> [u8; SUPERBLOCK_BYTES] {
        assert!(self.geometry.validate().is_ok(), "geometry");
        assert!(
            self.log_start
                .0
                .is_multiple_of(self.geometry.log_block_bytes.into()),
            "log start {} is not at a log block",
            self.log_start
        );
        assert!(self.region_table.copy <= 1, "region table copy");
        let mut out = [0; SUPERBLOCK_BYTES];
        put_at(&mut out, AT_MAGIC, MAGIC);
        put_at(&mut out, AT_VERSION, VERSION.to_le_bytes());
        encode_geometry(&self.geometry, &mut out);
        let hash = geometry_hash(&out);
        put_at(&mut out, AT_GEOMETRY_HASH, hash.to_le_bytes());
        out[AT_SLOT] = slot.byte();
        out[AT_TABLE_COPY] = self.region_table.copy;
        put_at(&mut out, AT_STORE_ID, self.store_id);
        put_at(&mut out, AT_NONCE, self.nonce.to_le_bytes());
        put_at(&mut out, AT_GENERATION, self.generation.0.to_le_bytes());
        put_at(&mut out, AT_INCARNATION, self.incarnation.0.to_le_bytes());
        put_at(&mut out, AT_OPENING, self.opening.0.to_le_bytes());
        put_at(&mut out, AT_LOG_START, self.log_start.0.to_le_bytes());
        put_at(&mut out, AT_CUT, self.cut.0.to_le_bytes());
        put_at(&mut out, AT_DURABLE, self.durable.0.to_le_bytes());
        put_at(&mut out, AT_NEXT_TREE, self.next_tree.0.to_le_bytes());
        let mut pointer = Vec::with_capacity(crate::format::pointer::POINTER_BYTES);
        self.catalog.encode(&mut pointer);
        out[AT_CATALOG..AT_CATALOG_COUNT].copy_from_slice(&pointer);
        let summary = self.catalog_summary;
        put_at(&mut out, AT_CATALOG_COUNT, summary.count.to_le_bytes());
        put_at(&mut out, AT_CATALOG_SUM, summary.sum.0.to_le_bytes());
        let table = self.region_table;
        put_at(&mut out, AT_REGIONS, table.regions.to_le_bytes());
        put_at(&mut out, AT_TABLE_CHECKSUM, table.checksum.to_le_bytes());
        put_at(&mut out, AT_FINGERPRINT_KEY, self.fingerprint_key.0);
        put_at(&mut out, AT_CREATED, self.created.to_le_bytes());
        let known = &self.earlier[self.earlier.len().saturating_sub(EARLIER_MAX)..];
        out[AT_EARLIER_COUNT] = u8::try_from(known.len()).expect("at most 10");
        for (earlier, place) in known
            .iter()
            .zip(out[AT_EARLIER..].chunks_exact_mut(EARLIER_BYTES))
        {
            put_at(place, 0, earlier.incarnation.0.to_le_bytes());
            put_at(place, 8, earlier.opening.0.to_le_bytes());
            put_at(place, 16, earlier.start.0.to_le_bytes());
        }
        put_at(&mut out, AT_NODE_UNITS, self.node_units.to_le_bytes());
        let checksum = checksum(&out);
        put_at(&mut out, AT_CHECKSUM, checksum.to_le_bytes());
        out
    }

    /// Reads one copy, and the slot that it says it stands in. A newer version is a fault of the
    /// field `version`; a foreign file is one of the field `magic`.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Slot), Corrupt> {
        let Some(bytes) = bytes.get(..SUPERBLOCK_BYTES) else {
            return Err(Corrupt::new(
                Structure::Superblock,
                Fault::Truncated {
                    need: SUPERBLOCK_BYTES as u64,
                    got: bytes.len() as u64,
                },
            ));
        };
        let mut reader = Reader::new(bytes, Structure::Superblock);
        let magic = reader.array::<8>()?;
        if magic != MAGIC {
            let number = u64::from_le_bytes;
            return field("magic", number(MAGIC), number(magic));
        }
        let version = reader.u32()?;
        let expected = reader.u32()?;
        let got = checksum(bytes);
        if got != expected {
            let fault = Fault::Checksum { expected, got };
            return Err(Corrupt::new(Structure::Superblock, fault));
        }
        if version != VERSION {
            return field("version", VERSION.into(), version.into());
        }
        let hash = reader.u64()?;
        if hash != geometry_hash(bytes) {
            return field("geometry_hash", geometry_hash(bytes), hash);
        }
        let geometry = decode_geometry(&mut reader)?;
        let slot = match reader.u8()? {
            0 => Slot::A,
            1 => Slot::B,
            other => return field("slot", 1, other.into()),
        };
        let copy = reader.u8()?;
        let earlier_count = usize::from(reader.u8()?);
        if earlier_count > EARLIER_MAX {
            return field("earlier_count", EARLIER_MAX as u64, earlier_count as u64);
        }
        reader.zeros(AT_STORE_ID - AT_ZERO)?;
        let mut superblock = Self {
            geometry,
            store_id: reader.array()?,
            nonce: reader.u64()?,
            generation: Generation(reader.u64()?),
            incarnation: Incarnation(reader.u64()?),
            opening: OpeningId(reader.u64()?),
            log_start: Lsn(reader.u64()?),
            cut: Lsn(reader.u64()?),
            durable: Lsn(reader.u64()?),
            next_tree: TreeId(reader.u64()?),
            catalog: Pointer::decode(&mut reader)?,
            catalog_summary: Summary {
                count: reader.u64()?,
                sum: Sum(reader.u128()?),
            },
            region_table: RegionTableRef {
                copy,
                regions: reader.u32()?,
                checksum: reader.u32()?,
            },
            fingerprint_key: FingerprintKey(reader.array()?),
            created: reader.u64()?,
            earlier: Vec::new(),
            node_units: 0,
        };
        for _ in 0..earlier_count {
            superblock.earlier.push(IncarnationStart {
                incarnation: Incarnation(reader.u64()?),
                opening: OpeningId(reader.u64()?),
                start: Lsn(reader.u64()?),
            });
        }
        reader.zeros((EARLIER_MAX - earlier_count) * EARLIER_BYTES)?;
        superblock.node_units = reader.u64()?;
        superblock.validate()?;
        Ok((superblock, slot))
    }

    fn validate(&self) -> Result<(), Corrupt> {
        let block = u64::from(self.geometry.log_block_bytes);
        let table = self.region_table;
        if !self.log_start.0.is_multiple_of(block) || self.log_start > LSN_MAX {
            return field("log_start", block, self.log_start.0);
        }
        if self.cut > LSN_MAX {
            return field("cut", LSN_MAX.0, self.cut.0);
        }
        if self.durable > LSN_MAX {
            return field("durable", LSN_MAX.0, self.durable.0);
        }
        let data_units =
            u64::from(self.geometry.regions_max) * u64::from(self.geometry.region_units);
        for (name, most, got) in [
            ("generation", NUMBER_MAX, self.generation.0),
            ("incarnation", NUMBER_MAX, self.incarnation.0),
            ("next_tree", NUMBER_MAX, self.next_tree.0),
            ("node_units", data_units, self.node_units),
        ] {
            if got > most {
                return field(name, most, got);
            }
        }
        if self.next_tree == TreeId::CATALOG {
            return field("next_tree", 1, 0);
        }
        let mut last = Incarnation(0);
        for earlier in &self.earlier {
            if earlier.incarnation <= last && last.0 != 0 || earlier.incarnation >= self.incarnation
            {
                return field("earlier", self.incarnation.0, earlier.incarnation.0);
            }
            if earlier.start > LSN_MAX {
                return field("earlier", LSN_MAX.0, earlier.start.0);
            }
            last = earlier.incarnation;
        }
        if table.copy > 1 {
            return field("table_copy", 1, table.copy.into());
        }
        if table.regions > self.geometry.regions_max {
            let expected = self.geometry.regions_max.into();
            return field("regions", expected, table.regions.into());
        }
        Ok(())
    }

    /// Which of two superblocks is newer: the larger one is.
    pub fn age(&self) -> (Incarnation, Generation) {
        (self.incarnation, self.generation)
    }

    /// Whether both belong to one store: identity, sizes and keys never change.
    pub fn same_store(&self, other: &Self) -> bool {
        self.store_id == other.store_id
            && self.nonce == other.nonce
            && self.geometry == other.geometry
            && self.fingerprint_key == other.fingerprint_key
    }
}

/// No log reaches this place: a terabyte a second for months. It keeps sums of places in range.
pub const LSN_MAX: Lsn = Lsn(1 << 62);

/// No store counts so far: one more is always in range.
pub const NUMBER_MAX: u64 = 1 << 62;

fn field<T>(name: &'static str, expected: u64, got: u64) -> Result<T, Corrupt> {
    Err(Corrupt::field(Structure::Superblock, name, expected, got))
}

/// CRC32C of all bytes but the checksum's own.
fn checksum(bytes: &[u8]) -> u32 {
    let head = crc32c::crc32c(&bytes[..AT_CHECKSUM]);
    crc32c::crc32c_append(head, &bytes[AT_GEOMETRY_HASH..SUPERBLOCK_BYTES])
}

/// The first 8 bytes of BLAKE3 over the geometry's fields as encoded.
fn geometry_hash(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(&bytes[AT_UNIT_BYTES..AT_SLOT]);
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"))
}

fn encode_geometry(geometry: &Geometry, out: &mut [u8]) {
    put_at(out, AT_UNIT_BYTES, geometry.unit_bytes.to_le_bytes());
    let log_block_bytes = geometry.log_block_bytes;
    put_at(out, AT_LOG_BLOCK_BYTES, log_block_bytes.to_le_bytes());
    put_at(out, AT_RING_BYTES, geometry.ring_bytes.to_le_bytes());
    put_at(out, AT_REGION_UNITS, geometry.region_units.to_le_bytes());
    put_at(out, AT_REGIONS_MAX, geometry.regions_max.to_le_bytes());
    let chunk_bytes_min = geometry.chunk_bytes_min;
    put_at(out, AT_CHUNK_BYTES_MIN, chunk_bytes_min.to_le_bytes());
    out[AT_LEAF_ORDER] = geometry.leaf_order;
    out[AT_BRANCH_ORDER] = geometry.branch_order;
    put_at(out, AT_FANOUT_MAX, geometry.fanout_max.to_le_bytes());
}

fn decode_geometry(reader: &mut Reader<'_>) -> Result<Geometry, Corrupt> {
    let geometry = Geometry {
        unit_bytes: reader.u32()?,
        log_block_bytes: reader.u32()?,
        ring_bytes: reader.u64()?,
        region_units: reader.u32()?,
        regions_max: reader.u32()?,
        chunk_bytes_min: reader.u32()?,
        leaf_order: reader.u8()?,
        branch_order: reader.u8()?,
        fanout_max: reader.u16()?,
    };
    geometry.validate()?;
    Ok(geometry)
}

/// Whether `bytes` begin as a store of any version does, damaged or not.
pub fn has_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// The version that `bytes` name, if they are a whole copy of a version newer than [`VERSION`].
pub fn newer_version(bytes: &[u8]) -> Option<u32> {
    if bytes.len() < SUPERBLOCK_BYTES || !has_magic(bytes) {
        return None;
    }
    let version = u32_at(bytes, AT_VERSION);
    (version > VERSION && u32_at(bytes, AT_CHECKSUM) == checksum(bytes)).then_some(version)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn sample(geometry: Geometry) -> Superblock {
        Superblock {
            geometry,
            store_id: [3; 16],
            nonce: 0x1122_3344_5566_7788,
            generation: Generation(7),
            incarnation: Incarnation(2),
            opening: OpeningId(99),
            log_start: Lsn(8192),
            cut: Lsn(8200),
            durable: Lsn(9000),
            next_tree: TreeId(5),
            catalog: Pointer::NONE,
            catalog_summary: Summary {
                count: 4,
                sum: Sum(1 << 100),
            },
            region_table: RegionTableRef {
                copy: 1,
                regions: 2,
                checksum: 0xdead_beef,
            },
            fingerprint_key: FingerprintKey::PUBLIC,
            created: 1_700_000_000,
            earlier: vec![IncarnationStart {
                incarnation: Incarnation(1),
                opening: OpeningId(98),
                start: Lsn(8190),
            }],
            node_units: 77,
        }
    }

    #[test]
    fn what_was_encoded_is_read_back_with_its_slot() {
        for geometry in [Geometry::default(), Geometry::tiny()] {
            let superblock = sample(geometry);
            for slot in [Slot::A, Slot::B] {
                let bytes = superblock.encode(slot);
                assert_eq!(Superblock::decode(&bytes), Ok((superblock.clone(), slot)));
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = sample(Geometry::tiny()).encode(Slot::A);
        for bit in 0..bytes.len() * 8 {
            let mut rotten = bytes;
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::decode(&rotten).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = sample(Geometry::tiny()).encode(Slot::A);
        bytes[AT_VERSION] = 9;
        assert_eq!(newer_version(&bytes), None);
        let sum = checksum(&bytes);
        put_at(&mut bytes, AT_CHECKSUM, sum.to_le_bytes());
        assert_eq!(newer_version(&bytes), Some(9));
        let fault = Superblock::decode(&bytes).unwrap_err().fault;
        assert!(matches!(
            fault,
            Fault::Field {
                name: "version",
                got: 9,
                ..
            }
        ));
    }

    /// One more of it would be no number, or mean what it may not.
    #[test]
    fn numbers_that_no_store_counts_to_are_refused() {
        let decoded = |change: &dyn Fn(&mut Superblock)| {
            let mut superblock = sample(Geometry::tiny());
            change(&mut superblock);
            Superblock::decode(&superblock.encode(Slot::A)).map(|_| ())
        };
        assert_eq!(decoded(&|_| ()), Ok(()));
        for most in [NUMBER_MAX + 1, u64::MAX] {
            assert!(decoded(&|superblock| superblock.generation = Generation(most)).is_err());
            assert!(decoded(&|superblock| superblock.incarnation = Incarnation(most)).is_err());
            assert!(decoded(&|superblock| superblock.next_tree = TreeId(most)).is_err());
            assert!(decoded(&|superblock| superblock.node_units = most).is_err());
        }
        assert!(decoded(&|superblock| superblock.next_tree = TreeId(0)).is_err());
    }

    /// Where the log would go on behind it is no number.
    #[test]
    fn an_incarnation_that_began_past_the_last_lsn_is_refused() {
        let began_at = |start| {
            let mut superblock = sample(Geometry::tiny());
            superblock.earlier = vec![IncarnationStart {
                incarnation: Incarnation(1),
                opening: OpeningId(5),
                start,
            }];
            Superblock::decode(&superblock.encode(Slot::A)).map(|_| ())
        };
        assert_eq!(began_at(LSN_MAX), Ok(()));
        assert!(began_at(Lsn(LSN_MAX.0 + 1)).is_err());
        assert!(began_at(Lsn(u64::MAX)).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600), honest in any::<bool>()) {
            if honest && bytes.len() >= SUPERBLOCK_BYTES {
                put_at(&mut bytes, AT_MAGIC, MAGIC);
                put_at(&mut bytes, AT_VERSION, VERSION.to_le_bytes());
                let hash = geometry_hash(&bytes);
                put_at(&mut bytes, AT_GEOMETRY_HASH, hash.to_le_bytes());
                let sum = checksum(&bytes);
                put_at(&mut bytes, AT_CHECKSUM, sum.to_le_bytes());
            }
            prop_assert!(Superblock::decode(&bytes).is_err());
        }
    }
}
