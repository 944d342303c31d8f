//! The oracle: what a store may hold after a crash.
//!
//! A store's life is a row of batches. After a crash its contents must equal those after some
//! prefix of the batches between the last one acknowledged as durable and the last one issued.
//! What an opening has once shown is promised too: a later crash may neither lose it nor bring
//! back what it did not show.
//!
//! Promises are noted with the disk's position, so that the end of any epoch can be asked what was
//! promised by then.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

/// Trees by name, each with its entries. A subject makes one value of an entry's meta and parts.
pub type Contents = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

/// What a batch does to the contents.
#[derive(Clone, PartialEq, Eq)]
pub enum Change {
    /// Replaces or adds an entry of an existing tree.
    Put {
        /// The tree's name.
        tree: Vec<u8>,
        /// The entry's key.
        key: Vec<u8>,
        /// The entry.
        value: Vec<u8>,
    },
    /// Removes an entry, if it is there.
    Delete {
        /// The tree's name.
        tree: Vec<u8>,
        /// The entry's key.
        key: Vec<u8>,
    },
    /// Makes an empty tree.
    CreateTree(Vec<u8>),
    /// Removes a tree and all that is in it.
    DropTree(Vec<u8>),
}

impl fmt::Debug for Change {
    /// One readable word per change; values by their length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { tree, key, value } => {
                let (tree, key) = (tree.escape_ascii(), key.escape_ascii());
                write!(f, "put {tree}/{key} of {} bytes", value.len())
            }
            Self::Delete { tree, key } => {
                write!(f, "delete {}/{}", tree.escape_ascii(), key.escape_ascii())
            }
            Self::CreateTree(tree) => write!(f, "create tree {}", tree.escape_ascii()),
            Self::DropTree(tree) => write!(f, "drop tree {}", tree.escape_ascii()),
        }
    }
}

/// Contents, or no store at all.
type State = Option<Arc<Contents>>;

/// Names a batch within one ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchNo(usize);

#[derive(Clone)]
enum Mark {
    Issued(State),
    Acked(BatchNo),
    Retracted,
    Showed(State),
}

/// What is promised at one moment.
#[derive(Clone)]
pub struct Expected {
    /// The states that the store may be in, oldest first.
    allowed: Vec<State>,
    /// The batch that made the first of them.
    first: usize,
    /// States that the newest acknowledgement ruled out.
    before_last_ack: Vec<State>,
}

/// The promises of one history in order.
#[derive(Clone)]
pub struct Ledger {
    start: Expected,
    now: Expected,
    marks: Vec<(usize, Mark)>,
}

impl Expected {
    fn issue(&mut self, state: State) {
        self.allowed.push(state);
    }

    fn retract(&mut self) {
        self.allowed.pop();
        assert!(!self.allowed.is_empty(), "retracted what was promised");
    }

    fn acknowledge(&mut self, batch: BatchNo) {
        let passed = batch.0.saturating_sub(self.first);
        assert!(passed < self.allowed.len(), "acknowledged before issued");
        if passed > 0 {
            self.before_last_ack = self.allowed.drain(..passed).collect();
            self.first += passed;
        }
    }

    fn show(&mut self, state: State) {
        // The batches behind it are gone: their numbers are not used again.
        self.first += self.allowed.len();
        self.allowed = vec![state];
        self.before_last_ack.clear();
    }

    fn take(&mut self, mark: &Mark) {
        match mark {
            Mark::Issued(state) => self.issue(state.clone()),
            Mark::Acked(batch) => self.acknowledge(*batch),
            Mark::Retracted => self.retract(),
            Mark::Showed(state) => self.show(state.clone()),
        }
    }

    /// Whether there need not be a store yet.
    pub fn allows_no_store(&self) -> bool {
        self.allowed.iter().any(Option::is_none)
    }

    /// Also allows what only the newest acknowledgement rules out: the honest limit when the last
    /// group of a crashed store rots.
    #[must_use]
    pub fn without_last_ack(&self) -> Self {
        let mut allowed = self.before_last_ack.clone();
        allowed.extend(self.allowed.iter().cloned());
        Self {
            first: self.first - self.before_last_ack.len(),
            allowed,
            before_last_ack: Vec::new(),
        }
    }

    /// Refuses contents that no allowed prefix of the batches gives.
    pub fn check(&self, contents: &Contents) -> Result<(), String> {
        self.find(contents).map(|_| ())
    }

    fn find(&self, contents: &Contents) -> Result<State, String> {
        let is = |state: &&State| state.as_ref().is_some_and(|held| **held == *contents);
        match self.allowed.iter().rev().find(is) {
            Some(state) => Ok(state.clone()),
            None => Err(self.complain(contents)),
        }
    }

    fn complain(&self, contents: &Contents) -> String {
        let mut text = format!(
            "the contents equal none of the {} states that were promised",
            self.allowed.len()
        );
        if self
            .before_last_ack
            .iter()
            .any(|state| state.as_ref().is_some_and(|held| **held == *contents))
        {
            text.push_str("; they lack the last acknowledged batch");
        }
        for state in self.allowed.iter().rev().take(2) {
            match state {
                None => text.push_str("\n    against no store"),
                Some(held) => {
                    let _ = write!(
                        text,
                        "\n    against one of them: {}",
                        difference(held, contents)
                    );
                }
            }
        }
        text
    }
}

/// The differences in words, the first few of them.
fn difference(expected: &Contents, got: &Contents) -> String {
    type Place = (Vec<u8>, Option<Vec<u8>>);
    let flat = |contents: &Contents| -> BTreeMap<Place, Vec<u8>> {
        let mut all = BTreeMap::new();
        for (tree, entries) in contents {
            all.insert((tree.clone(), None), Vec::new());
            for (key, value) in entries {
                all.insert((tree.clone(), Some(key.clone())), value.clone());
            }
        }
        all
    };
    let name = |(tree, key): &Place| match key {
        None => format!("tree {}", tree.escape_ascii()),
        Some(key) => format!("{}/{}", tree.escape_ascii(), key.escape_ascii()),
    };
    let (expected, got) = (flat(expected), flat(got));
    let mut found = Vec::new();
    for (at, value) in &expected {
        match got.get(at) {
            None => found.push(format!("{} is missing", name(at))),
            Some(other) if other != value => found.push(format!("{} differs", name(at))),
            Some(_) => {}
        }
    }
    let extra = got.keys().filter(|at| !expected.contains_key(*at));
    found.extend(extra.map(|at| format!("{} should not be there", name(at))));
    found.truncate(6);
    found.join(", ")
}

impl Ledger {
    /// Of a disk on which no store was made yet.
    pub fn of_nothing() -> Self {
        Self::resume(Expected {
            allowed: vec![None],
            first: 0,
            before_last_ack: Vec::new(),
        })
    }

    /// Of a disk that a crash left, with these promises standing.
    pub fn resume(expected: Expected) -> Self {
        Self {
            now: expected.clone(),
            start: expected,
            marks: Vec::new(),
        }
    }

    fn note(&mut self, position: usize, mark: Mark) {
        self.now.take(&mark);
        self.marks.push((position, mark));
    }

    /// The store is about to be created, empty.
    pub fn create(&mut self, position: usize) -> BatchNo {
        self.note(position, Mark::Issued(Some(Arc::new(Contents::new()))));
        BatchNo(self.now.first + self.now.allowed.len() - 1)
    }

    /// A batch is about to be committed.
    pub fn issue(&mut self, position: usize, changes: &[Change]) -> BatchNo {
        let newest = self.newest().cloned().unwrap_or_default();
        let next = Some(Arc::new(apply(newest, changes)));
        self.note(position, Mark::Issued(next));
        BatchNo(self.now.first + self.now.allowed.len() - 1)
    }

    /// The newest batch was refused, with the promise that nothing of it happened.
    pub fn retract(&mut self, position: usize) {
        self.note(position, Mark::Retracted);
    }

    /// The batch, and with it all before, was acknowledged as durable.
    pub fn acknowledge(&mut self, position: usize, batch: BatchNo) {
        self.note(position, Mark::Acked(batch));
    }

    /// All that was issued was acknowledged as durable.
    pub fn acknowledge_all(&mut self, position: usize) {
        let newest = BatchNo(self.now.first + self.now.allowed.len() - 1);
        self.acknowledge(position, newest);
    }

    /// An opening showed these contents: from now on they are what the store holds.
    pub fn show(&mut self, position: usize, contents: &Contents) -> Result<(), String> {
        let state = self.now.find(contents)?;
        self.note(position, Mark::Showed(state));
        Ok(())
    }

    /// What the store holds when every issued batch took effect; `None` before there is one.
    pub fn newest(&self) -> Option<&Contents> {
        self.now.allowed.last().and_then(|state| state.as_deref())
    }

    /// What is promised now.
    pub fn now(&self) -> &Expected {
        &self.now
    }

    /// What is promised at the end of each epoch, given the ends ascending.
    pub fn at_ends(&self, ends: impl Iterator<Item = usize>) -> Vec<Expected> {
        let mut now = self.start.clone();
        let mut marks = self.marks.iter().peekable();
        ends.map(|end| {
            while let Some((_, mark)) = marks.next_if(|(position, _)| *position <= end) {
                now.take(mark);
            }
            now.clone()
        })
        .collect()
    }
}

fn apply(mut contents: Contents, changes: &[Change]) -> Contents {
    for change in changes {
        match change {
            Change::Put { tree, key, value } => {
                if let Some(tree) = contents.get_mut(tree) {
                    tree.insert(key.clone(), value.clone());
                }
            }
            Change::Delete { tree, key } => {
                if let Some(tree) = contents.get_mut(tree) {
                    tree.remove(key);
                }
            }
            Change::CreateTree(tree) => {
                contents.entry(tree.clone()).or_default();
            }
            Change::DropTree(tree) => {
                contents.remove(tree);
            }
        }
    }
    contents
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &[u8], value: &[u8]) -> Vec<Change> {
        vec![Change::Put {
            tree: b"t".to_vec(),
            key: key.to_vec(),
            value: value.to_vec(),
        }]
    }

    fn holding(entries: &[(&[u8], &[u8])]) -> Contents {
        let tree = entries
            .iter()
            .map(|(key, value)| (key.to_vec(), value.to_vec()))
            .collect();
        Contents::from([(b"t".to_vec(), tree)])
    }

    fn made() -> Ledger {
        let mut ledger = Ledger::of_nothing();
        let created = ledger.create(0);
        ledger.acknowledge(2, created);
        let tree = ledger.issue(2, &[Change::CreateTree(b"t".to_vec())]);
        ledger.acknowledge(4, tree);
        ledger
    }

    #[test]
    fn only_prefixes_between_acknowledged_and_issued_pass() {
        let mut ledger = made();
        let a = ledger.issue(4, &put(b"a", b"1"));
        ledger.issue(5, &put(b"b", b"2"));
        ledger.issue(6, &put(b"c", b"3"));
        ledger.acknowledge(7, a);
        let now = ledger.now();
        now.check(&holding(&[(b"a", b"1")])).unwrap();
        now.check(&holding(&[(b"a", b"1"), (b"b", b"2")])).unwrap();
        let lost = now.check(&holding(&[])).unwrap_err();
        assert!(lost.contains("lack the last acknowledged"), "{lost}");
        let hole = holding(&[(b"a", b"1"), (b"c", b"3")]);
        let hole = now.check(&hole).unwrap_err();
        assert!(hole.contains("t/b is missing"), "{hole}");
        let wrong = now.check(&holding(&[(b"a", b"9")])).unwrap_err();
        assert!(wrong.contains("t/a differs"), "{wrong}");
        now.without_last_ack().check(&holding(&[])).unwrap();
    }

    #[test]
    fn what_was_shown_is_promised_and_what_was_cut_stays_away() {
        let mut ledger = made();
        ledger.issue(4, &put(b"a", b"1"));
        ledger.issue(5, &put(b"b", b"2"));
        ledger.show(6, &holding(&[(b"a", b"1")])).unwrap();
        ledger.now().check(&holding(&[])).unwrap_err();
        let both = holding(&[(b"a", b"1"), (b"b", b"2")]);
        ledger.now().check(&both).unwrap_err();
        let c = ledger.issue(7, &put(b"c", b"3"));
        ledger.acknowledge(8, c);
        let now = ledger.now();
        now.check(&holding(&[(b"a", b"1"), (b"c", b"3")])).unwrap();
        now.check(&holding(&[(b"a", b"1")])).unwrap_err();
    }

    #[test]
    fn each_epoch_is_asked_what_was_promised_by_its_end() {
        let ledger = made();
        let at = ledger.at_ends([0, 1, 2, 3, 9].into_iter());
        assert!(at[0].allows_no_store() && at[1].allows_no_store());
        assert!(!at[2].allows_no_store());
        at[2].check(&Contents::new()).unwrap();
        at[3].check(&holding(&[])).unwrap();
        at[4].check(&Contents::new()).unwrap_err();
    }
}
