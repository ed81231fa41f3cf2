//! The comparison model, in several independent forms.
//!
//! A registrar brings up `iommus` IOMMUs in turn: publishes each under the probe lock, puts the group of each
//! of its clients there, gives each group its domain under the group's lock, sets the client's DMA flag
//! outside of it, and lets the deferred clients try again. Each client, under the probe lock: defers while its
//! IOMMU is missing; returns early if its group is there (the bug), or else sets group, domain and DMA flag;
//! then looks at its DMA flag. Fixed, the early return completes domain and flag under the group's lock. Client
//! `d` sits behind IOMMU `d % iommus`. Every lock, unlock and field access is a step.

pub(crate) mod lines;
pub(crate) mod packed;
pub(crate) mod protocol;
pub(crate) mod seed66;
pub(crate) mod seed66_stateright;
pub(crate) mod set_walk;
pub(crate) mod stateright;
