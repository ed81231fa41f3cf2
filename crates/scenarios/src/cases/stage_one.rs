//! Stage 1: tables by hand, one device.

use super::*;
use crate::raw::{Leaf, command};
use portcullis_spec::smmuv3::{cd, event::number};

pub(super) const ALL: &[Scenario] = &[
    positive("s1-read-write", "3.3.2", Board::StageOne, read_write),
    positive("s1-data-block", "3.3.2", Board::StageOne, data_block),
    negative("s1-unmapped-write", "7.3.13", Board::StageOne, unmapped_write),
    negative("s1-unmapped-read", "7.3.13", Board::StageOne, unmapped_read),
    negative("s1-read-only", "7.3.16", Board::StageOne, read_only),
    negative("s1-read-only-by-table", "7.3.16", Board::StageOne, read_only_by_table),
    negative("s1-access-flag", "7.3.15", Board::StageOne, access_flag),
    negative("s1-beyond-input", "7.3.13", Board::StageOne, beyond_input),
    negative("s1-output-too-wide", "7.3.14", Board::StageOne, output_too_wide),
    negative("s1-walks-disabled", "5.4", Board::StageOne, walks_disabled),
    negative("s1-table-outside-memory", "7.3.12", Board::StageOne, table_outside_memory),
    negative("s1-not-recorded", "5.4", Board::StageOne, not_recorded),
    positive("s1-2m-and-1g-blocks", "3.3.2", Board::StageOne, blocks_of_4k),
    positive("s1-16k-granule", "3.3.2", Board::StageOne, granule_16k),
    positive("s1-64k-granule", "3.3.2", Board::StageOne, granule_64k),
];

const FIRST: Client = Client::First;

fn read_write(bench: &dyn Bench) -> Told {
    let mut space = FirstSpace::new(bench, Granule::K4)?;
    let (one, two) = (space.rig.page()?, space.rig.page()?);
    space.tree.map(IOVA, one, Leaf::READ_WRITE)?;
    space.tree.map(NEXT, two, Leaf::READ_WRITE)?;
    space.rig.writes(FIRST, IOVA, one, Expected::Landed)?;
    space.rig.writes(FIRST, NEXT + 0xffc, at(two, 0xffc), Expected::Landed)?;
    space.rig.reads(FIRST, IOVA + 0x80, at(one, 0x80), Expected::Landed)?;
    space.rig.reads(FIRST, NEXT, two, Expected::Landed)?;
    Ok(space.rig.into_checks())
}

/// 2 KiB in through one page and out through another.
fn data_block(bench: &dyn Bench) -> Told {
    const LEN: usize = 2048;
    let mut space = FirstSpace::new(bench, Granule::K4)?;
    let (from, to) = (space.rig.page()?, space.rig.page()?);
    space.tree.map(IOVA, from, Leaf::READ_ONLY)?;
    space.tree.map(NEXT, to, Leaf::READ_WRITE)?;
    let sent: Vec<u8> = (0..LEN).map(|index| (index * 7 + index / 256) as u8).collect();
    bench.write_bytes(from, &sent);
    bench.device_reads(FIRST, portcullis_addr::Iova::new(IOVA), 0, LEN)?;
    bench.device_writes(FIRST, portcullis_addr::Iova::new(NEXT), 0, LEN)?;
    let mut received = vec![0; LEN];
    bench.read_bytes(to, &mut received);
    let events = space.rig.take_events().len();
    space.rig.check("2048 bytes through two pages", "equal, 0 events", {
        let same = if sent == received { "equal" } else { "different" };
        format!("{same}, {events} events")
    });
    Ok(space.rig.into_checks())
}

fn unmapped_write(bench: &dyn Bench) -> Told {
    let mut space = FirstSpace::new(bench, Granule::K4)?;
    let page = space.rig.page()?;
    space.tree.map(NEXT, page, Leaf::READ_WRITE)?;
    let refused = |iova| fault(number::F_TRANSLATION, FIRST, Direction::Write, iova);
    // An empty entry in a table that exists, and no table at all.
    space.rig.writes(FIRST, IOVA, page, refused(IOVA))?;
    space.rig.writes(FIRST, 0x8000_0000_0000, page, refused(0x8000_0000_0000))?;
    Ok(space.rig.into_checks())
}

fn unmapped_read(bench: &dyn Bench) -> Told {
    let mut space = FirstSpace::new(bench, Granule::K4)?;
    let page = space.rig.page()?;
    space.tree.map(NEXT, page, Leaf::READ_WRITE)?;
    let refused = |iova| fault(number::F_TRANSLATION, FIRST, Direction::Read, iova);
    space.rig.reads(FIRST, IOVA, page, refused(IOVA))?;
    space.rig.reads(FIRST, IOVA + 0x123 * 4, page, refused(IOVA + 0x123 * 4))?;
    Ok(space.rig.into_checks())
}

fn read_only(bench: &dyn Bench) -> Told {
    let mut space = FirstSpace::new(bench, Granule::K4)?;
    let page = space.rig.page()?;
    space.tree.map(IOVA, page, Leaf::READ_ONLY)?;
    let refused = fault(number::F_PERMISSION, FIRST, Direction::Write, IOVA);
    space.rig.writes(FIRST, IOVA, page, refused)?;
    space.rig.reads(FIRST, IOVA, page, Expected::Landed)?;
    // Again, now that the translation is cached.
    space.rig.writes(FIRST, IOVA, page, refused)?;
    Ok(space.rig.into_checks())
}

fn read_only_by_table(bench: &dyn Bench) -> Told {
    let mut space = FirstSpace::new(bench, Granule::K4)?;
    let page = space.rig.page()?;
    space.tree.map(IOVA, page, Leaf::READ_WRITE)?;
    // APTable[1] (bit 62): everything below is read only (DDI 0487, D8.3.1).
    space.tree.restrict(1, IOVA, 1 << 62)?;
    let refused = fault(number::F_PERMISSION, FIRST, Direction::Write, IOVA);
    space.rig.writes(FIRST, IOVA, page, refused)?;
    space.rig.reads(FIRST, IOVA, page, Expected::Landed)?;
    Ok(space.rig.into_checks())
}

fn access_flag(bench: &dyn Bench) -> Told {
    let mut space = FirstSpace::new(bench, Granule::K4)?;
    let page = space.rig.page()?;
    space.tree.map(IOVA, page, Leaf::NOT_ACCESSED)?;
    let refused = |direction| fault(number::F_ACCESS, FIRST, direction, IOVA);
    space.rig.writes(FIRST, IOVA, page, refused(Direction::Write))?;
    space.rig.reads(FIRST, IOVA, page, refused(Direction::Read))?;
    Ok(space.rig.into_checks())
}

/// Replaces the first device's descriptor by one that `change` has changed.
fn redescribe(space: &mut FirstSpace<'_>, change: fn(&mut entry::Cd)) -> Result<(), Failure> {
    let mut context = entry::context(ASID, &space.tree);
    change(&mut context);
    space.rig.store(space.descriptor, &context);
    space.rig.run(&[command::cfgi_cd(FIRST.stream().raw())])
}

fn beyond_input(bench: &dyn Bench) -> Told {
    let mut space = FirstSpace::new(bench, Granule::K4)?;
    let page = space.rig.page()?;
    space.tree.map(0, page, Leaf::READ_WRITE)?;
    space.rig.writes(FIRST, 0, page, Expected::Landed)?;
    // The lowest address beyond T0SZ would walk to the same place if the check were missing.
    let beyond = 1 << 48;
    let refused = fault(number::F_TRANSLATION, FIRST, Direction::Write, beyond);
    space.rig.writes(FIRST, beyond, page, refused)?;
    Ok(space.rig.into_checks())
}

fn output_too_wide(bench: &dyn Bench) -> Told {
    let mut space = FirstSpace::new(bench, Granule::K4)?;
    let page = space.rig.page()?;
    // One bit above the 44 that the SMMU puts out.
    space.tree.map(IOVA, at(page, 1 << 44), Leaf::READ_WRITE)?;
    let refused = fault(number::F_ADDR_SIZE, FIRST, Direction::Write, IOVA);
    space.rig.writes(FIRST, IOVA, page, refused)?;
    Ok(space.rig.into_checks())
}

fn walks_disabled(bench: &dyn Bench) -> Told {
    let mut space = FirstSpace::new(bench, Granule::K4)?;
    let page = space.rig.page()?;
    space.tree.map(IOVA, page, Leaf::READ_WRITE)?;
    redescribe(&mut space, |context| cd::EPD0.write(context, 1))?;
    let refused = fault(number::F_TRANSLATION, FIRST, Direction::Write, IOVA);
    space.rig.writes(FIRST, IOVA, page, refused)?;
    Ok(space.rig.into_checks())
}

fn table_outside_memory(bench: &dyn Bench) -> Told {
    let mut space = FirstSpace::new(bench, Granule::K4)?;
    let page = space.rig.page()?;
    space.tree.map(IOVA, page, Leaf::READ_WRITE)?;
    space.tree.redirect(2, IOVA, NOWHERE)?;
    let spot =
        Spot { iova: IOVA, direction: Direction::Read, stage: 1, class: Class::Table, ipa: None };
    let event = Event::translation(number::F_WALK_EABT, FIRST, spot);
    space.rig.writes(FIRST, IOVA, page, Expected::Refused(event))?;
    Ok(space.rig.into_checks())
}

fn not_recorded(bench: &dyn Bench) -> Told {
    let mut space = FirstSpace::new(bench, Granule::K4)?;
    let page = space.rig.page()?;
    space.tree.map(NEXT, page, Leaf::READ_ONLY)?;
    redescribe(&mut space, |context| cd::R.write(context, 0))?;
    space.rig.writes(FIRST, IOVA, page, Expected::Silence)?;
    space.rig.writes(FIRST, NEXT, page, Expected::Silence)?;
    space.rig.reads(FIRST, IOVA, page, Expected::Silence)?;
    Ok(space.rig.into_checks())
}

fn blocks_of_4k(bench: &dyn Bench) -> Told {
    let mut space = FirstSpace::new(bench, Granule::K4)?;
    let (giga, mega) = (0x77_c000_0000, 0x22_0040_0000);
    space.tree.map_at(1, giga, FAR_PAGE.align_down(1 << 30), Leaf::READ_WRITE)?;
    space.tree.map_at(2, mega, FAR_PAGE.align_down(2 << 20), Leaf::READ_WRITE)?;
    let in_giga = giga + FAR_PAGE.offset_in(1 << 30);
    space.rig.writes(FIRST, in_giga, FAR_PAGE, Expected::Landed)?;
    space.rig.reads(FIRST, in_giga + 0x7fc, at(FAR_PAGE, 0x7fc), Expected::Landed)?;
    let in_mega = mega + FAR_PAGE.offset_in(2 << 20);
    space.rig.writes(FIRST, in_mega, FAR_PAGE, Expected::Landed)?;
    // The next block of each size is not there.
    let refused = |iova| fault(number::F_TRANSLATION, FIRST, Direction::Write, iova);
    space.rig.writes(FIRST, giga + (1 << 30), FAR_PAGE, refused(giga + (1 << 30)))?;
    space.rig.writes(FIRST, mega + (2 << 20), FAR_PAGE, refused(mega + (2 << 20)))?;
    Ok(space.rig.into_checks())
}

fn granule_16k(bench: &dyn Bench) -> Told {
    granule(bench, Granule::K16, 32 << 20)
}

fn granule_64k(bench: &dyn Bench) -> Told {
    granule(bench, Granule::K64, 512 << 20)
}

/// A page, a block of `block` bytes at level 2, and the page after the first.
fn granule(bench: &dyn Bench, granule: Granule, block: u64) -> Told {
    let mut space = FirstSpace::new(bench, granule)?;
    let size = 1u64 << granule.log2();
    let (small, large) = (0x12_3456_0000, 0x5600_0000_0000);
    let page = FAR_PAGE.align_down(size);
    space.tree.map(small, page, Leaf::READ_WRITE)?;
    space.tree.map_at(2, large, page.align_down(block), Leaf::READ_WRITE)?;
    space.rig.writes(FIRST, small, page, Expected::Landed)?;
    space.rig.reads(FIRST, small + size - 4, at(page, size - 4), Expected::Landed)?;
    space.rig.writes(FIRST, large + page.offset_in(block), page, Expected::Landed)?;
    let next = small + size;
    let refused = fault(number::F_TRANSLATION, FIRST, Direction::Write, next);
    space.rig.writes(FIRST, next, page, refused)?;
    Ok(space.rig.into_checks())
}

fn at(start: PhysAddr, offset: u64) -> PhysAddr {
    PhysAddr::new(start.raw() + offset)
}
