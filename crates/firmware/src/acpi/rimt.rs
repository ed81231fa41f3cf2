//! RIMT: the units and id maps of RISC-V machines (RISC-V IO Mapping Table specification 1.0).

use super::Table;
use super::bytes::{AcpiError, Fault, Record};
use super::iort::IdMapping;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// An IOMMU.
    Iommu {
        /// Where its registers are; 0 for one that is a PCI function.
        registers: u64,
        /// Segment and requester id of one that is a PCI function.
        pci: Option<(u16, u16)>,
    },
    /// A PCI root complex.
    RootComplex {
        /// PCI segment.
        segment: u16,
        /// Address translation services are supported.
        ats: bool,
    },
    /// A device in the ACPI namespace.
    Platform {
        /// Its path.
        name: String,
    },
    /// A kind that is newer than this reader.
    Other(u8),
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it begins in the table.
    pub offset: usize,
    /// What it is.
    pub kind: NodeKind,
    /// Where its ids lead, in order.
    pub mappings: Vec<IdMapping>,
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rimt {
    /// In order.
    pub nodes: Vec<Node>,
}

impl Rimt {
    /// Reads the table.
    ///
    /// # Errors
    ///
    /// It is another table, a node or mapping is cut off, or a mapping leads to where no node begins.
    pub fn parse(table: &Table<'_>) -> Result<Self, AcpiError> {
        let whole = table.expect(b"RIMT")?;
        let names = ["Number of RIMT Nodes", "Offset to RIMT Node Array"];
        let length = |node: Record<'_>| node.u16(2, "Length").map(usize::from);
        let (records, index) = whole.counted_nodes(names, 8, length)?;
        let nodes = records.iter().map(|record| node(*record, &index)).collect::<Result<_, _>>()?;
        Ok(Self { nodes })
    }
}

fn node(record: Record<'_>, index: &BTreeMap<usize, usize>) -> Result<Node, AcpiError> {
    let (kind, mappings) = match record.u8(0, "Type")? {
        0 => {
            let is_pci = record.u32(24, "Flags")? & 1 != 0;
            let segment = record.u16(32, "PCIe Segment Number")?;
            let function = record.u16(34, "PCIe B/D/F")?;
            let pci = is_pci.then_some((segment, function));
            (NodeKind::Iommu { registers: record.u64(16, "Base Address")?, pci }, Vec::new())
        }
        1 => {
            let ats = record.u32(8, "Flags")? & 1 != 0;
            let segment = record.u16(14, "PCIe Segment Number")?;
            (NodeKind::RootComplex { segment, ats }, mappings(record, 16, index)?)
        }
        2 => {
            let name = record.text(12, "Device Object Name")?;
            (NodeKind::Platform { name }, mappings(record, 8, index)?)
        }
        other => (NodeKind::Other(other), Vec::new()),
    };
    Ok(Node { offset: record.start(), kind, mappings })
}

/// The id mapping array whose offset and number of entries stand at `at`.
fn mappings(
    node: Record<'_>,
    at: usize,
    index: &BTreeMap<usize, usize>,
) -> Result<Vec<IdMapping>, AcpiError> {
    let offset = node.u16(at, "ID Mapping Array Offset")?;
    let count = usize::from(node.u16(at.saturating_add(2), "Number of ID Mappings")?);
    let array =
        node.part(usize::from(offset), count.saturating_mul(20), "ID Mapping Array Offset")?;
    let mut mappings = Vec::new();
    for at in (0..array.len()).step_by(20) {
        let entry = array.part(at, 20, "ID mapping")?;
        let reference = entry.u32(12, "Destination IOMMU Offset")? as usize;
        let unknown = entry.error(12, "Destination IOMMU Offset", Fault::Reference(reference));
        let target = *index.get(&reference).ok_or(unknown)?;
        let (input, output) =
            (entry.u32(0, "Source ID Base")?, entry.u32(8, "Destination Device ID Base")?);
        let ids = entry.u32(4, "Number of IDs")?;
        let bad = entry.error(4, "Number of IDs", Fault::Value(u64::from(ids)));
        let beyond = ids.checked_sub(1).ok_or(bad)?;
        let input_last = output.checked_add(beyond).and(input.checked_add(beyond)).ok_or(bad)?;
        mappings.push(IdMapping { input, input_last, output, target, single: false });
    }
    Ok(mappings)
}
