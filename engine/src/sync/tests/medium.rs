//! A disk whose medium holds what a flush brought down, and nothing else.
//!
//! A write and a flush take time: other threads run in the middle of them. A flush covers the
//! writes that had returned when it was called, as fdatasync does.

use crate::io::Disk;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Mutex;

pub(super) struct Medium {
    /// Never held across a point of the schedule.
    state: Mutex<State>,
    /// Whether other threads run in the middle of a call.
    scheduled: bool,
    point: AtomicBool,
    /// The bytes of the log ring.
    ring: Range<u64>,
}

#[derive(Default)]
struct State {
    /// What a read gives.
    now: Vec<u8>,
    /// What a power cut leaves.
    durable: Vec<u8>,
    /// Writes between the two, in order.
    pending: VecDeque<(usize, Vec<u8>)>,
    /// How many writes were brought down.
    flushed: usize,
    /// Somebody writes to the log.
    logging: bool,
    /// The next flushes fail.
    broken: bool,
    /// The next writes beside the log fail.
    broken_beside: bool,
}

impl Medium {
    pub(super) fn new(image: Vec<u8>, ring: Range<u64>, scheduled: bool) -> Self {
        Self {
            state: Mutex::new(State {
                durable: image.clone(),
                now: image,
                ..State::default()
            }),
            scheduled,
            point: AtomicBool::new(false),
            ring,
        }
    }

    fn meet(&self) {
        if self.scheduled {
            self.point.load(Ordering::SeqCst);
        }
    }

    /// What a power cut leaves now.
    pub(super) fn durable(&self) -> Vec<u8> {
        self.state.lock().unwrap().durable.clone()
    }

    /// Lets every flush from now on fail.
    pub(super) fn break_flushes(&self) {
        self.state.lock().unwrap().broken = true;
    }

    /// Lets every write beside the log fail from now on: those of a checkpoint.
    pub(super) fn break_writes_beside_the_log(&self) {
        self.state.lock().unwrap().broken_beside = true;
    }
}

impl Disk for Medium {
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.meet();
        let state = self.state.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        let bytes = state.now.get(start..start + buf.len());
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let of_log = self.ring.contains(&offset);
        if of_log {
            let before = std::mem::replace(&mut self.state.lock().unwrap().logging, true);
            assert!(!before, "two leaders write the log at a time");
        }
        self.meet();
        if !of_log && self.state.lock().unwrap().broken_beside {
            return Err(io::Error::other("the medium takes no more"));
        }
        self.allocate(offset, buf.len() as u64)?;
        let start = usize::try_from(offset).unwrap();
        let mut state = self.state.lock().unwrap();
        state.now[start..start + buf.len()].copy_from_slice(buf);
        state.pending.push_back((start, buf.to_vec()));
        if of_log {
            state.logging = false;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let covered = {
            let state = self.state.lock().unwrap();
            state.flushed + state.pending.len()
        };
        self.meet();
        let mut state = self.state.lock().unwrap();
        if state.broken {
            return Err(io::Error::other("the medium is gone"));
        }
        while state.flushed < covered {
            let (start, bytes) = state.pending.pop_front().unwrap();
            state.durable[start..start + bytes.len()].copy_from_slice(&bytes);
            state.flushed += 1;
        }
        drop(state);
        self.meet();
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap().now.len() as u64)
    }

    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let end = usize::try_from(offset + bytes).unwrap();
        let mut state = self.state.lock().unwrap();
        let size = state.now.len().max(end);
        state.now.resize(size, 0);
        state.durable.resize(size, 0);
        Ok(())
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.write(offset, &vec![0; usize::try_from(bytes).unwrap()])
    }

    fn alignment(&self) -> usize {
        512
    }

    fn is_direct(&self) -> bool {
        true
    }
}
