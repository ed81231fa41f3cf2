//! The golden field table of Intel VT-d, typed separately from this crate. Where from: registers and legacy structures from OpenBSD's `sys/dev/acpi/dmarreg.h` (2015), which gives bit positions as masks and shifts; `CAP`, `ECAP` and
//! `IQERCD` from Intel's register descriptions of the 14th generation of Core processors (bit ranges); scalable mode's structures from the setters of Linux's `drivers/iommu/intel/pasid.h`, whose comments give bit positions, and
//! from QEMU's `intel_iommu_internal.h`; where OpenBSD's header is
//! alone in its opinion (`CCMD.SID` from bit 8, the drain bits of `iotlb_inv_dsc` at 5 and 6), Linux's and QEMU's hold; fault reasons by counting the rows of the tables in Linux's `drivers/iommu/intel/dmar.c`.

use portcullis_spec::vtd as spec;
use portcullis_spec::{Code, Field, Layout};

/// Name, highest and lowest bit of the whole structure.
type Bits = (&'static str, u32, u32);

/// Name, offset, width in bits, fields.
#[rustfmt::skip]
const REGISTERS: &[(&str, usize, u8, &[Bits])] = &[
    ("VER", 0x00, 32, &[("MIN", 3, 0), ("MAX", 7, 4)]),
    ("CAP", 0x08, 64, &[("ND", 2, 0), ("AFL", 3, 3), ("RWBF", 4, 4), ("PLMR", 5, 5), ("PHMR", 6, 6), ("CM", 7, 7), ("SAGAW", 12, 8), ("MGAW", 21, 16), ("ZLR", 22, 22), ("FRO", 33, 24), ("SSLPS", 37, 34), ("PSI", 39, 39), ("NFR", 47, 40), ("MAMV", 53, 48), ("DWD", 54, 54), ("DRD", 55, 55), ("FS1GP", 56, 56), ("PI", 59, 59), ("FS5LP", 60, 60), ("ECMDS", 61, 61), ("ESIRTPS", 62, 62), ("ESRTPS", 63, 63)]),
    ("ECAP", 0x10, 64, &[("C", 0, 0), ("QI", 1, 1), ("DT", 2, 2), ("IR", 3, 3), ("EIM", 4, 4), ("PT", 6, 6), ("SC", 7, 7), ("IRO", 17, 8), ("MHMV", 23, 20), ("MTS", 25, 25), ("NEST", 26, 26), ("PRS", 29, 29), ("ERS", 30, 30), ("SRS", 31, 31), ("NWFS", 33, 33), ("EAFS", 34, 34), ("PSS", 39, 35), ("PASID", 40, 40), ("DIT", 41, 41), ("PDS", 42, 42), ("SMTS", 43, 43), ("VCS", 44, 44), ("SSADS", 45, 45), ("SSTS", 46, 46), ("FSTS", 47, 47), ("SMPWCS", 48, 48), ("RPS", 49, 49), ("PMS", 51, 51), ("ADMS", 52, 52), ("RPRIVS", 53, 53)]),
    ("GCMD", 0x18, 32, &[("CFI", 23, 23), ("SIRTP", 24, 24), ("IRE", 25, 25), ("QIE", 26, 26), ("WBF", 27, 27), ("EAFL", 28, 28), ("SFL", 29, 29), ("SRTP", 30, 30), ("TE", 31, 31)]),
    ("GSTS", 0x1c, 32, &[("CFIS", 23, 23), ("IRTPS", 24, 24), ("IRES", 25, 25), ("QIES", 26, 26), ("WBFS", 27, 27), ("AFLS", 28, 28), ("FLS", 29, 29), ("RTPS", 30, 30), ("TES", 31, 31)]),
    ("RTADDR", 0x20, 64, &[("TTM", 11, 10), ("RTA", 63, 12)]),
    ("CCMD", 0x28, 64, &[("DID", 15, 0), ("SID", 31, 16), ("FM", 33, 32), ("CAIG", 60, 59), ("CIRG", 62, 61), ("ICC", 63, 63)]),
    ("FSTS", 0x34, 32, &[("PFO", 0, 0), ("PPF", 1, 1), ("AFO", 2, 2), ("APF", 3, 3), ("IQE", 4, 4), ("ICE", 5, 5), ("ITE", 6, 6), ("FRI", 15, 8)]),
    ("FECTL", 0x38, 32, &[("IP", 30, 30), ("IM", 31, 31)]),
    ("FEDATA", 0x3c, 32, &[("IMD", 15, 0), ("EIMD", 31, 16)]),
    ("FEADDR", 0x40, 32, &[("MA", 31, 2)]),
    ("FEUADDR", 0x44, 32, &[("MUA", 31, 0)]),
    ("PMEN", 0x64, 32, &[("PRS", 0, 0), ("EPM", 31, 31)]),
    ("IQH", 0x80, 64, &[("QH", 18, 4)]),
    ("IQT", 0x88, 64, &[("QT", 18, 4)]),
    ("IQA", 0x90, 64, &[("QS", 2, 0), ("DW", 11, 11), ("IQA", 63, 12)]),
    ("ICS", 0x9c, 32, &[("IWC", 0, 0)]),
    ("IECTL", 0xa0, 32, &[("IP", 30, 30), ("IM", 31, 31)]),
    ("IQERCD", 0xb0, 64, &[("IQEI", 3, 0), ("ITESID", 47, 32), ("ICESID", 63, 48)]),
];

/// Name, 64-bit words, fields.
#[rustfmt::skip]
const LAYOUTS: &[(&str, usize, &[Bits])] = &[
    ("root entry", 2, &[("P", 0, 0), ("CTP", 63, 12), ("UP", 64, 64), ("UCTP", 127, 76)]),
    ("context entry", 2, &[("P", 0, 0), ("FPD", 1, 1), ("TT", 3, 2), ("SSPTPTR", 63, 12), ("AW", 66, 64), ("DID", 87, 72)]),
    ("scalable-mode context entry", 4, &[("P", 0, 0), ("FPD", 1, 1), ("DTE", 2, 2), ("PASIDE", 3, 3), ("PRE", 4, 4), ("PDTS", 11, 9), ("PASIDDIRPTR", 63, 12), ("RID_PASID", 83, 64), ("RID_PRIV", 84, 84)]),
    ("PASID directory entry", 1, &[("P", 0, 0), ("FPD", 1, 1), ("SMPTBLPTR", 63, 12)]),
    ("PASID table entry", 8, &[("P", 0, 0), ("FPD", 1, 1), ("AW", 4, 2), ("PGTT", 8, 6), ("SSADE", 9, 9), ("SSPTPTR", 63, 12), ("DID", 79, 64), ("PWSNP", 87, 87), ("PGSNP", 88, 88), ("SRE", 128, 128), ("FSPM", 131, 130), ("WPE", 132, 132), ("EAFE", 135, 135), ("FSPTPTR", 191, 140)]),
    ("cc_inv_dsc", 2, &[("Type", 3, 0), ("G", 5, 4), ("DID", 31, 16), ("SID", 47, 32), ("FM", 49, 48)]),
    ("pc_inv_dsc", 2, &[("Type", 3, 0), ("G", 5, 4), ("DID", 31, 16), ("PASID", 51, 32)]),
    ("iotlb_inv_dsc", 2, &[("Type", 3, 0), ("G", 5, 4), ("DW", 6, 6), ("DR", 7, 7), ("DID", 31, 16), ("AM", 69, 64), ("IH", 70, 70), ("ADDR", 127, 76)]),
    ("p_iotlb_inv_dsc", 2, &[("Type", 3, 0), ("G", 5, 4), ("DID", 31, 16), ("PASID", 51, 32), ("AM", 69, 64), ("IH", 70, 70), ("ADDR", 127, 76)]),
    ("inv_wait_dsc", 2, &[("Type", 3, 0), ("IF", 4, 4), ("SW", 5, 5), ("FN", 6, 6), ("PD", 7, 7), ("DATA", 63, 32), ("ADDR", 127, 66)]),
    ("FRCD", 2, &[("FI", 63, 12), ("SID", 79, 64), ("T2", 92, 92), ("PRIV", 93, 93), ("EXE", 94, 94), ("PP", 95, 95), ("FR", 103, 96), ("PV", 123, 104), ("AT", 125, 124), ("T1", 126, 126), ("F", 127, 127)]),
];

/// The rows of `dma_remap_fault_reasons`, from 1 on.
#[rustfmt::skip]
const LEGACY_REASONS: &[&str] = &["Present bit in root entry is clear", "Present bit in context entry is clear", "Invalid context entry", "Access beyond MGAW", "PTE Write access is not set", "PTE Read access is not set", "Next page table ptr is invalid", "Root table address invalid", "Context table ptr is invalid", "non-zero reserved fields in RTP", "non-zero reserved fields in CTP", "non-zero reserved fields in PTE", "PCE for translation request specifies blocking"];

/// The rows of `dma_remap_sm_fault_reasons` that this crate has, by their first number and in order.
#[rustfmt::skip]
const SCALABLE_REASONS: &[(u64, &[&str])] = &[
    (0x30, &["Invalid Root Table Address", "TTM 0 for request with PASID"]),
    (0x38, &["Error attempting to access Root Entry", "Present bit in Root Entry is clear", "Non-zero reserved field set in Root Entry"]),
    (0x40, &["Error attempting to access Context Entry", "Present bit in Context Entry is clear", "Non-zero reserved field set in the Context Entry", "Invalid Context Entry", "DTE field in Context Entry is clear", "PASID Enable field in Context Entry is clear", "PASID is larger than the max in Context Entry", "PRE field in Context-Entry is clear", "RID_PASID field error in Context-Entry"]),
    (0x50, &["Error attempting to access the PASID Directory Entry", "Present bit in Directory Entry is clear", "Non-zero reserved field set in PASID Directory Entry"]),
    (0x58, &["Error attempting to access PASID Table Entry", "Present bit in PASID Table Entry is clear", "Non-zero reserved field set in PASID Table Entry", "Invalid Scalable-Mode PASID Table Entry", "ERE field is clear in PASID Table Entry", "SRE field is clear in PASID Table Entry"]),
    (0x70, &["Error attempting to access first-level paging entry", "Present bit in first-level paging entry is clear", "Non-zero reserved field set in first-level paging entry", "Error attempting to access FL-PML4 entry"]),
    (0x78, &["Error attempting to access second-level paging entry", "Read/Write permission error in second-level paging entry", "Non-zero reserved field set in second-level paging entry", "Invalid second-level page table pointer"]),
    (0x80, &["Address in first-level translation is not canonical", "U/S set 0 for first-level translation with user privilege", "No execute permission for request with PASID and ER=1", "Address beyond the DMA hardware max"]),
    (0x85, &["No write permission for Write/AtomicOp request", "No read permission for Read/AtomicOp request", "Invalid address-interrupt address"]),
];

/// Numbers of descriptors and their granularities, translation types and modes: OpenBSD's `QI_*`, `CTX_*` and `IOTLB_*`, Linux's `PASID_ENTRY_PGTT_*`, QEMU's `VTD_CONTEXT_TT_*`.
#[rustfmt::skip]
const NUMBERS: &[(&[Code], &[u64])] = &[
    (spec::descriptor::kind::CODES, &[1, 2, 3, 4, 5, 6, 7]),
    (spec::descriptor::context_granularity::CODES, &[1, 2, 3]),
    (spec::descriptor::iotlb_granularity::CODES, &[1, 2, 3]),
    (spec::descriptor::pasid_iotlb_granularity::CODES, &[2, 3]),
    (spec::descriptor::pasid_cache_granularity::CODES, &[0, 1, 3]),
    (spec::tables::tt::CODES, &[0, 1, 2]),
    (spec::tables::pgtt::CODES, &[1, 2, 3, 4]),
    (spec::ttm::CODES, &[0, 1, 3]),
    (spec::iqei::CODES, &[0, 1, 2, 3, 4, 5]),
];

fn bits(fields: &[Field]) -> Vec<Bits> {
    fields.iter().map(|it| (it.name(), it.bit() + it.width() - 1, it.bit())).collect()
}

#[test]
fn registers_are_the_documents() {
    let ours: Vec<_> =
        spec::REGISTERS.iter().map(|it| (it.name, it.offset, it.bits, bits(it.fields))).collect();
    let theirs: Vec<_> = REGISTERS.iter().map(|it| (it.0, it.1, it.2, it.3.to_vec())).collect();
    assert_eq!(ours, theirs);
}

#[test]
fn structures_are_the_documents() {
    let ours: &[Layout] = &[
        spec::tables::root::LAYOUT,
        spec::tables::context::LAYOUT,
        spec::tables::scalable_context::LAYOUT,
        spec::tables::pasid_directory::LAYOUT,
        spec::tables::pasid::LAYOUT,
        spec::descriptor::context::LAYOUT,
        spec::descriptor::pasid_cache::LAYOUT,
        spec::descriptor::iotlb::LAYOUT,
        spec::descriptor::pasid_iotlb::LAYOUT,
        spec::descriptor::wait::LAYOUT,
        spec::fault::LAYOUT,
    ];
    let ours: Vec<_> = ours.iter().map(|it| (it.name, it.words, bits(it.fields))).collect();
    let theirs: Vec<_> = LAYOUTS.iter().map(|it| (it.0, it.1, it.2.to_vec())).collect();
    assert_eq!(ours, theirs);
}

#[test]
fn fault_reasons_are_where_linux_counts_them() {
    let legacy = (1..).zip(LEGACY_REASONS).map(|(value, name)| (value, (*name).to_string()));
    let scalable = SCALABLE_REASONS.iter().flat_map(|(first, names)| {
        (*first..).zip(*names).map(|(value, name)| (value, format!("SM: {name}")))
    });
    let theirs: Vec<_> = legacy.chain(scalable).collect();
    let codes = spec::fault::reason::CODES.iter();
    let ours: Vec<_> = codes.map(|code| (code.value, code.name.to_string())).collect();
    assert_eq!(ours, theirs);
}

#[test]
fn numbers_are_the_documents() {
    for (ours, theirs) in NUMBERS {
        let ours: Vec<_> = ours.iter().map(|code| code.value).collect();
        assert_eq!(ours, *theirs);
    }
}

/// The bits that are written back to `GCMD`: all but SRTP (30), SFL (29), WBF (27) and SIRTP (24), as Linux's and OpenBSD's masks have it.
#[test]
fn one_shot_commands_are_not_written_back() {
    let one_shot = [30, 29, 27, 24].iter().fold(0u32, |bits, bit| bits | 1 << bit);
    assert_eq!(spec::GCMD_KEPT, !one_shot);
}
