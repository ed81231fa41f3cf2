//! Links every library crate without the standard library: a crate that uses it brings a second panic handler and this does not link.
#![no_std]

// A crate that is only named in the manifest is not linked.
use portcullis as _;
use portcullis_addr as _;
use portcullis_amdvi as _;
#[cfg(target_pointer_width = "64")]
use portcullis_bare as _;
// The crate `dma-api` itself uses the standard library wherever there is an operating system: `cargo xtask targets` links this one.
#[cfg(target_os = "none")]
use portcullis_dma_api as _;
use portcullis_firmware as _;
use portcullis_iommu as _;
use portcullis_iova as _;
use portcullis_pci as _;
use portcullis_pgtable as _;
use portcullis_platform as _;
use portcullis_driver_parts as _;
use portcullis_riscv as _;
use portcullis_vtd as _;
use portcullis_smmuv2 as _;
use portcullis_smmuv3 as _;
use portcullis_spec as _;
use portcullis_virtio as _;
use portcullis_virtio_iommu as _;

use core::alloc::{GlobalAlloc, Layout};

struct Nothing;

// SAFETY: it never returns memory, which a caller must take as "out of memory".
unsafe impl GlobalAlloc for Nothing {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Nothing = Nothing;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
