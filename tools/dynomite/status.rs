//! What a node says of itself, for people and for programs.

use std::fmt::Write;
use std::time::Duration;

use node::control::{Client, NodeStatus};
use node::statistics::Latency;
use serde_json::{Value, json};

use crate::arguments::Reporting;
use crate::outcome::{Code, Outcome, say, say_json};

/// The bars of a histogram, from nothing to the most.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// `dynomite status`
pub fn status(reporting: &Reporting) -> Outcome {
    let status = Client::connect(&reporting.folder.data)?.status()?;
    if reporting.json {
        return say_json(&json!(status));
    }
    say(text(&status).trim_end())?;
    Ok(Code::Done)
}

/// How long a node is up, of which the status tells whole seconds.
fn uptime(seconds: u64) -> String {
    match seconds {
        0 => "for less than a second".to_owned(),
        seconds => duration(Duration::from_secs(seconds)),
    }
}

fn text(status: &NodeStatus) -> String {
    let mut out = String::new();
    let counts = &status.statistics;
    let partitions = 1u64 << status.q;
    let lines = [
        format!(
            "node {}, version {}, process {}, up {}",
            status.node,
            status.version,
            status.pid,
            uptime(status.uptime_seconds)
        ),
        format!(
            "text protocol on {}, data in {}",
            status.text_address, status.directory
        ),
        format!(
            "one node for now: N={} R={} W={}, so every value has one copy; {partitions} partitions (Q={})",
            status.n, status.r, status.w, status.q
        ),
        format!(
            "{}, fingerprint {}",
            entries(status.store.entries),
            status.store.fingerprint
        ),
        format!(
            "{} connections, {} accepted, {} refused, {} timed out; {} in, {} out; {} failures",
            counts.connections,
            counts.connections_accepted,
            counts.connections_refused,
            counts.connections_timed_out,
            amount(counts.bytes_in),
            amount(counts.bytes_out),
            counts.failures
        ),
    ];
    let waiting = (counts.puts_waiting > 0).then(|| {
        format!(
            "{} long puts wait for room: as much as is allowed is coming in already",
            counts.puts_waiting
        )
    });
    for line in lines.into_iter().chain(waiting) {
        out.push_str(&line);
        out.push('\n');
    }
    for (name, value) in &status.store.details {
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let _ = writeln!(out, "  {name:<32} {value}");
    }
    out.push('\n');
    out.push_str(&latencies(&counts.latencies));
    out
}

fn latencies(latencies: &[(String, Latency)]) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:<5}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}   1 µs to the slowest, doubling",
        "", "count", "p50", "p90", "p99", "p99.9", "max"
    );
    for (name, latency) in latencies {
        let _ = write!(out, "{name:<5}{:>10}", latency.count);
        if latency.count > 0 {
            let of = [
                latency.p50_us,
                latency.p90_us,
                latency.p99_us,
                latency.p999_us,
                latency.max_us,
            ];
            for microseconds in of {
                let _ = write!(out, "{:>10}", duration(Duration::from_micros(microseconds)));
            }
            let _ = write!(out, "   {}", bars(&latency.buckets));
        }
        out.push('\n');
    }
    out
}

fn bars(buckets: &[u64]) -> String {
    let most = buckets.iter().copied().max().unwrap_or(0).max(1);
    let bar = |count: u64| {
        // The rarest still shows.
        let height = (count * 8).div_ceil(most);
        BARS[usize::try_from(height).unwrap_or(8).min(8)]
    };
    buckets.iter().map(|&count| bar(count)).collect()
}

/// How many entries a store has, for people. A delete leaves an entry without a value until its
/// time is over, and trees count entries: keys that have a value cannot be told from those without
/// a walk over all of them.
pub fn entries(count: u64) -> String {
    match count {
        1 => "1 entry (deleted keys included)".to_owned(),
        _ => format!("{count} entries (deleted keys included)"),
    }
}

/// Bytes for people.
pub fn amount(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A time for people.
pub fn duration(time: Duration) -> String {
    let (microseconds, seconds) = (time.as_micros(), time.as_secs());
    match seconds {
        0 if microseconds < 1000 => format!("{microseconds} µs"),
        0 => format!("{}.{} ms", microseconds / 1000, microseconds / 100 % 10),
        1..60 => format!("{seconds}.{} s", microseconds / 100_000 % 10),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_has_just_begun_is_not_up_for_nothing() {
        assert_eq!(uptime(0), "for less than a second");
        assert_eq!(uptime(4), "4.0 s");
    }

    #[test]
    fn amounts_and_times_are_short() {
        let amounts = [0, 999, 1000, 999_999, 1_234_567, 5_000_000_000].map(amount);
        assert_eq!(
            amounts,
            ["0 B", "999 B", "1.0 KB", "999.9 KB", "1.2 MB", "5.0 GB"]
        );
        let times = [
            7,
            1_500,
            2_340_000,
            61_000_000,
            7_260_000_000,
            90_000_000_000,
        ];
        let times = times.map(|microseconds| duration(Duration::from_micros(microseconds)));
        assert_eq!(
            times,
            [
                "7 µs",
                "1.5 ms",
                "2.3 s",
                "1 min 1 s",
                "2 h 1 min",
                "1 d 1 h"
            ]
        );
    }

    #[test]
    fn a_status_says_that_there_is_one_copy() {
        let mut status = NodeStatus {
            n: 1,
            r: 1,
            w: 1,
            q: 6,
            ..NodeStatus::default()
        };
        let latency = Latency {
            count: 10,
            buckets: vec![0, 1, 8, 1],
            ..Latency::default()
        };
        status.statistics.latencies = vec![("get".to_owned(), latency)];
        let text = text(&status);
        assert!(text.contains("N=1 R=1 W=1"), "{text}");
        assert!(text.contains(" ▁█▁"), "{text}");
    }
}
