//! Contents of one tree, as it stands under its root.

use super::{Contents, Entries};
use crate::fingerprint::FingerprintKey;
use crate::tree::cursor::Direction;
use crate::tree::{Cursor, Range, RangeSummary, Root, Source, Split};
use crate::types::{Sum, Summary, TreeId};

/// Leaves that are announced ahead of the one that is read.
const AHEAD: usize = 16;

/// A tree, read through `source`; newer entries elsewhere are not seen.
#[derive(Debug)]
pub struct TreeContents<'a, S> {
    source: &'a mut S,
    tree: TreeId,
    root: Root,
    key: FingerprintKey,
}

impl<'a, S: Source> TreeContents<'a, S> {
    /// The tree of `root`, whose sums were made under `key`.
    pub fn new(source: &'a mut S, tree: TreeId, root: Root, key: FingerprintKey) -> Self {
        Self {
            source,
            tree,
            root,
            key,
        }
    }
}

impl<S: Source> Contents for TreeContents<'_, S> {
    type Error = S::Error;

    fn key_id(&self) -> u64 {
        self.key.id()
    }

    fn summary(&mut self, low: &[u8], high: Option<&[u8]>) -> Result<Summary, S::Error> {
        RangeSummary::new(self.key.clone(), &self.root, Range::new(low, high))
            .run(self.source, self.tree)
    }

    fn summaries(
        &mut self,
        low: &[u8],
        cuts: &[Vec<u8>],
        high: Option<&[u8]>,
    ) -> Result<Vec<Summary>, S::Error> {
        RangeSummary::of_parts(self.key.clone(), &self.root, Range::new(low, high), cuts)
            .run_parts(self.source, self.tree)
    }

    fn split(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        parts: usize,
    ) -> Result<Vec<Vec<u8>>, S::Error> {
        Split::new(&self.root, Range::new(low, high), parts).run(self.source, self.tree)
    }

    fn entries(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        limit: usize,
    ) -> Result<Entries, S::Error> {
        let mut entries = Vec::new();
        self.visit(low, high, limit, &mut |key, sum| {
            entries.push((key.to_vec(), sum));
        })?;
        Ok(entries)
    }

    fn visit(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], Sum),
    ) -> Result<(), S::Error> {
        let mut cursor = Cursor::new(self.root.pointer);
        cursor.seek(low);
        let mut key = Vec::new();
        let mut ahead = Vec::new();
        for _ in 0..limit {
            if !cursor.complete(self.source, self.tree)? {
                break;
            }
            if cursor.leaf().1 == 0 {
                ahead.clear();
                cursor.upcoming(Direction::Forward, high, AHEAD, &mut ahead);
                self.source.prefetch(self.tree, &ahead);
            }
            key.clear();
            cursor.key().append_to(&mut key);
            if high.is_some_and(|high| key.as_slice() >= high) {
                break;
            }
            visit(&key, self.key.of_entry(&key, cursor.body()));
            cursor.next();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::{Difference, KeyRange, Limits, Session, respond, run};
    use crate::format::body::{BodyBuilder, BodyRef};
    use crate::geometry::Geometry;
    use crate::tree::testing::{KEY, Memory, Model, Ops, TREE};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn body(value: u32, long: bool) -> Vec<u8> {
        let mut body = BodyBuilder::new(&value.to_le_bytes());
        if long {
            body.inline(&[7; 150]);
        }
        body.finish()
    }

    /// A tree of these entries that has seen others before.
    fn grown(model: &Model, geometry: Geometry, detour: bool) -> (Memory, Root) {
        let mut memory = Memory::new(geometry);
        let mut root = Root::EMPTY;
        if detour {
            let mut ops: Ops = (model.iter().step_by(2))
                .map(|(key, _)| (key.clone(), Some(body(0, true))))
                .collect();
            ops.extend((0..50_u8).map(|n| (vec![n, 99, n], Some(body(1, false)))));
            root = memory.apply(1, root, &ops).root;
            let ops = (0..50_u8).map(|n| (vec![n, 99, n], None)).collect();
            root = memory.apply(2, root, &ops).root;
        }
        let ops: Ops = (model.iter())
            .map(|(key, body)| (key.clone(), Some(body.clone())))
            .collect();
        root = memory.apply(3, root, &ops).root;
        (memory, root)
    }

    fn expected(mine: &Model, theirs: &Model) -> BTreeSet<Difference> {
        let sum = |model: &Model, key: &Vec<u8>| {
            let body = model.get(key)?;
            Some(KEY.of_entry(key, BodyRef::decode(body).unwrap()))
        };
        let keys: BTreeSet<_> = mine.keys().chain(theirs.keys()).collect();
        (keys.into_iter())
            .map(|key| Difference {
                key: key.clone(),
                mine: sum(mine, key),
                theirs: sum(theirs, key),
            })
            .filter(|difference| difference.mine != difference.theirs)
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn trees_of_other_shapes_differ_as_their_entries_do(
            base in prop::collection::btree_map(any::<u32>(), (any::<u32>(), any::<bool>()), 1..400),
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..3, any::<u32>()), 0..40),
            leaf_log2 in 1_u8..7,
        ) {
            let mine: Model = (base.iter())
                .map(|(key, (value, long))| (key.to_be_bytes().to_vec(), body(*value, *long)))
                .collect();
            let mut theirs = mine.clone();
            for (index, kind, value) in edits {
                let key = mine.keys().nth(index.index(mine.len())).unwrap();
                match kind {
                    0 => drop(theirs.remove(key)),
                    1 => drop(theirs.insert(key.clone(), body(value, false))),
                    _ => drop(theirs.insert(value.to_be_bytes().to_vec(), body(5, true))),
                }
            }
            let tiny = Geometry { regions_max: 4000, ..Geometry::tiny() };
            let (mut one, one_root) = grown(&mine, tiny, true);
            let larger = Geometry { fanout_max: 30, ..tiny };
            let (mut other, other_root) = grown(&theirs, larger, false);
            let mut one = TreeContents::new(&mut one, TREE, one_root, KEY);
            let mut other = TreeContents::new(&mut other, TREE, other_root, KEY);
            let limits = Limits { leaf_log2, ..Limits::default() };
            let mut session = Session::new(KeyRange::default(), limits);
            let mut found = Vec::new();
            run(
                &mut session,
                &mut one,
                |frame| respond(&mut other, &frame),
                |difference| found.push(difference),
            )
            .unwrap();
            let expected = expected(&mine, &theirs);
            prop_assert_eq!(found.len(), expected.len());
            prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        }
    }
}
