//! Turning what an unmap owes into TLB invalidations (§3.17, §4.4): one batch and exactly one CMD_SYNC a call.

use crate::command::Command;
use crate::context::Name;
use portcullis_addr::Iova;
use portcullis_pgtable::{FlushRange, IotlbGather};

#[cfg(test)]
#[path = "invalidate_tests.rs"]
mod tests;

/// Without range commands, more single addresses than this are answered by dropping the whole space: refilling its TLB entries costs less
/// than sending so many commands.
pub(crate) const MAX_SINGLE: u64 = 64;
/// The most units that one range command covers: NUM has five bits (§4.4.1.1).
const MAX_UNITS: u64 = 32;
/// The largest exponent that SCALE can hold and that is any use in 48 bits.
const MAX_SCALE: u32 = 31;

/// Where the smallest pages stand, as TTL counts levels (§4.4.1).
const LAST_LEVEL: u64 = 3;

/// The commands that a debt needs, without the CMD_SYNC.
#[derive(Clone, Debug)]
pub(crate) enum Invalidation {
    /// Drop the whole space.
    Space(Name),
    /// One command per leaf.
    Singles(Singles),
    /// Range commands.
    Ranges(Ranges),
}

#[derive(Clone, Debug)]
pub(crate) struct Singles {
    name: Name,
    next: u64,
    left: u64,
    stride: u64,
    leaf: bool,
}

/// Pieces of `units << scale` granules, the low bits of the length first.
#[derive(Clone, Debug)]
pub(crate) struct Ranges {
    name: Name,
    next: u64,
    /// In granules.
    left: u64,
    leaf: bool,
    level: u64,
}

/// The cheapest commands that pay `gather`; `None` where nothing is owed.
pub(crate) fn invalidation(name: Name, gather: &IotlbGather, ranges: bool) -> Option<Invalidation> {
    if gather.is_empty() {
        return None;
    }
    let Some(range) = gather.range() else { return Some(Invalidation::Space(name)) };
    let leaves = Leaves::of(&range);
    if ranges {
        return Some(leaves.pieces(name).map_or(Invalidation::Space(name), Invalidation::Ranges));
    }
    let Leaves { start, count, log2, leaf } = leaves;
    Some(if count > MAX_SINGLE {
        Invalidation::Space(name)
    } else {
        Invalidation::Singles(Singles { name, next: start, left: count, stride: 1 << log2, leaf })
    })
}

/// The one command that pays `gather`, where one is enough for it and it is not that for the whole space; the others are [`invalidation`]'s.
#[inline(always)]
pub(crate) fn single(name: Name, gather: &IotlbGather, ranges: bool) -> Option<Command> {
    let range = gather.as_range()?;
    let granule = name.granule();
    // What most debts are: a few smallest pages, which the unit counts as it is told.
    let but_one = (range.last.raw() - range.start.raw()) >> granule.size.log2();
    let few = but_one == 0 || ranges && but_one < MAX_UNITS;
    if few && range.leaf == granule.size && !range.tables_freed {
        let command = address(name, range.start.raw(), true);
        return Some(match ranges {
            true => command.over(granule.command_code, but_one, 0, LAST_LEVEL),
            false => command,
        });
    }
    single_of_any(name, range, ranges)
}

#[inline(never)]
fn single_of_any(name: Name, range: &FlushRange, ranges: bool) -> Option<Command> {
    let leaves = Leaves::of(range);
    if !ranges {
        return (leaves.count == 1).then(|| address(name, leaves.start, leaves.leaf));
    }
    let Ranges { next, left, leaf, level, .. } = leaves.pieces(name)?;
    let scale = left.trailing_zeros();
    let units = left >> scale;
    let fits = units < MAX_UNITS && scale <= MAX_SCALE;
    fits.then(|| piece((name, next), (units, scale), leaf, level))
}

/// The command for `units << scale` granules from an address on.
#[inline]
fn piece((name, at): (Name, u64), (units, scale): (u64, u32), leaf: bool, level: u64) -> Command {
    let command = address(name, at, leaf);
    // A range of one granule without a level hint is a reserved encoding (§4.4.1.1): the plain form means the same.
    if units << scale == 1 && level == 0 {
        return command;
    }
    command.over(name.granule().command_code, units - 1, u64::from(scale), level)
}

/// The leaves of a range.
struct Leaves {
    start: u64,
    count: u64,
    /// log2 of the bytes of each.
    log2: u8,
    /// Whether no table went with them.
    leaf: bool,
}

impl Leaves {
    #[inline]
    fn of(range: &FlushRange) -> Self {
        let log2 = range.leaf.log2();
        let start = range.start.raw() >> log2 << log2;
        let count = ((range.last.raw() - start) >> log2) + 1;
        Self { start, count, log2, leaf: !range.tables_freed }
    }

    /// As range commands; `None` where they are too many.
    #[inline]
    fn pieces(&self, name: Name) -> Option<Ranges> {
        let scale = self.log2.saturating_sub(name.granule().size.log2());
        let level = if self.leaf { level(self.log2, name) } else { 0 };
        let left = self.count.checked_shl(u32::from(scale))?;
        let whole = left >> scale == self.count;
        whole.then_some(Ranges { name, next: self.start, left, leaf: self.leaf, level })
    }
}

/// The level at which leaves of the range's size stand: each level above 3 resolves three bits less than the granule has (Arm DDI 0487, D8.2).
#[inline]
fn level(leaf_log2: u8, name: Name) -> u64 {
    let granule = name.granule().size.log2();
    match leaf_log2.saturating_sub(granule) {
        0 => LAST_LEVEL,
        above => LAST_LEVEL.saturating_sub(u64::from(above / (granule - 3))),
    }
}

impl Singles {
    /// How many commands it gives.
    pub(crate) fn total(&self) -> usize {
        self.left as usize
    }
}

impl Ranges {
    /// How many commands it gives: at most one per five bits of the length, so counting them costs next to nothing.
    pub(crate) fn total(&self) -> usize {
        self.clone().fold(0, |count, _| count + 1)
    }
}

/// Drops everything of a space.
#[inline]
pub(crate) fn whole(name: Name) -> Command {
    if name.stage2 { Command::tlbi_vmid(name.id) } else { Command::tlbi_asid(name.id) }
}

#[inline]
fn address(name: Name, at: u64, leaf: bool) -> Command {
    let at = Iova::new(at);
    if name.stage2 {
        Command::tlbi_ipa(name.id, at, leaf)
    } else {
        Command::tlbi_va(name.id, at, leaf)
    }
}

impl Iterator for Singles {
    type Item = Command;

    #[inline]
    fn next(&mut self) -> Option<Command> {
        self.left = self.left.checked_sub(1)?;
        let command = address(self.name, self.next, self.leaf);
        self.next = self.next.wrapping_add(self.stride);
        Some(command)
    }
}

impl Iterator for Ranges {
    type Item = Command;

    #[inline]
    fn next(&mut self) -> Option<Command> {
        if self.left == 0 {
            return None;
        }
        // The low five bits of what is left, from its lowest set bit on: the next piece then has a larger scale.
        let scale = self.left.trailing_zeros().min(MAX_SCALE);
        let low = (self.left >> scale) % MAX_UNITS;
        let units = if low == 0 { MAX_UNITS } else { low };
        let granules = units << scale;
        let command = piece((self.name, self.next), (units, scale), self.leaf, self.level);
        self.next = self.next.wrapping_add(granules << self.name.granule().size.log2());
        self.left -= granules;
        Some(command)
    }
}
