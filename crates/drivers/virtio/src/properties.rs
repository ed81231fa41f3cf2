//! What a device says of an endpoint when it is asked (§5.13.6.7).

use crate::Device;
use crate::command::Command;
use crate::command_queue::{Properties, UNANSWERED};
use alloc::vec::Vec;
use portcullis::{Breakage, HardwareRegion, HardwareRegionKind, OpsError};
use portcullis_addr::{Iova, IovaRange, StreamId};
use portcullis_driver_parts::{HardwarePages, Running};
use portcullis_platform::{AllocError, DmaMemory, Lock, LockLabel, Platform, Registers};
use portcullis_spec::virtio::iommu::{property, request, status};

/// Memory for one answer, used by one asker after the other.
pub(crate) struct ProbeBuffer<P: Platform> {
    /// `None` where the device cannot be asked.
    pages: Option<Lock<P, HardwarePages<P::Memory>>>,
    bytes: u32,
}

impl<P: Platform> ProbeBuffer<P> {
    /// Memory for `bytes` of properties and the tail.
    pub(crate) fn new(
        platform: &P,
        running: &Running,
        bytes: u32,
        index: u64,
    ) -> Result<Self, AllocError> {
        if bytes == 0 {
            return Ok(Self { pages: None, bytes });
        }
        let size = (bytes as usize + request::TAIL_BYTES).next_multiple_of(8);
        let pages = HardwarePages::new(platform.memory(), running, size, 64)?;
        let label = LockLabel::new("virtio.probe", index);
        Ok(Self { pages: Some(Lock::<P, _>::new(label, pages)), bytes })
    }

    /// Asks the device for the ranges of the endpoint's addresses that are its own.
    pub(crate) fn ask<R: Registers>(
        &self,
        device: &Device<P, R>,
        endpoint: StreamId,
    ) -> Result<Vec<HardwareRegion>, OpsError> {
        let Some(pages) = &self.pages else { return Ok(Vec::new()) };
        let pages = pages.lock();
        let total = self.bytes + request::TAIL_BYTES as u32;
        let words = u64::from(total).div_ceil(8);
        for word in 0..words {
            pages.memory().store64(pages.at(8 * word), 0);
        }
        let tail = u64::from(self.bytes);
        pages.memory().store64(pages.at(tail / 8 * 8), UNANSWERED << (tail % 8 * 8));
        pages.publish(pages.at(0), total as usize);
        let properties = Properties { address: pages.address(), bytes: total };
        let (unit, commands) = (&device.unit, &device.commands);
        let placed = commands.place_probe(unit, &Command::probe(endpoint), properties)?;
        commands.notify(unit);
        commands.wait(unit, &placed)?;
        pages.refresh(pages.at(0), total as usize);
        let bytes =
            (0..words).flat_map(|word| pages.memory().load64(pages.at(8 * word)).to_le_bytes());
        let bytes: Vec<u8> = bytes.take(total as usize).collect();
        // The status is behind the properties, not in the slot's own tail.
        match bytes.get(self.bytes as usize) {
            Some(&status::OK) => regions(&bytes[..self.bytes as usize]),
            code => Err(nonsense(code.copied().unwrap_or_default().into())),
        }
    }
}

fn nonsense(status: u64) -> OpsError {
    OpsError::Hardware { breakage: Breakage::RequestFailed, status }
}

/// The ranges among some properties. Types that the document does not name are passed over, as it asks for; a subtype that it does not name is a range that cannot be used.
fn regions(bytes: &[u8]) -> Result<Vec<HardwareRegion>, OpsError> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let [t0, t1, l0, l1, after @ ..] = rest {
        let kind = u16::from_le_bytes([*t0, *t1]) & property::TYPE_MASK;
        let len = u16::from_le_bytes([*l0, *l1]);
        if kind == property::NONE {
            break;
        }
        let value = after.get(..len.into()).ok_or(nonsense(kind.into()))?;
        if kind == property::RESERVED_MEMORY {
            found.push(region(value).ok_or(nonsense(kind.into()))?);
        }
        rest = &after[usize::from(len)..];
    }
    Ok(found)
}

fn region(value: &[u8]) -> Option<HardwareRegion> {
    let number = |at: usize| Some(u64::from_le_bytes(*value.get(at..)?.first_chunk()?));
    let (first, last) = (number(4)?, number(12)?);
    let len = last.checked_sub(first)?.checked_add(1)?;
    let range = IovaRange::new(Iova::new(first), len).ok()?;
    let kind = match *value.first()? {
        property::MSI => HardwareRegionKind::Msi,
        _ => HardwareRegionKind::Reserved,
    };
    Some(HardwareRegion { range, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn property(kind: u16, subtype: u8, first: u64, last: u64) -> Vec<u8> {
        let mut bytes = Vec::from(kind.to_le_bytes());
        bytes.extend(20u16.to_le_bytes());
        bytes.extend([subtype, 0, 0, 0]);
        bytes.extend(first.to_le_bytes());
        bytes.extend(last.to_le_bytes());
        bytes
    }

    #[test]
    fn ranges_are_read_and_unknown_properties_passed_over() {
        let mut bytes = property(1, 1, 0xfee0_0000, 0xfeef_ffff);
        bytes.extend([7, 0, 4, 0, 1, 2, 3, 4]);
        bytes.extend(property(0x1001, 9, 0, 0xfff));
        bytes.extend([0; 16]);
        let found = regions(&bytes).expect("well-formed");
        let told: Vec<_> = found
            .iter()
            .map(|it| (it.kind, it.range.start().raw(), it.range.last().raw()))
            .collect();
        let (msi, reserved) = (HardwareRegionKind::Msi, HardwareRegionKind::Reserved);
        assert_eq!(told, [(msi, 0xfee0_0000, 0xfeef_ffff), (reserved, 0, 0xfff)]);
    }

    #[test]
    fn what_does_not_hold_together_is_refused() {
        let good = property(1, 0, 0x1000, 0x1fff);
        assert!(regions(&good[..20]).is_err(), "cut off");
        assert!(regions(&property(1, 0, 0x2000, 0x1fff)).is_err(), "backwards");
        assert!(regions(&property(1, 0, 0, u64::MAX)).is_err(), "everything: no length says that");
        let mut short = good.clone();
        short[2] = 8;
        assert!(regions(&short).is_err(), "shorter than a range");
        assert_eq!(regions(&[]).map(|found| found.len()), Ok(0));
        assert_eq!(regions(&[1, 0, 0]).map(|found| found.len()), Ok(0), "no room for a header");
    }
}
