//! The scenarios.

mod configuration;
mod driver;
mod invalidation;
mod nested;
mod queues;
mod stage_one;
mod stage_two;
mod topology;

use crate::bench::{Bench, Board, Client, Failure};
use crate::check::{Check, Class, Direction, Event, Spot};
use crate::raw::{Expected, Granule, Layout, Rig, Tree, entry};
use portcullis_addr::PhysAddr;

/// One test case, run the same way on every platform.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name; stable.
    pub name: &'static str,
    /// Where the specification (IHI 0070) says what must happen.
    pub section: &'static str,
    /// The SMMU it needs.
    pub board: Board,
    /// Whether it is about an access or a command that must be refused.
    pub negative: bool,
    /// Runs it.
    pub run: fn(&dyn Bench) -> Result<Vec<Check>, Failure>,
}

impl Scenario {
    /// Whether it needs `SMMU_GBPA`, with which a disabled SMMU blocks everything. Every SMMUv3 must have it (6.3.14); QEMU before 8.0 does not, and the
    /// driver refuses such a unit.
    pub fn needs_global_abort(&self) -> bool {
        let by_hand = ["disabled-aborts", "disabled-while-busy"];
        self.name.starts_with("driver-") || by_hand.contains(&self.name)
    }
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scenario({})", self.name)
    }
}

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    [
        configuration::ALL,
        stage_one::ALL,
        stage_two::ALL,
        nested::ALL,
        invalidation::ALL,
        queues::ALL,
        topology::ALL,
        driver::ALL,
    ]
    .concat()
}

/// The scenario of that name.
pub fn named(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name == name)
}

/// What a scenario returns.
type Told = Result<Vec<Check>, Failure>;

const fn positive(
    name: &'static str,
    section: &'static str,
    board: Board,
    run: fn(&dyn Bench) -> Told,
) -> Scenario {
    Scenario { name, section, board, negative: false, run }
}

const fn negative(
    name: &'static str,
    section: &'static str,
    board: Board,
    run: fn(&dyn Bench) -> Told,
) -> Scenario {
    Scenario { name, section, board, negative: true, run }
}

/// An address that needs all four levels.
const IOVA: u64 = 0x12_3456_7000;
/// A page next to it.
const NEXT: u64 = IOVA + 0x1000;
/// The tag of a first address space.
const ASID: u64 = 7;
/// A physical address where no machine here has anything.
const NOWHERE: PhysAddr = PhysAddr::new(0x20_0000_0000);

/// Memory of every platform that no allocator has reached: a page whose place in large blocks is the same everywhere.
const FAR_PAGE: PhysAddr = PhysAddr::new(0x4323_3000);

/// A stage 1 fault of the device's own access.
fn fault(number: u64, client: Client, direction: Direction, iova: u64) -> Expected {
    let spot = Spot { iova, direction, stage: 1, class: Class::Input, ipa: None };
    Expected::Refused(Event::translation(number, client, spot))
}

/// An error of the stream's configuration.
fn misconfigured(number: u64, client: Client) -> Expected {
    Expected::Refused(Event::configuration(number, client))
}

/// An SMMU on which the first device has an address space of its own.
struct FirstSpace<'a> {
    rig: Rig<'a>,
    tree: Tree<'a>,
    descriptor: PhysAddr,
}

impl<'a> FirstSpace<'a> {
    fn new(bench: &'a dyn Bench, granule: Granule) -> Result<Self, Failure> {
        Self::with(bench, granule, Layout::default())
    }

    fn with(bench: &'a dyn Bench, granule: Granule, layout: Layout) -> Result<Self, Failure> {
        let mut rig = Rig::start(bench, layout)?;
        let tree = Tree::new(bench, granule, 48)?;
        let descriptor = rig.allocate(64)?;
        rig.store(descriptor, &entry::context(ASID, &tree));
        rig.install(Client::First, &entry::stage_one(descriptor))?;
        Ok(Self { rig, tree, descriptor })
    }

    /// The same with a page mapped at [`IOVA`] and used once, so that everything about it is in the SMMU's caches.
    fn used(bench: &'a dyn Bench) -> Result<(Self, PhysAddr), Failure> {
        let mut space = Self::new(bench, Granule::K4)?;
        let page = space.rig.page()?;
        space.tree.map(IOVA, page, crate::raw::Leaf::READ_WRITE)?;
        space.rig.writes(Client::First, IOVA, page, Expected::Landed)?;
        Ok((space, page))
    }
}
