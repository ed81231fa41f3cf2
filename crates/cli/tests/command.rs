//! The command as a shell sees it: exit status, JSON field by field, colour, closed pipes.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn portcullis(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments).env_remove("COLUMNS");
    command
}

fn run(arguments: &[&str]) -> Output {
    portcullis(arguments).output().expect("the command starts")
}

fn board(name: &str) -> String {
    let boards = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../boards");
    boards.join(name).to_str().expect("a plain path").to_string()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn json(arguments: &[&str]) -> Value {
    let output = run(arguments);
    serde_json::from_slice(&output.stdout).expect("one JSON document and nothing else")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

/// Checks that every documented field is there; more are permitted.
fn has(value: &Value, fields: &[&str]) {
    let object = value.as_object().expect("an object");
    let there: BTreeSet<&str> = object.keys().map(String::as_str).collect();
    let missing: Vec<_> = fields.iter().filter(|field| !there.contains(**field)).collect();
    assert!(missing.is_empty(), "{missing:?} not in {there:?}");
}

fn one_of(value: &Value, words: &[&str]) {
    assert!(value.as_str().is_some_and(|word| words.contains(&word)), "{value} not in {words:?}");
}

#[test]
fn what_cannot_be_used_is_status_2_with_a_message_that_names_it() {
    for arguments in [
        &["boot", "/nonexistent/board.dtb"][..],
        &["show", "/nonexistent/board.dtb"],
        &["show", env!("CARGO_MANIFEST_DIR")],
        &["show", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")],
        &["boot", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(arguments[1]), "{}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_wrong_command_line_is_status_2() {
    for arguments in [
        &["--no-such-option"][..],
        &["show"],
        &["boot", "--cpus", "0"],
        &["boot", "--order", "sideways"],
        &["boot", "--repeat", "0"],
        &["boot", "--on", "qemu", "--repeat", "2"],
        &["bench"],
        &["bench", "probe", "--rounds", "0"],
        &["bench", "probe", "--clients", "0"],
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_sound_board_is_status_0_and_an_error_that_stands_is_status_1() {
    assert_eq!(run(&["show", &board("portcullis-default.dtb")]).status.code(), Some(0));
    let broken = run(&["show", &board("broken.dtb")]);
    assert_eq!(broken.status.code(), Some(1), "{}", text(&broken.stdout));
    assert_eq!(run(&["--cpus", "2"]).status.code(), Some(0), "boot is what runs without a verb");
}

#[test]
fn show_prints_the_documented_fields() {
    for name in ["portcullis-default.dtb", "pci-topology.dtb", "broken.dtb"] {
        let shown = json(&["show", &board(name), "--json"]);
        has(&shown, &["board", "model", "iommus", "devices", "findings"]);
        for iommu in list(&shown["iommus"]) {
            has(iommu, &["path", "compatible", "enabled", "driver", "cells"]);
            assert!(!list(&iommu["compatible"]).is_empty() && iommu["enabled"].is_boolean());
            assert!(iommu["driver"].is_null() || iommu["driver"].is_string());
        }
        for device in list(&shown["devices"]) {
            has(device, &["path", "enabled", "streams", "maps"]);
            list(&device["streams"]).iter().for_each(|it| has(it, &["iommu", "id", "mask"]));
            let map = ["rid_base", "iommu", "id_base", "length"];
            list(&device["maps"]).iter().for_each(|it| has(it, &map));
        }
        for finding in list(&shown["findings"]) {
            has(finding, &["severity", "path", "rule", "message"]);
            one_of(&finding["severity"], &["error", "warning", "note"]);
        }
    }
    let broken = json(&["show", &board("broken.dtb"), "--json"]);
    assert!(!list(&broken["findings"]).is_empty());
    let pci = json(&["show", &board("pci-topology.dtb"), "--json"]);
    assert!(list(&pci["devices"]).iter().any(|device| !list(&device["maps"]).is_empty()));
}

#[test]
fn boot_prints_the_documented_fields() {
    let booted = json(&["boot", "--json", "--seed", "5", "--cpus", "2", "--order", "reverse"]);
    let fields = ["board", "cpus", "seed", "iommus", "devices", "promises", "elapsed_us"];
    has(&booted, &fields);
    assert_eq!((&booted["cpus"], &booted["seed"]), (&2.into(), &5.into()));
    assert!(booted["elapsed_us"].as_u64().is_some_and(|elapsed| elapsed > 0));
    for iommu in list(&booted["iommus"]) {
        has(iommu, &["path", "driver", "state"]);
        one_of(&iommu["state"], &["registered", "failed", "no-driver", "disabled"]);
    }
    for device in list(&booted["devices"]) {
        let fields = ["path", "iommu", "group", "domain", "dma", "state", "reason", "probes"];
        has(device, &fields);
        has(device, &["defers", "dma_check"]);
        one_of(&device["dma"], &["translated", "direct", "blocked"]);
        one_of(&device["state"], &["bound", "blocked", "deferred"]);
        assert!(device["probes"].is_u64() && device["defers"].is_u64());
        if !device["domain"].is_null() {
            one_of(&device["domain"], &["dma", "identity", "blocked"]);
        }
        if !device["dma_check"].is_null() {
            one_of(&device["dma_check"], &["ok", "failed"]);
        }
        assert_eq!(device["state"] == "bound", device["reason"].is_null(), "{device}");
    }
    let promises = list(&booted["promises"]);
    assert!(promises.len() >= 5 && promises[0]["id"] == "P1");
    for promise in promises {
        has(promise, &["id", "held", "checked"]);
        assert!(promise["held"] == true && promise["checked"].is_u64(), "{promise}");
    }
}

#[test]
fn same_options_same_picture() {
    let picture = || {
        let mut booted = json(&["boot", "--json", "--seed", "9", "--cpus", "2"]);
        for device in booted["devices"].as_array_mut().expect("a list") {
            // How often a device was put off depends on the threads' luck.
            let device = device.as_object_mut().expect("an object");
            device.retain(|field, _| !["probes", "defers"].contains(&field.as_str()));
        }
        booted["devices"].take()
    };
    assert_eq!(picture(), picture());
}

#[test]
fn many_boots_are_summarised() {
    let summary = json(&["boot", "--repeat", "20", "--json"]);
    has(&summary, &["boots", "races", "promises"]);
    assert_eq!(summary["boots"], 20);
    list(&summary["races"]).iter().for_each(|race| has(race, &["kind", "times"]));
    let human = run(&["boot", "--repeat", "20"]);
    assert!(text(&human.stdout).contains("client"), "{}", text(&human.stdout));
    assert!(human.stderr.is_empty(), "no progress bar where no terminal is");
}

#[test]
fn nothing_is_coloured_that_is_not_watched() {
    for arguments in [&["boot"][..], &["show", &board("broken.dtb")], &["lab", "list"]] {
        let output = portcullis(arguments).env("NO_COLOR", "1").output().expect("starts");
        assert!(!output.stdout.contains(&0x1b), "{arguments:?}");
        assert!(!run(arguments).stdout.contains(&0x1b), "{arguments:?}: a pipe is no terminal");
    }
}

#[test]
fn a_reader_who_has_gone_is_no_error() {
    for arguments in [
        &["show", &board("portcullis-default.dtb")][..],
        &["boot"],
        &["completions", "bash"],
        &["man"],
    ] {
        let mut child = portcullis(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("ends");
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {complaint}");
        assert!(complaint.is_empty(), "{arguments:?}: {complaint}");
    }
}

#[test]
fn any_width_of_the_terminal_will_do() {
    for columns in ["0", "1", "7", "40", "100000", "-3", "wide"] {
        let arguments = ["show", &board("portcullis-default.dtb")];
        let output = portcullis(&arguments).env("COLUMNS", columns).output().expect("starts");
        assert_eq!(output.status.code(), Some(0), "{columns}: {}", text(&output.stderr));
    }
}

#[test]
fn help_has_examples_and_the_manual_and_completions_name_the_verbs() {
    assert!(text(&run(&["--help"]).stdout).contains("Examples:"));
    for arguments in [&["man"][..], &["completions", "bash"], &["completions", "zsh"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0));
        for verb in ["boot", "show", "lab", "bench"] {
            assert!(text(&output.stdout).contains(verb), "{arguments:?} lacks {verb}");
        }
    }
}
