//! The ladder: nothing is lost, what matters is shown, lines fit.

use portcullis_explore::search::{
    Change, Label, Operation, StepReport, ThreadStatus, Trace, TraceStep,
};
use portcullis_lab::linux::{BASES, Budget, Grouping, Protocol, Report, World, check, replay};
use portcullis_lab::picture::text::{Layout, Role, ladder};
use portcullis_lab::picture::{Ladder, Weight, words};

fn report_of(base: &str, world: &World) -> Report {
    let protocol = Protocol::parse::<&str>(base, &[], &[]).expect("a known base");
    check(&protocol, world, Budget::for_world(world), &mut |_| {}).expect("the model is sound")
}

fn plain(picture: &Ladder, width: usize, full: bool) -> String {
    ladder(picture, Layout { width, full }, &|_, text| text.to_owned())
}

/// The numbers of the steps that a text shows.
fn numbers(text: &str) -> Vec<usize> {
    text.lines().filter_map(|line| line.split('\u{2502}').next()?.trim().parse().ok()).collect()
}

#[test]
fn the_race_of_the_report_fits_a_screen() {
    let report = report_of("v6.6", &World::default());
    let [found] = &report.violations[..] else { panic!("one violation: {:?}", report.violations) };
    let picture = Ladder::of_trace(&found.trace, &report.world);
    let text = plain(&picture, 120, false);
    assert!(text.lines().count() <= 45, "{} lines:\n{text}", text.lines().count());
    let shown = numbers(&text);
    let mut from = 0;
    for words in [
        "dev->iommu_group = group: published",
        "domain deferred",
        "device is already probed? \u{2192} set",
        "group->domain, no lock \u{2192} NULL",
        "group->domain = domain",
        "the first DMA mapping",
    ] {
        let at = picture.rungs[from..].iter().position(|rung| rung.words.contains(words));
        from += at.unwrap_or_else(|| panic!("no {words:?} after step {from}")) + 1;
        assert!(shown.contains(&from), "step {from}, {words:?}, is not shown:\n{text}");
    }
    assert!(text.contains("log: Failed to set up IOMMU") && text.contains("\u{2717} wrong-path"));
    assert!(text.contains("G group->mutex") && text.contains("P iommu_probe_device_lock"));
    assert!(text.contains(&format!("of {} steps folded", found.trace.steps.len())), "{text}");
}

#[test]
fn every_step_is_a_rung_and_full_shows_them_all() {
    for base in BASES {
        let report = report_of(base.name, &World::default());
        for found in &report.violations {
            let picture = Ladder::of_trace(&found.trace, &report.world);
            let labels: Vec<String> =
                found.trace.steps.iter().map(|step| step.label.to_string()).collect();
            let drawn: Vec<&String> = picture.rungs.iter().map(|rung| &rung.label).collect();
            assert_eq!(drawn, labels.iter().collect::<Vec<_>>());
            let all: Vec<usize> = (1..=labels.len()).collect();
            assert_eq!(numbers(&plain(&picture, 120, true)), all);
            let folded = numbers(&plain(&picture, 120, false));
            let keys = (1..=labels.len()).filter(|at| picture.rungs[at - 1].weight == Weight::Key);
            assert!(keys.clone().count() >= 2, "two threads meet somewhere: {}", found.schedule);
            assert!(keys.clone().all(|at| folded.contains(&at)), "{}", found.schedule);
        }
    }
}

#[test]
fn lines_fit_the_terminal_and_a_lock_has_one_holder() {
    let world = World { grouping: Grouping::Shared, ..World::of(2, 1, 2) };
    let report = report_of("v6.1.y", &world);
    assert!(!report.violations.is_empty());
    for found in &report.violations {
        let picture = Ladder::of_trace(&found.trace, &world);
        for width in [100, 120, 160] {
            let text = plain(&picture, width, true);
            let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
            assert!(longest <= width, "{longest} > {width}:\n{text}");
        }
        for rung in &picture.rungs {
            let mut held: Vec<&String> = rung.held.iter().flatten().collect();
            held.sort();
            assert!(held.windows(2).all(|pair| pair[0] != pair[1]), "{held:?}");
        }
    }
}

#[test]
fn an_old_schedule_draws_the_same_ladder_as_the_search() {
    let golden = "linux2:v6.6/i2r1c1.own.platform.dt.v3.a1:0x5.1x11.0x21.1x7.0x2.1x5";
    let (protocol, world, trace) = replay(golden).expect("schedules replay for ever");
    assert_eq!((protocol.to_string().as_str(), &world), ("v6.6", &World::default()));
    let replayed = Ladder::of_trace(&trace, &world);
    let report = report_of("v6.6", &world);
    assert_eq!(report.violations[0].schedule, golden);
    assert_eq!(replayed, Ladder::of_trace(&report.violations[0].trace, &world));
    let log: Vec<&String> = replayed.rungs.iter().flat_map(|rung| &rung.log).collect();
    assert_eq!(
        log,
        ["Failed to set up IOMMU for device aa00000.video-codec; retaining platform DMA ops"]
    );
    let end = replayed.telling();
    for field in [("hardware domain", "DMA"), ("group->domain", "DMA"), ("first mapping", "direct")]
    {
        assert!(end.contains(&field), "{field:?} in {end:?}");
    }
}

fn step(thread: usize, operation: Operation, change: Option<(&str, &str)>) -> TraceStep {
    let name = ["left", "right"][thread].to_owned();
    let field = operation.object().cloned().unwrap_or_default();
    let changes =
        change.map(|(before, after)| Change { field, before: before.into(), after: after.into() });
    let held = vec![Vec::new(), Vec::new()];
    TraceStep {
        thread,
        label: Label { thread: name, functions: vec!["f"], operation, ..Label::default() },
        report: StepReport {
            changes: changes.into_iter().collect(),
            held,
            ..StepReport::default()
        },
        violated: Vec::new(),
        reached: Vec::new(),
    }
}

fn weights(steps: Vec<TraceStep>) -> Vec<Weight> {
    let trace = Trace {
        threads: vec!["left".into(), "right".into()],
        steps,
        status: vec![ThreadStatus::Finished; 2],
        waiting: vec![None, None],
        violated_at_end: Vec::new(),
    };
    let picture = Ladder::of_trace(&trace, &World::default());
    picture.rungs.iter().map(|rung| rung.weight).collect()
}

#[test]
fn what_matters_is_where_threads_meet() {
    use Weight::{Change, Key, Plain};
    let read = |thread, field: &str| step(thread, Operation::Read(field.into()), None);
    let write = |thread, field: &str, before, after: &str| {
        step(thread, Operation::Write(field.into(), after.into()), Some((before, after)))
    };
    let found = weights(vec![
        step(0, Operation::Lock("m".into()), None),
        read(0, "flag"),
        read(0, "own"),
        write(0, "own", "0", "1"),
        write(1, "flag", "0", "1"),
        read(0, "flag"),
        read(0, "flag"),
        write(0, "flag", "1", "2"),
        read(0, "flag"),
    ]);
    // A stale read and a fresh one matter, the same value again does not, nor what one thread has written itself.
    assert_eq!(found, [Plain, Key, Plain, Change, Key, Key, Plain, Key, Plain]);
}

#[test]
fn colours_change_no_letter() {
    let report = report_of("v6.12", &World::default());
    let picture = Ladder::of_trace(&report.violations[0].trace, &report.world);
    let layout = Layout { width: 120, full: false };
    let painted =
        ladder(&picture, layout, &|role, text| format!("\x1b[{}m{text}\x1b[0m", role as u8));
    let mut bare = painted.clone();
    for role in 0..=Role::Quiet as u8 {
        bare = bare.replace(&format!("\x1b[{role}m"), "");
    }
    let bare = bare.replace("\x1b[0m", "");
    let trim = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(trim(&bare), trim(&plain(&picture, 120, false)));
}

#[test]
fn worlds_are_told_in_words() {
    let world: World = "i2r1c2.mixed.pci.acpi.v2.a2.vfio".parse().expect("a world");
    assert_eq!(
        words::world(&world),
        "2 IOMMUs (arm-smmu.0.auto bound, arm-smmu.1.auto registering), 2 clients (0000:00:02.0, 0000:00:03.0) behind \
         the first, in one group, the last wants an identity domain; PCI, ACPI, SMMUv2; 2 attempts; vfio"
    );
}
