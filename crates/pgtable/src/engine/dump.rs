//! A tree as text.

use super::IoPageTable;
use super::idle::unreachable;
use super::reclaim::Node;
use super::walk::entry_at;
use crate::geometry::leaf_size;
use crate::{Format, Level, PageTable};
use core::fmt;
use portcullis_addr::{PhysAddr, Prot};
use portcullis_platform::DmaMemory;

/// Leaves of one size that follow each other in both address spaces and allow the same.
#[derive(Clone, Copy)]
struct Leaves {
    iova: u64,
    phys: u64,
    size: u32,
    count: u64,
    prot: Prot,
}

impl Leaves {
    /// Adds `next`, if it goes on where these end.
    fn join(&mut self, next: &Self) -> bool {
        let bytes = self.count << self.size;
        let goes_on = self.size == next.size
            && self.prot == next.prot
            && self.iova.wrapping_add(bytes) == next.iova
            && self.phys.wrapping_add(bytes) == next.phys;
        self.count += u64::from(goes_on);
        goes_on
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, indent: usize) -> fmt::Result {
        let Self { iova, phys, size, count, prot } = *self;
        let last = iova + ((count << size) - 1);
        write!(f, "\n{:indent$}{iova:#x}..={last:#x} -> {phys:#x}  {count} x ", "")?;
        write!(f, "{}  ", leaf_size(size))?;
        let letters = [(Prot::READ, 'r'), (Prot::WRITE, 'w')];
        letters.iter().try_for_each(|(flag, letter)| {
            write!(f, "{}", if prot.contains(*flag) { *letter } else { '-' })
        })?;
        let words = [
            (Prot::CACHE, " cached"),
            (Prot::MMIO, " device"),
            (Prot::PRIV, " privileged"),
            (Prot::NOEXEC, " no-exec"),
        ];
        let said = words.iter().filter(|(flag, _)| prot.contains(*flag));
        said.into_iter().try_for_each(|(_, word)| f.write_str(word))
    }
}

impl<F: Format, M: DmaMemory> IoPageTable<F, M> {
    pub(super) fn write_tree(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (config, top) = (self.config(), self.top());
        write!(
            f,
            "{:?}: pages of {}, {} bits in, {} out, {} levels, {} table pages",
            config.format,
            config.granule,
            config.input_bits,
            config.output_bits,
            top.level.number + 1,
            self.table_pages(),
        )?;
        self.write_table(f, Node { table: top.root, level: top.level, base: 0 }, 0)
    }

    /// One table and what is below it.
    fn write_table(&self, f: &mut fmt::Formatter<'_>, node: Node, indent: usize) -> fmt::Result {
        let Node { table, level, base } = node;
        write!(f, "\n{:indent$}table {table}, from {base:#x}", "")?;
        let indent = indent + 2;
        let (mut run, mut index) = (None::<Leaves>, 0);
        while index < self.geometry.entries(level) {
            let entry = self.memory.load64(entry_at(table, index));
            let iova = base + ((index as u64) << level.shift);
            let leaf = self.format.is_leaf(entry, level).then(|| self.leaves(entry, iova, level));
            index += leaf.map_or(1, |leaf| 1 << (leaf.size - level.shift));
            let joined = run.as_mut().zip(leaf.as_ref()).is_some_and(|(run, leaf)| run.join(leaf));
            if joined {
                continue;
            }
            run.map_or(Ok(()), |run| run.write(f, indent))?;
            run = leaf;
            if let Some(idle) = unreachable(entry).filter(|_| !level.is_last()) {
                write!(f, "\n{:indent$}table {idle}, from {iova:#x}: idle", "")?;
            } else if leaf.is_none() && !level.is_last() && self.format.is_table(entry, level) {
                let below = self.geometry.level(level.number - 1);
                let child = PhysAddr::new(self.format.table_address(entry));
                self.write_table(f, Node { table: child, level: below, base: iova }, indent)?;
            }
        }
        run.map_or(Ok(()), |run| run.write(f, indent))
    }

    /// The leaf that `entry`, which covers `iova`, begins.
    fn leaves(&self, entry: u64, iova: u64, level: Level) -> Leaves {
        let size = self.format.leaf_size(entry, level);
        let phys = self.format.leaf_address(entry, level);
        Leaves { iova, phys, size, count: 1, prot: self.format.prot(entry) }
    }
}
