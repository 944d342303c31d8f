//! A value on its way from a connection into the store: short ones are collected, long ones are
//! handed on in pieces, the next piece being read while the last one is written.

use std::sync::Arc;

use engine::Writer;
use tokio::task::{JoinHandle, spawn_blocking};

use super::connection::joined;
use crate::mediator::Mediator;
use crate::storage::{INLINE_BYTES, StorageError, Value};

/// A value no longer than this is collected in memory.
const COLLECT_BYTES: u64 = 64 << 10;
/// The piece in which a longer one is handed on.
const PIECE_BYTES: usize = 256 << 10;

type Written = Result<Writer, StorageError>;

/// A value that is coming in.
pub(super) enum Incoming {
    /// All of it so far.
    Short(Vec<u8>),
    /// What has not been handed on yet, and the writer, at work or waiting.
    Long {
        piece: Vec<u8>,
        writer: JoinHandle<Written>,
    },
    /// The store refused: the rest is read past, and the reason is the reply.
    Refused(StorageError),
}

impl Incoming {
    /// A value of `length` bytes begins.
    pub(super) fn begin(length: u64, mediator: &Arc<Mediator>) -> Self {
        if length <= COLLECT_BYTES {
            return Self::Short(Vec::with_capacity(usize::try_from(length).unwrap_or(0)));
        }
        let mediator = Arc::clone(mediator);
        Self::Long {
            piece: Vec::with_capacity(PIECE_BYTES),
            writer: spawn_blocking(move || mediator.storage().writer(length)),
        }
    }

    /// The next bytes.
    pub(super) async fn take(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            match self {
                Self::Short(bytes) => {
                    bytes.extend_from_slice(data);
                    return;
                }
                Self::Refused(_) => return,
                Self::Long { piece, writer } => {
                    let taken = data.len().min(PIECE_BYTES - piece.len());
                    piece.extend_from_slice(&data[..taken]);
                    data = &data[taken..];
                    if piece.len() < PIECE_BYTES {
                        return;
                    }
                    let full = std::mem::replace(piece, Vec::with_capacity(PIECE_BYTES));
                    match joined(writer).await {
                        Ok(ready) => *writer = hand_on(ready, full),
                        Err(error) => *self = Self::Refused(error),
                    }
                }
            }
        }
    }

    /// The value has come whole.
    pub(super) async fn end(self, mediator: &Arc<Mediator>) -> Result<Value, StorageError> {
        match self {
            Self::Short(bytes) if bytes.len() <= INLINE_BYTES => Ok(Value::Short(bytes)),
            Self::Short(bytes) => {
                let mediator = Arc::clone(mediator);
                joined(&mut spawn_blocking(move || mediator.storage().value(bytes))).await
            }
            Self::Refused(error) => Err(error),
            Self::Long { piece, mut writer } => {
                let ready = joined(&mut writer).await?;
                let ready = joined(&mut hand_on(ready, piece)).await?;
                joined(&mut spawn_blocking(move || {
                    Ok(Value::Written(ready.finish()?))
                }))
                .await
            }
        }
    }
}

fn hand_on(mut writer: Writer, piece: Vec<u8>) -> JoinHandle<Written> {
    spawn_blocking(move || {
        writer.push(&piece)?;
        Ok(writer)
    })
}
