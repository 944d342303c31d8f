//! A tree against a map: apply, lookup, cursor and range summary.

use crate::ground::{Key, Memory, Model, Ops, TREE, Value, geometry, summary};
use arbitrary::{Arbitrary, Unstructured};
use dmerkle::tree::{Cursor, Lookup, Position, Range, RangeSummary, Root, Source, Step};

#[derive(Debug, Arbitrary)]
enum Move {
    Put(Key, Value),
    /// As many keys of two bytes from here on, all alike.
    Fill(u8, u8, u8, Value),
    Delete(Key),
    DeleteRange(Key, Key),
    Apply,
    /// Where a cursor goes from here, this many steps up.
    Seek(Key, u8),
    /// And down.
    SeekBefore(Option<Key>, u8),
    Sum(Key, Option<Key>),
}

/// After any sequence of applies the tree holds what a map holds, passes every check, and says so
/// whichever way it is asked.
pub fn tree(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(choice) = input.arbitrary() else {
        return;
    };
    let mut memory = Memory::new(geometry(choice));
    let (mut model, mut next, mut ops) = (Model::new(), Model::new(), Ops::new());
    while let Some(step) = crate::next_of::<Move>(&mut input) {
        match step {
            Move::Put(key, value) => put(&mut next, &mut ops, key.bytes(), &value),
            Move::Fill(high, low, count, value) => {
                for n in 0..count % 64 {
                    let (key, body) = (vec![high, low.wrapping_add(n)], value.small());
                    next.insert(key.clone(), body.clone());
                    ops.insert(key, Some(body));
                }
            }
            Move::Delete(key) => {
                let key = key.bytes();
                next.remove(&key);
                ops.insert(key, None);
            }
            Move::DeleteRange(from, to) => {
                let (from, to) = (from.bytes(), to.bytes());
                if from < to {
                    let gone: Vec<_> = next.range(from..to).map(|(key, _)| key.clone()).collect();
                    for key in gone {
                        next.remove(&key);
                        ops.insert(key, None);
                    }
                }
            }
            Move::Apply => {
                apply(&mut memory, &next, &ops);
                ops.clear();
                model.clone_from(&next);
            }
            Move::Seek(key, steps) => seek(&mut memory, &model, &key.bytes(), steps),
            Move::SeekBefore(key, steps) => {
                let key = key.map(|key| key.bytes());
                seek_before(&mut memory, &model, key.as_deref(), steps);
            }
            Move::Sum(low, high) => {
                let (low, high) = (low.bytes(), high.map(|key| key.bytes()));
                let range = Range::new(&low, high.as_deref());
                let root = memory.root;
                let got = RangeSummary::new(crate::ground::KEY, &root, range)
                    .run(&mut memory, TREE)
                    .expect("nothing is corrupt");
                let crossed = high.as_ref().is_some_and(|high| *high <= low);
                let high = if crossed {
                    Some(low.as_slice())
                } else {
                    high.as_deref()
                };
                assert_eq!(got, summary(&model, &low, high));
            }
        }
    }
    apply(&mut memory, &next, &ops);
    // All of it can go.
    let none: Ops = next.keys().map(|key| (key.clone(), None)).collect();
    assert_eq!(memory.apply(&none).root, Root::EMPTY);
    memory.check();
}

fn put(next: &mut Model, ops: &mut Ops, key: Vec<u8>, value: &Value) {
    let body = value.body();
    next.insert(key.clone(), body.clone());
    ops.insert(key, Some(body));
}

fn apply(memory: &mut Memory, next: &Model, ops: &Ops) {
    memory.apply(ops);
    memory.check();
    assert_eq!(memory.root.summary, summary(next, b"", None));
    for key in ops.keys() {
        assert_eq!(get(memory, key).as_ref(), next.get(key));
    }
    let before = memory.root;
    let again = memory.apply(ops);
    assert_eq!((again.root, again.written), (before, 0), "nothing changed");
}

fn get(memory: &mut Memory, key: &[u8]) -> Option<Vec<u8>> {
    let mut lookup = Lookup::new(key);
    let mut pointer = memory.root.pointer;
    while !pointer.is_none() {
        let node = memory.node(TREE, &pointer).expect("nothing is corrupt");
        match lookup.step(&node).expect("nothing is corrupt") {
            Step::Need(next) => pointer = next,
            Step::Found(body) => return Some(body.as_bytes().to_vec()),
            Step::Absent => return None,
        }
    }
    None
}

fn seek(memory: &mut Memory, model: &Model, key: &[u8], steps: u8) {
    let mut cursor = Cursor::new(memory.root.pointer);
    cursor.seek(key);
    for (key, body) in model.range(key.to_vec()..).take(steps.into()) {
        assert!(cursor.complete(memory, TREE).expect("nothing is corrupt"));
        assert_eq!(cursor.key().to_vec(), *key);
        assert_eq!(cursor.body().as_bytes(), body);
        cursor.next();
    }
    if model.range(key.to_vec()..).count() <= steps.into() {
        assert!(!cursor.complete(memory, TREE).expect("nothing is corrupt"));
        assert_eq!(cursor.position(), Position::End);
    }
}

fn seek_before(memory: &mut Memory, model: &Model, key: Option<&[u8]>, steps: u8) {
    let mut cursor = Cursor::new(memory.root.pointer);
    cursor.seek_before(key);
    let below = || {
        let below = model.iter().rev();
        below.skip_while(|(other, _)| key.is_some_and(|key| other.as_slice() >= key))
    };
    for (key, body) in below().take(steps.into()) {
        assert!(cursor.complete(memory, TREE).expect("nothing is corrupt"));
        assert_eq!(cursor.key().to_vec(), *key);
        assert_eq!(cursor.body().as_bytes(), body);
        cursor.prev();
    }
    if below().count() <= steps.into() {
        assert!(!cursor.complete(memory, TREE).expect("nothing is corrupt"));
    }
}
