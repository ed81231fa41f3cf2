//! Sites: one name for one step, whatever the world.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_explore::schedule::{Move, Schedule};
use portcullis_explore::search::{Action, ThreadStatus};
use portcullis_lab::linux::{BASES, Protocol, World, build, comparison_worlds};

/// A few runs of a world: each thread in turn gets the preference.
fn walk(protocol: &Protocol, world: &World, mut visit: impl FnMut(&str, &str, Action)) {
    let model = build(protocol, world);
    let threads = model.thread_names().len();
    for first in 0..threads {
        let mut moves: Vec<Move> = Vec::new();
        loop {
            let trace = model.replay(&Schedule::new(model.world(), moves.clone())).unwrap();
            if let Some(step) = trace.steps.last() {
                let label = &step.label;
                visit(&label.site.to_string(), &label.why, label.site.action);
            }
            let can = |thread: &usize| trace.status[*thread] == ThreadStatus::Runnable;
            let Some(thread) = (first..threads).chain(0..first).find(can) else { break };
            moves.push(Move { thread: thread as u16, choice: 0 });
        }
    }
}

#[test]
fn a_site_names_one_thing_within_a_kernel() {
    for base in BASES {
        let mut meaning: BTreeMap<String, String> = BTreeMap::new();
        for (name, world) in comparison_worlds() {
            walk(&Protocol::of(base.id), &world, |site, why, action| {
                // A write at one place says which value it stores.
                let why = match action {
                    Action::Write => "",
                    _ => why.split(" = ").next().unwrap_or(why),
                };
                let known = meaning.entry(site.to_owned()).or_insert_with(|| why.to_owned());
                assert_eq!(known, why, "{}, {name}: {site}", base.name);
            });
        }
        assert!(meaning.len() > 40, "{}: {} sites", base.name, meaning.len());
    }
}

#[test]
fn a_site_does_not_depend_on_the_world() {
    let sites = |world: &World| {
        let mut sites = BTreeSet::new();
        walk(&Protocol::of(BASES[2].id), world, |site, _, _| {
            sites.insert(site.to_owned());
        });
        sites
    };
    let (one, two) = (sites(&World::of(2, 1, 1)), sites(&World::of(3, 1, 2)));
    assert!(one.is_subset(&two), "{:?}", one.difference(&two));
    for site in [
        "bus_iommu_probe:read(on group_list)",
        "of_iommu_configure:unlock(iommu_probe_device_lock)",
        "iommu_device_use_default_domain:lock(mutex)",
        "iommu_setup_dma_ops:read(domain)",
        "really_probe:write(dev->driver)",
    ] {
        assert!(one.contains(site), "{site} in {one:?}");
    }
}
