//! The software machine as a testbed: a register-level SMMUv3 for each one that is described, and a device for each client.

use crate::endpoint::Endpoint;
use crate::random::Random;
use crate::registry::{IommuDriver, UnitOptions};
use crate::testbed::Testbed;
use portcullis::{DeviceDescription, DmaPath, FwNode, NodeFailure, ReadyInstance};
use portcullis_addr::{Iova, PhysAddr, StreamId};
use portcullis_firmware::{IommuKind, IommuNode, MachineDescription};
use portcullis_machine::{
    Device, DmaRequest, Expectation, Machine, MachineBuilder, MachinePlatform, Policy, Port,
    Profile, SmmuV3, StepHook, TimeSource, Violation,
};
use portcullis_platform::Platform;
use portcullis_platform::host::HostThreads;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// RAM that is simulated at most; it costs only what is stored in it.
const MOST_RAM: u64 = 4 << 30;

type HostPlatform = MachinePlatform<HostThreads>;

/// A software machine with its IOMMUs and devices, seen through the platform `P` that stands on it.
#[derive(Debug)]
pub struct SoftwareMachine<P = HostPlatform> {
    machine: Arc<Machine>,
    platform: Arc<P>,
    smmus: HashMap<FwNode, Arc<SmmuV3>>,
    devices: HashMap<String, Arc<Device>>,
}

impl SoftwareMachine {
    /// The machine that `description` describes. IOMMUs of kinds that the software machine does not have are left out, and so are their clients.
    pub fn new(description: &MachineDescription, seed: u64) -> Self {
        Self::described(description, Machine::builder().seed(seed), Policy::default())
    }

    /// The same machine, but whoever touches a register may lose its CPU there, as the seed has it: on few or busy CPUs, threads would else hardly ever meet half way.
    pub fn with_preemption(description: &MachineDescription, seed: u64) -> Self {
        let hook = Preemption(AtomicU64::new(seed));
        // Every other machine also fetches ahead and shows stores late.
        let policy = if seed.is_multiple_of(2) { Policy::harshest() } else { Policy::default() };
        Self::described(description, Machine::builder().seed(seed).hook(Arc::new(hook)), policy)
    }

    fn described(
        description: &MachineDescription,
        builder: MachineBuilder,
        policy: Policy,
    ) -> Self {
        let ram = description.memory.iter().max_by_key(|range| range.len());
        let (base, size) = ram.map_or((PhysAddr::new(0x4000_0000), MOST_RAM), |range| {
            (range.start(), range.len().min(MOST_RAM))
        });
        // A mapping is changed by one thread while the device of another works: a hit in between is no offence, and `forbid` says when it is.
        let policy = Policy { verify_hits: false, accesses_kept: 0, ..policy };
        // Virtual time would let one thread's polling use up another's patience.
        let machine = builder.ram(base, size).policy(policy).time(TimeSource::Host).build();
        let platform = Arc::new(MachinePlatform::new(&machine));
        let units = description.iommus.iter().filter(|iommu| is_smmuv3(iommu)).map(|iommu| {
            let sid_bits = id_bits(description, iommu.node);
            let coherent = iommu.coherent;
            (iommu.node, Profile { sid_bits, coherent, ..Profile::server() })
        });
        Self::assemble(machine, platform, units, description.clients())
    }
}

impl<P: Platform> SoftwareMachine<P> {
    /// Puts an SMMUv3 for each of `units` and a device for each of `clients` on `machine`. A client behind an IOMMU that is not among `units` is left out.
    pub fn assemble<'a>(
        machine: Arc<Machine>,
        platform: Arc<P>,
        units: impl IntoIterator<Item = (FwNode, Profile)>,
        clients: impl IntoIterator<Item = &'a DeviceDescription>,
    ) -> Self {
        let units = units.into_iter();
        let smmus = units.map(|(node, profile)| (node, machine.add_smmuv3(profile))).collect();
        let mut devices = HashMap::new();
        for client in clients {
            if let Some(ports) = ports(client, &smmus) {
                let path = client.path.clone();
                devices.insert(path.clone(), machine.add_device(path, &ports));
            }
        }
        Self { machine, platform, smmus, devices }
    }

    /// The machine.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// The SMMUv3 at `node`.
    pub fn smmu(&self, node: FwNode) -> Option<&Arc<SmmuV3>> {
        self.smmus.get(&node)
    }

    /// The device that stands for the client at `path`.
    pub fn device(&self, path: &str) -> Option<&Arc<Device>> {
        self.devices.get(path)
    }

    /// Brings the unit at `node` up with `driver`: reset, tables installed, all streams blocked.
    ///
    /// # Errors
    ///
    /// Why it cannot serve.
    pub fn bring_up_at(
        &self,
        node: FwNode,
        driver: &IommuDriver,
        options: &UnitOptions,
    ) -> Result<ReadyInstance, NodeFailure> {
        let smmu = self.smmus.get(&node).ok_or("the machine has no such IOMMU")?;
        driver.bring_up(Arc::clone(&self.platform), smmu.registers(), options)
    }

    /// Lets allocation number `nth` (from 1, counted from now) of DMA memory fail, and no other.
    pub fn fail_allocation(&self, nth: u64) {
        self.machine.memory().fail_allocation(nth, false);
    }

    /// Lets no allocation fail any more; whether one did.
    pub fn stop_failing(&self) -> bool {
        self.machine.memory().stop_failing();
        self.machine.usage().failures > 0
    }
}

/// Gives the CPU away at one step in eight.
struct Preemption(AtomicU64);

impl StepHook for Preemption {
    fn step(&self, _: &'static str, _: u64, _: &'static str, _: bool) {
        let draw = Random::new(self.0.fetch_add(1, Ordering::Relaxed)).next_u64();
        if draw.is_multiple_of(8) {
            std::thread::yield_now();
        }
    }
}

fn is_smmuv3(iommu: &IommuNode) -> bool {
    iommu.enabled && iommu.kind == IommuKind::SmmuV3
}

/// As many stream id bits as the clients need, at least 16.
fn id_bits(description: &MachineDescription, node: FwNode) -> u8 {
    let ids = description.clients().filter_map(|client| match &client.dma {
        DmaPath::Translated(spec) => {
            spec.streams.iter().filter(|stream| stream.iommu == node).map(|s| s.id.raw()).max()
        }
        DmaPath::Direct | DmaPath::Unusable(_) => None,
    });
    let largest = ids.max().unwrap_or(0);
    u8::try_from(32 - largest.leading_zeros()).unwrap_or(32).max(16)
}

/// Where a client's transactions come in; `None` where an IOMMU that the machine does not have stands in between.
fn ports(client: &DeviceDescription, smmus: &HashMap<FwNode, Arc<SmmuV3>>) -> Option<Vec<Port>> {
    match &client.dma {
        DmaPath::Direct => Some(Vec::new()),
        DmaPath::Unusable(_) => None,
        DmaPath::Translated(spec) => spec
            .streams
            .iter()
            .map(|stream| {
                Some(Port::new(smmus.get(&stream.iommu)?, StreamId::new(stream.id.raw())))
            })
            .collect(),
    }
}

impl<P: Platform> Testbed for SoftwareMachine<P> {
    type Platform = P;

    fn platform(&self) -> &Arc<P> {
        &self.platform
    }

    fn bring_up(&self, iommu: &IommuNode) -> Result<ReadyInstance, NodeFailure> {
        let driver = IommuDriver::of(iommu).ok_or("no driver")?;
        self.bring_up_at(iommu.node, driver, &UnitOptions::described(iommu))
    }

    fn endpoint(&self, path: &str) -> Option<Arc<dyn Endpoint>> {
        let device = Arc::clone(self.devices.get(path)?);
        Some(Arc::new(SoftwareDevice { machine: Arc::clone(&self.machine), device }))
    }

    fn violations(&self) -> Vec<(&'static str, String)> {
        let violations = self.machine.violations();
        violations.iter().map(|violation| (promise_of(violation), violation.to_string())).collect()
    }

    fn allocated(&self) -> u64 {
        self.machine.usage().live_bytes
    }
}

fn promise_of(violation: &Violation) -> &'static str {
    match violation {
        Violation::BlockedPassed(_) | Violation::Untranslated(_) => "P2",
        Violation::StaleHit(_) | Violation::ForbiddenRange(_) => "P3",
        Violation::TlbConflict { .. } | Violation::GuardedWrite { .. } => "P5",
        Violation::UnpredictableCommand { .. } | Violation::UnsyncedCommands { .. } => "P3",
        _ => "P4",
    }
}

struct SoftwareDevice {
    machine: Arc<Machine>,
    device: Arc<Device>,
}

impl Endpoint for SoftwareDevice {
    fn ports(&self) -> usize {
        self.device.ports().len().max(1)
    }

    fn copy(&self, port: usize, from: u64, to: u64, len: usize) {
        let mut bytes = vec![0; len];
        let read = DmaRequest::read(Iova::new(from), &mut bytes).through(port);
        if self.machine.dma_of(&self.device, read).is_completed() {
            let write = DmaRequest::write(Iova::new(to), &bytes).through(port);
            // Whether it arrived shows in memory, which is what counts.
            let _ = self.machine.dma_of(&self.device, write);
        }
    }

    fn expect_translated(&self, translated: bool) {
        let all = if translated { Expectation::Translated } else { Expectation::Anything };
        self.device.expect(all);
    }

    fn forbid(&self, start: u64, len: u64) {
        self.device.forbid(Iova::new(start), len);
    }

    fn permit(&self, start: u64, len: u64) {
        self.device.permit(Iova::new(start), len);
    }
}
