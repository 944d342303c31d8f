//! What makes two copies equal: the fingerprint of entries, canonical and part of the format.
//!
//! - Part hash: BLAKE3-256 of the part's bytes, unkeyed.
//! - Entry fingerprint: the first 16 bytes, as a little-endian `u128`, of *keyed* BLAKE3 over
//!   `1 | key length u32 | key | meta length u32 | meta | parts u8 | per part: length u64, then
//!   its bytes if at most 1024, else its part hash`. The leading 1 is the version of this
//!   encoding. Where a part is stored never matters.
//! - Fingerprint of a range: the wrapping sum over its entries; empty is 0.
//!
//! A sum does not depend on insertion order, node size or history, and it can be corrected by
//! one subtraction and one addition (Bellare and Micciancio, "A new paradigm for collision-free
//! hashing", 1997). It is safe against an adversary only while the key is secret: unkeyed sums
//! fall to Wagner's generalised birthday attack.

use crate::format::body::{BodyRef, INLINE_ALWAYS_BYTES, PartRef};
use crate::types::Sum;

/// The version of the entry encoding, its first byte.
const ENCODING: u8 = 1;

/// The key under which a store's fingerprints are made.
#[derive(Clone, PartialEq, Eq)]
pub struct FingerprintKey(pub [u8; 32]);

impl FingerprintKey {
    /// The library's default: known to all, so that any two stores compare. It protects against
    /// accident, not against malice.
    pub const PUBLIC: Self = Self(*b"dynomite public fingerprint key.");

    /// What two sides show each other to see that they share a key, without showing it.
    pub fn id(&self) -> u64 {
        let derived = blake3::derive_key("dynomite fingerprint key id", &self.0);
        u64::from_le_bytes(derived[..8].try_into().expect("eight bytes"))
    }

    /// The fingerprint of an entry.
    pub fn of_entry(&self, key: &[u8], body: BodyRef<'_>) -> Sum {
        let mut input = Vec::with_capacity(32 + key.len() + body.as_bytes().len());
        input.push(ENCODING);
        push_sized(&mut input, key);
        push_sized(&mut input, body.meta());
        input.push(u8::try_from(body.parts_len()).expect("at most 255 parts"));
        for part in body.parts() {
            input.extend_from_slice(&part.length().to_le_bytes());
            match part {
                PartRef::Inline(bytes) if bytes.len() <= INLINE_ALWAYS_BYTES => {
                    input.extend_from_slice(bytes);
                }
                PartRef::Inline(bytes) => input.extend_from_slice(&part_hash(bytes)),
                PartRef::Extent(extent) => input.extend_from_slice(extent.hash()),
            }
        }
        let hash = blake3::keyed_hash(&self.0, &input);
        Sum(u128::from_le_bytes(
            hash.as_bytes()[..16].try_into().expect("sixteen bytes"),
        ))
    }
}

impl core::fmt::Debug for FingerprintKey {
    /// Shows the key's id, never the key.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "FingerprintKey(id {:016x})", self.id())
    }
}

/// The hash of a part: BLAKE3-256 of its bytes.
pub fn part_hash(part: &[u8]) -> [u8; 32] {
    *blake3::hash(part).as_bytes()
}

fn push_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("keys and metas are short");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}
