//! The virtio-iommu (§5.13).

/// Its kind (§5).
pub const DEVICE_ID: u32 = 23;
/// The queue of requests (§5.13.2).
pub const REQUEST_QUEUE: u16 = 0;
/// The queue of events.
pub const EVENT_QUEUE: u16 = 1;

/// Feature bits (§5.13.3).
pub mod feature {
    /// `input_range` counts.
    pub const INPUT_RANGE: u64 = 1 << 0;
    /// `domain_range` counts.
    pub const DOMAIN_RANGE: u64 = 1 << 1;
    /// MAP and UNMAP.
    pub const MAP_UNMAP: u64 = 1 << 2;
    /// Endpoints that are attached to nothing are in bypass.
    pub const BYPASS: u64 = 1 << 3;
    /// PROBE.
    pub const PROBE: u64 = 1 << 4;
    /// The flag [`super::map::MMIO`].
    pub const MMIO: u64 = 1 << 5;
    /// The field `bypass` of the configuration says what endpoints do that are attached to nothing.
    pub const BYPASS_CONFIG: u64 = 1 << 6;
}

/// The configuration (§5.13.4).
pub mod config {
    /// 64 bits: which sizes of pages can be mapped; the lowest bit is the granule.
    pub const PAGE_SIZE_MASK: usize = 0;
    /// 64 bits: first input address.
    pub const INPUT_START: usize = 8;
    /// 64 bits: last input address.
    pub const INPUT_END: usize = 16;
    /// 32 bits: first domain.
    pub const DOMAIN_START: usize = 24;
    /// 32 bits: last domain.
    pub const DOMAIN_END: usize = 28;
    /// 32 bits: bytes of the properties of a PROBE.
    pub const PROBE_SIZE: usize = 32;
    /// 8 bits: 1 while endpoints that are attached to nothing bypass.
    pub const BYPASS: usize = 36;
    /// Bytes of all of it.
    pub const BYTES: usize = 40;
}

/// Types of requests (§5.13.6). Each begins with its type and three reserved bytes and ends with a tail that the device writes.
pub mod request {
    /// Attaches an endpoint to a domain.
    pub const ATTACH: u8 = 1;
    /// Detaches it.
    pub const DETACH: u8 = 2;
    /// Maps a range.
    pub const MAP: u8 = 3;
    /// Unmaps one.
    pub const UNMAP: u8 = 4;
    /// Asks for an endpoint's properties.
    pub const PROBE: u8 = 5;

    /// Bytes of an ATTACH before its tail: domain at 4, endpoint at 8, flags at 12 (32 bits each).
    pub const ATTACH_BYTES: usize = 20;
    /// Bytes of a DETACH: domain at 4, endpoint at 8.
    pub const DETACH_BYTES: usize = 20;
    /// Bytes of a MAP: domain at 4, first and last address at 8 and 16, physical address at 24 (64 bits each), flags at 32.
    pub const MAP_BYTES: usize = 36;
    /// Bytes of an UNMAP: domain at 4, first and last address at 8 and 16.
    pub const UNMAP_BYTES: usize = 28;
    /// Bytes of a PROBE that the device reads: endpoint at 4.
    pub const PROBE_BYTES: usize = 72;
    /// Bytes of the tail: the status and three reserved ones.
    pub const TAIL_BYTES: usize = 4;

    /// Flag of an ATTACH: the domain passes addresses unchanged (with [`super::feature::BYPASS_CONFIG`]).
    pub const ATTACH_BYPASS: u32 = 1;
}

/// Flags of a MAP (§5.13.6.5).
pub mod map {
    /// The endpoint may read.
    pub const READ: u32 = 1;
    /// It may write.
    pub const WRITE: u32 = 2;
    /// The target is device memory.
    pub const MMIO: u32 = 4;
}

/// What a tail says (§5.13.6.1).
pub mod status {
    /// Done.
    pub const OK: u8 = 0;
    /// A virtio error.
    pub const IOERR: u8 = 1;
    /// No such request.
    pub const UNSUPP: u8 = 2;
    /// The device itself failed.
    pub const DEVERR: u8 = 3;
    /// A parameter is invalid.
    pub const INVAL: u8 = 4;
    /// A range cannot be used.
    pub const RANGE: u8 = 5;
    /// No such endpoint or domain.
    pub const NOENT: u8 = 6;
    /// A fault while the request was read or written.
    pub const FAULT: u8 = 7;
    /// No memory.
    pub const NOMEM: u8 = 8;
}

/// Properties of a PROBE (§5.13.6.7): type and length of what follows, 16 bits each.
pub mod property {
    /// The bits of the type that count.
    pub const TYPE_MASK: u16 = 0xfff;
    /// There are no more.
    pub const NONE: u16 = 0;
    /// A range of addresses with a meaning of its own: subtype at 4, first and last address at 8 and 16.
    pub const RESERVED_MEMORY: u16 = 1;
    /// Bytes of such a range behind the header.
    pub const RESERVED_MEMORY_BYTES: u16 = 20;
    /// Subtype: nothing can be mapped there.
    pub const RESERVED: u8 = 0;
    /// Subtype: a doorbell of message-signalled interrupts.
    pub const MSI: u8 = 1;
}

/// A record of the event queue (§5.13.6.9): reason (8 bits), flags at 4, endpoint at 8, address at 16.
pub mod fault {
    /// Bytes.
    pub const BYTES: usize = 24;
    /// Reason: the device does not say.
    pub const UNKNOWN: u8 = 0;
    /// Reason: the endpoint is attached to nothing.
    pub const DOMAIN: u8 = 1;
    /// Reason: nothing is mapped, or not for this access.
    pub const MAPPING: u8 = 2;
    /// Flag: it was a read.
    pub const READ: u32 = 1;
    /// Flag: it was a write.
    pub const WRITE: u32 = 2;
    /// Flag: the address is valid.
    pub const ADDRESS: u32 = 1 << 8;
}
