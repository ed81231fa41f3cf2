//! Threads that map and unmap through clones of a handle while its driver is unbound and bound again: the whole core and driver on real threads.
//!
//! `cargo test --release -p portcullis-smmuv3 --test rebind -- --ignored` does ten million operations.

use portcullis::{
    Both, BoundDriver, Device, DeviceDescription, DmaError, DmaHandle, DmaMapping, DmaPath, Driver,
    FwNode, FwSpec, FwStream, Lendable, MapFailure, Policy, ProbeContext, ProbeError, Subsystem,
};
use portcullis_addr::StreamId;
use portcullis_machine::{Machine, MachinePlatform, PhysicalMemory, Profile, TimeSource};
use portcullis_platform::host::HostThreads;
use portcullis_platform::{DmaPages, PageLayout};
use portcullis_smmuv3::{Options, Smmu};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

type Platform = MachinePlatform<HostThreads>;
type Buffer = DmaPages<PhysicalMemory>;

const PAGE: u64 = 4096;
/// Pages of the buffers: small ones that share tables, one that fills a table, and one that takes a large leaf and the empty tables below it.
const SIZES: [u64; 6] = [1, 2, 8, 1, 512, 1024];
const WORKERS: usize = 4;
const MAPS_A_BIND: u64 = 50;

/// The handle of the driver that is bound now, with the number of the bind.
#[derive(Default)]
struct Current(RwLock<Option<(u64, DmaHandle<Platform>)>>);

struct Sharer(Arc<Current>, AtomicU64);

struct Nothing;

impl BoundDriver for Nothing {}

impl Driver<Platform> for Sharer {
    fn name(&self) -> &str {
        "sharer"
    }
    fn probe(
        &self,
        _: &ProbeContext<'_>,
        dma: DmaHandle<Platform>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        let bind = self.1.fetch_add(1, Ordering::Relaxed);
        *self.0.0.write().expect("no panic") = Some((bind, dma));
        Ok(Box::new(Nothing))
    }
}

/// What is handed out now, as page numbers by bind: nothing twice.
#[derive(Default)]
struct HandedOut(Mutex<HashSet<(u64, u64)>>);

impl HandedOut {
    fn take(&self, bind: u64, mapping: &DmaMapping<Buffer, Both>) {
        let mut pages = self.0.lock().expect("no panic");
        for page in pages_of(mapping) {
            assert!(pages.insert((bind, page)), "page {page:#x} of bind {bind} handed out twice");
        }
    }

    fn give(&self, bind: u64, mapping: &DmaMapping<Buffer, Both>) {
        let mut pages = self.0.lock().expect("no panic");
        for page in pages_of(mapping) {
            assert!(pages.remove(&(bind, page)), "page {page:#x} was not handed out");
        }
    }
}

fn pages_of(mapping: &DmaMapping<Buffer, Both>) -> impl Iterator<Item = u64> {
    let first = mapping.device_address() / PAGE;
    first..first + mapping.len() / PAGE
}

struct Stress {
    machine: Arc<Machine>,
    core: Subsystem<Platform>,
    device: Arc<Device<Platform>>,
    current: Arc<Current>,
    handed_out: HandedOut,
    operations: AtomicU64,
    /// Maps that found their handle void.
    void: AtomicU64,
    /// Mappings that were given back through the handle of a driver that was gone.
    outlived: AtomicU64,
}

impl Stress {
    fn new() -> Self {
        let machine = Machine::builder().time(TimeSource::Host).build();
        let unit = machine.add_smmuv3(Profile::qemu10());
        let (node, stream) = (FwNode(1), StreamId::new(0x10));
        machine.add_client("client", &unit, stream);
        let platform = Arc::new(Platform::new(&machine));
        let core = Subsystem::new(Arc::clone(&platform), Policy::default());
        let spec = FwSpec { streams: vec![FwStream::new(node, stream)] };
        let device = DeviceDescription::new("/client", DmaPath::Translated(spec));
        let device = core.add_device(device).expect("sound");
        let smmu = Smmu::bring_up(platform, unit.registers(), Options::default());
        core.register(node, Box::new(smmu.expect("the unit comes up"))).expect("the first");
        Self {
            machine,
            core,
            device,
            current: Arc::default(),
            handed_out: HandedOut::default(),
            operations: AtomicU64::new(0),
            void: AtomicU64::new(0),
            outlived: AtomicU64::new(0),
        }
    }

    fn handle(&self) -> (u64, DmaHandle<Platform>) {
        self.current.0.read().expect("no panic").clone().expect("bound once at least")
    }

    fn buffer(&self, pages: u64) -> Buffer {
        let size = (pages * PAGE) as usize;
        let layout = PageLayout::new(size, size.next_power_of_two()).expect("not empty");
        DmaPages::new(self.machine.memory(), layout).expect("memory")
    }

    /// Maps, keeps up to three mappings, unmaps; with another handle once its own is void.
    fn work(&self, worker: usize, until: u64) {
        let mut idle: Vec<_> = SIZES.iter().map(|pages| self.buffer(*pages)).collect();
        let mut mapped = std::collections::VecDeque::new();
        let (mut bind, mut handle) = self.handle();
        let mut turn = worker;
        while self.operations.load(Ordering::Relaxed) < until {
            turn = turn.wrapping_mul(5).wrapping_add(1 + worker);
            let buffer = idle.swap_remove(turn % idle.len());
            let range = buffer.range();
            match handle.map(buffer, Both) {
                Ok(mapping) => {
                    self.operations.fetch_add(1, Ordering::Relaxed);
                    self.handed_out.take(bind, &mapping);
                    mapped.push_back((bind, handle.clone(), range, mapping));
                }
                Err(MapFailure::Refused { buffer, error: DmaError::Revoked }) => {
                    self.void.fetch_add(1, Ordering::Relaxed);
                    idle.push(buffer);
                    std::thread::yield_now();
                    (bind, handle) = self.handle();
                }
                Err(failure) => panic!("{failure}"),
            }
            while mapped.len() > turn % 4 {
                let (of, handle, range, mapping) = mapped.pop_front().expect("not empty");
                self.handed_out.give(of, &mapping);
                self.outlived.fetch_add(u64::from(of != bind), Ordering::Relaxed);
                let buffer = handle.unmap(mapping).expect("everything is confirmed here");
                assert_eq!(buffer.range(), range);
                idle.push(buffer);
            }
        }
        for (of, handle, _, mapping) in mapped {
            self.handed_out.give(of, &mapping);
            handle.unmap(mapping).expect("everything is confirmed here");
        }
    }

    fn run(&self, operations: u64) {
        let driver = Arc::new(Sharer(Arc::clone(&self.current), AtomicU64::new(0)));
        self.core.bind(&self.device, driver.clone()).expect("tried");
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..WORKERS).map(|n| scope.spawn(move || self.work(n, operations))).collect();
            let working = || !workers.iter().all(|worker| worker.is_finished());
            while working() {
                // A driver lives for some of its workers' maps, or there would be none.
                let enough = self.operations.load(Ordering::Relaxed) + MAPS_A_BIND;
                while working() && self.operations.load(Ordering::Relaxed) < enough {
                    std::thread::yield_now();
                }
                self.core.unbind(&self.device).expect("bound, and everything is confirmed here");
                self.core.bind(&self.device, driver.clone()).expect("tried");
            }
        });
        self.core.unbind(&self.device).expect("bound");
    }
}

fn stress(operations: u64) {
    let stress = Stress::new();
    stress.core.run_deferred();
    let before = stress.core.counts();
    stress.run(operations);
    assert_eq!(stress.core.counts(), before, "as if nothing had happened");
    assert_eq!(stress.machine.violations(), []);
    let void = stress.void.load(Ordering::Relaxed);
    let outlived = stress.outlived.load(Ordering::Relaxed);
    println!("{operations} maps; {void} found their handle void, {outlived} outlived their driver");
    assert!(void > 0 && outlived > 0, "no driver was unbound under the workers");
}

#[test]
fn threads_map_and_unmap_while_their_driver_is_rebound() {
    stress(20_000);
}

#[test]
#[ignore = "ten million operations: minutes, in release"]
fn ten_million_operations_while_the_driver_is_rebound() {
    stress(10_000_000);
}
