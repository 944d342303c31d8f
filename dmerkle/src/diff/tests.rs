//! Goal: a diff over frames finds exactly what comparing the two maps finds, however the copies
//! lie, and no peer makes either side panic, run on or hoard. Method: random pairs of maps with a
//! small leaf, so that a few hundred entries pass through every kind of query; counted frames;
//! arbitrary and damaged frames.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

const KEY_ID: u64 = 7;

type Map = BTreeMap<Vec<u8>, u64>;

/// What stands for the fingerprint of an entry.
fn fingerprint(key: &[u8], value: u64) -> Sum {
    let mut input = key.to_vec();
    input.extend_from_slice(&value.to_le_bytes());
    let hash = crate::fingerprint::part_hash(&input);
    Sum(u128::from_le_bytes(hash[..16].try_into().unwrap()))
}

fn sorted(map: &Map) -> Sorted {
    let entries = map
        .iter()
        .map(|(key, value)| (key.clone(), fingerprint(key, *value)));
    Sorted::new(KEY_ID, entries)
}

fn model(mine: &Map, theirs: &Map, range: &KeyRange) -> BTreeSet<Difference> {
    let keys: BTreeSet<&Vec<u8>> = mine.keys().chain(theirs.keys()).collect();
    keys.into_iter()
        .filter(|key| range.contains(key) && mine.get(*key) != theirs.get(*key))
        .map(|key| Difference {
            key: key.clone(),
            mine: mine.get(key).map(|value| fingerprint(key, *value)),
            theirs: theirs.get(key).map(|value| fingerprint(key, *value)),
        })
        .collect()
}

#[derive(Debug, Default)]
struct Traffic {
    frames: usize,
    bytes: usize,
}

fn diff(
    session: &mut Session,
    mine: &mut impl Contents<Error = Infallible>,
    theirs: &mut impl Contents<Error = Infallible>,
) -> Result<(Vec<Difference>, Traffic), Error<Infallible>> {
    let mut found = Vec::new();
    let mut traffic = Traffic::default();
    run(
        session,
        mine,
        |frame| {
            assert!(frame.len() <= FRAME_BYTES_MAX);
            let answer = respond(theirs, &frame)?;
            assert!(answer.len() <= FRAME_BYTES_MAX);
            traffic.frames += 2;
            traffic.bytes += frame.len() + answer.len();
            Ok(answer)
        },
        |difference| found.push(difference),
    )?;
    assert!(session.open_bounds().is_empty());
    Ok((found, traffic))
}

fn small(leaf_log2: u8, flight: usize) -> Limits {
    Limits {
        leaf_log2,
        flight,
        ..Limits::default()
    }
}

fn assert_finds(mine: &Map, theirs: &Map, range: KeyRange, limits: Limits) {
    let expected = model(mine, theirs, &range);
    let mut session = Session::new(range, limits);
    let (found, _) = diff(&mut session, &mut sorted(mine), &mut sorted(theirs)).unwrap();
    assert_eq!(
        found.len(),
        expected.len(),
        "each difference is reported once"
    );
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
}

/// Keys that share prefixes, some long, some the empty key.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(0_u8..4, 0..6),
        4 => any::<u32>().prop_map(|n| n.to_be_bytes().to_vec()),
        1 => (any::<u8>(), 0_usize..40).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

fn pair() -> impl Strategy<Value = (Map, Map)> {
    let entries = prop::collection::btree_map(key(), any::<u64>(), 0..400);
    let edits = prop::collection::vec((key(), any::<prop::sample::Index>(), 0_u8..4), 0..60);
    (entries, edits, any::<bool>()).prop_map(|(mine, edits, swap)| {
        let mut theirs = mine.clone();
        for (key, index, kind) in edits {
            let held = mine.keys().nth(index.index(mine.len().max(1))).cloned();
            match (kind, held) {
                (0, Some(held)) => drop(theirs.remove(&held)),
                (1, Some(held)) => drop(theirs.insert(held, 1)),
                _ => drop(theirs.insert(key, 2)),
            }
        }
        if swap { (theirs, mine) } else { (mine, theirs) }
    })
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        2 => Just(KeyRange::default()),
        1 => (key(), prop::option::of(key())).prop_map(|(low, high)| KeyRange { low, high }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn finds_what_the_maps_differ_in(
        (mine, theirs) in pair(),
        range in range(),
        leaf_log2 in 0_u8..7,
        flight in 1_usize..4,
    ) {
        assert_finds(&mine, &theirs, range, small(leaf_log2, flight));
    }

    #[test]
    fn finds_what_unrelated_maps_differ_in(
        mine in prop::collection::btree_map(key(), 0_u64..2, 0..300),
        theirs in prop::collection::btree_map(key(), 0_u64..2, 0..300),
        leaf_log2 in 0_u8..10,
    ) {
        assert_finds(&mine, &theirs, KeyRange::default(), small(leaf_log2, 2));
    }

    #[test]
    fn goes_on_from_the_open_bounds(
        (mine, theirs) in pair(),
        frames in 0_usize..8,
        leaf_log2 in 0_u8..5,
    ) {
        let expected = model(&mine, &theirs, &KeyRange::default());
        let (mut mine, mut theirs) = (sorted(&mine), sorted(&theirs));
        let mut session = Session::new(KeyRange::default(), small(leaf_log2, 1));
        let mut found = BTreeSet::new();
        let mut step = session.start(&mut mine).unwrap();
        for _ in 0..frames {
            found.extend(step.differences);
            step = match step.next {
                Next::Done => break,
                Next::Advance => session.advance(&mut mine).unwrap(),
                Next::Answer => {
                    let answer = respond(&mut theirs, &step.frames[0]).unwrap();
                    session.receive(&mut mine, &answer).unwrap()
                }
            };
            found.extend(std::mem::take(&mut step.differences));
        }
        let mut session = Session::resume(session.open_bounds(), small(leaf_log2, 1));
        found.extend(diff(&mut session, &mut mine, &mut theirs).unwrap().0);
        prop_assert_eq!(found, expected);
    }
}
