//! What to ask the lab about a board: the world that has its shape.

use super::tree::group_numbers;
use portcullis::DmaPath;
use portcullis_firmware::{IommuKind, IommuNode, MachineDescription};

/// The command that explores a Linux kernel on a machine of this shape, for boards with an Arm SMMU: the lab has Linux's probe path for these.
pub(super) fn lab_command(machine: &MachineDescription) -> Option<String> {
    let kinds = [IommuKind::SmmuV2, IommuKind::SmmuV3];
    let serves = |iommu: &&IommuNode| iommu.enabled && kinds.contains(&iommu.kind);
    let smmus: Vec<_> = machine.iommus.iter().filter(serves).collect();
    let first = smmus.first()?;
    let mut command = "portcullis lab check v6.6".to_owned();
    // A third unit adds schedules, not kinds of them.
    command += if smmus.len() == 1 { " --iommus 1" } else { " --iommus 2" };
    if smmus.iter().all(|iommu| iommu.kind == IommuKind::SmmuV2) {
        command += " --driver v2";
    }
    if first.path.starts_with("IORT/") {
        command += " --firmware acpi";
    }
    if only_functions(machine) {
        command += " --bus pci";
    }
    if !group_numbers(machine).is_empty() {
        command += " --clients 2 --group shared";
    }
    Some(command)
}

/// Whether everything behind an IOMMU is a PCI function or the bridge to some.
fn only_functions(machine: &MachineDescription) -> bool {
    let mut behind = machine.devices.iter().filter(|device| {
        device.enabled && matches!(device.description.dma, DmaPath::Translated(_))
    });
    let bus = machine.devices.iter().any(|device| device.enabled && device.bus.is_some());
    bus && behind.all(|device| device.bus.is_some())
}
