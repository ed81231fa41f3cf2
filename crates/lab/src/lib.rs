//! The lab: every interleaving of the probe protocols, and what comes out of them.
//!
//! Knows nothing of terminals. See [`linux`] for the kernels' protocols, [`ours`] for our own core and driver as shipped,
//! [`picture`] for the ladders and the matrix, [`tree`] for which protocol a source tree follows.

pub mod linux;
pub mod ours;
pub mod picture;
pub mod tree;
