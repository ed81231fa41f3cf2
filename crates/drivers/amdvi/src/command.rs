//! Commands as this driver sends them (§2.4).

use portcullis_addr::{PhysAddr, StreamId};
use portcullis_driver_parts::Words;
use portcullis_spec::amdvi::command::{
    self as spec, OPCODE, completion_wait, invalidate_entry, invalidate_pages, opcode,
};

/// One command, as it stands in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Command(pub(crate) [u64; spec::WORDS]);

impl Command {
    /// Waits for all before it, then stores `data` (§2.4.1).
    #[inline]
    pub(crate) const fn completion(address: PhysAddr, data: u64) -> Self {
        let first = OPCODE.of(opcode::COMPLETION_WAIT)
            | completion_wait::S.of(1)
            | completion_wait::ADDRESS.in_place(address.raw());
        Self([first, data])
    }

    /// Without an effect: waits for all before it and tells nobody (§2.4.1).
    pub(crate) const fn nothing() -> Self {
        Self([OPCODE.of(opcode::COMPLETION_WAIT), 0])
    }

    /// Forgets the entry of a device (§2.4.2).
    #[inline]
    pub(crate) const fn forget_entry(device: StreamId) -> Self {
        let device = invalidate_entry::DEVICE.of(device.raw() as u64);
        Self([OPCODE.of(opcode::INVALIDATE_DEVTAB_ENTRY) | device, 0])
    }

    /// Forgets everything (§2.4.8).
    pub(crate) const fn forget_all() -> Self {
        Self([OPCODE.of(opcode::INVALIDATE_IOMMU_ALL), 0])
    }

    /// Forgets all translations of a domain, and what led to them (§2.4.3).
    #[inline]
    pub(crate) const fn forget_domain(domain: u16) -> Self {
        Self::forget_pages(domain, invalidate_pages::ALL, true, true)
    }

    /// Forgets the translation of one page of 4 KiB or, `sized`, of as many as `address` encodes; with `tables` also what led there (§2.4.3).
    #[inline]
    pub(crate) const fn forget_pages(domain: u16, address: u64, sized: bool, tables: bool) -> Self {
        let first =
            OPCODE.of(opcode::INVALIDATE_IOMMU_PAGES) | invalidate_pages::DOMAIN.of(domain as u64);
        let second = invalidate_pages::S.of(sized as u64)
            | invalidate_pages::PDE.of(tables as u64)
            | invalidate_pages::ADDRESS.in_place(address);
        Self([first, second])
    }
}

impl From<Command> for Words {
    #[inline]
    fn from(command: Command) -> Self {
        command.0
    }
}
