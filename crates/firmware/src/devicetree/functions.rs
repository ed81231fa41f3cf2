//! The functions that a description lists below a host bridge, with the requester ids that enumeration gives them.

use super::tree::{Node, cells};
use crate::pci::RequesterId;
use alloc::vec::Vec;

/// More functions than this are not listed behind one bus.
pub(super) const MOST_FUNCTIONS: usize = 256;

/// A described function.
pub(super) struct Listed<'t, 'a> {
    pub(super) node: Node<'t, 'a>,
    /// Exact on the root bus. Below a bridge the bus number is what enumeration gives where all bridges are described.
    pub(super) requester: RequesterId,
    /// The function stands on the host bridge's own bus.
    pub(super) on_root_bus: bool,
    /// Another node before it describes the same function.
    pub(super) again: bool,
}

/// Device and function of a node on a PCI bus: bits 15..8 of the first of the five cells of its `reg` (IEEE 1275 PCI bus binding 2.1,
/// section 2.2.1.1). The bus number in bits 23..16 is left alone, as Linux does (`of_pci_get_devfn`): what is written there, most often 0, is
/// no promise of what enumeration will give.
fn device_and_function(node: Node<'_, '_>) -> Option<u32> {
    let cells = cells(node.property("reg")?).filter(|cells| cells.len() >= 5)?;
    let first = *cells.first()?;
    (node.own_cells().address == 3).then_some((first >> 8) & 0xff)
}

/// The bus numbers that a host bridge may give out: `bus-range`, or all.
pub(super) fn bus_range(host: Node<'_, '_>) -> (u32, u32) {
    let range = host.property("bus-range").and_then(cells);
    match range.as_deref() {
        Some([first, last]) if first <= last && *last <= 0xff => (*first, *last),
        _ => (0, 0xff),
    }
}

fn is_bridge(node: Node<'_, '_>) -> bool {
    node.property("device_type") == Some(b"pci\0")
        || node.children().any(|child| device_and_function(child).is_some())
}

/// All enabled functions below the PCI host bridge `host`, bus by bus in the order of enumeration: the functions of a bus by device and
/// function, then what is behind its first bridge, and so on, each bridge taking the next free bus number.
pub(super) fn enumerate<'t, 'a>(host: Node<'t, 'a>) -> Vec<Listed<'t, 'a>> {
    let (first, last) = bus_range(host);
    let mut scan = Scan { next: first, last, root: first, listed: Vec::new() };
    scan.bus(host);
    scan.listed
}

struct Scan<'t, 'a> {
    /// The bus number that the next bridge's bus gets.
    next: u32,
    last: u32,
    root: u32,
    listed: Vec<Listed<'t, 'a>>,
}

impl<'t, 'a> Scan<'t, 'a> {
    /// Lists the bus below `bridge` and all below it. As deep as the tree, which `TreeLimits::DEPTH` bounds.
    fn bus(&mut self, bridge: Node<'t, 'a>) {
        if self.next > self.last {
            return;
        }
        let number = self.next;
        self.next = number.saturating_add(1);
        let enabled = bridge.children().filter(|child| child.enabled());
        let mut functions: Vec<_> =
            enabled.filter_map(|child| Some((device_and_function(child)?, child))).collect();
        functions.sort_by_key(|(function, _)| *function);
        let mut before = None;
        for (function, node) in &functions {
            if self.listed.len() >= MOST_FUNCTIONS {
                return;
            }
            let again = before.replace(*function) == Some(*function);
            let requester = RequesterId((number << 8) | function);
            let on_root_bus = number == self.root;
            self.listed.push(Listed { node: *node, requester, on_root_bus, again });
        }
        for (_, node) in functions {
            if is_bridge(node) {
                self.bus(node);
            }
        }
    }
}
