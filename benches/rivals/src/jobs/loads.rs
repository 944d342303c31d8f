//! Loads: a million small values in batches of a thousand, buffered, one durable commit at the end.

use super::{Context, Figures, load};
use crate::data::mix;
use crate::disk;
use crate::rival::{Keep, Setup};
use std::time::Instant;

/// Bytes of a small value.
pub(super) const LENGTH: usize = 150;

pub(super) fn run(context: &Context, figures: &mut Figures, row: &str, sorted: bool) {
    let setup = Setup {
        buffered: true,
        sorted,
        ..context.setup()
    };
    let count = context.count(1_000_000);
    let mut numbers: Vec<u64> = (0..count).collect();
    if sorted {
        numbers.sort_by_key(|number| mix(*number));
    }
    let store = context.open(&setup);
    let begin = Instant::now();
    load(&*store, numbers.into_iter(), LENGTH, Keep::Buffered, None);
    store.flush();
    let took = begin.elapsed().as_secs_f64();
    figures.push((row.to_string(), count as f64 / took / 1e3));
    store.settle();
    let live = count * (20 + LENGTH as u64);
    let held = disk::held_bytes(&context.dir) - store.log_bytes();
    figures.push((format!("{row}-space"), held as f64 / live as f64));
    figures.push((
        format!("{row}-device"),
        disk::written_bytes() as f64 / live as f64,
    ));
}
