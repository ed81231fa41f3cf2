//! The driver that every client of a boot gets: it maps buffers, has its device use them, and checks what must be refused.

use super::promises::Promises;
use portcullis::{
    Both, BoundDriver, DmaBuffer, DmaHandle, DmaMapping, DmaPath, Driver, FromDevice, FwNode,
    ProbeContext, ProbeError, Reach, ReservedKind, Subsystem, ToDevice,
};
use portcullis_addr::PhysAddr;
use portcullis_platform::{Coherency, DmaMemory, DmaPages, PageLayout, Platform};
use portcullis_testbed::{Endpoint, OwnDriver, SharedBuffer};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Bytes that a client moves each way.
const LENGTH: usize = 256;
const PAGE: usize = 64 << 10;
const UNTOUCHED: u64 = 0x5555_5555_5555_5555;

/// Every fault that any thread of the boot took from a queue: IOMMU, stream, page of the address.
#[derive(Debug, Default)]
pub(super) struct FaultLog(Mutex<HashSet<(FwNode, u32, u64)>>);

impl FaultLog {
    /// Takes what `node` has recorded.
    fn collect<P: Platform>(&self, subsystem: &Subsystem<P>, node: FwNode) {
        // The lock is held throughout, so a record is never between the queue and the log.
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _counted_by_the_log = subsystem.drain_faults(node, |fault, _| {
            let page = fault.fault.iova.map_or(u64::MAX, |iova| iova.raw() & !0xfff);
            log.insert((fault.iommu, fault.fault.stream.raw(), page));
        });
    }

    fn take(&self, node: FwNode, stream: u32, address: u64) -> bool {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.remove(&(node, stream, address & !0xfff))
    }
}

/// What a client's driver shares with its boot.
pub(super) struct ClientDriver<P: Platform> {
    pub(super) subsystem: Weak<Subsystem<P>>,
    pub(super) endpoint: Option<Arc<dyn Endpoint>>,
    pub(super) promises: Arc<Promises>,
    pub(super) faults: Arc<FaultLog>,
    /// Whether the machine records what it refuses; where it does not, that an access did not arrive must do.
    pub(super) records_faults: bool,
    pub(super) record: Arc<ClientRecord>,
    /// Devices of one group share addresses: what one has unmapped, the other may map. They take turns, or "refused" could not be checked.
    pub(super) turn: Arc<Mutex<()>>,
}

/// What the driver found, for the report.
#[derive(Debug, Default)]
pub(super) struct ClientRecord {
    /// How its device reached memory when the driver was bound, and the handle's view of it now.
    pub(super) reach: Mutex<Option<Reach>>,
    /// Whether every transfer did what it should; `None` before there was one.
    pub(super) dma_ok: Mutex<Option<bool>>,
    pub(super) bound: AtomicBool,
}

/// While it is bound, the driver keeps a buffer mapped and its handle.
struct BoundClient<P: Platform> {
    handle: DmaHandle<P>,
    kept: Option<Kept<P>>,
    promises: Arc<Promises>,
    record: Arc<ClientRecord>,
    endpoint: Option<Arc<dyn Endpoint>>,
}

impl<P: Platform> BoundDriver for BoundClient<P> {
    fn remove(&mut self) {
        let at_bind = *self.record.reach.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.handle.reach();
        self.promises.check("P1", at_bind == Some(now), || {
            format!("the DMA path changed from {at_bind:?} to {now:?} under a bound driver")
        });
        if let Some(mapping) = self.kept.take() {
            // What is not confirmed stays in quarantine, and the core's counts say so.
            drop(self.handle.unmap(mapping));
        }
        if let Some(endpoint) = &self.endpoint {
            endpoint.expect_translated(false);
        }
        self.record.bound.store(false, Ordering::Release);
    }
}

impl<P: Platform> Driver<P> for ClientDriver<P> {
    fn name(&self) -> &str {
        "dma-check"
    }

    fn probe(
        &self,
        device: &ProbeContext<'_>,
        dma: DmaHandle<P>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        let record = &self.record;
        let already = record.bound.swap(true, Ordering::AcqRel);
        let promises = &self.promises;
        promises.check("P1", !already, || format!("{}: probed while bound", device.path()));
        let reach = dma.reach();
        let described = matches!(device.description().dma, DmaPath::Translated(_));
        promises.check("P2", described == (reach != Reach::Direct), || {
            format!("{}: described {}, got {reach:?}", device.path(), described_as(described))
        });
        *record.reach.lock().unwrap_or_else(PoisonError::into_inner) = Some(reach);
        let outcome = {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            self.exercise(device, &dma).and_then(|()| keep_one(&dma))
        };
        let mut dma_ok = record.dma_ok.lock().unwrap_or_else(PoisonError::into_inner);
        *dma_ok = Some(dma_ok.unwrap_or(true) && outcome.is_ok());
        match outcome {
            Ok(kept) => Ok(Box::new(BoundClient {
                handle: dma,
                kept: Some(kept),
                promises: Arc::clone(promises),
                record: Arc::clone(record),
                endpoint: self.endpoint.clone(),
            })),
            Err(reason) => {
                record.bound.store(false, Ordering::Release);
                Err(ProbeError::Failed(reason))
            }
        }
    }
}

fn described_as(translated: bool) -> &'static str {
    if translated { "behind an IOMMU" } else { "behind none" }
}

/// A mapping that lives as long as the bind.
type Kept<P> = DmaMapping<DmaPages<<P as Platform>::Memory>, Both>;

fn keep_one<P: Platform>(dma: &DmaHandle<P>) -> Result<Kept<P>, String> {
    dma.map(buffer(dma)?, Both).map_err(|error| error.to_string())
}

fn buffer<P: Platform>(dma: &DmaHandle<P>) -> Result<DmaPages<P::Memory>, String> {
    let size = usize::try_from(dma.granule().max(4096)).unwrap_or(PAGE);
    let layout = PageLayout::new(size, size).ok_or("a page has no size")?;
    DmaPages::new(dma.platform().memory(), layout).map_err(|error| error.to_string())
}

impl<P: Platform> ClientDriver<P> {
    /// Real DMA both ways through every port, then the accesses that must be refused.
    fn exercise(&self, device: &ProbeContext<'_>, dma: &DmaHandle<P>) -> Result<(), String> {
        let Some(endpoint) = &self.endpoint else { return Ok(()) };
        endpoint.expect_translated(dma.reach() == Reach::Translated);
        if let Some(driver) = endpoint.own_driver() {
            return self.drive(device, dma, driver);
        }
        for port in 0..endpoint.ports() {
            self.transfer(device, dma, &**endpoint, port)?;
            self.reach_regions(device, dma, &**endpoint, port);
        }
        Ok(())
    }

    /// What must stay mapped 1:1 is.
    fn reach_regions(
        &self,
        device: &ProbeContext<'_>,
        dma: &DmaHandle<P>,
        endpoint: &dyn Endpoint,
        port: usize,
    ) {
        let reserved = device.description().reserved.iter();
        for region in reserved.filter(|region| region.kind == ReservedKind::Direct) {
            let start = region.range.start();
            if let (Reach::Translated, Some(reads)) =
                (dma.reach(), endpoint.reads(port, start.raw()))
            {
                self.promises.check("P2", reads, || {
                    format!("{}: its reserved region at {start} is not mapped", device.path())
                });
            }
        }
    }

    /// The device's own driver at work; then its memory is taken away, and what it does next must be refused and reported.
    fn drive(
        &self,
        device: &ProbeContext<'_>,
        dma: &DmaHandle<P>,
        driver: &dyn OwnDriver,
    ) -> Result<(), String> {
        let mut owned = Vec::new();
        for _ in 0..driver.buffers() {
            owned.push(dma.allocate(4096).map_err(|error| error.to_string())?);
        }
        let share = |buffer: &DmaBuffer<P>| SharedBuffer {
            phys: buffer.pages().address(),
            device: buffer.device_address(),
            len: 4096,
        };
        let shared: Vec<_> = owned.iter().map(share).collect();
        driver.run(&shared)?;
        drop(owned);
        driver.touch();
        let refused = dma.reach() != Reach::Translated
            || shared.iter().any(|buffer| self.reported(device, (1, 0), buffer.device));
        self.promises.check("P3", refused, || {
            format!(
                "{}: its old memory was still usable, or the refusal not reported",
                device.path()
            )
        });
        if refused { Ok(()) } else { Err("an unmapped address was not refused".to_string()) }
    }

    fn transfer(
        &self,
        device: &ProbeContext<'_>,
        dma: &DmaHandle<P>,
        endpoint: &dyn Endpoint,
        port: usize,
    ) -> Result<(), String> {
        let (source, target) = (buffer(dma)?, buffer(dma)?);
        let (from, to) = (source.address(), target.address());
        let memory = dma.platform().memory();
        let pattern = |word: u64| from.raw() ^ word.wrapping_mul(0x0101_0101_0101_0101);
        fill(&**memory, from, pattern);
        fill(&**memory, to, |_| UNTOUCHED);
        let read = dma.map(source, ToDevice).map_err(|error| error.to_string())?;
        let write = dma.map(target, FromDevice).map_err(|error| error.to_string())?;
        let (read_at, write_at) = (read.device_address(), write.device_address());
        let length = dma.granule();
        endpoint.permit(read_at, length);
        endpoint.permit(write_at, length);
        endpoint.copy(port, read_at, write_at, LENGTH);
        let arrived = holds(&**memory, to, pattern);
        // The write side goes first: its old address must be refused while the read side still works.
        fill(&**memory, to, |_| UNTOUCHED);
        let _target = dma.unmap(write).map_err(|error| error.to_string())?;
        let refused = dma.reach() != Reach::Translated || {
            endpoint.forbid(write_at, length);
            endpoint.copy(port, read_at, write_at, LENGTH);
            holds(&**memory, to, |_| UNTOUCHED)
                && self.reported(device, (endpoint.ports(), port), write_at)
        };
        self.promises.check("P3", refused, || {
            format!(
                "{}: {write_at:#x} was still usable after its unmap, or not reported",
                device.path()
            )
        });
        let _source = dma.unmap(read).map_err(|error| error.to_string())?;
        let refused_too = dma.reach() != Reach::Translated || {
            endpoint.forbid(read_at, length);
            endpoint.copy(port, read_at, write_at, 4);
            self.reported(device, (endpoint.ports(), port), read_at)
        };
        self.promises.check("P3", refused_too, || {
            format!("{}: {read_at:#x} was still readable after its unmap", device.path())
        });
        match (arrived, refused && refused_too) {
            (true, true) => Ok(()),
            (false, _) => Err(format!("DMA through port {port} did not arrive")),
            (true, false) => Err(format!("port {port}: an unmapped address was not refused")),
        }
    }

    /// Whether the refusal of the device's access to `address` through `port`, of so many ports, was reported, as far as the machine does that. What a device with one port and
    /// several requester ids does arrives under whichever its bus makes of it.
    fn reported(
        &self,
        device: &ProbeContext<'_>,
        (ports, port): (usize, usize),
        address: u64,
    ) -> bool {
        let DmaPath::Translated(spec) = &device.description().dma else { return true };
        if !self.records_faults {
            return true;
        }
        let Some(subsystem) = self.subsystem.upgrade() else { return false };
        let under = if ports == 1 { Some(&*spec.streams) } else { spec.streams.get(port..=port) };
        under.unwrap_or_default().iter().any(|stream| {
            self.faults.collect(&subsystem, stream.iommu);
            self.faults.take(stream.iommu, stream.id.raw(), address)
        })
    }
}

fn words() -> impl Iterator<Item = u64> {
    0..(LENGTH / 8) as u64
}

fn fill<M: DmaMemory>(memory: &M, at: PhysAddr, value: impl Fn(u64) -> u64) {
    for word in words() {
        memory.store64(PhysAddr::new(at.raw() + word * 8), value(word));
    }
    memory.publish(at, LENGTH, Coherency::NonCoherent);
}

fn holds<M: DmaMemory>(memory: &M, at: PhysAddr, value: impl Fn(u64) -> u64) -> bool {
    memory.refresh(at, LENGTH, Coherency::NonCoherent);
    words().all(|word| memory.load64(PhysAddr::new(at.raw() + word * 8)) == value(word))
}

/// Has a device that should reach nothing try to write; whether memory stayed as it was.
pub(super) fn is_shut_out<P: Platform>(platform: &Arc<P>, endpoint: &dyn Endpoint) -> bool {
    let layout = PageLayout::new(4096, 4096).expect("a page");
    let Ok(pages) = DmaPages::new(platform.memory(), layout) else { return true };
    let memory = &**platform.memory();
    let at = pages.address();
    let other = PhysAddr::new(at.raw() + 2048);
    fill(memory, at, |word| word);
    fill(memory, other, |_| UNTOUCHED);
    for port in 0..endpoint.ports() {
        endpoint.copy(port, at.raw(), other.raw(), LENGTH);
    }
    holds(memory, other, |_| UNTOUCHED)
}
