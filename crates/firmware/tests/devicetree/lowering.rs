//! What well-formed properties become.

use crate::made::{bridge, client, device, dt, root, smmu};
use portcullis::{DmaPath, ReservedKind};
use portcullis_firmware::{RequesterId, rule};

#[test]
fn coherency_is_inherited_and_can_be_taken_back() {
    let machine = root()
        .with(smmu(1))
        .with(
            dt("soc")
                .flag("dma-coherent")
                .with(client("a@1", &[1, 1]))
                .with(client("b@2", &[1, 2]).flag("dma-noncoherent")),
        )
        .with(client("c@3", &[1, 3]))
        .with(client("d@4", &[1, 4]).flag("dma-coherent"))
        .read();
    let coherent = |path| device(&machine, path).description.coherent;
    assert!(coherent("/soc/a@1"));
    assert!(!coherent("/soc/b@2"));
    assert!(!coherent("/c@3"));
    assert!(coherent("/d@4"));
    assert!(!machine.iommus[0].coherent);
}

/// Which of these do DMA: their bindings in Linux 7.2 (`dma/dma-controller.yaml`, `net/ethernet-controller.yaml`, `usb/qcom,dwc3.yaml`, `pci/pci.txt`, `mmc/mmc-controller.yaml`).
#[test]
fn what_does_dma_and_names_no_iommu_is_listed() {
    let at = |name: &str, base: u32| dt(name).text("compatible", "x").cells("reg", &[base, 0x1000]);
    let one_to_one = |name: &str| {
        dt(name).cells("#address-cells", &[1]).cells("#size-cells", &[1]).flag("ranges")
    };
    let machine = root()
        .with(smmu(1))
        .with(
            one_to_one("soc")
                .with(at("dma-controller@1000", 0x1000).cells("#dma-cells", &[1]))
                .with(at("ethernet@2000", 0x2000))
                .with(at("strange@3000", 0x3000).flag("dma-coherent"))
                .with(at("serial@4000", 0x4000))
                .with(at("mmc@5000", 0x5000).text("status", "disabled"))
                .with(at("usb@6000", 0x6000).with(client("usb@6100", &[1, 6])))
                .with(at("usb@7000", 0x7000).with(at("ethernet@1", 1)))
                .with(at("gpu@8000", 0x8000).cells("iommus", &[1, 8]))
                .with(dt("gpu").text("compatible", "a-part-of-some-table")),
        )
        .read();
    let found: Vec<_> = machine.direct.iter().map(|it| it.path.as_str()).collect();
    let expected =
        ["/soc/dma-controller@1000", "/soc/ethernet@2000", "/soc/strange@3000", "/soc/usb@7000"];
    assert_eq!(found, expected);
}

#[test]
fn the_bus_limits_the_address_width() {
    let soc = |name: &str| dt(name).cells("#address-cells", &[2]).cells("#size-cells", &[2]);
    let machine = root()
        .with(smmu(1))
        .with(
            soc("narrow")
                .cells("dma-ranges", &[0, 0, 0, 0x10, 0])
                .with(client("a@1", &[1, 1]))
                .with(dt("inner").flag("dma-ranges").with(client("b@2", &[1, 2])))
                .with(dt("silent").with(client("c@3", &[1, 3]))),
        )
        .with(soc("open").flag("dma-ranges").with(client("d@4", &[1, 4])))
        .with(client("e@5", &[1, 5]))
        .read();
    let bits = |path| device(&machine, path).description.address_bits;
    assert_eq!(bits("/narrow/a@1"), 36);
    assert_eq!(bits("/narrow/inner/b@2"), 36);
    assert_eq!(bits("/narrow/silent/c@3"), 64);
    assert_eq!(bits("/open/d@4"), 64);
    assert_eq!(bits("/e@5"), 64);
}

#[test]
fn a_bus_that_moves_addresses_needs_an_iommu() {
    let moved = |name: &str| {
        dt(name)
            .cells("#address-cells", &[1])
            .cells("#size-cells", &[1])
            .cells("dma-ranges", &[0, 0x4000_0000, 0x1000_0000])
    };
    let plain = |name: &str| dt(name).flag("portcullis,client");
    let one_to_one = dt("same").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    let machine = root()
        .with(smmu(1))
        .with(moved("moved").with(plain("a@1")).with(client("b@2", &[1, 2])))
        .with(one_to_one.cells("dma-ranges", &[0, 0, 0x1000_0000]).with(plain("c@3")))
        .read();
    let dma = |path| &device(&machine, path).description.dma;
    assert!(matches!(dma("/moved/a@1"), DmaPath::Unusable(_)), "{:?}", dma("/moved/a@1"));
    assert!(matches!(dma("/moved/b@2"), DmaPath::Translated(_)));
    assert_eq!(*dma("/same/c@3"), DmaPath::Direct);
    let finding = machine.findings.iter().find(|finding| finding.path == "/moved/a@1");
    assert_eq!(finding.expect("a finding").rule, rule::DMA_RANGES);
}

#[test]
fn an_interconnect_stands_in_for_the_parent() {
    let machine = root()
        .with(smmu(1))
        .with(
            dt("bus@0")
                .cells("phandle", &[30])
                .cells("#interconnect-cells", &[1])
                .cells("#address-cells", &[1])
                .cells("#size-cells", &[1])
                .flag("dma-coherent")
                .cells("dma-ranges", &[0, 0, 0xc000_0000]),
        )
        .with(
            client("video@1", &[1, 1])
                .cells("interconnects", &[30, 0, 30, 5])
                .bytes("interconnect-names", b"other\0dma-mem\0"),
        )
        .read();
    let video = &device(&machine, "/video@1").description;
    assert!(video.coherent);
    assert_eq!(video.address_bits, 32);
}

#[test]
fn reserved_regions_are_mapped_only_where_they_equal_their_memory() {
    let region = |name: &str, phandle, reg: &[u32], addresses: &[u32]| {
        let node = dt(name).cells("phandle", &[phandle]).cells("iommu-addresses", addresses);
        if reg.is_empty() { node } else { node.cells("reg", reg) }
    };
    let machine = root()
        .with(smmu(1))
        .with(
            dt("reserved-memory")
                .cells("#address-cells", &[1])
                .cells("#size-cells", &[1])
                .flag("ranges")
                .with(region(
                    "fb@90000000",
                    20,
                    &[0x9000_0000, 0x1000],
                    &[40, 0x9000_0000, 0x1000, 41, 0x5000, 0x1000],
                ))
                .with(region("hole", 21, &[], &[40, 0, 0x2000, 40, 0x4000, 0])),
        )
        .with(client("a@1", &[1, 1]).cells("phandle", &[40]).cells("memory-region", &[20, 21]))
        .with(client("b@2", &[1, 2]).cells("phandle", &[41]).cells("memory-region", &[20]))
        .with(client("c@3", &[1, 3]).cells("memory-region", &[20]))
        .read();
    let reserved = |path| {
        let regions = &device(&machine, path).description.reserved;
        let plain = regions.iter().map(|it| (it.range.start().raw(), it.range.len(), it.kind));
        plain.collect::<Vec<_>>()
    };
    assert_eq!(
        reserved("/a@1"),
        [(0, 0x2000, ReservedKind::Reserved), (0x9000_0000, 0x1000, ReservedKind::Direct)]
    );
    assert_eq!(reserved("/b@2"), [(0x5000, 0x1000, ReservedKind::Reserved)]);
    assert_eq!(reserved("/c@3"), []);
    let rules: Vec<_> = machine.findings.iter().map(|it| it.rule).collect();
    assert_eq!(rules, [rule::IOMMU_ADDRESSES_EMPTY, rule::IOMMU_ADDRESSES_REMAPPED]);
    assert_eq!(machine.reserved_memory.len(), 1);
}

#[test]
fn registers_are_seen_through_the_buses_above() {
    let bus = |name: &str| dt(name).cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    let iommu = || smmu(1).cells("reg", &[0x1000, 0x2_0000]);
    let window = |tree: crate::made::Dt| tree.read().iommus[0].registers;
    let nested = root().with(
        bus("outer")
            .cells("ranges", &[0, 0x1000_0000, 0x100_0000])
            .with(bus("inner").cells("ranges", &[0, 0x20_0000, 0x10_0000]).with(iommu())),
    );
    let found = window(nested).expect("mapped");
    assert_eq!((found.start().raw(), found.len()), (0x1020_1000, 0x2_0000));
    assert!(window(root().with(bus("soc").flag("ranges").with(iommu()))).is_some());
    assert!(window(root().with(bus("soc").with(iommu()))).is_none());
    // The range ends within the window.
    let short = bus("soc").cells("ranges", &[0, 0x1000_0000, 0x2_0000]).with(iommu());
    assert!(window(root().with(short)).is_none());
}

#[test]
fn small_register_windows_are_remarked() {
    let machine = root().with(smmu(1).cells("reg", &[0x1000, 0x1_0000])).read();
    assert_eq!(machine.findings[0].rule, rule::IOMMU_REG_SMALL);
}

#[test]
fn interrupts_are_named_and_split() {
    let machine = root()
        .cells("interrupt-parent", &[50])
        .with(dt("gic").cells("phandle", &[50]).cells("#interrupt-cells", &[3]))
        .with(
            smmu(1)
                .cells("interrupts", &[0, 74, 1, 0, 75, 1])
                .bytes("interrupt-names", b"eventq\0gerror\0"),
        )
        .read();
    let interrupts = &machine.iommus[0].interrupts;
    assert_eq!(interrupts.len(), 2);
    assert_eq!(interrupts[1].name.as_deref(), Some("gerror"));
    assert_eq!(interrupts[1].cells, [0, 75, 1]);
}

#[test]
fn cell_counts_0_and_2_are_read() {
    let other = |cells| smmu(1).text("compatible", "example,iommu").cells("#iommu-cells", &[cells]);
    let machine = root().with(other(0)).with(client("a@1", &[1])).read();
    assert_eq!(crate::made::translated(device(&machine, "/a@1")), Some(vec![0]));
    let machine = root().with(other(2)).with(client("a@1", &[1, 7, 9])).read();
    assert_eq!(crate::made::translated(device(&machine, "/a@1")), Some(vec![7]));
}

#[test]
fn functions_below_nested_bridges_are_listed_by_requester_id() {
    let function = |name: &str, rid: u32| dt(name).cells("reg", &[rid << 8, 0, 0, 0, 0]);
    let port = function("pcie@1,0", 0x08)
        .text("device_type", "pci")
        .cells("#address-cells", &[3])
        .cells("#size-cells", &[2])
        .with(function("nvme@0,0", 0x100).flag("dma-coherent"))
        .with(function("off@1,0", 0x108).text("status", "disabled"));
    let machine = root().with(smmu(1)).with(bridge(&[0, 1, 0x1000, 0x200]).with(port)).read();
    let bridge = device(&machine, "/pcie@40000000");
    let listed: Vec<_> = bridge
        .functions
        .iter()
        .map(|it| (it.requester, it.description.path.as_str(), it.description.coherent))
        .collect();
    assert_eq!(
        listed,
        [
            (RequesterId(0x08), "/pcie@40000000/pcie@1,0", false),
            (RequesterId(0x100), "/pcie@40000000/pcie@1,0/nvme@0,0", true)
        ]
    );
    assert_eq!(machine.clients().count(), 2);
}

#[test]
fn a_bus_without_described_functions_gets_one() {
    let machine = root().with(smmu(1)).with(bridge(&[0x10, 1, 0x1000, 8, 8, 1, 0x40, 8])).read();
    let functions = &device(&machine, "/pcie@40000000").functions;
    assert_eq!(functions.len(), 1);
    assert_eq!(functions[0].requester, RequesterId(8));
    assert_eq!(functions[0].description.path, "/pcie@40000000/00:01.0");
}

#[test]
fn memory_and_reservations_are_listed() {
    let machine = root().read();
    assert_eq!(machine.memory.len(), 1);
    assert_eq!(machine.memory[0].len(), 0x1000_0000);
    assert_eq!(machine.model, "test");
}
