//! QEMU as a testbed: its own IOMMU, its own devices, the devicetree or the ACPI tables that it writes itself.

use crate::endpoint::{Endpoint, OwnDriver, SharedBuffer};
use crate::registry::{BroughtUp, IommuDriver, UnitOptions};
use crate::testbed::Testbed;
use portcullis::{DmaPath, NodeFailure};
use portcullis_addr::{Iova, PhysAddr};
use portcullis_firmware::acpi::loader::{self, Linked};
use portcullis_firmware::{IommuKind, IommuNode, MachineDescription, read_acpi, read_devicetree};
use portcullis_pci::Isolation;
use portcullis_platform::Registers;
use portcullis_qemu::endpoint::{
    DmaBuffer, Edu, Nvme, NvmeBuffers, VirtioPci, VirtioRng, VirtioRngBuffers,
};
use portcullis_qemu::pci::Function;
use portcullis_qemu::{
    BusId, FwCfg, Mmio, QemuPlatform, Ram, SMMUV3_BLOCKS, Version, Virt, VirtMachine, VtdStages,
    disk_block,
};
use portcullis_virtio_iommu::PciLayout;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Base class 6: bridges, which do no DMA of their own here.
const BRIDGE_CLASS: u32 = 6;

/// Which of QEMU's boards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QemuBoard {
    /// Arm's `virt` with an SMMUv3.
    #[default]
    Arm,
    /// The same board, described by its ACPI tables (IORT).
    ArmAcpi,
    /// RISC-V's `virt` with the IOMMU that is part of it.
    Riscv,
    /// The same board, described by its ACPI tables (RIMT, which QEMU writes from 10.1 on).
    RiscvAcpi,
    /// Arm's `virt` with a virtio-iommu that is a PCI function, described by its ACPI tables (VIOT).
    Virtio,
    /// The same, described by its devicetree.
    VirtioTree,
    /// The PC `q35` with Intel's IOMMU, described by its ACPI tables (DMAR).
    Q35Vtd,
    /// The PC `q35` with AMD's IOMMU, described by its ACPI tables (IVRS).
    Q35Amd,
}

impl QemuBoard {
    fn virt(self) -> Virt {
        match self {
            Self::Arm | Self::ArmAcpi => Virt::demonstration(),
            Self::Riscv | Self::RiscvAcpi => Virt::riscv_demonstration(),
            Self::Virtio | Self::VirtioTree => Virt::virtio_demonstration(),
            Self::Q35Vtd => Virt::vtd_demonstration(VtdStages::Legacy),
            Self::Q35Amd => Virt::amd_demonstration(),
        }
    }

    /// For a test that boots it: whether the QEMU of this system can, with a visible line where it cannot.
    ///
    /// # Panics
    ///
    /// As [`portcullis_qemu::for_test_on`].
    pub fn for_test(self, test: &str) -> bool {
        let architecture = self.virt().architecture();
        portcullis_qemu::for_test_from(architecture, self.least(), test).is_some()
    }

    fn supported(self) -> Result<(), String> {
        let architecture = self.virt().architecture();
        let found = portcullis_qemu::find(architecture).map_err(|error| error.to_string())?;
        if found.version() < self.least() {
            return Err(format!(
                "QEMU {} is too old for this board: {} or later is needed (on Debian 12: apt-get install -t bookworm-backports {})",
                found.version(),
                self.least(),
                architecture.package()
            ));
        }
        Ok(())
    }

    /// The first QEMU whose IOMMU of this board can be made to block.
    fn least(self) -> Version {
        match self {
            Self::Arm | Self::ArmAcpi => SMMUV3_BLOCKS,
            _ => self.virt().architecture().least(),
        }
    }

    fn kind(self) -> IommuKind {
        match self {
            Self::Arm | Self::ArmAcpi => IommuKind::SmmuV3,
            Self::Riscv | Self::RiscvAcpi => IommuKind::RiscV,
            Self::Virtio | Self::VirtioTree => IommuKind::VirtioIommu,
            Self::Q35Vtd => IommuKind::VtD,
            Self::Q35Amd => IommuKind::AmdVi,
        }
    }

    /// What QEMU calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Q35Vtd | Self::Q35Amd => "q35",
            _ => "virt",
        }
    }

    /// Starts it; what describes it is what QEMU wrote for this very machine.
    fn start(self) -> Result<(VirtMachine, MachineDescription), String> {
        let text = |error: portcullis_qemu::Error| error.to_string();
        self.supported()?;
        let board = format!("qemu-{}", self.name());
        match self {
            Self::Arm | Self::Riscv | Self::VirtioTree => {
                let machine = self.virt().start().map_err(text)?;
                let blob = machine.devicetree().map_err(text)?;
                let description = read_devicetree(&blob, &board);
                Ok((machine, description.map_err(|error| error.to_string())?))
            }
            Self::ArmAcpi | Self::RiscvAcpi | Self::Virtio | Self::Q35Vtd | Self::Q35Amd => {
                let mut found = None;
                let machine = self.virt().start_described(|fw_cfg| {
                    let description = described_by_acpi(fw_cfg, &board)?;
                    let ecam = description.config_spaces.first();
                    let ecam = ecam.ok_or("no MCFG: where is PCI configuration space?")?.base;
                    found = Some(description);
                    Ok(PhysAddr::new(ecam))
                });
                let machine = machine.map_err(text)?;
                let description = found.ok_or("QEMU's ACPI tables were not read")?;
                if description.iommus.is_empty() {
                    // Nothing would be behind anything then, and everything direct.
                    let version = machine.version();
                    return Err(format!(
                        "the ACPI tables of QEMU {version} name no IOMMU of this board"
                    ));
                }
                Ok((machine, description))
            }
        }
    }
}

fn described_by_acpi(fw_cfg: &FwCfg, board: &str) -> Result<MachineDescription, String> {
    let linked = acpi_tables(fw_cfg)?;
    let tables = linked.tables().map_err(|error| error.to_string())?;
    read_acpi(tables, board).map_err(|error| error.to_string())
}

/// Where ACPI tables are put as far as their pointers say: below 4 GiB. Nobody runs who would follow them.
const TABLE_WINDOW: Range<u64> = 0x1000_0000..0x2000_0000;

/// The ACPI tables that QEMU hands to firmware, put together as firmware would.
///
/// # Errors
///
/// QEMU hands none over, or what it hands over does not hold together.
pub fn acpi_tables(fw_cfg: &FwCfg) -> Result<Linked, String> {
    let text = |error: portcullis_qemu::Error| error.to_string();
    let script = fw_cfg.read(loader::SCRIPT).map_err(text)?;
    let script = script.ok_or("QEMU hands no ACPI tables to firmware")?;
    // A file that cannot be read is missing to the script; why is more to the point.
    let mut failed = None;
    let linked = loader::link(&script, TABLE_WINDOW, |name| {
        fw_cfg.read(name).unwrap_or_else(|error| {
            failed = Some(error.to_string());
            None
        })
    });
    linked.map_err(|error| failed.unwrap_or_else(|| error.to_string()))
}

/// A QEMU machine with endpoints behind its IOMMU.
pub struct QemuMachine {
    board: QemuBoard,
    machine: Arc<VirtMachine>,
    platform: Arc<QemuPlatform>,
    endpoints: HashMap<String, Arc<dyn Endpoint>>,
}

impl QemuMachine {
    /// Starts QEMU and reads what it writes of the very same machine, a devicetree or ACPI tables; the functions that are really there stand behind its host bridge.
    ///
    /// # Errors
    ///
    /// Why QEMU cannot be used, with how to get it.
    pub fn start(board: QemuBoard) -> Result<(Self, MachineDescription), String> {
        let (machine, mut description) = board.start()?;
        let machine = Arc::new(machine);
        description.model = format!("QEMU {} {}", machine.version(), board.name());
        let mut endpoints: HashMap<String, Arc<dyn Endpoint>> = HashMap::new();
        let bridge = description.devices.iter_mut().find(|device| device.bus.is_some());
        let bridge = bridge.ok_or("no PCI bus behind an IOMMU is described")?;
        let host = bridge.description.path.clone();
        let mut paths = HashMap::new();
        for function in machine.functions().iter().filter(|f| f.class >> 16 != BRIDGE_CLASS) {
            let Some((name, endpoint)) = endpoint_of(&machine, function)? else { continue };
            let path = format!("{host}/{name}@{}", function.address);
            paths.insert(function.address, path.clone());
            endpoints.insert(path, endpoint);
        }
        // Those that can be told what to do; the others stay blocked, and count for their groups.
        bridge.functions.clear();
        bridge.enumerated(machine.segment(), Isolation::default(), |it| {
            paths.get(&it.address).cloned()
        });
        if board.kind() == IommuKind::VirtioIommu {
            bridge.functions.iter_mut().for_each(|it| keep_what_arrives(&mut it.description.dma));
        }
        let platform = Arc::new(machine.platform());
        Ok((Self { board, machine, platform, endpoints }, description))
    }

    /// The machine itself.
    pub fn machine(&self) -> &Arc<VirtMachine> {
        &self.machine
    }
}

impl std::fmt::Debug for QemuMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QemuMachine").field("machine", &self.machine).finish_non_exhaustive()
    }
}

/// QEMU's virtio-iommu knows an endpoint only by the id under which its transactions arrive, the last one, and refuses to attach another id of it (`virtio_iommu_get_endpoint`).
fn keep_what_arrives(dma: &mut DmaPath) {
    if let DmaPath::Translated(spec) = dma {
        spec.streams.drain(..spec.streams.len().saturating_sub(1));
    }
}

/// A word for paths, and the device.
type Named = (&'static str, Arc<dyn Endpoint>);

/// What a function can be told to do; `None` for one that does no DMA.
fn endpoint_of(machine: &Arc<VirtMachine>, function: &Function) -> Result<Option<Named>, String> {
    let text = |error: portcullis_qemu::Error| error.to_string();
    Ok(match (function.vendor, function.device) {
        (0x1234, 0x11e8) => {
            let edu = Edu::new(machine.bar0(function).map_err(text)?).map_err(text)?;
            Some(("edu", Arc::new(Copier(edu))))
        }
        (0x1b36, 0x0010) => {
            let registers = machine.bar0(function).map_err(text)?;
            let ram = Arc::clone(machine.ram());
            Some(("nvme", Arc::new(Disk { registers, ram })))
        }
        (0x1af4, 0x1044) => {
            let slot = BusId::ROOT.slot(function.address.device());
            let open = Arc::clone(machine);
            let open = move || open.virtio(slot).map_err(|error| error.to_string());
            let ram = Arc::clone(machine.ram());
            Some(("rng", Arc::new(Entropy { open: Box::new(open), ram, kick: Mutex::new(None) })))
        }
        _ => None,
    })
}

/// QEMU takes bit 8 of an entry's domain for a reserved one, and lets a device pass whose entry has it (docs/amdvi.md): domains end at 255, and 0 and 1 are for devices that are blocked and that pass. Whose address space
/// finds no domain stays blocked, with that reason.
const QEMU_AMD_SPACES: u32 = 254;

impl Testbed for QemuMachine {
    type Platform = QemuPlatform;

    fn platform(&self) -> &Arc<QemuPlatform> {
        &self.platform
    }

    fn bring_up(&self, iommu: &IommuNode) -> Result<BroughtUp, NodeFailure> {
        if iommu.kind != self.board.kind() {
            return Err("QEMU's machine has no such IOMMU".into());
        }
        let driver = IommuDriver::of(iommu).ok_or("no driver")?;
        let mut options = UnitOptions::described(iommu, std::slice::from_ref(iommu));
        if self.board == QemuBoard::Q35Amd {
            /// "Not present" may be cached (48882, 3.2).
            const NP_CACHE: u32 = 1 << 26;
            let capability = self.machine.amd_capability();
            let capability = capability.map_err(|error| NodeFailure::from(error.to_string()))?;
            options.spaces = Some(QEMU_AMD_SPACES);
            options.caches_absence = capability.is_some_and(|header| header & NP_CACHE != 0);
        }
        if self.board.kind() == IommuKind::VirtioIommu {
            let blocks = self.machine.iommu_blocks().map_err(|error| error.to_string())?;
            options.virtio_function = Some(PciLayout {
                common: blocks.common,
                notify: blocks.notify,
                notify_multiplier: blocks.notify_multiplier,
                interrupt: blocks.isr,
                config: blocks.device,
            });
        }
        // A unit that is a PCI function is where enumeration has put it; every other one where it is described.
        let registers = match iommu.registers {
            Some(described) => {
                let len = usize::try_from(described.len()).map_err(|_| "too many registers")?;
                self.machine.mmio(described.start(), len)
            }
            None => self.machine.iommu(),
        };
        driver.bring_up(Arc::clone(&self.platform), registers, Vec::new(), &options)
    }

    fn endpoint(&self, path: &str) -> Option<Arc<dyn Endpoint>> {
        self.endpoints.get(path).cloned()
    }

    /// QEMU 10's AMD IOMMU gives up before it writes an event (`amdvi_log_event`).
    fn records_faults(&self) -> bool {
        self.board != QemuBoard::Q35Amd || self.machine.version().major > 10
    }

    fn violations(&self) -> Vec<(&'static str, String)> {
        match self.machine.qemu().check() {
            Ok(()) => Vec::new(),
            Err(error) => vec![("P2", error.to_string())],
        }
    }

    fn allocated(&self) -> u64 {
        self.machine.ram().allocated_bytes()
    }
}

/// QEMU's `edu`: reads memory into its buffer and writes it out again.
struct Copier(Edu);

impl Endpoint for Copier {
    fn copy(&self, _port: usize, from: u64, to: u64, len: usize) {
        // Whether it arrived shows in memory, which is what counts.
        let _ = self.0.read_memory(Iova::new(from), 0, len);
        let _ = self.0.write_memory(Iova::new(to), 0, len);
    }
}

fn dma_buffer(buffer: &SharedBuffer) -> DmaBuffer {
    DmaBuffer { phys: buffer.phys, iova: Iova::new(buffer.device), len: buffer.len }
}

/// An NVMe disk: queues and data in IOVA space.
struct Disk {
    registers: Mmio,
    ram: Arc<Ram>,
}

impl Endpoint for Disk {
    fn own_driver(&self) -> Option<&dyn OwnDriver> {
        Some(self)
    }
}

/// Admin submission queue doorbell (NVMe base specification 2.0, 3.1.3).
const ADMIN_DOORBELL: usize = 0x1000;

impl OwnDriver for Disk {
    fn buffers(&self) -> usize {
        5
    }

    fn run(&self, buffers: &[SharedBuffer]) -> Result<String, String> {
        let [a, b, c, d, e] = buffers else { return Err("five buffers".to_string()) };
        let buffers = NvmeBuffers {
            admin_submissions: dma_buffer(a),
            admin_completions: dma_buffer(b),
            io_submissions: dma_buffer(c),
            io_completions: dma_buffer(d),
            data: dma_buffer(e),
        };
        let text = |error: portcullis_qemu::Error| error.to_string();
        let mut nvme = Nvme::start(self.registers.clone(), &self.ram, buffers).map_err(text)?;
        let identity = nvme.identify().map_err(text)?;
        let block = nvme.read_block(3).map_err(text)?;
        if block != disk_block(3) {
            return Err("block 3 does not hold what the disk holds".to_string());
        }
        Ok(format!("{}, block 3 read", identity.model))
    }

    fn touch(&self) {
        // Bring-up took three admin commands; one more makes the controller fetch from its queue.
        self.registers.write32(ADMIN_DOORBELL, 5);
        settle(&self.registers);
    }
}

/// Reading a register lets QEMU's main loop run what the write before has started.
fn settle(registers: &Mmio) {
    for _ in 0..50 {
        registers.read32(0);
    }
}

/// A virtio entropy source: rings and data in IOVA space.
struct Entropy {
    open: Box<dyn Fn() -> Result<VirtioPci, String> + Send + Sync>,
    ram: Arc<Ram>,
    /// Makes the running device look at its ring again.
    kick: Mutex<Option<VirtioPci>>,
}

impl Endpoint for Entropy {
    fn own_driver(&self) -> Option<&dyn OwnDriver> {
        Some(self)
    }
}

impl OwnDriver for Entropy {
    fn buffers(&self) -> usize {
        4
    }

    fn run(&self, buffers: &[SharedBuffer]) -> Result<String, String> {
        let [a, b, c, d] = buffers else { return Err("four buffers".to_string()) };
        let buffers = VirtioRngBuffers {
            descriptors: dma_buffer(a),
            available: dma_buffer(b),
            used: dma_buffer(c),
            data: DmaBuffer { len: 64, ..dma_buffer(d) },
        };
        let text = |error: portcullis_qemu::Error| error.to_string();
        let mut rng = VirtioRng::start((self.open)()?, &self.ram, buffers).map_err(text)?;
        let bytes = rng.fill().map_err(text)?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Err("no random byte arrived".to_string());
        }
        *self.kick.lock().unwrap_or_else(PoisonError::into_inner) = Some((self.open)()?);
        Ok(format!("{} random bytes", bytes.len()))
    }

    fn touch(&self) {
        if let Some(transport) = &*self.kick.lock().unwrap_or_else(PoisonError::into_inner) {
            transport.notify(0);
            for _ in 0..50 {
                transport.status();
            }
        }
    }
}
