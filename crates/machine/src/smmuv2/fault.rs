//! What faults leave in registers: one for the whole unit, one for each bank. Hardware keeps the first and says only that there were more.

use crate::access::AccessKind;
use crate::model::Access;
use portcullis_spec::Field;
use portcullis_spec::smmuv2::bank::{self, fsr, fsynr0};
use portcullis_spec::smmuv2::global0::{self, sgfsr, sgfsynr0};

/// The global fault registers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GlobalFault {
    pub(super) status: u32,
    address: u64,
    syndrome: u32,
    stream: u32,
}

impl GlobalFault {
    pub(super) fn read(&self, offset: usize) -> Option<u32> {
        match offset {
            at if at == global0::SGFSR.offset => Some(self.status),
            at if at == global0::SGFAR.offset => Some(self.address as u32),
            at if at == global0::SGFAR.offset + 4 => Some((self.address >> 32) as u32),
            at if at == global0::SGFSYNR0.offset => Some(self.syndrome),
            at if at == global0::SGFSYNR1.offset => Some(self.stream),
            _ => None,
        }
    }

    /// Records a fault, or, where one is recorded already, that there was another. Returns whether it is the first.
    pub(super) fn record(&mut self, kind: Field, stream: u32, access: &Access) -> bool {
        if self.status != 0 {
            self.status |= sgfsr::MULTI.mask() as u32;
            return false;
        }
        self.status = kind.mask() as u32;
        self.address = access.address;
        self.stream = stream;
        self.syndrome = (sgfsynr0::WNR.of((access.kind == AccessKind::Write).into())
            | sgfsynr0::PNU.of(access.privileged.into())
            | sgfsynr0::NSSTATE.of(1)
            | sgfsynr0::NSATTR.of(1)) as u32;
        true
    }
}

/// The fault registers of a bank.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ContextFault {
    pub(super) status: u32,
    address: u64,
    intermediate: u64,
    syndrome: u32,
    pub(super) stream: u32,
}

/// What a fault of a bank is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    /// The bit of `FSR`.
    pub(super) kind: Field,
    /// Level of the descriptor.
    pub(super) level: u32,
    /// Memory refused the walk.
    pub(super) walk: bool,
    pub(super) stage2: bool,
    /// `FSR.FORMAT`.
    pub(super) format: u64,
}

/// Every bit of `FSR` that says that a fault is outstanding.
const OUTSTANDING: u32 = 0xc000_01fe;

impl ContextFault {
    pub(super) fn is_outstanding(&self) -> bool {
        self.status & OUTSTANDING != 0
    }

    /// Writing ones clears; the format of the table stays.
    pub(super) fn clear(&mut self, ones: u32) {
        self.status &= !(ones & OUTSTANDING);
    }

    pub(super) fn read(&self, offset: usize) -> Option<u32> {
        match offset {
            at if at == bank::FSR.offset => Some(self.status),
            at if at == bank::FAR.offset => Some(self.address as u32),
            at if at == bank::FAR.offset + 4 => Some((self.address >> 32) as u32),
            at if at == bank::FSYNR0.offset => Some(self.syndrome),
            at if at == bank::IPAFAR.offset => Some(self.intermediate as u32),
            at if at == bank::IPAFAR.offset + 4 => Some((self.intermediate >> 32) as u32),
            _ => None,
        }
    }

    /// The registers are writable, so that software can restore them.
    pub(super) fn write(&mut self, offset: usize, value: u32) {
        match offset {
            at if at == bank::FSRRESTORE.offset => self.status |= value & OUTSTANDING,
            at if at == bank::FSYNR0.offset => self.syndrome = value,
            _ => {}
        }
    }

    /// Records a fault, or, where one is recorded already, that there was another. Returns whether it is the first.
    pub(super) fn record(&mut self, cause: Cause, stream: u32, access: &Access) -> bool {
        if self.is_outstanding() {
            self.status |= fsr::MULTI.mask() as u32;
            return false;
        }
        self.status = (cause.kind.mask() | fsr::FORMAT.of(cause.format)) as u32;
        self.address = access.address;
        self.stream = stream;
        if cause.stage2 {
            self.intermediate = access.address;
        }
        self.syndrome = (fsynr0::PLVL.of(u64::from(cause.level) & 3)
            | fsynr0::WNR.of((access.kind == AccessKind::Write).into())
            | fsynr0::PNU.of(access.privileged.into())
            | fsynr0::PTWF.of(cause.walk.into())
            | fsynr0::NSSTATE.of(1)
            | fsynr0::NSATTR.of(1)) as u32;
        true
    }
}
