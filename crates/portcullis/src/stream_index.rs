//! Which group and which devices a stream belongs to, also where streams are compared under masks.
//!
//! Streams are kept by mask: hardware that has masks uses a handful of different ones, so comparing a stream costs one hash look-up for each of these, and for a mask narrower than its own one for
//! each id that it covers there (or as many as there are ids, if these are fewer). Descriptions that are made to cost more do not: an IOMMU with more than [`MOST_MASKS`] different masks is
//! *crowded*, and all its clients form one group. So a stream costs at most `MOST_MASKS + 1` look-ups and those narrower ids, and becoming crowded costs one look at each of its streams.

use crate::description::{FwNode, FwStream};
use crate::member::DeviceId;
use crate::stream::StreamSpec;
use alloc::collections::BTreeMap;
use hashbrown::HashMap;
use smallvec::SmallVec;

/// With more different masks than this, besides exact ids, an IOMMU is crowded: all its clients form one group, whatever the order in which they came. Real descriptions have below 10, and an
/// SMMUv2 at most 128 registers to match streams by (Arm IHI 0062, `SMMU_IDR0.NUMSMRG`).
pub const MOST_MASKS: usize = 32;

/// One set of ids, as described.
#[derive(Debug)]
struct Entry<G, D> {
    group: G,
    /// Whose it is; never empty.
    devices: SmallVec<[D; 1]>,
    /// Whether everything that overlaps it and was there before is in the same group. What comes later joins that group by itself.
    settled: bool,
    /// Whether the device that brought it found the IOMMU crowded, and so was told of all its groups.
    met_all: bool,
}

/// The streams of one IOMMU that have the same mask, by id without the bits of the mask.
type Class<G, D> = HashMap<u32, Entry<G, D>>;

/// The streams of one IOMMU.
#[derive(Debug)]
struct Streams<G, D> {
    /// By mask.
    classes: BTreeMap<u32, Class<G, D>>,
    /// The group of all clients of a crowded IOMMU, once they have become one.
    crowd: Option<G>,
}

impl<G, D> Default for Streams<G, D> {
    fn default() -> Self {
        Self { classes: BTreeMap::new(), crowd: None }
    }
}

impl<G, D> Streams<G, D> {
    /// Whether the IOMMU is crowded with the masks of `more` besides its own.
    fn is_crowded<'a>(&self, more: impl Iterator<Item = &'a FwStream>) -> bool {
        let mut new: SmallVec<[u32; 4]> = SmallVec::new();
        let known = self.classes.len() - usize::from(self.classes.contains_key(&0));
        for stream in more {
            let is_new = stream.mask != 0 && !self.classes.contains_key(&stream.mask);
            // At most so many are ever compared.
            if is_new && known + new.len() <= MOST_MASKS && !new.contains(&stream.mask) {
                new.push(stream.mask);
            }
        }
        known + new.len() > MOST_MASKS
    }

    fn entries(&self) -> impl Iterator<Item = &Entry<G, D>> {
        self.classes.values().flat_map(HashMap::values)
    }
}

/// Gives `each` every entry of a class with `mask` that overlaps `stream`; returns how many were looked for.
fn overlapping<'a, G, D>(
    (mask, class): (u32, &'a Class<G, D>),
    stream: StreamSpec,
    mut each: impl FnMut(&'a Entry<G, D>),
) -> usize {
    let id = stream.id.raw();
    // The bits in which the entries' ids may differ from the stream's.
    let open = stream.mask & !mask;
    if open.count_ones() > class.len().checked_ilog2().unwrap_or(0) {
        let hit = |key: &u32| (key ^ id) & !(stream.mask | mask) == 0;
        class.iter().filter(|(key, _)| hit(key)).for_each(|(_, entry)| each(entry));
        return class.len();
    }
    let mut subset = 0u32;
    let mut looks = 0;
    loop {
        let key = (id & !open | subset) & !mask;
        looks += 1;
        if let Some(entry) = class.get(&key) {
            each(entry);
        }
        subset = subset.wrapping_sub(open) & open;
        if subset == 0 {
            return looks;
        }
    }
}

/// An index that finds overlapping streams, each with its group (`G`) and the devices (`D`) that emit it. Groups are formed by it: by the core while devices
/// come and go, and by a reader of descriptions in advance.
#[derive(Debug)]
pub struct StreamIndex<G, D = DeviceId> {
    nodes: HashMap<FwNode, Streams<G, D>>,
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

    /// Gives `each` the groups that a device with `streams` must share: of every stream that overlaps one of them (one that covers it and is settled answers for all), and of all streams of an IOMMU
    /// that is [crowded](MOST_MASKS) with these. Returns how many look-ups that took.
    pub fn groups(&self, streams: &[FwStream], mut each: impl FnMut(&G)) -> usize {
        let mut looks = 0;
        for (at, stream) in streams.iter().enumerate() {
            let Some(node) = self.nodes.get(&stream.iommu) else { continue };
            let here = || streams.iter().filter(|other| other.iommu == stream.iommu);
            let first = !streams[..at].iter().any(|other| other.iommu == stream.iommu);
            // Alone it cannot be crowding what its own mask does not.
            let crowded = match streams {
                [_] => node.is_crowded(core::iter::once(stream)),
                _ => node.is_crowded(here()),
            };
            looks += match (crowded, &node.crowd) {
                (false, _) => node.look(stream.spec(), &mut each),
                (true, _) if !first => 0,
                (true, Some(crowd)) => {
                    each(crowd);
                    1
                }
                (true, None) => node.entries().map(|entry| each(&entry.group)).count(),
            };
        }
        looks
    }

    /// Notes that `device`, of `group`, emits `streams`, for which [`groups`](Self::groups) was asked just before. A stream that is known keeps its group.
    pub fn add(&mut self, streams: &[FwStream], device: D, group: &G) {
        for stream in streams {
            let class = self.nodes.entry(stream.iommu).or_default();
            let class = class.classes.entry(stream.mask).or_default();
            let entry = class.entry(stream.id.raw() & !stream.mask).or_insert_with(|| Entry {
                group: group.clone(),
                devices: SmallVec::new(),
                settled: false,
                met_all: false,
            });
            if entry.devices.last() != Some(&device) {
                entry.devices.push(device);
            }
        }
        for stream in streams {
            let Some(node) = self.nodes.get_mut(&stream.iommu) else { continue };
            let crowded = node.is_crowded(core::iter::empty());
            if let Some(entry) = entry(node, stream) {
                entry.met_all = crowded;
            }
        }
    }

    /// Notes that everything which [`groups`](Self::groups) named for `streams` is in one group with them.
    pub fn settle(&mut self, streams: &[FwStream]) {
        for stream in streams {
            let Some(node) = self.nodes.get_mut(&stream.iommu) else { continue };
            let crowded = node.is_crowded(core::iter::empty());
            let Some(entry) = entry(node, stream) else { continue };
            entry.settled = true;
            if crowded && entry.met_all {
                let group = entry.group.clone();
                node.crowd.get_or_insert(group);
            }
        }
    }

    /// Forgets `device`, and what nobody else emits.
    pub fn remove(&mut self, streams: &[FwStream], device: D) {
        for stream in streams {
            let Some(node) = self.nodes.get_mut(&stream.iommu) else { continue };
            let Some(entry) = entry(node, stream) else { continue };
            entry.devices.retain(|other| *other != device);
            if entry.devices.is_empty() {
                self.forget(stream);
            }
        }
    }

    fn forget(&mut self, stream: &FwStream) {
        let Some(node) = self.nodes.get_mut(&stream.iommu) else { return };
        if let Some(class) = node.classes.get_mut(&stream.mask) {
            class.remove(&(stream.id.raw() & !stream.mask));
            if class.is_empty() {
                node.classes.remove(&stream.mask);
            }
        }
        if !node.is_crowded(core::iter::empty()) {
            // Who comes from now on is compared, and need not be in that group when it is crowded again.
            node.crowd = None;
        }
        if node.classes.is_empty() {
            self.nodes.remove(&stream.iommu);
        }
    }

    /// The first device that emits `stream`.
    pub fn device(&self, stream: &FwStream) -> Option<D> {
        let node = self.nodes.get(&stream.iommu)?;
        let hits = node.classes.iter().filter_map(|(mask, class)| {
            class.get(&(stream.id.raw() & !mask)).map(|entry| entry.devices.iter().copied().min())
        });
        hits.flatten().min()
    }
}

impl<G, D> Streams<G, D> {
    /// Gives `each` the group of every stream that overlaps `stream`; returns how many look-ups that took.
    fn look(&self, stream: StreamSpec, each: &mut impl FnMut(&G)) -> usize {
        let classes = || self.classes.iter().map(|(mask, class)| (*mask, class));
        let mut looks = 0;
        let covering = classes().filter(|(mask, _)| stream.mask & !mask == 0).find_map(|it| {
            looks += 1;
            it.1.get(&(stream.id.raw() & !it.0)).filter(|entry| entry.settled)
        });
        match covering {
            Some(entry) => each(&entry.group),
            None => {
                for class in classes() {
                    looks += overlapping(class, stream, |entry| each(&entry.group));
                }
            }
        }
        looks
    }
}

fn entry<'a, G, D>(node: &'a mut Streams<G, D>, stream: &FwStream) -> Option<&'a mut Entry<G, D>> {
    node.classes.get_mut(&stream.mask)?.get_mut(&(stream.id.raw() & !stream.mask))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
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
                index.groups(&[asked], |group| found.push(*group));
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
            index.groups(&[stream(0x400, 0x3)], |group| found.push(*group));
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

    /// `count` devices, each with a mask that no other has, then as many with exact ids: the look-ups that adding them took, and how many groups they ended in.
    fn crowd(count: u32) -> (usize, usize) {
        let masked = (1..=count).map(|mask| stream(mask << 8, mask << 3));
        let all: Vec<_> = masked.chain((0..count).map(|id| stream(1 << 31 | id, 0))).collect();
        let mut index = StreamIndex::new();
        let mut groups: Vec<usize> = (0..all.len()).collect();
        let mut looks = 0;
        for (at, one) in all.iter().enumerate() {
            let mut met = Vec::new();
            looks += index.groups(core::slice::from_ref(one), |group| met.push(*group));
            // One group of all that were met: the lowest.
            met.push(at);
            let roots: Vec<_> = met.iter().map(|group| root(&groups, *group)).collect();
            let lowest = *roots.iter().min().expect("itself");
            roots.into_iter().for_each(|root| groups[root] = lowest);
            index.add(core::slice::from_ref(one), DeviceId(at as u64), &at);
            index.settle(core::slice::from_ref(one));
        }
        let roots = (0..all.len()).filter(|at| groups[*at] == *at).count();
        (looks, roots)
    }

    fn root(groups: &[usize], mut at: usize) -> usize {
        while groups[at] != at {
            at = groups[at];
        }
        at
    }

    #[test]
    fn many_different_masks_cost_a_bounded_number_of_look_ups_each() {
        let (looks, groups) = crowd(MOST_MASKS as u32);
        assert!(groups > 1, "not crowded: compared");
        assert!(looks <= 2 * MOST_MASKS * 2 * (MOST_MASKS + 1), "{looks}");
        for count in [100, 1000, 10_000] {
            let (looks, groups) = crowd(count);
            assert_eq!(groups, 1);
            // The first ones are compared with each other, the one that crowds looks at all, and every other looks once.
            let bound = 2 * count as usize + 2 * MOST_MASKS * (MOST_MASKS + 1);
            assert!(looks <= bound, "{looks} look-ups for twice {count} devices");
        }
    }

    #[test]
    fn what_crowds_an_iommu_joins_all_of_it_and_leaves_it_as_it_was() {
        let mut index = StreamIndex::new();
        let few: Vec<_> = (1..=MOST_MASKS as u32).map(|mask| stream(mask << 8, mask)).collect();
        for (at, one) in few.iter().enumerate() {
            index.add(&[*one], DeviceId(at as u64), &at);
            index.settle(&[*one]);
        }
        let met = |index: &StreamIndex<usize>, streams: &[FwStream]| {
            let mut met = Vec::new();
            index.groups(streams, |group| met.push(*group));
            met.sort_unstable();
            met.dedup();
            met
        };
        let all: Vec<_> = (0..MOST_MASKS).collect();
        let (plain, last) = (stream(1 << 20, 0), stream(1 << 21, 1 << 16));
        assert_eq!(met(&index, &[plain]), []);
        assert_eq!(met(&index, &[plain, last]), all, "the two together");
        index.add(&[last], DeviceId(99), &7);
        assert_eq!(met(&index, &[plain]), all, "not yet one group");
        index.settle(&[last]);
        assert_eq!(met(&index, &[plain]), [7]);
        index.remove(&[last], DeviceId(99));
        assert_eq!(met(&index, &[plain]), []);
        index.add(&[last], DeviceId(100), &3);
        assert_eq!(met(&index, &[plain]), all, "again");
    }
}
