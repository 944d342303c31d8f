//! The free runs outside of node clusters, found by place and by size in O(log n).
//!
//! Invariants:
//! - Both indexes hold the same runs; runs do not overlap and do not touch (they are coalesced).
//! - No run crosses from one region into the next: the map copies at the head of every region are
//!   never free, so the neighbours of two regions never touch.

use super::backing::Bound;
use super::span::{self, Span};
use std::collections::{BTreeMap, BTreeSet};

/// How many runs of nearly the right size are looked at for one that is well aligned, before a
/// run is taken that is large enough however it lies. Tests come to the end of it sooner.
const ALIGNED_PROBES: usize = if cfg!(test) { 2 } else { 32 };

/// Free space as coalesced runs.
#[derive(Debug, Clone, Default)]
pub(super) struct FreeRuns {
    /// First unit to units.
    by_start: BTreeMap<u64, u32>,
    /// Units and first unit: the first at or above a size is the best fit, the lowest of equals.
    by_size: BTreeSet<(u32, u64)>,
    units: u64,
}

impl FreeRuns {
    /// All free units.
    pub fn units(&self) -> u64 {
        self.units
    }

    /// Units of the largest run.
    pub fn largest(&self) -> u32 {
        self.by_size.last().map_or(0, |&(units, _)| units)
    }

    /// Adds a run and coalesces it with its neighbours. Its units must not be free.
    pub fn give(&mut self, span: Span) {
        let mut merged = span;
        if let Some((&start, &units)) = self.by_start.range(..span.end).next_back() {
            let before = Span::at(start, units);
            assert!(
                before.end <= span.start,
                "units {}..{} are given back, but {}..{} are free",
                span.start,
                span.end,
                before.start,
                before.end
            );
            if before.end == span.start {
                self.forget(before);
                merged.start = before.start;
            }
        }
        if let Some(&units) = self.by_start.get(&span.end) {
            let after = Span::at(span.end, units);
            self.forget(after);
            merged.end = after.end;
        }
        self.note(merged);
    }

    /// Takes `part` out of the free run `run`, in which it lies.
    pub fn take(&mut self, run: Span, part: Span) {
        debug_assert!(run.start <= part.start && part.end <= run.end);
        self.forget(run);
        if run.start < part.start {
            self.note(Span::new(run.start, part.start));
        }
        if part.end < run.end {
            self.note(Span::new(part.end, run.end));
        }
    }

    /// Takes out what is free of `span`, which may be anything, and tells each piece.
    pub fn take_what_is_free(&mut self, span: Span, mut taken: impl FnMut(Span)) {
        while let Some(run) = self.last_before(span.end).filter(|r| r.end > span.start) {
            let piece = run.within(span).expect("they overlap");
            self.take(run, piece);
            taken(piece);
        }
    }

    /// The highest run that begins below `unit`.
    pub fn last_before(&self, unit: u64) -> Option<Span> {
        let (&start, &units) = self.by_start.range(..unit).next_back()?;
        Some(Span::at(start, units))
    }

    /// The runs of at least `units` that come before `bound` in the order of sizes, largest first.
    pub fn smaller(&self, bound: Bound, units: u32) -> impl Iterator<Item = Span> + '_ {
        let (first, end) = ((units, 0), (bound.0, bound.1));
        let runs = (first < end).then(|| self.by_size.range(first..end).rev());
        runs.into_iter()
            .flatten()
            .map(|&(units, start)| Span::at(start, units))
    }

    /// What is free of `span`, ascending.
    pub fn pieces(&self, span: Span) -> impl Iterator<Item = Span> + '_ {
        span::pieces(&self.by_start, span, |&units, start| {
            start + u64::from(units)
        })
    }

    /// What is not free of `span`, ascending.
    pub fn gaps(&self, span: Span) -> impl Iterator<Item = Span> + '_ {
        span::gaps(self.pieces(span), span)
    }

    /// The smallest run of at least `units`, the lowest of equals.
    pub fn best_fit(&self, units: u32) -> Option<Span> {
        self.at_least(units).next()
    }

    /// Runs of at least `units`, smallest first.
    pub fn at_least(&self, units: u32) -> impl DoubleEndedIterator<Item = Span> + '_ {
        self.by_size
            .range((units, 0)..)
            .map(|&(units, start)| Span::at(start, units))
    }

    /// A small run with `units` (a power of two) that begin where `align` says, and where they
    /// begin. `align(start)` is the first good place at or above `start`, less than `units` away.
    /// With `thorough` none is overlooked, at the price of looking at all that are nearly large
    /// enough.
    pub fn aligned_fit(
        &self,
        units: u32,
        thorough: bool,
        align: impl Fn(u64) -> u64,
    ) -> Option<(Span, u64)> {
        let fit = |run: Span| {
            let start = align(run.start);
            (start + u64::from(units) <= run.end).then_some((run, start))
        };
        let probes = if thorough { usize::MAX } else { ALIGNED_PROBES };
        self.at_least(units)
            .take(probes)
            .find_map(fit)
            // However it lies, an aligned piece is in this one.
            .or_else(|| self.at_least(2 * units - 1).find_map(fit))
    }

    fn note(&mut self, run: Span) {
        self.by_start.insert(run.start, run.units());
        self.by_size.insert((run.units(), run.start));
        self.units += run.len();
    }

    fn forget(&mut self, run: Span) {
        let known = self.by_start.remove(&run.start);
        assert_eq!(
            known,
            Some(run.units()),
            "no free run begins at {}",
            run.start
        );
        self.by_size.remove(&(run.units(), run.start));
        self.units -= run.len();
    }

    /// Asserts that both indexes say the same and that runs are coalesced.
    #[cfg(test)]
    pub fn verify(&self) {
        assert_eq!(self.by_start.len(), self.by_size.len());
        let mut end_before = None;
        let mut units_seen = 0;
        for (&start, &units) in &self.by_start {
            assert!(self.by_size.contains(&(units, start)));
            assert!(end_before < Some(start), "runs touch at {start}");
            end_before = Some(start + u64::from(units));
            units_seen += u64::from(units);
        }
        assert_eq!(units_seen, self.units);
    }
}
