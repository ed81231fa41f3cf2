//! `show` on the built-in board and on a broken one.

use super::{View, render_human, to_json};
use crate::screen::Screen;
use portcullis_firmware::{MachineDescription, read_devicetree};
use serde_json::{Value, json};

const TREE: View = View { tree: true, direct: false };

fn default_board() -> MachineDescription {
    let blob = include_bytes!("../../../../boards/portcullis-default.dtb");
    read_devicetree(blob, "portcullis-default").expect("the built-in board")
}

fn document() -> Value {
    serde_json::from_str(&to_json(&default_board())).expect("valid JSON")
}

fn entry<'a>(list: &'a Value, path: &str) -> &'a Value {
    let list = list.as_array().expect("a list");
    list.iter().find(|entry| entry["path"] == path).unwrap_or_else(|| panic!("no {path}"))
}

#[test]
fn json_has_the_documented_fields() {
    let document = document();
    assert_eq!(document["board"], "portcullis-default");
    assert_eq!(document["model"], "Portcullis default board");
    assert_eq!(
        *entry(&document["iommus"], "/soc/iommu@2b400000"),
        json!({"path": "/soc/iommu@2b400000", "compatible": ["arm,smmu-v3"], "kind": "smmuv3", "enabled": true, "driver": "smmuv3", "cells": 1,
            "registers": {"first": 0x2b40_0000, "last": 0x2b41_ffff}, "coherent": true, "quirks": [], "unusable": null})
    );
    assert_eq!(entry(&document["iommus"], "/soc/iommu@2ba00000")["driver"], Value::Null);
    assert_eq!(entry(&document["iommus"], "/soc/iommu@2b800000")["enabled"], false);
    let npu = entry(&document["devices"], "/soc/npu@12000000");
    assert_eq!(
        (&npu["enabled"], &npu["maps"], &npu["dma"]),
        (&json!(true), &json!([]), &json!("translated"))
    );
    assert_eq!(
        npu["streams"],
        json!([{"iommu": "/soc/iommu@2b400000", "id": 0x60, "mask": 0},
            {"iommu": "/soc/iommu@2b600000", "id": 8, "mask": 0}])
    );
    let bridge = entry(&document["devices"], "/soc/pcie@40000000");
    assert_eq!(
        bridge["maps"],
        json!([{"rid_base": 0, "iommu": "/soc/iommu@2b400000", "id_base": 0x1000, "length": 0x1000, "mask": 0, "constant": false}])
    );
    assert_eq!(bridge["functions"].as_array().map(Vec::len), Some(4));
    let display = entry(&document["devices"], "/soc/display@10090000");
    assert_eq!(
        display["reserved"],
        json!([{"first": 0xb000_0000u32, "last": 0xb07f_ffffu32, "kind": "direct"}])
    );
    let finding = entry(&document["findings"], "/soc/can@13010000");
    assert_eq!(
        (&finding["severity"], &finding["rule"]),
        (&json!("warning"), &json!("iommu-disabled"))
    );
    assert!(finding["message"].as_str().is_some_and(|text| text.contains("`iommus`")));
}

fn line<'a>(page: &'a str, start: &str) -> &'a str {
    page.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start}"))
}

#[test]
fn page_says_what_becomes_of_each_device() {
    let page = render_human(&default_board(), Screen::plain(200), View::default());
    assert!(line(&page, "/soc/usb@10000000").ends_with("translated"));
    assert!(line(&page, "/soc/usb@10110000").ends_with("  device disabled"));
    assert!(line(&page, "/soc/can@13010000").ends_with("direct      IOMMU disabled"));
    assert!(line(&page, "/soc/dma-controller@13000000").ends_with("direct      no IOMMU"));
    assert!(line(&page, "/soc/trace@13020000").ends_with("blocked     no driver"));
    assert!(line(&page, "/soc/ethernet@10050000").contains(" 0x10-0x13 "));
    assert!(line(&page, "/soc/npu@12000000").contains("0x60@2b400000 0x8@2b600000"));
    assert!(
        line(&page, "/soc/audio@").contains("#1") && line(&page, "/soc/hdmi-audio@").contains("#1")
    );
    assert!(line(&page, "/soc/display@").contains("0xb0000000-0xb07fffff mapped 1:1"));
    assert!(line(&page, "/soc/pcie@").contains("rid:0x0-0xfff>0x1000"));
}

/// `mmu500`'s display has a region behind an SMMUv2; the built-in board's is behind an SMMUv3, whose driver adopts nothing.
#[test]
fn page_says_whom_firmware_may_have_left_running() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../boards/mmu500.dtb");
    let board = crate::board::read(Some(path.as_ref()), &[], None).expect("our own board");
    let page = render_human(&board, Screen::plain(160), View::default());
    let told = line(&page, "Firmware may have left running");
    assert!(told.contains(": /soc/display@ae00000. ") && page.contains("--firmware-streams"));
    assert!(
        !render_human(&default_board(), Screen::plain(400), View::default())
            .contains("left running")
    );
    let json: serde_json::Value = serde_json::from_str(&to_json(&board)).expect("JSON");
    let devices = json["devices"].as_array().expect("a list").iter();
    let may: Vec<_> = devices.filter(|it| it["may_run"] == true).map(|it| &it["path"]).collect();
    assert_eq!(may, ["/soc/display@ae00000"]);
}

#[test]
fn findings_stand_below_worst_first() {
    let mut machine = default_board();
    machine.findings.insert(
        0,
        portcullis_firmware::Finding {
            severity: portcullis_firmware::Severity::Error,
            path: "/x".into(),
            rule: portcullis_firmware::rule::IOMMUS_LENGTH,
            message: "`iommus` has 3 bytes".into(),
        },
    );
    let page = render_human(&machine, Screen::plain(200), View::default());
    let error = page.find("error    /x [iommus-length]").expect("the error");
    assert!(error > page.find("/soc/pcie@40000000").expect("the table"));
    assert!(error < page.find("note ").expect("the notes"));
    assert!(page.contains("1 error, 1 warning"));
}

#[test]
fn narrow_pages_keep_within_their_width() {
    for width in [60, 130, 150] {
        let page = render_human(&default_board(), Screen::plain(width), View::default());
        let breakable =
            |line: &&str| line.split_whitespace().count() > 3 && !line.contains("portcullis lab");
        for line in page.lines().filter(breakable) {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
        // Too narrow for columns, and wide enough.
        assert_eq!(page.contains("/soc/ethernet@10050000\n    IOMMU iommu@"), width == 60);
    }
}

#[test]
fn colour_is_only_painted_on_request() {
    assert!(!render_human(&default_board(), Screen::plain(100), View::default()).contains('\x1b'));
    assert!(
        render_human(&default_board(), Screen::plain(100).colored(), View::default())
            .contains("\x1b[36mnote   \x1b[0m")
    );
}

/// A machine whose names try to break out of the page.
#[test]
fn the_html_page_escapes_what_the_description_says_and_stands_alone() {
    let mut machine = default_board();
    machine.model = "<script>alert(1)</script>".into();
    machine.devices[0].description.path = "/soc/<b>\"&'".into();
    let page = super::render_html(&machine);
    assert!(!page.contains("<script>") && !page.contains("<b>"));
    assert!(
        page.contains("&lt;script&gt;alert(1)") && page.contains("/soc/&lt;b&gt;&quot;&amp;&#39;")
    );
    // One drawing for each IOMMU with clients, one for what is behind none; in each a picture of its name and of each device. Nothing is loaded from elsewhere.
    assert_eq!(page.matches("role=\"img\"").count(), 5);
    assert!(page.matches("<svg ").count() > 5 + 20);
    assert!(!page.contains("http") && !page.contains("src="));
    for word in ["prefers-color-scheme: dark", "@media print", "iommu-disabled", "0x10-0x13"] {
        assert!(page.contains(word), "{word}");
    }
}

#[test]
fn the_tree_puts_each_device_below_its_iommu_and_functions_below_their_bus() {
    let page = render_human(&default_board(), Screen::plain(100), TREE);
    let lines: Vec<_> = page.lines().collect();
    let at = |text: &str| lines.iter().position(|line| line.contains(text)).expect("a line");
    assert!(at("/soc/iommu@2b400000 (smmuv3)") < at("/soc/usb@10000000  0x"));
    assert!(at("/soc/usb@10000000  0x") < at("/soc/iommu@2b800000"));
    assert!(lines[at("/soc/can@13010000")].contains("direct: IOMMU disabled"));
    let bridge = at("/soc/pcie@40000000");
    assert!(
        lines[bridge + 1].trim_start_matches(['│', ' ']).starts_with("├─ 00:"),
        "{}",
        lines[bridge + 1]
    );
    // The client of two IOMMUs stands below both.
    let tree = page.split("Findings").next().expect("the tree");
    assert_eq!(tree.matches("/soc/npu@12000000").count(), 2);
    assert!(at("behind no IOMMU") < at("/soc/dma-controller@13000000"));
}

#[test]
fn a_disabled_device_of_the_tree_has_its_reason_and_no_verdict_with_colour_too() {
    let blob = include_bytes!("../../../../boards/broken.dtb");
    let mut machine = read_devicetree(blob, "broken").expect("our board");
    machine.devices[0].enabled = false;
    for screen in [Screen::plain(100), Screen::plain(100).colored()] {
        let page = render_human(&machine, screen, TREE);
        assert!(page.contains("  device disabled\n") && !page.contains(": device"), "{page:?}");
    }
}

/// What goes on in a further line stands beside the line that leads down, so that a tree is still seen.
#[test]
fn a_long_line_of_the_tree_is_broken_behind_its_branch() {
    let page = render_human(&default_board(), Screen::plain(36), TREE);
    let tree = page.split("Findings").next().expect("the tree");
    assert!(tree.lines().skip(3).all(|line| line.chars().count() <= 36), "{tree}");
    assert!(tree.contains("├─ /soc/dma-controller@10070000\n│      0x20 translated\n"), "{tree}");
}

#[test]
fn what_is_behind_no_iommu_is_listed_on_request() {
    let mut machine = default_board();
    let direct = View { direct: true, ..View::default() };
    assert!(render_human(&machine, Screen::plain(100), direct).contains("no device that looks"));
    let because = "a PCI host bridge";
    machine.direct.push(portcullis_firmware::DirectDevice { path: "/pcie@1".into(), because });
    let page = render_human(&machine, Screen::plain(100), direct);
    assert!(line(&page, "/pcie@1").ends_with(because), "{page}");
    assert!(!render_human(&machine, Screen::plain(100), View::default()).contains("/pcie@1"));
    let document: Value = serde_json::from_str(&to_json(&machine)).expect("valid JSON");
    assert_eq!(document["direct"], json!([{"path": "/pcie@1", "because": because}]));
}

#[test]
fn a_bus_whose_functions_differ_is_mixed_and_its_mask_is_printed() {
    let blob = include_bytes!("../../../../boards/pci-topology.dtb");
    let machine = read_devicetree(blob, "pci").expect("our board");
    let page = render_human(&machine, Screen::plain(300), View::default());
    let bus = line(&page, "/soc/pcie@40000000");
    assert!(bus.contains("mixed") && bus.contains("1 blocked, 4 translated"), "{bus}");
    assert!(line(&page, "/soc/pcie@60000000").contains("rid&0xfff8"));
}

#[test]
fn rules_are_listed_with_what_linux_does() {
    let text = super::render_rules(Screen::plain(80));
    for rule in portcullis_firmware::rule::ALL {
        assert!(text.contains(&format!(
            "{} {}",
            format_args!("{:<7}", rule.severity.to_string()),
            rule.id
        )));
    }
    let json: Value = serde_json::from_str(&super::rules_to_json()).expect("valid JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(portcullis_firmware::rule::ALL.len()));
}

#[test]
fn the_gate_moves_findings_by_rule_before_severity() {
    let gate = |deny: &[&str], allow: &[&str]| {
        let own = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        super::Gate::new(&own(deny), &own(allow))
    };
    let fails = |deny: &[&str], allow: &[&str]| {
        let mut machine = default_board();
        gate(deny, allow).expect("known rules").apply(&mut machine);
        super::Gate::fails(&machine)
    };
    assert!(!fails(&[], &[]));
    assert!(fails(&["iommu-disabled"], &[]) && fails(&["warnings"], &[]));
    assert!(!fails(&["warnings"], &["iommu-disabled"]));
    assert!(fails(&["notes"], &["warnings"]));
    assert!(gate(&["no-such-rule"], &[]).is_err_and(|error| error.contains("no-such-rule")));
}
