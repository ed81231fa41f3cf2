//! Runs a world in many ways.

use crate::dpor::Dpor;
use crate::enumerate::Enumerate;
use crate::execute::{Director, Ending, Executor};
use crate::report::{LadderStep, Report, Violation};
use crate::runtime::Failure;
use crate::sample::{Follow, Pct, Random};
use crate::schedule::{Schedule, ScheduleError};
use crate::world::World;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Which runs to explore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Every run, up to the order of independent steps: source-set partial-order reduction with sleep sets.
    Exhaustive,
    /// Every run, one by one. With `remember`, a run is abandoned when its prefix is a reordering of one seen before. For cross-checks and tiny worlds.
    Enumerate {
        /// Whether to remember prefixes.
        remember: bool,
    },
    /// Every run with at most `bound` preemptions (a preemption interrupts a thread that could have continued), up to reordering.
    Preemptions {
        /// The bound.
        bound: u16,
    },
    /// `runs` runs, each step drawn with equal chance.
    Random {
        /// Same seed, same runs.
        seed: u64,
        /// How many.
        runs: u64,
    },
    /// `runs` runs by random priorities with `depth - 1` change points.
    Pct {
        /// How many ordering constraints the bug is suspected to need.
        depth: u32,
        /// Same seed, same runs.
        seed: u64,
        /// How many.
        runs: u64,
    },
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhaustive => f.write_str("all traces"),
            Self::Enumerate { remember: false } => f.write_str("all schedules"),
            Self::Enumerate { remember: true } => f.write_str("all prefixes up to reordering"),
            Self::Preemptions { bound } => write!(f, "at most {bound} preemptions"),
            Self::Random { seed, .. } => write!(f, "random, seed {seed}"),
            Self::Pct { depth, seed, .. } => write!(f, "PCT of depth {depth}, seed {seed}"),
        }
    }
}

/// Limits on the cost of an exploration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The maximum number of runs.
    pub executions: u64,
    /// The maximum number of steps of one run; a longer one violates `endless`.
    pub steps: usize,
    /// The maximum time.
    pub time: Duration,
    /// The maximum number of runs spent on shortening each counterexample; 0 keeps the first one.
    pub shorten: u64,
    /// Whether to stop at the first violation.
    pub stop_at_first: bool,
    /// Bytes of stack for each thread.
    pub stack_bytes: usize,
}

impl Default for Budget {
    /// No bound on runs, 10,000 steps a run, an hour, 100,000 runs for a shorter counterexample, all violations, 256 KiB stacks.
    fn default() -> Self {
        Self {
            executions: u64::MAX,
            steps: 10_000,
            time: Duration::from_secs(3600),
            shorten: 100_000,
            stop_at_first: false,
            stack_bytes: 256 << 10,
        }
    }
}

/// The progress of an exploration.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Runs so far.
    pub executions: u64,
    /// Runs per second so far.
    pub rate: f64,
    /// A rough estimate of the completed share, 0..=1, where one is known.
    pub covered: Option<f64>,
    /// Violated properties so far.
    pub violations: usize,
}

type Watch = Box<dyn FnMut(&Progress)>;

/// Explores worlds.
pub struct Explorer {
    budget: Budget,
    strategy: Strategy,
    watch: Option<Watch>,
    stop: Option<Arc<AtomicBool>>,
}

impl fmt::Debug for Explorer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explorer")
            .field("budget", &self.budget)
            .field("strategy", &self.strategy)
            .finish_non_exhaustive()
    }
}

/// The strategies that are searches, behind one interface.
enum Search {
    Traces(Dpor),
    Schedules(Enumerate),
    Random(Random, u64),
    Pct(Pct, u64),
}

impl Search {
    fn new(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Exhaustive => Self::Traces(Dpor::default()),
            Strategy::Enumerate { remember } => Self::Schedules(Enumerate::new(None, remember)),
            Strategy::Preemptions { bound } => Self::Schedules(Enumerate::new(Some(bound), true)),
            Strategy::Random { seed, runs } => Self::Random(Random::new(seed), runs),
            Strategy::Pct { depth, seed, runs } => Self::Pct(Pct::new(depth, seed), runs),
        }
    }

    fn director(&mut self) -> &mut dyn Director {
        match self {
            Self::Traces(search) => search,
            Self::Schedules(search) => search,
            Self::Random(search, _) => search,
            Self::Pct(search, _) => search,
        }
    }

    fn advance(&mut self, executions: u64) -> bool {
        match self {
            Self::Traces(search) => search.advance(),
            Self::Schedules(search) => search.advance(),
            Self::Random(_, runs) | Self::Pct(_, runs) => executions < *runs,
        }
    }

    fn covered(&self, executions: u64) -> Option<f64> {
        match self {
            Self::Traces(search) => Some(search.covered()),
            Self::Schedules(_) => None,
            Self::Random(_, runs) | Self::Pct(_, runs) => Some(executions as f64 / *runs as f64),
        }
    }

    const fn needs_order(&self) -> bool {
        matches!(self, Self::Traces(_) | Self::Schedules(_))
    }
}

impl Explorer {
    /// An exhaustive explorer with that budget.
    pub fn new(budget: Budget) -> Self {
        Self { budget, strategy: Strategy::Exhaustive, watch: None, stop: None }
    }

    /// Explores with `strategy` instead.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Calls `watch` about four times a second.
    pub fn progress(mut self, watch: impl FnMut(&Progress) + 'static) -> Self {
        self.watch = Some(Box::new(watch));
        self
    }

    /// Stops soon after `stop` becomes true; the report says what was covered until then.
    pub fn stop(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Explores the world that `build` fills.
    ///
    /// # Panics
    ///
    /// When `build` panics, or when the same decisions do not lead to the same run.
    pub fn run(mut self, build: impl Fn(&mut World)) -> Report {
        let mut executor = Executor::new(self.budget.stack_bytes, self.budget.steps);
        let mut report = Report { strategy: self.strategy.to_string(), ..Report::default() };
        let begin = Instant::now();
        while !self.explore(&mut executor, &build, &mut report, begin) {
            executor.rt.release_points.set(true);
            report = Report { strategy: self.strategy.to_string(), ..Report::default() };
        }
        for violation in &mut report.violations {
            self.shorten(&mut executor, &build, violation);
        }
        report.time = begin.elapsed();
        report.reached = std::mem::take(&mut *executor.rt.reached.borrow_mut());
        report.observed = std::mem::take(&mut *executor.rt.observed.borrow_mut());
        report
    }

    /// Like [`run`](Self::run), but random strategies use `workers` OS threads, each with its own runs; the other strategies use one.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn run_on(mut self, workers: u64, build: impl Fn(&mut World) + Sync) -> Report {
        let share = |at: u64| match self.strategy {
            Strategy::Random { seed, runs } => {
                Some(Strategy::Random { seed: part(seed, at), runs: runs / workers })
            }
            Strategy::Pct { depth, seed, runs } => {
                Some(Strategy::Pct { depth, seed: part(seed, at), runs: runs / workers })
            }
            _ => None,
        };
        let shares: Option<Vec<_>> = (1..workers).map(share).collect();
        let Some(shares) = shares.filter(|shares| !shares.is_empty()) else {
            return self.run(build);
        };
        let name = self.strategy.to_string();
        let (budget, stop, build) = (self.budget, self.stop.clone(), &build);
        self.strategy = share(0).unwrap_or(self.strategy);
        std::thread::scope(|scope| {
            let helpers = shares.into_iter().map(|strategy| {
                let stop = stop.clone();
                scope.spawn(move || Self { budget, strategy, watch: None, stop }.run(build))
            });
            let helpers: Vec<_> = helpers.collect();
            let mut report = self.run(build);
            for helper in helpers {
                report.add(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            report.strategy = format!("{name}, {workers} OS threads");
            report
        })
    }

    /// `false` when the exploration must start again with releases as operations.
    fn explore(
        &mut self,
        executor: &mut Executor,
        build: &dyn Fn(&mut World),
        report: &mut Report,
        begin: Instant,
    ) -> bool {
        let mut search = Search::new(self.strategy);
        executor.track = search.needs_order();
        executor.trace.hashing = matches!(search, Search::Schedules(_));
        executor.stop_at_failure = !matches!(search, Search::Traces(_));
        let mut next_look = begin + Duration::from_millis(250);
        loop {
            let ending = executor.execute(build, search.director());
            report.executions += 1;
            report.steps += executor.steps as u64;
            report.longest = report.longest.max(executor.steps);
            if matches!(ending, Ending::Restart) {
                return false;
            }
            let violated = note(report, executor, ending, self.budget.steps);
            if violated && self.budget.stop_at_first {
                return true;
            }
            if !search.advance(report.executions) {
                report.complete = search.needs_order();
                report.exhaustive =
                    report.complete && !matches!(self.strategy, Strategy::Preemptions { .. });
                return true;
            }
            if report.executions >= self.budget.executions || self.stopped() {
                return true;
            }
            if report.executions.is_multiple_of(64) {
                let now = Instant::now();
                if now.duration_since(begin) >= self.budget.time {
                    return true;
                }
                if now >= next_look {
                    next_look = now + Duration::from_millis(250);
                    self.look(report, &search, now.duration_since(begin));
                }
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    fn look(&mut self, report: &Report, search: &Search, elapsed: Duration) {
        if let Some(watch) = &mut self.watch {
            watch(&Progress {
                executions: report.executions,
                rate: report.executions as f64 / elapsed.as_secs_f64(),
                covered: search.covered(report.executions),
                violations: report.violations.len(),
            });
        }
    }

    /// Looks for a run with fewer preemptions, then one with fewer steps, that violates the same property; then draws it.
    fn shorten(
        &self,
        executor: &mut Executor,
        build: &dyn Fn(&mut World),
        violation: &mut Violation,
    ) {
        let (mut left, mut found) = (self.budget.shorten, false);
        executor.track = true;
        executor.trace.hashing = true;
        executor.stop_at_failure = true;
        for bound in 0..=violation.preemptions as u16 {
            let mut search = Enumerate::new(Some(bound), true);
            let done = loop {
                if left == 0 || self.stopped() {
                    break false;
                }
                left -= 1;
                let ending = executor.execute(build, &mut search);
                let failures = failures_of(ending, self.budget.steps);
                let same = |failure: &Failure| failure.property == violation.property;
                if let Some(failure) = failures.into_iter().find(same) {
                    let size = |schedule: &Schedule| (schedule.steps(), schedule.switches());
                    let (schedule, preemptions) = run_to(&failure, executor);
                    if !found || size(&schedule) < size(&violation.schedule) {
                        violation.message = failure.message;
                        violation.schedule = schedule;
                        violation.preemptions = preemptions;
                    }
                    found = true;
                }
                if !search.advance() {
                    break true;
                }
            };
            violation.shortest = found && done;
            if found || !done {
                break;
            }
        }
        let mut follow = Follow::new(&violation.schedule);
        violation.ladder = draw(executor, build, &mut follow).1;
    }

    /// Runs the world once, as `schedule` says, and returns the steps and the violation that it leads to, if any: (property, message).
    ///
    /// # Errors
    ///
    /// [`ScheduleError::Misfit`] when it is the schedule of another world.
    pub fn replay(
        &self,
        schedule: &Schedule,
        build: impl Fn(&mut World),
    ) -> Result<Replay, ScheduleError> {
        let mut executor = Executor::new(self.budget.stack_bytes, self.budget.steps);
        let mut follow = Follow::new(schedule);
        let (mut ending, mut ladder) = draw(&mut executor, &build, &mut follow);
        // A schedule of a world that tries locks has steps for releases, which do not fit before that is known.
        if matches!(ending, Ending::Restart) || follow.misfit.is_some() {
            executor.rt.release_points.set(true);
            follow = Follow::new(schedule);
            (ending, ladder) = draw(&mut executor, &build, &mut follow);
        }
        if let Some(step) = follow.misfit {
            return Err(ScheduleError::Misfit { step });
        }
        let violations = failures_of(ending, self.budget.steps)
            .into_iter()
            .map(|failure| (failure.property.into_owned(), failure.message))
            .collect();
        let schedule = Schedule::from(executor.decisions);
        Ok(Replay { schedule, ladder, violations })
    }
}

/// A separate seed for each worker; the first one keeps the seed that was given.
const fn part(seed: u64, worker: u64) -> u64 {
    seed.wrapping_add(worker.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// One requested run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// All its decisions, including those after the end of the given schedule.
    pub schedule: Schedule,
    /// Its steps.
    pub ladder: Vec<LadderStep>,
    /// The properties that it violates, each with the message, in the order of their occurrence.
    pub violations: Vec<(String, String)>,
}

fn failures_of(ending: Ending, limit: usize) -> Vec<Failure> {
    match ending {
        Ending::Failed(failures) => failures,
        Ending::TooLong => vec![Failure {
            property: "endless".into(),
            message: format!("still running after {limit} steps"),
            cut: None,
        }],
        Ending::Complete | Ending::Pruned | Ending::Restart => Vec::new(),
    }
}

/// The executor's last run up to `failure`, and the number of preemptions up to that point.
fn run_to(failure: &Failure, executor: &Executor) -> (Schedule, usize) {
    let (decisions, preemptions) =
        failure.cut.unwrap_or((executor.decisions.len(), executor.preemptions));
    (Schedule::from(executor.decisions[..decisions].to_vec()), preemptions)
}

/// Adds one run's ending to the report; says whether it was a violation.
fn note(report: &mut Report, executor: &Executor, ending: Ending, limit: usize) -> bool {
    match ending {
        Ending::Pruned => report.pruned += 1,
        _ => report.traces += 1,
    }
    let failures = failures_of(ending, limit);
    let violated = !failures.is_empty();
    for failure in failures {
        let cut = failure.cut.unwrap_or((executor.decisions.len(), executor.preemptions));
        let same = |known: &&mut Violation| known.property == failure.property;
        match report.violations.iter_mut().find(same) {
            Some(known)
                if (cut.1, cut.0) >= (known.preemptions, known.schedule.decisions().len()) => {}
            Some(known) => {
                (known.schedule, known.preemptions) = run_to(&failure, executor);
                known.message = failure.message;
            }
            None => {
                let (schedule, preemptions) = run_to(&failure, executor);
                report.violations.push(Violation {
                    property: failure.property.into_owned(),
                    message: failure.message,
                    schedule,
                    preemptions,
                    shortest: false,
                    ladder: Vec::new(),
                });
            }
        }
    }
    violated
}

/// Executes once with every step written down.
fn draw(
    executor: &mut Executor,
    build: &dyn Fn(&mut World),
    follow: &mut Follow<'_>,
) -> (Ending, Vec<LadderStep>) {
    executor.rt.recording.set(true);
    executor.stop_at_failure = true;
    let ending = executor.execute(build, follow);
    executor.rt.recording.set(false);
    let names = std::mem::take(&mut executor.names);
    let steps = executor.shots.drain(..).map(|shot| LadderStep {
        thread: usize::from(shot.thread),
        thread_name: names.get(usize::from(shot.thread)).cloned().unwrap_or_default(),
        action: shot.action,
        object: shot.object,
        notes: shot.notes,
        held: shot.held,
    });
    (ending, steps.collect())
}
