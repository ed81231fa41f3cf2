//! The device table: which entry belongs to a device, who has claimed it (§2.2.2).
//!
//! All of it is allocated and filled before the unit sees it, in one piece or in segments: an entry of zeroes would let its device pass. It is never freed once the unit was shown it.

use crate::entry::{BLOCKED, Entry, Phase};
use crate::hooks::{Safeguard, omitted};
use crate::unit::Unit;
use alloc::sync::Arc;
use alloc::vec::Vec;
use portcullis::{OpsError, StreamSpec};
use portcullis_addr::{PhysAddr, StreamId};
use portcullis_driver_parts::{Claims, HardwarePages, Running, Stream};
use portcullis_platform::{AllocError, DmaMemory, Platform, Registers};
use portcullis_spec::amdvi::{dev_tab_base, dte};

/// Id bits of one page of entries, the smallest table.
pub(crate) const LEAST_BITS: u8 = 7;
/// Bits of an id.
pub(crate) const MOST_BITS: u8 = 16;

#[derive(Debug)]
pub(crate) struct DeviceTable<P: Platform> {
    segments: Vec<HardwarePages<P::Memory>>,
    /// Id bits of all segments together.
    bits: u8,
    /// Id bits of one segment.
    segment_bits: u8,
    /// Whose the devices are.
    pub(crate) claims: Claims<P, ()>,
}

impl<P: Platform> DeviceTable<P> {
    /// A table for ids of `bits` bits, in which every device is blocked. In `2^segments_log2` segments where the ids have all 16 bits; the high bits of an id name its segment.
    pub(crate) fn new(
        platform: &P,
        shown: &Running,
        bits: u8,
        segments_log2: u8,
        address_bits: u8,
        label: u64,
    ) -> Result<Self, AllocError> {
        let bits = if segments_log2 > 0 { MOST_BITS } else { bits.clamp(LEAST_BITS, MOST_BITS) };
        let segment_bits = bits - segments_log2;
        let mut segments = Vec::new();
        for _ in 0..1 << segments_log2 {
            let bytes = dte::BYTES << segment_bits;
            let pages = HardwarePages::new(platform.memory(), shown, bytes, address_bits)?;
            if !omitted::<P>(Safeguard::BlockBeforeEnable) {
                for at in (0..bytes as u64).step_by(dte::BYTES) {
                    pages.memory().store64(pages.at(at), BLOCKED[0]);
                }
                pages.publish(pages.address(), bytes);
            }
            segments.push(pages);
        }
        Ok(Self { segments, bits, segment_bits, claims: Claims::new((), label) })
    }

    /// Shows the table to the unit. One that is on goes over to it at once, segment by segment.
    pub(crate) fn install<R: Registers>(&self, unit: &Unit<P, R>) {
        let pages = ((dte::BYTES as u64) << self.segment_bits) >> 12;
        for (index, segment) in self.segments.iter().enumerate().rev() {
            let base = dev_tab_base::BASE.in_place(segment.address().raw());
            unit.write_segment(index, base | dev_tab_base::SIZE.of(pages - 1));
        }
    }

    /// log2 of the segments.
    pub(crate) fn segments_log2(&self) -> u8 {
        self.bits - self.segment_bits
    }

    /// In how many pieces it is allocated, and how many bytes these are.
    pub(crate) fn memory(&self) -> (usize, u64) {
        (self.segments.len(), (dte::BYTES as u64) << self.bits)
    }

    /// Width of the ids that the table covers.
    pub(crate) fn bits(&self) -> u8 {
        self.bits
    }

    /// Counts one claim of each device. Returns those that hardware must still confirm to be blocked.
    pub(crate) fn claim(&self, ids: &[StreamId]) -> Result<Vec<Arc<Stream<P>>>, OpsError> {
        if let Some(&id) = ids.iter().find(|id| self.entry_address(**id).is_none()) {
            let stream = StreamSpec::exact(id);
            return Err(OpsError::StreamOutOfRange { stream, bits: self.bits });
        }
        let entry = |id| self.entry_address(id).expect("every id was looked at");
        self.claims.claim(ids, |()| Ok(()), entry)
    }

    /// The segment that has the entry of a device, and where the entry is.
    fn place(&self, device: StreamId) -> Option<(&HardwarePages<P::Memory>, PhysAddr)> {
        let segment = self.segments.get((device.raw() >> self.segment_bits) as usize)?;
        let index = u64::from(device.raw() & ((1 << self.segment_bits) - 1));
        Some((segment, segment.at(index * dte::BYTES as u64)))
    }

    fn entry_address(&self, device: StreamId) -> Option<PhysAddr> {
        self.place(device).map(|(_, at)| at)
    }

    /// The entry as it stands in memory.
    pub(crate) fn read(&self, stream: &Stream<P>) -> Entry {
        self.load(stream.entry())
    }

    fn load(&self, at: PhysAddr) -> Entry {
        let memory = self.segments[0].memory();
        core::array::from_fn(|word| memory.load64(PhysAddr::new(at.raw() + word as u64 * 8)))
    }

    /// Carries out one phase of a change and makes it visible.
    pub(crate) fn write(&self, stream: &Stream<P>, phase: &Phase) {
        let segment = &self.segments[0];
        for (word, value) in phase.stores() {
            let address = PhysAddr::new(stream.entry().raw() + word as u64 * 8);
            segment.memory().store64(address, value);
        }
        segment.publish(stream.entry(), dte::BYTES);
    }

    /// Puts firmware's entry into a table that the unit has not seen; whether the table has one for the device.
    pub(crate) fn adopt(&self, device: StreamId, entry: &Entry) -> bool {
        let Some((segment, at)) = self.place(device) else { return false };
        for (word, value) in (0..).zip(entry) {
            segment.memory().store64(PhysAddr::new(at.raw() + word * 8), *value);
        }
        segment.publish(at, dte::BYTES);
        true
    }

    /// Takes every permission out of every entry.
    pub(crate) fn block_all(&self) {
        for segment in &self.segments {
            for at in (0..(dte::BYTES as u64) << self.segment_bits).step_by(dte::BYTES) {
                if segment.memory().load64(segment.at(at)) != BLOCKED[0] {
                    segment.memory().store64(segment.at(at), BLOCKED[0]);
                    segment.publish(segment.at(at), dte::BYTES);
                }
            }
        }
    }
}
