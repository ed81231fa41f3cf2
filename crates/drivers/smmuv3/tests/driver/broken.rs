//! Every wait ends, every failure is reported, nothing opens, and what was broken works again once it is repaired.

use crate::world::{Board, PAGE, STREAM, World, any_space, exact, small};
use portcullis::{Awaited, Blocking, FaultReason, GlobalErrors, IommuOps, OpsError, StreamTarget};
use portcullis_addr::{Iova, StreamId};
use portcullis_machine::{CommandError, Expectation, Faults, Machine, Policy, Profile};
use portcullis_pgtable::IotlbGather;
use portcullis_platform::Clock;
use portcullis_smmuv3::{BringUpCause, Options, REGISTER_BOUND, SYNC_BOUND};
use portcullis_spec::Register;
use portcullis_spec::smmuv3::{CR0ACK, GBPA, GERROR, IRQ_CTRLACK};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const IOVA: u64 = 0x10_0000;
/// No wait: a few looks at the clock.
const AT_ONCE: u64 = 500_000;

/// Runs `act` and gives the virtual time that it took.
fn timed<T>(machine: &Machine, act: impl FnOnce() -> T) -> (T, u64) {
    let start = machine.clock().now();
    let result = act();
    (result, machine.clock().now() - start)
}

/// Whether a device that nobody has blocked gets through, at an address where memory is.
fn passes(board: &Board) -> bool {
    board.write(Iova::new(0x4000_0000)).is_completed()
}

#[test]
fn a_stuck_register_is_named_the_wait_is_bounded_and_the_verdict_on_blocking_is_true() {
    let stuck = |register: Register, value: u64, blocking: Blocking| {
        let board = Board::new(Profile::qemu10(), Policy::default());
        board.unit.inject(Faults::none().stick_at(register.offset, value));
        let (result, took) = timed(&board.machine, || board.bring_up(small()));
        let error = result.expect_err("the unit does not answer");
        assert!(
            matches!(error.cause, BringUpCause::Stuck { register: name, .. } if name == register.name)
        );
        assert!(took <= 3 * REGISTER_BOUND, "{took} ns");
        assert_eq!(error.blocking, blocking, "{error}");
        if blocking == Blocking::Confirmed {
            assert!(!passes(&board), "confirmed, and yet it passes");
        }
        board.device.expect(Expectation::Blocked);
        board.unit.inject(Faults::none());
        let world = World::on(board, small());
        world.attach();
        world.board.assert_clean();
    };
    // Never leaves 0: enabling the command queue fails; stopping reads as confirmed.
    stuck(CR0ACK, 0, Blocking::Confirmed);
    // Reads as enabled for ever: refused before anything was allocated.
    stuck(CR0ACK, 1, Blocking::Unknown);
    stuck(IRQ_CTRLACK, 0, Blocking::Confirmed);
    stuck(GBPA, 1 << 31, Blocking::Unknown);
    stuck(GBPA, 0, Blocking::Unknown);
}

/// As QEMU 7.2 is: nothing blocks its devices, and the error must not say that something does.
#[test]
fn a_unit_without_a_global_abort_is_refused_and_its_devices_are_not_called_blocked() {
    let board = Board::new(Profile::qemu7(), Policy::default());
    let before = board.machine.usage().live;
    let error = board.bring_up(small()).expect_err("it has no GBPA");
    assert_eq!(error.blocking, Blocking::Unknown);
    let stuck = matches!(error.cause, BringUpCause::Stuck { register, found: 0, .. } if register == GBPA.name);
    assert!(stuck, "{error}");
    assert!(passes(&board), "which is why");
    assert_eq!(board.machine.usage().live, before);
}

#[test]
fn the_messages_name_place_and_remedy() {
    let message = |register: Register, value: u64| {
        let board = Board::new(Profile::qemu10(), Policy::default());
        board.unit.inject(Faults::none().stick_at(register.offset, value));
        board.bring_up(small()).expect_err("stuck").to_string()
    };
    let text = message(CR0ACK, 0);
    assert!(text.contains("CR0ACK reads 0x0 instead of 0x8"), "{text}");
    assert!(text.contains("100000 us"), "{text}");
    assert!(text.contains("its devices are blocked"), "{text}");
    let text = message(CR0ACK, 1);
    assert!(text.contains("unknown: turn their bus mastering off"), "{text}");
}

#[test]
fn a_unit_that_vanishes_at_any_register_access_is_noticed() {
    let mut survived = false;
    for nth in 1..2000 {
        let board = Board::new(Profile::qemu10(), Policy::default());
        board.unit.inject(Faults::none().gone_at(nth));
        let (result, took) = timed(&board.machine, || board.bring_up(small()));
        assert!(took <= SYNC_BOUND + 3 * REGISTER_BOUND);
        match result {
            Ok(driver) => {
                survived = true;
                std::mem::forget(driver);
                break;
            }
            Err(error) => {
                match error.cause {
                    BringUpCause::Gone { .. } => {}
                    BringUpCause::Commands(error) => assert!(error.is_unconfirmed(), "{error}"),
                    _ => panic!("access {nth}: {error}"),
                }
                assert_eq!(error.blocking, Blocking::Unknown, "access {nth}: nobody confirms");
            }
        }
        assert!(!passes(&board));
    }
    assert!(survived, "no sweep is that long");
}

/// What the core does with a device, step by step; the first error ends it.
fn life(world: &World, frame: portcullis_addr::PhysAddr) -> Result<(), OpsError> {
    world.board.device.expect(Expectation::Anything);
    world.driver.attach(&[exact(STREAM)], None, StreamTarget::Space(world.tag))?;
    world.map(IOVA, frame);
    assert!(world.board.write(Iova::new(IOVA)).is_completed());
    world.unmap(IOVA)?;
    world.driver.attach(&[exact(STREAM)], None, StreamTarget::Identity)?;
    world.driver.attach(&[exact(STREAM)], None, StreamTarget::Blocked)
}

/// After whatever happened: the device is blocked, and everything works.
fn assert_recovers(world: &World, frame: portcullis_addr::PhysAddr) {
    world.board.unit.inject(Faults::none());
    let _all = world.driver.service(usize::MAX, &mut |_| ());
    world.driver.attach(&[exact(STREAM)], None, StreamTarget::Blocked).expect("answers again");
    world.board.device.expect(Expectation::Blocked);
    assert!(!world.board.write(Iova::new(IOVA)).is_completed());
    world.attach();
    let iova = IOVA + 16 * PAGE;
    world.map(iova, frame);
    assert!(world.board.write(Iova::new(iova)).is_completed());
    world.unmap(iova).expect("answers again");
    assert!(!world.board.write(Iova::new(iova)).is_completed());
    world.board.assert_clean();
}

/// How often the sweeps below may fail a command: more than the life of a device has.
const SWEEP: u64 = 40;

#[test]
fn each_refused_command_is_reported_once_and_the_rest_runs() {
    for error in [CommandError::Illegal, CommandError::AtcInvalidation] {
        let (mut reported, mut blocked) = (0, 0);
        for nth in 1..SWEEP {
            let world = World::new(Profile::qemu10(), Policy::default(), small());
            let frame = world.board.frame();
            world.board.unit.inject(Faults::none().fail_command(nth, error));
            let (outcome, took) = timed(&world.board.machine, || life(&world, frame.address()));
            assert!(took < SYNC_BOUND / 10, "an error is not waited for");
            if let Err(failed) = outcome {
                let code = u64::from(error.code());
                match failed {
                    OpsError::Hardware { status, .. } => {
                        assert_eq!(status, code, "{failed}");
                        assert!(failed.is_unconfirmed());
                    }
                    // An attachment fell back to what is safe, and that was confirmed.
                    OpsError::Blocked { status, .. } => {
                        assert_eq!(status, code, "{failed}");
                        world.board.device.expect(Expectation::Blocked);
                        assert!(!world.board.write(Iova::new(IOVA)).is_completed());
                        blocked += 1;
                    }
                    _ => panic!("{failed}"),
                }
                reported += 1;
                assert_eq!(world.driver.statistics().refused_commands, 1);
            }
            assert_recovers(&world, frame.address());
        }
        assert!(reported >= 10, "only {reported} commands were refused");
        assert!(blocked >= 2, "only {blocked} attachments fell back");
    }
}

#[test]
fn a_space_whose_streams_may_still_lead_to_it_is_not_given_back() {
    let world = World::new(Profile::qemu10(), Policy::default(), small());
    let frame = world.board.frame();
    world.attach();
    world.map(IOVA, frame.address());
    assert!(world.board.write(Iova::new(IOVA)).is_completed(), "hardware holds the entry");
    // The release's CFGI_STE is refused; the invalidation of the space succeeds.
    world.board.unit.inject(Faults::none().fail_command(1, CommandError::Illegal));
    let refused = world.driver.release(&[exact(STREAM)]).expect_err("refused");
    assert!(refused.is_unconfirmed());
    assert_eq!(world.driver.statistics().refused_commands, 1);
    world.driver.unbind_space(world.tag).expect("the unit answers");
    world.board.device.expect(Expectation::Blocked);
    assert!(!world.board.write(Iova::new(IOVA)).is_completed(), "through a freed descriptor");
    world.board.assert_clean();
    world.driver.claim(&[exact(STREAM)]).expect("confirmed at last");
}

#[test]
fn an_aborted_fetch_is_tried_again() {
    for nth in 1..SWEEP {
        let world = World::new(Profile::qemu10(), Policy::default(), small());
        let frame = world.board.frame();
        let faults = Faults::none().fail_command(nth, CommandError::FetchAbort);
        world.board.unit.inject(faults);
        life(&world, frame.address()).expect("the second fetch succeeds");
        assert_eq!(world.driver.statistics().refused_commands, 0);
        assert_recovers(&world, frame.address());
    }
}

#[test]
fn a_queue_that_stops_at_one_command_for_ever_is_given_up() {
    for error in [CommandError::Illegal, CommandError::FetchAbort] {
        let world = World::new(Profile::qemu10(), Policy::default(), small());
        let mut faults = Faults::none();
        for nth in 1..100 {
            faults = faults.fail_command(nth, error);
        }
        world.board.unit.inject(faults);
        let attach = || world.driver.attach(&[exact(STREAM)], None, StreamTarget::Space(world.tag));
        let (outcome, took) = timed(&world.board.machine, attach);
        assert!(outcome.expect_err("nothing runs").is_unconfirmed());
        assert!(took < SYNC_BOUND);
        assert!(!world.board.write(Iova::new(IOVA)).is_completed());
    }
}

#[test]
fn a_sync_that_never_completes_ends_and_quarantines() {
    for nth in 1..12 {
        let world = World::new(Profile::qemu10(), Policy::default(), small());
        let frame = world.board.frame();
        world.board.unit.inject(Faults::none().hang_sync(nth));
        let (outcome, took) = timed(&world.board.machine, || life(&world, frame.address()));
        if let Err(error) = outcome {
            assert!(matches!(error, OpsError::Timeout { .. }), "{error}");
            assert!(error.is_unconfirmed());
            assert!(took <= SYNC_BOUND + AT_ONCE, "{took}");
            // The next failure is quick: a hung unit does not hold everybody for a second each.
            let unbind = || world.driver.unbind_space(world.tag);
            let (outcome, took) = timed(&world.board.machine, unbind);
            assert_eq!(outcome, Err(OpsError::Dead));
            assert!(took <= AT_ONCE);
            // The tag is in quarantine: nothing attaches to it, and it counts as taken.
            let unknown = Err(OpsError::UnknownSpace { tag: world.tag });
            world.board.unit.inject(Faults::none());
            let target = StreamTarget::Space(world.tag);
            assert_eq!(world.driver.attach(&[exact(STREAM)], None, target), unknown);
            assert_eq!(world.driver.statistics().spaces, 1);
            world.driver.unbind_space(world.tag).expect("confirmed at last");
            assert_eq!(world.driver.statistics().spaces, 0);
        } else {
            assert_recovers(&world, frame.address());
        }
    }
}

#[test]
fn a_consumer_frozen_at_any_command_is_bounded_and_recovers() {
    for commands in 0..SWEEP {
        let world = World::new(Profile::qemu10(), Policy::default(), small());
        let frame = world.board.frame();
        world.board.unit.inject(Faults::none().freeze_after(commands));
        let (outcome, took) = timed(&world.board.machine, || life(&world, frame.address()));
        assert!(took <= SYNC_BOUND + AT_ONCE, "{took}");
        if let Err(error) = outcome {
            assert!(error.is_unconfirmed());
            // More calls than the queue has room for: they fail, each at once.
            for _ in 0..20 {
                let block = || world.driver.attach(&[exact(STREAM)], None, StreamTarget::Blocked);
                let (outcome, took) = timed(&world.board.machine, block);
                assert!(outcome.expect_err("frozen").is_unconfirmed());
                assert!(took <= AT_ONCE, "{took}");
            }
        }
        assert_recovers(&world, frame.address());
    }
}

/// Every call on a dead unit, after the one that found out: none waits, each says that nothing is confirmed.
#[test]
fn each_call_on_a_unit_that_is_known_to_be_dead_answers_at_once() {
    let world = World::new(Profile::qemu10(), Policy::default(), small());
    world.attach();
    let second = world.driver.bind_space(&world.table).expect("a second tag");
    world.board.unit.inject(Faults::none().freeze_after(0));
    let mut all = IotlbGather::new();
    all.add_everything();
    let invalidate = || world.driver.wait(world.driver.submit(world.tag, &all)?);
    let (first, took) = timed(&world.board.machine, invalidate);
    assert!(matches!(first, Err(OpsError::Timeout { .. })), "{first:?}");
    assert!((SYNC_BOUND..=SYNC_BOUND + AT_ONCE).contains(&took), "{took}");
    type Call<'a> = &'a dyn Fn() -> Result<(), OpsError>;
    let calls: [(&str, Call<'_>); 5] = [
        ("submit", &|| world.driver.submit(world.tag, &all).map(drop)),
        ("attach", &|| world.driver.attach(&[exact(STREAM)], None, StreamTarget::Blocked)),
        ("unbind", &|| world.driver.unbind_space(second)),
        ("release", &|| world.driver.release(&[exact(STREAM)])),
        ("claim", &|| world.driver.claim(&[exact(STREAM)])),
    ];
    for (name, call) in calls {
        let (outcome, took) = timed(&world.board.machine, call);
        assert_eq!(outcome, Err(OpsError::Dead), "{name}");
        assert!(took <= AT_ONCE, "{name}: {took}");
    }
    // What needs no confirmation works.
    world.driver.claim(&[exact(StreamId::new(0x20))]).expect("nothing to confirm");
    world.board.unit.inject(Faults::none());
    world.driver.claim(&[exact(STREAM)]).expect("alive again");
    world.driver.unbind_space(second).expect("alive again");
}

/// Several threads that wait for one dead unit wait side by side, and none longer than its bound.
#[test]
fn a_queue_that_is_full_and_dead_lets_everybody_go() {
    let world = World::new(Profile::minimal(), Policy::default(), small());
    world.board.unit.inject(Faults::none().freeze_after(0));
    let mut all = IotlbGather::new();
    all.add_everything();
    // Four entries hold two batches; the third finds no room.
    let tickets = [(); 2].map(|()| world.driver.submit(world.tag, &all).expect("room"));
    let (third, took) = timed(&world.board.machine, || world.driver.submit(world.tag, &all));
    let room = matches!(third, Err(OpsError::Timeout { awaited: Awaited::Room, .. }));
    assert!(room, "{third:?}");
    assert!(took <= SYNC_BOUND + AT_ONCE);
    assert_eq!(world.driver.submit(world.tag, &all), Err(OpsError::Dead));
    world.board.unit.inject(Faults::none());
    for ticket in tickets {
        world.driver.wait(ticket).expect("carried out after all");
    }
    let ticket = world.driver.submit(world.tag, &all).expect("nobody stands in line any more");
    world.driver.wait(ticket).expect("confirmed");
}

#[test]
fn a_restart_frees_what_a_hung_unit_left_in_quarantine() {
    let world = World::new(Profile::qemu10(), Policy::default(), small());
    let frame = world.board.frame();
    world.attach();
    world.map(IOVA, frame.address());
    assert!(world.board.write(Iova::new(IOVA)).is_completed());
    world.board.device.expect(Expectation::Anything);
    world.board.unit.inject(Faults::none().hang_sync_until_restart(1));
    let mut all = IotlbGather::new();
    all.add_everything();
    let waiting = world.driver.submit(world.tag, &all).expect("room");
    let hung = world.driver.attach(&[exact(STREAM)], None, StreamTarget::Blocked);
    assert!(hung.expect_err("hung").is_unconfirmed());
    assert!(world.driver.release(&[exact(STREAM)]).expect_err("hung").is_unconfirmed());
    assert!(world.driver.unbind_space(world.tag).expect_err("hung").is_unconfirmed());
    assert_eq!(world.driver.statistics().spaces, 1);
    let (outcome, took) = timed(&world.board.machine, || world.driver.forget_all());
    outcome.expect("the restart helps");
    assert!(took <= SYNC_BOUND + AT_ONCE, "{took}");
    assert_eq!(world.driver.statistics().spaces, 0, "the tag is free again");
    // A command from before the restart was not carried out, and its waiter must not think so.
    assert!(world.driver.wait(waiting).expect_err("lost").is_unconfirmed());
    world.board.device.expect(Expectation::Blocked);
    assert!(!world.board.write(Iova::new(IOVA)).is_completed());
    world.driver.claim(&[exact(STREAM)]).expect("nothing is in doubt");
    let space = world.driver.create_space(&any_space(&world.driver)).expect("a space");
    let tag = world.driver.bind_space(&space).expect("a tag");
    world.driver.attach(&[exact(STREAM)], None, StreamTarget::Space(tag)).expect("serves again");
    assert!(!world.board.write(Iova::new(IOVA)).is_completed());
    assert_eq!(world.faults().last().map(|fault| fault.reason), Some(FaultReason::Translation));
    world.board.assert_clean();
}

#[test]
fn a_restart_that_does_not_help_frees_nothing() {
    let world = World::new(Profile::qemu10(), Policy::default(), small());
    world.board.unit.inject(Faults::none().hang_sync(1));
    assert!(world.driver.unbind_space(world.tag).expect_err("hung").is_unconfirmed());
    let (outcome, took) = timed(&world.board.machine, || world.driver.forget_all());
    assert!(outcome.expect_err("hung for ever").is_unconfirmed());
    assert!(took <= SYNC_BOUND + AT_ONCE, "{took}");
    assert_eq!(world.driver.statistics().spaces, 1);
    assert!(!world.board.write(Iova::new(IOVA)).is_completed());
}

#[test]
fn a_unit_that_fails_in_service_says_so_and_counts_as_dead() {
    let world = World::new(Profile::qemu10(), Policy::default(), small());
    world.attach();
    world.board.device.expect(Expectation::Blocked);
    world.board.unit.inject(Faults::none().fail_service());
    let serviced = world.driver.service(usize::MAX, &mut |_| panic!("it records nothing"));
    assert_eq!(serviced.errors, GlobalErrors::SERVICE_FAILURE);
    assert_eq!(serviced.status, 1 << 8);
    let block = || world.driver.attach(&[exact(STREAM)], None, StreamTarget::Blocked);
    let (outcome, took) = timed(&world.board.machine, block);
    assert_eq!(outcome, Err(OpsError::Dead));
    assert!(took <= AT_ONCE);
    assert!(!world.driver.service(usize::MAX, &mut |_| ()).is_ours(), "told once");
    assert!(!world.board.write(Iova::new(IOVA)).is_completed());
}

#[test]
fn every_global_error_is_told_and_acknowledged() {
    for (bit, error) in [
        (3, GlobalErrors::PAGE_REQUEST),
        (4, GlobalErrors::INTERRUPT),
        (5, GlobalErrors::INTERRUPT),
        (6, GlobalErrors::INTERRUPT),
        (7, GlobalErrors::INTERRUPT),
        (31, GlobalErrors::OTHER),
    ] {
        let world = World::new(Profile::qemu10(), Policy::default(), small());
        world.board.unit.inject(Faults::none().stick_at(GERROR.offset, 1 << bit));
        let serviced = world.driver.service(usize::MAX, &mut |_| ());
        assert_eq!((serviced.errors, serviced.status), (error, 1 << bit));
        let again = world.driver.service(usize::MAX, &mut |_| ());
        assert!(!again.is_ours(), "bit {bit} was acknowledged");
    }
}

#[test]
fn the_budget_holds_and_what_is_left_is_told() {
    let options = Options { event_queue_log2: 6, ..small() };
    let world = World::new(Profile::qemu10(), Policy::default(), options);
    for n in 0..40 {
        assert!(!world.board.write(Iova::new(IOVA + n * PAGE)).is_completed());
    }
    let mut told = 0;
    for (budget, left) in [(0, true), (7, true), (32, true), (1, false), (5, false)] {
        let mut seen = 0;
        let serviced = world.driver.service(budget, &mut |_| seen += 1);
        assert_eq!(serviced.faults, seen);
        assert!(seen <= budget);
        assert_eq!(serviced.more, left, "after {told} and {seen}");
        told += seen;
    }
    assert_eq!(told, 40);
}

#[test]
fn a_release_that_was_not_confirmed_is_confirmed_by_the_next_claim() {
    let world = World::new(Profile::qemu10(), Policy::default(), small());
    world.attach();
    let frame = world.board.frame();
    world.map(IOVA, frame.address());
    assert!(world.board.write(Iova::new(IOVA)).is_completed());
    world.board.device.expect(Expectation::Anything);
    world.board.unit.inject(Faults::none().freeze_after(0));
    let frozen = world.driver.release(&[exact(STREAM)]).expect_err("frozen");
    assert!(frozen.is_unconfirmed());
    assert!(world.driver.claim(&[exact(STREAM)]).expect_err("still frozen").is_unconfirmed());
    let unknown = Err(OpsError::UnknownStream { stream: exact(STREAM) });
    assert_eq!(world.driver.attach(&[exact(STREAM)], None, StreamTarget::Blocked), unknown);
    world.board.unit.inject(Faults::none());
    world.driver.claim(&[exact(STREAM)]).expect("confirmed");
    world.board.device.expect(Expectation::Blocked);
    assert!(!world.board.write(Iova::new(IOVA)).is_completed());
    world.board.assert_clean();
}

#[test]
fn lost_events_are_counted_and_the_next_one_is_reported() {
    let world = World::new(Profile::qemu10(), Policy::default(), small());
    world.attach();
    for round in 0..3 {
        for n in 0..100 {
            assert!(!world.board.write(Iova::new(IOVA + n * PAGE)).is_completed());
        }
        let mut seen = 0;
        let serviced = world.driver.service(usize::MAX, &mut |fault| {
            assert_eq!(fault.reason, FaultReason::Translation);
            seen += 1;
        });
        assert_eq!(serviced.overflows, 1, "round {round}: hardware said so once, whatever it lost");
        assert!((1..=8).contains(&seen), "round {round}: {seen} of a queue of 8");
        assert!(!world.board.write(Iova::new(0x7777_0000)).is_completed());
        let faults = world.faults();
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].iova.map(|iova| iova.align_down(PAGE)), Some(Iova::new(0x7777_0000)));
        // Somebody else's storm does not hold up a strict unmap.
        let frame = world.board.frame();
        world.map(IOVA, frame.address());
        world.unmap(IOVA).expect("confirmed");
    }
    world.board.unit.inject(Faults::none().abort_event_writes());
    assert!(!world.board.write(Iova::new(IOVA)).is_completed());
    let serviced = world.driver.service(usize::MAX, &mut |_| panic!("none was written"));
    assert_eq!((serviced.errors, serviced.overflows), (GlobalErrors::FAULT_RECORD, 0));
    world.board.unit.inject(Faults::none());
    assert!(!world.board.write(Iova::new(IOVA)).is_completed());
    assert_eq!(world.faults().len(), 1);
}

#[test]
fn an_interrupt_at_any_time_does_no_harm() {
    let world = World::new(Profile::qemu10(), Policy::default(), small());
    assert!(!world.driver.service(usize::MAX, &mut |_| panic!("nothing happened")).is_ours());
    assert!(!world.board.write(Iova::new(IOVA)).is_completed());
    assert!(world.driver.service(usize::MAX, &mut |_| ()).is_ours());
    world.driver.shutdown().expect("stopped");
    assert!(!world.driver.service(usize::MAX, &mut |_| panic!("stopped")).is_ours());
    world.driver.shutdown().expect("twice is once");
    let closed = world.driver.attach(&[exact(STREAM)], None, StreamTarget::Identity);
    assert!(closed.expect_err("stopped").is_unconfirmed());
    assert!(!world.board.write(Iova::new(IOVA)).is_completed());
}

#[test]
fn interrupts_lead_to_the_faults_and_lost_ones_lose_nothing() {
    let world = World::new(Profile::qemu10(), Policy::default(), small());
    let raised = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&raised);
    world.board.unit.on_interrupt(move |_| _ = count.fetch_add(1, Ordering::Relaxed));
    assert!(!world.board.write(Iova::new(IOVA)).is_completed());
    assert!(raised.load(Ordering::Relaxed) > 0, "wired interrupts are enabled");
    assert_eq!(world.faults().len(), 1);
    world.board.unit.inject(Faults::none().drop_interrupts());
    assert!(!world.board.write(Iova::new(IOVA)).is_completed());
    assert_eq!(world.faults().len(), 1, "whoever looks later still finds it");
}

/// A queue that stopped while nobody waits is repaired by the interrupt.
#[test]
fn an_error_interrupt_repairs_the_queue() {
    let world = World::new(Profile::qemu10(), Policy::default(), small());
    let frame = world.board.frame();
    world.attach();
    // The unit hangs at a CMD_SYNC, so that its caller gives up; when it goes on, the next command is refused.
    world.board.unit.inject(Faults::none().hang_sync(1));
    assert!(world.driver.attach(&[exact(STREAM)], None, StreamTarget::Blocked).is_err());
    world.board.unit.inject(Faults::none().fail_command(1, CommandError::Illegal));
    world.board.machine.clock().relax();
    for _ in 0..20 {
        let _either = world.driver.service(usize::MAX, &mut |_| ());
        world.board.machine.clock().relax();
    }
    assert_eq!(world.driver.statistics().refused_commands, 1);
    assert_recovers(&world, frame.address());
}

#[test]
fn no_allocation_may_fail_with_a_trace() {
    let mut failures = 0;
    for nth in 1.. {
        let board = Board::new(Profile::large(), Policy::default());
        let before = board.machine.usage().live;
        board.machine.memory().fail_allocation(nth, false);
        let result = bring_a_device_up(&board);
        assert_eq!(board.machine.usage().live, before, "allocation {nth} left something");
        board.device.expect(Expectation::Blocked);
        assert!(!board.write(Iova::new(0x4000_0000)).is_completed());
        board.machine.memory().stop_failing();
        bring_a_device_up(&board).expect("the retry succeeds");
        assert_eq!(board.machine.usage().live, before);
        board.assert_clean();
        if result.is_ok() {
            break;
        }
        failures += 1;
    }
    assert!(failures >= 6, "queues, table, second level, root, descriptor: {failures}");
}

/// Up, attached, and all the way down again; an error on the way undoes what was done.
fn bring_a_device_up(board: &Board) -> Result<(), String> {
    let driver = board.bring_up(small()).map_err(|error| error.to_string())?;
    let text = |error: OpsError| error.to_string();
    let live = board.machine.usage().live;
    // Two second-level tables in one claim: the second failure must not leave the first.
    let streams = [exact(STREAM), exact(StreamId::new(0x4_0000))];
    if let Err(error) = driver.claim(&streams) {
        assert_eq!(board.machine.usage().live, live, "a failed claim left something");
        return Err(text(error));
    }
    let table = driver.create_space(&any_space(&driver)).map_err(text)?;
    let tag = driver.bind_space(&table).map_err(text)?;
    driver.attach(&streams, None, StreamTarget::Space(tag)).map_err(text)?;
    driver.release(&streams).map_err(text)?;
    driver.unbind_space(tag).map_err(text)?;
    driver.shutdown().map_err(text)
}

#[test]
fn what_the_driver_cannot_drive_is_refused_by_name_and_left_aborting() {
    use portcullis_spec::smmuv3::{AIDR, IDR0, IDR1, IDR5};
    let cases: [(Register, u64, &str); 10] = [
        (AIDR, 0x10, "ArchMajorRev"),
        (IDR0, 0xd44_1013 & !(3 << 2) | 1 << 2, "TTF"),
        (IDR0, 0xd44_101b | 3 << 21, "TTENDIAN"),
        (IDR0, 0xd44_1018, "S1P"),
        (IDR0, 0xd44_101b & !(3 << 24) | 2 << 24, "STALL_MODEL"),
        (IDR1, 0x273_0010 | 1 << 30, "TABLES_PRESET"),
        (IDR1, 0x273_0010 | 1 << 29, "QUEUES_PRESET"),
        (IDR1, 0x273_0021, "SIDSIZE"),
        (IDR1, 0x273_0010 & !(0x1f << 21), "CMDQS"),
        (IDR5, 0x4, "GRAN4K"),
    ];
    for (register, value, named) in cases {
        let board = Board::new(Profile::qemu10(), Policy::default());
        let before = board.machine.usage();
        board.unit.inject(Faults::none().stick_at(register.offset, value));
        let error = board.bring_up(Options::default()).expect_err("refused");
        let BringUpCause::Refused { register: at, field, .. } = error.cause else {
            panic!("{error}")
        };
        assert_eq!(error.blocking, Blocking::Confirmed);
        assert_eq!((at, field), (register.name, named));
        assert_eq!(board.machine.usage(), before, "nothing was even allocated");
        board.device.expect(Expectation::Blocked);
        assert!(!board.write(Iova::new(0x4000_0000)).is_completed());
        board.assert_clean();
    }
}
