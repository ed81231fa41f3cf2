//! What becomes of a device's DMA, by the same decisions as `boot`.

use portcullis::{DeviceDescription, DmaPath, FwNode};
use portcullis_firmware::{DescribedDevice, MachineDescription};
use portcullis_testbed::IommuDriver;
use std::collections::BTreeSet;

/// A word for the path, and why where that is not the usual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// `translated`, `direct`, `blocked`, `mixed` (a bus whose functions end differently), or empty for a disabled device.
    pub(super) word: &'static str,
    /// Why; empty where it is translated.
    pub(super) because: String,
}

impl Verdict {
    fn new(word: &'static str, because: impl Into<String>) -> Self {
        Self { word, because: because.into() }
    }
}

/// Of one client, a device or a function. `named` says that the description names an IOMMU for it.
pub(super) fn of_client(
    machine: &MachineDescription,
    client: &DeviceDescription,
    named: bool,
) -> Verdict {
    match &client.dma {
        DmaPath::Unusable(reason) => Verdict::new("blocked", reason.clone()),
        DmaPath::Direct if named => Verdict::new("direct", "IOMMU disabled"),
        DmaPath::Direct => Verdict::new("direct", "no IOMMU"),
        DmaPath::Translated(spec) => {
            let served = |node: FwNode| {
                let iommu = machine.iommu(node);
                iommu.is_some_and(|iommu| IommuDriver::of(iommu).is_some())
            };
            match spec.streams.iter().all(|stream| served(stream.iommu)) {
                true => Verdict::new("translated", ""),
                false => Verdict::new("blocked", "no driver"),
            }
        }
    }
}

/// Of a device as a whole; of a bus without streams of its own, what its functions have in common.
pub(super) fn of_device(machine: &MachineDescription, device: &DescribedDevice) -> Verdict {
    if !device.enabled {
        return Verdict::new("", "device disabled");
    }
    let named = !device.streams.is_empty() || device.bus.is_some();
    if !device.streams.is_empty() || device.functions.is_empty() {
        return of_client(machine, &device.description, named);
    }
    let each: Vec<_> =
        device.functions.iter().map(|it| of_client(machine, &it.description, true)).collect();
    let words: BTreeSet<_> = each.iter().map(|verdict| verdict.word).collect();
    match each.first() {
        Some(first) if words.len() == 1 => first.clone(),
        _ => {
            let count = |word| (word, each.iter().filter(|verdict| verdict.word == word).count());
            let counts = words.into_iter().map(count);
            let counts: Vec<_> = counts.map(|(word, count)| format!("{count} {word}")).collect();
            Verdict::new("mixed", format!("of its functions {}", counts.join(", ")))
        }
    }
}
