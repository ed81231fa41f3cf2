//! The verdict table of the kernels, row by row, and every known fix on its own ground.

use portcullis_lab::linux::{
    Budget, Bus, Change, Commit, Driver, Event, Firmware, Grouping, PropertyId, Protocol, Report,
    Verdict, World, check, closers,
};

fn tree(base: &str, apply: &[&str], revert: &[&str]) -> Protocol {
    Protocol::parse(base, apply, revert).unwrap()
}

fn explore(protocol: &Protocol, world: &World) -> Report {
    let report = check(protocol, world, Budget::for_world(world), &mut |_| {}).unwrap();
    assert!(report.explored.exhaustive, "{protocol} in {world}");
    assert!(report.healthy.is_some(), "{protocol} in {world}: the good end is out of reach");
    report
}

/// What is violated, as `I1/B1`.
fn found(protocol: &Protocol, world: &World) -> Vec<String> {
    let report = explore(protocol, world);
    let names = report.violations.iter();
    let mut found: Vec<String> =
        names.map(|v| format!("{}/{}", v.property, v.bad_end.unwrap_or("-"))).collect();
    found.dedup();
    found
}

/// Two IOMMUs, the client's is bound, the other one registers: the report.
fn two() -> World {
    World::default()
}

/// The client's own IOMMU registers.
fn one() -> World {
    World::of(1, 1, 1)
}

fn v2(world: World) -> World {
    World { driver: Driver::V2, ..world }
}

fn grouped(grouping: Grouping) -> World {
    World { clients: 2, grouping, ..two() }
}

const RETAINING: &str =
    "Failed to set up IOMMU for device aa00000.video-codec; retaining platform DMA ops";

#[test]
fn the_report_is_found_on_v6_6_with_its_message() {
    let report = explore(&tree("v6.6", &[], &[]), &two());
    let [violation] = &report.violations[..] else { panic!("{:?}", report.violations) };
    assert_eq!((violation.property, violation.bad_end), ("I1", Some("B1")));
    assert_eq!(violation.message.as_deref(), Some(RETAINING));
    assert!(violation.shortest);
    assert_eq!(violation.trace.steps.len(), 51);
}

#[test]
fn the_report_needs_neither_platform_bus_nor_devicetree() {
    let pci = World { bus: Bus::Pci, ..two() };
    let report = explore(&tree("v6.6", &[], &[]), &pci);
    let message = report.violations[0].message.as_deref().unwrap();
    assert!(message.contains("device 0000:00:02.0;"), "{message}");
    let acpi = World { firmware: Firmware::Acpi, ..two() };
    assert_eq!(found(&tree("v6.6", &[], &[]), &acpi), ["I1/B1"]);
}

#[test]
fn row_1_v6_1_is_affected_although_it_skips_the_replay() {
    let found_here = found(&tree("v6.1.y", &[], &[]), &two());
    assert!(found_here.contains(&"I1/B1".into()), "{found_here:?}");
    assert!(found_here.contains(&"I4/-".into()), "double probe: {found_here:?}");
    assert!(found(&tree("v6.1.0", &[], &[]), &two()).contains(&"I1/B1".into()));
}

#[test]
fn row_1_domain_overwritten_before_64c3873cb255() {
    let before = explore(&tree("v6.1.y", &[], &["64c3873cb255"]), &two());
    let overwritten = |id| before.violations.iter().any(|v| v.id == Some(id));
    assert!(overwritten(PropertyId::NullIovaDomain), "NULL dereference in iommu_dma_alloc");
    assert!(overwritten(PropertyId::DomainReplaced));
    let after = found(&tree("v6.1.y", &[], &[]), &two());
    assert!(!after.contains(&"I3/B3".into()) && !after.contains(&"I2/B6".into()), "{after:?}");
}

#[test]
fn row_2_other_ends_of_v6_6() {
    assert_eq!(found(&tree("v6.6", &[], &[]), &one()), ["I8/B4"]);
    assert_eq!(found(&tree("v6.6", &[], &[]), &v2(one())), ["I3/B3"]);
    let hacked = tree("v6.6", &["229e6ee43d2a"], &[]);
    assert_eq!(found(&hacked, &v2(one())), ["I5/B5", "I8/B4"]);
}

#[test]
fn row_3_v6_6_without_f188056352bc_is_clean_for_groups_of_one_type() {
    let reverted = tree("v6.6", &[], &["f188056352bc"]);
    for world in [two(), World { clients: 2, ..two() }, grouped(Grouping::Shared)] {
        assert_eq!(explore(&reverted, &world).verdict, Verdict::Clean, "{world}");
    }
    let found = found(&reverted, &grouped(Grouping::Mixed));
    assert!(found.contains(&"I2/B6".into()), "{found:?}");
}

#[test]
fn row_4_the_rfc_is_clean_for_groups_of_one_type_and_useless_later() {
    let rfc = tree("v6.6", &["rfc-20241213"], &[]);
    assert_eq!(explore(&rfc, &two()).verdict, Verdict::Clean);
    assert_eq!(explore(&rfc, &grouped(Grouping::Shared)).verdict, Verdict::Clean);
    assert!(found(&rfc, &grouped(Grouping::Mixed)).contains(&"I2/B6".into()));
    let later = tree("v6.12", &["rfc-20241213"], &[]);
    assert!(found(&later, &two()).contains(&"I2/B2".into()), "nobody sets dma_iommu in time");
}

#[test]
fn row_4b_b46064a18810_alone_leaves_v6_6_affected_but_in_fewer_schedules() {
    let patched = tree("v6.6", &["b46064a18810"], &[]);
    let report = explore(&patched, &two());
    assert_eq!(report.violations.len(), 1);
    assert_eq!(report.violations[0].bad_end, Some("B1"));
    assert_eq!(report.violations[0].message.as_deref(), Some(RETAINING));
    // Narrower: P1 must finish the group between the client's look at its domain and its claim.
    let reason =
        |step: &portcullis_explore::search::TraceStep, why: &str| step.label.why.contains(why);
    let steps = &report.violations[0].trace.steps;
    let looked = steps.iter().position(|s| reason(s, "group->domain, no lock")).unwrap();
    let claimed = steps.iter().position(|s| s.label.what().contains("owner_cnt++")).unwrap();
    let set =
        steps.iter().position(|s| s.label.what().contains("group->default_domain = dom")).unwrap();
    assert!(set < claimed && looked < claimed);
}

#[test]
fn row_4c_the_backport_needs_a_second_attempt() {
    let backport = tree("v6.6", &["b46064a18810-6.6.y"], &[]);
    assert_eq!(explore(&backport, &two()).verdict, Verdict::Clean);
    let second = World { attempts: 2, ..two() };
    let report = explore(&backport, &second);
    assert_eq!(report.violations[0].bad_end, Some("B1"));
    assert_eq!(report.violations[0].message.as_deref(), Some(RETAINING));
    let sibling = World { clients: 2, ..two() };
    assert_eq!(found(&backport, &sibling), ["I1/B1"], "a sibling's bind is a second attempt too");
}

/// Up to 6.7 the bus has no ops between "listed" and "ops set": a client that looks then goes on without its
/// IOMMU, and the walk gives it one afterwards. No message: the client does not think it is behind one.
#[test]
fn bus_ops_that_come_late_defeat_every_patch_of_the_replay() {
    for apply in [["7d835134d4e1", "rfc-20241213"], ["7d835134d4e1", "b46064a18810-6.6.y"]] {
        let report = explore(&tree("v6.6", &apply, &[]), &one());
        let wrong = report.violations.iter().find(|v| v.bad_end == Some("B1")).unwrap();
        assert_eq!(wrong.message, None);
        let looked = wrong.trace.steps.iter().find(|s| s.label.why.contains("any IOMMU?")).unwrap();
        assert_eq!(looked.report.observed.as_deref(), Some("NULL"));
    }
}

#[test]
fn row_5_v6_12_switches_the_path_under_the_driver_without_a_word() {
    let report = explore(&tree("v6.12", &[], &[]), &two());
    let switched = report.violations.iter().find(|v| v.bad_end == Some("B2")).unwrap();
    assert_eq!((switched.property, &switched.message), ("I2", &None));
    assert_eq!(found(&tree("v6.12", &[], &[]), &v2(one())), ["I3/B3"]);
    assert_eq!(found(&tree("v6.12", &[], &[]), &one()), ["I8/B4"]);
}

#[test]
fn row_5_the_lost_bit_update_survives_b46064a18810_and_ends_with_atomic_bits() {
    let checked = tree("v6.12", &["b46064a18810"], &[]);
    let report = explore(&checked, &two());
    let [lost] = &report.violations[..] else { panic!("{:?}", report.violations) };
    assert_eq!(lost.id, Some(PropertyId::LostBit));
    assert_eq!((lost.property, lost.bad_end, &lost.message), ("I1", Some("B1"), &None));
    let store =
        lost.trace.steps.iter().rev().find(|s| s.label.why.contains("dma_coherent = ")).unwrap();
    assert!(
        store
            .report
            .changes
            .iter()
            .any(|c| c.before == "iommu-dma" && c.after == "direct, coherent"),
        "the store of dma_coherent takes dma_iommu back: {:?}",
        store.report.changes
    );
    let atomic = tree("v6.12", &["b46064a18810", "a2225b6e834a", "f8670e8e43b8"], &[]);
    assert_eq!(explore(&atomic, &two()).verdict, Verdict::Clean);
}

#[test]
fn row_6_the_hack_of_v6_13_makes_the_registration_itself_fail() {
    let base = tree("v6.13-rc5", &[], &[]);
    assert_eq!(found(&base, &v2(one())), ["I5/B5", "I8/B4"]);
    let message = explore(&base, &v2(one())).violations[0].message.clone();
    assert_eq!(message.as_deref(), Some("arm-smmu 15000000.iommu: Failed to register iommu"));
    let siblings = found(&base, &v2(World::of(1, 1, 2)));
    assert!(
        siblings.contains(&"I5/-".into()),
        "nothing is left to try the SMMU again: {siblings:?}"
    );
    assert!(found(&base, &two()).contains(&"I2/B2".into()), "the report's race is as in 6.12");
}

#[test]
fn row_7_the_6_14_queue_finds_the_instance_and_gets_the_race() {
    for world in [one(), v2(one()), two()] {
        let found = found(&tree("v6.14", &[], &[]), &world);
        assert_eq!(
            found,
            ["I3/B3", "I1/B1", "I2/B2"],
            "{world}: IOVA space, lost bit, switched path"
        );
    }
    let found = found(&tree("v6.12", &["7d835134d4e1"], &[]), &one());
    assert_eq!(found, ["I3/B3", "I1/B1", "I2/B2"]);
}

#[test]
fn row_8_parsing_in_the_walk_brings_its_own_races() {
    let base = tree("v6.15-rc1", &[], &[]);
    assert_eq!(
        explore(&base, &two()).verdict,
        Verdict::Clean,
        "clients are probed by the first walk"
    );
    let own = explore(&base, &one());
    let has = |id| own.violations.iter().any(|v| v.id == Some(id));
    for id in [
        PropertyId::LateProbeWarning,
        PropertyId::DriverReadTwice,
        PropertyId::NoGroupAtClaim,
        PropertyId::NullIovaDomain,
        PropertyId::Uncounted,
    ] {
        assert!(has(id), "{id:?}");
    }
    let walks = explore(&base, &World::of(2, 2, 1));
    let has = |id| walks.violations.iter().any(|v| v.id == Some(id));
    assert!(
        has(PropertyId::ProbedTwice) && has(PropertyId::NullDevIommu),
        "two walks of one device"
    );
    let acpi = World { firmware: Firmware::Acpi, ..one() };
    assert!(found(&base, &acpi).contains(&"I8/B4".into()), "no replay on ACPI");
}

#[test]
fn row_8_each_repair_removes_its_own_violation() {
    let lacks = |commit: &str, world: &World, id| {
        let patched =
            tree("v6.15-rc1", &[], &[]).with_prerequisites(Commit::find(commit).unwrap()).unwrap();
        let left = explore(&patched, world);
        let before = explore(&tree("v6.15-rc1", &[], &[]), world);
        assert!(before.violations.iter().any(|v| v.id == Some(id)), "{commit}: {id:?} before");
        assert!(left.violations.iter().all(|v| v.id != Some(id)), "{commit}: {id:?} after");
    };
    lacks("95deee37a123", &one(), PropertyId::DriverReadTwice);
    lacks("78447d4545b2", &World { bus: Bus::Pci, ..one() }, PropertyId::DriverReadTwice);
    lacks("0c8e9c148e29", &World::of(2, 2, 1), PropertyId::ProbedTwice);
    lacks("0c8e9c148e29", &World::of(2, 2, 1), PropertyId::NullDevIommu);
    lacks("f8670e8e43b8", &one(), PropertyId::LostBit);
}

#[test]
fn row_9_v7_3_keeps_a_window_while_the_walk_has_dropped_the_lock() {
    let base = tree("v7.3-rc7", &[], &[]);
    assert_eq!(explore(&base, &two()).verdict, Verdict::Clean);
    assert_eq!(found(&base, &one()), ["I3/B3", "B7/B7", "I2/B2", "I7/-"]);
    let acpi = World { firmware: Firmware::Acpi, ..one() };
    assert!(found(&base, &acpi).contains(&"I8/B4".into()), "no replay on ACPI");
    let two_nodes = World { two_nodes: true, ..two() };
    assert!(found(&base, &two_nodes).contains(&"B7/B7".into()), "the ready test is skipped");
    let with = |event| World { events: vec![event], ..two() };
    assert!(found(&base, &with(Event::Unplug)).contains(&"I3/-".into()), "gone but listed");
    assert!(found(&base, &with(Event::Plug)).contains(&"I7/-".into()), "the walk counts itself");
}

#[test]
fn the_ready_flag_is_worth_having() {
    // Without it the warning needs no dropped lock: the client simply comes before the walk.
    let steps = |protocol: &Protocol| {
        let report = explore(protocol, &one());
        let late = report.violations.into_iter().find(|v| v.property == "B7").unwrap();
        late.trace.steps.len()
    };
    let with = steps(&tree("v7.3", &[], &[]));
    let without = steps(&tree("v7.3", &[], &["da33e87bd2bf"]));
    assert!(without < with, "{without} < {with}");
}

#[test]
fn the_fwspec_lock_closes_the_oldest_member_of_the_family() {
    let before = found(&tree("v6.6", &[], &["a2e7e59a9426"]), &two());
    assert!(before.contains(&"I3/B3".into()), "{before:?}");
    assert_eq!(found(&tree("v6.6", &[], &[]), &two()), ["I1/B1"]);
}

#[test]
fn what_closes_the_report_is_found_by_checking() {
    let report = explore(&tree("v6.6", &[], &[]), &two());
    let closers = closers(&report, None).unwrap();
    for single in [
        Change::Revert(Commit::AttachInProbe),
        Change::Apply(Commit::Rfc20241213),
        Change::Apply(Commit::DefaultDomainBackport),
    ] {
        assert!(closers.clean.contains(&vec![single]), "{single}");
    }
    assert!(!closers.clean.contains(&vec![Change::Apply(Commit::DefaultDomainCheck)]));
    let second = World { attempts: 2, ..two() };
    let report = explore(&tree("v6.6", &["b46064a18810-6.6.y"], &[]), &second);
    let closers = portcullis_lab::linux::closers(&report, None).unwrap();
    assert!(closers.clean.contains(&vec![Change::Apply(Commit::DmaOpsWithDomain)]));
}

/// The table "What closes what" of docs/linux-verdicts.md.
#[test]
fn the_table_of_what_closes_what_is_true() {
    use Change::Apply;
    let clean = |protocol: &Protocol, world: &World| {
        closers(&explore(protocol, world), None).unwrap().clean
    };
    let mixed = clean(&tree("v6.6", &[], &[]), &grouped(Grouping::Mixed));
    assert_eq!(mixed, [[Apply(Commit::DefaultDomainBackport)]]);
    let both = vec![Apply(Commit::DefaultDomainCheck), Apply(Commit::AtomicBits)];
    assert!(clean(&tree("v6.12", &[], &[]), &two()).contains(&both));
    let three = [vec![Apply(Commit::LookupByBus)], both].concat();
    for base in ["v6.12", "v6.13-rc5"] {
        assert!(clean(&tree(base, &[], &[]), &one()).contains(&three), "{base}");
    }
    for (base, world) in [("v6.1.y", two()), ("v7.3-rc7", one())] {
        assert_eq!(clean(&tree(base, &[], &[]), &world), Vec::<Vec<Change>>::new(), "{base}");
    }
}

#[test]
fn a_driver_that_gives_up_waiting_loses_its_iommu_by_design() {
    let world = World { events: vec![Event::Timeout], ..one() };
    let report = explore(
        &tree("v6.12", &["7d835134d4e1", "b46064a18810", "a2225b6e834a", "f8670e8e43b8"], &[]),
        &world,
    );
    let [gave_up] = &report.violations[..] else { panic!("{:?}", report.violations) };
    assert_eq!(gave_up.bad_end, Some("B4"));
    assert!(gave_up.message.as_deref().unwrap().contains("deferred probe timeout"));
}

#[test]
fn an_instance_that_leaves_takes_the_domains_of_bound_drivers_along() {
    let world = World { events: vec![Event::Unregister], ..World::of(1, 0, 1) };
    for base in ["v6.1.y", "v6.6", "v6.12", "v7.3"] {
        let found = found(&tree(base, &[], &[]), &world);
        assert!(found.contains(&"I7/B6".into()), "{base}: {found:?}");
    }
}

#[test]
fn a_bind_without_any_registration_is_clean_everywhere() {
    for base in portcullis_lab::linux::BASES {
        for clients in [1, 2] {
            let world = World::of(1, 0, clients);
            let protocol = Protocol::of(base.id);
            assert_eq!(explore(&protocol, &world).verdict, Verdict::Clean, "{protocol} {world}");
        }
        let rebind = World { events: vec![Event::Rebind], ..World::of(1, 0, 1) };
        assert_eq!(explore(&Protocol::of(base.id), &rebind).verdict, Verdict::Clean, "{base:?}");
    }
}
