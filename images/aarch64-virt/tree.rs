//! What the kernel itself wants to know of the devicetree, out of the same parse as the description of IOMMUs.

use portcullis_iommu::firmware::devicetree::{self, Node};

pub struct Tree {
    /// Distributor of the GICv3, and its redistributors.
    pub gic: (usize, usize),
    /// Its interrupt translation service.
    pub its: usize,
    /// PCIe configuration space.
    pub ecam: usize,
}

impl Tree {
    /// QEMU's `virt`, from its devicetree.
    pub fn read(tree: &devicetree::Tree<'_>) -> Self {
        let root = tree.at("/").expect("a root");
        let gic = child(root, "arm,gic-v3").expect("a GICv3: -machine gic-version=3");
        let its = child(gic, "arm,gic-v3-its").expect("an ITS");
        let pci = child(root, "pci-host-ecam-generic").expect("PCIe");
        Self {
            gic: (registers(gic, 0), registers(gic, 1)),
            its: registers(its, 0),
            ecam: registers(pci, 0),
        }
    }
}

fn registers(node: Node<'_, '_>, entry: usize) -> usize {
    node.registers().get(entry).expect("registers").start().raw() as usize
}

fn child<'t, 'a>(above: Node<'t, 'a>, kind: &str) -> Option<Node<'t, 'a>> {
    above.children().find(|node| node.is_compatible(kind))
}
