//! What the core asks of a unit.

use crate::Iommu;
use crate::command::Command;
use crate::entry::{ABSENT, Entry, leads_to};
use crate::error::BringUpCause;
use crate::hooks::{Safeguard, omitted};
use crate::identify::Mode;
use crate::invalidate::{Invalidation, invalidation};
use crate::stream_table::ID_BITS;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::iter;
use portcullis::{
    AddressSpace, Capabilities, Fault, FormatSupport, Formats, IommuOps, MsiDoorbell, OpsError,
    Pasid, Serviced, SpaceFormat, SpaceRequest, SpaceTag, StreamSpec, StreamTarget, TableSpace,
    Ticket, Unsupported,
};
use portcullis_addr::{Iova, IovaRange, PageSize, StreamId};
use portcullis_driver_parts::answer::exact;
use portcullis_driver_parts::entry::{Shortcuts, plan};
use portcullis_driver_parts::{Consumer as _, Name, Stream, Submitted};
use portcullis_pgtable::{
    Format, IoPageTable, IotlbGather, TableError, TableFormat, TableParams, VtdFirstStage,
    VtdSecondStage,
};
use portcullis_platform::{Platform, Registers};
use portcullis_spec::vtd::{INTERRUPT_FIRST, INTERRUPT_LAST};

/// Counters of a unit, for reports and leak checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Descriptors that the unit refused, and times that it lost the waits for others.
    pub refused_commands: u64,
    /// Address spaces that are bound, those in quarantine included.
    pub spaces: usize,
}

impl<P: Platform, R: Registers> Iommu<P, R> {
    /// Counters.
    pub fn statistics(&self) -> Statistics {
        Statistics { refused_commands: self.commands.refused(), spaces: self.spaces.count() }
    }

    /// Leads the devices to `wanted`, phase by phase, all of them in step so that each phase costs one wait.
    fn rewrite(&self, streams: &[Arc<Stream<P>>], wanted: &Entry) -> Result<(), OpsError> {
        let shortcuts = Shortcuts {
            in_place: omitted::<P>(Safeguard::AbsentBetween),
            valid_with_rest: omitted::<P>(Safeguard::PresentLast),
        };
        let now: Vec<Entry> = streams.iter().map(|stream| self.root.read(stream)).collect();
        let plans: Vec<_> = now.iter().map(|now| plan(now, wanted, shortcuts)).collect();
        for step in 0..3 {
            let mut owed = Vec::new();
            for ((stream, plan), now) in streams.iter().zip(&plans).zip(&now) {
                let phase = &plan[step];
                if phase.is_empty() {
                    continue;
                }
                self.root.write(stream, phase);
                if phase.confirm {
                    owed.extend(self.forgetting(stream.id(), now));
                }
            }
            self.flush_write_buffer()?;
            if !omitted::<P>(Safeguard::ForgetContext) {
                self.confirm(owed)?;
            }
        }
        self.forget_absent(wanted)
    }

    /// Of entries that have become present a unit that caches what is not present must be told (§6.1).
    fn forget_absent(&self, wanted: &Entry) -> Result<(), OpsError> {
        if !self.features.caching_mode || omitted::<P>(Safeguard::ForgetAbsent) {
            return Ok(());
        }
        let scalable = self.features.mode == Mode::Scalable;
        let owed = iter::once(Command::forget_contexts());
        let owed = owed.chain(scalable.then(Command::forget_pasids));
        let space = leads_to(self.features.mode, wanted).map(Command::forget_space);
        self.confirm(owed.chain(space).collect())
    }

    /// Has the unit carry these out, if there are any.
    fn confirm(&self, owed: Vec<Command>) -> Result<(), OpsError> {
        match owed.is_empty() {
            true => Ok(()),
            false => self.commands.with(&self.unit).execute(owed.len(), owed.into_iter()),
        }
    }

    /// What hardware must forget when the entry of `device` was `before` (§6.5.3.3). What it had cached stands under the domain id of that; what was not present has none.
    fn forgetting(
        &self,
        device: StreamId,
        before: &Entry,
    ) -> impl Iterator<Item = Command> + use<P, R> {
        let name = leads_to(self.features.mode, before);
        let domain = name.map_or(0, |name| name.id);
        let entry = match self.features.mode {
            Mode::Legacy => Command::forget_context(device, domain),
            Mode::Scalable => Command::forget_pasid(domain),
        };
        iter::once(entry).chain(name.map(Command::forget_space))
    }

    /// Makes the devices' entries not present: one store and one wait, from whatever they are.
    fn block(&self, streams: &[Arc<Stream<P>>]) -> Result<(), OpsError> {
        if streams.is_empty() {
            return Ok(());
        }
        let claims = &self.root.claims;
        let mut owed = Vec::new();
        for stream in streams {
            let now = self.root.read(stream);
            claims.doubt(stream);
            for phase in plan(&now, &ABSENT, Shortcuts::default()) {
                if !phase.is_empty() {
                    self.root.write(stream, &phase);
                }
            }
            owed.extend(self.forgetting(stream.id(), &now));
        }
        let confirmed = match omitted::<P>(Safeguard::ForgetContext) {
            true => Ok(()),
            false => self.flush_write_buffer().and_then(|()| self.confirm(owed)),
        };
        confirmed.inspect_err(|_| claims.note_unconfirmed())?;
        streams.iter().for_each(|stream| stream.trust());
        Ok(())
    }

    fn lead(&self, streams: &[Arc<Stream<P>>], target: StreamTarget) -> Result<(), OpsError> {
        let doubtful: Vec<_> = streams.iter().filter(|s| s.is_doubtful()).cloned().collect();
        self.block(&doubtful)?;
        match target {
            StreamTarget::Blocked => self.block(streams),
            StreamTarget::Identity => self.rewrite(streams, &self.spaces.identity()?),
            StreamTarget::Space(tag) => self.rewrite(streams, &self.spaces.entry(tag)?),
        }
    }

    /// The first stage first, where there is one: its walks are shorter, and its faults say more.
    fn formats(&self) -> Formats {
        let support = |second: bool| {
            let format =
                if second { TableFormat::VtdSecondStage } else { TableFormat::VtdFirstStage };
            self.features.widths(second).map(move |input_bits| FormatSupport {
                format: SpaceFormat::Table(format),
                page_sizes: self.features.page_sizes(second),
                input_bits,
                output_bits: self.spaces.address_bits(),
            })
        };
        support(false).chain(support(true)).collect()
    }

    fn table<F: Format + 'static>(
        &self,
        params: TableParams,
    ) -> Result<Arc<dyn AddressSpace>, OpsError> {
        let memory = self.unit.platform().memory();
        match IoPageTable::<F, P::Memory>::new(memory, params) {
            Ok(table) => Ok(Arc::new(TableSpace::new(table))),
            Err(TableError::NoMemory(error)) => Err(OpsError::NoMemory(error)),
            Err(_) => Err(OpsError::Unsupported(Unsupported::AddressWidth)),
        }
    }
}

impl<P: Platform, R: Registers> IommuOps for Iommu<P, R> {
    fn driver_name(&self) -> &'static str {
        "vtd"
    }

    fn capabilities(&self) -> Capabilities {
        let len = INTERRUPT_LAST - INTERRUPT_FIRST + 1;
        let window = IovaRange::new(Iova::new(INTERRUPT_FIRST), len);
        Capabilities {
            formats: self.formats(),
            id_bits: ID_BITS,
            pasid_bits: 0,
            coherent_walk: self.features.coherent_walk,
            identity: self.features.pass_through,
            map_needs_sync: self.features.caching_mode || self.features.write_buffer,
            range_invalidation: self.features.most_pages.is_some(),
            msi: MsiDoorbell::Window(window.expect("the range has a length")),
        }
    }

    fn claim(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        let streams = exact(streams)?;
        let doubtful = self.root.claim(&streams)?;
        let claims = &self.root.claims;
        // Left over from a release that hardware did not confirm.
        let blocked = self.block(&doubtful);
        blocked.inspect_err(|_| claims.forget(&claims.unclaim(&streams)))
    }

    fn release(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        let last = self.root.claims.unclaim(&exact(streams)?);
        // Not confirmed: the devices stay on record as doubtful, and the next claim must confirm it first.
        let blocked = self.block(&last);
        self.root.claims.forget(&last);
        blocked
    }

    fn create_space(&self, request: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError> {
        let wanted = &request.support;
        let second = match wanted.format {
            SpaceFormat::Table(TableFormat::VtdFirstStage) => false,
            SpaceFormat::Table(TableFormat::VtdSecondStage) => true,
            _ => return Err(OpsError::Unsupported(Unsupported::Format)),
        };
        if self.features.widest(second) == 0 {
            return Err(OpsError::Unsupported(Unsupported::Format));
        }
        if !wanted.page_sizes.contains(PageSize::SIZE_4K) {
            return Err(OpsError::Unsupported(Unsupported::PageSizes));
        }
        // A table is as deep as its width makes it, so it must not be narrower than the shallowest that there is.
        let widths = self.features.widths(second);
        let fitting = widths.filter(|bits| *bits <= wanted.input_bits).max();
        let params = TableParams {
            granule: PageSize::SIZE_4K,
            input_bits: fitting.ok_or(OpsError::Unsupported(Unsupported::AddressWidth))?,
            output_bits: wanted.output_bits.min(self.spaces.address_bits()),
            leaf_sizes: wanted.page_sizes,
            force_snoop: second && self.features.snoop_control,
            coherent: request.coherent_walk && self.features.coherent_walk,
        };
        match second {
            false => self.table::<VtdFirstStage>(params),
            true => self.table::<VtdSecondStage>(params),
        }
    }

    fn bind_space(&self, space: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError> {
        self.spaces.bind(space)
    }

    fn unbind_space(&self, tag: SpaceTag) -> Result<(), OpsError> {
        let name = self.spaces.quarantine(tag)?;
        let claims = &self.root.claims;
        // An entry that hardware was not confirmed to have forgotten may still lead to the table that is about to be freed.
        let unconfirmed = claims.unconfirmed();
        let scalable = self.features.mode == Mode::Scalable;
        let entries = unconfirmed.map(|_| Command::forget_contexts()).into_iter();
        let entries =
            entries.chain(unconfirmed.filter(|_| scalable).map(|_| Command::forget_pasids()));
        self.confirm(entries.chain([Command::forget_space(name)]).collect())?;
        unconfirmed.into_iter().for_each(|seen| claims.note_made_good(seen));
        self.spaces.free(name);
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
        let held = self.root.claims.hold(&exact(streams)?)?;
        let Err(error) = self.lead(&held, target) else { return Ok(()) };
        Err(match (error, self.block(&held)) {
            (OpsError::Hardware { breakage, status }, Ok(())) => {
                OpsError::Blocked { breakage, status }
            }
            // The first error says most, unless only the second one says that not even blocking is confirmed.
            (error, Err(unconfirmed)) if !error.is_unconfirmed() => unconfirmed,
            (error, _) => error,
        })
    }

    fn submit(&self, tag: SpaceTag, gather: &IotlbGather) -> Result<Ticket, OpsError> {
        let name = self.spaces.name(tag)?;
        let owed = invalidation(&self.features, name, gather);
        if owed.is_some() {
            self.flush_write_buffer()?;
        }
        let queue = self.commands.with(&self.unit);
        let submitted = match owed {
            None => return Ok(NOTHING),
            Some(Invalidation::Space(name)) => {
                queue.submit(1, iter::once(Command::forget_space(name)))
            }
            Some(Invalidation::Pages(pages)) => queue.submit(pages.total(), pages),
        };
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
        let claims = &self.root.claims;
        let seen = claims.unconfirmed();
        let doubts = claims.doubts();
        let spaces: Vec<Name> = self.spaces.quarantined();
        self.forget_everything().or_else(|_| self.restart())?;
        seen.into_iter().for_each(|seen| claims.note_made_good(seen));
        claims.settle(doubts);
        spaces.into_iter().for_each(|name| self.spaces.free(name));
        Ok(())
    }

    fn service(&self, budget: usize, sink: &mut dyn FnMut(Fault)) -> Serviced {
        self.serve_interrupt(budget, sink)
    }

    fn shutdown(&self) -> Result<(), OpsError> {
        self.stop().map(drop).map_err(BringUpCause::as_ops_error)
    }
}

/// The ticket of an invalidation that owes nothing: no batch is without its wait.
const NOTHING: Ticket = Ticket([0; 3]);
