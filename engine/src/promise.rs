//! The promise: how many units a checkpoint of everything pending may need.
//!
//! A batch is admitted only while so many free units are backed, so that a full disk refuses a put and
//! never a checkpoint. Too much is promised rather than too little. What one operation can make a
//! checkpoint write:
//! - its leaf, the neighbour that joins it because that saves blocks, and the third leaf that comes of
//!   two: two blocks and a unit;
//! - at each level above, the branch over it and the one that is split off;
//! - once per changed tree the same in the catalog.
//!
//! Together it is no more than all leaves, which take up to a fifteenth more when they are cut anew
//! (tried on patterns by hand, not proved), and the branches that can stand above them. What is new
//! comes on top, with room as leaves are filled.
//!
//! Three things are not covered. Trees that are created and dropped count for nothing but a path of
//! the catalog. Leaves of more than the ordinary order are rewritten whole for an operation beside
//! their one entry. And where entries of more than a sixteenth of a leaf lie, joining two leaves may
//! give three full ones.

use dmerkle::Geometry;

/// What is pending.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    /// Operations, and their bytes.
    pub(crate) ops: u64,
    pub(crate) bytes: u64,
    /// Units that medium parts will be moved to.
    pub(crate) owed_units: u64,
    /// Units of all nodes of the base, and how many trees there are.
    pub(crate) node_units: u64,
    pub(crate) trees: u64,
}

/// Units that a checkpoint of it may need.
pub(crate) fn units(geometry: &Geometry, pending: &Pending) -> u64 {
    let nodes = pending.node_units;
    // A branch is split no further than to three eighths of its block: 64 children of 16 KiB, with
    // separators of up to 95 bytes.
    let fanout = (u64::from(geometry.fanout_max) * 3 / 8).clamp(2, 64);
    let levels = u64::from(nodes.max(1).ilog2() / fanout.ilog2()) + 1;
    let leaf = (2 << geometry.leaf_order) + 1;
    let branch = 2 << geometry.branch_order;
    let paths = pending.ops + pending.ops.min(pending.trees);
    let leaves = (paths * leaf).min(nodes + nodes / 15);
    let most = branch * (nodes / (fanout - 1) + levels);
    let branches = (paths * levels * branch).min(most);
    let added = 2 * geometry.units_for(pending.bytes);
    // The catalog's own path, and that of a dropped tree which is emptied.
    let always = 2 * (leaf + levels * branch);
    leaves + branches + added + added / 16 + pending.owed_units + always
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was counted by hand of trees of packed leaves, of small entries (124 a leaf, 196 children a
    /// branch): units that the operations write, whatever the promise says.
    #[test]
    fn scattered_inserts_into_a_packed_tree_are_promised_what_they_split() {
        // Operations, units of nodes, units needed.
        for (ops, node_units, needed) in [
            // Leaf, two levels of branches and the root are full: all split, and the catalog's leaf.
            (1, 4 * 38_600, 5 + 8 + 8 + 1 + 1),
            // The same with a level more.
            (1, 4 * 7_600_000, 5 + 8 + 8 + 8 + 1 + 1),
            // 200 of 412 lowest branches, with a clean one between, three above.
            (200, 4 * 81_060, 200 * 5 + 200 * 8 + 16 + 1 + 1),
            // Every second of 8065 leaves.
            (4000, 4 * 8_108, 20_000 + 62 * 4 + 2 + 1),
        ] {
            let pending = Pending {
                ops,
                bytes: 230 * ops,
                owed_units: 0,
                node_units,
                trees: 1,
            };
            let promised = units(&Geometry::default(), &pending);
            assert!(promised >= needed, "{promised} of {needed} for {pending:?}");
        }
    }

    /// A store that writes everywhere at once is promised little more than its nodes once more.
    #[test]
    fn no_more_is_promised_than_the_nodes_and_what_is_new() {
        let pending = Pending {
            ops: 1_000_000,
            bytes: 0,
            owed_units: 0,
            node_units: 100_000,
            trees: 1,
        };
        let promised = units(&Geometry::default(), &pending);
        assert!(promised < 120_000, "{promised}");
    }
}
