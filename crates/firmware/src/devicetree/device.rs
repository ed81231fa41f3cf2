//! The devices: everything that firmware says of one, put together.

use super::address::Addresses;
use super::functions::{self, Listed};
use super::iommus::find;
use super::reserved::Regions;
use super::streams::{self, Streams};
use super::tree::{Node, Tree};
use super::{map, msi, windows};
use crate::machine::{DescribedDevice, IommuKind, IommuNode, MsiMap};
use crate::pci::{PciBus, PciFunction, RequesterId};
use crate::problem::{Findings, Problem};
use crate::reserved::{Reserved, Span};
use crate::rules::rule;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use portcullis::{DeviceDescription, DmaPath, FwNode, FwSpec, ReservedRegion};

pub(super) struct Reader<'r, 't, 'a> {
    pub(super) tree: &'t Tree<'a>,
    pub(super) iommus: &'r [IommuNode],
    pub(super) regions: &'r Regions,
    /// Nodes that `mmu-masters` names, ascending, each with the IOMMU.
    pub(super) legacy: &'r [(FwNode, FwNode)],
    pub(super) addresses: &'r mut Addresses<'t, 'a>,
    pub(super) findings: &'r mut Findings,
}

impl<'r, 't, 'a> Reader<'r, 't, 'a> {
    /// The device at `node`, if it is one that the core is to be told about.
    pub(super) fn read(&mut self, node: Node<'t, 'a>) -> Option<DescribedDevice> {
        let streams = node.property("iommus").map(|it| streams::read(self.tree, self.iommus, it));
        let map = node.property("iommu-map").map(|it| map::read(self.tree, self.iommus, node, it));
        let legacy = self.legacy.binary_search_by_key(&node.id(), |(client, _)| *client).ok();
        let marked = node.has("portcullis,client");
        if streams.is_none() && map.is_none() && legacy.is_none() && !marked {
            return None;
        }
        let path = node.path();
        let streams = streams.unwrap_or_default();
        let problem = self.problems(node, &path, &streams, map.as_ref(), legacy);
        let msi = self.msi(node, &path);
        let placeholder = matches!(&map, Some(Ok(map)) if map.placeholder);
        let bus = map.and_then(Result::ok).map(|map| map.bus);
        let own = !streams.streams.is_empty();
        let template = self.template(node, path, problem.is_none(), own);
        let dma = match (problem, &bus) {
            (Some(problem), _) => DmaPath::Unusable(problem.what),
            (None, Some(bus)) if !own => self.path_of_bus(node, &template.path, bus, placeholder),
            (None, _) => self.path_of_streams(node, &template.path, &streams),
        };
        let doorbells = msi.iter().filter_map(|map| map.doorbell).collect();
        let description = DeviceDescription { dma, doorbells, ..template };
        let functions = match &bus {
            Some(bus) if !matches!(description.dma, DmaPath::Unusable(_)) && !placeholder => {
                self.functions(node, bus, &description, own)
            }
            _ => Vec::new(),
        };
        Some(DescribedDevice {
            node: node.id(),
            description,
            enabled: node.enabled(),
            compatible: node.owned_strings("compatible"),
            streams: streams.streams,
            bus,
            functions,
            msi,
        })
    }

    /// Reports everything wrong with the device; gives the first reason not to use it.
    fn problems(
        &mut self,
        node: Node<'t, 'a>,
        path: &str,
        streams: &Streams,
        map: Option<&Result<map::Map, Problem>>,
        legacy: Option<usize>,
    ) -> Option<Problem> {
        let mut problems: Vec<Problem> = streams.problem.iter().cloned().collect();
        problems.extend(self.mixture(&streams.iommus));
        match map {
            Some(Ok(map)) => {
                problems.extend(self.unusable_targets(&map.bus));
                problems.extend(self.remark_map(node, path, map));
            }
            Some(Err(problem)) => problems.push(problem.clone()),
            None => {}
        }
        let legacy = legacy.and_then(|at| self.legacy.get(at));
        if let Some(iommu) = legacy.and_then(|(_, iommu)| find(self.iommus, *iommu)) {
            problems.push(Problem::new(
                rule::MMU_MASTERS,
                format!("`mmu-masters` of {} names it, and that binding is not read", iommu.path),
                "give it an `iommus`",
            ));
        }
        let bus = if map.is_some() { Some(node) } else { self.addresses.dma_parent(node) };
        problems.extend(bus.and_then(|bus| self.addresses.dma_bits(bus).err()));
        problems.extend(self.regions.of(self.tree, node).err());
        for problem in &problems {
            self.findings.refuse(node.enabled(), path, problem);
        }
        if let Some(message) = self.several(&streams.iommus).filter(|_| node.enabled()) {
            self.findings.note(path, rule::SEVERAL_IOMMUS, message);
        }
        if let Some(stream) = streams.duplicate.filter(|_| node.enabled()) {
            let message =
                format!("`iommus` names stream {} more than once; it counts once", stream.spec());
            self.findings.note(path, rule::DUPLICATE_STREAM, message);
        }
        problems.into_iter().next()
    }

    /// Says that several SMMUs stand in front of a device, where they do and can be used.
    fn several(&self, named: &[FwNode]) -> Option<String> {
        let smmu = |node: &FwNode| {
            let iommu = find(self.iommus, *node)?;
            let kinds = [IommuKind::SmmuV2, IommuKind::SmmuV3];
            (iommu.enabled && iommu.unusable.is_none() && kinds.contains(&iommu.kind))
                .then_some(&iommu.path)
        };
        let smmus: Vec<_> = named.iter().filter_map(smmu).collect();
        let [first, second, ..] = smmus[..] else { return None };
        Some(format!(
            "its streams lead to {first} and {second}: each must translate for it; Linux programs all ids into the first"
        ))
    }

    /// Reports what a map that could be read leaves out; gives a problem where it leaves out everything.
    fn remark_map(&mut self, node: Node<'t, 'a>, path: &str, map: &map::Map) -> Option<Problem> {
        if map.placeholder {
            if node.enabled() {
                let message = "`iommu-map` has length 0, for boot firmware to fill in; until it does, what is on the bus stays blocked";
                self.findings.note(path, rule::IOMMU_MAP_PLACEHOLDER, message);
            }
            return None;
        }
        // Where nothing is left of the map, that is why the bus is blocked, and told as such.
        let whole = map.refused.first().filter(|_| map.bus.maps().is_empty());
        for refused in map.refused.iter().skip(usize::from(whole.is_some())) {
            self.findings.refuse(node.enabled(), path, refused);
        }
        if let Some(index) = map.zero_length {
            let what = format!("`iommu-map` range {index} has length 0 and covers nothing");
            let remedy = "give it a length, or let boot firmware fill it in";
            self.findings.warn(path, &Problem::new(rule::IOMMU_MAP_ZERO_LENGTH, what, remedy));
        }
        if map.one_cell && node.enabled() {
            let message = "`iommu-map` has one id cell per range though its IOMMU asks for two; the second is taken as 0";
            self.findings.note(path, rule::IOMMU_MAP_ONE_CELL, message);
        }
        map.bus.maps().is_empty().then(|| {
            let what = "`iommu-map` covers no requester id at all";
            let empty = || Problem::new(rule::IOMMU_MAP_EMPTY, what, "give a range its length");
            whole.cloned().unwrap_or_else(empty)
        })
    }

    fn msi(&mut self, node: Node<'t, 'a>, path: &str) -> Vec<MsiMap> {
        match msi::read(self.tree, self.addresses, node) {
            Ok(maps) => maps,
            Err(problem) => {
                self.findings.warn(path, &problem);
                Vec::new()
            }
        }
    }

    /// Why a device cannot be behind all of `named` at once, or behind one of them at all.
    fn mixture(&self, named: &[FwNode]) -> Option<Problem> {
        let named: Vec<_> = named.iter().filter_map(|node| find(self.iommus, *node)).collect();
        let first = *named.first()?;
        if let Some(other) = named.iter().find(|iommu| iommu.enabled != first.enabled) {
            return Some(Problem::new(
                rule::PARTLY_DISABLED,
                format!(
                    "`iommus` names {} and {}, of which one is disabled",
                    first.path, other.path
                ),
                "enable both, or name only the enabled one",
            ));
        }
        if let Some(other) = named.iter().find(|iommu| iommu.kind != first.kind) {
            return Some(Problem::new(
                rule::MIXED_IOMMUS,
                format!(
                    "`iommus` names IOMMUs of different kinds, {} and {}",
                    first.path, other.path
                ),
                "put a device behind IOMMUs of one kind",
            ));
        }
        named.into_iter().find_map(unusable)
    }

    fn unusable_targets(&self, bus: &PciBus) -> Option<Problem> {
        bus.maps().iter().find_map(|map| find(self.iommus, map.iommu).and_then(unusable))
    }

    /// All of the description but the DMA path: of a device with streams of its `own`, or of what the functions of a bus share.
    fn template(
        &mut self,
        node: Node<'t, 'a>,
        path: String,
        usable: bool,
        own: bool,
    ) -> DeviceDescription {
        let is_bus = node.has("iommu-map") && !own;
        let bus = if is_bus { Some(node) } else { self.addresses.dma_parent(node) };
        let bits = bus.filter(|_| usable).and_then(|bus| self.addresses.dma_bits(bus).ok());
        let bits = bits.unwrap_or(64);
        let mut spans = self.regions.of(self.tree, node).unwrap_or_default();
        if is_bus && is_pci(node) {
            spans.extend(windows::out_of_reach(node, bits).into_iter().map(Span::kept_free));
        }
        DeviceDescription {
            coherent: self.addresses.coherent(node),
            address_bits: bits,
            reserved: self.reserve(&path, spans),
            ..DeviceDescription::new(path, DmaPath::Direct)
        }
    }

    fn reserve(&mut self, path: &str, spans: Vec<Span>) -> Vec<ReservedRegion> {
        let reserved = Reserved::merged(spans);
        if let Some((first, last)) = reserved.overlap {
            let what = format!("{first:#x}-{last:#x} is to be mapped 1:1 and to be kept free");
            let remedy = "it is mapped; move the region, or mend what keeps it free";
            self.findings.warn(path, &Problem::new(rule::RESERVED_OVERLAP, what, remedy));
        }
        reserved.regions
    }

    /// The path of a device without problems. Only here and in [`Self::path_of_bus`] does one become direct.
    fn path_of_streams(&mut self, node: Node<'t, 'a>, path: &str, streams: &Streams) -> DmaPath {
        let off = self.disabled(streams.iommus.iter().copied());
        if off.is_none() && !streams.streams.is_empty() {
            return DmaPath::Translated(FwSpec { streams: streams.streams.clone() });
        }
        let bus = self.addresses.dma_parent(node);
        let dma = self.direct_below(node, path, bus);
        if let (Some(iommu), DmaPath::Direct) = (off, &dma) {
            self.warn_disabled(node, path, "`iommus`", iommu);
        }
        dma
    }

    /// The path of a bus whose map has no problems: [`PciBus::summary`].
    fn path_of_bus(
        &mut self,
        node: Node<'t, 'a>,
        path: &str,
        bus: &PciBus,
        placeholder: bool,
    ) -> DmaPath {
        if placeholder {
            return DmaPath::Unusable("boot firmware has not filled in its `iommu-map`".into());
        }
        let off = self.disabled(bus.maps().iter().map(|map| map.iommu));
        let Some(iommu) = off else { return bus.summary() };
        let direct = self.direct_below(node, path, Some(node));
        if direct == DmaPath::Direct {
            self.warn_disabled(node, path, "`iommu-map`", iommu);
        }
        if bus.summary() == DmaPath::Direct { direct } else { bus.summary() }
    }

    /// A direct device's addresses are physical ones; where the bus that it is on moves them, it would reach the wrong memory.
    fn direct_below(
        &mut self,
        node: Node<'t, 'a>,
        path: &str,
        bus: Option<Node<'t, 'a>>,
    ) -> DmaPath {
        if !bus.is_some_and(|bus| self.addresses.dma_moves(bus)) {
            return DmaPath::Direct;
        }
        let problem = Problem::new(
            rule::DMA_RANGES,
            "`dma-ranges` above it moves addresses, and no IOMMU in front of it translates",
            "put it behind an IOMMU, or below a bus whose `dma-ranges` are 1:1",
        );
        self.findings.refuse(node.enabled(), path, &problem);
        DmaPath::Unusable(problem.what)
    }

    fn disabled(&self, mut named: impl Iterator<Item = FwNode>) -> Option<&'r IommuNode> {
        let iommus = self.iommus;
        named.find_map(|node| find(iommus, node).filter(|iommu| !iommu.enabled))
    }

    fn warn_disabled(&mut self, node: Node<'t, 'a>, path: &str, property: &str, iommu: &IommuNode) {
        if node.enabled() {
            let what = format!("{property} names {}, which is disabled", iommu.path);
            let remedy = "what is described so reaches memory directly: enable the IOMMU if it is to be held back";
            self.findings.warn(path, &Problem::new(rule::IOMMU_DISABLED, what, remedy));
        }
    }

    /// The functions below a bus: those that the description lists, or the first that the map covers. `own` says that `template` is not of the bus as
    /// such but of the bridge's own streams.
    fn functions(
        &mut self,
        node: Node<'t, 'a>,
        bus: &PciBus,
        template: &DeviceDescription,
        own: bool,
    ) -> Vec<PciFunction> {
        let shared = if own {
            self.template(node, template.path.clone(), true, false)
        } else {
            template.clone()
        };
        let moves = self.addresses.dma_moves(node);
        let below = Below { host: node, bus, shared: &shared, moves };
        let listed = if is_pci(node) { functions::enumerate(node) } else { Vec::new() };
        let mut functions: Vec<_> =
            listed.iter().filter_map(|listed| self.function(&below, listed)).collect();
        if functions.is_empty() {
            let requester = first_requester(bus);
            functions.extend(requester.into_iter().map(|requester| {
                let path = format!("{}/{requester}", shared.path);
                below.function(requester, path, &shared)
            }));
        }
        functions
    }

    /// A listed function as a client; `None` where it is described elsewhere or is none.
    fn function(
        &mut self,
        below: &Below<'_, 't, 'a>,
        listed: &Listed<'t, 'a>,
    ) -> Option<PciFunction> {
        let Listed { node, requester, .. } = *listed;
        // A function with an `iommus` of its own is listed for itself.
        if node.has("iommus") {
            return None;
        }
        let path = node.path();
        let covered = below.bus.stream(requester);
        if let Some(iommu) = find(self.iommus, node.id()) {
            // An IOMMU that is a function of the bus that it serves is left out of the map on purpose.
            let itself = covered.as_ref().is_ok_and(|(map, _)| map.iommu == iommu.node);
            if itself {
                let what = format!("`iommu-map` of {} puts it behind itself", below.shared.path);
                let remedy = "leave its requester id out of the map";
                self.findings.refuse(true, &path, &Problem::new(rule::IOMMU_CYCLE, what, remedy));
            }
            if itself || covered.is_err() {
                return None;
            }
        }
        if listed.again {
            let message = "another node describes the same device and function; that one counts";
            self.findings.note(&path, rule::DUPLICATE_FUNCTION, message);
            return None;
        }
        if covered.is_err() {
            self.remark_uncovered(below, listed, &path);
        }
        let mut own =
            DeviceDescription { coherent: self.addresses.coherent(node), ..below.shared.clone() };
        let regions = match self.regions.of(self.tree, node) {
            Ok(regions) => regions,
            Err(problem) => {
                self.findings.refuse(true, &path, &problem);
                let dma = DmaPath::Unusable(problem.what);
                let description = DeviceDescription { path, dma, ..own };
                return Some(PciFunction { requester, description });
            }
        };
        if !regions.is_empty() {
            let shared = own.reserved.iter().map(Span::of);
            own.reserved = self.reserve(&path, regions.into_iter().chain(shared).collect());
        }
        Some(below.function(requester, path, &own))
    }

    /// The map does not cover the id that enumeration is expected to give. Where it covers another that the function could have, that is no mistake yet.
    fn remark_uncovered(&mut self, below: &Below<'_, 't, 'a>, listed: &Listed<'t, 'a>, path: &str) {
        let (first, last) = functions::bus_range(below.host);
        let function = listed.requester.0 & 0xff;
        let possible = |bus: u32| below.bus.stream(RequesterId((bus << 8) | function)).is_ok();
        let bridge = &below.shared.path;
        if !listed.on_root_bus && (first..=last).any(possible) {
            let message = format!(
                "`iommu-map` of {bridge} does not cover {}, which enumeration gives it where all bridges are described; it stays blocked then",
                listed.requester
            );
            self.findings.note(path, rule::RID_UNCERTAIN, message);
            return;
        }
        let requester = listed.requester;
        if is_pci(listed.node) {
            let message = format!(
                "`iommu-map` of {bridge} does not cover the bridge {requester}, which stays blocked: its own interrupts do not arrive"
            );
            self.findings.note(path, rule::RID_NOT_MAPPED, message);
            return;
        }
        let what = format!("`iommu-map` of {bridge} does not cover requester id {requester}");
        let remedy = "add a range for it; it stays blocked";
        self.findings.warn(path, &Problem::new(rule::RID_NOT_MAPPED, what, remedy));
    }
}

/// The bus that a function is below.
struct Below<'r, 't, 'a> {
    host: Node<'t, 'a>,
    bus: &'r PciBus,
    /// What its functions share.
    shared: &'r DeviceDescription,
    /// Its `dma-ranges` move addresses.
    moves: bool,
}

impl Below<'_, '_, '_> {
    fn function(
        &self,
        requester: RequesterId,
        path: String,
        own: &DeviceDescription,
    ) -> PciFunction {
        let mut description = self.bus.function(path, &[requester], own);
        if self.moves && description.dma == DmaPath::Direct {
            description.dma = DmaPath::Unusable("`dma-ranges` above it moves addresses".into());
        }
        PciFunction { requester, description }
    }
}

/// Whether a node is a PCI bus: by its `device_type`, or, where that is missing, by its name (Linux `of_bus_pci_match`, `of_node_is_pcie`).
pub(super) fn is_pci(node: Node<'_, '_>) -> bool {
    match node.property("device_type") {
        Some(kind) => [b"pci\0".as_slice(), b"pciex\0"].contains(&kind),
        None => node.name().split('@').next() == Some("pcie"),
    }
}

fn unusable(iommu: &IommuNode) -> Option<Problem> {
    let reason = iommu.unusable.as_ref().filter(|_| iommu.enabled)?;
    let what = format!("its IOMMU {} cannot be used: {reason}", iommu.path);
    Some(Problem::new(rule::IOMMU_UNUSABLE, what, "mend the IOMMU's node"))
}

/// The lowest requester id that the map covers.
fn first_requester(bus: &PciBus) -> Option<RequesterId> {
    bus.maps().iter().map(|map| map.rid_base).min().map(RequesterId)
}
