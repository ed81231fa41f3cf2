//! Event records (chapter 7): 32 bytes each, the number in bits `[7:0]`.

crate::layout::layout! { "EVENT", 4 words {
    TYPE "Type" [7:0] "see [`number`] (§7.3).";
    SSV "SSV" [11:11] "SubstreamID is valid.";
    SUBSTREAM_ID "SubstreamID" [31:12] "the substream.";
    STREAM_ID "StreamID" [63:32] "the stream.";
    STAG "STAG" [79:64] "tag of a stalled transaction; F_UUT, F_WALK_EABT: implementation defined reason.";
    STALL "Stall" [95:95] "the transaction is stalled.";
    PNU "PnU" [97:97] "privileged.";
    IND "InD" [98:98] "an instruction fetch.";
    RNW "RnW" [99:99] "a read.";
    NSIPA "NSIPA" [100:100] "IPA space of a Secure stream.";
    S2 "S2" [103:103] "stage 2 refused.";
    CLASS "Class" [105:104] "what was being accessed, see [`class`].";
    INPUT_ADDR "InputAddr" [191:128] "the address as the device sent it.";
    IPA "IPA" [247:204] "bits 55:12 of the intermediate address; F_*_FETCH, F_WALK_EABT: of the address fetched.";
} }

/// Values of `Class` (§7.3).
pub mod class {
    crate::layout::codes! {
        CD "CD" = 0 "the fetch of a CD, by stage 2.";
        TT "TTD" = 1 "a stage 1 walk, by stage 2.";
        IN "IN" = 2 "the transaction itself.";
    }
}

/// Event numbers (§7.3).
pub mod number {
    crate::layout::codes! {
        F_UUT "F_UUT" = 0x01 "unsupported upstream transaction (§7.3.2).";
        C_BAD_STREAMID "C_BAD_STREAMID" = 0x02 "beyond the stream table (§7.3.3).";
        F_STE_FETCH "F_STE_FETCH" = 0x03 "external abort on an STE (§7.3.4).";
        C_BAD_STE "C_BAD_STE" = 0x04 "invalid or illegal STE (§7.3.5).";
        F_BAD_ATS_TREQ "F_BAD_ATS_TREQ" = 0x05 "ATS request that is not allowed (§7.3.6).";
        F_STREAM_DISABLED "F_STREAM_DISABLED" = 0x06 "no substream given, and S1DSS terminates (§7.3.7).";
        F_TRANSL_FORBIDDEN "F_TRANSL_FORBIDDEN" = 0x07 "translated transaction that is not allowed (§7.3.8).";
        C_BAD_SUBSTREAMID "C_BAD_SUBSTREAMID" = 0x08 "beyond the CD table (§7.3.9).";
        F_CD_FETCH "F_CD_FETCH" = 0x09 "external abort on a CD (§7.3.10).";
        C_BAD_CD "C_BAD_CD" = 0x0a "invalid or illegal CD (§7.3.11).";
        F_WALK_EABT "F_WALK_EABT" = 0x0b "external abort on a table (§7.3.12).";
        F_TRANSLATION "F_TRANSLATION" = 0x10 "not mapped (§7.3.13).";
        F_ADDR_SIZE "F_ADDR_SIZE" = 0x11 "output address too wide (§7.3.14).";
        F_ACCESS "F_ACCESS" = 0x12 "access flag clear (§7.3.15).";
        F_PERMISSION "F_PERMISSION" = 0x13 "not allowed (§7.3.16).";
        F_TLB_CONFLICT "F_TLB_CONFLICT" = 0x20 "two TLB entries match (§7.3.17).";
        F_CFG_CONFLICT "F_CFG_CONFLICT" = 0x21 "two cached configurations match (§7.3.18).";
        E_PAGE_REQUEST "E_PAGE_REQUEST" = 0x24 "speculative page request hint (§7.3.19).";
        F_VMS_FETCH "F_VMS_FETCH" = 0x25 "external abort on a VMS (§7.3.20).";
    }
}
