//! One thread and its ring.
//!
//! The thread takes requests from the pool's queue into the slots of its ring, sleeps in the
//! kernel until something completes or somebody wakes it, and tells.
//!
//! Invariants:
//! - While the kernel may touch a buffer, its flight stands in a slot; if the ring fails, buffers
//!   under way are leaked, because nobody can say when the kernel lets go of them.
//! - There are never more flights than slots, so neither of the ring's queues overflows.
//! - The thread ends only with no flight and no wake call under way.
//! - Whatever is not plain sailing (a short transfer, a misaligned read, a ring that fails) goes on
//!   by the disk's own calls, which know the rules.

use super::aligned::AlignedBuf;
use super::disk::Disk;
use super::pool::{Done, Op, Request, Shared};
use super::sys;
use crossbeam_channel::{Receiver, TryRecvError};
use io_uring::types::{Fd, Fixed, FsyncFlags};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread;

/// How a ring is opened for so many requests at once on this descriptor.
pub(super) type OpenRing = fn(RawFd, usize) -> io::Result<IoUring>;

/// The registered descriptor.
const FILE: Fixed = Fixed(0);

/// What the completion of the wake call carries; requests carry their slot.
const WAKE: u64 = u64::MAX;

/// The most bytes that one call moves; the kernel's limit is a page under 2 GiB.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

/// How often the kernel may say "again" before plain calls take over.
const AGAIN_MAX: u32 = 64;

/// The most requests at once that a ring is opened for: the kernel takes 32,768 entries.
const DEPTH_MAX: usize = 4096;

/// How a thread that sleeps in its ring is woken for a new request.
///
/// The thread says that it sleeps, then looks at the queue once more, then sleeps; a submitter
/// fills the queue, then looks whether the thread sleeps. With a fence between the two steps on both
/// sides, one of them sees the other.
pub(super) struct Sleeper {
    asleep: AtomicBool,
    event: File,
}

impl Sleeper {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            asleep: AtomicBool::new(false),
            event: sys::event()?,
        })
    }

    /// Whether it sleeps; true for one caller only, who must wake it.
    pub(super) fn take(&self) -> bool {
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::SeqCst)
    }

    /// Completes the wake call.
    pub(super) fn wake(&self) {
        // Adds one, for the kernel in the machine's order, which is little-endian where we run.
        // Fails only when 2^64 wakes were not read.
        let _ = (&self.event).write(&1u64.to_le_bytes());
    }
}

/// Opens a ring, registers the descriptor and lets one empty call go round: some sandboxes let a
/// ring be made and then refuse to enter it.
pub(super) fn open(fd: RawFd, depth: usize) -> io::Result<IoUring> {
    // One entry more for the wake call.
    let entries = (depth.clamp(1, DEPTH_MAX) + 1).next_power_of_two();
    let entries = u32::try_from(entries).map_err(io::Error::other)?;
    let mut ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(entries)?;
    ring.submitter().register_files(&[fd])?;
    let nop = opcode::Nop::new().build();
    // SAFETY: a nop names no memory.
    unsafe { ring.submission().push(&nop) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let answer: Option<cqueue::Entry> = ring.completion().next();
    match answer.map(|entry| entry.result()) {
        Some(0) => Ok(ring),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::Error::other("the ring lost a call")),
    }
}

/// Serves the queue until it ends.
pub(super) fn run(
    ring: IoUring,
    depth: usize,
    shared: &Shared,
    queue: &Receiver<Request>,
    sleeper: &Sleeper,
) {
    let mut flights = Flights::new(ring, depth.clamp(1, DEPTH_MAX), shared);
    if let Err(error) = flights.serve(queue, sleeper) {
        flights.give_up(&error);
        queue.iter().for_each(|request| shared.serve(request));
    }
}

/// The requests in a ring.
struct Flights<'a> {
    ring: IoUring,
    shared: &'a Shared,
    disk: &'a dyn Disk,
    slots: Vec<Option<Flight>>,
    free: Vec<usize>,
    /// What the kernel reads the event into, and whether it is about to.
    wake_bytes: AlignedBuf,
    wake_armed: bool,
    /// Completions taken from the ring, before they are looked at.
    completed: Vec<(u64, i32)>,
}

/// A request that the kernel has, or is about to be given.
struct Flight {
    kind: Kind,
    offset: u64,
    buf: AlignedBuf,
    done: Done,
    /// How often it was told "again".
    again: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
}

impl<'a> Flights<'a> {
    fn new(ring: IoUring, depth: usize, shared: &'a Shared) -> Self {
        Self {
            ring,
            shared,
            disk: &*shared.disk,
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            wake_bytes: AlignedBuf::zeroed(size_of::<u64>()),
            wake_armed: false,
            completed: Vec::with_capacity(depth + 1),
        }
    }

    /// Ends with `Ok` when the queue has ended and all is done, with `Err` when the ring fails.
    fn serve(&mut self, queue: &Receiver<Request>, sleeper: &Sleeper) -> io::Result<()> {
        let mut ended = false;
        loop {
            while !self.free.is_empty() && !ended {
                match queue.try_recv() {
                    Ok(request) => self.start(request),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        ended = true;
                        // The call that told of the end may have been taken for another.
                        sleeper.wake();
                    }
                }
            }
            if ended && !self.wake_armed && self.free.len() == self.slots.len() {
                return Ok(());
            }
            if !ended && !self.wake_armed {
                self.arm_wake(&sleeper.event);
            }
            let mut want = 1;
            // With all slots taken only a completion helps.
            if !ended && !self.free.is_empty() {
                sleeper.asleep.store(true, Ordering::SeqCst);
                fence(Ordering::SeqCst);
                if !queue.is_empty() {
                    want = 0;
                }
            }
            let entered = self.enter(want);
            sleeper.asleep.store(false, Ordering::SeqCst);
            entered?;
            self.complete();
        }
    }

    /// Gives the kernel what is new and waits for so many completions.
    fn enter(&mut self, want: usize) -> io::Result<()> {
        match self.ring.submit_and_wait(want) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => Ok(()),
                // Short of memory for the moment, or of room for completions that we now take.
                Some(libc::EAGAIN | libc::EBUSY) => {
                    thread::yield_now();
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    /// Puts a request into a free slot.
    fn start(&mut self, request: Request) {
        let Request { op, done } = request;
        let (kind, offset, buf) = match op {
            Op::Read { offset, len } if len > 0 && self.is_multiple(offset, len) => {
                (Kind::Read, offset, AlignedBuf::zeroed(len))
            }
            Op::Write { offset, buf } if !buf.is_empty() => (Kind::Write, offset, buf),
            Op::Flush => (Kind::Flush, 0, AlignedBuf::default()),
            op => return self.shared.serve(Request { op, done }),
        };
        let slot = self.free.pop().expect("the caller saw a free slot");
        let again = 0;
        self.slots[slot] = Some(Flight {
            kind,
            offset,
            buf,
            done,
            again,
        });
        self.push(slot);
    }

    fn is_multiple(&self, offset: u64, len: usize) -> bool {
        let alignment = self.disk.alignment();
        offset.is_multiple_of(alignment as u64) && len.is_multiple_of(alignment)
    }

    /// Queues the call of a slot's flight.
    fn push(&mut self, slot: usize) {
        let flight = self.slots[slot].as_mut().expect("the slot was just filled");
        let len = flight.buf.len().min(TRANSFER_BYTES_MAX);
        let len = u32::try_from(len).expect("a gibibyte fits");
        let call = match flight.kind {
            Kind::Read => opcode::Read::new(FILE, flight.buf.as_mut_ptr(), len)
                .offset(flight.offset)
                .build(),
            Kind::Write => opcode::Write::new(FILE, flight.buf.as_ptr(), len)
                .offset(flight.offset)
                .build(),
            Kind::Flush => opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build(),
        };
        self.queue_call(&call.user_data(slot as u64));
    }

    /// Asks to be told when someone wakes us.
    fn arm_wake(&mut self, event: &File) {
        let bytes = self.wake_bytes.as_mut_ptr();
        let call = opcode::Read::new(Fd(event.as_raw_fd()), bytes, 8).build();
        self.wake_armed = true;
        self.queue_call(&call.user_data(WAKE));
    }

    fn queue_call(&mut self, call: &squeue::Entry) {
        // SAFETY: the call's buffer belongs to a slot or is `wake_bytes`; neither is touched, moved
        // or freed before its completion was seen: `land` alone empties slots, and what is left
        // when the ring goes is leaked. The event outlives the ring, as the pool's thread holds it.
        let pushed = unsafe { self.ring.submission().push(call) };
        pushed.expect("the ring has an entry for every slot and the wake call");
    }

    /// Tells of all that has completed.
    fn complete(&mut self) {
        let mut completed = mem::take(&mut self.completed);
        let entries = self.ring.completion();
        completed.extend(entries.map(|entry| (entry.user_data(), entry.result())));
        for (user_data, result) in completed.drain(..) {
            if user_data == WAKE {
                self.wake_armed = false;
            } else {
                let slot = usize::try_from(user_data).expect("what we queued was a slot");
                self.land(slot, result);
            }
        }
        self.completed = completed;
    }

    /// Decides what the kernel's answer means for the flight in a slot.
    fn land(&mut self, slot: usize, result: i32) {
        let flight = self.slots[slot].as_mut().expect("only flights complete");
        let verdict = judge(result, flight.buf.len(), self.disk.alignment());
        if verdict == Verdict::Again && flight.again < AGAIN_MAX {
            flight.again += 1;
            return self.push(slot);
        }
        let Some(mut flight) = self.slots[slot].take() else {
            return;
        };
        self.free.push(slot);
        let result = match verdict {
            Verdict::All => Ok(flight.buf),
            Verdict::Failed(error) => Err(io::Error::from_raw_os_error(error)),
            Verdict::Again => self.go_on(&mut flight, 0).map(|()| flight.buf),
            Verdict::Part(bytes) => self.go_on(&mut flight, bytes).map(|()| flight.buf),
        };
        self.shared.finish(flight.done, result);
    }

    /// Does by plain calls what is left of a flight behind its first `from` bytes.
    fn go_on(&self, flight: &mut Flight, from: usize) -> io::Result<()> {
        let offset = flight.offset + from as u64;
        match flight.kind {
            Kind::Read => self.disk.read(offset, &mut flight.buf[from..]),
            Kind::Write => self.disk.write(offset, &flight.buf[from..]),
            Kind::Flush => self.disk.flush(),
        }
    }

    /// Fails what is under way.
    fn give_up(&mut self, error: &io::Error) {
        for slot in &mut self.slots {
            if let Some(flight) = slot.take() {
                mem::forget(flight.buf);
                let lost = io::Error::new(error.kind(), format!("the ring failed: {error}"));
                self.shared.finish(flight.done, Err(lost));
            }
        }
    }
}

impl Drop for Flights<'_> {
    /// Leaks what the kernel may still write to: after a failure, or a panic of ours.
    fn drop(&mut self) {
        if self.wake_armed {
            mem::forget(mem::take(&mut self.wake_bytes));
        }
        for flight in self.slots.iter_mut().filter_map(Option::take) {
            mem::forget(flight.buf);
        }
    }
}

/// What a completion says of its call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Done.
    All,
    /// Only the first bytes were moved, this many: whole sectors, or none that is known of.
    Part(usize),
    /// Nothing was done; ask again.
    Again,
    /// The system's error number.
    Failed(i32),
}

pub(super) fn judge(result: i32, len: usize, alignment: usize) -> Verdict {
    match usize::try_from(result) {
        Ok(bytes) if bytes >= len => Verdict::All,
        Ok(bytes) => Verdict::Part(bytes - bytes % alignment),
        Err(_) => match result.wrapping_neg() {
            libc::EINTR | libc::EAGAIN => Verdict::Again,
            // Given up because the thread that gave the call has ended, not by the disk.
            libc::ECANCELED => Verdict::Part(0),
            error => Verdict::Failed(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_are_judged_by_what_was_asked_for() {
        for (result, len, verdict) in [
            (8192, 8192, Verdict::All),
            (0, 0, Verdict::All),
            (0, 4096, Verdict::Part(0)),
            (4096, 8192, Verdict::Part(4096)),
            (4100, 8192, Verdict::Part(4096)),
            (511, 8192, Verdict::Part(0)),
            (-libc::EINTR, 8192, Verdict::Again),
            (-libc::EAGAIN, 8192, Verdict::Again),
            (-libc::ECANCELED, 8192, Verdict::Part(0)),
            (-libc::EIO, 8192, Verdict::Failed(libc::EIO)),
            (-libc::ENOSPC, 0, Verdict::Failed(libc::ENOSPC)),
        ] {
            assert_eq!(judge(result, len, 512), verdict, "{result} of {len}");
        }
    }
}
