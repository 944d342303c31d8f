//! Goal: `dynomite torture` says that a store held when it did, and that it did not when it did not;
//! and it touches nothing that is not its own.
//! Method: the program itself, on small loads; a store that is taken away in the middle of a run is
//! the broken promise.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{PROGRAM, done, dynomite, refused};

/// Waits until something holds.
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_mins(2), "no {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn names(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_disk_that_holds_is_said_to_hold_and_the_folder_is_left_empty() {
    let folder = tempfile::tempdir().unwrap();
    let run = [
        "torture", "disk", "--rounds", "6", "--keys", "100", "--seed", "9", "--json",
    ];
    let verdict: serde_json::Value = serde_json::from_str(&done(folder.path(), &run)).unwrap();
    assert_eq!(verdict["held"], true, "{verdict}");
    assert_eq!(verdict["rounds"], 6, "{verdict}");
    assert_eq!(verdict["seed"], 9, "{verdict}");
    assert!(verdict["durable"].as_u64().unwrap() > 0, "{verdict}");
    assert!(names(&folder.path().join("disk")).is_empty());
    let said = done(
        folder.path(),
        &["torture", "disk", "--rounds", "1", "--keys", "10"],
    );
    assert!(said.starts_with("held: 1 kill in "), "{said}");
}

#[test]
fn it_stops_with_a_verdict_when_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let child = Command::new(PROGRAM)
        .args(["torture", "disk", "--keys", "50"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let store = folder.path().join("disk/torture.store");
    wait_for("store", || store.exists());
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.starts_with("held: "), "{said}");
    assert!(names(&folder.path().join("disk")).is_empty());
}

#[test]
fn a_broken_promise_ends_it_with_its_own_code_and_the_evidence_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    let mut child = Command::new(PROGRAM)
        .args(["torture", "disk", "--keys", "50", "--seed", "3", "--json"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let store = disk.join("torture.store");
    wait_for("store", || store.exists());
    std::thread::sleep(Duration::from_secs(3));
    // Between two rounds there may be a moment in which nothing was acknowledged of it.
    wait_for("end", || {
        let _ = fs::remove_file(&store);
        std::thread::sleep(Duration::from_millis(100));
        child.try_wait().unwrap().is_some()
    });
    let output = child.wait_with_output().unwrap();
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(7), "{verdict}");
    assert_eq!(verdict["held"], false, "{verdict}");
    let evidence = fs::read_to_string(disk.join("violation.txt")).unwrap();
    assert!(evidence.contains("seed 3"), "{evidence}");
    assert!(
        evidence.contains(verdict["violation"].as_str().unwrap()),
        "{evidence}"
    );
    let kept = names(&disk);
    refused(
        folder.path(),
        &["torture", "disk", "--rounds", "1"],
        4,
        "evidence of a violation",
    );
    assert_eq!(names(&disk), kept);
}

#[test]
fn a_folder_with_anything_else_in_it_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("torture.store"), "mine").unwrap();
    refused(
        folder.path(),
        &["torture", ".", "--rounds", "1"],
        4,
        "is not empty",
    );
    fs::write(folder.path().join("torture.txt"), "mine, too").unwrap();
    refused(
        folder.path(),
        &["torture", ".", "--rounds", "1"],
        4,
        "is not empty",
    );
    assert_eq!(
        fs::read(folder.path().join("torture.store")).unwrap(),
        b"mine"
    );
    assert_eq!(names(folder.path()), ["torture.store", "torture.txt"]);

    // What an interrupted run has left is used again, and what is not of it stays.
    let mark = "This folder belongs to `dynomite torture`, which removes its files again.\n";
    fs::write(folder.path().join("torture.txt"), mark).unwrap();
    fs::write(folder.path().join("other"), "other").unwrap();
    let run = ["torture", ".", "--rounds", "1", "--keys", "10"];
    assert_eq!(dynomite(folder.path(), &run).status.code(), Some(0));
    assert_eq!(names(folder.path()), ["other"]);
}
