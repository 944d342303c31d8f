//! When the values that were written make a checkpoint due: what they replace stays allocated until
//! then.
//!
//! A blind put does not know what it replaces, and to look would be a read from the disk. So the
//! next checkpoint is expected to let go as much of what was written as the last one did, and at
//! least a quarter: a load that turns into overwriting is noticed soon, and a load of new keys
//! pays with one checkpoint for a fifth of what is live.

use dmerkle::Geometry;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes newly retired that make a checkpoint due: a twentieth of what is live, at least this.
const RETIRED_BYTES_MIN: u64 = 64 << 20;
const RETIRED_SHARE: u64 = 20;

/// The least share of what was written that is expected to be retired, in percent.
const EXPECTED_PERCENT_MIN: u64 = 25;

pub(crate) struct Turnover {
    units_min: u64,
    /// Units of values written that make a checkpoint due.
    due_units: AtomicU64,
}

impl Turnover {
    /// Of a store of which nothing is known yet.
    pub(crate) fn new(geometry: &Geometry) -> Self {
        let units_min = RETIRED_BYTES_MIN / geometry.unit();
        Self {
            units_min,
            due_units: AtomicU64::new(units_min),
        }
    }

    /// Whether so many units of values, written since the last checkpoint, want the next one.
    pub(crate) fn is_due(&self, written_units: u64) -> bool {
        written_units > self.due_units.load(Ordering::Relaxed)
    }

    /// A checkpoint of so many units of values has retired so many, and left so many allocated.
    pub(crate) fn learn(&self, written: u64, retired: u64, allocated: u64) {
        let percent = (retired * 100)
            .checked_div(written)
            .unwrap_or(0)
            .max(EXPECTED_PERCENT_MIN);
        let retired_most = self.units_min.max(allocated / RETIRED_SHARE);
        self.due_units
            .store(retired_most * 100 / percent, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overwriting_makes_a_checkpoint_due_sooner_than_a_load() {
        let turnover = Turnover::new(&Geometry::default());
        let mib = |bytes: u64| bytes * 256; // units of 4 KiB
        assert!(!turnover.is_due(mib(64)));
        assert!(turnover.is_due(mib(64) + 1));
        turnover.learn(mib(100), 0, mib(10_000));
        assert!(!turnover.is_due(mib(2000)), "a load retires nothing");
        turnover.learn(mib(2000), mib(2000), mib(10_000));
        assert!(turnover.is_due(mib(501)));
        turnover.learn(mib(10), mib(1000), mib(10_000));
        assert!(
            turnover.is_due(mib(6)),
            "deletes retire more than was written"
        );
    }
}
