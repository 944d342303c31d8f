//! A client of the text protocol, for the command line and for tests. It blocks.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::control::unhex;
use crate::text::CONTEXT_BYTES_MAX;

/// A node that is silent for so long is gone.
const SILENCE: Duration = Duration::from_mins(2);
/// The pieces in which values are read and written.
const PIECE_BYTES: usize = 128 << 10;
/// The longest word or number of a reply.
const SECTION_BYTES_MAX: usize = 64;
/// The longest line of a reply; the original's failures may be long.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("cannot reach a node at {address}: {source}")]
    Unreachable {
        /// Where.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the node is gone, or ended the connection: {0}")]
    Broken(io::Error),
    /// The node answered `fail`; this is its reason.
    #[error("{0}")]
    Refused(String),
    /// The node answered that bytes on its disk are not what was put.
    #[error("{0}")]
    Damaged(String),
    /// The answer is none of the protocol.
    #[error("what answers is no Dynomite node: {0}")]
    Strange(String),
    /// The value's source, or where it should go, failed. The connection has lost step.
    #[error("{0}")]
    Local(io::Error),
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Broken(match error.kind() {
            // What the system's word for it leaves out is where.
            io::ErrorKind::UnexpectedEof => {
                io::Error::new(error.kind(), "its answer did not come to an end")
            }
            _ => error,
        })
    }
}

/// What a get found, its values having been handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    /// For a later put.
    pub context: Vec<u8>,
    /// The length of each value.
    pub lengths: Vec<u64>,
}

/// What a node vouches for of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// The hash of each value; none of an absent key.
    Hashes(Vec<[u8; 32]>),
    /// Bytes that it knows to be damaged: why.
    Damaged(String),
}

/// A stretch of a value that is coming in.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// How many values there are.
    pub values: usize,
    /// Which of them this is, from 0.
    pub index: usize,
    /// Its next bytes.
    pub bytes: &'a [u8],
}

/// A connection to a node.
pub struct TextClient {
    stream: BufReader<TcpStream>,
}

impl TextClient {
    /// Connects to a node, given as `host:port`.
    pub fn connect(address: &str) -> Result<Self, ClientError> {
        let connect = || {
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for address in address.to_socket_addrs()? {
                match TcpStream::connect_timeout(&address, Duration::from_secs(10)) {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        let stream = connect().map_err(|source| ClientError::Unreachable {
            address: address.to_owned(),
            source,
        })?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        Ok(Self {
            stream: BufReader::with_capacity(PIECE_BYTES, stream),
        })
    }

    /// The values of a key, handed to `each` as they come; `None` when it is absent.
    pub fn get(
        &mut self,
        key: &[u8],
        each: &mut dyn FnMut(Piece<'_>) -> io::Result<()>,
    ) -> Result<Option<Got>, ClientError> {
        self.send("get", key)?;
        match self.section()?.as_str() {
            "succ" => {}
            "not_found" => return Ok(None),
            word => return Err(self.failure(word)),
        }
        let (values, length) = (self.number()?, self.number()?);
        if length > CONTEXT_BYTES_MAX as u64 {
            return Err(strange("its context is too long"));
        }
        let mut context = vec![0; usize::try_from(length).unwrap_or(0)];
        self.stream.read_exact(&mut context)?;
        let values = usize::try_from(values).unwrap_or(usize::MAX);
        let mut lengths = Vec::new();
        for index in 0..values {
            self.expect(b' ')?;
            let length = self.number()?;
            let mut left = length;
            while left > 0 {
                let held = self.stream.fill_buf()?;
                if held.is_empty() {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                let taken = held.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let bytes = &held[..taken];
                each(Piece {
                    values,
                    index,
                    bytes,
                })
                .map_err(ClientError::Local)?;
                self.stream.consume(taken);
                left -= taken as u64;
            }
            lengths.push(length);
        }
        self.expect(b'\n')?;
        Ok(Some(Got { context, lengths }))
    }

    /// Puts the `length` bytes that `value` gives. After [`ClientError::Local`] the connection is
    /// of no more use.
    pub fn put(
        &mut self,
        key: &[u8],
        context: &[u8],
        length: u64,
        value: &mut dyn Read,
    ) -> Result<u64, ClientError> {
        let mut out = format!("put {} ", key.len()).into_bytes();
        out.extend_from_slice(key);
        out.extend_from_slice(format!(" {} ", context.len()).as_bytes());
        out.extend_from_slice(context);
        out.extend_from_slice(format!(" {length} ").as_bytes());
        let mut left = length;
        while left > 0 {
            let start = out.len();
            let piece = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            out.resize(start + piece, 0);
            value
                .read_exact(&mut out[start..])
                .map_err(ClientError::Local)?;
            left -= piece as u64;
            if left > 0 {
                if let Err(error) = self.stream.get_mut().write_all(&out) {
                    return Err(self.why_broken(error));
                }
                out.clear();
            }
        }
        out.push(b'\n');
        if let Err(error) = self.stream.get_mut().write_all(&out) {
            return Err(self.why_broken(error));
        }
        self.succeeded()
    }

    /// Whether a key is there.
    pub fn has(&mut self, key: &[u8]) -> Result<bool, ClientError> {
        self.send("has", key)?;
        let there = match self.section()?.as_str() {
            "yes" => true,
            "no" => false,
            word => return Err(self.failure(word)),
        };
        self.number()?;
        Ok(there)
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: &[u8]) -> Result<u64, ClientError> {
        self.send("del", key)?;
        self.succeeded()
    }

    /// The hashes of the values of each key: one trip for all. With `read` the node reads the values
    /// before it answers; else it gives the hashes that it has kept.
    pub fn hashes(&mut self, keys: &[&[u8]], read: bool) -> Result<Vec<Held>, ClientError> {
        let verb = if read { "check" } else { "hash" };
        let mut out = Vec::new();
        for key in keys {
            command(&mut out, verb, key);
        }
        self.stream.get_mut().write_all(&out)?;
        keys.iter()
            .map(|_| match self.hashes_of_one() {
                Ok(hashes) => Ok(Held::Hashes(hashes)),
                Err(ClientError::Damaged(reason)) => Ok(Held::Damaged(reason)),
                Err(error) => Err(error),
            })
            .collect()
    }

    fn hashes_of_one(&mut self) -> Result<Vec<[u8; 32]>, ClientError> {
        match self.section()?.as_str() {
            "succ" => {}
            "not_found" => return Ok(Vec::new()),
            word => return Err(self.failure(word)),
        }
        let values = self.number()?;
        let mut hashes = Vec::new();
        for _ in 0..values {
            let digits = self.section()?;
            let hash = unhex(&digits).and_then(|bytes| bytes.try_into().ok());
            hashes.push(hash.ok_or_else(|| strange(&digits))?);
        }
        Ok(hashes)
    }

    fn send(&mut self, verb: &str, key: &[u8]) -> Result<(), ClientError> {
        let mut out = Vec::new();
        command(&mut out, verb, key);
        Ok(self.stream.get_mut().write_all(&out)?)
    }

    fn succeeded(&mut self) -> Result<u64, ClientError> {
        match self.section()?.as_str() {
            "succ" => self.number(),
            word => Err(self.failure(word)),
        }
    }

    /// A node that refuses a put may do so before the value has come: its reason is read first.
    fn why_broken(&mut self, error: io::Error) -> ClientError {
        match self.section() {
            Ok(word) => self.failure(&word),
            Err(_) => error.into(),
        }
    }

    /// What a reply that begins with `word` means where none of the good ones came.
    fn failure(&mut self, word: &str) -> ClientError {
        if word != "fail" {
            return strange(word);
        }
        let mut reason = Vec::new();
        let mut line = self.stream.by_ref().take(LINE_BYTES_MAX);
        match line.read_until(b'\n', &mut reason) {
            Ok(_) => {
                let reason = String::from_utf8_lossy(&reason).trim_end().to_owned();
                if reason.starts_with("damaged") {
                    ClientError::Damaged(reason)
                } else {
                    ClientError::Refused(reason)
                }
            }
            Err(error) => error.into(),
        }
    }

    /// A word or a number up to a space or a line feed.
    fn section(&mut self) -> Result<String, ClientError> {
        let mut section = Vec::new();
        loop {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            if byte == *b" " || byte == *b"\n" {
                return String::from_utf8(section).map_err(|error| strange(&error.to_string()));
            }
            section.extend_from_slice(&byte);
            if section.len() > SECTION_BYTES_MAX {
                return Err(strange(&section.escape_ascii().to_string()));
            }
        }
    }

    fn number(&mut self) -> Result<u64, ClientError> {
        let section = self.section()?;
        section.parse().map_err(|_| strange(&section))
    }

    fn expect(&mut self, byte: u8) -> Result<(), ClientError> {
        let mut read = [0];
        self.stream.read_exact(&mut read)?;
        if read == [byte] {
            Ok(())
        } else {
            Err(strange("its values are out of step"))
        }
    }
}

fn command(out: &mut Vec<u8>, verb: &str, key: &[u8]) {
    out.extend_from_slice(format!("{verb} {} ", key.len()).as_bytes());
    out.extend_from_slice(key);
    out.push(b'\n');
}

fn strange(answer: &str) -> ClientError {
    ClientError::Strange(answer.to_owned())
}
