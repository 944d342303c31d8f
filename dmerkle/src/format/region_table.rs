//! The region table: for each data region which copy of its map is the current one, how to know
//! it, and how much room it has, so that maps load only where something is allocated.
//!
//! Invariants: two fixed copies, the superblock names one and its checksum; a region whose row has
//! generation 0 has no map yet, and all its units are free.

use crate::error::{Corrupt, Fault, Structure};
use crate::format::bytes::{Reader, put_at};
use crate::format::layout::layout;
use crate::format::superblock::RegionTableRef;
use crate::geometry::{Geometry, MAP_HEADER_BYTES, REGION_ROW_BYTES};
use crate::types::Generation;

/// The first bytes of every region table.
pub const TABLE_MAGIC: [u8; 8] = *b"dyn-regs";

layout! {
    AT_MAGIC "magic" 0 + 8;
    AT_CHECKSUM "checksum" 8 + 4;
    AT_REGIONS "regions" 12 + 4;
    AT_GENERATION "generation" 16 + 8;
    AT_NONCE "nonce" 24 + 8;
    AT_ZERO "zero" 32 + 32;
}

/// The layout of a row.
pub mod row {
    use crate::format::layout::layout;
    layout! {
        AT_GENERATION "generation" 0 + 8;
        AT_MAP_CHECKSUM "map_checksum" 8 + 4;
        AT_FREE_UNITS "free_units" 12 + 4;
        AT_LARGEST_RUN "largest_run" 16 + 4;
        AT_COPY "copy" 20 + 1;
        AT_ZERO "zero" 21 + 11;
    }
}

const HEADER: usize = MAP_HEADER_BYTES as usize;

/// What the table says of one region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionRow {
    /// Which copy of its map belongs to the table's generation: 0 or 1.
    pub copy: u8,
    /// The checkpoint that wrote the map; 0 if there is none yet.
    pub generation: Generation,
    /// CRC32C of the map, as the map itself carries it.
    pub map_checksum: u32,
    /// Units that the map does not reach (those of the maps not counted).
    pub free_units: u32,
    /// The longest run of such units.
    pub largest_run: u32,
}

impl RegionRow {
    /// The row of a region that nothing was ever allocated in.
    pub fn fresh(geometry: &Geometry) -> Self {
        let free = geometry.region_units - geometry.region_reserved_units();
        Self {
            copy: 0,
            generation: Generation(0),
            map_checksum: 0,
            free_units: free,
            largest_run: free,
        }
    }

    /// Whether the region has a map on disk.
    pub fn has_map(&self) -> bool {
        self.generation != Generation(0)
    }
}

/// Bytes of a table with `regions` rows, without padding.
pub fn table_bytes(regions: u32) -> usize {
    HEADER + regions as usize * usize::try_from(REGION_ROW_BYTES).expect("32")
}

/// Encodes the used prefix of the table, zero padded to a whole unit, and gives its checksum.
///
/// # Panics
/// Panics if there are more rows than the geometry has room for.
pub fn encode_region_table(
    geometry: &Geometry,
    nonce: u64,
    generation: Generation,
    rows: &[RegionRow],
) -> (Vec<u8>, u32) {
    let regions = u32::try_from(rows.len()).expect("at most 2^20 regions");
    assert!(regions <= geometry.regions_max, "more regions than rows");
    let used = table_bytes(regions);
    let mut out = Vec::with_capacity(used.next_multiple_of(geometry.unit_bytes as usize));
    out.resize(HEADER, 0);
    put_at(&mut out, AT_MAGIC, TABLE_MAGIC);
    put_at(&mut out, AT_REGIONS, regions.to_le_bytes());
    put_at(&mut out, AT_GENERATION, generation.0.to_le_bytes());
    put_at(&mut out, AT_NONCE, nonce.to_le_bytes());
    for row in rows {
        out.extend_from_slice(&row.generation.0.to_le_bytes());
        out.extend_from_slice(&row.map_checksum.to_le_bytes());
        out.extend_from_slice(&row.free_units.to_le_bytes());
        out.extend_from_slice(&row.largest_run.to_le_bytes());
        out.push(row.copy);
        out.extend_from_slice(&[0; 11]);
    }
    let sum = checksum(&out);
    put_at(&mut out, AT_CHECKSUM, sum.to_le_bytes());
    out.resize(used.next_multiple_of(geometry.unit_bytes as usize), 0);
    (out, sum)
}

/// Reads the table that the superblock describes. `bytes` are at least its used prefix; of the
/// padding to a whole unit, what is there is checked.
pub fn decode_region_table(
    geometry: &Geometry,
    nonce: u64,
    described: RegionTableRef,
    bytes: &[u8],
) -> Result<(Generation, Vec<RegionRow>), Corrupt> {
    let used = table_bytes(described.regions);
    let Some((bytes, padding)) = bytes.split_at_checked(used) else {
        return Err(Corrupt::new(
            Structure::RegionTable,
            Fault::Truncated {
                need: used as u64,
                got: bytes.len() as u64,
            },
        ));
    };
    let mut reader = Reader::new(bytes, Structure::RegionTable);
    expect("magic", u64::from_le_bytes(TABLE_MAGIC), reader.u64()?)?;
    let own = reader.u32()?;
    let got = checksum(bytes);
    for expected in [own, described.checksum] {
        if got != expected {
            let fault = Fault::Checksum { expected, got };
            return Err(Corrupt::new(Structure::RegionTable, fault));
        }
    }
    expect("regions", described.regions.into(), reader.u32()?.into())?;
    let generation = Generation(reader.u64()?);
    expect("nonce", nonce, reader.u64()?)?;
    reader.zeros(HEADER - AT_ZERO)?;
    let mut rows = Vec::with_capacity(described.regions as usize);
    for _ in 0..described.regions {
        rows.push(decode_row(geometry, &mut reader)?);
    }
    let padded = used.next_multiple_of(geometry.unit_bytes as usize);
    let length = padding.len().min(padded - used);
    Reader::new(padding, Structure::RegionTable).zeros(length)?;
    Ok((generation, rows))
}

fn decode_row(geometry: &Geometry, reader: &mut Reader<'_>) -> Result<RegionRow, Corrupt> {
    let row = RegionRow {
        generation: Generation(reader.u64()?),
        map_checksum: reader.u32()?,
        free_units: reader.u32()?,
        largest_run: reader.u32()?,
        copy: reader.u8()?,
    };
    reader.zeros(11)?;
    let most = geometry.region_units - geometry.region_reserved_units();
    if row.copy > 1 {
        expect("copy", 1, row.copy.into())?;
    }
    if row.free_units > most {
        expect("free_units", most.into(), row.free_units.into())?;
    }
    if row.largest_run > row.free_units {
        expect("largest_run", row.free_units.into(), row.largest_run.into())?;
    }
    if !row.has_map() && row != RegionRow::fresh(geometry) {
        let rule = "a region without a map is not free";
        return Err(Corrupt::rule(Structure::RegionTable, rule));
    }
    Ok(row)
}

fn expect(name: &'static str, expected: u64, got: u64) -> Result<(), Corrupt> {
    if expected == got {
        Ok(())
    } else {
        Err(Corrupt::field(Structure::RegionTable, name, expected, got))
    }
}

/// CRC32C of header and rows but the checksum's own bytes.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..AT_CHECKSUM]), &bytes[AT_REGIONS..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(g: &Geometry) -> Vec<RegionRow> {
        let written = RegionRow {
            copy: 1,
            generation: Generation(4),
            map_checksum: 77,
            free_units: 20,
            largest_run: 9,
        };
        vec![written, RegionRow::fresh(g)]
    }

    #[test]
    fn a_table_is_read_back_only_as_the_superblock_describes_it() {
        let g = Geometry::tiny();
        let (bytes, checksum) = encode_region_table(&g, 5, Generation(6), &rows(&g));
        assert!(bytes.len() as u64 <= g.region_table_bytes() && bytes.len() % 512 == 0);
        let described = RegionTableRef {
            copy: 0,
            regions: 2,
            checksum,
        };
        let read = |nonce, described| decode_region_table(&g, nonce, described, &bytes);
        assert_eq!(read(5, described), Ok((Generation(6), rows(&g))));
        assert!(read(6, described).is_err());
        for regions in [0, 1, 3, 48, u32::MAX] {
            assert!(
                read(
                    5,
                    RegionTableRef {
                        regions,
                        ..described
                    }
                )
                .is_err()
            );
        }
        let other = checksum ^ 1;
        assert!(
            read(
                5,
                RegionTableRef {
                    checksum: other,
                    ..described
                }
            )
            .is_err()
        );
    }

    #[test]
    fn padding_that_is_not_zero_is_refused() {
        let g = Geometry::tiny();
        let (mut bytes, checksum) = encode_region_table(&g, 5, Generation(6), &rows(&g));
        let described = RegionTableRef {
            copy: 0,
            regions: 2,
            checksum,
        };
        let used = table_bytes(2);
        assert!(used < bytes.len());
        assert!(decode_region_table(&g, 5, described, &bytes[..used]).is_ok());
        for at in used..bytes.len() {
            bytes[at] = 1;
            assert!(decode_region_table(&g, 5, described, &bytes).is_err());
            bytes[at] = 0;
        }
    }

    proptest! {
        #[test]
        fn arbitrary_rows_never_panic(rows in prop::collection::vec(any::<u8>(), 64)) {
            let g = Geometry::tiny();
            let (mut bytes, _) = encode_region_table(&g, 5, Generation(6), &[RegionRow::fresh(&g); 2]);
            bytes[HEADER..HEADER + 64].copy_from_slice(&rows);
            let checksum = checksum(&bytes[..HEADER + 64]);
            put_at(&mut bytes, AT_CHECKSUM, checksum.to_le_bytes());
            let described = RegionTableRef { copy: 0, regions: 2, checksum };
            let _ = decode_region_table(&g, 5, described, &bytes);
        }
    }
}
