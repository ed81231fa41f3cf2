//! What an access may do.

bitflags::bitflags! {
    /// Permissions and attributes of a mapping.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    #[doc(alias = "IOMMU_READ")]
    pub struct Prot: u8 {
        /// The device may read.
        const READ = 1;
        /// The device may write.
        const WRITE = 1 << 1;
        /// The device's accesses are cache coherent (normal cacheable memory).
        #[doc(alias = "IOMMU_CACHE")]
        const CACHE = 1 << 2;
        /// The device may not fetch instructions.
        #[doc(alias = "IOMMU_NOEXEC")]
        const NOEXEC = 1 << 3;
        /// The target is device memory (a doorbell), not RAM.
        #[doc(alias = "IOMMU_MMIO")]
        const MMIO = 1 << 4;
        /// Only privileged accesses of the device may use the mapping.
        #[doc(alias = "IOMMU_PRIV")]
        const PRIV = 1 << 5;
    }
}
