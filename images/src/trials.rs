//! What is checked, in the order of a boot.

use crate::board::Board;
use crate::chosen::Hardware;
use crate::console::check;
use crate::drivers::edu::{Edu, Quick, Shared};
use crate::drivers::rng;
use crate::heap::{HEAP, POOL};
use crate::interrupts::{self, DEAF, FAULTS, LOSSES, MESSAGES, QUIET, SIGNALS};
use crate::machine::{Known, Machine};
use crate::seams::Image;
use crate::{cpu, say, state, time};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use portcullis_iommu::bare::{BarePlatform, arch};
use portcullis_iommu::platform::{DmaPages, PageLayout};
use portcullis_iommu::{BindOutcome, Both, DeviceStage, DmaHandle, Driver, ToDevice};

type Platforms = BarePlatform<Image>;
type Handle = DmaHandle<Platforms>;

/// An address that nobody maps. QEMU checks an access of more than four bytes there in pieces, each of which is refused.
const NOWHERE: u64 = 0x123_4000;
/// Enough to see both CPUs at it at once, a tenth of a second under emulation.
const ROUNDS: u64 = 500;
const CYCLES: usize = 30;
/// After these, lists that keep their room have all that they will ever need.
const WARM_UP: usize = 4;
/// 32 events: so few that an overflow is soon made.
const EVENTS_LOG2: u8 = 5;
/// A burst fits the queue.
const BURST_BYTES: u64 = 64;
const BURSTS: u64 = 6;

pub fn run(mut machine: Machine) {
    clients_come_first(&machine);
    let started = cpu::start_second().is_ok()
        && time::wait_until(|| state().second_up.load(Ordering::Acquire));
    check("cpu1 is up", started);
    machine.board.let_iommu_interrupt(&machine.iommu);
    nobody_masters_yet(&machine);
    bring_up(&machine);
    // Blocked now: only from here on may a device do DMA.
    for at in machine.functions.clone() {
        machine.bus.let_master(at);
    }
    register();
    check(
        "everybody who waited is bound",
        time::wait_until(|| state().subsystem.counts().bound == 3),
    );
    refusals(&machine);
    messages(&mut machine);
    storm(&machine);
    stress_both(&machine);
    take_down(&machine);
    cycles(&machine);
    state().stop.store(true, Ordering::Release);
    state().subsystem.wake_workers();
    check("cpu1 ends", time::wait_until(|| state().second_down.load(Ordering::Acquire)));
}

fn bind(device: &Known, driver: Arc<dyn Driver<Platforms>>) -> bool {
    let outcome = state().subsystem.bind(device, driver);
    outcome == Ok(BindOutcome::Deferred(state().iommu))
}

fn clients_come_first(machine: &Machine) {
    let (edu, device, _) = &machine.edus[0];
    check("edu waits for its IOMMU", bind(device, Arc::new(Shared(Arc::clone(edu)))));
    let (rng, device) = &machine.rng;
    check("virtio-rng waits", bind(device, rng.clone()));
    let (nvme, device) = &machine.nvme;
    check("nvme waits", bind(device, nvme.clone()));
}

/// Out of reset most IOMMUs let everything through: until ours blocks, only its own bus mastering bit keeps a device from memory.
fn nobody_masters_yet(machine: &Machine) {
    let edu = &machine.edus[0].0.edu;
    check("no device does DMA before the IOMMU blocks", leaves_memory_alone(edu));
}

/// Whether `edu`, told to write to a page of RAM by its physical address, ends its command and does not reach the page.
fn leaves_memory_alone(edu: &Edu) -> bool {
    let target = page();
    target.store64(0, 0x5afe);
    edu.write(target.address().raw(), 4) && target.load64(0) == 0x5afe
}

/// The instance between [`bring_up`] and [`register`].
static INSTANCE: portcullis_iommu::platform::Mutex<
    Option<portcullis_iommu::ReadyInstance>,
    portcullis_iommu::bare::SpinLock<Image>,
> = portcullis_iommu::platform::Mutex::from_raw(
    portcullis_iommu::bare::SpinLock::unlabelled(),
    None,
);

fn bring_up(machine: &Machine) {
    let started = arch::counter();
    bring_up_quietly(machine);
    let took = time::micros(arch::counter() - started);
    say!("     {}: up in {took} us, everything blocked", machine.iommu.path);
}

fn bring_up_quietly(machine: &Machine) {
    let registers = machine.iommu_registers();
    *INSTANCE.lock() = Some(machine.board.bring_up(&machine.iommu, registers, EVENTS_LOG2));
}

fn register() {
    let instance = INSTANCE.lock().take().expect("brought up first");
    state().subsystem.register(state().iommu, instance).expect("the first one");
    interrupts::serve(state().subsystem.interrupt_handle(state().iommu));
}

/// Whether `access` is refused: exactly one fault is reported, by interrupt.
fn is_refused(access: impl FnOnce() -> bool) -> bool {
    let before = FAULTS.load(Ordering::Relaxed);
    let ended = access();
    ended && time::wait_until(|| FAULTS.load(Ordering::Relaxed) == before + 1)
}

fn page() -> DmaPages<portcullis_iommu::bare::LinearMemory<&'static crate::heap::Heap>> {
    let layout = PageLayout::new(4096, 4096).expect("a page");
    DmaPages::new(
        portcullis_iommu::platform::Platform::memory(&**state().subsystem.platform()),
        layout,
    )
    .expect("memory")
}

fn handle(machine: &Machine) -> Handle {
    machine.edus[0].0.handle.lock().clone().expect("edu is bound")
}

fn refusals(machine: &Machine) {
    let (edu, dma) = (machine.edus[0].0.edu, handle(machine));
    check(
        "an address that was never mapped is refused and reported",
        is_refused(|| edu.write(NOWHERE, 4)),
    );
    let pages = page();
    pages.store64(0, 0x5afe);
    let mapping = dma.map(pages, ToDevice).expect("mapped");
    let address = mapping.device_address();
    // Before the read: QEMU's RISC-V unit does not record a write that a cached translation forbids.
    check(
        "a write to what the device may only read is refused",
        is_refused(|| edu.write(address, 4)),
    );
    let before = FAULTS.load(Ordering::Relaxed);
    check(
        "a mapped read goes through",
        edu.read(address, 4) && FAULTS.load(Ordering::Relaxed) == before,
    );
    let pages = dma.unmap(mapping).expect("confirmed");
    check("that write did not land", pages.load64(0) == 0x5afe);
    check("after the unmap the read is refused", is_refused(|| edu.read(address, 4)));
    let idle = &machine.edus[1].0.edu;
    check("a device without a driver is refused", is_refused(|| leaves_memory_alone(idle)));
    check(
        "the driver was told of its own faults",
        machine.edus[0].0.told.load(Ordering::Relaxed) == 3,
    );
    check("all of that came by interrupt", SIGNALS.load(Ordering::Relaxed) >= 4);
}

/// A message-signalled interrupt is a write too: the IOMMU translates it, or takes it before (a PC).
fn messages(machine: &mut Machine) {
    let at = machine.edus[0].2;
    let doorbell = handle(machine).doorbell(machine.doorbell).expect("the description names it");
    let data = machine.board.route_message(at);
    check("edu takes an MSI address", machine.bus.enable_msi(at, doorbell.raw(), data));
    machine.edus[0].0.edu.raise();
    let arrived = time::wait_until(|| MESSAGES.load(Ordering::Relaxed) == 1);
    check("its MSI arrives", arrived);
    say!("     doorbell {} is iova {doorbell}, data {data:#x}", machine.doorbell);
}

/// More faults than interrupts can tell one by one, and more than the queue holds.
fn storm(machine: &Machine) {
    let (edu, other) = (machine.edus[0].0.edu, machine.edus[1].0.edu);
    QUIET.store(true, Ordering::Relaxed);
    let before = FAULTS.load(Ordering::Relaxed);
    let told = || FAULTS.load(Ordering::Relaxed) - before;
    let sent = (0..BURSTS).filter(|_| edu.write(NOWHERE, BURST_BYTES)).count() as u64;
    let each = if Hardware::RECORDS_EACH_FAULT { BURST_BYTES / 4 } else { 1 };
    let arrived = time::wait_until(|| told() >= BURSTS * each);
    check("bursts of refused accesses are told whole", sent == BURSTS && arrived);
    let before = told();
    DEAF.store(true, Ordering::Relaxed);
    // One place for faults is full with the first device's.
    let sent = edu.write(NOWHERE, 8 << EVENTS_LOG2) && other.write(NOWHERE, 8 << EVENTS_LOG2);
    DEAF.store(false, Ordering::Relaxed);
    interrupts::drain();
    check("what the full queue lost is told", sent && LOSSES.load(Ordering::Relaxed) > 0);
    let kept = if Hardware::RECORDS_EACH_FAULT { (1 << EVENTS_LOG2) - 1 } else { 1 };
    check("the queue's worth of faults came before it", told() >= before + kept);
    check("after it a fault is reported again", is_refused(|| edu.write(NOWHERE, 4)));
    QUIET.store(false, Ordering::Relaxed);
}

/// 0: nothing to do; 1: CPU 1 is to map and unmap; 2: it has.
static STRESS: AtomicU64 = AtomicU64::new(0);
static SHARED: portcullis_iommu::platform::Mutex<
    Option<Handle>,
    portcullis_iommu::bare::SpinLock<Image>,
> = portcullis_iommu::platform::Mutex::from_raw(
    portcullis_iommu::bare::SpinLock::unlabelled(),
    None,
);

/// Maps and unmaps 16 KiB again and again, and says what that took.
fn stress(dma: &Handle) -> bool {
    let layout = PageLayout::new(0x4000, 4096).expect("four pages");
    let memory = portcullis_iommu::platform::Platform::memory(&**state().subsystem.platform());
    let mut pages = DmaPages::new(memory, layout).expect("memory");
    let started = arch::counter();
    for _ in 0..ROUNDS {
        let Ok(mapping) = dma.map(pages, Both) else { return false };
        let Ok(back) = dma.unmap(mapping) else { return false };
        pages = back;
    }
    let nanos = time::micros(arch::counter() - started) * 1000 / ROUNDS;
    say!("     cpu{}: map and unmap of 16 KiB, {nanos} ns under emulation", cpu::number());
    true
}

/// CPU 1's half.
pub fn stress_if_asked() {
    if STRESS.load(Ordering::Acquire) == 1 {
        let dma = SHARED.lock().take();
        let done = dma.is_some_and(|dma| stress(&dma));
        check("cpu1 maps and unmaps beside cpu0", done);
        STRESS.store(2, Ordering::Release);
    }
}

fn stress_both(machine: &Machine) {
    let dma = handle(machine);
    *SHARED.lock() = Some(dma.clone());
    let before = dma.live_mappings();
    STRESS.store(1, Ordering::Release);
    state().subsystem.wake_workers();
    check("cpu0 maps and unmaps beside cpu1", stress(&dma));
    check("cpu1 has ended", time::wait_until(|| STRESS.load(Ordering::Acquire) == 2));
    check(
        "nothing is left mapped or in quarantine",
        dma.live_mappings() == before && state().subsystem.counts().quarantined == 0,
    );
}

fn take_down(machine: &Machine) {
    let core = &state().subsystem;
    let kept = handle(machine);
    let devices = [&machine.edus[0].1, &machine.rng.1, &machine.nvme.1];
    check(
        "every driver unbinds, confirmed",
        devices.iter().all(|device| core.unbind(device).is_ok()),
    );
    check("a handle that outlived its driver is void", kept.map(page(), Both).is_err());
    check("virtio lends nothing any more", rng::lent() == 0);
    interrupts::serve(None);
    check("the IOMMU is unregistered", core.unregister(state().iommu).is_ok());
    rng::forget();
    let counts = core.counts();
    check("nothing is mapped or in quarantine", counts.mappings == 0 && counts.quarantined == 0);
    // A revoked handle is still kept here, and in the driver.
    let live = portcullis_iommu::platform::Platform::memory(&**core.platform()).live();
    check("no page of hardware's is left", live == Hardware::KEPT_BY_STOP);
    say!("     pool {} bytes (what hardware keeps), heap {} bytes", POOL.used(), HEAP.used());
    check("a stopped IOMMU lets nothing through", leaves_memory_alone(&machine.edus[0].0.edu));
}

/// Up and down again and again. What is left may not grow by a byte a cycle: a list of one entry, that is there or not as one CPU or the other was first, is no leak.
fn cycles(machine: &Machine) {
    let core = &state().subsystem;
    let device = &machine.edus[1].1;
    let cycle = || {
        let waits = bind(device, Arc::new(Quick));
        bring_up_quietly(machine);
        register();
        let bound =
            time::wait_until(|| device.stage() == DeviceStage::Bound && core.counts().queued == 0);
        let unbound = core.unbind(device).is_ok();
        interrupts::serve(None);
        waits && bound && unbound && time::wait_until(|| core.unregister(state().iommu).is_ok())
    };
    check("down and up again", (0..WARM_UP).all(|_| cycle()));
    let used = || (HEAP.used(), POOL.used());
    let before = settled(used);
    let good = (0..CYCLES).filter(|_| cycle()).count();
    check("again and again", good == CYCLES);
    let after = settled(used);
    say!("     heap and pool: {before:?} bytes before, {after:?} after");
    let grown = after.0.saturating_sub(before.0);
    let kept = CYCLES * Hardware::KEPT_BY_STOP * 4096;
    check("no cycle leaves a byte", grown < CYCLES && before.1 + kept == after.1);
}

/// `used` once it stands still for 10 ms: cpu1 may still let go of what it has just worked on.
fn settled(used: impl Fn() -> (usize, usize)) -> (usize, usize) {
    let mut last = (used(), arch::counter());
    while time::micros(arch::counter() - last.1) < 10_000 {
        let now = used();
        if now != last.0 {
            last = (now, arch::counter());
        }
    }
    last.0
}
