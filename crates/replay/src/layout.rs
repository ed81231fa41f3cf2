//! Where a kernel keeps `dma_iommu`, by its type information, and whether the lab's protocol agrees.
//!
//! Bit fields of one byte are stored together: whoever stores one loads and stores all of them, so a concurrent writer of any of them can lose `dma_iommu`. Which ones
//! share its byte depends on version and configuration, so it is read from the image.

use crate::error::Error;
use crate::image::Btf;
use crate::package::Kernel;
use crate::plan::protocol_of;
use portcullis_lab::linux::Protocol;
use std::fmt;

/// Neighbours that nobody stores while a client is probed, and why (drivers/base/core.c and include/linux/device.h of 6.12.117, read).
const AT_REST: &[(&str, &str)] = &[
    ("offline_disabled", "set before device_add, for processors and memory"),
    ("offline", "stored by device_offline and device_online: processors and memory"),
    ("of_node_reused", "set before device_add"),
    ("state_synced", "stored for a supplier whose driver or bus has a sync_state"),
    ("dma_ops_bypass", "stored by architectures other than arm64"),
];

/// Where `dma_iommu` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    /// Nowhere: `dev->dma_ops` says which way DMA goes (before b5c58b2fdc42).
    Pointer,
    /// In a byte of bit fields: their names with their bits, in order, its own among them.
    Byte(Vec<(String, u32)>),
    /// A bit of a word that is changed atomically (from f8670e8e43b8 on).
    Atomic,
}

/// A kernel's layout beside the lab's.
#[derive(Clone, Debug)]
pub struct DmaIommuLayout {
    /// Where the kernel has it.
    pub home: Home,
    /// The lab's protocol for this version.
    pub protocol: Protocol,
    /// Members that the lab holds to share its byte.
    pub modelled: Vec<&'static str>,
}

impl DmaIommuLayout {
    /// Reads a kernel's.
    ///
    /// # Errors
    /// [`Error::Image`] if its types have neither `dma_iommu` nor `dma_ops`, [`Error::Schedule`] if the lab does not know the version.
    pub fn of(kernel: &Kernel) -> Result<Self, Error> {
        let protocol = protocol_of(kernel.version)?;
        let modelled = protocol.beside_dma_iommu();
        Ok(Self { home: home(&kernel.image.btf)?, protocol, modelled })
    }

    /// Neighbours in the kernel that the lab neither models nor holds to be at rest, and neighbours of the lab that the kernel keeps elsewhere. Empty if both agree.
    #[must_use]
    pub fn differences(&self) -> Vec<String> {
        let beside = self.beside();
        let at_rest = |name: &str| AT_REST.iter().any(|(known, _)| *known == name);
        let unknown = beside
            .iter()
            .filter(|name| !self.modelled.contains(name) && !at_rest(name))
            .map(|name| format!("{name} shares the byte and is not modelled"));
        let elsewhere = self
            .modelled
            .iter()
            .filter(|name| !beside.contains(name))
            .map(|name| format!("{name} is modelled and does not share the byte"));
        unknown.chain(elsewhere).collect()
    }

    /// What shares the byte.
    fn beside(&self) -> Vec<&str> {
        match &self.home {
            Home::Byte(fields) => fields
                .iter()
                .map(|(name, _)| name.as_str())
                .filter(|name| *name != "dma_iommu")
                .collect(),
            Home::Pointer | Home::Atomic => Vec::new(),
        }
    }
}

fn home(btf: &Btf) -> Result<Home, Error> {
    if let Some(fields) = btf.byte_of("device", "dma_iommu") {
        return Ok(Home::Byte(fields));
    }
    if btf.enumerator("DEV_FLAG_DMA_IOMMU").is_some() {
        return Ok(Home::Atomic);
    }
    match btf.member("device", "dma_ops") {
        Some(_) => Ok(Home::Pointer),
        None => Err(Error::Image("its struct device has neither dma_iommu nor dma_ops".into())),
    }
}

impl fmt::Display for DmaIommuLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.home {
            Home::Pointer => writeln!(f, "dev->dma_ops is a pointer: no byte is shared")?,
            Home::Atomic => {
                writeln!(f, "DEV_FLAG_DMA_IOMMU is changed atomically: no byte is shared")?
            }
            Home::Byte(fields) => {
                writeln!(f, "dma_iommu is a bit field; its byte:")?;
                for (name, bit) in fields {
                    let at_rest = AT_REST.iter().find(|(known, _)| known == name);
                    let words = match at_rest {
                        _ if name == "dma_iommu" => "",
                        _ if self.modelled.contains(&name.as_str()) => {
                            "stored while a device is probed; modelled"
                        }
                        Some((_, why)) => why,
                        None => "not modelled",
                    };
                    writeln!(f, "{}", format!("  bit {bit}  {name:<18}{words}").trim_end())?;
                }
            }
        }
        match self.differences()[..] {
            [] => writeln!(f, "as the lab's protocol {} has it", self.protocol),
            ref all => writeln!(
                f,
                "not as the lab's protocol {} has it: {}",
                self.protocol,
                all.join("; ")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::sample::Types;

    /// Type information with a `struct device` of these bit fields, from bit 0 on.
    fn device(fields: &[&str]) -> Btf {
        let mut types = Types::default();
        types.record("int", 1 << 24, 4, &[32]);
        let more: Vec<u32> = fields
            .iter()
            .zip(0..)
            .flat_map(|(name, bit)| [types.string(name), 1, 1 << 24 | bit])
            .collect();
        let count = u32::try_from(fields.len()).expect("a sample is small");
        types.record("device", 1 << 31 | 4 << 24 | count, 4, &more);
        Btf::find(&types.image()).expect("the sample is complete")
    }

    fn layout(version: (u32, u32, u32), btf: &Btf) -> DmaIommuLayout {
        let protocol = protocol_of(version).expect("a known version");
        let modelled = protocol.beside_dma_iommu();
        DmaIommuLayout { home: home(btf).expect("a layout"), protocol, modelled }
    }

    /// The row of `struct device` in include/linux/device.h, 6.12.117, as arm64 is configured.
    const ROW: &[&str] = &[
        "offline_disabled",
        "offline",
        "of_node_reused",
        "state_synced",
        "can_match",
        "dma_coherent",
        "dma_skip_sync",
        "dma_iommu",
    ];

    #[test]
    fn the_row_of_6_12_is_the_one_that_is_modelled() {
        let found = layout((6, 12, 118), &device(ROW));
        assert_eq!(found.differences(), Vec::<String>::new());
        assert!(found.to_string().contains("bit 7  dma_iommu\n"), "{found}");
    }

    #[test]
    fn a_layout_that_the_lab_does_not_have_is_noticed() {
        let one_more = [&ROW[..7], &["dma_parity", "dma_iommu"][..]].concat();
        let found = layout((6, 12, 118), &device(&one_more));
        assert_eq!(found.differences().len(), 3, "in the next byte dma_iommu is alone: {found}");
        let other = [&["dma_parity"][..], &ROW[1..]].concat();
        let found = layout((6, 12, 118), &device(&other));
        assert_eq!(found.differences(), ["dma_parity shares the byte and is not modelled"]);
        // Linux 7.3 has no such byte.
        let found = layout((7, 3, 4), &device(ROW));
        assert_eq!(found.differences().len(), 3, "{found}");
    }

    #[test]
    fn pointers_and_atomic_flags_share_nothing() {
        let mut types = Types::default();
        types.record("int", 1 << 24, 4, &[32]);
        let name = types.string("dma_ops");
        types.record("device", 4 << 24 | 1, 8, &[name, 1, 0]);
        let pointer = Btf::find(&types.image()).expect("the sample is complete");
        let found = layout((6, 1, 192), &pointer);
        assert_eq!((found.home.clone(), found.differences()), (Home::Pointer, Vec::new()));
        let flag = types.string("DEV_FLAG_DMA_IOMMU");
        types.record("flags", 6 << 24 | 1, 4, &[flag, 7]);
        let atomic = Btf::find(&types.image()).expect("the sample is complete");
        let found = layout((7, 3, 4), &atomic);
        assert_eq!((found.home.clone(), found.differences()), (Home::Atomic, Vec::new()));
    }
}
