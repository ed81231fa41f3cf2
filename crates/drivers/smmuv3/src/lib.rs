//! drivers/smmuv3
