//! The bytes of the frames.
//!
//! ```text
//! request: kind 1 | version | key id u64 | salt u32 | shape | queries to the end
//!          shape: bits 0-4 leaf_log2, bit 7 whole sums
//!   query: tag | low unless bit 3 | high unless bit 4 | what the query says
//!          tag: bits 0-2 kind, bit 3 = low is the high before (at first the empty key),
//!          bit 4 = no upper bound; the ranges ascend and are disjoint: no low is below the high
//!          before, and nothing follows a range without an upper bound
//!     0 total:   count | sum 16               what do you have here, as a whole
//!     1 compare: count | sum                  are we equal here
//!     2 sketch:  from | to                    power sums `from..to` of your ids
//!     3 fetch:   n | id u32 each              the entries with these ids
//!     4 list:                                 all your entries
//! answer:  kind 2 | version | answers in the order of the queries, perhaps not for all
//!  answer: tag | total: count, sum 16; compare: count (both unless equal) | what it says
//!          tag: bits 0-2 kind, bits 3-7 small
//!     0 equal:   small + 1 queries in a row are equal
//!     1 split:   small + 1 cuts; count | sum | per cut: key | count | sum of what is below it
//!                (for a total or compare query the count stands before already)
//!     2 sketch:  n | power sum u32 each
//!     3 ids:     n | id u32 each
//!     4 entries: small = 1: complete; n | per entry: key | sum 16
//! refusal: kind 3 | version | key id u64
//! ```
//!
//! Numbers without a size are LEB128. A sum is 5 bytes, 16 if the shape says so. A key is a byte
//! of two nibbles (bytes shared with the key before it, bytes that follow; 15 = more in a number
//! after it), then its rest. The key before the first key of an answer is its query's low bound.
//!
//! Invariants: no key is longer than a key (with its successor's byte), and the keys of a frame are
//! at most a mebibyte when spelled out, so that decoding allocates a small multiple of that. A low
//! bound that is the high before is not counted: since ranges ascend, no key is taken over twice.

use super::{Entries, Error, FRAME_BYTES_MAX, KeyRange, VERSION};
use crate::error::{Corrupt, Structure};
use crate::format::body::KEY_BYTES_MAX;
use crate::format::bytes::Reader;
use crate::types::{Sum, Summary};

/// Bytes of a subrange's sum. One in 2^40 that differ looks equal, which the totals catch in the
/// end, at the price of a second walk.
pub(super) const NARROW_BYTES: usize = 5;

/// The largest leaf that a responder takes.
pub(super) const LEAF_LOG2_MAX: u8 = 15;

/// The most that a key takes in a frame besides its bytes.
pub(super) const KEY_LENGTH_BYTES: usize = 1 + 2 * 2;

/// Bytes of a frame's keys when spelled out: what they share costs nothing in the frame, yet
/// memory. An honest frame reaches this only by long keys that are much alike.
pub(super) const SPELLED_BYTES_MAX: usize = 1 << 20;

const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
const REFUSAL: u8 = 3;

const ADJACENT: u8 = 1 << 3;
const UNBOUNDED: u8 = 1 << 4;

/// What all queries of a request share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) key_id: u64,
    pub(super) salt: u32,
    pub(super) leaf_log2: u8,
    pub(super) wide: bool,
}

impl Shape {
    pub(super) fn leaf(&self) -> u64 {
        1 << self.leaf_log2
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Query {
    Total(Summary),
    Compare { count: u64, sum: u128 },
    Sketch { from: u32, to: u32 },
    Fetch(Vec<u32>),
    List,
}

/// The cuts of a range, and what lies below each: count and shown sum. The part above the last
/// cut is what remains of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) count: u64,
    pub(super) sum: u128,
    pub(super) below: Vec<(Vec<u8>, u64, u128)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Says {
    Equal,
    Split(Split),
    Sketch(Vec<u32>),
    Ids(Vec<u32>),
    Entries { complete: bool, entries: Entries },
}

/// An answer, with the peer's summary where the query asked for it (the sum only for a total).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) theirs: Option<Summary>,
    pub(super) says: Says,
}

/// Writes a frame, remembering the key that the next one leans on.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub(super) out: Vec<u8>,
    before: Vec<u8>,
    spelled: usize,
    wide: bool,
    /// Where the run of equals that ends the frame has its tag.
    equals: Option<usize>,
}

impl Writer {
    pub(super) fn request(shape: &Shape) -> Self {
        let mut out = vec![REQUEST, VERSION];
        out.extend_from_slice(&shape.key_id.to_le_bytes());
        out.extend_from_slice(&shape.salt.to_le_bytes());
        out.push(shape.leaf_log2 | u8::from(shape.wide) << 7);
        Self::with(out, shape.wide)
    }

    pub(super) fn answer(shape: &Shape) -> Self {
        Self::with(vec![ANSWER, VERSION], shape.wide)
    }

    fn with(out: Vec<u8>, wide: bool) -> Self {
        Self {
            out,
            before: Vec::new(),
            spelled: 0,
            wide,
            equals: None,
        }
    }

    /// What is left for more.
    pub(super) fn room(&self) -> Room {
        Room {
            bytes: FRAME_BYTES_MAX.saturating_sub(self.out.len()),
            spelled: SPELLED_BYTES_MAX.saturating_sub(self.spelled),
            before: Vec::new(),
        }
    }

    /// Whether more was written than a frame holds: what came last must be taken off.
    pub(super) fn is_over(&self) -> bool {
        self.out.len() > FRAME_BYTES_MAX || self.spelled > SPELLED_BYTES_MAX
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.out.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.out.push((number & 0x7f) as u8);
    }

    fn key(&mut self, key: &[u8]) {
        let shared = shared(key, &self.before);
        self.spelled += key.len();
        let rest = key.len() - shared;
        let nibble = |length: usize| u8::try_from(length.min(15)).expect("a nibble");
        self.out.push(nibble(shared) << 4 | nibble(rest));
        for length in [shared, rest] {
            if length >= 15 {
                self.number(length as u64 - 15);
            }
        }
        self.out.extend_from_slice(&key[shared..]);
        self.before.clear();
        self.before.extend_from_slice(key);
    }

    fn sum(&mut self, sum: u128) {
        let length = if self.wide { 16 } else { NARROW_BYTES };
        self.out.extend_from_slice(&sum.to_le_bytes()[..length]);
    }

    fn ids(&mut self, ids: &[u32]) {
        self.number(ids.len() as u64);
        for id in ids {
            self.out.extend_from_slice(&id.to_le_bytes());
        }
    }

    pub(super) fn query(&mut self, range: &KeyRange, query: &Query) {
        let adjacent = self.before == range.low;
        let kind = match query {
            Query::Total(_) => 0,
            Query::Compare { .. } => 1,
            Query::Sketch { .. } => 2,
            Query::Fetch(_) => 3,
            Query::List => 4,
        };
        let unbounded = range.high.is_none();
        self.out.push(
            kind | if adjacent { ADJACENT } else { 0 } | if unbounded { UNBOUNDED } else { 0 },
        );
        if !adjacent {
            self.key(&range.low);
        }
        if let Some(high) = range.high() {
            self.key(high);
        }
        match query {
            Query::Total(summary) => {
                self.number(summary.count);
                self.out.extend_from_slice(&summary.sum.0.to_le_bytes());
            }
            Query::Compare { count, sum } => {
                self.number(*count);
                self.sum(*sum);
            }
            Query::Sketch { from, to } => {
                self.number((*from).into());
                self.number((*to).into());
            }
            Query::Fetch(ids) => self.ids(ids),
            Query::List => {}
        }
    }

    /// Writes the answer to `query` about `range`.
    pub(super) fn says(&mut self, range: &KeyRange, query: &Query, own: Summary, says: &Says) {
        if *says == Says::Equal {
            match self.equals {
                Some(at) if self.out[at] >> 3 < 31 => self.out[at] += 1 << 3,
                _ => {
                    self.equals = Some(self.out.len());
                    self.out.push(0);
                }
            }
            return;
        }
        self.equals = None;
        let (kind, small) = match says {
            Says::Equal => unreachable!("written above"),
            Says::Split(split) => (1, split.below.len() - 1),
            Says::Sketch(_) => (2, 0),
            Says::Ids(_) => (3, 0),
            Says::Entries { complete, .. } => (4, usize::from(*complete)),
        };
        let small = u8::try_from(small).expect("at most 31");
        assert!(small < 32, "bits 3-7 hold at most 32 cuts");
        self.out.push(kind | small << 3);
        let counted = counted(query);
        if counted {
            self.number(own.count);
        }
        if let Query::Total(_) = query {
            self.out.extend_from_slice(&own.sum.0.to_le_bytes());
        }
        self.before.clone_from(&range.low);
        match says {
            Says::Equal => unreachable!("written above"),
            Says::Split(split) => {
                if !counted {
                    self.number(split.count);
                }
                if !matches!(query, Query::Total(_)) {
                    self.sum(split.sum);
                }
                for (cut, count, sum) in &split.below {
                    self.key(cut);
                    self.number(*count);
                    self.sum(*sum);
                }
            }
            Says::Sketch(sums) => self.ids(sums),
            Says::Ids(ids) => self.ids(ids),
            Says::Entries { entries, .. } => {
                self.number(entries.len() as u64);
                for (key, sum) in entries {
                    self.key(key);
                    self.out.extend_from_slice(&sum.0.to_le_bytes());
                }
            }
        }
    }
}

/// What is left of a frame for the entries of an answer.
pub(super) struct Room {
    bytes: usize,
    spelled: usize,
    before: Vec<u8>,
}

impl Room {
    /// Whether an entry with this key fits; then it is taken off. 64 bytes stay for the answer's
    /// own fields.
    pub(super) fn take(&mut self, key: &[u8]) -> bool {
        let bytes = key.len() - shared(key, &self.before) + KEY_LENGTH_BYTES + 16;
        let fits = bytes + 64 <= self.bytes && key.len() <= self.spelled;
        if fits {
            self.bytes -= bytes;
            self.spelled -= key.len();
            self.before.clear();
            self.before.extend_from_slice(key);
        }
        fits
    }
}

/// How many bytes the keys begin with in common.
fn shared(key: &[u8], before: &[u8]) -> usize {
    key.iter().zip(before).take_while(|(a, b)| a == b).count()
}

fn counted(query: &Query) -> bool {
    matches!(query, Query::Total(_) | Query::Compare { .. })
}

/// What a responder says instead of an answer, when it cannot compare.
pub(super) fn refusal(key_id: u64) -> Vec<u8> {
    let mut out = vec![REFUSAL, VERSION];
    out.extend_from_slice(&key_id.to_le_bytes());
    out
}

/// What came in a frame.
pub(super) struct Request<'a> {
    pub(super) shape: Shape,
    pub(super) queries: Queries<'a>,
}

/// A request, or what to answer when this side cannot take it.
pub(super) fn read_request<E>(frame: &[u8], key_id: u64) -> Result<Request<'_>, Error<E>> {
    let mut fields = open(frame)?;
    let kind = fields.u8()?;
    let version = fields.u8()?;
    if version != VERSION {
        return Err(Error::Version {
            mine: VERSION,
            theirs: version,
        });
    }
    if kind != REQUEST {
        return Err(Corrupt::field(Structure::Frame, "kind", REQUEST.into(), kind.into()).into());
    }
    let theirs = fields.u64()?;
    if theirs != key_id {
        return Err(Error::DifferentFingerprintKey {
            mine: key_id,
            theirs,
        });
    }
    let salt = fields.u32()?;
    let packed = fields.u8()?;
    let shape = Shape {
        key_id,
        salt,
        leaf_log2: packed & 0x1f,
        wide: packed >> 7 == 1,
    };
    if shape.leaf_log2 > LEAF_LOG2_MAX || packed & 0x60 != 0 {
        return Err(Corrupt::field(
            Structure::Frame,
            "shape",
            LEAF_LOG2_MAX.into(),
            packed.into(),
        )
        .into());
    }
    Ok(Request {
        shape,
        queries: Queries {
            fields: Fields {
                reader: fields,
                before: Vec::new(),
                spelled: 0,
                wide: shape.wide,
            },
            is_bounded: true,
        },
    })
}

/// The answers in a frame, or why the peer refuses.
pub(super) fn read_answer<'a, E>(frame: &'a [u8], shape: &Shape) -> Result<Answers<'a>, Error<E>> {
    let mut fields = open(frame)?;
    let kind = fields.u8()?;
    let version = fields.u8()?;
    if version != VERSION {
        return Err(Error::Version {
            mine: VERSION,
            theirs: version,
        });
    }
    match kind {
        ANSWER => Ok(Answers {
            fields: Fields {
                reader: fields,
                before: Vec::new(),
                spelled: 0,
                wide: shape.wide,
            },
            equals: 0,
        }),
        REFUSAL => Err(Error::DifferentFingerprintKey {
            mine: shape.key_id,
            theirs: fields.u64()?,
        }),
        _ => Err(Corrupt::field(Structure::Frame, "kind", ANSWER.into(), kind.into()).into()),
    }
}

fn open(frame: &[u8]) -> Result<Reader<'_>, Corrupt> {
    if frame.len() > FRAME_BYTES_MAX {
        return Err(Corrupt::field(
            Structure::Frame,
            "length",
            FRAME_BYTES_MAX as u64,
            frame.len() as u64,
        ));
    }
    Ok(Reader::new(frame, Structure::Frame))
}

/// Reads what [`Writer`] writes.
struct Fields<'a> {
    reader: Reader<'a>,
    before: Vec<u8>,
    spelled: usize,
    wide: bool,
}

impl Fields<'_> {
    fn number(&mut self) -> Result<u64, Corrupt> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.reader.u8()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(rule("a number is longer than 64 bits"))
    }

    /// A number of things that take at least `bytes` each, all of which must be in the frame.
    fn length(&mut self, bytes: usize) -> Result<usize, Corrupt> {
        let length = self.number()?;
        usize::try_from(length)
            .ok()
            .filter(|length| length.saturating_mul(bytes) <= self.reader.rest().len())
            .ok_or_else(|| rule("more is announced than the frame holds"))
    }

    fn nibble(&mut self, nibble: u8) -> Result<usize, Corrupt> {
        let more = if nibble == 15 { self.number()? } else { 0 };
        Ok(usize::try_from(more).map_or(usize::MAX, |more| more.saturating_add(nibble.into())))
    }

    fn key(&mut self) -> Result<Vec<u8>, Corrupt> {
        let lengths = self.reader.u8()?;
        let shared = self.nibble(lengths >> 4)?;
        let rest = self.nibble(lengths & 15)?;
        if shared > self.before.len() || shared.saturating_add(rest) > KEY_BYTES_MAX + 1 {
            return Err(rule("a key is longer than keys are"));
        }
        self.spelled += shared + rest;
        if self.spelled > SPELLED_BYTES_MAX {
            return Err(rule("the keys of a frame are too long together"));
        }
        self.before.truncate(shared);
        self.before.extend_from_slice(self.reader.take(rest)?);
        Ok(self.before.clone())
    }

    fn whole_sum(&mut self) -> Result<Sum, Corrupt> {
        Ok(Sum(self.reader.u128()?))
    }

    fn sum(&mut self) -> Result<u128, Corrupt> {
        if self.wide {
            return self.reader.u128();
        }
        let mut bytes = [0; 16];
        bytes[..NARROW_BYTES].copy_from_slice(self.reader.take(NARROW_BYTES)?);
        Ok(u128::from_le_bytes(bytes))
    }

    fn ids(&mut self) -> Result<Vec<u32>, Corrupt> {
        let length = self.length(4)?;
        (0..length).map(|_| self.reader.u32()).collect()
    }
}

fn rule(rule: &'static str) -> Corrupt {
    Corrupt::rule(Structure::Frame, rule)
}

/// The queries of a request, one at a time. Their ranges ascend and are disjoint: else a few bytes
/// could ask about everything, thousands of times.
pub(super) struct Queries<'a> {
    fields: Fields<'a>,
    /// Whether the range before has an upper bound.
    is_bounded: bool,
}

impl Iterator for Queries<'_> {
    type Item = Result<(KeyRange, Query), Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.fields.reader.rest().is_empty() {
            return None;
        }
        if !self.is_bounded {
            return Some(Err(rule("a range follows one without an upper bound")));
        }
        let query = self.fields.query();
        if let Ok((range, _)) = &query {
            self.is_bounded = range.high.is_some();
        }
        Some(query)
    }
}

impl Fields<'_> {
    fn query(&mut self) -> Result<(KeyRange, Query), Corrupt> {
        let tag = self.reader.u8()?;
        let high_before = self.before.clone();
        let low = if tag & ADJACENT == 0 {
            self.key()?
        } else {
            high_before.clone()
        };
        if low < high_before {
            return Err(rule("a range begins below the end of the one before"));
        }
        let high = if tag & UNBOUNDED == 0 {
            Some(self.key()?)
        } else {
            None
        };
        let range = KeyRange { low, high };
        if range.is_empty() {
            return Err(rule("a range is empty"));
        }
        let query = match tag & !(ADJACENT | UNBOUNDED) {
            0 => Query::Total(Summary {
                count: self.number()?,
                sum: self.whole_sum()?,
            }),
            1 => Query::Compare {
                count: self.number()?,
                sum: self.sum()?,
            },
            2 => {
                let small = |number| u32::try_from(number).map_err(|_| rule("a sketch is huge"));
                let from = small(self.number()?)?;
                let to = small(self.number()?)?;
                Query::Sketch { from, to }
            }
            3 => Query::Fetch(self.ids()?),
            4 => Query::List,
            _ => return Err(rule("an unknown query")),
        };
        Ok((range, query))
    }
}

/// The answers of a frame, one at a time.
pub(super) struct Answers<'a> {
    fields: Fields<'a>,
    /// Queries that the last tag still calls equal.
    equals: u8,
}

impl Answers<'_> {
    pub(super) fn is_at_end(&self) -> bool {
        self.equals == 0 && self.fields.reader.rest().is_empty()
    }

    /// The answer to `query` about `range`.
    pub(super) fn next(&mut self, range: &KeyRange, query: &Query) -> Result<Answer, Corrupt> {
        if self.equals > 0 {
            self.equals -= 1;
            return Ok(Answer {
                theirs: None,
                says: Says::Equal,
            });
        }
        let tag = self.fields.reader.u8()?;
        let small = tag >> 3;
        if tag == small << 3 {
            self.equals = small;
            return Ok(Answer {
                theirs: None,
                says: Says::Equal,
            });
        }
        let fields = &mut self.fields;
        let mut theirs = None;
        if counted(query) {
            let count = fields.number()?;
            let sum = match query {
                Query::Total(_) => fields.whole_sum()?,
                _ => Sum(0),
            };
            theirs = Some(Summary { count, sum });
        }
        fields.before.clone_from(&range.low);
        let says = match tag & 7 {
            1 => Says::Split(fields.split(range, query, theirs, usize::from(small) + 1)?),
            2 => Says::Sketch(fields.ids()?),
            3 => Says::Ids(fields.ids()?),
            4 => Says::Entries {
                complete: small == 1,
                entries: fields.entries(range)?,
            },
            _ => return Err(rule("an unknown answer")),
        };
        Ok(Answer { theirs, says })
    }
}

impl Fields<'_> {
    fn split(
        &mut self,
        range: &KeyRange,
        query: &Query,
        theirs: Option<Summary>,
        cuts: usize,
    ) -> Result<Split, Corrupt> {
        let count = match theirs {
            Some(theirs) => theirs.count,
            None => self.number()?,
        };
        let sum = match (query, theirs) {
            (Query::Total(_), Some(theirs)) => super::shown(theirs.sum, self.wide),
            _ => self.sum()?,
        };
        let mut below: Vec<(Vec<u8>, u64, u128)> = Vec::with_capacity(cuts);
        for _ in 0..cuts {
            let cut = self.key()?;
            let floor = below.last().map_or(&range.low, |(before, ..)| before);
            if cut <= *floor || !range.contains(&cut) {
                return Err(rule("a cut is outside its range"));
            }
            below.push((cut, self.number()?, self.sum()?));
        }
        Ok(Split { count, sum, below })
    }

    fn entries(&mut self, range: &KeyRange) -> Result<Entries, Corrupt> {
        let length = self.length(17)?;
        let mut entries: Entries = Vec::with_capacity(length);
        for _ in 0..length {
            let key = self.key()?;
            if !range.contains(&key) || entries.last().is_some_and(|(before, _)| *before >= key) {
                return Err(rule("an entry is outside its range"));
            }
            entries.push((key, self.whole_sum()?));
        }
        Ok(entries)
    }
}
