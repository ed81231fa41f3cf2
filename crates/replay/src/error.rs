//! What can go wrong outside of the experiment itself.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a replay could not be done. A replay that was done and showed something else is a verdict, not an error.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something.
    Io {
        /// What was being done.
        what: String,
        /// Its answer.
        error: std::io::Error,
    },
    /// A file is not what it should be.
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The kernel image lacks something that steering needs.
    Image(String),
    /// A symbol is not in the kernel's table.
    NoSymbol {
        /// Its name.
        name: String,
        /// Why it was wanted.
        wanted: String,
    },
    /// A stop cannot be placed in this kernel.
    Stop {
        /// The stop.
        stop: String,
        /// Why not.
        why: String,
    },
    /// Nobody may sleep at a stop, so a thread cannot be parked there.
    NotParkable {
        /// The stop.
        stop: String,
        /// What forbids it.
        why: String,
    },
    /// The gdb stub said something unexpected.
    Stub(String),
    /// The gdb stub did not answer in time.
    Silent {
        /// To what.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// The connection to the machine ended.
    Closed,
    /// This guest address cannot be read.
    Memory(u64),
    /// QEMU is missing or too old for a board.
    Qemu(String),
    /// The board cannot carry the schedule.
    Board(String),
    /// The schedule cannot be read or used.
    Schedule(String),
    /// A package could not be had.
    Fetch(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { what, error } => write!(f, "{what}: {error}"),
            Self::File { path, what } => write!(f, "{}: {what}", path.display()),
            Self::Image(what) => write!(f, "the kernel image: {what}"),
            Self::NoSymbol { name, wanted } => {
                write!(f, "this kernel has no symbol `{name}`, which is needed for {wanted}")
            }
            Self::Stop { stop, why } => write!(f, "the stop `{stop}`: {why}"),
            Self::NotParkable { stop, why } => {
                write!(f, "a thread cannot be parked at `{stop}`: {why}; choose another stop")
            }
            Self::Stub(what) => write!(f, "QEMU's gdb stub: {what}"),
            Self::Silent { what, after } => {
                write!(f, "QEMU's gdb stub did not answer `{what}` within {} s", after.as_secs())
            }
            Self::Closed => f.write_str("the machine ended"),
            Self::Memory(address) => write!(f, "guest memory at {address:#x} cannot be read"),
            Self::Qemu(what) | Self::Board(what) | Self::Schedule(what) | Self::Fetch(what) => {
                f.write_str(what)
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// For `map_err`: says what was being done.
pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    move |error| Error::Io { what, error }
}

/// As [`io`], for a file.
pub(crate) fn io_at(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    io(path.display().to_string())
}
