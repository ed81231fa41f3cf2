//! One transaction on its way through the unit (3.4).

use super::caches::{Access, Caches, Fill, Inner, Leaf, Space};
use super::directory::Way;
use super::faults::{Refusal, Subject};
use super::walk::{Entry, PageTable};
use super::{State, VtdIommu};
use crate::access::{AccessKind, Agent, Passage};
use crate::faults::{ChunkOrder, ChunkPoint};
use crate::memory::{BusAbort, View};
use crate::model::{self, Aborted, Grant, Land};
use crate::oracle::Violation;
use portcullis_addr::{PhysAddr, StreamId};
use portcullis_spec::vtd::fault::reason;
use portcullis_spec::vtd::{INTERRUPT_FIRST, INTERRUPT_LAST, ttm};
use std::mem;

/// Bytes of an entry that are read at once, at least (6.5.3.3).
const CHUNK: usize = 16;

/// The registers that a transaction depends on, as they were when it arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control {
    translates: bool,
    mode: u64,
    pub(super) root: u64,
}

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
pub(super) struct Transit<'a> {
    pub(super) unit: &'a VtdIommu,
    pub(super) control: Control,
    pub(super) subject: Subject,
    pub(super) fills: Vec<Fill>,
    descriptors: u64,
    /// What was found on the way, to be reported if the walk counts.
    offences: Vec<Violation>,
    /// A second look for the oracle: reads memory as the CPU sees it, uses and leaves no trace.
    silent: bool,
    used_cache: bool,
}

impl VtdIommu {
    /// Takes a transaction; `land` makes the access where it is let through, atomically with the last look at the caches.
    pub(super) fn transact(
        &self,
        source: StreamId,
        access: &model::Access,
        land: Land<'_>,
    ) -> Result<(), Aborted> {
        loop {
            let (control, epoch) = {
                let state = self.lock();
                if state.gone || state.faults.service_failure {
                    return Err(Aborted);
                }
                (state.control(), state.epoch)
            };
            let mut transit = Transit::new(self, control, source, access, false);
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
                    state.record(&transit.subject, refusal);
                    Err(Aborted)
                }
            };
            let due = mem::take(&mut state.due);
            drop(state);
            self.deliver(due);
            if let Ok(Target { made: None, size, .. }) = outcome
                && self.policy.speculation
            {
                self.speculate(source, access, 1 << size);
            }
            return result;
        }
    }

    /// Fetches ahead: the pages before and after, and the entries of the neighbouring device. Faults leave no trace.
    fn speculate(&self, source: StreamId, access: &model::Access, size: u64) {
        let (neighbour, address) = (StreamId::new(source.raw() ^ 1), access.address);
        for (source, address) in [
            (source, address.wrapping_sub(size)),
            (source, address.wrapping_add(size)),
            (neighbour, address),
        ] {
            let (control, epoch) = {
                let state = self.lock();
                (state.control(), state.epoch)
            };
            let access = model::Access { address, kind: AccessKind::Read, ..*access };
            let mut transit = Transit::new(self, control, source, &access, false);
            let _found = transit.run();
            let mut state = self.lock();
            if state.epoch == epoch {
                self.keep(&mut state, &mut transit);
            }
        }
    }

    fn keep(&self, state: &mut State, transit: &mut Transit<'_>) {
        state.counters.walked += transit.descriptors;
        transit.offences.drain(..).for_each(|offence| self.oracle.violated(offence));
        let tlb = self.policy.tlb;
        for fill in transit.fills.drain(..) {
            let wanted = match fill {
                Fill::Leaf { .. } => tlb.translations,
                Fill::Table { .. } => tlb.tables,
                Fill::Root { .. }
                | Fill::Context { .. }
                | Fill::Directory { .. }
                | Fill::Pasid { .. } => tlb.configuration,
            };
            if wanted {
                state.caches.fill(fill);
            }
        }
    }
}

impl State {
    fn control(&self) -> Control {
        let translates = self.registers.translates();
        Control { translates, mode: self.registers.mode(), root: self.registers.root() }
    }
}

impl<'a> Transit<'a> {
    fn new(
        unit: &'a VtdIommu,
        control: Control,
        source: StreamId,
        access: &model::Access,
        silent: bool,
    ) -> Self {
        let subject = Subject {
            source: source.raw(),
            pasid: access.substream,
            address: access.address,
            kind: access.kind,
            privileged: access.privileged && access.substream.is_some(),
        };
        let (fills, offences) = (Vec::new(), Vec::new());
        Self { unit, control, subject, fills, descriptors: 0, offences, silent, used_cache: false }
    }

    pub(super) fn is_scalable(&self) -> bool {
        self.control.mode == ttm::SCALABLE
    }

    fn run(&mut self) -> Result<Target, Refusal> {
        let Subject { address, pasid, .. } = self.subject;
        if !self.control.translates {
            return Ok(unchanged(address, Passage::GlobalBypass));
        }
        let way = match self.control.mode {
            ttm::ABORT if self.unit.profile.abort_mode => return Err(Refusal::QUIET),
            ttm::LEGACY if pasid.is_some() => return Err(Refusal::new(reason::TTM_PASID)),
            // An interrupt, and no access to memory (3.14).
            ttm::LEGACY | ttm::SCALABLE
                if (INTERRUPT_FIRST..=INTERRUPT_LAST).contains(&address) =>
            {
                return Err(Refusal::QUIET);
            }
            ttm::LEGACY => self.legacy_way()?,
            ttm::SCALABLE if self.unit.profile.scalable => self.scalable_way()?,
            _ => return Err(Refusal::new(reason::RTADDR_INVALID)),
        };
        let hushed = |refusal: Refusal| Refusal { quiet: way.quiet || refusal.quiet, ..refusal };
        self.through(&way).map_err(hushed)
    }

    /// Passes, or translates by, what the entries lead to.
    fn through(&mut self, way: &Way) -> Result<Target, Refusal> {
        let address = self.subject.address;
        let Some(table) = way.table else {
            if address >> self.unit.profile.address_bits != 0 {
                return Err(self.too_wide());
            }
            return Ok(unchanged(address, Passage::StreamBypass));
        };
        let space = match table.first {
            false => Space::Second(way.domain),
            true => Space::First(way.domain, way.pasid.unwrap_or(0)),
        };
        if !table.covers(address, &self.unit.profile) {
            return Err(if table.first {
                Refusal::new(reason::NOT_CANONICAL)
            } else {
                self.too_wide()
            });
        }
        let (size, leaf, cached) = match self.cached(|caches| caches.leaf(space, address)) {
            Some((size, leaf)) => (size, leaf, true),
            None => {
                let (size, leaf) = self.walk(&table, space, way.snoops)?;
                (size, leaf, false)
            }
        };
        let physical = leaf.physical.ok_or(self.not_mapped(table.first))?;
        self.permit(leaf.access, table.first)?;
        let asid = table.first.then_some(way.pasid.unwrap_or(0));
        let passage = Passage::Translated { asid, vmid: way.domain, cached };
        let physical = physical | address & ((1 << size) - 1);
        Ok(Target { physical, passage, made: cached.then_some(leaf.made), size })
    }

    /// Walks `table`, from the deepest table that is cached.
    fn walk(
        &mut self,
        table: &PageTable,
        space: Space,
        snoops: bool,
    ) -> Result<(u32, Leaf), Refusal> {
        let input = self.subject.address;
        let start = Inner { table: table.root, level: table.levels - 1, access: Access::ALL };
        let mut at = self.cached(|caches| caches.table(space, input)).unwrap_or(start);
        let made = self.unit.memory.epoch();
        loop {
            let entry = PageTable::entry(at.table, at.level, input);
            self.descriptors += 1;
            let word = self.walk_word(entry, snoops).map_err(|_| self.unreadable(table.first))?;
            let (physical, size, access) = match table.decode(word, at.level, &self.unit.profile) {
                Entry::Reserved => return Err(self.reserved(table.first)),
                Entry::NotPresent => {
                    let leaf = Leaf { physical: None, access: Access::ALL, made };
                    if self.unit.profile.caching_mode {
                        self.fills.push(Fill::Leaf { space, size: 12, address: input, leaf });
                    }
                    return Ok((12, leaf));
                }
                Entry::Table(next, access) => {
                    let size = PageTable::shift(at.level);
                    at = Inner { table: next, level: at.level - 1, access: at.access.and(access) };
                    self.fills.push(Fill::Table { space, size, address: input, inner: at });
                    continue;
                }
                Entry::Leaf(physical, size, access) => (physical, size, at.access.and(access)),
            };
            let leaf = Leaf { physical: Some(physical), access, made };
            self.fills.push(Fill::Leaf { space, size, address: input, leaf });
            return Ok((size, leaf));
        }
    }

    /// Whether the transaction may do what it wants.
    fn permit(&self, access: Access, first: bool) -> Result<(), Refusal> {
        let allowed = match self.subject.kind {
            AccessKind::Read => access.read,
            AccessKind::Write => access.write,
        };
        if !access.user {
            return Err(Refusal::new(reason::USER));
        }
        if allowed {
            return Ok(());
        }
        Err(match (first, self.subject.kind) {
            (true, AccessKind::Write) => Refusal::new(reason::SM_NO_WRITE),
            (true, AccessKind::Read) => Refusal::new(reason::SM_NO_READ),
            (false, _) => self.not_mapped(false),
        })
    }

    fn by_mode(&self, legacy: u64, second: u64, first: Option<u64>) -> Refusal {
        let scalable = first.unwrap_or(second);
        Refusal::new(if self.is_scalable() { scalable } else { legacy })
    }

    fn too_wide(&self) -> Refusal {
        self.by_mode(reason::BEYOND_WIDTH, reason::SM_BEYOND_WIDTH, None)
    }

    /// In a second stage what is not mapped looks like what is not permitted.
    fn not_mapped(&self, first: bool) -> Refusal {
        let legacy = match self.subject.kind {
            AccessKind::Read => reason::NO_READ,
            AccessKind::Write => reason::NO_WRITE,
        };
        let first = first.then_some(reason::FIRST_NOT_PRESENT);
        self.by_mode(legacy, reason::SECOND_PERMISSION, first)
    }

    fn reserved(&self, first: bool) -> Refusal {
        let first = first.then_some(reason::FIRST_RESERVED);
        self.by_mode(reason::TABLE_RESERVED, reason::SECOND_RESERVED, first)
    }

    fn unreadable(&self, first: bool) -> Refusal {
        let first = first.then_some(reason::FIRST_ACCESS);
        self.by_mode(reason::TABLE_ACCESS, reason::SECOND_ACCESS, first)
    }

    /// Asks the caches, unless this is the oracle's second look.
    pub(super) fn cached<T>(&mut self, ask: impl FnOnce(&Caches) -> Option<T>) -> Option<T> {
        if self.silent {
            return None;
        }
        let found = ask(&self.unit.lock().caches);
        self.used_cache |= found.is_some();
        found
    }

    /// Reads one word of a structure.
    pub(super) fn word(&mut self, address: u64, what: &'static str) -> Result<u64, BusAbort> {
        let snoops = self.unit.profile.coherent;
        self.load(address, snoops, what)
    }

    fn walk_word(&mut self, address: u64, snoops: bool) -> Result<u64, BusAbort> {
        self.load(address, snoops, "page table")
    }

    fn load(&mut self, address: u64, snoops: bool, what: &'static str) -> Result<u64, BusAbort> {
        if self.silent {
            return Ok(self.unit.memory.walk_load(address, View::Cpu)?.0);
        }
        let (word, freed) = self.unit.sight(snoops).walk_load(address)?;
        if freed {
            let by = Agent::Iommu(self.unit.index, what);
            let (address, kind) = (PhysAddr::new(address), AccessKind::Read);
            self.offences.push(Violation::FreedMemory { by, address, kind });
        }
        Ok(word)
    }

    /// Reads an entry of `words` words, in pieces of 16 bytes or more, in any order.
    pub(super) fn entry(
        &mut self,
        structure: &'static str,
        address: u64,
        words: usize,
    ) -> Result<[u64; 8], BusAbort> {
        let unit = self.unit;
        let chunks = &unit.policy.chunks;
        let step = if self.silent { words } else { (chunks.bytes.max(CHUNK) / 8).min(words) };
        let count = words / step;
        let mut order: Vec<usize> = (0..count).collect();
        match chunks.order {
            ChunkOrder::Ascending => {}
            ChunkOrder::Descending => order.reverse(),
            ChunkOrder::Random => {
                for left in (1..count).rev() {
                    order.swap(left, (unit.draw() % (left as u64 + 1)) as usize);
                }
            }
        }
        let mut entry = [0; 8];
        for (read, chunk) in order.into_iter().enumerate() {
            if read > 0 {
                unit.hook.step("iommu", u64::from(unit.index), structure, false);
                if let Some(between) = &chunks.between {
                    let (read, of) = (read as u32, count as u32);
                    between(ChunkPoint { structure, address, read, of });
                }
            }
            let first = chunk * step;
            for (word, value) in (first as u64..).zip(&mut entry[first..first + step]) {
                *value = self.word(address + 8 * word, structure)?;
            }
        }
        Ok(entry)
    }

    /// Whether the tables in memory, looked at now and without caches, no longer lead to `target`.
    fn disagrees(&self, target: &Target) -> bool {
        let Subject { source, pasid, address, kind, privileged } = self.subject;
        let access = model::Access { address, len: 0, kind, substream: pasid, privileged };
        let source = StreamId::new(source);
        let mut second = Transit::new(self.unit, self.control, source, &access, true);
        second.run().map_or(true, |now| now.physical != target.physical)
    }
}

fn unchanged(address: u64, passage: Passage) -> Target {
    Target { physical: address, passage, made: None, size: 12 }
}
