//! Contents in a sorted list, for tests, measurements and copies that are no trees.

use super::Contents;
use crate::types::{Sum, Summary};
use core::convert::Infallible;

/// Keys and fingerprints in memory, with running sums, so that a range costs two searches.
#[derive(Debug, Clone, Default)]
pub struct Sorted {
    key_id: u64,
    entries: Vec<(Vec<u8>, Sum)>,
    /// `before[i]` is the sum of the first `i` fingerprints.
    before: Vec<Sum>,
}

impl Sorted {
    /// Of these entries in any order; of equal keys the last one counts.
    pub fn new(key_id: u64, entries: impl IntoIterator<Item = (Vec<u8>, Sum)>) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.reverse();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.dedup_by(|later, first| later.0 == first.0);
        let mut before = Vec::with_capacity(entries.len() + 1);
        before.push(Sum(0));
        let mut sum = Sum(0);
        for (_, fingerprint) in &entries {
            sum = sum.plus(*fingerprint);
            before.push(sum);
        }
        Self {
            key_id,
            entries,
            before,
        }
    }

    fn place(&self, key: &[u8]) -> usize {
        self.entries
            .partition_point(|(held, _)| held.as_slice() < key)
    }

    fn places(&self, low: &[u8], high: Option<&[u8]>) -> (usize, usize) {
        let from = self.place(low);
        let to = high.map_or(self.entries.len(), |high| self.place(high));
        (from, to.max(from))
    }
}

impl Contents for Sorted {
    type Error = Infallible;

    fn key_id(&self) -> u64 {
        self.key_id
    }

    fn summary(&mut self, low: &[u8], high: Option<&[u8]>) -> Result<Summary, Infallible> {
        let (from, to) = self.places(low, high);
        Ok(Summary {
            count: (to - from) as u64,
            sum: self.before[to].minus(self.before[from]),
        })
    }

    fn split(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        parts: usize,
    ) -> Result<Vec<Vec<u8>>, Infallible> {
        let (from, to) = self.places(low, high);
        let mut cuts: Vec<Vec<u8>> = Vec::new();
        for part in 1..parts {
            let at = from + (to - from) * part / parts;
            if at == from || at == to {
                continue;
            }
            let cut = separator(&self.entries[at - 1].0, &self.entries[at].0);
            if cut > low && cuts.last().is_none_or(|last| last.as_slice() < cut) {
                cuts.push(cut.to_vec());
            }
        }
        Ok(cuts)
    }

    fn entries(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Sum)>, Infallible> {
        let (from, to) = self.places(low, high);
        Ok(self.entries[from..to.min(from.saturating_add(limit))].to_vec())
    }
}

/// The shortest key above `left` and at most `right`.
fn separator<'a>(left: &[u8], right: &'a [u8]) -> &'a [u8] {
    let shared = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    &right[..(shared + 1).min(right.len())]
}
