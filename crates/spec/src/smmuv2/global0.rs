//! Global address space 0: configuration, identification, global faults, TLB maintenance, stream mapping.

use crate::layout::registers;

/// Bytes between `SMR0` and `SMR1`, and between `S2CR0` and `S2CR1`.
pub const GROUP_STRIDE: usize = 4;

registers! { prefix "SMMU_";
    scr0 SCR0 "sCR0" 0x0 32 "configuration." {
        CLIENTPD "CLIENTPD" [0:0] "client port disable: everything passes untranslated.";
        GFRE "GFRE" [1:1] "a global fault is answered with an abort.";
        GFIE "GFIE" [2:2] "a global fault raises the interrupt.";
        EXIDENABLE "EXIDENABLE" [3:3] "stream ids of 16 bits.";
        GCFGFRE "GCFGFRE" [4:4] "a configuration fault is answered with an abort.";
        GCFGFIE "GCFGFIE" [5:5] "a configuration fault raises the interrupt.";
        TRANSIENTCFG "TRANSIENTCFG" [7:6] "transient allocate, of bypassing transactions.";
        STALLD "STALLD" [8:8] "no context may stall.";
        GSE "GSE" [9:9] "global stall.";
        USFCFG "USFCFG" [10:10] "a stream that matches nothing is a fault; 0: it passes.";
        VMIDPNE "VMIDPNE" [11:11] "VMIDs are a private name space.";
        PTM "PTM" [12:12] "broadcast TLB maintenance is not taken part in.";
        FB "FB" [13:13] "broadcast of cache maintenance is forced.";
        BSU "BSU" [15:14] "least shareability of barriers.";
        MEM_ATTR "MemAttr" [19:16] "memory attributes of bypassing transactions.";
        MTCFG "MTCFG" [20:20] "use `MemAttr`.";
        SHCFG "SHCFG" [23:22] "shareability of bypassing transactions.";
        RACFG "RACFG" [25:24] "read-allocate hint of bypassing transactions.";
        WACFG "WACFG" [27:26] "write-allocate hint of bypassing transactions.";
        VMID16EN "VMID16EN" [31:31] "VMIDs of 16 bits.";
    }
    scr1 SCR1 "sCR1" 0x4 32 "what Secure software keeps. Non-secure: reads as zero, ignores writes." {
        NSNUMCBO "NSNUMCBO" [7:0] "banks that Non-secure software sees.";
        NSNUMSMRGO "NSNUMSMRGO" [15:8] "stream mapping groups that it sees.";
        NSNUMIRPTO "NSNUMIRPTO" [23:16] "context interrupts that it sees.";
    }
    sacr SACR "sACR" 0x10 32 "auxiliary configuration, implementation defined." {}
    idr0 IDR0 "IDR0" 0x20 32 "identification: stages, formats, groups." {
        NUMSMRG "NUMSMRG" [7:0] "stream mapping groups.";
        EXIDS "EXIDS" [8:8] "stream ids of 16 bits can be enabled.";
        NUMSIDB "NUMSIDB" [12:9] "bits of a stream id.";
        BTM "BTM" [13:13] "broadcast TLB maintenance.";
        CTTW "CTTW" [14:14] "table walks are coherent.";
        NUMIRPT "NUMIRPT" [23:16] "context interrupts.";
        PTFS "PTFS" [25:24] "AArch32 formats: 0 both, 1 long descriptors only, 2 none.";
        ATOSNS "ATOSNS" [26:26] "address translation operations are not there.";
        SMS "SMS" [27:27] "streams are matched; 0: they are indexed.";
        NTS "NTS" [28:28] "stage 1 followed by stage 2.";
        S2TS "S2TS" [29:29] "stage 2.";
        S1TS "S1TS" [30:30] "stage 1.";
        SES "SES" [31:31] "security extensions. Non-secure: reads as zero.";
    }
    idr1 IDR1 "IDR1" 0x24 32 "identification: banks, pages." {
        NUMCB "NUMCB" [7:0] "context banks.";
        NUMS2CB "NUMS2CB" [23:16] "context banks that can do stage 2 only, the first ones.";
        NUMPAGENDXB "NUMPAGENDXB" [30:28] "each half of the block has 2^(this + 1) pages.";
        PAGESIZE "PAGESIZE" [31:31] "pages of 64 KiB, otherwise 4.";
    }
    idr2 IDR2 "IDR2" 0x28 32 "identification: address sizes, AArch64 granules." {
        IAS "IAS" [3:0] "intermediate address size, see [`address_size`](crate::smmuv2::address_size).";
        OAS "OAS" [7:4] "output address size.";
        UBS "UBS" [11:8] "upstream bus size: that of an address that a device emits; 15: 49 bits.";
        PTFSV8_4KB "PTFSv8_4kB" [12:12] "AArch64 tables with 4 KiB granule.";
        PTFSV8_16KB "PTFSv8_16kB" [13:13] "AArch64 tables with 16 KiB granule.";
        PTFSV8_64KB "PTFSv8_64kB" [14:14] "AArch64 tables with 64 KiB granule.";
        VMID16S "VMID16S" [15:15] "VMIDs of 16 bits can be enabled.";
    }
    idr7 IDR7 "IDR7" 0x3c 32 "identification: implementation revision." {
        MINOR "MINOR" [3:0] "minor part.";
        MAJOR "MAJOR" [7:4] "major part.";
    }
    sgfar SGFAR "sGFAR" 0x40 64 "address of a global fault." {
        FADDR "FADDR" [63:0] "the input address.";
    }
    sgfsr SGFSR "sGFSR" 0x48 32 "global faults; writing 1 clears." {
        ICF "ICF" [0:0] "invalid context: the group says fault, or names no bank.";
        USF "USF" [1:1] "unidentified stream.";
        SMCF "SMCF" [2:2] "a stream matches several groups.";
        UCBF "UCBF" [3:3] "unimplemented context bank.";
        UCIF "UCIF" [4:4] "unimplemented context interrupt.";
        CAF "CAF" [5:5] "configuration access.";
        EF "EF" [6:6] "external abort.";
        PF "PF" [7:7] "permission.";
        UUT "UUT" [8:8] "unsupported upstream transaction.";
        MULTI "MULTI" [31:31] "another fault came while this register was not 0.";
    }
    sgfsrrestore SGFSRRESTORE "sGFSRRESTORE" 0x4c 32 "writing sets bits of `sGFSR`." {}
    sgfsynr0 SGFSYNR0 "sGFSYNR0" 0x50 32 "what the access was like." {
        NESTED "Nested" [0:0] "of a nested context.";
        WNR "WNR" [1:1] "a write.";
        PNU "PNU" [2:2] "privileged.";
        IND "IND" [3:3] "an instruction fetch.";
        NSSTATE "NSSTATE" [4:4] "of a Non-secure device.";
        NSATTR "NSATTR" [5:5] "with the Non-secure attribute.";
    }
    sgfsynr1 SGFSYNR1 "sGFSYNR1" 0x54 32 "whose access it was." {
        STREAM_ID "StreamID" [15:0] "the stream.";
    }
    sgfsynr2 SGFSYNR2 "sGFSYNR2" 0x58 32 "implementation defined." {}
    stlbiall STLBIALL "STLBIALL" 0x60 32 "forget everything that is Secure. Non-secure: ignored." {}
    tlbivmid TLBIVMID "TLBIVMID" 0x64 32 "forget what is Non-secure and has that VMID, hypervisor's excepted." {
        VMID "VMID" [15:0] "the VMID; 8 bits without `sCR0.VMID16EN`.";
    }
    tlbiallnsnh TLBIALLNSNH "TLBIALLNSNH" 0x68 32 "forget what is Non-secure and not the hypervisor's." {}
    tlbiallh TLBIALLH "TLBIALLH" 0x6c 32 "forget what is the hypervisor's." {}
    stlbgsync STLBGSYNC "sTLBGSYNC" 0x70 32 "begin to wait for the TLB maintenance before." {}
    stlbgstatus STLBGSTATUS "sTLBGSTATUS" 0x74 32 "how that wait stands." {
        GSACTIVE "GSACTIVE" [0:0] "not yet complete.";
    }
    smr SMR "SMR0" 0x800 32 "which stream ids belong to group 0; group n: 4n higher." {
        ID "ID" [14:0] "the id.";
        MASK "MASK" [30:16] "bits of the id that do not matter.";
        VALID "VALID" [31:31] "takes part in matching.";
    }
    s2cr S2CR "S2CR0" 0xc00 32 "where group 0 goes; group n: 4n higher." {
        CBNDX "CBNDX" [7:0] "the bank.";
        SHCFG "SHCFG" [9:8] "shareability.";
        EXIDVALID "EXIDVALID" [10:10] "with `sCR0.EXIDENABLE`: takes part in matching.";
        MTCFG "MTCFG" [11:11] "use `MemAttr`.";
        MEM_ATTR "MemAttr" [15:12] "memory attributes.";
        TYPE "TYPE" [17:16] "see [`s2cr_type`](crate::smmuv2::s2cr_type).";
        NSCFG "NSCFG" [19:18] "Secure software only.";
        RACFG "RACFG" [21:20] "read-allocate hint.";
        WACFG "WACFG" [23:22] "write-allocate hint.";
        PRIVCFG "PRIVCFG" [25:24] "privilege.";
        INSTCFG "INSTCFG" [27:26] "instruction or data.";
        TRANSIENTCFG "TRANSIENTCFG" [29:28] "transient allocate.";
    }
}

/// Fields of `SMR` while `sCR0.EXIDENABLE` is set; whether the entry takes part then stands in [`s2cr::EXIDVALID`].
pub mod smr_extended {
    use crate::Field;

    /// `ID`, bits `[15:0]`: the id.
    pub const ID: Field = Field::new("ID", 15, 0);
    /// `MASK`, bits `[31:16]`: bits of the id that do not matter.
    pub const MASK: Field = Field::new("MASK", 31, 16);
}
