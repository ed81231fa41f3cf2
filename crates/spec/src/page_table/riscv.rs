//! RISC-V page table entries (Privileged Architecture 20211203: 4.4 "Sv39", 4.5 "Sv48", 4.6 "Sv57", chapter 5 "Svnapot", chapter 6 "Svpbmt"; 8.5.1 for the
//! x4 modes of the second stage). IOMMUs walk them as the RISC-V IOMMU Architecture 1.0, chapter 3, says, which also demands Svnapot of every IOMMU.
//!
//! Sections 4.3 (Sv32) and 4.4 (Sv39) were found cited for that edition; the bits were compared with Linux's `pgtable-bits.h` and `pgtable-64.h` (N 63, MT 62:61, PFN 53:10, software 9:8, D to V). **Not verified**:
//! the numbers of chapters 5, 6 and 8. That IOMMUs must have Svnapot is said under "IOMMU capabilities" (6.4 by Linux's count, `drivers/iommu/riscv/iommu.c`).

/// Entries of every level.
pub mod pte {
    crate::layout::layout! { "RISC-V PTE", 1 words {
        VALID "V" [0:0] "0: not present, the rest is ignored.";
        READ "R" [1:1] "readable; R, W and X all 0: the entry leads to a table.";
        WRITE "W" [2:2] "writable; without R reserved.";
        EXECUTE "X" [3:3] "executable.";
        USER "U" [4:4] "leaves: user accesses; second-stage accesses are all user accesses. Tables: reserved.";
        GLOBAL "G" [5:5] "belongs to all address spaces.";
        ACCESSED "A" [6:6] "leaves: 0 faults at the first access, or hardware sets it. Tables: reserved.";
        DIRTY "D" [7:7] "leaves: 0 faults at the first write, or hardware sets it. Tables: reserved.";
        RSW "RSW" [9:8] "for software.";
        PPN "PPN" [53:10] "page number of where the entry leads; below a leaf's size 0, or what Svnapot says.";
        PBMT "PBMT" [62:61] "leaves: memory type (Svpbmt).";
        N "N" [63:63] "leaves of 4 KiB entries: 64 KiB of them are alike and PPN ends with 0b1000 (Svnapot).";
    } }
}
