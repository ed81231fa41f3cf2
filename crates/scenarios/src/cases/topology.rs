//! Several devices, and which of them the SMMU can tell apart.

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

/// Gives `client` an address space of its own, tagged `asid`.
fn space<'a>(rig: &mut Rig<'a>, client: Client, asid: u64) -> Result<Tree<'a>, Failure> {
    let tree = Tree::new(rig.bench(), Granule::K4, 48)?;
    let descriptor = rig.allocate(64)?;
    rig.store(descriptor, &entry::context(asid, &tree));
    rig.install(client, &entry::stage_one(descriptor))?;
    Ok(tree)
}

fn behind_a_port(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let tree = space(&mut rig, Client::Bridged, ASID)?;
    let page = rig.page()?;
    tree.map(IOVA, page, Leaf::READ_WRITE)?;
    rig.writes(Client::Bridged, IOVA, page, Expected::Landed)?;
    rig.reads(Client::Bridged, IOVA, page, Expected::Landed)?;
    let refused = fault(number::F_TRANSLATION, Client::Bridged, Direction::Write, NEXT);
    rig.writes(Client::Bridged, NEXT, page, refused)?;
    Ok(rig.into_checks())
}

fn behind_a_port_other_stream(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let tree = space(&mut rig, Client::First, ASID)?;
    let page = rig.page()?;
    tree.map(IOVA, page, Leaf::READ_WRITE)?;
    let refused = misconfigured(number::C_BAD_STE, Client::Bridged);
    rig.writes(Client::Bridged, IOVA, page, refused)?;
    Ok(rig.into_checks())
}

fn group_of_two(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let tree = space(&mut rig, Client::TwinA, ASID)?;
    let page = rig.page()?;
    tree.map(IOVA, page, Leaf::READ_WRITE)?;
    for twin in [Client::TwinA, Client::TwinB] {
        rig.writes(twin, IOVA, page, Expected::Landed)?;
        rig.reads(twin, IOVA, page, Expected::Landed)?;
    }
    Ok(rig.into_checks())
}

fn group_of_two_blocked(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let tree = space(&mut rig, Client::TwinA, ASID)?;
    let page = rig.page()?;
    tree.map(IOVA, page, Leaf::READ_WRITE)?;
    rig.writes(Client::TwinB, IOVA, page, Expected::Landed)?;
    rig.install(Client::TwinA, &entry::abort())?;
    for twin in [Client::TwinA, Client::TwinB] {
        rig.writes(twin, IOVA, page, Expected::Silence)?;
    }
    Ok(rig.into_checks())
}

/// The same address leads two devices to two frames, and what one has mapped the other has not.
fn two_spaces(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let first = space(&mut rig, Client::First, ASID)?;
    let second = space(&mut rig, Client::Second, ASID + 1)?;
    let (a, b) = (rig.page()?, rig.page()?);
    first.map(IOVA, a, Leaf::READ_WRITE)?;
    second.map(IOVA, b, Leaf::READ_WRITE)?;
    first.map(NEXT, a, Leaf::READ_WRITE)?;
    rig.writes(Client::First, IOVA, a, Expected::Landed)?;
    rig.writes(Client::Second, IOVA, b, Expected::Landed)?;
    rig.writes(Client::First, NEXT, a, Expected::Landed)?;
    let refused = fault(number::F_TRANSLATION, Client::Second, Direction::Write, NEXT);
    rig.writes(Client::Second, NEXT, a, refused)?;
    Ok(rig.into_checks())
}

fn one_space(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let tree = Tree::new(bench, Granule::K4, 48)?;
    let (descriptor, page) = (rig.allocate(64)?, rig.page()?);
    rig.store(descriptor, &entry::context(ASID, &tree));
    tree.map(IOVA, page, Leaf::READ_WRITE)?;
    for client in [Client::First, Client::Second] {
        rig.install(client, &entry::stage_one(descriptor))?;
        rig.writes(client, IOVA, page, Expected::Landed)?;
    }
    Ok(rig.into_checks())
}
