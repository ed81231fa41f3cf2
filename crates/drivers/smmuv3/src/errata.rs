//! Known errata of implementations, as data: who is affected, what follows, and where that is written.
//!
//! Arm's errata notices are not public in full. The sources are the commits in which Arm's and others' engineers taught Linux to avoid them; the facts
//! are theirs, and a row is added only with such a source. Two more are known and not in `IIDR`'s reach, because firmware has to name them: Cavium 74 (all
//! registers in one page; such a block is refused as too small) and HiSilicon 161010701 (prefetch commands; this driver sends none).

use core::fmt;
use portcullis_spec::smmuv3::iidr;

/// Who made a unit, as `IIDR` says (§6.3.7). All zero where the implementer chose not to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Implementation {
    /// JEP106 code of the implementer; Arm's is 0x43b.
    pub implementer: u16,
    /// The product.
    pub product: u16,
    /// Major revision: the n of rnpm.
    pub variant: u8,
    /// Minor revision: the m of rnpm.
    pub revision: u8,
}

impl Implementation {
    /// Decodes `IIDR`.
    pub(crate) fn of(register: u64) -> Self {
        Self {
            implementer: iidr::IMPLEMENTER.get(register) as u16,
            product: iidr::PRODUCT_ID.get(register) as u16,
            variant: iidr::VARIANT.get(register) as u8,
            revision: iidr::REVISION.get(register) as u8,
        }
    }
}

impl fmt::Display for Implementation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { implementer, product, variant, revision } = *self;
        match (implementer, product) {
            (0, 0) => f.write_str("unknown implementation"),
            (ARM, MMU_600) => write!(f, "Arm MMU-600 r{variant}p{revision}"),
            (ARM, MMU_700) => write!(f, "Arm MMU-700 r{variant}p{revision}"),
            _ => {
                write!(f, "implementer {implementer:#x} product {product:#x} r{variant}p{revision}")
            }
        }
    }
}

/// What an erratum takes away or asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Consequence {
    /// Certain sequences of invalidation commands need a CMD_SYNC between them. This driver never queues two kinds of command without one, whatever the unit is.
    SyncBetweenKinds,
    /// Broadcast TLB maintenance cannot be ordered against commands and must stay off. This driver always turns it off (`CR2.PTM`).
    NoBroadcastMaintenance,
    /// CMD_SYNC must not signal its completion by an event to the CPUs. This driver does not use that.
    NoSendEvent,
    /// TLB invalidation is wrong while both stages translate. This driver does not nest stages.
    NoNesting,
}

/// One erratum of one product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erratum {
    /// The implementer's number for it.
    pub number: u32,
    implementer: u16,
    product: u16,
    /// The last revision that has it, as (variant, revision); all have it where the maker has not said otherwise.
    last: (u8, u8),
    /// What follows.
    pub consequence: Consequence,
    /// The Linux commit that says so.
    pub source: &'static str,
}

impl Erratum {
    const fn arm(
        number: u32,
        product: u16,
        consequence: Consequence,
        source: &'static str,
    ) -> Self {
        Self { number, implementer: ARM, product, last: (u8::MAX, u8::MAX), consequence, source }
    }

    const fn until(mut self, variant: u8, revision: u8) -> Self {
        self.last = (variant, revision);
        self
    }

    fn affects(&self, unit: Implementation) -> bool {
        self.implementer == unit.implementer
            && self.product == unit.product
            && (unit.variant, unit.revision) <= self.last
    }
}

const ARM: u16 = 0x43b;
const MMU_600: u16 = 0x483;
const MMU_700: u16 = 0x487;

/// All that are known. `IIDR` has four bits for each half of a revision, so "before r2" ends at r1p15.
const ERRATA: &[Erratum] = &[
    Erratum::arm(1_076_982, MMU_600, Consequence::NoSendEvent, "f322e8af35c7").until(0, 2),
    Erratum::arm(1_209_401, MMU_600, Consequence::NoNesting, "0bfbfc526c70").until(1, 15),
    Erratum::arm(2_812_531, MMU_700, Consequence::SyncBetweenKinds, "309a15cb16bb"),
    Erratum::arm(2_812_531, MMU_700, Consequence::NoBroadcastMaintenance, "309a15cb16bb"),
    Erratum::arm(2_268_618, MMU_700, Consequence::NoNesting, "0bfbfc526c70"),
];

/// The errata of a unit.
pub(crate) fn of(unit: Implementation) -> impl Iterator<Item = &'static Erratum> {
    ERRATA.iter().filter(move |erratum| erratum.affects(unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn numbers(register: u64) -> Vec<u32> {
        of(Implementation::of(register)).map(|erratum| erratum.number).collect()
    }

    /// The conditions are those of `arm_smmu_device_iidr_probe` in Linux 6.5 and later.
    #[test]
    fn revisions_are_told_apart() {
        let mmu600 = |variant: u64, revision: u64| 0x4830_043b | variant << 16 | revision << 12;
        assert_eq!(numbers(mmu600(0, 0)), [1_076_982, 1_209_401]);
        assert_eq!(numbers(mmu600(0, 2)), [1_076_982, 1_209_401]);
        assert_eq!(numbers(mmu600(0, 3)), [1_209_401]);
        assert_eq!(numbers(mmu600(1, 15)), [1_209_401]);
        assert_eq!(numbers(mmu600(2, 0)), []);
        for revision in [0x4870_043b, 0x4871_043b, 0x487f_f43b] {
            assert_eq!(numbers(revision), [2_812_531, 2_812_531, 2_268_618]);
        }
        // Another product, another implementer with the same product number, and QEMU, which does not say.
        assert_eq!(numbers(0x4850_043b), []);
        assert_eq!(numbers(0x4870_0736), []);
        assert_eq!(numbers(0), []);
    }
}
