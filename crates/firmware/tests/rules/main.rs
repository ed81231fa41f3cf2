//! Every rule of the findings can fire: for each a description that is as small as its fault, against [`rule::ALL`]. What the rules say where nothing is wrong is tested beside the readers.

#[expect(dead_code, reason = "the readers' own tests use the rest")]
#[path = "../acpi/made.rs"]
mod tables;
#[expect(dead_code, reason = "the readers' own tests use the rest")]
#[path = "../devicetree/made.rs"]
mod trees;

mod cases;

use portcullis_firmware::{MachineDescription, rule, rule_named};
use std::collections::BTreeSet;
use tables::{drhd, scope};
use trees::{client, root, smmu};

fn fired(machine: &MachineDescription) -> BTreeSet<&'static str> {
    machine.findings.iter().map(|finding| finding.rule).collect()
}

/// The rules that none of `machines` makes fire.
fn silent<'m>(machines: impl Iterator<Item = &'m MachineDescription>) -> Vec<&'static str> {
    let seen: BTreeSet<_> = machines.flat_map(fired).collect();
    rule::ALL.iter().map(|rule| rule.id).filter(|id| !seen.contains(id)).collect()
}

#[test]
fn every_rule_fires_with_the_severity_that_it_is_listed_with() {
    let cases = cases::all();
    for (id, machine) in &cases {
        let finding = machine.findings.iter().find(|finding| finding.rule == *id);
        let finding = finding.unwrap_or_else(|| panic!("{id}: only {:?}", machine.findings));
        let listed = rule_named(id).map(|rule| rule.severity);
        assert_eq!(Some(finding.severity), listed, "{finding}");
    }
    assert_eq!(silent(cases.iter().map(|(_, machine)| machine)), [""; 0]);
}

/// The test above sees a rule that nothing fires.
#[test]
fn a_rule_without_a_case_is_named() {
    let mut cases = cases::all();
    cases.retain(|(id, _)| *id != rule::ACPI_REGION);
    assert_eq!(silent(cases.iter().map(|(_, machine)| machine)), [rule::ACPI_REGION]);
}

#[test]
fn no_rule_fires_where_nothing_is_wrong() {
    let tree = root().with(smmu(1)).with(client("usb@1000", &[1, 5])).read();
    let scopes = [scope(1, 0, 0, &[(2, 0)])];
    let table = tables::dmar(&[drhd(false, 0x1000, &scopes), drhd(true, 0x2000, &[])]);
    for machine in [tree, tables::read(&table)] {
        assert_eq!(fired(&machine), BTreeSet::new());
    }
}

/// The built-in board has what its text (`boards/portcullis-default.dts`) says that it has, and nothing else.
#[test]
fn the_built_in_board_has_its_five_findings_only() {
    let blob = include_bytes!("../../../../boards/portcullis-default.dtb");
    let mut machine = portcullis_firmware::read_devicetree(blob, "board").expect("well-formed");
    machine.note_unserved(|iommu| iommu.compatible.iter().any(|name| name == "arm,smmu-v3"));
    let meant = [
        rule::COHERENCY,
        rule::IOMMU_DISABLED,
        rule::NO_DRIVER,
        rule::SEVERAL_IOMMUS,
        rule::SHARED_STREAM,
    ];
    assert_eq!(fired(&machine), BTreeSet::from(meant));
}
