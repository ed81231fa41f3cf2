//! Memory that is lent wrongly, and a book that notices: what no type can see.
#![expect(unsafe_code, reason = "memory that is known by its address only")]

use portcullis::*;
use portcullis_addr::{PhysAddr, PhysRange};
use portcullis_platform::host::{
    HostClock, HostEvent, HostIrqLock, HostLock, HostMemory, HostPlatform,
};
use portcullis_platform::{
    DmaMemory, LendingBook, LendingWatch, Misuse, NativeAtomic, PageLayout, Platform, WatchedMemory,
};
use std::sync::{Arc, Mutex};

const PAGE: usize = 4096;
const LINE: u64 = 64;

type Books = LendingBook<HostLock>;
type Memory = WatchedMemory<HostMemory, Books>;

/// The host with books.
#[derive(Debug)]
struct Checked(HostPlatform<Memory>);

impl Platform for Checked {
    type Lock = HostLock;
    type IrqLock = HostIrqLock;
    type Event = HostEvent;
    type Atomic = NativeAtomic;
    type Memory = Memory;
    type Clock = HostClock;
    fn memory(&self) -> &Arc<Memory> {
        self.0.memory()
    }
    fn clock(&self) -> &HostClock {
        self.0.clock()
    }
    fn thread(&self) -> usize {
        self.0.thread()
    }
    fn lending(&self) -> Option<&dyn LendingWatch> {
        Some(self.0.memory().watch())
    }
}

#[derive(Default)]
struct Keeper(Mutex<Option<DmaHandle<Checked>>>);

struct Nothing;

impl BoundDriver for Nothing {}

impl Driver<Checked> for Keeper {
    fn name(&self) -> &str {
        "keeper"
    }
    fn probe(
        &self,
        _: &ProbeContext<'_>,
        dma: DmaHandle<Checked>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        *self.0.lock().expect("test") = Some(dma);
        Ok(Box::new(Nothing))
    }
}

struct World {
    memory: Arc<Memory>,
    core: Subsystem<Checked>,
    device: Arc<Device<Checked>>,
    dma: DmaHandle<Checked>,
}

impl World {
    fn new() -> Self {
        let memory = Arc::new(Memory::new(Arc::default(), Books::new(LINE)));
        let platform = Arc::new(Checked(HostPlatform::new(Arc::clone(&memory))));
        let core = Subsystem::new(platform, Policy::default());
        let device = core.add_device(DeviceDescription::new("/x", DmaPath::Direct)).expect("added");
        let driver = Arc::new(Keeper::default());
        core.bind(&device, driver.clone()).expect("tried");
        let dma = driver.0.lock().expect("test").take().expect("bound");
        Self { memory, core, device, dma }
    }

    fn found(&self) -> Vec<Misuse> {
        self.memory.watch().take_found()
    }
}

fn layout() -> PageLayout {
    PageLayout::new(PAGE, PAGE).expect("a page")
}

fn raw(start: PhysAddr, offset: u64, len: u64) -> RawMemory {
    let range = PhysRange::new(PhysAddr::new(start.raw() + offset), len).expect("in a page");
    // SAFETY: there is no device that could reach anything.
    unsafe { RawMemory::new(range) }
}

#[test]
fn a_frame_that_is_freed_while_it_is_mapped_is_found() {
    let world = World::new();
    let frame = world.memory.allocate(layout()).expect("memory");
    let mapping = world.dma.map(raw(frame, 100, 8), Both).expect("mapped");
    let device_address = mapping.device_address();
    world.memory.free(frame, layout());
    assert_eq!(world.found(), [Misuse::FreedWhileLent { memory: frame, device_address }]);
    let _raw = world.dma.unmap(mapping).expect("unmapped");

    let frame = world.memory.allocate(layout()).expect("memory");
    let mapping = world.dma.map(raw(frame, 0, 4096), Both).expect("mapped");
    let _raw = world.dma.unmap(mapping).expect("unmapped");
    world.memory.free(frame, layout());
    assert_eq!(world.found(), [], "in the right order it is none");
}

#[test]
fn loans_that_share_a_cache_line_are_found_where_a_device_writes() {
    let world = World::new();
    let frame = world.memory.allocate(layout()).expect("memory");
    let first = world.dma.map(raw(frame, 0, 32), ToDevice).expect("mapped");
    let reader = world.dma.map(raw(frame, 32, 32), ToDevice).expect("mapped");
    let next_line = world.dma.map(raw(frame, 64, 64), FromDevice).expect("mapped");
    assert_eq!(world.found(), [], "two that are only read, and one in the next line");
    let writer = world.dma.map(raw(frame, 16, 8), FromDevice).expect("mapped");
    let other = first.device_address();
    let memory = PhysAddr::new(frame.raw() + 16);
    let device_address = writer.device_address();
    assert_eq!(world.found(), [Misuse::SharedLine { memory, device_address, other }]);
    let long = world.dma.map(raw(frame, 120, 2000), ToDevice).expect("mapped");
    let other = next_line.device_address();
    let memory = PhysAddr::new(frame.raw() + 120);
    let device_address = long.device_address();
    assert_eq!(world.found(), [Misuse::SharedLine { memory, device_address, other }]);
    let _ = (first, reader, writer);
}

/// What is wider than the bytes is the device's to see, and nobody else's.
#[test]
fn a_bounce_is_not_reached_beyond_its_end() {
    let world = World::new();
    let bounce = world.dma.bounce(vec![7u8; 100]).expect("memory");
    let reads = |offset: usize, len: usize| {
        let mut into = vec![0; len];
        let read = || bounce.load(offset, &mut into);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).is_ok()
    };
    assert!(reads(0, 100) && reads(99, 1) && reads(100, 0));
    assert!(!reads(99, 2) && !reads(0, 101) && !reads(101, 0) && !reads(usize::MAX, 1));
    let write = || bounce.store(usize::MAX, &[1]);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).is_err());
}

#[test]
fn what_is_done_right_leaves_nothing_in_the_books() {
    let world = World::new();
    for size in [1, 100, PAGE, 5 * PAGE] {
        drop(world.dma.allocate(size).expect("memory"));
    }
    let bounce = world.dma.bounce(vec![1u8; 100]).expect("memory");
    let list = BufferList::new(vec![bounce, world.dma.bounce(vec![2u8; 5000]).expect("memory")]);
    let mapping = world.dma.map_list(list.expect("two"), Both).expect("mapped");
    assert_eq!(world.memory.watch().lent(), 2);
    drop(world.dma.unmap(mapping).expect("unmapped"));
    let mapping = world.dma.map(world.dma.bounce(vec![3u8; 9]).expect("memory"), Both);
    let parked = world.dma.unmap_later(mapping.expect("mapped")).expect("unmapped");
    drop(world.dma.redeem(parked).expect("nothing to wait for"));
    assert_eq!((world.found(), world.memory.watch().lent()), (vec![], 0));
}

/// A driver that went without giving back what it had: its buffers are still lent, and the books say which.
#[test]
fn what_a_driver_has_left_mapped_stays_in_the_books() {
    let world = World::new();
    let frame = world.memory.allocate(layout()).expect("memory");
    drop(world.dma.map(raw(frame, 0, 64), Both).expect("mapped"));
    world.core.unbind(&world.device).expect("bound");
    assert_eq!(world.memory.watch().lent(), 1);
    world.memory.free(frame, layout());
    assert!(
        matches!(world.found()[..], [Misuse::FreedWhileLent { memory, .. }] if memory == frame)
    );
    world.memory.watch().returns(frame, 65);
    assert_eq!(world.found(), [Misuse::NeverLent { memory: frame }], "another length");
}
