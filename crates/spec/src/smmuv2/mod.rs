//! Arm System Memory Management Unit, architecture version 2: Arm IHI 0062, revision D.c, and what the MMU-500 (Arm DDI 0517) makes of it.
//!
//! Non-secure programming interface. Names are the document's, under which it describes each register in the order of its address space, so items here cite the name and no section:
//! **the document's text was not at hand**. Positions rest on what others generated or wrote from it: the register references of the MMU-500 in AMD's Zynq UltraScale+ (UG1087, which
//! refers to IHI 0062B field by field) and in Intel's Agilex 7 and Stratix 10 (`SMMU_SCR0`, `SMMU_NSGFSR`, `SMMU_CB18_FSR`, ...), HiSilicon's of the MMU-500 in the Hi3650, Cavium's of the
//! SMMUv2 in the CN8xxx, and the constants of Linux's and OpenBSD's drivers (`tests/golden_smmuv2.rs`). That several matching registers are a fault stands in Intel's Agilex 7 Hard
//! Processor System Technical Reference Manual (683567), 5.4.7 "Stream ID", and in `SCR0.SMCFCFG`, which reads as one there.
//!
//! The block is two halves of equal size (see `IDR1`): the global address space, whose first pages are spaces 0 and 1, and one page for each translation context bank.

pub mod bank;
pub mod global0;
pub mod global1;

use crate::layout::codes;

/// Where things are in a block: pages of 4 or 64 KiB, 2^(`IDR1.NUMPAGENDXB` + 1) of them in each half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockShape {
    page: usize,
    pages: usize,
}

impl BlockShape {
    /// The shape that `IDR1` tells.
    pub const fn of(idr1: u32) -> Self {
        let large = global0::idr1::PAGESIZE.is_set(idr1 as u64);
        let log2 = global0::idr1::NUMPAGENDXB.get(idr1 as u64) as u32 + 1;
        Self { page: if large { 0x1_0000 } else { 0x1000 }, pages: 1 << log2 }
    }

    /// Bytes of a page: 4,096 or 65,536.
    pub const fn page(self) -> usize {
        self.page
    }

    /// Bytes of the whole block.
    pub const fn len(self) -> usize {
        2 * self.pages * self.page
    }

    /// Never: a block has at least four pages.
    pub const fn is_empty(self) -> bool {
        false
    }

    /// Where the registers of global address space 1 begin.
    pub const fn global1(self) -> usize {
        self.page
    }

    /// Where the registers of context bank `bank` begin.
    pub const fn bank(self, bank: usize) -> usize {
        (self.pages + bank) * self.page
    }
}

/// Values of `S2CR.TYPE`: what becomes of the streams of a group.
pub mod s2cr_type {
    super::codes! {
        TRANSLATION "Translation context" = 0 "translated by the bank `CBNDX`.";
        BYPASS "Bypass mode" = 1 "let through untranslated.";
        FAULT "Fault context" = 2 "refused, with an invalid context fault where that is reported.";
    }
}

/// Values of `CBAR.TYPE`: what a bank does.
pub mod cbar_type {
    super::codes! {
        STAGE2 "Stage 2 context" = 0 "stage 2 only.";
        STAGE1_BYPASS "Stage 1 context with stage 2 bypass" = 1 "stage 1 only.";
        STAGE1_FAULT "Stage 1 context with stage 2 fault" = 2 "refuses everything.";
        NESTED "Stage 1 context with stage 2 context" = 3 "both: stage 2 is the bank in `CBAR.CBNDX`.";
    }
}

/// Values of `IDR2.IAS`, `IDR2.OAS`, `TCR2.PASize` and of the stage 2 `TCR.PASize`.
pub mod address_size {
    super::codes! {
        BITS_32 "32 bits" = 0 "4 GiB.";
        BITS_36 "36 bits" = 1 "64 GiB.";
        BITS_40 "40 bits" = 2 "1 TiB.";
        BITS_42 "42 bits" = 3 "4 TiB.";
        BITS_44 "44 bits" = 4 "16 TiB.";
        BITS_48 "48 bits" = 5 "256 TiB.";
    }
}

/// Values of `TCR.TG0`.
pub mod granule0 {
    super::codes! {
        K4 "4 KiB" = 0 "";
        K64 "64 KiB" = 1 "";
        K16 "16 KiB" = 2 "";
    }
}

/// Values of `TCR2.SEP`: the bit from which the address of a device is sign-extended, which decides between TTBR0 and TTBR1.
pub mod sep {
    super::codes! {
        BIT_31 "Bit 31" = 0 "";
        BIT_35 "Bit 35" = 1 "";
        BIT_39 "Bit 39" = 2 "";
        BIT_41 "Bit 41" = 3 "";
        BIT_43 "Bit 43" = 4 "";
        BIT_47 "Bit 47" = 5 "";
        UPSTREAM "Upstream" = 7 "the bus has a sign bit, or it is 0.";
    }
}

/// Every register, for comparison with an independent table: those of the global spaces by their offset in the space's page, those of a bank by their offset in the bank's.
pub const SPACES: &[(&str, &[crate::Register])] = &[
    ("global 0", global0::REGISTERS),
    ("global 1", global1::REGISTERS),
    ("bank", bank::REGISTERS),
];
