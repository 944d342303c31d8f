//! Sets of units, a bit each, per region: what a walk reaches, what the maps say.
//!
//! Invariants: a run is clipped to the data regions; memory is one map's worth for each region of
//! which a unit is in the set.

use crate::alloc::bits;
use dmerkle::{BlockId, Geometry, Run};
use std::collections::BTreeMap;
use std::ops::Range;

/// A set of units.
#[derive(Debug)]
pub(crate) struct Units {
    geometry: Geometry,
    regions: BTreeMap<u32, Box<[u8]>>,
}

impl Units {
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            regions: BTreeMap::new(),
        }
    }

    fn bytes(&self) -> usize {
        self.geometry.region_units.div_ceil(8) as usize
    }

    /// Takes a region's bits as its map holds them.
    pub(crate) fn take_region(&mut self, region: u32, bits: &[u8]) {
        self.regions.insert(region, bits[..self.bytes()].into());
    }

    /// The region of a run and the indices of its units, as far as they lie in that region.
    fn locate(&self, run: Run) -> Option<(u32, Range<u32>)> {
        let (region, index) = self.geometry.region_of(run.start)?;
        let end = index.saturating_add(run.units);
        Some((region, index..end.min(self.geometry.region_units)))
    }

    /// Adds a run, whatever of it is in the set already.
    pub(crate) fn add(&mut self, run: Run) {
        let Some((region, range)) = self.locate(run) else {
            return;
        };
        let bytes = self.bytes();
        let bits = self
            .regions
            .entry(region)
            .or_insert_with(|| vec![0; bytes].into());
        let mut at = range.start;
        while let Some(zero) = bits::find(bits, at..range.end, false) {
            let end = bits::find(bits, zero..range.end, true).unwrap_or(range.end);
            bits::change(bits, zero..end, true).expect("they are all clear");
            at = end;
        }
    }

    /// Whether all of a run is in the set.
    pub(crate) fn holds_all(&self, run: Run) -> bool {
        self.locate(run).is_some_and(|(region, range)| {
            let bits = self.regions.get(&region);
            bits.is_some_and(|bits| bits::find(bits, range, false).is_none())
        })
    }

    /// Whether any unit of a run is in the set.
    pub(crate) fn holds_any(&self, run: Run) -> bool {
        self.locate(run).is_some_and(|(region, range)| {
            let bits = self.regions.get(&region);
            bits.is_some_and(|bits| bits::find(bits, range, true).is_some())
        })
    }

    /// The runs that are in this set and not in the other.
    pub(crate) fn without(&self, other: &Self) -> Vec<Run> {
        let mut runs = Vec::new();
        for (region, bits) in &self.regions {
            let mut left: Box<[u8]> = match other.regions.get(region) {
                Some(other) => bits.iter().zip(other).map(|(a, b)| !(a & !b)).collect(),
                None => bits.iter().map(|byte| !byte).collect(),
            };
            self.keep_region(&mut left);
            runs.extend(self.zero_runs(*region, &left));
        }
        runs
    }

    /// Sets the bits behind the region's end, so that they do not read as a run of zeros.
    fn keep_region(&self, bits: &mut [u8]) {
        let units = self.geometry.region_units;
        if !units.is_multiple_of(8) {
            bits[(units / 8) as usize] |= u8::MAX << (units % 8);
        }
    }

    fn zero_runs<'a>(&'a self, region: u32, bits: &'a [u8]) -> impl Iterator<Item = Run> + 'a {
        let first = self.geometry.region_start(region).0;
        bits::zero_runs(bits, 0..self.geometry.region_units).map(move |(start, units)| Run {
            start: BlockId(first + u64::from(start)),
            units,
        })
    }

    /// Free units of a region's data, and the longest run of them.
    pub(crate) fn free_of(&self, region: u32) -> (u32, u32) {
        let data = self.geometry.region_reserved_units()..self.geometry.region_units;
        let Some(bits) = self.regions.get(&region) else {
            return (data.end - data.start, data.end - data.start);
        };
        bits::zero_runs(bits, data).fold((0, 0), |(free, largest), (_, units)| {
            (free + units, largest.max(units))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, units: u32) -> Run {
        let first = Geometry::tiny().region_start(1).0;
        Run {
            start: BlockId(first + start),
            units,
        }
    }

    #[test]
    fn what_one_set_has_more_than_another_is_named_in_runs() {
        let mut all = Units::new(Geometry::tiny());
        let mut some = Units::new(Geometry::tiny());
        all.add(run(10, 20));
        all.add(run(25, 15));
        some.add(run(12, 3));
        some.add(run(200, 500));
        assert_eq!(all.without(&some), [run(10, 2), run(15, 25)]);
        assert_eq!(some.without(&all), [run(200, 56)]);
        assert!(all.holds_all(run(10, 30)) && !all.holds_all(run(10, 31)));
        assert!(all.holds_any(run(39, 5)) && !all.holds_any(run(40, 5)));
        let data = 256 - Geometry::tiny().region_reserved_units();
        assert_eq!(all.free_of(1), (data - 30, 256 - 40));
    }
}
