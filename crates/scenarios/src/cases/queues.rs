//! The queues and the errors of the SMMU as a whole.

use super::*;
use crate::bench::Line;
use crate::raw::{Leaf, command};
use portcullis_addr::Iova;
use portcullis_spec::smmuv3::{self as spec, cr0, event::number, gerror};

pub(super) const ALL: &[Scenario] = &[
    positive("sync-interrupt", "4.7.3", Board::StageOne, sync_interrupt),
    negative("event-interrupt", "3.18", Board::StageOne, event_interrupt),
    negative("event-overflow", "7.2", Board::StageOne, event_overflow),
    negative("command-error", "7.1", Board::StageOne, command_error),
    negative("command-error-acknowledged", "6.3.20", Board::StageOne, command_error_acknowledged),
    positive("command-queue-wraps", "3.5.1", Board::StageOne, command_queue_wraps),
    negative("disabled-while-busy", "6.3.9.6", Board::StageOne, disabled_while_busy),
];

const FIRST: Client = Client::First;

fn sync_interrupt(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    rig.interrupts(&[])?;
    rig.run(&[command::sync_with_interrupt()])?;
    rig.interrupts(&[Line::CommandSync])?;
    rig.run(&[])?;
    rig.interrupts(&[])?;
    Ok(rig.into_checks())
}

fn event_interrupt(bench: &dyn Bench) -> Told {
    let mut space = FirstSpace::new(bench, Granule::K4)?;
    let page = space.rig.page()?;
    space.rig.interrupts(&[])?;
    let refused = fault(number::F_TRANSLATION, FIRST, Direction::Write, IOVA);
    space.rig.writes(FIRST, IOVA, page, refused)?;
    space.rig.interrupts(&[Line::EventQueue])?;
    Ok(space.rig.into_checks())
}

fn event_overflow(bench: &dyn Bench) -> Told {
    let layout = Layout { events_log2: 2, ..Layout::default() };
    let mut space = FirstSpace::with(bench, Granule::K4, layout)?;
    for index in 0..6 {
        bench.device_writes(FIRST, Iova::new(IOVA + 0x1000 * index), 0, 4)?;
    }
    let rig = &mut space.rig;
    let lost = |rig: &Rig<'_>| {
        let produced = spec::eventq_prod::OVFLG.get(rig.read(spec::EVENTQ_PROD));
        produced != spec::eventq_cons::OVACKFLG.get(rig.read(spec::EVENTQ_CONS))
    };
    rig.check("overflow pending after 6 faults in a queue of 4", true, lost(rig));
    let aborted = rig.read(spec::GERROR) ^ rig.read(spec::GERRORN);
    let aborted = gerror::EVENTQ_ABT_ERR.is_set(aborted);
    rig.check("GERROR.EVENTQ_ABT_ERR, which is for aborted writes", false, aborted);
    let kept = rig.take_events();
    let describe = |event: &Event| event.describe(bench.records_class());
    let expected = |index: u64| {
        let spot = Spot {
            iova: IOVA + 0x1000 * index,
            direction: Direction::Write,
            stage: 1,
            class: Class::Input,
            ipa: None,
        };
        describe(&Event::translation(number::F_TRANSLATION, FIRST, spot))
    };
    let oldest: Vec<_> = (0..4).map(expected).collect();
    let kept: Vec<_> = kept.iter().map(describe).collect();
    rig.check("events kept", oldest.join(" | "), kept.join(" | "));
    rig.check("overflow pending after it was acknowledged", false, lost(rig));
    let page = rig.page()?;
    let refused = fault(number::F_TRANSLATION, FIRST, Direction::Write, IOVA);
    rig.writes(FIRST, IOVA, page, refused)?;
    Ok(space.rig.into_checks())
}

/// Lets the SMMU stop at an illegal command, with a good one behind it. Returns the index of the bad one.
fn stop(rig: &mut Rig<'_>) -> Result<u64, Failure> {
    let bad = rig.read(spec::CMDQ_PROD);
    rig.interrupts(&[])?;
    rig.submit(command::illegal());
    rig.submit(command::sync());
    // A late SMMU takes a few looks; CMDQ_CONS shows the error in the end.
    let stopped = bad | spec::cmdq_cons::ERR.of(spec::cerror::ILL);
    rig.await_register(spec::CMDQ_CONS, stopped)?;
    Ok(bad)
}

fn active_errors(rig: &Rig<'_>) -> String {
    format!("{:#x}", rig.read(spec::GERROR) ^ rig.read(spec::GERRORN))
}

fn command_error(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let bad = stop(&mut rig)?;
    let active = active_errors(&rig);
    rig.check("active global errors", format!("{:#x}", gerror::CMDQ_ERR.mask()), active);
    rig.interrupts(&[Line::GlobalError])?;
    // It stays where it is, whatever is added.
    rig.submit(command::sync());
    let index = spec::cmdq_cons::RD.get(rig.read(spec::CMDQ_CONS));
    rig.check("commands consumed after the bad one", 0, index.wrapping_sub(bad));
    Ok(rig.into_checks())
}

fn command_error_acknowledged(bench: &dyn Bench) -> Told {
    let mut rig = Rig::start(bench, Layout::default())?;
    let bad = stop(&mut rig)?;
    // §7.1: replace the command, then acknowledge; consumption goes on with the replacement.
    rig.replace_command_at(bad, command::sync_with_interrupt());
    let raised = rig.read(spec::GERROR);
    rig.interrupts(&[Line::GlobalError])?;
    rig.write(spec::GERRORN, raised);
    let produced = rig.read(spec::CMDQ_PROD);
    let waited = (0..1000).any(|_| spec::cmdq_cons::RD.get(rig.read(spec::CMDQ_CONS)) == produced);
    rig.check("the queue is consumed to its end", true, waited);
    rig.interrupts(&[Line::CommandSync])?;
    let active = active_errors(&rig);
    rig.check("active global errors", "0x0", active);
    Ok(rig.into_checks())
}

fn command_queue_wraps(bench: &dyn Bench) -> Told {
    let mut space = FirstSpace::new(bench, Granule::K4)?;
    let page = space.rig.page()?;
    // 64 slots: three rounds, two commands each time.
    for round in 0..96u64 {
        let iova = IOVA + 0x1000 * (round % 8);
        space.tree.map(iova, page, Leaf::READ_WRITE)?;
        space.rig.run(&[command::tlbi_nh_va(ASID, iova)])?;
    }
    space.rig.writes(FIRST, IOVA, page, Expected::Landed)?;
    let error = spec::cmdq_cons::ERR.get(space.rig.read(spec::CMDQ_CONS));
    space.rig.check("CMDQ_CONS.ERR", 0, error);
    Ok(space.rig.into_checks())
}

/// Everything is cached and the unit is switched off under the device's hands.
fn disabled_while_busy(bench: &dyn Bench) -> Told {
    let (FirstSpace { mut rig, .. }, page) = FirstSpace::used(bench)?;
    rig.bypass_globally(true)?;
    rig.control(cr0::CMDQEN.of(1) | cr0::EVENTQEN.of(1))?;
    rig.writes(FIRST, IOVA, page, Expected::Silence)?;
    rig.control(cr0::CMDQEN.of(1) | cr0::EVENTQEN.of(1) | cr0::SMMUEN.of(1))?;
    rig.writes(FIRST, IOVA, page, Expected::Landed)?;
    rig.control(0)?;
    rig.writes(FIRST, IOVA, page, Expected::Silence)?;
    rig.writes(FIRST, page.raw(), page, Expected::Silence)?;
    Ok(rig.into_checks())
}
