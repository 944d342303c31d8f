//! Reads of small values that are in memory.

use super::loads::LENGTH;
use super::{Context, Figures, load, run_threads};
use crate::data::{check, key, number_of};
use crate::rival::{Keep, Session, Setup};
use std::time::Instant;

pub(super) fn run(context: &Context, figures: &mut Figures) {
    let setup = Setup {
        buffered: true,
        ..context.setup()
    };
    let count = context.count(1_000_000);
    let store = context.open(&setup);
    load(&*store, 0..count, LENGTH, Keep::Buffered, None);
    store.flush();
    store.settle();

    let mut session = store.session();
    let seen = scan_all(session.as_mut());
    assert_eq!(seen, count, "all that was put");
    drop(session);
    let get = |_| -> super::Operation<'_> {
        Box::new(move |session, numbers| {
            let number = numbers.below(count);
            let found = session.get(&key(number), &mut |value| {
                check(number, value, |_| LENGTH);
            });
            assert!(found, "it was put");
            1
        })
    };
    run_threads(&*store, 1, context.span() / 2, context.seed, get);
    for (row, threads) in [("get-1", 1), ("get-2", 2)] {
        let rate = run_threads(&*store, threads, context.span(), context.seed, get);
        figures.push((row.into(), rate / 1e3));
    }
    let rate = run_threads(&*store, 1, context.span(), context.seed, |_| {
        Box::new(move |session, numbers| {
            let chosen: Vec<u64> = (0..100).map(|_| numbers.below(count)).collect();
            let keys: Vec<_> = chosen.iter().map(|number| key(*number)).collect();
            session.get_many(&keys, &mut |at, value| {
                check(chosen[at], value, |_| LENGTH);
            });
            100
        })
    });
    figures.push(("get-100".into(), rate / 1e3));
    let rate = run_threads(&*store, 1, context.span(), context.seed, |_| {
        Box::new(move |session, numbers| {
            scan_100(session, numbers.below(count));
            1
        })
    });
    figures.push(("scan-100".into(), rate / 1e3));
    let mut session = store.session();
    let begin = Instant::now();
    let mut seen = 0;
    while begin.elapsed() < context.span() {
        seen += scan_all(session.as_mut());
    }
    let rate = seen as f64 / begin.elapsed().as_secs_f64();
    figures.push(("scan-full".into(), rate / 1e6));
}

fn scan_all(session: &mut dyn Session) -> u64 {
    session.scan(&[], u64::MAX, &mut |key, value| {
        check(number_of(key), value, |_| LENGTH);
    })
}

fn scan_100(session: &mut dyn Session, from: u64) {
    let mut seen = 0;
    session.scan(&key(from), 100, &mut |key, value| {
        check(number_of(key), value, |_| LENGTH);
        seen += 1;
    });
    assert!(seen > 0, "at least the first");
}
