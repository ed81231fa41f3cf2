//! Records of the event log (2.5): 16 bytes each, code in bits `[63:60]`.

crate::layout::layout! { "IO_PAGE_FAULT", 2 words {
    DEVICE "DeviceID" [15:0] "whose access.";
    PASID_HI "PASID[19:16]" [19:16] "with GN.";
    DOMAIN "DomainID" [47:32] "its entry's domain; with GN the rest of the PASID.";
    GN "GN" [48:48] "a guest address.";
    NX "NX" [49:49] "a fetch.";
    US "US" [50:50] "a user's access.";
    I "I" [51:51] "an interrupt.";
    PR "PR" [52:52] "the page is present.";
    RW "RW" [53:53] "a write.";
    PE "PE" [54:54] "it may not be accessed that way.";
    RZ "RZ" [55:55] "a reserved bit is set; 0: an encoding that is none.";
    TR "TR" [56:56] "a translation request.";
    CODE "Event Code" [63:60] "see [`code`].";
    ADDRESS "Address" [127:64] "the device's address; of errors of the unit's own the physical one.";
} }

/// Event codes.
pub mod code {
    crate::layout::codes! {
        ILLEGAL_DEV_TABLE_ENTRY "ILLEGAL_DEV_TABLE_ENTRY" = 1 "a device's entry is none that may be (2.5.2).";
        IO_PAGE_FAULT "IO_PAGE_FAULT" = 2 "an access that the tables do not permit (2.5.3).";
        DEV_TAB_HARDWARE_ERROR "DEV_TAB_HARDWARE_ERROR" = 3 "an entry cannot be read (2.5.4).";
        PAGE_TAB_HARDWARE_ERROR "PAGE_TAB_HARDWARE_ERROR" = 4 "a page table cannot be read (2.5.5).";
        ILLEGAL_COMMAND_ERROR "ILLEGAL_COMMAND_ERROR" = 5 "a command is none that may be: the queue stops (2.5.6).";
        COMMAND_HARDWARE_ERROR "COMMAND_HARDWARE_ERROR" = 6 "a command cannot be read, or its data not be stored: the queue stops (2.5.7).";
        IOTLB_INV_TIMEOUT "IOTLB_INV_TIMEOUT" = 7 "a device did not invalidate in time (2.5.8).";
        INVALID_DEVICE_REQUEST "INVALID_DEVICE_REQUEST" = 8 "a transaction that the device may not send (2.5.9).";
        INVALID_PPR_REQUEST "INVALID_PPR_REQUEST" = 9 "a page request that it may not send (2.5.10).";
    }
}
