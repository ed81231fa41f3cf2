//! The `portcullis` command. See `portcullis --help`.

mod args;
mod completions;
mod man;

use args::{Args, BenchCommand, BootArgs, BootCommand, Command, On, QemuMachineName, ShowArgs};
use clap::{CommandFactory, Parser};
use portcullis_bench::report;
use portcullis_cli::bench::{self, probe};
use portcullis_cli::boot::{self, BootOptions, BootReport};
use portcullis_cli::lab::{self, Answer, LabArgs};
use portcullis_cli::progress::Ticker;
use portcullis_cli::replay;
use portcullis_cli::screen::Screen;
use portcullis_cli::show::Gate;
use portcullis_cli::{board, interrupt, page, show};
use portcullis_firmware::MachineDescription;
use portcullis_testbed::{QemuMachine, SoftwareMachine, acpi_tables};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A promise is violated or a finding stands.
const VIOLATED: u8 = 1;
/// The command line, or a file that it names, cannot be used.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    let built_in = BootCommand { board: None, options: args.boot };
    let command = args.command.unwrap_or(Command::Boot(built_in));
    let outcome = match command {
        Command::Boot(BootCommand { board, options }) => run_boot(board.as_deref(), &options),
        Command::Show(args) => run_show(&args),
        Command::Lab(args) => run_lab(&args),
        Command::Replay(args) => replay::run(&args).and_then(answered),
        Command::Bench(args) => {
            let measured = bench::run(|out| match args.what {
                BenchCommand::Map(args) => report::map(args.into(), out),
                BenchCommand::Iova(args) => report::iova(args.into(), out),
                BenchCommand::Dma(args) => report::dma(args.into(), out),
                BenchCommand::Queue(args) => report::queue(args.into(), out),
                BenchCommand::Probe(args) => probe::run(&args.into(), out),
            });
            measured.map(|()| ExitCode::SUCCESS)
        }
        Command::Schema { document } => print(document.schema()).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            print_bytes(&completions::script(Args::command(), shell)).map(|()| ExitCode::SUCCESS)
        }
        Command::Man { verb, all } => run_man(&verb, all.as_deref()),
    };
    outcome.unwrap_or_else(|message| {
        eprintln!("portcullis: {message}");
        ExitCode::from(USAGE)
    })
}

fn run_boot(board: Option<&Path>, args: &BootArgs) -> Result<ExitCode, String> {
    let options = BootOptions {
        cpus: args.cpus(),
        seed: args.seed,
        order: args.order,
        storm: args.repeat.is_some(),
        firmware_streams: args.firmware_streams,
    };
    let screen = Screen::of_stdout();
    if args.on == On::Qemu {
        return boot_on_qemu(board, args, options, screen);
    }
    if let Some(option) = args.misplaced(false) {
        return Err(format!("{option} is for QEMU's boards: add --on qemu"));
    }
    let description =
        described(board, &args.overlay, args.pci.as_deref(), &args.deny, &args.allow)?;
    let held = match args.repeat {
        Some(count) => {
            let mut ticker = Ticker::new();
            let stop = interrupt::flag();
            let summary = boot::repeat(&description, options, count, &stop, |done| {
                ticker.say(|passed| boot::progress(done, count, passed));
            });
            drop(ticker);
            let text = match args.json {
                true => boot::summary_to_json(&summary) + "\n",
                false => boot::render_summary(&summary, screen),
            };
            print(&text)?;
            summary.held()
        }
        None => {
            let machine = SoftwareMachine::new(&description, args.seed);
            let machine = args.firmware_streams.apply(machine, &description);
            let picture = boot::calm_picture(&description);
            let (report, _) = boot::boot(&description, &machine, options, Some(&picture));
            print_report(args, &report, screen)?;
            report.held()
        }
    };
    Ok(verdict(held && !Gate::fails(&description)))
}

fn boot_on_qemu(
    board: Option<&Path>,
    args: &BootArgs,
    options: BootOptions,
    screen: Screen,
) -> Result<ExitCode, String> {
    if let Some(what) = board.map(|_| "BOARD").or_else(|| args.misplaced(true)) {
        return Err(format!("--on qemu boots QEMU's own board, once: leave {what} out"));
    }
    let name = args.machine.unwrap_or(QemuMachineName::ArmVirt);
    let (calm, description) = QemuMachine::start(name.board())?;
    if let Some(folder) = &args.save_tables {
        let fw_cfg = calm.machine().fw_cfg().map_err(|error| error.to_string())?;
        board::save_tables(&acpi_tables(&fw_cfg)?, folder)?;
    }
    let (_, picture) = boot::boot(&description, &calm, BootOptions::CALM, None);
    let (machine, description) = QemuMachine::start(name.board())?;
    let (report, _) = boot::boot(&description, &machine, options, Some(&picture));
    print_report(args, &report, screen)?;
    Ok(verdict(report.held()))
}

fn print_report(args: &BootArgs, report: &BootReport, screen: Screen) -> Result<(), String> {
    print(&match args.json {
        true => boot::to_json(report) + "\n",
        false => boot::render(report, args.verbose, screen),
    })
}

fn verdict(held: bool) -> ExitCode {
    if held { ExitCode::SUCCESS } else { ExitCode::from(VIOLATED) }
}

fn run_show(args: &ShowArgs) -> Result<ExitCode, String> {
    let screen = Screen::of_stdout();
    if args.rules {
        let text = match args.json {
            true => show::rules_to_json() + "\n",
            false => show::render_rules(screen),
        };
        return print(&text).map(|()| ExitCode::SUCCESS);
    }
    let description = described(
        args.board.as_deref(),
        &args.overlay,
        args.pci.as_deref(),
        &args.deny,
        &args.allow,
    )?;
    if let Some(other) = &args.other {
        let other = described(Some(other), &args.overlay, None, &args.deny, &args.allow)?;
        let difference = show::Difference::between(&description, &other);
        print(&match args.json {
            true => difference.to_json() + "\n",
            false => difference.render(screen),
        })?;
        return Ok(verdict(difference.is_empty()));
    }
    if let Some(file) = &args.html {
        page::write(file, &show::render_html(&description))?;
    }
    let text = match args.json {
        true => show::to_json(&description) + "\n",
        false => show::render_human(&description, screen, args.view()),
    };
    print(&text)?;
    Ok(verdict(!Gate::fails(&description)))
}

/// The board that the command line names, its findings as `--deny` and `--allow` have them.
fn described(
    board: Option<&Path>,
    overlays: &[PathBuf],
    pci: Option<&Path>,
    deny: &[String],
    allow: &[String],
) -> Result<MachineDescription, String> {
    let gate = Gate::new(deny, allow)?;
    let mut description = board::read(board, overlays, pci)?;
    gate.apply(&mut description);
    Ok(description)
}

fn run_lab(args: &LabArgs) -> Result<ExitCode, String> {
    lab::run(args).and_then(answered)
}

fn answered(answer: Answer) -> Result<ExitCode, String> {
    print(&answer.text)?;
    Ok(verdict(answer.held))
}

fn run_man(verb: &[String], all: Option<&Path>) -> Result<ExitCode, String> {
    match all {
        Some(folder) => {
            let pages = man::write_all(Args::command(), folder)?;
            print(&format!("{pages} pages in {}\n", folder.display()))?;
        }
        None => print_bytes(&man::page(Args::command(), verb)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print(text: &str) -> Result<(), String> {
    print_bytes(text.as_bytes())
}

/// Prints; a reader who has gone (a closed pipe) is no error.
fn print_bytes(bytes: &[u8]) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}
