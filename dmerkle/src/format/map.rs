//! A region's allocation map: one bit per unit, set if the roots of its generation reach the unit.
//!
//! Invariants: a map is written whole, into the copy that the durable superblock does not name;
//! its row in the region table repeats its checksum and generation, so that a lost write shows;
//! the bits of the units that hold the maps themselves, and of units past the region's end, are 0.

use crate::error::{Corrupt, Fault, Place, Structure};
use crate::format::bytes::{Reader, put_at};
use crate::format::layout::layout;
use crate::geometry::{Geometry, MAP_HEADER_BYTES};
use crate::types::Generation;

/// The first bytes of every map.
pub const MAP_MAGIC: [u8; 8] = *b"dyn-map.";

layout! {
    AT_MAGIC "magic" 0 + 8;
    AT_CHECKSUM "checksum" 8 + 4;
    AT_REGION "region" 12 + 4;
    AT_GENERATION "generation" 16 + 8;
    AT_NONCE "nonce" 24 + 8;
    AT_UNITS "units" 32 + 4;
    AT_ZERO "zero" 36 + 28;
}

const HEADER: usize = MAP_HEADER_BYTES as usize;

/// Bytes of a map's bits, without header and padding.
pub fn map_bits_bytes(geometry: &Geometry) -> usize {
    geometry.region_units.div_ceil(8) as usize
}

/// Encodes a map into `out`, which is `geometry.map_bytes()` long, and gives its checksum. Unit
/// `i` of the region is bit `i % 8` of byte `i / 8`.
///
/// # Panics
/// Panics if a length is wrong or a bit is set that must not be.
pub fn encode_map(
    geometry: &Geometry,
    nonce: u64,
    region: u32,
    generation: Generation,
    bits: &[u8],
    out: &mut [u8],
) -> u32 {
    assert_eq!(out.len() as u64, geometry.map_bytes(), "bytes of a map");
    assert_eq!(bits.len(), map_bits_bytes(geometry), "bytes of bits");
    assert!(
        bits_in_range(geometry, bits),
        "a reserved unit is reachable"
    );
    out.fill(0);
    put_at(out, AT_MAGIC, MAP_MAGIC);
    put_at(out, AT_REGION, region.to_le_bytes());
    put_at(out, AT_GENERATION, generation.0.to_le_bytes());
    put_at(out, AT_NONCE, nonce.to_le_bytes());
    put_at(out, AT_UNITS, geometry.region_units.to_le_bytes());
    out[HEADER..HEADER + bits.len()].copy_from_slice(bits);
    let sum = checksum(out);
    put_at(out, AT_CHECKSUM, sum.to_le_bytes());
    sum
}

/// Reads the map of `region` as its row in the region table describes it, and gives its bits.
pub fn decode_map<'a>(
    geometry: &Geometry,
    nonce: u64,
    region: u32,
    generation: Generation,
    kept_checksum: u32,
    bytes: &'a [u8],
) -> Result<&'a [u8], Corrupt> {
    decode(geometry, nonce, region, generation, kept_checksum, bytes)
        .map_err(|corrupt| corrupt.at(Place::Region(region)))
}

fn decode<'a>(
    geometry: &Geometry,
    nonce: u64,
    region: u32,
    generation: Generation,
    kept_checksum: u32,
    bytes: &'a [u8],
) -> Result<&'a [u8], Corrupt> {
    if bytes.len() as u64 != geometry.map_bytes() {
        return Err(Corrupt::new(
            Structure::Map,
            Fault::Truncated {
                need: geometry.map_bytes(),
                got: bytes.len() as u64,
            },
        ));
    }
    let mut reader = Reader::new(bytes, Structure::Map);
    expect("magic", u64::from_le_bytes(MAP_MAGIC), reader.u64()?)?;
    let own = reader.u32()?;
    let got = checksum(bytes);
    for expected in [own, kept_checksum] {
        if got != expected {
            let fault = Fault::Checksum { expected, got };
            return Err(Corrupt::new(Structure::Map, fault));
        }
    }
    expect("region", region.into(), reader.u32()?.into())?;
    expect("generation", generation.0, reader.u64()?)?;
    expect("nonce", nonce, reader.u64()?)?;
    expect("units", geometry.region_units.into(), reader.u32()?.into())?;
    reader.zeros(HEADER - AT_ZERO)?;
    let bits = reader.take(map_bits_bytes(geometry))?;
    reader.zeros(reader.rest().len())?;
    if !bits_in_range(geometry, bits) {
        let rule = "a unit of the map itself, or past the region, is reachable";
        return Err(Corrupt::rule(Structure::Map, rule));
    }
    Ok(bits)
}

/// Whether neither the maps' own units nor bits past the region's end are set.
fn bits_in_range(geometry: &Geometry, bits: &[u8]) -> bool {
    let set = |unit: u32| bits[unit as usize / 8] >> (unit % 8) & 1 == 1;
    let capacity = u32::try_from(bits.len() * 8).expect("at most 2^24 units");
    !(0..geometry.region_reserved_units()).any(set) && !(geometry.region_units..capacity).any(set)
}

fn expect(name: &'static str, expected: u64, got: u64) -> Result<(), Corrupt> {
    if expected == got {
        Ok(())
    } else {
        Err(Corrupt::field(Structure::Map, name, expected, got))
    }
}

/// CRC32C of all bytes but the checksum's own.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..AT_CHECKSUM]), &bytes[AT_REGION..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bits(g: &Geometry) -> Vec<u8> {
        let mut bits = vec![0; map_bits_bytes(g)];
        bits[1] = 0b1010_0001;
        bits
    }

    #[test]
    fn a_map_is_read_back_only_as_its_row_describes_it() {
        let g = Geometry::tiny();
        let mut out = vec![9; usize::try_from(g.map_bytes()).unwrap()];
        let sum = encode_map(&g, 5, 3, Generation(8), &bits(&g), &mut out);
        let read = |nonce, region, generation, sum| {
            decode_map(&g, nonce, region, Generation(generation), sum, &out)
        };
        assert_eq!(read(5, 3, 8, sum), Ok(&bits(&g)[..]));
        assert!(read(6, 3, 8, sum).is_err());
        assert!(read(5, 4, 8, sum).is_err());
        assert!(read(5, 3, 7, sum).is_err());
        assert!(read(5, 3, 8, sum ^ 1).is_err());
    }

    #[test]
    fn the_default_map_fills_its_units() {
        let g = Geometry::default();
        let mut out = vec![9; usize::try_from(g.map_bytes()).unwrap()];
        assert_eq!(HEADER + map_bits_bytes(&g), out.len());
        encode_map(
            &g,
            5,
            3,
            Generation(8),
            &vec![0; map_bits_bytes(&g)],
            &mut out,
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 512)) {
            let g = Geometry::tiny();
            prop_assert!(decode_map(&g, 5, 3, Generation(8), 7, &bytes).is_err());
            let good = vec![0; map_bits_bytes(&g)];
            let tail = bytes.split_off(HEADER);
            let mut out = vec![0; 512];
            encode_map(&g, 5, 3, Generation(8), &good, &mut out);
            out[HEADER..].copy_from_slice(&tail);
            let sum = checksum(&out);
            put_at(&mut out, AT_CHECKSUM, sum.to_le_bytes());
            let _ = decode_map(&g, 5, 3, Generation(8), sum, &out);
        }
    }
}
