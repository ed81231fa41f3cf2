//! `lab compare`: the matrix of versions and worlds.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Mutex;
use std::thread;

use super::base::{BASES, BaseInfo};
use super::check::{Budget, CheckError, Report, check};
use super::protocol::Protocol;
use super::world::{Driver, Event, Firmware, Grouping, World};

/// The matrix.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The rows.
    pub protocols: Vec<Protocol>,
    /// The columns: a short name and the world.
    pub worlds: Vec<(String, World)>,
    /// One row of cells for each protocol.
    pub rows: Vec<Vec<Cell>>,
}

/// One cell: a protocol in a world.
#[derive(Clone, Debug)]
pub struct Cell {
    /// What the check found.
    pub report: Report,
}

/// The worlds that `lab compare` looks at: the report's world, the reporter's machine (the same with two MMU-500), and their
/// neighbours, one thing changed each.
#[must_use]
pub fn comparison_worlds() -> Vec<(String, World)> {
    let report = World::default();
    let one = World::of(1, 1, 1);
    let named = |name: &str, world: World| (name.to_owned(), world);
    let with = |world: &World, event| World { events: vec![event], ..world.clone() };
    vec![
        named("two IOMMUs", report.clone()),
        named("two MMU-500", World { driver: Driver::V2, ..report.clone() }),
        named("one IOMMU", one.clone()),
        named("one IOMMU, v2", World { driver: Driver::V2, ..one.clone() }),
        named("two attempts", World { attempts: 2, ..report.clone() }),
        named("shared group", World { clients: 2, grouping: Grouping::Shared, ..report.clone() }),
        named("mixed group", World { clients: 2, grouping: Grouping::Mixed, ..report.clone() }),
        named("ACPI", World { firmware: Firmware::Acpi, ..report.clone() }),
        named("one IOMMU, ACPI", World { firmware: Firmware::Acpi, ..one.clone() }),
        named("both register", World::of(2, 2, 1)),
        named("two nodes", World { two_nodes: true, ..report.clone() }),
        named("rebind", with(&report, Event::Rebind)),
        named("unplug", with(&report, Event::Unplug)),
        named("VFIO", with(&report, Event::Vfio)),
    ]
}

/// The base versions that are compared when nothing else is asked for: the points of mainline and 6.1 stable.
pub fn compared_bases() -> impl Iterator<Item = &'static BaseInfo> {
    BASES.iter().filter(|base| base.compared)
}

/// Checks every protocol (default: those of [`compared_bases`]) in every world, to the end, on as many threads as
/// the machine has cores. `progress` is called after each cell with the number done and the total; after
/// `stop` has become true the cells left are cut short and say so.
///
/// # Errors
/// As [`check`].
pub fn compare(
    protocols: Option<Vec<Protocol>>,
    worlds: Vec<(String, World)>,
    stop: Option<&AtomicBool>,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Matrix, CheckError> {
    let protocols =
        protocols.unwrap_or_else(|| compared_bases().map(|base| Protocol::of(base.id)).collect());
    let total = protocols.len() * worlds.len();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let cells: Mutex<Vec<Option<Result<Cell, CheckError>>>> =
        Mutex::new((0..total).map(|_| None).collect());
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= total {
                break;
            }
            let (protocol, world) = (&protocols[i / worlds.len()], &worlds[i % worlds.len()].1);
            let budget = Budget { stop, ..Budget::for_world(world) };
            let cell = check(protocol, world, budget, &mut |_| {}).map(|report| Cell { report });
            cells.lock().expect("no cell's check panics")[i] = Some(cell);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        (0..cores.min(total)).for_each(|_| {
            scope.spawn(work);
        });
    });
    let mut cells = cells.into_inner().expect("no cell's check panics").into_iter();
    let rows = protocols
        .iter()
        .map(|_| cells.by_ref().take(worlds.len()).flatten().collect::<Result<Vec<_>, _>>())
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Matrix { protocols, worlds, rows })
}
