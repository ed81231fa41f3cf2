//! A mapping and its end ask for no memory once the lease is warm.

use super::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller keeps this method's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System`, see `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

fn asked_by(work: impl FnOnce()) -> usize {
    let before = ASKED.get();
    work();
    ASKED.get() - before
}

/// Memory that nobody has, to lend.
struct Piece(u64, u64);

// SAFETY: no device of these tests moves data.
unsafe impl Lendable for Piece {
    fn range(&self) -> PhysRange {
        PhysRange::new(PhysAddr::new(self.0), self.1).expect("does not wrap")
    }
}

#[test]
fn map_and_unmap_take_nothing_from_the_heap() {
    let world = World::new(true);
    let mut held = Vec::with_capacity(64);
    let mut round = |calls: u64| {
        for call in 0..calls {
            // Sizes with a slab of their own, and a limit that changes.
            let pages = [1, 2, 5, 32, 64, 512][(call % 6) as usize];
            world.dma.set_address_bits(if call % 2 == 0 { 32 } else { 64 }).expect("sound");
            let piece = Piece(0x1_0000_1000 + call % 7 * 0x20_0000, pages * 4096);
            held.push(world.dma.map(piece, Both).expect("mapped"));
            if held.len() == 64 {
                for mapping in held.drain(..) {
                    world.dma.unmap(mapping).expect("confirmed");
                }
            }
        }
    };
    assert!(asked_by(|| round(6 * 64)) > 0, "slabs and tables, or nothing is counted");
    assert_eq!(asked_by(|| round(10_000)), 0);
}

#[test]
fn a_device_that_maps_little_pays_for_no_slabs() {
    let world = World::new(true);
    let heap = asked_by(|| {
        for _ in 0..8 {
            drop(world.dma.map(Piece(0x1_0000_1000, 4096), Both).expect("mapped"));
        }
    });
    let ninth_on = asked_by(|| {
        for _ in 0..16 {
            drop(world.dma.map(Piece(0x1_0000_1000, 4096), Both).expect("mapped"));
        }
    });
    // The object, its list of 256 chunks, the CPUs' words, one chunk with its words.
    assert!(heap < 40 && ninth_on > 4, "{heap}, then {ninth_on}");
}
