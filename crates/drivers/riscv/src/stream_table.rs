//! The device directory: which context belongs to a device, who has claimed it (§2.1).
//!
//! One to three levels, as many as the unit offers and the ids need. Directories below the root are allocated when the first device in them is claimed and kept until the unit stops, because walks of other devices may
//! be under way in them. A context of zeroes is not valid: accesses are refused and recorded. That is how a blocked device looks here.

use crate::entry::{Entry, INVALID};
use crate::identify::Features;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use portcullis::{OpsError, StreamSpec};
use portcullis_addr::{PhysAddr, StreamId};
use portcullis_driver_parts::entry::Phase;
use portcullis_driver_parts::{Claims, HardwarePages, Running, Stream};
use portcullis_platform::{AllocError, DmaMemory, Platform};
use portcullis_spec::riscv::{dc, ddte};

/// A directory is one page at every level (§2.1).
const DIRECTORY_BYTES: usize = 4096;
/// Id bits that a directory of directories resolves.
const INNER_BITS: u8 = 9;
/// Most id bits (§2.1).
pub(crate) const MOST_BITS: u8 = 24;

/// Directories below the root, by level (0 has contexts) and the upper bits of the ids in them.
type Below<P> = BTreeMap<(u8, u32), HardwarePages<<P as Platform>::Memory>>;

#[derive(Debug)]
pub(crate) struct DeviceDirectory<P: Platform> {
    root: HardwarePages<P::Memory>,
    levels: u8,
    /// Id bits that a directory of contexts resolves: 6 or 7.
    leaf_bits: u8,
    /// Words of a context.
    words: usize,
    address_bits: u8,
    running: Running,
    /// Whose the devices are, with the directories below the root.
    pub(crate) claims: Claims<P, Below<P>>,
}

/// How many levels `bits` of id take.
pub(crate) fn levels_for(features: &Features, bits: u8) -> u8 {
    let leaf = if features.extended { 6 } else { 7 };
    match bits {
        bits if bits <= leaf => 1,
        bits if bits <= leaf + INNER_BITS => 2,
        _ => 3,
    }
}

impl<P: Platform> DeviceDirectory<P> {
    /// A directory in which every device is blocked, of `levels` levels until [`set_levels`](Self::set_levels) says otherwise.
    pub(crate) fn new(
        platform: &P,
        running: &Running,
        features: &Features,
        levels: u8,
        label: u64,
    ) -> Result<Self, AllocError> {
        let address_bits = features.output_bits;
        Ok(Self {
            root: HardwarePages::new(platform.memory(), running, DIRECTORY_BYTES, address_bits)?,
            levels,
            leaf_bits: if features.extended { 6 } else { 7 },
            words: if features.extended { dc::WORDS } else { dc::BASE_BYTES / 8 },
            address_bits,
            running: running.clone(),
            claims: Claims::new(BTreeMap::new(), label),
        })
    }

    /// Where the unit finds it.
    pub(crate) fn root(&self) -> PhysAddr {
        self.root.address()
    }

    pub(crate) fn levels(&self) -> u8 {
        self.levels
    }

    /// The unit takes a directory of so many levels, and nobody has claimed anything yet.
    pub(crate) fn set_levels(&mut self, levels: u8) {
        self.levels = levels;
    }

    /// Width of the ids that the directory covers.
    pub(crate) fn bits(&self) -> u8 {
        (self.leaf_bits + INNER_BITS * (self.levels - 1)).min(MOST_BITS)
    }

    /// Counts one claim of each device, and makes room for the contexts. Returns those that hardware must still confirm to be blocked.
    pub(crate) fn claim(&self, ids: &[StreamId]) -> Result<Vec<Arc<Stream<P>>>, OpsError> {
        if let Some(&id) = ids.iter().find(|id| id.raw() >> self.bits() != 0) {
            let stream = StreamSpec::exact(id);
            return Err(OpsError::StreamOutOfRange { stream, bits: self.bits() });
        }
        let entry = |id| self.entry_address(id).expect("room for the context is made first");
        self.claims.claim(ids, |below| self.make_room(below, ids), entry).map_err(OpsError::from)
    }

    /// The context as it stands in memory.
    pub(crate) fn read(&self, stream: &Stream<P>) -> Entry {
        let mut entry = INVALID;
        for (word, value) in (0..).zip(&mut entry[..self.words]) {
            *value = self.root.memory().load64(PhysAddr::new(stream.entry().raw() + word * 8));
        }
        entry
    }

    /// Carries out one phase of a change and makes it visible.
    pub(crate) fn write(&self, stream: &Stream<P>, phase: &Phase<{ dc::WORDS }>) {
        for (word, value) in phase.stores().filter(|(word, _)| *word < self.words) {
            let address = PhysAddr::new(stream.entry().raw() + word as u64 * 8);
            self.root.memory().store64(address, value);
        }
        self.root.publish(stream.entry(), self.words * 8);
    }

    /// Bits below those that name a directory at `level`.
    fn shift(&self, level: u8) -> u32 {
        u32::from(self.leaf_bits) + u32::from(INNER_BITS) * u32::from(level)
    }

    /// Where the entry that leads to the directory `(level, prefix)` is, given the directory above it.
    fn link(&self, above: PhysAddr, prefix: u32) -> PhysAddr {
        let index = u64::from(prefix & ((1 << INNER_BITS) - 1));
        PhysAddr::new(above.raw() + index * ddte::BYTES as u64)
    }

    /// Where the context of a covered device is; `None` while a directory on the way does not exist.
    fn entry_address(&self, device: StreamId) -> Option<PhysAddr> {
        let mut directory = self.root.address();
        for level in (0..self.levels - 1).rev() {
            let at = self.link(directory, device.raw() >> self.shift(level));
            let entry = self.root.memory().load64(at);
            if !ddte::V.is_set(entry) {
                return None;
            }
            directory = PhysAddr::new(ddte::PPN.get(entry) << 12);
        }
        let index = u64::from(device.raw() & ((1 << self.leaf_bits) - 1));
        Some(PhysAddr::new(directory.raw() + index * self.words as u64 * 8))
    }

    /// Allocates the directories that `ids` need and do not have: all of them, or none.
    fn make_room(&self, below: &mut Below<P>, ids: &[StreamId]) -> Result<(), AllocError> {
        let wanted = (0..self.levels - 1)
            .flat_map(|level| ids.iter().map(move |id| (level, id.raw() >> self.shift(level))));
        let missing: BTreeSet<_> = wanted.filter(|key| !below.contains_key(key)).collect();
        let mut fresh: Below<P> = BTreeMap::new();
        for key in &missing {
            let memory = self.root.memory();
            match HardwarePages::new(memory, &self.running, DIRECTORY_BYTES, self.address_bits) {
                Ok(directory) => _ = fresh.insert(*key, directory),
                Err(error) => {
                    fresh.into_values().for_each(HardwarePages::release);
                    return Err(error);
                }
            }
        }
        let links: Vec<_> = fresh.iter().map(|(key, pages)| (*key, pages.address())).collect();
        below.append(&mut fresh);
        // From the contexts up: each directory is complete, and was published when it was made, before anything leads to it.
        for ((level, prefix), directory) in links {
            let above = below.get(&(level + 1, prefix >> INNER_BITS));
            let at = self.link(above.map_or(self.root.address(), HardwarePages::address), prefix);
            let entry = ddte::V.of(1) | ddte::PPN.of(directory.raw() >> 12);
            self.root.memory().store64(at, entry);
            self.root.publish(at, ddte::BYTES);
        }
        Ok(())
    }
}
