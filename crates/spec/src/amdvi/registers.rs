//! Registers (3.4). All of them are 64 bits wide; the counters beyond 16 KiB are left out.

use crate::layout::registers;

/// Size in bytes of the block without performance counters (its base address in units of 16 KiB).
pub const BLOCK_SIZE: usize = 0x4000;

/// How many registers name a segment of the device table besides [`DEV_TAB_BASE`] (3.4).
pub const SEGMENT_REGISTERS: usize = 7;
/// Bytes from one of them to the next.
pub const SEGMENT_STRIDE: usize = 8;

/// log2 of the fewest entries of a command buffer or event log, and of the most (3.4).
pub const QUEUE_LOG2: core::ops::RangeInclusive<u8> = 8..=15;

/// Values of `HATS` (3.4): levels of host page tables.
pub mod hats {
    crate::layout::codes! {
        LEVELS_4 "4-level" = 0 "up to 48 bits.";
        LEVELS_5 "5-level" = 1 "up to 57 bits.";
        LEVELS_6 "6-level" = 2 "64 bits.";
    }
}

registers! { prefix "";
    dev_tab_base DEV_TAB_BASE "Device Table Base Address" 0x0 64 "where the device table, or its first segment, is." {
        SIZE "Size" [8:0] "number of pages of 4 KiB, minus 1.";
        BASE "DevTabBase" [51:12] "page number.";
    }
    cmd_buf_base CMD_BUF_BASE "Command Buffer Base Address" 0x8 64 "where commands are." {
        BASE "ComBase" [51:12] "page number.";
        LEN "ComLen" [59:56] "log2 of the entries, 8 to 15.";
    }
    event_log_base EVENT_LOG_BASE "Event Log Base Address" 0x10 64 "where events are written." {
        BASE "EventBase" [51:12] "page number.";
        LEN "EventLen" [59:56] "log2 of the entries, 8 to 15.";
    }
    control CONTROL "IOMMU Control" 0x18 64 "what is on." {
        IOMMU_EN "IommuEn" [0:0] "transactions are processed; 0: all pass unchanged.";
        HT_TUN_EN "HtTunEn" [1:1] "HyperTransport tunnel.";
        EVENT_LOG_EN "EventLogEn" [2:2] "events are to be written.";
        EVENT_INT_EN "EventIntEn" [3:3] "an event raises an interrupt.";
        COM_WAIT_INT_EN "ComWaitIntEn" [4:4] "COMPLETION_WAIT may raise one.";
        INV_TIME_OUT "InvTimeOut" [7:5] "how long a device may take to invalidate its own translations.";
        PASS_PW "PassPW" [8:8] "attribute of the unit's own requests.";
        RES_PASS_PW "ResPassPW" [9:9] "attribute of its responses.";
        COHERENT "Coherent" [10:10] "its own reads of the device table snoop.";
        ISOC "Isoc" [11:11] "attribute of its own requests.";
        CMD_BUF_EN "CmdBufEn" [12:12] "commands are to be fetched.";
        PPR_LOG_EN "PPRLogEn" [13:13] "page requests are to be written.";
        PPR_INT_EN "PPRIntEn" [14:14] "a page request raises an interrupt.";
        PPR_EN "PPREn" [15:15] "page requests are processed.";
        GT_EN "GTEn" [16:16] "guest translation.";
        GA_EN "GAEn" [17:17] "guest virtual APIC.";
        GA_LOG_EN "GALogEn" [28:28] "its log is to be written.";
        GA_INT_EN "GAIntEn" [29:29] "its log raises an interrupt.";
        DEV_TBL_SEG_EN "DevTblSegEn" [36:34] "log2 of the segments of the device table.";
    }
    exclusion_base EXCLUSION_BASE "Exclusion Base" 0x20 64 "first address that is not translated." {
        EX_EN "ExEn" [0:0] "there is such a range.";
        ALLOW "Allow" [1:1] "for all devices, not only those whose entry has EX.";
        BASE "Exclusion Base" [51:12] "page number.";
    }
    exclusion_limit EXCLUSION_LIMIT "Exclusion Range Limit" 0x28 64 "last page that is not translated." {
        LIMIT "Exclusion Limit" [51:12] "page number.";
    }
    ext_features EXT_FEATURES "Extended Feature" 0x30 64 "what the unit can do, where its PCI capability says EFRSup." {
        PRE_F_SUP "PreFSup" [0:0] "PREFETCH_IOMMU_PAGES.";
        PPR_SUP "PPRSup" [1:1] "page requests.";
        XT_SUP "XTSup" [2:2] "x2APIC.";
        NX_SUP "NXSup" [3:3] "no-execute and privilege levels.";
        GT_SUP "GTSup" [4:4] "guest translation (v2 tables).";
        IA_SUP "IASup" [6:6] "INVALIDATE_IOMMU_ALL.";
        GA_SUP "GASup" [7:7] "guest virtual APIC.";
        HE_SUP "HESup" [8:8] "hardware error registers.";
        PC_SUP "PCSup" [9:9] "performance counters.";
        HATS "HATS" [11:10] "levels of host tables, see [`hats`](super::hats).";
        GATS "GATS" [13:12] "levels of guest tables.";
        GLX_SUP "GLXSup" [15:14] "levels of guest CR3 tables.";
        DEV_TBL_SEG_SUP "DevTblSegSup" [39:38] "log2 of the most segments of the device table.";
        GIO_SUP "GIoSup" [48:48] "guest tables without PASID.";
        HA_SUP "HASup" [49:49] "accessed flags set by hardware.";
        HD_SUP "HDSup" [52:52] "dirty flags set by hardware.";
    }
    dev_tab_segment DEV_TAB_SEGMENT_1 "Device Table Segment 1 Base Address" 0x100 64 "where the second segment of the device table is; six more follow." {
        SIZE "Size" [7:0] "number of pages of 4 KiB, minus 1.";
        BASE "DevTabBase" [51:12] "page number.";
    }
    cmd_buf_head CMD_BUF_HEAD "Command Buffer Head Pointer" 0x2000 64 "next command to be fetched." {
        PTR "CmdHeadPtr" [18:4] "its index.";
    }
    cmd_buf_tail CMD_BUF_TAIL "Command Buffer Tail Pointer" 0x2008 64 "where software puts the next command." {
        PTR "CmdTailPtr" [18:4] "its index.";
    }
    event_log_head EVENT_LOG_HEAD "Event Log Head Pointer" 0x2010 64 "next event that software reads." {
        PTR "EventHeadPtr" [18:4] "its index.";
    }
    event_log_tail EVENT_LOG_TAIL "Event Log Tail Pointer" 0x2018 64 "where the unit puts the next event." {
        PTR "EventTailPtr" [18:4] "its index.";
    }
    status STATUS "IOMMU Status" 0x2020 64 "what runs, and what happened." {
        EVENT_OVERFLOW "EventOverflow" [0:0] "an event found the log full; written 1 to clear.";
        EVENT_LOG_INT "EventLogInt" [1:1] "an event was written; written 1 to clear.";
        COM_WAIT_INT "ComWaitInt" [2:2] "a COMPLETION_WAIT that asks for it completed; written 1 to clear.";
        EVENT_LOG_RUN "EventLogRun" [3:3] "events are written.";
        CMD_BUF_RUN "CmdBufRun" [4:4] "commands are fetched; an error clears it until CmdBufEn is cleared and set.";
        PPR_OVERFLOW "PPROverflow" [5:5] "a page request found its log full; written 1 to clear.";
        PPR_INT "PPRInt" [6:6] "a page request was written; written 1 to clear.";
        PPR_LOG_RUN "PPRLogRun" [7:7] "page requests are written.";
        GA_LOG_RUN "GALogRun" [8:8] "the log of the virtual APIC is written.";
    }
}
