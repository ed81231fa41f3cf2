//! The reduction against plain enumeration, on many small random programs: the same traces, each once, and the same end states.

use super::{Dpor, Node};
use crate::enumerate::Enumerate;
use crate::execute::{Director, Ending, Executor, Stage};
use crate::random::Rng;
use crate::runtime::Failure;
use crate::sync::{LabEvent, LabLock};
use crate::world::World;
use crate::{Budget, Explorer, Strategy, Violation, choose, step};
use portcullis_platform::{LockLabel, Mutex, RawEvent, RawLock};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// A statement of a random program.
#[derive(Clone, Debug)]
enum Statement {
    /// Hold a lock around the body.
    Locked(usize, Vec<Statement>),
    /// Hold a lock around the body if it is free.
    Tried(usize, Vec<Statement>),
    /// Read a variable into what the thread has seen.
    Read(usize),
    /// Write what the thread has seen into a variable.
    Write(usize),
    /// Read a generation, do the body, wait for a change unless the body saw an odd sum.
    Await(Vec<Statement>),
    Notify,
    Choose,
    Spawn(Vec<Statement>),
}

const VARIABLES: usize = 2;
const LOCKS: usize = 2;

/// Which statements a family of programs may use.
#[derive(Clone, Copy, Debug)]
struct Family {
    tried: bool,
    events: bool,
    choices: bool,
    spawns: bool,
}

fn statement(rng: &mut Rng, family: Family, depth: u32, left: &mut u32) -> Statement {
    *left = left.saturating_sub(1);
    let body = |rng: &mut Rng, left: &mut u32| {
        let n = rng.below(3);
        (0..n).map_while(|_| (*left > 0).then(|| statement(rng, family, depth + 1, left))).collect()
    };
    let at = rng.below(2) as usize;
    match rng.below(if depth < 2 { 12 } else { 6 }) {
        0..3 => Statement::Read(at),
        3..5 => Statement::Write(at),
        5 if family.choices => Statement::Choose,
        6 if family.tried => Statement::Tried(at, body(rng, left)),
        7 if family.events => Statement::Await(body(rng, left)),
        8 if family.spawns && depth == 0 => Statement::Spawn(body(rng, left)),
        5..7 if family.events => Statement::Notify,
        7.. => Statement::Locked(at, body(rng, left)),
        _ => Statement::Write(at),
    }
}

struct Shared {
    variables: RefCell<[u64; VARIABLES]>,
    locks: Vec<LabLock>,
    /// A second kind of lock use, through the typed mutex.
    total: Mutex<u64, LabLock>,
    event: LabEvent,
    seen: RefCell<Vec<(usize, u64)>>,
}

fn run(shared: &Rc<Shared>, body: &[Statement], mine: &mut u64) {
    for statement in body {
        match statement {
            Statement::Locked(lock, body) => {
                shared.locks[*lock].lock();
                run(shared, body, mine);
                unlock(&shared.locks[*lock]);
            }
            Statement::Tried(lock, body) => {
                if shared.locks[*lock].try_lock() {
                    run(shared, body, mine);
                    unlock(&shared.locks[*lock]);
                } else {
                    *mine = *mine * 31 + 7;
                }
            }
            Statement::Read(variable) => {
                step("variable", *variable as u64, "read", false);
                *mine = *mine * 31 + shared.variables.borrow()[*variable];
            }
            Statement::Write(variable) => {
                step("variable", *variable as u64, "write", true);
                shared.variables.borrow_mut()[*variable] = *mine;
            }
            Statement::Await(body) => {
                let generation = shared.event.generation();
                run(shared, body, mine);
                if mine.is_multiple_of(2) {
                    shared.event.wait(generation);
                    *mine += 1;
                }
            }
            Statement::Notify => shared.event.notify_all(),
            Statement::Choose => *mine = *mine * 31 + u64::from(choose(2)),
            Statement::Spawn(body) => {
                let (shared, body) = (Rc::clone(shared), body.clone());
                crate::spawn("child", move || thread(&shared, 100, &body));
            }
        }
    }
}

#[expect(unsafe_code, reason = "random programs use the raw seam, so that sections need not nest")]
fn unlock(lock: &LabLock) {
    // SAFETY: the only caller took it in the same thread.
    unsafe { lock.unlock() }
}

fn thread(shared: &Rc<Shared>, id: usize, body: &[Statement]) {
    let mut mine = id as u64 * 2;
    run(shared, body, &mut mine);
    let mut total = shared.total.lock();
    *total = *total * 3 + mine;
    shared.seen.borrow_mut().push((id, mine));
}

fn build(program: &[Vec<Statement>], result: &Rc<RefCell<String>>, w: &mut World) {
    let label = |index| LockLabel::new("lock", index);
    let shared = Rc::new(Shared {
        variables: RefCell::default(),
        locks: (0..LOCKS as u64).map(|lock| LabLock::new(label(lock))).collect(),
        total: Mutex::new(LockLabel::new("total", 0), 0),
        event: LabEvent::new(LockLabel::new("event", 0)),
        seen: RefCell::default(),
    });
    for (id, body) in program.iter().enumerate() {
        let (shared, body) = (Rc::clone(&shared), body.clone());
        w.thread("thread", move || thread(&shared, id, &body));
    }
    let result = Rc::clone(result);
    w.at_end("observed", move || {
        let mut seen = shared.seen.take();
        seen.sort_unstable();
        let total = *shared.total.lock();
        *result.borrow_mut() = format!("{seen:?} {:?} {total}", shared.variables.borrow());
        Ok(())
    });
}

/// What a search found: traces (by fingerprint) and end states, and how many complete runs it took.
#[derive(Debug, Default)]
struct Found {
    traces: BTreeSet<u128>,
    ends: BTreeSet<String>,
    complete: u64,
    runs: u64,
}

/// Runs `search` to its end; `None` when it takes more than `limit` runs.
fn search<D: Director>(
    program: &[Vec<Statement>],
    search: &mut D,
    advance: impl Fn(&mut D) -> bool,
    limit: u64,
) -> Option<Found> {
    let mut executor = Executor::new(64 << 10, 1000);
    executor.stop_at_failure = false;
    executor.trace.hashing = true;
    // Releases as operations everywhere, so that all searches speak of the same events.
    executor.rt.release_points.set(format!("{program:?}").contains("Tried"));
    let mut found = Found::default();
    let result = Rc::new(RefCell::new(String::new()));
    loop {
        let ending = executor.execute(&|w| build(program, &result, w), search);
        found.runs += 1;
        if !matches!(ending, Ending::Pruned) {
            found.complete += 1;
            found.traces.insert(executor.trace.fingerprint_of_all());
            found.ends.insert(match ending {
                Ending::Complete => result.take(),
                Ending::Failed(mut failures) => {
                    failures.sort_by(|a, b| a.message.cmp(&b.message));
                    let text =
                        |failure: &Failure| format!("{}: {}", failure.property, failure.message);
                    format!("Failed: {:?}", failures.iter().map(text).collect::<Vec<_>>())
                }
                ending => unreachable!("{ending:?}"),
            });
        }
        if !search_on(search, &advance) {
            return Some(found);
        }
        if found.runs >= limit {
            return None;
        }
    }
}

fn search_on<D>(search: &mut D, advance: &impl Fn(&mut D) -> bool) -> bool {
    advance(search)
}

/// Sums over the programs of a family.
#[derive(Debug, Default)]
struct Sums {
    programs: u64,
    plain_runs: u64,
    reduced_runs: u64,
    stuck: u64,
}

fn check_family(family: Family, programs: u64, salt: u64) -> Sums {
    let mut sums = Sums::default();
    for seed in 0..programs {
        let mut rng = Rng::new(seed << 8 | salt);
        let program = program(&mut rng, family);
        let enumerate = |remember| Enumerate::new(None, remember);
        let Some(plain) = search(&program, &mut enumerate(false), Enumerate::advance, 2_500) else {
            continue;
        };
        let remembered =
            search(&program, &mut enumerate(true), Enumerate::advance, u64::MAX).expect("no limit");
        let reduced =
            search(&program, &mut Dpor::default(), Dpor::advance, u64::MAX).expect("no limit");
        assert_eq!(reduced.ends, plain.ends, "end states, seed {seed} of {family:?}: {program:#?}");
        assert_eq!(remembered.ends, plain.ends, "remembering, seed {seed}: {program:#?}");
        assert_eq!(reduced.traces, plain.traces, "traces, seed {seed} of {family:?}: {program:#?}");
        assert_eq!(reduced.complete, reduced.traces.len() as u64, "a trace twice, seed {seed}");
        sums.programs += 1;
        sums.plain_runs += plain.runs;
        sums.reduced_runs += reduced.runs;
        sums.stuck += u64::from(plain.ends.iter().any(|end| end.starts_with("Failed")));
    }
    sums
}

/// What a reduction may forget.
#[derive(Clone, Copy, Debug)]
enum Weakness {
    /// That a thread which stays blocked races with who holds the lock.
    Blocked,
    /// That a dependent step wakes a sleeper.
    Waking,
}

/// A reduction with a hole.
#[derive(Debug)]
struct Weak {
    search: Dpor,
    weakness: Weakness,
}

impl Director for Weak {
    fn pick(&mut self, stage: &Stage<'_>, enabled: u32, last: u8) -> Option<u8> {
        self.search.pick(stage, enabled, last)
    }

    fn stepped(&mut self, stage: &Stage<'_>, event: u32, choices: &[(u8, u8)]) {
        self.search.stepped(stage, event, choices);
    }

    fn applied(&mut self, stage: &Stage<'_>, event: u32) {
        let Node::Pick { sleep, done, chosen, .. } = self.search.stack[self.search.depth - 1]
        else {
            unreachable!("a pick was taken a moment ago");
        };
        self.search.applied(stage, event);
        if let Weakness::Waking = self.weakness {
            self.search.sleep = (sleep | done) & !(1 << chosen);
        }
    }

    fn ended(&mut self, stage: &Stage<'_>) {
        if !matches!(self.weakness, Weakness::Blocked) {
            self.search.ended(stage);
        }
    }

    fn choices(&mut self) -> (Vec<u8>, Option<Rng>) {
        self.search.choices()
    }

    fn node(&self) -> u32 {
        self.search.node()
    }
}

/// The comparison notices a reduction that leaves something out.
#[test]
fn a_reduction_with_a_hole_is_noticed() {
    let family = Family { tried: false, events: false, choices: false, spawns: false };
    for weakness in [Weakness::Blocked, Weakness::Waking] {
        let noticed = (0..200).filter(|seed| {
            let program = program(&mut Rng::new(seed << 8), family);
            let mut plain = Enumerate::new(None, true);
            let plain = search(&program, &mut plain, Enumerate::advance, u64::MAX);
            let mut weak = Weak { search: Dpor::default(), weakness };
            let weak = search(&program, &mut weak, |weak| weak.search.advance(), u64::MAX);
            plain.expect("no limit").traces != weak.expect("no limit").traces
        });
        assert!(noticed.count() > 0, "{weakness:?} makes no difference");
    }
}

/// A random program of `family`.
fn program(rng: &mut Rng, family: Family) -> Vec<Vec<Statement>> {
    let threads = 2 + rng.below(2);
    let mut left = 9;
    let mut body = |rng: &mut Rng| {
        (0..1 + rng.below(3)).map(|_| statement(rng, family, 0, &mut left)).collect()
    };
    (0..threads).map(|_| body(rng)).collect()
}

/// The counterexample that an exhaustive exploration ends with is as short as the shortest of all schedules.
#[test]
fn the_shortest_counterexample_is_the_shortest_of_all_schedules() {
    let family = Family { tried: false, events: true, choices: false, spawns: false };
    let (mut compared, mut shortened) = (0, 0);
    for seed in 0..300 {
        let program = program(&mut Rng::new(seed << 8 | 99), family);
        let run = |strategy, shorten| {
            let budget = Budget { executions: 4_000, shorten, ..Budget::default() };
            Explorer::new(budget)
                .strategy(strategy)
                .run(|w| build(&program, &Rc::new(RefCell::new(String::new())), w))
        };
        let all = run(Strategy::Enumerate { remember: false }, 0);
        if !all.complete {
            continue;
        }
        let first = run(Strategy::Exhaustive, 0);
        let best = run(Strategy::Exhaustive, u64::MAX);
        assert_eq!(best.violations.len(), all.violations.len(), "seed {seed}: {program:#?}");
        for (violation, first) in best.violations.iter().zip(&first.violations) {
            let shortest = all.violation(&violation.property).expect("both found it");
            let size = |violation: &Violation| (violation.preemptions, violation.schedule.steps());
            assert!(violation.shortest);
            assert_eq!(size(violation), size(shortest), "seed {seed}: {program:#?}");
            compared += 1;
            shortened += u32::from(size(first) != size(shortest));
        }
    }
    assert!(
        compared > 50 && shortened > 0,
        "{compared} compared, {shortened} were not shortest at first"
    );
}

#[test]
fn the_reduction_finds_every_trace_once_and_every_end() {
    let simple = Family { tried: false, events: false, choices: false, spawns: false };
    let families = [
        (simple, 340),
        (Family { events: true, ..simple }, 300),
        (Family { choices: true, spawns: true, ..simple }, 250),
        (Family { tried: true, ..simple }, 250),
        (Family { tried: true, events: true, choices: true, spawns: true }, 300),
    ];
    let mut compared = 0;
    for (salt, (family, programs)) in families.into_iter().enumerate() {
        let sums = check_family(family, programs, salt as u64);
        println!("{family:?}: {sums:?}");
        assert!(sums.reduced_runs * 10 < sums.plain_runs, "{sums:?}");
        assert!(sums.stuck > 0, "no program of {family:?} deadlocks: the comparison is too easy");
        compared += sums.programs;
    }
    assert!(compared > 1000, "{compared} programs");
}
