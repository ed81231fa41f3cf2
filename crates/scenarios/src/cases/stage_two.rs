//! Stage 2 alone: a device that uses intermediate addresses.

use super::*;
use crate::raw::{Leaf, command};
use portcullis_spec::smmuv3::{event::number, ste};

pub(super) const ALL: &[Scenario] = &[
    positive("s2-read-write", "3.3.2", Board::OnlyStageTwo, read_write),
    negative("s2-unmapped", "7.3.13", Board::OnlyStageTwo, unmapped),
    negative("s2-read-only", "7.3.16", Board::OnlyStageTwo, read_only),
    negative("s2-beyond-input", "7.3.13", Board::Nested, beyond_input),
    negative("s2-not-recorded", "5.2", Board::Nested, not_recorded),
    positive("s2-2m-block", "3.3.2", Board::Nested, block),
    positive("s2-64k-granule", "3.3.2", Board::Nested, granule_64k),
    negative("s2-tlbi-ipa", "4.4.3", Board::OnlyStageTwo, tlbi_ipa),
    negative("s2-tlbi-vmall", "4.4.3", Board::Nested, tlbi_vmall),
];

const FIRST: Client = Client::First;
const IPA: u64 = 0x9_8765_4000;
const VMID: u64 = 3;

fn refused(number: u64, direction: Direction, ipa: u64) -> Expected {
    let spot =
        Spot { iova: ipa, direction, stage: 2, class: Class::Input, ipa: Some(ipa & !0xfff) };
    Expected::Refused(Event::translation(number, FIRST, spot))
}

fn start<'a>(
    bench: &'a dyn Bench,
    granule: Granule,
    change: fn(&mut entry::Ste),
) -> Result<(Rig<'a>, Tree<'a>, PhysAddr), Failure> {
    let mut rig = Rig::start(bench, Layout::default())?;
    let tree = Tree::new(bench, granule, 39)?;
    let mut entry = entry::stage_two(VMID, &tree);
    change(&mut entry);
    rig.install(FIRST, &entry)?;
    let page = rig.allocate(1 << granule.log2())?;
    Ok((rig, tree, page))
}

fn read_write(bench: &dyn Bench) -> Told {
    let (mut rig, tree, page) = start(bench, Granule::K4, |_| ())?;
    tree.map(IPA, page, Leaf::S2_READ_WRITE)?;
    rig.writes(FIRST, IPA, page, Expected::Landed)?;
    rig.reads(FIRST, IPA, page, Expected::Landed)?;
    Ok(rig.into_checks())
}

fn unmapped(bench: &dyn Bench) -> Told {
    let (mut rig, _tree, page) = start(bench, Granule::K4, |_| ())?;
    rig.writes(FIRST, IPA, page, refused(number::F_TRANSLATION, Direction::Write, IPA))?;
    rig.reads(FIRST, IPA + 8, page, refused(number::F_TRANSLATION, Direction::Read, IPA + 8))?;
    Ok(rig.into_checks())
}

fn read_only(bench: &dyn Bench) -> Told {
    let (mut rig, tree, page) = start(bench, Granule::K4, |_| ())?;
    tree.map(IPA, page, Leaf::S2_READ_ONLY)?;
    rig.writes(FIRST, IPA, page, refused(number::F_PERMISSION, Direction::Write, IPA))?;
    rig.reads(FIRST, IPA, page, Expected::Landed)?;
    Ok(rig.into_checks())
}

fn beyond_input(bench: &dyn Bench) -> Told {
    let (mut rig, tree, page) = start(bench, Granule::K4, |_| ())?;
    tree.map(0, page, Leaf::S2_READ_WRITE)?;
    rig.writes(FIRST, 0, page, Expected::Landed)?;
    let beyond = 1 << 39;
    rig.writes(FIRST, beyond, page, refused(number::F_TRANSLATION, Direction::Write, beyond))?;
    Ok(rig.into_checks())
}

fn not_recorded(bench: &dyn Bench) -> Told {
    let (mut rig, _tree, page) = start(bench, Granule::K4, |entry| ste::S2R.write(entry, 0))?;
    rig.writes(FIRST, IPA, page, Expected::Silence)?;
    rig.reads(FIRST, IPA, page, Expected::Silence)?;
    Ok(rig.into_checks())
}

fn block(bench: &dyn Bench) -> Told {
    let (mut rig, tree, page) = start(bench, Granule::K4, |_| ())?;
    let mega = 0x9_8760_0000;
    tree.map_at(2, mega, FAR_PAGE.align_down(2 << 20), Leaf::S2_READ_WRITE)?;
    let ipa = mega + FAR_PAGE.offset_in(2 << 20);
    rig.writes(FIRST, ipa, FAR_PAGE, Expected::Landed)?;
    rig.reads(FIRST, ipa, FAR_PAGE, Expected::Landed)?;
    let next = mega + (2 << 20);
    rig.writes(FIRST, next, page, refused(number::F_TRANSLATION, Direction::Write, next))?;
    Ok(rig.into_checks())
}

fn granule_64k(bench: &dyn Bench) -> Told {
    let (mut rig, tree, page) = start(bench, Granule::K64, |_| ())?;
    let ipa = 0x9_8765_0000;
    tree.map(ipa, page, Leaf::S2_READ_WRITE)?;
    let last = PhysAddr::new(page.raw() + 0xfffc);
    rig.writes(FIRST, ipa, page, Expected::Landed)?;
    rig.reads(FIRST, ipa + 0xfffc, last, Expected::Landed)?;
    let next = ipa + 0x1_0000;
    rig.writes(FIRST, next, page, refused(number::F_TRANSLATION, Direction::Write, next))?;
    Ok(rig.into_checks())
}

/// Maps, uses and unmaps a page; then the neighbour, another VMID and at last the right one are invalidated.
fn forgets(bench: &dyn Bench, right: [u64; 2], wrong: &[[u64; 2]]) -> Told {
    let (mut rig, tree, page) = start(bench, Granule::K4, |_| ())?;
    tree.map(IPA, page, Leaf::S2_READ_WRITE)?;
    rig.writes(FIRST, IPA, page, Expected::Landed)?;
    tree.unmap(IPA)?;
    // The SMMU may use what it has cached until told; both platforms here do.
    for command in wrong {
        rig.run(&[*command])?;
        rig.writes(FIRST, IPA, page, Expected::Landed)?;
    }
    rig.run(&[right])?;
    rig.writes(FIRST, IPA, page, refused(number::F_TRANSLATION, Direction::Write, IPA))?;
    Ok(rig.into_checks())
}

fn tlbi_ipa(bench: &dyn Bench) -> Told {
    let wrong = [command::tlbi_s2_ipa(VMID, IPA + 0x1000), command::tlbi_s2_ipa(VMID + 1, IPA)];
    forgets(bench, command::tlbi_s2_ipa(VMID, IPA), &wrong)
}

fn tlbi_vmall(bench: &dyn Bench) -> Told {
    let wrong = [command::tlbi_s12_vmall(VMID + 1)];
    forgets(bench, command::tlbi_s12_vmall(VMID), &wrong)
}
