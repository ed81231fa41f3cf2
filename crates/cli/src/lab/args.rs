//! The command line of the lab.

use super::confirm::ConfirmArgs;
use super::known::{bases, commits, families, worlds};
use crate::known::{Known, owned};
use clap::{Args, Subcommand};
use portcullis_lab::linux::{Behind, Bus, Driver, Event, Firmware, Grouping, World};
use std::path::PathBuf;
use std::str::FromStr;

/// Options of `lab`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  portcullis lab list                          versions, and known commits
  portcullis lab check v6.6                    affected? what closes it?
  portcullis lab check v6.6 --revert f188056352bc        does that close it?
  portcullis lab check v6.6 --clients 2 --group mixed --html race.html
  portcullis lab tree ~/src/linux              which fixes are in my tree?
  portcullis lab check --tree ~/src/linux      is my tree affected?
  portcullis lab check v6.1.y --iommus 1 --bus pci --confirm
                                               does a stock kernel do it?
  portcullis lab compare                       all versions in all small worlds
  portcullis lab replay linux2:v6.6/...        one schedule again, step by step
  portcullis lab ours                          the core shipped here
Exit status: 0, 1 when a property is violated, 2 for a wrong command line.")]
pub struct LabArgs {
    /// What to do.
    #[command(subcommand)]
    pub what: LabCommand,
}

/// The verbs of the lab.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// The versions, and the commits with the versions that carry them.
    List(ListArgs),
    /// Explore one kernel in one world: is it affected, by which schedule, and what closes it?
    Check(CheckArgs),
    /// Which of the known commits a source tree has, and which version it is read as.
    Tree(TreeArgs),
    /// Explore every version in every small world, and print the matrix.
    Compare(CompareArgs),
    /// Run one schedule again, step by step.
    Replay(ReplayArgs),
    /// Explore the core and the SMMUv3 driver that this program ships.
    Ours(OursArgs),
}

/// Options of `lab list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `lab tree`.
#[derive(Debug, Args)]
pub struct TreeArgs {
    /// The source tree, or a part of one that has drivers/iommu.
    pub path: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `lab check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The version to start from, such as v6.6 (`lab list` has them all).
    #[arg(required_unless_present = "tree", conflicts_with = "tree", value_parser = Known::<String>::new(bases), hide_possible_values = true)]
    pub base: Option<String>,
    /// Start from the source tree there, as `lab tree` reads it.
    #[arg(long, value_name = "PATH")]
    pub tree: Option<PathBuf>,
    /// Apply a commit to it. Repeatable.
    #[arg(long, value_name = "ID", value_parser = Known::<String>::new(commits), hide_possible_values = true)]
    pub apply: Vec<String>,
    /// Revert a commit from it. Repeatable.
    #[arg(long, value_name = "ID", value_parser = Known::<String>::new(commits), hide_possible_values = true)]
    pub revert: Vec<String>,
    /// The machine, and what happens on it.
    #[command(flatten)]
    pub world: WorldArgs,
    /// Only schedules in which a running thread is interrupted at most N times.
    #[arg(long, value_name = "N", conflicts_with_all = ["random", "pct"])]
    pub bound: Option<u8>,
    /// N random schedules, instead of all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub random: Option<u64>,
    /// Random schedules by priorities (PCT), for bugs that need D ordering constraints; --random says how many.
    #[arg(long, value_name = "D", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub pct: Option<u32>,
    /// Seed of the random schedules.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Draw a ladder for every violated property, not only for the worst; with --confirm, force each.
    #[arg(long)]
    pub all: bool,
    /// Whether a real kernel does it.
    #[command(flatten)]
    pub confirm: ConfirmArgs,
    /// Draw every step.
    #[arg(long)]
    pub full: bool,
    /// Do not look for commits that close what was found.
    #[arg(long)]
    pub no_closers: bool,
    /// Print JSON: every violated property, no ladder.
    #[arg(long)]
    pub json: bool,
    /// Write the ladders as a page that stands alone.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// The world of `lab check`.
#[derive(Debug, Args)]
pub struct WorldArgs {
    /// IOMMUs of the machine; the clients are behind the first.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub iommus: usize,
    /// How many of them register while the clients probe (the last ones; the others are bound before).
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub registering: usize,
    /// Clients.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub clients: usize,
    /// own: a group each; shared: one group; mixed: one group whose last client wants an identity domain; identity: a
    /// group each, all of which want an identity domain.
    #[arg(long, default_value_t = Grouping::Own, value_parser = Known::<Grouping>::new(|| owned(Grouping::WORDS)), hide_possible_values = true)]
    pub group: Grouping,
    /// platform, pci, amba, fsl-mc, cdx or host1x.
    #[arg(long, default_value_t = Bus::Platform, value_parser = Known::<Bus>::new(|| owned(Bus::WORDS)), hide_possible_values = true)]
    pub bus: Bus,
    /// dt or acpi.
    #[arg(long, default_value_t = Firmware::Dt, value_parser = Known::<Firmware>::new(|| owned(Firmware::WORDS)), hide_possible_values = true)]
    pub firmware: Firmware,
    /// v2 (arm-smmu, MMU-500) or v3 (arm-smmu-v3).
    #[arg(long, default_value_t = Driver::V3, value_parser = Known::<Driver>::new(|| owned(Driver::WORDS)), hide_possible_values = true)]
    pub driver: Driver,
    /// Attempts to bind a client: N - 1 unrelated drivers bind, each at any moment, and each bind retries what was deferred.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub attempts: usize,
    /// The clients name the last IOMMU as well.
    #[arg(long)]
    pub two_nodes: bool,
    /// first: the clients are behind the first IOMMU; last: behind the last; each: each behind another.
    #[arg(long, default_value_t = Behind::First, value_parser = Known::<Behind>::new(|| owned(Behind::WORDS)), hide_possible_values = true)]
    pub behind: Behind,
    /// The last client's driver manages its DMA itself (driver_managed_dma).
    #[arg(long)]
    pub managed: bool,
    /// Something that happens once, at any moment: unplug, unregister, vfio, rebind, plug, timeout, fail, defer, msi,
    /// second-thread, bad-id or type. Repeatable.
    #[arg(long, value_name = "EVENT", value_parser = Known::<Event>::new(|| owned(Event::WORDS)), hide_possible_values = true)]
    pub event: Vec<Event>,
}

impl WorldArgs {
    /// The world that is asked for.
    ///
    /// # Errors
    ///
    /// What does not fit together, and what would.
    pub fn world(&self) -> Result<World, String> {
        let world = World {
            iommus: self.iommus,
            registering: self.registering,
            clients: self.clients,
            grouping: self.group,
            bus: self.bus,
            firmware: self.firmware,
            driver: self.driver,
            attempts: self.attempts,
            two_nodes: self.two_nodes,
            behind: self.behind,
            managed: self.managed,
            events: self.event.clone(),
        };
        world.checked().map_err(|error| error.to_string())
    }
}

/// Options of `lab compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Whether real kernels do it: a row for the protocol of each, and a word in the cells that a board can carry.
    #[command(flatten)]
    pub confirm: ConfirmArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Write the matrix as a page that stands alone.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Options of `lab replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The schedule, as `lab check` or `lab ours` prints it.
    pub schedule: String,
    /// Draw every step.
    #[arg(long)]
    pub full: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Write the ladder as a page that stands alone.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Options of `lab ours`.
#[derive(Debug, Args)]
pub struct OursArgs {
    /// A world by its key, such as `a`, `storm`, or `v2-a` for one on the SMMUv2's driver (`--list` has them all). When left out, all worlds
    /// that can be explored in full.
    #[arg(value_parser = Known::<OursWorld>::new(worlds), hide_possible_values = true)]
    pub world: Option<OursWorld>,
    /// List the worlds.
    #[arg(long, conflicts_with_all = ["world", "random", "pct", "bound", "full", "json", "html"])]
    pub list: bool,
    /// Only the worlds on the driver of this hardware.
    #[arg(long, value_name = "DRIVER", value_parser = Known::<OursFamily>::new(families), conflicts_with = "world")]
    pub iommu: Option<OursFamily>,
    /// N random schedules, instead of all. The storm is too big for all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub random: Option<u64>,
    /// Random schedules by priorities (PCT), for bugs that need D ordering constraints.
    #[arg(long, value_name = "D", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub pct: Option<u32>,
    /// Only schedules in which a running thread is interrupted at most N times.
    #[arg(long, value_name = "N", conflicts_with_all = ["random", "pct"])]
    pub bound: Option<u16>,
    /// Seed of the random schedules.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// In the storm: how many times everything comes and goes.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub rounds: u16,
    /// Draw every step.
    #[arg(long)]
    pub full: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Write the verdicts and the ladders as a page that stands alone.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// A hardware family, by its driver's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OursFamily(pub portcullis_lab::ours::Family);

impl FromStr for OursFamily {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        use portcullis_lab::ours::Family;
        let known = Family::ALL.map(Family::word).join(", ");
        let unknown = || format!("unknown hardware `{word}`; known is {known}");
        Family::named(word).map(Self).ok_or_else(unknown)
    }
}

/// A world of the shipped core, by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OursWorld(pub portcullis_lab::ours::World);

impl FromStr for OursWorld {
    type Err = String;

    fn from_str(key: &str) -> Result<Self, String> {
        use portcullis_lab::ours::World;
        let world = if key == "storm" { Some(World::storm(1)) } else { World::named(key) };
        world.map(Self).ok_or_else(|| {
            format!("unknown world `{key}`; `portcullis lab ours --list` has them all")
        })
    }
}
