//! A platform on the host and an IOMMU that keeps books instead of translating.
#![expect(unreachable_pub, reason = "shared by the test files of this folder")]
#![expect(unsafe_code, reason = "lends addresses without memory")]

use portcullis::*;
use portcullis_addr::{Iova, IovaRange, PageSize, PageSizes, PhysAddr, PhysRange, Prot, StreamId};
use portcullis_pgtable::{
    IotlbGather, MapError, PageTable, TableConfig, TableFormat, TableRoot, UnmapError,
};
use portcullis_platform::host::{
    HostClock, HostEvent, HostIrqLock, HostLock, HostPlatform, NoMemory,
};
use portcullis_platform::{AllocError, NativeAtomic, PageLayout, Platform, Timeout};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The host, moving no data, with a core of which a test can leave a safeguard out.
#[derive(Debug)]
pub struct Host(HostPlatform<NoMemory>);

thread_local! {
    static OMITTED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Runs `test` on a core without `safeguard`; whether it notices.
pub fn notices(safeguard: Safeguard, test: fn()) -> bool {
    OMITTED.set(Some(safeguard.name()));
    let noticed = std::panic::catch_unwind(test).is_err();
    OMITTED.set(None);
    noticed
}

impl Host {
    /// The host on that platform.
    pub fn over(platform: HostPlatform<NoMemory>) -> Self {
        Self(platform)
    }
}

impl Platform for Host {
    type Lock = HostLock;
    type IrqLock = HostIrqLock;
    type Event = HostEvent;
    type Atomic = NativeAtomic;
    type Memory = NoMemory;
    type Clock = HostClock;
    fn memory(&self) -> &Arc<NoMemory> {
        self.0.memory()
    }
    fn clock(&self) -> &HostClock {
        self.0.clock()
    }
    fn cpus(&self) -> usize {
        self.0.cpus()
    }
    fn cpu(&self) -> usize {
        self.0.cpu()
    }
    fn thread(&self) -> usize {
        self.0.thread()
    }
    fn omits(safeguard: &'static str) -> bool {
        OMITTED.get() == Some(safeguard)
    }
}

pub type Sub = Subsystem<Host>;

pub fn subsystem() -> Sub {
    Subsystem::new(Arc::new(Host(HostPlatform::new(Arc::default()))), Policy::default())
}

thread_local! {
    /// What the next mapping brings about before it is made, on this thread.
    pub static ON_MAP: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
    /// Whether tables refuse to reclaim, on this thread.
    pub static NO_RECLAIM: Cell<bool> = const { Cell::new(false) };
}

/// Addresses without memory behind them, to lend: first byte and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece(pub u64, pub u64);

// SAFETY: no device of these tests moves data.
unsafe impl Lendable for Piece {
    fn range(&self) -> PhysRange {
        PhysRange::new(PhysAddr::new(self.0), self.1).expect("does not wrap")
    }
}

/// A table that remembers ranges.
#[derive(Debug, Default)]
pub struct BookTable {
    /// Whether an empty table is in the way of the next large leaf.
    pub leftover: AtomicBool,
    ranges: Mutex<BTreeMap<u64, (u64, u64)>>,
}

impl PageTable for BookTable {
    fn config(&self) -> TableConfig {
        TableConfig {
            format: TableFormat::ArmLpaeStage1,
            granule: PageSize::SIZE_4K,
            input_bits: 48,
            output_bits: 48,
            root: TableRoot::Arm { address: PhysAddr::new(0), start_level: 0, tables: 1 },
            coherent_walk: true,
            force_snoop: false,
        }
    }
    fn page_sizes(&self) -> PageSizes {
        PageSizes::of(&[PageSize::SIZE_4K, PageSize::SIZE_2M])
    }
    fn input_range(&self) -> IovaRange {
        IovaRange::new(Iova::new(0), 1 << 48).expect("48 bits")
    }
    fn map(&self, iova: Iova, phys: PhysAddr, len: u64, _: Prot) -> Result<(), MapError> {
        if let Some(act) = ON_MAP.take() {
            act();
        }
        let mut ranges = self.ranges.lock().expect("books");
        let before = ranges.range(..iova.raw() + len).next_back();
        if before.is_some_and(|(start, (_, size))| start + size > iova.raw()) {
            return Err(MapError::Occupied { iova });
        }
        ranges.insert(iova.raw(), (phys.raw(), len));
        Ok(())
    }
    fn map_segments(&self, iova: Iova, segments: &[PhysRange], prot: Prot) -> Result<(), MapError> {
        let before = self.ranges.lock().expect("books").clone();
        let mut at = iova;
        segments.iter().try_for_each(|segment| {
            self.map(at, segment.start(), segment.len(), prot).inspect_err(|_| {
                *self.ranges.lock().expect("books") = before.clone();
            })?;
            at = Iova::new(at.raw() + segment.len());
            Ok(())
        })
    }
    fn unmap(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<(), UnmapError> {
        let mut ranges = self.ranges.lock().expect("books");
        match ranges.get(&iova.raw()) {
            Some((_, size)) if *size == len => ranges.remove(&iova.raw()),
            _ => return Err(UnmapError::NotMapped { iova }),
        };
        gather.add_everything();
        Ok(())
    }
    fn reclaim(&self, iova: Iova, _: u64, gather: &mut IotlbGather) -> Result<usize, UnmapError> {
        if NO_RECLAIM.get() {
            return Err(UnmapError::NotMapped { iova });
        }
        let leftover = self.leftover.swap(false, Ordering::Relaxed);
        if leftover {
            gather.add_everything();
        }
        Ok(usize::from(leftover))
    }
    fn translate(&self, iova: Iova) -> Option<(PhysAddr, Prot)> {
        let ranges = self.ranges.lock().expect("books");
        let (start, (phys, len)) = ranges.range(..=iova.raw()).next_back()?;
        (iova.raw() < start + len)
            .then(|| (PhysAddr::new(phys + iova.raw() - start), Prot::READ | Prot::WRITE))
    }
    fn table_pages(&self) -> usize {
        1
    }
}

/// The calls of the hardware trait, to make one fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    CapabilitiesOf,
    ReservedRegions,
    Claim,
    Release,
    CreateSpace,
    BindSpace,
    UnbindSpace,
    Attach,
    Submit,
    Wait,
    ForgetAll,
    Shutdown,
}

/// What the bookkeeping IOMMU has been told.
#[derive(Debug, Default)]
pub struct Books {
    pub claims: Mutex<BTreeMap<StreamSpec, (usize, Option<StreamTarget>)>>,
    pub spaces: Mutex<BTreeMap<u32, Arc<dyn AddressSpace>>>,
    /// Spaces whose unbind was not confirmed: kept until everything is.
    pub doubtful: Mutex<Vec<SpaceTag>>,
    pub next_tag: AtomicUsize,
    pub invalidations: AtomicUsize,
    pub stopped: AtomicBool,
    /// Set-up calls left before one fails for want of memory; `usize::MAX` for never.
    pub fail_after: AtomicUsize,
    /// What each of these calls answers, every time.
    pub failing: Mutex<BTreeMap<Call, OpsError>>,
    pub faults: Mutex<Vec<Fault>>,
    pub overflows: AtomicUsize,
    pub identity: AtomicBool,
    pub regions: Mutex<Vec<HardwareRegion>>,
    pub window: Mutex<Option<IovaRange>>,
    /// Stage 2 tables instead of stage 1.
    pub second_stage: AtomicBool,
    /// What the next call of each of these does before it answers.
    pub acts: Mutex<Acts>,
    /// How many calls have failed because a test wanted it.
    refusals: AtomicUsize,
}

type Act = Box<dyn FnOnce() + Send>;

/// See [`Books::acts`].
#[derive(Default)]
pub struct Acts(BTreeMap<Call, Act>);

impl std::fmt::Debug for Acts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What an IOMMU that does not answer says.
pub const SILENT: OpsError =
    OpsError::Timeout { awaited: Awaited::Confirmation, timeout: Timeout { after: 1 } };

impl Books {
    pub fn new() -> Arc<Self> {
        let books = Self::default();
        books.fail_after.store(usize::MAX, Ordering::Relaxed);
        Arc::new(books)
    }

    /// The target of the exact stream `id`; `None` unless it is claimed and attached.
    pub fn target(&self, id: u32) -> Option<StreamTarget> {
        let stream = StreamSpec::exact(StreamId::new(id));
        self.claims.lock().expect("books").get(&stream).and_then(|(_, target)| *target)
    }

    /// Where an address leads in any space.
    pub fn translate(&self, iova: Iova) -> Option<u64> {
        let spaces = self.spaces.lock().expect("books");
        spaces.values().find_map(|table| table.translate(iova)).map(|(phys, _)| phys.raw())
    }

    pub fn is_empty(&self) -> bool {
        self.claims.lock().expect("books").is_empty()
            && self.spaces.lock().expect("books").is_empty()
    }

    /// From now on `call` fails with `error`.
    pub fn fail(&self, call: Call, error: OpsError) {
        self.failing.lock().expect("books").insert(call, error);
    }

    /// From now on nothing is confirmed: whatever waits for hardware fails.
    pub fn fall_silent(&self) {
        for call in [
            Call::Claim,
            Call::Release,
            Call::UnbindSpace,
            Call::Attach,
            Call::Wait,
            Call::ForgetAll,
            Call::Shutdown,
        ] {
            self.fail(call, SILENT);
        }
    }

    /// How many calls have failed as [`fail`](Self::fail) wanted it.
    pub fn refusals(&self) -> usize {
        self.refusals.load(Ordering::Relaxed)
    }

    /// From now on everything succeeds.
    pub fn recover(&self) {
        self.failing.lock().expect("books").clear();
    }

    /// Has the next `call` do `act` before it answers, with whatever locks the core holds around it.
    pub fn within(&self, call: Call, act: impl FnOnce() + Send + 'static) {
        self.acts.lock().expect("books").0.insert(call, Box::new(act));
    }

    fn asked(&self, call: Call) -> Result<(), OpsError> {
        let act = self.acts.lock().expect("books").0.remove(&call);
        if let Some(act) = act {
            act();
        }
        match self.failing.lock().expect("books").get(&call) {
            Some(error) => {
                self.refusals.fetch_add(1, Ordering::Relaxed);
                Err(*error)
            }
            None => Ok(()),
        }
    }

    fn may_fail(&self, call: Call) -> Result<(), OpsError> {
        self.asked(call)?;
        let left = self.fail_after.load(Ordering::Relaxed);
        if left == usize::MAX {
            return Ok(());
        }
        self.fail_after.store(left.wrapping_sub(1).min(usize::MAX - 1), Ordering::Relaxed);
        let layout = PageLayout::new(4096, 4096).expect("a page");
        if left == 0 { Err(OpsError::NoMemory(AllocError { layout })) } else { Ok(()) }
    }
}

/// The IOMMU's end of [`Books`].
#[derive(Debug)]
pub struct BookIommu(pub Arc<Books>);

impl IommuOps for BookIommu {
    fn driver_name(&self) -> &'static str {
        "books"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            formats: Formats::of(&[FormatSupport {
                format: SpaceFormat::Table(match self.0.second_stage.load(Ordering::Relaxed) {
                    true => TableFormat::ArmLpaeStage2,
                    false => TableFormat::ArmLpaeStage1,
                }),
                page_sizes: PageSizes::of(&[PageSize::SIZE_4K]),
                input_bits: 48,
                output_bits: 48,
            }]),
            id_bits: 16,
            pasid_bits: 0,
            coherent_walk: true,
            identity: self.0.identity.load(Ordering::Relaxed),
            map_needs_sync: false,
            range_invalidation: false,
            msi: match *self.0.window.lock().expect("books") {
                Some(window) => MsiDoorbell::Window(window),
                None => MsiDoorbell::Translated,
            },
        }
    }
    fn capabilities_of(&self, _: &[StreamSpec]) -> Result<Capabilities, OpsError> {
        self.0.asked(Call::CapabilitiesOf)?;
        Ok(self.capabilities())
    }
    fn reserved_regions(
        &self,
        _: &[StreamSpec],
        add: &mut dyn FnMut(HardwareRegion),
    ) -> Result<(), OpsError> {
        self.0.asked(Call::ReservedRegions)?;
        self.0.regions.lock().expect("books").iter().copied().for_each(add);
        Ok(())
    }
    fn claim(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        self.0.may_fail(Call::Claim)?;
        let mut claims = self.0.claims.lock().expect("books");
        for stream in streams {
            claims.entry(*stream).or_insert((0, None)).0 += 1;
        }
        Ok(())
    }
    fn release(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        let answer = self.0.asked(Call::Release);
        let mut claims = self.0.claims.lock().expect("books");
        for stream in streams {
            let claim = claims.get_mut(stream).expect("released but never claimed");
            claim.0 -= 1;
            if claim.0 == 0 {
                claims.remove(stream);
            }
        }
        answer
    }
    fn create_space(&self, _: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError> {
        self.0.may_fail(Call::CreateSpace)?;
        let table = BookTable { leftover: AtomicBool::new(true), ..BookTable::default() };
        Ok(Arc::new(TableSpace::new(table)))
    }
    fn bind_space(&self, space: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError> {
        self.0.may_fail(Call::BindSpace)?;
        let tag = self.0.next_tag.fetch_add(1, Ordering::Relaxed) as u32;
        self.0.spaces.lock().expect("books").insert(tag, Arc::clone(space));
        Ok(SpaceTag(tag))
    }
    fn unbind_space(&self, tag: SpaceTag) -> Result<(), OpsError> {
        let doubtful = |_: &_| self.0.doubtful.lock().expect("books").push(tag);
        self.0.asked(Call::UnbindSpace).inspect_err(doubtful)?;
        self.0.spaces.lock().expect("books").remove(&tag.0).expect("unbound but never bound");
        Ok(())
    }
    fn attach(
        &self,
        streams: &[StreamSpec],
        pasid: Option<Pasid>,
        target: StreamTarget,
    ) -> Result<(), OpsError> {
        self.0.may_fail(Call::Attach)?;
        assert!(!self.0.stopped.load(Ordering::Relaxed), "attached to a stopped IOMMU");
        assert_eq!(pasid, None, "the core uses no PASIDs yet");
        let mut claims = self.0.claims.lock().expect("books");
        for stream in streams {
            claims.get_mut(stream).expect("attached but never claimed").1 = Some(target);
        }
        Ok(())
    }
    fn submit(&self, tag: SpaceTag, gather: &IotlbGather) -> Result<Ticket, OpsError> {
        assert!(!gather.is_empty(), "an empty invalidation is wasted");
        assert!(self.0.spaces.lock().expect("books").contains_key(&tag.0));
        self.0.asked(Call::Submit)?;
        let number = self.0.invalidations.fetch_add(1, Ordering::Relaxed);
        Ok(Ticket([number as u64, 0, 0]))
    }
    fn wait(&self, _: Ticket) -> Result<(), OpsError> {
        self.0.asked(Call::Wait)
    }
    fn forget_all(&self) -> Result<(), OpsError> {
        self.0.asked(Call::ForgetAll)?;
        let mut spaces = self.0.spaces.lock().expect("books");
        self.0
            .doubtful
            .lock()
            .expect("books")
            .drain(..)
            .for_each(|tag| drop(spaces.remove(&tag.0)));
        Ok(())
    }
    fn service(&self, budget: usize, sink: &mut dyn FnMut(Fault)) -> Serviced {
        let mut waiting = self.0.faults.lock().expect("books");
        let count = waiting.len().min(budget);
        waiting.drain(..count).for_each(sink);
        let overflows = self.0.overflows.swap(0, Ordering::Relaxed) as u32;
        let more = !waiting.is_empty();
        Serviced { faults: count, overflows, more, ..Serviced::default() }
    }
    fn shutdown(&self) -> Result<(), OpsError> {
        self.0.asked(Call::Shutdown)?;
        assert!(self.0.claims.lock().expect("books").is_empty(), "stopped with streams claimed");
        self.0.stopped.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// A driver that keeps its handle where the test can reach it.
#[derive(Default)]
pub struct Keeper {
    pub handle: Mutex<Option<DmaHandle<Host>>>,
    pub faults: Arc<AtomicUsize>,
    /// Nodes to defer on, last first.
    pub needs: Mutex<Vec<FwNode>>,
    pub always_needs: Option<FwNode>,
    pub fail: AtomicBool,
}

pub struct Kept(Arc<AtomicUsize>);

impl BoundDriver for Kept {
    fn on_fault(&mut self, _: &Fault) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Driver<Host> for Keeper {
    fn name(&self) -> &str {
        "keeper"
    }
    fn probe(
        &self,
        _: &ProbeContext<'_>,
        dma: DmaHandle<Host>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        if let Some(node) = self.always_needs.or_else(|| self.needs.lock().expect("test").pop()) {
            return Err(ProbeError::Defer(node));
        }
        *self.handle.lock().expect("test") = Some(dma);
        if self.fail.load(Ordering::Relaxed) {
            return Err(ProbeError::Failed("no link".into()));
        }
        Ok(Box::new(Kept(Arc::clone(&self.faults))))
    }
}

pub fn register(sub: &Sub, node: FwNode) -> Arc<Books> {
    let books = Books::new();
    sub.register(node, Box::new(BookIommu(Arc::clone(&books)))).expect("nothing there yet");
    books
}

pub const A: FwNode = FwNode(1);
pub const B: FwNode = FwNode(2);

pub fn behind(path: &str, streams: &[(FwNode, u32)]) -> DeviceDescription {
    let stream = |(node, id): &(FwNode, u32)| FwStream::new(*node, StreamId::new(*id));
    let spec = FwSpec { streams: streams.iter().map(stream).collect() };
    DeviceDescription::new(path, DmaPath::Translated(spec))
}
