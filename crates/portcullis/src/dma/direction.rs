//! Who moves the data, as types.

use portcullis_addr::Prot;

/// Who moves the data: one of [`ToDevice`], [`FromDevice`] and [`Both`].
#[doc(alias = "dma_data_direction")]
pub trait DmaDirection: sealed::Sealed {
    /// Whether the device reads the memory.
    const DEVICE_READS: bool;
    /// Whether the device writes the memory.
    const DEVICE_WRITES: bool;
}

/// A direction in which the device reads the memory.
pub trait DeviceReads: DmaDirection {}

/// A direction in which the device writes the memory.
pub trait DeviceWrites: DmaDirection {}

mod sealed {
    pub trait Sealed: Copy + Send + Sync + 'static {}
}

macro_rules! direction {
    ($(#[$doc:meta])* $name:ident, $reads:literal, $writes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name;

        impl sealed::Sealed for $name {}

        impl DmaDirection for $name {
            const DEVICE_READS: bool = $reads;
            const DEVICE_WRITES: bool = $writes;
        }
    };
}

direction! {
    /// The device reads.
    #[doc(alias = "DMA_TO_DEVICE")]
    ToDevice, true, false
}

direction! {
    /// The device writes.
    #[doc(alias = "DMA_FROM_DEVICE")]
    FromDevice, false, true
}

direction! {
    /// The device reads and writes.
    #[doc(alias = "DMA_BIDIRECTIONAL")]
    Both, true, true
}

impl DeviceReads for ToDevice {}
impl DeviceWrites for FromDevice {}
impl DeviceReads for Both {}
impl DeviceWrites for Both {}

/// What the device may do.
pub(super) fn prot<D: DmaDirection>() -> Prot {
    let mut prot = Prot::NOEXEC;
    prot.set(Prot::READ, D::DEVICE_READS);
    prot.set(Prot::WRITE, D::DEVICE_WRITES);
    prot
}
