//! Broken hardware, queues that overflow, and the interrupts that tell of it.

use crate::rig::{self, LEAF, Rig};
use portcullis_addr::PhysAddr;
use portcullis_machine::{
    CommandError, Faults, InterruptLine, IommuModel, Policy, Profile, Violation,
};
use portcullis_platform::{Clock, DmaMemory, Registers, wait_for};
use portcullis_spec::smmuv3::event::number;
use std::sync::{Arc, Mutex};

const VA: u64 = 0x5000;
const CONS: usize = 0x9c;
const GERROR: usize = 0x60;
const GERRORN: usize = 0x64;

fn interrupts(rig: &Rig) -> Arc<Mutex<Vec<InterruptLine>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    rig.smmu.on_interrupt(move |line| sink.lock().expect("test").push(line));
    lines
}

#[test]
fn an_illegal_command_stops_the_queue_until_acknowledged() {
    for policy in [Policy::default(), Policy::like_qemu()] {
        let mut rig = Rig::new(Profile::qemu10(), policy);
        let lines = interrupts(&rig);
        let at = rig.r.read32(CONS);
        rig.submit(&[[0xff, 0], [0x46, 0]]);
        assert!(!rig.drained());
        assert_eq!(rig.r.read32(CONS), at | 1 << 24);
        assert_eq!(rig.r.read32(GERROR), 1);
        assert_eq!(*lines.lock().expect("test"), [InterruptLine::GlobalError]);
        // Acknowledged without mending: it stops at the same command again.
        rig.r.write32(GERRORN, 1);
        assert!(!rig.drained());
        assert_eq!((rig.r.read32(GERROR), rig.r.read32(CONS)), (0, at | 1 << 24));
        // Mended in place.
        rig.put(rig.cmdq + 16 * u64::from(at), &[0x46, 0]);
        rig.r.write32(GERRORN, 0);
        assert!((0..20).any(|_| rig.r.read32(CONS) & 0xf_ffff == at + 2));
    }
}

#[test]
fn commands_are_refused_for_what_the_unit_lacks() {
    let small = || Profile { ril: false, stage2: false, ..Profile::qemu10() };
    let no_stage1 = Profile::stage2_only;
    for (what, profile, command, legal) in [
        ("a range without RIL", small(), [0x12, 0x1000 | 1 << 10 | 3 << 8], false),
        ("no range", small(), [0x12, 0x1001], true),
        ("stage 2 by address", small(), [0x2a, 0x1001], false),
        ("stage 2 by VMID", small(), [0x28, 0], false),
        ("stage 1 by ASID", no_stage1(), [0x11, 0], false),
        ("a context descriptor", no_stage1(), [0x05, 0], false),
        ("all", no_stage1(), [0x30, 0], true),
        ("granule alone", Profile::qemu10(), [0x12, 0x1000 | 1 << 10], false),
        ("EL2", Profile::qemu10(), [0x20, 0], false),
        ("EL3", Profile::qemu10(), [0x18, 0], false),
        ("ATC", Profile::qemu10(), [0x40, 0], false),
        ("Secure", Profile::qemu10(), [0x03 | 1 << 10, 0], false),
        ("CS reserved", Profile::qemu10(), [0x46 | 3 << 12, 0], false),
        ("prefetch", Profile::qemu10(), [0x01, 0], true),
    ] {
        let mut rig = Rig::new(profile, Policy::default());
        rig.submit(&[command]);
        assert_eq!(rig.drained(), legal, "{what}");
        assert_eq!(rig.r.read32(GERROR) == 0, legal, "{what}");
    }
}

#[test]
fn an_unaligned_range_has_no_effect_and_is_reported() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    // Level 2 hint with an address that is not a multiple of 2 MiB.
    let command = [0x12 | rig::ASID << 48, 0x1000 | 1 | 1 << 10 | 2 << 8];
    rig.commands(&[command]);
    assert_eq!(rig.machine.violations(), [Violation::UnpredictableCommand { iommu: 0, command }]);
}

#[test]
fn chosen_commands_fail_with_chosen_codes() {
    for (error, code) in [
        (CommandError::Illegal, 1),
        (CommandError::FetchAbort, 2),
        (CommandError::AtcInvalidation, 3),
    ] {
        let mut rig = Rig::new(Profile::qemu10(), Policy::default());
        let at = rig.r.read32(CONS);
        rig.smmu.inject(Faults::none().fail_command(2, error));
        rig.submit(&[[0x30, 0], [0x30, 0], [0x46, 0]]);
        assert!(!rig.drained());
        assert_eq!(rig.r.read32(CONS), (at + 1) | code << 24);
        rig.r.write32(GERRORN, 1);
        assert!((0..20).any(|_| rig.r.read32(CONS) & 0xf_ffff == at + 3), "once only");
    }
}

#[test]
fn a_queue_beyond_memory_is_a_fetch_abort() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    rig.enable(0);
    rig.r.write64(0x90, 0x70_0000_0000 | 4);
    rig.r.write32(0x9c, 0);
    rig.r.write32(0x98, 1);
    rig.enable(8);
    (0..10).for_each(|_| rig.machine.clock().relax());
    assert_eq!(rig.r.read32(CONS), 2 << 24);
    assert_eq!(rig.r.read32(GERROR), 1);
    let _unused = rig.events();
}

#[test]
fn a_sync_can_hang_and_a_queue_can_freeze() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    for faults in [Faults::none().hang_sync(2), Faults::none().freeze_after(2)] {
        rig.smmu.inject(faults);
        rig.commands(&[]);
        let consumed = rig.r.read32(CONS);
        rig.submit(&[[0x30, 0], [0x46, 0]]);
        let stuck =
            wait_for(rig.machine.clock(), 1_000_000_000, || rig.r.read32(CONS) == consumed + 2);
        assert!(stuck.is_err());
        assert_eq!(rig.r.read32(CONS), consumed + 1);
        assert!(
            rig.machine.clock().now() >= 1_000_000_000,
            "virtual time passed, no real second did"
        );
        rig.smmu.inject(Faults::none());
        assert!(rig.drained(), "repaired");
    }
}

#[test]
fn registers_stick_and_units_vanish() {
    let rig = Rig::new(Profile::qemu10(), Policy::default());
    rig.smmu.inject(Faults::none().stick(0x24).stick_at(0x44, 1 << 31));
    rig.r.write32(0x20, 0);
    assert!((0..10).all(|_| rig.r.read32(0x24) == 0xd), "CR0ACK keeps its value");
    assert_eq!(rig.r.read32(0x44), 1 << 31, "GBPA.Update never clears");
    rig.smmu.inject(Faults::none().gone_at(3));
    assert_ne!(rig.r.read32(0), u32::MAX);
    assert_ne!(rig.r.read32(0), u32::MAX);
    assert_eq!(rig.r.read32(0), u32::MAX);
    assert_eq!(rig.r.read64(0x80), u64::MAX);
    rig.r.write32(0x20, 0);
    assert!(!rig.lands(VA));
    rig.smmu.inject(Faults::none());
    assert_ne!(rig.r.read32(0), u32::MAX, "back on the bus");
}

#[test]
fn guarded_registers_keep_their_value_and_tell() {
    let rig = Rig::new(Profile::qemu10(), Policy::default());
    for (offset, width) in
        [(0x80usize, 8), (0x88, 4), (0x90, 8), (0x9c, 4), (0xa0, 8), (0x100a8, 4), (0x2c, 4)]
    {
        let before = rig.r.read32(offset);
        if width == 8 {
            rig.r.write64(offset, u64::from(before ^ 0x40));
        } else {
            rig.r.write32(offset, before ^ 1);
        }
        assert_eq!(rig.r.read32(offset), before, "{offset:#x}");
        assert!(
            rig.machine.violations().contains(&Violation::GuardedWrite { iommu: 0, offset }),
            "{offset:#x}"
        );
    }
}

#[test]
fn enables_take_effect_when_acknowledged() {
    let rig = Rig::new(Profile::qemu10(), Policy::default().update_delay(3));
    rig.r.write32(0x20, 8);
    for _ in 0..2 {
        assert_eq!(rig.r.read32(0x24), 0xd);
    }
    assert!(!rig.lands(VA), "still translating");
    let _ack = rig.r.read32(0x24);
    assert_eq!(rig.r.read32(0x24), 8);
    assert!(rig.lands(rig.cd), "bypass now");
    rig.r.write32(0x44, 1 << 31 | 1 << 20);
    assert!(rig.lands(rig.cd));
    assert!((0..4).any(|_| rig.r.read32(0x44) == 1 << 20));
    assert!(!rig.lands(rig.cd));
    // Without Update nothing changes.
    rig.r.write32(0x44, 0);
    assert_eq!(rig.r.read32(0x44), 1 << 20);
}

#[test]
fn the_event_queue_overflows_by_the_book() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    let lines = interrupts(&rig);
    for _ in 0..16 {
        assert!(!rig.lands(VA));
    }
    let full = rig.r.read32(0x100a8);
    assert_eq!(full, 16, "full, nothing lost: wrap flag set, OVFLG clear");
    assert!(!rig.lands(VA) && !rig.lands(VA));
    assert_eq!(rig.r.read32(0x100a8), 16 | 1 << 31, "lost two, said once");
    assert_eq!(
        *lines.lock().expect("test"),
        [InterruptLine::EventQueue],
        "empty to not empty, once"
    );
    assert_eq!(rig.events().len(), 16);
    assert_eq!(rig.r.read32(0x100ac), 16 | 1 << 31, "acknowledged");
    assert!(!rig.lands(VA));
    assert_eq!(rig.event().number, number::C_BAD_STE);
    assert_eq!(lines.lock().expect("test").len(), 2);
    let counters = rig.smmu.counters();
    assert_eq!((counters.events, counters.events_lost), (17, 2));
    // The second overflow toggles back.
    for _ in 0..17 {
        assert!(!rig.lands(VA));
    }
    assert_eq!(rig.r.read32(0x100a8) >> 31, 0);
}

#[test]
fn an_aborted_event_write_is_a_global_error() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    let lines = interrupts(&rig);
    rig.smmu.inject(Faults::none().abort_event_writes());
    assert!(!rig.lands(VA) && !rig.lands(VA));
    assert_eq!(rig.r.read32(GERROR), 4);
    assert_eq!(*lines.lock().expect("test"), [InterruptLine::GlobalError]);
    rig.smmu.inject(Faults::none());
    assert!(!rig.lands(VA));
    assert!(rig.events().is_empty(), "not writable until acknowledged");
    rig.r.write32(GERRORN, 4);
    assert!(!rig.lands(VA));
    assert_eq!(rig.event().number, number::C_BAD_STE);
}

#[test]
fn interrupts_follow_their_enables() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    let lines = interrupts(&rig);
    rig.submit(&[[0x46 | 1 << 12, 0]]);
    assert!(rig.drained());
    assert_eq!(*lines.lock().expect("test"), [InterruptLine::CommandSync]);
    rig.r.write32(0x50, 0);
    assert!((0..4).any(|_| rig.r.read32(0x54) == 0));
    assert!(!rig.lands(VA));
    assert_eq!(lines.lock().expect("test").len(), 1, "masked");
    assert_eq!(rig.events().len(), 1);
    rig.r.write32(0x50, 5);
    assert!((0..4).any(|_| rig.r.read32(0x54) == 5));
    rig.smmu.inject(Faults::none().drop_interrupts());
    assert!(!rig.lands(VA));
    assert_eq!(lines.lock().expect("test").len(), 1, "lost");
    assert_eq!(rig.smmu.counters().interrupts, 2, "but raised");
}

#[test]
fn messages_are_stores() {
    let mut rig = Rig::new(Profile::server(), Policy::default());
    let page = rig.page();
    rig.submit(&[[0x46 | 1 << 12 | 0xabcd << 32, page]]);
    assert!(rig.drained());
    assert_eq!(rig.get(page), 0xabcd);
    rig.r.write32(0x50, 0);
    assert!((0..4).any(|_| rig.r.read32(0x54) == 0));
    rig.r.write64(0xb0, page + 8);
    rig.r.write32(0xb8, 77);
    rig.r.write32(0x50, 4);
    assert!((0..4).any(|_| rig.r.read32(0x54) == 4));
    assert!(!rig.lands(VA));
    assert_eq!(rig.get(page + 8), 77);
    // A message to nowhere.
    rig.submit(&[[0x46 | 1 << 12, 0x70_0000_0000]]);
    assert!(rig.drained(), "the command is done all the same");
    assert_eq!(rig.r.read32(GERROR), 1 << 4);
}

#[test]
fn allocations_fail_where_asked() {
    let machine = rig::machine(Policy::default());
    let memory = machine.memory();
    let page = rig::layout(4096, 4096);
    memory.fail_allocation(2, false);
    let results: Vec<bool> = (0..4).map(|_| memory.allocate(page).is_ok()).collect();
    assert_eq!(results, [true, false, true, true]);
    memory.fail_allocation(1, true);
    assert!((0..3).all(|_| memory.allocate(page).is_err()));
    memory.stop_failing();
    assert!(memory.allocate(page).is_ok());
    let usage = machine.usage();
    assert_eq!((usage.live, usage.live_bytes, usage.attempts, usage.failures), (4, 4 << 12, 8, 4));
    assert_eq!(memory.live_blocks().len(), 4);
}

#[test]
fn reset_forgets_everything() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    let frame = rig.page();
    rig.map(rig.root, 0, VA, frame | LEAF);
    rig.stage1();
    assert!(rig.lands(VA));
    assert_eq!(rig.smmu.cached_translations(), 1);
    rig.smmu.reset();
    assert_eq!((rig.smmu.cached_translations(), rig.r.read32(0x20), rig.r.read64(0x80)), (0, 0, 0));
    assert!(rig.memory.contains(PhysAddr::new(frame), 4096));
}
