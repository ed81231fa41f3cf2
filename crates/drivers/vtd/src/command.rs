//! Descriptors as this driver sends them (§6.5.2).

use portcullis_addr::{Iova, PhysAddr, StreamId};
use portcullis_driver_parts::{Name, Words};
use portcullis_spec::vtd::descriptor::{
    self as spec, TYPE, context, context_granularity, iotlb, iotlb_granularity, kind, pasid_cache,
    pasid_cache_granularity, pasid_iotlb, pasid_iotlb_granularity, wait,
};

/// One descriptor, as it stands in the queue; where descriptors have 32 bytes, the rest is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Command(pub(crate) [u64; spec::WORDS]);

impl Command {
    const fn new(kind: u64, granularity: u64) -> Self {
        Self([TYPE.of(kind) | context::G.of(granularity), 0])
    }

    /// Waits for all before it, and keeps what is behind it waiting; then stores `data` at `status` (§6.5.2.8).
    #[inline]
    pub(crate) const fn wait(status: PhysAddr, data: u32) -> Self {
        let mut command = Self([TYPE.of(kind::WAIT), 0]);
        command.0[0] |= wait::SW.of(1) | wait::FN.of(1) | wait::DATA.of(data as u64);
        command.0[1] = wait::ADDR.of(status.raw() >> 2);
        command
    }

    /// Forgets the context entry of a device, which had the domain (§6.5.2.1).
    #[inline]
    pub(crate) const fn forget_context(device: StreamId, domain: u16) -> Self {
        let mut command = Self::new(kind::CONTEXT, context_granularity::DEVICE);
        command.0[0] |= context::SID.of(device.raw() as u64) | context::DID.of(domain as u64);
        command
    }

    /// Forgets every context entry, and the root entries (§6.5.2.1).
    pub(crate) const fn forget_contexts() -> Self {
        Self::new(kind::CONTEXT, context_granularity::GLOBAL)
    }

    /// Forgets the entries of PASID 0 that had the domain (§6.5.2.2).
    pub(crate) const fn forget_pasid(domain: u16) -> Self {
        let mut command = Self::new(kind::PASID_CACHE, pasid_cache_granularity::PASID);
        command.0[0] |= pasid_cache::DID.of(domain as u64);
        command
    }

    /// Forgets every PASID entry (§6.5.2.2).
    pub(crate) const fn forget_pasids() -> Self {
        Self::new(kind::PASID_CACHE, pasid_cache_granularity::GLOBAL)
    }

    /// Forgets every translation, after what devices have under way is over (§6.5.2.3).
    pub(crate) const fn forget_translations() -> Self {
        Self::new(kind::IOTLB, iotlb_granularity::GLOBAL).draining()
    }

    /// Forgets every translation of a space, tables included. A first stage is that of PASID 0.
    #[inline]
    pub(crate) const fn forget_space(name: Name) -> Self {
        let mut command = match name.second {
            true => Self::new(kind::IOTLB, iotlb_granularity::DOMAIN).draining(),
            false => Self::new(kind::PASID_IOTLB, pasid_iotlb_granularity::PASID),
        };
        command.0[0] |= iotlb::DID.of(name.id as u64);
        command
    }

    /// Forgets 2^`log2` pages of a space from `address` on, which is aligned to that; with `leaves` the tables on the way may stay.
    #[inline]
    pub(crate) const fn forget_pages(name: Name, address: Iova, log2: u8, leaves: bool) -> Self {
        let mut command = match name.second {
            true => Self::new(kind::IOTLB, iotlb_granularity::PAGE).draining(),
            false => Self::new(kind::PASID_IOTLB, pasid_iotlb_granularity::PAGE),
        };
        command.0[0] |= iotlb::DID.of(name.id as u64);
        command.0[1] = iotlb::AM.of(log2 as u64)
            | iotlb::IH.of(leaves as u64)
            | iotlb::ADDR.of(address.raw() >> 12);
        command
    }

    const fn draining(mut self) -> Self {
        self.0[0] |= iotlb::DR.of(1) | iotlb::DW.of(1);
        self
    }
}

// One field serves the descriptors that have it in the same place.
const _: () = assert!(
    context::G.mask() == iotlb::G.mask()
        && context::G.mask() == pasid_iotlb::G.mask()
        && context::G.mask() == pasid_cache::G.mask()
        && iotlb::DID.mask() == pasid_iotlb::DID.mask()
        && iotlb::AM.mask() == pasid_iotlb::AM.mask()
        && iotlb::IH.mask() == pasid_iotlb::IH.mask()
        && iotlb::ADDR.mask() == pasid_iotlb::ADDR.mask()
);

impl From<Command> for Words {
    #[inline]
    fn from(command: Command) -> Self {
        command.0
    }
}
