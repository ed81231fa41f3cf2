//! The golden field table of the RISC-V IOMMU: read by a program out of the diagrams in the source text of the specification (`riscv-non-isa/riscv-iommu`, version 1.0, the files `iommu_registers`,
//! `iommu_data_structures` and `iommu_in_memory_queues`), not typed, and compared with this crate both ways. Fields of later extensions are left out of both.

use portcullis_spec::riscv as spec;
use portcullis_spec::{Field, Layout};

/// Name, highest and lowest bit of the whole structure.
type Bits = (&'static str, u32, u32);

/// Name, offset, width in bits, section, fields.
#[rustfmt::skip]
const REGISTERS: &[(&str, usize, u8, &str, &[Bits])] = &[
    ("capabilities", 0x0, 64, "5.3", &[("version", 7, 0), ("Sv32", 8, 8), ("Sv39", 9, 9), ("Sv48", 10, 10), ("Sv57", 11, 11), ("Svpbmt", 15, 15), ("Sv32x4", 16, 16), ("Sv39x4", 17, 17), ("Sv48x4", 18, 18), ("Sv57x4", 19, 19), ("AMO_MRIF", 21, 21), ("MSI_FLAT", 22, 22), ("MSI_MRIF", 23, 23), ("AMO_HWAD", 24, 24), ("ATS", 25, 25), ("T2GPA", 26, 26), ("END", 27, 27), ("IGS", 29, 28), ("HPM", 30, 30), ("DBG", 31, 31), ("PAS", 37, 32), ("PD8", 38, 38), ("PD17", 39, 39), ("PD20", 40, 40)]),
    ("fctl", 0x8, 32, "5.4", &[("BE", 0, 0), ("WSI", 1, 1), ("GXL", 2, 2)]),
    ("ddtp", 0x10, 64, "5.5", &[("iommu_mode", 3, 0), ("busy", 4, 4), ("PPN", 53, 10)]),
    ("cqb", 0x18, 64, "5.6", &[("LOG2SZ-1", 4, 0), ("PPN", 53, 10)]),
    ("cqh", 0x20, 32, "5.7", &[("index", 31, 0)]),
    ("cqt", 0x24, 32, "5.8", &[("index", 31, 0)]),
    ("fqb", 0x28, 64, "5.9", &[("LOG2SZ-1", 4, 0), ("PPN", 53, 10)]),
    ("fqh", 0x30, 32, "5.10", &[("index", 31, 0)]),
    ("fqt", 0x34, 32, "5.11", &[("index", 31, 0)]),
    ("pqb", 0x38, 64, "5.12", &[("LOG2SZ-1", 4, 0), ("PPN", 53, 10)]),
    ("pqh", 0x40, 32, "5.13", &[("index", 31, 0)]),
    ("pqt", 0x44, 32, "5.14", &[("index", 31, 0)]),
    ("cqcsr", 0x48, 32, "5.15", &[("cqen", 0, 0), ("cie", 1, 1), ("cqmf", 8, 8), ("cmd_to", 9, 9), ("cmd_ill", 10, 10), ("fence_w_ip", 11, 11), ("cqon", 16, 16), ("busy", 17, 17)]),
    ("fqcsr", 0x4c, 32, "5.16", &[("fqen", 0, 0), ("fie", 1, 1), ("fqmf", 8, 8), ("fqof", 9, 9), ("fqon", 16, 16), ("busy", 17, 17)]),
    ("pqcsr", 0x50, 32, "5.17", &[("pqen", 0, 0), ("pie", 1, 1), ("pqmf", 8, 8), ("pqof", 9, 9), ("pqon", 16, 16), ("busy", 17, 17)]),
    ("ipsr", 0x54, 32, "5.18", &[("cip", 0, 0), ("fip", 1, 1), ("pmip", 2, 2), ("pip", 3, 3)]),
    ("icvec", 0x2f8, 64, "5.27", &[("civ", 3, 0), ("fiv", 7, 4), ("pmiv", 11, 8), ("piv", 15, 12)]),
    ("msi_addr_0", 0x300, 64, "5.28", &[("ADDR", 55, 2)]),
    ("msi_data_0", 0x308, 32, "5.28", &[("data", 31, 0)]),
    ("msi_vec_ctl_0", 0x30c, 32, "5.28", &[("M", 0, 0)]),
];

/// Name, 64-bit words, section, fields.
#[rustfmt::skip]
const LAYOUTS: &[(&str, usize, &str, &[Bits])] = &[
    ("DDTE", 1, "2.1.1", &[("V", 0, 0), ("PPN", 53, 10)]),
    ("DC", 8, "2.1.3", &[("tc.V", 0, 0), ("tc.EN_ATS", 1, 1), ("tc.EN_PRI", 2, 2), ("tc.T2GPA", 3, 3), ("tc.DTF", 4, 4), ("tc.PDTV", 5, 5), ("tc.PRPR", 6, 6), ("tc.GADE", 7, 7), ("tc.SADE", 8, 8), ("tc.DPE", 9, 9), ("tc.SBE", 10, 10), ("tc.SXL", 11, 11), ("iohgatp.PPN", 107, 64), ("iohgatp.GSCID", 123, 108), ("iohgatp.MODE", 127, 124), ("ta.PSCID", 159, 140), ("fsc.PPN", 235, 192), ("fsc.MODE", 255, 252), ("msiptp.PPN", 299, 256), ("msiptp.MODE", 319, 316), ("msi_addr_mask", 371, 320), ("msi_addr_pattern", 435, 384)]),
    ("IOTINVAL", 2, "3.1.1", &[("opcode", 6, 0), ("func3", 9, 7), ("AV", 10, 10), ("PSCID", 31, 12), ("PSCV", 32, 32), ("GV", 33, 33), ("GSCID", 59, 44), ("ADDR", 125, 74)]),
    ("IOFENCE", 2, "3.1.2", &[("opcode", 6, 0), ("func3", 9, 7), ("AV", 10, 10), ("WSI", 11, 11), ("PR", 12, 12), ("PW", 13, 13), ("DATA", 63, 32), ("ADDR", 125, 64)]),
    ("IODIR", 2, "3.1.3", &[("opcode", 6, 0), ("func3", 9, 7), ("PID", 31, 12), ("DV", 33, 33), ("DID", 63, 40)]),
    ("fault record", 4, "3.2", &[("CAUSE", 11, 0), ("PID", 31, 12), ("PV", 32, 32), ("PRIV", 33, 33), ("TTYP", 39, 34), ("DID", 63, 40), ("iotval", 191, 128), ("iotval2", 255, 192)]),
];

/// 3.2, "Fault record CAUSE field encodings".
#[rustfmt::skip]
const CAUSES: &[(&str, u64)] = &[("Instruction access fault", 1), ("Read address misaligned", 4), ("Read access fault", 5), ("Write/AMO address misaligned", 6), ("Write/AMO access fault", 7), ("Instruction page fault", 12), ("Read page fault", 13), ("Write/AMO page fault", 15), ("Instruction guest page fault", 20), ("Read guest-page fault", 21), ("Write/AMO guest-page fault", 23), ("All inbound transactions disallowed", 256), ("DDT entry load access fault", 257), ("DDT entry not valid", 258), ("DDT entry misconfigured", 259), ("Transaction type disallowed", 260), ("MSI PTE load access fault", 261), ("MSI PTE not valid", 262), ("MSI PTE misconfigured", 263), ("MRIF access fault", 264), ("PDT entry load access fault", 265), ("PDT entry not valid", 266), ("PDT entry misconfigured", 267), ("DDT data corruption", 268), ("PDT data corruption", 269), ("MSI PT data corruption", 270), ("MSI MRIF data corruption", 271), ("Internal data path error", 272), ("IOMMU MSI write access fault", 273), ("First/second-stage PT data corruption", 274)];

fn bits(fields: &[Field]) -> Vec<Bits> {
    let all = fields.iter().map(|it| (it.name(), it.bit() + it.width() - 1, it.bit()));
    all.collect()
}

/// Where `ours` and the document's fields differ; nothing where they are the same.
fn compare(what: &str, ours: &[Field], theirs: &[Bits]) -> Vec<String> {
    let ours = bits(ours);
    let extra =
        ours.iter().filter(|it| !theirs.contains(it)).map(|it| format!("{what}: only ours {it:?}"));
    let missing =
        theirs.iter().filter(|it| !ours.contains(it)).map(|it| format!("{what}: missing {it:?}"));
    extra.chain(missing).collect()
}

#[test]
fn registers_are_the_documents() {
    assert_eq!(spec::REGISTERS.len(), REGISTERS.len());
    for (name, offset, width, section, fields) in REGISTERS {
        let ours = spec::REGISTERS.iter().find(|register| register.name == *name);
        let ours = ours.unwrap_or_else(|| panic!("{name} ({section}) is missing"));
        assert_eq!((ours.offset, ours.bits), (*offset, *width), "{name} ({section})");
        let wrong = compare(name, ours.fields, fields);
        assert!(wrong.is_empty(), "{section}: {wrong:?}");
    }
}

#[test]
fn structures_are_the_documents() {
    let ours: &[Layout] = &[
        spec::ddte::LAYOUT,
        spec::dc::LAYOUT,
        spec::command::iotinval::LAYOUT,
        spec::command::iofence::LAYOUT,
        spec::command::iodir::LAYOUT,
        spec::fault::LAYOUT,
    ];
    assert_eq!(ours.len(), LAYOUTS.len());
    for (name, words, section, fields) in LAYOUTS {
        let ours = ours.iter().find(|layout| layout.name == *name);
        let ours = ours.unwrap_or_else(|| panic!("{name} ({section}) is missing"));
        assert_eq!(ours.words, *words, "{name} ({section})");
        let wrong = compare(name, ours.fields, fields);
        assert!(wrong.is_empty(), "{section}: {wrong:?}");
    }
}

#[test]
fn causes_are_the_documents() {
    let ours: Vec<_> =
        spec::fault::cause::CODES.iter().map(|code| (code.name, code.value)).collect();
    assert_eq!(ours, CAUSES);
}

/// A moved field, one of another width and one that is missing are each seen.
#[test]
fn the_comparison_sees_what_is_wrong() {
    let right: &[Bits] = &[("A", 0, 0), ("B", 7, 4)];
    assert!(compare("X", &[Field::new("A", 0, 0), Field::new("B", 7, 4)], right).is_empty());
    for wrong in [
        &[Field::new("A", 0, 0), Field::new("B", 8, 5)][..],
        &[Field::new("A", 1, 0), Field::new("B", 7, 4)],
        &[Field::new("A", 0, 0)],
        &[Field::new("A", 0, 0), Field::new("C", 7, 4)],
    ] {
        assert!(!compare("X", wrong, right).is_empty());
    }
}
