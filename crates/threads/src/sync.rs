//! The lock and event seam under the scheduler.
#![expect(unsafe_code, reason = "RawLock promises exclusion to Mutex")]

use crate::op::{Kind, Object, Op};
use crate::runtime::{HOST, Runtime, with};
use portcullis_platform::{LockLabel, RawEvent, RawLock};

/// What a lock or an event remembers of its birth.
#[derive(Clone, Copy, Debug)]
struct Identity {
    object: Object,
    label: LockLabel,
    epoch: u64,
}

impl Identity {
    fn new(label: LockLabel) -> Self {
        with(|rt| Self { object: rt.create(0), label, epoch: rt.epoch.get() })
    }

    fn op(&self, kind: Kind) -> Op {
        Op { kind, object: self.object, label: self.label, what: "" }
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

/// A lock whose every acquisition is a scheduling point.
#[derive(Debug)]
pub struct LabLock(Identity);

// SAFETY: a lock works only in the execution that made it (its epoch is checked), whose threads run one at a time on one OS thread; the scheduler resumes a thread from
// `lock` only after it has found the lock free and marked it taken; `try_lock` says `true` only in the same case. Switching happens on one
// OS thread, so program order gives the visibility that acquire and release promise.
unsafe impl RawLock for LabLock {
    fn new(label: LockLabel) -> Self {
        Self(Identity::new(label))
    }

    fn lock(&self) {
        self.0.with(|rt| {
            let me = rt.current.get();
            let holder = rt.load(self.0.object);
            if me == HOST {
                assert!(holder == 0, "{} is still held at the end", self.0.label);
                rt.store(self.0.object, u64::from(HOST) + 1);
                return;
            }
            if holder == u64::from(me) + 1 && !rt.abandoning.get() {
                rt.fail("recursive lock", format!("{} is taken by its holder", self.0.label));
            }
            rt.point(self.0.op(Kind::Acquire));
        });
    }

    fn try_lock(&self) -> bool {
        self.0.with(|rt| {
            let me = rt.current.get();
            if me == HOST || rt.abandoning.get() {
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
        self.0.with(|rt| {
            let me = rt.current.get();
            let quiet = me == HOST || rt.abandoning.get() || std::thread::panicking();
            if !quiet && rt.load(self.0.object) != u64::from(me) + 1 {
                rt.fail("unlock by another", format!("{} is not held here", self.0.label));
            }
            if quiet || !rt.release_points.get() {
                rt.store(self.0.object, 0);
                if me != HOST {
                    rt.released.borrow_mut().push(self.0.object);
                }
                if rt.recording.get() {
                    rt.held.borrow_mut().retain(|held| held.1 != self.0.object);
                    rt.notes.borrow_mut().push(format!("unlock {}", self.0.label));
                }
            } else {
                rt.point(self.0.op(Kind::Release));
            }
        });
    }
}

/// An event whose reads, waits and notifications are scheduling points.
#[derive(Debug)]
pub struct LabEvent(Identity);

impl RawEvent for LabEvent {
    fn new(label: LockLabel) -> Self {
        Self(Identity::new(label))
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
        self.0.with(|rt| {
            if rt.current.get() == HOST {
                assert!(rt.load(self.0.object) != seen, "{} will never come", self.0.label);
            } else {
                rt.point(self.0.op(Kind::Wait(seen)));
            }
        });
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
