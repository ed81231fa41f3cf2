//! The base versions: each is the set of commits that it carries.

use core::fmt;

use super::commit::CommitSet;
use super::commit_table::COMMITS;

/// A base version of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(non_camel_case_types, reason = "a version number reads best with its dots kept apart")]
pub enum BaseId {
    /// Linux 6.1.0: no probe lock at all.
    V6_1_0,
    /// The 6.1 stable tree, as of 6.1.192.
    V6_1_Y,
    /// The 6.6 stable tree before any fix of this race (f188056352bc and, from 6.6.5, a2e7e59a9426).
    V6_6,
    /// Linux 6.12.0.
    V6_12,
    /// Linux 6.13-rc5.
    V6_13_RC5,
    /// Linux 6.14: the queue of four commits about the lookup of instances.
    V6_14,
    /// Linux 6.15-rc1.
    V6_15_RC1,
    /// Linux 7.3-rc7.
    V7_3_RC7,
}

/// One row of [`BASES`].
#[derive(Clone, Copy, Debug)]
pub struct BaseInfo {
    /// The version.
    pub id: BaseId,
    /// The name to write on the command line.
    pub name: &'static str,
    /// Other spellings that are understood.
    pub aliases: &'static [&'static str],
    /// One line: what is special about its probe path.
    pub summary: &'static str,
}

/// The base versions, oldest first.
pub const BASES: &[BaseInfo] = &[
    BaseInfo {
        id: BaseId::V6_1_0,
        name: "v6.1.0",
        aliases: &[],
        summary: "no lock around the probe of a device; the replay is skipped for a device in a group",
    },
    BaseInfo {
        id: BaseId::V6_1_Y,
        name: "v6.1.y",
        aliases: &["v6.1", "v6.1.192"],
        summary: "6.1 stable (6.1.192): probe lock, 229e6ee43d2a; the group test is still unlocked",
    },
    BaseInfo {
        id: BaseId::V6_6,
        name: "v6.6",
        aliases: &["v6.6.y"],
        summary: "the kernel of the report: the walk defers the domain, the client returns early",
    },
    BaseInfo {
        id: BaseId::V6_12,
        name: "v6.12",
        aliases: &["v6.12.0"],
        summary: "dev->dma_iommu, set together with the default domain; lookup by driver list",
    },
    BaseInfo {
        id: BaseId::V6_13_RC5,
        name: "v6.13-rc5",
        aliases: &["v6.13"],
        summary: "6.12 with 229e6ee43d2a",
    },
    BaseInfo {
        id: BaseId::V6_14,
        name: "v6.14",
        aliases: &[],
        summary: "instances are found on the bus; iommu_fwspec_init defers",
    },
    BaseInfo {
        id: BaseId::V6_15_RC1,
        name: "v6.15-rc1",
        aliases: &["v6.15"],
        summary: "the walk parses the firmware itself; no default domain means defer",
    },
    BaseInfo {
        id: BaseId::V7_3_RC7,
        name: "v7.3-rc7",
        aliases: &["v7.3"],
        summary: "re-check after the dropped lock, ready flag, atomic bits",
    },
];

impl BaseId {
    /// The row of [`BASES`].
    #[must_use]
    pub fn info(self) -> &'static BaseInfo {
        &BASES[self as usize]
    }

    /// The name as written on the command line, such as `v6.6`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// Finds a base by name, with or without the leading `v`.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase();
        let name = name.strip_prefix('v').unwrap_or(&name);
        let fits = |candidate: &str| candidate.strip_prefix('v') == Some(name);
        BASES
            .iter()
            .find(|base| fits(base.name) || base.aliases.iter().any(|alias| fits(alias)))
            .map(|base| base.id)
    }

    /// The commits this version carries.
    #[must_use]
    pub fn commits(self) -> CommitSet {
        COMMITS
            .iter()
            .filter(|info| info.carried_by.contains(&self))
            .fold(CommitSet::default(), |set, info| set.with(info.commit))
    }
}

impl fmt::Display for BaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
