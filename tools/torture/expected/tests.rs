//! Goal: the judge lets pass what a crash may leave, and nothing else.
//! Method: two workers' acknowledgements are heard; a store gets those of the commits that the case
//! says; one commit more or less, half a batch, a foreign key or a wrong byte must be a violation.

use super::*;
use crate::child::new_entry;
use engine::{Batch, Durability, NewEntry};

const LOAD: Load = Load {
    shape: Shape {
        seed: 11,
        workers: 2,
        keys: 300,
        value_bytes_max: 3000,
        log_bytes: 1 << 20,
    },
    round: 0,
};

/// A commit as the case made it.
struct Made {
    worker: u32,
    durable: bool,
    changes: Vec<Change>,
}

/// Hears the first steps of both workers in turns; their commits in the order of the log.
fn heard(steps: usize) -> (Expected, Vec<Made>) {
    let mut expected = Expected::new(LOAD.shape);
    expected.begin(&LOAD);
    expected.hear("o", true).expect("a line");
    let mut made = Vec::new();
    let mut workers: Vec<_> = (0..2)
        .map(|worker| LOAD.steps(worker).enumerate())
        .collect();
    for turn in 0..steps {
        let worker = turn % 2;
        let (index, step) = workers[worker].next().expect("steps have no end");
        let lsn = (made.len() + 1) * 100;
        let line = format!("a {worker} {index} {lsn}");
        let worker = u32::try_from(worker).expect("two workers");
        match step {
            Step::Write {
                changes,
                durability,
            } => {
                expected.hear(&line, true).expect("a line");
                made.push(Made {
                    worker,
                    durable: durability == Durability::Durable,
                    changes,
                });
            }
            Step::Look(_) => {}
            Step::Flush | Step::Checkpoint => {
                expected
                    .hear(&line.replace(&lsn.to_string(), "0"), true)
                    .expect("a line");
            }
        }
    }
    (expected, made)
}

/// A store with these commits, and what the judge says of it.
fn judged(
    expected: &mut Expected,
    made: &[&Made],
    more: impl FnOnce(&Store),
) -> Result<Held, Violation> {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::create(folder.path().join("store"), &LOAD.options()).expect("a store");
    let trees = ["even", "odd"].map(|name| store.create_tree(name.as_bytes()).expect("a tree"));
    for commit in made {
        let mut batch = Batch::new();
        for change in &commit.changes {
            let tree = &trees[Shape::tree_of(change.key)];
            let name = Shape::name(commit.worker, change.key);
            match LOAD
                .shape
                .content(commit.worker, change.key, change.version)
            {
                Some(content) => {
                    batch.put_entry(tree, &name, new_entry(tree, content).expect("an entry"))
                }
                None => batch.delete(tree, &name),
            };
        }
        store.commit(batch, Durability::Buffered).expect("a commit");
    }
    more(&store);
    expected.settle(Some(&store))
}

/// How many commits are there up to the last durable one.
fn durable(made: &[Made]) -> usize {
    made.iter()
        .rposition(|commit| commit.durable)
        .map_or(0, |last| last + 1)
}

/// Steps after which some buffered commits lie above the last durable one.
fn some() -> (Expected, Vec<Made>) {
    let case = |steps| {
        let (expected, made) = heard(steps);
        let open = made.len() - durable(&made);
        (open >= 6 && durable(&made) > 10).then_some((expected, made))
    };
    (40..2000)
        .find_map(case)
        .expect("buffered commits in a row")
}

#[test]
fn every_prefix_from_the_last_durable_commit_on_passes() {
    let (_, made) = some();
    for there in durable(&made)..=made.len() {
        let (mut expected, _) = some();
        let store: Vec<&Made> = made[..there].iter().collect();
        judged(&mut expected, &store, |_| ()).expect("a prefix");
        assert_eq!(expected.workers[0].pending.len(), 0);
    }
}

#[test]
fn a_lost_durable_commit_and_a_hole_among_buffered_ones_are_violations() {
    let (_, made) = some();
    let all: Vec<&Made> = made.iter().collect();
    let last_durable = durable(&made) - 1;
    for lost in [last_durable, last_durable + 1, last_durable + 2] {
        // What nobody wrote later and what was there before makes the loss visible.
        let changes = &made[lost].changes;
        let visible = changes.iter().any(|change| {
            change.version != Version::ABSENT
                && made[lost + 1..].iter().all(|later| {
                    later.worker != made[lost].worker
                        || later.changes.iter().all(|other| other.key != change.key)
                })
        });
        if !visible {
            continue;
        }
        let mut store = all.clone();
        store.remove(lost);
        let (mut expected, _) = some();
        let judgement = judged(&mut expected, &store, |_| ());
        assert!(judgement.is_err(), "without commit {lost}");
    }
    let (mut expected, _) = some();
    let short = &all[..last_durable];
    judged(&mut expected, short, |_| ()).expect_err("the last durable commit is lost");
}

#[test]
fn half_a_batch_is_a_violation() {
    let (_, mut made) = some();
    let at = made[durable(&made)..].iter().rposition(|commit| {
        let puts = commit
            .changes
            .iter()
            .filter(|change| change.version != Version::ABSENT);
        puts.count() > 1
    });
    let Some(at) = at.map(|at| at + durable(&made)) else {
        panic!("the case has a batch");
    };
    made.truncate(at + 1);
    let put = made[at]
        .changes
        .iter()
        .position(|change| change.version != Version::ABSENT);
    made[at].changes.remove(put.expect("a put"));
    let (mut expected, _) = some();
    let store: Vec<&Made> = made.iter().collect();
    judged(&mut expected, &store, |_| ()).expect_err("half a batch");
}

#[test]
fn what_was_never_written_and_wrong_bytes_are_violations() {
    let (_, made) = some();
    let store: Vec<&Made> = made.iter().collect();
    let (mut expected, _) = some();
    judged(&mut expected, &store, |store| {
        let tree = store.tree(b"odd").expect("a tree");
        tree.put(b"nobody's", b"value").expect("a commit");
    })
    .expect_err("a foreign key");
    let (mut expected, _) = some();
    judged(&mut expected, &store, |store| {
        let change = made[0].changes[0];
        let tree = store
            .tree(TREE_NAMES[Shape::tree_of(change.key)])
            .expect("a tree");
        let entry = NewEntry::plain(b"other bytes");
        let name = Shape::name(made[0].worker, change.key);
        tree.put_entry(&name, entry, Durability::Durable)
            .expect("a commit");
    })
    .expect_err("other bytes");
}

const TREE_NAMES: [&[u8]; 2] = crate::content::TREES;

#[test]
fn an_acknowledgement_that_does_not_count_may_be_lost_and_lines_that_make_no_sense_are_told() {
    let (mut expected, made) = heard(60);
    let mut store: Vec<&Made> = made.iter().collect();
    let next = LOAD
        .steps(0)
        .enumerate()
        .skip(30)
        .find(|(_, step)| !step.is_look());
    let (index, step) = next.expect("steps have no end");
    let Step::Write { .. } = step else {
        panic!("the case ends with a write");
    };
    expected
        .hear(&format!("a 0 {index} 1000000"), false)
        .expect("a line");
    judged(&mut expected, &store, |_| ()).expect("as if it had not come");

    let (mut expected, _) = heard(60);
    store.clear();
    for strange in ["", "a", "a 0", "a 9 1 1", "a 0 0 1", "b 0 0 1", "a 0 999 1"] {
        assert!(expected.hear(strange, true).is_err(), "{strange}");
    }
    assert!(expected.hear("!wrong bytes", true).is_err());
    expected.settle(None).expect_err("the file is gone");
}
