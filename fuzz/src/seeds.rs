//! Good inputs for each target, made by the code that writes what the target reads: a fuzzer that
//! begins with them reaches deep at once. They are committed as `corpus/<target>/seed-<n>`.

use crate::decoders::NONCE;
use crate::log::a_superblock;
use crate::tests::Chance;
use dmerkle::diff::{KeyRange, Limits, Next, Session, Sorted, respond};
use dmerkle::fingerprint::FingerprintKey;
use dmerkle::format::body::{BodyBuilder, BodyRef};
use dmerkle::format::catalog::CatalogEntry;
use dmerkle::format::extent::encode_extent;
use dmerkle::format::log_block::{GroupHeader, encode_group, encode_skip, group_blocks};
use dmerkle::format::map::{encode_map, map_bits_bytes};
use dmerkle::format::pointer::Pointer;
use dmerkle::format::record::{BatchWriter, Operation, Replaced};
use dmerkle::format::region_table::{RegionRow, encode_region_table};
use dmerkle::format::superblock::{IncarnationStart, Slot};
use dmerkle::tree::{Apply, Change, Ground, Node, Op, Root, Settings, Source};
use dmerkle::{
    BlockId, Corrupt, Generation, Geometry, Incarnation, Lsn, OpeningId, Order, Run, Sum, Summary,
    TreeId,
};
use node::control::{Answer, Hex, NodeStatus, Request, frame};
use node::version::{Context, Dot, NodeId, Put, VersionVector, Versions};
use std::sync::Arc;

/// The examples of a target.
pub(crate) fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "batch" => batches(),
        "body" => bodies(),
        "catalog" => catalog_entries(),
        "config" => configs(),
        "control" => frames_of_control(),
        "diff_frame" => questions(),
        "log_block" => log_blocks(),
        "map" => maps(),
        "node" => nodes(),
        "recover" => files(),
        "region_table" => tables(),
        "superblock" => superblocks(),
        "text" => commands(),
        "versions" => metas(),
        // Histories that are read off the input: any bytes are some.
        history => histories(history),
    }
}

fn histories(target: &str) -> Vec<Vec<u8>> {
    let mut chance = Chance::of(target);
    let lengths = [40, 120, 400, 900, 1500];
    lengths.map(|length| chance.bytes(length)).to_vec()
}

fn superblocks() -> Vec<Vec<u8>> {
    let mut later = a_superblock();
    later.generation = Generation(7);
    later.catalog = pointer(40);
    later.catalog_summary = Summary::of(Sum(5));
    later.earlier.push(IncarnationStart {
        incarnation: Incarnation(1),
        opening: OpeningId(4),
        start: Lsn(100),
    });
    (later.incarnation, later.log_start) = (Incarnation(2), Lsn(512));
    (later.cut, later.durable) = (Lsn(700), Lsn(700));
    let mut large = a_superblock();
    large.geometry = Geometry::default();
    [
        (a_superblock(), Slot::A),
        (later, Slot::B),
        (large, Slot::A),
    ]
    .map(|(superblock, slot)| superblock.encode(slot).to_vec())
    .to_vec()
}

fn pointer(block: u64) -> Pointer {
    Pointer {
        block: BlockId(block),
        order: Order(1),
        checksum: 9,
        generation: Generation(1),
        logical_bytes: 600,
    }
}

fn extent() -> Vec<u8> {
    let mut reference = Vec::new();
    let hash = [7; 32];
    encode_extent(
        &Geometry::tiny(),
        BlockId(99),
        2500,
        &hash,
        &[1, 2, 3],
        &mut reference,
    );
    reference
}

fn bodies() -> Vec<Vec<u8>> {
    let mut mixed = BodyBuilder::new(b"meta");
    mixed.inline(b"one").extent(&extent()).inline(b"");
    let mut one = BodyBuilder::new(b"");
    one.inline(b"a value");
    vec![
        BodyBuilder::new(b"a tombstone").finish(),
        one.finish(),
        mixed.finish(),
    ]
}

fn batches() -> Vec<Vec<u8>> {
    let (tree, name) = (TreeId(1), &b"images"[..]);
    let bodies = bodies();
    let mut all = BatchWriter::new();
    all.push(&Operation::CreateTree { tree, name });
    let known = [
        Replaced::Unknown,
        Replaced::Absent,
        Replaced::Fingerprint(Sum(3)),
    ];
    for (body, replaced) in bodies.iter().zip(known) {
        let (key, body) = (&b"key"[..], BodyRef::trusted(body));
        all.push(&Operation::Put {
            tree,
            key,
            body,
            replaced,
        });
        all.push(&Operation::Delete {
            tree,
            key,
            replaced,
        });
    }
    let whole = all.finish().to_vec();
    let mut drop = BatchWriter::new();
    drop.push(&Operation::DropTree { tree });
    vec![
        BatchWriter::new().finish().to_vec(),
        drop.finish().to_vec(),
        whole,
    ]
}

fn catalog_entries() -> Vec<Vec<u8>> {
    let entry = |root, name: &[u8], dropped| CatalogEntry {
        name: name.to_vec(),
        root,
        summary: Summary::EMPTY,
        dropped,
        created: Generation(3),
    };
    [
        entry(Pointer::NONE, b"", false),
        entry(pointer(50), b"images", false),
        entry(pointer(60), b"gone", true),
    ]
    .map(|entry| entry.to_body())
    .to_vec()
}

fn header(lsn: u64) -> GroupHeader {
    GroupHeader {
        lsn: Lsn(lsn),
        incarnation: Incarnation(1),
        opening: OpeningId(9),
        incarnation_start: Lsn(0),
        durable: Lsn(0),
        stamp: Generation(1),
    }
}

fn group(lsn: u64, payload: &[u8]) -> Vec<u8> {
    let geometry = Geometry::tiny();
    let blocks = group_blocks(&geometry, payload.len()) as usize;
    let mut out = vec![0; blocks * 512];
    encode_group(&geometry, NONCE, &header(lsn), payload, &mut out);
    out
}

fn log_blocks() -> Vec<Vec<u8>> {
    let mut skip = vec![0; 512];
    encode_skip(&Geometry::tiny(), NONCE, &header(15 * 1024), &mut skip);
    let long = group(1024, &[5; 1000]);
    vec![
        group(0, &[]),
        group(512, &batches()[2]),
        long[512..1024].to_vec(),
        skip,
    ]
}

fn files() -> Vec<Vec<u8>> {
    let mut logs = vec![Vec::new()];
    let (mut log, batch) = (Vec::new(), batches()[1].clone());
    for payload in [
        batch.clone(),
        [batch.clone(), batch.clone()].concat(),
        Vec::new(),
    ] {
        log.extend_from_slice(&group(log.len() as u64, &payload));
        logs.push(log.clone());
    }
    let superblock = a_superblock().encode(Slot::A);
    let join = |log: Vec<u8>| [&superblock[..], &log].concat();
    logs.into_iter().map(join).collect()
}

fn maps() -> Vec<Vec<u8>> {
    let geometry = Geometry::tiny();
    let reserved = usize::try_from(geometry.region_reserved_units()).unwrap();
    let bits = |every: usize| {
        let mut bits = vec![0; map_bits_bytes(&geometry)];
        for unit in (reserved..geometry.region_units as usize).step_by(every) {
            bits[unit / 8] |= 1 << (unit % 8);
        }
        bits
    };
    let encode = |bits: Vec<u8>| {
        let mut out = vec![0; usize::try_from(geometry.map_bytes()).unwrap()];
        encode_map(&geometry, NONCE, 3, Generation(5), &bits, &mut out);
        out
    };
    [bits(1), bits(7), bits(10_000)].map(encode).to_vec()
}

fn tables() -> Vec<Vec<u8>> {
    let geometry = Geometry::tiny();
    let used = RegionRow {
        copy: 1,
        generation: Generation(2),
        map_checksum: 7,
        free_units: 20,
        largest_run: 10,
    };
    let rows = [RegionRow::fresh(&geometry), used, used];
    (0..=3_u8)
        .map(|count| {
            let rows = &rows[..count.into()];
            let (bytes, _) = encode_region_table(&geometry, NONCE, Generation(2), rows);
            [&[count], &bytes[..64 + 32 * usize::from(count)]].concat()
        })
        .collect()
}

/// Keeps the nodes that it is given.
struct Keeper(Vec<(BlockId, Vec<u8>)>);

impl Source for Keeper {
    type Bytes = Vec<u8>;
    type Error = Corrupt;

    fn node(&mut self, _: TreeId, _: &Pointer) -> Result<Arc<Node<Vec<u8>>>, Corrupt> {
        unreachable!("a tree is built of nothing")
    }
}

impl Ground for Keeper {
    fn place(&mut self, order: Order) -> Result<BlockId, Corrupt> {
        Ok(BlockId(
            1000 + 16 * self.0.len() as u64 + u64::from(order.0),
        ))
    }

    fn write(&mut self, _: u8, pointer: &Pointer, bytes: Vec<u8>) -> Result<(), Corrupt> {
        self.0.push((pointer.block, bytes));
        Ok(())
    }

    fn retire_node(&mut self, _: &Pointer) {}

    fn retire_extent(&mut self, _: Run) {}
}

fn nodes() -> Vec<Vec<u8>> {
    let mut keeper = Keeper(Vec::new());
    let settings = Settings {
        tree: TreeId(3),
        geometry: Geometry {
            fanout_max: 5,
            ..Geometry::tiny()
        },
        generation: Generation(2),
        opening: OpeningId(1),
        key: FingerprintKey::PUBLIC,
    };
    let bodies = bodies();
    let ops = (0..40_u8).map(|n| Op {
        key: format!("a prefix {n:02}").into_bytes(),
        change: Change::Put(bodies[usize::from(n) % 3].clone()),
        fingerprint: None,
    });
    Apply::new(settings, Root::EMPTY, ops)
        .run(&mut keeper)
        .unwrap();
    let trimmed = |(_, bytes): (BlockId, Vec<u8>)| {
        let used = bytes
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        bytes[..used.next_multiple_of(64)].to_vec()
    };
    keeper.0.into_iter().rev().take(6).map(trimmed).collect()
}

fn questions() -> Vec<Vec<u8>> {
    let list = |from: u16, step: usize| {
        let keys = (from..500).step_by(step);
        Sorted::new(
            7,
            keys.map(|n| (n.to_le_bytes().to_vec(), Sum(u128::from(n) << 70))),
        )
    };
    let mut asked = Vec::new();
    for leaf_log2 in [0, 3, 12] {
        let limits = Limits {
            leaf_log2,
            ..Limits::default()
        };
        let (mut mine, mut theirs) = (list(0, 1), list(3, 2));
        let mut session = Session::new(KeyRange::default(), limits);
        let mut step = session.start(&mut mine).unwrap();
        for _ in 0..4 {
            let answers: Vec<_> = step
                .frames
                .iter()
                .map(|frame| respond(&mut theirs, frame).unwrap())
                .collect();
            asked.append(&mut step.frames);
            for answer in answers {
                let next = session.receive(&mut mine, &answer).unwrap();
                step.frames.extend(next.frames);
                if next.next == Next::Done {
                    break;
                }
            }
        }
    }
    asked.sort_unstable();
    asked.dedup();
    asked.retain(|frame| frame.len() < 2000);
    asked.truncate(12);
    asked
}

fn commands() -> Vec<Vec<u8>> {
    let put = b"put 3 key 2 cx 5 value ";
    let texts: [&[u8]; 6] = [
        b"get 3 key ",
        put,
        b"has\n0\n\ndel 3 key\n",
        b"hash 3 key close ",
        b"put 0  0  0  get 1 k ",
        b"get 4097 x",
    ];
    let mut all: Vec<_> = texts.map(<[u8]>::to_vec).to_vec();
    all.push([put, &put[..], b"close\n"].concat());
    for text in &mut all {
        text.extend_from_slice(&[1, 3, 0, 7, 4]);
    }
    all
}

fn metas() -> Vec<Vec<u8>> {
    let put = |node, now_ms| Put {
        node: NodeId(node),
        now_ms,
    };
    let (first, _) = Versions::default()
        .put(&Context::Overwrite, put(1, 1000), |_| false)
        .unwrap();
    let (second, _) = first
        .put(&Context::Foreign, put(2, 2000), |_| false)
        .unwrap();
    let gone = second.delete(put(1, 5_000_000));
    let mut all: Vec<Vec<u8>> = [(1, first), (2, second), (0, gone)]
        .into_iter()
        .map(|(parts, versions)| [&[parts, 40], &versions.encode().unwrap()[..]].concat())
        .collect();
    let dots = [(7, 3), (9, 1 << 40)].map(|(node, count)| Dot {
        node: NodeId(node),
        count,
    });
    let context = Context::encode(&dots.into_iter().collect::<VersionVector>());
    all.push([&[1, 20], &context[..]].concat());
    // Without what the target adds itself.
    all.push([&[1, 20], &context[2..context.len() - 4]].concat());
    all
}

fn frames_of_control() -> Vec<Vec<u8>> {
    let keys = || vec![Hex(b"a\0\xff".to_vec()), Hex(Vec::new())];
    let path = Hex(b"/tmp/copy".to_vec());
    let requests = [
        Request::Address,
        Request::Stop,
        Request::Backup { path },
        Request::Hashes { keys: keys() },
        Request::Delete { keys: keys() },
    ];
    let answers = [
        Answer::Progress,
        Answer::Failed {
            reason: "it could not".into(),
            damage: true,
        },
        Answer::Status(Box::new(NodeStatus::default())),
        Answer::Hashes {
            hashes: vec![keys(), Vec::new()],
        },
    ];
    let requests = requests
        .iter()
        .map(|request| frame::encode(request).unwrap());
    let answers = answers.iter().map(|answer| frame::encode(answer).unwrap());
    requests.chain(answers).collect()
}

fn configs() -> Vec<Vec<u8>> {
    [
        "",
        "n = 1\nr = 1\nw = 1\nq = 4\ndirectory = \"/srv/d\"\nlisten = \"0.0.0.0\"\n\
         text_port = 0\nbuffered_writes = true\ntombstone_days = 7\nidle_seconds = 5\n",
        r#"{"text_port": 11222, "thrift_port": 9200, "web_port": null, "directory": "/tmp/d",
            "storage_mod": "fs_storage", "n": 1, "r": 1, "w": 1, "q": 6, "blocksize": 4096,
            "buffered_writes": true, "cache": false, "cache_size": 128000}"#,
        "cache_size = 1000000\nmemtable_size = 5\nlog_size = 1048576\nmax_connections = 9\n\
         slow_seconds = 3\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
