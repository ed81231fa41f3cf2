//! Records of the fault queue (3.2).

crate::layout::layout! { "fault record", 4 words {
    CAUSE "CAUSE" [11:0] "see [`cause`].";
    PID "PID" [31:12] "process id, with PV.";
    PV "PV" [32:32] "PID and PRIV count.";
    PRIV "PRIV" [33:33] "a supervisor's access.";
    TTYP "TTYP" [39:34] "see [`ttyp`].";
    DID "DID" [63:40] "device id.";
    IOTVAL "iotval" [191:128] "the device's address.";
    IOTVAL2 "iotval2" [255:192] "guest-page faults: the guest physical address; bit 0: of a first-stage table.";
} }

/// Values of `CAUSE`.
pub mod cause {
    crate::layout::codes! {
        INSTRUCTION_ACCESS "Instruction access fault" = 1 "access fault of a fetch.";
        READ_MISALIGNED "Read address misaligned" = 4 "misaligned read.";
        READ_ACCESS "Read access fault" = 5 "access fault of a read.";
        WRITE_MISALIGNED "Write/AMO address misaligned" = 6 "misaligned write.";
        WRITE_ACCESS "Write/AMO access fault" = 7 "access fault of a write.";
        INSTRUCTION_PAGE "Instruction page fault" = 12 "first stage, fetch.";
        READ_PAGE "Read page fault" = 13 "first stage, read.";
        WRITE_PAGE "Write/AMO page fault" = 15 "first stage, write.";
        INSTRUCTION_GUEST_PAGE "Instruction guest page fault" = 20 "second stage, fetch.";
        READ_GUEST_PAGE "Read guest-page fault" = 21 "second stage, read.";
        WRITE_GUEST_PAGE "Write/AMO guest-page fault" = 23 "second stage, write.";
        ALL_DISALLOWED "All inbound transactions disallowed" = 256 "the unit is off.";
        DDT_ACCESS "DDT entry load access fault" = 257 "a directory entry cannot be read.";
        DDT_INVALID "DDT entry not valid" = 258 "no context for the device.";
        DDT_MISCONFIGURED "DDT entry misconfigured" = 259 "a context that must not be.";
        TYPE_DISALLOWED "Transaction type disallowed" = 260 "a device or a kind of transaction that the configuration excludes.";
        MSI_PTE_ACCESS "MSI PTE load access fault" = 261 "an MSI table entry cannot be read.";
        MSI_PTE_INVALID "MSI PTE not valid" = 262 "no MSI table entry.";
        MSI_PTE_MISCONFIGURED "MSI PTE misconfigured" = 263 "an MSI table entry that must not be.";
        MRIF_ACCESS "MRIF access fault" = 264 "an interrupt file cannot be accessed.";
        PDT_ACCESS "PDT entry load access fault" = 265 "a process directory entry cannot be read.";
        PDT_INVALID "PDT entry not valid" = 266 "no context for the process.";
        PDT_MISCONFIGURED "PDT entry misconfigured" = 267 "a process context that must not be.";
        DDT_CORRUPT "DDT data corruption" = 268 "poisoned directory.";
        PDT_CORRUPT "PDT data corruption" = 269 "poisoned process directory.";
        MSI_PT_CORRUPT "MSI PT data corruption" = 270 "poisoned MSI table.";
        MRIF_CORRUPT "MSI MRIF data corruption" = 271 "poisoned interrupt file.";
        INTERNAL "Internal data path error" = 272 "inside the unit.";
        MSI_WRITE_ACCESS "IOMMU MSI write access fault" = 273 "the unit's own message was aborted.";
        PT_CORRUPT "First/second-stage PT data corruption" = 274 "poisoned page table.";
    }
}

/// Values of `TTYP`.
pub mod ttyp {
    crate::layout::codes! {
        NONE "None" = 0 "no transaction.";
        UNTRANSLATED_EXECUTE "Untranslated read for execute" = 1 "fetch.";
        UNTRANSLATED_READ "Untranslated read" = 2 "read.";
        UNTRANSLATED_WRITE "Untranslated write/AMO" = 3 "write.";
        TRANSLATED_EXECUTE "Translated read for execute" = 5 "fetch after ATS.";
        TRANSLATED_READ "Translated read" = 6 "read after ATS.";
        TRANSLATED_WRITE "Translated write/AMO" = 7 "write after ATS.";
        ATS_REQUEST "PCIe ATS Translation Request" = 8 "translation request.";
        MESSAGE "PCIe Message Request" = 9 "message.";
    }
}
