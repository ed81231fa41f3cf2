//! The script by which tables are put together where no firmware has run. Written here byte for byte from QEMU's format; QEMU's own is read in the testbed's tests.

use crate::hostile::Random;
use crate::others;
use portcullis_firmware::acpi::Table;
use portcullis_firmware::acpi::loader::{LinkFault, Linked, LinkedFile, PointerWrite, link};
use portcullis_firmware::{AcpiError, read_acpi};
use std::collections::BTreeMap;

const TABLES: &str = "etc/acpi/tables";
const ROOT: &str = "etc/acpi/rsdp";
const WINDOW: std::ops::Range<u64> = 0x1000_0000..0x1100_0000;

#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn record(&mut self, command: u32, names: &[&str], operands: &[&[u8]]) {
        let mut record = command.to_le_bytes().to_vec();
        for name in names {
            let start = record.len();
            record.extend(name.as_bytes());
            record.resize(start + 56, 0);
        }
        operands.iter().for_each(|operand| record.extend(*operand));
        record.resize(128, 0);
        self.0.extend(record);
    }

    fn allocate(&mut self, file: &str, align: u32) {
        self.record(1, &[file], &[&align.to_le_bytes(), &[1]]);
    }

    fn pointer(&mut self, file: &str, source: &str, at: u32, size: u8) {
        self.record(2, &[file, source], &[&at.to_le_bytes(), &[size]]);
    }

    fn checksum(&mut self, file: &str, at: u32, start: u32, len: u32) {
        let operands = [at, start, len].map(u32::to_le_bytes);
        self.record(3, &[file], &[&operands[0], &operands[1], &operands[2]]);
    }

    fn write_back(&mut self, file: &str, source: &str, at: u32, from: u32, size: u8) {
        let operands = [at, from].map(u32::to_le_bytes);
        self.record(4, &[file, source], &[&operands[0], &operands[1], &[size]]);
    }
}

type Files = BTreeMap<String, Vec<u8>>;

/// VIOT and MCFG behind each other, then a root table with offsets for pointers and no checksum; `wide` chooses XSDT or RSDT.
fn machine(wide: bool) -> (Vec<u8>, Files) {
    let (viot, mcfg) = (others::viot(), others::mcfg());
    let (width, signature) = if wide { (8, b"XSDT") } else { (4, b"RSDT") };
    let at = viot.len() + mcfg.len();
    let len = 36 + 2 * width;
    let mut tables = [viot.as_slice(), &mcfg].concat();
    tables.extend(signature);
    tables.extend(u32::try_from(len).expect("short").to_le_bytes());
    tables.resize(at + 36, 0);
    for offset in [0, viot.len() as u64] {
        tables.extend(&offset.to_le_bytes()[..width]);
    }
    // What QEMU pads the file with.
    tables.resize(0x1000, 0);
    let mut root = b"RSD PTR \0PORTCL".to_vec();
    root.push(if wide { 2 } else { 0 });
    let offset = u32::try_from(at).expect("short");
    if wide {
        root.extend([0; 4]);
        root.extend(36u32.to_le_bytes());
        root.extend(u64::from(offset).to_le_bytes());
        root.extend([0; 4]);
    } else {
        root.extend(offset.to_le_bytes());
    }
    let mut script = Script::default();
    script.allocate(ROOT, 16);
    script.allocate(TABLES, 64);
    let size = u8::try_from(width).expect("short");
    for entry in 0..2 {
        script.pointer(TABLES, TABLES, offset + 36 + entry * u32::from(size), size);
    }
    script.checksum(TABLES, offset + 9, offset, u32::try_from(len).expect("short"));
    script.pointer(ROOT, TABLES, if wide { 24 } else { 16 }, size);
    script.checksum(ROOT, 8, 0, 20);
    if wide {
        script.checksum(ROOT, 32, 0, 36);
    }
    (script.0, BTreeMap::from([(TABLES.into(), tables), (ROOT.into(), root)]))
}

fn linked(script: &[u8], files: &Files) -> Linked {
    link(script, WINDOW, |name| files.get(name).cloned()).expect("a script that holds together")
}

/// The number of the command that is refused, and why.
fn refused(script: &[u8], files: &Files) -> (usize, LinkFault) {
    let error = link(script, WINDOW, |name| files.get(name).cloned()).expect_err("refused");
    assert!(error.to_string().contains("etc/table-loader"), "{error}");
    (error.command, error.fault)
}

#[test]
fn tables_come_out_as_they_went_in_with_addresses_and_checksums() {
    for wide in [true, false] {
        let (script, files) = machine(wide);
        let linked = linked(&script, &files);
        assert_eq!(linked.tables(), Ok(vec![&others::viot()[..], &others::mcfg()[..]]));
        let [root, tables] = &linked.files[..] else { panic!("two files: {linked:?}") };
        assert_eq!((root.address, tables.address), (0x1000_0000, 0x1000_0040));
        let at = others::viot().len() + others::mcfg().len();
        let table = Table::new(&tables.bytes[at..]).expect("the root table");
        assert!(table.checksum_ok, "its pointers were filled in before");
        let machine = read_acpi(linked.tables().expect("both"), "made").expect("well-formed");
        assert_eq!((machine.iommus.len(), machine.config_spaces.is_empty()), (2, false));
    }
}

/// Nothing of the script is there for nothing: without any one of its commands it is refused, or what comes out is damaged and that is seen.
#[test]
fn every_command_is_needed() {
    let (script, files) = machine(true);
    let count = script.len() / 128;
    for missing in 0..count {
        let mut less = script.clone();
        less.drain(128 * missing..128 * (missing + 1));
        let sound = link(&less, WINDOW, |name| files.get(name).cloned()).ok().and_then(|linked| {
            let tables = linked.tables().ok()?.len();
            let at = others::viot().len() + others::mcfg().len();
            let root = Table::new(&linked.file(TABLES)?.bytes[at..]).ok()?;
            (tables == 2 && root.checksum_ok).then_some(())
        });
        assert_eq!(sound, None, "command {missing} of {count} is left out");
    }
}

#[test]
fn what_the_hypervisor_wants_to_be_told_is_kept_for_whoever_places_the_files() {
    let (script, files) = machine(true);
    let mut script = Script(script);
    script.write_back("etc/vmgenid_addr", TABLES, 8, 0x28, 8);
    script.record(9, &[], &[]);
    let linked = linked(&script.0, &files);
    let told = PointerWrite {
        file: "etc/vmgenid_addr".into(),
        offset: 8,
        size: 8,
        address: 0x1000_0040 + 0x28,
    };
    assert_eq!((linked.writes.as_slice(), linked.skipped), (&[told][..], 1));
}

#[test]
fn each_wrong_command_is_refused_by_its_number() {
    type Wrong = (LinkFault, fn(&mut Script));
    let wrong: &[Wrong] = &[
        (LinkFault::Truncated, |script| script.0.extend([1, 0, 0])),
        (LinkFault::Name, |script| script.record(1, &["\u{e9}"], &[])),
        (LinkFault::Name, |script| script.record(1, &[&"x".repeat(56)], &[])),
        (LinkFault::Name, |script| script.record(3, &[""], &[])),
        (LinkFault::Missing, |script| script.allocate("etc/absent", 16)),
        (LinkFault::Again, |script| script.allocate(TABLES, 16)),
        (LinkFault::Alignment(0), |script| script.allocate("etc/absent", 0)),
        (LinkFault::Alignment(48), |script| script.allocate("etc/absent", 48)),
        (LinkFault::NoRoom, |script| script.allocate("large", 1 << 31)),
        (LinkFault::TooMany, |script| script.allocate("huge", 1)),
        (LinkFault::NotAllocated, |script| script.pointer("large", TABLES, 0, 8)),
        (LinkFault::NotAllocated, |script| script.pointer(TABLES, "large", 0, 8)),
        (LinkFault::NotAllocated, |script| script.checksum("large", 0, 0, 1)),
        (LinkFault::NotAllocated, |script| script.write_back("to", "large", 0, 0, 8)),
        (LinkFault::Size(3), |script| script.pointer(TABLES, TABLES, 0, 3)),
        (LinkFault::Size(0), |script| script.write_back("to", TABLES, 0, 0, 0)),
        (LinkFault::Overflow, |script| script.pointer(TABLES, TABLES, 0x900, 2)),
        (LinkFault::Overflow, |script| script.pointer(TABLES, TABLES, 4, 1)),
        (LinkFault::Outside, |script| script.pointer(TABLES, TABLES, 0xffc, 8)),
        (LinkFault::Outside, |script| script.pointer(TABLES, TABLES, u32::MAX, 8)),
        (LinkFault::Outside, |script| script.checksum(TABLES, 0x1000, 0, 1)),
        (LinkFault::Outside, |script| script.checksum(TABLES, 0, 1, 0x1000)),
        (LinkFault::TooMany, |script| script.checksum(TABLES, 0, 0, u32::MAX)),
        (LinkFault::Outside, |script| script.write_back("to", TABLES, 0, 0x1000, 8)),
    ];
    let (script, mut files) = machine(true);
    files.insert("large".into(), vec![0; 0x100]);
    files.insert("huge".into(), vec![0; (64 << 20) + 1]);
    let number = script.len() / 128;
    for (at, (fault, add)) in wrong.iter().enumerate() {
        let mut longer = Script(script.clone());
        add(&mut longer);
        assert_eq!(refused(&longer.0, &files), (number, *fault), "case {at}");
    }
}

#[test]
fn a_root_pointer_that_leads_nowhere_is_an_error() {
    let (script, files) = machine(true);
    let with = |damage: fn(&mut Vec<u8>)| -> AcpiError {
        let mut linked = linked(&script, &files);
        let root = linked.files.iter_mut().find(|file| file.name == ROOT).expect("placed");
        damage(&mut root.bytes);
        linked.tables().expect_err("damaged")
    };
    assert_eq!(with(|root| root[0] = b'X').field, "Signature");
    assert_eq!(with(|root| root[9] ^= 1).field, "Checksum");
    assert_eq!(with(|root| root[33] ^= 1).field, "Extended Checksum");
    assert_eq!(with(|root| root.truncate(20)).field, "Length");
    let nowhere = with(|root| {
        root[27] ^= 0x80;
        root[32] = root[32].wrapping_sub(0x80);
    });
    assert_eq!(nowhere.field, "root table");
    assert!(Linked::default().tables().is_err(), "no root pointer at all");
    let root = LinkedFile { name: ROOT.into(), address: 0, bytes: Vec::new() };
    assert!(Linked { files: vec![root], ..Linked::default() }.tables().is_err());
}

#[test]
fn damaged_scripts_and_files_never_panic_and_never_grow() {
    let (script, files) = machine(true);
    let mut random = Random::new(0xacb1);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let (mut script, mut files) = (script.clone(), files.clone());
        for _ in 0..=random.below(3) {
            let bytes = match random.below(3) {
                0 => files.get_mut(TABLES).expect("it is there"),
                1 => files.get_mut(ROOT).expect("it is there"),
                _ => &mut script,
            };
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        match link(&script, WINDOW, |name| files.get(name).cloned()) {
            Ok(linked) => {
                let bytes: usize = linked.files.iter().map(|file| file.bytes.len()).sum();
                assert!(bytes <= 0x1000 + 36, "no more than what was handed over");
                read += usize::from(linked.tables().is_ok());
            }
            Err(_) => refused += 1,
        }
    }
    assert!(read > 1_000 && refused > 1_000, "{read} read, {refused} refused");
}
