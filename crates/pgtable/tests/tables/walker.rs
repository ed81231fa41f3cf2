//! A second reader of the tables, written from Arm DDI 0487 (D8.2 "Translation process", D8.3 "Translation table descriptor formats", D8.4 "Memory
//! access control") without the engine's code: it slices the input address by the documented bit ranges and refuses every reserved encoding.

use super::memory::TestMemory;
use portcullis_addr::Prot;
use portcullis_pgtable::{TableConfig, TableFormat, TableRoot};

/// Where a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) iova: u64,
    pub(crate) size: u64,
    pub(crate) phys: u64,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) privileged: bool,
    pub(crate) no_execute: bool,
    /// 0 normal non-cacheable, 1 normal write-back, 2 device.
    pub(crate) memory_type: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The address is wider than the table's input.
    AddressSize,
    /// Not present at this level.
    Translation(u8),
}

/// Bit 52 of a block or page descriptor (D8.3).
const CONTIGUOUS: u64 = 1 << 52;

/// Reads the word at a physical address.
pub(crate) type Read<'a> = &'a dyn Fn(u64) -> u64;

pub(crate) struct Walker<'a> {
    config: TableConfig,
    root: u64,
    start_level: u8,
    read: Read<'a>,
}

impl<'a> Walker<'a> {
    pub(crate) fn new(config: TableConfig, read: Read<'a>) -> Self {
        let TableRoot::Arm { address, start_level, tables } = config.root else {
            panic!("no Arm root: {:?}", config.root)
        };
        // What D8.2 says about concatenated tables: aligned to all of them together.
        let bytes = u64::from(tables) * config.granule.bytes();
        assert!(tables == 1 || address.raw() % bytes == 0, "{address} for {tables} tables");
        Self { config, root: address.raw(), start_level, read }
    }

    /// Bits [high:low] of an input address that index a table of `level` (D8.2.7 to D8.2.9; a start level takes all bits that are left, which
    /// is what concatenation means).
    fn index_bits(&self, level: u8) -> (u32, u32) {
        let page_bits = u32::from(self.config.granule.log2());
        let per_level = match page_bits {
            12 => 9,
            14 => 11,
            16 => 13,
            other => panic!("no granule of 2^{other}"),
        };
        let low = page_bits + per_level * (3 - u32::from(level));
        let full = low + per_level - 1;
        let top = u32::from(self.config.input_bits) - 1;
        (if level == self.start_level { top } else { full.min(top) }, low)
    }

    fn index(&self, iova: u64, level: u8) -> u64 {
        let (high, low) = self.index_bits(level);
        (iova >> low) & ((1 << (high - low + 1)) - 1)
    }

    pub(crate) fn walk(&self, iova: u64) -> Result<Leaf, Fault> {
        if iova >> self.config.input_bits != 0 {
            return Err(Fault::AddressSize);
        }
        let mut table = self.root;
        for level in self.start_level..=3 {
            let descriptor = (self.read)(table + 8 * self.index(iova, level));
            match self.classify(descriptor, level, iova) {
                Some(Next::Leaf(leaf)) => return Ok(leaf),
                Some(Next::Table(next)) => table = next,
                None => return Err(Fault::Translation(level)),
            }
        }
        unreachable!("level 3 has no tables")
    }

    /// All leaves, ascending.
    pub(crate) fn leaves(&self) -> Vec<Leaf> {
        let mut found = Vec::new();
        self.collect(self.root, self.start_level, 0, &mut found);
        found
    }

    fn collect(&self, table: u64, level: u8, base: u64, found: &mut Vec<Leaf>) {
        let (high, low) = self.index_bits(level);
        let mut index = 0;
        while index < 1u64 << (high - low + 1) {
            let iova = base + (index << low);
            let descriptor = (self.read)(table + 8 * index);
            match self.classify(descriptor, level, iova) {
                Some(Next::Leaf(leaf)) => {
                    self.check_group(table, level, index, descriptor);
                    index += leaf.size >> low;
                    found.push(leaf);
                    continue;
                }
                Some(Next::Table(next)) => self.collect(next, level + 1, iova, found),
                None => {}
            }
            index += 1;
        }
    }

    /// D8.6, "Contiguous bit": the entries of a group lead to adjacent memory, aligned to the group, with the same attributes.
    fn check_group(&self, table: u64, level: u8, index: u64, descriptor: u64) {
        if descriptor & CONTIGUOUS == 0 {
            return;
        }
        let (_, low) = self.index_bits(level);
        let group = self.group(level);
        assert_eq!(index % group, 0, "a group begins in its middle");
        for offset in 0..group {
            let other = (self.read)(table + 8 * (index + offset));
            // Addresses are multiples of the group, so adding does not carry into the attributes.
            assert_eq!(other, descriptor + (offset << low), "entry {offset} of a group");
        }
    }

    /// Entries of a group: 16 with 4 KiB tables, 128 at level 3 and 32 at level 2 with 16 KiB, 32 with 64 KiB.
    fn group(&self, level: u8) -> u64 {
        match (self.config.granule.bytes(), level) {
            (0x1000, _) => 16,
            (0x4000, 3) => 128,
            _ => 32,
        }
    }

    fn classify(&self, descriptor: u64, level: u8, iova: u64) -> Option<Next> {
        let granule = self.config.granule.bytes();
        match (descriptor & 3, level) {
            (0 | 2, _) => {
                assert_eq!(descriptor & 1, 0);
                None
            }
            (3, 0..=2) => {
                let next = descriptor & 0x0000_ffff_ffff_f000;
                assert_eq!(next % granule, 0, "table address {next:#x} is not aligned");
                assert_eq!(descriptor & 0xff8, 0, "ignored low bits are kept zero");
                Some(Next::Table(next))
            }
            (3, 3) => Some(Next::Leaf(self.leaf(descriptor, level, iova))),
            (1, _) => {
                let blocks: &[u8] = if granule == 4096 { &[1, 2] } else { &[2] };
                assert!(
                    blocks.contains(&level),
                    "no block of {granule:#x} tables at level {level}"
                );
                Some(Next::Leaf(self.leaf(descriptor, level, iova)))
            }
            _ => unreachable!("two bits, four levels"),
        }
    }

    fn leaf(&self, descriptor: u64, level: u8, iova: u64) -> Leaf {
        let (_, low) = self.index_bits(level);
        let entry = 1u64 << low;
        let size = if descriptor & CONTIGUOUS == 0 { entry } else { entry * self.group(level) };
        let phys = descriptor & 0x0000_ffff_ffff_f000;
        assert_eq!(phys % entry, 0, "bits below the leaf's size are RES0: {descriptor:#x}");
        let phys = phys / size * size;
        assert_eq!(phys >> self.config.output_bits, 0, "output address too wide: {descriptor:#x}");
        assert_eq!((descriptor >> 10) & 1, 1, "AF clear: the first access would fault");
        assert_ne!((descriptor >> 8) & 3, 1, "SH 0b01 is reserved");
        let start = iova / size * size;
        let bit = |n: u32| (descriptor >> n) & 1 == 1;
        match self.config.format {
            TableFormat::ArmLpaeStage1 => {
                assert!(bit(11), "nG clear: the entry would match every ASID");
                let memory_type = u8::try_from((descriptor >> 2) & 7).expect("three bits");
                Leaf {
                    iova: start,
                    size,
                    phys,
                    readable: true,
                    writable: !bit(7),
                    privileged: !bit(6),
                    no_execute: bit(53) && bit(54),
                    memory_type,
                }
            }
            TableFormat::ArmLpaeStage2 => {
                let memory_type = match (descriptor >> 2) & 0xf {
                    0b0101 => 0,
                    0b1111 => 1,
                    0b0001 => 2,
                    other => panic!("unexpected MemAttr {other:#b}"),
                };
                Leaf {
                    iova: start,
                    size,
                    phys,
                    readable: bit(6),
                    writable: bit(7),
                    privileged: false,
                    no_execute: bit(54) && !bit(53),
                    memory_type,
                }
            }
            other => panic!("no walker for {other:?}"),
        }
    }
}

enum Next {
    Leaf(Leaf),
    Table(u64),
}

impl Leaf {
    pub(crate) fn translate(&self, iova: u64) -> u64 {
        self.phys + (iova - self.iova)
    }

    pub(crate) fn prot(&self) -> Prot {
        let mut prot = Prot::empty();
        prot.set(Prot::READ, self.readable);
        prot.set(Prot::WRITE, self.writable);
        prot.set(Prot::PRIV, self.privileged);
        prot.set(Prot::NOEXEC, self.no_execute);
        prot.set(Prot::CACHE, self.memory_type == 1);
        prot.set(Prot::MMIO, self.memory_type == 2);
        prot
    }
}

/// What a walker that snoops finds at `iova`, after making sure that one that does not snoop finds the same.
pub(crate) fn both(memory: &TestMemory, config: TableConfig, iova: u64) -> Result<Leaf, Fault> {
    let published = |address| memory.published(address);
    let found = snooping(memory, config, iova);
    let other = Walker::new(config, &published).walk(iova);
    assert_eq!(other, found, "{iova:#x}: hardware that does not snoop sees something else");
    found
}

/// What a walker that snoops finds at `iova`.
pub(crate) fn snooping(memory: &TestMemory, config: TableConfig, iova: u64) -> Result<Leaf, Fault> {
    let snooped = |address| memory.snooped(address);
    Walker::new(config, &snooped).walk(iova)
}

/// All leaves, after the same comparison.
pub(crate) fn all_leaves(memory: &TestMemory, config: TableConfig) -> Vec<Leaf> {
    let snooped = |address| memory.snooped(address);
    let published = |address| memory.published(address);
    let found = Walker::new(config, &snooped).leaves();
    assert_eq!(Walker::new(config, &published).leaves(), found);
    found
}
