//! Finds the functions on all buses, numbers the buses, places the BARs.

use super::config::{Bdf, ConfigSpace, Requests};
use crate::error::{Error, ErrorKind};
use portcullis_addr::PhysAddr;

/// Granule of a bridge's memory window.
const BRIDGE_GRANULE: u64 = 1 << 20;
/// Command register: answer memory accesses, and make them.
const MEMORY_AND_MASTER: u32 = 1 << 1 | 1 << 2;
const CAPABILITY_EXPRESS: u8 = 0x10;

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

/// What stands on the lower side of a bridge, and whose id transactions carry when they leave on the upper side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeKind {
    /// A PCI Express port: ids pass.
    Port,
    /// PCI Express to conventional PCI: transactions get the secondary bus, device 0, function 0 (PCIe-to-PCI Bridge 1.0, 2.3).
    ToConventional,
    /// A conventional bridge: transactions get the bridge's own id.
    Conventional,
}

/// A bridge on the way to a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Its own address.
    pub address: Bdf,
    /// The bus below.
    pub secondary: u8,
    /// Its kind.
    pub kind: BridgeKind,
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
    /// The bridges above it, from the root down.
    pub bridges: Vec<Bridge>,
    /// The bus below it, where it is a bridge itself.
    pub secondary: Option<u8>,
}

impl Function {
    /// The id with which its transactions arrive at the root.
    #[doc(alias = "pci_for_each_dma_alias")]
    pub fn dma_alias(&self) -> Bdf {
        self.bridges.iter().rev().fold(self.address, |id, bridge| match bridge.kind {
            BridgeKind::Port => id,
            BridgeKind::ToConventional => Bdf::new(bridge.secondary, 0, 0),
            BridgeKind::Conventional => bridge.address,
        })
    }
}

/// Walks all buses from bus 0 on: depth first, buses numbered as met, BARs placed in `window`, which bridges forward.
///
/// # Errors
///
/// [`ErrorKind::Pci`] where the window is too small or bus numbers run out; as [`Requests::carry_out`].
pub fn enumerate<R: Requests>(
    config: &ConfigSpace<R>,
    window: MemoryWindow,
) -> Result<Vec<Function>, Error> {
    let mut walk = Walk { config, window, last_bus: 0, found: Vec::new() };
    walk.bus(0, &[])?;
    Ok(walk.found)
}

struct Walk<'a, R> {
    config: &'a ConfigSpace<R>,
    window: MemoryWindow,
    last_bus: u8,
    found: Vec<Function>,
}

impl<R: Requests> Walk<'_, R> {
    fn bus(&mut self, bus: u8, bridges: &[Bridge]) -> Result<(), Error> {
        let firsts: Vec<_> = (0..32).map(|device| Bdf::new(bus, device, 0)).collect();
        let ids = self.config.read_each(&firsts, 0)?;
        for first in firsts.iter().zip(ids).filter(|(_, id)| is_present(*id)).map(|(f, _)| *f) {
            let multifunction = self.config.read(first, 0xc)? >> 23 & 1 == 1;
            let last = if multifunction { 7 } else { 0 };
            let functions: Vec<_> =
                (0..=last).map(|number| Bdf::new(bus, first.device(), number)).collect();
            let ids = self.config.read_each(&functions, 0)?;
            for (address, id) in functions.into_iter().zip(ids) {
                if is_present(id) {
                    self.function(address, id, bridges)?;
                }
            }
        }
        Ok(())
    }

    fn function(&mut self, address: Bdf, id: u32, bridges: &[Bridge]) -> Result<(), Error> {
        let class = self.config.read(address, 8)? >> 8;
        let is_bridge = self.config.read(address, 0xc)? >> 16 & 0x7f == 1;
        let bars = self.bars(address, if is_bridge { 2 } else { 6 })?;
        let place = self.found.len();
        self.found.push(Function {
            address,
            vendor: id as u16,
            device: (id >> 16) as u16,
            class,
            bars,
            bridges: bridges.to_vec(),
            secondary: None,
        });
        if is_bridge {
            self.found[place].secondary = Some(self.bridge(address, bridges)?);
        }
        self.config.write(address, 4, MEMORY_AND_MASTER)
    }

    /// Numbers the bus below, walks it, and opens the bridge's window for what was placed there.
    fn bridge(&mut self, address: Bdf, above: &[Bridge]) -> Result<u8, Error> {
        let secondary = self.last_bus.checked_add(1).ok_or_else(|| {
            let what = "no bus number is left for the bus below".to_owned();
            ErrorKind::Pci { address, what }
        })?;
        self.last_bus = secondary;
        let numbers =
            |last: u8| u32::from(address.bus()) | u32::from(secondary) << 8 | u32::from(last) << 16;
        self.config.write(address, 0x18, numbers(0xff))?;
        let kind = self.bridge_kind(address)?;
        self.window.align(BRIDGE_GRANULE);
        let start = self.window.next;
        let path: Vec<_> =
            above.iter().copied().chain([Bridge { address, secondary, kind }]).collect();
        self.bus(secondary, &path)?;
        self.window.align(BRIDGE_GRANULE);
        self.config.write(address, 0x18, numbers(self.last_bus))?;
        self.config.write(address, 0x20, bridge_window(start, self.window.next))?;
        // No prefetchable window: base above limit.
        self.config.write(address, 0x24, 0x0000_fff0)?;
        Ok(secondary)
    }

    fn bridge_kind(&self, address: Bdf) -> Result<BridgeKind, Error> {
        let Some(at) = self.config.capability(address, CAPABILITY_EXPRESS)? else {
            return Ok(BridgeKind::Conventional);
        };
        const EXPRESS_TO_CONVENTIONAL: u32 = 7;
        let port_type = self.config.read(address, at)? >> 20 & 0xf;
        let converts = port_type == EXPRESS_TO_CONVENTIONAL;
        Ok(if converts { BridgeKind::ToConventional } else { BridgeKind::Port })
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
                bars[usize::from(number)] = Some(self.place(address, offset, size)?);
            }
            if is_wide {
                self.config.write(address, offset + 4, 0)?;
            }
            number += if is_wide { 2 } else { 1 };
        }
        Ok(bars)
    }

    fn place(&mut self, address: Bdf, offset: u16, size: u64) -> Result<Bar, Error> {
        // A page at least: a driver maps whole pages, and two devices must not share one.
        let at = self.window.take(size.max(4096)).ok_or_else(|| ErrorKind::Pci {
            address,
            what: format!("a BAR of {size:#x} bytes does not fit what is left of the window"),
        })?;
        self.config.write(address, offset, at as u32)?;
        Ok(Bar { address: PhysAddr::new(at), size })
    }
}

fn is_present(id: u32) -> bool {
    id as u16 != 0xffff && id != 0
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

    fn below(bridges: Vec<Bridge>) -> Bdf {
        Function {
            address: Bdf::new(9, 3, 1),
            vendor: 0,
            device: 0,
            class: 0,
            bars: [None; 6],
            bridges,
            secondary: None,
        }
        .dma_alias()
    }

    #[test]
    fn bridges_take_over_ids() {
        let bridge =
            |device, secondary, kind| Bridge { address: Bdf::new(0, device, 0), secondary, kind };
        let port = bridge(4, 1, BridgeKind::Port);
        let converter =
            Bridge { address: Bdf::new(1, 0, 0), secondary: 2, kind: BridgeKind::ToConventional };
        let conventional =
            Bridge { address: Bdf::new(2, 5, 0), secondary: 9, kind: BridgeKind::Conventional };
        assert_eq!(below(vec![]), Bdf::new(9, 3, 1));
        assert_eq!(below(vec![port]), Bdf::new(9, 3, 1));
        assert_eq!(below(vec![port, converter]), Bdf::new(2, 0, 0));
        assert_eq!(below(vec![port, converter, conventional]), Bdf::new(2, 0, 0));
        assert_eq!(below(vec![conventional]), Bdf::new(2, 5, 0));
    }
}
