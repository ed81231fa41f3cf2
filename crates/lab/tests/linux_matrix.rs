//! The matrix of `lab compare`, and what must hold of every cell.

use std::collections::BTreeSet;

use portcullis_explore::search::Strategy;
use portcullis_lab::linux::{
    BASES, Budget, PROPERTIES, Protocol, Verdict, World, check, compare, compared_bases,
    comparison_worlds, replay,
};

#[test]
fn every_cell_is_exhausted_reaches_health_and_replays() {
    let matrix = compare(None, comparison_worlds(), None, &|_, _| {}).unwrap();
    assert_eq!(matrix.rows.len(), compared_bases().count());
    for report in matrix.rows.iter().flatten().map(|cell| &cell.report) {
        let here = format!("{} in {}", report.protocol, report.world);
        assert!(report.explored.exhaustive, "{here}");
        assert!(report.healthy.is_some(), "{here}: the model is vacuous");
        let healthy = replay(report.healthy.as_ref().unwrap()).unwrap().2;
        assert!(healthy.steps.iter().any(|step| step.reached == ["healthy-bound"]), "{here}");
        for violation in &report.violations {
            assert!(violation.shortest, "{here}: {}", violation.name);
            let (protocol, world, trace) = replay(&violation.schedule).unwrap();
            assert_eq!((&protocol, &world), (&report.protocol, &report.world));
            assert!(trace.violated().contains(&violation.name), "{here}: {}", violation.name);
        }
    }
}

/// The reduction runs lock-protected blocks as one step; it must find the same violations.
#[test]
fn the_reduction_changes_no_verdict() {
    for base in BASES {
        for (name, world) in comparison_worlds() {
            if world.clients > 1 && cfg!(debug_assertions) {
                continue;
            }
            let protocol = Protocol::of(base.id);
            let violated = |reduce| {
                let strategy = Strategy::Exhaustive { reduce };
                let budget = Budget { strategy, shortest: false, ..Budget::default() };
                let report = check(&protocol, &world, budget, &mut |_| {}).unwrap();
                assert!(report.explored.exhaustive);
                let names: BTreeSet<&str> = report.violations.iter().map(|v| v.name).collect();
                (names, report.explored.states)
            };
            let ((full, all), (reduced, fewer)) = (violated(false), violated(true));
            assert_eq!(full, reduced, "{protocol}, {name}");
            assert!(fewer < all, "{protocol}, {name}: {fewer} of {all} states");
        }
    }
}

/// Registering instances that no client sits behind are searched as one; the full search exchanges nothing.
#[test]
fn equal_instances_change_no_verdict_and_no_length() {
    let mut violated = 0;
    for base in BASES {
        for world in [World::of(3, 2, 1), World::of(3, 3, 1), World::of(3, 2, 2)] {
            let large = world != World::of(3, 2, 1);
            if large && cfg!(debug_assertions) && !["v6.1", "v6.6", "v7.3"].contains(&base.name) {
                continue;
            }
            let protocol = Protocol::of(base.id);
            let found = |reduce| {
                let budget =
                    Budget { strategy: Strategy::Exhaustive { reduce }, ..Budget::default() };
                let report = check(&protocol, &world, budget, &mut |_| {}).unwrap();
                assert!(report.explored.exhaustive && report.healthy.is_some());
                let length = |schedule: &str| replay(schedule).unwrap().2.steps.len();
                let lengths = report.violations.iter().map(|v| (v.name, length(&v.schedule)));
                assert!(report.violations.iter().all(|v| v.shortest), "{protocol} in {world}");
                lengths.collect::<Vec<_>>()
            };
            let full = found(false);
            assert_eq!(full, found(true), "{protocol} in {world}");
            violated += full.len();
        }
    }
    assert!(violated > 10, "{violated}");
}

/// A property that no kernel violates would be a check that checks nothing.
#[test]
fn every_property_is_violated_by_some_kernel() {
    let mut worlds = comparison_worlds();
    for world in [
        "i1r1c2.own.platform.dt.v2.a1",
        "i1r0c1.own.platform.dt.v3.a1.unregister",
        "i2r1c1.own.platform.dt.v3.a1.unregister.rebind",
        "i1r1c1.own.platform.dt.v3.a1.rebind",
        "i1r1c1.own.platform.dt.v3.a1.msi",
        "i2r1c2.shared.platform.dt.v3.a1",
    ] {
        worlds.push((world.to_owned(), world.parse().unwrap()));
    }
    let mut trees: Vec<Protocol> = BASES.iter().map(|base| Protocol::of(base.id)).collect();
    trees.push(Protocol::parse::<&str>("v6.6", &[], &["f188056352bc"]).unwrap());
    let matrix = compare(Some(trees), worlds, None, &|_, _| {}).unwrap();
    let reports = matrix.rows.iter().flatten().map(|cell| &cell.report);
    let seen: BTreeSet<&str> =
        reports.flat_map(|report| report.violations.iter().map(|v| v.name)).collect();
    let never: Vec<&str> =
        PROPERTIES.iter().map(|info| info.name).filter(|name| !seen.contains(name)).collect();
    assert!(never.is_empty(), "never violated: {never:?}");
    assert!(!seen.contains("deadlock"));
}

#[test]
fn a_stopped_comparison_says_that_it_is_bounded() {
    let stop = std::sync::atomic::AtomicBool::new(true);
    let trees = vec![Protocol::parse::<&str>("v6.6", &[], &["f188056352bc"]).unwrap()];
    let matrix = compare(Some(trees), comparison_worlds(), Some(&stop), &|_, _| {}).unwrap();
    assert!(matrix.rows[0].iter().all(|cell| !cell.report.explored.exhaustive));
    assert!(matrix.rows[0].iter().any(|cell| cell.report.verdict == Verdict::Bounded));
}

/// Searches that do not cover everything never say "clean".
#[test]
fn bounded_and_random_searches_say_what_they_are() {
    let tree = |revert: &[&str]| Protocol::parse("v6.6", &[], revert).unwrap();
    let world = World::default();
    let run = |protocol: &Protocol, strategy| {
        let budget = Budget { strategy, ..Budget::for_world(&world) };
        let report = check(protocol, &world, budget, &mut |_| {}).unwrap();
        assert!(!report.explored.exhaustive, "{strategy:?}");
        (report.verdict, report.violations.first().map(|v| v.schedule.clone()))
    };
    let bounded = |preemptions| Strategy::Bounded { preemptions };
    assert_eq!(run(&tree(&[]), bounded(0)).0, Verdict::Bounded);
    assert_eq!(run(&tree(&[]), bounded(5)).0, Verdict::Violated);
    for strategy in [
        bounded(5),
        Strategy::Random { runs: 2_000, seed: 7 },
        Strategy::Pct { depth: 4, runs: 20_000, seed: 7 },
    ] {
        assert_eq!(run(&tree(&["f188056352bc"]), strategy).0, Verdict::Bounded, "{strategy:?}");
        assert_eq!(run(&tree(&[]), strategy), run(&tree(&[]), strategy), "{strategy:?} repeats");
    }
    let (verdict, schedule) = run(&tree(&[]), Strategy::Pct { depth: 4, runs: 20_000, seed: 7 });
    assert_eq!(verdict, Verdict::Violated);
    assert!(replay(&schedule.unwrap()).unwrap().2.violated().contains(&"wrong-path"));
}
