//! Runs a request. One copy of everything for now: N = R = W = 1, so each request goes to the
//! store of this node, and the number in each reply is 1.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::storage::{Decision, Entry, NewPart, Storage, StorageError, StoredPart};
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
    /// The values, oldest first.
    pub parts: Vec<Arc<dyn StoredPart>>,
}

/// Who runs requests.
pub struct Mediator {
    storage: Arc<dyn Storage>,
    node: NodeId,
    now: fn() -> Duration,
}

impl Mediator {
    /// A mediator of `node` over its store.
    pub fn new(storage: Arc<dyn Storage>, node: NodeId) -> Self {
        let now = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
        };
        Self { storage, node, now }
    }

    /// The store below.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// This node's name in versions.
    pub fn node(&self) -> NodeId {
        self.node
    }

    fn put_now(&self) -> Put {
        let now_ms = u64::try_from((self.now)().as_millis()).unwrap_or(u64::MAX);
        Put {
            node: self.node,
            now_ms,
        }
    }

    /// The values of a key; `None` where there is nothing or a tombstone.
    pub fn get(&self, key: &[u8]) -> Result<Option<Found>, RequestError> {
        let Some(entry) = self.storage.entry(key)? else {
            return Ok(None);
        };
        if entry.parts.is_empty() {
            return Ok(None);
        }
        let versions = Versions::decode(&entry.meta, entry.parts.len())?;
        Ok(Some(Found {
            context: versions.context(),
            parts: entry.parts,
        }))
    }

    /// Whether a key has a value.
    pub fn has(&self, key: &[u8]) -> Result<bool, RequestError> {
        let entry = self.storage.entry(key)?;
        Ok(entry.is_some_and(|entry| !entry.parts.is_empty()))
    }

    /// The hash of each value of a key; `None` where there is no value.
    pub fn hashes(&self, key: &[u8]) -> Result<Option<Vec<[u8; 32]>>, RequestError> {
        let Some(entry) = self.storage.entry(key)? else {
            return Ok(None);
        };
        let hashes: Result<Vec<_>, _> = entry.parts.iter().map(|part| part.hash()).collect();
        Ok(Some(hashes?).filter(|hashes| !hashes.is_empty()))
    }

    /// A put begins: says at once what can be refused before its value has come.
    pub fn check_context(context: &[u8]) -> Result<Context, RequestError> {
        Ok(Context::decode(context)?)
    }

    /// Stores a value under the rules of its context. Gives the copies that have it, durably.
    pub fn put(&self, key: &[u8], context: &Context, new: NewPart) -> Result<usize, RequestError> {
        let put = self.put_now();
        let (length, hash) = match context {
            // Nothing can stay beside it, so nothing is compared.
            Context::Overwrite => (0, None),
            _ => (new.length(), Some(new.hash())),
        };
        self.update(key, Some(new), |old, versions| {
            let same = |index: usize| {
                old.is_some_and(|entry| {
                    let part = &entry.parts[index];
                    part.length() == length && part.hash().ok() == hash
                })
            };
            let (versions, keep) = versions.put(context, put, same)?;
            let meta = versions.encode()?;
            Ok(Decision::Replace {
                meta,
                keep,
                add: true,
            })
        })
    }

    /// Deletes a key, leaving a tombstone where there was a value.
    pub fn delete(&self, key: &[u8]) -> Result<usize, RequestError> {
        let put = self.put_now();
        self.update(key, None, |old, versions| {
            if old.is_none_or(|entry| entry.parts.is_empty()) {
                return Ok(Decision::Leave);
            }
            let meta = versions.delete(put)?.encode()?;
            Ok(Decision::Replace {
                meta,
                keep: Vec::new(),
                add: false,
            })
        })
    }

    fn update(
        &self,
        key: &[u8],
        new: Option<NewPart>,
        decide: impl Fn(Option<&Entry>, &Versions) -> Result<Decision, VersionsError>,
    ) -> Result<usize, RequestError> {
        let mut refused = None;
        self.storage.update(key, new, &mut |old| {
            let decided = old
                .map_or(Ok(Versions::default()), |entry| {
                    Versions::decode(&entry.meta, entry.parts.len())
                })
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
        let (mut removed, mut after) = (0, None::<Vec<u8>>);
        loop {
            let stretch = self.storage.tombstones(after.as_deref(), SWEEP_STRETCH)?;
            for (key, meta) in stretch.found {
                if !is_old(&meta, 0) {
                    continue;
                }
                self.storage.update(&key, None, &mut |old| match old {
                    Some(entry) if is_old(&entry.meta, entry.parts.len()) => Decision::Remove,
                    _ => Decision::Leave,
                })?;
                removed += 1;
            }
            after = stretch.next;
            if after.is_none() || stop() {
                return Ok(removed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::Memory;

    fn mediator() -> Mediator {
        Mediator::new(Arc::new(Memory::default()), NodeId(1))
    }

    fn put(mediator: &Mediator, context: &[u8], value: &[u8]) -> Result<usize, RequestError> {
        let context = Mediator::check_context(context)?;
        mediator.put(b"k", &context, NewPart::Bytes(value.to_vec()))
    }

    fn values(mediator: &Mediator) -> Vec<Vec<u8>> {
        let Some(found) = mediator.get(b"k").unwrap() else {
            return Vec::new();
        };
        let read = |part: &Arc<dyn StoredPart>| {
            let mut bytes = vec![0; usize::try_from(part.length()).unwrap()];
            part.read_at(0, &mut bytes).unwrap();
            bytes
        };
        found.parts.iter().map(read).collect()
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
        assert_eq!(mediator.hashes(b"k").unwrap().unwrap().len(), 2);
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
        assert!(mediator.hashes(b"k").unwrap().is_none());
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
    fn what_is_no_context_is_refused() {
        assert!(put(&mediator(), b"junk", b"a").is_err());
    }
}
