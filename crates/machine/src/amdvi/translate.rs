//! One transaction on its way through the unit (2.2).

use super::caches::{Caches, Entry, Fill, Inner, Leaf};
use super::events::{Event, Refusal, Subject};
use super::walk::{self, Entry as TableEntry, Permit};
use super::{AmdVi, State};
use crate::access::{AccessKind, Agent, Passage};
use crate::chunks::Reader;
use crate::memory::{BusAbort, View};
use crate::model::{self, Aborted, Grant, Land};
use crate::oracle::Violation;
use portcullis_addr::{PhysAddr, StreamId};
use portcullis_spec::amdvi::dte;
use std::mem;
use std::ops::RangeInclusive;

/// Writes there are interrupts.
const INTERRUPTS: RangeInclusive<u64> = 0xfee0_0000..=0xfeef_ffff;
/// Reserved bits of the first two words of an entry: of nobody, and of features that no unit here has (guests, page requests, flags set by hardware, ATS).
const RESERVED: [u64; 2] = {
    let known = [
        dte::V.mask()
            | dte::TV.mask()
            | dte::MODE.mask()
            | dte::ROOT.mask()
            | dte::IR.mask()
            | dte::IW.mask(),
        dte::DOMAIN.mask()
            | dte::SE.mask()
            | dte::SA.mask()
            | dte::IO_CTL.mask()
            | dte::CACHE.mask()
            | dte::SD.mask()
            | dte::EX.mask()
            | dte::SYS_MGT.mask(),
    ];
    [!known[0], !known[1]]
};

/// Where a transaction goes.
#[derive(Clone, Copy, Debug)]
struct Target {
    physical: u64,
    passage: Passage,
    /// Of a hit: the memory's epoch when the translation was made.
    made: Option<u64>,
    /// log2 of the page.
    size: u32,
}

/// A transaction while it looks for its translation. It holds no lock; what it finds is kept, and the access made, only if nothing was invalidated meanwhile.
struct Transit<'a> {
    unit: &'a AmdVi,
    subject: Subject,
    domain: u16,
    fills: Vec<Fill>,
    descriptors: u64,
    /// What was found on the way, to be reported if the walk counts.
    offences: Vec<Violation>,
    /// A second look for the oracle: reads memory as the CPU sees it, uses and leaves no trace.
    silent: bool,
    used_cache: bool,
}

impl AmdVi {
    /// Takes a transaction; `land` makes the access where it is let through, atomically with the last look at the caches.
    pub(super) fn transact(
        &self,
        device: StreamId,
        access: &model::Access,
        land: Land<'_>,
    ) -> Result<(), Aborted> {
        loop {
            let epoch = {
                let state = self.lock();
                if state.gone || state.faults.service_failure {
                    return Err(Aborted);
                }
                state.epoch
            };
            let mut transit = Transit::new(self, device, access, false);
            let outcome = transit.run();
            let stale = transit.used_cache
                && self.policy.verify_hits
                && outcome.as_ref().is_ok_and(|target| transit.disagrees(target));
            let mut state = self.lock();
            if state.epoch != epoch {
                // Something was invalidated meanwhile: it starts again. The architecture permits the order before as well as after.
                continue;
            }
            self.keep(&mut state, &mut transit);
            let result = match outcome {
                Ok(target) => {
                    state.counters.hits += u64::from(target.made.is_some());
                    let Target { physical, passage, made, .. } = target;
                    let reused = self.policy.verify_owners
                        && made.is_some_and(|at| self.memory.reallocated_since(physical, at));
                    land(Grant { physical, passage, stale, reused }).map_err(|_| Aborted)
                }
                Err(refusal) => {
                    if let Some(event) = Event::of(&transit.subject, transit.domain, refusal) {
                        self.log(&mut state, event);
                    }
                    Err(Aborted)
                }
            };
            let due = mem::take(&mut state.due);
            drop(state);
            self.deliver(due);
            if let Ok(Target { made: None, size, .. }) = outcome
                && self.policy.speculation
            {
                self.speculate(device, access, 1 << size);
            }
            return result;
        }
    }

    /// Fetches ahead: the pages before and after, and the entry of the neighbouring device. Faults leave no trace.
    fn speculate(&self, device: StreamId, access: &model::Access, size: u64) {
        let (neighbour, address) = (StreamId::new(device.raw() ^ 1), access.address);
        for (device, address) in [
            (device, address.wrapping_sub(size)),
            (device, address.wrapping_add(size)),
            (neighbour, address),
        ] {
            let epoch = self.lock().epoch;
            let access = model::Access { address, kind: AccessKind::Read, ..*access };
            let mut transit = Transit::new(self, device, &access, false);
            let _found = transit.run();
            let mut state = self.lock();
            if state.epoch == epoch {
                self.keep(&mut state, &mut transit);
            }
        }
    }

    fn keep(&self, state: &mut State, transit: &mut Transit<'_>) {
        state.counters.descriptors += transit.descriptors;
        transit.offences.drain(..).for_each(|offence| self.oracle.violated(offence));
        let tlb = self.policy.tlb;
        for fill in transit.fills.drain(..) {
            let wanted = match fill {
                Fill::Leaf { .. } => tlb.translations,
                Fill::Absent { .. } => tlb.translations && self.profile.caches_absence,
                Fill::Table { .. } => tlb.tables,
                Fill::Entry { entry, .. } => {
                    tlb.configuration && (tlb.invalid_configuration || dte::V.read(&entry) == 1)
                }
            };
            if wanted {
                state.caches.fill(fill);
            }
        }
    }
}

impl<'a> Transit<'a> {
    fn new(unit: &'a AmdVi, device: StreamId, access: &model::Access, silent: bool) -> Self {
        let subject = Subject { device: device.raw(), address: access.address, kind: access.kind };
        let (fills, offences) = (Vec::new(), Vec::new());
        let (descriptors, used_cache) = (0, false);
        Self { unit, subject, domain: 0, fills, descriptors, offences, silent, used_cache }
    }

    fn run(&mut self) -> Result<Target, Refusal> {
        let Subject { device, address, .. } = self.subject;
        let (enabled, excluded) = {
            let registers = &self.unit.lock().registers;
            (registers.is_enabled(), registers.excludes(address))
        };
        if !enabled {
            return Ok(unchanged(address, Passage::GlobalBypass));
        }
        if let Some((domain, size, leaf)) = self.cached(|caches| caches.own(device, address)) {
            self.domain = domain;
            return self.arrive(size, leaf, true);
        }
        let entry = self.entry()?;
        if dte::V.read(&entry) == 0 {
            return Ok(unchanged(address, Passage::StreamBypass));
        }
        if entry[0] & RESERVED[0] != 0 || entry[1] & RESERVED[1] != 0 {
            return Err(Refusal::BadEntry(true));
        }
        self.domain = dte::DOMAIN.read(&entry) as u16;
        if excluded.is_some_and(|all| all || dte::EX.read(&entry) == 1) {
            return Ok(unchanged(address, Passage::StreamBypass));
        }
        if INTERRUPTS.contains(&address) {
            // No interrupt controller is there.
            return Err(Refusal::Silent);
        }
        if dte::TV.read(&entry) == 0 {
            return Err(Refusal::Absent);
        }
        let domain = self.domain;
        if let Some((size, leaf)) = self.cached(|caches| caches.leaf(domain, address)) {
            return self.arrive(size, leaf, true);
        }
        let (size, leaf) = self.translate(&entry)?;
        self.fills.push(Fill::Leaf { device, domain, size, address, leaf });
        self.arrive(size, leaf, false)
    }

    /// Goes where a translation leads, if it may.
    fn arrive(&self, size: u32, leaf: Leaf, cached: bool) -> Result<Target, Refusal> {
        self.permit(leaf.permit)?;
        let passage = match leaf.unchanged {
            true => Passage::StreamBypass,
            false => Passage::Translated { asid: None, vmid: self.domain, cached },
        };
        let physical = leaf.physical | self.subject.address & ((1 << size) - 1);
        Ok(Target { physical, passage, made: cached.then_some(leaf.made), size })
    }

    /// Translates by what a valid entry says.
    fn translate(&mut self, entry: &Entry) -> Result<(u32, Leaf), Refusal> {
        let (address, made) = (self.subject.address, self.unit.memory.epoch());
        let permit = Permit::of(entry[0]);
        let mode = dte::MODE.read(entry) as u32;
        if mode > u32::from(self.unit.profile.levels) {
            return Err(Refusal::BadEntry(false));
        }
        // Also where pages would permit more.
        self.permit(permit)?;
        if mode == 0 {
            let physical = address >> 12 << 12;
            return Ok((12, Leaf { physical, permit, unchanged: true, made }));
        }
        if !walk::covers(mode, address) {
            return Err(Refusal::Absent);
        }
        let domain = self.domain;
        if !self.silent && self.cached(|it| it.is_absent(domain, address).then_some(())).is_some() {
            return Err(Refusal::Absent);
        }
        let root = Inner { table: dte::ROOT.in_place(entry[0]), level: mode, permit };
        let found = self.walk(root);
        if found == Err(Refusal::Absent) {
            self.fills.push(Fill::Absent { domain, address });
        }
        let (output, size, permit) = found?;
        Ok((size, Leaf { physical: output, permit, unchanged: false, made }))
    }

    /// Walks from the deepest table that is cached; every entry on the way must permit the access.
    fn walk(&mut self, root: Inner) -> Result<(u64, u32, Permit), Refusal> {
        let (domain, address) = (self.domain, self.subject.address);
        let mut at = self.cached(|caches| caches.table(domain, address)).unwrap_or(root);
        loop {
            let place = walk::entry(at.table, at.level, address);
            self.descriptors += 1;
            let beyond = place >> self.unit.profile.pa_bits != 0;
            let word = if beyond { Err(BusAbort) } else { self.word(place, "descriptor") };
            match walk::decode(word.map_err(|_| Refusal::TableAbort(place))?, at.level, address) {
                TableEntry::Absent => return Err(Refusal::Absent),
                TableEntry::Malformed(reserved) => return Err(Refusal::Malformed(reserved)),
                TableEntry::Leaf { output, size, permit } => {
                    return Ok((output, size, permit.and(at.permit)));
                }
                TableEntry::Table { table, level, permit } => {
                    let permit = permit.and(at.permit);
                    let size = walk::shift(at.level);
                    at = Inner { table, level, permit };
                    // What is skipped must stay zero, so the table stands for what it covers itself.
                    let size = size.min(walk::shift(level + 1));
                    self.fills.push(Fill::Table { domain, size, address, inner: at });
                }
            }
        }
    }

    /// Whether the transaction may do what it wants.
    fn permit(&self, permit: Permit) -> Result<(), Refusal> {
        let may = match self.subject.kind {
            AccessKind::Read => permit.read,
            AccessKind::Write => permit.write,
        };
        if may { Ok(()) } else { Err(Refusal::Denied) }
    }

    /// The device's entry, cached or fetched.
    fn entry(&mut self) -> Result<Entry, Refusal> {
        let device = self.subject.device;
        if let Some(entry) = self.cached(|caches| caches.entry(device)) {
            return Ok(entry);
        }
        if device >> 16 != 0 {
            return Err(Refusal::BadEntry(false));
        }
        let (base, len, index) = {
            let registers = &self.unit.lock().registers;
            let below = 16 - registers.segments_log2();
            let (base, len) = registers.table((device >> below) as usize);
            (base, len, device & ((1 << below) - 1))
        };
        let offset = u64::from(index) * dte::BYTES as u64;
        if offset >= len {
            return Err(Refusal::BadEntry(false));
        }
        let address = base + offset;
        let entry = self.read_entry(address).map_err(|_| Refusal::EntryAbort(address))?;
        self.fills.push(Fill::Entry { device, entry });
        Ok(entry)
    }

    /// Reads an entry, in the pieces that the policy says.
    fn read_entry(&mut self, address: u64) -> Result<Entry, BusAbort> {
        if self.silent {
            let mut entry = [0; dte::WORDS];
            for (at, value) in (0..).zip(&mut entry) {
                *value = self.word(address + 8 * at, "DTE")?;
            }
            return Ok(entry);
        }
        let AmdVi { index, policy, sight, hook, .. } = self.unit;
        let reader = Reader { index: *index, policy, sight, hook };
        reader.read("DTE", address, dte::WORDS, |at| self.word(at, "DTE"))
    }

    /// Asks the caches, unless this is the oracle's second look.
    fn cached<T>(&mut self, ask: impl FnOnce(&Caches) -> Option<T>) -> Option<T> {
        if self.silent {
            return None;
        }
        let found = ask(&self.unit.lock().caches);
        self.used_cache |= found.is_some();
        found
    }

    /// Reads one word of memory.
    fn word(&mut self, address: u64, what: &'static str) -> Result<u64, BusAbort> {
        if self.silent {
            return Ok(self.unit.memory.walk_load(address, View::Cpu)?.0);
        }
        let (word, freed) = self.unit.sight.walk_load(address)?;
        if freed {
            let by = Agent::Iommu(self.unit.index, what);
            let (address, kind) = (PhysAddr::new(address), AccessKind::Read);
            self.offences.push(Violation::FreedMemory { by, address, kind });
        }
        Ok(word)
    }

    /// Whether the tables in memory, looked at now and without caches, no longer lead to `target`.
    fn disagrees(&self, target: &Target) -> bool {
        let Subject { device, address, kind } = self.subject;
        let access = model::Access { address, len: 0, kind, substream: None, privileged: false };
        let mut second = Transit::new(self.unit, StreamId::new(device), &access, true);
        second.run().map_or(true, |now| now.physical != target.physical)
    }
}

fn unchanged(address: u64, passage: Passage) -> Target {
    Target { physical: address, passage, made: None, size: 12 }
}
