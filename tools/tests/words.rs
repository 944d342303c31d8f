//! Goal: what the commands say is true, and the same in each of them.
//! Method: the program itself, with a node where one is needed.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use common::{Node, bytes, done, start};

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
