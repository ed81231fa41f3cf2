//! Which hardware driver serves which IOMMU: the one place that knows both firmware's names and the drivers.

use portcullis::{NodeFailure, ReadyInstance};
use portcullis_firmware::IommuNode;
use portcullis_platform::{Platform, Registers};
use portcullis_smmuv2::{COMPATIBLE, Quirks};
use portcullis_smmuv3::{Options, Smmu};
use std::sync::Arc;

/// The hardware families that have a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    RiscV,
    SmmuV2,
    SmmuV3,
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
    IommuDriver { name: "riscv", compatible: portcullis_riscv::COMPATIBLE, family: Family::RiscV },
];

/// NVIDIA's units are two or three MMU-500s that must be programmed alike. Whatever else such a unit says it is, one alone would leave the others as they were found.
const MIRRORED: &str = "nvidia,smmu-500";

/// What a driver is told of a unit besides its registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// What an SMMUv2's integration is known for.
    pub quirks: Quirks,
}

impl UnitOptions {
    /// What the description says of `iommu`.
    pub fn described(iommu: &IommuNode) -> Self {
        let index = u64::from(iommu.node.0);
        let quirks = Quirks::of(iommu.compatible.iter().map(String::as_str));
        Self { index, coherent: Some(iommu.coherent), quirks, ..Self::default() }
    }
}

/// What sets `iommu` apart, in stable words: the properties that firmware names, and what its driver knows its integration for.
pub fn quirk_words(iommu: &IommuNode) -> Vec<&'static str> {
    let described = iommu.quirks.iter().map(|quirk| quirk.name());
    described.chain(UnitOptions::described(iommu).quirks.words()).collect()
}

impl IommuDriver {
    /// The driver with this word in reports.
    pub fn named(name: &str) -> Option<&'static Self> {
        DRIVERS.iter().find(|driver| driver.name == name)
    }

    /// The driver that serves `iommu`: the first of its `compatible` strings that a driver knows decides, as in Linux's `of_match_node`.
    #[doc(alias = "of_match_node")]
    pub fn of(iommu: &IommuNode) -> Option<&'static Self> {
        if iommu.compatible.iter().any(|name| name == MIRRORED) {
            return None;
        }
        let drivers = |name: &String| DRIVERS.iter().find(|it| it.compatible.contains(&&**name));
        iommu.compatible.iter().find_map(drivers)
    }

    /// Brings a unit up: reset, tables installed, all streams blocked, not yet registered.
    ///
    /// # Errors
    ///
    /// Why it cannot serve, for people.
    pub fn bring_up<P: Platform, R: Registers>(
        &self,
        platform: Arc<P>,
        registers: R,
        unit: &UnitOptions,
    ) -> Result<ReadyInstance, NodeFailure> {
        match self.family {
            Family::RiscV => {
                let usual = portcullis_riscv::Options::default();
                let options = portcullis_riscv::Options {
                    index: unit.index,
                    coherent: unit.coherent,
                    command_queue_log2: unit.queue_log2.unwrap_or(usual.command_queue_log2),
                    event_queue_log2: unit.queue_log2.unwrap_or(usual.event_queue_log2),
                    stream_id_bits: unit.stream_id_bits.unwrap_or(usual.stream_id_bits),
                    ..usual
                };
                let iommu = portcullis_riscv::Iommu::bring_up(platform, registers, options);
                iommu.map(|iommu| Box::new(iommu) as _).map_err(NodeFailure::from)
            }
            Family::SmmuV2 => {
                let UnitOptions { index, coherent, quirks, .. } = *unit;
                let options = portcullis_smmuv2::Options { index, coherent, quirks };
                let smmu = portcullis_smmuv2::Smmu::bring_up(platform, registers, options);
                smmu.map(|smmu| Box::new(smmu) as _).map_err(NodeFailure::from)
            }
            Family::SmmuV3 => {
                let usual = Options::default();
                let options = Options {
                    index: unit.index,
                    coherent: unit.coherent,
                    command_queue_log2: unit.queue_log2.unwrap_or(usual.command_queue_log2),
                    event_queue_log2: unit.queue_log2.unwrap_or(usual.event_queue_log2),
                    stream_id_bits: unit.stream_id_bits.unwrap_or(usual.stream_id_bits),
                    ..usual
                };
                let smmu = Smmu::bring_up(platform, registers, options);
                smmu.map(|smmu| Box::new(smmu) as _).map_err(NodeFailure::from)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two drivers for one name would make the order of the table decide.
    #[test]
    fn no_name_belongs_to_two_drivers() {
        let names: Vec<_> = DRIVERS.iter().flat_map(|driver| driver.compatible).collect();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name} stands twice");
        }
    }
}
