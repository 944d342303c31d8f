//! How many instructions the small operations take: `cargo bench -p dynomite-benches --bench
//! instructions`. Times are noisy; instructions, counted by valgrind's callgrind, are not. What rises
//! by more than 5 % over `benches/instructions.txt` fails; `-- --write` writes that file anew.
//!
//! Each operation is run so many times and twice as many, in processes of their own: the difference
//! is what the operation takes, without what made it ready. The limit beside it is that of the same
//! bytes copied or hashed. Valgrind shows the program no AVX-512, so the counts are of what runs on
//! most machines.

use dmerkle::diff::{self, KeyRange, Limits, Session, Sorted};
use dmerkle::fingerprint::FingerprintKey;
use dmerkle::format::body::{BodyBuilder, BodyRef};
use dmerkle::format::log_block::{GroupHeader, encode_group, group_blocks};
use dmerkle::format::pointer::Pointer;
use dmerkle::format::record::{BatchWriter, Operation, Replaced};
use dmerkle::tree::{Apply, Change, Ground, Lookup, Node, Op, Root, Settings, Source, Step, build};
use dmerkle::types::{BlockId, Generation, Incarnation, Lsn, OpeningId, Order, Run, Sum, TreeId};
use dmerkle::{Corrupt, Geometry};
use engine::alloc::{Allocator, Shortage};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

/// What may be added unnoticed, in percent.
const RISE_MAX: u64 = 5;

/// An operation that is counted.
struct Counted {
    name: &'static str,
    /// How often it is run, and then twice as often.
    times: u64,
    /// Makes ready, then runs it so often.
    run: fn(u64),
}

const ALL: [Counted; 10] = [
    Counted {
        name: "node search: a lookup in 20,000 entries",
        times: 20_000,
        run: lookups,
    },
    Counted {
        name: "apply: an operation, 1 in 100 of 20,000 entries",
        times: 2000,
        run: apply,
    },
    Counted {
        name: "apply: an insert, 10 for a leaf of 20,000 entries",
        times: 4000,
        run: apply_densely,
    },
    Counted {
        name: "apply: an insert behind the last of 20,000 entries",
        times: 20_000,
        run: append_to_tree,
    },
    Counted {
        name: "allocator: an extent taken and one given back",
        times: 20_000,
        run: allocate,
    },
    Counted {
        name: "log append: a put of 150 B encoded, framed, checked",
        times: 5000,
        run: append,
    },
    Counted {
        name: "  limit: a block of 4 KiB copied and checked",
        times: 5000,
        run: copy_and_check,
    },
    Counted {
        name: "hash: the fingerprint of an entry of 150 B",
        times: 5000,
        run: fingerprint,
    },
    Counted {
        name: "  limit: BLAKE3 of the same bytes",
        times: 5000,
        run: blake3,
    },
    Counted {
        name: "diff: two copies of 20,000 entries, 10 differ",
        times: 4,
        run: differ,
    },
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name, times] = &words[..]
        && flag == "--count"
    {
        let times = times.parse().expect("a number");
        let counted = ALL.iter().find(|counted| counted.name == name);
        (counted.expect("one of them").run)(times);
        return ExitCode::SUCCESS;
    }
    if !words.iter().any(|word| word == "--bench") {
        // `cargo test --benches`: it only shows that it runs.
        for counted in &ALL {
            (counted.run)(1);
        }
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("passed over: there is no valgrind");
        return ExitCode::SUCCESS;
    }
    compare(words.iter().any(|word| word == "--write"))
}

/// Counts all and prints them beside what was written down. Fails where one has risen.
fn compare(write: bool) -> ExitCode {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.txt");
    let here = surroundings();
    let text = std::fs::read_to_string(&place).unwrap_or_default();
    let same = text.lines().next() == Some(&here);
    let before: BTreeMap<&str, u64> = text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter_map(|(count, name)| Some((name, count.parse().ok()?)))
        .collect();
    let mut made = format!("{here}\n");
    let mut risen = 0;
    println!("{:55} {:>12} {:>12}", "operation", "instructions", "before");
    for counted in &ALL {
        let Some(now) = count(counted) else {
            println!("{}: valgrind gave no count", counted.name);
            return ExitCode::FAILURE;
        };
        let _ = writeln!(made, "{now}\t{}", counted.name);
        let before = before.get(counted.name).copied();
        let rose = before.is_none_or(|before| now * 100 > before * (100 + RISE_MAX));
        risen += u32::from(rose);
        println!(
            "{:55} {now:>12} {:>12}{}",
            counted.name,
            before.map_or_else(|| "-".into(), |before| before.to_string()),
            if rose { "  RISEN" } else { "" }
        );
    }
    if write {
        if let Err(error) = std::fs::write(&place, made) {
            println!("{}: {error}", place.display());
            return ExitCode::FAILURE;
        }
        return ExitCode::SUCCESS;
    }
    if !same {
        println!("not judged: the counts before were made elsewhere, not with {here}");
        return ExitCode::SUCCESS;
    }
    if risen > 0 {
        println!("{risen} rose by more than {RISE_MAX} %; if that is wanted: -- --write");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// What counts depend on beside the code: compiler, valgrind, and the processor and C library, by
/// which functions are chosen at run time.
fn surroundings() -> String {
    let first_line = |program: &str, word: &str| {
        let said = Command::new(program).arg(word).output();
        let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let said = said.unwrap_or_default();
        said.lines().next().unwrap_or_default().trim().to_owned()
    };
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or_default();
    [
        first_line("rustc", "--version"),
        first_line("valgrind", "--version"),
        first_line("ldd", "--version"),
        processor.trim_start_matches([' ', '\t', ':']).to_owned(),
    ]
    .join("; ")
}

/// Instructions that one operation takes.
fn count(counted: &Counted) -> Option<u64> {
    let once = instructions(counted, counted.times)?;
    let twice = instructions(counted, 2 * counted.times)?;
    twice.checked_sub(once)?.checked_div(counted.times)
}

fn instructions(counted: &Counted, times: u64) -> Option<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().ok()?)
        .args(["--count", counted.name, &times.to_string()])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.split("Collected :").nth(1)?;
    collected.split_whitespace().next()?.parse().ok()
}

// ---- The operations ------------------------------------------------------------------------------

const ENTRIES: u64 = 20_000;

const TREE: TreeId = TreeId(1);

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn key(number: u64) -> Vec<u8> {
    format!("{:020x}", random(&mut number.clone())).into_bytes()
}

fn body(fill: u8) -> Vec<u8> {
    let mut body = BodyBuilder::new(b"");
    body.inline(&[fill; 150]);
    body.finish()
}

/// Nodes in memory, decoded when they are written.
#[derive(Default)]
struct Memory {
    nodes: BTreeMap<u64, Arc<Node<Vec<u8>>>>,
    next: u64,
    written: Vec<(BlockId, Vec<u8>)>,
}

impl Source for Memory {
    type Bytes = Vec<u8>;
    type Error = Corrupt;

    fn node(&mut self, _: TreeId, pointer: &Pointer) -> Result<Arc<Node<Vec<u8>>>, Corrupt> {
        if let Some(node) = self.nodes.get(&pointer.block.0) {
            return Ok(Arc::clone(node));
        }
        let written = self
            .written
            .iter()
            .find(|(block, _)| *block == pointer.block);
        let bytes = written.expect("it was written").1.clone();
        let node = Arc::new(Node::decode(bytes, pointer, TREE)?);
        self.nodes.insert(pointer.block.0, Arc::clone(&node));
        Ok(node)
    }
}

impl Ground for Memory {
    fn place(&mut self, order: Order) -> Result<BlockId, Corrupt> {
        self.next = (self.next + 1).next_multiple_of(order.units().into());
        let block = BlockId(self.next);
        self.next += u64::from(order.units()) - 1;
        Ok(block)
    }

    fn write(&mut self, _: u8, pointer: &Pointer, bytes: Vec<u8>) -> Result<(), Corrupt> {
        self.written.push((pointer.block, bytes));
        Ok(())
    }

    fn retire_node(&mut self, _: &Pointer) {}

    fn retire_extent(&mut self, _: Run) {}
}

fn settings(generation: u64) -> Settings {
    Settings {
        tree: TREE,
        geometry: Geometry::default(),
        generation: Generation(generation),
        opening: OpeningId(1),
        key: FingerprintKey::PUBLIC,
    }
}

fn tree() -> (Memory, Root, Vec<Vec<u8>>) {
    let mut keys: Vec<_> = (0..ENTRIES).map(key).collect();
    keys.sort();
    let mut memory = Memory::default();
    let body = body(1);
    let entries = keys.iter().map(|key| (key, &body));
    let built = build(settings(1), entries, &mut memory).expect("memory does not fail");
    for key in &keys {
        assert!(find(&mut memory, built.root, key));
    }
    (memory, built.root, keys)
}

fn find(memory: &mut Memory, root: Root, key: &[u8]) -> bool {
    let mut lookup = Lookup::new(key);
    let mut pointer = root.pointer;
    loop {
        let node = memory.node(TREE, &pointer).expect("memory does not fail");
        match lookup.step(&node).expect("it is sound") {
            Step::Need(next) => pointer = next,
            Step::Found(body) => return black_box(body).parts_len() == 1,
            Step::Absent => return false,
        }
    }
}

fn lookups(times: u64) {
    let (mut memory, root, keys) = tree();
    let mut state = 7;
    for _ in 0..times {
        let at = usize::try_from(random(&mut state) % ENTRIES).expect("an index");
        assert!(find(&mut memory, root, &keys[at]));
    }
}

/// So many operations, a hundredth of the tree at a time.
fn apply(times: u64) {
    let (mut memory, root, keys) = tree();
    let at_once = keys.len() / 100;
    let rounds = times.div_ceil(at_once as u64);
    let body = body(2);
    for round in 0..rounds {
        let ops = keys.iter().step_by(100).map(|key| Op {
            key: key.as_slice(),
            change: Change::Put(body.as_slice()),
            fingerprint: None,
        });
        let applied = Apply::new(settings(round + 2), root, ops).run(&mut memory);
        black_box(applied.expect("memory does not fail"));
        memory.written.clear();
    }
}

/// Inserts at random, 10 for a leaf at a time, each time into the tree as it was.
fn apply_densely(times: u64) {
    let (mut memory, root, keys) = tree();
    let at_once = keys.len() as u64 / 10;
    let mut new: Vec<_> = (ENTRIES..ENTRIES + at_once).map(key).collect();
    new.sort();
    for round in 0..times.div_ceil(at_once) {
        insert(&mut memory, root, &new, round + 2);
    }
}

/// Inserts behind all others, so many at once.
fn append_to_tree(times: u64) {
    let (mut memory, root, _) = tree();
    // Made without formatting, which would take more than the insert.
    let new: Vec<_> = (0..times)
        .map(|number| [&b"g"[..], &[0; 11], &number.to_be_bytes()].concat())
        .collect();
    insert(&mut memory, root, &new, 2);
}

/// As a checkpoint does: each operation's fingerprint is known.
fn insert(memory: &mut Memory, root: Root, keys: &[Vec<u8>], generation: u64) {
    let body = body(2);
    let ops = keys.iter().map(|key| Op {
        key: key.as_slice(),
        change: Change::Put(body.as_slice()),
        fingerprint: Some(Sum(1)),
    });
    let applied = Apply::new(settings(generation), root, ops).run(memory);
    black_box(applied.expect("memory does not fail"));
    memory.written.clear();
}

fn allocate(times: u64) {
    let mut allocator = Allocator::new(Geometry::default(), &[]);
    let mut state = 3;
    let mut take = |allocator: &mut Allocator| {
        let units = u32::try_from(random(&mut state) % 60 + 1).expect("small");
        loop {
            match allocator.allocate_extent(units) {
                Ok(placed) => return placed.run,
                Err(Shortage::Grow) => {
                    allocator.add_region();
                }
                Err(shortage) => panic!("{shortage:?}"),
            }
        }
    };
    let mut held: Vec<_> = (0..4000).map(|_| take(&mut allocator)).collect();
    let mut state = 5;
    for _ in 0..times {
        let at = usize::try_from(random(&mut state) % held.len() as u64).expect("an index");
        let taken = take(&mut allocator);
        allocator.free(std::mem::replace(&mut held[at], taken));
    }
}

fn append(times: u64) {
    let geometry = Geometry::default();
    let (key, body) = (key(1), body(1));
    let mut record = BatchWriter::new();
    let mut out = vec![0; geometry.log_block_bytes as usize];
    for number in 0..times {
        record.clear();
        record.push(&Operation::Put {
            tree: TREE,
            key: &key,
            body: BodyRef::trusted(&body),
            replaced: Replaced::Unknown,
        });
        let payload = record.finish();
        assert_eq!(group_blocks(&geometry, payload.len()), 1);
        let lsn = Lsn(number * u64::from(geometry.log_block_bytes));
        let header = GroupHeader {
            lsn,
            incarnation: Incarnation(1),
            opening: OpeningId(1),
            incarnation_start: Lsn(0),
            durable: lsn,
            stamp: Generation(1),
        };
        encode_group(&geometry, 1, &header, payload, &mut out);
        black_box(&out);
    }
}

fn copy_and_check(times: u64) {
    let block = vec![7; 4096];
    let mut out = vec![0; 4096];
    for _ in 0..times {
        out.copy_from_slice(black_box(&block));
        black_box(crc32c::crc32c(&out));
    }
}

fn fingerprint(times: u64) {
    let (key, body) = (key(1), body(1));
    for _ in 0..times {
        black_box(FingerprintKey::PUBLIC.of_entry(black_box(&key), BodyRef::trusted(&body)));
    }
}

fn blake3(times: u64) {
    let bytes = [&key(1)[..], &body(1)].concat();
    for _ in 0..times {
        black_box(blake3::keyed_hash(&[1; 32], black_box(&bytes)));
    }
}

fn differ(times: u64) {
    let side = |changed: bool| {
        let entries = (0..ENTRIES).map(|number| {
            let differs = changed && number % (ENTRIES / 10) == 0;
            (key(number), Sum(u128::from(number) + u128::from(differs)))
        });
        Sorted::new(1, entries)
    };
    let (mut mine, mut theirs) = (side(false), side(true));
    for _ in 0..times {
        let mut found = 0;
        let mut session = Session::new(KeyRange::default(), Limits::default());
        let exchange = |frame: Vec<u8>| diff::respond(&mut theirs, &frame);
        diff::run(&mut session, &mut mine, exchange, |_| found += 1).expect("memory does not fail");
        assert_eq!(found, 10);
    }
}
