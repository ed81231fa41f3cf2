//! IORT and RIMT.

use crate::made::{
    Bytes, Mapping, bytes, clients, component, device, error, iort, read, reserved, root_complex,
    rules, smmuv3, table,
};
use portcullis::{DmaPath, ReservedKind};
use portcullis_firmware::acpi::Fault;
use portcullis_firmware::{IommuKind, Quirk, RequesterId, rule};

fn mmu500(base: u64, contexts: u32) -> (u8, u8, Bytes, Vec<Mapping>) {
    (3, 3, bytes().u64(base).u64(0x8_0000).u32(3).u32(2).u32(60).u32(contexts).zeros(12), vec![])
}

fn its() -> (u8, u8, Bytes, Vec<Mapping>) {
    (0, 1, bytes().u32(1).u32(0), vec![])
}

pub(crate) fn server() -> Vec<u8> {
    iort(&[
        its(),
        smmuv3(0x2b40_0000, 0),
        root_complex(1, vec![(0, 0xff, 0x4000, 1, 0), (0x200, 0x1ff, 0x8000, 1, 0)]),
        component(b"\\_SB.DMA0", vec![(0, 0, 0x77, 1, 1), (0, 0, 5, 0, 1)]),
        component(b"\\_SB.DMA1", vec![(0, 0, 6, 0, 1)]),
        reserved(0x9000_0000, 0x1000, vec![(0, 0, 0x4010, 1, 1)]),
        mmu500(0x1500_0000, 8),
        component(b"\\_SB.CAM0", vec![(0x1_0000, 3, 0x820, 6, 0)]),
    ])
}

#[test]
fn ids_lead_through_the_table_to_units() {
    let machine = read(&server());
    let kinds: Vec<_> =
        machine.iommus.iter().map(|it| (it.kind, it.coherent, it.context_banks)).collect();
    assert_eq!(kinds, [(IommuKind::SmmuV3, true, None), (IommuKind::SmmuV2, true, Some(8))]);
    let v3 = "IORT/smmuv3@2b400000".to_owned();
    let v2 = |id| ("IORT/smmu@15000000".to_owned(), id);
    assert_eq!(
        clients(&machine),
        [
            // Named only by the reserved region that is for its id.
            ("0001:00:02.0".to_owned(), vec![(v3.clone(), 0x4010)]),
            ("\\_SB.CAM0".to_owned(), vec![v2(0x820), v2(0x821), v2(0x822), v2(0x823)]),
            ("\\_SB.DMA0".to_owned(), vec![(v3, 0x77)]),
            // Its ids reach the interrupt controller only.
            ("\\_SB.DMA1".to_owned(), vec![]),
        ]
    );
    assert_eq!(device(&machine, "\\_SB.DMA1").description.dma, DmaPath::Direct);
    let segment = device(&machine, "PCI segment 0001");
    assert_eq!((segment.description.address_bits, segment.description.coherent), (40, true));
    let bus = segment.bus.as_ref().expect("a bus");
    let id = |rid| bus.stream(RequesterId(rid)).ok().map(|(_, stream)| stream.id.raw());
    assert_eq!(
        [id(0), id(0xff), id(0x100), id(0x200), id(0x3ff), id(0x400)],
        [Some(0x4000), Some(0x40ff), None, Some(0x8000), Some(0x81ff), None]
    );
    assert_eq!((bus.segment(), bus.ats()), (1, Some(true)));
    let kept = &segment.functions[0].description.reserved[0];
    assert_eq!((kept.kind, kept.range.start().raw()), (ReservedKind::Direct, 0x9000_0000));
}

/// Some firmware writes the number of ids, not one less: Linux lets the last id of a range lose to the first of the next.
#[test]
fn a_range_that_is_one_too_long_gives_way_to_the_next() {
    let maps = vec![(0, 0x100, 0x1000, 0, 0), (0x100, 0xff, 0x2000, 0, 0)];
    let machine = read(&iort(&[smmuv3(0x1000, 0), root_complex(0, maps)]));
    let bus = device(&machine, "PCI segment 0000").bus.clone().expect("a bus");
    assert_eq!(bus.stream(RequesterId(0x100)).expect("covered").1.id.raw(), 0x2000);
    assert_eq!(rules(&machine), [""; 0]);
}

/// As on Snapdragon laptops: the ids of a root complex that no function has must not make its functions direct.
#[test]
fn mappings_beyond_sixteen_bits_leave_functions_blocked() {
    let maps = vec![(0x8703_0000, 127, 0x1c80, 0, 0)];
    let machine = read(&iort(&[mmu500(0x1500_0000, 8), root_complex(0, maps)]));
    assert_eq!(rules(&machine), [rule::ACPI_ID_RANGE]);
    assert!(matches!(device(&machine, "PCI segment 0000").description.dma, DmaPath::Unusable(_)));
}

#[test]
fn models_bring_their_quirks_and_untargeted_mappings_are_noted() {
    let quirky =
        |model| read(&iort(&[smmuv3(0x1000, model), component(b"\\_SB.D", vec![(0, 0, 1, 0, 1)])]));
    assert_eq!(quirky(1).iommus[0].quirks, [Quirk::BrokenPrefetch]);
    let broken = quirky(2);
    assert_eq!(broken.iommus[0].quirks, [Quirk::Page0RegistersOnly]);
    assert!(matches!(device(&broken, "\\_SB.D").description.dma, DmaPath::Unusable(_)));
    let nowhere = read(&iort(&[smmuv3(0x1000, 0), component(b"\\_SB.D", vec![(0, 0, 1, 9, 1)])]));
    assert_eq!(rules(&nowhere), [rule::ACPI_UNTARGETED]);
}

#[test]
fn iort_errors_name_offset_and_field() {
    let at = |table: &[u8]| {
        let error = error(table);
        assert_eq!(error.table.to_string(), "IORT");
        (error.offset, error.field, error.fault)
    };
    let rc = |target| root_complex(0, vec![(0, 7, 0, target, 0)]);
    // A root complex behind itself, and two behind each other: Linux's walk has no bound.
    assert_eq!(at(&iort(&[rc(0)])), (48, "ID mapping", Fault::Cycle));
    assert_eq!(at(&iort(&[rc(1), rc(0)])), (48, "ID mapping", Fault::Cycle));
    // A node of length 0, more nodes than there are, a reference to the middle of a node.
    let mut zero = iort(&[smmuv3(0x1000, 0)]);
    zero[49] = 0;
    assert_eq!(at(&zero), (48, "Length", Fault::Length(0)));
    let mut more = iort(&[smmuv3(0x1000, 0)]);
    more[36] = 2;
    assert_eq!(at(&more), (36, "Number of IORT Nodes", Fault::Value(2)));
    let mut middle = iort(&[smmuv3(0x1000, 0), rc(0)]);
    let reference = middle.len() - 8;
    middle[reference] += 4;
    assert_eq!(at(&middle), (reference, "Output reference", Fault::Reference(52)));
    // A mapping array that runs out of its node, output ids beyond 32 bits.
    let mut long = iort(&[smmuv3(0x1000, 0), rc(0)]);
    let count = 48 + 60 + 8;
    long[count] = 200;
    assert_eq!(at(&long).1, "Number of ID mappings");
    let wraps = root_complex(0, vec![(0, 7, u32::MAX, 0, 0)]);
    assert_eq!(at(&iort(&[smmuv3(0x1000, 0), wraps])).1, "Number of IDs");
}

/// Layout after ACPICA's `struct acpi_rimt_*`, which Linux and QEMU use. (The crate `acpi_tables` 0.2.1 writes an earlier draft's.)
pub(crate) fn rimt() -> Vec<u8> {
    let node = |kind: u8, id: u16, data: Bytes| {
        let length = u16::try_from(8 + data.0.len()).expect("short");
        bytes().u8(kind).u8(1).u16(length).u16(0).u16(id).bytes(&data.0)
    };
    let mapping = |input: u32, count: u32, output: u32, unit: u32| {
        bytes().u32(input).u32(count).u32(output).u32(unit).u32(0)
    };
    let unit = node(
        0,
        1,
        bytes().bytes(b"RSCV0004").u64(0x1010_0000).u32(0).u32(0).u16(0).u16(0).u16(0).u16(40),
    );
    let pci =
        node(0, 2, bytes().bytes(b"RSCV0004").u64(0).u32(1).u32(0).u16(0).u16(0x08).u16(0).u16(40));
    let (first, second) = (48, 48 + 40);
    let maps = mapping(0, 0x100, 0x10_0000, first).bytes(&mapping(0x100, 0x100, 0x100, second).0);
    let rc = node(1, 3, bytes().u32(1).u16(0).u16(0).u16(20).u16(2).bytes(&maps.0));
    let name = b"\\_SB.DMA0\0\0\0";
    let platform =
        node(2, 4, bytes().u16(24).u16(1).bytes(name).bytes(&mapping(0, 2, 0x40, first).0));
    let body = bytes().u32(4).u32(48).u32(0);
    table(b"RIMT", 1, [unit, pci, rc, platform].iter().fold(body, |body, node| body.bytes(&node.0)))
}

#[test]
fn riscv_units_take_ids_of_24_bits() {
    let machine = read(&rimt());
    assert!(machine.iommus.iter().all(|it| it.kind == IommuKind::RiscV));
    let bus = device(&machine, "PCI segment 0000").bus.clone().expect("a bus");
    let found = |rid| {
        let (map, stream) = bus.stream(RequesterId(rid)).ok()?;
        Some((machine.iommu_path(map.iommu).to_owned(), stream.id.raw()))
    };
    assert_eq!(found(0x10), Some(("RIMT/iommu@10100000".to_owned(), 0x10_0010)));
    assert_eq!(found(0x1ff), Some(("RIMT/0000:00:01.0".to_owned(), 0x1ff)));
    // The unit that is a function, and what lies beyond both ranges: the number of ids is not one less here.
    assert_eq!((found(0x08), found(0x200)), (None, None));
    let unit = "RIMT/iommu@10100000".to_owned();
    let dma = clients(&machine).pop().expect("the device");
    assert_eq!(dma, ("\\_SB.DMA0".to_owned(), vec![(unit.clone(), 0x40), (unit, 0x41)]));
}

/// As many devices as fit into a table, each with as many ids as one may have: listed are no more than 4,096 ids, and who has others is blocked.
#[test]
fn ids_of_named_devices_are_bounded_over_all_of_them() {
    let names: Vec<String> = (0..20).map(|number| format!("\\_SB.D{number:03}")).collect();
    let components = names.iter().map(|name| component(name.as_bytes(), vec![(0, 0xfff, 0, 0, 0)]));
    let nodes: Vec<_> = [smmuv3(0x2b40_0000, 0)].into_iter().chain(components).collect();
    let machine = read(&iort(&nodes));
    let listed: usize = machine.devices.iter().map(|it| it.streams.len()).sum();
    assert_eq!(listed, 0x1000);
    for (number, name) in names.iter().enumerate() {
        let dma = &device(&machine, name).description.dma;
        let is_blocked = matches!(dma, DmaPath::Unusable(_));
        assert_eq!(
            is_blocked,
            number >= 1,
            "{name}: {}",
            if is_blocked { "blocked" } else { "not" }
        );
        assert_ne!(*dma, DmaPath::Direct);
    }
    // Mappings of one device that lead to the same ids again and again are not all listed before they are counted.
    let many = component(b"\\_SB.MANY", vec![(0, 0xfff, 0, 0, 0); 2000]);
    let machine = read(&iort(&[smmuv3(0x2b40_0000, 0), many]));
    assert_eq!(device(&machine, "\\_SB.MANY").streams.len(), 0x1000);
    assert!(matches!(device(&machine, "\\_SB.MANY").description.dma, DmaPath::Unusable(_)));
}

/// Who uses a reserved region is looked up for each of its ids: regions with as many ids as there are devices are refused, not compared.
#[test]
fn looks_for_the_users_of_reserved_memory_are_bounded() {
    let component = component(b"\\_SB.DMA0", vec![(0, 0xfff, 0, 0, 0)]);
    let region = |mappings| reserved(0x9000_0000, 0x1000, vec![(0, 0, 0x10, 0, 1); mappings]);
    let table = |mappings| iort(&[smmuv3(0x2b40_0000, 0), component.clone(), region(mappings)]);
    assert_eq!(error(&table(1000)).fault, Fault::TooMany);
    let machine = read(&table(10));
    assert_eq!(device(&machine, "\\_SB.DMA0").description.reserved.len(), 1);
}
