//! Machines to run the shipped core and drivers on, each seen the same way: the software machine and QEMU.
//!
//! - [`Testbed`]: a machine with IOMMUs to bring up and devices that do DMA; [`SoftwareMachine`] and [`QemuMachine`] are two.
//! - [`Endpoint`]: a device that does real DMA at command, or with a small driver of its own.
//! - [`IommuDriver`]: which hardware driver serves which IOMMU. Firmware's reader knows no driver, and no driver knows firmware; they meet here.
//!
//! ```
//! use portcullis_testbed::{SoftwareMachine, Testbed};
//!
//! let board = portcullis_firmware::read_devicetree(include_bytes!("../../../boards/portcullis-default.dtb"), "default")?;
//! let machine = SoftwareMachine::new(&board, 1);
//! let iommu = &board.iommus[0];
//! assert!(machine.bring_up(iommu).is_ok(), "{}: its driver resets it and blocks every stream", iommu.path);
//! assert!(machine.violations().is_empty());
//! # Ok::<(), portcullis_firmware::ReadError>(())
//! ```
//!
//! Not supported: real hardware. A kernel brings its own platform and joins core and drivers as `registry` does.
//!
//! Dependency rule: uses the core, every driver, every platform and the firmware reader. Only programs and tests use it.

mod bring_up;
mod endpoint;
mod qemu;
mod random;
mod registry;
mod software;
mod testbed;

pub use endpoint::{Endpoint, OwnDriver, SharedBuffer};
pub use qemu::{QemuBoard, QemuMachine, acpi_tables};
pub use random::Random;
pub use registry::{BroughtUp, DRIVERS, IommuDriver, Kept, UnitNote, UnitOptions, quirk_words};
pub use software::{SoftwareMachine, UnitProfile};
pub use testbed::Testbed;
