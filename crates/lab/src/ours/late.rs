//! An instance that is shown before it serves: a bug on purpose, which the core's types rule out and its users' drivers could still build.

use portcullis::{
    Capabilities, Fault, IommuOps, OpsError, ReadyInstance, SpaceRequest, SpaceTag, StreamTarget,
};
use portcullis_addr::{PageSizes, StreamId};
use portcullis_pgtable::{IotlbGather, PageTable};
use portcullis_threads::step;
use std::sync::{Arc, OnceLock};

const NOT_YET: OpsError = OpsError::Unsupported { what: "anything before it was brought up" };

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
        let nothing = Capabilities {
            page_sizes: PageSizes::from_bitmap(0x1000),
            input_bits: 32,
            output_bits: 32,
            stream_id_bits: 0,
            coherent_walk: true,
            identity: false,
        };
        self.get().map_or(nothing, |instance| instance.capabilities())
    }

    fn claim(&self, streams: &[StreamId]) -> Result<(), OpsError> {
        self.get()?.claim(streams)
    }

    fn release(&self, streams: &[StreamId]) {
        if let Ok(instance) = self.get() {
            instance.release(streams);
        }
    }

    fn create_table(&self, request: &SpaceRequest) -> Result<Arc<dyn PageTable>, OpsError> {
        self.get()?.create_table(request)
    }

    fn bind_space(&self, table: &Arc<dyn PageTable>) -> Result<SpaceTag, OpsError> {
        self.get()?.bind_space(table)
    }

    fn unbind_space(&self, tag: SpaceTag) -> Result<(), OpsError> {
        self.get()?.unbind_space(tag)
    }

    fn attach(&self, streams: &[StreamId], target: StreamTarget) -> Result<(), OpsError> {
        self.get()?.attach(streams, target)
    }

    fn invalidate(&self, tag: SpaceTag, gather: &IotlbGather) -> Result<(), OpsError> {
        self.get()?.invalidate(tag, gather)
    }

    fn drain_faults(&self, sink: &mut dyn FnMut(Fault)) -> u64 {
        self.get().map_or(0, |instance| instance.drain_faults(sink))
    }

    fn shutdown(&self) -> Result<(), OpsError> {
        self.get()?.shutdown()
    }
}
