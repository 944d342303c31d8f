//! Goal: bytes that rot on the disk are named by their key, are given to nobody, and are healed by
//! loading their folder again.
//! Method: the program itself; bytes of a value are changed in the store's file while no node runs.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{Node, bytes, done, dynomite, refused};
use engine::Geometry;
use serde_json::Value;

/// The long value in which bytes rot, and its key.
const KEY: &str = "sub folder/K\u{f6}ln.bin";

fn long() -> Vec<u8> {
    bytes(3, 900_000)
}

/// A folder `files` that was loaded into a node that has stopped.
fn loaded() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::create_dir_all(here.join("files/sub folder")).unwrap();
    fs::write(here.join("files/short"), b"short").unwrap();
    fs::write(here.join("files/middle"), bytes(2, 60_000)).unwrap();
    fs::write(here.join("files").join(KEY), long()).unwrap();
    let node = Node::start(here, "data");
    assert_eq!(load(here, &[])["stored"], 3);
    node.stop();
    folder
}

/// Changes a byte of the long value, behind so many of its bytes.
fn rot(file: &Path, behind: usize) {
    let all = fs::read(file).unwrap();
    let needle = &long()[behind..behind + 64];
    let place = all.windows(64).position(|window| window == needle);
    let place = place.unwrap();
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(&[all[place] ^ 1], place as u64).unwrap();
    file.sync_all().unwrap();
}

fn load(here: &Path, more: &[&str]) -> Value {
    let arguments = [&["load", "files", "--json", "--data", "data"], more].concat();
    serde_json::from_str(&done(here, &arguments)).unwrap()
}

fn assert_sound(here: &Path) {
    let said = done(here, &["check", "--data", "data"]);
    assert!(said.contains("no damage"), "{said}");
    done(here, &["get", KEY, "-o", "out", "--data", "data"]);
    assert!(fs::read(here.join("out")).unwrap() == long());
    fs::remove_file(here.join("out")).unwrap();
}

#[test]
fn what_a_check_names_the_next_load_heals() {
    let folder = loaded();
    let here = folder.path();
    rot(&here.join("data/store"), 1000);
    let node = Node::start(here, "data");
    // Nobody has read it yet: what is kept of it is believed.
    assert_eq!(load(here, &[])["equal"], 3);
    let output = dynomite(here, &["check", "--data", "data"]);
    assert_eq!(output.status.code(), Some(6));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.starts_with(&format!("key \"{KEY}\", its value, in units")),
        "{said}"
    );
    assert!(said.contains("or load its folder again"), "{said}");
    let output = dynomite(here, &["check", "--json", "--data", "data"]);
    assert_eq!(output.status.code(), Some(6));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["damaged"].as_array().unwrap().len(), 1);
    assert_eq!(report["damaged"][0]["key"], KEY);

    // Nor is it forgotten by the node that comes next.
    node.stop();
    let node = Node::start_with(here, "data", &["--log", "logs"]);
    let told = load(here, &[]);
    assert_eq!((&told["stored"], &told["healed"]), (&1.into(), &1.into()));
    let log = fs::read_to_string(here.join("logs/dynomite.log")).unwrap();
    assert!(log.contains("known to be damaged"), "{log}");
    assert_eq!(told["equal"], 2);
    assert_sound(here);
    let told = load(here, &[]);
    assert_eq!((&told["equal"], &told["healed"]), (&3.into(), &0.into()));
    node.stop();
}

#[test]
fn a_load_that_verifies_heals_what_nobody_has_named() {
    let folder = loaded();
    let here = folder.path();
    rot(&here.join("data/store"), 1000);
    let node = Node::start(here, "data");
    let told = load(here, &["--verify"]);
    assert_eq!((&told["healed"], &told["equal"]), (&1.into(), &2.into()));
    assert_sound(here);
    node.stop();
}

#[test]
fn a_get_that_meets_damage_says_so_and_leaves_no_file() {
    // In the first piece of the reply, and behind what is on its way by then.
    for behind in [1000, 700_000] {
        let folder = loaded();
        let here = folder.path();
        rot(&here.join("data/store"), behind);
        let node = Node::start_with(here, "data", &["--log", "logs"]);
        let before = fs::read_dir(here).unwrap().count();
        let words = format!("damaged: the value of \"{KEY}\" is not what was put");
        for _ in 0..2 {
            let arguments = ["get", KEY, "-o", "out", "--data", "data"];
            refused(here, &arguments, 6, &words);
            let arguments = ["get", KEY, "--json", "--data", "data"];
            refused(here, &arguments, 6, &words);
        }
        assert_eq!(fs::read_dir(here).unwrap().count(), before);
        assert_eq!(done(here, &["get", "short", "--data", "data"]), "short");
        let log = fs::read_to_string(here.join("logs/dynomite.log")).unwrap();
        let line = format!("damage: key \"{KEY}\": corrupt extent at unit");
        assert_eq!(log.matches(&line).count(), 1, "{log}");
        assert_eq!(load(here, &[])["healed"], 1);
        assert_sound(here);
        node.stop();
    }
}

#[test]
fn a_backup_names_the_damaged_key_and_leaves_earlier_backups() {
    let folder = loaded();
    let here = folder.path();
    let node = Node::start(here, "data");
    done(here, &["backup", "copy", "--data", "data"]);
    node.stop();
    let good = fs::read(here.join("copy")).unwrap();
    rot(&here.join("data/store"), 700_000);
    let node = Node::start(here, "data");
    let before = fs::read_dir(here).unwrap().count();
    let arguments = ["backup", "copy", "--data", "data"];
    refused(here, &arguments, 4, "is there already");
    let words = format!("the value of \"{KEY}\" is not what was put");
    let arguments = ["backup", "new", "--data", "data"];
    refused(here, &arguments, 6, &words);
    refused(here, &arguments, 6, "/new: in the tree storage_");
    assert_eq!(fs::read_dir(here).unwrap().count(), before);
    assert!(fs::read(here.join("copy")).unwrap() == good);
    // It is known from there on, and a new value heals.
    assert_eq!(load(here, &[])["healed"], 1);
    done(here, &["backup", "new", "--data", "data"]);
    node.stop();
    done(here, &["restore", "copy", "--data", "data2"]);
    let first = Node::start(here, "data").status()["node"].clone();
    let second = Node::start(here, "data2");
    assert_ne!(second.status()["node"], first);
}

#[test]
fn a_value_put_beside_a_damaged_one_does_not_vouch_for_it() {
    let folder = loaded();
    let here = folder.path();
    let node = Node::start(here, "data");
    let described = done(here, &["get", KEY, "--json", "--data", "data"]);
    let described: Value = serde_json::from_str(&described).unwrap();
    let context = described["context"].as_str().unwrap();
    node.stop();
    rot(&here.join("data/store"), 1000);
    let node = Node::start(here, "data");
    refused(
        here,
        &["get", KEY, "-o", "out", "--data", "data"],
        6,
        "damaged",
    );
    // One of the original's contexts covers nothing: the damaged value stays beside the new one.
    fs::write(here.join("beside"), b"beside").unwrap();
    let put = |context: &str| {
        let arguments = ["put", KEY, "beside", "--context", context, "--data", "data"];
        done(here, &arguments)
    };
    put("836a");
    let hash = node.connect().hashes(&[KEY.as_bytes()], false).unwrap();
    assert!(
        matches!(hash[..], [node::client::Held::Damaged(_)]),
        "{hash:?}"
    );
    // What covers it heals.
    put(context);
    let hash = node.connect().hashes(&[KEY.as_bytes()], false).unwrap();
    assert!(
        matches!(hash[..], [node::client::Held::Hashes(_)]),
        "{hash:?}"
    );
    let said = done(here, &["check", "--data", "data"]);
    assert!(said.contains("no damage"), "{said}");
    node.stop();
}

#[test]
fn a_damaged_tree_is_named_and_harms_no_other_key() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::create_dir(here.join("files")).unwrap();
    for number in 0..300 {
        fs::write(here.join(format!("files/{number}")), bytes(number, 200)).unwrap();
    }
    let node = Node::start(here, "data");
    load(here, &[]);
    node.stop();
    // The leaf that holds a short value, behind the log.
    let all = fs::read(here.join("data/store")).unwrap();
    let needle = &bytes(7, 200)[..64];
    let place = all
        .windows(64)
        .rposition(|window| window == needle)
        .unwrap();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(here.join("data/store"))
        .unwrap();
    file.write_all_at(&[all[place] ^ 1], place as u64).unwrap();
    drop(file);

    let node = Node::start_with(here, "data", &["--log", "logs"]);
    let words = "damaged: the tree that \"7\" belongs to cannot be read";
    refused(here, &["get", "7", "--data", "data"], 6, words);
    refused(here, &["has", "7", "--data", "data"], 6, words);
    for _ in 0..2 {
        let output = dynomite(here, &["check", "--data", "data"]);
        assert_eq!(output.status.code(), Some(6));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.starts_with("tree storage_"), "{said}");
        assert!(said.contains("only a backup heals"), "{said}");
    }
    let log = fs::read_to_string(here.join("logs/dynomite.log")).unwrap();
    assert_eq!(log.matches("damage: tree storage_").count(), 1, "{log}");
    // The others are loaded all the same.
    fs::write(here.join("files/more"), b"more").unwrap();
    let output = dynomite(here, &["load", "files", "--json", "--data", "data"]);
    assert_eq!(output.status.code(), Some(6));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lost = told["faults"].as_array().unwrap().len() as u64;
    assert!((1..50).contains(&lost), "{told}");
    assert_eq!(
        told["equal"].as_u64().unwrap() + lost,
        300 + u64::from(told["stored"] == 0)
    );
    refused(
        here,
        &["backup", "new", "--data", "data"],
        6,
        "tree \"storage_",
    );
    node.stop();
}

#[test]
fn a_damaged_map_refuses_writes_names_no_key_and_is_healed_by_a_backup() {
    let folder = loaded();
    let here = folder.path();
    let geometry = Geometry {
        ring_bytes: 4 << 20,
        ..Geometry::default()
    };
    let file = fs::OpenOptions::new()
        .write(true)
        .open(here.join("data/store"))
        .unwrap();
    for copy in [0, 1] {
        let place = geometry.map_offset(0, copy) + 100;
        file.write_all_at(b"rot", place).unwrap();
    }
    let node = Node::start(here, "data");
    let way_out = "what it holds can be read: make a backup";
    for arguments in [
        &["put", "new", "files/short", "--data", "data"][..],
        &["put", "new", "files/middle", "--data", "data"],
        &["del", KEY, "--data", "data"],
    ] {
        refused(here, arguments, 6, way_out);
    }
    // Nothing is wrong with the keys that could not be changed.
    assert_eq!(node.status()["store"]["details"]["damaged_keys_known"], 0);
    assert_eq!(load(here, &[])["equal"], 3);
    done(here, &["backup", "copy", "--data", "data"]);
    node.stop();
    done(here, &["restore", "copy", "--data", "healed"]);
    let node = Node::start(here, "healed");
    done(here, &["put", "new", "files/middle", "--data", "healed"]);
    let said = done(here, &["check", "--data", "healed"]);
    assert!(said.contains("no damage"), "{said}");
    node.stop();
}
