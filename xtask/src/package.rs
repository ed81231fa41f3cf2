//! What would be published: every crate packaged in the order of their dependencies, and each package built from its own files alone.

use crate::run::{Outcome, cargo, output};
use serde_json::Value;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a registry shows of a crate, and what it is found by.
const SHOWN: &[&str] =
    &["description", "license", "readme", "repository", "keywords", "categories"];

/// Where packages are built, below the workspace; nothing else is.
const BUILT_IN: &str = "target/packaged";

/// Packages and builds every crate that may be published, after a look at what the registry would show of it.
pub(crate) fn check() -> Outcome {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(crate::root());
    let metadata: Value =
        serde_json::from_str(&output(&mut command)?).map_err(|error| error.to_string())?;
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    let (published, kept): (Vec<&Value>, Vec<&Value>) =
        packages.iter().partition(|package| package["publish"].is_null());
    let findings: Vec<String> = published.iter().flat_map(|package| missing(package)).collect();
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
    silent.map(|what| format!("{name}: no {what}")).collect()
}

#[cfg(test)]
mod tests {
    use super::missing;
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
}
