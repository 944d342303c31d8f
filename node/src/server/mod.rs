//! The text protocol on TCP: accepts connections up to a limit and serves each in a task.
//!
//! Invariants:
//! - Past the limit a client is told so, and what serves the others is not touched.
//! - Clients that do not read what they asked for hold no more memory for long replies than
//!   [`RoomLimits::REPLIES`] together.
//! - Once told to stop, a connection ends its command, if it has begun one, and nothing more.

mod connection;
mod room;
mod value;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::room::Room;
use self::value::Intake;

pub use self::room::RoomLimits;

use crate::error::Error;
use crate::mediator::Mediator;
use crate::statistics::Statistics;
use crate::text::{LINGER, reply};

/// Clients at a time that are refused with care, until they have read why. More are told and closed
/// at once, for they would hold descriptors that the node needs.
const REFUSALS_MAX: usize = 32;
/// Connections that may wait to be accepted. With the usual 128 a burst overflows, and those
/// turned away try again only after a second.
const BACKLOG: u32 = 4096;
/// The pause after the system had no descriptor to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a connection may do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// A connection without a command for so long is ended.
    pub idle: Duration,
    /// How long a command, or a stretch of a reply, may take at least.
    pub slow: Duration,
    /// What long values that are coming in may take of the disk.
    pub puts: RoomLimits,
    /// What long replies may take of the memory.
    pub replies: RoomLimits,
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) mediator: Arc<Mediator>,
    pub(crate) statistics: Arc<Statistics>,
    pub(crate) limits: Limits,
    intake: Intake,
    /// Memory for long replies.
    replies: Room,
    /// True once the node stops.
    pub(crate) stop: watch::Receiver<bool>,
}

/// A server that listens and does not accept yet.
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
}

impl Server {
    /// Listens on an address that was taken with [`reserve`].
    pub fn listen(
        socket: TcpSocket,
        mediator: Arc<Mediator>,
        statistics: Arc<Statistics>,
        limits: Limits,
        stop: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let listener = socket.listen(BACKLOG)?;
        let shared = Shared {
            intake: Intake::new(Arc::clone(&mediator), limits.puts),
            replies: Room::new(limits.replies),
            mediator,
            statistics,
            limits,
            stop,
        };
        Ok(Self {
            listener,
            shared: Arc::new(shared),
        })
    }

    /// Tells how many puts wait for room.
    pub fn puts_waiting(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.intake.room.waiting()
    }

    /// Where clients reach it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until told to stop, then until the connections have ended.
    pub async fn run(self) {
        let Self { listener, shared } = self;
        let mut stop = shared.stop.clone();
        let mut tasks = JoinSet::new();
        let places = Arc::new(Semaphore::new(shared.limits.connections));
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = tasks.join_next() => continue,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let Ok((stream, _)) = accepted else {
                // The client is gone again, or descriptors have run out: those served go on.
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // Without this the last part of a reply waits for the client's acknowledgement.
            let _ = stream.set_nodelay(true);
            let statistics = &shared.statistics;
            if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                statistics
                    .connections_accepted
                    .fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&shared);
                tasks.spawn(async move {
                    shared
                        .statistics
                        .connections
                        .fetch_add(1, Ordering::Relaxed);
                    connection::serve(stream, &shared).await;
                    shared
                        .statistics
                        .connections
                        .fetch_sub(1, Ordering::Relaxed);
                    drop(place);
                });
                continue;
            }
            statistics
                .connections_refused
                .fetch_add(1, Ordering::Relaxed);
            let limit = shared.limits.connections;
            let mut line = Vec::new();
            reply::fail(
                &mut line,
                &format!("too many connections: {limit} are open"),
            );
            if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
                tasks.spawn(async move {
                    refuse(stream, &line).await;
                    drop(place);
                });
            } else {
                tell(stream, &line);
            }
        }
        drop(listener);
        while tasks.join_next().await.is_some() {}
    }
}

/// Takes the first address of `host` that the system gives. Clients are turned away until a server
/// listens on it.
pub async fn reserve(host: &str, port: u16) -> Result<TcpSocket, Error> {
    let fault = |source| Error::listen(&format_args!("{host}:{port}"), source);
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in lookup_host((host, port)).await.map_err(fault)? {
        let bind = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            // A restart must not wait for the connections of the last run to be forgotten.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        match bind() {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(fault(last))
}

/// Says why and ends the connection at once. A connection just accepted has room for a line; only a
/// client that has sent much already may miss it.
fn tell(stream: TcpStream, line: &[u8]) {
    // The runtime does not know yet that the socket can be written to, and would not try.
    if let Ok(stream) = stream.into_std() {
        let _ = (&stream).write(line);
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
}

/// Says why and ends the connection.
async fn refuse(mut stream: TcpStream, line: &[u8]) {
    if let Ok(Ok(())) = timeout(LINGER, stream.write_all(line)).await {
        linger(stream).await;
    }
}

/// Ends a connection so that its client reads what was written last. Closed at once, with bytes
/// of the client's unread, it would be reset, and the reply lost.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = [0; 4096];
    let drain = async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} };
    let _ = timeout(LINGER, drain).await;
}
