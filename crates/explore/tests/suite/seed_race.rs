//! The race that this project started from, on one IOMMU and one client: the smallest real protocol.

use std::rc::Rc;

use portcullis_explore::proto::{Builder, Field, Mutex, PropertyId, Protocol, Step, Thread};
use portcullis_explore::search::{Control, Strategy, Verdict};

struct World {
    probe_lock: Mutex,
    group_lock: Mutex,
    group: Field,
    domain: Field,
    dma_ops: Field,
    right_dma: PropertyId,
    fixed: bool,
}

fn bus_iommu_probe(t: &mut Thread<'_>, w: &World) -> Step<()> {
    t.func("bus_iommu_probe", |t| {
        t.func("probe_iommu_group", |t| {
            t.locked(w.probe_lock, "iommu_probe_device_lock", |t| {
                if t.is_set(w.group, "in a group already?")? {
                    return Ok(());
                }
                t.write(w.group, true, "published without a domain")
            })
        })?;
        setup_default_domain(t, w)
    })
}

fn setup_default_domain(t: &mut Thread<'_>, w: &World) -> Step<()> {
    t.func("iommu_setup_default_domain", |t| {
        t.locked(w.group_lock, "group->mutex", |t| {
            if !t.is_set(w.domain, "has a domain already?")? {
                t.write(w.domain, true, "attached")?;
            }
            t.write(w.dma_ops, true, "iommu_setup_dma_ops")
        })
    })
}

fn really_probe(t: &mut Thread<'_>, w: &World) -> Step<()> {
    t.func("iommu_probe_device", |t| {
        t.lock(w.probe_lock, "iommu_probe_device_lock")?;
        let early = t.is_set(w.group, "in a group already?")?;
        if !early {
            t.write(w.group, true, "")?;
            setup_default_domain(t, w)?;
        }
        t.unlock(w.probe_lock)?;
        if early && w.fixed { setup_default_domain(t, w) } else { Ok(()) }
    })?;
    t.func("really_probe", |t| {
        let translated = t.is_set(w.dma_ops, "first DMA")?;
        t.check(w.right_dma, translated);
        Ok(())
    })
}

fn seed_race(fixed: bool) -> Protocol {
    let mut b = Builder::new();
    let world = Rc::new(World {
        probe_lock: b.mutex("iommu_probe_device_lock"),
        group_lock: b.mutex("group->mutex"),
        group: b.field("dev->iommu_group", 1),
        domain: b.field("group->domain", 1),
        dma_ops: b.field("dev->dma_ops", 1),
        right_dma: b.checked("I1"),
        fixed,
    });
    let w = Rc::clone(&world);
    b.thread("P1", move |t| bus_iommu_probe(t, &w));
    let w = Rc::clone(&world);
    b.thread("P2", move |t| really_probe(t, &w));
    let final_state = (world.domain, world.dma_ops);
    b.eventually("set up", move |v| v.is_set(final_state.0) && v.is_set(final_state.1));
    b.build(if fixed { "seed-fixed" } else { "seed" })
}

#[test]
fn the_race_is_found_by_its_shortest_schedule_and_replays() {
    for reduce in [false, true] {
        let protocol = seed_race(false);
        let outcome =
            protocol.explore(Strategy::Exhaustive { reduce }, &mut Control::default()).unwrap();
        assert_eq!(outcome.verdict(), Verdict::Violated);
        let violation = outcome.violation("I1").unwrap();
        assert!(violation.shortest);
        // P1 publishes the group (4 steps), P2 returns early (3) and does its first DMA (1).
        assert_eq!(violation.schedule.to_string(), "p1:seed:0x4.1x4");
        let trace = protocol.replay(&violation.schedule).unwrap();
        assert_eq!(trace.violated(), ["I1"]);
        let last = trace.steps.last().unwrap();
        assert_eq!(last.label.to_string(), "P2: really_probe: read dev->dma_ops (first DMA)");
        assert_eq!(outcome.violations.len(), 1);
    }
}

#[test]
fn the_fix_is_clean_by_exhaustion() {
    for reduce in [false, true] {
        let protocol = seed_race(true);
        let outcome =
            protocol.explore(Strategy::Exhaustive { reduce }, &mut Control::default()).unwrap();
        assert_eq!(outcome.verdict(), Verdict::Clean, "{outcome:?}");
        assert!(outcome.exhaustive());
    }
}

#[test]
fn golden_schedule_replays_for_ever() {
    // Written down when version 1 of the format was made. If this fails, the format or the meaning of a step
    // has changed: make a version 2 and keep reading version 1.
    let trace = seed_race(false).replay(&"p1:seed:0x4.1x4".parse().unwrap()).unwrap();
    assert_eq!(trace.violated(), ["I1"]);
    let words: Vec<String> = trace.steps.iter().map(|s| s.label.what()).collect();
    assert_eq!(
        words,
        [
            "lock iommu_probe_device_lock",
            "read dev->iommu_group",
            "dev->iommu_group = 1",
            "unlock iommu_probe_device_lock",
            "lock iommu_probe_device_lock",
            "read dev->iommu_group",
            "unlock iommu_probe_device_lock",
            "read dev->dma_ops",
        ]
    );
}
