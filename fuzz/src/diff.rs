//! Two sides of a diff: two trees until they agree, and a peer that sends anything.

use crate::ground::{Body, KEY, Key, Memory, Model, Ops, TREE, Value, geometry};
use arbitrary::{Arbitrary, Unstructured};
use dmerkle::diff::{
    Difference, Error, FRAME_BYTES_MAX, KeyRange, Limits, Next, Session, Sorted, TreeContents,
    respond, run,
};
use dmerkle::{Corrupt, Sum};
use std::collections::BTreeSet;

/// Frames that a session may send to a peer that lies before it must have given up.
const LIES_MAX: u64 = 64;

/// Entries of both sides from which on no more are made: what a talk costs grows with them.
const ENTRIES_MAX: usize = 150;

#[derive(Debug)]
enum Edit {
    Both(Key, Value),
    Mine(Key, Value),
    Theirs(Key, Value),
    /// Both sides have so many keys from here on.
    Fill(u8, u8, u8, Value),
    /// One side has them.
    FillMine(u8, u8, u8, Value),
}

/// Not derived: a choice takes one byte of the input, not four.
impl Arbitrary<'_> for Edit {
    fn arbitrary(input: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        Ok(match u8::arbitrary(input)? % 8 {
            0..2 => Self::Both(input.arbitrary()?, input.arbitrary()?),
            2..4 => Self::Mine(input.arbitrary()?, input.arbitrary()?),
            4..6 => Self::Theirs(input.arbitrary()?, input.arbitrary()?),
            fill => {
                let (first, from) = (input.arbitrary()?, input.arbitrary()?);
                let (count, value) = (input.arbitrary()?, input.arbitrary()?);
                if fill == 6 {
                    Self::Fill(first, from, count, value)
                } else {
                    Self::FillMine(first, from, count, value)
                }
            }
        })
    }
}

fn put(side: &mut Model, key: Vec<u8>, body: Vec<u8>) {
    let body = Body::new(&key, body);
    side.insert(key, body);
}

fn put_both(sides: [&mut Model; 2], key: Vec<u8>, body: Vec<u8>) {
    let body = Body::new(&key, body);
    for side in sides {
        side.insert(key.clone(), body.clone());
    }
}

fn ops_of(model: &Model) -> Ops {
    let entries = model.iter();
    entries
        .map(|(key, body)| (key.clone(), Some(body.clone())))
        .collect()
}

/// A diff finds exactly what the maps differ in, in few bytes and rounds; what it found, applied,
/// makes the trees agree; and then it finds nothing.
pub fn diff_trees(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok((shapes, leaf_log2, flight, salt)) = input.arbitrary::<(u8, u8, u8, u32)>() else {
        return;
    };
    let limits = Limits {
        salt,
        leaf_log2: leaf_log2 % 13,
        flight: usize::from(flight % 4) + 1,
        frames_max: u64::MAX,
    };
    let (mut mine, mut theirs) = (Model::new(), Model::new());
    while let Some(edit) = crate::next_of::<Edit>(&mut input)
        && mine.len() + theirs.len() < ENTRIES_MAX
    {
        match edit {
            Edit::Both(key, value) => {
                put_both([&mut mine, &mut theirs], key.bytes(), value.body());
            }
            Edit::Mine(key, value) => put(&mut mine, key.bytes(), value.body()),
            Edit::Theirs(key, value) => put(&mut theirs, key.bytes(), value.body()),
            Edit::Fill(first, from, count, value) => {
                for n in 0..count % 32 {
                    let key = vec![first, from.wrapping_add(n), n];
                    put_both([&mut mine, &mut theirs], key, value.small());
                }
            }
            Edit::FillMine(first, from, count, value) => {
                for n in 0..count % 32 {
                    put(&mut mine, vec![first, from.wrapping_add(n)], value.small());
                }
            }
        }
    }
    let mut my_memory = Memory::new(geometry(shapes));
    let mut their_memory = Memory::new(geometry(shapes / 4));
    my_memory.apply(&ops_of(&mine), true);
    their_memory.apply(&ops_of(&theirs), true);

    let (found, traffic) = talk(&mut my_memory, &mut their_memory, &limits);
    let keys: BTreeSet<&Vec<u8>> = mine.keys().chain(theirs.keys()).collect();
    let key_bytes: usize = keys.iter().map(|key| key.len()).sum();
    let expected: BTreeSet<Difference> = keys
        .into_iter()
        .filter(|key| mine.get(*key) != theirs.get(*key))
        .map(|key| Difference {
            key: key.clone(),
            mine: mine.get(key).map(|body| body.fingerprint),
            theirs: theirs.get(key).map(|body| body.fingerprint),
        })
        .collect();
    let told: BTreeSet<Difference> = found.into_iter().collect();
    assert_eq!(told, expected);
    // Loose bounds; what a diff should cost is measured elsewhere. Twice, for a second walk.
    let entries = mine.len() + theirs.len();
    assert!(traffic.bytes <= 2 * (4096 + 80 * entries + 16 * key_bytes));
    assert!(traffic.frames <= 2 * (64 + 2 * entries));

    // The asking side takes over what the other has.
    let mut ops = Ops::new();
    for difference in told {
        let key = difference.key;
        ops.insert(key.clone(), theirs.get(&key).cloned());
    }
    my_memory.apply(&ops, true);
    assert_eq!(my_memory.root.summary, their_memory.root.summary);
    let (found, traffic) = talk(&mut my_memory, &mut their_memory, &limits);
    assert!(found.is_empty(), "equal trees differ");
    assert!(traffic.frames <= 2, "equal trees need one frame each way");
}

#[derive(Debug, Default)]
struct Traffic {
    frames: usize,
    bytes: usize,
}

fn talk(mine: &mut Memory, theirs: &mut Memory, limits: &Limits) -> (Vec<Difference>, Traffic) {
    let (my_root, their_root) = (mine.root, theirs.root);
    let mut session = Session::new(KeyRange::default(), limits.clone());
    let mut my_side = TreeContents::new(mine, TREE, my_root, KEY);
    let mut their_side = TreeContents::new(theirs, TREE, their_root, KEY);
    let (mut found, mut traffic) = (Vec::new(), Traffic::default());
    let exchange = |frame: Vec<u8>| -> Result<Vec<u8>, Error<Corrupt>> {
        assert!(frame.len() <= FRAME_BYTES_MAX);
        let answer = respond(&mut their_side, &frame)?;
        assert!(answer.len() <= FRAME_BYTES_MAX);
        traffic.frames += 2;
        traffic.bytes += frame.len() + answer.len();
        Ok(answer)
    };
    run(&mut session, &mut my_side, exchange, |one| found.push(one))
        .expect("two honest sides agree");
    assert!(session.open_bounds().is_empty());
    (found, traffic)
}

/// A few hundred entries, the same for every input.
fn some_entries(step: u16) -> Sorted {
    let keys = (0..500_u16).filter(|n| !n.is_multiple_of(step));
    Sorted::new(
        7,
        keys.map(|n| (n.to_le_bytes().to_vec(), Sum(u128::from(n + 1) << 70 | 1))),
    )
}

/// An arbitrary frame is refused, or its answer fits a frame.
pub fn diff_frame(data: &[u8]) {
    if let Ok(answer) = respond(&mut some_entries(501), data) {
        assert!(answer.len() <= FRAME_BYTES_MAX);
    }
}

/// What a peer does to one answer.
#[derive(Debug, Arbitrary)]
enum Lie {
    Honest,
    /// These bytes instead.
    Bytes(Vec<u8>),
    /// Another byte here, as often as is said.
    Flip(u16, u8, u8),
    Cut(u16),
    Lengthen(u8, u8),
    /// As if the copy had changed.
    OtherCopy(u8),
    /// The answer to the question before.
    Stale,
}

/// A peer that answers anything, in the middle of a session too, makes it end: with an error, or
/// with what its word amounts to, after a bounded number of bounded frames.
pub fn diff_peer(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok((leaf_log2, flight)) = input.arbitrary::<(u8, u8)>() else {
        return;
    };
    let limits = Limits {
        leaf_log2: leaf_log2 % 13,
        flight: usize::from(flight % 4) + 1,
        frames_max: LIES_MAX,
        ..Limits::default()
    };
    let mut mine = some_entries(7);
    let mut session = Session::new(KeyRange::default(), limits);
    let mut step = session.start(&mut mine).expect("no answer came yet");
    let mut before = Vec::new();
    let mut waiting = std::collections::VecDeque::new();
    let mut sent = 0;
    loop {
        for frame in std::mem::take(&mut step.frames) {
            assert!(frame.len() <= FRAME_BYTES_MAX);
            sent += 1;
            assert!(sent <= LIES_MAX, "a session that never gives up");
            waiting.push_back(frame);
        }
        let stepped = match step.next {
            Next::Done => {
                assert!(session.open_bounds().is_empty());
                return;
            }
            Next::Advance => session.advance(&mut mine),
            Next::Answer => {
                let frame = waiting.pop_front().expect("a question is under way");
                let lie = crate::next_of(&mut input).unwrap_or(Lie::Honest);
                let answer = answer_of(&frame, &lie, &before);
                before.clone_from(&answer);
                session.receive(&mut mine, &answer)
            }
        };
        match stepped {
            Ok(next) => step = next,
            Err(_) => {
                // What was not settled is told, so that another peer can be asked.
                let bounds = session.open_bounds();
                let ascends = |pair: &[KeyRange]| {
                    let high = pair[0].high.as_ref();
                    high.is_some_and(|high| *high <= pair[1].low)
                };
                assert!(bounds.windows(2).all(ascends), "bounds overlap");
                return;
            }
        }
    }
}

fn answer_of(frame: &[u8], lie: &Lie, before: &[u8]) -> Vec<u8> {
    let step = match lie {
        Lie::OtherCopy(step) => u16::from(*step) + 2,
        _ => 11,
    };
    let mut answer = respond(&mut some_entries(step), frame).unwrap_or_default();
    match lie {
        Lie::Honest | Lie::OtherCopy(_) => {}
        Lie::Bytes(bytes) => answer.clone_from(bytes),
        Lie::Flip(at, byte, count) => {
            for n in 0..=usize::from(*count % 4) {
                let place = (usize::from(*at) + n * 3).checked_rem(answer.len());
                if let Some(place) = place {
                    answer[place] ^= byte.rotate_left(u32::try_from(n).unwrap_or_default());
                }
            }
        }
        Lie::Cut(length) => answer.truncate(usize::from(*length)),
        Lie::Lengthen(byte, count) => answer.extend(std::iter::repeat_n(*byte, (*count).into())),
        Lie::Stale => answer = before.to_vec(),
    }
    answer
}
