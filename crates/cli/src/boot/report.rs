//! What a boot ended with, for people.

use super::promises::Verdict;
use super::races::{Counts, KINDS};
use super::repeat::Summary;
use crate::style::{Style, table};
use portcullis::{BlockedReason, DeviceReport, DeviceStage, OpsError, Reach, SetUpError};
use portcullis_testbed::UnitNote;
use std::fmt::Write as _;
use std::time::Duration;

/// How an IOMMU ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IommuState {
    /// It serves.
    Registered,
    /// It could not be brought up.
    Failed(String),
    /// The project has no driver for it.
    NoDriver,
    /// The description disables it.
    Disabled,
}

/// One IOMMU.
#[derive(Clone, Debug)]
pub struct IommuRow {
    /// Full path.
    pub path: String,
    /// Its driver's name.
    pub driver: Option<&'static str>,
    /// How it ended.
    pub state: IommuState,
    /// What its driver found when it took it over, with remedies.
    pub notes: Vec<UnitNote>,
}

/// One client.
#[derive(Clone, Debug)]
pub struct ClientRow {
    /// Paths of the IOMMUs in front of it.
    pub iommus: Vec<String>,
    /// Its stream ids.
    pub streams: Vec<u32>,
    /// Whether its DMA did what it should; `None` where it did none.
    pub dma_ok: Option<bool>,
    /// What the core says of it.
    pub report: DeviceReport,
}

/// One boot.
#[derive(Clone, Debug)]
pub struct BootReport {
    /// The board's name.
    pub board: String,
    /// The description's `model`.
    pub model: String,
    /// Threads that probed.
    pub cpus: usize,
    /// The seed.
    pub seed: u64,
    /// In the description's order.
    pub iommus: Vec<IommuRow>,
    /// Sorted by path.
    pub clients: Vec<ClientRow>,
    /// In the order of [`super::PROMISES`].
    pub promises: Vec<Verdict>,
    /// How often which kind of meeting was seen.
    pub races: Counts,
    /// From the first arrival to the last.
    pub elapsed: Duration,
}

impl BootReport {
    /// Whether every promise held.
    pub fn held(&self) -> bool {
        self.promises.iter().all(|verdict| verdict.broken == 0)
    }
}

impl ClientRow {
    /// `"translated"`, `"direct"` (also through an identity domain) or `"blocked"`.
    pub fn path_word(&self) -> &'static str {
        match self.report.reach {
            Reach::Translated => "translated",
            Reach::Direct | Reach::Identity => "direct",
            Reach::Blocked => "blocked",
            Reach::Unknown => "unknown",
        }
    }

    /// `"bound"`, `"deferred"` or `"blocked"`, and why.
    pub fn state(&self) -> (&'static str, Option<String>) {
        match &self.report.stage {
            DeviceStage::Bound => ("bound", None),
            DeviceStage::Waiting(_) => ("deferred", Some("its IOMMU is not there".to_string())),
            DeviceStage::Blocked(reason) => ("blocked", Some(reason.to_string())),
            DeviceStage::Failed(reason) => ("blocked", Some(reason.to_string())),
            DeviceStage::Described => ("blocked", Some("no driver asked for it".to_string())),
            DeviceStage::Gone => ("blocked", Some("it was removed".to_string())),
        }
    }

    /// One stable word for why it is not bound; `None` where it is. The sentence is [`state`](Self::state)'s.
    pub fn cause(&self) -> Option<&'static str> {
        Some(match &self.report.stage {
            DeviceStage::Bound => return None,
            DeviceStage::Waiting(_) => "iommu-absent",
            DeviceStage::Blocked(BlockedReason::Description(_)) => "description",
            DeviceStage::Blocked(BlockedReason::NodeFailed(..)) => "iommu-failed",
            DeviceStage::Blocked(BlockedReason::SetUp(error)) => match error {
                SetUpError::Ops(_, OpsError::OutOfStreams | OpsError::OutOfTags) => "iommu-full",
                SetUpError::RegionsConflict(..) => "regions-conflict",
                _ => "set-up",
            },
            DeviceStage::Blocked(_) => "group",
            DeviceStage::Failed(_) => "driver",
            DeviceStage::Described => "nobody-asked",
            DeviceStage::Gone => "gone",
        })
    }

    fn result(&self, style: Style) -> String {
        match (self.state(), self.dma_ok) {
            (("bound", _), Some(true)) => style.good("bound, DMA ok"),
            (("bound", _), None) => style.good("bound"),
            (("bound", _), Some(false)) => style.bad("bound, DMA FAILED"),
            ((word, reason), _) => {
                let unknown = self.report.reach == Reach::Unknown;
                let remedy = if unknown { "; P2 not given: clear its bus mastering" } else { "" };
                style.warn(&format!("{word}: {}{remedy}", reason.as_deref().unwrap_or("?")))
            }
        }
    }
}

/// The whole report. `verbose` adds the kinds of races and every failure.
pub fn render(report: &BootReport, verbose: bool, style: Style) -> String {
    let mut out = String::new();
    let title = format!("{} ({})", report.board, report.model);
    let _ = writeln!(out, "{}: {} CPUs, seed {}\n", style.strong(&title), report.cpus, report.seed);
    out += &iommu_table(report, style);
    out.push('\n');
    out += &client_table(report, style);
    out.push('\n');
    out += &promise_table(&report.promises, style);
    if verbose {
        out.push('\n');
        out += &race_lines(&report.races);
    }
    let _ = writeln!(out, "\n{}", closing_line(report, style));
    out
}

fn closing_line(report: &BootReport, style: Style) -> String {
    let count = |wanted: &str| {
        report
            .clients
            .iter()
            .filter(|row| row.state().0 == "bound" && row.path_word() == wanted)
            .count()
    };
    let (translated, direct) = (count("translated"), count("direct"));
    let shut = report.clients.len() - translated - direct;
    let verdict = if report.held() {
        style.good("every promise held")
    } else {
        style.bad("A PROMISE WAS BROKEN")
    };
    format!(
        "{} devices: {translated} translated, {direct} direct as described, {shut} blocked; {verdict}; {:.1} ms",
        report.clients.len(),
        report.elapsed.as_secs_f64() * 1000.0
    )
}

fn iommu_table(report: &BootReport, style: Style) -> String {
    let mut rows = vec![["IOMMU", "driver", "state"].map(|head| style.head(head)).to_vec()];
    for iommu in &report.iommus {
        let state = match &iommu.state {
            IommuState::Registered => style.good("registered"),
            IommuState::Failed(reason) => style.bad(&format!("failed: {reason}")),
            IommuState::NoDriver => style.warn("no driver"),
            IommuState::Disabled => style.quiet("disabled"),
        };
        rows.push(vec![iommu.path.clone(), iommu.driver.unwrap_or("-").to_string(), state]);
    }
    let mut out = table(&rows);
    for iommu in &report.iommus {
        for note in &iommu.notes {
            let _ = writeln!(out, "{}: {}", style.warn(&iommu.path), note.words);
        }
    }
    out
}

fn client_table(report: &BootReport, style: Style) -> String {
    let heads = ["device", "IOMMU", "streams", "group", "domain", "DMA path", "tries", "result"];
    let mut rows = vec![heads.map(|head| style.head(head)).to_vec()];
    for client in &report.clients {
        let core = &client.report;
        let last_part = |path: &String| path.rsplit('/').next().unwrap_or(path).to_string();
        let iommus: Vec<_> = client.iommus.iter().map(last_part).collect();
        rows.push(vec![
            core.path.clone(),
            or_dash(iommus.join(" ")),
            or_dash(stream_list(&client.streams)),
            core.group.map_or("-".to_string(), |group| group.to_string()),
            core.domain.map_or("-".to_string(), |domain| domain.to_string()),
            client.path_word().to_string(),
            (core.probes + core.defers).to_string(),
            client.result(style),
        ]);
    }
    table(&rows)
}

fn stream_list(streams: &[u32]) -> String {
    let shown: Vec<_> = streams.iter().take(4).map(|id| format!("{id:#x}")).collect();
    let more = streams.len().saturating_sub(shown.len());
    let tail = if more > 0 { format!(" +{more}") } else { String::new() };
    shown.join(" ") + &tail
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_string() } else { text }
}

fn promise_table(promises: &[Verdict], style: Style) -> String {
    let mut rows = vec![["promise", "checked", "held", ""].map(|head| style.head(head)).to_vec()];
    for verdict in promises {
        let held = match (verdict.broken, verdict.checked) {
            (0, 0) => style.quiet("not met"),
            (0, _) => style.good("yes"),
            (broken, _) => style.bad(&format!("NO, {broken} times")),
        };
        rows.push(vec![
            verdict.id.to_string(),
            verdict.checked.to_string(),
            held,
            verdict.words.to_string(),
        ]);
    }
    let mut out = table(&rows);
    for verdict in promises {
        for failure in &verdict.failures {
            let _ = writeln!(out, "  {} {failure}", style.bad(verdict.id));
        }
    }
    out
}

fn race_lines(races: &Counts) -> String {
    let width = KINDS.iter().map(|kind| kind.len()).max().unwrap_or(0);
    let lines =
        KINDS.iter().zip(races).map(|(kind, count)| format!("{kind:width$}  {count:>8} times\n"));
    lines.collect()
}

/// The summary of many boots.
pub fn render_summary(summary: &Summary, style: Style) -> String {
    let mut out = String::new();
    let interrupted = match summary.boots < summary.asked {
        true => format!(" ({} were asked for, interrupted)", summary.asked),
        false => String::new(),
    };
    let plural = if summary.boots == 1 { "" } else { "s" };
    let title = format!("{} boot{plural} of {}{interrupted}", summary.boots, summary.board);
    let _ = writeln!(
        out,
        "{}: {} CPUs, seeds {} to {}\n",
        style.strong(&title),
        summary.cpus,
        summary.first_seed,
        summary.first_seed + summary.boots.saturating_sub(1)
    );
    out += &race_lines(&summary.races);
    out.push('\n');
    out += &promise_table(&summary.promises, style);
    if let Some(seed) = summary.first_broken {
        let _ = writeln!(out, "\n{}", style.bad(&format!("first broken with --seed {seed}")));
    }
    let rate = summary.boots as f64 / summary.elapsed.as_secs_f64().max(1e-9);
    let _ = writeln!(out, "\n{:.1} s, {rate:.0} boots a second", summary.elapsed.as_secs_f64());
    out
}
