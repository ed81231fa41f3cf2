//! The machine: memory, devices, IOMMUs, and the paths between them.

use crate::access::{AccessKind, AccessRecord, Agent, DeviceId, Passage};
use crate::amdvi::{AmdVi, AmdViProfile};
use crate::clock::{MachineClock, TimeSource};
use crate::device::{Device, Expectation, Port};
use crate::faults::Policy;
use crate::hook::{Hook, StepHook};
use crate::memory::{PhysicalMemory, Usage};
use crate::model::{Access, Grant, IommuModel, Iommus, Wiring};
use crate::oracle::{Oracle, Violation};
use crate::request::{Bytes, DmaOutcome, DmaRequest};
use crate::riscv::{RiscvIommu, RiscvProfile};
use crate::smmuv2::{SmmuV2, SmmuV2Profile};
use crate::smmuv3::{Profile, SmmuV3};
use crate::virtio::{VirtioIommu, VirtioProfile};
use crate::vtd::{VtdIommu, VtdProfile};
use portcullis_addr::{Iova, PhysAddr, StreamId};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// Accesses are cut at multiples of this: no access crosses a page of the smallest granule.
const ACCESS_LIMIT: u64 = 4096;

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

    /// The seed of every random choice. 0 by default.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How the hardware uses the freedom that the architecture gives it.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Where time comes from. Virtual by default: each look at the clock takes 10 µs.
    #[must_use]
    pub fn time(mut self, time: TimeSource) -> Self {
        self.time = time;
        self
    }

    /// The hook that is told of every step. None by default.
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
        let iommus = Arc::new(Iommus::default());
        let clock = Arc::new(MachineClock::new(time, hook.clone(), Arc::clone(&iommus)));
        let devices = RwLock::new(Vec::new());
        Arc::new(Machine { memory, oracle, clock, hook, policy, seed, iommus, devices })
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
    iommus: Arc<Iommus>,
    devices: RwLock<Vec<Arc<Device>>>,
}

impl Machine {
    /// Starts the description of a machine.
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

    /// The record of what happened so far.
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
        self.add_iommu(profile.coherent, |wiring| SmmuV3::new(wiring, profile))
    }

    /// Adds an SMMUv2 as it comes out of reset.
    pub fn add_smmuv2(&self, profile: SmmuV2Profile) -> Arc<SmmuV2> {
        self.add_iommu(profile.coherent, |wiring| SmmuV2::new(wiring, profile))
    }

    /// Adds a RISC-V IOMMU as it comes out of reset.
    pub fn add_riscv(&self, profile: RiscvProfile) -> Arc<RiscvIommu> {
        self.add_iommu(profile.coherent, |wiring| RiscvIommu::new(wiring, profile))
    }

    /// Adds a virtio-iommu as it comes out of power-on.
    pub fn add_virtio(&self, profile: VirtioProfile) -> Arc<VirtioIommu> {
        self.add_iommu(true, |wiring| VirtioIommu::new(wiring, profile))
    }

    /// Adds a VT-d unit as it comes out of reset: it lets everything pass.
    pub fn add_vtd(&self, profile: VtdProfile) -> Arc<VtdIommu> {
        self.add_iommu(!profile.needs_publishing(), |wiring| VtdIommu::new(wiring, profile))
    }

    /// Adds an AMD IOMMU as it comes out of reset: it lets everything pass.
    pub fn add_amdvi(&self, profile: AmdViProfile) -> Arc<AmdVi> {
        self.add_iommu(profile.coherent, |wiring| AmdVi::new(wiring, profile))
    }

    /// Adds the IOMMU that `make` returns. `coherent` says whether its own accesses snoop the CPUs' caches.
    pub fn add_iommu<M: IommuModel>(
        &self,
        coherent: bool,
        make: impl FnOnce(Wiring) -> M,
    ) -> Arc<M> {
        let late = self.policy.store_order == crate::StoreOrder::Late;
        if !coherent || late {
            self.memory.split_views(late);
        }
        self.iommus.add(|index| {
            let seed = self.seed.wrapping_add(u64::from(index).wrapping_mul(0x9e37_79b9));
            make(Wiring {
                index,
                seed,
                policy: self.policy.clone(),
                memory: Arc::clone(&self.memory),
                oracle: Arc::clone(&self.oracle),
                hook: self.hook.clone(),
            })
        })
    }

    /// Adds a device that reaches memory through `ports`. With none it is behind no IOMMU.
    pub fn add_device(&self, name: impl Into<String>, ports: &[Port]) -> Arc<Device> {
        let mut devices = self.devices.write().unwrap_or_else(PoisonError::into_inner);
        let device = Device::new(DeviceId(devices.len() as u32), name.into(), ports.to_vec());
        let device = Arc::new(device);
        devices.push(Arc::clone(&device));
        device
    }

    /// Adds a device with a single port: through `iommu`, with the id `id`.
    pub fn add_client<M: IommuModel>(
        &self,
        name: impl Into<String>,
        iommu: &Arc<M>,
        id: StreamId,
    ) -> Arc<Device> {
        self.add_device(name, &[Port::new(iommu, id)])
    }

    /// The device of that number.
    pub fn device(&self, id: DeviceId) -> Option<Arc<Device>> {
        let devices = self.devices.read().unwrap_or_else(PoisonError::into_inner);
        devices.get(id.0 as usize).map(Arc::clone)
    }

    /// The IOMMUs, in the order in which they were added.
    pub fn iommus(&self) -> Vec<Arc<dyn IommuModel>> {
        self.iommus.all()
    }

    /// Has a device make a transfer. A device that does not exist gets an abort.
    pub fn dma(&self, device: DeviceId, request: DmaRequest<'_>) -> DmaOutcome {
        match self.device(device) {
            Some(device) => self.dma_of(&device, request),
            None => DmaOutcome::Aborted { done: 0 },
        }
    }

    /// As [`dma`](Self::dma), for a caller that holds the device.
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

    /// Moves `count` bytes of the request, from byte `done` on, inside one page. Returns whether the access was let through.
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
        let stream = port.map(|port| (port.iommu.index(), port.id));
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
            Some(port) => port.iommu.translate(port.id, &access, &mut land).is_ok(),
        }
    }

    /// Records an access that reached memory, and every violation that it amounts to.
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
            .field("iommus", &self.iommus().len())
            .finish_non_exhaustive()
    }
}

impl Device {
    /// Has the device copy `len` bytes between memory at `address` and its buffer at `offset`, through its first port.
    ///
    /// # Panics
    ///
    /// When the range does not lie in the buffer.
    pub fn copy(
        &self,
        machine: &Machine,
        kind: AccessKind,
        address: Iova,
        offset: usize,
        len: usize,
    ) -> DmaOutcome {
        // A private copy, so that no lock is held while the access runs (a hook may switch to another thread of execution).
        let mut bytes = self.buffer()[offset..offset + len].to_vec();
        let outcome = match kind {
            AccessKind::Read => machine.dma_of(self, DmaRequest::read(address, &mut bytes)),
            AccessKind::Write => machine.dma_of(self, DmaRequest::write(address, &bytes)),
        };
        if kind == AccessKind::Read {
            self.keep(offset, &bytes[..outcome.bytes(len)]);
        }
        outcome
    }
}
