//! Several threads on one unit, with queues so small that they meet in them.

use crate::world::{Board, PAGE, STREAM, World, any_space, exact, map_into, small};
use portcullis::{FaultReason, IommuOps, StreamTarget};
use portcullis_addr::{Iova, Prot, StreamId};
use portcullis_machine::{
    ChunkOrder, Consumption, DmaRequest, Expectation, Policy, Profile, ReadChunks, TimeSource,
};
use portcullis_pgtable::IotlbGather;
use portcullis_smmuv3::Options;
use std::sync::atomic::{AtomicU32, Ordering};

const THREADS: u32 = 4;
const ROUNDS: u64 = 300;

fn host(policy: Policy) -> Board {
    Board::timed(Profile::qemu10(), policy, TimeSource::Host)
}

#[test]
fn no_command_is_lost_or_repeated_in_queues_of_any_size() {
    for log2 in [0, 1, 2, 3, 8] {
        for consumption in [Consumption::Eager, Consumption::Late { most: 3 }] {
            let board = host(Policy::default().consumption(consumption));
            let options = Options { command_queue_log2: log2, ..Options::default() };
            let driver = board.bring_up(options).expect("the unit comes up");
            let table = driver.create_space(&any_space(&driver)).expect("a table");
            let tag = driver.bind_space(&table).expect("a tag");
            let before = board.unit.counters();
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        for _ in 0..ROUNDS {
                            let mut gather = IotlbGather::new();
                            gather.add_everything();
                            driver.invalidate(tag, &gather).expect("confirmed");
                        }
                    });
                }
            });
            let after = board.unit.counters();
            let calls = u64::from(THREADS) * ROUNDS;
            assert_eq!(after.syncs - before.syncs, calls, "one CMD_SYNC a call");
            assert_eq!(after.commands - before.commands, 2 * calls);
            assert_eq!(driver.statistics().refused_commands, 0);
        }
    }
}

#[test]
fn devices_come_work_and_go_in_parallel() {
    let board = host(Policy::default());
    let driver = board.bring_up(small()).expect("the unit comes up");
    std::thread::scope(|scope| {
        for n in 0..THREADS {
            let (board, driver) = (&board, &driver);
            // Every thread in a second-level table of its own but one.
            let stream = StreamId::new(0x1000 + n / 2 * 0x100 + n);
            let device = board.machine.add_client(format!("client {n}"), &board.unit, stream);
            scope.spawn(move || {
                for round in 0..30 {
                    driver.claim(&[exact(stream)]).expect("claimed");
                    let table = driver.create_space(&any_space(driver)).expect("a table");
                    let tag = driver.bind_space(&table).expect("a tag");
                    driver
                        .attach(&[exact(stream)], None, StreamTarget::Space(tag))
                        .expect("attached");
                    device.expect(Expectation::Translated);
                    let frame = board.frame();
                    let iova = Iova::new((u64::from(n) + 1) << 30 | round << 12);
                    map_into(&*table, iova, frame.address(), Prot::READ | Prot::WRITE);
                    let write = || board.machine.dma(device.id(), DmaRequest::write(iova, b"x"));
                    assert!(write().is_completed());
                    let mut gather = IotlbGather::new();
                    table.unmap(iova, PAGE, &mut gather).expect("unmapped");
                    driver.invalidate(tag, &gather).expect("confirmed");
                    table.retire(gather.confirm());
                    drop(frame);
                    assert!(!write().is_completed());
                    device.expect(Expectation::Blocked);
                    driver.attach(&[exact(stream)], None, StreamTarget::Blocked).expect("blocked");
                    driver.unbind_space(tag).expect("unbound");
                    driver.release(&[exact(stream)]).expect("confirmed");
                    assert!(!write().is_completed());
                }
            });
        }
    });
    assert_eq!(driver.statistics().spaces, 0);
    board.assert_clean();
}

/// Moving a stream from one space to another with the same mapping refuses no access in between, however hardware reads the entry.
#[test]
fn a_working_device_does_not_notice_a_change_of_space() {
    for (bytes, order) in
        [(8, ChunkOrder::Ascending), (8, ChunkOrder::Random), (16, ChunkOrder::Descending)]
    {
        let policy = Policy::default().chunks(ReadChunks::of(bytes, order)).verify(false);
        let world = World::on(host(policy), small());
        let frame = world.board.frame();
        let other = world.driver.create_space(&any_space(&world.driver)).expect("a table");
        let other_tag = world.driver.bind_space(&other).expect("a tag");
        world.map(0x1000, frame.address());
        let prot = Prot::READ | Prot::WRITE;
        map_into(&*other, Iova::new(0x1000), frame.address(), prot);
        world.attach();
        let accesses = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let device = scope.spawn(|| {
                while accesses.fetch_add(1, Ordering::Relaxed) < 500 {
                    assert!(world.board.write(Iova::new(0x1000)).is_completed());
                }
            });
            while !device.is_finished() {
                for tag in [other_tag, world.tag] {
                    let target = StreamTarget::Space(tag);
                    world.driver.attach(&[exact(STREAM)], None, target).expect("attached");
                }
            }
            device.join().expect("no access was refused");
        });
        assert_eq!(world.faults(), []);
        world.board.assert_clean();
    }
}

/// Through all targets in turn: an access may be refused, but never for a mixed entry.
#[test]
fn no_change_of_target_shows_hardware_a_bad_entry() {
    let policy = Policy::default().chunks(ReadChunks::of(8, ChunkOrder::Random)).verify(false);
    let options = Options { event_queue_log2: 10, ..small() };
    let world = World::on(host(policy), options);
    let frame = world.board.frame();
    world.board.device.expect(Expectation::Anything);
    world.map(frame.address().raw(), frame.address());
    std::thread::scope(|scope| {
        let device = scope.spawn(|| {
            for _ in 0..1000 {
                let _either = world.board.write(Iova::new(frame.address().raw()));
            }
        });
        while !device.is_finished() {
            let space = StreamTarget::Space(world.tag);
            for target in [space, StreamTarget::Identity, space, StreamTarget::Blocked] {
                world.driver.attach(&[exact(STREAM)], None, target).expect("attached");
                let _all = world.driver.service(usize::MAX, &mut |fault| {
                    assert_eq!(fault.reason, FaultReason::StreamBlocked, "{fault:?}");
                });
            }
        }
    });
    world.board.assert_clean();
}
