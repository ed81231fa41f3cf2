//! Configuration space that is mapped.

use crate::bdf::Bdf;
use crate::config::{ConfigSpace, Width};
use core::convert::Infallible;
use portcullis_platform::Registers;

/// An enhanced configuration access mechanism: 1 MiB for each bus from `first_bus` on, 4 KiB for each function (PCI Express Base 6.0, 7.2.2). The window is the one that MCFG or the `reg` of a
/// devicetree's host bridge names, mapped as device memory. Other buses read as ones.
#[derive(Clone, Debug)]
pub struct Ecam<R> {
    registers: R,
    first_bus: u8,
}

impl<R: Registers> Ecam<R> {
    /// The window of the buses from `first_bus` on, as many as it is long.
    pub fn new(registers: R, first_bus: u8) -> Self {
        Self { registers, first_bus }
    }

    fn at(&self, function: Bdf, offset: u16, width: Width) -> Option<usize> {
        let bus = function.bus().checked_sub(self.first_bus)?;
        let start = usize::from(bus) << 20 | usize::from(function.device_function()) << 12;
        let at = start | usize::from(offset & 0xfff);
        (at + width.bytes() <= self.registers.len()).then_some(at)
    }
}

impl<R: Registers> ConfigSpace for Ecam<R> {
    type Error = Infallible;

    fn read(&self, function: Bdf, offset: u16, width: Width) -> Result<u32, Infallible> {
        let Some(at) = self.at(function, offset, width) else { return Ok(width.ones()) };
        Ok(match width {
            Width::Byte => self.registers.read8(at).into(),
            Width::Word => self.registers.read16(at).into(),
            Width::Long => self.registers.read32(at),
        })
    }

    fn write(
        &self,
        function: Bdf,
        offset: u16,
        width: Width,
        value: u32,
    ) -> Result<(), Infallible> {
        if let Some(at) = self.at(function, offset, width) {
            match width {
                Width::Byte => self.registers.write8(at, value as u8),
                Width::Word => self.registers.write16(at, value as u16),
                Width::Long => self.registers.write32(at, value),
            }
        }
        Ok(())
    }
}
