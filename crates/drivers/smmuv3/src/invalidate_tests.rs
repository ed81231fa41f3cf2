//! Whatever is owed is covered, with few commands.

use super::*;
use crate::context::Name;
use portcullis::SpaceTag;
use portcullis_addr::PageSize;
use portcullis_spec::smmuv3::command::{OPCODE, opcode, tlbi};
use std::vec::Vec;

const GRANULES: [(u8, PageSize); 3] =
    [(0, PageSize::SIZE_4K), (1, PageSize::SIZE_16K), (2, PageSize::SIZE_64K)];

fn name(granule: u8, stage2: bool) -> Name {
    let stage = if stage2 { 1 << 16 } else { 0 };
    Name::of(SpaceTag(7 | stage | u32::from(granule) << 17)).expect("a known granule")
}

fn gather(start: u64, len: u64, leaf: PageSize, tables_freed: bool) -> IotlbGather {
    let mut gather = IotlbGather::new();
    let (start, last) = (Iova::new(start), Iova::new(start + (len - 1)));
    gather.add(FlushRange { start, last, leaf, tables_freed });
    gather
}

impl Invalidation {
    fn count(&self) -> usize {
        match self {
            Self::Space(_) => 1,
            Self::Singles(singles) => singles.total(),
            Self::Ranges(ranges) => ranges.total(),
        }
    }

    fn commands(self) -> Vec<Command> {
        match self {
            Self::Space(name) => std::vec![whole(name)],
            Self::Singles(singles) => singles.collect(),
            Self::Ranges(ranges) => ranges.collect(),
        }
    }
}

/// The bytes that a command covers, by §4.4.1.1.
fn covered(command: &Command) -> (u64, u64) {
    let get = |field: portcullis_spec::Field| field.read(&command.0);
    let start = tlbi::ADDRESS.in_place(command.0[1]);
    let granule = match get(tlbi::TG) {
        1 => 4096,
        2 => 16384,
        3 => 65536,
        _ => return (start, start),
    };
    let reserved = get(tlbi::NUM) == 0 && get(tlbi::SCALE) == 0 && get(tlbi::TTL) == 0;
    assert!(!reserved, "one granule without a hint is a reserved encoding");
    (start, start + ((get(tlbi::NUM) + 1) << get(tlbi::SCALE)) * granule - 1)
}

#[test]
fn range_commands_cover_exactly_what_is_owed() {
    for (code, granule) in GRANULES {
        for leaves in (1..200).chain([511, 512, 513, 1 << 15, (1 << 20) - 1]) {
            for (level, shift) in [(3u64, 0), (2, granule.log2() - 3)] {
                let leaf = PageSize::from_log2(granule.log2() + shift).expect("a size");
                let (start, len) = (leaf.bytes() * 3, leaves * leaf.bytes());
                let owed = gather(start, len, leaf, false);
                let owed = invalidation(name(code, false), &owed, true).expect("owed");
                let commands: Vec<_> = owed.clone().commands();
                assert_eq!(commands.len(), owed.count());
                assert!(commands.len() <= 5, "{leaves} leaves took {}", commands.len());
                let mut next = start;
                for command in &commands {
                    let (first, last) = covered(command);
                    assert_eq!(first, next, "no gap and no overlap");
                    assert_eq!(first % leaf.bytes(), 0, "the level hint needs whole leaves");
                    assert_eq!(tlbi::TTL.read(&command.0), level);
                    assert_eq!(tlbi::LEAF.read(&command.0), 1);
                    next = last + 1;
                }
                assert_eq!(next, start + len);
            }
        }
    }
}

/// Where one command is taken to be enough it covers exactly what is owed, and for a few pages it is enough.
#[test]
fn a_single_command_covers_exactly_what_is_owed() {
    let mut singles = 0;
    for (code, granule) in GRANULES {
        for case in 0..8 {
            let [stage2, ranges, freed] = [1, 2, 4].map(|bit| case & bit != 0);
            let opcode = if stage2 { opcode::TLBI_S2_IPA } else { opcode::TLBI_NH_VA };
            for (pages, shift) in (1..=80).chain([512, 8192]).flat_map(|n| [(n, 0), (n, 9)]) {
                let leaf = PageSize::from_log2(granule.log2() + shift).expect("a size");
                let (start, len) = (leaf.bytes() * 5, pages * leaf.bytes());
                let owed = gather(start, len, leaf, freed);
                let Some(command) = single(name(code, stage2), &owed, ranges) else {
                    assert!(if ranges { pages > 31 } else { pages > 1 }, "{pages} of {leaf}");
                    continue;
                };
                singles += 1;
                assert_eq!(OPCODE.read(&command.0), opcode);
                assert_eq!(tlbi::LEAF.read(&command.0), u64::from(!freed));
                match covered(&command) {
                    // An address alone stands for the leaf that translates it, whatever its size.
                    (first, last) if first == last => assert_eq!((first, pages), (start, 1)),
                    all => assert_eq!(all, (start, start + len - 1)),
                }
            }
        }
    }
    assert!(singles > 1000, "{singles}");
}

#[test]
fn a_removed_table_is_named_without_the_leaf_hint() {
    for ranges in [false, true] {
        for leaves in [1, 2, 3, 33] {
            let owed = gather(0x20_0000, leaves * 4096, PageSize::SIZE_4K, true);
            let owed = invalidation(name(0, false), &owed, ranges).expect("owed");
            for command in owed.commands() {
                assert_eq!(tlbi::LEAF.read(&command.0), 0);
                assert_eq!(tlbi::TTL.read(&command.0), 0);
                covered(&command);
            }
        }
    }
}

#[test]
fn without_ranges_each_leaf_is_named_or_the_space_is() {
    for stage2 in [false, true] {
        let address = if stage2 { opcode::TLBI_S2_IPA } else { opcode::TLBI_NH_VA };
        let all = if stage2 { opcode::TLBI_S12_VMALL } else { opcode::TLBI_NH_ASID };
        let name = name(0, stage2);
        for leaves in [1, 2, MAX_SINGLE, MAX_SINGLE + 1] {
            let owed = gather(0x40_0000, leaves << 21, PageSize::SIZE_2M, false);
            let owed = invalidation(name, &owed, false).expect("owed");
            let commands: Vec<_> = owed.clone().commands();
            assert_eq!(commands.len(), owed.count());
            if leaves > MAX_SINGLE {
                assert_eq!(commands, [whole(name)]);
                assert_eq!(OPCODE.read(&commands[0].0), all);
                continue;
            }
            for (n, command) in commands.iter().enumerate() {
                assert_eq!(OPCODE.read(&command.0), address);
                assert_eq!(covered(command).0, 0x40_0000 + ((n as u64) << 21));
            }
            assert_eq!(commands.len() as u64, leaves);
        }
    }
}

#[test]
fn everything_and_nothing() {
    let name = name(1, false);
    assert!(invalidation(name, &IotlbGather::new(), true).is_none());
    let mut everything = IotlbGather::new();
    everything.add_everything();
    for ranges in [false, true] {
        let owed = invalidation(name, &everything, ranges).expect("owed");
        assert_eq!(owed.commands(), [whole(name)]);
    }
}
