//! The enumeration leaves out nothing that it promises.

use super::*;
use crate::history::History;
use crate::image::Image;
use crate::sim_disk::SimDisk;
use engine::io::Disk;
use std::collections::BTreeSet;

/// A history of one epoch: each write is so many sectors of its own.
fn history(writes: &[usize]) -> History {
    let sectors: usize = writes.iter().sum();
    let disk = SimDisk::recording(Image::of_bytes(512, &vec![0; sectors * 512]));
    let mut at = 0;
    for &write in writes {
        disk.write(at, &vec![1; write * 512]).unwrap();
        at += (write * 512) as u64;
    }
    disk.history()
}

fn all(history: &History, limits: &Limits) -> Vec<Vec<Pick>> {
    let epochs = history.epochs();
    let mut seen = Vec::new();
    let _ = pictures(&epochs[0], limits, &mut Rng::new(1), &mut |picks| {
        seen.push(picks.to_vec());
        ControlFlow::Continue(())
    });
    seen
}

fn clean(seen: &[Vec<Pick>]) -> BTreeSet<Vec<bool>> {
    seen.iter()
        .filter(|picks| {
            picks
                .iter()
                .all(|pick| matches!(pick, Pick::Old | Pick::New))
        })
        .map(|picks| picks.iter().map(|&pick| pick == Pick::New).collect())
        .collect()
}

#[test]
fn every_subset_of_up_to_twelve_atoms_is_shown_once() {
    for atoms in 0..=12 {
        let seen = all(&history(&vec![1; atoms]), &Limits::WHOLE);
        let subsets = clean(&seen);
        assert_eq!(subsets.len(), 1 << atoms, "{atoms} atoms");
        let count = seen.len();
        assert!(count <= 4096 + 3 * 12, "{atoms} atoms, {count} images");
    }
}

#[test]
fn every_place_of_garbage_is_shown_among_few_atoms() {
    let seen = all(&history(&[3, 2]), &Limits::WHOLE);
    assert_eq!(seen.len(), 3usize.pow(5));
    let kinds: BTreeSet<Vec<u8>> = seen
        .iter()
        .map(|picks| {
            let kind = |pick: &Pick| match pick {
                Pick::Old => 0,
                Pick::New => 1,
                _ => 2,
            };
            picks.iter().map(kind).collect()
        })
        .collect();
    assert_eq!(kinds.len(), 3usize.pow(5));
}

#[test]
fn each_of_twelve_atoms_is_garbled_among_old_and_new_neighbours() {
    let seen = all(&history(&[1; 12]), &Limits::WHOLE);
    for atom in 0..12 {
        for neighbour in [Pick::Old, Pick::New] {
            let shown = seen.iter().any(|picks| {
                let bad = !matches!(picks[atom], Pick::Old | Pick::New);
                let others = (0..12).filter(|&at| at != atom);
                bad && others.into_iter().all(|at| picks[at] == neighbour)
            });
            assert!(shown, "atom {atom} among {neighbour:?}");
        }
    }
}

#[test]
fn many_atoms_are_dropped_and_kept_one_by_one_and_by_whole_operations() {
    let seen = clean(&all(&history(&[8, 8, 4]), &Limits::WHOLE));
    let row = |of: &dyn Fn(usize) -> bool| (0..20).map(of).collect::<Vec<bool>>();
    for atom in 0..20 {
        assert!(seen.contains(&row(&|at| at == atom)), "{atom} kept");
        assert!(seen.contains(&row(&|at| at != atom)), "{atom} dropped");
    }
    for ops in 0..8 {
        let op = |at| [0, 0, 1, 1, 2][at / 4];
        assert!(seen.contains(&row(&|at| ops >> op(at) & 1 == 1)), "{ops:b}");
    }
}

#[test]
fn a_sample_stays_near_its_budget_and_shows_prefixes_of_many_operations() {
    let writes = [3; 40];
    for limits in [Limits::WHOLE, Limits::RANDOM, Limits::NESTED] {
        let seen = all(&history(&writes), &limits);
        let least = limits.sampled / 2;
        assert!((least..=limits.sampled + 4).contains(&seen.len()));
    }
    let seen = clean(&all(&history(&writes), &Limits::WHOLE));
    for op in 1..=40 {
        let prefix: Vec<bool> = (0..120).map(|at| at < op * 3).collect();
        assert!(seen.contains(&prefix), "the first {op} operations");
    }
}

#[test]
fn lengths_and_holes_are_kept_or_lost_but_not_garbled() {
    let disk = SimDisk::recording(Image::of_bytes(512, &[9; 1024]));
    disk.allocate(1024, 512).unwrap();
    disk.punch(0, 512).unwrap();
    disk.write(512, &[1; 512]).unwrap();
    let seen = all(&disk.history(), &Limits::WHOLE);
    assert_eq!(seen.len(), 2 * 2 * 3);
    let distinct: BTreeSet<String> = seen.iter().map(|picks| format!("{picks:?}")).collect();
    assert_eq!(distinct.len(), seen.len());
}

#[test]
fn the_same_seed_shows_the_same_images() {
    let history = history(&[3; 9]);
    assert_eq!(
        all(&history, &Limits::RANDOM),
        all(&history, &Limits::RANDOM)
    );
}
