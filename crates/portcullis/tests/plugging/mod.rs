//! Devices that come and go for ever leave nothing behind: the heap and what looking at the subsystem costs stay as they were.
//!
//! `cargo test --release -p portcullis --test probe -- --ignored plugs` does a million.

#![expect(unsafe_code, reason = "counts what the heap gives")]

use crate::support::*;
use portcullis::*;
use portcullis_addr::StreamId;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    /// Bytes that this thread has taken from the heap and not given back.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    /// Bytes that it has ever taken.
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get() + layout.size() as isize);
        TAKEN.set(TAKEN.get() + layout.size());
        // SAFETY: the caller keeps this method's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as isize);
        // SAFETY: the pointer came from `System`, see `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// Never registered.
const ABSENT: FwNode = FwNode(3);
/// What one turn plugs in.
const PLUGS: usize = 10;

/// Devices of every kind come, are used, and go.
fn turn(sub: &Sub) {
    let add = |device| sub.add_device(device).expect("added");
    let bind = |device: &Arc<Device<Host>>| sub.bind(device, Arc::new(Keeper::default()));
    // Two of one group, of which one has a driver; two of their own groups, which a fifth makes one.
    let [x, y] =
        [("/x", 1), ("/y", 2)].map(|(path, other)| add(behind(path, &[(A, 9), (A, other)])));
    let [one, other] = [3, 4].map(|id| add(behind("/alone", &[(A, id)])));
    sub.run_deferred();
    let both = add(behind("/both", &[(A, 3), (A, 4)]));
    // Behind a mask, behind two IOMMUs of which one never comes, and behind none.
    let mask = FwStream { iommu: A, id: StreamId::new(0x100), mask: 0xff };
    let masked = add(DeviceDescription {
        dma: DmaPath::Translated(FwSpec { streams: vec![mask] }),
        ..behind("/masked", &[])
    });
    let waiting = add(behind("/waiting", &[(A, 5), (ABSENT, 5)]));
    let direct = add(DeviceDescription::new("/direct", DmaPath::Direct));
    // In one group because nothing isolates them, though their streams differ.
    let [near, far] = [6, 7].map(|id| {
        add(DeviceDescription { isolation: Some(IsolationSet(1)), ..behind("/near", &[(A, id)]) })
    });
    assert_eq!(bind(&x), Ok(BindOutcome::Bound(Reach::Translated)));
    assert_eq!(bind(&both), Ok(BindOutcome::Bound(Reach::Translated)));
    assert_eq!(bind(&waiting), Ok(BindOutcome::Deferred(ABSENT)));
    sub.unbind(&both).expect("bound");
    sub.claim_group(&masked, 9).expect("idle");
    sub.release_group(&masked, 9).expect("claimed");
    sub.run_deferred();
    for device in [x, y, one, other, both, masked, waiting, direct, near, far] {
        sub.remove_device(&device).expect("there");
    }
    sub.run_deferred();
}

/// What is there: the counts, bytes on the heap, and bytes that counting takes.
fn picture(sub: &Sub) -> (Counts, isize, usize) {
    let (live, before) = (LIVE.get(), TAKEN.get());
    (sub.counts(), live, TAKEN.get() - before)
}

fn flat_over(plugs: usize) {
    let sub = subsystem();
    let _books = register(&sub, A);
    // Lists find their size.
    (0..200).for_each(|_| turn(&sub));
    let before = picture(&sub);
    assert_eq!(
        (before.0.devices, before.0.groups, before.0.waiters, before.0.queued),
        (0, 0, 0, 0)
    );
    (0..plugs.div_ceil(PLUGS)).for_each(|_| turn(&sub));
    assert_eq!(picture(&sub), before);
}

#[test]
fn twenty_thousand_plugs_leave_nothing() {
    flat_over(20_000);
}

#[test]
#[ignore = "a million: for release builds"]
fn a_million_plugs_leave_nothing() {
    flat_over(1_000_000);
}
