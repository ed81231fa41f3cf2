//! Registers (chapter 5): one naturally aligned page. Those of performance monitoring, debugging and quality of service are left out.

use crate::layout::registers;

/// Size of the block in bytes (chapter 5).
pub const BLOCK_SIZE: usize = 0x1000;

/// Value of `capabilities.version` of a unit that follows version 1.0 (5.3).
pub const VERSION_1_0: u64 = 0x10;

/// Values of `capabilities.IGS`: how the unit's own interrupts are sent (5.3).
pub mod igs {
    crate::layout::codes! {
        MSI "MSI" = 0 "only as messages.";
        WSI "WSI" = 1 "only by wire.";
        BOTH "BOTH" = 2 "as `fctl.WSI` says.";
    }
}

/// Values of `ddtp.iommu_mode` (5.5).
pub mod iommu_mode {
    crate::layout::codes! {
        OFF "Off" = 0 "no transaction is let through.";
        BARE "Bare" = 1 "every transaction passes unchanged.";
        LEVELS_1 "1LVL" = 2 "a device directory of one level.";
        LEVELS_2 "2LVL" = 3 "a device directory of two levels.";
        LEVELS_3 "3LVL" = 4 "a device directory of three levels.";
    }
}

registers! { prefix "";
    capabilities CAPABILITIES "capabilities" 0x0 64 "what the unit can do (5.3)." {
        VERSION "version" [7:0] "major version in the upper nibble, minor version in the lower one.";
        SV32 "Sv32" [8:8] "first stage, 32 bits.";
        SV39 "Sv39" [9:9] "first stage, 39 bits.";
        SV48 "Sv48" [10:10] "first stage, 48 bits; has Sv39 too.";
        SV57 "Sv57" [11:11] "first stage, 57 bits; has Sv48 too.";
        SVPBMT "Svpbmt" [15:15] "memory types in page tables.";
        SV32X4 "Sv32x4" [16:16] "second stage, 34 bits.";
        SV39X4 "Sv39x4" [17:17] "second stage, 41 bits.";
        SV48X4 "Sv48x4" [18:18] "second stage, 50 bits.";
        SV57X4 "Sv57x4" [19:19] "second stage, 59 bits.";
        AMO_MRIF "AMO_MRIF" [21:21] "atomic updates of memory-resident interrupt files.";
        MSI_FLAT "MSI_FLAT" [22:22] "MSI page tables, and so device contexts of the extended format.";
        MSI_MRIF "MSI_MRIF" [23:23] "memory-resident interrupt files.";
        AMO_HWAD "AMO_HWAD" [24:24] "hardware sets accessed and dirty flags.";
        ATS "ATS" [25:25] "PCIe address translation services and page requests.";
        T2GPA "T2GPA" [26:26] "ATS may return guest physical addresses.";
        END "END" [27:27] "both byte orders; otherwise that of `fctl.BE`.";
        IGS "IGS" [29:28] "how interrupts are sent, see [`igs`](super::igs).";
        HPM "HPM" [30:30] "performance monitor.";
        DBG "DBG" [31:31] "translation requests by register.";
        PAS "PAS" [37:32] "bits of a physical address.";
        PD8 "PD8" [38:38] "process directories of one level.";
        PD17 "PD17" [39:39] "process directories of two levels.";
        PD20 "PD20" [40:40] "process directories of three levels.";
    }
    fctl FCTL "fctl" 0x8 32 "features control (5.4)." {
        BE "BE" [0:0] "structures in memory are big endian.";
        WSI "WSI" [1:1] "interrupts by wire.";
        GXL "GXL" [2:2] "the second stage is Sv32x4.";
    }
    ddtp DDTP "ddtp" 0x10 64 "device-directory-table pointer (5.5)." {
        IOMMU_MODE "iommu_mode" [3:0] "see [`iommu_mode`](super::iommu_mode).";
        BUSY "busy" [4:4] "the last write has not taken effect yet.";
        PPN "PPN" [53:10] "page number of the root directory.";
    }
    cqb CQB "cqb" 0x18 64 "command-queue base (5.6)." {
        LOG2SZ "LOG2SZ-1" [4:0] "log2 of the entries, minus 1.";
        PPN "PPN" [53:10] "page number of the queue.";
    }
    cqh CQH "cqh" 0x20 32 "command-queue head: the next command to be fetched (5.7)." {
        INDEX "index" [31:0] "the index.";
    }
    cqt CQT "cqt" 0x24 32 "command-queue tail: where software puts the next command (5.8)." {
        INDEX "index" [31:0] "the index.";
    }
    fqb FQB "fqb" 0x28 64 "fault-queue base (5.9)." {
        LOG2SZ "LOG2SZ-1" [4:0] "log2 of the entries, minus 1.";
        PPN "PPN" [53:10] "page number of the queue.";
    }
    fqh FQH "fqh" 0x30 32 "fault-queue head: the next record that software reads (5.10)." {
        INDEX "index" [31:0] "the index.";
    }
    fqt FQT "fqt" 0x34 32 "fault-queue tail: where the unit puts the next record (5.11)." {
        INDEX "index" [31:0] "the index.";
    }
    pqb PQB "pqb" 0x38 64 "page-request-queue base (5.12)." {
        LOG2SZ "LOG2SZ-1" [4:0] "log2 of the entries, minus 1.";
        PPN "PPN" [53:10] "page number of the queue.";
    }
    pqh PQH "pqh" 0x40 32 "page-request-queue head (5.13)." {
        INDEX "index" [31:0] "the index.";
    }
    pqt PQT "pqt" 0x44 32 "page-request-queue tail (5.14)." {
        INDEX "index" [31:0] "the index.";
    }
    cqcsr CQCSR "cqcsr" 0x48 32 "command-queue control and status (5.15)." {
        CQEN "cqen" [0:0] "the queue is to be on.";
        CIE "cie" [1:1] "interrupts of the queue.";
        CQMF "cqmf" [8:8] "an access of the queue or of a command was aborted; written 1 to go on.";
        CMD_TO "cmd_to" [9:9] "a command timed out; written 1 to go on.";
        CMD_ILL "cmd_ill" [10:10] "a command is illegal or unsupported; written 1 to go on.";
        FENCE_W_IP "fence_w_ip" [11:11] "a fence that asks for it has completed; written 1 to clear.";
        CQON "cqon" [16:16] "the queue is on.";
        BUSY "busy" [17:17] "the last write has not taken effect yet.";
    }
    fqcsr FQCSR "fqcsr" 0x4c 32 "fault-queue control and status (5.16)." {
        FQEN "fqen" [0:0] "the queue is to be on.";
        FIE "fie" [1:1] "interrupts of the queue.";
        FQMF "fqmf" [8:8] "a record could not be stored; written 1 to go on.";
        FQOF "fqof" [9:9] "a record found the queue full; written 1 to go on.";
        FQON "fqon" [16:16] "the queue is on.";
        BUSY "busy" [17:17] "the last write has not taken effect yet.";
    }
    pqcsr PQCSR "pqcsr" 0x50 32 "page-request-queue control and status (5.17)." {
        PQEN "pqen" [0:0] "the queue is to be on.";
        PIE "pie" [1:1] "interrupts of the queue.";
        PQMF "pqmf" [8:8] "a request could not be stored; written 1 to go on.";
        PQOF "pqof" [9:9] "a request found the queue full; written 1 to go on.";
        PQON "pqon" [16:16] "the queue is on.";
        BUSY "busy" [17:17] "the last write has not taken effect yet.";
    }
    ipsr IPSR "ipsr" 0x54 32 "interrupts pending; each is written 1 to clear (5.18)." {
        CIP "cip" [0:0] "of the command queue.";
        FIP "fip" [1:1] "of the fault queue.";
        PMIP "pmip" [2:2] "of the performance monitor.";
        PIP "pip" [3:3] "of the page-request queue.";
    }
    icvec ICVEC "icvec" 0x2f8 64 "interrupt cause to vector (5.27)." {
        CIV "civ" [3:0] "of the command queue.";
        FIV "fiv" [7:4] "of the fault queue.";
        PMIV "pmiv" [11:8] "of the performance monitor.";
        PIV "piv" [15:12] "of the page-request queue.";
    }
    msi_addr MSI_ADDR_0 "msi_addr_0" 0x300 64 "where the message of vector 0 goes; further vectors follow at [`MSI_STRIDE`] (5.28)." {
        ADDR "ADDR" [55:2] "bits 55:2 of the address.";
    }
    msi_data MSI_DATA_0 "msi_data_0" 0x308 32 "what the message of vector 0 says (5.28)." {
        DATA "data" [31:0] "the data.";
    }
    msi_vec_ctl MSI_VEC_CTL_0 "msi_vec_ctl_0" 0x30c 32 "whether vector 0 is masked (5.28)." {
        M "M" [0:0] "no message is sent until this is cleared.";
    }
}

/// Bytes from one entry of the MSI configuration table to the next (5.28).
pub const MSI_STRIDE: usize = 16;
