//! No test file is forgotten: where a folder of tests is one program or one module, each file in it is named by that.

use crate::run::Outcome;
use std::path::{Path, PathBuf};

/// Files that are a folder's own.
const HEADS: [&str; 2] = ["main.rs", "mod.rs"];

/// Fails on a file of tests that nothing compiles.
pub(crate) fn check() -> Outcome {
    let (mut seen, mut findings) = (0, Vec::new());
    walk(&crate::root().join("crates"), false, &mut seen, &mut findings)?;
    if findings.is_empty() {
        println!("suites: {seen} files of tests, each named by its folder's");
        return Ok(());
    }
    Err(format!("tests that never run, no `mod` names them:\n  {}", findings.join("\n  ")))
}

fn walk(folder: &Path, tests: bool, seen: &mut usize, findings: &mut Vec<String>) -> Outcome {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let head = HEADS.map(|head| folder.join(head)).into_iter().find(|head| head.is_file());
    if let Some(head) = head.filter(|_| tests) {
        let text =
            std::fs::read_to_string(&head).map_err(|e| format!("{}: {e}", head.display()))?;
        let files = paths.iter().filter(|path| path.extension().is_some_and(|end| end == "rs"));
        let stems: Vec<_> = files.filter_map(|path| path.file_stem()?.to_str()).collect();
        *seen += stems.len() - 1;
        let forgotten = forgotten(&text, &stems).into_iter();
        findings.extend(forgotten.map(|stem| format!("{}/{stem}.rs", folder.display())));
    }
    for path in paths.iter().filter(|path| path.is_dir()) {
        walk(path, tests || path.ends_with("tests"), seen, findings)?;
    }
    Ok(())
}

/// Which of the files of a folder its own file, whose text is `head`, does not name.
fn forgotten<'a>(head: &str, stems: &[&'a str]) -> Vec<&'a str> {
    let modules = head.lines().filter_map(|line| {
        line.trim_start_matches("pub(crate) ").strip_prefix("mod ")?.strip_suffix(';')
    });
    let named: Vec<&str> = modules.chain(["main", "mod"]).collect();
    stems.iter().copied().filter(|stem| !named.contains(stem)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_no_module_names_is_found() {
        let head = "//! Tests.\n\nmod a;\npub(crate) mod support;\n// mod c;\n";
        assert_eq!(forgotten(head, &["main", "a", "support", "b", "c"]), ["b", "c"]);
    }

    #[test]
    fn every_file_here_is_named() {
        assert_eq!(check(), Ok(()));
    }
}
