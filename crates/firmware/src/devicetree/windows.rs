//! Addresses that a function of a PCI bus must not use: on the bus, another device answers to them, or nobody does.

use super::tree::{Node, cells};
use alloc::vec::Vec;

/// Bits 25 and 24 of the first cell of a PCI address (IEEE 1275 PCI bus binding 2.1, section 2.2.1.1): 2 and 3 are memory, 32 and 64 bits wide.
fn is_memory(high: u32) -> bool {
    (high >> 24) & 2 != 0
}

/// The memory ranges, on the bus, of a host bridge's `ranges` or `dma-ranges`: first and last address. Empty where the property is
/// missing or malformed.
fn memory_ranges(bus: Node<'_, '_>, property: &str) -> Vec<(u64, u64)> {
    let (below, above) = (bus.child_cells(), bus.own_cells());
    if below.address != 3 || !(1..=2).contains(&below.size) || above.address > 3 {
        return Vec::new();
    }
    let number =
        |cells: &[u32]| cells.iter().fold(0u64, |value, cell| (value << 32) | u64::from(*cell));
    let tuple = 3usize.saturating_add(above.address as usize).saturating_add(below.size as usize);
    let cells = bus.property(property).and_then(cells).unwrap_or_default();
    let range = |tuple: &[u32]| {
        let (address, rest) = tuple.split_at_checked(3)?;
        let (high, low) = address.split_first()?;
        let len = number(rest.get(above.address as usize..)?);
        let start = number(low);
        let last = start.checked_add(len.checked_sub(1)?)?;
        is_memory(*high).then_some((start, last))
    };
    cells.chunks_exact(tuple).filter_map(range).collect()
}

/// The gaps that `ranges` leave between address 0 and `last`.
fn gaps(mut ranges: Vec<(u64, u64)>, last: u64) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut gaps = Vec::new();
    let mut next = Some(0u64);
    for (start, end) in ranges {
        let Some(from) = next else { break };
        if let Some(before) = start.checked_sub(1).filter(|before| *before >= from) {
            gaps.push((from, before.min(last)));
        }
        next = end.checked_add(1).map(|after| after.max(from));
    }
    gaps.extend(next.filter(|from| *from <= last).map(|from| (from, last)));
    gaps.retain(|(first, end)| first <= end);
    gaps
}

/// What no function below the host bridge `bus` may use as a DMA address of `bits` bits: the bridge's outbound memory windows, and what lies outside of
/// its inbound `dma-ranges`, where it has some.
///
/// Linux keeps the same free (`iova_reserve_pci_windows`, aadad097cd46): such an address never reaches the IOMMU.
pub(super) fn out_of_reach(bus: Node<'_, '_>, bits: u8) -> Vec<(u64, u64)> {
    let last = u64::MAX.checked_shr(64u32.saturating_sub(u32::from(bits))).unwrap_or(0);
    let mut taken = memory_ranges(bus, "ranges");
    let inbound = memory_ranges(bus, "dma-ranges");
    if !inbound.is_empty() {
        taken.extend(gaps(inbound, last));
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::gaps;
    use alloc::vec;

    #[test]
    fn gaps_are_what_no_range_covers() {
        assert_eq!(
            gaps(vec![(0x4000, 0x7fff), (0, 0xfff)], 0xffff),
            [(0x1000, 0x3fff), (0x8000, 0xffff)]
        );
        assert_eq!(gaps(vec![(0, u64::MAX)], u64::MAX), []);
        assert_eq!(gaps(vec![(1, u64::MAX)], u64::MAX), [(0, 0)]);
        assert_eq!(
            gaps(vec![(0x1000, 0x8fff), (0x2000, 0x2fff)], 0x9fff),
            [(0, 0xfff), (0x9000, 0x9fff)]
        );
        assert_eq!(gaps(vec![(0x2_0000, 0x2_ffff)], 0xffff), [(0, 0xffff)]);
    }
}
