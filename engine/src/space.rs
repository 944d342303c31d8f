//! The file's space: the allocator, with the disk behind it.
//!
//! Invariants:
//! - What is handed out is backed by the file system before it is written, so that a full disk is
//!   met here and nowhere else; when it is met, the units go back and nothing has happened.
//! - The maps on disk are written by the checkpoint alone, into the copies that the durable region
//!   table does not name.
//! - `reachable` changes only between the beginning of a checkpoint and its end.

mod audit;

use crate::alloc::{Allocator, Placed, Reachable, RegionRow, Shortage};
use crate::error::Error;
use crate::io::{AlignedBuf, Disk};
use crate::planted::{self, Bug};
use crate::punch::Sweep;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::units::Units;
use dmerkle::format::map::{decode_map, encode_map};
use dmerkle::format::region_table::{self, RegionRow as Row, encode_region_table};
use dmerkle::format::superblock::RegionTableRef;
use dmerkle::{BlockId, Generation, Geometry, Order, Run};
use std::io;

/// Space is backed ahead by at most this share of the file, and at least [`STEP_UNITS_MIN`].
const STEP_SHARE: u64 = 100;
const STEP_UNITS_MIN: u64 = 16;
const STEP_BYTES_MAX: u64 = 64 << 20;

/// How often a full disk may say so while a node's block is looked for in what the file already has.
const REFUSED_MAX: u32 = 1024;

/// Allocation with the disk behind it.
pub(crate) struct Space {
    pub(crate) geometry: Geometry,
    nonce: u64,
    pub(crate) inner: Mutex<Inner>,
    /// The file system had no room when it was asked last.
    tight: AtomicBool,
}

pub(crate) struct Inner {
    pub(crate) allocator: Allocator,
    reachable: Reachable,
    pub(crate) rows: Vec<Row>,
    /// How far the giving back of free space has come.
    pub(crate) sweep: Sweep,
    /// The table's copy that the durable superblock names.
    table_copy: u8,
    /// Units whose release waits for a stamp or a reader.
    retired_units: u64,
}

/// Free and used space.
#[expect(
    clippy::struct_field_names,
    reason = "the unit goes last in every name"
)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) file_bytes: u64,
    pub(crate) free_bytes: u64,
    pub(crate) allocated_bytes: u64,
    pub(crate) retired_bytes: u64,
}

impl Space {
    /// The space that a region table describes.
    pub(crate) fn new(geometry: Geometry, nonce: u64, rows: Vec<Row>, table_copy: u8) -> Self {
        let known: Vec<_> = rows
            .iter()
            .map(|row| RegionRow {
                free: row.free_units,
                largest: row.largest_run,
            })
            .collect();
        Self {
            geometry,
            nonce,
            inner: Mutex::new(Inner {
                allocator: Allocator::new(geometry, &known),
                reachable: Reachable::new(geometry, &known),
                rows,
                sweep: Sweep::default(),
                table_copy,
                retired_units: 0,
            }),
            tight: AtomicBool::new(false),
        }
    }

    /// Units for an extent, backed; and none of those that a checkpoint was promised.
    pub(crate) fn allocate_extent(
        &self,
        disk: &dyn Disk,
        units: u32,
        promised: impl Fn() -> u64,
    ) -> Result<Run, Error> {
        let mut inner = self.inner.lock();
        let placed = self.obtain(&mut inner, disk, |allocator| {
            allocator.allocate_extent(units)
        })?;
        let run = self.back(&mut inner, disk, placed)?;
        // Asked under the lock: who asks for space has said before what it will need.
        let left = self.reserve_of(&mut inner, disk, promised());
        if left.is_err() {
            inner.allocator.free(run);
        }
        left.map(|()| run)
    }

    /// Units for several extents that are written together, `least` for the first and at most `most`,
    /// backed. On a full disk `least`, from what is backed already.
    pub(crate) fn allocate_room(
        &self,
        disk: &dyn Disk,
        least: u32,
        most: u32,
    ) -> Result<Run, Error> {
        let mut inner = self.inner.lock();
        let placed = self.obtain(&mut inner, disk, |allocator| {
            allocator.allocate_room(least, most)
        });
        let backed = placed.and_then(|placed| self.back(&mut inner, disk, placed));
        match backed {
            Err(full @ (Error::DiskFull | Error::StoreFull)) => self
                .room_that_is_backed(&mut inner, disk, least)
                .ok_or(full),
            backed => backed,
        }
    }

    fn room_that_is_backed(&self, inner: &mut Inner, disk: &dyn Disk, units: u32) -> Option<Run> {
        if let Some(placed) = inner.allocator.allocate_extent_backed(units) {
            return Some(placed.run);
        }
        // A node's block, less what it has too much.
        let order = Order(u8::try_from(units.next_power_of_two().ilog2()).expect("at most 31"));
        let placed = inner.allocator.allocate_node_backed(order);
        let block = placed.or_else(|| self.regain_node(inner, disk, order))?.run;
        if units < block.units {
            inner.allocator.free(Run {
                start: BlockId(block.start.0 + u64::from(units)),
                units: block.units - units,
            });
        }
        Some(Run { units, ..block })
    }

    /// A block for a node, backed. On a full disk, one from what is backed already.
    pub(crate) fn allocate_node(&self, disk: &dyn Disk, order: Order) -> Result<BlockId, Error> {
        let mut inner = self.inner.lock();
        let placed = self.obtain(&mut inner, disk, |allocator| allocator.allocate_node(order));
        let backed = placed.and_then(|placed| self.back(&mut inner, disk, placed));
        match backed {
            Ok(run) => Ok(run.start),
            Err(full @ (Error::DiskFull | Error::StoreFull)) => {
                let placed = inner.allocator.allocate_node_backed(order);
                let placed = placed.or_else(|| self.regain_node(&mut inner, disk, order));
                placed.map(|placed| placed.run.start).ok_or(full)
            }
            Err(error) => Err(error),
        }
    }

    /// A block from space that the file has had since before the store was opened, which is not
    /// known to be backed until it is asked for: in halves, lowest first, down to single units.
    fn regain_node(&self, inner: &mut Inner, disk: &dyn Disk, order: Order) -> Option<Placed> {
        let mut todo = inner.allocator.unbacked_next(u32::MAX).unwrap_or_default();
        todo.reverse();
        let mut refused = 0;
        while let Some(run) = todo.pop() {
            match self.back_run(inner, disk, run) {
                Ok(()) => {
                    let placed = inner.allocator.allocate_node_backed(order);
                    if placed.is_some() {
                        return placed;
                    }
                }
                Err(Error::DiskFull) if refused < REFUSED_MAX => {
                    refused += 1;
                    let low = run.units / 2;
                    if low > 0 {
                        let start = BlockId(run.start.0 + u64::from(low));
                        let units = run.units - low;
                        todo.push(Run { start, units });
                        todo.push(Run { units: low, ..run });
                    }
                }
                Err(_) => return None,
            }
        }
        None
    }

    fn obtain(
        &self,
        inner: &mut Inner,
        disk: &dyn Disk,
        mut ask: impl FnMut(&mut Allocator) -> Result<Placed, Shortage>,
    ) -> Result<Placed, Error> {
        loop {
            match ask(&mut inner.allocator) {
                Ok(placed) => return Ok(placed),
                Err(Shortage::Load(region)) => self.load(inner, disk, region)?,
                Err(Shortage::Grow) => self.grow(inner, disk)?,
                Err(Shortage::Full) => return Err(Error::StoreFull),
            }
        }
    }

    fn load(&self, inner: &mut Inner, disk: &dyn Disk, region: u32) -> Result<(), Error> {
        let row = inner.rows[region as usize];
        let map = self.read_map(disk, region, row)?;
        let bits = self.bits_of(region, row, &map)?;
        // What may refuse comes first: the two are loaded together or not at all.
        inner.reachable.load(region, bits)?;
        inner.allocator.load(region, bits);
        inner.sweep.news();
        Ok(())
    }

    /// One past the last unit in use, as far as the maps can be read: a file that ends before it
    /// was cut off. Reads one map, or a few where the last regions are empty.
    pub(crate) fn end(&self, disk: &dyn Disk) -> u64 {
        let rows = self.inner.lock().rows.clone();
        let free = Row::fresh(&self.geometry).free_units;
        let regions = u32::try_from(rows.len()).expect("at most 65,536 regions");
        for (region, row) in (0..regions).zip(&rows).rev() {
            if !row.has_map() || row.free_units == free {
                continue;
            }
            let Ok(map) = self.read_map(disk, region, *row) else {
                return 0;
            };
            let Ok(bits) = self.bits_of(region, *row, &map) else {
                return 0;
            };
            let last = bits.iter().rposition(|byte| *byte != 0);
            if let Some(last) = last {
                let within = last as u64 * 8 + u64::from(bits[last].ilog2()) + 1;
                return self.geometry.region_start(region).0 + within;
            }
        }
        0
    }

    fn read_map(&self, disk: &dyn Disk, region: u32, row: Row) -> Result<AlignedBuf, Error> {
        let mut map =
            AlignedBuf::zeroed(usize::try_from(self.geometry.map_bytes()).expect("32 KiB"));
        let offset = self.geometry.map_offset(region, row.copy);
        disk.read(offset, &mut map)
            .map_err(Error::reading("reading an allocation map", offset))?;
        Ok(map)
    }

    fn bits_of<'m>(&self, region: u32, row: Row, map: &'m AlignedBuf) -> Result<&'m [u8], Error> {
        let bits = decode_map(
            &self.geometry,
            self.nonce,
            region,
            row.generation,
            row.map_checksum,
            map,
        )?;
        Ok(bits)
    }

    fn grow(&self, inner: &mut Inner, disk: &dyn Disk) -> Result<(), Error> {
        let region = u32::try_from(inner.rows.len()).expect("at most 2^20 regions");
        if region >= self.geometry.regions_max {
            return Err(Error::StoreFull);
        }
        allocate(
            disk,
            self.geometry.map_offset(region, 0),
            2 * self.geometry.map_bytes(),
        )?;
        for copy in [0, 1] {
            allocate(
                disk,
                self.geometry.region_table_offset(copy),
                table_bytes(&self.geometry, region + 1),
            )?;
        }
        self.add_region(inner);
        Ok(())
    }

    /// Backs what was handed out, and some of what follows.
    fn back(&self, inner: &mut Inner, disk: &dyn Disk, placed: Placed) -> Result<Run, Error> {
        if placed.unbacked == 0 {
            return Ok(placed.run);
        }
        let step = self.step_units(inner).max(placed.run.units);
        let region_end = self.region_end(placed.run.start);
        let units = u64::from(step).min(region_end - placed.run.start.0);
        let ahead = Run {
            start: placed.run.start,
            units: u32::try_from(units).expect("within a region"),
        };
        let backed = self
            .back_run(inner, disk, ahead)
            .or_else(|_| self.back_run(inner, disk, placed.run));
        match backed {
            Ok(()) => Ok(placed.run),
            Err(error) => {
                inner.allocator.free(placed.run);
                Err(error)
            }
        }
    }

    fn back_run(&self, inner: &mut Inner, disk: &dyn Disk, run: Run) -> Result<(), Error> {
        for part in inner.allocator.unbacked_of(run) {
            let allocated = allocate(
                disk,
                self.geometry.offset_of(part.start),
                u64::from(part.units) * self.geometry.unit(),
            );
            let full = matches!(allocated, Err(Error::DiskFull));
            self.tight.store(full, Ordering::Relaxed);
            allocated?;
            inner.allocator.back(part);
            inner.sweep.news();
        }
        Ok(())
    }

    /// Whether the disk is full, as far as is known: then what is free may lie in pieces that are
    /// too short for what wants a run.
    pub(crate) fn is_tight(&self) -> bool {
        self.tight.load(Ordering::Relaxed)
    }

    fn step_units(&self, inner: &Inner) -> u32 {
        let used = inner.allocator.high_water().0;
        let most = STEP_BYTES_MAX / self.geometry.unit();
        let step = (used / STEP_SHARE).clamp(STEP_UNITS_MIN, most.max(STEP_UNITS_MIN));
        u32::try_from(step).expect("64 MiB of units")
    }

    fn region_end(&self, block: BlockId) -> u64 {
        let (region, _) = self
            .geometry
            .region_of(block)
            .expect("what is handed out lies in a region");
        self.geometry.region_start(region + 1).0
    }

    /// Makes sure that this many free units are backed, so that a checkpoint of everything
    /// pending can finish whatever happens to the disk.
    pub(crate) fn reserve(&self, disk: &dyn Disk, units: u64) -> Result<(), Error> {
        self.reserve_of(&mut self.inner.lock(), disk, units)
    }

    fn reserve_of(&self, inner: &mut Inner, disk: &dyn Disk, units: u64) -> Result<(), Error> {
        while inner.allocator.backed_free_units() < units {
            let missing = units - inner.allocator.backed_free_units();
            let step = u64::from(self.step_units(inner)).max(missing);
            let step = u32::try_from(step).unwrap_or(u32::MAX);
            match inner.allocator.unbacked_next(step) {
                Ok(runs) => {
                    for run in runs {
                        self.back_run(inner, disk, run)?;
                    }
                }
                Err(Shortage::Load(region)) => self.load(inner, disk, region)?,
                Err(Shortage::Grow) => self.grow(inner, disk)?,
                Err(Shortage::Full) => return Err(Error::StoreFull),
            }
        }
        Ok(())
    }

    /// Gives units back that nobody names.
    pub(crate) fn free(&self, runs: &[Run]) {
        let mut inner = self.inner.lock();
        for run in runs {
            inner.allocator.free(*run);
        }
        inner.sweep.news();
    }

    /// Gives back what a checkpoint retired and whose last reason to wait is gone.
    pub(crate) fn release(&self, runs: &[Run]) {
        let mut inner = self.inner.lock();
        for run in runs {
            inner.allocator.free(*run);
            inner.retired_units -= u64::from(run.units);
        }
        inner.sweep.news();
    }

    /// Says at recovery that the live log names these units. They may lie in regions that no
    /// durable table knows yet, as far as the file reaches. `false` if they lie nowhere.
    pub(crate) fn mark(&self, run: Run, file_bytes: u64) -> bool {
        if run.end() * self.geometry.unit() > file_bytes {
            return false;
        }
        let mut inner = self.inner.lock();
        while !inner.allocator.holds(run) {
            let past_last = inner.rows.len() as u64 >= u64::from(self.geometry.regions_max);
            if past_last || self.known_end(&inner) > run.start.0 {
                return false;
            }
            self.add_region(&mut inner);
        }
        inner.allocator.mark(run);
        true
    }

    /// The first unit behind the known regions.
    fn known_end(&self, inner: &Inner) -> u64 {
        let regions = u32::try_from(inner.rows.len()).expect("at most 2^20 regions");
        self.geometry.region_start(regions).0
    }

    fn add_region(&self, inner: &mut Inner) {
        inner.allocator.add_region();
        inner.reachable.add_region();
        inner.rows.push(Row::fresh(&self.geometry));
    }

    /// The checkpoint's roots reach these units now; the last ones may have (a part that was
    /// kept).
    pub(crate) fn reach(&self, disk: &dyn Disk, run: Run) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        self.know(&mut inner, disk, run)?;
        if inner.reachable.is_reachable(run) != Some(true) {
            inner.reachable.set(run);
        }
        Ok(())
    }

    /// The checkpoint drops these units; `reached` says whether the durable roots reach them.
    pub(crate) fn retire(&self, disk: &dyn Disk, run: Run, reached: bool) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        inner.retired_units += u64::from(run.units);
        if !reached {
            return Ok(());
        }
        inner.allocator.retire(run);
        self.know(&mut inner, disk, run)?;
        inner.reachable.clear(run);
        Ok(())
    }

    /// Reads the map of the region that these units lie in, if it is not known yet.
    pub(crate) fn know_map(&self, disk: &dyn Disk, run: Run) -> Result<(), Error> {
        self.know(&mut self.inner.lock(), disk, run)
    }

    /// Whether the opened generation reaches all of these units, which may lie anywhere.
    pub(crate) fn is_reached(&self, disk: &dyn Disk, run: Run) -> Result<bool, Error> {
        let mut inner = self.inner.lock();
        if !inner.allocator.holds(run) {
            return Ok(false);
        }
        self.know(&mut inner, disk, run)?;
        Ok(inner.reachable.is_reachable(run) == Some(true))
    }

    fn know(&self, inner: &mut Inner, disk: &dyn Disk, run: Run) -> Result<(), Error> {
        match inner.reachable.needs(run) {
            Some(region) => self.load(inner, disk, region),
            None => Ok(()),
        }
    }

    /// Writes the changed maps and the region table into the copies that the durable superblock
    /// does not name. Returns what the next superblock says of the table.
    pub(crate) fn write_maps(
        &self,
        disk: &dyn Disk,
        generation: Generation,
    ) -> Result<RegionTableRef, Error> {
        let mut inner = self.inner.lock();
        let dirty: Vec<u32> = inner.reachable.dirty_regions().collect();
        let map_bytes = usize::try_from(self.geometry.map_bytes()).expect("32 KiB");
        for region in dirty {
            let mut bytes = AlignedBuf::zeroed(map_bytes);
            let old = inner.rows[region as usize];
            if planted::has(Bug::ForgetMap) && old.has_map() {
                inner.reachable.written(region);
                continue;
            }
            let in_place = planted::has(Bug::MapInPlace);
            let copy = if old.has_map() && !in_place {
                old.copy ^ 1
            } else {
                0
            };
            let known = inner.reachable.row(region);
            let bits = inner
                .reachable
                .bits(region)
                .expect("a dirty region is loaded");
            let map_checksum = encode_map(
                &self.geometry,
                self.nonce,
                region,
                generation,
                bits,
                &mut bytes,
            );
            disk.write(self.geometry.map_offset(region, copy), &bytes)
                .map_err(Error::io("writing an allocation map"))?;
            inner.rows[region as usize] = Row {
                copy,
                generation,
                map_checksum,
                free_units: known.free,
                largest_run: known.largest,
            };
            inner.reachable.written(region);
        }
        let copy = inner.table_copy ^ u8::from(!planted::has(Bug::TableInPlace));
        let (bytes, checksum) =
            encode_region_table(&self.geometry, self.nonce, generation, &inner.rows);
        disk.write(
            self.geometry.region_table_offset(copy),
            &AlignedBuf::copy_of(&bytes),
        )
        .map_err(Error::io("writing the region table"))?;
        inner.table_copy = copy;
        Ok(RegionTableRef {
            copy,
            regions: u32::try_from(inner.rows.len()).expect("at most 2^20 regions"),
            checksum,
        })
    }

    pub(crate) fn usage(&self) -> Usage {
        let inner = self.inner.lock();
        let unit = self.geometry.unit();
        let regions = inner.allocator.region_count();
        let reserved = u64::from(regions) * u64::from(self.geometry.region_reserved_units());
        let data = u64::from(regions) * u64::from(self.geometry.region_units) - reserved;
        let free = inner.allocator.free_units();
        Usage {
            file_bytes: inner.allocator.high_water().0 * unit,
            free_bytes: free * unit,
            allocated_bytes: (data - free) * unit,
            retired_bytes: inner.retired_units * unit,
        }
    }

    /// The free runs that have a unit among `used`, as far as the allocator knows them: there must
    /// be none while what is used is pinned.
    pub(crate) fn free_among(&self, used: &Units) -> Vec<Run> {
        let mut shared = Vec::new();
        self.each_known_region(|_, free| {
            shared.extend(free.into_iter().filter(|run| used.holds_any(*run)));
        });
        shared
    }

    /// The runs that are neither free nor `named`, of the regions that the allocator knows.
    pub(crate) fn taken_besides(&self, named: &Units) -> Vec<Run> {
        let mut known = Units::new(self.geometry);
        let mut others = Units::new(self.geometry);
        let reserved = self.geometry.region_reserved_units();
        self.each_known_region(|region, free| {
            let start = self.geometry.region_start(region).0 + u64::from(reserved);
            known.add(Run {
                start: BlockId(start),
                units: self.geometry.region_units - reserved,
            });
            for run in free {
                others.add(run);
            }
        });
        let taken = known.without(&others);
        let mut left = Units::new(self.geometry);
        for run in taken {
            left.add(run);
        }
        left.without(named)
    }

    /// Calls with the free runs of each region whose map is loaded, the lock given up in between.
    fn each_known_region(&self, mut call: impl FnMut(u32, Vec<Run>)) {
        for region in 0.. {
            let inner = self.inner.lock();
            if region >= inner.allocator.region_count() {
                return;
            }
            let free = inner.allocator.free_runs(region);
            drop(inner);
            if let Some(free) = free {
                call(region, free);
            }
        }
    }
}

/// Bytes of a table's copy that so many regions need, in whole units.
pub(crate) fn table_bytes(geometry: &Geometry, regions: u32) -> u64 {
    let bytes = region_table::table_bytes(regions) as u64;
    bytes.next_multiple_of(geometry.unit())
}

fn allocate(disk: &dyn Disk, offset: u64, bytes: u64) -> Result<(), Error> {
    disk.allocate(offset, bytes).map_err(|error| {
        if error.kind() == io::ErrorKind::StorageFull
            || error.kind() == io::ErrorKind::QuotaExceeded
            || error.kind() == io::ErrorKind::FileTooLarge
        {
            Error::DiskFull
        } else {
            Error::io("allocating space")(error)
        }
    })
}

#[cfg(all(test, not(shuttle)))]
mod tests;
