//! A running node: its text server, its control socket and its sweep of old tombstones, from the
//! first connection to a clean stop.
//!
//! The order of a stop: no new connection, running commands end, the store closes, what the control
//! socket has under way ends. Who waits on that socket for the stop learns how the store closed, and
//! then that nothing is left to do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use crate::config::Config;
use crate::control::{Control, NodeStatus, Refusal};
use crate::error::Error;
use crate::mediator::{COPIES, Mediator};
use crate::server::{Limits, RoomLimits, Server, reserve};
use crate::statistics::{Report, Statistics};
use crate::storage::{Storage, StorageError};
use crate::version::NodeId;

/// How long running commands have to end when the node stops.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How often old tombstones are looked for.
const SWEEP_EVERY: Duration = Duration::from_hours(1);

/// A node that serves.
pub struct Running {
    address: SocketAddr,
    mediator: Arc<Mediator>,
    stop: watch::Sender<bool>,
    gone: watch::Sender<Option<Result<(), Refusal>>>,
    text: JoinHandle<()>,
    control: JoinHandle<()>,
    sweep: JoinHandle<()>,
}

impl Running {
    /// Starts to serve `storage` as `config` says. Must be called within a tokio runtime.
    pub async fn start(config: &Config, storage: Arc<Storage>) -> Result<Self, Error> {
        let socket = reserve(&config.listen, config.text_port).await?;
        Self::start_at(socket, config, storage)
    }

    /// The same on an address that is taken already.
    pub fn start_at(
        socket: TcpSocket,
        config: &Config,
        storage: Arc<Storage>,
    ) -> Result<Self, Error> {
        let node = storage.node();
        let mediator = Arc::new(Mediator::new(storage));
        let statistics = Arc::new(Statistics::default());
        let (stop, stopping) = watch::channel(false);
        let (gone, going) = watch::channel(None);
        let limits = Limits {
            connections: config.max_connections,
            idle: config.idle,
            slow: config.slow,
            puts: RoomLimits::PUTS,
            replies: RoomLimits::REPLIES,
        };
        let fault = |error| {
            let (host, port) = (&config.listen, config.text_port);
            Error::listen(&format_args!("{host}:{port}"), error)
        };
        let server = Server::listen(
            socket,
            Arc::clone(&mediator),
            Arc::clone(&statistics),
            limits,
            stopping.clone(),
        )
        .map_err(fault)?;
        let address = server.address().map_err(fault)?;
        let backing = crate::control::Backing {
            mediator: Arc::clone(&mediator),
            status: status(config, node, address, statistics, server.puts_waiting()),
            stop: stop.clone(),
            gone: going,
        };
        let control = Control::bind(&config.directory, backing)?;
        let sweep = sweep(Arc::clone(&mediator), config.tombstones, stopping);
        Ok(Self {
            address,
            mediator,
            stop,
            gone,
            text: tokio::spawn(server.run()),
            control: tokio::spawn(control.run()),
            sweep: tokio::spawn(sweep),
        })
    }

    /// Where clients reach the text protocol.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resolves once somebody asked over the control socket that the node stop.
    pub async fn asked_to_stop(&self) {
        let mut stop = self.stop.subscribe();
        // It cannot fail while `self` holds the sender.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// Stops cleanly.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.stop.send_replace(true);
        if timeout(STOP_GRACE, &mut self.text).await.is_err() {
            self.text.abort();
        }
        let _ = self.sweep.await;
        let storage = Arc::clone(self.mediator.storage());
        let closed = spawn_blocking(move || storage.close())
            .await
            .unwrap_or_else(|panic| Err(StorageError::Failed(panic.to_string())));
        let told = closed.as_ref().copied().map_err(Refusal::from);
        self.gone.send_replace(Some(told));
        let _ = self.control.await;
        Ok(closed?)
    }
}

fn status(
    config: &Config,
    node: NodeId,
    address: SocketAddr,
    statistics: Arc<Statistics>,
    puts_waiting: impl Fn() -> usize + Send + Sync + 'static,
) -> Box<dyn Fn() -> NodeStatus + Send + Sync> {
    let since = Instant::now();
    let copies = u32::try_from(COPIES).expect("one");
    let (q, directory) = (config.q, config.directory.clone());
    let directory = std::path::absolute(&directory).unwrap_or(directory);
    Box::new(move || NodeStatus {
        node: node.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: since.elapsed().as_secs(),
        text_address: address.to_string(),
        directory: directory.display().to_string(),
        n: copies,
        r: copies,
        w: copies,
        q,
        statistics: Report {
            puts_waiting: puts_waiting(),
            ..statistics.report()
        },
        store: crate::storage::StoreStatus::default(),
    })
}

/// Removes old tombstones now and then, until the node stops.
async fn sweep(mediator: Arc<Mediator>, keep: Duration, mut stop: watch::Receiver<bool>) {
    loop {
        let asked = timeout(SWEEP_EVERY, stop.wait_for(|stop| *stop))
            .await
            .is_ok();
        if asked {
            return;
        }
        let (mediator, stopping) = (Arc::clone(&mediator), stop.clone());
        // A fault of the store shows in every request; the next sweep tries again.
        let _ = spawn_blocking(move || mediator.sweep(keep, || *stopping.borrow())).await;
    }
}
