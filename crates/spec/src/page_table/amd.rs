//! AMD's own I/O page tables (48882 rev 3.09, section 2.2.3 "I/O Page Tables for Host Translations"). AMD v2 tables are those of the processor, see
//! [`x86`](super::x86).
//!
//! The section and the bits PR, D, NextLevel, ADDR, FC, IR and IW, and the values 0 and 7 of NextLevel, were compared with Linux's `generic_pt/fmt/amdv1.h`, which cites the same section; U
//! with KVM's early AMD IOMMU model (bit 59); A, and that bits 1 to 4 are ignored, with Xen's `xen/drivers/passthrough/amd/iommu-defs.h` (`union amd_iommu_pte`).

/// Page directory and page table entries.
pub mod host {
    crate::layout::layout! { "AMD host page table", 1 words {
        PRESENT "PR" [0:0] "0: not present, the rest is ignored.";
        IGNORED "IGN" [4:1] "ignored by hardware.";
        ACCESSED "A" [5:5] "set by hardware where host access tracking is enabled.";
        DIRTY "D" [6:6] "leaves: set by hardware likewise.";
        NEXT_LEVEL "NextLevel" [11:9] "level of the table that the entry leads to; 0: a leaf of the level's own size; 7: a leaf whose size the address encodes.";
        ADDRESS "ADDR" [51:12] "where the entry leads. With NextLevel 7 the lowest 0 is at the bit below the size's: ones below it say how large the leaf is.";
        U "U" [59:59] "leaves: the U bit of ATS responses.";
        FORCE_COHERENT "FC" [60:60] "leaves: accesses snoop the processor's caches whatever the request says.";
        READ "IR" [61:61] "reads are allowed below.";
        WRITE "IW" [62:62] "writes are allowed below.";
    } }

    /// Values of `NextLevel` that do not name a level.
    pub mod next_level {
        crate::layout::codes! {
            LEAF "Default page size" = 0 "a leaf of the size that one entry covers.";
            SIZED "Encoded page size" = 7 "a leaf whose address field encodes its size, repeated in each entry that it covers.";
        }
    }
}
