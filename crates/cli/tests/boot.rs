//! Boots of the built-in board, through the same code as the command's.

use portcullis_cli::board;
use portcullis_cli::boot::{
    BootOptions, FirmwarePolicy, Order, boot, boot_failing, calm_picture, render, render_summary,
    repeat, to_json,
};
use portcullis_cli::screen::Screen;
use portcullis_testbed::{QemuBoard, QemuMachine, SoftwareMachine};
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn any_order_ends_in_the_same_picture() {
    let description = board::read(None, &[], None).expect("the built-in board");
    let expected = calm_picture(&description);
    for order in [Order::Listed, Order::Reverse, Order::Random] {
        for cpus in [1, 2, 4] {
            let options = BootOptions { cpus, seed: 7, order, storm: false, ..BootOptions::CALM };
            let machine = SoftwareMachine::new(&description, 7);
            let (report, _) = boot(&description, &machine, options, Some(&expected));
            assert!(report.held(), "{order:?} on {cpus}: {:?}", report.promises);
            assert!(
                report.promises.iter().all(|verdict| verdict.checked > 0),
                "nothing is vacuous"
            );
        }
    }
}

/// The functions of a recorded machine in the place of those that the board lists: their groups are those of the bus, in `show` and in the core, and each does DMA under its first id.
#[test]
fn recorded_functions_come_up_in_the_groups_of_their_bus() {
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/../pci/tests/linux/multifunction.config");
    let description = board::read(None, &[], Some(text.as_ref())).expect("the built-in board");
    let machine = SoftwareMachine::new(&description, 7);
    let expected = calm_picture(&description);
    let (report, _) = boot(&description, &machine, BootOptions::CALM, Some(&expected));
    assert!(report.held(), "{:?}", report.promises);
    let booted: serde_json::Value = serde_json::from_str(&to_json(&report)).expect("JSON");
    let shown = portcullis_cli::show::to_json(&description);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let group = |address: &str| {
        let of = |list: &serde_json::Value| {
            let list = list.as_array().expect("a list").iter();
            let ends = |it: &&serde_json::Value| {
                it["path"].as_str().is_some_and(|path| path.ends_with(address))
            };
            list.clone().find(ends).expect("there").clone()
        };
        let device = of(&booted["devices"]);
        assert_eq!(device["dma_check"], "ok", "{address}");
        let bus = shown["devices"].as_array().expect("a list").iter();
        let bus = bus.clone().find(|it| it["functions"].as_array().is_some_and(|it| it.len() > 5));
        (device["group"].clone(), of(&bus.expect("the bus")["functions"])["group"].clone())
    };
    // As Linux has them (the board lists the first of each device, which keeps its name): three functions without ACS, two of Intel's that a quirk isolates, two below a port.
    assert_eq!(group("/nvme@1,0"), group("00:01.3"));
    assert_eq!(group("00:01.3").1, "/soc/pcie@40000000/nvme@1,0");
    assert_ne!(group("/ethernet@2,0").0, group("00:02.1").0);
    assert_eq!(group("/ethernet@2,0").1, serde_json::Value::Null);
    assert_eq!(group("/wifi@0,0"), group("01:00.1"));
    assert_ne!(group("/wifi@0,0").0, group("00:01.3").0);
}

/// Machines of two families: the built-in board with a VT-d unit, or one of AMD's, in the place of its second SMMUv3. What is behind both has no table that both can walk, and stays blocked.
#[test]
fn mixed_machines_come_up_in_a_storm() {
    comes_up_mixed(portcullis_firmware::IommuKind::VtD, "intel,vt-d", "vtd");
    comes_up_mixed(portcullis_firmware::IommuKind::AmdVi, "amd,iommu", "amdvi");
}

fn comes_up_mixed(kind: portcullis_firmware::IommuKind, compatible: &str, driver: &str) {
    let mut description = board::read(None, &[], None).expect("the built-in board");
    let unit = &mut description.iommus[1];
    unit.kind = kind;
    unit.compatible = vec![compatible.to_owned()];
    let expected = calm_picture(&description);
    for seed in 0..6 {
        let options =
            BootOptions { cpus: 4, seed, order: Order::Random, storm: true, ..BootOptions::CALM };
        let machine = SoftwareMachine::with_preemption(&description, seed);
        let (report, _) = boot(&description, &machine, options, Some(&expected));
        assert!(report.held(), "{seed}: {:?}", report.promises);
        let json: serde_json::Value = serde_json::from_str(&to_json(&report)).expect("JSON");
        let iommus = json["iommus"].as_array().expect("a list");
        let drivers: Vec<_> = iommus[..2].iter().map(|it| (&it["driver"], &it["state"])).collect();
        let registered = serde_json::Value::from("registered");
        assert_eq!(
            drivers,
            [(&"smmuv3".into(), &registered), (&driver.into(), &registered)],
            "{seed}"
        );
        let translated = |unit: &serde_json::Value| {
            let behind = |device: &&serde_json::Value| {
                device["iommus"] == serde_json::json!([unit["path"]]) && device["dma_check"] == "ok"
            };
            json["devices"].as_array().expect("a list").iter().filter(behind).count()
        };
        assert!(iommus[..2].iter().all(|unit| translated(unit) >= 3), "{seed}: {json}");
    }
}

#[test]
fn the_built_in_board_has_every_shape_that_matters() {
    let description = board::read(None, &[], None).expect("the built-in board");
    let options =
        BootOptions { cpus: 2, seed: 1, order: Order::Listed, storm: false, ..BootOptions::CALM };
    let machine = SoftwareMachine::new(&description, 1);
    let (report, _) = boot(&description, &machine, options, None);
    let json: serde_json::Value = serde_json::from_str(&to_json(&report)).expect("JSON");
    let states: Vec<_> =
        json["iommus"].as_array().expect("a list").iter().map(|i| &i["state"]).collect();
    assert_eq!(states, ["registered", "registered", "disabled", "no-driver"]);
    let devices = json["devices"].as_array().expect("a list");
    let device = |path: &str| devices.iter().find(|device| device["path"] == path).expect(path);
    let npu = device("/soc/npu@12000000");
    assert_eq!(npu["iommus"].as_array().expect("a list").len(), 2, "behind two IOMMUs");
    assert_eq!(npu["dma_check"], "ok");
    let trace = device("/soc/trace@13020000");
    assert_eq!((&trace["dma"], &trace["state"]), (&"unknown".into(), &"blocked".into()));
    assert_eq!(trace["reason"], "no driver for example,unknown-iommu");
    assert_eq!(trace["dma_check"], serde_json::Value::Null);
    let audio = (device("/soc/audio@100e0000"), device("/soc/hdmi-audio@100e1000"));
    assert_eq!(audio.0["group"], audio.1["group"], "they share a stream");
    assert_eq!(device("/soc/can@13010000")["dma"], "direct");
    assert!(devices.iter().filter(|device| device["dma"] == "translated").count() >= 25);
    assert!(
        json["promises"].as_array().expect("a list").iter().all(|promise| promise["held"] == true)
    );
}

/// The boot picture of `mmu500`'s display: blocked or kept by policy, said either way, and looked at by the display itself before its driver binds.
#[test]
fn streams_that_firmware_left_running_are_blocked_or_adopted_and_said() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../boards/mmu500.dtb");
    let description = board::read(Some(path.as_ref()), &[], None).expect("our own board");
    let expected = calm_picture(&description);
    for (firmware_streams, kind, word) in [
        (FirmwarePolicy::Block, "firmware-stream-blocked", "as the policy says"),
        (FirmwarePolicy::Adopt, "firmware-stream-adopted", "until its driver binds"),
    ] {
        let options = BootOptions { cpus: 2, seed: 5, firmware_streams, ..BootOptions::CALM };
        let machine = firmware_streams.apply(SoftwareMachine::new(&description, 5), &description);
        let (report, _) = boot(&description, &machine, options, Some(&expected));
        assert!(report.held(), "{:?}", report.promises);
        let json: serde_json::Value = serde_json::from_str(&to_json(&report)).expect("JSON");
        let notes = |index: usize| {
            let notes = json["iommus"][index]["notes"].as_array().expect("a list");
            notes.iter().filter(|note| note["kind"] == kind).count()
        };
        assert_eq!((notes(0), notes(1), notes(2)), (2, 0, 0), "the display's two: {json}");
        let text = render(&report, false, Screen::plain(120));
        let told = ["stream 0x1c0 running untranslated", "stream 0x2c0 under mask 0x400", word];
        assert!(told.iter().all(|it| text.contains(it)), "{text}");
        let summary = repeat(
            &description,
            BootOptions { storm: true, ..options },
            5,
            &AtomicBool::new(false),
            |_| {},
        );
        assert!(summary.held(), "{:?}", summary.promises);
    }
}

/// The shape of the machines of the original report: several MMU-500, ids under masks.
#[test]
fn a_board_with_mmu500_is_translated_whole() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../boards/mmu500.dtb");
    let description = board::read(Some(path.as_ref()), &[], None).expect("our own board");
    let expected = calm_picture(&description);
    for (cpus, order) in [(1, Order::Listed), (2, Order::Reverse), (4, Order::Random)] {
        let options = BootOptions { cpus, seed: 3, order, storm: false, ..BootOptions::CALM };
        let machine = SoftwareMachine::new(&description, 3);
        let (report, _) = boot(&description, &machine, options, Some(&expected));
        assert!(report.held(), "{order:?} on {cpus}: {:?}", report.promises);
        let json: serde_json::Value = serde_json::from_str(&to_json(&report)).expect("JSON");
        let all = |list: &str, key: &str, value: &str| {
            let list = json[list].as_array().expect("a list");
            list.iter().filter(|it| it[key] == value).count()
        };
        assert_eq!(all("iommus", "driver", "smmuv2"), 3);
        assert_eq!(
            (all("devices", "dma", "translated"), all("devices", "dma_check", "ok")),
            (12, 12)
        );
    }
}

#[test]
fn a_storm_of_boots_keeps_every_promise() {
    let description = board::read(None, &[], None).expect("the built-in board");
    let options =
        BootOptions { cpus: 2, seed: 1, order: Order::Random, storm: true, ..BootOptions::CALM };
    let summary = repeat(&description, options, 200, &AtomicBool::new(false), |_| {});
    assert!(
        summary.held(),
        "first broken with seed {:?}: {:?}",
        summary.first_broken,
        summary.promises
    );
    assert!(summary.races[0] > 0 && summary.races[1] > 0, "{:?}", summary.races);
}

#[test]
fn boots_that_are_interrupted_say_what_was_done() {
    let description = board::read(None, &[], None).expect("the built-in board");
    let options =
        BootOptions { cpus: 2, seed: 1, order: Order::Random, storm: true, ..BootOptions::CALM };
    let stop = AtomicBool::new(false);
    let summary = repeat(&description, options, 1_000_000, &stop, |done| {
        stop.store(done == 3, Ordering::Relaxed);
    });
    assert_eq!((summary.boots, summary.asked), (3, 1_000_000));
    let text = render_summary(&summary, Screen::plain(120));
    assert!(text.starts_with("3 boots of") && text.contains("interrupted"), "{text}");
    assert!(text.contains("seeds 1 to 3"), "{text}");
}

#[test]
fn a_failed_allocation_anywhere_ends_closed_and_the_second_try_succeeds() {
    let description = board::read(None, &[], None).expect("the built-in board");
    let expected = calm_picture(&description);
    let mut points = 0;
    let mut shut_out = 0;
    for nth in 1.. {
        let outcome = boot_failing(&description, nth);
        assert!(
            outcome.promises.iter().all(|verdict| verdict.broken == 0),
            "allocation {nth}: {:?}",
            outcome.promises
        );
        assert_eq!(outcome.picture, expected, "allocation {nth}: the second try");
        if !outcome.failed {
            break;
        }
        points += 1;
        // The device behind the IOMMU without a driver is always shut out.
        shut_out += usize::from(outcome.shut_out > 1);
    }
    println!("{points} points of failure, {shut_out} of them shut a device out at first");
    assert!(points > 50 && shut_out > 20, "{points} points, {shut_out} with consequences");
}

#[test]
fn qemu_boots_its_own_description_with_every_device_translated() {
    // Says SKIP, or panics where QEMU is required.
    if !QemuBoard::Arm.for_test("qemu_boots_its_own_description") {
        return;
    }
    let (calm, description) = QemuMachine::start(QemuBoard::Arm).expect("QEMU starts");
    let (_, picture) = boot(&description, &calm, BootOptions::CALM, None);
    // The tables of ACPI: another description of the same machine, with other paths.
    let (calm, described) = QemuMachine::start(QemuBoard::ArmAcpi).expect("QEMU starts");
    let (_, by_tables) = boot(&described, &calm, BootOptions::CALM, None);
    let (calm, described) = QemuMachine::start(QemuBoard::Virtio).expect("QEMU starts");
    let (_, by_requests) = boot(&described, &calm, BootOptions::CALM, None);
    for (board, order, picture) in [
        (QemuBoard::Arm, Order::Reverse, &picture),
        (QemuBoard::Arm, Order::Random, &picture),
        (QemuBoard::ArmAcpi, Order::Random, &by_tables),
        (QemuBoard::Virtio, Order::Reverse, &by_requests),
        (QemuBoard::Virtio, Order::Random, &by_requests),
    ] {
        let (machine, description) = QemuMachine::start(board).expect("QEMU starts");
        let options = BootOptions { cpus: 2, seed: 3, order, storm: true, ..BootOptions::CALM };
        let (report, _) = boot(&description, &machine, options, Some(picture));
        assert!(report.held(), "{:?}", report.promises);
        assert_eq!(report.clients.len(), 6);
        for client in &report.clients {
            assert_eq!(
                (client.path_word(), client.dma_ok),
                ("translated", Some(true)),
                "{client:?}"
            );
        }
        let group = |path: &str| {
            let client = report.clients.iter().find(|client| client.report.path.ends_with(path));
            client.expect(path).report.group
        };
        assert_eq!(group("edu@02:01.0"), group("edu@02:02.0"), "one alias behind the bridge");
        assert_ne!(group("edu@00:02.0"), group("edu@01:00.0"));
    }
}

/// The same on boards of other families: their own IOMMU, an NVMe disk, an entropy source and some `edu`, each with real DMA.
fn boots_with_every_device_translated(board: QemuBoard, clients: usize, test: &str) {
    if !board.for_test(test) {
        return;
    }
    let (calm, description) = QemuMachine::start(board).expect("QEMU starts");
    let (_, picture) = boot(&description, &calm, BootOptions::CALM, None);
    let (machine, description) = QemuMachine::start(board).expect("QEMU starts");
    let options =
        BootOptions { cpus: 2, seed: 3, order: Order::Random, storm: true, ..BootOptions::CALM };
    let (report, _) = boot(&description, &machine, options, Some(&picture));
    assert!(report.held(), "{:?}", report.promises);
    assert_eq!(report.clients.len(), clients);
    for client in &report.clients {
        assert_eq!((client.path_word(), client.dma_ok), ("translated", Some(true)), "{client:?}");
    }
}

#[test]
fn qemu_boots_a_riscv_board_with_every_device_translated() {
    let test = "qemu_boots_a_riscv_board_with_every_device_translated";
    boots_with_every_device_translated(QemuBoard::Riscv, 4, test);
}

/// One of the five is behind a root port: DMAR names the bridge, and enumeration finds what is below.
#[test]
fn qemu_boots_a_pc_with_vtd_with_every_device_translated() {
    let test = "qemu_boots_a_pc_with_vtd_with_every_device_translated";
    boots_with_every_device_translated(QemuBoard::Q35Vtd, 5, test);
}

/// As IVRS describes it; none behind a bridge.
#[test]
fn qemu_boots_a_pc_of_amds_with_every_device_translated() {
    let test = "qemu_boots_a_pc_of_amds_with_every_device_translated";
    boots_with_every_device_translated(QemuBoard::Q35Amd, 4, test);
}

/// What `--save-tables` writes is what `show` takes.
#[test]
fn tables_that_were_saved_are_read_again() {
    if !QemuBoard::ArmAcpi.for_test("tables_that_were_saved_are_read_again") {
        return;
    }
    let (machine, described) = QemuMachine::start(QemuBoard::ArmAcpi).expect("QEMU starts");
    let fw_cfg = machine.machine().fw_cfg().expect("it is there");
    let linked = portcullis_testbed::acpi_tables(&fw_cfg).expect("linked");
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("saved-tables");
    board::save_tables(&linked, &folder).expect("a folder of ours");
    let read = board::read(Some(&folder), &[], None).expect("tables");
    assert_eq!((read.iommus.len(), &read.iommus), (1, &described.iommus));
    assert_eq!(read.config_spaces, described.config_spaces);
    assert!(folder.join("FACP").is_file(), "also those that say nothing of IOMMUs");
}

/// Four drivers at once: an SMMUv3, an MMU-500, a RISC-V IOMMU and a virtio-iommu, arriving in any order.
#[test]
fn a_storm_of_boots_of_mixed_iommus_keeps_every_promise() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../boards/mixed.dtb");
    let description = board::read(Some(path.as_ref()), &[], None).expect("our own board");
    let options =
        BootOptions { cpus: 2, seed: 1, order: Order::Random, storm: true, ..BootOptions::CALM };
    let (report, _) =
        boot(&description, &SoftwareMachine::new(&description, 1), BootOptions::CALM, None);
    let json: serde_json::Value = serde_json::from_str(&to_json(&report)).expect("JSON");
    let drivers = json["iommus"].as_array().expect("a list").iter().map(|it| it["driver"].clone());
    assert_eq!(drivers.collect::<Vec<_>>(), ["smmuv3", "smmuv2", "riscv", "virtio"]);
    assert!(report.clients.iter().all(|client| client.path_word() == "translated"));
    let summary = repeat(&description, options, 60, &AtomicBool::new(false), |_| {});
    assert!(
        summary.held(),
        "first broken with seed {:?}: {:?}",
        summary.first_broken,
        summary.promises
    );
}
