//! Locks and events on real threads, whose `relax` gives the processor away.

use portcullis_bare::{Kernel, SpinEvent, SpinLock};
use portcullis_platform::{LockLabel, Mutex, RawEvent};
use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

struct Process;

impl Kernel for Process {
    type Frames = System;

    fn cpus() -> usize {
        1
    }

    fn cpu() -> usize {
        0
    }

    fn thread() -> usize {
        1
    }

    fn counter_frequency() -> u64 {
        1_000_000_000
    }

    fn relax() {
        std::thread::yield_now();
    }

    fn idle() {
        std::thread::yield_now();
    }
}

const LABEL: LockLabel = LockLabel::new("test", 0);

#[test]
fn one_thread_at_a_time_is_inside() {
    let count = Mutex::<u64, SpinLock<Process>>::new(LABEL, 0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let mut count = count.lock();
                    // A load and a store apart: another thread inside would lose one.
                    let seen = *count;
                    *count = seen + 1;
                }
            });
        }
    });
    assert_eq!(*count.lock(), 80_000);
    let held = count.lock();
    assert!(count.try_lock().is_none());
    drop(held);
    assert!(count.try_lock().is_some());
}

#[test]
fn a_signal_before_the_wait_is_not_lost() {
    let event = Arc::new(SpinEvent::<Process>::new(LABEL));
    let seen = event.generation();
    event.notify_all();
    event.wait(seen);
    assert!(event.wait_at_most(seen, 0));
    assert!(!event.wait_at_most(event.generation(), 1000), "nobody signalled");
}

#[test]
fn a_waiter_sees_what_was_written_before_the_signal() {
    let event = SpinEvent::<Process>::new(LABEL);
    let value = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let seen = event.generation();
        scope.spawn(|| {
            value.store(9, Ordering::Relaxed);
            event.notify_all();
        });
        event.wait(seen);
        assert_eq!(value.load(Ordering::Relaxed), 9);
    });
}
