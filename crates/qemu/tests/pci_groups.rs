//! The machines of `crates/pci/tests/linux` built again, enumerated over qtest with nobody having numbered a bus or turned ACS on before, and grouped: as Linux has grouped them. What Linux said is
//! checked in there.

use portcullis_addr::PhysAddr;
use portcullis_pci::{
    Isolation, Numbering, Segment, enable_acs, enable_virtual_functions, enumerate,
};
use portcullis_qemu::pci::{Bdf, ConfigAccess, ConfigSpace};
use portcullis_qemu::{Architecture, Installation, Launch, Qemu, Ram, Version, for_test_from};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pci/tests/linux");

/// One machine of the file `topologies`.
#[derive(Debug, Default)]
struct Topology {
    name: String,
    pc: bool,
    devices: Vec<String>,
    virtual_functions: Vec<(Bdf, u16)>,
}

fn topologies() -> Vec<Topology> {
    let text = fs::read_to_string(format!("{FOLDER}/topologies")).expect("topologies");
    let mut all: Vec<Topology> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some(value) = line.strip_prefix("  ") else {
            all.push(Topology { name: line.to_owned(), ..Topology::default() });
            continue;
        };
        let last = all.last_mut().expect("a name before");
        match value.split(' ').collect::<Vec<_>>()[..] {
            ["machine", "q35"] => last.pc = true,
            ["vfs", function, count] => {
                let count = count.parse().expect("a number");
                last.virtual_functions.push((address(function), count));
            }
            _ => last.devices.push(value.to_owned()),
        }
    }
    all
}

/// `0000:01:02.3`.
fn address(text: &str) -> Bdf {
    let text = text.strip_prefix("0000:").expect("segment 0");
    let numbers: Vec<_> = text.split([':', '.']).collect();
    let number = |at: usize| u8::from_str_radix(numbers[at], 16).expect("a number");
    Bdf::new(number(0), number(1), number(2))
}

type Groups = BTreeSet<BTreeSet<Bdf>>;

fn groups_of_linux(name: &str) -> Groups {
    let text = fs::read_to_string(format!("{FOLDER}/{name}.groups")).expect("groups");
    let mut groups: BTreeMap<&str, BTreeSet<Bdf>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (group, function) = line.split_once(' ').expect("a group and a function");
        groups.entry(group).or_default().insert(address(function));
    }
    groups.into_values().collect()
}

fn groups(segment: &Segment) -> Groups {
    let mut groups: BTreeMap<usize, BTreeSet<Bdf>> = BTreeMap::new();
    for (function, group) in segment.functions().iter().zip(segment.groups(Isolation::Linux)) {
        assert_eq!(function.defect, None, "{}", function.address);
        groups.entry(group).or_default().insert(function.address);
    }
    groups.into_values().collect()
}

impl Topology {
    fn start(&self, installation: &Installation) -> Arc<Qemu> {
        let (machine, base) = match self.pc {
            true => ("q35", 0),
            false => ("virt,iommu=smmuv3", 0x4000_0000),
        };
        let ram = Ram::new(PhysAddr::new(base), 64 << 20, 2 << 20).expect("memory");
        let mut launch = Launch::new(installation, machine, Arc::new(ram)).args(["-S"]);
        if self.pc {
            launch = launch.args(["-device", "intel-iommu"]);
        }
        for device in &self.devices {
            launch = launch.args(["-device", device.as_str()]);
        }
        launch.start().expect("QEMU starts")
    }

    /// Where its configuration space is mapped; on a PC as its firmware has it (Intel 3 Series, PCIEXBAR).
    fn config(&self, qemu: &Arc<Qemu>) -> ConfigSpace<Qemu> {
        if !self.pc {
            return ConfigSpace::new(qemu, ConfigAccess::Ecam(0x40_1000_0000));
        }
        let ports = ConfigSpace::new(qemu, ConfigAccess::Ports);
        ports.write(Bdf::new(0, 0, 0), 0x64, 0).expect("written");
        ports.write(Bdf::new(0, 0, 0), 0x60, 0xb000_0001).expect("written");
        ConfigSpace::new(qemu, ConfigAccess::Ecam(0xb000_0000))
    }

    /// The root buses: bus 0, and those of expanders (`bus_nr=`).
    fn roots(&self) -> Vec<u8> {
        let number =
            |device: &String| device.split_once("bus_nr=")?.1.split(',').next()?.parse().ok();
        [0].into_iter().chain(self.devices.iter().filter_map(number)).collect()
    }

    fn segment(&self, installation: &Installation) -> Segment {
        let qemu = self.start(installation);
        let config = self.config(&qemu);
        let find =
            || enumerate(&config, &self.roots(), 0..=u8::MAX, Numbering::Assign).expect("answers");
        let mut segment = find();
        for (physical, count) in &self.virtual_functions {
            let on = enable_virtual_functions(&config, *physical, *count).expect("answers");
            assert!(on, "{}: {physical}", self.name);
            segment = find();
        }
        enable_acs(&config, &mut segment).expect("answers");
        segment
    }
}

#[test]
fn groups_over_qtest_are_those_of_linux() {
    // `sriov_max_vfs` of `nvme`: from QEMU 7.1 on; with a machine's own IOMMU in the way of none of this.
    let least = Version { major: 8, minor: 0, micro: 0 };
    let found =
        |architecture| for_test_from(architecture, least, "groups_over_qtest_are_those_of_linux");
    let (Some(arm), Some(pc)) = (found(Architecture::Aarch64), found(Architecture::X86_64)) else {
        return;
    };
    for topology in topologies() {
        let segment = topology.segment(if topology.pc { pc } else { arm });
        assert_eq!(groups(&segment), groups_of_linux(&topology.name), "{}", topology.name);
    }
}
