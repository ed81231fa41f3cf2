//! Stream table and context descriptor table entries (chapter 5).

/// Level 1 stream table descriptor (§5.1).
pub mod l1std {
    crate::layout::layout! { "L1STD", 1 words {
        SPAN "Span" [4:0] "0: no table; n: a second-level table of 2^(n-1) entries.";
        L2PTR "L2Ptr" [55:6] "address of the second-level table, aligned to its size.";
    } }
}

/// Stream table entry (§5.2).
pub mod ste {
    crate::layout::layout! { "STE", 8 words {
        V "V" [0:0] "valid; 0: C_BAD_STE.";
        CONFIG "Config" [3:1] "what to do, see [`config`].";
        S1FMT "S1Fmt" [5:4] "format of the CD table, see [`s1fmt`].";
        S1_CONTEXT_PTR "S1ContextPtr" [55:6] "address of the CD or of the CD table.";
        S1CDMAX "S1CDMax" [63:59] "log2 of the number of CDs; 0: substreams are off.";
        S1DSS "S1DSS" [65:64] "transactions without a substream, see [`s1dss`].";
        S1CIR "S1CIR" [67:66] "CD fetch, inner cacheability.";
        S1COR "S1COR" [69:68] "CD fetch, outer cacheability.";
        S1CSH "S1CSH" [71:70] "CD fetch, shareability.";
        S2HWU59 "S2HWU59" [72:72] "stage 2 bit 59 is for implementation defined use.";
        S2HWU60 "S2HWU60" [73:73] "the same for bit 60.";
        S2HWU61 "S2HWU61" [74:74] "the same for bit 61.";
        S2HWU62 "S2HWU62" [75:75] "the same for bit 62.";
        DRE "DRE" [76:76] "destructive reads are allowed.";
        CONT "CONT" [80:77] "hint: 2^n entries from here are alike.";
        DCP "DCP" [81:81] "directed cache prefetch is allowed.";
        PPAR "PPAR" [82:82] "PRI auto-responses carry a PASID.";
        MEV "MEV" [83:83] "similar events may be merged.";
        SW_RESERVED "SW_RESERVED" [87:84] "for software.";
        S2FWB "S2FWB" [89:89] "stage 2 forced write-back.";
        S1MPAM "S1MPAM" [90:90] "stage 1 partition ids come from the CD.";
        S1STALLD "S1STALLD" [91:91] "stage 1 may not stall.";
        EATS "EATS" [93:92] "ATS, see [`eats`].";
        STRW "STRW" [95:94] "the translation regime, see [`strw`].";
        MEM_ATTR "MemAttr" [99:96] "memory type override.";
        MTCFG "MTCFG" [100:100] "use MemAttr.";
        ALLOCCFG "ALLOCCFG" [104:101] "allocation hints override.";
        SHCFG "SHCFG" [109:108] "shareability override, see [`shareability`](crate::smmuv3::shareability).";
        NSCFG "NSCFG" [111:110] "NS override, Secure streams only.";
        PRIVCFG "PRIVCFG" [113:112] "privilege override.";
        INSTCFG "INSTCFG" [115:114] "instruction override.";
        S2VMID "S2VMID" [143:128] "VMID of the stream's translations.";
        S2T0SZ "S2T0SZ" [165:160] "64 minus the IPA bits.";
        S2SL0 "S2SL0" [167:166] "start level, see §5.2.";
        S2IR0 "S2IR0" [169:168] "stage 2 walks, inner cacheability.";
        S2OR0 "S2OR0" [171:170] "stage 2 walks, outer cacheability.";
        S2SH0 "S2SH0" [173:172] "stage 2 walks, shareability.";
        S2TG "S2TG" [175:174] "stage 2 granule, see [`granule0`].";
        S2PS "S2PS" [178:176] "stage 2 output size, see [`address_size`](crate::smmuv3::address_size).";
        S2AA64 "S2AA64" [179:179] "stage 2 tables are VMSAv8-64.";
        S2ENDI "S2ENDI" [180:180] "stage 2 tables are big endian.";
        S2AFFD "S2AFFD" [181:181] "a clear access flag is no fault.";
        S2PTW "S2PTW" [182:182] "protect stage 1 walks from device memory.";
        S2HD "S2HD" [183:183] "hardware updates the dirty state.";
        S2HA "S2HA" [184:184] "hardware updates the access flag.";
        S2S "S2S" [185:185] "stall stage 2 faults.";
        S2R "S2R" [186:186] "record stage 2 faults.";
        S2TTB "S2TTB" [247:196] "address bits 55:4 of the stage 2 table.";
    } }

    /// Values of `Config` (§5.2).
    pub mod config {
        crate::layout::codes! {
            ABORT "Abort" = 0 "abort, nothing is recorded.";
            BYPASS "Bypass" = 4 "no translation.";
            S1 "S1 translate" = 5 "stage 1.";
            S2 "S2 translate" = 6 "stage 2.";
            NESTED "S1 and S2 translate" = 7 "both.";
        }
    }

    /// Values of `S1Fmt` (§5.2).
    pub mod s1fmt {
        crate::layout::codes! {
            LINEAR "Linear" = 0 "one array of CDs.";
            TWO_LEVEL_4K "2-level 4KB" = 1 "second-level tables of 4 KiB: 64 CDs.";
            TWO_LEVEL_64K "2-level 64KB" = 2 "second-level tables of 64 KiB: 1024 CDs.";
        }
    }

    /// Values of `S1DSS` (§5.2).
    pub mod s1dss {
        crate::layout::codes! {
            TERMINATE "Terminate" = 0 "abort, F_STREAM_DISABLED.";
            BYPASS "Bypass" = 1 "as if stage 1 were off.";
            SSID0 "Substream 0" = 2 "use CD 0; substream 0 itself is refused.";
        }
    }

    /// Values of `EATS` (§5.2).
    pub mod eats {
        crate::layout::codes! {
            ABORT "Abort" = 0 "ATS requests are refused.";
            TRANSLATE "Full ATS" = 1 "ATS requests are answered.";
            SPLIT_STAGE "Split-stage ATS" = 2 "translated transactions still pass stage 2.";
            DPT "DPT" = 3 "translated transactions are checked against the DPT.";
        }
    }

    /// Values of `STRW` for Non-secure streams (§5.2).
    pub mod strw {
        crate::layout::codes! {
            NS_EL1 "NS-EL1" = 0 "EL1: TLB entries carry ASID and VMID.";
            EL2 "EL2 or EL2-E2H" = 2 "EL2: as CR2.E2H says.";
        }
    }

    /// Values of `S2TG` and `CD.TG0` (§5.2, §5.4).
    pub mod granule0 {
        crate::layout::codes! {
            K4 "4KB" = 0 "4 KiB.";
            K64 "64KB" = 1 "64 KiB.";
            K16 "16KB" = 2 "16 KiB.";
        }
    }
}

/// Level 1 context descriptor (§5.3).
pub mod l1cd {
    crate::layout::layout! { "L1CD", 1 words {
        V "V" [0:0] "L2Ptr is valid.";
        L2PTR "L2Ptr" [55:12] "address of the second-level table.";
    } }
}

/// Context descriptor (§5.4).
pub mod cd {
    crate::layout::layout! { "CD", 8 words {
        T0SZ "T0SZ" [5:0] "64 minus the bits of the TTB0 range.";
        TG0 "TG0" [7:6] "granule of TTB0, see [`granule0`](super::ste::granule0).";
        IR0 "IR0" [9:8] "TTB0 walks, inner cacheability.";
        OR0 "OR0" [11:10] "TTB0 walks, outer cacheability.";
        SH0 "SH0" [13:12] "TTB0 walks, shareability.";
        EPD0 "EPD0" [14:14] "no walks of TTB0: translation fault.";
        ENDI "ENDI" [15:15] "tables are big endian.";
        T1SZ "T1SZ" [21:16] "64 minus the bits of the TTB1 range.";
        TG1 "TG1" [23:22] "granule of TTB1: 1 16 KiB, 2 4 KiB, 3 64 KiB.";
        IR1 "IR1" [25:24] "TTB1 walks, inner cacheability.";
        OR1 "OR1" [27:26] "TTB1 walks, outer cacheability.";
        SH1 "SH1" [29:28] "TTB1 walks, shareability.";
        EPD1 "EPD1" [30:30] "no walks of TTB1: translation fault.";
        V "V" [31:31] "valid; 0: C_BAD_CD.";
        IPS "IPS" [34:32] "output size, see [`address_size`](crate::smmuv3::address_size).";
        AFFD "AFFD" [35:35] "a clear access flag is no fault.";
        WXN "WXN" [36:36] "writable implies no execute.";
        UWXN "UWXN" [37:37] "writable by EL0 implies no privileged execute.";
        TBI0 "TBI0" [38:38] "ignore the top byte for TTB0.";
        TBI1 "TBI1" [39:39] "ignore the top byte for TTB1.";
        PAN "PAN" [40:40] "no privileged access to EL0 pages.";
        AA64 "AA64" [41:41] "tables are VMSAv8-64.";
        HD "HD" [42:42] "hardware updates the dirty state.";
        HA "HA" [43:43] "hardware updates the access flag.";
        S "S" [44:44] "stall on a fault.";
        R "R" [45:45] "record faults.";
        A "A" [46:46] "a terminated transaction is an abort, otherwise reads as zero.";
        ASET "ASET" [47:47] "the ASID is not shared with the CPU's.";
        ASID "ASID" [63:48] "tag of the translations.";
        NSCFG0 "NSCFG0" [64:64] "NS override, Secure streams only.";
        HAD0 "HAD0" [65:65] "no hierarchical attributes in TTB0.";
        E0PD0 "E0PD0" [66:66] "no EL0 access to TTB0.";
        TTB0 "TTB0" [119:68] "address bits 55:4 of table 0.";
        NSCFG1 "NSCFG1" [128:128] "NS override, Secure streams only.";
        HAD1 "HAD1" [129:129] "no hierarchical attributes in TTB1.";
        E0PD1 "E0PD1" [130:130] "no EL0 access to TTB1.";
        TTB1 "TTB1" [183:132] "address bits 55:4 of table 1.";
        MAIR0 "MAIR0" [223:192] "memory attributes 0 to 3.";
        MAIR1 "MAIR1" [255:224] "memory attributes 4 to 7.";
        AMAIR0 "AMAIR0" [287:256] "implementation defined attributes.";
        AMAIR1 "AMAIR1" [319:288] "implementation defined attributes.";
    } }
}
