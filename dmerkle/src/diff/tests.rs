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
        flight in 1_usize..3,
        fails: bool,
    ) {
        let expected = model(&mine, &theirs, &KeyRange::default());
        let (mut mine, mut theirs) = (sorted(&mine), sorted(&theirs));
        let mut session = Session::new(KeyRange::default(), small(leaf_log2, flight));
        let mut found = BTreeSet::new();
        let mut asked = std::collections::VecDeque::new();
        let mut step = session.start(&mut mine).unwrap();
        for call in 0..=frames {
            found.extend(step.differences);
            asked.extend(step.frames);
            let advanced = match step.next {
                Next::Done => break,
                Next::Advance => session.advance(&mut mine),
                Next::Answer => {
                    let mut answer = respond(&mut theirs, &asked.pop_front().unwrap()).unwrap();
                    if fails && call == frames {
                        answer.push(7);
                    }
                    session.receive(&mut mine, &answer)
                }
            };
            step = match advanced {
                Ok(step) => step,
                Err(_) => break,
            };
            if call == frames {
                found.extend(std::mem::take(&mut step.differences));
            }
        }
        found.extend(session.take_found());
        let mut session = Session::resume(session.open_bounds(), small(leaf_log2, 1));
        found.extend(diff(&mut session, &mut mine, &mut theirs).unwrap().0);
        prop_assert_eq!(found, expected);
    }
}

fn numbered(entries: u64) -> Map {
    (0..entries)
        .map(|n| (fingerprint(b"key", n).0.to_be_bytes().to_vec(), n))
        .collect()
}

fn traffic(mine: &Map, theirs: &Map) -> Traffic {
    let mut session = Session::new(KeyRange::default(), Limits::default());
    let (found, traffic) = diff(&mut session, &mut sorted(mine), &mut sorted(theirs)).unwrap();
    let expected = model(mine, theirs, &KeyRange::default());
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    traffic
}

#[test]
fn equal_copies_cost_a_line() {
    let map = numbered(100_000);
    let traffic = traffic(&map, &map);
    assert_eq!(traffic.frames, 2);
    assert!(traffic.bytes <= 40, "{traffic:?}");
}

#[test]
fn one_difference_costs_a_few_hundred_bytes() {
    let mine = numbered(100_000);
    for number in [0, 777, 99_999] {
        let mut theirs = mine.clone();
        let key = mine.keys().nth(number).unwrap().clone();
        theirs.insert(key, u64::MAX);
        let traffic = traffic(&mine, &theirs);
        assert!(traffic.frames <= 6 && traffic.bytes <= 550, "{traffic:?}");
    }
}

/// A copy that counts the entries which are read of it, and how often it is asked for sums.
struct Counted {
    copy: Sorted,
    read: usize,
    summed: usize,
}

impl Counted {
    fn new(map: &Map) -> Self {
        Self {
            copy: sorted(map),
            read: 0,
            summed: 0,
        }
    }
}

impl Contents for Counted {
    type Error = Infallible;

    fn key_id(&self) -> u64 {
        self.copy.key_id()
    }

    fn summary(&mut self, low: &[u8], high: Option<&[u8]>) -> Result<Summary, Infallible> {
        self.summed += 1;
        self.copy.summary(low, high)
    }

    fn split(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        parts: usize,
    ) -> Result<Vec<Vec<u8>>, Infallible> {
        self.copy.split(low, high, parts)
    }

    fn entries(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        limit: usize,
    ) -> Result<Entries, Infallible> {
        let entries = self.copy.entries(low, high, limit)?;
        self.read += entries.len();
        Ok(entries)
    }
}

#[test]
fn a_changed_entry_is_fetched_without_reading_its_range_again() {
    let mine = numbered(100_000);
    let key = mine.keys().nth(777).unwrap().clone();
    let mut theirs = mine.clone();
    theirs.insert(key.clone(), u64::MAX);
    let [mut one, mut other] = [&mine, &theirs].map(Counted::new);
    let mut session = Session::new(KeyRange::default(), Limits::default());
    let (found, _) = diff(&mut session, &mut one, &mut other).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].key, key);
    assert!(one.read > 100, "a sketch settles it");
    assert_eq!(other.read, one.read + 1);
}

/// Entries read of both copies, and what the frames took.
fn reads(mine: &Map, theirs: &Map) -> ([usize; 2], Traffic) {
    let [mut one, mut other] = [mine, theirs].map(Counted::new);
    let mut session = Session::new(KeyRange::default(), Limits::default());
    let (found, traffic) = diff(&mut session, &mut one, &mut other).unwrap();
    let expected = model(mine, theirs, &KeyRange::default());
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    ([one.read, other.read], traffic)
}

#[test]
fn where_most_ranges_differ_most_entries_are_not_read() {
    let mine = numbered(100_000);
    let mut theirs = mine.clone();
    for value in theirs.values_mut().filter(|value| **value % 500 == 0) {
        *value += 1 << 32;
    }
    let (read, traffic) = reads(&mine, &theirs);
    // Each of 200 differences costs a part of about a leaf of a tree, some costs two.
    assert!(read.iter().all(|read| *read < 50_000), "{read:?}");
    assert!(traffic.bytes <= 200 * 150, "{traffic:?}");
}

#[test]
fn neighbours_that_differ_cost_little_more_than_themselves() {
    let mine = numbered(100_000);
    let mut theirs = mine.clone();
    for value in theirs.values_mut().skip(40_000).take(1000) {
        *value += 1 << 32;
    }
    let (read, traffic) = reads(&mine, &theirs);
    assert!(traffic.bytes <= 64 * 1000, "{traffic:?}");
    assert!(traffic.frames <= 28, "{traffic:?}");
    assert!(read.iter().all(|read| *read < 25_000), "{read:?}");
}

#[test]
fn many_differences_cost_little_more_than_themselves() {
    let mine = numbered(100_000);
    let mut theirs = mine.clone();
    for value in theirs.values_mut().filter(|value| **value % 100 == 0) {
        *value += 1 << 32;
    }
    // The floor is 32 bytes each, key and fingerprint. Where one entry in a hundred differs, up to 73
    // are well spent: ranges are cut until most entries need not be hashed.
    let traffic = traffic(&mine, &theirs);
    assert!(traffic.bytes <= 73 * 1000, "{traffic:?}");
}

#[test]
fn a_copy_against_nothing_is_told_once() {
    let map = numbered(20_000);
    let told = traffic(&Map::new(), &map);
    assert!(told.bytes <= 20_000 * 36 + 2000, "{told:?}");
    assert!(traffic(&map, &Map::new()).bytes <= 60);
    assert!(traffic(&Map::new(), &Map::new()).bytes <= 40);
}

#[test]
fn the_longest_keys_fit_their_frames() {
    let keys = |range: std::ops::Range<u32>, value| -> Map {
        let key = |n: u32| {
            let mut key = n.reverse_bits().to_le_bytes().repeat(1024);
            key[4092..].copy_from_slice(&n.to_be_bytes());
            key
        };
        range.map(|n| (key(n), value)).collect()
    };
    let (mut mine, mut theirs) = (keys(0..150, 0), keys(0..150, 0));
    mine.extend(keys(50..100, 1));
    theirs.extend(keys(90..200, 2));
    for leaf_log2 in [0, 3, 12] {
        let all = KeyRange::default();
        assert_finds(&mine, &theirs, all.clone(), small(leaf_log2, 4));
        assert_finds(&theirs, &mine, all, small(leaf_log2, 4));
    }
}

#[test]
fn bounds_longer_than_keys_bound_what_they_say() {
    // Around the bounds, of one byte repeated, lie keys of the greatest length and shorter ones.
    let mut mine = numbered(100);
    for byte in [0, 1, 7, 0xff] {
        for length in [0, 1, 4095, 4096] {
            mine.insert(vec![byte; length], 1);
        }
        for last in [0, 1, 2, 0xff] {
            let key = [&vec![byte; 4095][..], &[last]].concat();
            mine.insert(key, 2);
        }
    }
    let theirs = mine.iter().map(|(key, n)| (key.clone(), n + 5)).collect();
    for length in [70_000, 5000, 4098, 4097, 4096] {
        let bound = |byte: u8| vec![byte; length];
        let (low, high) = (bound(1), Some(bound(7)));
        let ranges = [
            (low.clone(), None),
            (Vec::new(), high.clone()),
            (low.clone(), high),
            (bound(0xff), None),
            (bound(0), Some(bound(0xff))),
            // Between these there is at most one key.
            (low, Some(vec![1; length + 1])),
        ];
        for (low, high) in ranges {
            assert_finds(&mine, &theirs, KeyRange { low, high }, small(3, 2));
        }
    }
}

/// Two fingerprints that look alike in `view`.
fn alike(view: impl Fn(Sum) -> u64) -> (Sum, Sum) {
    let mut seen = BTreeMap::new();
    (0..)
        .map(|n| fingerprint(b"alike", n))
        .find_map(|sum| seen.insert(view(sum), sum).map(|before| (before, sum)))
        .unwrap()
}

fn assert_found_though_alike(mine: Sum, theirs: Sum) {
    let with = |sum| {
        let map = numbered(5000);
        let key = map.keys().nth(2500).unwrap().clone();
        let entries = map
            .iter()
            .map(|(key, n)| (key.clone(), fingerprint(key, *n)));
        let copy = Sorted::new(KEY_ID, entries.chain([(key.clone(), sum)]));
        (key, copy)
    };
    let ((key, mut one), (_, mut other)) = (with(mine), with(theirs));
    let expected = Difference {
        key,
        mine: Some(mine),
        theirs: Some(theirs),
    };
    for leaf_log2 in [4, 12] {
        let mut session = Session::new(KeyRange::default(), small(leaf_log2, 1));
        let (found, _) = diff(&mut session, &mut one, &mut other).unwrap();
        assert!(!found.is_empty() && found.iter().all(|one| *one == expected));
    }
}

#[test]
fn entries_with_equal_short_ids_do_not_hide() {
    let (mine, theirs) = alike(|sum| short_id(sum, 0).into());
    assert_found_though_alike(mine, theirs);
}

#[test]
fn an_equal_entry_is_not_reported_though_another_has_its_short_id() {
    let (equal, other) = alike(|sum| short_id(sum, 0).into());
    let map = numbered(5000);
    let equal_key = map.keys().nth(2000).unwrap().clone();
    let other_key = successor(&equal_key);
    let with = |other: Option<Sum>| {
        let entries = map
            .iter()
            .map(|(key, n)| (key.clone(), fingerprint(key, *n)));
        let other = other.map(|sum| (other_key.clone(), sum));
        Sorted::new(
            KEY_ID,
            entries.chain([(equal_key.clone(), equal)]).chain(other),
        )
    };
    for theirs in [None, Some(fingerprint(b"changed", 1))] {
        let expected = Difference {
            key: other_key.clone(),
            mine: Some(other),
            theirs,
        };
        let mut session = Session::new(KeyRange::default(), small(12, 1));
        let (found, _) = diff(&mut session, &mut with(Some(other)), &mut with(theirs)).unwrap();
        assert!(!found.is_empty() && found.iter().all(|one| *one == expected));
    }
}

#[test]
fn sums_that_look_equal_do_not_hide() {
    let mine = fingerprint(b"one", 1);
    assert_found_though_alike(mine, Sum(mine.0 ^ 1 << 127));
}

#[test]
fn other_fingerprint_keys_do_not_mean_that_all_differs() {
    let mut mine = sorted(&numbered(10));
    let mut theirs = Sorted::new(KEY_ID + 1, []);
    let mut session = Session::new(KeyRange::default(), Limits::default());
    let expected = Error::DifferentFingerprintKey {
        mine: KEY_ID,
        theirs: KEY_ID + 1,
    };
    assert_eq!(
        diff(&mut session, &mut mine, &mut theirs).unwrap_err(),
        expected
    );
}

#[test]
fn a_newer_version_is_named() {
    let mut mine = sorted(&numbered(10));
    let mut session = Session::new(KeyRange::default(), Limits::default());
    let mut frame = session.start(&mut mine).unwrap().frames.remove(0);
    frame[1] = VERSION + 1;
    let mut refusal = respond(&mut mine, &frame).unwrap();
    // So would one that is newer say it.
    refusal[1] = VERSION + 1;
    let error = session.receive(&mut mine, &refusal).unwrap_err();
    let expected = Error::Version {
        mine: VERSION,
        theirs: VERSION + 1,
    };
    assert_eq!(error, expected);
}

#[test]
fn an_answer_out_of_turn_is_refused() {
    let mut mine = sorted(&numbered(10));
    let mut session = Session::new(KeyRange::default(), Limits::default());
    let frame = session.start(&mut mine).unwrap().frames.remove(0);
    let answer = respond(&mut mine, &frame).unwrap();
    assert_eq!(
        session.receive(&mut mine, &answer).unwrap().next,
        Next::Done
    );
    assert!(matches!(
        session.receive(&mut mine, &answer),
        Err(Error::Peer(_))
    ));
    assert!(matches!(
        session.receive(&mut mine, &frame),
        Err(Error::Frame(_))
    ));
}

/// A copy that changes its mind at every question.
struct Liar {
    seed: u64,
    truth: Sorted,
}

impl Liar {
    fn chance(&mut self, below: u64) -> u64 {
        self.seed += 1;
        u64::from_le_bytes(
            crate::fingerprint::part_hash(&self.seed.to_le_bytes())[..8]
                .try_into()
                .unwrap(),
        ) % below
    }
}

impl Contents for Liar {
    type Error = Infallible;

    fn key_id(&self) -> u64 {
        KEY_ID
    }

    fn summary(&mut self, low: &[u8], high: Option<&[u8]>) -> Result<Summary, Infallible> {
        let mut summary = self.truth.summary(low, high)?;
        match self.chance(6) {
            0 => summary.count += self.chance(3),
            1 => summary.sum = Sum(u128::from(self.chance(1 << 60))),
            2 => summary.count = self.chance(5000),
            _ => {}
        }
        Ok(summary)
    }

    fn split(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        parts: usize,
    ) -> Result<Vec<Vec<u8>>, Infallible> {
        if self.chance(4) == 0 {
            // Cuts where nothing is, ever longer.
            let mut cut = low.to_vec();
            cut.push(0);
            let inside = high.is_none_or(|high| cut.as_slice() < high);
            return Ok(Vec::from_iter(inside.then_some(cut)));
        }
        self.truth.split(low, high, parts)
    }

    fn entries(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        limit: usize,
    ) -> Result<Entries, Infallible> {
        let mut entries = self.truth.entries(low, high, limit)?;
        if self.chance(4) == 0 {
            entries.truncate(entries.len() / 2);
        }
        Ok(entries)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_liar_is_outlasted(
        (mine, theirs) in pair(),
        seed: u32,
        leaf_log2 in 0_u8..6,
    ) {
        let (mut mine, truth) = (sorted(&mine), sorted(&theirs));
        let mut liar = Liar { seed: u64::from(seed) << 20, truth };
        let limits = Limits { frames_max: 3000, ..small(leaf_log2, 2) };
        let mut session = Session::new(KeyRange::default(), limits);
        // It ends, and if it ends well then what was found is what the first totals said.
        let _ = diff(&mut session, &mut mine, &mut liar);
    }

    #[test]
    fn damaged_answers_do_no_harm(
        (mine, theirs) in pair(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..4),
        leaf_log2 in 0_u8..6,
    ) {
        let (mut mine, mut theirs) = (sorted(&mine), sorted(&theirs));
        let mut session = Session::new(KeyRange::default(), small(leaf_log2, 1));
        let mut frames = 0;
        let _ = run(
            &mut session,
            &mut mine,
            |mut frame| {
                for (at, index, byte) in &damage {
                    if at.index(20) == frames {
                        let at = index.index(frame.len());
                        // The responder sees damaged questions, too.
                        frame[at] ^= byte;
                        let _ = respond(&mut theirs, &frame);
                        frame[at] ^= byte;
                    }
                }
                let mut answer = respond(&mut theirs, &frame)?;
                for (at, index, byte) in &damage {
                    if at.index(20) == frames {
                        let at = index.index(answer.len());
                        answer[at] ^= byte;
                        answer.truncate(answer.len() - usize::from(*byte) % 3);
                    }
                }
                frames += 1;
                Ok(answer)
            },
            |_| {},
        );
    }

    #[test]
    fn arbitrary_frames_do_no_harm(
        mut bytes in prop::collection::vec(any::<u8>(), 0..600),
        is_request: bool,
        tags in prop::collection::vec(0_u8..32, 0..40),
        leaf_log2 in 0_u8..6,
    ) {
        let mut copy = sorted(&numbered(100));
        let _ = respond(&mut copy, &bytes);
        // With a right beginning, and tags strewn in, it gets further.
        let mut session = Session::new(KeyRange::default(), small(leaf_log2, 1));
        let start = session.start(&mut copy).unwrap().frames.remove(0);
        for (i, tag) in tags.into_iter().enumerate() {
            let at = i * i % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = tag;
            }
        }
        if is_request {
            let mut frame = start[..15].to_vec();
            frame.extend(&bytes);
            if let Ok(answer) = respond(&mut copy, &frame) {
                prop_assert!(answer.len() <= FRAME_BYTES_MAX);
            }
        } else {
            let mut frame = vec![2, VERSION];
            frame.extend(&bytes);
            let _ = session.receive(&mut copy, &frame);
        }
    }
}

/// The header of a request, as a session begins it, and these queries.
fn request(queries: &[&[u8]]) -> Vec<u8> {
    let shape = wire::Shape {
        key_id: KEY_ID,
        salt: 0,
        leaf_log2: 12,
        wide: false,
    };
    let mut frame = wire::Writer::request(&shape).out;
    frame.extend(queries.concat());
    assert!(frame.len() <= FRAME_BYTES_MAX);
    frame
}

#[test]
fn no_frame_asks_twice_about_a_key() {
    // List everything, as often as bytes are in a frame.
    let everything = vec![0x1c; 60_000];
    let mut copy = Counted::new(&numbered(1000));
    let answer = respond(&mut copy, &request(&[&everything]));
    assert!(copy.summed <= 1, "summed up {} times", copy.summed);
    assert!(matches!(answer, Err(Error::Frame(_))));
    // Lists of "b".."c" and then of "a".., "b".."d" and "a".."b".
    let first: &[u8] = b"\x04\x01b\x01c";
    for next in [&b"\x14\x01a"[..], b"\x04\x01b\x01d", b"\x04\x01a\x01b"] {
        let answer = respond(&mut copy, &request(&[first, next]));
        assert!(matches!(answer, Err(Error::Frame(_))), "{next:?}");
    }
    // One that begins where the first ends, and one behind it.
    for next in [&b"\x0c\x01d"[..], b"\x04\x01c\x01d", b"\x14\x01f"] {
        assert!(respond(&mut copy, &request(&[first, next])).is_ok());
    }
}

#[test]
fn a_long_key_is_not_multiplied_by_queries_that_lean_on_it() {
    // A list from a key of 4096 bytes on, its lengths 0 and 15 + 4081, and thousands from there on.
    let first = [&b"\x14\x0f\xf1\x1f"[..], &[b'k'; 4096]].concat();
    let mut copy = sorted(&numbered(10));
    assert!(respond(&mut copy, &request(&[&first])).is_ok());
    let frame = request(&[&first, &vec![0x1c; 61_400]]);
    assert!(matches!(respond(&mut copy, &frame), Err(Error::Frame(_))));
}

#[test]
fn ranges_to_go_on_with_may_come_in_any_order() {
    let (mine, theirs) = (numbered(3000), Map::new());
    let range = |low: &[u8], high: Option<&[u8]>| KeyRange {
        low: low.to_vec(),
        high: high.map(<[u8]>::to_vec),
    };
    let ranges = vec![
        range(b"\xc0", None),
        range(b"\x80", Some(b"\x90")),
        range(b"\x10", Some(b"\x20")),
        range(b"\x18", Some(b"\x28")),
        range(b"\x28", Some(b"\x30")),
    ];
    let expected: BTreeSet<_> = (ranges.iter())
        .flat_map(|range| model(&mine, &theirs, range))
        .collect();
    let mut session = Session::resume(ranges, small(3, 2));
    let (found, _) = diff(&mut session, &mut sorted(&mine), &mut sorted(&theirs)).unwrap();
    assert_eq!(found.len(), expected.len(), "each is reported once");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
}

/// Answers every total by a claim of 2^63 entries, 8 of them below a cut in the middle, and what is
/// asked about these by sums that mean nothing.
fn answer_without_news(mine: &Map, garbage: &mut u32, frame: &[u8]) -> Vec<u8> {
    let request = wire::read_request::<Infallible>(frame, KEY_ID).unwrap();
    let mut writer = wire::Writer::answer(&request.shape);
    for query in request.queries {
        let (range, query) = query.unwrap();
        let own = Summary {
            count: 1 << 63,
            sum: Sum(9),
        };
        let says = match query {
            wire::Query::Total(_) => wire::Says::Split(wire::Split {
                count: own.count,
                sum: 9,
                below: vec![(mine.keys().nth(mine.len() / 2).unwrap().clone(), 8, 1)],
            }),
            wire::Query::Compare { .. } => wire::Says::Equal,
            wire::Query::Sketch { from, to } => wire::Says::Sketch(
                (from..to)
                    .map(|_| {
                        *garbage += 1;
                        short_id(fingerprint(b"garbage", (*garbage).into()), 0)
                    })
                    .collect(),
            ),
            other => panic!("{other:?} is not asked of it"),
        };
        writer.says(&range, &query, own, &says);
    }
    writer.out
}

#[test]
fn a_peer_whose_sums_mean_nothing_is_soon_left() {
    let map = numbered(100);
    let mut session = Session::new(KeyRange::default(), Limits::default());
    let (mut frames, mut garbage) = (0, 0);
    let ended = run(
        &mut session,
        &mut sorted(&map),
        |frame| {
            frames += 1;
            assert!(frames <= 100, "frames without end");
            Ok(answer_without_news(&map, &mut garbage, &frame))
        },
        |_| {},
    );
    assert!(matches!(ended, Err(Error::Peer(_))), "{ended:?}");
}

#[test]
fn long_keys_that_are_much_alike_stay_within_memory() {
    let keys = |value: u64| -> Map {
        let key = |n: u32| [&[7; 4000][..], &n.to_be_bytes()].concat();
        (0..3000)
            .map(|n| (key(n), value / u64::from(n % 7 + 1)))
            .collect()
    };
    assert_finds(&keys(2), &keys(3), KeyRange::default(), small(3, 4));
    assert_finds(&keys(2), &Map::new(), KeyRange::default(), small(3, 4));
    assert_finds(&Map::new(), &keys(2), KeyRange::default(), small(3, 4));
}
