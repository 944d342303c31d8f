//! The answering side: a frame in, a frame out, nothing kept.
//!
//! Invariants: an answer is given to at least the first query and to as many as fit the frame and
//! the work allowed for it; the asker repeats the rest. Every answer is true of the snapshot. The
//! ranges of a frame ascend and are disjoint ([`Queries`](super::wire::Queries) refuses others): no
//! entry is asked about twice.

use super::sketch::{self, CAPACITY_MAX, Turn};
use super::wire::{Query, Room, Says, Shape, Split, Writer, read_request, refusal};
use super::{Contents, Entries, Error, KeyRange, PAGE_ENTRIES, PARTS, boundaries, short_id, shown};
use crate::types::Summary;

/// Entries that one frame may make this side read; an honest asker stays far below.
const WORK_ENTRIES: u64 = 1 << 20;

/// A copy of at most so many entries in a range is told whole, rather than cut to match a large
/// one: each of them costs two cuts.
const FEW: u64 = 32;

/// Answers a frame of a [`Session`](super::Session). Where the fingerprint keys or the versions
/// differ the answer is a refusal, by which the asker learns it.
pub fn respond<C: Contents>(contents: &mut C, frame: &[u8]) -> Result<Vec<u8>, Error<C::Error>> {
    let key_id = contents.key_id();
    let request = match read_request::<C::Error>(frame, key_id) {
        Err(Error::DifferentFingerprintKey { .. } | Error::Version { .. }) => {
            return Ok(refusal(key_id));
        }
        request => request?,
    };
    let queries: Vec<(KeyRange, Query)> = request.queries.collect::<Result<_, _>>()?;
    let mut responder = Responder {
        contents,
        shape: request.shape,
        unequal: 0,
        ranges: 0,
        work: 0,
    };
    let summaries = responder.summaries(&queries)?;
    let mut writer = Writer::answer(&request.shape);
    for (i, ((range, query), own)) in queries.iter().zip(summaries).enumerate() {
        let written = writer.out.len();
        let says = responder.answer(range, query, own, writer.room())?;
        if i > 0
            && matches!(&says, Says::Entries { complete: false, entries } if entries.is_empty())
        {
            break;
        }
        writer.says(range, query, own, &says);
        if writer.is_over() {
            writer.out.truncate(written);
            break;
        }
        if responder.work > WORK_ENTRIES {
            break;
        }
    }
    Ok(writer.out)
}

struct Responder<'a, C> {
    contents: &'a mut C,
    shape: Shape,
    /// How many ranges of the frame are unequal, and how many there are: what that suggests is
    /// done to those that are.
    unequal: u64,
    ranges: u64,
    /// Entries read for this frame.
    work: u64,
}

impl<C: Contents> Responder<'_, C> {
    fn summaries(
        &mut self,
        queries: &[(KeyRange, Query)],
    ) -> Result<Vec<Summary>, Error<C::Error>> {
        let mut summaries = Vec::with_capacity(queries.len());
        // Ranges that follow one another are summed up at once.
        for run in queries.chunk_by(|(one, _), (next, _)| one.high() == Some(next.low.as_slice())) {
            let (first, rest) = run.split_first().expect("a run is not empty");
            let cuts: Vec<_> = rest.iter().map(|(range, _)| range.low.clone()).collect();
            let high = rest.last().unwrap_or(first).0.high();
            let own = (self.contents)
                .summaries(&first.0.low, &cuts, high)
                .map_err(Error::Contents)?;
            summaries.extend(own);
        }
        for ((_, query), own) in queries.iter().zip(&summaries) {
            self.unequal += u64::from(!self.is_equal(query, *own));
        }
        self.ranges = queries.len() as u64;
        Ok(summaries)
    }

    fn is_equal(&self, query: &Query, own: Summary) -> bool {
        match query {
            Query::Total(theirs) => *theirs == own,
            Query::Compare { count, sum } => {
                *count == own.count && *sum == shown(own.sum, self.shape.wide)
            }
            _ => false,
        }
    }

    fn answer(
        &mut self,
        range: &KeyRange,
        query: &Query,
        own: Summary,
        room: Room,
    ) -> Result<Says, Error<C::Error>> {
        match query {
            Query::Total(_) | Query::Compare { .. } if self.is_equal(query, own) => Ok(Says::Equal),
            Query::Total(Summary { count, .. }) | Query::Compare { count, .. } => {
                self.differing(range, own, *count, room)
            }
            Query::Sketch { from, to } => {
                if *from > *to || *to > CAPACITY_MAX {
                    return Err(Error::Peer("a sketch is larger than sketches are"));
                }
                if own.count > self.leaf_max() {
                    return Err(Error::Peer("a sketch is asked of too many entries"));
                }
                self.sketch(range, own, *from, *to)
            }
            Query::Fetch(ids) => {
                if own.count > self.leaf_max() {
                    return Err(Error::Peer("ids are asked of too many entries"));
                }
                let mut ids = ids.clone();
                ids.sort_unstable();
                self.fetch(range, own, &ids, room)
            }
            Query::List => self.list(range, room),
        }
    }

    /// The most entries that are sketched: a leaf of the asker may hold more here.
    fn leaf_max(&self) -> u64 {
        self.shape.leaf() * 4
    }

    /// What to say about a range that differs, where the asker has `theirs` entries.
    fn differing(
        &mut self,
        range: &KeyRange,
        own: Summary,
        theirs: u64,
        room: Room,
    ) -> Result<Says, Error<C::Error>> {
        let larger = own.count.max(theirs);
        if own.count <= 1 || theirs == 0 || (own.count <= FEW && theirs > self.shape.leaf()) {
            return self.list(range, room);
        }
        let mut parts = sketch::parts(self.unequal, self.ranges, own.count, Turn::Answering);
        if larger > self.shape.leaf() {
            parts = parts.max(larger.div_ceil(self.shape.leaf()).saturating_mul(2));
        }
        if parts < 2 {
            let capacity = sketch::capacity(self.unequal, self.ranges);
            return self.sketch(range, own, 0, capacity);
        }
        self.split(range, own, parts.min(PARTS))
    }

    fn split(
        &mut self,
        range: &KeyRange,
        own: Summary,
        parts: u64,
    ) -> Result<Says, Error<C::Error>> {
        let mut cuts = boundaries(self.contents, range, parts)?;
        if cuts.is_empty() {
            return Err(Error::Peer("the own contents cannot be cut"));
        }
        // Long keys may be too many for a frame, never the two that then remain.
        while cuts.len() > 2 && cuts.iter().map(|cut| cut.len() + 40).sum::<usize>() > 48 * 1024 {
            let mut keep = false;
            cuts.retain(|_| {
                keep = !keep;
                keep
            });
        }
        let mut split = Split {
            count: own.count,
            sum: shown(own.sum, self.shape.wide),
            below: Vec::with_capacity(cuts.len()),
        };
        // The part above the last cut is what remains: the asker works it out.
        let last = cuts.pop().expect("there is a cut");
        let below = (self.contents)
            .summaries(&range.low, &cuts, Some(&last))
            .map_err(Error::Contents)?;
        cuts.push(last);
        for (cut, below) in cuts.into_iter().zip(below) {
            let shown = shown(below.sum, self.shape.wide);
            split.below.push((cut, below.count, shown));
        }
        Ok(Says::Split(split))
    }

    /// Power sums of the ids, or the ids themselves where these are no more.
    fn sketch(
        &mut self,
        range: &KeyRange,
        own: Summary,
        from: u32,
        to: u32,
    ) -> Result<Says, Error<C::Error>> {
        let salt = self.shape.salt;
        let mut ids = Vec::new();
        let mut gather = |_: &[u8], sum| ids.push(short_id(sum, salt));
        (self.contents)
            .visit(&range.low, range.high(), usize::MAX, &mut gather)
            .map_err(Error::Contents)?;
        self.work += own.count;
        if ids.len() <= (to - from) as usize {
            return Ok(Says::Ids(ids));
        }
        let mut sums = vec![0; (to - from) as usize];
        sketch::add(&mut sums, from, &ids);
        Ok(Says::Sketch(sums))
    }

    /// The entries with one of `ids`, which ascend, as far as there is room.
    fn fetch(
        &mut self,
        range: &KeyRange,
        own: Summary,
        ids: &[u32],
        mut room: Room,
    ) -> Result<Says, Error<C::Error>> {
        let salt = self.shape.salt;
        let mut complete = true;
        let mut entries: Entries = Vec::new();
        let mut gather = |key: &[u8], sum| {
            if complete && ids.binary_search(&short_id(sum, salt)).is_ok() {
                complete = room.take(key);
                if complete {
                    entries.push((key.to_vec(), sum));
                }
            }
        };
        (self.contents)
            .visit(&range.low, range.high(), usize::MAX, &mut gather)
            .map_err(Error::Contents)?;
        self.work += own.count;
        Ok(Says::Entries { complete, entries })
    }

    /// All entries, as far as there is room.
    fn list(&mut self, range: &KeyRange, mut room: Room) -> Result<Says, Error<C::Error>> {
        let mut entries: Entries = Vec::new();
        let mut rest = range.clone();
        while !rest.is_empty() {
            let page = (self.contents)
                .entries(&rest.low, rest.high(), PAGE_ENTRIES)
                .map_err(Error::Contents)?;
            self.work += page.len() as u64;
            let is_last = page.len() < PAGE_ENTRIES;
            for (key, sum) in page {
                if !room.take(&key) {
                    return Ok(Says::Entries {
                        complete: false,
                        entries,
                    });
                }
                entries.push((key, sum));
            }
            match entries.last() {
                Some((key, _)) if !is_last => rest = rest.after(key),
                _ => break,
            }
        }
        Ok(Says::Entries {
            complete: true,
            entries,
        })
    }
}
