//! Promise: on a full disk what needs space is refused, and nothing else is affected; deletes and
//! checkpoints still finish; when space returns, all goes on.
//!
//! A scripted history on file systems of every size between one in which nothing fits and one in
//! which everything does.

use dynomite_tests::check::{Meter, Stop};
use dynomite_tests::model::Change;
use dynomite_tests::rng::Rng;
use dynomite_tests::subject::Subject;
use dynomite_tests::sweep::full_disk;
use dynomite_tests::whole::{Op, Whole};

fn delete(key: &[u8]) -> Op {
    let (tree, key) = (b"s".to_vec(), key.to_vec());
    Op::Commit(vec![Change::Delete { tree, key }], true)
}

/// Small and large values, overwritten and deleted, checkpoints and openings between them.
fn script(seed: u64) -> Vec<Op> {
    let mut rng = Rng::new(seed);
    let mut ops = vec![Op::put(b"s", b"a", b"first")];
    for _ in 0..12 {
        let size = [40, 900, 1500, 3000, 9000][rng.index(5)];
        let key = [b'a' + u8::try_from(rng.below(6)).expect("small")];
        ops.push(Op::put(b"s", &key, &vec![key[0]; size]));
        match rng.below(8) {
            0 => ops.push(delete(&key)),
            1 => ops.push(Op::Checkpoint),
            2 => ops.push(Op::Step(3)),
            3 => ops.push(Op::Reopen(1)),
            4 => ops.push(Op::Punch),
            5 => ops.push(Op::Scrub),
            _ => {}
        }
    }
    ops.extend([delete(b"a"), Op::Checkpoint, Op::Checkpoint]);
    ops
}

#[test]
fn refuses_what_needs_space_and_nothing_else() {
    let meter = Meter::new(u64::MAX);
    let mut most = 0;
    for seed in 0..6 {
        for units in (0..200).step_by(3) {
            match full_disk::<Whole>(units * 512, &script(seed), seed, None, &meter) {
                Ok(refused) => most = most.max(refused),
                Err(Stop::Violation(violation)) => panic!("seed {seed}: {violation}"),
                Err(Stop::Enough) => unreachable!("the meter has no goal"),
            }
        }
    }
    assert!(most > 0, "no disk was full");
}

#[test]
fn whatever_the_history_was() {
    let meter = Meter::new(u64::MAX);
    for seed in 0..150 {
        let mut rng = Rng::new(seed);
        let ops: Vec<Op> = (0..8)
            .map(|_| Whole::op(rng.index(Whole::KINDS.len()), &mut rng))
            .collect();
        let bytes = rng.below(300) * 512;
        if let Err(Stop::Violation(violation)) = full_disk::<Whole>(bytes, &ops, seed, None, &meter)
        {
            panic!("seed {seed}, {ops:?}: {violation}");
        }
    }
}
