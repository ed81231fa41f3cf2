//! What a replay reports.

mod damage;
mod html;
mod json;
mod text;

pub use damage::Damage;
pub(crate) use damage::events;
pub use html::page;
pub use text::{Paint, render};

use crate::board::Board;
use crate::outcome::Outcome;
use crate::plan::{ModelEnd, Who};
use crate::run::differences;
use crate::steer::{Arrival, Observation};
use portcullis_explore::search::Trace;
use portcullis_lab::linux::World;
use serde::Serialize;
use std::collections::BTreeMap;

/// A replay that was done.
#[derive(Debug)]
pub struct Report {
    /// The kernel.
    pub kernel: String,
    /// The board.
    pub board: &'static Board,
    /// The schedule's name, or the property that a schedule of the lab violates.
    pub schedule: String,
    /// The protocol that the prediction is made with.
    pub protocol: String,
    /// The kernel ran as it was shipped.
    pub stock: bool,
    /// The commit that was gone without, and how often that made a difference.
    pub ablated: Option<(String, u64)>,
    /// What the lab predicts.
    pub predicted: Outcome,
    /// What happened.
    pub observed: Outcome,
    /// Whether both are the same, step by step.
    pub verdict: Verdict,
    /// The steps that were taken.
    pub steps: Vec<StepReport>,
    /// What functions of the client's probe returned, in order.
    pub returns: Vec<(String, i32)>,
    /// What a user sees afterwards.
    pub damage: Damage,
    /// Whether the device works in the end, as the lab predicts; none where QEMU does not translate its DMA.
    pub works_predicted: Option<bool>,
    /// Whether an interrupt of it arrives in the end, as the lab predicts; none where interrupts are wires.
    pub interrupts_predicted: Option<bool>,
    /// Seconds until the schedule was through, and in all.
    pub seconds: (f64, f64),
    /// Stops, parks and packets.
    pub counts: (u64, u64, u64),
    /// The lab's run of the plan.
    pub(crate) trace: Trace,
    /// The lab's world.
    pub(crate) world: World,
}

/// Whether the kernel did what the lab said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// In every step and in the end.
    Agrees,
    /// Not from this step on.
    Diverged {
        /// Which step, from 1.
        step: usize,
        /// What differs there.
        deviations: Vec<Deviation>,
    },
}

/// Something that is not as predicted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deviation {
    /// A field, `arrival` or `outcome`.
    pub what: &'static str,
    /// What the lab says.
    pub predicted: String,
    /// What was observed.
    pub observed: String,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepEnd {
    /// At its place.
    Reached,
    /// The thread's probe returned before.
    Returned(i32),
    /// The thread died of an oops.
    Died,
    /// The thread did not come in time.
    Late,
    /// The guest ended.
    GuestEnded,
}

impl From<Arrival> for StepEnd {
    fn from(arrival: Arrival) -> Self {
        match arrival {
            Arrival::Reached => Self::Reached,
            Arrival::Returned(value) => Self::Returned(value),
            Arrival::Died => Self::Died,
            Arrival::Late => Self::Late,
            Arrival::GuestEnded => Self::GuestEnded,
        }
    }
}

/// One step of the schedule.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Its number, from 1.
    pub number: usize,
    /// Who ran.
    pub who: Who,
    /// The kernel thread: `comm/pid`.
    pub thread: String,
    /// The place.
    pub site: &'static str,
    /// The place in words.
    pub words: &'static str,
    /// The stop in this kernel.
    pub stop: String,
    /// How it ended.
    pub arrival: StepEnd,
    /// How the lab says it ends.
    pub(crate) expected: Option<ModelEnd>,
    /// The client then, by the lab.
    pub(crate) predicted: Option<Observation>,
    /// The client then.
    pub(crate) observed: Option<Observation>,
    /// The client's driver had failed by then.
    pub(crate) driver_failed: bool,
    /// Console lines during the step.
    pub console: Vec<String>,
    /// What the SMMUs did during the step: QEMU's trace events with their numbers.
    pub events: BTreeMap<String, u64>,
}

impl StepReport {
    /// What is not as predicted.
    #[must_use]
    pub fn deviations(&self) -> Vec<Deviation> {
        let Some(expected) = &self.expected else { return Vec::new() };
        let as_said = match (expected, self.arrival) {
            (ModelEnd::Reached, end) => end == StepEnd::Reached,
            (ModelEnd::Finished, end) => matches!(end, StepEnd::Returned(_)),
            (ModelEnd::Died, end) => end == StepEnd::Died,
            (ModelEnd::Blocked(_), end) => end == StepEnd::Late,
        };
        if !as_said {
            let predicted = match expected {
                ModelEnd::Reached => "reached".to_owned(),
                ModelEnd::Finished => "returns before".to_owned(),
                ModelEnd::Died => "dies of an oops".to_owned(),
                ModelEnd::Blocked(at) => format!("blocked at {at}"),
            };
            return vec![Deviation {
                what: "arrival",
                predicted,
                observed: self.arrival.to_string(),
            }];
        }
        match (&self.predicted, &self.observed) {
            (Some(predicted), Some(observed)) if self.arrival == StepEnd::Reached => {
                differences(predicted, observed, self.driver_failed)
            }
            _ => Vec::new(),
        }
    }
}

impl std::fmt::Display for StepEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reached => f.write_str("reached"),
            Self::Returned(value) => write!(f, "the probe returned {value} before"),
            Self::Died => f.write_str("the thread died of an oops"),
            Self::Late => f.write_str("not reached in time"),
            Self::GuestEnded => f.write_str("the guest ended"),
        }
    }
}

impl Report {
    /// The kernel did what the lab said, and afterwards the device and its interrupts work or not as the lab said.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.verdict == Verdict::Agrees && self.damage_differs().is_none()
    }

    /// What works although the lab says no, or the other way round, in words.
    #[must_use]
    pub fn damage_differs(&self) -> Option<String> {
        let differ = |predicted: Option<bool>, observed: Option<bool>| {
            predicted.zip(observed).filter(|(predicted, observed)| predicted != observed)
        };
        let verb = |works| if works { "works" } else { "does not work" };
        let arrive = |some| if some { "arrive" } else { "do not arrive" };
        if let Some((predicted, works)) = differ(self.works_predicted, self.damage.works) {
            return Some(format!(
                "the device {} and the lab says that it {}",
                verb(works),
                verb(predicted)
            ));
        }
        let (predicted, some) = differ(self.interrupts_predicted, self.damage.interrupted())?;
        Some(format!(
            "its interrupts {} and the lab says that they {}",
            arrive(some),
            arrive(predicted)
        ))
    }

    /// The verdict in words.
    #[must_use]
    pub fn answer(&self) -> String {
        match &self.verdict {
            Verdict::Agrees => match self.damage_differs() {
                Some(words) => format!("{}; but {words}", self.observed),
                None => format!("{} (as predicted)", self.observed),
            },
            Verdict::Diverged { step, deviations } => {
                let all: Vec<String> = deviations
                    .iter()
                    .map(|it| {
                        format!("{}: predicted {}, observed {}", it.what, it.predicted, it.observed)
                    })
                    .collect();
                format!("diverged at step {step}: {}; {}", all.join("; "), self.observed)
            }
        }
    }
}
