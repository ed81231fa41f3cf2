//! The lab: every interleaving of the probe protocols, and what comes out of them.
//!
//! Depends on the explorer only; knows nothing of terminals. See [`linux`] for the kernels' protocols.

pub mod linux;
