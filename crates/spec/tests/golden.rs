//! The golden field table: positions taken from the document (Arm IHI 0070 G.b, chapters 4 to 7), not from this crate's source, and compared with it
//! both ways. What QEMU's SMMUv3 was seen to accept and to write is the second witness.

use portcullis_spec::smmuv3 as spec;
use portcullis_spec::{Code, Field};

/// Name, highest and lowest bit of the whole structure, as the document prints them.
type Bits = (&'static str, u32, u32);

/// Name, offset, width in bits, section, fields. Names without the prefix `SMMU_`.
#[rustfmt::skip]
const REGISTERS: &[(&str, usize, u8, &str, &[Bits])] = &[
    ("IDR0", 0x0, 32, "6.3.1", &[("S2P", 0, 0), ("S1P", 1, 1), ("TTF", 3, 2), ("COHACC", 4, 4), ("BTM", 5, 5), ("HTTU", 7, 6), ("DORMHINT", 8, 8), ("Hyp", 9, 9), ("ATS", 10, 10), ("NS1ATS", 11, 11), ("ASID16", 12, 12), ("MSI", 13, 13), ("SEV", 14, 14), ("ATOS", 15, 15), ("PRI", 16, 16), ("VMW", 17, 17), ("VMID16", 18, 18), ("CD2L", 19, 19), ("VATOS", 20, 20), ("TTENDIAN", 22, 21), ("ATSRECERR", 23, 23), ("STALL_MODEL", 25, 24), ("TERM_MODEL", 26, 26), ("ST_LEVEL", 28, 27), ("RME_IMPL", 30, 30)]),
    ("IDR1", 0x4, 32, "6.3.2", &[("SIDSIZE", 5, 0), ("SSIDSIZE", 10, 6), ("PRIQS", 15, 11), ("EVENTQS", 20, 16), ("CMDQS", 25, 21), ("ATTR_PERMS_OVR", 26, 26), ("ATTR_TYPES_OVR", 27, 27), ("REL", 28, 28), ("QUEUES_PRESET", 29, 29), ("TABLES_PRESET", 30, 30), ("ECMDQ", 31, 31)]),
    ("IDR2", 0x8, 32, "6.3.3", &[("BA_VATOS", 9, 0)]),
    ("IDR3", 0xc, 32, "6.3.4", &[("HAD", 2, 2), ("PBHA", 3, 3), ("XNX", 4, 4), ("PPS", 5, 5), ("MPAM", 7, 7), ("FWB", 8, 8), ("STT", 9, 9), ("RIL", 10, 10), ("BBML", 12, 11), ("E0PD", 13, 13), ("PTWNNC", 14, 14), ("DPT", 15, 15)]),
    ("IDR4", 0x10, 32, "6.3.5", &[]),
    ("IDR5", 0x14, 32, "6.3.6", &[("OAS", 2, 0), ("GRAN4K", 4, 4), ("GRAN16K", 5, 5), ("GRAN64K", 6, 6), ("DS", 7, 7), ("VAX", 11, 10), ("STALL_MAX", 31, 16)]),
    ("IIDR", 0x18, 32, "6.3.7", &[("Implementer", 11, 0), ("Revision", 15, 12), ("Variant", 19, 16), ("ProductID", 31, 20)]),
    ("AIDR", 0x1c, 32, "6.3.8", &[("ArchMinorRev", 3, 0), ("ArchMajorRev", 7, 4)]),
    ("CR0", 0x20, 32, "6.3.9", &[("SMMUEN", 0, 0), ("PRIQEN", 1, 1), ("EVENTQEN", 2, 2), ("CMDQEN", 3, 3), ("ATSCHK", 4, 4), ("VMW", 8, 6)]),
    ("CR0ACK", 0x24, 32, "6.3.10", &[("SMMUEN", 0, 0), ("PRIQEN", 1, 1), ("EVENTQEN", 2, 2), ("CMDQEN", 3, 3), ("ATSCHK", 4, 4), ("VMW", 8, 6)]),
    ("CR1", 0x28, 32, "6.3.11", &[("QUEUE_IC", 1, 0), ("QUEUE_OC", 3, 2), ("QUEUE_SH", 5, 4), ("TABLE_IC", 7, 6), ("TABLE_OC", 9, 8), ("TABLE_SH", 11, 10)]),
    ("CR2", 0x2c, 32, "6.3.12", &[("E2H", 0, 0), ("RECINVSID", 1, 1), ("PTM", 2, 2), ("REC_CFG_ATS", 3, 3)]),
    ("STATUSR", 0x40, 32, "6.3.13", &[("DORMANT", 0, 0)]),
    ("GBPA", 0x44, 32, "6.3.14", &[("MemAttr", 3, 0), ("MTCFG", 4, 4), ("ALLOCCFG", 11, 8), ("SHCFG", 13, 12), ("PRIVCFG", 17, 16), ("INSTCFG", 19, 18), ("ABORT", 20, 20), ("Update", 31, 31)]),
    ("IRQ_CTRL", 0x50, 32, "6.3.16", &[("GERROR_IRQEN", 0, 0), ("PRIQ_IRQEN", 1, 1), ("EVENTQ_IRQEN", 2, 2)]),
    ("IRQ_CTRLACK", 0x54, 32, "6.3.18", &[("GERROR_IRQEN", 0, 0), ("PRIQ_IRQEN", 1, 1), ("EVENTQ_IRQEN", 2, 2)]),
    ("GERROR", 0x60, 32, "6.3.19", &[("CMDQ_ERR", 0, 0), ("EVENTQ_ABT_ERR", 2, 2), ("PRIQ_ABT_ERR", 3, 3), ("MSI_CMDQ_ABT_ERR", 4, 4), ("MSI_EVENTQ_ABT_ERR", 5, 5), ("MSI_PRIQ_ABT_ERR", 6, 6), ("MSI_GERROR_ABT_ERR", 7, 7), ("SFM_ERR", 8, 8)]),
    ("GERRORN", 0x64, 32, "6.3.20", &[("CMDQ_ERR", 0, 0), ("EVENTQ_ABT_ERR", 2, 2), ("PRIQ_ABT_ERR", 3, 3), ("MSI_CMDQ_ABT_ERR", 4, 4), ("MSI_EVENTQ_ABT_ERR", 5, 5), ("MSI_PRIQ_ABT_ERR", 6, 6), ("MSI_GERROR_ABT_ERR", 7, 7), ("SFM_ERR", 8, 8)]),
    ("GERROR_IRQ_CFG0", 0x68, 64, "6.3.21", &[("ADDR", 55, 2)]),
    ("GERROR_IRQ_CFG1", 0x70, 32, "6.3.22", &[("DATA", 31, 0)]),
    ("GERROR_IRQ_CFG2", 0x74, 32, "6.3.23", &[("MemAttr", 3, 0), ("SH", 5, 4)]),
    ("STRTAB_BASE", 0x80, 64, "6.3.24", &[("ADDR", 55, 6), ("RA", 62, 62)]),
    ("STRTAB_BASE_CFG", 0x88, 32, "6.3.25", &[("LOG2SIZE", 5, 0), ("SPLIT", 10, 6), ("FMT", 17, 16)]),
    ("CMDQ_BASE", 0x90, 64, "6.3.26", &[("LOG2SIZE", 4, 0), ("ADDR", 55, 5), ("RA", 62, 62)]),
    ("CMDQ_PROD", 0x98, 32, "6.3.27", &[("WR", 19, 0)]),
    ("CMDQ_CONS", 0x9c, 32, "6.3.28", &[("RD", 19, 0), ("ERR", 30, 24)]),
    ("EVENTQ_BASE", 0xa0, 64, "6.3.29", &[("LOG2SIZE", 4, 0), ("ADDR", 55, 5), ("WA", 62, 62)]),
    ("EVENTQ_IRQ_CFG0", 0xb0, 64, "6.3.30", &[("ADDR", 55, 2)]),
    ("EVENTQ_IRQ_CFG1", 0xb8, 32, "6.3.31", &[("DATA", 31, 0)]),
    ("EVENTQ_IRQ_CFG2", 0xbc, 32, "6.3.32", &[("MemAttr", 3, 0), ("SH", 5, 4)]),
    ("PRIQ_BASE", 0xc0, 64, "6.3.33", &[("LOG2SIZE", 4, 0), ("ADDR", 55, 5), ("WA", 62, 62)]),
    ("PRIQ_IRQ_CFG0", 0xd0, 64, "6.3.34", &[("ADDR", 55, 2)]),
    ("PRIQ_IRQ_CFG1", 0xd8, 32, "6.3.35", &[("DATA", 31, 0)]),
    ("PRIQ_IRQ_CFG2", 0xdc, 32, "6.3.36", &[("MemAttr", 3, 0), ("SH", 5, 4), ("LO", 31, 31)]),
    ("EVENTQ_PROD", 0x100a8, 32, "6.3.95", &[("WR", 19, 0), ("OVFLG", 31, 31)]),
    ("EVENTQ_CONS", 0x100ac, 32, "6.3.96", &[("RD", 19, 0), ("OVACKFLG", 31, 31)]),
    ("PRIQ_PROD", 0x100c8, 32, "6.3.97", &[("WR", 19, 0), ("OVFLG", 31, 31)]),
    ("PRIQ_CONS", 0x100cc, 32, "6.3.98", &[("RD", 19, 0), ("OVACKFLG", 31, 31)]),
];

/// Name, 64-bit words, section, fields.
#[rustfmt::skip]
const LAYOUTS: &[(&str, usize, &str, &[Bits])] = &[
    ("L1STD", 1, "5.1", &[("Span", 4, 0), ("L2Ptr", 55, 6)]),
    ("STE", 8, "5.2", &[("V", 0, 0), ("Config", 3, 1), ("S1Fmt", 5, 4), ("S1ContextPtr", 55, 6), ("S1CDMax", 63, 59), ("S1DSS", 65, 64), ("S1CIR", 67, 66), ("S1COR", 69, 68), ("S1CSH", 71, 70), ("S2HWU59", 72, 72), ("S2HWU60", 73, 73), ("S2HWU61", 74, 74), ("S2HWU62", 75, 75), ("DRE", 76, 76), ("CONT", 80, 77), ("DCP", 81, 81), ("PPAR", 82, 82), ("MEV", 83, 83), ("SW_RESERVED", 87, 84), ("S2FWB", 89, 89), ("S1MPAM", 90, 90), ("S1STALLD", 91, 91), ("EATS", 93, 92), ("STRW", 95, 94), ("MemAttr", 99, 96), ("MTCFG", 100, 100), ("ALLOCCFG", 104, 101), ("SHCFG", 109, 108), ("NSCFG", 111, 110), ("PRIVCFG", 113, 112), ("INSTCFG", 115, 114), ("S2VMID", 143, 128), ("S2T0SZ", 165, 160), ("S2SL0", 167, 166), ("S2IR0", 169, 168), ("S2OR0", 171, 170), ("S2SH0", 173, 172), ("S2TG", 175, 174), ("S2PS", 178, 176), ("S2AA64", 179, 179), ("S2ENDI", 180, 180), ("S2AFFD", 181, 181), ("S2PTW", 182, 182), ("S2HD", 183, 183), ("S2HA", 184, 184), ("S2S", 185, 185), ("S2R", 186, 186), ("S2TTB", 247, 196)]),
    ("L1CD", 1, "5.3", &[("V", 0, 0), ("L2Ptr", 55, 12)]),
    ("CD", 8, "5.4", &[("T0SZ", 5, 0), ("TG0", 7, 6), ("IR0", 9, 8), ("OR0", 11, 10), ("SH0", 13, 12), ("EPD0", 14, 14), ("ENDI", 15, 15), ("T1SZ", 21, 16), ("TG1", 23, 22), ("IR1", 25, 24), ("OR1", 27, 26), ("SH1", 29, 28), ("EPD1", 30, 30), ("V", 31, 31), ("IPS", 34, 32), ("AFFD", 35, 35), ("WXN", 36, 36), ("UWXN", 37, 37), ("TBI0", 38, 38), ("TBI1", 39, 39), ("PAN", 40, 40), ("AA64", 41, 41), ("HD", 42, 42), ("HA", 43, 43), ("S", 44, 44), ("R", 45, 45), ("A", 46, 46), ("ASET", 47, 47), ("ASID", 63, 48), ("NSCFG0", 64, 64), ("HAD0", 65, 65), ("E0PD0", 66, 66), ("TTB0", 119, 68), ("NSCFG1", 128, 128), ("HAD1", 129, 129), ("E0PD1", 130, 130), ("TTB1", 183, 132), ("MAIR0", 223, 192), ("MAIR1", 255, 224), ("AMAIR0", 287, 256), ("AMAIR1", 319, 288)]),
    ("CMD_PREFETCH", 2, "4.2", &[("Opcode", 7, 0), ("SSV", 11, 11), ("SubstreamID", 31, 12), ("StreamID", 63, 32), ("Size", 68, 64), ("Stride", 73, 69), ("Addr", 127, 76)]),
    ("CMD_CFGI", 2, "4.3", &[("Opcode", 7, 0), ("SSec", 10, 10), ("SubstreamID", 31, 12), ("StreamID", 63, 32), ("Leaf", 64, 64), ("Range", 68, 64)]),
    ("CMD_TLBI", 2, "4.4.1", &[("Opcode", 7, 0), ("NUM", 16, 12), ("SCALE", 25, 20), ("VMID", 47, 32), ("ASID", 63, 48), ("Leaf", 64, 64), ("TTL", 73, 72), ("TG", 75, 74), ("Address", 127, 76)]),
    ("CMD_ATC_INV", 2, "4.5.1", &[("Opcode", 7, 0), ("Global", 9, 9), ("SSec", 10, 10), ("SSV", 11, 11), ("SubstreamID", 31, 12), ("StreamID", 63, 32), ("Size", 69, 64), ("Address", 127, 76)]),
    ("CMD_PRI_RESP", 2, "4.5.2", &[("Opcode", 7, 0), ("SSec", 10, 10), ("SSV", 11, 11), ("SubstreamID", 31, 12), ("StreamID", 63, 32), ("PRGIndex", 72, 64), ("Resp", 77, 76)]),
    ("CMD_RESUME", 2, "4.7.1", &[("Opcode", 7, 0), ("SSec", 10, 10), ("Ac", 12, 12), ("Ab", 13, 13), ("StreamID", 63, 32), ("STAG", 79, 64)]),
    ("CMD_SYNC", 2, "4.7.3", &[("Opcode", 7, 0), ("CS", 13, 12), ("MSH", 23, 22), ("MSIAttr", 27, 24), ("MSIData", 63, 32), ("MSIAddress", 119, 66)]),
    ("EVENT", 4, "7.3", &[("Type", 7, 0), ("SSV", 11, 11), ("SubstreamID", 31, 12), ("StreamID", 63, 32), ("STAG", 79, 64), ("Stall", 95, 95), ("PnU", 97, 97), ("InD", 98, 98), ("RnW", 99, 99), ("NSIPA", 100, 100), ("S2", 103, 103), ("Class", 105, 104), ("InputAddr", 191, 128), ("FetchAddr", 247, 195), ("IPA", 247, 204)]),
];

/// Section 4.1.1: command opcodes of the Non-secure queue.
const OPCODES: &[(&str, u64)] = &[
    ("CMD_PREFETCH_CONFIG", 0x01),
    ("CMD_PREFETCH_ADDR", 0x02),
    ("CMD_CFGI_STE", 0x03),
    ("CMD_CFGI_STE_RANGE", 0x04),
    ("CMD_CFGI_CD", 0x05),
    ("CMD_CFGI_CD_ALL", 0x06),
    ("CMD_CFGI_VMS_PIDM", 0x07),
    ("CMD_TLBI_NH_ALL", 0x10),
    ("CMD_TLBI_NH_ASID", 0x11),
    ("CMD_TLBI_NH_VA", 0x12),
    ("CMD_TLBI_NH_VAA", 0x13),
    ("CMD_TLBI_EL3_ALL", 0x18),
    ("CMD_TLBI_EL3_VA", 0x1a),
    ("CMD_TLBI_EL2_ALL", 0x20),
    ("CMD_TLBI_EL2_ASID", 0x21),
    ("CMD_TLBI_EL2_VA", 0x22),
    ("CMD_TLBI_EL2_VAA", 0x23),
    ("CMD_TLBI_S12_VMALL", 0x28),
    ("CMD_TLBI_S2_IPA", 0x2a),
    ("CMD_TLBI_NSNH_ALL", 0x30),
    ("CMD_ATC_INV", 0x40),
    ("CMD_PRI_RESP", 0x41),
    ("CMD_RESUME", 0x44),
    ("CMD_STALL_TERM", 0x45),
    ("CMD_SYNC", 0x46),
];

/// Sections 7.3.2 to 7.3.20: event numbers.
const EVENTS: &[(&str, u64)] = &[
    ("F_UUT", 0x01),
    ("C_BAD_STREAMID", 0x02),
    ("F_STE_FETCH", 0x03),
    ("C_BAD_STE", 0x04),
    ("F_BAD_ATS_TREQ", 0x05),
    ("F_STREAM_DISABLED", 0x06),
    ("F_TRANSL_FORBIDDEN", 0x07),
    ("C_BAD_SUBSTREAMID", 0x08),
    ("F_CD_FETCH", 0x09),
    ("C_BAD_CD", 0x0a),
    ("F_WALK_EABT", 0x0b),
    ("F_TRANSLATION", 0x10),
    ("F_ADDR_SIZE", 0x11),
    ("F_ACCESS", 0x12),
    ("F_PERMISSION", 0x13),
    ("F_TLB_CONFLICT", 0x20),
    ("F_CFG_CONFLICT", 0x21),
    ("E_PAGE_REQUEST", 0x24),
    ("F_VMS_FETCH", 0x25),
];

/// Section 7.1: command queue errors.
const COMMAND_ERRORS: &[(&str, u64)] =
    &[("CERROR_NONE", 0), ("CERROR_ILL", 1), ("CERROR_ABT", 2), ("CERROR_ATC_INV_SYNC", 3)];

/// Fields of the document that may be absent: `FetchAddr` shares its upper bits with `IPA`, under which records are read.
const LEFT_OUT: &[&str] = &["EVENT.FetchAddr"];

/// What is wrong with `fields`, seen against the document's `bits`, in both directions.
fn compare(place: &str, section: &str, bits: &[Bits], fields: &[Field], wrong: &mut Vec<String>) {
    for (name, hi, lo) in bits {
        let Some(field) = fields.iter().find(|f| f.name().eq_ignore_ascii_case(name)) else {
            if !LEFT_OUT.contains(&format!("{place}.{name}").as_str()) {
                wrong.push(format!("{place}.{name} (section {section}) is missing"));
            }
            continue;
        };
        let (width, word) = (hi - lo + 1, *lo as usize / 64);
        if (field.bit(), field.width(), field.word(), field.lo()) != (*lo, width, word, lo % 64) {
            wrong.push(format!("{place}.{name} (section {section}) is not [{hi}:{lo}]: {field:?}"));
        }
    }
    for field in fields {
        if !bits.iter().any(|(name, ..)| field.name().eq_ignore_ascii_case(name)) {
            wrong.push(format!("{place}.{} is not in the golden table", field.name()));
        }
    }
}

fn compare_codes(golden: &[(&str, u64)], codes: &[Code]) {
    let found: Vec<(&str, u64)> = codes.iter().map(|code| (code.name, code.value)).collect();
    assert_eq!(found, golden);
}

#[test]
fn registers_agree_with_the_document() {
    let mut wrong = Vec::new();
    for (name, offset, width, section, bits) in REGISTERS {
        match spec::REGISTERS.iter().find(|register| register.name == *name) {
            None => wrong.push(format!("{name} (section {section}) is missing")),
            Some(register) => {
                if (register.offset, register.bits) != (*offset, *width) {
                    wrong.push(format!("{name} (section {section}) is at {:#x}", register.offset));
                }
                compare(name, section, bits, register.fields, &mut wrong);
            }
        }
    }
    for register in spec::REGISTERS {
        if !REGISTERS.iter().any(|(name, ..)| *name == register.name) {
            wrong.push(format!("{} is not in the golden table", register.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn structures_agree_with_the_document() {
    let mut wrong = Vec::new();
    for (name, words, section, bits) in LAYOUTS {
        match spec::LAYOUTS.iter().find(|layout| layout.name == *name) {
            None => wrong.push(format!("{name} (section {section}) is missing")),
            Some(layout) => {
                assert_eq!(layout.words, *words, "{name}");
                compare(name, section, bits, layout.fields, &mut wrong);
            }
        }
    }
    assert_eq!(spec::LAYOUTS.len(), LAYOUTS.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn numbers_agree_with_the_document() {
    compare_codes(OPCODES, spec::command::opcode::CODES);
    compare_codes(EVENTS, spec::event::number::CODES);
    compare_codes(COMMAND_ERRORS, spec::cerror::CODES);
    compare_codes(&[("CD", 0), ("TTD", 1), ("IN", 2)], spec::event::class::CODES);
    let values = |codes: &[Code]| codes.iter().map(|code| code.value).collect::<Vec<_>>();
    // Config: 0b000 abort, 0b100 bypass, 0b101 stage 1, 0b110 stage 2, 0b111 both (5.2).
    assert_eq!(values(spec::ste::config::CODES), [0, 4, 5, 6, 7]);
    assert_eq!(values(spec::ste::s1dss::CODES), [0, 1, 2]);
    assert_eq!(
        (spec::ste::granule0::K4, spec::ste::granule0::K64, spec::ste::granule0::K16),
        (0, 1, 2)
    );
    use spec::command::tlbi::tg;
    assert_eq!((tg::K4, tg::K16, tg::K64), (1, 2, 3));
    assert_eq!(values(spec::address_size::CODES), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn the_table_is_large_enough_to_mean_something() {
    let registers: usize = REGISTERS.iter().map(|(.., bits)| bits.len()).sum();
    let layouts: usize = LAYOUTS.iter().map(|(.., bits)| bits.len()).sum();
    assert!(registers + layouts >= 300, "{registers} + {layouts}");
}

/// The comparison itself: a field moved by one bit, a wrong width, a missing and an unknown field are each reported.
#[test]
fn a_planted_error_is_found() {
    let bits: &[Bits] = &[("A", 3, 0), ("B", 7, 4), ("C", 64, 64)];
    let right = [Field::new("A", 3, 0), Field::new("B", 7, 4), Field::new("C", 64, 64)];
    let report = |fields: &[Field]| {
        let mut wrong = Vec::new();
        compare("X", "0", bits, fields, &mut wrong);
        wrong.len()
    };
    assert_eq!(report(&right), 0);
    let [a, b, c] = right;
    assert_eq!(report(&[Field::new("A", 4, 1), b, c]), 1);
    assert_eq!(report(&[a, Field::new("B", 6, 4), c]), 1);
    assert_eq!(report(&[a, b, Field::new("C", 0, 0)]), 1);
    assert_eq!(report(&[a, b]), 1);
    assert_eq!(report(&[a, b, c, Field::new("D", 70, 70)]), 1);
}

/// Identification registers as QEMU 10.0.2 and 7.2.22 show them, read field by field.
#[test]
fn qemu_identifies_itself_in_these_fields() {
    use spec::{idr0, idr1, idr3, idr5};
    let ten = 0xd44_101b;
    for (field, value) in [
        (idr0::S2P, 1),
        (idr0::S1P, 1),
        (idr0::TTF, spec::ttf::AARCH64),
        (idr0::COHACC, 1),
        (idr0::BTM, 0),
        (idr0::HTTU, 0),
        (idr0::HYP, 0),
        (idr0::ATS, 0),
        (idr0::ASID16, 1),
        (idr0::MSI, 0),
        (idr0::PRI, 0),
        (idr0::VMID16, 1),
        (idr0::CD2L, 0),
        (idr0::TTENDIAN, spec::ttendian::LITTLE),
        (idr0::STALL_MODEL, spec::stall_model::TERMINATE),
        (idr0::TERM_MODEL, 1),
        (idr0::ST_LEVEL, spec::strtab_fmt::TWO_LEVEL),
    ] {
        assert_eq!(field.get(ten), value, "IDR0.{}", field.name());
    }
    let seven = 0xd40_101a;
    assert_eq!((idr0::S2P.get(seven), idr0::VMID16.get(seven)), (0, 0));
    let sizes = 0x273_0010;
    assert_eq!(
        [idr1::SIDSIZE, idr1::SSIDSIZE, idr1::PRIQS, idr1::EVENTQS, idr1::CMDQS]
            .map(|f| f.get(sizes)),
        [16, 0, 0, 19, 19]
    );
    let more = 0x1414;
    assert_eq!([idr3::HAD, idr3::XNX, idr3::RIL, idr3::BBML].map(|f| f.get(more)), [1, 1, 1, 2]);
    let widths = 0x74;
    assert_eq!(
        [idr5::GRAN4K, idr5::GRAN16K, idr5::GRAN64K, idr5::VAX].map(|f| f.get(widths)),
        [1, 1, 1, 0]
    );
    assert_eq!(idr5::OAS.get(widths), spec::address_size::BITS_44);
}

/// Entries that QEMU 10.0.2 translated with, built from the fields.
#[test]
fn qemu_accepted_these_entries() {
    use spec::{cd, ste};
    let context = 0x1234_5040u64;
    let mut entry = [0; 8];
    ste::V.write(&mut entry, 1);
    ste::CONFIG.write(&mut entry, ste::config::S1);
    ste::S1_CONTEXT_PTR.write(&mut entry, context >> 6);
    ste::S1CIR.write(&mut entry, spec::cacheability::WRITE_BACK);
    ste::S1COR.write(&mut entry, spec::cacheability::WRITE_BACK);
    ste::S1CSH.write(&mut entry, spec::shareability::INNER);
    ste::SHCFG.write(&mut entry, spec::shareability::USE_INCOMING);
    let word1 = 1 << 2 | 1 << 4 | 3 << 6 | 1 << 44;
    assert_eq!(entry, [1 | 5 << 1 | context, word1, 0, 0, 0, 0, 0, 0]);

    let (asid, root) = (7u64, 0x4321_0000u64);
    let mut entry = [0; 8];
    for (field, value) in [
        (cd::T0SZ, 16),
        (cd::TG0, ste::granule0::K4),
        (cd::IR0, 1),
        (cd::OR0, 1),
        (cd::SH0, 3),
        (cd::EPD1, 1),
        (cd::V, 1),
        (cd::IPS, spec::address_size::BITS_44),
        (cd::AA64, 1),
        (cd::R, 1),
        (cd::A, 1),
        (cd::ASET, 1),
        (cd::ASID, asid),
        (cd::TTB0, root >> 4),
        (cd::MAIR0, 0xff),
    ] {
        field.write(&mut entry, value);
    }
    let word0 = 16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 30 | 1 << 31 | 4 << 32;
    let word0 = word0 | 1 << 41 | 1 << 45 | 1 << 46 | 1 << 47 | asid << 48;
    assert_eq!(entry, [word0, root, 0, 0xff, 0, 0, 0, 0]);

    let mut entry = [0; 8];
    for (field, value) in [
        (ste::V, 1),
        (ste::CONFIG, ste::config::S2),
        (ste::SHCFG, spec::shareability::USE_INCOMING),
        (ste::S2VMID, 3),
        (ste::S2T0SZ, 25),
        (ste::S2SL0, 1),
        (ste::S2IR0, 1),
        (ste::S2OR0, 1),
        (ste::S2SH0, 3),
        (ste::S2PS, spec::address_size::BITS_44),
        (ste::S2AA64, 1),
        (ste::S2R, 1),
        (ste::S2TTB, root >> 4),
    ] {
        field.write(&mut entry, value);
    }
    let word2 = 3 | 25 << 32 | 1 << 38 | 1 << 40 | 1 << 42 | 3 << 44 | 4 << 48 | 1 << 51 | 1 << 58;
    assert_eq!(entry, [1 | 6 << 1, 1 << 44, word2, root, 0, 0, 0, 0]);
}

/// Commands that QEMU 10.0.2 obeyed, registers that it took, and bits of the records that it wrote.
#[test]
fn qemu_obeyed_these_commands_and_wrote_these_records() {
    use spec::command::{cfgi, opcode, sync, tlbi};
    let command = |fields: &[(Field, u64)]| {
        let mut words = [0; 2];
        fields.iter().for_each(|(field, value)| field.write(&mut words, *value));
        words
    };
    let (sid, va, asid, vmid) = (0x10u64, 0x12_3456_7000u64, 7u64, 3u64);
    let cfgi_ste = [(cfgi::OPCODE, opcode::CFGI_STE), (cfgi::STREAM_ID, sid), (cfgi::LEAF, 1)];
    assert_eq!(command(&cfgi_ste), [3 | sid << 32, 1]);
    let all =
        [(cfgi::OPCODE, opcode::CFGI_STE_RANGE), (cfgi::RANGE, spec::command::CFGI_ALL_RANGE)];
    assert_eq!(command(&all), [4, 31]);
    let by_address = [
        (tlbi::OPCODE, opcode::TLBI_NH_VA),
        (tlbi::ASID, asid),
        (tlbi::LEAF, 1),
        (tlbi::ADDRESS, va >> 12),
    ];
    assert_eq!(command(&by_address), [0x12 | asid << 48, va | 1]);
    let range = [by_address.as_slice(), &[(tlbi::NUM, 1), (tlbi::TG, tlbi::tg::K4)]].concat();
    assert_eq!(command(&range), [0x12 | asid << 48 | 1 << 12, va | 1 | 1 << 10]);
    let by_vmid = [(tlbi::OPCODE, opcode::TLBI_S12_VMALL), (tlbi::VMID, vmid)];
    assert_eq!(command(&by_vmid), [0x28 | vmid << 32, 0]);
    let by_ipa = [
        (tlbi::OPCODE, opcode::TLBI_S2_IPA),
        (tlbi::VMID, vmid),
        (tlbi::LEAF, 1),
        (tlbi::ADDRESS, va >> 12),
    ];
    assert_eq!(command(&by_ipa), [0x2a | vmid << 32, va | 1]);
    let with_interrupt = [(sync::OPCODE, opcode::SYNC), (sync::CS, sync::cs::IRQ)];
    assert_eq!(command(&with_interrupt), [0x46 | 1 << 12, 0]);
    // CR0 went from 0 over 8 (commands) to 0xd (events and translation too); CR1 was 0xd75, IRQ_CTRL 5.
    let on = spec::cr0::CMDQEN.of(1) | spec::cr0::EVENTQEN.of(1) | spec::cr0::SMMUEN.of(1);
    assert_eq!((spec::cr0::CMDQEN.of(1), on), (8, 0xd));
    let irqs = spec::irq_ctrl::EVENTQ_IRQEN.of(1) | spec::irq_ctrl::GERROR_IRQEN.of(1);
    assert_eq!(irqs, 5);
    // CR2: events for unknown streams, and no broadcast maintenance.
    assert_eq!(spec::cr2::RECINVSID.of(1) | spec::cr2::PTM.of(1), 6);
    let inner = spec::shareability::INNER;
    use spec::cr1::{QUEUE_IC, QUEUE_OC, QUEUE_SH, TABLE_IC, TABLE_OC, TABLE_SH};
    let cached = TABLE_IC.of(1) | TABLE_OC.of(1) | QUEUE_IC.of(1) | QUEUE_OC.of(1);
    assert_eq!(TABLE_SH.of(inner) | QUEUE_SH.of(inner) | cached, 0xd75);
    // In the second word of a record: RnW was bit 35, S2 bit 39, CLASS bits 41:40.
    use spec::event;
    let word = |field: Field| (field.word(), field.lo());
    assert_eq!(word(event::RNW), (1, 35));
    assert_eq!(word(event::S2), (1, 39));
    assert_eq!(word(event::CLASS), (1, 40));
    assert_eq!((word(event::INPUT_ADDR), word(event::IPA)), ((2, 0), (3, 12)));
    // The illegal opcode left 1 in CMDQ_CONS bits 30:24 and GERROR bit 0.
    assert_eq!(spec::cmdq_cons::ERR.get(0x100_0004), spec::cerror::ILL);
    assert_eq!(spec::gerror::CMDQ_ERR.mask(), 1);
}
