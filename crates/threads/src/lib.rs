//! Systematic exploration of shipped code: the same functions that a kernel links, run in every order of their locks, waits and shared accesses.
//!
//! A [`World`] is a closure that builds a fresh instance of the code under test and gives it threads. [`Explorer`] runs it again and again, each time in
//! another order, until every order that could matter was run. The code under test is not changed: it is generic over the platform's
//! [`Threads`](portcullis_platform::Threads), and here these are [`LabThreads`]: [`LabLock`], [`LabIrqLock`], [`LabEvent`] and [`LabAtomic`].
//!
//! ```
//! use portcullis_platform::{LockLabel, Mutex};
//! use portcullis_threads::{Budget, Explorer, LabLock};
//! use std::sync::Arc;
//!
//! let report = Explorer::new(Budget::default()).run(|w| {
//!     let lock = |index| Arc::new(Mutex::<(), LabLock>::new(LockLabel::new("lock", index), ()));
//!     let (a, b) = (lock(0), lock(1));
//!     let (c, d) = (Arc::clone(&a), Arc::clone(&b));
//!     w.thread("P1", move || {
//!         let _a = a.lock();
//!         let _b = b.lock();
//!     });
//!     w.thread("P2", move || {
//!         let _d = d.lock();
//!         let _c = c.lock();
//!     });
//! });
//! let deadlock = report.violation("deadlock").expect("the two orders");
//! assert_eq!(deadlock.schedule.to_string(), "0.1");
//! assert!(report.exhaustive && deadlock.shortest);
//! ```
//!
//! # What a step is
//!
//! Threads are stackful coroutines on one OS thread. One is switched away from only where it takes a lock, reads, waits for or notifies an event, reads or changes an
//! atomic, or calls [`step`]; what follows until its next such point, the release of locks included, belongs to the step. That loses nothing: in safe Rust
//! everything else that threads share is behind one of those locks, and giving a lock back early can only let more happen. One exception: code that calls
//! `try_lock` can tell how long a lock was held, so the first `try_lock` starts the exploration anew with every release a step of its own.
//! [`choose`] is a choice of the environment; all values are taken.
//!
//! # What is a violation
//!
//! A deadlock, a lost wake-up (everybody who is left waits for an event; a [`World::daemon`] may), a lock taken twice, a wait under a short lock, a panic, a run that does not end,
//! whatever the code reports with [`violation`], and whatever [`World::at_end`] finds. [`reached`] counts good states, so that a
//! world does not pass because nothing happens in it.
//!
//! # What is covered
//!
//! [`Strategy::Exhaustive`] runs every Mazurkiewicz trace (every set of runs that differ only in the order of independent steps) at least once, by
//! source-set dynamic partial-order reduction with sleep sets; the argument, with locks, waits and choices, is in `docs/explorer-threads.md`. The
//! other strategies say in the [`Report`] what they covered. Tests compare the reduction with plain enumeration on random programs: the same
//! traces, each once, and the same end states.
//!
//! A counterexample is made as short as it can be: no run with fewer preemptions shows the violation, and none with as few preemptions and fewer steps
//! ([`Violation::shortest`] says whether that was proven within the budget). It is a short text that replays: [`Schedule`].
//!
//! # Not supported
//!
//! Weak memory: everything is sequentially consistent. Atomics of the code under test that are not [`LabAtomic`]s are not seen unless it tells through [`step`]; two
//! accesses in one step are not interleaved. More than 32 threads, or more than 65,535 steps of one thread. Fairness: a spinning thread ends at the step limit, as a violation. Destructors
//! that panic while a given-up run is unwound abort the process. Exploring one world exhaustively on several OS threads (random strategies can: [`Explorer::run_on`]).
//!
//! Dependency rule: uses `platform`, the text of schedules from `explore`, and the coroutine crate; knows nothing of IOMMUs. `std`. `unsafe` only in `runtime` (switching) and `sync` (the seam's contract).

mod ambient;
mod dpor;
mod enumerate;
mod execute;
mod explorer;
mod op;
mod random;
mod report;
mod runtime;
mod sample;
mod schedule;
mod sync;
mod tape;
mod trace;
mod world;

pub use ambient::{
    changed, choose, current, is_abandoned, observe, reached, spawn, step, violation,
};
pub use explorer::{Budget, Explorer, Progress, Replay, Strategy};
pub use report::{Action, LadderStep, Note, Report, Violation};
pub use schedule::{Decision, Schedule, ScheduleError};
pub use sync::{LabAtomic, LabEvent, LabIrqLock, LabLock, LabThreads};
pub use world::World;
