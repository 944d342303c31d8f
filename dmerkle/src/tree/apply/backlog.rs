//! About how much will be pending behind a run of leaves that change, before any of them is read: so
//! that the clean leaf which may be packed together with it is read ahead, too.
//!
//! Invariants: a guess, which costs a read in vain or a wait where it is wrong, and decides nothing.

use crate::tree::pending::Limits;

/// What is pending behind the leaves named so far.
pub(super) struct Backlog {
    limits: Limits,
    /// The child behind the run.
    next: usize,
    bytes: usize,
    /// By how much that may be wrong: a leaf written meanwhile lacks up to an entry.
    slack: usize,
    /// Bytes of the longest operation so far.
    longest: usize,
}

impl Backlog {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            next: 0,
            bytes: 0,
            slack: 0,
            longest: 0,
        }
    }

    /// Child `index`, of `bytes` bytes, will be opened. If it is not the next one, all that was
    /// pending is written before it.
    pub(super) fn leaf(&mut self, index: usize, bytes: usize) {
        if index != self.next {
            (self.bytes, self.slack) = (0, 0);
        }
        self.next = index + 1;
        // Its header and its fences are counted with its entries.
        self.slack += self.limits.bytes / 64;
        self.bytes += bytes;
        self.write();
    }

    /// An operation on that child.
    pub(super) fn op(&mut self, bytes: usize) {
        self.longest = self.longest.max(bytes);
        self.bytes += bytes;
        self.write();
    }

    /// A leaf is written once two leaves' worth is pending.
    fn write(&mut self) {
        while self.bytes >= 2 * self.limits.bytes {
            let half = (self.longest / 2).min(self.limits.bytes / 8);
            self.bytes -= self.limits.bytes - half;
            self.slack += half;
        }
    }

    /// Whether a clean leaf of `other` bytes behind the run may be packed together with it.
    pub(super) fn may_want(&self, other: usize) -> bool {
        let slack = self.slack.min(self.limits.bytes / 4);
        [
            self.bytes.saturating_sub(slack),
            self.bytes,
            self.bytes + slack,
        ]
        .into_iter()
        .any(|own| self.limits.join(own, other))
    }
}
