//! The day, as pages carry it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Today in UTC, as `2026-11-27`.
pub(crate) fn today() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    written(since.as_secs() / 86_400)
}

/// The day that begins `days` days after 1 January 1970, in the Gregorian calendar.
fn written(days: u64) -> String {
    let (mut year, mut left) = (1970, days);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", left + 1)
}

#[cfg(test)]
mod tests {
    use super::written;

    /// Expected: `date -u -d @SECONDS +%F` of GNU coreutils.
    #[test]
    fn days_are_those_of_the_calendar() {
        let days = [0, 58, 59, 364, 365, 789, 790, 11_016, 20_784];
        let expected = [
            "1970-01-01",
            "1970-02-28",
            "1970-03-01",
            "1970-12-31",
            "1971-01-01",
            "1972-02-29",
            "1972-03-01",
            "2000-02-29",
            "2026-11-27",
        ];
        assert_eq!(days.map(written), expected);
    }
}
