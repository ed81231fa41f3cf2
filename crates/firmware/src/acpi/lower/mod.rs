//! From validated tables to one description.

mod maps;
mod segment;
mod virtio;
mod x86;

use super::Table;
use super::mcfg::{ConfigSpace, Mcfg};
use crate::checks;
use crate::machine::{DescribedDevice, InterruptSource, IommuKind, IommuNode, MachineDescription};
use crate::problem::{Findings, Problem};
use crate::reserved::{Reserved, Span};
use crate::rules::rule;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use portcullis::{DeviceDescription, DmaPath, FwNode, FwSpec, FwStream};
use portcullis_addr::{PhysAddr, PhysRange};
use segment::Segment;

/// More ids than this of one named device are refused.
const MOST_STREAMS: usize = 4096;

/// A device that is known by its name.
struct Named {
    streams: Vec<FwStream>,
    coherent: bool,
    address_bits: u8,
    regions: Vec<Span>,
    problem: Option<Problem>,
}

impl Default for Named {
    fn default() -> Self {
        let (streams, regions) = (Vec::new(), Vec::new());
        Self { streams, coherent: true, address_bits: 64, regions, problem: None }
    }
}

/// What the tables that have been read so far say.
#[derive(Default)]
pub(super) struct Lowering {
    iommus: Vec<IommuNode>,
    segments: BTreeMap<u16, Segment>,
    named: BTreeMap<String, Named>,
    /// How many ids of named devices mappings have led to.
    named_ids: usize,
    sources: Vec<InterruptSource>,
    config: Vec<ConfigSpace>,
    findings: Findings,
}

impl Lowering {
    /// Notes what the checksum says of a table that could be read.
    pub(super) fn checksum(&mut self, table: &Table<'_>) {
        if !table.checksum_ok {
            let what = "its bytes do not sum to 0";
            let remedy = "it is read all the same; the firmware should be mended";
            let problem = Problem::new(rule::ACPI_CHECKSUM, what, remedy);
            self.findings.warn(&table.signature.to_string(), &problem);
        }
    }

    pub(super) fn mcfg(&mut self, table: &Mcfg) {
        self.config.extend(&table.spaces);
    }

    /// Adds a unit; gives the node under which devices refer to it.
    fn unit(
        &mut self,
        path: String,
        kind: IommuKind,
        compatible: &str,
        window: (u64, u64),
    ) -> FwNode {
        let node = FwNode(u32::try_from(self.iommus.len()).unwrap_or(u32::MAX));
        let (start, len) = window;
        let registers =
            (start != 0).then(|| PhysRange::new(PhysAddr::new(start), len).ok()).flatten();
        let mut iommu = IommuNode {
            node,
            path,
            compatible: alloc::vec![compatible.into()],
            kind,
            enabled: true,
            cells: None,
            registers,
            mirrors: Vec::new(),
            interrupts: Vec::new(),
            coherent: true,
            context_banks: None,
            quirks: Vec::new(),
            late: false,
            unusable: None,
        };
        if len != 0 && registers.is_none() {
            let what = format!("its registers are said to be {len:#x} bytes at {start:#x}");
            let problem = Problem::new(rule::ACPI_UNIT, what, "its clients stay blocked");
            self.findings.refuse(true, &iommu.path, &problem);
            iommu.unusable = Some(problem.what);
        }
        self.iommus.push(iommu);
        node
    }

    fn last_unit(&mut self) -> Option<&mut IommuNode> {
        self.iommus.last_mut()
    }

    fn named(&mut self, name: &str) -> &mut Named {
        self.named.entry(name.into()).or_default()
    }

    fn unknown(&mut self, table: &str, unknown: &[(u16, usize)]) {
        let Some((kind, at)) = unknown.first() else { return };
        let message = format!(
            "{} records of types that no document read here names were skipped, the first of type {kind:#x} at {at:#x}",
            unknown.len()
        );
        self.findings.note(table, rule::ACPI_UNKNOWN, message);
    }

    /// All that the tables say.
    pub(super) fn finish(mut self, board: &str, model: String) -> MachineDescription {
        let mut devices = Vec::new();
        let first = self.iommus.len();
        let node = |at: usize| FwNode(u32::try_from(first.saturating_add(at)).unwrap_or(u32::MAX));
        for (number, segment) in core::mem::take(&mut self.segments) {
            let device =
                segment.lower(number, node(devices.len()), &self.iommus, &mut self.findings);
            devices.push(device);
        }
        for (name, named) in core::mem::take(&mut self.named) {
            let device = self.lower_named(name, named, node(devices.len()));
            devices.push(device);
        }
        checks::check(&mut devices, &self.iommus, &mut self.findings);
        MachineDescription {
            board: board.into(),
            model,
            compatible: Vec::new(),
            iommus: self.iommus,
            devices,
            direct: Vec::new(),
            memory: Vec::new(),
            reserved_memory: Vec::new(),
            interrupt_sources: self.sources,
            config_spaces: self.config,
            findings: self.findings.into_sorted(),
        }
    }

    fn lower_named(&mut self, path: String, named: Named, node: FwNode) -> DescribedDevice {
        let Named { mut streams, coherent, address_bits, regions, problem } = named;
        let mut seen = alloc::collections::BTreeSet::new();
        streams.retain(|stream| seen.insert(*stream));
        let problem = problem.or_else(|| {
            let unusable = streams.iter().find_map(|it| unusable(&self.iommus, it.iommu));
            unusable.or_else(|| too_many(&streams))
        });
        let dma = match &problem {
            Some(problem) => {
                self.findings.refuse(true, &path, problem);
                DmaPath::Unusable(problem.what.clone())
            }
            None if streams.is_empty() => DmaPath::Direct,
            None => DmaPath::Translated(FwSpec { streams: streams.clone() }),
        };
        let description = DeviceDescription {
            coherent,
            address_bits,
            reserved: Reserved::merged(regions).regions,
            ..DeviceDescription::new(path, dma)
        };
        DescribedDevice {
            node,
            description,
            enabled: true,
            compatible: Vec::new(),
            streams,
            bus: None,
            functions: Vec::new(),
            msi: Vec::new(),
        }
    }
}

fn too_many(streams: &[FwStream]) -> Option<Problem> {
    (streams.len() > MOST_STREAMS).then(|| {
        let what = format!("it has {} ids, more than {MOST_STREAMS}", streams.len());
        Problem::new(rule::TOO_MANY_STREAMS, what, "split the device")
    })
}

/// Why nothing behind this unit can be used.
fn unusable(iommus: &[IommuNode], node: FwNode) -> Option<Problem> {
    let iommu = iommus.get(node.0 as usize)?;
    let reason = iommu.unusable.as_ref()?;
    let what = format!("its IOMMU {} cannot be used: {reason}", iommu.path);
    Some(Problem::new(rule::IOMMU_UNUSABLE, what, "mend the IOMMU's record"))
}
