//! The shared state of a world: which fields, locks and devices there are, and the few helpers that
//! every protocol function uses.

use core::array;

use portcullis_explore::proto::{Builder, Mutex, PropertyId, Role, ThreadId};
pub(crate) use portcullis_explore::proto::{Field, Step, Thread as T, View};
use portcullis_explore::search::Object;

use super::commit::Commit;
use super::dd;
use super::errno::Errno;
use super::property::{self, Id};
use super::protocol::Protocol;
use super::world::{Behind, Bus, Driver, Event, Grouping, World};

/// An IOMMU instance, counted from the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Iommu(pub(crate) usize);
/// A client, counted from the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client(pub(crate) usize);
/// A group, counted from the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group(pub(crate) usize);

/// A device of the driver core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dev {
    /// An IOMMU instance.
    Iommu(Iommu),
    /// A client.
    Client(Client),
}

/// A domain of a group, as its `domain` and `default_domain` fields name it; 0 is none.
pub(crate) const DMA: u64 = 1;
/// The identity domain: DMA addresses are physical addresses.
pub(crate) const IDENTITY: u64 = 2;
/// A second DMA domain, made although there was one (6.1 before 64c3873cb255).
pub(crate) const DMA_AGAIN: u64 = 3;
/// The blocking domain of an outside owner.
pub(crate) const BLOCKED: u64 = 4;

/// The driver has not claimed the group, or there was none to claim.
pub(crate) const NOT_CLAIMED: u64 = 0;
/// The claim met a group without a default domain, and passed.
pub(crate) const CLAIMED_EMPTY: u64 = 1;
/// The claim met a default domain.
pub(crate) const CLAIMED: u64 = 2;

/// The doorbell's physical address is in the message: right without an IOMMU only.
pub(crate) const MSI_DIRECT: u64 = 1;
/// The doorbell is mapped into the device's domain.
pub(crate) const MSI_MAPPED: u64 = 2;

/// The mark of a group that stands on the list of a walk.
pub(crate) const ON_GROUP_LIST: &str = "on group_list";
/// The fields that stand for `deferred_trigger_count`: who remembers it, and for whom it has changed since.
pub(crate) const TRIGGERS: [&str; 2] =
    ["deferred_trigger_count remembered", "deferred_trigger_count changed since"];
/// The field that says that a thread has died.
pub(crate) const OOPS: &str = "oops";
/// What the lock of a device is called.
pub(crate) const DEVICE_LOCK: &str = "device_lock";

const DOMAINS: &[&str] = &["NULL", "DMA", "IDENTITY", "a second DMA", "BLOCKED"];

/// Fields of an IOMMU instance.
#[derive(Debug)]
pub(crate) struct IommuFields {
    /// On `iommu_device_list` (under `iommu_device_lock`, a leaf: one step each).
    pub(crate) listed: Field,
    /// `iommu->ready`.
    pub(crate) ready: Field,
    /// `driver_bound` is through: on `driver->klist_devices`.
    pub(crate) bound: Field,
    /// Per group: on the `group_list` on the stack of this instance's walk.
    pub(crate) group_list: Vec<Field>,
    lock: Mutex,
}

/// Fields of a client.
#[derive(Debug)]
pub(crate) struct ClientFields {
    /// `dev->iommu` is allocated.
    pub(crate) iommu: Field,
    /// `dev->iommu->fwspec`: 0 none, 1 made for an unknown instance, 2 names its instance.
    pub(crate) fwspec: Field,
    /// `dev->iommu->priv`: `probe_device` has run.
    pub(crate) private: Field,
    /// `dev->iommu->iommu_dev` is set: before the group, and read without a lock by an instance that unregisters.
    pub(crate) iommu_dev: Field,
    /// `dev->iommu_group` is set.
    pub(crate) iommu_group: Field,
    /// The byte of `dma_iommu` (or `dma_ops`) and `dma_coherent`.
    pub(crate) dma: Field,
    /// `iommu_setup_dma_ops` has chosen iommu-dma for it, whatever became of the bit. No kernel has this field: it
    /// tells a lost bit from one that was never set.
    pub(crate) path_chosen: Field,
    /// How the driver's claim of the group went ([`NOT_CLAIMED`] and so on). No kernel has this field either.
    pub(crate) claimed: Field,
    /// How the message of an interrupt was composed ([`MSI_DIRECT`], [`MSI_MAPPED`]).
    pub(crate) msi: Field,
    /// `device_add` has got as far as probing (`DEV_FLAG_READY_TO_PROBE`).
    pub(crate) ready_to_probe: Field,
    /// The driver's first probe is over, where that fails; its own supplier is bound, where it waits for one.
    pub(crate) tried: Field,
    /// The domain that the hardware uses for this device.
    pub(crate) attached: Field,
    /// `dev->driver`.
    pub(crate) driver: Field,
    /// Bit 0: the driver has mapped a buffer; bit 1: `driver_bound` is through.
    pub(crate) run: Field,
    /// How the first buffer was mapped.
    pub(crate) seen_path: Field,
    /// The domain attached then.
    pub(crate) seen_domain: Field,
    /// A managed device link to the SMMU.
    pub(crate) linked: Field,
    /// On the bus's list of devices.
    pub(crate) on_bus: Field,
    /// 1: `dev->p->dead`; 2: freed.
    pub(crate) dead: Field,
    lock: Mutex,
}

/// Fields of a group, all under `group->mutex`.
#[derive(Debug)]
pub(crate) struct GroupFields {
    /// `group->mutex`.
    pub(crate) mutex: Mutex,
    /// `group->devices`, a bit per client.
    pub(crate) members: Field,
    /// `group->default_domain`.
    pub(crate) default_domain: Field,
    /// `group->domain`.
    pub(crate) domain: Field,
    /// The default domain has an IOVA space.
    pub(crate) iova_ready: Field,
    /// `group->owner_cnt`.
    pub(crate) owner_cnt: Field,
    /// `group->owner`.
    pub(crate) owner: Field,
    /// `group->entry` is linked: 1 + the instance whose walk did it.
    pub(crate) entry: Field,
}

/// A protocol in a world: what the kernel functions work on.
#[derive(Debug)]
pub(crate) struct Kernel {
    protocol: Protocol,
    world: World,
    iommus: Vec<IommuFields>,
    clients: Vec<ClientFields>,
    groups: Vec<GroupFields>,
    /// `iommu_probe_device_lock`.
    probe_lock: Mutex,
    /// The deferred-probe pending list, a bit per device (under `deferred_probe_mutex`, a leaf).
    pub(crate) pending: Field,
    /// The deferred-probe active list.
    pub(crate) active: Field,
    /// Who has looked at `deferred_trigger_count` and will look again, a bit per device.
    pub(crate) probing: Field,
    /// For whom of these the count has changed meanwhile: all that anybody asks of it. Its value would keep states
    /// apart that are the same.
    pub(crate) triggered: Field,
    /// The deferred-probe timeout has fired.
    pub(crate) timed_out: Field,
    /// `bus->iommu_ops` is set (before 17de3f5fdd35).
    pub(crate) bus_ops: Field,
    /// Some thread has died of an oops.
    pub(crate) oopsed: Field,
    checks: [Option<PropertyId>; property::PROPERTIES.len()],
}

impl Kernel {
    /// Declares the state of `world` under `protocol`.
    pub(crate) fn declare(b: &mut Builder, protocol: &Protocol, world: &World) -> Self {
        let groups = match world.grouping {
            Grouping::Own | Grouping::Identity => world.clients,
            Grouping::Shared | Grouping::Mixed => 1,
        };
        let devices = u32::try_from(world.iommus + world.clients).expect("a world is small");
        let probe_lock = b.mutex("iommu_probe_device_lock");
        let kernel = Self {
            protocol: protocol.clone(),
            iommus: (0..world.iommus).map(|s| declare_iommu(b, world, s, groups)).collect(),
            clients: (0..world.clients).map(|x| declare_client(b, world, x)).collect(),
            groups: (0..groups).map(|g| declare_group(b, g)).collect(),
            probe_lock,
            pending: b.field("deferred_probe_pending_list", devices),
            active: b.field("deferred_probe_active_list", devices),
            probing: b.field(TRIGGERS[0], devices),
            triggered: b.field(TRIGGERS[1], devices),
            timed_out: b.field("driver_deferred_probe_timeout over", 1),
            bus_ops: b.field("bus->iommu_ops", 1),
            oopsed: b.field(OOPS, 1),
            world: world.clone(),
            checks: array::from_fn(|i| {
                let info = &property::PROPERTIES[i];
                property::is_checked_in_steps(info.id).then(|| b.checked(info.name))
            }),
        };
        kernel.start(b);
        kernel
    }

    /// The state at the start: instances that were bound before, and what their walks left behind.
    fn start(&self, b: &mut Builder) {
        let before = self.world.iommus - self.world.registering;
        b.value_names(self.bus_ops, &["NULL", "set"]);
        b.init(self.bus_ops, u64::from(before > 0));
        for iommu in &self.iommus[..before] {
            b.init(iommu.listed, 1);
            b.init(iommu.bound, 1);
            b.init(iommu.ready, 1);
        }
        for x in self.clients().filter(|x| self.at_boot(*x)) {
            b.init(self.client(x).on_bus, 1);
            b.init(self.client(x).ready_to_probe, 1);
        }
        if self.has(Commit::ParseInWalk) && self.world.bus != Bus::Host1x {
            self.start_probed(b, before);
        }
    }

    /// Since bcb81ac6ae3c the walk of the instances that a client names has given it group and domain before.
    fn walked_before(&self, x: Client, before: usize) -> bool {
        self.at_boot(x)
            && !self.is_refused(x)
            && self.iommus_named_by(x).iter().all(|s| s.0 < before)
    }

    /// Clients that the walk of an earlier registration has probed.
    fn start_probed(&self, b: &mut Builder, before: usize) {
        for g in self.groups() {
            let members: Vec<Client> =
                self.members_possible(g).filter(|x| self.walked_before(*x, before)).collect();
            let bits = members.iter().fold(0, |bits, x| bits | 1 << x.0);
            if bits == 0 {
                continue;
            }
            let dom = if bits & self.identity_clients() != 0 { IDENTITY } else { DMA };
            let group = self.group(g);
            b.init(group.members, bits);
            b.init(group.default_domain, dom);
            b.init(group.domain, dom);
            b.init(group.iova_ready, u64::from(dom == DMA));
            for x in members {
                let dev = self.client(x);
                for (field, value) in [(dev.iommu, 1), (dev.fwspec, 2), (dev.private, 1)] {
                    b.init(field, value);
                }
                b.init(dev.iommu_dev, 1);
                b.init(dev.iommu_group, 1);
                b.init(dev.path_chosen, u64::from(dom == DMA));
                b.init(dev.attached, dom);
                b.init(dev.dma, u64::from(dom == DMA));
                b.init(dev.linked, u64::from(self.world.driver == Driver::V2));
            }
        }
    }

    fn at_boot(&self, x: Client) -> bool {
        !(self.world.has(Event::Plug) && x.0 + 1 == self.world.clients)
    }

    /// The protocol.
    pub(crate) fn protocol(&self) -> &Protocol {
        &self.protocol
    }

    /// Does the tree carry this commit?
    pub(crate) fn has(&self, commit: Commit) -> bool {
        self.protocol.has(commit)
    }

    /// The world.
    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// All clients, in the order of the bus.
    pub(crate) fn clients(&self) -> impl Iterator<Item = Client> + use<> {
        (0..self.world.clients).map(Client)
    }

    /// All IOMMU instances.
    pub(crate) fn iommus(&self) -> impl Iterator<Item = Iommu> + use<> {
        (0..self.world.iommus).map(Iommu)
    }

    /// All groups.
    pub(crate) fn groups(&self) -> impl Iterator<Item = Group> + use<> {
        (0..self.groups.len()).map(Group)
    }

    /// All devices that can be deferred, in the order of [`Kernel::bit`].
    pub(crate) fn devices(&self) -> Vec<Dev> {
        self.iommus().map(Dev::Iommu).chain(self.clients().map(Dev::Client)).collect()
    }

    /// The bit of a device in the deferred lists.
    pub(crate) fn bit(&self, dev: Dev) -> u64 {
        match dev {
            Dev::Iommu(s) => 1 << s.0,
            Dev::Client(x) => 1 << (self.world.iommus + x.0),
        }
    }

    /// The fields of an instance.
    pub(crate) fn iommu(&self, s: Iommu) -> &IommuFields {
        &self.iommus[s.0]
    }

    /// The fields of a client.
    pub(crate) fn client(&self, x: Client) -> &ClientFields {
        &self.clients[x.0]
    }

    /// The fields of a group.
    pub(crate) fn group(&self, g: Group) -> &GroupFields {
        &self.groups[g.0]
    }

    /// `device_lock` of a device.
    pub(crate) fn device_lock(&self, dev: Dev) -> Mutex {
        match dev {
            Dev::Iommu(s) => self.iommus[s.0].lock,
            Dev::Client(x) => self.clients[x.0].lock,
        }
    }

    /// The group that `device_group` finds for a client.
    pub(crate) fn group_of(&self, x: Client) -> Group {
        Group(if self.groups.len() == 1 { 0 } else { x.0 })
    }

    /// The clients that can be members of a group.
    pub(crate) fn members_possible(&self, g: Group) -> impl Iterator<Item = Client> + '_ {
        self.clients().filter(move |x| self.group_of(*x) == g)
    }

    /// The instance that a client sits behind.
    pub(crate) fn iommu_of(&self, x: Client) -> Iommu {
        Iommu(match self.world.behind {
            Behind::First => 0,
            Behind::Last => self.world.iommus - 1,
            Behind::Each => x.0 % self.world.iommus,
        })
    }

    /// The instances that a client's `iommus` property names.
    pub(crate) fn iommus_named_by(&self, x: Client) -> Vec<Iommu> {
        let mut named = vec![self.iommu_of(x)];
        let last = Iommu(self.world.iommus - 1);
        if self.world.two_nodes && !named.contains(&last) {
            named.push(last);
        }
        named
    }

    /// Whether this instance, while it registers, is like any other one that is: no client sits behind it, nothing else
    /// happens to it, and it is never deferred (the worker would remember which one it is to try again).
    pub(crate) fn is_any_other(&self, s: Iommu) -> bool {
        let named = self.clients().any(|x| self.iommus_named_by(x).contains(&s));
        let unregisters = self.world.has(Event::Unregister) && s.0 == 0;
        !named && !unregisters && !dd::may_defer(self, Dev::Iommu(s))
    }

    /// What belongs to an instance and to the thread that probes it.
    pub(crate) fn role(&self, probe: ThreadId, s: Iommu) -> Role {
        let IommuFields { listed, ready, bound, group_list, lock } = self.iommu(s);
        Role {
            thread: probe,
            fields: [*listed, *ready, *bound].iter().chain(group_list).copied().collect(),
            mutexes: vec![*lock],
            names: self.groups.iter().map(|group| (group.entry, linked_by(s))).collect(),
        }
    }

    /// The clients that want an identity domain, a bit each.
    pub(crate) fn identity_clients(&self) -> u64 {
        match self.world.grouping {
            Grouping::Mixed => 1 << (self.world.clients - 1),
            Grouping::Identity => (1 << self.world.clients) - 1,
            Grouping::Own | Grouping::Shared => 0,
        }
    }

    /// A client is added while the machine runs.
    pub(crate) fn world_adds_devices(&self) -> bool {
        self.world.has(Event::Plug)
    }

    /// Clients come or go in this world.
    pub(crate) fn world_moves_devices(&self) -> bool {
        self.world.has(Event::Unplug) || self.world.has(Event::Plug)
    }

    /// `dev->iommu` of a probed client can be freed in this world.
    pub(crate) fn world_frees_devices(&self) -> bool {
        self.world.has(Event::Unplug) || self.world.has(Event::Unregister)
    }

    /// The driver of this client manages its DMA itself (`driver_managed_dma`).
    pub(crate) fn manages_dma(&self, x: Client) -> bool {
        self.world.managed && x.0 + 1 == self.world.clients
    }

    /// The IOMMU refuses this client: it can only go without.
    pub(crate) fn is_refused(&self, x: Client) -> bool {
        self.world.has(Event::BadId) && x.0 + 1 == self.world.clients
    }

    /// The driver of this client fails or defers at its first probe.
    pub(crate) fn first_probe(&self, x: Client) -> Option<Event> {
        [Event::Fail, Event::Defer].into_iter().find(|event| x.0 == 0 && self.world.has(*event))
    }

    /// Groups can have an outside owner in this world.
    pub(crate) fn world_has_owner(&self) -> bool {
        self.world.has(Event::Vfio)
    }

    /// The SMMU driver links its clients to itself.
    pub(crate) fn world_links_clients(&self) -> bool {
        self.world.driver == Driver::V2
    }

    /// The deferred-probe timeout can fire in this world.
    pub(crate) fn world_times_out(&self) -> bool {
        self.world.has(Event::Timeout)
    }

    /// Takes `iommu_probe_device_lock`, in kernels that have it (01657bc14a39).
    pub(crate) fn probe_lock(&self, t: &mut T<'_>) -> Step<()> {
        if self.has(Commit::ProbeLock) { t.lock(self.probe_lock, "") } else { Ok(()) }
    }

    /// Gives `iommu_probe_device_lock` back.
    pub(crate) fn probe_unlock(&self, t: &mut T<'_>) -> Step<()> {
        if self.has(Commit::ProbeLock) { t.unlock(self.probe_lock) } else { Ok(()) }
    }

    /// The name of a device, as in a log.
    pub(crate) fn name(&self, dev: Dev) -> &'static str {
        match dev {
            Dev::Iommu(s) => self.world.iommu_name(s.0),
            Dev::Client(x) => self.world.client_name(x.0),
        }
    }

    /// The step that led here violates a property, about `dev`; the thread goes on.
    pub(crate) fn violated(&self, t: &mut T<'_>, dev: Dev, id: Id) {
        t.check(self.checked(id), false);
        t.note(id.info().meaning);
        if let Some(message) = id.message(&self.world, self.name(dev)) {
            t.log(message);
        }
    }

    /// The kernel oopses while it works on `dev`: the thread dies and keeps its locks.
    pub(crate) fn oops(&self, t: &mut T<'_>, dev: Dev, id: Id) -> Step<Errno> {
        t.write(self.oopsed, 1, "Oops")?;
        self.violated(t, dev, id);
        t.die(self.checked(id), "the thread dies here and keeps its locks")
    }

    fn checked(&self, id: Id) -> PropertyId {
        self.checks[id as usize].expect("a property that steps check")
    }
}

/// What `group->entry` says of a group on the list of this instance's walk.
pub(crate) fn linked_by(s: Iommu) -> u64 {
    s.0 as u64 + 1
}

fn declare_iommu(b: &mut Builder, world: &World, s: usize, groups: usize) -> IommuFields {
    let name = world.iommu_name(s);
    let yes_no = |b: &mut Builder, what: &str| {
        let field = b.field(Object::of(name, what), 1);
        b.value_names(field, &["no", "yes"]);
        field
    };
    IommuFields {
        listed: yes_no(b, "on iommu_device_list"),
        ready: yes_no(b, "iommu->ready"),
        bound: yes_no(b, "on driver->klist_devices"),
        group_list: (0..groups)
            .map(|g| {
                let owner = format!("{name}, group {g}");
                let field = b.field(Object::of(owner, ON_GROUP_LIST), 1);
                b.value_names(field, &["no", "yes"]);
                field
            })
            .collect(),
        lock: b.mutex(Object::of(name, DEVICE_LOCK)),
    }
}

fn declare_client(b: &mut Builder, world: &World, x: usize) -> ClientFields {
    let name = world.client_name(x);
    let named = |b: &mut Builder, what: &str, bits: u32, values: &[&str]| {
        let field = b.field(Object::of(name, what), bits);
        b.value_names(field, values);
        field
    };
    let pointer: &[&str] = &["NULL", "set"];
    let path: &[&str] = &["direct", "iommu-dma", "direct, coherent", "iommu-dma, coherent"];
    ClientFields {
        iommu: named(b, "dev->iommu", 1, pointer),
        fwspec: named(b, "fwspec", 2, &["NULL", "without ops", "set"]),
        private: named(b, "dev->iommu->priv", 1, pointer),
        iommu_dev: named(b, "dev->iommu->iommu_dev", 1, pointer),
        iommu_group: named(b, "dev->iommu_group", 1, pointer),
        dma: named(b, "DMA path", 2, path),
        path_chosen: named(b, "iommu-dma chosen", 1, &["no", "yes"]),
        claimed: named(
            b,
            "claim",
            2,
            &["none", "of a group without a domain", "of a group with its domain"],
        ),
        msi: named(b, "MSI doorbell", 2, &["none", "physical address", "mapped"]),
        ready_to_probe: named(b, "ready_to_probe", 1, &["no", "yes"]),
        tried: named(b, "first probe over", 1, &["no", "yes"]),
        attached: named(b, "hardware domain", 3, DOMAINS),
        driver: named(b, "dev->driver", 1, pointer),
        run: named(b, "driver", 2, &["not running", "running", "bound", "bound"]),
        seen_path: named(b, "first mapping", 2, &["none", "direct", "iommu-dma"]),
        seen_domain: named(b, "domain at the first mapping", 3, DOMAINS),
        linked: named(b, "device link to the SMMU", 1, &["no", "yes"]),
        on_bus: named(b, "on the bus", 1, &["no", "yes"]),
        dead: named(b, "device", 2, &["alive", "dead", "freed"]),
        lock: b.mutex(Object::of(name, DEVICE_LOCK)),
    }
}

fn declare_group(b: &mut Builder, g: usize) -> GroupFields {
    let owner = format!("group {g}");
    let mutex = b.mutex(Object::of(&owner, "mutex"));
    let named = |b: &mut Builder, what: &str, bits: u32, values: &[&str]| {
        let field = b.field(Object::of(&owner, what), bits);
        b.value_names(field, values);
        field
    };
    GroupFields {
        mutex,
        members: named(
            b,
            "devices",
            3,
            &["{}", "{0}", "{1}", "{0,1}", "{2}", "{0,2}", "{1,2}", "{0,1,2}"],
        ),
        default_domain: named(b, "default_domain", 3, DOMAINS),
        domain: named(b, "domain", 3, DOMAINS),
        iova_ready: named(b, "IOVA space", 1, &["none", "ready"]),
        owner_cnt: named(b, "owner_cnt", 3, &[]),
        owner: named(b, "owner", 1, &["none", "outside"]),
        entry: named(b, "entry", 2, &["on no list", "on list 0", "on list 1", "on list 2"]),
    }
}
