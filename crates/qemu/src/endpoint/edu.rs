//! QEMU's educational device (QEMU's `docs/specs/edu.rst`): one DMA engine with a buffer of its own.

use crate::error::{Error, ErrorKind};
use crate::platform::Mmio;
use crate::qtest::Width;
use portcullis_addr::Iova;
use portcullis_platform::Registers;
use std::time::Duration;

const IDENTIFICATION: usize = 0x00;
const RAISE_INTERRUPT: usize = 0x60;
const DMA_SOURCE: usize = 0x80;
const DMA_DESTINATION: usize = 0x88;
const DMA_COUNT: usize = 0x90;
const DMA_COMMAND: usize = 0x98;
const COMMAND_RUN: u64 = 1;
const COMMAND_TO_MEMORY: u64 = 1 << 1;
/// Where the device's own buffer is in the device's address space.
const BUFFER_BASE: u64 = 0x4_0000;
/// The engine is a timer of 100 ms virtual time, which jumps there at once.
const DMA_BOUND: Duration = Duration::from_secs(10);

/// An `edu` device.
#[derive(Clone, Debug)]
pub struct Edu {
    registers: Mmio,
}

impl Edu {
    /// Bytes of the device's buffer that a transfer may use. (There are four more; QEMU 7.2 ends itself when one touches the last.)
    pub const BUFFER_LEN: usize = 4092;

    /// The device behind BAR 0 `registers`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Device`] when the identification register is not that of an `edu`.
    pub fn new(registers: Mmio) -> Result<Self, Error> {
        let id = registers.read32(IDENTIFICATION);
        if id & 0xffff != 0x00ed {
            let what = format!("identification register reads {id:#x}");
            return Err(ErrorKind::Device { device: "edu", what }.into());
        }
        Ok(Self { registers })
    }

    /// Lets the device read `len` bytes of memory at `iova` into its buffer at `offset`. What the IOMMU refuses leaves the buffer as it was.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Device`] for a transfer outside the buffer, or one that does not end.
    pub fn read_memory(&self, iova: Iova, offset: usize, len: usize) -> Result<(), Error> {
        let inside = Self::inside(offset, len)?;
        self.transfer(iova.raw(), inside, len, COMMAND_RUN)
    }

    /// Lets the device write `len` bytes of its buffer at `offset` to memory at `iova`.
    ///
    /// # Errors
    ///
    /// As [`read_memory`](Self::read_memory).
    pub fn write_memory(&self, iova: Iova, offset: usize, len: usize) -> Result<(), Error> {
        let inside = Self::inside(offset, len)?;
        self.transfer(inside, iova.raw(), len, COMMAND_RUN | COMMAND_TO_MEMORY)
    }

    /// Raises the device's interrupt: with MSI enabled a memory write that passes the IOMMU like any other.
    pub fn raise_interrupt(&self, status: u32) {
        self.registers.write32(RAISE_INTERRUPT, status);
    }

    fn inside(offset: usize, len: usize) -> Result<u64, Error> {
        let fits = offset.checked_add(len).is_some_and(|end| end <= Self::BUFFER_LEN);
        if !fits || len == 0 {
            let what = format!("no transfer of {len} bytes at {offset:#x} of its buffer");
            return Err(ErrorKind::Device { device: "edu", what }.into());
        }
        Ok(BUFFER_BASE + offset as u64)
    }

    fn transfer(&self, from: u64, to: u64, len: usize, command: u64) -> Result<(), Error> {
        self.registers.write_words(&[
            (DMA_SOURCE, from),
            (DMA_DESTINATION, to),
            (DMA_COUNT, len as u64),
            (DMA_COMMAND, command),
        ])?;
        self.registers.await_device("edu", "end of a transfer", DMA_BOUND, || {
            self.registers.read(Width::Quad, DMA_COMMAND) & COMMAND_RUN == 0
        })
    }
}
