//! What a device implements.

use portcullis_spec::virtio::iommu::feature;

/// What a virtio-iommu implements, within what the model can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtioProfile {
    /// The features of a virtio-iommu that it offers (5.13.3); those of every modern device come on top.
    pub features: u64,
    /// `page_size_mask`.
    pub page_sizes: u64,
    /// First and last input address.
    pub input: (u64, u64),
    /// First and last domain.
    pub domains: (u32, u32),
    /// Bytes of the properties of an endpoint.
    pub probe_bytes: u32,
    /// Ranges that every endpoint keeps to itself: subtype, first and last address.
    pub reserved: Vec<(u8, u64, u64)>,
    /// Endpoints that do not exist.
    pub absent: Vec<u32>,
    /// Most mappings of a domain.
    pub most_mappings: usize,
    /// Most entries of a queue.
    pub queue_entries: u16,
    /// Out of power-on, endpoints that are attached to nothing bypass.
    pub boot_bypass: bool,
}

impl VirtioProfile {
    /// QEMU's `virtio-iommu-pci` on Arm (10.0), but for its transport.
    pub fn qemu10() -> Self {
        Self {
            features: feature::INPUT_RANGE
                | feature::DOMAIN_RANGE
                | feature::MAP_UNMAP
                | feature::PROBE
                | feature::MMIO
                | feature::BYPASS_CONFIG,
            page_sizes: u64::MAX << 12,
            input: (0, (1 << 48) - 1),
            domains: (0, u32::MAX),
            probe_bytes: 512,
            reserved: Vec::new(),
            absent: Vec::new(),
            most_mappings: usize::MAX,
            queue_entries: 256,
            boot_bypass: true,
        }
    }

    /// As small as can be: four domains and four requests at the same time.
    pub fn small() -> Self {
        Self { domains: (0, 4), probe_bytes: 64, queue_entries: 8, ..Self::qemu10() }
    }

    /// One that does not know the field `bypass`: how it behaves without being driven is fixed.
    pub fn without_bypass_config() -> Self {
        let all = Self::qemu10();
        let features = all.features & !feature::BYPASS_CONFIG | feature::BYPASS;
        Self { features, ..all }
    }
}
