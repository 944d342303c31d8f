//! Goal: kill -9 of a busy node loses nothing that it acknowledged.
//! Method: writers put, overwrite and delete keys of their own over the text protocol, and note what
//! was answered. The node is killed among them; its store is verified as it was left; the next node
//! must have each key as it was noted, or as the one request that was under way would have left it.
//!
//! What the kernel was given survives a kill, flushed or not. So the twin's fault is to acknowledge
//! before the log is written at all.

use crate::rig::{Outcome, Rig};
use engine::{Options, Store};
use node::client::TextClient;
use node::config::Config;
use node::running::Running;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use torture::Chance;

const WRITERS: u64 = 8;
const KEYS: u32 = 40;

/// A node that is killed.
pub struct Killed {
    /// The program whose `start` is a node; without it this one is.
    pub program: Option<String>,
}

/// Serves a folder until it is killed.
pub fn serve(folder: &Path) -> Result<(), String> {
    let config = Config {
        directory: folder.to_owned(),
        text_port: 0,
        cache_size: 8 << 20,
        memtable_size: 4 << 20,
        log_size: 4 << 20,
        ..Config::default()
    };
    let storage = node::storage::open(&config, None).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let running = Running::start(&config, Arc::new(storage)).await;
        let running = running.map_err(|error| error.to_string())?;
        println!("this serves on {} until it is killed", running.address());
        running.asked_to_stop().await;
        Ok(())
    })
}

impl Rig for Killed {
    fn name(&self) -> &'static str {
        "node"
    }

    fn fault(&self) -> &'static str {
        "AckBeforeWrite"
    }

    fn missing(&self) -> Option<String> {
        None
    }

    fn run(&self, rounds: u32, seed: u64, fault: Option<&str>) -> Result<Outcome, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let data = folder.path().join("data");
        std::fs::create_dir(&data).map_err(|error| error.to_string())?;
        let acknowledged = AtomicU64::new(0);
        let mut writers: Vec<Writer> = (0..WRITERS)
            .map(|number| Writer::new(number, seed))
            .collect();
        let mut chance = Chance::new(seed, &[6 << 40]);
        let outcome = |round: u32, broken: Option<String>| Outcome {
            rounds: round,
            acknowledged: acknowledged.load(Ordering::Relaxed),
            broken: broken.map(|what| format!("after {round} kills: {what}")),
        };
        for round in 0..=rounds {
            if round > 0
                && let Err(what) = verify(&data)
            {
                return Ok(outcome(round, Some(what)));
            }
            let mut node = match self.start(folder.path(), &data, fault) {
                Ok(node) => node,
                Err(error) if round == 0 => return Err(error),
                Err(error) => return Ok(outcome(round, Some(error))),
            };
            for writer in &mut writers {
                if let Err(what) = writer.compare(&node.address) {
                    return Ok(outcome(round, Some(what)));
                }
            }
            if round == rounds {
                break;
            }
            std::thread::scope(|scope| {
                for writer in &mut writers {
                    let (address, acknowledged) = (&node.address, &acknowledged);
                    scope.spawn(move || writer.write(address, acknowledged));
                }
                let pause = Duration::from_millis(100 + u64::from(chance.below(500)));
                std::thread::sleep(pause);
                node.process.kill().and_then(|()| node.process.wait())
            })
            .map_err(|error| format!("killing the node: {error}"))?;
        }
        Ok(outcome(rounds, None))
    }
}

/// Lets the store verify itself as the kill left it.
fn verify(data: &Path) -> Result<(), String> {
    let path = data.join(node::storage::STORE);
    let store = Store::open_read_only(path, &Options::default());
    let report = store.and_then(|store| store.verify());
    let report = report.map_err(|error| format!("opening the store to read it: {error}"))?;
    match report.violations.first() {
        None => Ok(()),
        Some(first) => Err(format!("the store finds damage in itself: {first}")),
    }
}

/// A node, killed at the latest when it is dropped.
struct Node {
    process: Child,
    address: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Killed {
    fn start(&self, folder: &Path, data: &Path, fault: Option<&str>) -> Result<Node, String> {
        let told = |error: std::io::Error| error.to_string();
        let mut command = if let (Some(program), None) = (&self.program, fault) {
            let config = folder.join("small.toml");
            let small = "log_size = 4194304\nmemtable_size = 4194304\n";
            std::fs::write(&config, small).map_err(told)?;
            let mut command = Command::new(program);
            command.args(["start", "--text-port", "0", "-c"]);
            command.arg(config).arg("--data").arg(data);
            command
        } else {
            let mut command = Command::new(std::env::current_exe().map_err(told)?);
            command.arg("node").arg(data).arg(fault.unwrap_or("none"));
            command
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(told)?;
        let mut greeting = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output)
                .read_line(&mut greeting)
                .map_err(told)?;
        }
        let address = greeting
            .split(" on ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        let address = address.unwrap_or_default().to_owned();
        let node = Node { process, address };
        if node.address.is_empty() {
            return Err("the node does not start".to_owned());
        }
        Ok(node)
    }
}

/// Which value a key has; `None`: it has none.
type Version = Option<u64>;

/// What a writer does, and knows of its keys.
struct Writer {
    number: u64,
    chance: Chance,
    acknowledged: Vec<Version>,
    /// The request that was not answered.
    open: Option<(u32, Version)>,
}

impl Writer {
    fn new(number: u64, seed: u64) -> Self {
        Self {
            number,
            chance: Chance::new(seed, &[7 << 40, number]),
            acknowledged: vec![None; KEYS as usize],
            open: None,
        }
    }

    fn key(&self, index: u32) -> Vec<u8> {
        format!("writer {} key {index}", self.number).into_bytes()
    }

    /// Writes until the node is gone.
    fn write(&mut self, address: &str, acknowledged: &AtomicU64) {
        let Ok(mut client) = TextClient::connect(address) else {
            return;
        };
        loop {
            let index = self.chance.below(KEYS);
            let drawn = self.chance.number();
            let version = (!self.chance.percent(10)).then_some(drawn);
            self.open = Some((index, version));
            let key = self.key(index);
            let answered = match version {
                Some(version) => {
                    let value = value(version);
                    client.put(&key, b"", value.len() as u64, &mut &value[..])
                }
                None => client.delete(&key),
            };
            if answered.is_err() {
                return;
            }
            self.acknowledged[index as usize] = version;
            self.open = None;
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Compares with what a node has, and learns what became of the open request.
    fn compare(&mut self, address: &str) -> Result<(), String> {
        let told = |error: node::client::ClientError| error.to_string();
        let mut client = TextClient::connect(address).map_err(told)?;
        for index in 0..KEYS {
            let mut found = Vec::new();
            let got = client.get(&self.key(index), &mut |piece| {
                found.extend_from_slice(piece.bytes);
                Ok(())
            });
            let found = got.map_err(told)?.map(|_| found);
            let is = |version: Version| found == version.map(value);
            let acknowledged = &mut self.acknowledged[index as usize];
            if is(*acknowledged) {
                continue;
            }
            match self.open {
                Some((open, version)) if open == index && is(version) => *acknowledged = version,
                _ => {
                    let length = found.map(|found| found.len());
                    return Err(format!(
                        "writer {}, key {index}: {acknowledged:?} was acknowledged, of {:?} bytes; \
                         {length:?} bytes are there",
                        self.number,
                        acknowledged.map(|version| value(version).len())
                    ));
                }
            }
        }
        self.open = None;
        Ok(())
    }
}

/// Most values are short, some have a place of their own, few are streamed.
fn value(version: u64) -> Vec<u8> {
    let mut chance = Chance::new(version, &[]);
    let length = match chance.below(20) {
        0 => 300_000,
        1..6 => 5_000,
        _ => 100,
    };
    let more = chance.below(97) as usize;
    chance.bytes(length + more)
}
