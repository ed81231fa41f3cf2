//! What the kernel itself wants to know of the devicetree. The IOMMU's side of it is `portcullis-firmware`'s.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};

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
    pub fn read(blob: &[u8], boot: usize) -> Self {
        let tree = Fdt::new(blob).expect("a devicetree");
        let soc = tree.find_node("/soc").expect("/soc");
        let imsic =
            soc.children().find(|node| node.is_compatible("riscv,imsics") && is_supervisors(*node));
        let pci = soc.children().find(|node| node.is_compatible("pci-host-ecam-generic"));
        let cpus = tree.find_node("/cpus").expect("/cpus");
        let harts = cpus.children().filter(|node| node.name().starts_with("cpu@"));
        let second_hart =
            harts.filter_map(|hart| cell(hart, "reg")).find(|hart| *hart as usize != boot);
        Self {
            imsic: registers(imsic.expect("IMSICs: -machine aia=aplic-imsic")),
            ecam: registers(pci.expect("PCIe")),
            counter_frequency: cell(cpus, "timebase-frequency").expect("a frequency").into(),
            second_hart: second_hart.expect("a second hart: -smp 2") as usize,
        }
    }
}

fn is_supervisors(imsic: FdtNode<'_>) -> bool {
    let lines = imsic.property("interrupts-extended").expect("its harts");
    // Pairs: a hart's interrupt controller, and the interrupt there.
    lines.value().get(4..8) == Some(&SUPERVISOR_EXTERNAL.to_be_bytes())
}

fn cell(node: FdtNode<'_>, property: &str) -> Option<u32> {
    node.property(property)?.value().first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn registers(node: FdtNode<'_>) -> usize {
    let reg = node.reg().ok().flatten().and_then(|mut reg| reg.next()).expect("registers");
    reg.address::<u64>().expect("two cells") as usize
}
