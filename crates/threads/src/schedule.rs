//! A run as a short string.

use portcullis_explore::schedule::{Turn, Turns, turns};
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
/// Its text is the last part of a schedule's text, as [`portcullis_explore::schedule`] defines it: turns of threads, each with the choices made in it.
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

impl Schedule {
    /// The decisions as turns of threads, each with the choices that follow it.
    fn turns(&self) -> Vec<Turn> {
        let mut turns: Vec<Turn> = Vec::new();
        for decision in &self.decisions {
            match (*decision, turns.last_mut()) {
                (Decision::Thread(thread), _) => {
                    turns.push(Turn { thread: Some(thread.into()), choices: Vec::new() });
                }
                (Decision::Choice(value), Some(turn)) => turn.choices.push(value.into()),
                (Decision::Choice(value), None) => {
                    turns.push(Turn { thread: None, choices: vec![value.into()] });
                }
            }
        }
        turns
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Turns(&self.turns()).fmt(f)
    }
}

/// Why a text is no schedule, or a schedule does not fit a world.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScheduleError {
    /// The text is not one of turns.
    Text(portcullis_explore::schedule::ScheduleError),
    /// A thread's number or a choice above 255.
    Number(u16),
    /// The world does not have that thread there, or it cannot go: this is the schedule of another world.
    Misfit {
        /// Which step, from 1.
        step: usize,
    },
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(error) => error.fmt(f),
            Self::Number(number) => write!(f, "no schedule: {number} is too large a number here"),
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
        let small = |number: u16| u8::try_from(number).map_err(|_| ScheduleError::Number(number));
        let mut decisions = Vec::new();
        for turn in turns(text).map_err(ScheduleError::Text)? {
            if let Some(thread) = turn.thread {
                decisions.push(Decision::Thread(small(thread)?));
            }
            for choice in turn.choices {
                decisions.push(Decision::Choice(small(choice)?));
            }
        }
        Ok(Self { decisions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_explore::schedule::ScheduleError as TextError;

    #[test]
    fn the_text_of_a_schedule_is_fixed_for_ever() {
        let golden = "0x3.1.26c1c0c0.0";
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
        let before_the_first_step = Schedule::from(vec![Choice(1), Choice(0), Thread(2)]);
        assert_eq!(before_the_first_step.to_string(), "c1c0.2");
        assert_eq!("c1c0.2".parse(), Ok(before_the_first_step));
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        let parse = |text: &str| text.parse::<Schedule>();
        assert_eq!(parse("t1:a"), Err(ScheduleError::Text(TextError::Item("t1:a".into()))));
        assert_eq!(parse("0.?"), Err(ScheduleError::Text(TextError::Item("?".into()))));
        assert_eq!(parse("0c256"), Err(ScheduleError::Number(256)));
        assert_eq!(parse("-").map(|schedule| schedule.steps()), Ok(0));
    }
}
