//! What the core asks of a device.

use crate::command::Command;
use crate::context::Channel;
use crate::hooks::{Safeguard, omitted};
use crate::{Iommu, Place};
use alloc::sync::Arc;
use alloc::vec::Vec;
use portcullis::{
    AddressSpace, Breakage, Capabilities, Fault, FormatSupport, Formats, HardwareRegion,
    HardwareRegionKind, IommuOps, MsiDoorbell, OpsError, Pasid, Serviced, SpaceFormat,
    SpaceRequest, SpaceTag, StreamSpec, StreamTarget, Ticket, Unsupported,
};
use portcullis_addr::{Iova, IovaRange, PhysAddr, StreamId};
use portcullis_driver_parts::{Stream, Submitted};
use portcullis_pgtable::IotlbGather;
use portcullis_platform::{Platform, Registers};

/// Counters of a device, for reports and leak checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Requests that the device refused, or that a reset has ended.
    pub refused_requests: u64,
    /// Address spaces that are bound, those in quarantine included.
    pub spaces: usize,
    /// Endpoints that are attached to a space or pass unchanged.
    pub attached: usize,
}

/// Width of physical addresses in a MAP that this system can have.
const OUTPUT_BITS: u8 = 52;

impl<P: Platform, R: Registers> Iommu<P, R> {
    /// Counters.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            refused_requests: self.device.commands.refused(),
            spaces: self.spaces.count(),
            attached: self.endpoints.lock().len(),
        }
    }

    fn execute(&self, commands: impl Iterator<Item = Command>) -> Result<(), OpsError> {
        self.device.commands.execute(&self.device.unit, commands)
    }

    /// Where the device may have these streams.
    fn places(&self, streams: &[Arc<Stream<P>>]) -> Vec<(StreamId, Place)> {
        let endpoints = self.endpoints.lock();
        let ids = streams.iter().map(|stream| stream.id());
        ids.filter_map(|id| Some((id, *endpoints.get(&id.raw())?))).collect()
    }

    /// The device has confirmed that these endpoints are attached to nothing.
    fn left(&self, places: &[(StreamId, Place)]) {
        for (id, place) in places {
            if let Place::Space(tag) = place {
                for (_, channel) in self.spaces.all().iter().filter(|(other, _)| other == tag) {
                    channel.detached(&[*id]);
                }
            }
        }
        let mut endpoints = self.endpoints.lock();
        for (id, _) in places {
            endpoints.remove(&id.raw());
        }
    }

    /// Detaches the endpoints from whatever they are attached to: what is attached to nothing is blocked.
    fn block(&self, streams: &[Arc<Stream<P>>]) -> Result<(), OpsError> {
        let places = self.places(streams);
        if places.is_empty() {
            streams.iter().for_each(|stream| stream.trust());
            return Ok(());
        }
        streams.iter().for_each(|stream| self.claims.doubt(stream));
        if !omitted::<P>(Safeguard::DetachBlocked) {
            let detach =
                |(id, place): &(StreamId, Place)| Command::detach(self.domain(*place), *id);
            let confirmed = self.execute(places.iter().map(detach));
            confirmed.inspect_err(|_| self.claims.note_unconfirmed())?;
        }
        self.left(&places);
        streams.iter().for_each(|stream| stream.trust());
        Ok(())
    }

    fn domain(&self, place: Place) -> u32 {
        match place {
            Place::Space(tag) => self.spaces.domain(tag),
            Place::Identity => self.spaces.identity(),
        }
    }

    fn lead(&self, streams: &[Arc<Stream<P>>], target: StreamTarget) -> Result<(), OpsError> {
        self.block(streams)?;
        let ids: Vec<StreamId> = streams.iter().map(|stream| stream.id()).collect();
        let note = |place: Place| {
            let mut endpoints = self.endpoints.lock();
            endpoints.extend(ids.iter().map(|id| (id.raw(), place)));
        };
        match target {
            StreamTarget::Blocked => Ok(()),
            StreamTarget::Identity if !self.device.features.closes_bypass() => {
                Err(OpsError::Unsupported(Unsupported::Identity))
            }
            StreamTarget::Identity => {
                note(Place::Identity);
                let domain = self.spaces.identity();
                self.execute(ids.iter().map(|id| Command::attach(domain, *id, true)))
            }
            StreamTarget::Space(tag) => {
                let channel = self.spaces.channel(tag)?;
                note(Place::Space(tag));
                channel.attach(&ids)
            }
        }
    }

    /// After a reset: endpoints in doubt are attached to nothing, all others again to what they were.
    pub(crate) fn revive(&self) -> Result<(), OpsError> {
        let doubtful: Vec<_> = self.claims.doubts().into_iter().map(|(stream, _)| stream).collect();
        self.left(&self.places(&doubtful));
        let passing: Vec<StreamId> = {
            let endpoints = self.endpoints.lock();
            let passing = endpoints.iter().filter(|(_, place)| **place == Place::Identity);
            passing.map(|(id, _)| StreamId::new(*id)).collect()
        };
        let domain = self.spaces.identity();
        self.execute(passing.iter().map(|id| Command::attach(domain, *id, true)))?;
        self.spaces.all().iter().try_for_each(|(_, channel)| channel.revive())
    }

    /// Has the device confirm what it left unconfirmed, without a reset.
    fn settle(&self) -> Result<(), OpsError> {
        let commands = &self.device.commands;
        commands.notify(&self.device.unit);
        commands.wait(&self.device.unit, &commands.everything())?;
        if commands.has_refused_unmap() {
            return Err(refused_unmap());
        }
        let doubtful: Vec<_> = self.claims.doubts().into_iter().map(|(stream, _)| stream).collect();
        self.block(&doubtful)
    }
}

/// The device refused to unmap something: what it still maps is not known.
fn refused_unmap() -> OpsError {
    OpsError::Hardware { breakage: Breakage::RequestFailed, status: 0 }
}

impl<P: Platform, R: Registers> IommuOps for Iommu<P, R> {
    fn driver_name(&self) -> &'static str {
        "virtio"
    }

    fn capabilities(&self) -> Capabilities {
        let features = &self.device.features;
        let requests = FormatSupport {
            format: SpaceFormat::Requests,
            page_sizes: features.page_sizes,
            input_bits: features.input_bits(),
            output_bits: OUTPUT_BITS,
        };
        Capabilities {
            formats: Formats::of(&[requests]),
            id_bits: 32,
            pasid_bits: 0,
            coherent_walk: true,
            identity: features.closes_bypass(),
            map_needs_sync: false,
            range_invalidation: true,
            // Where the device has a window of its own for messages, PROBE says so of each endpoint.
            msi: MsiDoorbell::Translated,
        }
    }

    fn reserved_regions(
        &self,
        streams: &[StreamSpec],
        add: &mut dyn FnMut(HardwareRegion),
    ) -> Result<(), OpsError> {
        let first = self.device.features.input.0;
        if let Ok(range) = IovaRange::new(Iova::new(0), first) {
            add(HardwareRegion { range, kind: HardwareRegionKind::Reserved });
        }
        for id in exact(streams)? {
            self.probe.ask(&self.device, id)?.into_iter().for_each(&mut *add);
        }
        Ok(())
    }

    fn claim(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        let streams = exact(streams)?;
        let room = |(): &mut ()| Ok::<(), OpsError>(());
        // Endpoints have no entries in memory.
        let doubtful = self.claims.claim(&streams, room, |_| PhysAddr::new(0))?;
        // Left over from a release that the device did not confirm.
        let blocked = self.block(&doubtful);
        blocked.inspect_err(|_| self.claims.forget(&self.claims.unclaim(&streams)))
    }

    fn release(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        let last = self.claims.unclaim(&exact(streams)?);
        // Not confirmed: the endpoints stay on record as doubtful, and the next claim must confirm it first.
        let blocked = self.block(&last);
        self.claims.forget(&last);
        blocked
    }

    fn create_space(&self, request: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError> {
        let (wanted, features) = (&request.support, &self.device.features);
        if wanted.format != SpaceFormat::Requests {
            return Err(OpsError::Unsupported(Unsupported::Format));
        }
        if !wanted.page_sizes.contains(features.granule) {
            return Err(OpsError::Unsupported(Unsupported::PageSizes));
        }
        let bits = wanted.input_bits.min(features.input_bits());
        let last = ((1u64 << bits) - 1).min(features.input.1);
        let width = OpsError::Unsupported(Unsupported::AddressWidth);
        let len = last.checked_sub(features.input.0).ok_or(width)? + 1;
        let input = IovaRange::new(Iova::new(features.input.0), len).map_err(|_| width)?;
        Ok(Arc::new(Channel::new(&self.device, input, self.index)))
    }

    fn bind_space(&self, space: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError> {
        self.spaces.bind(&self.device, space)
    }

    fn unbind_space(&self, tag: SpaceTag) -> Result<(), OpsError> {
        self.spaces.quarantine(tag)?;
        let seen = self.claims.unconfirmed();
        if seen.is_some() {
            // An endpoint that the device was not confirmed to have detached may keep the domain alive.
            self.settle()?;
        }
        seen.into_iter().for_each(|seen| self.claims.note_made_good(seen));
        self.spaces.free(tag);
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
        let held = self.claims.hold(&exact(streams)?)?;
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

    /// What is owed was placed when it was unmapped; now the device is told, of all of it at once.
    fn submit(&self, tag: SpaceTag, gather: &IotlbGather) -> Result<Ticket, OpsError> {
        self.spaces.check(tag)?;
        if gather.is_empty() {
            return Ok(NOTHING);
        }
        let commands = &self.device.commands;
        commands.notify(&self.device.unit);
        let Submitted { first, after, failures } = commands.everything();
        Ok(Ticket([first, after, failures]))
    }

    fn wait(&self, ticket: Ticket) -> Result<(), OpsError> {
        if ticket == NOTHING || omitted::<P>(Safeguard::WaitForAnswers) {
            return Ok(());
        }
        let Ticket([first, after, failures]) = ticket;
        let commands = &self.device.commands;
        commands.wait(&self.device.unit, &Submitted { first, after, failures })?;
        if commands.has_refused_unmap() { Err(refused_unmap()) } else { Ok(()) }
    }

    fn forget_all(&self) -> Result<(), OpsError> {
        let seen = self.claims.unconfirmed();
        let (doubts, spaces) = (self.claims.doubts(), self.spaces.quarantined());
        self.settle().or_else(|_| self.restart())?;
        seen.into_iter().for_each(|seen| self.claims.note_made_good(seen));
        self.claims.settle(doubts);
        spaces.into_iter().for_each(|tag| self.spaces.free(tag));
        Ok(())
    }

    fn service(&self, budget: usize, sink: &mut dyn FnMut(Fault)) -> Serviced {
        self.serve_interrupt(budget, sink)
    }

    fn shutdown(&self) -> Result<(), OpsError> {
        self.stop()
    }
}

/// The ticket of what owes nothing.
const NOTHING: Ticket = Ticket([u64::MAX; 3]);

/// The ids of `streams`, which a device looks up one by one.
fn exact(streams: &[StreamSpec]) -> Result<Vec<StreamId>, OpsError> {
    let id = |stream: &StreamSpec| match stream.mask {
        0 => Ok(stream.id),
        _ => Err(OpsError::Unsupported(Unsupported::StreamMask(*stream))),
    };
    streams.iter().map(id).collect()
}
