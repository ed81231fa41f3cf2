//! Which hardware driver serves which IOMMU: the one place that knows both firmware's names and the drivers.

use crate::bring_up;
use portcullis::{NodeFailure, ReadyInstance, StreamSpec};
use portcullis_firmware::IommuNode;
use portcullis_platform::{Platform, Registers};
use portcullis_smmuv2::{COMPATIBLE, FirmwareStreams, Quirks};
use portcullis_virtio_iommu::PciLayout;
use std::sync::Arc;

/// The hardware families that have a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    AmdVi,
    RiscV,
    SmmuV2,
    SmmuV3,
    VtD,
    Virtio,
}

/// A hardware driver, and what firmware calls the units that it drives.
#[derive(Debug, PartialEq, Eq)]
pub struct IommuDriver {
    /// Its word in reports, e.g. `"smmuv3"`.
    pub name: &'static str,
    /// The devicetree `compatible` strings that it serves.
    #[doc(alias = "of_match_table")]
    pub compatible: &'static [&'static str],
    family: Family,
}

/// Every driver of this project.
pub const DRIVERS: &[IommuDriver] = &[
    IommuDriver { name: "smmuv3", compatible: &["arm,smmu-v3"], family: Family::SmmuV3 },
    IommuDriver { name: "smmuv2", compatible: COMPATIBLE, family: Family::SmmuV2 },
    IommuDriver { name: "amdvi", compatible: portcullis_amdvi::COMPATIBLE, family: Family::AmdVi },
    IommuDriver { name: "riscv", compatible: portcullis_riscv::COMPATIBLE, family: Family::RiscV },
    IommuDriver { name: "vtd", compatible: portcullis_vtd::COMPATIBLE, family: Family::VtD },
    IommuDriver {
        name: "virtio",
        compatible: portcullis_virtio_iommu::COMPATIBLE,
        family: Family::Virtio,
    },
];

/// What a driver is told of a unit besides its registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitOptions {
    /// Tells the locks of two units apart in reports.
    pub index: u64,
    /// Whether the unit's own accesses snoop the CPU's caches, as firmware says; `None` to believe the registers.
    #[doc(alias = "dma-coherent")]
    pub coherent: Option<bool>,
    /// log2 of the entries of its command and event queues; `None` for the driver's own choice.
    pub queue_log2: Option<u8>,
    /// At most this many bits of stream id; `None` for all that the unit has.
    pub stream_id_bits: Option<u8>,
    /// Whether an AMD IOMMU may hold "not present", as its PCI capability says (`NpCache`).
    pub caches_absence: bool,
    /// What an SMMUv2's integration is known for.
    pub quirks: Quirks,
    /// Where an SMMUv2's ASIDs and VMIDs begin, where several units share them.
    pub first_tag: u16,
    /// What becomes of streams that firmware left running at an SMMUv2.
    pub firmware_streams: FirmwareStreams,
    /// Where a virtio-iommu that is a PCI function has its blocks in the registers; `None` for one on the memory bus.
    pub virtio_function: Option<PciLayout>,
    /// At most this many address spaces at a time at an AMD IOMMU; `None` for all that it has.
    pub spaces: Option<u32>,
}

/// As many ASIDs and VMIDs as an SMMUv2 can have context banks.
const TAGS_OF_A_UNIT: u16 = 128;

/// A unit that serves, and what its driver found when it took it over.
#[derive(Debug)]
pub struct BroughtUp {
    /// The unit.
    pub instance: ReadyInstance,
    /// What was found, with remedies.
    pub notes: Vec<UnitNote>,
    /// The streams that firmware had left running and that go on until their client is attached.
    pub adopted: Vec<StreamSpec>,
    /// What it keeps for ever when it is stopped, because a unit of its kind that is off lets everything pass.
    pub kept: Kept,
}

/// Memory that a stopped unit goes on reading, so that nobody may have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// In how many pieces it was allocated.
    pub blocks: usize,
    /// How many bytes it has.
    pub bytes: u64,
}

impl BroughtUp {
    /// A unit about which there is nothing to say.
    pub(crate) fn of(instance: ReadyInstance) -> Self {
        Self { instance, notes: Vec::new(), adopted: Vec::new(), kept: Kept::default() }
    }
}

/// Something that a driver found when it took a unit over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitNote {
    /// A stable word for its kind.
    pub kind: &'static str,
    /// For people.
    pub words: String,
}

impl UnitOptions {
    /// What the description says of `iommu`, which is one of the machine's `all`.
    pub fn described(iommu: &IommuNode, all: &[IommuNode]) -> Self {
        let quirks = quirks(iommu);
        let before =
            |other: &&IommuNode| other.node < iommu.node && self::quirks(other).shares_tags;
        let sharers = if quirks.shares_tags { all.iter().filter(before).count() } else { 0 };
        let first_tag = u16::try_from(sharers).unwrap_or(u16::MAX).saturating_mul(TAGS_OF_A_UNIT);
        let (index, coherent) = (u64::from(iommu.node.0), Some(iommu.coherent));
        Self { index, coherent, quirks, first_tag, ..Self::default() }
    }
}

/// What the integration of an SMMUv2 is known for.
pub(crate) fn quirks(iommu: &IommuNode) -> Quirks {
    Quirks::of(iommu.compatible.iter().map(String::as_str))
}

/// What sets `iommu` apart, in stable words: the properties that firmware names, and what its driver knows its integration for.
pub fn quirk_words(iommu: &IommuNode) -> Vec<&'static str> {
    let described = iommu.quirks.iter().map(|quirk| quirk.name());
    described.chain(quirks(iommu).words()).collect()
}

impl IommuDriver {
    /// The driver with this word in reports.
    pub fn named(name: &str) -> Option<&'static Self> {
        DRIVERS.iter().find(|driver| driver.name == name)
    }

    /// The driver that serves `iommu`: the first of its `compatible` strings that a driver knows decides, as in Linux's `of_match_node`.
    #[doc(alias = "of_match_node")]
    pub fn of(iommu: &IommuNode) -> Option<&'static Self> {
        let drivers = |name: &String| DRIVERS.iter().find(|it| it.compatible.contains(&&**name));
        iommu.compatible.iter().find_map(drivers)
    }

    /// Brings a unit up: reset, tables installed, all streams blocked (but for those that it adopts), not yet registered. `mirrors` are register blocks to be programmed like the first one
    /// ([`IommuNode::mirrors`]).
    ///
    /// # Errors
    ///
    /// Why it cannot serve, for people.
    pub fn bring_up<P: Platform, R: Registers>(
        &self,
        platform: Arc<P>,
        registers: R,
        mirrors: Vec<R>,
        unit: &UnitOptions,
    ) -> Result<BroughtUp, NodeFailure> {
        if !mirrors.is_empty() && self.family != Family::SmmuV2 {
            return Err("units of this kind have one register block".into());
        }
        match self.family {
            Family::AmdVi => bring_up::amdvi(platform, registers, unit),
            Family::RiscV => bring_up::riscv(platform, registers, unit),
            Family::SmmuV2 => bring_up::smmuv2(platform, registers, mirrors, unit),
            Family::SmmuV3 => bring_up::smmuv3(platform, registers, unit),
            Family::Virtio => bring_up::virtio(platform, registers, unit),
            Family::VtD => bring_up::vtd(platform, registers, unit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux counts the context banks of the units before (`cavium_cfg_probe`); as many as a unit can have are kept for each here.
    #[test]
    fn units_that_share_tags_get_tags_of_their_own() {
        let tree = |compatible: &str| {
            let board = include_bytes!("../../../boards/mmu500.dtb");
            let mut machine =
                portcullis_firmware::read_devicetree(board, "mmu500").expect("a board");
            machine.iommus.iter_mut().for_each(|it| it.compatible = vec![compatible.into()]);
            let first = |it| UnitOptions::described(it, &machine.iommus).first_tag;
            machine.iommus.iter().map(first).collect::<Vec<_>>()
        };
        assert_eq!(tree("cavium,smmu-v2"), [0, 128, 256]);
        assert_eq!(tree("arm,smmu-v2"), [0, 0, 0]);
    }

    /// Two drivers for one name would make the order of the table decide.
    #[test]
    fn no_name_belongs_to_two_drivers() {
        let names: Vec<_> = DRIVERS.iter().flat_map(|driver| driver.compatible).collect();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name} stands twice");
        }
    }
}
