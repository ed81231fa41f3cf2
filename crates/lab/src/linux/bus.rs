//! `bus->dma_configure` of the platform and the PCI bus, by devicetree and by ACPI
//! (`drivers/of/device.c`, `drivers/iommu/of_iommu.c`, `drivers/acpi/scan.c`).

use super::commit::Commit;
use super::dd;
use super::dma::arch_setup_dma_ops;
use super::errno::{EINVAL, EPROBE_DEFER, Errno, OK};
use super::iommu::owner::iommu_device_use_default_domain;
use super::iommu::probe::{dev_iommu_free, dev_iommu_get, iommu_probe_device};
use super::kernel::{Client, Dev, Iommu, Kernel, Step, T};
use super::property::Id;
use super::world::{Bus, Firmware};
use portcullis_explore::proto::Value;

/// Who calls `dma_configure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// `really_probe`, with `dev->driver` set and `device_lock` held.
    Driver,
    /// `iommu_init_device` since bcb81ac6ae3c: the registration walk, or `device_add`.
    Walk,
}

/// How `bus->dma_configure` of a bus looks at the driver, and what it makes of errors.
struct Habits {
    /// Its function.
    name: &'static str,
    /// The commit since which it reads `dev->driver` once; none where it never does.
    reads_once: Option<Commit>,
    /// Every error comes out as success.
    swallows: bool,
}

/// The buses of `iommu_buses[]`. 7.3.4: `platform_dma_configure`, `pci_dma_configure` and `fsl_mc_dma_configure` read
/// `dev->driver` once (`READ_ONCE`), `amba_dma_configure` and `cdx_dma_configure` twice; the latter ends in `return 0`
/// whatever came before (`drivers/cdx/cdx.c`). The context devices of host1x have a bus without `dma_configure`
/// (`drivers/gpu/host1x/context_bus.c`): `host1x_memory_context_list_init` configures them itself.
fn habits(bus: Bus) -> Habits {
    let of = |name, reads_once| Habits { name, reads_once, swallows: false };
    match bus {
        Bus::Platform => of("platform_dma_configure", Some(Commit::PlatformDriverOnce)),
        Bus::Pci => of("pci_dma_configure", Some(Commit::PciDriverOnce)),
        Bus::Amba => of("amba_dma_configure", Some(Commit::AmbaDriverOnce)),
        Bus::FslMc => of("fsl_mc_dma_configure", Some(Commit::FslMcDriverOnce)),
        Bus::Cdx => Habits { swallows: true, ..of("cdx_dma_configure", None) },
        Bus::Host1x => of("host1x_memory_context_list_init", None),
    }
}

/// `bus->dma_configure`.
pub(crate) fn dma_configure(t: &mut T<'_>, k: &Kernel, x: Client, caller: Caller) -> Step<Errno> {
    let bus = k.world().bus;
    let Habits { name, reads_once, swallows } = habits(bus);
    if bus == Bus::Host1x {
        return match caller {
            Caller::Walk => Ok(OK),
            Caller::Driver => t.func(name, |t| host1x_configures(t, k, x)),
        };
    }
    let once = reads_once.is_some_and(|commit| k.has(commit));
    t.func(name, |t| {
        // In really_probe the driver is simply there: its own thread has stored it.
        let first = match caller {
            Caller::Driver => 1,
            Caller::Walk => t.read(k.client(x).driver, "drv = dev->driver")?,
        };
        let ret = match k.world().firmware {
            Firmware::Dt => of_dma_configure_id(t, k, x)?,
            Firmware::Acpi => acpi_dma_configure_id(t, k, x)?,
        };
        if ret != OK {
            return Ok(if swallows { OK } else { ret });
        }
        let bound = match caller {
            Caller::Walk if !once => {
                let second = t.read(k.client(x).driver, "dev->driver again")?;
                if first == 0 && second != 0 {
                    return k.oops(t, Dev::Client(x), Id::DriverReadTwice);
                }
                second
            }
            _ => first,
        };
        if bound == 0 || k.manages_dma(x) {
            return Ok(OK);
        }
        let ret = iommu_device_use_default_domain(t, k, x, caller)?;
        Ok(if swallows { OK } else { ret })
    })
}

/// `host1x_memory_context_list_init`: configures the context device, which has no driver, and insists on a group.
fn host1x_configures(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    let ret = of_dma_configure_id(t, k, x)?;
    if ret != OK {
        return Ok(ret);
    }
    let mapped = t.read(k.client(x).iommu_group, "device_iommu_mapped(): has it an IOMMU?")?;
    Ok(if mapped != 0 { OK } else { EINVAL })
}

/// `of_dma_configure_id`.
fn of_dma_configure_id(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    t.func("of_dma_configure_id", |t| {
        let ret = of_iommu_configure(t, k, x)?;
        if ret == EPROBE_DEFER {
            return Ok(ret);
        }
        arch_setup_dma_ops(t, k, x, ret == OK)?;
        Ok(OK)
    })
}

/// `of_iommu_configure`: make the fwspec from `iommus`/`iommu-map`, then replay the probe.
/// Returns success ("behind an IOMMU"), `EPROBE_DEFER`, or any other error ("behind none").
fn of_iommu_configure(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    t.func("of_iommu_configure", |t| {
        let Parsed { ret, replay } = t.scope(|t| parse(t, k, x))?;
        if ret != OK || !replay {
            return Ok(ret);
        }
        if !k.has(Commit::GroupTestLocked)
            && t.read(k.client(x).iommu_group, "device_iommu_mapped(): no replay if so")? != 0
        {
            return Ok(OK);
        }
        iommu_probe_device(t, k, x)
    })
}

/// `acpi_dma_configure_id` with `acpi_iommu_configure_id`.
fn acpi_dma_configure_id(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    t.func("acpi_dma_configure_id", |t| {
        let ret = acpi_iommu_configure_id(t, k, x)?;
        if ret == EPROBE_DEFER {
            return Ok(ret);
        }
        arch_setup_dma_ops(t, k, x, ret == OK)?;
        Ok(OK)
    })
}

/// `acpi_iommu_configure_id`: the same with IORT; bcb81ac6ae3c took the replay away.
fn acpi_iommu_configure_id(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    t.func("acpi_iommu_configure_id", |t| {
        let Parsed { ret, replay } = t.scope(|t| parse(t, k, x))?;
        if ret != OK || !replay || k.has(Commit::ParseInWalk) {
            return Ok(ret);
        }
        if !k.has(Commit::GroupTestLocked)
            && t.read(k.client(x).iommu_group, "device_iommu_mapped(): no replay if so")? != 0
        {
            return Ok(OK);
        }
        iommu_probe_device(t, k, x)
    })
}

/// What the first half of `of_iommu_configure` found.
#[derive(Clone, Copy)]
struct Parsed {
    ret: Errno,
    replay: bool,
}

impl Value for Parsed {
    fn to_bits(self) -> u64 {
        self.ret << 1 | u64::from(self.replay)
    }

    fn from_bits(bits: u64) -> Self {
        Self { ret: bits >> 1, replay: bits & 1 != 0 }
    }
}

/// The half of `of_iommu_configure` and `acpi_iommu_configure_id` under the probe lock.
fn parse(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Parsed> {
    let dev = k.client(x);
    if k.has(Commit::FwspecLock) {
        k.probe_lock(t)?;
    }
    let parsed = match t.read(dev.fwspec, "dev_iommu_fwspec_get(): parsed before?")? {
        0 => parse_fresh(t, k, x)?,
        EMPTY_FWSPEC => {
            // 6.6 and before: a fwspec without ops is left over from a deferral.
            t.write(dev.fwspec, 0, "iommu_fwspec_free: it has no ops, start again")?;
            parse_fresh(t, k, x)?
        }
        _ => Parsed { ret: OK, replay: false },
    };
    if k.has(Commit::FwspecLock) {
        k.probe_unlock(t)?;
    }
    Ok(parsed)
}

/// A fwspec made for an instance that is not there yet (before 6.12).
const EMPTY_FWSPEC: u64 = 1;
/// A fwspec that names its registered instance.
const FWSPEC: u64 = 2;

fn parse_fresh(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Parsed> {
    let dev = k.client(x);
    let token = k.has(Commit::FreeWholeDevIommu) || k.has(Commit::ParseInWalk);
    let present = token && t.read(dev.iommu, "dev_iommu_present = dev->iommu")? != 0;
    let mut ret = OK;
    for s in k.iommus_named_by(x) {
        ret = iommu_fwspec_init(t, k, x, s)?;
        if ret != OK {
            break;
        }
    }
    if ret != OK && k.has(Commit::RetireBusOps) {
        if !token || present {
            t.write(dev.fwspec, 0, "error: iommu_fwspec_free")?;
        } else if t.read(dev.iommu, "error: dev->iommu made here?")? != 0 {
            dev_iommu_free(t, k, x)?;
        }
    }
    Ok(Parsed { ret, replay: !(k.has(Commit::ParseInWalk) && present) })
}

/// `iommu_fwspec_init` and `of_xlate` for one entry of `iommus`.
fn iommu_fwspec_init(t: &mut T<'_>, k: &Kernel, x: Client, s: Iommu) -> Step<Errno> {
    t.func("iommu_fwspec_init", |t| {
        let dev = k.client(x);
        let listed = t.read(k.iommu(s).listed, "instance registered? [iommu_device_lock]")?;
        if listed == 0 {
            if !k.has(Commit::RetireBusOps) {
                make_fwspec(t, k, x, EMPTY_FWSPEC)?;
            }
            return unknown_instance(t, k, x);
        }
        if k.has(Commit::ReadyFlag)
            && t.read(dev.iommu, "dev->iommu: on the walk's own path?")? == 0
            && t.read(k.iommu(s).ready, "iommu->ready?")? == 0
        {
            return Ok(EPROBE_DEFER);
        }
        make_fwspec(t, k, x, FWSPEC)?;
        of_xlate(t, k, x)?;
        Ok(OK)
    })
}

/// The instance is not registered: wait for it, for ever (ACPI before 46b3df8eb9bd) or until the timeout.
fn unknown_instance(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    if k.world().firmware == Firmware::Acpi && !k.has(Commit::DeferInFwspecInit) {
        return Ok(EPROBE_DEFER);
    }
    dd::driver_deferred_probe_check_state(t, k, x)
}

/// Stores the fwspec in `dev->iommu`, which it makes if need be.
fn make_fwspec(t: &mut T<'_>, k: &Kernel, x: Client, kind: u64) -> Step<()> {
    dev_iommu_get(t, k, x)?;
    t.write(k.client(x).fwspec, kind, "dev->iommu->fwspec = fwspec")
}

/// `ops->of_xlate`: adds the stream ids; without a2e7e59a9426 the fwspec can be freed meanwhile.
fn of_xlate(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    if k.has(Commit::FwspecLock) {
        return Ok(());
    }
    if t.read(k.client(x).fwspec, "of_xlate: iommu_fwspec_add_ids(dev->iommu->fwspec)")? == 0 {
        k.oops(t, Dev::Client(x), Id::FwspecFreedInUse)?;
    }
    Ok(())
}
