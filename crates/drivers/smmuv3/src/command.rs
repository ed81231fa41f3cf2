//! Commands as this driver sends them (Arm IHI 0070, chapter 4).

use portcullis_addr::{Iova, StreamId};
use portcullis_spec::smmuv3::command::{self as spec, cfgi, opcode, tlbi};

/// One command, as it stands in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Command(pub(crate) [u64; spec::WORDS]);

impl Command {
    #[inline]
    const fn new(opcode: u64) -> Self {
        Self([spec::OPCODE.of(opcode), 0])
    }

    /// Waits for all before it; completion shows in the read index (§4.7.3).
    #[inline]
    pub(crate) const fn sync() -> Self {
        Self::new(opcode::SYNC)
    }

    /// Forgets the entry of a stream, the descriptor that led to it, and every context descriptor that was fetched through it (§4.3.1).
    #[inline]
    pub(crate) const fn cfgi_ste(stream: StreamId) -> Self {
        let mut command = Self::new(opcode::CFGI_STE);
        cfgi::STREAM_ID.write(&mut command.0, stream.raw() as u64);
        command
    }

    /// Forgets every configuration (§4.3.2).
    #[inline]
    pub(crate) const fn cfgi_all() -> Self {
        let mut command = Self::new(opcode::CFGI_STE_RANGE);
        cfgi::RANGE.write(&mut command.0, spec::CFGI_ALL_RANGE);
        command
    }

    /// Forgets every EL2 translation (§4.4.2.7).
    #[inline]
    pub(crate) const fn tlbi_el2_all() -> Self {
        Self::new(opcode::TLBI_EL2_ALL)
    }

    /// Forgets every EL1 translation (§4.4.4.1).
    #[inline]
    pub(crate) const fn tlbi_nsnh_all() -> Self {
        Self::new(opcode::TLBI_NSNH_ALL)
    }

    /// Forgets everything tagged with an ASID (§4.4.2.2); stage 1 streams use VMID 0.
    #[inline]
    pub(crate) const fn tlbi_asid(asid: u16) -> Self {
        let mut command = Self::new(opcode::TLBI_NH_ASID);
        tlbi::ASID.write(&mut command.0, asid as u64);
        command
    }

    /// Forgets everything tagged with a VMID (§4.4.3.2).
    #[inline]
    pub(crate) const fn tlbi_vmid(vmid: u16) -> Self {
        let mut command = Self::new(opcode::TLBI_S12_VMALL);
        tlbi::VMID.write(&mut command.0, vmid as u64);
        command
    }

    /// Forgets one address of an ASID (§4.4.2.4).
    #[inline]
    pub(crate) const fn tlbi_va(asid: u16, address: Iova, leaf: bool) -> Self {
        let mut command = Self::new(opcode::TLBI_NH_VA);
        tlbi::ASID.write(&mut command.0, asid as u64);
        command.at(address, leaf)
    }

    /// Forgets one intermediate address of a VMID (§4.4.3.1).
    #[inline]
    pub(crate) const fn tlbi_ipa(vmid: u16, address: Iova, leaf: bool) -> Self {
        let mut command = Self::new(opcode::TLBI_S2_IPA);
        tlbi::VMID.write(&mut command.0, vmid as u64);
        command.at(address, leaf)
    }

    #[inline]
    const fn at(mut self, address: Iova, leaf: bool) -> Self {
        tlbi::LEAF.write(&mut self.0, leaf as u64);
        self.0[1] |= tlbi::ADDRESS.in_place(address.raw());
        self
    }

    /// Widens an address invalidation to `(num + 1) << scale` granules of `granule`, all leaves at `level` (0: unknown) (§4.4.1.1).
    #[inline]
    pub(crate) const fn over(mut self, granule: u64, num: u64, scale: u64, level: u64) -> Self {
        tlbi::TG.write(&mut self.0, granule);
        tlbi::NUM.write(&mut self.0, num);
        tlbi::SCALE.write(&mut self.0, scale);
        tlbi::TTL.write(&mut self.0, level);
        self
    }
}
