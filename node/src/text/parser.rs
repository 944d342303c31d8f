//! Reads commands from whatever bytes have come, and hands values on as they come.

use super::{CONTEXT_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// The longest words: `close` and `check`.
const WORD_BYTES_MAX: usize = 5;
/// Digits enough for any length that is allowed, and leading zeros within reason.
const LENGTH_DIGITS_MAX: usize = 20;

/// A command that has come whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Give the values of a key.
    Get(Vec<u8>),
    /// Say whether a key is there.
    Has(Vec<u8>),
    /// Delete a key.
    Del(Vec<u8>),
    /// Give the hash of each value of a key.
    Hash(Vec<u8>),
    /// The same, once the disk has given each value whole.
    Check(Vec<u8>),
    /// End the connection.
    Close,
}

/// What the bytes said next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole command.
    Command(Command),
    /// A put begins: `length` bytes of value follow as [`Event::Data`], then [`Event::PutEnd`].
    Put {
        /// The key.
        key: Vec<u8>,
        /// The context as the client gave it; empty means overwrite.
        context: Vec<u8>,
        /// Bytes of the value.
        length: u64,
    },
    /// The next bytes of the value, never empty.
    Data(&'a [u8]),
    /// The value is complete, and the byte behind it has come.
    PutEnd,
}

/// Why the bytes are no command. The connection has lost step and must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No such verb.
    #[error("unknown command {}: use get, put, has, del, hash, check or close", printable(.0))]
    Word(Vec<u8>),
    /// Not a decimal length.
    #[error("the length of the {field} is not a number: {}", printable(.digits))]
    Length {
        /// Which length.
        field: &'static str,
        /// What stood there, in part.
        digits: Vec<u8>,
    },
    /// A length that no number of ours holds.
    #[error("the length of the {field} is too large: {}, and {limit} bytes are allowed", printable(.digits))]
    TooLarge {
        /// Of what.
        field: &'static str,
        /// Its digits, in part.
        digits: Vec<u8>,
        /// The limit.
        limit: u64,
    },
    /// A length over its limit.
    #[error("the {field} has {length} bytes, and {limit} are allowed")]
    TooLong {
        /// Of what.
        field: &'static str,
        /// The length that was announced.
        length: u64,
        /// The limit.
        limit: u64,
    },
}

/// Bytes as a `fail` line may show them: quoted, escaped, without a line feed.
fn printable(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Put,
    Has,
    Del,
    Hash,
    Check,
}

impl Verb {
    fn of_word(word: &[u8]) -> Option<Self> {
        Some(match word {
            b"get" => Self::Get,
            b"put" => Self::Put,
            b"has" => Self::Has,
            b"del" => Self::Del,
            b"hash" => Self::Hash,
            b"check" => Self::Check,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Collecting a word; an empty one is passed over.
    Word,
    KeyLength(Verb),
    Key(Verb, usize),
    KeyEnd(Verb),
    ContextLength,
    Context(usize),
    ContextEnd,
    ValueLength,
    Value(u64),
    ValueEnd,
    /// After a malformed command or `close`.
    Over,
}

/// The parser of one connection.
#[derive(Debug)]
pub struct Parser {
    state: State,
    /// The word or the digits that have come so far.
    section: Vec<u8>,
    key: Vec<u8>,
    context: Vec<u8>,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// A parser before its first command.
    pub fn new() -> Self {
        Self {
            state: State::Word,
            section: Vec::new(),
            key: Vec::new(),
            context: Vec::new(),
        }
    }

    /// Whether a command has begun and not ended: a connection may rest only in between.
    pub fn in_command(&self) -> bool {
        match self.state {
            State::Word => !self.section.is_empty(),
            State::Over => false,
            _ => true,
        }
    }

    /// Bytes that wait for the rest of their command.
    #[doc(hidden)]
    pub fn held_bytes(&self) -> usize {
        self.section.capacity() + self.key.capacity() + self.context.capacity()
    }

    /// Takes the next event off the front of `input`; `None` when the bytes do not suffice, and
    /// then they are all taken.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Malformed> {
        let result = self.step(input);
        if result.is_err() {
            self.state = State::Over;
        }
        result
    }

    fn step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Malformed> {
        while !input.is_empty() {
            match self.state {
                State::Word => {
                    if let Some(event) = self.word(input)? {
                        return Ok(Some(event));
                    }
                }
                State::KeyLength(verb) => {
                    if let Some(length) = self.length(input, "key", KEY_BYTES_MAX as u64)? {
                        self.key = Vec::new();
                        self.state = State::Key(verb, to_usize(length));
                        // An empty key has no byte that would wake its state.
                        if length == 0 {
                            self.state = State::KeyEnd(verb);
                        }
                    }
                }
                State::Key(verb, length) => {
                    if fill(&mut self.key, length, input) {
                        self.state = State::KeyEnd(verb);
                    }
                }
                State::KeyEnd(verb) => {
                    skip_one(input);
                    if let Some(command) = self.key_end(verb) {
                        return Ok(Some(Event::Command(command)));
                    }
                }
                State::ContextLength => {
                    let limit = CONTEXT_BYTES_MAX as u64;
                    if let Some(length) = self.length(input, "context", limit)? {
                        self.context = Vec::new();
                        self.state = match to_usize(length) {
                            0 => State::ContextEnd,
                            length => State::Context(length),
                        };
                    }
                }
                State::Context(length) => {
                    if fill(&mut self.context, length, input) {
                        self.state = State::ContextEnd;
                    }
                }
                State::ContextEnd => {
                    skip_one(input);
                    self.state = State::ValueLength;
                }
                State::ValueLength => {
                    if let Some(length) = self.length(input, "value", VALUE_BYTES_MAX)? {
                        self.state = match length {
                            0 => State::ValueEnd,
                            length => State::Value(length),
                        };
                        return Ok(Some(Event::Put {
                            key: std::mem::take(&mut self.key),
                            context: std::mem::take(&mut self.context),
                            length,
                        }));
                    }
                }
                State::Value(left) => return Ok(Some(self.value(left, input))),
                State::ValueEnd => {
                    skip_one(input);
                    self.state = State::Word;
                    return Ok(Some(Event::PutEnd));
                }
                State::Over => *input = &[],
            }
        }
        Ok(None)
    }

    fn word<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Malformed> {
        if !self.section(input, WORD_BYTES_MAX) {
            if self.section.len() > WORD_BYTES_MAX {
                return Err(Malformed::Word(std::mem::take(&mut self.section)));
            }
            return Ok(None);
        }
        let word = std::mem::take(&mut self.section);
        if word.is_empty() {
            return Ok(None);
        }
        if word == b"close" {
            self.state = State::Over;
            return Ok(Some(Event::Command(Command::Close)));
        }
        let verb = Verb::of_word(&word).ok_or(Malformed::Word(word))?;
        self.state = State::KeyLength(verb);
        Ok(None)
    }

    fn key_end(&mut self, verb: Verb) -> Option<Command> {
        let command = match verb {
            Verb::Put => {
                self.state = State::ContextLength;
                return None;
            }
            Verb::Get => Command::Get,
            Verb::Has => Command::Has,
            Verb::Del => Command::Del,
            Verb::Hash => Command::Hash,
            Verb::Check => Command::Check,
        };
        self.state = State::Word;
        Some(command(std::mem::take(&mut self.key)))
    }

    fn value<'a>(&mut self, left: u64, input: &mut &'a [u8]) -> Event<'a> {
        let taken = input.len().min(to_usize(left));
        let (data, rest) = input.split_at(taken);
        *input = rest;
        self.state = match left - taken as u64 {
            0 => State::ValueEnd,
            left => State::Value(left),
        };
        Event::Data(data)
    }

    /// Reads a length section to its end.
    fn length(
        &mut self,
        input: &mut &[u8],
        field: &'static str,
        limit: u64,
    ) -> Result<Option<u64>, Malformed> {
        let ended = self.section(input, LENGTH_DIGITS_MAX);
        if !ended && self.section.len() <= LENGTH_DIGITS_MAX {
            return Ok(None);
        }
        let digits = std::mem::take(&mut self.section);
        let all_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let zeros = digits.iter().all(|digit| *digit == b'0');
        if !all_digits || (!ended && zeros) {
            return Err(Malformed::Length { field, digits });
        }
        let length = digits.iter().try_fold(0u64, |length, digit| {
            length.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
        });
        let Some(length) = length.filter(|_| ended) else {
            return Err(Malformed::TooLarge {
                field,
                digits,
                limit,
            });
        };
        if length > limit {
            return Err(Malformed::TooLong {
                field,
                length,
                limit,
            });
        }
        Ok(Some(length))
    }

    /// Collects a section; true when its separator came. At most one byte over `max` is kept.
    fn section(&mut self, input: &mut &[u8], max: usize) -> bool {
        while let Some((&byte, rest)) = input.split_first() {
            *input = rest;
            if byte == b' ' || byte == b'\n' {
                return true;
            }
            self.section.push(byte);
            if self.section.len() > max {
                return false;
            }
        }
        false
    }
}

/// Moves bytes from `input` to `into` until it holds `length`; true when it does.
fn fill(into: &mut Vec<u8>, length: usize, input: &mut &[u8]) -> bool {
    let taken = input.len().min(length - into.len());
    let (data, rest) = input.split_at(taken);
    into.extend_from_slice(data);
    *input = rest;
    into.len() == length
}

/// The terminator of a datum is consumed and not checked: clients send a space, a line feed, or
/// the carriage return of a terminal.
fn skip_one(input: &mut &[u8]) {
    *input = input.split_first().map_or(&[], |(_, rest)| rest);
}

fn to_usize(length: u64) -> usize {
    usize::try_from(length).expect("lengths are checked against limits far under 2^32")
}

#[cfg(test)]
#[path = "parser/tests.rs"]
mod tests;
