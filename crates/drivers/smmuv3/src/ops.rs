//! What the core asks of a unit.

use crate::Smmu;
use crate::command::Command;
use crate::context::bypass_entry;
use crate::entry::{self, Entry, Plan};
use crate::error::BringUpCause;
use crate::identify::{GRANULES, Granule};
use crate::invalidate::{Invalidation, invalidation, single, whole};
use crate::unit::Deadline;
use alloc::sync::Arc;
use alloc::vec::Vec;
use portcullis::{
    AddressSpace, Capabilities, Fault, FormatSupport, Formats, IommuOps, MsiDoorbell, OpsError,
    Pasid, Serviced, SpaceFormat, SpaceRequest, SpaceTag, StreamSpec, StreamTarget, TableSpace,
    Ticket, Unsupported,
};
use portcullis_addr::StreamId;
use portcullis_driver_parts::answer::exact;
use portcullis_driver_parts::{Stream, Submitted};
use portcullis_pgtable::{
    ArmLpaeStage1, ArmLpaeStage2, IoPageTable, IotlbGather, TableError, TableFormat, TableParams,
};
use portcullis_platform::{Platform, Registers};

#[cfg(test)]
#[path = "ops_tests.rs"]
mod tests;

/// Counters of a unit, for reports and leak checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Commands that the unit refused.
    pub refused_commands: u64,
    /// Address spaces that are bound, those in quarantine included.
    pub spaces: usize,
}

impl<P: Platform, R: Registers> Smmu<P, R> {
    /// Counters.
    pub fn statistics(&self) -> Statistics {
        Statistics { refused_commands: self.commands.refused(), spaces: self.spaces.count() }
    }

    /// Leads the streams to `wanted`, phase by phase, all of them in step so that each phase costs one CMD_SYNC.
    fn rewrite(
        &self,
        deadline: Deadline,
        streams: &[Arc<Stream<P>>],
        wanted: &Entry,
    ) -> Result<(), OpsError> {
        let plan =
            |stream: &Arc<Stream<P>>| entry::plan(&entry::STE, &self.streams.read(stream), wanted);
        let plans: Vec<Plan> = streams.iter().map(plan).collect();
        for step in 0..3 {
            let mut touched = Vec::new();
            for (stream, Plan(phases)) in streams.iter().zip(&plans) {
                if !phases[step].is_empty() {
                    self.streams.write(stream, &phases[step]);
                    touched.push(stream.id());
                }
            }
            if !touched.is_empty() {
                self.forget_configuration(deadline, &touched)?;
            }
        }
        Ok(())
    }

    /// Makes the streams' entries invalid: one store and one CMD_SYNC, from whatever they are. What is left in an invalid entry is ignored.
    fn block(&self, deadline: Deadline, streams: &[Arc<Stream<P>>]) -> Result<(), OpsError> {
        if streams.is_empty() {
            return Ok(());
        }
        for stream in streams {
            self.streams.claims.doubt(stream);
            self.streams.invalidate(stream);
        }
        let ids: Vec<StreamId> = streams.iter().map(|stream| stream.id()).collect();
        let confirmed = self.forget_configuration(deadline, &ids);
        confirmed.inspect_err(|_| self.streams.claims.note_unconfirmed())?;
        streams.iter().for_each(|stream| stream.trust());
        Ok(())
    }

    /// Makes hardware read the streams' entries afresh, and with them the context descriptors behind (§4.3.1).
    fn forget_configuration(
        &self,
        deadline: Deadline,
        streams: &[StreamId],
    ) -> Result<(), OpsError> {
        let commands = streams.iter().map(|&stream| Command::cfgi_ste(stream));
        self.commands.execute(&self.unit, deadline, streams.len(), commands)
    }

    fn lead(
        &self,
        deadline: Deadline,
        streams: &[Arc<Stream<P>>],
        target: StreamTarget,
    ) -> Result<(), OpsError> {
        let doubtful: Vec<_> = streams.iter().filter(|s| s.is_doubtful()).cloned().collect();
        self.block(deadline, &doubtful)?;
        match target {
            StreamTarget::Blocked => self.block(deadline, streams),
            StreamTarget::Identity => {
                self.rewrite(deadline, streams, &bypass_entry(&self.features))
            }
            StreamTarget::Space(tag) => self.rewrite(deadline, streams, &self.spaces.entry(tag)?),
        }
    }

    /// The first granule, in order of preference, all of whose leaf sizes were asked for.
    fn granule(&self, request: &SpaceRequest) -> Option<&'static Granule> {
        let wanted = request.support.page_sizes.bitmap();
        GRANULES.iter().find(|granule| {
            self.features.granules.contains(granule.size)
                && wanted & granule.leaves == granule.leaves
        })
    }

    fn formats(&self) -> Formats {
        let support = |format, input_bits| FormatSupport {
            format: SpaceFormat::Table(format),
            page_sizes: self.features.page_sizes(),
            input_bits,
            output_bits: self.features.output_bits,
        };
        let stage1 = support(TableFormat::ArmLpaeStage1, 48);
        let stage2 = support(TableFormat::ArmLpaeStage2, self.features.output_bits);
        let stage1 = self.features.stage1.then_some(stage1);
        stage1.into_iter().chain(self.features.stage2.then_some(stage2)).collect()
    }
}

impl<P: Platform, R: Registers> IommuOps for Smmu<P, R> {
    fn driver_name(&self) -> &'static str {
        "smmuv3"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            formats: self.formats(),
            id_bits: self.streams.bits(),
            pasid_bits: 0,
            coherent_walk: self.coherent,
            identity: true,
            map_needs_sync: false,
            range_invalidation: self.features.range_invalidation,
            msi: MsiDoorbell::Translated,
        }
    }

    fn claim(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        let streams = exact(streams)?;
        let doubtful = self.streams.claim(&streams)?;
        // Left over from a release that hardware did not confirm.
        let blocked = self.block(self.unit.deadline(), &doubtful);
        blocked.inspect_err(|_| self.streams.claims.forget(&self.streams.claims.unclaim(&streams)))
    }

    fn release(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        let last = self.streams.claims.unclaim(&exact(streams)?);
        // Not confirmed: the streams stay on record as doubtful, and the next claim must confirm it first.
        let blocked = self.block(self.unit.deadline(), &last);
        self.streams.claims.forget(&last);
        blocked
    }

    fn create_space(&self, request: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError> {
        let unsupported = OpsError::Unsupported(Unsupported::PageSizes);
        let granule = self.granule(request).ok_or(unsupported)?;
        let wanted = &request.support;
        let output_bits = output_bits(wanted.output_bits.min(self.features.output_bits))
            .ok_or(OpsError::Unsupported(Unsupported::AddressWidth))?;
        let stage1 = wanted.format == SpaceFormat::Table(TableFormat::ArmLpaeStage1);
        // Stage 2 takes as many bits as it puts out.
        let most_input = if stage1 { 48 } else { self.features.output_bits };
        let params = TableParams {
            granule: granule.size,
            // The narrowest table of the format is 32 bits wide.
            input_bits: wanted.input_bits.min(most_input).max(32),
            output_bits,
            leaf_sizes: wanted.page_sizes,
            force_snoop: false,
            coherent: request.coherent_walk && self.coherent,
        };
        let memory = self.unit.platform().memory();
        match wanted.format {
            SpaceFormat::Table(TableFormat::ArmLpaeStage1) if self.features.stage1 => {
                let table = IoPageTable::<ArmLpaeStage1, P::Memory>::new(memory, params);
                Ok(Arc::new(TableSpace::new(table.map_err(table_error)?)))
            }
            SpaceFormat::Table(TableFormat::ArmLpaeStage2) if self.features.stage2 => {
                let table = IoPageTable::<ArmLpaeStage2, P::Memory>::new(memory, params);
                Ok(Arc::new(TableSpace::new(table.map_err(table_error)?)))
            }
            _ => Err(OpsError::Unsupported(Unsupported::Format)),
        }
    }

    fn bind_space(&self, space: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError> {
        self.spaces.bind(self.unit.platform().memory(), space)
    }

    fn unbind_space(&self, tag: SpaceTag) -> Result<(), OpsError> {
        let name = self.spaces.quarantine(tag)?;
        let deadline = self.unit.deadline();
        // An entry that hardware was not confirmed to have forgotten may still lead here, to a descriptor that is about to be freed.
        if let Some(seen) = self.streams.claims.unconfirmed() {
            self.commands.execute_one(&self.unit, deadline, Command::cfgi_all())?;
            self.streams.claims.note_made_good(seen);
        }
        self.commands.execute_one(&self.unit, deadline, whole(name))?;
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
        let held = self.streams.claims.hold(&exact(streams)?)?;
        let deadline = self.unit.deadline();
        let Err(error) = self.lead(deadline, &held, target) else { return Ok(()) };
        Err(match (error, self.block(deadline, &held)) {
            (OpsError::Hardware { breakage, status }, Ok(())) => {
                OpsError::Blocked { breakage, status }
            }
            // The first error says most, unless only the second one says that not even blocking is confirmed.
            (error, Err(unconfirmed)) if !error.is_unconfirmed() => unconfirmed,
            (error, _) => error,
        })
    }

    fn invalidate(&self, tag: SpaceTag, gather: &IotlbGather) -> Result<(), OpsError> {
        let name = self.spaces.name(tag)?;
        match single(name, gather, self.features.range_invalidation) {
            Some(command) => self.commands.execute_one(&self.unit, Deadline::ONE_WAIT, command),
            None => self.wait(self.submit(tag, gather)?),
        }
    }

    fn submit(&self, tag: SpaceTag, gather: &IotlbGather) -> Result<Ticket, OpsError> {
        let name = self.spaces.name(tag)?;
        let ranges = self.features.range_invalidation;
        let (queue, unit, now) = (&self.commands, &self.unit, Deadline::ONE_WAIT);
        let ticket = match single(name, gather, ranges) {
            Some(command) => queue.submit_one(unit, now, command),
            None => match invalidation(name, gather, ranges) {
                None => return Ok(NOTHING),
                Some(Invalidation::Space(name)) => queue.submit_one(unit, now, whole(name)),
                Some(Invalidation::Singles(leaves)) => {
                    queue.submit(unit, now, leaves.total(), leaves)
                }
                Some(Invalidation::Ranges(pieces)) => {
                    queue.submit(unit, now, pieces.total(), pieces)
                }
            },
        };
        ticket.map(|ticket| Ticket([ticket.first, ticket.after, ticket.failures]))
    }

    fn wait(&self, ticket: Ticket) -> Result<(), OpsError> {
        if ticket == NOTHING {
            return Ok(());
        }
        let Ticket([first, after, failures]) = ticket;
        let ticket = Submitted { first, after, failures };
        self.commands.wait(&self.unit, Deadline::ONE_WAIT, &ticket)
    }

    fn forget_all(&self) -> Result<(), OpsError> {
        let seen = self.streams.claims.unconfirmed();
        let doubts = self.streams.claims.doubts();
        let spaces = self.spaces.quarantined();
        self.forget_everything().or_else(|_| self.restart())?;
        seen.into_iter().for_each(|seen| self.streams.claims.note_made_good(seen));
        self.streams.claims.settle(doubts);
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

/// The ticket of an invalidation that owes nothing: no batch is without its CMD_SYNC.
const NOTHING: Ticket = Ticket([0; 3]);

/// The widest output size of the tables that is not above `bits`.
fn output_bits(bits: u8) -> Option<u8> {
    [48, 44, 42, 40, 36, 32].into_iter().find(|size| *size <= bits)
}

fn table_error(error: TableError) -> OpsError {
    match error {
        TableError::NoMemory(error) => OpsError::NoMemory(error),
        _ => OpsError::Unsupported(Unsupported::AddressWidth),
    }
}
