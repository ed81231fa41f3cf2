//! What the core asks of a unit.

use crate::Smmu;
use crate::command::Command;
use crate::context::bypass_entry;
use crate::entry::{self, Entry, Plan};
use crate::event_queue::decode;
use crate::identify::{GRANULES, Granule};
use crate::invalidate::{Invalidation, invalidation, whole};
use crate::stream_table::Stream;
use alloc::sync::Arc;
use alloc::vec::Vec;
use portcullis::{Capabilities, Fault, IommuOps, OpsError, SpaceRequest, SpaceTag, StreamTarget};
use portcullis_addr::StreamId;
use portcullis_pgtable::{
    ArmLpaeStage1, ArmLpaeStage2, IoPageTable, IotlbGather, PageTable, TableError, TableParams,
};
use portcullis_platform::{Platform, Registers};
use portcullis_spec::smmuv3::gerror;

#[cfg(test)]
#[path = "ops_tests.rs"]
mod tests;

/// What one look at the unit's interrupt sources found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serviced {
    /// Faults given to the sink.
    pub faults: u64,
    /// At least so many were lost: one for each overflow of the queue, and one for each event that could not be written.
    pub lost: u64,
    /// The global errors that were active, as bits of `SMMU_GERROR`.
    pub errors: u32,
}

impl Serviced {
    /// Whether the interrupt was this unit's.
    pub fn is_ours(&self) -> bool {
        *self != Self::default()
    }
}

/// Counters of a unit, for reports and leak checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Commands that the unit refused.
    pub refused_commands: u64,
    /// Address spaces that are bound, those in quarantine included.
    pub spaces: usize,
}

impl<P: Platform, R: Registers> Smmu<P, R> {
    /// What an interrupt of the unit (event queue or global error, wired) must call; also right at any other time.
    ///
    /// Repairs a command queue that stopped, acknowledges global errors and overflows, and gives the recorded faults to `sink`, without holding a lock
    /// while it runs. It looks until the queue is empty, but takes at most four times its capacity, so that a device that faults without end cannot hold the caller.
    pub fn service(&self, sink: &mut dyn FnMut(Fault)) -> Serviced {
        let mut serviced = Serviced::default();
        if !self.running.is_set() {
            return serviced;
        }
        // A unit that is gone has nothing to say, and one whose queue cannot be repaired says so to whoever waits for it.
        serviced.errors = self.commands.acknowledge(&self.unit).unwrap_or(0);
        let unwritten = gerror::EVENTQ_ABT_ERR.is_set(u64::from(serviced.errors));
        serviced.lost += u64::from(unwritten);
        let limit = 4 * self.events.capacity() as u64;
        while serviced.faults < limit {
            let taken = self.events.take(&self.unit);
            serviced.lost += u64::from(taken.overflowed);
            for record in taken.records() {
                sink(decode(*record, |stream| self.streams.is_sound(stream)));
                serviced.faults += 1;
            }
            if taken.records().is_empty() {
                break;
            }
        }
        serviced
    }

    /// Counters.
    pub fn statistics(&self) -> Statistics {
        Statistics { refused_commands: self.commands.refused(), spaces: self.spaces.count() }
    }

    /// Leads the streams to `wanted`, phase by phase, all of them in step so that each phase costs one CMD_SYNC.
    fn rewrite(&self, streams: &[Arc<Stream>], wanted: &Entry) -> Result<(), OpsError> {
        let plan =
            |stream: &Arc<Stream>| entry::plan(&entry::STE, &self.streams.read(stream), wanted);
        let plans: Vec<Plan> = streams.iter().map(plan).collect();
        for step in 0..3 {
            let mut touched = Vec::new();
            for (stream, Plan(phases)) in streams.iter().zip(&plans) {
                if !phases[step].is_empty() {
                    self.streams.write(stream, &phases[step]);
                    touched.push(stream.id);
                }
            }
            if !touched.is_empty() {
                self.forget_configuration(&touched)?;
            }
        }
        Ok(())
    }

    /// Makes the streams' entries invalid: one store and one CMD_SYNC, from whatever they are. What is left in an invalid entry is ignored.
    fn block(&self, streams: &[Arc<Stream>]) -> Result<(), OpsError> {
        if streams.is_empty() {
            return Ok(());
        }
        for stream in streams {
            stream.set_doubtful(true);
            self.streams.invalidate(stream);
        }
        let ids: Vec<StreamId> = streams.iter().map(|stream| stream.id).collect();
        self.forget_configuration(&ids).inspect_err(|_| self.streams.note_unconfirmed())?;
        streams.iter().for_each(|stream| stream.set_doubtful(false));
        Ok(())
    }

    /// Makes hardware read the streams' entries afresh, and with them the context descriptors behind (§4.3.1).
    fn forget_configuration(&self, streams: &[StreamId]) -> Result<(), OpsError> {
        let commands = streams.iter().map(|&stream| Command::cfgi_ste(stream));
        self.commands.execute(&self.unit, streams.len(), commands)
    }

    fn lead(&self, streams: &[Arc<Stream>], target: StreamTarget) -> Result<(), OpsError> {
        let doubtful: Vec<_> = streams.iter().filter(|s| s.is_doubtful()).cloned().collect();
        self.block(&doubtful)?;
        match target {
            StreamTarget::Blocked => self.block(streams),
            StreamTarget::Identity => self.rewrite(streams, &bypass_entry(&self.features)),
            StreamTarget::Space(tag) => self.rewrite(streams, &self.spaces.entry(tag)?),
        }
    }

    /// The first granule, in order of preference, all of whose leaf sizes were asked for.
    fn granule(&self, request: &SpaceRequest) -> Option<&'static Granule> {
        GRANULES.iter().find(|granule| {
            self.features.granules.contains(granule.size)
                && request.page_sizes.bitmap() & granule.leaves == granule.leaves
        })
    }
}

impl<P: Platform, R: Registers> IommuOps for Smmu<P, R> {
    fn driver_name(&self) -> &'static str {
        "smmuv3"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            page_sizes: self.features.page_sizes(),
            input_bits: self.features.input_bits(),
            output_bits: self.features.output_bits,
            stream_id_bits: self.streams.bits(),
            coherent_walk: self.coherent,
            identity: true,
        }
    }

    fn claim(&self, streams: &[StreamId]) -> Result<(), OpsError> {
        let doubtful = self.streams.claim(streams)?;
        // Left over from a release that hardware did not confirm.
        self.block(&doubtful).inspect_err(|_| self.streams.forget(&self.streams.unclaim(streams)))
    }

    fn release(&self, streams: &[StreamId]) {
        let last = self.streams.unclaim(streams);
        // Not confirmed: the streams stay on record as doubtful, and the next claim must confirm it first.
        _ = self.block(&last);
        self.streams.forget(&last);
    }

    fn create_table(&self, request: &SpaceRequest) -> Result<Arc<dyn PageTable>, OpsError> {
        let unsupported = OpsError::Unsupported { what: "these page sizes" };
        let granule = self.granule(request).ok_or(unsupported)?;
        let output_bits = output_bits(request.output_bits.min(self.features.output_bits))
            .ok_or(OpsError::Unsupported { what: "output addresses below 32 bits" })?;
        let input_bits = request.input_bits.min(self.features.input_bits());
        let params = TableParams {
            granule: granule.size,
            // The narrowest table of the format is 32 bits wide.
            input_bits: input_bits.max(32),
            output_bits,
            leaf_sizes: request.page_sizes,
            coherent: request.coherent_walk && self.coherent,
        };
        let memory = self.unit.platform().memory();
        Ok(if self.features.stage1 {
            let table = IoPageTable::<ArmLpaeStage1, P::Memory>::new(memory, params);
            Arc::new(table.map_err(table_error)?)
        } else {
            let table = IoPageTable::<ArmLpaeStage2, P::Memory>::new(memory, params);
            Arc::new(table.map_err(table_error)?)
        })
    }

    fn bind_space(&self, table: &Arc<dyn PageTable>) -> Result<SpaceTag, OpsError> {
        self.spaces.bind(self.unit.platform().memory(), table)
    }

    fn unbind_space(&self, tag: SpaceTag) -> Result<(), OpsError> {
        let name = self.spaces.quarantine(tag)?;
        // An entry that hardware was not confirmed to have forgotten may still lead here, to a descriptor that is about to be freed.
        if let Some(seen) = self.streams.unconfirmed() {
            self.commands.execute(&self.unit, 1, core::iter::once(Command::cfgi_all()))?;
            self.streams.note_made_good(seen);
        }
        self.commands.execute(&self.unit, 1, core::iter::once(whole(name)))?;
        self.spaces.free(name);
        Ok(())
    }

    fn attach(&self, streams: &[StreamId], target: StreamTarget) -> Result<(), OpsError> {
        let held = self.streams.hold(streams)?;
        let outcome = self.lead(&held, target);
        if outcome.is_err() {
            // If this is not confirmed either, the streams stay doubtful; the first error already says "unconfirmed" then.
            _ = self.block(&held);
        }
        outcome
    }

    fn invalidate(&self, tag: SpaceTag, gather: &IotlbGather) -> Result<(), OpsError> {
        let name = self.spaces.name(tag)?;
        let ranges = self.features.range_invalidation;
        let (queue, unit) = (&self.commands, &self.unit);
        match invalidation(name, gather, ranges) {
            None => Ok(()),
            Some(Invalidation::Space(name)) => {
                queue.execute(unit, 1, core::iter::once(whole(name)))
            }
            Some(Invalidation::Singles(leaves)) => queue.execute(unit, leaves.total(), leaves),
            Some(Invalidation::Ranges(pieces)) => queue.execute(unit, pieces.total(), pieces),
        }
    }

    fn drain_faults(&self, sink: &mut dyn FnMut(Fault)) -> u64 {
        self.service(sink).lost
    }

    fn shutdown(&self) -> Result<(), OpsError> {
        self.stop().map_err(|error| error.as_ops_error("stopping the SMMU"))
    }
}

/// The widest output size of the tables that is not above `bits`.
fn output_bits(bits: u8) -> Option<u8> {
    [48, 44, 42, 40, 36, 32].into_iter().find(|size| *size <= bits)
}

fn table_error(error: TableError) -> OpsError {
    match error {
        TableError::NoMemory(error) => OpsError::NoMemory(error),
        _ => OpsError::Unsupported { what: "a table of these widths" },
    }
}
