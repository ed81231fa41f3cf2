//! `portcullis show`: what a devicetree says about a machine's IOMMUs, for people and for scripts.

mod human;
mod json;
mod table;

pub use human::render_human;
use portcullis_firmware::MachineDescription;

/// The description as one line of JSON (`show --json`). Fields are never renamed or removed; unknown ones may come.
pub fn to_json(machine: &MachineDescription) -> String {
    serde_json::to_string(&json::document(machine)).expect("strings and numbers only")
}

#[cfg(test)]
mod tests;
