//! SR-IOV: functions without a vendor id, found by the arithmetic of their routing ids (PCI Express Base 6.0, 9.2.1.2 and 9.3.3).

use crate::bdf::Bdf;
use crate::config::{Capabilities, ConfigSpace, Width};
use alloc::vec::Vec;

/// Extended capability id.
pub(crate) const CAPABILITY: u16 = 0x10;
/// Its registers.
pub(crate) const LEN: u16 = 0x40;
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

    /// Their ids, in order; `None` where one is not behind the physical function, is `taken` or leads beyond the bus `last`. Each id that was looked at is taken then.
    pub(crate) fn ids(self, physical: Bdf, last: u8, taken: &mut Taken) -> Option<Vec<Bdf>> {
        if self.last_bus(physical)? > last {
            return None;
        }
        let mut id = |number| {
            let id = self.id(physical, number).filter(|id| *id > physical.requester_id())?;
            taken.take(id).then(|| Bdf::from_requester_id(id))
        };
        (0..self.count).map(&mut id).collect()
    }
}

/// Which ids virtual functions have, so that none is given twice and no answers of hardware make it many.
pub(crate) struct Taken(Vec<u64>);

impl Taken {
    /// None.
    pub(crate) fn new() -> Self {
        Self(alloc::vec![0; 1 << 10])
    }

    /// Takes an id; `false` where it was taken.
    fn take(&mut self, id: u16) -> bool {
        let Some(word) = self.0.get_mut(usize::from(id >> 6)) else { return false };
        let bit = 1 << (id & 63);
        let free = *word & bit == 0;
        *word |= bit;
        free
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
    let at = capabilities.ok().and_then(|all| all.extended(CAPABILITY, LEN));
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
