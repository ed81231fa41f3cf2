//! VIOT and MCFG, and several tables together.

use crate::made::{bytes, clients, device, error, read, rules, table};
use acpi_tables::Aml;
use acpi_tables::viot::{MmioEndpoint, PciDevice, PciRange, VIOT, VirtIoMmioIommu, VirtIoPciIommu};
use portcullis_firmware::acpi::Fault;
use portcullis_firmware::{IommuKind, RequesterId, read_acpi, rule};

/// Written by the crate `acpi_tables`, which shares nothing with the reader.
pub(crate) fn viot() -> Vec<u8> {
    let mut viot = VIOT::new(*b"PORTCL", *b"VIOTTEST", 1);
    let pci = viot.add_virtio_pci_iommu(VirtIoPciIommu::new(PciDevice::new(0, 0, 3, 0)));
    let mmio = viot.add_virtio_mmio_iommu(VirtIoMmioIommu::new(0x1000_0000));
    let function = PciDevice::new;
    viot.add_pci_range(PciRange::new(function(0, 0, 0, 0), function(0, 0, 31, 7), &pci));
    viot.add_pci_range(PciRange::new(function(0, 4, 0, 0), function(0, 4, 0, 0), &pci));
    viot.add_mmio_endpoint(MmioEndpoint::new(0x99, 0x2000_0000, &mmio));
    let mut bytes = Vec::new();
    viot.to_aml_bytes(&mut bytes);
    bytes
}

#[test]
fn endpoints_are_behind_the_units_that_their_nodes_name() {
    let machine = read(&viot());
    assert!(machine.iommus.iter().all(|it| it.kind == IommuKind::VirtioIommu));
    let (pci, mmio) = ("VIOT/0000:00:03.0".to_owned(), "VIOT/virtio@10000000".to_owned());
    assert_eq!(
        clients(&machine),
        [
            ("0000:04:00.0".to_owned(), vec![(pci, 0x400)]),
            ("MMIO device at 0x20000000".to_owned(), vec![(mmio, 0x99)])
        ]
    );
    let bus = device(&machine, "PCI segment 0000").bus.clone().expect("a bus");
    let id = |rid| bus.stream(RequesterId(rid)).ok().map(|(_, stream)| stream.id.raw());
    // The unit is no endpoint of its own, though the range covers it.
    assert_eq!(
        [id(0), id(0x17), id(0x18), id(0x19), id(0xff), id(0x100)],
        [Some(0), Some(0x17), None, Some(0x19), Some(0xff), None]
    );
    assert_eq!(rules(&machine), [""; 0]);
}

#[test]
fn viot_errors_name_offset_and_field() {
    let good = viot();
    let mut bad = good.clone();
    // The first node is the unit at 48 of 16 bytes, the second the other of 16, the third a range: its output node.
    let output = 48 + 32 + 16;
    bad[output] = 52;
    let found = error(&bad);
    assert_eq!(
        (found.offset, found.field, found.fault),
        (output, "Output node", Fault::Reference(52))
    );
    let mut backwards = good;
    backwards[48 + 32 + 12] = 0xff;
    backwards[48 + 32 + 13] = 0xff;
    assert_eq!(error(&backwards).field, "PCI range");
}

pub(crate) fn mcfg() -> Vec<u8> {
    let entry = bytes().u64(0xe000_0000).u16(0).u8(0).u8(0xff).u32(0);
    table(b"MCFG", 1, bytes().zeros(8).bytes(&entry.0).bytes(&entry.0))
}

#[test]
fn configuration_spaces_are_kept() {
    let machine = read(&mcfg());
    let space = machine.config_spaces[1];
    assert_eq!(
        (space.base, space.segment, space.first_bus, space.last_bus),
        (0xe000_0000, 0, 0, 0xff)
    );
    assert_eq!(machine.clients().count(), 0);
    let cut = table(b"MCFG", 1, bytes().zeros(8).u64(0xe000_0000));
    assert_eq!(error(&cut).offset, 44);
    // Padding of zeros is no entry.
    assert_eq!(read(&table(b"MCFG", 1, bytes().zeros(12))).config_spaces.len(), 0);
}

#[test]
fn tables_come_in_any_order_and_others_are_passed_over() {
    let facp = table(b"FACP", 6, bytes().zeros(100));
    let (dmar, mcfg) = (crate::x86::laptop(), mcfg());
    let one = read_acpi([dmar.as_slice(), &facp, &mcfg], "test").expect("well-formed");
    let other = read_acpi([mcfg.as_slice(), &dmar], "test").expect("well-formed");
    assert_eq!(one, other);
    assert_eq!(one.model, "PORTCL TESTS");
}

#[test]
fn headers_are_checked() {
    let mut table = mcfg();
    table[9] ^= 1;
    assert_eq!(rules(&read(&table)), [rule::ACPI_CHECKSUM]);
    let at = |table: &[u8]| (error(table).offset, error(table).field, error(table).fault);
    assert_eq!(at(b"DMA"), (4, "Length", Fault::Truncated));
    let mut long = mcfg();
    long[4] = 0xff;
    assert_eq!(at(&long), (0, "Length", Fault::Truncated));
    let mut short = mcfg();
    short[4] = 35;
    assert_eq!(at(&short), (4, "Length", Fault::Length(35)));
}
