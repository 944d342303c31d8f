//! Runs a request. One copy of everything for now: N = R = W = 1, so each request goes to the
//! store of this node, and the number in each reply is 1.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::{Decision, Entry, NewEntry, NewPart, Reader};

use crate::storage::{Storage, StorageError, Value, Walk};
use crate::version::{Context, ContextError, NodeId, Put, Versions, VersionsError};

/// Copies that took part in a request.
pub const COPIES: usize = 1;

/// Tombstones looked at in one stretch of a sweep.
const SWEEP_STRETCH: usize = 1000;

/// Why a request failed. Its sentence goes behind `fail`.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The context of a put is none.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The versions do not allow it.
    #[error(transparent)]
    Versions(#[from] VersionsError),
    /// The store does not do it.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The values of a key.
pub struct Found {
    /// What a later put shows to replace them.
    pub context: Vec<u8>,
    key: Vec<u8>,
    entry: Entry,
}

impl Found {
    /// How many values there are, oldest first.
    pub fn values(&self) -> usize {
        self.entry.parts_len()
    }

    /// Bytes of each value.
    pub fn lengths(&self) -> impl Iterator<Item = u64> {
        (0..self.values()).filter_map(|index| self.entry.part_length(index))
    }

    /// Their key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// A value as a stream, every byte verified. It stays readable as long as the reader is held.
    pub fn reader(&self, index: usize) -> Option<Reader> {
        self.entry.part_reader(index)
    }
}

/// Who runs requests.
pub struct Mediator {
    storage: Arc<Storage>,
    now: fn() -> Duration,
}

impl Mediator {
    /// A mediator over the store of its node.
    pub fn new(storage: Arc<Storage>) -> Self {
        let now = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
        };
        Self { storage, now }
    }

    /// The store below.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// This node's name in versions.
    pub fn node(&self) -> NodeId {
        self.storage.node()
    }

    fn put_now(&self) -> Put {
        let now_ms = u64::try_from((self.now)().as_millis()).unwrap_or(u64::MAX);
        Put {
            node: self.node(),
            now_ms,
        }
    }

    /// The values of a key; `None` where there is nothing or a tombstone.
    pub fn get(&self, key: &[u8]) -> Result<Option<Found>, RequestError> {
        let Some(entry) = self.storage.entry(key)? else {
            return Ok(None);
        };
        if entry.parts_len() == 0 {
            return Ok(None);
        }
        let context = versions_of(&entry)?.context();
        let key = key.to_vec();
        Ok(Some(Found {
            context,
            key,
            entry,
        }))
    }

    /// Whether a key has a value.
    pub fn has(&self, key: &[u8]) -> Result<bool, RequestError> {
        let entry = self.storage.entry(key)?;
        Ok(entry.is_some_and(|entry| entry.parts_len() > 0))
    }

    /// The hash of each value of a key as it is kept, or with `read` as the disk gives it; `None`
    /// where there is no value, an error where it is known to be damaged.
    pub fn hashes(&self, key: &[u8], read: bool) -> Result<Option<Vec<[u8; 32]>>, RequestError> {
        Ok(self.storage.hashes(key, read)?)
    }

    /// A put begins: says at once what can be refused before its value has come. A context names
    /// nodes that have written here, or it is none of ours: what somebody makes up takes no place
    /// in an entry.
    pub fn check_context(&self, context: &[u8]) -> Result<Context, RequestError> {
        let context = Context::decode(context)?;
        if let Context::Seen(seen) = &context
            && let Some(dot) = seen.dots().iter().find(|dot| !self.storage.knows(dot.node))
        {
            return Err(ContextError::Stranger(dot.node).into());
        }
        Ok(context)
    }

    /// Stores a value under the rules of its context. Gives the copies that have it.
    pub fn put(&self, key: &[u8], context: &Context, new: &Value) -> Result<usize, RequestError> {
        let put = self.put_now();
        let (length, hash) = match context {
            // Nothing can stay beside it, so nothing is compared.
            Context::Overwrite => (None, None),
            _ => (Some(new.length()), Some(new.hash())),
        };
        self.update(key, |old, versions| {
            let same = |index: usize| {
                old.is_some_and(|entry| {
                    entry.part_length(index) == length && entry.part_hash(index) == hash
                })
            };
            let (versions, keep) = versions.put(context, put, same)?;
            let mut parts: Vec<NewPart> = keep.into_iter().map(NewPart::Keep).collect();
            parts.push(new.part());
            let meta = versions.encode()?;
            Ok(Decision::Put(NewEntry { meta, parts }))
        })
    }

    /// Deletes a key, leaving a tombstone where there was a value.
    pub fn delete(&self, key: &[u8]) -> Result<usize, RequestError> {
        let put = self.put_now();
        self.update(key, |old, versions| {
            if old.is_none_or(|entry| entry.parts_len() == 0) {
                return Ok(Decision::Leave);
            }
            let meta = versions.delete(put).encode()?;
            Ok(Decision::Put(NewEntry::with_meta(meta)))
        })
    }

    fn update(
        &self,
        key: &[u8],
        decide: impl Fn(Option<&Entry>, &Versions) -> Result<Decision, VersionsError>,
    ) -> Result<usize, RequestError> {
        let mut refused = None;
        self.storage.update(key, |old| {
            let decided = old
                .map_or(Ok(Versions::default()), versions_of)
                .and_then(|versions| decide(old, &versions));
            match decided {
                Ok(decision) => {
                    refused = None;
                    decision
                }
                Err(error) => {
                    refused = Some(error);
                    Decision::Leave
                }
            }
        })?;
        refused.map_or(Ok(COPIES), |error| Err(error.into()))
    }

    /// Removes the tombstones laid more than `keep` ago; every replica, this one, knows of them.
    /// Gives how many went. `stop` is asked between stretches.
    pub fn sweep(&self, keep: Duration, stop: impl Fn() -> bool) -> Result<u64, RequestError> {
        let before = (self.now)().saturating_sub(keep).as_secs();
        let is_old = |meta: &[u8], parts: usize| {
            let versions = Versions::decode(meta, parts).ok();
            let deleted_at = versions.and_then(|versions| versions.deleted_at());
            deleted_at.is_some_and(|at| at < before)
        };
        let (mut removed, mut walk) = (0, Walk::default());
        loop {
            let (found, next) = self.storage.tombstones(walk, SWEEP_STRETCH)?;
            for (key, _) in found.into_iter().filter(|(_, meta)| is_old(meta, 0)) {
                self.storage.update(&key, |old| match old {
                    Some(entry) if is_old(entry.meta(), entry.parts_len()) => Decision::Delete,
                    _ => Decision::Leave,
                })?;
                removed += 1;
            }
            match next {
                Some(next) if !stop() => walk = next,
                _ => return Ok(removed),
            }
        }
    }
}

fn versions_of(entry: &Entry) -> Result<Versions, VersionsError> {
    Versions::decode(entry.meta(), entry.parts_len())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::ops::{Deref, DerefMut};

    use super::*;
    use crate::config::Config;

    /// A mediator with a store and its folder.
    struct Whole(
        Mediator,
        #[expect(dead_code, reason = "kept")] tempfile::TempDir,
    );

    impl Deref for Whole {
        type Target = Mediator;
        fn deref(&self) -> &Mediator {
            &self.0
        }
    }

    impl DerefMut for Whole {
        fn deref_mut(&mut self) -> &mut Mediator {
            &mut self.0
        }
    }

    fn mediator() -> Whole {
        let folder = tempfile::tempdir().unwrap();
        let storage = crate::storage::open(&Config::tiny(folder.path()), None).unwrap();
        Whole(Mediator::new(Arc::new(storage)), folder)
    }

    fn put(mediator: &Mediator, context: &[u8], value: &[u8]) -> Result<usize, RequestError> {
        let context = mediator.check_context(context)?;
        let value = mediator.storage.value(value.to_vec())?;
        mediator.put(b"k", &context, &value)
    }

    fn values(mediator: &Mediator) -> Vec<Vec<u8>> {
        let Some(found) = mediator.get(b"k").unwrap() else {
            return Vec::new();
        };
        let read = |index| {
            let mut bytes = Vec::new();
            found
                .reader(index)
                .unwrap()
                .read_to_end(&mut bytes)
                .unwrap();
            bytes
        };
        (0..found.values()).map(read).collect()
    }

    fn context(mediator: &Mediator) -> Vec<u8> {
        mediator.get(b"k").unwrap().unwrap().context
    }

    #[test]
    fn concurrent_puts_stand_side_by_side_until_one_has_seen_both() {
        let mediator = mediator();
        put(&mediator, b"", b"a").unwrap();
        let seen = context(&mediator);
        put(&mediator, &seen, b"b").unwrap();
        put(&mediator, &seen, b"c").unwrap();
        assert_eq!(values(&mediator), [b"b", b"c"]);
        put(&mediator, &seen, b"b").unwrap();
        assert_eq!(values(&mediator), [b"c", b"b"]);
        assert_eq!(mediator.hashes(b"k", false).unwrap().unwrap().len(), 2);
        let seen = context(&mediator);
        put(&mediator, &seen, b"d").unwrap();
        assert_eq!(values(&mediator), [b"d"]);
    }

    #[test]
    fn too_many_siblings_change_nothing() {
        let mediator = mediator();
        let refused =
            (0..300u32).find_map(|value| put(&mediator, b"\x83j", &value.to_le_bytes()).err());
        assert_eq!(refused.unwrap().to_string(), "too many siblings");
        assert_eq!(values(&mediator).len(), 255);
        put(&mediator, b"", b"one").unwrap();
        assert_eq!(values(&mediator), [b"one"]);
    }

    #[test]
    fn a_deleted_key_is_absent_and_its_tombstone_goes_in_time() {
        let mut mediator = mediator();
        put(&mediator, b"", b"a").unwrap();
        let seen = context(&mediator);
        assert!(mediator.has(b"k").unwrap());
        mediator.delete(b"k").unwrap();
        mediator.delete(b"never there").unwrap();
        assert!(!mediator.has(b"k").unwrap());
        assert!(mediator.hashes(b"k", true).unwrap().is_none());
        assert_eq!(mediator.storage.status().unwrap().entries, 1);

        let days = |days: u64| Duration::from_secs(days * 86_400);
        assert_eq!(mediator.sweep(days(30), || false).unwrap(), 0);
        mediator.now = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            now + Duration::from_hours(31 * 24)
        };
        assert_eq!(mediator.sweep(days(30), || false).unwrap(), 1);
        assert_eq!(mediator.storage.status().unwrap().entries, 0);

        // A client that still carries the old context does not undo what came after.
        put(&mediator, b"", b"new").unwrap();
        put(&mediator, &seen, b"old").unwrap();
        assert_eq!(values(&mediator), [b"new", b"old"]);
    }

    #[test]
    fn a_restored_copy_is_a_node_of_its_own_and_contexts_stay_good() {
        let original = mediator();
        put(&original, b"", b"a").unwrap();
        let seen = context(&original);
        let folder = tempfile::tempdir().unwrap();
        let backup = folder.path().join("backup");
        let told = original.storage.backup(&backup).unwrap();
        put(&original, &seen, b"after").unwrap();
        let newer = context(&original);

        let mut names = vec![original.node()];
        for place in ["one", "two"] {
            let place = folder.path().join(place);
            let restored = crate::storage::restore(&backup, &place).unwrap();
            assert_eq!(restored.fingerprint, told.fingerprint);
            let open = || {
                let storage = crate::storage::open(&Config::tiny(&place), None).unwrap();
                Mediator::new(Arc::new(storage))
            };
            let copy = Whole(open(), tempfile::tempdir().unwrap());
            assert!(!names.contains(&copy.node()));
            names.push(copy.node());
            assert!(copy.storage.knows(original.node()));
            assert_eq!(values(&copy), [b"a"]);
            // A context of before the backup covers what the backup holds; so does a later one.
            put(&copy, &seen, b"b").unwrap();
            assert_eq!(values(&copy), [b"b"]);
            put(&copy, &newer, b"c").unwrap();
            assert_eq!(values(&copy), [b"b", b"c"]);
            let merged = context(&copy);
            put(&copy, &merged, b"d").unwrap();
            assert_eq!(values(&copy), [b"d"]);
            // Its name stays.
            copy.storage.close().unwrap();
            drop(copy);
            assert_eq!(open().node(), names[names.len() - 1]);
        }
    }

    #[test]
    fn what_is_no_context_is_refused() {
        assert!(put(&mediator(), b"junk", b"a").is_err());
    }
}
