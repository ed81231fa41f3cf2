//! The document that `show --json` prints. Field names and meanings are stable; fields may be added.

use portcullis_firmware::{DescribedDevice, Finding, IommuNode, MachineDescription};
use portcullis_testbed::IommuDriver;
use serde::Serialize;

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
    /// What is wrong or surprising, worst first.
    findings: Vec<Remark>,
}

/// One IOMMU.
#[derive(Debug, Serialize)]
struct Iommu {
    /// Full path.
    path: String,
    /// From the most to the least specific.
    compatible: Vec<String>,
    /// Whether it and every node above it are enabled.
    enabled: bool,
    /// The driver that serves it; null where there is none.
    driver: Option<&'static str>,
    /// `#iommu-cells`; null where it is missing or malformed.
    cells: Option<u32>,
}

/// One device.
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
    Document {
        board: machine.board.clone(),
        model: machine.model.clone(),
        iommus: machine.iommus.iter().map(iommu).collect(),
        devices: machine.devices.iter().map(|it| device(machine, it)).collect(),
        findings: machine.findings.iter().map(remark).collect(),
    }
}

fn iommu(iommu: &IommuNode) -> Iommu {
    Iommu {
        path: iommu.path.clone(),
        compatible: iommu.compatible.clone(),
        enabled: iommu.enabled,
        driver: IommuDriver::of(iommu).map(|driver| driver.name),
        cells: iommu.cells,
    }
}

fn device(machine: &MachineDescription, device: &DescribedDevice) -> Device {
    let path_of = |node| machine.iommu_path(node).to_owned();
    let streams = device.streams.iter().map(|stream| Stream {
        iommu: path_of(stream.iommu),
        id: stream.id.raw(),
        mask: stream.mask,
    });
    let maps = device.bus.iter().flat_map(|bus| bus.maps()).map(|map| Map {
        rid_base: map.rid_base,
        iommu: path_of(map.iommu),
        id_base: map.id_base,
        length: map.length,
    });
    Device {
        path: device.description.path.clone(),
        enabled: device.enabled,
        streams: streams.collect(),
        maps: maps.collect(),
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
