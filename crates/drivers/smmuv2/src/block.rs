//! One register block of a unit.

use portcullis_platform::Registers;
use portcullis_spec::Register;
use portcullis_spec::smmuv2::{BlockShape, global0, global1};

/// One register block. A unit has one, or several that are programmed alike.
#[derive(Debug)]
pub(crate) struct Block<R> {
    registers: R,
    shape: BlockShape,
    /// Accesses have 32 bits.
    narrow: bool,
}

impl<R: Registers> Block<R> {
    pub(crate) fn new(registers: R, shape: BlockShape, narrow: bool) -> Self {
        Self { registers, shape, narrow }
    }

    pub(crate) fn read(&self, register: Register) -> u32 {
        self.registers.read32(register.offset)
    }

    /// Reads a global register of 64 bits in two halves.
    pub(crate) fn read64(&self, register: Register) -> u64 {
        self.halves(register.offset)
    }

    pub(crate) fn write(&self, register: Register, value: u32) {
        self.registers.write32(register.offset, value);
    }

    pub(crate) fn read_group(&self, register: Register, group: usize) -> u32 {
        self.registers.read32(register.offset + group * global0::GROUP_STRIDE)
    }

    pub(crate) fn write_group(&self, register: Register, group: usize, value: u32) {
        self.registers.write32(register.offset + group * global0::GROUP_STRIDE, value);
    }

    fn attribute(&self, register: Register, bank: usize) -> usize {
        self.shape.global1() + register.offset + bank * global1::BANK_STRIDE
    }

    pub(crate) fn read_attribute(&self, register: Register, bank: usize) -> u32 {
        self.registers.read32(self.attribute(register, bank))
    }

    pub(crate) fn write_attribute(&self, register: Register, bank: usize, value: u32) {
        self.registers.write32(self.attribute(register, bank), value);
    }

    pub(crate) fn read_bank(&self, register: Register, bank: usize) -> u32 {
        self.registers.read32(self.shape.bank(bank) + register.offset)
    }

    pub(crate) fn write_bank(&self, register: Register, bank: usize, value: u32) {
        self.registers.write32(self.shape.bank(bank) + register.offset, value);
    }

    pub(crate) fn read_bank64(&self, register: Register, bank: usize) -> u64 {
        self.halves(self.shape.bank(bank) + register.offset)
    }

    /// Writes a register of 64 bits; on a narrow interconnect the high half first, since the low one sets maintenance off.
    pub(crate) fn write_bank64(&self, register: Register, bank: usize, value: u64) {
        let offset = self.shape.bank(bank) + register.offset;
        if self.narrow {
            self.registers.write32(offset + 4, (value >> 32) as u32);
            self.registers.write32(offset, value as u32);
        } else {
            self.registers.write64(offset, value);
        }
    }

    fn halves(&self, offset: usize) -> u64 {
        let half = |at| u64::from(self.registers.read32(at));
        half(offset) | half(offset + 4) << 32
    }
}
