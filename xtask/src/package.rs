//! What would be published: every crate packaged in the order of their dependencies, and each package built from its own files alone.

use crate::run::{Outcome, cargo, output};
use serde_json::Value;
use std::process::Command;

/// What a registry shows of a crate, and what it is found by.
const SHOWN: &[&str] =
    &["description", "license", "readme", "repository", "keywords", "categories"];

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
    let mut arguments = vec!["package", "--workspace", "--quiet", "--allow-dirty"];
    for package in kept {
        arguments.extend(["--exclude", package["name"].as_str().unwrap_or_default()]);
    }
    cargo(&arguments, &[])?;
    println!("package: {} crates, each built from its package", published.len());
    Ok(())
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
