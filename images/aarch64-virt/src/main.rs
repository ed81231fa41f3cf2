//! A small kernel on Portcullis, as an example and as a test: QEMU's `virt` with two CPUs, and edu, virtio-rng and NVMe behind an SMMUv3.
//!
//! `cargo xtask image` builds and boots it. The order of a boot:
//!
//! 1. The devicetree is read, and PCI is enumerated with bus mastering off ([`machine`]).
//! 2. Drivers are bound; their IOMMU is not there yet, so they wait for it.
//! 3. CPU 1 starts and works off what becomes ready.
//! 4. The SMMU is brought up (everything blocked) and registered; bus mastering goes on; the drivers are probed on CPU 1.
//! 5. The checks of [`trials`], each a line `PASS` or `FAIL`; then everything is taken down, and no byte may be left.
#![no_std]
#![no_main]

extern crate alloc;

mod board;
mod console;
mod cpu;
mod drivers;
mod gic;
mod heap;
mod interrupts;
mod its;
mod machine;
mod pci;
mod seams;
mod trials;

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use heap::{HEAP, POOL};
use portcullis::{FwNode, Subsystem};
use portcullis_bare::BarePlatform;
use seams::Image;

core::arch::global_asm!(include_str!("entry.s"));

const HEAP_BYTES: usize = 8 << 20;
const POOL_BYTES: usize = 32 << 20;

/// What every CPU and every interrupt handler knows.
pub struct State {
    pub subsystem: Subsystem<BarePlatform<Image>>,
    pub smmu: FwNode,
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

fn install(subsystem: Subsystem<BarePlatform<Image>>, smmu: FwNode) {
    let [second_up, stop, second_down] = [(); 3].map(|()| AtomicBool::new(false));
    let state = State { subsystem, smmu, second_up, stop, second_down };
    STATE.store(Box::into_raw(Box::new(state)), Ordering::Release);
}

/// CPU 0.
#[unsafe(no_mangle)]
extern "C" fn rust_main(devicetree: usize) -> ! {
    unsafe extern "C" {
        static __image_end: u8;
    }
    let end = (&raw const __image_end).addr();
    // SAFETY: QEMU's virt has RAM from the image's end on (at least 128 MiB in all), and nobody else uses it.
    unsafe { HEAP.init(end, HEAP_BYTES) };
    // SAFETY: as above, behind the heap.
    unsafe { POOL.init(end + HEAP_BYTES, POOL_BYTES) };
    say!("portcullis on bare metal: a kernel of two CPUs on QEMU's virt");
    trials::run(machine::discover(devicetree));
    let (passed, failed) = console::passed_and_failed();
    say!("{passed} checks passed, {failed} failed");
    if failed > 0 { cpu::fail(1) } else { cpu::power_off() }
}

/// CPU 1: what became ready is probed here, and faults are delivered to drivers.
#[unsafe(no_mangle)]
extern "C" fn rust_secondary() -> ! {
    gic::init_cpu();
    cpu::unmask_interrupts();
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

#[unsafe(no_mangle)]
extern "C" fn rust_exception(esr: u64, elr: u64, far: u64) -> ! {
    console::last_line(format_args!(
        "EXCEPTION on cpu{}: ESR {esr:#x}, ELR {elr:#x}, FAR {far:#x}",
        cpu::number()
    ));
    cpu::fail(2)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::last_line(format_args!("PANIC on cpu{}: {info}", cpu::number()));
    cpu::fail(101)
}
