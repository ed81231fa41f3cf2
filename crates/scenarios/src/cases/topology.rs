//! Several devices: who is told from whom.

use super::*;
use crate::raw::Leaf;
use portcullis_spec::smmuv3::event::number;

pub(super) const ALL: &[Scenario] = &[
    positive("behind-a-port", "3.2", Board::StageOne, behind_a_port),
    negative("behind-a-port-other-stream", "3.2", Board::StageOne, behind_a_port_other_stream),
    positive("group-of-two", "3.2", Board::StageOne, group_of_two),
    negative("group-of-two-blocked", "3.2", Board::StageOne, group_of_two_blocked),
    negative("two-devices-two-spaces", "3.3.2", Board::StageOne, two_spaces),
    positive("two-devices-one-space", "3.3.2", Board::StageOne, one_space),
];

/// Gives `endpoint` an address space of its own, tagged `asid`.
fn space<'a>(rig: &mut Rig<'a>, endpoint: Endpoint, asid: u64) -> Result<Tree<'a>, Failure> {
    let tree = Tree::new(rig.bench(), Granule::K4, 48)?;
    let descriptor = rig.allocate(64)?;
    rig.store(descriptor, &entry::context(asid, &tree));
    rig.install(endpoint, &entry::stage_one(descriptor))?;
    Ok(tree)
}

fn behind_a_port(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let tree = space(&mut rig, Endpoint::Bridged, ASID)?;
    let page = rig.page()?;
    tree.map(IOVA, page, Leaf::READ_WRITE)?;
    rig.writes(Endpoint::Bridged, IOVA, page, Expected::Landed)?;
    rig.reads(Endpoint::Bridged, IOVA, page, Expected::Landed)?;
    let refused = fault(number::F_TRANSLATION, Endpoint::Bridged, Direction::Write, NEXT);
    rig.writes(Endpoint::Bridged, NEXT, page, refused)?;
    Ok(rig.into_checks())
}

fn behind_a_port_other_stream(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let tree = space(&mut rig, Endpoint::First, ASID)?;
    let page = rig.page()?;
    tree.map(IOVA, page, Leaf::READ_WRITE)?;
    let refused = misconfigured(number::C_BAD_STE, Endpoint::Bridged);
    rig.writes(Endpoint::Bridged, IOVA, page, refused)?;
    Ok(rig.into_checks())
}

fn group_of_two(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let tree = space(&mut rig, Endpoint::TwinA, ASID)?;
    let page = rig.page()?;
    tree.map(IOVA, page, Leaf::READ_WRITE)?;
    for twin in [Endpoint::TwinA, Endpoint::TwinB] {
        rig.writes(twin, IOVA, page, Expected::Landed)?;
        rig.reads(twin, IOVA, page, Expected::Landed)?;
    }
    Ok(rig.into_checks())
}

fn group_of_two_blocked(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let tree = space(&mut rig, Endpoint::TwinA, ASID)?;
    let page = rig.page()?;
    tree.map(IOVA, page, Leaf::READ_WRITE)?;
    rig.writes(Endpoint::TwinB, IOVA, page, Expected::Landed)?;
    rig.install(Endpoint::TwinA, &entry::abort())?;
    for twin in [Endpoint::TwinA, Endpoint::TwinB] {
        rig.writes(twin, IOVA, page, Expected::Silence)?;
    }
    Ok(rig.into_checks())
}

/// The same address leads two devices to two frames, and what one has mapped the other has not.
fn two_spaces(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let first = space(&mut rig, Endpoint::First, ASID)?;
    let second = space(&mut rig, Endpoint::Second, ASID + 1)?;
    let (a, b) = (rig.page()?, rig.page()?);
    first.map(IOVA, a, Leaf::READ_WRITE)?;
    second.map(IOVA, b, Leaf::READ_WRITE)?;
    first.map(NEXT, a, Leaf::READ_WRITE)?;
    rig.writes(Endpoint::First, IOVA, a, Expected::Landed)?;
    rig.writes(Endpoint::Second, IOVA, b, Expected::Landed)?;
    rig.writes(Endpoint::First, NEXT, a, Expected::Landed)?;
    let refused = fault(number::F_TRANSLATION, Endpoint::Second, Direction::Write, NEXT);
    rig.writes(Endpoint::Second, NEXT, a, refused)?;
    Ok(rig.into_checks())
}

fn one_space(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let tree = Tree::new(bench, Granule::K4, 48)?;
    let (descriptor, page) = (rig.allocate(64)?, rig.page()?);
    rig.store(descriptor, &entry::context(ASID, &tree));
    tree.map(IOVA, page, Leaf::READ_WRITE)?;
    for endpoint in [Endpoint::First, Endpoint::Second] {
        rig.install(endpoint, &entry::stage_one(descriptor))?;
        rig.writes(endpoint, IOVA, page, Expected::Landed)?;
    }
    Ok(rig.into_checks())
}
