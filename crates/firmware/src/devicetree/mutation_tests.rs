//! A hundred thousand damaged trees: no panic, and never a direct path where the tree names an IOMMU.

use super::*;
use crate::machine::DescribedDevice;
use portcullis::{DmaPath, FwNode};
use std::vec::Vec;

/// xorshift64*, so that a failure can be had again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }
}

/// Words that parsers trip over.
const WORDS: [u32; 14] =
    [0, 1, 2, 3, 4, 5, 9, 0x10, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_fff0, u32::MAX];

fn mutate(blob: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(6) {
        let at = random.below(blob.len());
        let word = at & !3;
        match random.below(6) {
            0 => blob[at] ^= 1 << random.below(8),
            1 => blob[at] = u8::try_from(random.below(256)).expect("a byte"),
            2 | 3 if word + 4 <= blob.len() => {
                blob[word..word + 4]
                    .copy_from_slice(&WORDS[random.below(WORDS.len())].to_be_bytes());
            }
            4 if word + 4 <= blob.len() => {
                let from = random.below(blob.len() / 4 - 1) * 4;
                blob.copy_within(from..from + 4, word);
            }
            _ if random.below(20) == 0 => blob.truncate(at.max(16)),
            _ => {}
        }
    }
}

/// Whether `device` is direct although its node names an IOMMU that is not disabled, or names it in words that cannot be read.
fn wrongly_direct(tree: &Tree<'_>, machine: &MachineDescription, device: &DescribedDevice) -> bool {
    let node = tree.node(device.node).expect("a device has a node");
    let names_one = node.has("iommus") || node.has("iommu-map");
    // Its own path is that of its streams where it has any, of its map otherwise.
    let maps = device.bus.iter().flat_map(|bus| bus.maps()).filter(|_| device.streams.is_empty());
    let named: Vec<FwNode> =
        device.streams.iter().map(|it| it.iommu).chain(maps.map(|it| it.iommu)).collect();
    let off = |node: &FwNode| machine.iommu(*node).is_some_and(|it| !it.enabled);
    let direct = device.description.dma == DmaPath::Direct;
    direct && names_one && (named.is_empty() || !named.iter().all(off))
}

fn check(tree: &Tree<'_>, machine: &MachineDescription) {
    for device in &machine.devices {
        assert!(!wrongly_direct(tree, machine, device), "{device:?}");
    }
    for iommu in &machine.iommus {
        assert!(
            iommu.kind == crate::IommuKind::Other
                || iommu.registers.is_some()
                || iommu.unusable.is_some()
        );
    }
}

/// The check would see it: each enabled client of the default board, made direct, is found out.
#[test]
fn the_check_sees_a_device_that_escaped() {
    let flat = FlatTree::new(SEEDS[0]).expect("a board");
    let tree = flat.tree().expect("a board");
    let mut machine = lower(&tree, &[], "board");
    let mut seen = 0;
    for at in 0..machine.devices.len() {
        let was = core::mem::replace(&mut machine.devices[at].description.dma, DmaPath::Direct);
        seen += usize::from(wrongly_direct(&tree, &machine, &machine.devices[at]));
        let found = was != DmaPath::Direct;
        assert_eq!(wrongly_direct(&tree, &machine, &machine.devices[at]), found);
        machine.devices[at].description.dma = was;
    }
    assert!(seen >= 25, "{seen}");
}

const SEEDS: [&[u8]; 3] = [
    include_bytes!("../../../../boards/portcullis-default.dtb"),
    include_bytes!("../../../../boards/pci-topology.dtb"),
    include_bytes!("../../../../boards/broken.dtb"),
];

fn read(blob: &[u8]) -> Result<(), ReadError> {
    let flat = FlatTree::new(blob)?;
    let reservations = flat.reservations()?;
    let tree = flat.tree()?;
    check(&tree, &lower(&tree, &reservations, "mutated"));
    Ok(())
}

#[test]
fn a_hundred_thousand_mutations_are_survived() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..100_000 {
        let mut blob = SEEDS[round % SEEDS.len()].to_vec();
        mutate(&mut blob, &mut random);
        match read(&blob) {
            Ok(()) => accepted += 1,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    }
    assert!(accepted > 10_000 && refused > 1_000, "{accepted} accepted, {refused} refused");
}
