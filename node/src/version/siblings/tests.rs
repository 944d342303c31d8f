//! Goal: a put never drops a value that its client had not seen, and always replaces what it had
//! seen. Method: clients with old and new contexts write to one entry, and a model that remembers
//! for each write which writes its client had seen says which values must stand.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const NODE: NodeId = NodeId(0xfeed);

fn at(now_ms: u64) -> Put {
    Put { node: NODE, now_ms }
}

fn seen(versions: &Versions) -> Context {
    Context::decode(&versions.context()).unwrap()
}

/// A put of a value that equals none that is there.
fn put(versions: &Versions, context: &Context) -> (Versions, Vec<usize>) {
    versions.put(context, at(0), |_| false).unwrap()
}

#[test]
fn the_newest_context_replaces() {
    let (first, _) = put(&Versions::default(), &Context::Overwrite);
    let (second, kept) = put(&first, &seen(&first));
    assert!(kept.is_empty());
    assert_eq!(second.siblings.len(), 1);
}

#[test]
fn an_old_context_makes_siblings_and_the_next_get_resolves_them() {
    let (first, _) = put(&Versions::default(), &Context::Overwrite);
    let (second, _) = put(&first, &seen(&first));
    let (third, kept) = put(&second, &seen(&first));
    assert_eq!((kept, third.siblings.len()), (vec![0], 2));
    let (fourth, kept) = put(&third, &seen(&third));
    assert_eq!((kept, fourth.siblings.len()), (vec![], 1));
}

#[test]
fn an_empty_context_overwrites_siblings() {
    let (first, _) = put(&Versions::default(), &Context::Foreign);
    let (second, _) = put(&first, &Context::Foreign);
    assert_eq!(second.siblings.len(), 2);
    let (third, kept) = put(&second, &Context::Overwrite);
    assert_eq!((kept, third.siblings.len()), (vec![], 1));
}

#[test]
fn an_equal_value_makes_no_sibling() {
    let (first, _) = put(&Versions::default(), &Context::Overwrite);
    let (second, kept) = first.put(&Context::Foreign, at(0), |_| true).unwrap();
    assert_eq!((kept, second.siblings.len()), (vec![], 1));
    assert_ne!(second.siblings, first.siblings);
}

#[test]
fn a_tombstone_is_remembered_and_a_put_that_had_not_seen_it_stands() {
    let (first, _) = put(&Versions::default(), &Context::Overwrite);
    let deleted = first.delete(at(5_000));
    assert_eq!(deleted.deleted_at(), Some(5));
    let (second, kept) = put(&deleted, &seen(&first));
    assert!(kept.is_empty() && !second.is_tombstone());
    assert!(second.known.covers_all(&deleted.known));
}

#[test]
fn a_forgotten_tombstone_does_not_make_an_old_context_new_again() {
    let old = Versions::default()
        .put(&Context::Overwrite, at(1_000), |_| false)
        .unwrap()
        .0;
    let new = Versions::default()
        .put(&Context::Overwrite, at(2_000), |_| false)
        .unwrap()
        .0;
    let (after, _) = new.put(&seen(&old), at(2_001), |_| false).unwrap();
    assert_eq!(after.siblings.len(), 2);
}

#[test]
fn siblings_past_what_the_meta_holds_are_refused() {
    let mut versions = Versions::default();
    let mut puts = 0;
    while let Ok((next, _)) = versions.put(&Context::Foreign, at(0), |_| false) {
        if next.encode() == Err(VersionsError::TooManySiblings) {
            break;
        }
        versions = next;
        puts += 1;
    }
    assert_eq!(puts, SIBLINGS_MAX);
}

#[test]
fn counts_never_pass_their_end() {
    let highest = Dot {
        node: NODE,
        count: COUNT_MAX,
    };
    let known: VersionVector = [highest].into_iter().collect();
    let context = Context::Seen(known.clone());
    let forged = Versions::default().put(&context, at(0), |_| false);
    assert_eq!(forged.unwrap_err(), VersionsError::Ahead);
    // A key that stands there all the same can be deleted.
    let used_up = Versions {
        known,
        siblings: vec![highest],
        deleted_at: 0,
    };
    let refused = used_up.put(&context, at(0), |_| false);
    assert_eq!(refused.unwrap_err(), VersionsError::UsedUp);
    assert!(used_up.delete(at(0)).is_tombstone());
}

proptest! {
    /// Each step: a client (of three) gets, or puts with what it last got, or overwrites, or
    /// deletes; the clock may stand still or go back.
    #[test]
    fn what_was_not_seen_stays(steps in prop::collection::vec((0usize..3, 0u8..4, 0u64..9), 1..60)) {
        let mut versions = Versions::default();
        // The values that stand, by the number of their write, in the order of the parts.
        let mut values: Vec<usize> = Vec::new();
        let mut clients = vec![(Context::Foreign, BTreeSet::new()); 3];
        let mut dots = BTreeSet::new();
        for (write, (client, action, now_ms)) in steps.into_iter().enumerate() {
            let (context, known) = &clients[client];
            let (context, known): (_, BTreeSet<usize>) = match action {
                0 => {
                    clients[client] = (seen(&versions), (0..write).collect());
                    continue;
                }
                1 => (context.clone(), known.clone()),
                2 => (Context::Overwrite, values.iter().copied().collect()),
                _ => {
                    versions = versions.delete(at(now_ms));
                    values.clear();
                    continue;
                }
            };
            let (next, kept) = versions.put(&context, at(now_ms), |_| false).unwrap();
            let expected: Vec<usize> =
                values.iter().copied().filter(|value| !known.contains(value)).collect();
            let kept: Vec<usize> = kept.into_iter().map(|index| values[index]).collect();
            prop_assert_eq!(&kept, &expected);
            values = kept;
            values.push(write);
            prop_assert!(dots.insert(*next.siblings.last().unwrap()), "a dot was used twice");
            versions = next;
            let meta = versions.encode().unwrap();
            prop_assert_eq!(Versions::decode(&meta, values.len()), Ok(versions.clone()));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), parts in 0usize..4) {
        let _ = Versions::decode(&bytes, parts);
    }
}
