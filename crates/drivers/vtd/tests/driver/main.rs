//! The driver on the machine's register-level VT-d unit. What must not happen is the machine's business: its oracle knows nothing of the driver.

mod rig;
mod safeguards;

use portcullis::{
    AccessKind, Blocking, Breakage, FaultReason, GlobalErrors, IommuOps, OpsError, Stage,
    StreamSpec, StreamTarget,
};
use portcullis_addr::{Iova, StreamId};
use portcullis_machine::{CommandError, Expectation, Faults, Policy, VtdProfile};
use portcullis_platform::{DmaMemory, Registers};
use portcullis_vtd::{BringUpCause, FirmwareTranslation, Interrupts, Message, Mode, Options};
use rig::{Board, ID, IOVA, PAGE, World, policies, profiles, small};
use std::sync::{Arc, Mutex};

#[test]
fn a_device_reaches_what_is_mapped_while_it_is_mapped_and_nothing_else() {
    for (shape, profile) in profiles() {
        for (mood, policy) in policies() {
            let world = World::new(profile.clone(), policy);
            let (board, frame) = (&world.board, world.board.frame());
            assert!(!board.write(IOVA), "{shape}, {mood}: before it is attached");
            world.map(IOVA, frame.address());
            world.attach();
            assert!(board.write(IOVA), "{shape}, {mood}");
            let word = board.machine.memory().load64(frame.address());
            assert_eq!(word.to_le_bytes(), *b"written ", "{shape}, {mood}");
            world.faults();
            world.unmap(IOVA).expect("confirmed");
            assert!(!board.write(IOVA), "{shape}, {mood}: after the unmap");
            let faults = world.faults();
            let last = faults.last().expect("recorded");
            assert_eq!((last.stream, last.access), (ID, Some(AccessKind::Write)));
            assert_eq!((last.reason, last.iova), (FaultReason::Translation, Some(Iova::new(IOVA))));
            let first = world.is_first_stage();
            assert_eq!(last.stage, Some(if first { Stage::One } else { Stage::Two }));
            // Attached again with other frames under the same addresses.
            world.lead(StreamTarget::Blocked).expect("confirmed");
            board.device.expect(Expectation::Blocked);
            assert!(!board.write(IOVA), "{shape}, {mood}: blocked");
            assert_eq!(world.faults().last().map(|it| it.reason), Some(FaultReason::StreamBlocked));
            world.attach();
            let other = board.frame();
            world.map(IOVA, other.address());
            assert!(board.write(IOVA), "{shape}, {mood}: again");
            world.lead(StreamTarget::Blocked).expect("confirmed");
            world.driver.release(&[StreamSpec::exact(ID)]).expect("confirmed");
            world.driver.unbind_space(world.tag).expect("confirmed");
            board.device.expect(Expectation::Blocked);
            assert!(!board.write(IOVA), "{shape}, {mood}: released");
            board.assert_clean();
            let World { board, driver, table, .. } = world;
            drop((driver, table, frame, other));
            let kept = usize::from(!board.unit.profile().abort_mode);
            assert_eq!(board.machine.usage().live, kept, "{shape}, {mood}: an empty root table");
            assert!(!board.write(IOVA), "{shape}, {mood}: stopped");
            board.assert_clean();
        }
    }
}

#[test]
fn identity_passes_addresses_unchanged_and_only_while_it_lasts() {
    for profile in [VtdProfile::qemu10(), VtdProfile::server()] {
        let world = World::new(profile, Policy::harshest());
        let frame = world.board.frame();
        world.lead(StreamTarget::Identity).expect("confirmed");
        world.board.device.expect(Expectation::Anything);
        assert!(world.board.write(frame.address().raw()));
        // Translated to nothing, without being blocked in between.
        world.attach();
        assert!(!world.board.write(frame.address().raw()));
        world.board.assert_clean();
    }
    let world = World::new(VtdProfile::early(), Policy::default());
    assert!(matches!(world.lead(StreamTarget::Identity), Err(OpsError::Unsupported(_))));
}

/// Firmware left the unit letting everything pass, or translating by tables of its own, with its queue on and its caches full. Nothing that the unit lets through after the take-over is firmware's.
#[test]
fn a_unit_that_runs_is_taken_over_without_being_turned_off() {
    let other = VtdProfile { abort_mode: false, ..VtdProfile::server() };
    for (profile, before, after) in [
        (VtdProfile::qemu10(), None, Mode::Legacy),
        (VtdProfile::qemu10(), Some(Mode::Legacy), Mode::Legacy),
        (other.clone(), Some(Mode::Scalable), Mode::Scalable),
        // It stays in the mode that it is in, because it would have to be turned off else.
        (other, Some(Mode::Legacy), Mode::Legacy),
        (VtdProfile::server(), Some(Mode::Legacy), Mode::Scalable),
    ] {
        for (mood, policy) in policies() {
            let board = Board::new(profile.clone(), policy.verify(false));
            let frame = board.frame();
            let kept = before.map(|mode| board.translate_all_by_firmware(mode));
            assert!(board.write(frame.address().raw()), "{before:?}, {mood}: it passes");
            let driver = board.bring_up(small()).expect("taken over");
            assert_eq!(driver.features().mode, after, "{before:?}, {mood}");
            board.device.expect(Expectation::Blocked);
            assert!(!board.write(frame.address().raw()), "{before:?}, {mood}: blocked");
            driver.claim(&[StreamSpec::exact(ID)]).expect("free");
            assert!(!board.write(frame.address().raw()), "{before:?}, {mood}: claimed");
            board.assert_clean();
            drop(kept);
        }
    }
}

/// Who asks for a copy is told that there is none, and the unit is not touched.
#[test]
fn translation_that_should_go_on_is_refused_and_left() {
    let board = Board::new(VtdProfile::qemu10(), Policy::default());
    let frame = board.frame();
    let _kept = board.translate_all_by_firmware(Mode::Legacy);
    let before = board.unit.counters().descriptors;
    let options = Options { firmware: FirmwareTranslation::Copy, ..small() };
    let error = board.bring_up(options.clone()).expect_err("refused");
    assert_eq!((error.cause, error.blocking), (BringUpCause::CopyUnsupported, Blocking::Unknown));
    assert!(error.to_string().contains("\"copy\""), "{error}");
    assert!(board.write(frame.address().raw()), "as firmware left it");
    assert_eq!(board.unit.counters().descriptors, before);
    // A unit that does not translate has nothing to be copied.
    Board::new(VtdProfile::qemu10(), Policy::default()).bring_up(options).expect("up");
}

/// Extended mode of old revisions, and a mode that the unit does not have any more.
#[test]
fn a_mode_that_cannot_be_left_safely_is_refused() {
    for (ttm, profile) in [(2, VtdProfile::qemu10()), (1, VtdProfile::qemu10())] {
        let board = Board::new(profile, Policy::default());
        let registers = board.unit.registers();
        registers.write64(0x20, ttm << 10);
        registers.write32(0x18, 1 << 30);
        while registers.read32(0x1c) >> 30 & 1 == 0 {}
        registers.write32(0x18, 1 << 31);
        while registers.read32(0x1c) >> 31 == 0 {}
        let error = board.bring_up(small()).expect_err("refused");
        let BringUpCause::Refused { register, field, value, .. } = error.cause else {
            panic!("{error}")
        };
        assert_eq!((register, field, value), ("RTADDR", "TTM", ttm));
        assert_eq!(error.blocking, Blocking::Unknown);
    }
}

#[test]
fn what_cannot_be_driven_is_refused_by_name() {
    let no_queue = VtdProfile { queue: false, ..VtdProfile::qemu10() };
    let no_tables = VtdProfile { widths: [false; 3], ..VtdProfile::qemu10() };
    // Four levels, but addresses that only three levels are as wide as.
    let narrow =
        VtdProfile { widths: [false, true, false], address_bits: 36, ..VtdProfile::qemu10() };
    for (profile, field) in [(no_queue, "QI"), (no_tables, "SAGAW"), (narrow, "SAGAW")] {
        let error = Board::new(profile, Policy::default()).bring_up(small()).expect_err("refused");
        let BringUpCause::Refused { field: found, .. } = error.cause else { panic!("{error}") };
        assert_eq!((found, error.blocking), (field, Blocking::Unknown));
    }
}

/// `GSTS` that never changes: nothing takes effect, and nobody says that devices are blocked.
#[test]
fn a_unit_that_does_not_obey_is_not_said_to_block() {
    let board = Board::new(VtdProfile::qemu10(), Policy::default());
    board.unit.inject(Faults::none().stick(0x1c));
    let error = board.bring_up(small()).expect_err("stuck");
    let BringUpCause::Stuck { register, .. } = error.cause else { panic!("{error}") };
    assert_eq!((register, error.blocking), ("GSTS", Blocking::Unknown));
    assert!(error.to_string().contains("bus mastering"), "{error}");
}

/// The queue stands still at each of its places; nothing is confirmed, nothing hangs, and what is healed is made good.
#[test]
fn a_queue_frozen_at_each_index_is_noticed_and_recovers() {
    for (profile, entries) in [(VtdProfile::qemu10(), 256), (VtdProfile::server(), 128)] {
        // Once round, and a little further.
        for at in 0..entries + 4 {
            let world = World::new(profile.clone(), Policy::default());
            let frame = world.board.frame();
            world.attach();
            world.board.unit.inject(Faults::none().freeze_after(at));
            let mut confirmed = 0;
            let error = loop {
                world.map(IOVA, frame.address());
                assert!(world.board.write(IOVA));
                world.board.device.expect(Expectation::Anything);
                match world.unmap(IOVA) {
                    Ok(()) => confirmed += 1,
                    Err(error) => break error,
                }
            };
            assert!(error.is_unconfirmed(), "{at}: {error}");
            // Two descriptors for each unmap.
            assert_eq!(confirmed, at / 2, "{at}");
            // From now on nobody waits again.
            let blocked = world.lead(StreamTarget::Blocked).expect_err("dead");
            assert!(blocked.is_unconfirmed(), "{at}: {blocked}");
            world.board.unit.inject(Faults::none());
            world.driver.forget_all().expect("healed");
            world.lead(StreamTarget::Blocked).expect("confirmed");
            world.board.device.expect(Expectation::Blocked);
            assert!(!world.board.write(IOVA), "{at}");
            world.board.assert_clean();
        }
    }
}

/// Each descriptor of a batch refused: one caller is told, the next is served.
#[test]
fn a_refused_descriptor_fails_its_own_call_and_no_other() {
    for (profile, status) in [(VtdProfile::server(), 3), (VtdProfile::qemu10(), 0)] {
        for nth in 1..=2 {
            let world = World::new(profile.clone(), Policy::default());
            let frames = [world.board.frame(), world.board.frame()];
            world.map(IOVA, frames[0].address());
            world.map(IOVA + PAGE, frames[1].address());
            world.attach();
            // A unit that does not say why may mean a failed fetch, which is tried again.
            let times = if status == 0 { 4 } else { 1 };
            let faults = (0..times).fold(Faults::none(), |faults, more| {
                faults.fail_command(nth + more, CommandError::Illegal)
            });
            world.board.unit.inject(faults);
            let refused = world.unmap(IOVA).expect_err("refused");
            let hardware = OpsError::Hardware { breakage: Breakage::CommandRefused, status };
            assert_eq!(refused, hardware, "{nth}");
            world.unmap(IOVA + PAGE).expect("the next one is served");
            assert_eq!(world.driver.statistics().refused_commands, 1);
            assert_eq!(world.board.register(0x34) & 0x70, 0, "FSTS: no error is left");
            world.board.assert_clean();
        }
    }
}

/// A device TLB that did not answer costs waits that were fetched: whoever waits is told at once, and the next call is served.
#[test]
fn a_lost_wait_is_told_and_not_waited_for() {
    for nth in 1..=2 {
        let world = World::new(VtdProfile::server(), Policy::default());
        let frame = world.board.frame();
        world.map(IOVA, frame.address());
        world.attach();
        world.board.unit.inject(Faults::none().fail_command(nth, CommandError::AtcInvalidation));
        let waits = world.board.clock_reads();
        let error = world.unmap(IOVA).expect_err("lost");
        assert!(
            matches!(error, OpsError::Hardware { breakage: Breakage::CommandRefused, .. }),
            "{nth}: {error}"
        );
        assert!(world.board.clock_reads() - waits < 100, "{nth}: it did not wait for the bound");
        world.driver.forget_all().expect("it goes on");
        world.board.device.expect(Expectation::Translated);
        assert!(!world.board.write(IOVA), "{nth}");
        assert_eq!(world.board.register(0x34) & 0x70, 0, "FSTS: no error is left");
        world.board.assert_clean();
    }
}

/// A completion that nobody asked for is told and cleared; calls go on as if nothing had been.
#[test]
fn a_stray_completion_disturbs_nobody() {
    let world = World::new(VtdProfile::server(), Policy::default());
    let frame = world.board.frame();
    world.map(IOVA, frame.address());
    world.attach();
    world.board.unit.receive_stray_completion();
    let serviced = world.driver.service(usize::MAX, &mut |_| panic!("no fault"));
    assert_eq!((serviced.errors, serviced.status), (GlobalErrors::COMMAND, 1 << 5));
    world.board.unit.receive_stray_completion();
    world.unmap(IOVA).expect("confirmed");
    assert!(!world.board.write(IOVA));
    assert_eq!(world.driver.statistics().refused_commands, 0);
    world.board.assert_clean();
}

#[test]
fn a_failed_fetch_is_tried_again_and_a_lasting_one_is_given_up() {
    let failed = |times: u64| {
        let world = World::new(VtdProfile::server(), Policy::default());
        let frame = world.board.frame();
        world.map(IOVA, frame.address());
        world.attach();
        let faults = (1..=times)
            .fold(Faults::none(), |faults, nth| faults.fail_command(nth, CommandError::FetchAbort));
        world.board.unit.inject(faults);
        let result = world.unmap(IOVA);
        world.board.assert_clean();
        result
    };
    assert_eq!(failed(3), Ok(()));
    assert!(matches!(
        failed(4),
        Err(OpsError::Hardware { breakage: Breakage::CommandRefused, .. })
    ));
    assert!(matches!(failed(40), Err(OpsError::Hardware { breakage: Breakage::QueueStopped, .. })));
}

#[test]
fn a_wait_that_hangs_is_ended_by_a_restart_of_the_queue() {
    for profile in [VtdProfile::qemu10(), VtdProfile::server()] {
        let world = World::new(profile, Policy::default());
        let frame = world.board.frame();
        world.map(IOVA, frame.address());
        world.attach();
        assert!(world.board.write(IOVA));
        world.board.unit.inject(Faults::none().hang_sync_until_restart(1));
        world.board.device.expect(Expectation::Anything);
        let error = world.unmap(IOVA).expect_err("it hangs");
        assert!(error.is_unconfirmed(), "{error}");
        world.driver.forget_all().expect("restarted");
        world.board.device.expect(Expectation::Translated);
        assert!(!world.board.write(IOVA), "the unit forgot it");
        world.map(IOVA, frame.address());
        assert!(world.board.write(IOVA), "and serves on with the same tables");
        world.unmap(IOVA).expect("confirmed");
        world.board.assert_clean();
    }
}

#[test]
fn full_fault_registers_are_drained_and_go_on() {
    for records in [1, 8] {
        let profile = VtdProfile { fault_records: records, ..VtdProfile::server() };
        let world = World::new(profile, Policy::default());
        world.attach();
        for round in 0..3 {
            for page in 0..20 {
                assert!(!world.board.write(IOVA + page * PAGE));
            }
            let mut seen = Vec::new();
            let serviced = world.driver.service(3, &mut |fault| seen.push(fault.iova));
            assert_eq!((serviced.faults, serviced.more), (records.min(3).into(), records > 3));
            // Recording goes on as soon as the overflow is acknowledged and a register is free.
            assert_eq!(serviced.overflows, 1, "{records}, {round}");
            let serviced = world.driver.service(usize::MAX, &mut |fault| seen.push(fault.iova));
            assert_eq!((seen.len(), serviced.more), (records.into(), false));
            let pages = (0..).map(|page| Some(Iova::new(IOVA + page * PAGE)));
            assert!(seen.into_iter().eq(pages.take(records.into())), "the oldest ones, in order");
        }
        assert!(!world.board.write(IOVA));
        assert_eq!(world.faults().len(), 1, "it records again");
        assert!(world.board.unit.counters().faults_lost >= 12);
        world.board.assert_clean();
    }
}

/// As a message, and not at all; each fault raises one, and after it was served the next one does.
#[test]
fn interrupts_come_as_the_kernel_has_them() {
    for wanted in [true, false] {
        let board = Board::new(VtdProfile::qemu10(), Policy::default());
        let inbox = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&inbox);
        board.unit.on_interrupt(move |at, data| sink.lock().expect("test").push((at, data)));
        let there = Message { address: 0x1_fee0_0000, data: 0x4041 };
        let message = wanted.then_some(there);
        let world = World::on(board, Options { message, ..small() });
        let expected = if wanted { Interrupts::Message } else { Interrupts::Polled };
        assert_eq!(world.driver.interrupts(), expected);
        for _ in 0..2 {
            inbox.lock().expect("test").clear();
            assert!(!world.board.write(IOVA));
            let came = inbox.lock().expect("test").clone();
            assert_eq!(came, if wanted { vec![(0x1_fee0_0000, 0x4041)] } else { vec![] });
            assert_eq!(world.faults().len(), 1);
        }
        world.board.assert_clean();
    }
}

/// Interrupts of devices are not translated, so no mapping may lie there.
#[test]
fn the_window_of_interrupts_is_told() {
    let world = World::new(VtdProfile::qemu10(), Policy::default());
    let portcullis::MsiDoorbell::Window(window) = world.driver.capabilities().msi else {
        panic!("a window")
    };
    assert_eq!((window.start(), window.last()), (Iova::new(0xfee0_0000), Iova::new(0xfeef_ffff)));
    world.attach();
    assert!(!world.board.write(0xfee0_0000));
    assert!(world.faults().is_empty(), "an interrupt is no fault");
}

/// The unit vanishes at each of its register accesses.
#[test]
fn a_unit_that_vanishes_ends_every_call() {
    for nth in 1..150 {
        let board = Board::new(VtdProfile::server(), Policy::default());
        board.unit.inject(Faults::none().gone_at(nth));
        match board.bring_up(small()) {
            Err(error) => {
                assert!(
                    matches!(error.cause, BringUpCause::Gone { .. } | BringUpCause::Commands(_)),
                    "{nth}: {error}"
                );
                assert_eq!(error.blocking, Blocking::Unknown, "{nth}");
            }
            Ok(driver) => {
                board.unit.inject(Faults::none().gone_at(1));
                let gone = OpsError::Hardware { breakage: Breakage::Gone, status: u32::MAX.into() };
                let spec = [StreamSpec::exact(ID)];
                driver.claim(&spec).expect("needs no hardware");
                assert_eq!(driver.attach(&spec, None, StreamTarget::Blocked), Err(gone));
                let serviced = driver.service(usize::MAX, &mut |_| {});
                assert_eq!(serviced.errors, GlobalErrors::GONE);
                assert!(driver.shutdown().is_err());
            }
        }
    }
}

#[test]
fn a_bring_up_without_memory_gives_everything_back() {
    for nth in 1.. {
        let board = Board::new(VtdProfile::qemu10(), Policy::default());
        board.machine.memory().fail_allocation(nth, false);
        match board.bring_up(small()) {
            Ok(_) => {
                assert_eq!(nth, 4, "queue, status word and root table were failed one by one");
                return;
            }
            Err(error) => {
                assert!(matches!(error.cause, BringUpCause::NoMemory { .. }), "{error}");
                // It was never turned on, and lets everything pass.
                assert_eq!(error.blocking, Blocking::Unknown);
            }
        }
        assert_eq!(board.machine.usage().live, 0);
    }
}

/// A claim that needs tables and finds no memory changes nothing.
#[test]
fn a_claim_without_memory_changes_nothing() {
    for (profile, tables) in [(VtdProfile::qemu10(), 1u64), (VtdProfile::server(), 3)] {
        for nth in 1..=tables {
            let board = Board::new(profile.clone(), Policy::default());
            let driver = board.bring_up(small()).expect("up");
            let before = board.machine.usage().live;
            let far = StreamSpec::exact(StreamId::new(0x1234));
            board.machine.memory().fail_allocation(nth, false);
            assert!(matches!(driver.claim(&[far]), Err(OpsError::NoMemory(_))), "{nth}");
            assert_eq!(board.machine.usage().live, before, "{nth}");
            driver.claim(&[far]).expect("now there is memory");
            assert_eq!(
                board.machine.usage().live,
                before + tables as usize,
                "tables below the root"
            );
            board.assert_clean();
        }
    }
    let board = Board::new(VtdProfile::qemu10(), Policy::default());
    let driver = board.bring_up(small()).expect("up");
    let beyond = StreamSpec::exact(StreamId::new(1 << 16));
    let refused = driver.claim(&[beyond]).expect_err("beyond a bus number");
    assert_eq!(refused, OpsError::StreamOutOfRange { stream: beyond, bits: 16 });
}

/// As many address spaces as the unit has domain ids, less the two that are not for spaces.
#[test]
fn domain_ids_run_out_and_come_back() {
    let profile = VtdProfile { domain_bits: 4, ..VtdProfile::qemu10() };
    let world = World::new(profile, Policy::default());
    let tags: Vec<_> =
        (0..13).map(|_| world.driver.bind_space(&world.table).expect("one is left")).collect();
    assert_eq!(world.driver.bind_space(&world.table), Err(OpsError::OutOfTags));
    world.driver.unbind_space(tags[5]).expect("confirmed");
    world.driver.bind_space(&world.table).expect("one came back");
}

/// A stopped unit goes on reading its root table, in which nothing is present; everything else is given back, and with abort-dma mode that too.
#[test]
fn a_stopped_unit_keeps_its_root_table_alone() {
    let units = [
        (VtdProfile::qemu10(), 1),
        (VtdProfile::qemu10_scalable(false), 1),
        (VtdProfile::server(), 0),
    ];
    for (profile, kept) in units {
        let board = Board::new(profile, Policy::default());
        let frame = board.frame();
        let driver = board.bring_up(small()).expect("up");
        assert_eq!(driver.root_table_memory(), (kept, kept as u64 * 4096));
        drop(driver);
        assert_eq!(board.machine.usage().live, kept + 1);
        board.device.expect(Expectation::Blocked);
        assert!(!board.write(frame.address().raw()));
        board.assert_clean();
    }
}

/// Protected memory regions of firmware are turned off, and only once there is translation.
#[test]
fn protected_memory_is_opened_under_translation() {
    let board = Board::new(VtdProfile::server(), Policy::default());
    let registers = board.unit.registers();
    registers.write32(0x64, 1 << 31);
    assert_eq!(registers.read32(0x64) & 1, 1);
    let _driver = board.bring_up(small()).expect("up");
    assert_eq!(board.register(0x64) & 1, 0);
    assert_eq!(board.register(0x1c) >> 31, 1);
}
