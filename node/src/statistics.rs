//! What the node counts while it serves: latencies of each verb, bytes, connections.
//!
//! A latency runs from the last byte of the command to the reply in the output buffer: what the
//! network adds is not the node's.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Latencies from 1 microsecond to an hour, to two significant digits: 30 KiB per verb.
const LATENCY_MICROSECONDS_MAX: u64 = 3_600_000_000;

/// The verbs that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Get.
    Get,
    /// Put.
    Put,
    /// Has.
    Has,
    /// Delete.
    Del,
    /// Hash.
    Hash,
    /// Check.
    Check,
}

impl Verb {
    /// All of them, in the order of their histograms.
    pub const ALL: [Self; 6] = [
        Self::Get,
        Self::Put,
        Self::Has,
        Self::Del,
        Self::Hash,
        Self::Check,
    ];

    /// The word on the wire.
    pub fn name(self) -> &'static str {
        ["get", "put", "has", "del", "hash", "check"][self as usize]
    }
}

/// The counters of a running node.
pub struct Statistics {
    latencies: [Mutex<Histogram<u64>>; 6],
    /// Bytes read from clients.
    pub bytes_in: AtomicU64,
    /// Bytes written to clients.
    pub bytes_out: AtomicU64,
    /// Replies that began with `fail`.
    pub failures: AtomicU64,
    /// Connections open now.
    pub connections: AtomicUsize,
    /// Connections ever accepted.
    pub connections_accepted: AtomicU64,
    /// Connections refused past the limit.
    pub connections_refused: AtomicU64,
    /// Connections ended because the client was idle or slow.
    pub connections_timed_out: AtomicU64,
}

impl Default for Statistics {
    fn default() -> Self {
        let histogram = || {
            let histogram = Histogram::new_with_bounds(1, LATENCY_MICROSECONDS_MAX, 2);
            Mutex::new(histogram.expect("the bounds are sound"))
        };
        Self {
            latencies: std::array::from_fn(|_| histogram()),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            connections_accepted: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            connections_timed_out: AtomicU64::new(0),
        }
    }
}

impl Statistics {
    /// Notes one request.
    pub fn record(&self, verb: Verb, took: Duration) {
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        self.latencies[verb as usize]
            .lock()
            .saturating_record(microseconds);
    }

    /// A summary of a verb's latencies.
    pub fn latency(&self, verb: Verb) -> Latency {
        let histogram = self.latencies[verb as usize].lock();
        if histogram.is_empty() {
            return Latency::default();
        }
        Latency {
            count: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
            buckets: histogram
                .iter_log(2, 2.0)
                .map(|bucket| bucket.count_since_last_iteration())
                .collect(),
        }
    }

    /// Everything.
    pub fn report(&self) -> Report {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Report {
            latencies: Verb::ALL
                .map(|verb| (verb.name().to_owned(), self.latency(verb)))
                .into(),
            bytes_in: count(&self.bytes_in),
            bytes_out: count(&self.bytes_out),
            failures: count(&self.failures),
            connections: self.connections.load(Ordering::Relaxed),
            connections_accepted: count(&self.connections_accepted),
            connections_refused: count(&self.connections_refused),
            connections_timed_out: count(&self.connections_timed_out),
            puts_waiting: 0,
        }
    }
}

/// How long a verb took, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many requests.
    pub count: u64,
    /// The median.
    pub p50_us: u64,
    /// Nine of ten were faster.
    pub p90_us: u64,
    /// 99 of 100 were faster.
    pub p99_us: u64,
    /// 999 of 1000 were faster.
    pub p999_us: u64,
    /// The slowest.
    pub max_us: u64,
    /// How many took less than 2, 4, 8 ... microseconds and not less than the half of it.
    pub buckets: Vec<u64>,
}

/// The counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Latencies by verb.
    pub latencies: Vec<(String, Latency)>,
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes written to clients.
    pub bytes_out: u64,
    /// Replies that began with `fail`.
    pub failures: u64,
    /// Connections open now.
    pub connections: usize,
    /// Connections ever accepted.
    pub connections_accepted: u64,
    /// Connections refused past the limit.
    pub connections_refused: u64,
    /// Connections ended because the client was idle or slow.
    pub connections_timed_out: u64,
    /// Puts of long values that wait until others give room; whoever reports knows.
    #[serde(default)]
    pub puts_waiting: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_summed_up_by_verb() {
        let statistics = Statistics::default();
        for microseconds in 1..=1000 {
            statistics.record(Verb::Put, Duration::from_micros(microseconds));
        }
        statistics.record(Verb::Put, Duration::from_secs(100_000));
        let put = statistics.latency(Verb::Put);
        assert_eq!(put.count, 1001);
        assert!((495..=505).contains(&put.p50_us), "{put:?}");
        assert!(put.max_us >= 3_500_000_000);
        assert_eq!(put.buckets[..4], [1, 2, 4, 8]);
        assert_eq!(put.buckets.iter().sum::<u64>(), put.count);
        assert_eq!(statistics.latency(Verb::Get), Latency::default());
        let names: Vec<_> = statistics
            .report()
            .latencies
            .into_iter()
            .map(|of| of.0)
            .collect();
        assert_eq!(names, ["get", "put", "has", "del", "hash", "check"]);
    }
}
