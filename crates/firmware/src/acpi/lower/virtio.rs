//! VIOT: endpoints of virtio-iommus.

use super::Lowering;
use super::segment::Way;
use crate::acpi::viot::{Endpoints, Unit, Viot};
use crate::machine::IommuKind;
use crate::pci::RequesterId;
use crate::problem::Problem;
use crate::rules::rule;
use alloc::format;
use alloc::vec::Vec;
use portcullis::{FwNode, FwStream};
use portcullis_addr::StreamId;

/// Ranges that span more segments than this are refused; QEMU's have one.
const MOST_SEGMENTS: u16 = 256;

impl Lowering {
    pub(in crate::acpi) fn viot(&mut self, table: &Viot) {
        let units: Vec<FwNode> = table.units.iter().map(|unit| self.virtio_unit(*unit)).collect();
        for (endpoints, first, unit) in &table.endpoints {
            let Some(iommu) = units.get(*unit) else { continue };
            match endpoints {
                Endpoints::Mmio(base) => {
                    let stream = FwStream::new(*iommu, StreamId::new(*first));
                    self.named(&format!("MMIO device at {base:#x}")).streams.push(stream);
                }
                Endpoints::Pci { segments, functions } => {
                    self.virtio_range(*iommu, *first, *segments, *functions);
                }
            }
        }
        // A unit that is a function of a bus that it serves is no client of itself.
        for unit in &table.units {
            if let Unit::Pci(segment, function) = unit {
                let segment = self.segments.entry(*segment).or_default();
                segment.ids.clear(u32::from(*function), u32::from(*function));
            }
        }
        self.unknown("VIOT", &table.unknown);
    }

    fn virtio_unit(&mut self, unit: Unit) -> FwNode {
        match unit {
            Unit::Pci(segment, function) => {
                let path = format!("VIOT/{segment:04x}:{}", RequesterId(u32::from(function)));
                self.unit(path, IommuKind::VirtioIommu, "pci1af4,1057", (0, 0))
            }
            Unit::Mmio(base) => {
                let path = format!("VIOT/virtio@{base:x}");
                self.unit(path, IommuKind::VirtioIommu, "virtio,mmio", (base, 0x200))
            }
        }
    }

    /// Endpoint ids count functions within a segment, and 65,536 for each segment.
    fn virtio_range(
        &mut self,
        iommu: FwNode,
        first: u32,
        segments: (u16, u16),
        functions: (u16, u16),
    ) {
        let spanned = segments.1.saturating_sub(segments.0);
        let count = (u32::from(spanned) << 16)
            .saturating_add(u32::from(functions.1.saturating_sub(functions.0)));
        if spanned >= MOST_SEGMENTS || first.checked_add(count).is_none() {
            let what = format!(
                "a range of endpoints from {first:#x} spans segments {:#x} to {:#x}",
                segments.0, segments.1
            );
            let problem = Problem::new(
                rule::ACPI_CONFLICT,
                what,
                "it is left out: what is in it stays blocked",
            );
            return self.findings.refuse(true, "VIOT", &problem);
        }
        for number in segments.0..=segments.1 {
            let base = u32::from(number.saturating_sub(segments.0)) << 16;
            let shift = first.wrapping_add(base).wrapping_sub(u32::from(functions.0));
            let segment = self.segments.entry(number).or_default();
            let way = Way::Shifted { iommu, shift };
            segment.claim(u32::from(functions.0), u32::from(functions.1), way);
            if functions.0 == functions.1 {
                segment.functions.insert(u32::from(functions.0));
            }
        }
    }
}
