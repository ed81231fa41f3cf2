//! Which path a device's DMA takes: direct, or through the IOMMU (`drivers/iommu/dma-iommu.c`,
//! `arch/arm64/mm/dma-mapping.c`).
//!
//! One field of a client holds it, as in the kernel one byte does from 6.12 to 7.1: bit 0 is
//! `dma_ops == &iommu_dma_ops` or `dev->dma_iommu`, bit 1 is `dev->dma_coherent`.

use super::commit::Commit;
use super::errno::{Errno, OK};
use super::kernel::{Client, DMA, Dev, Kernel, Step, T};
use super::property::Id;

/// Bit 0 of a client's `dma` field: DMA goes through iommu-dma.
pub(crate) const IOMMU_DMA: u64 = 1;
/// Bit 1: `dev->dma_coherent`, a neighbour in the same byte until 7.2.
const COHERENT: u64 = 2;

/// Does a store to one of the two bits load and store the byte of both?
fn shares_byte(k: &Kernel) -> bool {
    k.has(Commit::DmaIommuFlag) && !k.has(Commit::AtomicBits)
}

/// Sets or clears one bit of the byte: load, modify, store where it is a bitfield.
fn store_bit(t: &mut T<'_>, k: &Kernel, x: Client, bit: u64, on: bool, why: &str) -> Step<()> {
    let dma = k.client(x).dma;
    let merged = move |byte: u64| if on { byte | bit } else { byte & !bit };
    if shares_byte(k) {
        let byte = t.read(dma, "load the byte of dma_coherent and dma_iommu")?;
        return t.write(dma, merged(byte), why);
    }
    t.update(why, move |shared| {
        let byte = merged(shared.get(dma));
        shared.set(dma, byte);
        0
    })?;
    Ok(())
}

/// `dev->dma_iommu = on`.
pub(crate) fn set_dma_iommu(t: &mut T<'_>, k: &Kernel, x: Client, on: bool) -> Step<()> {
    let why = match (on, k.has(Commit::DmaIommuFlag)) {
        (true, true) => "dev->dma_iommu = true",
        (false, true) => "dev->dma_iommu = false",
        (true, false) => "dev->dma_ops = &iommu_dma_ops",
        (false, false) => "dev->dma_ops = NULL",
    };
    store_bit(t, k, x, IOMMU_DMA, on, why)
}

/// `iommu_setup_dma_ops` since b67483b3c44e: beside the default domain, under the group's mutex.
pub(crate) fn iommu_setup_dma_ops(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    t.func("iommu_setup_dma_ops", |t| {
        let group = k.group(k.group_of(x));
        let dom = t.read(group.default_domain, "type of the default domain")?;
        if dom == DMA {
            t.write(group.iova_ready, 1, "iommu_dma_init_domain: IOVA space ready")?;
        }
        set_dma_iommu(t, k, x, dom == DMA)?;
        Ok(OK)
    })?;
    Ok(())
}

/// `arch_setup_dma_ops`, called from the bus's `dma_configure`.
pub(crate) fn arch_setup_dma_ops(t: &mut T<'_>, k: &Kernel, x: Client, iommu: bool) -> Step<()> {
    t.func("arch_setup_dma_ops", |t| {
        if k.has(Commit::DmaOpsWithDomain) {
            // Only the coherency is left to do here; it matters where it shares the flag's byte.
            if shares_byte(k) {
                store_bit(t, k, x, COHERENT, true, "dev->dma_coherent = coherent")?;
            }
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
