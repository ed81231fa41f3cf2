//! Who may drive the DMA of a group: kernel drivers through the default domain, or one outside owner.

use super::super::bus::Caller;
use super::super::commit::Commit;
use super::super::errno::{EBUSY, EPERM, EPROBE_DEFER, Errno, OK};
use super::super::kernel::{
    CLAIMED, CLAIMED_EMPTY, Client, Dev, Group, Kernel, NOT_CLAIMED, Step, T,
};
use super::super::property::Id;
use super::domain;

/// `iommu_device_use_default_domain`: a kernel driver is about to bind.
pub(crate) fn iommu_device_use_default_domain(
    t: &mut T<'_>,
    k: &Kernel,
    x: Client,
    caller: Caller,
) -> Step<Errno> {
    t.func("iommu_device_use_default_domain", |t| {
        if t.read(k.client(x).iommu_group, "dev->iommu_group: none, nothing to claim")? == 0 {
            return Ok(OK);
        }
        let group = k.group(k.group_of(x));
        t.lock(group.mutex, "")?;
        let ret = claim_default(t, k, x, caller)?;
        t.unlock(group.mutex)?;
        Ok(ret)
    })
}

fn claim_default(t: &mut T<'_>, k: &Kernel, x: Client, caller: Caller) -> Step<Errno> {
    let (group, claimed) = (k.group(k.group_of(x)), k.client(x).claimed);
    let checked = k.has(Commit::DefaultDomainCheck) || k.has(Commit::DefaultDomainBackport);
    let (default, domain) = (group.default_domain, group.domain);
    let (count, owner) = (group.owner_cnt, group.owner);
    t.update("refuse or owner_cnt++", move |shared| {
        if checked && shared.get(default) == 0 {
            return EPROBE_DEFER;
        }
        let foreign = shared.get(domain) != shared.get(default) || shared.get(owner) != 0;
        if shared.get(count) != 0 && foreign {
            return EBUSY;
        }
        shared.set(count, shared.get(count) + 1);
        // A walk that claims for a driver it sees does not make that driver's claim.
        if caller == Caller::Driver {
            shared.set(claimed, if shared.get(default) == 0 { CLAIMED_EMPTY } else { CLAIMED });
        }
        OK
    })
}

/// `iommu_device_unuse_default_domain`: the driver is gone.
pub(crate) fn iommu_device_unuse_default_domain(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    t.func("iommu_device_unuse_default_domain", |t| {
        if t.read(k.client(x).iommu_group, "dev->iommu_group")? == 0 {
            return Ok(OK);
        }
        let group = k.group(k.group_of(x));
        t.lock(group.mutex, "")?;
        let count = t.read(group.owner_cnt, "WARN_ON(!group->owner_cnt)")?;
        if count == 0 {
            k.violated(t, Dev::Client(x), Id::OwnerUnderflow);
        } else {
            let (owner_cnt, claimed) = (group.owner_cnt, k.client(x).claimed);
            t.update("owner_cnt--", move |shared| {
                shared.set(owner_cnt, count - 1);
                shared.set(claimed, NOT_CLAIMED);
            })?;
        }
        t.unlock(group.mutex)?;
        Ok(OK)
    })?;
    Ok(())
}

/// `iommu_group_claim_dma_owner`: VFIO or iommufd takes the group.
pub(crate) fn iommu_group_claim_dma_owner(t: &mut T<'_>, k: &Kernel, g: Group) -> Step<Errno> {
    t.func("iommu_group_claim_dma_owner", |t| {
        let group = k.group(g);
        t.lock(group.mutex, "")?;
        let count = t.read(group.owner_cnt, "owner_cnt: somebody is using it?")?;
        let domain = t.read(group.domain, "group->domain: neither NULL nor default?")?;
        let default = t.read(group.default_domain, "group->default_domain")?;
        let ret = if count != 0 {
            EPERM
        } else if domain != 0 && domain != default {
            EBUSY
        } else {
            domain::attach_blocking(t, k, g)?;
            t.write(group.owner, 1, "group->owner = owner")?;
            t.write(group.owner_cnt, 1, "owner_cnt = 1")?;
            OK
        };
        t.unlock(group.mutex)?;
        Ok(ret)
    })
}

/// `iommu_group_release_dma_owner`: the outside owner gives the group back.
pub(crate) fn iommu_group_release_dma_owner(t: &mut T<'_>, k: &Kernel, g: Group) -> Step<()> {
    t.func("iommu_group_release_dma_owner", |t| {
        let group = k.group(g);
        t.lock(group.mutex, "")?;
        t.write(group.owner_cnt, 0, "owner_cnt = 0")?;
        t.write(group.owner, 0, "group->owner = NULL")?;
        domain::attach_default_again(t, k, g)?;
        t.unlock(group.mutex)?;
        Ok(OK)
    })?;
    Ok(())
}
