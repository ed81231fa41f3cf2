//! Overlays applied on top of a base, compared with what `fdtoverlay` makes of the same files.

use crate::made::{Dt, client, device, dt, root, smmu, translated};
use portcullis_firmware::MachineDescription;
use portcullis_firmware::devicetree::{FlatTree, OverlayError, OwnedNode, lower};
use std::path::Path;
use std::process::Command;

fn base() -> Dt {
    let soc = dt("soc").cells("phandle", &[2]).with(client("usb@1", &[1, 5]));
    let symbols = dt("__symbols__").text("wall", "/iommu@100000").text("soc", "/soc");
    root().with(smmu(1)).with(soc).with(symbols)
}

/// An overlay with an IOMMU of its own (phandle 1, as the base's) and two devices, one behind each.
fn overlay() -> Dt {
    let own = smmu(1);
    let first = client("camera@2", &[u32::MAX, 0x20]);
    let second = client("video@3", &[1, 0x30]);
    let usb = dt("usb@1").text("status", "disabled");
    let changes = dt("__overlay__").with(own).with(first).with(second).with(usb);
    let fixups = dt("__fixups__")
        .text("wall", "/fragment@0/__overlay__/camera@2:iommus:0")
        .text("soc", "/fragment@0:target:0");
    let video = dt("video@3").cells("iommus", &[0]);
    let local = dt("__local_fixups__").with(dt("fragment@0").with(dt("__overlay__").with(video)));
    let fragment = dt("fragment@0").cells("target", &[u32::MAX]).with(changes);
    dt("").with(fragment).with(fixups).with(local)
}

fn applied(base: &[u8], overlay: &[u8]) -> Result<MachineDescription, OverlayError> {
    let tree = |blob| FlatTree::new(blob).and_then(|flat: FlatTree<'_>| flat.tree());
    let mut nodes = OwnedNode::of(&tree(base).expect("a base"));
    nodes.apply(&tree(overlay).expect("an overlay"))?;
    Ok(lower(&nodes.tree().expect("a tree"), &[], "applied"))
}

fn error(overlay: Dt) -> OverlayError {
    applied(&base().lax_blob(), &overlay.lax_blob()).expect_err("it does not fit")
}

#[test]
fn references_to_both_trees_lead_where_they_are_meant_to() {
    let machine = applied(&base().lax_blob(), &overlay().lax_blob()).expect("it fits");
    let behind = |path| {
        let device = device(&machine, path);
        (machine.iommu_path(device.streams[0].iommu), translated(device))
    };
    assert_eq!(behind("/soc/camera@2"), ("/iommu@100000", Some(vec![0x20])));
    assert_eq!(behind("/soc/video@3").0, "/soc/iommu@100000");
    assert!(!device(&machine, "/soc/usb@1").enabled);
}

#[test]
fn what_does_not_fit_is_said() {
    let fragment = |target: Dt| dt("").with(target.with(dt("__overlay__")));
    let cases = [
        (dt("").with(dt("fragment@0")), OverlayError::NoFragments),
        (
            fragment(dt("fragment@1").text("target-path", "/nowhere")),
            OverlayError::Target { fragment: "fragment@1".into() },
        ),
        (fragment(dt("fragment@1")), OverlayError::Target { fragment: "fragment@1".into() }),
        (
            overlay().without_child("__fixups__").with(dt("__fixups__").text("gone", "/x:y:0")),
            OverlayError::Label { label: "gone".into() },
        ),
        (
            overlay().without_child("__fixups__").with(dt("__fixups__").text("wall", "/x:y:99")),
            OverlayError::Fixup { at: "/x:y:99".into() },
        ),
        (
            overlay()
                .without_child("__local_fixups__")
                .with(dt("__local_fixups__").with(dt("nothing").cells("p", &[0]))),
            OverlayError::Fixup { at: "/nothing".into() },
        ),
    ];
    for (tree, expected) in cases {
        assert_eq!(error(tree), expected);
    }
}

#[test]
fn fdtoverlay_makes_the_same_of_it() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("overlays");
    std::fs::create_dir_all(&folder).expect("a folder");
    let boards = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../boards");
    let read = |name: &str| std::fs::read(boards.join(name)).expect("our board");
    let cases = [
        (base().lax_blob(), overlay().lax_blob()),
        (read("reports.dtb"), read("overlays/camera.dtbo")),
    ];
    for (base, overlay) in cases {
        for (name, blob) in [("base", &base), ("overlay", &overlay)] {
            std::fs::write(folder.join(name), blob).expect("written");
        }
        let mut command = Command::new("fdtoverlay");
        let run =
            command.current_dir(&folder).args(["-i", "base", "-o", "out", "overlay"]).output();
        let Ok(run) = run else {
            let required =
                std::env::var_os("PORTCULLIS_REQUIRE_EXTERNAL").is_some_and(|it| it == "1");
            assert!(!required, "fdtoverlay is missing");
            crate::say("SKIP: overlays are not compared with fdtoverlay's, there is none");
            return;
        };
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let theirs = std::fs::read(folder.join("out")).expect("fdtoverlay's");
        let theirs = portcullis_firmware::read_devicetree(&theirs, "applied").expect("a tree");
        let ours = applied(&base, &overlay).expect("it fits");
        // It adds children in front, and we behind: nodes are numbered otherwise.
        let plain = |machine: &MachineDescription| {
            let paths: Vec<_> =
                machine.iommus.iter().map(|iommu| (iommu.node, iommu.path.clone())).collect();
            let path = |node| paths.iter().find(|(known, _)| *known == node).map(|it| it.1.clone());
            let mut devices: Vec<_> = machine
                .devices
                .iter()
                .map(|device| {
                    let streams = device.streams.iter();
                    let streams: Vec<_> = streams.map(|it| (path(it.iommu), it.id)).collect();
                    (device.description.path.clone(), device.enabled, streams)
                })
                .collect();
            devices.sort();
            devices
        };
        assert_eq!(plain(&ours), plain(&theirs));
    }
}
