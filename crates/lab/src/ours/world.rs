//! The worlds: which threads run on which machine.

use crate::ours::family::Family;

/// A device of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The IOMMUs in front of it.
    pub iommus: Vec<usize>,
    /// Its stream id on each of them. Clients with the same id on the same IOMMU share a group.
    pub stream: u32,
    /// Bits of the id that are ignored in comparisons (SMMUv2).
    pub mask: u32,
    /// Whether nobody binds a driver to it.
    pub driverless: bool,
}

/// Something that happens beside registration and binding, each in a thread of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The client with that number is unplugged.
    Unplug(usize),
    /// The IOMMU with that number is unregistered.
    Unregister(usize),
    /// The client with that number is bound a second time, as from user space.
    Bind(usize),
    /// The driver of the client with that number is unbound, and another one is bound.
    Rebind(usize),
    /// Somebody who keeps a handle of that client's driver maps memory through it and unmaps it again.
    Use(usize),
    /// As `Use`, with a lazy unmap. The domain is lazy in a world where this happens.
    UseLazily(usize),
    /// An owner outside the kernel claims the group of that client and lets it go again.
    Claim(usize),
    /// The client with that number is bound, and unbound while the command queues in front of it stand still; then they go on.
    UnbindUnanswered(usize),
    /// The device of the client with that number does DMA that nobody asked for.
    Rogue(usize),
}

/// Which accesses are steps, besides locks, events, atomics and the DMA of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grain {
    /// None: the IOMMUs serve when the threads start.
    Locks,
    /// Those to tables and queues in memory: the IOMMUs serve when the threads start.
    Tables,
    /// Those to tables, queues and registers: the IOMMUs are brought up and registered by the threads.
    Registers,
}

/// One world: a thread registers each IOMMU, a thread binds each client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// The word for it in schedules and on the command line.
    pub key: String,
    /// What happens in it.
    pub name: &'static str,
    /// Its IOMMUs' hardware.
    pub family: Family,
    /// IOMMUs that are being registered.
    pub iommus: usize,
    /// The clients.
    pub clients: Vec<Client>,
    /// Whether deferred work is done by a thread of its own, rather than by whoever registered.
    pub worker: bool,
    /// What else happens.
    pub events: Vec<Event>,
    /// Whether each thread meets one failed allocation, anywhere.
    pub allocations_fail: bool,
    /// Whether IOMMUs are registered before they are brought up: a bug on purpose.
    pub registered_too_early: bool,
    /// What is a step. Coarser than registers it is for runs that are drawn at random, in which the protocol should happen rather than the bring-up, and for wide worlds.
    pub grain: Grain,
    /// How many IOMMUs, the last ones, nobody registers before everything has come to rest.
    pub absent: usize,
    /// How often each IOMMU is taken out and registered again, and each client unbound and bound again.
    pub rounds: usize,
    /// How many buffers client 0, bound before the threads start, had then: from 16 on its addresses come from slabs. The threads share one CPU, and so these slabs. `None` where threads bind it.
    pub warm: Option<usize>,
    /// Whether devices must not use the lower 512 GiB of addresses, so that tables that begin with 39 bits must grow for the first mapping.
    pub high: bool,
    /// Whether it has kept the last of them, so that the CPU has no address at hand.
    pub kept: bool,
}

fn client(iommus: &[usize], stream: u32) -> Client {
    Client { iommus: iommus.to_vec(), stream, mask: 0, driverless: false }
}

impl World {
    /// `iommus` IOMMUs and those clients, deferred work done by whoever registered, nothing else.
    pub fn new(name: &'static str, iommus: usize, clients: Vec<Client>) -> Self {
        Self {
            key: name.chars().take_while(|c| *c != ':').filter(|c| !c.is_whitespace()).collect(),
            name,
            family: Family::SmmuV3,
            iommus,
            clients,
            worker: false,
            events: Vec::new(),
            allocations_fail: false,
            registered_too_early: false,
            grain: Grain::Registers,
            absent: 0,
            rounds: 0,
            warm: None,
            high: false,
            kept: false,
        }
    }

    /// The worlds that are explored without a bound.
    pub fn exhaustive() -> Vec<Self> {
        let one = |name| Self::new(name, 1, vec![client(&[0], 0x10)]);
        vec![
            one("a: registration and a client"),
            Self { worker: true, ..one("b: the same and a worker") },
            Self::new(
                "c: two clients of one group",
                1,
                vec![client(&[0], 0x10), client(&[0], 0x10)],
            ),
            Self::new(
                "d: two IOMMUs, a client each",
                2,
                vec![client(&[0], 0x10), client(&[1], 0x11)],
            ),
            Self { events: vec![Event::Unplug(0)], ..one("e: the client is unplugged") },
            Self { events: vec![Event::Unregister(0)], ..one("f: the IOMMU is unregistered") },
            Self { allocations_fail: true, ..one("g: allocations fail") },
            Self::new("h: a client of two IOMMUs", 2, vec![client(&[0, 1], 0x10)]),
            Self { events: vec![Event::Bind(0)], ..one("i: the client is bound twice") },
            Self {
                worker: true,
                events: vec![Event::Unplug(0)],
                ..one("j: the client is unplugged, and a worker")
            },
            Self {
                worker: true,
                events: vec![Event::Unregister(0)],
                ..one("k: the IOMMU is unregistered, and a worker")
            },
        ]
    }

    /// The world of this key: the letter of one that is explored without a bound, `busiest`, `one-queue`, one of
    /// the coarse or revoking ones or of those on an SMMUv2, or `storm<rounds>`.
    pub fn named(key: &str) -> Option<Self> {
        let storm = |rounds: &str| rounds.parse().ok().filter(|n| (1..=100).contains(n));
        if let Some(rounds) = key.strip_prefix("storm").and_then(storm) {
            return Some(Self::storm(rounds));
        }
        let single = [Self::busiest(), Self::one_queue()];
        let mut all = Self::exhaustive()
            .into_iter()
            .chain(single)
            .chain(Self::coarse())
            .chain(Self::revoking())
            .chain(Self::warm())
            .chain(Self::other_families());
        all.find(|world| world.key == key)
    }

    /// Two IOMMUs, a client each, and a worker: every lock of the core is contended.
    pub fn busiest() -> Self {
        let clients = vec![client(&[0], 0x10), client(&[1], 0x11)];
        let name = "two IOMMUs, a client each, and a worker";
        Self { key: "busiest".into(), worker: true, ..Self::new(name, 2, clients) }
    }

    /// One IOMMU and two clients that share nothing but its command queue: too many orders of register accesses to exhaust, so for bounds and draws.
    pub fn one_queue() -> Self {
        let clients = vec![client(&[0], 0x10), client(&[0], 0x11)];
        let name = "one IOMMU, two clients of two groups";
        Self { key: "one-queue".into(), ..Self::new(name, 1, clients) }
    }

    /// Wider worlds, exhausted at the coarser grain: only locks, events and DMA are steps, and the IOMMUs serve when the threads start.
    pub fn coarse() -> Vec<Self> {
        let coarse =
            |key: &str, world: Self| Self { key: key.into(), grain: Grain::Locks, ..world };
        let pair = vec![client(&[0], 0x10), client(&[0], 0x10)];
        vec![
            coarse("coarse-queue", Self::one_queue()),
            coarse(
                "come-and-go",
                Self {
                    rounds: 1,
                    ..Self::new("an IOMMU and a client come and go", 1, vec![client(&[0], 0x10)])
                },
            ),
            coarse(
                "sibling-unplugged",
                Self {
                    events: vec![Event::Unplug(0)],
                    ..Self::new("two clients of one group, one is unplugged", 1, pair.clone())
                },
            ),
            coarse(
                "unregister-and-unplug",
                Self {
                    events: vec![Event::Unregister(0), Event::Unplug(0)],
                    ..Self::new(
                        "the IOMMU is unregistered while one of two clients is unplugged",
                        1,
                        pair,
                    )
                },
            ),
        ]
    }

    /// What is taken away while somebody uses it, or waits for it.
    pub fn revoking() -> Vec<Self> {
        let one = |key: &str, name, grain, events: Vec<Event>| Self {
            key: key.into(),
            grain,
            events,
            ..Self::new(name, 1, vec![client(&[0], 0x10)])
        };
        let idle = Client { driverless: true, ..client(&[0], 0x10) };
        let users = "a handle is used while its driver is unbound and the next one is bound";
        vec![
            one("handle", users, Grain::Locks, vec![Event::Use(0), Event::Rebind(0)]),
            one("handle-tables", users, Grain::Tables, vec![Event::Use(0), Event::Rebind(0)]),
            Self {
                key: "unanswered".into(),
                grain: Grain::Locks,
                events: vec![Event::UnbindUnanswered(0)],
                ..Self::new(
                    "a client is unbound while the command queue stands still",
                    1,
                    vec![idle.clone()],
                )
            },
            Self {
                key: "idle-group".into(),
                grain: Grain::Locks,
                events: vec![Event::Unregister(0)],
                ..Self::new(
                    "the IOMMU of a driverless device and of a client is unregistered",
                    1,
                    vec![idle, client(&[0], 0x11)],
                )
            },
            Self {
                key: "flaps".into(),
                grain: Grain::Locks,
                absent: 1,
                rounds: 2,
                ..Self::new(
                    "one of two IOMMUs comes and goes, the other does not come",
                    2,
                    vec![client(&[0, 1], 0x10)],
                )
            },
            one(
                "owner",
                "an owner outside the kernel claims the client's group and lets it go",
                Grain::Locks,
                vec![Event::Claim(0)],
            ),
        ]
    }

    /// One driver that is bound when the threads begin, whose addresses come from slabs in some of these worlds.
    pub fn warm() -> Vec<Self> {
        let one = |key: &str, buffers, name, events: [Event; 2]| Self {
            key: key.into(),
            grain: Grain::Locks,
            events: events.into(),
            warm: Some(buffers),
            ..Self::new(name, 1, vec![Client { driverless: true, ..client(&[0], 0x10) }])
        };
        let (using, rebind) = (Event::Use(0), Event::Rebind(0));
        let lazily = Event::UseLazily(0);
        let handle = "a handle is used while its driver is unbound, addresses coming from slabs";
        let users = "two threads map and unmap through the handle of one driver";
        let cached =
            "two threads map and unmap through the handle of one driver, an address being at hand";
        let lazy = "two threads map and unmap lazily through the handle of one driver";
        let lazy_handle =
            "a handle is used lazily while its driver is unbound and the next one bound";
        vec![
            one("handle-slabs", 32, handle, [using, rebind]),
            Self { kept: true, ..one("two-users", 32, users, [using, using]) },
            one("two-users-cached", 32, cached, [using, using]),
            one("lazy", 0, lazy, [lazily, lazily]),
            one("lazy-rebind", 0, lazy_handle, [lazily, rebind]),
        ]
    }

    /// The worlds on every family but the SMMUv3, on which all others are.
    pub fn other_families() -> Vec<Self> {
        Family::ALL.into_iter().flat_map(Self::of_family).collect()
    }

    /// Worlds on the driver of `family`, all exhausted: a to h, the use of a handle against a rebind, and those that show what only this hardware can get wrong. None for the SMMUv3:
    /// its worlds have lists of their own. Where no two units can share an address space, a client behind two (h) must end blocked.
    pub fn of_family(family: Family) -> Vec<Self> {
        let own = match family {
            Family::SmmuV3 => return Vec::new(),
            Family::SmmuV2 => Self::only_smmu_v2(),
            Family::RiscV | Family::VtD | Family::VtDScalable | Family::Virtio | Family::AmdVi => {
                let queued = |world: &Self| world.key == "unanswered";
                let queued = Self::revoking().into_iter().filter(queued);
                queued.chain((family == Family::AmdVi).then(Self::growing)).collect()
            }
        };
        let both = Self::exhaustive().into_iter().filter(|world| world.key.as_str() <= "h");
        let handle = Self::revoking().into_iter().filter(|world| world.key == "handle");
        let named = |world: Self| Self {
            key: format!("{}{}", family.prefix(), world.key),
            family,
            ..world
        };
        both.chain(handle).chain(own).map(named).collect()
    }

    /// What only an AMD IOMMU can get wrong: two threads map beyond what their table reaches, and each must not go on before hardware walks from the new root.
    fn growing() -> Self {
        let pair = vec![client(&[0], 0x10), client(&[0], 0x10)];
        let name = "two clients of one group map what their table must grow for";
        Self { key: "grow".into(), grain: Grain::Locks, high: true, ..Self::new(name, 1, pair) }
    }

    /// What only an SMMUv2 can get wrong: a device that does DMA at any moment, banks and masks that are shared.
    fn only_smmu_v2() -> Vec<Self> {
        let idle = Client { driverless: true, ..client(&[0], 0x10) };
        let rogue = Self {
            key: "rogue".into(),
            events: vec![Event::Rogue(0)],
            ..Self::new(
                "a device without a driver does DMA while its IOMMU comes up",
                1,
                vec![idle],
            )
        };
        let reuse = Self {
            key: "reuse".into(),
            grain: Grain::Locks,
            events: vec![Event::Unplug(0)],
            ..Self::one_queue()
        };
        let masked = |stream| Client { mask: 3, ..client(&[0], stream) };
        let masked = Self {
            key: "masked".into(),
            grain: Grain::Locks,
            ..Self::new("two clients under one mask", 1, vec![masked(0x12), masked(0x13)])
        };
        vec![rogue, reuse, masked]
    }

    /// Whether nothing can translate for client number `index`: its IOMMUs are two, of a family of which no two share an address space.
    pub(crate) fn is_hopeless(&self, index: usize) -> bool {
        self.clients[index].iommus.len() > 1 && !self.family.shares_spaces()
    }

    /// Its name in reports.
    pub fn title(&self) -> String {
        format!("{}{}", self.family.title(), self.name)
    }

    /// Too big to exhaust: three IOMMUs that come and go, six clients that are bound and unbound, a worker.
    pub fn storm(rounds: usize) -> Self {
        let clients = (0..6).map(|index| match index {
            5 => client(&[0, 1], 0x20),
            4 => client(&[2], 0x12),
            _ => client(&[index % 3], 0x10 + index as u32),
        });
        let mut world =
            Self::new("storm: 3 IOMMUs and 6 clients come and go", 3, clients.collect());
        world.key = format!("storm{rounds}");
        world.worker = true;
        world.grain = Grain::Locks;
        world.rounds = rounds;
        world
    }
}
