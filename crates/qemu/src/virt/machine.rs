//! The board, running.

use super::{BusId, Slot, SmmuStages, Virt};
use crate::endpoint::{BLOCK_LEN, Edu, Nvme, NvmeBuffers, VirtioPci, VirtioRng, VirtioRngBuffers};
use crate::error::{Error, ErrorKind};
use crate::find::{Installation, Version};
use crate::pci::{Bdf, ConfigAccess, ConfigSpace, Function, MemoryWindow, enumerate};
use crate::platform::{Mmio, QemuPlatform};
use crate::process::{Launch, Qemu};
use crate::qtest::Request;
use crate::ram::Ram;
use crate::sys;
use portcullis_addr::PhysAddr;
use portcullis_platform::Registers;
use std::io::Write;
use std::sync::Arc;

const RAM_BASE: PhysAddr = PhysAddr::new(0x4000_0000);
const RAM_LEN: usize = 64 << 20;
/// The board writes its devicetree to the start of RAM.
const RAM_RESERVED: u64 = 2 << 20;
const SMMU_BASE: PhysAddr = PhysAddr::new(0x0905_0000);
/// Two pages of 64 KiB (IHI 0070, 6.1).
const SMMU_LEN: usize = 0x2_0000;
const HIGH_ECAM: u64 = 0x40_1000_0000;
const PCI_WINDOW: MemoryWindow = MemoryWindow::new(0x1000_0000, 0x3eff_0000);
/// Vendor and device of QEMU's generic host bridge.
const HOST_BRIDGE: u32 = 0x0008_1b36;
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

/// A running `virt` board, its PCI buses enumerated.
#[derive(Debug)]
pub struct VirtMachine {
    qemu: Arc<Qemu>,
    config: ConfigSpace<Qemu>,
    functions: Vec<Function>,
    bridges: Vec<Slot>,
    version: Version,
}

impl VirtMachine {
    pub(super) fn start(virt: &Virt, installation: &Installation) -> Result<Self, Error> {
        let machine = virt.machine(installation)?;
        let ram = Arc::new(Ram::new(RAM_BASE, RAM_LEN, RAM_RESERVED)?);
        let mut launch = Launch::new(installation, machine, ram);
        let disk = disk().map_err(|error| ErrorKind::Io { what: "making a disk", error })?;
        let disk = launch.share(disk);
        launch = launch.args(virt.arguments(installation, &disk));
        if let Some(bound) = virt.bound {
            launch = launch.bound(bound);
        }
        let qemu = launch.start()?;
        let config = ConfigSpace::new(&qemu, ConfigAccess::Ecam(HIGH_ECAM));
        check_host_bridge(&config)?;
        check_stages(&qemu, virt.stages)?;
        let functions = enumerate(&config, PCI_WINDOW)?;
        let bridges = virt.bridges.iter().map(|(_, slot)| *slot).collect();
        Ok(Self { qemu, config, functions, bridges, version: installation.version() })
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

    /// The SMMU's registers, both pages.
    pub fn smmu(&self) -> Mmio {
        Mmio::new(&self.qemu, SMMU_BASE, SMMU_LEN)
    }

    /// Registers anywhere, for blocks that a devicetree names.
    pub fn mmio(&self, base: PhysAddr, len: usize) -> Mmio {
        Mmio::new(&self.qemu, base, len)
    }

    /// PCI configuration space.
    pub fn config(&self) -> &ConfigSpace<Qemu> {
        &self.config
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
        let bar = function.bars[0].ok_or_else(|| ErrorKind::Pci {
            address: function.address,
            what: "BAR 0 is no memory BAR".to_owned(),
        })?;
        let len = usize::try_from(bar.size).unwrap_or(usize::MAX);
        Ok(Mmio::new(&self.qemu, bar.address, len))
    }

    /// The devicetree that QEMU wrote for this very machine, as it hands it to a guest: at the start of RAM. To be called before anything else writes there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Device`] when there is none.
    #[doc(alias = "dumpdtb")]
    pub fn devicetree(&self) -> Result<Vec<u8>, Error> {
        const MAGIC: u32 = 0xd00d_feed;
        let mut header = [0; 8];
        self.ram().read(RAM_BASE, &mut header);
        let [m0, m1, m2, m3, l0, l1, l2, l3] = header;
        let magic = u32::from_be_bytes([m0, m1, m2, m3]);
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        if magic != MAGIC || u64::from(len) > RAM_RESERVED {
            let what = format!("magic {magic:#x}, length {len:#x} at {RAM_BASE}");
            return Err(ErrorKind::Device { device: "devicetree in RAM", what }.into());
        }
        Ok(self.ram().read_vec(RAM_BASE, len as usize))
    }

    /// Reports the SMMU's interrupts from now on, through [`take_smmu_interrupts`](Self::take_smmu_interrupts).
    ///
    /// # Errors
    ///
    /// As [`Qemu::request`]; [`ErrorKind::Device`] when the board has no interrupt controller.
    pub fn watch_smmu_interrupts(&self) -> Result<(), Error> {
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

fn nothing_at(address: Bdf) -> ErrorKind {
    ErrorKind::Pci { address, what: "nothing is there".to_owned() }
}

fn disk() -> std::io::Result<std::fs::File> {
    let mut disk = sys::memory_file(c"portcullis-disk", DISK_LEN)?;
    let blocks: Vec<u8> = (0..DISK_LEN / BLOCK_LEN as u64).flat_map(disk_block).collect();
    disk.write_all(&blocks)?;
    Ok(disk)
}

fn check_host_bridge(config: &ConfigSpace<Qemu>) -> Result<(), Error> {
    let address = Bdf::new(0, 0, 0);
    match config.read(address, 0)? {
        HOST_BRIDGE => Ok(()),
        id => {
            let what =
                format!("id {id:#010x} where QEMU's host bridge {HOST_BRIDGE:#010x} should be");
            Err(ErrorKind::Pci { address, what }.into())
        }
    }
}

/// IDR0 (IHI 0070, 6.3.1): bit 0 stage 2, bit 1 stage 1.
fn check_stages(qemu: &Arc<Qemu>, wanted: SmmuStages) -> Result<(), Error> {
    let found = Mmio::new(qemu, SMMU_BASE, SMMU_LEN).read32(0) & 3;
    let right = match wanted {
        SmmuStages::Newest => found != 0,
        SmmuStages::One => found == 2,
        SmmuStages::Two => found == 1,
        SmmuStages::Nested => found == 3,
    };
    if right {
        return Ok(());
    }
    let what = format!("IDR0 says stages {found:#b}, asked for {wanted:?}");
    Err(ErrorKind::Device { device: "SMMUv3", what }.into())
}
