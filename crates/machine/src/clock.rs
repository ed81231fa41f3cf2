//! Time that moves only when somebody waits.

use crate::hook::Hook;
use crate::model::Iommus;
use portcullis_platform::{Clock, Nanos};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Where the time of a machine comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSource {
    /// Each [`Clock::relax`] advances time by `step`, and nothing else does, so that runs repeat exactly.
    Virtual {
        /// Nanoseconds for each call, at least 1.
        step: Nanos,
    },
    /// The host's monotonic clock, for boots on OS threads. With virtual time, a thread that the OS does not schedule would find its time-outs used up by the looks of the others.
    Host,
}

/// The machine's clock. Waiting also lets lazy hardware do a little of its work.
#[derive(Debug)]
pub struct MachineClock {
    source: TimeSource,
    started: Instant,
    virtual_now: AtomicU64,
    looks: AtomicU64,
    hook: Hook,
    iommus: Arc<Iommus>,
}

/// On host time, one look in so many gives the CPU away.
const YIELD_EVERY: u64 = 64;

impl MachineClock {
    pub(crate) fn new(source: TimeSource, hook: Hook, iommus: Arc<Iommus>) -> Self {
        Self {
            source,
            started: Instant::now(),
            virtual_now: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            hook,
            iommus,
        }
    }
}

impl Clock for MachineClock {
    fn now(&self) -> Nanos {
        match self.source {
            TimeSource::Virtual { .. } => self.virtual_now.load(Ordering::Acquire),
            TimeSource::Host => {
                u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
            }
        }
    }

    fn relax(&self) {
        self.hook.step("clock", 0, "relax", false);
        match self.source {
            TimeSource::Virtual { step } => {
                self.virtual_now.fetch_add(step.max(1), Ordering::AcqRel);
            }
            // What is waited for moves on below. Only now and then it is another thread's turn: giving the CPU away costs a time slice of whatever else runs.
            TimeSource::Host => {
                let look = self.looks.fetch_add(1, Ordering::Relaxed);
                if look.is_multiple_of(YIELD_EVERY) {
                    std::thread::yield_now();
                } else {
                    std::hint::spin_loop();
                }
            }
        }
        self.iommus.progress();
    }
}
