//! ACPICA's disassembler (`iasl -d`) as second reader: what it prints of a table against what the reader here found, record by record.
//!
//! Compared are DMAR, IVRS, IORT and MCFG. ACPICA 20200925 (Debian 12) knows neither VIOT nor RIMT, and stops at records that are newer than it; such tables are counted and left out.

use crate::made::{
    Bytes, bytes, component, dmar, drhd, iort, ivmd, ivrs, record, rmrr, root_complex, scope,
    smmuv3,
};
use crate::others::mcfg;
use portcullis_firmware::acpi::dmar::{Dmar, Scope, ScopeKind};
use portcullis_firmware::acpi::iort::{Iort, NodeKind};
use portcullis_firmware::acpi::ivrs::{Entry, Ivrs};
use portcullis_firmware::acpi::mcfg::Mcfg;
use portcullis_firmware::acpi::{AcpiError, Table};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One line of a listing: where the field is, its name, its value as printed.
#[derive(Clone, Debug)]
struct Field {
    offset: u64,
    name: String,
    value: String,
}

impl Field {
    /// `[030h 0048   2]    Subtable Type : 0000 [Hardware Unit Definition]`; what is no such line is none.
    fn parse(line: &str) -> Option<Self> {
        let (place, rest) = line.strip_prefix('[')?.split_once(']')?;
        let (offset, _) = place.split_once('h')?;
        let (name, value) = rest.split_once(" : ")?;
        let name = name.split(" (").next().unwrap_or_default().trim();
        let value = match value.strip_prefix('"') {
            Some(text) => text.split('"').next().unwrap_or_default(),
            None => value.split(" [").next().unwrap_or_default(),
        };
        let offset = u64::from_str_radix(offset, 16).ok()?;
        Some(Self { offset, name: name.into(), value: value.trim().into() })
    }
}

type Fields<'f> = &'f [Field];

/// The parts of a listing that begin at fields of that name.
fn parts<'f>(fields: Fields<'f>, name: &str) -> Vec<Fields<'f>> {
    let starts = fields.iter().enumerate().filter(|(_, field)| field.name == name);
    let mut starts: Vec<usize> = starts.map(|(at, _)| at).collect();
    starts.push(fields.len());
    starts.windows(2).map(|pair| &fields[pair[0]..pair[1]]).collect()
}

fn text<'f>(fields: Fields<'f>, name: &str) -> &'f str {
    let field = fields.iter().find(|field| field.name == name);
    &field.unwrap_or_else(|| panic!("no {name} in {fields:#?}")).value
}

/// The first field of that name.
fn number(fields: Fields<'_>, name: &str) -> u64 {
    let value = text(fields, name);
    u64::from_str_radix(value, 16).unwrap_or_else(|_| panic!("{name}: {value}"))
}

/// What is compared, one line for each record: units, scopes, ids, regions. In the table's order.
type Facts = Vec<String>;

fn their_scopes(record: Fields<'_>) -> String {
    let scope = |part: &Fields<'_>| {
        let hops = part.iter().filter(|field| field.name == "PCI Path");
        let hops: Vec<_> = hops.map(|hop| hop.value.to_lowercase()).collect();
        let number = |name| number(part, name);
        let (kind, id) = (number("Device Scope Type"), number("Enumeration ID"));
        format!("{kind}/{id:x}/{:x}/{}", number("PCI Bus Number"), hops.join(" "))
    };
    parts(record, "Device Scope Type").iter().map(scope).collect::<Vec<_>>().join("; ")
}

fn our_scopes(scopes: &[Scope]) -> String {
    let scope = |scope: &Scope| {
        let kind = match scope.kind {
            ScopeKind::Endpoint => 1,
            ScopeKind::SubHierarchy => 2,
            ScopeKind::IoApic => 3,
            ScopeKind::Hpet => 4,
            ScopeKind::Namespace => 5,
            ScopeKind::Other(kind) => kind,
        };
        let hops: Vec<_> = scope.path.iter().map(|(d, f)| format!("{d:02x},{f:02x}")).collect();
        format!("{kind}/{:x}/{:x}/{}", scope.enumeration_id, scope.start_bus, hops.join(" "))
    };
    scopes.iter().map(scope).collect::<Vec<_>>().join("; ")
}

fn their_dmar(fields: Fields<'_>) -> Facts {
    let mut facts = vec![format!("width {}", number(fields, "Host Address Width") + 1)];
    // Kind by kind, as the reader keeps them.
    for wanted in [0, 1, 4, 2] {
        for record in parts(fields, "Subtable Type") {
            let number = |name| number(record, name);
            if number("Subtable Type") != wanted {
                continue;
            }
            facts.push(match wanted {
                0 => {
                    let all = number("Flags") & 1 != 0;
                    let (segment, base) =
                        (number("PCI Segment Number"), number("Register Base Address"));
                    format!("unit {base:x} {segment:x} {all}: {}", their_scopes(record))
                }
                1 => {
                    let (first, last) = (number("Base Address"), number("End Address"));
                    let segment = number("PCI Segment Number");
                    format!("region {segment:x} {first:x} {last:x}: {}", their_scopes(record))
                }
                4 => format!("name {} {}", number("Device Number"), text(record, "Device Name")),
                _ => {
                    let all = number("Flags") & 1 != 0;
                    format!(
                        "ats {:x} {all}: {}",
                        number("PCI Segment Number"),
                        their_scopes(record)
                    )
                }
            });
        }
    }
    facts
}

fn our_dmar(table: &Table<'_>) -> Result<Facts, AcpiError> {
    let dmar = Dmar::parse(table)?;
    let units = dmar.units.iter().map(|it| {
        let scopes = our_scopes(&it.scopes);
        format!("unit {:x} {:x} {}: {scopes}", it.registers, it.segment, it.include_all)
    });
    let regions = dmar.regions.iter().map(|it| {
        format!("region {:x} {:x} {:x}: {}", it.segment, it.first, it.last, our_scopes(&it.scopes))
    });
    let names = dmar.names.iter().map(|it| format!("name {} {}", it.number, it.name));
    let ats = dmar.ats.iter().filter(|it| !it.integrated);
    let ats =
        ats.map(|it| format!("ats {:x} {}: {}", it.segment, it.all_ports, our_scopes(&it.scopes)));
    let width = [format!("width {}", dmar.address_bits)];
    Ok(width.into_iter().chain(units).chain(regions).chain(names).chain(ats).collect())
}

fn their_entries(block: Fields<'_>) -> String {
    let (mut entries, mut open) = (Vec::new(), None);
    for entry in parts(block, "Entry Type") {
        let device = number(entry, "Device ID");
        let source = || number(entry, "Source Used Device ID");
        match number(entry, "Entry Type") {
            0 => {}
            1 => entries.push("all".to_owned()),
            2 | 0x46 => entries.push(format!("{device:x}-{device:x}")),
            3 | 0x47 => open = Some((device, String::new())),
            4 => {
                let (first, alias) = open.take().expect("a beginning");
                entries.push(format!("{first:x}-{device:x}{alias}"));
            }
            0x42 => entries.push(format!("{device:x}-{device:x}={:x}", source())),
            0x43 => open = Some((device, format!("={:x}", source()))),
            0x48 => {
                let (variety, handle) = (number(entry, "Variety"), number(entry, "Handle"));
                entries.push(format!("special {variety} {handle:x} {:x}", source()));
            }
            0xf0 => entries.push(format!("named {device:x}")),
            other => entries.push(format!("type {other:x}")),
        }
    }
    entries.join("; ")
}

fn their_ivrs(fields: Fields<'_>) -> Facts {
    // Of the blocks of one unit the one of the highest type counts (48882, 5.2.2), where the first of them stands.
    let mut units: Vec<((u64, u64), u64, String)> = Vec::new();
    let mut regions = Vec::new();
    for record in parts(fields, "Subtable Type") {
        let number = |name| number(record, name);
        match number("Subtable Type") {
            kind @ (0x10 | 0x11 | 0x40) => {
                let unit = (number("PCI Segment Group"), number("DeviceId"));
                let features = match kind {
                    0x10 => String::new(),
                    _ => format!(" {:x}", number("EFR Image")),
                };
                let facts = format!(
                    "unit {kind:x} {:x} {unit:x?} {:x}{features}: {}",
                    number("Flags"),
                    number("Base Address"),
                    their_entries(record)
                );
                match units.iter_mut().find(|known| known.0 == unit) {
                    Some(known) if known.1 < kind => (known.1, known.2) = (kind, facts),
                    Some(_) => {}
                    None => units.push((unit, kind, facts)),
                }
            }
            kind @ (0x20..=0x22) => {
                let (first, aux) = (number("DeviceId"), number("Auxiliary Data"));
                let devices = match kind {
                    0x20 => None,
                    0x21 => Some((first, first)),
                    _ => Some((first, aux)),
                };
                let (start, len) = (number("Start Address"), number("Memory Length"));
                regions
                    .push(format!("region {:x} {devices:x?} {start:x} {len:x}", number("Flags")));
            }
            _ => {}
        }
    }
    units.into_iter().map(|unit| unit.2).chain(regions).collect()
}

fn our_ivrs(table: &Table<'_>) -> Result<Facts, AcpiError> {
    let ivrs = Ivrs::parse(table)?;
    let units = ivrs.units.iter().map(|it| {
        let entries = it.entries.iter().map(|entry| match entry {
            Entry::All => "all".to_owned(),
            Entry::Range { first, last, alias } => {
                let alias = alias.map(|alias| format!("={alias:x}")).unwrap_or_default();
                format!("{first:x}-{last:x}{alias}")
            }
            Entry::Special { variety, handle, device } => {
                format!("special {variety} {handle:x} {device:x}")
            }
            Entry::Named { device, .. } => format!("named {device:x}"),
        });
        let features = it.features.map(|features| format!(" {features:x}")).unwrap_or_default();
        let (unit, entries) = ((it.segment, it.device), entries.collect::<Vec<_>>().join("; "));
        format!(
            "unit {:x} {:x} {unit:x?} {:x}{features}: {entries}",
            it.kind, it.flags, it.registers
        )
    });
    let regions = ivrs
        .regions
        .iter()
        .map(|it| format!("region {:x} {:x?} {:x} {:x}", it.flags, it.devices, it.start, it.len));
    Ok(units.chain(regions).collect())
}

fn their_iort(fields: Fields<'_>) -> Facts {
    let nodes = parts(fields, "Type").into_iter().map(|node| {
        let number = |name| number(node, name);
        let kind = match number("Type") {
            0 => "its".to_owned(),
            1 => {
                format!("component {} {:x}", text(node, "Device Name"), number("Memory Size Limit"))
            }
            2 => {
                let ats = number("ATS Attribute") & 1 != 0;
                let bits = match number("Revision") {
                    0 => 0,
                    _ => number("Memory Size Limit"),
                };
                format!("root {:x} {bits:x} {ats}", number("PCI Segment Number"))
            }
            3 => {
                let coherent = number("Flags") & 2 != 0;
                let (base, span, model) = (number("Base Address"), number("Span"), number("Model"));
                let contexts = number("Context Interrupt Count");
                format!("smmu {base:x} {span:x} {model} {coherent} {contexts:x}")
            }
            4 => {
                let (base, flags) = (number("Base Address"), number("Flags"));
                format!("smmuv3 {base:x} {flags:x} {}", number("Model"))
            }
            other => format!("type {other}"),
        };
        let mappings = parts(node, "Input base").into_iter().map(|mapping| {
            let number = |name| self::number(mapping, name);
            let (input, beyond) = (number("Input base"), number("ID Count"));
            let (output, target) = (number("Output Base"), number("Output Reference"));
            let single = number("Flags") & 1 != 0;
            (target, format!("{input:x}+{beyond:x}={output:x}@{target:x}{}", mark(single)))
        });
        // Without a target a mapping says nothing; the reader counts these.
        let mappings: Vec<_> =
            mappings.filter(|(target, _)| *target != 0).map(|(_, mapping)| mapping).collect();
        format!("{:x} {kind}: {}", node[0].offset, mappings.join("; "))
    });
    nodes.collect()
}

fn mark(single: bool) -> &'static str {
    if single { "!" } else { "" }
}

fn our_iort(table: &Table<'_>) -> Result<Facts, AcpiError> {
    let iort = Iort::parse(table)?;
    let nodes = iort.nodes.iter().map(|node| {
        let kind = match &node.kind {
            NodeKind::ItsGroup => "its".to_owned(),
            NodeKind::NamedComponent { name, address_bits, .. } => {
                format!("component {name} {address_bits:x}")
            }
            NodeKind::RootComplex { segment, address_bits, ats, .. } => {
                format!("root {segment:x} {address_bits:x} {ats}")
            }
            NodeKind::SmmuV2 { registers, size, model, coherent, context_interrupts } => {
                format!("smmu {registers:x} {size:x} {model} {coherent} {context_interrupts:x}")
            }
            NodeKind::SmmuV3 { registers, flags, model } => {
                format!("smmuv3 {registers:x} {flags:x} {model}")
            }
            NodeKind::Counters => "type 5".to_owned(),
            NodeKind::ReservedMemory { .. } => "type 6".to_owned(),
            NodeKind::Other(kind) => format!("type {kind}"),
        };
        let mappings = node.mappings.iter().map(|it| {
            let beyond = it.input_last - it.input;
            let target = iort.nodes[it.target].offset;
            format!("{:x}+{beyond:x}={:x}@{target:x}{}", it.input, it.output, mark(it.single))
        });
        format!("{:x} {kind}: {}", node.offset, mappings.collect::<Vec<_>>().join("; "))
    });
    Ok(nodes.collect())
}

fn their_mcfg(fields: Fields<'_>) -> Facts {
    let spaces = parts(fields, "Base Address").into_iter().map(|space| {
        let number = |name| number(space, name);
        let (first, last) = (number("Start Bus Number"), number("End Bus Number"));
        let (base, segment) = (number("Base Address"), number("Segment Group Number"));
        format!("space {base:x} {segment:x} {first:x} {last:x}")
    });
    spaces.collect()
}

fn our_mcfg(table: &Table<'_>) -> Result<Facts, AcpiError> {
    let spaces = Mcfg::parse(table)?.spaces;
    let space = spaces.iter().map(|it| {
        format!("space {:x} {:x} {:x} {:x}", it.base, it.segment, it.first_bus, it.last_bus)
    });
    Ok(space.collect())
}

/// What the reader here says.
fn ours(table: &[u8]) -> Result<Facts, AcpiError> {
    let table = Table::new(table)?;
    match &table.signature.0 {
        b"DMAR" => our_dmar(&table),
        b"IVRS" => our_ivrs(&table),
        b"IORT" => our_iort(&table),
        _ => our_mcfg(&table),
    }
}

/// What a listing says; `None` where ACPICA says that it does not know something, and prints what it makes of it all the same.
fn theirs(listing: &str) -> Option<Facts> {
    if ["Unknown", "terminates early", "Invalid"].iter().any(|word| listing.contains(word)) {
        return None;
    }
    let fields: Vec<Field> = listing.lines().filter_map(Field::parse).collect();
    Some(match text(&fields, "Signature") {
        "DMAR" => their_dmar(&fields),
        "IVRS" => their_ivrs(&fields),
        "IORT" => their_iort(&fields),
        _ => their_mcfg(&fields),
    })
}

/// Has `iasl` list a table.
fn listing(folder: &Path, number: usize, table: &[u8]) -> String {
    let (file, list) = (format!("{number}.bin"), format!("{number}.dsl"));
    std::fs::write(folder.join(&file), table).expect("written");
    let run = Command::new("iasl").current_dir(folder).args(["-d", &file]).output();
    let run = run.expect("it runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let list = std::fs::read(folder.join(list)).expect("a listing");
    String::from_utf8_lossy(&list).into_owned()
}

/// A folder to work in, where there is an `iasl`.
fn iasl(test: &str) -> Option<PathBuf> {
    if Command::new("iasl").arg("-v").output().is_err() {
        let required = std::env::var_os("PORTCULLIS_REQUIRE_EXTERNAL").is_some_and(|it| it == "1");
        assert!(!required, "iasl is missing (Debian: acpica-tools)");
        crate::say(&format!("SKIP: {test}: there is no iasl (Debian: acpica-tools)"));
        return None;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("iasl").join(test);
    std::fs::create_dir_all(&folder).expect("a folder");
    Some(folder)
}

/// Tables with every kind of record that both readers know.
fn samples() -> Vec<Vec<u8>> {
    vec![dmar_sample(), ivrs_sample(), iort_sample(), mcfg()]
}

fn dmar_sample() -> Vec<u8> {
    let atsr = bytes().u8(0).u8(0).u16(3).bytes(&scope(2, 0, 0x40, &[(0x1c, 5)]).0);
    let rhsa = bytes().u32(0).u64(0xfed9_0000).u32(1);
    let far = scope(1, 0, 0x3a, &[(0x1d, 0), (0, 0), (3, 7)]);
    let (apic, named) = (scope(3, 2, 0xf0, &[(0x1f, 0)]), scope(5, 1, 0, &[(0x15, 2)]));
    let function = |device| scope(1, 0, 0, &[(device, 0)]);
    dmar(&[
        drhd(false, 0xfed9_0000, &[function(2), far]),
        drhd(true, 0xfed9_1000, &[apic, named]),
        rmrr(0x9b00_0000, 0x9f7f_ffff, &[function(2), function(0x14)]),
        record(2, atsr),
        record(3, rhsa),
        record(4, bytes().zeros(3).u8(1).bytes(b"\\_SB.PCI0.I2C0\0")),
    ])
}

fn ivrs_sample() -> Vec<u8> {
    let block = |kind: u8, body: Bytes| {
        let head = if kind == 0x10 { 24 } else { 40 };
        let length = u16::try_from(head + body.0.len()).expect("short");
        let block = bytes().u8(kind).u8(0x30).u16(length).u16(0x1402).u16(0x40);
        let block = block.u64(0xfd10_0000).u16(2).u16(0).u32(0x8004_8f6e);
        let block = if kind == 0x10 { block } else { block.u64(0x0002_4657_7efa_2e22).u64(0) };
        block.bytes(&body.0)
    };
    let four = |kind: u8, device: u16| bytes().u8(kind).u16(device).u8(0);
    let eight = |kind: u8, device: u16, handle: u8, source: u16, variety: u8| {
        four(kind, device).u8(handle).u16(source).u8(variety)
    };
    let entries = [
        four(2, 0x8),
        four(3, 0x10),
        four(4, 0xfffe),
        eight(0x42, 0x180, 0, 0x100, 0),
        eight(0x43, 0x300, 0, 0x208, 0),
        four(4, 0x3ff),
        eight(0x48, 0, 0x21, 0xa0, 1),
        eight(0x48, 0, 0, 0xa0, 2),
    ];
    ivrs(&[
        block(0x10, four(1, 0)),
        block(0x11, entries.iter().fold(bytes(), |all, entry| all.bytes(&entry.0))),
        ivmd(0x20, 7, 0, 0, 0x6000_0000, 0x4000),
        ivmd(0x21, 7, 8, 0, 0x7000_0000, 0x1000),
        ivmd(0x22, 8, 0x100, 0x1ff, 0x7100_0000, 0x2000),
    ])
}

fn iort_sample() -> Vec<u8> {
    let ids = |count: u32| vec![(0x100, count, 0x4000, 1, 0), (0x300, 0, 0x77, 1, 1)];
    let mmu500 = bytes().u64(0x1500_0000).u64(0x8_0000).u32(3).u32(2);
    // Offsets of the interrupts: global at 60, two of context banks at 76, no counters'.
    let mmu500 = mmu500.u32(60).u32(2).u32(76).u32(0).u32(92).u64(97).u64(98).u64(99).u64(100);
    // With the fields that revision 4 of the node has.
    let (kind, revision, data, mappings) = smmuv3(0x2b40_0000, 1);
    iort(&[
        (0, 1, bytes().u32(1).u32(0), vec![]),
        (kind, revision, data.zeros(8), mappings),
        root_complex(2, ids(0x1ff)),
        component(b"\\_SB.DMA0", ids(3)),
        (3, 3, mmu500, vec![(0, 0xffff, 0x100, 0, 0)]),
    ])
}

/// Tables that QEMU 10.0.2 writes for the boards of `portcullis boot --on qemu`, kept by `--save-tables`.
fn qemu() -> [&'static [u8]; 4] {
    [
        include_bytes!("qemu/q35-vtd.dmar"),
        include_bytes!("qemu/q35-amd.ivrs"),
        include_bytes!("qemu/arm-virt-acpi.iort"),
        include_bytes!("qemu/arm-virt-acpi.mcfg"),
    ]
}

#[test]
fn both_readers_find_the_same() {
    let Some(folder) = iasl("both_readers_find_the_same") else { return };
    let tables = samples().into_iter().chain(qemu().map(<[u8]>::to_vec));
    for (number, table) in tables.enumerate() {
        let listing = listing(&folder, number, &table);
        let theirs = theirs(&listing).unwrap_or_else(|| panic!("not known: {listing}"));
        assert!(!theirs.is_empty(), "{listing}");
        assert_eq!(ours(&table).expect("well-formed"), theirs, "{listing}");
    }
}

/// Fields of the samples that a reader can mistake: which sample, ACPICA's name, how many of that name stand before it.
const FIELDS: [(usize, &str, usize); 17] = [
    (0, "Host Address Width", 0),
    (0, "Flags", 2),
    (0, "PCI Segment Number", 1),
    (0, "Register Base Address", 1),
    (0, "PCI Bus Number", 0),
    (0, "PCI Path", 2),
    (0, "End Address", 0),
    (1, "PCI Segment Group", 1),
    (1, "Device ID", 3),
    (1, "Source Used Device ID", 1),
    (1, "EFR Image", 0),
    (1, "Auxiliary Data", 2),
    (2, "Base Address", 0),
    (2, "PCI Segment Number", 0),
    (2, "ID Count", 1),
    (2, "Output Base", 1),
    (3, "Base Address", 0),
];

/// A reader that takes one of these fields from elsewhere is noticed: it is given another value there than ACPICA.
#[test]
fn a_misread_field_is_noticed() {
    let Some(folder) = iasl("a_misread_field_is_noticed") else { return };
    let listings: Vec<(Vec<u8>, String)> = samples()
        .into_iter()
        .enumerate()
        .map(|(number, table)| {
            let listing = listing(&folder, number, &table);
            (table, listing)
        })
        .collect();
    for (sample, name, before) in FIELDS {
        let (table, listing) = &listings[sample];
        let fields = listing.lines().filter_map(Field::parse);
        let field = fields.filter(|field| field.name == name).nth(before).expect(name);
        let mut misread = table.clone();
        misread[field.offset as usize] ^= 1;
        assert_eq!(Some(ours(table).expect("well-formed")), theirs(listing));
        assert_ne!(Some(ours(&misread).expect("well-formed")), theirs(listing), "{field:?}");
    }
}

/// The tables of real machines, where a collection is at hand: see `machines.rs`.
#[test]
fn both_readers_find_the_same_in_a_collection() {
    let test = "both_readers_find_the_same_in_a_collection";
    let Some(machines) = std::env::var_os("PORTCULLIS_ACPI_TABLES") else {
        crate::say("SKIP: PORTCULLIS_ACPI_TABLES names no folder of machines for iasl");
        return;
    };
    let Some(folder) = iasl(test) else { return };
    let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    let machines =
        std::fs::read_dir(machines).expect("a folder").map(|it| it.expect("an entry").path());
    for machine in machines.filter(|path| path.is_dir()) {
        for file in std::fs::read_dir(&machine).expect("a machine") {
            let table = std::fs::read(file.expect("a file").path()).expect("a table");
            let kind = ["DMAR", "IVRS", "IORT", "MCFG"]
                .into_iter()
                .find(|it| table.starts_with(it.as_bytes()));
            let Some(kind) = kind else { continue };
            let theirs = theirs(&listing(&folder, 0, &table));
            counts.entry(kind).or_default()[usize::from(theirs.is_none())] += 1;
            if let Some(theirs) = theirs {
                let ours = ours(&table).expect("well-formed");
                assert_eq!(ours, theirs, "{}", machine.display());
            }
        }
    }
    crate::say(&format!("compared with iasl, and left out as newer than it: {counts:?}"));
    assert!(counts.values().any(|[compared, _]| *compared > 0));
}
