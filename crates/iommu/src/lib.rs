//! Portcullis, the IOMMU subsystem, in one dependency: the core, and by feature the hardware drivers and what a kernel needs around them.
//!
//! ```toml
//! [dependencies]
//! portcullis-iommu = { version = "0.1", features = ["smmuv3", "firmware", "bare"] }
//! ```
//!
//! The core is at the root ([`Subsystem`], [`Driver`], [`DmaHandle`]). The crates around it are modules here; each can also be used as a crate by itself:
//!
//! | module | crate | what it is | feature |
//! | --- | --- | --- | --- |
//! | (root) | `portcullis` | the core: nodes, groups, domains, probing and deferral, DMA handles | |
//! | [`addr`] | `portcullis-addr` | addresses, ranges, stream ids | |
//! | [`platform`] | `portcullis-platform` | the seams: locks, memory, registers, time | `std`: on the standard library; `lock_api`: locks of that crate |
//! | [`pgtable`] | `portcullis-pgtable` | page tables, thirteen formats | |
//! | [`iova`] | `portcullis-iova` | the allocator of I/O addresses | |
//! | `amdvi` | `portcullis-amdvi` | driver: AMD IOMMU (AMD-Vi) | `amdvi` |
//! | `riscv` | `portcullis-riscv` | driver: RISC-V IOMMU 1.0 | `riscv` |
//! | `smmuv2` | `portcullis-smmuv2` | driver: Arm SMMUv2, MMU-500 | `smmuv2` |
//! | `smmuv3` | `portcullis-smmuv3` | driver: Arm SMMUv3 | `smmuv3` |
//! | `vtd` | `portcullis-vtd` | driver: Intel VT-d | `vtd` |
//! | `virtio_iommu` | `portcullis-virtio-iommu` | driver: virtio-iommu 1.3 | `virtio-iommu` |
//! | `firmware` | `portcullis-firmware` | devicetree and ACPI tables to descriptions | `firmware` |
//! | `pci` | `portcullis-pci` | enumeration, requester ids and isolation groups of PCI | `pci` |
//! | `bare` | `portcullis-bare` | the seams on bare AArch64, riscv64, x86-64 | `bare` |
//! | `vm_memory` | `portcullis-vm-memory` | a page table as the IOMMU of a guest memory of `vm-memory` | `vm-memory` |
//! | `dma_api` | `portcullis-dma-api` | drivers of `dma-api` behind an IOMMU | `dma-api` |
//! | `virtio` | `portcullis-virtio` | the drivers of `virtio-drivers` behind an IOMMU | `virtio` |
//!
//! This is the order in which a kernel does things. The hardware of the example is the software machine of `portcullis-machine`:
//!
//! ```
//! use portcullis_iommu::addr::StreamId;
//! use portcullis_iommu::platform::host::HostThreads;
//! use portcullis_iommu::smmuv3::{Options, Smmu};
//! use portcullis_iommu::{DeviceDescription, DmaPath, FwNode, FwSpec, FwStream, Policy, Reach, Subsystem};
//! use portcullis_machine::{Machine, MachinePlatform, Profile};
//! use std::sync::Arc;
//!
//! let machine = Machine::builder().build();
//! let registers = machine.add_smmuv3(Profile::qemu10()).registers();
//! let platform = Arc::new(MachinePlatform::<HostThreads>::new(&machine));
//! let subsystem = Subsystem::new(Arc::clone(&platform), Policy::default());
//!
//! // What firmware says: this device, behind that IOMMU, with this stream id.
//! let iommu = FwNode(1);
//! let spec = FwSpec { streams: vec![FwStream::new(iommu, StreamId::new(0x10))] };
//! let described = DeviceDescription::new("/soc/ethernet@0", DmaPath::Translated(spec));
//! let nic = subsystem.add_device(described).expect("a sound description");
//!
//! // The IOMMU is brought up completely, every stream blocked, and only then visible.
//! let smmu = Smmu::bring_up(platform, registers, Options::default()).expect("it can be driven");
//! subsystem.register(iommu, Box::new(smmu)).expect("the first of that node");
//!
//! // No driver is bound: behind an IOMMU that means blocked, never direct.
//! assert_eq!(subsystem.reports()[0].reach, Reach::Blocked);
//! # let _ = nic;
//! ```
//!
//! What may be called in which context stands on the front page of the crate `portcullis`, and which instruction each barrier stands for, in the documentation of [`platform::DmaMemory`]. Minimum Rust: 1.88.
//!
//! Scope: re-exports, nothing else. Not supported: the instruments for tests (`portcullis-machine`, `portcullis-explore`, `portcullis-threads`, `portcullis-qemu`). They are not re-exported; depend on them by name.
//!
//! Dependency rule: uses the product's crates; none of them uses it. `no_std` + `alloc`, no `unsafe`.
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub use portcullis::*;
pub use portcullis_addr as addr;
#[cfg(feature = "amdvi")]
pub use portcullis_amdvi as amdvi;
#[cfg(feature = "bare")]
pub use portcullis_bare as bare;
#[cfg(feature = "dma-api")]
pub use portcullis_dma_api as dma_api;
#[cfg(feature = "firmware")]
pub use portcullis_firmware as firmware;
pub use portcullis_iova as iova;
#[cfg(feature = "pci")]
pub use portcullis_pci as pci;
pub use portcullis_pgtable as pgtable;
pub use portcullis_platform as platform;
#[cfg(feature = "riscv")]
pub use portcullis_riscv as riscv;
#[cfg(feature = "smmuv2")]
pub use portcullis_smmuv2 as smmuv2;
#[cfg(feature = "smmuv3")]
pub use portcullis_smmuv3 as smmuv3;
#[cfg(feature = "virtio")]
pub use portcullis_virtio as virtio;
#[cfg(feature = "virtio-iommu")]
pub use portcullis_virtio_iommu as virtio_iommu;
#[cfg(feature = "vm-memory")]
pub use portcullis_vm_memory as vm_memory;
#[cfg(feature = "vtd")]
pub use portcullis_vtd as vtd;
