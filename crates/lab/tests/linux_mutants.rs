//! One line of a Linux protocol changed at a time: a lock left out, a test turned round, a store or an update left out. Every
//! such mutant must change what is found (the violated properties, or the ends that are reached) in one of the worlds below, or
//! is explained. That the unchanged protocols are right is for other witnesses: stock kernels (`linux_real_kernel.rs`), the
//! independent machine (`linux_stateright.rs`), the sources (`linux_corrections.rs`).

use std::collections::{BTreeMap, BTreeSet};

use portcullis_explore::proto::{self, Effect, Mutation};
use portcullis_explore::schedule::{Move, Schedule};
use portcullis_explore::search::{Action, Control, Strategy, ThreadStatus};
use portcullis_lab::linux::{Protocol, World, build, build_mutant};

/// The kernels and worlds that a mutant runs through.
const TREES: &[(&str, &[&str])] =
    &[("v6.1.y", &[]), ("v6.6", &["b46064a18810-6.6.y"]), ("v6.12.y", &[]), ("v7.3-rc7", &[])];
const WORLDS: &[&str] = &[
    "i1r0c1.own.platform.dt.v3.a1",
    "i2r1c1.own.platform.dt.v3.a1",
    "i1r1c1.own.platform.dt.v3.a1",
    "i1r1c1.own.platform.dt.v2.a1",
    "i1r0c1.own.platform.dt.v3.a1.rebind",
    "i1r0c1.own.platform.dt.v3.a1.fail",
    "i1r0c1.own.platform.dt.v3.a1.defer",
    "i1r0c1.own.pci.dt.v3.a1.vfio",
    "i1r0c1.own.platform.dt.v3.a1.unplug",
    "i1r0c1.own.platform.dt.v3.a1.unregister",
    "i1r0c1.own.pci.dt.v3.a1.msi",
    "i1r0c1.own.platform.dt.v3.a1.type",
    "i1r1c1.own.platform.acpi.v3.a1",
    "i2r1c1.own.platform.dt.v3.a2",
    "i2r1c2.mixed.platform.dt.v3.a1",
    "i1r1c2.own.platform.dt.v3.a1.bad-id",
    "i1r1c1.own.platform.dt.v3.a1.timeout",
    "i2r2c1.own.platform.dt.v3.a1",
    "i2r1c1.own.platform.acpi.v3.a2",
    "i2r1c1.own.platform.dt.v3.a1.two-nodes",
    "i1r0c1.own.platform.dt.v3.a1.unplug.rebind",
    "i1r0c2.shared.pci.dt.v3.a1.vfio.rebind",
    "i1r1c1.own.platform.dt.v3.a1.unregister",
    "i1r0c2.shared.platform.dt.v3.a1.unplug.type",
    "i2r1c1.own.pci.dt.v3.a1.vfio",
    // A walk sets the domain up while the driver composes its message.
    "i1r1c1.own.platform.dt.v3.a1.msi",
];

/// What a search found: names of violated properties, whether the good end is reached, and the ends' fields.
#[derive(Debug, PartialEq, Eq, Clone)]
enum Found {
    Broken,
    Ends(BTreeSet<String>, bool, BTreeSet<Vec<u64>>),
}

impl Found {
    /// The names of what is violated; none for a model that breaks the explorer's rules.
    fn verdict(&self) -> Option<&BTreeSet<String>> {
        match self {
            Self::Broken => None,
            Self::Ends(names, ..) => Some(names),
        }
    }
}

fn search(model: &proto::Protocol) -> Found {
    let strategy = Strategy::Exhaustive { reduce: true };
    let mut control =
        Control { shortest_within: 0, max_states: Some(400_000), ..Control::default() };
    let mut ends = BTreeSet::new();
    let outcome = model.explore_with_ends(strategy, &mut control, &mut |end| {
        ends.insert(end.fields.clone());
    });
    match outcome {
        Err(_) => Found::Broken,
        Ok(outcome) => {
            let names = outcome.violations.iter().map(|v| v.property.clone()).collect();
            let healthy = outcome.reached.iter().any(|r| r.schedule.is_some());
            Found::Ends(names, healthy, ends)
        }
    }
}

/// The sites of a kernel in the worlds, each with the first world in which it is passed.
fn sites(protocol: &Protocol) -> BTreeMap<String, (Action, usize)> {
    let mut sites = BTreeMap::new();
    for (number, world) in WORLDS.iter().enumerate() {
        let model = build(protocol, &world.parse::<World>().unwrap());
        let threads = model.thread_names().len();
        for first in 0..threads {
            let mut moves: Vec<Move> = Vec::new();
            loop {
                let schedule = Schedule::new(model.world(), moves.clone());
                let trace = model.replay(&schedule).unwrap();
                if let Some(step) = trace.steps.last() {
                    let site = &step.label.site;
                    sites.entry(site.to_string()).or_insert((site.action, number));
                }
                let can = |thread: &usize| trace.status[*thread] == ThreadStatus::Runnable;
                let Some(thread) = (first..threads).chain(0..first).find(can) else { break };
                moves.push(Move { thread: thread as u16, choice: 0 });
            }
        }
    }
    sites
}

/// Mutants that change nothing that can be seen, by site, each with the reason.
const EQUIVALENT: &[(&str, &str)] = &[
    (
        ":lock(device_lock)",
        "an instance is bound when it is unregistered: nobody else wants its lock",
    ),
    (
        "of_iommu_configure:read(fwspec)",
        "a second parse makes the same fwspec, and the replay stops at the group",
    ),
    ("acpi_iommu_configure_id:read(fwspec)", "likewise"),
    ("of_iommu_configure:write(fwspec)", "what is freed is made again by the next parse"),
    (
        "of_iommu_configure:read(dev->iommu)",
        "chooses how much is freed after a failed parse, which the next one makes again",
    ),
    ("of_iommu_configure:read(dev->iommu)#1", "likewise"),
    (
        "of_iommu_configure:update",
        "likewise: the first node of the next parse makes dev->iommu before the second asks for it",
    ),
    (
        "acpi_iommu_configure_id:read(dev->iommu)",
        "ACPI names one IOMMU: nothing is made before it fails",
    ),
    ("acpi_iommu_configure_id:read(dev->iommu)#1", "likewise"),
    (
        "acpi_iommu_configure_id:lock(iommu_probe_device_lock)",
        "with one IOMMU a parse publishes by its last store, and the error path frees nothing",
    ),
    (
        "iommu_group_claim_dma_owner:update",
        "no driver runs under an outside owner, and giving back attaches the default domain",
    ),
    (
        "iommu_group_claim_dma_owner:write(owner)",
        "the blocking domain refuses a driver as the owner does",
    ),
    (
        "iommu_group_claim_dma_owner:write(domain)",
        "the owner refuses a driver as the blocking domain does",
    ),
    ("iommu_group_claim_dma_owner:read(domain)", "no second owner comes in these worlds"),
    (
        "iommu_group_store_type:read(default_domain)",
        "who asks before the domain is there does under the lock what one who asks later does",
    ),
    (
        "iommu_init_device:read(dev->iommu)",
        "the fwspec that made the driver ask has made dev->iommu",
    ),
    ("iommu_init_device:write(dev->iommu)", "likewise"),
    ("iommu_release_device:read(dev->iommu)", "dev->iommu went with the group"),
    ("iommu_release_device:write(owner)", "an emptied group has no owner who could be asked"),
    ("__iommu_group_remove_device:write(owner)", "likewise"),
    (
        "__driver_probe_device:write(DMA path)",
        "stores what it has loaded: all it can do is lose the bit, which dma_coherent does as well",
    ),
    (
        "iommu_fwspec_init:read(driver_deferred_probe_timeout over)",
        "the timeout may fire at any moment: a client comes before or after it either way, to the same ends",
    ),
    (
        "platform_dma_configure:read(dev->driver)",
        "a walk that claims for nobody finds no group yet, and two walks leak the count either way",
    ),
];

fn explained(site: &str) -> bool {
    EQUIVALENT.iter().any(|(known, _)| site == *known)
}

/// What became of the mutants of one kernel.
#[derive(Default)]
struct Mutants {
    caught: usize,
    by_verdict: usize,
    survived: Vec<String>,
}

/// Changes each line of a kernel that the worlds pass, but those that are explained.
fn mutate(base: &str, apply: &[&str]) -> Mutants {
    let protocol = Protocol::parse(base, apply, &[]).unwrap();
    let worlds: Vec<World> = WORLDS.iter().map(|world| world.parse().unwrap()).collect();
    let expected: Vec<Found> =
        worlds.iter().map(|world| search(&build(&protocol, world))).collect();
    let mut mutants = Mutants::default();
    for (site, (action, first)) in sites(&protocol) {
        let effect = match action {
            Action::Read => Effect::Inverted,
            Action::Lock | Action::Write | Action::Update => Effect::LeftOut,
            _ => continue,
        };
        if explained(&site) {
            continue;
        }
        let mutation = Mutation { site: site.clone(), effect };
        // From the first world that passes the line on; earlier ones cannot tell.
        let noticed = worlds.iter().zip(&expected).skip(first).find_map(|(world, expected)| {
            let mutant = search(&build_mutant(&protocol, world, mutation.clone()));
            (mutant != *expected).then(|| mutant.verdict() != expected.verdict())
        });
        match noticed {
            Some(verdict) => {
                mutants.caught += 1;
                mutants.by_verdict += usize::from(verdict);
            }
            None => mutants.survived.push(format!("{base} {site} {effect:?}")),
        }
    }
    mutants
}

/// A commit that is in the table and takes steps must change something somewhere, or it is a toggle without effect.
#[test]
fn every_toggle_has_an_effect() {
    use portcullis_lab::linux::{BASES, COMMITS, Commit};
    // Bookkeeping, other IOMMUs' drivers, and what the summary says takes no step here.
    let quiet = [
        Commit::CleanSmmuV3Failure,
        Commit::DefaultDomainMandatory,
        Commit::UnexportFwspecFree,
        Commit::AtomicStateSynced,
        Commit::AtomicSkipSync,
        Commit::MediatekReady,
        Commit::IpmmuOrder,
        Commit::VirtioReady,
        Commit::ModDelayedWork,
        // Nobody looks at dev->iommu before bcb81ac6ae3c, which needs it.
        Commit::FreeWholeDevIommu,
    ];
    let more = [
        "i1r1c1.own.amba.dt.v3.a1",
        "i1r1c1.own.fsl-mc.dt.v3.a1",
        "i1r1c1.own.pci.dt.v3.a1",
        "i2r1c1.own.pci.dt.v3.a1.msi",
        "i1r0c1.own.platform.dt.v3.a1.plug.second-thread",
        "i1r1c1.own.platform.acpi.v3.a1.timeout",
    ];
    let worlds: Vec<World> =
        WORLDS.iter().chain(&more).map(|world| world.parse().unwrap()).collect();
    let mut without_effect = Vec::new();
    for info in COMMITS.iter().filter(|info| !quiet.contains(&info.commit)) {
        let toggled = BASES.iter().flat_map(|base| {
            let plain = Protocol::of(base.id);
            let other = match plain.has(info.commit) {
                true => plain.without(info.commit).ok(),
                false => plain.with_prerequisites(info.commit).ok(),
            };
            other.map(|other| (plain, other))
        });
        let toggled: Vec<_> = toggled.collect();
        let differs = toggled.iter().any(|(plain, other)| {
            worlds.iter().any(|world| search(&build(plain, world)) != search(&build(other, world)))
        });
        if !toggled.is_empty() && !differs {
            without_effect.push(info.id);
        }
    }
    assert!(without_effect.is_empty(), "{without_effect:?}");
}

/// Forty seconds.
mod long {
    use super::*;

    #[test]
    #[ignore = "long: `PORTCULLIS_LONG=1 cargo xtask test`"]
    fn every_changed_line_is_noticed_or_explained() {
        let kernels: Vec<Mutants> = TREES.iter().map(|(base, apply)| mutate(base, apply)).collect();
        let sum = |count: fn(&Mutants) -> usize| kernels.iter().map(count).sum::<usize>();
        let (caught, by_verdict) = (sum(|kernel| kernel.caught), sum(|kernel| kernel.by_verdict));
        let survived: Vec<&String> = kernels.iter().flat_map(|kernel| &kernel.survived).collect();
        println!("{caught} mutants noticed, {by_verdict} of them by the first world's verdict");
        assert!(by_verdict >= 40, "{by_verdict}");
        assert!(survived.is_empty(), "{survived:#?}");
    }
}
