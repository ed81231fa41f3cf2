//! `portcullis show`: what a devicetree says about a machine's IOMMUs, for people and for scripts.

mod human;
mod json;
mod table;

pub(crate) use human::render_human;
pub(crate) use json::to_json;

#[cfg(test)]
mod tests;
