//! The stop map: places of the lab's protocols, and where they are in kernels, by version.
//!
//! A row joins a *place* in the lab (a thread is about to enter a function, or has just left it) with a *stop* in a kernel. Functions have the kernel's names in
//! the lab, so most rows only repeat a name; the exceptions are where a kernel has inlined the function or splits it otherwise.

use super::Who;
use portcullis_lab::linux::Bus;

/// A place in a thread of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The next step is inside this function, the last one was not.
    Enter(&'static str),
    /// The last step was inside this function, the next one is not.
    Leave(&'static str),
    /// This function has just given `iommu_probe_device_lock` back.
    Unlocked(&'static str),
    /// The next step is this function's store to this field of the lab.
    Storing(&'static str, &'static str),
}

/// A row of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    /// Its name in schedules and reports.
    pub(crate) name: &'static str,
    /// In words.
    pub(crate) words: &'static str,
    /// Whose place it is.
    pub(crate) who: Who,
    /// The place in the lab.
    pub(crate) place: Place,
    /// The stop in a kernel; none is the end of the function that the thread was born in.
    pub(crate) stop: Option<&'static str>,
    /// The first version that it holds for.
    from: (u32, u32),
    /// The first version that it no longer holds for.
    to: (u32, u32),
    /// Only for clients of this bus.
    bus: Option<Bus>,
}

const ALWAYS: (u32, u32) = (0, 0);
const FOR_EVER: (u32, u32) = (u32::MAX, 0);

macro_rules! site {
    ($who:ident $name:literal $place:ident($($function:literal),+) $stop:expr, $words:literal $(, from $from:expr)? $(, to $to:expr)? $(, on $bus:ident)?) => {
        Site {
            name: $name,
            words: $words,
            who: Who::$who,
            place: Place::$place($($function),+),
            stop: $stop,
            from: first(&[$($from,)? ALWAYS]),
            to: first(&[$($to,)? FOR_EVER]),
            bus: bus(&[$(Bus::$bus)?]),
        }
    };
}

const fn first(versions: &[(u32, u32)]) -> (u32, u32) {
    versions[0]
}

const fn bus(named: &[Bus]) -> Option<Bus> {
    match named {
        [bus, ..] => Some(*bus),
        [] => None,
    }
}

/// The map. Read from the sources of 6.1.192, 6.12.117, 6.18.15 and 7.3.4 and checked against their images.
const SITES: &[Site] = &[
    site!(Smmu "walk" Enter("probe_iommu_group") Some("probe_iommu_group?x0=client"),
        "registered; about to look at the client"),
    site!(Smmu "walk-parse" Enter("pci_dma_configure") Some("pci_dma_configure?x0=client"),
        "in the walk, probe lock dropped, about to parse the client's firmware node", from (6, 15), on Pci),
    site!(Smmu "walk-parse" Enter("platform_dma_configure") Some("platform_dma_configure?x0=client"),
        "in the walk, probe lock dropped, about to parse the client's firmware node", from (6, 15), on Platform),
    site!(Smmu "walk-parsed" Leave("pci_dma_configure") Some("pci_dma_configure:return?x0=client"),
        "in the walk, client's firmware node parsed, probe lock not taken again", from (6, 15), on Pci),
    site!(Smmu "walk-parsed" Leave("platform_dma_configure") Some("platform_dma_configure:return?x0=client"),
        "in the walk, client's firmware node parsed, probe lock not taken again", from (6, 15), on Platform),
    site!(Smmu "grouped" Leave("probe_iommu_group") Some("probe_iommu_group:return?x0=client"),
        "the walk has seen the client, default domains still to come"),
    site!(Smmu "registered" Leave("iommu_device_register") Some("iommu_device_register:return?x2=smmu"),
        "iommu_device_register has returned"),
    site!(Smmu "bound" Leave("really_probe") Some("driver_bound:return?x0=smmu"),
        "the SMMU is bound"),
    site!(Client "configure" Enter("pci_dma_configure") Some("pci_dma_configure?x0=client"),
        "dev->driver is set, nothing configured", on Pci),
    site!(Client "configure" Enter("platform_dma_configure") Some("platform_dma_configure?x0=client"),
        "dev->driver is set, nothing configured", on Platform),
    // 6.1: mutex_lock and two error paths' mutex_unlock come before; the third unlock is the one behind a fwspec that was made.
    site!(Client "parsed" Unlocked("of_iommu_configure") Some("of_iommu_configure@mutex_unlock.3"),
        "the fwspec is made, probe lock given back, group not looked at", to (6, 2)),
    site!(Client "parsed" Enter("iommu_probe_device") Some("iommu_probe_device?x0=client"),
        "the fwspec is made, probe lock given back, group not looked at", from (6, 2)),
    site!(Client "set-up" Enter("arch_setup_dma_ops") Some("arch_setup_dma_ops?x0=client"),
        "about to set up DMA ops", to (6, 10)),
    // One byte holds dma_coherent and dma_iommu; the first store of it is that of dma_coherent.
    site!(Client "storing" Storing("arch_setup_dma_ops", "DMA path") Some("arch_setup_dma_ops!dma_iommu"),
        "the byte of dma_coherent and dma_iommu is loaded, not stored", from (6, 12), to (7, 1)),
    site!(Client "claim" Enter("iommu_device_use_default_domain") Some("iommu_device_use_default_domain?x0=client"),
        "about to claim the group's default domain"),
    site!(Client "claimed" Leave("iommu_device_use_default_domain") Some("iommu_device_use_default_domain:return?x0=client"),
        "the default domain is claimed, or was refused"),
    site!(Client "driver" Enter("driver->probe") Some("pci_device_probe?x0=client"),
        "the client's driver is about to probe", on Pci),
    site!(Client "driver" Enter("driver->probe") Some("platform_probe?x0=client"),
        "the client's driver is about to probe", on Platform),
    site!(Client "done" Leave("really_probe") None,
        "really_probe has returned"),
];

/// The rows for a kernel and a bus.
pub(crate) fn sites(version: (u32, u32, u32), bus: Bus) -> impl Iterator<Item = &'static Site> {
    let version = (version.0, version.1);
    SITES.iter().filter(move |site| {
        (site.from..site.to).contains(&version) && site.bus.is_none_or(|only| only == bus)
    })
}

/// The row with this name.
pub(crate) fn find(name: &str, version: (u32, u32, u32), bus: Bus) -> Option<&'static Site> {
    sites(version, bus).find(|site| site.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::Stop;

    #[test]
    fn rows_are_well_formed_and_names_unique_in_every_version() {
        for site in SITES {
            if let Some(stop) = site.stop {
                stop.parse::<Stop>().unwrap_or_else(|error| panic!("{}: {error}", site.name));
            }
        }
        for version in [(6, 1, 0), (6, 6, 0), (6, 12, 0), (6, 18, 0), (7, 3, 0)] {
            for bus in [Bus::Pci, Bus::Platform] {
                let names: Vec<&str> = sites(version, bus).map(|site| site.name).collect();
                for (at, name) in names.iter().enumerate() {
                    assert!(!names[..at].contains(name), "{version:?} {bus}: two rows `{name}`");
                }
                for name in
                    ["walk", "grouped", "registered", "bound", "parsed", "claim", "driver", "done"]
                {
                    assert!(names.contains(&name), "{version:?} {bus}: no row `{name}`");
                }
            }
        }
    }
}
