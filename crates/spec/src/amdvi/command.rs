//! Commands (2.4): 16 bytes each, opcode in bits `[63:60]`.

/// Size of a command in 64-bit words.
pub const WORDS: usize = 2;
/// Size of a command in bytes.
pub const BYTES: usize = 16;
/// The opcode, the same in every command.
pub const OPCODE: crate::Field = crate::Field::new("OpCode", 63, 60);

/// Opcodes (2.4).
pub mod opcode {
    crate::layout::codes! {
        COMPLETION_WAIT "COMPLETION_WAIT" = 1 "wait for all before it, then say so (2.4.1).";
        INVALIDATE_DEVTAB_ENTRY "INVALIDATE_DEVTAB_ENTRY" = 2 "forget a device's entry (2.4.2).";
        INVALIDATE_IOMMU_PAGES "INVALIDATE_IOMMU_PAGES" = 3 "forget translations of a domain (2.4.3).";
        INVALIDATE_IOTLB_PAGES "INVALIDATE_IOTLB_PAGES" = 4 "have a device forget translations (2.4.4).";
        INVALIDATE_INTERRUPT_TABLE "INVALIDATE_INTERRUPT_TABLE" = 5 "forget a device's interrupt table (2.4.5).";
        PREFETCH_IOMMU_PAGES "PREFETCH_IOMMU_PAGES" = 6 "fetch translations (2.4.6).";
        COMPLETE_PPR_REQUEST "COMPLETE_PPR_REQUEST" = 7 "answer a page request (2.4.7).";
        INVALIDATE_IOMMU_ALL "INVALIDATE_IOMMU_ALL" = 8 "forget everything; with IASup only (2.4.8).";
    }
}

/// COMPLETION_WAIT (2.4.1).
pub mod completion_wait {
    crate::layout::layout! { "COMPLETION_WAIT", 2 words {
        S "s" [0:0] "store the data.";
        I "i" [1:1] "raise an interrupt.";
        F "f" [2:2] "have posted requests pushed out before.";
        ADDRESS "Store Address" [51:3] "bits 51:3 of where.";
        OPCODE "OpCode" [63:60] "see [`opcode`](super::opcode).";
        DATA "Store Data" [127:64] "what is stored, 8 bytes.";
    } }
}

/// INVALIDATE_DEVTAB_ENTRY (2.4.2).
pub mod invalidate_entry {
    crate::layout::layout! { "INVALIDATE_DEVTAB_ENTRY", 2 words {
        DEVICE "DeviceID" [15:0] "whose.";
        OPCODE "OpCode" [63:60] "see [`opcode`](super::opcode).";
    } }
}

/// INVALIDATE_IOMMU_PAGES (2.4.3).
pub mod invalidate_pages {
    crate::layout::layout! { "INVALIDATE_IOMMU_PAGES", 2 words {
        PASID "PASID" [19:0] "of guest translations.";
        DOMAIN "DomainID" [47:32] "whose.";
        OPCODE "OpCode" [63:60] "see [`opcode`](super::opcode).";
        S "S" [64:64] "the address encodes a size: its lowest 0 from bit 12 on is the bit below the size's.";
        PDE "PDE" [65:65] "also what leads to the pages.";
        GN "GN" [66:66] "guest translations.";
        ADDRESS "Address" [127:76] "bits 63:12.";
    } }

    /// The address that, with S, stands for all there are.
    pub const ALL: u64 = 0x7fff_ffff_ffff_f000;
}
