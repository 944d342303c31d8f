//! The context: what a client carries from a get to its next put, without looking inside.
//!
//! ```text
//! offset size field
//! 0       1   0xd7: neither 0x83, with which the original's contexts begin, nor text
//! 1       1   version of this encoding, 1
//! 2       .   version vector
//! .       4   first bytes of the BLAKE3 hash of what stands before
//! ```
//!
//! An empty context overwrites whatever is there. One of the original's own (a client brought it
//! along from an old cluster, or made it up as its tests do) names no write that a node of today
//! has taken: it covers nothing, so a put with it keeps what is there beside it.

use super::vector::{NodeId, VersionVector};

const MAGIC: u8 = 0xd7;
const VERSION: u8 = 1;
const CHECK_BYTES: usize = 4;
/// The first byte of Erlang's external term format.
const ETF: u8 = 0x83;

/// What a put knows of the values that it replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Context {
    /// Nothing is said: whatever is there is replaced.
    Overwrite,
    /// The writes that the client has seen.
    Seen(VersionVector),
    /// A context of the original's: it covers none of our writes.
    Foreign,
}

/// The bytes are no context, or none of this node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// They cannot be read.
    #[error("the context is not one that a get has given")]
    Unreadable,
    /// They name a node that has never written here.
    #[error("the context names the node {0}, which has never written here: get the key again")]
    Stranger(NodeId),
}

impl Context {
    /// Reads the context of a put.
    pub fn decode(bytes: &[u8]) -> Result<Self, ContextError> {
        match bytes.first() {
            None => Ok(Self::Overwrite),
            Some(&ETF) => Ok(Self::Foreign),
            Some(_) => decode_vector(bytes)
                .map(Self::Seen)
                .ok_or(ContextError::Unreadable),
        }
    }

    /// The context that a get gives out for an entry.
    pub fn encode(known: &VersionVector) -> Vec<u8> {
        let mut out = vec![MAGIC, VERSION];
        known.encode(&mut out);
        let check = check(&out);
        out.extend_from_slice(&check);
        out
    }
}

fn decode_vector(bytes: &[u8]) -> Option<VersionVector> {
    let (content, found) = bytes.split_last_chunk()?;
    if check(content) != *found {
        return None;
    }
    let mut rest = content.strip_prefix(&[MAGIC, VERSION])?;
    let vector = VersionVector::decode(&mut rest)?;
    rest.is_empty().then_some(vector)
}

fn check(content: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = blake3::hash(content);
    *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Dot;
    use proptest::prelude::*;

    #[test]
    fn a_context_comes_back_and_a_damaged_one_does_not() {
        let dots = [(7, 3), (9, 1 << 40)].map(|(node, count)| Dot {
            node: NodeId(node),
            count,
        });
        let vector: VersionVector = dots.into_iter().collect();
        let bytes = Context::encode(&vector);
        assert_eq!(Context::decode(&bytes), Ok(Context::Seen(vector)));
        for index in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 1;
            assert_eq!(
                Context::decode(&damaged),
                Err(ContextError::Unreadable),
                "byte {index}"
            );
            if index > 0 {
                assert_eq!(
                    Context::decode(&bytes[..index]),
                    Err(ContextError::Unreadable)
                );
            }
        }
    }

    #[test]
    fn a_context_of_the_original_covers_nothing() {
        // As the clients' own tests carry it: [{"<0.630.0>", a float of 2009}].
        let mut term = b"\x83l\0\0\0\x01h\x02k\0\x09<0.630.0>c".to_vec();
        term.extend_from_slice(b"1.24054327169808900000e+09\0\0\0\0\0j");
        assert_eq!(Context::decode(&term), Ok(Context::Foreign));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Context::decode(&bytes);
        }
    }
}
