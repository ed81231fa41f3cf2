//! What `lab` knows: bases, commits, worlds.

use portcullis_lab::linux::{BASES, COMMITS};
use portcullis_lab::ours::{Family, World as OursWorld};

/// Versions by all their names.
pub(super) fn bases() -> Vec<String> {
    let names = BASES.iter().flat_map(|base| base.aliases.iter().copied().chain([base.name]));
    names.map(str::to_owned).collect()
}

/// Commits by their ids.
pub(super) fn commits() -> Vec<String> {
    COMMITS.iter().map(|commit| commit.id.to_owned()).collect()
}

/// Worlds of the shipped core by their keys.
pub(super) fn worlds() -> Vec<String> {
    let all = OursWorld::exhaustive().into_iter().chain(OursWorld::coarse());
    let all = all.chain(OursWorld::revoking()).chain(OursWorld::other_families());
    let keys = all.map(|world| world.key);
    keys.chain(["busiest", "one-queue", "storm"].map(str::to_owned)).collect()
}

/// Hardware by its driver.
pub(super) fn families() -> Vec<String> {
    crate::known::owned(&Family::ALL.map(Family::word))
}
