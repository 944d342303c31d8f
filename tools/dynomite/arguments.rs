//! The command line as its users type it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A node of the Dynomite store, and the commands that speak to one.
#[derive(Debug, Parser)]
#[command(name = "dynomite", version, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 the key is absent, 2 wrong use, 3 no node reached, \
                        4 refused, 5 a file failed, 6 damage found, 7 torture saw a broken promise,\n\
                        130 interrupted."
)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a node on a data folder; creates its store the first time
    #[command(after_long_help = start_help())]
    Start(Start),
    /// Store a value under a key
    Put(Put),
    /// Write the value of a key to standard output, or to a file
    Get(Get),
    /// Say whether a key is there; exit code 1 when it is not
    Has(Key),
    /// Delete a key; an absent one is no error
    Del(Key),
    /// Store every file below a folder, its relative path being the key; what is there and equal is
    /// passed over
    Load(Load),
    /// Show what the node says of itself
    Status(Reporting),
    /// Stop the node cleanly and wait until it is gone; fails where its store did not close
    Stop(Folder),
    /// Write a consistent copy of the store to a new file, while it is in use. The node writes it,
    /// and goes on if this command is interrupted. Until the copy is whole it is FILE.unfinished: a
    /// node that is killed leaves that, and the next backup to FILE replaces it
    Backup(Backup),
    /// Make a backup the store of a stopped node's empty folder
    Restore(Restore),
    /// Let the running node verify its whole store; exit code 6 when it finds damage
    Check(Reporting),
    /// Write to a store in a folder, kill the writer at random moments, and see what is left
    #[command(long_about = TORTURE)]
    Torture(Torture),
    /// The process that `torture` kills
    #[command(hide = true)]
    TortureChild(TortureChild),
}

const TORTURE: &str = "\
Write to a store in a folder, kill the writer at random moments, and see what is left.

A process writes small and large values, batches, overwrites and deletes, durable and buffered, with \
several threads, past the page cache where the file system allows. It is killed with SIGKILL, among \
its writes and in its recovery. Each time the store is read from end to end: every acknowledged \
durable write must be there, buffered ones up to some moment, batches whole, no byte wrong, every \
count and fingerprint as computed anew. Then it goes on with the same store.

It kills a process, not the power: what the page cache and the disk hold survives, so a disk that \
lies about its flushes is not found out by this.

The folder must be empty or one that an earlier run has left; nothing else is touched, and at the \
end it is empty again. After a violation (exit code 7) it keeps the store and says in violation.txt \
what was expected.";

/// The keys of the configuration, as the parser has them.
fn start_help() -> String {
    format!(
        "The configuration is TOML (the original's JSON files are read, too). All its keys, with \
         their defaults:\n\n{}",
        node::config::help()
    )
}

#[derive(Debug, Args)]
pub struct Folder {
    /// The node's data folder
    #[arg(long, value_name = "DIR", default_value = "dynomite-data")]
    pub data: PathBuf,
}

#[derive(Debug, Args)]
pub struct Reporting {
    #[command(flatten)]
    pub folder: Folder,
    /// Write JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Node {
    #[command(flatten)]
    pub folder: Folder,
    /// Speak to the node at this address instead of the one of the data folder
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "data")]
    pub host: Option<String>,
}

#[derive(Debug, Args)]
pub struct Start {
    /// The configuration, in TOML; `start --help` shows all its keys
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Go on in the background once the node serves
    #[arg(short, long)]
    pub detached: bool,
    /// Write the process id here, and remove it at the end
    #[arg(short, long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// Keep `dynomite.log` in this folder; a detached node without it keeps one in its data folder
    #[arg(short, long, value_name = "DIR")]
    pub log: Option<PathBuf>,
    /// The data folder [default: the configuration's, or dynomite-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The port of the text protocol; 0 takes any free one [default: the configuration's, or 11222]
    #[arg(long, value_name = "PORT")]
    pub text_port: Option<u16>,
    /// Open a store whose log is damaged at this place, giving up what was written behind it
    #[arg(long, value_name = "LSN")]
    pub accept_loss: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Key {
    /// The key
    pub key: OsString,
    #[command(flatten)]
    pub node: Node,
}

#[derive(Debug, Args)]
pub struct Put {
    #[command(flatten)]
    pub key: Key,
    /// The file with the value; standard input without it
    pub file: Option<PathBuf>,
    /// The context of a get, in hex (`get --json` shows it): keeps what that get had not seen
    /// beside the new value. Without it the value replaces all
    #[arg(long, value_name = "HEX")]
    pub context: Option<String>,
}

#[derive(Debug, Args)]
pub struct Get {
    #[command(flatten)]
    pub key: Key,
    /// Write the value to this file, which is there only once it is whole
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Which value, from 1, where concurrent puts have left several
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..))]
    pub sibling: Option<u8>,
    /// Write the context, and length and hash of each value, as JSON instead of a value
    #[arg(long, conflicts_with_all = ["output", "sibling"])]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Load {
    /// The folder
    pub directory: PathBuf,
    #[command(flatten)]
    pub node: Node,
    /// Connections to the node
    #[arg(long, value_name = "NUMBER", default_value = "16",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub connections: u16,
    /// Let the node read each value from its disk before it says what it has, so that values that have
    /// rotted there unseen are stored anew. Without it, only those known to be damaged are
    #[arg(long)]
    pub verify: bool,
    /// Write the summary as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Backup {
    /// The new file
    pub file: PathBuf,
    #[command(flatten)]
    pub report: Reporting,
}

#[derive(Debug, Args)]
pub struct Restore {
    /// The backup
    pub file: PathBuf,
    #[command(flatten)]
    pub report: Reporting,
}

#[derive(Debug, Args)]
pub struct Torture {
    /// The folder, on the disk that is to be tried
    pub directory: PathBuf,
    /// Stop after so many kills [default: at Ctrl-C]
    #[arg(long, value_name = "NUMBER")]
    pub rounds: Option<u32>,
    /// Stop after so many minutes
    #[arg(long, value_name = "NUMBER")]
    pub minutes: Option<u32>,
    /// What everything random follows from [default: drawn, and told]
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// Threads that write
    #[arg(long, value_name = "NUMBER", default_value = "4",
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
    /// Keys of each thread; a thousand keep about 20 MB
    #[arg(long, value_name = "NUMBER", default_value = "1000",
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub keys: u32,
    /// Write the verdict as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct TortureChild {
    pub store: PathBuf,
    pub load: String,
}
