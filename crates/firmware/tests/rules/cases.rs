//! The descriptions, by what they are about.

use crate::tables::{
    bytes, dmar, drhd, iort, ivmd, ivrs, record, reserved, rmrr, root_complex, scope, smmuv3, table,
};
use crate::trees::{Dt, bridge, client, dt, mmu500, root, smmu};
use portcullis_firmware::{MachineDescription, read_acpi, read_devicetree, rule};

type Case = (&'static str, MachineDescription);

/// A rule and a machine that it is for; some rules have several.
pub(crate) fn all() -> Vec<Case> {
    let trees = [streams(), iommus(), maps(), functions(), regions()].into_iter().flatten();
    let trees = trees.map(|(id, tree)| {
        // Names longer than the specification's are what some rules are about.
        let machine = read_devicetree(&tree.lax_blob(), id).expect("well-formed");
        (id, machine)
    });
    let tables = tables().into_iter();
    let tables = tables.map(|(id, table)| (id, read_acpi([table.as_slice()], id).expect(id)));
    trees.chain(tables).chain([no_driver()]).collect()
}

fn no_driver() -> Case {
    let mut machine = root().with(smmu(1)).with(client("a@1", &[1, 5])).read();
    machine.note_unserved(|_| false);
    (rule::NO_DRIVER, machine)
}

fn off(phandle: u32) -> Dt {
    smmu(phandle).text("status", "disabled")
}

fn streams() -> Vec<(&'static str, Dt)> {
    let one = |iommus: &[u32]| root().with(smmu(1)).with(client("a@1", iommus));
    let two = |iommu: Dt, first: &[u32], second: &[u32]| {
        root().with(iommu).with(client("a@1", first)).with(client("b@2", second))
    };
    let both = |second: Dt| root().with(smmu(1)).with(second).with(client("a@1", &[1, 5, 2, 6]));
    let many: Vec<u32> = (0..5000).flat_map(|id| [1, id]).collect();
    let old = mmu500(1, 1).cells("mmu-masters", &[7, 1]);
    vec![
        (rule::IOMMUS_LENGTH, root().with(client("a@1", &[]).bytes("iommus", &[0, 1, 2]))),
        (rule::DANGLING_PHANDLE, one(&[9, 5])),
        (rule::DUPLICATE_PHANDLE, one(&[1, 5]).with(smmu(2).cells("phandle", &[1]))),
        (rule::SPECIFIER_TRUNCATED, one(&[1])),
        (rule::MIXED_IOMMUS, both(mmu500(2, 1))),
        (rule::PARTLY_DISABLED, both(off(2))),
        (rule::SEVERAL_IOMMUS, both(smmu(2))),
        (rule::TOO_MANY_STREAMS, one(&many)),
        (rule::STREAM_ID_RANGE, root().with(mmu500(1, 1)).with(client("a@1", &[1, 0x1_0000]))),
        (rule::DUPLICATE_STREAM, one(&[1, 5, 1, 5])),
        (rule::SHARED_STREAM, two(smmu(1), &[1, 5], &[1, 5])),
        (rule::STREAM_OVERLAP, two(mmu500(1, 2), &[1, 0xc2e, 0], &[1, 0xc0e, 0x20])),
        (rule::IOMMU_DISABLED, root().with(off(1)).with(client("a@1", &[1, 5]))),
        (rule::COHERENCY, two(smmu(1).flag("dma-coherent"), &[1, 5], &[1, 6])),
        (rule::MMU_MASTERS, root().with(old).with(dt("usb@1").cells("phandle", &[7]))),
    ]
}

fn iommus() -> Vec<(&'static str, Dt)> {
    let of = |iommu: Dt| {
        let gic = dt("gic").cells("phandle", &[50]).cells("#interrupt-cells", &[1]);
        let tree = root().cells("interrupt-parent", &[50]).with(gic).with(iommu);
        tree.with(client("a@1", &[1, 5])).with(client("b@2", &[1, 6]))
    };
    let other = smmu(1).text("compatible", "example,iommu").cells("#iommu-cells", &[3]);
    let banks = mmu500(1, 1).cells("interrupts", &[1, 2]);
    vec![
        (rule::IOMMU_CELLS_MISSING, of(smmu(1).without("#iommu-cells"))),
        (rule::IOMMU_CELLS_UNSUPPORTED, of(other)),
        (rule::STREAM_TABLE_FULL, of(banks.clone().cells("#global-interrupts", &[1]))),
        (rule::GLOBAL_INTERRUPTS, of(banks)),
        (rule::IOMMU_CYCLE, of(smmu(1).cells("iommus", &[1, 0x20]))),
        (rule::IOMMU_REG, of(smmu(1).without("reg"))),
        (rule::IOMMU_UNUSABLE, of(smmu(1).without("reg"))),
        (rule::IOMMU_REG_SMALL, of(smmu(1).cells("reg", &[0x1000, 0x1_0000]))),
        (rule::IOMMU_QUIRK, of(smmu(1).flag("cavium,cn9900-broken-page1-regspace"))),
    ]
}

fn maps() -> Vec<(&'static str, Dt)> {
    let one = |map: &[u32]| root().with(smmu(1)).with(bridge(map));
    let two = |map: &[u32]| root().with(mmu500(1, 2)).with(bridge(map));
    let masked = bridge(&[0x108, 1, 0, 8]).cells("iommu-map-mask", &[0xff]);
    vec![
        (rule::IOMMU_MAP_LENGTH, one(&[0, 1, 0])),
        (rule::IOMMU_MAP_CELLS, two(&[0, 1, 0, 0x100])),
        (rule::IOMMU_MAP_ONE_CELL, two(&[0, 1, 0x1400, 1, 0x100, 1, 0x1401, 1])),
        (rule::IOMMU_MAP_RANGE, two(&[0x100, 1, 0x500, 0xf, 0x80])),
        (rule::IOMMU_MAP_OVERLAP, one(&[0, 1, 0, 9, 8, 1, 8, 8])),
        (rule::IOMMU_MAP_ZERO_LENGTH, one(&[0, 1, 0, 0, 8, 1, 0x20, 8])),
        (rule::IOMMU_MAP_PLACEHOLDER, one(&[0, 1, 0, 0])),
        (rule::IOMMU_MAP_EMPTY, one(&[8, 1, 8, 0])),
        (rule::IOMMU_MAP_WRAPS, one(&[0xffff_0000, 1, 0, 0x1_0001])),
        (rule::IOMMU_MAP_MASK, root().with(smmu(1)).with(masked)),
    ]
}

fn functions() -> Vec<(&'static str, Dt)> {
    let function = |name: &str, device: u32| dt(name).cells("reg", &[device << 11, 0, 0, 0, 0]);
    let on = |map: &[u32], functions: &[Dt]| {
        let host = functions.iter().cloned().fold(bridge(map), Dt::with);
        root().with(smmu(1)).with(host)
    };
    let port = function("port@0,0", 0).text("device_type", "pci");
    let port = port.cells("#address-cells", &[3]).cells("#size-cells", &[2]);
    let msi = bridge(&[0, 1, 0, 8]).cells("msi-map", &[0, 7, 0, 8]);
    vec![
        (rule::RID_NOT_MAPPED, on(&[8, 1, 0x20, 8], &[function("eth@2,0", 2)])),
        // Bus 1 is expected and has no range; bus 2 has one.
        (rule::RID_UNCERTAIN, on(&[0, 1, 0, 1, 0x200, 1, 9, 1], &[port.with(function("n@0", 0))])),
        (rule::DUPLICATE_FUNCTION, on(&[0, 1, 0, 8], &[function("a@0", 0), function("b@0", 0)])),
        (rule::MSI_MAP, root().with(smmu(1)).with(msi)),
    ]
}

/// A region at `reg` for the client 30 with the stream 5, and for the client 31 with the same.
fn region(name: &str, reg: [u32; 2], addresses: &[u32]) -> Dt {
    let region = dt(name).cells("phandle", &[20]).cells("reg", &reg);
    let memory = dt("reserved-memory").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    let memory = memory.flag("ranges");
    let user = |name: &str, phandle: u32| {
        client(name, &[1, 5]).cells("phandle", &[phandle]).cells("memory-region", &[20])
    };
    root()
        .with(smmu(1))
        .with(match addresses {
            [] => memory.with(region),
            addresses => memory.with(region.cells("iommu-addresses", addresses)),
        })
        .with(user("display@1", 30))
        .with(user("codec@2", 31))
}

fn regions() -> Vec<(&'static str, Dt)> {
    let at = [0x9000_0000, 0x1000];
    let of = |addresses: &[u32]| region("fw", at, addresses);
    let bus = dt("soc").cells("#address-cells", &[2]).cells("#size-cells", &[1]);
    let bus = bus.cells("dma-ranges", &[0, 0, 0]).with(client("a@1", &[1, 5]));
    let window = bridge(&[0, 1, 0, 8])
        .cells("ranges", &[0x0200_0000, 0, at[0], at[0], 0, 0x1000_0000])
        .cells("phandle", &[32])
        .cells("memory-region", &[20]);
    let number = client("a@1", &[1, 5]).bytes("memory-region", &[7]);
    let memory = dt("memory@0").text("device_type", "memory");
    vec![
        (rule::DMA_RANGES, root().with(smmu(1)).with(bus)),
        (rule::MEMORY_REGION, root().with(smmu(1)).with(number)),
        (rule::MEMORY, root().with(memory)),
        (rule::FRAMEBUFFER_NOT_KEPT, region("splash", at, &[])),
        (rule::IOMMU_ADDRESSES, of(&[30, at[0]])),
        (rule::IOMMU_ADDRESSES_EMPTY, of(&[30, 0, 0])),
        (rule::IOMMU_ADDRESSES_REMAPPED, of(&[30, 0x5000, 0x1000])),
        (rule::IOMMU_ADDRESSES_ROUNDED, region("fw", [at[0], 0x900], &[30, at[0], 0x900])),
        (rule::RESERVED_CONFLICT, of(&[30, at[0], at[1], 31, at[0], 0x2000])),
        (rule::RESERVED_OVERLAP, of(&[32, at[0], at[1]]).with(window)),
    ]
}

fn tables() -> Vec<(&'static str, Vec<u8>)> {
    let gpu = || scope(1, 0, 0, &[(2, 0)]);
    let rest = || drhd(true, 0x2000, &[]);
    let behind = |maps| iort(&[smmuv3(0x1000, 0), root_complex(0, maps)]);
    let mut flipped = table(b"MCFG", 1, bytes().zeros(8));
    flipped[9] ^= 1;
    let bridge = scope(2, 0, 0, &[(0x1c, 0)]);
    let region =
        |start, len| iort(&[smmuv3(0x1000, 0), reserved(start, len, vec![(0, 0, 0x10, 0, 1)])]);
    vec![
        (rule::ACPI_CHECKSUM, flipped),
        (rule::ACPI_UNKNOWN, dmar(&[rest(), record(0x77, bytes().u32(0))])),
        (rule::ACPI_UNIT, dmar(&[drhd(false, 0, &[gpu()]), rest()])),
        (
            rule::ACPI_CONFLICT,
            dmar(&[drhd(false, 0x1000, &[gpu()]), drhd(false, 0x3000, &[gpu()])]),
        ),
        (rule::ACPI_UNRESOLVED, dmar(&[drhd(false, 0x1000, &[bridge]), rest()])),
        // Each table that names regions: Linux taints for the first, and goes on with the others.
        (rule::ACPI_REGION, dmar(&[rest(), rmrr(0x9000_1000, 0x9000_0fff, &[gpu()])])),
        (rule::ACPI_REGION, ivrs(&[ivmd(0x21, 7, 8, 0, 0x7000_0000, 0)])),
        (rule::ACPI_REGION, ivrs(&[ivmd(0x21, 7, 8, 0, 0xffff_ffff_ffff_f000, 0x2000)])),
        (rule::ACPI_REGION, region(0x9000_0000, 0)),
        (rule::ACPI_REGION, region(0xffff_ffff_ffff_f000, 0x2000)),
        (rule::ACPI_ID_RANGE, behind(vec![(0x8703_0000, 127, 0x1c80, 0, 0)])),
        (rule::ACPI_UNTARGETED, behind(vec![(0, 7, 0, 9, 0)])),
    ]
}
