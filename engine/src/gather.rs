//! Gathering: when it is worth to wait for more before a group is written.
//!
//! Writers that one flush released come back together, some microseconds apart. If the first of
//! them leads at once, its batch is flushed alone and all others wait for the flush after it: two
//! flushes where one would do. So whoever would lead waits for as many as the last flush had to do
//! with, and the last one to come leads at once. That pays where they come back sooner than a flush
//! takes; where many writers share few cores they do not, and the short flush costs nothing, because
//! they come back meanwhile. What was measured last decides.
//!
//! Invariants:
//! - Who gathers leads in the end, unless somebody else took the queue meanwhile. Nobody needs to
//!   wake anybody for that.
//! - It waits while others come, at most half a flush for the next one and [`ROUNDS_MAX`] times
//!   that. A writer alone never waits.
//! - Waiting that did not pay is tried ever more rarely.
//! - Nothing but speed depends on it.

use std::time::Duration;

/// Flushes faster than this are not worth a timer, which is late by 50 us on Linux.
const FLUSH_US_MIN: u64 = 40;

/// The longest wait for the next one.
const WAIT_US_MAX: u64 = 2000;

/// How often the wait begins again because somebody came.
pub(crate) const ROUNDS_MAX: u32 = 2;

/// After so many waits in a row that did not pay, one of 64 groups is waited for.
const MISSES_MAX: u32 = 6;

/// What the queue remembers for it, under the queue's lock.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    /// A thread waits for others. It belongs to the groups that are not taken yet.
    running: bool,
    /// Counts the times that groups were taken.
    taken: u64,
    /// Batches that the next groups may hold: those released last, and those that joined meanwhile.
    expected: usize,
    /// Microseconds that a flush takes, smoothed.
    flush_us: u64,
    /// When the last one ended.
    flushed_us: u64,
    /// Waits that did not pay, in a row.
    misses: u32,
    /// Groups to be written at once before waiting is tried again.
    skip: u32,
}

impl Gather {
    /// Whether somebody else waits for more than the `joined` that are there, and leads then.
    pub(crate) fn is_others(&self, joined: usize) -> bool {
        self.running && joined < self.expected
    }

    /// Whether all have come.
    pub(crate) fn is_complete(&self, joined: usize) -> bool {
        joined >= self.expected
    }

    /// Begins to wait for more than the `joined` that are there, if that is worth it: how long for
    /// the next one.
    pub(crate) fn begin(&mut self, joined: usize) -> Option<Duration> {
        let worth = self.skip == 0 && self.flush_us >= FLUSH_US_MIN;
        if self.running || !worth || joined == 0 || self.is_complete(joined) {
            return None;
        }
        self.running = true;
        Some(Duration::from_micros((self.flush_us / 2).min(WAIT_US_MAX)))
    }

    /// Differs once the groups are taken that somebody waited with.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// A leader takes all groups, `joined` batches.
    pub(crate) fn take(&mut self, joined: usize, now_us: u64) {
        self.taken += 1;
        if std::mem::take(&mut self.running) {
            let most_came = joined * 4 >= self.expected * 3;
            let took_us = now_us.saturating_sub(self.flushed_us);
            if most_came && took_us <= self.flush_us + self.flush_us / 4 {
                self.misses = 0;
            } else {
                self.misses = (self.misses + 1).min(MISSES_MAX);
                self.skip = 1 << self.misses;
            }
        }
    }

    /// A flush that took so long releases some writers while others have joined.
    pub(crate) fn flushed(&mut self, released: usize, joined: usize, took_us: u64, now_us: u64) {
        self.flushed_us = now_us;
        self.expected = released + joined;
        self.skip = self.skip.saturating_sub(1);
        self.flush_us = if self.flush_us == 0 {
            took_us
        } else {
            (3 * self.flush_us + took_us) / 4
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_a_flush(released: usize, joined: usize) -> Gather {
        let mut gather = Gather::default();
        gather.flushed(released, joined, 130, 0);
        gather
    }

    #[test]
    fn a_writer_alone_never_waits() {
        let mut gather = Gather::default();
        for _ in 0..100 {
            assert_eq!(gather.begin(1), None);
            gather.take(1, 50);
            gather.flushed(1, 0, 130, 0);
        }
    }

    #[test]
    fn the_first_waits_and_the_last_leads() {
        let mut gather = after_a_flush(7, 1);
        assert_eq!(gather.begin(1), Some(Duration::from_micros(65)));
        assert!(gather.is_others(2) && gather.is_others(7));
        assert_eq!(gather.begin(2), None);
        assert!(!gather.is_others(8) && gather.is_complete(8));
        gather.take(8, 50);
        assert!(!gather.is_others(1));
    }

    #[test]
    fn waiting_for_nothing_becomes_rare_and_success_ends_that() {
        let mut gather = Gather::default();
        let mut waited = 0;
        for _ in 0..1000 {
            waited += u32::from(gather.begin(1).is_some());
            gather.take(1, 50);
            gather.flushed(1, 1, 130, 0);
        }
        assert!((5..30).contains(&waited), "{waited}");
        while gather.begin(1).is_none() {
            gather.flushed(1, 1, 130, 0);
        }
        gather.take(2, 50);
        gather.flushed(2, 0, 130, 0);
        assert!(gather.begin(1).is_some());
    }

    #[test]
    fn writers_that_come_back_later_than_a_flush_are_not_waited_for_often() {
        let mut gather = Gather::default();
        let mut waited = 0;
        for _ in 0..1000 {
            waited += u32::from(gather.begin(1).is_some());
            gather.take(32, 300);
            gather.flushed(32, 0, 130, 0);
        }
        assert!((5..30).contains(&waited), "{waited}");
    }

    #[test]
    fn a_disk_faster_than_a_timer_is_not_waited_for() {
        let mut gather = Gather::default();
        gather.flushed(8, 0, FLUSH_US_MIN - 1, 0);
        assert_eq!(gather.begin(1), None);
    }
}
