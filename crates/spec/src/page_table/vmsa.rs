//! VMSAv8-64 and VMSAv8-32 long descriptors (Arm DDI 0487 K.a, D8.3 "Translation table descriptor formats"; G5.5 for AArch32, whose descriptors are
//! the same up to the width of the address).
//!
//! Sections and bits of the 64-bit descriptors were compared with the text of D8.3 in that issue; G5.5 with Arm's table of contents only.

/// Stage 1 table descriptors (D8.3.1.1, table D8-50), block and page descriptors (D8.3.1.2, table D8-52).
pub mod stage1 {
    crate::layout::layout! { "VMSA stage 1", 1 words {
        VALID "Valid" [0:0] "0: every access faults and the rest is ignored.";
        TYPE "Type" [1:1] "above the last level 1 for a table and 0 for a block, at the last level 1 for a page.";
        ATTR_INDX "AttrIndx" [4:2] "leaves: which byte of MAIR.";
        NS "NS" [5:5] "leaves: Non-secure, from Secure state.";
        AP "AP[2:1]" [7:6] "leaves: bit 6 unprivileged access, bit 7 read only.";
        SH "SH" [9:8] "leaves: shareability, 0b10 outer, 0b11 inner; with LPA2 bits 51:50 of the address instead.";
        AF "AF" [10:10] "leaves: accessed; 0 faults at the first access.";
        NG "nG" [11:11] "leaves: belongs to one ASID.";
        ADDRESS "OA" [47:12] "where a leaf or a table entry leads; bits below the leaf's size are 0.";
        ADDRESS_LPA2 "OA[49:48]" [49:48] "with LPA2 the next bits of the address, otherwise 0.";
        CONTIGUOUS "Contiguous" [52:52] "leaves: hint that an aligned group of entries is alike.";
        PXN "PXN" [53:53] "leaves: no privileged execution.";
        UXN "UXN" [54:54] "leaves: no unprivileged execution.";
        SOFTWARE "Software use" [58:55] "ignored by hardware.";
    } }
}

/// Stage 2 block and page descriptors (D8.3.1.2, table D8-53); of table descriptors (table D8-51) bits 58:51 are ignored as in stage 1, and bits 63:59 are 0.
pub mod stage2 {
    crate::layout::layout! { "VMSA stage 2", 1 words {
        VALID "Valid" [0:0] "0: every access faults and the rest is ignored.";
        TYPE "Type" [1:1] "above the last level 1 for a table and 0 for a block, at the last level 1 for a page.";
        MEM_ATTR "MemAttr" [5:2] "0b1111 normal write-back, 0b0101 normal non-cacheable, 0b0001 Device-nGnRE.";
        S2AP "S2AP" [7:6] "bit 6 readable, bit 7 writable.";
        SH "SH" [9:8] "shareability, 0b10 outer, 0b11 inner; with LPA2 bits 51:50 of the address instead.";
        AF "AF" [10:10] "accessed; 0 faults at the first access.";
        ADDRESS "OA" [47:12] "where a leaf leads; bits below the leaf's size are 0.";
        ADDRESS_LPA2 "OA[49:48]" [49:48] "with LPA2 the next bits of the address, otherwise 0.";
        CONTIGUOUS "Contiguous" [52:52] "hint that an aligned group of entries is alike.";
        XN "XN" [54:53] "0b10: no execution at any exception level.";
        SOFTWARE "Software use" [58:55] "ignored by hardware; but bit 55 is NS in Realm state, and bit 58 AssuredOnly where that is enabled.";
    } }
}

/// Bits 51:48 of an address in descriptors of 64 KiB tables with LPA (tables D8-50 to D8-53: `OA[51:48]` stands in bits 15:12).
pub mod lpa64 {
    crate::layout::layout! { "VMSA 64 KiB, 52 bits", 1 words {
        ADDRESS_HIGH "OA[51:48]" [15:12] "the upper four bits of the address.";
        ADDRESS_LOW "OA[47:16]" [47:16] "the rest of it.";
    } }
}
