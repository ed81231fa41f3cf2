//! Which protocol of the lab a kernel has.

use crate::error::Error;
use portcullis_lab::linux::Protocol;

/// Base and backports of a range of versions.
struct Range {
    from: (u32, u32, u32),
    base: &'static str,
    apply: &'static [&'static str],
    revert: &'static [&'static str],
}

/// Newest first; the first whose `from` is not above the version counts. Which release has which commit: Debian's changelogs of the packages, and the sources of
/// 6.1.192, 6.12.117, 6.18.15, 7.2.13 and 7.3.4.
const RANGES: &[Range] = &[
    Range { from: (7, 2, 0), base: "v7.3-rc7", apply: &[], revert: &[] },
    // 7.1 and before: dma_iommu is a bit field (f8670e8e43b8 is in 7.2).
    Range { from: (6, 16, 0), base: "v7.3-rc7", apply: &[], revert: &["f8670e8e43b8"] },
    Range {
        from: (6, 12, 26),
        base: "v6.12",
        apply: &["229e6ee43d2a", "b46064a18810"],
        revert: &[],
    },
    Range { from: (6, 12, 4), base: "v6.12", apply: &["229e6ee43d2a"], revert: &[] },
    Range { from: (6, 12, 0), base: "v6.12", apply: &[], revert: &[] },
    Range { from: (6, 6, 90), base: "v6.6", apply: &["b46064a18810-6.6.y"], revert: &[] },
    Range { from: (6, 6, 0), base: "v6.6", apply: &[], revert: &[] },
    Range { from: (6, 1, 120), base: "v6.1.y", apply: &[], revert: &[] },
];

/// The protocol of a kernel with this version, as its stable branch has it.
///
/// # Errors
/// [`Error::Schedule`] for versions that the lab does not know.
pub fn protocol_of(version: (u32, u32, u32)) -> Result<Protocol, Error> {
    let (major, minor, stable) = version;
    let unknown = || {
        Error::Schedule(format!(
            "the lab does not know the protocol of Linux {major}.{minor}.{stable}"
        ))
    };
    let branch = |range: &&Range| {
        // A stable branch's row counts for that branch only; the open-ended ones are those of 6.16 and later.
        range.from <= version
            && (range.from >= (6, 16, 0) || (range.from.0, range.from.1) == (major, minor))
    };
    let range = RANGES.iter().find(branch).ok_or_else(unknown)?;
    Protocol::parse(range.base, range.apply, range.revert).map_err(|error| {
        Error::Schedule(format!("the protocol of Linux {major}.{minor}.{stable}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_is_a_tree_that_can_exist() {
        let name = |version| protocol_of(version).map(|protocol| protocol.to_string());
        assert_eq!(name((6, 1, 192)).ok().as_deref(), Some("v6.1.y"));
        assert_eq!(name((7, 3, 4)).ok().as_deref(), Some("v7.3-rc7"));
        for range in RANGES {
            assert!(name(range.from).is_ok(), "{:?}: {:?}", range.from, name(range.from));
        }
        for unknown in [(5, 15, 0), (6, 1, 0), (6, 9, 3), (6, 13, 0)] {
            assert!(name(unknown).is_err(), "{unknown:?}");
        }
    }
}
