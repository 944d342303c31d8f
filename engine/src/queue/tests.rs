//! Goal: the log's places and the visible LSN are right whatever joins. Method: random batches,
//! leads and tails on a small ring, checked after each move.

use super::*;
use proptest::prelude::*;

fn queue() -> Queue {
    Queue::new(Geometry::tiny(), Lsn(0), Lsn(0), Generation(1))
}

#[derive(Debug, Clone)]
enum Move {
    Join { bytes: usize, durable: bool },
    Lead,
    Stamp,
    Checkpoint,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        6 => (1usize..3000, any::<bool>()).prop_map(|(bytes, durable)| Move::Join { bytes, durable }),
        3 => Just(Move::Lead),
        1 => Just(Move::Stamp),
        1 => Just(Move::Checkpoint),
    ];
    prop::collection::vec(one, 1..80)
}

proptest! {
    #[test]
    fn groups_adjoin_never_wrap_and_stay_within_the_ring(moves in moves()) {
        let geometry = Geometry::tiny();
        let (ring, block) = (geometry.ring_bytes, u64::from(geometry.log_block_bytes));
        let mut queue = queue();
        let mut expected = Lsn(0);
        let mut generation = 1;
        for step in moves {
            match step {
                Move::Join { bytes, durable } => {
                    if queue.room(bytes, 0).is_ok() {
                        let before = queue.issued;
                        let (end, _) = queue.append(&vec![7; bytes], durable, None);
                        prop_assert!(end > before);
                        prop_assert_eq!(queue.issued, end);
                    }
                }
                Move::Stamp if queue.used() + 3 * block <= ring => {
                    queue.push_stamp();
                }
                Move::Stamp => {}
                Move::Lead => {
                    for group in queue.take(0) {
                        prop_assert_eq!(group.start, expected, "groups adjoin");
                        let blocks = group_blocks(&geometry, group.payload.len());
                        if group.skip {
                            expected = after_skip(&geometry, group.start);
                        } else {
                            prop_assert!(group_fits(&geometry, group.start, blocks), "no wrap");
                            expected = Lsn(expected.0 + u64::from(blocks) * block);
                            let end = payload_end_lsn(&geometry, group.start, group.payload.len());
                            prop_assert!(group.payload.is_empty() || group.end == end);
                        }
                    }
                    queue.durable = queue.issued;
                    prop_assert_eq!(queue.visible(), queue.issued);
                    queue.has_stamped(queue.stamp);
                }
                Move::Checkpoint => {
                    queue.close_open();
                    generation += 1;
                    let head = queue.head();
                    queue.stamp_next(Generation(generation), head);
                }
            }
            prop_assert!(queue.used() <= ring, "{} of {ring}", queue.used());
            prop_assert!(queue.visible() <= queue.issued);
        }
    }
}

#[test]
fn a_buffered_batch_behind_a_durable_one_waits_for_its_flush() {
    let mut queue = queue();
    let (first, _) = queue.append(b"buffered", false, None);
    assert_eq!(queue.visible(), first);
    queue.append(b"durable", true, None);
    queue.append(b"buffered again", false, None);
    assert_eq!(queue.visible(), first, "the durable one is not flushed");
    queue.take(0);
    assert_eq!(queue.visible(), queue.issued);
}

#[test]
fn the_blocks_kept_for_a_stamp_are_there_when_the_ring_is_full() {
    let mut queue = queue();
    while queue.room(400, 0).is_ok() {
        queue.append(&[1; 400], true, None);
        queue.take(0);
    }
    assert_eq!(queue.room(1, 0), Err(Full::Ring));
    queue.push_stamp();
    assert!(queue.used() <= Geometry::tiny().ring_bytes);
}

#[test]
fn the_tail_moves_only_with_a_durable_stamp() {
    let mut queue = queue();
    queue.append(&[1; 900], true, None);
    queue.take(0);
    queue.stamp_next(Generation(2), queue.head());
    assert_eq!(queue.tail, Lsn(0));
    queue.has_stamped(Generation(1));
    assert_eq!(queue.tail, Lsn(0));
    queue.has_stamped(Generation(2));
    assert_eq!(queue.tail, queue.head());
}

#[test]
fn batches_gather_in_groups_of_a_mebibyte_and_four_are_worth_writing() {
    let geometry = Geometry {
        ring_bytes: 256 << 20,
        ..Geometry::default()
    };
    let mut queue = Queue::new(geometry, Lsn(0), Lsn(0), Generation(1));
    let mut joined = 0;
    while !queue.is_worth_writing() {
        queue.append(&vec![7; 100_000], false, None);
        joined += 1;
    }
    assert!((35..=42).contains(&joined), "{joined} of 100 KB are 4 MiB");
    // One that is longer than a group may be has one of its own.
    queue.append(&vec![7; 3 << 20], false, None);
    let groups = queue.take(0);
    assert!(!queue.is_worth_writing());
    let (long, short) = groups.split_last().unwrap();
    assert_eq!(long.payload.len(), 3 << 20);
    for group in short {
        let blocks = u64::from(group_blocks(&geometry, group.payload.len()));
        assert!(blocks * u64::from(geometry.log_block_bytes) <= 1 << 20);
    }
}

/// A batch's length has 32 bits.
#[test]
fn no_ring_takes_a_batch_whose_length_cannot_be_said() {
    let of = |ring_bytes| {
        batch_bytes_max(&Geometry {
            ring_bytes,
            ..Geometry::default()
        })
    };
    assert_eq!(of(1 << 20), 64 * (4096 - 72));
    assert_eq!(of(1 << 40), u64::from(u32::MAX));
}

/// It would have had to meet the moment in which nobody else commits anything.
#[test]
fn a_batch_with_more_extents_than_may_wait_joins_behind_small_ones() {
    let mut queue = queue();
    let long = UNFLUSHED_EXTENT_BYTES_MAX + 1;
    queue.append(b"small", true, None);
    assert_eq!(queue.room(5, long), Ok(()));
    queue.extent_bytes = 1;
    assert_eq!(queue.room(5, long), Err(Full::Unflushed));
}
