//! The DMA handle: a driver's one way to let its device reach memory.

mod bounce;
mod buffer;
mod direction;
mod grant;
mod handle;
mod lease;
mod lend;
mod list;
mod mapping;
mod parked;
mod pool;
mod run;
mod turn;
mod view;

pub use bounce::{Bounce, NoBounce};
pub use buffer::DmaBuffer;
pub use direction::{Both, DeviceReads, DeviceWrites, DmaDirection, FromDevice, ToDevice};
pub use handle::DmaHandle;
pub(crate) use lease::Lease;
pub use lease::Reach;
use lend::Loan;
pub use lend::{Lendable, Lent, MemoryKind, RawMemory};
pub use list::{BufferList, Segment};
pub use mapping::{DmaMapping, MapFailure, Quarantined, UnmapFailure};
pub use parked::{NotRedeemed, Parked};
pub use run::DmaRun;
pub use turn::NotTurned;
pub use view::CpuView;
