//! What the kernel itself wants to know of the devicetree, out of the same parse as the description of IOMMUs.

use portcullis_iommu::firmware::devicetree::{self, Node};

/// `sie.SEIE` as an interrupt of a hart: the supervisor's file and not the machine's.
const SUPERVISOR_EXTERNAL: u32 = 9;

pub struct Tree {
    /// The supervisor's interrupt files, a page a hart.
    pub imsic: usize,
    /// PCIe configuration space.
    pub ecam: usize,
    /// Hz.
    pub counter_frequency: u64,
    /// A hart besides the one that runs.
    pub second_hart: usize,
}

impl Tree {
    /// QEMU's `virt`, from its devicetree, read by hart `boot`.
    pub fn read(tree: &devicetree::Tree<'_>, boot: usize) -> Self {
        let soc = tree.at("/soc").expect("/soc");
        let imsic =
            soc.children().find(|node| node.is_compatible("riscv,imsics") && is_supervisors(*node));
        let pci = soc.children().find(|node| node.is_compatible("pci-host-ecam-generic"));
        let cpus = tree.at("/cpus").expect("/cpus");
        let harts = cpus.children().filter(|node| node.name().starts_with("cpu@"));
        let second_hart =
            harts.filter_map(|hart| hart.cell("reg")).find(|hart| *hart as usize != boot);
        Self {
            imsic: registers(imsic.expect("IMSICs: -machine aia=aplic-imsic")),
            ecam: registers(pci.expect("PCIe")),
            counter_frequency: cpus.cell("timebase-frequency").expect("a frequency").into(),
            second_hart: second_hart.expect("a second hart: -smp 2") as usize,
        }
    }
}

fn is_supervisors(imsic: Node<'_, '_>) -> bool {
    let lines = imsic.property("interrupts-extended").expect("its harts");
    // Pairs: a hart's interrupt controller, and the interrupt there.
    lines.get(4..8) == Some(&SUPERVISOR_EXTERNAL.to_be_bytes())
}

fn registers(node: Node<'_, '_>) -> usize {
    node.registers().first().expect("registers").start().raw() as usize
}
