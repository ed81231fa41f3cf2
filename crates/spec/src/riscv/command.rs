//! Commands (3.1): 16 bytes each, opcode in bits `[6:0]`, function in bits `[9:7]`.

/// Size of a command in 64-bit words.
pub const WORDS: usize = 2;
/// Size of a command in bytes.
pub const BYTES: usize = 16;
/// `opcode`, the same in every command.
pub const OPCODE: crate::Field = crate::Field::new("opcode", 6, 0);
/// `func3`, the same in every command.
pub const FUNC3: crate::Field = crate::Field::new("func3", 9, 7);

/// Opcodes (3.1).
pub mod opcode {
    crate::layout::codes! {
        IOTINVAL "IOTINVAL" = 1 "forget translations (3.1.1).";
        IOFENCE "IOFENCE" = 2 "wait for all before it (3.1.2).";
        IODIR "IODIR" = 3 "forget directory entries (3.1.3).";
        ATS "ATS" = 4 "messages of ATS (3.1.4).";
    }
}

/// Functions of IOTINVAL (3.1.1).
pub mod iotinval_func {
    crate::layout::codes! {
        VMA "IOTINVAL.VMA" = 0 "first stage.";
        GVMA "IOTINVAL.GVMA" = 1 "second stage.";
    }
}

/// Functions of IOFENCE (3.1.2).
pub mod iofence_func {
    crate::layout::codes! {
        C "IOFENCE.C" = 0 "command queue fence.";
    }
}

/// Functions of IODIR (3.1.3).
pub mod iodir_func {
    crate::layout::codes! {
        INVAL_DDT "IODIR.INVAL_DDT" = 0 "device contexts and what led there.";
        INVAL_PDT "IODIR.INVAL_PDT" = 1 "a process context.";
    }
}

/// IOTINVAL.VMA and IOTINVAL.GVMA (3.1.1). The bits NL and S of later extensions are reserved here.
pub mod iotinval {
    crate::layout::layout! { "IOTINVAL", 2 words {
        OPCODE "opcode" [6:0] "see [`opcode`](super::opcode).";
        FUNC3 "func3" [9:7] "see [`iotinval_func`](super::iotinval_func).";
        AV "AV" [10:10] "ADDR counts.";
        PSCID "PSCID" [31:12] "tag of the first stage.";
        PSCV "PSCV" [32:32] "PSCID counts; VMA only.";
        GV "GV" [33:33] "GSCID counts; 0: translations without a second stage.";
        GSCID "GSCID" [59:44] "tag of the second stage.";
        ADDR "ADDR" [125:74] "bits 63:12 of the address.";
    } }
}

/// IOFENCE.C (3.1.2).
pub mod iofence {
    crate::layout::layout! { "IOFENCE", 2 words {
        OPCODE "opcode" [6:0] "see [`opcode`](super::opcode).";
        FUNC3 "func3" [9:7] "see [`iofence_func`](super::iofence_func).";
        AV "AV" [10:10] "DATA is stored at ADDR.";
        WSI "WSI" [11:11] "`cqcsr.fence_w_ip` is set; reserved unless `fctl.WSI` is.";
        PR "PR" [12:12] "earlier reads of devices are over.";
        PW "PW" [13:13] "earlier writes of devices are over.";
        DATA "DATA" [63:32] "what is stored.";
        ADDR "ADDR" [125:64] "bits 63:2 of where.";
    } }
}

/// IODIR.INVAL_DDT and IODIR.INVAL_PDT (3.1.3).
pub mod iodir {
    crate::layout::layout! { "IODIR", 2 words {
        OPCODE "opcode" [6:0] "see [`opcode`](super::opcode).";
        FUNC3 "func3" [9:7] "see [`iodir_func`](super::iodir_func).";
        PID "PID" [31:12] "process; INVAL_PDT only.";
        DV "DV" [33:33] "DID counts; without it everything is forgotten.";
        DID "DID" [63:40] "the device.";
    } }
}
