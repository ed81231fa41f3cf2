//! Where the protocols follow the sources and once did not. Each test names the file and function that it was derived
//! from, read in Debian's source packages 6.1.192, 6.12.117, 7.2.13 and 7.3.4; `linux_sources.rs` reads them again.

use portcullis_lab::linux::{
    Budget, Change, Commit, PropertyId, Protocol, Report, Verdict, World, check, closers, replay,
};

fn tree(base: &str, apply: &[&str]) -> Protocol {
    Protocol::parse(base, apply, &[]).unwrap()
}

fn explore(protocol: &Protocol, world: &str) -> Report {
    let world: World = world.parse().unwrap();
    let report = check(protocol, &world, Budget::for_world(&world), &mut |_| {}).unwrap();
    assert!(report.explored.exhaustive, "{protocol} in {world}");
    assert!(report.healthy.is_some(), "{protocol} in {world}: the good end is out of reach");
    report
}

fn names(protocol: &Protocol, world: &str) -> Vec<&'static str> {
    explore(protocol, world).violations.iter().map(|found| found.name).collect()
}

/// The sites that a healthy run passes, in order.
fn healthy_sites(protocol: &Protocol, world: &str) -> Vec<String> {
    let healthy = explore(protocol, world).healthy.unwrap();
    let trace = replay(&healthy).unwrap().2;
    trace.steps.iter().map(|step| step.label.site.to_string()).collect()
}

const TWO: &str = "i2r1c1.own.platform.dt.v3.a1";
const ONE: &str = "i1r1c1.own.platform.dt.v3.a1";

/// `iommu_setup_dma_ops`, `drivers/iommu/dma-iommu.c`. 6.12.117: `dev->dma_iommu = iommu_is_dma_domain(domain);` stands
/// before `iommu_dma_init_domain(domain, dev)`, and 7.2.13 stores the bit before it too. 6.1.192 has
/// `iommu_dma_init_domain` first and `dev->dma_ops = &iommu_dma_ops` after it, as 6.10 and 6.11 have: so it stands in the patch of
/// b67483b3c44e, and b5c58b2fdc42 takes these lines away.
#[test]
fn the_flag_is_stored_before_the_iova_space_is_ready() {
    let order = |protocol: &Protocol| {
        let sites = healthy_sites(protocol, TWO);
        let at =
            |site: &str| sites.iter().position(|s| s == site).unwrap_or_else(|| panic!("{site}"));
        (at("iommu_setup_dma_ops:update"), at("iommu_setup_dma_ops:write(IOVA space)"))
    };
    for base in ["v6.12", "v6.13-rc5", "v6.14"] {
        let (flag, space) = order(&tree(base, &[]));
        assert!(flag < space, "{base}");
    }
    let (pointer, space) = order(&tree("v6.6", &["b67483b3c44e"]));
    assert!(space < pointer, "the dma_ops pointer of 6.10 came last");
    // So a client that maps in between meets a domain without an allocator.
    assert!(names(&tree("v6.12", &[]), TWO).contains(&"null-iova"));
    assert!(names(&tree("v7.3", &[]), ONE).contains(&"null-iova"));
    assert!(!names(&tree("v6.6", &["b67483b3c44e"]), TWO).contains(&"null-iova"));
}

/// `struct device`, `include/linux/device.h`, 6.12.117: `can_match:1`, `dma_coherent:1`, `dma_skip_sync:1` and
/// `dma_iommu:1` in one row; their stores are in `__driver_probe_device` (`drivers/base/dd.c`), `arch_setup_dma_ops`
/// (`arch/arm64/mm/dma-mapping.c`) and `dma_setup_need_sync` (`kernel/dma/mapping.c`). 7.2.13: `DEV_FLAG_...`.
#[test]
fn every_writer_of_the_byte_can_lose_the_flag() {
    let two_attempts = "i2r1c1.own.platform.dt.v3.a2";
    // With the default-domain check, dma_coherent and then can_match are left, and no third one.
    let coherent = ["b46064a18810", "a2225b6e834a", "23ca35ee8872"];
    assert_eq!(names(&tree("v6.12", &["b46064a18810"]), TWO), ["lost-bit"]);
    assert_eq!(explore(&tree("v6.12", &coherent), TWO).verdict, Verdict::Clean);
    assert_eq!(names(&tree("v6.12", &coherent), two_attempts), ["lost-bit"], "can_match");
    let both = [&coherent[..], &["3e3c2f53da2a"]].concat();
    assert_eq!(explore(&tree("v6.12", &both), two_attempts).verdict, Verdict::Clean);
    // Without the check the driver's own dma_set_mask() can meet the walk as well.
    let no_check = ["a2225b6e834a", "23ca35ee8872", "3e3c2f53da2a"];
    assert!(names(&tree("v6.12", &no_check), TWO).contains(&"lost-bit"), "dma_skip_sync");
    let all = [&no_check[..], &["d26b560dfb89"]].concat();
    assert!(!names(&tree("v6.12", &all), TWO).contains(&"lost-bit"));
    // The word of flags comes with a2225b6e834a.
    assert!(Protocol::parse("v6.12", &["f8670e8e43b8"], &[]).is_err());
}

/// `really_probe`, `drivers/base/dd.c`: after a driver's error `bus->dma_cleanup`, then `device_unbind_cleanup`;
/// `driver_probe_device` puts a device whose driver defers on the pending list.
#[test]
fn a_driver_may_fail_or_defer_and_gives_its_claim_back() {
    for base in ["v6.1.y", "v6.6", "v6.12", "v7.3"] {
        for event in ["fail", "defer"] {
            let world = format!("i1r0c1.own.platform.dt.v3.a1.{event}");
            assert_eq!(explore(&tree(base, &[]), &world).verdict, Verdict::Clean, "{base} {event}");
            let sites = healthy_sites(&tree(base, &[]), &world);
            let gave_back = sites.iter().any(|s| s == "iommu_device_unuse_default_domain:update");
            assert!(gave_back || event == "defer", "{base}: {sites:?}");
        }
    }
}

/// `iommu_dma_prepare_msi`, `drivers/iommu/dma-iommu.c`: the doorbell is mapped only behind a domain. A stock 6.1.192
/// died below it in `alloc_iova_fast`, with the domain attached and its IOVA space not made.
#[test]
fn interrupts_composed_too_early_never_arrive() {
    let found = names(&tree("v6.1.y", &[]), "i2r1c1.own.pci.dt.v3.a1.msi");
    assert!(found.contains(&"msi-unmapped") && found.contains(&"null-iova"), "{found:?}");
    for base in ["v6.1.y", "v6.6", "v6.12", "v7.3"] {
        let quiet = explore(&tree(base, &[]), "i1r0c1.own.pci.dt.v3.a1.msi");
        assert_eq!(quiet.verdict, Verdict::Clean, "{base}");
    }
}

/// `iommu_dma_prepare_msi`: in `drivers/iommu/dma-iommu.c` of 6.1.192 and 6.12.117 it reads the domain without the group's
/// mutex; in `drivers/iommu/iommu.c` of 7.2.13 and 7.3.4 (288683c92b1a, 6.15) it takes it.
#[test]
fn messages_are_composed_under_the_group_mutex_since_6_15() {
    let locks = |base: &str| {
        let sites = healthy_sites(&tree(base, &[]), "i1r0c1.own.pci.dt.v3.a1.msi");
        assert!(sites.iter().any(|site| site == "iommu_dma_prepare_msi:update"), "{base}");
        sites.iter().any(|site| site == "iommu_dma_prepare_msi:lock(mutex)")
    };
    for base in ["v6.1.y", "v6.6", "v6.12", "v6.14"] {
        assert!(!locks(base), "{base}");
    }
    for base in ["v6.15", "v6.16", "v7.3"] {
        assert!(locks(base), "{base}");
    }
}

/// `__driver_probe_device`, `drivers/base/dd.c`, 6.12.117 (a2225b6e834a is in 6.12.86): a second thread is told to come
/// again, and `driver_deferred_probe_add` does nothing for it because `can_match` is not set yet.
#[test]
fn a_second_thread_waits_for_device_add() {
    let world = "i1r0c1.own.platform.dt.v3.a1.plug.second-thread";
    let told = |protocol: &Protocol| {
        let world: World = world.parse().unwrap();
        let model = portcullis_lab::linux::build(protocol, &world);
        let names = model.thread_names();
        let at = |name: &str| names.iter().position(|n| n.contains(name)).unwrap() as u16;
        let (adds, tries) = (at("probe aa00000"), at("driver registration"));
        // On the bus, then the other thread as far as it gets.
        let step = |thread| portcullis_explore::schedule::Move { thread, choice: 0 };
        let mut moves = vec![step(adds)];
        let schedule = |moves: &[_]| {
            portcullis_explore::schedule::Schedule::new(model.world(), moves.to_vec())
        };
        loop {
            moves.push(step(tries));
            match model.replay(&schedule(&moves)) {
                Ok(trace) if trace.steps.len() < 60 => {}
                _ => break,
            }
        }
        moves.pop();
        let trace = model.replay(&schedule(&moves)).unwrap();
        let sites: Vec<String> =
            trace.steps.iter().map(|step| step.label.site.to_string()).collect();
        let asked = sites.iter().any(|s| s == "__driver_probe_device:read(ready_to_probe)");
        let bound = sites.iter().any(|s| s == "really_probe:write(dev->driver)");
        let listed = sites.iter().any(|s| s.starts_with("driver_deferred_probe_add"));
        (asked, bound, listed)
    };
    assert_eq!(told(&tree("v6.12", &[])), (false, true, false));
    assert_eq!(told(&tree("v6.12.y", &[])), (true, false, false));
}

/// `arm_smmu_probe_device` returns `-EINVAL` for "stream ID ... out of range" (`arm-smmu.c`, 6.12.117);
/// `probe_iommu_group` passes it on, `bus_iommu_probe` returns at once and leaves its on-stack list
/// (`drivers/iommu/iommu.c`, 6.12.117: `if (ret) return ret;` before the loop over `group_list`).
#[test]
fn a_walk_that_fails_leaves_what_the_kernel_leaves() {
    for base in ["v6.1.y", "v6.6", "v6.12"] {
        let found = names(&tree(base, &[]), "i2r1c2.own.platform.dt.v3.a1.bad-id");
        for end in ["registration-failed", "dangling-entry"] {
            assert!(found.contains(&end), "{base}: {end} in {found:?}");
        }
    }
    let found = names(&tree("v7.3", &[]), "i1r1c2.own.platform.dt.v3.a1.bad-id");
    for end in ["registration-failed", "dangling-entry", "never-tried-again"] {
        assert!(found.contains(&end), "{end} in {found:?}");
    }
}

/// Clients behind the IOMMU that registers, behind the one that is bound, and one behind each.
#[test]
fn clients_sit_behind_any_iommu() {
    let base = tree("v7.3", &[]);
    assert_eq!(explore(&base, TWO).verdict, Verdict::Clean);
    let one = names(&base, ONE);
    assert_eq!(names(&base, "i2r1c1.own.platform.dt.v3.a1.behind-last"), one);
    assert_eq!(names(&base, "i2r1c2.own.platform.dt.v3.a1.behind-each"), one);
}

/// `iommu_release_device`, `drivers/iommu/iommu.c`. 6.1.192: `ops->release_device(dev)` before
/// `iommu_group_remove_device(dev)` takes the group's mutex. 6.12.117: inside `iommu_deinit_device`, under it.
/// `remove_iommu_group` asks `dev->iommu->iommu_dev`, which is stored before `dev->iommu_group`.
#[test]
fn release_follows_each_version() {
    let hardware_first = |base: &str, function: &str| {
        let sites = sites_of_unregister(base);
        let at = |site: &str| sites.iter().position(|s| *s == format!("{function}:{site}"));
        let locked = at("lock(mutex)").unwrap_or_else(|| panic!("{base}: {sites:?}"));
        at("write(hardware domain)").is_some_and(|released| released < locked)
    };
    assert!(hardware_first("v6.1.y", "iommu_release_device"));
    assert!(!hardware_first("v6.12", "__iommu_group_remove_device"));
    let stored = healthy_sites(&tree("v6.12", &[]), TWO);
    let at = |site: &str| stored.iter().position(|s| s == site).unwrap();
    assert!(
        at("iommu_init_device:write(dev->iommu->iommu_dev)")
            < at("iommu_init_device:write(dev->iommu_group)")
    );
}

/// The sites of a run in which the first instance is unregistered under its client.
fn sites_of_unregister(base: &str) -> Vec<String> {
    let report = explore(&tree(base, &[]), "i1r0c1.own.platform.dt.v3.a1.unregister");
    let freed = report.violations.iter().find(|v| v.id == Some(PropertyId::FreedWhileOwned));
    let freed = freed.unwrap_or_else(|| panic!("{base}: {:?}", report.violations.len()));
    freed.trace.steps.iter().map(|step| step.label.site.to_string()).collect()
}

/// `driver_managed_dma` (`platform_dma_configure`): no claim. `iommu_group_store_type`: refused while `owner_cnt` counts.
/// `iommu.passthrough`: the direct path is the right one, so nothing of the report is wrong.
#[test]
fn drivers_that_manage_their_dma_identity_domains_and_the_type_file() {
    for base in ["v6.1.y", "v6.6", "v6.12", "v7.3"] {
        let managed = "i1r0c1.own.platform.dt.v3.a1.managed";
        assert_eq!(explore(&tree(base, &[]), managed).verdict, Verdict::Clean, "{base}");
        let sites = healthy_sites(&tree(base, &[]), managed);
        assert!(!sites.iter().any(|s| s.starts_with("iommu_device_use_default_domain")));
        let found = names(&tree(base, &[]), "i2r1c1.identity.platform.dt.v3.a1");
        for path in ["wrong-path", "lost-bit", "path-switched", "null-iova"] {
            assert!(!found.contains(&path), "{base}: {found:?}");
        }
    }
    // b67483b3c44e's own text: the type file races with iommu_setup_dma_ops before the claim, on 6.6.
    let found = names(&tree("v6.6", &[]), "i1r0c1.own.platform.dt.v3.a1.type");
    assert!(found.contains(&"domain-freed"), "{found:?}");
    assert_eq!(names(&tree("v7.3", &[]), "i1r0c1.own.platform.dt.v3.a1.type"), [""; 0]);
}

/// 7.3.4: `amba_dma_configure` (`drivers/amba/bus.c`) and `cdx_dma_configure` (`drivers/cdx/cdx.c`) read `dev->driver`
/// twice, `fsl_mc_dma_configure` once; `cdx_dma_configure` ends in `return 0` also for `-EPROBE_DEFER`.
#[test]
fn each_bus_has_its_habits() {
    let on = |base: &str, bus: &str| names(&tree(base, &[]), &format!("i1r1c1.own.{bus}.dt.v3.a1"));
    let twice = "driver-read-twice";
    assert!(on("v7.3", "amba").contains(&twice) && on("v7.3", "cdx").contains(&twice));
    assert!(!on("v7.3", "fsl-mc").contains(&twice) && !on("v7.3", "platform").contains(&twice));
    assert!(on("v6.15-rc1", "fsl-mc").contains(&twice));
    let patched = tree("v7.3", &["amba-driver-once"]);
    assert!(!names(&patched, "i1r1c1.own.amba.dt.v3.a1").contains(&twice));
    // A deferral that nobody hears of: the driver runs without its IOMMU.
    assert!(
        on("v7.3", "cdx").contains(&"no-iommu") && !on("v7.3", "platform").contains(&"no-iommu")
    );
    assert!(on("v7.3", "host1x").contains(&"no-group-at-claim"));
}

/// Three ways to one bad end are three findings, and different commits close them.
#[test]
fn mechanisms_are_told_apart() {
    let stable = tree("v6.12.y", &[]);
    let shared = "i2r1c2.shared.platform.dt.v3.a1";
    let report = explore(&stable, shared);
    let ids: Vec<_> = report.violations.iter().filter_map(|v| v.id).collect();
    assert_eq!(ids, [PropertyId::LostBit, PropertyId::SiblingsDomain]);
    let closers = closers(&report, None).unwrap();
    let closes = |id| {
        let (_, changes) = closers.by_property.iter().find(|(found, _)| *found == id).unwrap();
        changes.clone()
    };
    let atomic = Change::Apply(Commit::AtomicBits);
    assert!(closes(PropertyId::LostBit).contains(&atomic));
    assert!(!closes(PropertyId::SiblingsDomain).contains(&atomic));
    let window = explore(&tree("v7.3", &[]), ONE);
    assert!(window.violations.iter().any(|v| v.id == Some(PropertyId::NoGroupAtClaim)));
}

/// 5.15 and 5.10 (from memory, not read): a registration adds to the list and no more; `bus_set_iommu` of the first
/// instance walks. So a second SMMU that registers disturbs nobody: the report's ends cannot be reached.
#[test]
fn before_6_1_a_second_registration_walks_nothing() {
    assert_eq!(explore(&tree("android13-5.15", &[]), TWO).verdict, Verdict::Clean);
    assert!(!names(&tree("v5.15", &[]), ONE).contains(&"wrong-path"));
}

/// android14-6.1 carries the group test under the lock: no second probe; the report's end is there all the same.
#[test]
fn half_of_6eb4da8cf545_is_a_toggle_on_6_1() {
    let (plain, half) = (names(&tree("v6.1.y", &[]), TWO), names(&tree("android14-6.1", &[]), TWO));
    assert!(plain.contains(&"probed-twice") && !half.contains(&"probed-twice"));
    assert!(half.contains(&"wrong-path"));
    assert_eq!(names(&tree("v6.1.y", &["6eb4da8cf545-6.1"]), TWO), half);
}
