//! Data that each CPU has a copy of.

use crate::Platform;
use alloc::boxed::Box;
use core::fmt;

/// One `T` for each CPU, each on cache lines of its own, so that CPUs which use their own do not slow each other.
///
/// The copies are chosen by a *hint*: [`Platform::cpu`] may be out of date as soon as it returns, when the thread moves. So `T` is something that any thread may use at any time,
/// an atomic or an [`IrqMutex`](crate::IrqMutex), and a sum over all copies is exact only when nobody changes them.
pub struct PerCpu<T> {
    copies: Box<[CacheLines<T>]>,
}

/// 128 bytes: two lines where the CPU fetches lines in pairs (x86), one where they are that long (some Arm).
#[repr(align(128))]
struct CacheLines<T>(T);

impl<T> PerCpu<T> {
    /// `make(cpu)` for each CPU of `platform`.
    pub fn new<P: Platform>(platform: &P, mut make: impl FnMut(usize) -> T) -> Self {
        Self { copies: (0..platform.cpus().max(1)).map(|cpu| CacheLines(make(cpu))).collect() }
    }

    /// The copy of the CPU that this thread runs on, or ran on a moment ago.
    #[inline]
    pub fn here<P: Platform>(&self, platform: &P) -> &T {
        self.at(platform.cpu())
    }

    /// The copy of CPU `cpu`, which [`Platform::cpu`] returned.
    #[inline]
    pub fn at(&self, cpu: usize) -> &T {
        match self.copies.get(cpu) {
            Some(copy) => &copy.0,
            None => self.of_wrong_hint(cpu),
        }
    }

    /// A hint outside of the range is a platform's bug, which must cost speed only.
    #[cold]
    fn of_wrong_hint(&self, cpu: usize) -> &T {
        &self.copies[cpu % self.copies.len()].0
    }

    /// All copies.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &T> {
        self.copies.iter().map(|copy| &copy.0)
    }
}

impl<T: fmt::Debug> fmt::Debug for PerCpu<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
