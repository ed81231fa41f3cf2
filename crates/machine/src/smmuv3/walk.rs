//! Walking translation tables (VMSAv8-64, Arm ARM D8), for either stage.

use super::events::{Fault, Refusal};
use super::stream::Stages;
use super::tlb::{Fill, Permissions, TableEntry, Tag};
use super::translate::Transit;
use portcullis_spec::smmuv3::event::{class, number};

/// Which stage a table belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    One,
    Two,
}

/// Where a walk begins, and by which rules it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) stage: Stage,
    pub(super) root: u64,
    /// log2 of the granule: 12, 14 or 16.
    pub(super) granule: u32,
    /// Bits of an input address.
    pub(super) input_bits: u32,
    /// Level of the first table.
    pub(super) start: u32,
    /// Bits of an output address.
    pub(super) output_bits: u32,
    /// A clear access flag is a fault.
    pub(super) access_flag_faults: bool,
    /// Table descriptors limit the permissions below them.
    pub(super) hierarchical: bool,
    /// Walks are disabled: every miss is a translation fault.
    pub(super) disabled: bool,
    /// Faults of this stage are recorded.
    pub(super) record: bool,
}

/// What a walk ends with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    /// Output address of the page or block.
    pub(super) output: u64,
    /// log2 of its size.
    pub(super) size: u32,
    pub(super) level: u32,
    pub(super) permissions: Permissions,
    pub(super) global: bool,
}

/// A descriptor, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Descriptor {
    Invalid,
    Table { next: u64, limit: Permissions },
    Leaf { output: u64, permissions: Permissions, accessed: bool, global: bool },
}

fn bit(word: u64, bit: u32) -> bool {
    word >> bit & 1 == 1
}

impl Table {
    /// log2 of what one entry of a table at `level` covers.
    pub(super) fn shift(&self, level: u32) -> u32 {
        self.granule + (self.granule - 3) * (3 - level)
    }

    /// Whether `input` lies in the range that the table translates (of the upper range: below its own size, from the top).
    pub(super) fn covers(&self, input: u64, upper: bool) -> bool {
        let rest = if upper { !input } else { input };
        rest.checked_shr(self.input_bits).unwrap_or(0) == 0
    }

    /// A fault of this stage.
    pub(super) fn refuse(&self, number: u64, class: u64, other: u64) -> Refusal {
        if self.record || number == number::F_WALK_EABT {
            let stage2 = self.stage == Stage::Two;
            Refusal::Translation(Fault { number, stage2, class, other })
        } else {
            Refusal::Silent
        }
    }

    /// The address in a descriptor. With 64 KiB granules and a wide output, bits 15:12 are address bits 51:48 (Arm ARM D8.3.1).
    fn address(&self, word: u64, align: u32) -> u64 {
        let low = word & 0x0000_ffff_ffff_f000;
        let wide = self.granule == 16 && self.output_bits > 48;
        let high = if wide { (word >> 12 & 0xf) << 48 } else { 0 };
        low >> align << align | high
    }

    fn blocks_at(&self, level: u32) -> bool {
        match self.granule {
            12 => level == 1 || level == 2,
            14 => level == 2,
            _ => level == 2 || level == 1 && self.output_bits > 48,
        }
    }

    fn decode(&self, word: u64, level: u32) -> Descriptor {
        let kind = word & 3;
        let leaf = if level == 3 { kind == 3 } else { kind == 1 && self.blocks_at(level) };
        if leaf {
            let permissions = match self.stage {
                Stage::One => Permissions { read: true, write: !bit(word, 7), user: bit(word, 6) },
                Stage::Two => Permissions { read: bit(word, 6), write: bit(word, 7), user: true },
            };
            let global = self.stage == Stage::One && !bit(word, 11);
            let output = self.address(word, self.shift(level));
            return Descriptor::Leaf { output, permissions, accessed: bit(word, 10), global };
        }
        if kind != 3 || level == 3 {
            return Descriptor::Invalid;
        }
        let limit = if self.stage == Stage::One && self.hierarchical {
            Permissions { read: true, write: !bit(word, 62), user: !bit(word, 61) }
        } else {
            Permissions::ALL
        };
        Descriptor::Table { next: self.address(word, self.granule), limit }
    }
}

impl Permissions {
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            read: self.read && other.read,
            write: self.write && other.write,
            user: self.user && other.user,
        }
    }
}

impl Transit<'_> {
    /// Walks `table` for `input`, from the deepest table that is cached. `class` says what the input address is of.
    pub(super) fn walk(
        &mut self,
        stages: &Stages,
        table: &Table,
        tag: Tag,
        input: u64,
        class: u64,
    ) -> Result<Page, Refusal> {
        let offset = input & (u64::MAX >> (64 - table.input_bits));
        let translation = |number| table.refuse(number, class, input);
        let cached = self.cached(|caches| caches.table(tag, input));
        let cached = cached.filter(|entry| entry.granule == table.granule);
        let (mut level, mut next, mut limit) = match cached {
            Some(entry) => (entry.level + 1, entry.next, entry.limit),
            None => (table.start, table.root, Permissions::ALL),
        };
        loop {
            let shift = table.shift(level);
            // The first table may be several side by side: there the index has all remaining bits.
            let bits =
                if level == table.start { table.input_bits - shift } else { table.granule - 3 };
            let index = offset >> shift & ((1 << bits) - 1);
            let word = self.descriptor(stages, table, next + 8 * index, class)?;
            match table.decode(word, level) {
                Descriptor::Invalid => return Err(translation(number::F_TRANSLATION)),
                Descriptor::Table { next: below, limit: own } => {
                    if below >> table.output_bits != 0 {
                        return Err(translation(number::F_ADDR_SIZE));
                    }
                    limit = limit.and(own);
                    next = below;
                    let entry = TableEntry { next, level, granule: table.granule, limit };
                    self.fills.push(Fill::Table { tag, size: shift, address: input, entry });
                    level += 1;
                }
                Descriptor::Leaf { output, permissions, accessed, global } => {
                    if output >> table.output_bits != 0 {
                        return Err(translation(number::F_ADDR_SIZE));
                    }
                    if !accessed && table.access_flag_faults {
                        return Err(translation(number::F_ACCESS));
                    }
                    let permissions = permissions.and(limit);
                    return Ok(Page { output, size: shift, level, permissions, global });
                }
            }
        }
    }

    /// Reads one descriptor; those of stage 1 lie behind stage 2.
    fn descriptor(
        &mut self,
        stages: &Stages,
        table: &Table,
        address: u64,
        class: u64,
    ) -> Result<u64, Refusal> {
        let (physical, class) = match table.stage {
            Stage::One => (self.physical_of(stages, address, class::TT)?, class::TT),
            Stage::Two => (address, class),
        };
        self.descriptors += 1;
        self.word(physical, "descriptor")
            .map_err(|_| table.refuse(number::F_WALK_EABT, class, physical))
    }
}
