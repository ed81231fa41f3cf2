//! A report as the stable JSON of `lab check --json`.

use serde::Serialize;

use super::check::{Report, Verdict};

#[derive(Serialize)]
struct Json {
    protocol: String,
    base: &'static str,
    applied: Vec<&'static str>,
    reverted: Vec<&'static str>,
    world: WorldJson,
    explored: ExploredJson,
    verdict: &'static str,
    violations: Vec<ViolationJson>,
}

#[derive(Serialize)]
struct WorldJson {
    iommus: usize,
    registering: usize,
    clients: usize,
    group: String,
    bus: String,
    firmware: String,
    driver: String,
    attempts: usize,
    two_nodes: bool,
    behind: String,
    managed: bool,
    events: Vec<String>,
}

#[derive(Serialize)]
struct ExploredJson {
    schedules: u64,
    states: u64,
    exhaustive: bool,
    seconds: f64,
}

#[derive(Serialize)]
struct ViolationJson {
    property: &'static str,
    bad_end: Option<&'static str>,
    name: &'static str,
    message: Option<String>,
    symptom: String,
    steps: usize,
    shortest: bool,
    schedule: String,
}

impl Report {
    /// The report as the JSON that `lab check --json` prints: stable, documented in the manual.
    #[must_use]
    pub fn to_json(&self) -> String {
        let json = Json {
            protocol: self.protocol.to_string(),
            base: self.protocol.base().name(),
            applied: self.protocol.applied().iter().map(|commit| commit.id()).collect(),
            reverted: self.protocol.reverted().iter().map(|commit| commit.id()).collect(),
            world: self.world_json(),
            explored: ExploredJson {
                schedules: self.explored.schedules,
                states: self.explored.states,
                exhaustive: self.explored.exhaustive,
                seconds: self.explored.seconds,
            },
            verdict: match self.verdict {
                Verdict::Clean => "clean",
                Verdict::Violated => "violated",
                Verdict::Bounded => "bounded",
            },
            violations: self.violations_json(),
        };
        serde_json::to_string_pretty(&json).expect("a report has only numbers and strings")
    }

    fn world_json(&self) -> WorldJson {
        let world = &self.world;
        WorldJson {
            iommus: world.iommus,
            registering: world.registering,
            clients: world.clients,
            group: world.grouping.to_string(),
            bus: world.bus.to_string(),
            firmware: world.firmware.to_string(),
            driver: world.driver.to_string(),
            attempts: world.attempts,
            two_nodes: world.two_nodes,
            behind: world.behind.to_string(),
            managed: world.managed,
            events: world.events.iter().map(ToString::to_string).collect(),
        }
    }

    fn violations_json(&self) -> Vec<ViolationJson> {
        self.violations
            .iter()
            .map(|found| ViolationJson {
                property: found.property,
                bad_end: found.bad_end,
                name: found.name,
                message: found.message.clone(),
                symptom: found.symptom.clone(),
                steps: found.trace.steps.len(),
                shortest: found.shortest,
                schedule: found.schedule.clone(),
            })
            .collect()
    }
}
