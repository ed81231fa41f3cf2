//! Fault recording registers (11.4.14) and fault reasons (7.2.3).

crate::layout::layout! { "FRCD", 2 words {
    FI "FI" [63:12] "bits 63:12 of the device's address.";
    SID "SID" [79:64] "source id.";
    T2 "T2" [92:92] "kind of request, second bit: page and atomic requests.";
    PRIV "PRIV" [93:93] "a privileged request, with PP.";
    EXE "EXE" [94:94] "an execute request, with PP.";
    PP "PP" [95:95] "PV counts.";
    FR "FR" [103:96] "see [`reason`].";
    PV "PV" [123:104] "the PASID, with PP.";
    AT "AT" [125:124] "the request's own address type.";
    T1 "T1" [126:126] "0 a write, 1 a read.";
    F "F" [127:127] "there is a fault here; written 1 to free the register.";
} }

/// Values of `FR`: those of legacy mode below 0x20, of interrupt remapping below 0x30, of scalable mode from there on (7.2.3). The names are the words of Linux's log.
pub mod reason {
    crate::layout::codes! {
        ROOT_NOT_PRESENT "Present bit in root entry is clear" = 0x1 "root entry not present.";
        CONTEXT_NOT_PRESENT "Present bit in context entry is clear" = 0x2 "context entry not present.";
        CONTEXT_INVALID "Invalid context entry" = 0x3 "a context entry that must not be.";
        BEYOND_WIDTH "Access beyond MGAW" = 0x4 "the address is too wide.";
        NO_WRITE "PTE Write access is not set" = 0x5 "no write permission, or nothing mapped.";
        NO_READ "PTE Read access is not set" = 0x6 "no read permission, or nothing mapped.";
        TABLE_ACCESS "Next page table ptr is invalid" = 0x7 "a page table cannot be read.";
        ROOT_ACCESS "Root table address invalid" = 0x8 "the root table cannot be read.";
        CONTEXT_ACCESS "Context table ptr is invalid" = 0x9 "a context table cannot be read.";
        ROOT_RESERVED "non-zero reserved fields in RTP" = 0xa "reserved bits of a root entry.";
        CONTEXT_RESERVED "non-zero reserved fields in CTP" = 0xb "reserved bits of a context entry.";
        TABLE_RESERVED "non-zero reserved fields in PTE" = 0xc "reserved bits of a page table entry.";
        TYPE_BLOCKED "PCE for translation request specifies blocking" = 0xd "the context entry blocks this kind of request.";
        RTADDR_INVALID "SM: Invalid Root Table Address" = 0x30 "`RTADDR` says a mode that there is not.";
        TTM_PASID "SM: TTM 0 for request with PASID" = 0x31 "a PASID in legacy mode.";
        SM_ROOT_ACCESS "SM: Error attempting to access Root Entry" = 0x38 "scalable mode: the root table cannot be read.";
        SM_ROOT_NOT_PRESENT "SM: Present bit in Root Entry is clear" = 0x39 "scalable mode: root entry not present.";
        SM_ROOT_RESERVED "SM: Non-zero reserved field set in Root Entry" = 0x3a "scalable mode: reserved bits of a root entry.";
        SM_CONTEXT_ACCESS "SM: Error attempting to access Context Entry" = 0x40 "scalable mode: a context table cannot be read.";
        SM_CONTEXT_NOT_PRESENT "SM: Present bit in Context Entry is clear" = 0x41 "scalable mode: context entry not present.";
        SM_CONTEXT_RESERVED "SM: Non-zero reserved field set in the Context Entry" = 0x42 "scalable mode: reserved bits of a context entry.";
        SM_CONTEXT_INVALID "SM: Invalid Context Entry" = 0x43 "scalable mode: a context entry that must not be.";
        DTE_CLEAR "SM: DTE field in Context Entry is clear" = 0x44 "the device has no device TLB.";
        PASIDE_CLEAR "SM: PASID Enable field in Context Entry is clear" = 0x45 "the device has no PASIDs.";
        PASID_TOO_LARGE "SM: PASID is larger than the max in Context Entry" = 0x46 "beyond the PASID directory.";
        PRE_CLEAR "SM: PRE field in Context-Entry is clear" = 0x47 "the device has no page requests.";
        RID_PASID_INVALID "SM: RID_PASID field error in Context-Entry" = 0x48 "`RID_PASID` is beyond the PASID directory.";
        DIRECTORY_ACCESS "SM: Error attempting to access the PASID Directory Entry" = 0x50 "a PASID directory cannot be read.";
        DIRECTORY_NOT_PRESENT "SM: Present bit in Directory Entry is clear" = 0x51 "PASID directory entry not present.";
        DIRECTORY_RESERVED "SM: Non-zero reserved field set in PASID Directory Entry" = 0x52 "reserved bits of a PASID directory entry.";
        PASID_ACCESS "SM: Error attempting to access PASID Table Entry" = 0x58 "a PASID table cannot be read.";
        PASID_NOT_PRESENT "SM: Present bit in PASID Table Entry is clear" = 0x59 "PASID table entry not present.";
        PASID_RESERVED "SM: Non-zero reserved field set in PASID Table Entry" = 0x5a "reserved bits of a PASID table entry.";
        PASID_INVALID "SM: Invalid Scalable-Mode PASID Table Entry" = 0x5b "a PASID table entry that must not be.";
        ERE_CLEAR "SM: ERE field is clear in PASID Table Entry" = 0x5c "execute requests are not enabled.";
        SRE_CLEAR "SM: SRE field is clear in PASID Table Entry" = 0x5d "supervisor requests are not enabled.";
        FIRST_ACCESS "SM: Error attempting to access first-level paging entry" = 0x70 "a table of the first stage cannot be read.";
        FIRST_NOT_PRESENT "SM: Present bit in first-level paging entry is clear" = 0x71 "first stage: not present.";
        FIRST_RESERVED "SM: Non-zero reserved field set in first-level paging entry" = 0x72 "first stage: reserved bits.";
        FIRST_ROOT_ACCESS "SM: Error attempting to access FL-PML4 entry" = 0x73 "the first stage's root cannot be read.";
        SECOND_ACCESS "SM: Error attempting to access second-level paging entry" = 0x78 "a table of the second stage cannot be read.";
        SECOND_PERMISSION "SM: Read/Write permission error in second-level paging entry" = 0x79 "second stage: not permitted, or nothing mapped.";
        SECOND_RESERVED "SM: Non-zero reserved field set in second-level paging entry" = 0x7a "second stage: reserved bits.";
        SECOND_ROOT_INVALID "SM: Invalid second-level page table pointer" = 0x7b "the second stage's root pointer is no good.";
        NOT_CANONICAL "SM: Address in first-level translation is not canonical" = 0x80 "first stage: the address is not sign-extended.";
        USER "SM: U/S set 0 for first-level translation with user privilege" = 0x81 "first stage: no user access.";
        NO_EXECUTE "SM: No execute permission for request with PASID and ER=1" = 0x82 "first stage: no execution.";
        SM_BEYOND_WIDTH "SM: Address beyond the DMA hardware max" = 0x83 "second stage: the address is too wide.";
        SM_NO_WRITE "SM: No write permission for Write/AtomicOp request" = 0x85 "first stage: no write permission.";
        SM_NO_READ "SM: No read permission for Read/AtomicOp request" = 0x86 "first stage: no read permission.";
        INTERRUPT_ADDRESS "SM: Invalid address-interrupt address" = 0x87 "a request with a PASID to the range of interrupts, or a leaf there.";
    }
}
