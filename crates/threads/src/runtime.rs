//! The one place where control changes hands: coroutines, and what they and the scheduler both see.
#![expect(
    unsafe_code,
    reason = "the running execution is reached through a thread-local pointer, and a coroutine through its yielder"
)]

use crate::op::{Kind, MAX_THREADS, Object, Op};
use crate::report::Note;
use crate::tape::Tape;
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use portcullis_platform::LockLabel;
use std::any::Any;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

/// The scheduler itself, building the world or looking at its end.
pub(crate) const HOST: u8 = u8::MAX;
/// The creator index of the objects that [`step`](crate::step) names.
const NAMED: u8 = u8::MAX - 1;

pub(crate) type Routine = Coroutine<(), (), (), DefaultStack>;
type Ending = Box<dyn FnOnce() -> Result<(), String>>;

/// Executions begun so far in this process.
static EPOCHS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static CURRENT: Cell<*const Runtime> = const { Cell::new(ptr::null()) };
}

/// The panic payload that unwinds the threads of an abandoned execution.
struct Abandoned;

/// A violation that was observed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) property: Cow<'static, str>,
    pub(crate) message: String,
    /// How many decisions and preemptions led to it; the scheduler fills it in.
    pub(crate) cut: Option<(usize, usize)>,
}

/// A thread of the code under test, as its builder described it.
#[derive(Clone, Debug)]
pub(crate) struct ThreadInfo {
    pub(crate) name: Cow<'static, str>,
    pub(crate) daemon: bool,
}

/// What one execution shares between the scheduler and the threads. Reached by `&` from both sides, hence the cells.
pub(crate) struct Runtime {
    pub(crate) current: Cell<u8>,
    /// Distinguishes this execution from all others of the process, so that a lock used in the wrong one is noticed.
    pub(crate) epoch: Cell<u64>,
    pub(crate) pending: [Cell<Option<Op>>; MAX_THREADS],
    yielders: [Cell<*const Yielder<(), ()>>; MAX_THREADS],
    pub(crate) threads: RefCell<Vec<ThreadInfo>>,
    pub(crate) newborn: RefCell<Vec<Routine>>,
    pub(crate) pool: RefCell<Vec<DefaultStack>>,
    stack_bytes: Cell<usize>,
    cells: RefCell<Vec<Vec<u64>>>,
    pub(crate) released: RefCell<Vec<Object>>,
    pub(crate) outcome: Cell<u64>,
    pub(crate) tape: RefCell<Tape>,
    pub(crate) abandoning: Cell<bool>,
    pub(crate) failures: RefCell<Vec<Failure>>,
    pub(crate) release_points: Cell<bool>,
    pub(crate) tried: Cell<bool>,
    pub(crate) endings: RefCell<Vec<(Cow<'static, str>, Ending)>>,
    pub(crate) reached: RefCell<BTreeMap<&'static str, u64>>,
    pub(crate) observed: RefCell<BTreeSet<String>>,
    named: RefCell<HashMap<(&'static str, u64), u32>>,
    pub(crate) recording: Cell<bool>,
    pub(crate) held: RefCell<Vec<(u8, Object, LockLabel)>>,
    pub(crate) notes: RefCell<Vec<Note>>,
    /// How many short locks each thread holds.
    pub(crate) short_locks: [Cell<u32>; MAX_THREADS],
}

impl Runtime {
    pub(crate) fn new(stack_bytes: usize) -> Self {
        silence_panics_of_threads();
        Self {
            current: Cell::new(HOST),
            epoch: Cell::new(0),
            pending: [const { Cell::new(None) }; MAX_THREADS],
            yielders: [const { Cell::new(ptr::null()) }; MAX_THREADS],
            threads: RefCell::default(),
            newborn: RefCell::default(),
            pool: RefCell::default(),
            stack_bytes: Cell::new(stack_bytes),
            cells: RefCell::default(),
            released: RefCell::default(),
            outcome: Cell::new(0),
            tape: RefCell::default(),
            abandoning: Cell::new(false),
            failures: RefCell::default(),
            release_points: Cell::new(false),
            tried: Cell::new(false),
            endings: RefCell::default(),
            reached: RefCell::default(),
            observed: RefCell::default(),
            named: RefCell::default(),
            recording: Cell::new(false),
            held: RefCell::default(),
            notes: RefCell::default(),
            short_locks: [const { Cell::new(0) }; MAX_THREADS],
        }
    }

    /// Forgets the last execution; what was learned over all of them (named objects, reached goals) stays.
    pub(crate) fn reset(&self) {
        self.current.set(HOST);
        self.epoch.set(EPOCHS.fetch_add(1, Ordering::Relaxed));
        self.pending.iter().for_each(|op| op.set(None));
        self.threads.borrow_mut().clear();
        self.cells.borrow_mut().iter_mut().for_each(Vec::clear);
        self.released.borrow_mut().clear();
        self.abandoning.set(false);
        self.failures.borrow_mut().clear();
        self.endings.borrow_mut().clear();
        self.held.borrow_mut().clear();
        self.notes.borrow_mut().clear();
        self.short_locks.iter().for_each(|count| count.set(0));
    }

    /// Runs `f` with this as the execution that ambient calls ([`with`]) find.
    pub(crate) fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        struct Restore(*const Runtime);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _restore = Restore(CURRENT.replace(self));
        f()
    }

    /// A new object created by the running thread. Its number depends only on that thread's own history, so it is the same in every schedule.
    pub(crate) fn create(&self, initial: u64) -> Object {
        let creator = self.current.get();
        let row = if creator == HOST { 0 } else { usize::from(creator) + 1 };
        let mut cells = self.cells.borrow_mut();
        if cells.len() <= row {
            cells.resize_with(row + 1, Vec::new);
        }
        let index = cells[row].len() as u32;
        cells[row].push(initial);
        Object { row: row as u8, index }
    }

    /// The object that [`step`](crate::step) names by class and number.
    pub(crate) fn named(&self, class: &'static str, number: u64) -> Object {
        let mut named = self.named.borrow_mut();
        let next = named.len() as u32;
        Object { row: NAMED, index: *named.entry((class, number)).or_insert(next) }
    }

    pub(crate) fn load(&self, object: Object) -> u64 {
        self.cells.borrow()[usize::from(object.row)][object.index as usize]
    }

    pub(crate) fn store(&self, object: Object, value: u64) {
        self.cells.borrow_mut()[usize::from(object.row)][object.index as usize] = value;
    }

    /// Records something that went wrong in this execution.
    pub(crate) fn fail(&self, property: impl Into<Cow<'static, str>>, message: String) {
        let property = property.into();
        let mut failures = self.failures.borrow_mut();
        if !failures.iter().any(|known| known.property == property && known.message == message) {
            failures.push(Failure { property, message, cut: None });
        }
    }

    /// Creates a thread; the scheduler takes it over as soon as it runs again.
    pub(crate) fn spawn(
        &self,
        name: Cow<'static, str>,
        daemon: bool,
        body: impl FnOnce() + 'static,
    ) {
        let id = self.threads.borrow().len();
        assert!(id < MAX_THREADS, "more than {MAX_THREADS} threads in one execution");
        self.threads.borrow_mut().push(ThreadInfo { name, daemon });
        let stack = self.pool.borrow_mut().pop().unwrap_or_else(|| {
            DefaultStack::new(self.stack_bytes.get()).expect("memory for one more stack")
        });
        let routine = Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
            with(|rt| rt.yielders[id].set(yielder));
            if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(body)) {
                with(|rt| rt.ended_by_panic(payload));
            }
        });
        self.newborn.borrow_mut().push(routine);
    }

    fn ended_by_panic(&self, payload: Box<dyn Any + Send>) {
        if payload.is::<Abandoned>() {
            return;
        }
        // The hook has the message and the place; this is for a panic that bypassed it (`resume_unwind`).
        if !self.failures.borrow().iter().any(|failure| failure.property == "panic") {
            self.fail("panic", message_of(&*payload));
        }
    }

    /// Runs `thread` until its next operation; `false` when it has ended.
    pub(crate) fn resume(&self, thread: u8, routine: &mut Routine) -> bool {
        self.current.set(thread);
        let result = routine.resume(());
        self.current.set(HOST);
        let alive = matches!(result, CoroutineResult::Yield(()));
        if !alive {
            self.pending[usize::from(thread)].set(None);
        }
        alive
    }

    /// Announces `op` and waits to be scheduled; on return it has been carried out and [`Self::outcome`] is its result.
    pub(crate) fn point(&self, op: Op) {
        let me = self.current.get();
        if std::thread::panicking() && !self.abandoning.get() {
            // A destructor of a panicking thread does more than unlock: nothing after this point can be scheduled faithfully.
            self.abandoning.set(true);
        }
        if self.abandoning.get() {
            return self.point_while_abandoned(me, op);
        }
        self.pending[usize::from(me)].set(Some(op));
        self.suspend(me);
        if self.abandoning.get() {
            self.point_while_abandoned(me, op);
        }
    }

    /// Unwinds an abandoned thread: its destructors may still take locks, but nothing is scheduled any more.
    fn point_while_abandoned(&self, me: u8, op: Op) {
        if !std::thread::panicking() {
            panic::resume_unwind(Box::new(Abandoned));
        }
        if matches!(op.kind, Kind::Acquire) {
            while self.load(op.object) != 0 {
                self.pending[usize::from(me)].set(Some(op));
                self.suspend(me);
            }
            self.store(op.object, u64::from(me) + 1);
        }
        self.outcome.set(0);
    }

    fn suspend(&self, me: u8) {
        let yielder = self.yielders[usize::from(me)].get();
        // SAFETY: `me` is the coroutine that runs this very code; it stored its own yielder when it began, and that lives on its stack
        // until its body has returned, which it has not.
        unsafe { (*yielder).suspend(()) }
    }
}

/// The execution that the caller is part of.
///
/// # Panics
///
/// Outside of one.
pub(crate) fn with<R>(f: impl FnOnce(&Runtime) -> R) -> R {
    try_with(f).expect("a lab lock, event or step is used outside of an exploration")
}

/// As [`with`], for code that may also run outside.
pub(crate) fn try_with<R>(f: impl FnOnce(&Runtime) -> R) -> Option<R> {
    let current = CURRENT.get();
    if current.is_null() {
        return None;
    }
    // SAFETY: `Runtime::enter` set the pointer from a reference that outlives its call, and resets it before it returns; coroutines run
    // only inside that call, on the same OS thread.
    Some(f(unsafe { &*current }))
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&'static str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// A panic inside an execution is a finding with its place, not text on the terminal.
fn silence_panics_of_threads() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let inside = try_with(|rt| {
                let scheduled = rt.current.get() != HOST;
                if scheduled {
                    let place =
                        info.location().map_or_else(String::new, |place| format!(" ({place})"));
                    rt.fail("panic", format!("{}{place}", message_of(info.payload())));
                }
                scheduled
            });
            if inside != Some(true) {
                previous(info);
            }
        }));
    });
}
