//! The worlds: which threads run on which machine.

use crate::ours::promises;
use crate::ours::stage::Stage;
use std::sync::Arc;

/// A device of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The IOMMUs in front of it.
    pub iommus: Vec<usize>,
    /// Its stream id on each of them. Clients with the same id on the same IOMMU share a group.
    pub stream: u32,
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
}

/// One world: a thread registers each IOMMU, a thread binds each client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// Its name in reports.
    pub name: &'static str,
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
    /// Whether every access to registers, tables and queues is a step of its own. Otherwise only locks, events and DMA are, and IOMMUs are registered
    /// when the threads start: for runs that are drawn at random, in which the protocol should happen rather than the bring-up.
    pub fine: bool,
    /// How often each IOMMU is taken out and registered again, and each client unbound and bound again.
    pub rounds: usize,
}

fn client(iommus: &[usize], stream: u32) -> Client {
    Client { iommus: iommus.to_vec(), stream }
}

impl World {
    /// `iommus` IOMMUs and those clients, deferred work done by whoever registered, nothing else.
    pub fn new(name: &'static str, iommus: usize, clients: Vec<Client>) -> Self {
        Self {
            name,
            iommus,
            clients,
            worker: false,
            events: Vec::new(),
            allocations_fail: false,
            registered_too_early: false,
            fine: true,
            rounds: 0,
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

    /// The exhaustive world whose name begins with `name`, e.g. `"f"`.
    pub fn named(name: &str) -> Option<Self> {
        Self::exhaustive().into_iter().find(|world| world.name.starts_with(name))
    }

    /// Two IOMMUs, a client each, and a worker: every lock of the core is contended.
    pub fn busiest() -> Self {
        let clients = vec![client(&[0], 0x10), client(&[1], 0x11)];
        Self { worker: true, ..Self::new("two IOMMUs, a client each, and a worker", 2, clients) }
    }

    /// One IOMMU and two clients that share nothing but its command queue: too many orders of register accesses to exhaust, so for bounds and draws.
    pub fn one_queue() -> Self {
        let clients = vec![client(&[0], 0x10), client(&[0], 0x11)];
        Self::new("one IOMMU, two clients of two groups", 1, clients)
    }

    /// Wider worlds, exhausted at the coarser grain: only locks, events and DMA are steps, and the IOMMUs serve when the threads start.
    pub fn coarse() -> Vec<Self> {
        let coarse = |world: Self| Self { fine: false, ..world };
        let pair = vec![client(&[0], 0x10), client(&[0], 0x10)];
        vec![
            coarse(Self::one_queue()),
            coarse(Self {
                rounds: 1,
                ..Self::new("an IOMMU and a client come and go", 1, vec![client(&[0], 0x10)])
            }),
            coarse(Self {
                events: vec![Event::Unplug(0)],
                ..Self::new("two clients of one group, one is unplugged", 1, pair.clone())
            }),
            coarse(Self {
                events: vec![Event::Unregister(0), Event::Unplug(0)],
                ..Self::new(
                    "the IOMMU is unregistered while one of two clients is unplugged",
                    1,
                    pair,
                )
            }),
        ]
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
        world.worker = true;
        world.fine = false;
        world.rounds = rounds;
        world
    }

    /// Fills an exploration's world with the shipped code.
    pub fn build(&self, w: &mut portcullis_threads::World) {
        let stage = Arc::new(Stage::new(self));
        for index in 0..self.iommus {
            let (stage, worker, rounds) = (Arc::clone(&stage), self.worker, self.rounds);
            if !self.fine {
                stage.register(index);
            }
            let fine = self.fine;
            w.thread(format!("iommu {index}"), move || {
                if fine {
                    stage.register(index);
                }
                for _ in 0..rounds {
                    if stage.unregister(index) {
                        stage.register(index);
                    }
                }
                if !worker {
                    stage.sub.run_deferred();
                }
            });
        }
        for index in 0..self.clients.len() {
            let (stage, rounds) = (Arc::clone(&stage), self.rounds);
            w.thread(format!("client {index}"), move || {
                stage.bind(index);
                for _ in 0..rounds {
                    stage.unbind(index);
                    stage.bind(index);
                }
            });
        }
        for &event in &self.events {
            let (stage, worker) = (Arc::clone(&stage), self.worker);
            w.thread(format!("{event:?}"), move || match event {
                Event::Unplug(index) => stage.unplug(index),
                Event::Unregister(index) => {
                    stage.unregister(index);
                    // One that was refused has put its groups back in the queue.
                    if !worker {
                        stage.sub.run_deferred();
                    }
                }
                Event::Bind(index) => stage.bind(index),
            });
        }
        if self.worker {
            let stage = Arc::clone(&stage);
            w.daemon("worker", move || stage.sub.serve_deferred(|| false));
        }
        promises::at_end(self, &stage, w);
    }
}
