//! Streams that firmware left running when the unit was taken over: which there are, and what is to become of each.

use crate::identify::Features;
use crate::unit::Unit;
use alloc::vec::Vec;
use core::fmt;
use portcullis::{OpsError, ReservedRegion, StreamSpec};
use portcullis_addr::StreamId;
use portcullis_platform::{Platform, Registers};
use portcullis_spec::smmuv2::bank::{self, sctlr};
use portcullis_spec::smmuv2::global0::{self, s2cr, scr0, smr, smr_extended};
use portcullis_spec::smmuv2::global1::{self, cbar};
use portcullis_spec::smmuv2::{cbar_type, s2cr_type};

/// What becomes of streams that firmware left running: of the display that shows the boot picture, say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FirmwareStreams {
    /// They are blocked, as all others.
    #[default]
    Block,
    /// Those of these clients go on until their client is led to an address space of its own, without a gap in between. All others are blocked.
    Adopt(Vec<Adoptable>),
}

/// A client that firmware may have left running, as the machine's description has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adoptable {
    /// Its streams at this unit.
    pub streams: Vec<StreamSpec>,
    /// Its reserved regions. The [direct](portcullis::ReservedKind::Direct) ones are what it may go on reaching.
    pub reserved: Vec<ReservedRegion>,
    /// Whether it snoops the CPU's caches.
    pub coherent: bool,
}

/// A stream that firmware left running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareStream {
    /// The ids. Of one that was adopted as described, of one that was blocked as firmware's group matched them.
    pub stream: StreamSpec,
    /// How it reached memory.
    pub ran: Ran,
    /// What became of it.
    pub fate: Fate,
}

/// How a stream reached memory while firmware had the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// Unchanged: its group said "bypass", or led to a bank that was disabled.
    Passed,
    /// Unchanged: the unit was off (`sCR0.CLIENTPD`), as all streams did.
    UnitOff,
    /// Through this bank of firmware's.
    Translated(u8),
    /// In a way that this driver does not follow: nested translation, or a bank that the unit does not have.
    Unclear,
}

/// What became of a stream that firmware left running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It faults.
    Blocked(WhyBlocked),
    /// It goes on reaching its client's direct regions, 1:1, and nothing else.
    Narrowed,
    /// It goes on through firmware's bank and tables, which the driver cannot look into: it reaches what firmware lets it reach.
    Kept,
}

/// Why a stream was not adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyBlocked {
    /// The policy is [`FirmwareStreams::Block`].
    Policy,
    /// No client with this stream and a direct region is described.
    NotDescribed,
    /// Firmware's groups and the description's match entries are not one to one, so none can take the other's place at once.
    SeveralGroups,
    /// The unit has extended ids and firmware did not use them: match registers would change their meaning on the way.
    ExtendedIds,
    /// See [`Ran::Unclear`].
    Unclear,
    /// No table or bank for its regions.
    NoSpace(OpsError),
}

impl fmt::Display for FirmwareStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "firmware left stream {} running ", self.stream)?;
        match self.ran {
            Ran::Passed => f.write_str("untranslated: "),
            Ran::UnitOff => f.write_str("with the SMMU off: "),
            Ran::Translated(bank) => write!(f, "through context bank {bank}: "),
            Ran::Unclear => f.write_str("through a bank that this driver cannot follow: "),
        }?;
        match self.fate {
            Fate::Blocked(why) => write!(f, "blocked, {why}"),
            Fate::Narrowed => f.write_str(
                "adopted, it reaches the regions that are reserved for it, and nothing else, until its driver binds",
            ),
            Fate::Kept => f.write_str(
                "adopted, it reaches what firmware's tables let it reach until its driver binds",
            ),
        }
    }
}

impl fmt::Display for WhyBlocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy => f.write_str("as the policy says"),
            Self::NotDescribed => f.write_str(
                "because no client with this stream has a region to keep (describe it: memory-region with iommu-addresses)",
            ),
            Self::SeveralGroups => f.write_str(
                "because firmware's match entries and the description's are not one to one",
            ),
            Self::ExtendedIds => {
                f.write_str("because firmware did not use the unit's extended ids, and this driver does")
            }
            Self::Unclear => f.write_str("because it could not be replaced without a gap"),
            Self::NoSpace(error) => write!(f, "because there is no address space for it: {error}"),
        }
    }
}

/// A group that matched a stream, or, without stream matching, is the stream's.
#[derive(Clone, Copy, Debug)]
struct Found {
    group: usize,
    stream: StreamSpec,
    ran: Ran,
}

/// How the unit was found.
#[derive(Debug)]
pub(crate) struct Left {
    /// Everything passed.
    pub(crate) off: bool,
    extended: bool,
    running: Vec<Found>,
}

/// A stream that is to go on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) stream: StreamSpec,
    /// Firmware's group; `None` where the unit was off.
    pub(crate) group: Option<usize>,
    pub(crate) ran: Ran,
    /// Which of [`Plans::spaces`] has its regions.
    pub(crate) space: usize,
}

/// What some streams may go on reaching: those of one client, or of several that share one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) reserved: Vec<ReservedRegion>,
    pub(crate) coherent: bool,
}

/// What is to become of all that ran.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plans {
    pub(crate) adopt: Vec<Plan>,
    pub(crate) spaces: Vec<Kept>,
    pub(crate) blocked: Vec<FirmwareStream>,
}

impl Plans {
    /// Whether the group goes on matching what it matches.
    pub(crate) fn keeps_group(&self, group: usize) -> bool {
        self.adopt.iter().any(|plan| plan.group == Some(group))
    }

    /// Whether a stream goes on through the bank as firmware set it up.
    pub(crate) fn keeps_bank(&self, bank: usize) -> bool {
        self.adopt.iter().any(|plan| plan.ran == Ran::Translated(bank as u8))
    }
}

impl Left {
    /// Looks at the unit; writes nothing.
    pub(crate) fn read<P: Platform, R: Registers>(unit: &Unit<P, R>, features: &Features) -> Self {
        let control = u64::from(unit.read(global0::SCR0));
        let off = scr0::CLIENTPD.is_set(control);
        let extended = scr0::EXIDENABLE.is_set(control);
        let groups = 0..usize::from(if off { 0 } else { features.groups });
        let running = groups.filter_map(|group| {
            let stream = matched(unit, features, extended, group)?;
            let ran = way(unit, features, group)?;
            Some(Found { group, stream, ran })
        });
        Self { off, extended, running: running.collect() }
    }

    /// Decides about each stream that runs.
    pub(crate) fn plan(&self, features: &Features, policy: &FirmwareStreams) -> Plans {
        let mut plans = Plans::default();
        let clients = match policy {
            FirmwareStreams::Block => &[],
            FirmwareStreams::Adopt(clients) => clients.as_slice(),
        };
        for client in clients {
            self.plan_client(features, client, &mut plans);
        }
        let why = match policy {
            FirmwareStreams::Block => WhyBlocked::Policy,
            FirmwareStreams::Adopt(_) => WhyBlocked::NotDescribed,
        };
        // Without stream matching a group is there for each id, whether something runs or not.
        let told = self.running.iter().filter(|_| features.stream_matching);
        for found in told {
            let known = plans.blocked.iter().any(|known| known.stream == found.stream);
            if !known && !plans.keeps_group(found.group) {
                plans.blocked.push(found.blocked(why));
            }
        }
        plans
    }

    fn plan_client(&self, features: &Features, client: &Adoptable, plans: &mut Plans) {
        let shares = |plan: &Plan| client.streams.iter().any(|it| it.is_same_set(&plan.stream));
        let space = plans.adopt.iter().find(|plan| shares(plan)).map(|plan| plan.space);
        let space = space.unwrap_or_else(|| {
            plans.spaces.push(Kept { coherent: client.coherent, ..Kept::default() });
            plans.spaces.len() - 1
        });
        let kept = &mut plans.spaces[space];
        kept.reserved.extend_from_slice(&client.reserved);
        kept.coherent &= client.coherent;
        for stream in &client.streams {
            if plans.adopt.iter().any(|plan| plan.stream.is_same_set(stream)) {
                continue;
            }
            if self.off {
                let (group, ran) = (None, Ran::UnitOff);
                plans.adopt.push(Plan { stream: *stream, group, ran, space });
                continue;
            }
            let running = self.running.iter().filter(|found| found.stream.overlaps(stream));
            let running: Vec<_> = running.collect();
            match running[..] {
                [] => {}
                [found] => match self.obstacle(features, found, plans) {
                    None => plans.adopt.push(Plan {
                        stream: *stream,
                        group: Some(found.group),
                        ran: found.ran,
                        space,
                    }),
                    Some(why) => plans.blocked.push(found.blocked(why)),
                },
                _ => plans
                    .blocked
                    .extend(running.iter().map(|found| found.blocked(WhyBlocked::SeveralGroups))),
            }
        }
    }

    /// Why a group cannot be taken over.
    fn obstacle(&self, features: &Features, found: &Found, plans: &Plans) -> Option<WhyBlocked> {
        if found.ran == Ran::Unclear {
            Some(WhyBlocked::Unclear)
        } else if self.extended != features.extended_ids {
            Some(WhyBlocked::ExtendedIds)
        } else {
            plans.keeps_group(found.group).then_some(WhyBlocked::SeveralGroups)
        }
    }
}

impl Found {
    fn blocked(&self, why: WhyBlocked) -> FirmwareStream {
        FirmwareStream { stream: self.stream, ran: self.ran, fate: Fate::Blocked(why) }
    }
}

/// What a group matches.
fn matched<P: Platform, R: Registers>(
    unit: &Unit<P, R>,
    features: &Features,
    extended: bool,
    group: usize,
) -> Option<StreamSpec> {
    if !features.stream_matching {
        return Some(StreamSpec::exact(StreamId::new(group as u32)));
    }
    let word = u64::from(unit.read_group(global0::SMR, group));
    let (valid, id, mask) = if extended {
        let valid = s2cr::EXIDVALID.is_set(unit.read_group(global0::S2CR, group).into());
        (valid, smr_extended::ID.get(word), smr_extended::MASK.get(word))
    } else {
        (smr::VALID.is_set(word), smr::ID.get(word), smr::MASK.get(word))
    };
    valid.then(|| StreamSpec { id: StreamId::new(id as u32), mask: mask as u32 })
}

/// Where a group leads; `None` where its stream faults.
fn way<P: Platform, R: Registers>(
    unit: &Unit<P, R>,
    features: &Features,
    group: usize,
) -> Option<Ran> {
    let word = u64::from(unit.read_group(global0::S2CR, group));
    match s2cr::TYPE.get(word) {
        s2cr_type::BYPASS => Some(Ran::Passed),
        s2cr_type::TRANSLATION => {
            let index = s2cr::CBNDX.get(word);
            if index >= features.banks.into() {
                return Some(Ran::Unclear);
            }
            let bank = index as usize;
            let enabled = sctlr::M.is_set(unit.read_bank(bank::SCTLR, bank).into());
            match cbar::TYPE.get(unit.read_attribute(global1::CBAR, bank).into()) {
                cbar_type::STAGE1_FAULT => None,
                cbar_type::NESTED => Some(Ran::Unclear),
                _ if !enabled => Some(Ran::Passed),
                _ => Some(Ran::Translated(bank as u8)),
            }
        }
        _ => None,
    }
}
