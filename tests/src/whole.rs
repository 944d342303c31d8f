//! The engine as the subject: the whole store on the simulated disk, driven by one thread.
//!
//! A value of the model is an entry, meta and parts, as `encode` writes it. The store is always
//! left as a crash leaves it (dropping the subject writes nothing), but for the operation that
//! closes it.

mod entry;
mod kinds;

use crate::faults::Class;
use crate::model::{Change, Contents};
use crate::rng::Rng;
use crate::subject::{BROKEN, Env, RotPlace, Run, Subject};
use engine::io::Disk;
use engine::planted::{self, Bug};
use engine::{
    Batch, Decision, Durability, Entry, Error, Geometry, NewEntry, NewPart, Options, Snapshot,
    Store, Summary, Tree,
};
use entry::{decode, encode};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One step of a store's history.
#[derive(Debug, Clone)]
pub enum Op {
    /// Commits the changes as one batch, durably or not. Trees are created as needed.
    Commit(Vec<Change>, bool),
    /// Creates the tree, or drops it if it is there.
    CreateOrDrop(Vec<u8>),
    /// Adds a part to an entry and keeps the others where they are.
    Keep {
        /// The tree.
        tree: Vec<u8>,
        /// The key.
        key: Vec<u8>,
        /// The new part.
        part: Part,
    },
    /// Begins a value that is streamed, and leaves it off.
    Abandon(u64),
    /// Streams a value piece by piece, and commits it durably.
    Stream {
        /// The tree.
        tree: Vec<u8>,
        /// The key.
        key: Vec<u8>,
        /// The value.
        part: Part,
    },
    /// Deletes a range of keys of a tree, low inclusive and high exclusive.
    DeleteRange(Vec<u8>, Vec<u8>, Vec<u8>),
    /// Gets every key without waiting, and some that are not there.
    GetAsync,
    /// Opens what the disk holds now for reading only, and compares.
    ReadOnly,
    /// Makes a backup, opens it and compares.
    Backup,
    /// Takes a checkpoint.
    Checkpoint,
    /// Takes some steps of one.
    Step(u32),
    /// Takes one step by step, with a commit of each batch in turn between the steps.
    Paced(Vec<Vec<Change>>),
    /// Makes durable what was buffered.
    Flush,
    /// Takes a snapshot and holds it.
    Hold,
    /// Compares the held snapshot with what was there then, and lets it go.
    Release,
    /// Is killed and opened again, so many times.
    Reopen(u32),
    /// Is closed and opened again.
    Close,
    /// Reads everything and checks every invariant.
    Scrub,
    /// Leaves off a value that is streamed, and gives the free space back.
    Punch,
}

impl Op {
    /// Commits one plain value durably.
    pub fn put(tree: &[u8], key: &[u8], value: &[u8]) -> Self {
        let change = Change::Put {
            tree: tree.to_vec(),
            key: key.to_vec(),
            value: encode(&[], &[value.to_vec()]),
        };
        Self::Commit(vec![change], true)
    }
}

/// Bytes of a part, by their length in a report.
#[derive(Clone)]
pub struct Part(Vec<u8>);

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The store.
pub struct Whole {
    store: Option<Store>,
    held: Vec<Held>,
    /// How many operations of the disk had failed when it was opened.
    failures: u64,
    /// What the last dump gives as each tree's count and sum.
    sums: BTreeMap<Vec<u8>, Summary>,
}

/// What one tree holds.
type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// A snapshot and what each tree of then held then; a handle outlives its tree's name.
struct Held {
    snapshot: Snapshot,
    trees: Vec<(Tree, Entries)>,
}

impl Drop for Whole {
    fn drop(&mut self) {
        if let Some(store) = self.store.take() {
            store.abandon();
        }
    }
}

/// How the tests open a store: every edge is near.
pub fn options() -> Options {
    Options {
        // Room for a node or two, so that readers read.
        cache_bytes: 2 << 10,
        memtable_bytes: 12 << 10,
        log_bytes: Geometry::tiny().ring_bytes,
        geometry: Geometry::tiny(),
        ..Options::default()
    }
}

/// The model's value of an entry with this meta and these parts.
pub fn entry_value(meta: &[u8], parts: &[Vec<u8>]) -> Vec<u8> {
    encode(meta, parts)
}

/// The meta and parts of a model's value.
pub fn entry_of_value(value: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    decode(value)
}

#[expect(clippy::needless_pass_by_value, reason = "so map_err hands it over")]
fn text(error: Error) -> String {
    error.to_string()
}

fn plant(env: &Env) {
    planted::plant(env.bug.map(|bug| Bug::ALL[bug]));
}

fn open_on(env: &Env) -> Result<Store, Error> {
    plant(env);
    let disk = Arc::clone(&env.disk) as Arc<dyn Disk>;
    Store::open_on(disk, env.world.clone(), &options())
}

impl Whole {
    /// The store, if it is open.
    pub fn store(&self) -> Result<&Store, String> {
        self.store.as_ref().ok_or_else(|| "closed".to_owned())
    }

    fn of(store: Store, env: &Env) -> Self {
        Self {
            store: Some(store),
            held: Vec::new(),
            failures: env.disk.failures(),
            sums: BTreeMap::new(),
        }
    }

    /// Commits what `work` commits, which is `changes`, and keeps the books.
    fn issue<T>(
        &self,
        changes: &[Change],
        durable: bool,
        run: &mut Run,
        work: impl FnOnce(&Store) -> Result<T, Error>,
    ) -> Result<T, String> {
        let store = self.store()?;
        if store.stats().poisoned.is_some() {
            return match work(store) {
                Ok(_) => Err(format!("{BROKEN}a poisoned store takes {changes:?}")),
                Err(error) => Err(text(error)),
            };
        }
        let number = run.issue(changes);
        match work(store) {
            Ok(done) => {
                if durable {
                    run.acknowledge(number);
                }
                Ok(done)
            }
            Err(error) => {
                // What happened to it is unknown only if the log could not be written.
                if store.stats().poisoned.is_none() {
                    run.retract();
                }
                Err(text(error))
            }
        }
    }

    fn has_tree(&self, name: &[u8]) -> Result<bool, String> {
        Ok(self.store()?.trees().iter().any(|tree| tree.name == name))
    }

    fn tree(&self, name: &[u8], run: &mut Run) -> Result<Tree, String> {
        if !self.has_tree(name)? {
            let changes = [Change::CreateTree(name.to_vec())];
            self.issue(&changes, true, run, |store| store.create_tree(name))?;
        }
        self.store()?.tree(name).map_err(text)
    }

    fn commit(&self, changes: &[Change], durable: bool, run: &mut Run) -> Result<(), String> {
        let mut batch = Batch::new();
        for change in changes {
            match change {
                Change::Put { tree, key, value } => {
                    let (meta, parts) = decode(value);
                    let parts = parts.into_iter().map(NewPart::Bytes).collect();
                    batch.put_entry(&self.tree(tree, run)?, key, NewEntry { meta, parts });
                }
                Change::Delete { tree, key } => {
                    if self.has_tree(tree)? {
                        batch.delete(&self.tree(tree, run)?, key);
                    }
                }
                Change::CreateTree(_) | Change::DropTree(_) => {
                    unreachable!("trees come and go alone")
                }
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let durability = if durable {
            Durability::Durable
        } else {
            Durability::Buffered
        };
        self.issue(changes, durable, run, |store| {
            store.commit(batch, durability)
        })
        .map(|_| ())
    }

    /// Adds a part to what the entry has; past three, the first one goes.
    fn keep(&self, tree: &[u8], key: &[u8], part: &Part, run: &mut Run) -> Result<(), String> {
        let handle = self.tree(tree, run)?;
        let newest = run.ledger.newest();
        let old = newest.and_then(|contents| contents.get(tree)?.get(key));
        let (meta, mut parts) = old.map_or_else(Default::default, |value| decode(value));
        let kept = usize::from(parts.len() > 2)..parts.len();
        parts = parts[kept.clone()].to_vec();
        parts.push(part.0.clone());
        let value = encode(&meta, &parts);
        let change = Change::Put {
            tree: tree.to_vec(),
            key: key.to_vec(),
            value,
        };
        self.issue(&[change], true, run, |_| {
            handle.update(key, Durability::Durable, |old| {
                let meta = old.map_or(Vec::new(), |old| old.meta().to_vec());
                let mut entry = NewEntry::with_meta(meta);
                for index in kept.clone() {
                    entry = entry.part(NewPart::Keep(index));
                }
                Ok(Decision::Put(entry.part(NewPart::Bytes(part.0.clone()))))
            })
        })
        .map(|_| ())
    }

    /// A whole checkpoint, in steps with other work between them.
    fn paced(&mut self, batches: &[Vec<Change>], run: &mut Run) -> Result<(), String> {
        let mut batches = batches.iter().cycle();
        for step in 0.. {
            let done = self.store()?.step().map_err(text)?;
            self.store()?.audit_owners()?;
            if done || step > 40 {
                break;
            }
            if let Some(batch) = batches.next() {
                self.commit(batch, step % 3 > 0, run)?;
            }
        }
        Ok(())
    }

    fn reopen(&mut self, run: &mut Run) -> Result<(), String> {
        self.held.clear();
        if let Some(store) = self.store.take() {
            store.abandon();
        }
        self.store = Some(open_on(&run.env).map_err(text)?);
        self.failures = run.env.disk.failures();
        let contents = self.dump()?;
        self.audit()?;
        run.show(&contents)
            .map_err(|what| format!("{BROKEN}{what}"))
    }

    /// All contents; the sums are kept for the audit.
    fn read_all(&mut self) -> Result<Contents, String> {
        let store = self.store()?;
        let snapshot = store.snapshot();
        let mut contents = Contents::new();
        let mut sums = BTreeMap::new();
        for info in store.trees() {
            let tree = store.tree(&info.name).map_err(text)?;
            let mut sum = Summary::EMPTY;
            let mut entries = BTreeMap::new();
            for entry in snapshot.range(&tree, b"", None) {
                let entry = entry.map_err(text)?;
                sum = sum.plus(Summary::of(entry.fingerprint()));
                entries.insert(entry.key().to_vec(), value_of(&entry)?);
            }
            contents.insert(info.name.clone(), entries);
            sums.insert(info.name, sum);
        }
        drop(snapshot);
        self.sums = sums;
        Ok(contents)
    }

    fn hold(&mut self) -> Result<(), String> {
        let contents = self.dump()?;
        let store = self.store()?;
        let mut trees = Vec::new();
        for (name, entries) in contents {
            trees.push((store.tree(&name).map_err(text)?, entries));
        }
        let snapshot = store.snapshot();
        self.held.push(Held { snapshot, trees });
        Ok(())
    }

    fn release(&mut self) -> Result<(), String> {
        if self.held.is_empty() {
            return Ok(());
        }
        self.held.remove(0).check()
    }
}

/// What a store without threads shows to who opens it for reading.
fn opened_to_read(env: &Env, disk: Arc<dyn Disk>) -> Result<Whole, String> {
    plant(env);
    let store = Store::open_read_only_on(disk, env.world.clone(), &options()).map_err(text)?;
    Ok(Whole::of(store, env))
}

impl Held {
    /// Compares what it shows with what was there when it was taken.
    fn check(&self) -> Result<(), String> {
        for (tree, entries) in &self.trees {
            let mut seen = BTreeMap::new();
            for entry in self.snapshot.range(tree, b"", None) {
                let entry = entry.map_err(text)?;
                seen.insert(entry.key().to_vec(), value_of(&entry)?);
            }
            if seen != *entries {
                return Err(format!("{BROKEN}a held snapshot changed"));
            }
        }
        Ok(())
    }
}

/// The model's value of an entry, each part verified.
fn value_of(entry: &Entry) -> Result<Vec<u8>, String> {
    let mut parts = Vec::with_capacity(entry.parts_len());
    for index in 0..entry.parts_len() {
        let part = entry.part(index).map_err(text)?;
        parts.push(part.ok_or("a part is missing")?);
    }
    Ok(encode(entry.meta(), &parts))
}

fn some_bytes(rng: &mut Rng, least: u64, most: u64) -> Vec<u8> {
    let length = least + rng.below(most - least);
    let mut bytes = vec![0; usize::try_from(length).expect("small")];
    rng.fill(&mut bytes);
    bytes
}

fn some_key(rng: &mut Rng, keys: u64) -> Vec<u8> {
    vec![b'a' + u8::try_from(rng.below(keys)).expect("small")]
}

fn some_tree(rng: &mut Rng) -> Vec<u8> {
    vec![b's' + u8::try_from(rng.below(4) / 3).expect("small")]
}

fn some_put(rng: &mut Rng, keys: u64, least: u64, most: u64) -> Change {
    Change::Put {
        tree: some_tree(rng),
        key: some_key(rng, keys),
        value: encode(&[], &[some_bytes(rng, least, most)]),
    }
}

impl Subject for Whole {
    type Op = Op;
    const KINDS: &'static [&'static str] = &[
        "put small",
        "put extent",
        "overwrite",
        "delete",
        "batch over two trees",
        "create or drop tree",
        "checkpoint",
        "snapshot held",
        "snapshot released",
        "reopen",
        "scrub",
        "punch",
        // The rest takes part in random histories only.
        "put buffered",
        "flush",
        "keep parts",
        "step",
        "checkpoint with work in between",
        "checkpoint with work in between",
        "big batch",
        "put large",
        "put many",
        "delete many",
        "abandon a writer",
        "close",
        "reopen often",
        "checkpoint",
        "keep parts",
        "stream a value",
        "delete a range",
        "get without waiting",
        "open for reading",
        "backup",
    ];
    const EXHAUSTED_KINDS: usize = 12;
    const BUGS: &'static [&'static str] = Bug::NAMES;
    const SECTOR: usize = 512;

    // Of the sizes here, parts of up to 1024 bytes stay in leaves, those of up to about 1900 go
    // through the log to extents, and longer ones are extents at once.
    fn op(kind: usize, rng: &mut Rng) -> Op {
        match Self::KINDS[kind] {
            "put small" => Op::Commit(vec![some_put(rng, 8, 0, 200)], true),
            "put extent" => Op::Commit(vec![some_put(rng, 8, 1025, 5000)], true),
            "overwrite" => Op::Commit(vec![some_put(rng, 1, 0, 3500)], true),
            "put buffered" => Op::Commit(vec![some_put(rng, 8, 0, 3000)], false),
            "put large" => Op::Commit(vec![some_put(rng, 4, 10_000, 50_000)], true),
            "delete" => {
                let (tree, key) = (some_tree(rng), some_key(rng, 3));
                Op::Commit(vec![Change::Delete { tree, key }], rng.one_in(2))
            }
            "batch over two trees" => {
                let changes = [b's', b't'].map(|name| Change::Put {
                    tree: vec![name],
                    key: some_key(rng, 8),
                    value: encode(&some_bytes(rng, 0, 20), &[some_bytes(rng, 10, 3000)]),
                });
                Op::Commit(changes.into(), true)
            }
            "big batch" => {
                let put = |rng: &mut Rng| some_put(rng, 20, 300, 800);
                let changes = (0..=rng.below(4)).map(|_| put(rng)).collect();
                Op::Commit(distinct(changes), rng.one_in(2))
            }
            "put many" => {
                let first = rng.below(20);
                let changes = (first..first + 24).map(|at| Change::Put {
                    tree: b"s".to_vec(),
                    key: vec![b'a' + u8::try_from(at).expect("small"); 3],
                    value: encode(&[], &[some_bytes(rng, 0, 40)]),
                });
                Op::Commit(changes.collect(), true)
            }
            "delete many" => {
                let first = rng.below(30);
                let changes = (first..first + 14).map(|at| Change::Delete {
                    tree: b"s".to_vec(),
                    key: vec![b'a' + u8::try_from(at).expect("small"); 3],
                });
                Op::Commit(changes.collect(), true)
            }
            "create or drop tree" => Op::CreateOrDrop(some_tree(rng)),
            "keep parts" => Op::Keep {
                tree: some_tree(rng),
                key: some_key(rng, 2),
                part: Part(some_bytes(rng, 0, 7000)),
            },
            "stream a value" => Op::Stream {
                tree: some_tree(rng),
                key: some_key(rng, 8),
                part: Part(some_bytes(rng, 1025, 6000)),
            },
            "delete a range" => Op::DeleteRange(some_tree(rng), some_key(rng, 4), some_key(rng, 9)),
            "get without waiting" => Op::GetAsync,
            "open for reading" => Op::ReadOnly,
            "backup" => Op::Backup,
            "abandon a writer" => Op::Abandon(1025 + rng.below(4000)),
            "checkpoint" => Op::Checkpoint,
            "step" => Op::Step(1 + u32::try_from(rng.below(6)).expect("small")),
            "checkpoint with work in between" => {
                // Small ones; ones that fill the ring; medium ones, and extents, that fit where
                // some were.
                let kinds = [(1, 0, 60), (4, 300, 800), (1, 1025, 1900), (1, 2049, 3072)];
                let (puts, least, most) = kinds[rng.index(kinds.len())];
                let batch = |rng: &mut Rng| {
                    let changes = (0..puts).map(|_| some_put(rng, 5, least, most));
                    distinct(changes.collect())
                };
                let some = rng.below(5);
                Op::Paced((0..some).map(|_| batch(rng)).collect())
            }
            "flush" => Op::Flush,
            "snapshot held" => Op::Hold,
            "snapshot released" => Op::Release,
            "reopen" => Op::Reopen(1),
            "reopen often" => Op::Reopen(2 + u32::try_from(rng.below(12)).expect("small")),
            "close" => Op::Close,
            "scrub" => Op::Scrub,
            "punch" => Op::Punch,
            other => unreachable!("no kind {other}"),
        }
    }

    fn create(env: &Env) -> Result<Self, String> {
        plant(env);
        Store::format_on(&*env.disk, &env.world, &options()).map_err(text)?;
        let store = open_on(env).map_err(text)?;
        Ok(Self::of(store, env))
    }

    fn open(env: &Env) -> Result<Self, String> {
        let store = open_on(env).map_err(text)?;
        Ok(Self::of(store, env))
    }

    fn run_op(&mut self, op: &Op, run: &mut Run) -> Result<(), String> {
        match op {
            Op::Commit(changes, durable) => self.commit(changes, *durable, run),
            Op::CreateOrDrop(name) => {
                if self.has_tree(name)? {
                    let changes = [Change::DropTree(name.clone())];
                    self.issue(&changes, true, run, |store| store.drop_tree(name))
                } else {
                    self.tree(name, run).map(|_| ())
                }
            }
            Op::Keep { tree, key, part } => self.keep(tree, key, part, run),
            Op::Abandon(length) => {
                let tree = self.tree(b"s", run)?;
                let mut writer = tree.writer(*length).map_err(text)?;
                let half = usize::try_from(length / 2).expect("small");
                writer.push(&vec![7; half]).map_err(text)
            }
            Op::Stream { tree, key, part } => self.stream(tree, key, part, run),
            Op::DeleteRange(tree, low, high) => self.delete_range(tree, low, high, run),
            Op::GetAsync => self.get_async(),
            Op::ReadOnly => kinds::read_only(run),
            Op::Backup => self.backup(run),
            Op::Checkpoint => {
                self.store()?.checkpoint().map_err(text)?;
                run.acknowledge_all();
                Ok(())
            }
            Op::Step(steps) => {
                for _ in 0..*steps {
                    self.store()?.step().map_err(text)?;
                }
                Ok(())
            }
            Op::Paced(batches) => self.paced(batches, run),
            Op::Flush => {
                self.store()?.flush().map_err(text)?;
                run.acknowledge_all();
                Ok(())
            }
            Op::Hold => self.hold(),
            Op::Release => self.release(),
            Op::Reopen(times) => (0..*times).try_for_each(|_| self.reopen(run)),
            Op::Close => {
                self.held.clear();
                if let Some(store) = self.store.take() {
                    store.close().map_err(text)?;
                    run.acknowledge_all();
                }
                self.reopen(run)
            }
            Op::Scrub => {
                self.dump()?;
                self.audit()?;
                let report = self.store()?.verify().map_err(text)?;
                match report.violations.first() {
                    None => Ok(()),
                    Some(violation) => Err(violation.to_string()),
                }
            }
            Op::Punch => {
                self.make_free_space()?;
                while self.store()?.punch_some(2048).map_err(text)? > 0 {}
                // Every free unit, what was free at the opening too.
                while self.store()?.punch_at_rest(Some(512)).map_err(text)? > 0 {}
                Ok(())
            }
        }
    }

    /// The rule: a store is poisoned exactly if a write or a flush has failed since it was opened,
    /// whatever the error was (a full disk too, where space had been allocated before). What a
    /// failed write leaves is not known; everything else that fails (a read, an allocation, a punch)
    /// is the error of whoever asked for it, and a checkpoint that meets it is tried again.
    fn judge_faults(&mut self, env: &Env) -> Result<(), String> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        let failures = env.disk.failures_from(self.failures);
        let must = failures
            .iter()
            .any(|failure| matches!(failure.class, Class::Write | Class::Flush));
        match store.stats().poisoned {
            None if must => Err(format!("not poisoned by {failures:?}")),
            Some(cause) if !must => Err(format!("poisoned although only {failures:?}: {cause}")),
            _ => Ok(()),
        }
    }

    fn passes_when_full(op: &Op) -> bool {
        match op {
            Op::Commit(changes, _) => changes
                .iter()
                .all(|change| matches!(change, Change::Delete { .. })),
            Op::Checkpoint
            | Op::DeleteRange(..)
            | Op::GetAsync
            | Op::ReadOnly
            | Op::Backup
            | Op::Step(_)
            | Op::Flush
            | Op::Hold
            | Op::Release
            | Op::Reopen(_)
            | Op::Close
            | Op::Scrub
            | Op::Punch => true,
            Op::CreateOrDrop(_)
            | Op::Keep { .. }
            | Op::Stream { .. }
            | Op::Abandon(_)
            | Op::Paced(_) => false,
        }
    }

    fn is_honest(refusal: &str) -> bool {
        let honest = [
            "the log is damaged",
            "the newer superblock is damaged",
            "not a Dynomite store",
            "reading the store", // the other slot could not be read either
        ];
        honest.iter().any(|begin| refusal.starts_with(begin))
    }

    fn dump(&mut self) -> Result<Contents, String> {
        let store = self.store()?;
        let poisoned = store.stats().poisoned.is_some();
        let contents = self.read_all();
        if self.store()?.stats().poisoned.is_some() != poisoned {
            return Err(format!("{BROKEN}poisoned by a reader"));
        }
        contents
    }

    fn audit(&mut self) -> Result<(), String> {
        let store = self.store()?;
        for (name, counted) in &self.sums {
            let Ok(tree) = store.tree(name) else {
                continue; // dropped since the dump
            };
            let told = tree.fingerprint(b"", None).map_err(text)?;
            if told != *counted {
                let name = name.escape_ascii();
                return Err(format!(
                    "tree {name} tells {told:?}, its entries give {counted:?}"
                ));
            }
        }
        self.held.iter().try_for_each(Held::check)?;
        store.audit_owners()
    }

    fn rot_places(size: u64, rng: &mut Rng) -> Vec<RotPlace> {
        let geometry = Geometry::tiny();
        let slots = (0..2u64).map(|slot| RotPlace {
            name: format!("superblock slot {slot}"),
            ranges: [slot, slot + 2]
                .map(|copy| copy * 16_384..copy * 16_384 + 512)
                .into(),
            may_lose_last_ack: false,
            at_opening: true,
        });
        let copies = (0..4u64).map(|copy| {
            let at = copy * 16_384;
            RotPlace::new(format!("superblock copy {copy}"), at..at + 512)
        });
        let ring = geometry.ring_offset();
        let log = (0..geometry.ring_bytes / 512).map(|block| {
            let at = ring + block * 512;
            RotPlace {
                may_lose_last_ack: true,
                ..RotPlace::new(format!("log block {block}"), at..at + 512)
            }
        });
        let rest = geometry.region_table_offset(0);
        let sectors = size.saturating_sub(rest) / 512;
        let data: Vec<RotPlace> = (0..sectors.min(12))
            .map(|_| {
                let at = rest + rng.below(sectors) * 512;
                // It may be of an extent that only the last group of the log names.
                RotPlace {
                    may_lose_last_ack: true,
                    at_opening: false,
                    ..RotPlace::new(format!("the sector at {at}"), at..at + 512)
                }
            })
            .collect();
        slots.chain(copies).chain(log).chain(data).collect()
    }
}

/// Each key once: of several changes of one the last one counts, and the model takes them in turn.
fn distinct(changes: Vec<Change>) -> Vec<Change> {
    let mut last = BTreeMap::new();
    for change in changes {
        if let Change::Put { tree, key, .. } = &change {
            last.insert((tree.clone(), key.clone()), change);
        }
    }
    last.into_values().collect()
}
