//! What a boot ended with, for programs. The format is stable: fields are never renamed or removed, unknown ones may come.

use super::promises::Verdict;
use super::races::KINDS;
use super::repeat::Summary;
use super::report::{BootReport, ClientRow, IommuRow, IommuState};
use portcullis::DomainType;
use serde::Serialize;

/// `boot --json`.
#[derive(Debug, Serialize)]
struct Boot<'a> {
    board: &'a str,
    cpus: usize,
    seed: u64,
    iommus: Vec<Iommu<'a>>,
    devices: Vec<Device<'a>>,
    promises: Vec<Promise>,
    elapsed_us: u128,
}

#[derive(Debug, Serialize)]
struct Iommu<'a> {
    path: &'a str,
    driver: Option<&'static str>,
    /// `registered`, `failed`, `no-driver` or `disabled`.
    state: &'static str,
    /// Why it failed.
    reason: Option<&'a str>,
    /// What its driver found when it took it over.
    notes: Vec<Note<'a>>,
}

#[derive(Debug, Serialize)]
struct Note<'a> {
    /// `firmware-stream-blocked`, `firmware-stream-adopted`, `banks-kept` or `s2cr-faked`.
    kind: &'static str,
    words: &'a str,
}

#[derive(Debug, Serialize)]
struct Device<'a> {
    path: &'a str,
    /// The first IOMMU in front of it.
    iommu: Option<&'a str>,
    /// All of them.
    iommus: &'a [String],
    streams: &'a [u32],
    group: Option<u32>,
    /// `dma`, `identity` or `blocked`.
    domain: Option<&'static str>,
    /// `translated`, `direct`, `blocked`, or `unknown` where no IOMMU is known to refuse its accesses.
    dma: &'static str,
    /// `bound`, `blocked` or `deferred`.
    state: &'static str,
    reason: Option<String>,
    /// One word for the reason: `description`, `iommu-failed`, `iommu-absent`, `iommu-full`, `regions-conflict`, `set-up`, `group`, `driver`, ...
    cause: Option<&'static str>,
    probes: u32,
    defers: u32,
    /// `ok` or `failed`; null where no DMA was done.
    dma_check: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Promise {
    id: &'static str,
    held: bool,
    checked: u64,
}

/// `boot --repeat N --json`.
#[derive(Debug, Serialize)]
struct Repeated<'a> {
    board: &'a str,
    cpus: usize,
    boots: u64,
    asked: u64,
    first_seed: u64,
    first_broken_seed: Option<u64>,
    races: Vec<Race>,
    promises: Vec<Promise>,
    elapsed_us: u128,
}

#[derive(Debug, Serialize)]
struct Race {
    kind: &'static str,
    times: u64,
}

/// The summary of many boots as one line of JSON.
pub fn summary_to_json(summary: &Summary) -> String {
    let races = KINDS.iter().zip(summary.races).map(|(kind, times)| Race { kind, times });
    let repeated = Repeated {
        board: &summary.board,
        cpus: summary.cpus,
        boots: summary.boots,
        asked: summary.asked,
        first_seed: summary.first_seed,
        first_broken_seed: summary.first_broken,
        races: races.collect(),
        promises: summary.promises.iter().map(promise).collect(),
        elapsed_us: summary.elapsed.as_micros(),
    };
    serde_json::to_string(&repeated).expect("strings and numbers only")
}

/// The report as one line of JSON.
pub fn to_json(report: &BootReport) -> String {
    let boot = Boot {
        board: &report.board,
        cpus: report.cpus,
        seed: report.seed,
        iommus: report.iommus.iter().map(iommu).collect(),
        devices: report.clients.iter().map(device).collect(),
        promises: report.promises.iter().map(promise).collect(),
        elapsed_us: report.elapsed.as_micros(),
    };
    serde_json::to_string(&boot).expect("strings and numbers only")
}

fn promise(verdict: &Verdict) -> Promise {
    Promise { id: verdict.id, held: verdict.broken == 0, checked: verdict.checked }
}

fn iommu(row: &IommuRow) -> Iommu<'_> {
    let (state, reason) = match &row.state {
        IommuState::Registered => ("registered", None),
        IommuState::Failed(reason) => ("failed", Some(reason.as_str())),
        IommuState::NoDriver => ("no-driver", None),
        IommuState::Disabled => ("disabled", None),
    };
    let notes = row.notes.iter().map(|note| Note { kind: note.kind, words: &note.words });
    Iommu { path: &row.path, driver: row.driver, state, reason, notes: notes.collect() }
}

fn device(row: &ClientRow) -> Device<'_> {
    let (state, reason) = row.state();
    Device {
        path: &row.report.path,
        iommu: row.iommus.first().map(String::as_str),
        iommus: &row.iommus,
        streams: &row.streams,
        group: row.report.group,
        domain: row.report.domain.map(|domain| match domain {
            DomainType::Blocked => "blocked",
            DomainType::Identity => "identity",
            DomainType::Dma => "dma",
            DomainType::DmaLazy => "dma-lazy",
        }),
        dma: row.path_word(),
        state,
        reason,
        cause: row.cause(),
        probes: row.report.probes,
        defers: row.report.defers,
        dma_check: row.dma_ok.map(|ok| if ok { "ok" } else { "failed" }),
    }
}
