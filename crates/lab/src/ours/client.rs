//! A client's driver that believes nothing: it has its device do DMA, and looks.

use crate::ours::platform::{LabMemory, LabPlatform};
use portcullis::{
    Both, BoundDriver, DmaBuffer, DmaError, DmaHandle, DmaMapping, Driver, ProbeContext,
    ProbeError, Quarantined, Reach, UnmapFailure,
};
use portcullis_addr::{Iova, PhysAddr};
use portcullis_machine::{DmaRequest, Machine};
use portcullis_platform::{DmaMemory, DmaPages, PageLayout, Platform};
use portcullis_threads::{changed, reached, step, violation};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// An address that no driver here ever maps.
const NEVER_MAPPED: Iova = Iova::new(0xdead_0000);

/// Where in a page devices write that only look whether they can.
const BESIDE: u64 = 64;

/// One device of the machine, as its driver and the world's checks see it.
#[derive(Debug)]
pub struct Endpoint {
    pub(crate) machine: Arc<Machine>,
    pub(crate) device: Arc<portcullis_machine::Device>,
    /// A probe is running.
    probing: AtomicBool,
    /// A driver is bound.
    bound: AtomicBool,
    /// A handle that the latest driver gave away, and that outlives it.
    kept: Mutex<Option<DmaHandle<LabPlatform>>>,
    /// A buffer that was mapped through it for as long as it is there.
    buffer: Mutex<Option<DmaBuffer<LabPlatform>>>,
    /// Where the device reached its latest driver's memory.
    latest: Mutex<Option<u64>>,
    /// What a driver could not take back when it was dropped, with the handle that can ask for it again.
    held: Mutex<Vec<(DmaHandle<LabPlatform>, Quarantined<Pages>)>>,
}

type Pages = DmaPages<LabMemory>;

/// Memory that a device was lent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lent {
    /// Where the device reaches it.
    pub(crate) address: u64,
    /// Where it is.
    pub(crate) frame: PhysAddr,
}

impl Endpoint {
    /// `device` on `machine`, unbound.
    pub fn new(machine: &Arc<Machine>, device: Arc<portcullis_machine::Device>) -> Self {
        Self {
            machine: Arc::clone(machine),
            device,
            probing: AtomicBool::new(false),
            bound: AtomicBool::new(false),
            kept: Mutex::new(None),
            buffer: Mutex::new(None),
            latest: Mutex::new(None),
            held: Mutex::new(Vec::new()),
        }
    }

    /// The two flags are shared by all drivers of the device.
    fn step(&self, what: &'static str) {
        step("driver", u64::from(self.device.id().0), what, true);
    }

    /// Shows a change of one of the flags in the picture.
    fn tell(&self, what: &str, before: bool, after: bool) {
        let word = |on| if on { "yes" } else { "no" };
        changed(|| {
            let name = format!("device {}: {what}", self.device.id().0);
            (name, word(before).to_owned(), word(after).to_owned())
        });
    }

    /// The handle that the latest driver gave away, which may have been unbound since.
    pub(crate) fn kept_handle(&self) -> Option<DmaHandle<LabPlatform>> {
        step("driver", u64::from(self.device.id().0), "look for a handle", false);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps `buffer` as long as that handle.
    pub(crate) fn keep(&self, buffer: DmaBuffer<LabPlatform>) {
        *self.buffer.lock().unwrap_or_else(PoisonError::into_inner) = Some(buffer);
    }

    /// Drops the handle that the latest driver gave away.
    pub(crate) fn forget_handle(&self) {
        let _buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let _kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Asks again for what drivers could not take back when they were dropped.
    ///
    /// # Errors
    ///
    /// The first reason why something is still not given back.
    pub(crate) fn recover(&self) -> Result<(), DmaError> {
        let held = core::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
        for (handle, held) in held {
            drop(handle.recover(held)?);
        }
        Ok(())
    }

    /// Where the device reached its latest driver's memory.
    pub(crate) fn latest(&self) -> Option<u64> {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the device write to where it was lent memory that is still the lender's; whether that memory changed. Beside the word that [`reaches`](Self::reaches) looks at.
    pub(crate) fn still_reaches(&self, lent: Lent) -> bool {
        let frame = PhysAddr::new(lent.frame.raw() + BESIDE);
        let memory = self.machine.memory();
        let before = memory.load64(frame);
        let _refused_or_not = self.writes(lent.address + BESIDE, !before);
        memory.load64(frame) != before
    }

    /// Whether the device can write at `address`, through any of its ports.
    pub(crate) fn writes(&self, address: u64, word: u64) -> bool {
        let (address, bytes) = (Iova::new(address), word.to_le_bytes());
        (0..self.device.ports().len()).any(|port| {
            let request = DmaRequest::write(address, &bytes).through(port);
            self.machine.dma_of(&self.device, request).is_completed()
        })
    }

    /// Whether the device, left to itself, reaches memory through any of its ports.
    pub fn escapes(&self) -> bool {
        let base = self.machine.memory().base().raw();
        (0..self.device.ports().len()).any(|port| {
            [NEVER_MAPPED, Iova::new(base)].into_iter().any(|address| {
                let request = DmaRequest::write(address, b"rogue").through(port);
                self.machine.dma_of(&self.device, request).is_completed()
            })
        })
    }

    /// Has the device write through each port to where it was lent memory; whether all of it arrived.
    fn reaches(&self, lent: Lent) -> bool {
        let address = Iova::new(lent.address);
        (0..self.device.ports().len()).all(|port| {
            let word = 0x1234_5678_0000_0000 + port as u64;
            let bytes = word.to_le_bytes();
            let request = DmaRequest::write(address, &bytes).through(port);
            let landed = self.machine.dma_of(&self.device, request).is_completed();
            landed && self.machine.memory().load64(lent.frame) == word
        })
    }
}

/// The driver of one device.
#[derive(Clone, Debug)]
pub struct Prober(pub Arc<Endpoint>);

impl Prober {
    fn probe_once(&self, dma: &DmaHandle<LabPlatform>) -> Result<Holder, ProbeError> {
        if dma.reach() != Reach::Translated {
            violation("P1", format!("probe runs with a {:?} DMA path", dma.reach()));
        }
        let layout = PageLayout::new(4096, 4096).expect("a page");
        let pages = DmaPages::new(dma.platform().memory(), layout)?;
        let frame = pages.address();
        let buffer = dma.map(pages, Both)?;
        let lent = Lent { address: buffer.device_address(), frame };
        let (endpoint, dma) = (Arc::clone(&self.0), dma.clone());
        let holder = Holder { endpoint, dma, lent, buffer: Some(buffer) };
        if !self.0.reaches(lent) {
            violation("P1", "probe runs, and its device's DMA does not arrive");
        }
        *self.0.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(lent.address);
        *self.0.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(holder.dma.clone());
        Ok(holder)
    }
}

impl Driver<LabPlatform> for Prober {
    fn name(&self) -> &str {
        "prober"
    }

    fn probe(
        &self,
        _device: &ProbeContext<'_>,
        dma: DmaHandle<LabPlatform>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        self.0.step("probe begins");
        self.0.tell("probe runs", self.0.probing.load(Ordering::Relaxed), true);
        if self.0.probing.swap(true, Ordering::Relaxed) {
            violation("P1", "two probes of one device at once");
        }
        if self.0.bound.load(Ordering::Relaxed) {
            violation("P1", "a bound device is probed again");
        }
        let outcome = self.probe_once(&dma);
        self.0.step("probe ends");
        self.0.tell("probe runs", true, false);
        self.0.probing.store(false, Ordering::Relaxed);
        let holder = outcome?;
        self.0.tell("driver is bound", false, true);
        self.0.bound.store(true, Ordering::Relaxed);
        reached("a driver is bound behind its IOMMU");
        Ok(Box::new(holder))
    }
}

/// What a bound driver holds.
#[derive(Debug)]
struct Holder {
    endpoint: Arc<Endpoint>,
    dma: DmaHandle<LabPlatform>,
    lent: Lent,
    /// `None` only while it is dropped.
    buffer: Option<DmaMapping<Pages, Both>>,
}

impl BoundDriver for Holder {
    fn remove(&mut self) {
        if !self.endpoint.reaches(self.lent) {
            violation("P1", "the DMA path changed while the driver was bound");
        }
        self.endpoint.step("remove ends");
        self.endpoint.tell("driver is bound", true, false);
        self.endpoint.bound.store(false, Ordering::Relaxed);
    }
}

impl Drop for Holder {
    /// Takes the buffer back; where that is not confirmed, somebody may ask again.
    fn drop(&mut self) {
        let Some(buffer) = self.buffer.take() else { return };
        if let Err(UnmapFailure::Quarantined(held)) = self.dma.unmap(buffer) {
            let all = &mut *self.endpoint.held.lock().unwrap_or_else(PoisonError::into_inner);
            all.push((self.dma.clone(), held));
        }
    }
}
