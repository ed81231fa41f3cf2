//! What QEMU's ACPI tables say of its own boards, without firmware: the same as its devicetrees where it writes both, and what its command line asked for where not.

use portcullis::DmaPath;
use portcullis_firmware::acpi::Table;
use portcullis_firmware::acpi::loader::Linked;
use portcullis_firmware::{IommuKind, MachineDescription, RequesterId, read_acpi};
use portcullis_qemu::pci::{Bdf, ConfigAccess, ConfigSpace};
use portcullis_qemu::{Architecture, FwCfg, FwCfgAccess, Launch, Ram, for_test_on};
use portcullis_testbed::{QemuBoard, QemuMachine, acpi_tables};
use std::sync::Arc;

/// Each function's place and the ids with which an IOMMU sees it.
fn functions(description: &MachineDescription) -> Vec<(RequesterId, Vec<u32>)> {
    let functions = description.devices.iter().flat_map(|device| &device.functions);
    let streams = |dma: &DmaPath| match dma {
        DmaPath::Translated(spec) => spec.streams.iter().map(|it| it.id.raw()).collect(),
        other => panic!("{other:?}"),
    };
    functions.map(|it| (it.requester, streams(&it.description.dma))).collect()
}

/// Kind and register window of each unit.
fn units(description: &MachineDescription) -> Vec<(IommuKind, Option<u64>)> {
    let units = description.iommus.iter();
    units.map(|it| (it.kind, it.registers.map(|range| range.start().raw()))).collect()
}

#[test]
fn the_tables_of_arms_board_say_what_its_devicetree_says() {
    if for_test_on(Architecture::Aarch64, "the_tables_of_arms_board").is_none() {
        return;
    }
    let (_, tree) = QemuMachine::start(QemuBoard::Arm).expect("QEMU starts");
    let (machine, tables) = QemuMachine::start(QemuBoard::ArmAcpi).expect("QEMU starts");
    assert_eq!(functions(&tree), functions(&tables));
    assert_eq!(functions(&tables).len(), 6, "three of them behind bridges");
    assert_eq!(units(&tree), units(&tables));
    // QEMU's `virt_memmap`: VIRT_HIGH_PCIE_ECAM.
    assert_eq!(tables.config_spaces[0].base, 0x40_1000_0000);
    assert_eq!(tables.findings, []);
    // What QEMU leaves to the script: every checksum.
    let linked = acpi_tables(&machine.machine().fw_cfg().expect("it is there")).expect("linked");
    let signatures = sound(&linked);
    assert!(["FACP", "APIC", "IORT", "MCFG"].iter().all(|it| signatures.contains(&(*it).into())));
    assert_eq!((linked.skipped, linked.writes.len()), (0, 0));
}

/// The signatures of all tables, whose checksums must be right.
fn sound(linked: &Linked) -> Vec<String> {
    let tables = linked.tables().expect("a root pointer");
    let table = |bytes| Table::new(bytes).expect("a header");
    let tables: Vec<_> = tables.into_iter().map(table).collect();
    assert!(tables.iter().all(|table| table.checksum_ok), "{tables:?}");
    tables.iter().map(|table| table.signature.to_string()).collect()
}

/// The unit is a function of the bus that it serves: it is no client of itself, and its registers are in no table.
#[test]
fn the_tables_of_a_virtio_iommu_say_what_its_devicetree_says() {
    if for_test_on(Architecture::Aarch64, "the_tables_of_a_virtio_iommu").is_none() {
        return;
    }
    let (_, tree) = QemuMachine::start(QemuBoard::VirtioTree).expect("QEMU starts");
    let (_, tables) = QemuMachine::start(QemuBoard::Virtio).expect("QEMU starts");
    assert_eq!(functions(&tree), functions(&tables));
    assert_eq!(functions(&tables).len(), 6);
    assert_eq!(units(&tree), units(&tables));
    assert_eq!(units(&tables), [(IommuKind::VirtioIommu, None)]);
    let bus = tables.devices.iter().find_map(|device| device.bus.as_ref()).expect("a bus");
    assert!(bus.stream(RequesterId::pci(0, 1, 0)).is_err(), "the unit itself");
    assert!(bus.stream(RequesterId::pci(0, 2, 0)).is_ok());
}

#[test]
fn the_tables_of_riscvs_board_say_what_its_devicetree_says_or_that_they_do_not() {
    let Some(qemu) = for_test_on(Architecture::Riscv64, "the_tables_of_riscvs_board") else {
        return;
    };
    let version = (qemu.version().major, qemu.version().minor);
    match QemuMachine::start(QemuBoard::RiscvAcpi) {
        Ok((_, tables)) => {
            let (_, tree) = QemuMachine::start(QemuBoard::Riscv).expect("QEMU starts");
            assert_eq!(functions(&tree), functions(&tables));
            assert_eq!(units(&tree), units(&tables));
            assert_eq!(tables.findings, []);
        }
        // Without RIMT everything would be direct: nothing starts then.
        Err(error) => {
            assert!(version < (10, 1), "QEMU {version:?} writes a RIMT: {error}");
            assert!(error.contains("name no IOMMU"), "{error}");
        }
    }
}

/// The PC's ports, and tables of machines with the two IOMMUs of x86.
#[test]
fn a_pc_hands_its_tables_out_through_ports() {
    let Some(qemu) = for_test_on(Architecture::X86_64, "a_pc_hands_its_tables_out") else { return };
    // Nothing but halts: the reset vector, 16 bytes before the end, disables interrupts, halts, and once more.
    let mut firmware = vec![0xf4; 1 << 16];
    firmware[0xfff0..0xfff4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("halt.bin");
    std::fs::write(&path, firmware).expect("a folder of ours");
    for (device, kind, registers) in [
        ("intel-iommu,intremap=off", IommuKind::VtD, 0xfed9_0000),
        ("amd-iommu,intremap=off", IommuKind::AmdVi, 0xfed8_0000),
    ] {
        let base = portcullis_addr::PhysAddr::new(0);
        let ram = Arc::new(Ram::new(base, 64 << 20, 2 << 20).expect("memory"));
        let bios = path.to_str().expect("a plain name");
        let launch = Launch::new(qemu, "q35,pit=off,hpet=off,smm=off", ram);
        let qemu = launch.args(["-bios", bios, "-device", device]).start().expect("QEMU starts");
        let ports = ConfigSpace::new(&qemu, ConfigAccess::Ports);
        // Q35's PCIEXBAR: memory-mapped configuration space at 0xb0000000, 256 MiB, on. Without it there is no MCFG.
        ports.write(Bdf::new(0, 0, 0), 0x60, 0xb000_0001).expect("ports");
        let fw_cfg = FwCfg::open(&qemu, FwCfgAccess::Ports).expect("it is there");
        let linked = acpi_tables(&fw_cfg).expect("linked");
        sound(&linked);
        let tables = linked.tables().expect("a root pointer");
        let machine = read_acpi(tables, "q35").expect("QEMU's tables");
        assert_eq!(units(&machine), [(kind, Some(registers))]);
        let spaces = machine.config_spaces.iter().map(|it| (it.base, it.first_bus, it.last_bus));
        assert_eq!(spaces.collect::<Vec<_>>(), [(0xb000_0000, 0, 255)]);
        let mapped = ConfigSpace::new(&qemu, ConfigAccess::Ecam(machine.config_spaces[0].base));
        let id = |space: &ConfigSpace<_>| space.read(Bdf::new(0, 0, 0), 0).expect("an id");
        assert_eq!((id(&mapped), id(&ports)), (0x29c0_8086, 0x29c0_8086), "Q35's host bridge");
    }
}

/// A device that is not there, and a board whose files are asked for under a name that it does not have.
#[test]
fn what_is_no_such_device_is_said() {
    let Some(qemu) = for_test_on(Architecture::Aarch64, "what_is_no_such_device") else { return };
    let base = portcullis_addr::PhysAddr::new(0x4000_0000);
    let ram = Arc::new(Ram::new(base, 64 << 20, 2 << 20).expect("memory"));
    let launch = Launch::new(qemu, "virt,acpi=off", ram);
    let cpu = ["-cpu", "cortex-a57,start-powered-off=on"];
    let qemu = launch.args(cpu).start().expect("QEMU starts");
    let nowhere = FwCfg::open(&qemu, FwCfgAccess::Mmio(0x0a00_0000)).expect_err("virtio is there");
    assert!(nowhere.to_string().contains("it calls itself"), "{nowhere}");
    let there = FwCfg::open(&qemu, FwCfgAccess::Mmio(0x0902_0000)).expect("a device");
    assert_eq!(there.read("etc/acpi/tables").expect("an answer"), None);
    let error = acpi_tables(&there).expect_err("no tables");
    assert!(error.contains("hands no ACPI tables"), "{error}");
}
