//! The platform's other seams under the scheduler: atomics, short locks, CPU numbers.

use portcullis_platform::{
    IrqMutex, LockLabel, Mutex, RawAtomic, RawEvent, RawIrqLock, RawLock, Threads,
};
use portcullis_threads::{
    Budget, Explorer, LabAtomic, LabEvent, LabIrqLock, LabLock, LabThreads, Report, World, observe,
    reached,
};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

fn exhaust(build: impl Fn(&mut World)) -> Report {
    let report = Explorer::new(Budget::default()).run(build);
    assert!(report.exhaustive, "{report}");
    report
}

fn word(value: u64) -> Arc<LabAtomic> {
    Arc::new(LabAtomic::new(LockLabel::new("word", 0), value))
}

/// `adders` threads that add 1, and what the sums can be.
fn sums(adders: usize, add: fn(&LabAtomic)) -> Report {
    exhaust(|w| {
        let total = word(0);
        for _ in 0..adders {
            let total = Arc::clone(&total);
            w.thread("adder", move || add(&total));
        }
        w.at_end("sum", move || {
            observe(total.load(Relaxed).to_string());
            Ok(())
        });
    })
}

#[test]
fn an_atomic_add_loses_nothing_and_a_load_with_a_store_does() {
    let report = sums(4, |total| {
        total.fetch_add(1, Relaxed);
    });
    assert_eq!(report.traces, 24, "four changes of one word: 4! orders");
    assert_eq!(report.observed.into_iter().collect::<Vec<_>>(), ["4"]);
    let report = sums(3, |total| total.store(total.load(Acquire) + 1, Release));
    assert_eq!(report.observed.into_iter().collect::<Vec<_>>(), ["1", "2", "3"]);
    let report = sums(3, |total| {
        let mut seen = total.load(Relaxed);
        while let Err(now) = total.compare_exchange(seen, seen + 1, AcqRel, Relaxed) {
            seen = now;
        }
    });
    assert_eq!(report.observed.into_iter().collect::<Vec<_>>(), ["3"]);
}

#[test]
fn reads_of_an_atomic_commute() {
    let report = exhaust(|w| {
        let shared = word(7);
        for _ in 0..4 {
            let shared = Arc::clone(&shared);
            w.thread("reader", move || assert_eq!(shared.load(Acquire), 7));
        }
    });
    assert_eq!(report.traces, 1);
}

/// Both say that they are there and then look for the other: Dekker's core. One of them must see the other.
#[test]
fn announcing_before_looking_cannot_miss_and_looking_first_can() {
    let world = |announce_first: bool| {
        move |w: &mut World| {
            let words = [word(0), word(0)];
            let missed = word(0);
            for me in 0..2 {
                let (words, missed) = (words.clone(), Arc::clone(&missed));
                w.thread("side", move || {
                    if announce_first {
                        words[me].swap(1, AcqRel);
                    }
                    if words[1 - me].load(Acquire) == 0 {
                        missed.fetch_add(1, Relaxed);
                    }
                    if !announce_first {
                        words[me].swap(1, AcqRel);
                    }
                });
            }
            w.at_end("exclusion", move || match missed.load(Relaxed) {
                2 => Err("neither saw the other".to_owned()),
                _ => Ok(()),
            });
        }
    };
    assert!(exhaust(world(true)).is_clean());
    let report = exhaust(world(false));
    assert!(report.violation("exclusion").is_some(), "{report}");
}

#[test]
fn every_kind_of_change_does_what_it_says() {
    let report = exhaust(|w| {
        let shared = word(0b1100);
        w.thread("one", move || {
            let label = LockLabel::new("own", 0);
            assert_eq!(shared.fetch_or(0b0011, AcqRel), 0b1100);
            assert_eq!(shared.fetch_and(0b0110, AcqRel), 0b1111);
            assert_eq!(shared.fetch_sub(7, AcqRel), 0b0110);
            assert_eq!(shared.swap(5, AcqRel), u64::MAX, "modulo 2^64");
            assert_eq!(shared.compare_exchange(4, 9, AcqRel, Acquire), Err(5));
            assert_eq!(shared.load(Acquire), 5);
            assert_eq!(LabAtomic::new(label, 3).fetch_add(1, AcqRel), 3, "made by a thread");
            reached("the end");
        });
    });
    assert_eq!(report.reached["the end"], 1, "{report}");
}

type Short = IrqMutex<u32, LabIrqLock>;

fn short(index: u64) -> Arc<Short> {
    Arc::new(Short::new(LockLabel::new("short", index), 0))
}

#[test]
fn short_sections_exclude_each_other_in_every_order() {
    let report = exhaust(|w| {
        let total = short(0);
        for _ in 0..3 {
            let total = Arc::clone(&total);
            w.thread("adder", move || total.with(|total| *total += 1));
        }
        w.at_end("sum", move || {
            total.with(|total| (*total == 3).then_some(()).ok_or_else(String::new))
        });
    });
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.traces, 6);
}

#[test]
fn waiting_in_a_short_section_is_a_violation() {
    let name = "sleep under a short lock";
    let report = exhaust(|w| {
        let outer = short(0);
        let long = Arc::new(Mutex::<(), LabLock>::new(LockLabel::new("long", 0), ()));
        w.thread("sleeper", move || outer.with(|_| drop(long.lock())));
    });
    let found = report.violation(name).expect("a long lock is taken in a short section");
    assert_eq!(found.message, "long(0) is waited for under an interrupt-safe lock");
    let report = exhaust(|w| {
        let outer = short(0);
        let event = LabEvent::new(LockLabel::new("event", 0));
        w.thread("sleeper", move || {
            outer.with(|_| {
                event.notify_all();
                event.wait(0);
            });
        });
    });
    assert!(report.violation(name).is_some(), "{report}");
    let report = exhaust(|w| {
        let (outer, inner) = (short(0), short(1));
        let long = LabLock::new(LockLabel::new("long", 0));
        w.thread("proper", move || {
            outer.with(|_| inner.with(|_| ()));
            long.lock();
        });
    });
    assert!(report.violation(name).is_none(), "after the sections it may wait: {report}");
}

/// A bounded wait may end in either way, whichever comes first.
#[test]
fn a_bounded_wait_is_explored_with_both_ends() {
    let report = exhaust(|w| {
        let event = Arc::new(LabEvent::new(LockLabel::new("event", 0)));
        let other = Arc::clone(&event);
        w.thread("sleeper", move || {
            observe(if event.wait_at_most(0, 1000) { "woken" } else { "the bound passed" });
        });
        w.thread("waker", move || other.notify_all());
    });
    assert_eq!(report.observed.into_iter().collect::<Vec<_>>(), ["the bound passed", "woken"]);
}

#[test]
fn a_panic_in_a_short_section_gives_the_lock_back() {
    let report = exhaust(|w| {
        let shared = short(0);
        let other = Arc::clone(&shared);
        w.thread("careless", move || shared.with(|_| panic!("planted")));
        w.thread("careful", move || other.with(|_| reached("in after it")));
    });
    assert!(report.violation("panic").is_some() && report.violation("deadlock").is_none());
    assert!(report.reached["in after it"] > 0, "{report}");
}

#[test]
fn threads_are_spread_over_the_cpus() {
    let report = exhaust(|w| {
        for _ in 0..5 {
            w.thread("anybody", || observe(LabThreads::cpu().to_string()));
        }
    });
    assert_eq!(report.observed.into_iter().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    assert_eq!(LabThreads::cpus(), 4);
}

/// A lock that is taken by another execution's threads would not be explored.
#[test]
fn seams_outside_of_an_exploration_are_refused() {
    let label = LockLabel::new("stray", 0);
    assert!(std::panic::catch_unwind(|| LabAtomic::new(label, 0)).is_err());
    assert!(std::panic::catch_unwind(|| <LabIrqLock as RawIrqLock>::new(label)).is_err());
}
