//! Firmware's description of a machine, read into what the core understands.
//!
//! Scope: a flattened devicetree (Devicetree Specification v0.4, chapter 5) or ACPI tables ([`acpi`]) go in; one [`MachineDescription`] comes out: the
//! IOMMUs, the devices behind them with their stream ids, reserved regions, memory, and [`Finding`]s about what is wrong with the
//! description. The bindings read are `iommu/iommu.txt`, `pci/pci-iommu.txt`, `iommu/arm,smmu.yaml`, `iommu/arm,smmu-v3.yaml` and
//! `reserved-memory/reserved-memory.yaml` of the Linux kernel tree.
//!
//! Two promises:
//!
//! - **A broken description ends blocked.** No malformed property makes a device *direct*: a device whose description cannot be
//!   understood completely is [`portcullis::DmaPath::Unusable`], and a finding names the node, the property and the remedy. A device is direct
//!   only where the description names no IOMMU for it, or where the IOMMU that it names is itself disabled: the `iommus` binding
//!   allows that only for hardware that passes everything while it is off.
//! - **Hostile bytes are harmless.** Depth, nodes and path lengths are bounded ([`devicetree::TreeLimits`]); time and memory are
//!   linear in the input; nothing panics.
//!
//! ```
//! // A kernel has the blob from its boot loader; here it comes from a file.
//! let blob = include_bytes!("../../../boards/portcullis-default.dtb");
//! let machine = portcullis_firmware::read_devicetree(blob, "portcullis-default")?;
//! for device in &machine.devices {
//!     println!("{}: {:?}", device.description.path, device.description.dma);
//! }
//! assert!(machine.devices.iter().any(|device| device.description.path.contains("npu")));
//! # Ok::<(), portcullis_firmware::ReadError>(())
//! ```
//!
//! A kernel that wants its console or interrupt controller from the same parse reads the [`devicetree::Tree`].
//!
//! Not supported: IOMMUs whose `#iommu-cells` is above 2; the `mmu-masters` binding that preceded `iommus`
//! (the devices that it names are refused, never direct); `dma-ranges` that move addresses (a
//! device without an IOMMU below them is refused). PCI functions below a bridge get the bus numbers that an enumeration
//! would give if the description names every bridge; a device that is plugged in elsewhere shifts them.
//!
//! Dependency rule: uses `portcullis-addr`, the core's description types and what `portcullis-pci` finds, and nothing else. It knows no driver and no hardware.
//! `no_std` + `alloc`, no `unsafe`.
#![no_std]
#![forbid(unsafe_code)]
// Bytes from outside reach every line below: what could panic on them does not compile.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
mod checks;
pub mod devicetree;
mod enumerated;
mod finding;
mod groups;
mod machine;
mod pci;
mod problem;
mod reserved;
mod rules;
mod spans;

pub use acpi::{AcpiError, read_acpi};
pub use devicetree::{ReadError, read_devicetree};
pub use finding::{Finding, Severity};
pub use groups::{client_groups, function_groups, sharing};
pub use machine::{
    DescribedDevice, DirectDevice, Interrupt, InterruptSource, IommuKind, IommuNode,
    MachineDescription, MsiMap, Quirk, SourceKind,
};
pub use pci::{IommuMap, NotMapped, PciBus, PciFunction, PciScope, RequesterId};
pub use rules::{Rule, rule, rule_named};
