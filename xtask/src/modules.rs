//! No import circle between the modules of a crate: read bottom up, every room uses only rooms below it.
//!
//! Looks at the paths that begin with `crate` in the sources themselves, inside of macros too. Tests are left out, and so are methods that are called on a value: only
//! names can make a circle here.

use crate::run::Outcome;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Folders whose entries are modules beside each other, and the path from the crate to them.
const FOLDERS: &[(&str, &[&str])] = &[
    ("crates/portcullis/src", &[]),
    ("crates/machine/src", &[]),
    ("crates/lab/src/ours", &["ours"]),
];

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Fails on a circle in one of [`FOLDERS`].
pub(crate) fn check() -> Outcome {
    let mut findings = Vec::new();
    let mut modules = 0;
    for (folder, prefix) in FOLDERS {
        let graph = read(&crate::root().join(folder), prefix)?;
        modules += graph.len();
        findings.extend(circle(&graph).map(|circle| format!("{folder}: {}", circle.join(" -> "))));
    }
    if findings.is_empty() {
        println!("modules: no circle among {modules} modules of {} folders", FOLDERS.len());
        return Ok(());
    }
    Err(format!("modules that import each other in a circle:\n  {}", findings.join("\n  ")))
}

/// Which module names which, for every module in `folder`.
fn read(folder: &Path, prefix: &[&str]) -> Result<Graph, String> {
    let mut graph = Graph::new();
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if ["lib", "main", "mod"].contains(&stem) || stem.ends_with("_tests") {
            continue;
        }
        add(&path, prefix, graph.entry(stem.to_string()).or_default())?;
    }
    let known: BTreeSet<String> = graph.keys().cloned().collect();
    for (module, named) in &mut graph {
        named.retain(|name| name != module && known.contains(name));
    }
    Ok(graph)
}

/// Adds what the sources at `path`, a file or a folder, name.
fn add(path: &Path, prefix: &[&str], named: &mut BTreeSet<String>) -> Outcome {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|e| format!("{}: {e}", path.display()))?;
        for entry in entries {
            add(&entry.map_err(|error| error.to_string())?.path(), prefix, named)?;
        }
        return Ok(());
    }
    let test = path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("tests"));
    if path.extension().is_some_and(|extension| extension == "rs") && !test {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        named.extend(names(&text, prefix).map_err(|e| format!("{}: {e}", path.display()))?);
    }
    Ok(())
}

/// The modules that a source names by paths from the crate.
fn names(source: &str, prefix: &[&str]) -> Result<BTreeSet<String>, String> {
    let tokens: TokenStream = source.parse().map_err(|error| format!("{error}"))?;
    let mut names = BTreeSet::new();
    scan(tokens, prefix, &mut names);
    Ok(names)
}

fn scan(tokens: TokenStream, prefix: &[&str], names: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut index = 0;
    while index < tokens.len() {
        match &tokens[index] {
            TokenTree::Group(group) if is_test(group) => index = item_end(&tokens, index + 1),
            TokenTree::Group(group) => scan(group.stream(), prefix, names),
            TokenTree::Ident(ident) if ident == "crate" => {
                follow(&tokens[index + 1..], prefix, names);
            }
            _ => {}
        }
        index += 1;
    }
}

/// Whether it is the `[cfg(test)]` of an attribute.
fn is_test(group: &proc_macro2::Group) -> bool {
    group.delimiter() == Delimiter::Bracket && group.stream().to_string().starts_with("cfg (test")
        || group.stream().to_string() == "cfg(test)"
}

/// Where the item that begins at `index` ends: at its body or its semicolon.
fn item_end(tokens: &[TokenTree], index: usize) -> usize {
    let ends = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(punct) => punct.as_char() == ';',
        TokenTree::Ident(_) | TokenTree::Literal(_) => false,
    };
    let end = tokens.iter().skip(index).position(ends);
    end.map_or(tokens.len(), |end| index + end)
}

/// Follows a path behind `crate` or behind a part of `prefix`.
fn follow(rest: &[TokenTree], prefix: &[&str], names: &mut BTreeSet<String>) {
    let is_colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    if !is_colon(rest.first()) || !is_colon(rest.get(1)) {
        return;
    }
    match rest.get(2) {
        Some(TokenTree::Ident(ident)) => match prefix.split_first() {
            None => _ = names.insert(ident.to_string()),
            Some((first, deeper)) if ident == first => follow(&rest[3..], deeper, names),
            Some(_) => {}
        },
        Some(TokenTree::Group(group)) if prefix.is_empty() => {
            // `crate::{a, b::C}`: the first name of each entry.
            let mut first = true;
            for token in group.stream() {
                match token {
                    TokenTree::Ident(ident) if first => {
                        names.insert(ident.to_string());
                        first = false;
                    }
                    TokenTree::Punct(punct) if punct.as_char() == ',' => first = true,
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// A circle, its first module named again at its end; `None` where there is none.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    let mut left = graph.clone();
    // Whatever names nobody that is left is below all others.
    while let Some(lowest) = left.iter().find(|(_, named)| named.is_empty()) {
        let lowest = lowest.0.clone();
        left.remove(&lowest);
        left.values_mut().for_each(|named| _ = named.remove(&lowest));
    }
    // Everybody who is left names somebody who is left, so a walk comes round.
    let mut walk = vec![left.keys().next()?.clone()];
    loop {
        let next = left[walk.last()?].first()?.clone();
        if let Some(start) = walk.iter().position(|module| *module == next) {
            walk.push(next);
            return Some(walk.split_off(start));
        }
        walk.push(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(sources: &[(&str, &str)], prefix: &[&str]) -> Graph {
        let read = |source: &str| names(source, prefix).expect("valid Rust");
        sources.iter().map(|(name, source)| (name.to_string(), read(source))).collect()
    }

    #[test]
    fn a_planted_circle_is_found() {
        let sources = [
            ("device", "use crate::group::Group; pub struct Device(Group);"),
            ("group", "use crate::{node::Node, words}; fn f() { let _ = Node; }"),
            ("node", "pub struct Node; fn f() { vec![crate::device::Device::new()]; }"),
            ("words", ""),
        ];
        let circle = circle(&graph(&sources, &[])).expect("node names device by a path");
        assert_eq!(circle, ["device", "group", "node", "device"]);
    }

    #[test]
    fn tests_and_documentation_make_no_circle() {
        let sources = [
            ("a", "use crate::b::B; #[cfg(test)] mod tests { use crate::b; }"),
            (
                "b",
                "/// See [`crate::a::A`].\npub struct B; #[cfg(test)] mod tests { use crate::a::A; }",
            ),
        ];
        assert_eq!(circle(&graph(&sources, &[])), None);
    }

    #[test]
    fn a_folder_inside_a_crate_is_looked_at_alone() {
        let sources = [
            ("stage", "use crate::ours::world::World; use crate::picture::Ladder;"),
            ("world", "use crate::ours::stage::Stage;"),
        ];
        assert_eq!(circle(&graph(&sources, &["ours"])).expect("both ways").len(), 3);
    }
}
