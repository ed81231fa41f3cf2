//! QEMU's boards, as this project uses them: Arm's `virt` with an SMMUv3, RISC-V's with its IOMMU on the board or as a PCI function, and the PC `q35` with AMD's or Intel's.
//!
//! What can be checked of a board at its start is.

mod board;
mod machine;
mod options;

pub use machine::{SmmuLine, VirtMachine, disk_block};

use crate::error::{Error, ErrorKind};
use crate::find::{Architecture, Installation, find};
use crate::fw_cfg::FwCfg;
use board::Iommu;
use portcullis_addr::PhysAddr;
use std::time::Duration;

/// Which stages of translation the SMMU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SmmuStages {
    /// Whatever the newest board of this QEMU has (7.2: stage 1; 10.0: both).
    Newest,
    /// Only stage 1.
    One,
    /// Only stage 2.
    Two,
    /// Both.
    Nested,
}

/// Which mode and stages a VT-d unit offers; each offers legacy mode, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VtdStages {
    /// Legacy mode only.
    Legacy,
    /// Scalable mode with the second stage.
    ScalableSecond,
    /// Scalable mode with the first stage (QEMU 10).
    ScalableFirst,
}

/// A PCI bus of a board under construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BusId(u8);

impl BusId {
    /// The root bus, the one behind the SMMU.
    pub const ROOT: Self = Self(0);

    /// Function 0 of `device` (0..=31; QEMU refuses others at the start) on this bus. Behind a conventional bridge begin with device 1.
    pub const fn slot(self, device: u8) -> Slot {
        Slot { bus: self, device }
    }
}

/// A place on a PCI bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    bus: BusId,
    device: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BridgeModel {
    RootPort,
    ExpressToConventional,
    Conventional,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndpointModel {
    Edu,
    Nvme,
    VirtioRng,
    VirtioBlk,
}

/// A board to be started: 64 MiB of RAM, an IOMMU in front of PCI, no CPU running.
#[derive(Clone, Debug)]
pub struct Virt {
    iommu: Iommu,
    bridges: Vec<(BridgeModel, Slot)>,
    endpoints: Vec<(EndpointModel, Slot)>,
    bound: Option<Duration>,
}

impl Virt {
    /// Arm's board with an SMMUv3, without endpoints.
    pub fn new(stages: SmmuStages) -> Self {
        Self::with(Iommu::SmmuV3(stages))
    }

    /// RISC-V's board with the IOMMU that is part of it (`iommu-sys=on`), without endpoints.
    pub fn riscv() -> Self {
        Self::with(Iommu::RiscvPlatform)
    }

    /// RISC-V's board with an IOMMU that is function 0 of `device` on the root bus (`riscv-iommu-pci`), without endpoints.
    pub fn riscv_function(device: u8) -> Self {
        Self::with(Iommu::RiscvFunction(device))
    }

    /// Arm's board with a virtio-iommu that is function 0 of `device` on the root bus (`virtio-iommu-pci`), without endpoints.
    pub fn virtio_function(device: u8) -> Self {
        Self::with(Iommu::VirtioFunction(device))
    }

    /// Arm's board with a virtio-iommu on the memory bus (`virtio-iommu-device` in the last virtio-mmio slot), without endpoints. QEMU describes it neither in the devicetree nor in VIOT.
    pub fn virtio_slot() -> Self {
        Self::with(Iommu::VirtioSlot)
    }

    /// A PC (`q35`) with AMD's IOMMU (`amd-iommu`), without endpoints. The IOMMU is a function of the root bus itself, 00:01.0.
    pub fn amd() -> Self {
        Self::with(Iommu::AmdVi)
    }

    /// The PC with the same endpoints as [`riscv_demonstration`](Self::riscv_demonstration). None behind a bridge, for the same reason: QEMU 10's AMD IOMMU learns bus numbers when the machine is built.
    pub fn amd_demonstration() -> Self {
        let mut virt = Self::amd().with_demonstration();
        virt.edu(BusId::ROOT.slot(5));
        virt
    }

    /// A PC (`q35`) with Intel's IOMMU (`intel-iommu`) for addresses of 48 bits, without endpoints.
    pub fn vtd(stages: VtdStages) -> Self {
        Self::with(Iommu::VtD(stages))
    }

    /// The PC with the same endpoints as [`amd_demonstration`](Self::amd_demonstration), an `edu` behind a root port at 00:06.0, and Intel's IOMMU.
    pub fn vtd_demonstration(stages: VtdStages) -> Self {
        let mut virt = Self { iommu: Iommu::VtD(stages), ..Self::amd_demonstration() };
        let port = virt.root_port(BusId::ROOT.slot(6));
        virt.edu(port.slot(0));
        virt
    }

    fn with(iommu: Iommu) -> Self {
        Self { iommu, bridges: Vec::new(), endpoints: Vec::new(), bound: None }
    }

    /// Which QEMU it needs.
    pub fn architecture(&self) -> Architecture {
        self.iommu.architecture()
    }

    /// The board that `portcullis boot --on qemu` shows: an `edu` at 00:02.0, an NVMe disk at 00:03.0, an entropy source at 00:04.0, an `edu` behind a root port at
    /// 00:05.0, and two `edu` behind a conventional bridge at 00:06.0, which the SMMU cannot tell apart.
    pub fn demonstration() -> Self {
        Self::new(SmmuStages::Newest).with_arm_demonstration()
    }

    /// The same behind a virtio-iommu at 00:01.0.
    pub fn virtio_demonstration() -> Self {
        Self::virtio_function(1).with_arm_demonstration()
    }

    fn with_arm_demonstration(self) -> Self {
        let mut virt = self.with_demonstration();
        let port = virt.root_port(BusId::ROOT.slot(5));
        let conventional = virt.express_to_conventional_bridge(BusId::ROOT.slot(6));
        virt.edu(port.slot(0)).edu(conventional.slot(1)).edu(conventional.slot(2));
        virt
    }

    /// RISC-V's board with the first three of these and a second `edu` at 00:05.0. None behind a bridge: QEMU 10's RISC-V IOMMU learns the bus number of an id when the machine is built, where it is still 0, so a device behind a
    /// bridge arrives with an id of the root bus.
    pub fn riscv_demonstration() -> Self {
        let mut virt = Self::riscv().with_demonstration();
        virt.edu(BusId::ROOT.slot(5));
        virt
    }

    fn with_demonstration(mut self) -> Self {
        let root = BusId::ROOT;
        self.edu(root.slot(2)).nvme(root.slot(3)).virtio_rng(root.slot(4));
        self
    }

    /// Puts an `edu` DMA engine there.
    pub fn edu(&mut self, slot: Slot) -> &mut Self {
        self.endpoint(EndpointModel::Edu, slot)
    }

    /// Puts an NVMe controller there, with a disk of 1 MiB whose contents [`disk_block`] tells.
    pub fn nvme(&mut self, slot: Slot) -> &mut Self {
        self.endpoint(EndpointModel::Nvme, slot)
    }

    /// Puts a modern virtio entropy source there, whose accesses go through the IOMMU.
    pub fn virtio_rng(&mut self, slot: Slot) -> &mut Self {
        self.endpoint(EndpointModel::VirtioRng, slot)
    }

    /// Puts a modern virtio disk there, whose accesses go through the IOMMU; its contents are those of the NVMe controller's ([`disk_block`]).
    pub fn virtio_blk(&mut self, slot: Slot) -> &mut Self {
        self.endpoint(EndpointModel::VirtioBlk, slot)
    }

    /// Puts a PCI Express root port there; the result is the bus below.
    pub fn root_port(&mut self, slot: Slot) -> BusId {
        self.bridge(BridgeModel::RootPort, slot)
    }

    /// Puts a bridge from PCI Express to conventional PCI there; the result is the bus below.
    pub fn express_to_conventional_bridge(&mut self, slot: Slot) -> BusId {
        self.bridge(BridgeModel::ExpressToConventional, slot)
    }

    /// Puts a conventional PCI-to-PCI bridge there; the result is the bus below.
    pub fn conventional_bridge(&mut self, slot: Slot) -> BusId {
        self.bridge(BridgeModel::Conventional, slot)
    }

    /// Bounds the wait for each answer of QEMU.
    pub fn bound(&mut self, bound: Duration) -> &mut Self {
        self.bound = Some(bound);
        self
    }

    /// Starts it on the QEMU of this system, checks that the board is what this module thinks, and enumerates PCI. About 40 ms.
    ///
    /// # Errors
    ///
    /// What [`find()`] and [`start_on`](Self::start_on) say.
    pub fn start(&self) -> Result<VirtMachine, Error> {
        self.start_on(find(self.architecture())?)
    }

    /// As [`start`](Self::start), on a given QEMU.
    ///
    /// # Errors
    ///
    /// [`crate::ErrorKind::Unsupported`] where it has no such SMMU or endpoint, [`crate::ErrorKind::Pci`] and [`crate::ErrorKind::Device`] where the board is not as expected, and all that [`crate::Launch::start`] says.
    pub fn start_on(&self, installation: &Installation) -> Result<VirtMachine, Error> {
        VirtMachine::start(self, installation, |_| Ok(None))
    }

    /// As [`start`](Self::start), and `find` reads what QEMU hands to firmware as soon as the buses have their numbers: QEMU writes these into its ACPI tables when they are read first. From then
    /// on configuration space is reached where `find` says (the table MCFG); all functions must be there.
    ///
    /// # Errors
    ///
    /// As [`start_on`](Self::start_on); [`crate::ErrorKind::Device`] with what `find` says, [`crate::ErrorKind::Pci`] where a function is not found again.
    pub fn start_described(
        &self,
        find: impl FnOnce(&FwCfg) -> Result<PhysAddr, String>,
    ) -> Result<VirtMachine, Error> {
        let installation = crate::find::find(self.architecture())?;
        VirtMachine::start(self, installation, |machine| {
            let device = FwCfg::open(machine, self.iommu.places().fw_cfg)?;
            let wrong = |what| ErrorKind::Device { device: "ACPI tables", what };
            Ok(Some(find(&device).map_err(wrong)?.raw()))
        })
    }

    fn endpoint(&mut self, model: EndpointModel, slot: Slot) -> &mut Self {
        self.endpoints.push((model, slot));
        self
    }

    fn bridge(&mut self, model: BridgeModel, slot: Slot) -> BusId {
        self.bridges.push((model, slot));
        // QEMU's 256 bus numbers bound this long before the type does: a board with more does not start.
        BusId(u8::try_from(self.bridges.len()).unwrap_or(u8::MAX))
    }
}
