//! `capabilities` and `fctl` to what the driver needs to know (§5.3, §5.4).

use crate::error::BringUpCause;
use crate::unit::{GONE, Unit};
use portcullis_addr::PageSizes;
use portcullis_platform::{Platform, Registers};
use portcullis_spec::riscv::{self as spec, capabilities, fctl, igs};
use portcullis_spec::{Field, Register};

/// How a unit's own interrupts come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// By wire number 0.
    Wire,
    /// As the message that the kernel chose.
    Message,
    /// Not at all: somebody must look.
    Polled,
}

/// What a unit can do, as far as this driver uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Levels of the deepest first stage: 0 for none, 3, 4 or 5 (Sv39, Sv48, Sv57).
    pub first_stage: u8,
    /// Levels of the deepest second stage: 0 for none, 3, 4 or 5.
    pub second_stage: u8,
    /// Device contexts have the extended format, of 64 bytes.
    pub extended: bool,
    /// There is a page-request queue, to be turned off.
    pub page_requests: bool,
    /// Interrupts can come by wire.
    pub wires: bool,
    /// Interrupts can come as messages.
    pub messages: bool,
    /// Bits of a physical address, at most 56.
    pub output_bits: u8,
}

/// Bits of input address of a stage with three, four or five levels: without the sign-extended upper half in the first, two more in the second.
const FIRST_BITS: [u8; 3] = [38, 47, 56];
const SECOND_BITS: [u8; 3] = [41, 50, 59];

impl Features {
    /// Widths of input address that a stage offers, the preferred one first: four levels reach far enough for whatever is found in practice, more cost time, fewer reach not far enough.
    pub(crate) fn widths(&self, second: bool) -> impl Iterator<Item = u8> + use<> {
        let (deepest, bits) = match second {
            false => (self.first_stage, FIRST_BITS),
            true => (self.second_stage, SECOND_BITS),
        };
        [4, 5, 3]
            .into_iter()
            .filter(move |levels| *levels <= deepest)
            .map(move |it| bits[it as usize - 3])
    }

    /// The widest input address of a stage; 0 where there is none.
    pub(crate) fn widest(&self, second: bool) -> u8 {
        self.widths(second).max().unwrap_or(0)
    }

    /// Leaf sizes of a table for `bits` of input address: 4 KiB, and whatever one entry of each level above covers.
    pub(crate) fn page_sizes(bits: u8) -> PageSizes {
        let shifts = [12, 21, 30, 39, 48].into_iter().filter(|shift| u32::from(bits) > *shift);
        PageSizes::from_bitmap(shifts.fold(0, |sizes, shift| sizes | 1 << shift))
    }

    /// How interrupts come, given whether the kernel has chosen a message.
    pub(crate) fn choose_interrupts(&self, message: bool) -> Interrupts {
        if message && self.messages {
            Interrupts::Message
        } else if self.wires {
            Interrupts::Wire
        } else {
            Interrupts::Polled
        }
    }
}

/// Reads what the unit can do; writes nothing.
///
/// # Errors
///
/// [`BringUpCause::Refused`] with the field that this driver cannot live with; [`BringUpCause::Gone`] where the register reads as all ones.
pub(crate) fn identify<P: Platform, R: Registers>(
    unit: &Unit<P, R>,
) -> Result<Features, BringUpCause> {
    let id = unit.read64(spec::CAPABILITIES);
    // Neither half is all ones on a unit that is there: each has reserved bits.
    if [id as u32, (id >> 32) as u32].contains(&GONE) {
        return Err(BringUpCause::Gone { register: spec::CAPABILITIES.name });
    }
    let version = capabilities::VERSION;
    let known = version.get(id) >> 4 == spec::VERSION_1_0 >> 4;
    need(known, spec::CAPABILITIES, version, id, "major version 1")?;
    let has = |field: Field| field.is_set(id);
    let deepest = |fields: [Field; 3]| {
        let levels = (3..).zip(fields).filter(|(_, field)| has(*field));
        levels.map(|(levels, _)| levels).max().unwrap_or(0)
    };
    let first_stage = deepest([capabilities::SV39, capabilities::SV48, capabilities::SV57]);
    let second_stage = deepest([capabilities::SV39X4, capabilities::SV48X4, capabilities::SV57X4]);
    let stages = first_stage > 0 || second_stage > 0;
    need(stages, spec::CAPABILITIES, capabilities::SV39, id, "Sv39, Sv39x4 or more")?;
    let bits = capabilities::PAS;
    need((32..=56).contains(&bits.get(id)), spec::CAPABILITIES, bits, id, "32 to 56 bits")?;
    let by = capabilities::IGS.get(id);
    need(by <= igs::BOTH, spec::CAPABILITIES, capabilities::IGS, id, "a known value")?;
    Ok(Features {
        first_stage,
        second_stage,
        extended: has(capabilities::MSI_FLAT),
        page_requests: has(capabilities::ATS),
        wires: by != igs::MSI,
        messages: by != igs::WSI,
        output_bits: bits.get(id) as u8,
    })
}

/// Chooses little endian, 64-bit guests and the kind of interrupts, on a unit that is off (§5.4).
///
/// # Errors
///
/// [`BringUpCause::Refused`] where the unit does not take one of them.
pub(crate) fn choose_features<P: Platform, R: Registers>(
    unit: &Unit<P, R>,
    features: &Features,
    interrupts: Interrupts,
) -> Result<(), BringUpCause> {
    let read = || match unit.read(spec::FCTL) {
        GONE => Err(BringUpCause::Gone { register: spec::FCTL.name }),
        value => Ok(u64::from(value)),
    };
    let found = read()?;
    let by_wire = interrupts == Interrupts::Wire || !features.messages;
    let mut wanted = fctl::BE.with(found, 0);
    wanted = fctl::GXL.with(wanted, 0);
    wanted = fctl::WSI.with(wanted, by_wire.into());
    if wanted != found {
        unit.write(spec::FCTL, wanted as u32);
    }
    let found = read()?;
    need(!fctl::BE.is_set(found), spec::FCTL, fctl::BE, found, "little endian (0)")?;
    need(!fctl::GXL.is_set(found), spec::FCTL, fctl::GXL, found, "64-bit guests (0)")?;
    let same = fctl::WSI.get(found) == u64::from(by_wire);
    need(same, spec::FCTL, fctl::WSI, found, "the kind of interrupts that capabilities.IGS offers")
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
