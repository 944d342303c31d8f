//! Less memory than data: a million values of 1 KB under a memory cgroup of 320 MB, where the store's
//! cache and write buffer together have 200 MB.

use super::ycsb::{Letter, Records};
use super::{Context, Figures, load, run_threads};
use crate::data::{check, key};
use crate::disk::Fence;
use crate::rival::{Keep, Setup};
use crate::stores::Part;
use std::time::{Duration, Instant};

const LENGTH: usize = 1000;
const LIMIT_BYTES: u64 = 320_000_000;
/// The part of the limit that the store's own cache and write buffer may take.
const CACHE_BYTES: u64 = 150_000_000;
const WRITE_BUFFER_BYTES: u64 = 50_000_000;
/// Nobody is waited for longer; the rate is that of what was loaded by then.
const LOAD_SECONDS_MAX: u64 = 60;

/// The allocator gives back what is freed, as who has little memory sets it: by itself it raises the
/// size from which it does that, and most stores pass the limit by what it keeps.
pub(super) const MALLOC: &[(&str, &str)] = &[
    ("MALLOC_ARENA_MAX", "2"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
];

pub(super) fn run(context: &Context, figures: &mut Figures) {
    let scaled = |bytes: u64| ((bytes as f64 * context.scale) as u64).max(8 << 20);
    // A small run has a small limit, but a process needs some.
    let limit = scaled(LIMIT_BYTES).max(64 << 20);
    let _fence = match Fence::enter(limit) {
        Ok(fence) => fence,
        Err(why) => panic!("not measured: {why}"),
    };
    let setup = Setup {
        cache_bytes: scaled(CACHE_BYTES),
        write_buffer_bytes: scaled(WRITE_BUFFER_BYTES),
        buffered: true,
        writers: 2,
        tight: true,
        no_read_ahead: context.store.part == Part::Variant,
        ..context.setup()
    };
    let store = context.open(&setup);
    let deadline = Instant::now() + Duration::from_secs(LOAD_SECONDS_MAX);
    let begin = Instant::now();
    let wanted = context.count(1_000_000);
    let count = load(&*store, 0..wanted, LENGTH, Keep::Buffered, Some(deadline));
    store.flush();
    let took = begin.elapsed().as_secs_f64();
    figures.push(("memory-load".into(), count as f64 / took / 1e3));
    figures.push(("memory-loaded".into(), count as f64 / wanted as f64));
    store.settle();
    for (row, threads) in [("memory-get-1", 1), ("memory-get-16", 16)] {
        let rate = run_threads(&*store, threads, context.span(), context.seed, |_| {
            Box::new(move |session, numbers| {
                let number = numbers.below(count);
                let found = session.get(&key(number), &mut |value| {
                    check(number, value, |_| LENGTH);
                });
                assert!(found, "it was put");
                1
            })
        });
        figures.push((row.into(), rate / 1e3));
    }
    let records = Records::new(count, LENGTH, Keep::Buffered);
    for (row, letter) in [
        ("memory-ycsb-a", Letter::A),
        ("memory-ycsb-b", Letter::B),
        ("memory-ycsb-e", Letter::E),
    ] {
        let rate = records.run(context, &*store, letter, 2);
        figures.push((row.into(), rate / 1e3));
    }
}
