//! Every scenario on both platforms, one test each; the driver's mutants; and the tables of the documentation.

use portcullis_scenarios::{Check, DIFFERENCES, MUTANTS, Scenario, all, compare, issued, named};
use portcullis_scenarios::{run_on_software, slipped_through};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

/// Tells one scenario on both platforms.
fn tell(name: &str) {
    let scenario = named(name).unwrap_or_else(|| panic!("no scenario {name}"));
    let Some(qemu) = portcullis_qemu::for_test(name) else { return };
    let comparison = compare(&scenario, qemu).unwrap_or_else(|failure| panic!("{failure}"));
    for check in &comparison.software {
        println!("software machine: {check}");
    }
    for check in comparison.qemu.iter().flatten() {
        println!("QEMU: {check}");
    }
    assert!(comparison.complaints.is_empty(), "{:#?}", comparison.complaints);
    let told = comparison.qemu.is_some() || !comparison.known.is_empty();
    portcullis_scenarios::assert_told(told, &scenario, qemu.version());
}

macro_rules! scenarios {
    ($($test:ident $name:literal)*) => {
        $(
            #[test]
            fn $test() {
                tell($name);
            }
        )*

        /// Every scenario has its test, and half of them are about what must be refused.
        #[test]
        fn every_scenario_is_told() {
            let told: BTreeSet<_> = [$($name),*].into();
            let scenarios = all();
            let names: BTreeSet<_> = scenarios.iter().map(|scenario| scenario.name).collect();
            assert_eq!(told, names);
            assert_eq!(names.len(), scenarios.len(), "names are unique");
            let negative = scenarios.iter().filter(|scenario| scenario.negative).count();
            println!("{} scenarios, {negative} of them negative", scenarios.len());
            assert!(scenarios.len() >= 40 && 2 * negative >= scenarios.len());
        }
    };
}

scenarios! {
    disabled_passes "disabled-passes"
    disabled_aborts "disabled-aborts"
    entry_invalid "entry-invalid"
    entry_abort "entry-abort"
    entry_bypass "entry-bypass"
    entry_of_another_stream "entry-of-another-stream"
    entry_stage_missing_two "entry-stage-missing-two"
    entry_stage_missing_one "entry-stage-missing-one"
    entry_stage_two_aarch32 "entry-stage-two-aarch32"
    entry_stage_two_size "entry-stage-two-size"
    stream_beyond_table "stream-beyond-table"
    two_level_table "two-level-table"
    two_level_no_table "two-level-no-table"
    two_level_beyond_span "two-level-beyond-span"
    two_level_outside_memory "two-level-outside-memory"
    descriptor_invalid "descriptor-invalid"
    descriptor_aarch32 "descriptor-aarch32"
    descriptor_size "descriptor-size"
    descriptor_outside_memory "descriptor-outside-memory"
    s1_read_write "s1-read-write"
    s1_data_block "s1-data-block"
    s1_unmapped_write "s1-unmapped-write"
    s1_unmapped_read "s1-unmapped-read"
    s1_read_only "s1-read-only"
    s1_read_only_by_table "s1-read-only-by-table"
    s1_access_flag "s1-access-flag"
    s1_beyond_input "s1-beyond-input"
    s1_output_too_wide "s1-output-too-wide"
    s1_walks_disabled "s1-walks-disabled"
    s1_table_outside_memory "s1-table-outside-memory"
    s1_not_recorded "s1-not-recorded"
    s1_two_mib_and_1g_blocks "s1-2m-and-1g-blocks"
    s1_16k_granule "s1-16k-granule"
    s1_64k_granule "s1-64k-granule"
    s2_read_write "s2-read-write"
    s2_unmapped "s2-unmapped"
    s2_read_only "s2-read-only"
    s2_beyond_input "s2-beyond-input"
    s2_not_recorded "s2-not-recorded"
    s2_two_mib_block "s2-2m-block"
    s2_64k_granule "s2-64k-granule"
    s2_tlbi_ipa "s2-tlbi-ipa"
    s2_tlbi_vmall "s2-tlbi-vmall"
    nested_read_write "nested-read-write"
    nested_hole_for_data "nested-hole-for-data"
    nested_read_only_data "nested-read-only-data"
    nested_hole_for_descriptor "nested-hole-for-descriptor"
    nested_hole_for_table "nested-hole-for-table"
    nested_stage_one_unmapped "nested-stage-one-unmapped"
    nested_tlbi_vmall "nested-tlbi-vmall"
    tlbi_va "tlbi-va"
    tlbi_va_wrong_asid "tlbi-va-wrong-asid"
    tlbi_va_neighbour "tlbi-va-neighbour"
    tlbi_vaa "tlbi-vaa"
    tlbi_asid "tlbi-asid"
    tlbi_nh_all "tlbi-nh-all"
    tlbi_nsnh_all "tlbi-nsnh-all"
    tlbi_range "tlbi-range"
    tlbi_two_mib_block "tlbi-2m-block"
    cfgi_ste "cfgi-ste"
    cfgi_ste_range "cfgi-ste-range"
    cfgi_cd "cfgi-cd"
    cfgi_cd_all "cfgi-cd-all"
    cfgi_all "cfgi-all"
    unmap_and_reuse "unmap-and-reuse"
    sync_interrupt "sync-interrupt"
    event_interrupt "event-interrupt"
    event_overflow "event-overflow"
    command_error "command-error"
    command_error_acknowledged "command-error-acknowledged"
    command_queue_wraps "command-queue-wraps"
    disabled_while_busy "disabled-while-busy"
    behind_a_port "behind-a-port"
    behind_a_port_other_stream "behind-a-port-other-stream"
    group_of_two "group-of-two"
    group_of_two_blocked "group-of-two-blocked"
    two_devices_two_spaces "two-devices-two-spaces"
    two_devices_one_space "two-devices-one-space"
    driver_claimed_is_blocked "driver-claimed-is-blocked"
    driver_both_ways "driver-both-ways"
    driver_unmapped "driver-unmapped"
    driver_read_only "driver-read-only"
    driver_unmap "driver-unmap"
    driver_unmap_range "driver-unmap-range"
    driver_unmap_two_mib "driver-unmap-2m"
    driver_unmap_scattered "driver-unmap-scattered"
    driver_remap "driver-remap"
    driver_detach "driver-detach"
    driver_release "driver-release"
    driver_space_reuse "driver-space-reuse"
    driver_space_change "driver-space-change"
    driver_two_spaces "driver-two-spaces"
    driver_identity "driver-identity"
    driver_group_of_two "driver-group-of-two"
    driver_behind_a_port "driver-behind-a-port"
    driver_16k "driver-16k"
    driver_64k "driver-64k"
    driver_stage_two "driver-stage-two"
    driver_stage_two_range "driver-stage-two-range"
    driver_stage_two_space_reuse "driver-stage-two-space-reuse"
    driver_take_over "driver-take-over"
    driver_shutdown "driver-shutdown"
    driver_event_overflow "driver-event-overflow"
}

/// What is known to differ belongs to a scenario.
#[test]
fn differences_are_of_scenarios() {
    for difference in DIFFERENCES {
        assert!(named(difference.scenario).is_some(), "{}", difference.scenario);
    }
}

#[test]
fn every_invalidation_has_its_mutants() {
    let listed: BTreeSet<_> =
        MUTANTS.iter().map(|mutant| (mutant.command, mutant.action)).collect();
    assert_eq!(issued().expect("software machine"), listed);
}

#[test]
fn every_mutant_fails_on_the_software_machine() {
    for mutant in MUTANTS {
        let checks = mutant.run_on_software().expect("software machine");
        assert!(slipped_through(&checks).is_some(), "{mutant:?} survives: {checks:#?}");
    }
}

#[test]
fn every_mutant_fails_on_qemu() {
    let Some(qemu) = portcullis_qemu::for_test("every_mutant_fails_on_qemu") else { return };
    let mut killed = 0;
    for mutant in MUTANTS {
        let Some(checks) = mutant.run_on_qemu(qemu).expect("QEMU") else {
            let killer = named(mutant.killer).expect("listed");
            portcullis_scenarios::assert_told(false, &killer, qemu.version());
            continue;
        };
        assert!(slipped_through(&checks).is_some(), "{mutant:?} survives: {checks:#?}");
        killed += 1;
    }
    println!("{killed} of {} mutants killed", MUTANTS.len());
}

/// The tables in `docs/qemu-differences.md` are what the code says; `PORTCULLIS_BLESS=1` writes them.
#[test]
fn the_documentation_has_these_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/qemu-differences.md");
    let old = std::fs::read_to_string(&path).expect("docs/qemu-differences.md");
    let (head, _) = old.split_once(MARK).expect("the mark that begins the generated part");
    let new = format!("{head}{MARK}{}", tables());
    if std::env::var_os("PORTCULLIS_BLESS").is_some() {
        std::fs::write(&path, &new).expect("writable");
        return;
    }
    let stale = new.lines().zip(old.lines()).find(|(new, old)| new != old);
    assert!(stale.is_none(), "run the test with PORTCULLIS_BLESS=1: {stale:#?}");
    assert_eq!(new.lines().count(), old.lines().count(), "run the test with PORTCULLIS_BLESS=1");
}

const MARK: &str = "<!-- generated by crates/scenarios/tests/both.rs from here on -->\n";

fn tables() -> String {
    let mut text = String::new();
    differences(&mut text);
    mutants(&mut text);
    scenarios(&mut text);
    text
}

fn differences(text: &mut String) {
    let count = DIFFERENCES.len();
    writeln!(text, "\n## Differences ({count})\n\nIn each of these the specification is on the software machine's side.\n").expect("memory");
    text.push_str(
        "| scenario | looked at | QEMU | versions | why |\n| --- | --- | --- | --- | --- |\n",
    );
    for known in DIFFERENCES {
        let (from, until) = known.versions;
        let until = until.map_or("on".to_owned(), |until| format!("to before {until}"));
        writeln!(
            text,
            "| {} | {} | {} | {from} {until} | {} |",
            known.scenario,
            known.what,
            cell(known.qemu),
            known.explanation
        )
        .expect("memory");
    }
}

fn mutants(text: &mut String) {
    writeln!(
        text,
        "\n## Mutants of the driver ({0} of {0} killed on both platforms)\n",
        MUTANTS.len()
    )
    .expect("memory");
    text.push_str("| command | changed | the scenario that fails | what slips through |\n| --- | --- | --- | --- |\n");
    for mutant in MUTANTS {
        let checks = mutant.run_on_software().expect("software machine");
        let slipped = slipped_through(&checks).map_or_else(String::new, |check| check.what.clone());
        writeln!(
            text,
            "| {} | {} | {} | {slipped} |",
            mutant.command, mutant.action, mutant.killer
        )
        .expect("memory");
    }
}

fn scenarios(text: &mut String) {
    let scenarios = all();
    let negative = scenarios.iter().filter(|scenario| scenario.negative).count();
    writeln!(text, "\n## Scenarios ({}, {negative} of them negative)\n", scenarios.len())
        .expect("memory");
    text.push_str("| scenario | IHI 0070 | needs | outcome |\n| --- | --- | --- | --- |\n");
    for scenario in &scenarios {
        writeln!(
            text,
            "| {} | {} | {} | {} |",
            scenario.name,
            scenario.section,
            scenario.board,
            outcome(scenario)
        )
        .expect("memory");
    }
}

/// What was seen, in order; the same thing several times in a row is counted.
fn outcome(scenario: &Scenario) -> String {
    let checks = run_on_software(scenario).expect("software machine");
    let lines: Vec<_> = checks.iter().map(|check| cell(&told(check))).collect();
    let runs = lines.chunk_by(|one, other| one == other);
    let run = |run: &[String]| match run {
        [once] => once.clone(),
        _ => format!("{} ({} times)", run[0], run.len()),
    };
    runs.map(run).collect::<Vec<_>>().join("<br>")
}

/// An access tells its address in its event, if it has one; everything else needs its name.
fn told(check: &Check) -> String {
    let access = check.observed.starts_with("landed") || check.observed.starts_with("blocked");
    if access { check.observed.clone() } else { check.to_string() }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
