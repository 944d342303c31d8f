//! Who may have which units: the allocator (what is in use now) and [`Reachable`] (what the roots
//! of the generation being written reach, the only one of the two that goes to disk).
//!
//! A unit is *in use* while it is reachable, or retired and not released, or named by the live
//! log, or being written. The [`Allocator`] knows only that, never why: its owner says `free` when
//! the last reason is gone.
//!
//! Invariants:
//! - No unit has two owners: a unit is free, or in a free block of a node cluster, or in use. What
//!   is given back was in use (asserted, with the units named).
//! - A region's bits may be loaded from the map of *any* generation since the store was opened. For
//!   that, whoever changes what a map says of an unloaded region says it here first: only units of
//!   loaded regions are allocated; a unit that a checkpoint drops is [`Allocator::retire`]d before
//!   that checkpoint's map is durable, and what is marked or freed is remembered until the load.
//! - The map copies at the head of a region are never handed out; nothing crosses two regions.
//! - Low units are preferred where sizes fit equally well, and a run at the end of a region is
//!   touched only when no unloaded region may have room: that keeps the high water low.
//!
//! Blocks of nodes come from clusters with a buddy allocator in each (`clusters`), extents from the
//! best fit over coalesced free runs (`free_runs`). Both cost O(log n); a bitmap is scanned once, when
//! its region is loaded.
//!
//! Which free space the file system has given to the file is told in `backing`.

mod backing;
pub(crate) mod bits;
mod clusters;
mod free_runs;
mod reachable;
mod span;
#[cfg(test)]
mod tests;
mod unloaded;

pub use backing::{Bound, Claim, Punchable};
pub use reachable::Reachable;

use clusters::{CLUSTER_ORDER_MAX, Clusters};
use dmerkle::geometry::Geometry;
use dmerkle::types::{BlockId, Order, Run};
use free_runs::FreeRuns;
use span::{Span, SpanSet};
use unloaded::Unloaded;

/// What the region table says of a region, as far as allocation needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionRow {
    /// Units that the generation's roots do not reach.
    pub free: u32,
    /// Units of the largest run of them.
    pub largest: u32,
}

/// Units that were handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The units.
    pub run: Run,
    /// How many of them must be backed before they are written; see [`Allocator::unbacked_of`].
    pub unbacked: u32,
}

/// Why nothing was handed out, and what to do before asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Read this region's map and [`Allocator::load`] it.
    Load(u32),
    /// Let the file grow: [`Allocator::add_region`].
    Grow,
    /// There is no region to add, or no region could hold so much.
    Full,
}

/// What is known of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionStats {
    /// Whether its map is loaded.
    pub loaded: bool,
    /// Free units; of an unloaded region the most that there can be.
    pub free: u32,
    /// Units of its largest free run; of an unloaded region the most that there can be.
    pub largest: u32,
}

#[derive(Debug, Clone, Copy)]
struct Region {
    loaded: bool,
    free: u32,
}

/// Hands out units and takes them back.
#[derive(Debug, Clone)]
pub struct Allocator {
    geometry: Geometry,
    cluster_order: u8,
    regions: Vec<Region>,
    free: FreeRuns,
    clusters: Clusters,
    unloaded: Unloaded,
    /// The most that can be free in unloaded regions.
    unloaded_free: u64,
    /// Units of loaded regions that are free, or were handed out, but never known to be backed.
    unbacked: SpanSet,
    /// How many of those are free.
    unbacked_free: u64,
    /// Those of them that may have space of the file all the same: from before the opening.
    doubtful: SpanSet,
}

impl Allocator {
    /// With a row for each region that there is. Nothing is loaded, except that regions in which
    /// all is free need no map.
    pub fn new(geometry: Geometry, rows: &[RegionRow]) -> Self {
        let capacity = capacity(&geometry);
        let bounds: Vec<u32> = rows
            .iter()
            .map(|row| if row.free == capacity { 0 } else { row.largest })
            .collect();
        let mut allocator = Self {
            geometry,
            cluster_order: cluster_order(&geometry),
            regions: Vec::with_capacity(rows.len()),
            free: FreeRuns::default(),
            clusters: Clusters::default(),
            unloaded: Unloaded::new(&bounds),
            unloaded_free: 0,
            unbacked: SpanSet::default(),
            unbacked_free: 0,
            doubtful: SpanSet::default(),
        };
        for row in rows {
            if row.free == capacity {
                allocator.add_region();
            } else {
                allocator.unloaded_free += u64::from(row.free);
                allocator.regions.push(Region {
                    loaded: false,
                    free: row.free,
                });
            }
        }
        allocator
    }

    /// A block for a node: `1 << order` units, aligned to their number from the region's first
    /// data unit on.
    pub fn allocate_node(&mut self, order: Order) -> Result<Placed, Shortage> {
        let units = checked_units(order, capacity(&self.geometry)).ok_or(Shortage::Full)?;
        if let Some(run) = self.node_in_cluster(order) {
            return Ok(self.placed(run));
        }
        // An aligned block that is no part of a cluster holds none of its units either, or it
        // would hold the whole cluster, of which something is in use: the free runs decide alone.
        let (run, cluster_order) = match self.place_for_cluster(order, false) {
            Err(Shortage::Full) => self.place_for_cluster(order, true)?,
            place => place?,
        };
        let start = self.aligned(run.start, 1 << cluster_order);
        self.free.take(run, Span::at(start, 1 << cluster_order));
        if cluster_order > order.0 {
            self.clusters.add(start, cluster_order);
            let first = self.clusters.take(order.0);
            assert_eq!(
                first,
                Some(start),
                "the new cluster is the only one with room"
            );
        }
        Ok(self.placed(Span::at(start, units)))
    }

    /// Like [`Self::allocate_node`], but only from space that is backed already: a checkpoint on
    /// a full disk must be able to end. Slower, since it may look at all free runs.
    pub fn allocate_node_backed(&mut self, order: Order) -> Option<Placed> {
        let units = checked_units(order, capacity(&self.geometry))?;
        let unbacked = &self.unbacked;
        if order.0 < self.cluster_order {
            let backed = |block| unbacked.overlap(block) == 0;
            if let Some(start) = self.clusters.take_if(order.0, backed) {
                return Some(self.placed(Span::at(start, units)));
            }
        }
        let (run, block) = self.free.at_least(units).find_map(|run| {
            let mut backed = unbacked.gaps(run);
            let block = backed.find_map(|gap| {
                let block = Span::at(self.aligned(gap.start, units), units);
                (block.end <= gap.end).then_some(block)
            });
            block.map(|block| (run, block))
        })?;
        self.free.take(run, block);
        Some(self.placed(block))
    }

    /// A run of `units` for an extent, anywhere within one region.
    pub fn allocate_extent(&mut self, units: u32) -> Result<Placed, Shortage> {
        assert!(units > 0, "an extent has at least one unit");
        if units > capacity(&self.geometry) {
            return Err(Shortage::Full);
        }
        loop {
            let fit = self.free.best_fit(units);
            if let Some(run) = fit.filter(|run| !self.is_better_spared(*run, units)) {
                let part = Span::at(run.start, units);
                self.free.take(run, part);
                return Ok(self.placed(part));
            }
            match self.shortage(units) {
                Shortage::Full if self.dissolve_clusters() => {}
                shortage => return Err(shortage),
            }
        }
    }

    /// A run of `least` units or more, at most `most`, for several extents: all of the smallest hole
    /// that holds the first of them, before anything from a region's end.
    pub fn allocate_room(&mut self, least: u32, most: u32) -> Result<Placed, Shortage> {
        assert!(0 < least && least <= most, "room for something");
        let hole = self
            .free
            .at_least(least)
            .find(|run| !self.ends_region(*run));
        match hole.or_else(|| self.free.best_fit(least)) {
            Some(run) if !self.is_better_spared(run, least) => {
                let part = Span::at(run.start, run.units().min(most));
                self.free.take(run, part);
                Ok(self.placed(part))
            }
            _ => self.allocate_extent(least),
        }
    }

    /// A run for an extent from space that is backed already and in no cluster. Slower, since it
    /// may look at all free runs.
    pub fn allocate_extent_backed(&mut self, units: u32) -> Option<Placed> {
        let unbacked = &self.unbacked;
        let (run, part) = self.free.at_least(units).find_map(|run| {
            let mut backed = unbacked.gaps(run);
            let gap = backed.find(|gap| gap.len() >= u64::from(units))?;
            Some((run, Span::at(gap.start, units)))
        })?;
        self.free.take(run, part);
        Some(self.placed(part))
    }

    /// Gives back units that were in use.
    pub fn free(&mut self, run: Run) {
        let (region, span) = self.checked(run);
        let known = &mut self.regions[region as usize];
        if !known.loaded {
            let free = known.free.saturating_add(run.units);
            let free = free.min(capacity(&self.geometry));
            self.unloaded_free += u64::from(free - known.free);
            known.free = free;
            self.unloaded.free(region, span, known.free);
            return;
        }
        known.free += run.units;
        if !self.unbacked.is_empty() {
            self.unbacked_free += self.unbacked.overlap(span);
        }
        let mut rest = Some(span);
        while let Some(span) = rest {
            let (piece, cluster) = self.clusters.first_piece(span);
            match cluster {
                None => self.free.give(piece),
                Some(start) => {
                    if let Some(emptied) = self.clusters.give(start, piece) {
                        self.free.give(emptied);
                    }
                }
            }
            rest = (piece.end < span.end).then(|| Span::new(piece.end, span.end));
        }
    }

    /// Says that units are in use and were written, whatever they were before: what the live log
    /// names, before anything is allocated. The region may be unloaded.
    pub fn mark(&mut self, run: Run) {
        let (region, span) = self.checked(run);
        if !self.regions[region as usize].loaded {
            self.unloaded.mark(span);
            return;
        }
        let mut rest = Some(span);
        while let Some(span) = rest {
            let (piece, cluster) = self.clusters.first_piece(span);
            let known = &mut self.regions[region as usize];
            let unbacked = &self.unbacked;
            let unbacked_free = &mut self.unbacked_free;
            let taken = |taken: Span| {
                known.free -= taken.units();
                *unbacked_free -= unbacked.overlap(taken);
            };
            match cluster {
                None => self.free.take_what_is_free(piece, taken),
                Some(start) => self.clusters.mark(start, piece, taken),
            }
            rest = (piece.end < span.end).then(|| Span::new(piece.end, span.end));
        }
        self.unbacked.remove(span);
        self.doubtful.remove(span);
    }

    /// Says that a running checkpoint drops these units. They stay in use until they are freed,
    /// even if their region is loaded later, from a map that no longer names them.
    pub fn retire(&mut self, run: Run) {
        let (region, span) = self.checked(run);
        if self.regions[region as usize].loaded {
            let free = self.free_pieces(span).next();
            assert!(
                free.is_none(),
                "units {run:?} are retired, but {free:?} are free"
            );
        } else {
            self.unloaded.mark(span);
        }
    }

    /// Takes a region's map in: a bit for each of its units from its start on, lowest bit first, 1
    /// if reachable. Then applies what was marked and freed there. Of a region that is loaded
    /// already the bits are ignored, so that two callers may be told to load the same.
    pub fn load(&mut self, region: u32, bits: &[u8]) {
        let known = &mut self.regions[region as usize];
        if known.loaded {
            return;
        }
        let bytes = self.geometry.region_units.div_ceil(8) as usize;
        assert!(bits.len() >= bytes, "a map has a bit for every unit");
        self.unloaded_free -= u64::from(known.free);
        known.loaded = true;
        known.free = 0;
        let (marked, freed) = self.unloaded.leave(region, self.data(region));
        let origin = self.geometry.region_start(region).0;
        let indices = self.geometry.region_reserved_units()..self.geometry.region_units;
        for (start, units) in bits::zero_runs(bits, indices) {
            self.add_unbacked(region, Span::at(origin + u64::from(start), units));
        }
        for span in marked {
            self.mark(span.run());
        }
        for span in freed {
            // A newer map may know already that they are not reachable.
            let used: Vec<Span> = self.free.gaps(span).collect();
            for span in used {
                self.free(span.run());
            }
        }
    }

    /// Adds a region at the end, all free and unbacked (its map copies are the caller's to back),
    /// and gives its number.
    pub fn add_region(&mut self) -> u32 {
        let region = self.region_count();
        assert!(region < self.geometry.regions_max, "a region too many");
        self.regions.push(Region {
            loaded: true,
            free: 0,
        });
        self.add_unbacked(region, self.data(region));
        region
    }

    /// Whether these are data units of a region that there is: to be asked of runs that come from
    /// a disk, before anything else is said of them here.
    pub fn holds(&self, run: Run) -> bool {
        self.locate(run).is_some()
    }

    /// Regions that there are.
    pub fn region_count(&self) -> u32 {
        u32::try_from(self.regions.len()).expect("regions are counted in 32 bits")
    }

    /// Whether the region's map is loaded, or was never needed.
    pub fn is_loaded(&self, region: u32) -> bool {
        self.regions[region as usize].loaded
    }

    /// What is known of a region. Looks at each of its free runs.
    pub fn region(&self, region: u32) -> RegionStats {
        let Region { loaded, free } = self.regions[region as usize];
        let largest = if loaded {
            let runs = self.free.pieces(self.data(region)).map(Span::units);
            runs.max().unwrap_or(0)
        } else {
            self.unloaded.bound(region)
        };
        RegionStats {
            loaded,
            free,
            largest,
        }
    }

    /// Free units. Unloaded regions count with the most that can be free.
    pub fn free_units(&self) -> u64 {
        self.free.units() + self.clusters.free_units() + self.unloaded_free
    }

    /// Units of the largest free run of the loaded regions.
    pub fn largest_run(&self) -> u32 {
        self.free.largest()
    }

    /// The unit behind the last that is in use. An unloaded region counts whole, and so does a
    /// node cluster.
    pub fn high_water(&self) -> BlockId {
        for region in (0..self.region_count()).rev() {
            let loaded = self.is_loaded(region);
            let data = self.data(region);
            let tail = self.free.last_before(data.end);
            match tail.filter(|run| loaded && run.end == data.end) {
                Some(run) if run == data => {}
                Some(run) => return BlockId(run.start),
                None => return BlockId(data.end),
            }
        }
        self.geometry.data_start()
    }

    /// What is free of a region, ascending; `None` if it is not loaded. For checking.
    pub fn free_runs(&self, region: u32) -> Option<Vec<Run>> {
        self.is_loaded(region)
            .then(|| self.free_pieces(self.data(region)).map(Span::run).collect())
    }
}

impl Allocator {
    /// Counts units that were just taken from the free ones.
    fn placed(&mut self, span: Span) -> Placed {
        let run = span.run();
        let (region, _) = self.checked(run);
        self.regions[region as usize].free -= run.units;
        let unbacked = if self.unbacked.is_empty() {
            0
        } else {
            self.unbacked.overlap(span)
        };
        self.unbacked_free -= unbacked;
        Placed {
            run,
            unbacked: u32::try_from(unbacked).expect("no more than the run has"),
        }
    }

    fn node_in_cluster(&mut self, order: Order) -> Option<Span> {
        if order.0 >= self.cluster_order {
            return None;
        }
        let start = self.clusters.take(order.0)?;
        Some(Span::at(start, order.units()))
    }

    /// A free run for a new cluster (or a block as large as one) and the order that fits. Smaller
    /// clusters than usual are made before the file grows.
    fn place_for_cluster(&self, order: Order, thorough: bool) -> Result<(Span, u8), Shortage> {
        let largest = order.0.max(self.cluster_order);
        let fit = |order: u8| {
            let units = 1u32 << order;
            let align = |start| self.aligned(start, units);
            self.free.aligned_fit(units, thorough, align)
        };
        let usual = fit(largest);
        if let Some((run, _)) = usual
            && !self.is_better_spared(run, 1 << largest)
        {
            return Ok((run, largest));
        }
        if let Some(region) = self.unloaded.lowest(1 << largest) {
            return Err(Shortage::Load(region));
        }
        (order.0..largest)
            .rev()
            .find_map(|smaller| fit(smaller).map(|(run, _)| (run, smaller)))
            .ok_or_else(|| self.shortage(order.units()))
    }

    /// Whether a run should be kept because it ends its region (and with that, perhaps, what is in
    /// use at all) while an unloaded region may have room.
    fn is_better_spared(&self, run: Span, units: u32) -> bool {
        self.unloaded.lowest(units).is_some() && self.ends_region(run)
    }

    fn ends_region(&self, run: Span) -> bool {
        let (region, _) = self.checked(run.run());
        run.end == self.data(region).end
    }

    fn shortage(&self, units: u32) -> Shortage {
        if let Some(region) = self.unloaded.lowest(units) {
            Shortage::Load(region)
        } else if self.region_count() < self.geometry.regions_max {
            Shortage::Grow
        } else {
            Shortage::Full
        }
    }

    /// Makes what is free in clusters plain free space, and tells whether there was any. Nodes to
    /// come begin new ones.
    pub fn dissolve_clusters(&mut self) -> bool {
        let free = self.clusters.dissolve();
        for &span in &free {
            self.free.give(span);
        }
        !free.is_empty()
    }

    fn add_unbacked(&mut self, region: u32, span: Span) {
        self.free.give(span);
        self.unbacked.insert(span);
        self.doubtful.insert(span);
        self.unbacked_free += span.len();
        self.regions[region as usize].free += span.units();
    }

    /// What is free of `span`, in clusters too, ascending.
    fn free_pieces(&self, span: Span) -> impl Iterator<Item = Span> + '_ {
        let mut rest = Some(span);
        std::iter::from_fn(move || {
            let span = rest?;
            let (piece, cluster) = self.clusters.first_piece(span);
            rest = (piece.end < span.end).then(|| Span::new(piece.end, span.end));
            Some((piece, cluster))
        })
        .flat_map(|(piece, cluster)| {
            let outside = cluster.is_none().then(|| self.free.pieces(piece));
            let inside = cluster.map(|start| self.clusters.free_in(start, piece));
            outside
                .into_iter()
                .flatten()
                .chain(inside.into_iter().flatten())
        })
    }

    /// The first unit at or above `start` that is aligned to `units` in its region.
    fn aligned(&self, start: u64, units: u32) -> u64 {
        let (region, _) = self
            .geometry
            .region_of(BlockId(start))
            .expect("a data unit");
        let origin = self.data(region).start;
        origin + (start - origin).next_multiple_of(units.into())
    }

    /// A region's units less its map copies.
    fn data(&self, region: u32) -> Span {
        let start = self.geometry.region_start(region).0;
        Span::new(
            start + u64::from(self.geometry.region_reserved_units()),
            start + u64::from(self.geometry.region_units),
        )
    }

    fn locate(&self, run: Run) -> Option<(u32, Span)> {
        let (region, index) = self.geometry.region_of(run.start)?;
        let fits = index >= self.geometry.region_reserved_units()
            && u64::from(index) + u64::from(run.units) <= u64::from(self.geometry.region_units);
        (run.units > 0 && fits && region < self.region_count()).then(|| (region, Span::of(run)))
    }

    fn checked(&self, run: Run) -> (u32, Span) {
        let located = self.locate(run);
        located.unwrap_or_else(|| panic!("{run:?} is not within the data of one region"))
    }
}

/// Units of a region that can be handed out.
fn capacity(geometry: &Geometry) -> u32 {
    geometry.region_units - geometry.region_reserved_units()
}

/// A cluster takes no more than a sixteenth of a region.
fn cluster_order(geometry: &Geometry) -> u8 {
    let sixteenth = (geometry.region_units / 16).max(1).ilog2();
    CLUSTER_ORDER_MAX.min(u8::try_from(sixteenth).unwrap_or(CLUSTER_ORDER_MAX))
}

/// The units of an order that a region can hold.
fn checked_units(order: Order, capacity: u32) -> Option<u32> {
    let units = 1u32.checked_shl(order.0.into())?;
    (units <= capacity).then_some(units)
}
