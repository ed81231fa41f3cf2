//! Places the BARs of functions that enumeration has found, and has bridges forward to them.

use super::config::{ConfigSpace, Requests};
use crate::error::{Error, ErrorKind};
use portcullis_addr::PhysAddr;
use portcullis_pci::{Bdf, Segment};

/// Granule of a bridge's memory window.
const BRIDGE_GRANULE: u64 = 1 << 20;
/// Command register: answer memory accesses, and make them.
const MEMORY_AND_MASTER: u32 = 1 << 1 | 1 << 2;

/// A range of 32-bit physical addresses that BARs can be placed in; shrinks from below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryWindow {
    next: u64,
    end: u64,
}

impl MemoryWindow {
    /// `[start, end)`; `end` at most 4 GiB.
    pub const fn new(start: u64, end: u64) -> Self {
        Self { next: start, end }
    }

    fn align(&mut self, boundary: u64) {
        self.next = self.next.next_multiple_of(boundary);
    }

    fn take(&mut self, size: u64) -> Option<u64> {
        let at = self.next.checked_next_multiple_of(size)?;
        let next = at.checked_add(size)?;
        (next <= self.end).then(|| {
            self.next = next;
            at
        })
    }
}

/// A placed memory BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Where.
    pub address: PhysAddr,
    /// How many bytes, a power of two.
    pub size: u64,
}

/// One function, with its BARs placed, and memory access and bus mastering on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: Bdf,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class code: base class, sub class, interface.
    pub class: u32,
    /// Its memory BARs by number; `None` for I/O, absent, and upper halves.
    pub bars: [Option<Bar>; 6],
    /// The bus below it, where it is a bridge itself.
    pub secondary: Option<u8>,
    alias: Bdf,
}

impl Function {
    /// The id with which QEMU lets its transactions arrive at the root: what the last bridge makes of it, where one replaces ids at all.
    pub fn dma_alias(&self) -> Bdf {
        self.alias
    }
}

/// Places the BARs of all functions but virtual ones in `window`, in the order in which they were found, and turns them on.
///
/// # Errors
///
/// [`ErrorKind::Pci`] where the window is too small; as [`Requests::carry_out`].
pub fn place<R: Requests>(
    config: &ConfigSpace<R>,
    segment: &Segment,
    window: MemoryWindow,
) -> Result<Vec<Function>, Error> {
    let mut walk = Walk { config, segment, window, placed: Vec::new() };
    walk.below(None)?;
    Ok(walk.placed)
}

struct Walk<'a, R> {
    config: &'a ConfigSpace<R>,
    segment: &'a Segment,
    window: MemoryWindow,
    placed: Vec<Function>,
}

impl<R: Requests> Walk<'_, R> {
    /// All that is right below a bridge, or on the root buses.
    fn below(&mut self, parent: Option<usize>) -> Result<(), Error> {
        for (at, function) in self.segment.functions().iter().enumerate() {
            if function.parent != parent || function.physical.is_some() {
                continue;
            }
            let address = function.address;
            let bars = self.bars(address, if function.below.is_some() { 2 } else { 6 })?;
            let ids = self.segment.requester_ids(function);
            self.placed.push(Function {
                address,
                vendor: function.vendor,
                device: function.device,
                class: function.class,
                bars,
                secondary: function.below.map(|below| below.secondary),
                alias: ids.last().copied().unwrap_or(address),
            });
            if function.below.is_some() {
                self.bridge(address, at)?;
            }
            self.config.write(address, 4, MEMORY_AND_MASTER)?;
        }
        Ok(())
    }

    /// Places what is below a bridge, and opens the bridge's window for it.
    fn bridge(&mut self, address: Bdf, at: usize) -> Result<(), Error> {
        self.window.align(BRIDGE_GRANULE);
        let start = self.window.next;
        self.below(Some(at))?;
        self.window.align(BRIDGE_GRANULE);
        self.config.write(address, 0x20, bridge_window(start, self.window.next))?;
        // No prefetchable window: base above limit.
        self.config.write(address, 0x24, 0x0000_fff0)
    }

    fn bars(&mut self, address: Bdf, count: u16) -> Result<[Option<Bar>; 6], Error> {
        let mut bars = [None; 6];
        let mut number = 0;
        while number < count {
            let offset = 0x10 + 4 * number;
            self.config.write(address, offset, u32::MAX)?;
            let answer = self.config.read(address, offset)?;
            let is_memory = answer != 0 && answer & 1 == 0;
            let is_wide = is_memory && answer & 6 == 4;
            if is_memory {
                let size = u64::from(!(answer & !0xf)) + 1;
                bars[usize::from(number)] = Some(self.place_bar(address, offset, size)?);
            }
            if is_wide {
                self.config.write(address, offset + 4, 0)?;
            }
            number += if is_wide { 2 } else { 1 };
        }
        Ok(bars)
    }

    fn place_bar(&mut self, address: Bdf, offset: u16, size: u64) -> Result<Bar, Error> {
        // A page at least: a driver maps whole pages, and two devices must not share one.
        let at = self.window.take(size.max(4096)).ok_or_else(|| ErrorKind::Pci {
            address,
            what: format!("a BAR of {size:#x} bytes does not fit what is left of the window"),
        })?;
        self.config.write(address, offset, at as u32)?;
        Ok(Bar { address: PhysAddr::new(at), size })
    }
}

/// Memory base and limit of a bridge for `[start, end)`; base above limit, which forwards nothing, for an empty range.
fn bridge_window(start: u64, end: u64) -> u32 {
    if start == end {
        return 0x0000_fff0;
    }
    let base = (start >> 16) as u32 & 0xfff0;
    let limit = ((end - 1) >> 16) as u32 & 0xfff0;
    limit << 16 | base
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        let mut window = MemoryWindow::new(0x1000_1000, 0x1040_0000);
        assert_eq!(window.take(0x10_0000), Some(0x1010_0000));
        assert_eq!(window.take(0x40_0000), None);
        assert_eq!(window.take(0x1000), Some(0x1020_0000));
        assert_eq!(bridge_window(0x1010_0000, 0x1030_0000), 0x1020_1010);
        assert_eq!(bridge_window(0x1010_0000, 0x1010_0000), 0xfff0);
    }
}
