//! The address spaces and the stream id.

use core::fmt;

mod sealed {
    pub trait Sealed {}
}

/// What [`Iova`] and [`PhysAddr`] have in common, so that [`crate::Range`] is written once. Sealed.
pub trait Address: Copy + Ord + fmt::Debug + fmt::Display + sealed::Sealed {
    /// The address as a plain number of bytes.
    fn raw(self) -> u64;
    /// The address with that number.
    fn from_raw(raw: u64) -> Self;
}

macro_rules! address {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address `raw`, in bytes. Every 64-bit number is an address.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The plain number of bytes.
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// `self + bytes`, or `None` where that does not fit 64 bits.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// `self - bytes`, or `None` where that would be negative.
            pub const fn checked_sub(self, bytes: u64) -> Option<Self> {
                match self.0.checked_sub(bytes) {
                    Some(difference) => Some(Self(difference)),
                    None => None,
                }
            }

            /// Whether the address is a multiple of `align`, a power of two in bytes.
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }

            /// The largest multiple of `align`, a power of two in bytes, that is not above the address.
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !(align - 1))
            }

            /// Bytes between the address and the multiple of `align`, a power of two, below it.
            pub const fn offset_in(self, align: u64) -> u64 {
                self.0 & (align - 1)
            }
        }

        impl sealed::Sealed for $name {}

        impl Address for $name {
            fn raw(self) -> u64 {
                self.0
            }

            fn from_raw(raw: u64) -> Self {
                Self(raw)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
    };
}

address! {
    /// An address as a device emits it: the input of an IOMMU.
    #[doc(alias = "dma_addr_t")]
    #[doc(alias = "IAS")]
    Iova
}

address! {
    /// An address on the system bus: the output of an IOMMU, or what a device without one emits.
    #[doc(alias = "phys_addr_t")]
    #[doc(alias = "OAS")]
    PhysAddr
}

/// The id with which a device's transactions reach an IOMMU.
///
/// Arm calls it StreamID (up to 32 bits); Intel source-id, AMD DeviceID, RISC-V device_id, virtio endpoint id. For PCI it is derived from the requester id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
#[doc(alias = "sid")]
pub struct StreamId(u32);

impl StreamId {
    /// The id `raw`; whether a unit can receive it is for its driver to say.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The plain number.
    pub const fn raw(self) -> u32 {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({:#x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_stops_at_the_ends() {
        assert_eq!(Iova::new(u64::MAX).checked_add(1), None);
        assert_eq!(Iova::new(0).checked_sub(1), None);
        assert_eq!(PhysAddr::new(0x1fff).align_down(0x1000), PhysAddr::new(0x1000));
        assert_eq!(PhysAddr::new(0x1fff).offset_in(0x1000), 0xfff);
        assert!(!Iova::new(0x1fff).is_aligned(0x1000));
    }
}
