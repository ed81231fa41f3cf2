//! PCI: configuration space, and what stands on the buses (PCI Express Base 6.0, 7.2 and 7.5; PCI-to-PCI Bridge 1.2).

mod config;
mod enumerate;

pub use config::{Bdf, ConfigAccess, ConfigSpace, Requests};
pub use enumerate::{Bar, Bridge, BridgeKind, Function, MemoryWindow, enumerate};
