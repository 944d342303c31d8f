//! The commands that are one request: put, get, has, del, stop, backup, restore, check.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use node::client::{ClientError, Got, Held, TextClient};
use node::control::{Client, hex, unhex};
use node::storage::{BackupReport, shown};
use serde_json::json;

use crate::arguments::{Backup, Folder, Get, Key, Node, Put, Reporting, Restore};
use crate::files::{Sink, source};
use crate::outcome::{Code, Failure, Naming, Outcome, say, say_json};
use crate::start::program;
use crate::status::{amount, entries};

/// So long a node that has closed its store may take to end, as far as a stop waits for it.
const PROCESS_END_MAX: Duration = Duration::from_secs(20);

/// The address of the text protocol of the node that was meant.
pub fn address(node: &Node) -> Result<String, Failure> {
    match &node.host {
        Some(host) if host.contains(':') => Ok(host.clone()),
        Some(host) => Ok(format!("{host}:{}", node::text::PORT)),
        None => Ok(Client::connect(&node.folder.data)?.address()?),
    }
}

fn connect(node: &Node) -> Result<TextClient, Failure> {
    Ok(TextClient::connect(&address(node)?)?)
}

/// The sentence of an absent key.
fn absent(key: &Key) -> Failure {
    Code::Absent.failure(format_args!(
        "there is no key {}",
        shown(key.key.as_bytes())
    ))
}

/// `dynomite put`
pub fn put(put: &Put) -> Outcome {
    let context = match &put.context {
        None => Vec::new(),
        Some(digits) => {
            unhex(digits).ok_or_else(|| Code::Usage.failure("--context must be hex digits"))?
        }
    };
    let mut source = source(put.file.as_deref())?;
    let key = put.key.key.as_bytes();
    let mut client = connect(&put.key.node)?;
    client
        .put(key, &context, source.length, &mut source.reader)
        .map_err(|error| source.fault(error))?;
    Ok(Code::Done)
}

/// `dynomite get`
pub fn get(get: &Get) -> Outcome {
    let key = get.key.key.as_bytes();
    let mut client = connect(&get.key.node)?;
    if get.json {
        return describe(&mut client, &get.key);
    }
    let mut sink = Sink::open(get.output.as_deref())?;
    let wanted = usize::from(get.sibling.unwrap_or(1)) - 1;
    let mut sink_failed = false;
    let got = client.get(key, &mut |piece| {
        let ambiguous = piece.values > 1 && get.sibling.is_none();
        if piece.index != wanted || ambiguous {
            return Ok(());
        }
        let written = sink.write(piece.bytes);
        sink_failed = written.is_err();
        written
    });
    let got = match got {
        Err(ClientError::Local(error)) if sink_failed && get.output.is_some() => {
            let path = get.output.as_deref().unwrap_or(Path::new("-"));
            return Err(error).naming(Code::Local, path.display());
        }
        other => whole(&get.key, other)?.ok_or_else(|| absent(&get.key))?,
    };
    let values = got.lengths.len();
    if values > 1 && get.sibling.is_none() {
        return Code::Refused.because(format_args!(
            "{} has {values} values from concurrent puts: take one with --sibling 1 to {values}, \
             and put the one that shall stand",
            shown(key)
        ));
    }
    if wanted >= values {
        return Code::Usage.because(format_args!(
            "there {}, not {}",
            match values {
                1 => "is 1 value".to_owned(),
                _ => format!("are {values} values"),
            },
            wanted + 1
        ));
    }
    sink.end()?;
    Ok(Code::Done)
}

/// Why a reply to a get broke off: the node noted what it could not read, and says so when asked for
/// the key's hash.
fn whole(key: &Key, got: Result<Option<Got>, ClientError>) -> Result<Option<Got>, Failure> {
    let error = match got {
        Err(error @ ClientError::Broken(_)) => error,
        other => return Ok(other?),
    };
    let ask = || {
        let held = connect(&key.node)?.hashes(&[key.key.as_bytes()], false)?;
        Ok::<_, Failure>(held)
    };
    match ask().unwrap_or_default().pop() {
        Some(Held::Damaged(reason)) => Code::Damage.because(reason),
        _ => Err(error.into()),
    }
}

fn describe(client: &mut TextClient, key: &Key) -> Outcome {
    let mut hashers = Vec::new();
    let got = client.get(key.key.as_bytes(), &mut |piece| {
        hashers.resize_with(piece.values, blake3::Hasher::new);
        hashers[piece.index].update(piece.bytes);
        Ok(())
    });
    let got = whole(key, got)?.ok_or_else(|| absent(key))?;
    hashers.resize_with(got.lengths.len(), blake3::Hasher::new);
    let values = got.lengths.iter().zip(&hashers).map(
        |(length, hasher)| json!({ "length": length, "hash": hasher.finalize().to_hex().as_str() }),
    );
    say_json(&json!({
        "context": hex(&got.context),
        "values": values.collect::<Vec<_>>(),
    }))
}

/// `dynomite has`
pub fn has(key: &Key) -> Outcome {
    let there = connect(&key.node)?.has(key.key.as_bytes())?;
    say(if there { "yes" } else { "no" })?;
    Ok(if there { Code::Done } else { Code::Absent })
}

/// `dynomite del`
pub fn delete(key: &Key) -> Outcome {
    connect(&key.node)?.delete(key.key.as_bytes())?;
    Ok(Code::Done)
}

/// `dynomite stop`
pub fn stop(folder: &Folder) -> Outcome {
    let mut client = Client::connect(&folder.data)?;
    let process = client.status().ok().map(|status| status.pid.to_string());
    let name = process.as_deref().and_then(program);
    let stopped = client.stop();
    // That comes with the store's close; the last line of the log and the end of the process follow.
    let since = Instant::now();
    while name.is_some()
        && process.as_deref().and_then(program) == name
        && since.elapsed() < PROCESS_END_MAX
    {
        sleep(Duration::from_millis(5));
    }
    stopped?;
    Ok(Code::Done)
}

/// `dynomite backup`
pub fn backup(backup: &Backup) -> Outcome {
    let path = std::path::absolute(&backup.file).naming(Code::Local, backup.file.display())?;
    let report = Client::connect(&backup.report.folder.data)?.backup(&path)?;
    say_backup("backed up", &report, backup.report.json)
}

/// `dynomite restore`
pub fn restore(restore: &Restore) -> Outcome {
    let folder = &restore.report.folder.data;
    if Client::connect(folder).is_ok() {
        return Code::Refused.because(format_args!(
            "a node is running on {}: stop it with `dynomite stop`, or restore elsewhere",
            folder.display()
        ));
    }
    // A file that cannot be read is no fault of the store in it.
    let mut first = [0];
    std::fs::File::open(&restore.file)
        .and_then(|mut file| file.read(&mut first))
        .naming(Code::Local, restore.file.display())?;
    let report = node::storage::restore(&restore.file, folder).map_err(|error| {
        if error.is_damage() {
            Code::Damage.failure(error)
        } else {
            Code::Refused.failure(error)
        }
    })?;
    say_backup("restored", &report, restore.report.json)
}

fn say_backup(done: &str, report: &BackupReport, json: bool) -> Outcome {
    if json {
        return say_json(&json!(report));
    }
    say(format_args!(
        "{done} {}, {}, fingerprint {}",
        entries(report.entries),
        amount(report.bytes),
        report.fingerprint
    ))?;
    Ok(Code::Done)
}

/// `dynomite check`
pub fn check(check: &Reporting) -> Outcome {
    let report = Client::connect(&check.folder.data)?.check()?;
    let whole = report.violations.is_empty();
    if check.json {
        say_json(&json!(report))?;
    } else {
        for violation in &report.violations {
            say(violation)?;
        }
        let found = match report.violations.len() as u64 + report.violations_more {
            0 => "no damage".to_owned(),
            1 => "1 fault".to_owned(),
            faults => format!("{faults} faults"),
        };
        say(format_args!(
            "checked {}, {} newer changes and {} long values, {}: {found}",
            entries(report.held),
            report.newer,
            report.extents,
            amount(report.bytes)
        ))?;
        if !report.damaged.is_empty() {
            say("a new value of a damaged key heals it: put it again, or load its folder again")?;
        }
        if report.damaged.len() < report.violations.len() {
            say("what is no value of a key only a backup heals: see `dynomite restore`")?;
        }
    }
    Ok(if whole { Code::Done } else { Code::Damage })
}
