//! Which group and which devices a stream belongs to, also where streams are compared under masks.
//!
//! Streams are kept by mask: hardware that has masks uses a handful of different ones, so looking a stream up costs one hash look-up for each of these.

use crate::description::{FwNode, FwStream};
use crate::member::DeviceId;
use crate::stream::StreamSpec;
use alloc::vec::Vec;
use hashbrown::HashMap;
use smallvec::SmallVec;

/// One set of ids, as described.
#[derive(Debug)]
struct Entry<G, D> {
    group: G,
    /// Whose it is; never empty.
    devices: SmallVec<[D; 1]>,
    /// Whether everything that overlaps it and was there before is in the same group. What comes later joins that group by itself.
    settled: bool,
}

/// The streams of one IOMMU that have the same mask.
#[derive(Debug)]
struct Class<G, D> {
    mask: u32,
    /// By id without the bits of the mask.
    entries: HashMap<u32, Entry<G, D>>,
}

impl<G, D> Class<G, D> {
    /// Gives `each` every entry that overlaps `stream`.
    fn overlapping<'a>(&'a self, stream: StreamSpec, mut each: impl FnMut(&'a Entry<G, D>)) {
        let id = stream.id.raw();
        // The bits in which the entries' ids may differ from the stream's.
        let open = stream.mask & !self.mask;
        if open.count_ones() > self.entries.len().checked_ilog2().unwrap_or(0) {
            let hit = |key: &u32| (key ^ id) & !(stream.mask | self.mask) == 0;
            self.entries.iter().filter(|(key, _)| hit(key)).for_each(|(_, entry)| each(entry));
            return;
        }
        let mut subset = 0u32;
        loop {
            let key = (id & !open | subset) & !self.mask;
            if let Some(entry) = self.entries.get(&key) {
                each(entry);
            }
            subset = subset.wrapping_sub(open) & open;
            if subset == 0 {
                return;
            }
        }
    }
}

/// An index that finds overlapping streams, each with its group (`G`) and the devices (`D`) that emit it. Groups are formed by it: by the core while devices
/// come and go, and by a reader of descriptions in advance.
#[derive(Debug)]
pub struct StreamIndex<G, D = DeviceId> {
    nodes: HashMap<FwNode, Vec<Class<G, D>>>,
}

impl<G: Clone, D: Copy + Ord> Default for StreamIndex<G, D> {
    fn default() -> Self {
        Self::new()
    }
}

impl<G: Clone, D: Copy + Ord> StreamIndex<G, D> {
    /// An empty index.
    pub fn new() -> Self {
        Self { nodes: HashMap::new() }
    }

    fn classes(&self, node: FwNode) -> &[Class<G, D>] {
        self.nodes.get(&node).map_or(&[], Vec::as_slice)
    }

    /// Gives `each` the group of every stream that overlaps `stream`. A settled entry that covers it answers for all.
    pub fn groups(&self, stream: &FwStream, mut each: impl FnMut(&G)) {
        let (classes, spec) = (self.classes(stream.iommu), stream.spec());
        let covering = classes.iter().find_map(|class| {
            let entry = class.entries.get(&(spec.id.raw() & !class.mask));
            entry.filter(|entry| spec.mask & !class.mask == 0 && entry.settled)
        });
        match covering {
            Some(entry) => each(&entry.group),
            None => classes.iter().for_each(|class| {
                class.overlapping(spec, |entry| each(&entry.group));
            }),
        }
    }

    /// Notes that `device`, of `group`, emits `streams`. A stream that is known keeps its group.
    pub fn add(&mut self, streams: &[FwStream], device: D, group: &G) {
        for stream in streams {
            let classes = self.nodes.entry(stream.iommu).or_default();
            let index = match classes.iter().position(|class| class.mask == stream.mask) {
                Some(index) => index,
                None => {
                    classes.push(Class { mask: stream.mask, entries: HashMap::new() });
                    classes.len() - 1
                }
            };
            let key = stream.id.raw() & !stream.mask;
            let entry = classes[index].entries.entry(key).or_insert_with(|| Entry {
                group: group.clone(),
                devices: SmallVec::new(),
                settled: false,
            });
            if entry.devices.last() != Some(&device) {
                entry.devices.push(device);
            }
        }
    }

    /// Notes that everything that overlaps `streams` is in one group with them.
    pub fn settle(&mut self, streams: &[FwStream]) {
        for stream in streams {
            if let Some(entry) = self.entry(stream) {
                entry.settled = true;
            }
        }
    }

    /// Forgets `device`, and what nobody else emits.
    pub fn remove(&mut self, streams: &[FwStream], device: D) {
        for stream in streams {
            let Some(entry) = self.entry(stream) else { continue };
            entry.devices.retain(|other| *other != device);
            if entry.devices.is_empty() {
                self.forget(stream);
            }
        }
    }

    fn entry(&mut self, stream: &FwStream) -> Option<&mut Entry<G, D>> {
        let classes = self.nodes.get_mut(&stream.iommu)?;
        let class = classes.iter_mut().find(|class| class.mask == stream.mask)?;
        class.entries.get_mut(&(stream.id.raw() & !stream.mask))
    }

    fn forget(&mut self, stream: &FwStream) {
        let Some(classes) = self.nodes.get_mut(&stream.iommu) else { return };
        if let Some(class) = classes.iter_mut().find(|class| class.mask == stream.mask) {
            class.entries.remove(&(stream.id.raw() & !stream.mask));
        }
        classes.retain(|class| !class.entries.is_empty());
        if classes.is_empty() {
            self.nodes.remove(&stream.iommu);
        }
    }

    /// The first device that emits `stream`.
    pub fn device(&self, stream: &FwStream) -> Option<D> {
        let hits = self
            .classes(stream.iommu)
            .iter()
            .filter_map(|class| class.entries.get(&(stream.id.raw() & !class.mask)));
        hits.flat_map(|entry| entry.devices.iter().copied()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_addr::StreamId;

    const NODE: FwNode = FwNode(1);

    fn stream(id: u32, mask: u32) -> FwStream {
        FwStream { iommu: NODE, id: StreamId::new(id), mask }
    }

    /// Against the definition: two streams overlap if they agree in the bits that neither ignores.
    #[test]
    fn the_index_finds_what_comparing_each_with_each_finds() {
        let mut state = 1u32;
        let mut draw = move |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        for _ in 0..200 {
            let streams: Vec<_> = (0..60)
                .map(|_| stream(draw(64), [0, 0, 0, 7, 0x38, draw(64)][draw(6) as usize]))
                .collect();
            let mut index = StreamIndex::new();
            for (number, one) in streams.iter().enumerate() {
                index.add(&[*one], DeviceId(number as u64), &(one.id.raw() & !one.mask, one.mask));
            }
            for asked in (0..64).map(|id| stream(id, 0)).chain(streams.iter().copied()) {
                let mut found = Vec::new();
                index.groups(&asked, |group| found.push(*group));
                let all = streams.iter().filter(|one| one.overlaps(&asked));
                let mut right: Vec<_> = all.map(|s| (s.id.raw() & !s.mask, s.mask)).collect();
                found.sort_unstable();
                right.sort_unstable();
                right.dedup();
                assert_eq!(found, right);
                let first = streams.iter().position(|one| one.overlaps(&asked));
                if asked.mask == 0 {
                    assert_eq!(index.device(&asked), first.map(|it| DeviceId(it as u64)));
                }
            }
        }
    }

    #[test]
    fn a_settled_stream_answers_for_those_inside_it() {
        let mut index = StreamIndex::new();
        index.add(&[stream(0x400, 0xff)], DeviceId(0), &'a');
        index.add(&[stream(0x401, 0)], DeviceId(1), &'b');
        let found = |index: &StreamIndex<char>| {
            let mut found = Vec::new();
            index.groups(&stream(0x400, 0x3), |group| found.push(*group));
            found.sort_unstable();
            found
        };
        assert_eq!(found(&index), ['a', 'b'], "the first is still on its way into its group");
        index.settle(&[stream(0x400, 0xff)]);
        assert_eq!(found(&index), ['a']);
    }

    #[test]
    fn what_nobody_emits_is_forgotten() {
        let mut index = StreamIndex::new();
        let both = [stream(1, 0), stream(0x10, 0xf)];
        index.add(&both, DeviceId(7), &());
        index.add(&both[..1], DeviceId(8), &());
        index.remove(&both, DeviceId(7));
        assert_eq!(index.device(&stream(1, 0)), Some(DeviceId(8)));
        assert_eq!(index.device(&stream(0x12, 0)), None);
        index.remove(&both[..1], DeviceId(8));
        assert!(index.nodes.is_empty());
    }
}
