//! The devicetree of a board: QEMU's own, with a gate in front of the SMMU that is to probe late.
//!
//! The SMMU's driver is built into Debian's kernels and would probe before any module could be loaded. A `vdd-supply` that leads to a fixed regulator makes
//! fw_devlink hold it back until the regulator's driver, a module, is loaded (drivers/of/property.c, `parse_regulators`: a mandatory supplier).

use super::Board;
use crate::error::Error;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};

/// Where QEMU places `-device arm-smmuv3` on `virt`: in the platform bus window, in the order of creation, 128 KiB each.
const SMMU_BASE: u32 = 0x0c00_0000;
const SMMU_SIZE: u32 = 0x2_0000;
/// Their first shared interrupts, four each (`platform bus` of hw/arm/virt.c).
const SMMU_SPI: u32 = 0x70;
/// Edge triggered, as `virt` wires its own SMMU.
const EDGE: u32 = 1;

/// Patches what QEMU dumped.
pub(crate) fn gate(dump: &[u8], board: &Board) -> Result<Vec<u8>, Error> {
    let broken = |what: String| Error::Board(format!("QEMU's devicetree: {what}"));
    let fdt = Fdt::new(dump).map_err(|error| broken(error.to_string()))?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    let mut next = highest_phandle(&tree.root) + 1;
    let mut phandle = || {
        next += 1;
        next - 1
    };
    let regulator = phandle();
    let first = match board.smmus {
        1 => {
            let smmu =
                child_mut(&mut tree.root, "smmuv3@").ok_or_else(|| broken("no SMMU".into()))?;
            set(smmu, "vdd-supply", &cells(&[regulator]));
            phandle_of(smmu).ok_or_else(|| broken("an SMMU without a phandle".into()))?
        }
        _ => {
            let (first, second) = (phandle(), phandle());
            tree.root.add_child(smmu(0, first));
            let mut gated = smmu(1, second);
            set(&mut gated, "vdd-supply", &cells(&[regulator]));
            tree.root.add_child(gated);
            first
        }
    };
    tree.root.add_child(regulator_node(regulator));
    lead_client(&mut tree.root, board, first).map_err(broken)?;
    Ok(tree.to_dtb())
}

/// `regulator-fixed` (Documentation/devicetree/bindings/regulator/fixed-regulator.yaml).
fn regulator_node(phandle: u32) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new_unchecked("regulator-smmu");
    set(&mut node, "compatible", b"regulator-fixed\0");
    set(&mut node, "regulator-name", b"smmu-gate\0");
    set(&mut node, "phandle", &cells(&[phandle]));
    node
}

/// `arm,smmu-v3` (Documentation/devicetree/bindings/iommu/arm,smmu-v3.yaml) for the `index`th `-device arm-smmuv3`: QEMU 11 writes no node for it.
fn smmu(index: u32, phandle: u32) -> DeviceTreeNode {
    let base = SMMU_BASE + index * SMMU_SIZE;
    let mut node = DeviceTreeNode::new_unchecked(format!("smmuv3@{base:x}"));
    set(&mut node, "compatible", b"arm,smmu-v3\0");
    set(&mut node, "reg", &cells(&[0, base, 0, SMMU_SIZE]));
    let interrupts: Vec<u32> =
        (0..4).flat_map(|line| [0, SMMU_SPI + 4 * index + line, EDGE]).collect();
    set(&mut node, "interrupts", &cells(&interrupts));
    set(&mut node, "interrupt-names", b"eventq\0priq\0cmdq-sync\0gerror\0");
    set(&mut node, "dma-coherent", &[]);
    set(&mut node, "#iommu-cells", &cells(&[1]));
    set(&mut node, "phandle", &cells(&[phandle]));
    node
}

/// Puts the client behind the SMMU with this phandle.
fn lead_client(root: &mut DeviceTreeNode, board: &Board, smmu: u32) -> Result<(), String> {
    match board.client.stream {
        Some(stream) => {
            let (address, name) =
                board.client.device.split_once('.').ok_or("no platform device")?;
            let node =
                child_mut(root, &format!("{name}@{address}")).ok_or("no node of the client")?;
            set(node, "iommus", &cells(&[smmu, stream]));
        }
        None => {
            let bridge = child_mut(root, "pcie@").ok_or("no PCI host bridge")?;
            set(bridge, "iommu-map", &cells(&[0, smmu, 0, 0x1_0000]));
        }
    }
    Ok(())
}

fn child_mut<'a>(node: &'a mut DeviceTreeNode, prefix: &str) -> Option<&'a mut DeviceTreeNode> {
    node.children_mut().find(|child| child.name().starts_with(prefix))
}

fn set(node: &mut DeviceTreeNode, name: &str, value: &[u8]) {
    node.add_property(DeviceTreeProperty::new_unchecked(name, value.to_vec()));
}

fn cells(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn phandle_of(node: &DeviceTreeNode) -> Option<u32> {
    let property = node.properties().find(|property| property.name() == "phandle")?;
    property.value().try_into().ok().map(u32::from_be_bytes)
}

fn highest_phandle(node: &DeviceTreeNode) -> u32 {
    let inside = node.children().map(highest_phandle).max().unwrap_or(0);
    inside.max(phandle_of(node).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of QEMU's tree that matter, in its form.
    fn dump(with_smmu: bool) -> Vec<u8> {
        let mut tree = DeviceTree::new();
        let mut bridge = DeviceTreeNode::new_unchecked("pcie@10000000");
        set(&mut bridge, "phandle", &cells(&[0x8004]));
        tree.root.add_child(bridge);
        tree.root.add_child(DeviceTreeNode::new_unchecked("virtio_mmio@a003e00"));
        if with_smmu {
            let mut smmu = DeviceTreeNode::new_unchecked("smmuv3@9050000");
            set(&mut smmu, "phandle", &cells(&[0x8005]));
            tree.root.add_child(smmu);
        }
        tree.to_dtb()
    }

    fn patched(board: &str, with_smmu: bool) -> DeviceTree {
        let board = Board::find(board).expect("a board");
        let bytes = gate(&dump(with_smmu), board).expect("the dump is complete");
        DeviceTree::from_fdt(&Fdt::new(&bytes).expect("we write what we read"))
    }

    fn value(tree: &DeviceTree, path: &str, name: &str) -> Option<Vec<u8>> {
        let node = tree.find_node(path)?;
        let property = node.properties().find(|property| property.name() == name)?;
        Some(property.value().to_vec())
    }

    #[test]
    fn the_only_smmu_is_gated() {
        let tree = patched("nvme", true);
        let supply = value(&tree, "/smmuv3@9050000", "vdd-supply");
        assert_eq!(supply, value(&tree, "/regulator-smmu", "phandle"));
        assert_eq!(supply, Some(cells(&[0x8006])), "a phandle that nobody had");
        let map = value(&tree, "/pcie@10000000", "iommu-map");
        assert_eq!(map, Some(cells(&[0, 0x8005, 0, 0x1_0000])));
    }

    #[test]
    fn of_two_smmus_the_second_is_gated_and_the_client_behind_the_first() {
        let tree = patched("virtio-mmio-two", false);
        assert_eq!(value(&tree, "/smmuv3@c000000", "vdd-supply"), None);
        assert!(value(&tree, "/smmuv3@c020000", "vdd-supply").is_some());
        let first = value(&tree, "/smmuv3@c000000", "phandle").expect("it has one");
        let mut expected = first;
        expected.extend(cells(&[0x7700]));
        assert_eq!(value(&tree, "/virtio_mmio@a003e00", "iommus"), Some(expected));
        let interrupts = value(&tree, "/smmuv3@c020000", "interrupts").expect("it has some");
        assert_eq!(interrupts[..12], cells(&[0, 0x74, 1]));
    }

    #[test]
    fn a_tree_without_what_is_needed_is_refused() {
        let board = Board::find("nvme").expect("a board");
        assert!(gate(&dump(false), board).is_err());
        assert!(gate(b"no tree", board).is_err());
    }
}
