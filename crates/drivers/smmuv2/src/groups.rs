//! Stream mapping groups: which ids lead where.
//!
//! The records are kept under a lock, registers are written without it: calls about one stream do not overlap, and a group belongs to one stream (or to the ids under one mask).

use crate::hooks::{Safeguard, omitted};
use crate::identify::Features;
use crate::unit::Unit;
use alloc::vec::Vec;
use portcullis::{OpsError, SpaceTag, StreamSpec, Unsupported};
use portcullis_platform::{Lock, LockLabel, Platform, Registers};
use portcullis_spec::smmuv2::global0::{self, s2cr, smr, smr_extended};
use portcullis_spec::smmuv2::s2cr_type;

/// What a group is known for.
#[derive(Clone, Copy, Debug)]
struct Record {
    spec: StreamSpec,
    claims: u32,
    /// The unit has not confirmed that the group acts as it says.
    doubtful: bool,
    /// Which use of the group this is.
    serial: u64,
    /// Firmware left it running, and it goes on through this until it is led somewhere.
    goes_on: Option<GoesOn>,
}

/// What a stream goes on through that firmware left running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GoesOn {
    /// An address space of this driver's with its client's regions.
    Space(SpaceTag),
    /// A bank of firmware's.
    Bank(u8),
}

/// What a confirmation has settled.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Groups that nobody claims, which are free once they match nothing ([`free`](Groups::free)).
    pub(crate) unclaimed: Vec<Held>,
    /// What no stream goes on through any more.
    pub(crate) over: Vec<GoesOn>,
}

/// A group, and which use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) group: usize,
    serial: u64,
}

#[derive(Debug)]
struct Records {
    entries: Vec<Option<Record>>,
    serial: u64,
}

#[derive(Debug)]
pub(crate) struct Groups<P: Platform> {
    records: Lock<P, Records>,
    features: Features,
}

/// Where a group leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Fault,
    Bypass,
    Bank(u8),
}

/// The groups that a claim found.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    /// Taken by this claim: to be set up.
    pub(crate) fresh: Vec<(Held, StreamSpec)>,
    /// Taken over from a release that was not confirmed.
    pub(crate) doubtful: Vec<Held>,
}

impl<P: Platform> Groups<P> {
    pub(crate) fn new(features: &Features, label: u64) -> Self {
        let records = Records { entries: alloc::vec![None; features.groups.into()], serial: 0 };
        let records = Lock::<P, _>::new(LockLabel::new("smmu2.groups", label), records);
        Self { records, features: *features }
    }

    /// Counts a claim of each stream; all or none.
    pub(crate) fn claim(&self, streams: &[StreamSpec]) -> Result<Claimed, OpsError> {
        let mut claimed = Claimed::default();
        let mut records = self.records.lock();
        for (done, spec) in streams.iter().enumerate() {
            if let Err(error) = self.claim_one(&mut records, *spec, &mut claimed) {
                streams[..done].iter().for_each(|spec| records.undo(*spec, &claimed));
                return Err(error);
            }
        }
        Ok(claimed)
    }

    fn claim_one(
        &self,
        records: &mut Records,
        spec: StreamSpec,
        claimed: &mut Claimed,
    ) -> Result<(), OpsError> {
        self.check(spec)?;
        if let Some((held, record)) = records.find(spec) {
            let goes_on = record.goes_on.is_some() && !omitted::<P>(Safeguard::GoOnUntilReplaced);
            if record.claims == 0 && !goes_on {
                claimed.doubtful.push(held);
            }
            record.claims += 1;
            return Ok(());
        }
        if records.entries.iter().flatten().any(|record| record.spec.overlaps(&spec)) {
            // Two groups that match one stream are a fault of the whole unit.
            return Err(OpsError::StreamInUse { stream: spec });
        }
        let held = self.take(records, spec, None)?;
        claimed.fresh.push((held, spec));
        Ok(())
    }

    /// Takes a group for a stream: `wanted`, or a free one.
    fn take(
        &self,
        records: &mut Records,
        spec: StreamSpec,
        wanted: Option<usize>,
    ) -> Result<Held, OpsError> {
        let free = || records.entries.iter().position(Option::is_none);
        let group = match wanted {
            Some(group) => group,
            None if self.features.stream_matching => free().ok_or(OpsError::OutOfStreams)?,
            None => spec.id.raw() as usize,
        };
        records.serial += 1;
        let serial = records.serial;
        let record = Record { spec, claims: 1, doubtful: false, serial, goes_on: None };
        records.entries[group] = Some(record);
        Ok(Held { group, serial })
    }

    /// Takes a group for a stream that goes on through `by`: `wanted`, or a free one. Nobody claims it yet.
    pub(crate) fn adopt(
        &self,
        wanted: Option<usize>,
        spec: StreamSpec,
        by: GoesOn,
    ) -> Result<Held, OpsError> {
        self.check(spec)?;
        let mut records = self.records.lock();
        let held = self.take(&mut records, spec, wanted)?;
        if let Some(record) = records.get(held) {
            (record.claims, record.goes_on) = (0, Some(by));
        }
        Ok(held)
    }

    fn check(&self, spec: StreamSpec) -> Result<(), OpsError> {
        let bits = self.features.id_bits;
        let beyond = |value: u32| value >> bits != 0;
        let absent = !self.features.stream_matching && spec.id.raw() >= self.features.groups.into();
        if beyond(spec.id.raw()) || absent {
            return Err(OpsError::StreamOutOfRange { stream: spec, bits });
        }
        if spec.mask & !u32::from(self.features.mask_bits) != 0 || beyond(spec.mask) {
            return Err(OpsError::Unsupported(Unsupported::StreamMask(spec)));
        }
        Ok(())
    }

    /// Undoes one claim of each stream; gives the groups that nobody claims any more.
    pub(crate) fn unclaim(&self, streams: &[StreamSpec]) -> Vec<Held> {
        let mut records = self.records.lock();
        let mut last = Vec::new();
        for spec in streams {
            let Some((held, record)) = records.find(*spec) else { continue };
            record.claims = record.claims.saturating_sub(1);
            if record.claims == 0 {
                last.push(held);
            }
        }
        last
    }

    /// The groups of streams that are claimed.
    pub(crate) fn hold(&self, streams: &[StreamSpec]) -> Result<Vec<Held>, OpsError> {
        let mut records = self.records.lock();
        let find = |spec: &StreamSpec| {
            let found = records.find(*spec).filter(|(_, record)| record.claims > 0);
            found.map(|(held, _)| held).ok_or(OpsError::UnknownStream { stream: *spec })
        };
        streams.iter().map(find).collect()
    }

    /// The group of a stream, whether somebody claims it or not.
    pub(crate) fn find(&self, spec: StreamSpec) -> Option<Held> {
        self.records.lock().find(spec).map(|(held, _)| held)
    }

    /// Whether some stream goes on through that.
    pub(crate) fn goes_on(&self, by: GoesOn) -> bool {
        self.records.lock().entries.iter().flatten().any(|record| record.goes_on == Some(by))
    }

    /// Notes that groups were written, but may not yet act as they say.
    pub(crate) fn doubt(&self, groups: &[Held]) {
        let mut records = self.records.lock();
        for held in groups {
            if let Some(record) = records.get(*held) {
                record.doubtful = true;
            }
        }
    }

    /// The groups that are doubtful now.
    pub(crate) fn doubts(&self) -> Vec<Held> {
        let records = self.records.lock();
        let entries = records.entries.iter().enumerate();
        let doubtful = entries.filter_map(|(group, entry)| {
            let record = entry.as_ref().filter(|record| record.doubtful)?;
            Some(Held { group, serial: record.serial })
        });
        doubtful.collect()
    }

    /// The unit has confirmed that these act as they say.
    pub(crate) fn trust(&self, groups: &[Held]) -> Settled {
        let mut records = self.records.lock();
        let mut settled = Settled::default();
        for held in groups {
            if let Some(record) = records.get(*held) {
                record.doubtful = false;
                // Once, however many streams went on through it: its name may be another's as soon as it is let go.
                let by = record.goes_on.take().filter(|by| !settled.over.contains(by));
                settled.over.extend(by);
                if record.claims == 0 {
                    settled.unclaimed.push(*held);
                }
            }
        }
        settled.over.retain(|by| {
            !records.entries.iter().flatten().any(|record| record.goes_on == Some(*by))
        });
        settled
    }

    /// Gives groups back that match nothing any more.
    pub(crate) fn free(&self, groups: &[Held]) {
        let mut records = self.records.lock();
        for held in groups {
            if records.get(*held).is_some_and(|it| it.claims == 0 && !it.doubtful) {
                records.entries[held.group] = None;
            }
        }
    }

    /// The word that leads a group to `destination`.
    pub(crate) fn word(&self, destination: Destination) -> u32 {
        let extended = s2cr::EXIDVALID.of(self.features.extended_ids.into());
        let word = match destination {
            // Firmware that traps the register makes one of the other.
            Destination::Fault if self.features.s2cr_is_trapped => s2cr::TYPE.of(s2cr_type::BYPASS),
            Destination::Fault => s2cr::TYPE.of(s2cr_type::FAULT),
            Destination::Bypass => s2cr::TYPE.of(s2cr_type::BYPASS),
            Destination::Bank(bank) => {
                s2cr::TYPE.of(s2cr_type::TRANSLATION) | s2cr::CBNDX.of(bank.into())
            }
        };
        (word | extended) as u32
    }

    /// Leads a group somewhere and reads back whether it does. The value found, where it does not.
    pub(crate) fn lead<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        group: usize,
        destination: Destination,
    ) -> Result<(), u32> {
        unit.write_group(global0::S2CR, group, self.word(destination));
        let found = unit.read_group(global0::S2CR, group);
        let (kind, bank) = (s2cr::TYPE.get(found.into()), s2cr::CBNDX.get(found.into()));
        let right = match destination {
            Destination::Fault => kind == s2cr_type::FAULT,
            Destination::Bypass => kind == s2cr_type::BYPASS,
            Destination::Bank(wanted) => {
                kind == s2cr_type::TRANSLATION && bank == u64::from(wanted)
            }
        };
        if right { Ok(()) } else { Err(found) }
    }

    /// Sets a group up that matched nothing: its stream faults. What a group leads to is written before what it matches, so that no stream ever goes where
    /// the last user's went; with extended ids the register that says where also says whether, so there the order is the other way round.
    pub(crate) fn set_up<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        group: usize,
        spec: StreamSpec,
    ) -> Result<(), u32> {
        if self.features.extended_ids {
            self.matches(unit, group, spec);
            return self.lead(unit, group, Destination::Fault);
        }
        let late = omitted::<P>(Safeguard::DestinationBeforeMatch);
        if !late {
            self.lead(unit, group, Destination::Fault)?;
        }
        self.matches(unit, group, spec);
        if late { self.lead(unit, group, Destination::Fault) } else { Ok(()) }
    }

    /// Has a group match these ids, and no others, by one store.
    pub(crate) fn matches<R: Registers>(&self, unit: &Unit<P, R>, group: usize, spec: StreamSpec) {
        let mask = if omitted::<P>(Safeguard::KeepMask) { 0 } else { spec.mask };
        let (id, mask) = (u64::from(spec.id.raw()), u64::from(mask));
        let word = if self.features.extended_ids {
            smr_extended::ID.of(id) | smr_extended::MASK.of(mask)
        } else {
            smr::VALID.of(1) | smr::ID.of(id) | smr::MASK.of(mask)
        };
        if self.features.stream_matching {
            unit.write_group(global0::SMR, group, word as u32);
        }
    }

    /// Lets a group match nothing. With extended ids the valid bit is in `S2CR`, so what matters is that the group faults before.
    pub(crate) fn unmatch<R: Registers>(&self, unit: &Unit<P, R>, group: usize) {
        if self.features.extended_ids {
            let fault = u64::from(self.word(Destination::Fault));
            let word = s2cr::EXIDVALID.with(fault, 0) as u32;
            unit.write_group(global0::S2CR, group, word);
        }
        if self.features.stream_matching {
            unit.write_group(global0::SMR, group, 0);
        }
    }
}

impl Records {
    fn find(&mut self, spec: StreamSpec) -> Option<(Held, &mut Record)> {
        let known =
            |entry: &Option<Record>| entry.is_some_and(|record| record.spec.is_same_set(&spec));
        let group = self.entries.iter().position(known)?;
        let record = self.entries[group].as_mut()?;
        Some((Held { group, serial: record.serial }, record))
    }

    /// The record, if the group is still in that use.
    fn get(&mut self, held: Held) -> Option<&mut Record> {
        self.entries[held.group].as_mut().filter(|record| record.serial == held.serial)
    }

    /// Takes back what a claim that failed later had counted.
    fn undo(&mut self, spec: StreamSpec, claimed: &Claimed) {
        let Some((held, record)) = self.find(spec) else { return };
        record.claims = record.claims.saturating_sub(1);
        let unused = record.claims == 0 && claimed.fresh.iter().any(|(fresh, _)| *fresh == held);
        if unused {
            self.entries[held.group] = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_addr::{PageSizes, StreamId};
    use portcullis_platform::host::{HostPlatform, NoMemory};

    fn features() -> Features {
        Features {
            stream_matching: true,
            groups: 4,
            id_bits: 15,
            mask_bits: 0x7fff,
            extended_ids: false,
            banks: 4,
            stage2_banks: 0,
            coherent: true,
            intermediate_bits: 48,
            output_bits: 48,
            upstream_bits: 48,
            granules: PageSizes::ALL,
            stage1: true,
            stage2: true,
            aarch32: false,
            s2cr_is_trapped: false,
            pages_only: false,
            first_tag: 0,
            wide_vmids: false,
            kept_banks: 0,
        }
    }

    /// Two streams of one display that are led away by one call. Said twice, the second time would end whatever space had got the same name in between.
    #[test]
    fn what_several_streams_went_on_through_is_over_once_and_not_before_the_last() {
        let groups = Groups::<HostPlatform<NoMemory>>::new(&features(), 0);
        for by in [GoesOn::Space(SpaceTag(512)), GoesOn::Bank(3)] {
            let stream = |id| StreamSpec::exact(StreamId::new(id));
            let adopted = [1, 2, 3].map(|id| groups.adopt(None, stream(id), by).expect("room"));
            assert_eq!(groups.trust(&adopted[..1]).over, []);
            assert_eq!(groups.trust(&adopted[1..]).over, [by]);
            assert_eq!(groups.trust(&adopted).over, []);
            groups.free(&adopted);
        }
    }
}
