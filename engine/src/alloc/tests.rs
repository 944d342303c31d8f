//! Goal: the allocator never hands out a unit twice, forgets none, and tells what is free and
//! backed exactly as a plain list of units would. Method: random operations on shrunken regions
//! against such a list, with regions loaded late, from older or newer maps.

use super::*;
use proptest::prelude::*;

/// What a unit is to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unit {
    used: bool,
    backed: bool,
    /// It was punched: it has no space of the file for sure.
    hole: bool,
}

const FRESH: Unit = Unit {
    used: false,
    backed: false,
    hole: false,
};
const WRITTEN: Unit = Unit {
    used: true,
    backed: true,
    hole: false,
};

#[derive(Debug, Clone)]
enum Step {
    Node(u8),
    NodeBacked(u8),
    Extent(u32),
    ExtentBacked(u32),
    /// So many units, or some more.
    Room(u32, u32),
    /// Of the runs that are held, the one at this place (modulo their number).
    Free(usize),
    /// Half of a held run first, then, perhaps much later, the rest.
    FreeHalf(usize),
    Mark(u64, u32),
    Retire(usize),
    /// A held run leaves the maps from which regions are loaded, as a checkpoint makes it.
    Unreach(usize),
    Back(u64, u32),
    BackNext(u32),
    Punch(u32, bool),
    /// Clusters end; what their nodes have stays.
    Dissolve,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..5).prop_map(Step::Node),
        1 => (0u8..8).prop_map(Step::Node),
        1 => (0u8..4).prop_map(Step::NodeBacked),
        6 => (1u32..40).prop_map(Step::Extent),
        1 => (1u32..300).prop_map(Step::Extent),
        1 => (1u32..20).prop_map(Step::ExtentBacked),
        4 => (1u32..5, 0u32..40).prop_map(|(least, more)| Step::Room(least, least + more)),
        9 => any::<usize>().prop_map(Step::Free),
        2 => any::<usize>().prop_map(Step::FreeHalf),
        1 => (any::<u64>(), 1u32..20).prop_map(|(at, units)| Step::Mark(at, units)),
        1 => any::<usize>().prop_map(Step::Retire),
        2 => any::<usize>().prop_map(Step::Unreach),
        1 => (any::<u64>(), 1u32..100).prop_map(|(at, units)| Step::Back(at, units)),
        1 => (1u32..100).prop_map(Step::BackNext),
        2 => (1u32..40, any::<bool>()).prop_map(|(units, backed)| Step::Punch(units, backed)),
        1 => Just(Step::Dissolve),
        1 => Just(Step::Reopen),
    ]
}

struct World {
    geometry: Geometry,
    allocator: Allocator,
    units: Vec<Unit>,
    /// What the maps on disk say.
    maps: Vec<Vec<u8>>,
    held: Vec<Run>,
}

impl World {
    fn new(regions_max: u32) -> Self {
        let geometry = Geometry {
            regions_max,
            ..Geometry::tiny()
        };
        Self {
            geometry,
            allocator: Allocator::new(geometry, &[]),
            units: Vec::new(),
            maps: Vec::new(),
            held: Vec::new(),
        }
    }

    fn index(&self, unit: u64) -> usize {
        usize::try_from(unit - self.geometry.data_start().0).unwrap()
    }

    fn of(&mut self, run: Run) -> &mut [Unit] {
        let (start, end) = (self.index(run.start.0), self.index(run.end()));
        &mut self.units[start..end]
    }

    /// The data units of a region.
    fn data(&self, region: u32) -> Span {
        self.allocator.data(region)
    }

    /// Some run within the data of one region.
    fn any_run(&self, at: u64, units: u32) -> Option<Run> {
        let regions = u64::from(self.allocator.region_count());
        let region = u32::try_from(at.checked_rem(regions)?).unwrap();
        let data = self.data(region);
        let start = data.start + at / 7 % data.len();
        Some(Span::new(start, data.end.min(start + u64::from(units))).run())
    }

    fn any_held(&self, at: usize) -> Option<usize> {
        at.checked_rem(self.held.len())
    }

    fn follow<T>(
        &mut self,
        mut ask: impl FnMut(&mut Allocator) -> Result<T, Shortage>,
    ) -> Option<T> {
        loop {
            match ask(&mut self.allocator) {
                Ok(answer) => return Some(answer),
                Err(Shortage::Load(region)) => self.load(region),
                Err(Shortage::Grow) => {
                    let region = self.allocator.add_region();
                    assert_eq!(region as usize, self.maps.len());
                    let units = self.geometry.region_units as usize;
                    self.units.resize(self.units.len() + units, FRESH);
                    self.maps.push(vec![0; units / 8]);
                }
                Err(Shortage::Full) => return None,
            }
        }
    }

    fn load(&mut self, region: u32) {
        assert!(!self.allocator.region(region).loaded);
        let bound = self.allocator.region(region);
        let bits = self.maps[region as usize].clone();
        self.allocator.load(region, &bits);
        let now = self.allocator.region(region);
        assert!(now.free <= bound.free && now.largest <= bound.largest);
        // The file system is asked afresh for what was free at opening.
        let free = self
            .allocator
            .unbacked
            .pieces(self.data(region))
            .collect::<Vec<_>>();
        for span in free {
            for unit in self.of(span.run()) {
                assert!(!unit.used);
                unit.backed = false;
            }
        }
    }

    fn take(&mut self, placed: Placed) {
        let units = self.of(placed.run);
        assert!(
            units.iter().all(|unit| !unit.used),
            "{placed:?} has two owners"
        );
        let unbacked = units.iter().filter(|unit| !unit.backed).count();
        units.fill(WRITTEN);
        assert_eq!(unbacked, placed.unbacked as usize);
        let to_back = self.allocator.unbacked_of(placed.run);
        assert_eq!(
            unbacked,
            to_back.iter().map(|run| run.units as usize).sum::<usize>()
        );
        self.allocator.back(placed.run);
        self.held.push(placed.run);
    }

    fn give(&mut self, run: Run) {
        assert!(self.of(run).iter().all(|unit| unit.used));
        self.of(run).iter_mut().for_each(|unit| unit.used = false);
        self.allocator.free(run);
    }

    fn note_on_maps(&mut self, run: Run, to: bool) {
        let (region, index) = self.geometry.region_of(run.start).unwrap();
        for index in index..index + run.units {
            let byte = &mut self.maps[region as usize][index as usize / 8];
            *byte = *byte & !(1 << (index % 8)) | u8::from(to) << (index % 8);
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Node(order) => {
                if let Some(placed) = self.follow(|a| a.allocate_node(Order(order))) {
                    self.check_alignment(placed.run, order);
                    self.take(placed);
                } else {
                    self.check_full(1 << order, 1 << order);
                }
            }
            Step::NodeBacked(order) => {
                if let Some(placed) = self.allocator.allocate_node_backed(Order(order)) {
                    self.check_alignment(placed.run, order);
                    assert_eq!(placed.unbacked, 0);
                    self.take(placed);
                }
            }
            Step::Extent(units) => {
                if let Some(placed) = self.follow(|a| a.allocate_extent(units)) {
                    assert_eq!(placed.run.units, units);
                    self.take(placed);
                } else {
                    self.check_full(units, 1);
                }
            }
            Step::ExtentBacked(units) => {
                if let Some(placed) = self.allocator.allocate_extent_backed(units) {
                    assert_eq!((placed.run.units, placed.unbacked), (units, 0));
                    self.take(placed);
                }
            }
            Step::Room(least, most) => {
                if let Some(placed) = self.follow(|a| a.allocate_room(least, most)) {
                    assert!((least..=most).contains(&placed.run.units));
                    self.take(placed);
                } else {
                    self.check_full(least, 1);
                }
            }
            Step::Free(at) => {
                if let Some(at) = self.any_held(at) {
                    let run = self.held.swap_remove(at);
                    self.give(run);
                }
            }
            Step::FreeHalf(at) => {
                if let Some(at) = self.any_held(at).filter(|&at| self.held[at].units > 1) {
                    let span = Span::of(self.held[at]);
                    let middle = u64::midpoint(span.start, span.end);
                    self.held[at] = Span::new(span.start, middle).run();
                    self.give(Span::new(middle, span.end).run());
                }
            }
            Step::Mark(at, units) => {
                if let Some(run) = self.any_run(at, units) {
                    self.allocator.mark(run);
                    for unit in run.start.0..run.end() {
                        let one = Span::at(unit, 1).run();
                        if !self.of(one)[0].used {
                            self.of(one)[0] = WRITTEN;
                            self.held.push(one);
                        }
                    }
                }
            }
            Step::Retire(at) => {
                if let Some(at) = self.any_held(at) {
                    self.allocator.retire(self.held[at]);
                }
            }
            Step::Unreach(at) => {
                if let Some(at) = self.any_held(at) {
                    let run = self.held[at];
                    self.allocator.retire(run);
                    self.note_on_maps(run, false);
                }
            }
            Step::Back(at, units) => {
                if let Some(run) = self.any_run(at, units) {
                    self.back(run);
                }
            }
            Step::BackNext(units) => {
                let ask = |a: &mut Allocator| a.unbacked_next(units);
                for run in self.follow(ask).into_iter().flatten() {
                    assert!(self.of(run).iter().all(|unit| !unit.used && !unit.backed));
                    self.back(run);
                }
            }
            Step::Punch(units, true) => self.punch(units, Punchable::Backed),
            Step::Punch(units, false) => self.punch(units, Punchable::Doubtful),
            Step::Dissolve => {
                self.allocator.dissolve_clusters();
            }
            Step::Reopen => self.reopen(),
        }
    }

    fn back(&mut self, run: Run) {
        let (region, _) = self.geometry.region_of(run.start).unwrap();
        self.allocator.back(run);
        if self.allocator.region(region).loaded {
            for unit in self.of(run) {
                unit.backed = true;
                unit.hole = false;
            }
        }
    }

    /// Finds the next piece to punch, or that there is none.
    fn punch(&mut self, units: u32, kind: Punchable) {
        let wanted = |unit: &Unit| match kind {
            Punchable::Backed => unit.backed,
            Punchable::Doubtful => !unit.backed && !unit.hole,
        };
        let mut below = Bound::TOP;
        loop {
            match self
                .allocator
                .claim_punchable(kind, below, units, units + 5)
            {
                Claim::Piece(run, _) => {
                    assert!(run.units <= units + 5);
                    assert!(self.of(run).iter().all(|unit| !unit.used && wanted(unit)));
                    self.allocator.punched(run);
                    self.of(run).fill(Unit {
                        hole: true,
                        ..FRESH
                    });
                    return;
                }
                Claim::Below(next) => below = next,
                Claim::None => break,
            }
        }
        let runs: Vec<Run> = self.allocator.free.at_least(units).map(Span::run).collect();
        for run in runs {
            assert!(!self.of(run).iter().any(wanted), "{run:?} was overlooked");
        }
    }

    /// Opens again: held runs are reachable, all but some, which the log names.
    fn reopen(&mut self) {
        let mut named = Vec::new();
        for map in &mut self.maps {
            map.fill(0);
        }
        for (at, run) in self.held.clone().into_iter().enumerate() {
            if at % 5 > 0 {
                self.note_on_maps(run, true);
            }
            if at % 5 < 2 {
                named.push(run);
            }
        }
        let reserved = self.geometry.region_reserved_units();
        let indices = reserved..self.geometry.region_units;
        let rows: Vec<RegionRow> = self
            .maps
            .iter()
            .map(|map| {
                let runs = bits::zero_runs(map, indices.clone());
                let (free, largest) = runs.fold((0, 0), |(sum, max), (_, n)| (sum + n, max.max(n)));
                RegionRow { free, largest }
            })
            .collect();
        self.allocator = Allocator::new(self.geometry, &rows);
        for unit in &mut self.units {
            unit.backed = unit.used;
            unit.hole = false;
        }
        for run in named {
            self.allocator.mark(run);
        }
    }

    fn check_alignment(&self, run: Run, order: u8) {
        let (region, _) = self.geometry.region_of(run.start).unwrap();
        assert_eq!(run.units, 1 << order);
        assert_eq!((run.start.0 - self.data(region).start) % (1 << order), 0);
    }

    /// That no region has a free run of `units` that is aligned so.
    fn check_full(&self, units: u32, align: usize) {
        for region in 0..self.geometry.regions_max {
            let data = self.data(region);
            for start in (data.start..=data.end.saturating_sub(units.into())).step_by(align) {
                let run = self.index(start)..self.index(start) + units as usize;
                assert!(
                    self.units[run].iter().any(|unit| unit.used),
                    "{units} units are free at {start}"
                );
            }
        }
    }

    fn check(&self) {
        self.allocator.free.verify();
        self.allocator.clusters.verify();
        let mut backed_free = 0;
        let mut high_water = self.geometry.data_start().0;
        let mut all_loaded = true;
        for region in 0..self.allocator.region_count() {
            let stats = self.allocator.region(region);
            all_loaded &= stats.loaded;
            let data = self.data(region);
            let Some(runs) = self.allocator.free_runs(region) else {
                continue;
            };
            let mut free = vec![false; self.units.len()];
            for run in runs {
                free[self.index(run.start.0)..self.index(run.end())].fill(true);
            }
            for unit in data.start..data.end {
                let (index, model) = (self.index(unit), self.units[self.index(unit)]);
                assert_eq!(free[index], !model.used, "unit {unit}: {model:?}");
                let unbacked = self.allocator.unbacked.overlap(Span::at(unit, 1)) > 0;
                assert_eq!(unbacked, !model.backed, "unit {unit}: {model:?}");
                backed_free += u64::from(!model.used && model.backed);
                if model.used {
                    high_water = unit + 1;
                }
            }
            let free = free.iter().filter(|&&free| free).count();
            assert_eq!(stats.free as usize, free);
        }
        assert_eq!(self.allocator.backed_free_units(), backed_free);
        assert!(self.allocator.high_water().0 >= high_water);
        if all_loaded {
            let free: u32 = (0..self.allocator.region_count())
                .map(|region| self.allocator.region(region).free)
                .sum();
            assert_eq!(self.allocator.free_units(), u64::from(free));
        }
    }
}

proptest! {
    #[test]
    fn no_unit_has_two_owners_and_none_is_lost(
        regions_max in 1u32..5,
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(regions_max);
        for step in &steps {
            world.apply(step);
            world.check();
        }
        for run in std::mem::take(&mut world.held) {
            world.give(run);
        }
        for region in 0..world.allocator.region_count() {
            if !world.allocator.region(region).loaded {
                world.load(region);
            }
            let whole = world.data(region).run();
            prop_assert_eq!(world.allocator.free_runs(region), Some(vec![whole]));
            prop_assert_eq!(world.allocator.region(region).largest, whole.units);
        }
        world.check();
        prop_assert_eq!(world.allocator.high_water(), world.geometry.data_start());
    }
}

fn tiny_with(regions: u32) -> Allocator {
    let mut allocator = Allocator::new(Geometry::tiny(), &[]);
    for _ in 0..regions {
        allocator.add_region();
    }
    allocator
}

#[test]
#[should_panic(expected = "are given back")]
fn giving_back_an_extent_twice_is_refused() {
    let mut allocator = tiny_with(1);
    let run = allocator.allocate_extent(3).unwrap().run;
    allocator.free(run);
    allocator.free(run);
}

#[test]
#[should_panic(expected = "are given back")]
fn giving_back_a_node_twice_is_refused() {
    let mut allocator = tiny_with(1);
    let run = allocator.allocate_node(Order(1)).unwrap().run;
    allocator.allocate_node(Order(1)).unwrap();
    allocator.free(run);
    allocator.free(run);
}

#[test]
#[should_panic(expected = "are given back")]
fn giving_back_twice_in_an_unloaded_region_is_refused() {
    let row = RegionRow {
        free: 0,
        largest: 0,
    };
    let mut allocator = Allocator::new(Geometry::tiny(), &[row]);
    let run = allocator.data(0).run();
    allocator.free(run);
    allocator.free(run);
}

#[test]
#[should_panic(expected = "are retired, but")]
fn retiring_what_is_free_is_refused() {
    let mut allocator = tiny_with(1);
    let run = allocator.data(0).run();
    allocator.retire(run);
}

#[test]
#[should_panic(expected = "is not within the data of one region")]
fn the_map_copies_are_nobodys() {
    let geometry = Geometry::tiny();
    let mut allocator = tiny_with(1);
    allocator.mark(Run {
        start: geometry.region_start(0),
        units: 1,
    });
}

#[test]
fn a_run_from_a_damaged_log_is_told_from_a_good_one() {
    let allocator = tiny_with(2);
    let data = allocator.data(1);
    assert!(allocator.holds(data.run()));
    let bad = [
        (0, 1),
        (data.start - 1, 2),
        (data.start, 0),
        (data.end - 1, 2),
    ];
    for (start, units) in bad
        .into_iter()
        .chain([(data.start + 256, 1), (u64::MAX, u32::MAX)])
    {
        let start = BlockId(start);
        assert!(!allocator.holds(Run { start, units }), "{start} {units}");
    }
}

#[test]
fn nodes_stand_together() {
    let mut allocator = tiny_with(1);
    let mut nodes = Vec::new();
    for _ in 0..6 {
        nodes.push(allocator.allocate_node(Order(0)).unwrap().run);
        allocator.allocate_extent(5).unwrap();
    }
    let starts = nodes.iter().map(|run| run.start.0);
    let (low, high) = (starts.clone().min().unwrap(), starts.max().unwrap());
    assert_eq!(high - low, 5);
}

#[test]
fn an_unloaded_region_is_asked_before_the_end_of_a_loaded_one() {
    let geometry = Geometry::tiny();
    let rows = [10, 0, 254].map(|free| RegionRow {
        free,
        largest: free,
    });
    let mut allocator = Allocator::new(geometry, &rows);
    assert_eq!(allocator.allocate_extent(4), Err(Shortage::Load(0)));
    let mut bits = vec![0xFF; 32];
    bits[4] = 0;
    allocator.load(0, &bits);
    let low = allocator.allocate_extent(4).unwrap().run;
    assert_eq!(low.start.0, geometry.region_start(0).0 + 32);
    let high = allocator.allocate_extent(11).unwrap().run;
    assert_eq!(high.start, BlockId(allocator.data(2).start));
}

#[test]
fn a_full_store_says_so_and_recovers() {
    let geometry = Geometry {
        regions_max: 1,
        ..Geometry::tiny()
    };
    let mut allocator = Allocator::new(geometry, &[]);
    assert_eq!(allocator.allocate_extent(1), Err(Shortage::Grow));
    allocator.add_region();
    assert_eq!(allocator.allocate_extent(255), Err(Shortage::Full));
    assert_eq!(allocator.allocate_node(Order(8)), Err(Shortage::Full));
    let node = allocator.allocate_node(Order(0)).unwrap().run;
    // All but the node, the rest of its cluster included.
    let all = allocator.allocate_extent(253).unwrap().run;
    assert_eq!(all.start.0, node.end());
    assert_eq!(allocator.allocate_node(Order(0)), Err(Shortage::Full));
    allocator.free(all);
    allocator.free(node);
    assert_eq!(allocator.largest_run(), 254);
}

#[test]
fn maps_say_what_was_set_and_refuse_what_they_cannot_say() {
    let geometry = Geometry::tiny();
    let mut reachable = Reachable::new(geometry, &[]);
    reachable.add_region();
    reachable.add_region();
    let run = Span::at(geometry.region_start(1).0 + 10, 20).run();
    assert_eq!(reachable.needs(run), None);
    assert_eq!(reachable.is_reachable(run), Some(false));
    reachable.set(run);
    assert_eq!(reachable.is_reachable(run), Some(true));
    assert_eq!(reachable.dirty_regions().collect::<Vec<_>>(), [1]);
    assert_eq!(reachable.units(), 20);
    let row = reachable.row(1);
    assert_eq!(
        row,
        RegionRow {
            free: 234,
            largest: 226
        }
    );
    let bits = reachable.bits(1).unwrap().to_vec();
    reachable.written(1);
    reachable.forget_clean();
    assert_eq!(reachable.needs(run), Some(1));
    assert_eq!(reachable.units(), 20);

    let mut wrong = bits.clone();
    wrong[31] = 0x80;
    assert!(reachable.load(1, &wrong).is_err());
    wrong = bits.clone();
    wrong[0] = 1;
    assert!(reachable.load(1, &wrong).is_err());
    assert!(reachable.load(1, &bits[..31]).is_err());
    reachable.load(1, &bits).unwrap();
    assert_eq!(reachable.row(1), row);
    reachable.clear(run);
    assert_eq!(reachable.row(1).free, 254);
}

#[test]
#[should_panic(expected = "unit 301 is reachable already")]
fn what_is_reachable_does_not_become_so_twice() {
    let geometry = Geometry::tiny();
    let mut reachable = Reachable::new(geometry, &[]);
    reachable.add_region();
    reachable.set(Span::at(301, 4).run());
    reachable.set(Span::at(300, 4).run());
}
