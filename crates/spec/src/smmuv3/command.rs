//! Commands (chapter 4): 16 bytes each, the opcode in bits `[7:0]`.

/// Size of a command in 64-bit words (§4.1).
pub const WORDS: usize = 2;
/// Size of a command in bytes.
pub const BYTES: usize = 16;
/// `Opcode`, bits `[7:0]`: the same in every command (§4.1.6).
pub const OPCODE: crate::Field = crate::Field::new("Opcode", 7, 0);

/// Opcodes (§4.1.1).
pub mod opcode {
    crate::layout::codes! {
        PREFETCH_CONFIG "CMD_PREFETCH_CONFIG" = 0x01 "prefetch a configuration (§4.2.1).";
        PREFETCH_ADDR "CMD_PREFETCH_ADDR" = 0x02 "prefetch a translation (§4.2.2).";
        CFGI_STE "CMD_CFGI_STE" = 0x03 "forget one STE (§4.3.1).";
        CFGI_STE_RANGE "CMD_CFGI_STE_RANGE" = 0x04 "forget 2^(Range+1) STEs; with Range 31 it is CMD_CFGI_ALL (§4.3.2).";
        CFGI_CD "CMD_CFGI_CD" = 0x05 "forget one CD (§4.3.3).";
        CFGI_CD_ALL "CMD_CFGI_CD_ALL" = 0x06 "forget all CDs of a stream (§4.3.4).";
        CFGI_VMS_PIDM "CMD_CFGI_VMS_PIDM" = 0x07 "forget a VMS (§4.3.5).";
        TLBI_NH_ALL "CMD_TLBI_NH_ALL" = 0x10 "NS-EL1: all of a VMID (§4.4.2).";
        TLBI_NH_ASID "CMD_TLBI_NH_ASID" = 0x11 "NS-EL1: an ASID (§4.4.2).";
        TLBI_NH_VA "CMD_TLBI_NH_VA" = 0x12 "NS-EL1: an address of an ASID (§4.4.2).";
        TLBI_NH_VAA "CMD_TLBI_NH_VAA" = 0x13 "NS-EL1: an address of all ASIDs (§4.4.2).";
        TLBI_EL3_ALL "CMD_TLBI_EL3_ALL" = 0x18 "EL3: all (§4.4.2.5).";
        TLBI_EL3_VA "CMD_TLBI_EL3_VA" = 0x1a "EL3: an address (§4.4.2.6).";
        TLBI_EL2_ALL "CMD_TLBI_EL2_ALL" = 0x20 "EL2: all (§4.4.2).";
        TLBI_EL2_ASID "CMD_TLBI_EL2_ASID" = 0x21 "EL2: an ASID (§4.4.2).";
        TLBI_EL2_VA "CMD_TLBI_EL2_VA" = 0x22 "EL2: an address of an ASID (§4.4.2).";
        TLBI_EL2_VAA "CMD_TLBI_EL2_VAA" = 0x23 "EL2: an address of all ASIDs (§4.4.2).";
        TLBI_S12_VMALL "CMD_TLBI_S12_VMALL" = 0x28 "both stages of a VMID (§4.4.3.2).";
        TLBI_S2_IPA "CMD_TLBI_S2_IPA" = 0x2a "stage 2: an address of a VMID (§4.4.3.1).";
        TLBI_NSNH_ALL "CMD_TLBI_NSNH_ALL" = 0x30 "all NS-EL1 translations (§4.4.4.1).";
        ATC_INV "CMD_ATC_INV" = 0x40 "invalidate a device's ATC (§4.5.1).";
        PRI_RESP "CMD_PRI_RESP" = 0x41 "answer page requests (§4.5.2).";
        RESUME "CMD_RESUME" = 0x44 "resume a stalled transaction (§4.7.1).";
        STALL_TERM "CMD_STALL_TERM" = 0x45 "end all stalls of a stream (§4.7.2).";
        SYNC "CMD_SYNC" = 0x46 "wait for all before it (§4.7.3).";
    }
}

/// Value of `CFGI_STE_RANGE.Range` that makes it CMD_CFGI_ALL (§4.3.2).
pub const CFGI_ALL_RANGE: u64 = 31;

/// CMD_PREFETCH_CONFIG and CMD_PREFETCH_ADDR (§4.2).
pub mod prefetch {
    crate::layout::layout! { "CMD_PREFETCH", 2 words {
        OPCODE "Opcode" [7:0] "see [`opcode`](super::opcode).";
        SSV "SSV" [11:11] "SubstreamID is valid.";
        SUBSTREAM_ID "SubstreamID" [31:12] "the substream.";
        STREAM_ID "StreamID" [63:32] "the stream.";
        SIZE "Size" [68:64] "ADDR: log2 of the pages.";
        STRIDE "Stride" [73:69] "ADDR: log2 of the stride in pages.";
        ADDRESS "Addr" [127:76] "ADDR: bits 63:12 of the first address.";
    } }
}

/// CMD_CFGI_STE, CMD_CFGI_STE_RANGE, CMD_CFGI_CD, CMD_CFGI_CD_ALL (§4.3).
pub mod cfgi {
    crate::layout::layout! { "CMD_CFGI", 2 words {
        OPCODE "Opcode" [7:0] "see [`opcode`](super::opcode).";
        SSEC "SSec" [10:10] "the stream is Secure.";
        SUBSTREAM_ID "SubstreamID" [31:12] "CD: the substream.";
        STREAM_ID "StreamID" [63:32] "the (first) stream.";
        LEAF "Leaf" [64:64] "STE and CD: only the entry, not the descriptors above it.";
        RANGE "Range" [68:64] "STE_RANGE: 2^(Range+1) streams.";
    } }
}

/// CMD_TLBI_* (§4.4). With `IDR3.RIL` and `TG` not 0 an address command covers `(NUM + 1) << SCALE` granules.
pub mod tlbi {
    crate::layout::layout! { "CMD_TLBI", 2 words {
        OPCODE "Opcode" [7:0] "see [`opcode`](super::opcode).";
        NUM "NUM" [16:12] "range: number of units minus 1.";
        SCALE "SCALE" [25:20] "range: log2 of granules in a unit.";
        VMID "VMID" [47:32] "the VMID.";
        ASID "ASID" [63:48] "the ASID.";
        LEAF "Leaf" [64:64] "only leaf entries: no table was removed.";
        TTL "TTL" [73:72] "level of the leaf, 0 for unknown; needs TG.";
        TG "TG" [75:74] "granule, see [`tg`]; 0: a single address.";
        ADDRESS "Address" [127:76] "bits 63:12 of the (first) address; S2_IPA: of the IPA.";
    } }

    /// Values of `TG` (§4.4.1.1).
    pub mod tg {
        crate::layout::codes! {
            NONE "No range" = 0 "a single address, TTL is ignored.";
            K4 "4KB" = 1 "4 KiB.";
            K16 "16KB" = 2 "16 KiB.";
            K64 "64KB" = 3 "64 KiB.";
        }
    }
}

/// CMD_ATC_INV (§4.5.1).
pub mod atc_inv {
    crate::layout::layout! { "CMD_ATC_INV", 2 words {
        OPCODE "Opcode" [7:0] "see [`opcode`](super::opcode).";
        GLOBAL "Global" [9:9] "all substreams.";
        SSEC "SSec" [10:10] "the stream is Secure.";
        SSV "SSV" [11:11] "SubstreamID is valid.";
        SUBSTREAM_ID "SubstreamID" [31:12] "the substream.";
        STREAM_ID "StreamID" [63:32] "the stream.";
        SIZE "Size" [69:64] "log2 of 4 KiB pages; 52 for all.";
        ADDRESS "Address" [127:76] "bits 63:12 of the address.";
    } }
}

/// CMD_PRI_RESP (§4.5.2).
pub mod pri_resp {
    crate::layout::layout! { "CMD_PRI_RESP", 2 words {
        OPCODE "Opcode" [7:0] "see [`opcode`](super::opcode).";
        SSEC "SSec" [10:10] "the stream is Secure.";
        SSV "SSV" [11:11] "SubstreamID is valid.";
        SUBSTREAM_ID "SubstreamID" [31:12] "the substream.";
        STREAM_ID "StreamID" [63:32] "the stream.";
        PRG_INDEX "PRGIndex" [72:64] "the request group.";
        RESP "Resp" [77:76] "0 failure, 1 invalid, 2 success.";
    } }
}

/// CMD_RESUME and CMD_STALL_TERM (§4.7.1, §4.7.2).
pub mod resume {
    crate::layout::layout! { "CMD_RESUME", 2 words {
        OPCODE "Opcode" [7:0] "see [`opcode`](super::opcode).";
        SSEC "SSec" [10:10] "the stream is Secure.";
        AC "Ac" [12:12] "1: retry, 0: end.";
        AB "Ab" [13:13] "ended: 1 abort, 0 reads as zero.";
        STREAM_ID "StreamID" [63:32] "the stream.";
        STAG "STAG" [79:64] "the tag of the event.";
    } }
}

/// CMD_SYNC (§4.7.3).
pub mod sync {
    crate::layout::layout! { "CMD_SYNC", 2 words {
        OPCODE "Opcode" [7:0] "see [`opcode`](super::opcode).";
        CS "CS" [13:12] "how completion is signalled, see [`cs`].";
        MSH "MSH" [23:22] "message, shareability.";
        MSI_ATTR "MSIAttr" [27:24] "message, memory type.";
        MSI_DATA "MSIData" [63:32] "message, payload.";
        MSI_ADDRESS "MSIAddress" [119:66] "message, address bits 55:2.";
    } }

    /// Values of `CS` (§4.7.3).
    pub mod cs {
        crate::layout::codes! {
            NONE "SIG_NONE" = 0 "only by the read index.";
            IRQ "SIG_IRQ" = 1 "by an interrupt or a message.";
            SEV "SIG_SEV" = 2 "by an event to the CPUs.";
        }
    }
}
