//! The software machine as a testbed: a register-level model for each IOMMU of a kind that it has, and a device for each client.

use crate::endpoint::Endpoint;
use crate::random::Random;
use crate::registry::{self, BroughtUp, IommuDriver, UnitOptions};
use crate::testbed::Testbed;
use portcullis::{
    DeviceDescription, DmaPath, FwNode, FwStream, NodeFailure, ReservedKind, StreamSpec,
};
use portcullis_addr::{Iova, PhysAddr, StreamId};
use portcullis_firmware::{IommuKind, IommuNode, MachineDescription};
use portcullis_machine::{
    AmdViProfile, Device, DmaRequest, Expectation, FirmwareGroup, Interleaved, IommuModel, Machine,
    MachineBuilder, MachinePlatform, Policy, Port, Profile, RegisterBlock, RegisterModel,
    RiscvProfile, SmmuV2, SmmuV2Profile, StepHook, TimeSource, Violation, VirtioProfile,
    VtdProfile, share_translations,
};
use portcullis_platform::host::HostThreads;
use portcullis_platform::{Platform, Registers};
use portcullis_smmuv2::{Adoptable, FirmwareStreams};
use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// RAM that is simulated at most; it costs only what is stored in it.
const MOST_RAM: u64 = 4 << 30;

type HostPlatform = MachinePlatform<HostThreads>;

/// An IOMMU to be put on a software machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitProfile {
    /// An SMMUv3.
    SmmuV3(Profile),
    /// An SMMUv2, and how many register blocks like its first one it has besides.
    SmmuV2(SmmuV2Profile, usize),
    /// An AMD IOMMU.
    AmdVi(AmdViProfile),
    /// A RISC-V IOMMU.
    RiscV(RiscvProfile),
    /// A VT-d unit.
    VtD(VtdProfile),
    /// A virtio-iommu on the memory bus.
    Virtio(VirtioProfile),
}

impl From<Profile> for UnitProfile {
    fn from(profile: Profile) -> Self {
        Self::SmmuV3(profile)
    }
}

/// An IOMMU of a software machine, whatever its kind.
#[derive(Clone)]
struct Unit {
    /// Where devices meet it.
    model: Arc<dyn IommuModel>,
    /// Where its driver does.
    registers: Arc<dyn Registers>,
    /// The same, for whoever knows its kind.
    own: Arc<dyn Any + Send + Sync>,
    /// SMMUv2s that must be programmed like it: accesses are interleaved between them.
    mirrors: Vec<Arc<SmmuV2>>,
}

impl Unit {
    fn new(machine: &Machine, profile: UnitProfile) -> Self {
        match profile {
            UnitProfile::SmmuV3(profile) => Self::of(machine.add_smmuv3(profile)),
            UnitProfile::SmmuV2(profile, 0) => Self::of(machine.add_smmuv2(profile)),
            UnitProfile::SmmuV2(profile, mirrors) => {
                let units: Vec<_> =
                    (0..=mirrors).map(|_| machine.add_smmuv2(profile.clone())).collect();
                let model = Interleaved::new(&units);
                Self { model, mirrors: units[1..].to_vec(), ..Self::of(Arc::clone(&units[0])) }
            }
            UnitProfile::AmdVi(profile) => Self::of(machine.add_amdvi(profile)),
            UnitProfile::RiscV(profile) => Self::of(machine.add_riscv(profile)),
            UnitProfile::VtD(profile) => Self::of(machine.add_vtd(profile)),
            UnitProfile::Virtio(profile) => Self::of(machine.add_virtio(profile)),
        }
    }

    fn of<M: IommuModel + RegisterModel>(model: Arc<M>) -> Self {
        let registers = Arc::new(RegisterBlock::new(&model));
        Self { model: Arc::<M>::clone(&model), registers, own: model, mirrors: Vec::new() }
    }

    fn port(&self, id: StreamId) -> Port {
        Port { iommu: Arc::clone(&self.model), id }
    }
}

impl std::fmt::Debug for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.model.fmt(f)
    }
}

/// A software machine with its IOMMUs and devices, seen through the platform `P` that stands on it.
#[derive(Debug)]
pub struct SoftwareMachine<P = HostPlatform> {
    machine: Arc<Machine>,
    platform: Arc<P>,
    units: HashMap<FwNode, Unit>,
    devices: HashMap<String, Arc<Device>>,
    /// What the drivers of described units are told.
    options: HashMap<FwNode, UnitOptions>,
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
        let units = description.iommus.iter().filter(|iommu| iommu.enabled);
        let units = units.filter_map(|it| Some((it.node, unit_profile(description, it)?)));
        let mut bed = Self::assemble(machine, platform, units, description.clients());
        bed.prepare(description);
        bed
    }

    /// What firmware and the integration have done to the units, and what their drivers are told.
    fn prepare(&mut self, description: &MachineDescription) {
        let all = &description.iommus;
        for (node, unit) in &self.units {
            let first = self.iommu::<SmmuV2>(*node);
            let clients = adoptable(description, *node);
            first.iter().chain(&unit.mirrors).for_each(|smmu| leave_running(smmu, &clients));
        }
        let sharing = all.iter().filter(|iommu| registry::quirks(iommu).shares_tags);
        let sharing: Vec<_> = sharing.filter_map(|iommu| self.iommu(iommu.node)).collect();
        share_translations(&sharing);
        self.options = all.iter().map(|it| (it.node, UnitOptions::described(it, all))).collect();
    }

    /// The machine, with drivers that adopt the streams that firmware left running: those of the clients that `description` gives a direct region.
    #[must_use]
    pub fn adopting(mut self, description: &MachineDescription) -> Self {
        for (node, options) in &mut self.options {
            options.firmware_streams = FirmwareStreams::Adopt(adoptable(description, *node));
        }
        self
    }
}

/// The clients of the unit at `node` that firmware may have left running: they have a region that must stay mapped 1:1.
fn adoptable(description: &MachineDescription, node: FwNode) -> Vec<Adoptable> {
    let clients = description.clients().filter_map(|client| {
        let kept = client.reserved.iter().any(|region| region.kind == ReservedKind::Direct);
        let streams = client.streams().iter().filter(|stream| stream.iommu == node);
        let streams: Vec<_> = streams.map(FwStream::spec).collect();
        let (reserved, coherent) = (client.reserved.clone(), client.coherent);
        (kept && !streams.is_empty()).then_some(Adoptable { streams, reserved, coherent })
    });
    clients.collect()
}

/// Firmware shows its boot picture on each of these: their streams pass. A unit that needs extended ids it leaves off.
fn leave_running(smmu: &SmmuV2, clients: &[Adoptable]) {
    let mut streams: Vec<StreamSpec> = Vec::new();
    for stream in clients.iter().flat_map(|client| &client.streams) {
        if !streams.iter().any(|known| known.overlaps(stream)) {
            streams.push(*stream);
        }
    }
    if streams.is_empty() || smmu.profile().extended_ids {
        return;
    }
    let left = streams.iter().map(|stream| {
        let (id, mask) = (StreamId::new(stream.id.raw()), stream.mask as u16);
        FirmwareGroup { id, mask, bank: None }
    });
    smmu.leave_running(&left.collect::<Vec<_>>());
}

impl<P: Platform> SoftwareMachine<P> {
    /// Puts each of `units` and a device for each of `clients` on `machine`. A client behind an IOMMU that is not among `units` is left out.
    pub fn assemble<'a, U: Into<UnitProfile>>(
        machine: Arc<Machine>,
        platform: Arc<P>,
        units: impl IntoIterator<Item = (FwNode, U)>,
        clients: impl IntoIterator<Item = &'a DeviceDescription>,
    ) -> Self {
        let units = units.into_iter();
        let units = units.map(|(node, profile)| (node, Unit::new(&machine, profile.into())));
        let units = units.collect();
        let mut devices = HashMap::new();
        for client in clients {
            if let Some(ports) = ports(client, &units) {
                let path = client.path.clone();
                devices.insert(path.clone(), machine.add_device(path, &ports));
            }
        }
        Self { machine, platform, units, devices, options: HashMap::new() }
    }

    /// The machine.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// The IOMMU at `node`, if it is of the kind `M`.
    pub fn iommu<M: IommuModel>(&self, node: FwNode) -> Option<Arc<M>> {
        Arc::clone(&self.units.get(&node)?.own).downcast().ok()
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
    ) -> Result<BroughtUp, NodeFailure> {
        let unit = self.units.get(&node).ok_or("the machine has no such IOMMU")?;
        let block = |smmu| Arc::new(RegisterBlock::new(smmu)) as Arc<dyn Registers>;
        let mirrors = unit.mirrors.iter().map(block).collect();
        driver.bring_up(Arc::clone(&self.platform), Arc::clone(&unit.registers), mirrors, options)
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

/// Holds whoever touches a register up at one step in eight, for up to a microsecond or so; at one in 512 it gives the CPU away. More of that would make a boot
/// on a busy machine wait for other programs most of the time: each time costs their time slices.
struct Preemption(AtomicU64);

impl StepHook for Preemption {
    fn step(&self, _: &'static str, _: u64, _: &'static str, _: bool) {
        let draw = Random::new(self.0.fetch_add(1, Ordering::Relaxed)).next_u64();
        if draw.is_multiple_of(512) {
            std::thread::yield_now();
        } else if draw.is_multiple_of(8) {
            for _ in 0..draw >> 56 {
                std::hint::spin_loop();
            }
        }
    }
}

/// A unit as large as its clients need and the architecture lets it be, with what the description says of it; `None` for kinds that the software machine does not have.
fn unit_profile(description: &MachineDescription, iommu: &IommuNode) -> Option<UnitProfile> {
    let (bits, coherent) = (id_bits(description, iommu.node), iommu.coherent);
    match iommu.kind {
        IommuKind::SmmuV3 => Some(Profile { sid_bits: bits, coherent, ..Profile::server() }.into()),
        // Without a driver it would be one of another version, which is another machine.
        IommuKind::SmmuV2 if IommuDriver::of(iommu).is_some() => {
            let known = registry::quirks(iommu);
            let (clients, streams) = load(description, iommu.node);
            let profile = SmmuV2Profile {
                groups: streams.clamp(16, 128) as u8,
                banks: clients.clamp(8, 128) as u8,
                pages_log2: 7,
                coherent,
                extended_ids: needs_extended_ids(description, iommu.node),
                wide_access: !known.narrow_access,
                fakes_s2cr: known.may_trap_s2cr,
                // Tags of 16 bits, as the units have that share them.
                vmid16: known.shares_tags,
                ..SmmuV2Profile::mmu500()
            };
            Some(UnitProfile::SmmuV2(profile, iommu.mirrors.len()))
        }
        IommuKind::AmdVi => {
            Some(UnitProfile::AmdVi(AmdViProfile { coherent, ..AmdViProfile::epyc() }))
        }
        IommuKind::RiscV => {
            let function = iommu.compatible.iter().any(|name| name == "riscv,pci-iommu");
            let whole =
                if function { RiscvProfile::qemu10_function() } else { RiscvProfile::qemu10() };
            Some(UnitProfile::RiscV(RiscvProfile { coherent, ..whole }))
        }
        IommuKind::VtD => Some(UnitProfile::VtD(VtdProfile::server())),
        // One that is a PCI function is driven through the registers of the memory bus all the same: behind both is the same device.
        IommuKind::VirtioIommu => Some(UnitProfile::Virtio(VirtioProfile::qemu10())),
        IommuKind::SmmuV2 | IommuKind::Other => None,
    }
}

/// Whether some client's id does not fit the 15 bits that an SMMUv2 has without extended ids.
fn needs_extended_ids(description: &MachineDescription, node: FwNode) -> bool {
    largest_id(description, node) >> 15 != 0
}

/// As many stream id bits as the clients need, at least 16.
fn id_bits(description: &MachineDescription, node: FwNode) -> u8 {
    let largest = largest_id(description, node);
    u8::try_from(32 - largest.leading_zeros()).unwrap_or(32).max(16)
}

/// How many clients are behind an IOMMU, and with how many streams.
fn load(description: &MachineDescription, node: FwNode) -> (usize, usize) {
    let behind = description.clients().filter_map(|client| match &client.dma {
        DmaPath::Translated(spec) => {
            let streams = spec.streams.iter().filter(|stream| stream.iommu == node).count();
            (streams > 0).then_some(streams)
        }
        DmaPath::Direct | DmaPath::Unusable(_) => None,
    });
    behind.fold((0, 0), |(clients, streams), more| (clients + 1, streams + more))
}

fn largest_id(description: &MachineDescription, node: FwNode) -> u32 {
    let ids = description.clients().filter_map(|client| match &client.dma {
        DmaPath::Translated(spec) => {
            let streams = spec.streams.iter().filter(|stream| stream.iommu == node);
            streams.map(|stream| stream.id.raw() | stream.mask).max()
        }
        DmaPath::Direct | DmaPath::Unusable(_) => None,
    });
    ids.max().unwrap_or(0)
}

/// Where a client's transactions come in; `None` where an IOMMU that the machine does not have stands in between.
fn ports(client: &DeviceDescription, units: &HashMap<FwNode, Unit>) -> Option<Vec<Port>> {
    match &client.dma {
        DmaPath::Direct => Some(Vec::new()),
        DmaPath::Unusable(_) => None,
        DmaPath::Translated(spec) => spec
            .streams
            .iter()
            .map(|stream| Some(units.get(&stream.iommu)?.port(StreamId::new(stream.id.raw()))))
            .collect(),
    }
}

impl<P: Platform> Testbed for SoftwareMachine<P> {
    type Platform = P;

    fn platform(&self) -> &Arc<P> {
        &self.platform
    }

    fn bring_up(&self, iommu: &IommuNode) -> Result<BroughtUp, NodeFailure> {
        let driver = IommuDriver::of(iommu).ok_or("no driver")?;
        let usual = UnitOptions::default();
        self.bring_up_at(iommu.node, driver, self.options.get(&iommu.node).unwrap_or(&usual))
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
        Violation::MatchConflict { .. } => "P2",
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

    fn reads(&self, port: usize, from: u64) -> Option<bool> {
        let mut bytes = [0; 4];
        // Descriptions reserve memory that this machine need not have.
        let there = self.machine.memory().read_bytes(PhysAddr::new(from), &mut bytes);
        let read = DmaRequest::read(Iova::new(from), &mut bytes).through(port);
        there.then(|| self.machine.dma_of(&self.device, read).is_completed())
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
