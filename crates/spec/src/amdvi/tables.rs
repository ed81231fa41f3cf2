//! The device table (2.2.2).

/// Device table entry (2.2.2.1).
pub mod dte {
    crate::layout::layout! { "DTE", 4 words {
        V "V" [0:0] "bits 127:1 count; 0: everything passes unchanged.";
        TV "TV" [1:1] "the page table counts.";
        HAD "HAD" [8:7] "hardware sets accessed and dirty flags.";
        MODE "Mode" [11:9] "levels of the page table; 0: addresses pass as IR and IW permit.";
        ROOT "Page Table Root Pointer" [51:12] "page number.";
        PPR "PPR" [52:52] "page requests.";
        GPRP "GPRP" [53:53] "their answers have a PASID.";
        GIOV "GIoV" [54:54] "guest tables without PASID.";
        GV "GV" [55:55] "guest tables.";
        GLX "GLX" [57:56] "levels of the guest CR3 table.";
        GCR3_LO "GCR3 TRP[14:12]" [60:58] "where that is.";
        IR "IR" [61:61] "the device may read.";
        IW "IW" [62:62] "the device may write.";
        DOMAIN "DomainID" [79:64] "tag of cached translations.";
        GCR3_MID "GCR3 TRP[30:15]" [95:80] "more of the guest CR3 table's place.";
        IOTLB "I" [96:96] "the device may ask for translations (ATS).";
        SE "SE" [97:97] "no further event after the first page fault.";
        SA "SA" [98:98] "no event for page faults.";
        IO_CTL "IoCtl" [100:99] "port I/O: 0 aborts.";
        CACHE "Cache" [101:101] "hint: keep its entries out of the IOTLB.";
        SD "SD" [102:102] "no snooping for its own walks.";
        EX "EX" [103:103] "the exclusion range holds for the device.";
        SYS_MGT "SysMgt" [105:104] "system management messages: 0 blocks.";
        GCR3_HI "GCR3 TRP[51:31]" [127:107] "the rest of the guest CR3 table's place.";
        IV "IV" [128:128] "bits 191:129 count; 0: interrupts pass unchanged.";
        INT_TAB_LEN "IntTabLen" [132:129] "log2 of the interrupt table's entries.";
        IG "IG" [133:133] "no event for unmapped interrupts.";
        INT_ROOT "Interrupt Table Root Pointer" [179:134] "where the interrupt table is, in units of 64 bytes.";
        INIT_PASS "InitPass" [184:184] "INIT interrupts pass.";
        EINT_PASS "EIntPass" [185:185] "external interrupts pass.";
        NMI_PASS "NMIPass" [186:186] "NMIs pass.";
        INT_CTL "IntCtl" [189:188] "fixed interrupts: 0 aborts, 1 pass, 2 remapped.";
        LINT0_PASS "Lint0Pass" [190:190] "LINT0 passes.";
        LINT1_PASS "Lint1Pass" [191:191] "LINT1 passes.";
        ATTR_V "AttrV" [246:246] "attributes are overridden.";
        MODE0_FC "Mode0FC" [247:247] "with Mode 0, accesses snoop.";
        SNOOP_ATTRIBUTE "SnoopAttribute" [255:248] "the attributes.";
    } }
}
