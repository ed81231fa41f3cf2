//! The commits that shaped the probe path, each a feature that the protocol functions test.
//!
//! A base version is nothing but a set of these (see [`super::BASES`]); applying or reverting one
//! on a base gives the protocol of a tree that no release ever was, which is what a vendor tree is.

use core::fmt;

use super::base::BaseId;
use super::commit_table::COMMITS;

/// One commit of the kernel (or one mailed patch) that changes the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Commit {
    /// 01657bc14a39 (6.2): `iommu_probe_device_lock` around one device's probe.
    ProbeLock,
    /// a2e7e59a9426 (6.7): the same lock around the creation of the fwspec.
    FwspecLock,
    /// 64c3873cb255 (6.1.84): the walk keeps a default domain that is there already.
    KeepDefaultDomain,
    /// 6eb4da8cf545 (6.6): the group test moves under the lock, the replay test goes.
    GroupTestLocked,
    /// f188056352bc (6.6): the device is attached inside its probe, the walk defers the domain.
    AttachInProbe,
    /// The patch mailed as RFC on 13 December 2024.
    Rfc20241213,
    /// The 6.6.y backport of b46064a18810: two checks instead of one.
    DefaultDomainBackport,
    /// 17de3f5fdd35 (6.8): the instance is found from the fwspec, no longer from the bus.
    RetireBusOps,
    /// b67483b3c44e (6.10): DMA ops are set where the default domain is set.
    DmaOpsWithDomain,
    /// b5c58b2fdc42 (6.12): the `dma_iommu` flag takes the place of a `dma_ops` pointer.
    DmaIommuFlag,
    /// 229e6ee43d2a (6.13): a client defers when its SMMUv2 has not bound yet.
    DeferUnboundSmmu,
    /// 7d835134d4e1 (6.14): the driver finds its instance on the bus, not on the driver's list.
    LookupByBus,
    /// 97cb1fa02726 (6.14): 229e6ee43d2a is taken out again.
    DropDeferUnboundSmmu,
    /// fcbd62156742 (6.14): a failing SMMUv3 probe cleans up and disables the SMMU.
    CleanSmmuV3Failure,
    /// 46b3df8eb9bd (6.14): the deferral rules move into `iommu_fwspec_init`.
    DeferInFwspecInit,
    /// 3832862eb9c4 (6.15): a failed parse frees the whole `dev->iommu` it made.
    FreeWholeDevIommu,
    /// 280e5a301005 (6.15): `dma_iommu` is cleared when a device leaves its group.
    ClearDmaIommu,
    /// b46064a18810 (6.15): no default domain yet means "defer".
    DefaultDomainCheck,
    /// bcb81ac6ae3c (6.15): the registration walk parses the firmware itself.
    ParseInWalk,
    /// 0c8e9c148e29 (6.16): the walk re-checks after it dropped the lock.
    RecheckAfterParse,
    /// da33e87bd2bf (6.16): an instance is `ready` only after its last walk.
    ReadyFlag,
    /// 95deee37a123 (6.15): `platform_dma_configure` reads `dev->driver` once.
    PlatformDriverOnce,
    /// 78447d4545b2 (6.15): `pci_dma_configure` reads `dev->driver` once.
    PciDriverOnce,
    /// f8670e8e43b8 (7.2): `dma_iommu` becomes an atomic bit in the word of flags.
    AtomicBits,
    /// 23ca35ee8872 (7.2): `dma_coherent` does.
    AtomicCoherent,
    /// 3e3c2f53da2a (7.2): `can_match` does.
    AtomicCanMatch,
    /// d26b560dfb89 (7.2): `dma_skip_sync` does.
    AtomicSkipSync,
    /// 1c7ea139fb1c (7.2): `state_synced` does.
    AtomicStateSynced,
    /// a2225b6e834a (7.1): no probe before `device_add` is ready; brings the word of flags.
    ReadyToProbe,
    /// 152f33ee30ee (7.0): `fsl_mc_dma_configure` reads `dev->driver` once.
    FslMcDriverOnce,
    /// 98ac73f99bc4 (6.7): every IOMMU driver has a default domain.
    DefaultDomainMandatory,
    /// 29c6e1c2b923 (6.15): `iommu_fwspec_free` is no longer exported.
    UnexportFwspecFree,
    /// fd598f71b669 (6.15): the operations are looked up in `iommu_init_device`.
    OpsInInitDevice,
    /// 73d2f10957f5 (6.15): the warning about a late probe comes after a probe that succeeded.
    WarnAfterInit,
    /// b54240ad4943 (5.17): `dev_iommu_free` hides `dev->iommu` before it frees it.
    HideBeforeFree,
    /// 38e8844005e6 (6.15): mediatek registers when its list is ready.
    MediatekReady,
    /// d9d3cede4167 (6.15): ipmmu-vmsa registers in a sensible order.
    IpmmuOrder,
    /// 72b6f7cd89ce (6.17): virtio-iommu is ready before it registers.
    VirtioReady,
    /// 57365a04c921 (6.1): every registration walks the buses.
    RegisterWalks,
    /// The locked half of 6eb4da8cf545, as android14-6.1 carries it.
    LockedGroupTest6_1,
    /// Posted: `amba_dma_configure` reads `dev->driver` once.
    AmbaDriverOnce,
    /// 1137838865bf (7.1): the timeout of deferred probes is moved, not queued twice.
    ModDelayedWork,
    /// 288683c92b1a (6.15): `iommu_dma_prepare_msi` takes the group's mutex.
    MsiUnderGroupMutex,
}

/// What the lab knows about a [`Commit`].
#[derive(Clone, Copy, Debug)]
pub struct CommitInfo {
    /// The commit.
    pub commit: Commit,
    /// The id to write on the command line: twelve hex digits, or a name where there is no commit.
    pub id: &'static str,
    /// All forty digits; empty where there is no commit.
    pub hash: &'static str,
    /// Its subject line.
    pub subject: &'static str,
    /// One line: what it changes in the protocol.
    pub summary: &'static str,
    /// The releases that first carried it, mainline first (`-` if it never did), then the stable trees, newest branch first. `6.6.y` stands where the branch has it and
    /// from which release on is not known.
    pub since: &'static str,
    /// The bases that carry it.
    pub carried_by: &'static [BaseId],
    /// The bases without it on which applying it makes sense.
    pub applies_to: &'static [BaseId],
    /// The bases that carry it and from which it can be taken away.
    pub reverts_from: &'static [BaseId],
    /// Commits that must be there for this one to have a meaning.
    pub needs: &'static [Commit],
}

impl Commit {
    /// Everything known about this commit.
    #[must_use]
    pub fn info(self) -> &'static CommitInfo {
        COMMITS
            .iter()
            .find(|info| info.commit == self)
            .expect("COMMITS has a row for every variant; a test walks them")
    }

    /// The id as written on the command line.
    #[must_use]
    pub fn id(self) -> &'static str {
        self.info().id
    }

    /// Finds a commit by its id, or by seven to forty digits of its hash. A digit too many or a wrong one finds nothing.
    #[must_use]
    pub fn find(id: &str) -> Option<Self> {
        let id = id.trim().to_ascii_lowercase();
        let named = |info: &&CommitInfo| {
            info.id == id || (id.len() >= 7 && !info.hash.is_empty() && info.hash.starts_with(&id))
        };
        COMMITS.iter().find(named).map(|info| info.commit)
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// A set of commits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CommitSet(u64);

impl CommitSet {
    /// The set of the given commits.
    #[must_use]
    pub const fn of(commits: &[Commit]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < commits.len() {
            bits |= 1 << commits[i] as u32;
            i += 1;
        }
        Self(bits)
    }

    /// Is the commit in the set?
    #[must_use]
    pub const fn has(self, commit: Commit) -> bool {
        self.0 & (1 << commit as u32) != 0
    }

    /// The set with one more commit.
    #[must_use]
    pub const fn with(self, commit: Commit) -> Self {
        Self(self.0 | 1 << commit as u32)
    }

    /// The set without a commit.
    #[must_use]
    pub const fn without(self, commit: Commit) -> Self {
        Self(self.0 & !(1 << commit as u32))
    }
}
