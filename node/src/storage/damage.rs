//! Which keys are known to be damaged, and what the operator is told.
//!
//! Invariants:
//! - For a key that is named here the node vouches for no kept hash, until its value was replaced.
//! - Each damaged key is told once, not once per request.
//! - Memory is bounded: past [`KEYS_MAX`] keys no further one is named, and then no kept hash is
//!   believed without reading the value.
//! - That something is known survives the end of the node, though not what: until a check has named it
//!   anew, no kept hash is believed without reading the value.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use super::shown;

/// Keys that are named, at most.
const KEYS_MAX: usize = 10_000;
/// Sentences about what is no key's that are told, at most.
const TOLD_MAX: usize = 1000;
/// Lines that wait for a log that is not connected yet.
const WAITING_MAX: usize = 100;

/// Whether the hash that is kept of a value may be given out for the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trust {
    /// Nothing is known against it.
    Kept,
    /// The value is known to be damaged: how.
    Damaged(String),
    /// More is damaged than is named: only reading tells.
    Unknown,
}

/// A moment in the order of what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

#[derive(Default)]
struct Known {
    /// Each key, when it was found, and how it is damaged.
    keys: HashMap<Vec<u8>, (Moment, String)>,
    found: u64,
    /// When more was found than fits, last.
    more: Option<Moment>,
    /// What was told that is no key's, the first of it.
    told: HashSet<String>,
}

/// The damage of a node's store, as far as it is known.
#[derive(Default)]
pub(super) struct Damage(Mutex<Known>);

impl Damage {
    /// What is known where the store says that something was.
    pub(super) fn unnamed() -> Self {
        let found = 1;
        Self(Mutex::new(Known {
            found,
            more: Some(Moment(found)),
            ..Known::default()
        }))
    }

    /// Whether anything is known.
    pub(super) fn is_any(&self) -> bool {
        let known = &*self.0.lock();
        !known.keys.is_empty() || known.more.is_some()
    }

    /// Now.
    pub(super) fn moment(&self) -> Moment {
        Moment(self.0.lock().found)
    }

    /// Notes how a key is damaged. The line to tell, if that was not known.
    pub(super) fn note(&self, key: &[u8], fault: &str) -> Option<String> {
        let known = &mut *self.0.lock();
        known.found += 1;
        let now = Moment(known.found);
        if let Some((when, _)) = known.keys.get_mut(key) {
            *when = now;
            return None;
        }
        if known.keys.len() < KEYS_MAX {
            known.keys.insert(key.to_vec(), (now, fault.to_owned()));
            return Some(format!("damage: key {}: {fault}", shown(key)));
        }
        let first = known.more.replace(now).is_none();
        first.then(|| format!("more than {KEYS_MAX} keys are damaged: no more are named here"))
    }

    /// More was found than is named here.
    pub(super) fn note_unnamed(&self) {
        let known = &mut *self.0.lock();
        known.found += 1;
        known.more = Some(Moment(known.found));
    }

    /// Whether a sentence about what is no key's is to be told.
    pub(super) fn is_new(&self, sentence: &str) -> bool {
        let told = &mut self.0.lock().told;
        told.len() < TOLD_MAX && told.insert(sentence.to_owned())
    }

    /// The value of a key was replaced. Whether it was known to be damaged.
    pub(super) fn forget(&self, key: &[u8]) -> bool {
        let keys = &mut self.0.lock().keys;
        !keys.is_empty() && keys.remove(key).is_some()
    }

    /// A check that began at `since` has named all damage that there is.
    pub(super) fn settle(&self, since: Moment) {
        let known = &mut *self.0.lock();
        known.keys.retain(|_, (when, _)| *when > since);
        known.more = known.more.filter(|when| *when > since);
    }

    /// Whether the kept hash of a key's value counts.
    pub(super) fn trust(&self, key: &[u8]) -> Trust {
        let known = &*self.0.lock();
        if let Some((_, fault)) = known.keys.get(key) {
            Trust::Damaged(fault.clone())
        } else if known.more.is_some() {
            Trust::Unknown
        } else {
            Trust::Kept
        }
    }

    /// How many keys are known to be damaged.
    pub(super) fn keys(&self) -> usize {
        self.0.lock().keys.len()
    }
}

/// Takes a line for the log.
pub type Teller = Box<dyn Fn(&str) + Send + Sync>;

/// What the operator is told: kept until somebody listens.
#[derive(Default)]
pub(super) struct Notices(Mutex<Listening>);

#[derive(Default)]
struct Listening {
    teller: Option<Teller>,
    waiting: Vec<String>,
}

impl Notices {
    /// Tells a line.
    pub(super) fn tell(&self, line: String) {
        let listening = &mut *self.0.lock();
        match &listening.teller {
            Some(teller) => teller(&line),
            None if listening.waiting.len() < WAITING_MAX => listening.waiting.push(line),
            None => {}
        }
    }

    /// From now on `teller` has every line, those that waited first.
    pub(super) fn listen(&self, teller: Teller) {
        let listening = &mut *self.0.lock();
        for line in listening.waiting.drain(..) {
            teller(&line);
        }
        listening.teller = Some(teller);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_told_once_until_it_was_replaced() {
        let damage = Damage::default();
        let note = |key: &[u8]| damage.note(key, "rot");
        assert_eq!(damage.trust(b"a"), Trust::Kept);
        assert!(note(b"a").is_some());
        assert!(note(b"a").is_none());
        assert_eq!(damage.trust(b"a"), Trust::Damaged("rot".to_owned()));
        damage.forget(b"a");
        assert_eq!(damage.trust(b"a"), Trust::Kept);
        assert!(note(b"a").is_some());
    }

    #[test]
    fn a_whole_check_forgets_what_it_did_not_find() {
        let damage = Damage::default();
        let note = |key: &[u8]| damage.note(key, "");
        note(b"mended");
        note(b"still");
        let since = damage.moment();
        note(b"still");
        note(b"new");
        damage.settle(since);
        let kept = |key: &[u8]| damage.trust(key) == Trust::Kept;
        assert_eq!(
            [&b"mended"[..], b"still", b"new"].map(kept),
            [true, false, false]
        );
    }

    #[test]
    fn past_the_limit_nothing_is_believed_unread() {
        let damage = Damage::default();
        let note = |key: usize| damage.note(&key.to_le_bytes(), "");
        for key in 0..KEYS_MAX {
            assert!(note(key).is_some());
        }
        assert_eq!(damage.trust(b"other"), Trust::Kept);
        let told = note(KEYS_MAX).unwrap();
        assert!(told.contains("no more are named"), "{told}");
        assert!(note(KEYS_MAX + 1).is_none());
        assert_eq!(damage.trust(b"other"), Trust::Unknown);
        assert_eq!(damage.keys(), KEYS_MAX);
    }

    /// Keys that were healed behind the node's back kept the places of those that the check found.
    #[test]
    fn a_check_that_finds_more_than_fits_lets_nothing_be_believed_unread() {
        let damage = Damage::default();
        for key in 0..KEYS_MAX {
            damage.note(&key.to_le_bytes(), "");
        }
        let since = damage.moment();
        damage.note(b"new", "");
        damage.settle(since);
        assert_eq!(damage.trust(b"new"), Trust::Unknown);
        let since = damage.moment();
        damage.note(b"new", "");
        damage.settle(since);
        assert!(matches!(damage.trust(b"new"), Trust::Damaged(_)));
        assert_eq!(damage.trust(b"other"), Trust::Kept);
    }

    #[test]
    fn what_was_found_before_somebody_listens_is_told_then() {
        let notices = Notices::default();
        notices.tell("early".to_owned());
        let heard = std::sync::Arc::new(Mutex::new(Vec::new()));
        let into = std::sync::Arc::clone(&heard);
        notices.listen(Box::new(move |line| into.lock().push(line.to_owned())));
        notices.tell("late".to_owned());
        assert_eq!(*heard.lock(), ["early", "late"]);
    }
}
