//! The machine: memory, devices, IOMMUs, and the paths between them.

use crate::clock::{MachineClock, TimeSource};
use crate::device::{Device, DeviceId, Expectation};
use crate::faults::Policy;
use crate::hook::{Hook, StepHook};
use crate::memory::{PhysicalMemory, Usage};
use crate::oracle::{AccessKind, AccessRecord, Agent, Oracle, Passage, Violation};
use crate::smmuv3::{Access, Grant, Profile, SmmuV3};
use portcullis_addr::{Iova, PhysAddr, StreamId};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// Accesses are cut at multiples of this: no access crosses a page of the smallest granule.
const ACCESS_LIMIT: u64 = 4096;

/// One of a device's ways to memory: with which id it reaches which IOMMU.
#[derive(Clone, Debug)]
pub struct Port {
    /// The IOMMU.
    pub smmu: Arc<SmmuV3>,
    /// The id.
    pub stream: StreamId,
}

/// The bytes of a [`DmaRequest`].
#[derive(Debug)]
enum Bytes<'a> {
    In(&'a mut [u8]),
    Out(&'a [u8]),
}

/// One transfer that a device is to make.
#[derive(Debug)]
pub struct DmaRequest<'a> {
    address: u64,
    bytes: Bytes<'a>,
    port: usize,
    substream: Option<u32>,
    privileged: bool,
}

impl<'a> DmaRequest<'a> {
    /// Memory at `address` to the device's `bytes`.
    pub fn read(address: Iova, bytes: &'a mut [u8]) -> Self {
        Self::new(address, Bytes::In(bytes))
    }

    /// The device's `bytes` to memory at `address`.
    pub fn write(address: Iova, bytes: &'a [u8]) -> Self {
        Self::new(address, Bytes::Out(bytes))
    }

    fn new(address: Iova, bytes: Bytes<'a>) -> Self {
        Self { address: address.raw(), bytes, port: 0, substream: None, privileged: false }
    }

    /// Through port number `port` of the device (0 by default).
    #[must_use]
    pub fn through(mut self, port: usize) -> Self {
        self.port = port;
        self
    }

    /// With a SubstreamID (PCIe: PASID).
    #[must_use]
    pub fn substream(mut self, id: u32) -> Self {
        self.substream = Some(id);
        self
    }

    /// As a privileged access.
    #[must_use]
    pub fn privileged(mut self) -> Self {
        self.privileged = true;
        self
    }

    fn kind(&self) -> AccessKind {
        match self.bytes {
            Bytes::In(_) => AccessKind::Read,
            Bytes::Out(_) => AccessKind::Write,
        }
    }

    fn len(&self) -> usize {
        match &self.bytes {
            Bytes::In(bytes) => bytes.len(),
            Bytes::Out(bytes) => bytes.len(),
        }
    }
}

/// How a transfer ended, as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a refused transfer is an answer"]
pub enum DmaOutcome {
    /// All bytes were moved.
    Completed,
    /// The bus answered with an abort; bytes before it were moved.
    Aborted {
        /// Bytes moved before the abort.
        done: usize,
    },
}

impl DmaOutcome {
    /// Whether all bytes were moved.
    pub fn is_completed(self) -> bool {
        self == Self::Completed
    }

    /// Bytes moved of `len`.
    pub fn bytes(self, len: usize) -> usize {
        match self {
            Self::Completed => len,
            Self::Aborted { done } => done,
        }
    }
}

/// How to build a [`Machine`].
#[derive(Clone, Debug)]
pub struct MachineBuilder {
    ram_base: u64,
    ram_size: u64,
    seed: u64,
    policy: Policy,
    time: TimeSource,
    hook: Hook,
}

impl MachineBuilder {
    /// RAM of `size` bytes at `base` (both rounded to 4 KiB; at most 16 TiB). 4 GiB at 0x4000_0000 by default; it costs only what is stored in it.
    #[must_use]
    pub fn ram(mut self, base: PhysAddr, size: u64) -> Self {
        self.ram_base = base.align_down(0x1000).raw();
        self.ram_size = size.clamp(0x1000, 1 << 44) & !0xfff;
        self
    }

    /// What every draw depends on. 0 by default.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How the hardware uses its freedom.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Where time comes from. Virtual, 10 us a look, by default.
    #[must_use]
    pub fn time(mut self, time: TimeSource) -> Self {
        self.time = time;
        self
    }

    /// Who is told of every step.
    #[must_use]
    pub fn hook(mut self, hook: Arc<dyn StepHook>) -> Self {
        self.hook = Hook::new(hook);
        self
    }

    /// The machine, powered on: memory empty, no device.
    pub fn build(self) -> Arc<Machine> {
        let Self { ram_base, ram_size, seed, policy, time, hook } = self;
        let oracle = Arc::new(Oracle::new(policy.accesses_kept));
        let memory = Arc::new(PhysicalMemory::new(ram_base, ram_size, Arc::clone(&oracle)));
        let smmus = Arc::new(RwLock::new(Vec::new()));
        let clock = Arc::new(MachineClock::new(time, hook.clone(), Arc::clone(&smmus)));
        let devices = RwLock::new(Vec::new());
        Arc::new(Machine { memory, oracle, clock, hook, policy, seed, smmus, devices })
    }
}

/// A computer without CPUs: RAM, IOMMUs, devices. The CPUs are whoever calls it, from as many threads as they like.
pub struct Machine {
    memory: Arc<PhysicalMemory>,
    oracle: Arc<Oracle>,
    clock: Arc<MachineClock>,
    hook: Hook,
    policy: Policy,
    seed: u64,
    smmus: Arc<RwLock<Vec<Arc<SmmuV3>>>>,
    devices: RwLock<Vec<Arc<Device>>>,
}

impl Machine {
    /// A machine to be described.
    pub fn builder() -> MachineBuilder {
        MachineBuilder {
            ram_base: 0x4000_0000,
            ram_size: 4 << 30,
            seed: 0,
            policy: Policy::default(),
            time: TimeSource::Virtual { step: 10_000 },
            hook: Hook::default(),
        }
    }

    /// The RAM.
    pub fn memory(&self) -> &Arc<PhysicalMemory> {
        &self.memory
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<MachineClock> {
        &self.clock
    }

    /// What was seen so far.
    pub fn oracle(&self) -> &Oracle {
        &self.oracle
    }

    /// What went wrong so far, oldest first.
    pub fn violations(&self) -> Vec<Violation> {
        self.oracle.violations()
    }

    /// What is allocated now.
    pub fn usage(&self) -> Usage {
        self.memory.usage()
    }

    /// Adds an SMMUv3 as it comes out of reset.
    pub fn add_smmuv3(&self, profile: Profile) -> Arc<SmmuV3> {
        let late = self.policy.store_order == crate::StoreOrder::Late;
        if !profile.coherent || late {
            self.memory.split_views(late);
        }
        let mut smmus = self.smmus.write().unwrap_or_else(PoisonError::into_inner);
        let index = smmus.len() as u32;
        let seed = self.seed.wrapping_add(u64::from(index).wrapping_mul(0x9e37_79b9));
        let smmu = Arc::new(SmmuV3::new(
            index,
            profile,
            self.policy.clone(),
            seed,
            Arc::clone(&self.memory),
            Arc::clone(&self.oracle),
            self.hook.clone(),
        ));
        smmus.push(Arc::clone(&smmu));
        smmu
    }

    /// Adds a device with those ways to memory; none for a device behind no IOMMU.
    pub fn add_device(&self, name: impl Into<String>, ports: &[Port]) -> Arc<Device> {
        let mut devices = self.devices.write().unwrap_or_else(PoisonError::into_inner);
        let device = Device::new(DeviceId(devices.len() as u32), name.into(), ports.to_vec());
        let device = Arc::new(device);
        devices.push(Arc::clone(&device));
        device
    }

    /// Adds a device with one way to memory: through `smmu`, as `stream`.
    pub fn add_client(
        &self,
        name: impl Into<String>,
        smmu: &Arc<SmmuV3>,
        stream: StreamId,
    ) -> Arc<Device> {
        self.add_device(name, &[Port { smmu: Arc::clone(smmu), stream }])
    }

    /// The device of that number.
    pub fn device(&self, id: DeviceId) -> Option<Arc<Device>> {
        let devices = self.devices.read().unwrap_or_else(PoisonError::into_inner);
        devices.get(id.0 as usize).map(Arc::clone)
    }

    /// The IOMMUs, in the order in which they were added.
    pub fn smmus(&self) -> Vec<Arc<SmmuV3>> {
        self.smmus.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has a device make a transfer. A device that does not exist gets an abort.
    pub fn dma(&self, device: DeviceId, request: DmaRequest<'_>) -> DmaOutcome {
        match self.device(device) {
            Some(device) => self.dma_of(&device, request),
            None => DmaOutcome::Aborted { done: 0 },
        }
    }

    /// As [`dma`](Self::dma), for who holds the device.
    pub fn dma_of(&self, device: &Device, mut request: DmaRequest<'_>) -> DmaOutcome {
        let (len, kind) = (request.len(), request.kind());
        let mut done = 0;
        while done < len {
            let Some(address) = request.address.checked_add(done as u64) else {
                return DmaOutcome::Aborted { done };
            };
            let room = ACCESS_LIMIT - address % ACCESS_LIMIT;
            let count = (len - done).min(room as usize);
            self.hook.step("device", u64::from(device.id().0), "dma", kind == AccessKind::Write);
            if !self.access(device, &mut request, done, count) {
                self.oracle.refused();
                return DmaOutcome::Aborted { done };
            }
            done += count;
        }
        DmaOutcome::Completed
    }

    /// Moves `count` bytes of the request, from byte `done` on, inside one page. Whether it was let through.
    fn access(
        &self,
        device: &Device,
        request: &mut DmaRequest<'_>,
        done: usize,
        count: usize,
    ) -> bool {
        let address = request.address + done as u64;
        let access = Access {
            address,
            len: count as u32,
            kind: request.kind(),
            substream: request.substream,
            privileged: request.privileged,
        };
        let port = device.ports().get(request.port);
        if port.is_none() && !device.ports().is_empty() {
            return false;
        }
        let stream = port.map(|port| (port.smmu.index(), port.stream));
        let (len, kind) = (access.len, access.kind);
        let mut land = |grant: Grant| {
            let physical = grant.physical;
            let by = Agent::Device(device.id());
            let landed = match &mut request.bytes {
                Bytes::In(bytes) => {
                    self.memory.dma_read(physical, &mut bytes[done..done + count], by)
                }
                Bytes::Out(bytes) => {
                    self.memory.dma_write(physical, &bytes[done..done + count], by)
                }
            };
            if landed.is_ok() {
                let physical = PhysAddr::new(physical);
                let device_id = device.id();
                let passage = grant.passage;
                let record = AccessRecord {
                    device: device_id,
                    stream,
                    address,
                    physical,
                    len,
                    kind,
                    passage,
                };
                self.judge(device, record, &grant);
            }
            landed
        };
        match port {
            None => {
                let passage = Passage::Direct;
                land(Grant { physical: address, passage, stale: false, reused: false }).is_ok()
            }
            Some(port) => port.smmu.transact(port.stream, &access, &mut land).is_ok(),
        }
    }

    /// Records an access that reached memory, and what about it must not have been.
    fn judge(&self, device: &Device, record: AccessRecord, grant: &Grant) {
        self.oracle.passed(record);
        if grant.stale {
            self.oracle.violated(Violation::StaleHit(record));
        }
        if grant.reused {
            self.oracle.violated(Violation::ReusedFrame(record));
        }
        let translated = matches!(record.passage, Passage::Translated { .. });
        match device.expectation() {
            Expectation::Blocked => self.oracle.violated(Violation::BlockedPassed(record)),
            Expectation::Translated if !translated => {
                self.oracle.violated(Violation::Untranslated(record));
            }
            _ => {}
        }
        if device.is_forbidden(record.address, u64::from(record.len)) {
            self.oracle.violated(Violation::ForbiddenRange(record));
        }
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("ram", &format_args!("{} + {:#x}", self.memory.base(), self.memory.size()))
            .field("seed", &self.seed)
            .field("smmus", &self.smmus().len())
            .finish_non_exhaustive()
    }
}
