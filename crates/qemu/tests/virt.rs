//! The `virt` board on a real QEMU: what the preset promises, and what QEMU's SMMUv3 says of itself.

use portcullis_addr::{Iova, PhysAddr};
use portcullis_platform::{DmaMemory, PageLayout, Registers};
use portcullis_qemu::endpoint::{DmaBuffer, Edu, NvmeBuffers, VirtioRngBuffers};
use portcullis_qemu::pci::Bdf;
use portcullis_qemu::{Architecture, BusId, ErrorKind, Launch, Ram, SmmuStages, Virt};
use portcullis_qemu::{VirtMachine, Width, disk_block, for_test, for_test_on};
use std::sync::Arc;
use std::time::Duration;

fn page(machine: &VirtMachine) -> DmaBuffer {
    let layout = PageLayout::new(4096, 4096).expect("a page");
    let phys = machine.ram().allocate(layout).expect("RAM");
    DmaBuffer { phys, iova: Iova::new(phys.raw()), len: 4096 }
}

#[test]
fn the_smmu_has_the_stages_asked_for() {
    let Some(qemu) = for_test("the_smmu_has_the_stages_asked_for") else { return };
    let wanted = [(SmmuStages::One, 2), (SmmuStages::Two, 1), (SmmuStages::Nested, 3)];
    for (stages, bits) in wanted {
        match Virt::new(stages).start() {
            Ok(machine) => assert_eq!(machine.iommu().read32(0) & 3, bits, "{stages:?}"),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
                assert!(!qemu.features().chooses_smmu_stages() && stages != SmmuStages::One);
            }
        }
    }
}

#[test]
fn id_registers_read_the_same_in_both_widths() {
    if for_test("id_registers_read_the_same_in_both_widths").is_none() {
        return;
    }
    let machine = Virt::new(SmmuStages::Newest).start().expect("board");
    let smmu = machine.iommu();
    let (idr0, idr1) = (smmu.read32(0), smmu.read32(4));
    // IHI 0070, 6.3.1 and 6.3.2: AArch64 tables, little-endian or mixed; stream ids of 16 bits as PCI needs.
    assert!(idr0 >> 2 & 3 >= 2, "IDR0 {idr0:#x}");
    assert_eq!(idr1 & 0x3f, 16, "IDR1 {idr1:#x}");
    // 6.3.6: output addresses of 44 bits, 4 KiB pages.
    let idr5 = smmu.read32(0x14);
    assert_eq!((idr5 & 7, idr5 >> 4 & 1), (4, 1), "IDR5 {idr5:#x}");
    assert_eq!(smmu.len(), 0x2_0000);
    assert_eq!(smmu.read32(0x20), 0, "CR0 after reset");
}

#[test]
fn dma_passes_a_disabled_smmu_both_ways() {
    if for_test("dma_passes_a_disabled_smmu_both_ways").is_none() {
        return;
    }
    let slot = BusId::ROOT.slot(2);
    let machine = Virt::new(SmmuStages::Newest).edu(slot).start().expect("board");
    let edu = machine.edu(slot).expect("edu");
    let (from, to) = (page(&machine), page(&machine));
    let bytes: Vec<u8> = (0..Edu::BUFFER_LEN).map(|index| (index * 31) as u8).collect();
    machine.ram().write(from.phys, &bytes);
    edu.read_memory(from.iova, 0, bytes.len()).expect("transfer");
    edu.write_memory(to.iova, 0, bytes.len()).expect("transfer");
    assert_eq!(machine.ram().read_vec(to.phys, bytes.len()), bytes);
    let beyond = edu.read_memory(from.iova, 8, Edu::BUFFER_LEN).expect_err("leaves the buffer");
    assert!(matches!(beyond.kind(), ErrorKind::Device { device: "edu", .. }), "{beyond}");
}

#[test]
fn every_bus_is_numbered_and_every_bar_placed() {
    if for_test("every_bus_is_numbered_and_every_bar_placed").is_none() {
        return;
    }
    let machine = Virt::demonstration().start().expect("board");
    let names: Vec<_> = machine
        .functions()
        .iter()
        .map(|f| format!("{} {:04x}:{:04x} as {}", f.address, f.vendor, f.device, f.dma_alias()))
        .collect();
    assert_eq!(
        names,
        [
            "00:00.0 1b36:0008 as 00:00.0",
            "00:02.0 1234:11e8 as 00:02.0",
            "00:03.0 1b36:0010 as 00:03.0",
            "00:04.0 1af4:1044 as 00:04.0",
            "00:05.0 1b36:000c as 00:05.0",
            "01:00.0 1234:11e8 as 01:00.0",
            "00:06.0 1b36:000e as 00:06.0",
            "02:01.0 1234:11e8 as 02:00.0",
            "02:02.0 1234:11e8 as 02:00.0",
        ]
    );
    let mut placed: Vec<_> = machine.functions().iter().flat_map(|f| f.bars).flatten().collect();
    placed.sort_by_key(|bar| bar.address);
    for pair in placed.windows(2) {
        assert!(pair[0].address.raw() + pair[0].size <= pair[1].address.raw(), "{pair:?}");
    }
    for function in machine.functions().iter().filter(|f| f.device == 0x11e8) {
        let edu = Edu::new(machine.bar0(function).expect("BAR 0")).expect("registers answer");
        let (from, to) = (page(&machine), page(&machine));
        machine.ram().write(from.phys, b"through the bridges");
        edu.read_memory(from.iova, 0, 19).expect("transfer");
        edu.write_memory(to.iova, 0, 19).expect("transfer");
        assert_eq!(machine.ram().read_vec(to.phys, 19), b"through the bridges");
    }
}

#[test]
fn a_conventional_bridge_lends_its_own_id() {
    if for_test("a_conventional_bridge_lends_its_own_id").is_none() {
        return;
    }
    let mut virt = Virt::new(SmmuStages::Newest);
    let below = virt.conventional_bridge(BusId::ROOT.slot(7));
    virt.edu(below.slot(3));
    let machine = virt.start().expect("board");
    let function = machine.function(below.slot(3)).expect("edu");
    assert_eq!((function.address, function.dma_alias()), (Bdf::new(1, 3, 0), Bdf::new(0, 7, 0)));
    assert!(machine.function(below.slot(4)).is_err(), "an empty slot");
}

#[test]
fn nvme_identifies_itself_and_reads_its_disk() {
    if for_test("nvme_identifies_itself_and_reads_its_disk").is_none() {
        return;
    }
    let slot = BusId::ROOT.slot(3);
    let machine = Virt::new(SmmuStages::Newest).nvme(slot).start().expect("board");
    let buffers = NvmeBuffers {
        admin_submissions: page(&machine),
        admin_completions: page(&machine),
        io_submissions: page(&machine),
        io_completions: page(&machine),
        data: page(&machine),
    };
    let mut nvme = machine.nvme(slot, buffers).expect("controller");
    let identity = nvme.identify().expect("identity");
    assert_eq!((identity.vendor, identity.serial.as_str()), (0x1b36, "portcullis-0"));
    // More commands than the queues have entries, so that both wrap.
    for lba in 0..80 {
        assert_eq!(nvme.read_block(lba).expect("read"), disk_block(lba), "block {lba}");
    }
    assert_ne!(disk_block(0), disk_block(1));
    let beyond = nvme.read_block(1 << 40).expect_err("beyond the disk");
    assert!(beyond.to_string().contains("status"), "{beyond}");
}

#[test]
fn virtio_rng_fills_a_buffer() {
    if for_test("virtio_rng_fills_a_buffer").is_none() {
        return;
    }
    let slot = BusId::ROOT.slot(4);
    let machine = Virt::new(SmmuStages::Newest).virtio_rng(slot).start().expect("board");
    let buffers = VirtioRngBuffers {
        descriptors: page(&machine),
        available: page(&machine),
        used: page(&machine),
        data: DmaBuffer { len: 64, ..page(&machine) },
    };
    let mut rng = machine.virtio_rng(slot, buffers).expect("entropy source");
    assert!(rng.uses_platform_addresses());
    let draws: Vec<_> = (0..10).map(|_| rng.fill().expect("bytes")).collect();
    assert!(draws.iter().all(|draw| draw.len() == 64));
    assert_ne!(draws[0], draws[9]);
}

#[test]
fn the_devicetree_is_that_of_this_board() {
    if for_test("the_devicetree_is_that_of_this_board").is_none() {
        return;
    }
    let tree = |virt: &Virt| virt.start().expect("board").devicetree().expect("devicetree");
    let bytes = tree(&Virt::new(SmmuStages::Newest));
    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(has(b"arm,smmu-v3\0") && has(b"iommu-map\0") && has(b"pci-host-ecam-generic\0"));
    assert_eq!(bytes, tree(&Virt::new(SmmuStages::Newest)), "no random seeds");
}

#[test]
fn a_device_msi_is_a_memory_write() {
    if for_test("a_device_msi_is_a_memory_write").is_none() {
        return;
    }
    let slot = BusId::ROOT.slot(2);
    let machine = Virt::new(SmmuStages::Newest).edu(slot).start().expect("board");
    let doorbell = page(&machine);
    let target = doorbell.iova.raw() + 0x40;
    let function = machine.function(slot).expect("edu").address;
    machine.config().enable_msi(function, target, 0xbeef).expect("MSI");
    machine.edu(slot).expect("edu").raise_interrupt(1);
    assert_eq!(machine.ram().load32(PhysAddr::new(target)), 0xbeef);
}

#[test]
fn a_global_error_raises_its_interrupt() {
    if for_test("a_global_error_raises_its_interrupt").is_none() {
        return;
    }
    use portcullis_qemu::SmmuLine;
    let machine = Virt::new(SmmuStages::Newest).start().expect("board");
    machine.watch_iommu_interrupts().expect("watching");
    let (smmu, queue) = (machine.iommu(), page(&machine));
    machine.ram().store64(queue.phys, 0xff); // No command has this opcode.
    smmu.write64(0x90, queue.phys.raw() | 5); // CMDQ_BASE, 32 entries.
    smmu.write32(0x50, 1); // IRQ_CTRL.GERROR_IRQEN.
    smmu.write32(0x20, 1 << 3); // CR0.CMDQEN.
    assert_eq!(machine.take_smmu_interrupts().expect("answer"), []);
    smmu.write32(0x98, 1); // CMDQ_PROD.
    assert_eq!(machine.take_smmu_interrupts().expect("answer"), [SmmuLine::GlobalError]);
    assert_eq!(smmu.read32(0x60) & 1, 1, "GERROR.CMDQ_ERR");
}

#[test]
fn reset_clears_the_smmu_and_keeps_the_ram() {
    if for_test("reset_clears_the_smmu_and_keeps_the_ram").is_none() {
        return;
    }
    let machine = Virt::new(SmmuStages::Newest).start().expect("board");
    let kept = page(&machine);
    machine.ram().store64(kept.phys, 0x1234);
    machine.iommu().write32(0x20, 1 << 3);
    assert_eq!(machine.iommu().read32(0x24), 1 << 3, "CR0ACK");
    machine.qemu().reset().expect("reset");
    assert_eq!(machine.iommu().read32(0x24), 0);
    assert_eq!(machine.ram().load64(kept.phys), 0x1234);
}

#[test]
fn machines_start_and_run_in_parallel() {
    if for_test("machines_start_and_run_in_parallel").is_none() {
        return;
    }
    let slot = BusId::ROOT.slot(2);
    let machines: Vec<_> = std::thread::scope(|scope| {
        let start = || Virt::new(SmmuStages::Newest).edu(slot).start().expect("board");
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().expect("start")).collect()
    });
    // The threads that started them have ended; the machines have not.
    for (number, machine) in machines.iter().enumerate() {
        let (from, to) = (page(machine), page(machine));
        machine.ram().write(from.phys, &[number as u8 + 1; 16]);
        let edu = machine.edu(slot).expect("edu");
        edu.read_memory(from.iova, 0, 16).expect("transfer");
        edu.write_memory(to.iova, 0, 16).expect("transfer");
        assert_eq!(machine.ram().read_vec(to.phys, 16), [number as u8 + 1; 16]);
    }
}

#[test]
fn a_child_has_exactly_its_own_files() {
    if for_test("a_child_has_exactly_its_own_files").is_none() {
        return;
    }
    let machines = [0, 1].map(|_| Virt::new(SmmuStages::Newest).start().expect("board"));
    let memory_files = |pid: u32| {
        let directory = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("own child");
        let targets = directory.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        targets.filter(|target| target.to_string_lossy().contains("portcullis-ram")).count()
    };
    // One inherited, at most one opened through /proc; never the other machine's.
    let inodes = |pid: u32| {
        let directory = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("own child");
        let mut inodes: Vec<_> = directory
            .filter_map(|fd| fd.ok())
            .filter(|fd| {
                std::fs::read_link(fd.path())
                    .is_ok_and(|target| target.to_string_lossy().contains("portcullis-ram"))
            })
            .filter_map(|fd| std::fs::metadata(fd.path()).ok())
            .map(|metadata| std::os::unix::fs::MetadataExt::ino(&metadata))
            .collect();
        inodes.sort_unstable();
        inodes.dedup();
        inodes
    };
    let [first, second] = machines.each_ref().map(|machine| machine.qemu().pid());
    assert!(memory_files(first) >= 1 && memory_files(second) >= 1);
    let (first, second) = (inodes(first), inodes(second));
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(first, second);
}

#[test]
fn a_refused_argument_is_reported_in_qemus_words() {
    let Some(qemu) = for_test("a_refused_argument_is_reported_in_qemus_words") else { return };
    let ram = Arc::new(Ram::new(PhysAddr::new(0x4000_0000), 64 << 20, 0).expect("RAM"));
    let launch = Launch::new(qemu, "virt", ram).args(["-device", "no-such-device"]);
    let error = launch.start().expect_err("no such device");
    assert!(matches!(error.kind(), ErrorKind::Closed { .. }), "{error}");
    assert!(error.stderr().is_some_and(|words| words.contains("no-such-device")), "{error}");
}

#[test]
fn a_dead_machine_reads_as_ones_and_says_why() {
    if for_test("a_dead_machine_reads_as_ones_and_says_why").is_none() {
        return;
    }
    let mut virt = Virt::new(SmmuStages::Newest);
    let machine = virt.bound(Duration::from_secs(10)).start().expect("board");
    let quit = machine.qemu().qmp().execute("quit", serde_json::json!({}));
    quit.expect("QEMU answers before it ends");
    let gone = || machine.qemu().check().is_err();
    let ended = (0..1_000_000).any(|_| {
        std::thread::yield_now();
        gone()
    });
    assert!(ended, "QEMU did not end");
    assert_eq!(machine.iommu().read32(0), u32::MAX);
    assert!(machine.qemu().read(Width::Quad, 0).is_err());
    let error = machine.qemu().check().expect_err("it is gone");
    assert!(matches!(error.kind(), ErrorKind::Lost { .. } | ErrorKind::Closed { .. }), "{error}");
}

/// Both RISC-V IOMMUs are 1.0 and off; a device behind one reaches nothing then (RISC-V IOMMU 1.0, 2.3, step 1).
#[test]
fn riscv_boards_have_their_iommu_off() {
    let test = "riscv_boards_have_their_iommu_off";
    if for_test_on(Architecture::Riscv64, test).is_none() {
        return;
    }
    let slot = BusId::ROOT.slot(2);
    for mut board in [Virt::riscv(), Virt::riscv_function(1)] {
        let machine = board.edu(slot).start().expect("board");
        let iommu = machine.iommu();
        assert_eq!((iommu.read32(0) & 0xff, iommu.len()), (0x10, 0x1000), "capabilities.version");
        assert_eq!(iommu.read64(0x10) & 0x1f, 0, "ddtp: off, not busy");
        let blob = machine.devicetree().expect("a devicetree");
        let named = |name: &[u8]| blob.windows(name.len()).any(|window| window == name);
        assert!(named(b"riscv,iommu\0") || named(b"riscv,pci-iommu\0"));
        let edu = machine.edu(slot).expect("edu");
        let page = page(&machine);
        machine.ram().write(page.phys, &[0xee; 64]);
        edu.write_memory(page.iova, 0, 64).expect("it ends");
        assert_eq!(machine.ram().read_vec(page.phys, 64), [0xee; 64]);
    }
}

/// The wire of the fault queue, and that of nothing else: a fault, with `fctl.WSI` set and the queue on (RISC-V IOMMU 1.0, 5.4, 5.16, 5.18).
#[test]
fn the_wires_of_a_riscv_iommu_are_seen() {
    if for_test_on(Architecture::Riscv64, "the_wires_of_a_riscv_iommu_are_seen").is_none() {
        return;
    }
    let slot = BusId::ROOT.slot(2);
    let machine = Virt::riscv().edu(slot).start().expect("board");
    machine.watch_iommu_interrupts().expect("an interrupt source");
    let (iommu, queue) = (machine.iommu(), page(&machine));
    iommu.write32(0x8, iommu.read32(0x8) | 2);
    iommu.write64(0x2f8, 0x3210);
    iommu.write64(0x28, queue.phys.raw() >> 12 << 10 | 6);
    iommu.write32(0x4c, 3);
    assert_eq!(iommu.read32(0x4c) >> 16 & 1, 1, "fqon");
    machine.edu(slot).expect("edu").write_memory(queue.iova, 0, 4).expect("it ends");
    assert_eq!(machine.take_iommu_wires().expect("wires"), [1]);
    iommu.write32(0x54, 2);
    assert!(machine.take_iommu_wires().expect("wires").is_empty());
}
