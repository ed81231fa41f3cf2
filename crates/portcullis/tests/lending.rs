//! What becomes of memory that is lent: real memory and a real table, behind an IOMMU that confirms only when it likes.
#![expect(unsafe_code, reason = "`DmaMemory`, `Lendable` and the heap are unsafe traits")]

#[path = "lending/hot_path.rs"]
mod hot_path;

use portcullis::*;
use portcullis_addr::{PageSize, PageSizes, PhysAddr, PhysRange, StreamId};
use portcullis_pgtable::{ArmLpaeStage1, IoPageTable, IotlbGather, TableFormat, TableParams};
use portcullis_platform::host::{HostMemory, HostPlatform};
use portcullis_platform::{AllocError, Coherency, DmaMemory, DmaPages, PageLayout, Timeout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const PAGE: usize = 4096;
const NODE: FwNode = FwNode(1);
const SILENT: OpsError =
    OpsError::Timeout { awaited: Awaited::Confirmation, timeout: Timeout { after: 1 } };

/// Cache maintenance that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    Publish(PhysAddr, usize),
    Refresh(PhysAddr, usize),
}

/// Memory that notes what is done for observers that do not snoop.
#[derive(Debug, Default)]
struct Noting {
    memory: HostMemory,
    care: Mutex<Vec<Care>>,
}

impl Noting {
    fn taken(&self) -> Vec<Care> {
        std::mem::take(&mut self.care.lock().expect("test"))
    }

    fn note(&self, care: Care, coherency: Coherency) {
        if coherency == Coherency::NonCoherent {
            self.care.lock().expect("test").push(care);
        }
    }
}

// SAFETY: everything that is done is done by `HostMemory`, which keeps the promises.
unsafe impl DmaMemory for Noting {
    fn allocate(&self, layout: PageLayout) -> Result<PhysAddr, AllocError> {
        self.memory.allocate(layout)
    }
    fn free(&self, address: PhysAddr, layout: PageLayout) {
        self.memory.free(address, layout);
    }
    fn load64(&self, address: PhysAddr) -> u64 {
        self.memory.load64(address)
    }
    fn store64(&self, address: PhysAddr, value: u64) {
        self.memory.store64(address, value);
    }
    fn compare_exchange64(&self, address: PhysAddr, old: u64, new: u64) -> Result<(), u64> {
        self.memory.compare_exchange64(address, old, new)
    }
    fn publish(&self, address: PhysAddr, len: usize, to: Coherency) {
        self.note(Care::Publish(address, len), to);
    }
    fn refresh(&self, address: PhysAddr, len: usize, from: Coherency) {
        self.note(Care::Refresh(address, len), from);
    }
}

type Host = HostPlatform<Noting>;
type Pages = DmaPages<Noting>;

/// An IOMMU that may hold "not present", so that a map owes an invalidation too.
#[derive(Debug)]
struct Moody {
    memory: Arc<Noting>,
    silent: Arc<AtomicBool>,
}

impl Moody {
    fn answer(&self) -> Result<(), OpsError> {
        if self.silent.load(Ordering::Relaxed) { Err(SILENT) } else { Ok(()) }
    }
}

impl IommuOps for Moody {
    fn driver_name(&self) -> &'static str {
        "moody"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            formats: Formats::of(&[FormatSupport {
                format: SpaceFormat::Table(TableFormat::ArmLpaeStage1),
                page_sizes: PageSizes::of(&[PageSize::SIZE_4K]),
                input_bits: 48,
                output_bits: 48,
            }]),
            id_bits: 16,
            pasid_bits: 0,
            coherent_walk: true,
            identity: false,
            map_needs_sync: true,
            range_invalidation: true,
            msi: MsiDoorbell::Translated,
        }
    }
    fn claim(&self, _: &[StreamSpec]) -> Result<(), OpsError> {
        Ok(())
    }
    fn release(&self, _: &[StreamSpec]) -> Result<(), OpsError> {
        Ok(())
    }
    fn create_space(&self, _: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError> {
        let params = TableParams {
            granule: PageSize::SIZE_4K,
            input_bits: 48,
            output_bits: 48,
            leaf_sizes: PageSizes::of(&[PageSize::SIZE_4K]),
            force_snoop: false,
            coherent: true,
        };
        let table = IoPageTable::<ArmLpaeStage1, Noting>::new(&self.memory, params);
        Ok(Arc::new(TableSpace::caching_absence(table.expect("memory for a root"))))
    }
    fn bind_space(&self, _: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError> {
        Ok(SpaceTag(1))
    }
    fn unbind_space(&self, _: SpaceTag) -> Result<(), OpsError> {
        self.answer()
    }
    fn attach(&self, _: &[StreamSpec], _: Option<Pasid>, _: StreamTarget) -> Result<(), OpsError> {
        Ok(())
    }
    fn submit(&self, _: SpaceTag, _: &IotlbGather) -> Result<Ticket, OpsError> {
        Ok(Ticket([0; 3]))
    }
    fn wait(&self, _: Ticket) -> Result<(), OpsError> {
        self.answer()
    }
    fn forget_all(&self) -> Result<(), OpsError> {
        self.answer()
    }
    fn service(&self, _: usize, _: &mut dyn FnMut(Fault)) -> Serviced {
        Serviced::default()
    }
    fn shutdown(&self) -> Result<(), OpsError> {
        Ok(())
    }
}

/// A driver that leaves its handle where the test can reach it.
#[derive(Default)]
struct Leaver(Mutex<Option<DmaHandle<Host>>>);

struct Left;

impl BoundDriver for Left {}

impl Driver<Host> for Leaver {
    fn name(&self) -> &str {
        "leaver"
    }
    fn probe(
        &self,
        _: &ProbeContext<'_>,
        dma: DmaHandle<Host>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        *self.0.lock().expect("test") = Some(dma);
        Ok(Box::new(Left))
    }
}

struct World {
    memory: Arc<Noting>,
    silent: Arc<AtomicBool>,
    core: Subsystem<Host>,
    device: Arc<Device<Host>>,
    dma: DmaHandle<Host>,
}

impl World {
    fn new(coherent: bool) -> Self {
        let (memory, silent) = (Arc::<Noting>::default(), Arc::<AtomicBool>::default());
        let core = Subsystem::new(Arc::new(Host::new(Arc::clone(&memory))), Policy::default());
        let spec = FwSpec { streams: vec![FwStream::new(NODE, StreamId::new(1))] };
        let mut described = DeviceDescription::new("/x", DmaPath::Translated(spec));
        described.coherent = coherent;
        let device = core.add_device(described).expect("sound");
        let iommu = Moody { memory: Arc::clone(&memory), silent: Arc::clone(&silent) };
        core.register(NODE, Box::new(iommu)).expect("the first");
        let driver = Arc::new(Leaver::default());
        core.bind(&device, driver.clone()).expect("tried");
        let dma = driver.0.lock().expect("test").take().expect("bound");
        Self { memory, silent, core, device, dma }
    }

    fn silence(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    fn pages(&self) -> Pages {
        let layout = PageLayout::new(PAGE, PAGE).expect("a page");
        DmaPages::new(&self.memory, layout).expect("memory")
    }

    /// Whether the page at `address` is still somebody's: memory that was given back panics when it is read.
    fn is_kept(&self, address: PhysAddr) -> bool {
        let read = || self.memory.load64(address);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).is_ok()
    }
}

#[test]
fn a_frame_that_a_map_may_have_shown_to_the_device_is_kept() {
    let world = World::new(true);
    drop(world.dma.allocate(PAGE).expect("mapped, so that the tables are there"));
    let before = world.memory.memory.live();
    world.silence(true);
    let error = world.dma.allocate(PAGE).expect_err("unconfirmed");
    assert!(matches!(error, DmaError::Quarantined { len: 0x1000, node: NODE, .. }), "{error}");
    assert_eq!(world.memory.memory.live(), before + 1, "the frame is nobody's, and not free");
    assert_eq!(world.core.counts().quarantined, 0x1000);
    let pages = world.pages();
    let address = pages.address();
    let failure = world.dma.map(pages, ToDevice).expect_err("unconfirmed");
    let MapFailure::Quarantined(held) = failure else { panic!("{failure}") };
    assert!(world.is_kept(address));
    world.silence(false);
    let pages = world.dma.recover(held).expect("confirmed");
    assert_eq!(pages.address(), address);
    drop(pages);
    assert!(!world.is_kept(address), "free again, once it was confirmed");
    assert_eq!((world.core.counts().quarantined, world.core.counts().mappings), (0x1000, 0));
}

#[test]
fn a_shared_buffer_is_freed_on_drop_and_only_when_that_is_confirmed() {
    let world = World::new(true);
    let buffer = world.dma.allocate(100).expect("mapped");
    let address = buffer.pages().address();
    drop(buffer);
    assert!(!world.is_kept(address));
    let buffer = world.dma.allocate(100).expect("mapped");
    let address = buffer.pages().address();
    world.silence(true);
    drop(buffer);
    assert!(world.is_kept(address));
    world.silence(false);
    let late = world.dma.allocate(100).expect("mapped");
    let address = late.pages().address();
    world.core.unbind(&world.device).expect("confirmed");
    assert!(world.is_kept(address), "it is still its owner's");
    drop(late);
    assert!(!world.is_kept(address), "and goes with it: the unbind has confirmed it");
}

#[test]
fn a_mapping_that_is_dropped_keeps_its_buffer() {
    let world = World::new(true);
    let pages = world.pages();
    let address = pages.address();
    drop(world.dma.map(pages, FromDevice).expect("mapped"));
    assert_eq!(world.core.counts().mappings, 1);
    world.core.unbind(&world.device).expect("confirmed");
    assert_eq!(world.core.counts().mappings, 0);
    assert!(world.is_kept(address), "nobody can say when it would be safe");
}

#[test]
fn caches_are_cared_for_where_the_device_does_not_snoop() {
    let world = World::new(false);
    let pages = world.pages();
    let at = pages.address();
    let (publish, refresh) = (Care::Publish(at, PAGE), Care::Refresh(at, PAGE));
    world.memory.taken();
    let mut mapping = world.dma.map(pages, Both).expect("mapped");
    assert_eq!(world.memory.taken(), [publish], "what the CPU wrote");
    let view = world.dma.sync_for_cpu(&mut mapping).expect("its own");
    assert_eq!(world.memory.taken(), [refresh], "what the device wrote");
    view.store64(8, 7);
    drop(view);
    assert_eq!(world.memory.taken(), [publish]);
    drop(world.dma.update(&mut mapping).expect("its own"));
    assert_eq!(world.memory.taken(), [publish]);
    let pages = world.dma.unmap(mapping).expect("confirmed");
    assert_eq!(world.memory.taken(), [refresh]);
    let mapping = world.dma.map(pages, ToDevice).expect("mapped");
    let pages = world.dma.unmap(mapping).expect("confirmed");
    assert_eq!(world.memory.taken(), [publish], "the device wrote nothing");
    let mapping = world.dma.map(pages, FromDevice).expect("mapped");
    world.dma.unmap(mapping).expect("confirmed");
    let why = "a dirty line would be written over what the device wrote";
    assert_eq!(world.memory.taken(), [publish, refresh], "{why}");

    let two = BufferList::new(vec![world.pages(), world.pages()]).expect("not empty");
    let at = |n: usize| two.buffers()[n].address();
    let publish = [Care::Publish(at(0), PAGE), Care::Publish(at(1), PAGE)];
    let refresh = [Care::Refresh(at(0), PAGE), Care::Refresh(at(1), PAGE)];
    let mut mapping = world.dma.map_list(two, Both).expect("mapped");
    assert_eq!(world.memory.taken(), publish, "each buffer of a list");
    drop(world.dma.sync_for_cpu(&mut mapping).expect("its own"));
    assert_eq!(world.memory.taken(), [refresh, publish].concat());
    world.dma.unmap(mapping).expect("confirmed");
    assert_eq!(world.memory.taken(), refresh);

    let fifo = PhysRange::new(PhysAddr::new(0x900_0000), 4).expect("a register");
    // SAFETY: there is no device that could reach anything.
    let fifo = unsafe { RawMemory::registers(fifo) };
    let mapping = world.dma.map(fifo, ToDevice).expect("mapped");
    world.dma.unmap(mapping).expect("confirmed");
    assert_eq!(world.memory.taken(), [], "no cache holds registers");

    let world = World::new(true);
    let mut mapping = world.dma.map(world.pages(), Both).expect("mapped");
    drop(world.dma.sync_for_cpu(&mut mapping).expect("its own"));
    world.dma.unmap(mapping).expect("confirmed");
    assert_eq!(world.memory.taken(), [], "a device that snoops needs none of it");
}
