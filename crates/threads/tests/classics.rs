//! Problems whose answers are known.

use portcullis_platform::{LockLabel, Mutex, RawEvent, RawLock};
use portcullis_threads::{
    Budget, Explorer, LabEvent, LabLock, Report, Schedule, ScheduleError, Strategy, World, choose,
    observe, reached, spawn, step, violation,
};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

type Lock<T> = Mutex<T, LabLock>;

fn exhaust(build: impl Fn(&mut World)) -> Report {
    let report = Explorer::new(Budget::default()).run(build);
    assert!(report.exhaustive, "{report}");
    report
}

fn clean(build: impl Fn(&mut World)) -> Report {
    let report = exhaust(build);
    assert!(report.is_clean(), "{report}");
    report
}

fn lock<T>(class: &'static str, index: u64, data: T) -> Arc<Lock<T>> {
    Arc::new(Lock::new(LockLabel::new(class, index), data))
}

#[expect(unsafe_code, reason = "the raw seam is what is tested")]
fn unlock(lock: &LabLock) {
    // SAFETY: both callers have just taken it.
    unsafe { lock.unlock() }
}

/// `n` writers of one variable have n! traces.
#[test]
fn writers_of_one_variable_have_as_many_traces_as_orders() {
    for (n, traces) in [(1, 1), (2, 2), (3, 6), (4, 24), (5, 120), (6, 720)] {
        let report = clean(|w| {
            (0..n).for_each(|_| w.thread("writer", || step("x", 0, "write", true)));
        });
        assert_eq!((report.traces, report.pruned), (traces, 0), "{n} writers");
    }
}

/// One writer and `n` readers: each reader sees the old or the new value, 2^n traces.
#[test]
fn readers_only_race_with_the_writer() {
    for n in 1..8 {
        let report = clean(|w| {
            w.thread("writer", || step("x", 0, "write", true));
            (0..n).for_each(|_| w.thread("reader", || step("x", 0, "read", false)));
        });
        assert_eq!(report.traces, 1 << n, "{n} readers");
    }
}

/// Threads that share nothing have one trace, however long they are.
#[test]
fn threads_that_share_nothing_have_one_trace() {
    let report = clean(|w| {
        for thread in 0..6 {
            w.thread("alone", move || (0..20).for_each(|_| step("own", thread, "work", true)));
        }
    });
    assert_eq!((report.executions, report.traces, report.steps), (1, 1, 120));
}

/// `n` threads that enter one critical section `k` times each: (nk)! / (k!)^n orders.
#[test]
fn critical_sections_are_ordered_in_every_way() {
    for (n, k, traces) in [(2, 1, 2), (2, 2, 6), (3, 1, 6), (3, 2, 90), (2, 4, 70), (4, 2, 2520)] {
        let report = clean(|w| {
            let total = lock("total", 0, 0_u32);
            for _ in 0..n {
                let total = Arc::clone(&total);
                w.thread("adder", move || (0..k).for_each(|_| *total.lock() += 1));
            }
            w.at_end("sum", move || {
                let sum = *total.lock();
                if sum == n * k { Ok(()) } else { Err(format!("{sum}")) }
            });
        });
        assert_eq!((report.traces, report.pruned), (traces, 0), "{n} threads, {k} sections");
    }
}

#[test]
fn locks_taken_in_both_orders_deadlock() {
    let world = |swap: bool| {
        move |w: &mut World| {
            let (a, b) = (lock("a", 0, ()), lock("b", 0, ()));
            let (c, d) = (Arc::clone(&a), Arc::clone(&b));
            w.thread("P1", move || {
                let _a = a.lock();
                let _b = b.lock();
            });
            w.thread("P2", move || {
                let (first, second) = if swap { (&d, &c) } else { (&c, &d) };
                let _first = first.lock();
                let _second = second.lock();
            });
        }
    };
    clean(world(false));
    let report = exhaust(world(true));
    assert_eq!(report.violations.len(), 1, "{report}");
    let deadlock = report.violation("deadlock").expect("ABBA");
    assert_eq!(
        deadlock.message,
        "P1 is blocked in \"lock b(0)\", held by P2; P2 is blocked in \"lock a(0)\", held by P1"
    );
    assert_eq!((deadlock.schedule.to_string().as_str(), deadlock.preemptions), ("0.1", 1));
    assert!(deadlock.shortest);
    assert_eq!(deadlock.ladder[1].held, ["b(0)"]);
}

fn philosophers(n: usize, polite: bool) -> impl Fn(&mut World) {
    move |w| {
        let forks: Vec<_> = (0..n as u64).map(|fork| lock("fork", fork, 0_u32)).collect();
        for seat in 0..n {
            let (mut first, mut second) = (seat, (seat + 1) % n);
            if polite && seat == n - 1 {
                (first, second) = (second, first);
            }
            let (first, second) = (Arc::clone(&forks[first]), Arc::clone(&forks[second]));
            w.thread(format!("philosopher {seat}"), move || {
                let mut left = first.lock();
                let mut right = second.lock();
                *left += 1;
                *right += 1;
                reached("somebody eats");
            });
        }
    }
}

#[test]
fn dining_philosophers_deadlock_only_when_all_are_left_handed() {
    for n in 2..=4 {
        let report = exhaust(philosophers(n, false));
        assert_eq!(report.violations.len(), 1, "{report}");
        let deadlock = report.violation("deadlock").expect("left-handed");
        assert_eq!(deadlock.schedule.steps(), n, "each takes one fork");
        assert!(report.reached["somebody eats"] > 0);
        clean(philosophers(n, true));
    }
}

/// A flag and an event; `early` reads the generation before it looks at the flag, as the seam demands.
fn sleeper(early: bool) -> impl Fn(&mut World) {
    move |w| {
        let flag = lock("flag", 0, false);
        let event = Arc::new(LabEvent::new(LockLabel::new("ready", 0)));
        let (flag2, event2) = (Arc::clone(&flag), Arc::clone(&event));
        w.thread("waiter", move || {
            loop {
                let before = event.generation();
                if *flag.lock() {
                    return reached("woken");
                }
                let seen = if early { before } else { event.generation() };
                event.wait(seen);
            }
        });
        w.thread("waker", move || {
            *flag2.lock() = true;
            event2.notify_all();
        });
    }
}

#[test]
fn a_lost_wake_up_is_found_and_the_right_order_loses_none() {
    let report = clean(sleeper(true));
    assert_eq!(report.reached["woken"], report.traces);
    let report = exhaust(sleeper(false));
    let lost = report.violation("lost wake-up").expect("generation read too late");
    assert_eq!(lost.message, "waiter is blocked in \"wait for ready(0)\"");
    assert_eq!(lost.preemptions, 1, "{lost}");
}

#[test]
fn a_worker_may_wait_for_ever_but_not_for_a_lock() {
    let event_world = |w: &mut World| {
        let event = LabEvent::new(LockLabel::new("work", 0));
        w.daemon("worker", move || {
            loop {
                event.wait(event.generation());
            }
        });
    };
    clean(event_world);
    let report = exhaust(|w| {
        let shared = lock("shared", 0, ());
        let other = Arc::clone(&shared);
        w.daemon("worker", move || drop(other.lock()));
        w.thread("forgetful", move || std::mem::forget(shared.lock()));
    });
    assert!(report.violation("deadlock").is_some(), "{report}");
}

/// The seed's race in forty lines: a second path takes "has a group" for "is ready".
fn publication(fixed: bool) -> impl Fn(&mut World) {
    #[derive(Default)]
    struct Device {
        group: bool,
        domain: bool,
    }
    move |w| {
        let device = lock("device", 0, Device::default());
        let set_up = move |device: &Lock<Device>| {
            let mut seen = device.lock();
            if seen.group && !fixed {
                return;
            }
            seen.group = true;
            if fixed {
                seen.domain = true;
                return;
            }
            drop(seen);
            device.lock().domain = true;
        };
        for name in ["registration", "client"] {
            let device = Arc::clone(&device);
            w.thread(name, move || {
                set_up(&device);
                if name == "client" {
                    if device.lock().domain {
                        reached("driver bound behind the IOMMU");
                    } else {
                        violation("P1", "the driver runs with direct DMA");
                    }
                }
            });
        }
    }
}

#[test]
fn the_early_return_on_half_a_set_up_is_found_and_its_fix_is_clean() {
    let report = exhaust(publication(false));
    let wrong = report.violation("P1").expect("the seed's race");
    assert_eq!(wrong.preemptions, 1);
    let story: Vec<_> = wrong.ladder.iter().map(|step| step.thread_name.as_str()).collect();
    assert_eq!(story, ["registration", "client", "client"]);
    assert!(report.reached.contains_key("driver bound behind the IOMMU"));
    let report = clean(publication(true));
    assert!(report.reached.contains_key("driver bound behind the IOMMU"));
}

#[test]
fn a_panic_is_a_violation_with_its_message_and_the_lock_is_free_again() {
    let report = exhaust(|w| {
        let shared = lock("shared", 0, 0_u32);
        let other = Arc::clone(&shared);
        w.thread("careful", move || *other.lock() += 1);
        w.thread("careless", move || {
            let mut value = shared.lock();
            assert!(*value == 0, "value is {}", *value);
            *value += 1;
        });
    });
    let panic = report.violation("panic").expect("one order panics");
    assert!(panic.message.starts_with("value is 1 (crates/threads/tests/"), "{}", panic.message);
    assert_eq!(report.traces, 2);
}

#[test]
fn taking_a_lock_twice_is_a_violation() {
    let report = exhaust(|w| {
        let shared = lock("shared", 7, ());
        w.thread("P", move || {
            let _once = shared.lock();
            let _twice = shared.lock();
        });
    });
    let twice = report.violation("recursive lock").expect("found");
    assert_eq!(twice.message, "shared(7) is taken by its holder");
}

#[test]
fn every_value_of_every_choice_is_taken() {
    let report = clean(|w| {
        for name in ["a", "b"] {
            w.thread(name, move || {
                step("own", u64::from(name == "a"), "before", true);
                let (first, second) = (choose(3), choose(2));
                observe(format!("{name}{first}{second}"));
            });
        }
    });
    assert_eq!(report.observed.len(), 12);
    assert_eq!(report.traces, 36, "threads that share nothing, six outcomes each");
}

#[test]
fn a_spawned_thread_knows_what_its_parent_did() {
    let report = clean(|w| {
        w.thread("parent", || {
            step("x", 0, "write", true);
            spawn("child", || step("x", 0, "write", true));
            step("y", 0, "write", true);
        });
    });
    assert_eq!(report.traces, 1, "the child cannot come before its parent's write");
    let report = clean(|w| {
        w.thread("parent", || {
            step("begin", 0, "work", true);
            spawn("child", || step("x", 0, "write", true));
            step("x", 0, "write", true);
        });
    });
    assert_eq!(report.traces, 2);
}

#[test]
fn try_lock_sees_the_lock_taken_and_free() {
    let report = clean(|w| {
        let shared = Arc::new(LabLock::new(LockLabel::new("shared", 0)));
        let other = Arc::clone(&shared);
        w.thread("holder", move || {
            shared.lock();
            unlock(&shared);
        });
        w.thread("trier", move || {
            let free = other.try_lock();
            observe(if free { "free" } else { "taken" });
            if free {
                unlock(&other);
            }
        });
    });
    assert_eq!(report.observed.into_iter().collect::<Vec<_>>(), ["free", "taken"]);
    assert_eq!(report.traces, 3, "before, during and after the holder's section");
}

#[test]
fn a_run_that_does_not_end_is_a_violation() {
    let budget = Budget { steps: 50, ..Budget::default() };
    let report = Explorer::new(budget).run(|w| {
        w.thread("spinner", || {
            loop {
                step("x", 0, "look", false);
            }
        });
    });
    assert_eq!(
        report.violation("endless").expect("bounded").message,
        "still running after 50 steps"
    );
}

#[test]
fn everything_is_dropped_whatever_the_end() {
    struct Counted(Rc<Cell<i32>>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }
    let alive = Rc::new(Cell::new(0));
    let count = Rc::clone(&alive);
    let report = exhaust(move |w| {
        let (a, b) = (lock("a", 0, ()), lock("b", 0, ()));
        for swap in [false, true] {
            let (a, b) = if swap { (b.clone(), a.clone()) } else { (a.clone(), b.clone()) };
            count.set(count.get() + 1);
            let token = Counted(Rc::clone(&count));
            w.thread("P", move || {
                let _token = token;
                let _first = a.lock();
                let _second = b.lock();
            });
        }
    });
    assert!(report.violation("deadlock").is_some());
    assert_eq!(alive.get(), 0, "a deadlocked thread keeps what it owns");
}

#[test]
fn a_schedule_replays_and_one_of_another_world_is_refused() {
    let report = exhaust(philosophers(3, false));
    let deadlock = report.violation("deadlock").expect("found");
    let text = deadlock.schedule.to_string();
    assert_eq!(text, "0.2.1", "golden: fixed for ever");
    let schedule: Schedule = text.parse().expect("own text");
    let explorer = Explorer::new(Budget::default());
    let replay = explorer.replay(&schedule, philosophers(3, false)).expect("fits");
    assert_eq!(replay.violations, [("deadlock".to_owned(), deadlock.message.clone())]);
    assert_eq!(replay.ladder, deadlock.ladder);
    assert_eq!(replay, explorer.replay(&schedule, philosophers(3, false)).expect("twice the same"));
    let replay = explorer.replay(&schedule, publication(false));
    assert_eq!(replay, Err(ScheduleError::Misfit { step: 2 }));
}

#[test]
fn progress_is_told_and_a_stop_is_heeded() {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let report = Explorer::new(Budget::default())
        .progress(move |progress| {
            assert!(progress.executions > 0 && progress.rate > 0.0 && progress.violations == 0);
            assert!(progress.covered.is_some_and(|share| (0.0..1.0).contains(&share)));
            asked.store(true, Ordering::Relaxed);
        })
        .stop(Arc::clone(&stop))
        .run(|w| (0..12).for_each(|_| w.thread("writer", || step("x", 0, "write", true))));
    assert!(stop.load(Ordering::Relaxed) && report.executions > 0);
    assert!(!report.complete && !report.exhaustive, "12! runs cannot be done: {report}");
}

#[test]
#[should_panic(expected = "the world is not deterministic")]
fn a_world_that_depends_on_more_than_the_schedule_is_noticed() {
    let runs = Cell::new(0);
    Explorer::new(Budget::default()).run(|w| {
        runs.set(runs.get() + 1);
        let first = runs.get() == 1;
        (0..2).for_each(|_| w.thread("writer", || step("x", 0, "write", true)));
        if !first {
            w.thread("only sometimes", || _ = choose(2));
        }
    });
}

#[test]
fn bounded_and_random_strategies_say_what_they_covered() {
    let run =
        |strategy| Explorer::new(Budget::default()).strategy(strategy).run(philosophers(3, false));
    let none = run(Strategy::Preemptions { bound: 0 });
    assert!(none.complete && !none.exhaustive && none.is_clean(), "{none}");
    let one = run(Strategy::Preemptions { bound: 1 });
    assert_eq!(one.violation("deadlock").expect("one is enough").preemptions, 1);
    for strategy in
        [Strategy::Random { seed: 1, runs: 1000 }, Strategy::Pct { depth: 3, seed: 1, runs: 1000 }]
    {
        let report = run(strategy);
        assert!(!report.complete && !report.exhaustive);
        assert_eq!(report.executions, 1000);
        assert!(report.violation("deadlock").is_some(), "{report}");
        assert_eq!(report.traces, run(strategy).traces, "same seed, same runs");
        let explorer = Explorer::new(Budget::default()).strategy(strategy);
        let two = explorer.run_on(2, philosophers(3, false));
        assert_eq!(two.executions, 1000);
        assert!(two.violation("deadlock").is_some(), "{two}");
    }
}

#[test]
fn a_lock_that_outlives_its_execution_is_noticed() {
    let kept: Cell<Option<Arc<Lock<()>>>> = Cell::new(None);
    let report = Explorer::new(Budget::default()).run(|w| {
        let old = kept.take();
        let fresh = lock("kept", 0, ());
        kept.set(Some(Arc::clone(&fresh)));
        let used = old.unwrap_or(fresh);
        (0..2).for_each(|_| {
            let used = Arc::clone(&used);
            w.thread("P", move || drop(used.lock()));
        });
    });
    let panic = report.violation("panic").expect("the second execution uses the first one's lock");
    assert!(panic.message.contains("kept(0) outlived its execution"), "{}", panic.message);
}
