//! What the unit remembers: configuration entries and translations. Nothing leaves except by a command that covers it.

use crate::vmsa::{Leaf, TableEntry, Tag, Translations};
use std::collections::BTreeMap;

/// Something that a walk found and that may be kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill {
    StreamDescriptor { index: u32, word: u64 },
    Stream { stream: u32, entry: [u64; 8] },
    ContextDescriptorTable { stream: u32, index: u32, word: u64 },
    Context { stream: u32, substream: u32, entry: [u64; 8] },
    Table { tag: Tag, size: u32, address: u64, entry: TableEntry },
    Leaf { tag: Tag, size: u32, address: u64, leaf: Leaf },
}

/// Every cache of the unit.
#[derive(Clone, Debug, Default)]
pub(super) struct Caches {
    stream_descriptors: BTreeMap<u32, u64>,
    streams: BTreeMap<u32, [u64; 8]>,
    context_tables: BTreeMap<(u32, u32), u64>,
    contexts: BTreeMap<(u32, u32), [u64; 8]>,
    pub(super) translations: Translations,
    /// StreamID bits below a level 1 descriptor, as of the last one cached.
    split: u32,
}

impl Caches {
    pub(super) fn stream_descriptor(&self, index: u32) -> Option<u64> {
        self.stream_descriptors.get(&index).copied()
    }

    pub(super) fn stream(&self, stream: u32) -> Option<[u64; 8]> {
        self.streams.get(&stream).copied()
    }

    pub(super) fn context_table(&self, stream: u32, index: u32) -> Option<u64> {
        self.context_tables.get(&(stream, index)).copied()
    }

    pub(super) fn context(&self, stream: u32, substream: u32) -> Option<[u64; 8]> {
        self.contexts.get(&(stream, substream)).copied()
    }

    pub(super) fn set_split(&mut self, split: u32) {
        self.split = split;
    }

    /// Keeps what a walk found. Gives the address of a translation that overlaps one of another size.
    pub(super) fn fill(&mut self, fill: Fill) -> Option<u64> {
        match fill {
            Fill::StreamDescriptor { index, word } => {
                self.stream_descriptors.insert(index, word);
            }
            Fill::Stream { stream, entry } => {
                self.streams.insert(stream, entry);
            }
            Fill::ContextDescriptorTable { stream, index, word } => {
                self.context_tables.insert((stream, index), word);
            }
            Fill::Context { stream, substream, entry } => {
                self.contexts.insert((stream, substream), entry);
            }
            Fill::Table { tag, size, address, entry } => {
                self.translations.keep_table(tag, size, address, entry);
            }
            Fill::Leaf { tag, size, address, leaf } => {
                return self.translations.keep(tag, size, address, leaf).then_some(address);
            }
        }
        None
    }

    /// CMD_CFGI_STE: the entry, all its contexts, and without `leaf` the descriptor above it (§4.3.1).
    pub(super) fn forget_stream(&mut self, stream: u32, leaf: bool) {
        self.streams.remove(&stream);
        self.forget_contexts(stream);
        if !leaf {
            self.stream_descriptors.remove(&(stream >> self.split));
        }
    }

    /// CMD_CFGI_STE_RANGE: an aligned range of `2^bits` streams, descriptors included (§4.3.2).
    pub(super) fn forget_streams(&mut self, stream: u32, bits: u32) {
        let mask = u32::MAX.checked_shl(bits).unwrap_or(0);
        let inside = |id: u32| id & mask == stream & mask;
        self.streams.retain(|id, _| !inside(*id));
        self.contexts.retain(|(id, _), _| !inside(*id));
        self.context_tables.retain(|(id, _), _| !inside(*id));
        let (first, last) = (stream & mask, stream | !mask);
        let split = self.split;
        self.stream_descriptors
            .retain(|index, _| !(first >> split..=last >> split).contains(index));
    }

    /// CMD_CFGI_CD (§4.3.3).
    pub(super) fn forget_context(&mut self, stream: u32, substream: u32, leaf: bool) {
        self.contexts.remove(&(stream, substream));
        if !leaf {
            // The split of the table is not in the command: every descriptor of the stream goes.
            self.context_tables.retain(|(id, _), _| *id != stream);
        }
    }

    /// CMD_CFGI_CD_ALL (§4.3.4).
    pub(super) fn forget_contexts(&mut self, stream: u32) {
        self.contexts.retain(|(id, _), _| *id != stream);
        self.context_tables.retain(|(id, _), _| *id != stream);
    }
}
