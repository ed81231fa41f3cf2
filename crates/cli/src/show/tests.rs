//! `show` on the built-in board and on a broken one.

use super::{render_human, to_json};
use portcullis_firmware::{MachineDescription, read_devicetree};
use serde_json::{Value, json};

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
        json!({"path": "/soc/iommu@2b400000", "compatible": ["arm,smmu-v3"], "enabled": true, "driver": "smmuv3", "cells": 1})
    );
    assert_eq!(entry(&document["iommus"], "/soc/iommu@2ba00000")["driver"], Value::Null);
    assert_eq!(entry(&document["iommus"], "/soc/iommu@2b800000")["enabled"], false);
    assert_eq!(
        *entry(&document["devices"], "/soc/npu@12000000"),
        json!({"path": "/soc/npu@12000000", "enabled": true, "maps": [], "streams": [
            {"iommu": "/soc/iommu@2b400000", "id": 0x60, "mask": 0},
            {"iommu": "/soc/iommu@2b600000", "id": 8, "mask": 0}]})
    );
    assert_eq!(
        entry(&document["devices"], "/soc/pcie@40000000")["maps"],
        json!([{"rid_base": 0, "iommu": "/soc/iommu@2b400000", "id_base": 0x1000, "length": 0x1000}])
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
    let page = render_human(&default_board(), 200, false);
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
    let page = render_human(&machine, 200, false);
    let error = page.find("error    /x [iommus-length]").expect("the error");
    assert!(error > page.find("/soc/pcie@40000000").expect("the table"));
    assert!(error < page.find("note ").expect("the notes"));
    assert!(page.contains("1 error, 1 warning"));
}

#[test]
fn narrow_pages_keep_within_their_width() {
    for width in [60, 130, 150] {
        let page = render_human(&default_board(), width, false);
        for line in page.lines().filter(|line| line.split_whitespace().count() > 3) {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
        // Too narrow for columns, and wide enough.
        assert_eq!(page.contains("/soc/ethernet@10050000\n  IOMMU:"), width == 60);
    }
}

#[test]
fn colour_is_only_painted_on_request() {
    assert!(!render_human(&default_board(), 100, false).contains('\x1b'));
    assert!(render_human(&default_board(), 100, true).contains("\x1b[36mnote   \x1b[0m"));
}
