//! Goal: a key lies where the original would have put it, and a store is opened by its own node
//! alone. Method: small stores in folders of their own.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::io::{Disk, FileDisk};
use engine::world::World;

use super::*;
use crate::config::Config;

/// A file of which flushes fail once they are told to.
struct FailingFlush(FileDisk, Arc<AtomicBool>);

impl Disk for FailingFlush {
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, buf)
    }

    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.0.write(offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        if self.1.load(Ordering::SeqCst) {
            return Err(io::Error::other("the device lost its cache"));
        }
        self.0.flush()
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.0.allocate(offset, bytes)
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.0.punch(offset, bytes)
    }

    fn alignment(&self) -> usize {
        self.0.alignment()
    }

    fn is_direct(&self) -> bool {
        self.0.is_direct()
    }
}

/// A storage without threads of its own whose flushes fail once that is set.
pub(crate) fn failing(config: &Config) -> (Storage, Arc<AtomicBool>) {
    open(config, None).unwrap().close().unwrap();
    let path = config.directory.join(STORE);
    let fails = Arc::new(AtomicBool::new(false));
    let disk = FailingFlush(FileDisk::open(&path).unwrap(), Arc::clone(&fails));
    let options = opening::options(config, None);
    let store = Store::open_on(Arc::new(disk), World::real(), &options).unwrap();
    (opening::of(store, config, &path).unwrap(), fails)
}

fn put(storage: &Storage, key: &[u8], value: &[u8]) {
    let value = storage.value(value.to_vec()).unwrap();
    storage
        .update(key, |_| {
            Decision::Put(engine::NewEntry {
                meta: b"meta".to_vec(),
                parts: vec![value.part()],
            })
        })
        .unwrap();
}

#[test]
fn keys_come_back_after_reopening_and_lie_in_their_partitions() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::tiny(folder.path());
    let storage = open(&config, None).unwrap();
    for number in 0..500u32 {
        let bytes = vec![7; if number % 10 == 0 { 3000 } else { 30 }];
        put(&storage, format!("key {number}").as_bytes(), &bytes);
    }
    let (node, summary) = (storage.node(), storage.summary().unwrap());
    assert_eq!(summary.count, 500);
    storage.close().unwrap();
    drop(storage);

    let storage = open(&config, None).unwrap();
    assert_eq!(storage.node(), node);
    assert_eq!(storage.summary().unwrap(), summary);
    for number in 0..500u32 {
        let key = format!("key {number}");
        let entry = storage.entry(key.as_bytes()).unwrap().unwrap();
        assert_eq!(entry.part(0).unwrap().unwrap()[0], 7);
        let partition = Partition::of_hash(key_hash(key.as_bytes()), 6);
        let tree = storage.store.tree(&partition.tree_name()).unwrap();
        assert!(tree.has(&stored_key(key.as_bytes())).unwrap());
    }
}

#[test]
fn another_number_of_partitions_is_refused_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::tiny(folder.path());
    drop(open(&config, None).unwrap());
    let other = Config { q: 4, ..config };
    let refused = open(&other, None).err().unwrap().to_string();
    assert!(refused.contains("was made with q = 6"), "{refused}");
    assert!(!refused.contains('\n'));
}

#[test]
fn every_store_has_a_secret_of_its_own() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, two] = folders
        .each_ref()
        .map(|folder| open(&Config::tiny(folder.path()), None).unwrap());
    assert_ne!(
        one.store.fingerprint_key_id(),
        two.store.fingerprint_key_id()
    );
    assert_ne!(one.node(), two.node());
}

#[test]
fn a_first_start_that_was_cut_off_goes_on_and_a_foreign_store_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::tiny(folder.path());
    let options = engine::Options {
        log_bytes: 4 << 20,
        ..engine::Options::default()
    };
    let store = Store::create(folder.path().join(STORE), &options).unwrap();
    store.create_tree(b"node").unwrap();
    drop(store);
    drop(open(&config, None).unwrap());

    let folder = tempfile::tempdir().unwrap();
    let config = Config::tiny(folder.path());
    let store = Store::create(folder.path().join(STORE), &options).unwrap();
    store.create_tree(b"pictures").unwrap();
    drop(store);
    let refused = open(&config, None).err().unwrap().to_string();
    assert!(refused.contains("but no node's"), "{refused}");
}

#[test]
fn a_walk_over_the_tombstones_meets_each_once() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&Config::tiny(folder.path()), None).unwrap();
    let mut laid = Vec::new();
    for number in 0..300u32 {
        let key = number.to_le_bytes().to_vec();
        if number % 3 == 0 {
            put(&storage, &key, b"value");
            continue;
        }
        let tombstone = || Decision::Put(engine::NewEntry::with_meta(b"gone"));
        storage.update(&key, |_| tombstone()).unwrap();
        laid.push((key, b"gone".to_vec()));
    }
    let (mut met, mut walk) = (Vec::new(), Some(Walk::default()));
    while let Some(from) = walk {
        let (found, next) = storage.tombstones(from, 7).unwrap();
        met.extend(found);
        walk = next;
    }
    met.sort();
    laid.sort();
    assert_eq!(met, laid);
}

#[test]
fn a_store_that_takes_no_writes_says_what_is_safe() {
    let said = |buffered_writes| {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            buffered_writes,
            ..Config::tiny(folder.path())
        };
        let storage = open(&config, None).unwrap();
        let poisoned = engine::Error::Poisoned {
            cause: "a flush failed".into(),
            durable: Lsn(7),
        };
        storage.fault(poisoned).to_string()
    };
    assert!(said(false).contains("what was acknowledged is safe"));
    let buffered = said(true);
    assert!(buffered.contains("up to LSN 7 is safe"), "{buffered}");
    assert!(buffered.contains("may be lost"), "{buffered}");
}

#[test]
fn that_damage_is_known_outlives_the_node_until_a_check_or_a_new_value_settles_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::tiny(folder.path());
    let reopened = |storage: Storage| {
        drop(storage);
        open(&config, None).unwrap()
    };
    let storage = open(&config, None).unwrap();
    put(&storage, b"key", &[7; 3000]);
    storage.note_damage(b"key", "rot");
    // As a kill leaves it.
    storage.store.abandon();
    let storage = reopened(storage);
    assert_eq!(storage.damage.trust(b"key"), Trust::Unknown);
    assert_eq!(storage.damage.trust(b"other"), Trust::Unknown);
    // A new value of one key says nothing of the others.
    put(&storage, b"key", &[8; 3000]);
    let storage = reopened(storage);
    assert_eq!(storage.damage.trust(b"key"), Trust::Unknown);
    assert!(storage.check().unwrap().violations.is_empty());
    assert_eq!(storage.damage.trust(b"key"), Trust::Kept);
    let storage = reopened(storage);
    assert_eq!(storage.damage.trust(b"key"), Trust::Kept);

    storage.note_damage(b"key", "rot");
    put(&storage, b"key", &[9; 3000]);
    let storage = reopened(storage);
    assert_eq!(storage.damage.trust(b"key"), Trust::Kept);
    storage.note_damage(b"key", "rot");
    let backup = folder.path().join("backup");
    storage.backup(&backup).unwrap();
    // A copy holds only what was verified.
    let copy = folder.path().join("copy");
    restore(&backup, &copy).unwrap();
    let copy = open(&Config::tiny(&copy), None).unwrap();
    assert_eq!(copy.damage.trust(b"key"), Trust::Kept);
}

/// Those beyond the ones that a check lists were believed.
#[test]
fn a_check_that_lists_not_all_damage_lets_nothing_be_believed_unread() {
    use std::os::unix::fs::FileExt;

    const VALUES: u32 = 10_050;
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        buffered_writes: true,
        ..Config::tiny(folder.path())
    };
    let storage = open(&config, None).unwrap();
    let value = [b'#'; 1100];
    for number in 0..VALUES {
        put(&storage, &number.to_le_bytes(), &value);
    }
    storage.close().unwrap();
    drop(storage);
    // Behind the log, each value stands in units of its own.
    let geometry = engine::Geometry {
        ring_bytes: config.log_size,
        ..engine::Geometry::default()
    };
    let path = folder.path().join(STORE);
    let all = std::fs::read(&path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    for at in (geometry.map_offset(0, 0)..all.len() as u64).step_by(4096) {
        let start = usize::try_from(at).unwrap();
        if all[start..].starts_with(&value) {
            file.write_all_at(b"rot", at).unwrap();
        }
    }
    let storage = open(&config, None).unwrap();
    let report = storage.check().unwrap();
    assert_eq!(report.held, u64::from(VALUES));
    let found = report.violations.len() as u64 + report.violations_more;
    assert_eq!(found, u64::from(VALUES));
    for number in 0..VALUES {
        let hashes = storage.hashes(&number.to_le_bytes(), false);
        assert!(
            matches!(hashes, Err(StorageError::Damaged { .. })),
            "{number}: {hashes:?}"
        );
    }
}

#[test]
fn keys_are_shown_as_they_were_typed() {
    for (key, wanted) in [
        (&b"a/b c.txt"[..], "\"a/b c.txt\""),
        ("K\u{f6}ln".as_bytes(), "\"K\u{f6}ln\""),
        (b"", "\"\""),
        (b"a\"b\\c", r#""a\"b\\c""#),
        (b"\x00\xffz\n\x1b[1m", r#""\u{0}\xffz\n\u{1b}[1m""#),
    ] {
        assert_eq!(shown(key), wanted);
    }
}
