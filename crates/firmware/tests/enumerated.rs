//! From what enumeration finds to what the core is told: ids, sets, and who stays blocked.

use portcullis::{DeviceDescription, DmaPath, FwNode, IsolationSet};
use portcullis_firmware::{
    DescribedDevice, IommuMap, PciBus, PciFunction, RequesterId, client_groups, read_devicetree,
};
use portcullis_pci::{Bdf, Function, Isolation, Numbering, Recorded, Segment, enumerate};
use std::fmt::Write as _;

const IOMMU: FwNode = FwNode(7);
const PORT: u8 = 4;
const TO_CONVENTIONAL: u8 = 7;

/// A function as `lspci -xxxx` would show it: a bridge where buses are given, with a PCI Express capability where a port type is, and ACS on where it has one.
fn dump(text: &mut String, address: &str, port_type: Option<u8>, below: Option<(u8, u8)>) {
    let mut space = vec![0u8; 4096];
    space[..4].copy_from_slice(&[0x34, 0x12, 0x78, 0x56]);
    space[9..12].copy_from_slice(if below.is_some() { &[0, 4, 6] } else { &[0, 0, 2] });
    if let Some((secondary, subordinate)) = below {
        space[0xe] = 1;
        space[0x19..0x1b].copy_from_slice(&[secondary, subordinate]);
    }
    if let Some(port_type) = port_type {
        space[6] = 0x10;
        space[0x34] = 0x40;
        space[0x40..0x43].copy_from_slice(&[0x10, 0, port_type << 4]);
        if port_type == PORT {
            space[0x100..0x108].copy_from_slice(&[0x0d, 0, 1, 0, 0x1d, 0, 0x1d, 0]);
        }
    }
    writeln!(text, "{address} a function").expect("room");
    for (line, bytes) in space.chunks(16).enumerate() {
        let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{:03x}: {}", 16 * line, bytes.join(" ")).expect("room");
    }
}

/// 00:01.0 a port to bus 1, with 01:00.0 a bridge to conventional bus 2, with two devices; 00:02.0 an endpoint of its own.
fn segment() -> Segment {
    let mut text = String::new();
    dump(&mut text, "00:01.0", Some(PORT), Some((1, 2)));
    dump(&mut text, "00:02.0", Some(0), None);
    dump(&mut text, "01:00.0", Some(TO_CONVENTIONAL), Some((2, 2)));
    dump(&mut text, "02:01.0", None, None);
    dump(&mut text, "02:02.0", None, None);
    let recorded = Recorded::parse(&text, 0).expect("sound");
    enumerate(&recorded, &recorded.roots(), 0..=255, Numbering::Keep).expect("a recording")
}

fn bus(first: u32, length: u32) -> DescribedDevice {
    let map = IommuMap {
        rid_base: first,
        iommu: IOMMU,
        id_base: 0x1_0000 + first,
        length,
        constant: false,
        mask: 0,
        iommu_enabled: true,
    };
    DescribedDevice {
        node: FwNode(1),
        description: DeviceDescription::new("/pcie", DmaPath::Direct),
        enabled: true,
        compatible: Vec::new(),
        streams: Vec::new(),
        bus: Some(PciBus::new(u32::MAX, vec![map]).expect("one range")),
        functions: Vec::new(),
        msi: Vec::new(),
    }
}

/// Everything but bridges, by its address.
fn named(function: &Function) -> Option<String> {
    (!function.is_bridge()).then(|| format!("/pcie/{}", function.address))
}

fn streams(function: &PciFunction) -> Vec<u32> {
    function.description.streams().iter().map(|stream| stream.id.raw()).collect()
}

#[test]
fn functions_get_all_their_ids_and_the_set_of_those_they_share_a_way_with() {
    let mut device = bus(0, 0x1_0000);
    // What the description lists keeps its path.
    let listed = DeviceDescription::new("/pcie/disk@2,0", DmaPath::Direct);
    let requester = RequesterId::from(Bdf::new(0, 2, 0));
    device.functions.push(PciFunction { requester, description: listed });
    device.enumerated(&segment(), Isolation::default(), named);
    let found: Vec<_> = device
        .functions
        .iter()
        .map(|it| (it.description.path.as_str(), streams(it), it.description.isolation))
        .collect();
    // Named by the first of its members, the bridge at 01:00.0.
    let set = Some(IsolationSet(0x100));
    assert_eq!(
        found,
        [
            ("/pcie/disk@2,0", vec![0x1_0010], None),
            ("/pcie/02:01.0", vec![0x1_0208, 0x1_0200], set),
            ("/pcie/02:02.0", vec![0x1_0210, 0x1_0200], set),
        ]
    );
}

#[test]
fn whoever_is_described_for_some_of_its_ids_only_stays_blocked() {
    // The range ends before 02:02.0, and another one would be needed for it.
    let mut device = bus(0, 0x210);
    device.enumerated(&segment(), Isolation::default(), named);
    let blocked = |it: &&PciFunction| matches!(it.description.dma, DmaPath::Unusable(_));
    let blocked: Vec<_> = device.functions.iter().filter(blocked).map(|it| it.requester).collect();
    assert_eq!(blocked, [RequesterId::from(Bdf::new(2, 2, 0))]);
    // The conventional bridge's own id is not covered: neither are those that arrive under it.
    let mut device = bus(0x201, 0x1000);
    device.enumerated(&segment(), Isolation::default(), named);
    assert!(device.functions.iter().all(|it| matches!(it.description.dma, DmaPath::Unusable(_))));
}

#[test]
fn functions_of_one_set_are_one_group_of_the_machine() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/boards/portcullis-default.dtb");
    let mut machine =
        read_devicetree(&std::fs::read(source).expect("built in"), "b").expect("sound");
    let mut device = bus(0, 0x1_0000);
    device.enumerated(&segment(), Isolation::default(), named);
    machine.devices = vec![device];
    assert_eq!(client_groups(&machine), [0, 1, 1]);
    // By the set alone, without a common stream.
    for function in &mut machine.devices[0].functions {
        if let DmaPath::Translated(spec) = &mut function.description.dma {
            spec.streams.truncate(1);
        }
    }
    assert_eq!(client_groups(&machine), [0, 1, 1]);
    machine.devices[0].functions.iter_mut().for_each(|it| it.description.isolation = None);
    assert_eq!(client_groups(&machine), [0, 1, 2]);
}
