//! The configuration: the original's keys, in TOML; its JSON files are read too.
//!
//! A key that nobody knows is an error, for a misspelt one would otherwise do nothing in silence.
//! A key of the original's for something that this node does not have is passed over, and said
//! so: see [`Config::notices`].

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::error::Error;
use crate::hash::Q_MAX;
use crate::text;

/// Bytes of a configuration file, at most: a device or a store named by mistake is not read to its
/// end.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a node is told, with its defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// log2 of the partitions. Fixed once the store is created.
    pub q: u32,
    /// Where the store and the control socket live.
    pub directory: PathBuf,
    /// The address that clients reach the node at.
    pub listen: String,
    /// The port of the text protocol; 0 takes any free one.
    pub text_port: u16,
    /// Whether a put is acknowledged before it is durable.
    pub buffered_writes: bool,
    /// Bytes of memory for the nodes of the tree; lent to writes while much more is loaded and hardly
    /// anybody reads.
    pub cache_size: u64,
    /// Bytes of memory for writes that no checkpoint has carried yet.
    pub memtable_size: u64,
    /// Bytes of the log; fixed once the store is created.
    pub log_size: u64,
    /// Connections at a time.
    pub max_connections: usize,
    /// A connection without a command for so long is ended.
    pub idle: Duration,
    /// A client may take so long for a command or a reply, and more for long ones.
    pub slow: Duration,
    /// How long a tombstone is kept.
    pub tombstones: Duration,
    /// What the operator should know about the file.
    pub notices: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            q: 6,
            directory: PathBuf::from("dynomite-data"),
            listen: "127.0.0.1".to_owned(),
            text_port: text::PORT,
            buffered_writes: false,
            cache_size: 256 << 20,
            memtable_size: 64 << 20,
            log_size: 1 << 30,
            max_connections: 10_000,
            idle: Duration::from_mins(10),
            slow: Duration::from_secs(30),
            tombstones: days(30),
            notices: Vec::new(),
        }
    }
}

const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

/// A key of the file, as people are told of it.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its default, as the file would give it.
    pub default: fn(&Config) -> String,
    /// What it means, with its unit and its bounds.
    pub meaning: &'static str,
}

/// The keys, once: what the parser takes and what people are told of. Those under `passed over`
/// are the original's, for what this node does not have.
macro_rules! keys {
    (
        told { $($name:ident: $kind:ty = $default:expr, $meaning:literal;)* }
        passed over { $($over:ident: $over_kind:ty,)* }
    ) => {
        /// The file, as written.
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            $($name: Option<$kind>,)*
            $($over: Option<$over_kind>,)*
        }

        /// What a file may say, in the order of telling.
        pub const KEYS: &[Key] = &[
            $(Key { name: stringify!($name), default: $default, meaning: $meaning },)*
        ];

        impl File {
            /// The original's keys that are passed over, and whether the file has them.
            fn passed_over(&self) -> Vec<(&'static str, bool)> {
                vec![$((stringify!($over), self.$over.is_some()),)*]
            }
        }
    };
}

keys! {
    told {
        directory: PathBuf = |config| format!("\"{}\"", config.directory.display()),
            "the data folder; a relative one counts from the working directory";
        listen: String = |config| format!("{:?}", config.listen),
            "the address that clients reach the node at";
        text_port: u16 = |config| config.text_port.to_string(),
            "the port of the text protocol; 0 takes any free one";
        q: u32 = |config| config.q.to_string(),
            "log2 of the partitions, 0 to 16; fixed once the store is made";
        n: u32 = |_| "1".to_owned(),
            "copies of each value; only 1 for now";
        r: u32 = |_| "1".to_owned(),
            "copies that a get asks; only 1 for now";
        w: u32 = |_| "1".to_owned(),
            "copies that a put waits for; only 1 for now";
        buffered_writes: bool = |config| config.buffered_writes.to_string(),
            "whether a put is acknowledged before it is durable";
        cache_size: u64 = |config| config.cache_size.to_string(),
            "bytes of memory for what was read of the trees";
        memtable_size: u64 = |config| config.memtable_size.to_string(),
            "bytes of newer writes that make a checkpoint due; they may take 2.25 times that";
        log_size: u64 = |config| config.log_size.to_string(),
            "bytes of the disk for the log, 1 MiB to 1 TiB; fixed once the store is made";
        max_connections: usize = |config| config.max_connections.to_string(),
            "connections of clients at a time, 1 to 1000000";
        idle_seconds: u64 = |config| config.idle.as_secs().to_string(),
            "seconds after which a connection without a command is ended";
        slow_seconds: u64 = |config| config.slow.as_secs().to_string(),
            "seconds that a client may take for a command or a reply, and one more per 64 KiB";
        tombstone_days: u64 = |config| (config.tombstones.as_secs() / 86_400).to_string(),
            "days for which a deleted key is kept, 1 to 36500";
    }
    passed over {
        thrift_port: u16,
        pb_port: u16,
        web_port: u16,
        storage_mod: String,
        blocksize: serde::de::IgnoredAny,
        cache: serde::de::IgnoredAny,
    }
}

/// All keys with their defaults, as lines of a file with what each means behind it.
pub fn help() -> String {
    let config = Config::default();
    let settings = KEYS
        .iter()
        .map(|key| format!("{} = {}", key.name, (key.default)(&config)));
    let settings: Vec<String> = settings.collect();
    let width = settings.iter().map(String::len).max().unwrap_or(0);
    let line = |(setting, key): (&String, &Key)| format!("{setting:width$}  # {}\n", key.meaning);
    settings.iter().zip(KEYS).map(line).collect()
}

#[cfg(test)]
impl Config {
    /// For tests: a small store in `folder`, any free port.
    pub fn tiny(folder: &Path) -> Self {
        Self {
            directory: folder.to_owned(),
            text_port: 0,
            cache_size: 8 << 20,
            memtable_size: 4 << 20,
            log_size: 4 << 20,
            ..Self::default()
        }
    }
}

impl Config {
    /// Reads a file; a relative `directory` in it counts from the working directory, as it did.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let fault = |reason: String| Error::Config {
            path: path.to_owned(),
            reason,
        };
        let mut text = String::new();
        let read = std::fs::File::open(path).and_then(|file| {
            let mut start = file.take(FILE_BYTES_MAX + 1);
            start.read_to_string(&mut text)
        });
        read.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => fault("it is no text".to_owned()),
            _ => fault(error.to_string()),
        })?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(fault(format!(
                "it is longer than {FILE_BYTES_MAX} bytes, and no configuration"
            )));
        }
        Self::parse(&text).map_err(fault)
    }

    /// Reads the text of a file.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            toml::from_str(text).map_err(|error| sentence(text, &error))?
        };
        Self::default().with(file)
    }

    fn with(mut self, file: File) -> Result<Self, String> {
        let passed_over = file.passed_over();
        for (name, value) in [("n", file.n), ("r", file.r), ("w", file.w)] {
            if value.is_some_and(|value| value != 1) {
                return Err(format!(
                    "{name} must be 1: a node keeps the only copy until replication is there"
                ));
            }
        }
        self.q = bounded("q", file.q.unwrap_or(self.q), 0, Q_MAX)?;
        self.directory = file.directory.unwrap_or(self.directory);
        if self.directory.as_os_str().is_empty() {
            return Err("directory is empty: name a folder, \".\" for this one".to_owned());
        }
        self.listen = file.listen.unwrap_or(self.listen);
        self.text_port = file.text_port.unwrap_or(self.text_port);
        self.buffered_writes = file.buffered_writes.unwrap_or(self.buffered_writes);
        self.cache_size = file.cache_size.unwrap_or(self.cache_size);
        self.memtable_size = file.memtable_size.unwrap_or(self.memtable_size);
        self.log_size = bounded(
            "log_size",
            file.log_size.unwrap_or(self.log_size),
            1 << 20,
            1 << 40,
        )?;
        let connections = file.max_connections.unwrap_or(self.max_connections);
        self.max_connections = bounded("max_connections", connections, 1, 1_000_000)?;
        let century = days(36_500).as_secs();
        if let Some(seconds) = file.idle_seconds {
            self.idle = Duration::from_secs(bounded("idle_seconds", seconds, 1, century)?);
        }
        if let Some(seconds) = file.slow_seconds {
            self.slow = Duration::from_secs(bounded("slow_seconds", seconds, 1, century)?);
        }
        if let Some(number) = file.tombstone_days {
            self.tombstones = days(bounded("tombstone_days", number, 1, 36_500)?);
        }
        for (name, _) in passed_over.iter().filter(|(_, given)| *given) {
            self.notices.push(format!(
                "{name} has no meaning for this node and was passed over"
            ));
        }
        Ok(self)
    }
}

/// What the parser found, in one line: its own words draw a picture over several.
fn sentence(text: &str, error: &toml::de::Error) -> String {
    let what = error.message().replace('\n', ", ");
    let start = error.span().and_then(|span| text.get(..span.start));
    match start {
        Some(before) => format!("line {}: {what}", before.matches('\n').count() + 1),
        None => what,
    }
}

fn bounded<T: Copy + PartialOrd + std::fmt::Display>(
    name: &str,
    value: T,
    low: T,
    high: T,
) -> Result<T, String> {
    if value < low || value > high {
        return Err(format!(
            "{name} is {value}, and must be from {low} to {high}"
        ));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        assert_eq!(Config::default().text_port, 11_222);
    }

    #[test]
    fn the_help_is_a_file_of_all_keys_and_says_the_defaults() {
        let help = help();
        assert_eq!(Config::parse(&help).unwrap(), Config::default(), "{help}");
        // The parser names the keys that it takes.
        let refused = Config::parse("unheard_of = 1").unwrap_err();
        let taken = refused.split('`').skip(3).step_by(2);
        let passed_over = File::default().passed_over();
        let told: Vec<_> = taken
            .filter(|key| passed_over.iter().all(|(name, _)| name != key))
            .collect();
        assert_eq!(told.len(), 15, "{refused}");
        for key in told {
            let line = help
                .lines()
                .find(|line| line.starts_with(&format!("{key} = ")));
            assert!(
                line.is_some_and(|line| line.contains("  # ")),
                "{key}: {help}"
            );
        }
    }

    #[test]
    fn the_originals_keys_are_understood() {
        let config = Config::parse(
            "n = 1\nr = 1\nw = 1\nq = 4\ndirectory = \"/srv/d\"\nlisten = \"0.0.0.0\"\n\
             text_port = 0\nbuffered_writes = true\ntombstone_days = 7\nidle_seconds = 5\n",
        )
        .unwrap();
        assert_eq!(
            (config.q, config.text_port, config.buffered_writes),
            (4, 0, true)
        );
        assert_eq!(config.directory, PathBuf::from("/srv/d"));
        assert_eq!(
            (config.tombstones, config.idle),
            (days(7), Duration::from_secs(5))
        );
        assert!(config.notices.is_empty());
    }

    #[test]
    fn the_originals_own_file_is_read() {
        let config = Config::parse(
            r#"{"text_port": 11222, "thrift_port": 9200, "web_port": null, "directory": "/tmp/d",
               "storage_mod": "fs_storage", "n": 1, "r": 1, "w": 1, "q": 6, "blocksize": 4096,
               "buffered_writes": true, "cache": false, "cache_size": 128000}"#,
        )
        .unwrap();
        assert_eq!(config.cache_size, 128_000);
        assert_eq!(config.notices.len(), 4);
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (text, reason) in [
            ("n = 3", "n must be 1"),
            ("q = 17", "q is 17, and must be from 0 to 16"),
            ("txet_port = 1", "unknown field `txet_port`"),
            ("q = 6\ntext_port = 70000", "line 2: invalid value"),
            ("text_port", "line 1: "),
            ("log_size = \"64M\"", "line 1: invalid type: string \"64M\""),
            ("directory = \"\"", "directory is empty"),
            ("{\"q\": \"six\"}", "line 1"),
            ("tombstone_days = 0", "tombstone_days is 0"),
            ("idle_seconds = 18446744073709551615", "idle_seconds"),
        ] {
            let refused = Config::parse(text).unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
            assert!(!refused.contains('\n'), "{text}: {refused}");
        }
        let refused = Config::read(Path::new("/nowhere/at.all"))
            .unwrap_err()
            .to_string();
        assert!(refused.contains("/nowhere/at.all"), "{refused}");
        // It has no end.
        let refused = Config::read(Path::new("/dev/zero")).unwrap_err();
        assert!(refused.to_string().contains("longer than"), "{refused}");
    }
}
