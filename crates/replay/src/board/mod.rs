//! Boards: QEMU's `virt` machine with one or two SMMUv3s and one client behind the first, as data.

mod tree;

pub(crate) use tree::gate;

use crate::error::Error;
use portcullis_lab::linux::{Bus, Event, World};
use portcullis_qemu::Installation;

/// A machine that a schedule can be forced on.
#[derive(Debug)]
pub struct Board {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What is on it, in a line.
    pub summary: &'static str,
    /// How many SMMUs it has; the last one is the one whose registration is steered.
    pub smmus: usize,
    /// The client.
    pub client: &'static Client,
}

/// A device behind the first SMMU.
#[derive(Debug)]
pub struct Client {
    /// Its name in the kernel's log and in the lab's worlds of its bus.
    pub device: &'static str,
    /// Its bus.
    pub bus: Bus,
    /// The module with its driver.
    pub module: &'static str,
    /// Modules to load before the experiment; a kernel may have them built in.
    pub before: &'static [&'static str],
    /// QEMU's arguments for it; `{disk}` stands for a disk image.
    arguments: &'static [&'static str],
    /// The stream id, where the devicetree names it at the device itself.
    pub(crate) stream: Option<u32>,
    /// A file that appears when the device works.
    pub(crate) probe: &'static str,
    /// Its interrupts' lines in `/proc/interrupts` contain this.
    pub(crate) interrupts: &'static str,
    /// QEMU translates its DMA, so its damage can be seen.
    pub dma_translated: bool,
    /// Whose interrupts its driver gets.
    pub interrupts_by: Interrupts,
}

/// How a client's interrupts reach the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// By wires, which no IOMMU is in the way of.
    Wires,
    /// By messages, one for each command that is done: none where its DMA does not work. The driver allocates its vectors in its probe or in a worker of its own,
    /// by version (NVMe: in a worker in Linux 6.1), so nothing is said of when.
    Commands,
    /// By messages that need no other DMA. The driver allocates its vectors in its probe.
    Messages,
}

const NVME: Client = Client {
    device: "0000:00:02.0",
    bus: Bus::Pci,
    module: "nvme",
    before: &[],
    arguments: &[
        "-drive",
        "if=none,id=disk,file={disk},format=raw,snapshot=on",
        "-device",
        "nvme,serial=portcullis,drive=disk,bus=pcie.0,addr=02.0",
    ],
    stream: None,
    probe: "/dev/nvme0n1",
    interrupts: "nvme",
    dma_translated: true,
    interrupts_by: Interrupts::Commands,
};

const E1000E: Client = Client {
    device: "0000:00:02.0",
    bus: Bus::Pci,
    module: "e1000e",
    before: &[],
    arguments: &[
        "-netdev",
        "hubport,id=net0,hubid=0",
        "-device",
        // Without its boot ROM, which is in a package of its own and which no kernel uses.
        "e1000e,netdev=net0,bus=pcie.0,addr=02.0,romfile=",
    ],
    stream: None,
    probe: "/sys/bus/pci/devices/0000:00:02.0/net",
    interrupts: "eth|enp",
    dma_translated: true,
    // That its link is up is an interrupt, and no DMA.
    interrupts_by: Interrupts::Messages,
};

const VIRTIO_MMIO: Client = Client {
    device: "a003e00.virtio_mmio",
    bus: Bus::Platform,
    module: "virtio_mmio",
    before: &[],
    arguments: &["-device", "virtio-rng-device"],
    stream: Some(0x7700),
    probe: "",
    interrupts: "virtio",
    dma_translated: false,
    interrupts_by: Interrupts::Wires,
};

/// Every board.
pub const BOARDS: &[Board] = &[
    Board {
        name: "nvme",
        summary: "one SMMUv3, an NVMe disk behind it (PCI)",
        smmus: 1,
        client: &NVME,
    },
    Board {
        name: "e1000e",
        summary: "one SMMUv3, an e1000e network card behind it (PCI, MSI)",
        smmus: 1,
        client: &E1000E,
    },
    Board {
        name: "virtio-mmio",
        summary: "one SMMUv3, a virtio-mmio device behind it (platform bus; QEMU does not translate its DMA)",
        smmus: 1,
        client: &VIRTIO_MMIO,
    },
    Board {
        name: "nvme-two",
        summary: "two SMMUv3s, an NVMe disk behind the one that is bound at boot",
        smmus: 2,
        client: &NVME,
    },
    Board {
        name: "e1000e-two",
        summary: "two SMMUv3s, an e1000e network card behind the one that is bound at boot",
        smmus: 2,
        client: &E1000E,
    },
    Board {
        name: "virtio-mmio-two",
        summary: "two SMMUv3s, a virtio-mmio device behind the one that is bound at boot",
        smmus: 2,
        client: &VIRTIO_MMIO,
    },
];

/// Which schedules are worth a run on which board.
pub const SURVEY: &[(&str, &str)] = &[
    ("nvme", "control"),
    ("nvme", "seed"),
    ("nvme", "unbound"),
    ("nvme", "early"),
    ("nvme", "grouped"),
    ("nvme", "late-group"),
    ("nvme", "late-lost-bit"),
    ("e1000e", "control"),
    ("e1000e", "unbound"),
    ("e1000e", "late-group"),
    ("virtio-mmio", "seed"),
    ("virtio-mmio", "late-group"),
    ("nvme-two", "control"),
    ("nvme-two", "seed"),
    ("nvme-two", "lost-bit"),
    ("e1000e-two", "seed"),
    ("virtio-mmio-two", "seed"),
];

/// The memory of every board, in MiB, and its CPUs: two threads are steered.
const MEMORY: &str = "1024";
const CPUS: &str = "2";

impl Board {
    /// The board with this name.
    ///
    /// # Errors
    /// [`Error::Board`] with the names that there are.
    pub fn find(name: &str) -> Result<&'static Self, Error> {
        BOARDS.iter().find(|board| board.name == name).ok_or_else(|| {
            let known: Vec<&str> = BOARDS.iter().map(|board| board.name).collect();
            Error::Board(format!("unknown board `{name}`; known are {}", known.join(", ")))
        })
    }

    /// The world of the lab that this board is. If the client's driver allocates vectors in its probe, it does there.
    #[must_use]
    pub fn world(&self) -> World {
        let events = match self.client.interrupts_by {
            Interrupts::Wires | Interrupts::Commands => Vec::new(),
            Interrupts::Messages => vec![Event::Msi],
        };
        World { bus: self.client.bus, events, ..World::of(self.smmus, 1, 1) }
    }

    /// Whether the board can carry schedules of this world. Vectors take no step of their own away from a schedule without them.
    #[must_use]
    pub fn carries(&self, world: &World) -> bool {
        let own = self.world();
        own == *world || World { events: Vec::new(), ..own } == *world
    }

    /// The device name of the SMMU whose registration is steered.
    #[must_use]
    pub fn registering(&self) -> &'static str {
        if self.smmus == 1 { "9050000.smmuv3" } else { "c020000.smmuv3" }
    }

    /// Checks that QEMU has what the board is made of.
    ///
    /// # Errors
    /// [`Error::Qemu`] with what it lacks.
    pub fn supported_by(&self, qemu: &Installation) -> Result<(), Error> {
        let device = "arm-smmuv3";
        // QEMU before 10.2 lists it too, but does not let a user create it.
        if self.smmus < 2 || (qemu.features().has_device(device) && qemu.version().major >= 11) {
            return Ok(());
        }
        Err(Error::Qemu(format!(
            "the board `{}` has two SMMUs, which needs a QEMU with `-device {device}` (11 or later); {} is {}. \
             `portcullis replay --fetch-qemu` gets Debian's; {} names the folder of another one",
            self.name,
            qemu.program().display(),
            qemu.version(),
            portcullis_qemu::DIRECTORY_VARIABLE,
        )))
    }

    /// QEMU's arguments for the machine, without kernel and devicetree.
    pub(crate) fn arguments(&self, disk: &str) -> Vec<String> {
        let iommu = if self.smmus == 1 { ",iommu=smmuv3" } else { "" };
        let mut arguments: Vec<String> = vec![
            "-machine".into(),
            format!("virt,gic-version=3{iommu}"),
            "-cpu".into(),
            "cortex-a72".into(),
            "-smp".into(),
            CPUS.into(),
            "-m".into(),
            MEMORY.into(),
            "-nodefaults".into(),
            "-display".into(),
            "none".into(),
        ];
        if self.smmus == 2 {
            let devices = [
                "pxb-pcie,id=pcie.1,bus_nr=8,bus=pcie.0,addr=05.0",
                "arm-smmuv3,primary-bus=pcie.0,id=smmu0",
                "arm-smmuv3,primary-bus=pcie.1,id=smmu1",
            ];
            arguments
                .extend(devices.iter().flat_map(|device| ["-device".into(), (*device).into()]));
        }
        arguments.extend(self.client.arguments.iter().map(|word| word.replace("{disk}", disk)));
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_worlds_can_be() {
        for (at, board) in BOARDS.iter().enumerate() {
            assert!(BOARDS[..at].iter().all(|other| other.name != board.name));
            assert!(board.world().checked().is_ok(), "{}", board.name);
            // The lab's PCI client has the board's name, so that both logs read the same.
            let name = board.world().client_name(0);
            assert!(board.client.bus != Bus::Pci || name == board.client.device);
        }
        assert!(Board::find("nvm").is_err());
    }
}
