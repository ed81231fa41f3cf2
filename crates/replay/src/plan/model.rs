//! Driving the lab's model by the same advances as the kernel.

use super::Who;
use super::map::Place;
use crate::error::Error;
use crate::steer::{Doorbell, Observation, Path};
use portcullis_explore::proto;
use portcullis_explore::schedule::{Move, Schedule};
use portcullis_explore::search::{Action, Object, ThreadStatus, Trace, TraceStep};
use portcullis_lab::linux::{self, Protocol, World};
use std::collections::BTreeMap;

/// A thread of a model takes fewer steps than this between two places.
const MOST_STEPS: usize = 400;

/// How an advance ended in the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModelEnd {
    /// At the place.
    Reached,
    /// The thread finished before it.
    Finished,
    /// The thread died of an oops before it.
    Died,
    /// It waits for something that only the other thread can give.
    Blocked(String),
}

/// The fields at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The client as the kernel would be observed.
    pub(crate) client: Observation,
    /// How the client's driver mapped its first buffer, if it has.
    pub(crate) first_mapping: Option<Path>,
    /// A DMA domain translates what the client does, messages included.
    pub(crate) translated: bool,
}

/// A protocol in a board's world, at some moment.
#[derive(Debug)]
pub(crate) struct Model {
    protocol: proto::Protocol,
    world: World,
    moves: Vec<Move>,
    initial: BTreeMap<Object, String>,
}

impl Model {
    /// The start.
    pub(crate) fn new(protocol: &Protocol, world: &World) -> Self {
        let protocol = linux::build(protocol, world);
        let initial = protocol.initial().into_iter().collect();
        Self { protocol, world: world.clone(), moves: Vec::new(), initial }
    }

    /// At another moment.
    pub(crate) fn at(&self, moves: Vec<Move>) -> Result<Trace, Error> {
        let schedule = Schedule::new(self.protocol.world(), moves);
        self.protocol
            .replay(&schedule)
            .map_err(|error| Error::Schedule(format!("the lab: {error}")))
    }

    /// What was done so far.
    pub(crate) fn trace(&self) -> Result<Trace, Error> {
        self.at(self.moves.clone())
    }

    /// The moves so far.
    pub(crate) fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// Goes back to a moment that [`Model::moves`] gave.
    pub(crate) fn rewind(&mut self, moves: &[Move]) {
        self.moves = moves.to_vec();
    }

    /// Takes one step of a thread; nothing if it cannot.
    pub(crate) fn step(&mut self, who: Who) -> Option<TraceStep> {
        let mut moves = self.moves.clone();
        moves.push(Move { thread: who.number() as u16, choice: 0 });
        let trace = self.at(moves.clone()).ok()?;
        self.moves = moves;
        trace.steps.into_iter().next_back()
    }

    /// The step that a thread would take next.
    pub(crate) fn next(&self, who: Who) -> Option<TraceStep> {
        let mut moves = self.moves.clone();
        moves.push(Move { thread: who.number() as u16, choice: 0 });
        self.at(moves).ok()?.steps.into_iter().next_back()
    }

    /// The step that a thread took last.
    pub(crate) fn last(&self, who: Who) -> Option<TraceStep> {
        let trace = self.trace().ok()?;
        trace.steps.into_iter().rev().find(|step| step.thread == who.number())
    }

    /// Lets a thread run to a place.
    pub(crate) fn advance(&mut self, who: Who, place: Place) -> Result<ModelEnd, Error> {
        let mut last = self.last(who);
        for _ in 0..MOST_STEPS {
            let next = self.next(who);
            if next.is_none() && oopsed(&self.trace()?, who) {
                return Ok(ModelEnd::Died);
            }
            if last.is_some() && is_at(place, last.as_ref(), next.as_ref()) {
                return Ok(ModelEnd::Reached);
            }
            if next.is_none() {
                return self.stuck(who);
            }
            last = self.step(who);
        }
        Err(Error::Schedule("the lab: a thread that never ends".into()))
    }

    /// Why a thread has no next step.
    fn stuck(&self, who: Who) -> Result<ModelEnd, Error> {
        let trace = self.trace()?;
        let number = who.number();
        Ok(match trace.status.get(number) {
            Some(ThreadStatus::Blocked) => {
                let waits = trace.waiting.get(number).and_then(Option::as_ref);
                ModelEnd::Blocked(waits.map(ToString::to_string).unwrap_or_default())
            }
            _ => ModelEnd::Finished,
        })
    }

    /// Lets everything run to its end, the two threads first.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        let threads = self.protocol.thread_names().len();
        for _ in 0..MOST_STEPS * threads {
            let step = (0..threads).find_map(|thread| {
                let mut moves = self.moves.clone();
                moves.push(Move { thread: thread as u16, choice: 0 });
                self.at(moves.clone()).ok().map(|_| moves)
            });
            match step {
                Some(moves) => self.moves = moves,
                None => return Ok(()),
            }
        }
        Err(Error::Schedule("the lab: a run that never ends".into()))
    }

    /// The fields now.
    pub(crate) fn state(&self) -> Result<State, Error> {
        let mut fields = self.initial.clone();
        let trace = self.trace()?;
        for change in trace.steps.iter().flat_map(|step| &step.report.changes) {
            fields.insert(change.field.clone(), change.after.clone());
        }
        let client = self.world.client_name(0);
        let value = |owner: &str, name: &str| {
            fields.get(&Object::of(owner, name)).map_or("", String::as_str)
        };
        let of_client = |name: &str| value(client, name);
        let of_group = |name: &str| value("group 0", name);
        let group = of_client("dev->iommu_group") == "set";
        let domain = |name: &str| {
            Some(of_group(name)).filter(|value| group && !matches!(*value, "NULL" | ""))
        };
        let path = |value: &str| {
            if value.starts_with("iommu-dma") { Path::IommuDma } else { Path::Direct }
        };
        Ok(State {
            first_mapping: match of_client("first mapping") {
                "none" | "" => None,
                other => Some(path(other)),
            },
            translated: of_client("hardware domain") == "DMA",
            client: Observation {
                group,
                fwspec: !matches!(of_client("fwspec"), "NULL" | ""),
                default_domain: domain("default_domain").map(|value| {
                    if value.ends_with("DMA") { "DMA".into() } else { value.to_owned() }
                }),
                domain: domain("domain").is_some(),
                owner_cnt: if group { of_group("owner_cnt").parse().unwrap_or(0) } else { 0 },
                path: path(of_client("DMA path")),
                driver: of_client("dev->driver") == "set",
                doorbell: match of_client("MSI doorbell") {
                    "physical address" => Doorbell::Physical,
                    "mapped" => Doorbell::Mapped,
                    _ => Doorbell::None,
                },
            },
        })
    }
}

/// Has a thread died of an oops?
fn oopsed(trace: &Trace, who: Who) -> bool {
    let mut own = trace.steps.iter().filter(|step| step.thread == who.number());
    own.any(|step| step.report.changes.iter().any(|change| change.field.name == "oops"))
}

/// Is a thread at `place` between its last and its next step?
pub(crate) fn is_at(place: Place, last: Option<&TraceStep>, next: Option<&TraceStep>) -> bool {
    let inside = |step: Option<&TraceStep>, function: &str| {
        step.is_some_and(|step| step.label.functions.contains(&function))
    };
    match place {
        Place::Enter(function) => inside(next, function) && !inside(last, function),
        Place::Leave(function) => inside(last, function) && !inside(next, function),
        Place::Unlocked(function) => last.is_some_and(|step| {
            let site = &step.label.site;
            site.function == function
                && site.action == Action::Unlock
                && site.object == "iommu_probe_device_lock"
        }),
        Place::Storing(function, object) => next.is_some_and(|step| {
            let site = &step.label.site;
            site.function == function && site.action == Action::Write && site.object == object
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Board;
    use crate::plan::protocol_of;
    use portcullis_lab::linux::Budget;

    /// The lab's own schedule of a property that a thread dies of, led on.
    #[test]
    fn a_thread_that_dies_comes_to_no_place() {
        let protocol = protocol_of((7, 3, 4)).expect("a known version");
        let world = Board::find("nvme").expect("a board").world();
        let report =
            linux::check(&protocol, &world, Budget::default(), &mut |_| {}).expect("the lab runs");
        let found = report.violations.iter().find(|found| found.name == "null-iova");
        let schedule: Schedule = found.expect("7.3 has it").schedule.parse().expect("a schedule");
        let mut model = Model::new(&protocol, &world);
        model.rewind(&schedule.moves);
        let end = model.advance(Who::Client, Place::Leave("really_probe")).expect("the lab runs");
        assert_eq!(end, ModelEnd::Died);
        let end = model.advance(Who::Smmu, Place::Leave("really_probe")).expect("the lab runs");
        assert_eq!(end, ModelEnd::Reached);
    }
}
