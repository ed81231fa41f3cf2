//! The base versions: each is the set of commits that it carries.

use core::fmt;

use super::commit::{Commit, CommitSet};
use super::commit_table::COMMITS;

/// A base version of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(non_camel_case_types, reason = "a version number reads best with its dots kept apart")]
pub enum BaseId {
    /// Linux 5.15: a registration does not walk the bus; the first instance alone does, once.
    V5_15,
    /// Linux 6.1.0: no probe lock at all.
    V6_1_0,
    /// The 6.1 stable tree, as of 6.1.192.
    V6_1_Y,
    /// Android's common kernel of 6.1: the stable tree with the locked half of 6eb4da8cf545.
    ANDROID14_6_1,
    /// The 6.6 tree before any fix of this race (f188056352bc and, from 6.6.5, a2e7e59a9426).
    V6_6,
    /// The 6.6 stable tree from 6.6.90 on.
    V6_6_Y,
    /// Linux 6.12.0.
    V6_12,
    /// The 6.12 stable tree, as of 6.12.117.
    V6_12_Y,
    /// Linux 6.13-rc5.
    V6_13_RC5,
    /// Linux 6.14: the queue of four commits about the lookup of instances.
    V6_14,
    /// Linux 6.15-rc1.
    V6_15_RC1,
    /// Linux 6.15.
    V6_15,
    /// Linux 6.16, and 6.15.1 and 6.18 with it.
    V6_16,
    /// Linux 7.3-rc7, and 7.2 with it.
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
    /// The version whose code it has, where it is that version with backports: what applies there, applies here.
    pub kin: Option<BaseId>,
    /// The first and the last kernel.org release with its code. Where the last one is open, `u32::MAX` stands in its place.
    pub releases: Option<(Release, Release)>,
    /// A row of `lab compare`.
    pub compared: bool,
}

/// A release: major, minor and stable number.
pub type Release = (u32, u32, u32);

const fn mainline(
    id: BaseId,
    name: &'static str,
    aliases: &'static [&'static str],
    summary: &'static str,
) -> BaseInfo {
    BaseInfo { id, name, aliases, summary, kin: None, releases: None, compared: true }
}

const fn branch(
    id: BaseId,
    name: &'static str,
    aliases: &'static [&'static str],
    kin: BaseId,
    summary: &'static str,
) -> BaseInfo {
    BaseInfo { id, name, aliases, summary, kin: Some(kin), releases: None, compared: false }
}

impl BaseInfo {
    /// The code of the releases from `first` to `last`.
    const fn released(self, first: Release, last: Release) -> Self {
        Self { releases: Some((first, last)), ..self }
    }
}

/// The last stable release of a branch that still gets some.
const OPEN: u32 = u32::MAX;

/// The base versions, oldest first. `docs/linux-versions.md` justifies each branch commit by commit.
pub const BASES: &[BaseInfo] = &[
    BaseInfo {
        compared: false,
        ..mainline(
            BaseId::V5_15,
            "v5.15",
            &["v5.15.y", "android13-5.15", "v5.10", "v5.10.y", "android13-5.10"],
            "only the first instance walks the bus, after it has bound nothing yet; later registrations do not",
        )
    },
    mainline(
        BaseId::V6_1_0,
        "v6.1.0",
        &[],
        "no lock around the probe of a device; the replay is skipped for a device in a group",
    ),
    mainline(
        BaseId::V6_1_Y,
        "v6.1.y",
        &["v6.1", "v6.1.192"],
        "6.1 stable (6.1.192): probe lock, 229e6ee43d2a; the group test is still unlocked",
    )
    .released((6, 1, 120), (6, 1, OPEN)),
    branch(
        BaseId::ANDROID14_6_1,
        "android14-6.1",
        &[],
        BaseId::V6_1_Y,
        "6.1 stable with the group test under the lock; the replay is still skipped for a device in a group",
    ),
    mainline(
        BaseId::V6_6,
        "v6.6",
        &["v6.6.5"],
        "the kernel of the report: the walk defers the domain, the client returns early",
    )
    .released((6, 6, 0), (6, 6, 89)),
    branch(
        BaseId::V6_6_Y,
        "v6.6.y",
        &["v6.6.90", "android15-6.6"],
        BaseId::V6_6,
        "6.6 stable from 6.6.90 on: the backport of b46064a18810 with its two checks, 229e6ee43d2a",
    )
    .released((6, 6, 90), (6, 6, OPEN)),
    mainline(
        BaseId::V6_12,
        "v6.12",
        &["v6.12.0"],
        "dev->dma_iommu, set together with the default domain; lookup by driver list",
    )
    .released((6, 12, 0), (6, 12, 3)),
    branch(
        BaseId::V6_12_Y,
        "v6.12.y",
        &["v6.12.117", "android16-6.12"],
        BaseId::V6_12,
        "6.12 stable (6.12.117): b46064a18810; still the lookup by driver list, the bit field, no ready flag",
    )
    .released((6, 12, 26), (6, 12, OPEN)),
    // 6.12.4 got 229e6ee43d2a, too: the same commits.
    mainline(BaseId::V6_13_RC5, "v6.13-rc5", &["v6.13"], "6.12 with 229e6ee43d2a")
        .released((6, 12, 4), (6, 12, 25)),
    mainline(
        BaseId::V6_14,
        "v6.14",
        &[],
        "instances are found on the bus; iommu_fwspec_init defers",
    ),
    mainline(
        BaseId::V6_15_RC1,
        "v6.15-rc1",
        &[],
        "the walk parses the firmware itself; no default domain means defer",
    ),
    branch(
        BaseId::V6_15,
        "v6.15",
        &["v6.15.0"],
        BaseId::V6_15_RC1,
        "rc1 with dev->driver read once on the platform and the PCI bus",
    ),
    branch(
        BaseId::V6_16,
        "v6.16",
        &["v6.15.1", "v6.15.y", "v6.16.3", "v6.16.y", "v6.17", "v6.18", "v6.18.y"],
        BaseId::V6_15_RC1,
        "6.15 with the re-check after the dropped lock and the ready flag",
    )
    .released((6, 16, 0), (7, 1, OPEN)),
    mainline(
        BaseId::V7_3_RC7,
        "v7.3-rc7",
        &["v7.3", "v7.3.4", "v7.3.y", "v7.2", "v7.2.13", "v7.2.y"],
        "re-check after the dropped lock, ready flag, atomic bits",
    )
    .released((7, 2, 0), (OPEN, OPEN, OPEN)),
];

/// The ids of [`BASES`].
const ALL: &[BaseId] = &{
    let mut all = [BaseId::V5_15; BASES.len()];
    let mut row = 0;
    while row < all.len() {
        assert!(BASES[row].id as usize == row, "the table is in the order of the ids");
        all[row] = BASES[row].id;
        row += 1;
    }
    all
};

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
        let fits = |candidate: &str| candidate.strip_prefix('v').unwrap_or(candidate) == name;
        BASES
            .iter()
            .find(|base| fits(base.name) || base.aliases.iter().any(|alias| fits(alias)))
            .map(|base| base.id)
    }

    /// The base with the code of a kernel.org release, where one is known. A stable branch gets its backports one by one: of its releases only the newest that
    /// `docs/linux-versions.md` names has exactly the commits of the base, and the releases before may lack the latest of them.
    #[must_use]
    pub fn of_release(release: Release) -> Option<Self> {
        let has = |base: &&BaseInfo| {
            base.releases.is_some_and(|(first, last)| (first..=last).contains(&release))
        };
        BASES.iter().find(has).map(|base| base.id)
    }

    /// This base and those below it in [`BASES`], as far as the table goes.
    pub(crate) const fn and_later(self) -> &'static [Self] {
        ALL.split_at(self as usize).1
    }

    /// Whether `bases`, a list of versions, speaks of this one: it is in it, or has the code of one that is.
    pub(crate) fn is_meant_by(self, bases: &[Self]) -> bool {
        bases.contains(&self) || self.info().kin.is_some_and(|kin| bases.contains(&kin))
    }

    /// Whether this version carries the commit as a backport, which its kin lacks.
    pub(crate) fn backports(self, commit: Commit) -> bool {
        let kin = self.info().kin;
        self.commits().has(commit) && kin.is_some_and(|kin| !kin.commits().has(commit))
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
