//! Where things are on the two boards that QEMU calls `virt` and on its PC with PCI Express (`q35`), and how an IOMMU gets onto each.

use super::{BridgeModel, SmmuStages, Virt, VtdStages};
use crate::error::ErrorKind;
use crate::find::{Architecture, Installation};
use crate::fw_cfg::FwCfgAccess;
use crate::pci::MemoryWindow;
use portcullis_addr::PhysAddr;

/// Length of RAM on every board.
pub(super) const RAM_LEN: usize = 64 << 20;

/// The IOMMU in front of a board's PCI, and so the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Iommu {
    SmmuV3(SmmuStages),
    RiscvPlatform,
    /// Device number on the root bus.
    RiscvFunction(u8),
    /// A virtio-iommu on Arm's board; device number on the root bus.
    VirtioFunction(u8),
    /// A virtio-iommu in the last virtio-mmio slot of Arm's board.
    VirtioSlot,
    /// A `q35` with `amd-iommu`.
    AmdVi,
    /// A `q35` with `intel-iommu`.
    VtD(VtdStages),
}

/// Addresses of a board.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub(super) ram: PhysAddr,
    /// What the board keeps for itself at the start of RAM.
    pub(super) reserved: u64,
    pub(super) ecam: u64,
    pub(super) fw_cfg: FwCfgAccess,
    /// Free for BARs.
    pub(super) window: MemoryWindow,
    pub(super) iommu: Window,
}

/// Where an IOMMU's registers are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Window {
    /// Base and length.
    At(PhysAddr, usize),
    /// In BAR 0 of function 0 of that device on the root bus.
    Bar0Of(u8),
    /// In the BAR of function 0 of that device that holds the blocks of virtio.
    VirtioOf(u8),
}

/// From `base_memmap` and `extended_memmap` in QEMU's `hw/arm/virt.c`; the SMMU has two pages of 64 KiB (IHI 0070, 6.1).
const ARM: Places = Places {
    ram: PhysAddr::new(0x4000_0000),
    reserved: 2 << 20,
    ecam: 0x40_1000_0000,
    fw_cfg: FwCfgAccess::Mmio(0x0902_0000),
    window: MemoryWindow::new(0x1000_0000, 0x3eff_0000),
    iommu: Window::At(PhysAddr::new(0x0905_0000), 0x2_0000),
};

/// `VIRT_MMIO` in the same place has 32 slots of 512 bytes; QEMU fills them from the last one on.
const LAST_SLOT: u64 = 0x0a00_0000 + 31 * 0x200;

/// From `virt_memmap` in QEMU's `hw/riscv/virt.c`; the IOMMU has one page of 4 KiB (RISC-V IOMMU 1.0, chapter 5).
const RISCV: Places = Places {
    ram: PhysAddr::new(0x8000_0000),
    reserved: 2 << 20,
    ecam: 0x3000_0000,
    fw_cfg: FwCfgAccess::Mmio(0x1010_0000),
    window: MemoryWindow::new(0x4000_0000, 0x8000_0000),
    iommu: Window::At(PhysAddr::new(0x0301_0000), 0x1000),
};

/// From QEMU's `hw/pci-host/q35.c`; configuration space is where [`PCIEXBAR`] is put, as firmware does.
const Q35: Places = Places {
    ram: PhysAddr::new(0),
    // What a PC has at the start of its memory: ROMs, the display's window.
    reserved: 2 << 20,
    ecam: 0xb000_0000,
    fw_cfg: FwCfgAccess::Ports,
    window: MemoryWindow::new(0xe000_0000, 0xf000_0000),
    // `AMDVI_BASE_ADDR` in `hw/i386/amd_iommu.h`.
    iommu: Window::At(PhysAddr::new(0xfed8_0000), 0x4000),
};

/// Register of the host bridge that says where configuration space is in memory, and what turns 256 MiB of it on (Intel 3 Series, PCIEXBAR). QEMU names it in MCFG only then.
pub(super) const PCIEXBAR: u16 = 0x60;
pub(super) const PCIEXBAR_ON: u32 = 1;

/// A PC's firmware of 64 KiB, all of it `hlt`; it begins at 16 bytes before its end with `cli; hlt; jmp .-1`.
pub(super) fn halting_firmware() -> Vec<u8> {
    const LEN: usize = 64 << 10;
    let mut image = vec![0xf4; LEN];
    image[LEN - 16..LEN - 12].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
    image
}

/// What the boot CPU of a RISC-V board runs: `wfi`, and once more.
pub(super) const RISCV_IDLE: [u8; 8] = [0x73, 0x00, 0x50, 0x10, 0x6f, 0xf0, 0xdf, 0xff];

impl Iommu {
    pub(super) fn places(self) -> Places {
        match self {
            Self::SmmuV3(_) => ARM,
            Self::RiscvPlatform => RISCV,
            Self::AmdVi => Q35,
            // `Q35_HOST_BRIDGE_IOMMU_ADDR` in `include/hw/i386/intel_iommu.h`.
            Self::VtD(_) => Places { iommu: Window::At(PhysAddr::new(0xfed9_0000), 0x1000), ..Q35 },
            Self::RiscvFunction(device) => Places { iommu: Window::Bar0Of(device), ..RISCV },
            Self::VirtioFunction(device) => Places { iommu: Window::VirtioOf(device), ..ARM },
            Self::VirtioSlot => {
                Places { iommu: Window::At(PhysAddr::new(LAST_SLOT), 0x200), ..ARM }
            }
        }
    }

    pub(super) fn architecture(self) -> Architecture {
        match self {
            Self::SmmuV3(_) | Self::VirtioFunction(_) | Self::VirtioSlot => Architecture::Aarch64,
            Self::RiscvPlatform | Self::RiscvFunction(_) => Architecture::Riscv64,
            Self::AmdVi | Self::VtD(_) => Architecture::X86_64,
        }
    }

    /// Whether it is on a PC.
    pub(super) fn is_pc(self) -> bool {
        self.architecture() == Architecture::X86_64
    }

    pub(super) fn is_smmu(self) -> bool {
        matches!(self, Self::SmmuV3(_))
    }

    /// The `-device` that it is, where it is one.
    fn device_name(self) -> Option<&'static str> {
        match self {
            Self::RiscvFunction(_) => Some(RISCV_IOMMU),
            Self::AmdVi => Some(AMD_IOMMU),
            Self::VirtioFunction(_) => Some(VIRTIO_IOMMU),
            Self::VirtioSlot => Some(VIRTIO_IOMMU_IN_SLOT),
            Self::SmmuV3(_) | Self::RiscvPlatform => None,
            Self::VtD(_) => Some(INTEL_IOMMU),
        }
    }
}

impl Virt {
    /// The `-machine` value.
    pub(super) fn machine(&self, installation: &Installation) -> Result<String, ErrorKind> {
        let features = installation.features();
        let chooses = features.chooses_smmu_stages();
        let unsupported = |what: &str| ErrorKind::Unsupported {
            what: what.to_owned(),
            version: installation.version(),
        };
        let devices = self.endpoints.iter().map(|(model, _)| model.device_name());
        if let Some(name) =
            devices.chain(self.iommu.device_name()).find(|name| !features.has_device(name))
        {
            return Err(unsupported(&format!("-device {name}")));
        }
        // No random seeds in the devicetree: the same board gives the same bytes.
        Ok(match self.iommu {
            // Boards from 9.2 on force both stages; before the property existed there was only stage 1.
            Iommu::SmmuV3(SmmuStages::Newest) => SMMUV3_NEWEST.to_owned(),
            Iommu::SmmuV3(SmmuStages::One) if !chooses => SMMUV3_NEWEST.to_owned(),
            Iommu::SmmuV3(_) if !chooses => {
                return Err(unsupported("an SMMUv3 with stage 2 (arm-smmuv3.stage)"));
            }
            Iommu::SmmuV3(_) => "virt-9.1,iommu=smmuv3,dtb-randomness=off".to_owned(),
            Iommu::RiscvPlatform if !features.has_device(RISCV_IOMMU) => {
                return Err(unsupported("a RISC-V IOMMU (virt,iommu-sys=on)"));
            }
            Iommu::RiscvPlatform => "virt,aia=aplic-imsic,iommu-sys=on".to_owned(),
            Iommu::RiscvFunction(_) => "virt,aia=aplic-imsic".to_owned(),
            Iommu::VirtioFunction(_) | Iommu::VirtioSlot => "virt,dtb-randomness=off".to_owned(),
            // With their timers, time would race while no CPU runs.
            Iommu::AmdVi | Iommu::VtD(_) => "q35,pit=off,hpet=off,smm=off".to_owned(),
        })
    }

    /// What keeps the CPU still and puts the IOMMU there; `firmware` names the file with a PC's.
    pub(super) fn own_arguments(
        &self,
        installation: &Installation,
        firmware: &str,
    ) -> Vec<(&'static str, String)> {
        match self.iommu {
            Iommu::SmmuV3(stages) => {
                let mut arguments = vec![("-cpu", ARM_CPU.to_owned())];
                let chooses = installation.features().chooses_smmu_stages();
                if let Some(stage) = stages.option().filter(|_| chooses) {
                    arguments.push(("-global", format!("arm-smmuv3.stage={stage}")));
                }
                arguments
            }
            Iommu::RiscvPlatform => vec![("-bios", "none".to_owned())],
            Iommu::RiscvFunction(device) => vec![
                ("-bios", "none".to_owned()),
                ("-device", format!("{RISCV_IOMMU},bus=pcie.0,addr={device:02x}.0")),
            ],
            Iommu::VirtioFunction(device) => vec![
                ("-cpu", ARM_CPU.to_owned()),
                ("-device", format!("{VIRTIO_IOMMU},bus=pcie.0,addr={device:02x}.0")),
            ],
            // Without its bus the device is refused; PCI devices are behind it then as behind the function.
            Iommu::VirtioSlot => vec![
                ("-cpu", ARM_CPU.to_owned()),
                ("-global", "virtio-mmio.force-legacy=false".to_owned()),
                ("-device", format!("{VIRTIO_IOMMU_IN_SLOT},primary-bus=pcie.0")),
            ],
            // With `pt=on`, its default, QEMU 10 lets every device pass by.
            Iommu::AmdVi => vec![
                ("-bios", firmware.to_owned()),
                ("-device", format!("{AMD_IOMMU},intremap=off,pt=off")),
            ],
            Iommu::VtD(stages) => {
                let mode = match stages {
                    VtdStages::Legacy => "",
                    VtdStages::ScalableSecond => ",x-scalable-mode=on",
                    VtdStages::ScalableFirst => ",x-scalable-mode=on,x-flts=on",
                };
                let device = format!("{INTEL_IOMMU},intremap=off,aw-bits=48{mode}");
                vec![("-bios", firmware.to_owned()), ("-device", device)]
            }
        }
    }
}

const SMMUV3_NEWEST: &str = "virt,iommu=smmuv3,dtb-randomness=off";
const AMD_IOMMU: &str = "amd-iommu";
const INTEL_IOMMU: &str = "intel-iommu";
const RISCV_IOMMU: &str = "riscv-iommu-pci";
const VIRTIO_IOMMU: &str = "virtio-iommu-pci";
const VIRTIO_IOMMU_IN_SLOT: &str = "virtio-iommu-device";
const ARM_CPU: &str = "cortex-a57,start-powered-off=on";

impl SmmuStages {
    fn option(self) -> Option<&'static str> {
        match self {
            Self::Newest => None,
            Self::One => Some("1"),
            Self::Two => Some("2"),
            Self::Nested => Some("nested"),
        }
    }
}

impl BridgeModel {
    /// A bridge of this kind in that place, as `-device` takes it; `number` is its bus.
    pub(super) fn device(self, number: usize, place: &str) -> String {
        match self {
            Self::RootPort => format!("pcie-root-port,id=bus{number},chassis={number},{place}"),
            Self::ExpressToConventional => format!("pcie-pci-bridge,id=bus{number},{place}"),
            Self::Conventional => {
                format!("pci-bridge,id=bus{number},chassis_nr={number},shpc=off,{place}")
            }
        }
    }
}
