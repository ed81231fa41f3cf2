//! The address of a function on its segment.

use core::fmt;

/// Bus, device and function within one PCI segment: the requester id of the function (PCI Express Base 6.0, 2.2.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(alias = "requester id")]
#[doc(alias = "routing id")]
pub struct Bdf(u16);

impl Bdf {
    /// `bus:device.function`; `device` below 32 and `function` below 8, higher bits are ignored.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self((bus as u16) << 8 | (device as u16 & 0x1f) << 3 | (function as u16 & 7))
    }

    /// From the 16 bits that a transaction carries.
    pub const fn from_requester_id(id: u16) -> Self {
        Self(id)
    }

    /// The 16 bits that a transaction carries.
    pub const fn requester_id(self) -> u16 {
        self.0
    }

    /// The bus.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The device on the bus, below 32.
    pub const fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 0x1f
    }

    /// The function of the device, below 8.
    pub const fn function(self) -> u8 {
        self.0 as u8 & 7
    }

    /// Device and function in one byte, which is the function's number where ids are read alternatively (ARI).
    #[doc(alias = "devfn")]
    pub const fn device_function(self) -> u8 {
        self.0 as u8
    }

    /// The same bus with that device and function.
    pub(crate) const fn with_device_function(self, device_function: u8) -> Self {
        Self(self.0 & 0xff00 | device_function as u16)
    }
}

impl fmt::Display for Bdf {
    /// `01:02.3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus(), self.device(), self.function())
    }
}
