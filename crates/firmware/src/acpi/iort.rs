//! IORT: the units and id maps of Arm machines (Arm DEN 0049, IO Remapping Table, issue E.e).

use super::Table;
use super::bytes::{AcpiError, Fault, Record};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// Index of a node in [`Iort::nodes`].
pub type NodeIndex = usize;

/// An id mapping (table 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMapping {
    /// First input id.
    pub input: u32,
    /// Last input id.
    pub input_last: u32,
    /// What the first input id becomes.
    pub output: u32,
    /// The node that takes the output ids.
    pub target: NodeIndex,
    /// The node itself has this output id, whatever its input.
    pub single: bool,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// Interrupt translation services.
    ItsGroup,
    /// A device in the ACPI namespace.
    NamedComponent {
        /// Its path.
        name: String,
        /// Width of the addresses that reach memory from it; 0 where the table does not say.
        address_bits: u8,
        /// Whether its transactions snoop the CPU's caches.
        coherent: bool,
    },
    /// A PCI root complex.
    RootComplex {
        /// PCI segment.
        segment: u16,
        /// Width of the addresses that reach memory; 0 where the table does not say.
        address_bits: u8,
        /// Whether its transactions snoop the CPU's caches.
        coherent: bool,
        /// Address translation services are supported.
        ats: bool,
    },
    /// An SMMU of version 1 or 2.
    SmmuV2 {
        /// Where its registers are.
        registers: u64,
        /// How many bytes of them.
        size: u64,
        /// 0 version 1, 1 version 2, 2 MMU-400 (number 2 of the table), 3 MMU-500, 4 MMU-401, 5 Cavium ThunderX.
        model: u32,
        /// Its table walks snoop the CPU's caches.
        coherent: bool,
        /// How many context banks have an interrupt.
        context_interrupts: u32,
    },
    /// An SMMUv3.
    SmmuV3 {
        /// Where its registers are.
        registers: u64,
        /// Flags; bit 0 says that its accesses snoop the CPU's caches whatever its register says.
        flags: u32,
        /// 0 as the architecture has it, 1 HiSilicon Hi161x, 2 Cavium CN99xx.
        model: u32,
    },
    /// A performance counter group of an SMMU.
    Counters,
    /// Memory that devices use at the addresses that it has.
    ReservedMemory {
        /// Start and length in bytes of each range.
        ranges: Vec<(u64, u64)>,
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
    /// Where its ids lead, in order. Mappings without a target are left out.
    pub mappings: Vec<IdMapping>,
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Iort {
    /// In order.
    pub nodes: Vec<Node>,
    /// Offsets of nodes with a mapping whose output reference is 0, which firmware gives where it has no target.
    pub untargeted: Vec<usize>,
}

impl Iort {
    /// Reads the table: every node, then every mapping, whose target must be a node that begins where it says.
    ///
    /// # Errors
    ///
    /// It is another table, a node or mapping is cut off, or a mapping leads to where no node begins.
    pub fn parse(table: &Table<'_>) -> Result<Self, AcpiError> {
        let whole = table.expect(b"IORT")?;
        let names = ["Number of IORT Nodes", "Offset to Array of IORT Nodes"];
        let length = |node: Record<'_>| node.u16(1, "Length").map(usize::from);
        let (records, index) = whole.counted_nodes(names, 16, length)?;
        let mut iort = Self::default();
        for record in &records {
            let mappings = iort.mappings(*record, &index)?;
            iort.nodes.push(Node { offset: record.start(), kind: kind(*record)?, mappings });
        }
        Ok(iort)
    }

    fn mappings(
        &mut self,
        node: Record<'_>,
        index: &BTreeMap<usize, NodeIndex>,
    ) -> Result<Vec<IdMapping>, AcpiError> {
        let count = node.u32(8, "Number of ID mappings")? as usize;
        let mut mappings = Vec::new();
        if count == 0 {
            return Ok(mappings);
        }
        let field = "Reference to ID Array";
        let array = node.after(node.u32(12, field)? as usize, field)?;
        let bytes =
            count.checked_mul(20).ok_or(node.error(8, "Number of ID mappings", Fault::TooMany))?;
        let array = array.part(0, bytes, "Number of ID mappings")?;
        for at in (0..bytes).step_by(20) {
            let entry = array.part(at, 20, "ID mapping")?;
            let target = entry.u32(12, "Output reference")? as usize;
            if target == 0 {
                self.untargeted.push(node.start());
                continue;
            }
            let unknown = entry.error(12, "Output reference", Fault::Reference(target));
            let target = *index.get(&target).ok_or(unknown)?;
            let input = entry.u32(0, "Input base")?;
            // The field holds one less than the number of ids.
            let beyond = entry.u32(4, "Number of IDs")?;
            let output = entry.u32(8, "Output base")?;
            let fits = output.checked_add(beyond).and(input.checked_add(beyond));
            let single = entry.u32(16, "Flags")? & 1 != 0;
            let input_last = match fits {
                Some(last) => last,
                // With that flag the other fields mean nothing.
                None if single => input,
                None => {
                    return Err(entry.error(4, "Number of IDs", Fault::Value(u64::from(beyond))));
                }
            };
            mappings.push(IdMapping { input, input_last, output, target, single });
        }
        Ok(mappings)
    }
}

fn kind(node: Record<'_>) -> Result<NodeKind, AcpiError> {
    let revision = node.u8(3, "Revision")?;
    Ok(match node.u8(0, "Type")? {
        0 => NodeKind::ItsGroup,
        1 => NodeKind::NamedComponent {
            name: node.text(29, "Device object name")?,
            address_bits: node.u8(28, "Device memory address size limit")?,
            coherent: node.u32(20, "Memory access properties")? == 1,
        },
        2 => NodeKind::RootComplex {
            segment: segment(node, 28)?,
            address_bits: match revision {
                0 => 0,
                _ => node.u8(32, "Memory address size limit")?,
            },
            coherent: node.u32(16, "Memory access properties")? == 1,
            ats: node.u32(24, "ATS attribute")? & 1 != 0,
        },
        3 => NodeKind::SmmuV2 {
            registers: node.u64(16, "Base address")?,
            size: node.u64(24, "Span")?,
            model: node.u32(32, "Model")?,
            coherent: node.u32(36, "Flags")? & 2 != 0,
            context_interrupts: node.u32(44, "Number of context interrupts")?,
        },
        4 => NodeKind::SmmuV3 {
            registers: node.u64(16, "Base address")?,
            flags: node.u32(24, "Flags")?,
            model: node.u32(40, "Model")?,
        },
        5 => NodeKind::Counters,
        6 => NodeKind::ReservedMemory { ranges: reserved(node)? },
        other => NodeKind::Other(other),
    })
}

fn segment(node: Record<'_>, at: usize) -> Result<u16, AcpiError> {
    let segment = node.u32(at, "PCI Segment number")?;
    let fault = Fault::Value(u64::from(segment));
    u16::try_from(segment).map_err(|_| node.error(at, "PCI Segment number", fault))
}

/// Memory range descriptors (table 21).
fn reserved(node: Record<'_>) -> Result<Vec<(u64, u64)>, AcpiError> {
    let count = node.u32(20, "Number of Memory Range Descriptors")? as usize;
    let at = node.u32(24, "Reference to Memory Range Descriptors")? as usize;
    let field = "Memory Range Descriptor";
    let bytes = count.checked_mul(20).ok_or(node.error(20, field, Fault::TooMany))?;
    let array = node.part(at, bytes, field)?;
    let entries = (0..bytes).step_by(20);
    entries.map(|at| Ok((array.u64(at, field)?, array.u64(at.saturating_add(8), field)?))).collect()
}
