//! What a store keeps of the disk once nobody writes: `st_blocks` x 512, less superblocks and ring,
//! over the bytes of keys and values.
//!
//! `cargo run --release -p dynomite-engine --example at_rest [MB] [folder]`, by default 3000 MB of
//! Powerset-like values (lognormal, median 60 KB, mean 139 KB, at most 4 MB) and the system's folder
//! for temporary files: loaded; after an opening three tenths overwritten, and another three tenths
//! deleted, then filled up again, each with what punching cost. And small stores, of some hundred
//! values of 4 and 16 KB. The tests are the same, smaller.

use engine::{Batch, Durability, NewEntry, Options, Store, Tree};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Space kept over what is live: after a load, and after changes; and of a small store beside it.
const LOADED_MAX: f64 = 1.03;
const CHANGED_MAX: f64 = 1.10;
const SMALL_BYTES_MAX: u64 = 640 << 10;

/// The least runs that are punched at rest; the store's own choice if none.
type Least = Option<u64>;

fn main() {
    let mut words = std::env::args().skip(1);
    let megabytes: u64 = words.next().map_or(3000, |w| w.parse().expect("a number"));
    let folder = words.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let least = words.next().map(|w| w.parse().expect("a number of bytes"));
    let place = tempfile::TempDir::new_in(folder).expect("the folder takes another");
    let over = values(
        &place.path().join("values"),
        megabytes * 1_000_000,
        60e3,
        least,
    );
    for (count, length) in [(500, 4096), (10_000, 4096), (500, 16_384), (10_000, 16_384)] {
        let path = place.path().join(format!("{count} of {length}"));
        let beside = small(&path, count, length);
        println!(
            "{count} values of {length} B: {} KiB beside what is live, {:.3} of it",
            beside >> 10,
            1.0 + to_f64(beside) / to_f64(count * (length + 8))
        );
        let small = count < 1000;
        assert!(!small || beside <= SMALL_BYTES_MAX, "{beside} bytes");
    }
    assert!(over[0] <= LOADED_MAX, "{over:?}");
    assert!(over.iter().all(|over| *over <= CHANGED_MAX), "{over:?}");
}

/// Loads, overwrites, deletes and refills; returns what is held over what is live after each.
fn values(path: &Path, bytes: u64, median: f64, least: Least) -> [f64; 4] {
    println!("what                  MB/s     held  punched MiB  pieces      ms");
    let options = Options {
        log_bytes: 16 << 20,
        ..Options::default()
    };
    let mut load = Load::begin(path, &options, median);
    load.fill(bytes);
    let loaded = load.settle("load", least);
    // What was free is not known to have space from here on.
    load = load.reopen(path, &options);
    let count = load.sizes.len();
    load.put_each((0..count).filter(|number| number % 10 < 3));
    let overwritten = load.settle("overwrite 30 %", least);
    load.delete_each((0..count).filter(|number| number % 10 >= 7));
    let deleted = load.settle("delete 30 %", least);
    load.fill(bytes);
    let refilled = load.settle("refill", least);
    load.store.close().expect("closed");
    [loaded, overwritten, deleted, refilled]
}

/// Bytes held beside what is live by a store of so many values, after its close.
fn small(path: &Path, count: u64, length: u64) -> u64 {
    let options = Options {
        log_bytes: 16 << 20,
        ..Options::default()
    };
    let mut load = Load::begin(path, &options, 1.0);
    let value = vec![7; usize::try_from(length).expect("short")];
    for number in 0..count {
        load.tree.put(&number.to_be_bytes(), &value).expect("put");
    }
    load.live = count * (length + 8);
    let beside = |load: &Load| {
        let fixed = load.store.stats().log_bytes + (64 << 10);
        (blocks(path) - fixed).saturating_sub(load.live)
    };
    let fixed = load.store.stats().log_bytes + (64 << 10);
    let before = beside(&load);
    load.settle("", None);
    let at_rest = beside(&load);
    load.store.close().expect("closed");
    let closed = (blocks(path) - fixed).saturating_sub(load.live);
    println!(
        "  {} KiB while in use, {} at rest, {} closed",
        before >> 10,
        at_rest >> 10,
        closed >> 10
    );
    at_rest.max(closed)
}

struct Load {
    store: Store,
    tree: Tree,
    path: PathBuf,
    chance: Chance,
    /// What values are cut out of; it does not compress.
    source: Vec<u8>,
    /// Bytes of each key's value; none if it was deleted.
    sizes: Vec<Option<u64>>,
    live: u64,
    median: f64,
    /// Written since the last settling, and since when.
    written: u64,
    begin: Instant,
}

impl Load {
    fn begin(path: &Path, options: &Options, median: f64) -> Self {
        let store = Store::create(path, options).expect("a new store");
        let tree = store.create_tree(b"values").expect("a new tree");
        let mut chance = Chance(1);
        let source = (0..5 << 17).flat_map(|_| chance.draw().to_le_bytes());
        Self {
            source: source.collect(),
            store,
            tree,
            path: path.into(),
            chance,
            sizes: Vec::new(),
            live: 0,
            median,
            written: 0,
            begin: Instant::now(),
        }
    }

    fn reopen(self, path: &Path, options: &Options) -> Self {
        self.store.close().expect("closed");
        drop(self.tree);
        let store = Store::open(path, options).expect("opened");
        let tree = store.tree(b"values").expect("the tree");
        Self {
            store,
            tree,
            begin: Instant::now(),
            ..self
        }
    }

    /// Puts new keys until so much is live.
    fn fill(&mut self, bytes: u64) {
        while self.live < bytes {
            self.sizes.push(None);
            self.put_each(std::iter::once(self.sizes.len() - 1));
        }
    }

    fn put_each(&mut self, keys: impl Iterator<Item = usize>) {
        for key in keys {
            let most = self.median * 66.7;
            let size = self.chance.lognormal(self.median, 1.296, most);
            let length = usize::try_from(size).expect("at most 4 MB");
            let at = usize::try_from(self.chance.draw() % 1_000_000).expect("below the rest");
            let value = &self.source[at..at + length];
            self.tree
                .put_entry(&key_of(key), NewEntry::plain(value), Durability::Buffered)
                .expect("put");
            self.live += size + 8;
            self.written += size;
            if let Some(old) = self.sizes[key].replace(size) {
                self.live -= old + 8;
            }
        }
    }

    fn delete_each(&mut self, keys: impl Iterator<Item = usize>) {
        let keys: Vec<_> = keys.collect();
        for group in keys.chunks(100) {
            let mut batch = Batch::new();
            for &key in group {
                batch.delete(&self.tree, &key_of(key));
                self.live -= self.sizes[key].take().expect("it is there") + 8;
            }
            self.store
                .commit(batch, Durability::Durable)
                .expect("committed");
        }
    }

    /// Checkpoints and gives back what the store gives back at rest. Returns what is held over
    /// what is live.
    fn settle(&mut self, what: &str, least: Least) -> f64 {
        let seconds = self.begin.elapsed().as_secs_f64();
        // What the first retires, the second's stamp releases.
        for _ in 0..3 {
            self.store.checkpoint().expect("a checkpoint");
        }
        let punched = self.store.stats().punched_bytes;
        let (mut pieces, mut spent) = (0, Duration::ZERO);
        loop {
            let begin = Instant::now();
            if self.store.punch_at_rest(least).expect("punched") == 0 {
                break;
            }
            pieces += 1;
            spent += begin.elapsed();
        }
        let stats = self.store.stats();
        let held = blocks(&self.path) - stats.log_bytes - (64 << 10);
        let over = to_f64(held) / to_f64(self.live);
        if !what.is_empty() {
            println!(
                "{what:<16} {:>9.0} {over:>8.3} {:>12} {pieces:>7} {:>7}",
                to_f64(self.written) / 1e6 / seconds,
                (stats.punched_bytes - punched) >> 20,
                spent.as_millis(),
            );
        }
        self.written = 0;
        self.begin = Instant::now();
        over
    }
}

/// In no order.
fn key_of(number: usize) -> [u8; 8] {
    (number as u64)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .to_be_bytes()
}

fn blocks(path: &Path) -> u64 {
    fs::metadata(path).expect("it is there").blocks() * 512
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
    fn a_store_at_rest_keeps_a_tenth_more_than_is_live_at_most() {
        let place = tempfile::TempDir::new().unwrap();
        let over = values(&place.path().join("values"), 200_000_000, 60e3, None);
        assert!(over[0] <= LOADED_MAX, "{over:?}");
        assert!(over.iter().all(|over| *over <= CHANGED_MAX), "{over:?}");
    }

    #[test]
    fn what_was_free_at_the_opening_is_given_back_too() {
        let place = tempfile::TempDir::new().unwrap();
        let path = place.path().join("values");
        let keeping = Options {
            log_bytes: 16 << 20,
            punch: false,
            ..Options::default()
        };
        let mut load = Load::begin(&path, &keeping, 60e3);
        load.fill(100_000_000);
        let count = load.sizes.len();
        load.delete_each((0..count).filter(|number| number % 2 > 0));
        let options = Options {
            punch: true,
            ..keeping.clone()
        };
        load = load.reopen(&path, &keeping);
        let fixed = load.store.stats().log_bytes + (64 << 10);
        let before = to_f64(blocks(&path) - fixed) / to_f64(load.live);
        assert!(before > 1.5, "nothing was kept: {before:.3}");
        load = load.reopen(&path, &options);
        // A put brings the map of its region, as any work does.
        load.put_each(0..1);
        let over = load.settle("", None);
        assert!(over <= CHANGED_MAX, "{over:.3}");
    }

    #[test]
    fn a_small_store_keeps_little_beside_what_is_live() {
        let place = tempfile::TempDir::new().unwrap();
        let beside = small(&place.path().join("small"), 100, 4096);
        assert!(beside <= SMALL_BYTES_MAX, "{beside} bytes");
    }
}
