//! `lab check`: explore one protocol in one world and say what was found.

use core::fmt;
use core::sync::atomic::AtomicBool;

use portcullis_explore::proto;
use portcullis_explore::schedule::{Schedule, ScheduleError};
use portcullis_explore::search::{
    Broken, Control, Mode, Note, Outcome, Progress, ReplayError, Strategy, Trace, Violation,
};

use super::base::BaseId;
use super::kernel::OOPS;
use super::model::{EDITION, FIRST_EDITION, build};
use super::property::{HEALTHY, Id, PROPERTIES};
use super::protocol::{Protocol, ProtocolError};
use super::world::{World, WorldError};

pub use portcullis_explore::search::Verdict;

/// How much to explore, and when to stop.
#[derive(Clone, Copy, Debug)]
pub struct Budget<'a> {
    /// How to explore.
    pub strategy: Strategy,
    /// Ends the search after so many states; none is no limit.
    pub max_states: Option<u64>,
    /// Ends the search soon after it becomes true; what was covered is reported.
    pub stop: Option<&'a AtomicBool>,
    /// Search again for the shortest schedule of each violation.
    pub shortest: bool,
}

impl Default for Budget<'_> {
    /// Every schedule, with reduction, and the shortest schedule of each violation.
    fn default() -> Self {
        Self {
            strategy: Strategy::Exhaustive { reduce: true },
            max_states: None,
            stop: None,
            shortest: true,
        }
    }
}

impl Budget<'_> {
    /// Every schedule of `world`. Small worlds go without reduction: one search then gives the shortest
    /// schedules at once. Worlds with more threads need the reduction for their memory's sake.
    #[must_use]
    pub fn for_world(world: &World) -> Self {
        let reduce = world.clients + world.registering > 3;
        Self { strategy: Strategy::Exhaustive { reduce }, ..Self::default() }
    }
}

/// States that may be spent on the shortest schedules of a world.
const SHORTEST_WITHIN: u64 = 8_000_000;

/// What a check found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The protocol.
    pub protocol: Protocol,
    /// The world.
    pub world: World,
    /// How much was explored.
    pub explored: Explored,
    /// The answer.
    pub verdict: Verdict,
    /// Every violated property, each with its own schedule, in the order of [`PROPERTIES`].
    pub violations: Vec<ViolationReport>,
    /// A schedule on which every client ends bound and healthy: the model is not vacuous.
    pub healthy: Option<String>,
}

/// How much was explored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Explored {
    /// How.
    pub mode: Mode,
    /// Different ends (exhaustive), or schedules run (random).
    pub schedules: u64,
    /// Different states.
    pub states: u64,
    /// Steps computed; with reduction, blocks of steps.
    pub transitions: u64,
    /// Whether every schedule of the world was covered.
    pub exhaustive: bool,
    /// Wall time, in seconds.
    pub seconds: f64,
}

/// One violated property.
#[derive(Clone, Debug)]
pub struct ViolationReport {
    /// Which one; none for a deadlock.
    pub id: Option<Id>,
    /// The invariant: `I1` to `I8`, a bad end where no invariant speaks of it, or `deadlock`.
    pub property: &'static str,
    /// A stable word for the way in which it is violated.
    pub name: &'static str,
    /// The bad end, `B1` to `B7`.
    pub bad_end: Option<&'static str>,
    /// The line that this schedule leaves in the kernel's log, if any.
    pub message: Option<String>,
    /// What is wrong, in a sentence.
    pub meaning: &'static str,
    /// What a user of such a kernel sees.
    pub symptom: String,
    /// The schedule, which `lab replay` takes.
    pub schedule: String,
    /// No schedule with fewer steps shows it.
    pub shortest: bool,
    /// The schedule step by step, for the ladder.
    pub trace: Trace,
}

/// Why a check or a replay gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckError {
    /// The model itself is wrong: a bug of the lab.
    Broken(Broken),
    /// A schedule found by the search does not run: a bug of the lab.
    Replay(ReplayError),
    /// The string is not a schedule.
    Schedule(ScheduleError),
    /// The schedule is not one of a Linux protocol.
    NotLinux(String),
    /// The schedule was made with the first edition of the Linux protocols, whose functions took other steps.
    FirstEdition(String),
    /// The schedule names a protocol that cannot be built.
    Protocol(ProtocolError),
    /// The schedule names a world that cannot be.
    World(WorldError),
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(broken) => write!(f, "{broken}"),
            Self::Replay(error) => write!(f, "the schedule does not run: {error}"),
            Self::Schedule(error) => write!(f, "not a schedule: {error}"),
            Self::NotLinux(world) => {
                write!(
                    f,
                    "`{world}` is not a Linux protocol; its schedules begin with `{EDITION}:`"
                )
            }
            Self::FirstEdition(name) => write!(
                f,
                "the schedule was made with the first edition of the Linux protocols, whose functions took other steps; ask again for `{name}` with `lab check` (docs/schedules.md)"
            ),
            Self::Protocol(error) => write!(f, "the schedule's protocol: {error}"),
            Self::World(error) => write!(f, "the schedule's world: {error}"),
        }
    }
}

impl core::error::Error for CheckError {}

/// Explores `protocol` in `world`. `progress` is called about ten times a second.
///
/// # Errors
/// [`CheckError::Broken`] or [`CheckError::Replay`] if the lab has a bug; nothing else.
pub fn check(
    protocol: &Protocol,
    world: &World,
    budget: Budget<'_>,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Report, CheckError> {
    let model = build(protocol, world);
    let mut control = Control {
        stop: budget.stop,
        progress: Some(progress),
        max_states: budget.max_states,
        stop_at_first: false,
        shortest_within: if budget.shortest { SHORTEST_WITHIN } else { 0 },
    };
    let outcome = model.explore(budget.strategy, &mut control).map_err(CheckError::Broken)?;
    let mut violations = Vec::new();
    for violation in &outcome.violations {
        let trace = model.replay(&violation.schedule).map_err(CheckError::Replay)?;
        if !is_aftermath(violation, &trace) {
            violations.push(describe(violation, trace, world));
        }
    }
    Ok(Report {
        protocol: protocol.clone(),
        world: world.clone(),
        explored: explored(&outcome),
        verdict: verdict(&outcome, &violations),
        violations,
        healthy: healthy(&outcome),
    })
}

fn explored(outcome: &Outcome) -> Explored {
    Explored {
        mode: outcome.mode,
        schedules: outcome.schedules,
        states: outcome.states,
        transitions: outcome.transitions,
        exhaustive: outcome.exhaustive(),
        seconds: outcome.seconds,
    }
}

fn verdict(outcome: &Outcome, violations: &[ViolationReport]) -> Verdict {
    match (violations.is_empty(), outcome.exhaustive()) {
        (false, _) => Verdict::Violated,
        (true, true) => Verdict::Clean,
        (true, false) => Verdict::Bounded,
    }
}

fn healthy(outcome: &Outcome) -> Option<String> {
    let reached = outcome.reached.iter().find(|reached| reached.property == HEALTHY)?;
    reached.schedule.as_ref().map(Schedule::to_string)
}

/// A hang whose cause is an oops earlier in the same run is no finding of its own: the dead thread
/// has kept its locks.
fn is_aftermath(violation: &Violation, trace: &Trace) -> bool {
    violation.property == DEADLOCK
        && trace.steps.iter().any(|step| step.report.changes.iter().any(|c| c.field.name == OOPS))
}

const DEADLOCK: &str = "deadlock";

fn describe(violation: &Violation, trace: Trace, world: &World) -> ViolationReport {
    let schedule = violation.schedule.to_string();
    let shortest = violation.shortest;
    let info = PROPERTIES.iter().find(|info| info.name == violation.property);
    let Some(info) = info else {
        return ViolationReport {
            id: None,
            property: DEADLOCK,
            name: DEADLOCK,
            bad_end: None,
            message: None,
            meaning: "threads wait for each other, or for something that never comes",
            symptom: "`INFO: task ... blocked for more than 120 seconds`".into(),
            schedule,
            shortest,
            trace,
        };
    };
    ViolationReport {
        id: Some(info.id),
        property: info.invariant,
        name: info.name,
        bad_end: info.bad_end,
        message: logged(&trace),
        meaning: info.meaning,
        symptom: info.id.symptom(world),
        schedule,
        shortest,
        trace,
    }
}

/// The last line that the run leaves in the kernel's log.
fn logged(trace: &Trace) -> Option<String> {
    let notes = trace.steps.iter().flat_map(|step| &step.report.notes);
    notes.filter_map(Note::logged).next_back().map(str::to_owned)
}

/// Runs a schedule of a Linux protocol again, in the world that it names.
///
/// # Errors
/// [`CheckError`] if the string is no schedule, names no known protocol or world, or does not run there.
pub fn replay(schedule: &str) -> Result<(Protocol, World, Trace), CheckError> {
    let schedule: Schedule = schedule.parse().map_err(CheckError::Schedule)?;
    let (protocol, world) = parse_scenario(&schedule)?;
    let model: proto::Protocol = build(&protocol, &world);
    let trace = model.replay(&schedule).map_err(CheckError::Replay)?;
    Ok((protocol, world, trace))
}

/// Reads the name that [`super::scenario`] writes.
fn parse_scenario(schedule: &Schedule) -> Result<(Protocol, World), CheckError> {
    let name = schedule.name();
    if let Some(old) = schedule.world.strip_prefix(FIRST_EDITION) {
        return Err(CheckError::FirstEdition(old.into()));
    }
    let not_linux = || CheckError::NotLinux(schedule.world.clone());
    let (protocol, world) =
        name.split_once('/').filter(|_| schedule.kind() == EDITION).ok_or_else(not_linux)?;
    let base_end = protocol.find(['+', '~']).unwrap_or(protocol.len());
    let (base, mut changes) = protocol.split_at(base_end);
    if BaseId::find(base).is_none() {
        return Err(CheckError::Protocol(ProtocolError::UnknownBase(base.into())));
    }
    let (mut apply, mut revert) = (Vec::new(), Vec::new());
    while let Some(sign) = changes.chars().next() {
        let rest = &changes[1..];
        let end = rest.find(['+', '~']).unwrap_or(rest.len());
        if sign == '+' {
            apply.push(&rest[..end])
        } else {
            revert.push(&rest[..end])
        }
        changes = &rest[end..];
    }
    let protocol = Protocol::parse(base, &apply, &revert).map_err(CheckError::Protocol)?;
    Ok((protocol, world.parse().map_err(CheckError::World)?))
}
