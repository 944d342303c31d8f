//! The store beside its limits, as a table: `cargo bench -p dynomite-benches --bench ratios`.
//!
//! Store and limit take short turns, so that a disk or a machine that others use slows both; a
//! ratio is that of one turn. The table shows the median and the middle half of the ratios, then
//! the ratio of the best turns: what each does when nobody disturbs it. `--quick` takes a few short turns, for CI;
//! other words choose the workloads whose names hold all of them.

use dynomite_benches::{Folder, Runner, WORKLOADS, Workload};
use std::time::Duration;

struct Effort {
    turns: usize,
    turn: Duration,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` runs this too, without the flag: then it only shows that it runs.
    let measured = words.iter().any(|word| word == "--bench");
    let quick = words.iter().any(|word| word == "--quick");
    let effort = match (measured, quick) {
        (false, _) => Effort {
            turns: 1,
            turn: Duration::from_millis(1),
        },
        (true, true) => Effort {
            turns: 8,
            turn: Duration::from_millis(30),
        },
        (true, false) => Effort {
            turns: 60,
            turn: Duration::from_millis(60),
        },
    };
    println!(
        "{:50} {:>14} {:>14} {:>22} {:>5}  aim   limit",
        "workload", "store", "limit", "ratio", "best"
    );
    let chosen = |workload: &&Workload| {
        let wanted = words.iter().filter(|word| !word.starts_with('-'));
        wanted.into_iter().all(|word| workload.name.contains(word))
    };
    let mut single = None;
    for workload in WORKLOADS.iter().filter(chosen) {
        let per_second = measure(workload, &effort);
        if workload.name.starts_with("put 150 B, durable, 1 w") {
            single = Some(per_second);
        } else if let Some(single) = single
            && workload.name.starts_with("put 150 B")
            && workload.name.ends_with("writers")
        {
            println!("{:50} {:>13.2}x", "  of one writer", per_second / single);
        }
    }
}

/// Prints a workload's line. Returns the store's median of operations per second.
fn measure(workload: &Workload, effort: &Effort) -> f64 {
    let folder = Folder::new();
    let mut pair = (workload.make)(&folder);
    let store_count = calibrate(&mut pair.store, effort.turn);
    let limit_count = calibrate(&mut pair.limit, effort.turn);
    let mut stores = Vec::new();
    let mut limits = Vec::new();
    let mut ratios = Vec::new();
    for _ in 0..effort.turns {
        let limit = per_second(&mut pair.limit, limit_count);
        let store = per_second(&mut pair.store, store_count);
        limits.push(limit);
        stores.push(store);
        ratios.push(store / limit);
    }
    let (store, limit, ratio) = (
        median(&mut stores),
        median(&mut limits),
        median(&mut ratios),
    );
    let best = stores[stores.len() - 1] / limits[limits.len() - 1];
    let aim = workload.aim.map_or(String::new(), |aim| {
        format!("{aim:.2}{}", if ratio < aim { "!" } else { " " })
    });
    println!(
        "{:50} {:>14} {:>14} {ratio:6.2} ({:5.2} to {:5.2}) {best:5.2}  {aim:5} {}",
        workload.name,
        show(store, workload.bytes),
        show(limit, workload.bytes),
        ratios[ratios.len() / 4],
        ratios[ratios.len() * 3 / 4],
        workload.limit_name,
    );
    store
}

/// How many operations fill a turn.
fn calibrate(run: &mut Runner, turn: Duration) -> u64 {
    let mut count = 16;
    loop {
        let took = run(count);
        if took >= turn / 4 || count > 1 << 30 {
            let nanos = (took.as_nanos() / u128::from(count)).max(1);
            return u64::try_from(turn.as_nanos() / nanos).map_or(16, |count| count.max(16));
        }
        count *= 4;
    }
}

#[expect(clippy::cast_precision_loss, reason = "for printing")]
fn per_second(run: &mut Runner, count: u64) -> f64 {
    count as f64 / run(count).as_secs_f64()
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[expect(clippy::cast_precision_loss, reason = "for printing")]
fn show(per_second: f64, bytes: u64) -> String {
    if bytes < 1024 {
        format!("{:.1} k/s", per_second / 1e3)
    } else {
        format!("{:.0} MB/s", per_second * bytes as f64 / 1e6)
    }
}
