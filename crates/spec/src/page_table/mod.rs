//! Entries of the page tables that IOMMUs walk, one module per document.
//!
//! All of them are one 64-bit word. A layout names the fields of leaves and of table entries together where the document prints them alike; where a
//! field means something in one of them only, its description says so.

pub mod amd;
pub mod riscv;
pub mod vmsa;
pub mod vtd;
pub mod x86;

/// Every layout, with the document that it was typed from.
pub const LAYOUTS: &[(&str, crate::Layout)] = &[
    ("Arm DDI 0487 K.a", vmsa::stage1::LAYOUT),
    ("Arm DDI 0487 K.a", vmsa::stage2::LAYOUT),
    ("Arm DDI 0487 K.a", vmsa::lpa64::LAYOUT),
    ("Intel D51397-015 (rev 4.1)", vtd::second_stage::LAYOUT),
    ("Intel SDM 325384, volume 3A", x86::paging::LAYOUT),
    ("AMD 48882 rev 3.09", amd::host::LAYOUT),
    ("RISC-V Privileged 20211203", riscv::pte::LAYOUT),
];
