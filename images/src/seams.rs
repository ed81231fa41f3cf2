//! Everything that Portcullis asks of this kernel. `cargo xtask image` counts the lines.

use crate::chosen::cpu;
use crate::heap::Heap;
use portcullis_iommu::addr::{PhysAddr, PhysRange};
use portcullis_iommu::bare::{BarePlatform, Kernel, LinearMap, LinearMemory};

pub struct Image;

impl Kernel for Image {
    type Frames = &'static Heap;

    fn cpus() -> usize {
        2
    }
    fn cpu() -> usize {
        cpu::number()
    }
    // Each CPU runs one thread.
    fn thread() -> usize {
        1 + cpu::number()
    }
    fn counter_frequency() -> u64 {
        cpu::counter_frequency()
    }
}

pub fn platform(frames: &'static Heap, ram: (u64, u64)) -> BarePlatform<Image> {
    let ram = PhysRange::new(PhysAddr::new(ram.0), ram.1).expect("RAM does not wrap");
    // SAFETY: each board's entry.s leaves RAM at its own addresses, cached, and the pool lies in it.
    BarePlatform::new(LinearMemory::new(frames, unsafe { LinearMap::new(ram, 0) }))
}
