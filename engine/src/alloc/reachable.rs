//! The bitmaps that go to disk: which units the roots of the generation being written reach.
//!
//! Invariants:
//! - After a checkpoint has applied all that it wrote and dropped, a region's bits equal what a
//!   walk from its roots reaches, hidden trees included.
//! - A region is dirty from its first change until the checkpoint that writes its map says so; a
//!   dirty region is never forgotten.
//! - The bits of the map copies themselves, and those behind the region's end, are zero.

use super::{RegionRow, bits, capacity};
use dmerkle::error::{Corrupt, Place, Structure};
use dmerkle::geometry::Geometry;
use dmerkle::types::Run;
use std::ops::Range;

/// What is reachable, per region, as far as it is loaded.
#[derive(Debug)]
pub struct Reachable {
    geometry: Geometry,
    regions: Vec<Region>,
}

#[derive(Debug)]
struct Region {
    /// `None` if not loaded.
    bits: Option<Box<[u8]>>,
    dirty: bool,
    row: RegionRow,
}

impl Reachable {
    /// With the rows of the region table. Nothing is loaded, except that regions in which nothing
    /// is reachable need no map.
    pub fn new(geometry: Geometry, rows: &[RegionRow]) -> Self {
        let regions = rows.iter().map(|&row| Region {
            bits: None,
            dirty: false,
            row,
        });
        Self {
            geometry,
            regions: regions.collect(),
        }
    }

    /// Regions that there are.
    pub fn region_count(&self) -> u32 {
        u32::try_from(self.regions.len()).expect("regions are counted in 32 bits")
    }

    /// Adds a region of which nothing is reachable, and gives its number. It is not dirty: it
    /// needs no map until something in it becomes reachable.
    pub fn add_region(&mut self) -> u32 {
        let free = capacity(&self.geometry);
        let largest = free;
        self.regions.push(Region {
            bits: None,
            dirty: false,
            row: RegionRow { free, largest },
        });
        self.region_count() - 1
    }

    /// The region that must be loaded before `run` can be set or cleared.
    pub fn needs(&self, run: Run) -> Option<u32> {
        let (region, _) = self.locate(run);
        self.needs_load(region).then_some(region)
    }

    /// Whether the region's map must be read before its bits are known.
    pub fn needs_load(&self, region: u32) -> bool {
        let known = &self.regions[region as usize];
        known.bits.is_none() && known.row.free != capacity(&self.geometry)
    }

    /// Takes a region's bits in, as its map holds them. Refuses bits that do not fit the region's
    /// row. Of a region that is loaded already the bits are ignored.
    pub fn load(&mut self, region: u32, bits: &[u8]) -> Result<(), Corrupt> {
        if !self.needs_load(region) {
            return Ok(());
        }
        let corrupt = |rule| Err(Corrupt::rule(Structure::Map, rule).at(Place::Region(region)));
        let expected = self.bytes();
        let Some(bits) = bits.get(..expected) else {
            return corrupt("a map must have a bit for every unit");
        };
        let data = self.data();
        let all = u32::try_from(8 * expected).expect("a map has at most 2^24 bits");
        if bits::find(bits, 0..data.start, true).is_some()
            || bits::find(bits, data.end..all, true).is_some()
        {
            return corrupt("a map names only units of its region's data");
        }
        let known = &mut self.regions[region as usize];
        if row_of(bits, data) != known.row {
            return corrupt("a map must have as much free as its row in the region table says");
        }
        known.bits = Some(bits.into());
        Ok(())
    }

    /// Says that units are reachable now. They must not have been, and their region is loaded.
    pub fn set(&mut self, run: Run) {
        self.change(run, true);
    }

    /// Says that units are no longer reachable. They must have been, and their region is loaded.
    pub fn clear(&mut self, run: Run) {
        self.change(run, false);
    }

    /// The regions whose maps this checkpoint must write, ascending.
    pub fn dirty_regions(&self) -> impl Iterator<Item = u32> + '_ {
        let regions = (0..).zip(&self.regions);
        regions
            .filter(|(_, known)| known.dirty)
            .map(|(region, _)| region)
    }

    /// Says that the region's map as it is now has been handed over to be written.
    pub fn written(&mut self, region: u32) {
        self.regions[region as usize].dirty = false;
    }

    /// Drops the bits of all regions that are not dirty; they can be loaded again. To be called
    /// while no map is being written: what is loaded again must be what was dropped.
    pub fn forget_clean(&mut self) {
        for region in 0..self.region_count() {
            if !self.regions[region as usize].dirty {
                // The row must say what the bits said.
                self.regions[region as usize].row = self.row(region);
                self.regions[region as usize].bits = None;
            }
        }
    }

    /// A region's bits, as its map holds them; `None` if they must be loaded first, or if nothing
    /// in it was ever reachable.
    pub fn bits(&self, region: u32) -> Option<&[u8]> {
        self.regions[region as usize].bits.as_deref()
    }

    /// What the region table says of the region: counted now, in one pass over its bits, unless
    /// it did not change.
    pub fn row(&self, region: u32) -> RegionRow {
        let known = &self.regions[region as usize];
        match &known.bits {
            Some(bits) => row_of(bits, self.data()),
            None => known.row,
        }
    }

    /// Units that are reachable in all regions.
    pub fn units(&self) -> u64 {
        let capacity = capacity(&self.geometry);
        let used = self.regions.iter().map(|known| capacity - known.row.free);
        used.map(u64::from).sum()
    }

    /// Whether all of `run` is reachable, if its region needs no loading.
    pub fn is_reachable(&self, run: Run) -> Option<bool> {
        let (region, range) = self.locate(run);
        match &self.regions[region as usize].bits {
            Some(bits) => Some(bits::find(bits, range, false).is_none()),
            None => (!self.needs_load(region)).then_some(false),
        }
    }

    fn change(&mut self, run: Run, to: bool) {
        let (region, range) = self.locate(run);
        assert!(
            !self.needs_load(region),
            "the map of region {region} is not loaded"
        );
        let bytes = self.bytes();
        let known = &mut self.regions[region as usize];
        let bits = known.bits.get_or_insert_with(|| vec![0; bytes].into());
        if let Err(index) = bits::change(bits, range.clone(), to) {
            let unit = run.start.0 + u64::from(index - range.start);
            let state = if to {
                "reachable already"
            } else {
                "not reachable"
            };
            panic!("{run:?} changes, but unit {unit} is {state}");
        }
        known.dirty = true;
        if to {
            known.row.free -= run.units;
        } else {
            known.row.free += run.units;
        }
    }

    fn locate(&self, run: Run) -> (u32, Range<u32>) {
        let located = self.geometry.region_of(run.start);
        let (region, index) = located.unwrap_or_else(|| panic!("{run:?} is not in the data"));
        let range = index..index + run.units;
        let data = self.data();
        assert!(
            region < self.region_count() && data.start <= range.start && range.end <= data.end,
            "{run:?} is not within the data of one region"
        );
        (region, range)
    }

    /// The indices of a region's units that are not its map copies.
    fn data(&self) -> Range<u32> {
        self.geometry.region_reserved_units()..self.geometry.region_units
    }

    fn bytes(&self) -> usize {
        self.geometry.region_units.div_ceil(8) as usize
    }
}

fn row_of(bits: &[u8], data: Range<u32>) -> RegionRow {
    let mut row = RegionRow {
        free: 0,
        largest: 0,
    };
    for (_, units) in bits::zero_runs(bits, data) {
        row.free += units;
        row.largest = row.largest.max(units);
    }
    row
}
