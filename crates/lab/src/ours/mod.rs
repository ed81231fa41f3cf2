//! Our own core and Arm SMMU drivers, as shipped, in every interleaving.
//!
//! Nothing is modelled: a [`World`] puts the `portcullis` core and one of the drivers ([`Family`]; the SMMUv3 where the key of a world begins with none of the others) on a register-level software machine and exchanges the
//! platform's locks and events, nothing else. Each IOMMU is brought up and registered by a thread of its own, each client bound by one; workers, unplugging,
//! unregistration and failing allocations are threads and choices beside them. `portcullis-threads` then runs every order of their steps.
//!
//! # Steps
//!
//! Lock acquisitions, event reads, waits and notifications; each register access, command and DMA access of the machine; each load, store and compare-and-exchange of
//! tables and queues ([`LabMemory`]), because page tables are shared without a lock. An allocation fails, at most once in each thread, where [`World::allocations_fail`]
//! says so. A device's transaction is one step of its own; only in the world `v2-rogue` it also comes before or after each register access of its SMMU. Commands take effect when the producer index is written, so no order depends on time; hardware that consumes late is for the driver's own tests.
//!
//! # Promises
//!
//! | promise | how it is decided |
//! | --- | --- |
//! | P1 | [`Prober`], each client's driver: it is never probed twice, its DMA path is translated, and its device's DMA arrives, when probe runs and when it is removed |
//! | P2 | the SMMUs come out of reset aborting (an SMMUv2 cannot: there firmware has closed it), so a device that is not bound reaches nothing: tried before each bind and at the end |
//! | P6 | at rest no deferred work is left, every client whose IOMMUs serve is bound; what waits for an absent IOMMU is bound when that comes (back) |
//! | P7 | when everything is given back, all counts are zero and every block of memory is free |
//! | P9 | the final picture is observed; worlds whose outcome may not depend on the order have one |
//! | machine | the machine saw no stale translation, no freed memory reached, no guarded register written |
//!
//! Deadlock, lost wake-up, recursive locks, panics and endless runs are the explorer's own properties.
//!
//! # Arrows
//!
//! [`World`] is data and knows no other module here. The stage (machine, core, clients) is built from it, promises look at a stage, the threads act on it, and
//! [`check`] and [`replay`] stand on top.
//!
//! # How to run
//!
//! `portcullis lab ours` exhausts all of them; `portcullis lab ours storm --random 10000000` draws ten million storms. The storms begin
//! with all IOMMUs registered and step only at locks, events and DMA. `cargo test -p portcullis-lab --test suite ours_planted::` breaks the core in twelve ways, each of
//! which one of the worlds shows.
//!
//! # Not covered
//!
//! Atomics inside the driver (the command queue's copies of its producer index and failure count) are read and written within steps; their own orders
//! are not explored. Weak memory. Hardware that answers late or wrongly.

mod build;
mod check;
mod client;
mod family;
mod late;
mod platform;
mod promises;
mod revoke;
mod stage;
mod world;

pub use check::{
    Budget, CheckError, EDITION, Report, Run, Verdict, ViolationReport, check, replay,
};
pub use client::{Endpoint, Prober};
pub use family::Family;
pub use platform::{LabHook, LabMemory, LabPlatform, Omitted, omit, omit_named};
pub use world::{Client, Event, World};
