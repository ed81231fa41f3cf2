//! The document that `show --json` prints. Field names and meanings are stable; fields may be added.

use super::human::may_run;
use super::verdict::{Verdict, of_client, of_device};
use portcullis::{DmaPath, FwStream, ReservedKind};
use portcullis_addr::PhysRange;
use portcullis_firmware::acpi::mcfg::ConfigSpace;
use portcullis_firmware::{
    DescribedDevice, Finding, InterruptSource, IommuKind, IommuMap, IommuNode, MachineDescription,
    MsiMap, PciFunction, SourceKind, function_groups, sharing,
};
use portcullis_testbed::{IommuDriver, quirk_words};
use serde::Serialize;
use std::collections::BTreeMap;

/// The whole document.
#[derive(Debug, Serialize)]
pub(crate) struct Document {
    /// The board's name: the file's stem.
    board: String,
    /// The root node's `model`; empty where there is none.
    model: String,
    /// Every IOMMU, in the description's order.
    iommus: Vec<Iommu>,
    /// Every device with `iommus` or `iommu-map`, in the description's order, disabled ones included.
    devices: Vec<Device>,
    /// Enabled devices that name no IOMMU and look as if they did DMA, in the description's order; none from ACPI.
    direct: Vec<Direct>,
    /// Main memory.
    memory: Vec<Range>,
    /// I/O APICs and timer blocks, with the unit that would remap their interrupts (ACPI).
    interrupt_sources: Vec<Source>,
    /// Where PCI configuration space is mapped (ACPI).
    config_spaces: Vec<Space>,
    /// What is wrong or surprising, worst first.
    findings: Vec<Remark>,
}

/// What is not a PCI function and writes interrupts.
#[derive(Debug, Serialize)]
struct Source {
    /// `ioapic` or `hpet`.
    kind: &'static str,
    /// I/O APIC id or HPET number.
    id: u8,
    /// PCI segment of its requester id.
    segment: u16,
    /// Null where only enumeration can tell.
    requester: Option<u32>,
    /// Path of the unit.
    iommu: String,
}

/// Configuration space of some buses.
#[derive(Debug, Serialize)]
struct Space {
    segment: u16,
    first_bus: u8,
    last_bus: u8,
    /// Address of bus 0's.
    base: u64,
}

/// Addresses, first to last.
#[derive(Debug, Serialize)]
struct Range {
    first: u64,
    last: u64,
}

/// One device that is behind no IOMMU.
#[derive(Debug, Serialize)]
struct Direct {
    /// Full path.
    path: String,
    /// By what it shows that it does DMA.
    because: &'static str,
}

/// One IOMMU.
#[derive(Debug, Serialize)]
struct Iommu {
    /// Full path.
    path: String,
    /// From the most to the least specific.
    compatible: Vec<String>,
    /// `smmuv3`, `smmuv2` (also MMU-400 and 500), `vt-d`, `amd-vi`, `riscv`, `virtio` or `other`.
    kind: &'static str,
    /// Whether it and every node above it are enabled.
    enabled: bool,
    /// The driver that serves it; null where there is none.
    driver: Option<&'static str>,
    /// `#iommu-cells`; null where it is missing or malformed.
    cells: Option<u32>,
    /// Its registers, as the CPU sees them; null where they are not known.
    registers: Option<Range>,
    /// Whether its table walks snoop the CPU's caches.
    coherent: bool,
    /// Defects and peculiarities that the description names, and what its driver knows the integration for.
    quirks: Vec<&'static str>,
    /// Why it cannot be used; null where it can.
    unusable: Option<String>,
}

/// One device or bus.
#[derive(Debug, Serialize)]
struct Device {
    /// Full path.
    path: String,
    /// Whether it and every node above it are enabled.
    enabled: bool,
    /// `iommus`.
    streams: Vec<Stream>,
    /// `iommu-map`.
    maps: Vec<Map>,
    /// `iommu-map-mask`; null where there is no map.
    map_mask: Option<u32>,
    /// The functions of a bus.
    functions: Vec<Function>,
    /// Devices with one number share a stream.
    group: usize,
    /// `translated`, `direct`, `blocked`, `mixed`; empty for a disabled device.
    dma: &'static str,
    /// Why; empty where it is translated.
    because: String,
    /// Whether it snoops the CPU's caches.
    coherent: bool,
    /// Width in bits of the addresses that reach memory.
    address_bits: u8,
    /// Ranges of its address space that are spoken for.
    reserved: Vec<Reserved>,
    /// Whether firmware may have left it running, behind an SMMUv2: see `boot --firmware-streams`.
    may_run: bool,
    /// `msi-map` or `msi-parent`.
    msi: Vec<Msi>,
}

/// One entry of `iommus`.
#[derive(Debug, Serialize)]
struct Stream {
    /// Path of the IOMMU.
    iommu: String,
    /// The stream id; 0 for an IOMMU with `#iommu-cells = <0>`.
    id: u32,
    /// Bits of `id` that are ignored.
    mask: u32,
}

/// One range of `iommu-map`.
#[derive(Debug, Serialize)]
struct Map {
    /// First requester id.
    rid_base: u32,
    /// Path of the IOMMU.
    iommu: String,
    /// The stream id of `rid_base`.
    id_base: u32,
    /// Number of ids.
    length: u32,
    /// Bits of the stream ids that are ignored.
    mask: u32,
    /// Whether all requester ids of the range become `id_base`.
    constant: bool,
}

/// One function of a bus.
#[derive(Debug, Serialize)]
struct Function {
    /// Full path.
    path: String,
    /// Its requester id.
    requester: u32,
    /// The same as bus:device.function.
    address: String,
    /// Its streams, where it is translated.
    streams: Vec<Stream>,
    /// Path of the first function of its group: hardware cannot tell them apart, or not isolate them. Null for one that is alone.
    group: Option<String>,
    /// As of a device.
    dma: &'static str,
    /// As of a device.
    because: String,
}

/// A range of a device's address space.
#[derive(Debug, Serialize)]
struct Reserved {
    first: u64,
    last: u64,
    /// `direct` (mapped 1:1) or `reserved` (kept free).
    kind: &'static str,
}

/// Where message-signalled interrupts go.
#[derive(Debug, Serialize)]
struct Msi {
    /// Path of the interrupt controller.
    controller: String,
    /// The address that devices write to; null where it is not known.
    doorbell: Option<u64>,
    /// First requester id of the range; null where all interrupts of the device go there.
    rid_base: Option<u32>,
    /// The id that `rid_base` becomes.
    id_base: Option<u32>,
    /// Number of ids.
    length: Option<u32>,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Remark {
    /// `error`, `warning` or `note`.
    severity: String,
    /// Full path of the node that it is about.
    path: String,
    /// Stable id.
    rule: &'static str,
    /// Which property, what is wrong, what to do.
    message: String,
}

/// The document for `machine`.
pub(super) fn document(machine: &MachineDescription) -> Document {
    let groups = sharing(machine);
    let functions = first_members(machine);
    Document {
        board: machine.board.clone(),
        model: machine.model.clone(),
        iommus: machine.iommus.iter().map(iommu).collect(),
        devices: machine
            .devices
            .iter()
            .zip(groups)
            .zip(functions)
            .map(|((it, group), functions)| device(machine, it, group, &functions))
            .collect(),
        direct: machine
            .direct
            .iter()
            .map(|it| Direct { path: it.path.clone(), because: it.because })
            .collect(),
        memory: machine.memory.iter().map(range).collect(),
        interrupt_sources: machine.interrupt_sources.iter().map(|it| source(machine, it)).collect(),
        config_spaces: machine.config_spaces.iter().map(space).collect(),
        findings: machine.findings.iter().map(remark).collect(),
    }
}

fn source(machine: &MachineDescription, source: &InterruptSource) -> Source {
    Source {
        kind: match source.kind {
            SourceKind::IoApic => "ioapic",
            SourceKind::Hpet => "hpet",
        },
        id: source.id,
        segment: source.segment,
        requester: source.requester.map(|requester| requester.0),
        iommu: machine.iommu_path(source.iommu).to_owned(),
    }
}

fn space(space: &ConfigSpace) -> Space {
    let ConfigSpace { base, segment, first_bus, last_bus } = *space;
    Space { segment, first_bus, last_bus, base }
}

fn range(range: &PhysRange) -> Range {
    Range { first: range.start().raw(), last: range.last().raw() }
}

fn iommu(iommu: &IommuNode) -> Iommu {
    Iommu {
        path: iommu.path.clone(),
        compatible: iommu.compatible.clone(),
        kind: match iommu.kind {
            IommuKind::SmmuV3 => "smmuv3",
            IommuKind::SmmuV2 => "smmuv2",
            IommuKind::VtD => "vt-d",
            IommuKind::AmdVi => "amd-vi",
            IommuKind::RiscV => "riscv",
            IommuKind::VirtioIommu => "virtio",
            IommuKind::Other => "other",
        },
        enabled: iommu.enabled,
        driver: IommuDriver::of(iommu).map(|driver| driver.name),
        cells: iommu.cells,
        registers: iommu.registers.as_ref().map(range),
        coherent: iommu.coherent,
        quirks: quirk_words(iommu),
        unusable: iommu.unusable.clone(),
    }
}

/// Of each function of each device the path of the first function of its group; `None` for one that is alone.
fn first_members(machine: &MachineDescription) -> Vec<Vec<Option<String>>> {
    let groups = function_groups(machine);
    let mut members: BTreeMap<usize, (&str, bool)> = BTreeMap::new();
    for (device, groups) in machine.devices.iter().zip(&groups) {
        for (function, group) in device.functions.iter().zip(groups) {
            let known = members.entry(*group).and_modify(|(_, several)| *several = true);
            known.or_insert((&function.description.path, false));
        }
    }
    let first = |group: &usize| {
        members.get(group).filter(|(_, several)| *several).map(|(path, _)| (*path).to_owned())
    };
    groups.iter().map(|groups| groups.iter().map(first).collect()).collect()
}

fn device(
    machine: &MachineDescription,
    device: &DescribedDevice,
    group: usize,
    function_groups: &[Option<String>],
) -> Device {
    let Verdict { word, because } = of_device(machine, device);
    let maps = device.bus.iter().flat_map(|bus| bus.maps());
    Device {
        path: device.description.path.clone(),
        enabled: device.enabled,
        streams: device.streams.iter().map(|it| stream(machine, it)).collect(),
        maps: maps.map(|it| map(machine, it)).collect(),
        map_mask: device.bus.as_ref().map(|bus| bus.mask()),
        functions: device
            .functions
            .iter()
            .enumerate()
            .map(|(at, it)| function(machine, it, function_groups.get(at).cloned().flatten()))
            .collect(),
        group,
        dma: word,
        because,
        coherent: device.description.coherent,
        address_bits: device.description.address_bits,
        reserved: device
            .description
            .reserved
            .iter()
            .map(|region| Reserved {
                first: region.range.start().raw(),
                last: region.range.last().raw(),
                kind: match region.kind {
                    ReservedKind::Direct => "direct",
                    ReservedKind::Reserved => "reserved",
                },
            })
            .collect(),
        may_run: may_run(machine, device),
        msi: device.msi.iter().map(msi).collect(),
    }
}

fn stream(machine: &MachineDescription, stream: &FwStream) -> Stream {
    let iommu = machine.iommu_path(stream.iommu).to_owned();
    Stream { iommu, id: stream.id.raw(), mask: stream.mask }
}

fn map(machine: &MachineDescription, map: &IommuMap) -> Map {
    Map {
        rid_base: map.rid_base,
        iommu: machine.iommu_path(map.iommu).to_owned(),
        id_base: map.id_base,
        length: map.length,
        mask: map.mask,
        constant: map.constant,
    }
}

fn function(
    machine: &MachineDescription,
    function: &PciFunction,
    group: Option<String>,
) -> Function {
    let Verdict { word, because } = of_client(machine, &function.description, true);
    let streams = match &function.description.dma {
        DmaPath::Translated(spec) => spec.streams.as_slice(),
        DmaPath::Direct | DmaPath::Unusable(_) => &[],
    };
    Function {
        path: function.description.path.clone(),
        requester: function.requester.0,
        address: function.requester.to_string(),
        streams: streams.iter().map(|it| stream(machine, it)).collect(),
        group,
        dma: word,
        because,
    }
}

fn msi(msi: &MsiMap) -> Msi {
    Msi {
        controller: msi.controller.clone(),
        doorbell: msi.doorbell.map(|at| at.raw()),
        rid_base: msi.range.map(|(rid, _, _)| rid),
        id_base: msi.range.map(|(_, id, _)| id),
        length: msi.range.map(|(_, _, length)| length),
    }
}

fn remark(finding: &Finding) -> Remark {
    Remark {
        severity: finding.severity.to_string(),
        path: finding.path.clone(),
        rule: finding.rule,
        message: finding.message.clone(),
    }
}
