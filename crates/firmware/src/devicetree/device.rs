//! The devices: everything that firmware says of one, put together.

use super::address::Addresses;
use super::iommus::find;
use super::map;
use super::problem::{Findings, Problem};
use super::reserved::Regions;
use super::streams::{self, Streams};
use super::tree::{Node, Tree, cells};
use crate::finding::rule;
use crate::machine::{DescribedDevice, IommuNode};
use crate::pci::{PciBus, PciFunction, RequesterId};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use portcullis::{DeviceDescription, DmaPath, FwNode, FwSpec};

/// More functions than this are not listed behind one bus.
const MOST_FUNCTIONS: usize = 256;

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
        let template = self.template(node, path, problem.as_ref());
        let bus = map.and_then(Result::ok).map(|map| map.bus);
        let dma = match (problem, &bus) {
            (Some(problem), _) => DmaPath::Unusable(problem.what),
            (None, Some(bus)) if streams.streams.is_empty() => bus.dma_path(&first_requester(bus)),
            (None, _) => self.path_of_streams(node, &template.path, &streams),
        };
        let dma = self.refuse_moved(node, &template.path, dma);
        let description = DeviceDescription { dma, ..template };
        let functions = match &bus {
            Some(bus) if !matches!(description.dma, DmaPath::Unusable(_)) => {
                self.functions(node, bus, &description)
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
                self.remark_map(node, path, map);
                if map.bus.maps().is_empty() {
                    problems.push(Problem::new(
                        rule::IOMMU_MAP_EMPTY,
                        "`iommu-map` covers no requester id at all",
                        "give a range its length",
                    ));
                }
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
        if let Some(stream) = streams.duplicate.filter(|_| node.enabled()) {
            let message = format!("`iommus` names stream {} twice; it counts once", stream.id);
            self.findings.note(path, rule::DUPLICATE_STREAM, message);
        }
        problems.into_iter().next()
    }

    fn remark_map(&mut self, node: Node<'t, 'a>, path: &str, map: &map::Map) {
        if let Some(iommu) = self.disabled(map.bus.maps().iter().map(|map| map.iommu)) {
            self.note_disabled(node, path, "`iommu-map`", iommu);
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

    /// All of the description but the DMA path.
    fn template(
        &mut self,
        node: Node<'t, 'a>,
        path: String,
        problem: Option<&Problem>,
    ) -> DeviceDescription {
        let bus = if node.has("iommu-map") { Some(node) } else { self.addresses.dma_parent(node) };
        let usable = problem.is_none();
        let bits = bus.filter(|_| usable).and_then(|bus| self.addresses.dma_bits(bus).ok());
        DeviceDescription {
            coherent: self.addresses.coherent(node),
            address_bits: bits.unwrap_or(64),
            reserved: self.regions.of(self.tree, node).unwrap_or_default(),
            ..DeviceDescription::new(path, DmaPath::Direct)
        }
    }

    /// The path of a device without problems. Only here does one become direct.
    fn path_of_streams(&mut self, node: Node<'t, 'a>, path: &str, streams: &Streams) -> DmaPath {
        if let Some(iommu) = self.disabled(streams.iommus.iter().copied()) {
            self.note_disabled(node, path, "`iommus`", iommu);
            return DmaPath::Direct;
        }
        if streams.streams.is_empty() {
            return DmaPath::Direct;
        }
        DmaPath::Translated(FwSpec { streams: streams.streams.clone() })
    }

    /// A direct device's addresses are physical ones; where a bus moves them, it would reach the wrong memory.
    fn refuse_moved(&mut self, node: Node<'t, 'a>, path: &str, dma: DmaPath) -> DmaPath {
        let bus = if node.has("iommu-map") { Some(node) } else { self.addresses.dma_parent(node) };
        if dma != DmaPath::Direct || !bus.is_some_and(|bus| self.addresses.dma_moves(bus)) {
            return dma;
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

    fn note_disabled(&mut self, node: Node<'t, 'a>, path: &str, property: &str, iommu: &IommuNode) {
        if node.enabled() {
            let message = format!(
                "{property} names {}, which is disabled: what is described so is not behind it, its DMA is direct",
                iommu.path
            );
            self.findings.note(path, rule::IOMMU_DISABLED, message);
        }
    }

    /// The functions below a bus: those that the description lists, or the first that the map covers.
    fn functions(
        &mut self,
        node: Node<'t, 'a>,
        bus: &PciBus,
        template: &DeviceDescription,
    ) -> Vec<PciFunction> {
        let mut functions = Vec::new();
        let mut seen = alloc::collections::BTreeSet::new();
        let is_pci = node.property("device_type") == Some(b"pci\0");
        for below in node.below().filter(|below| is_pci && below.enabled()) {
            if functions.len() >= MOST_FUNCTIONS {
                break;
            }
            let Some(requester) = requester_of(below) else { continue };
            // A function with an `iommus` of its own is listed for itself.
            if below.has("iommus") || !seen.insert(requester) {
                continue;
            }
            let path = below.path();
            if let Err(unmapped) = bus.stream(requester) {
                let problem = Problem::new(
                    rule::RID_NOT_MAPPED,
                    format!(
                        "`iommu-map` of {} does not cover requester id {requester}",
                        template.path
                    ),
                    "add a range for it; it stays blocked",
                );
                debug_assert_eq!(unmapped.requester, requester);
                self.findings.warn(&path, &problem);
            }
            let own =
                DeviceDescription { coherent: self.addresses.coherent(below), ..template.clone() };
            let description = bus.function(path, &[requester], &own);
            functions.push(PciFunction { requester, description });
        }
        if functions.is_empty() {
            let requesters = first_requester(bus);
            let listed = requesters.iter().map(|requester| PciFunction {
                requester: *requester,
                description: bus.function(
                    format!("{}/{requester}", template.path),
                    &[*requester],
                    template,
                ),
            });
            functions.extend(listed);
        }
        functions
    }
}

fn unusable(iommu: &IommuNode) -> Option<Problem> {
    let reason = iommu.unusable.as_ref().filter(|_| iommu.enabled)?;
    let what = format!("its IOMMU {} cannot be used: {reason}", iommu.path);
    Some(Problem::new(rule::IOMMU_UNUSABLE, what, "mend the IOMMU's node"))
}

/// The lowest requester id that the map covers; empty where it covers none.
fn first_requester(bus: &PciBus) -> Vec<RequesterId> {
    let lowest = bus.maps().iter().map(|map| map.rid_base).min();
    lowest.map(RequesterId).into_iter().collect()
}

/// A PCI function's requester id: bits 23..8 of the first of the five cells of its `reg` (IEEE 1275 PCI bus binding 2.1, section 2.2.1.1).
fn requester_of(node: Node<'_, '_>) -> Option<RequesterId> {
    let cells = cells(node.property("reg")?).filter(|cells| cells.len() >= 5)?;
    let first = *cells.first()?;
    (node.own_cells().address == 3).then_some(RequesterId((first >> 8) & 0xffff))
}
