//! Forces a schedule of the lab on a stock, unmodified Linux kernel in QEMU, and says what happened.
//!
//! [`portcullis_lab`] says that an interleaving goes wrong; this crate asks the kernel. A distribution's arm64 image is booted as it is, on a [`board`] with one or two
//! SMMUv3s and one client. Two of its threads, the probe of an SMMU and the probe of the client, are steered from outside, through QEMU's gdb stub, so that they meet in the
//! order of the schedule. At each step the fields of the client's `struct device` are compared with those of the lab's model, which is driven by the same list of
//! advances. The [`Report`] gives one of *occurred*, *prevented at a function with a value*, *harmless* and *infeasible at a step*, says whether that is what the lab
//! predicts (or *diverged at a step*), and what a user sees afterwards.
//!
//! How it works, by the path of a replay: [`package`] (a kernel from a file or a mirror) → [`image`] (symbols, type information, call sites, all from the image itself) →
//! [`plan`] (a schedule by name or a lab string, as advances to places; the stop map) → `predict` (the lab's answer) → `guest`, `board`, `machine` (what is booted) →
//! `gdb`, `steer` (the threads are parked and let go) → `outcome` (one set of rules for model and kernel) → [`report`].
//!
//! ```no_run
//! use portcullis_replay::package::{Cache, Kernel, find_qemu};
//! use portcullis_replay::{Options, Replay, Schedule};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cache = Cache::of_user()?;
//! let kernel = Kernel::open(&["linux-image-6.1.0-56-arm64.deb".into()], None, &cache)?;
//! let busybox = std::fs::read("busybox")?;
//! let schedule = Schedule::parse("seed")?;
//! let board = schedule.board()?;
//! let qemu = &find_qemu(&cache)?;
//! let options = Options::default();
//! let report = Replay { qemu, kernel: &kernel, busybox: &busybox, board, schedule, options }.run()?;
//! println!("{}", report.answer());
//! # Ok(())
//! # }
//! ```
//!
//! # What a replay can and cannot show
//!
//! A thread is parked by an injected call of `msleep`, so it keeps its locks and everything else runs on; a stop where nobody may sleep is refused. TCG interleaves
//! instructions and says nothing about weak memory ordering. Only hardware that QEMU models takes part: SMMUv3, PCI, virtio. What is shown of the reporter's machine is the core
//! code that every SMMU driver shares.
//!
//! # Not supported
//!
//! ACPI boards; x86; more than one client, shared groups, hot-plug, VFIO, rebinding; SMMUv2 and SoC drivers (QEMU has none); kernels without BTF; kernels with pointer
//! authentication in use (the boards have a Cortex-A72, which has none); stops in atomic context; kernels before 6.1.120, and 6.2 to 6.5, 6.7 to 6.11, 6.13 to 6.15 (the
//! lab has no protocol of theirs).
//!
//! Dependency rule: uses `lab` and `explore` for predictions and `qemu` to find and start QEMU; knows nothing of our own core. Needs an operating system (Linux).

mod ablate;
pub mod board;
mod error;
mod gdb;
mod guest;
pub mod image;
mod layout;
mod machine;
mod outcome;
pub mod package;
pub mod plan;
mod predict;
pub mod report;
mod run;
mod scratch;
mod steer;

pub use ablate::Fix;
pub use error::Error;
pub use layout::{DmaIommuLayout, Home};
pub use outcome::{BadEnd, Outcome};
pub use report::{Damage, Report, Verdict};
pub use run::{Options, Replay, Schedule};
