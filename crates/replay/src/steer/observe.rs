//! Looking at a device from outside: the fields that the lab predicts.

use crate::error::Error;
use crate::gdb::Client;
use crate::image::{Btf, Place};
use serde::Serialize;
use std::fmt;

/// Where the fields are in this kernel's structures.
#[derive(Debug)]
pub(crate) struct Offsets {
    /// `task_struct.comm`.
    pub(crate) comm: u64,
    /// `task_struct.pid`.
    pub(crate) pid: u64,
    /// `task_struct.thread_info.preempt_count`.
    pub(crate) preempt_count: u64,
    device_name: u64,
    device_group: u64,
    device_iommu: u64,
    device_driver: u64,
    path: PathField,
    group_default_domain: u64,
    group_domain: u64,
    group_owner_cnt: u64,
    domain_type: u64,
    fwspec: u64,
    /// Of a `struct pci_dev`: its `dev`, and `msix_base`.
    pci: [u64; 2],
}

/// Where a device's DMA path is kept.
#[derive(Clone, Copy, Debug)]
enum PathField {
    /// `dev->dma_ops`: NULL is direct (to 6.11).
    Ops(u64),
    /// A bit: `dev->dma_iommu` (6.12 to 7.1), or in `dev->flags` (7.2 on).
    Bit(Place),
}

/// Which way a device's DMA goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Path {
    /// By physical addresses.
    Direct,
    /// Through iommu-dma.
    IommuDma,
}

/// Where the message of a device's first interrupt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Doorbell {
    /// The driver has allocated no vectors.
    None,
    /// To the doorbell's physical address: right without an IOMMU only.
    Physical,
    /// To an address that the device's domain maps to the doorbell.
    Mapped,
}

/// GITS_TRANSLATER of the board's ITS: `VIRT_GIC_ITS` is at 0x0808_0000 (hw/arm/virt.c), its translation page is the second 64 KiB, the register at 0x40 there
/// (IHI 0069, 12.18 "GITS_TRANSLATER").
const ITS_DOORBELL: u64 = 0x0808_0000 + 0x1_0000 + 0x40;

/// A device at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Observation {
    /// `dev->iommu_group` is set.
    pub(crate) group: bool,
    /// The fwspec is there.
    pub(crate) fwspec: bool,
    /// The type of `group->default_domain`.
    pub(crate) default_domain: Option<String>,
    /// `group->domain` is set.
    pub(crate) domain: bool,
    /// `group->owner_cnt`.
    pub(crate) owner_cnt: u32,
    /// The DMA path.
    pub(crate) path: Path,
    /// `dev->driver` is set.
    pub(crate) driver: bool,
    /// The first interrupt's message.
    pub(crate) doorbell: Doorbell,
}

impl Offsets {
    /// Looks the fields up.
    pub(crate) fn read(btf: &Btf) -> Result<Self, Error> {
        let find = |name: &str, path: &str| btf.member(name, path);
        let byte = |name: &str, path: &str| {
            let place = find(name, path)
                .ok_or_else(|| Error::Image(format!("its BTF has no {name}.{path}")));
            place.map(|place| place.byte)
        };
        let flag = || {
            let bit = u64::from(btf.enumerator("DEV_FLAG_DMA_IOMMU")?);
            let flags = find("device", "flags")?;
            Some(Place { byte: flags.byte + bit / 8, bit: (bit % 8) as u32 })
        };
        let path = match find("device", "dma_iommu").or_else(flag) {
            Some(place) => PathField::Bit(place),
            None => PathField::Ops(byte("device", "dma_ops")?),
        };
        Ok(Self {
            comm: byte("task_struct", "comm")?,
            pid: byte("task_struct", "pid")?,
            preempt_count: byte("task_struct", "thread_info.preempt_count")?,
            device_name: byte("device", "kobj.name")?,
            device_group: byte("device", "iommu_group")?,
            device_iommu: byte("device", "iommu")?,
            device_driver: byte("device", "driver")?,
            path,
            group_default_domain: byte("iommu_group", "default_domain")?,
            group_domain: byte("iommu_group", "domain")?,
            group_owner_cnt: byte("iommu_group", "owner_cnt")?,
            domain_type: byte("iommu_domain", "type")?,
            fwspec: byte("dev_iommu", "fwspec")?,
            pci: [byte("pci_dev", "dev")?, byte("pci_dev", "msix_base")?],
        })
    }

    /// The name of the `struct device` at `device`; empty if that is no device.
    pub(crate) fn device_name(&self, client: &mut Client, device: u64) -> String {
        let name = client.word(device.wrapping_add(self.device_name));
        name.and_then(|name| client.text(name, 64)).unwrap_or_default()
    }

    /// Reads a device, and if wanted the first message that was composed for it, which needs a PCI function.
    pub(crate) fn observe(
        &self,
        client: &mut Client,
        device: u64,
        with_doorbell: bool,
    ) -> Result<Observation, Error> {
        let group = client.word(device + self.device_group)?;
        let iommu = client.word(device + self.device_iommu)?;
        let in_group = |client: &mut Client, offset: u64| {
            if group == 0 { Ok(0) } else { client.word(group + offset) }
        };
        let default_domain = in_group(client, self.group_default_domain)?;
        let domain = in_group(client, self.group_domain)?;
        let owner_cnt = match group {
            0 => 0,
            group => client.half_word(group + self.group_owner_cnt)?,
        };
        Ok(Observation {
            group: group != 0,
            fwspec: iommu != 0 && client.word(iommu + self.fwspec)? != 0,
            default_domain: match default_domain {
                0 => None,
                domain => Some(domain_type(client.half_word(domain + self.domain_type)?)),
            },
            domain: domain != 0,
            owner_cnt,
            path: self.path(client, device)?,
            driver: client.word(device + self.device_driver)? != 0,
            doorbell: match with_doorbell {
                true => self.doorbell(client, device)?,
                false => Doorbell::None,
            },
        })
    }

    /// What the first entry of the device's MSI-X table says (PCI Express base specification 6.0, 7.7.2.3): it is the device's memory, mapped at `msix_base`.
    fn doorbell(&self, client: &mut Client, device: u64) -> Result<Doorbell, Error> {
        let [inside, table] = self.pci;
        let table = client.word(device.wrapping_sub(inside) + table)?;
        let message = if table == 0 { 0 } else { client.word(table)? };
        Ok(doorbell(message))
    }

    fn path(&self, client: &mut Client, device: u64) -> Result<Path, Error> {
        let through_iommu = match self.path {
            PathField::Ops(offset) => client.word(device + offset)? != 0,
            PathField::Bit(place) => client
                .memory(device + place.byte, 1)?
                .first()
                .is_some_and(|byte| byte >> place.bit & 1 != 0),
        };
        Ok(if through_iommu { Path::IommuDma } else { Path::Direct })
    }
}

/// Which way a message goes to the ITS.
fn doorbell(message: u64) -> Doorbell {
    match message {
        0 => Doorbell::None,
        ITS_DOORBELL => Doorbell::Physical,
        _ => Doorbell::Mapped,
    }
}

/// `iommu_domain.type` (include/linux/iommu.h, `IOMMU_DOMAIN_*`): bit 0 paging, bit 1 the DMA API, bit 2 identity, bit 3 a flush queue.
fn domain_type(bits: u32) -> String {
    match bits & 0b111 {
        0 => "BLOCKED".into(),
        0b001 => "UNMANAGED".into(),
        0b011 => "DMA".into(),
        0b100 => "IDENTITY".into(),
        _ => format!("{bits:#x}"),
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::IommuDma => "iommu-dma",
        })
    }
}

impl fmt::Display for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "no vectors",
            Self::Physical => "physical",
            Self::Mapped => "mapped",
        })
    }
}

impl Observation {
    /// Each field's name with its value, in the order of reports.
    pub(crate) fn fields(&self) -> [(&'static str, String); 8] {
        let there = |there: bool| if there { "set".to_owned() } else { "NULL".to_owned() };
        [
            ("iommu_group", there(self.group)),
            ("fwspec", there(self.fwspec)),
            ("default_domain", self.default_domain.clone().unwrap_or_else(|| "NULL".into())),
            ("domain", there(self.domain)),
            ("DMA path", self.path.to_string()),
            ("owner_cnt", self.owner_cnt.to_string()),
            ("dev->driver", there(self.driver)),
            ("MSI doorbell", self.doorbell.to_string()),
        ]
    }
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.fields().iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{name}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of include/linux/iommu.h, 6.1 and 7.3.
    #[test]
    fn types_of_domains() {
        assert_eq!(domain_type(0), "BLOCKED");
        assert_eq!(domain_type(3), "DMA");
        assert_eq!(domain_type(11), "DMA", "with a flush queue");
        assert_eq!(domain_type(4), "IDENTITY");
    }

    /// The devicetree that QEMU writes for `virt`: `msi-controller@8080000`; and an address that Linux 6.1.192 composed behind a DMA domain.
    #[test]
    fn messages_go_to_the_doorbell_or_through_the_domain() {
        assert_eq!(doorbell(0), Doorbell::None);
        assert_eq!(doorbell(0x0809_0040), Doorbell::Physical);
        assert_eq!(doorbell(0xffff_e040), Doorbell::Mapped);
    }
}
