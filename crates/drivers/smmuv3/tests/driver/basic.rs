//! Map, DMA, unmap, fault: the ways of a device's life, on hardware that punishes.

use crate::world::{Board, PAGE, STREAM, World, any_space, exact, small};
use portcullis::{
    AccessKind, FaultReason, FormatSupport, IommuOps, OpsError, SpaceRequest, SpaceTag, Stage,
    StreamTarget,
};
use portcullis_addr::{Iova, StreamId};
use portcullis_machine::{Consumption, Expectation, Policy, Profile, StoreOrder};
use portcullis_smmuv3::Options;

/// Every kind of unit that the machine has, with every kind of patience.
fn everywhere(test: impl Fn(Profile, Policy)) {
    let profiles = [
        Profile::qemu10(),
        Profile::minimal(),
        Profile::stage2_only(),
        Profile::large(),
        Profile::non_coherent(),
        Profile::server(),
        Profile::mmu700(),
    ];
    for profile in profiles {
        let late = Policy::default().store_order(StoreOrder::Late);
        let lazy = Policy::default().consumption(Consumption::Late { most: 1 });
        for policy in [Policy::default(), Policy::like_qemu(), late, lazy] {
            test(profile.clone(), policy);
        }
    }
}

#[test]
fn a_device_reaches_what_is_mapped_and_nothing_after_the_unmap() {
    everywhere(|profile, policy| {
        let world = World::new(profile, policy, small());
        let frame = world.board.frame();
        assert!(!world.board.write(Iova::new(0x10_0000)).is_completed(), "blocked before attach");
        assert_eq!(world.faults()[0].reason, FaultReason::StreamBlocked);
        world.attach();
        for round in 0..3 {
            let iova = 0x10_0000 + round * PAGE;
            world.map(iova, frame.address());
            assert!(world.board.write(Iova::new(iova)).is_completed());
            assert_eq!(&world.board.contents(frame.address()), b"written by the device");
            world.unmap(iova).expect("confirmed");
            assert!(!world.board.write(Iova::new(iova)).is_completed());
            let faults = world.faults();
            let fault = faults.last().expect("the refusal was reported");
            assert_eq!((fault.stream, fault.reason), (STREAM, FaultReason::Translation));
            assert_eq!(fault.iova.map(|iova| iova.align_down(PAGE)), Some(Iova::new(iova)));
            assert_eq!(fault.access, Some(AccessKind::Write));
            let stage = if world.driver.features().stage1 { Stage::One } else { Stage::Two };
            assert_eq!(fault.stage, Some(stage));
        }
        world.board.assert_clean();
    });
}

#[test]
fn nothing_is_left_when_all_is_undone() {
    everywhere(|profile, policy| {
        let board = Board::new(profile, policy);
        let before = board.machine.usage().live;
        let world = World::on(board, small());
        world.attach();
        let frame = world.board.frame();
        world.map(0x4000_0000, frame.address());
        assert!(world.board.write(Iova::new(0x4000_0000)).is_completed());
        world.unmap(0x4000_0000).expect("confirmed");
        drop(frame);
        world.board.device.expect(Expectation::Blocked);
        world.driver.attach(&[exact(STREAM)], None, StreamTarget::Blocked).expect("blocked");
        world.driver.release(&[exact(STREAM)]).expect("confirmed");
        world.driver.unbind_space(world.tag).expect("unbound");
        assert_eq!(world.driver.statistics().spaces, 0);
        world.driver.shutdown().expect("stopped");
        assert!(!world.board.write(Iova::new(0x4000_0000)).is_completed());
        let World { board, driver, table, .. } = world;
        drop((driver, table));
        assert_eq!(board.machine.usage().live, before);
        board.assert_clean();
    });
}

#[test]
fn a_unit_found_translating_blocks_before_anything_else() {
    let board = Board::new(Profile::qemu10(), Policy::default());
    let earlier = World::on(board, Options::default());
    let frame = earlier.board.frame();
    earlier.attach();
    earlier.map(0x1000, frame.address());
    assert!(earlier.board.write(Iova::new(0x1000)).is_completed());
    // The earlier owner never stops: its driver, tables and queues stay in memory, as after a crash.
    let World { board, driver, table, .. } = earlier;
    std::mem::forget((driver, table));
    board.device.expect(Expectation::Anything);
    let before = board.machine.oracle().accesses().len();
    let next = World::on(board, small());
    assert!(!next.board.write(Iova::new(0x1000)).is_completed(), "the old mapping is gone");
    assert_eq!(next.faults()[0].reason, FaultReason::StreamBlocked);
    let passed = next.board.machine.oracle().accesses().len();
    assert!(passed >= before);
    next.attach();
    assert!(!next.board.write(Iova::new(0x1000)).is_completed(), "nor in the new space");
    assert_eq!(next.faults()[0].reason, FaultReason::Translation);
    next.board.assert_clean();
}

#[test]
fn identity_passes_addresses_unchanged_until_blocked() {
    everywhere(|profile, policy| {
        let world = World::new(profile, policy, small());
        let frame = world.board.frame();
        let same = Iova::new(frame.address().raw());
        world.board.device.expect(Expectation::Anything);
        world.driver.attach(&[exact(STREAM)], None, StreamTarget::Identity).expect("identity");
        assert!(world.board.write(same).is_completed());
        // Identity to translated and back, then blocked: every pair of targets that the core uses.
        world.attach();
        assert!(!world.board.write(same).is_completed());
        world.board.device.expect(Expectation::Anything);
        world.driver.attach(&[exact(STREAM)], None, StreamTarget::Identity).expect("identity");
        assert!(world.board.write(same).is_completed());
        world.board.device.expect(Expectation::Blocked);
        world.driver.attach(&[exact(STREAM)], None, StreamTarget::Blocked).expect("blocked");
        assert!(!world.board.write(same).is_completed());
        world.board.assert_clean();
    });
}

#[test]
fn one_space_serves_streams_from_different_second_level_tables() {
    let world = World::new(Profile::large(), Policy::default(), small());
    let far = StreamId::new(0x1_2345);
    let other = world.board.machine.add_client("far", &world.board.unit, far);
    let before = world.board.machine.usage().live;
    world.driver.claim(&[exact(far)]).expect("room is made");
    assert_eq!(world.board.machine.usage().live, before + 1, "one second-level table");
    world.driver.claim(&[exact(StreamId::new(0x1_23ff))]).expect("same table");
    assert_eq!(world.board.machine.usage().live, before + 1);
    world
        .driver
        .attach(&[exact(STREAM), exact(far)], None, StreamTarget::Space(world.tag))
        .expect("attached");
    let frame = world.board.frame();
    world.board.device.expect(Expectation::Translated);
    world.map(0x7000, frame.address());
    assert!(world.board.write(Iova::new(0x7000)).is_completed());
    let request = portcullis_machine::DmaRequest::write(Iova::new(0x7000), b"far");
    assert!(world.board.machine.dma(other.id(), request).is_completed());
    world.driver.attach(&[exact(far)], None, StreamTarget::Blocked).expect("blocked");
    let request = portcullis_machine::DmaRequest::write(Iova::new(0x7000), b"far");
    assert!(!world.board.machine.dma(other.id(), request).is_completed());
    assert!(world.board.write(Iova::new(0x7000)).is_completed(), "the other one goes on");
    world.board.assert_clean();
}

#[test]
fn wrong_streams_and_tags_are_refused_and_change_nothing() {
    let world = World::new(Profile::minimal(), Policy::default(), small());
    let bits = world.driver.capabilities().id_bits;
    let wide = StreamId::new(1 << bits);
    let outside = OpsError::StreamOutOfRange { stream: exact(wide), bits };
    assert_eq!(world.driver.claim(&[exact(STREAM), exact(wide)]), Err(outside));
    let stranger = StreamId::new(0x42);
    let unknown = Err(OpsError::UnknownStream { stream: exact(stranger) });
    assert_eq!(
        world.driver.attach(&[exact(STREAM), exact(stranger)], None, StreamTarget::Blocked),
        unknown
    );
    let tag = SpaceTag(world.tag.0 + 1);
    let unknown = Err(OpsError::UnknownSpace { tag });
    assert_eq!(world.driver.attach(&[exact(STREAM)], None, StreamTarget::Space(tag)), unknown);
    assert_eq!(world.driver.unbind_space(tag), unknown);
    let mut gather = portcullis_pgtable::IotlbGather::new();
    gather.add_everything();
    assert_eq!(world.driver.invalidate(tag, &gather), unknown);
    assert!(!world.board.write(Iova::new(0x1000)).is_completed());
    world.board.assert_clean();
}

#[test]
fn claims_count_and_duplicates_do_no_harm() {
    let world = World::new(Profile::qemu10(), Policy::default(), small());
    // Claimed once by `World`; three times more, twice in one call.
    world.driver.claim(&[exact(STREAM), exact(STREAM)]).expect("claims count");
    world.driver.claim(&[exact(STREAM)]).expect("claims count");
    let streams = [exact(STREAM); 3];
    world.driver.attach(&streams, None, StreamTarget::Space(world.tag)).expect("once is enough");
    world.board.device.expect(Expectation::Translated);
    let frame = world.board.frame();
    world.map(0x1000, frame.address());
    world.driver.release(&[exact(STREAM)]).expect("confirmed");
    world.driver.release(&[exact(STREAM), exact(STREAM)]).expect("confirmed");
    assert!(world.board.write(Iova::new(0x1000)).is_completed(), "one claim is left");
    world.board.device.expect(Expectation::Blocked);
    world.driver.release(&[exact(STREAM)]).expect("confirmed");
    assert!(!world.board.write(Iova::new(0x1000)).is_completed(), "the last one blocks");
    let unknown = Err(OpsError::UnknownStream { stream: exact(STREAM) });
    assert_eq!(world.driver.attach(&[exact(STREAM)], None, StreamTarget::Blocked), unknown);
    world.driver.release(&[exact(STREAM)]).expect("confirmed");
    world.board.assert_clean();
}

#[test]
fn tags_run_out_and_come_back() {
    let options = Options { spaces: 3, ..small() };
    let world = World::new(Profile::qemu10(), Policy::default(), options);
    let live = world.board.machine.usage().live;
    let second = world.driver.bind_space(&world.table).expect("a second tag");
    let third = world.driver.bind_space(&world.table).expect("a third tag");
    assert_eq!(world.driver.bind_space(&world.table), Err(OpsError::OutOfTags));
    assert_eq!(world.board.machine.usage().live, live + 2, "the refused one left nothing");
    world.driver.unbind_space(second).expect("unbound");
    let again = world.driver.bind_space(&world.table).expect("the tag came back");
    assert_eq!(again, second);
    for tag in [again, third, world.tag] {
        world.driver.unbind_space(tag).expect("unbound");
    }
    assert_eq!(world.driver.statistics().spaces, 0);
}

/// What the driver likes best, with other limits.
fn narrowed(world: &World, change: impl FnOnce(&mut FormatSupport)) -> SpaceRequest {
    let mut request = any_space(&world.driver);
    change(&mut request.support);
    request
}

#[test]
fn tables_of_every_granule_are_walked() {
    for granule in [0x4020_1000u64, 0x0200_4000, 0x2001_0000] {
        for profile in [Profile::qemu10(), Profile::stage2_only()] {
            let world = World::new(profile, Policy::default(), small());
            let page_sizes = portcullis_addr::PageSizes::from_bitmap(granule);
            let request = narrowed(&world, |support| support.page_sizes = page_sizes);
            let table = world.driver.create_space(&request).expect("this granule");
            assert_eq!(table.page_sizes(), page_sizes);
            let tag = world.driver.bind_space(&table).expect("a tag");
            world
                .driver
                .attach(&[exact(STREAM)], None, StreamTarget::Space(tag))
                .expect("attached");
            world.board.device.expect(Expectation::Translated);
            let size = page_sizes.smallest().expect("a size").bytes();
            let layout = portcullis_platform::PageLayout::naturally_aligned(size as usize);
            let memory = world.board.machine.memory();
            let layout = layout.expect("a page");
            let frame = portcullis_platform::DmaPages::new(memory, layout).expect("memory");
            let prot = portcullis_addr::Prot::READ | portcullis_addr::Prot::WRITE;
            let mut gather = portcullis_pgtable::IotlbGather::new();
            table
                .map(Iova::new(size * 5), frame.address(), size, prot, &mut gather)
                .expect("mapped");
            assert!(world.board.write(Iova::new(size * 5)).is_completed());
            assert_eq!(&world.board.contents(frame.address()), b"written by the device");
            table.unmap(Iova::new(size * 5), size, &mut gather).expect("unmapped");
            world.driver.invalidate(tag, &gather).expect("confirmed");
            assert!(!world.board.write(Iova::new(size * 5)).is_completed());
            table.retire(gather.confirm());
            world.board.assert_clean();
        }
    }
}

#[test]
fn a_table_that_the_unit_cannot_walk_is_refused() {
    let stage1 = World::new(Profile::minimal(), Policy::default(), small());
    let stage2 = World::new(Profile::stage2_only(), Policy::default(), small());
    let wide = World::new(Profile::qemu10(), Policy::default(), small());
    assert_eq!(stage1.driver.bind_space(&stage2.table), Err(OpsError::IncompatibleSpace));
    assert_eq!(stage2.driver.bind_space(&stage1.table), Err(OpsError::IncompatibleSpace));
    // 44 output bits and coherent walks, for a unit with 32 bits that does not snoop.
    assert_eq!(stage1.driver.bind_space(&wide.table), Err(OpsError::IncompatibleSpace));
    let only_16k = portcullis_addr::PageSizes::from_bitmap(0x0200_4000);
    let request = narrowed(&stage1, |support| support.page_sizes = only_16k);
    assert!(matches!(stage1.driver.create_space(&request), Err(OpsError::Unsupported(_))));
    let request = narrowed(&wide, |support| support.output_bits = 31);
    assert!(matches!(wide.driver.create_space(&request), Err(OpsError::Unsupported(_))));
    for (asked, given) in [(32, 32), (35, 32), (39, 36), (64, 44)] {
        let request = narrowed(&wide, |support| support.output_bits = asked);
        let space = wide.driver.create_space(&request).expect("a table");
        assert_eq!(space.table().expect("a table").config().output_bits, given);
    }
}
