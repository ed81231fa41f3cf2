//! Registers of pages 0 and 1 (§6.1, §6.2, §6.3).

use crate::layout::registers;

/// Size of one register page in bytes (§6.1).
pub const PAGE_SIZE: usize = 0x1_0000;
/// Size of the two pages that every implementation has (§6.1).
pub const BLOCK_SIZE: usize = 2 * PAGE_SIZE;

/// Values of `IDR0.TTF` (§6.3.1).
pub mod ttf {
    crate::layout::codes! {
        AARCH32 "AArch32" = 1 "only VMSAv8-32 LPAE tables.";
        AARCH64 "AArch64" = 2 "only VMSAv8-64 tables.";
        BOTH "AArch32 and AArch64" = 3 "both.";
    }
}

/// Values of `IDR0.TTENDIAN` (§6.3.1).
pub mod ttendian {
    crate::layout::codes! {
        MIXED "Mixed" = 0 "`CD.ENDI` and `STE.S2ENDI` choose.";
        LITTLE "Little" = 2 "little endian only.";
        BIG "Big" = 3 "big endian only.";
    }
}

/// Values of `IDR0.STALL_MODEL` (§6.3.1).
pub mod stall_model {
    crate::layout::codes! {
        BOTH "Stall and terminate" = 0 "`CD.S` chooses.";
        TERMINATE "Terminate" = 1 "faulting transactions are terminated.";
        STALL "Stall" = 2 "faulting transactions are always stalled.";
    }
}

/// Values of `IDR0.ST_LEVEL` and `STRTAB_BASE_CFG.FMT` (§6.3.1, §6.3.25).
pub mod strtab_fmt {
    crate::layout::codes! {
        LINEAR "Linear" = 0 "one array of entries.";
        TWO_LEVEL "2-level" = 1 "an array of descriptors of arrays.";
    }
}

/// Values of `IDR5.OAS`, `CD.IPS` and `STE.S2PS`: address sizes (§6.3.6).
pub mod address_size {
    crate::layout::codes! {
        BITS_32 "32 bits" = 0 "4 GiB.";
        BITS_36 "36 bits" = 1 "64 GiB.";
        BITS_40 "40 bits" = 2 "1 TiB.";
        BITS_42 "42 bits" = 3 "4 TiB.";
        BITS_44 "44 bits" = 4 "16 TiB.";
        BITS_48 "48 bits" = 5 "256 TiB.";
        BITS_52 "52 bits" = 6 "4 PiB; needs the 64 KiB granule or `DS`.";
        BITS_56 "56 bits" = 7 "64 PiB; needs 128-bit descriptors.";
    }
}

/// Values of the cacheability fields of `CR1` and of STEs and CDs (§6.3.11, §5.2, §5.4).
pub mod cacheability {
    crate::layout::codes! {
        NON_CACHEABLE "NC" = 0 "non-cacheable.";
        WRITE_BACK "WB" = 1 "write-back, read- and write-allocate.";
        WRITE_THROUGH "WT" = 2 "write-through.";
        WRITE_BACK_NO_ALLOCATE "WBnA" = 3 "write-back, no write-allocate.";
    }
}

/// Values of the shareability fields (§6.3.11, §5.2, §5.4). The `SHCFG` override of a bypass entry and of `GBPA` encodes 1 as "use incoming".
pub mod shareability {
    crate::layout::codes! {
        NON_SHAREABLE "NSH" = 0 "non-shareable.";
        USE_INCOMING "Use incoming" = 1 "`SHCFG` only: as the transaction came.";
        OUTER "OSH" = 2 "outer shareable.";
        INNER "ISH" = 3 "inner shareable.";
    }
}

/// Values of `CMDQ_CONS.ERR` (§7.1, §6.3.28).
pub mod cerror {
    crate::layout::codes! {
        NONE "CERROR_NONE" = 0 "no error.";
        ILL "CERROR_ILL" = 1 "illegal or unsupported command.";
        ABT "CERROR_ABT" = 2 "the fetch of a command was aborted.";
        ATC_INV_SYNC "CERROR_ATC_INV_SYNC" = 3 "a CMD_SYNC found that an ATC invalidation timed out.";
    }
}

registers! { prefix "SMMU_";
    idr0 IDR0 "IDR0" 0x0 32 "features (§6.3.1)." {
        S2P "S2P" [0:0] "stage 2 is implemented.";
        S1P "S1P" [1:1] "stage 1 is implemented.";
        TTF "TTF" [3:2] "table formats, see [`ttf`](super::ttf).";
        COHACC "COHACC" [4:4] "table and queue accesses are coherent.";
        BTM "BTM" [5:5] "broadcast TLB maintenance is received.";
        HTTU "HTTU" [7:6] "hardware update of access flag and dirty state.";
        DORMHINT "DORMHINT" [8:8] "the dormant hint is implemented.";
        HYP "HYP" [9:9] "EL2 stage 1 contexts.";
        ATS "ATS" [10:10] "PCIe ATS.";
        NS1ATS "NS1ATS" [11:11] "split-stage ATS is not supported.";
        ASID16 "ASID16" [12:12] "ASIDs have 16 bits, otherwise 8.";
        MSI "MSI" [13:13] "message-signalled interrupts.";
        SEV "SEV" [14:14] "send event on CMD_SYNC and queue changes.";
        ATOS "ATOS" [15:15] "address translation operations.";
        PRI "PRI" [16:16] "PCIe page requests.";
        VMW "VMW" [17:17] "VMID wildcard matching.";
        VMID16 "VMID16" [18:18] "VMIDs have 16 bits, otherwise 8.";
        CD2L "CD2L" [19:19] "two-level context descriptor tables.";
        VATOS "VATOS" [20:20] "virtual ATOS page.";
        TTENDIAN "TTENDIAN" [22:21] "endianness of tables, see [`ttendian`](super::ttendian).";
        ATSRECERR "ATSRECERR" [23:23] "errors of ATS requests can be recorded.";
        STALL_MODEL "STALL_MODEL" [25:24] "see [`stall_model`](super::stall_model).";
        TERM_MODEL "TERM_MODEL" [26:26] "termination always aborts: `CD.A` must be 1.";
        ST_LEVEL "ST_LEVEL" [28:27] "1: two-level stream tables, see [`strtab_fmt`](super::strtab_fmt).";
        RME_IMPL "RME_IMPL" [30:30] "granule protection checks.";
    }
    idr1 IDR1 "IDR1" 0x4 32 "sizes (§6.3.2)." {
        SIDSIZE "SIDSIZE" [5:0] "bits of a StreamID, 0..=32.";
        SSIDSIZE "SSIDSIZE" [10:6] "bits of a SubstreamID, 0..=20.";
        PRIQS "PRIQS" [15:11] "largest log2 of PRI queue entries, 0..=19.";
        EVENTQS "EVENTQS" [20:16] "largest log2 of event queue entries, 0..=19.";
        CMDQS "CMDQS" [25:21] "largest log2 of command queue entries, 0..=19.";
        ATTR_PERMS_OVR "ATTR_PERMS_OVR" [26:26] "permission attributes can be overridden.";
        ATTR_TYPES_OVR "ATTR_TYPES_OVR" [27:27] "memory type attributes can be overridden.";
        REL "REL" [28:28] "preset base addresses are relative to the register block.";
        QUEUES_PRESET "QUEUES_PRESET" [29:29] "queue base registers are fixed.";
        TABLES_PRESET "TABLES_PRESET" [30:30] "table base registers are fixed.";
        ECMDQ "ECMDQ" [31:31] "enhanced command queues.";
    }
    idr2 IDR2 "IDR2" 0x8 32 "more features (§6.3.3)." {
        BA_VATOS "BA_VATOS" [9:0] "page of the virtual ATOS interface.";
    }
    idr3 IDR3 "IDR3" 0xc 32 "more features (§6.3.4)." {
        HAD "HAD" [2:2] "hierarchical attributes can be disabled.";
        PBHA "PBHA" [3:3] "page-based hardware attributes.";
        XNX "XNX" [4:4] "EL0/EL1 execute control at stage 2.";
        PPS "PPS" [5:5] "a page request may carry a PASID.";
        MPAM "MPAM" [7:7] "memory partitioning and monitoring.";
        FWB "FWB" [8:8] "stage 2 forced write-back.";
        STT "STT" [9:9] "small translation tables.";
        RIL "RIL" [10:10] "TLB invalidation by range, and level hints.";
        BBML "BBML" [12:11] "level of break-before-make support, 0..=2.";
        E0PD "E0PD" [13:13] "EL0 access prevention.";
        PTWNNC "PTWNNC" [14:14] "walks of device memory can be treated as normal non-cacheable.";
        DPT "DPT" [15:15] "device permission tables.";
    }
    idr4 IDR4 "IDR4" 0x10 32 "implementation defined (§6.3.5)." {
    }
    idr5 IDR5 "IDR5" 0x14 32 "address sizes and granules (§6.3.6)." {
        OAS "OAS" [2:0] "output address size, see [`address_size`](super::address_size).";
        GRAN4K "GRAN4K" [4:4] "4 KiB granule.";
        GRAN16K "GRAN16K" [5:5] "16 KiB granule.";
        GRAN64K "GRAN64K" [6:6] "64 KiB granule.";
        DS "DS" [7:7] "52-bit addresses with 4 and 16 KiB granules.";
        VAX "VAX" [11:10] "0: 48-bit virtual addresses, 1: 52-bit.";
        STALL_MAX "STALL_MAX" [31:16] "most stalled transactions.";
    }
    iidr IIDR "IIDR" 0x18 32 "implementer (§6.3.7)." {
        IMPLEMENTER "Implementer" [11:0] "JEP106 code.";
        REVISION "Revision" [15:12] "minor revision.";
        VARIANT "Variant" [19:16] "variant or major revision.";
        PRODUCT_ID "ProductID" [31:20] "product.";
    }
    aidr AIDR "AIDR" 0x1c 32 "architecture revision (§6.3.8)." {
        ARCH_MINOR_REV "ArchMinorRev" [3:0] "n of SMMUv3.n.";
        ARCH_MAJOR_REV "ArchMajorRev" [7:4] "0 for SMMUv3.";
    }
    cr0 CR0 "CR0" 0x20 32 "enables; a change is in effect when CR0ACK shows it (§6.3.9)." {
        SMMUEN "SMMUEN" [0:0] "translate; 0: all transactions follow GBPA.";
        PRIQEN "PRIQEN" [1:1] "write page requests.";
        EVENTQEN "EVENTQEN" [2:2] "write events.";
        CMDQEN "CMDQEN" [3:3] "consume commands.";
        ATSCHK "ATSCHK" [4:4] "check translated transactions against the configuration.";
        VMW "VMW" [8:6] "VMID wildcard.";
    }
    cr0ack CR0ACK "CR0ACK" 0x24 32 "what of CR0 is in effect (§6.3.10)." {
        SMMUEN "SMMUEN" [0:0] "as in CR0.";
        PRIQEN "PRIQEN" [1:1] "as in CR0.";
        EVENTQEN "EVENTQEN" [2:2] "as in CR0.";
        CMDQEN "CMDQEN" [3:3] "as in CR0.";
        ATSCHK "ATSCHK" [4:4] "as in CR0.";
        VMW "VMW" [8:6] "as in CR0.";
    }
    cr1 CR1 "CR1" 0x28 32 "attributes of table and queue accesses (§6.3.11)." {
        QUEUE_IC "QUEUE_IC" [1:0] "queues, inner, see [`cacheability`](super::cacheability).";
        QUEUE_OC "QUEUE_OC" [3:2] "queues, outer.";
        QUEUE_SH "QUEUE_SH" [5:4] "queues, see [`shareability`](super::shareability).";
        TABLE_IC "TABLE_IC" [7:6] "stream table, inner.";
        TABLE_OC "TABLE_OC" [9:8] "stream table, outer.";
        TABLE_SH "TABLE_SH" [11:10] "stream table.";
    }
    cr2 CR2 "CR2" 0x2c 32 "more controls (§6.3.12)." {
        E2H "E2H" [0:0] "EL2 contexts are EL2-E2H.";
        RECINVSID "RECINVSID" [1:1] "record C_BAD_STREAMID.";
        PTM "PTM" [2:2] "do not take part in broadcast TLB maintenance.";
        REC_CFG_ATS "REC_CFG_ATS" [3:3] "record configuration faults of ATS requests.";
    }
    statusr STATUSR "STATUSR" 0x40 32 "status (§6.3.13)." {
        DORMANT "DORMANT" [0:0] "no cached translations.";
    }
    gbpa GBPA "GBPA" 0x44 32 "what happens to transactions while SMMUEN is 0 (§6.3.14)." {
        MEM_ATTR "MemAttr" [3:0] "memory type override.";
        MTCFG "MTCFG" [4:4] "use MemAttr.";
        ALLOCCFG "ALLOCCFG" [11:8] "allocation hints override.";
        SHCFG "SHCFG" [13:12] "shareability override.";
        PRIVCFG "PRIVCFG" [17:16] "privilege override.";
        INSTCFG "INSTCFG" [19:18] "instruction override.";
        ABORT "ABORT" [20:20] "abort everything.";
        UPDATE "Update" [31:31] "written 1 with a new value; reads 1 until that is in effect.";
    }
    irq_ctrl IRQ_CTRL "IRQ_CTRL" 0x50 32 "interrupt enables (§6.3.16)." {
        GERROR_IRQEN "GERROR_IRQEN" [0:0] "global errors.";
        PRIQ_IRQEN "PRIQ_IRQEN" [1:1] "PRI queue not empty.";
        EVENTQ_IRQEN "EVENTQ_IRQEN" [2:2] "event queue not empty.";
    }
    irq_ctrlack IRQ_CTRLACK "IRQ_CTRLACK" 0x54 32 "what of IRQ_CTRL is in effect (§6.3.18)." {
        GERROR_IRQEN "GERROR_IRQEN" [0:0] "as in IRQ_CTRL.";
        PRIQ_IRQEN "PRIQ_IRQEN" [1:1] "as in IRQ_CTRL.";
        EVENTQ_IRQEN "EVENTQ_IRQEN" [2:2] "as in IRQ_CTRL.";
    }
    gerror GERROR "GERROR" 0x60 32 "global errors: a bit is active while it differs from GERRORN (§6.3.19)." {
        CMDQ_ERR "CMDQ_ERR" [0:0] "the command queue stopped; CMDQ_CONS.ERR says why.";
        EVENTQ_ABT_ERR "EVENTQ_ABT_ERR" [2:2] "an event could not be written.";
        PRIQ_ABT_ERR "PRIQ_ABT_ERR" [3:3] "a page request could not be written.";
        MSI_CMDQ_ABT_ERR "MSI_CMDQ_ABT_ERR" [4:4] "a CMD_SYNC message was aborted.";
        MSI_EVENTQ_ABT_ERR "MSI_EVENTQ_ABT_ERR" [5:5] "an event queue message was aborted.";
        MSI_PRIQ_ABT_ERR "MSI_PRIQ_ABT_ERR" [6:6] "a PRI queue message was aborted.";
        MSI_GERROR_ABT_ERR "MSI_GERROR_ABT_ERR" [7:7] "a GERROR message was aborted.";
        SFM_ERR "SFM_ERR" [8:8] "service failure mode: the unit stopped.";
    }
    gerrorn GERRORN "GERRORN" 0x64 32 "acknowledged global errors (§6.3.20)." {
        CMDQ_ERR "CMDQ_ERR" [0:0] "as in GERROR.";
        EVENTQ_ABT_ERR "EVENTQ_ABT_ERR" [2:2] "as in GERROR.";
        PRIQ_ABT_ERR "PRIQ_ABT_ERR" [3:3] "as in GERROR.";
        MSI_CMDQ_ABT_ERR "MSI_CMDQ_ABT_ERR" [4:4] "as in GERROR.";
        MSI_EVENTQ_ABT_ERR "MSI_EVENTQ_ABT_ERR" [5:5] "as in GERROR.";
        MSI_PRIQ_ABT_ERR "MSI_PRIQ_ABT_ERR" [6:6] "as in GERROR.";
        MSI_GERROR_ABT_ERR "MSI_GERROR_ABT_ERR" [7:7] "as in GERROR.";
        SFM_ERR "SFM_ERR" [8:8] "as in GERROR.";
    }
    gerror_irq_cfg0 GERROR_IRQ_CFG0 "GERROR_IRQ_CFG0" 0x68 64 "message of global errors (§6.3.21)." {
        ADDR "ADDR" [55:2] "address; 0 for a wired interrupt.";
    }
    gerror_irq_cfg1 GERROR_IRQ_CFG1 "GERROR_IRQ_CFG1" 0x70 32 "message of global errors (§6.3.22)." {
        DATA "DATA" [31:0] "payload.";
    }
    gerror_irq_cfg2 GERROR_IRQ_CFG2 "GERROR_IRQ_CFG2" 0x74 32 "message of global errors (§6.3.23)." {
        MEM_ATTR "MemAttr" [3:0] "memory type.";
        SH "SH" [5:4] "shareability.";
    }
    strtab_base STRTAB_BASE "STRTAB_BASE" 0x80 64 "stream table (§6.3.24)." {
        ADDR "ADDR" [55:6] "address, aligned to the size of the table.";
        RA "RA" [62:62] "read-allocate hint.";
    }
    strtab_base_cfg STRTAB_BASE_CFG "STRTAB_BASE_CFG" 0x88 32 "stream table (§6.3.25)." {
        LOG2SIZE "LOG2SIZE" [5:0] "log2 of the number of StreamIDs covered.";
        SPLIT "SPLIT" [10:6] "StreamID bits of a second-level table: 6, 8 or 10.";
        FMT "FMT" [17:16] "see [`strtab_fmt`](super::strtab_fmt).";
    }
    cmdq_base CMDQ_BASE "CMDQ_BASE" 0x90 64 "command queue (§6.3.26)." {
        LOG2SIZE "LOG2SIZE" [4:0] "log2 of entries.";
        ADDR "ADDR" [55:5] "address, aligned to the size of the queue.";
        RA "RA" [62:62] "read-allocate hint.";
    }
    cmdq_prod CMDQ_PROD "CMDQ_PROD" 0x98 32 "command queue producer (§6.3.27)." {
        WR "WR" [19:0] "write index, and the wrap flag in bit LOG2SIZE.";
    }
    cmdq_cons CMDQ_CONS "CMDQ_CONS" 0x9c 32 "command queue consumer (§6.3.28)." {
        RD "RD" [19:0] "read index, and the wrap flag in bit LOG2SIZE.";
        ERR "ERR" [30:24] "why it stopped, see [`cerror`](super::cerror).";
    }
    eventq_base EVENTQ_BASE "EVENTQ_BASE" 0xa0 64 "event queue (§6.3.29)." {
        LOG2SIZE "LOG2SIZE" [4:0] "log2 of entries.";
        ADDR "ADDR" [55:5] "address, aligned to the size of the queue.";
        WA "WA" [62:62] "write-allocate hint.";
    }
    eventq_prod EVENTQ_PROD "EVENTQ_PROD" 0x1_00a8 32 "event queue producer, in page 1 (§6.3.95)." {
        WR "WR" [19:0] "write index, and the wrap flag in bit LOG2SIZE.";
        OVFLG "OVFLG" [31:31] "toggles when events were lost; an overflow is pending while it differs from OVACKFLG.";
    }
    eventq_cons EVENTQ_CONS "EVENTQ_CONS" 0x1_00ac 32 "event queue consumer, in page 1 (§6.3.96)." {
        RD "RD" [19:0] "read index, and the wrap flag in bit LOG2SIZE.";
        OVACKFLG "OVACKFLG" [31:31] "the last OVFLG that software has seen.";
    }
    eventq_irq_cfg0 EVENTQ_IRQ_CFG0 "EVENTQ_IRQ_CFG0" 0xb0 64 "message of the event queue (§6.3.30)." {
        ADDR "ADDR" [55:2] "address; 0 for a wired interrupt.";
    }
    eventq_irq_cfg1 EVENTQ_IRQ_CFG1 "EVENTQ_IRQ_CFG1" 0xb8 32 "message of the event queue (§6.3.31)." {
        DATA "DATA" [31:0] "payload.";
    }
    eventq_irq_cfg2 EVENTQ_IRQ_CFG2 "EVENTQ_IRQ_CFG2" 0xbc 32 "message of the event queue (§6.3.32)." {
        MEM_ATTR "MemAttr" [3:0] "memory type.";
        SH "SH" [5:4] "shareability.";
    }
    priq_base PRIQ_BASE "PRIQ_BASE" 0xc0 64 "PRI queue (§6.3.33)." {
        LOG2SIZE "LOG2SIZE" [4:0] "log2 of entries.";
        ADDR "ADDR" [55:5] "address, aligned to the size of the queue.";
        WA "WA" [62:62] "write-allocate hint.";
    }
    priq_prod PRIQ_PROD "PRIQ_PROD" 0x1_00c8 32 "PRI queue producer, in page 1 (§6.3.97)." {
        WR "WR" [19:0] "write index, and the wrap flag in bit LOG2SIZE.";
        OVFLG "OVFLG" [31:31] "toggles when requests were lost.";
    }
    priq_cons PRIQ_CONS "PRIQ_CONS" 0x1_00cc 32 "PRI queue consumer, in page 1 (§6.3.98)." {
        RD "RD" [19:0] "read index, and the wrap flag in bit LOG2SIZE.";
        OVACKFLG "OVACKFLG" [31:31] "the last OVFLG that software has seen.";
    }
    priq_irq_cfg0 PRIQ_IRQ_CFG0 "PRIQ_IRQ_CFG0" 0xd0 64 "message of the PRI queue (§6.3.34)." {
        ADDR "ADDR" [55:2] "address; 0 for a wired interrupt.";
    }
    priq_irq_cfg1 PRIQ_IRQ_CFG1 "PRIQ_IRQ_CFG1" 0xd8 32 "message of the PRI queue (§6.3.35)." {
        DATA "DATA" [31:0] "payload.";
    }
    priq_irq_cfg2 PRIQ_IRQ_CFG2 "PRIQ_IRQ_CFG2" 0xdc 32 "message of the PRI queue (§6.3.36)." {
        MEM_ATTR "MemAttr" [3:0] "memory type.";
        SH "SH" [5:4] "shareability.";
        LO "LO" [31:31] "interrupt only for the last request of a group.";
    }
}
