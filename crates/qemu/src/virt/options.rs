//! The board as command line.

use super::{BridgeModel, BusId, EndpointModel, Slot, SmmuStages, Virt};
use crate::error::ErrorKind;
use crate::find::Installation;

impl Virt {
    /// The `-machine` value.
    pub(super) fn machine(&self, installation: &Installation) -> Result<String, ErrorKind> {
        let features = installation.features();
        let chooses = features.chooses_smmu_stages();
        let unsupported = |what: &str| ErrorKind::Unsupported {
            what: what.to_owned(),
            version: installation.version(),
        };
        let board = match self.stages {
            SmmuStages::Newest => "virt",
            // Boards from 9.2 on force both stages; before the property existed there was only stage 1.
            SmmuStages::One if !chooses => "virt",
            SmmuStages::Two | SmmuStages::Nested if !chooses => {
                return Err(unsupported("an SMMUv3 with stage 2 (arm-smmuv3.stage)"));
            }
            _ => "virt-9.1",
        };
        for name in self.endpoints.iter().map(|(model, _)| model.device_name()) {
            if !features.has_device(name) {
                return Err(unsupported(&format!("-device {name}")));
            }
        }
        // No random seeds in the devicetree: the same board gives the same bytes.
        Ok(format!("{board},iommu=smmuv3,dtb-randomness=off"))
    }

    /// Everything else; `disk` names the file behind the NVMe controllers.
    pub(super) fn arguments(&self, installation: &Installation, disk: &str) -> Vec<String> {
        let mut arguments = vec!["-cpu".to_owned(), "cortex-a57,start-powered-off=on".to_owned()];
        let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
        if installation.features().chooses_smmu_stages() {
            let stage = match self.stages {
                SmmuStages::Newest => None,
                SmmuStages::One => Some("1"),
                SmmuStages::Two => Some("2"),
                SmmuStages::Nested => Some("nested"),
            };
            if let Some(stage) = stage {
                add("-global", format!("arm-smmuv3.stage={stage}"));
            }
        }
        for (index, (model, slot)) in self.bridges.iter().enumerate() {
            add("-device", bridge(*model, index + 1, *slot));
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
    fn device_name(self) -> &'static str {
        match self {
            Self::Edu => "edu",
            Self::Nvme => "nvme",
            Self::VirtioRng => "virtio-rng-pci",
            Self::VirtioBlk => "virtio-blk-pci",
        }
    }
}

fn bridge(model: BridgeModel, number: usize, slot: Slot) -> String {
    let place = place(slot);
    match model {
        BridgeModel::RootPort => {
            format!("pcie-root-port,id=bus{number},chassis={number},{place}")
        }
        BridgeModel::ExpressToConventional => format!("pcie-pci-bridge,id=bus{number},{place}"),
        BridgeModel::Conventional => {
            format!("pci-bridge,id=bus{number},chassis_nr={number},shpc=off,{place}")
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
