//! Finding where two copies differ, without files, threads or sockets: frames in, frames out.
//!
//! One side holds a [`Session`], asks, and learns every [`Difference`]; the other answers each
//! frame by [`respond`] and keeps nothing but its snapshot. Both see their copy through
//! [`Contents`], so any two compare: trees of other node sizes or format versions, or a plain
//! sorted list ([`Sorted`]).
//!
//! The talk narrows down ranges of keys. A side shows the fingerprints of about 16 subranges, cut
//! at its own node boundaries; the other passes over the equal ones and cuts the rest at *its*
//! boundaries. A range of few entries is settled by a *sketch*: the power sums of the entries'
//! short ids in GF(2^32), from which the peer reads off the ids that only one side holds, at four
//! bytes per such id and however many they share (`PinSketch`: Dodis, Ostrovsky, Reyzin and
//! Smith, "Fuzzy extractors", 2008; Minsky, Trachtenberg and Zippel, "Set reconciliation with
//! nearly optimal communication complexity", 2003). Keys travel in full only for what differs.
//!
//! A sketch costs both sides the reading and hashing of its whole range. So where most ranges of a
//! frame differ, as 1000 differences among a million make it, they are cut further first, down to
//! about the leaves of the trees, whose sums stand in the branches: what is equal stays unread.
//!
//! Invariants:
//! - What is found is complete or an error: subranges are compared by a few bytes of their sums
//!   and entries by short ids, but at the end the differences must account for the whole 128 bits
//!   of both totals. If they do not, the walk is repeated once with whole sums and other ids, so
//!   a difference may be reported more than once.
//! - A frame is at most [`FRAME_BYTES_MAX`]; what is kept between frames is bounded.
//! - No frame, whatever its bytes, makes either side panic, allocate beyond these bounds, or work
//!   beyond a bound per frame; a session ends after a number of frames that the two counts bound.

mod answers;
mod respond;
mod session;
mod sketch;
mod sorted;
mod tree;
mod wire;

#[cfg(test)]
mod tests;

pub use respond::respond;
pub use session::{Next, Session, Step, run};
pub use sorted::Sorted;
pub use tree::TreeContents;

use crate::error::Corrupt;
use crate::format::body::KEY_BYTES_MAX;
use crate::types::{Sum, Summary};
use core::fmt;

/// The longest frame.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;

/// The version of the frames.
pub const VERSION: u8 = 0;

/// Into how many subranges a side cuts a range that differs.
const PARTS: u64 = 16;

/// Entries that one side reads at once, while it walks a range.
const PAGE_ENTRIES: usize = 1024;

/// Entries as the diff sees them: keys and fingerprints, ascending.
type Entries = Vec<(Vec<u8>, Sum)>;

/// A copy, seen as the diff needs it. It must not change while a session or a responder uses it.
pub trait Contents {
    /// What reading can fail with.
    type Error;

    /// [`crate::fingerprint::FingerprintKey::id`] of the key under which the sums are made.
    fn key_id(&self) -> u64;

    /// Count and sum of the entries in `low..high`.
    fn summary(&mut self, low: &[u8], high: Option<&[u8]>) -> Result<Summary, Self::Error>;

    /// Count and sum of each part that `cuts` make of `low..high`; they ascend strictly inside it.
    /// What pays for both sides of a cut, when the parts are summed up one by one, should not.
    fn summaries(
        &mut self,
        low: &[u8],
        cuts: &[Vec<u8>],
        high: Option<&[u8]>,
    ) -> Result<Vec<Summary>, Self::Error> {
        let lows = core::iter::once(low).chain(cuts.iter().map(Vec::as_slice));
        let highs = cuts.iter().map(|cut| Some(cut.as_slice())).chain([high]);
        (lows.zip(highs))
            .map(|(low, high)| self.summary(low, high))
            .collect()
    }

    /// Keys, strictly ascending and strictly inside `low..high`, that cut the range into about
    /// `parts` parts of like counts. Fewer or none where cheap boundaries are lacking.
    fn split(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        parts: usize,
    ) -> Result<Vec<Vec<u8>>, Self::Error>;

    /// The first `limit` entries in `low..high`, ascending: keys and fingerprints.
    fn entries(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Sum)>, Self::Error>;

    /// The same, each shown to `visit`. Ranges to be sketched are read by this: what can show an
    /// entry without copying its key should.
    fn visit(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], Sum),
    ) -> Result<(), Self::Error> {
        for (key, sum) in self.entries(low, high, limit)? {
            visit(&key, sum);
        }
        Ok(())
    }
}

/// One entry that differs. At least one side has it, and the two are never equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Difference {
    /// The entry's key.
    pub key: Vec<u8>,
    /// Its fingerprint on the asking side, if there.
    pub mine: Option<Sum>,
    /// Its fingerprint on the answering side, if there.
    pub theirs: Option<Sum>,
}

/// A half-open range of keys. Its bounds may be longer than keys are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct KeyRange {
    /// The first key that may be in it.
    pub low: Vec<u8>,
    /// The first key behind it; `None` for no bound. The default is all keys.
    pub high: Option<Vec<u8>>,
}

impl KeyRange {
    fn high(&self) -> Option<&[u8]> {
        self.high.as_deref()
    }

    fn contains(&self, key: &[u8]) -> bool {
        key >= self.low.as_slice() && self.high().is_none_or(|high| key < high)
    }

    fn is_empty(&self) -> bool {
        self.high().is_some_and(|high| high <= self.low.as_slice())
    }

    /// The same keys between bounds that fit a frame.
    fn with_short_bounds(self) -> Self {
        Self {
            low: short_bound(self.low),
            high: self.high.map(short_bound),
        }
    }

    /// The bytes that this range holds in memory, about.
    fn weight(&self) -> usize {
        64 + self.low.len() + self.high.as_ref().map_or(0, Vec::len)
    }

    /// What of the range comes after `key`.
    fn after(&self, key: &[u8]) -> Self {
        Self {
            low: successor(key),
            high: self.high.clone(),
        }
    }

    /// The range cut at `boundaries`, which ascend strictly inside it.
    fn cut(&self, boundaries: Vec<Vec<u8>>) -> Vec<Self> {
        let mut parts = Vec::with_capacity(boundaries.len() + 1);
        let mut low = self.low.clone();
        for boundary in boundaries {
            parts.push(Self {
                low: std::mem::replace(&mut low, boundary.clone()),
                high: Some(boundary),
            });
        }
        parts.push(Self {
            low,
            high: self.high.clone(),
        });
        parts
    }
}

/// A bound between the same keys, at most a byte longer than keys are. No key lies behind the first
/// [`KEY_BYTES_MAX`] bytes of a longer bound and below it: it might as well end a byte later.
fn short_bound(bound: Vec<u8>) -> Vec<u8> {
    if bound.len() > KEY_BYTES_MAX + 1 {
        successor(&bound[..KEY_BYTES_MAX])
    } else {
        bound
    }
}

/// The first key behind `key`.
fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// How a session talks. The default suits; tests make the world small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Drawn at random for each session where the peer or the writers are not trusted: it decides
    /// the short ids, so that nobody prepares two entries with the same.
    pub salt: u32,
    /// Ranges of at most `1 << leaf_log2` entries are settled by a sketch instead of cut further.
    pub leaf_log2: u8,
    /// Frames that may be under way at once.
    pub flight: usize,
    /// Frames after which the session gives up.
    pub frames_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            salt: 0,
            // 4096 entries are read and hashed in about half a millisecond; one level of
            // subranges more would cost more bytes and another round trip. Where differences prove
            // to lie densely it is spent all the same.
            leaf_log2: 12,
            // A megabyte on the wire at once, enough that round trips stop to matter.
            flight: 16,
            frames_max: u64::MAX,
        }
    }
}

/// Why a diff cannot go on. Nothing on either side was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error<E> {
    /// The own copy could not be read.
    Contents(E),
    /// A frame that is not one, damaged on the way.
    Frame(Corrupt),
    /// The sides make fingerprints under different keys: they cannot be compared. It does not say
    /// that anything differs.
    DifferentFingerprintKey {
        /// The id of the own key.
        mine: u64,
        /// The id of the peer's.
        theirs: u64,
    },
    /// The peer speaks another version of the frames.
    Version {
        /// The version that this side speaks.
        mine: u8,
        /// The version that the peer speaks.
        theirs: u8,
    },
    /// The peer broke a rule: its copy changed meanwhile, or it lies.
    Peer(&'static str),
    /// More frames than the limits allow, or than honest copies of these counts can need.
    TooManyFrames,
}

impl<E> From<Corrupt> for Error<E> {
    fn from(corrupt: Corrupt) -> Self {
        Self::Frame(corrupt)
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contents(error) => write!(f, "the copy could not be read: {error}"),
            Self::Frame(corrupt) => write!(f, "{corrupt}"),
            Self::DifferentFingerprintKey { mine, theirs } => write!(
                f,
                "fingerprint keys differ ({mine:016x} here, {theirs:016x} there): \
                 the copies cannot be compared"
            ),
            Self::Version { mine, theirs } => write!(
                f,
                "the peer speaks version {theirs} of diff, this side version {mine}"
            ),
            Self::Peer(rule) => write!(f, "the peer broke a rule of diff: {rule}"),
            Self::TooManyFrames => f.write_str("the diff took more frames than it may"),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for Error<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Contents(error) => Some(error),
            Self::Frame(corrupt) => Some(corrupt),
            _ => None,
        }
    }
}

/// Boundaries that cut a range, by hand where the contents know none. Empty only if there are fewer
/// than two entries (or the contents break their contract).
fn boundaries<C: Contents>(
    contents: &mut C,
    range: &KeyRange,
    parts: u64,
) -> Result<Vec<Vec<u8>>, Error<C::Error>> {
    let parts = usize::try_from(parts.clamp(2, PARTS)).expect("at most 16");
    let mut cuts = contents
        .split(&range.low, range.high(), parts)
        .map_err(Error::Contents)?;
    debug_assert!(
        cuts.iter()
            .all(|cut| range.contains(cut) && *cut > range.low)
    );
    debug_assert!(cuts.is_sorted_by(|a, b| a < b));
    if cuts.len() >= 2 * parts {
        let step = cuts.len().div_ceil(parts);
        cuts = cuts.into_iter().skip(step - 1).step_by(step).collect();
    }
    if cuts.is_empty() {
        let count = (contents.summary(&range.low, range.high()))
            .map_err(Error::Contents)?
            .count;
        if count < 2 {
            return Ok(cuts);
        }
        let half = usize::try_from(count / 2).map_or(PAGE_ENTRIES, |half| half.min(PAGE_ENTRIES));
        let page = contents
            .entries(&range.low, range.high(), half + 1)
            .map_err(Error::Contents)?;
        cuts.extend(page.into_iter().last().map(|(key, _)| key));
        cuts.retain(|cut| *cut > range.low);
    }
    Ok(cuts)
}

/// What a range's sum is compared by: its low bytes, or all of it in a thorough walk.
fn shown(sum: Sum, wide: bool) -> u128 {
    if wide {
        sum.0
    } else {
        sum.0 & ((1 << (8 * wire::NARROW_BYTES)) - 1)
    }
}

/// The short id of an entry: 32 bits of its fingerprint and the salt, never 0.
fn short_id(fingerprint: Sum, salt: u32) -> u32 {
    let bytes = fingerprint.0.to_le_bytes();
    let low = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    let high = u64::from_le_bytes(bytes[8..].try_into().expect("eight bytes"));
    // Odd constants of splitmix64 and of wyhash: any would do, the fingerprint is a hash already.
    let salt = u64::from(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let product = u128::from(low ^ 0xa076_1d64_78bd_642f ^ salt)
        * u128::from(high ^ 0xe703_7ed1_a0b4_28db ^ salt.rotate_left(32));
    let id = u32::from_le_bytes(product.to_le_bytes()[6..10].try_into().expect("four bytes"));
    id.max(1)
}
