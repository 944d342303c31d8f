//! The harness is worth what it finds: a correct toy passes, and each planted bug is caught.

use super::*;
use crate::campaign::{Campaign, Outcome};
use crate::check::Meter;
use crate::faults::Class;
use crate::sweep::Sweep;

fn run(bug: Option<usize>, states: u64) -> Outcome<Toy> {
    Campaign {
        bug,
        ..Campaign::new(1, states)
    }
    .run()
}

#[test]
fn a_correct_toy_keeps_its_promises_in_two_hundred_thousand_crashes() {
    let outcome = run(None, 200_000);
    assert!(outcome.states >= 200_000);
    if let Some(found) = outcome.found {
        panic!("{found}");
    }
}

#[test]
fn a_correct_toy_passes_every_history_of_one_operation() {
    let outcome = Campaign {
        exhaust: 1,
        ..Campaign::new(1, 0)
    }
    .run::<Toy>();
    if let Some(found) = outcome.found {
        panic!("{found}");
    }
}

#[test]
fn each_planted_bug_is_caught_with_a_short_history() {
    for (bug, name) in Toy::BUGS.iter().enumerate() {
        let outcome = run(Some(bug), 1_000_000);
        let found = outcome
            .found
            .unwrap_or_else(|| panic!("not caught: {name}"));
        assert!(found.ops.len() <= 5, "{name}: {found}");
    }
}

fn script() -> Vec<Op> {
    let mut rng = Rng::new(9);
    [0, 1, 2, 3, 7, 4, 2, 8, 0, 6, 1]
        .into_iter()
        .map(|kind| Toy::op(kind, &mut rng))
        .collect()
}

#[test]
fn a_fault_at_any_operation_takes_nothing_acknowledged_with_it() {
    for sweep in Sweep::all() {
        let meter = Meter::new(u64::MAX);
        let faults = sweep.run::<Toy>(&script(), 3, None, &meter).unwrap();
        assert!(
            faults > 0 || matches!(sweep.class, Class::Allocate | Class::Punch),
            "{sweep:?}"
        );
    }
}
