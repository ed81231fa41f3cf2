//! Schedules with names.

use super::map::find;
use super::{Plan, Step, Who};
use crate::error::Error;
use portcullis_lab::linux::Bus;

/// A schedule that is known by name.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is, in a line.
    pub summary: &'static str,
    /// Who goes how far: names of the stop map.
    steps: &'static [(Who, &'static str)],
}

use Who::{Client, Smmu};

/// Every schedule with a name.
pub const NAMED: &[Named] = &[
    Named {
        name: "seed",
        summary: "the report's race: the client makes its fwspec, the walk groups it, the client goes on before the group has a domain",
        steps: &[
            (Smmu, "walk"),
            (Client, "parsed"),
            (Smmu, "grouped"),
            (Client, "done"),
            (Smmu, "bound"),
        ],
    },
    Named {
        name: "grouped",
        summary: "the short form for kernels whose walk parses firmware itself: the walk groups the client, then the client probes",
        steps: &[(Smmu, "grouped"), (Client, "done"), (Smmu, "bound")],
    },
    Named {
        name: "unbound",
        summary: "two switches: the client probes when its SMMU has registered and is not bound yet",
        steps: &[(Smmu, "registered"), (Client, "done"), (Smmu, "bound")],
    },
    Named {
        name: "early",
        summary: "the client probes when its SMMU is on the list and the walk has not come to it",
        steps: &[(Smmu, "walk"), (Client, "done"), (Smmu, "bound")],
    },
    Named {
        name: "late-group",
        summary: "the client finds no group to claim, the walk then makes one",
        steps: &[
            (Smmu, "walk-parse"),
            (Client, "claimed"),
            (Smmu, "grouped"),
            (Client, "done"),
            (Smmu, "bound"),
        ],
    },
    Named {
        name: "lost-bit",
        summary: "the report's race, narrower: the client stores back the byte of dma_iommu that it has loaded before the walk sets the bit",
        steps: &[
            (Smmu, "walk"),
            (Client, "parsed"),
            (Smmu, "grouped"),
            (Client, "storing"),
            (Smmu, "bound"),
            (Client, "done"),
        ],
    },
    Named {
        name: "late-lost-bit",
        summary: "as lost-bit, where the walk parses firmware itself",
        steps: &[(Smmu, "walk-parse"), (Client, "storing"), (Smmu, "bound"), (Client, "done")],
    },
    Named {
        name: "control",
        summary: "no race: the SMMU is bound, then the client probes",
        steps: &[(Smmu, "bound"), (Client, "done")],
    },
];

impl Named {
    /// The schedule with this name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        NAMED.iter().find(|named| named.name == name)
    }

    /// The advances on a kernel of this version.
    pub(crate) fn plan(&self, version: (u32, u32, u32), bus: Bus) -> Result<Plan, Error> {
        let step = |&(who, name): &(Who, &str)| {
            let site = find(name, version, bus).ok_or_else(|| {
                let (major, minor, _) = version;
                Error::Schedule(format!(
                    "the schedule `{}` needs the place `{name}`, which Linux {major}.{minor} does not have",
                    self.name
                ))
            })?;
            Ok(Step { who, site })
        };
        let steps = self.steps.iter().map(step).collect::<Result<_, Error>>()?;
        Ok(Plan { name: self.name.to_owned(), steps })
    }
}
