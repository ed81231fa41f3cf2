//! Walking translation tables (VMSAv8-64 and AArch32 long descriptors, Arm ARM D8 and G5), for either stage.

/// Who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permissions {
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// Unprivileged accesses too.
    pub(crate) user: bool,
}

impl Permissions {
    pub(crate) const ALL: Self = Self { read: true, write: true, user: true };
}

/// A table descriptor: where the next table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableEntry {
    /// Address of the table that it points to.
    pub(crate) next: u64,
    /// Level of the descriptor; the table is one level deeper.
    pub(crate) level: u32,
    pub(crate) granule: u32,
    /// What hierarchical attributes leave of the permissions below.
    pub(crate) limit: Permissions,
}

/// Which stage a table belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    One,
    Two,
}

/// Where a walk begins, and by which rules it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) stage: Stage,
    pub(crate) root: u64,
    /// log2 of the granule: 12, 14 or 16.
    pub(crate) granule: u32,
    /// Bits of an input address.
    pub(crate) input_bits: u32,
    /// Level of the first table.
    pub(crate) start: u32,
    /// Bits of an output address.
    pub(crate) output_bits: u32,
    /// A clear access flag is a fault.
    pub(crate) access_flag_faults: bool,
    /// Table descriptors limit the permissions below them.
    pub(crate) hierarchical: bool,
    /// Walks are disabled: every miss is a translation fault.
    pub(crate) disabled: bool,
    /// Faults of this stage are reported.
    pub(crate) record: bool,
}

/// What a walk ends with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    /// Output address of the page or block.
    pub(crate) output: u64,
    /// log2 of its size.
    pub(crate) size: u32,
    pub(crate) level: u32,
    pub(crate) permissions: Permissions,
    pub(crate) global: bool,
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
    pub(crate) fn shift(&self, level: u32) -> u32 {
        self.granule + (self.granule - 3) * (3 - level)
    }

    /// Whether `input` lies in the range that the table translates (of the upper range: below its own size, from the top).
    pub(crate) fn covers(&self, input: u64, upper: bool) -> bool {
        let rest = if upper { !input } else { input };
        rest.checked_shr(self.input_bits).unwrap_or(0) == 0
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
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            read: self.read && other.read,
            write: self.write && other.write,
            user: self.user && other.user,
        }
    }
}

/// Why a walk found no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WalkFault {
    /// The entry is not valid.
    Translation,
    /// An address in it is wider than the output size.
    AddressSize,
    /// Its access flag is clear.
    AccessFlag,
}

/// The unit that walks: it reads the descriptors, and may keep those that it passes.
pub(crate) trait Walker {
    /// Why a descriptor cannot be read, and why a walk ends without a page.
    type Refusal;

    /// Reads the descriptor at `address`; `level` is that of its table.
    fn descriptor(&mut self, address: u64, level: u32) -> Result<u64, Self::Refusal>;
    /// A table descriptor that covers 2^`size` bytes was passed.
    fn passed(&mut self, size: u32, entry: TableEntry);
    /// The walk ended at `level` without a page.
    fn fault(&self, fault: WalkFault, level: u32) -> Self::Refusal;
}

impl Table {
    /// Walks for `input`, from the deepest table that is `cached`.
    pub(crate) fn walk<W: Walker>(
        &self,
        input: u64,
        cached: Option<TableEntry>,
        walker: &mut W,
    ) -> Result<Page, W::Refusal> {
        let offset = input & (u64::MAX >> (64 - self.input_bits));
        let cached = cached.filter(|entry| entry.granule == self.granule);
        let (mut level, mut next, mut limit) = match cached {
            Some(entry) => (entry.level + 1, entry.next, entry.limit),
            None => (self.start, self.root, Permissions::ALL),
        };
        loop {
            let shift = self.shift(level);
            // The first table may be several side by side: there the index has all remaining bits.
            let bits = if level == self.start { self.input_bits - shift } else { self.granule - 3 };
            let index = offset >> shift & ((1 << bits) - 1);
            let word = walker.descriptor(next + 8 * index, level)?;
            match self.decode(word, level) {
                Descriptor::Invalid => return Err(walker.fault(WalkFault::Translation, level)),
                Descriptor::Table { next: below, limit: own } => {
                    if below >> self.output_bits != 0 {
                        return Err(walker.fault(WalkFault::AddressSize, level));
                    }
                    limit = limit.and(own);
                    next = below;
                    walker.passed(shift, TableEntry { next, level, granule: self.granule, limit });
                    level += 1;
                }
                Descriptor::Leaf { output, permissions, accessed, global } => {
                    if output >> self.output_bits != 0 {
                        return Err(walker.fault(WalkFault::AddressSize, level));
                    }
                    if !accessed && self.access_flag_faults {
                        return Err(walker.fault(WalkFault::AccessFlag, level));
                    }
                    let permissions = permissions.and(limit);
                    return Ok(Page { output, size: shift, level, permissions, global });
                }
            }
        }
    }
}
