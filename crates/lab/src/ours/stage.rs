//! One machine with the shipped core and driver on it, and the threads' acts.

use crate::ours::client::{Endpoint, Prober};
use crate::ours::family::{Family, ID_BITS};
use crate::ours::late::Late;
use crate::ours::platform::{LabHook, LabPlatform};
use crate::ours::world::{Event, Grain, World};
use portcullis::{
    BindOutcome, BlockedReason, Device, DeviceDescription, DmaPath, DomainType, FwNode, FwSpec,
    FwStream, NodeFailure, ReadyInstance, ReservedKind, ReservedRegion, SetUpError, Subsystem,
    UnregisterError,
};
use portcullis_addr::{Iova, IovaRange, PhysAddr, StreamId};
use portcullis_machine::{Machine, TimeSource};
use portcullis_testbed::{IommuDriver, SoftwareMachine, Testbed, UnitOptions};
use portcullis_threads::{reached, violation};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where the machine's RAM begins.
const RAM: u64 = 0x8000_0000;
/// What a look at hardware that has not answered takes, in nanoseconds: longer than every bound, so that a wait in vain ends at the second look. Each look is a step.
const LOOK: u64 = 2_000_000_000;

/// A client as the core and as the machine know it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) device: Arc<Device<LabPlatform>>,
    pub(crate) endpoint: Arc<Endpoint>,
}

/// Everything that the threads of one execution share.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) bed: SoftwareMachine<LabPlatform>,
    pub(crate) sub: Subsystem<LabPlatform>,
    pub(crate) clients: Vec<Client>,
    iommus: usize,
    pub(crate) family: Family,
    driver: &'static IommuDriver,
    registered_too_early: bool,
    /// How many blocks of memory the units that were brought up keep when they are stopped.
    kept: AtomicUsize,
}

/// The firmware node of IOMMU number `index`.
pub(crate) fn node(index: usize) -> FwNode {
    FwNode(index as u32 + 1)
}

/// What the core is told of client number `index`; with `high`, that it must not use the addresses of 39 bits.
fn describe(index: usize, client: &crate::ours::world::Client, high: bool) -> DeviceDescription {
    let stream = StreamId::new(client.stream);
    let streams = client
        .iommus
        .iter()
        .map(|&iommu| FwStream { mask: client.mask, ..FwStream::new(node(iommu), stream) });
    let spec = FwSpec { streams: streams.collect() };
    let low = IovaRange::new(Iova::new(0), 1 << 39).expect("a range");
    let low = ReservedRegion { range: low, kind: ReservedKind::Reserved };
    DeviceDescription {
        reserved: high.then_some(low).into_iter().collect(),
        ..DeviceDescription::new(format!("/client@{index}"), DmaPath::Translated(spec))
    }
}

impl Stage {
    /// A machine out of reset, its devices described, nothing registered.
    pub(crate) fn new(world: &World) -> Self {
        let policy = world.family.policy();
        let time = TimeSource::Virtual { step: LOOK };
        let machine =
            Machine::builder().ram(PhysAddr::new(RAM), 16 << 20).policy(policy).time(time);
        let rogue = world.events.iter().any(|event| matches!(event, Event::Rogue(_)));
        let fine = world.grain == Grain::Registers;
        let hook = LabHook { fine, family: world.family, transactions: rogue };
        let machine = machine.hook(Arc::new(hook)).build();
        let profile = world.family.profile();
        let units = (0..world.iommus).map(|index| (node(index), profile.clone()));
        let tables = world.grain >= Grain::Tables;
        let platform = LabPlatform::new(&machine, world.allocations_fail, tables);
        let platform =
            Arc::new(if world.warm.is_some() { platform.on_one_cpu() } else { platform });
        let lazy = world.events.iter().any(|event| matches!(event, Event::UseLazily(_)));
        let default_domain = if lazy { DomainType::DmaLazy } else { DomainType::Dma };
        let policy = portcullis::Policy { default_domain };
        let sub = Subsystem::new(Arc::clone(&platform), policy);
        let described = world.clients.iter().enumerate();
        let described = described.map(|(index, client)| describe(index, client, world.high));
        let described: Vec<_> = described.collect();
        let bed = SoftwareMachine::assemble(machine, platform, units, &described);
        (0..world.iommus).for_each(|index| world.family.prepare(&bed, node(index)));
        let clients = described.into_iter().map(|description| {
            let on_machine = bed.device(&description.path).expect("its IOMMUs are there");
            let endpoint = Endpoint::new(bed.machine(), Arc::clone(on_machine));
            let device = sub.add_device(description).expect("a valid description");
            Client { device, endpoint: Arc::new(endpoint) }
        });
        let clients = clients.collect();
        let driver = IommuDriver::named(world.family.driver()).expect("it is in the table");
        let (iommus, registered_too_early) = (world.iommus, world.registered_too_early);
        let family = world.family;
        let kept = AtomicUsize::new(0);
        Self { bed, sub, clients, iommus, family, driver, registered_too_early, kept }
    }

    /// How many IOMMUs there are.
    pub(crate) fn iommus(&self) -> usize {
        self.iommus
    }

    /// Brings IOMMU `index` up and registers it; once more after an allocation failed, with everybody told in between.
    pub(crate) fn register(&self, index: usize) {
        if self.registered_too_early {
            return self.register_then_bring_up(index);
        }
        match self.bring_up(index) {
            Ok(instance) => self.publish(index, instance),
            Err(_) if self.bed.platform().has_failed() => {
                reached("a bring-up failed for want of memory");
                self.sub.fail_node(node(index), "its bring-up failed once");
                self.sub.run_deferred();
                match self.bring_up(index) {
                    Ok(instance) => self.publish(index, instance),
                    Err(error) => violation("P7", format!("second bring-up failed: {error}")),
                }
            }
            Err(error) => violation("P8", format!("bring-up failed: {error}")),
        }
    }

    fn bring_up(&self, index: usize) -> Result<ReadyInstance, NodeFailure> {
        let options = UnitOptions {
            index: index as u64,
            queue_log2: Some(4),
            stream_id_bits: Some(ID_BITS),
            ..UnitOptions::default()
        };
        let up = self.bed.bring_up_at(node(index), self.driver, &options)?;
        self.kept.fetch_add(up.kept.blocks, Ordering::Relaxed);
        Ok(up.instance)
    }

    /// How many blocks of memory are kept for ever, because units were stopped that would let everything pass without them.
    pub(crate) fn kept(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    fn publish(&self, index: usize, instance: ReadyInstance) {
        if let Err(error) = self.sub.register(node(index), instance) {
            violation("P7", format!("registration refused: {error}"));
        }
    }

    /// The bug on purpose: whoever finds the instance finds one that does not serve yet.
    fn register_then_bring_up(&self, index: usize) {
        let late = Late::default();
        self.publish(index, Box::new(late.clone()));
        match self.bring_up(index) {
            Ok(instance) => late.serve(instance),
            Err(error) => violation("P8", format!("bring-up failed: {error}")),
        }
    }

    /// Takes IOMMU `index` out; whether that was possible.
    pub(crate) fn unregister(&self, index: usize) -> bool {
        match self.sub.unregister(node(index)) {
            Ok(()) => {
                reached("an IOMMU was unregistered");
                true
            }
            Err(UnregisterError::Busy { .. } | UnregisterError::NotRegistered(_)) => false,
            Err(error) => {
                violation("P8", format!("unregistration: {error}"));
                true
            }
        }
    }

    /// Asks for client `index`'s driver; once more after an allocation failed.
    pub(crate) fn bind(&self, index: usize) {
        let client = &self.clients[index];
        if client.endpoint.escapes() {
            violation("P2", format!("client {index} reaches memory before it has a driver"));
        }
        for attempt in 0.. {
            let driver = Arc::new(Prober(Arc::clone(&client.endpoint)));
            match self.sub.bind(&client.device, driver) {
                Ok(BindOutcome::Bound(_)) => return reached("bound at once"),
                Ok(BindOutcome::Deferred(_)) => return reached("deferred"),
                Ok(_) if attempt == 0 && self.bed.platform().has_failed() => {
                    reached("a bind failed for want of memory");
                }
                // Somebody else's bring-up failed; its second one brings the next attempt.
                Ok(BindOutcome::Blocked(_)) if self.bed.platform().may_fail() => {
                    return reached("blocked by a failed bring-up");
                }
                // Its release brings the next attempt.
                Ok(BindOutcome::Blocked(BlockedReason::OwnedOutside)) => {
                    return reached("blocked by an owner outside the kernel");
                }
                // What the stage must be in the end, its promises say.
                Ok(BindOutcome::Blocked(BlockedReason::SetUp(SetUpError::NoCommonGround(_))))
                    if !self.family.shares_spaces() =>
                {
                    return reached("blocked, because no address space is for two IOMMUs");
                }
                Ok(outcome) => {
                    return violation("P7", format!("client {index}: {outcome}"));
                }
                Err(_) => return reached("bind refused"),
            }
        }
    }

    /// Takes client `index`'s driver away, if it has one.
    pub(crate) fn unbind(&self, index: usize) {
        if self.sub.unbind(&self.clients[index].device).is_ok() {
            reached("unbound");
        }
    }

    /// Takes client `index` out of the machine.
    pub(crate) fn unplug(&self, index: usize) {
        if let Err(error) = self.sub.remove_device(&self.clients[index].device) {
            violation("P7", format!("unplug of client {index}: {error}"));
        }
    }
}
