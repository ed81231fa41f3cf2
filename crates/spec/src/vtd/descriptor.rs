//! Descriptors of the invalidation queue (6.5.2): 16 bytes each, or 32 where `IQA.DW` is set, of which the second half is reserved in all that are here.

/// Size of a descriptor in 64-bit words.
pub const WORDS: usize = 2;
/// Type, the same in every descriptor: bits `[3:0]`, and above them `[11:9]`, which are 0 in all that are here.
pub const TYPE: crate::Field = crate::Field::new("Type", 3, 0);

/// Types (6.5.2).
pub mod kind {
    crate::layout::codes! {
        CONTEXT "cc_inv_dsc" = 1 "forget context entries (6.5.2.1).";
        IOTLB "iotlb_inv_dsc" = 2 "forget translations (6.5.2.3).";
        DEVICE_TLB "dev_tlb_inv_dsc" = 3 "have a device forget (6.5.2.5).";
        INTERRUPT "iec_inv_dsc" = 4 "forget interrupt entries (6.5.2.7).";
        WAIT "inv_wait_dsc" = 5 "wait for all before it (6.5.2.8).";
        PASID_IOTLB "p_iotlb_inv_dsc" = 6 "forget translations of a first stage (6.5.2.4).";
        PASID_CACHE "pc_inv_dsc" = 7 "forget PASID entries (6.5.2.2).";
    }
}

/// Granularities of context entries (6.5.2.1).
pub mod context_granularity {
    crate::layout::codes! {
        GLOBAL "Global" = 1 "all.";
        DOMAIN "Domain-selective" = 2 "those with the DID.";
        DEVICE "Device-selective" = 3 "that of the SID, with the DID.";
    }
}

/// Granularities of translations (6.5.2.3).
pub mod iotlb_granularity {
    crate::layout::codes! {
        GLOBAL "Global" = 1 "all.";
        DOMAIN "Domain-selective" = 2 "those of the DID.";
        PAGE "Page-selective-within-Domain" = 3 "those of the DID at ADDR.";
    }
}

/// Granularities of a first stage's translations (6.5.2.4).
pub mod pasid_iotlb_granularity {
    crate::layout::codes! {
        PASID "PASID-selective" = 2 "all of the DID and PASID.";
        PAGE "Page-selective-within-PASID" = 3 "those at ADDR.";
    }
}

/// Granularities of PASID entries (6.5.2.2).
pub mod pasid_cache_granularity {
    crate::layout::codes! {
        DOMAIN "Domain-selective" = 0 "those of the DID.";
        PASID "PASID-selective-within-Domain" = 1 "those of the DID and PASID.";
        GLOBAL "Global" = 3 "all.";
    }
}

/// `cc_inv_dsc` (6.5.2.1).
pub mod context {
    crate::layout::layout! { "cc_inv_dsc", 2 words {
        TYPE "Type" [3:0] "1.";
        G "G" [5:4] "see [`context_granularity`](super::context_granularity).";
        DID "DID" [31:16] "domain id that the entry had.";
        SID "SID" [47:32] "source id.";
        FM "FM" [49:48] "function bits that do not count.";
    } }
}

/// `pc_inv_dsc` (6.5.2.2).
pub mod pasid_cache {
    crate::layout::layout! { "pc_inv_dsc", 2 words {
        TYPE "Type" [3:0] "7.";
        G "G" [5:4] "see [`pasid_cache_granularity`](super::pasid_cache_granularity).";
        DID "DID" [31:16] "domain id that the entry had.";
        PASID "PASID" [51:32] "the PASID.";
    } }
}

/// `iotlb_inv_dsc` (6.5.2.3).
pub mod iotlb {
    crate::layout::layout! { "iotlb_inv_dsc", 2 words {
        TYPE "Type" [3:0] "2.";
        G "G" [5:4] "see [`iotlb_granularity`](super::iotlb_granularity).";
        DW "DW" [6:6] "drain writes.";
        DR "DR" [7:7] "drain reads.";
        DID "DID" [31:16] "domain id.";
        AM "AM" [69:64] "log2 of the pages of 4 KiB: 9 for a leaf of 2 MiB, 18 for 1 GiB.";
        IH "IH" [70:70] "tables on the way have not changed.";
        ADDR "ADDR" [127:76] "bits 63:12 of the address.";
    } }
}

/// `p_iotlb_inv_dsc` (6.5.2.4).
pub mod pasid_iotlb {
    crate::layout::layout! { "p_iotlb_inv_dsc", 2 words {
        TYPE "Type" [3:0] "6.";
        G "G" [5:4] "see [`pasid_iotlb_granularity`](super::pasid_iotlb_granularity).";
        DID "DID" [31:16] "domain id.";
        PASID "PASID" [51:32] "the PASID.";
        AM "AM" [69:64] "log2 of the pages of 4 KiB.";
        IH "IH" [70:70] "tables on the way have not changed.";
        ADDR "ADDR" [127:76] "bits 63:12 of the address.";
    } }
}

/// `inv_wait_dsc` (6.5.2.8).
pub mod wait {
    crate::layout::layout! { "inv_wait_dsc", 2 words {
        TYPE "Type" [3:0] "5.";
        IF "IF" [4:4] "an event is raised on completion.";
        SW "SW" [5:5] "DATA is stored at ADDR on completion.";
        FN "FN" [6:6] "nothing behind it begins before it is over.";
        PD "PD" [7:7] "page requests are drained.";
        DATA "DATA" [63:32] "what is stored.";
        ADDR "ADDR" [127:66] "bits 63:2 of where.";
    } }
}
