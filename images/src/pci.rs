//! The functions of bus 0, found by looking, with their registers mapped and bus mastering on.

use crate::board::Board;
use crate::chosen::Hardware;
use alloc::vec::Vec;
use core::ptr::NonNull;
use portcullis_iommu::bare::Mmio;
use portcullis_iommu::platform::Registers;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Cam, Command, DeviceFunction, DeviceFunctionInfo, MemoryBarType, MmioCam, PciRoot,
};

const ECAM_BYTES: usize = 1 << 20;

pub struct Function {
    pub at: DeviceFunction,
    pub info: DeviceFunctionInfo,
    /// Its first memory BAR.
    pub registers: Option<Mmio>,
}

pub struct Bus {
    pub root: PciRoot<MmioCam<'static>>,
    config: Mmio,
    next: u64,
}

impl Bus {
    /// # Safety
    ///
    /// The first MiB of a PCIe configuration space stands at `ecam`, mapped as device memory; called once.
    pub unsafe fn new(ecam: usize) -> Self {
        let base = ecam as *mut u8;
        // SAFETY: the caller's.
        let cam = unsafe { MmioCam::new(base, Cam::Ecam) };
        // SAFETY: the same registers again, for capabilities only.
        let config = unsafe { Mmio::new(NonNull::new(base).expect("not at 0"), ECAM_BYTES) };
        Self { root: PciRoot::new(cam), config, next: Hardware::PCI_WINDOW }
    }

    /// Everything on bus 0. Bus mastering stays off: see [`Self::let_master`].
    pub fn functions(&mut self) -> Vec<Function> {
        let found: Vec<_> = self.root.enumerate_bus(0).collect();
        let mut functions = Vec::new();
        for (at, info) in found {
            let registers = self.assign(at);
            self.root.set_command(at, Command::MEMORY_SPACE);
            functions.push(Function { at, info, registers });
        }
        functions
    }

    /// Gives the BARs of `at` addresses, each aligned to its size.
    fn assign(&mut self, at: DeviceFunction) -> Option<Mmio> {
        let mut first = None;
        for (index, bar) in self.root.bars(at).expect("sound BARs").into_iter().enumerate() {
            let Some(BarInfo::Memory { size, address_type, .. }) = bar else { continue };
            self.next = self.next.next_multiple_of(size);
            match address_type {
                MemoryBarType::Width64 => self.root.set_bar_64(at, index as u8, self.next),
                _ => self.root.set_bar_32(at, index as u8, self.next as u32),
            }
            let base = NonNull::new(self.next as *mut u8).expect("not at 0");
            // SAFETY: the window is mapped as device memory, and the addresses were given to this BAR alone.
            first = first.or(Some(unsafe { Mmio::new(base, size as usize) }));
            self.next += size;
        }
        first
    }

    /// Lets a function do DMA. Before the IOMMU blocks, nobody is let.
    pub fn let_master(&mut self, at: DeviceFunction) {
        self.root.set_command(at, Command::MEMORY_SPACE | Command::BUS_MASTER);
    }

    /// Has the function signal by writing `data` to `address` (PCI Local Bus Specification 3.0, 6.8.1: MSI with a 64-bit address). `false` where it has no such capability.
    pub fn enable_msi(&mut self, at: DeviceFunction, address: u64, data: u16) -> bool {
        let Some(capability) = self.root.capabilities(at).find(|capability| capability.id == 5)
        else {
            return false;
        };
        let function = usize::from(at.device) << 15 | usize::from(at.function) << 12;
        let register = function + usize::from(capability.offset);
        let head = self.config.read32(register);
        self.config.write32(register + 4, address as u32);
        self.config.write32(register + 8, (address >> 32) as u32);
        self.config.write32(register + 12, data.into());
        self.config.write32(register, head | 1 << 16);
        head & 1 << 23 != 0
    }
}
