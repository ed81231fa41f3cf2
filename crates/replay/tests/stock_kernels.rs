//! Two stock kernels of the distribution under a schedule each: the kernels' own answer to the lab's prediction.
//!
//! Needs QEMU and a Debian mirror in apt's sources; skips visibly without, and fails instead with `PORTCULLIS_REQUIRE_EXTERNAL=1`. The first run downloads 150 MB. No
//! version is pinned: the mirror's newest kernel of each branch is taken.

use portcullis_replay::board::Board;
use portcullis_replay::package::{Cache, Deb, Kernel, Mirror};
use portcullis_replay::{BadEnd, Options, Outcome, Replay, Report, Schedule};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// The kernel and the guest's busybox, or `None` after a visible line.
fn fetch(test: &str, version: &str) -> Option<(Kernel, Vec<u8>)> {
    let fetched = || {
        let cache = Cache::of_user()?;
        let mirror = Mirror::of_system(&cache)?;
        let mut busybox = Vec::new();
        Deb::new(&mirror.busybox()?).each(
            |path| path.ends_with("bin/busybox"),
            |_, bytes| {
                busybox = bytes;
                Ok(())
            },
        )?;
        let kernel = Kernel::open(&mirror.kernel(version)?, None, &cache)?;
        Ok::<_, portcullis_replay::Error>((kernel, busybox))
    };
    match fetched() {
        Ok(found) => Some(found),
        Err(error)
            if std::env::var_os(portcullis_qemu::REQUIRE_VARIABLE).is_some_and(|v| v == "1") =>
        {
            panic!("{test} cannot run: {error}")
        }
        Err(error) => {
            // Not eprintln!: the test harness would swallow it.
            let _ = writeln!(std::io::stderr(), "SKIP {test}: {error}");
            None
        }
    }
}

/// One at a time: apt's lists have one writer, and a guest wants a core for each of its CPUs.
static ALONE: Mutex<()> = Mutex::new(());

fn replay(test: &str, version: &str, schedule: &str) -> Option<Report> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let qemu = portcullis_qemu::for_test(test)?;
    let (kernel, busybox) = fetch(test, version)?;
    let board = Board::find("nvme").expect("a board");
    let schedule = Schedule::parse(schedule).expect("a schedule");
    let options = Options::default();
    let replay = Replay { qemu, kernel: &kernel, busybox: &busybox, board, schedule, options };
    Some(replay.run().unwrap_or_else(|error| panic!("{test}: {error}")))
}

/// Linux 6.1 with one SMMU: the walk frees the client's fwspec, the client then runs without its IOMMU, and its disk is not there.
#[test]
fn linux_6_1_loses_the_iommu_of_a_client() {
    let Some(report) = replay("linux_6_1_loses_the_iommu_of_a_client", "6.1", "seed") else {
        return;
    };
    assert_eq!(
        report.observed,
        Outcome::Occurred { ends: vec![BadEnd::NoIommu] },
        "{}",
        report.answer()
    );
    assert!(report.agrees(), "{}", report.answer());
    assert_eq!(report.damage.works, Some(false));
    assert!(!report.damage.smmu_events.is_empty(), "the SMMU reports the client's accesses");
}

/// The control: without a race the same kernel's disk works, so the experiment itself breaks nothing.
#[test]
fn linux_6_12_works_without_a_race() {
    let Some(report) = replay("linux_6_12_works_without_a_race", "6.12", "control") else { return };
    assert_eq!(report.observed, Outcome::Harmless, "{}", report.answer());
    assert!(report.agrees(), "{}", report.answer());
    assert_eq!(report.damage.works, Some(true));
    assert!(report.damage.interrupts.is_some_and(|number| number > 0));
}
