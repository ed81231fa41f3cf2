//! Devices that name no IOMMU and look as if they did DMA.

use super::address::Addresses;
use super::device::is_pci;
use super::tree::{Node, Tree};
use crate::machine::{DescribedDevice, DirectDevice, IommuNode};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use portcullis::FwNode;

/// Generic names of devices that usually do DMA: of the Devicetree Specification, release v0.4, 2.2.2, and of the bindings in Linux 7.2 that go on from there.
const NAMES: [&str; 19] = [
    "camera",
    "crypto",
    "display",
    "display-controller",
    "ethernet",
    "gpu",
    "isp",
    "mmc",
    "npu",
    "nvme",
    "rga",
    "sata",
    "scsi",
    "ufs",
    "ufshc",
    "usb",
    "video-codec",
    "vop",
    "wifi",
];

/// Enabled nodes with registers on the CPU's bus that name no IOMMU, have nobody among `devices` below them, and show by a property or by their name that they do DMA. No property says
/// so for certain.
pub(super) fn read<'t, 'a>(
    tree: &'t Tree<'a>,
    addresses: &Addresses<'t, 'a>,
    iommus: &[IommuNode],
    devices: &[DescribedDevice],
) -> Vec<DirectDevice> {
    let listed: BTreeSet<FwNode> =
        devices.iter().map(|it| it.node).chain(iommus.iter().map(|it| it.node)).collect();
    // A wrapper around a device that is listed (Qualcomm's USB) does none itself.
    let above = devices.iter().filter_map(|it| tree.node(it.node)).flat_map(Node::up);
    let above: BTreeSet<FwNode> = above.map(Node::id).collect();
    let mut found: Vec<DirectDevice> = Vec::new();
    let mut inside: BTreeSet<FwNode> = BTreeSet::new();
    for node in tree.nodes() {
        // What is below one that is listed is a part of it: a port, a hub, a function of a bus.
        let part = node
            .parent()
            .is_some_and(|parent| inside.contains(&parent.id()) || listed.contains(&parent.id()));
        if part {
            inside.insert(node.id());
            continue;
        }
        if listed.contains(&node.id()) || above.contains(&node.id()) || !node.enabled() {
            continue;
        }
        let Some(because) = does_dma(node) else { continue };
        if node.has("compatible") && !addresses.register_windows(node).is_empty() {
            inside.insert(node.id());
            found.push(DirectDevice { path: node.path(), because });
        }
    }
    found
}

/// By what a node shows that it does DMA.
fn does_dma(node: Node<'_, '_>) -> Option<&'static str> {
    if node.has("#dma-cells") {
        return Some("a DMA controller: `#dma-cells`");
    }
    if is_pci(node) {
        return Some("a PCI host bridge");
    }
    if node.has("dma-coherent") {
        return Some("`dma-coherent`");
    }
    let name = node.name().split('@').next();
    name.is_some_and(|name| NAMES.contains(&name)).then_some("such devices usually do DMA")
}
