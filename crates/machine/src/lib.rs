//! The software machine: memory, a bus, register-level IOMMUs and devices that do DMA, built to punish.
//!
//! Scope: what a core and a driver need to run on ([`MachinePlatform`]), hardware that uses every freedom the architecture gives it ([`Policy`]) or is
//! broken ([`Faults`]), and an [`Oracle`] that records whatever must not happen. Any [`IommuModel`] fits the bus; four are here. An [`SmmuV3`] keeps every entry and translation until a command covers
//! it, reads entries in pieces, consumes commands late, and does not see stores that were not published. A page that was freed is poisoned, and every access to it is
//! recorded.
//!
//! ```
//! use portcullis_addr::{Iova, PhysAddr, StreamId};
//! use portcullis_machine::{DmaRequest, Expectation, Machine, Profile};
//! use portcullis_platform::Registers;
//! use portcullis_spec::smmuv3::{GBPA, gbpa};
//!
//! let machine = Machine::builder().ram(PhysAddr::new(0x8000_0000), 16 << 20).seed(1).build();
//! let smmu = machine.add_smmuv3(Profile::qemu10());
//! let disk = machine.add_client("disk", &smmu, StreamId::new(0x10));
//!
//! // Out of reset the SMMU lets everything pass: boot-time DMA is possible.
//! assert!(machine.dma(disk.id(), DmaRequest::write(Iova::new(0x8000_0000), b"hello")).is_completed());
//!
//! // A driver's first act ends that. The machine is told what to expect, and would report the opposite.
//! let registers = smmu.registers();
//! registers.write32(GBPA.offset, (gbpa::ABORT.of(1) | gbpa::UPDATE.of(1)) as u32);
//! while gbpa::UPDATE.is_set(registers.read32(GBPA.offset).into()) {}
//! disk.expect(Expectation::Blocked);
//! assert!(!machine.dma(disk.id(), DmaRequest::write(Iova::new(0x8000_0000), b"again")).is_completed());
//! assert_eq!(machine.violations(), []);
//! ```
//!
//! An [`SmmuV2`] is just as unkind: it keeps translations until software has waited for the maintenance, lets streams pass until it is told otherwise, and faults where two groups
//! match. Its profile can give it the quirks of integrations that are known to have some.
//!
//! Locks: the machine holds none of its own while it calls a [`StepHook`], an interrupt sink or a chunk callback, so each of these may use the machine. The
//! transactions of one IOMMU exclude each other at the moment of the access itself, and so no access follows an invalidation that has completed.
//!
//! Not supported: Secure, Realm and Root register pages; EL2 and EL3 translation regimes (`IDR0.Hyp` is 0); AArch32 tables, 128-bit descriptors, `IDR5.DS`; ATS,
//! PRI and ATOS; stalls (`STALL_MODEL` is "terminate"); hardware access flag and dirty state; MPAM; broadcast TLB maintenance; the
//! contiguous hint (such entries are cached one by one); memory attributes; event merging. Devices snoop the CPUs' caches, always.
//!
//! Also not supported, of SMMUv2: nested translation, short descriptors, the upper range of AArch32 tables, address translation operations, the performance monitor; a transaction that faults is aborted also where `GFRE`
//! or `CFRE` ask for an answer of zeroes.
//!
//! Also not supported, of a [`VirtioIommu`]: the PCI transport, packed queues, indirect descriptors, event indexes, and the views of memory of an agent that does not snoop (what it reads and writes is what the CPU sees).
//!
//! Also not supported, of a [`RiscvIommu`]: process directories, MSI page tables, ATS (the page-request queue is there, nothing comes), flags set by hardware, big endian, Sv32, Svpbmt, the performance
//! monitor, debugging by translation requests, quality of service.
//!
//! Also not supported, of a [`VtdIommu`]: interrupt remapping, device TLBs and page requests, requests with a PASID, nested stages, flags set by hardware (a leaf without them is refused), the registers by which caches are
//! invalidated without a queue, the advanced fault log, protected memory regions (they can be turned on and off, and protect nothing), performance monitoring, virtual commands.
//!
//! Also not supported, of an [`AmdVi`]: guest (v2) tables, ATS and page requests (their log is there, nothing comes), interrupt remapping (a device's interrupts go nowhere), flags set by hardware, the guest virtual APIC, performance
//! counters, SE and SA.
//!
//! Dependency rule: uses `addr`, `platform` and `spec`; never a driver, and no driver uses it. `std`. `unsafe` only as the word before `impl DmaMemory`.

mod access;
mod allocator;
mod amdvi;
mod bus;
mod careless;
mod chunks;
mod clock;
mod device;
mod faults;
mod hook;
mod memory;
mod model;
mod oracle;
mod platform;
mod random;
mod request;
mod riscv;
mod sight;
mod smmuv2;
mod smmuv3;
mod sparse;
mod virtio;
mod vmsa;
mod vtd;

pub use access::{AccessKind, AccessRecord, Agent, DeviceId, Passage};
pub use amdvi::{AmdVi, AmdViCounters, AmdViProfile};
pub use bus::{Machine, MachineBuilder};
pub use careless::{Careless, without};
pub use clock::{MachineClock, TimeSource};
pub use device::{BUFFER_SIZE, Device, Expectation, Port};
pub use faults::{
    ChunkOrder, ChunkPoint, CommandError, Consumption, Faults, Policy, ReadChunks, StoreOrder,
    TlbPolicy,
};
pub use hook::{NoHook, StepHook};
pub use memory::{BusAbort, POISON, PhysicalMemory, Usage};
pub use model::{Aborted, Access, Grant, IommuModel, Land, RegisterBlock, RegisterModel, Wiring};
pub use oracle::{Oracle, Violation};
pub use platform::MachinePlatform;
pub use request::{DmaOutcome, DmaRequest};
pub use riscv::{RiscvCounters, RiscvInterrupts, RiscvIommu, RiscvProfile};
pub use smmuv2::{
    FirmwareGroup, Interleaved, SmmuV2, SmmuV2Counters, SmmuV2Line, SmmuV2Profile, SmmuV2Registers,
    share_translations,
};
pub use smmuv3::{Counters, InterruptLine, Profile, SmmuRegisters, SmmuV3};
pub use virtio::{VirtioCounters, VirtioIommu, VirtioProfile};
pub use vtd::{VtdCounters, VtdIommu, VtdProfile};
