//! A second reader of the tables, written from the documents without the engine's code or layouts: it slices the input address by the documented bit
//! ranges and refuses every reserved encoding.

use super::memory::TestMemory;
use super::rules;
use portcullis_addr::Prot;
use portcullis_pgtable::TableConfig;

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
    /// Not present in a table so many levels above the last.
    Translation(u32),
}

/// What an entry is, by a document.
pub(crate) enum Entry {
    NotPresent,
    Table(u64),
    Leaf(LeafEntry),
}

/// A leaf as one of its entries shows it.
pub(crate) struct LeafEntry {
    /// Where the leaf's first byte leads.
    pub(crate) phys: u64,
    /// Entries that it takes.
    pub(crate) entries: u64,
    /// What the entry at an offset from the leaf's first must be, if this is the first.
    pub(crate) alike: fn(first: u64, offset: u64, low: u32) -> u64,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) privileged: bool,
    pub(crate) no_execute: bool,
    pub(crate) memory_type: u8,
}

/// One document's rules.
pub(crate) trait Rules {
    /// The root, and for each level, from the root down, the lowest and the highest bit of an input address that index its tables.
    fn shape(&self) -> (u64, Vec<(u32, u32)>);
    /// What `entry` is, in a table `above` levels above the last whose entries cover 2^`low` bytes.
    fn entry(&self, entry: u64, above: u32, low: u32) -> Entry;
}

/// Reads the word at a physical address.
pub(crate) type Read<'a> = &'a dyn Fn(u64) -> u64;

pub(crate) struct Walker<'a> {
    config: TableConfig,
    rules: Box<dyn Rules>,
    root: u64,
    levels: Vec<(u32, u32)>,
    read: Read<'a>,
}

impl<'a> Walker<'a> {
    pub(crate) fn new(config: TableConfig, read: Read<'a>) -> Self {
        let rules = rules::of(&config);
        let (root, levels) = rules.shape();
        Self { config, rules, root, levels, read }
    }

    pub(crate) fn walk(&self, iova: u64) -> Result<Leaf, Fault> {
        let (_, top) = self.levels[0];
        if top < 63 && iova >> (top + 1) != 0 {
            return Err(Fault::AddressSize);
        }
        let mut table = self.root;
        for (depth, (low, high)) in self.levels.iter().enumerate() {
            let above = (self.levels.len() - 1 - depth) as u32;
            let index = (iova >> low) & ((1 << (high - low + 1)) - 1);
            match self.rules.entry((self.read)(table + 8 * index), above, *low) {
                Entry::NotPresent => return Err(Fault::Translation(above)),
                Entry::Table(next) => table = next,
                Entry::Leaf(leaf) => return Ok(self.leaf(&leaf, iova, *low)),
            }
        }
        unreachable!("the last level has no tables")
    }

    /// All leaves, ascending.
    pub(crate) fn leaves(&self) -> Vec<Leaf> {
        let mut found = Vec::new();
        self.collect(self.root, 0, 0, &mut found);
        found
    }

    fn collect(&self, table: u64, depth: usize, base: u64, found: &mut Vec<Leaf>) {
        let (low, high) = self.levels[depth];
        let above = (self.levels.len() - 1 - depth) as u32;
        let mut index = 0;
        while index < 1u64 << (high - low + 1) {
            let iova = base + (index << low);
            let entry = (self.read)(table + 8 * index);
            index += match self.rules.entry(entry, above, low) {
                Entry::NotPresent => 1,
                Entry::Table(next) => {
                    self.collect(next, depth + 1, iova, found);
                    1
                }
                Entry::Leaf(leaf) => {
                    assert_eq!(index % leaf.entries, 0, "a group begins in its middle");
                    for offset in 1..leaf.entries {
                        let other = (self.read)(table + 8 * (index + offset));
                        let expected = (leaf.alike)(entry, offset, low);
                        assert_eq!(other, expected, "entry {offset} of a group");
                    }
                    found.push(self.leaf(&leaf, iova, low));
                    leaf.entries
                }
            };
        }
    }

    fn leaf(&self, entry: &LeafEntry, iova: u64, low: u32) -> Leaf {
        let size = entry.entries << low;
        assert_eq!(entry.phys % size, 0, "a leaf is aligned to its size: {:#x}", entry.phys);
        let bits = self.config.output_bits;
        assert_eq!(entry.phys >> bits, 0, "output address too wide: {:#x}", entry.phys);
        Leaf {
            iova: iova / size * size,
            size,
            phys: entry.phys,
            readable: entry.readable,
            writable: entry.writable,
            privileged: entry.privileged,
            no_execute: entry.no_execute,
            memory_type: entry.memory_type,
        }
    }
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
