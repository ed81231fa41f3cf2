//! The driver's safeguards left out one by one on the machine, which must notice each; with all of them in place it notices nothing. What [`Safeguard::AbsentBetween`] is for shows only between two stores of one change: the
//! tests of `entry` look there.

use crate::rig::{Board, ID, IOVA, PAGE, small};
use portcullis::{
    AddressSpace, FaultReason, FormatSupport, IommuOps, SpaceRequest, SpaceTag, StreamSpec,
    StreamTarget,
};
use portcullis_addr::{Iova, PageSizes, Prot};
use portcullis_machine::{
    Careless, ChunkOrder, DmaRequest, Expectation, Machine, Policy, ReadChunks, RegisterBlock,
    StepHook, TimeSource, VtdIommu, VtdProfile, without,
};
use portcullis_pgtable::IotlbGather;
use portcullis_platform::Registers;
use portcullis_platform::host::HostThreads;
use portcullis_vtd::{Iommu, Safeguard};
use std::sync::{Arc, Mutex, OnceLock, Weak};

type Driver = Iommu<Careless<HostThreads>, RegisterBlock<VtdIommu>>;

const SPEC: StreamSpec = StreamSpec::exact(ID);

struct World {
    board: Board,
    driver: Driver,
}

impl World {
    fn new(profile: VtdProfile, policy: Policy) -> Self {
        let board = Board::new(profile, policy);
        let platform = Arc::new(Careless::<HostThreads>::new(&board.machine));
        let driver = Iommu::bring_up(platform, board.unit.registers(), small());
        let driver = driver.expect("the unit comes up");
        driver.claim(&[SPEC]).expect("free");
        Self { board, driver }
    }

    fn space(&self) -> (Arc<dyn AddressSpace>, SpaceTag) {
        let capabilities = self.driver.capabilities();
        let support = *capabilities.formats.first().expect("a format");
        let support = FormatSupport { page_sizes: PageSizes::from_bitmap(0x1000), ..support };
        let request = SpaceRequest { support, coherent_walk: capabilities.coherent_walk };
        let table = self.driver.create_space(&request).expect("a table");
        let tag = self.driver.bind_space(&table).expect("a tag");
        (table, tag)
    }

    fn attach(&self, target: StreamTarget) {
        self.driver.attach(&[SPEC], None, target).expect("confirmed");
    }
}

/// A page mapped, used, unmapped; then a device blocked.
fn unmap_and_block() -> usize {
    let world = World::new(VtdProfile::server(), Policy::default());
    let ((table, tag), page) = (world.space(), world.board.frame());
    let (mut gather, prot) = (IotlbGather::new(), Prot::READ | Prot::WRITE | Prot::CACHE);
    for iova in [IOVA, IOVA + PAGE] {
        table.map(Iova::new(iova), page.address(), PAGE, prot, &mut gather).expect("mapped");
    }
    world.attach(StreamTarget::Space(tag));
    assert!(world.board.write(IOVA) && world.board.write(IOVA + PAGE));
    table.unmap(Iova::new(IOVA), PAGE, &mut gather).expect("unmapped");
    world.driver.invalidate(tag, &gather).expect("said to be confirmed");
    table.retire(gather.confirm());
    world.board.device.forbid(Iova::new(IOVA), PAGE);
    world.board.write(IOVA);
    world.attach(StreamTarget::Blocked);
    world.board.device.expect(Expectation::Blocked);
    world.board.write(IOVA + PAGE);
    world.board.machine.violations().len()
}

/// A device that was refused is attached, on a unit that may remember the refusal or not see the change: its accesses must go through then.
fn attach_after_refusal(profile: VtdProfile) -> usize {
    let world = World::new(profile, Policy::default());
    let ((table, tag), page) = (world.space(), world.board.frame());
    let (mut gather, prot) = (IotlbGather::new(), Prot::READ | Prot::WRITE | Prot::CACHE);
    table.map(Iova::new(IOVA), page.address(), PAGE, prot, &mut gather).expect("mapped");
    world.attach(StreamTarget::Space(tag));
    world.attach(StreamTarget::Blocked);
    assert!(!world.board.write(IOVA));
    // Only the present bit has changed since.
    world.attach(StreamTarget::Space(tag));
    usize::from(!world.board.write(IOVA))
}

fn attach_in_caching_mode() -> usize {
    attach_after_refusal(VtdProfile { caching_mode: true, ..VtdProfile::server() })
}

fn attach_behind_a_write_buffer() -> usize {
    attach_after_refusal(VtdProfile { write_buffer: true, coherent: true, ..VtdProfile::qemu10() })
}

/// Has a device write at every step of the unit, but not while it does.
#[derive(Default)]
struct Eager {
    board: OnceLock<(Weak<Machine>, u64)>,
    inside: Mutex<bool>,
}

impl StepHook for Eager {
    fn step(&self, object: &'static str, _: u64, _: &'static str, _: bool) {
        let Some((machine, address)) = self.board.get() else { return };
        if object != "iommu" || std::mem::replace(&mut *self.inside.lock().expect("test"), true) {
            return;
        }
        let machine = machine.upgrade().expect("it is in use");
        let device = machine.device(portcullis_machine::DeviceId(0)).expect("the client");
        let _refused = machine.dma_of(&device, DmaRequest::write(Iova::new(*address), b"token"));
        *self.inside.lock().expect("test") = false;
    }
}

/// Firmware left the unit translating, with nothing for the device; a device that tries all the time must find no moment in which it is let through.
fn take_over_under_fire() -> usize {
    let hook = Arc::new(Eager::default());
    let time = TimeSource::Virtual { step: 1_000_000 };
    let builder = Machine::builder().time(time).hook(Arc::clone(&hook) as Arc<dyn StepHook>);
    let machine = builder.build();
    let unit = machine.add_vtd(VtdProfile::qemu10());
    let device = machine.add_client("client", &unit, ID);
    let board = Board { machine, unit, device };
    let (root, page) = (board.frame(), board.frame());
    let registers = board.unit.registers();
    registers.write64(0x20, root.address().raw());
    for bit in [30, 31] {
        registers.write32(0x18, 1 << bit);
        while registers.read32(0x1c) >> bit & 1 == 0 {}
    }
    board.device.expect(Expectation::Blocked);
    let target = (Arc::downgrade(&board.machine), page.address().raw());
    hook.board.set(target).expect("once");
    let platform = Arc::new(Careless::<HostThreads>::new(&board.machine));
    let _driver = Iommu::bring_up(platform, board.unit.registers(), small()).expect("up");
    board.machine.violations().len()
}

type Act = Box<dyn FnOnce() + Send>;

/// The blocked device is led to an empty first stage while hardware is in the middle of reading its PASID entry, the first 16 bytes last. It must read the old entry, the new one, or none: a mixture has the new entry's present bit and
/// the old one's root, 0, which is no memory here.
fn change_under_read() -> usize {
    let act: Arc<Mutex<Option<Act>>> = Arc::default();
    let due = Arc::clone(&act);
    let chunks = ReadChunks::of(16, ChunkOrder::Descending).between(move |point| {
        let last = point.structure == "PASID entry" && point.read + 1 == point.of;
        let act = last.then(|| due.lock().expect("test").take());
        if let Some(Some(act)) = act {
            act();
        }
    });
    let world = Arc::new(World::new(VtdProfile::server(), Policy::default().chunks(chunks)));
    let (_table, tag) = world.space();
    let inside = Arc::clone(&world);
    let change = move || inside.attach(StreamTarget::Space(tag));
    *act.lock().expect("test") = Some(Box::new(change));
    assert!(!world.board.write(IOVA));
    assert!(act.lock().expect("test").is_none(), "the entry was read, and changed meanwhile");
    let mut mixed = 0;
    let _serviced = world.driver.service(usize::MAX, &mut |fault| {
        mixed += usize::from(fault.reason == FaultReason::ExternalAbort);
    });
    mixed
}

#[test]
fn each_safeguard_is_missed_and_nothing_is_found_with_all_of_them() {
    let runs: [(Safeguard, fn() -> usize); 6] = [
        (Safeguard::WaitForStatus, unmap_and_block),
        (Safeguard::ForgetContext, unmap_and_block),
        (Safeguard::ForgetAbsent, attach_in_caching_mode),
        (Safeguard::FlushWriteBuffer, attach_behind_a_write_buffer),
        (Safeguard::StayOn, take_over_under_fire),
        (Safeguard::PresentLast, change_under_read),
    ];
    let elsewhere = [Safeguard::AbsentBetween];
    assert_eq!(runs.len() + elsewhere.len(), Safeguard::ALL.len());
    for (safeguard, run) in runs {
        assert_eq!(without(None, run), 0, "{safeguard}");
        assert!(without(Some(safeguard.name()), run) > 0, "{safeguard} is not missed");
    }
}
