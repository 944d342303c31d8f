//! Goal: whatever is wrong with the data folder, the store's file, a key, a value or the disk gets
//! one clear sentence and its exit code, and nothing that was stored is lost.
//! Method: the program itself, over folders that were spoilt one way each.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use common::{Node, PROGRAM, assert_refused, bytes, done, dynomite, refused, start_refused};
use engine::Geometry;

/// The log of the nodes in these tests.
const LOG_BYTES: u64 = 4 << 20;
const LOG_BLOCK_BYTES: u64 = 4096;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn put(folder: &Path, key: &str, value: &[u8]) {
    fs::write(folder.join("value"), value).unwrap();
    done(folder, &["put", key, "value", "--data", "data"]);
}

/// A node's folder in which `key` has the value `kept`.
fn with_a_value() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), "data");
    put(folder.path(), "key", b"kept");
    node.stop();
    folder
}

fn assert_kept(folder: &Path) {
    let node = Node::start(folder, "data");
    assert_eq!(done(folder, &["get", "key", "--data", "data"]), "kept");
    node.stop();
}

#[test]
fn a_port_in_use_is_named() {
    let folder = with_a_value();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let port = taken.local_addr().unwrap().port().to_string();
    let arguments = ["start", "--data", "data", "--text-port", &port];
    refused(folder.path(), &arguments, 4, &address);
    refused(
        folder.path(),
        &arguments,
        4,
        "choose another with --text-port",
    );
    // Nor is a store made for nothing.
    let arguments = ["start", "--data", "fresh", "--text-port", &port];
    refused(folder.path(), &arguments, 4, &address);
    assert!(!folder.path().join("fresh/store").exists());
    assert_kept(folder.path());
}

#[test]
fn a_store_in_use_is_not_opened_twice() {
    let folder = with_a_value();
    let node = Node::start(folder.path(), "data");
    start_refused(folder.path(), "data", &[], "the store is open already");
    // The first one is not disturbed, its control socket included.
    assert_eq!(
        done(folder.path(), &["get", "key", "--data", "data"]),
        "kept"
    );
    node.stop();
}

#[test]
fn a_folder_that_is_not_writable_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // Root may write everywhere, so the program runs as nobody, from where nobody may read it.
    let program = folder.path().join("dynomite");
    copy_program(&program);
    let mut command = Command::new(program);
    if is_root() {
        command.uid(65_534).gid(65_534);
    }
    let arguments = ["start", "--data", "data", "--text-port", "0"];
    let output = command.args(arguments).current_dir(folder.path()).output();
    assert_refused(&output.unwrap(), &arguments, 4, "data/store");
}

/// A process of its own copies: a child that another test starts meanwhile would inherit the open
/// copy, and a program that somebody may write to is not run.
fn copy_program(to: &Path) {
    let copied = Command::new("cp").arg(PROGRAM).arg(to).status().unwrap();
    assert!(copied.success());
}

#[test]
fn a_folder_that_became_read_only_is_named_with_the_way_out() {
    let folder = with_a_value();
    let data = folder.path().join("data");
    let mode = |mode| fs::set_permissions(&data, fs::Permissions::from_mode(mode)).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("dynomite");
    copy_program(&program);
    let mut command = Command::new(program);
    if is_root() {
        for path in [&data, &data.join("store")] {
            std::os::unix::fs::chown(path, Some(65_534), Some(65_534)).unwrap();
        }
        command.uid(65_534).gid(65_534);
    }
    mode(0o555);
    let arguments = ["start", "--data", "data", "--text-port", "0"];
    let output = command.args(arguments).current_dir(folder.path()).output();
    let way_out = "the node needs to write in its data folder";
    assert_refused(&output.unwrap(), &arguments, 4, way_out);
    mode(0o755);
    assert_kept(folder.path());
}

#[test]
fn a_foreign_file_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("data/store");
    fs::create_dir(folder.path().join("data")).unwrap();
    for (bytes, words) in [
        (&b"To whom it may concern"[..], "not a Dynomite store"),
        (&[7; 10_000], "not a Dynomite store"),
        (b"", "not a Dynomite store"),
    ] {
        fs::write(&store, bytes).unwrap();
        start_refused(folder.path(), "data", &[], words);
        start_refused(
            folder.path(),
            "data",
            &[],
            "take another data folder with --data",
        );
        assert_eq!(fs::read(&store).unwrap(), bytes);
    }
    fs::remove_file(&store).unwrap();
    fs::create_dir(&store).unwrap();
    start_refused(folder.path(), "data", &[], "not a regular file");
}

#[test]
fn a_newer_format_is_left_to_newer_programs() {
    let folder = with_a_value();
    let path = folder.path().join("data/store");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut before = Vec::new();
    for offset in [0, 16 << 10, 32 << 10, 48 << 10] {
        let mut block = vec![0; 512];
        file.read_exact_at(&mut block, offset).unwrap();
        before.push((offset, block.clone()));
        // The version stands behind the magic, and the checksum behind the version.
        block[8..12].copy_from_slice(&7u32.to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..]);
        block[12..16].copy_from_slice(&checksum.to_le_bytes());
        file.write_all_at(&block, offset).unwrap();
    }
    start_refused(folder.path(), "data", &[], "format version 7");
    start_refused(
        folder.path(),
        "data",
        &[],
        "open it with the version that made it",
    );
    for (offset, block) in before {
        file.write_all_at(&block, offset).unwrap();
    }
    assert_kept(folder.path());
}

#[test]
fn a_truncated_file_is_told_from_a_whole_one() {
    let folder = with_a_value();
    let node = Node::start(folder.path(), "data");
    put(folder.path(), "long", &bytes(1, 1_000_000));
    node.stop();
    let path = folder.path().join("data/store");
    let whole = folder.path().join("whole");
    fs::copy(&path, &whole).unwrap();
    let all = fs::read(&path).unwrap();
    let last = all.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    for cut in [
        100,
        20_000,
        1 << 20,
        LOG_BYTES + (1 << 20),
        last - 5000,
        last,
    ] {
        fs::copy(&whole, &path).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(cut).unwrap();
        start_refused(folder.path(), "data", &[], "data/store");
        assert_eq!(path.metadata().unwrap().len(), cut);
    }
    fs::copy(&whole, &path).unwrap();
    assert_kept(folder.path());
}

#[test]
fn another_number_of_partitions_is_refused() {
    let folder = with_a_value();
    fs::write(folder.path().join("four.toml"), "q = 4\n").unwrap();
    let arguments = [
        "start",
        "-c",
        "four.toml",
        "--data",
        "data",
        "--text-port",
        "0",
    ];
    refused(folder.path(), &arguments, 4, "was made with q = 6");
    assert_kept(folder.path());
}

#[test]
fn keys_and_values_over_the_limit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), "data");
    fs::write(folder.path().join("value"), b"v").unwrap();
    let long = "k".repeat(4093);
    let arguments = ["put", &long, "value", "--data", "data"];
    refused(folder.path(), &arguments, 4, "4092 are allowed");
    let arguments = ["get", &long, "--data", "data"];
    refused(folder.path(), &arguments, 4, "4092 are allowed");
    let large = File::create(folder.path().join("large")).unwrap();
    large.set_len((64 << 20) + 1).unwrap();
    let arguments = ["put", "k", "large", "--data", "data"];
    refused(folder.path(), &arguments, 4, "67108864 bytes are allowed");
    let output = dynomite(folder.path(), &["load", ".", "--data", "data", "--json"]);
    assert_eq!(output.status.code(), Some(5));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("large: it has 67108865 bytes"), "{said}");
    assert_eq!(
        done(folder.path(), &["get", "value", "--data", "data"]),
        "v"
    );
    node.stop();
}

#[test]
fn damage_in_the_log_is_given_up_only_when_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), "data");
    put(folder.path(), "first", b"1");
    let lsn = node.status()["store"]["details"]["durable_lsn"].as_u64();
    for key in ["second", "third", "fourth"] {
        put(folder.path(), key, key.as_bytes());
    }
    node.kill();

    let geometry = Geometry {
        ring_bytes: LOG_BYTES,
        ..Geometry::default()
    };
    let block = lsn.unwrap().next_multiple_of(LOG_BLOCK_BYTES);
    let file = OpenOptions::new()
        .write(true)
        .open(folder.path().join("data/store"))
        .unwrap();
    let spoilt = geometry.ring_offset() + block;
    file.write_all_at(&[0xee; 100], spoilt + 200).unwrap();
    drop(file);

    let output = common::start(folder.path(), "data", &[]).output().unwrap();
    assert_refused(&output, &["start"], 4, "acknowledged commits");
    let said = String::from_utf8(output.stderr).unwrap();
    let (_, told) = said.split_once("--accept-loss ").expect(&said);
    let told: String = told.chars().take_while(char::is_ascii_digit).collect();
    assert_eq!(told, block.to_string());
    let arguments = ["--accept-loss", &told, "--log", "said"];
    let node = Node::start_with(folder.path(), "data", &arguments);
    assert_eq!(
        done(folder.path(), &["get", "first", "--data", "data"]),
        "1"
    );
    let arguments = ["get", "second", "--data", "data"];
    refused(folder.path(), &arguments, 1, "there is no key \"second\"");
    node.stop();
    let log = std::fs::read_to_string(folder.path().join("said/dynomite.log")).unwrap();
    let given_up = format!("the loss of everything from LSN {told} on was accepted");
    assert!(log.contains(&given_up), "{log}");
}

#[test]
fn only_a_whole_backup_is_restored_and_never_over_a_store() {
    let folder = with_a_value();
    let here = folder.path();
    let node = Node::start(here, "data");
    put(here, "long", &bytes(1, 100_000));
    done(here, &["backup", "copy", "--data", "data"]);
    refused(
        here,
        &["backup", "copy", "--data", "data"],
        4,
        "is there already",
    );
    refused(
        here,
        &["restore", "copy", "--data", "data"],
        4,
        "a node is running",
    );
    node.stop();
    refused(
        here,
        &["restore", "copy", "--data", "data"],
        4,
        "is a store in data already",
    );
    fs::write(here.join("letter"), b"To whom it may concern").unwrap();
    refused(
        here,
        &["restore", "letter", "--data", "new"],
        4,
        "not a Dynomite store",
    );
    refused(here, &["restore", "absent", "--data", "new"], 5, "absent");

    // Rot in the middle of the long value.
    let spoilt = fs::read(here.join("copy")).unwrap();
    let value = bytes(1, 100_000);
    let at = spoilt
        .windows(64)
        .position(|window| window == &value[50_000..50_064]);
    let mut spoilt = spoilt;
    spoilt[at.unwrap()] ^= 1;
    fs::write(here.join("spoilt"), spoilt).unwrap();
    refused(
        here,
        &["restore", "spoilt", "--data", "new"],
        6,
        "cannot restore spoilt, and nothing was: the value of \"long\" in it is damaged",
    );
    assert_eq!(fs::read_dir(here.join("new")).map_or(0, Iterator::count), 0);
    let mut headless = fs::read(here.join("copy")).unwrap();
    for offset in engine_superblocks() {
        headless[offset + 100] ^= 1;
    }
    fs::write(here.join("headless"), headless).unwrap();
    let arguments = ["restore", "headless", "--data", "new"];
    refused(here, &arguments, 6, "cannot restore headless");
    let short = fs::read(here.join("copy")).unwrap();
    fs::write(here.join("short"), &short[..short.len() / 2]).unwrap();
    let arguments = ["restore", "short", "--data", "new"];
    refused(here, &arguments, 6, "cannot restore short");

    // What is in the way is named, and stays.
    fs::create_dir(here.join("taken")).unwrap();
    fs::write(here.join("taken/letter"), b"mine").unwrap();
    let arguments = ["restore", "copy", "--data", "taken"];
    refused(here, &arguments, 4, "taken is not empty, it holds letter");
    assert_eq!(fs::read_dir(here.join("taken")).unwrap().count(), 1);
    assert_eq!(fs::read(here.join("taken/letter")).unwrap(), b"mine");

    done(here, &["restore", "copy", "--data", "new"]);
    let node = Node::start(here, "new");
    assert_eq!(done(here, &["get", "key", "--data", "new"]), "kept");
    node.stop();
    assert_kept(here);
}

/// The second of the two names under which a copy grows was taken for somebody's.
#[test]
fn a_restore_that_was_killed_in_its_first_moments_is_made_again() {
    let folder = with_a_value();
    let here = folder.path();
    let node = Node::start(here, "data");
    done(here, &["backup", "copy", "--data", "data"]);
    node.stop();
    fs::create_dir(here.join("new")).unwrap();
    let left = ["store.unfinished", "store.unfinished.unfinished"];
    for name in left {
        fs::write(here.join("new").join(name), b"").unwrap();
    }
    done(here, &["restore", "copy", "--data", "new"]);
    for name in left {
        assert!(!here.join("new").join(name).exists(), "{name}");
    }
    let node = Node::start(here, "new");
    assert_eq!(done(here, &["get", "key", "--data", "new"]), "kept");
    node.stop();
}

/// Where the copies of the superblocks stand.
fn engine_superblocks() -> [usize; 4] {
    [0, 16 << 10, 32 << 10, 48 << 10]
}

/// A small file system in memory, gone with its test.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn new(path: &'a Path, size: &str) -> Option<Self> {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", size, "tmpfs"])
            .arg(path)
            .output();
        let mounted = mount.is_ok_and(|mount| mount.status.success());
        if !mounted {
            eprintln!(
                "SKIPPED: a full disk needs a small file system, and only root may mount one"
            );
        }
        mounted.then_some(Self(path))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_a_put_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let Some(_mount) = Mount::new(&disk, "size=40m") else {
        return;
    };
    let node = Node::start(folder.path(), "disk/data");
    let client = &mut node.connect();
    let mut stored = 0..0;
    let reason = loop {
        let value = bytes(stored.end, 1 << 20);
        let key = format!("key {}", stored.end);
        match client.put(key.as_bytes(), b"", value.len() as u64, &mut &value[..]) {
            Ok(_) => stored.end += 1,
            Err(error) => break error.to_string(),
        }
        assert!(stored.end < 40, "more was stored than the disk holds");
    };
    assert!(reason.contains("the disk is full"), "{reason}");
    assert!(stored.end > 10, "only {} MiB of 40 were stored", stored.end);
    let output = {
        fs::write(folder.path().join("value"), bytes(0, 2 << 20)).unwrap();
        dynomite(
            folder.path(),
            &["put", "more", "value", "--data", "disk/data"],
        )
    };
    assert_refused(&output, &["put", "more"], 4, "the disk is full");

    // What was stored is there; a deletion makes room.
    let get = |client: &mut node::client::TextClient, number: u64| {
        let mut value = Vec::new();
        let got = client.get(format!("key {number}").as_bytes(), &mut |piece| {
            value.extend_from_slice(piece.bytes);
            Ok(())
        });
        got.unwrap().map(|_| value)
    };
    for number in stored.clone() {
        assert!(
            get(client, number) == Some(bytes(number, 1 << 20)),
            "key {number}"
        );
    }
    for number in 0..5 {
        client.delete(format!("key {number}").as_bytes()).unwrap();
    }
    let value = bytes(99, 1 << 20);
    client
        .put(b"again", b"", value.len() as u64, &mut &value[..])
        .unwrap();
    node.kill();
    let node = Node::start(folder.path(), "disk/data");
    let client = &mut node.connect();
    for number in 5..stored.end {
        assert!(
            get(client, number) == Some(bytes(number, 1 << 20)),
            "key {number}"
        );
    }
    node.stop();
}

#[test]
fn a_disk_too_small_for_a_store_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let Some(_mount) = Mount::new(&disk, "size=1m") else {
        return;
    };
    start_refused(folder.path(), "disk/data", &[], "No space left");
    let way_out = "the log takes 4194304 bytes (4 MiB) of it, and `log_size` in the configuration";
    start_refused(folder.path(), "disk/data", &[], way_out);
    assert!(!disk.join("data/store").exists());
}

#[test]
fn a_fetched_value_goes_into_a_device_or_through_a_link_and_keeps_the_files_mode() {
    let folder = with_a_value();
    let here = folder.path();
    let node = Node::start(here, "data");
    let fetch = |to: &str| done(here, &["get", "key", "-o", to, "--data", "data"]);

    fetch("/dev/null");
    let null = fs::metadata("/dev/null").unwrap();
    assert!(!null.is_file() && !null.is_dir());

    fs::write(here.join("old"), b"as it was").unwrap();
    fs::set_permissions(here.join("old"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("old", here.join("link")).unwrap();
    fetch("link");
    assert!(here.join("link").symlink_metadata().unwrap().is_symlink());
    assert_eq!(fs::read(here.join("old")).unwrap(), b"kept");
    let mode = |name: &str| here.join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("old"), 0o640);

    fetch("new");
    // Any file that this process makes: what its umask leaves.
    File::create(here.join("usual")).unwrap();
    assert_eq!(mode("new"), mode("usual"));

    std::os::unix::fs::symlink("nowhere", here.join("dangling")).unwrap();
    let arguments = ["get", "key", "-o", "dangling", "--data", "data"];
    refused(here, &arguments, 5, "leads nowhere");
    node.stop();
}

#[test]
fn a_file_that_says_it_is_empty_is_stored_with_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let node = Node::start(here, "data");
    let version = "/proc/version";
    done(here, &["put", "k", version, "--data", "data"]);
    let stored = done(here, &["get", "k", "--data", "data"]);
    assert_eq!(stored, fs::read_to_string(version).unwrap());
    // One that says it is longer than it is: a page of which a line is there.
    let shrunk = "/sys/kernel/mm/transparent_hugepage/enabled";
    if fs::metadata(shrunk).is_ok_and(|metadata| metadata.len() > 1000) {
        let arguments = ["put", "k", shrunk, "--data", "data"];
        refused(here, &arguments, 5, "enabled: shrank while it was read");
    }
    node.stop();
}

#[test]
fn a_pidfile_that_cannot_be_written_leaves_a_store_that_was_closed() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let output = common::start(here, "data", &["-p", "absent/pid"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(5));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("absent/pid"), "{said}");
    assert!(!here.join("data/control").exists());
    Node::start(here, "data").stop();
}

#[test]
fn only_a_pidfile_of_a_node_that_is_gone_is_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let refused = |words: &str| {
        let output = common::start(here, "other", &["-p", "pid"])
            .output()
            .unwrap();
        assert_refused(&output, &["start", "-p"], 5, words);
        assert!(!here.join("other").exists());
    };
    fs::write(here.join("pid"), b"To whom it may concern").unwrap();
    refused("pid is there, holds no process id, and was left as it is");
    assert_eq!(
        fs::read(here.join("pid")).unwrap(),
        b"To whom it may concern"
    );
    // No process has this number.
    fs::write(here.join("pid"), b"99999999999\n").unwrap();
    refused("holds no process id");
    fs::write(here.join("pid"), b"4194305\n").unwrap();
    let node = Node::start_with(here, "data", &["-p", "pid"]);
    let pid = node.status()["pid"].as_u64().unwrap();
    let content = || fs::read_to_string(here.join("pid")).ok();
    assert_eq!(content(), Some(format!("{pid}\n")));
    refused(&format!("pid belongs to process {pid}"));
    assert_eq!(content(), Some(format!("{pid}\n")));
    // Killed, it keeps its name until its parent asks after it, which some never do.
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let since = std::time::Instant::now();
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    while !fs::read_to_string(&stat).unwrap().contains(") Z") {
        assert!(since.elapsed().as_secs() < 20);
    }
    let heir = Node::start_with(here, "data", &["-p", "pid"]);
    heir.stop();
    assert_eq!(content(), None);
    node.kill();
}

#[test]
fn an_interrupted_load_says_how_far_it_came() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::create_dir(here.join("files")).unwrap();
    fs::write(here.join("files/one"), b"1").unwrap();
    // It takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let loading = || {
        let load = Command::new(PROGRAM)
            .args(["load", "files", "--connections", "1", "--host", &address])
            .current_dir(here)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The first asks whether a node is there; the second loads.
        let held: Vec<_> = (0..2).map(|_| silent.accept().unwrap()).collect();
        (load, held)
    };
    let interrupt = |load: &std::process::Child| {
        let pid = rustix::process::Pid::from_child(load);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    };
    let (load, held) = loading();
    interrupt(&load);
    let output = load.wait_with_output().unwrap();
    drop(held);
    let words = "interrupted: 0 files, 0 B, were stored, 0 were there and equal: load again";
    assert_refused(&output, &["load"], 130, words);

    // It ends too where nobody reads what it says.
    let (mut load, _held) = loading();
    drop(load.stderr.take());
    interrupt(&load);
    let since = std::time::Instant::now();
    let ended = loop {
        if let Some(ended) = load.try_wait().unwrap() {
            break ended;
        }
        if since.elapsed().as_secs() > 20 {
            load.kill().unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    assert_eq!(ended.code(), Some(130));
}

#[test]
fn a_mended_superblock_is_said_in_the_log() {
    let folder = with_a_value();
    let here = folder.path();
    let file = OpenOptions::new()
        .write(true)
        .open(here.join("data/store"))
        .unwrap();
    file.write_all_at(&[0xee; 8], 100).unwrap();
    drop(file);
    let node = Node::start_with(here, "data", &["--log", "logs"]);
    assert_eq!(done(here, &["get", "key", "--data", "data"]), "kept");
    node.stop();
    let log = fs::read_to_string(here.join("logs/dynomite.log")).unwrap();
    assert!(
        log.contains("superblock copy 0, of slot A, was damaged"),
        "{log}"
    );
}
