//! Requester ids and groups of machines that QEMU cannot build: quirks, phantom functions, switches that leak.

use crate::support::Made;
use portcullis_pci::{Bdf, Isolation, Numbering, Segment, enable_acs, enumerate};

const ID: (u16, u16) = (0x1234, 0x5678);
const ENDPOINT: u8 = 0;
const ROOT_PORT: u8 = 4;
const UPSTREAM: u8 = 5;
const DOWNSTREAM: u8 = 6;
const TO_CONVENTIONAL: u8 = 7;

fn keep(config: &Made) -> Segment {
    let Ok(segment) = enumerate(config, &[0], 0..=255, Numbering::Keep);
    segment
}

fn ids(segment: &Segment, address: Bdf) -> Vec<String> {
    let function = segment.find(address).expect("found");
    segment.requester_ids(function).iter().map(Bdf::to_string).collect()
}

fn share(segment: &Segment, isolation: Isolation, one: Bdf, other: Bdf) -> bool {
    let groups = segment.groups(isolation);
    let place = |at| segment.functions().iter().position(|it| it.address == at).expect("found");
    groups[place(one)] == groups[place(other)]
}

/// A port to bus 1 that isolates.
fn below_a_port() -> Made {
    let config = Made::default();
    config.bridge(Bdf::new(0, 1, 0), Some(ROOT_PORT), 1, 9);
    config.isolating(Bdf::new(0, 1, 0));
    config
}

/// Linux 7.3, `drivers/pci/quirks.c`: Marvell 88SE9123 uses function 1, there or not; Ricoh's functions function 0; the Adaptec 3405 device 1.
#[test]
fn quirks_add_ids_and_join_whose_they_are() {
    let config = below_a_port();
    let (sata, ide) = (Bdf::new(1, 0, 0), Bdf::new(1, 0, 1));
    config.express(sata, (0x1b4b, 0x9123), ENDPOINT);
    let segment = keep(&config);
    assert_eq!(ids(&segment, sata), ["01:00.0", "01:00.1"]);
    // The other function is there and isolates by its capability; the id is the same all the same.
    config.set(sata, 0xe, &[0x80]);
    config.express(ide, (0x1b4b, 0x91a4), ENDPOINT);
    [sata, ide].iter().for_each(|it| config.isolating(*it));
    let segment = keep(&config);
    assert!(share(&segment, Isolation::Linux, sata, ide));
    assert_eq!(ids(&segment, ide), ["01:00.1"]);

    let config = Made::default();
    let adaptec = Bdf::new(0, 0xe, 0);
    config.conventional(adaptec, (0x9005, 0x0285));
    assert_eq!(ids(&keep(&config), adaptec), ["00:0e.0"]);
    config.set(adaptec, 0x2c, &[0x05, 0x90, 0xbb, 0x02]);
    assert_eq!(ids(&keep(&config), adaptec), ["00:0e.0", "00:01.0"]);
    let ricoh = Bdf::new(0, 4, 3);
    config.conventional(Bdf::new(0, 4, 0), ID);
    config.set(Bdf::new(0, 4, 0), 0xe, &[0x80]);
    config.conventional(ricoh, (0x1180, 0xe832));
    assert_eq!(ids(&keep(&config), ricoh), ["00:04.3", "00:04.0"]);
}

/// PCI Express to PCI/PCI-X Bridge 1.0, 2.3, and Linux's list of bridges that hide what they are.
#[test]
fn bridges_put_their_ids_in_place() {
    let config = below_a_port();
    let device = Bdf::new(3, 5, 2);
    config.bridge(Bdf::new(1, 0, 0), Some(TO_CONVENTIONAL), 2, 3);
    config.bridge(Bdf::new(2, 4, 0), None, 3, 3);
    config.conventional(Bdf::new(3, 5, 0), ID);
    config.set(Bdf::new(3, 5, 0), 0xe, &[0x80]);
    config.conventional(device, ID);
    let segment = keep(&config);
    assert_eq!(ids(&segment, device), ["03:05.2", "02:04.0", "02:00.0"]);
    for other in [Bdf::new(1, 0, 0), Bdf::new(2, 4, 0), Bdf::new(3, 5, 0)] {
        assert!(share(&segment, Isolation::Linux, device, other), "{other}");
    }
    assert!(!share(&segment, Isolation::Strict, device, Bdf::new(0, 1, 0)));

    // An ASM1083 has no capability; below a PCI Express port it is one to conventional PCI all the same.
    let config = below_a_port();
    config.bridge(Bdf::new(1, 0, 0), None, 2, 2);
    config.conventional(Bdf::new(2, 1, 0), ID);
    assert_eq!(ids(&keep(&config), Bdf::new(2, 1, 0)), ["02:01.0", "01:00.0"]);
    config.set(Bdf::new(1, 0, 0), 0, &[0x21, 0x1b, 0x80, 0x10]);
    assert_eq!(ids(&keep(&config), Bdf::new(2, 1, 0)), ["02:01.0", "02:00.0"]);
    // ASPEED's passes ids on, and is still no isolation.
    config.bridge(Bdf::new(1, 0, 0), Some(TO_CONVENTIONAL), 2, 2);
    config.set(Bdf::new(1, 0, 0), 0, &[0x03, 0x1a, 0x50, 0x11]);
    let segment = keep(&config);
    assert_eq!(ids(&segment, Bdf::new(2, 1, 0)), ["02:01.0"]);
    assert!(share(&segment, Isolation::Linux, Bdf::new(2, 1, 0), Bdf::new(1, 0, 0)));
}

/// PCI Express Base 6.0, 7.5.3.3 and 7.5.3.4: of 2 bits supported the upper two of the function number change, once they are turned on.
#[test]
fn phantom_functions_are_ids_once_they_are_on() {
    let config = below_a_port();
    let function = Bdf::new(1, 0, 1);
    config.express(Bdf::new(1, 0, 0), ID, ENDPOINT);
    config.set(Bdf::new(1, 0, 0), 0xe, &[0x80]);
    config.express(function, ID, ENDPOINT);
    config.set(function, 0x44, &[2 << 3]);
    assert_eq!(ids(&keep(&config), function), ["01:00.1"]);
    config.set(function, 0x49, &[2]);
    assert_eq!(ids(&keep(&config), function), ["01:00.1", "01:00.3", "01:00.5", "01:00.7"]);
}

/// Two endpoints below two lower ports of a switch. Where the ports do not redirect, one reaches the other's registers without leaving the switch (6.12); Linux gives each port a group.
#[test]
fn a_switch_that_leaks_is_one_group_by_the_strict_rule() {
    let config = below_a_port();
    config.bridge(Bdf::new(1, 0, 0), Some(UPSTREAM), 2, 4);
    let (a, b) = (Bdf::new(3, 0, 0), Bdf::new(4, 0, 0));
    for (device, below) in [(0, a), (1, b)] {
        config.bridge(Bdf::new(2, device, 0), Some(DOWNSTREAM), below.bus(), below.bus());
        config.express(below, ID, ENDPOINT);
    }
    // The second port isolates its own, which keeps nobody out.
    config.isolating(Bdf::new(2, 1, 0));
    let segment = keep(&config);
    assert!(!share(&segment, Isolation::Linux, a, b));
    assert!(share(&segment, Isolation::Strict, a, b));
    assert!(!share(&segment, Isolation::Strict, a, Bdf::new(0, 1, 0)));
    config.isolating(Bdf::new(2, 0, 0));
    let segment = keep(&config);
    assert!(!share(&segment, Isolation::Strict, a, b));
}

/// Functions 0 and 8 of a device with alternative numbers (7.8.8): two device numbers, one device.
#[test]
fn functions_of_an_alternatively_numbered_device_are_found_and_are_one_device() {
    let config = below_a_port();
    let (first, second) = (Bdf::new(1, 0, 0), Bdf::new(1, 1, 0));
    for (address, next) in [(first, 8), (second, 0)] {
        config.express(address, ID, ENDPOINT);
        config.extended(address, None, 0x100, 0x0e);
        config.set(address, 0x105, &[next]);
    }
    config.set(first, 0xe, &[0x80]);
    let segment = keep(&config);
    assert!(share(&segment, Isolation::Strict, first, second));
    assert!(!share(&segment, Isolation::Linux, first, second), "Linux goes by the device number");
}

/// ACS is off at reset; Intel's 100 series has its control register 8 bytes into the capability.
#[test]
fn acs_is_turned_on_where_it_can_be() {
    for (id, control) in [(ID, 0x106), ((0x8086, 0xa110), 0x108)] {
        let config = below_a_port();
        let (port, below) = (Bdf::new(0, 1, 0), Bdf::new(1, 0, 0));
        config.set(port, 0, &[id.0.to_le_bytes(), id.1.to_le_bytes()].concat());
        config.set(port, 0x104, &[0x5f, 0, 0, 0, 0, 0]);
        config.express(below, ID, ENDPOINT);
        let mut segment = keep(&config);
        assert!(share(&segment, Isolation::Linux, port, below));
        let Ok(()) = enable_acs(&config, &mut segment);
        assert!(!share(&segment, Isolation::Linux, port, below));
        let Ok(now) = portcullis_pci::ConfigSpace::read16(&config, port, control);
        assert_eq!(now, 0x1d, "validation, both redirections and forwarding");
        // A register that does not take it isolates nobody.
        config.set(port, control, &[0, 0]);
        config.stubborn.set(true);
        let mut segment = keep(&config);
        let Ok(()) = enable_acs(&config, &mut segment);
        assert!(share(&segment, Isolation::Linux, port, below));
    }
}

/// A bridge's numbers are given before those of what is below the next, and buses that virtual functions may use are nobody's.
#[test]
fn numbers_are_given_depth_first_and_leave_room_for_virtual_functions() {
    let config = Made::default();
    for device in [1, 2] {
        config.bridge(Bdf::new(0, device, 0), Some(ROOT_PORT), 0, 0);
    }
    let physical = Bdf::new(1, 0, 0);
    config.express(physical, ID, ENDPOINT);
    config.extended(physical, None, 0x100, 0x10);
    for (at, value) in [(0x10e, 4u16), (0x114, 0x80), (0x116, 0x80)] {
        config.set(physical, at, &value.to_le_bytes());
    }
    let Ok(segment) = enumerate(&config, &[0], 0..=255, Numbering::Assign);
    let below = |device| {
        let below = segment.buses_below(Bdf::new(0, device, 0)).expect("a bridge");
        (below.secondary, below.subordinate)
    };
    // The fourth has id 0x100 + 0x80 + 3 * 0x80.
    assert_eq!([below(1), below(2)], [(1, 3), (4, 4)]);
}
