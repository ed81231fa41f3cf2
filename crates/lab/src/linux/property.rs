//! What must never happen: the invariants I1 to I8 and the bad ends B1 to B7, each with what a user of
//! such a kernel sees.

use std::rc::Rc;

use portcullis_explore::proto::Builder;

use super::commit::Commit;
use super::kernel::{BLOCKED, CLAIMED, Client, DMA, Kernel, MSI_DIRECT, NOT_CLAIMED, View};
use super::world::{Bus, Driver, Event, World};
use super::{client, dd, dma};

/// One way to violate an invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Id {
    /// The driver runs on direct DMA behind a translating domain.
    WrongPathForGood,
    /// The bit that chooses iommu-dma was lost to a store of its neighbour.
    LostBit,
    /// The driver mapped through iommu-dma although its device is not attached to the group's domain.
    NotAttached,
    /// The driver claimed before there was a group, and its path changed when there was one.
    NoGroupAtClaim,
    /// The driver passed its claim by a domain that a sibling had set up, for the sibling only.
    SiblingsDomain,
    /// The DMA path changed under a running driver.
    SwitchedUnderDriver,
    /// The message of an interrupt was composed for the other path.
    MsiUnmapped,
    /// The domain was replaced or freed under a running driver.
    DomainReplaced,
    /// A default domain was attached under an outside owner.
    OwnerOverridden,
    /// The instance looked up is NULL and gets dereferenced.
    NullSmmu,
    /// `dev->iommu` is NULL and gets dereferenced.
    NullDevIommu,
    /// The fwspec was freed while another thread fills it.
    FwspecFreedInUse,
    /// The domain was freed while `iommu_setup_dma_ops` works on it.
    DomainFreedInUse,
    /// A mapping through a domain whose IOVA space was never made.
    NullIovaDomain,
    /// `dev->driver` changed between two reads.
    DriverReadTwice,
    /// A removed device is still a member of its group.
    GoneButListed,
    /// `probe_device` ran twice for one device.
    ProbedTwice,
    /// A device is deferred and nothing will try it again.
    NeverTriedAgain,
    /// The registration of an instance failed.
    RegistrationFailed,
    /// A group is linked into a list whose head is gone.
    DanglingEntry,
    /// A driver runs, `owner_cnt` is zero.
    Uncounted,
    /// `owner_cnt` does not match the bound drivers at the end.
    CountLeaked,
    /// `owner_cnt` would go below zero.
    OwnerUnderflow,
    /// A group was emptied while it is in use.
    FreedWhileOwned,
    /// The outside owner leaves, there is no default domain to go back to.
    NoDomainToReturnTo,
    /// A client runs without its IOMMU although that is usable.
    BoundWithoutIommu,
    /// The IOMMU probe of a device came when a driver was binding it.
    LateProbeWarning,
}

/// What there is to say about an [`Id`].
#[derive(Clone, Copy, Debug)]
pub struct PropertyInfo {
    /// The way.
    pub id: Id,
    /// A stable word for it.
    pub name: &'static str,
    /// The invariant it violates: `I1` to `I8`, or the bad end itself where no invariant speaks of it.
    pub invariant: &'static str,
    /// The bad end it leads to, `B1` to `B7`.
    pub bad_end: Option<&'static str>,
    /// What is wrong, in a sentence.
    pub meaning: &'static str,
}

macro_rules! ways {
    ($($id:ident $name:literal $invariant:literal $end:expr, $meaning:literal;)+) => {
        /// Every way, in the order of [`Id`].
        pub const PROPERTIES: &[PropertyInfo] = &[$(PropertyInfo {
            id: Id::$id, name: $name, invariant: $invariant, bad_end: $end, meaning: $meaning,
        }),+];
    };
}

ways! {
    WrongPathForGood "wrong-path" "I1" Some("B1"),
        "the driver runs with direct DMA although its device sits behind a translating domain, and stays so";
    LostBit "lost-bit" "I1" Some("B1"),
        "dma_iommu was set and is lost to a store of another bit of its byte: the driver runs with direct DMA behind a translating domain";
    NotAttached "not-attached" "I1" None,
        "the driver maps through iommu-dma, but its device is not attached to the domain: all its DMA is blocked";
    NoGroupAtClaim "no-group-at-claim" "I2" Some("B2"),
        "the driver found no group to claim while a walk was at work on its device, and started with direct DMA; the walk then switches the path under it";
    SiblingsDomain "siblings-domain" "I2" Some("B2"),
        "the claim passed because the group had its domain already, from a sibling's probe that set up the DMA path of the sibling only: this driver starts with direct DMA and is switched under its feet";
    SwitchedUnderDriver "path-switched" "I2" Some("B2"),
        "the DMA path changes under the running driver: buffers mapped directly are unmapped through iommu-dma";
    MsiUnmapped "msi-unmapped" "I2" None,
        "the interrupt's message holds the doorbell's physical address, but the device now sits behind a translating domain that does not map it: no interrupt arrives";
    DomainReplaced "domain-replaced" "I2" Some("B6"),
        "the domain is replaced or freed under the running driver: its mappings are gone";
    OwnerOverridden "owner-overridden" "I2" Some("B6"),
        "the kernel's default domain is attached under an outside owner of the group";
    NullSmmu "null-smmu" "I3" Some("B3"),
        "the driver does not find its own instance and dereferences NULL";
    NullDevIommu "null-dev-iommu" "I3" Some("B3"),
        "dev->iommu was freed by another thread and is dereferenced";
    FwspecFreedInUse "fwspec-freed" "I3" Some("B3"),
        "the fwspec was freed by another thread while this one fills it";
    DomainFreedInUse "domain-freed" "I3" Some("B3"),
        "the domain was freed by another thread while this one sets up its IOVA space";
    NullIovaDomain "null-iova" "I3" Some("B3"),
        "the driver maps through a domain whose IOVA space was never made";
    DriverReadTwice "driver-read-twice" "I3" Some("B3"),
        "dev->driver is read twice, NULL at first: the driver structure is computed from NULL and then used";
    GoneButListed "gone-but-listed" "I3" None,
        "a removed device is still a member of its group: the list points to freed memory";
    ProbedTwice "probed-twice" "I4" None,
        "probe_device runs twice for one device: the second run overwrites the first one's state";
    NeverTriedAgain "never-tried-again" "I5" None,
        "a device is deferred and nothing is left that would try it again";
    RegistrationFailed "registration-failed" "I5" Some("B5"),
        "the registration of the IOMMU fails because of a client; it is tried again only when something else binds";
    DanglingEntry "dangling-entry" "I6" None,
        "a group stays linked into a list whose head is gone; later walks never give it a default domain";
    Uncounted "uncounted" "I7" None,
        "a driver uses the group and owner_cnt is zero: an outside owner may take the group from under it";
    CountLeaked "count-leaked" "I7" None,
        "owner_cnt does not match the drivers that are bound: the group can never be claimed, or too early";
    OwnerUnderflow "count-underflow" "I7" Some("B7"),
        "owner_cnt is zero when a driver gives it back";
    FreedWhileOwned "freed-while-owned" "I7" Some("B6"),
        "the group loses its last member and its domains while somebody uses it";
    NoDomainToReturnTo "no-domain-to-return-to" "I7" Some("B7"),
        "the outside owner leaves and the group has no default domain: it stays blocked";
    BoundWithoutIommu "no-iommu" "I8" Some("B4"),
        "the driver runs without its IOMMU although that is bound and usable: all its DMA is blocked or faults";
    LateProbeWarning "late-probe" "B7" Some("B7"),
        "the IOMMU probe of a device runs while its driver is binding";
}

impl Id {
    /// What there is to say about it.
    #[must_use]
    pub fn info(self) -> &'static PropertyInfo {
        &PROPERTIES[self as usize]
    }

    /// The line in the kernel's log that shows it, where the way itself always prints one; `device` is
    /// the name of the device concerned. The line of the report is not among them: it is printed earlier,
    /// and taken from the schedule.
    #[must_use]
    pub fn message(self, world: &World, device: &str) -> Option<String> {
        Some(match self {
            Self::NullSmmu | Self::NullDevIommu | Self::NullIovaDomain | Self::DriverReadTwice => {
                "Unable to handle kernel NULL pointer dereference at virtual address".into()
            }
            Self::FwspecFreedInUse => {
                "BUG: KASAN: slab-use-after-free in iommu_fwspec_add_ids".into()
            }
            Self::DomainFreedInUse => {
                "BUG: KASAN: slab-use-after-free in iommu_setup_dma_ops".into()
            }
            Self::LateProbeWarning => {
                format!("{device}: late IOMMU probe at driver bind, something fishy here!")
            }
            Self::RegistrationFailed => match world.driver {
                Driver::V2 => format!("arm-smmu {device}: Failed to register iommu"),
                Driver::V3 => format!("arm-smmu-v3 {device}: Failed to register iommu"),
            },
            _ => return None,
        })
    }

    /// What a user of such a kernel sees, in words.
    #[must_use]
    pub fn symptom(self, world: &World) -> String {
        let fault = match world.driver {
            Driver::V2 => {
                "`Unhandled context fault: fsr=0x..., iova=0x..., fsynr=0x..., cbfrsynra=0x..., cb=N` from the SMMU"
            }
            Driver::V3 => "`event 0x10 received` (F_TRANSLATION) from the SMMU",
        };
        let blocked = match world.driver {
            Driver::V2 => "`Blocked unknown Stream ID 0x...` from the SMMU",
            Driver::V3 => "`event 0x02 received` (C_BAD_STREAMID) from the SMMU",
        };
        match self {
            Self::WrongPathForGood | Self::LostBit => {
                format!("the device works with physical addresses that nobody mapped: {fault}, the device times out")
            }
            Self::SwitchedUnderDriver | Self::NoGroupAtClaim | Self::SiblingsDomain => {
                format!("no message at the moment of the error; later a WARN in iommu_dma_unmap, {fault}")
            }
            Self::MsiUnmapped => format!("the driver waits for an interrupt that never comes: {fault} at the doorbell's address"),
            Self::DomainReplaced | Self::OwnerOverridden | Self::FreedWhileOwned => {
                format!("mappings vanish under their user: {fault}")
            }
            Self::BoundWithoutIommu | Self::NotAttached => {
                format!("the device probes without any error line and its DMA is aborted: {blocked}")
            }
            Self::NullSmmu | Self::NullDevIommu | Self::NullIovaDomain | Self::DriverReadTwice => {
                "a kernel Oops in the probing thread, which keeps its locks: binding of devices hangs".into()
            }
            Self::FwspecFreedInUse | Self::DomainFreedInUse | Self::GoneButListed | Self::DanglingEntry => {
                "memory corruption; with KASAN a use-after-free report".into()
            }
            Self::ProbedTwice => {
                "`sysfs: cannot create duplicate filename`, a leaked stream-table entry".into()
            }
            Self::NeverTriedAgain => {
                "the device never appears; `deferred probe pending` after the timeout".into()
            }
            Self::RegistrationFailed => {
                "the SMMU's probe fails with -EPROBE_DEFER; its clients wait or run without it".into()
            }
            Self::Uncounted => "nothing, until VFIO takes the group from under the driver".into(),
            Self::CountLeaked => "VFIO is refused the group (-EPERM), or admitted too early".into(),
            Self::OwnerUnderflow => {
                "a WARN in iommu_device_unuse_default_domain".into()
            }
            Self::NoDomainToReturnTo => {
                "a WARN in __iommu_group_set_domain_internal; the device stays blocked".into()
            }
            Self::LateProbeWarning => "a WARN with a backtrace; the device works".into(),
        }
    }
}

/// Is this way checked by the steps themselves, rather than by looking at states?
pub(crate) fn is_checked_in_steps(id: Id) -> bool {
    !matches!(
        id,
        Id::WrongPathForGood
            | Id::LostBit
            | Id::NotAttached
            | Id::NoGroupAtClaim
            | Id::SiblingsDomain
            | Id::SwitchedUnderDriver
            | Id::MsiUnmapped
            | Id::DomainReplaced
            | Id::GoneButListed
            | Id::Uncounted
            | Id::BoundWithoutIommu
            | Id::NeverTriedAgain
            | Id::CountLeaked
    )
}

/// Declares the properties of states and of ends.
pub(crate) fn declare(b: &mut Builder, kernel: &Rc<Kernel>) {
    for info in PROPERTIES.iter().filter(|info| !is_checked_in_steps(info.id)) {
        let k = Rc::clone(kernel);
        let id = info.id;
        match id {
            Id::NeverTriedAgain => {
                b.eventually(info.name, move |s| s.get(k.pending) == 0 || s.is_set(k.oopsed))
            }
            Id::CountLeaked => {
                b.eventually(info.name, move |s| counts_match(&k, s) || s.is_set(k.oopsed))
            }
            Id::GoneButListed => {
                b.always(info.name, move |s| k.clients().all(|x| !is_gone_but_listed(&k, s, x)))
            }
            _ => b.always(info.name, move |s| k.clients().all(|x| !shows(&k, s, x, id))),
        };
    }
    let k = Rc::clone(kernel);
    b.sometimes(HEALTHY, move |s| is_healthy(&k, s));
}

/// The name of the good end that must be reachable.
pub(crate) const HEALTHY: &str = "healthy-bound";

fn is_gone_but_listed(k: &Kernel, s: &View<'_>, x: Client) -> bool {
    let group = k.group(k.group_of(x));
    let is_listed = |s: &View<'_>| s.get(group.members) >> x.0 & 1 != 0;
    s.get(k.client(x).dead) == 2 && s.while_free(group.mutex, is_listed) == Some(true)
}

/// Does the state show that a running driver was wronged in this way? A state inside the group's critical
/// section is passed over: nobody but its owner may judge the group then.
fn shows(k: &Kernel, s: &View<'_>, x: Client, id: Id) -> bool {
    let group = k.group(k.group_of(x));
    s.get(k.client(x).run) & client::RUNNING != 0
        && s.while_free(group.mutex, |s| is_wrong(k, s, x, id)) == Some(true)
}

/// Is a running driver wronged in this way? Nobody is inside the group's critical section.
fn is_wrong(k: &Kernel, s: &View<'_>, x: Client, id: Id) -> bool {
    let dev = k.client(x);
    match id {
        Id::Uncounted => {
            let claims = !k.manages_dma(x) && k.world().bus != Bus::Host1x;
            let owner_cnt = k.group(k.group_of(x)).owner_cnt;
            claims && s.get(dev.iommu_group) != 0 && s.get(owner_cnt) == 0
        }
        Id::MsiUnmapped => s.get(dev.msi) == MSI_DIRECT && s.get(dev.attached) == DMA,
        Id::BoundWithoutIommu => {
            s.get(dev.iommu_group) == 0
                && !k.is_refused(x)
                && s.get(dev.seen_domain) == 0
                && s.get(k.iommu(k.iommu_of(x)).bound) != 0
                && !some_instance_registers(k, s)
        }
        _ => wronged(k, s, x) == Some(id),
    }
}

/// Is a walk under way that may still find the device?
fn some_instance_registers(k: &Kernel, s: &View<'_>) -> bool {
    k.iommus().any(|i| s.get(k.iommu(i).listed) != 0 && s.get(k.iommu(i).bound) == 0)
}

/// How the DMA path or the domain of a running driver is wrong, if it is.
fn wronged(k: &Kernel, s: &View<'_>, x: Client) -> Option<Id> {
    let dev = k.client(x);
    let through_iommu = s.get(dev.dma) & dma::IOMMU_DMA != 0;
    let saw_iommu = s.get(dev.seen_path) == client::SAW_IOMMU;
    let group = k.group(k.group_of(x));
    let (attached, seen) = (s.get(dev.attached), s.get(dev.seen_domain));
    if s.get(dev.path_chosen) != 0 && !through_iommu {
        Some(Id::LostBit)
    } else if through_iommu != saw_iommu {
        Some(switched(k, s, x))
    } else if !saw_iommu && attached == DMA && s.get(group.entry) == 0 {
        Some(Id::WrongPathForGood)
    } else if saw_iommu && seen == 0 && attached == 0 {
        Some(Id::NotAttached)
    } else if attached != seen && (seen != 0 || attached == BLOCKED) {
        Some(Id::DomainReplaced)
    } else {
        None
    }
}

/// Why the path of a running driver changed: by what its claim had seen.
fn switched(k: &Kernel, s: &View<'_>, x: Client) -> Id {
    match s.get(k.client(x).claimed) {
        NOT_CLAIMED if !k.manages_dma(x) => Id::NoGroupAtClaim,
        CLAIMED if k.has(Commit::DmaOpsWithDomain) => Id::SiblingsDomain,
        _ => Id::SwitchedUnderDriver,
    }
}

/// At an end: `owner_cnt` of each group is not above the number of bound drivers that it stands for.
fn counts_match(k: &Kernel, s: &View<'_>) -> bool {
    k.groups().all(|g| {
        let users = k
            .members_possible(g)
            .filter(|x| s.get(k.client(*x).run) & dd::BOUND != 0 && !k.manages_dma(*x))
            .filter(|x| s.get(k.client(*x).iommu_group) != 0)
            .count() as u64;
        s.get(k.group(g).owner_cnt) <= users
    })
}

/// The good end that must be reachable: every client bound, on the path of its domain, counted.
fn is_healthy(k: &Kernel, s: &View<'_>) -> bool {
    k.clients().filter(|x| !k.is_refused(*x)).all(|x| {
        let dev = k.client(x);
        if k.first_probe(x) == Some(Event::Fail) {
            return s.is_set(dev.tried) && !s.is_set(dev.run) && !s.is_set(dev.driver);
        }
        let counts = !k.manages_dma(x) && k.world().bus != Bus::Host1x;
        let through_iommu = s.get(dev.dma) & dma::IOMMU_DMA != 0;
        let attached = s.get(dev.attached);
        s.get(dev.run) & dd::BOUND != 0
            && attached != 0
            && through_iommu == (attached == DMA)
            && (!counts || s.get(k.group(k.group_of(x)).owner_cnt) != 0)
    })
}
