//! `portcullis schema`: what programs may rely on in the JSON that is printed.

/// The documents that have a schema (JSON Schema, draft 2020-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Document {
    /// `show --json`.
    Show,
    /// `boot --json`.
    Boot,
    /// `boot --repeat N --json`.
    BootRepeat,
}

impl Document {
    /// The schema's text.
    pub fn schema(self) -> &'static str {
        match self {
            Self::Show => include_str!("../schema/show.json"),
            Self::Boot => include_str!("../schema/boot.json"),
            Self::BootRepeat => include_str!("../schema/boot-repeat.json"),
        }
    }
}
