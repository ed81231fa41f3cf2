//! Configuration space that cannot be: enumeration ends, says what is wrong, and isolates nobody by it.

use crate::support::Made;
use portcullis_pci::{
    Bdf, ConfigSpace, Defect, Isolation, Kind, Numbering, Segment, Width, enumerate,
};
use std::cell::Cell;
use std::convert::Infallible;

const ID: (u16, u16) = (0x1234, 0x5678);
const ROOT_PORT: u8 = 4;
const ENDPOINT: u8 = 0;

fn keep(config: &Made) -> Segment {
    let Ok(segment) = enumerate(config, &[0], 0..=255, Numbering::Keep);
    segment
}

fn defect(segment: &Segment, address: Bdf) -> Option<Defect> {
    segment.find(address).expect("found").defect
}

fn share(segment: &Segment, one: Bdf, other: Bdf) -> bool {
    let place = |at| segment.functions().iter().position(|it| it.address == at).expect("found");
    [Isolation::Linux, Isolation::Strict].iter().all(|rule| {
        let groups = segment.groups(*rule);
        groups[place(one)] == groups[place(other)]
    })
}

/// Two endpoints on one bus below a port that isolates; the first one's lists are spoilt by `spoil`.
fn spoilt(spoil: impl Fn(&Made, Bdf)) {
    let config = Made::default();
    let (port, first, second) = (Bdf::new(0, 1, 0), Bdf::new(1, 0, 0), Bdf::new(1, 0, 1));
    config.bridge(port, Some(ROOT_PORT), 1, 1);
    config.isolating(port);
    for address in [first, second] {
        config.express(address, ID, ENDPOINT);
        config.isolating(address);
    }
    config.set(first, 0xe, &[0x80]);
    let sound = keep(&config);
    assert!(!share(&sound, first, second) && defect(&sound, first).is_none());
    spoil(&config, first);
    let segment = keep(&config);
    assert_eq!(defect(&segment, first), Some(Defect::Capabilities));
    assert!(share(&segment, first, second), "it may use any id of its bus");
    assert!(!share(&segment, first, port), "but of no other");
}

#[test]
fn capability_lists_that_do_not_end() {
    spoilt(|config, at| config.set(at, 0x41, &[0x40]));
    spoilt(|config, at| config.set(at, 0x34, &[0x10]));
    spoilt(|config, at| config.set(at, 0x100, &(0x0d_u32 | 1 << 16 | 0x100 << 20).to_le_bytes()));
    spoilt(|config, at| config.set(at, 0x100, &(0x0d_u32 | 1 << 16 | 0x40 << 20).to_le_bytes()));
}

/// A bridge on the root bus with these numbers beside a sound one to buses 4 to 6, and something on bus 5 that a bad bridge must not lead to twice.
fn numbered(secondary: u8, subordinate: u8) -> Option<Defect> {
    let config = Made::default();
    let (sound, other) = (Bdf::new(0, 1, 0), Bdf::new(0, 2, 0));
    config.bridge(sound, Some(ROOT_PORT), 4, 6);
    config.isolating(sound);
    config.bridge(Bdf::new(4, 0, 0), None, 5, 5);
    config.conventional(Bdf::new(5, 3, 0), ID);
    config.bridge(other, Some(ROOT_PORT), secondary, subordinate);
    config.isolating(other);
    let segment = keep(&config);
    assert_eq!(segment.functions().iter().filter(|it| it.address == Bdf::new(5, 3, 0)).count(), 1);
    let defect = defect(&segment, other);
    assert_eq!(share(&segment, sound, other), defect.is_some(), "not understood, not isolated");
    defect
}

#[test]
fn bus_numbers_that_cannot_be() {
    for (secondary, subordinate) in [(0, 3), (4, 6), (5, 5), (9, 8)] {
        let defect = Defect::BusNumbers { secondary, subordinate };
        assert_eq!(numbered(secondary, subordinate), Some(defect), "{secondary} {subordinate}");
    }
    assert_eq!(numbered(7, 9), None);
    // Nobody has set it up: nothing below it can have been told to do DMA.
    assert_eq!(numbered(0, 0), None);
}

#[test]
fn a_bridge_does_not_lead_out_of_the_range_of_the_one_above() {
    let config = Made::default();
    config.bridge(Bdf::new(0, 1, 0), Some(ROOT_PORT), 1, 2);
    config.bridge(Bdf::new(1, 0, 0), None, 2, 9);
    config.conventional(Bdf::new(2, 0, 0), ID);
    let segment = keep(&config);
    let wrong = Defect::BusNumbers { secondary: 2, subordinate: 9 };
    assert_eq!(defect(&segment, Bdf::new(1, 0, 0)), Some(wrong));
    assert!(segment.find(Bdf::new(2, 0, 0)).is_none());
}

#[test]
fn numbers_that_do_not_stick_and_numbers_that_run_out() {
    let config = Made::default();
    config.bridge(Bdf::new(0, 1, 0), Some(ROOT_PORT), 0, 0);
    config.stubborn.set(true);
    let Ok(segment) = enumerate(&config, &[0], 0..=255, Numbering::Assign);
    let wrong = Defect::BusNumbers { secondary: 0, subordinate: 0 };
    assert_eq!(defect(&segment, Bdf::new(0, 1, 0)), Some(wrong));

    // A bridge below each bridge, more of them than numbers.
    let config = Made::default();
    (0..=255).for_each(|bus| config.bridge(Bdf::new(bus, 0, 0), None, 0, 0));
    let Ok(segment) = enumerate(&config, &[0], 0..=255, Numbering::Assign);
    assert_eq!(segment.functions().len(), 256);
    assert_eq!(defect(&segment, Bdf::new(255, 0, 0)), Some(Defect::NoBusNumber));
    assert_eq!(segment.groups(Isolation::Linux), vec![0; 256]);
}

#[test]
fn virtual_functions_that_would_be_elsewhere() {
    let make = |offset: u16, stride: u16, count: u16| {
        let config = Made::default();
        let (port, physical) = (Bdf::new(0, 1, 0), Bdf::new(1, 0, 0));
        config.bridge(port, Some(ROOT_PORT), 1, 2);
        config.isolating(port);
        config.express(physical, ID, ENDPOINT);
        config.extended(physical, None, 0x100, 0x10);
        config.set(physical, 0x108, &[1]);
        for (at, value) in [(0x10e, count), (0x110, count), (0x114, offset), (0x116, stride)] {
            config.set(physical, at, &value.to_le_bytes());
        }
        let segment = keep(&config);
        (defect(&segment, physical), segment.functions().len())
    };
    assert_eq!(make(0x80, 0x80, 3), (None, 5), "the last one on bus 2");
    let wrong = Some(Defect::VirtualFunctions);
    assert_eq!(make(0x80, 0x80, 4), (wrong, 2), "one on bus 3");
    assert_eq!(make(0, 1, 4), (wrong, 2), "the first is the physical one");
    assert_eq!(make(1, 0, 4), (wrong, 2), "all are one");
    assert_eq!(make(u16::MAX, 1, 4), (wrong, 2), "beyond 16 bits");
    assert_eq!(make(1, 0, 1), (None, 3), "one needs no stride");
}

/// Each of 256 functions claims all ids behind it: the first one's are its own, and nobody's a second time.
#[test]
fn ids_that_many_claim_are_given_once() {
    let config = Made::default();
    for device in 0..32 {
        for number in 0..8 {
            let physical = Bdf::new(0, device, number);
            config.express(physical, ID, ENDPOINT);
            config.set(physical, 0xe, &[0x80]);
            config.extended(physical, None, 0x100, 0x10);
            config.set(physical, 0x108, &[1]);
            for at in [0x10e, 0x110] {
                config.set(physical, at, &2000u16.to_le_bytes());
            }
            config.set(physical, 0x114, &[0, 1, 1, 0]);
        }
    }
    let segment = keep(&config);
    assert_eq!(segment.functions().len(), 256 + 2000);
    let wrong = |at: &Bdf| defect(&segment, *at) == Some(Defect::VirtualFunctions);
    let physical = segment.functions().iter().filter(|it| it.physical.is_none());
    assert_eq!(physical.map(|it| it.address).filter(wrong).count(), 255);
}

/// A capability whose registers would be behind the end is none.
#[test]
fn capabilities_that_leave_configuration_space() {
    for id in [0x0d, 0x0e, 0x10] {
        let config = Made::default();
        let (port, below) = (Bdf::new(0, 1, 0), Bdf::new(1, 0, 0));
        config.bridge(port, Some(ROOT_PORT), 1, 1);
        config.express(below, ID, ENDPOINT);
        for function in [port, below] {
            config.extended(function, None, 0x100, 0xffff);
            config.extended(function, Some(0x100), 0xffc, id);
        }
        let segment = keep(&config);
        assert_eq!(segment.functions().len(), 2);
        assert!(share(&segment, port, below), "nothing says that the port isolates");
    }
}

/// Answers whatever comes by chance, and counts.
struct Chance {
    state: Cell<u64>,
    reads: Cell<u64>,
}

impl ConfigSpace for Chance {
    type Error = Infallible;

    fn read(&self, _: Bdf, offset: u16, width: Width) -> Result<u32, Infallible> {
        self.reads.set(self.reads.get() + 1);
        // xorshift64 (Marsaglia 2003).
        let mut state = self.state.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.state.set(state);
        let chance = (state >> 32) as u32;
        let value = match offset {
            // Bridges with lists, often enough.
            6 => 0x10,
            0xe => chance & 0x81,
            _ => chance,
        };
        Ok(match width {
            Width::Byte => value & 0xff,
            Width::Word => value & 0xffff,
            Width::Long => value,
        })
    }

    fn write(&self, _: Bdf, _: u16, _: Width, _: u32) -> Result<(), Infallible> {
        Ok(())
    }
}

#[test]
fn answers_by_chance_end() {
    for seed in 1..=20 {
        for numbering in [Numbering::Keep, Numbering::Assign] {
            let chance = Chance { state: Cell::new(seed), reads: Cell::new(0) };
            let Ok(segment) = enumerate(&chance, &[0], 0..=255, numbering);
            let functions = segment.functions().len() as u64;
            // One function of each device is asked for on each of 256 buses; a function costs its lists and a few registers.
            let bound = 256 * 32 + functions * (48 + 480 + 40);
            assert!(
                chance.reads.get() <= bound,
                "{} reads, {functions} functions",
                chance.reads.get()
            );
            assert!(functions > 32, "the buses are full");
            let groups = segment.groups(Isolation::Strict);
            assert_eq!(groups.len(), segment.functions().len());
            for function in segment.functions() {
                assert_eq!(segment.requester_ids(function)[0], function.address);
                let unknown = matches!(function.kind, Kind::Unknown(_));
                assert!(
                    function.defect.is_none()
                        || unknown
                        || function.is_bridge()
                        || function.below.is_none()
                );
            }
        }
    }
}
