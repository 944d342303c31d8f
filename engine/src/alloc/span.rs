//! Stretches of units and sets of them.
//!
//! Invariant of a [`SpanSet`]: its spans are not empty, do not overlap and do not touch.

use dmerkle::types::{BlockId, Run};
use std::collections::BTreeMap;

/// The units from `start` up to, not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub start: u64,
    pub end: u64,
}

impl Span {
    pub fn new(start: u64, end: u64) -> Self {
        debug_assert!(start < end);
        Self { start, end }
    }

    /// `units` from `start` on.
    pub fn at(start: u64, units: u32) -> Self {
        Self::new(start, start + u64::from(units))
    }

    pub fn of(run: Run) -> Self {
        Self {
            start: run.start.0,
            end: run.end(),
        }
    }

    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Its length as a number of units. Spans lie within a region, which has at most 2^24.
    pub fn units(self) -> u32 {
        u32::try_from(self.len()).expect("a span lies within a region")
    }

    pub fn run(self) -> Run {
        Run {
            start: BlockId(self.start),
            units: self.units(),
        }
    }

    /// The part of it that lies in `other`.
    pub fn within(self, other: Self) -> Option<Self> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Self { start, end })
    }
}

/// A set of units, kept as coalesced spans.
#[derive(Debug, Clone, Default)]
pub(super) struct SpanSet {
    /// First unit to the unit behind the last.
    spans: BTreeMap<u64, u64>,
}

impl SpanSet {
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Adds units, of which some may be in the set already.
    pub fn insert(&mut self, span: Span) {
        let Span { mut start, mut end } = span;
        // From the highest span that begins in or at the end of the new one, downwards.
        while let Some((&s, &e)) = self.spans.range(..=end).next_back() {
            if e < start {
                break;
            }
            self.spans.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.spans.insert(start, end);
    }

    /// Takes units out, of which some may not be in the set.
    pub fn remove(&mut self, span: Span) {
        while let Some((&s, &e)) = self.spans.range(..span.end).next_back() {
            if e <= span.start {
                break;
            }
            self.spans.remove(&s);
            if e > span.end {
                self.spans.insert(span.end, e);
            }
            if s < span.start {
                self.spans.insert(s, span.start);
            }
        }
    }

    /// What the set holds of `span`, ascending.
    pub fn pieces(&self, span: Span) -> impl Iterator<Item = Span> + '_ {
        pieces(&self.spans, span, |&end, _| end)
    }

    /// What the set lacks of `span`, ascending.
    pub fn gaps(&self, span: Span) -> impl Iterator<Item = Span> + '_ {
        gaps(self.pieces(span), span)
    }

    /// How many units of `span` are in the set.
    pub fn overlap(&self, span: Span) -> u64 {
        self.pieces(span).map(Span::len).sum()
    }

    /// All spans, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Span> + '_ {
        self.spans.iter().map(|(&start, &end)| Span { start, end })
    }
}

/// What an ordered map of disjoint spans holds of `span`; `end_of` tells a span's end from its
/// value and its start.
pub(super) fn pieces<'m, V>(
    map: &'m BTreeMap<u64, V>,
    span: Span,
    end_of: impl Fn(&V, u64) -> u64 + 'm,
) -> impl Iterator<Item = Span> + 'm {
    let first = map
        .range(..=span.start)
        .next_back()
        .map_or(span.start, |(&start, _)| start);
    map.range(first..span.end)
        .filter_map(move |(&start, value)| {
            let end = end_of(value, start);
            Span { start, end }.within(span)
        })
}

/// The stretches of `span` between `pieces`, which lie in it, ascending.
pub(super) fn gaps(pieces: impl Iterator<Item = Span>, span: Span) -> impl Iterator<Item = Span> {
    let end = Span {
        start: span.end,
        end: span.end,
    };
    pieces
        .chain(std::iter::once(end))
        .scan(span.start, |at, piece| {
            let gap = Span {
                start: *at,
                end: piece.start,
            };
            *at = piece.end;
            Some(gap)
        })
        .filter(|gap| gap.start < gap.end)
}
