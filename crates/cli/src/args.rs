//! The command line.

use clap::{Parser, Subcommand};
use portcullis_bench::report::Effort;
use portcullis_cli::bench::probe::ProbeBench;
use portcullis_cli::boot::{FirmwarePolicy, Order};
use portcullis_cli::lab::LabArgs;
use portcullis_cli::replay::ReplayArgs;
use portcullis_cli::schema::Document;
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
  portcullis boot board.dtb --firmware-streams adopt   keep the boot picture until the display's driver binds
  portcullis boot --repeat 10000              ten thousand boots, each with its own seed
  portcullis show board.dtb                   who is behind which IOMMU, and what is wrong
  portcullis show /proc/device-tree --tree    the machine that this runs on, as a tree
  portcullis show board.dtb --overlay x.dtbo --deny warnings
  portcullis show old.dtb new.dtb             what changed from one to the other
  portcullis show /sys/firmware/acpi/tables   the same from ACPI: DMAR, IVRS, IORT, RIMT, VIOT, MCFG
  portcullis lab check v6.6                   is Linux 6.6 affected, by which schedule, and what closes it?
  portcullis replay --fetch 6.1 --schedule seed --board nvme-two   does that schedule happen on a stock kernel?
Exit status: 0, 1 when a promise was violated or a finding stands, 2 for a wrong command line or file.";

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring a machine up, do real DMA through its IOMMUs, print what every device ended with.
    Boot(BootCommand),
    /// Who is behind which IOMMU, with which ids, in which group; and findings about the description.
    Show(ShowArgs),
    /// Explore every interleaving of the probe protocols: Linux's, and our own.
    Lab(LabArgs),
    /// Force a schedule on a stock Linux kernel in QEMU, and say whether it occurred, was prevented and by what, or cannot happen.
    Replay(Box<ReplayArgs>),
    /// Measure.
    Bench(BenchArgs),
    /// Print the JSON Schema of what a verb prints with `--json`.
    Schema {
        /// Of which document.
        document: Document,
    },
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print a manual page (troff): `portcullis man lab check | man -l -`.
    Man {
        /// Whose page; the command's own when left out.
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
    /// The PCI functions that are really there, as `lspci -D -xxxx` prints them for root on that machine (or packed by gzip): with all their requester ids and their groups.
    #[arg(long, value_name = "FILE")]
    pub(crate) pci: Option<PathBuf>,
    /// Treat findings of this rule as errors, as `show` does.
    #[arg(long, value_name = "RULE")]
    pub(crate) deny: Vec<String>,
    /// Treat findings of this rule as notes, as `show` does.
    #[arg(long, value_name = "RULE")]
    pub(crate) allow: Vec<String>,
    /// Threads that probe; as many as the machine has, at least 2, when left out.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    cpus: Option<u16>,
    /// What every draw depends on.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Who arrives when.
    #[arg(long, value_enum, default_value_t = Order::Random)]
    pub(crate) order: Order,
    /// What becomes of streams that firmware left running at an SMMUv2: those of clients with a region that must stay mapped 1:1, a boot framebuffer say.
    #[arg(long, value_enum, default_value_t = FirmwarePolicy::Block)]
    pub(crate) firmware_streams: FirmwarePolicy,
    /// Boot N times with different seeds, and summarise.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) repeat: Option<u64>,
    /// What to boot on. QEMU brings its own board: the devicetree that it writes for a machine with an IOMMU.
    #[arg(long, value_enum, default_value_t = On::Software)]
    pub(crate) on: On,
    /// Which of QEMU's boards.
    #[arg(long, value_enum, default_value_t = QemuMachineName::ArmVirt)]
    pub(crate) machine: QemuMachineName,
    /// Write the ACPI tables that QEMU hands to this board's firmware into a folder first, as `show` takes them.
    #[arg(long, value_name = "DIR")]
    pub(crate) save_tables: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Say which races were met, too.
    #[arg(long)]
    pub(crate) verbose: bool,
}

/// Platforms of `boot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum On {
    /// The software machine: register-level SMMUv3 models that punish.
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

impl BootArgs {
    /// Threads to use.
    pub(crate) fn cpus(&self) -> usize {
        let machine = || std::thread::available_parallelism().map_or(2, usize::from).max(2);
        self.cpus.map_or_else(machine, usize::from)
    }
}

/// Options of `show`.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// A flattened devicetree (also gzip'd), an ACPI table, a text of acpidump, `-` for any of these on standard input, or a directory
    /// as /proc/device-tree or /sys/firmware/acpi/tables is.
    #[arg(required_unless_present = "rules")]
    pub(crate) board: Option<PathBuf>,
    /// Another one, in any of these forms: print what changed from the first to it; exit status 1 where something did.
    #[arg(value_name = "OTHER", conflicts_with_all = ["tree", "html", "rules"])]
    pub(crate) other: Option<PathBuf>,
    /// Apply this overlay (.dtbo) on top; may be given several times, they are applied in order.
    #[arg(long, value_name = "DTBO")]
    pub(crate) overlay: Vec<PathBuf>,
    /// The PCI functions that are really there, as `lspci -D -xxxx` prints them for root on that machine (or packed by gzip): with all their requester ids and their groups.
    #[arg(long, value_name = "FILE", conflicts_with = "other")]
    pub(crate) pci: Option<PathBuf>,
    /// Print a tree: below each IOMMU what is behind it.
    #[arg(long, conflicts_with = "json")]
    pub(crate) tree: bool,
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
    #[arg(long, value_name = "RULE")]
    pub(crate) deny: Vec<String>,
    /// Treat findings of this rule (or `errors`, or `warnings`) as notes.
    #[arg(long, value_name = "RULE")]
    pub(crate) allow: Vec<String>,
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
    /// Page tables: map, unmap and look-up beside the floor, and two threads on one table.
    Map(EffortArgs),
    /// Addresses: what an allocation and its release cost, under fragmentation too.
    Iova(EffortArgs),
    /// The whole of map and unmap, strict, through the core and the SMMUv3 driver.
    Dma(EffortArgs),
    /// The SMMUv3 command queue: invalidations, one thread and two.
    Queue(EffortArgs),
    /// Probing: cost a device, deferrals, speed-up with two threads.
    Probe(ProbeArgs),
}

/// Options of the benchmarks of the data path.
#[derive(Debug, clap::Args)]
pub(crate) struct EffortArgs {
    /// Rounds of which the best counts.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Largest number of calls of a workload.
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
    /// Largest number of clients.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Rounds of which the best counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

impl From<ProbeArgs> for ProbeBench {
    fn from(args: ProbeArgs) -> Self {
        Self { most_clients: args.clients as usize, rounds: args.rounds as usize }
    }
}
