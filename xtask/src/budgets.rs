//! Rooms stay small (CONTRIBUTING.md, `small-rooms`): functions of 60 lines and files of 800 at most, tests excluded, and the 90th percentile below 25 and 500.

use crate::run::Outcome;
use std::path::{Path, PathBuf};
use syn::spanned::Spanned;
use syn::visit::Visit;

const FUNCTION_LIMIT: usize = 60;
const FUNCTION_P90: usize = 25;
const FILE_LIMIT: usize = 800;
const FILE_P90: usize = 500;

/// Measures every source file that is not a test.
pub(crate) fn check() -> Outcome {
    let mut sizes = Sizes::default();
    for folder in ["crates", "xtask"] {
        sizes.walk(&crate::root().join(folder))?;
    }
    let functions = percentile_90(&mut sizes.functions);
    let files = percentile_90(&mut sizes.files);
    println!(
        "budgets: {} functions (p90 {functions} lines), {} files (p90 {files} lines)",
        sizes.functions.len(),
        sizes.files.len()
    );
    if functions > FUNCTION_P90 {
        sizes.findings.push(format!("functions: p90 is {functions}, the budget {FUNCTION_P90}"));
    }
    if files > FILE_P90 {
        sizes.findings.push(format!("files: p90 is {files}, the budget {FILE_P90}"));
    }
    if sizes.findings.is_empty() {
        Ok(())
    } else {
        Err(format!("\n  {}", sizes.findings.join("\n  ")))
    }
}

#[derive(Default)]
struct Sizes {
    functions: Vec<usize>,
    files: Vec<usize>,
    findings: Vec<String>,
}

impl Sizes {
    fn walk(&mut self, folder: &Path) -> Outcome {
        let entries =
            std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut paths: Vec<PathBuf> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir()
                && !["tests", "benches", "examples", "target", "support"].contains(&name.as_str())
            {
                self.walk(&path)?;
            } else if name.ends_with(".rs") && name != "tests.rs" && !name.ends_with("_tests.rs") {
                self.measure(&path)?;
            }
        }
        Ok(())
    }

    fn measure(&mut self, path: &Path) -> Outcome {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let file =
            syn::parse_file(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut functions = Functions { test_lines: 0, lengths: Vec::new() };
        functions.visit_file(&file);
        let lines = text.lines().count().saturating_sub(functions.test_lines);
        let shown = path.strip_prefix(crate::root()).unwrap_or(path).display();
        if lines > FILE_LIMIT {
            self.findings
                .push(format!("{shown}: {lines} lines without its tests; {FILE_LIMIT} at most"));
        }
        for (name, length) in &functions.lengths {
            if *length > FUNCTION_LIMIT {
                self.findings.push(format!(
                    "{shown}: fn {name} has {length} lines; {FUNCTION_LIMIT} at most"
                ));
            }
        }
        self.files.push(lines);
        self.functions.extend(functions.lengths.iter().map(|(_, length)| *length));
        Ok(())
    }
}

struct Functions {
    test_lines: usize,
    lengths: Vec<(String, usize)>,
}

impl Functions {
    fn add(&mut self, name: &syn::Ident, body: &impl Spanned) {
        self.lengths.push((name.to_string(), lines_of(body)));
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if is_test(&module.attrs) {
            self.test_lines += lines_of(module);
        } else {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add(&function.sig.ident, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig.ident, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.add(&function.sig.ident, body);
        }
    }
}

fn lines_of(item: &impl Spanned) -> usize {
    let span = item.span();
    span.end().line.saturating_sub(span.start().line) + 1
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

fn percentile_90(values: &mut [usize]) -> usize {
    values.sort_unstable();
    values.get(values.len() * 9 / 10).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_function_and_a_test_module_are_told_apart() {
        let text = "fn long() {\n1;\n2;\n}\n#[cfg(test)]\nmod tests {\nfn unseen() {}\n}\n";
        let mut functions = Functions { test_lines: 0, lengths: Vec::new() };
        functions.visit_file(&syn::parse_file(text).expect("valid Rust"));
        assert_eq!(functions.lengths, [("long".to_string(), 4)]);
        assert_eq!(functions.test_lines, 4);
        assert_eq!(percentile_90(&mut [9, 1, 2, 3, 4, 5, 6, 7, 8, 10]), 10);
    }
}
