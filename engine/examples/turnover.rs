//! How much space the allocator alone wastes: high water over live after many turnovers of random
//! replacement.
//!
//! 2 GiB of values live, sized like Powerset's (lognormal, median 60 KB, mean 139 KB, at most 4 MB).
//! A replacement allocates the new value and frees the old one, at once or (as a store must, which
//! frees at checkpoints) in batches of 5 % of live; in that case each batch rewrites nodes, too. A
//! last workload has nodes only. Run with `cargo run --release -p dynomite-engine --example turnover`.

use dmerkle::geometry::Geometry;
use dmerkle::types::{Order, Run};
use engine::alloc::{Allocator, Placed, RegionRow, Shortage};
use std::time::{Duration, Instant};

const UNIT: u64 = 4096;
const LIVE_BYTES: u64 = 2 << 30;
const TURNOVERS: u32 = 8;

/// What is stored, and when what is replaced comes back.
#[derive(Debug, Clone, Copy)]
struct Workload {
    name: &'static str,
    /// Bytes of a value's size at the median; none for a store of nodes alone.
    median: Option<f64>,
    /// Replaced units that wait, as a share of live; 0 gives back at once.
    waiting: f64,
    /// Entries of a leaf of four units.
    leaf_entries: usize,
    /// How often the allocator is thrown away and made again from its maps.
    reopen_every: Option<u32>,
}

const WORKLOADS: [Workload; 5] = [
    Workload {
        name: "values, given back at once",
        median: Some(60e3),
        waiting: 0.0,
        leaf_entries: 80,
        reopen_every: None,
    },
    Workload {
        name: "values, given back in batches of 5 %",
        median: Some(60e3),
        waiting: 0.05,
        leaf_entries: 80,
        reopen_every: None,
    },
    Workload {
        name: "values in batches, reopened each turnover",
        median: Some(60e3),
        waiting: 0.05,
        leaf_entries: 80,
        reopen_every: Some(1),
    },
    Workload {
        name: "values of 3 KB in the median, in batches",
        median: Some(3e3),
        waiting: 0.05,
        leaf_entries: 80,
        reopen_every: None,
    },
    Workload {
        name: "nodes alone, in batches of 5 %",
        median: None,
        waiting: 0.05,
        leaf_entries: 1,
        reopen_every: None,
    },
];

/// What came of it.
struct Outcome {
    high_water_over_live: f64,
    /// The same of the highest that it ever was: what the file has grown to if it is never punched.
    peak_over_live: f64,
    free_share: f64,
    calls: u64,
    spent: Duration,
    slowest: Duration,
}

fn main() {
    let turnovers = std::env::args()
        .nth(1)
        .and_then(|s| s.parse().ok())
        .unwrap_or(TURNOVERS);
    println!("high water over live after {turnovers} turnovers of 2 GiB (allocator alone)");
    println!(
        "{:<44} {:>8} {:>8} {:>9} {:>9}",
        "", "hw/live", "free", "ns/call", "worst us"
    );
    for workload in WORKLOADS {
        let outcome = run(workload, LIVE_BYTES, turnovers, 1);
        println!(
            "{:<44} {:>8.3} {:>9.3} {:>7.1}% {:>9.0} {:>9.1}",
            workload.name,
            outcome.high_water_over_live,
            outcome.peak_over_live,
            100.0 * outcome.free_share,
            outcome.spent.as_secs_f64() * 1e9 / to_f64(outcome.calls),
            outcome.slowest.as_secs_f64() * 1e6,
        );
    }
}

fn run(workload: Workload, live_bytes: u64, turnovers: u32, seed: u64) -> Outcome {
    let mut store = Store::new(workload, seed);
    let target = live_bytes / UNIT;
    while store.live_units < target {
        let value = store.new_value();
        store.values.push(value);
    }
    for _ in 0..store.values.len() / workload.leaf_entries {
        if workload.median.is_some() {
            let leaf = store.allocate(|a| a.allocate_node(Order(2)));
            store.leaves.push(leaf);
        }
    }
    for turnover in 1..=turnovers {
        for _ in 0..store.values.len() {
            store.replace();
        }
        if workload
            .reopen_every
            .is_some_and(|n| turnover.is_multiple_of(n))
        {
            store.checkpoint();
            store.reopen();
        }
    }
    store.checkpoint();
    store.load_all();
    let high_water = store.note_high_water();
    let live: u64 = store
        .values
        .iter()
        .chain(&store.leaves)
        .map(|run| u64::from(run.units))
        .sum();
    Outcome {
        high_water_over_live: to_f64(high_water) / to_f64(live),
        peak_over_live: to_f64(store.peak) / to_f64(live),
        free_share: to_f64(high_water - live) / to_f64(live),
        calls: store.calls,
        spent: store.spent,
        slowest: store.slowest,
    }
}

struct Store {
    workload: Workload,
    geometry: Geometry,
    allocator: Allocator,
    chance: Chance,
    values: Vec<Run>,
    leaves: Vec<Run>,
    live_units: u64,
    /// Replaced, and given back by the next checkpoint.
    waiting: Vec<Run>,
    waiting_units: u64,
    /// Of opening: what regions are loaded from.
    maps: Vec<Vec<u8>>,
    peak: u64,
    calls: u64,
    spent: Duration,
    slowest: Duration,
}

impl Store {
    fn new(workload: Workload, seed: u64) -> Self {
        let geometry = Geometry::default();
        Self {
            workload,
            geometry,
            allocator: Allocator::new(geometry, &[]),
            chance: Chance(seed),
            values: Vec::new(),
            leaves: Vec::new(),
            live_units: 0,
            waiting: Vec::new(),
            waiting_units: 0,
            maps: Vec::new(),
            peak: 0,
            calls: 0,
            spent: Duration::ZERO,
            slowest: Duration::ZERO,
        }
    }

    fn new_value(&mut self) -> Run {
        let run = if let Some(median) = self.workload.median {
            let bytes = self.chance.lognormal(median, 1.296, 4e6);
            let units = u32::try_from(bytes.div_ceil(UNIT)).expect("at most 4 MB");
            self.allocate(|a| a.allocate_extent(units))
        } else {
            // Three leaves of full size to one small one.
            let order = if self.chance.below(4) == 0 { 1 } else { 2 };
            self.allocate(|a| a.allocate_node(Order(order)))
        };
        self.live_units += u64::from(run.units);
        run
    }

    fn replace(&mut self) {
        let at = self.chance.below(self.values.len());
        let value = self.new_value();
        self.note_high_water();
        let old = std::mem::replace(&mut self.values[at], value);
        self.live_units -= u64::from(old.units);
        self.drop_later(old);
        if to_f64(self.waiting_units) > self.workload.waiting * to_f64(self.live_units) {
            self.checkpoint();
        }
    }

    /// Rewrites as many leaves as the replaced values touch, and gives back what waits.
    fn checkpoint(&mut self) {
        let touched = if self.workload.waiting > 0.0 {
            self.waiting.len()
        } else {
            usize::from(self.chance.below(64) == 0)
        };
        let before = self.waiting.len();
        for _ in 0..touched.min(self.leaves.len()) {
            let at = self.chance.below(self.leaves.len());
            let leaf = self.allocate(|a| a.allocate_node(Order(2)));
            let old = std::mem::replace(&mut self.leaves[at], leaf);
            self.drop_later(old);
        }
        debug_assert!(self.waiting.len() >= before);
        for run in std::mem::take(&mut self.waiting) {
            self.timed(|a| a.free(run));
        }
        self.waiting_units = 0;
    }

    fn drop_later(&mut self, run: Run) {
        self.waiting_units += u64::from(run.units);
        self.waiting.push(run);
    }

    /// Makes the allocator again, as opening does: regions load when they are asked for.
    fn reopen(&mut self) {
        let geometry = self.geometry;
        self.load_all();
        self.maps.clear();
        let mut rows = Vec::new();
        for region in 0..self.allocator.region_count() {
            let runs = self.allocator.free_runs(region).expect("loaded above");
            let mut map = vec![0xFF; geometry.region_units.div_ceil(8) as usize];
            let origin = geometry.region_start(region).0;
            for run in &runs {
                for unit in run.start.0..run.end() {
                    let index = usize::try_from(unit - origin).expect("within the region");
                    map[index / 8] &= !(1 << (index % 8));
                }
            }
            self.maps.push(map);
            rows.push(RegionRow {
                free: runs.iter().map(|run| run.units).sum(),
                largest: runs.iter().map(|run| run.units).max().unwrap_or(0),
            });
        }
        self.allocator = Allocator::new(geometry, &rows);
    }

    fn load_all(&mut self) {
        for region in 0..self.allocator.region_count() {
            if !self.allocator.is_loaded(region) {
                self.allocator.load(region, &self.maps[region as usize]);
            }
        }
    }

    /// Units up to the last in use. Not noted while a region is not loaded, since it counts whole.
    fn note_high_water(&mut self) -> u64 {
        let units = self.allocator.high_water().0 - self.geometry.data_start().0;
        let regions = 0..self.allocator.region_count();
        if regions
            .map(|region| self.allocator.region(region))
            .all(|stats| stats.loaded)
        {
            self.peak = self.peak.max(units);
        }
        units
    }

    fn allocate(&mut self, ask: impl Fn(&mut Allocator) -> Result<Placed, Shortage>) -> Run {
        loop {
            match self.timed(&ask) {
                Ok(placed) => return placed.run,
                Err(Shortage::Load(region)) => {
                    let map = std::mem::take(&mut self.maps[region as usize]);
                    self.timed(|a| a.load(region, &map));
                }
                Err(Shortage::Grow) => {
                    self.allocator.add_region();
                }
                Err(Shortage::Full) => panic!("64 TiB are full"),
            }
        }
    }

    fn timed<T>(&mut self, call: impl FnOnce(&mut Allocator) -> T) -> T {
        let start = Instant::now();
        let answer = call(&mut self.allocator);
        let spent = start.elapsed();
        self.calls += 1;
        self.spent += spent;
        self.slowest = self.slowest.max(spent);
        answer
    }
}

/// `SplitMix64`: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % count as u64).expect("below a usize")
    }

    /// In (0, 1].
    fn share(&mut self) -> f64 {
        (to_f64(self.next() >> 11) + 1.0) / to_f64(1 << 53)
    }

    /// Drawn again while above `max`. The normal number is Box and Muller's.
    fn lognormal(&mut self, median: f64, sigma: f64, max: f64) -> u64 {
        loop {
            let radius = (-2.0 * self.share().ln()).sqrt();
            let normal = radius * (std::f64::consts::TAU * self.share()).cos();
            let bytes = median * (sigma * normal).exp();
            if bytes <= max {
                return to_u64(bytes.ceil());
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures to read")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most 4 MB, and not negative"
)]
fn to_u64(bytes: f64) -> u64 {
    bytes as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_given_back_at_once_keep_high_water_below_1_2_of_live() {
        for seed in 1..4 {
            let outcome = run(WORKLOADS[0], LIVE_BYTES, TURNOVERS, seed);
            let got = outcome.peak_over_live;
            assert!(got <= 1.2, "seed {seed}: {got:.3}");
        }
    }
}
