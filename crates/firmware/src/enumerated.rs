//! From what enumeration found on a PCI segment to what the core is told of it.

use crate::machine::DescribedDevice;
use crate::pci::{PciFunction, RequesterId};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use portcullis::{DmaPath, IsolationSet};
use portcullis_pci::{Bdf, Function, Isolation, Segment};

impl From<Bdf> for RequesterId {
    fn from(address: Bdf) -> Self {
        Self(address.requester_id().into())
    }
}

impl DescribedDevice {
    /// Puts the functions that `segment` really has behind this bus, in place of those that its description lists or guesses: each with every requester id that its
    /// transactions may carry, and in the set of those from which nothing isolates it. Scopes of ACPI tables are resolved on the way ([`PciBus::resolve`](crate::PciBus::resolve)).
    ///
    /// `path` names a function, or leaves it out: bridges, what the caller does not give to anybody. A function that is left out stays blocked, and its group is none the smaller. One that the
    /// description lists keeps what that says of it, its path too. A device that is no bus stays as it is.
    pub fn enumerated(
        &mut self,
        segment: &Segment,
        isolation: Isolation,
        path: impl Fn(&Function) -> Option<String>,
    ) {
        let Some(bus) = &self.bus else { return };
        let bus = bus.resolve(|RequesterId(bridge)| {
            let below = segment.buses_below(Bdf::from_requester_id(u16::try_from(bridge).ok()?))?;
            Some((below.secondary, below.subordinate))
        });
        let sets = isolation_sets(segment, isolation, bus.segment());
        let listed: BTreeMap<_, _> =
            self.functions.drain(..).map(|it| (it.requester, it.description)).collect();
        for (function, set) in segment.functions().iter().zip(sets) {
            let requester = RequesterId::from(function.address);
            let Some(path) = path(function) else { continue };
            let ids: Vec<_> =
                segment.requester_ids(function).into_iter().map(RequesterId::from).collect();
            let known = listed.get(&requester);
            let path = known.map_or(path, |known| known.path.clone());
            let mut own = bus.function(path, &ids, known.unwrap_or(&self.description));
            if let Some(DmaPath::Unusable(why)) = known.map(|known| &known.dma) {
                own.dma = DmaPath::Unusable(why.clone());
            }
            own.isolation = set;
            self.functions.push(PciFunction { requester, description: own });
        }
    }
}

/// For each function the set of those from which nothing isolates it; `None` for one that is alone.
fn isolation_sets(
    segment: &Segment,
    isolation: Isolation,
    number: u16,
) -> Vec<Option<IsolationSet>> {
    let groups = segment.groups(isolation);
    // First member, and whether there is another.
    let mut members: BTreeMap<usize, (Bdf, bool)> = BTreeMap::new();
    for (function, group) in segment.functions().iter().zip(&groups) {
        let known = members.entry(*group).and_modify(|(_, more)| *more = true);
        known.or_insert((function.address, false));
    }
    let set = |group: &usize| {
        let (first, _) = members.get(group).filter(|(_, more)| *more)?;
        Some(IsolationSet(u64::from(number) << 16 | u64::from(first.requester_id())))
    };
    groups.iter().map(set).collect()
}
