//! Our own core and SMMUv3 driver, as shipped, under the explorer.
mod client;
mod late;
mod platform;
mod promises;
mod stage;
mod world;

pub use client::{Endpoint, Prober};
pub use platform::{LabHook, LabMemory, LabPlatform};
pub use world::{Client, Event, World};
