//! Every way in which a description is known to be broken in the field: each ends blocked, with a finding that names node and property.

use crate::made::{Dt, bridge, client, device, dt, has_finding, mmu500, root, smmu, translated};
use portcullis::DmaPath;
use portcullis_firmware::{RequesterId, Severity, rule, sharing};

/// A tree in which the device at `path` must end blocked for the reason `rule`, which must name `property`.
struct Blocked {
    what: &'static str,
    tree: Dt,
    path: &'static str,
    rule: &'static str,
    property: &'static str,
}

fn platform(what: &'static str, iommus: &[u32], rule: &'static str) -> Blocked {
    let tree = root().with(smmu(1)).with(smmu(2)).with(client("usb@1000", iommus));
    Blocked { what, tree, path: "/usb@1000", rule, property: "`iommus`" }
}

fn bus(what: &'static str, map: &[u32], rule: &'static str) -> Blocked {
    let tree = root().with(smmu(1)).with(bridge(map));
    Blocked { what, tree, path: "/pcie@40000000", rule, property: "`iommu-map` range" }
}

fn of_iommu(what: &'static str, iommu: Dt, rule: &'static str, property: &'static str) -> Blocked {
    let tree = root().with(iommu).with(client("usb@1000", &[1, 0x10]));
    Blocked { what, tree, path: "/usb@1000", rule, property }
}

fn iommus_cases() -> Vec<Blocked> {
    let raw = |what, value: &[u8], rule| {
        let tree = root().with(smmu(1)).with(dt("usb@1000").bytes("iommus", value));
        Blocked { what, tree, path: "/usb@1000", rule, property: "`iommus`" }
    };
    vec![
        platform("first phandle dangles", &[0x99, 1], rule::DANGLING_PHANDLE),
        platform("first specifier is cut off", &[1], rule::SPECIFIER_TRUNCATED),
        platform("second phandle dangles", &[1, 5, 0x99, 6], rule::DANGLING_PHANDLE),
        platform("second specifier is cut off", &[1, 5, 2], rule::SPECIFIER_TRUNCATED),
        platform("phandle 0", &[0, 1], rule::DANGLING_PHANDLE),
        platform("phandle -1", &[u32::MAX, 1], rule::DANGLING_PHANDLE),
        raw("0 bytes", &[], rule::IOMMUS_LENGTH),
        raw("not a multiple of 4 bytes", &[0, 0, 0, 1, 0, 0], rule::IOMMUS_LENGTH),
    ]
}

fn combination_cases() -> Vec<Blocked> {
    vec![
        Blocked {
            what: "two IOMMUs of different kinds",
            tree: root().with(smmu(1)).with(mmu500(2, 1)).with(client("usb@1000", &[1, 5, 2, 5])),
            path: "/usb@1000",
            rule: rule::MIXED_IOMMUS,
            property: "`iommus`",
        },
        Blocked {
            what: "an enabled and a disabled IOMMU",
            tree: root()
                .with(smmu(1))
                .with(smmu(2).text("status", "disabled"))
                .with(client("usb@1000", &[1, 5, 2, 5])),
            path: "/usb@1000",
            rule: rule::PARTLY_DISABLED,
            property: "`iommus`",
        },
        Blocked {
            what: "a stream id that the IOMMU cannot receive",
            tree: root().with(mmu500(1, 1)).with(client("usb@1000", &[1, 0x1_0000])),
            path: "/usb@1000",
            rule: rule::STREAM_ID_RANGE,
            property: "`iommus`",
        },
        Blocked {
            what: "a phandle that two nodes have",
            tree: root()
                .with(smmu(1))
                .with(smmu(2).cells("phandle", &[1]))
                .with(client("usb@1000", &[1, 5])),
            path: "/usb@1000",
            rule: rule::DUPLICATE_PHANDLE,
            property: "`iommus`",
        },
        platform(
            "thousands of ids",
            &(0..5000).flat_map(|id| [1, id]).collect::<Vec<_>>(),
            rule::TOO_MANY_STREAMS,
        ),
        Blocked {
            what: "the binding before `iommus`",
            tree: root()
                .with(mmu500(1, 1).cells("mmu-masters", &[7, 1, 2]))
                .with(dt("usb@1000").cells("phandle", &[7]).cells("#stream-id-cells", &[2])),
            path: "/usb@1000",
            rule: rule::MMU_MASTERS,
            property: "`mmu-masters`",
        },
    ]
}

fn iommu_cases() -> Vec<Blocked> {
    let no_cells = smmu(1).without("#iommu-cells");
    let plain = no_cells.clone().text("compatible", "example,no-iommu");
    vec![
        of_iommu(
            "`#iommu-cells` is missing",
            no_cells,
            rule::IOMMU_CELLS_MISSING,
            "`#iommu-cells`",
        ),
        of_iommu("target is no IOMMU", plain, rule::IOMMU_CELLS_MISSING, "`#iommu-cells`"),
        of_iommu(
            "`#iommu-cells` of 3",
            smmu(1).text("compatible", "example,iommu").cells("#iommu-cells", &[3]),
            rule::IOMMU_CELLS_UNSUPPORTED,
            "`#iommu-cells`",
        ),
        of_iommu(
            "an SMMUv3 with two cells",
            smmu(1).cells("#iommu-cells", &[2]),
            rule::SPECIFIER_TRUNCATED,
            "`#iommu-cells`",
        ),
        of_iommu(
            "an SMMUv3 without cells",
            smmu(1).cells("#iommu-cells", &[0]),
            rule::DANGLING_PHANDLE,
            "`iommus`",
        ),
        of_iommu("no registers", smmu(1).without("reg"), rule::IOMMU_UNUSABLE, "`reg`"),
        of_iommu(
            "registers of length 0",
            smmu(1).cells("reg", &[0, 0]),
            rule::IOMMU_UNUSABLE,
            "`reg`",
        ),
    ]
}

fn stacked_cases() -> Vec<Blocked> {
    vec![
        of_iommu(
            "an IOMMU that names itself",
            smmu(1).cells("iommus", &[1, 0x20]),
            rule::IOMMU_UNUSABLE,
            "/iommu@100000 -> /iommu@100000",
        ),
        Blocked {
            what: "A behind B behind A",
            tree: root()
                .with(smmu(1).cells("iommus", &[2, 0]))
                .with(smmu(2).cells("iommus", &[1, 0]))
                .with(client("usb@1000", &[2, 5])),
            path: "/usb@1000",
            rule: rule::IOMMU_UNUSABLE,
            property: "/iommu@200000 -> /iommu@100000 -> /iommu@200000",
        },
        Blocked {
            what: "behind an IOMMU that is behind a broken one",
            tree: root()
                .with(smmu(1).cells("iommus", &[2, 0]))
                .with(smmu(2).without("reg"))
                .with(client("usb@1000", &[1, 5])),
            path: "/usb@1000",
            rule: rule::IOMMU_UNUSABLE,
            property: "`iommus`",
        },
        Blocked {
            what: "behind an IOMMU whose own `iommus` dangles",
            tree: root().with(smmu(1).cells("iommus", &[9, 0])).with(client("usb@1000", &[1, 5])),
            path: "/usb@1000",
            rule: rule::IOMMU_UNUSABLE,
            property: "`iommus`",
        },
    ]
}

fn map_cases() -> Vec<Blocked> {
    let masked = |what, mask: &[u8], rule| Blocked {
        what,
        tree: root().with(smmu(1)).with(bridge(&[0x108, 1, 0, 8]).bytes("iommu-map-mask", mask)),
        path: "/pcie@40000000",
        rule,
        property: "`iommu-map-mask`",
    };
    let two_cells = |what, map: &[u32]| Blocked {
        what,
        tree: root().with(mmu500(1, 2)).with(bridge(map)),
        path: "/pcie@40000000",
        rule: rule::IOMMU_MAP_CELLS,
        property: "`iommu-map`",
    };
    vec![
        bus("three cells", &[0, 1, 0], rule::IOMMU_MAP_LENGTH),
        bus("five cells", &[0, 1, 0, 8, 0], rule::IOMMU_MAP_LENGTH),
        Blocked { property: "`iommu-map` has", ..bus("0 cells", &[], rule::IOMMU_MAP_LENGTH) },
        Blocked {
            tree: root().with(smmu(1)).with(bridge(&[]).bytes("iommu-map", &[0; 15])),
            property: "`iommu-map` has 15 bytes",
            ..bus("15 bytes", &[], rule::IOMMU_MAP_LENGTH)
        },
        Blocked {
            property: "`iommu-map` ranges",
            ..bus("overlap", &[0, 1, 0, 9, 8, 1, 8, 8], rule::IOMMU_MAP_OVERLAP)
        },
        Blocked {
            property: "`iommu-map` covers",
            ..bus("only length 0", &[8, 1, 8, 0], rule::IOMMU_MAP_EMPTY)
        },
        bus("requester ids wrap", &[0xffff_0000, 1, 0, 0x1_0001], rule::IOMMU_MAP_WRAPS),
        bus("stream ids wrap", &[0, 1, 0xffff_fff0, 0x11], rule::IOMMU_MAP_WRAPS),
        bus("unknown phandle", &[0, 9, 0, 8], rule::DANGLING_PHANDLE),
        masked("base outside the mask", &[0, 0, 0, 0xff], rule::IOMMU_MAP_MASK),
        masked("mask of three bytes", &[0, 0, 0xff], rule::IOMMU_MAP_MASK),
        two_cells("four-cell tuples for a two-cell IOMMU", &[0, 1, 0, 0x100]),
        Blocked {
            what: "a map to an IOMMU without registers",
            tree: root().with(smmu(1).without("reg")).with(bridge(&[0, 1, 0, 8])),
            path: "/pcie@40000000",
            rule: rule::IOMMU_UNUSABLE,
            property: "`reg`",
        },
        Blocked {
            what: "ids that an SMMUv2 cannot receive",
            tree: root().with(mmu500(1, 1)).with(bridge(&[0, 1, 0xfff0, 0x11])),
            ..bus("", &[], rule::STREAM_ID_RANGE)
        },
    ]
}

fn region(
    what: &'static str,
    addresses: &[u32],
    rule: &'static str,
    property: &'static str,
) -> Blocked {
    Blocked {
        what,
        tree: root()
            .with(smmu(1))
            .with(
                dt("reserved-memory")
                    .cells("#address-cells", &[1])
                    .cells("#size-cells", &[1])
                    .flag("ranges")
                    .with(dt("fb").cells("phandle", &[20]).cells("iommu-addresses", addresses)),
            )
            .with(
                client("usb@1000", &[1, 5]).cells("phandle", &[21]).cells("memory-region", &[20]),
            ),
        path: "/usb@1000",
        rule,
        property,
    }
}

fn address_cases() -> Vec<Blocked> {
    let on_bus = |what, dma_ranges: &[u32]| Blocked {
        what,
        tree: root().with(smmu(1)).with(
            dt("soc")
                .cells("#address-cells", &[2])
                .cells("#size-cells", &[1])
                .cells("dma-ranges", dma_ranges)
                .with(client("usb@1000", &[1, 5])),
        ),
        path: "/soc/usb@1000",
        rule: rule::DMA_RANGES,
        property: "`dma-ranges`",
    };
    vec![
        on_bus("three of four cells", &[0, 0, 0]),
        on_bus("length 0", &[0, 0, 0, 0]),
        on_bus("ends beyond 2^64", &[u32::MAX, u32::MAX, 0, 2]),
        region(
            "a tuple that is cut off",
            &[21, 0x1000],
            rule::IOMMU_ADDRESSES,
            "`iommu-addresses`",
        ),
        region("an unknown device", &[22, 0, 0x1000], rule::IOMMU_ADDRESSES, "`iommu-addresses`"),
        Blocked {
            what: "a region that is not there",
            tree: root()
                .with(smmu(1))
                .with(client("usb@1000", &[1, 5]).cells("memory-region", &[77])),
            path: "/usb@1000",
            rule: rule::DANGLING_PHANDLE,
            property: "`memory-region`",
        },
        Blocked {
            what: "a region that is no phandle",
            tree: root()
                .with(smmu(1))
                .with(client("usb@1000", &[1, 5]).bytes("memory-region", &[7])),
            path: "/usb@1000",
            rule: rule::MEMORY_REGION,
            property: "`memory-region`",
        },
    ]
}

#[test]
fn every_broken_description_ends_blocked() {
    let cases = [
        iommus_cases(),
        combination_cases(),
        iommu_cases(),
        stacked_cases(),
        map_cases(),
        address_cases(),
    ];
    for case in cases.into_iter().flatten() {
        let machine = case.tree.read();
        let broken = device(&machine, case.path);
        let DmaPath::Unusable(reason) = &broken.description.dma else {
            panic!("{}: {:?}", case.what, broken.description.dma);
        };
        assert!(broken.functions.is_empty(), "{}", case.what);
        let finding =
            machine.findings.iter().find(|it| it.path == case.path && it.rule == case.rule);
        let finding =
            finding.unwrap_or_else(|| panic!("{}: {reason}: {:?}", case.what, machine.findings));
        assert_eq!(finding.severity, Severity::Error, "{}", case.what);
        assert!(finding.message.contains(case.property), "{}: {}", case.what, finding.message);
        assert!(finding.message.starts_with(reason), "{}: {reason}", case.what);
        // The remedy follows the reason.
        assert!(finding.message.len() > reason.len() + 5, "{}", case.what);
    }
}

/// The check above sees a reader that lets a broken description through: the same tree with its mistake mended must fail it.
#[test]
fn the_check_fails_where_nothing_is_broken() {
    let machine = root().with(smmu(1)).with(client("usb@1000", &[1, 5])).read();
    assert_eq!(translated(device(&machine, "/usb@1000")), Some(vec![5]));
    assert!(machine.findings.is_empty(), "{:?}", machine.findings);
}

#[test]
fn a_disabled_iommu_is_not_in_front() {
    for status in ["disabled", "reserved", "fail", "fail-sss", "nonsense"] {
        let tree = root().with(smmu(1).text("status", status)).with(client("usb@1000", &[1, 5]));
        let machine = tree.read();
        assert_eq!(device(&machine, "/usb@1000").description.dma, DmaPath::Direct, "{status}");
        assert!(has_finding(&machine, "/usb@1000", rule::IOMMU_DISABLED));
    }
    for status in ["okay", "ok"] {
        let tree = root().with(smmu(1).text("status", status)).with(client("usb@1000", &[1, 5]));
        assert!(translated(device(&tree.read(), "/usb@1000")).is_some(), "{status}");
    }
    let below = root()
        .with(dt("soc").text("status", "disabled").flag("ranges").with(smmu(1)))
        .with(client("usb@1000", &[1, 5]));
    assert_eq!(device(&below.read(), "/usb@1000").description.dma, DmaPath::Direct);
}

#[test]
fn an_iommu_without_a_driver_still_stands_in_front() {
    let iommu = smmu(1).text("compatible", "example,iommu");
    let machine = root().with(iommu).with(client("usb@1000", &[1, 5])).read();
    assert_eq!(translated(device(&machine, "/usb@1000")), Some(vec![5]));
    assert!(machine.findings.is_empty());
    // Who has the drivers asks.
    let (mut none, mut all) = (machine.clone(), machine);
    none.note_unserved(|_| false);
    assert!(has_finding(&none, "/iommu@100000", rule::NO_DRIVER));
    all.note_unserved(|iommu| iommu.path == "/iommu@100000");
    assert!(all.findings.is_empty());
}

#[test]
fn two_instances_of_one_kind_keep_their_ids_apart() {
    let tree = root().with(smmu(1)).with(smmu(2)).with(client("usb@1000", &[1, 5, 2, 6, 1, 7]));
    let machine = tree.read();
    let DmaPath::Translated(spec) = &device(&machine, "/usb@1000").description.dma else {
        panic!("not translated");
    };
    let streams = spec.streams.iter().map(|it| (machine.iommu_path(it.iommu), it.id.raw()));
    assert_eq!(
        streams.collect::<Vec<_>>(),
        [("/iommu@100000", 5), ("/iommu@200000", 6), ("/iommu@100000", 7)]
    );
    assert_eq!(spec.iommus().len(), 2);
}

#[test]
fn a_stream_named_twice_counts_once() {
    let machine = root().with(smmu(1)).with(client("usb@1000", &[1, 5, 1, 6, 1, 5])).read();
    assert_eq!(translated(device(&machine, "/usb@1000")), Some(vec![5, 6]));
    assert!(has_finding(&machine, "/usb@1000", rule::DUPLICATE_STREAM));
}

#[test]
fn devices_that_share_a_stream_form_one_group() {
    let machine = root()
        .with(smmu(1))
        .with(smmu(2))
        .with(client("a@1", &[1, 5]))
        .with(client("b@2", &[2, 5]))
        .with(client("c@3", &[1, 6, 1, 5]))
        .with(client("d@4", &[1, 6]))
        .with(client("off@5", &[2, 5]).text("status", "disabled"))
        .read();
    assert_eq!(sharing(&machine), [0, 1, 0, 0, 2]);
    assert!(has_finding(&machine, "/a@1", rule::SHARED_STREAM));
    assert_eq!(machine.findings.iter().filter(|it| it.rule == rule::SHARED_STREAM).count(), 1);
}

#[test]
fn masked_streams_share_where_they_overlap() {
    let machine = root()
        .with(mmu500(1, 2))
        .with(client("a@1", &[1, 0x800, 0x0f]))
        .with(client("b@2", &[1, 0x80f, 0]))
        .with(client("c@3", &[1, 0x810, 0xe0]))
        .with(client("d@4", &[1, 0x8f0, 0x0]))
        .with(client("e@5", &[1, 0x8f1, 0x0]))
        .read();
    assert_eq!(sharing(&machine), [0, 0, 1, 1, 2]);
    let stream = device(&machine, "/a@1").streams[0];
    assert_eq!((stream.id.raw(), stream.mask), (0x800, 0x0f));
}

#[test]
fn stream_match_mask_applies_to_every_client() {
    let iommu = mmu500(1, 1).cells("stream-match-mask", &[0x7c00]);
    let machine = root()
        .with(iommu)
        .with(client("usb@1000", &[1, 0x10]))
        .with(bridge(&[0, 1, 0x100, 8]))
        .read();
    assert_eq!(device(&machine, "/usb@1000").streams[0].mask, 0x7c00);
    let bus = device(&machine, "/pcie@40000000").bus.as_ref().expect("a bus");
    assert_eq!(bus.stream(RequesterId(1)).expect("covered").1.mask, 0x7c00);
}

#[test]
fn a_map_reaches_the_last_requester_id() {
    let machine = root().with(smmu(1)).with(bridge(&[0xffff_0000, 1, 0, 0x1_0000])).read();
    let bus = device(&machine, "/pcie@40000000").bus.as_ref().expect("a bus");
    assert_eq!(bus.stream(RequesterId(u32::MAX)).expect("covered").1.id.raw(), 0xffff);
    assert!(bus.stream(RequesterId(0xfffe_ffff)).is_err());
}

#[test]
fn a_length_of_0_is_recorded_and_skipped() {
    let machine = root().with(smmu(1)).with(bridge(&[0, 1, 0, 0, 8, 1, 0x20, 8])).read();
    assert!(has_finding(&machine, "/pcie@40000000", rule::IOMMU_MAP_ZERO_LENGTH));
    let bridge = device(&machine, "/pcie@40000000");
    assert_eq!(bridge.functions[0].requester, RequesterId(8));
    assert_eq!(translated(bridge), Some(vec![0x20]));
}

#[test]
fn a_function_that_the_map_leaves_out_stays_blocked() {
    let function = |name: &str, rid: u32| dt(name).cells("reg", &[rid << 8, 0, 0, 0, 0]);
    let bridge =
        bridge(&[8, 1, 0x20, 8]).with(function("nvme@1,0", 8)).with(function("eth@2,0", 16));
    let machine = root().with(smmu(1)).with(bridge).read();
    let functions = &device(&machine, "/pcie@40000000").functions;
    assert!(matches!(functions[0].description.dma, DmaPath::Translated(_)));
    assert_eq!(functions[1].description.path, "/pcie@40000000/eth@2,0");
    assert!(matches!(functions[1].description.dma, DmaPath::Unusable(_)));
    assert!(has_finding(&machine, "/pcie@40000000/eth@2,0", rule::RID_NOT_MAPPED));
    assert!(machine.clients().all(|client| client.dma != DmaPath::Direct));
}

#[test]
fn requester_ids_are_masked_before_they_are_mapped() {
    // All functions of a device share the id of function 0.
    let bridge = bridge(&[0, 1, 0x400, 0x100]).cells("iommu-map-mask", &[0xfff8]);
    let machine = root().with(smmu(1)).with(bridge).read();
    let bus = device(&machine, "/pcie@40000000").bus.as_ref().expect("a bus");
    let id = |rid| bus.stream(RequesterId(rid)).map(|(_, stream)| stream.id.raw());
    assert_eq!(id(0x0b), Ok(0x408));
    assert_eq!(id(0x08), Ok(0x408));
    assert!(id(0x108).is_err());
}

#[test]
fn one_cell_tuples_for_a_two_cell_iommu_are_read_in_the_form_that_linux_knows() {
    let map = [0, 1, 0x1400, 1, 0x100, 1, 0x1401, 1];
    let machine = root().with(mmu500(1, 2)).with(bridge(&map)).read();
    let bridge_ = device(&machine, "/pcie@40000000");
    assert_eq!(bridge_.bus.as_ref().expect("a bus").maps().len(), 2);
    assert!(has_finding(&machine, "/pcie@40000000", rule::IOMMU_MAP_ONE_CELL));
    // And with all cells: id and mask.
    let machine = root().with(mmu500(1, 2)).with(bridge(&[0, 1, 0x1400, 0xf, 1])).read();
    let bus = device(&machine, "/pcie@40000000").bus.as_ref().expect("a bus");
    assert_eq!((bus.maps()[0].mask, bus.maps()[0].length), (0xf, 1));
}

#[test]
fn a_map_to_a_disabled_iommu_is_direct() {
    let machine =
        root().with(smmu(1).text("status", "disabled")).with(bridge(&[0, 1, 0, 8])).read();
    let bridge = device(&machine, "/pcie@40000000");
    assert_eq!(bridge.functions[0].description.dma, DmaPath::Direct);
    assert!(has_finding(&machine, "/pcie@40000000", rule::IOMMU_DISABLED));
}

#[test]
fn mistakes_of_disabled_devices_are_warnings() {
    let machine = root().with(client("usb@1000", &[9, 1]).text("status", "disabled")).read();
    assert_eq!(machine.findings[0].severity, Severity::Warning);
    assert!(matches!(device(&machine, "/usb@1000").description.dma, DmaPath::Unusable(_)));
}
