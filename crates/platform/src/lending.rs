//! A check of how memory is lent to devices, for debugging.

use crate::{LockLabel, MemoryWatch, Mutex, PageLayout, RawLock};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use portcullis_addr::PhysAddr;

/// Told of each piece of memory that a device is lent and that comes back. A [`Platform`](crate::Platform) that has one is slower.
pub trait LendingWatch: Send + Sync {
    /// `len` bytes at `memory` are lent to a device, which reaches them at `device_address` and writes them if `writes`.
    fn lends(&self, memory: PhysAddr, len: u64, device_address: u64, writes: bool);
    /// `len` bytes at `memory`, lent before, came back: no device reaches them any more.
    fn returns(&self, memory: PhysAddr, len: u64);
}

/// What is wrong with how memory was lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misuse {
    /// Two loans have bytes in one cache line, and a device writes at least one of them: where a device does not snoop, caring for one spoils the other.
    SharedLine {
        /// Where the later one begins in memory.
        memory: PhysAddr,
        /// Where its device reaches it.
        device_address: u64,
        /// Where the device of the earlier one reaches that.
        other: u64,
    },
    /// Memory was given back to its allocator while a device has it.
    FreedWhileLent {
        /// What was given back.
        memory: PhysAddr,
        /// Where the device reaches it.
        device_address: u64,
    },
    /// Memory came back that was not lent.
    NeverLent {
        /// The memory.
        memory: PhysAddr,
    },
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedLine { memory, device_address, other } => write!(
                f,
                "memory at {memory}, lent at device address {device_address:#x}, shares a cache line with what is lent at {other:#x}"
            ),
            Self::FreedWhileLent { memory, device_address } => write!(
                f,
                "memory at {memory} was freed while a device reaches it at {device_address:#x}"
            ),
            Self::NeverLent { memory } => {
                write!(f, "memory at {memory} came back without having been lent")
            }
        }
    }
}

/// Books of what is lent, which note every misuse and not only the first. Takes memory for each loan, and a lock.
///
/// It is a [`LendingWatch`], for a platform's [`lending`](crate::Platform::lending), and a [`MemoryWatch`], for the [`WatchedMemory`](crate::WatchedMemory) that tells it of frames that are freed.
pub struct LendingBook<L> {
    /// Bytes of a cache line, a power of two.
    line: u64,
    books: Mutex<Books, L>,
}

#[derive(Default)]
struct Books {
    /// By first byte and number.
    loans: BTreeMap<(u64, u64), Loan>,
    numbers: u64,
    /// The longest that there ever was, in bytes.
    longest: u64,
    found: Vec<Misuse>,
}

#[derive(Clone, Copy)]
struct Loan {
    last: u64,
    device_address: u64,
    writes: bool,
}

impl Books {
    /// The loans with a byte in `first..=last`.
    fn within(&self, first: u64, last: u64) -> impl Iterator<Item = &Loan> {
        let from = first.saturating_sub(self.longest);
        let near = self.loans.range((from, 0)..=(last, u64::MAX));
        near.map(|(_, loan)| loan).filter(move |loan| loan.last >= first)
    }
}

impl<L: RawLock> LendingBook<L> {
    /// Books in which nothing is lent, for cache lines of `line` bytes, a power of two.
    pub fn new(line: u64) -> Self {
        Self { line, books: Mutex::new(LockLabel::new("lending", 0), Books::default()) }
    }

    /// What was found so far, in order; it is forgotten here.
    pub fn take_found(&self) -> Vec<Misuse> {
        core::mem::take(&mut self.books.lock().found)
    }

    /// How many pieces of memory are lent now.
    pub fn lent(&self) -> usize {
        self.books.lock().loans.len()
    }
}

impl<L: RawLock> LendingWatch for LendingBook<L> {
    fn lends(&self, memory: PhysAddr, len: u64, device_address: u64, writes: bool) {
        let (first, last) = (memory.raw(), memory.raw() + (len - 1));
        let mut books = self.books.lock();
        let lines = (first & !(self.line - 1), last | (self.line - 1));
        let clash = books.within(lines.0, lines.1).find(|loan| loan.writes || writes);
        if let Some(other) = clash.map(|loan| loan.device_address) {
            books.found.push(Misuse::SharedLine { memory, device_address, other });
        }
        books.numbers += 1;
        // Rounded up, so that lines are found by it too.
        books.longest = books.longest.max(len.saturating_add(2 * self.line));
        let key = (first, books.numbers);
        books.loans.insert(key, Loan { last, device_address, writes });
    }

    fn returns(&self, memory: PhysAddr, len: u64) {
        let mut books = self.books.lock();
        let last = memory.raw() + (len - 1);
        let same = books.loans.range((memory.raw(), 0)..=(memory.raw(), u64::MAX));
        let key = same.filter(|(_, loan)| loan.last == last).map(|(key, _)| *key).next();
        match key {
            Some(key) => _ = books.loans.remove(&key),
            None => books.found.push(Misuse::NeverLent { memory }),
        }
    }
}

impl<L: RawLock> MemoryWatch for LendingBook<L> {
    fn frees(&self, address: PhysAddr, layout: PageLayout) {
        let last = address.raw() + (layout.size() as u64 - 1);
        let mut books = self.books.lock();
        let lent = books.within(address.raw(), last).next().map(|loan| loan.device_address);
        if let Some(device_address) = lent {
            books.found.push(Misuse::FreedWhileLent { memory: address, device_address });
        }
    }
}

impl<L> fmt::Debug for LendingBook<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LendingBook").field("line", &self.line).finish_non_exhaustive()
    }
}
