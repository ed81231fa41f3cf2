//! What a device can do, and which of it is used (§2.2, §5.13.3, §5.13.4).

use crate::error::BringUpCause;
use crate::hooks::{Safeguard, omitted};
use crate::unit::Unit;
use portcullis_addr::{PageSize, PageSizes};
use portcullis_platform::{Platform, Registers};
use portcullis_spec::virtio::iommu::{config, feature};
use portcullis_spec::virtio::{feature as common, status};

/// What a device can do, after features were agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The features that are in use, as bits of the document.
    pub accepted: u64,
    /// The smallest page.
    pub granule: PageSize,
    /// The sizes of pages that it takes.
    pub page_sizes: PageSizes,
    /// First and last input address.
    pub input: (u64, u64),
    /// First and last domain.
    pub domains: (u32, u32),
    /// Bytes of an endpoint's properties; 0 where it cannot be asked for them.
    pub probe_bytes: u32,
}

/// What the driver accepts where it is offered. Never [`feature::BYPASS`], with which endpoints that are attached to nothing would bypass.
const WANTED: u64 = common::VERSION_1
    | common::ACCESS_PLATFORM
    | common::ORDER_PLATFORM
    | feature::INPUT_RANGE
    | feature::DOMAIN_RANGE
    | feature::MAP_UNMAP
    | feature::PROBE
    | feature::MMIO
    | feature::BYPASS_CONFIG;

/// More bytes of properties than this are not asked for; QEMU has 512.
const MOST_PROBE_BYTES: u32 = 1 << 16;

impl Features {
    /// Whether the device knows the field `bypass`, and domains that pass addresses unchanged.
    pub fn closes_bypass(&self) -> bool {
        self.accepted & feature::BYPASS_CONFIG != 0
    }

    /// Whether a MAP says that its target is device memory.
    pub fn tells_mmio(&self) -> bool {
        self.accepted & feature::MMIO != 0
    }

    /// Bits of input addresses that are all usable, but for those below the first; at most 48.
    pub fn input_bits(&self) -> u8 {
        let beyond = self.input.1.checked_add(1);
        beyond.map_or(48, |beyond| beyond.ilog2().min(48) as u8)
    }
}

/// Agrees on features with a device that was reset, and closes the bypass.
pub(crate) fn negotiate<P: Platform, R: Registers>(unit: &Unit<P, R>) -> Result<u64, BringUpCause> {
    unit.set_status(status::ACKNOWLEDGE);
    unit.set_status(status::ACKNOWLEDGE | status::DRIVER);
    let offered = unit.offered();
    for (bit, name) in [
        (common::VERSION_1, "VIRTIO_F_VERSION_1 (it is a legacy device)"),
        (feature::MAP_UNMAP, "VIRTIO_IOMMU_F_MAP_UNMAP"),
    ] {
        if offered & bit == 0 {
            return Err(BringUpCause::Lacks { feature: name });
        }
    }
    let accepted = offered & WANTED;
    unit.accept(accepted);
    unit.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
    if unit.status() & status::FEATURES_OK == 0 {
        return Err(BringUpCause::FeaturesRefused { accepted });
    }
    if accepted & feature::BYPASS_CONFIG != 0 && !omitted::<P>(Safeguard::CloseBypass) {
        unit.set_config8(config::BYPASS, 0);
        match unit.config8(config::BYPASS) {
            0 => {}
            found => return Err(BringUpCause::BypassOpen { found }),
        }
    }
    Ok(accepted)
}

/// Reads the configuration.
pub(crate) fn identify<P: Platform, R: Registers>(
    unit: &Unit<P, R>,
    accepted: u64,
) -> Result<Features, BringUpCause> {
    let has = |bit: u64| accepted & bit != 0;
    let (mask, input, domains, probe_bytes) = unit.consistent(|| {
        let input = (unit.config64(config::INPUT_START), unit.config64(config::INPUT_END));
        let domains = (unit.config32(config::DOMAIN_START), unit.config32(config::DOMAIN_END));
        (unit.config64(config::PAGE_SIZE_MASK), input, domains, unit.config32(config::PROBE_SIZE))
    })?;
    let input = if has(feature::INPUT_RANGE) { input } else { (0, u64::MAX) };
    let domains = if has(feature::DOMAIN_RANGE) { domains } else { (0, u32::MAX) };
    let probe_bytes = if has(feature::PROBE) { probe_bytes } else { 0 };
    let wrong = |field, value| Err(BringUpCause::Configuration { field, value });
    let granule = PageSize::from_log2(mask.trailing_zeros() as u8).filter(|_| mask != 0);
    let Some(granule) = granule else { return wrong("page_size_mask", mask) };
    // A page of input addresses at least, and a domain besides the one that passes addresses unchanged.
    if input.1.saturating_sub(input.0) < granule.bytes() - 1 {
        return wrong("input_range.end", input.1);
    }
    if domains.1 <= domains.0 {
        return wrong("domain_range.end", domains.1.into());
    }
    if probe_bytes > MOST_PROBE_BYTES {
        return wrong("probe_size", probe_bytes.into());
    }
    let larger = [PageSize::SIZE_2M, PageSize::SIZE_1G].into_iter();
    let larger = larger.filter(|it| granule == PageSize::SIZE_4K && mask & it.bytes() != 0);
    let sizes: alloc::vec::Vec<PageSize> = core::iter::once(granule).chain(larger).collect();
    let page_sizes = PageSizes::of(&sizes);
    Ok(Features { accepted, granule, page_sizes, input, domains, probe_bytes })
}
