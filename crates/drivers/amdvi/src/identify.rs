//! The extended feature register to what the driver needs to know (§3.4).

use crate::error::BringUpCause;
use crate::unit::{GONE, Unit};
use portcullis_platform::{Platform, Registers};
use portcullis_spec::amdvi::{self as spec, ext_features, hats};

/// What a unit can do, as far as this driver uses it. A unit without the register (`EFRSup` is 0) reads 0 there: four levels and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Levels of the deepest table: 4, 5 or 6.
    pub levels: u8,
    /// It can forget everything by one command.
    pub invalidate_all: bool,
    /// log2 of the most segments of a device table.
    pub segments_log2: u8,
    /// It can walk guest (v2) tables, which this driver does not use.
    pub guest_tables: bool,
}

/// Widest input address that is offered: beyond, a table's root has seven index bits.
const MOST_BITS: u8 = 57;

impl Features {
    /// Width of input addresses that tables can grow to.
    pub(crate) fn input_bits(&self) -> u8 {
        (12 + 9 * self.levels).min(MOST_BITS)
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
    let register = spec::EXT_FEATURES;
    let id = unit.read(register);
    if id == GONE {
        return Err(BringUpCause::Gone { register: register.name });
    }
    let levels = match ext_features::HATS.get(id) {
        hats::LEVELS_4 => 4,
        hats::LEVELS_5 => 5,
        hats::LEVELS_6 => 6,
        value => {
            let field = ext_features::HATS.name();
            let needs = "4, 5 or 6 levels (0 to 2)";
            return Err(BringUpCause::Refused { register: register.name, field, value, needs });
        }
    };
    Ok(Features {
        levels,
        invalidate_all: ext_features::IA_SUP.is_set(id),
        segments_log2: ext_features::DEV_TBL_SEG_SUP.get(id) as u8,
        guest_tables: ext_features::GT_SUP.is_set(id),
    })
}
