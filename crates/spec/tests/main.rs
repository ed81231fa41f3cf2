//! Layouts against values that were typed from the documents. One program, so that it is linked once.

mod golden;
mod golden_amdvi;
mod golden_page_tables;
mod golden_riscv;
mod golden_smmuv2;
mod golden_virtio;
mod golden_vtd;
