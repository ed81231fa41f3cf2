//! What a boot ended with, for people.

use super::promises::Verdict;
use super::races::{Counts, KINDS};
use super::repeat::Summary;
use crate::names::ShortNames;
use crate::screen::{Screen, count};
use crate::style::{Style, Tone};
use crate::table::{Cell, Table, wrap};
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

    fn result(&self) -> Cell {
        match (self.state(), self.dma_ok) {
            (("bound", _), Some(true)) => Cell::new(Tone::Good, "bound, DMA ok"),
            (("bound", _), None) => Cell::new(Tone::Good, "bound"),
            (("bound", _), Some(false)) => Cell::new(Tone::Bad, "bound, DMA FAILED"),
            ((word, reason), _) => {
                let unknown = self.report.reach == Reach::Unknown;
                let remedy = if unknown { "; P2 not given: clear its bus mastering" } else { "" };
                let reason = reason.as_deref().unwrap_or("?");
                Cell::new(Tone::Warn, format!("{word}: {reason}{remedy}"))
            }
        }
    }
}

/// The whole report. `verbose` adds the kinds of races and every failure.
pub fn render(report: &BootReport, verbose: bool, screen: Screen) -> String {
    let style = screen.style;
    let mut out = String::new();
    let title = format!("{} ({})", report.board, report.model);
    let (title, cpus) = (style.strong(&title), count(report.cpus, "CPU"));
    let title = format!("{title}: {cpus}, seed {}", report.seed);
    let _ = writeln!(out, "{}\n", wrap(&title, screen.prose_width(), 0));
    out += &iommu_table(report, screen);
    out.push('\n');
    out += &client_table(report, screen);
    out.push('\n');
    out += &promise_table(&report.promises, screen);
    if verbose {
        out.push('\n');
        out += &race_table(&report.races, screen);
    }
    let closing = wrap(&closing_line(report, style), screen.prose_width(), 0);
    let _ = writeln!(out, "\n{closing}");
    out
}

fn closing_line(report: &BootReport, style: Style) -> String {
    let bound = |wanted: &str| {
        report
            .clients
            .iter()
            .filter(|row| row.state().0 == "bound" && row.path_word() == wanted)
            .count()
    };
    let (translated, direct) = (bound("translated"), bound("direct"));
    let shut = report.clients.len() - translated - direct;
    let verdict = if report.held() {
        style.good("every promise held")
    } else {
        style.bad("A PROMISE WAS BROKEN")
    };
    format!(
        "{}: {translated} translated, {direct} direct as described, {shut} blocked; {verdict}; booted in {:.1} ms",
        count(report.clients.len(), "device"),
        report.elapsed.as_secs_f64() * 1000.0
    )
}

fn iommu_table(report: &BootReport, screen: Screen) -> String {
    let mut table = Table::new(["IOMMU", "driver", "state"]);
    for iommu in &report.iommus {
        let state = match &iommu.state {
            IommuState::Registered => Cell::new(Tone::Good, "registered"),
            IommuState::Failed(reason) => Cell::new(Tone::Bad, format!("failed: {reason}")),
            IommuState::NoDriver => Cell::new(Tone::Warn, "no driver"),
            IommuState::Disabled => Cell::new(Tone::Quiet, "disabled"),
        };
        table.row([iommu.path.as_str().into(), iommu.driver.unwrap_or("-").into(), state]);
    }
    let mut out = table.render(screen);
    for iommu in &report.iommus {
        for note in &iommu.notes {
            let text = format!("{}: {}", screen.style.warn(&iommu.path), note.words);
            let _ = writeln!(out, "{}", wrap(&text, screen.prose_width(), 4));
        }
    }
    out
}

fn client_table(report: &BootReport, screen: Screen) -> String {
    let heads = ["device", "IOMMU", "streams", "group", "domain", "DMA path", "tries", "result"];
    let mut table = Table::new(heads);
    let names = ShortNames::new(report.iommus.iter().map(|iommu| iommu.path.as_str()));
    for client in &report.clients {
        let core = &client.report;
        let iommus: Vec<_> = client.iommus.iter().map(|path| names.of(path)).collect();
        table.row([
            core.path.as_str().into(),
            or_dash(iommus.join(" ")).into(),
            or_dash(stream_list(&client.streams)).into(),
            core.group.map_or("-".to_string(), |group| group.to_string()).into(),
            core.domain.map_or("-".to_string(), |domain| domain.to_string()).into(),
            client.path_word().into(),
            (core.probes + core.defers).to_string().into(),
            client.result(),
        ]);
    }
    table.render(screen)
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

fn promise_table(promises: &[Verdict], screen: Screen) -> String {
    let mut table = Table::new(["promise", "checked", "held", ""]);
    for verdict in promises {
        let held = match (verdict.broken, verdict.checked) {
            (0, 0) => Cell::new(Tone::Quiet, "not met"),
            (0, _) => Cell::new(Tone::Good, "yes"),
            (broken, _) => Cell::new(Tone::Bad, format!("NO, {}", count(broken as usize, "time"))),
        };
        table.row([
            verdict.id.into(),
            verdict.checked.to_string().into(),
            held,
            verdict.words.into(),
        ]);
    }
    let mut out = table.render(screen);
    for verdict in promises {
        for failure in &verdict.failures {
            let text = format!("{} {failure}", screen.style.bad(verdict.id));
            let _ = writeln!(out, "  {}", wrap(&text, screen.prose_width() - 2, 5));
        }
    }
    out
}

fn race_table(races: &Counts, screen: Screen) -> String {
    let mut table = Table::bare(0);
    for (kind, times) in KINDS.iter().zip(races) {
        table.row([(*kind).into(), count(*times as usize, "time").into()]);
    }
    table.render(screen)
}

/// The summary of many boots.
pub fn render_summary(summary: &Summary, screen: Screen) -> String {
    let style = screen.style;
    let mut out = String::new();
    let interrupted = match summary.boots < summary.asked {
        true => format!(" ({} were asked for, interrupted)", summary.asked),
        false => String::new(),
    };
    let title =
        format!("{} of {}{interrupted}", count(summary.boots as usize, "boot"), summary.board);
    let (title, cpus) = (style.strong(&title), count(summary.cpus, "CPU"));
    let last = summary.first_seed + summary.boots.saturating_sub(1);
    let title = format!("{title}: {cpus}, seeds {} to {last}", summary.first_seed);
    let _ = writeln!(out, "{}\n", wrap(&title, screen.prose_width(), 0));
    out += &race_table(&summary.races, screen);
    out.push('\n');
    out += &promise_table(&summary.promises, screen);
    if let Some(seed) = summary.first_broken {
        let _ = writeln!(out, "\n{}", style.bad(&format!("first broken with --seed {seed}")));
    }
    let seconds = summary.elapsed.as_secs_f64();
    let rate = (summary.boots as f64 / seconds.max(1e-9)).round() as usize;
    let _ = writeln!(out, "\n{seconds:.1} s, {} a second", count(rate, "boot"));
    out
}
