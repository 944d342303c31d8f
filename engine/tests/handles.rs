//! Handles that meet a store which is not theirs, or outlive what they stand for: they are refused
//! with a word that says so, and nothing is changed.

#![expect(clippy::unwrap_used, reason = "a panic is the report")]

mod common;

use common::{folder, small};
use dmerkle::diff::Contents;
use engine::{Durability, Error, Snapshot, Store, Tree};
use std::fmt::Debug;
use std::ops::ControlFlow;
use std::sync::mpsc;

/// What each call that reads a tree through a snapshot answers, as words.
fn reads(snapshot: &Snapshot, tree: &Tree) -> Vec<(&'static str, Result<String, Error>)> {
    fn words<T: Debug>(answer: Result<T, Error>) -> Result<String, Error> {
        answer.map(|answer| format!("{answer:?}"))
    }
    let (told, learns) = mpsc::channel();
    let tell = told.clone();
    snapshot.get_async(tree, b"k", move |got| {
        tell.send(words(got.map(|got| got.map(|got| got.to_vec()))))
            .unwrap();
    });
    snapshot.entry_async(tree, b"k", move |got| told.send(words(got)).unwrap());
    let visited = snapshot.visit(tree, b"", None, |_| ControlFlow::Continue(()));
    let mut contents = snapshot.contents(tree);
    let collected = |range: engine::Range| words(range.collect::<Result<Vec<_>, _>>());
    vec![
        ("get_async", learns.recv().unwrap()),
        ("entry_async", learns.recv().unwrap()),
        ("get", words(snapshot.get(tree, b"k"))),
        ("get_ref", words(snapshot.get_ref(tree, b"k").map(|_| ()))),
        ("get_many", words(snapshot.get_many(tree, &[b"k"]))),
        ("entry", words(snapshot.entry(tree, b"k"))),
        ("has", words(snapshot.has(tree, b"k"))),
        ("read", words(snapshot.read(tree, b"k", |_| ()))),
        ("count", words(snapshot.count(tree))),
        ("fingerprint", words(snapshot.fingerprint(tree, b"", None))),
        ("range", collected(snapshot.range(tree, b"", None))),
        (
            "empty range",
            collected(snapshot.range(tree, b"b", Some(b"a"))),
        ),
        (
            "range_back",
            collected(snapshot.range_back(tree, b"", None)),
        ),
        ("visit", words(visited)),
        ("summary", words(contents.summary(b"", None))),
        ("split", words(contents.split(b"", None, 2))),
        ("entries", words(contents.entries(b"", None, 9))),
        ("diff", words(snapshot.diff(tree, snapshot, tree, |_| ()))),
    ]
}

/// Every store counts its trees from 1: without a look at the store, the first tree of one is the
/// first of any other.
#[test]
fn a_tree_is_known_to_its_own_store_alone() {
    let (_dir_a, path_a) = folder();
    let (_dir_b, path_b) = folder();
    let a = Store::create(path_a, &small()).unwrap();
    let b = Store::create(path_b, &small()).unwrap();
    let (of_a, of_b) = (a.create_tree(b"t").unwrap(), b.create_tree(b"t").unwrap());
    of_a.put(b"k", b"a's").unwrap();
    of_b.put(b"k", b"b's").unwrap();
    let refused = |error: &Error| {
        let says = "the tree belongs to another store";
        matches!(error, Error::BadOption(why) if *why == says)
    };

    let fill: [&dyn Fn() -> engine::Batch; 4] = [
        &|| {
            let mut batch = a.batch();
            batch.put(&of_b, b"k", b"wrong");
            batch
        },
        &|| {
            let mut batch = engine::Batch::new();
            batch.put(&of_a, b"k", b"wrong").delete(&of_b, b"k");
            batch
        },
        &|| {
            let mut batch = b.batch();
            batch.delete(&of_b, b"k").put(&of_a, b"k", b"wrong");
            batch.delete(&of_a, b"k");
            batch
        },
        &|| {
            let mut batch = a.batch();
            batch.put_entry(&of_b, b"k", engine::NewEntry::plain(*b"wrong"));
            batch
        },
    ];
    for (index, fill) in fill.iter().enumerate() {
        let error = a.commit(fill(), Durability::Durable).unwrap_err();
        assert!(refused(&error), "batch {index}: {error}");
        let async_ = a.commit_async(fill(), Durability::Durable, |_| panic!("it was refused"));
        assert!(refused(&async_.unwrap_err()), "batch {index}");
    }
    assert_eq!(of_a.get(b"k").unwrap().unwrap(), b"a's");
    assert_eq!(of_b.get(b"k").unwrap().unwrap(), b"b's");

    let (snapshot, other) = (a.snapshot(), b.snapshot());
    for (call, answer) in reads(&snapshot, &of_b) {
        assert!(refused(answer.as_ref().unwrap_err()), "{call}: {answer:?}");
    }
    for (call, answer) in reads(&snapshot, &of_a) {
        assert!(answer.is_ok(), "{call}: {answer:?}");
    }
    let mut differences = 0;
    snapshot
        .diff(&of_a, &other, &of_b, |_| differences += 1)
        .unwrap();
    assert_eq!(differences, 1, "trees of two stores are compared");
    let crossed = snapshot.diff(&of_a, &other, &of_a, |_| ());
    assert!(refused(&crossed.unwrap_err()));

    // Not even the one that was at the same address before.
    let late = [(); 4].map(|()| {
        let mut batch = b.batch();
        batch.put(&of_b, b"k", b"late");
        batch
    });
    drop((of_b, other, b));
    for batch in late {
        let (_dir, path) = folder();
        let next = Store::create(path, &small()).unwrap();
        next.create_tree(b"t").unwrap();
        let error = next.commit(batch, Durability::Durable).unwrap_err();
        assert!(refused(&error), "{error}");
    }

    let mut batch = engine::Batch::new();
    batch.put(&of_a, b"k", b"right").delete(&of_a, b"other");
    a.commit(batch, Durability::Durable).unwrap();
    assert_eq!(of_a.get(b"k").unwrap().unwrap(), b"right");
}

/// What each call that reads a tree as it is now answers.
fn newest(tree: &Tree) -> Vec<(&'static str, Result<(), Error>)> {
    let (told, learns) = mpsc::channel();
    let tell = told.clone();
    tree.get_async(b"k", move |got| tell.send(got.map(|_| ())).unwrap());
    tree.entry_async(b"k", move |got| told.send(got.map(|_| ())).unwrap());
    let all = |range: engine::Range| range.collect::<Result<Vec<_>, _>>().map(|_| ());
    let leave = |_: Option<&engine::Entry>| Ok(engine::Decision::Leave);
    vec![
        ("get_async", learns.recv().unwrap()),
        ("entry_async", learns.recv().unwrap()),
        ("get", tree.get(b"k").map(|_| ())),
        ("get_ref", tree.get_ref(b"k").map(|_| ())),
        ("entry", tree.entry(b"k").map(|_| ())),
        ("has", tree.has(b"k").map(|_| ())),
        ("read", tree.read(b"k", |_| ()).map(|_| ())),
        ("count", tree.count().map(|_| ())),
        ("fingerprint", tree.fingerprint(b"", None).map(|_| ())),
        ("range", all(tree.range(b"", None))),
        ("empty range", all(tree.range(b"b", Some(b"a")))),
        ("range_back", all(tree.range_back(b"", None))),
        (
            "visit",
            tree.visit(b"", None, |_| ControlFlow::Continue(())),
        ),
        ("delete_range", tree.delete_range(b"x", None).map(|_| ())),
        (
            "update",
            tree.update(b"k", Durability::Durable, leave).map(|_| ()),
        ),
    ]
}

/// The drop is seen at once and for good, before a checkpoint empties the tree and after: a reader
/// who learnt of it by entries that vanish would take them for deleted one by one.
#[test]
fn a_dropped_tree_is_read_through_snapshots_taken_before_alone() {
    let (_dir, path) = folder();
    let store = Store::create(path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    tree.put(b"k", b"checkpointed").unwrap();
    store.checkpoint().unwrap();
    tree.put(b"l", b"newer").unwrap();
    for (call, answer) in newest(&tree) {
        assert!(answer.is_ok(), "{call}: {answer:?}");
    }
    let before = store.snapshot();
    let expected = reads(&before, &tree);
    let begun = tree.range(b"", None);
    store.drop_tree(b"t").unwrap();
    // Another one of the same name is another tree.
    store.create_tree(b"t").unwrap();
    for round in 0..3 {
        for (call, answer) in newest(&tree) {
            let refused = matches!(answer, Err(Error::NoSuchTree));
            assert!(refused, "{call} in round {round}: {answer:?}");
        }
        for (call, answer) in reads(&store.snapshot(), &tree) {
            let refused = matches!(answer, Err(Error::NoSuchTree));
            assert!(refused, "snapshot, {call} in round {round}: {answer:?}");
        }
        for (old, new) in expected.iter().zip(reads(&before, &tree)) {
            assert_eq!(format!("{old:?}"), format!("{new:?}"), "round {round}");
        }
        store.checkpoint().unwrap();
    }
    assert_eq!(
        begun.map(|entry| entry.unwrap().key().len()).sum::<usize>(),
        2
    );
}

/// Reads went on behind the close, though not those of C as its header had it; and who opened the
/// file again was sent to look for another process.
#[test]
fn a_closed_store_is_neither_read_nor_written_and_says_what_keeps_it_locked() {
    let (_dir, path) = folder();
    for access in ["closed", "read-only"] {
        if access == "closed" {
            let store = Store::create(&path, &small()).unwrap();
            store.create_tree(b"t").unwrap().put(b"k", b"v").unwrap();
        }
        let store = if access == "read-only" {
            Store::open_read_only(&path, &small()).unwrap()
        } else {
            Store::open(&path, &small()).unwrap()
        };
        let tree = store.tree(b"t").unwrap();
        let (snapshot, mut begun) = (store.snapshot(), tree.range(b"", None));
        let entry = tree.entry(b"k").unwrap().unwrap();
        for (call, answer) in newest(&tree) {
            let may_fail = access == "read-only" && call == "update";
            assert!(answer.is_ok() || may_fail, "{call}: {answer:?}");
        }
        let clone = store.clone();
        store.close().unwrap();
        let late = clone.tree(b"t").unwrap().get(b"k");
        assert!(matches!(late, Err(Error::Closed)), "{late:?}");
        drop(clone);
        for (call, answer) in newest(&tree) {
            assert!(matches!(answer, Err(Error::Closed)), "{call}: {answer:?}");
        }
        for (call, answer) in reads(&snapshot, &tree) {
            assert!(matches!(answer, Err(Error::Closed)), "{call}: {answer:?}");
        }
        assert!(matches!(begun.next(), Some(Err(Error::Closed))));
        assert!(matches!(tree.writer(5000), Err(Error::Closed)));
        if access != "read-only" {
            let late = tree.put(b"k", b"late");
            assert!(matches!(late, Err(Error::Closed)), "{late:?}");
        }
        // The last of them keeps the file locked, whichever it is.
        drop((tree, snapshot, begun));
        assert_eq!(entry.part(0).unwrap().unwrap(), b"v");
        let refused = Store::open(&path, &small()).map(|_| ()).unwrap_err();
        assert!(matches!(refused, Error::Locked));
        let says = refused.to_string();
        assert!(says.contains("in this process or another"), "{says}");
        drop(entry);
    }
    Store::open(&path, &small()).unwrap().close().unwrap();
}

#[test]
fn a_tree_is_read_but_not_written_when_the_last_clone_of_its_store_was_dropped() {
    let (_dir, path) = folder();
    let store = Store::create(&path, &small()).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    tree.put(b"k", b"v").unwrap();
    let snapshot = store.snapshot();
    drop(store);
    for (call, answer) in newest(&tree) {
        assert!(answer.is_ok(), "{call}: {answer:?}");
    }
    for (call, answer) in reads(&snapshot, &tree) {
        assert!(answer.is_ok(), "{call}: {answer:?}");
    }
    assert!(matches!(tree.put(b"k", b"late"), Err(Error::Closed)));
}
