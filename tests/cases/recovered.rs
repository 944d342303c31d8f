//! Promise: a store that opened after a crash is sound; nothing in it is damaged.

use dynomite_tests::history::{DiskOp, Pick};
use dynomite_tests::image::{Image, Rot};
use dynomite_tests::model::Ledger;
use dynomite_tests::sim_disk::SimDisk;
use dynomite_tests::subject::{Env, Run, Subject};
use dynomite_tests::whole::{Op, Whole};

/// The padding behind a part was garbled in flight: the batch was recovered, since the part itself
/// is whole, and every later scrub called the extent corrupt.
#[test]
fn also_behind_the_end_of_a_part() {
    let disk = SimDisk::recording(Image::empty(Whole::SECTOR));
    let mut run = Run {
        env: Env::new(disk, 1, None),
        ledger: Ledger::of_nothing(),
    };
    let created = run.ledger.create(0);
    let mut subject = Whole::create(&run.env).unwrap();
    run.acknowledge(created);
    subject
        .run_op(&Op::put(b"t", b"first", b""), &mut run)
        .unwrap();
    subject
        .run_op(&Op::put(b"t", b"k", &[7; 2299]), &mut run)
        .unwrap();
    drop(subject);

    let history = run.env.disk.history();
    let epochs = history.epochs();
    let epoch = &epochs[epochs.len() - 2]; // before the flush of the last commit
    let extent = history.ops().iter().find_map(|op| match op {
        DiskOp::Write { offset, bytes } if bytes.starts_with(&[7; 2299]) => Some(*offset),
        _ => None,
    });
    let mut image = epoch.image(&vec![Pick::New; epoch.atoms.len()]);
    let last_bit = 512 * 8 - 1;
    image.rot(extent.unwrap() + 2048, Rot::Flip(last_bit));

    let mut subject = Whole::open(&Env::new(SimDisk::of(image), 2, None)).unwrap();
    let contents = subject.dump().unwrap();
    assert!(contents[&b"t"[..]].contains_key(&b"first"[..]));
    subject.audit().unwrap();
    let report = subject.store().unwrap().verify().unwrap();
    assert!(report.is_sound(), "{:?}", report.violations);
}

/// The kinds that a small history is exhausted over do what they are called, even in a world as
/// small as that.
#[test]
fn and_scrub_and_punch_have_something_to_do() {
    let disk = SimDisk::recording(Image::empty(Whole::SECTOR));
    let mut run = Run {
        env: Env::new(disk, 1, None),
        ledger: Ledger::of_nothing(),
    };
    let created = run.ledger.create(0);
    let mut subject = Whole::create(&run.env).unwrap();
    run.acknowledge(created);
    subject
        .run_op(&Op::put(b"t", b"k", &[7; 2299]), &mut run)
        .unwrap();
    let before = run.env.disk.counts();
    subject.run_op(&Op::Scrub, &mut run).unwrap();
    let scrubbed = run.env.disk.counts();
    // Two superblocks, the region table, and the extent.
    assert!(scrubbed.reads > before.reads + 3, "{before:?} {scrubbed:?}");
    let report = subject.store().unwrap().verify().unwrap();
    assert_eq!((report.newer, report.extents), (1, 1));
    subject.run_op(&Op::Punch, &mut run).unwrap();
    assert!(run.env.disk.counts().punches > 0);
    let punched = subject.store().unwrap().stats().punched_bytes;
    assert!(punched >= 2048, "{punched} bytes");
    let named = [
        "put small",
        "put extent",
        "overwrite",
        "delete",
        "batch over two trees",
        "create or drop tree",
        "checkpoint",
        "snapshot held",
        "snapshot released",
        "reopen",
        "scrub",
        "punch",
    ];
    assert_eq!(Whole::KINDS[..Whole::EXHAUSTED_KINDS], named);
}

/// A part that was replaced by what the tree had before left nothing to write, so that no map was
/// loaded, and more units counted as retired than as allocated: the first checkpoint after the
/// opening panicked.
#[test]
fn and_its_first_checkpoint_ends() {
    let disk = SimDisk::recording(Image::empty(Whole::SECTOR));
    let mut run = Run {
        env: Env::new(disk, 1, None),
        ledger: Ledger::of_nothing(),
    };
    let created = run.ledger.create(0);
    let mut subject = Whole::create(&run.env).unwrap();
    run.acknowledge(created);
    let script = [
        Op::put(b"s", b"a", b"small"),
        Op::Checkpoint,
        Op::put(b"s", b"a", &vec![1; 30_000]),
        Op::put(b"s", b"a", b"small"),
        Op::Reopen(1),
        Op::Checkpoint,
        Op::Scrub,
    ];
    for op in &script {
        subject.run_op(op, &mut run).unwrap();
    }
}
