//! What comes out: one description of the machine, whatever it was read from.

use crate::acpi::mcfg::ConfigSpace;
use crate::finding::{Finding, Severity};
use crate::pci::{PciBus, PciFunction, RequesterId};
use crate::rules::rule;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use portcullis::{DeviceDescription, FwNode, FwStream};
use portcullis_addr::{PhysAddr, PhysRange};

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
    /// Every node with `iommus` or `iommu-map`, enabled or not, and those marked `portcullis,client`, in the description's order. From ACPI: each
    /// PCI segment that a table speaks of as a bus, then the named devices.
    pub devices: Vec<DescribedDevice>,
    /// Enabled devices that name no IOMMU and, by a property or by their name, do DMA: not told to the core, for whoever looks for gaps. None from ACPI, whose tables name what is behind
    /// an IOMMU only.
    pub direct: Vec<DirectDevice>,
    /// Main memory, in the description's order.
    pub memory: Vec<PhysRange>,
    /// Memory that must not be used: `/memreserve/` entries and `reserved-memory` children with a `reg`.
    pub reserved_memory: Vec<PhysRange>,
    /// What is not a PCI function and writes interrupts, with the unit that would remap them: kept, not used yet (ACPI).
    pub interrupt_sources: Vec<InterruptSource>,
    /// Where PCI configuration space is mapped (ACPI MCFG).
    pub config_spaces: Vec<ConfigSpace>,
    /// What a reader should know, worst first, then in the description's order.
    pub findings: Vec<Finding>,
}

/// A device that is behind no IOMMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectDevice {
    /// Full path.
    pub path: String,
    /// By what it shows that it does DMA.
    pub because: &'static str,
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

    /// Adds a note for each enabled IOMMU that `served` says no driver knows. The reader knows no drivers; whoever has them asks.
    pub fn note_unserved(&mut self, served: impl Fn(&IommuNode) -> bool) {
        for iommu in self.iommus.iter().filter(|iommu| iommu.enabled && !served(iommu)) {
            let name =
                iommu.compatible.first().map_or("a node without `compatible`", String::as_str);
            self.findings.push(Finding {
                severity: Severity::Note,
                path: iommu.path.clone(),
                rule: rule::NO_DRIVER,
                message: format!("there is no driver for {name}: its clients stay blocked"),
            });
        }
    }

    /// What the core is to be told: each enabled device, and for an enabled bus its functions, with the bridge itself only where it has
    /// streams of its own (or where the map cannot be used: it then stands for all of them, blocked).
    pub fn clients(&self) -> impl Iterator<Item = &DeviceDescription> {
        self.devices.iter().filter(|device| device.enabled).flat_map(|device| {
            let own = !device.streams.is_empty() || device.functions.is_empty();
            own.then_some(&device.description)
                .into_iter()
                .chain(device.functions.iter().map(|function| &function.description))
        })
    }
}

/// An I/O APIC or a timer block, as a unit sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptSource {
    /// What it is.
    pub kind: SourceKind,
    /// I/O APIC id or HPET number.
    pub id: u8,
    /// PCI segment of its requester id.
    pub segment: u16,
    /// The id with which its writes reach the unit; `None` where only enumeration can tell.
    pub requester: Option<RequesterId>,
    /// The unit.
    pub iommu: FwNode,
}

/// Kinds of [`InterruptSource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// An I/O APIC.
    IoApic,
    /// A high precision event timer block.
    Hpet,
}

/// The kinds of IOMMU whose binding the reader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IommuKind {
    /// `arm,smmu-v3`.
    SmmuV3,
    /// `arm,smmu-v2`, `arm,mmu-500` and their relatives.
    SmmuV2,
    /// Intel VT-d (ACPI DMAR).
    VtD,
    /// AMD's IOMMU (ACPI IVRS).
    AmdVi,
    /// RISC-V's IOMMU.
    RiscV,
    /// A virtio-iommu (ACPI VIOT).
    VirtioIommu,
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
    /// `#iommu-cells`; `None` where it is missing or malformed, and for units of ACPI tables.
    pub cells: Option<u32>,
    /// Its first register window, as the CPU sees it; `None` where it has none or `ranges` above it cannot be followed.
    pub registers: Option<PhysRange>,
    /// Further register windows that must be programmed exactly like the first: NVIDIA's pairs of MMU-500s, between which a client's accesses are interleaved (binding `iommu/arm,smmu.yaml`,
    /// `nvidia,smmu-500`). Empty for everybody else.
    pub mirrors: Vec<PhysRange>,
    /// Its interrupts, in the description's order; empty where they are not described by a plain `interrupts`.
    pub interrupts: Vec<Interrupt>,
    /// Whether its own table walks and queues snoop the CPU's caches.
    #[doc(alias = "dma-coherent")]
    pub coherent: bool,
    /// How many context banks it has, as far as its interrupts tell (SMMUv2: one each beyond `#global-interrupts`).
    pub context_banks: Option<usize>,
    /// Defects and peculiarities that the description names; its driver must know them.
    pub quirks: Vec<Quirk>,
    /// Marked `portcullis,late`: the `portcullis` command registers it last.
    pub late: bool,
    /// Why it cannot be used as described. Its clients are blocked then.
    pub unusable: Option<String>,
}

/// A property or model number that sets an IOMMU apart from what its architecture says. What an integration is known for follows from its `compatible` and is its driver's to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Quirk {
    /// SMMUv3, `hisilicon,broken-prefetch-cmd` (IORT model 1): it must not be sent CMD_PREFETCH_*.
    BrokenPrefetch,
    /// SMMUv3, `cavium,cn9900-broken-page1-regspace` (IORT model 2): the registers of page 1 are in page 0.
    Page0RegistersOnly,
    /// SMMUv2, `calxeda,smmu-secure-config-access`: non-secure software programs the secure registers.
    SecureConfigAccess,
}

impl Quirk {
    /// Why no driver of the project can serve an IOMMU that has it; `None` where its drivers know it or need not.
    pub fn unsupported(self) -> Option<&'static str> {
        match self {
            Self::Page0RegistersOnly => Some("the registers of page 1 are in page 0"),
            Self::SecureConfigAccess => Some("it is programmed through secure registers"),
            // The SMMUv3 driver sends no prefetch command.
            Self::BrokenPrefetch => None,
        }
    }

    /// The property that names it in a devicetree.
    pub fn name(self) -> &'static str {
        match self {
            Self::BrokenPrefetch => "hisilicon,broken-prefetch-cmd",
            Self::Page0RegistersOnly => "cavium,cn9900-broken-page1-regspace",
            Self::SecureConfigAccess => "calxeda,smmu-secure-config-access",
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
    /// What the core is told about it. For a bus without streams of its own this is what its functions share, with the path of
    /// [`PciBus::summary`].
    pub description: DeviceDescription,
    /// Whether it and all nodes above it are enabled.
    pub enabled: bool,
    /// From the most to the least specific.
    pub compatible: Vec<String>,
    /// The streams that `iommus` names, in its order without duplicates, those of disabled IOMMUs included. What could be read of it where it is malformed.
    pub streams: Vec<FwStream>,
    /// For a bus: its `iommu-map`, if it could be read.
    pub bus: Option<PciBus>,
    /// For a bus: the functions that the description lists below it; the first that the map covers where it lists none. Empty where the map cannot be used.
    pub functions: Vec<PciFunction>,
    /// Where its message-signalled interrupts go, as far as the description says.
    pub msi: Vec<MsiMap>,
}

/// One entry of `msi-map` or `msi-parent`: which controller takes the interrupts that a device writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsiMap {
    /// Path of the interrupt controller.
    pub controller: String,
    /// The address that devices write to, as the CPU sees it; `None` for controllers whose layout is not known.
    pub doorbell: Option<PhysAddr>,
    /// For a bus: first requester id, the id that it becomes, and the number of ids. `None` where all of the device's interrupts go there.
    pub range: Option<(u32, u32, u32)>,
}
