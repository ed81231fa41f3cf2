//! What the SMMU does before it looks at any table: global settings, stream table, context descriptors.

use super::*;
use portcullis_spec::smmuv3::{self as spec, cd, event::number, ste};

pub(super) const ALL: &[Scenario] = &[
    positive("disabled-passes", "6.3.14", Board::StageOne, disabled_passes),
    negative("disabled-aborts", "6.3.14", Board::StageOne, disabled_aborts),
    negative("entry-invalid", "7.3.5", Board::StageOne, entry_invalid),
    negative("entry-abort", "5.2", Board::StageOne, entry_abort),
    positive("entry-bypass", "5.2", Board::StageOne, entry_bypass),
    negative("entry-of-another-stream", "3.3.1", Board::StageOne, entry_of_another_stream),
    negative("entry-stage-missing-two", "5.2", Board::OnlyStageOne, stage_two_is_missing),
    negative("entry-stage-missing-one", "5.2", Board::OnlyStageTwo, stage_one_is_missing),
    negative("entry-stage-two-aarch32", "5.2", Board::Nested, stage_two_aarch32),
    negative("entry-stage-two-size", "5.2", Board::Nested, stage_two_size),
    negative("stream-beyond-table", "7.3.3", Board::StageOne, stream_beyond_table),
    positive("two-level-table", "5.1", Board::StageOne, two_level_table),
    negative("two-level-no-table", "7.3.3", Board::StageOne, two_level_no_table),
    negative("two-level-beyond-span", "7.3.3", Board::StageOne, two_level_beyond_span),
    negative("two-level-outside-memory", "7.3.4", Board::StageOne, two_level_outside_memory),
    negative("descriptor-invalid", "7.3.11", Board::StageOne, descriptor_invalid),
    negative("descriptor-aarch32", "5.4", Board::StageOne, descriptor_aarch32),
    negative("descriptor-size", "5.4", Board::StageOne, descriptor_size),
    negative("descriptor-outside-memory", "7.3.10", Board::StageOne, descriptor_outside_memory),
];

const FIRST: Client = Client::First;

fn disabled_passes(bench: &dyn Bench) -> Told {
    let mut rig = Rig::cold(bench, Layout::default())?;
    let page = rig.page()?;
    rig.writes(FIRST, page.raw(), page, Expected::Landed)?;
    rig.reads(FIRST, page.raw(), page, Expected::Landed)?;
    Ok(rig.into_checks())
}

fn disabled_aborts(bench: &dyn Bench) -> Told {
    let mut rig = Rig::cold(bench, Layout::default())?;
    let page = rig.page()?;
    rig.bypass_globally(true)?;
    rig.writes(FIRST, page.raw(), page, Expected::Silence)?;
    rig.reads(FIRST, page.raw(), page, Expected::Silence)?;
    rig.bypass_globally(false)?;
    rig.writes(FIRST, page.raw(), page, Expected::Landed)?;
    Ok(rig.into_checks())
}

/// A rig whose first device has `entry`, and a page to aim at by its physical address.
fn with_entry<'a>(
    bench: &'a dyn Bench,
    entry: &entry::Ste,
) -> Result<(Rig<'a>, PhysAddr), Failure> {
    let mut rig = Rig::start(bench, Layout::default())?;
    rig.install(FIRST, entry)?;
    let page = rig.page()?;
    Ok((rig, page))
}

fn entry_invalid(bench: &dyn Bench) -> Told {
    let (mut rig, page) = with_entry(bench, &[0; 8])?;
    let expected = misconfigured(number::C_BAD_STE, FIRST);
    rig.writes(FIRST, page.raw(), page, expected)?;
    rig.reads(FIRST, page.raw(), page, expected)?;
    Ok(rig.into_checks())
}

fn entry_abort(bench: &dyn Bench) -> Told {
    let (mut rig, page) = with_entry(bench, &entry::abort())?;
    rig.writes(FIRST, page.raw(), page, Expected::Silence)?;
    rig.reads(FIRST, page.raw(), page, Expected::Silence)?;
    Ok(rig.into_checks())
}

fn entry_bypass(bench: &dyn Bench) -> Told {
    let (mut rig, page) = with_entry(bench, &entry::bypass())?;
    rig.writes(FIRST, page.raw(), page, Expected::Landed)?;
    rig.reads(FIRST, page.raw(), page, Expected::Landed)?;
    Ok(rig.into_checks())
}

fn entry_of_another_stream(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    rig.install(Client::Second, &entry::bypass())?;
    let page = rig.page()?;
    rig.writes(FIRST, page.raw(), page, misconfigured(number::C_BAD_STE, FIRST))?;
    rig.writes(Client::Second, page.raw(), page, Expected::Landed)?;
    Ok(rig.into_checks())
}

fn bad_entry(bench: &dyn Bench, entry: &entry::Ste) -> Told {
    let (mut rig, page) = with_entry(bench, entry)?;
    rig.writes(FIRST, page.raw(), page, misconfigured(number::C_BAD_STE, FIRST))?;
    Ok(rig.into_checks())
}

fn stage_two_is_missing(bench: &dyn Bench) -> Told {
    let tree = Tree::new(bench, Granule::K4, 39)?;
    bad_entry(bench, &entry::stage_two(3, &tree))
}

fn stage_one_is_missing(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let tree = Tree::new(bench, Granule::K4, 48)?;
    let (descriptor, page) = (rig.allocate(64)?, rig.page()?);
    rig.store(descriptor, &entry::context(ASID, &tree));
    rig.install(FIRST, &entry::stage_one(descriptor))?;
    rig.writes(FIRST, page.raw(), page, misconfigured(number::C_BAD_STE, FIRST))?;
    Ok(rig.into_checks())
}

fn stage_two_aarch32(bench: &dyn Bench) -> Told {
    let tree = Tree::new(bench, Granule::K4, 39)?;
    let mut entry = entry::stage_two(3, &tree);
    ste::S2AA64.write(&mut entry, 0);
    bad_entry(bench, &entry)
}

fn stage_two_size(bench: &dyn Bench) -> Told {
    let tree = Tree::new(bench, Granule::K4, 39)?;
    let mut entry = entry::stage_two(3, &tree);
    // 12 input bits: less than any start level takes.
    ste::S2T0SZ.write(&mut entry, 52);
    bad_entry(bench, &entry)
}

fn stream_beyond_table(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout { streams_log2: 3, ..Layout::default() })?;
    let page = rig.page()?;
    let expected = misconfigured(number::C_BAD_STREAMID, FIRST);
    rig.writes(FIRST, page.raw(), page, expected)?;
    rig.reads(FIRST, page.raw(), page, expected)?;
    Ok(rig.into_checks())
}

const TWO_LEVEL: Layout = Layout { two_level: true, streams_log2: 16, events_log2: 6 };

fn two_level_table(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, TWO_LEVEL)?;
    let page = rig.page()?;
    for client in [FIRST, Client::Bridged] {
        rig.install(client, &entry::bypass())?;
        rig.writes(client, page.raw(), page, Expected::Landed)?;
    }
    // In a second-level table that exists, but not valid.
    let second = Client::Second;
    rig.writes(second, page.raw(), page, misconfigured(number::C_BAD_STE, second))?;
    Ok(rig.into_checks())
}

fn two_level_no_table(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, TWO_LEVEL)?;
    let page = rig.page()?;
    rig.install(FIRST, &entry::bypass())?;
    let other = Client::Bridged;
    rig.writes(other, page.raw(), page, misconfigured(number::C_BAD_STREAMID, other))?;
    Ok(rig.into_checks())
}

fn two_level_beyond_span(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, TWO_LEVEL)?;
    let (page, table) = (rig.page()?, rig.allocate(16 * 64)?);
    // Span 5: 16 entries, 0 to 0xf; the first device is 0x10.
    let descriptor = spec::l1std::SPAN.of(5) | spec::l1std::L2PTR.in_place(table.raw());
    rig.store_descriptor(FIRST.stream().raw(), descriptor);
    rig.run(&[crate::raw::command::cfgi_all()])?;
    rig.writes(FIRST, page.raw(), page, misconfigured(number::C_BAD_STREAMID, FIRST))?;
    Ok(rig.into_checks())
}

fn two_level_outside_memory(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, TWO_LEVEL)?;
    let page = rig.page()?;
    let descriptor = spec::l1std::SPAN.of(9) | spec::l1std::L2PTR.in_place(NOWHERE.raw());
    rig.store_descriptor(FIRST.stream().raw(), descriptor);
    rig.run(&[crate::raw::command::cfgi_all()])?;
    rig.writes(FIRST, page.raw(), page, misconfigured(number::F_STE_FETCH, FIRST))?;
    Ok(rig.into_checks())
}

/// Stage 1 with a descriptor that `spoil` has changed.
fn bad_descriptor(bench: &dyn Bench, spoil: fn(&mut entry::Cd)) -> Told {
    let mut space = FirstSpace::new(bench, Granule::K4)?;
    let page = space.rig.page()?;
    space.tree.map(IOVA, page, crate::raw::Leaf::READ_WRITE)?;
    let mut context = entry::context(ASID, &space.tree);
    spoil(&mut context);
    space.rig.store(space.descriptor, &context);
    space.rig.run(&[crate::raw::command::cfgi_cd(FIRST.stream().raw())])?;
    space.rig.writes(FIRST, IOVA, page, misconfigured(number::C_BAD_CD, FIRST))?;
    Ok(space.rig.into_checks())
}

fn descriptor_invalid(bench: &dyn Bench) -> Told {
    bad_descriptor(bench, |context| cd::V.write(context, 0))
}

fn descriptor_aarch32(bench: &dyn Bench) -> Told {
    bad_descriptor(bench, |context| cd::AA64.write(context, 0))
}

fn descriptor_size(bench: &dyn Bench) -> Told {
    // One input bit. Without IDR3.STT at least 25 are needed.
    bad_descriptor(bench, |context| cd::T0SZ.write(context, 63))
}

fn descriptor_outside_memory(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let page = rig.page()?;
    rig.install(FIRST, &entry::stage_one(NOWHERE))?;
    rig.writes(FIRST, page.raw(), page, misconfigured(number::F_CD_FETCH, FIRST))?;
    Ok(rig.into_checks())
}
