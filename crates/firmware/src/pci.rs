//! Requester ids and the map that turns them into stream ids.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use portcullis::{DeviceDescription, DmaPath, FwNode, FwSpec, FwStream};
use portcullis_addr::StreamId;

/// The id with which a function on a bus issues its transactions: 16 bits on PCI, up to 32 on other buses that use `iommu-map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(alias = "rid")]
#[doc(alias = "bdf")]
pub struct RequesterId(pub u32);

impl RequesterId {
    /// The PCI function `bus:device.function`; `device` below 32 and `function` below 8, higher bits are ignored.
    pub const fn pci(bus: u8, device: u8, function: u8) -> Self {
        Self(((bus as u32) << 8) | ((device as u32 & 0x1f) << 3) | (function as u32 & 7))
    }
}

impl fmt::Display for RequesterId {
    /// `bus:device.function` for what fits 16 bits, a plain number otherwise.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            rid @ 0..=0xffff => {
                write!(f, "{:02x}:{:02x}.{}", rid >> 8, (rid >> 3) & 0x1f, rid & 7)
            }
            wide => write!(f, "{wide:#x}"),
        }
    }
}

/// One range of a bus's map (devicetree `iommu-map`, an ACPI id mapping): requester ids `rid_base ..= rid_base + (length - 1)` become
/// stream ids from `id_base` on, or all of them `id_base`.
///
/// # Invariants
///
/// `length >= 1`, and neither `rid_base + (length - 1)` nor (unless `constant`) `id_base + (length - 1)` exceeds `u32::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IommuMap {
    /// First requester id, after the mask.
    pub rid_base: u32,
    /// The IOMMU's node.
    pub iommu: FwNode,
    /// The stream id of `rid_base`.
    pub id_base: u32,
    /// Number of ids, at least 1.
    pub length: u32,
    /// Whether every requester id of the range becomes `id_base` itself: the IOMMU cannot tell them apart (`#iommu-cells = <0>`, an alias).
    pub constant: bool,
    /// Bits that the IOMMU ignores when it compares streams (SMMUv2).
    pub mask: u32,
    /// Whether the IOMMU's node is enabled; through a disabled one, transactions pass untranslated.
    pub iommu_enabled: bool,
}

impl IommuMap {
    /// The last requester id of the range.
    pub fn rid_last(&self) -> u32 {
        self.rid_base.saturating_add(self.length.saturating_sub(1))
    }

    /// The stream of requester id `rid_base + offset`, with `offset < length`.
    pub fn stream_at(&self, offset: u32) -> FwStream {
        // The type's invariant: the sum fits 32 bits.
        let id = if self.constant { self.id_base } else { self.id_base.wrapping_add(offset) };
        FwStream { iommu: self.iommu, id: StreamId::new(id), mask: self.mask }
    }
}

/// A requester id that no range of `iommu-map` covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMapped {
    /// The requester id as the bus sees it.
    pub requester: RequesterId,
    /// The same after `iommu-map-mask`.
    pub masked: u32,
}

impl fmt::Display for NotMapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`iommu-map` covers no requester id {}", self.requester)?;
        if self.requester.0 != self.masked {
            write!(f, " ({:#x} after `iommu-map-mask`)", self.masked)?;
        }
        f.write_str("; add a range for it")
    }
}

impl core::error::Error for NotMapped {}

/// How a bus with `iommu-map` (a PCI host bridge, most often) turns requester ids into streams.
///
/// # Invariants
///
/// No two ranges overlap; `by_rid` lists all of them in ascending order of `rid_base`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(alias = "iommu-map")]
pub struct PciBus {
    mask: u32,
    maps: Vec<IommuMap>,
    by_rid: Vec<IommuMap>,
}

impl PciBus {
    /// The bus with these ranges, in the description's order; `mask` is applied to a requester id before it is looked up.
    ///
    /// # Errors
    ///
    /// The two ranges that cover the same requester id, where there are such.
    pub fn new(mask: u32, maps: Vec<IommuMap>) -> Result<Self, (IommuMap, IommuMap)> {
        let mut by_rid = maps.clone();
        by_rid.sort_by_key(|map| map.rid_base);
        for (low, high) in by_rid.iter().zip(by_rid.iter().skip(1)) {
            if low.rid_last() >= high.rid_base {
                return Err((*low, *high));
            }
        }
        Ok(Self { mask, maps, by_rid })
    }

    /// The ranges, in the description's order.
    pub fn maps(&self) -> &[IommuMap] {
        &self.maps
    }

    /// What `iommu-map-mask` keeps of a requester id; all bits where there is no such property.
    pub fn mask(&self) -> u32 {
        self.mask
    }

    /// The range that covers `requester`, and the stream that it becomes.
    ///
    /// # Errors
    ///
    /// [`NotMapped`] where no range covers it. The description says nothing of such a function: it must stay blocked.
    pub fn stream(&self, requester: RequesterId) -> Result<(IommuMap, FwStream), NotMapped> {
        let masked = requester.0 & self.mask;
        let after = self.by_rid.partition_point(|map| map.rid_base <= masked);
        let map = after.checked_sub(1).and_then(|at| self.by_rid.get(at));
        let (map, offset) = map
            .and_then(|map| Some((map, masked.checked_sub(map.rid_base)?)))
            .filter(|(map, offset)| *offset < map.length)
            .ok_or(NotMapped { requester, masked })?;
        Ok((*map, map.stream_at(offset)))
    }

    /// The streams of a function that issues transactions with any of `requesters`: its own id first, then its aliases
    /// (a bridge that replaces ids, a quirk). Equal streams are named once; those of disabled IOMMUs are left out.
    ///
    /// # Errors
    ///
    /// [`NotMapped`] for the first id that no range covers: a function that is described for some of its ids only must stay blocked.
    pub fn fwspec(&self, requesters: &[RequesterId]) -> Result<FwSpec, NotMapped> {
        let mut streams = Vec::new();
        for requester in requesters {
            let (map, stream) = self.stream(*requester)?;
            if map.iommu_enabled && !streams.contains(&stream) {
                streams.push(stream);
            }
        }
        Ok(FwSpec { streams })
    }

    /// The DMA path of a function that issues transactions with any of `requesters`.
    ///
    /// [`DmaPath::Direct`] only where every id leads to a disabled IOMMU; [`DmaPath::Unusable`] where an id is not covered, or
    /// where some lead to an enabled and some to a disabled IOMMU.
    pub fn dma_path(&self, requesters: &[RequesterId]) -> DmaPath {
        let mut enabled = None;
        for requester in requesters {
            match self.stream(*requester) {
                Ok((map, _)) if enabled.is_some_and(|is| is != map.iommu_enabled) => {
                    return DmaPath::Unusable(
                        "`iommu-map` leads its requester ids to an enabled and to a disabled IOMMU"
                            .into(),
                    );
                }
                Ok((map, _)) => enabled = Some(map.iommu_enabled),
                Err(unmapped) => return DmaPath::Unusable(alloc::format!("{unmapped}")),
            }
        }
        match (enabled, self.fwspec(requesters)) {
            (Some(true), Ok(spec)) => DmaPath::Translated(spec),
            (Some(false), Ok(_)) => DmaPath::Direct,
            (None, Ok(_)) => DmaPath::Unusable("it has no requester id".into()),
            (_, Err(unmapped)) => DmaPath::Unusable(alloc::format!("{unmapped}")),
        }
    }

    /// The DMA path of the bus as a whole: translated where any range leads to an enabled IOMMU (with the first stream of the first such
    /// range), direct only where all lead to disabled ones.
    pub fn summary(&self) -> DmaPath {
        let enabled = self.maps.iter().find(|map| map.iommu_enabled);
        match (enabled, self.maps.is_empty()) {
            (Some(map), _) => {
                DmaPath::Translated(FwSpec { streams: alloc::vec![map.stream_at(0)] })
            }
            (None, false) => DmaPath::Direct,
            (None, true) => DmaPath::Unusable("its map covers no requester id".into()),
        }
    }

    /// A function named `path` behind this bus. `template` gives what it shares with the bus: coherency, address width, reserved ranges.
    pub fn function(
        &self,
        path: impl Into<String>,
        requesters: &[RequesterId],
        template: &DeviceDescription,
    ) -> DeviceDescription {
        DeviceDescription { path: path.into(), dma: self.dma_path(requesters), ..template.clone() }
    }
}

/// A function behind a [`PciBus`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciFunction {
    /// The id it issues transactions with.
    pub requester: RequesterId,
    /// What the core is told about it.
    pub description: DeviceDescription,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(rid_base: u32, id_base: u32, length: u32) -> IommuMap {
        IommuMap {
            rid_base,
            iommu: FwNode(7),
            id_base,
            length,
            constant: false,
            mask: 0,
            iommu_enabled: true,
        }
    }

    fn id(bus: &PciBus, rid: u32) -> Option<u32> {
        bus.stream(RequesterId(rid)).ok().map(|(_, stream)| stream.id.raw())
    }

    #[test]
    fn ranges_are_half_open_and_reach_the_top() {
        let bus =
            PciBus::new(u32::MAX, alloc::vec![map(0xffff_0000, 0x10, 0x1_0000), map(8, 0, 8)])
                .expect("no overlap");
        assert_eq!(id(&bus, 7), None);
        assert_eq!(id(&bus, 8), Some(0));
        assert_eq!(id(&bus, 15), Some(7));
        assert_eq!(id(&bus, 16), None);
        assert_eq!(id(&bus, u32::MAX), Some(0x1_000f));
        assert_eq!(bus.maps()[0].rid_base, 0xffff_0000);
    }

    #[test]
    fn a_constant_range_gives_every_requester_one_stream() {
        let constant = IommuMap { constant: true, ..map(8, u32::MAX, 8) };
        let bus = PciBus::new(u32::MAX, alloc::vec![constant]).expect("one range");
        assert_eq!(
            (id(&bus, 8), id(&bus, 15), id(&bus, 16)),
            (Some(u32::MAX), Some(u32::MAX), None)
        );
    }

    #[test]
    fn a_bus_is_direct_only_where_every_range_is() {
        let off = IommuMap { iommu_enabled: false, ..map(0, 0, 8) };
        let both = PciBus::new(u32::MAX, alloc::vec![off, map(8, 0x40, 8)]).expect("no overlap");
        assert!(
            matches!(both.summary(), DmaPath::Translated(spec) if spec.streams[0].id.raw() == 0x40)
        );
        let none = PciBus::new(u32::MAX, alloc::vec![off]).expect("one range");
        assert_eq!(none.summary(), DmaPath::Direct);
    }

    #[test]
    fn mask_comes_first() {
        let bus = PciBus::new(0xff00, alloc::vec![map(0x100, 5, 1)]).expect("one range");
        assert_eq!(id(&bus, 0x1ab), Some(5));
        assert_eq!(id(&bus, 0x2ab), None);
    }

    #[test]
    fn overlap_names_both() {
        let err =
            PciBus::new(u32::MAX, alloc::vec![map(8, 0, 8), map(0, 0, 9)]).expect_err("overlap");
        assert_eq!((err.0.rid_base, err.1.rid_base), (0, 8));
        PciBus::new(u32::MAX, alloc::vec![map(8, 0, 8), map(0, 0, 8)]).expect("adjacent");
    }

    #[test]
    fn an_alias_that_is_not_covered_blocks_the_function() {
        let bus = PciBus::new(u32::MAX, alloc::vec![map(0, 0x40, 16)]).expect("one range");
        let both = bus.fwspec(&[RequesterId(1), RequesterId(2), RequesterId(1)]).expect("covered");
        assert_eq!(both.streams.iter().map(|s| s.id.raw()).collect::<Vec<_>>(), [0x41, 0x42]);
        let path = bus.dma_path(&[RequesterId(1), RequesterId(99)]);
        assert!(matches!(path, DmaPath::Unusable(reason) if reason.contains("00:0c.3")));
        assert!(matches!(bus.dma_path(&[]), DmaPath::Unusable(_)));
    }

    #[test]
    fn requester_ids_read_as_bus_device_function() {
        assert_eq!(RequesterId::pci(1, 2, 3).0, 0x113);
        assert_eq!(alloc::format!("{}", RequesterId(0x113)), "01:02.3");
        assert_eq!(alloc::format!("{}", RequesterId(0x1_0000)), "0x10000");
    }
}
