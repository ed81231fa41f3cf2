//! One transaction on its way through the unit (2.3).

use super::caches::{Caches, Fill, Inner, Leaf, Space};
use super::directory::{self, Stages};
use super::faults::{Refusal, Subject};
use super::walk::{Access, Entry, Page, PageTable};
use super::{RiscvIommu, State};
use crate::access::{AccessKind, Agent, Passage};
use crate::chunks::Reader;
use crate::memory::{BusAbort, View};
use crate::model::{self, Aborted, Grant, Land};
use crate::oracle::Violation;
use portcullis_addr::{PhysAddr, StreamId};
use portcullis_spec::riscv::fault::cause;
use portcullis_spec::riscv::{dc, iommu_mode};
use std::mem;

/// The registers that a transaction depends on, as they were when it arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control {
    pub(super) mode: u64,
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

/// What one stage gives.
#[derive(Clone, Copy, Debug)]
struct Found {
    page: Page,
    made: Option<u64>,
}

/// A transaction while it looks for its translation. It holds no lock; what it finds is kept, and the access made, only if nothing was invalidated meanwhile.
pub(super) struct Transit<'a> {
    pub(super) unit: &'a RiscvIommu,
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

impl RiscvIommu {
    /// Takes a transaction; `land` makes the access where it is let through, atomically with the last look at the caches.
    pub(super) fn transact(
        &self,
        device: StreamId,
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
            let mut transit = Transit::new(self, control, device, access, false);
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
                    self.record(&mut state, &transit.subject, refusal);
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

    /// Fetches ahead: the pages before and after, and the context of the neighbouring device. Faults leave no trace.
    fn speculate(&self, device: StreamId, access: &model::Access, size: u64) {
        let (neighbour, address) = (StreamId::new(device.raw() ^ 1), access.address);
        for (device, address) in [
            (device, address.wrapping_sub(size)),
            (device, address.wrapping_add(size)),
            (neighbour, address),
        ] {
            let (control, epoch) = {
                let state = self.lock();
                (state.control(), state.epoch)
            };
            let access = model::Access { address, kind: AccessKind::Read, ..*access };
            let mut transit = Transit::new(self, control, device, &access, false);
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
                Fill::Table { .. } => tlb.tables,
                Fill::Directory { .. } | Fill::Context { .. } => tlb.configuration,
            };
            if wanted {
                state.caches.fill(fill);
            }
        }
    }
}

impl State {
    fn control(&self) -> Control {
        Control { mode: self.registers.mode(), root: self.registers.root() }
    }
}

impl<'a> Transit<'a> {
    fn new(
        unit: &'a RiscvIommu,
        control: Control,
        device: StreamId,
        access: &model::Access,
        silent: bool,
    ) -> Self {
        let subject = Subject {
            device: device.raw(),
            process: access.substream,
            address: access.address,
            kind: access.kind,
            privileged: access.privileged && access.substream.is_some(),
        };
        let (fills, offences) = (Vec::new(), Vec::new());
        Self { unit, control, subject, fills, descriptors: 0, offences, silent, used_cache: false }
    }

    fn run(&mut self) -> Result<Target, Refusal> {
        let address = self.subject.address;
        match self.control.mode {
            iommu_mode::OFF => return Err(Refusal::new(cause::ALL_DISALLOWED)),
            iommu_mode::BARE => return Ok(unchanged(address, Passage::GlobalBypass)),
            _ => {}
        }
        let context = self.context()?;
        let stages = directory::stages(&context);
        let hushed = |refusal| Refusal { quiet: stages.quiet, ..refusal };
        if self.subject.process.is_some() {
            // Without a process directory no transaction may name a process.
            return Err(hushed(Refusal::new(cause::TYPE_DISALLOWED)));
        }
        let found = match (&stages.first, &stages.second) {
            (None, None) => return Ok(unchanged(address, Passage::StreamBypass)),
            (None, Some(table)) => self
                .second(table, address, 0)
                .and_then(|found| self.permit(found.page.access, true, 0).map(|()| found)),
            (Some(table), _) => self.first(table, &stages),
        };
        let Found { page, made } = found.map_err(hushed)?;
        let cached = made.is_some();
        let asid = (stages.first.is_some()).then(|| dc::PSCID.read(&context) as u32);
        let vmid = dc::GSCID.read(&context) as u16;
        let passage = Passage::Translated { asid, vmid, cached };
        let physical = page.output | address & ((1 << page.size) - 1);
        Ok(Target { physical, passage, made, size: page.size })
    }

    /// Translates by the first stage, behind which there may be a second one.
    fn first(&mut self, table: &PageTable, stages: &Stages) -> Result<Found, Refusal> {
        let (input, outer) = (self.subject.address, stages.second.as_ref());
        let space = Space::first(table.tag, outer);
        if let Some((size, leaf)) = self.cached(|caches| caches.leaf(space, input)) {
            self.permit(leaf.own, false, 0)?;
            let guest = leaf.intermediate | input & ((1 << size) - 1);
            self.permit(leaf.outer, true, guest)?;
            return Ok(Found { page: page_of(size, &leaf), made: Some(leaf.made) });
        }
        let fault = Refusal::new(self.subject.page_fault(false));
        if !table.covers(input) {
            return Err(fault);
        }
        let mut page = self.walk(table, space, input, outer)?.ok_or(fault)?;
        self.permit(page.access, false, 0)?;
        self.mark(&mut page, false, 0)?;
        let guest = page.output | input & ((1 << page.size) - 1);
        let (physical, size, outer_access) = match outer {
            None => (page.output, page.size, Access::ALL),
            Some(outer) => {
                let found = self.second(outer, guest, 0)?;
                self.permit(found.page.access, true, guest)?;
                let size = page.size.min(found.page.size);
                let physical = found.page.output | guest & ((1 << found.page.size) - 1);
                (physical >> size << size, size, found.page.access)
            }
        };
        let leaf = Leaf {
            physical,
            intermediate: guest >> size << size,
            own: page.access,
            outer: outer_access,
            global: page.global,
            made: self.unit.memory.epoch(),
        };
        self.fills.push(Fill::Leaf { space, size, address: input, leaf });
        Ok(Found { page: page_of(size, &leaf), made: None })
    }

    /// Translates a guest physical address. `implicit` is 1 for an access to a table of the first stage, which only reads.
    fn second(&mut self, table: &PageTable, input: u64, implicit: u64) -> Result<Found, Refusal> {
        let space = Space::Second(table.tag as u16);
        if let Some((size, leaf)) = self.cached(|caches| caches.leaf(space, input)) {
            return Ok(Found { page: page_of(size, &leaf), made: Some(leaf.made) });
        }
        let fault = self.guest_fault(input, implicit);
        if !table.covers(input) {
            return Err(fault);
        }
        let mut page = self.walk(table, space, input, None)?.ok_or(fault)?;
        if !page.access.user {
            return Err(fault);
        }
        if implicit == 0 {
            self.permit(page.access, true, input)?;
            self.mark(&mut page, true, input)?;
        }
        let leaf = Leaf {
            physical: page.output,
            intermediate: input >> page.size << page.size,
            own: page.access,
            outer: Access::ALL,
            global: false,
            made: self.unit.memory.epoch(),
        };
        self.fills.push(Fill::Leaf { space, size: page.size, address: input, leaf });
        Ok(Found { page, made: None })
    }

    fn guest_fault(&self, guest: u64, implicit: u64) -> Refusal {
        let cause = self.subject.page_fault(true);
        Refusal { guest: guest & !3 | implicit, ..Refusal::new(cause) }
    }

    /// Walks `table` for `input`, from the deepest table that is cached; `None` for a page fault.
    fn walk(
        &mut self,
        table: &PageTable,
        space: Space,
        input: u64,
        outer: Option<&PageTable>,
    ) -> Result<Option<Page>, Refusal> {
        let start = Inner { table: table.root, level: table.levels - 1 };
        let mut at = self.cached(|caches| caches.table(space, input)).unwrap_or(start);
        loop {
            let entry = table.entry(at.table, at.level, input);
            let physical = match outer {
                None => entry,
                Some(outer) => {
                    let found = self.second(outer, entry, 1)?;
                    if !found.page.access.read {
                        return Err(self.guest_fault(entry, 1));
                    }
                    found.page.output | entry & ((1 << found.page.size) - 1)
                }
            };
            self.descriptors += 1;
            let beyond = physical >> self.unit.profile.pas_bits != 0;
            let access_fault = Refusal::new(self.subject.access_fault());
            let word = if beyond { Err(BusAbort) } else { self.word(physical, "descriptor") };
            match PageTable::decode(word.map_err(|_| access_fault)?, at.level) {
                Entry::Fault => return Ok(None),
                Entry::Leaf(page) => return Ok(Some(page)),
                Entry::Table(next) => {
                    let size = PageTable::shift(at.level);
                    at = Inner { table: next, level: at.level - 1 };
                    self.fills.push(Fill::Table { space, size, address: input, inner: at });
                }
            }
        }
    }

    /// Whether the transaction may do what it wants.
    fn permit(&self, access: Access, second: bool, guest: u64) -> Result<(), Refusal> {
        let direction = match self.subject.kind {
            AccessKind::Read => access.read,
            AccessKind::Write => access.write,
        };
        if direction && access.user {
            return Ok(());
        }
        let guest = if second && guest == 0 { self.subject.address } else { guest };
        Err(if second {
            self.guest_fault(guest, 0)
        } else {
            Refusal::new(self.subject.page_fault(false))
        })
    }

    /// A page that is not dirty takes no write, and none that is cached either (2.1.3.1, SADE and GADE).
    fn mark(&self, page: &mut Page, second: bool, guest: u64) -> Result<(), Refusal> {
        page.access.write &= page.dirty;
        self.permit(page.access, second, guest)
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

    /// Reads one word of memory.
    pub(super) fn word(&mut self, address: u64, what: &'static str) -> Result<u64, BusAbort> {
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

    /// Reads a context of `words` words, in pieces: at least 64 bits at once, in any order (2.1.2, 2.9).
    pub(super) fn entry(
        &mut self,
        structure: &'static str,
        address: u64,
        words: usize,
    ) -> Result<[u64; dc::WORDS], BusAbort> {
        let unit = self.unit;
        if self.silent {
            let mut entry = [0; dc::WORDS];
            for (at, value) in (0..).zip(&mut entry[..words]) {
                *value = self.word(address + 8 * at, structure)?;
            }
            return Ok(entry);
        }
        let RiscvIommu { index, policy, sight, hook, .. } = unit;
        let reader = Reader { index: *index, policy, sight, hook };
        reader.read(structure, address, words, |at| self.word(at, structure))
    }

    /// Whether the tables in memory, looked at now and without caches, no longer lead to `target`.
    fn disagrees(&self, target: &Target) -> bool {
        let Subject { device, process, address, kind, privileged } = self.subject;
        let access = model::Access { address, len: 0, kind, substream: process, privileged };
        let device = StreamId::new(device);
        let mut second = Transit::new(self.unit, self.control, device, &access, true);
        second.run().map_or(true, |now| now.physical != target.physical)
    }
}

fn unchanged(address: u64, passage: Passage) -> Target {
    Target { physical: address, passage, made: None, size: 12 }
}

fn page_of(size: u32, leaf: &Leaf) -> Page {
    Page { output: leaf.physical, size, access: leaf.own, dirty: true, global: leaf.global }
}
