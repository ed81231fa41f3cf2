//! Every form of invalidation: what was used and then changed in memory is refused once the right command was carried out.
//!
//! Before that an SMMU may use what it has cached. Both platforms here do, and the scenarios hold them to it: otherwise a missing invalidation would not show.

use super::*;
use crate::raw::{Leaf, command};
use portcullis_spec::smmuv3::{cd, event::number};

pub(super) const ALL: &[Scenario] = &[
    negative("tlbi-va", "4.4.2", Board::StageOne, tlbi_va),
    negative("tlbi-va-wrong-asid", "4.4.2", Board::StageOne, tlbi_va_wrong_asid),
    negative("tlbi-va-neighbour", "4.4.2", Board::StageOne, tlbi_va_neighbour),
    negative("tlbi-vaa", "4.4.2", Board::StageOne, tlbi_vaa),
    negative("tlbi-asid", "4.4.2", Board::StageOne, tlbi_asid),
    negative("tlbi-nh-all", "4.4.2", Board::StageOne, tlbi_nh_all),
    negative("tlbi-nsnh-all", "4.4.4", Board::StageOne, tlbi_nsnh_all),
    negative("tlbi-range", "4.4.1.1", Board::StageOne, tlbi_range),
    negative("tlbi-2m-block", "4.4.2", Board::StageOne, tlbi_block),
    negative("cfgi-ste", "4.3.1", Board::StageOne, cfgi_ste),
    negative("cfgi-ste-range", "4.3.2", Board::StageOne, cfgi_ste_range),
    negative("cfgi-cd", "4.3.3", Board::StageOne, cfgi_cd),
    negative("cfgi-cd-all", "4.3.4", Board::StageOne, cfgi_cd_all),
    negative("cfgi-all", "4.3.2", Board::StageOne, cfgi_all),
    negative("unmap-and-reuse", "3.21", Board::StageOne, unmap_and_reuse),
];

const FIRST: Client = Client::First;
const STREAM: u32 = FIRST.stream().raw();

fn refused() -> Expected {
    fault(number::F_TRANSLATION, FIRST, Direction::Write, IOVA)
}

/// A used page is unmapped; `wrong` commands do not help, `right` does.
fn tlbi(bench: &dyn Bench, wrong: &[[u64; 2]], right: [u64; 2]) -> Told {
    let (FirstSpace { mut rig, tree, .. }, page) = FirstSpace::used(bench)?;
    tree.unmap(IOVA)?;
    rig.writes(FIRST, IOVA, page, Expected::Landed)?;
    for command in wrong {
        rig.run(&[*command])?;
        rig.writes(FIRST, IOVA, page, Expected::Landed)?;
    }
    rig.run(&[right])?;
    rig.writes(FIRST, IOVA, page, refused())?;
    Ok(rig.into_checks())
}

fn tlbi_va(bench: &dyn Bench) -> Told {
    tlbi(bench, &[], command::tlbi_nh_va(ASID, IOVA))
}

fn tlbi_va_wrong_asid(bench: &dyn Bench) -> Told {
    let wrong = [command::tlbi_nh_va(ASID + 1, IOVA), command::tlbi_nh_asid(ASID + 1)];
    tlbi(bench, &wrong, command::tlbi_nh_va(ASID, IOVA))
}

fn tlbi_va_neighbour(bench: &dyn Bench) -> Told {
    let wrong = [
        command::tlbi_nh_va(ASID, NEXT),
        command::tlbi_nh_va(ASID, IOVA - 0x1000),
        command::tlbi_nh_vaa(NEXT),
    ];
    tlbi(bench, &wrong, command::tlbi_nh_va(ASID, IOVA))
}

fn tlbi_vaa(bench: &dyn Bench) -> Told {
    tlbi(bench, &[], command::tlbi_nh_vaa(IOVA))
}

fn tlbi_asid(bench: &dyn Bench) -> Told {
    tlbi(bench, &[], command::tlbi_nh_asid(ASID))
}

fn tlbi_nh_all(bench: &dyn Bench) -> Told {
    tlbi(bench, &[], command::tlbi_nh_all())
}

fn tlbi_nsnh_all(bench: &dyn Bench) -> Told {
    tlbi(bench, &[], command::tlbi_nsnh_all())
}

fn tlbi_range(bench: &dyn Bench) -> Told {
    // Four pages, the used one being the third; before that four that end just below it.
    let wrong = [command::tlbi_nh_va_range(ASID, IOVA - 0x4000, 4)];
    tlbi(bench, &wrong, command::tlbi_nh_va_range(ASID, IOVA - 0x2000, 4))
}

fn tlbi_block(bench: &dyn Bench) -> Told {
    let FirstSpace { mut rig, tree, .. } = FirstSpace::new(bench, Granule::K4)?;
    let mega = 0x22_0040_0000;
    let iova = mega + FAR_PAGE.offset_in(2 << 20);
    tree.map_at(2, mega, FAR_PAGE.align_down(2 << 20), Leaf::READ_WRITE)?;
    rig.writes(FIRST, iova, FAR_PAGE, Expected::Landed)?;
    tree.clear(2, mega)?;
    rig.writes(FIRST, iova, FAR_PAGE, Expected::Landed)?;
    // One address of the block is enough (§4.4.1).
    rig.run(&[command::tlbi_nh_va(ASID, mega)])?;
    let refused = fault(number::F_TRANSLATION, FIRST, Direction::Write, iova);
    rig.writes(FIRST, iova, FAR_PAGE, refused)?;
    Ok(rig.into_checks())
}

/// The stream's entry is changed to "abort"; `wrong` commands do not help, `right` does.
fn cfgi(bench: &dyn Bench, wrong: &[[u64; 2]], right: [u64; 2]) -> Told {
    let (FirstSpace { mut rig, .. }, page) = FirstSpace::used(bench)?;
    rig.store_entry(FIRST, &entry::abort())?;
    rig.writes(FIRST, IOVA, page, Expected::Landed)?;
    for command in wrong {
        rig.run(&[*command])?;
        rig.writes(FIRST, IOVA, page, Expected::Landed)?;
    }
    rig.run(&[right])?;
    rig.writes(FIRST, IOVA, page, Expected::Silence)?;
    Ok(rig.into_checks())
}

fn cfgi_ste(bench: &dyn Bench) -> Told {
    let wrong = [command::cfgi_ste(STREAM + 1), command::tlbi_nsnh_all()];
    cfgi(bench, &wrong, command::cfgi_ste(STREAM))
}

fn cfgi_ste_range(bench: &dyn Bench) -> Told {
    // Sixteen streams each.
    let wrong = [command::cfgi_ste_range(STREAM - 16, 3)];
    cfgi(bench, &wrong, command::cfgi_ste_range(STREAM, 3))
}

fn cfgi_all(bench: &dyn Bench) -> Told {
    cfgi(bench, &[], command::cfgi_all())
}

/// The descriptor is made invalid; `wrong` commands do not help, `right` does.
fn descriptor(bench: &dyn Bench, wrong: &[[u64; 2]], right: [u64; 2]) -> Told {
    let (FirstSpace { mut rig, tree, descriptor }, page) = FirstSpace::used(bench)?;
    let mut context = entry::context(ASID, &tree);
    cd::V.write(&mut context, 0);
    rig.store(descriptor, &context);
    rig.writes(FIRST, IOVA, page, Expected::Landed)?;
    for command in wrong {
        rig.run(&[*command])?;
        rig.writes(FIRST, IOVA, page, Expected::Landed)?;
    }
    rig.run(&[right])?;
    rig.writes(FIRST, IOVA, page, misconfigured(number::C_BAD_CD, FIRST))?;
    Ok(rig.into_checks())
}

fn cfgi_cd(bench: &dyn Bench) -> Told {
    descriptor(bench, &[command::cfgi_cd(STREAM + 1)], command::cfgi_cd(STREAM))
}

fn cfgi_cd_all(bench: &dyn Bench) -> Told {
    descriptor(bench, &[command::cfgi_cd_all(STREAM + 1)], command::cfgi_cd_all(STREAM))
}

/// A frame is taken away from the device and used for something else; the address is used for another frame.
fn unmap_and_reuse(bench: &dyn Bench) -> Told {
    let (FirstSpace { mut rig, tree, .. }, old) = FirstSpace::used(bench)?;
    tree.unmap(IOVA)?;
    rig.run(&[command::tlbi_nh_va(ASID, IOVA)])?;
    bench.write_bytes(old, b"somebody else's secret");
    let new = rig.page()?;
    tree.map(IOVA, new, Leaf::READ_WRITE)?;
    rig.writes(FIRST, IOVA, new, Expected::Landed)?;
    rig.reads(FIRST, IOVA, new, Expected::Landed)?;
    let mut bytes = [0; 22];
    bench.read_bytes(old, &mut bytes);
    let secret = String::from_utf8_lossy(&bytes).into_owned();
    rig.check("the old frame", "somebody else's secret", secret);
    Ok(rig.into_checks())
}
