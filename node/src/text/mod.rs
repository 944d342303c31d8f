//! The original's text protocol, byte for byte: [`parser`] reads commands, [`reply`] writes
//! answers. Neither does I/O.
//!
//! ```text
//! SEP = SP | LF          T = any one byte, not looked at
//! get SEP KLEN SEP key T
//! put SEP KLEN SEP key T CLEN SEP ctx T DLEN SEP data T
//! has SEP KLEN SEP key T
//! del SEP KLEN SEP key T
//! hash SEP KLEN SEP key T            not in the original
//! check SEP KLEN SEP key T           nor is this: hash, once the disk has given the values whole
//! close SEP
//!
//! get   -> "succ " N " " CLEN " " ctx (" " DLEN " " data)* LF | "not_found" LF
//! put   -> "succ " N LF              del -> the same, also for an absent key
//! has   -> "yes " N LF | "no " N LF
//! hash  -> "succ " N (" " 64 hex digits)* LF | "not_found" LF; check -> the same
//! close -> "close" LF, then the connection ends
//! any   -> "fail " reason LF
//! ```
//!
//! A reason that begins with `damaged` says that bytes on the node's disk are not what was put. Damage
//! that shows in the middle of a long reply to a get ends the connection, for the length is promised
//! by then; a `hash` of that key then fails with the reason.
//!
//! Invariants:
//! - How bytes fall into segments never changes what is parsed.
//! - The parser holds at most one word, one length, one key and one context: values pass through.
//! - After [`Malformed`] nothing more is read: what follows cannot be told from a value.

pub mod parser;
pub mod reply;

use std::time::Duration;

pub use parser::{Command, Event, Malformed, Parser};

use crate::hash::TOKEN_BYTES;

/// The port of the original.
pub const PORT: u16 = 11_222;
/// The longest key, in bytes: the store's own limit less the token before each key.
pub const KEY_BYTES_MAX: usize = 4096 - TOKEN_BYTES;
/// The longest value, in bytes: what the original could receive at once.
pub const VALUE_BYTES_MAX: u64 = 64 << 20;
/// The longest context, in bytes. Ours stay under 1 KiB; ten entries of the original's with long
/// process names still fit.
pub const CONTEXT_BYTES_MAX: usize = 16 << 10;
/// A reply no longer than this leaves in one write: an old client loses step when the last byte
/// of a short reply comes in a segment of its own.
pub const ONE_WRITE_BYTES: usize = 64 << 10;
/// How long a refused client is read from, so that its unread bytes do not reset the connection
/// before it has read why.
pub const LINGER: Duration = Duration::from_secs(2);
