//! Two stock kernels of the distribution under a schedule each: the kernels' own answer to the lab's prediction.
//!
//! Needs QEMU and a Debian mirror in apt's sources; skips visibly without, and fails instead with `PORTCULLIS_REQUIRE_EXTERNAL=1`. The first run downloads 150 MB. No
//! version is pinned: the mirror's newest kernel of each branch is taken.

use portcullis_replay::board::Board;
use portcullis_replay::package::{Cache, Deb, Kernel, Mirror, find_qemu};
use portcullis_replay::{
    BadEnd, DmaIommuLayout, Error, Home, Options, Outcome, Replay, Report, Schedule,
};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// What `get` gives, or `None` after a visible line.
fn external<T>(test: &str, get: impl FnOnce() -> Result<T, Error>) -> Option<T> {
    match get() {
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

fn kernel(version: &str) -> Result<Kernel, Error> {
    let cache = Cache::of_user()?;
    Kernel::open(&Mirror::of_system(&cache)?.kernel(version)?, None, &cache)
}

fn busybox() -> Result<Vec<u8>, Error> {
    let mut busybox = Vec::new();
    Deb::new(&Mirror::of_system(&Cache::of_user()?)?.busybox()?).each(
        |path| path.ends_with("bin/busybox"),
        |_, bytes| {
            busybox = bytes;
            Ok(())
        },
    )?;
    Ok(busybox)
}

/// One at a time: apt's lists have one writer, and a guest wants a core for each of its CPUs.
static ALONE: Mutex<()> = Mutex::new(());

fn replay(test: &str, version: &str, board: &str, schedule: &str) -> Option<Report> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let board = Board::find(board).expect("a board");
    let (qemu, kernel, busybox) = external(test, || {
        let qemu = find_qemu(&Cache::of_user()?)?;
        board.supported_by(&qemu)?;
        Ok((qemu, kernel(version)?, busybox()?))
    })?;
    let schedule = Schedule::parse(schedule).expect("a schedule");
    let options = Options::default();
    let replay =
        Replay { qemu: &qemu, kernel: &kernel, busybox: &busybox, board, schedule, options };
    Some(replay.run().unwrap_or_else(|error| panic!("{test}: {error}")))
}

/// A boot under a schedule takes a quarter of a minute.
mod long {
    use super::*;

    /// Linux 6.1 with one SMMU: the walk frees the client's fwspec, the client then runs without its IOMMU, and its disk is not there.
    #[test]
    #[ignore = "long: `PORTCULLIS_LONG=1 cargo xtask test`"]
    fn linux_6_1_loses_the_iommu_of_a_client() {
        let Some(report) = replay("linux_6_1_loses_the_iommu_of_a_client", "6.1", "nvme", "seed")
        else {
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
    #[ignore = "long: `PORTCULLIS_LONG=1 cargo xtask test`"]
    fn linux_6_12_works_without_a_race() {
        let Some(report) = replay("linux_6_12_works_without_a_race", "6.12", "nvme", "control")
        else {
            return;
        };
        assert_eq!(report.observed, Outcome::Harmless, "{}", report.answer());
        assert!(report.agrees(), "{}", report.answer());
        assert_eq!(report.damage.works, Some(true));
        assert!(report.damage.interrupts.is_some_and(|number| number > 0));
    }

    /// The report's race, which needs two SMMUs and so a QEMU that Debian 12 does not have (`portcullis replay --fetch-qemu` gets one): the network card stays on direct
    /// DMA behind a domain that translates, and no interrupt of it arrives.
    #[test]
    #[ignore = "long: `PORTCULLIS_LONG=1 cargo xtask test`"]
    fn linux_6_1_has_the_race_of_the_report() {
        let test = "linux_6_1_has_the_race_of_the_report";
        let Some(report) = replay(test, "6.1", "e1000e-two", "seed") else { return };
        let ends = vec![BadEnd::WrongPath, BadEnd::MsiUnmapped];
        assert_eq!(report.observed, Outcome::Occurred { ends }, "{}", report.answer());
        assert!(report.agrees(), "{}", report.answer());
        assert_eq!(report.damage.interrupts, Some(0));
        let line = "Failed to set up IOMMU for device 0000:00:02.0; retaining platform DMA ops";
        assert!(report.damage.complaints.iter().any(|said| said == line));
    }

    /// What shares a byte with `dma_iommu`, by the kernels' own type information: 6.1 has a pointer, 6.12 a byte of bit fields, and both are as the lab has them.
    #[test]
    #[ignore = "long: `PORTCULLIS_LONG=1 cargo xtask test`"]
    fn dma_iommu_is_where_the_lab_has_it() {
        let test = "dma_iommu_is_where_the_lab_has_it";
        let layout = |version| {
            let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
            external(test, || DmaIommuLayout::of(&kernel(version)?))
        };
        let (Some(pointer), Some(byte)) = (layout("6.1"), layout("6.12")) else { return };
        assert_eq!(pointer.home, Home::Pointer);
        let Home::Byte(fields) = &byte.home else { panic!("{byte}") };
        let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        assert!(
            ["dma_coherent", "can_match", "dma_iommu"].iter().all(|name| names.contains(name)),
            "{byte}"
        );
        for layout in [pointer, byte] {
            assert_eq!(layout.differences(), Vec::<String>::new(), "{layout}");
        }
    }
}
