//! The answering side: a frame in, a frame out, nothing kept.
//!
//! Invariants: an answer is given to at least the first query and to as many as fit the frame and
//! the work allowed for it; the asker repeats the rest. Every answer is true of the snapshot.

use super::sketch::{self, CAPACITY_MAX};
use super::wire::{KEY_ROOM, Query, Says, Shape, Split, Writer, read_request, refusal};
use super::{
    Contents, Entries, Error, FRAME_BYTES_MAX, KeyRange, PAGE_ENTRIES, PARTS, boundaries, short_id,
    shown,
};
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
        capacity: 0,
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
        if writer.out.len() > FRAME_BYTES_MAX {
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
    /// Sums to a sketch, as the share of unequal ranges suggests.
    capacity: u32,
    /// Entries read for this frame.
    work: u64,
}

impl<C: Contents> Responder<'_, C> {
    fn summaries(
        &mut self,
        queries: &[(KeyRange, Query)],
    ) -> Result<Vec<Summary>, Error<C::Error>> {
        let mut unequal = 0;
        let mut summaries = Vec::with_capacity(queries.len());
        for (range, query) in queries {
            let own = self.summary(range)?;
            unequal += u64::from(!self.is_equal(query, own));
            summaries.push(own);
        }
        self.capacity = sketch::capacity(unequal, queries.len() as u64);
        Ok(summaries)
    }

    fn summary(&mut self, range: &KeyRange) -> Result<Summary, Error<C::Error>> {
        (self.contents)
            .summary(&range.low, range.high())
            .map_err(Error::Contents)
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
        room: usize,
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
                self.list(range, room, Some(&ids))
            }
            Query::List => self.list(range, room, None),
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
        room: usize,
    ) -> Result<Says, Error<C::Error>> {
        let larger = own.count.max(theirs);
        if own.count <= 1 || theirs == 0 || (own.count <= FEW && theirs > self.shape.leaf()) {
            return self.list(range, room, None);
        }
        if larger <= self.shape.leaf() {
            return self.sketch(range, own, 0, self.capacity);
        }
        let parts = larger.div_ceil(self.shape.leaf()).saturating_mul(2);
        self.split(range, own, parts.clamp(2, PARTS))
    }

    fn split(
        &mut self,
        range: &KeyRange,
        own: Summary,
        parts: u64,
    ) -> Result<Says, Error<C::Error>> {
        let mut cuts = boundaries(self.contents, range, own.count, parts)?;
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
        for part in range.cut(cuts) {
            let below = self.summary(&part)?;
            if let (Some(high), true) = (&part.high, part.high != range.high) {
                let shown = shown(below.sum, self.shape.wide);
                split.below.push((high.clone(), below.count, shown));
            }
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
        let mut sums = vec![0; (to - from) as usize];
        let as_ids = own.count <= u64::from(to - from);
        let mut rest = range.clone();
        while !rest.is_empty() {
            let page = self.page(&rest, PAGE_ENTRIES)?;
            if as_ids {
                ids.extend(sketch::ids(&page, salt));
            } else {
                sketch::add(&mut sums, from, sketch::ids(&page, salt));
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE_ENTRIES => rest = rest.after(key),
                _ => break,
            }
        }
        Ok(if as_ids {
            Says::Ids(ids)
        } else {
            Says::Sketch(sums)
        })
    }

    /// Entries from the front as far as there is room, all or those with one of `ids` (sorted).
    fn list(
        &mut self,
        range: &KeyRange,
        room: usize,
        ids: Option<&[u32]>,
    ) -> Result<Says, Error<C::Error>> {
        let salt = self.shape.salt;
        let mut room = room.saturating_sub(64);
        let mut entries: Entries = Vec::new();
        let mut rest = range.clone();
        while !rest.is_empty() {
            let page = self.page(&rest, PAGE_ENTRIES)?;
            let last = page.last().map(|(key, _)| key.clone());
            let is_full = page.len() == PAGE_ENTRIES;
            for (key, sum) in page {
                if ids.is_some_and(|ids| ids.binary_search(&short_id(sum, salt)).is_err()) {
                    continue;
                }
                let bytes = key.len() + KEY_ROOM - crate::format::body::KEY_BYTES_MAX + 16;
                if bytes > room {
                    return Ok(Says::Entries {
                        complete: false,
                        entries,
                    });
                }
                room -= bytes;
                entries.push((key, sum));
            }
            match last {
                Some(key) if is_full => rest = rest.after(&key),
                _ => break,
            }
        }
        Ok(Says::Entries {
            complete: true,
            entries,
        })
    }

    fn page(&mut self, range: &KeyRange, limit: usize) -> Result<Entries, Error<C::Error>> {
        let page = (self.contents)
            .entries(&range.low, range.high(), limit)
            .map_err(Error::Contents)?;
        self.work += page.len() as u64;
        Ok(page)
    }
}
