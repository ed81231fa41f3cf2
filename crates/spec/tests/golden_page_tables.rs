//! The golden table of page table entries: positions as the documents print them, typed apart from the crate's source and compared with it both ways.

use portcullis_spec::page_table::LAYOUTS;
use std::collections::BTreeSet;

/// Layout, then name, highest and lowest bit of each field.
type Golden = (&'static str, &'static [(&'static str, u32, u32)]);

#[rustfmt::skip]
const GOLDEN: &[Golden] = &[
    ("VMSA stage 1", &[("Valid", 0, 0), ("Type", 1, 1), ("AttrIndx", 4, 2), ("NS", 5, 5), ("AP[2:1]", 7, 6), ("SH", 9, 8), ("AF", 10, 10), ("nG", 11, 11), ("OA", 47, 12), ("OA[49:48]", 49, 48), ("Contiguous", 52, 52), ("PXN", 53, 53), ("UXN", 54, 54), ("Software use", 58, 55)]),
    ("VMSA stage 2", &[("Valid", 0, 0), ("Type", 1, 1), ("MemAttr", 5, 2), ("S2AP", 7, 6), ("SH", 9, 8), ("AF", 10, 10), ("OA", 47, 12), ("OA[49:48]", 49, 48), ("Contiguous", 52, 52), ("XN", 54, 53), ("Software use", 58, 55)]),
    ("VMSA 64 KiB, 52 bits", &[("OA[51:48]", 15, 12), ("OA[47:16]", 47, 16)]),
    ("VT-d second-stage", &[("R", 0, 0), ("W", 1, 1), ("X", 2, 2), ("EMT", 5, 3), ("IPAT", 6, 6), ("PS", 7, 7), ("A", 8, 8), ("D", 9, 9), ("SNP", 11, 11), ("ADDR", 51, 12), ("IGN", 61, 52)]),
    ("x86-64 paging", &[("P", 0, 0), ("R/W", 1, 1), ("U/S", 2, 2), ("PWT", 3, 3), ("PCD", 4, 4), ("A", 5, 5), ("D", 6, 6), ("PS", 7, 7), ("G", 8, 8), ("ADDR", 51, 12), ("IGN", 58, 52), ("XD", 63, 63)]),
    ("AMD host page table", &[("PR", 0, 0), ("IGN", 4, 1), ("A", 5, 5), ("D", 6, 6), ("NextLevel", 11, 9), ("ADDR", 51, 12), ("U", 59, 59), ("FC", 60, 60), ("IR", 61, 61), ("IW", 62, 62)]),
    ("RISC-V PTE", &[("V", 0, 0), ("R", 1, 1), ("W", 2, 2), ("X", 3, 3), ("U", 4, 4), ("G", 5, 5), ("A", 6, 6), ("D", 7, 7), ("RSW", 9, 8), ("PPN", 53, 10), ("PBMT", 62, 61), ("N", 63, 63)]),
];

#[test]
fn every_field_is_where_the_document_prints_it() {
    let named = |name| LAYOUTS.iter().find(|(_, layout)| layout.name == name);
    for (name, fields) in GOLDEN {
        let (_, layout) = named(*name).unwrap_or_else(|| panic!("no layout {name}"));
        let ours: BTreeSet<_> = layout
            .fields
            .iter()
            .map(|field| (field.name(), field.bit() + field.width() - 1, field.bit()))
            .collect();
        let golden: BTreeSet<_> = fields.iter().copied().collect();
        assert_eq!(ours, golden, "{name}");
        assert_eq!(layout.words, 1);
    }
    assert_eq!(LAYOUTS.len(), GOLDEN.len(), "no layout without its golden fields");
}
