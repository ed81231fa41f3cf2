//! `portcullis replay`: force a schedule on a stock kernel, and say what happened.

mod survey;

use crate::known::Known;
use crate::lab::Answer;
use crate::page;
use crate::screen::Screen;
use crate::style::{Style, Tone};
use crate::table::{Cell, Table};
use clap::Args;
use portcullis_qemu::Installation;
use portcullis_replay::board::{BOARDS, Board};
use portcullis_replay::package::{Cache, Deb, Kernel, Mirror, fetch_qemu, find_qemu};
use portcullis_replay::plan::NAMED;
use portcullis_replay::report::{self, Paint, Report};
use portcullis_replay::{DmaIommuLayout, Fix, Options, Replay, Schedule};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "Examples:
  portcullis replay --list
  portcullis replay --fetch-qemu --fetch 6.1 --board nvme-two --schedule seed
  portcullis replay --fetch 6.12 --schedule unbound --html unbound.html
  portcullis replay --kernel linux-image.deb --schedule linux2:v6.12/...
Exit status: 0 when the kernel did what the lab predicts; 1 when it did
something else; 2 when the replay could not be done.";

/// Options of `replay`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ReplayArgs {
    /// A kernel: its package or packages (.deb), or an Image.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "fetch")]
    pub kernel: Vec<PathBuf>,
    /// The folder with the modules of an Image.
    #[arg(long, value_name = "FOLDER", requires = "kernel")]
    pub modules: Option<PathBuf>,
    /// Get Debian's newest arm64 kernel of this version (6.12, or 6.12.43) from the system's mirror.
    #[arg(long, value_name = "VERSION", num_args = 1..)]
    pub fetch: Vec<String>,
    /// A statically linked busybox for arm64; fetched like a kernel when left out.
    #[arg(long, value_name = "FILE")]
    pub busybox: Option<PathBuf>,
    /// Get Debian's QEMU 11 with its libraries into the cache, beside the system; boards with two SMMUs need it. Once fetched it is used by every replay.
    #[arg(long)]
    pub fetch_qemu: bool,
    /// A schedule's name, or a schedule as `lab check` prints it.
    #[arg(long, required_unless_present_any = ["list", "survey", "fetch_qemu", "layout"], value_parser = Known::<String>::new(schedules), hide_possible_values = true)]
    pub schedule: Option<String>,
    /// The machine; the one that fits the schedule when left out.
    #[arg(long, value_parser = Known::<String>::new(boards), hide_possible_values = true)]
    pub board: Option<String>,
    /// Take a fix's effect away by altering one register while the kernel runs. It is no longer the stock kernel then.
    #[arg(long, value_name = "COMMIT")]
    pub ablate: Option<String>,
    /// Let the kernel choose its address.
    #[arg(long)]
    pub kaslr: bool,
    /// Replay N times, and count the outcomes.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// Run every schedule with a name on the kernels of --fetch, --repeat times each, and print a table in Markdown.
    #[arg(long, requires = "fetch", conflicts_with_all = ["schedule", "board", "ablate", "kaslr", "html", "json"])]
    pub survey: bool,
    /// Print where the kernel keeps dma_iommu, and which other fields share its byte, from its BTF. Exit status 1 if the lab's protocol has it otherwise.
    #[arg(long, conflicts_with_all = ["schedule", "survey"])]
    pub layout: bool,
    /// List boards and schedules.
    #[arg(long)]
    pub list: bool,
    /// Write a page that stands alone.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

fn boards() -> Vec<String> {
    BOARDS.iter().map(|board| board.name.to_owned()).collect()
}

fn schedules() -> Vec<String> {
    NAMED.iter().map(|named| named.name.to_owned()).collect()
}

/// Runs `replay`.
///
/// # Errors
/// What keeps it from being done.
pub fn run(args: &ReplayArgs) -> Result<Answer, String> {
    let screen = Screen::of_stdout();
    if args.list {
        return Ok(Answer { text: list(screen), held: true });
    }
    // Before anything is fetched or booted.
    let ablate = args.ablate.as_deref().map(Fix::find).transpose().map_err(said)?;
    let mut sources = Sources::of_user()?;
    if args.layout {
        return layout(args, &mut sources);
    }
    let qemu = sources.qemu(args.fetch_qemu)?;
    if args.survey {
        let held = survey::run(&mut sources, &qemu, &args.fetch, args.repeat)?;
        return Ok(Answer { text: String::new(), held });
    }
    if args.schedule.is_none() && args.fetch_qemu {
        let text = format!("QEMU {}: {}\n", qemu.version(), qemu.program().display());
        return Ok(Answer { text, held: true });
    }
    let schedule = args.schedule.as_deref().ok_or("give --schedule")?;
    let schedule = Schedule::parse(schedule).map_err(said)?;
    let board = match &args.board {
        Some(name) => Board::find(name),
        None => schedule.board(),
    };
    let board = board.map_err(said)?;
    board.supported_by(&qemu).map_err(said)?;
    let busybox = sources.busybox(args.busybox.as_deref())?;
    let version = args.fetch.last().map(String::as_str);
    let kernel = sources.kernel(&args.kernel, args.modules.as_deref(), version)?;
    let options = Options { kaslr: args.kaslr, ablate };
    let replay =
        Replay { qemu: &qemu, kernel: &kernel, busybox: &busybox, board, schedule, options };
    let mut reports = Vec::new();
    for _ in 0..args.repeat {
        reports.push(replay.run().map_err(said)?);
    }
    if let (Some(path), Some(report)) = (&args.html, reports.last()) {
        page::write(path, &report::page(report))?;
    }
    Ok(Answer {
        text: text(&reports, args, screen.style),
        held: reports.iter().all(Report::agrees),
    })
}

/// Where each kernel that is named keeps `dma_iommu`.
fn layout(args: &ReplayArgs, sources: &mut Sources) -> Result<Answer, String> {
    let versions = args.fetch.iter().map(|version| Some(version.as_str()));
    let wanted: Vec<Option<&str>> =
        if args.fetch.is_empty() { vec![None] } else { versions.collect() };
    let mut answer = Answer { text: String::new(), held: true };
    for version in wanted {
        let kernel = sources.kernel(&args.kernel, args.modules.as_deref(), version)?;
        let layout = DmaIommuLayout::of(&kernel).map_err(said)?;
        answer.text += &format!("Linux {}: {layout}", kernel.name);
        answer.held &= layout.differences().is_empty();
    }
    Ok(answer)
}

fn said(error: portcullis_replay::Error) -> String {
    error.to_string()
}

/// Where kernels come from.
pub(crate) struct Sources {
    cache: Cache,
    mirror: Option<Mirror>,
}

impl Sources {
    /// The user's cache, and the system's mirror once something is asked of it.
    pub(crate) fn of_user() -> Result<Self, String> {
        Ok(Self { cache: Cache::of_user().map_err(said)?, mirror: None })
    }

    /// The QEMU for replays, fetched first where that is wanted.
    pub(crate) fn qemu(&self, fetch: bool) -> Result<Installation, String> {
        if fetch { fetch_qemu(&self.cache) } else { find_qemu(&self.cache) }.map_err(said)
    }

    /// The kernels that are in the cache.
    pub(crate) fn cached(&self) -> Result<Vec<Kernel>, String> {
        self.cache.kernels().map_err(said)
    }

    /// A kernel from files, or of a version from the mirror.
    pub(crate) fn kernel(
        &mut self,
        files: &[PathBuf],
        modules: Option<&Path>,
        version: Option<&str>,
    ) -> Result<Kernel, String> {
        let fetched = match version {
            Some(version) => self.mirror()?.kernel(version).map_err(said)?,
            None if files.is_empty() => {
                return Err("give a kernel: --kernel FILE or --fetch VERSION".into());
            }
            None => files.to_vec(),
        };
        Kernel::open(&fetched, modules, &self.cache).map_err(said)
    }

    fn mirror(&mut self) -> Result<&Mirror, String> {
        if self.mirror.is_none() {
            self.mirror = Some(Mirror::of_system(&self.cache).map_err(said)?);
        }
        self.mirror.as_ref().ok_or_else(|| "no mirror".into())
    }

    pub(crate) fn busybox(&mut self, file: Option<&Path>) -> Result<Vec<u8>, String> {
        if let Some(file) = file {
            return std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()));
        }
        let package = match self.cache.package(Mirror::BUSYBOX).map_err(said)? {
            Some(package) => package,
            None => self.mirror()?.busybox().map_err(said)?,
        };
        let mut found = Vec::new();
        let take = |_: &str, bytes| {
            found = bytes;
            Ok(())
        };
        Deb::new(&package).each(|path| path.ends_with("bin/busybox"), take).map_err(said)?;
        if found.is_empty() {
            Err(format!("{}: no busybox in it", package.display()))
        } else {
            Ok(found)
        }
    }
}

fn list(screen: Screen) -> String {
    let (mut boards, mut schedules) = (Table::bare(2), Table::bare(2));
    let row = |name: &str, summary: &str| [Cell::new(Tone::Strong, name), summary.into()];
    BOARDS.iter().for_each(|board| boards.row(row(board.name, board.summary)));
    NAMED.iter().for_each(|named| schedules.row(row(named.name, named.summary)));
    format!("boards\n{}schedules\n{}", boards.render(screen), schedules.render(screen))
}

fn text(reports: &[Report], args: &ReplayArgs, style: Style) -> String {
    if args.json {
        let all: Vec<String> = reports.iter().map(Report::to_json).collect();
        return match &all[..] {
            [one] => format!("{one}\n"),
            many => format!("[{}]\n", many.join(",\n")),
        };
    }
    let paint = Paint {
        strong: &|text| style.strong(text),
        good: &|text| style.good(text),
        bad: &|text| style.bad(text),
        quiet: &|text| style.quiet(text),
    };
    let mut out = reports.last().map(|report| report::render(report, paint)).unwrap_or_default();
    if reports.len() > 1 {
        out += "\n";
        let mut answers: Vec<(String, usize)> = Vec::new();
        for answer in reports.iter().map(Report::answer) {
            match answers.iter_mut().find(|(known, _)| *known == answer) {
                Some((_, times)) => *times += 1,
                None => answers.push((answer, 1)),
            }
        }
        for (answer, times) in answers {
            out += &format!("{times} of {}: {answer}\n", reports.len());
        }
    }
    out
}
