//! Which free space the file system has given to the file.
//!
//! Invariants:
//! - After opening nothing that is free counts as backed. It does from [`Allocator::back`] on, which
//!   is said after an `fallocate`, until a hole is punched.
//! - What comes back from use was written, so it is backed; except what was handed out unbacked and
//!   comes back before `back` was said, because the `fallocate` failed.
//! - What was free at the opening is doubtful: it counts as unbacked, and may have space that a hole
//!   would give back.
//! - `unbacked_free` counts what is both free and unbacked, so that admission asks in O(1).

use super::span::Span;
use super::{Allocator, Shortage};
use dmerkle::types::Run;

/// Free runs that one call looks at: it is called with a lock held.
const LOOK_RUNS: usize = if cfg!(test) { 3 } else { 1024 };

/// Which free space is to be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Punchable {
    /// What is known to be backed.
    Backed,
    /// What was free when the store was opened, and nobody has asked for since.
    Doubtful,
}

/// A place among the free runs in the order of their sizes: how far a sweep has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound(pub(super) u32, pub(super) u64);

impl Bound {
    /// Above all runs.
    pub const TOP: Self = Self(u32::MAX, 0);

    fn of(run: Span) -> Self {
        Self(run.units(), run.start)
    }
}

/// What [`Allocator::claim_punchable`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// These units are claimed; where to go on.
    Piece(Run, Bound),
    /// Nothing yet; where to go on.
    Below(Bound),
    /// There is nothing.
    None,
}

impl Allocator {
    /// Free units that are known to be backed.
    pub fn backed_free_units(&self) -> u64 {
        self.free.units() + self.clusters.free_units() - self.unbacked_free
    }

    /// Which units of `run` must be backed before they are written. The run may reach past what
    /// was just handed out, so that more is backed at once: what it names beyond that is free or
    /// waits to be backed, too.
    pub fn unbacked_of(&self, run: Run) -> Vec<Run> {
        self.unbacked.pieces(Span::of(run)).map(Span::run).collect()
    }

    /// The lowest unbacked units, `units` of them or fewer: what to back next when backed space
    /// runs short.
    pub fn unbacked_next(&self, units: u32) -> Result<Vec<Run>, Shortage> {
        let mut left = u64::from(units);
        let mut runs = Vec::new();
        for span in self.unbacked.iter() {
            if left == 0 {
                break;
            }
            let end = span.end.min(span.start + left);
            left -= end - span.start;
            runs.push(Span::new(span.start, end).run());
        }
        if runs.is_empty() {
            return Err(self.shortage(1));
        }
        Ok(runs)
    }

    /// Says that the file system has given these units to the file.
    pub fn back(&mut self, run: Run) {
        let span = Span::of(run);
        let newly: Vec<Span> = self.unbacked.pieces(span).collect();
        for piece in newly {
            let free: u64 = self.free_pieces(piece).map(Span::len).sum();
            self.unbacked_free -= free;
        }
        self.unbacked.remove(span);
        self.doubtful.remove(span);
    }

    /// Takes a piece that may be punched out of a free run of `units_min` and more, at most
    /// `units_max` of it, so that nobody writes there while a hole is punched: the largest run
    /// first, of those `below` a claim's end. It may be punched in parts; then [`Self::punched`]
    /// gives it back. The hole grows as large as the free run: its length counts, not the piece's.
    pub fn claim_punchable(
        &mut self,
        kind: Punchable,
        below: Bound,
        units_min: u32,
        units_max: u32,
    ) -> Claim {
        let mut seen = below;
        let mut runs = self.free.smaller(below, units_min).take(LOOK_RUNS);
        let found = runs.find_map(|run| {
            seen = Bound::of(run);
            let piece = match kind {
                Punchable::Backed => self.unbacked.gaps(run).last(),
                Punchable::Doubtful => self.doubtful.pieces(run).last(),
            };
            piece.map(|piece| (run, piece))
        });
        drop(runs);
        let Some((run, piece)) = found else {
            return if seen == below {
                Claim::None
            } else {
                Claim::Below(seen)
            };
        };
        let keep = piece.len().saturating_sub(u64::from(units_max));
        let part = Span::new(piece.start + keep, piece.end);
        self.free.take(run, part);
        // There may be more of this run.
        let after = Bound(run.units(), run.start + 1);
        Claim::Piece(self.placed(part).run, after)
    }

    /// Gives back a claimed run that is a hole of the file now.
    pub fn punched(&mut self, run: Run) {
        self.unbacked.insert(Span::of(run));
        self.doubtful.remove(Span::of(run));
        self.free(run);
    }
}
