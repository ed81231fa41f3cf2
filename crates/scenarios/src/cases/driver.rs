//! The real driver, through the interface that the core uses.

use super::{Board, IOVA, NEXT, Scenario, Told, negative, positive};
use crate::bench::{Bench, Client, Failure};
use crate::driver::{Driven, Expected, Setup, Space};
use crate::raw::{self, Granule, Layout, Leaf, Rig, Tree, command, entry};
use portcullis::{FaultReason, Stage, StreamTarget};
use portcullis_addr::{Iova, PageSizes, PhysAddr, Prot};

pub(super) const ALL: &[Scenario] = &[
    negative("driver-claimed-is-blocked", "5.2", Board::StageOne, claimed_is_blocked),
    positive("driver-both-ways", "3.3.2", Board::StageOne, both_ways),
    negative("driver-unmapped", "7.3.13", Board::StageOne, unmapped),
    negative("driver-read-only", "7.3.16", Board::StageOne, read_only),
    negative("driver-unmap", "4.4.2", Board::StageOne, unmap),
    negative("driver-unmap-range", "4.4.1.1", Board::StageOne, unmap_range),
    negative("driver-unmap-2m", "4.4.2", Board::StageOne, unmap_2m),
    negative("driver-unmap-scattered", "4.4.2", Board::StageOne, unmap_scattered),
    negative("driver-remap", "3.21", Board::StageOne, remap),
    negative("driver-detach", "4.3.1", Board::StageOne, detach),
    negative("driver-release", "4.3.1", Board::StageOne, release),
    negative("driver-space-reuse", "4.4.2", Board::StageOne, space_reuse),
    negative("driver-space-change", "4.3.1", Board::StageOne, space_change),
    negative("driver-two-spaces", "3.3.2", Board::StageOne, two_spaces),
    positive("driver-identity", "5.2", Board::StageOne, identity),
    positive("driver-group-of-two", "3.2", Board::StageOne, group_of_two),
    positive("driver-behind-a-port", "3.2", Board::StageOne, behind_a_port),
    negative("driver-16k", "3.3.2", Board::StageOne, granule_16k),
    negative("driver-64k", "3.3.2", Board::StageOne, granule_64k),
    negative("driver-stage-two", "4.4.3", Board::OnlyStageTwo, stage_two),
    negative("driver-stage-two-range", "4.4.3", Board::OnlyStageTwo, stage_two_range),
    negative("driver-stage-two-space-reuse", "4.4.3", Board::OnlyStageTwo, stage_two_space_reuse),
    negative("driver-take-over", "6.3.9.6", Board::StageOne, take_over),
    negative("driver-shutdown", "6.3.14", Board::StageOne, shutdown),
    negative("driver-event-overflow", "7.2", Board::StageOne, event_overflow),
];

const FIRST: Client = Client::First;
const PAGE: u64 = 4096;

const fn read_write() -> Prot {
    Prot::READ.union(Prot::WRITE).union(Prot::CACHE)
}

/// Nothing is mapped there.
const HOLE: Expected = Expected::Refused(FaultReason::Translation, Stage::One);

/// The driver, the first device attached to a space, and a page mapped at [`IOVA`] and used.
fn used<'a>(bench: &'a dyn Bench, setup: &Setup) -> Result<(Driven<'a>, Space, PhysAddr), Failure> {
    let mut driven = Driven::start(bench, setup)?;
    let space = driven.attached(FIRST)?;
    let page = driven.memory(4096)?;
    driven.map(&space, IOVA, page, PAGE, read_write())?;
    driven.writes(FIRST, IOVA, page, Expected::Landed)?;
    Ok((driven, space, page))
}

fn claimed_is_blocked(bench: &dyn Bench) -> Told {
    let mut driven = Driven::start(bench, &Setup::default())?;
    let page = driven.memory(4096)?;
    // Neither before nor after.
    driven.writes(FIRST, page.raw(), page, Expected::StreamBlocked)?;
    driven.claim(FIRST)?;
    driven.writes(FIRST, page.raw(), page, Expected::StreamBlocked)?;
    driven.writes(FIRST, IOVA, page, Expected::StreamBlocked)?;
    Ok(driven.into_checks())
}

fn both_ways(bench: &dyn Bench) -> Told {
    let (mut driven, space, page) = used(bench, &Setup::default())?;
    driven.reads(FIRST, &space, IOVA, page, Expected::Landed)?;
    let last = PhysAddr::new(page.raw() + 0xffc);
    driven.writes(FIRST, IOVA + 0xffc, last, Expected::Landed)?;
    Ok(driven.into_checks())
}

fn unmapped(bench: &dyn Bench) -> Told {
    let (mut driven, space, page) = used(bench, &Setup::default())?;
    driven.writes(FIRST, NEXT, page, HOLE)?;
    // By its physical address neither.
    driven.writes(FIRST, page.raw(), page, HOLE)?;
    driven.map(&space, NEXT, page, PAGE, read_write())?;
    driven.writes(FIRST, NEXT, page, Expected::Landed)?;
    Ok(driven.into_checks())
}

fn read_only(bench: &dyn Bench) -> Told {
    let (mut driven, space, _) = used(bench, &Setup::default())?;
    let page = driven.memory(4096)?;
    driven.map(&space, NEXT, page, PAGE, Prot::READ | Prot::CACHE)?;
    driven.reads(FIRST, &space, NEXT, page, Expected::Landed)?;
    let refused = Expected::Refused(FaultReason::Permission, Stage::One);
    driven.writes(FIRST, NEXT, page, refused)?;
    Ok(driven.into_checks())
}

fn unmap(bench: &dyn Bench) -> Told {
    let (mut driven, space, page) = used(bench, &Setup::default())?;
    let other = driven.memory(4096)?;
    driven.map(&space, NEXT, other, PAGE, read_write())?;
    driven.writes(FIRST, NEXT, other, Expected::Landed)?;
    driven.unmap(&space, IOVA, PAGE)?;
    driven.writes(FIRST, IOVA, page, HOLE)?;
    driven.writes(FIRST, NEXT, other, Expected::Landed)?;
    Ok(driven.into_checks())
}

fn unmap_range(bench: &dyn Bench) -> Told {
    range(bench, Stage::One)
}

fn stage_two_range(bench: &dyn Bench) -> Told {
    range(bench, Stage::Two)
}

/// 37 pages: a range that needs two commands.
fn range(bench: &dyn Bench, stage: Stage) -> Told {
    const PAGES: u64 = 37;
    let hole = Expected::Refused(FaultReason::Translation, stage);
    let mut driven = Driven::start(bench, &Setup::default())?;
    let space = driven.attached(FIRST)?;
    let memory = driven.memory((PAGES * PAGE) as usize)?;
    let at = |index: u64| PhysAddr::new(memory.raw() + PAGE * index);
    driven.map(&space, IOVA, memory, PAGES * PAGE, read_write())?;
    for index in [0, 4, 5, 20, 36] {
        driven.writes(FIRST, IOVA + PAGE * index, at(index), Expected::Landed)?;
    }
    driven.unmap(&space, IOVA, PAGES * PAGE)?;
    for index in [0, 4, 5, 20, 36] {
        driven.writes(FIRST, IOVA + PAGE * index, at(index), hole)?;
    }
    Ok(driven.into_checks())
}

fn unmap_2m(bench: &dyn Bench) -> Told {
    const LEN: u64 = 2 << 20;
    let mut driven = Driven::start(bench, &Setup::default())?;
    let space = driven.attached(FIRST)?;
    let memory = driven.memory(LEN as usize)?;
    let iova = 0x22_0040_0000;
    driven.map(&space, iova, memory, LEN, read_write())?;
    let far = 0x12_3450;
    let there = PhysAddr::new(memory.raw() + far);
    driven.writes(FIRST, iova + far, there, Expected::Landed)?;
    driven.unmap(&space, iova, LEN)?;
    driven.writes(FIRST, iova + far, there, HOLE)?;
    driven.writes(FIRST, iova, memory, HOLE)?;
    Ok(driven.into_checks())
}

/// Two unmaps of one debt that do not adjoin: the whole space is invalidated.
fn unmap_scattered(bench: &dyn Bench) -> Told {
    let (mut driven, space, page) = used(bench, &Setup::default())?;
    let (far, other) = (IOVA + 0x40_0000, driven.memory(4096)?);
    driven.map(&space, far, other, PAGE, read_write())?;
    driven.writes(FIRST, far, other, Expected::Landed)?;
    driven.unmap_together(&space, &[IOVA, far], PAGE)?;
    driven.writes(FIRST, IOVA, page, HOLE)?;
    driven.writes(FIRST, far, other, HOLE)?;
    Ok(driven.into_checks())
}

/// The address leads to another frame; the old one keeps what its new owner puts there.
fn remap(bench: &dyn Bench) -> Told {
    let (mut driven, space, old) = used(bench, &Setup::default())?;
    driven.unmap(&space, IOVA, PAGE)?;
    bench.write_bytes(old, b"somebody else's secret");
    let new = driven.memory(4096)?;
    driven.map(&space, IOVA, new, PAGE, read_write())?;
    driven.writes(FIRST, IOVA, new, Expected::Landed)?;
    driven.reads(FIRST, &space, IOVA, new, Expected::Landed)?;
    let mut bytes = [0; 22];
    bench.read_bytes(old, &mut bytes);
    let secret = String::from_utf8_lossy(&bytes).into_owned();
    driven.check("the old frame", "somebody else's secret", secret);
    Ok(driven.into_checks())
}

fn detach(bench: &dyn Bench) -> Told {
    let (mut driven, space, page) = used(bench, &Setup::default())?;
    driven.attach(FIRST, StreamTarget::Blocked)?;
    driven.writes(FIRST, IOVA, page, Expected::StreamBlocked)?;
    driven.attach(FIRST, StreamTarget::Space(space.tag()))?;
    driven.writes(FIRST, IOVA, page, Expected::Landed)?;
    Ok(driven.into_checks())
}

fn release(bench: &dyn Bench) -> Told {
    let (mut driven, _space, page) = used(bench, &Setup::default())?;
    driven.ops().release(&[FIRST.spec()]).map_err(crate::bench::failing("release"))?;
    driven.writes(FIRST, IOVA, page, Expected::StreamBlocked)?;
    Ok(driven.into_checks())
}

/// A unit for one space at a time: the second one gets the first one's tag.
fn space_reuse(bench: &dyn Bench) -> Told {
    reuse(bench, Stage::One)
}

fn stage_two_space_reuse(bench: &dyn Bench) -> Told {
    reuse(bench, Stage::Two)
}

fn reuse(bench: &dyn Bench, stage: Stage) -> Told {
    let setup = Setup { spaces: 1, ..Setup::default() };
    let (mut driven, old, page) = used(bench, &setup)?;
    driven.attach(FIRST, StreamTarget::Blocked)?;
    driven.ops().unbind_space(old.tag()).map_err(crate::bench::failing("unbind_space"))?;
    let new = driven.space()?;
    driven.check("the new space has the old tag", true, new.tag() == old.tag());
    driven.attach(FIRST, StreamTarget::Space(new.tag()))?;
    let hole = Expected::Refused(FaultReason::Translation, stage);
    driven.writes(FIRST, IOVA, page, hole)?;
    let other = driven.memory(4096)?;
    driven.map(&new, IOVA, other, PAGE, read_write())?;
    driven.writes(FIRST, IOVA, other, Expected::Landed)?;
    Ok(driven.into_checks())
}

/// From one space to another without being blocked in between.
fn space_change(bench: &dyn Bench) -> Told {
    let (mut driven, _old, page) = used(bench, &Setup::default())?;
    let new = driven.space()?;
    driven.attach(FIRST, StreamTarget::Space(new.tag()))?;
    driven.writes(FIRST, IOVA, page, HOLE)?;
    Ok(driven.into_checks())
}

fn two_spaces(bench: &dyn Bench) -> Told {
    let (mut driven, first, a) = used(bench, &Setup::default())?;
    let second = driven.attached(Client::Second)?;
    let b = driven.memory(4096)?;
    driven.map(&second, IOVA, b, PAGE, read_write())?;
    driven.map(&second, NEXT, b, PAGE, read_write())?;
    driven.writes(Client::Second, IOVA, b, Expected::Landed)?;
    driven.writes(FIRST, IOVA, a, Expected::Landed)?;
    driven.writes(FIRST, NEXT, b, HOLE)?;
    // What the first unmaps the second keeps.
    driven.unmap(&first, IOVA, PAGE)?;
    driven.writes(FIRST, IOVA, a, HOLE)?;
    driven.writes(Client::Second, IOVA, b, Expected::Landed)?;
    Ok(driven.into_checks())
}

fn identity(bench: &dyn Bench) -> Told {
    let mut driven = Driven::start(bench, &Setup::default())?;
    let page = driven.memory(4096)?;
    driven.claim(FIRST)?;
    driven.attach(FIRST, StreamTarget::Identity)?;
    driven.writes(FIRST, page.raw(), page, Expected::Landed)?;
    driven.attach(FIRST, StreamTarget::Blocked)?;
    driven.writes(FIRST, page.raw(), page, Expected::StreamBlocked)?;
    Ok(driven.into_checks())
}

fn group_of_two(bench: &dyn Bench) -> Told {
    let mut driven = Driven::start(bench, &Setup::default())?;
    let space = driven.attached(Client::TwinA)?;
    let page = driven.memory(4096)?;
    driven.map(&space, IOVA, page, PAGE, read_write())?;
    for twin in [Client::TwinA, Client::TwinB] {
        driven.writes(twin, IOVA, page, Expected::Landed)?;
        driven.reads(twin, &space, IOVA, page, Expected::Landed)?;
        driven.writes(twin, NEXT, page, HOLE)?;
    }
    Ok(driven.into_checks())
}

fn behind_a_port(bench: &dyn Bench) -> Told {
    let mut driven = Driven::start(bench, &Setup::default())?;
    let space = driven.attached(Client::Bridged)?;
    let page = driven.memory(4096)?;
    driven.map(&space, IOVA, page, PAGE, read_write())?;
    driven.writes(Client::Bridged, IOVA, page, Expected::Landed)?;
    driven.reads(Client::Bridged, &space, IOVA, page, Expected::Landed)?;
    driven.writes(FIRST, IOVA, page, Expected::StreamBlocked)?;
    Ok(driven.into_checks())
}

fn granule_16k(bench: &dyn Bench) -> Told {
    granule(bench, 0x4000, 32 << 20)
}

fn granule_64k(bench: &dyn Bench) -> Told {
    granule(bench, 0x1_0000, 512 << 20)
}

/// A space of pages of `page` bytes and blocks of `block`.
fn granule(bench: &dyn Bench, page: u64, block: u64) -> Told {
    let mut driven = Driven::start(bench, &Setup::default())?;
    driven.claim(FIRST)?;
    let space = driven.space_of(PageSizes::from_bitmap(page | block))?;
    driven.attach(FIRST, StreamTarget::Space(space.tag()))?;
    let memory = driven.memory(2 * page as usize)?;
    let iova = 0x12_3456_0000;
    driven.map(&space, iova, memory, 2 * page, read_write())?;
    let second = PhysAddr::new(memory.raw() + page);
    driven.writes(FIRST, iova, memory, Expected::Landed)?;
    driven.writes(FIRST, iova + page, second, Expected::Landed)?;
    driven.reads(FIRST, &space, iova + page, second, Expected::Landed)?;
    driven.unmap(&space, iova, page)?;
    driven.writes(FIRST, iova, memory, HOLE)?;
    driven.writes(FIRST, iova + page, second, Expected::Landed)?;
    Ok(driven.into_checks())
}

fn stage_two(bench: &dyn Bench) -> Told {
    let hole = Expected::Refused(FaultReason::Translation, Stage::Two);
    let (mut driven, space, page) = used(bench, &Setup::default())?;
    driven.reads(FIRST, &space, IOVA, page, Expected::Landed)?;
    driven.writes(FIRST, NEXT, page, hole)?;
    let other = driven.memory(4096)?;
    driven.map(&space, NEXT, other, PAGE, Prot::READ | Prot::CACHE)?;
    let permission = Expected::Refused(FaultReason::Permission, Stage::Two);
    driven.writes(FIRST, NEXT, other, permission)?;
    driven.unmap(&space, IOVA, PAGE)?;
    driven.writes(FIRST, IOVA, page, hole)?;
    Ok(driven.into_checks())
}

/// Somebody before us left the unit running and its caches full.
fn take_over(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let tree = Tree::new(bench, Granule::K4, 48)?;
    let (descriptor, page) = (rig.allocate(64)?, rig.page()?);
    tree.map(IOVA, page, Leaf::READ_WRITE)?;
    // Under each of the tags that a driver could begin with.
    for asid in 0..4 {
        rig.store(descriptor, &entry::context(asid, &tree));
        rig.install(FIRST, &entry::stage_one(descriptor))?;
        rig.run(&[command::cfgi_cd(FIRST.stream().raw())])?;
        rig.writes(FIRST, IOVA, page, raw::Expected::Landed)?;
    }
    let mut checks = rig.into_checks();
    let mut driven = Driven::take_over(bench, &Setup::default())?;
    driven.writes(FIRST, IOVA, page, Expected::StreamBlocked)?;
    let space = driven.attached(FIRST)?;
    driven.writes(FIRST, IOVA, page, HOLE)?;
    let new = driven.memory(4096)?;
    driven.map(&space, IOVA, new, PAGE, read_write())?;
    driven.writes(FIRST, IOVA, new, Expected::Landed)?;
    checks.extend(driven.into_checks());
    Ok(checks)
}

fn shutdown(bench: &dyn Bench) -> Told {
    let (mut driven, _space, page) = used(bench, &Setup::default())?;
    driven.ops().shutdown().map_err(crate::bench::failing("shutdown"))?;
    driven.writes(FIRST, IOVA, page, Expected::Silence)?;
    driven.writes(FIRST, page.raw(), page, Expected::Silence)?;
    driven.writes(Client::Second, page.raw(), page, Expected::Silence)?;
    Ok(driven.into_checks())
}

fn event_overflow(bench: &dyn Bench) -> Told {
    let setup = Setup { events_log2: 2, ..Setup::default() };
    let (mut driven, _space, page) = used(bench, &setup)?;
    for index in 1..=10 {
        bench.device_writes(FIRST, Iova::new(IOVA + PAGE * index), 0, 4)?;
    }
    let (faults, lost) = driven.faults();
    driven.check("faults reported of 10 in a queue of 4", 4, faults.len());
    driven.check("losses reported", true, lost > 0);
    // The next one is reported again.
    driven.writes(FIRST, NEXT, page, HOLE)?;
    Ok(driven.into_checks())
}
