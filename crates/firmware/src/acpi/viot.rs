//! VIOT: the virtio-iommus of a virtual machine and who is behind them (ACPI 6.5, section 5.2.34).

use super::bytes::{AcpiError, Fault, Record};
use super::{HEADER, Table};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// A virtio-iommu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A PCI function: segment and requester id.
    Pci(u16, u16),
    /// Registers at an address.
    Mmio(u64),
}

/// Who is behind a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// PCI functions.
    Pci {
        /// First and last segment.
        segments: (u16, u16),
        /// First and last requester id.
        functions: (u16, u16),
    },
    /// A device with registers at an address.
    Mmio(u64),
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Viot {
    /// Units, in order.
    pub units: Vec<Unit>,
    /// Endpoints, the endpoint id of the first, and the index of their unit, in order.
    pub endpoints: Vec<(Endpoints, u32, usize)>,
    /// Types and offsets of nodes that this reader does not know.
    pub unknown: Vec<(u16, usize)>,
}

impl Viot {
    /// Reads the table.
    ///
    /// # Errors
    ///
    /// It is another table, a node is cut off, a range runs backwards, or a node leads to one that is no unit.
    pub fn parse(table: &Table<'_>) -> Result<Self, AcpiError> {
        let whole = table.expect(b"VIOT")?;
        let count = whole.u16(HEADER, "Node count")?;
        let first = usize::from(whole.u16(38, "Node offset")?);
        let length = |node: Record<'_>| node.u16(2, "Length").map(usize::from);
        let nodes = whole.after(first, "Node offset")?;
        let mut nodes = nodes.records(4, "Length", length);
        let mut records = Vec::new();
        for _ in 0..count {
            let missing = whole.error(HEADER, "Node count", Fault::Value(u64::from(count)));
            records.push(nodes.next().ok_or(missing)??);
        }
        let mut viot = Self::default();
        let mut index = BTreeMap::new();
        for record in &records {
            let unit = match record.u8(0, "Type")? {
                3 => Unit::Pci(record.u16(4, "PCI Segment")?, record.u16(6, "PCI BDF")?),
                4 => Unit::Mmio(record.u64(8, "Base address")?),
                _ => continue,
            };
            index.insert(record.start(), viot.units.len());
            viot.units.push(unit);
        }
        for record in records {
            viot.endpoints(record, &index)?;
        }
        Ok(viot)
    }

    fn endpoints(
        &mut self,
        node: Record<'_>,
        index: &BTreeMap<usize, usize>,
    ) -> Result<(), AcpiError> {
        let endpoints = match node.u8(0, "Type")? {
            1 => {
                let segments =
                    (node.u16(8, "PCI Segment start")?, node.u16(10, "PCI Segment end")?);
                let functions = (node.u16(12, "PCI BDF start")?, node.u16(14, "PCI BDF end")?);
                if segments.1 < segments.0 || functions.1 < functions.0 {
                    return Err(node.error(8, "PCI range", Fault::Value(u64::from(functions.1))));
                }
                Endpoints::Pci { segments, functions }
            }
            2 => Endpoints::Mmio(node.u64(8, "Base address")?),
            3 | 4 => return Ok(()),
            other => {
                self.unknown.push((u16::from(other), node.start()));
                return Ok(());
            }
        };
        let reference = usize::from(node.u16(16, "Output node")?);
        let unknown = node.error(16, "Output node", Fault::Reference(reference));
        let unit = *index.get(&reference).ok_or(unknown)?;
        self.endpoints.push((endpoints, node.u32(4, "Endpoint start")?, unit));
        Ok(())
    }
}
