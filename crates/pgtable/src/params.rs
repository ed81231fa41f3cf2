//! What a driver asks for when it makes a table.

use core::fmt;
use portcullis_addr::{PageSize, PageSizes};
use portcullis_platform::AllocError;

/// The table that a driver wants, from what its hardware can walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "io_pgtable_cfg")]
pub struct TableParams {
    /// The smallest page: 4, 16 or 64 KiB for Arm, 4 KiB elsewhere.
    pub granule: PageSize,
    /// Width of input addresses in bits; each format says which it has.
    #[doc(alias = "ias")]
    pub input_bits: u8,
    /// Width of output addresses in bits; each format says which it has.
    #[doc(alias = "oas")]
    pub output_bits: u8,
    /// The leaf sizes that may be used, the smallest page apart, which always is; sizes that the format lacks are ignored. Leaves of several entries count
    /// too: without 64 KiB, for example, tables of 4 KiB pages carry no contiguous hint.
    pub leaf_sizes: PageSizes,
    /// Whether leaves make a device's accesses snoop the CPU's caches whatever the device asks for (VT-d's SNP, AMD's FC). Other formats have no such bit.
    pub force_snoop: bool,
    /// Whether hardware's walks snoop the CPU's caches. Where they do not, a table's pointer is published by whoever follows it first.
    pub coherent: bool,
}

/// Why a table could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// The format has no tables of that size.
    Granule {
        /// What was asked for.
        granule: PageSize,
    },
    /// The format does not translate addresses of that width.
    InputBits {
        /// What was asked for.
        bits: u8,
    },
    /// The format does not produce addresses of that width.
    OutputBits {
        /// What was asked for.
        bits: u8,
    },
    /// Stage 2 refuses input addresses that are wider than its output.
    InputAboveOutput {
        /// Width of input addresses.
        input: u8,
        /// Width of output addresses.
        output: u8,
    },
    /// No memory for the root, or only memory that lies above the output addresses.
    NoMemory(AllocError),
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granule { granule } => {
                write!(f, "page table: no {granule} granule in this format")
            }
            Self::InputBits { bits } => {
                write!(f, "page table: the format has no tables of {bits} input address bits")
            }
            Self::OutputBits { bits } => {
                write!(f, "page table: the format has no tables of {bits} output address bits")
            }
            Self::InputAboveOutput { input, output } => write!(
                f,
                "page table: stage 2 cannot take {input} input bits to {output} output bits (narrow the input)"
            ),
            Self::NoMemory(error) => write!(f, "no memory for a page table's root: {error}"),
        }
    }
}

impl core::error::Error for TableError {}

impl From<AllocError> for TableError {
    fn from(error: AllocError) -> Self {
        Self::NoMemory(error)
    }
}
