//! Opening after a kill -9 in the middle of a load.

use super::loads::LENGTH;
use super::{Context, Figures, load};
use crate::data::{check, key};
use crate::rival::{Keep, Setup};
use crate::stores::Store;
use engine::io::{AlignedBuf, Disk, FileDisk};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

fn setup(dir: PathBuf) -> Setup {
    Setup {
        buffered: true,
        ..Setup::new(dir)
    }
}

/// What the process does that is to be killed: says when nine tenths are loaded, and goes on.
pub(crate) fn load_until_killed(store: &Store, dir: PathBuf, count: u64) {
    let store = (store.open)(&setup(dir));
    let most = count / 10 * 9;
    let mut at = 0;
    let mut told = false;
    loop {
        // As who loads for long does: flush now and then. (redb writes nothing before.)
        let next = if at == 0 { 1000 } else { at + count / 10 };
        load(&*store, at..next, LENGTH, Keep::Buffered, None);
        store.flush();
        at = next;
        if at >= most && !told {
            println!("loaded");
            told = true;
        }
    }
}

pub(super) fn run(context: &Context, figures: &mut Figures) {
    let count = context.count(1_000_000);
    let program = std::env::current_exe().expect("the program has a path");
    let mut child = Command::new(program)
        .arg("load-until-killed")
        .arg(context.store.name)
        .arg(&context.dir)
        .arg(count.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut line = String::new();
    let mut says = BufReader::new(child.stdout.take().expect("piped"));
    says.read_line(&mut line).expect("it speaks");
    child.kill().expect("killed");
    child.wait().expect("it ended");
    assert_eq!(line, "loaded\n", "it failed before it was killed");

    let begin = Instant::now();
    let store = context.open(&setup(context.dir.clone()));
    let live_log_bytes = store.live_log_bytes();
    let mut session = store.session();
    let found = session.get(&key(0), &mut |value| {
        check(0, value, |_| LENGTH);
    });
    figures.push(("kill9-open".into(), begin.elapsed().as_secs_f64()));
    assert!(found, "it was flushed long ago");
    // Buffered commits may be lost, but only as a suffix.
    let mut kept = 0;
    while session.get(&key(kept), &mut |value| {
        check(kept, value, |_| LENGTH);
    }) {
        kept += 1000;
    }
    figures.push(("kill9-kept".into(), kept as f64 / count as f64));
    if let Some(bytes) = live_log_bytes {
        drop(session);
        drop(store);
        figures.push(("kill9-log-mb".into(), bytes as f64 / 1e6));
        figures.push(("kill9-raw-read".into(), raw_read(&context.dir, bytes)));
    }
}

/// How long the device takes for as many bytes as the live log had.
fn raw_read(dir: &Path, bytes: u64) -> f64 {
    let disk = FileDisk::open_read_only(&dir.join("store")).expect("opened");
    let mut piece = AlignedBuf::zeroed(1 << 20);
    let begin = Instant::now();
    for at in 0..bytes.div_ceil(1 << 20) {
        disk.read(at << 20, &mut piece).expect("read");
    }
    begin.elapsed().as_secs_f64()
}
