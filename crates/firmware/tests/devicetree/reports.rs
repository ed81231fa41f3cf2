//! Descriptions after public reports and real boards, each with the outcome that Linux's source or the binding gives.

use crate::made::{Dt, bridge, client, device, dt, has_finding, mmu500, root, smmu, translated};
use portcullis::{DeviceDescription, DmaPath, ReservedKind, merge_regions};
use portcullis_addr::PhysAddr;
use portcullis_firmware::{
    IommuKind, MachineDescription, Quirk, ReadError, Severity, read_devicetree, rule,
};

fn function(name: &str, device: u32, function: u32) -> Dt {
    dt(name).cells("reg", &[(device << 11) | (function << 8), 0, 0, 0, 0])
}

fn port(name: &str, device: u32) -> Dt {
    function(name, device, 0)
        .text("device_type", "pci")
        .cells("#address-cells", &[3])
        .cells("#size-cells", &[2])
}

/// (path below the host, stream id) of every client; `None` for a blocked one.
fn streams(machine: &MachineDescription) -> Vec<(String, Option<u32>)> {
    let stream = |client: &DeviceDescription| match &client.dma {
        DmaPath::Translated(spec) => Some(spec.streams[0].id.raw()),
        _ => None,
    };
    machine.clients().map(|client| (client.path.clone(), stream(client))).collect()
}

fn rules(machine: &MachineDescription) -> Vec<&'static str> {
    machine.findings.iter().map(|finding| finding.rule).collect()
}

/// Linux drivers/pci/of.c, `of_pci_get_devfn`: only device and function of `reg` are looked at; after qcs6490-rb3gen2-industrial-mezzanine.
#[test]
fn bus_numbers_come_from_enumeration() {
    let map = [
        0, 1, 0x10, 1, 0x100, 1, 0x11, 1, 0x208, 1, 0x12, 1, 0x210, 1, 0x13, 1, 0x300, 1, 0x14, 1,
        0x301, 1, 0x15, 1, 0x400, 1, 0x16, 1,
    ];
    let leg1 = port("leg@1,0", 1).with(function("nic@0,0", 0, 0)).with(function("nic@0,1", 0, 1));
    // Listed before the other leg, but device 2 comes after device 1.
    let leg2 = port("leg@2,0", 2).with(function("disk@0,0", 0, 0));
    let switch = port("switch@0,0", 0).with(leg2).with(leg1);
    let machine =
        root().with(smmu(1)).with(bridge(&map).with(port("port@0,0", 0).with(switch))).read();
    let top = "/pcie@40000000/port@0,0";
    let expected = [
        ("", 0x10),
        ("/switch@0,0", 0x11),
        ("/switch@0,0/leg@1,0", 0x12),
        ("/switch@0,0/leg@2,0", 0x13),
        ("/switch@0,0/leg@1,0/nic@0,0", 0x14),
        ("/switch@0,0/leg@1,0/nic@0,1", 0x15),
        ("/switch@0,0/leg@2,0/disk@0,0", 0x16),
    ];
    let expected = expected.map(|(path, id)| (format!("{top}{path}"), Some(id)));
    assert_eq!(streams(&machine), expected);
    assert_eq!(rules(&machine), [""; 0]);
}

/// The bus numbers begin where `bus-range` does; what is written into `reg` does not count.
#[test]
fn enumeration_begins_at_the_bus_range() {
    let wifi = dt("wifi@0").cells("reg", &[0x070000, 0, 0, 0, 0]);
    let host = bridge(&[0x4000, 1, 0x20, 0x200]).cells("bus-range", &[0x40, 0x4f]);
    let machine = root().with(smmu(1)).with(host.with(port("pcie@0", 0).with(wifi))).read();
    let ids: Vec<_> = streams(&machine).into_iter().map(|(_, id)| id).collect();
    assert_eq!(ids, [Some(0x20), Some(0x120)]);
}

#[test]
fn an_uncovered_function_is_a_mistake_only_where_no_bus_number_helps() {
    let below = port("pcie@0", 0).with(function("nic@0,0", 0, 0)).with(function("nic@1,0", 1, 0));
    // Bus 1 has no range, bus 2 has one for device 0.
    let map = [0, 1, 0x10, 1, 0x200, 1, 0x12, 1];
    let machine = root().with(smmu(1)).with(bridge(&map).with(below)).read();
    let finding = |path: &str| machine.findings.iter().find(|it| it.path.ends_with(path));
    let uncertain = finding("/nic@0,0").expect("the bus may be 2");
    assert_eq!((uncertain.severity, uncertain.rule), (Severity::Note, rule::RID_UNCERTAIN));
    let missing = finding("/nic@1,0").expect("no bus has a device 1");
    assert_eq!((missing.severity, missing.rule), (Severity::Warning, rule::RID_NOT_MAPPED));
    // Whatever the map says, none is direct.
    assert!(machine.clients().all(|client| client.dma != DmaPath::Direct));
}

#[test]
fn two_nodes_for_one_function_count_once_with_a_note() {
    let host = bridge(&[0, 1, 0, 0x100]);
    let host = host.with(function("wifi@0", 0, 0)).with(function("wlan@0", 0, 0));
    let machine = root().with(smmu(1)).with(host).read();
    assert_eq!(streams(&machine), [("/pcie@40000000/wifi@0".to_owned(), Some(0))]);
    assert!(has_finding(&machine, "/pcie@40000000/wlan@0", rule::DUPLICATE_FUNCTION));
}

/// Linux drivers/iommu/of_iommu.c: the platform device takes `iommus`, functions take the map; after tegra234's host1x.
#[test]
fn a_node_with_streams_and_a_map_keeps_both() {
    let host = bridge(&[0, 1, 0x1000, 0x1_0000]).cells("iommus", &[1, 0x77]);
    let machine = root().with(smmu(1)).with(host.with(function("disk@1,0", 1, 0))).read();
    let own = ("/pcie@40000000".to_owned(), Some(0x77));
    let disk = ("/pcie@40000000/disk@1,0".to_owned(), Some(0x1008));
    assert_eq!(streams(&machine), [own.clone(), disk]);
    // A bus of another kind has no functions that it could list.
    let context = bridge(&[0, 1, 0x35, 1]).without("device_type").cells("iommus", &[1, 0x77]);
    let machine = root().with(smmu(1)).with(context).read();
    assert_eq!(streams(&machine), [own, ("/pcie@40000000/00:00.0".to_owned(), Some(0x35))]);
}

/// Binding `virtio/pci-iommu.yaml` and pci/pci-iommu.txt, example 5: the IOMMU's own id is left out of the map.
#[test]
fn an_iommu_that_is_a_function_is_no_client_of_itself() {
    let iommu = || {
        function("iommu@1,0", 1, 0)
            .text("compatible", "pci1af4,1057")
            .cells("#iommu-cells", &[1])
            .cells("phandle", &[1])
    };
    let host = |map: &[u32]| bridge(map).with(iommu()).with(function("nic@2,0", 2, 0));
    let machine = root().with(host(&[0, 1, 0, 8, 9, 1, 9, 0xfff7])).read();
    assert_eq!(streams(&machine), [("/pcie@40000000/nic@2,0".to_owned(), Some(0x10))]);
    assert_eq!(rules(&machine), [""; 0]);
    // With its own id in the map it would wait for itself.
    let machine = root().with(host(&[0, 1, 0, 0x1_0000])).read();
    assert!(has_finding(&machine, "/pcie@40000000/iommu@1,0", rule::IOMMU_CYCLE));
}

/// Linux ccb2fd725d41 (7.2), `of_map_id`.
#[test]
fn maps_have_as_many_id_cells_as_the_iommu_asks_for() {
    let none = smmu(1).text("compatible", "example,single").cells("#iommu-cells", &[0]);
    let machine = root().with(none).with(bridge(&[0, 1, 1, 0x100, 1, 0x10])).read();
    let bus = device(&machine, "/pcie@40000000").bus.clone().expect("a bus");
    let id = |rid| bus.stream(portcullis_firmware::RequesterId(rid)).ok().map(|it| it.1.id.raw());
    assert_eq!([id(0), id(1), id(0x100), id(0x10f)], [Some(0), None, Some(0), Some(0)]);

    let map = [0, 1, 0x400, 0x3f, 1, 0x100, 1, 0x500, 0x0f, 0x80];
    let machine = root().with(mmu500(1, 2)).with(bridge(&map)).read();
    let bus = device(&machine, "/pcie@40000000").bus.clone().expect("a bus");
    let id = |rid| bus.stream(portcullis_firmware::RequesterId(rid)).ok().map(|it| it.1);
    assert_eq!(id(0).map(|stream| (stream.id.raw(), stream.mask)), Some((0x400, 0x3f)));
    // The range of 0x80 ids is refused, and only that.
    assert_eq!((id(0x100), id(0x17f)), (None, None));
    let finding = machine.findings.iter().find(|it| it.rule == rule::IOMMU_MAP_RANGE);
    assert_eq!(finding.expect("a finding").severity, Severity::Error);
    assert_eq!(streams(&machine).len(), 1);

    // One id cell in each tuple, one of them with a length: no form that can be read without doubt.
    let machine = root().with(mmu500(1, 2)).with(bridge(&[0, 1, 0x400, 1, 8, 1, 0x500, 8])).read();
    assert!(matches!(device(&machine, "/pcie@40000000").description.dma, DmaPath::Unusable(_)));
}

/// `<0 &smmu 0 0>` of NXP's fsl-mc buses, "fixed up by the bootloader".
#[test]
fn a_placeholder_is_one_note() {
    let machine = root().with(smmu(1)).with(bridge(&[0, 1, 0, 0])).read();
    assert_eq!(rules(&machine), [rule::IOMMU_MAP_PLACEHOLDER]);
    assert_eq!(machine.findings[0].severity, Severity::Note);
    assert_eq!(streams(&machine), [("/pcie@40000000".to_owned(), None)]);
}

/// Linux arm-smmu-v3.c, ARM_SMMU_OPT_PAGE0_REGS_ONLY, and binding `iommu/arm,smmu-v3.yaml`.
#[test]
fn defects_that_a_property_names_are_known() {
    let behind = |iommu: Dt| {
        let tree = root().with(iommu).with(client("mac@1000", &[1, 5]));
        read_devicetree(&tree.lax_blob(), "test").expect("well-formed")
    };
    let machine = behind(smmu(1).flag("cavium,cn9900-broken-page1-regspace"));
    assert_eq!(machine.iommus[0].quirks, [Quirk::Page0RegistersOnly]);
    assert!(has_finding(&machine, "/iommu@100000", rule::IOMMU_QUIRK));
    assert_eq!(translated(device(&machine, "/mac@1000")), None);
    // The driver sends no prefetch, so this one needs nothing.
    let machine = behind(smmu(1).flag("hisilicon,broken-prefetch-cmd"));
    assert_eq!(machine.iommus[0].quirks, [Quirk::BrokenPrefetch]);
    assert_eq!(translated(device(&machine, "/mac@1000")), Some(vec![5]));
    assert_eq!(rules(&machine), [""; 0]);
}

/// An MMU-401 is an SMMUv1: its banks share interrupts, so their number says nothing of it (AMD Overdrive).
#[test]
fn context_banks_are_counted_by_interrupts_only_where_each_has_one() {
    let banks = |compatible: &[u8]| {
        let unit = mmu500(1, 1)
            .bytes("compatible", compatible)
            .cells("interrupt-parent", &[9])
            .cells("#global-interrupts", &[1])
            .cells("interrupts", &[1, 2]);
        let gic = dt("gic").cells("phandle", &[9]).cells("#interrupt-cells", &[1]);
        let blob = root().with(unit).with(gic).lax_blob();
        read_devicetree(&blob, "test").expect("well-formed").iommus[0].context_banks
    };
    assert_eq!(banks(b"arm,mmu-500\0"), Some(1));
    assert_eq!(banks(b"arm,mmu-401\0"), None);
}

fn with_region(reg: [u32; 2], devices: &[Dt], regions: &[[u32; 3]]) -> MachineDescription {
    let addresses: Vec<u32> = regions.iter().flatten().copied().collect();
    let region = dt("splash").cells("phandle", &[20]).cells("reg", &reg);
    let memory = dt("reserved-memory").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    let memory = memory.flag("ranges").with(region.cells("iommu-addresses", &addresses));
    let tree = root().with(smmu(1)).with(memory);
    devices.iter().fold(tree, |tree, device| tree.with(device.clone())).read()
}

fn reserved(description: &DeviceDescription) -> Vec<(u64, u64, ReservedKind)> {
    let regions = description.reserved.iter();
    regions.map(|it| (it.range.start().raw(), it.range.last().raw(), it.kind)).collect()
}

/// Linux `iommu_create_device_direct_mappings` aligns start and end (upwards, so that the first page is missing: the picture's first lines fault); after msm8916-mainline/linux pull request 380.
#[test]
fn an_unaligned_boot_framebuffer_is_mapped_in_whole_pages() {
    let panel = client("panel@1", &[1, 5]).cells("phandle", &[30]).cells("memory-region", &[20]);
    let at = [0x8320_0036, 0x11_9400];
    let machine = with_region(at, &[panel], &[[30, at[0], at[1]]]);
    let panel = &device(&machine, "/panel@1").description;
    assert_eq!(reserved(panel), [(0x8320_0000, 0x8331_9fff, ReservedKind::Direct)]);
    assert_eq!(rules(&machine), [rule::IOMMU_ADDRESSES_ROUNDED]);
}

/// Linux `of_translate_dma_region`: the cells of the bus that the device's transactions travel on.
#[test]
fn iommu_addresses_have_the_cells_of_the_dma_parent() {
    let bus = dt("bus@0")
        .cells("phandle", &[31])
        .cells("#interconnect-cells", &[0])
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2]);
    let region = dt("splash").cells("phandle", &[20]).cells("reg", &[0x9000_0000, 0x1000]);
    let region = region.cells("iommu-addresses", &[30, 0, 0x9000_0000, 0, 0x1000]);
    let memory = dt("reserved-memory").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    let video = client("video@1", &[1, 1])
        .cells("phandle", &[30])
        .cells("memory-region", &[20])
        .cells("interconnects", &[31])
        .bytes("interconnect-names", b"dma-mem\0");
    let tree = root().with(smmu(1)).with(bus).with(memory.flag("ranges").with(region)).with(video);
    let machine = tree.read();
    let video = &device(&machine, "/video@1").description;
    assert_eq!(reserved(video), [(0x9000_0000, 0x9000_0fff, ReservedKind::Direct)]);
}

/// Linux `iova_reserve_pci_windows`, and aadad097cd46 for what lies outside of `dma-ranges`.
#[test]
fn windows_and_what_no_dma_range_covers_are_kept_free() {
    let memory = 0x0200_0000;
    let host = bridge(&[0, 1, 0, 0x1_0000])
        .cells(
            "ranges",
            &[
                0x0100_0000,
                0,
                0,
                0x3000_0000,
                0,
                0x1_0000, // I/O ports are no memory addresses
                memory,
                0,
                0x5000_0000,
                0x5000_0000,
                0,
                0x1000_0000,
            ],
        )
        .cells("dma-ranges", &[memory, 0, 0x4000_0000, 0x4000_0000, 0, 0x8000_0000])
        .with(function("disk@1,0", 1, 0));
    let machine = root().with(smmu(1)).with(host).read();
    let disk = machine.clients().next().expect("the disk");
    let free = ReservedKind::Reserved;
    assert_eq!(
        reserved(disk),
        [
            (0, 0x3fff_ffff, free),
            (0x5000_0000, 0x5fff_ffff, free),
            (0xc000_0000, 0xffff_ffff, free)
        ]
    );
    assert_eq!(disk.address_bits, 32);
}

#[test]
fn a_function_has_regions_of_its_own() {
    let region = dt("fw").cells("phandle", &[20]).cells("reg", &[0x9000_0000, 0x1000]);
    let region = region.cells("iommu-addresses", &[30, 0, 0, 0x9000_0000, 0, 0x1000]);
    let memory = dt("reserved-memory").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    let gpu = function("gpu@1,0", 1, 0).cells("phandle", &[30]).cells("memory-region", &[20]);
    let host = bridge(&[0, 1, 0, 0x100]).with(gpu).with(function("nic@2,0", 2, 0));
    let tree = root().with(smmu(1)).with(memory.flag("ranges").with(region)).with(host);
    let machine = tree.read();
    let all: Vec<_> = machine.clients().map(reserved).collect();
    assert_eq!(all, [vec![(0x9000_0000, 0x9000_0fff, ReservedKind::Direct)], vec![]]);
}

#[test]
fn an_overlay_is_recognised() {
    let camera = client("camera@a000000", &[u32::MAX, 0x20]);
    let fragment =
        dt("fragment@0").text("target-path", "/soc").with(dt("__overlay__").with(camera));
    let fixups = dt("__fixups__").text("wall", "/fragment@0/__overlay__/camera@a000000:iommus:0");
    for overlay in [dt("").with(fragment.clone()), dt("").with(fragment).with(fixups)] {
        let error = read_devicetree(&overlay.lax_blob(), "overlay").expect_err("an overlay");
        assert_eq!(error, ReadError::Overlay);
        assert!(error.to_string().contains("applied"));
    }
    // A base tree that overlays can be applied to is none.
    let symbols = dt("__symbols__").text("wall", "/iommu@100000");
    assert!(read_devicetree(&root().with(smmu(1)).with(symbols).lax_blob(), "base").is_ok());
}

/// Linux `arm_smmu_find_sme`: a new entry must lie within an existing one or not overlap it; after sm8750's compute-cb@13 and @14.
#[test]
fn a_wider_entry_after_a_narrower_one_is_an_error() {
    let banks = |first: Dt, second: Dt| root().with(mmu500(1, 2)).with(first).with(second).read();
    let narrow = || client("bank13", &[1, 0x196d, 0, 1, 0xc2e, 0]);
    let wide = || client("bank14", &[1, 0x196e, 0, 1, 0xc0e, 0x20]);
    let machine = banks(narrow(), wide());
    let finding = machine.findings.iter().find(|it| it.rule == rule::STREAM_OVERLAP);
    let finding = finding.expect("Linux refuses the second");
    assert_eq!((finding.severity, finding.path.as_str()), (Severity::Error, "/bank14"));
    // Both can work with the wider entry: they are one group, and both name it.
    assert_eq!(portcullis_firmware::sharing(&machine), [0, 0]);
    assert_eq!(translated(device(&machine, "/bank13")), Some(vec![0x196d, 0xc0e]));
    // The other way round Linux lets the narrower one use the wider one's entry.
    assert!(!rules(&banks(wide(), narrow())).contains(&rule::STREAM_OVERLAP));
    // Where neither contains the other, no entry can stand for both.
    let machine = banks(client("a", &[1, 0x10, 0x0f]), client("b", &[1, 0x13, 0xf0]));
    for path in ["/a", "/b"] {
        assert!(has_finding(&machine, path, rule::STREAM_OVERLAP));
        assert_eq!(translated(device(&machine, path)), None);
    }
}

/// Binding `iommu/iommu.txt`: a disabled IOMMU is not in front. Who falls to direct that way should be told, and only of who does.
#[test]
fn a_device_behind_a_disabled_iommu_is_direct_or_blocked_but_not_both() {
    let off = || smmu(1).text("status", "disabled");
    let machine = root().with(off()).with(client("usb@1", &[1, 5])).read();
    assert_eq!(machine.findings[0].severity, Severity::Warning);
    // A bus that moves addresses blocks it: no word of direct DMA then.
    let bus = dt("soc").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    let bus = bus.cells("dma-ranges", &[0, 0x4000_0000, 0x1000_0000]);
    let machine = root().with(off()).with(bus.with(client("usb@1", &[1, 5]))).read();
    assert_eq!(rules(&machine), [rule::DMA_RANGES]);
    assert!(matches!(device(&machine, "/soc/usb@1").description.dma, DmaPath::Unusable(_)));
}

#[test]
fn a_bus_that_is_translated_in_part_is_not_direct() {
    let map = [0, 1, 0, 8, 8, 2, 0x40, 8];
    let host = bridge(&map).with(function("a@0,0", 0, 0)).with(function("b@1,0", 1, 0));
    let machine = root().with(smmu(1).text("status", "disabled")).with(smmu(2)).with(host).read();
    assert_eq!(translated(device(&machine, "/pcie@40000000")), Some(vec![0x40]));
    let paths: Vec<_> = machine.clients().map(|client| client.dma == DmaPath::Direct).collect();
    assert_eq!(paths, [true, false]);
}

#[test]
fn msi_maps_name_controller_and_doorbell() {
    let its = dt("its@8000000")
        .text("compatible", "arm,gic-v3-its")
        .cells("reg", &[0x0800_0000, 0x2_0000])
        .cells("#msi-cells", &[1])
        .cells("phandle", &[9]);
    let host = bridge(&[0, 1, 0, 0x100]).cells("msi-map", &[0, 9, 0x100, 0x100]);
    let machine = root().with(smmu(1)).with(its).with(host).read();
    let host = device(&machine, "/pcie@40000000");
    let msi = &host.msi[0];
    // Arm IHI 0069: GITS_TRANSLATER is at 0x40 of the second 64 KiB frame.
    assert_eq!(msi.doorbell.map(|at| at.raw()), Some(0x0801_0040));
    // The core maps it where a driver asks, so the device's own description has it too.
    assert_eq!(host.description.doorbells, [PhysAddr::new(0x0801_0040)]);
    assert_eq!((msi.controller.as_str(), msi.range), ("/its@8000000", Some((0, 0x100, 0x100))));
    let bad = root().with(smmu(1)).with(bridge(&[0, 1, 0, 8]).cells("msi-map", &[0, 7, 0, 8]));
    assert!(has_finding(&bad.read(), "/pcie@40000000", rule::MSI_MAP));
}

#[test]
fn an_iommu_with_fewer_banks_than_groups_is_remarked() {
    let gic = dt("gic").cells("phandle", &[50]).cells("#interrupt-cells", &[1]);
    let iommu = mmu500(1, 1).cells("#global-interrupts", &[1]).cells("interrupts", &[1, 2, 3]);
    let tree = |last: u32| {
        let tree = root().cells("interrupt-parent", &[50]).with(gic.clone()).with(iommu.clone());
        let tree = tree.with(client("a@1", &[1, 1])).with(client("b@2", &[1, 2]));
        tree.with(client("c@3", &[1, last])).read()
    };
    assert!(has_finding(&tree(3), "/iommu@100000", rule::STREAM_TABLE_FULL));
    // Two of them share a stream, so two banks are enough.
    assert!(!has_finding(&tree(2), "/iommu@100000", rule::STREAM_TABLE_FULL));
}

#[test]
fn clients_that_do_not_snoop_behind_an_iommu_that_does_are_noted_once() {
    let iommu = smmu(1).flag("dma-coherent");
    let tree = root().with(iommu).with(client("a@1", &[1, 1])).with(client("b@2", &[1, 2]));
    let machine = tree.with(client("c@3", &[1, 3]).flag("dma-coherent")).read();
    let notes: Vec<_> = machine.findings.iter().filter(|it| it.rule == rule::COHERENCY).collect();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].message.contains("2 of its 3"), "{}", notes[0].message);
}

/// One group has one address space. Linux: `iommu_create_device_direct_mappings` maps what each member names.
#[test]
fn members_of_a_group_that_contradict_each_other_are_blocked_as_the_core_blocks_them() {
    let behind = |stream: u32| {
        let display =
            client("display@1", &[1, 5]).cells("phandle", &[30]).cells("memory-region", &[20]);
        let codec =
            client("codec@2", &[1, stream]).cells("phandle", &[31]).cells("memory-region", &[20]);
        // 1:1 for the display; not at its own address, so kept free, for the codec.
        let regions = [[30, 0x9000_0000, 0x1000], [31, 0x9000_0000, 0x2000]];
        with_region([0x9000_0000, 0x1000], &[display, codec], &regions)
    };
    let apart = behind(6);
    assert!(!rules(&apart).contains(&rule::RESERVED_CONFLICT));
    let together = behind(5);
    for path in ["/display@1", "/codec@2"] {
        assert!(has_finding(&together, path, rule::RESERVED_CONFLICT), "{path}");
        assert_eq!(translated(device(&apart, path)).map(|ids| ids.len()), Some(1));
        assert_eq!(translated(device(&together, path)), None);
    }
    // The core, told of the clients that are translated without this check, refuses them for the same reason.
    let core = merge_regions(
        ["/display@1", "/codec@2"]
            .into_iter()
            .flat_map(|path| device(&together, path).description.reserved.clone())
            .collect(),
    );
    let reason = core.expect_err("they overlap").to_string();
    let DmaPath::Unusable(shown) = &device(&together, "/codec@2").description.dma else {
        panic!("blocked")
    };
    assert_eq!(*shown, reason);
}

/// Binding `iommu/riscv,iommu.yaml`, as QEMU's `virt` writes it: a platform device needs its registers, a PCI function has them in a BAR; both snoop unless the tree says otherwise.
#[test]
fn a_riscv_iommu_is_a_platform_device_or_a_pci_function() {
    let unit = |compatible| {
        let node = dt("iommu@3010000").text("compatible", compatible);
        node.cells("#iommu-cells", &[1]).cells("phandle", &[1])
    };
    let window = [0x0301_0000, 0x1000];
    for (node, usable, coherent) in [
        (unit("riscv,iommu").cells("reg", &window), true, true),
        (unit("riscv,iommu").cells("reg", &window).flag("dma-noncoherent"), true, false),
        (unit("riscv,iommu"), false, true),
        (unit("riscv,pci-iommu"), true, true),
        (unit("riscv,pci-iommu").cells("#iommu-cells", &[2]), false, true),
    ] {
        let machine = root().with(node).with(client("dma@0", &[1, 0x10])).read();
        let iommu = &machine.iommus[0];
        assert_eq!((iommu.kind, iommu.coherent), (IommuKind::RiscV, coherent));
        assert_eq!(iommu.unusable.is_none(), usable, "{:?}", iommu.unusable);
        let expected = usable.then_some(0x10);
        assert_eq!(streams(&machine), [("/dma@0".to_owned(), expected)]);
    }
}
