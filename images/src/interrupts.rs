//! Interrupts: the IOMMU's are collected where they arrive and delivered by a thread.

use crate::board::{Board, Interrupt};
use crate::chosen::Hardware;
use crate::seams::Image;
use crate::{say, state};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use portcullis_iommu::bare::{BarePlatform, IrqSpinLock};
use portcullis_iommu::platform::IrqMutex;
use portcullis_iommu::{GlobalErrors, InterruptHandle};

type Handle = InterruptHandle<BarePlatform<Image>>;

static IOMMU: IrqMutex<Option<Handle>, IrqSpinLock> =
    IrqMutex::from_raw(IrqSpinLock::unlabelled(), None);
/// A handler collects nothing while this is set: the queue overflows.
pub static DEAF: AtomicBool = AtomicBool::new(false);
/// Faults are counted and not printed.
pub static QUIET: AtomicBool = AtomicBool::new(false);
static WANTED: AtomicBool = AtomicBool::new(false);
/// Interrupts of the IOMMU, and messages of devices.
pub static SIGNALS: AtomicU64 = AtomicU64::new(0);
pub static MESSAGES: AtomicU64 = AtomicU64::new(0);
pub static FAULTS: AtomicU64 = AtomicU64::new(0);
/// How often the IOMMU said that it lost faults.
pub static LOSSES: AtomicU64 = AtomicU64::new(0);

/// Which IOMMU the handler serves.
pub fn serve(handle: Option<Handle>) {
    let earlier = IOMMU.with(|slot| core::mem::replace(slot, handle));
    drop(earlier);
}

#[unsafe(no_mangle)]
extern "C" fn rust_interrupt(vector: usize) {
    Hardware::take_interrupts(vector, |who| {
        if who == Interrupt::Message {
            MESSAGES.fetch_add(1, Ordering::Relaxed);
            return;
        }
        SIGNALS.fetch_add(1, Ordering::Relaxed);
        if !DEAF.load(Ordering::Relaxed) {
            IOMMU.with(|iommu| iommu.as_ref().map(Handle::collect));
            WANTED.store(true, Ordering::Release);
            state().subsystem.wake_workers();
        }
    });
}

/// In a thread: gives what was collected to the drivers.
pub fn deliver() {
    if WANTED.swap(false, Ordering::AcqRel) {
        drain();
    }
}

pub fn drain() {
    let state = state();
    let told = state.subsystem.drain_faults(state.iommu, |reported, device| {
        FAULTS.fetch_add(1, Ordering::Relaxed);
        if !QUIET.load(Ordering::Relaxed) {
            let fault = reported.fault;
            let path = device.map_or("?", |device| device.path());
            let at = fault.iova.map_or(u64::MAX, |iova| iova.raw());
            say!("     IOMMU: {path} refused: {}, at {at:#x}", fault.reason);
        }
    });
    // A full queue is an overflow; QEMU says that it could not write the record (docs/qemu-differences.md).
    let losses = told.overflows + u32::from(told.errors.contains(GlobalErrors::FAULT_RECORD));
    LOSSES.fetch_add(losses.into(), Ordering::Relaxed);
}
