//! The checkpoint: makes the frozen memtable part of a new base, in steps.
//!
//! The order, each step whole before the next, in [`Checkpointer::step`]:
//! 1. freeze; flush the log up to there, so that the base never holds what is not durable;
//! 2. move medium parts to extents; apply to each tree, then empty dropped trees a little, then apply
//!    to the catalog: what is new goes into free units, never over live ones;
//! 3. maps and region table, into the copies that the durable superblock does not name, and only
//!    once a durable log block carries the last generation;
//! 4. flush; superblock into the other slot; flush: from here on a crash finds the new tree;
//! 5. publish; append the stamp: from there on there is no way back to the other slot;
//! 6. release what was retired, less what a reader may still see.
//!
//! Invariants:
//! - Until step 3 nothing has changed but free blocks: where space is lacking or a block cannot be
//!   read, they go back, the frozen memtable stays, and the next checkpoint tries again. From there
//!   on only writes and flushes are left, and one that fails poisons; so does a node's write before.
//! - An extent that a superseded operation names and the result does not is retired with it.

mod dropped;
mod ops;

use crate::core::{Core, Frozen};
use crate::error::Error;
use crate::ground::{CheckpointGround, NewNodes};
use crate::io::AlignedBuf;
use crate::medium::{Move, Moved};
use crate::memtable::Drain;
use crate::planted::{self, Bug};
use crate::state::{Base, State};
use dmerkle::format::catalog::{CatalogEntry, catalog_key};
use dmerkle::format::superblock::{RegionTableRef, Slot, Superblock};
use dmerkle::geometry::SUPERBLOCK_OFFSETS;
use dmerkle::tree::{Apply, Change, Op as TreeOp, Progress, Root, Settings};
use dmerkle::{BlockId, Generation, Geometry, Lsn, Run, TreeId};
use dropped::delete_op;
use ops::{Bytes, Ops};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a checkpoint took out of the tree, until the last reason to keep it is gone.
#[derive(Debug)]
pub(crate) struct Retired {
    pub(crate) generation: Generation,
    pub(crate) runs: Vec<Run>,
}

/// What becomes of a checkpoint's step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stepped {
    /// There is more to do.
    More,
    /// This generation is durable and stamped.
    Done(Generation),
}

/// The durable superblock, and the checkpoint under way.
pub(crate) struct Checkpointer {
    superblock: Superblock,
    slot: Slot,
    catalog: BTreeMap<TreeId, CatalogEntry>,
    /// Taken by a checkpoint that failed: the next one goes on with it.
    frozen: Option<Frozen>,
    /// Dropped trees that are damaged. Nobody misses what they hold: their space stays taken, what is
    /// pending of them is let go, and all others go on.
    given_up: BTreeSet<TreeId>,
    running: Option<Box<Running>>,
}

type Applying = Apply<Ops, Bytes, Bytes, AlignedBuf>;

enum Phase {
    Move,
    Trees,
    Truncate,
    Catalog,
    Maps,
    Superblock,
    Publish,
    Stamp,
}

struct Running {
    generation: Generation,
    frozen: Frozen,
    phase: Phase,
    /// Trees that are still to be applied to.
    todo: VecDeque<(TreeId, Ops)>,
    applying: Option<(TreeId, Applying)>,
    /// The new roots.
    trees: BTreeMap<TreeId, Root>,
    catalog_root: Root,
    /// The catalog as it will be.
    catalog: BTreeMap<TreeId, CatalogEntry>,
    /// Parts that came through the log.
    moved: Move,
    ground: NewNodes,
    /// Extents that the applied operations name.
    named: Vec<Run>,
    /// Runs of superseded operations.
    superseded: Vec<Run>,
    superblock: Option<Superblock>,
}

impl Checkpointer {
    pub(crate) fn new(
        superblock: Superblock,
        slot: Slot,
        catalog: BTreeMap<TreeId, CatalogEntry>,
    ) -> Self {
        Self {
            superblock,
            slot,
            catalog,
            frozen: None,
            given_up: BTreeSet::new(),
            running: None,
        }
    }

    /// Units of all trees' nodes.
    pub(crate) fn node_units(&self) -> u64 {
        self.superblock.node_units
    }

    /// The superblock that a crash would find now, and its slot.
    pub(crate) fn durable(&self) -> (&Superblock, Slot) {
        (&self.superblock, self.slot)
    }

    /// Whether a checkpoint is under way.
    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether the checkpoint under way has said what its roots reach, and has not ended.
    pub(crate) fn has_maps(&self) -> bool {
        self.running.as_ref().is_some_and(|running| {
            matches!(
                running.phase,
                Phase::Superblock | Phase::Publish | Phase::Stamp
            )
        })
    }

    /// What the checkpoint under way has placed and not published.
    pub(crate) fn placed(&self) -> impl Iterator<Item = &Run> {
        let running = self.running.iter();
        running
            .filter(|running| !matches!(running.phase, Phase::Stamp))
            .flat_map(|running| running.moved.placed.iter().chain(&running.ground.placed))
    }

    /// Does one step of the checkpoint, beginning one if none is under way.
    pub(crate) fn step(&mut self, core: &Arc<Core>) -> Result<Stepped, Error> {
        core.refuse_writes()?;
        let Some(running) = self.running.as_mut() else {
            self.begin(core)?;
            return Ok(Stepped::More);
        };
        let past_return = matches!(
            running.phase,
            Phase::Maps | Phase::Superblock | Phase::Publish | Phase::Stamp
        );
        match self.advance(core) {
            Ok(stepped) => Ok(stepped),
            Err(error) if past_return => Err(core.poison_write(&error)),
            Err(error @ Error::Poisoned { .. }) => Err(error),
            Err(error) => {
                let dropped = self.dropped_one(core).filter(|_| error.is_damage());
                self.abandon(core);
                // The next step begins anew, without that tree.
                self.given_up.insert(dropped.ok_or(error)?);
                Ok(Stepped::More)
            }
        }
    }

    fn begin(&mut self, core: &Arc<Core>) -> Result<(), Error> {
        let frozen = match self.frozen.take() {
            Some(frozen) => frozen,
            None => core.freeze(),
        };
        if planted::has(Bug::TailEarly) {
            core.queue.lock().tail = frozen.log_start;
        }
        let prepared = core
            .flush_log_to(frozen.newest)
            .and_then(|()| self.let_go(core, &frozen.memtable));
        let let_go = match prepared {
            Ok(let_go) => let_go,
            Err(error) => {
                self.frozen = Some(frozen);
                return Err(error);
            }
        };
        let geometry = &core.identity.geometry;
        let mut todo: VecDeque<(TreeId, Ops)> = VecDeque::new();
        let mut named = Vec::new();
        let table = &frozen.memtable;
        let mut superseded = let_go.unwrap_or_else(|| table.superseded());
        for place in table.places() {
            let tree = table.key(place).tree;
            if self.given_up.contains(&tree) {
                continue;
            }
            if todo.back().is_none_or(|(last, _)| *last != tree) {
                todo.push_back((tree, Ops::Frozen(Drain::new(table, tree), Moved::new())));
            }
            let mut versions = table.versions(place);
            named.extend(versions.next().into_iter().flat_map(|op| op.runs(geometry)));
            superseded.extend(versions.flat_map(|op| op.runs(geometry)));
        }
        let base = Arc::clone(&core.state.load().base);
        let moved = Move::new(table, self.given_up.clone());
        self.running = Some(Box::new(Running {
            generation: Generation(base.generation.0 + 1),
            frozen,
            phase: Phase::Move,
            todo,
            applying: None,
            trees: base.trees.clone(),
            catalog_root: base.catalog,
            catalog: self.catalog.clone(),
            moved,
            ground: NewNodes::default(),
            named,
            superseded,
            superblock: None,
        }));
        Ok(())
    }

    /// Gives the blocks of a failed checkpoint back; the frozen memtable waits for the next one.
    fn abandon(&mut self, core: &Core) {
        if let Some(mut running) = self.running.take() {
            running.ground.give_up(core);
            core.space.free(&running.moved.placed);
            core.space.free(&running.ground.placed);
            self.frozen = Some(running.frozen);
        }
    }

    fn advance(&mut self, core: &Arc<Core>) -> Result<Stepped, Error> {
        let running = self.running.as_mut().expect("the caller has begun it");
        match running.phase {
            Phase::Move => {
                if running.moved.step(core, &running.frozen.memtable)? {
                    running.hand_out_moved();
                    running.phase = Phase::Trees;
                }
            }
            Phase::Trees => {
                if running.apply_some(core)? {
                    running.note_changes();
                    // Once: what this checkpoint writes is not there to be read yet.
                    running.choose_truncations(core, &mut self.given_up)?;
                    running.phase = Phase::Truncate;
                }
            }
            Phase::Truncate => {
                if running.apply_some(core)? {
                    running.begin_catalog(&self.catalog);
                    running.phase = Phase::Catalog;
                }
            }
            Phase::Catalog => {
                if running.apply_some(core)? {
                    running.ground.flush(core)?;
                    running.know_maps(core)?;
                    running.phase = Phase::Maps;
                }
            }
            Phase::Maps => {
                core.stamp()?; // the copies written now are those of the generation before last
                let table = running.write_maps(core)?;
                let durable = core.queue.lock().flushed;
                if planted::has(Bug::StampEarly) {
                    core.queue.lock().stamp = running.generation;
                    core.queue.lock().push_stamp();
                    core.flush_log()?;
                }
                running.superblock = Some(Superblock {
                    generation: running.generation,
                    incarnation: core.identity.incarnation,
                    opening: core.identity.opening,
                    log_start: running.log_start(&core.identity.geometry),
                    cut: core.identity.cut,
                    durable: durable.max(running.frozen.log_start),
                    next_tree: core.directory.next_id(),
                    catalog: running.catalog_root.pointer,
                    catalog_summary: running.catalog_root.summary,
                    region_table: table,
                    earlier: Vec::new(), // the log starts behind the cut
                    node_units: running.node_units(self.superblock.node_units),
                    ..self.superblock.clone()
                });
                running.phase = Phase::Superblock;
            }
            Phase::Superblock => {
                if !planted::has(Bug::DropNodeFlush) {
                    core.disk
                        .flush()
                        .map_err(Error::io("flushing a checkpoint"))?;
                }
                // A flush of a leader's that failed meanwhile may have lost nodes and maps.
                core.refuse_writes()?;
                let superblock = running.superblock.take().expect("it was made before");
                let slot = next_slot(self.slot, running.generation);
                write_superblock(
                    core.disk.as_ref(),
                    &core.identity.geometry,
                    &superblock,
                    slot,
                )?;
                self.superblock = superblock;
                self.slot = slot;
                running.phase = Phase::Publish;
            }
            Phase::Publish => {
                running.moved.write_late(core)?;
                running.publish(core, self.superblock.node_units);
                self.catalog = std::mem::take(&mut running.catalog);
                running.phase = Phase::Stamp;
            }
            Phase::Stamp => {
                core.stamp()?;
                let generation = running.generation;
                self.running = None;
                core.counters.checkpoints.fetch_add(1, Ordering::Relaxed);
                core.report_checkpoint(None);
                core.expire_snapshots();
                core.release_retired();
                return Ok(Stepped::Done(generation));
            }
        }
        Ok(Stepped::More)
    }
}

impl Running {
    fn settings(&self, core: &Core, tree: TreeId) -> Settings {
        Settings {
            tree,
            geometry: core.identity.geometry,
            generation: self.generation,
            opening: core.identity.opening,
            key: core.identity.key.clone(),
        }
    }

    /// Where the log of everything newer than this checkpoint begins.
    fn log_start(&self, geometry: &Geometry) -> Lsn {
        let late = u64::from(planted::has(Bug::LogStartLate)) * u64::from(geometry.log_block_bytes);
        Lsn(self.frozen.log_start.0 + late)
    }

    /// Applies about a leaf's worth of what is to be done. `true` when nothing is left.
    fn apply_some(&mut self, core: &Arc<Core>) -> Result<bool, Error> {
        if self.applying.is_none() {
            let Some((tree, ops)) = self.todo.pop_front() else {
                return Ok(true);
            };
            let root = if tree == TreeId::CATALOG {
                self.catalog_root
            } else {
                self.trees.get(&tree).copied().unwrap_or(Root::EMPTY)
            };
            self.applying = Some((tree, Apply::new(self.settings(core, tree), root, ops)));
            self.ground.begin();
        }
        let (tree, apply) = self.applying.as_mut().expect("it was just set");
        let mut ground = CheckpointGround {
            core,
            tree: *tree,
            writes: &mut self.ground,
        };
        if let Progress::Done(applied) = apply.step(&mut ground)? {
            let mut root = applied.root;
            root.summary.count += u64::from(planted::has(Bug::CountWrong));
            if *tree == TreeId::CATALOG {
                self.catalog_root = root;
            } else {
                self.trees.insert(*tree, root);
            }
            self.applying = None;
        }
        Ok(false)
    }

    /// Gives each tree's operations the bodies that count instead.
    fn hand_out_moved(&mut self) {
        let mut all = std::mem::take(&mut self.moved.moved);
        for (tree, ops) in &mut self.todo {
            if let Ops::Frozen(_, moved) = ops {
                let table = &self.frozen.memtable;
                while let Some(one) = all.pop_front_if(|(at, _)| table.key(*at).tree == *tree) {
                    moved.push_back(one);
                }
            }
        }
    }

    /// Enters created and dropped trees into the catalog that will be.
    fn note_changes(&mut self) {
        for (tree, name) in &self.frozen.changes.created {
            let entry = CatalogEntry {
                name: name.clone(),
                root: Root::EMPTY.pointer,
                summary: Root::EMPTY.summary,
                dropped: false,
                created: self.generation,
            };
            self.catalog.insert(*tree, entry);
        }
    }

    /// Brings the catalog up to date with the new roots, and lists what changes in it.
    fn begin_catalog(&mut self, before: &BTreeMap<TreeId, CatalogEntry>) {
        for tree in &self.frozen.changes.dropped {
            if planted::has(Bug::DropForgotten) {
                break;
            }
            if let Some(entry) = self.catalog.get_mut(tree) {
                entry.dropped = true;
            }
        }
        for (tree, entry) in &mut self.catalog {
            let root = self.trees.get(tree).copied().unwrap_or(Root::EMPTY);
            entry.root = root.pointer;
            entry.summary = root.summary;
        }
        let emptied: Vec<TreeId> = self
            .catalog
            .iter()
            .filter(|(_, entry)| entry.dropped && entry.root.is_none())
            .map(|(tree, _)| *tree)
            .collect();
        for tree in emptied {
            self.catalog.remove(&tree);
            self.trees.remove(&tree);
        }
        let mut ops = Vec::new();
        let ids: BTreeSet<TreeId> = before.keys().chain(self.catalog.keys()).copied().collect();
        for tree in ids {
            let key = catalog_key(tree);
            match self.catalog.get(&tree) {
                Some(entry) if before.get(&tree) == Some(entry) => {}
                Some(entry) => ops.push(TreeOp {
                    key: Bytes::Own(key.to_vec()),
                    change: Change::Put(Bytes::Own(entry.to_body())),
                    fingerprint: None,
                }),
                None => ops.push(delete_op(key.to_vec())),
            }
        }
        if !ops.is_empty() {
            let ops = Ops::Listed(ops.into_iter());
            self.todo.push_back((TreeId::CATALOG, ops));
        }
    }

    /// Reads the maps that will change: the last reads of a checkpoint, while it can still end early.
    fn know_maps(&self, core: &Core) -> Result<(), Error> {
        let retired = self.retired();
        let reached = retired
            .iter()
            .filter(|(_, reached)| *reached)
            .map(|(run, _)| run);
        let moved = self.moved.reached();
        let placed = moved.chain(&self.ground.placed);
        let mut changed = placed.chain(&self.named).chain(reached);
        changed.try_for_each(|run| core.space.know_map(core.disk.as_ref(), *run))
    }

    /// Says what is reachable now, and writes that.
    fn write_maps(&mut self, core: &Core) -> Result<RegionTableRef, Error> {
        let disk = core.disk.as_ref();
        let placed = self.moved.reached().chain(&self.ground.placed);
        for run in placed.chain(&self.named) {
            core.space.reach(disk, *run)?;
        }
        for (run, reached) in self.retired() {
            core.space.retire(disk, run, reached)?;
            if planted::has(Bug::ReuseRetiredEarly) {
                core.space.release(&[run]);
            }
        }
        core.space.write_maps(disk, self.generation)
    }

    /// Every run that the new roots do not reach and something did before, once, and whether that
    /// something was the last base.
    fn retired(&self) -> Vec<(Run, bool)> {
        let named: HashSet<BlockId> = self.named.iter().map(|run| run.start).collect();
        let mut retired: BTreeMap<Run, bool> = BTreeMap::new();
        for run in &self.superseded {
            let kept = named.contains(&run.start) && !planted::has(Bug::RetireKept);
            if !kept && !planted::has(Bug::ForgetSuperseded) {
                retired.insert(*run, false);
            }
        }
        let extents = self.ground.retired_extents.iter().copied();
        retired.extend(
            self.ground
                .retired_blocks()
                .chain(extents)
                .map(|run| (run, true)),
        );
        retired.into_iter().collect()
    }

    /// Units of nodes that are new, and of those that they replace.
    fn changed_units(&self) -> (u64, u64) {
        let units = |run: Run| u64::from(run.units);
        let placed = self.ground.placed.iter().copied().map(units).sum();
        (placed, self.ground.retired_blocks().map(units).sum())
    }

    /// Units of all trees' nodes, after those that the last superblock counted.
    fn node_units(&self, before: u64) -> u64 {
        let (placed, retired) = self.changed_units();
        (before + placed).saturating_sub(retired)
    }

    /// Units of values that the new roots do not reach.
    fn retired_extent_units(&self) -> u64 {
        let runs = self.superseded.iter().chain(&self.ground.retired_extents);
        runs.map(|run| u64::from(run.units)).sum()
    }

    /// Shows the new base to readers. Its superblock is durable.
    fn publish(&mut self, core: &Arc<Core>, superblock_node_units: u64) {
        let base = Arc::new(Base::new(
            self.generation,
            self.frozen.newest,
            self.catalog_root,
            std::mem::take(&mut self.trees),
        ));
        let mut runs: Vec<Run> = self.retired().into_iter().map(|(run, _)| run).collect();
        if planted::has(Bug::ReuseRetiredEarly) {
            runs.clear();
        }
        core.node_units
            .store(superblock_node_units, Ordering::Relaxed);
        let usage = core.space.usage();
        // Of a region that is not loaded, units that only the log names count as free: what is
        // retired may be more than what is known to be allocated.
        let live = usage.allocated_bytes.saturating_sub(usage.retired_bytes);
        core.turnover.learn(
            self.frozen.memtable.extent_units() + self.moved.units(),
            self.retired_extent_units(),
            live / core.identity.geometry.unit(),
        );
        core.retired.lock().push_back(Retired {
            generation: self.generation,
            runs,
        });
        let mut queue = core.queue.lock();
        let state = core.state.load_full();
        let next = Arc::new(State {
            base,
            active: Arc::clone(&state.active),
            frozen: None,
        });
        core.registry.publish(&next);
        core.state.store(next);
        core.owed.settle();
        queue.stamp_next(self.generation, self.frozen.log_start);
        core.moved.notify_all();
        drop(queue);
        drop(state);
        let unit = core.identity.geometry.unit();
        let (placed, replaced) = self.changed_units();
        let ops_bytes = self.frozen.memtable.bytes();
        core.memory.learn(ops_bytes, replaced * unit, placed * unit);
        core.cache.hold(core.memory.cache_bytes());
        core.cache.forget(&self.ground.retired_nodes);
    }
}

/// The slot that the next superblock goes to: never the one that holds the newest.
pub(crate) fn next_slot(newest: Slot, generation: Generation) -> Slot {
    if planted::has(Bug::SlotByParity) {
        return if generation.0.is_multiple_of(2) {
            Slot::A
        } else {
            Slot::B
        };
    }
    newest.other()
}

/// Writes both copies of a slot and flushes: from here on a crash finds this superblock.
pub(crate) fn write_superblock(
    disk: &dyn crate::io::Disk,
    geometry: &Geometry,
    superblock: &Superblock,
    slot: Slot,
) -> Result<(), Error> {
    let encoded = superblock.encode(slot);
    let mut block = AlignedBuf::zeroed(geometry.log_block_bytes as usize);
    block[..encoded.len()].copy_from_slice(&encoded);
    for copy in slot.copies() {
        disk.write(SUPERBLOCK_OFFSETS[copy], &block)
            .map_err(Error::io("writing a superblock"))?;
    }
    if planted::has(Bug::DropSuperblockFlush) {
        return Ok(());
    }
    disk.flush().map_err(Error::io("flushing a superblock"))
}

impl Core {
    /// Checkpoints in the caller's thread until everything that has joined before is in the base.
    /// One that is under way already may have begun too early, and then another follows.
    pub(crate) fn checkpoint_now(self: &Arc<Self>) -> Result<Generation, Error> {
        let wanted = self.queue.lock().issued;
        let _telling = self.telling(); // dropped behind the lock
        let mut checkpointer = self.checkpointer.lock();
        loop {
            if let Stepped::Done(generation) = checkpointer.step(self)?
                && self.state.load().base.newest >= wanted
            {
                return Ok(generation);
            }
        }
    }

    /// A planted fault: gives runs back to the file system at once. (To free them would hardly
    /// show: extents are not given what nodes had, and what an old base's extents held is
    /// superseded in its log, too.)
    fn give_back(&self, runs: &[Run]) {
        let geometry = &self.identity.geometry;
        for run in runs {
            let bytes = u64::from(run.units) * geometry.unit();
            let _ = self.disk.punch(geometry.offset_of(run.start), bytes);
        }
    }

    /// Frees what was retired, as far as a durable log block carries the generation that retired
    /// it and nobody reads an older base.
    pub(crate) fn release_retired(&self) {
        let stamped = self.queue.lock().stamped;
        let oldest = self.registry.oldest_base();
        let mut retired = self.retired.lock();
        while let Some(front) = retired.front()
            && front.generation <= stamped
            && (front.generation <= oldest || planted::has(Bug::ReleaseWhileRead))
        {
            let front = retired.pop_front().expect("it is there");
            if front.generation > oldest {
                self.give_back(&front.runs); // a planted fault
            }
            self.space.release(&front.runs);
        }
    }
}
