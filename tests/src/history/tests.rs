//! What a crash may leave, atom by atom.

use super::*;
use crate::sim_disk::SimDisk;
use engine::io::Disk;

fn epochs_of(work: impl FnOnce(&SimDisk), look: impl FnOnce(&[Epoch<'_>])) {
    let disk = SimDisk::recording(Image::of_bytes(512, &[9; 2048]));
    work(&disk);
    look(&disk.history().epochs());
}

#[test]
fn what_was_flushed_is_certain_and_the_rest_is_sectors() {
    epochs_of(
        |disk| {
            disk.write(0, &[1; 1024]).unwrap();
            disk.flush().unwrap();
            disk.write(512, &[2; 512]).unwrap();
            disk.write(512, &[3; 512]).unwrap();
        },
        |epochs| {
            assert_eq!(epochs.len(), 2);
            assert_eq!((epochs[0].end, epochs[0].atoms.len()), (1, 2));
            assert!(epochs[0].base.holds(0, &[9; 2048]));
            let torn = epochs[0].image(&[Pick::Old, Pick::New]);
            assert!(torn.holds(0, &[9; 512]) && torn.holds(512, &[1; 512]));
            let second = &epochs[1];
            assert!(second.base.holds(0, &[1; 1024]));
            // One sector, two versions: all three outcomes are there.
            for (picks, byte) in [
                ([Pick::Old, Pick::Old], 1),
                ([Pick::New, Pick::Old], 2),
                ([Pick::New, Pick::New], 3),
                ([Pick::Old, Pick::New], 3),
            ] {
                assert!(second.image(&picks).holds(512, &[byte; 512]));
            }
        },
    );
}

#[test]
fn a_sector_in_flight_may_be_torn_garbage_or_unreadable() {
    epochs_of(
        |disk| disk.write(0, &[1; 512]).unwrap(),
        |epochs| {
            let epoch = &epochs[0];
            let torn = epoch.image(&[Pick::Torn]);
            assert!(torn.holds(0, &[1; 256]) && torn.holds(256, &[9; 256]));
            let noise = epoch.image(&[Pick::Garbage(Rot::Noise(1))]);
            assert!(!noise.holds(0, &[1; 512]) && !noise.holds(0, &[9; 512]));
            assert!(noise.holds(512, &[9; 1536]), "its neighbours are whole");
            let dead = epoch.image(&[Pick::Garbage(Rot::Unreadable)]);
            assert!(dead.read(0, &mut [0; 1]).is_err());
        },
    );
}

#[test]
fn the_length_survives_or_not_like_a_sector() {
    epochs_of(
        |disk| {
            disk.allocate(2048, 1024).unwrap();
            disk.write(2560, &[1; 512]).unwrap();
            disk.write(0, &[1; 512]).unwrap();
        },
        |epochs| {
            let epoch = &epochs[0];
            assert_eq!(epoch.atoms.len(), 3);
            let short = epoch.image(&[Pick::Old, Pick::New, Pick::New]);
            assert_eq!(short.size(), 2048);
            assert!(short.holds(0, &[1; 512]));
            let long = epoch.image(&[Pick::New, Pick::Old, Pick::Old]);
            assert_eq!(long.size(), 3072);
            assert!(long.holds(2048, &[0; 1024]));
            let whole = epoch.image(&[Pick::New; 3]);
            assert!(whole.holds(2560, &[1; 512]));
        },
    );
}

#[test]
fn a_hole_may_be_half_there_and_a_write_into_it_survives_alone() {
    epochs_of(
        |disk| {
            disk.punch(0, 1536).unwrap();
            disk.write(0, &[1; 512]).unwrap();
        },
        |epochs| {
            let epoch = &epochs[0];
            assert_eq!(epoch.atoms.len(), 4);
            let image = epoch.image(&[Pick::New, Pick::Old, Pick::New, Pick::Old]);
            assert!(image.holds(0, &[0; 512]) && image.holds(512, &[9; 512]));
            assert!(image.holds(1024, &[0; 512]));
            let image = epoch.image(&[Pick::Old, Pick::Old, Pick::Old, Pick::New]);
            assert!(image.holds(0, &[1; 512]) && image.holds(512, &[9; 512]));
        },
    );
}

#[test]
fn writing_what_is_there_already_is_idle_unless_another_write_says_otherwise() {
    epochs_of(
        |disk| {
            disk.write(0, &[9; 1024]).unwrap();
            disk.write(512, &[1; 512]).unwrap();
        },
        |epochs| {
            let idle: Vec<bool> = epochs[0].atoms.iter().map(|atom| atom.idle).collect();
            assert_eq!(idle, [true, false, false]);
            assert_eq!(
                epochs[0].describe(&[Pick::New, Pick::Old, Pick::Torn]),
                "before disk operation 2: write of 512 at 0 kept, write of 512 at 512 lost, \
                 write of 512 at 512 torn in half"
            );
        },
    );
}
