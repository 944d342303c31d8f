//! The harness is worth what it finds: a correct toy passes, and each planted bug is caught.

use super::*;
use crate::campaign::{Campaign, Outcome};

fn run(bug: Option<usize>, states: u64) -> Outcome<Toy> {
    Campaign {
        seed: 1,
        states,
        exhaust: 0,
        bug,
        threads: 2,
        quiet: true,
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
