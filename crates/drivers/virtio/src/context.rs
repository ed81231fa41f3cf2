//! Address spaces: domains of the device, and what is mapped in them (§5.13.6.3 to §5.13.6.6).
//!
//! A domain exists at the device while an endpoint is attached to it. What is mapped before that, or again after it, is kept here and requested when the first endpoint is attached.

use crate::command::{Command, map_flags};
use crate::hooks::{Safeguard, omitted};
use crate::unit::Unit;
use crate::{Device, identify::Features};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use core::iter;
use portcullis::{AddressSpace, Breakage, OpsError, SpaceError, SpaceTag};
use portcullis_addr::{Iova, IovaRange, PageSize, PageSizes, PhysAddr, PhysRange, Prot, StreamId};
use portcullis_driver_parts::{Ids, Search, Submitted};
use portcullis_pgtable::{FlushRange, IotlbGather, MapError, PageTable, UnmapError};
use portcullis_platform::{AllocError, Lock, LockLabel, PageLayout, Platform, Registers};
use portcullis_spec::virtio::iommu::status;

/// One address space.
pub(crate) struct Channel<P: Platform, R: Registers> {
    device: Arc<Device<P, R>>,
    input: IovaRange,
    contents: Lock<P, Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    /// The domain, from the space's binding on.
    domain: Option<u32>,
    /// Endpoints that are, or may be, attached.
    attached: Vec<StreamId>,
    /// What is mapped, by first address.
    mappings: BTreeMap<u64, Mapping>,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    last: u64,
    phys: PhysAddr,
    prot: Prot,
}

impl Contents {
    /// The domain, while it exists at the device.
    fn live(&self) -> Option<u32> {
        self.domain.filter(|_| !self.attached.is_empty())
    }

    /// The first address of `[first, last]` that is mapped.
    fn occupied(&self, first: u64, last: u64) -> Option<u64> {
        let (start, mapping) = self.mappings.range(..=last).next_back()?;
        (mapping.last >= first).then(|| (*start).max(first))
    }

    /// Whether `[first, last]` is exactly some mappings.
    fn check_whole(&self, first: u64, last: u64, granule: PageSize) -> Result<(), UnmapError> {
        let splits = |leaf: u64| UnmapError::SplitsLeaf { leaf: Iova::new(leaf), size: granule };
        let mut next = first;
        let before = self.mappings.range(..first).next_back();
        if let Some((start, _)) = before.filter(|(_, mapping)| mapping.last >= first) {
            return Err(splits(*start));
        }
        for (start, mapping) in self.mappings.range(first..=last) {
            if *start != next {
                break;
            }
            if mapping.last > last {
                return Err(splits(*start));
            }
            if mapping.last == last {
                return Ok(());
            }
            next = mapping.last + 1;
        }
        Err(UnmapError::NotMapped { iova: Iova::new(next) })
    }
}

impl<P: Platform, R: Registers> Channel<P, R> {
    pub(crate) fn new(device: &Arc<Device<P, R>>, input: IovaRange, label: u64) -> Self {
        let contents =
            Lock::<P, _>::new(LockLabel::new("virtio.space", label), Contents::default());
        Self { device: Arc::clone(device), input, contents }
    }

    pub(crate) fn is_of(&self, device: &Arc<Device<P, R>>) -> bool {
        Arc::ptr_eq(&self.device, device)
    }

    fn unit(&self) -> &Unit<P, R> {
        &self.device.unit
    }

    fn features(&self) -> &Features {
        &self.device.features
    }

    /// Gives it a domain, or takes it away.
    fn name(&self, domain: Option<u32>) {
        self.contents.lock().domain = domain;
    }

    /// Attaches endpoints that are attached to nothing, all of them by one notification; then requests what is mapped, if they are the first.
    ///
    /// # Errors
    ///
    /// They may be attached: they are noted as such.
    pub(crate) fn attach(&self, endpoints: &[StreamId]) -> Result<(), OpsError> {
        let mut contents = self.contents.lock();
        let domain = contents.domain.ok_or(OpsError::IncompatibleSpace)?;
        let first = contents.attached.is_empty();
        contents.attached.extend(endpoints);
        let commands = endpoints.iter().map(|it| Command::attach(domain, *it, false));
        self.device.commands.execute(self.unit(), commands)?;
        if first { self.replay(&contents, domain) } else { Ok(()) }
    }

    /// Requests everything that is mapped, in a domain that the device has just made.
    fn replay(&self, contents: &Contents, domain: u32) -> Result<(), OpsError> {
        if omitted::<P>(Safeguard::ReplayMappings) || contents.mappings.is_empty() {
            return Ok(());
        }
        let tells = self.features().tells_mmio();
        let commands = contents.mappings.iter().map(|(first, mapping)| {
            let len = mapping.last - first + 1;
            let flags = map_flags(mapping.prot, tells);
            Command::map(domain, Iova::new(*first), mapping.phys, len, flags)
        });
        self.device.commands.execute(self.unit(), commands)
    }

    /// Attaches again what was attached when the device was reset, and requests what is mapped.
    pub(crate) fn revive(&self) -> Result<(), OpsError> {
        let contents = self.contents.lock();
        let Some(domain) = contents.live() else { return Ok(()) };
        let commands = contents.attached.iter().map(|it| Command::attach(domain, *it, false));
        self.device.commands.execute(self.unit(), commands)?;
        self.replay(&contents, domain)
    }

    /// The device has confirmed that these endpoints are attached no more.
    pub(crate) fn detached(&self, endpoints: &[StreamId]) {
        self.contents.lock().attached.retain(|it| !endpoints.contains(it));
    }

    fn check(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> Result<(), MapError> {
        let mask = self.features().granule.bytes() - 1;
        if (iova.raw() | phys.raw() | len) & mask != 0 || len == 0 {
            return Err(MapError::Unaligned { iova, phys, len });
        }
        if phys.raw().checked_add(len).is_none() {
            return Err(MapError::PhysOutOfRange { phys, len });
        }
        let range = IovaRange::new(iova, len).ok().filter(|range| self.covers(range));
        if range.is_none() {
            return Err(MapError::OutOfRange { iova, len });
        }
        if !prot.intersects(Prot::READ | Prot::WRITE) || prot.contains(Prot::PRIV) {
            return Err(MapError::BadProt { prot });
        }
        Ok(())
    }

    fn covers(&self, range: &IovaRange) -> bool {
        range.start() >= self.input.start() && range.last() <= self.input.last()
    }

    /// Notes the mappings and, where the domain exists, places their requests; the ticket of these.
    fn place(
        &self,
        iova: Iova,
        segments: &[PhysRange],
        prot: Prot,
    ) -> Result<Option<Submitted>, SpaceError> {
        let len: u64 = segments.iter().map(PhysRange::len).sum();
        let mut contents = self.contents.lock();
        if let Some(taken) = contents.occupied(iova.raw(), iova.raw() + (len - 1)) {
            return Err(MapError::Occupied { iova: Iova::new(taken) }.into());
        }
        let mut at = iova.raw();
        let mut pieces = Vec::new();
        for segment in segments {
            pieces.push((at, segment));
            at = at.wrapping_add(segment.len());
        }
        let placed = contents.live().map(|domain| {
            let flags = map_flags(prot, self.features().tells_mmio());
            let commands = pieces.iter().map(|(at, segment)| {
                Command::map(domain, Iova::new(*at), segment.start(), segment.len(), flags)
            });
            self.device.commands.place(self.unit(), commands)
        });
        // Also where not all were placed: what may be mapped must be unmapped, and to unmap what is not mapped is allowed (§5.13.6.6).
        for (at, segment) in pieces {
            let mapping = Mapping { last: at + (segment.len() - 1), phys: segment.start(), prot };
            contents.mappings.insert(at, mapping);
        }
        placed.transpose().map_err(SpaceError::Request)
    }

    /// Maps ranges one behind the other by one notification.
    fn map_all(&self, iova: Iova, segments: &[PhysRange], prot: Prot) -> Result<(), SpaceError> {
        let Some(ticket) = self.place(iova, segments, prot)? else { return Ok(()) };
        self.device.commands.notify(self.unit());
        if omitted::<P>(Safeguard::WaitForAnswers) {
            return Ok(());
        }
        let Err(error) = self.device.commands.wait(self.unit(), &ticket) else { return Ok(()) };
        let len: u64 = segments.iter().map(PhysRange::len).sum();
        match (refusal(&error, iova, len), segments) {
            // The device has said that it did nothing.
            (Some(refused), [_]) => {
                self.contents.lock().mappings.remove(&iova.raw());
                Err(refused.into())
            }
            // Of several some may be mapped: they are unmapped together.
            (Some(refused), _) => {
                self.take_back(iova, len).map_err(SpaceError::Request)?;
                Err(refused.into())
            }
            (None, _) => Err(SpaceError::Request(error)),
        }
    }

    /// Unmaps what a run of requests has left mapped of a range, and waits for it.
    fn take_back(&self, iova: Iova, len: u64) -> Result<(), OpsError> {
        let mut contents = self.contents.lock();
        if let Some(domain) = contents.live() {
            let command = Command::unmap(domain, iova, len);
            self.device.commands.execute(self.unit(), iter::once(command))?;
        }
        let last = iova.raw() + (len - 1);
        contents.mappings.retain(|at, _| !(iova.raw()..=last).contains(at));
        Ok(())
    }
}

/// What the device said in answer to a MAP, where that means that nothing has changed.
fn refusal(error: &OpsError, iova: Iova, len: u64) -> Option<MapError> {
    let OpsError::Hardware { breakage: Breakage::RequestFailed, status: code } = *error else {
        return None;
    };
    match code as u8 {
        status::RANGE => Some(MapError::OutOfRange { iova, len }),
        // Of the device, not of this system; the layout says how much it could not keep track of.
        status::NOMEM => {
            let layout = PageLayout::naturally_aligned(4096)?;
            Some(MapError::NoMemory(AllocError { layout }))
        }
        _ => None,
    }
}

impl<P: Platform, R: Registers> fmt::Debug for Channel<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("input", &self.input).finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers> AddressSpace for Channel<P, R> {
    fn granule(&self) -> PageSize {
        self.features().granule
    }

    fn page_sizes(&self) -> PageSizes {
        self.features().page_sizes
    }

    fn input_range(&self) -> IovaRange {
        self.input
    }

    fn table(&self) -> Option<&dyn PageTable> {
        None
    }

    fn map(
        &self,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
        _: &mut IotlbGather,
    ) -> Result<(), SpaceError> {
        self.check(iova, phys, len, prot)?;
        let outside = MapError::PhysOutOfRange { phys, len };
        let segment = PhysRange::new(phys, len).map_err(|_| outside)?;
        self.map_all(iova, &[segment], prot)
    }

    fn map_segments(
        &self,
        iova: Iova,
        segments: &[PhysRange],
        prot: Prot,
        _: &mut IotlbGather,
    ) -> Result<(), SpaceError> {
        let mut at = iova;
        for segment in segments {
            self.check(at, segment.start(), segment.len(), prot)?;
            at = Iova::new(at.raw().wrapping_add(segment.len()));
        }
        if segments.is_empty() { Ok(()) } else { self.map_all(iova, segments, prot) }
    }

    fn unmap(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<(), SpaceError> {
        let granule = self.features().granule;
        if (iova.raw() | len) & (granule.bytes() - 1) != 0 || len == 0 {
            return Err(UnmapError::Unaligned { iova, len }.into());
        }
        let range = IovaRange::new(iova, len).ok().filter(|range| self.covers(range));
        let last = range.ok_or(UnmapError::OutOfRange { iova, len })?.last();
        let mut contents = self.contents.lock();
        contents.check_whole(iova.raw(), last.raw(), granule)?;
        if let Some(domain) = contents.live() {
            let command = Command::unmap(domain, iova, len);
            let placed = self.device.commands.place(self.unit(), iter::once(command));
            placed.map_err(SpaceError::Request)?;
        }
        while let Some((first, _)) = contents.mappings.range(iova.raw()..=last.raw()).next() {
            let first = *first;
            contents.mappings.remove(&first);
        }
        gather.add(FlushRange { start: iova, last, leaf: granule, tables_freed: false });
        Ok(())
    }

    fn translate(&self, iova: Iova) -> Option<(PhysAddr, Prot)> {
        let contents = self.contents.lock();
        let (first, mapping) = contents.mappings.range(..=iova.raw()).next_back()?;
        let offset = iova.raw() - first;
        let phys = PhysAddr::new(mapping.phys.raw() + offset);
        (iova.raw() <= mapping.last).then_some((phys, mapping.prot))
    }
}

/// The spaces that are bound, by tag: a tag is a domain, counted from the device's first.
pub(crate) struct Spaces<P: Platform, R: Registers> {
    /// In use or in quarantine. Written under the lock, read without it.
    ids: Ids<P::Atomic>,
    records: Lock<P, Records<P, R>>,
    first: u32,
}

struct Records<P: Platform, R: Registers> {
    spaces: BTreeMap<u16, Record<P, R>>,
    search: Search,
}

struct Record<P: Platform, R: Registers> {
    channel: Arc<Channel<P, R>>,
    /// An unbind was not confirmed: nothing may attach any more.
    quarantined: bool,
}

impl<P: Platform, R: Registers> Spaces<P, R> {
    /// No space yet; at most `limit` at the same time, and as many as the device has domains besides the first, which passes addresses unchanged.
    pub(crate) fn new(features: &Features, limit: u32, label: u64) -> Self {
        let domains = u64::from(features.domains.1 - features.domains.0) + 1;
        let count = u64::from(limit).saturating_add(1).min(domains).min(1 << 16) as usize;
        let records = Records { spaces: BTreeMap::new(), search: Search::START };
        Self {
            ids: Ids::new(count, LockLabel::new("virtio.used", label)),
            records: Lock::<P, _>::new(LockLabel::new("virtio.spaces", label), records),
            first: features.domains.0,
        }
    }

    /// The domain that passes addresses unchanged.
    pub(crate) fn identity(&self) -> u32 {
        self.first
    }

    /// Names a space that `device` made.
    pub(crate) fn bind(
        &self,
        device: &Arc<Device<P, R>>,
        space: &Arc<dyn AddressSpace>,
    ) -> Result<SpaceTag, OpsError> {
        let any: Arc<dyn Any + Send + Sync> = Arc::<dyn AddressSpace>::clone(space);
        let channel = any.downcast::<Channel<P, R>>().ok().filter(|it| it.is_of(device));
        let channel = channel.ok_or(OpsError::IncompatibleSpace)?;
        let mut records = self.records.lock();
        let id = self.ids.take(&mut records.search).ok_or(OpsError::OutOfTags)?;
        channel.name(Some(self.first + u32::from(id)));
        records.spaces.insert(id, Record { channel, quarantined: false });
        Ok(SpaceTag(id.into()))
    }

    /// Whether the tag's space exists.
    pub(crate) fn check(&self, tag: SpaceTag) -> Result<(), OpsError> {
        let known = u16::try_from(tag.0).is_ok_and(|id| self.ids.is_used(id));
        known.then_some(()).ok_or(OpsError::UnknownSpace { tag })
    }

    /// The domain of a tag.
    pub(crate) fn domain(&self, tag: SpaceTag) -> u32 {
        self.first.wrapping_add(tag.0)
    }

    /// The space to attach to.
    pub(crate) fn channel(&self, tag: SpaceTag) -> Result<Arc<Channel<P, R>>, OpsError> {
        let unknown = OpsError::UnknownSpace { tag };
        let id = u16::try_from(tag.0).map_err(|_| unknown)?;
        let records = self.records.lock();
        let record = records.spaces.get(&id).filter(|record| !record.quarantined);
        record.map(|record| Arc::clone(&record.channel)).ok_or(unknown)
    }

    /// All spaces, those in quarantine included.
    pub(crate) fn all(&self) -> Vec<(SpaceTag, Arc<Channel<P, R>>)> {
        let records = self.records.lock();
        let spaces = records.spaces.iter();
        spaces.map(|(id, record)| (SpaceTag((*id).into()), Arc::clone(&record.channel))).collect()
    }

    /// Stops new attachments.
    pub(crate) fn quarantine(&self, tag: SpaceTag) -> Result<(), OpsError> {
        let unknown = OpsError::UnknownSpace { tag };
        let id = u16::try_from(tag.0).map_err(|_| unknown)?;
        let mut records = self.records.lock();
        records.spaces.get_mut(&id).ok_or(unknown)?.quarantined = true;
        Ok(())
    }

    /// The spaces whose unbinding was not confirmed.
    pub(crate) fn quarantined(&self) -> Vec<SpaceTag> {
        let records = self.records.lock();
        let spaces = records.spaces.iter().filter(|(_, record)| record.quarantined);
        spaces.map(|(id, _)| SpaceTag((*id).into())).collect()
    }

    /// Frees the tag: no endpoint is attached any more, so the domain is gone.
    pub(crate) fn free(&self, tag: SpaceTag) {
        let Ok(id) = u16::try_from(tag.0) else { return };
        let record = {
            let mut records = self.records.lock();
            self.ids.free(id);
            records.spaces.remove(&id)
        };
        if let Some(record) = record {
            record.channel.name(None);
        }
    }

    /// How many tags are taken, those in quarantine included.
    pub(crate) fn count(&self) -> usize {
        self.records.lock().spaces.len()
    }
}
