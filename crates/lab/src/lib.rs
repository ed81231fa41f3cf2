//! The lab: every interleaving of the probe protocols, and what comes out of them.
//!
//! Knows nothing of terminals. See [`linux`] for the kernels' protocols, [`ours`] for our own core and driver as shipped,
//! [`picture`] for the ladders and the matrix, [`tree`] for which protocol a source tree follows.
//!
//! ```
//! use portcullis_lab::linux::{BaseId, Budget, Protocol, Verdict, World, check};
//!
//! // The report's machine: one IOMMU is there, another one registers, one client.
//! let v6_6 = Protocol::of(BaseId::find("v6.6").expect("a known release"));
//! let world = World::of(2, 1, 1);
//! let report = check(&v6_6, &world, Budget::for_world(&world), &mut |_| {})?;
//! assert_eq!(report.verdict, Verdict::Violated);
//! println!("{}", report.violations[0].schedule);
//! # Ok::<(), portcullis_lab::linux::CheckError>(())
//! ```

pub mod linux;
pub mod ours;
pub mod picture;
pub mod tree;
