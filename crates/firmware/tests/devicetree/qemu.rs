//! The devicetree that QEMU writes for its own machine.

use crate::made::{device, translated};
use crate::say;
use crate::second::{Counts, compare};
use portcullis_firmware::{RequesterId, read_devicetree};
use std::path::Path;
use std::process::Command;

#[test]
fn the_virt_machine_has_its_smmu_in_front_of_pci() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("virt.dtb");
    let machine = format!("virt,iommu=smmuv3,dumpdtb={}", file.display());
    let args = ["-nodefaults", "-display", "none", "-machine", machine.as_str()];
    match Command::new("qemu-system-aarch64").args(args).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        Err(error) => {
            assert!(
                std::env::var_os("PORTCULLIS_REQUIRE_EXTERNAL").is_none_or(|it| it != "1"),
                "qemu-system-aarch64: {error}"
            );
            say(&format!("skipped: QEMU's devicetree is not read, qemu-system-aarch64: {error}"));
            return;
        }
    }
    let blob = std::fs::read(&file).expect("QEMU wrote it");
    let machine = read_devicetree(&blob, "virt").expect("well-formed");
    compare("virt", &blob, &machine, &mut Counts::default());
    let smmu = &machine.iommus[0];
    assert_eq!((smmu.kind, smmu.coherent), (portcullis_firmware::IommuKind::SmmuV3, true));
    assert_eq!(smmu.registers.map(|it| (it.start().raw(), it.len())), Some((0x905_0000, 0x2_0000)));
    let bridge = device(&machine, "/pcie@10000000");
    assert_eq!(translated(bridge), Some(vec![0]));
    let bus = bridge.bus.as_ref().expect("a bus");
    let stream = bus.stream(RequesterId::pci(1, 2, 3)).expect("all are covered").1;
    assert_eq!(stream.id.raw(), 0x113);
    assert!(machine.findings.is_empty(), "{:?}", machine.findings);
}
