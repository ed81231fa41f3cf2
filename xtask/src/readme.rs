//! What README.md tells somebody who uses the crates: its examples, each with the `Cargo.toml` above it, as crates of their own.

use crate::package;
use crate::run::{Outcome, run};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// Where the examples' crates stand.
const FOLDER: &str = "target/readme";

/// Runs each example of README.md with nothing but the dependencies that README.md names, taken from here instead of a registry.
pub(crate) fn check() -> Outcome {
    let packages = package::packages()?;
    let folder = crate::root().join(FOLDER);
    let readme = read(&crate::root().join("README.md"))?;
    let examples = examples(&readme);
    for (number, (manifest, code)) in examples.iter().enumerate() {
        let of = folder.join(format!("example-{}", number + 1));
        let whole = format!("{HEAD}{manifest}\n{}", from_here(&packages));
        write(&of.join("Cargo.toml"), &whole)?;
        write(&of.join("src/main.rs"), &format!("fn main() {{\n{code}}}\n"))?;
        // The versions that everything else is tested with.
        write(&of.join("Cargo.lock"), &read(&crate::root().join("Cargo.lock"))?)?;
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["run", "--quiet", "--target-dir"]).arg(folder.join("target"));
        // The second example only has to compile.
        run(cargo.current_dir(&of).env("RUSTFLAGS", "-Adead_code"))?;
    }
    println!("readme: {} examples run with the dependencies that they name", examples.len());
    std::fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))
}

const HEAD: &str =
    "[package]\nname = \"example\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n";

/// Every package of this workspace from its folder.
fn from_here(packages: &[Value]) -> String {
    let mut patch = String::from("[patch.crates-io]\n");
    for package in packages {
        let folder = package["manifest_path"].as_str().and_then(|path| Path::new(path).parent());
        if let (Some(name), Some(folder)) = (package["name"].as_str(), folder) {
            let _never_fails = writeln!(patch, "{name} = {{ path = {folder:?} }}");
        }
    }
    patch
}

/// Blocks of Rust, each with the last `Cargo.toml` before it.
fn examples(page: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut manifest = String::new();
    for (language, text) in blocks(page) {
        match language {
            "toml" => manifest = text,
            "rust" => found.push((manifest.clone(), text)),
            _ => {}
        }
    }
    found
}

/// The fenced blocks of a page, with their languages.
pub(crate) fn blocks(page: &str) -> Vec<(&str, String)> {
    let mut found: Vec<(&str, String)> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(language), false) => {
                found.push((language, String::new()));
                inside = true;
            }
            (Some(_), true) => inside = false,
            (None, true) => {
                if let Some((_, text)) = found.last_mut() {
                    text.push_str(line);
                    text.push('\n');
                }
            }
            (None, false) => {}
        }
    }
    found
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) -> Outcome {
    let io = |error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(path.parent().unwrap_or(path)).map_err(io)?;
    std::fs::write(path, text).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = include_str!("../../README.md");
    const FACADE: &str = include_str!("../../crates/iommu/Cargo.toml");

    #[test]
    fn each_example_has_the_manifest_above_it() {
        let page = "```toml\na\n```\ntext\n```rust\nb\n```\n```text\nc\n```\n```rust\nd\n```\n```toml\ne\n```\n```rust\nf\n```\n";
        let pair = |manifest: &str, code: &str| (format!("{manifest}\n"), format!("{code}\n"));
        assert_eq!(examples(page), [pair("a", "b"), pair("a", "d"), pair("e", "f")]);
        assert_eq!(examples(README).len(), 2);
    }

    /// Rows of the table of contexts, as words.
    fn contexts(page: &str) -> Vec<String> {
        let lines = page.lines().map(|line| line.trim_start_matches("//! "));
        let rows = lines.skip_while(|line| !line.starts_with("| | interrupt handler"));
        let rows = rows.take_while(|line| line.starts_with('|'));
        // `[a](b)` is a link in rustdoc and a word here.
        let words = |row: &str| {
            let mut parts = row.split("](");
            let first = parts.next().unwrap_or_default().to_owned();
            let words = parts.fold(first, |all, part| {
                all + part.split_once(')').map_or(part, |(_target, rest)| rest)
            });
            words.replace(['[', ']'], "")
        };
        rows.map(words).collect()
    }

    #[test]
    fn the_guide_and_the_core_say_the_same_of_contexts() {
        let guide = contexts(include_str!("../../docs/kernel.md"));
        assert_eq!(guide.len(), 7);
        assert_eq!(contexts(include_str!("../../crates/portcullis/src/lib.rs")), guide);
        let linked = "//! | | interrupt handler |\n//! | [`a`](b::a), [`c`] | no |\n//!\n";
        assert_eq!(contexts(linked), ["| | interrupt handler |", "| `a`, `c` | no |"]);
    }

    #[test]
    fn the_readme_lists_every_feature_of_the_facade() {
        let (_, listed) = README.split_once("the rest is by feature (").expect("the list");
        let (listed, _) = listed.split_once(')').expect("its end");
        let mut listed: Vec<&str> = listed.split('`').filter(|word| word.len() > 2).collect();
        let (_, features) = FACADE.split_once("[features]\n").expect("features");
        let (features, _) = features.split_once("\n[").expect("their end");
        let names =
            features.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name);
        let mut names: Vec<&str> = names.filter(|name| !name.starts_with('#')).collect();
        listed.sort_unstable();
        names.sort_unstable();
        assert_eq!(listed, names);
    }
}
