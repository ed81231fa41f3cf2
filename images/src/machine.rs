//! What there is: firmware's description, and the functions on the PCI bus.

use crate::board::{Board, Handed};
use crate::chosen::Hardware;
use crate::drivers::edu::{Edu, EduDriver};
use crate::drivers::nvme::NvmeDriver;
use crate::drivers::rng::{Hal, RngDriver};
use crate::heap::POOL;
use crate::pci::{Bus, Function};
use crate::seams::{self, Image};
use crate::{install, say, state};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;
use portcullis_iommu::addr::PhysAddr;
use portcullis_iommu::bare::{BarePlatform, Mmio, SpinLock};
use portcullis_iommu::firmware::{DescribedDevice, IommuNode, MachineDescription, RequesterId};
use portcullis_iommu::platform::Mutex;
use portcullis_iommu::virtio::IommuHal;
use portcullis_iommu::{Device, DmaPath, Policy, Subsystem};
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::DeviceFunction;

pub type Known = Arc<Device<BarePlatform<Image>>>;

/// The machine, with its devices known to the core and nothing driven yet.
pub struct Machine {
    pub bus: Bus,
    pub board: Hardware,
    pub iommu: IommuNode,
    /// Where devices write their interrupts.
    pub doorbell: PhysAddr,
    /// Everything that was found, to be let master later.
    pub functions: Vec<DeviceFunction>,
    /// Two of them; the second gets no driver until the end.
    pub edus: Vec<(Arc<EduDriver>, Known, DeviceFunction)>,
    pub rng: (Arc<RngDriver>, Known),
    pub nvme: (Arc<NvmeDriver>, Known),
}

impl Machine {
    /// The IOMMU's registers.
    pub fn iommu_registers(&self) -> Mmio {
        let window = self.iommu.registers.expect("registers");
        let base = NonNull::new(window.start().raw() as *mut u8).expect("not at 0");
        // SAFETY: firmware says that the IOMMU's registers are there, and they are mapped as device memory.
        unsafe { Mmio::new(base, window.len() as usize) }
    }
}

/// Reads firmware's description and enumerates PCI.
pub fn discover(handed: Handed) -> Machine {
    let (mut board, described) = Hardware::read(handed);
    let platform = seams::platform(&POOL, board.ram());
    let iommu = described.iommus.iter().find(|iommu| iommu.enabled).expect("an IOMMU").clone();
    install(Subsystem::new(Arc::new(platform), Policy::default()), iommu.node);
    board.start();
    find_functions(board, iommu, &described)
}

fn find_functions(board: Hardware, iommu: IommuNode, described: &MachineDescription) -> Machine {
    let bridge = described.devices.iter().find(|device| device.enabled && device.bus.is_some());
    let bridge = bridge.expect("PCIe behind the IOMMU");
    let doorbell = Hardware::doorbell(bridge);
    // SAFETY: firmware's address, mapped as device memory.
    let mut bus = unsafe { Bus::new(board.ecam()) };
    let functions = bus.functions();
    let (mut edus, mut rng, mut nvme) = (Vec::new(), None, None);
    for function in &functions {
        let device = tell(bridge, function, doorbell);
        match (function.info.vendor_id, function.info.device_id, function.registers) {
            (0x1234, 0x11e8, Some(registers)) => {
                edus.push((EduDriver::new(Edu(registers)), device, function.at));
            }
            (0x1af4, 0x1044, _) => {
                let transport = PciTransport::new::<IommuHal<Hal>, _>(&mut bus.root, function.at);
                let transport = Mutex::from_raw(
                    SpinLock::unlabelled(),
                    Some(transport.expect("a virtio device")),
                );
                rng = Some((Arc::new(RngDriver(transport)), device));
            }
            (0x1b36, 0x0010, Some(registers)) => {
                nvme = Some((Arc::new(NvmeDriver(registers)), device))
            }
            _ => {}
        }
    }
    let functions = functions.iter().map(|function| function.at).collect();
    let (rng, nvme) = (rng.expect("a virtio-rng"), nvme.expect("an NVMe controller"));
    Machine { bus, board, iommu, doorbell, functions, edus, rng, nvme }
}

/// Tells the core of a function.
fn tell(bridge: &DescribedDevice, function: &Function, doorbell: PhysAddr) -> Known {
    let at = function.at;
    let requester = RequesterId::pci(at.bus, at.device, at.function);
    let bus = bridge.bus.as_ref().expect("a bridge");
    let mut description = bus.function(
        format!("{}/{requester}", bridge.description.path),
        &[requester],
        &bridge.description,
    );
    // A devicetree names it; ACPI has no need to, since every PC has it at the same place.
    if !description.doorbells.contains(&doorbell) {
        description.doorbells.push(doorbell);
    }
    let info = &function.info;
    let streams = match &description.dma {
        DmaPath::Translated(spec) => spec.streams.iter().map(|stream| stream.id).collect(),
        DmaPath::Direct | DmaPath::Unusable(_) => Vec::new(),
    };
    say!(
        "     {at} {:04x}:{:04x}, behind the IOMMU as {streams:?}",
        info.vendor_id,
        info.device_id
    );
    state().subsystem.add_device(description).expect("a sound description")
}
