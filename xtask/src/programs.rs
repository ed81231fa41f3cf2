//! The workspace's test programs, as many at once as there are processors. `cargo test` runs them one after another, and those that wait for QEMU leave a processor idle.

use crate::run::{Outcome, announce};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One program, as cargo built it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    executable: PathBuf,
    /// Where cargo would start it.
    folder: PathBuf,
    /// Package and target, for a person.
    name: String,
}

/// How one of them ended.
struct Ended {
    name: String,
    output: String,
    failed: Option<String>,
}

/// Runs them and prints the output of each when it has ended. What was skipped and what failed is said once more at the end.
pub(crate) fn run_all(programs: &[Program]) -> Outcome {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{} test programs, {workers} at once", programs.len());
    let (next, ended) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(program) = programs.get(at) else { break };
                    let result = run(program, at);
                    // One writer at a time: an output stands in one piece.
                    let mut ended = ended.lock().unwrap_or_else(|broken| broken.into_inner());
                    println!("\n== {}\n{}", result.name, result.output.trim());
                    ended.push(result);
                }
            });
        }
    });
    summary(&ended.into_inner().unwrap_or_else(|broken| broken.into_inner()))
}

/// Compiles every test program. The largest come first: they tend to run longest, and a long one that begins last has the machine to itself.
pub(crate) fn compile(environment: &[(&str, &str)]) -> Result<Vec<Program>, String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"])
        .envs(environment.iter().copied())
        .current_dir(crate::root())
        .stderr(Stdio::inherit());
    announce(&cargo);
    let output = cargo.output().map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("compiling the tests: {}", output.status));
    }
    let mut programs = programs(&String::from_utf8_lossy(&output.stdout));
    if programs.is_empty() {
        return Err("cargo named no test program".into());
    }
    let size = |program: &Program| program.executable.metadata().map_or(0, |data| data.len());
    programs.sort_by_key(|program| std::cmp::Reverse(size(program)));
    Ok(programs)
}

/// What cargo's messages name, one a line ("The Cargo Book", External Tools, "Artifact messages").
fn programs(messages: &str) -> Vec<Program> {
    let lines = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let tests = lines.filter(|message| message["profile"]["test"] == true);
    let found = tests.filter_map(|message| {
        let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
        let package = folder.file_name()?.to_string_lossy();
        Some(Program {
            executable: message["executable"].as_str()?.into(),
            folder: folder.into(),
            name: format!("{package}: {}", message["target"]["name"].as_str()?),
        })
    });
    found.collect()
}

/// Runs one to its end. Its output goes to a file and not to a pipe: a process that it left behind would keep a pipe open.
fn run(program: &Program, at: usize) -> Ended {
    let log = crate::target().join(format!("xtask/test-{at}.log"));
    let failed = match start(program, &log).and_then(|mut child| child.wait()) {
        Ok(status) if status.success() => None,
        Ok(status) => Some(status.to_string()),
        Err(error) => Some(error.to_string()),
    };
    let output = std::fs::read(&log).unwrap_or_default();
    let output = String::from_utf8_lossy(&output).into_owned();
    Ended { name: program.name.clone(), output, failed }
}

fn start(program: &Program, log: &Path) -> std::io::Result<Child> {
    log.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    let log = File::create(log)?;
    Command::new(&program.executable)
        .current_dir(&program.folder)
        .env("CARGO_MANIFEST_DIR", &program.folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}

/// The count before `word` in a summary of the test harness: "test result: ok. 3 passed; 0 failed; 1 ignored; ...".
fn count(line: &str, word: &str) -> usize {
    let counts = line.strip_prefix("test result: ").unwrap_or_default();
    let mut counts = counts.split([';', '.']).map(str::trim);
    counts.find_map(|count| count.strip_suffix(word)?.trim().parse().ok()).unwrap_or(0)
}

/// What was skipped and what failed, once more. Fails if anything failed.
fn summary(ended: &[Ended]) -> Outcome {
    let lines = || ended.iter().flat_map(|program| program.output.lines());
    let total = |word: &str| lines().map(|line| count(line, word)).sum::<usize>();
    println!("\n{} tests passed, {} ignored", total("passed"), total("ignored"));
    lines().filter(|line| line.starts_with("SKIP")).for_each(|line| println!("{line}"));
    let failed = ended.iter().filter_map(|program| {
        let how = program.failed.as_ref()?;
        Some(format!("\n  {} ({how})", program.name))
    });
    let failed: Vec<String> = failed.collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("{} of {} test programs failed:{}", failed.len(), ended.len(), failed.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_programs_are_run_and_each_in_its_folder() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/a/Cargo.toml","target":{"name":"suite"},"profile":{"test":true},"executable":"/w/target/debug/deps/suite-1"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/a/Cargo.toml","target":{"name":"a"},"profile":{"test":false},"executable":"/w/target/debug/a"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/a/Cargo.toml","target":{"name":"a"},"profile":{"test":false},"executable":null}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let expected = Program {
            executable: "/w/target/debug/deps/suite-1".into(),
            folder: "/w/crates/a".into(),
            name: "a: suite".into(),
        };
        assert_eq!(programs(messages), [expected]);
    }

    #[test]
    fn a_program_that_fails_or_cannot_start_fails_the_whole() {
        let of = |failed: Option<&str>, output: &str| Ended {
            name: "a: suite".into(),
            output: output.into(),
            failed: failed.map(str::to_string),
        };
        assert_eq!(summary(&[of(None, "SKIP it: no QEMU")]), Ok(()));
        let told = summary(&[of(None, ""), of(Some("exit status: 101"), "")]);
        assert_eq!(told, Err("1 of 2 test programs failed:\n  a: suite (exit status: 101)".into()));
        let folder = PathBuf::from("/");
        let gone = Program { executable: "/nowhere/suite".into(), folder, name: String::new() };
        assert!(run(&gone, usize::MAX).failed.is_some(), "it is not there");
    }

    #[test]
    fn the_harness_counts_are_read() {
        let line = "test result: FAILED. 150 passed; 1 failed; 12 ignored; 0 measured; 0 filtered out; finished in 0.02s";
        assert_eq!([count(line, "passed"), count(line, "ignored")], [150, 12]);
        assert_eq!(count("test passed ... ok", "passed"), 0);
    }
}
