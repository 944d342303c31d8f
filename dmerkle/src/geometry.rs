//! The sizes that a store is made of, chosen at creation and kept in its superblock.
//!
//! Tests shrink them so that every edge is near: units of 512 bytes, a ring of 16 KiB, nodes of
//! four entries. The layout of the file follows from them alone:
//!
//! ```text
//! superblocks | log ring | region table copy 0 | copy 1 | region 0 | region 1 | ...
//! 64 KiB        ring       table bytes each              map copies 0 and 1, then data units
//! ```
//!
//! Invariants, kept by [`Geometry::validate`]: all sizes are powers of two where the text says so,
//! every structure begins at a whole unit, and every sum below fits in 63 bits.

use crate::error::{Corrupt, Structure};
use crate::types::{BlockId, Lsn};

/// Bytes kept for the four copies of superblocks.
pub const SUPERBLOCK_AREA_BYTES: u64 = 64 * 1024;

/// Where the copies stand: slot A, slot B, slot A again, slot B again. 16 KiB apart, so that no
/// single torn or misdirected write of usual size meets both copies of a slot.
pub const SUPERBLOCK_OFFSETS: [u64; 4] = [0, 16 * 1024, 32 * 1024, 48 * 1024];

/// Bytes at the head of a map and of a region table, before their bits and rows.
pub const MAP_HEADER_BYTES: u32 = 64;

/// Bytes of a region's row in the region table.
pub const REGION_ROW_BYTES: u64 = 32;

/// The sizes of a store. Fields are public for reading; make one through [`Geometry::default`]
/// or a literal, then [`Geometry::validate`] it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Bytes of a unit, what allocation counts in. Power of two, 512 to 65536.
    pub unit_bytes: u32,
    /// Bytes of a log block: the device's physical sector, so that no acknowledged neighbour is
    /// ever rewritten. Power of two, 512 to `unit_bytes`.
    pub log_block_bytes: u32,
    /// Bytes of the log ring. A multiple of `unit_bytes`.
    pub ring_bytes: u64,
    /// Units of a data region, its two map copies included. At most what one map can hold.
    pub region_units: u32,
    /// Rows that a region table has room for.
    pub regions_max: u32,
    /// Smallest chunk of an extent that has a checksum of its own, in bytes. Power of two.
    pub chunk_bytes_min: u32,
    /// The largest order of an ordinary leaf.
    pub leaf_order: u8,
    /// The largest order of a branch.
    pub branch_order: u8,
    /// Entries of a leaf and children of a branch, at most; tests say 4. At least 2... and at
    /// most 65535.
    pub fanout_max: u16,
}

impl Default for Geometry {
    fn default() -> Self {
        Self {
            unit_bytes: 4096,
            log_block_bytes: 4096,
            ring_bytes: 64 << 20,
            // What 32 KiB of map can describe: (32768 - 64) * 8 units, just under 1 GiB.
            region_units: (32_768 - MAP_HEADER_BYTES) * 8,
            // 64 TiB.
            regions_max: 65_536,
            chunk_bytes_min: 16 * 1024,
            leaf_order: 2,
            branch_order: 2,
            fanout_max: u16::MAX,
        }
    }
}

impl Geometry {
    /// The geometry of tests: every edge is near.
    pub fn tiny() -> Self {
        Self {
            unit_bytes: 512,
            log_block_bytes: 512,
            ring_bytes: 16 * 1024,
            region_units: 256,
            regions_max: 48,
            chunk_bytes_min: 1024,
            leaf_order: 2,
            branch_order: 1,
            fanout_max: 4,
        }
    }

    /// Refuses sizes that the layout cannot be made of.
    pub fn validate(&self) -> Result<(), Corrupt> {
        let field = |name, expected: u64, got: u64| {
            Err(Corrupt::field(Structure::Superblock, name, expected, got))
        };
        let unit = self.unit_bytes;
        if !unit.is_power_of_two() || !(512..=65_536).contains(&unit) {
            return field("unit_bytes", 4096, unit.into());
        }
        let block = self.log_block_bytes;
        if !block.is_power_of_two() || block < 512 || block > unit {
            return field("log_block_bytes", unit.into(), block.into());
        }
        if self.ring_bytes < 16 * u64::from(block)
            || !self.ring_bytes.is_multiple_of(unit.into())
            || self.ring_bytes > 1 << 40
        {
            return field("ring_bytes", 64 << 20, self.ring_bytes);
        }
        if self.region_units < 2 * self.map_units() + 16 || self.region_units > 1 << 24 {
            return field("region_units", 1 << 24, self.region_units.into());
        }
        if self.regions_max == 0 || self.regions_max > 1 << 20 {
            return field("regions_max", 65_536, self.regions_max.into());
        }
        if !self.chunk_bytes_min.is_power_of_two()
            || !(512..=1 << 24).contains(&self.chunk_bytes_min)
        {
            return field("chunk_bytes_min", 16 * 1024, self.chunk_bytes_min.into());
        }
        if self.leaf_order > 8 || u64::from(unit) << self.leaf_order > 1 << 20 {
            return field("leaf_order", 2, self.leaf_order.into());
        }
        if self.branch_order > 8 || u64::from(unit) << self.branch_order > 1 << 20 {
            return field("branch_order", 2, self.branch_order.into());
        }
        if self.fanout_max < 2 {
            return field("fanout_max", 4, self.fanout_max.into());
        }
        Ok(())
    }

    /// Bytes of one unit, as a file offset.
    pub fn unit(&self) -> u64 {
        u64::from(self.unit_bytes)
    }

    /// Units that hold `bytes`.
    pub fn units_for(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.unit())
    }

    /// Where a block or extent stands in the file.
    pub fn offset_of(&self, block: BlockId) -> u64 {
        block.0 * self.unit()
    }

    /// Where the log ring begins.
    pub fn ring_offset(&self) -> u64 {
        SUPERBLOCK_AREA_BYTES
    }

    /// Where the log block of `lsn` stands in the file. `lsn` is any byte of the block.
    pub fn log_offset(&self, lsn: Lsn) -> u64 {
        self.ring_offset() + lsn.0 % self.ring_bytes
    }

    /// Bytes of one copy of the region table with all its rows.
    pub fn region_table_bytes(&self) -> u64 {
        let bytes = u64::from(MAP_HEADER_BYTES) + u64::from(self.regions_max) * REGION_ROW_BYTES;
        bytes.next_multiple_of(self.unit())
    }

    /// Where copy 0 or 1 of the region table begins.
    pub fn region_table_offset(&self, copy: u8) -> u64 {
        self.ring_offset() + self.ring_bytes + u64::from(copy & 1) * self.region_table_bytes()
    }

    /// The first unit of region 0.
    pub fn data_start(&self) -> BlockId {
        BlockId((self.region_table_offset(1) + self.region_table_bytes()) / self.unit())
    }

    /// Units of one copy of a region's map.
    pub fn map_units(&self) -> u32 {
        (MAP_HEADER_BYTES + self.region_units.div_ceil(8)).div_ceil(self.unit_bytes)
    }

    /// Bytes of one copy of a region's map, padding included.
    pub fn map_bytes(&self) -> u64 {
        u64::from(self.map_units()) * self.unit()
    }

    /// The first unit of a region, which is also where copy 0 of its map stands.
    pub fn region_start(&self, region: u32) -> BlockId {
        BlockId(self.data_start().0 + u64::from(region) * u64::from(self.region_units))
    }

    /// Where copy 0 or 1 of a region's map begins.
    pub fn map_offset(&self, region: u32, copy: u8) -> u64 {
        let first = self.region_start(region).0 + u64::from(copy & 1) * u64::from(self.map_units());
        first * self.unit()
    }

    /// Units at the head of a region that its maps take and nobody may allocate.
    pub fn region_reserved_units(&self) -> u32 {
        2 * self.map_units()
    }

    /// The region of a unit and the unit's index in it, or `None` before the data.
    pub fn region_of(&self, block: BlockId) -> Option<(u32, u32)> {
        let past = block.0.checked_sub(self.data_start().0)?;
        let region = u32::try_from(past / u64::from(self.region_units)).ok()?;
        let index = u32::try_from(past % u64::from(self.region_units)).ok()?;
        (region < self.regions_max).then_some((region, index))
    }

    /// Bytes of file that `regions` regions reach to.
    pub fn file_bytes(&self, regions: u32) -> u64 {
        self.region_start(regions).0 * self.unit()
    }

    /// Bytes of the checksummed chunk of an extent of `length` bytes: at least the smallest chunk,
    /// and never more than 64 chunks.
    pub fn chunk_bytes(&self, length: u64) -> u64 {
        length
            .div_ceil(64)
            .next_power_of_two()
            .max(self.chunk_bytes_min.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_geometries_are_valid() {
        Geometry::default().validate().unwrap();
        Geometry::tiny().validate().unwrap();
    }

    #[test]
    fn a_default_map_is_32_kib_and_a_region_about_1_gib() {
        let g = Geometry::default();
        assert_eq!(g.map_bytes(), 32 * 1024);
        assert!(u64::from(g.region_units) * g.unit() > (1 << 30) - (4 << 20));
    }

    #[test]
    fn an_extent_has_at_most_64_chunks() {
        let g = Geometry::default();
        for length in [1025u64, 16 << 10, 1 << 20, (1 << 20) + 1, 256 << 20] {
            assert!(length.div_ceil(g.chunk_bytes(length)) <= 64);
        }
    }
}
