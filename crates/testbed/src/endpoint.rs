//! A device that does real DMA, seen the same way on every machine.

use portcullis_addr::PhysAddr;

/// A device that can be told to do DMA: either it copies on command, or it comes with a driver of its own.
pub trait Endpoint: Send + Sync {
    /// Its ways to memory: one for each stream of its description, in that order; 1 for a device behind no IOMMU.
    fn ports(&self) -> usize {
        1
    }

    /// The driver of a device that cannot copy on command.
    fn own_driver(&self) -> Option<&dyn OwnDriver> {
        None
    }

    /// Reads `len` bytes (4 to 1024, a multiple of 4) at device address `from` and writes them to device address `to`, both through `port`. What the IOMMU refuses does not happen; the
    /// device need not notice.
    fn copy(&self, port: usize, from: u64, to: u64, len: usize) {
        let _ = (port, from, to, len);
    }

    /// Whether a read of 4 bytes at device address `from` through `port` succeeds; `None` where it cannot be tried.
    fn reads(&self, port: usize, from: u64) -> Option<bool> {
        let _ = (port, from);
        None
    }

    /// From now on nothing of the device may reach memory untranslated (`true`), or nothing is claimed (`false`).
    fn expect_translated(&self, translated: bool) {
        let _ = translated;
    }

    /// From now on (until [`permit`](Self::permit)) nothing may be reached at `len` bytes from device address `start`.
    fn forbid(&self, start: u64, len: u64) {
        let _ = (start, len);
    }

    /// Undoes [`forbid`](Self::forbid), before the range is mapped again.
    fn permit(&self, start: u64, len: u64) {
        let _ = (start, len);
    }
}

/// Memory that CPU and device share.
#[derive(Clone, Copy, Debug)]
pub struct SharedBuffer {
    /// For the CPU.
    pub phys: PhysAddr,
    /// For the device.
    pub device: u64,
    /// Bytes.
    pub len: usize,
}

/// A small driver for a device with queues: brings it up, has it do real work, and can make it use its memory again when that is gone.
pub trait OwnDriver {
    /// How many pages of memory it needs.
    fn buffers(&self) -> usize;

    /// Brings the device up with those pages and has it do something that shows; returns what, for people.
    ///
    /// # Errors
    ///
    /// What did not work.
    fn run(&self, buffers: &[SharedBuffer]) -> Result<String, String>;

    /// Makes the device access memory that [`run`](Self::run) gave it. By now it is unmapped.
    fn touch(&self);
}
