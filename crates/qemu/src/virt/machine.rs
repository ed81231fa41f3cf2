//! The board, running.

use super::board::{Iommu, PCIEXBAR, PCIEXBAR_ON, RAM_LEN, RISCV_IDLE, Window, halting_firmware};
use super::{BusId, Slot, SmmuStages, Virt, VtdStages};
use crate::endpoint::{
    BLOCK_LEN, Edu, Nvme, NvmeBuffers, VirtioBlocks, VirtioPci, VirtioRng, VirtioRngBuffers,
};
use crate::error::{Error, ErrorKind};
use crate::find::{Architecture, Installation, Version};
use crate::fw_cfg::FwCfg;
use crate::pci::{Bdf, ConfigAccess, ConfigSpace, Function, Segment, place};
use crate::platform::{Mmio, QemuPlatform};
use crate::process::{Launch, Qemu};
use crate::qtest::Request;
use crate::ram::Ram;
use crate::sys;
use portcullis_addr::PhysAddr;
use portcullis_pci::{Numbering, enable_acs, enumerate};
use portcullis_platform::Registers;
use std::io::Write;
use std::sync::Arc;

/// Vendor and device of QEMU's generic host bridge, and of the PC's.
const HOST_BRIDGE: u32 = 0x0008_1b36;
const PC_HOST_BRIDGE: u32 = 0x29c0_8086;
const DISK_LEN: u64 = 1 << 20;

/// An interrupt output of the SMMU (IHI 0070, 3.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SmmuLine {
    /// The event queue has become non-empty.
    EventQueue,
    /// The page request queue has.
    PriQueue,
    /// A `CMD_SYNC` has completed.
    CommandSync,
    /// A bit of `GERROR` has changed.
    GlobalError,
}

impl SmmuLine {
    /// From the shared peripheral interrupt of the board's GIC.
    fn from_gic_input(line: u32) -> Option<Self> {
        match line {
            74 => Some(Self::EventQueue),
            75 => Some(Self::PriQueue),
            76 => Some(Self::CommandSync),
            77 => Some(Self::GlobalError),
            _ => None,
        }
    }
}

/// The contents of block `lba` of the disk behind every NVMe controller.
pub fn disk_block(lba: u64) -> [u8; BLOCK_LEN] {
    let mut block = [0; BLOCK_LEN];
    let mut state = lba.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in &mut block {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = (state >> 32) as u8;
    }
    block
}

/// A running board, its PCI buses enumerated.
#[derive(Debug)]
pub struct VirtMachine {
    qemu: Arc<Qemu>,
    board: Iommu,
    iommu: Mmio,
    config: ConfigSpace<Qemu>,
    segment: Segment,
    functions: Vec<Function>,
    bridges: Vec<Slot>,
    version: Version,
}

impl VirtMachine {
    /// `find_ecam` says where configuration space is described to be; it is asked when buses have their numbers, because QEMU writes these into its tables.
    pub(super) fn start(
        virt: &Virt,
        installation: &Installation,
        find_ecam: impl FnOnce(&Arc<Qemu>) -> Result<Option<u64>, Error>,
    ) -> Result<Self, Error> {
        let machine = virt.machine(installation)?;
        let board = virt.iommu;
        let places = board.places();
        let ram = Arc::new(Ram::new(places.ram, RAM_LEN, places.reserved)?);
        if board.architecture() == Architecture::Riscv64 {
            ram.write(places.ram, &RISCV_IDLE);
        }
        let mut launch = Launch::new(installation, machine, ram);
        let disk = disk().map_err(|error| ErrorKind::Io { what: "making a disk", error })?;
        let disk = launch.share(disk);
        let firmware = firmware(board)?.map_or(String::new(), |file| launch.share(file));
        launch = launch.args(virt.arguments(installation, &disk, &firmware));
        if let Some(bound) = virt.bound {
            launch = launch.bound(bound);
        }
        let qemu = launch.start()?;
        if board.is_pc() {
            // As a PC's firmware does, through the ports.
            let ports = ConfigSpace::new(&qemu, ConfigAccess::Ports);
            let bridge = Bdf::new(0, 0, 0);
            ports.write(bridge, PCIEXBAR + 4, (places.ecam >> 32) as u32)?;
            ports.write(bridge, PCIEXBAR, places.ecam as u32 | PCIEXBAR_ON)?;
        }
        let config = ConfigSpace::new(&qemu, ConfigAccess::Ecam(places.ecam));
        check_host_bridge(&config, if board.is_pc() { PC_HOST_BRIDGE } else { HOST_BRIDGE })?;
        let mut segment = enumerate(&config, &[0], 0..=u8::MAX, Numbering::Assign)?;
        enable_acs(&config, &mut segment)?;
        let functions = place(&config, &segment, places.window)?;
        let config = match find_ecam(&qemu)? {
            Some(base) => described_config(&qemu, base, &functions)?,
            None => config,
        };
        let on_root = |device| {
            let address = Bdf::new(0, device, 0);
            let found = functions.iter().find(|function| function.address == address);
            found.ok_or_else(|| nothing_at(address))
        };
        let iommu = match places.iommu {
            Window::At(base, len) => Mmio::new(&qemu, base, len),
            Window::Bar0Of(device) => bar0_of(&qemu, on_root(device)?)?,
            Window::VirtioOf(device) => {
                VirtioBlocks::find(&config, on_root(device)?)?.bar(&qemu, on_root(device)?)?
            }
        };
        check_iommu(&iommu, board)?;
        let bridges = virt.bridges.iter().map(|(_, slot)| *slot).collect();
        let version = installation.version();
        Ok(Self { qemu, board, iommu, config, segment, functions, bridges, version })
    }

    /// The process.
    pub fn qemu(&self) -> &Arc<Qemu> {
        &self.qemu
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The memory.
    pub fn ram(&self) -> &Arc<Ram> {
        self.qemu.ram()
    }

    /// What the core and a driver need of it.
    pub fn platform(&self) -> QemuPlatform {
        QemuPlatform::new(Arc::clone(self.qemu.ram()))
    }

    /// The IOMMU's registers, all of them.
    pub fn iommu(&self) -> Mmio {
        self.iommu.clone()
    }

    /// Where in [`iommu`](Self::iommu)'s registers a virtio-iommu has its blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pci`] where the board's IOMMU is no virtio function.
    pub fn iommu_blocks(&self) -> Result<VirtioBlocks, Error> {
        let address = self.iommu_function().unwrap_or(Bdf::new(0, 0, 0));
        let function = self.functions.iter().find(|function| function.address == address);
        VirtioBlocks::find(&self.config, function.ok_or_else(|| nothing_at(address))?)
    }

    /// The requester id of the IOMMU itself, where it is a PCI function: the one whose own accesses no IOMMU translates.
    pub fn iommu_function(&self) -> Option<Bdf> {
        match self.board {
            Iommu::RiscvFunction(device) | Iommu::VirtioFunction(device) => {
                Some(Bdf::new(0, device, 0))
            }
            Iommu::AmdVi => Some(Bdf::new(0, 1, 0)),
            Iommu::SmmuV3(_) | Iommu::RiscvPlatform | Iommu::VirtioSlot | Iommu::VtD(_) => None,
        }
    }

    /// The header of the capability by which an AMD IOMMU describes itself in its function's configuration space (48882, 3.2: `NpCache` is bit 26); `None` where the board's IOMMU has none.
    ///
    /// # Errors
    ///
    /// As [`ConfigSpace::read`].
    pub fn amd_capability(&self) -> Result<Option<u32>, Error> {
        const SECURE_DEVICE: u32 = 0xf;
        let Some(function) = self.iommu_function() else { return Ok(None) };
        let mut at = self.config.read(function, 0x34)? & 0xfc;
        // As many as fit: a list that goes round ends too.
        for _ in 0..48 {
            if at < 0x40 {
                break;
            }
            let header = self.config.read(function, at as u16)?;
            if header & 0xff == SECURE_DEVICE {
                return Ok(Some(header));
            }
            at = header >> 8 & 0xfc;
        }
        Ok(None)
    }

    /// Registers anywhere, for blocks that a devicetree names.
    pub fn mmio(&self, base: PhysAddr, len: usize) -> Mmio {
        Mmio::new(&self.qemu, base, len)
    }

    /// What QEMU hands to the board's firmware.
    ///
    /// # Errors
    ///
    /// As [`FwCfg::open`].
    pub fn fw_cfg(&self) -> Result<FwCfg, Error> {
        FwCfg::open(&self.qemu, self.board.places().fw_cfg)
    }

    /// PCI configuration space.
    pub fn config(&self) -> &ConfigSpace<Qemu> {
        &self.config
    }

    /// What enumeration has found, with ACS on wherever there is any.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// All PCI functions, bridges included, in the order of the walk.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// The function in a slot of the board.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pci`] when nothing is there.
    pub fn function(&self, slot: Slot) -> Result<&Function, Error> {
        let address = Bdf::new(self.bus_number(slot.bus)?, slot.device, 0);
        let found = self.functions.iter().find(|function| function.address == address);
        Ok(found.ok_or_else(|| nothing_at(address))?)
    }

    /// The `edu` in `slot`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pci`] or [`ErrorKind::Device`] when there is none.
    pub fn edu(&self, slot: Slot) -> Result<Edu, Error> {
        Edu::new(self.bar0(self.function(slot)?)?)
    }

    /// The NVMe controller in `slot`, brought up with `buffers`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pci`] when there is none; as [`Nvme::start`].
    pub fn nvme(&self, slot: Slot, buffers: NvmeBuffers) -> Result<Nvme, Error> {
        Nvme::start(self.bar0(self.function(slot)?)?, self.ram(), buffers)
    }

    /// The transport of the virtio device in `slot`.
    ///
    /// # Errors
    ///
    /// As [`VirtioPci::new`].
    pub fn virtio(&self, slot: Slot) -> Result<VirtioPci, Error> {
        VirtioPci::new(&self.qemu, &self.config, self.function(slot)?)
    }

    /// The entropy source in `slot`, brought up with `buffers`.
    ///
    /// # Errors
    ///
    /// As [`VirtioPci::new`] and [`VirtioRng::start`].
    pub fn virtio_rng(&self, slot: Slot, buffers: VirtioRngBuffers) -> Result<VirtioRng, Error> {
        VirtioRng::start(self.virtio(slot)?, self.ram(), buffers)
    }

    /// BAR 0 of a function.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pci`] when it is no memory BAR.
    pub fn bar0(&self, function: &Function) -> Result<Mmio, Error> {
        bar0_of(&self.qemu, function)
    }

    /// The devicetree that QEMU wrote for this very machine, as it hands it to a guest: at the start of RAM (Arm) or near its end (RISC-V). To be called before anything else writes
    /// there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Device`] when there is none.
    #[doc(alias = "dumpdtb")]
    pub fn devicetree(&self) -> Result<Vec<u8>, Error> {
        /// QEMU puts a RISC-V board's tree at a multiple of this, as near to the end of RAM as it fits (`riscv_compute_fdt_addr`).
        const STEP: u64 = 2 << 20;
        let base = self.board.places().ram;
        let is_arm = self.board.architecture() == Architecture::Aarch64;
        let at = if is_arm { 0 } else { RAM_LEN as u64 - STEP };
        let at = PhysAddr::new(base.raw() + at);
        const MAGIC: u32 = 0xd00d_feed;
        let mut header = [0; 8];
        self.ram().read(at, &mut header);
        let [m0, m1, m2, m3, l0, l1, l2, l3] = header;
        let magic = u32::from_be_bytes([m0, m1, m2, m3]);
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        if magic != MAGIC || u64::from(len) > STEP {
            let what = format!("magic {magic:#x}, length {len:#x} at {at}");
            return Err(ErrorKind::Device { device: "devicetree in RAM", what }.into());
        }
        Ok(self.ram().read_vec(at, len as usize))
    }

    /// Reports the IOMMU's interrupts from now on: an SMMUv3's through [`take_smmu_interrupts`](Self::take_smmu_interrupts), the wires of a RISC-V board's own IOMMU through
    /// [`take_iommu_wires`](Self::take_iommu_wires). An IOMMU that is a PCI function has no wires: its interrupts are writes to memory.
    ///
    /// # Errors
    ///
    /// As [`Qemu::request`]; [`ErrorKind::Device`] when the board has no interrupt controller.
    pub fn watch_iommu_interrupts(&self) -> Result<(), Error> {
        if !self.board.is_smmu() {
            let own = self.qemu.find_objects("riscv-iommu-device")?.into_iter().next();
            let path = own.ok_or_else(|| ErrorKind::Device {
                device: "interrupt source",
                what: "the board has no riscv-iommu-device".to_owned(),
            })?;
            return self.qemu.request(&Request::InterceptOutputs(path)).map(drop);
        }
        // The controller's inputs, not the SMMU's outputs: QEMU 7.2 accepts the latter and then stays silent.
        let controllers = self.qemu.find_objects("arm_gic")?;
        let path = controllers.into_iter().next().ok_or_else(|| ErrorKind::Device {
            device: "interrupt controller",
            what: "the board has no arm_gic".to_owned(),
        })?;
        self.qemu.request(&Request::InterceptInputs(path)).map(drop)
    }

    /// The SMMU's interrupts since the last call (rising edges), oldest first.
    ///
    /// # Errors
    ///
    /// As [`Qemu::request`].
    pub fn take_smmu_interrupts(&self) -> Result<Vec<SmmuLine>, Error> {
        let raised = self.qemu.take_interrupts()?.into_iter().filter(|change| change.raised);
        Ok(raised.filter_map(|change| SmmuLine::from_gic_input(change.line)).collect())
    }

    /// The wires of a RISC-V board's own IOMMU that were raised since the last call, oldest first. QEMU lowers a wire again at once, although `ipsr` drives it (RISC-V IOMMU 1.0, 5.18).
    ///
    /// # Errors
    ///
    /// As [`Qemu::request`].
    pub fn take_iommu_wires(&self) -> Result<Vec<u32>, Error> {
        let raised = self.qemu.take_interrupts()?.into_iter().filter(|change| change.raised);
        Ok(raised.map(|change| change.line).collect())
    }

    fn bus_number(&self, bus: BusId) -> Result<u8, Error> {
        let BusId(number) = bus;
        let Some(index) = usize::from(number).checked_sub(1) else { return Ok(0) };
        let unknown = || ErrorKind::Pci {
            address: Bdf::new(0, 0, 0),
            what: format!("bus {number} belongs to another board"),
        };
        let slot = *self.bridges.get(index).ok_or_else(unknown)?;
        let bridge = self.function(slot)?;
        let no_bridge =
            || ErrorKind::Pci { address: bridge.address, what: "it is no bridge".to_owned() };
        Ok(bridge.secondary.ok_or_else(no_bridge)?)
    }
}

fn bar0_of(qemu: &Arc<Qemu>, function: &Function) -> Result<Mmio, Error> {
    let bar = function.bars[0].ok_or_else(|| ErrorKind::Pci {
        address: function.address,
        what: "BAR 0 is no memory BAR".to_owned(),
    })?;
    Ok(Mmio::new(qemu, bar.address, usize::try_from(bar.size).unwrap_or(usize::MAX)))
}

fn nothing_at(address: Bdf) -> ErrorKind {
    ErrorKind::Pci { address, what: "nothing is there".to_owned() }
}

/// What a PC begins with.
fn firmware(board: Iommu) -> Result<Option<std::fs::File>, Error> {
    if !board.is_pc() {
        return Ok(None);
    }
    let make = || {
        let image = halting_firmware();
        let mut file = sys::memory_file(c"portcullis-firmware", image.len() as u64)?;
        file.write_all(&image)?;
        Ok(file)
    };
    let io = |error| ErrorKind::Io { what: "making a firmware", error };
    Ok(Some(make().map_err(io)?))
}

fn disk() -> std::io::Result<std::fs::File> {
    let mut disk = sys::memory_file(c"portcullis-disk", DISK_LEN)?;
    let blocks: Vec<u8> = (0..DISK_LEN / BLOCK_LEN as u64).flat_map(disk_block).collect();
    disk.write_all(&blocks)?;
    Ok(disk)
}

fn check_host_bridge(config: &ConfigSpace<Qemu>, wanted: u32) -> Result<(), Error> {
    let address = Bdf::new(0, 0, 0);
    match config.read(address, 0)? {
        id if id == wanted => Ok(()),
        id => {
            let what = format!("id {id:#010x} where QEMU's host bridge {wanted:#010x} should be");
            Err(ErrorKind::Pci { address, what }.into())
        }
    }
}

/// Configuration space at `base`, where every one of `functions` must be.
fn described_config(
    qemu: &Arc<Qemu>,
    base: u64,
    functions: &[Function],
) -> Result<ConfigSpace<Qemu>, Error> {
    let config = ConfigSpace::new(qemu, ConfigAccess::Ecam(base));
    for Function { address, vendor, device, .. } in functions {
        let id = config.read(*address, 0)?;
        if id != u32::from(*device) << 16 | u32::from(*vendor) {
            let what = format!("id {id:#010x} where configuration space is described at {base:#x}");
            return Err(ErrorKind::Pci { address: *address, what }.into());
        }
    }
    Ok(config)
}

/// Asks the IOMMU who it is: IDR0 of an SMMUv3 (IHI 0070, 6.3.1: bit 0 stage 2, bit 1 stage 1), the version in `capabilities` of a RISC-V IOMMU (1.0, 5.3), the features of an AMD one
/// (48882, 3.4: `IASup`, which QEMU's has), the version of a VT-d unit and whether it has scalable mode (D51397, 11.4).
fn check_iommu(iommu: &Mmio, wanted: Iommu) -> Result<(), Error> {
    let wrong = |device, what: String| Err(ErrorKind::Device { device, what }.into());
    if matches!(wanted, Iommu::VirtioFunction(_)) {
        // Its blocks were found by its id.
        return Ok(());
    }
    if wanted == Iommu::VirtioSlot {
        // Virtual I/O Device 1.3, 4.2.2: version and kind.
        return match (iommu.read32(4), iommu.read32(8)) {
            (2, 23) => Ok(()),
            found => wrong("virtio-iommu", format!("version and kind {found:?} of its slot")),
        };
    }
    if wanted == Iommu::AmdVi {
        return match iommu.read64(0x30) {
            features if features != u64::MAX && features >> 6 & 1 == 1 => Ok(()),
            features => wrong("AMD IOMMU", format!("features {features:#x}: no IASup")),
        };
    }
    if let Iommu::VtD(stages) = wanted {
        let found = (iommu.read32(0) & 0xff, iommu.read64(0x10) >> 43 & 1 == 1);
        return match found {
            (1..=0x7f, scalable) if scalable == (stages != VtdStages::Legacy) => Ok(()),
            _ => wrong("VT-d unit", format!("version and scalable mode {found:x?}")),
        };
    }
    let found = iommu.read32(0);
    let Iommu::SmmuV3(stages) = wanted else {
        return match found & 0xff {
            0x10 => Ok(()),
            version => wrong("RISC-V IOMMU", format!("version {version:#x} where 0x10 is 1.0")),
        };
    };
    let right = match stages {
        SmmuStages::Newest => found & 3 != 0,
        SmmuStages::One => found & 3 == 2,
        SmmuStages::Two => found & 3 == 1,
        SmmuStages::Nested => found & 3 == 3,
    };
    if right {
        return Ok(());
    }
    wrong("SMMUv3", format!("IDR0 says stages {:#b}, asked for {stages:?}", found & 3))
}
