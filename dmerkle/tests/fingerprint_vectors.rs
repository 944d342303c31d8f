//! Goal: the fingerprint never changes, on any machine and in any version. Method: vectors made by
//! another implementation (`golden/fingerprint.py`, from the definition and the BLAKE3 package of
//! another language), pinned in `golden/fingerprint.txt`.

#![expect(clippy::unwrap_used, reason = "a panic here is the report")]

use dmerkle::fingerprint::{FingerprintKey, part_hash};
use dmerkle::format::body::{BodyBuilder, BodyRef};
use dmerkle::format::extent::encode_extent;
use dmerkle::{BlockId, Geometry, Sum, Summary};

const VECTORS: &str = include_str!("golden/fingerprint.txt");

fn secret() -> FingerprintKey {
    FingerprintKey(std::array::from_fn(|i| u8::try_from(i).unwrap()))
}

fn bytes(hex: &str) -> Vec<u8> {
    if hex == "-" {
        return Vec::new();
    }
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn number(hex: &str) -> u128 {
    u128::from_str_radix(hex, 16).unwrap()
}

/// A part as the vectors spell it: `length+first`.
fn part(spelling: &str) -> Vec<u8> {
    let (length, first) = spelling.split_once('+').unwrap();
    let (length, first): (usize, usize) = (length.parse().unwrap(), first.parse().unwrap());
    (0..length)
        .map(|i| u8::try_from((first + 7 * i) % 251).unwrap())
        .collect()
}

fn parts(spelling: &str) -> Vec<Vec<u8>> {
    (spelling.split(','))
        .filter(|part| *part != "-")
        .map(part)
        .collect()
}

/// The part as a reference to an extent, wherever it may be. Checksums do not matter either.
fn extent(part: &[u8]) -> Vec<u8> {
    let geometry = Geometry::default();
    let length = part.len() as u64;
    let chunks = usize::try_from(length.div_ceil(geometry.chunk_bytes(length))).unwrap();
    let mut reference = Vec::new();
    encode_extent(
        &geometry,
        BlockId(1234),
        length,
        &part_hash(part),
        &vec![0; chunks],
        &mut reference,
    );
    reference
}

#[test]
fn fingerprints_are_those_of_the_definition() {
    let mut totals = [Summary::EMPTY; 2];
    let mut seen = 0;
    for line in VECTORS.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        seen += 1;
        match fields[..] {
            ["key-id", "public", id] => {
                assert_eq!(u128::from(FingerprintKey::PUBLIC.id()), number(id));
            }
            ["key-id", "secret", id] => assert_eq!(u128::from(secret().id()), number(id)),
            ["part-hash", spelling, hash] => {
                assert_eq!(part_hash(&part(spelling)).to_vec(), bytes(hash));
            }
            ["entry", key, meta, spelling, public, keyed] => {
                let parts = parts(spelling);
                let (mut inline, mut placed) = (
                    BodyBuilder::new(&bytes(meta)),
                    BodyBuilder::new(&bytes(meta)),
                );
                for part in &parts {
                    inline.inline(part);
                    // Where a part is stored does not matter.
                    if part.len() > 1024 {
                        placed.extent(&extent(part));
                    } else {
                        placed.inline(part);
                    }
                }
                for body in [inline.finish(), placed.finish()] {
                    let body = BodyRef::decode(&body).unwrap();
                    let under = |secret: FingerprintKey| secret.of_entry(&bytes(key), body);
                    assert_eq!(under(FingerprintKey::PUBLIC), Sum(number(public)), "{line}");
                    assert_eq!(under(secret()), Sum(number(keyed)), "{line}");
                }
                for (total, sum) in totals.iter_mut().zip([public, keyed]) {
                    *total = total.plus(Summary::of(Sum(number(sum))));
                }
            }
            ["sum", public, keyed] => {
                assert_eq!(
                    totals.map(|total| total.sum),
                    [public, keyed].map(|sum| Sum(number(sum)))
                );
            }
            _ => panic!("a line of another kind: {line}"),
        }
    }
    assert_eq!(seen, 19);
}
