//! Who is who: root table, context tables and, in scalable mode, a PASID directory and table for each device (§3.4, chapter 9).
//!
//! Tables below the root are allocated when the first device in them is claimed and kept until the unit stops, because walks of other devices may be under way in them. Entries of zeroes are not present: accesses are refused and
//! recorded. That is how a blocked device looks here.

use crate::entry::{ABSENT, Entry, words};
use crate::identify::{Features, Mode};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use portcullis::{OpsError, StreamSpec};
use portcullis_addr::{PhysAddr, StreamId};
use portcullis_driver_parts::entry::Phase;
use portcullis_driver_parts::{Claims, HardwarePages, Running, Stream};
use portcullis_platform::{AllocError, Coherency, DmaMemory, Platform};
use portcullis_spec::vtd::rtaddr;
use portcullis_spec::vtd::tables::{context, pasid_directory, root, scalable_context};

/// Bits of a source id: bus, device, function.
pub(crate) const ID_BITS: u8 = 16;
/// Every table is a page.
pub(crate) const TABLE_BYTES: usize = 4096;

/// A table below the root, in the order in which they hang together from the bottom up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    /// The PASID table of a device.
    Pasid(u32),
    /// Its PASID directory.
    Directory(u32),
    /// The contexts of a bus, or in scalable mode of half a bus.
    Context(u32),
}

type Below<P> = BTreeMap<Table, HardwarePages<<P as Platform>::Memory>>;

#[derive(Debug)]
pub(crate) struct RootTable<P: Platform> {
    root: HardwarePages<P::Memory>,
    /// Set while hardware may read the root table, which can be for longer than the rest.
    root_running: Running,
    mode: Mode,
    address_bits: u8,
    running: Running,
    /// Whose the devices are, with the tables below the root.
    pub(crate) claims: Claims<P, Below<P>>,
}

impl<P: Platform> RootTable<P> {
    /// A root table under which every device is blocked.
    pub(crate) fn new(
        platform: &P,
        running: &Running,
        features: &Features,
        address_bits: u8,
        label: u64,
    ) -> Result<Self, AllocError> {
        let coherency = Coherency::of(features.coherent);
        let root_running = Running::new(coherency);
        let memory = platform.memory();
        Ok(Self {
            root: HardwarePages::new(memory, &root_running, TABLE_BYTES, address_bits)?,
            root_running,
            mode: features.mode,
            address_bits,
            running: running.with(coherency),
            claims: Claims::new(BTreeMap::new(), label),
        })
    }

    /// What `RTADDR` is told.
    pub(crate) fn rtaddr(&self) -> u64 {
        self.root.address().raw() | rtaddr::TTM.of(self.mode.ttm())
    }

    /// Notes whether hardware may read the root table.
    pub(crate) fn set_in_use(&self, used: bool) {
        self.root_running.set(used);
    }

    /// Cuts every device off.
    pub(crate) fn clear(&self) {
        self.root.memory().clear(self.root.address(), TABLE_BYTES / 8);
        self.root.publish(self.root.address(), TABLE_BYTES);
    }

    /// Counts one claim of each device, and makes room for its entry. Returns those that hardware must still confirm to be blocked.
    pub(crate) fn claim(&self, ids: &[StreamId]) -> Result<Vec<Arc<Stream<P>>>, OpsError> {
        if let Some(&id) = ids.iter().find(|id| id.raw() >> ID_BITS != 0) {
            let stream = StreamSpec::exact(id);
            return Err(OpsError::StreamOutOfRange { stream, bits: ID_BITS });
        }
        let entry = |id| self.entry_address(id).expect("room for the entry is made first");
        self.claims.claim(ids, |below| self.make_room(below, ids), entry).map_err(OpsError::from)
    }

    /// The entry as it stands in memory.
    pub(crate) fn read(&self, stream: &Stream<P>) -> Entry {
        let mut entry = ABSENT;
        for (word, value) in (0..).zip(&mut entry[..words(self.mode)]) {
            *value = self.load(stream.entry(), word);
        }
        entry
    }

    /// Carries out one phase of a change and makes it visible.
    pub(crate) fn write(&self, stream: &Stream<P>, phase: &Phase<{ ABSENT.len() }>) {
        let count = words(self.mode);
        for (word, value) in phase.stores().filter(|(word, _)| *word < count) {
            let address = PhysAddr::new(stream.entry().raw() + word as u64 * 8);
            self.root.memory().store64(address, value);
        }
        self.root.publish(stream.entry(), count * 8);
    }

    fn load(&self, at: PhysAddr, word: u64) -> u64 {
        self.root.memory().load64(PhysAddr::new(at.raw() + word * 8))
    }

    /// Which context table a device is in.
    fn context_table(&self, device: u32) -> Table {
        match self.mode {
            Mode::Legacy => Table::Context(device >> 8),
            Mode::Scalable => Table::Context(device >> 7),
        }
    }

    /// Where the root entry, or half of one, for a context table is.
    fn root_entry(&self, number: u32) -> PhysAddr {
        let bytes = match self.mode {
            Mode::Legacy => root::BYTES,
            Mode::Scalable => root::BYTES / 2,
        };
        self.root.at(u64::from(number) * bytes as u64)
    }

    /// Where the context of a device is in its table.
    fn context_entry(&self, table: PhysAddr, device: u32) -> PhysAddr {
        let offset = match self.mode {
            Mode::Legacy => u64::from(device & 0xff) * context::BYTES as u64,
            Mode::Scalable => u64::from(device & 0x7f) * scalable_context::BYTES as u64,
        };
        PhysAddr::new(table.raw() + offset)
    }

    /// Where the entry of a device is; `None` while a table on the way does not exist.
    fn entry_address(&self, device: StreamId) -> Option<PhysAddr> {
        let follow = |at: PhysAddr| {
            let entry = self.load(at, 0);
            root::P.is_set(entry).then(|| PhysAddr::new(root::CTP.in_place(entry)))
        };
        let Table::Context(number) = self.context_table(device.raw()) else { return None };
        let contexts = follow(self.root_entry(number))?;
        let context = self.context_entry(contexts, device.raw());
        match self.mode {
            Mode::Legacy => Some(context),
            // Entry 0 of the directory's first table.
            Mode::Scalable => follow(follow(context)?),
        }
    }

    /// The tables that a device needs.
    fn tables(&self, device: u32) -> impl Iterator<Item = Table> + use<P> {
        let own = [Table::Pasid(device), Table::Directory(device)];
        let own = own.into_iter().filter(|_| self.mode == Mode::Scalable).collect::<Vec<_>>();
        own.into_iter().chain([self.context_table(device)])
    }

    /// Allocates the tables that `ids` need and do not have: all of them, or none.
    fn make_room(&self, below: &mut Below<P>, ids: &[StreamId]) -> Result<(), AllocError> {
        let wanted = ids.iter().flat_map(|id| self.tables(id.raw()));
        let missing: BTreeSet<_> = wanted.filter(|key| !below.contains_key(key)).collect();
        let mut fresh: Below<P> = BTreeMap::new();
        for key in &missing {
            let memory = self.root.memory();
            match HardwarePages::new(memory, &self.running, TABLE_BYTES, self.address_bits) {
                Ok(table) => _ = fresh.insert(*key, table),
                Err(error) => {
                    fresh.into_values().for_each(HardwarePages::release);
                    return Err(error);
                }
            }
        }
        let links: Vec<_> = fresh.iter().map(|(key, pages)| (*key, pages.address())).collect();
        below.append(&mut fresh);
        // From the bottom up: each table is complete, and was published when it was made, before anything leads to it.
        links.into_iter().for_each(|(key, table)| self.link(below, key, table));
        Ok(())
    }

    /// Leads to a table from the one above it. One store: what else is in the entry is 0, and stays so.
    fn link(&self, below: &Below<P>, key: Table, table: PhysAddr) {
        let above = |key| below.get(&key).map(HardwarePages::address);
        let at = match key {
            Table::Pasid(device) => above(Table::Directory(device)),
            Table::Directory(device) => {
                above(self.context_table(device)).map(|table| self.context_entry(table, device))
            }
            Table::Context(number) => Some(self.root_entry(number)),
        };
        let Some(at) = at else { return };
        self.root.memory().store64(at, table.raw() | root::P.of(1));
        self.root.publish(at, 8);
    }
}

// What leads to a table has one form at each place: present in bit 0, the address from bit 12 on, and all else 0, which in a context entry of scalable mode means 128 directory entries and PASID 0.
const _: () = assert!(
    root::P.mask() == pasid_directory::P.mask()
        && root::CTP.mask() == pasid_directory::SMPTBLPTR.mask()
        && root::P.mask() == scalable_context::P.mask()
        && root::CTP.mask() == scalable_context::PASIDDIRPTR.mask()
        && root::UP.mask() == root::P.mask()
        && root::UCTP.mask() == root::CTP.mask()
);
