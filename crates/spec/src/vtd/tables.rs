//! Structures in memory (chapter 9).

/// A root entry: one for each bus, 256 to a page. In scalable mode the two halves lead to the contexts of devices 0 to 15 and 16 to 31 (9.1, 9.2).
pub mod root {
    crate::layout::layout! { "root entry", 2 words {
        P "P" [0:0] "the lower half is present; in legacy mode the whole.";
        CTP "CTP" [63:12] "bits 63:12 of the context table, or of the lower one.";
        UP "UP" [64:64] "scalable mode: the upper half is present. Reserved in legacy mode.";
        UCTP "UCTP" [127:76] "scalable mode: bits 63:12 of the upper context table. Reserved in legacy mode.";
    } }
}

/// A context entry of legacy mode, one for each function of a bus (9.3).
pub mod context {
    crate::layout::layout! { "context entry", 2 words {
        P "P" [0:0] "present; 0: the rest is ignored.";
        FPD "FPD" [1:1] "faults are not recorded.";
        TT "TT" [3:2] "see [`tt`](super::tt).";
        SSPTPTR "SSPTPTR" [63:12] "bits 63:12 of the second stage's root.";
        AW "AW" [66:64] "levels of the second stage, minus 2.";
        DID "DID" [87:72] "domain id.";
    } }
}

/// Values of `TT` of a context entry (9.3).
pub mod tt {
    crate::layout::codes! {
        UNTRANSLATED "untranslated requests only" = 0 "requests are translated, those of a device TLB are blocked.";
        ALL "all requests" = 1 "requests of a device TLB too.";
        PASS_THROUGH "pass-through" = 2 "addresses are passed unchanged; with `ECAP.PT`.";
    }
}

/// A context entry of scalable mode, 128 to a page (9.4).
pub mod scalable_context {
    crate::layout::layout! { "scalable-mode context entry", 4 words {
        P "P" [0:0] "present; 0: the rest is ignored.";
        FPD "FPD" [1:1] "faults are not recorded.";
        DTE "DTE" [2:2] "device TLB.";
        PASIDE "PASIDE" [3:3] "requests with a PASID.";
        PRE "PRE" [4:4] "page requests.";
        PDTS "PDTS" [11:9] "log2 of the entries of the PASID directory, minus 7.";
        PASIDDIRPTR "PASIDDIRPTR" [63:12] "bits 63:12 of the PASID directory.";
        RID_PASID "RID_PASID" [83:64] "the PASID of requests without one.";
        RID_PRIV "RID_PRIV" [84:84] "these requests are privileged.";
    } }
}

/// An entry of a PASID directory (9.5). Each stands for 64 PASIDs.
pub mod pasid_directory {
    crate::layout::layout! { "PASID directory entry", 1 words {
        P "P" [0:0] "present; 0: the rest is ignored.";
        FPD "FPD" [1:1] "faults are not recorded.";
        SMPTBLPTR "SMPTBLPTR" [63:12] "bits 63:12 of the PASID table.";
    } }
}

/// An entry of a PASID table, 64 to a page (9.6).
pub mod pasid {
    crate::layout::layout! { "PASID table entry", 8 words {
        P "P" [0:0] "present; 0: the rest is ignored.";
        FPD "FPD" [1:1] "faults are not recorded.";
        AW "AW" [4:2] "levels of the second stage, minus 2.";
        PGTT "PGTT" [8:6] "see [`pgtt`](super::pgtt).";
        SSADE "SSADE" [9:9] "second stage: accessed and dirty flags are set.";
        SSPTPTR "SSPTPTR" [63:12] "bits 63:12 of the second stage's root.";
        DID "DID" [79:64] "domain id.";
        PWSNP "PWSNP" [87:87] "page walks are snooped; with `ECAP.SMPWCS`.";
        PGSNP "PGSNP" [88:88] "the device's accesses are snooped whatever they say; with `ECAP.SC`.";
        SRE "SRE" [128:128] "first stage: supervisor requests.";
        FSPM "FSPM" [131:130] "levels of the first stage, minus 4.";
        WPE "WPE" [132:132] "first stage: write protection holds for supervisor requests.";
        EAFE "EAFE" [135:135] "first stage: extended accessed flags are set.";
        FSPTPTR "FSPTPTR" [191:140] "bits 63:12 of the first stage's root.";
    } }
}

/// Values of `PGTT` of a PASID table entry (9.6).
pub mod pgtt {
    crate::layout::codes! {
        FIRST "first-stage" = 1 "first stage only.";
        SECOND "second-stage" = 2 "second stage only.";
        NESTED "nested" = 3 "first stage behind a second one.";
        PASS_THROUGH "pass-through" = 4 "addresses are passed unchanged.";
    }
}
