//! A tree against a map: apply, lookup, cursor and range summary.
//!
//! An input is bounded in what it does, not in bytes alone, so that a fuzzer tries thousands a
//! second. After an apply the sums are compared; the whole tree is walked after the last one only:
//! a history that begins another is an input of its own.

use crate::ground::{Body, Key, Memory, Model, Ops, TREE, Value, geometry, summary};
use arbitrary::{Arbitrary, Unstructured};
use dmerkle::tree::{Cursor, Lookup, Position, Range, RangeSummary, Root, Source, Step};

/// Operations that an input may hold before the tree is asked to take no more.
const OPS_MAX: usize = 200;

/// Applies of one input, beside the last two.
const APPLIES_MAX: usize = 6;

#[derive(Debug)]
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

/// Not derived: a choice takes one byte of the input, not four.
impl Arbitrary<'_> for Move {
    fn arbitrary(input: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        Ok(match u8::arbitrary(input)? % 12 {
            0..4 => Self::Put(input.arbitrary()?, input.arbitrary()?),
            4 => Self::Fill(
                input.arbitrary()?,
                input.arbitrary()?,
                input.arbitrary()?,
                input.arbitrary()?,
            ),
            5..7 => Self::Delete(input.arbitrary()?),
            7 => Self::DeleteRange(input.arbitrary()?, input.arbitrary()?),
            8 => Self::Apply,
            9 => Self::Seek(input.arbitrary()?, input.arbitrary()?),
            10 => Self::SeekBefore(input.arbitrary()?, input.arbitrary()?),
            _ => Self::Sum(input.arbitrary()?, input.arbitrary()?),
        })
    }
}

/// After any sequence of applies the tree holds what a map holds, passes every check, and says so
/// whichever way it is asked.
pub fn tree(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(choice) = input.arbitrary::<u8>() else {
        return;
    };
    let (mut memory, knows) = (Memory::new(geometry(choice)), choice & 4 != 0);
    // What the tree holds, and what it will hold after `ops`.
    let (mut model, mut next, mut ops) = (Model::new(), Model::new(), Ops::new());
    let (mut taken, mut applies) = (0, 0);
    while let Some(step) = crate::next_of::<Move>(&mut input) {
        match step {
            Move::Put(key, value) => put(&mut next, &mut ops, key.bytes(), value.body()),
            Move::Fill(high, low, count, value) => {
                for n in 0..count % 24 {
                    let key = vec![high, low.wrapping_add(n)];
                    put(&mut next, &mut ops, key, value.small());
                }
                taken += usize::from(count % 24);
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
            Move::Apply if applies < APPLIES_MAX => {
                applies += 1;
                apply(&mut memory, &mut model, &ops, knows);
                ops.clear();
            }
            Move::Apply => {}
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
        taken += 1;
        if taken >= OPS_MAX {
            break;
        }
    }
    apply(&mut memory, &mut model, &ops, knows);
    memory.check();
    for key in ops.keys() {
        let held = next.get(key).map(|body| &*body.bytes);
        assert_eq!(get(&mut memory, key).as_deref(), held);
    }
    let before = memory.root;
    let again = memory.apply(&ops, knows);
    assert_eq!((again.root, again.written), (before, 0), "nothing changed");
    // All of it can go.
    let none: Ops = next.keys().map(|key| (key.clone(), None)).collect();
    assert_eq!(memory.apply(&none, knows).root, Root::EMPTY);
    memory.check();
}

fn put(next: &mut Model, ops: &mut Ops, key: Vec<u8>, body: Vec<u8>) {
    let body = Body::new(&key, body);
    next.insert(key.clone(), body.clone());
    ops.insert(key, Some(body));
}

/// Brings tree and model up to date.
fn apply(memory: &mut Memory, model: &mut Model, ops: &Ops, knows: bool) {
    for (key, body) in ops {
        match body {
            Some(body) => drop(model.insert(key.clone(), body.clone())),
            None => drop(model.remove(key)),
        }
    }
    memory.apply(ops, knows);
    assert_eq!(memory.root.summary, summary(model, b"", None));
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
        assert_eq!(cursor.body().as_bytes(), &*body.bytes);
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
        assert_eq!(cursor.body().as_bytes(), &*body.bytes);
        cursor.prev();
    }
    if below().count() <= steps.into() {
        assert!(!cursor.complete(memory, TREE).expect("nothing is corrupt"));
    }
}
