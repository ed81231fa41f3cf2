//! The formats: bit layouts from `spec` put to the engine's use.

mod amd;
mod arm;
mod riscv;
mod vtd;
mod x86;

pub use amd::AmdV1;
pub use arm::{
    Aarch32LpaeStage1, Aarch32LpaeStage2, ArmLpa2Stage1, ArmLpa2Stage2, ArmLpa64Stage1,
    ArmLpa64Stage2, ArmLpaeStage1, ArmLpaeStage2, ArmStage1, ArmStage2, ArmVariant,
};
pub use riscv::{RiscvFirstStage, RiscvSecondStage};
pub use vtd::VtdSecondStage;
pub use x86::{AmdV2, VtdFirstStage, X86_64, X86Paging, X86User};

use crate::{TableError, TableParams};
use portcullis_addr::PageSize;

/// The limits that a format with 4 KiB pages states: input widths up to `most_input`, output widths of 32 to `most_output` bits.
fn check_4k(
    params: &TableParams,
    input: core::ops::RangeInclusive<u8>,
    most_output: u8,
) -> Result<(), TableError> {
    if params.granule != PageSize::SIZE_4K {
        return Err(TableError::Granule { granule: params.granule });
    }
    if !input.contains(&params.input_bits) {
        return Err(TableError::InputBits { bits: params.input_bits });
    }
    if !(32..=most_output).contains(&params.output_bits) {
        return Err(TableError::OutputBits { bits: params.output_bits });
    }
    Ok(())
}
