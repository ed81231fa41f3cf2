//! `--confirm`: what the lab found, forced on kernels that are at hand.

use crate::replay::Sources;
use clap::Args;
use portcullis_lab::linux::{Protocol, Report, ViolationReport};
use portcullis_lab::picture::words;
use portcullis_qemu::Installation;
use portcullis_replay::package::Kernel;
use portcullis_replay::plan::protocol_of;
use portcullis_replay::{Options, Outcome, Replay, Schedule};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Where `--confirm` finds its kernels.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfirmArgs {
    /// Force what was found on stock kernels in QEMU that have the same protocol: those of --kernel or --fetch, or else
    /// those that `portcullis replay` has in its cache.
    #[arg(long)]
    pub confirm: bool,
    /// A kernel: its package or packages (.deb), or an Image.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "confirm", conflicts_with = "fetch")]
    pub kernel: Vec<PathBuf>,
    /// The folder with the modules of an Image.
    #[arg(long, value_name = "FOLDER", requires = "kernel")]
    pub modules: Option<PathBuf>,
    /// Get Debian's newest arm64 kernel of each of these versions (6.12, or 6.12.43).
    #[arg(long, value_name = "VERSION", num_args = 1.., requires = "confirm")]
    pub fetch: Vec<String>,
}

/// What became of a violated property on a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Confirmation {
    /// The schedule ran, and something is wrong, as the lab predicts.
    Confirmed {
        /// The kernel and what happened.
        words: String,
    },
    /// The kernel refused at some point, as the lab predicts of the schedule once it is moved to places where a kernel can be stopped.
    Prevented {
        /// The kernel, and what refused.
        words: String,
    },
    /// The kernel did something else, or nothing wrong.
    NotShown {
        /// The kernel and what happened.
        words: String,
    },
    /// No run was made.
    NotTried {
        /// Why.
        words: String,
    },
}

impl Confirmation {
    /// The word for it in a cell of the matrix.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Confirmed { .. } => "confirmed",
            Self::Prevented { .. } => "prevented",
            Self::NotShown { .. } => "not shown",
            Self::NotTried { .. } => "not tried",
        }
    }

    /// Which kernel, and what happened there; or why nothing was tried.
    pub(crate) fn words(&self) -> &str {
        match self {
            Self::Confirmed { words }
            | Self::Prevented { words }
            | Self::NotShown { words }
            | Self::NotTried { words } => words,
        }
    }

    /// It and the property that it is about.
    pub(crate) fn as_json(&self, property: &str) -> Value {
        json!({"property": property, "verdict": self.word(), "words": self.words()})
    }

    fn not_tried(words: impl ToString) -> Self {
        Self::NotTried { words: words.to_string() }
    }

    /// What a replay says.
    fn of(observed: &Outcome, agrees: bool, words: String) -> Self {
        match observed {
            Outcome::Occurred { .. } if agrees => Self::Confirmed { words },
            Outcome::Prevented { .. } if agrees => Self::Prevented { words },
            _ => Self::NotShown { words },
        }
    }
}

/// The kernels at hand, and what runs them.
pub(crate) struct Bench {
    qemu: Installation,
    busybox: Vec<u8>,
    kernels: Vec<Kernel>,
}

impl Bench {
    /// What the command line names, or what is in the cache; `None` without `--confirm`.
    ///
    /// # Errors
    ///
    /// No QEMU, no busybox, or a kernel that was named and cannot be opened.
    pub(crate) fn set_up(args: &ConfirmArgs) -> Result<Option<Self>, String> {
        if !args.confirm {
            return Ok(None);
        }
        let mut sources = Sources::of_user()?;
        let qemu = sources.qemu(false)?;
        let kernels = match (&args.kernel[..], &args.fetch[..]) {
            ([], []) => sources.cached()?,
            ([], versions) => {
                let fetched =
                    versions.iter().map(|version| sources.kernel(&[], None, Some(version)));
                fetched.collect::<Result<_, _>>()?
            }
            (files, _) => vec![sources.kernel(files, args.modules.as_deref(), None)?],
        };
        let busybox = sources.busybox(None)?;
        Ok(Some(Self { qemu, busybox, kernels }))
    }

    /// The protocols of the kernels at hand.
    pub(crate) fn protocols(&self) -> impl Iterator<Item = Protocol> + '_ {
        self.kernels.iter().filter_map(|kernel| protocol_of(kernel.version).ok())
    }

    /// Forces what `report` found, the worst first, on the first kernel that has its protocol: with `all` every violated property, else until one schedule could be run. Where none could, says
    /// of the worst why. Empty where nothing was found.
    pub(crate) fn confirm(&self, report: &Report, all: bool) -> Vec<(&'static str, Confirmation)> {
        let worst = words::worst(report);
        let rest = report
            .violations
            .iter()
            .filter(|found| worst.is_none_or(|worst| !std::ptr::eq(worst, *found)));
        let mut done = Vec::new();
        for found in worst.into_iter().chain(rest) {
            let confirmation = self.force(&report.protocol, found);
            let tried = !matches!(confirmation, Confirmation::NotTried { .. });
            if tried && !all {
                return vec![(found.name, confirmation)];
            }
            done.push((found.name, confirmation));
        }
        done.truncate(if all { done.len() } else { 1 });
        done
    }

    fn force(&self, protocol: &Protocol, found: &ViolationReport) -> Confirmation {
        let same = |kernel: &&Kernel| {
            protocol_of(kernel.version).is_ok_and(|other| other.has_the_commits_of(protocol))
        };
        let Some(kernel) = self.kernels.iter().find(same) else {
            return Confirmation::not_tried(self.no_kernel(protocol));
        };
        let schedule = Schedule::Lab(found.schedule.clone());
        let board = match schedule.board() {
            Ok(board) => board,
            Err(error) => return Confirmation::not_tried(error),
        };
        let (qemu, busybox, options) = (&self.qemu, &self.busybox, Options::default());
        match (Replay { qemu, kernel, busybox, board, schedule, options }).run() {
            Ok(run) => {
                let words = format!("{} on {}: {}", run.kernel, board.name, run.answer());
                Confirmation::of(&run.observed, run.agrees(), words)
            }
            Err(error) => {
                Confirmation::not_tried(error.to_string().lines().next().unwrap_or_default())
            }
        }
    }

    fn no_kernel(&self, protocol: &Protocol) -> String {
        let known: Vec<&str> = self.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
        let at_hand = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        format!(
            "no kernel at hand has the commits of {protocol}; at hand: {at_hand}. Get one with --fetch VERSION"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_replay::BadEnd;

    #[test]
    fn only_what_was_predicted_and_seen_is_confirmed() {
        let occurred = Outcome::Occurred { ends: vec![BadEnd::NoIommu] };
        let prevented = Outcome::Prevented { function: "iommu_fwspec_init".into(), value: -517 };
        for (outcome, agrees, word) in [
            (&occurred, true, "confirmed"),
            (&occurred, false, "not shown"),
            (&prevented, true, "prevented"),
            (&prevented, false, "not shown"),
            (&Outcome::Harmless, true, "not shown"),
            (&Outcome::Infeasible { step: 2 }, true, "not shown"),
        ] {
            assert_eq!(Confirmation::of(outcome, agrees, String::new()).word(), word, "{outcome}");
        }
    }
}
