//! Bounds, chance, limits, and the kinds of violation.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use portcullis_explore::proto::{Builder, Protocol};
use portcullis_explore::schedule::{Move, Schedule};
use portcullis_explore::search::{
    Control, Object, Outcome, Progress, PropertyKind, ReplayError, Strategy, ThreadStatus, Verdict,
};

use crate::models::protocol::comparison;

fn explore(protocol: &Protocol, strategy: Strategy) -> Outcome {
    let outcome = protocol.explore(strategy, &mut Control::default()).unwrap();
    for violation in &outcome.violations {
        let trace = protocol.replay(&violation.schedule).unwrap();
        assert!(trace.violated().contains(&violation.property.as_str()), "{violation:?}");
    }
    outcome
}

const REDUCED: Strategy = Strategy::Exhaustive { reduce: true };
const BOTH: [Strategy; 2] = [REDUCED, Strategy::Exhaustive { reduce: false }];

#[test]
fn the_bug_needs_one_preemption() {
    let buggy = comparison(1, 1, false);
    let none = explore(&buggy, Strategy::Bounded { preemptions: 0 });
    assert_eq!((none.verdict(), none.complete, none.exhaustive()), (Verdict::Bounded, true, false));
    let one = explore(&buggy, Strategy::Bounded { preemptions: 1 });
    assert_eq!(one.verdict(), Verdict::Violated);
    assert_eq!(one.violations[0].schedule.switches(), 1);
}

#[test]
fn enough_preemptions_reach_every_end() {
    let full = explore(&comparison(2, 1, false), Strategy::Exhaustive { reduce: false });
    let bounded = explore(&comparison(2, 1, false), Strategy::Bounded { preemptions: 40 });
    let names = |o: &Outcome| o.violations.iter().map(|v| v.property.clone()).collect::<Vec<_>>();
    assert_eq!(names(&full), names(&bounded));
}

#[test]
fn chance_finds_the_bug_and_the_seed_repeats_it() {
    let buggy = comparison(3, 2, false);
    let fixed = comparison(3, 2, true);
    for strategy in [
        Strategy::Random { runs: 500, seed: 7 },
        Strategy::Pct { depth: 2, runs: 500, seed: 7 },
        Strategy::Pct { depth: 3, runs: 500, seed: 7 },
    ] {
        let (once, again) = (explore(&buggy, strategy), explore(&buggy, strategy));
        assert!(once.violation("right DMA").is_some(), "{strategy:?}");
        assert_eq!(once.violations, again.violations);
        assert_eq!((once.schedules, once.states), (500, again.states));
        assert_eq!(explore(&fixed, strategy).verdict(), Verdict::Bounded);
    }
}

#[test]
fn depth_one_never_switches_a_running_thread() {
    // The bug needs one preemption, so priorities that never change cannot find it.
    let outcome = explore(&comparison(1, 1, false), Strategy::Pct { depth: 1, runs: 500, seed: 1 });
    assert!(outcome.violations.is_empty());
}

#[test]
fn a_stop_and_a_limit_end_a_search_and_say_so() {
    let protocol = comparison(4, 2, true);
    let stop = AtomicBool::new(true);
    let mut control = Control { stop: Some(&stop), ..Control::default() };
    let stopped = protocol.explore(REDUCED, &mut control).unwrap();
    assert_eq!((stopped.complete, stopped.verdict()), (false, Verdict::Bounded));
    let mut last: Option<Progress> = None;
    let mut listen = |p: &Progress| last = Some(*p);
    let mut control =
        Control { max_states: Some(1_500), progress: Some(&mut listen), ..Control::default() };
    let limited = protocol.explore(REDUCED, &mut control).unwrap();
    assert!(!limited.complete && limited.states >= 1_500 && limited.states < 20_000);
    let last = last.unwrap();
    assert!(last.done);
    assert_eq!((last.states, last.transitions), (limited.states, limited.transitions));
}

/// Two threads, two mutexes, in this order or in both.
fn two_locks(reversed: bool) -> Protocol {
    let mut b = Builder::new();
    let (first, second) = (b.mutex("A"), b.mutex("B"));
    for swapped in [false, reversed] {
        let (outer, inner) = if swapped { (second, first) } else { (first, second) };
        b.thread(if swapped { "BA" } else { "AB" }, move |t| {
            t.lock(outer, "outer")?;
            t.lock(inner, "inner")?;
            t.unlock(inner)?;
            t.unlock(outer)
        });
    }
    b.build("two-locks")
}

#[test]
fn a_deadlock_is_found_with_where_each_thread_waits() {
    for strategy in BOTH {
        let protocol = two_locks(true);
        let outcome = explore(&protocol, strategy);
        let [deadlock] = &outcome.violations[..] else { panic!("{:?}", outcome.violations) };
        assert_eq!(deadlock.kind, PropertyKind::Deadlock);
        assert_eq!(deadlock.schedule.moves.len(), 2);
        let trace = protocol.replay(&deadlock.schedule).unwrap();
        assert_eq!(trace.status, [ThreadStatus::Blocked; 2]);
        assert_eq!(trace.waiting[1].as_ref().unwrap().to_string(), "BA: lock A (inner)");
        assert_eq!(trace.steps[1].report.held, [[Object::from("A")], [Object::from("B")]]);
        assert_eq!(explore(&two_locks(false), strategy).verdict(), Verdict::Clean);
    }
}

/// A worker that sleeps until kicked. The client looks whether there is work to wait for and then sleeps in two
/// steps; `atomic` closes the gap.
fn wake_up(atomic: bool) -> Protocol {
    let mut b = Builder::new();
    let lock = b.mutex("lock");
    let (ready, kicked, done) = (b.field("ready", 1), b.field("kicked", 1), b.field("done", 1));
    b.thread("client", move |t| {
        let ready_now = if atomic {
            t.lock(lock, "")?;
            let ready_now = t.is_set(ready, "")?;
            t.write(kicked, false, "register")?;
            t.unlock(lock)?;
            ready_now
        } else {
            let ready_now = t.is_set(ready, "")?;
            t.write(kicked, false, "register, too late")?;
            ready_now
        };
        if !ready_now {
            t.wait_idle("the kick", move |v| v.is_set(kicked))?;
        }
        t.write(done, true, "")
    });
    b.thread("registrar", move |t| {
        t.locked(lock, "", |t| {
            t.write(ready, true, "")?;
            t.write(kicked, true, "kick")
        })
    });
    b.eventually("client done", move |v| v.is_set(done));
    b.sometimes("client waits", move |v| !v.is_set(done) && v.is_set(ready));
    b.sometimes("impossible", move |v| v.is_set(done) && !v.is_set(ready));
    b.build("wake-up")
}

#[test]
fn a_lost_wake_up_is_an_eventually_that_does_not_come() {
    for strategy in BOTH {
        let outcome = explore(&wake_up(false), strategy);
        assert_eq!(outcome.violations.len(), 1);
        assert_eq!(outcome.violations[0].property, "client done");
        assert_eq!(outcome.violations[0].kind, PropertyKind::Eventually);
        let closed = explore(&wake_up(true), strategy);
        assert_eq!(closed.verdict(), Verdict::Clean);
        assert!(closed.reached[0].schedule.is_some(), "the model is not vacuous");
        assert!(closed.reached[1].schedule.is_none());
    }
}

#[test]
fn a_worker_that_loops_for_ever_has_finitely_many_states() {
    let mut b = Builder::new();
    let (work, ticks) = (b.field("work", 1), b.field("ticks", 2));
    b.thread("worker", move |t| {
        t.repeat(|t| {
            t.wait_idle("work", move |v| v.is_set(work))?;
            t.write(work, false, "taken")?;
            Ok(ControlFlow::<()>::Continue(()))
        })
    });
    b.thread("source", move |t| {
        t.repeat(|t| {
            t.wait_until("taken", move |v| !v.is_set(work))?;
            let tick = t.read(ticks, "")?;
            t.write(ticks, (tick + 1) % 4, "")?;
            t.write(work, true, "")?;
            Ok(ControlFlow::<()>::Continue(()))
        })
    });
    let protocol = b.build("worker");
    for strategy in BOTH {
        let outcome = explore(&protocol, strategy);
        assert_eq!(outcome.verdict(), Verdict::Clean);
        assert!(outcome.states < 100);
    }
    assert!(protocol.local_states().iter().all(|&n| n < 20));
}

#[test]
fn a_schedule_of_another_world_is_refused() {
    let protocol = two_locks(true);
    let foreign = Schedule::new("elsewhere", Vec::new());
    assert!(matches!(protocol.replay(&foreign), Err(ReplayError::World { .. })));
    let step = |thread, choice| Move { thread, choice };
    for (at, moves) in [
        (1, vec![step(0, 0), step(0, 1)]),
        (0, vec![step(9, 0)]),
        (2, vec![step(0, 0), step(1, 0), step(0, 0)]),
    ] {
        let error = protocol.replay(&Schedule::new("two-locks", moves)).unwrap_err();
        assert!(matches!(error, ReplayError::NoStep { at: found, .. } if found == at), "{error}");
    }
}
