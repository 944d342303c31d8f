//! What becomes of an entry's siblings when a put or a delete comes.
//!
//! The meta of an entry:
//!
//! ```text
//! offset size field
//! 0       1   version of this encoding, 1
//! 1       .   version vector
//! .       .   number of siblings, varint
//!             then per sibling, in the order of the parts:
//!         .   index of its node in the vector, varint
//!         .   the vector's count less the dot's, varint
//!             or, where there is no sibling (a tombstone):
//!         .   when it was deleted, seconds since 1970, varint
//! ```

use super::bytes::{put_varint, take_u8, take_varint};
use super::context::Context;
use super::vector::{COUNT_MAX, Dot, NodeId, VersionVector};

/// The longest meta, in bytes: the store's own limit.
pub const META_BYTES_MAX: usize = 1024;
/// The most siblings: the store's own limit of parts.
pub const SIBLINGS_MAX: usize = 255;

const VERSION: u8 = 1;
/// So far a node's clock may have been ahead when it gave out a context: a day.
const CLOCK_MS_MAX: u64 = 86_400_000;

/// The versions of an entry: what its meta holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Versions {
    known: VersionVector,
    /// One dot per part, in the order of the parts; none in a tombstone.
    siblings: Vec<Dot>,
    /// When a tombstone was laid, in seconds since 1970.
    deleted_at: u64,
}

/// Why versions cannot be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VersionsError {
    /// The siblings, or the nodes that wrote them, no longer fit the entry's meta.
    #[error("too many siblings")]
    TooManySiblings,
    /// The counts of this entry are used up; only a client that makes up contexts gets here.
    #[error("the versions of this key are used up: delete it and let its tombstone pass")]
    UsedUp,
    /// The context names writes that nobody has taken.
    #[error("the context names writes that no node has taken: get the key again")]
    Ahead,
    /// The meta of a stored entry is not one of ours.
    #[error("the versions stored with this key cannot be read")]
    Unreadable,
}

/// Who writes, and when.
#[derive(Debug, Clone, Copy)]
pub struct Put {
    /// The node that takes the write.
    pub node: NodeId,
    /// Milliseconds since 1970 by that node's clock.
    pub now_ms: u64,
}

impl Versions {
    /// Reads the meta of an entry with `parts` parts.
    pub fn decode(meta: &[u8], parts: usize) -> Result<Self, VersionsError> {
        Self::decode_inner(meta, parts).ok_or(VersionsError::Unreadable)
    }

    fn decode_inner(mut meta: &[u8], parts: usize) -> Option<Self> {
        let input = &mut meta;
        if take_u8(input)? != VERSION {
            return None;
        }
        let known = VersionVector::decode(input)?;
        if take_varint(input)? != parts as u64 {
            return None;
        }
        let mut siblings = Vec::new();
        for _ in 0..parts {
            let index = usize::try_from(take_varint(input)?).ok()?;
            let newest = known.dots().get(index)?;
            let count = newest.count.checked_sub(take_varint(input)?)?;
            siblings.push(Dot {
                node: newest.node,
                count,
            });
        }
        let deleted_at = if parts == 0 { take_varint(input)? } else { 0 };
        input.is_empty().then_some(Self {
            known,
            siblings,
            deleted_at,
        })
    }

    /// The meta.
    pub fn encode(&self) -> Result<Vec<u8>, VersionsError> {
        let mut out = vec![VERSION];
        self.known.encode(&mut out);
        put_varint(&mut out, self.siblings.len() as u64);
        for dot in &self.siblings {
            let index = self
                .known
                .place(dot.node)
                .expect("the vector covers every sibling");
            put_varint(&mut out, index as u64);
            put_varint(&mut out, self.known.dots()[index].count - dot.count);
        }
        if self.siblings.is_empty() {
            put_varint(&mut out, self.deleted_at);
        }
        if out.len() > META_BYTES_MAX || self.siblings.len() > SIBLINGS_MAX {
            return Err(VersionsError::TooManySiblings);
        }
        Ok(out)
    }

    /// What a client that has got this entry has seen.
    pub fn context(&self) -> Vec<u8> {
        Context::encode(&self.known)
    }

    /// Whether the key was deleted.
    pub fn is_tombstone(&self) -> bool {
        self.siblings.is_empty()
    }

    /// When the tombstone was laid, in seconds since 1970.
    pub fn deleted_at(&self) -> Option<u64> {
        self.is_tombstone().then_some(self.deleted_at)
    }

    /// Takes a put: the siblings that its context covers go, the others stay, and the new value
    /// becomes the last one. Gives the versions after it, and which of the parts stay.
    ///
    /// `same` tells whether the part of that index holds the new value already: such a sibling
    /// goes too, for the new one stands for it.
    pub fn put(
        &self,
        context: &Context,
        put: Put,
        same: impl Fn(usize) -> bool,
    ) -> Result<(Self, Vec<usize>), VersionsError> {
        let mut known = self.known.clone();
        let goes: Box<dyn Fn(Dot) -> bool> = match context {
            Context::Overwrite => Box::new(|_| true),
            Context::Foreign => Box::new(|_| false),
            Context::Seen(seen) => {
                // Learnt, a count that somebody made up would use up the key's counts for ever.
                let soon = put.now_ms.saturating_add(CLOCK_MS_MAX);
                let made_up = |dot: &Dot| dot.count > known.count(dot.node).max(soon);
                if seen.dots().iter().any(made_up) {
                    return Err(VersionsError::Ahead);
                }
                known.join(seen);
                Box::new(|dot| seen.covers(dot))
            }
        };
        let dots = self.siblings.iter().enumerate();
        let kept: Vec<usize> = dots
            .filter(|&(index, &dot)| !goes(dot) && !same(index))
            .map(|(index, _)| index)
            .collect();
        let dot = next_dot(&known, put)?;
        known.learn(dot);
        let stay = kept.iter().map(|&index| self.siblings[index]);
        let siblings = stay.chain([dot]).collect();
        let versions = Self {
            known,
            siblings,
            deleted_at: 0,
        };
        Ok((versions, kept))
    }

    /// Takes a delete: every sibling goes, and a tombstone tells that they were known. Where no dot
    /// is left it says no more than that, so that such a key can be deleted.
    #[must_use]
    pub fn delete(&self, put: Put) -> Self {
        let mut known = self.known.clone();
        if let Ok(dot) = next_dot(&known, put) {
            known.learn(dot);
        }
        Self {
            known,
            siblings: Vec::new(),
            deleted_at: put.now_ms / 1000,
        }
    }
}

/// A dot that no write of this entry has had: above all that is known, and above the counts of a
/// time that is past even where nothing is known any more.
fn next_dot(known: &VersionVector, put: Put) -> Result<Dot, VersionsError> {
    let count = put.now_ms.max(known.count(put.node) + 1);
    if count > COUNT_MAX {
        return Err(VersionsError::UsedUp);
    }
    Ok(Dot {
        node: put.node,
        count,
    })
}

#[cfg(test)]
#[path = "siblings/tests.rs"]
mod tests;
