//! The golden field table of SMMUv2, typed apart from this crate's source and compared with it both ways. The architecture's document (Arm IHI 0062) was not at hand; the rows come from
//! register descriptions that vendors generated from their own databases: HiSilicon's of the MMU-500 in the Hi3650 (global spaces), Cavium's of the SMMUv2 in the CN81xx, CN83xx and CN88xx
//! (banks), Intel's of the Stratix 10 and Agilex 7 and AMD's UG1087 (identification, `sCR0`, `S2CR`, `FSR`), and from the constants of Linux's and OpenBSD's drivers.

use portcullis_spec::smmuv2 as spec;
use portcullis_spec::{Field, Register};

/// Name, highest and lowest bit.
type Bits = (&'static str, u32, u32);
/// Space, name, offset, width in bits, fields.
type Row = (&'static str, &'static str, usize, u8, &'static [Bits]);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("global 0", "sCR0", 0x000, 32, &[("CLIENTPD", 0, 0), ("GFRE", 1, 1), ("GFIE", 2, 2), ("EXIDENABLE", 3, 3), ("GCFGFRE", 4, 4), ("GCFGFIE", 5, 5), ("TRANSIENTCFG", 7, 6), ("STALLD", 8, 8), ("GSE", 9, 9), ("USFCFG", 10, 10), ("VMIDPNE", 11, 11), ("PTM", 12, 12), ("FB", 13, 13), ("BSU", 15, 14), ("MemAttr", 19, 16), ("MTCFG", 20, 20), ("SHCFG", 23, 22), ("RACFG", 25, 24), ("WACFG", 27, 26), ("VMID16EN", 31, 31)]),
    ("global 0", "sCR1", 0x004, 32, &[("NSNUMCBO", 7, 0), ("NSNUMSMRGO", 15, 8), ("NSNUMIRPTO", 23, 16)]),
    ("global 0", "sACR", 0x010, 32, &[]),
    ("global 0", "IDR0", 0x020, 32, &[("NUMSMRG", 7, 0), ("EXIDS", 8, 8), ("NUMSIDB", 12, 9), ("BTM", 13, 13), ("CTTW", 14, 14), ("NUMIRPT", 23, 16), ("PTFS", 25, 24), ("ATOSNS", 26, 26), ("SMS", 27, 27), ("NTS", 28, 28), ("S2TS", 29, 29), ("S1TS", 30, 30), ("SES", 31, 31)]),
    ("global 0", "IDR1", 0x024, 32, &[("NUMCB", 7, 0), ("NUMS2CB", 23, 16), ("NUMPAGENDXB", 30, 28), ("PAGESIZE", 31, 31)]),
    ("global 0", "IDR2", 0x028, 32, &[("IAS", 3, 0), ("OAS", 7, 4), ("UBS", 11, 8), ("PTFSv8_4kB", 12, 12), ("PTFSv8_16kB", 13, 13), ("PTFSv8_64kB", 14, 14), ("VMID16S", 15, 15)]),
    ("global 0", "IDR7", 0x03c, 32, &[("MINOR", 3, 0), ("MAJOR", 7, 4)]),
    ("global 0", "sGFAR", 0x040, 64, &[("FADDR", 63, 0)]),
    ("global 0", "sGFSR", 0x048, 32, &[("ICF", 0, 0), ("USF", 1, 1), ("SMCF", 2, 2), ("UCBF", 3, 3), ("UCIF", 4, 4), ("CAF", 5, 5), ("EF", 6, 6), ("PF", 7, 7), ("UUT", 8, 8), ("MULTI", 31, 31)]),
    ("global 0", "sGFSRRESTORE", 0x04c, 32, &[]),
    ("global 0", "sGFSYNR0", 0x050, 32, &[("Nested", 0, 0), ("WNR", 1, 1), ("PNU", 2, 2), ("IND", 3, 3), ("NSSTATE", 4, 4), ("NSATTR", 5, 5)]),
    ("global 0", "sGFSYNR1", 0x054, 32, &[("StreamID", 15, 0)]),
    ("global 0", "sGFSYNR2", 0x058, 32, &[]),
    ("global 0", "STLBIALL", 0x060, 32, &[]),
    ("global 0", "TLBIVMID", 0x064, 32, &[("VMID", 15, 0)]),
    ("global 0", "TLBIALLNSNH", 0x068, 32, &[]),
    ("global 0", "TLBIALLH", 0x06c, 32, &[]),
    ("global 0", "sTLBGSYNC", 0x070, 32, &[]),
    ("global 0", "sTLBGSTATUS", 0x074, 32, &[("GSACTIVE", 0, 0)]),
    ("global 0", "SMR0", 0x800, 32, &[("ID", 14, 0), ("MASK", 30, 16), ("VALID", 31, 31)]),
    ("global 0", "S2CR0", 0xc00, 32, &[("CBNDX", 7, 0), ("SHCFG", 9, 8), ("EXIDVALID", 10, 10), ("MTCFG", 11, 11), ("MemAttr", 15, 12), ("TYPE", 17, 16), ("NSCFG", 19, 18), ("RACFG", 21, 20), ("WACFG", 23, 22), ("PRIVCFG", 25, 24), ("INSTCFG", 27, 26), ("TRANSIENTCFG", 29, 28)]),
    ("global 1", "CBAR0", 0x000, 32, &[("VMID", 7, 0), ("BPSHCFG", 9, 8), ("HYPC", 10, 10), ("FB", 11, 11), ("MemAttr", 15, 12), ("TYPE", 17, 16), ("BSU", 19, 18), ("RACFG", 21, 20), ("WACFG", 23, 22), ("IRPTNDX", 31, 24)]),
    ("global 1", "CBFRSYNRA0", 0x400, 32, &[("StreamID", 15, 0), ("SSD_Index", 30, 16)]),
    ("global 1", "CBA2R0", 0x800, 32, &[("VA64", 0, 0), ("MONC", 1, 1), ("VMID16", 31, 16)]),
    ("bank", "CBn_SCTLR", 0x000, 32, &[("M", 0, 0), ("TRE", 1, 1), ("AFE", 2, 2), ("AFFD", 3, 3), ("E", 4, 4), ("CFRE", 5, 5), ("CFIE", 6, 6), ("CFCFG", 7, 7), ("HUPCF", 8, 8), ("WXN", 9, 9), ("UWXN", 10, 10), ("ASIDPNE", 12, 12), ("PTW", 13, 13), ("MemAttr", 19, 16), ("MTCFG", 20, 20), ("SHCFG", 23, 22), ("RACFG", 25, 24), ("WACFG", 27, 26)]),
    ("bank", "CBn_ACTLR", 0x004, 32, &[]),
    ("bank", "CBn_RESUME", 0x008, 32, &[("TnR", 0, 0)]),
    ("bank", "CBn_TCR2", 0x010, 32, &[("PASize", 2, 0), ("AS", 4, 4), ("TBI0", 5, 5), ("TBI1", 6, 6), ("SEP", 17, 15)]),
    ("bank", "CBn_TTBR0", 0x020, 64, &[("ADDRESS", 47, 0), ("ASID", 63, 48)]),
    ("bank", "CBn_TTBR1", 0x028, 64, &[("ADDRESS", 47, 0), ("ASID", 63, 48)]),
    ("bank", "CBn_TCR", 0x030, 32, &[("T0SZ", 5, 0), ("EPD0", 7, 7), ("IRGN0", 9, 8), ("ORGN0", 11, 10), ("SH0", 13, 12), ("TG0", 15, 14), ("T1SZ", 21, 16), ("A1", 22, 22), ("EPD1", 23, 23), ("IRGN1", 25, 24), ("ORGN1", 27, 26), ("SH1", 29, 28), ("TG1", 31, 30)]),
    ("bank", "CBn_CONTEXTIDR", 0x034, 32, &[("ASID", 7, 0), ("PROCID", 31, 8)]),
    ("bank", "CBn_PRRR_MAIR0", 0x038, 32, &[]),
    ("bank", "CBn_NMRR_MAIR1", 0x03c, 32, &[]),
    ("bank", "CBn_PAR", 0x050, 64, &[("F", 0, 0)]),
    ("bank", "CBn_FSR", 0x058, 32, &[("TF", 1, 1), ("AFF", 2, 2), ("PF", 3, 3), ("EF", 4, 4), ("TLBMCF", 5, 5), ("TLBLKF", 6, 6), ("ASF", 7, 7), ("UUT", 8, 8), ("FORMAT", 10, 9), ("SS", 30, 30), ("MULTI", 31, 31)]),
    ("bank", "CBn_FSRRESTORE", 0x05c, 32, &[]),
    ("bank", "CBn_FAR", 0x060, 64, &[("FADDR", 63, 0)]),
    ("bank", "CBn_FSYNR0", 0x068, 32, &[("PLVL", 1, 0), ("NESTED", 2, 2), ("S1PTWF", 3, 3), ("WNR", 4, 4), ("PNU", 5, 5), ("IND", 6, 6), ("NSSTATE", 7, 7), ("NSATTR", 8, 8), ("ATOF", 9, 9), ("PTWF", 10, 10), ("AFR", 11, 11), ("S1CBNDX", 23, 16)]),
    ("bank", "CBn_FSYNR1", 0x06c, 32, &[]),
    ("bank", "CBn_IPAFAR", 0x070, 64, &[("IPAFADDR", 63, 0)]),
    ("bank", "CBn_TLBIVA", 0x600, 64, &[("Address", 43, 0), ("ASID", 63, 48)]),
    ("bank", "CBn_TLBIVAA", 0x608, 64, &[("Address", 43, 0)]),
    ("bank", "CBn_TLBIASID", 0x610, 32, &[("ASID", 15, 0)]),
    ("bank", "CBn_TLBIALL", 0x618, 32, &[]),
    ("bank", "CBn_TLBIVAL", 0x620, 64, &[("Address", 43, 0), ("ASID", 63, 48)]),
    ("bank", "CBn_TLBIVAAL", 0x628, 64, &[("Address", 43, 0)]),
    ("bank", "CBn_TLBIIPAS2", 0x630, 64, &[("Address", 35, 0)]),
    ("bank", "CBn_TLBIIPAS2L", 0x638, 64, &[("Address", 35, 0)]),
    ("bank", "CBn_TLBSYNC", 0x7f0, 32, &[]),
    ("bank", "CBn_TLBSTATUS", 0x7f4, 32, &[("SACTIVE", 0, 0)]),
];

fn differences(space: &str, register: &Register, table: &[Row]) -> Vec<String> {
    let name = register.name;
    let Some((.., offset, bits, fields)) =
        table.iter().find(|row| row.0 == space && row.1 == name).copied()
    else {
        return vec![format!("{space} {name} is not in the table")];
    };
    let mut wrong = Vec::new();
    if (register.offset, register.bits) != (offset, bits) {
        wrong.push(format!("{name}: at {:#x}, {} bits", register.offset, register.bits));
    }
    let ours: Vec<Bits> = register.fields.iter().map(bits_of).collect();
    if ours != fields {
        wrong.push(format!("{name}: {ours:?} instead of {fields:?}"));
    }
    wrong
}

fn bits_of(field: &Field) -> Bits {
    (field.name(), field.bit() + field.width() - 1, field.bit())
}

#[test]
fn every_register_and_field_is_where_the_document_prints_it() {
    let mut wrong = Vec::new();
    for (space, registers) in spec::SPACES {
        for register in *registers {
            wrong.extend(differences(space, register, TABLE));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    let typed: usize = spec::SPACES.iter().map(|(_, registers)| registers.len()).sum();
    assert_eq!(typed, TABLE.len(), "nothing in the table is missing");
}

/// The comparison itself: a field moved, a wrong width, a wrong offset, a missing and an unknown field are each reported.
#[test]
fn a_planted_error_is_found() {
    let table: &[Row] = &[("global 0", "X", 0x10, 32, &[("A", 3, 0), ("B", 7, 4)])];
    let reports = |name, offset, bits, fields: &'static [Field]| {
        differences("global 0", &Register { name, offset, bits, fields }, table).len()
    };
    const A: Field = Field::new("A", 3, 0);
    const B: Field = Field::new("B", 7, 4);
    assert_eq!(reports("X", 0x10, 32, &[A, B]), 0);
    assert_eq!(reports("X", 0x14, 32, &[A, B]), 1);
    assert_eq!(reports("X", 0x10, 64, &[A, B]), 1);
    assert_eq!(reports("X", 0x10, 32, &[A]), 1);
    assert_eq!(reports("X", 0x10, 32, &[A, const { Field::new("B", 8, 5) }]), 1);
    assert_eq!(reports("X", 0x10, 32, &[A, B, const { Field::new("C", 9, 9) }]), 1);
    assert_eq!(reports("Y", 0x10, 32, &[A, B]), 1);
}

/// What the manuals of two chips print for their MMU-500: whole values next to what each field says.
#[test]
fn real_units_identify_themselves_in_these_fields() {
    use spec::global0::{idr0, idr1, idr2};
    let fields = |value: u64, fields: &[Field]| -> Vec<u64> {
        fields.iter().map(|field| field.get(value)).collect()
    };
    // Intel Stratix 10, SMMU_SIDR0 field by field: all of 31:26, one interrupt, BTM, NUMSIDB 15, 64 groups.
    let stratix = 0xfc01_3e40;
    assert_eq!(fields(stratix, &[idr0::NUMSMRG, idr0::NUMSIDB, idr0::NUMIRPT]), [64, 15, 1]);
    assert_eq!(fields(stratix, &[idr0::S1TS, idr0::S2TS, idr0::NTS, idr0::SMS]), [1; 4]);
    assert_eq!(fields(stratix, &[idr0::CTTW, idr0::BTM, idr0::PTFS, idr0::EXIDS]), [0, 1, 0, 0]);
    // The same, SMMU_SIDR1 and SMMU_SIDR2: pages of 4 KiB, NUMPAGENDXB 4, 32 banks; 48 bits, 4 and 64 KiB.
    let shape = 0x4000_1f20;
    assert_eq!(
        fields(shape, &[idr1::NUMCB, idr1::NUMS2CB, idr1::NUMPAGENDXB, idr1::PAGESIZE]),
        [32, 0, 4, 0]
    );
    let sizes = 0x5555;
    assert_eq!(fields(sizes, &[idr2::IAS, idr2::OAS, idr2::UBS]), [5, 5, 5]);
    let granules = [idr2::PTFSV8_4KB, idr2::PTFSV8_16KB, idr2::PTFSV8_64KB];
    assert_eq!(fields(sizes, &granules), [1, 0, 1]);
    // AMD UG1087 (Zynq UltraScale+), SMMU_SIDR1: reset value 0x30000F10, banks from 64 KiB on (its bank 0 is at 0xFD810000).
    let zynq = spec::BlockShape::of(0x3000_0f10);
    assert_eq!((zynq.page(), zynq.len(), zynq.global1()), (0x1000, 0x2_0000, 0x1000));
    assert_eq!((zynq.bank(0), zynq.bank(15)), (0x1_0000, 0x1_f000));
    // 64 KiB pages, as on Cavium: 128 banks in two halves of 128 pages.
    let large = spec::BlockShape::of(1 << 31 | 6 << 28);
    assert_eq!((large.global1(), large.bank(1), large.len()), (0x1_0000, 0x81_0000, 0x100_0000));
}

/// Words that Linux 7.x and OpenBSD 7.x write, built from the fields.
#[test]
fn other_drivers_write_these_words() {
    use spec::bank::{sctlr, tcr, tcr_stage2, tcr2};
    use spec::global0::{s2cr, scr0, smr, smr_extended};
    use spec::global1::{cba2r, cbar};
    // smmu_reset of OpenBSD: faults are reported, unmatched streams fault, nothing broadcast is taken.
    let on = scr0::GFRE.of(1) | scr0::GFIE.of(1) | scr0::GCFGFRE.of(1) | scr0::GCFGFIE.of(1);
    let on = on | scr0::USFCFG.of(1) | scr0::VMIDPNE.of(1) | scr0::PTM.of(1);
    assert_eq!(on, 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 10 | 1 << 11 | 1 << 12);
    assert_eq!(smr::VALID.of(1) | smr::MASK.of(0x7f80) | smr::ID.of(0x402), 0xff80_0402);
    assert_eq!(smr_extended::MASK.of(0xff80) | smr_extended::ID.of(0x8402), 0xff80_8402);
    assert_eq!(s2cr::TYPE.of(spec::s2cr_type::FAULT) | s2cr::EXIDVALID.of(1), 2 << 16 | 1 << 10);
    let stage1 = cbar::TYPE.of(spec::cbar_type::STAGE1_BYPASS);
    let stage1 = stage1 | cbar::MEM_ATTR.of(0xf) | cbar::BPSHCFG.of(3);
    assert_eq!(stage1, 1 << 16 | 0xf << 12 | 3 << 8);
    assert_eq!(cba2r::VA64.of(1) | cba2r::VMID16.of(5), 5 << 16 | 1);
    let control = [sctlr::M, sctlr::TRE, sctlr::AFE, sctlr::CFRE, sctlr::CFIE, sctlr::ASIDPNE];
    assert_eq!(control.iter().map(|field| field.of(1)).sum::<u64>(), 0x1067);
    let upstream = tcr2::SEP.of(spec::sep::UPSTREAM) | tcr2::AS.of(1);
    assert_eq!(upstream | tcr2::PASIZE.of(spec::address_size::BITS_48), 7 << 15 | 1 << 4 | 5);
    let walk = tcr::T0SZ.of(16) | tcr::IRGN0.of(1) | tcr::ORGN0.of(1) | tcr::SH0.of(3);
    assert_eq!(walk | tcr::EPD1.of(1), 16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23);
    let stage2 = tcr_stage2::T0SZ.of(24) | tcr_stage2::SL0.of(1) | tcr_stage2::PASIZE.of(2);
    assert_eq!(stage2, 24 | 1 << 6 | 2 << 16);
    let values = |codes: &[portcullis_spec::Code]| -> Vec<u64> {
        codes.iter().map(|code| code.value).collect()
    };
    assert_eq!(values(spec::s2cr_type::CODES), [0, 1, 2]);
    assert_eq!(values(spec::cbar_type::CODES), [0, 1, 2, 3]);
    assert_eq!(values(spec::address_size::CODES), [0, 1, 2, 3, 4, 5]);
    assert_eq!(values(spec::granule0::CODES), [0, 1, 2]);
    assert_eq!(values(spec::sep::CODES), [0, 1, 2, 3, 4, 5, 7]);
}
