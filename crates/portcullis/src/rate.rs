//! How many reports of one kind a log gets.

use portcullis_platform::Nanos;

/// Lets the first ten reports of every five seconds through and counts the others: a device that faults without end must not fill the log.
///
/// The numbers are those of Linux's `DEFAULT_RATELIMIT_BURST` and `DEFAULT_RATELIMIT_INTERVAL` (include/linux/ratelimit_types.h).
#[derive(Clone, Copy, Debug, Default)]
#[doc(alias = "ratelimit_state")]
pub struct RateLimit {
    /// When the current interval began; `None` before the first report.
    began: Option<Nanos>,
    /// Reports in it, those that were left out included.
    reports: u64,
}

impl RateLimit {
    /// Reports that are let through in one interval.
    pub const BURST: u64 = 10;
    /// The length of an interval: 5 s.
    pub const INTERVAL: Nanos = 5_000_000_000;

    /// Whether a report at time `now` may be written: then how many were left out since the last that was. `None` leaves this one out.
    pub fn admit(&mut self, now: Nanos) -> Option<u64> {
        let fresh = self.began.is_none_or(|began| now.saturating_sub(began) >= Self::INTERVAL);
        let mut left_out = 0;
        if fresh {
            left_out = self.reports.saturating_sub(Self::BURST);
            *self = Self { began: Some(now), reports: 0 };
        }
        self.reports += 1;
        (self.reports <= Self::BURST).then_some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_in_five_seconds_and_the_rest_is_counted() {
        let mut limit = RateLimit::default();
        let written = (0..1000).filter(|n| limit.admit(n * 1_000_000).is_some()).count();
        assert_eq!(written, 10);
        assert_eq!(limit.admit(RateLimit::INTERVAL - 1), None);
        assert_eq!(limit.admit(RateLimit::INTERVAL), Some(991));
        assert_eq!(limit.admit(RateLimit::INTERVAL + 1), Some(0));
        assert_eq!(limit.admit(10 * RateLimit::INTERVAL), Some(0), "none was left out");
    }
}
