//! The toy's bytes.

use super::SECTOR;
use crate::image::index;
use crate::model::{Change, Contents};

pub const HEADER_BYTES: u64 = 48;
const HEADER_MAGIC: u32 = 0x544f_5948;
const RECORD_MAGIC: u32 = 0x544f_5952;
const RECORD_HEADER: usize = 48;

/// Names a snapshot and the log that goes with it.
#[derive(Debug, Clone, Default)]
pub struct Header {
    pub generation: u64,
    pub epoch: u64,
    pub area: u64,
    pub length: u64,
    pub checksum: u32,
}

/// A record of the log, verified.
#[derive(Debug)]
pub struct Record {
    pub epoch: u64,
    pub sequence: u64,
    pub durable: u64,
    pub generation: u64,
    /// Bytes of the whole record.
    pub length: u64,
    pub changes: Vec<(Change, Value)>,
}

/// Where the value of a put is.
#[derive(Debug, Clone)]
pub enum Value {
    Inline,
    Large { at: u64, length: u64, checksum: u32 },
}

struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }

    fn run(&mut self) -> Option<Vec<u8>> {
        let length = index(self.u64()?);
        Some(self.bytes(length)?.to_vec())
    }
}

fn put_run(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

impl Header {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 8];
        for field in [self.generation, self.epoch, self.area, self.length] {
            out.extend(field.to_le_bytes());
        }
        out.extend(self.checksum.to_le_bytes());
        out.extend(HEADER_MAGIC.to_le_bytes());
        let checksum = crc32c::crc32c(&out[8..]);
        out[..4].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut take = Take(bytes);
        let checksum = take.u64()?;
        if u64::from(crc32c::crc32c(take.0)) != checksum {
            return None;
        }
        let header = Self {
            generation: take.u64()?,
            epoch: take.u64()?,
            area: take.u64()?,
            length: take.u64()?,
            checksum: take.u32()?,
        };
        (take.u32()? == HEADER_MAGIC && header.area < 2).then_some(header)
    }
}

impl Record {
    pub fn encode(
        header: &Header,
        sequence: u64,
        durable: u64,
        changes: &[Change],
        values: &[u64],
    ) -> Vec<u8> {
        let mut values = values.iter();
        let mut out = vec![0; RECORD_HEADER];
        for change in changes {
            match change {
                Change::Put { tree, key, value } if value.len() > 256 => {
                    out.push(1);
                    put_run(&mut out, tree);
                    put_run(&mut out, key);
                    let at = values.next().expect("one place for each large value");
                    out.extend(at.to_le_bytes());
                    out.extend((value.len() as u64).to_le_bytes());
                    out.extend(crc32c::crc32c(value).to_le_bytes());
                }
                Change::Put { tree, key, value } => {
                    out.push(0);
                    put_run(&mut out, tree);
                    put_run(&mut out, key);
                    put_run(&mut out, value);
                }
                Change::Delete { tree, key } => {
                    out.push(2);
                    put_run(&mut out, tree);
                    put_run(&mut out, key);
                }
                Change::CreateTree(tree) => {
                    out.push(3);
                    put_run(&mut out, tree);
                }
                Change::DropTree(tree) => {
                    out.push(4);
                    put_run(&mut out, tree);
                }
            }
        }
        let length = out.len() as u64;
        out[4..8].copy_from_slice(&RECORD_MAGIC.to_le_bytes());
        for (at, field) in [header.epoch, sequence, durable, header.generation, length]
            .into_iter()
            .enumerate()
        {
            out[8 + at * 8..16 + at * 8].copy_from_slice(&field.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&out[4..]);
        out[..4].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// The record at the head of `bytes`, if there is a good one. `verify` and `trust` are where
    /// two of the planted bugs are.
    pub fn decode(bytes: &[u8], verify: bool, trust: bool) -> Option<Self> {
        let mut take = Take(bytes);
        let checksum = take.u32()?;
        if take.u32()? != RECORD_MAGIC {
            return None;
        }
        let [epoch, sequence, durable, generation, length] = [
            take.u64()?,
            take.u64()?,
            take.u64()?,
            take.u64()?,
            take.u64()?,
        ];
        if !trust && !(RECORD_HEADER as u64..=bytes.len() as u64).contains(&length) {
            return None;
        }
        let whole = &bytes[..index(length)];
        if verify && crc32c::crc32c(&whole[4..]) != checksum {
            return None;
        }
        let mut changes = Vec::new();
        let mut take = Take(&whole[RECORD_HEADER..]);
        while !take.0.is_empty() {
            changes.push(decode_change(&mut take)?);
        }
        Some(Self {
            epoch,
            sequence,
            durable,
            generation,
            length: length.max(SECTOR),
            changes,
        })
    }
}

fn decode_change(take: &mut Take<'_>) -> Option<(Change, Value)> {
    let kind = take.bytes(1)?[0];
    let tree = take.run()?;
    let inline = |change| Some((change, Value::Inline));
    match kind {
        0 => {
            let (key, value) = (take.run()?, take.run()?);
            inline(Change::Put { tree, key, value })
        }
        1 => {
            let key = take.run()?;
            let (at, length, checksum) = (take.u64()?, take.u64()?, take.u32()?);
            let value = Vec::new();
            Some((
                Change::Put { tree, key, value },
                Value::Large {
                    at,
                    length,
                    checksum,
                },
            ))
        }
        2 => {
            let key = take.run()?;
            inline(Change::Delete { tree, key })
        }
        3 => inline(Change::CreateTree(tree)),
        4 => inline(Change::DropTree(tree)),
        _ => None,
    }
}

/// Does one change, as the model does.
pub fn apply(contents: &mut Contents, change: Change) {
    match change {
        Change::Put { tree, key, value } => {
            if let Some(tree) = contents.get_mut(&tree) {
                tree.insert(key, value);
            }
        }
        Change::Delete { tree, key } => {
            if let Some(tree) = contents.get_mut(&tree) {
                tree.remove(&key);
            }
        }
        Change::CreateTree(tree) => {
            contents.entry(tree).or_default();
        }
        Change::DropTree(tree) => {
            contents.remove(&tree);
        }
    }
}

pub fn encode_contents(contents: &Contents) -> Vec<u8> {
    let mut out = Vec::new();
    for (tree, entries) in contents {
        put_run(&mut out, tree);
        out.extend((entries.len() as u64).to_le_bytes());
        for (key, value) in entries {
            put_run(&mut out, key);
            put_run(&mut out, value);
        }
    }
    out
}

/// The contents of a snapshot whose checksum was right.
pub fn decode_contents(bytes: &[u8]) -> Contents {
    let mut take = Take(bytes);
    let mut contents = Contents::new();
    while !take.0.is_empty() {
        let whole = "the checksum was right";
        let tree = take.run().expect(whole);
        let count = take.u64().expect(whole);
        let entries = (0..count)
            .map(|_| (take.run().expect(whole), take.run().expect(whole)))
            .collect();
        contents.insert(tree, entries);
    }
    contents
}
