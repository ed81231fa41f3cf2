//! Structures in memory (chapter 2): the device directory and its contexts.

/// A non-leaf entry of the device directory (2.1.1).
pub mod ddte {
    crate::layout::layout! { "DDTE", 1 words {
        V "V" [0:0] "valid.";
        PPN "PPN" [53:10] "page number of the next directory.";
    } }
}

/// A device context of the extended format; the base format is its first four words (2.1.2, 2.1.3).
pub mod dc {
    crate::layout::layout! { "DC", 8 words {
        V "tc.V" [0:0] "valid; 0: the rest is ignored.";
        EN_ATS "tc.EN_ATS" [1:1] "ATS transactions.";
        EN_PRI "tc.EN_PRI" [2:2] "page requests.";
        T2GPA "tc.T2GPA" [3:3] "ATS returns guest physical addresses.";
        DTF "tc.DTF" [4:4] "faults of translation are not reported.";
        PDTV "tc.PDTV" [5:5] "`fsc` points to a process directory.";
        PRPR "tc.PRPR" [6:6] "page responses carry a PASID.";
        GADE "tc.GADE" [7:7] "hardware sets A and D in the second stage.";
        SADE "tc.SADE" [8:8] "hardware sets A and D in the first stage.";
        DPE "tc.DPE" [9:9] "transactions without process id use process 0.";
        SBE "tc.SBE" [10:10] "process directory and first stage are big endian.";
        SXL "tc.SXL" [11:11] "the first stage is Sv32.";
        IOHGATP_PPN "iohgatp.PPN" [107:64] "page number of the second stage's root, 16 KiB.";
        GSCID "iohgatp.GSCID" [123:108] "tag of the second stage.";
        IOHGATP_MODE "iohgatp.MODE" [127:124] "see [`mode`](super::mode).";
        PSCID "ta.PSCID" [159:140] "tag of the first stage.";
        FSC_PPN "fsc.PPN" [235:192] "page number of the first stage's root, or of the process directory.";
        FSC_MODE "fsc.MODE" [255:252] "see [`mode`](super::mode); with PDTV the levels of the process directory.";
        MSIPTP_PPN "msiptp.PPN" [299:256] "page number of the MSI page table.";
        MSIPTP_MODE "msiptp.MODE" [319:316] "0 off, 1 flat.";
        MSI_ADDR_MASK "msi_addr_mask" [371:320] "bits of a page number that may differ.";
        MSI_ADDR_PATTERN "msi_addr_pattern" [435:384] "the page number of interrupt files.";
    } }

    /// Size in bytes of the base format (2.1.2).
    pub const BASE_BYTES: usize = 32;
}

/// Values of `iohgatp.MODE` (for which they are Sv39x4 and so on) and of `iosatp.MODE` (2.1.3.2, 2.1.3.4).
pub mod mode {
    crate::layout::codes! {
        BARE "Bare" = 0 "no translation.";
        SV39 "Sv39" = 8 "three levels.";
        SV48 "Sv48" = 9 "four levels.";
        SV57 "Sv57" = 10 "five levels.";
    }
}
