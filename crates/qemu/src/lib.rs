//! QEMU's own IOMMUs as hardware: the second platform, on emulation that nobody of this project wrote.
//!
//! A test starts a QEMU without a guest: no CPU runs. The machine's RAM is a memory file that both processes have mapped, so tables, queues and
//! buffers are ordinary memory; registers, PCI configuration and interrupts go over QEMU's *qtest* socket; DMA is done by the devices of the machine
//! (`edu`, NVMe, virtio) through its IOMMU. One start costs about 40 ms, so every test has a machine of its own.
//!
//! Scope: [`find()`] and its probed [`Features`], [`Launch`] and [`Qemu`] (start, stop, memory, registers, interrupts, monitor), [`FwCfg`] (what QEMU hands to firmware), [`pci`] (configuration
//! space, enumeration with bridges), [`endpoint`]s, the [`Virt`] board with an SMMUv3, and [`QemuPlatform`], which implements the seams so that the core and the
//! SMMUv3 driver run on it unchanged. Works with QEMU 7.2 (stage 1 only) and 10.0.
//!
//! ```no_run
//! use portcullis_addr::Iova;
//! use portcullis_platform::Registers;
//! use portcullis_qemu::{BusId, SmmuStages, Virt};
//!
//! # fn main() -> Result<(), portcullis_qemu::Error> {
//! let slot = BusId::ROOT.slot(2);
//! let machine = Virt::new(SmmuStages::Newest).edu(slot).start()?;
//! println!("QEMU {}: IDR0 {:#x}", machine.version(), machine.iommu().read32(0));
//! // Out of reset the SMMU lets everything pass: the device reads RAM by its physical address.
//! machine.edu(slot)?.read_memory(Iova::new(0x4040_0000), 0, 64)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Installing QEMU on Debian 12
//!
//! ```sh
//! cd /etc/apt/sources.list.d
//! awk -v RS= 'NR==1' debian.sources | sed 's/^Suites:.*/Suites: bookworm-backports/' > bookworm-backports.sources
//! apt-get update
//! apt-get install -y --no-install-recommends -t bookworm-backports qemu-system-arm qemu-system-riscv qemu-system-x86
//! ```
//!
//! Another build is used when [`DIRECTORY_VARIABLE`] names its directory. Neither KVM nor privileges are needed.
//!
//! # What this emulation cannot show
//!
//! QEMU carries out a command queue when its producer index is written, so a missing `CMD_SYNC`, a missing barrier and a late completion pass
//! unnoticed; walks are coherent; its SMMUv3 has no ATS, PRI, stalls or substreams. The software machine shows those.
//!
//! Not supported: other boards than `virt` of Arm and RISC-V and a `q35` with AMD's or Intel's IOMMU; block transfers over the socket (RAM is mapped); MSI-X; hot plug.
//!
//! Dependency rule: uses `addr` and `platform`; knows no driver and not the core. Needs an operating system (Linux). `unsafe` only in `sys`, and as the
//! word before `impl DmaMemory`.

pub mod endpoint;
mod error;
mod extents;
mod find;
mod fw_cfg;
pub mod pci;
mod platform;
mod process;
mod qmp;
mod qtest;
mod ram;
mod sys;
mod virt;
mod wire;

pub use error::{Error, ErrorKind};
pub use find::{
    Architecture, DIRECTORY_VARIABLE, Features, Installation, NotFound, REQUIRE_VARIABLE,
    SMMUV3_BLOCKS, Version, find, for_test, for_test_from, for_test_on,
};
pub use fw_cfg::{FwCfg, FwCfgAccess, FwCfgFile};
pub use platform::{Mmio, QemuPlatform};
pub use process::{Launch, Qemu, spawn_tethered};
pub use qmp::{Qmp, QomProperty};
pub use qtest::{Interrupt, QomPath, Qtest, Request, Width};
pub use ram::Ram;
pub use virt::{BusId, Slot, SmmuLine, SmmuStages, Virt, VirtMachine, VtdStages, disk_block};
