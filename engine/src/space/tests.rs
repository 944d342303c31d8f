//! What a region that is loaded or refused lets be handed out.

use super::*;
use crate::io::{FileDisk, places};

/// The allocator had taken in what the checkpoint refused, and gave out units of it.
#[test]
fn a_map_that_is_refused_is_loaded_nowhere() {
    const NONCE: u64 = 7;
    let geometry = Geometry {
        region_units: 256,
        ..Geometry::default()
    };
    let place = places::on_disk();
    let disk = FileDisk::create(&place.path().join("store")).unwrap();
    let mut bits = vec![0; geometry.region_units.div_ceil(8) as usize];
    bits[31] = 0b1000_0000;
    let mut map = AlignedBuf::zeroed(usize::try_from(geometry.map_bytes()).unwrap());
    let generation = Generation(3);
    let map_checksum = encode_map(&geometry, NONCE, 0, generation, &bits, &mut map);
    disk.write(geometry.map_offset(0, 0), &map).unwrap();
    let free = geometry.region_units - geometry.region_reserved_units() - 1;
    let row = |free_units| Row {
        copy: 0,
        generation,
        map_checksum,
        free_units,
        largest_run: free,
    };
    // The map is whole, and its row says that one unit more is taken.
    let space = Space::new(geometry, NONCE, vec![row(free - 1)], 0);
    let before = space.usage().free_bytes;
    let run = Run {
        start: BlockId(geometry.region_start(0).0 + 100),
        units: 1,
    };
    for _ in 0..3 {
        let given = space.allocate_extent(&disk, 1, || 0);
        assert!(given.as_ref().is_err_and(Error::is_damage), "{given:?}");
        let given = space.allocate_node(&disk, Order(0));
        assert!(given.as_ref().is_err_and(Error::is_damage), "{given:?}");
        let reserved = space.reserve(&disk, 1);
        assert!(
            reserved.as_ref().is_err_and(Error::is_damage),
            "{reserved:?}"
        );
        let known = space.know_map(&disk, run);
        assert!(known.as_ref().is_err_and(Error::is_damage), "{known:?}");
        assert!(!space.inner.lock().allocator.is_loaded(0));
        assert_eq!(space.usage().free_bytes, before);
    }
    // With the row that belongs to it.
    let space = Space::new(geometry, NONCE, vec![row(free)], 0);
    space.allocate_extent(&disk, 1, || 0).unwrap();
    space.know_map(&disk, run).unwrap();
}
