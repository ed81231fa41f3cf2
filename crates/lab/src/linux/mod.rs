//! The probe protocols of Linux, version by version, as programs for the explorer.
//!
//! A [`Protocol`] is a base version with commits applied or reverted; a [`World`] says how many IOMMUs
//! and clients there are and what else happens. The modules below are named after the kernel's files,
//! and each function in them after the kernel function that it stands for: one shared access is one
//! step, differences between versions are tests of commits.
//!
//! # How to read a function
//!
//! `t.read`, `t.write`, `t.update` are one step each; `t.lock` waits; `?` after each of them only passes
//! on "the explorer stops here for now". `k.has(Commit::X)` asks whether the tree carries a commit.
//!
//! # Coarser than the kernel, on purpose
//!
//! - Leaf spinlocks and mutexes (`iommu_device_lock`, `deferred_probe_mutex`, klist locks) are one step with
//!   what they protect: nothing is taken inside them, so no other thread can tell.
//! - Lists of devices are sets; where the order of a list could matter (the deferred active list),
//!   any order is explored.
//! - A client's driver is its first mapping (and its interrupt vectors, where the world has them) and then
//!   "running": what it does later is judged by state.
//! - Two fields that no kernel has, `iommu-dma chosen` and `claim`, remember how a state came about, so that one bad end
//!   by two mechanisms is two findings: different commits close them.
//!
//! # Not supported
//!
//! Allocation failures; PASIDs; PCI aliases and ACS (a group is what the world says); fw_devlink.strict; the 6.8 to 6.11
//! kernels; weak memory (the explorer is sequentially consistent). IOMMUs other than Arm's: the fixes of their
//! drivers are listed without a step. 5.10 and 5.15 are written from the lines that 57365a04c921 takes away, their registration only. Stores of
//! `state_synced` (suppliers only) and `of_node_reused`, which share the byte of `dma_iommu` too. In 6.12 the type that
//! `iommu_setup_dma_ops` looks at is that of `group->domain`, in 7.2 that of the default domain: the difference shows
//! only under an outside owner, and the model has the latter.

mod arm_smmu;
mod base;
mod bus;
mod check;
mod client;
mod closers;
mod commit;
mod commit_table;
mod compare;
mod dd;
mod dma;
mod errno;
mod iommu;
mod kernel;
mod model;
mod property;
mod protocol;
mod report_json;
mod world;

pub use base::{BASES, BaseId, BaseInfo, Release};
pub use check::{Budget, CheckError, Explored, Report, Verdict, ViolationReport, check, replay};
pub use closers::{Advice, Change, Closers, advise, closers, neighbours};
pub use commit::{Commit, CommitInfo, CommitSet};
pub use commit_table::COMMITS;
pub use compare::{Cell, Matrix, compare, compared_bases, comparison_worlds};
pub(crate) use kernel::{DEVICE_LOCK, ON_GROUP_LIST, TRIGGERS};
pub use model::{EDITION, build, build_mutant, scenario};
pub use property::{Id as PropertyId, PROPERTIES, PropertyInfo};
pub use protocol::{Protocol, ProtocolError};
pub use world::{Behind, Bus, Driver, Event, Firmware, Grouping, World, WorldError};
