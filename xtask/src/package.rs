//! What would be published: every crate packaged in the order of their dependencies, and each package built from its own files alone. Before that, a look at what a registry and docs.rs would show.

use crate::run::{Outcome, cargo, output};
use serde_json::Value;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a registry shows of a crate, and what it is found by.
const SHOWN: &[&str] =
    &["description", "license", "readme", "repository", "keywords", "categories"];

/// The command, whose page one is README.md; what it has as a library is for its tests.
const COMMAND: &str = "portcullis-cli";

/// Where packages are built, below the workspace; nothing else is.
const BUILT_IN: &str = "target/packaged";

/// Packages and builds every crate that may be published, after a look at what the registry would show of it.
pub(crate) fn check() -> Outcome {
    let packages = packages()?;
    let (published, kept): (Vec<&Value>, Vec<&Value>) =
        packages.iter().partition(|package| package["publish"].is_null());
    let mut findings: Vec<String> = published.iter().flat_map(|package| missing(package)).collect();
    findings.extend(published.iter().filter_map(|package| without_example(package)));
    if !findings.is_empty() {
        return Err(format!("not fit to be published:\n  {}", findings.join("\n  ")));
    }
    let mut arguments =
        vec!["package", "--workspace", "--quiet", "--allow-dirty", "--target-dir", BUILT_IN];
    for package in kept {
        arguments.extend(["--exclude", package["name"].as_str().unwrap_or_default()]);
    }
    forget_earlier(&published)?;
    cargo(&arguments, &[("CARGO_PROFILE_DEV_DEBUG", "0")])?;
    remove(&crate::root().join(BUILT_IN))?;
    println!("package: {} crates, each built from its package", published.len());
    Ok(())
}

/// What cargo knows of the workspace's packages.
pub(crate) fn packages() -> Result<Vec<Value>, String> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(crate::root());
    let mut metadata: Value =
        serde_json::from_str(&output(&mut command)?).map_err(|error| error.to_string())?;
    match metadata["packages"].take() {
        Value::Array(packages) => Ok(packages),
        _ => Err("cargo metadata: no packages".to_owned()),
    }
}

/// Removes what an earlier packaging left: the packages cargo unpacked into its home, and what it built from them.
///
/// It unpacks and builds a package of one name and version once; without this, the second packaging in a folder would be built from the sources of the first.
fn forget_earlier(packages: &[&Value]) -> Outcome {
    remove(&crate::root().join(BUILT_IN))?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let Some(home) = home.or_else(|| Some(std::env::home_dir()?.join(".cargo"))) else {
        return Err("neither CARGO_HOME nor a home directory".to_owned());
    };
    let Ok(registries) = std::fs::read_dir(home.join("registry/src")) else { return Ok(()) };
    // The folder of a registry on disk is named by a hash alone, behind the `-` that follows an empty host.
    let local = registries.flatten().filter(|it| it.file_name().to_string_lossy().starts_with('-'));
    for registry in local {
        for package in packages {
            let part = |what: &str| package[what].as_str().unwrap_or_default();
            remove(&registry.path().join(format!("{}-{}", part("name"), part("version"))))?;
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> Outcome {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(format!("{}: {error}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// What a crate's manifest does not say of it.
fn missing(package: &Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let says = |what: &str| match &package[what] {
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    let silent = SHOWN.iter().filter(|what| !says(what));
    let mut findings: Vec<String> = silent.map(|what| format!("{name}: no {what}")).collect();
    let optional = package["features"].as_object().is_some_and(|features| !features.is_empty());
    if optional && package["metadata"]["docs"]["rs"]["all-features"] != true {
        findings.push(format!("{name}: docs.rs would not show its features"));
    }
    findings
}

/// Says so where the front page of a library has no example that is run, or at least compiled, as a test.
fn without_example(package: &Value) -> Option<String> {
    let name = package["name"].as_str()?;
    let targets = package["targets"].as_array()?;
    let library = targets.iter().find(|target| target["doctest"] == true)?;
    let head = std::fs::read_to_string(library["src_path"].as_str()?).ok()?;
    (name != COMMAND && !has_example(&head)).then(|| format!("{name}: no example on page one"))
}

/// Whether a fenced block of the crate's own documentation is Rust that the documentation tests compile.
fn has_example(source: &str) -> bool {
    let mut fences = source.lines().filter_map(|line| line.strip_prefix("//! ```"));
    core::iter::from_fn(|| {
        let opened = fences.next()?;
        fences.next().map(|_closed| opened)
    })
    .any(|opened| ["", "rust", "no_run"].contains(&opened))
}

#[cfg(test)]
mod tests {
    use super::{has_example, missing};
    use serde_json::json;

    #[test]
    fn a_crate_without_description_or_keywords_is_found() {
        let mut package = json!({
            "name": "a", "description": "b", "license": "MIT", "readme": "README.md",
            "repository": "https://example.invalid", "keywords": ["iommu"], "categories": ["os"],
        });
        assert!(missing(&package).is_empty());
        package["description"] = json!(null);
        package["keywords"] = json!([]);
        assert_eq!(missing(&package), ["a: no description", "a: no keywords"]);
    }

    #[test]
    fn features_that_docs_rs_would_leave_out_are_found() {
        let mut package = json!({
            "name": "a", "description": "b", "license": "MIT", "readme": "README.md",
            "repository": "https://example.invalid", "keywords": ["iommu"], "categories": ["os"],
            "features": {"std": []},
        });
        assert_eq!(missing(&package), ["a: docs.rs would not show its features"]);
        package["metadata"] = json!({"docs": {"rs": {"all-features": true}}});
        assert!(missing(&package).is_empty());
    }

    #[test]
    fn only_rust_that_is_compiled_is_an_example() {
        assert!(has_example("//! Text.\n//!\n//! ```\n//! f();\n//! ```\n"));
        assert!(has_example("//! ```toml\n//! [a]\n//! ```\n//! ```no_run\n//! f();\n//! ```\n"));
        assert!(
            !has_example("//! ```text\n//! a picture\n//! ```\n"),
            "the end of a block opens none"
        );
        assert!(!has_example("//! ```ignore\n//! f();\n//! ```\n"));
        assert!(!has_example("/// ```\n/// of an item\n/// ```\n"));
    }
}
