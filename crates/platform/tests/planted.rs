//! Bugs on purpose, for `cargo xtask sanitize`, which must find each before it is believed that there are none. Never run otherwise.
#![expect(unsafe_code, reason = "safe Rust has no such bugs")]

use std::cell::UnsafeCell;
use std::hint::black_box;
use std::sync::Barrier;

struct Shared(UnsafeCell<u64>);

// SAFETY: none, that is the bug.
unsafe impl Sync for Shared {}

#[test]
#[ignore = "a data race, for ThreadSanitizer"]
fn race() {
    let shared = Shared(UnsafeCell::new(0));
    let shared = &shared;
    // Both at the same time: what one does before the other begins might be ordered by how threads are started.
    let start = &Barrier::new(2);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                start.wait();
                for _ in 0..1000 {
                    // SAFETY: none, that is the bug.
                    unsafe { *shared.0.get() += 1 };
                }
            });
        }
    });
    // SAFETY: the threads have ended.
    black_box(unsafe { *shared.0.get() });
}

#[test]
#[ignore = "a use after free, for AddressSanitizer and Miri"]
fn use_after_free() {
    let word = black_box(Box::into_raw(Box::new(1_u64)));
    // SAFETY: it came from a box, and is given back once.
    drop(unsafe { Box::from_raw(word) });
    // SAFETY: none, that is the bug.
    assert_ne!(black_box(unsafe { word.read_volatile() }), 0x5eed);
}
