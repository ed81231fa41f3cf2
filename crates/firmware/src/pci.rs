//! Requester ids and the map that turns them into stream ids.

use crate::reserved::{Reserved, Span};
use crate::spans::Spans;
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
    segment: u16,
    scopes: Vec<PciScope>,
    rest: Option<FwNode>,
    /// First and last requester id, and what is reserved of the address space of each function among them.
    regions: Vec<(u32, u32, Span)>,
    ats: Option<bool>,
}

/// Functions that a table names by the way to them, through bridges whose bus numbers only enumeration knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciScope {
    /// The unit that they are behind.
    pub iommu: FwNode,
    /// The bus on which the way begins.
    pub start_bus: u8,
    /// Device and function of each hop.
    pub path: Vec<(u8, u8)>,
    /// The last hop is a bridge, and all that is below it is meant as well.
    pub below: bool,
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
        let (scopes, regions) = (Vec::new(), Vec::new());
        Ok(Self { mask, maps, by_rid, segment: 0, scopes, rest: None, regions, ats: None })
    }

    /// A bus of which nothing is described.
    pub(crate) fn empty() -> Self {
        let (maps, by_rid, scopes, regions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { mask: u32::MAX, maps, by_rid, segment: 0, scopes, rest: None, regions, ats: None }
    }

    /// The same with what ACPI tables say besides.
    pub(crate) fn of_segment(
        self,
        segment: u16,
        scopes: Vec<PciScope>,
        rest: Option<FwNode>,
        regions: Vec<(u32, u32, Span)>,
        ats: Option<bool>,
    ) -> Self {
        Self { segment, scopes, rest, regions, ats, ..self }
    }

    /// Whether any IOMMU is described for what is on it.
    pub fn is_described(&self) -> bool {
        !self.maps.is_empty() || !self.scopes.is_empty() || self.rest.is_some()
    }

    /// Its PCI segment; 0 where the description knows of none.
    #[doc(alias = "domain")]
    pub fn segment(&self) -> u16 {
        self.segment
    }

    /// Whether address translation services are supported; `None` where the description does not say.
    pub fn ats(&self) -> Option<bool> {
        self.ats
    }

    /// Scopes that [`Self::resolve`] is to resolve.
    pub fn scopes(&self) -> &[PciScope] {
        &self.scopes
    }

    /// The same bus after enumeration: `secondary` gives the secondary and subordinate bus number of the bridge with a requester id, or `None` where
    /// there is no such bridge. What a scope means then leads to its unit, and everything that no unit names to the unit of the rest.
    ///
    /// A scope whose way is not there means nothing. An endpoint counts more than a bridge that it is below, a later scope more than an earlier one.
    pub fn resolve(&self, secondary: impl Fn(RequesterId) -> Option<(u8, u8)>) -> Self {
        let mut spans = Spans::default();
        let found = |scope: &&PciScope| scope.requester(&secondary);
        for below in [true, false] {
            for scope in self.scopes.iter().filter(|scope| scope.below == below) {
                let Some(RequesterId(rid)) = found(&scope) else { continue };
                spans.set(rid, rid, (scope.iommu, rid, false));
                if let Some((first, last)) = secondary(RequesterId(rid)).filter(|_| below) {
                    let (first, last) = (u32::from(first) << 8, (u32::from(last) << 8) | 0xff);
                    spans.set(first, last, (scope.iommu, first, false));
                }
            }
        }
        // Named without a bridge on the way, or surely of the rest: as before, unless a bridge's range took it over.
        for map in &self.maps {
            let named = Some(map.iommu) != self.rest;
            let way = (map.iommu, map.id_base, map.constant);
            if named {
                spans.set(map.rid_base, map.rid_last(), way);
            }
        }
        if let Some(rest) = self.rest {
            spans.fill(0, 0xffff, &(rest, 0, false));
        }
        let maps: Vec<_> =
            spans.iter().map(|(first, last, way)| self.map_of(first, last, *way)).collect();
        let bus = Self::new(self.mask, maps).unwrap_or_else(|_| Self::empty());
        bus.of_segment(self.segment, Vec::new(), self.rest, self.regions.clone(), self.ats)
    }

    /// What became of a range or a part of one: the unit, the id that its first id had, and whether all have that id.
    fn map_of(
        &self,
        first: u32,
        last: u32,
        (iommu, id_base, constant): (FwNode, u32, bool),
    ) -> IommuMap {
        let length = last.saturating_sub(first).saturating_add(1);
        let named =
            self.stream(RequesterId(first)).ok().filter(|(map, _)| map.iommu == iommu && !constant);
        let id_base = match named {
            Some((_, stream)) => stream.id.raw(),
            None if constant => id_base,
            None => first,
        };
        IommuMap { rid_base: first, iommu, id_base, length, constant, mask: 0, iommu_enabled: true }
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
        let mut own = DeviceDescription {
            path: path.into(),
            dma: self.dma_path(requesters),
            ..template.clone()
        };
        let is_for = |(first, last, _): &&(u32, u32, Span)| {
            requesters.iter().any(|requester| (*first..=*last).contains(&requester.0))
        };
        let regions: Vec<Span> =
            self.regions.iter().filter(is_for).map(|(_, _, span)| *span).collect();
        if !regions.is_empty() {
            let shared = template.reserved.iter().map(Span::of);
            own.reserved = Reserved::merged(regions.into_iter().chain(shared)).regions;
        }
        own
    }
}

impl PciScope {
    /// The requester id at the end of its way.
    fn requester(
        &self,
        secondary: impl Fn(RequesterId) -> Option<(u8, u8)>,
    ) -> Option<RequesterId> {
        let (last, bridges) = self.path.split_last()?;
        let mut bus = self.start_bus;
        for (device, function) in bridges {
            (bus, _) = secondary(RequesterId::pci(bus, *device, *function))?;
        }
        Some(RequesterId::pci(bus, last.0, last.1))
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
