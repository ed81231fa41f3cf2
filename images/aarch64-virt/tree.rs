//! What the kernel itself wants to know of the devicetree. The IOMMU's side of it is `portcullis-firmware`'s.

use dtoolkit::Node;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;

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
    pub fn read(blob: &[u8]) -> Self {
        let tree = Fdt::new(blob).expect("a devicetree");
        let gic = child(tree.root(), "arm,gic-v3").expect("a GICv3: -machine gic-version=3");
        let its = child(gic, "arm,gic-v3-its").expect("an ITS");
        let pci = child(tree.root(), "pci-host-ecam-generic").expect("PCIe");
        Self {
            gic: (registers(gic, 0), registers(gic, 1)),
            its: registers(its, 0),
            ecam: registers(pci, 0),
        }
    }
}

fn registers(node: FdtNode<'_>, entry: usize) -> usize {
    let reg = node.reg().ok().flatten().and_then(|mut reg| reg.nth(entry)).expect("registers");
    reg.address::<u64>().expect("two cells") as usize
}

fn child<'a>(above: FdtNode<'a>, kind: &str) -> Option<FdtNode<'a>> {
    above.children().find(|node| node.is_compatible(kind))
}
