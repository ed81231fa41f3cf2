//! Global address space 1: what each context bank is for.

use crate::layout::registers;

/// Bytes between the registers of bank 0 and those of bank 1.
pub const BANK_STRIDE: usize = 4;

registers! { prefix "SMMU_";
    cbar CBAR "CBAR0" 0x0 32 "attributes of bank 0; bank n: 4n higher. What bits 15:8 mean depends on `TYPE`." {
        VMID "VMID" [7:0] "tag, without 16-bit VMIDs.";
        BPSHCFG "BPSHCFG" [9:8] "stage 1 only: shareability at stage 2.";
        HYPC "HYPC" [10:10] "stage 1 only: a hypervisor's context.";
        FB "FB" [11:11] "stage 1 only: force broadcast.";
        MEM_ATTR "MemAttr" [15:12] "stage 1 only: memory attributes at stage 2.";
        TYPE "TYPE" [17:16] "see [`cbar_type`](crate::smmuv2::cbar_type).";
        BSU "BSU" [19:18] "least shareability of barriers.";
        RACFG "RACFG" [21:20] "read-allocate hint.";
        WACFG "WACFG" [23:22] "write-allocate hint.";
        IRPTNDX "IRPTNDX" [31:24] "the interrupt; fixed on an MMU-500.";
    }
    cbfrsynra CBFRSYNRA "CBFRSYNRA0" 0x400 32 "whose access made bank 0 fault; bank n: 4n higher." {
        STREAM_ID "StreamID" [15:0] "the stream.";
        SSD_INDEX "SSD_Index" [30:16] "Secure software only.";
    }
    cba2r CBA2R "CBA2R0" 0x800 32 "more attributes of bank 0; bank n: 4n higher." {
        VA64 "VA64" [0:0] "AArch64 tables, otherwise AArch32.";
        MONC "MONC" [1:1] "a monitor's context.";
        VMID16 "VMID16" [31:16] "tag, with `sCR0.VMID16EN`.";
    }
}

/// `CBAR.CBNDX`, bits `[15:8]`: of a nested bank, the bank that does stage 2.
pub const CBAR_STAGE2_BANK: crate::Field = crate::Field::new("CBNDX", 15, 8);
