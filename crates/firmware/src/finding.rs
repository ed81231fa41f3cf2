//! What the reader has to say about a description.

use alloc::string::String;
use core::fmt;

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The device or IOMMU that it is about cannot be used as described, here or by Linux.
    Error,
    /// It can be used; the description should still be mended.
    Warning,
    /// Nothing is wrong; a reader may be surprised all the same.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// One thing that a reader of the description should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Full path of the node that it is about.
    pub path: String,
    /// Stable id: one of the constants of [`crate::rule`].
    pub rule: &'static str,
    /// Which property, what is wrong with it, and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {} [{}]", self.severity, self.path, self.message, self.rule)
    }
}
