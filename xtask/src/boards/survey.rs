//! One board: what `portcullis show` and `portcullis boot` say of it.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What is run.
pub(super) struct Survey {
    /// The `portcullis` program.
    pub(super) program: PathBuf,
    /// Boots of each board in random orders of arrival, beside the first.
    pub(super) repeat: u64,
}

/// How one board fared.
#[derive(Debug, Default)]
pub(super) struct Board {
    pub(super) name: String,
    /// By kind; enabled ones only.
    pub(super) iommus: BTreeMap<String, usize>,
    /// Enabled IOMMUs that have a driver.
    pub(super) driven: usize,
    /// Enabled clients, by what became of them: `translated`, `direct`, or `blocked` with the reason.
    pub(super) clients: BTreeMap<String, usize>,
    /// Streams of those that are translated.
    pub(super) streams: usize,
    /// Findings by severity and rule.
    pub(super) findings: BTreeMap<(String, String), usize>,
    /// What must not be: a panic, a broken promise, a client blocked without a reason.
    pub(super) failures: Vec<String>,
    /// Of `show` and one boot with the calm one that it is compared with, start of the program included.
    pub(super) once: Duration,
    /// Of the repeated boots.
    pub(super) repeated: Duration,
}

impl Board {
    pub(super) fn translated(&self) -> usize {
        self.clients.get("translated").copied().unwrap_or(0)
    }
}

impl Survey {
    pub(super) fn board(&self, path: &Path) -> Board {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let mut board = Board { name: stem.unwrap_or_default(), ..Board::default() };
        if let Err(failure) = self.look(path, &mut board) {
            board.failures.push(failure);
        }
        board
    }

    fn look(&self, path: &Path, board: &mut Board) -> Result<(), String> {
        let start = Instant::now();
        let (show_exit, shown) = self.run(&["show", "--json"], path)?;
        let (boot_exit, booted) = self.run(&["boot", "--json"], path)?;
        board.once = start.elapsed();
        if show_exit != boot_exit {
            board.failures.push(format!("show exits {show_exit}, boot {boot_exit}"));
        }
        board.failures.extend(disagreements(&shown, &booted));
        read_shown(&shown, board);
        read_booted(&shown, &booted, board);
        board.failures.extend(broken(&booted, "boot"));
        if self.repeat > 0 && board.driven > 0 {
            let start = Instant::now();
            let count = self.repeat.to_string();
            let (_, many) = self.run(&["boot", "--json", "--repeat", &count], path)?;
            board.repeated = start.elapsed();
            board.failures.extend(broken(&many, "boot --repeat"));
        }
        Ok(())
    }

    /// How a command ends and the document that it prints. 0 and 1 (a finding stands) are answers; everything else is a failure, a panic above all.
    fn run(&self, arguments: &[&str], path: &Path) -> Result<(i32, Value), String> {
        let words = arguments.join(" ");
        let output = Command::new(&self.program).args(arguments).arg(path).output();
        let output = output.map_err(|error| format!("{}: {error}", self.program.display()))?;
        let Some(exit @ (0 | 1)) = output.status.code() else {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{words}: {}: {}", output.status, said.trim()));
        };
        let document = serde_json::from_slice(&output.stdout);
        document.map(|document| (exit, document)).map_err(|error| format!("{words}: {error}"))
    }
}

fn list<'v>(document: &'v Value, name: &str) -> &'v [Value] {
    document[name].as_array().map_or(&[], Vec::as_slice)
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

fn broken(document: &Value, words: &str) -> Vec<String> {
    let promises = list(document, "promises").iter().filter(|it| it["held"] != true);
    let seed = &document["first_broken_seed"];
    let told = promises.map(|it| match seed.as_u64() {
        Some(seed) => format!("{words}: {} is broken (--seed {seed})", text(it, "id")),
        None => format!("{words}: {} is broken", text(it, "id")),
    });
    told.collect()
}

/// Clients of which `show` says something else than what `boot` does with them: "translated" where it is blocked, above all.
fn disagreements(shown: &Value, booted: &Value) -> Vec<String> {
    let mut said = BTreeMap::new();
    for device in list(shown, "devices").iter().filter(|device| device["enabled"] == true) {
        let functions = list(device, "functions");
        if !list(device, "streams").is_empty() || functions.is_empty() {
            said.insert(text(device, "path"), text(device, "dma"));
        }
        said.extend(functions.iter().map(|it| (text(it, "path"), text(it, "dma"))));
    }
    let mut differ = Vec::new();
    for device in list(booted, "devices") {
        let done = if text(device, "state") == "bound" { text(device, "dma") } else { "blocked" };
        match said.get(text(device, "path")) {
            // Some functions of the bus are translated and some are not: no word is right for all.
            Some(&"mixed") => {}
            Some(says) if *says == done => {}
            says => {
                let says = says.unwrap_or(&"nothing");
                differ.push(format!("{}: show says {says}, boot {done}", text(device, "path")));
            }
        }
    }
    differ
}

fn read_shown(shown: &Value, board: &mut Board) {
    for iommu in list(shown, "iommus").iter().filter(|iommu| iommu["enabled"] == true) {
        let mut kind = text(iommu, "kind").to_owned();
        if kind == "other" {
            kind = iommu["compatible"][0].as_str().unwrap_or("other").to_owned();
        }
        *board.iommus.entry(kind).or_default() += 1;
        board.driven += usize::from(iommu["driver"].is_string());
    }
    for finding in list(shown, "findings") {
        let key = (text(finding, "severity").to_owned(), text(finding, "rule").to_owned());
        *board.findings.entry(key).or_default() += 1;
    }
}

fn read_booted(shown: &Value, booted: &Value, board: &mut Board) {
    for device in list(booted, "devices") {
        let outcome = match (text(device, "state"), text(device, "dma")) {
            ("bound", way @ ("translated" | "direct")) => {
                if device["dma_check"] == "failed" {
                    board.failures.push(format!("{}: its DMA failed", text(device, "path")));
                }
                way.to_owned()
            }
            _ => format!("blocked: {}", reason(shown, booted, device)),
        };
        if outcome == "translated" {
            board.streams += list(device, "streams").len();
        }
        if outcome == "blocked: " {
            board.failures.push(format!("{}: blocked without a reason", text(device, "path")));
        }
        *board.clients.entry(outcome).or_default() += 1;
    }
}

/// Why a device is blocked, in words that many devices share.
fn reason(shown: &Value, booted: &Value, device: &Value) -> String {
    match text(device, "cause") {
        "description" => {
            // The rule that refused it stands at the device, or at the bus above; worst first.
            let path = text(device, "path");
            let about = |finding: &&Value| {
                let at = text(finding, "path");
                path == at || path.starts_with(&format!("{at}/"))
            };
            let rule = list(shown, "findings").iter().find(about).map(|it| text(it, "rule"));
            rule.map_or_else(
                || text(device, "reason").to_owned(),
                |it| format!("description, {it}"),
            )
        }
        "iommu-failed" => {
            let mine = |iommu: &&Value| {
                list(device, "iommus").contains(&iommu["path"]) && iommu["state"] != "registered"
            };
            let iommu = list(booted, "iommus").iter().find(mine);
            match iommu.map(|iommu| text(iommu, "state")) {
                Some("no-driver") => format!("no driver for {}", compatible(shown, iommu)),
                _ => format!("its IOMMU: {}", text(device, "reason")),
            }
        }
        "" => String::new(),
        cause => cause.to_owned(),
    }
}

/// The least specific `compatible` of an IOMMU: what its binding is called.
fn compatible<'v>(shown: &'v Value, iommu: Option<&Value>) -> &'v str {
    let path = iommu.map(|iommu| text(iommu, "path")).unwrap_or_default();
    let described = list(shown, "iommus").iter().find(|it| text(it, "path") == path);
    let names = described.map_or(&[][..], |it| list(it, "compatible"));
    names.last().and_then(Value::as_str).unwrap_or("an unknown IOMMU")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn show_and_boot_must_say_the_same() {
        let shown = json!({ "devices": [
            { "path": "/a", "enabled": true, "dma": "translated", "streams": [1], "functions": [] },
            { "path": "/off", "enabled": false, "dma": "", "streams": [1], "functions": [] },
            { "path": "/pci", "enabled": true, "dma": "mixed", "streams": [],
              "functions": [{ "path": "/pci/00:01.0", "dma": "blocked" }] },
        ] });
        let boot = |a: &str, function: &str| {
            let state = |way: &str| if way == "blocked" { "blocked" } else { "bound" };
            disagreements(
                &shown,
                &json!({ "devices": [
                    { "path": "/a", "state": state(a), "dma": a },
                    { "path": "/pci/00:01.0", "state": state(function), "dma": function },
                ] }),
            )
        };
        assert!(boot("translated", "blocked").is_empty());
        assert_eq!(boot("blocked", "blocked"), ["/a: show says translated, boot blocked"]);
        assert_eq!(
            boot("translated", "translated"),
            ["/pci/00:01.0: show says blocked, boot translated"]
        );
    }

    #[test]
    fn what_must_not_be_is_a_failure() {
        let shown = json!({ "iommus": [{ "path": "/a", "kind": "smmuv2", "enabled": true,
            "driver": "smmuv2", "compatible": ["x,y", "arm,mmu-500"] }], "findings": [] });
        let device = |more: Value| {
            let mut device = json!({ "path": "/d", "iommus": ["/a"], "streams": [1, 2],
                "state": "bound", "dma": "translated", "dma_check": "ok", "cause": null });
            for (key, value) in more.as_object().expect("an object") {
                device[key] = value.clone();
            }
            json!({ "iommus": [{ "path": "/a", "state": "registered" }], "devices": [device],
                "promises": [{ "id": "P2", "held": true }] })
        };
        let read = |booted: Value| {
            let mut board = Board::default();
            read_shown(&shown, &mut board);
            read_booted(&shown, &booted, &mut board);
            board.failures.extend(broken(&booted, "boot"));
            board
        };
        let sound = read(device(json!({})));
        assert_eq!((sound.driven, sound.translated(), sound.streams), (1, 1, 2));
        assert!(sound.failures.is_empty());
        assert_eq!(read(device(json!({ "dma_check": "failed" }))).failures.len(), 1);
        let blocked = json!({ "state": "blocked", "dma": "blocked" });
        assert_eq!(read(device(blocked)).failures, ["/d: blocked without a reason"]);
        let mut untrue = device(json!({}));
        untrue["promises"][0]["held"] = false.into();
        assert_eq!(read(untrue).failures, ["boot: P2 is broken"]);
    }
}
