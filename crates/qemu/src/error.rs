//! What can go wrong between this process and QEMU.

use crate::find::{NotFound, Version};
use crate::pci::Bdf;
use std::fmt;
use std::io;
use std::time::Duration;

/// A failure, together with the last words of the QEMU concerned.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    last_words: Option<LastWords>,
}

/// The end of what a QEMU wrote to its standard error.
#[derive(Debug)]
pub(crate) struct LastWords {
    pub(crate) text: String,
    pub(crate) exit: Option<String>,
}

/// What went wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No QEMU for the architecture on this system.
    NotFound(NotFound),
    /// This QEMU cannot do it.
    Unsupported {
        /// What was asked for.
        what: String,
        /// The version that was found.
        version: Version,
    },
    /// A call of the operating system failed.
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// No answer in time.
    Timeout {
        /// What was waited for.
        what: String,
        /// The bound that passed.
        after: Duration,
    },
    /// QEMU closed its end: it ended, or never started.
    Closed {
        /// What was waited for.
        what: String,
    },
    /// An answer that the protocol does not know.
    Malformed {
        /// The request.
        what: String,
        /// The answer.
        answer: String,
    },
    /// QEMU said no.
    Refused {
        /// The request.
        what: String,
        /// Its words.
        answer: String,
    },
    /// An earlier failure left the connection out of step; nothing more can be said over it.
    Lost {
        /// That failure.
        first: String,
    },
    /// A PCI function is not what it should be, or does not fit the windows.
    Pci {
        /// The function.
        address: Bdf,
        /// What is wrong.
        what: String,
    },
    /// A device did not do what its document says.
    Device {
        /// The device.
        device: &'static str,
        /// What it did.
        what: String,
    },
}

impl Error {
    /// What went wrong, without QEMU's last words.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// The tail of QEMU's standard error, where there is one.
    pub fn stderr(&self) -> Option<&str> {
        self.0.last_words.as_ref().map(|words| words.text.as_str())
    }

    pub(crate) fn with_last_words(kind: ErrorKind, last_words: LastWords) -> Self {
        Self(Box::new(Inner { kind, last_words: Some(last_words) }))
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self(Box::new(Inner { kind, last_words: None }))
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(error) => write!(f, "{error}"),
            Self::Unsupported { what, version } => {
                write!(f, "QEMU {version} does not offer {what}; QEMU 10.0 does")
            }
            Self::Io { what, error } => write!(f, "{what}: {error}"),
            Self::Timeout { what, after } => write!(f, "{what}: no answer from QEMU in {after:?}"),
            Self::Closed { what } => write!(f, "{what}: QEMU closed the connection"),
            Self::Malformed { what, answer } => {
                write!(f, "{what}: QEMU's answer {answer:?} is not one of the protocol's")
            }
            Self::Refused { what, answer } => write!(f, "{what}: QEMU refused: {answer}"),
            Self::Lost { first } => write!(f, "connection to QEMU unusable since: {first}"),
            Self::Pci { address, what } => write!(f, "PCI function {address}: {what}"),
            Self::Device { device, what } => write!(f, "{device}: {what}"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.kind)?;
        let Some(words) = &self.0.last_words else { return Ok(()) };
        if let Some(exit) = &words.exit {
            write!(f, "; {exit}")?;
        }
        write!(f, "; its standard error: {}", words.text.trim_end())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.kind {
            ErrorKind::Io { error, .. } => Some(error),
            ErrorKind::NotFound(error) => Some(error),
            _ => None,
        }
    }
}
