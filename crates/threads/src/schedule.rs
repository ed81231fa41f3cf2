//! A run as a short string.

use std::fmt;
use std::str::FromStr;

/// One decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// The thread with this number (in order of creation, from 0) takes its next step.
    Thread(u8),
    /// [`choose`](crate::choose) returns this value.
    Choice(u8),
}

/// The decisions that lead to one run of a world.
///
/// Its text is `t1:` and then, for each run of equal decisions, `a`..`z` or `A`..`F` for a thread (0..=31) or `=` and a number for a choice, followed by
/// `*` and a count when it is above one. `t1` is the version: a later format will say `t2`, and this one will stay readable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Schedule {
    decisions: Vec<Decision>,
}

impl Schedule {
    /// The decisions, first to last.
    pub fn decisions(&self) -> &[Decision] {
        &self.decisions
    }

    /// Steps: decisions that are not choices.
    pub fn steps(&self) -> usize {
        self.decisions.iter().filter(|decision| matches!(decision, Decision::Thread(_))).count()
    }

    /// How often control moves from one thread to another.
    pub fn switches(&self) -> usize {
        let mut last = None;
        let mut switches = 0;
        for decision in &self.decisions {
            if let Decision::Thread(thread) = decision {
                switches += usize::from(last.is_some_and(|last| last != thread));
                last = Some(thread);
            }
        }
        switches
    }
}

impl From<Vec<Decision>> for Schedule {
    fn from(decisions: Vec<Decision>) -> Self {
        Self { decisions }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("t1:")?;
        for run in self.decisions.chunk_by(|a, b| a == b) {
            match run[0] {
                Decision::Thread(thread @ 0..26) => write!(f, "{}", char::from(b'a' + thread))?,
                Decision::Thread(thread) => {
                    write!(f, "{}", char::from(b'A' + thread.saturating_sub(26)))?;
                }
                Decision::Choice(value) => write!(f, "={value}")?,
            }
            if run.len() > 1 {
                write!(f, "*{}", run.len())?;
            }
        }
        Ok(())
    }
}

/// Why a text is no schedule, or a schedule does not fit a world.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScheduleError {
    /// The text does not begin with a version that is known.
    Version {
        /// What stands there.
        found: String,
    },
    /// A character that has no meaning where it stands.
    Character {
        /// Byte position in the text.
        at: usize,
    },
    /// A count or a value is missing or too large.
    Number {
        /// Byte position in the text.
        at: usize,
    },
    /// The world does not have that thread there, or it cannot go: this is the schedule of another world.
    Misfit {
        /// Which step, from 1.
        step: usize,
    },
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { found } => {
                write!(f, "a schedule of threads begins with \"t1:\", not with {found:?}")
            }
            Self::Character { at } => write!(f, "no schedule: unexpected character at byte {at}"),
            Self::Number { at } => write!(f, "no schedule: bad number at byte {at}"),
            Self::Misfit { step } => write!(
                f,
                "the schedule does not fit: its step {step} is not possible in this world (was it recorded with another world or version?)"
            ),
        }
    }
}

impl std::error::Error for ScheduleError {}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let Some(body) = text.strip_prefix("t1:") else {
            return Err(ScheduleError::Version { found: text.chars().take(3).collect() });
        };
        let mut decisions = Vec::new();
        let mut rest = body;
        while let Some(first) = rest.chars().next() {
            let at = text.len() - rest.len();
            rest = &rest[first.len_utf8()..];
            let decision = match first {
                'a'..='z' => Decision::Thread(first as u8 - b'a'),
                'A'..='F' => Decision::Thread(first as u8 - b'A' + 26),
                '=' => Decision::Choice(number(&mut rest, at, 255)? as u8),
                _ => return Err(ScheduleError::Character { at }),
            };
            let count = match rest.strip_prefix('*') {
                Some(after) => {
                    rest = after;
                    number(&mut rest, at, 100_000)?
                }
                None => 1,
            };
            decisions.extend((0..count).map(|_| decision));
        }
        Ok(Self { decisions })
    }
}

/// Reads a decimal number of at most `max` off the front of `rest`.
fn number(rest: &mut &str, at: usize, max: u32) -> Result<u32, ScheduleError> {
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    let value = digits.parse().map_err(|_| ScheduleError::Number { at })?;
    if value <= max { Ok(value) } else { Err(ScheduleError::Number { at }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_schedule_is_fixed_for_ever() {
        let golden = "t1:a*3bA=1=0*2a";
        let schedule: Schedule = golden.parse().expect("golden");
        use Decision::{Choice, Thread};
        let expected = [
            Thread(0),
            Thread(0),
            Thread(0),
            Thread(1),
            Thread(26),
            Choice(1),
            Choice(0),
            Choice(0),
            Thread(0),
        ];
        assert_eq!(schedule.decisions(), expected);
        assert_eq!(schedule.to_string(), golden);
        assert_eq!((schedule.steps(), schedule.switches()), (6, 3));
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_its_place() {
        let parse = |text: &str| text.parse::<Schedule>();
        assert_eq!(parse("p1:a"), Err(ScheduleError::Version { found: "p1:".into() }));
        assert_eq!(parse("t1:a?"), Err(ScheduleError::Character { at: 4 }));
        assert_eq!(parse("t1:a*"), Err(ScheduleError::Number { at: 3 }));
        assert_eq!(parse("t1:=256"), Err(ScheduleError::Number { at: 3 }));
        assert_eq!(parse("t1:a*9999999999"), Err(ScheduleError::Number { at: 3 }));
        assert_eq!(parse("t1:").map(|schedule| schedule.steps()), Ok(0));
    }
}
