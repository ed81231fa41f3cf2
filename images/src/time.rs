//! Time by the CPU's counter.

use crate::seams::Image;
use portcullis_iommu::bare::{Kernel, arch};

pub fn micros(counts: u64) -> u64 {
    counts * 1_000_000 / Image::counter_frequency()
}

/// Looks until `condition` holds, for 10 s at most.
pub fn wait_until(condition: impl Fn() -> bool) -> bool {
    let end = arch::counter() + 10 * Image::counter_frequency();
    loop {
        if condition() {
            return true;
        }
        if arch::counter() > end {
            return false;
        }
        core::hint::spin_loop();
    }
}
