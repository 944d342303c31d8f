//! How each cost grows with the number of entries and the bytes of values: the figures of `SCALE.md`.
//!
//! ```text
//! cargo run --release -p dynomite-engine --example scale -- --json FILE [--millions 1,3,10,30]
//!     [--values-mb 500,1000,2000] [--dir FOLDER]
//! cargo run --release -p dynomite-engine --example scale -- --json FILE --picture engine/SCALE.svg
//! ```
//!
//! The first appends a line of JSON per size to FILE, the second draws what FILE holds. Entries have
//! a key of 20 bytes and a value of 48; each size is reached by merging new keys between all old
//! ones, in ascending order, so that the load takes time in proportion. Everything is read and
//! changed in random order.

mod entries;
mod picture;
mod values;

use engine::{Options, Store};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

fn main() {
    let mut json = PathBuf::from("scale.jsonl");
    let mut folder = std::env::temp_dir();
    let mut picture = None;
    let mut millions = vec![1.0, 3.0, 10.0, 30.0];
    let mut values_mb = vec![500.0, 1000.0, 2000.0];
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut next = || words.next().expect("each option has a value");
        let numbers = |list: &str| {
            let of = |word: &str| word.parse::<f64>().expect("numbers with commas between");
            list.split(',').filter(|w| !w.is_empty()).map(of).collect()
        };
        match word.as_str() {
            "--json" => json = next().into(),
            "--dir" => folder = next().into(),
            "--picture" => picture = Some(PathBuf::from(next())),
            "--millions" => millions = numbers(&next()),
            "--values-mb" => values_mb = numbers(&next()),
            other => panic!("{other} is not known; see the head of this program"),
        }
    }
    if let Some(picture) = picture {
        let lines = fs::read_to_string(&json).expect("the file of figures");
        fs::write(&picture, picture::draw(&lines)).expect("the picture is written");
        return;
    }
    let place = tempfile::TempDir::new_in(folder).expect("the folder takes another");
    let mut sink = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&json)
        .expect("the file of figures");
    let mut say = |figures: &Figures| {
        let line = figures.line();
        println!("{line}");
        writeln!(sink, "{line}").expect("written");
    };
    values::run(&place.path().join("values"), &values_mb, &mut say);
    entries::run(&place.path().join("entries"), &millions, &mut say);
}

/// The cache is the library's default: that it becomes too small is a part of the question.
pub(crate) fn options() -> Options {
    Options {
        log_bytes: 256 << 20,
        checkpoint_ms: 3_600_000,
        ..Options::default()
    }
}

/// Names and numbers, in order.
#[derive(Default)]
pub(crate) struct Figures(Vec<(&'static str, f64)>);

impl Figures {
    pub(crate) fn push(&mut self, name: &'static str, value: f64) {
        self.0.push((name, value));
    }

    fn line(&self) -> String {
        let mut line = String::from("{");
        for (at, (name, value)) in self.0.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            let _ = write!(line, "{comma}\"{name}\": {value}");
        }
        line + "}"
    }
}

/// Checkpoints and punches until the store is as it would be after a while.
pub(crate) fn settle(store: &Store) {
    // What the first retires, the second's stamp releases.
    for _ in 0..3 {
        store.checkpoint().expect("a checkpoint");
    }
    while store.punch_at_rest(None).expect("punched") > 0 {}
}

/// Bytes of the file system, less superblocks and ring.
pub(crate) fn held(store: &Store, path: &Path) -> u64 {
    let blocks = fs::metadata(path).expect("it is there").blocks() * 512;
    blocks - store.stats().log_bytes - (64 << 10)
}

/// Resident anonymous bytes of this process.
pub(crate) fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux says it");
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("a number of kB") << 10
}

/// Bytes that this process has sent to the device.
pub(crate) fn device_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").expect("Linux says it");
    let line = io.lines().find(|line| line.starts_with("write_bytes"));
    let bytes = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    bytes.expect("a number")
}

/// Milliseconds that this thread has been on a processor.
pub(crate) fn processor_ms() -> f64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says it");
    let spent = stat.split(' ').next().and_then(|word| word.parse().ok());
    to_f64(spent.expect("nanoseconds")) / 1e6
}

/// `SplitMix64`'s finalizer.
pub(crate) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[expect(clippy::cast_precision_loss, reason = "figures to read")]
pub(crate) fn to_f64(number: u64) -> f64 {
    number as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "far below 2^53, and not negative"
)]
pub(crate) fn to_u64(number: f64) -> u64 {
    number as u64
}
