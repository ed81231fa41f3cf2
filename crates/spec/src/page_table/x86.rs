//! 4-level and 5-level paging of x86-64 (Intel SDM volume 3A, section 4.5, tables 4-15 to 4-20; AMD APM volume 2, section 5.3). IOMMUs walk the same
//! entries as VT-d first stage (D51397 section 9.7) and AMD v2, "guest", tables (48882, section 2.2.6).
//!
//! Section 4.5 "4-Level Paging and 5-Level Paging" is cited so for the SDM of December 2023 (Linux's `generic_pt/fmt/x86_64.h` says 4.4), with table 4-19 for a page table entry; the two sections for IOMMUs are those that
//! Linux cites. In the numbering used here table 4-20 is the one of entries that map a 4 KiB page, as several programs cite it. **Not verified**: the numbers of the tables before it, and the section of AMD's volume 2. The `x86_64` crate reads our tables with its own layout (`benches/table-peers`).

/// PML5E to PTE.
pub mod paging {
    crate::layout::layout! { "x86-64 paging", 1 words {
        PRESENT "P" [0:0] "0: not present, the rest is ignored.";
        WRITE "R/W" [1:1] "writes are allowed below.";
        USER "U/S" [2:2] "user accesses are allowed below; requests without privilege are user accesses.";
        PWT "PWT" [3:3] "memory type, bit 0.";
        PCD "PCD" [4:4] "memory type, bit 1.";
        ACCESSED "A" [5:5] "set by hardware at the first use.";
        DIRTY "D" [6:6] "leaves: set by hardware at the first write.";
        PAGE_SIZE "PS" [7:7] "entries that cover 1 GiB or 2 MiB: 1 for a leaf. In the last level: PAT.";
        GLOBAL "G" [8:8] "leaves: belongs to all address spaces.";
        ADDRESS "ADDR" [51:12] "where the entry leads; bits below a leaf's size are reserved (bit 12 of a large leaf is PAT).";
        IGNORED "IGN" [58:52] "ignored by hardware.";
        EXECUTE_DISABLE "XD" [63:63] "no execution; reserved where it is not enabled.";
    } }
}
