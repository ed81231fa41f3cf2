//! What runs in the guest beside the kernel: a busybox, the kernel's own modules and one script.

mod cpio;
mod initramfs;

pub(crate) use initramfs::{Guest, build};
