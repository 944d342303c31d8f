//! What is wrong with bytes, and where.

use crate::types::{BlockId, Lsn};
use core::fmt;

/// Bytes on disk (or in a frame) that are not what they must be: which structure, where, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupt {
    /// What the bytes should have been.
    pub structure: Structure,
    /// Where they stand.
    pub place: Place,
    /// What is wrong with them.
    pub fault: Fault,
}

/// The kinds of thing that are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say all there is")]
pub enum Structure {
    Superblock,
    LogBlock,
    LogRecord,
    RegionTable,
    Map,
    Node,
    Extent,
    Body,
    CatalogEntry,
    Frame,
}

/// Where something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The decoder was given bytes alone; the caller knows.
    Unknown,
    /// At this byte of the file.
    Byte(u64),
    /// In the block or extent that begins at this unit.
    Block(BlockId),
    /// At this place of the log.
    Lsn(Lsn),
    /// In this data region.
    Region(u32),
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The bytes end too early.
    Truncated {
        /// Bytes that were needed.
        need: u64,
        /// Bytes that were there.
        got: u64,
    },
    /// The bytes do not carry the checksum that was kept of them.
    Checksum {
        /// What was kept.
        expected: u32,
        /// What the bytes give.
        got: u32,
    },
    /// The bytes do not carry the hash that was kept of them.
    Hash,
    /// A field holds what it must not.
    Field {
        /// Its name in `FORMAT.md`.
        name: &'static str,
        /// What it must be (or the bound it breaks).
        expected: u64,
        /// What it is.
        got: u64,
    },
    /// A rule of the structure is broken.
    Rule(&'static str),
}

impl Corrupt {
    /// A fault whose place the caller will add.
    pub fn new(structure: Structure, fault: Fault) -> Self {
        Self {
            structure,
            place: Place::Unknown,
            fault,
        }
    }

    /// A field that holds what it must not.
    pub fn field(structure: Structure, name: &'static str, expected: u64, got: u64) -> Self {
        Self::new(
            structure,
            Fault::Field {
                name,
                expected,
                got,
            },
        )
    }

    /// A broken rule.
    pub fn rule(structure: Structure, rule: &'static str) -> Self {
        Self::new(structure, Fault::Rule(rule))
    }

    /// The same fault, and where it is.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        if self.place == Place::Unknown {
            self.place = place;
        }
        self
    }
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.structure {
            Structure::Superblock => "superblock",
            Structure::LogBlock => "log block",
            Structure::LogRecord => "log record",
            Structure::RegionTable => "region table",
            Structure::Map => "allocation map",
            Structure::Node => "tree node",
            Structure::Extent => "extent",
            Structure::Body => "entry body",
            Structure::CatalogEntry => "catalog entry",
            Structure::Frame => "diff frame",
        };
        write!(f, "corrupt {name}{}: {}", self.place, self.fault)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => Ok(()),
            Self::Byte(at) => write!(f, " at byte {at}"),
            Self::Block(block) => write!(f, " at unit {block}"),
            Self::Lsn(lsn) => write!(f, " at LSN {lsn}"),
            Self::Region(region) => write!(f, " of region {region}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { need, got } => write!(f, "needs {need} bytes, has {got}"),
            Self::Checksum { expected, got } => {
                write!(f, "checksum {got:08x} where {expected:08x} was kept")
            }
            Self::Hash => f.write_str("the bytes do not give the hash that was kept"),
            Self::Field {
                name,
                expected,
                got,
            } => write!(f, "{name} is {got}, not {expected}"),
            Self::Rule(rule) => f.write_str(rule),
        }
    }
}

impl core::error::Error for Corrupt {}
