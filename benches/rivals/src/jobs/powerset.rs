//! Values as the Powerset cluster had them: 3 GB, lognormal, median 60 KB, mean 139 KB, at most 4 MB.

use super::{Context, Figures, Operation, run_threads};
use crate::data::{self, check, key, mix, powerset_length};
use crate::disk;
use crate::rival::{Change, Keep, Rival, Session, Setup};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

const BYTES: f64 = 3e9;

/// Which values are there: the version of each number, if any.
struct Values(Vec<Option<u64>>);

impl Values {
    /// Those that make up the contest's bytes.
    fn new(context: &Context) -> Self {
        let wanted = (BYTES * context.scale).max(20e6) as u64;
        let mut values = Self(Vec::new());
        while values.bytes() < wanted {
            values.0.extend([Some(0); 64]);
        }
        values
    }

    /// Number and version of each that is there.
    fn live(&self) -> impl Iterator<Item = (u64, u64)> {
        let numbered = (0u64..).zip(&self.0);
        numbered.filter_map(|(number, version)| Some((number, (*version)?)))
    }

    /// Bytes of their values.
    fn bytes(&self) -> u64 {
        self.live().map(|(n, v)| powerset_length(n, v) as u64).sum()
    }
}

fn setup(context: &Context) -> Setup {
    Setup {
        large: true,
        ..context.setup()
    }
}

/// Puts values durably, `at_once` a commit. Returns MB/s.
fn put(store: &dyn Rival, values: &[(u64, u64)], at_once: usize) -> f64 {
    let mut session = store.session();
    let mut buffers = vec![Vec::new(); at_once];
    let mut bytes = 0;
    let begin = Instant::now();
    for group in values.chunks(at_once) {
        let keys: Vec<_> = group.iter().map(|(number, _)| key(*number)).collect();
        for ((number, version), buffer) in group.iter().zip(&mut buffers) {
            let length = powerset_length(*number, *version);
            data::fill(buffer, *number, *version, length);
            bytes += length;
        }
        let pairs = keys.iter().zip(&buffers);
        let changes: Vec<_> = pairs.map(|(key, value)| Change::Put(key, value)).collect();
        session.write(&changes, Keep::Durable);
    }
    bytes as f64 / begin.elapsed().as_secs_f64() / 1e6
}

/// Reads and checks a value; returns its bytes.
fn get(session: &mut dyn Session, number: u64, version: u64) -> u64 {
    let length = powerset_length(number, version);
    let found = session.get(&key(number), &mut |value| {
        let seen = check(number, value, |_| length);
        assert_eq!(seen, version, "an old value");
    });
    assert!(found, "it was put");
    length as u64
}

pub(super) fn run_batches(context: &Context, figures: &mut Figures) {
    let values: Vec<_> = Values::new(context).live().collect();
    let store = context.open(&setup(context));
    let rate = put(&*store, &values, 16);
    figures.push(("powerset-load-16".into(), rate));
}

pub(super) fn run(context: &Context, figures: &mut Figures) {
    let mut values = Values::new(context);
    let bytes = values.bytes();
    let setup = setup(context);
    let store = context.open(&setup);
    let before = disk::written_bytes();
    let all: Vec<_> = values.live().collect();
    let rate = put(&*store, &all, 1);
    figures.push(("powerset-load".into(), rate));
    store.settle();
    if !context.is_bare() {
        let written = disk::written_bytes() - before;
        figures.push(("powerset-device".into(), written as f64 / bytes as f64));
        space(context, &*store, &values, "powerset-space-load", figures);
        read_warm(context, &*store, &all, figures);
        drop(store);
        for (row, threads) in [("powerset-cold-1", 1), ("powerset-cold-8", 8)] {
            let rate = read_cold(context, &setup, &all, threads);
            figures.push((row.into(), rate));
            #[cfg(feature = "lmdb")]
            if context.store.name == "lmdb" {
                let setup = Setup {
                    no_read_ahead: true,
                    ..setup.clone()
                };
                let rate = read_cold(context, &setup, &all, threads);
                let variant = crate::stores::LMDB_NO_READ_AHEAD;
                figures.push((format!("{row}@{variant}"), rate));
            }
        }
        let store = context.open(&setup);
        turn_over(context, &*store, &mut values, bytes, figures);
    } else {
        turn_over(context, &*store, &mut values, bytes, figures);
    }
}

fn read_warm(context: &Context, store: &dyn Rival, all: &[(u64, u64)], figures: &mut Figures) {
    let mut session = store.session();
    for (number, version) in all {
        get(session.as_mut(), *number, *version);
    }
    drop(session);
    for (row, threads) in [("powerset-warm-1", 1), ("powerset-warm-2", 2)] {
        let rate = run_threads(store, threads, context.span(), context.seed, |_| {
            let operation: Operation<'_> = Box::new(|session, numbers| {
                let (number, version) = all[numbers.below(all.len() as u64) as usize];
                get(session, number, version)
            });
            operation
        });
        figures.push((row.into(), rate / 1e6));
    }
}

/// Reads values, each once and in no order, from a store just opened and a page cache without its
/// files.
fn read_cold(context: &Context, setup: &Setup, all: &[(u64, u64)], threads: usize) -> f64 {
    disk::forget(&context.dir);
    let mut order: Vec<_> = all.to_vec();
    order.sort_by_key(|(number, _)| mix(number ^ context.seed.wrapping_add(threads as u64) << 32));
    let store = context.open(setup);
    let (next, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut session = store.session();
                while begin.elapsed() < context.span() {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((number, version)) = order.get(at as usize) else {
                        break;
                    };
                    let read = get(session.as_mut(), *number, *version);
                    bytes.fetch_add(read, Ordering::Relaxed);
                }
            });
        }
    });
    bytes.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64() / 1e6
}

/// Overwrites 30 %, deletes another 30 %, fills up again.
fn turn_over(
    context: &Context,
    store: &dyn Rival,
    values: &mut Values,
    bytes: u64,
    figures: &mut Figures,
) {
    let third = |number: u64| mix(number ^ 77) % 10 / 3;
    let mut chosen: Vec<_> = values.live().map(|(number, _)| (number, 1)).collect();
    chosen.retain(|(number, _)| third(*number) == 0);
    // In another order than they were loaded in.
    chosen.sort_by_key(|(number, _)| mix(*number));
    let rate = put(store, &chosen, 1);
    figures.push(("powerset-overwrite".into(), rate));
    for (number, version) in &chosen {
        values.0[*number as usize] = Some(*version);
    }
    space(context, store, values, "powerset-space-overwrite", figures);

    let mut chosen: Vec<u64> = values.live().map(|(number, _)| number).collect();
    chosen.retain(|number| third(*number) == 1);
    chosen.sort_by_key(|number| mix(*number));
    if !context.is_bare() {
        let mut session = store.session();
        let begin = Instant::now();
        for group in chosen.chunks(100) {
            let keys: Vec<_> = group.iter().map(|number| key(*number)).collect();
            let changes: Vec<_> = keys.iter().map(|key| Change::Delete(key)).collect();
            session.write(&changes, Keep::Durable);
        }
        let rate = chosen.len() as f64 / begin.elapsed().as_secs_f64();
        figures.push(("powerset-delete".into(), rate / 1e3));
    }
    for number in &chosen {
        values.0[*number as usize] = None;
    }
    space(context, store, values, "powerset-space-delete", figures);

    let first = values.0.len();
    let mut live = values.bytes();
    while live < bytes {
        let number = values.0.len() as u64;
        values.0.push(Some(0));
        live += powerset_length(number, 0) as u64;
    }
    let chosen: Vec<_> = (first as u64..values.0.len() as u64)
        .map(|number| (number, 0))
        .collect();
    let rate = put(store, &chosen, 1);
    figures.push(("powerset-refill".into(), rate));
    space(context, store, values, "powerset-space-refill", figures);
    if context.is_bare() {
        return;
    }
    // All of it is there, and nothing else.
    let mut session = store.session();
    for (number, version) in values.live() {
        get(session.as_mut(), number, version);
    }
    for (number, version) in (0u64..).zip(&values.0) {
        if version.is_none() {
            assert!(!session.get(&key(number), &mut |_| ()), "it was deleted");
        }
    }
}

fn space(context: &Context, store: &dyn Rival, values: &Values, row: &str, figures: &mut Figures) {
    store.settle();
    if context.is_bare() {
        return;
    }
    let live = values.bytes() + 20 * values.live().count() as u64;
    let held = disk::held_bytes(&context.dir) - store.log_bytes();
    figures.push((row.into(), held as f64 / live as f64));
}
