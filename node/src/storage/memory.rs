//! A store that is a map, for the tests of what stands above it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{
    BackupReport, CheckReport, Decision, Entry, NewPart, PartWriter, Storage, StorageError,
    StoreStatus, StoredPart, Tombstones, WrittenPart,
};

/// A store in memory.
#[derive(Default)]
pub struct Memory {
    map: Mutex<BTreeMap<Vec<u8>, Entry>>,
    /// Writers refuse when this many bytes have been written; 0 means never.
    pub full_at: AtomicU64,
    /// Bytes that long values hold, abandoned ones given back.
    pub placed: Arc<AtomicU64>,
}

struct Bytes(Vec<u8>);

impl StoredPart for Bytes {
    fn length(&self) -> u64 {
        self.0.len() as u64
    }

    fn hash(&self) -> Result<[u8; 32], StorageError> {
        Ok(*blake3::hash(&self.0).as_bytes())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let offset = usize::try_from(offset).unwrap();
        into.copy_from_slice(&self.0[offset..offset + into.len()]);
        Ok(())
    }
}

struct Writer {
    length: u64,
    bytes: Vec<u8>,
    full_at: u64,
    placed: Arc<AtomicU64>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.placed.fetch_sub(self.length, Ordering::SeqCst);
    }
}

impl PartWriter for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.bytes.extend_from_slice(bytes);
        if self.full_at > 0 && self.bytes.len() as u64 > self.full_at {
            return Err(StorageError::Full("delete something".into()));
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn WrittenPart>, StorageError> {
        assert_eq!(self.bytes.len() as u64, self.length);
        Ok(self)
    }
}

impl WrittenPart for Writer {
    fn length(&self) -> u64 {
        self.length
    }

    fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.bytes).as_bytes()
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

impl Storage for Memory {
    fn entry(&self, key: &[u8]) -> Result<Option<Entry>, StorageError> {
        Ok(self.map.lock().get(key).cloned())
    }

    fn writer(&self, length: u64) -> Result<Box<dyn PartWriter>, StorageError> {
        self.placed.fetch_add(length, Ordering::SeqCst);
        Ok(Box::new(Writer {
            length,
            bytes: Vec::new(),
            full_at: self.full_at.load(Ordering::SeqCst),
            placed: Arc::clone(&self.placed),
        }))
    }

    fn update(
        &self,
        key: &[u8],
        new: Option<NewPart>,
        decide: &mut dyn FnMut(Option<&Entry>) -> Decision,
    ) -> Result<(), StorageError> {
        let mut map = self.map.lock();
        let old = map.get(key);
        // A closure may run twice: those above must bear it.
        decide(old);
        match decide(old) {
            Decision::Leave => {}
            Decision::Remove => {
                map.remove(key);
            }
            Decision::Replace { meta, keep, add } => {
                let kept = keep
                    .iter()
                    .map(|&index| Arc::clone(&old.unwrap().parts[index]));
                let mut parts: Vec<Arc<dyn StoredPart>> = kept.collect();
                if add {
                    parts.push(Arc::new(Bytes(match new.unwrap() {
                        NewPart::Bytes(bytes) => bytes,
                        NewPart::Written(part) => {
                            let mut writer = part.into_any().downcast::<Writer>().unwrap();
                            std::mem::take(&mut writer.bytes)
                        }
                    })));
                }
                map.insert(key.to_vec(), Entry { meta, parts });
            }
        }
        Ok(())
    }

    fn tombstones(&self, after: Option<&[u8]>, limit: usize) -> Result<Tombstones, StorageError> {
        let map = self.map.lock();
        let low = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut walk = Tombstones::default();
        for (seen, (key, entry)) in map.range::<[u8], _>((low, Bound::Unbounded)).enumerate() {
            if seen == limit {
                return Ok(walk);
            }
            walk.next = Some(key.clone());
            if entry.parts.is_empty() {
                walk.found.push((key.clone(), entry.meta.clone()));
            }
        }
        walk.next = None;
        Ok(walk)
    }

    fn status(&self) -> Result<StoreStatus, StorageError> {
        Ok(StoreStatus {
            entries: self.map.lock().len() as u64,
            fingerprint: "0".repeat(32),
            details: serde_json::Map::new(),
        })
    }

    fn check(&self) -> Result<CheckReport, StorageError> {
        Ok(CheckReport {
            entries: self.map.lock().len() as u64,
            ..CheckReport::default()
        })
    }

    fn backup(&self, to: &Path) -> Result<BackupReport, StorageError> {
        std::fs::write(to, b"a backup").map_err(|error| StorageError::Store(error.to_string()))?;
        Ok(BackupReport {
            entries: self.map.lock().len() as u64,
            bytes: 8,
            fingerprint: "0".repeat(32),
        })
    }

    fn close(&self) -> Result<(), StorageError> {
        Ok(())
    }
}
