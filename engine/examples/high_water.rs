//! How much file a store needs for what it holds: Powerset-like values (lognormal, median 60 KB,
//! mean 139 KB, at most 4 MB), replaced at random until everything was replaced several times.
//!
//! `cargo run --release -p dynomite-engine --example high_water [MiB live] [turnovers] [folder]`,
//! by default 2048, 8 and the system's folder for temporary files. The test is the same, smaller.

use engine::{Batch, Durability, Options, Store, Tree};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The most that the file's used part may be over what is live.
const HIGH_WATER_MAX: f64 = 1.3;

/// Values of one commit.
const BATCH: usize = 16;

fn main() {
    let mut words = std::env::args().skip(1);
    let mut number = |default| {
        words
            .next()
            .map_or(default, |w| w.parse().expect("a number"))
    };
    let (live, turnovers) = (number(2048), number(8));
    let folder = words.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let place = tempfile::TempDir::new_in(folder).expect("the folder takes another");
    println!(
        "{:>9} {:>10} {:>11} {:>10} {:>10} {:>10} {:>12} {:>9}  high water is over live, at most {HIGH_WATER_MAX}",
        "turnover",
        "live MiB",
        "high water",
        "st_blocks",
        "allocated",
        "retired",
        "checkpoints",
        "MB/s"
    );
    let over = run(
        place.path(),
        live << 20,
        turnovers,
        &Options::default(),
        (60e3, None),
    );
    assert!(over <= HIGH_WATER_MAX, "high water is {over:.3} of live");
}

/// Returns high water over live at the end, of values of this median. A checkpoint runs when the store wants it, or each
/// time that so many bytes were replaced.
fn run(
    folder: &Path,
    live_bytes: u64,
    turnovers: u64,
    options: &Options,
    (median, checkpoint_bytes): (f64, Option<u64>),
) -> f64 {
    let path = folder.join("store");
    let store = Store::create(&path, options).expect("a new store");
    let tree = store.create_tree(b"values").expect("a new tree");
    let mut load = Load {
        store,
        tree,
        chance: Chance(1),
        source: Vec::new(),
        sizes: Vec::new(),
        live: 0,
        since_checkpoint: 0,
        median,
        checkpoint_bytes,
    };
    while load.source.len() < 5 << 20 {
        let word = load.chance.draw().to_le_bytes();
        load.source.extend_from_slice(&word);
    }
    let begin = Instant::now();
    while load.live < live_bytes {
        let keys: Vec<_> = (load.sizes.len()..load.sizes.len() + BATCH).collect();
        load.sizes.resize(load.sizes.len() + BATCH, 0);
        load.put(&keys);
    }
    let mut over = load.report(0, &path, load.live, begin);
    for turnover in 1..=turnovers {
        let begin = Instant::now();
        let mut written = 0;
        while written < load.live {
            let count = load.sizes.len() as u64;
            let keys: Vec<_> = (0..BATCH)
                .map(|_| usize::try_from(load.chance.draw() % count).expect("an index"))
                .collect();
            written += load.put(&keys);
        }
        over = load.report(turnover, &path, written, begin);
    }
    load.store.close().expect("closed");
    over
}

struct Load {
    store: Store,
    tree: Tree,
    chance: Chance,
    /// What values are cut out of; it does not compress.
    source: Vec<u8>,
    /// Bytes of each key's value.
    sizes: Vec<u64>,
    live: u64,
    since_checkpoint: u64,
    median: f64,
    checkpoint_bytes: Option<u64>,
}

impl Load {
    /// Puts values of new sizes; returns their bytes.
    fn put(&mut self, keys: &[usize]) -> u64 {
        let mut batch = Batch::new();
        let mut written = 0;
        for &key in keys {
            let size = self
                .chance
                .lognormal(self.median, 1.296, self.median * 66.7);
            let length = usize::try_from(size).expect("at most 4 MB");
            let at = usize::try_from(self.chance.draw() % 1_000_000).expect("below the rest");
            let value = &self.source[at..at + length];
            batch.put(&self.tree, &(key as u64).to_be_bytes(), value);
            self.live += size;
            self.live -= std::mem::replace(&mut self.sizes[key], size);
            written += size;
        }
        self.store
            .commit(batch, Durability::Buffered)
            .expect("committed");
        self.since_checkpoint += written;
        if self
            .checkpoint_bytes
            .is_some_and(|bytes| self.since_checkpoint >= bytes)
        {
            self.since_checkpoint = 0;
            self.store.checkpoint().expect("a checkpoint");
        }
        written
    }

    fn report(&self, turnover: u64, path: &Path, written: u64, begin: Instant) -> f64 {
        let stats = self.store.stats();
        let blocks = fs::metadata(path).expect("it is there").blocks() * 512;
        let over = |bytes: u64| to_f64(bytes - stats.log_bytes) / to_f64(self.live);
        println!(
            "{turnover:>9} {:>10} {:>11.3} {:>10.3} {:>10.3} {:>10.3} {:>12} {:>9.0}",
            self.live >> 20,
            over(stats.file_bytes),
            over(blocks),
            to_f64(stats.allocated_bytes) / to_f64(self.live),
            to_f64(stats.retired_bytes) / to_f64(self.live),
            stats.checkpoints,
            to_f64(written) / 1e6 / begin.elapsed().as_secs_f64(),
        );
        over(stats.file_bytes)
    }
}

/// `SplitMix64`.
struct Chance(u64);

impl Chance {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Between 0 and 1, neither of them.
    fn share(&mut self) -> f64 {
        (to_f64(self.draw() >> 12) + 0.5) / to_f64(1 << 52)
    }

    fn lognormal(&mut self, median: f64, sigma: f64, most: f64) -> u64 {
        let (a, b) = (self.share(), self.share());
        let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        let bytes = (median * (sigma * normal).exp()).clamp(1.0, most);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and 4 MB"
        )]
        let bytes = bytes as u64;
        bytes
    }
}

#[expect(clippy::cast_precision_loss, reason = "for ratios")]
fn to_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_water_stays_near_live() {
        let place = tempfile::TempDir::new().unwrap();
        // Values are smaller, too: one of 4 MB would be a fortieth of live. What waits for a
        // checkpoint in the large run is a twentieth of live; so it is here.
        let live = 160 << 20;
        let options = Options {
            log_bytes: 4 << 20,
            ..Options::default()
        };
        let over = run(place.path(), live, 4, &options, (30e3, Some(live / 20)));
        assert!(over <= HIGH_WATER_MAX, "high water is {over:.3} of live");
    }
}
