//! Devicetree.
//!
//! [`read_devicetree`] is all that most need. [`FlatTree`] reads the flattened format; a [`TreeBuilder`] takes a tree from any other
//! parser; [`lower`] turns either into a [`MachineDescription`]. Whoever wants more of the same [`Tree`] reads its [`Node`]s.

mod address;
mod device;
mod direct;
mod flat;
mod functions;
mod iommus;
mod map;
mod msi;
mod owned;
mod reserved;
mod streams;
mod tree;
mod windows;

pub use flat::{Block, FlatTree, MemoryReservation, ReadError};
pub use owned::{OverlayError, OwnedNode};
pub use tree::{Node, Tree, TreeBuilder, TreeError, TreeLimits};

use crate::checks;
use crate::machine::{IommuNode, MachineDescription};
use crate::problem::Findings;
use address::Addresses;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Reads the flattened devicetree `blob` (which may be padded behind) of a board to be called `board`.
///
/// Everything wrong *in* the description is a [`crate::Finding`] of the result.
///
/// # Errors
///
/// The bytes are no flattened devicetree, one beyond [`TreeLimits`], or an overlay.
///
/// # Examples
///
/// ```
/// let blob = include_bytes!("../../../../boards/portcullis-default.dtb");
/// let machine = portcullis_firmware::read_devicetree(blob, "portcullis-default")?;
/// assert!(machine.iommus.iter().any(|iommu| iommu.kind == portcullis_firmware::IommuKind::SmmuV3));
/// # Ok::<(), portcullis_firmware::ReadError>(())
/// ```
pub fn read_devicetree(blob: &[u8], board: &str) -> Result<MachineDescription, ReadError> {
    let flat = FlatTree::new(blob)?;
    let reservations = flat.reservations()?;
    let tree = flat.tree()?;
    if tree.is_overlay() {
        return Err(ReadError::Overlay);
    }
    Ok(lower(&tree, &reservations, board))
}

/// Lowers a tree, from whatever parser.
pub fn lower(
    tree: &Tree<'_>,
    reservations: &[MemoryReservation],
    board: &str,
) -> MachineDescription {
    let mut findings = Findings::default();
    let mut addresses = Addresses::new(tree);
    let mut iommus = iommus::read(tree, &addresses, &mut findings);
    let above = iommus_above(tree, &mut iommus);
    iommus::refuse_cycles(&mut iommus, &above, &mut findings);
    let regions = reserved::Regions::read(tree, &addresses, &mut findings);
    let legacy = iommus::legacy_clients(tree, &iommus);
    let mut devices = {
        let mut reader = device::Reader {
            tree,
            iommus: &iommus,
            regions: &regions,
            legacy: &legacy,
            addresses: &mut addresses,
            findings: &mut findings,
        };
        tree.nodes().filter_map(|node| reader.read(node)).collect::<Vec<_>>()
    };
    checks::check(&mut devices, &iommus, &mut findings);
    let direct = direct::read(tree, &addresses, &iommus, &devices);
    let memory = reserved::memory(tree, &mut findings);
    let root = tree.nodes().next();
    let model = root.and_then(|root| root.strings("model").next()).map(ToString::to_string);
    MachineDescription {
        board: String::from(board),
        model: model.unwrap_or_default(),
        compatible: root.map(|root| root.owned_strings("compatible")).unwrap_or_default(),
        iommus,
        devices,
        direct,
        memory,
        reserved_memory: reserved::reserved_memory(tree, reservations),
        interrupt_sources: Vec::new(),
        config_spaces: Vec::new(),
        findings: findings.into_sorted(),
    }
}

/// For each IOMMU the indices of those that its own `iommus` names; one whose `iommus` is malformed becomes unusable, and the device
/// reader says why.
fn iommus_above(tree: &Tree<'_>, iommus: &mut [IommuNode]) -> Vec<Vec<usize>> {
    let read = |iommu: &IommuNode| {
        let value = tree.node(iommu.node)?.property("iommus")?;
        Some(streams::read(tree, iommus, value))
    };
    let own: Vec<_> = iommus.iter().map(read).collect();
    let index = |node| iommus.binary_search_by_key(&node, |iommu| iommu.node).ok();
    let above = own.iter().map(|streams| {
        let named = streams.iter().flat_map(|streams| &streams.iommus);
        named.filter_map(|node| index(*node)).collect()
    });
    let above = above.collect();
    for (iommu, streams) in iommus.iter_mut().zip(own) {
        let problem = streams.and_then(|streams| streams.problem);
        iommu.unusable = iommu.unusable.take().or(problem.map(|problem| problem.what));
    }
    above
}

#[cfg(test)]
mod mutation_tests;
