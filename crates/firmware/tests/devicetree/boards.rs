//! Our own boards.

use crate::made::{device, has_finding, translated};
use crate::second::{Counts, compare};
use portcullis::{DmaPath, ReservedKind};
use portcullis_firmware::{MachineDescription, Severity, read_devicetree, rule};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../boards")
}

fn board(name: &str) -> MachineDescription {
    let blob = fs::read(folder().join(name).with_extension("dtb")).expect("board");
    read_devicetree(&blob, name).expect("well-formed")
}

fn sources() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).expect("boards").map(|entry| entry.expect("entry").path());
    let sources: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|it| it == "dts")).collect();
    assert!(sources.len() >= 3, "{sources:?}");
    sources
}

#[test]
fn the_second_reading_agrees() {
    let mut counts = Counts::default();
    // The second reading is for well-formed trees.
    for source in sources().iter().filter(|source| !source.ends_with("broken.dts")) {
        let blob = fs::read(source.with_extension("dtb")).expect("compiled");
        let machine = read_devicetree(&blob, "board").expect("well-formed");
        compare(&source.display().to_string(), &blob, &machine, &mut counts);
    }
    assert!(counts.streams > 30, "{counts:?}");
}

/// The comparison sees a single wrong id.
#[test]
#[should_panic(expected = "assertion `left == right` failed: wrong")]
fn the_second_reading_sees_a_wrong_id() {
    let blob = fs::read(folder().join("portcullis-default.dtb")).expect("compiled");
    let mut machine = read_devicetree(&blob, "wrong").expect("well-formed");
    let stream = &mut machine.devices[3].streams[0];
    stream.id = portcullis_addr::StreamId::new(stream.id.raw() + 1);
    compare("wrong", &blob, &machine, &mut Counts::default());
}

/// The committed blobs say what the sources say.
#[test]
fn blobs_are_compiled_from_their_sources() {
    for source in sources() {
        let dtc =
            Command::new("dtc").args(["-q", "-f", "-I", "dts", "-O", "dtb"]).arg(&source).output();
        let Ok(dtc) = dtc else {
            assert!(
                std::env::var_os("PORTCULLIS_REQUIRE_EXTERNAL").is_none_or(|it| it != "1"),
                "dtc is missing"
            );
            crate::say("skipped: boards are not recompiled, there is no dtc");
            return;
        };
        assert!(dtc.status.success(), "{}", String::from_utf8_lossy(&dtc.stderr));
        let committed = fs::read(source.with_extension("dtb")).expect("compiled");
        let read = |blob: &[u8]| read_devicetree(blob, "board").expect("well-formed");
        assert_eq!(read(&dtc.stdout), read(&committed), "{}", source.display());
    }
}

#[test]
fn the_default_board_has_every_situation() {
    let machine = board("portcullis-default");
    let late: Vec<_> =
        machine.iommus.iter().filter(|it| it.late).map(|it| it.path.as_str()).collect();
    assert_eq!(late, ["/soc/iommu@2b600000"]);
    let main = machine.iommus.iter().find(|it| it.path == "/soc/iommu@2b400000").expect("main");
    let behind = |device: &&portcullis_firmware::DescribedDevice| {
        device.enabled && device.streams.iter().any(|it| it.iommu == main.node)
    };
    assert!(machine.devices.iter().filter(behind).count() >= 20);
    assert!(main.coherent && main.interrupts.len() == 4);
    assert_eq!(main.registers.map(|it| it.len()), Some(0x2_0000));

    let dma = |path| &device(&machine, path).description.dma;
    assert_eq!(*dma("/soc/dma-controller@13000000"), DmaPath::Direct);
    assert_eq!(*dma("/soc/can@13010000"), DmaPath::Direct);
    assert!(has_finding(&machine, "/soc/can@13010000", rule::IOMMU_DISABLED));
    assert!(has_finding(&machine, "/soc/audio@100e0000", rule::SHARED_STREAM));
    let DmaPath::Translated(npu) = dma("/soc/npu@12000000") else { panic!("npu") };
    assert_eq!(npu.iommus().len(), 2);
    let display = &device(&machine, "/soc/display@10090000").description;
    assert_eq!(display.reserved[0].kind, ReservedKind::Direct);
    assert_eq!(device(&machine, "/soc/peripherals@11000000/serial@0").description.address_bits, 32);
    assert!(!device(&machine, "/soc/usb@10110000").enabled);
    let bridge = device(&machine, "/soc/pcie@40000000");
    assert_eq!(bridge.functions.len(), 4);
    // Nothing is worse than a note but the device that falls to direct behind a disabled IOMMU.
    let worse = machine.findings.iter().filter(|it| it.severity != Severity::Note);
    let worse: Vec<_> = worse.map(|it| (it.severity, it.path.as_str(), it.rule)).collect();
    assert_eq!(worse, [(Severity::Warning, "/soc/can@13010000", rule::IOMMU_DISABLED)]);
}

#[test]
fn the_pci_board_maps_nested_buses_masks_and_aliases() {
    let machine = board("pci-topology");
    let ids = |path| {
        let bridge = device(&machine, path);
        let functions = bridge.functions.iter();
        functions
            .map(|it| match &it.description.dma {
                DmaPath::Translated(spec) => spec.streams.iter().map(|it| it.id.raw()).collect(),
                _ => vec![],
            })
            .collect::<Vec<Vec<u32>>>()
    };
    // Bus 0 starts at 0x100, bus 1 at 0x800 of the second IOMMU; bus 2 is not mapped.
    assert_eq!(
        ids("/soc/pcie@40000000"),
        [vec![0x108], vec![0x110], vec![0x118], vec![0x800], vec![]]
    );
    // The mask drops the function number: both functions of device 1 share a stream.
    assert_eq!(ids("/soc/pcie@60000000"), [vec![0x4008], vec![0x4008]]);
    let bus = device(&machine, "/soc/pcie@40000000").bus.as_ref().expect("a bus");
    // A bridge to conventional PCI issues with its own id too.
    let both = [portcullis_firmware::RequesterId(0x10), portcullis_firmware::RequesterId(0x100)];
    let spec = bus.fwspec(&both).expect("both covered");
    assert_eq!(spec.iommus().len(), 2);
}

#[test]
fn the_broken_board_blocks_what_is_broken_and_nothing_else() {
    let machine = board("broken");
    for device in &machine.devices {
        let blocked = matches!(device.description.dma, DmaPath::Unusable(_));
        let sound = device.description.path == "/sound@1000";
        assert_eq!(blocked, !sound, "{}", device.description.path);
    }
    assert_eq!(translated(device(&machine, "/sound@1000")), Some(vec![1]));
    let errors = machine.findings.iter().filter(|it| it.severity == Severity::Error);
    assert!(errors.count() >= machine.devices.len() - 1);
}
