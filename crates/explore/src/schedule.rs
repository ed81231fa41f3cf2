//! A schedule as a value and as a short string that replays for ever.
//!
//! Format, version 1: `p1:<world>:<moves>`. `<world>` names the protocol and its world and is opaque here
//! (it may hold colons; it holds no white space). `<moves>` are items joined by `.`; an item is a thread
//! number, optionally followed by `c` and the number of the choice taken, optionally followed by `x` and how
//! many times in a row: `0x12.1.2c1.1x3`. No move at all is `-`. Each move is one step of one thread, however
//! the schedule was found. The reader of version 1 stays when a version 2 comes.

use std::fmt;
use std::str::FromStr;

/// One step: which thread, and which of its successors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Move {
    /// The thread's number.
    pub thread: u16,
    /// Which successor, counted from 0; 0 where there is only one.
    pub choice: u16,
}

/// A sequence of steps from the initial state of a world.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Schedule {
    /// Names the protocol and world; see the module head for what it may hold.
    pub world: String,
    /// The steps.
    pub moves: Vec<Move>,
}

impl Schedule {
    /// A schedule for `world`.
    #[must_use]
    pub fn new(world: impl Into<String>, moves: Vec<Move>) -> Self {
        Self { world: world.into(), moves }
    }

    /// How many times the running thread changes.
    #[must_use]
    pub fn switches(&self) -> usize {
        self.moves.windows(2).filter(|pair| pair[0].thread != pair[1].thread).count()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p1:{}:", self.world)?;
        if self.moves.is_empty() {
            return f.write_str("-");
        }
        for (i, run) in self.moves.chunk_by(|a, b| a == b).enumerate() {
            if i > 0 {
                f.write_str(".")?;
            }
            write!(f, "{}", run[0].thread)?;
            if run[0].choice > 0 {
                write!(f, "c{}", run[0].choice)?;
            }
            if run.len() > 1 {
                write!(f, "x{}", run.len())?;
            }
        }
        Ok(())
    }
}

/// Why a string is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScheduleError {
    /// It does not begin with `p1:`; the offending head is given.
    Version(String),
    /// It has no second colon.
    NoMoves,
    /// This item is no move.
    Item(String),
    /// More moves than a schedule can have (2^24).
    TooLong(u64),
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(head) => {
                write!(f, "`{head}` is not a schedule version this program reads; it must be `p1`")
            }
            Self::NoMoves => f.write_str("no moves; a schedule is `p1:<world>:<moves>`"),
            Self::Item(item) => {
                write!(f, "`{item}` is not a move; a move is like `0`, `1x12` or `2c1`")
            }
            Self::TooLong(n) => write!(f, "{n} moves are too many; the limit is {MAX_MOVES}"),
        }
    }
}

impl std::error::Error for ScheduleError {}

const MAX_MOVES: u64 = 1 << 24;

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let (version, rest) = text.trim().split_once(':').unwrap_or((text, ""));
        if version != "p1" {
            return Err(ScheduleError::Version(version.to_owned()));
        }
        let (world, items) = rest.rsplit_once(':').ok_or(ScheduleError::NoMoves)?;
        let mut moves = Vec::new();
        if items != "-" {
            for item in items.split('.') {
                let (step, times) =
                    parse_item(item).ok_or_else(|| ScheduleError::Item(item.to_owned()))?;
                let total = moves.len() as u64 + u64::from(times);
                if total > MAX_MOVES {
                    return Err(ScheduleError::TooLong(total));
                }
                moves.extend(std::iter::repeat_n(step, times as usize));
            }
        }
        Ok(Self::new(world, moves))
    }
}

fn parse_item(item: &str) -> Option<(Move, u32)> {
    let (step, times) = match item.split_once('x') {
        Some((step, times)) => (step, times.parse().ok().filter(|&n: &u32| n > 0)?),
        None => (item, 1),
    };
    let (thread, choice) = match step.split_once('c') {
        Some((thread, choice)) => (thread, choice.parse().ok()?),
        None => (step, 0),
    };
    Some((Move { thread: thread.parse().ok()?, choice }, times))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(thread: u16, choice: u16) -> Move {
        Move { thread, choice }
    }

    #[test]
    fn a_schedule_reads_back() {
        let moves = vec![step(0, 0), step(0, 0), step(1, 2), step(1, 2), step(2, 1), step(0, 0)];
        let schedule = Schedule::new("v6.6:two clients".replace(' ', "-"), moves);
        let text = schedule.to_string();
        assert_eq!(text, "p1:v6.6:two-clients:0x2.1c2x2.2c1.0");
        assert_eq!(text.parse::<Schedule>(), Ok(schedule));
    }

    #[test]
    fn nothing_is_a_schedule_too() {
        let empty = Schedule::new("w", Vec::new());
        assert_eq!(empty.to_string().parse::<Schedule>(), Ok(empty));
    }

    #[test]
    fn bad_strings_are_named() {
        let bad = |s: &str| s.parse::<Schedule>().unwrap_err();
        assert_eq!(bad("p2:w:0"), ScheduleError::Version("p2".into()));
        assert_eq!(bad("p1:w"), ScheduleError::NoMoves);
        assert_eq!(bad("p1:w:0.x3"), ScheduleError::Item("x3".into()));
        assert_eq!(bad("p1:w:0x0"), ScheduleError::Item("0x0".into()));
        assert_eq!(bad("p1:w:99999"), ScheduleError::Item("99999".into()));
        assert_eq!(bad("p1:w:0x99999999"), ScheduleError::TooLong(99_999_999));
    }
}
