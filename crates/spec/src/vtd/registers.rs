//! Registers (11.4). Where the block of fault recording registers and the one of IOTLB registers begin is said by `CAP.FRO` and `ECAP.IRO`.

/// Bytes of the register block that holds everything but what `CAP.FRO` places elsewhere (11.2: one page).
pub const BLOCK_SIZE: usize = 4096;
/// First address of the range in which writes are interrupts and are not translated (3.14).
pub const INTERRUPT_FIRST: u64 = 0xfee0_0000;
/// Last address of that range.
pub const INTERRUPT_LAST: u64 = 0xfeef_ffff;
/// Bits of [`GSTS`] that are written back to [`GCMD`] unchanged when another bit is set or cleared: all but those of one-shot commands (11.4.4).
pub const GCMD_KEPT: u32 = 0x96ff_ffff;

/// Values of `RTADDR.TTM` (11.4.5).
pub mod ttm {
    crate::layout::codes! {
        LEGACY "Legacy Mode" = 0 "root and context entries, one table for each device.";
        SCALABLE "Scalable Mode" = 1 "PASID tables behind the context entries.";
        ABORT "Abort-dma mode" = 3 "every request is blocked; with `ECAP.ADMS`.";
    }
}

/// Values of `IQERCD.IQEI` (11.4.9.9).
pub mod iqei {
    crate::layout::codes! {
        UNKNOWN "info not available" = 0 "the unit does not say.";
        TAIL "invalid Tail Pointer" = 1 "the tail is outside of the queue or misaligned.";
        FETCH "fetch error" = 2 "the descriptor could not be read.";
        TYPE "invalid descriptor type" = 3 "no descriptor has this number.";
        RESERVED "reserved field violation" = 4 "a bit is set that must be 0.";
        WIDTH "invalid descriptor width" = 5 "`IQA.DW` does not fit the mode.";
    }
}

crate::layout::registers! { prefix "";
    ver VER "VER" 0x0 32 "version (11.4.1)." {
        MIN "MIN" [3:0] "minor.";
        MAX "MAX" [7:4] "major.";
    }
    cap CAP "CAP" 0x8 64 "capabilities (11.4.2)." {
        ND "ND" [2:0] "domain ids have 4 + 2 * ND bits.";
        AFL "AFL" [3:3] "advanced fault logging.";
        RWBF "RWBF" [4:4] "write buffers must be flushed by software.";
        PLMR "PLMR" [5:5] "protected low-memory region.";
        PHMR "PHMR" [6:6] "protected high-memory region.";
        CM "CM" [7:7] "caching mode: not present is cached too.";
        SAGAW "SAGAW" [12:8] "second stages with 3 (bit 1), 4 (bit 2), 5 (bit 3) levels.";
        MGAW "MGAW" [21:16] "bits of a device's addresses, minus 1.";
        ZLR "ZLR" [22:22] "zero-length reads of write-only pages.";
        FRO "FRO" [33:24] "where the fault recording registers begin, in units of 16 bytes.";
        SSLPS "SSLPS" [37:34] "large leaves of the second stage: 2 MiB (bit 0), 1 GiB (bit 1).";
        PSI "PSI" [39:39] "invalidation by page.";
        NFR "NFR" [47:40] "how many fault recording registers there are, minus 1.";
        MAMV "MAMV" [53:48] "largest address mask of an invalidation by page.";
        DWD "DWD" [54:54] "writes are drained.";
        DRD "DRD" [55:55] "reads are drained.";
        FS1GP "FS1GP" [56:56] "first stage: leaves of 1 GiB.";
        PI "PI" [59:59] "posted interrupts.";
        FS5LP "FS5LP" [60:60] "first stage with 5 levels.";
        ECMDS "ECMDS" [61:61] "enhanced commands.";
        ESIRTPS "ESIRTPS" [62:62] "setting the interrupt table invalidates.";
        ESRTPS "ESRTPS" [63:63] "setting the root table invalidates.";
    }
    ecap ECAP "ECAP" 0x10 64 "extended capabilities (11.4.3)." {
        C "C" [0:0] "root, context and PASID structures and legacy page tables are snooped.";
        QI "QI" [1:1] "queued invalidation.";
        DT "DT" [2:2] "device TLBs.";
        IR "IR" [3:3] "interrupt remapping.";
        EIM "EIM" [4:4] "extended interrupt mode.";
        PT "PT" [6:6] "pass-through.";
        SC "SC" [7:7] "snoop control.";
        IRO "IRO" [17:8] "where the IOTLB registers begin, in units of 16 bytes.";
        MHMV "MHMV" [23:20] "largest handle mask.";
        MTS "MTS" [25:25] "memory types.";
        NEST "NEST" [26:26] "nested translation.";
        PRS "PRS" [29:29] "page requests.";
        ERS "ERS" [30:30] "execute requests.";
        SRS "SRS" [31:31] "supervisor requests.";
        NWFS "NWFS" [33:33] "no-write flag.";
        EAFS "EAFS" [34:34] "extended accessed flag.";
        PSS "PSS" [39:35] "bits of a PASID, minus 1.";
        PASID "PASID" [40:40] "requests with a PASID.";
        DIT "DIT" [41:41] "device TLB invalidation is throttled.";
        PDS "PDS" [42:42] "page requests are drained.";
        SMTS "SMTS" [43:43] "scalable mode.";
        VCS "VCS" [44:44] "virtual commands.";
        SSADS "SSADS" [45:45] "second stage: accessed and dirty flags.";
        SSTS "SSTS" [46:46] "scalable mode: second stage.";
        FSTS "FSTS" [47:47] "scalable mode: first stage.";
        SMPWCS "SMPWCS" [48:48] "scalable mode: page walks can be snooped.";
        RPS "RPS" [49:49] "the context entry's RID_PASID counts.";
        PMS "PMS" [51:51] "performance monitoring.";
        ADMS "ADMS" [52:52] "abort-dma mode.";
        RPRIVS "RPRIVS" [53:53] "the context entry's RID_PRIV counts.";
    }
    gcmd GCMD "GCMD" 0x18 32 "global command: one bit is changed at a time, and [`GSTS`] says when it is in effect (11.4.4.1)." {
        CFI "CFI" [23:23] "compatibility format interrupts.";
        SIRTP "SIRTP" [24:24] "set the interrupt table; one-shot.";
        IRE "IRE" [25:25] "interrupt remapping.";
        QIE "QIE" [26:26] "queued invalidation.";
        WBF "WBF" [27:27] "flush write buffers; one-shot.";
        EAFL "EAFL" [28:28] "advanced fault log.";
        SFL "SFL" [29:29] "set the fault log; one-shot.";
        SRTP "SRTP" [30:30] "set the root table; one-shot.";
        TE "TE" [31:31] "translation.";
    }
    gsts GSTS "GSTS" 0x1c 32 "global status (11.4.4.2)." {
        CFIS "CFIS" [23:23] "compatibility format interrupts.";
        IRTPS "IRTPS" [24:24] "the interrupt table is set.";
        IRES "IRES" [25:25] "interrupt remapping.";
        QIES "QIES" [26:26] "queued invalidation.";
        WBFS "WBFS" [27:27] "a flush of write buffers is under way.";
        AFLS "AFLS" [28:28] "advanced fault log.";
        FLS "FLS" [29:29] "the fault log is set.";
        RTPS "RTPS" [30:30] "the root table is set.";
        TES "TES" [31:31] "translation.";
    }
    rtaddr RTADDR "RTADDR" 0x20 64 "root table address; counts from `SRTP` on (11.4.5)." {
        TTM "TTM" [11:10] "see [`ttm`](super::ttm).";
        RTA "RTA" [63:12] "bits 63:12 of the root table's address.";
    }
    ccmd CCMD "CCMD" 0x28 64 "context command (11.4.6.1); not used with a queue." {
        DID "DID" [15:0] "domain id.";
        SID "SID" [31:16] "source id.";
        FM "FM" [33:32] "function mask.";
        CAIG "CAIG" [60:59] "granularity that was invalidated.";
        CIRG "CIRG" [62:61] "granularity that is asked for.";
        ICC "ICC" [63:63] "invalidate.";
    }
    fsts FSTS "FSTS" 0x34 32 "fault status (11.4.7.1)." {
        PFO "PFO" [0:0] "a fault found no free recording register; written 1 to go on.";
        PPF "PPF" [1:1] "some recording register has a fault.";
        AFO "AFO" [2:2] "overflow of the fault log.";
        APF "APF" [3:3] "the fault log has a fault.";
        IQE "IQE" [4:4] "error of the queue; written 1 to go on.";
        ICE "ICE" [5:5] "bad completion of a device TLB's invalidation; written 1 to clear.";
        ITE "ITE" [6:6] "a device TLB's invalidation timed out; written 1 to go on.";
        FRI "FRI" [15:8] "the recording register of the first fault, where PPF is set.";
    }
    fectl FECTL "FECTL" 0x38 32 "fault event control (11.4.7.2)." {
        IP "IP" [30:30] "an event is pending.";
        IM "IM" [31:31] "events are masked.";
    }
    fedata FEDATA "FEDATA" 0x3c 32 "fault event data (11.4.7.3)." {
        IMD "IMD" [15:0] "the message.";
        EIMD "EIMD" [31:16] "its upper half.";
    }
    feaddr FEADDR "FEADDR" 0x40 32 "fault event address (11.4.7.4)." {
        MA "MA" [31:2] "bits 31:2 of where the message goes.";
    }
    feuaddr FEUADDR "FEUADDR" 0x44 32 "fault event upper address (11.4.7.5)." {
        MUA "MUA" [31:0] "the upper half.";
    }
    pmen PMEN "PMEN" 0x64 32 "protected memory (11.4.8.1)." {
        PRS "PRS" [0:0] "the regions are protected.";
        EPM "EPM" [31:31] "they are to be.";
    }
    iqh IQH "IQH" 0x80 64 "invalidation queue head: what is fetched next (11.4.9.1)." {
        QH "QH" [18:4] "offset into the queue, in units of 16 bytes.";
    }
    iqt IQT "IQT" 0x88 64 "invalidation queue tail: where software puts the next one (11.4.9.2)." {
        QT "QT" [18:4] "offset into the queue, in units of 16 bytes.";
    }
    iqa IQA "IQA" 0x90 64 "invalidation queue address (11.4.9.3)." {
        QS "QS" [2:0] "log2 of its size in pages of 4 KiB.";
        DW "DW" [11:11] "descriptors have 32 bytes.";
        IQA "IQA" [63:12] "bits 63:12 of its address.";
    }
    ics ICS "ICS" 0x9c 32 "invalidation completion status (11.4.9.4)." {
        IWC "IWC" [0:0] "a wait with an event has completed; written 1 to clear.";
    }
    iectl IECTL "IECTL" 0xa0 32 "invalidation event control (11.4.9.5)." {
        IP "IP" [30:30] "an event is pending.";
        IM "IM" [31:31] "events are masked.";
    }
    iqercd IQERCD "IQERCD" 0xb0 64 "what is behind an error of the queue (11.4.9.9)." {
        IQEI "IQEI" [3:0] "see [`iqei`](super::iqei).";
        ITESID "ITESID" [47:32] "whose device TLB timed out.";
        ICESID "ICESID" [63:48] "whose device TLB completed badly.";
    }
}
