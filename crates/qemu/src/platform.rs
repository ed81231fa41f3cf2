//! The platform seams on a QEMU machine: the core and the drivers run on it as they are.

use crate::error::{Error, ErrorKind};
use crate::process::Qemu;
use crate::qtest::{Request, Width};
use crate::ram::Ram;
use portcullis_addr::PhysAddr;
use portcullis_platform::host::{HostClock, HostPlatform};
use portcullis_platform::{Registers, Timeout, wait_for};
use std::sync::Arc;
use std::time::Duration;

/// Locks and time of this process, memory of the machine ([`Qemu::ram`]).
pub type QemuPlatform = HostPlatform<Ram>;

/// A block of registers of the machine, accessed over the qtest socket (15 to 50 us each).
///
/// When QEMU is gone reads give all ones, as from a device that left the bus; [`Qemu::check`] tells why.
#[derive(Clone, Debug)]
pub struct Mmio {
    qemu: Arc<Qemu>,
    base: u64,
    len: usize,
}

impl Mmio {
    /// The `len` bytes of registers at `base`.
    pub fn new(qemu: &Arc<Qemu>, base: PhysAddr, len: usize) -> Self {
        Self { qemu: Arc::clone(qemu), base: base.raw(), len }
    }

    /// Where the block is.
    pub fn base(&self) -> PhysAddr {
        PhysAddr::new(self.base)
    }

    /// The machine.
    pub fn qemu(&self) -> &Arc<Qemu> {
        &self.qemu
    }

    /// Reads `width` at `offset`.
    pub fn read(&self, width: Width, offset: usize) -> u64 {
        self.qemu.read(width, self.at(offset)).unwrap_or(u64::MAX)
    }

    /// Writes `width` at `offset`.
    pub fn write(&self, width: Width, offset: usize, value: u64) {
        // A machine that is gone ignores writes, as a device that left the bus does.
        let _ = self.qemu.write(width, self.at(offset), value);
    }

    /// Writes several 64-bit words in one go, in order.
    ///
    /// # Errors
    ///
    /// As [`Qemu::pipeline`].
    pub fn write_words(&self, words: &[(usize, u64)]) -> Result<(), Error> {
        let write =
            |(offset, value): &(usize, u64)| Request::Write(Width::Quad, self.at(*offset), *value);
        self.qemu.pipeline(&words.iter().map(write).collect::<Vec<_>>()).map(drop)
    }

    /// Looks at `condition` until it holds, for at most `bound`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Device`] naming `device` and `what` when it did not hold in time, or why QEMU does not answer.
    pub(crate) fn await_device(
        &self,
        device: &'static str,
        what: &str,
        bound: Duration,
        condition: impl FnMut() -> bool,
    ) -> Result<(), Error> {
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        let ended = wait_for(&HostClock::start(), nanos, condition);
        ended.or_else(|Timeout { .. }| {
            self.qemu.check()?;
            Err(ErrorKind::Device { device, what: format!("{what}: not within {bound:?}") }.into())
        })
    }

    fn at(&self, offset: usize) -> u64 {
        assert!(offset < self.len, "offset {offset:#x} outside {:#x} bytes of registers", self.len);
        self.base + offset as u64
    }
}

impl Registers for Mmio {
    fn read32(&self, offset: usize) -> u32 {
        self.read(Width::Long, offset) as u32
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write(Width::Long, offset, u64::from(value));
    }

    fn read64(&self, offset: usize) -> u64 {
        self.read(Width::Quad, offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write(Width::Quad, offset, value);
    }

    fn read16(&self, offset: usize) -> u16 {
        self.read(Width::Word, offset) as u16
    }

    fn write16(&self, offset: usize, value: u16) {
        self.write(Width::Word, offset, value.into());
    }

    fn read8(&self, offset: usize) -> u8 {
        self.read(Width::Byte, offset) as u8
    }

    fn write8(&self, offset: usize, value: u8) {
        self.write(Width::Byte, offset, value.into());
    }

    fn len(&self) -> usize {
        self.len
    }
}
