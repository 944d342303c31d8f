//! Promise: what was acknowledged as durable is never lost.
//!
//! Random histories and every history of one operation, crashed everywhere; scripted histories with
//! a fault at each disk operation; and what these found, each as a test of its own.

use dynomite_tests::campaign::Campaign;
use dynomite_tests::check::Meter;
use dynomite_tests::faults::{Class, Fault};
use dynomite_tests::rng::Rng;
use dynomite_tests::subject::Subject;
use dynomite_tests::sweep::Sweep;
use dynomite_tests::whole::{Op, Whole};

#[test]
fn in_a_hundred_thousand_crashes() {
    let outcome = Campaign::new(1, 100_000).run::<Whole>();
    if let Some(found) = outcome.found {
        panic!("{found}");
    }
}

#[test]
fn whatever_the_one_operation_was() {
    let campaign = Campaign {
        exhaust: 1,
        ..Campaign::new(1, 0)
    };
    if let Some(found) = campaign.run::<Whole>().found {
        panic!("{found}");
    }
}

fn sweep(sweep: Sweep, ops: &[Op]) -> u64 {
    let meter = Meter::new(u64::MAX);
    match sweep.run::<Whole>(ops, 5, None, &meter) {
        Ok(faults) => faults,
        Err(stop) => panic!("{sweep:?}: {stop:?}"),
    }
}

/// One operation of each kind that histories are exhausted over.
fn script() -> Vec<Op> {
    let mut rng = Rng::new(9);
    let kinds = 0..Whole::EXHAUSTED_KINDS;
    kinds.map(|kind| Whole::op(kind, &mut rng)).collect()
}

#[test]
fn whichever_disk_operation_fails() {
    for fault in Sweep::all() {
        let faults = sweep(fault, &script());
        assert!(faults > 0, "{fault:?}");
    }
}

/// An extent of the last group was not readable for a moment, which read as a torn tail.
#[test]
fn by_a_read_that_fails_once_during_recovery() {
    let script = [Op::put(b"t", b"k", &[7; 4000]), Op::Reopen(2)];
    for class in [Class::Any, Class::Read] {
        let once = Sweep {
            class,
            fault: Fault::Eio,
            for_ever: false,
        };
        assert!(sweep(once, &script) > 0);
    }
}

/// A disk that answered nothing any more read as an empty log; the cut there failed to be written,
/// and yet was on the medium.
#[test]
fn by_a_disk_that_falls_silent_during_recovery() {
    let script = [Op::put(b"t", b"k", &[7; 4000]), Op::Reopen(2)];
    let for_ever = Sweep {
        class: Class::Any,
        fault: Fault::Eio,
        for_ever: true,
    };
    assert!(sweep(for_ever, &script) > 0);
}
