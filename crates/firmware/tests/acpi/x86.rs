//! DMAR and IVRS.

use crate::made::{
    Bytes, bytes, clients, device, dmar, drhd, error, ivmd, ivrs, read, record, rmrr, rules, scope,
};
use portcullis::{DmaPath, ReservedKind};
use portcullis_firmware::acpi::Fault;
use portcullis_firmware::{IommuKind, RequesterId, SourceKind, rule};

/// As on most laptops: one unit for the graphics device, one for all others.
pub(crate) fn laptop() -> Vec<u8> {
    dmar(&[
        drhd(false, 0xfed9_0000, &[scope(1, 0, 0, &[(2, 0)])]),
        drhd(
            true,
            0xfed9_1000,
            &[
                scope(3, 2, 0xf0, &[(0x1f, 0)]),
                scope(4, 0, 0, &[(0x1f, 0)]),
                scope(5, 1, 0, &[(0x15, 0)]),
            ],
        ),
        rmrr(0x9b00_0000, 0x9f7f_ffff, &[scope(1, 0, 0, &[(2, 0)])]),
        rmrr(0x9a80_0000, 0x9a81_ffff, &[scope(1, 0, 0, &[(0x14, 0)])]),
        record(4, bytes().zeros(3).u8(1).bytes(b"\\_SB.PCI0.I2C0\0")),
        record(0x77, bytes().u32(0)),
    ])
}

#[test]
fn a_laptops_two_units_serve_whom_they_name_and_the_rest() {
    let machine = read(&laptop());
    let (gpu, all) = ("DMAR/drhd@fed90000".to_owned(), "DMAR/drhd@fed91000".to_owned());
    assert!(machine.iommus.iter().all(|it| it.kind == IommuKind::VtD));
    assert_eq!(machine.iommus[0].registers.map(|it| it.len()), Some(0x1000));
    assert_eq!(
        clients(&machine),
        [
            ("0000:00:02.0".to_owned(), vec![(gpu, 0x10)]),
            ("0000:00:14.0".to_owned(), vec![(all.clone(), 0xa0)]),
            ("\\_SB.PCI0.I2C0".to_owned(), vec![(all.clone(), 0xa8)]),
        ]
    );
    let bus = device(&machine, "PCI segment 0000").bus.clone().expect("a bus");
    // Whatever is found later is behind the unit of the rest.
    let (map, stream) = bus.stream(RequesterId(0x2345)).expect("covered");
    assert_eq!((machine.iommu_path(map.iommu), stream.id.raw()), (all.as_str(), 0x2345));
    let regions = &device(&machine, "PCI segment 0000").functions[0].description.reserved;
    assert_eq!(regions[0].kind, ReservedKind::Direct);
    assert_eq!(regions[0].range.last().raw(), 0x9f7f_ffff);
    let sources: Vec<_> =
        machine.interrupt_sources.iter().map(|it| (it.kind, it.id, it.requester)).collect();
    assert_eq!(
        sources,
        [
            (SourceKind::IoApic, 2, Some(RequesterId(0xf0f8))),
            (SourceKind::Hpet, 0, Some(RequesterId(0xf8)))
        ]
    );
    assert_eq!(rules(&machine), [rule::ACPI_UNKNOWN]);
}

/// Scopes of type 2 and paths of several hops need bus numbers that only enumeration knows.
#[test]
fn what_is_behind_a_bridge_stays_blocked_until_enumeration_resolves_it() {
    let machine = read(&dmar(&[
        // All below root port 00:1c.0, and one function two bridges away.
        drhd(
            false,
            0x1000,
            &[scope(2, 0, 0, &[(0x1c, 0)]), scope(1, 0, 0, &[(0x1d, 0), (0, 0), (3, 0)])],
        ),
        drhd(true, 0x2000, &[]),
    ]));
    assert_eq!(rules(&machine), [rule::ACPI_UNRESOLVED]);
    let bus = device(&machine, "PCI segment 0000").bus.clone().expect("a bus");
    let unit = |bus: &portcullis_firmware::PciBus, rid| {
        bus.stream(RequesterId(rid)).ok().map(|(map, _)| machine.iommu_path(map.iommu).to_owned())
    };
    let (named, rest) = (Some("DMAR/drhd@1000".to_owned()), Some("DMAR/drhd@2000".to_owned()));
    assert_eq!((unit(&bus, 0xe0), unit(&bus, 0xe8)), (named.clone(), rest.clone()));
    assert_eq!((unit(&bus, 0x100), unit(&bus, 0x500)), (None, None));
    assert!(matches!(bus.dma_path(&[RequesterId(0x100)]), DmaPath::Unusable(_)));

    // 00:1c.0 has buses 1 to 2, 00:1d.0 has 3 to 5, and the bridge 03:00.0 in there has 4.
    let found = bus.resolve(|bridge| match bridge.0 {
        0xe0 => Some((1, 2)),
        0xe8 => Some((3, 5)),
        0x300 => Some((4, 4)),
        _ => None,
    });
    assert_eq!((unit(&found, 0x100), unit(&found, 0x2ff)), (named.clone(), named.clone()));
    assert_eq!((unit(&found, 0x418), unit(&found, 0x410)), (named, rest.clone()));
    assert_eq!((unit(&found, 0x10), unit(&found, 0x500)), (rest.clone(), rest));
    assert_eq!(found.stream(RequesterId(0x2ff)).expect("covered").1.id.raw(), 0x2ff);
    assert_eq!(found.stream(RequesterId(0x500)).expect("covered").1.id.raw(), 0x500);
    assert!(found.scopes().is_empty());
}

#[test]
fn what_two_units_claim_and_what_has_no_registers_stays_blocked() {
    let gpu = || scope(1, 0, 0, &[(2, 0)]);
    let machine = read(&dmar(&[drhd(false, 0x1000, &[gpu()]), drhd(false, 0x2000, &[gpu()])]));
    assert_eq!(rules(&machine), [rule::ACPI_CONFLICT]);
    assert_eq!(clients(&machine), [("0000:00:02.0".to_owned(), vec![])]);

    let machine =
        read(&dmar(&[drhd(false, 0, &[gpu()]), drhd(true, 0x2000, &[scope(1, 0, 0, &[(3, 0)])])]));
    assert_eq!(rules(&machine), [rule::ACPI_UNIT]);
    let all = clients(&machine);
    assert_eq!((all[0].1.len(), all[1].1.len()), (0, 1));
    assert!(machine.clients().all(|client| client.dma != DmaPath::Direct));
    // Without a unit for the rest, nobody says what the others are behind.
    let machine = read(&dmar(&[drhd(false, 0x1000, &[gpu()])]));
    let bus = device(&machine, "PCI segment 0000").bus.clone().expect("a bus");
    assert!(matches!(bus.dma_path(&[RequesterId(0x20)]), DmaPath::Unusable(_)));
}

#[test]
fn dmar_errors_name_offset_and_field() {
    let at = |records: &[Bytes]| {
        let error = error(&dmar(records));
        assert_eq!(error.table.to_string(), "DMAR");
        (error.offset, error.field, error.fault)
    };
    // A record of length 0, and one that ends beyond the table.
    assert_eq!(at(&[bytes().u16(0).u16(0)]), (48, "Length", Fault::Length(0)));
    assert_eq!(at(&[bytes().u16(0).u16(64)]), (48, "Length", Fault::Truncated));
    // A record shorter than its structure.
    let short = record(0, bytes().u32(0));
    assert_eq!(at(&[short]), (56, "Register Base Address", Fault::Truncated));
    // A device scope of length 0, for which Linux 6.12 loops, and one with half a hop.
    let zero = bytes().u8(1).u8(0).zeros(6);
    assert_eq!(at(&[drhd(false, 0x1000, &[zero])]), (64, "Device Scope Length", Fault::Length(0)));
    let half = bytes().u8(1).u8(9).zeros(7);
    assert_eq!(at(&[drhd(false, 0x1000, &[half])]), (65, "Device Scope Length", Fault::Length(9)));
    // A name that does not end.
    let endless = record(4, bytes().zeros(3).u8(1).bytes(b"\\_SB"));
    assert_eq!(at(&[endless]), (56, "ACPI Object Name", Fault::Text));
    let text = error(&dmar(&[bytes().u16(0).u16(0)])).to_string();
    assert_eq!(text, "ACPI table DMAR: Length at 0x30 is 0, which does not fit");
}

fn ivhd(kind: u8, device: u16, base: u64, entries: Bytes) -> Bytes {
    let long = kind != 0x10;
    let length = u16::try_from(if long { 40 } else { 24 } + entries.0.len()).expect("short");
    let head = bytes().u8(kind).u8(0x20).u16(length).u16(device).u16(0x40).u64(base).u16(0).u16(0);
    let head = if long { head.u32(0).u64(0x1234).u64(0) } else { head.u32(0) };
    head.bytes(&entries.0)
}

fn four(kind: u8, device: u16) -> Bytes {
    bytes().u8(kind).u16(device).u8(0)
}

fn eight(kind: u8, device: u16, rest: [u8; 4]) -> Bytes {
    four(kind, device).bytes(&rest)
}

fn joined(entries: &[Bytes]) -> Bytes {
    entries.iter().fold(bytes(), |all, entry| all.bytes(&entry.0))
}

/// As on a desktop: a range for all buses, an alias behind a bridge, an I/O APIC, a device that is not on PCI.
pub(crate) fn desktop() -> Vec<u8> {
    let entries = joined(&[
        four(2, 0x08),
        four(3, 0x10),
        four(4, 0xfffe),
        // Requester ids of bus 3 reach the unit as 02:00.0.
        eight(0x43, 0x300, [0, 0x00, 0x02, 0]),
        four(4, 0x3ff),
        eight(0x48, 0, [0x21, 0xa0, 0x00, 1]),
        eight(0x48, 0, [0, 0xa0, 0x00, 2]),
        four(0xf0, 0xa5).bytes(b"AMDI0020").zeros(8).u8(2).u8(9).bytes(b"\\_SB.FUR0"),
    ]);
    ivrs(&[
        ivhd(0x10, 2, 0xfeb8_0000, four(1, 0)),
        ivhd(0x11, 2, 0xfeb8_0000, entries),
        ivmd(0x21, 7, 0x08, 0, 0x7000_0000, 0x1000),
        ivmd(0x22, 7, 0x100, 0x1ff, 0x7100_0000, 0x2000),
        bytes().u8(0x51).u8(0).u16(8).u32(0),
    ])
}

#[test]
fn the_highest_block_of_a_unit_counts_and_later_entries_win() {
    let machine = read(&desktop());
    assert_eq!(machine.iommus.len(), 1);
    assert_eq!((machine.iommus[0].kind, machine.iommus[0].coherent), (IommuKind::AmdVi, true));
    let bus = device(&machine, "PCI segment 0000").bus.clone().expect("a bus");
    let id = |rid| bus.stream(RequesterId(rid)).ok().map(|(_, stream)| stream.id.raw());
    assert_eq!(
        [id(0x08), id(0x10), id(0x2ff), id(0x400), id(0xfffe)],
        [Some(0x08), Some(0x10), Some(0x2ff), Some(0x400), Some(0xfffe)]
    );
    assert_eq!([id(0x300), id(0x3ff)], [Some(0x200), Some(0x200)]);
    // Not named by any entry (CVE-2026-53283), and the unit itself.
    assert_eq!([id(0xffff), id(0x09), id(2)], [None, None, None]);
    let unit = machine.iommus[0].path.clone();
    assert_eq!(
        clients(&machine),
        [
            ("0000:00:01.0".to_owned(), vec![(unit.clone(), 0x08)]),
            ("AMDI0020:\\_SB.FUR0".to_owned(), vec![(unit, 0xa5)])
        ]
    );
    let template = &device(&machine, "PCI segment 0000").description;
    let reserved = |rid| bus.function("f", &[RequesterId(rid)], template).reserved;
    assert_eq!(reserved(0x08)[0].range.start().raw(), 0x7000_0000);
    assert_eq!(reserved(0x1ff)[0].range.len(), 0x2000);
    assert!(reserved(0x200).is_empty());
    let sources: Vec<_> = machine.interrupt_sources.iter().map(|it| (it.kind, it.id)).collect();
    assert_eq!(sources, [(SourceKind::IoApic, 0x21), (SourceKind::Hpet, 0)]);
    assert_eq!(rules(&machine), [rule::ACPI_UNKNOWN]);
}

#[test]
fn ivrs_errors_name_offset_and_field() {
    let at = |records: &[Bytes]| {
        let error = error(&ivrs(records));
        (error.offset, error.field, error.fault)
    };
    // A block of length 0, and an entry type whose length Linux 6.12 takes for 0: it loops for both.
    assert_eq!(at(&[bytes().u8(0x11).u8(0).u16(0)]), (48, "Length", Fault::Length(0)));
    let entry = ivhd(0x10, 2, 0x1000, four(0x80, 0));
    assert_eq!(at(&[entry]), (72, "device entry", Fault::Truncated));
    // A text of 255 bytes that its block does not have.
    let text = four(0xf0, 5).zeros(16).u8(2).u8(255);
    assert_eq!(at(&[ivhd(0x11, 2, 0x1000, text)]), (88, "device entry", Fault::Truncated));
    // Ranges without an end, without a beginning, and backwards.
    let field = "end of range";
    assert_eq!(at(&[ivhd(0x10, 2, 0x1000, four(3, 8))]), (76, field, Fault::Value(8)));
    assert_eq!(at(&[ivhd(0x10, 2, 0x1000, four(4, 8))]), (72, field, Fault::Value(4)));
    let backwards = joined(&[four(3, 8), four(4, 7)]);
    assert_eq!(at(&[ivhd(0x10, 2, 0x1000, backwards)]), (77, field, Fault::Value(7)));
}
