//! What there is: firmware's description, and the functions on the PCI bus.

use crate::board::Board;
use crate::drivers::edu::{Edu, EduDriver};
use crate::drivers::nvme::NvmeDriver;
use crate::drivers::rng::{Hal, RngDriver};
use crate::heap::POOL;
use crate::its::Its;
use crate::pci::{Bus, Function};
use crate::seams::{self, Image};
use crate::{cpu, gic, install, say, state};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;
use portcullis::{Device, DmaPath, Policy, Subsystem};
use portcullis_addr::PhysAddr;
use portcullis_bare::{BarePlatform, Mmio, SpinLock};
use portcullis_firmware::{
    DescribedDevice, IommuNode, MachineDescription, RequesterId, read_devicetree,
};
use portcullis_platform::Mutex;
use portcullis_virtio::IommuHal;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::DeviceFunction;

pub type Known = Arc<Device<BarePlatform<Image>>>;

/// The machine, with its devices known to the core and nothing driven yet.
pub struct Machine {
    pub bus: Bus,
    pub its: Its,
    pub smmu: IommuNode,
    /// Where devices write their interrupts.
    pub doorbell: PhysAddr,
    /// Everything that was found, to be let master later.
    pub functions: Vec<DeviceFunction>,
    /// Three of them; the last keeps no driver.
    pub edus: Vec<(Arc<EduDriver>, Known, DeviceFunction)>,
    pub rng: (Arc<RngDriver>, Known),
    pub nvme: (Arc<NvmeDriver>, Known),
}

impl Machine {
    /// The SMMU's registers.
    pub fn smmu_registers(&self) -> Mmio {
        let window = self.smmu.registers.expect("registers");
        let base = NonNull::new(window.start().raw() as *mut u8).expect("not at 0");
        // SAFETY: firmware says that the SMMU's registers are there, and entry.s maps them as device memory.
        unsafe { Mmio::new(base, window.len() as usize) }
    }

    /// The SPI number of one of the SMMU's interrupts. Cells: type 0 (SPI), number, flags.
    pub fn smmu_line(&self, name: &str) -> u32 {
        let line = self.smmu.interrupts.iter().find(|line| line.name.as_deref() == Some(name));
        line.and_then(|line| line.cells.get(1).copied()).expect("a line of that name")
    }
}

/// Reads the devicetree at `devicetree`, or at the start of RAM, and enumerates PCI.
pub fn discover(devicetree: usize) -> Machine {
    let at = if devicetree == 0 { 0x4000_0000 } else { devicetree };
    // SAFETY: QEMU puts a devicetree there, and nobody writes it.
    let blob = unsafe {
        core::slice::from_raw_parts(core::ptr::with_exposed_provenance(at), size_of_devicetree(at))
    };
    let board = Board::read(blob);
    let described = read_devicetree(blob, "virt").expect("a devicetree");
    let ram = described.memory.first().expect("RAM");
    let platform = seams::platform(&POOL, (ram.start().raw(), ram.len()));
    let smmu =
        described.iommus.iter().find(|iommu| iommu.enabled).expect("-machine iommu=smmuv3").clone();
    install(Subsystem::new(Arc::new(platform), Policy::default()), smmu.node);
    // SAFETY: the devicetree's addresses, mapped by entry.s.
    unsafe { gic::init(board.gic, 2) };
    // SAFETY: as above.
    let its = unsafe { Its::new(board.its, board.gic.1) };
    cpu::unmask_interrupts();
    find_functions(&board, its, smmu, &described)
}

fn size_of_devicetree(at: usize) -> usize {
    let header: *const [u32; 2] = core::ptr::with_exposed_provenance(at);
    // SAFETY: RAM is mapped; whatever stands there is a number.
    let [magic, size] = unsafe { header.read_volatile() }.map(u32::from_be);
    assert_eq!(magic, 0xd00d_feed, "no devicetree at {at:#x}");
    size as usize
}

fn find_functions(
    board: &Board,
    its: Its,
    smmu: IommuNode,
    described: &MachineDescription,
) -> Machine {
    let bridge = described.devices.iter().find(|device| device.enabled && device.bus.is_some());
    let bridge = bridge.expect("PCIe behind the SMMU");
    let doorbell = bridge.msi.iter().find_map(|msi| msi.doorbell).expect("an ITS in msi-map");
    // SAFETY: the devicetree's address, mapped by entry.s.
    let mut bus = unsafe { Bus::new(board.ecam) };
    let functions = bus.functions();
    let (mut edus, mut rng, mut nvme) = (Vec::new(), None, None);
    for function in &functions {
        let device = tell(bridge, function);
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
    Machine { bus, its, smmu, doorbell, functions, edus, rng, nvme }
}

/// Tells the core of a function.
fn tell(bridge: &DescribedDevice, function: &Function) -> Known {
    let at = function.at;
    let requester = RequesterId::pci(at.bus, at.device, at.function);
    let bus = bridge.bus.as_ref().expect("a bridge");
    let mut description = bus.function(
        format!("{}/{requester}", bridge.description.path),
        &[requester],
        &bridge.description,
    );
    description.doorbells.extend(bridge.msi.iter().filter_map(|msi| msi.doorbell));
    description.doorbells.dedup();
    let info = &function.info;
    let streams = match &description.dma {
        DmaPath::Translated(spec) => spec.streams.iter().map(|stream| stream.id).collect(),
        DmaPath::Direct | DmaPath::Unusable(_) => Vec::new(),
    };
    say!("     {at} {:04x}:{:04x}, behind the SMMU as {streams:?}", info.vendor_id, info.device_id);
    state().subsystem.add_device(description).expect("a sound description")
}
