//! Which path a device's DMA takes: direct, or through the IOMMU (`drivers/iommu/dma-iommu.c`,
//! `arch/arm64/mm/dma-mapping.c`).
//!
//! One field of a client holds it, as in the kernel one byte does from 6.12 to 7.1: bit 0 is
//! `dma_ops == &iommu_dma_ops` or `dev->dma_iommu`, bit 1 is `dev->dma_coherent`.

use super::commit::Commit;
use super::errno::{Errno, OK};
use super::kernel::{Client, DMA, Dev, Kernel, Step, T};
use super::property::Id;
use super::protocol::Protocol;

/// Bit 0 of a client's `dma` field: DMA goes through iommu-dma.
pub(crate) const IOMMU_DMA: u64 = 1;
/// Bit 1: `dev->dma_coherent`, the neighbour that is drawn; stores of the others leave it as they found it.
const COHERENT: u64 = 2;

/// A bit of `struct device` beside `dma_iommu`, whose stores load and store the byte of both until one of them
/// moves to the word of flags (`include/linux/device.h`: 6.12.117 has them in one row, 7.2.13 has none of them).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Neighbour {
    /// `dma_coherent`, stored by `arch_setup_dma_ops`.
    Coherent,
    /// `can_match`, stored by `__driver_probe_device`.
    CanMatch,
    /// `dma_skip_sync`, stored by `dma_set_mask` in the driver's probe (from 6.10 on).
    SkipSync,
}

impl Neighbour {
    const ALL: [Self; 3] = [Self::Coherent, Self::CanMatch, Self::SkipSync];

    /// The member of `struct device`.
    fn member(self) -> &'static str {
        match self {
            Self::Coherent => "dma_coherent",
            Self::CanMatch => "can_match",
            Self::SkipSync => "dma_skip_sync",
        }
    }

    /// Is it in one byte with `dma_iommu`?
    fn shares_byte(self, protocol: &Protocol) -> bool {
        is_bit_field(protocol) && !protocol.has(self.atomic())
    }

    /// The commit that makes it an atomic bit of its own.
    fn atomic(self) -> Commit {
        match self {
            Self::Coherent => Commit::AtomicCoherent,
            Self::CanMatch => Commit::AtomicCanMatch,
            Self::SkipSync => Commit::AtomicSkipSync,
        }
    }

    fn why(self) -> &'static str {
        match self {
            Self::Coherent => "dev->dma_coherent = coherent",
            Self::CanMatch => "dev->can_match = true",
            Self::SkipSync => "dev->dma_skip_sync = coherent",
        }
    }
}

/// Is `dma_iommu` a bit of a byte, so that whoever stores a neighbour stores it too?
fn is_bit_field(protocol: &Protocol) -> bool {
    protocol.has(Commit::DmaIommuFlag) && !protocol.has(Commit::AtomicBits)
}

impl Protocol {
    /// The members of `struct device` that share a byte with `dma_iommu` and are stored while a device is probed, as modelled; empty where `dma_iommu` is no bit
    /// field. `portcullis replay --layout` compares them with the type information of a kernel.
    #[must_use]
    pub fn beside_dma_iommu(&self) -> Vec<&'static str> {
        let beside = Neighbour::ALL.into_iter().filter(|neighbour| neighbour.shares_byte(self));
        beside.map(Neighbour::member).collect()
    }
}

/// A store to a neighbour of `dma_iommu`: load the byte, change a bit, store the byte. No step where the two do not
/// share it: nobody here looks at the neighbour itself.
pub(crate) fn store_neighbour(
    t: &mut T<'_>,
    k: &Kernel,
    x: Client,
    neighbour: Neighbour,
) -> Step<()> {
    if !neighbour.shares_byte(k.protocol()) {
        return Ok(());
    }
    let dma = k.client(x).dma;
    t.scope(|t| {
        let byte = t.read(dma, "load the byte that it shares with dma_iommu")?;
        let set = if matches!(neighbour, Neighbour::Coherent) { COHERENT } else { 0 };
        t.write(dma, byte | set, neighbour.why())
    })
}

/// `dev->dma_iommu = on`, or its forerunner, the `dma_ops` pointer.
pub(crate) fn set_dma_iommu(t: &mut T<'_>, k: &Kernel, x: Client, on: bool) -> Step<()> {
    let why = match (on, k.has(Commit::DmaIommuFlag)) {
        (true, true) => "dev->dma_iommu = true",
        (false, true) => "dev->dma_iommu = false",
        (true, false) => "dev->dma_ops = &iommu_dma_ops",
        (false, false) => "dev->dma_ops = NULL",
    };
    let (dma, chosen) = (k.client(x).dma, k.client(x).path_chosen);
    let merged = move |byte: u64| if on { byte | IOMMU_DMA } else { byte & !IOMMU_DMA };
    if is_bit_field(k.protocol()) {
        return t.scope(|t| {
            let byte = t.read(dma, "load the byte of dma_iommu and its neighbours")?;
            t.update(why, move |shared| {
                shared.set(dma, merged(byte));
                shared.set(chosen, u64::from(on));
            })
        });
    }
    t.update(why, move |shared| {
        let byte = merged(shared.get(dma));
        shared.set(dma, byte);
        shared.set(chosen, u64::from(on));
    })
}

/// `iommu_setup_dma_ops` since b67483b3c44e: beside the default domain, under the group's mutex.
///
/// With the flag (b5c58b2fdc42) the bit is stored *before* `iommu_dma_init_domain` makes the IOVA space ready
/// (`drivers/iommu/dma-iommu.c`, 6.12.117: `dev->dma_iommu = iommu_is_dma_domain(domain); if (dev->dma_iommu &&
/// iommu_dma_init_domain(domain, dev))`; 7.2.13 and 7.3.4 the same with `dev_assign_dma_iommu`). With the pointer
/// (6.10, 6.11) it was the other way round.
pub(crate) fn iommu_setup_dma_ops(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    t.func("iommu_setup_dma_ops", |t| {
        let group = k.group(k.group_of(x));
        let dom = t.read(group.default_domain, "type of the default domain")?;
        let flag_first = k.has(Commit::DmaIommuFlag);
        if flag_first {
            set_dma_iommu(t, k, x, dom == DMA)?;
        }
        if dom == DMA {
            t.write(group.iova_ready, 1, "iommu_dma_init_domain: IOVA space ready")?;
        }
        if !flag_first {
            set_dma_iommu(t, k, x, dom == DMA)?;
        }
        Ok(OK)
    })?;
    Ok(())
}

/// `arch_setup_dma_ops`, called from the bus's `dma_configure`.
pub(crate) fn arch_setup_dma_ops(t: &mut T<'_>, k: &Kernel, x: Client, iommu: bool) -> Step<()> {
    t.func("arch_setup_dma_ops", |t| {
        if k.has(Commit::DmaOpsWithDomain) {
            store_neighbour(t, k, x, Neighbour::Coherent)?;
        } else if iommu {
            setup_from_group(t, k, x)?;
        }
        Ok(OK)
    })?;
    Ok(())
}

/// `iommu_setup_dma_ops` before b67483b3c44e: looks at the group's domain without any lock.
fn setup_from_group(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    t.func("iommu_setup_dma_ops", |t| {
        let group = k.group(k.group_of(x));
        if t.read(k.client(x).iommu_group, "iommu_get_domain_for_dev: dev->iommu_group")? == 0 {
            return retain_platform_ops(t, k, x);
        }
        let dom = t.read(group.domain, "iommu_get_domain_for_dev: group->domain, no lock")?;
        match dom {
            0 => return retain_platform_ops(t, k, x),
            DMA => {}
            _ => return Ok(OK),
        }
        let (default, iova) = (group.default_domain, group.iova_ready);
        let there = t.update("iommu_dma_init_domain: IOVA space ready", {
            move |shared| {
                let there = shared.get(default) == DMA;
                shared.set(iova, u64::from(there));
                u64::from(there)
            }
        })?;
        if there == 0 && k.has(Commit::GroupTestLocked) {
            return k.oops(t, Dev::Client(x), Id::DomainFreedInUse);
        }
        set_dma_iommu(t, k, x, true)?;
        Ok(OK)
    })
}

/// The error branch of `iommu_setup_dma_ops`: the line that the report quotes.
fn retain_platform_ops(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    t.log(k.world().retaining_message(x.0));
    Ok(OK)
}

/// `arch_teardown_dma_ops`, on the way out of a bind that failed and at unbind.
pub(crate) fn arch_teardown_dma_ops(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    if k.has(Commit::DmaOpsWithDomain) {
        return Ok(());
    }
    t.func("arch_teardown_dma_ops", |t| set_dma_iommu(t, k, x, false))
}
