//! Time, by the CPU's counter.

use crate::arch;
use portcullis_platform::{Clock, Nanos};

/// The CPU's counter as a clock: `CNTVCT_EL0`, `time` or the time stamp counter, which must run at one rate and agree between CPUs (on x86: an invariant TSC).
#[derive(Debug, Clone, Copy)]
pub struct CounterClock {
    /// Counts a second.
    frequency: u64,
}

const NANOS_PER_SECOND: u128 = 1_000_000_000;

impl CounterClock {
    /// A clock whose counter counts `frequency` times a second.
    ///
    /// # Panics
    ///
    /// For 0, which firmware leaves in `CNTFRQ_EL0` when it forgets to set it: no wait would ever end.
    pub const fn new(frequency: u64) -> Self {
        assert!(frequency > 0, "a counter of 0 Hz: did firmware set CNTFRQ_EL0?");
        Self { frequency }
    }

    fn nanos(self, counts: u64) -> Nanos {
        // 2^64 counts at 1 GHz are 584 years; the product needs more than 64 bits after 18 s.
        (u128::from(counts) * NANOS_PER_SECOND / u128::from(self.frequency)) as Nanos
    }
}

impl Clock for CounterClock {
    fn now(&self) -> Nanos {
        self.nanos(arch::counter())
    }

    fn relax(&self) {
        core::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_a_number_of_nanoseconds_at_any_rate_and_age() {
        // QEMU's virt counts at 62.5 MHz: 16 ns a count.
        assert_eq!(CounterClock::new(62_500_000).nanos(3), 48);
        // Ten years at 1 GHz, which 64 bits of count times 10^9 do not hold.
        let decade = 315_360_000 * 1_000_000_000;
        assert_eq!(CounterClock::new(1_000_000_000).nanos(decade), decade);
    }

    #[test]
    fn it_does_not_go_back() {
        let clock = CounterClock::new(1_000_000_000);
        let mut last = clock.now();
        for _ in 0..1000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    #[should_panic(expected = "0 Hz")]
    fn a_counter_that_stands_still_is_refused() {
        let _ = CounterClock::new(0);
    }
}
