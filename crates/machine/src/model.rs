//! What the bus knows of an IOMMU, whatever its kind. A port of a device names a model and an id.

use crate::access::{AccessKind, Passage};
use crate::faults::Policy;
use crate::hook::Hook;
use crate::memory::{BusAbort, PhysicalMemory};
use crate::oracle::Oracle;
use portcullis_addr::StreamId;
use portcullis_platform::Registers;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// One access, inside one page of 4 KiB.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// The address that the device emits.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// Direction.
    pub kind: AccessKind,
    /// SubstreamID or PASID, where the transaction carries one.
    pub substream: Option<u32>,
    /// Whether it is a privileged access.
    pub privileged: bool,
}

/// Permission for one access to memory.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    /// The physical address.
    pub physical: u64,
    /// Why it is let through.
    pub passage: Passage,
    /// Whether it rests on something cached that no longer agrees with memory.
    pub stale: bool,
    /// Whether the page changed its owner after the translation was cached.
    pub reused: bool,
}

/// The transaction was aborted, by the IOMMU or by memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

/// Makes the access that was granted.
pub type Land<'a> = &'a mut dyn FnMut(Grant) -> Result<(), BusAbort>;

/// An IOMMU on the machine's bus.
pub trait IommuModel: fmt::Debug + Send + Sync + 'static {
    /// Its number on the machine, from 0.
    fn index(&self) -> u32;

    /// Translates one access of the device with that id. Where it is let through, `land` is called exactly once, atomically with the last look at the caches: when an invalidation
    /// completes, no access that it concerns is still under way. Apart from that, no lock of the machine is held.
    ///
    /// # Errors
    ///
    /// [`Aborted`] where it is refused, or where memory answers with an abort.
    fn translate(&self, id: StreamId, access: &Access, land: Land<'_>) -> Result<(), Aborted>;

    /// Time passes: lazy hardware does a little of its work.
    fn progress(&self);

    /// Power-on reset: registers as after reset, caches empty. Injected faults stay.
    fn reset(&self);
}

/// A model with registers that a driver reaches.
pub trait RegisterModel: Send + Sync + 'static {
    /// Reads `bytes` (4 or 8; 1 or 2 where it has [narrow registers](Self::has_narrow_registers)) at `offset`.
    fn read(&self, offset: usize, bytes: usize) -> u64;
    /// Writes the low `bytes` (as for [`read`](Self::read)) of `value` at `offset`.
    fn write(&self, offset: usize, bytes: usize, value: u64);
    /// Size of the block in bytes.
    fn block_size(&self) -> usize;
    /// Whether it has registers of 8 and 16 bits.
    fn has_narrow_registers(&self) -> bool {
        false
    }
}

/// The register block of a model, to be given to a driver.
#[derive(Debug)]
pub struct RegisterBlock<M>(Arc<M>);

impl<M> RegisterBlock<M> {
    /// The registers of `model`.
    pub fn new(model: &Arc<M>) -> Self {
        Self(Arc::clone(model))
    }

    /// The hardware behind it.
    pub fn smmu(&self) -> &Arc<M> {
        &self.0
    }
}

impl<M> Clone for RegisterBlock<M> {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl<M: RegisterModel> Registers for RegisterBlock<M> {
    fn read32(&self, offset: usize) -> u32 {
        self.0.read(offset, 4) as u32
    }

    fn write32(&self, offset: usize, value: u32) {
        self.0.write(offset, 4, value.into());
    }

    fn read64(&self, offset: usize) -> u64 {
        self.0.read(offset, 8)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.0.write(offset, 8, value);
    }

    fn read16(&self, offset: usize) -> u16 {
        if self.0.has_narrow_registers() { self.0.read(offset, 2) as u16 } else { u16::MAX }
    }

    fn write16(&self, offset: usize, value: u16) {
        if self.0.has_narrow_registers() {
            self.0.write(offset, 2, value.into());
        }
    }

    fn read8(&self, offset: usize) -> u8 {
        if self.0.has_narrow_registers() { self.0.read(offset, 1) as u8 } else { u8::MAX }
    }

    fn write8(&self, offset: usize, value: u8) {
        if self.0.has_narrow_registers() {
            self.0.write(offset, 1, value.into());
        }
    }

    fn len(&self) -> usize {
        self.0.block_size()
    }
}

/// What a model is connected to.
#[derive(Debug)]
pub struct Wiring {
    pub(crate) index: u32,
    pub(crate) seed: u64,
    pub(crate) policy: Policy,
    pub(crate) memory: Arc<PhysicalMemory>,
    pub(crate) oracle: Arc<Oracle>,
    pub(crate) hook: Hook,
}

impl Wiring {
    /// The number that the model has on its machine.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The seed of the model's random choices.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The RAM.
    pub fn memory(&self) -> &Arc<PhysicalMemory> {
        &self.memory
    }
}

/// All IOMMUs of a machine, in the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct Iommus(RwLock<Vec<Arc<dyn IommuModel>>>);

impl Iommus {
    /// Adds the IOMMU that `make` returns; `make` is told its number.
    pub(crate) fn add<M: IommuModel>(&self, make: impl FnOnce(u32) -> M) -> Arc<M> {
        let mut iommus = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let iommu = Arc::new(make(iommus.len() as u32));
        iommus.push(Arc::<M>::clone(&iommu));
        iommu
    }

    pub(crate) fn all(&self) -> Vec<Arc<dyn IommuModel>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets time pass for each, with no lock held meanwhile.
    pub(crate) fn progress(&self) {
        let count = self.0.read().unwrap_or_else(PoisonError::into_inner).len();
        for index in 0..count {
            let iommus = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let iommu = iommus.get(index).map(Arc::clone);
            drop(iommus);
            if let Some(iommu) = iommu {
                iommu.progress();
            }
        }
    }
}
