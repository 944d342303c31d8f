//! What must hold of every open store, whatever is in it: for the crash tests, which ask after
//! every reopening.
//!
//! - Every tree and the catalog pass [`Check`]: counts and sums are made again from the entries.
//! - The maps name exactly the units that the base reaches.
//! - The allocator has in use exactly what the base reaches, what waits to be released, what the
//!   live log names and what a running checkpoint has placed, and no unit has two owners.
//!
//! The caller sees to it that nothing else is being written meanwhile.

use crate::cache::CachedNode;
use crate::core::Core;
use crate::error::Error;
use crate::io::AlignedBuf;
use crate::state::State;
use crate::store::Store;
use dmerkle::check::Check;
use dmerkle::format::pointer::Pointer;
use dmerkle::tree::Source;
use dmerkle::{Run, TreeId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Reads nodes as any reader does.
struct Nodes<'a>(&'a Core);

impl Source for Nodes<'_> {
    type Bytes = AlignedBuf;
    type Error = Error;

    fn node(&mut self, tree: TreeId, pointer: &Pointer) -> Result<Arc<CachedNode>, Error> {
        self.0.node(tree, pointer)
    }
}

/// Why units are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Reached,
    Logged,
    Retired,
    Placed,
}

impl Store {
    /// Names the first broken invariant.
    #[doc(hidden)]
    pub fn audit_owners(&self) -> Result<(), String> {
        let core = self.core();
        let checkpointer = core.checkpointer.lock();
        let state = core.state.load_full();
        let reached = walk(core, &state)?;
        let retired: Vec<Run> = {
            let retired = core.retired.lock();
            let runs = retired.iter().flat_map(|retired| retired.runs.iter());
            runs.copied().collect()
        };
        let mut owners: BTreeSet<(Run, Owner)> = BTreeSet::new();
        owners.extend(reached.iter().map(|run| (*run, Owner::Reached)));
        for run in &retired {
            if !owners.insert((*run, Owner::Retired)) {
                return Err(format!("{run:?} is retired twice"));
            }
        }
        for run in checkpointer.placed() {
            if !owners.insert((*run, Owner::Placed)) {
                return Err(format!("{run:?} is placed twice"));
            }
        }
        for table in state.memtables() {
            let newer = table.places().flat_map(|place| table.versions(place));
            let geometry = &core.identity.geometry;
            let named = newer.flat_map(|op| op.runs(geometry).collect::<Vec<_>>());
            owners.extend(named.map(|run| (run, Owner::Logged)));
            owners.extend(
                table
                    .superseded()
                    .into_iter()
                    .map(|run| (run, Owner::Logged)),
            );
        }
        let used = disjoint(&owners)?;
        if !checkpointer.has_maps() {
            core.space.audit_reachable(core.disk.as_ref(), &reached)?;
            let waiting: u64 = retired.iter().map(|run| u64::from(run.units)).sum();
            core.space.audit_retired(waiting)?;
        }
        core.space.audit_used(core.disk.as_ref(), &used)
    }
}

/// Every run that the base reaches, ascending.
fn walk(core: &Arc<Core>, state: &State) -> Result<Vec<Run>, String> {
    let base = &state.base;
    let mut reached = Vec::new();
    let mut visit = |_, named: dmerkle::check::Named| reached.push(named.run());
    let identity = &core.identity;
    let mut check = Check::new(identity.geometry, identity.key.clone(), &mut visit);
    check.tree(
        &mut Nodes(core),
        TreeId::CATALOG,
        &base.catalog,
        base.generation,
    );
    for (tree, root) in &base.trees {
        check.tree(&mut Nodes(core), *tree, root, base.generation);
    }
    if let Some(violation) = check.finish().violations.first() {
        return Err(violation.to_string());
    }
    reached.sort_unstable();
    Ok(reached)
}

/// The owned runs, each once; an error if units have two owners. What the log names may be
/// reached too, if a newer entry keeps a part.
fn disjoint(owners: &BTreeSet<(Run, Owner)>) -> Result<Vec<Run>, String> {
    let mut used: Vec<(Run, Owner)> = Vec::with_capacity(owners.len());
    for &(run, owner) in owners {
        match used.last() {
            Some((last, Owner::Reached)) if *last == run && owner == Owner::Logged => {}
            Some((last, other)) if last.end() > run.start.0 => {
                return Err(format!(
                    "units with two owners: {last:?} is {other:?}, {run:?} is {owner:?}"
                ));
            }
            _ => used.push((run, owner)),
        }
    }
    Ok(used.into_iter().map(|(run, _)| run).collect())
}
