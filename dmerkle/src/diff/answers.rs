//! What the asking side makes of answers.
//!
//! Nothing in an answer is believed beyond what it says of the peer's own entries: cuts must lie
//! inside their range, counts must add up, decoded ids must fit the counts, and what is fetched
//! must be what was asked for.

use super::session::{Flying, Open, Session, Task, Told};
use super::sketch::{self, CAPACITY_MAX, Turn};
use super::wire::{Answer, Answers, Query, Says, Split};
use super::{Contents, Difference, Entries, Error, KeyRange, PARTS, short_id, shown, successor};
use crate::types::{Sum, Summary};
use std::collections::VecDeque;

/// Cuts on the way to a range after which all its entries are listed: only a peer that invents
/// cuts gets here.
const DEPTH_MAX: u8 = 40;

/// A sketch that fails at this many sums is not prolonged: its range is cut. A large range is cut
/// when its sketch was prolonged once.
const PROLONG_MAX: usize = CAPACITY_MAX as usize;

/// A range with fewer entries is not cut because its sketch failed once.
const CUT_ENTRIES: u64 = 128;

/// Bytes of ranges to be asked about next, above which a sketch is put off and asked for again.
const NEXT_UP_BYTES_MAX: usize = 16 << 20;

/// What is gathered over the answers of one frame.
#[derive(Default)]
struct Frame {
    /// Ranges that were compared, and those that differed.
    compared: u64,
    unequal: u64,
    /// Sketches that came, and those that did not decode.
    sketches: usize,
    failed: usize,
}

/// A sketch to be asked for, as many sums as [`Frame`] will suggest.
const AS_SUGGESTED: u32 = 0;

impl Session {
    /// Takes the answers to `queries`, puts what they leave open into `next_up`.
    pub(super) fn take_answers<C: Contents>(
        &mut self,
        contents: &mut C,
        queries: Vec<Flying>,
        answers: &mut Answers<'_>,
    ) -> Result<(), Error<C::Error>> {
        if answers.is_at_end() {
            return Err(Error::Peer("an answer says nothing"));
        }
        let mut frame = Frame::default();
        let first = self.next_up.len();
        for flying in queries {
            if answers.is_at_end() {
                self.later(flying.open);
                continue;
            }
            let answer = answers.next(&flying.open.asked(), &flying.query)?;
            self.take_answer(contents, flying, answer, &mut frame)?;
        }
        if !answers.is_at_end() {
            return Err(Error::Peer("there are more answers than questions"));
        }
        let suggested = sketch::capacity(frame.unequal, frame.compared);
        let most_failed = frame.sketches >= 4 && frame.failed * 8 > frame.sketches * 7;
        for open in &mut self.next_up[first..] {
            let Task::Sketch { have, to, theirs } = &mut open.task else {
                continue;
            };
            if *to != AS_SUGGESTED {
                continue;
            }
            let held = have.len();
            let parts = sketch::parts(frame.unequal, frame.compared, *theirs, Turn::Asking);
            if held == 0 && parts > 1 {
                open.task = Task::Divide { parts };
            } else if held == 0 {
                *to = suggested;
            } else if held < PROLONG_MAX && !(most_failed && *theirs > CUT_ENTRIES) {
                let longer = u32::try_from(held + held.max(4)).expect("a small number");
                *to = longer.min(CAPACITY_MAX);
            } else {
                open.task = Self::divide_overfull(*theirs);
            }
        }
        Ok(())
    }

    fn later(&mut self, open: Open) {
        self.next_up_weight += open.weight();
        self.next_up.push(open);
    }

    fn take_answer<C: Contents>(
        &mut self,
        contents: &mut C,
        flying: Flying,
        answer: Answer,
        frame: &mut Frame,
    ) -> Result<(), Error<C::Error>> {
        let Flying { open, query } = flying;
        let is_comparison = matches!(query, Query::Total(_) | Query::Compare { .. });
        self.keep_account(&query, &answer);
        let open = match (open, &answer.says) {
            (
                Open {
                    range,
                    depth,
                    task: fetch @ Task::Fetch { .. },
                },
                Says::Entries { complete, entries },
            ) => {
                let fetch = Open::new(range, depth, fetch);
                return self.take_fetched(contents, fetch, entries, *complete);
            }
            (open, _) => open,
        };
        match answer.says {
            Says::Equal if is_comparison => {}
            Says::Split(split) if is_comparison => {
                self.take_split(contents, &open, split, frame)?;
            }
            Says::Sketch(sums) if is_comparison || matches!(query, Query::Sketch { .. }) => {
                self.take_sketch(contents, open, &query, answer.theirs, sums, frame)?;
            }
            Says::Ids(ids) if is_comparison || matches!(query, Query::Sketch { .. }) => {
                self.take_ids(contents, open, &ids)?;
            }
            Says::Entries { complete, entries } => self.take_entries(open, complete, entries)?,
            _ => return Err(Error::Peer("an answer does not fit its question")),
        }
        Ok(())
    }

    /// Notes the totals of a root.
    fn keep_account(&mut self, query: &Query, answer: &Answer) {
        if let Query::Total(mine) = query {
            let theirs = answer.theirs.unwrap_or(*mine);
            self.account.mine = self.account.mine.plus(*mine);
            self.account.theirs = self.account.theirs.plus(theirs);
            let entries = mine.count.saturating_add(theirs.count);
            self.frames_due = self.frames_due.saturating_add(entries);
        }
    }

    fn take_split<C: Contents>(
        &mut self,
        contents: &mut C,
        open: &Open,
        split: Split,
        frame: &mut Frame,
    ) -> Result<(), Error<C::Error>> {
        let (mut count, mut sum) = (split.count, split.sum);
        let mut theirs = Vec::with_capacity(split.below.len() + 1);
        let mut cuts = Vec::with_capacity(split.below.len());
        for (cut, below, below_sum) in split.below {
            count = (count.checked_sub(below)).ok_or(Error::Peer("counts do not add up"))?;
            sum = shown(Sum(sum.wrapping_sub(below_sum)), self.shape.wide);
            theirs.push((below, below_sum));
            cuts.push(cut);
        }
        theirs.push((count, sum));
        let own = (contents.summaries(&open.range.low, &cuts, open.range.high()))
            .map_err(Error::Contents)?;
        let both = own.into_iter().zip(theirs);
        for (range, (mine, (count, sum))) in open.range.cut(cuts).into_iter().zip(both) {
            frame.compared += 1;
            if mine.count == count && shown(mine.sum, self.shape.wide) == sum {
                continue;
            }
            frame.unequal += 1;
            self.open_child(range, open.depth + 1, mine.count, count);
        }
        Ok(())
    }

    /// Decides how to go on with a range that differs.
    fn open_child(&mut self, range: KeyRange, depth: u8, mine: u64, theirs: u64) {
        if theirs == 0 {
            self.told.push_back(Told {
                range,
                theirs: VecDeque::new(),
            });
            return;
        }
        let leaf = self.shape.leaf();
        let larger = mine.max(theirs);
        let task = if mine == 0 || theirs == 1 || depth >= DEPTH_MAX {
            Task::List
        } else if larger <= leaf {
            Task::Sketch {
                have: Vec::new(),
                to: AS_SUGGESTED,
                theirs,
            }
        } else if mine < 2 {
            Task::Compare { own: None }
        } else {
            let parts = larger.div_ceil(leaf).saturating_mul(2);
            Task::Divide {
                parts: parts.clamp(2, PARTS),
            }
        };
        self.later(Open::new(range, depth, task));
    }

    fn take_sketch<C: Contents>(
        &mut self,
        contents: &mut C,
        open: Open,
        query: &Query,
        counted: Option<Summary>,
        mut sums: Vec<u32>,
        frame: &mut Frame,
    ) -> Result<(), Error<C::Error>> {
        let (mut have, theirs) = match (open.task, counted) {
            (Task::Sketch { have, theirs, .. }, _) => (have, theirs),
            (_, Some(theirs)) => (Vec::new(), theirs.count),
            _ => return Err(Error::Peer("a sketch came without a count")),
        };
        let expected = match query {
            Query::Sketch { from, to } => sums.len() == (to - from) as usize,
            _ => !sums.is_empty() && sums.len() <= CAPACITY_MAX as usize,
        };
        if !expected {
            return Err(Error::Peer("a sketch has not as many sums as asked"));
        }
        if sums.len() as u64 >= theirs {
            // Or a range could be asked about for ever: no more sums are asked for than there are ids.
            return Err(Error::Peer("sums came where the ids are no more"));
        }
        let again = Open::new(
            open.range.clone(),
            open.depth,
            Task::Sketch {
                have: have.clone(),
                to: u32::try_from(have.len() + sums.len()).expect("at most 128"),
                theirs,
            },
        );
        if self.next_up_weight > NEXT_UP_BYTES_MAX {
            self.later(again);
            return Ok(());
        }
        frame.sketches += 1;
        let own = self.leaf(contents, &open.range)?;
        let from = u32::try_from(have.len()).expect("at most 64");
        sketch::add(&mut sums, from, &own.ids);
        have.extend(sums);
        let Some((foreign, known)) = own.partition(sketch::decode(&have).unwrap_or_default())
        else {
            // Two own entries have an id that differs: which of them the peer lacks, it must tell.
            self.later(Open::new(open.range, open.depth, Task::List));
            return Ok(());
        };
        let gain = i128::from(theirs) - own.ids.len() as i128;
        let fits = foreign.len() as i128 - known.len() as i128 == gain;
        if foreign.len() + known.len() > 0 && fits {
            let mine = own.pick(known);
            self.settle(open.range, open.depth, foreign, mine);
            return Ok(());
        }
        frame.failed += 1;
        let task = Self::after_failure(have, from > 0, own.ids.len() as u64, theirs, open.depth);
        self.later(Open::new(open.range, open.depth, task));
        Ok(())
    }

    /// How to go on with a range whose sketch did not decode.
    fn after_failure(have: Vec<u32>, prolonged: bool, mine: u64, theirs: u64, depth: u8) -> Task {
        if depth >= DEPTH_MAX || (mine < 2 && theirs > CAPACITY_MAX.into()) {
            return Task::List;
        }
        // The ids themselves, where they are few: all sums from 0 are asked for. They may be some
        // times as many as sums that were too few, since it is the last that is asked.
        let few = (4 * have.len() as u64).clamp(8, CAPACITY_MAX.into());
        if theirs <= few {
            return Task::Sketch {
                have: Vec::new(),
                to: u32::try_from(theirs.max(1)).expect("at most 64"),
                theirs,
            };
        }
        let overfull = prolonged && theirs > CUT_ENTRIES;
        if mine < 2 && have.len() >= PROLONG_MAX {
            return Task::List;
        }
        if mine >= 2 && (overfull || have.len() >= PROLONG_MAX) {
            return Self::divide_overfull(theirs);
        }
        Task::Sketch {
            have,
            to: AS_SUGGESTED,
            theirs,
        }
    }

    /// Cuts a range that has more differences than others like it.
    fn divide_overfull(entries: u64) -> Task {
        Task::Divide {
            parts: (entries / (CUT_ENTRIES / 2)).clamp(2, PARTS),
        }
    }

    fn take_ids<C: Contents>(
        &mut self,
        contents: &mut C,
        open: Open,
        ids: &[u32],
    ) -> Result<(), Error<C::Error>> {
        if ids.len() > CAPACITY_MAX as usize {
            return Err(Error::Peer("more ids came than sums were asked for"));
        }
        let own = self.leaf(contents, &open.range)?;
        let mut theirs = ids.to_vec();
        theirs.sort_unstable();
        theirs.dedup();
        let sorted = own.by_id();
        let foreign: Vec<u32> = (theirs.iter().copied())
            .filter(|id| sorted.binary_search_by_key(id, |(own, _)| *own).is_err())
            .collect();
        let known: Vec<usize> = (sorted.iter())
            .filter(|(id, _)| theirs.binary_search(id).is_err())
            .map(|(_, at)| *at)
            .collect();
        if foreign.is_empty() && known.is_empty() {
            // The range differs, the ids do not: some have the same.
            self.later(Open::new(open.range, open.depth, Task::List));
            return Ok(());
        }
        let mine = own.pick(known);
        self.settle(open.range, open.depth, foreign, mine);
        Ok(())
    }

    /// The differing ids of a range are known: reports them, or fetches the peer's entries first.
    fn settle(&mut self, range: KeyRange, depth: u8, foreign: Vec<u32>, mine: Entries) {
        if foreign.is_empty() {
            self.report_mine(mine);
            return;
        }
        let task = Task::Fetch {
            near: foreign.len() == mine.len(),
            ids: foreign,
            mine,
            found: Vec::new(),
        };
        self.later(Open::new(range, depth, task));
    }

    fn report_mine(&mut self, mine: Entries) {
        for (key, sum) in mine {
            self.report(Difference {
                key,
                mine: Some(sum),
                theirs: None,
            });
        }
    }

    fn take_fetched<C: Contents>(
        &mut self,
        contents: &mut C,
        mut open: Open,
        entries: &[(Vec<u8>, Sum)],
        complete: bool,
    ) -> Result<(), Error<C::Error>> {
        let Task::Fetch {
            ids,
            mine,
            found,
            near,
        } = &mut open.task
        else {
            unreachable!("only what was fetched is taken as such");
        };
        let mut came = Vec::with_capacity(entries.len());
        for (key, theirs) in entries {
            let id = short_id(*theirs, self.shape.salt);
            if !ids.contains(&id) {
                return Err(Error::Peer("an entry came that was not asked for"));
            }
            came.push(id);
            let own = match mine.binary_search_by(|(own, _)| own.cmp(key)) {
                Ok(at) => Some(mine.remove(at).1),
                Err(_) => one(contents, key)?,
            };
            if own != Some(*theirs) {
                found.push(Difference {
                    key: key.clone(),
                    mine: own,
                    theirs: Some(*theirs),
                });
            }
        }
        ids.retain(|id| !came.contains(id));
        if complete && ids.is_empty() {
            for difference in std::mem::take(found) {
                self.report(difference);
            }
            self.report_mine(std::mem::take(mine));
            return Ok(());
        }
        if complete && *near {
            // The rest stands at other keys.
            *near = false;
        } else if complete {
            // The ids were rubbish: an overfull sketch decoded to them by chance.
            let entries = summary(contents, &open.range)?.count;
            let divide = entries >= 2 && open.depth < DEPTH_MAX;
            open.task = if divide {
                Self::divide_overfull(entries)
            } else {
                Task::List
            };
        } else if entries.is_empty() || ids.is_empty() {
            return Err(Error::Peer("an answer stops without need"));
        } else {
            *near &= !mine.is_empty();
        }
        self.later(open);
        Ok(())
    }

    fn take_entries<E>(
        &mut self,
        open: Open,
        complete: bool,
        entries: Entries,
    ) -> Result<(), Error<E>> {
        let mut range = open.range;
        if !complete {
            let Some((last, _)) = entries.last() else {
                return Err(Error::Peer("an answer stops without need"));
            };
            let rest = range.after(last);
            range.high = Some(rest.low.clone());
            if !rest.is_empty() {
                self.later(Open::new(rest, open.depth, Task::List));
            }
        }
        self.told.push_back(Told {
            range,
            theirs: entries.into(),
        });
        Ok(())
    }

    /// The own entries of a range that the peer settles by ids.
    fn leaf<C: Contents>(
        &self,
        contents: &mut C,
        range: &KeyRange,
    ) -> Result<Leaf, Error<C::Error>> {
        let most = usize::try_from(self.shape.leaf()).expect("at most 32768");
        let mut leaf = Leaf::default();
        let mut gather = |key: &[u8], sum| {
            leaf.keys.extend_from_slice(key);
            leaf.ends.push(leaf.keys.len());
            leaf.sums.push(sum);
            leaf.ids.push(short_id(sum, self.shape.salt));
        };
        (contents.visit(&range.low, range.high(), most + 1, &mut gather))
            .map_err(Error::Contents)?;
        if leaf.ids.len() > most {
            return Err(Error::Peer("too large a range is settled by ids"));
        }
        Ok(leaf)
    }
}

/// The own entries of a range that is settled by ids, keys one after the other.
#[derive(Default)]
struct Leaf {
    keys: Vec<u8>,
    ends: Vec<usize>,
    sums: Vec<Sum>,
    ids: Vec<u32>,
}

impl Leaf {
    /// The ids, ascending, and which entry it is.
    fn by_id(&self) -> Vec<(u32, usize)> {
        let mut sorted: Vec<_> = self.ids.iter().copied().zip(0..).collect();
        sorted.sort_unstable();
        sorted
    }

    /// The ids that are not among the own, ascending, and the places of the own that are; none if
    /// an id has two places. The ids are few: so each of the own is looked for among them.
    fn partition(&self, mut ids: Vec<u32>) -> Option<(Vec<u32>, Vec<usize>)> {
        ids.sort_unstable();
        let mut places = vec![None; ids.len()];
        for (place, id) in self.ids.iter().enumerate() {
            if let Ok(at) = ids.binary_search(id)
                && places[at].replace(place).is_some()
            {
                return None;
            }
        }
        let (known, foreign): (Vec<_>, Vec<_>) =
            (ids.into_iter().zip(places)).partition(|(_, place)| place.is_some());
        Some((
            foreign.into_iter().map(|(id, _)| id).collect(),
            known.into_iter().filter_map(|(_, place)| place).collect(),
        ))
    }

    /// The entries at `places`, in the order of their keys.
    fn pick(&self, mut places: Vec<usize>) -> Entries {
        places.sort_unstable();
        places.dedup();
        let entry = |at: usize| {
            let from = at.checked_sub(1).map_or(0, |before| self.ends[before]);
            (self.keys[from..self.ends[at]].to_vec(), self.sums[at])
        };
        places.into_iter().map(entry).collect()
    }
}

fn summary<C: Contents>(contents: &mut C, range: &KeyRange) -> Result<Summary, Error<C::Error>> {
    (contents.summary(&range.low, range.high())).map_err(Error::Contents)
}

/// The fingerprint of the own entry at `key`.
fn one<C: Contents>(contents: &mut C, key: &[u8]) -> Result<Option<Sum>, Error<C::Error>> {
    let found = (contents.entries(key, Some(&successor(key)), 1)).map_err(Error::Contents)?;
    Ok(found.into_iter().next().map(|(_, sum)| sum))
}
