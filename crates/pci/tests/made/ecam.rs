//! Where an ECAM has what: PCI Express Base 6.0, table 7-1.

use portcullis_pci::{Bdf, ConfigSpace, Ecam, Width};
use portcullis_platform::Registers;

/// Two buses, whose registers hold their own offset.
struct Offsets;

impl Registers for Offsets {
    fn read32(&self, offset: usize) -> u32 {
        offset as u32
    }
    fn write32(&self, _: usize, _: u32) {}
    fn len(&self) -> usize {
        2 << 20
    }
}

#[test]
fn bus_device_function_and_register_are_bits_of_the_address() {
    let ecam = Ecam::new(Offsets, 0x40);
    let read = |bus, device, function, offset| {
        let Ok(value) = ecam.read(Bdf::new(bus, device, function), offset, Width::Long);
        value
    };
    assert_eq!(read(0x40, 0, 0, 0), 0);
    assert_eq!(read(0x41, 0x1f, 7, 0xffc), 1 << 20 | 0x1f << 15 | 7 << 12 | 0xffc);
    assert_eq!(read(0x41, 2, 3, 0x104), 1 << 20 | 2 << 15 | 3 << 12 | 0x104);
    assert_eq!((read(0x3f, 0, 0, 0), read(0x42, 0, 0, 0)), (u32::MAX, u32::MAX), "other buses");
    let Ok(beyond) = ecam.read(Bdf::new(0x42, 0, 0), 0, Width::Word);
    assert_eq!(beyond, 0xffff);
}
