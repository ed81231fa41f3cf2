//! One translation context bank.

use crate::layout::registers;

registers! { prefix "SMMU_";
    sctlr SCTLR "CBn_SCTLR" 0x0 32 "control." {
        M "M" [0:0] "translate; 0: pass unchanged.";
        TRE "TRE" [1:1] "TEX remap, short descriptors.";
        AFE "AFE" [2:2] "access flag, short descriptors.";
        AFFD "AFFD" [3:3] "a clear access flag is no fault.";
        E "E" [4:4] "big endian tables.";
        CFRE "CFRE" [5:5] "a context fault is answered with an abort.";
        CFIE "CFIE" [6:6] "a context fault raises the interrupt.";
        CFCFG "CFCFG" [7:7] "a context fault stalls; 0: it terminates.";
        HUPCF "HUPCF" [8:8] "accesses go on while a fault is outstanding.";
        WXN "WXN" [9:9] "writable is not executable.";
        UWXN "UWXN" [10:10] "writable by the unprivileged is not executable.";
        ASIDPNE "ASIDPNE" [12:12] "ASIDs are a private name space.";
        PTW "PTW" [13:13] "stage 2: stage 1 walks of device memory fault.";
        MEM_ATTR "MemAttr" [19:16] "memory attributes while `M` is 0.";
        MTCFG "MTCFG" [20:20] "use `MemAttr`.";
        SHCFG "SHCFG" [23:22] "shareability while `M` is 0.";
        RACFG "RACFG" [25:24] "read-allocate hint while `M` is 0.";
        WACFG "WACFG" [27:26] "write-allocate hint while `M` is 0.";
    }
    actlr ACTLR "CBn_ACTLR" 0x4 32 "auxiliary control, implementation defined." {}
    resume RESUME "CBn_RESUME" 0x8 32 "what becomes of a stalled access." {
        TNR "TnR" [0:0] "terminate; 0: retry.";
    }
    tcr2 TCR2 "CBn_TCR2" 0x10 32 "translation control, stage 1." {
        PASIZE "PASize" [2:0] "output size, see [`address_size`](crate::smmuv2::address_size).";
        AS "AS" [4:4] "ASIDs of 16 bits.";
        TBI0 "TBI0" [5:5] "TTBR0: the top byte is ignored.";
        TBI1 "TBI1" [6:6] "TTBR1: the top byte is ignored.";
        SEP "SEP" [17:15] "sign extension, see [`sep`](crate::smmuv2::sep).";
    }
    ttbr0 TTBR0 "CBn_TTBR0" 0x20 64 "table of the lower range; stage 2: the table." {
        ADDRESS "ADDRESS" [47:0] "where it is.";
        ASID "ASID" [63:48] "tag, stage 1 with 64-bit registers.";
    }
    ttbr1 TTBR1 "CBn_TTBR1" 0x28 64 "table of the upper range." {
        ADDRESS "ADDRESS" [47:0] "where it is.";
        ASID "ASID" [63:48] "tag.";
    }
    tcr TCR "CBn_TCR" 0x30 32 "translation control, stage 1." {
        T0SZ "T0SZ" [5:0] "lower range: 2^(64 - this) addresses; AArch32: 2^(32 - this), bits 2:0.";
        EPD0 "EPD0" [7:7] "TTBR0 is not walked.";
        IRGN0 "IRGN0" [9:8] "inner cacheability of walks.";
        ORGN0 "ORGN0" [11:10] "outer cacheability of walks.";
        SH0 "SH0" [13:12] "shareability of walks.";
        TG0 "TG0" [15:14] "granule, see [`granule0`](crate::smmuv2::granule0).";
        T1SZ "T1SZ" [21:16] "upper range.";
        A1 "A1" [22:22] "the ASID is TTBR1's.";
        EPD1 "EPD1" [23:23] "TTBR1 is not walked.";
        IRGN1 "IRGN1" [25:24] "inner cacheability of walks.";
        ORGN1 "ORGN1" [27:26] "outer cacheability of walks.";
        SH1 "SH1" [29:28] "shareability of walks.";
        TG1 "TG1" [31:30] "granule: 1 is 16 KiB, 2 is 4, 3 is 64.";
    }
    contextidr CONTEXTIDR "CBn_CONTEXTIDR" 0x34 32 "tag, short descriptors." {
        ASID "ASID" [7:0] "the ASID.";
        PROCID "PROCID" [31:8] "process.";
    }
    mair0 MAIR0 "CBn_PRRR_MAIR0" 0x38 32 "memory attributes 0 to 3." {}
    mair1 MAIR1 "CBn_NMRR_MAIR1" 0x3c 32 "memory attributes 4 to 7." {}
    par PAR "CBn_PAR" 0x50 64 "result of an address translation operation." {
        F "F" [0:0] "it failed.";
    }
    fsr FSR "CBn_FSR" 0x58 32 "context faults; writing 1 clears." {
        TF "TF" [1:1] "translation.";
        AFF "AFF" [2:2] "access flag.";
        PF "PF" [3:3] "permission.";
        EF "EF" [4:4] "external.";
        TLBMCF "TLBMCF" [5:5] "two TLB entries match.";
        TLBLKF "TLBLKF" [6:6] "TLB lock.";
        ASF "ASF" [7:7] "address size.";
        UUT "UUT" [8:8] "unsupported upstream transaction.";
        FORMAT "FORMAT" [10:9] "of the table: 0 short, 1 long, 2 AArch64.";
        SS "SS" [30:30] "an access is stalled.";
        MULTI "MULTI" [31:31] "another fault came while this register was not 0.";
    }
    fsrrestore FSRRESTORE "CBn_FSRRESTORE" 0x5c 32 "writing sets bits of `FSR`." {}
    far FAR "CBn_FAR" 0x60 64 "address of a context fault." {
        FADDR "FADDR" [63:0] "the input address.";
    }
    fsynr0 FSYNR0 "CBn_FSYNR0" 0x68 32 "what the access was like." {
        PLVL "PLVL" [1:0] "level of the table entry.";
        NESTED "NESTED" [2:2] "of a nested context.";
        S1PTWF "S1PTWF" [3:3] "stage 2 refused a walk of stage 1.";
        WNR "WNR" [4:4] "a write.";
        PNU "PNU" [5:5] "privileged.";
        IND "IND" [6:6] "an instruction fetch.";
        NSSTATE "NSSTATE" [7:7] "of a Non-secure device.";
        NSATTR "NSATTR" [8:8] "with the Non-secure attribute.";
        ATOF "ATOF" [9:9] "of an address translation operation.";
        PTWF "PTWF" [10:10] "memory refused a walk.";
        AFR "AFR" [11:11] "recorded asynchronously.";
        S1CBNDX "S1CBNDX" [23:16] "the stage 1 bank of a nested access.";
    }
    fsynr1 FSYNR1 "CBn_FSYNR1" 0x6c 32 "implementation defined." {}
    ipafar IPAFAR "CBn_IPAFAR" 0x70 64 "intermediate address of a stage 2 fault." {
        IPAFADDR "IPAFADDR" [63:0] "the address.";
    }
    tlbiva TLBIVA "CBn_TLBIVA" 0x600 64 "forget an address of one ASID, tables on the way included." {
        ADDRESS "Address" [43:0] "address bits 55:12.";
        ASID "ASID" [63:48] "the ASID.";
    }
    tlbivaa TLBIVAA "CBn_TLBIVAA" 0x608 64 "forget an address of every ASID." {
        ADDRESS "Address" [43:0] "address bits 55:12.";
    }
    tlbiasid TLBIASID "CBn_TLBIASID" 0x610 32 "forget one ASID." {
        ASID "ASID" [15:0] "the ASID.";
    }
    tlbiall TLBIALL "CBn_TLBIALL" 0x618 32 "forget everything of the bank's VMID." {}
    tlbival TLBIVAL "CBn_TLBIVAL" 0x620 64 "as `TLBIVA`, last level only." {
        ADDRESS "Address" [43:0] "address bits 55:12.";
        ASID "ASID" [63:48] "the ASID.";
    }
    tlbivaal TLBIVAAL "CBn_TLBIVAAL" 0x628 64 "as `TLBIVAA`, last level only." {
        ADDRESS "Address" [43:0] "address bits 55:12.";
    }
    tlbiipas2 TLBIIPAS2 "CBn_TLBIIPAS2" 0x630 64 "stage 2: forget an intermediate address, tables on the way included." {
        ADDRESS "Address" [35:0] "address bits 47:12.";
    }
    tlbiipas2l TLBIIPAS2L "CBn_TLBIIPAS2L" 0x638 64 "as `TLBIIPAS2`, last level only." {
        ADDRESS "Address" [35:0] "address bits 47:12.";
    }
    tlbsync TLBSYNC "CBn_TLBSYNC" 0x7f0 32 "begin to wait for the bank's TLB maintenance before." {}
    tlbstatus TLBSTATUS "CBn_TLBSTATUS" 0x7f4 32 "how that wait stands." {
        SACTIVE "SACTIVE" [0:0] "not yet complete.";
    }
}

/// Fields of `CBn_TCR` of a stage 2 bank.
pub mod tcr_stage2 {
    use crate::Field;

    /// `T0SZ`, bits `[5:0]`: 2^(64 - this) intermediate addresses.
    pub const T0SZ: Field = Field::new("T0SZ", 5, 0);
    /// `SL0`, bits `[7:6]`: level of the first table; 4 KiB granule: 0 is level 2, 1 is level 1, 2 is level 0; other granules: 0 is level 3, 1 is level 2, 2 is level 1.
    pub const SL0: Field = Field::new("SL0", 7, 6);
    /// `IRGN0`, bits `[9:8]`: inner cacheability of walks.
    pub const IRGN0: Field = Field::new("IRGN0", 9, 8);
    /// `ORGN0`, bits `[11:10]`: outer cacheability of walks.
    pub const ORGN0: Field = Field::new("ORGN0", 11, 10);
    /// `SH0`, bits `[13:12]`: shareability of walks.
    pub const SH0: Field = Field::new("SH0", 13, 12);
    /// `TG0`, bits `[15:14]`: granule.
    pub const TG0: Field = Field::new("TG0", 15, 14);
    /// `PASize`, bits `[18:16]`: output size.
    pub const PASIZE: Field = Field::new("PASize", 18, 16);
    /// All of them.
    pub const FIELDS: &[Field] = &[T0SZ, SL0, IRGN0, ORGN0, SH0, TG0, PASIZE];
}

/// `CBn_TCR.EAE`, bit 31 with AArch32 tables: long descriptors.
pub const TCR_EAE: crate::Field = crate::Field::new("EAE", 31, 31);
