//! A value that many threads use without a lock, until one takes it away and knows that nobody is inside any more.
//!
//! Each CPU has a slot of its own, so that two CPUs that use the value at the same time share no cache line that either writes. Whoever finds the slot free takes it by one atomic instruction and
//! gives it back by a plain store; who finds it taken (threads change CPUs, and an operation may enter again) is counted beside it.
//! The slots are made when the first thread enters: most leases of a boot are given long before they are used, if ever, and two cache lines a CPU are more than the rest of a lease.
//! Who has a slot has also what belongs to that CPU ([`Inside::slot`]): free addresses that it keeps are taken and given back without another atomic instruction. They can be collected
//! after [`Revocable::revoke`] has returned, or by whoever takes the slots one after the other ([`Revocable::each_free_slot`]).
#![expect(
    unsafe_code,
    reason = "an UnsafeCell that is emptied only when the slots show nobody inside"
)]

use crate::hooks::{Safeguard, omitted};
use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::fmt;
use core::ops::Deref;
use core::sync::atomic::Ordering;
use once_cell::race::OnceBox;
use portcullis_platform::{LockLabel, PerCpu, Platform, RawAtomic, RawEvent};

/// Set in the gate once nobody may enter any more.
const CLOSED: u64 = 1;
/// Set in the gate before anybody enters for the first time.
const USED: u64 = 2;

/// Who is inside by way of one CPU.
struct Slot<A> {
    /// 1 while somebody has the slot.
    taken: A,
    /// How many are inside beside them.
    beside: A,
}

impl<A: RawAtomic> Slot<A> {
    #[cold]
    fn join(&self) {
        self.beside.fetch_add(1, Ordering::SeqCst);
    }

    #[cold]
    fn leave(&self) {
        self.beside.fetch_sub(1, Ordering::Release);
    }
}

/// A value that can be taken away from its users.
///
/// # Invariants
///
/// `value` is `Some` until [`revoke`](Self::revoke) empties it, and that happens once, after the gate was closed and then every slot was seen empty. A slot is taken, or its count raised, before the gate
/// is looked at, all of it sequentially consistent: so who finds the gate open is seen in the slot by who has closed it. There are slots only where the gate is marked as used, and it is
/// not marked any more once it is closed: so who closes one that is not used knows that nobody is inside or will be.
#[doc(alias = "percpu_ref")]
pub(crate) struct Revocable<T, P: Platform> {
    value: UnsafeCell<Option<T>>,
    /// By the CPU on which they entered. Filled once, by who has marked the gate as used while it was open, or who has closed it and found it used. No step of the explorer,
    /// because everybody is given the same.
    inside: OnceBox<PerCpu<Slot<P::Atomic>>>,
    /// [`USED`] and [`CLOSED`].
    gate: P::Atomic,
    index: u64,
    someone_left: P::Event,
}

// SAFETY: threads share `&T` while they are inside (T: Sync); one of them takes the value out (T: Send). The seams' types are Send + Sync by their traits.
unsafe impl<T: Send + Sync, P: Platform> Sync for Revocable<T, P> {}

impl<T, P: Platform> Revocable<T, P> {
    /// `value`, open to everybody. The seams know its parts by the number `index`.
    pub(crate) fn new(index: u64, value: T) -> Self {
        Self {
            value: UnsafeCell::new(Some(value)),
            inside: OnceBox::new(),
            gate: P::Atomic::new(LockLabel::new("gate", index), 0),
            index,
            someone_left: P::Event::new(LockLabel::new("gate", index)),
        }
    }

    /// The value, which stays until the guard is dropped; `None` once it was revoked.
    #[inline(always)]
    pub(crate) fn enter(&self, platform: &P) -> Option<Inside<'_, T, P>> {
        let slots = match self.inside.get() {
            Some(slots) => slots,
            None => self.first_use(platform)?,
        };
        let cpu = platform.cpu();
        self.enter_by(slots.at(cpu), cpu)
    }

    #[inline(always)]
    fn enter_by<'a>(&'a self, slot: &'a Slot<P::Atomic>, cpu: usize) -> Option<Inside<'a, T, P>> {
        let stay = Stay::begin(self, slot, cpu);
        if self.gate.load(Ordering::SeqCst) & CLOSED != 0 {
            return None;
        }
        // SAFETY: this thread is in the slot and found the value open, and leaves by dropping `stay`: by the type's invariant the value stays until then.
        let value = unsafe { (*self.value.get()).as_ref() };
        Some(Inside { value: value.expect("emptied only when nobody is inside"), stay })
    }

    /// As [`enter`](Self::enter), where anybody has entered before.
    pub(crate) fn enter_again(&self, platform: &P) -> Option<Inside<'_, T, P>> {
        self.inside.get().and_then(|_| self.enter(platform))
    }

    /// The slots, for a caller that found none; `None` once the gate is closed.
    #[cold]
    fn first_use(&self, platform: &P) -> Option<&PerCpu<Slot<P::Atomic>>> {
        let closed = self.gate.fetch_or(USED, Ordering::SeqCst) & CLOSED != 0;
        (!closed).then(|| self.slots(platform))
    }

    fn slots(&self, platform: &P) -> &PerCpu<Slot<P::Atomic>> {
        let word = || P::Atomic::new(LockLabel::new("gate", self.index), 0);
        let make = || PerCpu::new(platform, |_| Slot { taken: word(), beside: word() });
        self.inside.get_or_init(|| Box::new(make()))
    }

    /// Takes every slot that nobody has, one after the other, and calls `act` with its CPU.
    #[cold]
    pub(crate) fn each_free_slot(&self, act: impl Fn(&T, usize)) {
        for (cpu, slot) in self.inside.get().into_iter().flat_map(PerCpu::iter).enumerate() {
            if let Some(inside) = self.enter_by(slot, cpu)
                && let Some(cpu) = inside.slot()
            {
                act(&inside, cpu);
            }
        }
    }

    /// Lets nobody in any more, waits until nobody is inside, and takes the value out. Only the first call does; the others return `None` at once.
    ///
    /// The wait is as long as the longest operation of those inside, which wait for nothing but hardware, each for a bounded time.
    pub(crate) fn revoke(&self, platform: &P) -> Option<T> {
        let before = self.gate.fetch_or(CLOSED, Ordering::SeqCst);
        if before & CLOSED != 0 {
            return None;
        }
        if before & USED != 0 {
            self.wait_until_empty(self.slots(platform));
        }
        // SAFETY: only the thread that closed the gate comes here. Whoever was inside has left (its accesses happened before: release of the slot, acquired in the wait), and by the
        // type's invariant nobody enters any more.
        unsafe { (*self.value.get()).take() }
    }

    fn wait_until_empty(&self, slots: &PerCpu<Slot<P::Atomic>>) {
        let is_empty = |slot: &Slot<P::Atomic>| {
            slot.taken.load(Ordering::SeqCst) == 0 && slot.beside.load(Ordering::SeqCst) == 0
        };
        loop {
            let seen = self.someone_left.generation();
            if slots.iter().all(is_empty) {
                return;
            }
            // Briefly: who leaves looks at the gate without a barrier after its store, and so may not know that somebody waits.
            self.someone_left.wait_briefly(seen);
        }
    }
}

impl<T, P: Platform> fmt::Debug for Revocable<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocable").finish_non_exhaustive()
    }
}

/// The value of a [`Revocable`], for as long as a thread is inside.
pub(crate) struct Inside<'a, T, P: Platform> {
    value: &'a T,
    stay: Stay<'a, T, P>,
}

impl<T, P: Platform> Inside<'_, T, P> {
    /// The CPU whose slot this thread has to itself until it leaves: what belongs to that CPU is changed by nobody else meanwhile. `None` where it is inside beside somebody.
    #[inline]
    pub(crate) fn slot(&self) -> Option<usize> {
        (self.stay.alone || omitted::<P>(Safeguard::OwnSlot)).then_some(self.stay.cpu)
    }
}

impl<T, P: Platform> Deref for Inside<'_, T, P> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.value
    }
}

/// A thread's place in a slot.
struct Stay<'a, T, P: Platform> {
    slot: &'a Slot<P::Atomic>,
    cpu: usize,
    /// Whether it has the slot, or is counted beside whoever has it.
    alone: bool,
    revocable: &'a Revocable<T, P>,
}

impl<'a, T, P: Platform> Stay<'a, T, P> {
    #[inline]
    fn begin(revocable: &'a Revocable<T, P>, slot: &'a Slot<P::Atomic>, cpu: usize) -> Self {
        let order = (Ordering::SeqCst, Ordering::Relaxed);
        let alone = slot.taken.compare_exchange(0, 1, order.0, order.1).is_ok();
        if !alone {
            slot.join();
        }
        Self { slot, cpu, alone, revocable }
    }

    #[cold]
    fn tell(&self) {
        self.revocable.someone_left.notify_all();
    }
}

impl<T, P: Platform> Drop for Stay<'_, T, P> {
    #[inline]
    fn drop(&mut self) {
        if self.alone {
            self.slot.taken.store(0, Ordering::Release);
        } else {
            self.slot.leave();
        }
        if self.revocable.gate.load(Ordering::Relaxed) & CLOSED != 0 {
            self.tell();
        }
    }
}
