//! A device as its group knows it.

use crate::description::{DeviceDescription, DomainType, FwNode, FwStream, ReservedRegion};
use alloc::sync::Arc;
use portcullis_addr::StreamId;

/// A device's number in its subsystem. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub(crate) u64);

/// One member of a group.
///
/// What a set-up asks of nearly every device stands here, so that its description, two cache lines of its own and another one of streams, need not be fetched.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) id: DeviceId,
    pub(crate) description: Arc<DeviceDescription>,
    first: FwStream,
    /// It has that stream and no other.
    single: bool,
    /// It is coherent and trusted, and needs neither reserved regions nor a kind of domain.
    plain: bool,
}

impl Member {
    pub(crate) fn new(id: DeviceId, description: Arc<DeviceDescription>) -> Self {
        let streams = description.streams();
        let plain = description.coherent
            && !description.untrusted
            && description.reserved.is_empty()
            && description.required_domain.is_none();
        let (first, single) = match streams {
            [only] => (*only, true),
            _ => (FwStream::new(FwNode(0), StreamId::new(0)), false),
        };
        Self { id, first, single, plain, description }
    }

    pub(crate) fn streams(&self) -> &[FwStream] {
        if self.single { core::slice::from_ref(&self.first) } else { self.description.streams() }
    }

    /// What is asked of it beyond being led somewhere: `None` where there is nothing.
    fn needs(&self) -> Option<&DeviceDescription> {
        (!self.plain).then_some(&*self.description)
    }

    pub(crate) fn required_domain(&self) -> Option<DomainType> {
        self.needs()?.required_domain
    }

    pub(crate) fn is_untrusted(&self) -> bool {
        self.needs().is_some_and(|needs| needs.untrusted)
    }

    pub(crate) fn is_coherent(&self) -> bool {
        self.needs().is_none_or(|needs| needs.coherent)
    }

    pub(crate) fn reserved(&self) -> &[ReservedRegion] {
        self.needs().map_or(&[], |needs| &needs.reserved)
    }
}
