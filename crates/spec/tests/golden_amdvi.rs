//! The golden field table of AMD's IOMMU: typed from the comments in VirtualBox's `VBox/iommu-amd.h`, which cites the document (48882, revision 3.05) field by field, apart from this crate's own declarations,
//! and compared with these both ways. Registers' offsets were compared with Linux's `amd_iommu_types.h` too.

use portcullis_spec::amdvi as spec;
use portcullis_spec::{Code, Field, Layout};

/// Name, highest and lowest bit of the whole structure.
type Bits = (&'static str, u32, u32);

/// Name, offset, fields.
#[rustfmt::skip]
const REGISTERS: &[(&str, usize, &[Bits])] = &[
    ("Device Table Base Address", 0x00, &[("Size", 8, 0), ("DevTabBase", 51, 12)]),
    ("Command Buffer Base Address", 0x08, &[("ComBase", 51, 12), ("ComLen", 59, 56)]),
    ("Event Log Base Address", 0x10, &[("EventBase", 51, 12), ("EventLen", 59, 56)]),
    ("IOMMU Control", 0x18, &[("IommuEn", 0, 0), ("HtTunEn", 1, 1), ("EventLogEn", 2, 2), ("EventIntEn", 3, 3), ("ComWaitIntEn", 4, 4), ("InvTimeOut", 7, 5), ("PassPW", 8, 8), ("ResPassPW", 9, 9), ("Coherent", 10, 10), ("Isoc", 11, 11), ("CmdBufEn", 12, 12), ("PPRLogEn", 13, 13), ("PPRIntEn", 14, 14), ("PPREn", 15, 15), ("GTEn", 16, 16), ("GAEn", 17, 17), ("GALogEn", 28, 28), ("GAIntEn", 29, 29), ("DevTblSegEn", 36, 34)]),
    ("Exclusion Base", 0x20, &[("ExEn", 0, 0), ("Allow", 1, 1), ("Exclusion Base", 51, 12)]),
    ("Exclusion Range Limit", 0x28, &[("Exclusion Limit", 51, 12)]),
    ("Extended Feature", 0x30, &[("PreFSup", 0, 0), ("PPRSup", 1, 1), ("XTSup", 2, 2), ("NXSup", 3, 3), ("GTSup", 4, 4), ("IASup", 6, 6), ("GASup", 7, 7), ("HESup", 8, 8), ("PCSup", 9, 9), ("HATS", 11, 10), ("GATS", 13, 12), ("GLXSup", 15, 14), ("DevTblSegSup", 39, 38), ("GIoSup", 48, 48), ("HASup", 49, 49), ("HDSup", 52, 52)]),
    ("Device Table Segment 1 Base Address", 0x100, &[("Size", 7, 0), ("DevTabBase", 51, 12)]),
    ("Command Buffer Head Pointer", 0x2000, &[("CmdHeadPtr", 18, 4)]),
    ("Command Buffer Tail Pointer", 0x2008, &[("CmdTailPtr", 18, 4)]),
    ("Event Log Head Pointer", 0x2010, &[("EventHeadPtr", 18, 4)]),
    ("Event Log Tail Pointer", 0x2018, &[("EventTailPtr", 18, 4)]),
    ("IOMMU Status", 0x2020, &[("EventOverflow", 0, 0), ("EventLogInt", 1, 1), ("ComWaitInt", 2, 2), ("EventLogRun", 3, 3), ("CmdBufRun", 4, 4), ("PPROverflow", 5, 5), ("PPRInt", 6, 6), ("PPRLogRun", 7, 7), ("GALogRun", 8, 8)]),
];

/// Name, 64-bit words, section, fields.
#[rustfmt::skip]
const LAYOUTS: &[(&str, usize, &str, &[Bits])] = &[
    ("DTE", 4, "2.2.2.1", &[("V", 0, 0), ("TV", 1, 1), ("HAD", 8, 7), ("Mode", 11, 9), ("Page Table Root Pointer", 51, 12), ("PPR", 52, 52), ("GPRP", 53, 53), ("GIoV", 54, 54), ("GV", 55, 55), ("GLX", 57, 56), ("GCR3 TRP[14:12]", 60, 58), ("IR", 61, 61), ("IW", 62, 62), ("DomainID", 79, 64), ("GCR3 TRP[30:15]", 95, 80), ("I", 96, 96), ("SE", 97, 97), ("SA", 98, 98), ("IoCtl", 100, 99), ("Cache", 101, 101), ("SD", 102, 102), ("EX", 103, 103), ("SysMgt", 105, 104), ("GCR3 TRP[51:31]", 127, 107), ("IV", 128, 128), ("IntTabLen", 132, 129), ("IG", 133, 133), ("Interrupt Table Root Pointer", 179, 134), ("InitPass", 184, 184), ("EIntPass", 185, 185), ("NMIPass", 186, 186), ("IntCtl", 189, 188), ("Lint0Pass", 190, 190), ("Lint1Pass", 191, 191), ("AttrV", 246, 246), ("Mode0FC", 247, 247), ("SnoopAttribute", 255, 248)]),
    ("COMPLETION_WAIT", 2, "2.4.1", &[("s", 0, 0), ("i", 1, 1), ("f", 2, 2), ("Store Address", 51, 3), ("OpCode", 63, 60), ("Store Data", 127, 64)]),
    ("INVALIDATE_DEVTAB_ENTRY", 2, "2.4.2", &[("DeviceID", 15, 0), ("OpCode", 63, 60)]),
    ("INVALIDATE_IOMMU_PAGES", 2, "2.4.3", &[("PASID", 19, 0), ("DomainID", 47, 32), ("OpCode", 63, 60), ("S", 64, 64), ("PDE", 65, 65), ("GN", 66, 66), ("Address", 127, 76)]),
    ("IO_PAGE_FAULT", 2, "2.5.3", &[("DeviceID", 15, 0), ("PASID[19:16]", 19, 16), ("DomainID", 47, 32), ("GN", 48, 48), ("NX", 49, 49), ("US", 50, 50), ("I", 51, 51), ("PR", 52, 52), ("RW", 53, 53), ("PE", 54, 54), ("RZ", 55, 55), ("TR", 56, 56), ("Event Code", 63, 60), ("Address", 127, 64)]),
];

/// 2.4 and 2.5.
const OPCODES: &[(&str, u64)] = &[
    ("COMPLETION_WAIT", 1),
    ("INVALIDATE_DEVTAB_ENTRY", 2),
    ("INVALIDATE_IOMMU_PAGES", 3),
    ("INVALIDATE_IOTLB_PAGES", 4),
    ("INVALIDATE_INTERRUPT_TABLE", 5),
    ("PREFETCH_IOMMU_PAGES", 6),
    ("COMPLETE_PPR_REQUEST", 7),
    ("INVALIDATE_IOMMU_ALL", 8),
];
const EVENTS: &[(&str, u64)] = &[
    ("ILLEGAL_DEV_TABLE_ENTRY", 1),
    ("IO_PAGE_FAULT", 2),
    ("DEV_TAB_HARDWARE_ERROR", 3),
    ("PAGE_TAB_HARDWARE_ERROR", 4),
    ("ILLEGAL_COMMAND_ERROR", 5),
    ("COMMAND_HARDWARE_ERROR", 6),
    ("IOTLB_INV_TIMEOUT", 7),
    ("INVALID_DEVICE_REQUEST", 8),
    ("INVALID_PPR_REQUEST", 9),
];

/// Where `ours` and the document's fields differ; nothing where they are the same.
fn compare(what: &str, ours: &[Field], theirs: &[Bits]) -> Vec<String> {
    let bits = |it: &Field| (it.name(), it.bit() + it.width() - 1, it.bit());
    let ours: Vec<Bits> = ours.iter().map(bits).collect();
    let extra = ours.iter().filter(|it| !theirs.contains(it));
    let missing = theirs.iter().filter(|it| !ours.contains(it));
    let extra = extra.map(|it| format!("{what}: only ours {it:?}"));
    extra.chain(missing.map(|it| format!("{what}: missing {it:?}"))).collect()
}

#[test]
fn registers_are_the_documents() {
    assert_eq!(spec::REGISTERS.len(), REGISTERS.len());
    for (name, offset, fields) in REGISTERS {
        let ours = spec::REGISTERS.iter().find(|register| register.name == *name);
        let ours = ours.unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!((ours.offset, ours.bits), (*offset, 64), "{name}");
        assert_eq!(compare(name, ours.fields, fields), [""; 0]);
    }
}

#[test]
fn structures_are_the_documents() {
    let ours: &[Layout] = &[
        spec::dte::LAYOUT,
        spec::command::completion_wait::LAYOUT,
        spec::command::invalidate_entry::LAYOUT,
        spec::command::invalidate_pages::LAYOUT,
        spec::event::LAYOUT,
    ];
    assert_eq!(ours.len(), LAYOUTS.len());
    for (name, words, section, fields) in LAYOUTS {
        let ours = ours.iter().find(|layout| layout.name == *name);
        let ours = ours.unwrap_or_else(|| panic!("{name} ({section}) is missing"));
        assert_eq!(ours.words, *words, "{name} ({section})");
        assert_eq!(compare(name, ours.fields, fields), [""; 0], "{section}");
    }
}

#[test]
fn numbers_are_the_documents() {
    let ours =
        |codes: &[Code]| codes.iter().map(|code| (code.name, code.value)).collect::<Vec<_>>();
    assert_eq!(ours(spec::command::opcode::CODES), OPCODES);
    assert_eq!(ours(spec::event::code::CODES), EVENTS);
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
