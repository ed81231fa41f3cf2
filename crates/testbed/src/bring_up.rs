//! How each family's driver is given what is known of a unit.

use crate::registry::{BroughtUp, Kept, UnitNote, UnitOptions};
use portcullis::NodeFailure;
use portcullis_platform::{Platform, Registers};
use portcullis_smmuv2::{Fate, FirmwareStream, Notice};
use portcullis_virtio_iommu::Transport;
use std::sync::Arc;

/// What a driver made of a unit.
type Outcome = Result<BroughtUp, NodeFailure>;

pub(crate) fn amdvi<P: Platform, R: Registers>(
    platform: Arc<P>,
    registers: R,
    unit: &UnitOptions,
) -> Outcome {
    let usual = portcullis_amdvi::Options::default();
    let options = portcullis_amdvi::Options {
        index: unit.index,
        coherent: unit.coherent,
        command_queue_log2: unit.queue_log2.unwrap_or(usual.command_queue_log2),
        event_queue_log2: unit.queue_log2.unwrap_or(usual.event_queue_log2),
        stream_id_bits: unit.stream_id_bits.unwrap_or(usual.stream_id_bits),
        spaces: unit.spaces.unwrap_or(usual.spaces),
        caches_absence: unit.caches_absence,
        ..usual
    };
    let iommu = portcullis_amdvi::Iommu::bring_up(platform, registers, options)?;
    let (blocks, bytes) = iommu.device_table_memory();
    let kept = Kept { blocks, bytes };
    Ok(BroughtUp { kept, ..BroughtUp::of(Box::new(iommu)) })
}

pub(crate) fn riscv<P: Platform, R: Registers>(
    platform: Arc<P>,
    registers: R,
    unit: &UnitOptions,
) -> Outcome {
    let usual = portcullis_riscv::Options::default();
    let options = portcullis_riscv::Options {
        index: unit.index,
        coherent: unit.coherent,
        command_queue_log2: unit.queue_log2.unwrap_or(usual.command_queue_log2),
        event_queue_log2: unit.queue_log2.unwrap_or(usual.event_queue_log2),
        stream_id_bits: unit.stream_id_bits.unwrap_or(usual.stream_id_bits),
        ..usual
    };
    let iommu = portcullis_riscv::Iommu::bring_up(platform, registers, options)?;
    Ok(BroughtUp::of(Box::new(iommu)))
}

pub(crate) fn smmuv2<P: Platform, R: Registers>(
    platform: Arc<P>,
    registers: R,
    mirrors: Vec<R>,
    unit: &UnitOptions,
) -> Outcome {
    let UnitOptions { index, coherent, quirks, first_tag, .. } = *unit;
    let firmware_streams = unit.firmware_streams.clone();
    let options =
        portcullis_smmuv2::Options { index, coherent, quirks, first_tag, firmware_streams };
    let smmu = portcullis_smmuv2::Smmu::bring_up_mirrored(platform, registers, mirrors, options)?;
    let note = |notice: Notice| UnitNote { kind: notice.word(), words: notice.to_string() };
    let notes = smmu.notices().map(note).collect();
    let goes_on = |it: &&FirmwareStream| !matches!(it.fate, Fate::Blocked(_));
    let adopted = smmu.firmware_streams().iter().filter(goes_on).map(|it| it.stream).collect();
    Ok(BroughtUp { notes, adopted, ..BroughtUp::of(Box::new(smmu)) })
}

pub(crate) fn smmuv3<P: Platform, R: Registers>(
    platform: Arc<P>,
    registers: R,
    unit: &UnitOptions,
) -> Outcome {
    let usual = portcullis_smmuv3::Options::default();
    let options = portcullis_smmuv3::Options {
        index: unit.index,
        coherent: unit.coherent,
        command_queue_log2: unit.queue_log2.unwrap_or(usual.command_queue_log2),
        event_queue_log2: unit.queue_log2.unwrap_or(usual.event_queue_log2),
        stream_id_bits: unit.stream_id_bits.unwrap_or(usual.stream_id_bits),
        ..usual
    };
    let smmu = portcullis_smmuv3::Smmu::bring_up(platform, registers, options)?;
    Ok(BroughtUp::of(Box::new(smmu)))
}

pub(crate) fn virtio<P: Platform, R: Registers>(
    platform: Arc<P>,
    registers: R,
    unit: &UnitOptions,
) -> Outcome {
    let usual = portcullis_virtio_iommu::Options::default();
    let options = portcullis_virtio_iommu::Options {
        index: unit.index,
        coherent: unit.coherent,
        command_queue_log2: unit.queue_log2.unwrap_or(usual.command_queue_log2),
        event_queue_log2: unit.queue_log2.unwrap_or(usual.event_queue_log2),
        ..usual
    };
    let transport = unit.virtio_function.map_or(Transport::Mmio, Transport::Pci);
    let iommu = portcullis_virtio_iommu::Iommu::bring_up(platform, registers, transport, options)?;
    Ok(BroughtUp::of(Box::new(iommu)))
}

pub(crate) fn vtd<P: Platform, R: Registers>(
    platform: Arc<P>,
    registers: R,
    unit: &UnitOptions,
) -> Outcome {
    let usual = portcullis_vtd::Options::default();
    let options = portcullis_vtd::Options {
        index: unit.index,
        command_queue_log2: unit.queue_log2.unwrap_or(usual.command_queue_log2),
        ..usual
    };
    let iommu = portcullis_vtd::Iommu::bring_up(platform, registers, options)?;
    let (blocks, bytes) = iommu.root_table_memory();
    let kept = Kept { blocks, bytes };
    Ok(BroughtUp { kept, ..BroughtUp::of(Box::new(iommu)) })
}
