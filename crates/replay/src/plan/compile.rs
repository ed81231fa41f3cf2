//! From a schedule of the lab, whose threads change at any step, to one that changes only where a kernel's thread can be parked.
//!
//! Each change of thread is moved to the nearest place of the stop map. Moved steps may matter, so the lab decides: a plan counts only if the model, driven by it on the
//! schedule's own protocol, violates the same property.

use super::map::{Site, sites};
use super::model::{Model, is_at};
use super::{Plan, Step, Who};
use crate::error::Error;
use portcullis_explore::schedule::Move;
use portcullis_explore::search::{Trace, TraceStep};
use portcullis_lab::linux::{Protocol, World};

/// Places that are tried for one change of thread: those nearest to where the schedule has it.
const NEAREST: usize = 5;
/// Plans that are tried in all.
const MOST_PLANS: usize = 20_000;

/// A plan with the same violation as the lab's schedule.
pub(crate) fn compile(
    protocol: &Protocol,
    world: &World,
    trace: &Trace,
    version: (u32, u32, u32),
) -> Result<Plan, Error> {
    let wanted = trace.violated().first().map(|name| (*name).to_owned());
    let wanted =
        wanted.ok_or_else(|| Error::Schedule("nothing is violated on this schedule".into()))?;
    let turns = turns(trace)?;
    let sites: Vec<&'static Site> = sites(version, world.bus).collect();
    let model = Model::new(protocol, world);
    let mut search = Search { model, sites, wanted, turns, steps: Vec::new(), tried: 0 };
    if !search.place(0)? {
        return Err(Error::Schedule(format!(
            "no way to force this schedule with stops: of {} plans none shows {} in the lab",
            search.tried, search.wanted
        )));
    }
    Ok(Plan { name: search.wanted, steps: search.steps })
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
    wanted: String,
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

    /// Lets both threads finish, the plan's last ones by name, and asks for the violation.
    fn ends_well(&mut self) -> Result<bool, Error> {
        self.tried += 1;
        let here = self.model.moves().to_vec();
        let steps = self.steps.len();
        for (who, name) in [(Who::Client, "done"), (Who::Smmu, "bound")] {
            let reached = self.steps.iter().any(|step| step.who == who && step.site.name == name);
            let site = self.sites.iter().find(|site| site.name == name).filter(|_| !reached);
            if let Some(site) = site {
                self.model.advance(who, site.place)?;
                self.steps.push(Step { who, site });
            }
        }
        let violated = self.model.trace()?.violated().contains(&self.wanted.as_str());
        if !violated {
            self.steps.truncate(steps);
            self.model.rewind(&here);
        }
        Ok(violated)
    }
}
