//! A schedule as a value, and the one text that all schedules have.
//!
//! ```text
//! <kind>:<world>:<moves>          linux2:v6.6/i2r1c1.own.platform.dt.v3.a1:0x5.1x11.2c1
//! ```
//!
//! `<kind>` says who reads the rest, and in which edition: a word of lower-case letters and digits. `<world>` is
//! opaque here; it holds no white space (it may hold colons). `<moves>` are turns joined by `.`. A turn is the
//! number of the thread that takes its next step, then `c` and a number for each choice of the environment
//! in that step, then `x` and a count where the same turn is taken several times in a row: `0x12.1.2c1.1x3`.
//! A turn without a thread (`c1`) is a choice made before the first step. No turn at all is `-`.
//!
//! Each turn is one step of one thread, however the schedule was found. A later edition of a kind gets another
//! word; what an old word means never changes. `docs/schedules.md` lists the kinds.

use std::fmt;
use std::str::FromStr;

/// The kind of a world that names none: a protocol of the explorer's own, first edition.
const OWN: &str = "p1";

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
    /// Kind and world, joined by a colon; see the module head for what they may hold.
    pub world: String,
    /// The steps.
    pub moves: Vec<Move>,
}

impl Schedule {
    /// A schedule for `world`. A world whose name holds no kind is one of the explorer's own (`p1`).
    #[must_use]
    pub fn new(world: impl Into<String>, moves: Vec<Move>) -> Self {
        Self { world: with_kind(world.into()), moves }
    }

    /// The word before the first colon.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.world.split_once(':').map_or(OWN, |(kind, _)| kind)
    }

    /// The world's name without its kind.
    #[must_use]
    pub fn name(&self) -> &str {
        self.world.split_once(':').map_or(self.world.as_str(), |(_, name)| name)
    }

    /// How many times the running thread changes.
    #[must_use]
    pub fn switches(&self) -> usize {
        self.moves.windows(2).filter(|pair| pair[0].thread != pair[1].thread).count()
    }
}

/// `world` with its kind in front.
pub(crate) fn with_kind(world: String) -> String {
    if world.contains(':') { world } else { format!("{OWN}:{world}") }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let turns: Vec<Turn> = self.moves.iter().map(Turn::from).collect();
        write!(f, "{}:{}", self.world, Turns(&turns))
    }
}

/// One turn of a schedule's text: a step and the choices made in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Turn {
    /// The thread that takes its next step; none for choices made before the first step.
    pub thread: Option<u16>,
    /// The environment's choices in that step, in order.
    pub choices: Vec<u16>,
}

impl From<&Move> for Turn {
    fn from(step: &Move) -> Self {
        let choices = if step.choice == 0 { Vec::new() } else { vec![step.choice] };
        Self { thread: Some(step.thread), choices }
    }
}

impl Turn {
    /// The turn as a step with at most one choice, if it is one.
    fn as_move(&self) -> Option<Move> {
        match (self.thread, &self.choices[..]) {
            (Some(thread), []) => Some(Move { thread, choice: 0 }),
            (Some(thread), [choice]) => Some(Move { thread, choice: *choice }),
            _ => None,
        }
    }
}

/// Turns as text: the last part of a schedule.
#[derive(Debug, Clone, Copy)]
pub struct Turns<'a>(pub &'a [Turn]);

impl fmt::Display for Turns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("-");
        }
        for (i, run) in self.0.chunk_by(|a, b| a == b).enumerate() {
            if i > 0 {
                f.write_str(".")?;
            }
            if let Some(thread) = run[0].thread {
                write!(f, "{thread}")?;
            }
            run[0].choices.iter().try_for_each(|choice| write!(f, "c{choice}"))?;
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
    /// It does not begin with a kind and a colon; what stands there is given.
    Kind(String),
    /// It has no second colon.
    NoMoves,
    /// This item is no turn.
    Item(String),
    /// More turns than a schedule can have (2^24).
    TooLong(u64),
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(head) => write!(
                f,
                "a schedule begins with its kind and a colon, such as `linux2:`, not with `{head}`"
            ),
            Self::NoMoves => f.write_str("no moves; a schedule is `<kind>:<world>:<moves>`"),
            Self::Item(item) => {
                write!(f, "`{item}` is not a move; a move is like `0`, `1x12` or `2c1`")
            }
            Self::TooLong(n) => write!(f, "{n} moves are too many; the limit is {MAX_TURNS}"),
        }
    }
}

impl std::error::Error for ScheduleError {}

const MAX_TURNS: u64 = 1 << 24;

/// Reads the text of turns.
///
/// # Errors
/// [`ScheduleError::Item`] with the first item that is no turn, or [`ScheduleError::TooLong`].
pub fn turns(text: &str) -> Result<Vec<Turn>, ScheduleError> {
    let mut turns = Vec::new();
    for item in text.split('.').filter(|_| text != "-") {
        let (turn, times) = parse_item(item).ok_or_else(|| ScheduleError::Item(item.to_owned()))?;
        let total = turns.len() as u64 + u64::from(times);
        if total > MAX_TURNS {
            return Err(ScheduleError::TooLong(total));
        }
        turns.extend(std::iter::repeat_n(turn, times as usize));
    }
    Ok(turns)
}

/// The three parts of a schedule's text: kind, world, and the text of its turns.
///
/// # Errors
/// [`ScheduleError::Kind`] or [`ScheduleError::NoMoves`].
pub fn parts(text: &str) -> Result<(&str, &str, &str), ScheduleError> {
    let text = text.trim();
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if kind.is_empty() || kind.len() == text.len() || !kind.chars().all(word) {
        return Err(ScheduleError::Kind(kind.to_owned()));
    }
    let (world, turns) = rest.rsplit_once(':').ok_or(ScheduleError::NoMoves)?;
    Ok((kind, world, turns))
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let (kind, world, items) = parts(text)?;
        let as_move = |turn: &Turn| {
            turn.as_move()
                .ok_or_else(|| ScheduleError::Item(Turns(std::slice::from_ref(turn)).to_string()))
        };
        let moves = turns(items)?.iter().map(as_move).collect::<Result<_, _>>()?;
        Ok(Self { world: format!("{kind}:{world}"), moves })
    }
}

fn parse_item(item: &str) -> Option<(Turn, u32)> {
    let (step, times) = match item.split_once('x') {
        Some((step, times)) => (step, times.parse().ok().filter(|&n: &u32| n > 0)?),
        None => (item, 1),
    };
    let mut parts = step.split('c');
    let thread = match parts.next()? {
        "" => None,
        digits => Some(digits.parse().ok()?),
    };
    let choices = parts.map(str::parse).collect::<Result<Vec<u16>, _>>().ok()?;
    let says_something = thread.is_some() || !choices.is_empty();
    says_something.then_some((Turn { thread, choices }, times))
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
        let schedule = Schedule::new("linux2:v6.6:two clients".replace(' ', "-"), moves);
        let text = schedule.to_string();
        assert_eq!(text, "linux2:v6.6:two-clients:0x2.1c2x2.2c1.0");
        assert_eq!((schedule.kind(), schedule.name()), ("linux2", "v6.6:two-clients"));
        assert_eq!(text.parse::<Schedule>(), Ok(schedule));
    }

    #[test]
    fn nothing_is_a_schedule_too_and_a_world_without_a_kind_is_the_explorer_s_own() {
        let empty = Schedule::new("w", Vec::new());
        assert_eq!(empty.to_string(), "p1:w:-");
        assert_eq!(empty.to_string().parse::<Schedule>(), Ok(empty));
    }

    #[test]
    fn turns_hold_any_number_of_choices() {
        let text = "c1.0x3.1c0c2.31";
        let read = turns(text).unwrap();
        assert_eq!(read.len(), 6);
        assert_eq!(read[0], Turn { thread: None, choices: vec![1] });
        assert_eq!(read[4], Turn { thread: Some(1), choices: vec![0, 2] });
        assert_eq!(Turns(&read).to_string(), text);
        assert_eq!(turns("-"), Ok(Vec::new()));
        // A protocol's step has one choice at most.
        let error = "p1:w:1c0c2".parse::<Schedule>().unwrap_err();
        assert_eq!(error, ScheduleError::Item("1c0c2".into()));
    }

    #[test]
    fn bad_strings_are_named() {
        let bad = |s: &str| s.parse::<Schedule>().unwrap_err();
        assert_eq!(bad("hello"), ScheduleError::Kind("hello".into()));
        assert_eq!(bad("ours/a/t1:0"), ScheduleError::Kind("ours/a/t1".into()));
        assert_eq!(bad("p1:w"), ScheduleError::NoMoves);
        assert_eq!(bad("p1:w:0.x3"), ScheduleError::Item("x3".into()));
        assert_eq!(bad("p1:w:0x0"), ScheduleError::Item("0x0".into()));
        assert_eq!(bad("p1:w:"), ScheduleError::Item(String::new()));
        assert_eq!(bad("p1:w:99999"), ScheduleError::Item("99999".into()));
        assert_eq!(bad("p1:w:0x99999999"), ScheduleError::TooLong(99_999_999));
    }
}
