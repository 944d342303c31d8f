//! # node: who holds which copy
//!
//! Today one node that serves its store honestly: the original's text protocol on TCP, and a
//! control socket for what that protocol lacks.
//!
//! The way of a request: [`server`] reads bytes from a connection, [`text`] makes commands of
//! them, [`mediator`] runs each against the [`storage`] by the rules of [`version`], and
//! [`text::reply`] encodes the answer.
//!
//! Invariants:
//! - A reply that says `succ` to a put or a delete was made durable first.
//! - Replies leave a connection in the order of its commands.
//! - No input from a connection, however long, is held beyond the limits in [`text`].

#![forbid(unsafe_code)]

pub mod client;
pub mod config;
pub mod control;
pub mod error;
pub mod hash;
pub mod mediator;
pub mod running;
pub mod server;
pub mod statistics;
pub mod storage;
pub mod text;
pub mod version;

pub use error::Error;
