//! Goal: what the commands say is true, and the same in each of them.
//! Method: the program itself, with a node where one is needed.

mod common;

use std::fs;

use common::{Node, bytes, done, dynomite, start};

#[test]
fn deleted_keys_are_counted_alike_by_status_backup_and_check_and_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), "data");
    let client = &mut node.connect();
    for key in 0..9_u8 {
        let value = bytes(u64::from(key), 100);
        client.put(&[key], b"", 100, &mut &value[..]).unwrap();
    }
    for key in 0..6_u8 {
        client.delete(&[key]).unwrap();
    }
    for command in [&["status"][..], &["backup", "copy"], &["check"]] {
        let arguments = [command, &["--data", "data"]].concat();
        let said = done(folder.path(), &arguments);
        let counted = "9 entries (deleted keys included)";
        assert!(said.contains(counted), "{command:?}: {said}");
    }
    assert_eq!(node.fingerprint().1, 9);
    node.stop();
}

#[test]
fn the_help_of_start_tells_every_key_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let said = done(folder.path(), &["start", "--help"]);
    for key in node::config::KEYS {
        let line = said.lines().find(|line| {
            let line = line.trim_start();
            line.starts_with(&format!("{} = ", key.name)) && line.ends_with(key.meaning)
        });
        assert!(line.is_some(), "{}: {said}", key.name);
    }
}

#[test]
fn a_store_whose_file_was_removed_is_a_fault_for_check_and_status() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), "data");
    let arguments = ["check", "--data", "data"];
    assert!(done(folder.path(), &arguments).contains("no damage"));
    fs::remove_file(folder.path().join("data/store")).unwrap();
    let output = dynomite(folder.path(), &arguments);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains("has no name any more"), "{said}");
    assert!(said.contains(": 1 fault"), "{said}");
    let status = node.status();
    let told = status["store"]["details"]["file_removed"].as_str();
    assert!(told.unwrap().contains("dynomite backup"), "{status}");
    done(folder.path(), &["backup", "copy", "--data", "data"]);
    node.stop();
}

#[test]
fn a_status_names_the_folder_that_the_data_was_moved_to() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), "data");
    fs::rename(folder.path().join("data"), folder.path().join("moved")).unwrap();
    let said = done(folder.path(), &["status", "--data", "moved"]);
    let moved = folder.path().canonicalize().unwrap().join("moved");
    assert!(
        said.contains(&format!("data in {}\n", moved.display())),
        "{said}"
    );
    node.kill();
}

#[test]
fn a_start_that_comes_to_nothing_leaves_no_empty_folder() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    fs::create_dir(folder.path().join("mine")).unwrap();
    for more in [&[][..], &["--detached"], &["--log", "logs/new"]] {
        for data in ["new/data", "mine"] {
            let mut arguments = vec!["start", "--data", data, "--text-port", &port];
            arguments.extend(more);
            let output = dynomite(folder.path(), &arguments);
            assert_eq!(output.status.code(), Some(4), "{arguments:?}");
            let left = fs::read_dir(folder.path()).unwrap();
            let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, ["mine"], "{arguments:?}");
        }
    }
    assert_eq!(fs::read_dir(folder.path().join("mine")).unwrap().count(), 0);
}

#[test]
fn a_stop_returns_when_the_log_has_its_last_line_and_the_process_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..5 {
        let mut child = start(folder.path(), "data", &["-d"]).spawn().unwrap();
        assert!(child.wait().unwrap().success());
        done(folder.path(), &["stop", "--data", "data"]);
        let log = fs::read_to_string(folder.path().join("data/dynomite.log")).unwrap();
        assert!(log.trim_end().ends_with(" stopped"), "{log}");
    }
}

#[test]
fn torture_without_a_round_says_nothing_of_how_it_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let said = done(folder.path(), &["torture", "t", "--rounds", "0"]);
    assert!(said.contains("held: 0 kills in "), "{said}");
    assert!(!said.contains("page cache"), "{said}");
}

#[test]
fn one_value_is_told_in_the_singular() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), "data");
    node.connect().put(b"k", b"", 1, &mut &b"v"[..]).unwrap();
    let arguments = ["get", "k", "--sibling", "2", "--data", "data"];
    let output = dynomite(folder.path(), &arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("there is 1 value, not 2"), "{said}");
    node.stop();
}
