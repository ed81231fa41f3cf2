//! What integrations did to the unit, as data.

/// Differences from the document that registers do not show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// The interconnect carries register accesses of 32 bits only, so only tables whose registers have 32 bits can be used: AArch32 long descriptors.
    pub narrow_access: bool,
    /// An MMU-500, whose `sACR` has bits that keep "this stream passes" in the TLB, and whose banks prefetch wrongly (errata 841119, 826419); both are switched off.
    pub mmu500: bool,
    /// Firmware may trap `S2CR`: whether it does is tried at bring-up.
    pub may_trap_s2cr: bool,
    /// The walk cache does not find what it should drop where a table has given way to a large page or the other way round, so only the smallest pages are mapped.
    pub pages_only: bool,
    /// The units of a machine that have this share ASIDs and VMIDs: each needs an [`Options::first_tag`](crate::Options::first_tag) of its own.
    pub shares_tags: bool,
}

impl Quirks {
    const NONE: Self = Self {
        narrow_access: false,
        mmu500: false,
        may_trap_s2cr: false,
        pages_only: false,
        shares_tags: false,
    };
    const MMU500: Self = Self { mmu500: true, ..Self::NONE };
    const QUALCOMM: Self = Self { may_trap_s2cr: true, ..Self::NONE };
}

/// The devicetree `compatible` strings of units that this driver drives, each with what is known of it.
///
/// Sources: the strings are those of Linux 7.2's `arm,smmu.yaml`; the 32-bit interconnect is Marvell's erratum 582743 for the Armada AP806 (`arm-smmu-impl.c`); the trapped `S2CR` is what
/// `arm-smmu-qcom.c` (`qcom_smmu_cfg_probe`) tells of Qualcomm's firmware; the two bits of `sACR` are in Arm DDI 0517 (MMU-500, auxiliary configuration); the walk cache of Tegra194 and
/// Tegra234 is what `arm-smmu-nvidia.c` (`nvidia_smmu_init_context`) tells; the shared tags are Cavium's erratum 27704 for the CN88xx (`arm-smmu-impl.c`, `cavium_cfg_probe`).
const UNITS: [(&str, Quirks); 11] = [
    ("arm,mmu-500", Quirks::MMU500),
    ("arm,smmu-v2", Quirks::NONE),
    ("cavium,smmu-v2", Quirks { shares_tags: true, ..Quirks::NONE }),
    ("marvell,ap806-smmu-500", Quirks { narrow_access: true, ..Quirks::MMU500 }),
    ("nvidia,smmu-500", Quirks::MMU500),
    ("nvidia,tegra194-smmu", Quirks { pages_only: true, ..Quirks::MMU500 }),
    ("nvidia,tegra234-smmu", Quirks { pages_only: true, ..Quirks::MMU500 }),
    ("qcom,adreno-smmu", Quirks::QUALCOMM),
    ("qcom,smmu-500", Quirks { mmu500: true, ..Quirks::QUALCOMM }),
    ("qcom,smmu-v2", Quirks::QUALCOMM),
    ("qcom,sdm845-smmu-500", Quirks { mmu500: true, ..Quirks::QUALCOMM }),
];

/// The names alone.
pub const COMPATIBLE: &[&str] = &{
    let mut names = [""; UNITS.len()];
    let mut at = 0;
    while at < UNITS.len() {
        names[at] = UNITS[at].0;
        at += 1;
    }
    names
};

impl Quirks {
    /// Those of every one of the `compatible` strings together: a unit is all that it says it is.
    pub fn of<'a>(compatible: impl IntoIterator<Item = &'a str>) -> Self {
        compatible.into_iter().fold(Self::NONE, |known, name| {
            let unit = UNITS.iter().find(|unit| unit.0 == name);
            let more = unit.map_or(Self::NONE, |unit| unit.1);
            Self {
                narrow_access: known.narrow_access || more.narrow_access,
                mmu500: known.mmu500 || more.mmu500,
                may_trap_s2cr: known.may_trap_s2cr || more.may_trap_s2cr,
                pages_only: known.pages_only || more.pages_only,
                shares_tags: known.shares_tags || more.shares_tags,
            }
        })
    }
}

impl Quirks {
    /// A stable word for each that the unit has.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        let Self { narrow_access, mmu500, may_trap_s2cr, pages_only, shares_tags } = self;
        let all = [
            (narrow_access, "narrow-access"),
            (mmu500, "mmu-500"),
            (may_trap_s2cr, "may-trap-s2cr"),
            (pages_only, "pages-only"),
            (shares_tags, "shares-tags"),
        ];
        all.into_iter().filter_map(|(is_so, word)| is_so.then_some(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_all_that_it_says_it_is() {
        let phone = Quirks::of(["qcom,sm8250-smmu-500", "qcom,smmu-500", "arm,mmu-500"]);
        assert_eq!(phone.words().collect::<alloc::vec::Vec<_>>(), ["mmu-500", "may-trap-s2cr"]);
        assert_eq!(phone, Quirks { mmu500: true, may_trap_s2cr: true, ..Quirks::default() });
        let armada = Quirks::of(["marvell,ap806-smmu-500", "arm,mmu-500"]);
        assert!(armada.narrow_access && armada.mmu500 && !armada.may_trap_s2cr);
        let xavier = Quirks::of(["nvidia,tegra194-smmu", "nvidia,smmu-500"]);
        assert_eq!(xavier.words().collect::<alloc::vec::Vec<_>>(), ["mmu-500", "pages-only"]);
        assert!(!Quirks::of(["nvidia,tegra186-smmu", "nvidia,smmu-500"]).pages_only);
        assert_eq!(Quirks::of(["arm,smmu-v2"]), Quirks::default());
        assert_eq!(Quirks::of(["somebody,elses"]), Quirks::default());
    }
}
