//! The board as command line.

use super::{BusId, EndpointModel, Slot, Virt};
use crate::find::Installation;

impl Virt {
    /// Everything else; `disk` names the file behind the NVMe controllers, `firmware` a PC's.
    pub(super) fn arguments(
        &self,
        installation: &Installation,
        disk: &str,
        firmware: &str,
    ) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
        for (option, value) in self.own_arguments(installation, firmware) {
            add(option, value);
        }
        for (index, (model, slot)) in self.bridges.iter().enumerate() {
            add("-device", model.device(index + 1, &place(*slot)));
        }
        for (index, (model, slot)) in self.endpoints.iter().enumerate() {
            let (backend, device) = endpoint(*model, index, *slot, disk);
            if let Some((option, value)) = backend {
                add(option, value);
            }
            add("-device", device);
        }
        arguments
    }
}

impl EndpointModel {
    pub(super) fn device_name(self) -> &'static str {
        match self {
            Self::Edu => "edu",
            Self::Nvme => "nvme",
            Self::VirtioRng => "virtio-rng-pci",
            Self::VirtioBlk => "virtio-blk-pci",
        }
    }
}

type Backend = (&'static str, String);

/// The option for what stands behind the device, and the device.
fn endpoint(
    model: EndpointModel,
    index: usize,
    slot: Slot,
    disk: &str,
) -> (Option<Backend>, String) {
    let place = place(slot);
    match model {
        // A mask of fewer bits (28 by default) cuts wider addresses without a word.
        EndpointModel::Edu => (None, format!("edu,dma_mask=0xffffffffffffffff,{place}")),
        EndpointModel::Nvme => {
            let device = format!("nvme,serial=portcullis-{index},drive=disk{index},{place}");
            (Some(("-blockdev", block_node(index, disk))), device)
        }
        EndpointModel::VirtioBlk => {
            let device = format!("virtio-blk-pci,{BEHIND_IOMMU},drive=disk{index},{place}");
            (Some(("-blockdev", block_node(index, disk))), device)
        }
        EndpointModel::VirtioRng => {
            let source = format!("rng-builtin,id=rng{index}");
            let device = format!("virtio-rng-pci,{BEHIND_IOMMU},rng=rng{index},{place}");
            (Some(("-object", source)), device)
        }
    }
}

/// Without the second, QEMU's virtio devices use physical addresses and bypass the IOMMU.
const BEHIND_IOMMU: &str = "disable-legacy=on,iommu_platform=on";

fn block_node(index: usize, disk: &str) -> String {
    // Two devices may have the same file, which file locks would forbid.
    format!("driver=file,node-name=disk{index},filename={disk},locking=off")
}

fn place(slot: Slot) -> String {
    let bus = match slot.bus {
        BusId(0) => "pcie.0".to_owned(),
        BusId(number) => format!("bus{number}"),
    };
    format!("bus={bus},addr={:02x}.0", slot.device)
}
