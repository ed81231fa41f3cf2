//! The two Arm drivers, as far as the probe path sees them: `arm-smmu.c` (v2) and `arm-smmu-v3.c`.

use super::commit::Commit;
use super::errno::{EINVAL, ENODEV, EPROBE_DEFER, Errno, OK};
use super::iommu::register::{bus_set_iommu, iommu_device_register};
use super::kernel::{Client, Dev, Iommu, Kernel, Step, T};
use super::property::Id;
use super::world::Driver;

/// `arm_smmu_device_probe`: the SMMU's own driver probe, from registration on.
pub(crate) fn arm_smmu_device_probe(t: &mut T<'_>, k: &Kernel, s: Iommu) -> Step<Errno> {
    t.func("arm_smmu_device_probe", |t| {
        let mut ret = iommu_device_register(t, k, s)?;
        if ret == OK {
            ret = bus_set_iommu(t, k, s)?;
        }
        if ret != OK {
            k.violated(t, Dev::Iommu(s), Id::RegistrationFailed);
            if k.world().driver == Driver::V3 && !k.has(Commit::CleanSmmuV3Failure) {
                t.note("the SMMU stays enabled with an empty stream table: all DMA is blocked");
            }
        }
        Ok(ret)
    })
}

/// `arm_smmu_probe_device`: the instance looks at one client.
pub(crate) fn probe_device(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    t.func("arm_smmu_probe_device", |t| {
        let dev = k.client(x);
        if t.read(dev.fwspec, "dev_iommu_fwspec_get(): mine?")? < 2 {
            return Ok(ENODEV);
        }
        let s = k.iommu_of(x);
        if arm_smmu_get_by_fwnode(t, k, s)? == 0 {
            return match k.world().driver {
                Driver::V3 => Ok(ENODEV),
                Driver::V2 if defers_unbound(k) => {
                    // dev_err_probe() logs a deferral at debug level only.
                    t.note("deferral reason: smmu dev has not bound yet");
                    Ok(EPROBE_DEFER)
                }
                Driver::V2 => k.oops(t, Dev::Client(x), Id::NullSmmu),
            };
        }
        if k.is_refused(x) {
            t.note("a stream id out of range");
            return Ok(EINVAL);
        }
        let (iommu, private) = (dev.iommu, dev.private);
        let before = t.update(
            "dev_iommu_priv_set(): stream ids checked, configuration allocated",
            move |shared| {
                if shared.get(iommu) == 0 {
                    return 2;
                }
                let before = shared.get(private);
                shared.set(private, 1);
                before
            },
        )?;
        match before {
            2 => return k.oops(t, Dev::Client(x), Id::NullDevIommu),
            1 => k.violated(t, Dev::Client(x), Id::ProbedTwice),
            _ => {}
        }
        if k.world().driver == Driver::V2 {
            t.write(dev.linked, 1, "device_link_add(client, smmu)")?;
        }
        Ok(OK)
    })
}

/// Is 229e6ee43d2a in the tree and not taken out again?
pub(crate) fn defers_unbound(k: &Kernel) -> bool {
    k.has(Commit::DeferUnboundSmmu) && !k.has(Commit::DropDeferUnboundSmmu)
}

/// `arm_smmu_get_by_fwnode`: 0 when the instance is not found.
fn arm_smmu_get_by_fwnode(t: &mut T<'_>, k: &Kernel, s: Iommu) -> Step<Errno> {
    t.func("arm_smmu_get_by_fwnode", |t| {
        if k.has(Commit::LookupByBus) {
            // On the bus since device_add, and its drvdata is stored before it registers.
            return Ok(1);
        }
        t.read(k.iommu(s).bound, "driver_find_device_by_fwnode: on driver->klist_devices?")
    })
}
