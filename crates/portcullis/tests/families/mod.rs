//! The hardware trait is wide enough for the families to come: a stand-in for each binds, maps and unmaps through the core.
//!
//! Each stand-in has what sets its family apart, and a device that sees memory only through what the "hardware" was told.

mod channel;
mod growing;
mod masked;
mod remembering;

use crate::page;
use crate::support::*;
use portcullis::*;
use portcullis_addr::{Iova, PageSize, PageSizes};
use portcullis_pgtable::{IotlbGather, TableFormat};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What sets a family apart.
trait Family: std::fmt::Debug + Send + Sync + 'static {
    fn capabilities(&self) -> Capabilities {
        plain(SpaceFormat::Table(TableFormat::ArmLpaeStage1))
    }
    fn reserved(&self, _add: &mut dyn FnMut(HardwareRegion)) -> Result<(), OpsError> {
        Ok(())
    }
    /// A claim of `stream` beside those that are `held`.
    fn claim(&self, _held: &[StreamSpec], _stream: StreamSpec) -> Result<(), OpsError> {
        Ok(())
    }
    fn create(&self, request: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError>;
    /// A stream was led to `space`.
    fn attached(&self, _space: &Arc<dyn AddressSpace>) -> Result<(), OpsError> {
        Ok(())
    }
    /// What `gather` owes was paid for `space`.
    fn invalidated(&self, _space: &Arc<dyn AddressSpace>, _gather: &IotlbGather) {}
}

/// Capabilities without anything special.
fn plain(format: SpaceFormat) -> Capabilities {
    Capabilities {
        formats: Formats::of(&[FormatSupport {
            format,
            page_sizes: PageSizes::of(&[PageSize::SIZE_4K]),
            input_bits: 48,
            output_bits: 48,
        }]),
        id_bits: 24,
        pasid_bits: 20,
        coherent_walk: true,
        identity: false,
        map_needs_sync: false,
        range_invalidation: true,
        msi: MsiDoorbell::Translated,
    }
}

/// A unit of a family, as its driver would present it.
#[derive(Debug)]
struct Unit<F>(Arc<Shared<F>>);

#[derive(Debug)]
struct Shared<F> {
    family: F,
    streams: Mutex<BTreeMap<StreamSpec, (usize, StreamTarget)>>,
    spaces: Mutex<Vec<Arc<dyn AddressSpace>>>,
}

impl<F: Family> Shared<F> {
    fn new(family: F) -> Arc<Self> {
        Arc::new(Self { family, streams: Mutex::default(), spaces: Mutex::default() })
    }

    /// The space of a stream that the device emits.
    fn space_of(&self, id: u32) -> Option<Arc<dyn AddressSpace>> {
        let emitted = StreamSpec::exact(portcullis_addr::StreamId::new(id));
        let streams = self.streams.lock().expect("test");
        let (_, (_, target)) = streams.iter().find(|(stream, _)| stream.overlaps(&emitted))?;
        match target {
            StreamTarget::Space(tag) => Some(self.space(*tag)),
            StreamTarget::Blocked | StreamTarget::Identity => None,
        }
    }

    fn space(&self, tag: SpaceTag) -> Arc<dyn AddressSpace> {
        Arc::clone(&self.spaces.lock().expect("test")[tag.0 as usize])
    }
}

impl<F: Family> IommuOps for Unit<F> {
    fn driver_name(&self) -> &'static str {
        "stand-in"
    }
    fn capabilities(&self) -> Capabilities {
        self.0.family.capabilities()
    }
    fn reserved_regions(
        &self,
        _: &[StreamSpec],
        add: &mut dyn FnMut(HardwareRegion),
    ) -> Result<(), OpsError> {
        self.0.family.reserved(add)
    }
    fn claim(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        let mut all = self.0.streams.lock().expect("test");
        for stream in streams {
            let held: Vec<_> = all.keys().copied().collect();
            if !all.contains_key(stream) {
                self.0.family.claim(&held, *stream)?;
            }
        }
        for stream in streams {
            all.entry(*stream).or_insert((0, StreamTarget::Blocked)).0 += 1;
        }
        Ok(())
    }
    fn release(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        let mut all = self.0.streams.lock().expect("test");
        for stream in streams {
            let entry = all.get_mut(stream).expect("claimed");
            entry.0 -= 1;
            if entry.0 == 0 {
                all.remove(stream);
            }
        }
        Ok(())
    }
    fn create_space(&self, request: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError> {
        self.0.family.create(request)
    }
    fn bind_space(&self, space: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError> {
        let mut spaces = self.0.spaces.lock().expect("test");
        spaces.push(Arc::clone(space));
        Ok(SpaceTag(spaces.len() as u32 - 1))
    }
    fn unbind_space(&self, _: SpaceTag) -> Result<(), OpsError> {
        Ok(())
    }
    fn attach(
        &self,
        streams: &[StreamSpec],
        _: Option<Pasid>,
        target: StreamTarget,
    ) -> Result<(), OpsError> {
        if let StreamTarget::Space(tag) = target {
            self.0.family.attached(&self.0.space(tag))?;
        }
        let mut all = self.0.streams.lock().expect("test");
        streams.iter().for_each(|stream| all.get_mut(stream).expect("claimed").1 = target);
        Ok(())
    }
    fn submit(&self, tag: SpaceTag, gather: &IotlbGather) -> Result<Ticket, OpsError> {
        self.0.family.invalidated(&self.0.space(tag), gather);
        Ok(Ticket([0; 3]))
    }
    fn wait(&self, _: Ticket) -> Result<(), OpsError> {
        Ok(())
    }
    fn forget_all(&self) -> Result<(), OpsError> {
        Ok(())
    }
    fn service(&self, _: usize, _: &mut dyn FnMut(Fault)) -> Serviced {
        Serviced::default()
    }
    fn shutdown(&self) -> Result<(), OpsError> {
        Ok(())
    }
}

/// A device with stream 1 behind a unit of the family, bound.
struct Stand<F> {
    sub: Sub,
    unit: Arc<Shared<F>>,
    handle: DmaHandle<Host>,
}

impl<F: Family> Stand<F> {
    fn new(family: F) -> Self {
        Self::of(family, behind("/x", &[(A, 1)]))
    }

    fn of(family: F, device: DeviceDescription) -> Self {
        let sub = subsystem();
        let x = sub.add_device(device).expect("added");
        let unit = Shared::new(family);
        sub.register(A, Box::new(Unit(Arc::clone(&unit)))).expect("free");
        let driver = Arc::new(Keeper::default());
        let outcome = sub.bind(&x, driver.clone());
        assert_eq!(outcome, Ok(BindOutcome::Bound(Reach::Translated)));
        let handle = driver.handle.lock().expect("test").clone().expect("bound");
        Self { sub, unit, handle }
    }

    fn map(&self) -> DmaMapping<Piece, Both> {
        self.handle.map(page(), Both).map_err(|failure| failure.error()).expect("mapped")
    }
}

fn iova<T, D>(mapping: &DmaMapping<T, D>) -> Iova
where
    T: Lendable,
    D: DmaDirection,
{
    Iova::new(mapping.device_address())
}
