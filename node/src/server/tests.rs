//! Goal: what the original's clients send and expect, over real sockets, however the bytes fall
//! into segments; and that clients who are slow, idle, wrong or too many harm nobody else.
//! Method: a node over a small store, and plain sockets against it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::client::Held;
use crate::config::Config;
use crate::control::{Answer, Client, Hex, Request, frame};
use crate::mediator::Mediator;
use crate::running::Running;
use crate::server::{Limits, RoomLimits, Server, Shared};
use crate::storage::Storage;
use tokio::sync::watch;

struct Node {
    runtime: tokio::runtime::Runtime,
    running: Option<Running>,
    address: SocketAddr,
    storage: Arc<Storage>,
    folder: tempfile::TempDir,
}

impl Node {
    fn start(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::start_on(adjust, |config| crate::storage::open(config, None).unwrap())
    }

    fn start_on(adjust: impl FnOnce(&mut Config), open: impl FnOnce(&Config) -> Storage) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::tiny(folder.path());
        adjust(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let storage = Arc::new(open(&config));
        let running = runtime
            .block_on(Running::start(&config, Arc::clone(&storage)))
            .unwrap();
        let address = running.address();
        Self {
            runtime,
            running: Some(running),
            address,
            storage,
            folder,
        }
    }

    fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Connection(stream)
    }

    fn allocated_bytes(&self) -> u64 {
        let status = self.storage.status().unwrap();
        status.details["allocated_bytes"].as_u64().unwrap()
    }

    fn control(&self) -> Client {
        Client::connect(self.folder.path()).unwrap()
    }

    fn stop(&mut self) {
        let running = self.running.take().unwrap();
        self.runtime.block_on(running.stop()).unwrap();
    }
}

/// A text server with limits of its own over the store of `node`.
fn limited(node: &Node, limits: Limits) -> (SocketAddr, watch::Sender<bool>, Arc<Shared>) {
    let (stop, stopping) = watch::channel(false);
    let mediator = Arc::new(Mediator::new(Arc::clone(&node.storage)));
    let inside = node.runtime.enter();
    let socket = node.runtime.block_on(super::reserve("127.0.0.1", 0));
    let server = Server::listen(socket.unwrap(), mediator, Arc::default(), limits, stopping);
    let server = server.unwrap();
    let address = server.address().unwrap();
    let shared = Arc::clone(&server.shared);
    node.runtime.spawn(server.run());
    drop(inside);
    (address, stop, shared)
}

struct Connection(TcpStream);

impl Connection {
    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Sends one byte per segment.
    fn send_in_bytes(&mut self, bytes: &[u8]) {
        for byte in bytes.chunks(1) {
            self.send(byte);
        }
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.push(self.bytes(1)[0]);
        }
        String::from_utf8(line).unwrap()
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Everything until the node ends the connection.
    fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).unwrap();
        rest
    }

    fn section(&mut self) -> String {
        let mut section = Vec::new();
        loop {
            match self.bytes(1)[0] {
                b' ' | b'\n' => return String::from_utf8(section).unwrap(),
                byte => section.push(byte),
            }
        }
    }

    fn number(&mut self) -> usize {
        self.section().parse().unwrap()
    }

    /// Reads the reply of a get as the original's Python client does.
    fn got(&mut self) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
        match self.section().as_str() {
            "not_found" => return None,
            "succ" => {}
            other => panic!("unexpected reply {other:?}"),
        }
        let values = self.number();
        let length = self.number();
        let context = self.bytes(length);
        let mut found = Vec::new();
        for _ in 0..values {
            assert_eq!(self.bytes(1), b" ");
            let length = self.number();
            found.push(self.bytes(length));
        }
        assert_eq!(self.bytes(1), b"\n");
        Some((context, found))
    }

    fn get(&mut self, key: &str) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
        self.send(format!("get {} {key}\n", key.len()).as_bytes());
        self.got()
    }

    fn put(&mut self, key: &str, context: &[u8], value: &[u8]) -> String {
        let head = format!("put {} {key} {} ", key.len(), context.len());
        let length = format!(" {} ", value.len());
        self.send(&[head.as_bytes(), context, length.as_bytes(), value, b"\n"].concat());
        self.line()
    }
}

type Send = fn(&mut Connection, &[u8]);
const WAYS: [Send; 2] = [Connection::send, Connection::send_in_bytes];

#[test]
fn the_originals_transcript_is_replayed() {
    for send in WAYS {
        let node = Node::start(|_| {});
        let connection = &mut node.connect();
        for (asked, replied) in [
            ("get 1 a\n", "not_found\n"),
            ("put 1 a 0  7 a value\n", "succ 1\n"),
            ("has 1 a\n", "yes 1\n"),
            ("has 1 b\n", "no 1\n"),
            ("del 4 nope\n", "succ 1\n"),
        ] {
            send(connection, asked.as_bytes());
            assert_eq!(connection.line(), replied);
        }
        send(connection, b"get 1 a\n");
        let (context, values) = connection.got().unwrap();
        assert!(!context.is_empty());
        assert_eq!(values, [b"a value"]);

        send(connection, b"put 0  0  1 e\n");
        assert_eq!(connection.line(), "succ 1\n");
        send(connection, b"get 0 \n");
        assert_eq!(connection.got().unwrap().1, [b"e"]);
        send(connection, b"put 1 z 0  0 \n");
        assert_eq!(connection.line(), "succ 1\n");
        send(connection, b"get 1 z\n");
        assert_eq!(connection.got().unwrap().1, [b""]);
        send(connection, b"get\n1\na\n\n\nhas 1 a\r\n");
        assert_eq!(connection.got().unwrap().1, [b"a value"]);
        assert_eq!(connection.line(), "yes 1\n");
        send(connection, b"hash 1 a\nhash 1 b\n");
        let hash = blake3::hash(b"a value").to_hex();
        assert_eq!(connection.line(), format!("succ 1 {hash}\n"));
        assert_eq!(connection.line(), "not_found\n");
        send(connection, b"close\n");
        assert_eq!(connection.rest(), "close\n");
    }
}

#[test]
fn two_connections_make_siblings_and_the_next_put_resolves_them() {
    let node = Node::start(|_| {});
    let (one, two) = (&mut node.connect(), &mut node.connect());
    assert_eq!(one.put("k", b"", b"a"), "succ 1\n");
    let context = one.get("k").unwrap().0;
    assert_eq!(one.put("k", &context, b"b"), "succ 1\n");
    assert_eq!(two.put("k", &context, b"c"), "succ 1\n");
    let (context, values) = one.get("k").unwrap();
    assert_eq!(values, [b"b", b"c"]);
    assert_eq!(two.put("k", &context, b"d"), "succ 1\n");
    assert_eq!(one.get("k").unwrap().1, [b"d"]);
    // A context of the original's, as its clients' tests carry it.
    assert_eq!(
        one.put("k", b"\x83l\0\0\0\x01h\x02k\0\x01aFAj", b"e"),
        "succ 1\n"
    );
    assert_eq!(one.get("k").unwrap().1, [b"d", b"e"]);
    assert_eq!(
        one.put("k", b"junk", b"f"),
        "fail the context is not one that a get has given\n"
    );
    assert_eq!(one.put("k", b"", b"g"), "succ 1\n");
    assert_eq!(one.get("k").unwrap().1, [b"g"]);
}

#[test]
fn everything_in_one_segment_is_answered_in_order() {
    let node = Node::start(|_| {});
    let connection = &mut node.connect();
    let commands = 500;
    let mut text = Vec::new();
    for number in 0..commands {
        text.extend(format!("put 1 a 0  4 {number:04}\nget 1 a\n").bytes());
    }
    text.extend(b"close\n");
    let mut writer = connection.0.try_clone().unwrap();
    let sending = std::thread::spawn(move || writer.write_all(&text).unwrap());
    for number in 0..commands {
        assert_eq!(connection.line(), "succ 1\n");
        assert_eq!(
            connection.got().unwrap().1,
            [format!("{number:04}").into_bytes()]
        );
    }
    assert_eq!(connection.rest(), "close\n");
    sending.join().unwrap();
}

#[test]
fn a_reply_of_64_kib_comes_in_one_segment() {
    let node = Node::start(|_| {});
    let connection = &mut node.connect();
    let value = vec![b'v'; 60_000];
    connection.put("k", b"", &value);
    let context = connection.get("k").unwrap().0;
    let length = "succ 1 ".len()
        + format!("{} ", context.len()).len()
        + context.len()
        + " 60000 ".len()
        + value.len()
        + 1;
    for _ in 0..20 {
        connection.send(b"get 1 k\n");
        let mut bytes = vec![0; 1 << 20];
        // Loopback hands a segment of this size over whole or not at all.
        let mut read = 0;
        while read == 0 {
            std::thread::sleep(Duration::from_millis(5));
            read = connection.0.peek(&mut bytes).unwrap();
        }
        assert_eq!(read, length);
        connection.bytes(length);
    }
}

#[test]
fn long_values_pass_through_whole() {
    let node = Node::start(|_| {});
    let connection = &mut node.connect();
    let lengths = [
        65_535,
        65_536,
        65_537,
        262_143,
        262_144,
        262_145,
        1_000_001,
        64 << 20,
    ];
    for length in lengths {
        let value: Vec<u8> = (0..length)
            .map(|at: usize| at.to_le_bytes()[0] ^ at.to_le_bytes()[1])
            .collect();
        let mut writer = connection.0.try_clone().unwrap();
        let sent = value.clone();
        let sending = std::thread::spawn(move || {
            writer
                .write_all(format!("put 1 k 0  {length} ").as_bytes())
                .unwrap();
            writer.write_all(&sent).unwrap();
            writer.write_all(b"\n").unwrap();
        });
        assert_eq!(connection.line(), "succ 1\n");
        sending.join().unwrap();
        assert!(connection.get("k").unwrap().1 == [value], "length {length}");
    }
    // Two long siblings in one reply.
    connection.put("k", b"\x83j", &vec![9; 300_000]);
    let values = connection.get("k").unwrap().1;
    assert_eq!(
        values.iter().map(Vec::len).collect::<Vec<_>>(),
        [64 << 20, 300_000]
    );
}

#[test]
fn a_damaged_long_value_is_told_and_the_replies_around_it_arrive() {
    use std::os::unix::fs::FileExt;

    let node = Node::start(|_| {});
    let connection = &mut node.connect();
    let value: Vec<u8> = (0..75_000u32).flat_map(u32::to_le_bytes).collect();
    connection.put("long", b"", &value);
    connection.put("short", b"", b"value");
    let path = node.folder.path().join("store");
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut all = Vec::new();
    (&file).read_to_end(&mut all).unwrap();
    let at = all
        .windows(4096)
        .position(|window| window == &value[..4096])
        .unwrap();
    file.write_all_at(b"rot", at as u64 + 50).unwrap();
    connection.send(b"get 5 short\nget 4 long\nget 5 short\n");
    assert_eq!(connection.got().unwrap().1, [b"value"]);
    let told = connection.line();
    assert!(told.starts_with("fail "), "{told}");
    assert_eq!(connection.got().unwrap().1, [b"value"]);
}

#[test]
fn a_malformed_command_is_told_and_ends_its_connection() {
    let node = Node::start(|_| {});
    for (text, reason) in [
        (&b"frob 1 a\nget 1 a\n"[..], "fail unknown command \"frob\""),
        (
            b"get one a\n",
            "fail the length of the key is not a number: \"one\"",
        ),
        (
            b"put 1 a 0  99999999 ",
            "fail the value has 99999999 bytes, and 67108864 are allowed",
        ),
        (
            b"get 4093 a\n",
            "fail the key has 4093 bytes, and 4092 are allowed",
        ),
        (
            b"put 1 a 99999 ",
            "fail the context has 99999 bytes, and 16384 are allowed",
        ),
    ] {
        for send in WAYS {
            let connection = &mut node.connect();
            // Once the node has spoken, what is sent after meets a closed door.
            let _ =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| send(connection, text)));
            let reply = connection.rest();
            assert!(
                reply.starts_with(reason) && reply.ends_with('\n'),
                "{reply}"
            );
            assert_eq!(reply.lines().count(), 1);
        }
    }
    let longest = "k".repeat(4092);
    assert_eq!(node.connect().put(&longest, b"", b"v"), "succ 1\n");
}

#[test]
fn a_client_that_sends_on_after_its_fault_still_reads_why() {
    let node = Node::start(|_| {});
    let connection = &mut node.connect();
    connection.send(b"put 1 a 0  67108865 ");
    let mut writer = connection.0.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let _ = writer.write_all(&vec![0; 20 << 20]);
    });
    assert!(
        connection
            .line()
            .starts_with("fail the value has 67108865 bytes")
    );
    drop(sending);
}

#[test]
fn a_client_that_goes_in_the_middle_of_a_value_leaves_nothing() {
    let node = Node::start(|_| {});
    let before = node.allocated_bytes();
    let mut connection = node.connect();
    connection.send(b"put 1 k 0  1000000 ");
    connection.send(&vec![0; 500_000]);
    drop(connection);
    let since = Instant::now();
    while node.control().status().unwrap().statistics.connections > 0 {
        assert!(since.elapsed() < Duration::from_secs(10));
    }
    assert!(node.connect().get("k").is_none());
    assert_eq!(node.allocated_bytes(), before);
}

#[test]
fn what_is_announced_takes_no_disk_before_it_comes() {
    let node = Node::start(|_| {});
    let before = node.allocated_bytes();
    let mut connections: Vec<_> = (0..20).map(|_| node.connect()).collect();
    for connection in &mut connections {
        connection.send(b"put 1 k 0  67108864 ");
        connection.send(&vec![0; 100_000]);
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(node.allocated_bytes(), before);
    // Once it comes, not more than twelve of the longest are under way, and the rest waits.
    for connection in &mut connections {
        connection.send(&vec![0; 300_000]);
    }
    std::thread::sleep(Duration::from_millis(500));
    let taken = node.allocated_bytes() - before;
    assert!((1 << 26..13 << 26).contains(&taken), "{taken} bytes");
    assert!(node.connect().get("k").is_none());
    drop(connections);
    let since = Instant::now();
    while node.allocated_bytes() > before {
        assert!(since.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn one_connection_too_many_is_told_so_and_the_others_go_on() {
    let node = Node::start(|config| config.max_connections = 2);
    let (mut one, mut two) = (node.connect(), node.connect());
    assert!(one.get("k").is_none());
    assert!(two.get("k").is_none());
    let mut three = node.connect();
    three.send(b"get 1 k\n");
    assert_eq!(three.rest(), "fail too many connections: 2 are open\n");
    assert!(one.get("k").is_none());
    drop(two);
    let since = Instant::now();
    while node.control().status().unwrap().statistics.connections > 1 {
        assert!(since.elapsed() < Duration::from_secs(10));
    }
    assert!(node.connect().get("k").is_none());
    assert_eq!(
        node.control()
            .status()
            .unwrap()
            .statistics
            .connections_refused,
        1
    );
}

#[test]
fn every_one_of_a_crowd_past_the_limit_is_told_why() {
    let node = Node::start(|config| config.max_connections = 1);
    let mut one = node.connect();
    assert!(one.get("k").is_none());
    // They say nothing and stay, as a pool of connections does: no place of a refused one is free.
    let mut crowd: Vec<_> = (0..100).map(|_| node.connect()).collect();
    for refused in &mut crowd {
        assert_eq!(refused.rest(), "fail too many connections: 1 are open\n");
    }
    assert!(one.get("k").is_none());
}

#[test]
fn clients_that_stall_in_long_puts_do_not_hold_up_the_puts_of_others() {
    let mut node = Node::start(|_| {});
    // Room for two values, and more time for a stalled one than the test has.
    let limits = Limits {
        connections: 100,
        idle: Duration::from_mins(10),
        slow: Duration::from_mins(10),
        puts: RoomLimits {
            short: 500_000,
            short_bytes: 1_000_000,
            long_bytes: 2_000_000,
            piece: Duration::from_millis(100),
        },
        replies: RoomLimits::REPLIES,
    };
    let (address, _stop, _) = limited(&node, limits);
    node.address = address;
    let mut stalled: Vec<_> = (0..3).map(|_| node.connect()).collect();
    for connection in &mut stalled {
        connection.send(b"put 1 s 0  1000000 ");
        connection.send(&vec![0; 600_000]);
    }
    let put = |length| node.connect().put("k", b"", &vec![7; length]);
    assert_eq!(put(400_000), "succ 1\n");
    assert_eq!(put(1_000_000), "succ 1\n");
    // Who had to give way is told why.
    let told = stalled.iter_mut().filter_map(|connection| {
        let wait = Some(Duration::from_millis(200));
        connection.0.set_read_timeout(wait).unwrap();
        let mut start = [0; 25];
        connection.0.read_exact(&mut start).ok().map(|()| start)
    });
    let told: Vec<_> = told.collect();
    assert!(!told.is_empty());
    for told in told {
        assert_eq!(&told, b"fail too slow: other valu");
    }
}

fn timed_out(shared: &Shared) -> u64 {
    let timed_out = &shared.statistics.connections_timed_out;
    timed_out.load(Ordering::Relaxed)
}

/// Every value of a key gave time to a client that did not read the first.
#[test]
fn a_client_that_does_not_read_has_the_time_of_one_value_not_of_all() {
    let mut node = Node::start(|_| {});
    // Each has no more time than `slow`, and all together four minutes. The system takes a few MB of
    // them from the node although the client takes none.
    let length = (64 << 10) - 1;
    let mut client = node.connect();
    for number in 0..255u32 {
        let value = number.to_le_bytes().repeat(length / 4);
        assert_eq!(client.put("k", b"\x83j", &value), "succ 1\n");
    }
    let limits = Limits {
        connections: 10,
        idle: Duration::from_mins(10),
        slow: Duration::from_millis(200),
        puts: RoomLimits::PUTS,
        replies: RoomLimits::REPLIES,
    };
    let (address, _stop, shared) = limited(&node, limits);
    node.address = address;
    let mut unread = node.connect();
    unread.send(b"get 1 k\n");
    let since = Instant::now();
    while timed_out(&shared) == 0 {
        assert!(since.elapsed() < Duration::from_mins(1), "it still waits");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(shared.replies.taken(), 0);
}

/// Each held a piece and a chunk of its value, however many there were.
#[test]
fn clients_that_do_not_read_have_bounded_memory_together_and_give_way_to_others() {
    const CLIENTS: usize = 12;
    const FIT: usize = 4;
    let mut node = Node::start(|_| {});
    // Longer than what the system takes from the node although the client takes none.
    let value = vec![7; 16 << 20];
    assert_eq!(node.connect().put("k", b"", &value), "succ 1\n");
    let limits = |piece| Limits {
        connections: 100,
        idle: Duration::from_mins(10),
        slow: Duration::from_mins(10),
        puts: RoomLimits::PUTS,
        replies: RoomLimits {
            short: 1 << 20,
            short_bytes: FIT * (512 << 10),
            long_bytes: 0,
            piece,
        },
    };
    let stalled = |node: &Node, shared: &Shared| -> Vec<Connection> {
        let connect = |_| {
            let mut connection = node.connect();
            connection.send(b"get 1 k\n");
            connection
        };
        let connections = (0..CLIENTS).map(connect).collect();
        let since = Instant::now();
        while (shared.replies.waiting() as u64 + timed_out(shared)) < (CLIENTS - FIT) as u64 {
            assert!(since.elapsed() < Duration::from_secs(20), "none waits");
            std::thread::sleep(Duration::from_millis(10));
        }
        connections
    };
    let (address, _stop, shared) = limited(&node, limits(Duration::from_mins(10)));
    node.address = address;
    let unread = stalled(&node, &shared);
    assert_eq!(shared.replies.taken(), FIT * (512 << 10));
    drop(unread);

    let (address, _stop, shared) = limited(&node, limits(Duration::from_secs(1)));
    node.address = address;
    let _unread = stalled(&node, &shared);
    assert!(node.connect().get("k").unwrap().1 == [value]);
    assert!(timed_out(&shared) > 0);
}

#[test]
fn many_connections_are_served_at_once() {
    let node = Node::start(|_| {});
    let mut connections: Vec<_> = (0..450).map(|_| node.connect()).collect();
    for connection in &mut connections {
        connection.send(b"put 1 a 0  1 b\nget 1 a\n");
    }
    for connection in &mut connections {
        assert_eq!(connection.line(), "succ 1\n");
        assert_eq!(connection.got().unwrap().1, [b"b"]);
    }
}

#[test]
fn idle_and_slow_clients_time_out() {
    let node = Node::start(|config| {
        config.idle = Duration::from_millis(200);
        config.slow = Duration::from_millis(200);
    });
    assert_eq!(node.connect().rest(), "");
    let mut slow = node.connect();
    slow.send(b"put 1 k 0  100 abc");
    assert!(slow.rest().starts_with("fail too slow"));
    assert_eq!(
        node.control()
            .status()
            .unwrap()
            .statistics
            .connections_timed_out,
        2
    );
}

#[test]
fn the_control_socket_answers_what_the_text_protocol_lacks() {
    use std::os::unix::fs::PermissionsExt;

    let node = Node::start(|_| {});
    let socket = node.folder.path().join("control");
    assert_eq!(
        socket.metadata().unwrap().permissions().mode() & 0o777,
        0o600
    );
    node.connect().put("k", b"", b"value");
    let mut control = node.control();
    let status = control.status().unwrap();
    assert_eq!((status.n, status.r, status.w, status.q), (1, 1, 1, 6));
    assert_eq!(status.text_address, node.address.to_string());
    assert_eq!(status.store.entries, 1);
    assert_eq!(status.statistics.latencies[1].1.count, 1);
    let hash = blake3::hash(b"value").as_bytes().to_vec();
    let keys = vec![Hex(b"k".to_vec()), Hex(b"absent".to_vec())];
    let hashes = vec![vec![Hex(hash)], vec![]];
    let answer = control.ask(&Request::Hashes { keys }).unwrap();
    assert_eq!(answer, Answer::Hashes { hashes });
    assert_eq!(control.address().unwrap(), node.address.to_string());
    let check = control.check().unwrap();
    assert!(check.newer >= 1 && check.violations.is_empty(), "{check:?}");
    let backup = node.folder.path().join("backup");
    let copied = control.backup(&backup).unwrap();
    assert_eq!(
        (copied.entries, copied.fingerprint),
        (1, status.store.fingerprint)
    );
    let refused = control.backup(&backup).unwrap_err().to_string();
    assert!(refused.contains("is there already"), "{refused}");
    let odd = std::ffi::OsStr::from_bytes(b"odd \xff\n");
    control.backup(&node.folder.path().join(odd)).unwrap();
    assert!(node.folder.path().join(odd).exists());
    let delete = Request::Delete {
        keys: vec![Hex(b"k".to_vec())],
    };
    assert_eq!(control.ask(&delete).unwrap(), Answer::Deleted);
    assert!(node.connect().get("k").is_none());
}

#[test]
fn a_folder_with_a_long_name_has_its_socket_too() {
    let node = Node::start(|config| {
        config.directory = config.directory.join("long".repeat(40));
        std::fs::create_dir(&config.directory).unwrap();
    });
    let folder = node.folder.path().join("long".repeat(40));
    assert!(Client::connect(&folder).unwrap().status().is_ok());
}

#[test]
fn a_stop_ends_the_running_command_and_tells_who_asked() {
    let mut node = Node::start(|_| {});
    let mut idle = node.connect();
    assert!(idle.get("k").is_none());
    let mut busy = node.connect();
    busy.send(b"put 1 k 0  3 a");
    std::thread::sleep(Duration::from_millis(100));
    let folder = node.folder.path().to_owned();
    let asking = std::thread::spawn(move || Client::connect(&folder).unwrap().stop());
    let running = node.running.as_ref().unwrap();
    node.runtime.block_on(running.asked_to_stop());
    busy.send(b"bc\n");
    assert_eq!(busy.line(), "succ 1\n");
    node.stop();
    asking.join().unwrap().unwrap();
    assert_eq!(idle.rest(), "");
    assert!(!node.folder.path().join("control").exists());
    let refused = Client::connect(node.folder.path())
        .err()
        .unwrap()
        .to_string();
    assert!(refused.starts_with("no node is running on"), "{refused}");
}

/// The socket closed, as after a clean stop, and who had asked went on.
#[test]
fn who_asks_for_a_stop_is_told_that_the_store_did_not_close() {
    let mut fails = None;
    let mut node = Node::start_on(
        |config| config.buffered_writes = true,
        |config| {
            let (storage, flag) = crate::storage::tests::failing(config);
            fails = Some(flag);
            storage
        },
    );
    assert_eq!(node.connect().put("k", b"", b"acknowledged"), "succ 1\n");
    fails.unwrap().store(true, Ordering::SeqCst);
    let idle = node.control();
    let mut asking = node.control();
    let asking = std::thread::spawn(move || asking.stop());
    let running = node.running.take().unwrap();
    node.runtime.block_on(running.asked_to_stop());
    let stopped = node.runtime.block_on(running.stop()).unwrap_err();
    let told = asking.join().unwrap().unwrap_err();
    assert!(told.to_string().contains("may be lost"), "{told}");
    assert_eq!(told.to_string(), stopped.to_string());
    drop(idle);
}

/// That it was gone counted as a stop, whatever it had ended of.
#[test]
fn a_node_that_ends_within_its_stop_has_not_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let socket = UnixListener::bind(folder.path().join("control")).unwrap();
    let mut asking = Client::connect(folder.path()).unwrap();
    let asking = std::thread::spawn(move || asking.stop());
    let (mut node, _) = socket.accept().unwrap();
    assert_eq!(frame::read::<Request>(&mut node).unwrap(), Request::Stop);
    frame::write(&mut node, &Answer::Stopping).unwrap();
    drop(node);
    let told = asking.join().unwrap().unwrap_err().to_string();
    assert!(told.starts_with("the node broke off"), "{told}");
}

/// The copying went on behind the stop, and was cut off when the process ended.
#[test]
fn a_stop_during_a_backup_leaves_nothing_of_it() {
    let mut node = Node::start(|_| {});
    for key in ["1", "2", "3"] {
        let value = vec![7; 60_000_000];
        assert_eq!(node.connect().put(key, b"", &value), "succ 1\n");
    }
    let backup = node.folder.path().join("backup");
    let unfinished = node.folder.path().join("backup.unfinished");
    let mut asking = UnixStream::connect(node.folder.path().join("control")).unwrap();
    let path = Hex(backup.as_os_str().as_bytes().to_vec());
    frame::write(&mut asking, &Request::Backup { path }).unwrap();
    let since = Instant::now();
    while !unfinished.exists() {
        assert!(since.elapsed() < Duration::from_secs(20));
    }
    // Nobody waits for the copy any more.
    drop(asking);
    node.stop();
    assert!(!unfinished.exists());
    assert!(!backup.exists(), "the copy was made before the stop");
}

/// It was removed by its name alone.
#[test]
fn a_node_whose_folder_was_moved_leaves_the_socket_of_the_one_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let (data, old) = (folder.path().join("data"), folder.path().join("old"));
    let start = || {
        std::fs::create_dir(&data).unwrap();
        Node::start(|config| config.directory.clone_from(&data))
    };
    let mut moved = start();
    std::fs::rename(&data, &old).unwrap();
    let node = start();
    let asking = std::thread::spawn(move || Client::connect(&old).unwrap().stop());
    let running = moved.running.as_ref().unwrap();
    moved.runtime.block_on(running.asked_to_stop());
    moved.stop();
    asking.join().unwrap().unwrap();
    let status = Client::connect(&data).unwrap().status().unwrap();
    assert_eq!(status.node, node.storage.node().to_string());
}

#[test]
fn a_stop_does_not_wait_for_a_client_that_rests_in_a_put() {
    let mut node = Node::start(|_| {});
    let mut resting = node.connect();
    assert_eq!(resting.put("kept", b"", b"1"), "succ 1\n");
    resting.send(b"put 1 k 0  60000000 ");
    // Enough that a place was taken for it.
    resting.send(&vec![7; 600_000]);
    resting.0.flush().unwrap();
    let mut unread = node.connect();
    let long = vec![7; 60_000_000];
    assert_eq!(unread.put("long", b"", &long), "succ 1\n");
    unread.send(b"get 4 long\n");
    assert_eq!(unread.section(), "succ");
    node.stop();
    let mut said = Vec::new();
    let _ = resting.0.read_to_end(&mut said);
    let said = String::from_utf8(said).unwrap();
    // Ended by force, as after the whole time that a stop may take, it would not be told.
    assert!(said.starts_with("fail the node stops"), "{said:?}");
    let mut rest = Vec::new();
    let _ = unread.0.read_to_end(&mut rest);
    assert!(rest.len() < long.len());

    let config = Config::tiny(node.folder.path());
    drop(std::mem::replace(&mut node.storage, {
        let elsewhere = tempfile::tempdir().unwrap();
        Arc::new(crate::storage::open(&Config::tiny(elsewhere.path()), None).unwrap())
    }));
    let storage = crate::storage::open(&config, None).unwrap();
    assert!(storage.entry(b"kept").unwrap().is_some());
    assert!(storage.entry(b"k").unwrap().is_none());
}

/// Each command came with the beginning of the next, and the connection went on for ever.
#[test]
fn a_stop_does_not_wait_for_a_client_that_always_has_begun_the_next_command() {
    let mut node = Node::start(|_| {});
    let mut busy = node.connect();
    busy.send(b"has 1 k\nhas 1");
    assert_eq!(busy.line(), "no 1\n");
    let asking = std::thread::spawn(move || {
        for _ in 0..500 {
            std::thread::sleep(Duration::from_millis(10));
            let mut reply = [0; 64];
            let sent = busy.0.write_all(b" k\nhas 1");
            if sent.is_err() || !matches!(busy.0.read(&mut reply), Ok(1..)) {
                return true;
            }
        }
        false
    });
    node.stop();
    assert!(asking.join().unwrap(), "the connection was ended");
}

#[test]
fn a_context_that_somebody_made_up_is_refused_and_leaves_no_trace() {
    use crate::version::{Context, Dot, NodeId, VersionVector};

    let node = Node::start(|_| {});
    let client = &mut node.connect();
    assert_eq!(client.put("k", b"", b"1"), "succ 1\n");
    let (context, _) = client.get("k").unwrap();
    let strangers: VersionVector = (1..60)
        .map(|node| Dot {
            node: NodeId(node),
            count: 5,
        })
        .collect();
    let reply = client.put("k", &Context::encode(&strangers), b"2");
    assert!(
        reply.starts_with("fail the context names the node 0000000000000001, which has never"),
        "{reply}"
    );
    let own: VersionVector = [Dot {
        node: node.storage.node(),
        count: 1 << 61,
    }]
    .into_iter()
    .collect();
    let reply = client.put("k", &Context::encode(&own), b"2");
    assert!(reply.contains("writes that no node has taken"), "{reply}");
    assert_eq!(
        client.get("k").unwrap(),
        (context.clone(), vec![b"1".to_vec()])
    );
    assert_eq!(client.put("k", &context, b"2"), "succ 1\n");
    assert_eq!(client.get("k").unwrap().1, [b"2"]);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        text_port: port,
        ..Config::tiny(folder.path())
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let storage = Arc::new(crate::storage::open(&config, None).unwrap());
    let refused = runtime.block_on(Running::start(&config, storage));
    let refused = refused.err().unwrap().to_string();
    assert!(
        refused.contains(&port.to_string()) && refused.contains("--text-port"),
        "{refused}"
    );
}

#[test]
fn the_client_and_the_node_understand_each_other() {
    use crate::client::{ClientError, TextClient};

    let node = Node::start(|_| {});
    let client = &mut TextClient::connect(&node.address.to_string()).unwrap();
    let long: Vec<u8> = (0..700_000u32).flat_map(u32::to_le_bytes).collect();
    for value in [&b""[..], b"\n \0", &long] {
        let put = client
            .put(b"k", b"", value.len() as u64, &mut &value[..])
            .unwrap();
        assert_eq!(put, 1);
        let mut read = Vec::new();
        let got = client.get(b"k", &mut |piece| {
            assert_eq!((piece.values, piece.index), (1, 0));
            read.extend_from_slice(piece.bytes);
            Ok(())
        });
        assert_eq!(got.unwrap().unwrap().lengths, [value.len() as u64]);
        assert!(read == value);
        let hash = *blake3::hash(value).as_bytes();
        assert_eq!(
            client.hashes(&[b"k", b"absent"], false).unwrap(),
            [vec![hash], vec![]].map(Held::Hashes)
        );
    }
    assert!(client.has(b"k").unwrap());
    assert_eq!(client.delete(b"k").unwrap(), 1);
    assert!(!client.has(b"k").unwrap());
    assert!(client.get(b"k", &mut |_| Ok(())).unwrap().is_none());
    match client.put(&[b'k'; 5000], b"", long.len() as u64, &mut &long[..]) {
        Err(ClientError::Refused(reason)) => {
            assert_eq!(reason, "the key has 5000 bytes, and 4092 are allowed");
        }
        other => panic!("{other:?}"),
    }
}
