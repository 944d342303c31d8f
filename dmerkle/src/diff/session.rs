//! The asking side: which ranges are open, what is asked about them, what was found.
//!
//! Invariants:
//! - The open ranges (on the stack, under way, to be asked next, or to be compared with what the
//!   peer told) are disjoint, and hold every difference that was not reported.
//! - They are asked about in ascending order: so the ranges of a frame ascend, too.
//! - Each range is reported once per walk, so that the differences account for the totals.

use super::wire::{Query, Shape, Writer, read_answer};
use super::{
    Contents, Difference, Entries, Error, FRAME_BYTES_MAX, KeyRange, Limits, PAGE_ENTRIES,
    boundaries, shown, successor,
};
use crate::types::{Sum, Summary};
use std::borrow::Cow;
use std::collections::VecDeque;

/// Bytes of open ranges above which they are asked about one at a time, lowest first, until they
/// are fewer.
const OPEN_BYTES_MAX: usize = 16 << 20;

/// Bytes of an answer that a frame of queries aims at: a bit less than a frame, because the sizes
/// of answers are guesses, and what does not fit is asked again.
const ANSWER_BYTES_AIM: usize = FRAME_BYTES_MAX - 6 * 1024;

/// Ranges of so many entries may be cut once more instead of sketched.
const CUT_FINER_ENTRIES: u64 = 256;

/// Differences after which a step is ended.
const STEP_DIFFERENCES: usize = 4 * PAGE_ENTRIES;

/// What is to be done about an open range.
#[derive(Debug, Clone)]
pub(super) enum Task {
    /// Ask for the peer's total.
    Total,
    /// Cut at the own boundaries and compare the parts.
    Divide { parts: u64 },
    /// Compare as it is. What is there on this side may be known.
    Compare { own: Option<Summary> },
    /// Ask for power sums behind those that `have` holds, which are sums of the difference: the own
    /// ones are added already. The peer has `theirs` entries.
    Sketch {
        have: Vec<u32>,
        to: u32,
        theirs: u64,
    },
    /// Ask for the entries with these ids; `mine` differ too, ascending, `found` came already.
    /// `near`: first only where `mine` are, for an entry that was changed has its key on both sides.
    /// The peer then reads that instead of the whole range once more.
    Fetch {
        ids: Vec<u32>,
        mine: Entries,
        found: Vec<Difference>,
        near: bool,
    },
    /// Ask for all entries.
    List,
}

/// A range that may hold differences.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub(super) range: KeyRange,
    /// How often a range was cut to get here.
    pub(super) depth: u8,
    pub(super) task: Task,
}

impl Open {
    pub(super) fn new(range: KeyRange, depth: u8, task: Task) -> Self {
        Self { range, depth, task }
    }

    /// What of the range to ask about.
    pub(super) fn asked(&self) -> Cow<'_, KeyRange> {
        if let Task::Fetch {
            mine, near: true, ..
        } = &self.task
            && let [(low, _), ..] = &mine[..]
            && let [.., (last, _)] = &mine[..]
        {
            return Cow::Owned(KeyRange {
                low: low.clone(),
                high: Some(successor(last)),
            });
        }
        Cow::Borrowed(&self.range)
    }

    pub(super) fn weight(&self) -> usize {
        let task = match &self.task {
            Task::Sketch { have, .. } => have.len() * 4,
            Task::Fetch {
                ids, mine, found, ..
            } => {
                ids.len() * 4
                    + mine.iter().map(|(key, _)| key.len() + 64).sum::<usize>()
                    + (found.iter().map(|one| one.key.len() + 96)).sum::<usize>()
            }
            _ => 0,
        };
        self.range.weight() + task
    }
}

/// A query under way, and the range it is about.
#[derive(Debug, Clone)]
pub(super) struct Flying {
    pub(super) open: Open,
    pub(super) query: Query,
}

/// A range of which all the peer's entries are known.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) range: KeyRange,
    pub(super) theirs: VecDeque<(Vec<u8>, Sum)>,
}

/// The asking side of a diff.
///
/// Start it, send its frames to a [`respond`](super::respond), and give it the answers in the
/// order of the frames, until it is done; [`run`] is that loop.
#[derive(Debug, Clone)]
pub struct Session {
    pub(super) shape: Shape,
    limits: Limits,
    roots: Vec<KeyRange>,
    /// The lowest range last.
    stack: Vec<Open>,
    /// What goes on the stack when the flight is over, the lowest range first.
    pub(super) next_up: Vec<Open>,
    /// Bytes in `next_up`.
    pub(super) next_up_weight: usize,
    /// Per frame under way, its queries.
    flying: VecDeque<Vec<Flying>>,
    pub(super) told: VecDeque<Told>,
    pub(super) found: Vec<Difference>,
    /// What an answer that could not be taken was about.
    failed: Vec<KeyRange>,
    /// What the differences found in this walk add up to, and what they should.
    pub(super) account: Account,
    frames: u64,
    /// Frames that honest copies of these counts need at most.
    pub(super) frames_due: u64,
    done: bool,
}

/// Totals of both sides, and of the differences.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Account {
    pub(super) mine: Summary,
    pub(super) theirs: Summary,
    found_mine: Summary,
    found_theirs: Summary,
}

impl Account {
    fn is_settled(&self) -> bool {
        self.mine.minus(self.found_mine) == self.theirs.minus(self.found_theirs)
    }
}

/// What a call brought.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// Differences, in no particular order.
    pub differences: Vec<Difference>,
    /// Frames to be sent, in this order.
    pub frames: Vec<Vec<u8>>,
    /// What the session waits for.
    pub next: Next,
}

/// What a session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The answer to the oldest frame that has none yet: [`Session::receive`].
    Answer,
    /// Nothing, it has more to report: [`Session::advance`].
    Advance,
    /// All is reported.
    Done,
}

impl Session {
    /// A session over `range`; [`KeyRange::default`] is everything.
    pub fn new(range: KeyRange, limits: Limits) -> Self {
        Self::resume(vec![range], limits)
    }

    /// A session over what [`Session::open_bounds`] of an earlier one gave, which need not have
    /// been on the same snapshots. Ranges in any order; those that touch are taken as one.
    pub fn resume(ranges: Vec<KeyRange>, limits: Limits) -> Self {
        let ranges = (ranges.into_iter())
            .map(KeyRange::with_short_bounds)
            .filter(|range| !range.is_empty());
        let roots = joined(ranges.collect());
        let shape = Shape {
            key_id: 0,
            salt: limits.salt,
            leaf_log2: limits.leaf_log2.min(super::wire::LEAF_LOG2_MAX),
            wide: false,
        };
        let mut session = Self {
            shape,
            limits,
            roots,
            stack: Vec::new(),
            next_up: Vec::new(),
            next_up_weight: 0,
            flying: VecDeque::new(),
            told: VecDeque::new(),
            found: Vec::new(),
            failed: Vec::new(),
            account: Account::default(),
            frames: 0,
            frames_due: 0,
            done: false,
        };
        session.begin_walk();
        session
    }

    fn begin_walk(&mut self) {
        self.account = Account::default();
        // Before the totals are known every root may need a frame or two of its own.
        self.frames_due += 64 + 2 * self.roots.len() as u64;
        self.stack = (self.roots.iter().rev())
            .map(|range| Open::new(range.clone(), 0, Task::Total))
            .collect();
    }

    /// The first frames.
    pub fn start<C: Contents>(&mut self, contents: &mut C) -> Result<Step, Error<C::Error>> {
        self.shape.key_id = contents.key_id();
        self.advance(contents)
    }

    /// Takes the answer to the oldest frame that has none yet.
    pub fn receive<C: Contents>(
        &mut self,
        contents: &mut C,
        answer: &[u8],
    ) -> Result<Step, Error<C::Error>> {
        let mut answers = read_answer(answer, &self.shape)?;
        let queries =
            (self.flying.pop_front()).ok_or(Error::Peer("an answer came to no question"))?;
        let hull = queries
            .first()
            .zip(queries.last())
            .map(|(first, last)| KeyRange {
                low: first.open.range.low.clone(),
                high: last.open.range.high.clone(),
            });
        let taken = self.take_answers(contents, queries, &mut answers);
        if taken.is_err() {
            // Part of it may have been taken: all of it stays open.
            self.failed.extend(hull);
        }
        taken?;
        self.advance(contents)
    }

    /// Goes on without an answer.
    pub fn advance<C: Contents>(&mut self, contents: &mut C) -> Result<Step, Error<C::Error>> {
        while self.found.len() < STEP_DIFFERENCES && self.compare_told(contents)? {}
        let mut frames = Vec::new();
        if self.told.is_empty() && self.flying.is_empty() {
            self.stack.extend(self.next_up.drain(..).rev());
            self.next_up_weight = 0;
            if self.stack.is_empty() && !self.done {
                self.close()?;
            }
            frames = self.flight(contents)?;
        }
        let next = if !self.told.is_empty() {
            Next::Advance
        } else if !self.flying.is_empty() {
            Next::Answer
        } else {
            Next::Done
        };
        Ok(Step {
            differences: std::mem::take(&mut self.found),
            frames,
            next,
        })
    }

    /// The differences that a call which failed had found before it did.
    pub fn take_found(&mut self) -> Vec<Difference> {
        std::mem::take(&mut self.found)
    }

    /// The ranges that may hold differences not yet reported, ascending and disjoint: what to keep
    /// in order to go on later with another session, after an error too.
    pub fn open_bounds(&self) -> Vec<KeyRange> {
        let open = self.stack.iter().chain(&self.next_up);
        let flying = self.flying.iter().flatten().map(|flying| &flying.open);
        let ranges = open
            .chain(flying)
            .map(|open| open.range.clone())
            .chain(self.told.iter().map(|told| told.range.clone()))
            .chain(self.failed.iter().cloned());
        joined(ranges.collect())
    }

    /// Ends the walk, or begins the thorough one.
    fn close<E>(&mut self) -> Result<(), Error<E>> {
        if self.account.is_settled() {
            self.done = true;
            return Ok(());
        }
        if self.shape.wide {
            return Err(Error::Peer("the differences do not account for the totals"));
        }
        // A subrange was called equal by 6 bytes, or two entries had the same short id.
        self.shape.wide = true;
        self.shape.salt = self.shape.salt.wrapping_add(0x9e37_79b9);
        self.begin_walk();
        Ok(())
    }

    pub(super) fn report(&mut self, difference: Difference) {
        if let Some(mine) = difference.mine {
            self.account.found_mine = self.account.found_mine.plus(Summary::of(mine));
        }
        if let Some(theirs) = difference.theirs {
            self.account.found_theirs = self.account.found_theirs.plus(Summary::of(theirs));
        }
        self.found.push(difference);
    }

    /// Compares a page of the first range that the peer has told. False if there is none.
    fn compare_told<C: Contents>(&mut self, contents: &mut C) -> Result<bool, Error<C::Error>> {
        let Some(told) = self.told.front() else {
            return Ok(false);
        };
        let page = contents
            .entries(&told.range.low, told.range.high(), PAGE_ENTRIES)
            .map_err(Error::Contents)?;
        let mut told = self.told.pop_front().expect("it was there");
        let rest = (page.len() == PAGE_ENTRIES)
            .then(|| page.last().map(|(key, _)| told.range.after(key)))
            .flatten();
        for (key, mine) in page {
            while let Some((key, theirs)) = told.theirs.pop_front_if(|(other, _)| *other < key) {
                self.report(Difference {
                    key,
                    mine: None,
                    theirs: Some(theirs),
                });
            }
            let theirs = told.theirs.pop_front_if(|(other, _)| *other == key);
            let theirs = theirs.map(|(_, sum)| sum);
            if theirs != Some(mine) {
                self.report(Difference {
                    key,
                    mine: Some(mine),
                    theirs,
                });
            }
        }
        if let Some(range) = rest.filter(|range| !range.is_empty()) {
            told.range = range;
            self.told.push_front(told);
            return Ok(true);
        }
        for (key, theirs) in told.theirs {
            self.report(Difference {
                key,
                mine: None,
                theirs: Some(theirs),
            });
        }
        Ok(true)
    }

    /// The next frames, from the lowest open ranges.
    fn flight<C: Contents>(&mut self, contents: &mut C) -> Result<Vec<Vec<u8>>, Error<C::Error>> {
        let weight: usize = self.stack.iter().map(Open::weight).sum();
        let frugal = weight > OPEN_BYTES_MAX;
        let flight = if frugal { 1 } else { self.limits.flight.max(1) };
        let mut frames = Vec::new();
        while frames.len() < flight && !self.stack.is_empty() {
            frames.push(self.frame(contents, frugal)?);
            self.frames += 1;
            if self.frames > self.limits.frames_max.min(self.frames_due) {
                return Err(Error::TooManyFrames);
            }
        }
        Ok(frames)
    }

    fn frame<C: Contents>(
        &mut self,
        contents: &mut C,
        frugal: bool,
    ) -> Result<Vec<u8>, Error<C::Error>> {
        let mut writer = Writer::request(&self.shape);
        let mut flying: Vec<Flying> = Vec::new();
        let filled = self.fill(contents, frugal, &mut writer, &mut flying);
        if filled.is_err() {
            self.stack
                .extend(flying.drain(..).rev().map(|flying| flying.open));
        }
        filled?;
        assert!(!flying.is_empty(), "a query fits an empty frame");
        self.flying.push_back(flying);
        Ok(writer.out)
    }

    /// Writes queries about the lowest open ranges, as many as a frame holds and its answer may.
    fn fill<C: Contents>(
        &mut self,
        contents: &mut C,
        frugal: bool,
        writer: &mut Writer,
        flying: &mut Vec<Flying>,
    ) -> Result<(), Error<C::Error>> {
        let mut due = 0;
        while let Some(open) = self.stack.last() {
            if let Task::Divide { parts } = open.task {
                let open = open.clone();
                let divided = Self::divide(contents, &open, parts)?;
                self.stack.pop();
                self.stack.extend(divided);
                continue;
            }
            let query = self.query(contents, open)?;
            let answer = self.answer_bytes(&query);
            if !flying.is_empty() && (due + answer > ANSWER_BYTES_AIM || frugal) {
                break;
            }
            debug_assert!(
                flying.last().is_none_or(|before| {
                    let high = before.open.range.high();
                    high.is_some_and(|high| high <= open.range.low.as_slice())
                }),
                "the ranges of a frame ascend"
            );
            let written = writer.out.len();
            writer.query(&open.asked(), &query);
            if writer.is_over() {
                writer.out.truncate(written);
                break;
            }
            due += answer;
            let open = self.stack.pop().expect("it was there");
            flying.push(Flying { open, query });
        }
        Ok(())
    }

    /// The parts of a range at the own boundaries, the lowest last.
    fn divide<C: Contents>(
        contents: &mut C,
        open: &Open,
        parts: u64,
    ) -> Result<Vec<Open>, Error<C::Error>> {
        let cuts = boundaries(contents, &open.range, parts)?;
        let own = (contents.summaries(&open.range.low, &cuts, open.range.high()))
            .map_err(Error::Contents)?;
        let parts = open.range.cut(cuts).into_iter().zip(own).rev();
        Ok(parts
            .map(|(part, own)| Open::new(part, open.depth + 1, Task::Compare { own: Some(own) }))
            .collect())
    }

    fn query<C: Contents>(&self, contents: &mut C, open: &Open) -> Result<Query, Error<C::Error>> {
        let mut own = || {
            contents
                .summary(&open.range.low, open.range.high())
                .map_err(Error::Contents)
        };
        Ok(match &open.task {
            Task::Total => Query::Total(own()?),
            Task::Divide { .. } | Task::Compare { .. } => {
                let own = match open.task {
                    Task::Compare { own: Some(own) } => own,
                    _ => own()?,
                };
                Query::Compare {
                    count: own.count,
                    sum: shown(own.sum, self.shape.wide),
                }
            }
            Task::Sketch { have, to, .. } => Query::Sketch {
                from: u32::try_from(have.len()).expect("at most 64 sums"),
                to: *to,
            },
            Task::Fetch { ids, .. } => Query::Fetch(ids.clone()),
            Task::List => Query::List,
        })
    }

    /// About how long the answer will be.
    fn answer_bytes(&self, query: &Query) -> usize {
        match query {
            Query::Total(Summary { count, .. }) | Query::Compare { count, .. } => match *count {
                count if count > self.shape.leaf() => 220,
                CUT_FINER_ENTRIES.. => 150,
                _ => 60,
            },
            Query::Sketch { from, to } => 4 + 4 * (*to as usize).saturating_sub(*from as usize),
            Query::Fetch(ids) => 4 + 36 * ids.len(),
            Query::List => 1024,
        }
    }
}

/// The ranges ascending, those that touch or overlap as one.
fn joined(mut ranges: Vec<KeyRange>) -> Vec<KeyRange> {
    ranges.sort_by(|a, b| a.low.cmp(&b.low));
    let mut joined: Vec<KeyRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.high().is_none_or(|high| high >= range.low.as_slice()) => {
                last.high = last.high.take().zip(range.high).map(|(a, b)| a.max(b));
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// Runs a session to its end: `exchange` carries a frame to the peer and brings its answer,
/// `visit` takes the differences.
pub fn run<C: Contents>(
    session: &mut Session,
    contents: &mut C,
    mut exchange: impl FnMut(Vec<u8>) -> Result<Vec<u8>, Error<C::Error>>,
    mut visit: impl FnMut(Difference),
) -> Result<(), Error<C::Error>> {
    let mut step = session.start(contents)?;
    let mut answers = VecDeque::new();
    loop {
        step.differences.drain(..).for_each(&mut visit);
        for frame in step.frames {
            answers.push_back(exchange(frame)?);
        }
        step = match step.next {
            Next::Done => return Ok(()),
            Next::Advance => session.advance(contents)?,
            Next::Answer => {
                let answer = answers.pop_front().expect("one answer per frame");
                session.receive(contents, &answer)?
            }
        };
    }
}
