//! What stock kernels really did under forced schedules, replayed on the protocols.
//!
//! Each test drives the threads of a protocol to the stops at which threads of an unmodified Debian
//! kernel were held (P1 is the probe of the last SMMU, P2 the client's), lets everything run to the end,
//! and compares what is left with what that kernel was left with. A difference is a bug of the model.

use std::collections::BTreeMap;

use portcullis_explore::proto;
use portcullis_explore::schedule::{Move, Schedule};
use portcullis_explore::search::{Action, Note, ThreadStatus, Trace, TraceStep};
use portcullis_lab::linux::{Bus, Protocol, World, build};

/// A run that is steered from outside, thread by thread.
struct Steer {
    model: proto::Protocol,
    moves: Vec<Move>,
}

/// The stop was not reached: the thread finished or cannot go on.
#[derive(Debug, PartialEq)]
struct Infeasible;

impl Steer {
    fn new(protocol: &Protocol, world: &World) -> Self {
        Self { model: build(protocol, world), moves: Vec::new() }
    }

    fn thread(&self, name: &str) -> u16 {
        let names = self.model.thread_names();
        let at =
            names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("{name} in {names:?}"));
        u16::try_from(at).unwrap()
    }

    fn trace(&self) -> Trace {
        let schedule = Schedule::new(self.model.world(), self.moves.clone());
        self.model.replay(&schedule).unwrap()
    }

    /// The step that `thread` would take next.
    fn next(&self, thread: u16) -> Result<TraceStep, Infeasible> {
        let mut moves = self.moves.clone();
        moves.push(Move { thread, choice: 0 });
        let trace = self.model.replay(&Schedule::new(self.model.world(), moves));
        trace.map(|trace| trace.steps.last().unwrap().clone()).map_err(|_| Infeasible)
    }

    /// Advances a thread until its next step is at the stop.
    fn advance(
        &mut self,
        thread: u16,
        at_stop: impl Fn(&[&'static str], &TraceStep) -> bool,
    ) -> Result<(), Infeasible> {
        let mut before: Vec<&'static str> = Vec::new();
        loop {
            let step = self.next(thread)?;
            if at_stop(&before, &step) {
                return Ok(());
            }
            before.clone_from(&step.label.functions);
            self.moves.push(Move { thread, choice: 0 });
        }
    }

    /// To the entry of a function.
    fn enter(&mut self, thread: u16, function: &str) -> Result<(), Infeasible> {
        self.advance(thread, |_, step| step.label.functions.contains(&function))
    }

    /// To the return of a function that the thread is in, or will be in.
    fn leave(&mut self, thread: u16, function: &str) -> Result<(), Infeasible> {
        self.advance(thread, |before, step| {
            before.contains(&function) && !step.label.functions.contains(&function)
        })
    }

    /// Past the unlock in a function.
    fn unlocked(&mut self, thread: u16, function: &str) -> Result<(), Infeasible> {
        let unlocks = |step: &TraceStep| {
            step.label.functions.last() == Some(&function)
                && step.label.site.action == Action::Unlock
        };
        self.advance(thread, |_, step| unlocks(step))?;
        self.moves.push(Move { thread, choice: 0 });
        Ok(())
    }

    /// Lets everything run until nothing moves.
    fn finish(&mut self) -> End {
        loop {
            let trace = self.trace();
            let Some(thread) = trace.status.iter().position(|s| *s == ThreadStatus::Runnable)
            else {
                return End::of(&trace);
            };
            self.moves.push(Move { thread: u16::try_from(thread).unwrap(), choice: 0 });
        }
    }
}

/// What a run left behind.
#[derive(Debug)]
struct End {
    fields: BTreeMap<String, String>,
    violated: Vec<String>,
    reached: Vec<String>,
    log: Vec<String>,
}

impl End {
    fn of(trace: &Trace) -> Self {
        let mut fields = BTreeMap::new();
        for change in trace.steps.iter().flat_map(|step| &step.report.changes) {
            fields.insert(change.field.to_string(), change.after.clone());
        }
        let notes = trace.steps.iter().flat_map(|step| &step.report.notes);
        Self {
            fields,
            violated: trace.violated().iter().map(ToString::to_string).collect(),
            reached: trace.steps.iter().flat_map(|step| step.reached.clone()).collect(),
            log: notes.filter_map(Note::logged).map(str::to_owned).collect(),
        }
    }

    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    fn has(&self, property: &str) -> bool {
        self.violated.iter().any(|name| name == property)
    }

    fn is_healthy(&self) -> bool {
        self.violated.is_empty() && self.reached.iter().any(|name| name == "healthy-bound")
    }
}

fn protocol(base: &str, apply: &[&str], revert: &[&str]) -> Protocol {
    Protocol::parse(base, apply, revert).unwrap()
}

/// 6.12.43: what 6.12.4 to 6.12.26 brought.
fn v6_12_43() -> Protocol {
    protocol("v6.12", &["229e6ee43d2a", "fcbd62156742", "b46064a18810", "280e5a301005"], &[])
}

/// 6.12.117: one more.
fn v6_12_117() -> Protocol {
    v6_12_43().with(portcullis_lab::linux::Commit::FreeWholeDevIommu).unwrap()
}

/// 6.16.3: 6.15-rc1 and the fixes of 6.15 and 6.16; the atomic bits came in 7.2.
fn v6_16_3(revert: &[&str]) -> Protocol {
    let apply = ["0c8e9c148e29", "da33e87bd2bf", "95deee37a123", "78447d4545b2"];
    protocol("v6.15-rc1", &apply, revert)
}

fn pci(world: World) -> World {
    World { bus: Bus::Pci, ..world }
}

const NVME: &str = "0000:00:02.0";

/// The five steps of the report. `birth` is where P2 stops in step 2: past the unlock of
/// of_iommu_configure (6.1) or at iommu_probe_device (6.12).
fn report_schedule(
    protocol: &Protocol,
    world: &World,
    replayed: bool,
) -> Result<(Steer, Vec<TraceStep>), Infeasible> {
    let mut steer = Steer::new(protocol, world);
    let p1 = steer.thread(&format!("probe {}", world.iommu_name(world.iommus - 1)));
    let p2 = steer.thread(&format!("probe {}", world.client_name(0)));
    steer.enter(p1, "bus_iommu_probe")?;
    if replayed {
        steer.enter(p2, "iommu_probe_device")?;
    } else {
        steer.unlocked(p2, "of_iommu_configure")?;
    }
    steer.leave(p1, "probe_iommu_group")?;
    let from = steer.moves.len();
    steer.leave(p2, "really_probe").or_else(|_| steer.leave(p2, "device_attach"))?;
    let steps = steer.trace().steps.split_off(from);
    steer.leave(p1, "iommu_device_register")?;
    Ok((steer, steps))
}

fn deferred(steps: &[TraceStep], in_function: &str) -> bool {
    let last_call = steps.iter().rev().find(|step| step.label.functions.contains(&in_function));
    let cleaned = steps.iter().any(|step| step.label.why.contains("dev->driver = NULL"));
    last_call.is_some() && cleaned
}

#[test]
fn six_one_with_two_smmus_runs_into_the_report() {
    for world in [pci(World::of(2, 1, 1)), World::of(2, 1, 1)] {
        let name = world.client_name(0);
        let (mut steer, _) = report_schedule(&protocol("v6.1.y", &[], &[]), &world, false).unwrap();
        let end = steer.finish();
        assert!(end.has("wrong-path"), "{end:?}");
        assert_eq!(end.field(&format!("{name}: driver")), "bound");
        assert_eq!(end.field(&format!("{name}: dev->iommu_group")), "set");
        assert_eq!(end.field("group 0: default_domain"), "DMA");
        assert_eq!(end.field(&format!("{name}: first mapping")), "direct");
        let line = format!("Failed to set up IOMMU for device {name}; retaining platform DMA ops");
        assert_eq!(end.log, [line]);
    }
}

#[test]
fn one_smmu_loses_the_client_its_iommu_on_6_1_and_6_12() {
    for (kernel, replayed) in
        [(protocol("v6.1.y", &[], &[]), false), (v6_12_43(), true), (v6_12_117(), true)]
    {
        let world = pci(World::of(1, 1, 1));
        let (mut steer, _) = report_schedule(&kernel, &world, replayed).unwrap();
        let end = steer.finish();
        assert_eq!(end.violated, ["no-iommu"], "{kernel}: {end:?}");
        assert_eq!(end.field(&format!("{NVME}: fwspec")), "NULL");
        assert_eq!(end.field(&format!("{NVME}: dev->iommu_group")), "", "never set");
        assert_eq!(end.field(&format!("{NVME}: first mapping")), "direct");
        assert_eq!(end.field(&format!("{NVME}: driver")), "bound");
        assert!(end.log.is_empty(), "nothing is logged");
    }
}

#[test]
fn one_smmu_on_6_12_117_needs_two_context_switches() {
    let world = pci(World::of(1, 1, 1));
    let mut steer = Steer::new(&v6_12_117(), &world);
    let (p1, p2) = (steer.thread("probe 15000000.iommu"), steer.thread(&format!("probe {NVME}")));
    steer.leave(p1, "iommu_device_register").unwrap();
    steer.leave(p2, "really_probe").unwrap();
    let end = steer.finish();
    assert_eq!(end.violated, ["no-iommu"], "{end:?}");
    assert_eq!(end.field(&format!("{NVME}: fwspec")), "NULL");
}

#[test]
fn the_default_domain_test_prevents_the_report_on_6_12() {
    for kernel in [v6_12_43(), v6_12_117()] {
        for world in [pci(World::of(2, 1, 1)), World::of(2, 1, 1)] {
            let (mut steer, p2) = report_schedule(&kernel, &world, true).unwrap();
            assert!(deferred(&p2, "iommu_device_use_default_domain"), "{kernel}: -517 from there");
            assert!(steer.finish().is_healthy(), "{kernel}: retried and healthy");
        }
    }
}

#[test]
fn without_the_default_domain_test_the_race_comes_back_on_6_12() {
    let kernel = protocol("v6.12", &["229e6ee43d2a", "fcbd62156742", "280e5a301005"], &[]);
    let (mut steer, p2) = report_schedule(&kernel, &pci(World::of(2, 1, 1)), true).unwrap();
    let maps = |step: &&TraceStep| step.label.why.contains("the first DMA mapping");
    let mapped = p2.iter().find(maps).unwrap();
    assert!(mapped.report.changes.iter().any(|c| c.after == "direct"), "dma_iommu is 0 then");
    let end = steer.finish();
    assert_eq!(end.violated, ["path-switched"], "{end:?}");
    assert_eq!(end.field(&format!("{NVME}: DMA path")), "iommu-dma, coherent", "and 1 after P1");
}

/// Since 6.15 the walk parses the firmware, so the client needs no step before P1's visit.
fn early_schedule(kernel: &Protocol, to: impl Fn(&mut Steer, u16)) -> (Steer, Vec<TraceStep>) {
    let mut steer = Steer::new(kernel, &pci(World::of(1, 1, 1)));
    let (p1, p2) = (steer.thread("probe 15000000.iommu"), steer.thread(&format!("probe {NVME}")));
    to(&mut steer, p1);
    let from = steer.moves.len();
    steer.leave(p2, "really_probe").unwrap();
    let steps = steer.trace().steps.split_off(from);
    (steer, steps)
}

#[test]
fn one_smmu_on_6_16_and_7_3_is_prevented_by_the_default_domain_test() {
    for kernel in [v6_16_3(&[]), protocol("v7.3", &[], &[])] {
        let (mut steer, p2) =
            early_schedule(&kernel, |steer, p1| steer.leave(p1, "probe_iommu_group").unwrap());
        assert!(deferred(&p2, "iommu_device_use_default_domain"), "{kernel}");
        assert!(steer.finish().is_healthy(), "{kernel}");
    }
}

#[test]
fn before_any_group_6_16_is_prevented_by_the_ready_flag() {
    let (mut steer, p2) =
        early_schedule(&v6_16_3(&[]), |steer, p1| steer.enter(p1, "bus_iommu_probe").unwrap());
    assert!(deferred(&p2, "iommu_fwspec_init"));
    let ready = p2.iter().find(|step| step.label.why == "iommu->ready?").unwrap();
    assert_eq!(ready.report.observed.as_deref(), Some("no"));
    assert!(!deferred(&p2, "iommu_device_use_default_domain"), "it never gets that far");
    assert!(steer.finish().is_healthy());
}

#[test]
fn without_the_default_domain_test_the_race_comes_back_on_6_16() {
    let (mut steer, _) = early_schedule(&v6_16_3(&["b46064a18810"]), |steer, p1| {
        steer.leave(p1, "probe_iommu_group").unwrap();
    });
    let end = steer.finish();
    assert_eq!(end.violated, ["path-switched"], "{end:?}");
    assert_eq!(end.field(&format!("{NVME}: first mapping")), "direct");
}

#[test]
fn two_smmus_on_7_3_make_the_report_infeasible() {
    let kernel = protocol("v7.3", &[], &[]);
    let world = pci(World::of(2, 1, 1));
    assert_eq!(report_schedule(&kernel, &world, true).err(), Some(Infeasible));
    assert!(Steer::new(&kernel, &world).finish().is_healthy());
}

#[test]
fn no_race_when_the_smmu_binds_first() {
    for kernel in [protocol("v6.1.y", &[], &[]), v6_12_43()] {
        let mut steer = Steer::new(&kernel, &pci(World::of(1, 1, 1)));
        let p1 = steer.thread("probe 15000000.iommu");
        steer.leave(p1, "device_attach").unwrap_err();
        let end = steer.finish();
        assert!(end.is_healthy(), "{kernel}: {end:?}");
        assert_eq!(end.field(&format!("{NVME}: first mapping")), "iommu-dma");
    }
}

/// Not run on a real kernel: the report's own five steps on 6.6 and on each patch proposed for it.
#[test]
fn the_report_s_own_schedule_on_v6_6_and_its_patches() {
    let world = World::default();
    let run = |apply: &[&str], revert: &[&str]| {
        let (mut steer, p2) =
            report_schedule(&protocol("v6.6", apply, revert), &world, true).unwrap();
        let deferred = p2.iter().any(|step| step.label.why.contains("dev->driver = NULL"));
        (deferred, steer.finish())
    };
    let (deferred, end) = run(&[], &[]);
    assert!(!deferred && end.violated == ["wrong-path"], "{end:?}");
    for patch in ["b46064a18810", "b46064a18810-6.6.y"] {
        let (deferred, end) = run(&[patch], &[]);
        assert!(deferred && end.is_healthy(), "{patch}: {end:?}");
    }
    for (apply, revert) in [(&["rfc-20241213"][..], &[][..]), (&[], &["f188056352bc"])] {
        let (deferred, end) = run(apply, revert);
        assert!(!deferred && end.is_healthy(), "{apply:?} {revert:?}: {end:?}");
    }
}
