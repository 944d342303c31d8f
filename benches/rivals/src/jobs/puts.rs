//! Durable puts of one value each, by one or many writers; and a put that is read at once.

use super::{Context, Figures, run_threads};
use crate::data::{self, check, key};
use crate::disk;
use crate::rival::{Change, Keep, Setup};
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) fn run(
    context: &Context,
    figures: &mut Figures,
    row: &str,
    length: usize,
    writers: usize,
) {
    let large = length >= 4000;
    let setup = Setup {
        large,
        writers,
        ..context.setup()
    };
    let store = context.open(&setup);
    let next = AtomicU64::new(0);
    let make = |_| -> super::Operation<'_> {
        let mut value = Vec::new();
        let next = &next;
        Box::new(move |session, _| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            data::fill(&mut value, number, 0, length);
            session.write(&[Change::Put(&key(number), &value)], Keep::Durable);
            1
        })
    };
    // What the first writes set up is not what is asked for.
    run_threads(&*store, writers, context.span() / 10, context.seed, make);
    let rate = run_threads(&*store, writers, context.span(), context.seed, make);
    figures.push((row.to_string(), rate / 1e3));
    if large && !context.is_bare() {
        store.settle();
        let live = next.load(Ordering::Relaxed) * (20 + length as u64);
        let held = disk::held_bytes(&context.dir) - store.log_bytes();
        figures.push((format!("{row}-space"), held as f64 / live as f64));
    }
}

pub(super) fn run_put_get(context: &Context, figures: &mut Figures, row: &str, length: usize) {
    let setup = Setup {
        large: length >= 4000,
        ..context.setup()
    };
    let store = context.open(&setup);
    let next = AtomicU64::new(0);
    let make = |_| -> super::Operation<'_> {
        let mut value = Vec::new();
        let next = &next;
        Box::new(move |session, _| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            data::fill(&mut value, number, 0, length);
            session.write(&[Change::Put(&key(number), &value)], Keep::Durable);
            let found = session.get(&key(number), &mut |value| {
                check(number, value, |_| length);
            });
            assert!(found, "it was put");
            1
        })
    };
    run_threads(&*store, 1, context.span() / 10, context.seed, make);
    let rate = run_threads(&*store, 1, context.span(), context.seed, make);
    figures.push((row.to_string(), rate / 1e3));
}
