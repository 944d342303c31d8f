//! Which incarnations are known, and what their beginnings kill.
//!
//! Invariants: ascending by incarnation, one entry each. What a beginning kills does not depend on
//! how it was learnt: an opening that wrote a valid block, or a superblock, has happened.

use crate::format::log_block::GroupHeader;
use crate::format::superblock::{IncarnationStart, Superblock};
use crate::types::{Incarnation, Lsn};

impl IncarnationStart {
    /// What a block says of the incarnation that wrote it.
    pub(super) fn of_group(group: &GroupHeader) -> Self {
        Self {
            incarnation: group.incarnation,
            opening: group.opening,
            start: group.incarnation_start,
        }
    }

    /// What a superblock says of the incarnation that wrote it.
    pub(super) fn of_superblock(superblock: &Superblock) -> Self {
        Self {
            incarnation: superblock.incarnation,
            opening: superblock.opening,
            start: superblock.cut,
        }
    }
}

/// The known incarnations.
#[derive(Debug, Clone, Default)]
pub(super) struct Incarnations(Vec<IncarnationStart>);

impl Incarnations {
    /// Adds one, unless its number is known already: the first word counts.
    pub(super) fn learn(&mut self, new: IncarnationStart) {
        let search = self
            .0
            .binary_search_by_key(&new.incarnation, |known| known.incarnation);
        if let Err(at) = search {
            self.0.insert(at, new);
        }
    }

    /// Whether a block's word about its incarnation contradicts what is known.
    pub(super) fn contradicts(&self, new: &IncarnationStart) -> bool {
        self.get(new.incarnation).is_some_and(|known| known != new)
    }

    fn get(&self, incarnation: Incarnation) -> Option<&IncarnationStart> {
        let search = self
            .0
            .binary_search_by_key(&incarnation, |known| known.incarnation);
        search.ok().map(|at| &self.0[at])
    }

    /// Where the log of `incarnation` ends because a later one begins.
    pub(super) fn limit(&self, incarnation: Incarnation) -> Option<Lsn> {
        let later = self.0.iter().rev();
        later
            .take_while(|known| known.incarnation > incarnation)
            .map(|known| known.start)
            .min()
    }

    /// Whether what `incarnation` wrote at `lsn` is dead.
    pub(super) fn is_dead(&self, incarnation: Incarnation, lsn: Lsn) -> bool {
        self.limit(incarnation).is_some_and(|limit| limit <= lsn)
    }

    /// The incarnation that a live block at `lsn` must be of, or of a later one.
    pub(super) fn governing(&self, lsn: Lsn) -> Incarnation {
        let began = self.0.iter().rev().find(|known| known.start <= lsn);
        began.map_or(Incarnation(0), |known| known.incarnation)
    }

    /// The largest first LSN of the incarnations after `incarnation`: all below was durable.
    pub(super) fn claim_after(&self, incarnation: Incarnation) -> Option<Lsn> {
        let later = self.0.iter().rev();
        later
            .take_while(|known| known.incarnation > incarnation)
            .map(|known| known.start)
            .max()
    }

    /// Those that wrote the live log between `start` and `end`: what the next superblock names.
    pub(super) fn live_between(&self, start: Lsn, end: Lsn) -> Vec<IncarnationStart> {
        let live = |known: &&IncarnationStart| {
            let ends = self.limit(known.incarnation).unwrap_or(Lsn(u64::MAX));
            known.start <= end && ends > known.start && ends > start
        };
        self.0.iter().filter(live).copied().collect()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &IncarnationStart> {
        self.0.iter()
    }
}
