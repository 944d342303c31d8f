//! One connection: reads commands, runs them in order, writes replies.
//!
//! Replies collect while the bytes at hand hold more commands, and leave in one write before the
//! next read. A long value passes through in pieces, both ways.

use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use engine::{Geometry, Reader};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout_at};

use super::value::Incoming;
use super::{Shared, linger};
use crate::mediator::{COPIES, Found, Mediator, RequestError};
use crate::statistics::Verb;
use crate::storage::StorageError;
use crate::text::{Command, Event, ONE_WRITE_BYTES, Parser, reply};
use crate::version::Context;

/// What a connection reads into while it waits: thousands of them do.
const IDLE_BUFFER_BYTES: usize = 8 << 10;
/// What it reads into while a long value comes.
const BUSY_BUFFER_BYTES: usize = 128 << 10;
/// The pieces in which a long reply leaves.
const PIECE_BYTES: u64 = 256 << 10;
/// A client that is slower than this with a long command, or a long reply, is too slow.
const BYTES_PER_SECOND_MIN: u64 = 64 << 10;
/// So long, once the node stops, a client may let a command or a reply rest that is under way.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Why a connection ends.
enum End {
    /// The client closed it, broke it, or was told why it is over.
    Now,
    /// The client still has to read what was written.
    Gently,
}

/// A put whose value is coming in.
struct Putting {
    key: Vec<u8>,
    context: Context,
    value: Incoming,
}

struct Connection<'a> {
    stream: TcpStream,
    shared: &'a Shared,
    stop: watch::Receiver<bool>,
    parser: Parser,
    out: Vec<u8>,
    putting: Option<Putting>,
    /// The room that a long reply under way has.
    replying: Option<u64>,
    /// Commands that have come whole.
    commands: u64,
}

/// Serves a connection to its end.
pub(super) async fn serve(stream: TcpStream, shared: &Shared) {
    let mut connection = Connection {
        stream,
        shared,
        stop: shared.stop.clone(),
        parser: Parser::new(),
        out: Vec::new(),
        putting: None,
        replying: None,
        commands: 0,
    };
    match connection.run().await {
        End::Now => {}
        End::Gently => linger(connection.stream).await,
    }
}

impl Connection<'_> {
    async fn run(&mut self) -> End {
        let mut buffer = vec![0; IDLE_BUFFER_BYTES];
        // When the command that is coming began, and how much of it has come.
        let mut began: Option<(Instant, u64)> = None;
        loop {
            let wanted = if self.putting.is_some() {
                BUSY_BUFFER_BYTES
            } else {
                IDLE_BUFFER_BYTES
            };
            if buffer.len() != wanted {
                buffer = vec![0; wanted];
            }
            let read = match self.read(&mut buffer, began).await {
                Ok(read) => read,
                Err(end) => return end,
            };
            let commands = self.commands;
            let since = Instant::now();
            if let ControlFlow::Break(end) = self.take(&buffer[..read]).await {
                return end;
            }
            // What the node took for it is not the client's delay.
            let taken = since.elapsed();
            if self.flush().await.is_err() {
                return End::Now;
            }
            if self.commands != commands {
                began = None;
                if *self.stop.borrow() {
                    // Who always has the next one begun must not hold the node up.
                    return End::Gently;
                }
            }
            began = self.parser.in_command().then(|| {
                let (since, bytes) =
                    began.map_or((Instant::now(), 0), |(since, bytes)| (since + taken, bytes));
                (since, bytes + read as u64)
            });
        }
    }

    /// Reads what comes next, within the client's time.
    async fn read(
        &mut self,
        buffer: &mut [u8],
        began: Option<(Instant, u64)>,
    ) -> Result<usize, End> {
        let limits = &self.shared.limits;
        let deadline = match began {
            None => Instant::now() + limits.idle,
            Some((since, bytes)) => since + self.time(bytes),
        };
        let read = timeout_at(deadline.into(), self.stream.read(buffer));
        let read = if began.is_some() {
            let since = Instant::now();
            let intake = &self.shared.intake;
            let wanted = async {
                match &self.putting {
                    Some(putting) => putting.value.wanted(intake).await,
                    None => std::future::pending().await,
                }
            };
            let read = tokio::select! {
                biased;
                read = read => read,
                () = stalled(&mut self.stop) => return Err(self.left_behind().await),
                () = wanted => return Err(self.gives_way().await),
            };
            if let Some(putting) = &mut self.putting {
                putting.value.rest(since.elapsed());
            }
            read
        } else {
            tokio::select! {
                biased;
                _ = self.stop.wait_for(|stop| *stop) => return Err(End::Now),
                read = read => read,
            }
        };
        match read {
            Ok(Ok(0) | Err(_)) => Err(End::Now),
            Ok(Ok(read)) => {
                let bytes_in = &self.shared.statistics.bytes_in;
                bytes_in.fetch_add(read as u64, Ordering::Relaxed);
                Ok(read)
            }
            Err(_) => Err(self.too_slow(began.is_some()).await),
        }
    }

    /// How long so many bytes may take, either way.
    fn time(&self, bytes: u64) -> Duration {
        self.shared.limits.slow + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN)
    }

    /// An idle client waits for no reply, so it is given none; a slow one is told.
    async fn too_slow(&mut self, in_command: bool) -> End {
        let statistics = &self.shared.statistics;
        statistics
            .connections_timed_out
            .fetch_add(1, Ordering::Relaxed);
        // What it has sent makes room at once, not when it has read why.
        self.putting = None;
        if in_command {
            self.fail("too slow: the command did not come to its end in time");
            let _ = self.flush().await;
        }
        End::Gently
    }

    /// Others wait for the room that a value holds which does not come.
    async fn gives_way(&mut self) -> End {
        let statistics = &self.shared.statistics;
        statistics
            .connections_timed_out
            .fetch_add(1, Ordering::Relaxed);
        self.putting = None;
        self.fail("too slow: other values wait for the room of this one, which does not come");
        let _ = self.flush().await;
        End::Gently
    }

    /// The node stops, and a client does not bring its command to an end.
    async fn left_behind(&mut self) -> End {
        self.fail("the node stops, and the command did not come to its end");
        let _ = self.flush().await;
        End::Now
    }

    /// Runs all that the bytes hold.
    async fn take(&mut self, mut input: &[u8]) -> ControlFlow<End> {
        loop {
            match self.parser.next(&mut input) {
                Ok(None) => return ControlFlow::Continue(()),
                Ok(Some(event)) => self.event(event).await?,
                Err(malformed) => {
                    self.fail(&malformed.to_string());
                    let _ = self.flush().await;
                    return ControlFlow::Break(End::Gently);
                }
            }
            if self.out.len() >= ONE_WRITE_BYTES && self.flush().await.is_err() {
                return ControlFlow::Break(End::Now);
            }
        }
    }

    async fn event(&mut self, event: Event<'_>) -> ControlFlow<End> {
        if matches!(event, Event::Command(_) | Event::PutEnd) {
            self.commands += 1;
        }
        match event {
            Event::Put {
                key,
                context,
                length,
            } => {
                // What is refused already is read past, and takes no place.
                let (context, value) = match self.shared.mediator.check_context(&context) {
                    Ok(context) => (context, Incoming::begin(length)),
                    Err(error) => (Context::Foreign, Incoming::Refused(error)),
                };
                self.putting = Some(Putting {
                    key,
                    context,
                    value,
                });
            }
            Event::Data(data) => {
                let putting = self
                    .putting
                    .as_mut()
                    .expect("the parser opens a put before its data");
                putting.value.take(data, &self.shared.intake).await;
            }
            Event::PutEnd => {
                let putting = self
                    .putting
                    .take()
                    .expect("the parser opens a put before its end");
                self.put(putting).await;
            }
            Event::Command(Command::Close) => {
                reply::close(&mut self.out);
                let _ = self.flush().await;
                return ControlFlow::Break(End::Gently);
            }
            Event::Command(Command::Get(key)) => return self.get(key).await,
            Event::Command(Command::Has(key)) => {
                let run = move |mediator: &Mediator| mediator.has(&key);
                if let Some(there) = self.request(Verb::Has, run).await {
                    reply::has(&mut self.out, there, COPIES);
                }
            }
            Event::Command(Command::Del(key)) => {
                let run = move |mediator: &Mediator| mediator.delete(&key);
                if let Some(copies) = self.request(Verb::Del, run).await {
                    reply::succeeded(&mut self.out, copies);
                }
            }
            Event::Command(Command::Hash(key)) => self.hashes(Verb::Hash, key).await,
            Event::Command(Command::Check(key)) => self.hashes(Verb::Check, key).await,
        }
        ControlFlow::Continue(())
    }

    async fn hashes(&mut self, verb: Verb, key: Vec<u8>) {
        let read = verb == Verb::Check;
        let run = move |mediator: &Mediator| mediator.hashes(&key, read);
        match self.request(verb, run).await {
            Some(Some(hashes)) => reply::hashes(&mut self.out, hashes.iter()),
            Some(None) => reply::not_found(&mut self.out),
            None => {}
        }
    }

    async fn put(&mut self, putting: Putting) {
        let since = Instant::now();
        let result = self.store(putting).await;
        match result {
            Ok(copies) => reply::succeeded(&mut self.out, copies),
            Err(error) => self.fail(&error.to_string()),
        }
        self.shared.statistics.record(Verb::Put, since.elapsed());
    }

    async fn store(&self, putting: Putting) -> Result<usize, RequestError> {
        let Putting {
            key,
            context,
            value,
        } = putting;
        let mediator = Arc::clone(&self.shared.mediator);
        let value = value.end(&self.shared.intake).await?;
        let put = move || mediator.put(&key, &context, &value);
        joined(&mut self.shared.intake.write(put).await).await
    }

    /// Answers a get: a short reply at once, a long one piece by piece.
    async fn get(&mut self, key: Vec<u8>) -> ControlFlow<End> {
        let answer = move |mediator: &Mediator| look_up(mediator, &key);
        match self.request(Verb::Get, answer).await {
            None => {}
            Some(Answer::Short(reply)) if self.out.is_empty() => self.out = reply,
            Some(Answer::Short(reply)) => self.out.extend_from_slice(&reply),
            Some(Answer::Long(found)) => {
                let streamed = self.reply(&found).await;
                return streamed.map_or(ControlFlow::Break(End::Now), ControlFlow::Continue);
            }
        }
        ControlFlow::Continue(())
    }

    /// Writes a long reply, once there is room for it.
    async fn reply(&mut self, found: &Found) -> Result<(), ()> {
        // Whatever becomes of this reply, those before it arrive.
        self.flush().await?;
        let bytes = memory(found);
        let room = tokio::select! {
            biased;
            room = self.shared.replies.take(bytes) => room,
            () = stalled(&mut self.stop) => return Err(()),
        };
        let _room = match room {
            Ok(room) => room,
            Err(error) => {
                self.fail(&error.to_string());
                return Ok(());
            }
        };
        self.replying = Some(bytes);
        let streamed = self.stream_out(found).await;
        self.replying = None;
        streamed
    }

    /// Writes the values of a long reply. A value that cannot be read at all is told; a fault in
    /// the middle ends the connection: the client must not take what follows for the rest of the
    /// value. Why it ended a `hash` of the key tells, for damage was noted then. As long as the reply is
    /// under way the store keeps what it shows, so the client has one deadline for all of it, and no
    /// more time for any value than that takes alone.
    async fn stream_out(&mut self, found: &Found) -> Result<(), ()> {
        let all = Instant::now() + self.time(found.lengths().sum());
        let mut deadline = all;
        let mut begun = false;
        for mut reader in (0..found.values()).filter_map(|index| found.reader(index)) {
            let length = reader.length();
            deadline = all.min(Instant::now() + self.time(length));
            let mut left = length;
            loop {
                let piece = left.min(PIECE_BYTES);
                if self.out.len() as u64 + piece > PIECE_BYTES {
                    self.flush_by(deadline).await?;
                }
                let mut out = std::mem::take(&mut self.out);
                if !begun {
                    reply::found(&mut out, found.values(), &found.context);
                }
                if left == length {
                    reply::value(&mut out, length);
                }
                let (mediator, key) = (Arc::clone(&self.shared.mediator), found.key().to_vec());
                let read = blocking(move || {
                    let appended = append(&mut out, &mut reader, piece);
                    appended.map_err(|error| mediator.storage().fault_of_value(&key, error))?;
                    Ok::<_, StorageError>((out, reader))
                });
                match read.await {
                    Ok((filled, rest)) => (self.out, reader) = (filled, rest),
                    Err(error) if !begun => {
                        self.fail(&error.to_string());
                        return Ok(());
                    }
                    Err(_) => return Err(()),
                }
                begun = true;
                left -= piece;
                if left == 0 {
                    break;
                }
            }
        }
        // The line feed leaves in the same write as the last bytes before it.
        reply::end(&mut self.out);
        self.flush_by(deadline).await
    }

    /// Runs a short request, measures it, and turns its fault into a reply.
    async fn request<T: Send + 'static>(
        &mut self,
        verb: Verb,
        run: impl FnOnce(&Mediator) -> Result<T, RequestError> + Send + 'static,
    ) -> Option<T> {
        let since = Instant::now();
        let mediator = Arc::clone(&self.shared.mediator);
        let run = move || run(&mediator);
        let mut task = match verb {
            Verb::Del => self.shared.intake.write(run).await,
            _ => spawn_blocking(run),
        };
        let result = joined(&mut task).await;
        self.shared.statistics.record(verb, since.elapsed());
        match result {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.fail(&error.to_string());
                None
            }
        }
    }

    fn fail(&mut self, reason: &str) {
        self.shared
            .statistics
            .failures
            .fetch_add(1, Ordering::Relaxed);
        reply::fail(&mut self.out, reason);
    }

    /// Writes what has collected.
    async fn flush(&mut self) -> Result<(), ()> {
        let deadline = Instant::now() + self.time(self.out.len() as u64);
        self.flush_by(deadline).await
    }

    async fn flush_by(&mut self, deadline: Instant) -> Result<(), ()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let Shared {
            statistics,
            replies,
            ..
        } = self.shared;
        let mut left = &self.out[..];
        let replying = self.replying;
        let wanted = async {
            match replying {
                Some(bytes) => replies.wanted(bytes, Duration::ZERO).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(wanted);
        while !left.is_empty() {
            let written = tokio::select! {
                biased;
                written = timeout_at(deadline.into(), self.stream.write(left)) => written,
                () = stalled(&mut self.stop) => return Err(()),
                () = &mut wanted => {
                    statistics.connections_timed_out.fetch_add(1, Ordering::Relaxed);
                    return Err(());
                }
            };
            match written {
                Ok(Ok(0) | Err(_)) => return Err(()),
                Ok(Ok(written)) => {
                    statistics
                        .bytes_out
                        .fetch_add(written as u64, Ordering::Relaxed);
                    left = &left[written..];
                }
                Err(_) => {
                    statistics
                        .connections_timed_out
                        .fetch_add(1, Ordering::Relaxed);
                    return Err(());
                }
            }
        }
        if self.out.capacity() > ONE_WRITE_BYTES {
            self.out = Vec::new();
        } else {
            self.out.clear();
        }
        Ok(())
    }
}

/// What a get found.
enum Answer {
    /// The reply: it fits one write.
    Short(Vec<u8>),
    /// Values to be streamed.
    Long(Found),
}

/// Looks a key up.
fn look_up(mediator: &Mediator, key: &[u8]) -> Result<Answer, RequestError> {
    let mut out = Vec::new();
    let Some(found) = mediator.get(key)? else {
        reply::not_found(&mut out);
        return Ok(Answer::Short(out));
    };
    if found.lengths().sum::<u64>() > ONE_WRITE_BYTES as u64 {
        return Ok(Answer::Long(found));
    }
    reply::found(&mut out, found.values(), &found.context);
    for mut reader in (0..found.values()).filter_map(|index| found.reader(index)) {
        let length = reader.length();
        reply::value(&mut out, length);
        append(&mut out, &mut reader, length)
            .map_err(|error| mediator.storage().fault_of_value(key, error))?;
    }
    reply::end(&mut out);
    Ok(Answer::Short(out))
}

/// What a long reply takes of the memory while its client does not read: a piece, and the chunk that is
/// read and verified at once of its longest value, which the engine keeps until the next.
fn memory(found: &Found) -> u64 {
    let longest = found.lengths().max().unwrap_or(0);
    let chunk = Geometry::default().chunk_bytes(longest).max(PIECE_BYTES);
    PIECE_BYTES.min(found.lengths().sum()) + chunk.min(longest)
}

fn append(out: &mut Vec<u8>, from: &mut Reader, length: u64) -> Result<(), engine::Error> {
    let start = out.len();
    let length = usize::try_from(length).expect("a piece is short");
    out.resize(start + length, 0);
    from.read_exact(&mut out[start..])
        .map_err(engine::Error::of_reader)
}

/// Ends [`STOP_GRACE`] after the node was told to stop. Made anew with each stretch of bytes, so it
/// ends only where no byte comes or goes for so long.
async fn stalled(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
    sleep(STOP_GRACE).await;
}

/// Runs what may wait for the disk away from the network's threads.
async fn blocking<T, E>(run: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<StorageError> + Send + 'static,
{
    joined(&mut spawn_blocking(run)).await
}

/// Waits for blocking work. A panic there is a bug of ours, and that request's end alone.
pub(super) async fn joined<T, E: From<StorageError>>(
    task: &mut JoinHandle<Result<T, E>>,
) -> Result<T, E> {
    task.await
        .unwrap_or_else(|panic| Err(StorageError::Failed(panic.to_string()).into()))
}
