//! Finds the functions of a segment, numbering buses where nobody has.

use crate::acs::{self, Acs};
use crate::bdf::Bdf;
use crate::config::{Capabilities, ConfigSpace, EXPRESS, Width};
use crate::function::{BusesBelow, Defect, Function, Kind};
use crate::quirks::{self, AcsQuirk};
use crate::segment::Segment;
use crate::virtual_functions::{self, Taken, VirtualFunctions};
use alloc::vec::Vec;
use core::ops::RangeInclusive;

/// Who gives bus numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Numbering {
    /// Firmware has: bridges are followed as they are set up. Nothing is written.
    Keep,
    /// Nobody has: each bridge gets the next free numbers, depth first, and is left with them.
    Assign,
}

const CLASS: u16 = 0x08;
const HEADER_TYPE: u16 = 0x0e;
const BUS_NUMBERS: u16 = 0x18;
const SUBSYSTEM: u16 = 0x2c;
const HEADER_MULTIFUNCTION: u16 = 0x80;
const HEADER_LAYOUT: u16 = 0x7f;
const LAYOUT_BRIDGE: u16 = 1;
/// Extended capability id of alternative routing-id interpretation (PCI Express Base 6.0, 7.8.8).
const ALTERNATIVE: u16 = 0x0e;

/// Finds all functions of a segment: depth first from each bus of `roots`, a bridge before what is below it, virtual functions that are turned on behind their physical one. No other bus than those in
/// `buses` is looked at, and none twice; so no answer of hardware makes it find more than 65536 functions and as many virtual ones. What cannot be is noted at its function ([`Function::defect`]), and what
/// is below it is not looked at: nothing describes it to an IOMMU then, and it stays blocked.
///
/// # Errors
///
/// Those of configuration space itself.
#[doc(alias = "pci_scan_root_bus")]
pub fn enumerate<C: ConfigSpace>(
    config: &C,
    roots: &[u8],
    buses: RangeInclusive<u8>,
    numbering: Numbering,
) -> Result<Segment, C::Error> {
    let mut walk = Walk {
        config,
        numbering,
        seen: [false; 256],
        highest: 0,
        taken: Taken::new(),
        found: Vec::new(),
        places: Vec::new(),
        next: Vec::new(),
    };
    for root in roots.iter().copied().filter(|root| buses.contains(root)) {
        // The buses of a root end before the next root's.
        let others = roots.iter().copied().filter(|other| *other > root);
        let last = others.min().map_or(*buses.end(), |next| (next - 1).min(*buses.end()));
        walk.root(root, last)?;
    }
    Ok(Segment::of(walk.found))
}

/// Turns on at every function what isolates it, as far as it has it and is to be believed; bridges first. Until then hardware is free to let peers through, so
/// [`Segment::groups`] is asked afterwards.
///
/// # Errors
///
/// Those of configuration space itself.
#[doc(alias = "pci_enable_acs")]
pub fn enable_acs<C: ConfigSpace>(config: &C, segment: &mut Segment) -> Result<(), C::Error> {
    for function in segment.functions_mut() {
        let wide = quirks::acs(function) == Some(AcsQuirk::WideRegisters);
        if let Some(acs) = &mut function.acs {
            acs.enable(config, function.address, wide)?;
        }
    }
    Ok(())
}

/// A bus to look at.
struct Visit {
    bus: u8,
    /// The bridge above, by its place in the list.
    parent: Option<usize>,
    /// The last bus that bridges on this one may lead to.
    last: u8,
    /// One link with one device leads here.
    link: bool,
}

/// What is left to do; the last one first.
enum Step {
    Look(Visit),
    /// Follow the bridge at that place in the list, whose own bus may lead on to that last one.
    Follow(usize, u8),
    /// All that is below the bridge at that place has its number.
    Close(usize),
}

/// Where capabilities of a function are that matter to the walk only.
#[derive(Clone, Copy, Default)]
struct Places {
    alternative: Option<u16>,
    virtual_functions: Option<u16>,
    /// Its header is a bridge's.
    bridge: bool,
}

struct Walk<'c, C> {
    config: &'c C,
    numbering: Numbering,
    seen: [bool; 256],
    /// The last bus number that is used or kept for somebody.
    highest: u8,
    /// Ids of virtual functions.
    taken: Taken,
    found: Vec<Function>,
    /// Of each in `found`.
    places: Vec<Places>,
    next: Vec<Step>,
}

impl<C: ConfigSpace> Walk<'_, C> {
    fn root(&mut self, bus: u8, last: u8) -> Result<(), C::Error> {
        self.look(&Visit { bus, parent: None, last, link: false })?;
        while let Some(step) = self.next.pop() {
            match step {
                Step::Look(visit) => self.look(&visit)?,
                Step::Follow(bridge, last) => self.follow(bridge, last)?,
                Step::Close(bridge) => self.close(bridge)?,
            }
        }
        Ok(())
    }

    /// Finds the functions of a bus, and leaves its bridges for later.
    fn look(&mut self, visit: &Visit) -> Result<(), C::Error> {
        match self.seen.get_mut(usize::from(visit.bus)) {
            Some(seen) if !*seen => *seen = true,
            _ => return Ok(()),
        }
        let first = self.found.len();
        let devices = if visit.link { 1 } else { 32 };
        for device in 0..devices {
            self.device(Bdf::new(visit.bus, device, 0), visit)?;
        }
        self.reserve(first, visit)?;
        self.virtual_functions(first, visit)?;
        // The last on the stack is the first to be followed.
        for place in (first..self.found.len()).rev() {
            let Some(bridge) = self.found.get(place).filter(|_| self.is_bridge(place)) else {
                continue;
            };
            if self.numbering == Numbering::Assign {
                // Numbers from before would have two bridges answer for one bus.
                self.write_numbers(bridge.address, BusesBelow { secondary: 0, subordinate: 0 })?;
            }
            self.next.push(Step::Follow(place, visit.last));
        }
        Ok(())
    }

    fn is_bridge(&self, place: usize) -> bool {
        self.places.get(place).is_some_and(|it| it.bridge)
    }

    fn device(&mut self, first: Bdf, visit: &Visit) -> Result<(), C::Error> {
        let Some(multifunction) = self.function(first, visit, false)? else { return Ok(()) };
        if visit.link && self.next_alternative(first)?.is_some() {
            return self.alternative_functions(first, visit);
        }
        if multifunction {
            for number in 1..8 {
                self.function(
                    first.with_device_function(first.device_function() | number),
                    visit,
                    false,
                )?;
            }
        }
        Ok(())
    }

    /// The functions of a device whose functions name each other by 8-bit numbers, in ascending order (7.8.8.2).
    fn alternative_functions(&mut self, first: Bdf, visit: &Visit) -> Result<(), C::Error> {
        if let Some(function) = self.found.last_mut() {
            function.alternative = true;
        }
        let mut at = first;
        while let Some(next) =
            self.next_alternative(at)?.filter(|next| *next > at.device_function())
        {
            at = first.with_device_function(next);
            if self.function(at, visit, true)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// The number of the function after `function`, which was found last, where it is numbered alternatively.
    fn next_alternative(&self, function: Bdf) -> Result<Option<u8>, C::Error> {
        match self.places.last().and_then(|it| it.alternative) {
            Some(at) => Ok(Some((self.config.read16(function, at + 4)? >> 8) as u8)),
            None => Ok(None),
        }
    }

    /// Notes the function at an address; `None` if there is none, otherwise whether its header says that there are more.
    fn function(
        &mut self,
        address: Bdf,
        visit: &Visit,
        alternative: bool,
    ) -> Result<Option<bool>, C::Error> {
        let id = self.config.read32(address, 0)?;
        if matches!(id as u16, 0 | u16::MAX) {
            return Ok(None);
        }
        let header = self.config.read(address, HEADER_TYPE, Width::Byte)? as u16;
        let subsystem = match header & HEADER_LAYOUT {
            0 => self.config.read32(address, SUBSYSTEM)?,
            _ => 0,
        };
        let several = header & HEADER_MULTIFUNCTION != 0;
        let mut function = Function {
            address,
            vendor: id as u16,
            device: (id >> 16) as u16,
            subsystem: (subsystem as u16, (subsystem >> 16) as u16),
            class: self.config.read32(address, CLASS)? >> 8,
            kind: Kind::Conventional,
            // Some devices say so at function 0 only.
            multifunction: several || address.function() != 0 || alternative,
            parent: visit.parent,
            below: None,
            physical: None,
            phantom_bits: 0,
            alternative,
            acs: None,
            defect: None,
        };
        let mut places = self.capabilities(&mut function)?;
        places.bridge = header & HEADER_LAYOUT == LAYOUT_BRIDGE;
        self.found.push(function);
        self.places.push(places);
        Ok(Some(several))
    }

    /// Reads what a function's capabilities say.
    fn capabilities(&self, function: &mut Function) -> Result<Places, C::Error> {
        let address = function.address;
        let Ok(capabilities) = Capabilities::read(self.config, address)? else {
            function.kind = Kind::Unknown(u8::MAX);
            function.defect = Some(Defect::Capabilities);
            return Ok(Places::default());
        };
        if let Some(at) = capabilities.plain(EXPRESS) {
            /// Device Control: phantom functions enabled.
            const PHANTOM_ON: u16 = 1 << 9;
            let port_type = (self.config.read16(address, at + 2)? >> 4) as u8 & 0xf;
            function.kind = Kind::of_express(port_type);
            if self.config.read16(address, at + 8)? & PHANTOM_ON != 0 {
                function.phantom_bits = (self.config.read16(address, at + 4)? >> 3) as u8 & 3;
            }
        }
        if let Some(at) = capabilities.extended(acs::CAPABILITY, acs::LEN) {
            let wide = quirks::acs(function) == Some(AcsQuirk::WideRegisters);
            function.acs = Some(Acs::read(self.config, address, at, wide)?);
        }
        Ok(Places {
            alternative: capabilities.extended(ALTERNATIVE, 8),
            virtual_functions: capabilities
                .extended(virtual_functions::CAPABILITY, virtual_functions::LEN),
            bridge: false,
        })
    }

    /// Notes the virtual functions of the physical ones from that place in the list on.
    fn virtual_functions(&mut self, first: usize, visit: &Visit) -> Result<(), C::Error> {
        let mut behind = Vec::new();
        for (physical, places) in self.found.iter_mut().zip(&self.places).skip(first) {
            let Some(at) = places.virtual_functions else { continue };
            let range = VirtualFunctions::turned_on(self.config, physical.address, at)?;
            let Some(range) = range else { continue };
            let Some(ids) = range.ids(physical.address, visit.last, &mut self.taken) else {
                physical.defect = Some(Defect::VirtualFunctions);
                continue;
            };
            for address in ids {
                behind.push(Function {
                    address,
                    device: range.device,
                    multifunction: false,
                    physical: Some(physical.address),
                    below: None,
                    acs: None,
                    defect: None,
                    ..physical.clone()
                });
            }
        }
        for mut function in behind {
            self.capabilities(&mut function)?;
            self.found.push(function);
            self.places.push(Places::default());
        }
        Ok(())
    }

    /// Keeps the numbers of the buses that virtual functions of the functions from that place on may come to use, turned on or not.
    fn reserve(&mut self, first: usize, visit: &Visit) -> Result<(), C::Error> {
        let mut last = visit.bus;
        for (physical, places) in self.found.iter().zip(&self.places).skip(first) {
            if let Some(at) = places.virtual_functions {
                let range = VirtualFunctions::possible(self.config, physical.address, at)?;
                last = last.max(range.last_bus(physical.address).unwrap_or(visit.bus));
            }
        }
        self.highest = self.highest.max(last.min(visit.last));
        Ok(())
    }

    /// Decides the numbers below a bridge and goes there.
    fn follow(&mut self, place: usize, last: u8) -> Result<(), C::Error> {
        let Some(function) = self.found.get(place) else { return Ok(()) };
        let (address, link) = (function.address, function.kind.has_link_below());
        let numbers = match self.numbering {
            Numbering::Keep => match self.kept(address, last)? {
                Some(numbers) => numbers,
                None => return Ok(()),
            },
            Numbering::Assign => self.assigned(address, last)?,
        };
        let Some(function) = self.found.get_mut(place) else { return Ok(()) };
        match numbers {
            Ok(below) => {
                function.below = Some(below);
                if self.numbering == Numbering::Assign {
                    self.next.push(Step::Close(place));
                }
                let visit = Visit {
                    bus: below.secondary,
                    parent: Some(place),
                    last: below.subordinate,
                    link,
                };
                self.next.push(Step::Look(visit));
            }
            Err(defect) => function.defect = Some(defect),
        }
        Ok(())
    }

    /// `None` for a bridge that nobody has set up: what is below it cannot have been told to do DMA.
    fn kept(&self, bridge: Bdf, last: u8) -> Result<Option<Result<BusesBelow, Defect>>, C::Error> {
        let numbers = self.config.read32(bridge, BUS_NUMBERS)?;
        let [_, secondary, subordinate, _] = numbers.to_le_bytes();
        if (secondary, subordinate) == (0, 0) {
            return Ok(None);
        }
        let free = self.seen.get(usize::from(secondary)) == Some(&false);
        let range = secondary..=last;
        let sound = secondary > bridge.bus() && range.contains(&subordinate) && free;
        let defect = Defect::BusNumbers { secondary, subordinate };
        Ok(Some(if sound { Ok(BusesBelow { secondary, subordinate }) } else { Err(defect) }))
    }

    fn assigned(&self, bridge: Bdf, last: u8) -> Result<Result<BusesBelow, Defect>, C::Error> {
        let Some(secondary) = self.highest.checked_add(1).filter(|next| *next <= last) else {
            return Ok(Err(Defect::NoBusNumber));
        };
        let below = BusesBelow { secondary, subordinate: last };
        self.write_numbers(bridge, below)?;
        let kept = self.config.read32(bridge, BUS_NUMBERS)?.to_le_bytes();
        Ok(match kept {
            [_, now, end, _] if (now, end) == (secondary, last) => Ok(below),
            [_, secondary, subordinate, _] => Err(Defect::BusNumbers { secondary, subordinate }),
        })
    }

    /// Ends the range of a bridge at the last bus that was given below it.
    fn close(&mut self, place: usize) -> Result<(), C::Error> {
        let Some(function) = self.found.get(place) else { return Ok(()) };
        let (address, Some(below)) = (function.address, function.below) else { return Ok(()) };
        let subordinate = self.highest.clamp(below.secondary, below.subordinate);
        let below = BusesBelow { secondary: below.secondary, subordinate };
        self.write_numbers(address, below)?;
        if let Some(function) = self.found.get_mut(place) {
            function.below = Some(below);
        }
        Ok(())
    }

    fn write_numbers(&self, bridge: Bdf, below: BusesBelow) -> Result<(), C::Error> {
        let numbers = u32::from_le_bytes([bridge.bus(), below.secondary, below.subordinate, 0]);
        self.config.write(bridge, BUS_NUMBERS, Width::Long, numbers)
    }
}
