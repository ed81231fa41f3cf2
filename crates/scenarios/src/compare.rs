//! One scenario on two platforms.

use crate::bench::{Bench, Failure, QemuBench, SoftwareBench};
use crate::cases::Scenario;
use crate::check::Check;
use portcullis_qemu::{
    Architecture, Installation, REQUIRE_VARIABLE, SMMUV3_BLOCKS, Version, for_test_from,
};
use std::io::Write;

/// A place where QEMU does not do what the specification says.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// The scenario that shows it.
    pub scenario: &'static str,
    /// The observation, by what was looked at.
    pub what: &'static str,
    /// What QEMU shows.
    pub qemu: &'static str,
    /// The versions that show it: the first one, and the first one that no longer does.
    pub versions: (Version, Option<Version>),
    /// Why, and what the specification says.
    pub explanation: &'static str,
}

/// Every version from 7.2 on, as far as known.
const ALWAYS: (Version, Option<Version>) = (version(7, 2), None);

const fn version(major: u16, minor: u16) -> Version {
    Version { major, minor, micro: 0 }
}

/// Seen with 7.2, gone in 10.0.
const OLD: (Version, Option<Version>) = (version(7, 2), Some(version(10, 0)));

/// Stands for the platform itself in [`Difference::what`].
const PLATFORM: &str = "the platform";

/// What is known.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        scenario: "entry-stage-two-aarch32",
        what: PLATFORM,
        qemu: "signal: 6",
        versions: (version(8, 1), None),
        explanation: "An STE whose stage 2 has S2AA64 = 0 is ILLEGAL without VMSAv8-32 support and gives C_BAD_STE (5.2). QEMU ends itself with an assertion in decode_ste_s2_cfg: a guest can stop its machine with one table entry.",
    },
    Difference {
        scenario: "two-level-beyond-span",
        what: "first, write its physical address",
        qemu: "blocked; C_BAD_STE of 0x10",
        versions: ALWAYS,
        explanation: "A StreamID beyond the Span of its level 1 descriptor is out of range of the stream table: C_BAD_STREAMID (7.3.3). QEMU says so for Span 0 only, and calls this one a bad STE.",
    },
    Difference {
        scenario: "nested-hole-for-table",
        what: "first, write 0x5555555000",
        qemu: "blocked; F_TRANSLATION of 0x10, fetch for 0x5555555000, stage 1, table",
        versions: (version(9, 1), None),
        explanation: "A stage 1 table that stage 2 does not map is a stage 2 fault: S2 = 1, and IPA says where (7.3.13). QEMU records the class but leaves S2 and IPA clear.",
    },
    Difference {
        scenario: "s1-access-flag",
        what: "first, write 0x1234567000",
        qemu: "landed",
        versions: OLD,
        explanation: "A leaf whose access flag is clear gives F_ACCESS unless CD.AFFD is set (7.3.15). QEMU 7.2 does not look at the flag.",
    },
    Difference {
        scenario: "s1-access-flag",
        what: "first, read 0x1234567000",
        qemu: "landed",
        versions: OLD,
        explanation: "As for the write.",
    },
    Difference {
        scenario: "s1-beyond-input",
        what: "first, write 0x1000000000000",
        qemu: "blocked",
        versions: OLD,
        explanation: "An address beyond the range that T0SZ gives is a translation fault and recorded (7.3.13). QEMU 7.2 refuses it without a record.",
    },
    Difference {
        scenario: "s1-output-too-wide",
        what: "first, write 0x1234567000",
        qemu: "blocked",
        versions: OLD,
        explanation: "An output address beyond the SMMU's is recorded as F_ADDR_SIZE (7.3.14). QEMU 7.2 refuses it without a record.",
    },
    Difference {
        scenario: "event-overflow",
        what: "overflow pending after 6 faults in a queue of 4",
        qemu: "false",
        versions: ALWAYS,
        explanation: "Events that do not fit a full queue toggle EVENTQ_PROD.OVFLG (7.2, 6.3.95). QEMU never does.",
    },
    Difference {
        scenario: "event-overflow",
        what: "GERROR.EVENTQ_ABT_ERR, which is for aborted writes",
        qemu: "true",
        versions: ALWAYS,
        explanation: "EVENTQ_ABT_ERR is for event queue writes that were aborted (6.3.19). QEMU raises it for a full queue too, in the place of OVFLG.",
    },
];

/// How a scenario went on both platforms.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What the software machine showed.
    pub software: Vec<Check>,
    /// What QEMU showed; `None` where it has no such SMMU.
    pub qemu: Option<Vec<Check>>,
    /// QEMU's departures that are on record.
    pub known: Vec<&'static Difference>,
    /// Everything that is not as it should be.
    pub complaints: Vec<String>,
}

/// Runs `scenario` on the software machine, with hardware as QEMU's and at its harshest.
///
/// # Errors
///
/// When the platform fails or it offended.
pub fn run_on_software(scenario: &Scenario) -> Result<Vec<Check>, Failure> {
    let harsh = run(scenario, &SoftwareBench::harsh(scenario.board))?;
    let checks = run(scenario, &SoftwareBench::like_qemu(scenario.board))?;
    if harsh == checks {
        return Ok(checks);
    }
    let differ = harsh.iter().zip(&checks).find(|(one, other)| one != other);
    Err(Failure(format!("harsh and QEMU-like hardware differ: {differ:?}")))
}

/// Runs `scenario` on QEMU; `None` where this one has no such SMMU.
///
/// # Errors
///
/// When the platform fails.
pub fn run_on_qemu(
    scenario: &Scenario,
    installation: &Installation,
) -> Result<Option<Vec<Check>>, Failure> {
    match start_qemu(scenario, installation)? {
        Some(bench) => run(scenario, &bench).map(Some),
        None => Ok(None),
    }
}

/// A QEMU that has what the scenario needs; `None` where this one has not.
pub(crate) fn start_qemu(
    scenario: &Scenario,
    installation: &Installation,
) -> Result<Option<QemuBench>, Failure> {
    if scenario.needs_global_abort() && !has_global_abort(installation) {
        return Ok(None);
    }
    QemuBench::start(scenario.board, installation)
}

/// Whether this QEMU's SMMUv3 has `SMMU_GBPA`.
fn has_global_abort(installation: &Installation) -> bool {
    installation.version() >= SMMUV3_BLOCKS
}

/// For a test that runs the driver on QEMU: the installation, or `None` after a visible line when there is none or it is too old.
///
/// # Panics
///
/// As [`portcullis_qemu::for_test`].
pub fn for_driver_test(test: &str) -> Option<&'static Installation> {
    for_test_from(Architecture::Aarch64, SMMUV3_BLOCKS, test)
}

fn run(scenario: &Scenario, bench: &dyn Bench) -> Result<Vec<Check>, Failure> {
    let checks = (scenario.run)(bench);
    // What the platform noticed says more than what the scenario stumbled over.
    match bench.offences().first() {
        Some(offence) => Err(Failure(format!("{}: {offence}", bench.name()))),
        None => checks,
    }
}

/// Runs `scenario` on both platforms and compares.
///
/// # Errors
///
/// When a platform fails.
pub fn compare(scenario: &Scenario, installation: &Installation) -> Result<Comparison, Failure> {
    let software = run_on_software(scenario)?;
    let mut complaints: Vec<_> = software
        .iter()
        .filter(|check| !check.holds())
        .map(|check| format!("software machine: {check}"))
        .collect();
    let version = installation.version();
    let mut known = Vec::new();
    let qemu = match run_on_qemu(scenario, installation) {
        Ok(qemu) => qemu,
        Err(failure) => {
            let end = known_end(scenario, version, &failure).ok_or(failure)?;
            return Ok(Comparison { software, qemu: None, known: vec![end], complaints });
        }
    };
    if let Some(qemu) = &qemu {
        judge_qemu(scenario, version, qemu, &mut known, &mut complaints);
        let same_story = software.len() == qemu.len()
            && software.iter().zip(qemu).all(|(one, other)| one.what == other.what);
        if !same_story {
            complaints.push("the two platforms were told different stories".to_owned());
        }
    }
    Ok(Comparison { software, qemu, known, complaints })
}

/// The difference that says that this version ends itself here.
fn known_end(
    scenario: &Scenario,
    version: Version,
    failure: &Failure,
) -> Option<&'static Difference> {
    differences(version).find(|known| {
        known.scenario == scenario.name && known.what == PLATFORM && failure.0.contains(known.qemu)
    })
}

fn judge_qemu(
    scenario: &Scenario,
    version: Version,
    checks: &[Check],
    known: &mut Vec<&'static Difference>,
    complaints: &mut Vec<String>,
) {
    let mut open: Vec<_> =
        differences(version).filter(|known| known.scenario == scenario.name).collect();
    for check in checks.iter().filter(|check| !check.holds()) {
        let place =
            open.iter().position(|known| known.what == check.what && known.qemu == check.observed);
        match place {
            Some(place) => known.push(open.remove(place)),
            None => complaints.push(format!("QEMU {version}: {check}")),
        }
    }
    let gone = open.iter().map(|known| format!("QEMU {version} no longer differs: {}", known.what));
    complaints.extend(gone);
}

/// What is known of one version.
fn differences(version: Version) -> impl Iterator<Item = &'static Difference> {
    DIFFERENCES.iter().filter(move |known| {
        let (from, until) = known.versions;
        from <= version && until.is_none_or(|until| version < until)
    })
}

/// Fails the test when a scenario was not run although it had to be; otherwise says so in a visible line.
///
/// # Panics
///
/// When it was not run and the environment requires every external program.
pub fn assert_told(told: bool, scenario: &Scenario, version: Version) {
    if told {
        return;
    }
    let needs = if scenario.needs_global_abort() { " and SMMU_GBPA" } else { "" };
    let (name, board) = (scenario.name, scenario.board);
    skip(&format!("SKIP {name}: QEMU {version} has no SMMU with {board}{needs}\n"));
}

fn skip(line: &str) {
    let required = std::env::var_os(REQUIRE_VARIABLE).is_some_and(|value| value == "1");
    assert!(!required, "{line}");
    // Not eprintln!: the test harness would swallow it. A closed standard error is no reason to fail.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
