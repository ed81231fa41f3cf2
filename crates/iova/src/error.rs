//! What can be wrong with a request.

use alloc::collections::TryReserveError;
use core::fmt;
use portcullis_addr::{Iova, IovaRange, PageSize};

/// Why an allocator could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewError {
    /// The aperture holds no whole page.
    EmptyAperture {
        /// What was asked for.
        aperture: IovaRange,
        /// The page size.
        granule: PageSize,
    },
    /// No memory for the first nodes.
    NoMemory,
}

/// Why no range was handed out. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocateError {
    /// The length is zero or no multiple of the page size.
    Length {
        /// Bytes asked for.
        len: u64,
        /// The page size.
        granule: PageSize,
    },
    /// The alignment is no power of two.
    Align {
        /// Bytes asked for.
        align: u64,
    },
    /// No hole below the limit fits.
    #[doc(alias = "ENOSPC")]
    NoSpace {
        /// Bytes asked for.
        len: u64,
        /// The highest address allowed.
        limit: Iova,
    },
    /// A fixed range is in part in use, reserved or outside the aperture.
    InUse {
        /// The range that was asked for.
        range: IovaRange,
        /// Its first address that is not free.
        first: Iova,
    },
    /// No memory for the allocator's own nodes.
    NoMemory,
}

/// Why a range was not taken back. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeError {
    /// No live range begins there.
    NotAllocated {
        /// What was to be freed.
        range: IovaRange,
    },
    /// The live range that begins there has another length.
    OtherLength {
        /// What was to be freed.
        range: IovaRange,
        /// What is live.
        live: IovaRange,
    },
}

/// Why a range was not reserved. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveError {
    /// A live range lies inside.
    InUse {
        /// What was to be reserved.
        range: IovaRange,
        /// The first live range that it meets.
        live: IovaRange,
    },
    /// No memory for the allocator's own nodes.
    NoMemory,
}

impl fmt::Display for NewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyAperture { aperture, granule } => {
                write!(f, "IOVA aperture {aperture} holds no whole {granule} page (widen it)")
            }
            Self::NoMemory => f.write_str("no memory for an IOVA allocator"),
        }
    }
}

impl fmt::Display for AllocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { len, granule } => {
                write!(f, "IOVA length {len:#x} is not a positive multiple of {granule} (round up)")
            }
            Self::Align { align } => {
                write!(f, "IOVA alignment {align:#x} is no power of two (round up)")
            }
            Self::NoSpace { len, limit } => write!(
                f,
                "no IOVA range of {len:#x} bytes is free up to {limit} (free some or raise the DMA mask)"
            ),
            Self::InUse { range, first } => {
                write!(f, "IOVA range {range} is not free from {first} on (choose another)")
            }
            Self::NoMemory => f.write_str("no memory for IOVA bookkeeping"),
        }
    }
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllocated { range } => {
                write!(f, "IOVA range {range} was never allocated, or freed before")
            }
            Self::OtherLength { range, live } => {
                write!(f, "IOVA range {range} was allocated as {live} (free exactly that)")
            }
        }
    }
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { range, live } => {
                write!(f, "cannot reserve IOVA range {range}: {live} is in use (free it first)")
            }
            Self::NoMemory => f.write_str("no memory for IOVA bookkeeping"),
        }
    }
}

impl core::error::Error for NewError {}
impl core::error::Error for AllocateError {}
impl core::error::Error for FreeError {}
impl core::error::Error for ReserveError {}

/// The node pool could not grow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoNodes;

impl From<TryReserveError> for NoNodes {
    fn from(_: TryReserveError) -> Self {
        Self
    }
}

impl From<NoNodes> for NewError {
    fn from(_: NoNodes) -> Self {
        Self::NoMemory
    }
}

impl From<NoNodes> for AllocateError {
    fn from(_: NoNodes) -> Self {
        Self::NoMemory
    }
}

impl From<NoNodes> for ReserveError {
    fn from(_: NoNodes) -> Self {
        Self::NoMemory
    }
}
