//! From a schedule of the lab, whose threads change at any step, to one that changes only where a kernel's thread can be parked.
//!
//! Each change of thread is moved to the nearest place of the stop map. Moved steps may matter, so the lab decides: a plan counts only if the model, driven by it on the
//! schedule's own protocol, violates the same property.

use super::map::{Site, sites};
use super::model::{Model, ModelEnd, is_at};
use super::{Plan, Step, Who};
use crate::error::Error;
use portcullis_explore::schedule::Move;
use portcullis_explore::search::{Trace, TraceStep};
use portcullis_lab::linux::{Protocol, World};

/// Places that are tried for one change of thread: those nearest to where the schedule has it.
const NEAREST: usize = 5;
/// Plans that are tried in all.
const MOST_PLANS: usize = 20_000;

/// A plan with the violation that the lab's schedule ends with.
pub(crate) fn compile(
    protocol: &Protocol,
    world: &World,
    trace: &Trace,
    version: (u32, u32, u32),
) -> Result<Plan, Error> {
    let wanted = wanted(trace)?;
    let turns = turns(trace)?;
    let sites: Vec<&'static Site> = sites(version, world.bus).collect();
    let model = Model::new(protocol, world);
    let mut search = Search { model, sites, wanted, turns, steps: Vec::new(), tried: 0 };
    if !search.place(0)? {
        return Err(Error::Schedule(format!(
            "no way to force this schedule with stops: of {} plans none shows {} in the lab",
            search.tried,
            search.wanted.join(", ")
        )));
    }
    Ok(Plan { name: search.wanted.join(", "), steps: search.steps })
}

/// What the schedule was found for: everything that is violated where something is violated last.
fn wanted(trace: &Trace) -> Result<Vec<String>, Error> {
    let steps = trace.steps.iter().map(|step| &step.violated).chain([&trace.violated_at_end]);
    let last = steps.rev().find(|violated| !violated.is_empty());
    last.cloned().ok_or_else(|| Error::Schedule("nothing is violated on this schedule".into()))
}

/// Runs of one thread: who, and how many steps it has taken in all by then.
fn turns(trace: &Trace) -> Result<Vec<(Who, usize)>, Error> {
    let mut turns: Vec<(Who, usize)> = Vec::new();
    let mut taken = [0; 2];
    for step in &trace.steps {
        let who = match step.thread {
            0 => Who::Smmu,
            1 => Who::Client,
            _ => {
                let name = trace.threads.get(step.thread).map_or("", String::as_str);
                return Err(Error::Board(format!(
                    "no board can carry the thread `{name}` of this schedule"
                )));
            }
        };
        taken[who.number()] += 1;
        match turns.last_mut() {
            Some((last, steps)) if *last == who => *steps = taken[who.number()],
            _ => turns.push((who, taken[who.number()])),
        }
    }
    Ok(turns)
}

/// A place that a thread can go to.
struct Candidate {
    /// Steps that the thread has taken there.
    taken: usize,
    /// All moves until then.
    moves: Vec<Move>,
    site: &'static Site,
}

struct Search {
    model: Model,
    sites: Vec<&'static Site>,
    wanted: Vec<String>,
    turns: Vec<(Who, usize)>,
    steps: Vec<Step>,
    tried: usize,
}

impl Search {
    /// Places turn `number` and those behind it; says whether that gives the violation.
    fn place(&mut self, number: usize) -> Result<bool, Error> {
        let Some(&(who, steps)) = self.turns.get(number) else { return self.ends_well() };
        let here = self.model.moves().to_vec();
        let mut candidates = self.candidates(who)?;
        candidates.sort_by_key(|candidate| candidate.taken.abs_diff(steps));
        candidates.truncate(NEAREST);
        for Candidate { moves, site, .. } in candidates {
            self.model.rewind(&moves);
            self.steps.push(Step { who, site });
            if self.place(number + 1)? {
                return Ok(true);
            }
            self.steps.pop();
            self.model.rewind(&here);
            if self.tried >= MOST_PLANS {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// The places that a thread passes if it runs on alone.
    fn candidates(&mut self, who: Who) -> Result<Vec<Candidate>, Error> {
        let here = self.model.moves().to_vec();
        let mut found = Vec::new();
        let mut last = self.model.last(who);
        while let Some(next) = self.model.step(who) {
            let moves = self.model.moves();
            let before = moves[..moves.len() - 1].to_vec();
            self.add(&mut found, who, before, last.as_ref(), Some(&next));
            last = Some(next);
        }
        let moves = self.model.moves().to_vec();
        self.add(&mut found, who, moves, last.as_ref(), None);
        self.model.rewind(&here);
        Ok(found)
    }

    fn add(
        &self,
        found: &mut Vec<Candidate>,
        who: Who,
        moves: Vec<Move>,
        last: Option<&TraceStep>,
        next: Option<&TraceStep>,
    ) {
        let number = who.number();
        let taken = moves.iter().filter(|step| usize::from(step.thread) == number).count();
        let here = self
            .sites
            .iter()
            .filter(|site| taken > 0 && site.who == who && is_at(site.place, last, next));
        found.extend(here.map(|site| Candidate { taken, moves: moves.clone(), site }));
    }

    /// Adds the threads' ends, drives the model by the plan from the start, as a replay will, and asks for the violation.
    fn ends_well(&mut self) -> Result<bool, Error> {
        self.tried += 1;
        let (here, steps) = (self.model.moves().to_vec(), self.steps.clone());
        for (who, name) in [(Who::Client, "done"), (Who::Smmu, "bound")] {
            let site = self.sites.iter().find(|site| site.name == name);
            self.steps.extend(site.map(|site| Step { who, site }));
        }
        let violated = self.runs()? && {
            let trace = self.model.trace()?;
            let violated = trace.violated();
            self.wanted.iter().all(|name| violated.contains(&name.as_str()))
        };
        if !violated {
            self.steps = steps;
            self.model.rewind(&here);
        }
        Ok(violated)
    }

    /// Drives the model by the steps, and drops those that move nobody. Says whether every place is reached.
    fn runs(&mut self) -> Result<bool, Error> {
        self.model.rewind(&[]);
        let mut moving = Vec::new();
        for step in std::mem::take(&mut self.steps) {
            let before = self.model.moves().len();
            if self.model.advance(step.who, step.site.place)? != ModelEnd::Reached {
                return Ok(false);
            }
            if self.model.moves().len() > before {
                moving.push(step);
            }
        }
        self.steps = moving;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Board;
    use crate::outcome::{BadEnd, Outcome};
    use crate::plan::protocol_of;
    use crate::predict::predict;
    use portcullis_lab::linux::{self, Budget};

    /// The lab's own schedule of a property, moved to stops, and what the lab predicts of the moved one.
    fn moved(version: (u32, u32, u32), board: &str, property: &str) -> (Plan, Outcome) {
        let world = Board::find(board).expect("a board").world();
        let protocol = protocol_of(version).expect("a known version");
        let report =
            linux::check(&protocol, &world, Budget::default(), &mut |_| {}).expect("the lab runs");
        let found = report.violations.iter().find(|found| found.name == property);
        let names: Vec<_> = report.violations.iter().map(|found| found.name).collect();
        let schedule = &found.unwrap_or_else(|| panic!("{version:?} {board}: {names:?}")).schedule;
        let (protocol, world, trace) = linux::replay(schedule).expect("the lab's own schedule");
        let plan = compile(&protocol, &world, &trace, version).expect("it can be moved");
        let outcome = predict(&protocol, &world, &plan).expect("the lab runs").outcome;
        (plan, outcome)
    }

    #[test]
    fn schedules_of_the_lab_keep_their_violation_when_moved_to_stops() {
        for (version, board, property, end) in [
            ((6, 1, 192), "nvme-two", "wrong-path", BadEnd::WrongPath),
            ((6, 12, 118), "nvme", "no-iommu", BadEnd::NoIommu),
            ((7, 3, 4), "nvme", "no-group-at-claim", BadEnd::PathSwitched),
            ((7, 3, 4), "virtio-mmio", "uncounted", BadEnd::Uncounted),
        ] {
            let (plan, outcome) = moved(version, board, property);
            let Outcome::Occurred { ends } = &outcome else {
                panic!("{version:?} {board} {property}: {outcome}")
            };
            let steps: Vec<_> = plan.steps.iter().map(|step| (step.who, step.site.name)).collect();
            assert!(ends.contains(&end), "{version:?} {board} {property}: {outcome} by {steps:?}");
            let last = plan.steps.last().map(|step| step.site.name);
            assert!(
                matches!(last, Some("done" | "bound")),
                "{last:?}: both threads are led to their ends"
            );
        }
    }

    #[test]
    fn a_schedule_that_needs_another_thread_is_refused() {
        let world = Board::find("nvme").expect("a board").world();
        let protocol = protocol_of((6, 12, 118)).expect("a known version");
        let mut model = Model::new(&protocol, &world);
        model.finish().expect("the lab runs");
        let mut trace = model.trace().expect("the lab runs");
        trace.steps[0].thread = 2;
        let error = turns(&trace).expect_err("a third thread");
        assert!(error.to_string().contains("deferred-probe worker"), "{error}");
    }
}
