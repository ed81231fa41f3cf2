//! What comes out: one description of the machine, whatever it was read from.

use crate::finding::Finding;
use crate::pci::{PciBus, PciFunction};
use alloc::string::String;
use alloc::vec::Vec;
use portcullis::{DeviceDescription, FwNode, FwStream};
use portcullis_addr::PhysRange;

/// A machine, as its firmware describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineDescription {
    /// The name under which it was read (a file's stem, most often).
    pub board: String,
    /// The root node's `model`; empty where there is none.
    pub model: String,
    /// The root node's `compatible`.
    pub compatible: Vec<String>,
    /// Every IOMMU, enabled or not, in the description's order (ascending [`IommuNode::node`]).
    pub iommus: Vec<IommuNode>,
    /// Every node with `iommus` or `iommu-map`, enabled or not, and those marked `portcullis,client`, in the description's order.
    pub devices: Vec<DescribedDevice>,
    /// Main memory, in the description's order.
    pub memory: Vec<PhysRange>,
    /// Memory that must not be used: `/memreserve/` entries and `reserved-memory` children with a `reg`.
    pub reserved_memory: Vec<PhysRange>,
    /// What a reader should know, worst first, then in the description's order.
    pub findings: Vec<Finding>,
}

impl MachineDescription {
    /// The IOMMU at `node`, if there is one.
    pub fn iommu(&self, node: FwNode) -> Option<&IommuNode> {
        let at = self.iommus.binary_search_by_key(&node, |iommu| iommu.node).ok()?;
        self.iommus.get(at)
    }

    /// The path of the IOMMU at `node`; `?` for a node that is none.
    pub fn iommu_path(&self, node: FwNode) -> &str {
        self.iommu(node).map_or("?", |iommu| &iommu.path)
    }

    /// What the core is to be told: each enabled device, and for an enabled bus its functions in place of the bus
    /// (the bus itself where its map cannot be used: it then stands for all of them, blocked).
    pub fn clients(&self) -> impl Iterator<Item = &DeviceDescription> {
        self.devices.iter().filter(|device| device.enabled).flat_map(|device| {
            let own = device.bus.is_none() || device.functions.is_empty();
            own.then_some(&device.description)
                .into_iter()
                .chain(device.functions.iter().map(|function| &function.description))
        })
    }
}

/// The kinds of IOMMU whose binding the reader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IommuKind {
    /// `arm,smmu-v3`.
    SmmuV3,
    /// `arm,smmu-v2`, `arm,mmu-500` and their relatives.
    SmmuV2,
    /// Anything else.
    Other,
}

/// One IOMMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IommuNode {
    /// Its node; devices refer to it by this.
    pub node: FwNode,
    /// Full path.
    pub path: String,
    /// From the most to the least specific.
    pub compatible: Vec<String>,
    /// Which binding it follows.
    pub kind: IommuKind,
    /// Whether it and all nodes above it are enabled.
    pub enabled: bool,
    /// `#iommu-cells`; `None` where it is missing or malformed.
    pub cells: Option<u32>,
    /// Its first register window, as the CPU sees it; `None` where it has none or `ranges` above it cannot be followed.
    pub registers: Option<PhysRange>,
    /// Its interrupts, in the description's order; empty where they are not described by a plain `interrupts`.
    pub interrupts: Vec<Interrupt>,
    /// Whether its own table walks and queues snoop the CPU's caches.
    #[doc(alias = "dma-coherent")]
    pub coherent: bool,
    /// Marked `portcullis,late`: the `portcullis` command registers it last.
    pub late: bool,
    /// Why it cannot be used as described. Its clients are blocked then.
    pub unusable: Option<String>,
}

impl IommuNode {
    /// The name of the driver that serves it, if the project has one.
    pub fn driver(&self) -> Option<&'static str> {
        match self.kind {
            IommuKind::SmmuV3 => Some("smmuv3"),
            IommuKind::SmmuV2 | IommuKind::Other => None,
        }
    }
}

/// One interrupt line of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Its entry in `interrupt-names`, if any.
    pub name: Option<String>,
    /// The specifier, as its interrupt controller defines it (Arm GIC: type, number, flags).
    pub cells: Vec<u32>,
}

/// One device, as described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedDevice {
    /// Its node.
    pub node: FwNode,
    /// What the core is told about it. For a bus this is what its functions share, with the DMA path of the first of them.
    pub description: DeviceDescription,
    /// Whether it and all nodes above it are enabled.
    pub enabled: bool,
    /// From the most to the least specific.
    pub compatible: Vec<String>,
    /// The streams that `iommus` names, in its order without duplicates, those of disabled IOMMUs included. What could be read of it where it is malformed.
    pub streams: Vec<FwStream>,
    /// For a bus: its `iommu-map`, if it could be read.
    pub bus: Option<PciBus>,
    /// For a bus: the functions that the description lists below it; the first that the map covers where it lists none.
    pub functions: Vec<PciFunction>,
}
