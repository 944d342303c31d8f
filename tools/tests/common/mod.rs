//! What the tests of the program share: the program itself, and a node that is killed when its
//! test ends.

#![allow(dead_code, reason = "each test takes what it needs")]
#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it must be"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use node::client::TextClient;

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_dynomite");

/// Runs a command in `folder`.
pub fn dynomite(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the program was built for this test")
}

/// Runs a command that must succeed, and gives what it wrote.
pub fn done(folder: &Path, arguments: &[&str]) -> String {
    let output = dynomite(folder, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail with `code`, in one sentence that holds `words`, and without a
/// trace of a panic.
pub fn refused(folder: &Path, arguments: &[&str], code: i32, words: &str) {
    let output = dynomite(folder, arguments);
    assert_refused(&output, arguments, code, words);
}

/// See [`refused`].
pub fn assert_refused(output: &Output, arguments: &[&str], code: i32, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(said.contains(words), "{arguments:?}: {said}");
    assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    assert!(
        said.matches("os error").count() <= 1,
        "{arguments:?}: {said}"
    );
    assert_eq!(said.trim_end().lines().count(), 1, "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
}

/// A node that runs.
pub struct Node {
    child: Child,
    /// Where it speaks the text protocol.
    pub address: String,
    folder: PathBuf,
    data: String,
}

impl Node {
    /// Starts a node with a small log on `folder/data`.
    pub fn start(folder: &Path, data: &str) -> Self {
        Self::start_with(folder, data, &[])
    }

    /// The same, with more arguments.
    pub fn start_with(folder: &Path, data: &str, more: &[&str]) -> Self {
        let mut child = start(folder, data, more).spawn().unwrap();
        let mut greeting = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut greeting).unwrap();
        let address = greeting
            .split(" on ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        let Some(address) = address else {
            let mut said = String::new();
            let _ = child.stderr.take().unwrap().read_to_string(&mut said);
            panic!("no greeting: {said}");
        };
        Self {
            address: address.to_owned(),
            child,
            folder: folder.to_owned(),
            data: data.to_owned(),
        }
    }

    /// A connection.
    pub fn connect(&self) -> TextClient {
        TextClient::connect(&self.address).unwrap()
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it cleanly.
    pub fn stop(mut self) {
        done(&self.folder, &["stop", "--data", &self.data]);
        assert!(self.child.wait().unwrap().success());
    }

    /// A number of its status, by the path of names.
    pub fn status(&self) -> serde_json::Value {
        let said = done(&self.folder, &["status", "--json", "--data", &self.data]);
        serde_json::from_str(&said).unwrap()
    }

    /// The fingerprint of what it holds, and how many entries.
    pub fn fingerprint(&self) -> (String, u64) {
        let status = self.status();
        let fingerprint = status["store"]["fingerprint"].as_str().unwrap().to_owned();
        (fingerprint, status["store"]["entries"].as_u64().unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command that starts a node with a small log.
pub fn start(folder: &Path, data: &str, more: &[&str]) -> Command {
    let config = folder.join("small.toml");
    if !config.exists() {
        let mut file = std::fs::File::create(&config).unwrap();
        file.write_all(b"log_size = 4194304\nmemtable_size = 4194304\n")
            .unwrap();
    }
    let mut command = Command::new(PROGRAM);
    command
        .args(["start", "-c"])
        .arg(config)
        .args(["--data", data, "--text-port", "0"])
        .args(more)
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A start that must fail; see [`refused`].
pub fn start_refused(folder: &Path, data: &str, more: &[&str], words: &str) {
    let output = start(folder, data, more).output().unwrap();
    assert_refused(&output, &["start", data], 4, words);
}

/// Bytes that do not repeat, the same for the same seed.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
