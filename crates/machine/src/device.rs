//! Devices that do DMA: the thing an IOMMU is there for.

use crate::access::DeviceId;
use crate::model::IommuModel;
use portcullis_addr::{Iova, StreamId};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// One of a device's ways to memory: with which id it reaches which IOMMU.
#[derive(Clone, Debug)]
pub struct Port {
    /// The IOMMU.
    pub iommu: Arc<dyn IommuModel>,
    /// The id that its transactions carry there: a StreamID, source-id, DeviceID, device_id or endpoint.
    pub id: StreamId,
}

impl Port {
    /// Reaches `iommu` with `id`.
    pub fn new<M: IommuModel>(iommu: &Arc<M>, id: StreamId) -> Self {
        Self { iommu: Arc::<M>::clone(iommu), id }
    }
}

/// What a test declares about a device's DMA from now on. An access that contradicts it is recorded as a [`Violation`](crate::Violation).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Expectation {
    /// Nothing is declared.
    Anything = 0,
    /// No access may reach memory.
    Blocked = 1,
    /// Accesses reach memory only through a translation.
    Translated = 2,
}

/// Size of a device's own buffer, in bytes.
pub const BUFFER_SIZE: usize = 4096;

/// A device with a buffer of its own ([`BUFFER_SIZE`] bytes), in the manner of QEMU's `edu`: software sees the buffer only by having the device copy it to memory.
#[derive(Debug)]
pub struct Device {
    id: DeviceId,
    name: String,
    ports: Vec<Port>,
    expectation: AtomicU8,
    /// Ranges of input addresses, `[start, end]`, that are declared unmapped.
    forbidden: RwLock<Vec<(u64, u64)>>,
    buffer: Mutex<Box<[u8; BUFFER_SIZE]>>,
}

impl Device {
    pub(crate) fn new(id: DeviceId, name: String, ports: Vec<Port>) -> Self {
        Self {
            id,
            name,
            ports,
            expectation: AtomicU8::new(Expectation::Anything as u8),
            forbidden: RwLock::new(Vec::new()),
            buffer: Mutex::new(Box::new([0; BUFFER_SIZE])),
        }
    }

    /// Its number.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// The name that it was made with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How its transactions reach memory, in the order given; empty for a device behind no IOMMU.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Declares what its accesses must look like from now on.
    pub fn expect(&self, expectation: Expectation) {
        self.expectation.store(expectation as u8, Ordering::Release);
    }

    pub(crate) fn expectation(&self) -> Expectation {
        match self.expectation.load(Ordering::Acquire) {
            1 => Expectation::Blocked,
            2 => Expectation::Translated,
            _ => Expectation::Anything,
        }
    }

    /// Declares `len` bytes from `start` unmapped: an access that still gets through there is a violation (P3). Call it when a strict unmap has returned.
    pub fn forbid(&self, start: Iova, len: u64) {
        let range = (start.raw(), start.raw().saturating_add(len.saturating_sub(1)));
        self.forbidden.write().unwrap_or_else(PoisonError::into_inner).push(range);
    }

    /// Takes back every [`forbid`](Self::forbid) that overlaps `len` bytes from `start`. Call it before the range is mapped again.
    pub fn permit(&self, start: Iova, len: u64) {
        let last = start.raw().saturating_add(len.saturating_sub(1));
        self.forbidden
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(first, end)| last < *first || *end < start.raw());
    }

    pub(crate) fn is_forbidden(&self, address: u64, len: u64) -> bool {
        let last = address.saturating_add(len.saturating_sub(1));
        self.forbidden
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .any(|(first, end)| address <= *end && *first <= last)
    }

    /// Fills its buffer with bytes that depend on `seed`, so that what arrives somewhere can be recognised.
    pub fn fill_buffer(&self, seed: u8) {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, byte) in buffer.iter_mut().enumerate() {
            *byte = (index as u8).wrapping_mul(31).wrapping_add(seed);
        }
    }

    /// Its buffer's bytes (a test's privilege: software cannot read them).
    pub fn buffer(&self) -> Vec<u8> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner).to_vec()
    }

    /// Stores what the device read in its buffer, at `offset`.
    pub(crate) fn keep(&self, offset: usize, bytes: &[u8]) {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        buffer[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}
