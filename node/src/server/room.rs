//! Room that clients take by being slow: so much of the disk is taken for values that have been
//! announced, and so much of the memory for long replies that have not been read, and no more.
//!
//! Invariants:
//! - A value has all of its room or none: who waits for room holds none, so no two wait for each
//!   other.
//! - Short values have a share of their own, which long ones cannot take.
//! - Who holds room keeps it for as long as nobody waits for it. Once others wait, it must bring, or
//!   read, its next piece within [`RoomLimits::piece`], or it gives way. What the node takes to write
//!   does not count.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::storage::StorageError;

/// So long a value waits for room. A client gives up sooner.
const ROOM_WAIT_MAX: Duration = Duration::from_mins(5);

/// How much room there is, and for how long it may be held up.
#[derive(Debug, Clone, Copy)]
pub struct RoomLimits {
    /// What needs no more than this takes of the share of short ones.
    pub short: u64,
    /// Bytes of the share of short ones.
    pub short_bytes: usize,
    /// Bytes of the share of the others, which fits the longest.
    pub long_bytes: usize,
    /// While others wait, the next piece of 256 KiB must come, or go, within this.
    pub piece: Duration,
}

/// A piece at the least speed that a client must have, 64 KiB a second, takes four seconds.
const PIECE: Duration = Duration::from_secs(5);

impl RoomLimits {
    /// Disk for values that are coming in, 1 GiB together: 64 short ones, and twelve of the longest.
    pub const PUTS: Self = Self {
        short: 4 << 20,
        short_bytes: 256 << 20,
        long_bytes: 768 << 20,
        piece: PIECE,
    };
    /// Memory for long replies, 512 MiB together: 512 of values of up to 16 MiB, more of shorter ones,
    /// and 204 of the longest.
    pub const REPLIES: Self = Self {
        short: 512 << 10,
        short_bytes: 256 << 20,
        long_bytes: 256 << 20,
        piece: PIECE,
    };
}

/// The room of a node.
pub(super) struct Room {
    limits: RoomLimits,
    short: Arc<Share>,
    long: Arc<Share>,
}

struct Share {
    bytes: Arc<Semaphore>,
    /// How many wait.
    waiting: watch::Sender<usize>,
}

/// One of those who wait, until dropped.
struct Waiting<'a>(&'a Share);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

/// Room that somebody has; free again when dropped.
pub(super) struct Taken {
    #[expect(dead_code, reason = "held")]
    permit: OwnedSemaphorePermit,
}

impl Room {
    pub(super) fn new(limits: RoomLimits) -> Self {
        let share = |bytes| {
            Arc::new(Share {
                bytes: Arc::new(Semaphore::new(bytes)),
                waiting: watch::Sender::new(0),
            })
        };
        Self {
            limits,
            short: share(limits.short_bytes),
            long: share(limits.long_bytes),
        }
    }

    fn share(&self, length: u64) -> &Share {
        if length <= self.limits.short {
            &self.short
        } else {
            &self.long
        }
    }

    /// How many wait for room.
    pub(super) fn waiting(&self) -> usize {
        *self.short.waiting.borrow() + *self.long.waiting.borrow()
    }

    /// Room of `length` bytes, once others have made some.
    pub(super) async fn take(&self, length: u64) -> Result<Taken, StorageError> {
        let share = self.share(length);
        let bytes = u32::try_from(length).expect("the parser lets no longer value through");
        if let Ok(permit) = Arc::clone(&share.bytes).try_acquire_many_owned(bytes) {
            return Ok(Taken { permit });
        }
        share.waiting.send_modify(|waiting| *waiting += 1);
        let _waiting = Waiting(share);
        let room = Arc::clone(&share.bytes).acquire_many_owned(bytes);
        match timeout(ROOM_WAIT_MAX, room).await {
            Ok(permit) => Ok(Taken {
                permit: permit.expect("the semaphore is never closed"),
            }),
            Err(_) => Err(StorageError::Failed(
                "too many long values were under way at once; try again later".to_owned(),
            )),
        }
    }

    /// Ends once who holds room of `length` bytes, and whose client has rested for `rested` since its
    /// last piece, has to give way to others.
    pub(super) async fn wanted(&self, length: u64, rested: Duration) {
        sleep(self.limits.piece.saturating_sub(rested)).await;
        let mut waiting = self.share(length).waiting.subscribe();
        if waiting.wait_for(|waiting| *waiting > 0).await.is_err() {
            // Not while `self` holds the sender.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
impl Room {
    /// Bytes that are taken.
    pub(super) fn taken(&self) -> usize {
        let limits = self.limits.short_bytes + self.limits.long_bytes;
        limits - self.short.bytes.available_permits() - self.long.bytes.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_millis(20);
    const SOON: Duration = Duration::from_secs(20);

    /// Room for one long value of 100 bytes, and for ten short ones of up to 10.
    fn small(piece: Duration) -> Arc<Room> {
        Arc::new(Room::new(RoomLimits {
            short: 10,
            short_bytes: 100,
            long_bytes: 100,
            piece,
        }))
    }

    fn run(test: impl Future<Output = ()>) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().unwrap().block_on(test);
    }

    #[test]
    fn short_values_have_a_share_that_long_ones_cannot_take() {
        run(async {
            let room = small(SOON);
            let _long = room.take(100).await.unwrap();
            assert!(timeout(NOW, room.take(11)).await.is_err());
            timeout(SOON, room.take(10)).await.unwrap().unwrap();
        });
    }

    #[test]
    fn who_rests_keeps_its_room_until_somebody_waits_for_it() {
        run(async {
            let room = small(NOW);
            let held = room.take(60).await.unwrap();
            assert!(timeout(4 * NOW, room.wanted(60, NOW)).await.is_err());
            // One that waits for room of the other share is no reason.
            let shorts = room.take_all_short().await;
            let other = tokio::spawn({
                let room = Arc::clone(&room);
                async move { room.take(10).await.map(drop) }
            });
            assert!(timeout(4 * NOW, room.wanted(60, NOW)).await.is_err());
            drop(shorts);
            other.await.unwrap().unwrap();

            let waiting = tokio::spawn({
                let room = Arc::clone(&room);
                async move { room.take(60).await.map(drop) }
            });
            timeout(SOON, room.wanted(60, NOW)).await.unwrap();
            assert_eq!(room.waiting(), 1);
            drop(held);
            waiting.await.unwrap().unwrap();
            assert_eq!(room.waiting(), 0);
        });
    }

    #[test]
    fn who_brings_its_pieces_in_time_does_not_give_way() {
        run(async {
            let room = small(SOON);
            let _held = room.take(60).await.unwrap();
            let waiting = tokio::spawn({
                let room = Arc::clone(&room);
                async move { room.take(60).await.map(drop) }
            });
            assert!(timeout(NOW, room.wanted(60, Duration::ZERO)).await.is_err());
            timeout(SOON, room.wanted(60, SOON)).await.unwrap();
            // Who gives up waits no longer.
            waiting.abort();
            let _ = waiting.await;
            assert_eq!(room.waiting(), 0);
        });
    }

    impl Room {
        async fn take_all_short(&self) -> Vec<Taken> {
            let mut all = Vec::new();
            for _ in 0..10 {
                all.push(self.take(10).await.unwrap());
            }
            all
        }
    }
}
