//! The lock, event and atomic seams under the scheduler.
#![expect(unsafe_code, reason = "RawLock and RawIrqLock promise exclusion")]

use crate::ambient::{changed, current};
use crate::op::{Kind, Object, Op};
use crate::report::Note;
use crate::runtime::{HOST, Runtime, with};
use portcullis_platform::{LockLabel, Nanos, RawAtomic, RawEvent, RawIrqLock, RawLock, Threads};
use std::sync::atomic::Ordering;

/// What a lock, an event or an atomic remembers of its birth.
#[derive(Clone, Copy, Debug)]
struct Identity {
    object: Object,
    label: LockLabel,
    epoch: u64,
}

impl Identity {
    fn new(label: LockLabel, value: u64) -> Self {
        with(|rt| Self { object: rt.create(value), label, epoch: rt.epoch.get() })
    }

    fn op(&self, kind: Kind) -> Op {
        self.told(kind, "")
    }

    fn told(&self, kind: Kind, what: &'static str) -> Op {
        Op { kind, object: self.object, label: self.label, what }
    }

    /// Runs `f` in the execution that the object belongs to.
    fn with<R>(&self, f: impl FnOnce(&Runtime) -> R) -> R {
        with(|rt| {
            assert!(
                rt.epoch.get() == self.epoch,
                "{} outlived its execution: build everything afresh inside the world's closure",
                self.label
            );
            f(rt)
        })
    }
}

impl Identity {
    fn acquire(&self) {
        self.with(|rt| {
            let me = rt.current.get();
            let holder = rt.load(self.object);
            if me == HOST {
                assert!(holder == 0, "{} is still held at the end", self.label);
                rt.store(self.object, u64::from(HOST) + 1);
                return;
            }
            if holder == u64::from(me) + 1 && !rt.abandoning.get() {
                rt.fail("recursive lock", format!("{} is taken by its holder", self.label));
            }
            rt.point(self.op(Kind::Acquire));
        });
    }

    fn release(&self) {
        self.with(|rt| {
            let me = rt.current.get();
            let quiet = me == HOST || rt.abandoning.get() || std::thread::panicking();
            if !quiet && rt.load(self.object) != u64::from(me) + 1 {
                rt.fail("unlock by another", format!("{} is not held here", self.label));
            }
            if quiet || !rt.release_points.get() {
                rt.store(self.object, 0);
                if me != HOST {
                    rt.released.borrow_mut().push(self.object);
                }
                if rt.recording.get() {
                    rt.held.borrow_mut().retain(|held| held.1 != self.object);
                    rt.notes.borrow_mut().push(Note::Unlocked(self.label.to_string()));
                }
            } else {
                rt.point(self.op(Kind::Release));
            }
        });
    }

    /// Whoever sleeps while it holds a short lock would do so with interrupts masked.
    fn may_sleep(&self) {
        self.with(|rt| {
            let me = rt.current.get();
            if me != HOST && !rt.abandoning.get() && rt.short_locks[usize::from(me)].get() != 0 {
                let message = format!("{} is waited for under an interrupt-safe lock", self.label);
                rt.fail("sleep under a short lock", message);
            }
        });
    }

    /// Whether the caller is one of the explored threads, so that what it does is a step.
    fn steps(rt: &Runtime) -> bool {
        rt.current.get() != HOST && !rt.abandoning.get()
    }
}

/// A lock whose every acquisition is a scheduling point.
#[derive(Debug)]
pub struct LabLock(Identity);

// SAFETY: a lock works only in the execution that made it (its epoch is checked), whose threads run one at a time on one OS thread; the scheduler resumes a thread from
// `lock` only after it has found the lock free and marked it taken; `try_lock` says `true` only in the same case. Switching happens on one
// OS thread, so program order gives the visibility that acquire and release promise.
unsafe impl RawLock for LabLock {
    fn new(label: LockLabel) -> Self {
        Self(Identity::new(label, 0))
    }

    fn lock(&self) {
        self.0.may_sleep();
        self.0.acquire();
    }

    fn try_lock(&self) -> bool {
        self.0.with(|rt| {
            let me = rt.current.get();
            if !Identity::steps(rt) {
                let free = rt.load(self.0.object) == 0;
                if free {
                    rt.store(self.0.object, u64::from(me) + 1);
                }
                return free;
            }
            rt.tried.set(true);
            rt.point(self.0.op(Kind::TryAcquire));
            rt.outcome.get() != 0
        })
    }

    unsafe fn unlock(&self) {
        self.0.release();
    }
}

/// A short lock. Its acquisitions are scheduling points like those of [`LabLock`]; a thread that holds one and waits for a long lock or an event is a violation.
#[derive(Debug)]
pub struct LabIrqLock(Identity);

impl LabIrqLock {
    fn count(&self, change: impl FnOnce(u32) -> u32) {
        self.0.with(|rt| {
            if let Some(count) = rt.short_locks.get(usize::from(rt.current.get())) {
                count.set(change(count.get()));
            }
        });
    }
}

// SAFETY: as for LabLock; explored threads have no interrupt handlers.
unsafe impl RawIrqLock for LabIrqLock {
    type Saved = ();

    fn new(label: LockLabel) -> Self {
        Self(Identity::new(label, 0))
    }

    fn lock(&self) {
        self.0.acquire();
        self.count(|count| count + 1);
    }

    unsafe fn unlock(&self, (): ()) {
        self.count(|count| count - 1);
        self.0.release();
    }
}

/// A shared word whose every access is a scheduling point: a read, or a change. All of it is sequentially consistent, whatever ordering is asked for.
#[derive(Debug)]
pub struct LabAtomic(Identity);

impl LabAtomic {
    fn access<R>(&self, kind: Kind, what: &'static str, act: impl FnOnce(u64) -> (u64, R)) -> R {
        self.0.with(|rt| {
            if Identity::steps(rt) {
                rt.point(self.0.told(kind, what));
            }
            // No other thread runs before the next point, so reading and writing here is one access.
            let old = rt.load(self.0.object);
            let (new, seen) = act(old);
            rt.store(self.0.object, new);
            changed(|| (self.0.label.to_string(), format!("{old:#x}"), format!("{new:#x}")));
            seen
        })
    }

    fn change(&self, what: &'static str, new: impl FnOnce(u64) -> u64) -> u64 {
        self.access(Kind::Write, what, |old| (new(old), old))
    }
}

impl RawAtomic for LabAtomic {
    fn new(label: LockLabel, value: u64) -> Self {
        Self(Identity::new(label, value))
    }

    fn load(&self, _: Ordering) -> u64 {
        self.access(Kind::Read, "load", |value| (value, value))
    }

    fn store(&self, value: u64, _: Ordering) {
        self.change("store", |_| value);
    }

    fn swap(&self, value: u64, _: Ordering) -> u64 {
        self.change("swap", |_| value)
    }

    fn compare_exchange(&self, old: u64, new: u64, _: Ordering, _: Ordering) -> Result<(), u64> {
        // A failed exchange is only a read, but which it will be is not known before it is carried out.
        let found = self.change("compare and exchange", |now| if now == old { new } else { now });
        if found == old { Ok(()) } else { Err(found) }
    }

    fn fetch_add(&self, value: u64, _: Ordering) -> u64 {
        self.change("add", |old| old.wrapping_add(value))
    }

    fn fetch_sub(&self, value: u64, _: Ordering) -> u64 {
        self.change("subtract", |old| old.wrapping_sub(value))
    }

    fn fetch_or(&self, mask: u64, _: Ordering) -> u64 {
        self.change("set bits", |old| old | mask)
    }

    fn fetch_and(&self, mask: u64, _: Ordering) -> u64 {
        self.change("clear bits", |old| old & mask)
    }
}

/// The explorer's threads as a platform's: each thread is its own CPU, up to four, then they share.
#[derive(Debug)]
pub struct LabThreads;

impl Threads for LabThreads {
    type Lock = LabLock;
    type IrqLock = LabIrqLock;
    type Event = LabEvent;
    type Atomic = LabAtomic;

    fn cpus() -> usize {
        4
    }

    fn cpu() -> usize {
        current().unwrap_or(0) % Self::cpus()
    }

    fn thread() -> usize {
        current().map_or(usize::MAX, |thread| thread + 1)
    }
}

/// An event whose reads, waits and notifications are scheduling points.
#[derive(Debug)]
pub struct LabEvent(Identity);

impl RawEvent for LabEvent {
    fn new(label: LockLabel) -> Self {
        Self(Identity::new(label, 0))
    }

    fn generation(&self) -> u64 {
        self.0.with(|rt| {
            if rt.current.get() == HOST || rt.abandoning.get() {
                return rt.load(self.0.object);
            }
            rt.point(self.0.op(Kind::Generation));
            rt.outcome.get()
        })
    }

    fn wait(&self, seen: u64) {
        self.0.may_sleep();
        self.0.with(|rt| {
            if rt.current.get() == HOST {
                assert!(rt.load(self.0.object) != seen, "{} will never come", self.0.label);
            } else {
                rt.point(self.0.op(Kind::Wait(seen)));
            }
        });
    }

    fn wait_at_most(&self, seen: u64, _: Nanos) -> bool {
        self.0.may_sleep();
        // The bound may pass at any moment: what is left is a look.
        self.generation() != seen
    }

    fn wait_briefly(&self, seen: u64) {
        self.wait(seen);
    }

    fn notify_all(&self) {
        self.0.with(|rt| {
            if rt.current.get() == HOST || rt.abandoning.get() {
                rt.store(self.0.object, rt.load(self.0.object) + 1);
            } else {
                rt.point(self.0.op(Kind::Notify));
            }
        });
    }
}
