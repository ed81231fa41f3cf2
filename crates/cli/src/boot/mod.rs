//! `portcullis boot`: bring a described machine up, on several CPUs at once, and look at what every device ended with.

mod client;
mod failing;
mod json;
mod plan;
mod promises;
mod races;
mod repeat;
mod report;

pub use failing::{Failing, boot_failing};
pub use json::{summary_to_json, to_json};
pub use plan::{Arrival, Order, Step, arrivals, calm, storm};
pub use promises::{PROMISES, Promises, Verdict};
pub use races::{Counts, KINDS};
pub use repeat::{Summary, calm_picture, progress, repeat};
pub use report::{BootReport, ClientRow, IommuRow, IommuState, render, render_summary};

use client::{ClientDriver, ClientRecord, FaultLog, is_shut_out};
use portcullis::{
    DeviceReport, DeviceStage, DmaPath, FwNode, NodeFailure, NodeState, Policy, Reach,
    ReservedKind, StreamSpec, Subsystem,
};
use portcullis_firmware::{IommuNode, MachineDescription};
use portcullis_testbed::{BroughtUp, IommuDriver, Random, SoftwareMachine, Testbed, UnitNote};
use races::Races;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How to boot.
#[derive(Clone, Copy, Debug)]
pub struct BootOptions {
    /// Threads that probe, at least 1.
    pub cpus: usize,
    /// What every draw depends on.
    pub seed: u64,
    /// Who arrives when.
    pub order: Order,
    /// Whether some clients are unbound and bound again on the way, and some arrivals are made to meet.
    pub storm: bool,
    /// What becomes of streams that firmware left running.
    pub firmware_streams: FirmwarePolicy,
}

/// What becomes of streams that firmware left running at an SMMUv2: those of clients with a region that must stay mapped 1:1, a boot framebuffer say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum FirmwarePolicy {
    /// They are blocked until their driver binds.
    #[default]
    Block,
    /// They go on reaching that region, and nothing else, until their driver binds.
    Adopt,
}

impl FirmwarePolicy {
    /// The software machine after `description` on which a boot with this policy runs.
    pub fn apply(
        self,
        machine: SoftwareMachine,
        description: &MachineDescription,
    ) -> SoftwareMachine {
        match self {
            Self::Block => machine,
            Self::Adopt => machine.adopting(description),
        }
    }
}

impl BootOptions {
    /// One thread, as listed, nothing on the way: what every other boot is compared with.
    pub const CALM: Self = Self {
        cpus: 1,
        seed: 0,
        order: Order::Listed,
        storm: false,
        firmware_streams: FirmwarePolicy::Block,
    };
}

/// What one boot left to look at, whatever came first: the same in every order (P9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture(Vec<(String, Option<u32>, Reach, DeviceStage)>);

type Device<T> = Arc<portcullis::Device<<T as Testbed>::Platform>>;

/// A client of the boot.
struct Client<T: Testbed> {
    device: Device<T>,
    driver: Arc<ClientDriver<T::Platform>>,
    streams: Vec<(FwNode, u32)>,
    binds: AtomicUsize,
}

/// A boot under way.
struct Boot<'a, T: Testbed> {
    description: &'a MachineDescription,
    testbed: &'a T,
    subsystem: Arc<Subsystem<T::Platform>>,
    clients: Vec<Client<T>>,
    races: Races,
    promises: Arc<Promises>,
    /// What drivers found when they took their units over.
    notes: Mutex<HashMap<FwNode, Vec<UnitNote>>>,
    /// Bytes that units keep when they are stopped, because they would let everything pass without them.
    kept: AtomicU64,
}

/// Boots the described machine on `testbed` and takes it down again. `picture` is what an earlier boot of the same machine ended with, if there was one.
pub fn boot<T: Testbed>(
    description: &MachineDescription,
    testbed: &T,
    options: BootOptions,
    picture: Option<&Picture>,
) -> (BootReport, Picture) {
    let allocated = testbed.allocated();
    let start = Instant::now();
    let boot = Boot::new(description, testbed);
    boot.arrive_all(options);
    let elapsed = start.elapsed();
    boot.check_end();
    let reports = boot.subsystem.reports();
    let reached = picture_of(&reports);
    if let Some(expected) = picture {
        boot.promises.check("P9", *expected == reached, || difference(expected, &reached));
    }
    let report = boot.report(options, elapsed, &reports);
    boot.take_down(allocated);
    let violations = testbed.violations();
    for promise in ["P2", "P3", "P4", "P5"] {
        let broken: Vec<_> = violations.iter().filter(|(id, _)| *id == promise).collect();
        boot.promises
            .check(promise, broken.is_empty(), || format!("seen by the machine: {broken:?}"));
    }
    (BootReport { promises: boot.promises.verdicts(), ..report }, reached)
}

fn picture_of(reports: &[DeviceReport]) -> Picture {
    let line = |report: &DeviceReport| {
        (report.path.clone(), report.group, report.reach, report.stage.clone())
    };
    Picture(reports.iter().map(line).collect())
}

fn difference(expected: &Picture, reached: &Picture) -> String {
    let pairs = expected.0.iter().zip(&reached.0);
    let differing = pairs.filter(|(a, b)| a != b).map(|(a, b)| format!("{a:?} became {b:?}"));
    differing.collect::<Vec<_>>().join("; ")
}

impl<'a, T: Testbed> Boot<'a, T> {
    fn new(description: &'a MachineDescription, testbed: &'a T) -> Self {
        let subsystem = Arc::new(Subsystem::new(Arc::clone(testbed.platform()), Policy::default()));
        let promises = Arc::new(Promises::default());
        let faults = Arc::new(FaultLog::default());
        let mut clients = Vec::new();
        let mut turns: HashMap<(FwNode, u32), Arc<Mutex<()>>> = HashMap::new();
        for client in description.clients() {
            let streams: Vec<_> = match &client.dma {
                DmaPath::Translated(spec) => {
                    spec.streams.iter().map(|stream| (stream.iommu, stream.id.raw())).collect()
                }
                DmaPath::Direct | DmaPath::Unusable(_) => Vec::new(),
            };
            // The reader's descriptions hold together; one that did not would be left out of the machine, and so reach nothing.
            let Ok(device) = subsystem.add_device(client.clone()) else { continue };
            let driver = ClientDriver {
                subsystem: Arc::downgrade(&subsystem),
                endpoint: testbed.endpoint(&client.path),
                promises: Arc::clone(&promises),
                faults: Arc::clone(&faults),
                records_faults: testbed.records_faults(),
                record: Arc::new(ClientRecord::default()),
                turn: turn_of(&mut turns, &streams),
            };
            let binds = AtomicUsize::new(0);
            clients.push(Client { device, driver: Arc::new(driver), streams, binds });
        }
        let nodes = description.iommus.iter().map(|iommu| iommu.node);
        let streams = clients.iter().flat_map(|client: &Client<T>| client.streams.iter().copied());
        let races = Races::new(nodes, streams);
        let (notes, kept) = (Mutex::default(), AtomicU64::new(0));
        Self { description, testbed, subsystem, clients, races, promises, notes, kept }
    }

    /// Every arrival, on as many threads as asked for.
    fn arrive_all(&self, options: BootOptions) {
        let steps = self.plan(options);
        let next = AtomicUsize::new(0);
        let meetings: Vec<Meeting> = steps.iter().map(|_| Meeting::default()).collect();
        let threads = options.cpus.max(1);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(step) = steps.get(next.fetch_add(1, Ordering::Relaxed)) {
                        // A boot on one thread has nobody to meet.
                        if let Some(meeting) = step.meeting.filter(|_| threads > 1) {
                            meetings[meeting].wait(step.delay);
                        }
                        self.arrive(step.arrival);
                        // Whoever makes something ready also does what that brings about, unless another thread is faster.
                        self.subsystem.run_deferred();
                    }
                });
            }
        });
    }

    fn plan(&self, options: BootOptions) -> Vec<Step> {
        let nodes = client_nodes(self.description);
        let mut random = Random::new(options.seed);
        let arrivals = arrivals(self.description, &nodes, options.order, &mut random);
        if !options.storm {
            return calm(arrivals);
        }
        let clients = || self.clients.iter().enumerate();
        let clients_of = |iommu: usize| {
            let node = self.description.iommus[iommu].node;
            let behind = |client: &Client<T>| client.streams.iter().any(|(at, _)| *at == node);
            clients().filter(|(_, client)| behind(client)).map(|(index, _)| index).collect()
        };
        let shares = |a: &Client<T>, b: &Client<T>| a.streams.iter().any(|s| b.streams.contains(s));
        let mut mates = Vec::new();
        for (one, a) in clients() {
            let others = clients().skip(one + 1).filter(|(_, b)| shares(a, b));
            mates.extend(others.map(|(two, _)| [one, two]));
        }
        storm(arrivals, clients_of, &mates, &mut random)
    }

    fn arrive(&self, arrival: Arrival) {
        match arrival {
            Arrival::Iommu(index) => self.register(&self.description.iommus[index]),
            Arrival::Client(index) => {
                if let Some(client) = self.clients.get(index) {
                    self.bind(client);
                }
            }
            Arrival::Rebind(index) => {
                if let Some(client) = self.clients.get(index) {
                    self.races.unbind_begins();
                    // Nothing to take away is an answer too: the client has not arrived yet.
                    let _ = self.subsystem.unbind(&client.device);
                    self.bind(client);
                }
            }
        }
    }

    fn register(&self, iommu: &IommuNode) {
        self.races.registration_begins(iommu.node);
        match self.bring_up(iommu) {
            Ok(BroughtUp { instance, notes, adopted, kept }) => {
                self.kept.fetch_add(kept.bytes, Ordering::Relaxed);
                self.check_firmware_streams(iommu.node, &adopted);
                let mut all = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
                all.insert(iommu.node, notes);
                drop(all);
                let registered = self.subsystem.register(iommu.node, instance);
                self.promises.check("P6", registered.is_ok(), || {
                    format!("{}: registered twice", iommu.path)
                });
            }
            Err(reason) => self.subsystem.fail_node(iommu.node, reason),
        }
        self.races.registration_ends(iommu.node);
    }

    /// A stream that firmware left running goes on in its client's regions if it was adopted; otherwise, and elsewhere, it is blocked. Asked before the unit is registered: nobody has attached it yet.
    fn check_firmware_streams(&self, node: FwNode, adopted: &[StreamSpec]) {
        for client in &self.clients {
            let Some(endpoint) = &client.driver.endpoint else { continue };
            let description = client.device.description();
            let direct = description.reserved.iter().find(|it| it.kind == ReservedKind::Direct);
            let Some(region) = direct else { continue };
            for (port, stream) in description.streams().iter().enumerate() {
                if stream.iommu != node {
                    continue;
                }
                let goes_on = adopted.iter().any(|it| it.overlaps(&stream.spec()));
                if let Some(reads) = endpoint.reads(port, region.range.start().raw()) {
                    self.promises.check("P2", reads == goes_on, || {
                        format!(
                            "{}: adopted {goes_on}, reaches its region {reads}",
                            description.path
                        )
                    });
                }
            }
            if description.streams().iter().all(|stream| stream.iommu == node) {
                self.check_reaches_nothing(client, "not attached yet");
            }
        }
    }

    fn check_reaches_nothing(&self, client: &Client<T>, when: &str) {
        let Some(endpoint) = &client.driver.endpoint else { return };
        let shut_out = is_shut_out(self.testbed.platform(), &**endpoint);
        self.promises.check("P2", shut_out, || {
            format!("{}: {when}, but it reached memory", client.device.path())
        });
    }

    fn bring_up(&self, iommu: &IommuNode) -> Result<BroughtUp, NodeFailure> {
        if let Some(reason) = &iommu.unusable {
            return Err(reason.clone().into());
        }
        if IommuDriver::of(iommu).is_none() {
            let compatible = iommu.compatible.first().map_or("this IOMMU", String::as_str);
            return Err(format!("no driver for {compatible}").into());
        }
        self.testbed.bring_up(iommu)
    }

    fn bind(&self, client: &Client<T>) {
        self.races.bind_begins(&client.streams);
        client.binds.fetch_add(1, Ordering::Relaxed);
        // A driver that another thread bound first, or a removed device, is no failure of this arrival.
        let _ = self.subsystem.bind(&client.device, Arc::clone(&client.driver) as _);
        self.races.bind_ends(&client.streams);
    }

    /// What must be true when nothing more happens.
    fn check_end(&self) {
        let promises = &self.promises;
        let left = self.subsystem.run_deferred();
        promises.check("P6", left == 0, || format!("{left} items of work were left over"));
        let reports: HashMap<String, DeviceReport> = self
            .subsystem
            .reports()
            .into_iter()
            .map(|report| (report.path.clone(), report))
            .collect();
        for client in &self.clients {
            let Some(report) = reports.get(client.device.path()) else { continue };
            let waits = match report.stage {
                DeviceStage::Waiting(node) => self.subsystem.node_state(node) != NodeState::Absent,
                _ => false,
            };
            promises.check("P6", !waits, || format!("{}: waits for what is there", report.path));
            let binds = client.binds.load(Ordering::Relaxed);
            let most = binds * report.iommus.len();
            promises.check("P6", report.defers as usize <= most, || {
                format!("{}: deferred {} times in {binds} binds", report.path, report.defers)
            });
            promises.check("P1", report.probes as usize <= binds, || {
                format!("{}: probed {} times in {binds} binds", report.path, report.probes)
            });
            self.check_shut_out(client, report);
        }
    }

    fn check_shut_out(&self, client: &Client<T>, report: &DeviceReport) {
        let is_bound = report.stage == DeviceStage::Bound;
        let direct = matches!(client.device.description().dma, DmaPath::Direct);
        if !is_bound && !direct {
            self.check_reaches_nothing(client, "not bound");
        }
    }

    fn report(
        &self,
        options: BootOptions,
        elapsed: Duration,
        reports: &[DeviceReport],
    ) -> BootReport {
        let records: HashMap<&str, &Client<T>> =
            self.clients.iter().map(|client| (client.device.path(), client)).collect();
        let rows = reports.iter().map(|report| {
            let client = records.get(report.path.as_str());
            let dma_ok = client.and_then(|client| {
                *client.driver.record.dma_ok.lock().unwrap_or_else(PoisonError::into_inner)
            });
            let streams = client.map(|client| client.streams.clone()).unwrap_or_default();
            let iommus = report.iommus.iter();
            ClientRow {
                iommus: iommus.map(|node| self.description.iommu_path(*node).to_string()).collect(),
                streams: streams.iter().map(|(_, id)| *id).collect(),
                dma_ok,
                report: report.clone(),
            }
        });
        BootReport {
            board: self.description.board.clone(),
            model: self.description.model.clone(),
            cpus: options.cpus,
            seed: options.seed,
            iommus: self.description.iommus.iter().map(|iommu| self.iommu_row(iommu)).collect(),
            clients: rows.collect(),
            promises: Vec::new(),
            races: self.races.counts(),
            elapsed,
        }
    }

    fn iommu_row(&self, iommu: &IommuNode) -> IommuRow {
        let state = match self.subsystem.node_state(iommu.node) {
            _ if !iommu.enabled => IommuState::Disabled,
            NodeState::Registered { .. } => IommuState::Registered,
            NodeState::Failed(_) if IommuDriver::of(iommu).is_none() => IommuState::NoDriver,
            NodeState::Failed(reason) => IommuState::Failed(reason),
            NodeState::Absent | NodeState::Announced => {
                IommuState::Failed("it was never registered".to_string())
            }
        };
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        IommuRow {
            path: iommu.path.clone(),
            driver: IommuDriver::of(iommu).map(|driver| driver.name),
            state,
            notes: notes.get(&iommu.node).cloned().unwrap_or_default(),
        }
    }

    /// Everything goes again; every counter must be back.
    fn take_down(&self, allocated: u64) {
        for client in &self.clients {
            let removed = self.subsystem.remove_device(&client.device);
            self.promises
                .check("P7", removed.is_ok(), || format!("{}: {removed:?}", client.device.path()));
        }
        for iommu in &self.description.iommus {
            if let NodeState::Registered { .. } = self.subsystem.node_state(iommu.node) {
                let gone = self.subsystem.unregister(iommu.node);
                self.promises.check("P7", gone.is_ok(), || format!("{}: {gone:?}", iommu.path));
            }
        }
        let counts = self.subsystem.counts();
        self.promises.check("P7", counts == portcullis::Counts::default(), || {
            format!("counters after everything was removed: {counts:?}")
        });
        self.promises.check("P4", counts.quarantined == 0, || {
            format!("{} bytes in quarantine", counts.quarantined)
        });
        let left = self.testbed.allocated();
        let kept = self.kept.load(Ordering::Relaxed);
        self.promises.check("P7", left == allocated + kept, || {
            format!("{left} bytes of DMA memory are allocated, {allocated} were before, and {kept} are kept by stopped units")
        });
    }
}

/// The turns of whoever shares one of `streams`.
fn turn_of(
    turns: &mut HashMap<(FwNode, u32), Arc<Mutex<()>>>,
    streams: &[(FwNode, u32)],
) -> Arc<Mutex<()>> {
    let turn = streams.iter().find_map(|stream| turns.get(stream).cloned()).unwrap_or_default();
    turns.extend(streams.iter().map(|stream| (*stream, Arc::clone(&turn))));
    turn
}

/// Where the two steps of a meeting wait for each other. The plan puts them side by side, so where there are two threads the other one always comes.
#[derive(Debug, Default)]
struct Meeting {
    here: Mutex<usize>,
    both: Condvar,
}

impl Meeting {
    /// For what the threads' own code cannot bring about: the other one has died.
    const PATIENCE: Duration = Duration::from_secs(1);

    /// Returns when the other step has begun too, and `delay` turns of an empty loop later.
    fn wait(&self, delay: usize) {
        let mut here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        *here += 1;
        self.both.notify_all();
        let missing = |here: &mut usize| *here < 2;
        drop(self.both.wait_timeout_while(here, Self::PATIENCE, missing));
        for _ in 0..delay {
            std::hint::spin_loop();
        }
    }
}

/// For each client, in the order of [`MachineDescription::clients`], where the description lists it.
fn client_nodes(description: &MachineDescription) -> Vec<u32> {
    let positions: HashMap<&str, u32> = description
        .devices
        .iter()
        .flat_map(|device| {
            let functions = device.functions.iter().map(|function| &function.description);
            std::iter::once(&device.description)
                .chain(functions)
                .map(|described| (described.path.as_str(), device.node.0))
        })
        .collect();
    let position = |path: &str| positions.get(path).copied().unwrap_or(u32::MAX);
    description.clients().map(|client| position(&client.path)).collect()
}
