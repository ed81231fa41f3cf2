//! What the core asks of a unit.

use crate::Iommu;
use crate::command::Command;
use crate::context::{identity, leads_to};
use crate::entry::{Entry, INVALID};
use crate::error::BringUpCause;
use crate::hooks::{Safeguard, omitted};
use crate::identify::Features;
use crate::invalidate::{Invalidation, invalidation, whole};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::iter;
use portcullis::{
    AddressSpace, Capabilities, Fault, FormatSupport, Formats, IommuOps, MsiDoorbell, OpsError,
    Pasid, Serviced, SpaceFormat, SpaceRequest, SpaceTag, StreamSpec, StreamTarget, TableSpace,
    Ticket, Unsupported,
};
use portcullis_addr::{PageSize, StreamId};
use portcullis_driver_parts::answer::exact;
use portcullis_driver_parts::entry::{Shortcuts, plan};
use portcullis_driver_parts::{Consumer as _, Stream, Submitted};
use portcullis_pgtable::{
    Format, IoPageTable, IotlbGather, RiscvFirstStage, RiscvSecondStage, TableError, TableFormat,
    TableParams,
};
use portcullis_platform::{Platform, Registers};

/// Counters of a unit, for reports and leak checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Commands that the unit refused.
    pub refused_commands: u64,
    /// Address spaces that are bound, those in quarantine included.
    pub spaces: usize,
}

impl<P: Platform, R: Registers> Iommu<P, R> {
    /// Counters.
    pub fn statistics(&self) -> Statistics {
        Statistics { refused_commands: self.commands.refused(), spaces: self.spaces.count() }
    }

    /// Leads the devices to `wanted`, phase by phase, all of them in step so that each phase costs one fence.
    fn rewrite(&self, streams: &[Arc<Stream<P>>], wanted: &Entry) -> Result<(), OpsError> {
        let shortcuts = Shortcuts {
            in_place: omitted::<P>(Safeguard::InvalidBetween),
            valid_with_rest: omitted::<P>(Safeguard::ValidLast),
        };
        let now: Vec<Entry> = streams.iter().map(|stream| self.directory.read(stream)).collect();
        let plans: Vec<_> = now.iter().map(|now| plan(now, wanted, shortcuts)).collect();
        for step in 0..3 {
            let mut owed = Vec::new();
            for ((stream, plan), now) in streams.iter().zip(&plans).zip(&now) {
                let phase = &plan[step];
                if phase.is_empty() {
                    continue;
                }
                self.directory.write(stream, phase);
                if phase.confirm {
                    owed.extend(forgetting(stream.id(), now));
                }
            }
            if !owed.is_empty() && !omitted::<P>(Safeguard::ForgetContext) {
                self.commands.with(&self.unit).execute(owed.len(), owed.into_iter())?;
            }
        }
        Ok(())
    }

    /// Makes the devices' contexts invalid: one store and one fence, from whatever they are.
    fn block(&self, streams: &[Arc<Stream<P>>]) -> Result<(), OpsError> {
        if streams.is_empty() {
            return Ok(());
        }
        let mut owed = Vec::new();
        for stream in streams {
            let now = self.directory.read(stream);
            self.directory.claims.doubt(stream);
            for phase in plan(&now, &INVALID, Shortcuts::default()) {
                if !phase.is_empty() {
                    self.directory.write(stream, &phase);
                }
            }
            owed.extend(forgetting(stream.id(), &now));
        }
        let confirmed = match omitted::<P>(Safeguard::ForgetContext) {
            true => Ok(()),
            false => self.commands.with(&self.unit).execute(owed.len(), owed.into_iter()),
        };
        confirmed.inspect_err(|_| self.directory.claims.note_unconfirmed())?;
        streams.iter().for_each(|stream| stream.trust());
        Ok(())
    }

    fn lead(&self, streams: &[Arc<Stream<P>>], target: StreamTarget) -> Result<(), OpsError> {
        let doubtful: Vec<_> = streams.iter().filter(|s| s.is_doubtful()).cloned().collect();
        self.block(&doubtful)?;
        match target {
            StreamTarget::Blocked => self.block(streams),
            StreamTarget::Identity => self.rewrite(streams, &identity()),
            StreamTarget::Space(tag) => self.rewrite(streams, &self.spaces.entry(tag)?),
        }
    }

    fn formats(&self) -> Formats {
        let support = |second: bool| {
            let format =
                if second { TableFormat::RiscvSecondStage } else { TableFormat::RiscvFirstStage };
            let output_bits = self.features.output_bits;
            self.features.widths(second).map(move |input_bits| FormatSupport {
                format: SpaceFormat::Table(format),
                page_sizes: Features::page_sizes(input_bits),
                input_bits,
                output_bits,
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

/// What hardware must forget when the context of `device` was `before` (§6.3.1).
fn forgetting(device: StreamId, before: &Entry) -> impl Iterator<Item = Command> + use<> {
    iter::once(Command::forget_context(device)).chain(leads_to(before).map(whole))
}

impl<P: Platform, R: Registers> IommuOps for Iommu<P, R> {
    fn driver_name(&self) -> &'static str {
        "riscv"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            formats: self.formats(),
            id_bits: self.directory.bits(),
            pasid_bits: 0,
            coherent_walk: self.coherent,
            identity: true,
            map_needs_sync: false,
            range_invalidation: false,
            msi: MsiDoorbell::Translated,
        }
    }

    fn claim(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        let streams = exact(streams)?;
        let doubtful = self.directory.claim(&streams)?;
        let claims = &self.directory.claims;
        // Left over from a release that hardware did not confirm.
        let blocked = self.block(&doubtful);
        blocked.inspect_err(|_| claims.forget(&claims.unclaim(&streams)))
    }

    fn release(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        let last = self.directory.claims.unclaim(&exact(streams)?);
        // Not confirmed: the devices stay on record as doubtful, and the next claim must confirm it first.
        let blocked = self.block(&last);
        self.directory.claims.forget(&last);
        blocked
    }

    fn create_space(&self, request: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError> {
        let wanted = &request.support;
        let second = match wanted.format {
            SpaceFormat::Table(TableFormat::RiscvFirstStage) if self.features.first_stage > 0 => {
                false
            }
            SpaceFormat::Table(TableFormat::RiscvSecondStage) if self.features.second_stage > 0 => {
                true
            }
            _ => return Err(OpsError::Unsupported(Unsupported::Format)),
        };
        if !wanted.page_sizes.contains(PageSize::SIZE_4K) {
            return Err(OpsError::Unsupported(Unsupported::PageSizes));
        }
        let params = TableParams {
            granule: PageSize::SIZE_4K,
            // The narrowest table of the format is 32 bits wide.
            input_bits: wanted.input_bits.min(self.features.widest(second)).max(32),
            output_bits: wanted.output_bits.min(self.features.output_bits),
            leaf_sizes: wanted.page_sizes,
            force_snoop: false,
            coherent: request.coherent_walk && self.coherent,
        };
        match second {
            false => self.table::<RiscvFirstStage>(params),
            true => self.table::<RiscvSecondStage>(params),
        }
    }

    fn bind_space(&self, space: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError> {
        self.spaces.bind(space)
    }

    fn unbind_space(&self, tag: SpaceTag) -> Result<(), OpsError> {
        let name = self.spaces.quarantine(tag)?;
        let claims = &self.directory.claims;
        // A context that hardware was not confirmed to have forgotten may still lead to the table that is about to be freed.
        let unconfirmed = claims.unconfirmed();
        let contexts = unconfirmed.map(|_| Command::forget_contexts());
        let all = contexts.into_iter().chain(iter::once(whole(name)));
        self.commands.with(&self.unit).execute(1 + usize::from(contexts.is_some()), all)?;
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
        let held = self.directory.claims.hold(&exact(streams)?)?;
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
        let queue = self.commands.with(&self.unit);
        let submitted = match invalidation(name, gather) {
            None => return Ok(NOTHING),
            Some(Invalidation::Space(name)) => queue.submit(1, iter::once(whole(name))),
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
        let claims = &self.directory.claims;
        let seen = claims.unconfirmed();
        let doubts = claims.doubts();
        let spaces = self.spaces.quarantined();
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
        self.stop().map_err(BringUpCause::as_ops_error)
    }
}

/// The ticket of an invalidation that owes nothing: no batch is without its fence.
const NOTHING: Ticket = Ticket([0; 3]);
