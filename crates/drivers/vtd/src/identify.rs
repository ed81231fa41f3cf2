//! `CAP` and `ECAP` to what the driver needs to know (§11.4.2, §11.4.3), and the choice of the mode.

use crate::error::BringUpCause;
use crate::unit::{GONE, Unit};
use portcullis_addr::PageSizes;
use portcullis_platform::{Platform, Registers};
use portcullis_spec::vtd::{self as spec, cap, ecap, fault, gsts, rtaddr, ttm};
use portcullis_spec::{Field, Register};

/// How a unit finds what a device may do (§3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By a context entry that leads to a second stage.
    Legacy,
    /// By a context entry that leads to PASID entries, each with its stages.
    Scalable,
}

impl Mode {
    /// Its value in `RTADDR.TTM`.
    pub(crate) fn ttm(self) -> u64 {
        match self {
            Self::Legacy => ttm::LEGACY,
            Self::Scalable => ttm::SCALABLE,
        }
    }
}

/// What a unit can do, as far as this driver uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The mode in which it is driven.
    pub mode: Mode,
    /// Widths of the second stage with three, four and five levels, in bits; 0 where there is none. Never wider than the unit's own addresses.
    pub second_stage: [u8; 3],
    /// Levels of the deepest first stage: 0 for none, 4 or 5. Scalable mode only.
    pub first_stage: u8,
    /// Second stage: leaves of 2 MiB, of 1 GiB.
    pub large: [bool; 2],
    /// First stage: leaves of 1 GiB (those of 2 MiB are always there).
    pub first_stage_1g: bool,
    /// log2 of the most pages that one invalidation by page covers; `None` where there is no such invalidation.
    pub most_pages: Option<u8>,
    /// Bits of a domain id.
    pub domain_bits: u8,
    /// What is not present is cached too.
    pub caching_mode: bool,
    /// Stores become visible only by flushing write buffers.
    pub write_buffer: bool,
    /// Root, context and PASID structures are snooped.
    pub coherent: bool,
    /// Page walks are snooped, or can be made to.
    pub coherent_walk: bool,
    /// Addresses can be passed unchanged.
    pub pass_through: bool,
    /// Leaves can make a device's accesses snoop.
    pub snoop_control: bool,
    /// Every request can be blocked without a table.
    pub abort_mode: bool,
    /// There are protected memory regions, to be turned off.
    pub protected_memory: bool,
    /// Offset of the first fault recording register, and how many there are.
    pub fault_registers: (usize, usize),
}

/// Bits of input address of a second stage with three, four, five levels (§3.7, "adjusted guest address width").
const SECOND_BITS: [u8; 3] = [39, 48, 57];
/// Bits of a first stage with four, five levels, without the sign-extended upper half.
const FIRST_BITS: [u8; 2] = [47, 56];

impl Features {
    /// Widths of input address that a stage offers, the preferred one first: four levels reach far enough for whatever is found in practice, more cost time, fewer reach not far enough.
    pub(crate) fn widths(&self, second: bool) -> impl Iterator<Item = u8> + use<> {
        let [three, four, five] = self.second_stage;
        let first = |levels: u8| {
            if self.first_stage >= levels { FIRST_BITS[levels as usize - 4] } else { 0 }
        };
        let bits = if second { [four, five, three] } else { [first(4), first(5), 0] };
        bits.into_iter().filter(|bits| *bits > 0)
    }

    /// The widest input address of a stage; 0 where there is none.
    pub(crate) fn widest(&self, second: bool) -> u8 {
        self.widths(second).max().unwrap_or(0)
    }

    /// Levels of the deepest second stage: what a pass-through entry must name (§9.3).
    pub(crate) fn deepest(&self) -> Option<u8> {
        (0..3).rev().find(|index| self.second_stage[*index] > 0).map(|index| index as u8 + 3)
    }

    /// Leaf sizes of a stage.
    pub(crate) fn page_sizes(&self, second: bool) -> PageSizes {
        let large = if second { self.large } else { [true, self.first_stage_1g] };
        let sizes = [(true, 12), (large[0], 21), (large[1], 30)];
        let sizes = sizes.iter().filter(|(there, _)| *there);
        PageSizes::from_bitmap(sizes.fold(0, |sizes, (_, shift)| sizes | 1 << shift))
    }
}

/// Reads what the unit can do, and chooses the mode; writes nothing.
///
/// A unit that translates keeps the mode that it is in, because a change of mode would need it turned off, unless it can block everything meanwhile.
///
/// # Errors
///
/// [`BringUpCause::Refused`] with the field that this driver cannot live with; [`BringUpCause::Gone`] where a register reads as all ones.
pub(crate) fn identify<P: Platform, R: Registers>(
    unit: &Unit<P, R>,
    scalable: bool,
) -> Result<Features, BringUpCause> {
    let read = |register: Register| {
        let id = unit.read64(register);
        // Neither half is all ones on a unit that is there: each has reserved bits.
        let gone = [id as u32, (id >> 32) as u32].contains(&GONE);
        if gone { Err(BringUpCause::Gone { register: register.name }) } else { Ok(id) }
    };
    let (cap, ecap) = (read(spec::CAP)?, read(spec::ECAP)?);
    need(ecap::QI.is_set(ecap), spec::ECAP, ecap::QI, ecap, "queued invalidation (1)")?;
    let known = cap::ND.get(cap) < 7;
    need(known, spec::CAP, cap::ND, cap, "a known number of domains (0 to 6)")?;
    let (wide, saving) = (cap::MGAW.get(cap) as u8 + 1, cap::SAGAW.get(cap));
    let second_stage = core::array::from_fn(|index| {
        let bits = SECOND_BITS[index].min(wide);
        // A table is as deep as its width makes it.
        let fits = index == 0 && bits > 30 || index > 0 && bits > SECOND_BITS[index - 1];
        if saving >> (index + 1) & 1 == 1 && fits { bits } else { 0 }
    });
    let first_stage = match (ecap::FSTS.is_set(ecap), cap::FS5LP.is_set(cap)) {
        (false, _) => 0,
        (true, false) => 4,
        (true, true) => 5,
    };
    let abort_mode = ecap::ADMS.is_set(ecap);
    let mode = choose_mode(unit, ecap, scalable, abort_mode)?;
    let seconds = mode == Mode::Legacy || ecap::SSTS.is_set(ecap);
    let features = Features {
        mode,
        second_stage: if seconds { second_stage } else { [0; 3] },
        first_stage: if mode == Mode::Scalable { first_stage } else { 0 },
        large: [0, 1].map(|bit| cap::SSLPS.get(cap) >> bit & 1 == 1),
        first_stage_1g: cap::FS1GP.is_set(cap),
        most_pages: cap::PSI.is_set(cap).then_some(cap::MAMV.get(cap) as u8),
        domain_bits: 4 + 2 * cap::ND.get(cap) as u8,
        caching_mode: cap::CM.is_set(cap),
        write_buffer: cap::RWBF.is_set(cap),
        coherent: ecap::C.is_set(ecap),
        coherent_walk: match mode {
            Mode::Legacy => ecap::C.is_set(ecap),
            Mode::Scalable => ecap::SMPWCS.is_set(ecap),
        },
        pass_through: ecap::PT.is_set(ecap),
        snoop_control: ecap::SC.is_set(ecap),
        abort_mode,
        protected_memory: cap::PLMR.is_set(cap) || cap::PHMR.is_set(cap),
        fault_registers: (16 * cap::FRO.get(cap) as usize, cap::NFR.get(cap) as usize + 1),
    };
    let stages = features.widest(true) > 0 || features.widest(false) > 0;
    need(stages, spec::CAP, cap::SAGAW, cap, "tables of three to five levels as wide as MGAW")?;
    let (at, count) = features.fault_registers;
    let (len, needed) = (unit.len(), at + count * fault::BYTES);
    if needed > len {
        return Err(BringUpCause::BlockTooSmall { len, needed });
    }
    Ok(features)
}

fn choose_mode<P: Platform, R: Registers>(
    unit: &Unit<P, R>,
    ecap: u64,
    scalable: bool,
    abort_mode: bool,
) -> Result<Mode, BringUpCause> {
    let stages = ecap::SSTS.is_set(ecap) || ecap::FSTS.is_set(ecap);
    let offered = ecap::SMTS.is_set(ecap) && stages;
    let wanted = if offered && scalable { Mode::Scalable } else { Mode::Legacy };
    if abort_mode || !gsts::TES.is_set(unit.status()?.into()) {
        return Ok(wanted);
    }
    let found = unit.read64(spec::RTADDR);
    match rtaddr::TTM.get(found) {
        ttm::LEGACY => Ok(Mode::Legacy),
        ttm::SCALABLE if offered => Ok(Mode::Scalable),
        _ => {
            let needs = "a unit that translates in a mode that it can go on in (0 or 1)";
            need(false, spec::RTADDR, rtaddr::TTM, found, needs).map(|()| wanted)
        }
    }
}

fn need(
    holds: bool,
    register: Register,
    field: Field,
    raw: u64,
    needs: &'static str,
) -> Result<(), BringUpCause> {
    if holds {
        return Ok(());
    }
    let (name, value) = (field.name(), field.get(raw));
    Err(BringUpCause::Refused { register: register.name, field: name, value, needs })
}
