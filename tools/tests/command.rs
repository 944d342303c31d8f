//! Goal: each wrong use gets one clear sentence on standard error and its exit code, and no panic.
//! Method: the program itself, run in an empty folder where no node runs.

use std::path::Path;
use std::process::{Command, Output};

fn dynomite(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dynomite"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the program was built for this test")
}

#[test]
fn the_code_is_the_same_where_nobody_reads_the_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Command::new(env!("CARGO_BIN_EXE_dynomite"))
        .args(["status", "--data", "elsewhere"])
        .current_dir(folder.path())
        .stderr(writer)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(3));
}

#[test]
fn what_is_wrong_is_said_in_a_sentence_with_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("misspelt.toml", "txet_port = 1\n");
    write("replicas.toml", "n = 3\n");
    write("file", "not a folder");
    for (arguments, code, sentence) in [
        (&["start", "--bogus"][..], 2, "--bogus"),
        (&["frobnicate"], 2, "frobnicate"),
        (&["put"], 2, "KEY"),
        (
            &["put", "k", "file", "--context", "xyz"],
            2,
            "--context must be hex digits",
        ),
        (
            &["start", "-c", "absent.toml"],
            2,
            "absent.toml: No such file",
        ),
        (
            &["start", "-c", "misspelt.toml"],
            2,
            "unknown field `txet_port`",
        ),
        (&["start", "-c", "replicas.toml"], 2, "n must be 1"),
        (
            &["start", "--data", "file"],
            4,
            "cannot use the data folder file",
        ),
        (
            &["start", "-d", "--data", "file"],
            4,
            "cannot use the data folder file: it is no folder",
        ),
        (&["status"], 3, "no node is running on dynomite-data"),
        (
            &["stop", "--data", "elsewhere"],
            3,
            "no node is running on elsewhere",
        ),
        (
            &["get", "k", "--host", "127.0.0.1:1"],
            3,
            "cannot reach a node at 127.0.0.1:1",
        ),
        (&["put", "k", "absent"], 5, "absent: No such file"),
        (&["put", "k", "."], 5, "use `dynomite load`"),
        (&["load", "file"], 3, "no node is running"),
        (&["restore", "absent"], 5, "absent: No such file"),
    ] {
        let output = dynomite(folder.path(), arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(sentence), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
        assert!(
            said.matches("os error").count() <= 1,
            "{arguments:?}: {said}"
        );
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}
