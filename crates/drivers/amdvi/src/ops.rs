//! What the core asks of a unit.

use crate::Iommu;
use crate::command::Command;
use crate::context::identity;
use crate::entry::{self, BLOCKED, Entry, Phase, Plan};
use crate::error::BringUpCause;
use crate::growth::GrowingSpace;
use crate::hooks::{Safeguard, omitted};
use crate::invalidate::invalidation;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::iter;
use portcullis::{
    AddressSpace, Capabilities, Fault, FormatSupport, Formats, IommuOps, MsiDoorbell, OpsError,
    Pasid, Serviced, SpaceFormat, SpaceRequest, SpaceTag, StreamSpec, StreamTarget, Ticket,
    Unsupported,
};
use portcullis_addr::{Iova, IovaRange, PageSize, PageSizes, StreamId};
use portcullis_driver_parts::{Consumer as _, Held, Stream, Submitted};
use portcullis_pgtable::{IotlbGather, TableError, TableFormat, TableParams};
use portcullis_platform::{Platform, Registers};

/// Counters of a unit, for reports and leak checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Commands that the unit refused.
    pub refused_commands: u64,
    /// Address spaces that are bound, those in quarantine included.
    pub spaces: usize,
}

/// Leaf sizes: 4 KiB to 256 GiB, each power of two.
const PAGE_SIZES: PageSizes = PageSizes::from_bitmap((1 << 39) - 0x1000);
/// Where writes are interrupts (§2.1), and how many bytes that are.
const DOORBELLS: (Iova, u64) = (Iova::new(0xfee0_0000), 0x10_0000);

impl<P: Platform, R: Registers> Iommu<P, R> {
    /// Counters.
    pub fn statistics(&self) -> Statistics {
        Statistics { refused_commands: self.commands.refused(), spaces: self.spaces.count() }
    }

    /// Leads the devices to `wanted`, phase by phase, all of them in step so that each phase costs one completion.
    fn rewrite(&self, streams: &[Arc<Stream<P>>], wanted: &Entry) -> Result<(), OpsError> {
        let between = !omitted::<P>(Safeguard::BlockedBetween);
        let last = !omitted::<P>(Safeguard::PermitLast);
        let plan = |stream: &Arc<Stream<P>>| {
            entry::plan(&self.devices.read(stream), wanted, between, last)
        };
        let plans: Vec<Plan> = streams.iter().map(plan).collect();
        (0..plans.first().map_or(0, |plan| plan.len()))
            .try_for_each(|step| self.carry_out(streams, plans.iter().map(|plan| &plan[step])))
    }

    /// Carries out one phase of each device, and has hardware forget what that made old.
    fn carry_out<'a>(
        &self,
        streams: &[Arc<Stream<P>>],
        phases: impl Iterator<Item = &'a Phase>,
    ) -> Result<(), OpsError> {
        let mut owed = Vec::new();
        for (stream, phase) in streams.iter().zip(phases).filter(|(_, phase)| !phase.is_empty()) {
            self.devices.write(stream, phase);
            if !omitted::<P>(Safeguard::ForgetEntry) {
                owed.push(Command::forget_entry(stream.id()));
            }
            if !omitted::<P>(Safeguard::ForgetDomain) {
                owed.extend(phase.leaves.map(Command::forget_domain));
            }
        }
        if owed.is_empty() {
            return Ok(());
        }
        self.commands.with(&self.unit).execute(owed.len(), owed.into_iter())
    }

    /// Takes every permission out of the devices' entries, from whatever they are.
    fn block(&self, streams: &[Arc<Stream<P>>]) -> Result<(), OpsError> {
        if streams.is_empty() {
            return Ok(());
        }
        let claims = &self.devices.claims;
        streams.iter().for_each(|stream| claims.doubt(stream));
        let confirmed = self.rewrite(streams, &BLOCKED).and_then(|()| {
            // Also entries that said so already: that hardware saw it may be what is in doubt.
            let entries = streams.iter().map(|stream| Command::forget_entry(stream.id()));
            match omitted::<P>(Safeguard::ForgetEntry) {
                true => Ok(()),
                false => self.commands.with(&self.unit).execute(streams.len(), entries),
            }
        });
        confirmed.inspect_err(|_| claims.note_unconfirmed())?;
        streams.iter().for_each(|stream| stream.trust());
        Ok(())
    }

    fn lead(&self, streams: &[Arc<Stream<P>>], wanted: Option<&Entry>) -> Result<(), OpsError> {
        let doubtful: Vec<_> = streams.iter().filter(|s| s.is_doubtful()).cloned().collect();
        self.block(&doubtful)?;
        match wanted {
            None => self.block(streams),
            Some(entry) => self.rewrite(streams, entry),
        }
    }

    /// Takes the right to change the entries of claimed streams; waits for a table to have grown, for which another thread may have it.
    fn hold(&self, ids: &[StreamId]) -> Result<Held<P>, OpsError> {
        match self.devices.claims.hold(ids) {
            Err(OpsError::StreamInUse { .. }) => {
                let _none_grows = self.growing.lock();
                self.devices.claims.hold(ids)
            }
            held => held,
        }
    }

    /// Leads streams that the caller has claimed to an entry; blocks them where that fails.
    fn lead_or_block(&self, ids: &[StreamId], wanted: Option<&Entry>) -> Result<(), OpsError> {
        let held = self.hold(ids)?;
        let Err(error) = self.lead(&held, wanted) else { return Ok(()) };
        Err(match (error, self.block(&held)) {
            (OpsError::Hardware { breakage, status }, Ok(())) => {
                OpsError::Blocked { breakage, status }
            }
            // The first error says most, unless only the second one says that not even blocking is confirmed.
            (error, Err(unconfirmed)) if !error.is_unconfirmed() => unconfirmed,
            (error, _) => error,
        })
    }

    /// Leads the entries of all devices of a domain to the root that its table has now, if hardware was not told of it.
    #[cold]
    fn tell_of_growth(&self, domain: u16) -> Result<(), OpsError> {
        let _alone = (!omitted::<P>(Safeguard::GrowOneByOne)).then(|| self.growing.lock());
        let Some(growth) = self.spaces.growth(domain) else { return Ok(()) };
        // Whoever is changing an entry at this moment looks for the root once more when it is done.
        let held = self.devices.claims.hold_where(|stream| {
            let entry = self.devices.read(stream);
            !entry::is_blocked(&entry) && entry::domain(&entry) == domain
        });
        self.rewrite(&held, &growth.entry)?;
        // Also where another thread has stored the same and hardware was not confirmed to have seen it.
        let entries = held.iter().map(|stream| Command::forget_entry(stream.id()));
        let all = entries.chain(iter::once(Command::forget_domain(domain)));
        self.commands.with(&self.unit).execute(held.len() + 1, all)?;
        self.spaces.grown(domain, &growth);
        Ok(())
    }
}

impl<P: Platform, R: Registers> IommuOps for Iommu<P, R> {
    fn driver_name(&self) -> &'static str {
        "amdvi"
    }

    fn capabilities(&self) -> Capabilities {
        let (first, len) = DOORBELLS;
        let doorbells = IovaRange::new(first, len).expect("a range of 1 MiB");
        Capabilities {
            formats: Formats::of(&[FormatSupport {
                format: SpaceFormat::Table(TableFormat::AmdV1),
                page_sizes: PAGE_SIZES,
                input_bits: self.features.input_bits(),
                output_bits: self.output_bits,
            }]),
            id_bits: self.devices.bits(),
            pasid_bits: 0,
            coherent_walk: self.coherent,
            identity: true,
            map_needs_sync: self.caches_absence,
            range_invalidation: true,
            msi: MsiDoorbell::Window(doorbells),
        }
    }

    fn claim(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        let streams = exact(streams)?;
        let doubtful = self.devices.claim(&streams)?;
        let claims = &self.devices.claims;
        // Left over from a release that hardware did not confirm.
        let blocked = self.block(&doubtful);
        blocked.inspect_err(|_| claims.forget(&claims.unclaim(&streams)))
    }

    fn release(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        let ids = exact(streams)?;
        // Nobody else changes the entries meanwhile. Streams that were never claimed have no entry to change.
        let _held = self.hold(&ids);
        let last = self.devices.claims.unclaim(&ids);
        // Not confirmed: the devices stay on record as doubtful, and the next claim must confirm it first.
        let blocked = self.block(&last);
        self.devices.claims.forget(&last);
        blocked
    }

    fn create_space(&self, request: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError> {
        let wanted = &request.support;
        if wanted.format != SpaceFormat::Table(TableFormat::AmdV1) {
            return Err(OpsError::Unsupported(Unsupported::Format));
        }
        if !wanted.page_sizes.contains(PageSize::SIZE_4K) {
            return Err(OpsError::Unsupported(Unsupported::PageSizes));
        }
        let params = TableParams {
            granule: PageSize::SIZE_4K,
            // The narrowest table of the format is 32 bits wide.
            input_bits: wanted.input_bits.min(self.features.input_bits()).max(32),
            output_bits: wanted.output_bits.min(self.output_bits),
            leaf_sizes: wanted.page_sizes,
            force_snoop: false,
            coherent: request.coherent_walk && self.coherent,
        };
        let memory = self.unit.platform().memory();
        match GrowingSpace::<P>::create(memory, params, self.caches_absence) {
            Ok(space) => Ok(Arc::new(space)),
            Err(TableError::NoMemory(error)) => Err(OpsError::NoMemory(error)),
            Err(_) => Err(OpsError::Unsupported(Unsupported::AddressWidth)),
        }
    }

    fn bind_space(&self, space: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError> {
        self.spaces.bind(space)
    }

    fn unbind_space(&self, tag: SpaceTag) -> Result<(), OpsError> {
        let domain = self.spaces.quarantine(tag)?;
        let claims = &self.devices.claims;
        // An entry that hardware was not confirmed to have forgotten may still lead to the table that is about to be freed.
        match claims.unconfirmed() {
            Some(seen) => {
                self.forget_everything()?;
                claims.note_made_good(seen);
            }
            None => {
                let domain = iter::once(Command::forget_domain(domain));
                self.commands.with(&self.unit).execute(1, domain)?;
            }
        }
        self.spaces.free(domain);
        Ok(())
    }

    fn attach(
        &self,
        streams: &[StreamSpec],
        pasid: Option<Pasid>,
        target: StreamTarget,
    ) -> Result<(), OpsError> {
        if let Some(pasid) = pasid {
            return Err(OpsError::Unsupported(Unsupported::Pasid(pasid)));
        }
        let ids = exact(streams)?;
        match target {
            StreamTarget::Blocked => self.lead_or_block(&ids, None),
            StreamTarget::Identity => self.lead_or_block(&ids, Some(&identity())),
            StreamTarget::Space(tag) => loop {
                let entry = self.spaces.entry(tag)?;
                self.lead_or_block(&ids, Some(&entry))?;
                // Its table may have grown meanwhile, and whoever told the other devices left these alone.
                if self.spaces.entry(tag)? == entry {
                    return Ok(());
                }
            },
        }
    }

    fn submit(&self, tag: SpaceTag, gather: &IotlbGather) -> Result<Ticket, OpsError> {
        let domain = self.spaces.domain(tag)?;
        let Some(command) = invalidation(domain, gather) else { return Ok(NOTHING) };
        if gather.is_everything() {
            self.tell_of_growth(domain)?;
        }
        let submitted = self.commands.with(&self.unit).submit(1, iter::once(command));
        submitted.map(|it| Ticket([it.first, it.after, it.failures]))
    }

    fn wait(&self, ticket: Ticket) -> Result<(), OpsError> {
        if ticket == NOTHING {
            return Ok(());
        }
        let Ticket([first, after, failures]) = ticket;
        self.commands.with(&self.unit).wait(&Submitted { first, after, failures })
    }

    fn forget_all(&self) -> Result<(), OpsError> {
        let claims = &self.devices.claims;
        let seen = claims.unconfirmed();
        let doubts = claims.doubts();
        let spaces = self.spaces.quarantined();
        self.forget_everything().or_else(|_| self.restart())?;
        seen.into_iter().for_each(|seen| claims.note_made_good(seen));
        claims.settle(doubts);
        spaces.into_iter().for_each(|domain| self.spaces.free(domain));
        Ok(())
    }

    fn service(&self, budget: usize, sink: &mut dyn FnMut(Fault)) -> Serviced {
        self.serve_interrupt(budget, sink)
    }

    fn shutdown(&self) -> Result<(), OpsError> {
        self.stop().map_err(BringUpCause::as_ops_error)
    }
}

/// The ticket of an invalidation that owes nothing: no batch is without its completion.
const NOTHING: Ticket = Ticket([0; 3]);

/// The ids of `streams`, which this hardware looks up one by one.
fn exact(streams: &[StreamSpec]) -> Result<Vec<StreamId>, OpsError> {
    let id = |stream: &StreamSpec| match stream.mask {
        0 => Ok(stream.id),
        _ => Err(OpsError::Unsupported(Unsupported::StreamMask(*stream))),
    };
    streams.iter().map(id).collect()
}
