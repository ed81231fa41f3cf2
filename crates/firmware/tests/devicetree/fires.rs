//! For each of these rules a tree that it is for, and the nearest one that it is not for: what a rule says where nothing is wrong is as bad as what it leaves out. The other rules have theirs beside
//! the reading that they belong to.

use crate::made::{Dt, bridge, client, device, dt, has_finding, mmu500, root, smmu, translated};
use portcullis_firmware::rule;

fn gic() -> Dt {
    dt("gic").cells("phandle", &[50]).cells("#interrupt-cells", &[1])
}

fn with_interrupts(iommu: Dt) -> Dt {
    root().cells("interrupt-parent", &[50]).with(gic()).with(iommu)
}

/// Linux 7.2 `arm_smmu_device_dt_probe`: the property is required, and `num_irqs` must exceed it.
#[test]
fn global_interrupts() {
    let fires = |iommu: Dt| {
        let machine = with_interrupts(iommu).read();
        has_finding(&machine, "/iommu@100000", rule::GLOBAL_INTERRUPTS)
    };
    let unit = mmu500(1, 1).cells("interrupts", &[1, 2]);
    assert!(fires(unit.clone()), "none");
    assert!(fires(unit.clone().cells("#global-interrupts", &[2])), "no context interrupt is left");
    assert!(fires(unit.clone().cells("#global-interrupts", &[7])));
    assert!(fires(unit.clone().cells("#global-interrupts", &[1, 1])), "not one cell");
    assert!(!fires(unit.clone().cells("#global-interrupts", &[1])));
    assert!(!fires(unit.clone().cells("#global-interrupts", &[0])));
    assert!(!fires(unit.clone().text("status", "disabled")), "nobody probes it");
    assert!(
        !fires(mmu500(1, 1)),
        "its interrupts are not described by `interrupts`: nothing is known"
    );
    assert!(!fires(unit.text("compatible", "arm,smmu-v3")), "an SMMUv3 names its interrupts");
}

/// Binding `iommu/iommu.txt`: "a device with multiple master interfaces" may name several IOMMUs.
#[test]
fn several_iommus() {
    let fires = |second: Dt, iommus: &[u32]| {
        let machine = root().with(mmu500(1, 1)).with(second).with(client("a@1", iommus)).read();
        let fires = has_finding(&machine, "/a@1", rule::SEVERAL_IOMMUS);
        (fires, translated(device(&machine, "/a@1")).is_some())
    };
    assert_eq!(fires(mmu500(2, 1), &[1, 5, 2, 5]), (true, true));
    assert_eq!(fires(mmu500(2, 1), &[1, 5, 1, 6]), (false, true), "two streams of one");
    assert_eq!(fires(mmu500(2, 1), &[1, 5]), (false, true));
    // One that is off is another finding's business.
    assert!(!fires(mmu500(2, 1).text("status", "disabled"), &[1, 5, 2, 5]).0);
}

fn splash(name: &str) -> Dt {
    let region = dt(name).cells("reg", &[0x8800_0000, 0x10_0000]).cells("phandle", &[20]);
    let below = dt("reserved-memory").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    below.flag("ranges").with(region)
}

fn framebuffer() -> Dt {
    dt("framebuffer").text("compatible", "simple-framebuffer").cells("memory-region", &[20])
}

/// Bindings `display/simple-framebuffer.yaml` and `reserved-memory/reserved-memory.yaml`.
#[test]
fn framebuffer_not_kept() {
    let fires = |region: Dt, others: &[Dt]| {
        let tree = root().with(mmu500(1, 1)).with(region);
        let machine = others.iter().cloned().fold(tree, Dt::with).read();
        machine.findings.iter().any(|finding| finding.rule == rule::FRAMEBUFFER_NOT_KEPT)
    };
    let display = client("display-controller@1", &[1, 5]).cells("phandle", &[30]);
    let named = splash("splash@88000000");
    assert!(fires(named.clone(), std::slice::from_ref(&display)), "by its name");
    assert!(fires(splash("fb@88000000"), &[framebuffer(), display.clone()]), "by its user");
    assert!(
        !fires(splash("fb@88000000"), std::slice::from_ref(&display)),
        "nobody says that it is a picture"
    );
    let off = display.clone().text("status", "disabled");
    assert!(fires(named.clone(), &[off]), "firmware uses what no driver may");
    // The display is not behind an SMMU, or does not exist.
    let apart =
        dt("display-controller@1").text("compatible", "example,client").cells("phandle", &[30]);
    assert!(!fires(named.clone(), &[apart.clone(), client("usb@2", &[1, 6])]));
    assert!(!fires(named.clone(), &[client("usb@2", &[1, 6])]));
    // The framebuffer says which display: the one apart, although another is behind the SMMU; and one of any name.
    let of = |display: u32| framebuffer().cells("display", &[display]);
    let other = client("display@2", &[1, 6]).cells("phandle", &[31]);
    let region = splash("fb@88000000");
    assert!(!fires(region.clone(), &[of(30), apart.clone(), other.clone()]));
    assert!(fires(region.clone(), &[of(31), apart, other]));
    assert!(fires(region.clone(), &[of(32), client("mdp5@3", &[1, 7]).cells("phandle", &[32])]));
    assert!(!fires(region, &[of(30).text("status", "disabled"), display.clone()]));
    // Named for the display, it is kept.
    let kept = dt("splash@88000000")
        .cells("reg", &[0x8800_0000, 0x10_0000])
        .cells("iommu-addresses", &[30, 0x8800_0000, 0x10_0000])
        .cells("phandle", &[20]);
    let below = dt("reserved-memory").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    let display = display.cells("memory-region", &[20]);
    assert!(!fires(below.flag("ranges").with(kept), &[display]));
}

/// Linux refuses to probe without registers (`devm_platform_get_and_ioremap_resource`).
#[test]
fn iommu_reg() {
    let fires = |iommu: Dt| {
        let machine = root().with(iommu).with(client("a@1", &[1, 5])).read();
        (
            has_finding(&machine, "/iommu@100000", rule::IOMMU_REG),
            translated(device(&machine, "/a@1")).is_some(),
        )
    };
    assert_eq!(fires(smmu(1).without("reg")), (true, false));
    assert_eq!(fires(smmu(1).cells("reg", &[0x10_0000])), (true, false), "half an entry");
    assert_eq!(fires(smmu(1)), (false, true));
    // virtio-iommu is reached by PCI or virtio-mmio: the binding asks for no registers of this kind.
    assert!(!fires(smmu(1).without("reg").text("compatible", "virtio,pci-iommu")).0);
}

/// A region to be mapped 1:1 inside a bridge window: Linux reserves both and maps the region (`iommu_create_device_direct_mappings`, `iova_reserve_pci_windows`).
#[test]
fn reserved_overlap() {
    let fires = |window: u32| {
        let host = bridge(&[0, 1, 0, 0x1_0000])
            .cells("ranges", &[0x0200_0000, 0, window, window, 0, 0x1000_0000])
            .cells("phandle", &[30])
            .cells("memory-region", &[20]);
        let region = dt("region@88000000")
            .cells("reg", &[0x8800_0000, 0x1000])
            .cells("iommu-addresses", &[30, 0x8800_0000, 0x1000])
            .cells("phandle", &[20]);
        let below = dt("reserved-memory").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
        let tree = root().with(smmu(1)).with(host).with(below.flag("ranges").with(region));
        has_finding(&tree.read(), "/pcie@40000000", rule::RESERVED_OVERLAP)
    };
    assert!(fires(0x8000_0000));
    assert!(!fires(0x5000_0000));
}

/// A range that is refused is one finding, not another about a map that covers nothing.
#[test]
fn iommu_map_empty() {
    let rules = |map: &[u32]| {
        let machine = root().with(mmu500(1, 2)).with(bridge(map)).read();
        machine.findings.iter().map(|finding| finding.rule).collect::<Vec<_>>()
    };
    assert_eq!(rules(&[0, 1, 0x700, 0, 0x80]), [rule::IOMMU_MAP_RANGE]);
    assert_eq!(rules(&[0, 1, 0x700, 0, 0x80, 0x100, 1, 0x800, 0, 1]), [rule::IOMMU_MAP_RANGE]);
    assert!(rules(&[0, 1, 0x700, 0, 1]).is_empty());
}

/// Linux's `nvidia_smmu_impl_init`: the further windows of a unit with that name are instances to be written alike; nobody else's are.
#[test]
fn mirrored_units_have_all_their_windows() {
    let windows = [0x10_0000, 0x2_0000, 0x80_0000, 0x2_0000, 0xa0_0000, 0x2_0000];
    let mirrors = |compatible: &str| {
        let unit = mmu500(1, 1).text("compatible", compatible).cells("reg", &windows);
        let iommu = root().with(unit).read().iommus.remove(0);
        let first = iommu.registers.map(|window| window.start().raw());
        let more: Vec<_> = iommu.mirrors.iter().map(|window| window.start().raw()).collect();
        (first, more)
    };
    assert_eq!(mirrors("nvidia,smmu-500"), (Some(0x10_0000), vec![0x80_0000, 0xa0_0000]));
    assert_eq!(mirrors("arm,mmu-500"), (Some(0x10_0000), vec![]));
}
