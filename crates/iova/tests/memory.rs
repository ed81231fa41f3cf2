//! The heap under the allocator: when it is asked, and what happens when it refuses.
#![expect(unsafe_code, reason = "a global allocator that counts and refuses")]

use portcullis_addr::{Iova, IovaRange, PageSize};
use portcullis_iova::{AllocateError, IovaAllocator, IovaRequest, NewError, ReserveError};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Requests that this thread may still make.
    static ALLOWED: Cell<usize> = const { Cell::new(usize::MAX) };
    /// Requests that this thread has made.
    static MADE: Cell<usize> = const { Cell::new(0) };
}

struct Refusing;

impl Refusing {
    fn refuses() -> bool {
        MADE.set(MADE.get() + 1);
        let allowed = ALLOWED.get();
        ALLOWED.set(if allowed == usize::MAX { allowed } else { allowed.saturating_sub(1) });
        allowed == 0
    }
}

// SAFETY: every call goes to the system's allocator unchanged, or returns null, which the contract allows at any time.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Self::refuses() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps this method's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System`, see `alloc` and `realloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if Self::refuses() {
            return std::ptr::null_mut();
        }
        // SAFETY: the pointer came from `System`, and the caller keeps the rest of the contract.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static HEAP: Refusing = Refusing;

const PAGE: u64 = 4096;

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova::new(start), len).expect("test range")
}

/// Runs `work` with `count` heap requests allowed.
fn allowing<T>(count: usize, work: impl FnOnce() -> T) -> T {
    ALLOWED.set(count);
    let result = work();
    ALLOWED.set(usize::MAX);
    result
}

fn space() -> Result<IovaAllocator, NewError> {
    IovaAllocator::new(PageSize::SIZE_4K, range(PAGE, (1 << 48) - PAGE))
}

#[test]
fn every_refusal_changes_nothing() {
    let refused = (0..).map(|count| allowing(count, space)).take_while(Result::is_err);
    assert!(
        refused.inspect(|made| assert_eq!(made.as_ref().err(), Some(&NewError::NoMemory))).count()
            > 0
    );
    let mut space = space().expect("memory");
    let mut kept = Vec::with_capacity(4096);
    let (mut refusals, mut place) = (0, 0);
    // Each range lies in a leaf of its own, so that nodes are needed again and again.
    while refusals < 8 {
        place += 1 << 25;
        let state = |space: &IovaAllocator| (space.live_count(), space.live_bytes());
        let before = state(&space);
        let wanted = range(place, PAGE);
        match allowing(0, || space.allocate_at(wanted)) {
            Ok(()) => kept.push(wanted),
            Err(AllocateError::NoMemory) => {
                refusals += 1;
                assert_eq!(state(&space), before);
                assert_eq!(allowing(0, || space.reserve(wanted)), Err(ReserveError::NoMemory));
                let any = allowing(0, || space.allocate(IovaRequest::new(PAGE)));
                assert_eq!(any, Err(AllocateError::NoMemory));
                assert_eq!(space.live().count(), kept.len());
                assert_eq!(space.allocate_at(wanted), Ok(()), "with memory it works");
                kept.push(wanted);
            }
            Err(other) => panic!("{other}"),
        }
    }
    // Giving back needs nothing.
    for range in kept {
        assert_eq!(allowing(0, || space.free(range)), Ok(()));
    }
    assert_eq!(space.live_count(), 0);
}

#[test]
fn ranges_that_come_and_go_ask_for_nothing() {
    let mut space = space().expect("memory");
    let mut live = Vec::with_capacity(1024);
    let mut round = |space: &mut IovaAllocator| {
        for count in 1..=600 {
            live.push(space.allocate(IovaRequest::new(count % 70 * PAGE + PAGE)).expect("room"));
        }
        live.drain(..).for_each(|range| space.free(range).expect("live"));
    };
    round(&mut space);
    let made = MADE.get();
    (0..100).for_each(|_| round(&mut space));
    assert_eq!(MADE.get(), made);
}
