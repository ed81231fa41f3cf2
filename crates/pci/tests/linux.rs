//! Our groups against those of a stock Linux kernel, for the same machines of QEMU.
//!
//! `tests/linux/NAME.groups` is what Linux 7.3 said (`/sys/kernel/iommu_groups` by way of each device), `NAME.config` the configuration space it left; both written by
//! `tests/linux/record`, which says how. Nothing of it comes from this crate.

use portcullis_pci::{
    Acs, Bdf, Function, Isolation, Kind, Numbering, Recorded, Segment, enumerate,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/linux");

/// The topologies' names.
fn names() -> Vec<String> {
    let text = fs::read_to_string(format!("{FOLDER}/topologies")).expect("topologies");
    let names = text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
    let names: Vec<_> = names.map(str::to_owned).collect();
    assert!(names.len() >= 8, "{names:?}");
    names
}

type Groups = BTreeSet<BTreeSet<Bdf>>;

/// What Linux said.
fn groups_of_linux(name: &str) -> Groups {
    let text = fs::read_to_string(format!("{FOLDER}/{name}.groups")).expect("groups");
    let mut groups: BTreeMap<&str, BTreeSet<Bdf>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (group, function) = line.split_once(' ').expect("a group and a function");
        let function = function.strip_prefix("0000:").expect("segment 0");
        let number = |text: &str| u8::from_str_radix(text, 16).expect("a number");
        let (bus, rest) = function.split_once(':').expect("a bus");
        let (device, function) = rest.split_once('.').expect("a device");
        let address = Bdf::new(number(bus), number(device), number(function));
        assert!(!group.is_empty(), "{name}: {address} is in no group");
        groups.entry(group).or_default().insert(address);
    }
    groups.into_values().collect()
}

fn recorded(name: &str) -> Segment {
    let text = fs::read_to_string(format!("{FOLDER}/{name}.config")).expect("a recording");
    let recorded = Recorded::parse(&text, 0).expect("the text of lspci");
    let roots = recorded.roots();
    let segment =
        enumerate(&recorded, &roots, 0..=255, Numbering::Keep).expect("reads do not fail");
    let found: BTreeSet<_> = segment.functions().iter().map(|it| it.address).collect();
    assert_eq!(found, recorded.functions().collect(), "{name}: all functions, virtual ones too");
    segment
}

fn groups(segment: &Segment, isolation: Isolation) -> Groups {
    let mut groups: BTreeMap<usize, BTreeSet<Bdf>> = BTreeMap::new();
    for (function, group) in segment.functions().iter().zip(segment.groups(isolation)) {
        groups.entry(group).or_default().insert(function.address);
    }
    groups.into_values().collect()
}

#[test]
fn groups_are_those_of_linux() {
    for name in names() {
        let segment = recorded(&name);
        assert!(segment.functions().iter().all(|it| it.defect.is_none()), "{name}");
        assert_eq!(groups(&segment, Isolation::Linux), groups_of_linux(&name), "{name}");
    }
}

/// The strict rule only joins. The one machine where it does is the switch whose lower ports have no ACS in QEMU: its disks reach each other.
#[test]
fn strict_groups_are_unions_of_those_of_linux() {
    let mut larger = Vec::new();
    for name in names() {
        let (strict, linux) = (groups(&recorded(&name), Isolation::Strict), groups_of_linux(&name));
        for group in &linux {
            assert!(strict.iter().any(|whole| group.is_subset(whole)), "{name}: {group:?}");
        }
        if strict != linux {
            larger.push(name);
        }
    }
    assert_eq!(larger, ["switch"]);
}

/// Groups are formed from all functions together, so the order in which Linux finds them must not matter to us.
#[test]
fn no_order_of_discovery_changes_groups() {
    for name in names() {
        let segment = recorded(&name);
        let expected = groups(&segment, Isolation::Strict);
        // Bridges by depth, and on each level backwards: still a bridge before what is below it.
        let mut order: Vec<usize> = (0..segment.functions().len()).collect();
        let depth = |at: &usize| segment.above(&segment.functions()[*at]).count();
        order.sort_by_key(|at| (depth(at), usize::MAX - at));
        let place = |old: usize| order.iter().position(|at| *at == old).expect("all are there");
        let functions = order.iter().map(|at| {
            let mut function = segment.functions()[*at].clone();
            function.parent = function.parent.map(place);
            function
        });
        let shuffled = Segment::new(functions.collect()).expect("bridges come first");
        assert_eq!(groups(&shuffled, Isolation::Strict), expected, "{name}");
    }
}

/// Which topologies no longer agree with Linux when something of each function is misread.
fn disagreeing(misread: impl Fn(&mut Function)) -> Vec<String> {
    let differs = |name: &String| {
        let mut functions = recorded(name).functions().to_vec();
        functions.iter_mut().for_each(&misread);
        let segment = Segment::new(functions).expect("bridges still come first");
        groups(&segment, Isolation::Linux) != groups_of_linux(name)
    };
    names().into_iter().filter(differs).collect()
}

/// The comparison bites: whoever leaves one of the facts out is found by a machine that is made for it.
#[test]
fn each_fact_that_is_left_out_is_found() {
    assert!(disagreeing(|_| ()).is_empty());
    let everything = Acs { offset: 0x100, capability: u16::MAX, control: u16::MAX };
    let found = |misread: &dyn Fn(&mut Function), topology: &str| {
        let found = disagreeing(misread);
        assert!(found.iter().any(|name| name == topology), "{topology}: {found:?}");
    };
    // ACS is taken for given, or for missing.
    found(&|it| it.acs = Some(everything), "switch-without-acs");
    found(&|it| it.acs = Some(everything), "multifunction-ports");
    found(&|it| it.acs = None, "root-ports");
    // Bridges to conventional buses are taken for ports that pass ids on.
    let as_port = |it: &mut Function| {
        if it.is_bridge() && matches!(it.kind, Kind::Conventional | Kind::ExpressToConventional) {
            it.kind = Kind::UpstreamPort;
        }
    };
    found(&as_port, "conventional");
    found(&as_port, "nested-conventional");
    // Functions of one device are taken for devices of their own.
    found(&|it| it.multifunction = false, "multifunction");
    // Nobody is known to be better than its capability says.
    found(&|it| it.vendor = 0, "multifunction");
    // Virtual functions are taken for plain ones.
    found(&|it| it.multifunction |= it.physical.is_some(), "sriov");
}
