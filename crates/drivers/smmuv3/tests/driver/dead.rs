//! One unit whose command queue stands still holds up nobody for longer than one wait: the core and the driver together, in virtual time, which passes only
//! while somebody waits for hardware.

use crate::keeper::Keeper;
use crate::world::Platform;
use portcullis::{
    BindError, BindOutcome, Both, Device, DeviceDescription, DeviceStage, DmaPath, FwNode, FwSpec,
    FwStream, Policy, Reach, Subsystem, UnmapFailure,
};
use portcullis_addr::StreamId;
use portcullis_machine::{Faults, Machine, Profile, SmmuV3};
use portcullis_platform::{Clock, DmaPages, PageLayout};
use portcullis_smmuv3::{Options, SYNC_BOUND, Smmu};
use std::sync::Arc;

const DEAD: FwNode = FwNode(1);
const HEALTHY: FwNode = FwNode(2);
const PAGE: usize = 4096;

struct World {
    machine: Arc<Machine>,
    core: Subsystem<Platform>,
}

impl World {
    fn new() -> Self {
        let machine = Machine::builder().build();
        let core = Subsystem::new(Arc::new(Platform::new(&machine)), Policy::default());
        Self { machine, core }
    }

    /// A unit that serves.
    fn serve(&self, node: FwNode) -> Arc<SmmuV3> {
        let unit = self.machine.add_smmuv3(Profile::qemu10());
        let platform = Arc::clone(self.core.platform());
        let smmu = Smmu::bring_up(platform, unit.registers(), Options::default());
        self.core.register(node, Box::new(smmu.expect("it comes up"))).expect("the first");
        unit
    }

    fn add(&self, node: FwNode, stream: u32) -> Arc<Device<Platform>> {
        let spec = FwSpec { streams: vec![FwStream::new(node, StreamId::new(stream))] };
        let path = format!("/client@{stream}");
        let device = DeviceDescription::new(path, DmaPath::Translated(spec));
        self.core.add_device(device).expect("sound")
    }

    fn bind(&self, device: &Arc<Device<Platform>>) -> (BindOutcome, Arc<Keeper>) {
        let driver = Arc::new(Keeper::default());
        (self.core.bind(device, driver.clone()).expect("tried"), driver)
    }

    /// The time that `act` has waited for hardware.
    fn waits<T>(&self, act: impl FnOnce() -> T) -> (T, u64) {
        let start = self.machine.clock().now();
        let result = act();
        (result, self.machine.clock().now() - start)
    }
}

/// One bound, and the few looks that a wait which succeeds may need.
const ONE_WAIT: u64 = SYNC_BOUND + SYNC_BOUND / 100;

#[test]
fn clients_of_a_dead_unit_cost_those_behind_them_one_wait() {
    let world = World::new();
    let stuck: Vec<_> = (0..200).map(|stream| world.add(DEAD, stream)).collect();
    let healthy = world.add(HEALTHY, 1);
    for device in stuck.iter().chain([&healthy]) {
        assert!(matches!(world.bind(device).0, BindOutcome::Deferred(_)));
    }
    // They are queued in this order, for one worker.
    world.serve(DEAD).inject(Faults::none().freeze_after(0));
    world.serve(HEALTHY);
    let (_, waited) = world.waits(|| world.core.run_deferred());
    assert_eq!(healthy.stage(), DeviceStage::Bound);
    assert!(stuck.iter().all(|device| matches!(device.stage(), DeviceStage::Blocked(_))));
    assert!((SYNC_BOUND..=ONE_WAIT).contains(&waited), "{waited} ns");
}

#[test]
fn an_unbind_from_a_dead_unit_waits_once_for_all_its_mappings() {
    let world = World::new();
    let unit = world.serve(DEAD);
    let device = world.add(DEAD, 1);
    let (outcome, driver) = world.bind(&device);
    assert_eq!(outcome, BindOutcome::Bound(Reach::Translated));
    let handle = driver.0.lock().expect("test").take().expect("bound");
    let buffer = || {
        let layout = PageLayout::new(PAGE, PAGE).expect("a page");
        DmaPages::new(world.machine.memory(), layout).expect("memory")
    };
    let held: Vec<_> = (0..300).map(|_| handle.map(buffer(), Both).expect("mapped")).collect();
    unit.inject(Faults::none().freeze_after(0));
    let (unbound, waited) = world.waits(|| world.core.unbind(&device));
    assert!(matches!(unbound, Err(BindError::Unconfirmed(_))), "{unbound:?}");
    assert!((SYNC_BOUND..=ONE_WAIT).contains(&waited), "{waited} ns");
    let quarantined = |mapping| matches!(handle.unmap(mapping), Err(UnmapFailure::Quarantined(_)));
    let (all, waited) = world.waits(|| held.into_iter().all(quarantined));
    assert!(all);
    assert_eq!(waited, 0, "what was mapped is known to be in doubt");
}
