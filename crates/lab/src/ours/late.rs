//! An instance that is shown before it serves: a bug on purpose, which the core's types rule out and its users' drivers could still build.

use portcullis::{
    AddressSpace, Capabilities, Fault, FormatSupport, Formats, IommuOps, MsiDoorbell, OpsError,
    Pasid, ReadyInstance, Serviced, SpaceFormat, SpaceRequest, SpaceTag, StreamSpec, StreamTarget,
    Ticket, Unsupported,
};
use portcullis_addr::PageSizes;
use portcullis_pgtable::{IotlbGather, TableFormat};
use portcullis_threads::step;
use std::sync::{Arc, OnceLock};

const NOT_YET: OpsError = OpsError::Unsupported(Unsupported::NotBroughtUp);

/// Serves once [`serve`](Self::serve) was called.
#[derive(Clone, Debug, Default)]
pub(crate) struct Late(Arc<OnceLock<ReadyInstance>>);

impl Late {
    /// From now on `instance` answers.
    pub(crate) fn serve(&self, instance: ReadyInstance) {
        step("instance", self.number(), "begin to serve", true);
        let first = self.0.set(instance);
        assert!(first.is_ok(), "an instance is brought up once");
    }

    fn get(&self) -> Result<&ReadyInstance, OpsError> {
        step("instance", self.number(), "look", false);
        self.0.get().ok_or(NOT_YET)
    }

    fn number(&self) -> u64 {
        Arc::as_ptr(&self.0).addr() as u64
    }
}

impl IommuOps for Late {
    fn driver_name(&self) -> &'static str {
        "late"
    }

    fn capabilities(&self) -> Capabilities {
        // One format, so that what it refuses is the set-up and not the negotiation.
        let support = FormatSupport {
            format: SpaceFormat::Table(TableFormat::ArmLpaeStage1),
            page_sizes: PageSizes::from_bitmap(0x1000),
            input_bits: 32,
            output_bits: 32,
        };
        let nothing = || Capabilities {
            formats: Formats::of(&[support]),
            id_bits: 0,
            pasid_bits: 0,
            coherent_walk: true,
            identity: false,
            map_needs_sync: false,
            range_invalidation: false,
            msi: MsiDoorbell::Translated,
        };
        self.get().map_or_else(|_| nothing(), |instance| instance.capabilities())
    }

    fn claim(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        self.get()?.claim(streams)
    }

    fn release(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        self.get()?.release(streams)
    }

    fn create_space(&self, request: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError> {
        self.get()?.create_space(request)
    }

    fn bind_space(&self, space: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError> {
        self.get()?.bind_space(space)
    }

    fn unbind_space(&self, tag: SpaceTag) -> Result<(), OpsError> {
        self.get()?.unbind_space(tag)
    }

    fn attach(
        &self,
        streams: &[StreamSpec],
        pasid: Option<Pasid>,
        target: StreamTarget,
    ) -> Result<(), OpsError> {
        self.get()?.attach(streams, pasid, target)
    }

    fn submit(&self, tag: SpaceTag, gather: &IotlbGather) -> Result<Ticket, OpsError> {
        self.get()?.submit(tag, gather)
    }

    fn wait(&self, ticket: Ticket) -> Result<(), OpsError> {
        self.get()?.wait(ticket)
    }

    fn forget_all(&self) -> Result<(), OpsError> {
        self.get()?.forget_all()
    }

    fn service(&self, budget: usize, sink: &mut dyn FnMut(Fault)) -> Serviced {
        self.get().map_or_else(|_| Serviced::default(), |instance| instance.service(budget, sink))
    }

    fn shutdown(&self) -> Result<(), OpsError> {
        self.get()?.shutdown()
    }
}
