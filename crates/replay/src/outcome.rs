//! What a replay came to, judged by the same rules for the lab's model and for the kernel.

use crate::steer::{Doorbell, Observation, Path};
use serde::Serialize;
use std::fmt;

/// `-EPROBE_DEFER` (include/linux/errno.h).
pub(crate) const EPROBE_DEFER: i32 = -517;

/// A bad end that can be seen from outside; named as the lab's properties are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BadEnd {
    /// I1/B1: the driver began with direct DMA, and its device stays behind a translating domain.
    WrongPath,
    /// I2/B2: the DMA path changed after the driver had begun.
    PathSwitched,
    /// I8/B4: the driver began with direct DMA, and its device never got a group.
    NoIommu,
    /// I7: a driver is bound and `owner_cnt` is zero.
    Uncounted,
    /// I3/B3: a thread of the schedule died of a NULL pointer.
    Oops,
    /// I2: the message of an interrupt holds the doorbell's physical address, which the device's domain does not map.
    MsiUnmapped,
}

impl BadEnd {
    /// The lab's word; `oops` is any of its properties of invariant I3 that a thread dies of.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WrongPath => "wrong-path",
            Self::PathSwitched => "path-switched",
            Self::NoIommu => "no-iommu",
            Self::Uncounted => "uncounted",
            Self::Oops => "oops",
            Self::MsiUnmapped => "msi-unmapped",
        }
    }

    /// Does the device fail to work then?
    #[must_use]
    pub fn breaks_the_device(self) -> bool {
        self != Self::Uncounted
    }
}

/// How a schedule ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Outcome {
    /// The whole schedule ran, and this is wrong then.
    Occurred {
        /// What is wrong.
        ends: Vec<BadEnd>,
    },
    /// The client's probe was put off.
    Prevented {
        /// The function that refused.
        function: String,
        /// What it returned.
        value: i32,
    },
    /// The whole schedule ran, and nothing is wrong.
    Harmless,
    /// A thread cannot get to where the schedule wants it.
    Infeasible {
        /// At which step, from 1.
        step: usize,
    },
}

impl Outcome {
    /// What can still be compared when the client's driver failed: it has given its claim and its vectors back, so nobody can tell whether they were right.
    pub(crate) fn after_a_failed_driver(&self) -> Self {
        let Self::Occurred { ends } = self else { return self.clone() };
        let given_back = [BadEnd::Uncounted, BadEnd::MsiUnmapped];
        let left: Vec<BadEnd> =
            ends.iter().copied().filter(|end| !given_back.contains(end)).collect();
        if left.is_empty() { Self::Harmless } else { Self::Occurred { ends: left } }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Occurred { ends } => {
                let names: Vec<&str> = ends.iter().map(|end| end.name()).collect();
                write!(f, "occurred: {}", names.join(", "))
            }
            Self::Prevented { function, value: EPROBE_DEFER } => {
                write!(f, "prevented at {function}, -EPROBE_DEFER")
            }
            Self::Prevented { function, value } => write!(f, "prevented at {function}, {value}"),
            Self::Harmless => f.write_str("harmless: the whole schedule ran, nothing is wrong"),
            Self::Infeasible { step } => write!(f, "infeasible at step {step}"),
        }
    }
}

/// What the bad ends are judged by.
#[derive(Clone, Debug)]
pub(crate) struct Evidence<'a> {
    /// The DMA path when the client's driver began to probe; none if it never did.
    pub(crate) began: Option<Path>,
    /// The driver is bound.
    pub(crate) bound: bool,
    /// The client when the schedule was over.
    pub(crate) last: &'a Observation,
}

/// The bad ends of a schedule that ran.
pub(crate) fn bad_ends(evidence: &Evidence<'_>) -> Vec<BadEnd> {
    let Evidence { began, bound, last } = evidence;
    let direct = *began == Some(Path::Direct);
    let translated = last.default_domain.as_deref() == Some("DMA");
    let found = [
        (direct && translated && last.path == Path::Direct, BadEnd::WrongPath),
        (direct && last.path == Path::IommuDma, BadEnd::PathSwitched),
        (direct && !last.group, BadEnd::NoIommu),
        (*bound && last.group && last.owner_cnt == 0, BadEnd::Uncounted),
        (translated && last.domain && last.doorbell == Doorbell::Physical, BadEnd::MsiUnmapped),
    ];
    found.into_iter().filter_map(|(is, end)| is.then_some(end)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Observation {
        Observation {
            group: true,
            fwspec: true,
            default_domain: Some("DMA".into()),
            domain: true,
            owner_cnt: 1,
            path: Path::IommuDma,
            driver: true,
            doorbell: Doorbell::Mapped,
        }
    }

    fn ends(began: Option<Path>, last: &Observation) -> Vec<BadEnd> {
        bad_ends(&Evidence { began, bound: began.is_some(), last })
    }

    #[test]
    fn a_driver_that_failed_leaves_its_claim_out() {
        let ends = vec![BadEnd::PathSwitched, BadEnd::Uncounted, BadEnd::MsiUnmapped];
        let both = Outcome::Occurred { ends };
        let one = Outcome::Occurred { ends: vec![BadEnd::PathSwitched] };
        assert_eq!(both.after_a_failed_driver(), one);
        assert_eq!(one.after_a_failed_driver(), one);
        let refused = Outcome::Infeasible { step: 2 };
        assert_eq!(refused.after_a_failed_driver(), refused);
    }

    /// Each end from the words of its definition, and none in a healthy state.
    #[test]
    fn each_end_is_told_from_the_others() {
        let direct = Some(Path::Direct);
        assert_eq!(ends(Some(Path::IommuDma), &healthy()), []);
        assert_eq!(ends(direct, &healthy()), [BadEnd::PathSwitched]);
        assert_eq!(
            ends(direct, &Observation { path: Path::Direct, ..healthy() }),
            [BadEnd::WrongPath]
        );
        let physical = Observation { doorbell: Doorbell::Physical, ..healthy() };
        assert_eq!(ends(Some(Path::IommuDma), &physical), [BadEnd::MsiUnmapped]);
        let identity = Observation {
            path: Path::Direct,
            doorbell: Doorbell::Physical,
            default_domain: Some("IDENTITY".into()),
            ..healthy()
        };
        assert_eq!(ends(direct, &identity), [], "direct DMA is right behind an identity domain");
        let alone = Observation {
            group: false,
            fwspec: false,
            default_domain: None,
            domain: false,
            owner_cnt: 0,
            path: Path::Direct,
            driver: true,
            doorbell: Doorbell::Physical,
        };
        assert_eq!(ends(direct, &alone), [BadEnd::NoIommu]);
        assert_eq!(
            ends(Some(Path::IommuDma), &Observation { owner_cnt: 0, ..healthy() }),
            [BadEnd::Uncounted]
        );
        assert_eq!(
            ends(None, &Observation { driver: false, owner_cnt: 0, ..healthy() }),
            [],
            "deferred"
        );
    }
}
