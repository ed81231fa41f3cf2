//! Intel VT-d second-stage paging entries (D51397 rev 4.1, section 9.8). First-stage entries are those of the processor, see [`x86`](super::x86) (section 9.7).
//!
//! The sections are those of the table of contents of rev 5.10 too. The bits R, W, A, D, SNP, PS and ADDR were compared with Linux's
//! `generic_pt/fmt/vtdss.h`, which cites the same section (and 3.7 for the walk); EMT, IPAT, and that bits 7 and 10 of a last-level entry, 61 to 52 and 63 are ignored, with VirtualBox's `include/VBox/iommu-intel.h`. X is deprecated in newer revisions, and from rev 5.20 on a unit
//! can be told (root table address register) to take bits 61 and 62 for R and W: nothing here does that.

/// SS-PML5E to SS-PTE (9.8): the same fields at every level.
pub mod second_stage {
    crate::layout::layout! { "VT-d second-stage", 1 words {
        READ "R" [0:0] "reads are allowed below; R, W and X all 0: not present.";
        WRITE "W" [1:1] "writes are allowed below.";
        EXECUTE "X" [2:2] "execute requests are allowed, where they are supported.";
        EMT "EMT" [5:3] "leaves, extended memory type: used where the PASID entry's EMTE is set.";
        IPAT "IPAT" [6:6] "leaves: ignore the first stage's memory type.";
        PAGE_SIZE "PS" [7:7] "entries that cover 1 GiB or 2 MiB: 1 for a leaf. Ignored in the last level.";
        ACCESSED "A" [8:8] "set by hardware where accessed flags are enabled.";
        DIRTY "D" [9:9] "leaves: set by hardware likewise.";
        SNOOP "SNP" [11:11] "leaves: accesses snoop the processor's caches whatever the request says. Reserved without snoop control (ECAP.SC).";
        ADDRESS "ADDR" [51:12] "where the entry leads; bits above the host's width and below a leaf's size are reserved.";
        IGNORED "IGN" [61:52] "ignored by hardware.";
    } }
}
