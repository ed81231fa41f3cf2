//! The DMA handle: a driver's one way to let its device reach memory.

mod buffer;
mod direction;
mod handle;
mod lease;
mod lend;
mod mapping;
mod view;

pub use buffer::DmaBuffer;
pub use direction::{Both, DeviceReads, DeviceWrites, DmaDirection, FromDevice, ToDevice};
pub use handle::DmaHandle;
pub(crate) use lease::Lease;
pub use lease::Reach;
pub use lend::{Lendable, RawMemory};
pub use mapping::{DmaMapping, MapFailure, Quarantined, UnmapFailure};
pub use view::CpuView;
