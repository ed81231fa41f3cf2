//! A report as the stable JSON of `replay --json`.

use super::{Damage, Deviation, Report, StepEnd, Verdict};
use crate::outcome::Outcome;
use crate::steer::Observation;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
struct Json<'a> {
    kernel: &'a str,
    stock: bool,
    ablated: Option<&'a str>,
    board: &'a str,
    schedule: &'a str,
    protocol: &'a str,
    agrees: bool,
    predicted: &'a Outcome,
    observed: &'a Outcome,
    diverged: Option<Diverged<'a>>,
    steps: Vec<StepJson<'a>>,
    returns: Vec<(&'a str, i32)>,
    works_predicted: Option<bool>,
    interrupts_predicted: Option<bool>,
    damage: &'a Damage,
    seconds: f64,
}

#[derive(Serialize)]
struct Diverged<'a> {
    step: usize,
    deviations: &'a [Deviation],
}

#[derive(Serialize)]
struct StepJson<'a> {
    step: usize,
    thread: &'a str,
    task: &'a str,
    place: &'a str,
    stop: &'a str,
    end: StepEnd,
    predicted: Option<&'a Observation>,
    observed: Option<&'a Observation>,
    console: &'a [String],
    events: &'a BTreeMap<String, u64>,
}

impl Report {
    /// The report as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let diverged = match &self.verdict {
            Verdict::Agrees => None,
            Verdict::Diverged { step, deviations } => Some(Diverged { step: *step, deviations }),
        };
        let steps = self.steps.iter().map(|step| StepJson {
            step: step.number,
            thread: step.who.name(),
            task: &step.thread,
            place: step.site,
            stop: &step.stop,
            end: step.arrival,
            predicted: step.predicted.as_ref(),
            observed: step.observed.as_ref(),
            console: &step.console,
            events: &step.events,
        });
        let json = Json {
            kernel: &self.kernel,
            stock: self.stock,
            ablated: self.ablated.as_ref().map(|(commit, _)| commit.as_str()),
            board: self.board.name,
            schedule: &self.schedule,
            protocol: &self.protocol,
            agrees: self.agrees(),
            predicted: &self.predicted,
            observed: &self.observed,
            diverged,
            steps: steps.collect(),
            returns: self.returns.iter().map(|(name, value)| (name.as_str(), *value)).collect(),
            works_predicted: self.works_predicted,
            interrupts_predicted: self.interrupts_predicted,
            damage: &self.damage,
            seconds: self.seconds.1,
        };
        serde_json::to_string_pretty(&json).expect("a report has only numbers and strings")
    }
}
