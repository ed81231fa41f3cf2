//! A small kernel on Portcullis, as an example and as a test: two CPUs, and edu, virtio-rng and NVMe behind the IOMMU of one of QEMU's boards, which [`chosen`] stands for.
//!
//! `cargo xtask image` builds and boots it for each. What the boards share is in `src`; what only one of them has, in the folder of its name. The order of a boot:
//!
//! 1. Firmware's description is read, and PCI is enumerated with bus mastering off ([`machine`]).
//! 2. Drivers are bound; their IOMMU is not there yet, so they wait for it.
//! 3. CPU 1 starts and works off what becomes ready.
//! 4. The IOMMU is brought up (everything blocked) and registered; bus mastering goes on; the drivers are probed on CPU 1.
//! 5. The checks of [`trials`], each a line `PASS` or `FAIL`; then everything is taken down, and no byte may be left.
#![no_std]
#![no_main]

extern crate alloc;

mod board;
#[cfg_attr(target_arch = "aarch64", path = "../aarch64-virt/mod.rs")]
#[cfg_attr(target_arch = "riscv64", path = "../riscv64-virt/mod.rs")]
#[cfg_attr(target_arch = "x86_64", path = "../x86_64-q35/mod.rs")]
mod chosen;
mod console;
mod drivers;
mod heap;
mod interrupts;
mod machine;
mod pci;
mod seams;
mod time;
mod trials;

use alloc::boxed::Box;
use board::{Board, Handed};
use chosen::{Hardware, cpu};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use heap::{HEAP, POOL};
use portcullis_iommu::bare::BarePlatform;
#[cfg(not(target_arch = "x86_64"))]
use portcullis_iommu::firmware::{
    MachineDescription,
    devicetree::{FlatTree, Tree, lower},
};
use portcullis_iommu::{FwNode, Subsystem};
use seams::Image;

const HEAP_BYTES: usize = 8 << 20;
const POOL_BYTES: usize = 32 << 20;

/// What every CPU and every interrupt handler knows.
pub struct State {
    pub subsystem: Subsystem<BarePlatform<Image>>,
    pub iommu: FwNode,
    /// CPU 1 has started, has nothing to do any more, or has ended.
    pub second_up: AtomicBool,
    pub stop: AtomicBool,
    pub second_down: AtomicBool,
}

static STATE: AtomicPtr<State> = AtomicPtr::new(core::ptr::null_mut());

/// # Panics
///
/// Before [`install`].
pub fn state() -> &'static State {
    // SAFETY: null, or leaked by `install` and never freed.
    unsafe { STATE.load(Ordering::Acquire).as_ref() }.expect("installed first")
}

fn install(subsystem: Subsystem<BarePlatform<Image>>, iommu: FwNode) {
    let [second_up, stop, second_down] = [(); 3].map(|()| AtomicBool::new(false));
    let state = State { subsystem, iommu, second_up, stop, second_down };
    STATE.store(Box::into_raw(Box::new(state)), Ordering::Release);
}

/// CPU 0.
#[unsafe(no_mangle)]
extern "C" fn rust_main(description: usize, cpu: usize) -> ! {
    unsafe extern "C" {
        static __image_end: u8;
    }
    let end = (&raw const __image_end).addr();
    // SAFETY: link.ld puts the image where at least 64 MiB of RAM follow, and nobody else uses them.
    unsafe { HEAP.init(end, HEAP_BYTES) };
    // SAFETY: as above, behind the heap.
    unsafe { POOL.init(end + HEAP_BYTES, POOL_BYTES) };
    say!("portcullis on bare metal: a kernel of two CPUs on {}", Hardware::NAME);
    trials::run(machine::discover(Handed { description, cpu }));
    let (passed, failed) = console::passed_and_failed();
    say!("{passed} checks passed, {failed} failed");
    if failed > 0 { cpu::fail(1) } else { cpu::power_off() }
}

/// CPU 1: what became ready is probed here, and faults are delivered to drivers.
#[unsafe(no_mangle)]
extern "C" fn rust_secondary() -> ! {
    Hardware::start_second();
    let state = state();
    state.second_up.store(true, Ordering::Release);
    state.subsystem.serve_deferred(|| {
        interrupts::deliver();
        trials::stress_if_asked();
        state.stop.load(Ordering::Acquire)
    });
    state.second_down.store(true, Ordering::Release);
    cpu::off()
}

/// What the CPU says of an exception that nobody expects: its cause, and two more registers.
#[unsafe(no_mangle)]
extern "C" fn rust_exception(cause: u64, at: u64, value: u64) -> ! {
    console::last_line(format_args!(
        "EXCEPTION on cpu{}: cause {cause:#x} at {at:#x}, {value:#x}",
        cpu::number()
    ));
    cpu::fail(2)
}

/// The flattened devicetree at `at`: as a tree, and as what the core is told of it.
///
/// # Safety
///
/// RAM is mapped 1:1, and nobody writes what stands there.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn devicetree(at: usize) -> (Tree<'static>, MachineDescription) {
    let header: *const [u32; 2] = core::ptr::with_exposed_provenance(at);
    // SAFETY: RAM is mapped; whatever stands there is a number.
    let [magic, size] = unsafe { header.read_volatile() }.map(u32::from_be);
    assert_eq!(magic, 0xd00d_feed, "no devicetree at {at:#x}");
    let first = core::ptr::with_exposed_provenance(at);
    // SAFETY: the caller's; the header says how long it is.
    let blob = unsafe { core::slice::from_raw_parts(first, size as usize) };
    let flat = FlatTree::new(blob).expect("a devicetree");
    let tree = flat.tree().expect("a sound one");
    let described = lower(&tree, &flat.reservations().expect("a sound one"), "virt");
    (tree, described)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::last_line(format_args!("PANIC on cpu{}: {info}", cpu::number()));
    cpu::fail(101)
}
