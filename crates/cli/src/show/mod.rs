//! `portcullis show`: what firmware says about a machine's IOMMUs, for people and for scripts.

mod ask;
mod diff;
mod gate;
mod html;
mod human;
mod ids;
mod json;
mod rules;
mod tree;
mod verdict;

pub use diff::Difference;
pub use gate::Gate;
pub use html::render_html;
pub use human::{View, render_human};
pub use rules::{render_rules, rules_to_json};

use portcullis_firmware::MachineDescription;

/// The description as one line of JSON (`show --json`). Fields are never renamed or removed; unknown ones may come.
pub fn to_json(machine: &MachineDescription) -> String {
    serde_json::to_string(&json::document(machine)).expect("strings and numbers only")
}

#[cfg(test)]
mod tests;
