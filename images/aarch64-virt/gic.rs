//! The interrupt controller: `arm-gic` for lines, `its` for interrupts that a device writes.

use super::cpu;
use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicCpuInterface, GicV3, Group};
use arm_gic::{IntId, InterruptGroup, Trigger, UniqueMmioPointer};
use core::ptr::NonNull;
use portcullis_iommu::bare::IrqSpinLock;
use portcullis_iommu::platform::IrqMutex;

static GIC: IrqMutex<Option<Gic>, IrqSpinLock> =
    IrqMutex::from_raw(IrqSpinLock::unlabelled(), None);

struct Gic(GicV3<'static>);

// SAFETY: the registers belong to no thread, and the lock around it lets one in at a time.
unsafe impl Send for Gic {}

/// Every interrupt has this priority; 0 is the highest.
const PRIORITY: u8 = 0x80;

/// Sets the controller up, for CPU 0 as well.
///
/// # Safety
///
/// The addresses are those of a GICv3's distributor and redistributors, mapped as device memory; called once.
pub unsafe fn init((distributor, redistributors): (usize, usize), cpus: usize) {
    let distributor = NonNull::new(distributor as *mut Gicd).expect("not at 0");
    let redistributors = NonNull::new(redistributors as *mut GicrSgi).expect("not at 0");
    // SAFETY: the caller's.
    let gic = unsafe { GicV3::new(UniqueMmioPointer::new(distributor), redistributors, cpus) };
    let mut gic = gic.expect("a GICv3");
    gic.setup(0);
    GicCpuInterface::set_priority_mask(0xff);
    GIC.with(|slot| *slot = Some(Gic(gic)));
}

/// Prepares the CPU that calls, not the first.
pub fn init_cpu() {
    with(|gic| gic.init_cpu(cpu::number()));
    GicCpuInterface::enable_group1(true);
    GicCpuInterface::set_priority_mask(0xff);
}

/// Lets shared peripheral interrupt `line` in, which is triggered by an edge.
pub fn enable(line: u32) {
    let id = IntId::spi(line);
    with(|gic| {
        let done = gic
            .set_interrupt_priority(id, None, PRIORITY)
            .and_then(|()| gic.set_trigger(id, None, Trigger::Edge))
            .and_then(|()| gic.set_group(id, None, Group::Group1NS))
            .and_then(|()| gic.enable_interrupt(id, None, true));
        done.expect("a line that the controller has");
    });
}

fn with<R>(act: impl FnOnce(&mut GicV3<'static>) -> R) -> R {
    GIC.with(|gic| act(&mut gic.as_mut().expect("set up first").0))
}

/// Takes the pending interrupts of this CPU one by one.
pub fn handle(mut act: impl FnMut(u32)) {
    while let Some(id) = GicCpuInterface::get_and_acknowledge_interrupt(InterruptGroup::Group1) {
        act(id.into());
        GicCpuInterface::end_interrupt(id, InterruptGroup::Group1);
    }
}
