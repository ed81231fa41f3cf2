//! Both stages: descriptors and stage 1 tables are fetched through stage 2.

use super::*;
use crate::raw::{Leaf, command};
use portcullis_spec::smmuv3::event::number;

pub(super) const ALL: &[Scenario] = &[
    positive("nested-read-write", "3.3.2", Board::Nested, read_write),
    negative("nested-hole-for-data", "7.3.13", Board::Nested, hole_for_data),
    negative("nested-read-only-data", "7.3.16", Board::Nested, read_only_data),
    negative("nested-hole-for-descriptor", "7.3.13", Board::Nested, hole_for_descriptor),
    negative("nested-hole-for-table", "7.3.13", Board::Nested, hole_for_table),
    negative("nested-stage-one-unmapped", "7.3.13", Board::Nested, stage_one_unmapped),
    negative("nested-tlbi-vmall", "4.4.3", Board::Nested, tlbi_vmall),
];

const FIRST: Client = Client::First;
const VA: u64 = 0x55_5555_5000;
const IPA: u64 = 0x8_0000_1000;
const VMID: u64 = 3;

struct Guest<'a> {
    rig: Rig<'a>,
    outer: Tree<'a>,
    inner: Tree<'a>,
    descriptor: PhysAddr,
    data: PhysAddr,
}

/// VA leads to IPA through stage 1, IPA to the data through stage 2; all that stage 1 needs is where stage 2 shows it, except what `hidden` picks.
fn guest<'a>(
    bench: &'a dyn Bench,
    hidden: fn(&Guest<'_>) -> Option<PhysAddr>,
) -> Result<Guest<'a>, Failure> {
    let rig = Rig::start(bench, Layout::default())?;
    let (outer, inner) = (Tree::new(bench, Granule::K4, 39)?, Tree::new(bench, Granule::K4, 48)?);
    // A page of its own, so that it can be hidden alone.
    let (descriptor, data) = (rig.page()?, rig.page()?);
    let mut guest = Guest { rig, outer, inner, descriptor, data };
    guest.inner.map(VA, PhysAddr::new(IPA), Leaf::READ_WRITE)?;
    guest.rig.store(descriptor, &entry::context(ASID, &guest.inner));
    guest.outer.map(IPA, data, Leaf::S2_READ_WRITE)?;
    let hidden = hidden(&guest);
    let needed = guest.inner.tables(VA)?.into_iter().chain([descriptor]);
    for page in needed.filter(|page| Some(*page) != hidden) {
        guest.outer.map(page.raw(), page, Leaf::S2_READ_WRITE)?;
    }
    let entry = entry::nested(descriptor, VMID, &guest.outer);
    guest.rig.install(FIRST, &entry)?;
    Ok(guest)
}

fn stage_two(number: u64, direction: Direction, class: Class, ipa: u64) -> Expected {
    let spot = Spot { iova: VA, direction, stage: 2, class, ipa: Some(ipa & !0xfff) };
    Expected::Refused(Event::translation(number, FIRST, spot))
}

fn read_write(bench: &dyn Bench) -> Told {
    let mut guest = guest(bench, |_| None)?;
    guest.rig.writes(FIRST, VA, guest.data, Expected::Landed)?;
    guest.rig.reads(FIRST, VA, guest.data, Expected::Landed)?;
    Ok(guest.rig.into_checks())
}

fn hole_for_data(bench: &dyn Bench) -> Told {
    let mut guest = guest(bench, |_| None)?;
    guest.outer.unmap(IPA)?;
    let refused = |direction| stage_two(number::F_TRANSLATION, direction, Class::Input, IPA);
    guest.rig.writes(FIRST, VA, guest.data, refused(Direction::Write))?;
    guest.rig.reads(FIRST, VA, guest.data, refused(Direction::Read))?;
    Ok(guest.rig.into_checks())
}

fn read_only_data(bench: &dyn Bench) -> Told {
    let mut guest = guest(bench, |_| None)?;
    guest.outer.map(IPA, guest.data, Leaf::S2_READ_ONLY)?;
    let refused = stage_two(number::F_PERMISSION, Direction::Write, Class::Input, IPA);
    guest.rig.writes(FIRST, VA, guest.data, refused)?;
    guest.rig.reads(FIRST, VA, guest.data, Expected::Landed)?;
    Ok(guest.rig.into_checks())
}

/// The record names an address that differs from machine to machine, so it is replaced by a word in the report.
fn hidden(bench: &dyn Bench, class: Class, pick: fn(&Guest<'_>) -> Option<PhysAddr>) -> Told {
    let mut guest = guest(bench, pick)?;
    let page = pick(&guest).map_or(0, PhysAddr::raw);
    let refused = stage_two(number::F_TRANSLATION, Direction::Read, class, page);
    guest.rig.writes(FIRST, VA, guest.data, refused)?;
    let hide = |text: String| text.replace(&format!("{page:#x}"), "the hidden page");
    let rename = |check: Check| Check {
        what: check.what,
        expected: hide(check.expected),
        observed: hide(check.observed),
    };
    Ok(guest.rig.into_checks().into_iter().map(rename).collect())
}

fn hole_for_descriptor(bench: &dyn Bench) -> Told {
    hidden(bench, Class::Cd, |guest| Some(guest.descriptor))
}

fn hole_for_table(bench: &dyn Bench) -> Told {
    hidden(bench, Class::Table, |guest| guest.inner.tables(VA).ok()?.pop())
}

fn stage_one_unmapped(bench: &dyn Bench) -> Told {
    let mut guest = guest(bench, |_| None)?;
    let other = VA + 0x1000;
    let refused = fault(number::F_TRANSLATION, FIRST, Direction::Write, other);
    guest.rig.writes(FIRST, other, guest.data, refused)?;
    Ok(guest.rig.into_checks())
}

fn tlbi_vmall(bench: &dyn Bench) -> Told {
    let mut guest = guest(bench, |_| None)?;
    guest.rig.writes(FIRST, VA, guest.data, Expected::Landed)?;
    guest.outer.unmap(IPA)?;
    guest.rig.run(&[command::tlbi_s12_vmall(VMID + 1)])?;
    guest.rig.writes(FIRST, VA, guest.data, Expected::Landed)?;
    guest.rig.run(&[command::tlbi_s12_vmall(VMID)])?;
    let refused = stage_two(number::F_TRANSLATION, Direction::Write, Class::Input, IPA);
    guest.rig.writes(FIRST, VA, guest.data, refused)?;
    Ok(guest.rig.into_checks())
}
