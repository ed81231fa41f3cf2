//! Which protocol of the lab a kernel has.

use crate::error::Error;
use portcullis_lab::linux::{BaseId, Protocol, Release};

/// The protocol of a kernel with this version, as its stable branch has it.
///
/// # Errors
/// [`Error::Schedule`] for versions that the lab does not know.
pub fn protocol_of(version: Release) -> Result<Protocol, Error> {
    let (major, minor, stable) = version;
    BaseId::of_release(version).map(Protocol::of).ok_or_else(|| {
        let words = format!("the lab does not know the protocol of Linux {major}.{minor}.{stable}");
        Error::Schedule(words)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of docs/linux-versions.md, and what is between them.
    #[test]
    fn each_release_has_the_protocol_of_its_branch() {
        let name = |version| protocol_of(version).map(|protocol| protocol.to_string());
        for (version, base) in [
            ((6, 1, 192), "v6.1.y"),
            ((6, 6, 89), "v6.6"),
            ((6, 6, 90), "v6.6.y"),
            ((6, 12, 3), "v6.12"),
            ((6, 12, 4), "v6.13-rc5"),
            ((6, 12, 117), "v6.12.y"),
            ((6, 16, 3), "v6.16"),
            ((6, 18, 15), "v6.16"),
            ((7, 2, 13), "v7.3-rc7"),
            ((7, 3, 4), "v7.3-rc7"),
        ] {
            assert_eq!(name(version).ok().as_deref(), Some(base), "{version:?}");
        }
        for unknown in [(5, 15, 0), (6, 1, 0), (6, 9, 3), (6, 13, 0), (6, 15, 1)] {
            assert!(name(unknown).is_err(), "{unknown:?}");
        }
    }
}
