//! Promise: whatever is damaged, right bytes or an error that names the block; no panic, no hang, no
//! allocation beyond the file.
//!
//! A sample of what `crash --bits` tries whole, in release. Here too the allocator counts, so that
//! the bound on memory is held.

use dynomite_tests::allocations::{self, Counting};
use dynomite_tests::bits::anatomy::{Kind, sectors};
use dynomite_tests::bits::oracle::{Fate, sound, try_one};
use dynomite_tests::bits::specimen::specimens;
use dynomite_tests::bits::{Bits, mutants::Mutant};
use engine::planted::Bug;
use std::collections::BTreeSet;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn in_a_sample_of_damages() {
    let bits = Bits {
        seed: 1,
        every_bit: false,
        one_in: 16,
        threads: 2,
        quiet: true,
        bug: None,
    };
    let report = bits.run().unwrap();
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    assert!(report.stores() > 1000 && report.flips > 100_000, "{report}");
    let met = |fate: Fate| {
        report
            .fates
            .iter()
            .map(|kind| kind[fate as usize])
            .sum::<u64>()
    };
    for fate in [Fate::Right, Fate::Refused, Fate::Read, Fate::Verified] {
        assert!(met(fate) > 0, "no store was {fate:?}: {report}");
    }
    assert!(report.allocations.largest_bytes > 0, "nobody counts");
}

/// The proof that the oracle has teeth: an engine that believes what it should not is found out.
#[test]
fn of_an_engine_that_looks() {
    for bug in [
        Bug::SkipChunkChecksum,
        Bug::CutAcknowledged,
        Bug::StaleSuperblock,
        Bug::SkipExtentHash,
    ] {
        let bits = Bits {
            seed: 1,
            every_bit: false,
            one_in: 16,
            threads: 2,
            quiet: true,
            bug: Some(bug),
        };
        let report = bits.run().unwrap();
        assert!(!report.violations.is_empty(), "{bug:?} goes unnoticed");
    }
}

#[test]
fn in_stores_that_have_every_structure() {
    let mut met = BTreeSet::new();
    for specimen in specimens(1).unwrap() {
        let (anatomy, image) = (&specimen.anatomy, &specimen.image);
        assert!(image.size() <= 1 << 20, "{} bytes", image.size());
        let kinds = sectors(&(0..image.size())).map(|sector| anatomy.kind(sector));
        met.extend(kinds);
        assert!(anatomy.superblock.incarnation.0 > 1);
        assert!(anatomy.maps.len() > 1, "one region");
    }
    let all = [
        Kind::NewestSlot,
        Kind::OtherSlot,
        Kind::Log,
        Kind::RegionTable,
        Kind::Map,
        Kind::Catalog,
        Kind::Branch,
        Kind::Leaf,
        Kind::Extent,
        Kind::LoggedExtent,
        Kind::Free,
    ];
    assert_eq!(met, BTreeSet::from(all));
}

/// The honest limit, no wider and no narrower: of a crashed store each batch of the last group may
/// be lost when it rots, and what stands before it in the group may not; rot of any batch before
/// the last group is refused.
#[test]
fn but_for_the_last_group_of_a_crashed_store() {
    let specimens = specimens(1).unwrap();
    let specimen = &specimens[0];
    let sound = sound(specimen).unwrap();
    let anatomy = &specimen.anatomy;
    let known = anatomy.claims.values().max().unwrap();
    let (mut lost, mut refused) = (0, 0);
    for batch in &anatomy.batches {
        for sector in &batch.log {
            let (image, damaged) = Mutant::Zeros(*sector).apply(specimen).unwrap();
            let (fate, _) = try_one(specimen, &sound, image, &damaged).unwrap();
            if batch.end > *known {
                assert_eq!(fate, Fate::Shorter, "the last group, {sector}");
                lost += 1;
            } else {
                assert_eq!(fate, Fate::Refused, "an acknowledged batch, {sector}");
                refused += 1;
            }
        }
    }
    assert!(lost > 2 && refused > 2, "{lost} lost, {refused} refused");
}

#[test]
fn and_the_count_of_memory_counts() {
    allocations::begin();
    let bytes = vec![1_u8; 100_000];
    drop(vec![bytes[0]; 50_000]);
    let taken = allocations::taken();
    assert_eq!(taken.largest_bytes, 100_000);
    assert_eq!(taken.peak_bytes, 150_000);
}
