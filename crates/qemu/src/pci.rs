//! PCI: configuration space over qtest, and the places of BARs (PCI Express Base 6.0, 7.2 and 7.5; PCI-to-PCI Bridge 1.2). What stands on the buses is found by `portcullis-pci`.

mod config;
mod place;

pub use config::{ConfigAccess, ConfigSpace, Requests};
pub use place::{Bar, Function, MemoryWindow, place};
pub use portcullis_pci::{Bdf, Segment};
