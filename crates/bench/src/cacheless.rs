//! An IOMMU that caches nothing, so an unmap owes it nothing: what is left of `map` and `unmap` is the core, the addresses and the table.

use crate::instant::{InstantSmmu, platform, unit};
use portcullis::{
    AddressSpace, Capabilities, Fault, IommuOps, OpsError, Pasid, Serviced, SpaceRequest, SpaceTag,
    StreamSpec, StreamTarget, Ticket,
};
use portcullis_pgtable::IotlbGather;
use std::sync::Arc;

/// An [`InstantSmmu`] that is told of no unmap.
#[derive(Debug)]
pub struct Cacheless(InstantSmmu);

impl Default for Cacheless {
    fn default() -> Self {
        Self(unit(&platform(), true))
    }
}

impl IommuOps for Cacheless {
    fn driver_name(&self) -> &'static str {
        "cacheless"
    }
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    fn claim(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        self.0.claim(streams)
    }
    fn release(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        self.0.release(streams)
    }
    fn create_space(&self, request: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError> {
        self.0.create_space(request)
    }
    fn bind_space(&self, space: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError> {
        self.0.bind_space(space)
    }
    fn unbind_space(&self, tag: SpaceTag) -> Result<(), OpsError> {
        self.0.unbind_space(tag)
    }
    fn attach(
        &self,
        streams: &[StreamSpec],
        pasid: Option<Pasid>,
        target: StreamTarget,
    ) -> Result<(), OpsError> {
        self.0.attach(streams, pasid, target)
    }
    fn submit(&self, _: SpaceTag, _: &IotlbGather) -> Result<Ticket, OpsError> {
        Ok(Ticket([0; 3]))
    }
    fn wait(&self, _: Ticket) -> Result<(), OpsError> {
        Ok(())
    }
    fn invalidate(&self, _: SpaceTag, _: &IotlbGather) -> Result<(), OpsError> {
        Ok(())
    }
    fn forget_all(&self) -> Result<(), OpsError> {
        self.0.forget_all()
    }
    fn service(&self, budget: usize, sink: &mut dyn FnMut(Fault)) -> Serviced {
        self.0.service(budget, sink)
    }
    fn shutdown(&self) -> Result<(), OpsError> {
        self.0.shutdown()
    }
}
