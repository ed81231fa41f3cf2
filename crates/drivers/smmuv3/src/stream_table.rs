//! The stream table: which entry belongs to a stream, who has claimed it (§3.3.1, §5.1).
//!
//! Linear for few stream ids; otherwise two-level, the second level allocated when the first stream in it is claimed and kept until the unit stops, because walks of
//! other streams may be under way in it. An entry of zeroes is invalid: accesses are aborted and C_BAD_STE is recorded. That is how a blocked
//! stream looks here; `Config` "abort" would hide the access.

use crate::entry::{Entry, Phase};
use crate::identify::Features;
use crate::unit::Unit;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use portcullis::{OpsError, StreamSpec};
use portcullis_addr::{PhysAddr, StreamId};
use portcullis_driver_parts::{Claims, HardwarePages, Running, Stream};
use portcullis_platform::{AllocError, DmaMemory, Platform, Registers};
use portcullis_spec::smmuv3::{self as spec, l1std, ste, strtab_base, strtab_base_cfg, strtab_fmt};

/// Stream id bits that a second-level table resolves: 256 entries, 16 KiB, one PCI bus.
const SPLIT: u8 = 8;
/// Most stream id bits with two levels: 2^17 descriptors, 1 MiB. Streams beyond are aborted by hardware and refused here.
const TWO_LEVEL_BITS: u8 = SPLIT + 17;
/// Most stream id bits with one level: 4 MiB.
const LINEAR_BITS: u8 = 16;

#[derive(Debug)]
pub(crate) struct StreamTable<P: Platform> {
    first: HardwarePages<P::Memory>,
    two_level: bool,
    bits: u8,
    /// Width of ids that the unit itself has.
    hardware_bits: u8,
    address_bits: u8,
    running: Running,
    /// Whose the streams are, with the second-level tables by their index in the first level.
    pub(crate) claims: Claims<P, SecondLevel<P>>,
}

/// Second-level tables by their index in the first level.
type SecondLevel<P> = BTreeMap<u32, HardwarePages<<P as Platform>::Memory>>;

impl<P: Platform> StreamTable<P> {
    /// A table in which every stream is blocked, for at most `limit` stream id bits.
    pub(crate) fn new(
        platform: &P,
        running: &Running,
        features: &Features,
        limit: u8,
        label: u64,
    ) -> Result<Self, AllocError> {
        let wanted = features.stream_id_bits.min(limit);
        let two_level = features.two_level_streams && wanted > SPLIT;
        let bits = wanted.min(if two_level { TWO_LEVEL_BITS } else { LINEAR_BITS });
        let bytes = if two_level { l1std::BYTES << (bits - SPLIT) } else { ste::BYTES << bits };
        let address_bits = features.output_bits;
        Ok(Self {
            first: HardwarePages::new(platform.memory(), running, bytes, address_bits)?,
            two_level,
            bits,
            hardware_bits: features.stream_id_bits,
            address_bits,
            running: running.clone(),
            claims: Claims::new(BTreeMap::new(), label),
        })
    }

    /// Tells a disabled unit where the table is.
    pub(crate) fn install<R: Registers>(&self, unit: &Unit<P, R>) {
        let base = strtab_base::RA.of(1) | strtab_base::ADDR.in_place(self.first.address().raw());
        let format = if self.two_level { strtab_fmt::TWO_LEVEL } else { strtab_fmt::LINEAR };
        let split = if self.two_level { u64::from(SPLIT) } else { 0 };
        let cfg = strtab_base_cfg::FMT.of(format)
            | strtab_base_cfg::SPLIT.of(split)
            | strtab_base_cfg::LOG2SIZE.of(u64::from(self.bits));
        unit.write64(spec::STRTAB_BASE, base);
        unit.write(spec::STRTAB_BASE_CFG, cfg as u32);
    }

    /// Width of the ids that the table covers.
    pub(crate) fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether the entry of `stream` is one that this driver can have written: absent, invalid, or of a configuration that it uses. A "bad entry" that hardware reports
    /// then only means that the stream was blocked at the time.
    pub(crate) fn is_sound(&self, stream: StreamId) -> bool {
        let address = if self.covers(stream) { self.entry_address(stream) } else { None };
        let Some(address) = address else { return true };
        let word = self.first.memory().load64(address);
        let config = ste::CONFIG.get(word);
        !ste::V.is_set(word)
            || [ste::config::BYPASS, ste::config::S1, ste::config::S2].contains(&config)
    }

    /// Counts one claim of each stream, and makes room for the entries. Returns those that hardware must still confirm to be blocked.
    pub(crate) fn claim(&self, ids: &[StreamId]) -> Result<Vec<Arc<Stream<P>>>, OpsError> {
        if let Some(&id) = ids.iter().find(|id| !self.covers(**id)) {
            return Err(OpsError::StreamOutOfRange {
                stream: StreamSpec::exact(id),
                bits: self.bits.min(self.hardware_bits),
            });
        }
        let entry = |id| self.entry_address(id).expect("room for the entry is made first");
        self.claims.claim(ids, |second| self.make_room(second, ids), entry).map_err(OpsError::from)
    }

    /// The entry as it stands in memory.
    pub(crate) fn read(&self, stream: &Stream<P>) -> Entry {
        core::array::from_fn(|word| {
            self.first.memory().load64(PhysAddr::new(stream.entry().raw() + word as u64 * 8))
        })
    }

    /// Carries out one phase of a change and makes it visible; hardware must confirm it before the next.
    pub(crate) fn write(&self, stream: &Stream<P>, phase: &Phase) {
        for (word, value) in phase.stores() {
            let address = PhysAddr::new(stream.entry().raw() + word as u64 * 8);
            self.first.memory().store64(address, value);
        }
        self.first.publish(stream.entry(), ste::BYTES);
    }

    /// Makes the entry invalid in one store.
    pub(crate) fn invalidate(&self, stream: &Stream<P>) {
        self.first.memory().store64(stream.entry(), 0);
        self.first.publish(stream.entry(), 8);
    }

    fn covers(&self, stream: StreamId) -> bool {
        u64::from(stream.raw()) >> self.bits == 0
    }

    /// Where the entry of a covered stream is; `None` while its second-level table does not exist.
    pub(crate) fn entry_address(&self, stream: StreamId) -> Option<PhysAddr> {
        let id = u64::from(stream.raw());
        if !self.two_level {
            return Some(self.first.at(id * ste::BYTES as u64));
        }
        let descriptor = self.first.memory().load64(self.descriptor(stream.raw() >> SPLIT));
        let index = id & ((1 << SPLIT) - 1);
        let table = l1std::L2PTR.in_place(descriptor);
        l1std::SPAN.is_set(descriptor).then(|| PhysAddr::new(table + index * ste::BYTES as u64))
    }

    fn descriptor(&self, index: u32) -> PhysAddr {
        self.first.at(u64::from(index) * l1std::BYTES as u64)
    }

    /// Allocates the second-level tables that `ids` need and do not have: all of them, or none.
    fn make_room(&self, second: &mut SecondLevel<P>, ids: &[StreamId]) -> Result<(), AllocError> {
        if !self.two_level {
            return Ok(());
        }
        let mut fresh = BTreeMap::new();
        for index in ids.iter().map(|id| id.raw() >> SPLIT) {
            if !second.contains_key(&index) && !fresh.contains_key(&index) {
                match self.second_level() {
                    Ok(table) => _ = fresh.insert(index, table),
                    Err(error) => {
                        fresh.into_values().for_each(HardwarePages::release);
                        return Err(error);
                    }
                }
            }
        }
        for (index, table) in fresh {
            // The table was published when it was made; only now may a descriptor lead there.
            let descriptor =
                l1std::SPAN.of(u64::from(SPLIT) + 1) | l1std::L2PTR.in_place(table.address().raw());
            let address = self.descriptor(index);
            self.first.memory().store64(address, descriptor);
            self.first.publish(address, l1std::BYTES);
            second.insert(index, table);
        }
        Ok(())
    }

    fn second_level(&self) -> Result<HardwarePages<P::Memory>, AllocError> {
        let bytes = ste::BYTES << SPLIT;
        HardwarePages::new(self.first.memory(), &self.running, bytes, self.address_bits)
    }
}
