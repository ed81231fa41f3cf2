//! Two more trees for each kind of fault that real boards and public reports showed (`reports.rs` has the first of each): what is right is reasoned from the binding or from Linux 7.2, which each test names.

use crate::made::{Dt, bridge, client, device, dt, has_finding, mmu500, root, smmu, translated};
use portcullis::{DeviceDescription, DmaPath, ReservedKind};
use portcullis_addr::PhysAddr;
use portcullis_firmware::{
    MachineDescription, Quirk, ReadError, RequesterId, Severity, read_devicetree, rule, sharing,
};

const BRIDGE: &str = "/pcie@40000000";

fn function(name: &str, bus: u32, device: u32, function: u32) -> Dt {
    dt(name).cells("reg", &[(bus << 16) | (device << 11) | (function << 8), 0, 0, 0, 0])
}

fn port(name: &str, device: u32) -> Dt {
    let port = function(name, 0, device, 0).text("device_type", "pci");
    port.cells("#address-cells", &[3]).cells("#size-cells", &[2])
}

/// (last part of the path, stream id) of every client; `None` for one that is not translated.
fn streams(machine: &MachineDescription) -> Vec<(String, Option<u32>)> {
    let stream = |client: &DeviceDescription| match &client.dma {
        DmaPath::Translated(spec) => Some(spec.streams[0].id.raw()),
        DmaPath::Direct | DmaPath::Unusable(_) => None,
    };
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    machine.clients().map(|client| (name(&client.path), stream(client))).collect()
}

fn expected(clients: &[(&str, Option<u32>)]) -> Vec<(String, Option<u32>)> {
    clients.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect()
}

fn rules(machine: &MachineDescription) -> Vec<&'static str> {
    machine.findings.iter().map(|finding| finding.rule).collect()
}

fn reserved(description: &DeviceDescription) -> Vec<(u64, u64, ReservedKind)> {
    let regions = description.reserved.iter();
    regions.map(|it| (it.range.start().raw(), it.range.last().raw(), it.kind)).collect()
}

/// Linux `of_pci_get_devfn` masks the bus number away, on the root bus as below a bridge.
#[test]
fn a_bus_number_in_reg_says_nothing() {
    let nic = function("nic@2,1", 5, 2, 1);
    let disk = function("disk@3", 9, 3, 0);
    let host = bridge(&[0, 1, 0x1000, 0x1_0000]).with(nic).with(port("port@1", 1).with(disk));
    let machine = root().with(smmu(1)).with(host).read();
    let all = [("port@1", Some(0x1008)), ("nic@2,1", Some(0x1011)), ("disk@3", Some(0x1118))];
    assert_eq!(streams(&machine), expected(&all));
    assert_eq!(rules(&machine), [""; 0]);
}

/// Linux `pci_set_of_node` refuses a device whose node is disabled (6fffbc7ae137), so that its bridge takes no bus number.
#[test]
fn a_disabled_bridge_takes_no_bus_number() {
    let off = port("port@1", 1).text("status", "disabled").with(function("nic@0", 0, 0, 0));
    let on = port("port@2", 2).with(function("disk@0", 0, 0, 0));
    let host = bridge(&[0, 1, 0x1000, 0x1_0000]).with(off).with(on);
    let machine = root().with(smmu(1)).with(host).read();
    assert_eq!(streams(&machine), expected(&[("port@2", Some(0x1010)), ("disk@0", Some(0x1100))]));
}

/// Linux `of_bus_pci_match`: `pciex` is PCI as well, and so is a node called `pcie` that has no `device_type`.
#[test]
fn functions_are_listed_below_every_bus_that_linux_takes_for_pci() {
    let host = bridge(&[0, 1, 0x1000, 0x100]).with(function("disk@3", 0, 3, 0));
    for (host, found) in [
        (host.clone().without("device_type"), "disk@3"),
        (host.clone().text("device_type", "pciex"), "disk@3"),
        // Of a bus of another kind only the first id is known.
        (host.text("device_type", "soc"), "00:00.0"),
    ] {
        let machine = root().with(smmu(1)).with(host).read();
        assert_eq!(streams(&machine)[0].0, found);
    }
}

/// Linux `of_iommu_configure`: without an id `iommus`, with one the map; each may lead elsewhere.
#[test]
fn own_streams_and_those_of_the_functions_may_lead_to_different_iommus() {
    let host = bridge(&[0, 1, 0x1000, 0x100]).cells("iommus", &[2, 0x77]);
    let tree = root().with(smmu(1)).with(smmu(2)).with(host.with(function("disk@1", 0, 1, 0)));
    let machine = tree.read();
    let paths: Vec<_> = machine
        .clients()
        .map(|client| match &client.dma {
            DmaPath::Translated(spec) => machine.iommu_path(spec.streams[0].iommu),
            DmaPath::Direct | DmaPath::Unusable(_) => "",
        })
        .collect();
    assert_eq!(paths, ["/iommu@200000", "/iommu@100000"]);
    assert_eq!(rules(&machine), [""; 0]);
    // The functions are behind an IOMMU that works, whatever is in front of the bridge itself.
    let host = bridge(&[0, 1, 0x1000, 0x100]).cells("iommus", &[2, 0x77]);
    let off = smmu(2).text("status", "disabled");
    let tree = root().with(smmu(1)).with(off).with(host.with(function("disk@1", 0, 1, 0)));
    let machine = tree.read();
    assert_eq!(streams(&machine)[1], ("disk@1".to_owned(), Some(0x1008)));
    assert_eq!(device(&machine, BRIDGE).description.dma, DmaPath::Direct);
    assert!(has_finding(&machine, BRIDGE, rule::IOMMU_DISABLED));
}

fn virtio(name: &str, phandle: u32, device: u32) -> Dt {
    let iommu = function(name, 0, device, 0).text("compatible", "pci1af4,1057");
    iommu.cells("#iommu-cells", &[1]).cells("phandle", &[phandle])
}

/// Binding `pci/pci-iommu.txt`: what the map leaves out is behind no IOMMU; of an IOMMU that is meant.
#[test]
fn two_iommus_that_are_functions_are_left_out_of_the_map_between_them() {
    let map = [0, 1, 0, 8, 0x11, 2, 0x11, 0xffef];
    let host = bridge(&map).with(virtio("iommu@1", 1, 1)).with(virtio("iommu@2", 2, 2));
    let host = host.with(function("a@0", 0, 0, 0)).with(function("b@3", 0, 3, 0));
    let machine = root().with(host).read();
    assert_eq!(streams(&machine), expected(&[("a@0", Some(0)), ("b@3", Some(0x18))]));
    assert_eq!(rules(&machine), [""; 0]);
}

/// The same behind a port: its requester id is 01:00.0, and the map begins behind it.
#[test]
fn an_iommu_below_a_port_is_no_client_either() {
    let below = port("port@1", 1).with(virtio("iommu@0", 1, 0)).with(function("nic@1", 0, 1, 0));
    let machine = root().with(bridge(&[0, 1, 0, 0x100, 0x101, 1, 0x101, 0xff]).with(below)).read();
    assert_eq!(streams(&machine), expected(&[("port@1", Some(8)), ("nic@1", Some(0x108))]));
    assert_eq!(rules(&machine), [""; 0]);
}

/// Linux `iova_reserve_pci_windows` takes `window->res->start - window->offset`: addresses of the bus, not of the CPU; I/O ports are none.
#[test]
fn a_window_is_kept_free_at_its_bus_address() {
    let prefetchable = 0x4300_0000;
    let host = bridge(&[0, 1, 0, 0x100])
        .cells("ranges", &[prefetchable, 0x80, 0, 0x6000_0000, 0, 0x1000_0000])
        .with(function("disk@1", 0, 1, 0));
    let machine = root().with(smmu(1)).with(host).read();
    let disk = machine.clients().next().expect("the disk");
    assert_eq!(reserved(disk), [(0x80_0000_0000, 0x80_0fff_ffff, ReservedKind::Reserved)]);
}

/// The same function: what lies between two `dma-ranges`, below the first and above the last never comes out of the bridge.
#[test]
fn the_hole_between_two_dma_ranges_is_kept_free() {
    let memory = 0x0200_0000;
    let ranges = [
        memory,
        0,
        0xc000_0000,
        0xc000_0000,
        0,
        0x4000_0000,
        memory,
        0,
        0x4000_0000,
        0x4000_0000,
        0,
        0x4000_0000,
    ];
    let host = bridge(&[0, 1, 0, 0x100]).cells("dma-ranges", &ranges);
    let machine = root().with(smmu(1)).with(host.with(function("disk@1", 0, 1, 0))).read();
    let disk = machine.clients().next().expect("the disk");
    let free = ReservedKind::Reserved;
    assert_eq!(reserved(disk), [(0, 0x3fff_ffff, free), (0x8000_0000, 0xbfff_ffff, free)]);
}

/// Binding `pci/pci-msi.txt`; Server Base System Architecture, GICv2m: `MSI_SETSPI_NS` is at 0x40 of the frame.
#[test]
fn a_message_frame_is_a_doorbell_wherever_it_is_named() {
    let frame = dt("v2m@8020000")
        .text("compatible", "arm,gic-v2m-frame")
        .cells("reg", &[0x0802_0000, 0x1000])
        .cells("phandle", &[9]);
    let of = |host: Dt| {
        let machine = root().with(smmu(1)).with(frame.clone()).with(host).read();
        assert_eq!(rules(&machine), [""; 0]);
        let host = device(&machine, BRIDGE);
        (host.description.doorbells.clone(), host.msi[0].range)
    };
    let host = bridge(&[0, 1, 0, 0x100]);
    let doorbell = vec![PhysAddr::new(0x0802_0040)];
    assert_eq!(of(host.clone().cells("msi-parent", &[9])), (doorbell.clone(), None));
    // Linux 7.2 `of_map_id`: a target without `#msi-cells` takes one cell.
    let map = host.cells("msi-map", &[0, 9, 0x40, 0x100]);
    assert_eq!(of(map), (doorbell, Some((0, 0x40, 0x100))));
}

/// Binding `interrupt-controller/riscv,imsics.yaml`; as QEMU 10's `virt,aia=aplic-imsic` has it: the supervisor's files of two harts, of which the first one's page is named.
#[test]
fn an_incoming_message_controller_is_a_doorbell() {
    let files = dt("interrupt-controller@28000000")
        .text("compatible", "riscv,imsics")
        .cells("reg", &[0x2800_0000, 0x2000])
        .cells("phandle", &[9]);
    let host = bridge(&[0, 1, 0, 0x100]).cells("msi-parent", &[9]);
    let machine = root().with(smmu(1)).with(files).with(host).read();
    assert_eq!(rules(&machine), [""; 0]);
    assert_eq!(device(&machine, BRIDGE).description.doorbells, [PhysAddr::new(0x2800_0000)]);
}

/// Linux 7.2 `of_map_id` (ccb2fd725d41) takes the cells of each entry from that entry's target.
#[test]
fn entries_of_one_map_may_have_different_sizes() {
    let none = smmu(2).text("compatible", "example,single").cells("#iommu-cells", &[0]);
    let map = [0, 1, 0x10, 8, 0x100, 3, 0x500, 0x0f, 1, 0x200, 2, 0x100];
    let tree = root().with(smmu(1)).with(none).with(mmu500(3, 2)).with(bridge(&map));
    let machine = tree.read();
    let bus = device(&machine, BRIDGE).bus.clone().expect("a bus");
    let found = |rid| {
        let (map, stream) = bus.stream(RequesterId(rid)).ok()?;
        Some((machine.iommu_path(map.iommu), stream.id.raw(), stream.mask))
    };
    assert_eq!(found(7), Some(("/iommu@100000", 0x17, 0)));
    assert_eq!(found(0x100), Some(("/iommu@300000", 0x500, 0x0f)));
    assert_eq!(found(0x2ff), Some(("/iommu@200000", 0, 0)));
    assert_eq!([found(8), found(0x101), found(0x300)], [None, None, None]);
}

/// The same commit's `of_check_bad_map`: the four-cell form is one phandle throughout, and each length 1.
#[test]
fn the_old_form_is_for_one_iommu_only() {
    let two = [0, 1, 0x1400, 1, 0x100, 2, 0x1401, 1];
    let machine = root().with(mmu500(1, 2)).with(mmu500(2, 2)).with(bridge(&two)).read();
    assert!(matches!(device(&machine, BRIDGE).description.dma, DmaPath::Unusable(_)));
    let machine = root().with(mmu500(1, 2)).with(bridge(&[0x100, 1, 0x1401, 1])).read();
    assert_eq!(rules(&machine), [rule::IOMMU_MAP_ONE_CELL]);
    assert_eq!(translated(device(&machine, BRIDGE)), Some(vec![0x1401]));
}

/// "cannot handle 2-ID range with 2-cell output specifier": whatever the mask; ids of other entries are not affected.
#[test]
fn two_ids_are_a_range_too() {
    let machine = root().with(mmu500(1, 2)).with(bridge(&[0, 1, 0x400, 0, 2])).read();
    assert_eq!(rules(&machine), [rule::IOMMU_MAP_RANGE]);
    assert!(matches!(device(&machine, BRIDGE).description.dma, DmaPath::Unusable(_)));
    let map = [0, 1, 0x400, 0, 2, 8, 1, 0x500, 0, 1];
    let host = bridge(&map).with(function("a@0", 0, 0, 0)).with(function("b@1", 0, 1, 0));
    let machine = root().with(mmu500(1, 2)).with(host).read();
    assert_eq!(streams(&machine), expected(&[("a@0", None), ("b@1", Some(0x500))]));
}

/// NXP's fsl-mc: bus without `device_type`; and where the IOMMU takes two cells, two zeros stand for the id.
#[test]
fn a_placeholder_is_one_note_on_any_bus_and_for_any_cells() {
    let mc = bridge(&[0, 1, 0, 0]).without("device_type").text("compatible", "fsl,qoriq-mc");
    for tree in
        [root().with(smmu(1)).with(mc), root().with(mmu500(1, 2)).with(bridge(&[0, 1, 0, 0, 0]))]
    {
        let machine = tree.read();
        assert_eq!(rules(&machine), [rule::IOMMU_MAP_PLACEHOLDER]);
        assert!(matches!(device(&machine, BRIDGE).description.dma, DmaPath::Unusable(_)));
    }
}

fn region(name: &str, phandle: u32, reg: [u32; 2], users: &[u32]) -> Dt {
    let addresses: Vec<u32> = users.iter().flat_map(|user| [*user, reg[0], reg[1]]).collect();
    dt(name).cells("phandle", &[phandle]).cells("reg", &reg).cells("iommu-addresses", &addresses)
}

fn with_regions(regions: &[Dt], users: &[Dt]) -> MachineDescription {
    let memory = dt("reserved-memory").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    let memory = regions.iter().cloned().fold(memory.flag("ranges"), Dt::with);
    users.iter().cloned().fold(root().with(smmu(1)).with(memory), Dt::with).read()
}

fn user(name: &str, phandle: u32, stream: u32, regions: &[u32]) -> Dt {
    client(name, &[1, stream]).cells("phandle", &[phandle]).cells("memory-region", regions)
}

/// Linux `iommu_create_device_direct_mappings` skips what is mapped already: "We need to consider overlapping regions for different devices".
#[test]
fn overlapping_regions_are_mapped_once() {
    let direct = ReservedKind::Direct;
    let low = region("low", 20, [0x9000_0000, 0x3000], &[30, 31]);
    let high = region("high", 21, [0x9000_2000, 0x3000], &[30]);
    // Of one device: one region.
    let machine = with_regions(
        &[low.clone(), high.clone()],
        &[user("display@1", 30, 5, &[20, 21]), user("codec@2", 31, 5, &[20])],
    );
    let display = &device(&machine, "/display@1").description;
    assert_eq!(reserved(display), [(0x9000_0000, 0x9000_4fff, direct)]);
    // Of a group: both are translated.
    assert_eq!(sharing(&machine), [0, 0]);
    for path in ["/display@1", "/codec@2"] {
        assert_eq!(translated(device(&machine, path)), Some(vec![5]), "{path}");
    }
    assert_eq!(rules(&machine), [rule::SHARED_STREAM]);
}

/// All pages that the region touches; a region of two bytes can touch two pages.
#[test]
fn any_part_of_a_page_is_a_page() {
    for (reg, pages) in [
        ([0x9000_0fff, 2], (0x9000_0000, 0x9000_1fff)),
        ([0x9000_0000, 0x1001], (0x9000_0000, 0x9000_1fff)),
    ] {
        let machine =
            with_regions(&[region("fb", 20, reg, &[30])], &[user("display@1", 30, 5, &[20])]);
        let display = &device(&machine, "/display@1").description;
        assert_eq!(reserved(display), [(pages.0, pages.1, ReservedKind::Direct)]);
        assert_eq!(rules(&machine), [rule::IOMMU_ADDRESSES_ROUNDED]);
    }
}

/// Binding `reserved-memory/reserved-memory.yaml`: address and size have the cells of the device's bus. Linux `of_iommu_get_resv_regions` uses the device's.
#[test]
fn each_entry_of_iommu_addresses_has_the_cells_of_its_own_device() {
    let region = dt("fb").cells("phandle", &[20]).cells("reg", &[0x9000_0000, 0x1000]);
    let region =
        region.cells("iommu-addresses", &[30, 0, 0x9000_0000, 0x1000, 31, 0x9000_0000, 0, 0x1000]);
    let bus = |name: &str, address: u32, size: u32, user: Dt| {
        let bus = dt(name).cells("#address-cells", &[address]).cells("#size-cells", &[size]);
        bus.flag("dma-ranges").with(user)
    };
    let machine = with_regions(
        &[region],
        &[
            bus("wide", 2, 1, user("display@1", 30, 5, &[20])),
            bus("long", 1, 2, user("codec@2", 31, 6, &[20])),
        ],
    );
    for path in ["/wide/display@1", "/long/codec@2"] {
        let regions = reserved(&device(&machine, path).description);
        assert_eq!(regions, [(0x9000_0000, 0x9000_0fff, ReservedKind::Direct)], "{path}");
    }
    assert_eq!(rules(&machine), [""; 0]);
}

/// Linux `arm_smmu_find_sme`: equal under the mask is the same entry; a device that is disabled has none.
#[test]
fn entries_that_are_the_same_or_of_nobody_do_not_overlap() {
    let pair = |second: Dt| {
        root().with(mmu500(1, 2)).with(client("a@1", &[1, 0x586, 0x11])).with(second).read()
    };
    let same = pair(client("b@2", &[1, 0x596, 0x11]));
    assert_eq!(rules(&same), [rule::SHARED_STREAM]);
    assert_eq!(sharing(&same), [0, 0]);
    let crossing = || client("b@2", &[1, 0x586, 0x60]);
    assert!(has_finding(&pair(crossing()), "/b@2", rule::STREAM_OVERLAP));
    let off = pair(crossing().text("status", "disabled"));
    assert!(!rules(&off).contains(&rule::STREAM_OVERLAP));
    assert_eq!(translated(device(&off, "/a@1")), Some(vec![0x586]));
}

/// Binding `iommu/iommu.txt`: who is behind a disabled IOMMU alone is direct, and told so as a warning; who names a broken one as well is blocked, and not told that it is direct.
#[test]
fn direct_behind_a_disabled_iommu_is_a_warning_and_never_said_of_a_blocked_device() {
    let off = || smmu(1).text("status", "disabled");
    let machine = root().with(off()).with(bridge(&[0, 1, 0, 0x100])).read();
    assert_eq!(rules(&machine), [rule::IOMMU_DISABLED]);
    assert_eq!(machine.findings[0].severity, Severity::Warning);
    assert!(machine.clients().all(|client| client.dma == DmaPath::Direct));
    let machine = root().with(off()).with(client("usb@1", &[1, 5, 9, 5])).read();
    assert_eq!(rules(&machine), [rule::DANGLING_PHANDLE]);
    assert!(matches!(device(&machine, "/usb@1").description.dma, DmaPath::Unusable(_)));
}

/// A function in a range to the enabled IOMMU, one in a range to the disabled one, and one in none: three answers on one bus.
#[test]
fn each_function_of_a_mixed_bus_has_its_own_answer() {
    let map = [0, 1, 0x10, 8, 8, 2, 0x20, 8];
    let functions = [("a@0", 0), ("b@1", 1), ("c@2", 2)];
    let host = functions
        .into_iter()
        .fold(bridge(&map), |host, (name, at)| host.with(function(name, 0, at, 0)));
    let tree = root().with(smmu(1)).with(smmu(2).text("status", "disabled")).with(host);
    let machine = tree.read();
    let paths: Vec<_> = machine.clients().map(|client| &client.dma).collect();
    assert!(matches!(paths[..], [DmaPath::Translated(_), DmaPath::Direct, DmaPath::Unusable(_)]));
    assert!(translated(device(&machine, BRIDGE)).is_some(), "the bus is not called direct");
}

/// Overlay format (dtc, `Documentation/dt-object-internal.txt`): a fragment is a node with `__overlay__`, whatever names its target.
#[test]
fn overlays_are_recognised_by_their_fragments() {
    let content = || dt("__overlay__").with(client("camera@a000000", &[u32::MAX, 0x20]));
    let by_phandle = dt("fragment@7").cells("target", &[u32::MAX]).with(content());
    let fixups = dt("__fixups__").text("soc", "/fragment@7:target:0");
    let properties = dt("fragment@0").text("target-path", "/soc").with(dt("__overlay__"));
    for overlay in [dt("").with(by_phandle).with(fixups), dt("").with(properties)] {
        let read = read_devicetree(&overlay.lax_blob(), "overlay");
        assert_eq!(read.expect_err("an overlay"), ReadError::Overlay);
    }
}

/// Bindings `iommu/arm,smmu-v3.yaml` and `iommu/arm,smmu.yaml`: a defect counts for the kind of IOMMU whose binding names it, and for buses as for devices.
#[test]
fn a_defect_blocks_buses_too_and_only_of_its_own_kind() {
    let quirk = "cavium,cn9900-broken-page1-regspace";
    let read = |iommu: Dt| {
        let tree = root().with(iommu).with(bridge(&[0, 1, 0, 0x100]));
        read_devicetree(&tree.lax_blob(), "test").expect("well-formed")
    };
    let machine = read(smmu(1).flag(quirk));
    assert!(matches!(device(&machine, BRIDGE).description.dma, DmaPath::Unusable(_)));
    assert!(has_finding(&machine, BRIDGE, rule::IOMMU_UNUSABLE));
    let machine = read(mmu500(1, 1).flag(quirk));
    assert!(machine.iommus[0].quirks.is_empty());
    assert_eq!(streams(&machine).len(), 1);
    assert!(translated(device(&machine, BRIDGE)).is_some());
    // Calxeda's SMMU needs its secure registers programmed, which this driver does not do.
    let machine = read(mmu500(1, 1).flag("calxeda,smmu-secure-config-access"));
    assert_eq!(machine.iommus[0].quirks, [Quirk::SecureConfigAccess]);
    assert!(matches!(device(&machine, BRIDGE).description.dma, DmaPath::Unusable(_)));
}
