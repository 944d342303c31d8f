//! Goal: the promises that threads could break, in thousands of schedules of a whole store with
//! its threads, on a disk that takes its time.
//!
//! - A commit acknowledged as durable is on the medium at that moment.
//! - What a reader sees of durable commits is on the medium, whole, and never goes back.
//! - Nobody waits for ever: a schedule in which all wait is a failure, and no timer helps.
//! - At most one leader writes the log.
//! - Closing while writers wait ends all of them, each with a fate that is true, told once; so does
//!   one that fails.
//! - A completion may do what it likes, closing the store too.
//! - A failed flush is told to all who wait.
//! - Who covers the last group waits for that group, whatever is committed meanwhile.
//! - A snapshot's values stay right while checkpoints reuse what nobody reads; so do the nodes that
//!   it reads them by, whoever else misses, keeps or drops the same ones in the cache.
//! - Parts that a thread helps to hash have their sums, and nobody waits for more.
//! - Who was told of a key finds it in a memtable, by itself and on a walk, whoever else walks.
//!
//! Method: half of the schedules random, half with few well-placed preemptions (PCT: Burckhardt,
//! Kothari, Musuvathi and Nagarakatte, 2010). That the tests can fail is a test of its own: each
//! planted fault must be found, and how many schedules that took is printed.

mod medium;

use self::medium::Medium;
use crate::io::AlignedBuf;
use crate::io::Disk;
use crate::memtable::{Key, Memtable, OpRef};
use crate::planted::{Bug, Race, plant, plant_race};
use crate::sums::{Helper, Part};
use crate::world::{Clock, Entropy, World};
use crate::{Durability, Error, Geometry, Options, Store, Tree};
use dmerkle::{Lsn, TreeId};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Schedules of a scenario, unless `DYNOMITE_SCHEDULES` says how many.
const SCHEDULES: usize = 4000;

/// Schedules of one kind in a row.
const TURN: usize = 20;

/// In so many a planted fault must be found.
const PLANTED_SCHEDULES: usize = 8_000;

fn schedules() -> usize {
    let wanted = std::env::var("DYNOMITE_SCHEDULES").ok();
    wanted.map_or(SCHEDULES, |number| number.parse().unwrap())
}

fn seed() -> u64 {
    let wanted = std::env::var("DYNOMITE_SCHEDULES_SEED").ok();
    wanted.map_or(20_261_122, |number| number.parse().unwrap())
}

/// Every look at it is a millisecond; every random number another.
struct Counted(AtomicU64);

impl Clock for Counted {
    fn now_ms(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl Entropy for Counted {
    fn fill(&self, bytes: &mut [u8]) {
        let number = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = number[at % 8] ^ 0x5a;
        }
    }
}

fn world() -> World {
    World {
        clock: Arc::new(Counted(AtomicU64::new(1))),
        entropy: Arc::new(Counted(AtomicU64::new(7))),
    }
}

fn options() -> Options {
    Options {
        log_bytes: Geometry::tiny().ring_bytes,
        geometry: Geometry::tiny(),
        memtable_bytes: 64 << 10,
        cache_bytes: 64 << 10,
        punch: false,
        ..Options::default()
    }
}

fn medium(image: Vec<u8>, scheduled: bool) -> Arc<Medium> {
    let geometry = Geometry::tiny();
    let ring = geometry.ring_offset()..geometry.ring_offset() + geometry.ring_bytes;
    Arc::new(Medium::new(image, ring, scheduled))
}

/// A store of one tree, `t`, with its threads.
fn start() -> (Arc<Medium>, Store, Tree) {
    start_with(options().cache_bytes)
}

/// The same with a cache of so many bytes.
fn start_with(cache_bytes: u64) -> (Arc<Medium>, Store, Tree) {
    static EMPTY: OnceLock<Vec<u8>> = OnceLock::new();
    let empty = EMPTY.get_or_init(|| {
        let disk = medium(Vec::new(), false);
        Store::format_on(&*disk, &world(), &options()).unwrap();
        disk.flush().unwrap();
        disk.durable()
    });
    let disk = medium(empty.clone(), true);
    let options = Options {
        cache_bytes,
        ..options()
    };
    let store = Store::open_with_threads_on(disk.clone(), world(), &options).unwrap();
    let tree = store.create_tree(b"t").unwrap();
    (disk, store, tree)
}

/// What a key holds if the power is cut now.
fn after_a_power_cut(disk: &Medium, key: &[u8]) -> Option<Vec<u8>> {
    let left: Arc<dyn Disk> = medium(disk.durable(), false);
    let store = Store::open_on(left, world(), &options()).unwrap();
    let tree = store.tree(b"t");
    let value = tree.ok().and_then(|tree| tree.get(key).unwrap());
    store.abandon();
    value
}

fn put(store: &Store, tree: &Tree, key: &[u8], value: &[u8], how: Durability) -> Result<(), Error> {
    let mut batch = store.batch();
    batch.put(tree, key, value);
    store.commit(batch, how).map(|_| ())
}

type Scenario = fn();

/// Runs a scenario under so many schedules; panics at the first that fails.
fn explore(scenario: Scenario, schedules: usize) -> usize {
    let tried = Arc::new(AtomicUsize::new(0));
    explore_counted(scenario, schedules, &tried);
    tried.load(Ordering::Relaxed)
}

fn explore_counted(scenario: Scenario, schedules: usize, tried: &Arc<AtomicUsize>) {
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let mut config = Config::new();
        config.stack_size = 1 << 20;
        config.silence_warnings = true;
        let tried = Arc::clone(tried);
        Runner::new(scheduler, config).run(move || {
            tried.fetch_add(1, Ordering::Relaxed);
            scenario();
        });
    };
    // By turns, because what one finds at once the other may never.
    for (turn, _) in (0_u64..).zip((0..schedules).step_by(2 * TURN)) {
        let seed = seed().wrapping_add(turn);
        run(Box::new(RandomScheduler::new_from_seed(seed, TURN)));
        run(Box::new(PctScheduler::new_from_seed(seed, 3, TURN)));
    }
}

// ---- The scenarios -------------------------------------------------------------------------------

fn acknowledged() {
    let (disk, store, tree) = start();
    let writers: Vec<_> = (0..3_u8)
        .map(|writer| {
            let (disk, store, tree) = (disk.clone(), store.clone(), tree.clone());
            thread::spawn(move || {
                for value in 0..2_u8 {
                    put(&store, &tree, &[writer], &[value], Durability::Durable).unwrap();
                    let left = after_a_power_cut(&disk, &[writer]);
                    assert_eq!(
                        left,
                        Some(vec![value]),
                        "acknowledged, and not on the medium"
                    );
                    let seen = tree.get(&[writer]).unwrap();
                    assert_eq!(seen, Some(vec![value]), "acknowledged, and not visible");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    store.close().unwrap();
}

/// Nothing but a start and an end: among writers the moment is rare in which a thread, about to
/// sleep, is not told.
fn stopping() {
    let (_disk, store, _tree) = start();
    store.close().unwrap();
}

fn readers() {
    let (disk, store, tree) = start();
    let writer = {
        let (store, tree) = (store.clone(), tree.clone());
        thread::spawn(move || {
            let commit = |value: u8| {
                let mut batch = store.batch();
                batch.put(&tree, b"a", [value]).put(&tree, b"b", [value]);
                (store.commit(batch, Durability::Durable).unwrap(), value)
            };
            (1..4).map(commit).collect::<Vec<_>>()
        })
    };
    let checkpoint = {
        let store = store.clone();
        thread::spawn(move || {
            store.checkpoint().unwrap();
        })
    };
    let mut last = None;
    let mut views = Vec::new();
    for _ in 0..3 {
        let snapshot = store.snapshot();
        let (a, b) = (snapshot.get(&tree, b"a"), snapshot.get(&tree, b"b"));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(a, b, "half of a batch is visible");
        assert!(last <= a, "a reader went back");
        assert_eq!(snapshot.get(&tree, b"a").unwrap(), a, "a snapshot changed");
        if let Some(seen) = &a {
            let left = after_a_power_cut(&disk, b"a");
            assert!(left.as_ref() >= Some(seen), "seen, and not on the medium");
        }
        views.push((snapshot.lsn(), a.as_ref().map(|a| a[0])));
        last = a;
    }
    let commits = writer.join().unwrap();
    for (at, seen) in views {
        let shown = commits.iter().rev().find(|(end, _)| *end <= at);
        assert_eq!(seen, shown.map(|(_, value)| *value), "what stands at {at}");
    }
    checkpoint.join().unwrap();
    store.close().unwrap();
}

/// Durable and buffered writers, and one who flushes, on a ring that fills up.
fn nobody_waits() {
    let (_, store, tree) = start();
    let mut threads: Vec<_> = [
        Durability::Durable,
        Durability::Buffered,
        Durability::Durable,
    ]
    .into_iter()
    .zip(0_u8..)
    .map(|(how, writer)| {
        let (store, tree) = (store.clone(), tree.clone());
        thread::spawn(move || {
            for round in 0..3_u8 {
                put(&store, &tree, &[writer, round], &[7; 900], how).unwrap();
            }
        })
    })
    .collect();
    let flusher = store.clone();
    threads.push(thread::spawn(move || {
        flusher.flush().unwrap();
    }));
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(tree.count().unwrap(), 9);
    store.close().unwrap();
}

/// Commits without waiting. Counts how often its fate is told, by the call or by the completion.
fn put_async(store: &Store, tree: &Tree) -> (thread::JoinHandle<()>, Arc<AtomicUsize>) {
    let told = Arc::new(AtomicUsize::new(0));
    let noted = Arc::clone(&told);
    let (store, tree) = (store.clone(), tree.clone());
    let thread = thread::spawn(move || {
        let mut batch = store.batch();
        batch.put(&tree, b"async", b"x".to_vec());
        let completion = Arc::clone(&noted);
        let joined = store.commit_async(batch, Durability::Durable, move |_| {
            completion.fetch_add(1, Ordering::Relaxed);
        });
        if joined.is_err() {
            noted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (thread, told)
}

fn closing() {
    let (disk, store, tree) = start();
    let writers: Vec<_> = (0..2_u8)
        .map(|writer| {
            let (disk, store, tree) = (disk.clone(), store.clone(), tree.clone());
            thread::spawn(
                move || match put(&store, &tree, &[writer], b"x", Durability::Durable) {
                    Ok(()) => {
                        let left = after_a_power_cut(&disk, &[writer]);
                        assert!(left.is_some(), "acknowledged, and not on the medium");
                    }
                    Err(error) => assert!(matches!(error, Error::Closed), "{error}"),
                },
            )
        })
        .collect();
    let (asynchronous, told) = put_async(&store, &tree);
    store.close().unwrap();
    for thread in writers.into_iter().chain([asynchronous]) {
        thread.join().unwrap();
    }
    assert_eq!(told.load(Ordering::Relaxed), 1, "a completion is told once");
}

/// A checkpoint poisons the store while it closes.
fn closing_poisoned() {
    let (disk, store, tree) = start();
    disk.break_writes_beside_the_log();
    let writers: Vec<_> = (0..2_u8)
        .map(|writer| {
            let (disk, store, tree) = (disk.clone(), store.clone(), tree.clone());
            thread::spawn(move || {
                let fate = put(&store, &tree, &[writer], b"x", Durability::Durable);
                if fate.is_ok() {
                    let left = after_a_power_cut(&disk, &[writer]);
                    assert!(left.is_some(), "acknowledged, and not on the medium");
                }
            })
        })
        .collect();
    let (asynchronous, told) = put_async(&store, &tree);
    let checkpoint = {
        let store = store.clone();
        thread::spawn(move || _ = store.checkpoint())
    };
    let _ = store.close();
    let others = [asynchronous, checkpoint];
    for thread in writers.into_iter().chain(others) {
        thread.join().unwrap();
    }
    assert_eq!(told.load(Ordering::Relaxed), 1, "a completion is told once");
}

/// A completion closes the store while another thread does and a checkpoint runs.
fn closing_in_a_completion() {
    let (_, store, tree) = start();
    let told = Arc::new(crate::sync::OnceLock::default());
    let (tells, closes) = (Arc::clone(&told), store.clone());
    let mut batch = store.batch();
    batch.put(&tree, b"async", b"x".to_vec());
    let completion = move |fate: Result<Lsn, Error>| {
        closes.close().unwrap();
        tells.set(fate.is_ok()).unwrap();
    };
    let joined = store.commit_async(batch, Durability::Durable, completion);
    joined.unwrap();
    let checkpoint = {
        let store = store.clone();
        thread::spawn(move || _ = store.checkpoint().unwrap())
    };
    store.close().unwrap();
    assert!(told.wait(), "it joined before the store was closed");
    checkpoint.join().unwrap();
}

/// A completion waits for a commit of its own, while leaders hand over to the thread that it runs on.
fn committing_in_a_completion() {
    let (_, store, tree) = start();
    let told = Arc::new(crate::sync::OnceLock::default());
    let tells = Arc::clone(&told);
    let mut batch = store.batch();
    batch.put(&tree, b"async", b"x".to_vec());
    let (commits, within) = (store.clone(), tree.clone());
    let completion = move |_| {
        let _ = put(&commits, &within, b"within", b"x", Durability::Durable);
        tells.set(true).unwrap();
    };
    store
        .commit_async(batch, Durability::Durable, completion)
        .unwrap();
    put(&store, &tree, b"beside", b"x", Durability::Durable).unwrap();
    store.close().unwrap();
    assert!(told.wait());
}

fn failing() {
    let (disk, store, tree) = start();
    put(&store, &tree, b"before", b"x", Durability::Durable).unwrap();
    let writers: Vec<_> = (0..3_u8)
        .map(|writer| {
            let (disk, store, tree) = (disk.clone(), store.clone(), tree.clone());
            thread::spawn(move || {
                let how = if writer == 2 {
                    Durability::Buffered
                } else {
                    Durability::Durable
                };
                let fate = put(&store, &tree, &[writer], b"x", how);
                if fate.is_ok() && writer < 2 {
                    let left = after_a_power_cut(&disk, &[writer]);
                    assert!(left.is_some(), "acknowledged, and not on the medium");
                }
            })
        })
        .collect();
    disk.break_flushes();
    for writer in writers {
        writer.join().unwrap();
    }
    let refused = put(&store, &tree, b"after", b"x", Durability::Durable);
    assert!(
        matches!(refused, Err(Error::Poisoned { .. })),
        "{refused:?}"
    );
    assert_eq!(tree.get(b"before").unwrap(), Some(b"x".to_vec()));
    assert!(store.close().is_err());
}

/// Commits come and go while the one before them is covered.
fn covering() {
    let (_, store, tree) = start();
    put(&store, &tree, b"before", b"x", Durability::Durable).unwrap();
    let writer = {
        let (store, tree) = (store.clone(), tree.clone());
        thread::spawn(move || {
            for key in [b"a", b"b"] {
                put(&store, &tree, key, b"x", Durability::Durable).unwrap();
            }
        })
    };
    store.core().cover().unwrap();
    writer.join().unwrap();
    store.close().unwrap();
}

/// Values of their own extents, overwritten and checkpointed while a snapshot reads the old ones.
fn snapshots() {
    let (_, store, tree) = start();
    put(&store, &tree, b"k", &[1; 1500], Durability::Durable).unwrap();
    store.checkpoint().unwrap();
    let overwriter = {
        let (store, tree) = (store.clone(), tree.clone());
        thread::spawn(move || {
            for value in 2..5_u8 {
                put(&store, &tree, b"k", &[value; 1500], Durability::Durable).unwrap();
                store.checkpoint().unwrap();
            }
        })
    };
    for _ in 0..2 {
        let snapshot = store.snapshot();
        let first = snapshot.get(&tree, b"k").unwrap().unwrap();
        thread::yield_now();
        let again = snapshot.get(&tree, b"k").unwrap().unwrap();
        assert_eq!(first, again, "a snapshot changed");
        assert!(
            first.iter().all(|byte| *byte == first[0]),
            "two values in one"
        );
    }
    overwriter.join().unwrap();
    store.close().unwrap();
}

/// Keys of a tree that has branches: leaves hold four entries.
const KEYS: u8 = 8;

/// A round of values for all keys, as one batch.
fn fill(store: &Store, tree: &Tree, round: u8) {
    let mut batch = store.batch();
    for key in 0..KEYS {
        batch.put(tree, &[key], [round; 40]);
    }
    store.commit(batch, Durability::Buffered).unwrap();
}

/// One writes all keys again, a checkpoint behind each round, and one reads: never what is older than
/// what was acknowledged before.
fn rewritten_and_read(store: &Store, tree: &Tree) -> [thread::JoinHandle<()>; 2] {
    let acknowledged = Arc::new(AtomicUsize::new(1));
    let writer = {
        let (store, tree) = (store.clone(), tree.clone());
        let acknowledged = Arc::clone(&acknowledged);
        thread::spawn(move || {
            for round in 2..6 {
                fill(&store, &tree, round);
                acknowledged.store(round.into(), Ordering::SeqCst);
                store.checkpoint().unwrap();
            }
        })
    };
    let tree = tree.clone();
    let reader = thread::spawn(move || {
        let mut last = 0;
        for _ in 0..4 {
            for key in [0, KEYS - 1] {
                let least = acknowledged.load(Ordering::SeqCst).max(last);
                last = tree.get(&[key]).unwrap().unwrap()[0].into();
                assert!(least <= last, "{last} is read, {least} stands there");
            }
        }
    });
    [writer, reader]
}

/// Two readers that miss the same nodes while checkpoints write other nodes into the blocks of
/// those before: a single read shows what was acknowledged before it, a walk shows one round.
fn nodes(cache_bytes: u64) {
    let (_, store, tree) = start_with(cache_bytes);
    fill(&store, &tree, 1);
    store.checkpoint().unwrap();
    let [writer, reader] = rewritten_and_read(&store, &tree);
    let snapshot = store.snapshot();
    let first = snapshot.get(&tree, &[0]).unwrap().unwrap();
    let mut walked = 0;
    for (entry, key) in snapshot.range(&tree, &[], None).zip(0..) {
        let entry = entry.unwrap();
        assert_eq!(entry.key(), [key], "a key is not where it was");
        let value = entry.part(0).unwrap();
        assert_eq!(value.as_ref(), Some(&first), "two rounds in one walk");
        walked += 1;
    }
    assert_eq!(walked, KEYS, "a walk lost entries");
    drop(snapshot);
    reader.join().unwrap();
    writer.join().unwrap();
    store.close().unwrap();
}

/// All nodes stay in memory, those of blocks that were reused too.
fn nodes_kept() {
    nodes(64 << 10);
}

/// Hardly any does, while it is held either.
fn nodes_dropped() {
    nodes(3 << 10);
}

/// Bases are published while a reader keeps the top of one.
fn tops() {
    let (_, store, tree) = start();
    fill(&store, &tree, 1);
    store.checkpoint().unwrap();
    for thread in rewritten_and_read(&store, &tree) {
        thread.join().unwrap();
    }
    store.close().unwrap();
}

/// Two writers have parts hashed, and the thread that helps ends while they do.
fn summing() {
    let helper = Arc::new(Helper::default());
    helper.begin();
    let serving = Arc::clone(&helper);
    let serving = thread::spawn(move || serving.serve());
    let writers = [3_u8, 7].map(|byte| {
        let helper = Arc::clone(&helper);
        thread::spawn(move || {
            let part = |number| Part {
                bytes: Arc::new(AlignedBuf::copy_of(&[byte ^ number; 64])),
                length: 60,
                chunk_bytes: 16 << 10,
            };
            let sums = helper.sum((0..3).map(part).collect());
            for (sums, number) in sums.iter().zip(0_u8..) {
                let bytes = [byte ^ number; 60];
                assert_eq!(&sums.hash, blake3::hash(&bytes).as_bytes());
            }
        })
    });
    helper.end();
    for thread in writers.into_iter().chain([serving]) {
        thread.join().unwrap();
    }
}

/// A writer adds keys to a memtable and tells of each; two walk through it.
fn walking() {
    const KEYS: [&[u8]; 4] = [b"m", b"c", b"x", b"e"];
    let table = Arc::new(Memtable::new(1 << 20));
    let told = Arc::new(crate::sync::atomic::AtomicUsize::new(0));
    let walkers = [0, 1].map(|_| {
        let (table, told) = (Arc::clone(&table), Arc::clone(&told));
        thread::spawn(move || {
            for _ in 0..2 {
                let told = told.load(Ordering::Acquire);
                let walked: Vec<_> = table.places().map(|at| table.key(at).key).collect();
                assert!(walked.is_sorted());
                for key in &KEYS[..told] {
                    assert!(walked.contains(key), "{told} were told");
                    assert!(table.newest(Key::new(TreeId(1), key)).is_some());
                }
            }
        })
    });
    for (told_now, key) in (1..).zip(KEYS) {
        let op = std::iter::once((Key::new(TreeId(1), key), OpRef::Delete));
        let lsn = Lsn(told_now as u64);
        table.insert(op, lsn, lsn, &|_, _| false, &Geometry::tiny());
        told.store(told_now, Ordering::Release);
    }
    for walker in walkers {
        walker.join().unwrap();
    }
}

// ---- The promises --------------------------------------------------------------------------------

macro_rules! promises {
    ($($(#[doc = $doc:literal])* $promise:ident: $scenario:ident / $share:literal;)*) => {
        $(
            #[test]
            fn $promise() {
                let began = std::time::Instant::now();
                let tried = explore($scenario, schedules() / $share);
                println!("{}: {tried} schedules, {:?}", stringify!($promise), began.elapsed());
            }
        )*
    };
}

promises! {
    what_is_acknowledged_is_on_the_medium: acknowledged / 1;
    no_reader_sees_a_state_half_published: readers / 1;
    nobody_waits_for_ever: nobody_waits / 1;
    closing_ends_all_who_wait: closing / 1;
    a_completion_may_close_the_store: closing_in_a_completion / 1;
    a_completion_may_commit: committing_in_a_completion / 1;
    closing_a_store_that_fails_ends_all_who_wait: closing_poisoned / 1;
    a_failed_flush_is_told_to_all: failing / 1;
    who_covers_a_group_waits_for_no_other: covering / 2;
    a_snapshot_stays_right_while_blocks_are_reused: snapshots / 2;
    a_node_is_its_pointers_whoever_else_reads: nodes_kept / 2;
    a_node_that_left_the_cache_is_read_again: nodes_dropped / 2;
    a_kept_top_is_its_bases: tops / 2;
    parts_are_hashed_once_and_nobody_waits_for_more: summing / 1;
    who_was_told_of_a_key_finds_it_on_a_walk: walking / 1;
}

/// What is planted.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Race(Race),
    Bug(Bug),
}

/// Schedules until a planted fault is found.
fn schedules_until_found(fault: Fault, scenario: Scenario) -> Option<usize> {
    match fault {
        Fault::Race(race) => plant_race(Some(race)),
        Fault::Bug(bug) => plant(Some(bug)),
    }
    let tried = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tried);
    let run = move || explore_counted(scenario, PLANTED_SCHEDULES, &counted);
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err();
    plant_race(None);
    plant(None);
    found.then(|| tried.load(Ordering::Relaxed))
}

#[test]
fn every_planted_fault_is_found() {
    let faults: [(Fault, Scenario); 14] = [
        (Fault::Bug(Bug::DropLogFlush), acknowledged),
        (Fault::Bug(Bug::AckBeforeFlush), acknowledged),
        (Fault::Race(Race::ShowEarly), readers),
        (Fault::Race(Race::TornView), readers),
        (Fault::Race(Race::TwoLeaders), acknowledged),
        (Fault::Race(Race::ForgetHandOver), acknowledged),
        (Fault::Race(Race::ForgetMoved), nobody_waits),
        (Fault::Race(Race::StopUnlocked), stopping),
        (Fault::Bug(Bug::ReleaseWhileRead), snapshots),
        (Fault::Bug(Bug::ReleaseWhileRead), nodes_dropped),
        (Fault::Race(Race::CacheByBlock), nodes_kept),
        (Fault::Race(Race::TopOfNewest), tops),
        (Fault::Race(Race::ForgetSummed), summing),
        (Fault::Race(Race::WalkUnlinked), walking),
    ];
    let found = faults.map(|(fault, scenario)| (fault, schedules_until_found(fault, scenario)));
    for (fault, tried) in &found {
        match tried {
            Some(tried) => println!("{fault:?}: found after {tried} schedules"),
            None => println!("{fault:?}: NOT FOUND"),
        }
    }
    assert!(found.iter().all(|(_, tried)| tried.is_some()));
}
