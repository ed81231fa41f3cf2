//! What a device asks of the bus, and the answer.

use crate::access::AccessKind;
use portcullis_addr::Iova;

/// The bytes of a [`DmaRequest`].
#[derive(Debug)]
pub(crate) enum Bytes<'a> {
    In(&'a mut [u8]),
    Out(&'a [u8]),
}

/// One transfer that a device is to make.
#[derive(Debug)]
pub struct DmaRequest<'a> {
    pub(crate) address: u64,
    pub(crate) bytes: Bytes<'a>,
    pub(crate) port: usize,
    pub(crate) substream: Option<u32>,
    pub(crate) privileged: bool,
}

impl<'a> DmaRequest<'a> {
    /// Memory at `address` to the device's `bytes`.
    pub fn read(address: Iova, bytes: &'a mut [u8]) -> Self {
        Self::new(address, Bytes::In(bytes))
    }

    /// The device's `bytes` to memory at `address`.
    pub fn write(address: Iova, bytes: &'a [u8]) -> Self {
        Self::new(address, Bytes::Out(bytes))
    }

    fn new(address: Iova, bytes: Bytes<'a>) -> Self {
        Self { address: address.raw(), bytes, port: 0, substream: None, privileged: false }
    }

    /// Through port number `port` of the device (0 by default).
    #[must_use]
    pub fn through(mut self, port: usize) -> Self {
        self.port = port;
        self
    }

    /// With a SubstreamID (PCIe: PASID).
    #[must_use]
    pub fn substream(mut self, id: u32) -> Self {
        self.substream = Some(id);
        self
    }

    /// As a privileged access.
    #[must_use]
    pub fn privileged(mut self) -> Self {
        self.privileged = true;
        self
    }

    pub(crate) fn kind(&self) -> AccessKind {
        match self.bytes {
            Bytes::In(_) => AccessKind::Read,
            Bytes::Out(_) => AccessKind::Write,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match &self.bytes {
            Bytes::In(bytes) => bytes.len(),
            Bytes::Out(bytes) => bytes.len(),
        }
    }
}

/// How a transfer ended, as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the transfer may have been refused"]
pub enum DmaOutcome {
    /// All bytes were moved.
    Completed,
    /// The bus answered with an abort; bytes before it were moved.
    Aborted {
        /// Bytes moved before the abort.
        done: usize,
    },
}

impl DmaOutcome {
    /// Whether all bytes were moved.
    pub fn is_completed(self) -> bool {
        self == Self::Completed
    }

    /// Bytes moved of `len`.
    pub fn bytes(self, len: usize) -> usize {
        match self {
            Self::Completed => len,
            Self::Aborted { done } => done,
        }
    }
}
