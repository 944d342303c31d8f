//! Goal: the walk of the README holds: start, load a folder, get a file back and compare, kill -9
//! in the middle of a load, start again, load again, compare all, back up, restore elsewhere,
//! compare fingerprints.
//! Method: the program itself over a generated folder of some thousand files.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Node, PROGRAM, bytes, done, dynomite};
use serde_json::Value;

/// Files of the folder that is loaded while the node is killed.
const FILES: u64 = 4000;

/// Makes `files` files below `folder`, from empty ones to some megabytes; gives name and bytes.
fn generate(folder: &Path, files: u64, large: u64) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for number in 0..files {
        let length = match number {
            _ if number < large => 3_000_000 + number * 7_000_003,
            _ if number % 50 == 0 => number * 60,
            _ => number * 37 % 9000,
        };
        let name = format!("{}/odd name {}\u{e9}/{number}", number % 7, number % 13);
        all.insert(name, bytes(number, usize::try_from(length).unwrap()));
    }
    all.insert("empty".to_owned(), Vec::new());
    for (name, bytes) in &all {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    all
}

fn load(folder: &Path, directory: &str) -> Value {
    let said = done(folder, &["load", directory, "--json", "--data", "data"]);
    serde_json::from_str(&said).unwrap()
}

fn compare(node: &Node, all: &BTreeMap<String, Vec<u8>>) {
    let client = &mut node.connect();
    for (name, bytes) in all {
        let mut found = Vec::new();
        let got = client.get(name.as_bytes(), &mut |piece| {
            found.extend_from_slice(piece.bytes);
            Ok(())
        });
        assert!(got.unwrap().is_some(), "{name} is not there");
        assert!(found == *bytes, "{name} is not what was loaded");
    }
}

#[test]
fn the_walk_of_the_readme_holds() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let first = generate(&here.join("first"), 300, 2);
    let second = generate(&here.join("second"), FILES, 0);

    let node = Node::start(here, "data");
    let loaded = load(here, "first");
    assert_eq!(loaded["stored"], first.len());
    let one = "1/odd name 1\u{e9}/1";
    done(here, &["get", one, "-o", "one", "--data", "data"]);
    assert!(fs::read(here.join("one")).unwrap() == first[one]);
    compare(&node, &first);
    let (before, _) = node.fingerprint();

    // The second folder's files replace those of the first where the names are equal. The node is
    // killed once some of the new ones are there.
    let mut loading = Command::new(PROGRAM)
        .args(["load", "second", "--data", "data", "--connections", "4"])
        .current_dir(here)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let since = Instant::now();
    while node.fingerprint().1 < first.len() as u64 + FILES / 20 {
        assert!(since.elapsed() < Duration::from_secs(100), "nothing came");
    }
    node.kill();
    let ended = loading.wait().unwrap();
    assert_eq!(ended.code(), Some(3), "the load did not notice");

    let node = Node::start(here, "data");
    let (after, entries) = node.fingerprint();
    assert_ne!(before, after);
    assert!(entries < second.len() as u64, "the load was over already");
    let loaded = load(here, "second");
    let (stored, equal) = (loaded["stored"].as_u64(), loaded["equal"].as_u64());
    assert_eq!(
        stored.unwrap() + equal.unwrap(),
        second.len() as u64,
        "{loaded}"
    );
    assert!(equal.unwrap() >= FILES / 20, "{loaded}");
    let mut all = first;
    all.extend(second);
    compare(&node, &all);
    let said = done(here, &["check", "--data", "data"]);
    assert!(said.contains("no damage"), "{said}");

    let backup = done(here, &["backup", "copy", "--json", "--data", "data"]);
    let backup: Value = serde_json::from_str(&backup).unwrap();
    done(here, &["restore", "copy", "--data", "elsewhere"]);
    let elsewhere = Node::start(here, "elsewhere");
    assert_eq!(elsewhere.fingerprint(), node.fingerprint());
    assert_eq!(backup["fingerprint"], node.fingerprint().0.as_str());
    compare(&elsewhere, &all);

    // One value more, and they differ.
    assert_eq!(
        dynomite(here, &["put", "more", "one", "--data", "elsewhere"])
            .status
            .code(),
        Some(0)
    );
    assert_ne!(elsewhere.fingerprint().0, node.fingerprint().0);
    elsewhere.stop();
    node.stop();
}
