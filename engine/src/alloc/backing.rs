//! Which free space the file system has given to the file.
//!
//! Invariants:
//! - After opening nothing that is free counts as backed. It does from [`Allocator::back`] on, which
//!   is said after an `fallocate`, until a hole is punched.
//! - What comes back from use was written, so it is backed; except what was handed out unbacked and
//!   comes back before `back` was said, because the `fallocate` failed.
//! - `unbacked_free` counts what is both free and unbacked, so that admission asks in O(1).

use super::span::Span;
use super::{Allocator, Shortage};
use dmerkle::types::Run;

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
    }

    /// Free backed runs of `units_min` and more, larger free runs first.
    pub fn punchable(&self, units_min: u32) -> impl Iterator<Item = Run> + '_ {
        let runs = self.free.at_least(units_min.max(1)).rev();
        runs.flat_map(|run| self.unbacked.gaps(run))
            .filter(move |gap| gap.len() >= u64::from(units_min))
            .map(Span::run)
    }

    /// Takes a punchable run, at most `units_max` of it, so that nobody writes there while a hole
    /// is punched. It may be punched in pieces; then [`Self::punched`] gives it back.
    pub fn claim_punchable(&mut self, units_min: u32, units_max: u32) -> Option<Run> {
        let found = Span::of(self.punchable(units_min).next()?);
        let keep = found.len().saturating_sub(u64::from(units_max));
        let part = Span::new(found.start + keep, found.end);
        let whole = self.free.last_before(part.end)?;
        self.free.take(whole, part);
        Some(self.placed(part).run)
    }

    /// Gives back a claimed run that is a hole of the file now.
    pub fn punched(&mut self, run: Run) {
        self.unbacked.insert(Span::of(run));
        self.free(run);
    }
}
