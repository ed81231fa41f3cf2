//! The command as a shell sees it: exit status, JSON field by field, colour, closed pipes.

use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
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
    for (file, said) in [("/dev/null", "it is empty"), ("/dev/zero", "more than 64 MiB")] {
        let refused = run(&["show", file]);
        assert_eq!(refused.status.code(), Some(2), "{file}");
        assert!(text(&refused.stderr).contains(said), "{}", text(&refused.stderr));
    }
}

/// What was named is told by what it is, with what to do.
#[test]
fn a_file_that_is_no_board_is_told_by_what_it_is() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no-boards");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("board.dtb");
    for (bytes, said) in [
        (&b"(\xb5/\xfd0123456789"[..], "packed by zstd; unpack it"),
        (b"\xfd7zXZ\x00123456789", "packed by xz; unpack it"),
        (b"BZh91AY&SY", "packed by bzip2; unpack it"),
        (
            b"just words, many enough for a header of forty bytes",
            "a board is a .dtb file or ACPI tables",
        ),
        (b"/dts-v1/;\n/ { };\n", "dtc -@ -I dts"),
        (b"\xd0\x0d\xfe\xed", "4 bytes, the header alone has 40"),
        (b"\x1f\x8b\x08\0\0", "packed by gzip and damaged"),
    ] {
        std::fs::write(&file, bytes).expect("written");
        let refused = run(&["show", file.to_str().expect("plain")]);
        assert_eq!(refused.status.code(), Some(2));
        let lines: Vec<_> = text(&refused.stderr).lines().collect();
        assert!(lines.len() == 1 && lines[0].contains(said), "{said}: {lines:?}");
    }
    std::fs::remove_dir_all(folder).expect("removed");
}

/// An option that would be ignored is refused, with what it needs.
#[test]
fn options_for_one_platform_are_refused_on_the_other() {
    for (arguments, said) in [
        (&["boot", "--machine", "q35-vtd"][..], "--machine is for QEMU's boards: add --on qemu"),
        (&["boot", "--save-tables", "x"], "--save-tables is for QEMU's boards: add --on qemu"),
        (&["boot", "--on", "qemu", "--firmware-streams", "adopt"], "leave --firmware-streams out"),
        (&["boot", "--on", "qemu", "--repeat", "2"], "leave --repeat out"),
        (&["boot", "x.dtb", "--on", "qemu"], "leave BOARD out"),
    ] {
        let refused = run(arguments);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        assert!(text(&refused.stderr).contains(said), "{}", text(&refused.stderr));
    }
}

#[test]
fn a_kernel_that_is_not_there_is_named() {
    let refused = run(&["replay", "--schedule", "seed", "--layout", "--kernel", "no-such.deb"]);
    assert!(!refused.status.success());
    let refused = run(&["replay", "--layout", "--kernel", "/nonexistent/Image"]);
    let said = text(&refused.stderr);
    assert!(
        refused.status.code() == Some(2) && said.contains("/nonexistent/Image: No such"),
        "{said}"
    );
}

#[test]
fn a_directory_that_is_no_board_is_refused_as_one_with_what_to_name() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no-board");
    // A file below it that cannot be read must not be what is complained about.
    std::fs::create_dir_all(folder.join("big")).expect("a folder");
    let big = std::fs::File::create(folder.join("big/file")).expect("a file");
    big.set_len(17 << 20).expect("a file with a hole");
    let path = folder.to_str().expect("a plain path");
    let refused = run(&["show", path]);
    assert_eq!(refused.status.code(), Some(2));
    let said = text(&refused.stderr);
    assert!(said.contains(&format!("{path}: it is a directory")), "{said}");
    assert!(!said.contains("big") && said.contains("/proc/device-tree"), "{said}");
    std::fs::write(folder.join("b.dtb"), b"").expect("written");
    std::fs::write(folder.join("a.dtb"), b"").expect("written");
    let said = run(&["show", path]).stderr;
    assert!(text(&said).contains(&format!("such as {path}/a.dtb")), "{}", text(&said));
    std::fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn the_version_names_the_command() {
    let said = run(&["--version"]);
    assert_eq!(text(&said.stdout).trim(), concat!("portcullis ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_mistyped_verb_gets_the_one_that_was_meant() {
    let refused = run(&["shwo", "board.dtb"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("'show'"), "{}", text(&refused.stderr));
}

#[test]
fn a_wrong_command_line_is_status_2() {
    for arguments in [
        &["--no-such-option"][..],
        &["show"],
        &["show", "--rules", "board.dtb"],
        &["show", "board.dtb", "--deny", "no-such-rule"],
        &["boot", "--cpus", "0"],
        &["boot", "--order", "sideways"],
        &["boot", "--repeat", "0"],
        &["boot", "--on", "qemu", "--repeat", "2"],
        &["bench"],
        &["bench", "probe", "--rounds", "0"],
        &["bench", "map", "--calls", "0"],
        &["bench", "probe", "--clients", "0"],
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn each_benchmark_measures_its_rows_and_says_how_busy_the_machine_was() {
    for (what, rows) in [
        ("map", &["A 4 KiB", "F 512 pages", "H 256 pages", "alternate pages", "peers in"][..]),
        ("iova", &["slabs", "the tree in a lock", "two threads"]),
        ("dma", &["    1 ", "  512 ", "two threads"]),
        ("queue", &["    1 ", "  512 ", "two threads"]),
    ] {
        let output = run(&["bench", what, "--rounds", "1", "--calls", "64"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let shown = text(&output.stdout);
        for row in rows.iter().chain(&["load: "]) {
            assert!(shown.contains(row), "{what} without {row}:\n{shown}");
        }
        assert!(!shown.contains("NaN") && !shown.contains("inf"), "{shown}");
    }
}

/// Rows are shown as they are measured, and Ctrl-C keeps those that are.
#[test]
fn a_benchmark_that_is_interrupted_keeps_its_rows() {
    let mut child = portcullis(&["bench", "queue", "--rounds", "100", "--calls", "20000"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut shown = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut page = String::new();
    // The headings come before anything is measured.
    while !page.contains("with ranges") {
        assert_ne!(shown.read_line(&mut page).expect("UTF-8"), 0, "{page}");
    }
    crate::interrupt(&child);
    shown.read_to_string(&mut page).expect("UTF-8");
    assert!(child.wait().expect("ends").success());
    assert!(page.contains("interrupted: the rows above are whole"), "{page}");
    assert!(!page.contains("load: "), "{page}");
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
    for name in ["portcullis-default.dtb", "pci-topology.dtb", "broken.dtb", "reports.dtb"] {
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
fn deny_and_allow_decide_the_status_of_show_and_boot() {
    let (default, broken) = (board("portcullis-default.dtb"), board("broken.dtb"));
    let status = |arguments: &[&str]| run(arguments).status.code();
    assert_eq!(status(&["show", &default, "--deny", "warnings"]), Some(1));
    assert_eq!(
        status(&["show", &default, "--deny", "warnings", "--allow", "iommu-disabled"]),
        Some(0)
    );
    assert_eq!(status(&["show", &broken, "--allow", "errors"]), Some(0));
    assert_eq!(status(&["boot", &default, "--deny", "iommu-disabled"]), Some(1));
    // `boot` fails on what `show` fails on, although every promise holds.
    assert_eq!(status(&["boot", &broken]), Some(1));
    assert_eq!(status(&["boot", &broken, "--allow", "errors"]), Some(0));
    let rules = run(&["show", "--rules"]);
    assert!(rules.status.success() && text(&rules.stdout).contains("iommu-disabled"));
}

/// The same board in every form gives the same document.
#[test]
fn a_board_is_read_in_every_form() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("forms");
    let path = |name: &str| folder.join(name).to_str().expect("a plain path").to_string();
    std::fs::create_dir_all(&folder).expect("a folder");
    let blob = std::fs::read(board("reports.dtb")).expect("the board");
    let plain = json(&["show", &board("reports.dtb"), "--json"]);

    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&blob).expect("packed");
    std::fs::write(path("reports.dtb.gz"), packed.finish().expect("packed")).expect("written");
    assert_eq!(json(&["show", &path("reports.dtb.gz"), "--json"]), plain);

    let mut child = portcullis(&["show", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    child.stdin.take().expect("a pipe").write_all(&blob).expect("sent");
    let output = child.wait_with_output().expect("it ends");
    let mut piped: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(piped["board"], "stdin");
    piped["board"] = plain["board"].clone();
    assert_eq!(piped, plain);

    let tree = path("proc-device-tree");
    let _ = std::fs::remove_dir_all(&tree);
    let soc = format!("{tree}/soc/usb@1000");
    std::fs::create_dir_all(&soc).expect("nodes");
    std::fs::create_dir_all(format!("{tree}/iommu@2000")).expect("nodes");
    let property = |node: &str, name: &str, value: &[u8]| {
        std::fs::write(format!("{tree}/{node}/{name}"), value).expect("a property");
    };
    property("", "model", b"from a directory\0");
    property("iommu@2000", "compatible", b"arm,smmu-v3\0");
    property("iommu@2000", "#iommu-cells", &[0, 0, 0, 1]);
    property("iommu@2000", "phandle", &[0, 0, 0, 7]);
    property("iommu@2000", "reg", &[0, 0, 0, 0, 0, 0, 0x20, 0, 0, 2, 0, 0]);
    property("soc/usb@1000", "iommus", &[0, 0, 0, 7, 0, 0, 0, 9]);
    let shown = json(&["show", &tree, "--json"]);
    assert_eq!(shown["devices"][0]["path"], "/soc/usb@1000");
    assert_eq!(shown["devices"][0]["streams"][0]["id"], 9);
    assert_eq!(shown["devices"][0]["dma"], "translated");
}

#[test]
fn overlays_are_applied_on_top_and_refused_alone() {
    let (base, overlay) = (board("reports.dtb"), board("overlays/camera.dtbo"));
    let shown = json(&["show", &base, "--overlay", &overlay, "--json"]);
    let camera = list(&shown["devices"]).iter().find(|it| it["path"] == "/soc/camera@a400000");
    let camera = camera.expect("the overlay's device");
    assert_eq!((&camera["streams"][0]["id"], &camera["dma"]), (&0x20.into(), &"translated".into()));
    assert_eq!(camera["streams"][0]["iommu"], "/iommu@9000000");

    let alone = run(&["show", &overlay]);
    assert_eq!(alone.status.code(), Some(2));
    assert!(text(&alone.stderr).contains("overlay") && text(&alone.stderr).contains("applied"));
    // A base without symbols cannot take it.
    let bare = run(&["show", &board("portcullis-default.dtb"), "--overlay", &overlay]);
    assert_eq!(bare.status.code(), Some(2));
    assert!(text(&bare.stderr).contains("wall"), "{}", text(&bare.stderr));
}

/// A DMAR with one unit for everything, and an RMRR for 00:14.0 (VT-d 4.1, chapter 8).
fn dmar() -> Vec<u8> {
    let mut table = b"DMAR".to_vec();
    table.extend([0; 4]);
    table.extend([1, 0]);
    table.extend(b"PORTCLLAPTOP  ");
    table.resize(36, 0);
    table.extend([38, 1]);
    table.resize(48, 0);
    // DRHD: type, length, flags, size, segment, registers.
    table.extend([0, 0, 16, 0, 1, 0, 0, 0]);
    table.extend(0xfed9_1000u64.to_le_bytes());
    // RMRR: type, length, reserved, segment, base, limit, one scope.
    table.extend([1, 0, 32, 0, 0, 0, 0, 0]);
    table.extend(0x9a80_0000u64.to_le_bytes());
    table.extend(0x9a81_ffffu64.to_le_bytes());
    table.extend([1, 8, 0, 0, 0, 0, 0x14, 0]);
    let length = u32::try_from(table.len()).expect("short");
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table[9] = 0u8.wrapping_sub(table.iter().fold(0, |sum, byte| sum.wrapping_add(*byte)));
    table
}

#[test]
fn acpi_tables_are_read_from_a_file_a_directory_and_a_dump() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("tables");
    std::fs::create_dir_all(folder.join("dynamic")).expect("a folder");
    let path = |name: &str| folder.join(name).to_str().expect("a plain path").to_string();
    std::fs::write(path("DMAR"), dmar()).expect("written");
    std::fs::write(path("FACP"), b"FACP and so on").expect("written");
    let shown = |board: &str| {
        let mut shown = json(&["show", board, "--json"]);
        shown["board"] = "".into();
        shown
    };
    let one = shown(&path("DMAR"));
    assert_eq!(one["iommus"][0]["path"], "DMAR/drhd@fed91000");
    let function = &one["devices"][0]["functions"][0];
    assert_eq!(
        (&function["path"], &function["streams"][0]["id"]),
        (&"0000:00:14.0".into(), &0xa0.into())
    );
    // The unit with INCLUDE_PCI_ALL serves it (VT-d 4.1, 8.3).
    assert_eq!(function["dma"], "translated");
    assert_eq!(shown(folder.to_str().expect("a plain path")), one);

    let mut dump = String::from("DMAR @ 0x000000007a5d4000\n");
    for (index, line) in dmar().chunks(16).enumerate() {
        let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02X}")).collect();
        dump += &format!("    {:04X}: {:<47}  {}\n", index * 16, hex.join(" "), "DMAR: ..");
    }
    let dumped = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("acpi.dump");
    std::fs::write(&dumped, dump).expect("written");
    assert_eq!(shown(dumped.to_str().expect("a plain path")), one);

    let mut bad = dmar();
    bad[50] = 0;
    std::fs::write(path("DMAR"), &bad).expect("written");
    let output = run(&["show", &path("DMAR")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("ACPI table DMAR: Length at 0x30"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_source_is_refused_with_the_line_that_compiles_it() {
    let output = run(&["show", &board("reports.dts")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("dtc -@ -I dts -O dtb"), "{}", text(&output.stderr));
}

#[test]
fn show_writes_a_page() {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("reports.html");
    let name = file.to_str().expect("a plain path");
    assert_eq!(run(&["show", &board("reports.dtb"), "--html", name]).status.code(), Some(1));
    let page = std::fs::read_to_string(&file).expect("the page");
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg "));
    let title = page.split("</title>").next().expect("a title");
    let version = concat!("Portcullis ", env!("CARGO_PKG_VERSION"), ", 20");
    assert!(title.contains(version) && title.contains(": portcullis show "), "{title}");
    assert!(page.contains("Made by <code>portcullis show "), "{page}");
}

/// What `show` says becomes of each client is what `boot` ends with.
#[test]
fn show_never_says_translated_where_boot_blocks() {
    for name in ["portcullis-default.dtb", "pci-topology.dtb", "broken.dtb", "reports.dtb"] {
        let shown = json(&["show", &board(name), "--json"]);
        let booted = json(&["boot", &board(name), "--json", "--cpus", "1"]);
        let ends: std::collections::BTreeMap<_, _> = list(&booted["devices"])
            .iter()
            .map(|it| (it["path"].as_str().expect("a path"), it["dma"].as_str().expect("a word")))
            .collect();
        // What the core blocks reaches nothing if its IOMMU refuses it: `boot` says "unknown" where nobody has confirmed that, `show` looks at no hardware.
        let as_shown = |word| if word == "unknown" { "blocked" } else { word };
        let mut compared = 0;
        for device in list(&shown["devices"]).iter().filter(|it| it["enabled"] == true) {
            let functions = list(&device["functions"]);
            let own = !list(&device["streams"]).is_empty() || functions.is_empty();
            let own = own.then_some(device).into_iter();
            for client in own.chain(functions) {
                let path = client["path"].as_str().expect("a path");
                assert_eq!(
                    client["dma"].as_str(),
                    ends.get(path).copied().map(as_shown),
                    "{name}: {path}"
                );
                compared += 1;
            }
        }
        assert_eq!(compared, ends.len(), "{name}");
    }
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
        one_of(&device["dma"], &["translated", "direct", "blocked", "unknown"]);
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

/// What `show` tells to ask is a command line that the lab takes.
#[test]
fn show_ends_with_what_to_ask_the_lab() {
    for (name, wanted) in [
        ("mmu500.dtb", "lab check v6.6 --iommus 2 --driver v2 --clients 2 --group shared"),
        ("portcullis-default.dtb", "lab check v6.6 --iommus 2 --clients 2 --group shared"),
        ("pci-topology.dtb", "lab check v6.6 --iommus 2 --bus pci"),
    ] {
        let output = run(&["show", &board(name)]);
        let last = text(&output.stdout).lines().last().expect("a line");
        assert!(last.contains(wanted), "{name}: {last}");
        let arguments: Vec<&str> = last.split_whitespace().skip(1).collect();
        let answer = run(&[&arguments[..], &["--no-closers", "--bound", "0"]].concat());
        assert_ne!(answer.status.code(), Some(2), "{}", text(&answer.stderr));
    }
}

#[test]
fn two_boards_are_compared_entry_by_entry() {
    let (old, new) = (board("portcullis-default.dtb"), board("mmu500.dtb"));
    let same = run(&["show", &old, &old]);
    assert_eq!(same.status.code(), Some(0));
    assert!(text(&same.stdout).contains("no difference"), "{}", text(&same.stdout));
    let other = run(&["show", &old, &new]);
    assert_eq!(other.status.code(), Some(1));
    let page = text(&other.stdout);
    assert!(
        !page.contains(['{', '[']) || !page.contains("\":"),
        "JSON in a text for people: {page}"
    );
    assert!(
        page.contains("\n- /soc/iommu@2b400000") && page.contains("\n+ /soc/iommu@15000000"),
        "{page}"
    );
}

/// An overlay changes one device; nothing else is told, although group numbers shift.
#[test]
fn a_field_that_changed_is_told_with_both_values() {
    let folder = std::env::temp_dir().join(format!("portcullis-diff-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (old, new) = (board("portcullis-default.dtb"), folder.join("changed.dtb"));
    let mut blob = std::fs::read(&old).expect("the board");
    // usb@10010000's stream id 2 becomes 0x7f: `iommus = <&smmu 2>` of that node.
    let at = blob.windows(12).position(|it| it == b"usb@10010000").expect("the node");
    let id =
        blob[at..].windows(8).position(|it| it == [0, 0, 0, 4, 0, 0, 0, 2]).expect("the id") + at;
    blob[id + 7] = 0x7f;
    std::fs::write(&new, blob).expect("written");
    let output = run(&["show", &old, new.to_str().expect("plain"), "--json"]);
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    std::fs::remove_dir_all(&folder).expect("removed");
    let changed = list(&value["devices"]);
    assert_eq!(changed.len(), 1, "{value:#}");
    assert_eq!(changed[0]["name"], "/soc/usb@10010000");
    let fields = list(&changed[0]["fields"]);
    assert!(
        fields.iter().any(|it| it["field"] == "streams" && it["after"][0]["id"] == 0x7f),
        "{value:#}"
    );
    assert!(list(&value["iommus"]).is_empty());
}

/// At 60 and 80 columns nothing is longer but what cannot be broken: a command to copy, a path.
#[test]
fn output_keeps_within_the_terminal() {
    for arguments in [
        &["boot"][..],
        &["boot", &board("broken.dtb")],
        &["boot", "--repeat", "2"],
        &["show", &board("mmu500.dtb")],
        &["show", &board("broken.dtb")],
        &["show", "--tree", &board("mmu500.dtb")],
        &["show", "--tree", &board("pci-topology.dtb")],
        &["show", "--direct", &board("reports.dtb")],
        &["show", "--rules"],
        &["lab", "ours", "--list"],
        &["show", &board("mixed.dtb"), &board("reports.dtb")],
        &["lab", "list"],
        &["lab", "compare"],
        &["lab", "check", "v6.6"],
        &["lab", "ours", "a"],
        &["replay", "--list"],
    ] {
        for columns in [60, 80] {
            let output = portcullis(arguments).env("COLUMNS", columns.to_string()).output();
            let output = output.expect("starts");
            let long =
                |line: &&str| line.chars().count() > columns && !line.contains("portcullis lab ");
            let long: Vec<_> = text(&output.stdout).lines().filter(long).collect();
            assert!(long.is_empty(), "{arguments:?} in {columns} columns: {long:#?}");
        }
    }
}

#[test]
fn a_program_that_reads_gets_a_line_for_each_device() {
    let output = run(&["boot", &board("broken.dtb")]);
    let page = text(&output.stdout);
    let report = json(&["boot", &board("broken.dtb"), "--json"]);
    for device in list(&report["devices"]) {
        let path = device["path"].as_str().expect("a path");
        let state = device["state"].as_str().expect("a state");
        let its = |line: &&str| line.starts_with(&format!("{path} ")) && line.contains(state);
        assert_eq!(page.lines().filter(its).count(), 1, "{path}: {page}");
    }
}

#[test]
fn help_has_examples_and_the_manual_and_completions_name_the_verbs() {
    for verb in [&[][..], &["lab"], &["replay"]] {
        let help = run(&[verb, &["--help"]].concat());
        let help = text(&help.stdout).to_owned();
        let (_, examples) = help.split_once("Examples:\n").expect("examples");
        let long: Vec<_> = examples.lines().filter(|line| line.chars().count() > 79).collect();
        assert!(long.is_empty(), "these break on a terminal of 80 columns: {long:#?}");
    }
    for arguments in [&["man"][..], &["completions", "bash"], &["completions", "zsh"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0));
        for verb in ["boot", "show", "lab", "bench"] {
            assert!(text(&output.stdout).contains(verb), "{arguments:?} lacks {verb}");
        }
    }
}

#[test]
fn completions_offer_versions_commits_and_worlds() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        for word in [
            "v6.6.y",
            "b46064a18810",
            "v2-a",
            "busiest",
            "riscv",
            "fsl-mc",
            "boot-repeat",
            "iommu-map-range",
            "nvme-two",
            "late-lost-bit",
        ] {
            assert!(text(&output.stdout).contains(word), "{shell} lacks {word}");
        }
    }
    // They are offered, not listed wherever a word is wrong or help is asked for.
    assert!(!text(&run(&["lab", "check", "--help"]).stdout).contains("b46064a18810,"));
    let wrong = run(&["lab", "check", "v6.6", "--bus", "isa"]);
    assert!(text(&wrong.stderr).contains("platform, pci, amba"), "{}", text(&wrong.stderr));
}
