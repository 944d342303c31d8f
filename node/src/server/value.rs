//! A value on its way from a connection into the store: short ones are collected, long ones are
//! handed on in pieces, the next piece being read while the last one is written.
//!
//! Invariants:
//! - A client holds memory and disk for what it has sent, not for what it has announced: a place
//!   is taken once a first piece is full.
//! - The places of values that are not whole yet have what [`RoomLimits`] says together. Who finds
//!   no room waits, and nothing more is read from that client.
//! - Writes that wait for the disk leave threads for reads and for the control socket: see
//!   [`WRITES_MAX`].

use std::sync::Arc;
use std::time::Duration;

use engine::Writer;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};

use super::connection::joined;
use super::room::{Room, RoomLimits, Taken};
use crate::mediator::{Mediator, RequestError};
use crate::storage::{INLINE_BYTES, StorageError, Value};

/// The piece in which a long value is handed on; what is no longer is collected in memory.
const PIECE_BYTES: usize = 256 << 10;
/// Writes at work at a time: half of the threads that tokio gives to work that blocks.
const WRITES_MAX: usize = 256;

/// A writer with the room that it was given, which is free again when both go.
pub(super) struct Place {
    writer: Writer,
    room: Taken,
}

type Written = Result<Place, StorageError>;

/// What values need of their node.
pub(super) struct Intake {
    mediator: Arc<Mediator>,
    pub(super) room: Room,
    writes: Arc<Semaphore>,
}

impl Intake {
    pub(super) fn new(mediator: Arc<Mediator>, room: RoomLimits) -> Self {
        Self {
            mediator,
            room: Room::new(room),
            writes: Arc::new(Semaphore::new(WRITES_MAX)),
        }
    }

    /// Begins what writes, once it is its turn.
    pub(super) async fn write<T, E>(
        &self,
        run: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> JoinHandle<Result<T, E>>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let turn = Arc::clone(&self.writes).acquire_owned().await;
        let turn = turn.expect("the semaphore is never closed");
        spawn_blocking(move || {
            let result = run();
            drop(turn);
            result
        })
    }
}

/// A value that is coming in.
pub(super) enum Incoming {
    /// All of it so far: it is short, or its first piece is not full.
    Collected { bytes: Vec<u8>, length: u64 },
    /// What has not been handed on yet, and the writer, at work or waiting.
    Long {
        piece: Vec<u8>,
        place: JoinHandle<Written>,
        length: u64,
        /// How long the node has waited for what the piece holds.
        rested: Duration,
    },
    /// It was refused: the rest is read past, and the reason is the reply.
    Refused(RequestError),
}

impl Incoming {
    /// A value of `length` bytes begins.
    pub(super) fn begin(length: u64) -> Self {
        let bytes = Vec::new();
        Self::Collected { bytes, length }
    }

    /// The node has waited so long for the client's next bytes.
    pub(super) fn rest(&mut self, time: Duration) {
        if let Self::Long { rested, .. } = self {
            *rested += time;
        }
    }

    /// Ends once the value has to give way to others that wait for its room.
    pub(super) async fn wanted(&self, intake: &Intake) {
        match self {
            Self::Long { length, rested, .. } => intake.room.wanted(*length, *rested).await,
            _ => std::future::pending().await,
        }
    }

    /// The next bytes.
    pub(super) async fn take(&mut self, mut data: &[u8], intake: &Intake) {
        while !data.is_empty() {
            let piece = match self {
                Self::Collected { bytes, .. } => bytes,
                Self::Long { piece, .. } => piece,
                Self::Refused(_) => return,
            };
            if piece.len() == PIECE_BYTES {
                // More comes behind a full piece.
                if let Err(error) = self.hand_on(intake).await {
                    *self = Self::Refused(error.into());
                }
                continue;
            }
            let taken = data.len().min(PIECE_BYTES - piece.len());
            piece.extend_from_slice(&data[..taken]);
            data = &data[taken..];
        }
    }

    /// Hands the full piece on, and begins another.
    async fn hand_on(&mut self, intake: &Intake) -> Result<(), StorageError> {
        let next = Vec::with_capacity(PIECE_BYTES);
        match self {
            Self::Collected { bytes, length } => {
                let length = *length;
                let room = intake.room.take(length).await?;
                let (bytes, mediator) = (std::mem::take(bytes), Arc::clone(&intake.mediator));
                let begin = move || {
                    let mut writer = mediator.storage().writer(length)?;
                    writer.push(&bytes)?;
                    Ok(Place { writer, room })
                };
                let place = intake.write(begin).await;
                *self = Self::Long {
                    piece: next,
                    place,
                    length,
                    rested: Duration::ZERO,
                };
            }
            Self::Long {
                piece,
                place,
                rested,
                ..
            } => {
                let ready = joined(place).await?;
                *rested = Duration::ZERO;
                *place = push(ready, std::mem::replace(piece, next), intake).await;
            }
            Self::Refused(_) => {}
        }
        Ok(())
    }

    /// The value has come whole.
    pub(super) async fn end(self, intake: &Intake) -> Result<Value, RequestError> {
        match self {
            Self::Collected { bytes, .. } if bytes.len() <= INLINE_BYTES => Ok(Value::Short(bytes)),
            Self::Collected { bytes, .. } => {
                let mediator = Arc::clone(&intake.mediator);
                let store = move || mediator.storage().value(bytes);
                Ok(joined(&mut intake.write(store).await).await?)
            }
            Self::Refused(error) => Err(error),
            Self::Long {
                piece, mut place, ..
            } => {
                let ready = joined(&mut place).await?;
                let Place { writer, room } = joined(&mut push(ready, piece, intake).await).await?;
                let finish = move || -> Result<_, StorageError> {
                    let written = writer.finish()?;
                    drop(room);
                    Ok(Value::Written(written))
                };
                Ok(joined(&mut intake.write(finish).await).await?)
            }
        }
    }
}

async fn push(mut place: Place, piece: Vec<u8>, intake: &Intake) -> JoinHandle<Written> {
    let push = move || {
        place.writer.push(&piece)?;
        Ok(place)
    };
    intake.write(push).await
}
