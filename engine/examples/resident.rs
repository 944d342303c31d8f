//! How much memory a store takes while it is loaded: at most the cache, two and a half times the
//! memtable budget, and 64 MiB.
//!
//! `cargo run --release -p dynomite-engine --example resident [MB] [folder]`, by default 5000 MB (a
//! fiftieth of them in values of 150 B, a tenth in values of 1 KB, the rest in values of 140 KiB) and
//! the system's folder for temporary files. The test is the same, smaller.

use engine::{Batch, Durability, Options, Store, Tree};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Beside cache and memtables: buffers under way, threads, the allocator's maps.
const BESIDE_BYTES: u64 = 64 << 20;

fn main() {
    let mut words = std::env::args().skip(1);
    let megabytes: u64 = words.next().map_or(5000, |w| w.parse().expect("a number"));
    let folder = words.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let place = tempfile::TempDir::new_in(folder).expect("the folder takes another");
    let options = Options::default();
    let (most, bound) = run(place.path(), megabytes * 1_000_000, &options);
    assert!(most <= bound, "{most} bytes are more than {bound}");
}

/// Returns the most resident anonymous memory above that of the start, and the promise.
fn run(folder: &Path, bytes: u64, options: &Options) -> (u64, u64) {
    let bound = options.cache_bytes + options.memtable_bytes * 5 / 2 + BESIDE_BYTES;
    let before = resident();
    let store = Store::create(folder.join("store"), options).expect("a new store");
    let tree = store.create_tree(b"load").expect("a new tree");
    let most = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(resident(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        for (length, share) in [
            (150, bytes / 50),
            (1000, bytes / 10),
            (140 << 10, bytes / 50 * 44),
        ] {
            let begin = Instant::now();
            load(&store, &tree, length, share);
            let stats = store.stats();
            println!(
                "values of {length} B: {:.0} MB/s; resident {} MiB at most, of them cache {}, memtables {}; stalls {}",
                to_f64(share) / 1e6 / begin.elapsed().as_secs_f64(),
                most.load(Ordering::Relaxed).saturating_sub(before) >> 20,
                stats.cache_bytes >> 20,
                stats.memtable_bytes >> 20,
                stats.stalls,
            );
        }
        done.store(true, Ordering::Relaxed);
    });
    store.close().expect("closed");
    let most = most.into_inner().saturating_sub(before);
    println!(
        "resident {} MiB at most, promised {} MiB",
        most >> 20,
        bound >> 20
    );
    (most, bound)
}

fn load(store: &Store, tree: &Tree, length: usize, bytes: u64) {
    let value = vec![7; length];
    let batch_len = (1 << 18) / length + 1;
    let mut left = bytes / length as u64;
    let mut number = length as u64;
    while left > 0 {
        let mut batch = Batch::new();
        for _ in 0..left.min(batch_len as u64) {
            // In no order, so that leaves all over the tree are read and written.
            number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let key = [number.to_be_bytes(), (length as u64).to_be_bytes()].concat();
            batch.put(tree, &key, &*value);
            left -= 1;
        }
        store
            .commit(batch, Durability::Buffered)
            .expect("committed");
    }
}

/// Resident anonymous bytes of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux says it");
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("a number of kB") << 10
}

#[expect(clippy::cast_precision_loss, reason = "for printing")]
fn to_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loading_takes_no_more_memory_than_promised() {
        let place = tempfile::TempDir::new().unwrap();
        let options = Options {
            cache_bytes: 8 << 20,
            memtable_bytes: 8 << 20,
            log_bytes: 16 << 20,
            ..Options::default()
        };
        let (most, bound) = run(place.path(), 150_000_000, &options);
        assert!(most <= bound, "{most} bytes are more than {bound}");
    }
}
