//! The engine's allocator against a plain list of units.

use arbitrary::{Arbitrary, Unstructured};
use dmerkle::{Geometry, Order, Run};
use engine::alloc::{Allocator, Bound, Claim, Placed, Punchable, RegionRow, Shortage};

#[derive(Debug, Arbitrary)]
enum Move {
    Node(u8),
    NodeBacked(u8),
    Extent(u8),
    Long(u16),
    /// Of the runs that are held, this one.
    Free(u16),
    /// The second half of a held run; the first stays.
    FreeHalf(u16),
    /// Every second run that is held.
    FreeMany,
    /// As recovery says of a run that the log names.
    Mark(u16),
    /// Free units of at least this many are given back to the file system.
    Punch(u8, bool),
    /// Everything held is on the maps, and regions are loaded again when they are needed.
    Reopen,
}

struct World {
    geometry: Geometry,
    allocator: Allocator,
    /// Whether a unit is in use, from the first data unit on; a region's maps are not.
    used: Vec<bool>,
    /// Which units the maps on disk say are in use.
    mapped: Vec<bool>,
    held: Vec<Run>,
}

/// No unit has two owners, none is forgotten, and "full" is said only where nothing fits.
pub fn allocator(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let geometry = Geometry {
        regions_max: 3,
        ..Geometry::tiny()
    };
    let mut world = World {
        geometry,
        allocator: Allocator::new(geometry, &[]),
        used: Vec::new(),
        mapped: Vec::new(),
        held: Vec::new(),
    };
    while let Some(step) = crate::next_of(&mut input) {
        world.apply(&step);
    }
    world.compare();
    for run in std::mem::take(&mut world.held) {
        world.give(run);
    }
    world.compare();
}

impl World {
    fn index(&self, unit: u64) -> usize {
        usize::try_from(unit - self.geometry.data_start().0).expect("three regions are small")
    }

    fn of(&mut self, run: Run) -> &mut [bool] {
        let (start, end) = (self.index(run.start.0), self.index(run.end()));
        &mut self.used[start..end]
    }

    fn regions(&self) -> u32 {
        self.allocator.region_count()
    }

    /// The units of a region that may be handed out.
    fn data(&self, region: u32) -> std::ops::Range<usize> {
        let start = self.index(self.geometry.region_start(region).0);
        let reserved = self.geometry.region_reserved_units() as usize;
        start + reserved..start + self.geometry.region_units as usize
    }

    fn follow(
        &mut self,
        ask: impl Fn(&mut Allocator) -> Result<Placed, Shortage>,
    ) -> Option<Placed> {
        loop {
            match ask(&mut self.allocator) {
                Ok(placed) => return Some(placed),
                Err(Shortage::Load(region)) => self.load(region),
                Err(Shortage::Grow) => {
                    self.allocator.add_region();
                    let units = self.used.len() + self.geometry.region_units as usize;
                    self.used.resize(units, false);
                    self.mapped.resize(units, false);
                }
                Err(Shortage::Full) => return None,
            }
        }
    }

    fn load(&mut self, region: u32) {
        assert!(
            !self.allocator.is_loaded(region),
            "asked for what is loaded"
        );
        let start = self.index(self.geometry.region_start(region).0);
        let units = &self.mapped[start..start + self.geometry.region_units as usize];
        let bits: Vec<u8> = units
            .chunks(8)
            .map(|eight| (0..8).fold(0, |byte, bit| byte | u8::from(eight[bit]) << bit))
            .collect();
        self.allocator.load(region, &bits);
    }

    fn take(&mut self, placed: Option<Placed>, units: u32, align: u32) {
        let Some(Placed { run, .. }) = placed else {
            assert!(!self.fits(units, align), "full, but {units} units are free");
            return;
        };
        assert_eq!(run.units, units);
        assert!(self.allocator.holds(run), "{run:?} is in no region's data");
        assert!(self.of(run).iter().all(|used| !used), "two own {run:?}");
        self.of(run).fill(true);
        self.allocator.back(run);
        assert!(self.allocator.unbacked_of(run).is_empty());
        self.held.push(run);
    }

    /// Whether a free run of so many units stands at a multiple of `align` in some region's data.
    fn fits(&self, units: u32, align: u32) -> bool {
        let (units, align) = (units as usize, align as usize);
        (0..self.regions()).any(|region| {
            let free = &self.used[self.data(region)];
            let places = (0..=free.len().saturating_sub(units)).step_by(align);
            units <= free.len()
                && places
                    .into_iter()
                    .any(|at| free[at..at + units].iter().all(|used| !used))
        })
    }

    fn give(&mut self, run: Run) {
        self.of(run).fill(false);
        self.allocator.free(run);
    }

    fn any_held(&self, at: u16) -> Option<usize> {
        usize::from(at).checked_rem(self.held.len())
    }

    fn apply(&mut self, step: &Move) {
        match *step {
            Move::Node(order) => {
                let order = Order(order % 8);
                let placed = self.follow(|a| a.allocate_node(order));
                let units = order.units();
                if let Some(placed) = placed {
                    let (region, index) = self
                        .geometry
                        .region_of(placed.run.start)
                        .expect("in a region");
                    assert!(region < self.regions());
                    let past = index - self.geometry.region_reserved_units();
                    assert!(past.is_multiple_of(units), "{placed:?} is not aligned");
                }
                self.take(placed, units, units);
            }
            Move::NodeBacked(order) => {
                let order = Order(order % 8);
                if let Some(placed) = self.allocator.allocate_node_backed(order) {
                    assert_eq!(placed.unbacked, 0);
                    self.take(Some(placed), order.units(), 1);
                }
            }
            Move::Extent(units) => self.extent(u32::from(units) % 40 + 1),
            Move::Long(units) => self.extent(u32::from(units) % 300 + 1),
            Move::Free(at) => {
                if let Some(at) = self.any_held(at) {
                    let run = self.held.swap_remove(at);
                    self.give(run);
                }
            }
            Move::FreeHalf(at) => {
                if let Some(at) = self.any_held(at).filter(|&at| self.held[at].units > 1) {
                    let run = self.held[at];
                    let kept = run.units / 2;
                    self.held[at].units = kept;
                    self.give(Run {
                        start: dmerkle::BlockId(run.start.0 + u64::from(kept)),
                        units: run.units - kept,
                    });
                }
            }
            Move::FreeMany => {
                let held = std::mem::take(&mut self.held);
                for (index, run) in held.into_iter().enumerate() {
                    if index % 2 == 0 {
                        self.give(run);
                    } else {
                        self.held.push(run);
                    }
                }
            }
            Move::Mark(at) => {
                if let Some(at) = self.any_held(at) {
                    // It is in use already: saying so again changes nothing.
                    self.allocator.mark(self.held[at]);
                }
            }
            Move::Punch(units, doubtful) => {
                let units = u32::from(units) % 64 + 1;
                let kind = if doubtful {
                    Punchable::Doubtful
                } else {
                    Punchable::Backed
                };
                let claim = self.allocator.claim_punchable(kind, Bound::TOP, units, 128);
                if let Claim::Piece(run, _) = claim {
                    assert!(self.of(run).iter().all(|used| !used), "{run:?} is in use");
                    self.allocator.punched(run);
                }
            }
            Move::Reopen => self.reopen(),
        }
    }

    fn extent(&mut self, units: u32) {
        let placed = self.follow(|a| a.allocate_extent(units));
        self.take(placed, units, 1);
    }

    fn reopen(&mut self) {
        self.compare();
        self.mapped.clone_from(&self.used);
        let rows: Vec<_> = (0..self.regions())
            .map(|region| {
                let runs = free_runs(&self.used[self.data(region)]);
                let longest = runs.iter().map(|run| run.1).max().unwrap_or(0);
                let count = |units: usize| u32::try_from(units).expect("a region is small");
                RegionRow {
                    free: count(runs.iter().map(|run| run.1).sum()),
                    largest: count(longest),
                }
            })
            .collect();
        self.allocator = Allocator::new(self.geometry, &rows);
    }

    /// Loads everything and compares what is free.
    fn compare(&mut self) {
        for region in 0..self.regions() {
            if !self.allocator.is_loaded(region) {
                self.load(region);
            }
            let data = self.data(region);
            let expected = free_runs(&self.used[data.clone()]);
            let runs = self.allocator.free_runs(region).expect("it is loaded");
            let mut got: Vec<_> = runs
                .iter()
                .map(|run| (self.index(run.start.0) - data.start, run.units as usize))
                .collect();
            got.sort_unstable();
            // Blocks of a cluster are told one by one.
            got.dedup_by(|next, last| {
                let adjoins = last.0 + last.1 == next.0;
                if adjoins {
                    last.1 += next.1;
                }
                adjoins
            });
            assert_eq!(got, expected, "region {region}");
        }
        let free: usize = (0..self.regions())
            .map(|region| {
                self.used[self.data(region)]
                    .iter()
                    .filter(|used| !**used)
                    .count()
            })
            .sum();
        assert_eq!(self.allocator.free_units(), free as u64);
    }
}

/// Start and length of each free run.
fn free_runs(used: &[bool]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (at, _) in used.iter().enumerate().filter(|(_, used)| !**used) {
        match runs.last_mut() {
            Some((start, length)) if *start + *length == at => *length += 1,
            _ => runs.push((at, 1)),
        }
    }
    runs
}
