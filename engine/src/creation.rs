//! Creating: what a new store's file is made of, everything but its name.

use crate::checkpoint::write_superblock;
use crate::error::Error;
use crate::io::{AlignedBuf, Disk};
use crate::options::Options;
use crate::space::table_bytes;
use crate::world::World;
use dmerkle::format::pointer::Pointer;
use dmerkle::format::region_table::encode_region_table;
use dmerkle::format::superblock::{RegionTableRef, Slot, Superblock};
use dmerkle::tree::Root;
use dmerkle::{Generation, Geometry, Incarnation, Lsn, OpeningId, TreeId};

/// Direct I/O in whole log blocks must be possible on this disk.
pub(crate) fn check_alignment(disk: &dyn Disk, geometry: &Geometry) -> Result<(), Error> {
    if (geometry.log_block_bytes as usize).is_multiple_of(disk.alignment()) {
        return Ok(());
    }
    Err(Error::BadOption(
        "the disk's sectors are larger than the store's log blocks",
    ))
}

/// What the log ring of a new store is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ring {
    /// Zeros that were written: an append to it then costs one flush, not two.
    Written,
    /// A hole: for a copy, which is to take no more of the disk than what it holds. The next opening
    /// for writing takes the space.
    Hole,
}

/// Writes an empty store and flushes it.
pub(crate) fn format_disk(
    disk: &dyn Disk,
    world: &World,
    options: &Options,
    created_unix_s: u64,
    ring: Ring,
) -> Result<(), Error> {
    let geometry = options.geometry()?;
    check_alignment(disk, &geometry)?;
    let creating = "creating the file";
    match ring {
        Ring::Written => {
            let bytes = geometry.region_table_offset(0);
            disk.allocate(0, bytes).map_err(Error::io(creating))?;
            write_ring(disk, &geometry)?;
        }
        Ring::Hole => disk
            .allocate(0, geometry.ring_offset())
            .map_err(Error::io(creating))?,
    }
    // Of the tables what has no row yet is a hole: room for 65,536 regions would be 4 MiB. The
    // last unit only says how long the file is.
    let table = table_bytes(&geometry, 0);
    let last = geometry.file_bytes(0) - geometry.unit();
    for (start, bytes) in [
        (geometry.region_table_offset(0), table),
        (geometry.region_table_offset(1), table),
        (last, geometry.unit()),
    ] {
        disk.allocate(start, bytes).map_err(Error::io(creating))?;
    }
    let nonce = world.random();
    let generation = Generation(1);
    let (table, checksum) = encode_region_table(&geometry, nonce, generation, &[]);
    disk.write(
        geometry.region_table_offset(0),
        &AlignedBuf::copy_of(&table),
    )
    .map_err(Error::io("writing the region table"))?;
    disk.flush().map_err(Error::io("flushing the new file"))?;
    let mut store_id = [0; 16];
    world.entropy.fill(&mut store_id);
    let superblock = Superblock {
        geometry,
        store_id,
        nonce,
        generation,
        incarnation: Incarnation(0),
        opening: OpeningId(0),
        log_start: Lsn(0),
        cut: Lsn(0),
        durable: Lsn(0),
        next_tree: TreeId(1),
        catalog: Pointer::NONE,
        catalog_summary: Root::EMPTY.summary,
        region_table: RegionTableRef {
            copy: 0,
            regions: 0,
            checksum,
        },
        fingerprint_key: options.fingerprint_key.clone(),
        created: created_unix_s,
        earlier: Vec::new(),
        node_units: 0,
    };
    write_superblock(disk, &geometry, &superblock, Slot::B)?;
    write_superblock(disk, &geometry, &superblock, Slot::A)
}

fn write_ring(disk: &dyn Disk, geometry: &Geometry) -> Result<(), Error> {
    let zeros =
        AlignedBuf::zeroed(usize::try_from(geometry.ring_bytes.min(4 << 20)).expect("4 MiB"));
    let ring = geometry.ring_offset()..geometry.ring_offset() + geometry.ring_bytes;
    let mut at = ring.start;
    while at < ring.end {
        let now = (ring.end - at).min(zeros.len() as u64);
        let piece = &zeros[..usize::try_from(now).expect("4 MiB")];
        disk.write(at, piece)
            .map_err(Error::io("zeroing the log"))?;
        at += now;
    }
    Ok(())
}
