//! Each unkind property of the machine, shown to bite: the mistake is made, and something goes visibly wrong; the mistake is mended, and all is well.

use crate::rig::{self, ASID, LEAF, LEAF2, Rig, SID, cd_words, ste_stage1, ste_stage2_word};
use portcullis_addr::{Iova, PhysAddr, StreamId};
use portcullis_machine::{
    AccessKind, Agent, ChunkOrder, Consumption, DmaRequest, Expectation, Machine, POISON, Policy,
    Port, Profile, ReadChunks, SmmuV3, StoreOrder, TlbPolicy, Violation,
};
use portcullis_platform::{Clock, Coherency, DmaMemory, Registers};
use portcullis_spec::smmuv3::event::number;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

const VA: u64 = 0x12_3456_7000;

/// A rig whose device has used the page at [`VA`] and its neighbour, so that both are cached; then the first is unmapped.
fn unmapped() -> Rig {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    for page in 0..2 {
        let frame = rig.page();
        rig.map(rig.root, 0, VA + page * 0x1000, frame | LEAF);
    }
    rig.stage1();
    assert!(rig.lands(VA) && rig.lands(VA + 0x1000));
    let leaf = rig.leaf_of(rig.root, 0, VA);
    rig.put(leaf, &[0]);
    rig
}

#[test]
fn a_missing_or_misaimed_invalidation_leaves_the_door_open() {
    let asid = ASID << 48;
    let range = 1 << 10;
    for (what, commands, open) in [
        ("nothing", vec![], true),
        ("the neighbour", vec![[0x12 | asid, (VA + 0x1000) | 1]], true),
        ("another ASID", vec![[0x12 | 9 << 48, VA | 1]], true),
        ("another VMID", vec![[0x12 | asid | 1 << 32, VA | 1]], true),
        ("stage 2", vec![[0x2a, VA | 1]], true),
        ("configuration only", vec![[0x04, 31]], true),
        ("another granule", vec![[0x12 | asid, VA & !0xffff | 1 | 3 << 10 | 3 << 8]], true),
        ("another level", vec![[0x12 | asid, VA & !0x1f_ffff | 1 | range | 2 << 8]], true),
        (
            "a range that ends before",
            vec![[0x12 | asid | 1 << 12, (VA - 0x2000) | 1 | range]],
            true,
        ),
        ("the page", vec![[0x12 | asid, VA | 1]], false),
        ("the page of all ASIDs", vec![[0x13, VA | 1]], false),
        (
            "a range that ends with it",
            vec![[0x12 | asid | 1 << 12, (VA - 0x1000) | 1 | range]],
            false,
        ),
        ("the page with its level", vec![[0x12 | asid, VA | 1 | range | 3 << 8]], false),
        ("the ASID", vec![[0x11 | asid, 0]], false),
        ("the VMID", vec![[0x10, 0]], false),
        ("everything", vec![[0x30, 0]], false),
    ] {
        let mut rig = unmapped();
        rig.commands(&commands);
        assert_eq!(rig.lands(VA), open, "{what}");
        let stale = rig
            .machine
            .violations()
            .iter()
            .any(|v| matches!(v, Violation::StaleHit(hit) if hit.address == VA));
        assert_eq!(stale, open, "{what}");
        if !open {
            assert_eq!(rig.event().number, number::F_TRANSLATION, "{what}");
        }
    }
}

#[test]
fn an_invalidation_without_sync_is_consumed_but_not_done() {
    let mut rig = unmapped();
    rig.submit(&[[0x12 | ASID << 48, VA | 1]]);
    assert!(rig.drained(), "the read index passed it");
    assert!(rig.lands(VA));
    rig.commands(&[]);
    assert!(!rig.lands(VA));
}

#[test]
fn commands_wait_until_somebody_looks() {
    let rig =
        Rig::new(Profile::qemu10(), Policy::default().consumption(Consumption::Late { most: 1 }));
    let before = rig.smmu.counters().commands;
    for slot in 0..3u64 {
        rig.put(rig.cmdq + 16 * (3 + slot), &[0x30, 0]);
    }
    let consumer = rig.r.read32(0x9c);
    rig.r.write32(0x98, consumer + 3);
    assert_eq!(rig.smmu.counters().commands, before, "the write alone moves nothing");
    assert_eq!(rig.r.read32(0x9c), consumer + 1);
    rig.machine.clock().relax();
    assert_eq!(rig.smmu.counters().commands, before + 2, "time moves it too");
}

#[test]
fn configuration_is_remembered_valid_or_not() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    let page = rig.page();
    assert!(!rig.lands(page), "V is 0, and that is now cached");
    rig.put(rig.ste(), &[1 | 4 << 1]);
    assert!(!rig.lands(page));
    rig.cfgi_ste();
    assert!(rig.lands(page));
    rig.put(rig.ste(), &[1]);
    assert!(rig.lands(page), "still bypassing");
    assert!(matches!(rig.machine.violations()[..], [Violation::StaleHit(_)]));
    rig.cfgi_ste();
    assert!(!rig.lands(page));
    // A unit like QEMU's forgets what is invalid.
    let rig = Rig::new(Profile::qemu10(), Policy::like_qemu());
    let page = rig.page();
    assert!(!rig.lands(page));
    rig.put(rig.ste(), &[1 | 4 << 1]);
    assert!(rig.lands(page));
}

#[test]
fn a_context_descriptor_needs_its_own_invalidation() {
    let mut rig = unmapped();
    let (other, frame) = (rig.page(), rig.page());
    rig.map(other, 0, VA, frame | LEAF);
    rig.put(rig.cd, &cd_words(other));
    rig.commands(&[[0x30, 0]]);
    assert!(!rig.lands(VA), "the old table still");
    rig.commands(&[[0x05 | u64::from(SID + 1) << 32, 1], [0x30, 0]]);
    assert!(!rig.lands(VA), "another stream's");
    rig.commands(&[[0x05 | u64::from(SID) << 32, 1], [0x30, 0]]);
    assert!(rig.lands(VA));
}

#[test]
fn a_freed_table_is_walked_after_a_leaf_only_invalidation() {
    for (leaf_only, walked) in [(1, true), (0, false)] {
        let mut rig = unmapped();
        let level2_entry = {
            let level1 = rig.get(rig.root + 8 * (VA >> 39)) & !0xfff;
            let level2 = rig.get(level1 + 8 * (VA >> 30 & 511)) & !0xfff;
            level2 + 8 * (VA >> 21 & 511)
        };
        let table = rig.get(level2_entry) & !0xfff;
        rig.put(level2_entry, &[0]);
        rig.commands(&[[0x12 | ASID << 48, VA | leaf_only]]);
        rig.memory.free(PhysAddr::new(table), rig::layout(4096, 4096));
        assert!(!rig.lands(VA));
        let seen =
            rig.machine.violations().iter().any(|v| {
                matches!(v, Violation::FreedMemory { by: Agent::Iommu(0, "descriptor"), .. })
            });
        assert_eq!(seen, walked);
        let expected = if walked { number::F_ADDR_SIZE } else { number::F_TRANSLATION };
        assert_eq!(rig.event().number, expected, "poison is a valid descriptor to nowhere");
    }
}

/// What to do in the middle of a read, once.
type Interference = Arc<Mutex<Option<Box<dyn Fn() + Send>>>>;

/// Two stage 2 configurations whose words 2 and 3 belong together; the change happens while the unit reads.
fn mixed(bytes: usize, order: ChunkOrder) -> (bool, bool) {
    let target = Interference::default();
    let act = Arc::clone(&target);
    let chunks = ReadChunks::of(bytes, order).between(move |point| {
        if point.structure == "STE"
            && point.read == point.of / 2 - u32::from(point.of == 8)
            && let Some(act) = act.lock().expect("test").take()
        {
            act();
        }
    });
    let policy = Policy::default().chunks(chunks);
    let mut rig = Rig::new(Profile::qemu10(), policy);
    let (old, new) = (rig.page(), rig.page());
    let (old_frame, new_frame) = (rig.page(), rig.page());
    rig.map(old, 1, 0x1000, old_frame | LEAF2);
    rig.map(new, 1, 0x1000, new_frame | LEAF2);
    rig.stage2(old);
    // In place, word by word, as a careless driver would: VMID 4 and the new table.
    let (memory, ste) = (Arc::clone(&rig.memory), rig.ste());
    *target.lock().expect("test") = Some(Box::new(move || {
        memory.store64(PhysAddr::new(ste + 16), ste_stage2_word() & !0xffff | 4);
        memory.store64(PhysAddr::new(ste + 24), new);
    }));
    assert!(rig.lands(0x1000));
    let record = *rig.machine.oracle().accesses().last().expect("one access");
    let old_tag = matches!(record.passage, portcullis_machine::Passage::Translated { vmid: 3, .. });
    (old_tag, record.physical.raw() == new_frame)
}

#[test]
fn an_entry_changed_while_it_is_read_is_seen_mixed() {
    assert_eq!(mixed(8, ChunkOrder::Ascending), (true, true), "old VMID with the new table");
    assert_eq!(
        mixed(16, ChunkOrder::Ascending),
        (true, false),
        "16 bytes: both words in one piece"
    );
    assert_eq!(mixed(32, ChunkOrder::Descending), (false, true), "from the top: all new");
    assert_eq!(mixed(64, ChunkOrder::Ascending), (true, false), "whole: never mixed");
}

/// A transaction that was overtaken by an invalidation starts again: what it read meanwhile, freed memory included, never counts (§4.3.8).
#[test]
fn a_walk_that_was_overtaken_leaves_no_trace() {
    let target = Interference::default();
    let act = Arc::clone(&target);
    let chunks = ReadChunks::of(8, ChunkOrder::Ascending).between(move |point| {
        if point.structure == "STE"
            && let Some(act) = act.lock().expect("test").take()
        {
            act();
        }
    });
    for invalidate in [true, false] {
        let policy = Policy::default().chunks(chunks.clone()).consumption(Consumption::Eager);
        let mut rig = Rig::new(Profile::qemu10(), policy);
        let page = rig.page();
        rig.map(rig.root, 0, VA, page | LEAF);
        rig.stage1();
        let consumer = rig.r.read32(0x9c);
        rig.put(rig.cmdq + 16 * u64::from(consumer), &[0x03 | u64::from(SID) << 32, 1]);
        rig.put(rig.cmdq + 16 * u64::from(consumer + 1), &[0x46, 0]);
        // After the first word: the entry is taken away, confirmed or not, and the context descriptor freed.
        let (memory, registers) = (Arc::clone(&rig.memory), rig.r.clone());
        let (ste, cd) = (rig.ste(), rig.cd);
        *target.lock().expect("test") = Some(Box::new(move || {
            memory.store64(PhysAddr::new(ste), 0);
            if invalidate {
                registers.write32(0x98, consumer + 2);
            }
            memory.free(PhysAddr::new(cd), rig::layout(64, 64));
        }));
        assert!(!rig.lands(VA));
        let expected = if invalidate { number::C_BAD_STE } else { number::C_BAD_CD };
        assert_eq!(rig.event().number, expected);
        let freed = rig.machine.violations();
        let by = Agent::Iommu(0, "CD");
        let walked =
            freed.iter().any(|v| matches!(v, Violation::FreedMemory { by: who, .. } if *who == by));
        assert_eq!(walked, !invalidate, "{freed:#?}");
    }
}

#[test]
fn what_was_not_published_is_not_seen() {
    let mut rig = Rig::new(Profile::non_coherent(), Policy::default().verify(false));
    let page = rig.page();
    rig.stage1();
    rig.map(rig.root, 0, VA, page | LEAF);
    assert!(rig.lands(VA));
    let other = rig.page();
    let leaf = rig.leaf_of(rig.root, 0, VA);
    rig.store(leaf, &[other | LEAF]);
    rig.tlbi_va(VA);
    assert!(rig.lands(VA));
    assert_eq!(rig.machine.oracle().accesses()[1].physical, PhysAddr::new(page), "the old one");
    rig.memory.publish(PhysAddr::new(leaf), 8, Coherency::Coherent);
    rig.tlbi_va(VA);
    assert!(rig.lands(VA), "an order is not enough for a unit that does not snoop");
    assert_eq!(rig.machine.oracle().accesses()[2].physical, PhysAddr::new(page), "still the old");
    rig.memory.publish(PhysAddr::new(leaf), 8, Coherency::NonCoherent);
    rig.tlbi_va(VA);
    assert!(rig.lands(VA));
    assert_eq!(rig.machine.oracle().accesses()[3].physical, PhysAddr::new(other));
    // Records come the same way back.
    assert!(!rig.lands(0x1000));
    assert_eq!(rig.get(rig.eventq), 0);
    rig.memory.refresh(PhysAddr::new(rig.eventq), 32, Coherency::Coherent);
    assert_eq!(rig.get(rig.eventq), 0, "nor here");
    rig.memory.refresh(PhysAddr::new(rig.eventq), 32, Coherency::NonCoherent);
    assert_eq!(rig.get(rig.eventq) & 0xff, number::F_TRANSLATION);
}

#[test]
fn an_unpublished_command_is_not_executed() {
    let rig = Rig::new(Profile::non_coherent(), Policy::default());
    let consumer = rig.r.read32(0x9c);
    rig.store(rig.cmdq + 16 * u64::from(consumer), &[0x46, 0]);
    rig.r.write32(0x98, consumer + 1);
    (0..10).for_each(|_| rig.machine.clock().relax());
    assert_eq!(rig.r.read32(0x9c) >> 24 & 0x7f, 1, "zeros are no command: CERROR_ILL");
}

/// With late stores a coherent walker may miss a store, until it is published or a register is written.
#[test]
fn stores_come_late_and_out_of_order() {
    let (mut early, mut late) = (0, 0);
    for seed in 0..40 {
        let policy =
            Policy::default().store_order(StoreOrder::Late).tlb(TlbPolicy::NONE).verify(false);
        let machine = Machine::builder()
            .ram(PhysAddr::new(0x4000_0000), 16 << 20)
            .seed(seed)
            .policy(policy)
            .build();
        let mut rig = Rig::on(machine, Profile::qemu10());
        let (page, other) = (rig.page(), rig.page());
        rig.map(rig.root, 0, VA, page | LEAF);
        rig.stage1();
        rig.store(rig.leaf_of(rig.root, 0, VA), &[other | LEAF]);
        assert!(rig.lands(VA));
        let landed = rig.machine.oracle().accesses()[0].physical.raw();
        if landed == other {
            early += 1
        } else {
            late += 1
        }
        rig.r.write32(0x64, 0);
        assert!(rig.lands(VA));
        assert_eq!(rig.machine.oracle().accesses()[1].physical.raw(), other);
    }
    assert!(early > 3 && late > 10, "{early} early, {late} late");
}

#[test]
fn a_device_in_freed_or_reused_memory_is_noticed() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    let frame = rig.page();
    rig.map(rig.root, 0, VA, frame | LEAF);
    rig.stage1();
    assert!(rig.lands(VA));
    rig.memory.free(PhysAddr::new(frame), rig::layout(4096, 4096));
    assert_eq!(rig.memory.load64(PhysAddr::new(frame)), POISON);
    assert!(rig.lands(VA), "the bus does not know who owns what");
    let by = Agent::Device(rig.device.id());
    let address = PhysAddr::new(frame);
    assert_eq!(
        rig.machine.oracle().take_violations(),
        [
            Violation::FreedMemory { by: Agent::Cpu, address, kind: AccessKind::Read },
            Violation::FreedMemory { by, address, kind: AccessKind::Write },
        ]
    );
    assert_eq!(rig.page(), frame, "last in, first out");
    assert_eq!(rig.get(frame), 0, "and zeroed");
    assert!(rig.lands(VA));
    assert!(
        matches!(rig.machine.violations()[..], [Violation::ReusedFrame(hit)] if hit.physical == address)
    );
}

#[test]
fn what_a_test_declares_is_held_against_the_machine() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    let frame = rig.page();
    rig.map(rig.root, 0, VA, frame | LEAF);
    rig.stage1();
    rig.device.expect(Expectation::Translated);
    assert!(rig.lands(VA));
    rig.device.forbid(Iova::new(VA), 0x1000);
    assert!(rig.lands(VA + 0xffc) && !rig.lands(VA + 0x1000));
    rig.device.permit(Iova::new(VA + 0x800), 1);
    assert!(rig.lands(VA));
    rig.device.expect(Expectation::Blocked);
    assert!(rig.lands(VA));
    rig.device.expect(Expectation::Translated);
    rig.put(rig.ste(), &[1 | 4 << 1]);
    rig.cfgi_ste();
    assert!(rig.lands(frame));
    let found = rig.machine.violations();
    assert!(
        matches!(
            found[..],
            [Violation::ForbiddenRange(a), Violation::BlockedPassed(b), Violation::Untranslated(c)]
                if a.address == VA + 0xffc && b.address == VA && c.address == frame
        ),
        "{found:#?}"
    );
}

#[test]
fn careless_software_is_told() {
    let machine = rig::machine(Policy::default());
    let memory = machine.memory();
    let page = rig::layout(4096, 4096);
    let address = memory.allocate(page).expect("fits");
    memory.free(address, rig::layout(64, 64));
    memory.free(address, page);
    memory.free(address, page);
    memory.free(PhysAddr::new(address.raw() + 0x10_0000), page);
    memory.free(PhysAddr::new(1), page);
    memory.store64(PhysAddr::new(0x10), 1);
    assert_eq!(memory.load64(PhysAddr::new(address.raw() + 0x1001)), u64::MAX);
    let found = machine.violations();
    assert!(
        matches!(
            found[..],
            [
                Violation::WrongLayout { allocated: 4096, freed: 64, .. },
                Violation::DoubleFree { .. },
                Violation::ForeignFree { .. },
                Violation::ForeignFree { .. },
                Violation::OutsideMemory { .. },
                Violation::OutsideMemory { .. },
            ]
        ),
        "{found:#?}"
    );
    assert_eq!(machine.usage().live, 0);
}

#[test]
fn replacing_small_pages_by_a_block_without_break_conflicts() {
    let profile = Profile { bbml: 0, ..Profile::qemu10() };
    let policy = Policy::default().tlb(TlbPolicy { tables: false, ..TlbPolicy::HOARD });
    let mut rig = Rig::new(profile, policy);
    let frame = rig.page();
    let block = rig.memory.allocate(rig::layout(2 << 20, 2 << 20)).expect("fits").raw();
    rig.map(rig.root, 0, VA, frame | LEAF);
    rig.stage1();
    assert!(rig.lands(VA));
    let level1 = rig.get(rig.root + 8 * (VA >> 39)) & !0xfff;
    let level2 = rig.get(level1 + 8 * (VA >> 30 & 511)) & !0xfff;
    rig.put(level2 + 8 * (VA >> 21 & 511), &[block | LEAF & !2]);
    assert!(rig.lands(VA + 0x1000));
    assert!(matches!(rig.machine.violations()[..], [Violation::TlbConflict { iommu: 0, .. }]));
}

#[test]
fn a_reserved_attribute_in_an_entry_is_recorded_where_attributes_cannot_be_overridden() {
    let use_incoming = 1 << 44;
    let life = |profile: Profile, word1: u64| {
        let mut rig = Rig::new(profile, Policy::default());
        let frame = rig.page();
        rig.map(rig.root, 0, VA, frame | LEAF);
        rig.put(rig.cd, &rig::cd_words(rig.root));
        let mut entry = rig::ste_stage1(rig.cd);
        entry[1] |= word1;
        rig.put(rig.ste(), &entry);
        rig.cfgi_ste();
        assert!(rig.lands(VA), "the attribute is ignored");
        rig.machine.violations()
    };
    let with = Profile { attribute_overrides: true, ..Profile::qemu10() };
    assert_eq!(life(Profile::qemu10(), 0), []);
    assert_eq!(life(with, use_incoming), []);
    let reserved = Violation::ReservedField { iommu: 0, field: ("STE", "SHCFG") };
    assert_eq!(life(Profile::qemu10(), use_incoming), [reserved]);
}

#[test]
fn with_its_erratum_a_second_kind_of_command_needs_a_sync_before_it() {
    let life = |profile: Profile, policy: Policy, synced: bool| {
        let mut rig = Rig::new(profile, policy);
        let frame = rig.page();
        rig.map(rig.root, 0, VA, frame | LEAF);
        rig.stage1();
        assert!(rig.lands(VA));
        rig.put(rig.leaf_of(rig.root, 0, VA), &[0]);
        let (entry, address) = ([0x03 | u64::from(SID) << 32, 1], [0x12 | rig::ASID << 48, VA | 1]);
        if synced {
            rig.commands(&[entry]);
            rig.commands(&[address]);
        } else {
            rig.commands(&[entry, address]);
        }
        let verdict = rig.machine.violations().first().cloned();
        (rig.lands(VA), verdict)
    };
    let unsynced = Violation::UnsyncedCommands { iommu: 0, opcodes: [0x03, 0x12] };
    for policy in [Policy::default(), Policy::like_qemu()] {
        assert_eq!(life(Profile::mmu700(), policy.clone(), true), (false, None));
        assert_eq!(life(Profile::mmu700(), policy.clone(), false), (true, Some(unsynced.clone())));
        assert_eq!(life(Profile::server(), policy, false), (false, None));
    }
}

#[test]
fn several_units_several_ports() {
    let machine = rig::machine(Policy::default());
    let first = machine.add_smmuv3(Profile { reset_abort: true, ..Profile::qemu10() });
    let second = machine.add_smmuv3(Profile::qemu10());
    let ports = [Port::new(&first, StreamId::new(1)), Port::new(&second, StreamId::new(2))];
    let both = machine.add_device("both", &ports);
    let free = machine.add_device("free", &[]);
    let at = Iova::new(0x4000_0000);
    let through = |port| machine.dma(both.id(), DmaRequest::write(at, b"x").through(port));
    assert!(!through(0).is_completed());
    assert!(through(1).is_completed());
    assert!(!through(2).is_completed(), "no such port");
    assert!(machine.dma(free.id(), DmaRequest::write(at, b"y")).is_completed());
    let beyond = Iova::new(0x1000);
    assert!(!machine.dma(free.id(), DmaRequest::write(beyond, b"y")).is_completed(), "no RAM");
    let records = machine.oracle().accesses();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].stream, Some((1, StreamId::new(2))));
    assert_eq!(records[1].passage, portcullis_machine::Passage::Direct);
}

#[test]
fn a_device_copies_through_its_buffer() {
    let machine = rig::machine(Policy::default());
    let device = machine.add_device("edu", &[]);
    device.fill_buffer(3);
    let before = device.buffer();
    let at = Iova::new(0x4000_0ff8);
    assert!(device.copy(&machine, AccessKind::Write, at, 100, 200).is_completed());
    device.fill_buffer(9);
    assert!(device.copy(&machine, AccessKind::Read, at, 0, 200).is_completed());
    assert_eq!(device.buffer()[..200], before[100..300]);
    assert!(!device.copy(&machine, AccessKind::Read, Iova::new(0), 0, 8).is_completed());
}

/// The same seed gives the same machine: what it consumed, what it walked, what it let through.
#[test]
fn runs_repeat_exactly() {
    let run = |seed| {
        let chunks = ReadChunks::of(8, ChunkOrder::Random);
        let machine = Machine::builder()
            .ram(PhysAddr::new(0x4000_0000), 16 << 20)
            .seed(seed)
            .policy(Policy::default().chunks(chunks))
            .build();
        let mut rig = Rig::on(machine, Profile::qemu10());
        let mut trace = Vec::new();
        rig.stage1();
        for page in 0..20u64 {
            let frame = rig.page();
            rig.map(rig.root, 0, VA + page * 0x1000, frame | LEAF);
            rig.lands(VA + page * 0x1000);
            let first = rig.r.read32(0x9c);
            for index in 0..12u32 {
                let slot = u64::from((first + index) & 15);
                rig.put(rig.cmdq + 16 * slot, &[0x12 | ASID << 48, VA]);
            }
            rig.r.write32(0x98, (first + 12) & 31);
            while trace.last() != Some(&((first + 12) & 31)) {
                trace.push(rig.r.read32(0x9c));
            }
        }
        (trace, rig.smmu.counters(), rig.machine.oracle().accesses(), rig.machine.clock().now())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn the_hook_sees_each_step_and_may_use_the_machine() {
    #[derive(Default)]
    struct Steps {
        dma: AtomicU32,
        chunks: AtomicU32,
        commands: AtomicU32,
        registers: AtomicU32,
        smmu: Mutex<Option<Arc<SmmuV3>>>,
    }
    impl portcullis_machine::StepHook for Steps {
        fn step(&self, object: &'static str, _index: u64, what: &'static str, _write: bool) {
            let counter = match (object, what) {
                ("device", "dma") => &self.dma,
                ("smmu", "STE" | "CD") => &self.chunks,
                ("smmu", "command") => &self.commands,
                _ => &self.registers,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            if let Some(smmu) = &*self.smmu.lock().expect("test") {
                let _count = smmu.counters();
            }
        }
    }
    let steps = Arc::new(Steps::default());
    let machine = Machine::builder()
        .ram(PhysAddr::new(0x4000_0000), 16 << 20)
        .hook(Arc::clone(&steps) as Arc<dyn portcullis_machine::StepHook>)
        .build();
    let mut rig = Rig::on(machine, Profile::qemu10());
    *steps.smmu.lock().expect("test") = Some(Arc::clone(&rig.smmu));
    let frame = rig.page();
    rig.map(rig.root, 0, VA, frame | LEAF);
    rig.put(rig.cd, &cd_words(rig.root));
    rig.put(rig.ste(), &ste_stage1(rig.cd));
    rig.cfgi_ste();
    let before = steps.chunks.load(Ordering::Relaxed);
    assert!(rig.lands(VA));
    assert_eq!(steps.chunks.load(Ordering::Relaxed) - before, 14, "two entries of eight pieces");
    assert_eq!(steps.dma.load(Ordering::Relaxed), 1);
    assert_eq!(u64::from(steps.commands.load(Ordering::Relaxed)), rig.smmu.counters().commands);
    assert!(steps.registers.load(Ordering::Relaxed) > 10);
    *steps.smmu.lock().expect("test") = None;
}

#[test]
fn what_was_never_used_may_be_cached_all_the_same() {
    for (policy, stale) in [(Policy::default(), false), (Policy::default().speculation(), true)] {
        let mut rig = Rig::new(Profile::qemu10(), policy);
        for page in 0..2 {
            let frame = rig.page();
            rig.map(rig.root, 0, VA + page * 0x1000, frame | LEAF);
        }
        rig.stage1();
        assert!(rig.lands(VA));
        let second = rig.leaf_of(rig.root, 0, VA + 0x1000);
        rig.put(second, &[0]);
        assert_eq!(rig.lands(VA + 0x1000), stale, "never used before");
        rig.tlbi_va(VA + 0x1000);
        assert!(!rig.lands(VA + 0x1000));
        // The neighbouring stream's entry was fetched when it was still invalid.
        let neighbour = rig.machine.add_client("n", &rig.smmu, StreamId::new(SID ^ 1));
        rig.put(rig.strtab + 64 * u64::from(SID ^ 1), &[1 | 4 << 1]);
        let at = Iova::new(rig.memory.base().raw());
        let passes = rig.machine.dma_of(&neighbour, DmaRequest::write(at, b"n")).is_completed();
        assert_eq!(passes, !stale);
    }
}

/// Thousands of random maps, unmaps with any sufficient invalidation, table removals and accesses, compared with a plain list of what is mapped: with
/// the invalidations right, the caches never show.
#[test]
fn with_the_right_invalidations_caches_are_invisible() {
    for seed in 0..6u64 {
        let policy =
            [Policy::default().speculation(), Policy::harshest()][seed as usize & 1].clone();
        let mut rig = Rig::new(Profile::qemu10(), policy);
        rig.stage1();
        let mut mapped = std::collections::BTreeMap::new();
        let mut state = seed;
        let mut draw = move |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let page = rig::layout(4096, 4096);
        for _ in 0..1500 {
            // Eight pages in each of four tables, under two level 2 tables.
            let va = VA + (draw(2) << 30) + (draw(2) << 21) + (draw(8) << 12);
            match (draw(5), mapped.get(&va).copied()) {
                (0 | 1, None) => {
                    let frame = rig.memory.allocate(page).expect("memory left");
                    rig.map(rig.root, 0, va, frame.raw() | LEAF);
                    mapped.insert(va, frame);
                }
                (0, Some(frame)) => {
                    let leaf = rig.leaf_of(rig.root, 0, va);
                    rig.put(leaf, &[0]);
                    let asid = ASID << 48;
                    let command = match draw(6) {
                        0 => [0x12 | asid, va | 1],
                        1 => [0x13, va],
                        2 => [0x11 | asid, 0],
                        3 => [0x12 | asid, va | 1 | 1 << 10 | 3 << 8],
                        4 => [0x12 | asid | 2 << 12, (va - 0x1000) | 1 << 10],
                        _ => [0x30, 0],
                    };
                    rig.commands(&[command]);
                    rig.memory.free(frame, page);
                    mapped.remove(&va);
                    remove_empty_table(&mut rig, va, page);
                }
                (_, expected) => {
                    assert_eq!(rig.lands(va), expected.is_some(), "seed {seed}, {va:#x}");
                    if let Some(frame) = expected {
                        assert_eq!(rig.get(frame.raw()) as u32, u32::from_le_bytes(*b"data"));
                    }
                    let _records = rig.events();
                }
            }
        }
        assert_eq!(rig.machine.violations(), [], "seed {seed}");
    }
}

/// Takes the level 3 table of `va` away when nothing is left in it, with a non-leaf invalidation.
fn remove_empty_table(rig: &mut Rig, va: u64, layout: portcullis_platform::PageLayout) {
    let level1 = rig.get(rig.root + 8 * (va >> 39)) & !0xfff;
    let level2 = rig.get(level1 + 8 * (va >> 30 & 511)) & !0xfff;
    let entry = level2 + 8 * (va >> 21 & 511);
    let table = rig.get(entry) & !0xfff;
    if (0..512).all(|index| rig.get(table + 8 * index) == 0) {
        rig.put(entry, &[0]);
        rig.commands(&[[0x12 | ASID << 48, va]]);
        rig.memory.free(PhysAddr::new(table), layout);
    }
}
