//! SR-IOV: functions without a vendor id, found by the arithmetic of their routing ids (PCI Express Base 6.0, 9.2.1.2 and 9.3.3).

use crate::bdf::Bdf;
use crate::config::{Capabilities, ConfigSpace, Width};
use alloc::vec::Vec;

/// Extended capability id.
pub(crate) const CAPABILITY: u16 = 0x10;
const CONTROL: u16 = 8;
const CONTROL_ENABLE: u16 = 1 << 0;
const CONTROL_MEMORY: u16 = 1 << 3;
const TOTAL: u16 = 0xe;
const NUMBER: u16 = 0x10;
const OFFSET: u16 = 0x14;
const STRIDE: u16 = 0x16;
const DEVICE: u16 = 0x1a;

/// The virtual functions of a physical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VirtualFunctions {
    offset: u16,
    stride: u16,
    count: u16,
    /// The device id of each.
    pub(crate) device: u16,
}

impl VirtualFunctions {
    fn counted<C: ConfigSpace>(
        config: &C,
        physical: Bdf,
        at: u16,
        count: u16,
    ) -> Result<Self, C::Error> {
        Ok(Self {
            offset: config.read16(physical, at + OFFSET)?,
            stride: config.read16(physical, at + STRIDE)?,
            device: config.read16(physical, at + DEVICE)?,
            count,
        })
    }

    /// Those that are turned on, by the capability at `at`; `None` where there is none.
    pub(crate) fn turned_on<C: ConfigSpace>(
        config: &C,
        physical: Bdf,
        at: u16,
    ) -> Result<Option<Self>, C::Error> {
        let on = config.read16(physical, at + CONTROL)? & CONTROL_ENABLE != 0;
        let count = if on { config.read16(physical, at + NUMBER)? } else { 0 };
        Ok(if count == 0 { None } else { Some(Self::counted(config, physical, at, count)?) })
    }

    /// All that could be turned on.
    pub(crate) fn possible<C: ConfigSpace>(
        config: &C,
        physical: Bdf,
        at: u16,
    ) -> Result<Self, C::Error> {
        let total = config.read16(physical, at + TOTAL)?;
        Self::counted(config, physical, at, total)
    }

    fn id(self, physical: Bdf, number: u16) -> Option<u16> {
        let distance = self.stride.checked_mul(number)?.checked_add(self.offset)?;
        physical.requester_id().checked_add(distance)
    }

    /// The bus of the last one; `None` where there is none, or its id would not fit 16 bits.
    pub(crate) fn last_bus(self, physical: Bdf) -> Option<u8> {
        let last = self.count.checked_sub(1)?;
        Some((self.id(physical, last)? >> 8) as u8)
    }

    /// Their ids, in order; `None` where they are not distinct, are not behind the physical function, or lead beyond the bus `last`.
    pub(crate) fn ids(self, physical: Bdf, last: u8) -> Option<Vec<Bdf>> {
        let distinct = self.offset != 0 && (self.stride != 0 || self.count == 1);
        if !distinct || self.last_bus(physical)? > last {
            return None;
        }
        (0..self.count).map(|it| self.id(physical, it).map(Bdf::from_requester_id)).collect()
    }
}

/// Turns on `count` virtual functions of `physical`, none of which may be on; `false`, and nothing is changed, where it has not so many. Enumerate again to have them in the list.
///
/// Whoever uses them waits 100 ms first (9.3.3.3.1).
///
/// # Errors
///
/// Those of configuration space itself.
#[doc(alias = "pci_enable_sriov")]
pub fn enable_virtual_functions<C: ConfigSpace>(
    config: &C,
    physical: Bdf,
    count: u16,
) -> Result<bool, C::Error> {
    let capabilities = Capabilities::read(config, physical)?;
    let at = capabilities.ok().and_then(|all| all.extended(CAPABILITY));
    let Some(at) = at else { return Ok(false) };
    let control = config.read16(physical, at + CONTROL)?;
    let total = config.read16(physical, at + TOTAL)?;
    if control & CONTROL_ENABLE != 0 || count > total {
        return Ok(false);
    }
    config.write(physical, at + NUMBER, Width::Word, count.into())?;
    let control = control | CONTROL_ENABLE | CONTROL_MEMORY;
    config.write(physical, at + CONTROL, Width::Word, control.into())?;
    Ok(true)
}
