//! Diffs of two of our stores, the frames counted both ways.

use super::loads::LENGTH;
use super::{Context, Figures, load};
use crate::data::{self, key, mix};
use crate::rival::{Change, Keep, Rival, Session, Setup};
use crate::stores::open_ours;
use dmerkle::diff::{self, KeyRange, Limits};
use std::time::{Duration, Instant};

/// What a diff took.
struct Cost {
    bytes: usize,
    messages: usize,
    /// The asking side, the answering side.
    spent: [Duration; 2],
}

pub(super) fn run(context: &Context, figures: &mut Figures) {
    let count = context.count(1_000_000);
    let mut stores = Vec::new();
    for name in ["mine", "theirs"] {
        let dir = context.dir.join(name);
        std::fs::create_dir(&dir).expect("a folder");
        let setup = Setup {
            buffered: true,
            dir,
            ..context.setup()
        };
        let store = open_ours(&setup);
        load(&store, 0..count, LENGTH, Keep::Buffered, None);
        store.settle();
        stores.push(store);
    }
    let (mine, theirs) = (&stores[0], &stores[1]);
    // The numbers that will differ, in no order of keys, which is that of `mix(number)`.
    let mut changed: Vec<u64> = (0..count).collect();
    changed.sort_by_key(|number| mix(number ^ context.seed.wrapping_add(1) << 32));
    let mut differing = 0;
    for wanted in [0, 1, 100, 1000, 10_000u64] {
        let wanted_here = wanted.min(count / 4) as usize;
        update(theirs, &changed[differing..wanted_here.max(differing)], 1);
        differing = wanted_here.max(differing);
        theirs.settle();
        // The first reads what the second finds in the cache.
        compare(mine, theirs, differing);
        let cost = compare(mine, theirs, differing);
        figures.push((format!("diff-{wanted}"), cost.bytes as f64));
        figures.push((format!("diff-{wanted}-messages"), cost.messages as f64));
        let spent = cost.spent[0].max(cost.spent[1]);
        figures.push((format!("diff-{wanted}-cpu"), spent.as_secs_f64() * 1e3));
    }
    // Equal again, and then a thousand neighbours that are not.
    update(mine, &changed[..differing], 1);
    mine.settle();
    compare(mine, theirs, 0);
    let mut neighbours = Vec::new();
    theirs.session_scan(&key(changed[0]), 1000.min(count / 4), &mut |number| {
        neighbours.push(number);
    });
    update(theirs, &neighbours, 2);
    theirs.settle();
    let cost = compare(mine, theirs, neighbours.len());
    figures.push(("diff-range".into(), cost.bytes as f64));
}

fn update(store: &dyn Rival, numbers: &[u64], version: u64) {
    let mut session = store.session();
    let mut value = Vec::new();
    for number in numbers {
        data::fill(&mut value, *number, version, LENGTH);
        let change = Change::Put(&key(*number), &value);
        session.write(&[change], Keep::Buffered);
    }
}

fn compare(mine: &crate::stores::Ours, theirs: &crate::stores::Ours, expected: usize) -> Cost {
    let mut contents = mine.store().snapshot().contents(mine.tree());
    let mut others = theirs.store().snapshot().contents(theirs.tree());
    let mut session = diff::Session::new(KeyRange::default(), Limits::default());
    let mut cost = Cost {
        bytes: 0,
        messages: 0,
        spent: [Duration::ZERO; 2],
    };
    let mut found = 0;
    let begin = Instant::now();
    let answer = |frame: Vec<u8>| {
        let begin = Instant::now();
        let answer = diff::respond(&mut others, &frame)?;
        cost.spent[1] += begin.elapsed();
        cost.bytes += frame.len() + answer.len();
        cost.messages += 2;
        Ok(answer)
    };
    diff::run(&mut session, &mut contents, answer, |_| found += 1).expect("compared");
    cost.spent[0] = begin.elapsed() - cost.spent[1];
    assert_eq!(found, expected, "every difference is found, and no other");
    cost
}

impl crate::stores::Ours {
    /// The numbers of the entries from a key on.
    fn session_scan(&self, low: &[u8], limit: u64, see: &mut dyn FnMut(u64)) {
        let mut session = self;
        Session::scan(&mut session, low, limit, &mut |key, _| {
            see(data::number_of(key));
        });
    }
}
