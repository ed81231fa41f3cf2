//! The command line.

use clap::{CommandFactory, Parser, Subcommand};
use portcullis_bench::report::Effort;
use portcullis_cli::bench::probe::ProbeBench;
use portcullis_cli::boot::{FirmwarePolicy, Order};
use portcullis_cli::known::{Known, rules};
use portcullis_cli::lab::LabArgs;
use portcullis_cli::replay::ReplayArgs;
use portcullis_cli::schema::Document;
use portcullis_cli::show::View;
use std::path::PathBuf;

/// Bring a machine's IOMMUs and the devices behind them up, and show that no driver ran ahead of its IOMMU.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, about, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// What to do; `boot` on the built-in board when left out.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Options of `boot`, for when no verb is given.
    #[command(flatten)]
    pub(crate) boot: BootArgs,
}

const EXAMPLES: &str = "Examples:
  portcullis                                  boot the built-in board
  portcullis boot board.dtb --order reverse   clients first, IOMMUs last
  portcullis boot --repeat 10000              each boot with its own seed
  portcullis show board.dtb                   who is behind which IOMMU?
  portcullis show /proc/device-tree --tree    this machine, as a tree
  portcullis show /sys/firmware/acpi/tables   this machine, by ACPI
  portcullis show board.dtb --overlay x.dtbo --deny warnings
  portcullis show old.dtb new.dtb             what changed?
  portcullis lab check v6.6                   is Linux 6.6 affected?
  portcullis replay --fetch 6.1 --schedule seed --board nvme-two
                                              does a stock kernel do it?
Exit status: 0; 1 when a promise was violated or an error was found; 2 for a
wrong command line or file.";

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring a machine up, do real DMA through its IOMMUs, and print how every device ended.
    Boot(BootCommand),
    /// Print who is behind which IOMMU, with which ids, in which group, and what is wrong with the description.
    Show(ShowArgs),
    /// Explore every interleaving of Linux's probe protocol, and of the core that is shipped here.
    Lab(LabArgs),
    /// Force a schedule on a stock Linux kernel in QEMU, and say whether it occurred, was prevented and by what, or cannot happen.
    Replay(Box<ReplayArgs>),
    /// Measure page tables, addresses, map and unmap, the command queue and probing.
    Bench(BenchArgs),
    /// Print the JSON Schema of a document that `--json` prints.
    Schema {
        /// Which document.
        document: Document,
    },
    /// Print a completion script for a shell. Those for bash, zsh and fish also know versions, commits, worlds and rules.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print a manual page (troff): `portcullis man lab check | man -l -`.
    Man {
        /// Whose page, such as `lab check`; the command's own when left out.
        #[arg(value_parser = Known::<String>::new(verbs), hide_possible_values = true)]
        verb: Vec<String>,
        /// Write every page into this folder instead, such as ~/.local/share/man/man1.
        #[arg(long, value_name = "DIR", conflicts_with = "verb")]
        all: Option<PathBuf>,
    },
}

/// What `boot` takes. Without the verb there is no board to name: a word there is a verb, perhaps a mistyped one.
#[derive(Debug, clap::Args)]
pub(crate) struct BootCommand {
    /// A board in any form that `show` takes; the built-in one when left out.
    pub(crate) board: Option<PathBuf>,
    /// The options.
    #[command(flatten)]
    pub(crate) options: BootArgs,
}

/// Options of `boot`.
#[derive(Debug, clap::Args)]
pub(crate) struct BootArgs {
    /// Apply this overlay (.dtbo) on top; may be given several times, they are applied in order.
    #[arg(long, value_name = "DTBO")]
    pub(crate) overlay: Vec<PathBuf>,
    /// The output of `lspci -D -xxxx`, run as root on that machine (also gzip'd): its PCI functions, with their requester ids and groups, replace those in the description.
    #[arg(long, value_name = "FILE")]
    pub(crate) pci: Option<PathBuf>,
    /// Treat findings of this rule as errors, as `show` does.
    #[arg(long, value_name = "RULE", value_parser = Known::<String>::new(rules), hide_possible_values = true)]
    pub(crate) deny: Vec<String>,
    /// Treat findings of this rule as notes, as `show` does.
    #[arg(long, value_name = "RULE", value_parser = Known::<String>::new(rules), hide_possible_values = true)]
    pub(crate) allow: Vec<String>,
    /// Threads that probe [default: one per CPU of this machine, at least 2].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    cpus: Option<u16>,
    /// Seed of everything that is drawn at random.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The order in which IOMMUs and devices appear.
    #[arg(long, value_enum, default_value_t = Order::Random)]
    pub(crate) order: Order,
    /// What to do with streams that firmware left running at an SMMUv2: those of clients with a region that must stay mapped 1:1, such as a boot framebuffer.
    #[arg(long, value_enum, default_value_t = FirmwarePolicy::Block)]
    pub(crate) firmware_streams: FirmwarePolicy,
    /// Boot N times, each with its own seed, and print a summary.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) repeat: Option<u64>,
    /// What to boot on. QEMU brings its own board, described by the devicetree or the ACPI tables that it generates.
    #[arg(long, value_enum, default_value_t = On::Software)]
    pub(crate) on: On,
    /// With --on qemu: which of QEMU's boards; `arm-virt` when left out.
    #[arg(long, value_enum)]
    pub(crate) machine: Option<QemuMachineName>,
    /// With --on qemu: write the ACPI tables that QEMU hands to this board's firmware into a folder, in the form that `show` reads.
    #[arg(long, value_name = "DIR")]
    pub(crate) save_tables: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Also print which races were met.
    #[arg(long)]
    pub(crate) verbose: bool,
}

/// Platforms of `boot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum On {
    /// The software machine: IOMMU models at register level, which report every misuse.
    Software,
    /// QEMU's own IOMMU and devices, without a guest.
    Qemu,
}

/// QEMU's boards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum QemuMachineName {
    /// Arm's `virt` with an SMMUv3, described by its devicetree.
    ArmVirt,
    /// The same, described by its ACPI tables.
    ArmVirtAcpi,
    /// RISC-V's `virt` with `iommu-sys=on`, described by its devicetree.
    Riscv,
    /// The same, described by its ACPI tables: QEMU 10.1 or later.
    RiscvAcpi,
    /// Arm's `virt` with a virtio-iommu (`virtio-iommu-pci`), described by its ACPI tables.
    Virtio,
    /// The PC `q35` with Intel's VT-d, described by its ACPI tables.
    Q35Vtd,
    /// The PC `q35` with `amd-iommu`, described by its ACPI tables.
    Q35Amd,
}

impl QemuMachineName {
    /// The board.
    pub(crate) fn board(self) -> portcullis_testbed::QemuBoard {
        match self {
            Self::ArmVirt => portcullis_testbed::QemuBoard::Arm,
            Self::ArmVirtAcpi => portcullis_testbed::QemuBoard::ArmAcpi,
            Self::Riscv => portcullis_testbed::QemuBoard::Riscv,
            Self::RiscvAcpi => portcullis_testbed::QemuBoard::RiscvAcpi,
            Self::Virtio => portcullis_testbed::QemuBoard::Virtio,
            Self::Q35Vtd => portcullis_testbed::QemuBoard::Q35Vtd,
            Self::Q35Amd => portcullis_testbed::QemuBoard::Q35Amd,
        }
    }
}

/// Verbs that have a manual page.
fn verbs() -> Vec<String> {
    let mut root = Args::command().disable_help_subcommand(true);
    root.build();
    let own = root.get_subcommands().map(clap::Command::get_name);
    let below = root.get_subcommands().flat_map(clap::Command::get_subcommands);
    own.chain(below.map(clap::Command::get_name)).map(str::to_owned).collect()
}

impl BootArgs {
    /// The first option that the command line gives and that means nothing without (`qemu`: with) QEMU.
    pub(crate) fn misplaced(&self, qemu: bool) -> Option<&'static str> {
        let with_qemu_only =
            [(self.machine.is_some(), "--machine"), (self.save_tables.is_some(), "--save-tables")];
        let without_only = [
            (!self.overlay.is_empty(), "--overlay"),
            (self.pci.is_some(), "--pci"),
            (!self.deny.is_empty(), "--deny"),
            (!self.allow.is_empty(), "--allow"),
            (self.firmware_streams != FirmwarePolicy::Block, "--firmware-streams"),
            (self.repeat.is_some(), "--repeat"),
        ];
        let mut given =
            if qemu { without_only.to_vec() } else { with_qemu_only.to_vec() }.into_iter();
        given.find_map(|(given, name)| given.then_some(name))
    }

    /// Threads to use.
    pub(crate) fn cpus(&self) -> usize {
        let machine = || std::thread::available_parallelism().map_or(2, usize::from).max(2);
        self.cpus.map_or_else(machine, usize::from)
    }
}

/// Options of `show`.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// A flattened devicetree (also gzip'd), an ACPI table, the text that acpidump prints, `-` for any of these on standard input, or a
    /// directory like /proc/device-tree or /sys/firmware/acpi/tables.
    #[arg(required_unless_present = "rules")]
    pub(crate) board: Option<PathBuf>,
    /// A second board, in any of these forms: print what changed from the first one to this one. Exit status 1 if anything did.
    #[arg(value_name = "OTHER", conflicts_with_all = ["tree", "html", "rules"])]
    pub(crate) other: Option<PathBuf>,
    /// Apply this overlay (.dtbo) on top; may be given several times, they are applied in order.
    #[arg(long, value_name = "DTBO")]
    pub(crate) overlay: Vec<PathBuf>,
    /// The output of `lspci -D -xxxx`, run as root on that machine (also gzip'd): its PCI functions, with their requester ids and groups, replace those in the description.
    #[arg(long, value_name = "FILE", conflicts_with = "other")]
    pub(crate) pci: Option<PathBuf>,
    /// Print a tree: each IOMMU, and below it what is behind it.
    #[arg(long, conflicts_with = "json")]
    tree: bool,
    /// Also list the devices that name no IOMMU and, by a property or by their name, do DMA.
    #[arg(long, conflicts_with_all = ["json", "other"])]
    direct: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Also write a page with a picture of each IOMMU.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// List the rules of the findings, each with an example and what Linux does.
    #[arg(long, conflicts_with_all = ["tree", "html", "overlay", "pci", "board"])]
    pub(crate) rules: bool,
    /// Treat findings of this rule (or `warnings`, or `notes`) as errors: exit status 1.
    #[arg(long, value_name = "RULE", value_parser = Known::<String>::new(rules), hide_possible_values = true)]
    pub(crate) deny: Vec<String>,
    /// Treat findings of this rule (or `errors`, or `warnings`) as notes.
    #[arg(long, value_name = "RULE", value_parser = Known::<String>::new(rules), hide_possible_values = true)]
    pub(crate) allow: Vec<String>,
}

impl ShowArgs {
    /// What the page for people has.
    pub(crate) fn view(&self) -> View {
        View { tree: self.tree, direct: self.direct }
    }
}

/// Options of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) what: BenchCommand,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Page tables: map, unmap and look up, each compared with a bare walk and store, and two threads on one table.
    Map(EffortArgs),
    /// I/O addresses: an allocation and its release, with and without fragmentation.
    Iova(EffortArgs),
    /// Map and unmap as a whole, strict, through the core and the SMMUv3 driver.
    Dma(EffortArgs),
    /// The SMMUv3 command queue: invalidations, one thread and two.
    Queue(EffortArgs),
    /// Probing: cost per device, deferrals, and the gain from a second thread.
    Probe(ProbeArgs),
}

/// Options of the benchmarks of the data path.
#[derive(Debug, clap::Args)]
pub(crate) struct EffortArgs {
    /// Rounds; the best one counts.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Calls of a workload, at most.
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
}

impl From<EffortArgs> for Effort {
    fn from(args: EffortArgs) -> Self {
        Self { rounds: args.rounds as usize, most_calls: args.calls as usize }
    }
}

/// Options of `bench probe`.
#[derive(Debug, clap::Args)]
pub(crate) struct ProbeArgs {
    /// Clients, at most.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Rounds; the best one counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

impl From<ProbeArgs> for ProbeBench {
    fn from(args: ProbeArgs) -> Self {
        Self { most_clients: args.clients as usize, rounds: args.rounds as usize }
    }
}
