//! All functions of a segment, with what follows for an IOMMU: the ids that each uses, and who cannot be isolated from whom.

use crate::acs;
use crate::bdf::Bdf;
use crate::function::{BusesBelow, Function, Kind};
use crate::quirks::{self, BridgeQuirk};
use crate::sets::Sets;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// The functions of one PCI segment. A bridge stands before what is below it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(alias = "domain")]
pub struct Segment {
    functions: Vec<Function>,
    places: BTreeMap<Bdf, usize>,
}

/// By which rule functions are taken for isolated from each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// As Linux 6.12 to 7.3 form groups (`pci_device_group`). It asks what a function's way up keeps from peers, not what peers' ways keep from it: below a switch whose
    /// lower ports do not redirect requests, each port has a group of its own, and yet a device reaches the memory windows of its neighbours.
    Linux,
    /// The same, and larger where Linux leaves that gap: a lower port of a switch that does not isolate makes one group of all that is below the switch, and functions of an
    /// alternatively numbered device (ARI) count as one device although their device numbers differ. Never smaller than [`Self::Linux`].
    #[default]
    Strict,
}

/// What a bridge makes of ids from below.
enum Passage {
    /// Nothing.
    As,
    /// They may arrive as one of these.
    Replaced(Vec<Bdf>),
    /// Nothing, and nothing above does either.
    Translated,
}

impl Segment {
    /// The segment of functions that were found in some other way; `None` where a bridge does not stand before what is below it.
    pub fn new(functions: Vec<Function>) -> Option<Self> {
        let before = |(at, it): (usize, &Function)| it.parent.is_none_or(|parent| parent < at);
        functions.iter().enumerate().all(before).then(|| Self::of(functions))
    }

    /// As [`Self::new`], for who knows the order.
    pub(crate) fn of(functions: Vec<Function>) -> Self {
        let places = functions.iter().enumerate().map(|(at, it)| (it.address, at)).collect();
        Self { functions, places }
    }

    /// All functions, bridges and virtual functions included.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    pub(crate) fn functions_mut(&mut self) -> impl Iterator<Item = &mut Function> {
        self.functions.iter_mut()
    }

    /// The function at an address.
    pub fn find(&self, address: Bdf) -> Option<&Function> {
        self.functions.get(*self.places.get(&address)?)
    }

    /// The buses below the bridge at an address; `None` where there is none that was followed.
    pub fn buses_below(&self, bridge: Bdf) -> Option<BusesBelow> {
        self.find(bridge)?.below
    }

    fn parent(&self, function: &Function) -> Option<&Function> {
        self.functions.get(function.parent?)
    }

    /// The bridges above a function, from the nearest to the root.
    pub fn above<'s>(&'s self, function: &'s Function) -> impl Iterator<Item = &'s Function> {
        core::iter::successors(self.parent(function), |bridge| self.parent(bridge))
    }

    /// Every id with which transactions of `function` may arrive at the root: its own first, then, without repetition, those of quirks and phantom functions, and those that
    /// bridges put in its place. An IOMMU must know all of them.
    #[doc(alias = "pci_for_each_dma_alias")]
    pub fn requester_ids(&self, function: &Function) -> Vec<Bdf> {
        let own = function.address;
        let mut ids = alloc::vec![own];
        let others = other_numbers(function).into_iter();
        ids.extend(others.map(|number| own.with_device_function(number)));
        for bridge in self.above(function) {
            match self.passage(bridge) {
                Passage::As => {}
                Passage::Replaced(by) => ids.extend(by),
                Passage::Translated => break,
            }
        }
        let mut known = Vec::new();
        ids.retain(|id| {
            let new = !known.contains(id);
            known.push(*id);
            new
        });
        ids
    }

    /// PCI Express to PCI/PCI-X Bridge 1.0, 2.3: a bridge from PCI Express puts its secondary bus and device 0 in place of what has no id of its own; one on a conventional bus its own id.
    fn passage(&self, bridge: &Function) -> Passage {
        let quirk = quirks::bridge(bridge);
        if quirk == Some(BridgeQuirk::TranslatesHere) {
            return Passage::Translated;
        }
        let secondary = bridge.below.map(|below| Bdf::new(below.secondary, 0, 0));
        let lower = || secondary.into_iter().collect();
        if bridge.defect.is_some() {
            return Passage::Replaced(secondary.into_iter().chain([bridge.address]).collect());
        }
        let on_express = self.parent(bridge).is_some_and(|above| {
            !matches!(above.kind, Kind::Conventional | Kind::ExpressToConventional)
        });
        match bridge.kind {
            Kind::RootPort | Kind::UpstreamPort | Kind::DownstreamPort => Passage::As,
            Kind::ExpressToConventional if quirk == Some(BridgeQuirk::Forwards) => Passage::As,
            Kind::ExpressToConventional => Passage::Replaced(lower()),
            Kind::Conventional if quirk == Some(BridgeQuirk::HiddenExpress) && on_express => {
                Passage::Replaced(lower())
            }
            Kind::Conventional | Kind::ConventionalToExpress => {
                Passage::Replaced(alloc::vec![bridge.address])
            }
            // No bridge by its type, and yet one: whatever it does.
            Kind::Endpoint
            | Kind::LegacyEndpoint
            | Kind::IntegratedEndpoint
            | Kind::EventCollector
            | Kind::Unknown(_) => {
                Passage::Replaced(secondary.into_iter().chain([bridge.address]).collect())
            }
        }
    }

    /// For each function the number of its group, counted from 0 in order of first member.
    #[doc(alias = "pci_device_group")]
    #[doc(alias = "iommu_group")]
    pub fn groups(&self, isolation: Isolation) -> Vec<usize> {
        let mut sets = Sets::new(self.functions.len());
        let isolated: Vec<bool> = self.functions.iter().map(acs::isolates).collect();
        self.join_upwards(&isolated, &mut sets);
        self.join_devices(&isolated, isolation, &mut sets);
        self.join_aliases(&mut sets);
        self.join_buses(&mut sets);
        if isolation == Isolation::Strict {
            self.join_switches(&isolated, &mut sets);
        }
        sets.numbers()
    }

    /// Whoever shares ids with a bridge, or is below one from which on the way up is not isolated, is in its group.
    fn join_upwards(&self, isolated: &[bool], sets: &mut Sets) {
        // Whether the whole way from a function upwards is isolated; bridges come first.
        let mut clear: Vec<bool> = Vec::with_capacity(isolated.len());
        for (at, function) in self.functions.iter().enumerate() {
            let above = function.parent.is_none_or(|parent| clear.get(parent) == Some(&true));
            clear.push(above && isolated.get(at) == Some(&true));
            if let Some(parent) = function.parent.filter(|_| !above) {
                sets.join(at, parent);
            }
            // The ways of what is below a bridge all lead through its parent, so the nearest one that replaces ids is enough: it joins the next itself.
            let mut bridge = function.parent;
            while let Some(place) = bridge
                && let Some(found) = self.functions.get(place)
            {
                match self.passage(found) {
                    Passage::As => bridge = found.parent,
                    Passage::Replaced(_) => {
                        sets.join(at, place);
                        break;
                    }
                    Passage::Translated => break,
                }
            }
        }
    }

    /// The functions of one device that are not isolated are one group.
    fn join_devices(&self, isolated: &[bool], isolation: Isolation, sets: &mut Sets) {
        let mut devices: BTreeMap<(u8, u8), (bool, Vec<usize>)> = BTreeMap::new();
        for (at, function) in self.functions.iter().enumerate() {
            if isolated.get(at) == Some(&true) {
                continue;
            }
            let whole_bus = function.alternative && isolation == Isolation::Strict;
            let device = if whole_bus { 0 } else { function.address.device() };
            let (several, members) = devices.entry((function.address.bus(), device)).or_default();
            *several |= function.multifunction;
            members.push(at);
        }
        for (_, members) in devices.into_values().filter(|(several, _)| *several) {
            sets.join_all(members);
        }
    }

    /// Functions of a bus of which one uses the other's id: by a quirk, as a phantom function, or because both claim it.
    fn join_aliases(&self, sets: &mut Sets) {
        for (at, function) in self.functions.iter().enumerate() {
            // Two at one address, as virtual functions can be.
            if let Some(same) = self.places.get(&function.address) {
                sets.join(at, *same);
            }
            for number in other_numbers(function) {
                let other = self.places.get(&function.address.with_device_function(number));
                if let Some(other) = other {
                    sets.join(at, *other);
                }
            }
        }
    }

    /// A function that could not be understood may use any id of its bus, so all of the bus is one group.
    fn join_buses(&self, sets: &mut Sets) {
        let broken: Vec<_> = self
            .functions
            .iter()
            .filter(|it| it.defect.is_some())
            .map(|it| it.address.bus())
            .collect();
        let mut buses: BTreeMap<u8, Vec<usize>> =
            broken.into_iter().map(|bus| (bus, Vec::new())).collect();
        for (at, function) in self.functions.iter().enumerate() {
            if let Some(members) = buses.get_mut(&function.address.bus()) {
                members.push(at);
            }
        }
        buses.into_values().for_each(|members| sets.join_all(members));
    }

    /// All that is below a switch with a lower port that does not isolate.
    fn join_switches(&self, isolated: &[bool], sets: &mut Sets) {
        let mut leaky: Vec<u8> = Vec::new();
        for (at, function) in self.functions.iter().enumerate() {
            if function.kind == Kind::DownstreamPort && isolated.get(at) != Some(&true) {
                leaky.push(function.address.bus());
            }
        }
        leaky.sort_unstable();
        leaky.dedup();
        let mut below: Vec<bool> = Vec::with_capacity(self.functions.len());
        let mut first: BTreeMap<u8, usize> = BTreeMap::new();
        for (at, function) in self.functions.iter().enumerate() {
            let bus = function.address.bus();
            let parent = function.parent.filter(|parent| below.get(*parent) == Some(&true));
            let here = leaky.binary_search(&bus).is_ok();
            if let Some(parent) = parent {
                sets.join(at, parent);
            }
            if here {
                sets.join(at, *first.entry(bus).or_insert(at));
            }
            below.push(here || parent.is_some());
        }
    }
}

/// The device and function numbers of its own bus that a function uses besides its own.
fn other_numbers(function: &Function) -> Vec<u8> {
    let quirk = quirks::ids(function);
    if quirk.is_none() && function.phantom_bits == 0 {
        return Vec::new();
    }
    let own = function.address.device_function();
    // With one bit, functions 0 to 3 of a device also use 4 to 7, and so on (PCI Express Base 6.0, 7.5.3.3).
    let kept = !7 | 7u8 >> function.phantom_bits.min(3);
    let phantom = |number: u8| function.phantom_bits > 0 && number & kept == own & kept;
    let by_quirk = |number: u8| quirk.is_some_and(|ids| ids.contain(own, number));
    (0..=u8::MAX)
        .filter(|number| *number != own && (phantom(*number) || by_quirk(*number)))
        .collect()
}
