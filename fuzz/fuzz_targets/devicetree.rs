//! Any bytes: the reader refuses them or gives a description that keeps its promises.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::DmaPath;
use portcullis_firmware::{DescribedDevice, MachineDescription, RequesterId, read_devicetree, sharing};

fuzz_target!(|blob: &[u8]| {
    match read_devicetree(blob, "fuzzed") {
        Ok(machine) => check(&machine),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

fn check(machine: &MachineDescription) {
    assert_eq!(sharing(machine).len(), machine.devices.len());
    assert!(machine.iommus.is_sorted_by_key(|iommu| iommu.node));
    for device in &machine.devices {
        never_direct_behind_an_enabled_iommu(machine, device);
        let Some(bus) = &device.bus else { continue };
        // A range may reach beyond what the mask lets through.
        for map in bus.maps().iter().filter(|map| map.rid_last() & !bus.mask() == 0) {
            let (_, stream) = bus.stream(RequesterId(map.rid_last())).expect("the range's last id");
            let beyond = if map.constant { 0 } else { map.length - 1 };
            assert_eq!(stream.id.raw() - map.id_base, beyond);
        }
    }
}

fn never_direct_behind_an_enabled_iommu(machine: &MachineDescription, device: &DescribedDevice) {
    if device.description.dma == DmaPath::Direct {
        // Its own path is that of its streams where it has any, of its map otherwise.
        let maps = device.bus.iter().flat_map(|bus| bus.maps()).filter(|_| device.streams.is_empty());
        let mut named = device.streams.iter().map(|it| it.iommu).chain(maps.map(|it| it.iommu));
        assert!(named.all(|node| machine.iommu(node).is_some_and(|iommu| !iommu.enabled)));
    }
}
