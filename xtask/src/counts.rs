//! Instructions of the data path's calls, counted by callgrind and held against `crates/bench/counts.json`: a slow-down is found whatever the machine is doing meanwhile.

use crate::run::{Outcome, cargo, output};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// What is expected, as data.
#[derive(Debug, Deserialize, Serialize)]
struct Expected {
    /// When it was counted.
    date: String,
    /// By which compiler, for which processor.
    rustc: String,
    target: String,
    /// How far a count may be above (an error) or below (a note: write the file anew) what is expected, in percent.
    band: u64,
    /// Instructions a call, by case.
    instructions: BTreeMap<String, u64>,
}

/// Slow-downs that the check must find in every run, or it is none: a case that does the work of another in a slower way.
const PLANTED: [(&str, &str); 3] =
    [("words E", "table E"), ("words F", "table F"), ("tree I1", "iova I1")];

/// Counts, and compares with the file, or writes it where `arguments` say `--update`.
pub(crate) fn check(arguments: &[String]) -> Outcome {
    let update = match arguments {
        [] => false,
        [word] if word == "--update" => true,
        _ => return Err("usage: cargo xtask counts [--update]".to_string()),
    };
    if let Err(reason) = can_count() {
        if std::env::var_os("PORTCULLIS_REQUIRE_EXTERNAL").is_some_and(|value| value == "1") {
            return Err(format!("valgrind is required here: {reason}"));
        }
        println!("SKIP counts: {reason}");
        return Ok(());
    }
    cargo(&["build", "--quiet", "--release", "-p", "portcullis-bench"], &[])?;
    let mut expected = read()?;
    let cases: Vec<String> = expected.instructions.keys().cloned().collect();
    let mut counted = BTreeMap::new();
    for case in cases {
        counted.insert(case.clone(), count(&case)?);
    }
    if update {
        expected.date = output(Command::new("date").arg("+%F"))?.trim().to_string();
        expected.rustc = output(Command::new("rustc").arg("--version"))?.trim().to_string();
        expected.instructions = counted;
        return write(&expected);
    }
    let findings = findings(&expected, &counted);
    if findings.is_empty() {
        println!("counts: {} cases within {} % of {}", counted.len(), expected.band, expected.date);
        return Ok(());
    }
    Err(format!(
        "instructions a call, counted {} with {}:\n  {}",
        expected.date,
        expected.rustc,
        findings.join("\n  ")
    ))
}

/// What is worse than expected, and which planted slow-down would not have been found.
fn findings(expected: &Expected, counted: &BTreeMap<String, u64>) -> Vec<String> {
    let mut findings = Vec::new();
    for (case, &now) in counted {
        let before = expected.instructions.get(case).copied().unwrap_or(0);
        println!("  {case:<16} {now:6}  expected {before:6}");
        if is_slower(before, now, expected.band) {
            findings.push(format!("{case}: {now}, more than {} % above {before}", expected.band));
        } else if now * 100 < before * (100 - expected.band) {
            println!(
                "  {case}: much better than expected; `cargo xtask counts --update` makes it last"
            );
        }
    }
    for (slow, real) in PLANTED {
        let found = counted.get(slow).zip(expected.instructions.get(real));
        if !found.is_some_and(|(slow, real)| is_slower(*real, *slow, expected.band)) {
            findings.push(format!("the planted slow-down of {real} ({slow}) was not found"));
        }
    }
    findings
}

fn is_slower(before: u64, now: u64, band: u64) -> bool {
    now * 100 > before * (100 + band)
}

/// Instructions a call: the difference between three rounds and one.
fn count(case: &str) -> Result<u64, String> {
    let (calls, one) = run(case, 1)?;
    let (_, three) = run(case, 3)?;
    Ok(three.saturating_sub(one) / (2 * calls.max(1)))
}

/// The calls of a round, and all instructions of the program.
fn run(case: &str, rounds: u32) -> Result<(u64, u64), String> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1"]);
    let program = crate::target().join("release/portcullis-count");
    let text = output(command.arg(program).args([case, &rounds.to_string()]))?;
    let calls = text.lines().find_map(|line| line.parse().ok());
    let total = text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    calls.zip(total).ok_or_else(|| format!("{case}: callgrind says {text}"))
}

fn file() -> PathBuf {
    crate::root().join("crates/bench/counts.json")
}

fn read() -> Result<Expected, String> {
    let path = file();
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(expected: &Expected) -> Outcome {
    let text = serde_json::to_string_pretty(expected).map_err(|error| error.to_string())?;
    let path = file();
    println!("counts: written to {}", path.display());
    std::fs::write(&path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))
}

/// Installs valgrind where this machine lets us.
fn can_count() -> Outcome {
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    if target != read()?.target {
        return Err(format!("the expected counts are not for {target}"));
    }
    if is_installed() {
        return Ok(());
    }
    crate::qemu::install_package("valgrind")?;
    if is_installed() { Ok(()) } else { Err("valgrind is not there".to_string()) }
}

fn is_installed() -> bool {
    output(Command::new("valgrind").arg("--version")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        let real = [("table E", 100), ("table F", 200), ("iova I1", 50)];
        let slow = [("words E", 200), ("words F", 400), ("tree I1", 500)];
        Expected {
            date: String::new(),
            rustc: String::new(),
            target: String::new(),
            band: 25,
            instructions: real.iter().chain(&slow).map(|(c, n)| (c.to_string(), *n)).collect(),
        }
    }

    fn counted(changes: &[(&str, u64)]) -> BTreeMap<String, u64> {
        let sound = [("table E", 110), ("table F", 190), ("iova I1", 50)];
        let slow = [("words E", 200), ("words F", 400), ("tree I1", 500)];
        let all = sound.iter().chain(&slow).chain(changes);
        all.map(|(case, count)| (case.to_string(), *count)).collect()
    }

    #[test]
    fn counts_inside_the_band_pass() {
        assert_eq!(findings(&expected(), &counted(&[])), Vec::<String>::new());
        assert!(findings(&expected(), &counted(&[("table E", 125)])).is_empty());
        assert!(findings(&expected(), &counted(&[("table E", 1)])).is_empty(), "faster is a note");
    }

    #[test]
    fn a_slow_down_is_found_by_its_case() {
        let found = findings(&expected(), &counted(&[("table E", 126)]));
        assert_eq!(found, ["table E: 126, more than 25 % above 100"]);
    }

    #[test]
    fn a_check_that_misses_a_planted_slow_down_fails() {
        let found = findings(&expected(), &counted(&[("words F", 201)]));
        assert_eq!(found, ["the planted slow-down of table F (words F) was not found"]);
    }
}
