//! Each command that the driver sends is needed: without it, or with it aimed elsewhere, the machine catches the device.

use crate::meddler::Rule;
use crate::world::{Board, PAGE, STREAM, World, any_space, exact, map_into, small};
use portcullis::{IommuOps, StreamTarget};
use portcullis_addr::{Iova, Prot};
use portcullis_machine::{Expectation, Policy, Profile, Violation};
use portcullis_pgtable::IotlbGather;
use portcullis_smmuv3::Options;
use portcullis_spec::Field;
use portcullis_spec::smmuv3::command::{OPCODE, WORDS, opcode, tlbi};
use std::sync::Arc;

const IOVA: Iova = Iova::new(0x20_0000);

/// The life of a device; true if anything was wrong about it.
fn is_caught(profile: Profile, rule: Option<Rule>) -> bool {
    let mut board = Board::new(profile, Policy::default());
    board.rule = rule;
    // Two tags in all, so that the second is reused at once.
    let world = World::on(board, Options { spaces: 2, ..small() });
    let frame = world.board.frame();
    let mut wrong = world.board.write(IOVA).is_completed();
    world.attach();
    world.map(IOVA.raw(), frame.address());
    world.map(IOVA.raw() + PAGE, frame.address());
    wrong |= !world.board.write(IOVA).is_completed();
    wrong |= !world.board.write(Iova::new(IOVA.raw() + PAGE)).is_completed();
    world.unmap(IOVA.raw()).expect("the driver believes that it was confirmed");
    wrong |= world.board.write(IOVA).is_completed();
    wrong |= space_change_passes(&world);
    world.board.device.expect(Expectation::Blocked);
    world.driver.attach(&[exact(STREAM)], None, StreamTarget::Blocked).expect("believed");
    wrong |= world.board.write(Iova::new(IOVA.raw() + PAGE)).is_completed();
    wrong | !world.board.machine.violations().is_empty()
}

/// A whole space is unbound; its tag goes to another, empty one.
fn space_change_passes(world: &World) -> bool {
    let other = world.driver.create_space(&any_space(&world.driver)).expect("a table");
    let first = world.driver.bind_space(&other).expect("a tag");
    let frame = world.board.frame();
    let iova = Iova::new(0x4000_0000);
    let prot = Prot::READ | Prot::WRITE;
    map_into(&*other, iova, frame.address(), prot);
    world.driver.attach(&[exact(STREAM)], None, StreamTarget::Space(first)).expect("believed");
    let mut passes = !world.board.write(iova).is_completed();
    world.driver.attach(&[exact(STREAM)], None, StreamTarget::Space(world.tag)).expect("believed");
    passes |= world.board.write(iova).is_completed();
    world.driver.unbind_space(first).expect("believed");
    let empty = world.driver.create_space(&any_space(&world.driver)).expect("a table");
    let again = world.driver.bind_space(&empty).expect("a tag");
    assert_eq!(again, first, "with two tags in all the number comes back");
    world.driver.attach(&[exact(STREAM)], None, StreamTarget::Space(again)).expect("believed");
    passes |= world.board.write(iova).is_completed();
    world.driver.attach(&[exact(STREAM)], None, StreamTarget::Space(world.tag)).expect("believed");
    passes
}

fn on(opcode: u64, alter: impl Fn(&mut [u64; WORDS]) + Send + Sync + 'static) -> Option<Rule> {
    Some(Arc::new(move |command: &mut [u64; WORDS]| {
        if OPCODE.read(command) == opcode {
            alter(command);
        }
    }))
}

/// A command that does nothing.
fn lose(command: &mut [u64; WORDS]) {
    *command = [OPCODE.of(opcode::PREFETCH_CONFIG), 0];
}

fn flip(field: Field) -> impl Fn(&mut [u64; WORDS]) {
    move |command| command[field.word()] ^= 1 << field.lo()
}

/// A unit that invalidates by range; `minimal` does it address by address, `stage2_only` by intermediate address.
fn ranges() -> Profile {
    Profile { sid_bits: 8, ..Profile::qemu10() }
}

#[test]
fn without_a_planted_bug_nothing_is_caught() {
    for profile in [ranges(), Profile::minimal(), Profile::stage2_only()] {
        assert!(!is_caught(profile.clone(), None));
        assert!(!is_caught(profile, on(opcode::SYNC, |_| ())), "nor by the meddler alone");
    }
}

#[test]
fn a_lost_command_is_caught() {
    let needed = [
        (ranges(), opcode::TLBI_NH_VA),
        (ranges(), opcode::TLBI_NH_ASID),
        (ranges(), opcode::CFGI_STE),
        (ranges(), opcode::SYNC),
        (Profile::minimal(), opcode::TLBI_NH_VA),
        (Profile::stage2_only(), opcode::TLBI_S2_IPA),
        (Profile::stage2_only(), opcode::TLBI_S12_VMALL),
        (Profile::stage2_only(), opcode::CFGI_STE),
    ];
    for (profile, opcode) in needed {
        assert!(is_caught(profile, on(opcode, lose)), "{opcode:#x} was lost and nobody noticed");
    }
}

#[test]
fn a_command_aimed_elsewhere_is_caught() {
    let aims = [
        (ranges(), opcode::TLBI_NH_VA, tlbi::ASID),
        (ranges(), opcode::TLBI_NH_VA, tlbi::ADDRESS),
        (ranges(), opcode::TLBI_NH_ASID, tlbi::ASID),
        (Profile::minimal(), opcode::TLBI_NH_VA, tlbi::ADDRESS),
        (Profile::stage2_only(), opcode::TLBI_S2_IPA, tlbi::VMID),
        (Profile::stage2_only(), opcode::TLBI_S2_IPA, tlbi::ADDRESS),
        (Profile::stage2_only(), opcode::TLBI_S12_VMALL, tlbi::VMID),
        (ranges(), opcode::CFGI_STE, portcullis_spec::smmuv3::command::cfgi::STREAM_ID),
    ];
    for (profile, opcode, field) in aims {
        let caught = is_caught(profile, on(opcode, flip(field)));
        assert!(caught, "{opcode:#x} with another {} and nobody noticed", field.name());
    }
}

#[expect(
    unsafe_code,
    reason = "the contract is about other threads, which this test does not have"
)]
fn free_retired(table: &dyn portcullis_pgtable::PageTable) {
    // SAFETY: the only thread that uses the table is here.
    assert!(unsafe { table.free_retired() } > 0);
}

#[test]
fn a_leaf_hint_on_a_freed_table_is_caught() {
    let life = |rule: Option<Rule>| {
        let mut board = Board::new(Profile::minimal(), Policy::default());
        board.rule = rule;
        let world = World::on(board, small());
        let frame = world.board.frame();
        world.attach();
        let prot = Prot::READ | Prot::WRITE;
        let size = 2 << 20;
        // A whole leaf table full of pages, which then is emptied, taken out of the tree and freed.
        for page in 0..512 {
            let iova = Iova::new(IOVA.raw() + page * PAGE);
            map_into(&*world.table, iova, frame.address(), prot);
        }
        assert!(world.board.write(IOVA).is_completed());
        let mut gather = IotlbGather::new();
        world.table.unmap(IOVA, size, &mut gather).expect("unmapped");
        world.table.reclaim(IOVA, size, &mut gather).expect("ours");
        assert!(gather.tables() > 0, "the leaf table is on its way out");
        world.driver.invalidate(world.tag, &gather).expect("confirmed");
        world.table.retire(gather.confirm());
        free_retired(world.table.table().expect("a table"));
        // Another address of the same 2 MiB: a cached pointer to the freed table would be followed.
        let passed = world.board.write(Iova::new(IOVA.raw() + 77 * PAGE)).is_completed();
        passed | !world.board.machine.violations().is_empty()
    };
    assert!(!life(None));
    let all = |opcode| opcode == opcode::TLBI_NH_VA || opcode == opcode::TLBI_NH_ASID;
    let only_leaves: Rule = Arc::new(move |command: &mut [u64; WORDS]| {
        if all(OPCODE.read(command)) {
            let asid = tlbi::ASID.read(command);
            *command = [OPCODE.of(opcode::TLBI_NH_VA), 0];
            tlbi::ASID.write(command, asid);
            tlbi::LEAF.write(command, 1);
            command[1] |= tlbi::ADDRESS.in_place(IOVA.raw());
        }
    });
    assert!(life(Some(only_leaves)));
}

#[test]
fn a_take_over_that_forgets_to_forget_is_caught() {
    let take_over = |rule: Option<Rule>| {
        let earlier = World::new(ranges(), Policy::default(), small());
        let frame = earlier.board.frame();
        earlier.attach();
        earlier.map(IOVA.raw(), frame.address());
        assert!(earlier.board.write(IOVA).is_completed());
        let World { mut board, driver, table, .. } = earlier;
        std::mem::forget((driver, table));
        board.rule = rule;
        let next = World::on(board, small());
        let mut passed = next.board.write(IOVA).is_completed();
        next.board.device.expect(Expectation::Anything);
        // The same tag as before, for an empty space.
        next.driver
            .attach(&[exact(STREAM)], None, StreamTarget::Space(next.tag))
            .expect("attached");
        passed |= next.board.write(IOVA).is_completed();
        passed
    };
    assert!(!take_over(None));
    assert!(take_over(on(opcode::CFGI_STE_RANGE, lose)), "configuration of the earlier owner");
    assert!(take_over(on(opcode::TLBI_NSNH_ALL, lose)), "translations of the earlier owner");
}

/// Erratum 2812531: with the CMD_SYNC between the first two commands gone, the second one has no effect.
#[test]
fn a_lost_sync_between_two_kinds_is_caught_on_a_unit_that_needs_it() {
    let life = |profile: Profile, lose_first: bool| {
        let first = std::sync::atomic::AtomicBool::new(lose_first);
        let mut board = Board::new(profile, Policy::default());
        board.rule = on(opcode::SYNC, move |command| {
            if first.swap(false, std::sync::atomic::Ordering::Relaxed) {
                lose(command);
            }
        });
        let world = World::on(board, small());
        world.board.machine.violations()
    };
    assert_eq!(life(Profile::mmu700(), false), []);
    assert_eq!(life(Profile::server(), true), []);
    let opcodes = [opcode::CFGI_STE_RANGE, opcode::TLBI_NSNH_ALL];
    let caught = life(Profile::mmu700(), true);
    assert!(caught.contains(&Violation::UnsyncedCommands { iommu: 0, opcodes }), "{caught:?}");
}
