//! Promise: a store stops taking writes exactly if a write or a flush of its file has failed; and it
//! takes them again when it is opened anew.
//!
//! The rule stands in `Whole::judge_faults`, and every fault of every sweep is judged by it. Here it
//! is shown one case at a time.
#![expect(clippy::unwrap_used, reason = "helpers of tests unwrap as tests do")]

use dynomite_tests::faults::{Class, Fault, FaultPlan, Rule};
use dynomite_tests::image::Image;
use dynomite_tests::model::Ledger;
use dynomite_tests::sim_disk::SimDisk;
use dynomite_tests::subject::{Env, Run, Subject};
use dynomite_tests::whole::{Op, Whole};

/// A store whose tree has some nodes, newer operations, and nothing in its cache.
fn store() -> (Whole, Run) {
    let disk = SimDisk::recording(Image::empty(Whole::SECTOR));
    let mut run = Run {
        env: Env::new(disk, 1, None),
        ledger: Ledger::of_nothing(),
    };
    let created = run.ledger.create(0);
    let mut subject = Whole::create(&run.env).unwrap();
    run.acknowledge(created);
    for key in b'a'..b'j' {
        let op = Op::put(b"t", &[key], &vec![key; 1100]);
        subject.run_op(&op, &mut run).unwrap();
    }
    for op in [Op::Checkpoint, Op::Reopen(1), Op::put(b"t", b"c", b"newer")] {
        subject.run_op(&op, &mut run).unwrap();
    }
    (subject, run)
}

/// Runs `op` with the first operation of a class failing. Gives whether that poisoned the store,
/// and shows that the store then does what it promises.
fn is_poisoned(class: Class, fault: Fault, op: &Op) -> bool {
    let (mut subject, mut run) = store();
    let rule = Rule {
        class,
        nth: 0,
        for_ever: false,
        fault,
    };
    run.env.disk.set_faults(FaultPlan::none().with(rule));
    let done = subject.run_op(op, &mut run);
    assert_eq!(run.env.disk.failures(), 1, "{op:?} meets no {class:?}");
    // An allocation ahead of need is given up, and only what is needed asked for again.
    let hidden = done.is_ok() && class != Class::Allocate;
    assert!(!hidden, "{op:?} hides a failed {class:?}");
    subject.judge_faults(&run.env).unwrap();
    let poisoned = subject.store().unwrap().stats().poisoned.is_some();
    let put = Op::put(b"t", b"later", b"1");
    assert_eq!(subject.run_op(&put, &mut run).is_err(), poisoned);
    if !poisoned {
        subject.run_op(&Op::Checkpoint, &mut run).unwrap();
        subject.run_op(&Op::Scrub, &mut run).unwrap();
    }
    for op in [Op::Reopen(1), put, Op::Checkpoint, Op::Scrub] {
        subject.run_op(&op, &mut run).unwrap();
    }
    poisoned
}

#[test]
fn by_a_write_or_a_flush_that_fails() {
    let large = Op::put(b"t", b"z", &[1; 3000]);
    for op in [Op::put(b"t", b"z", b"1"), large, Op::Checkpoint] {
        for fault in [Fault::Eio, Fault::Short, Fault::NoSpace, Fault::Interrupted] {
            assert!(is_poisoned(Class::Write, fault, &op), "{fault:?}, {op:?}");
        }
        for fault in [Fault::Eio, Fault::NoSpace, Fault::Interrupted] {
            assert!(is_poisoned(Class::Flush, fault, &op), "{fault:?}, {op:?}");
        }
    }
}

/// A node that could not be read for a moment, and an allocation that failed, ended all writing when
/// a checkpoint met them.
#[test]
fn and_by_nothing_else() {
    for fault in [Fault::Eio, Fault::Short, Fault::Interrupted] {
        assert!(
            !is_poisoned(Class::Read, fault, &Op::Checkpoint),
            "{fault:?}"
        );
    }
    let large = Op::put(b"t", b"z", &vec![1; 30_000]);
    for fault in [Fault::Eio, Fault::NoSpace] {
        assert!(!is_poisoned(Class::Allocate, fault, &large), "{fault:?}");
    }
    assert!(!is_poisoned(Class::Punch, Fault::Eio, &Op::Punch));
}
