//! One transaction on its way through the unit (chapter 15).

use super::caches::{Caches, Fill};
use super::context::Context;
use super::events::{Fault, Refusal, Subject};
use super::stream::{Route, Stages};
use super::walk::refuse;
use super::{SmmuV3, State, context, stream};
use crate::access::{AccessKind, Agent, Passage};
use crate::faults::{ChunkOrder, ChunkPoint};
use crate::memory::{BusAbort, View};
use crate::model::{Aborted, Access, Grant, Land};
use crate::oracle::Violation;
use crate::vmsa::{Leaf, Permissions, Regime, Stage, Table, Tag};
use portcullis_addr::{PhysAddr, StreamId};
use portcullis_spec::smmuv3::event::{class, number};
use std::mem;

/// The registers that a transaction depends on, as they were when it arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control {
    pub(super) translates: bool,
    pub(super) aborts_all: bool,
    pub(super) records_bad_streams: bool,
    pub(super) strtab_base: u64,
    pub(super) strtab_cfg: u32,
}

/// Where a transaction goes.
#[derive(Clone, Copy, Debug)]
struct Target {
    physical: u64,
    passage: Passage,
    /// Of a TLB hit: the memory's epoch when the translation was made.
    made: Option<u64>,
    /// log2 of the page.
    size: u32,
}

impl Target {
    fn unchanged(address: u64, passage: Passage) -> Self {
        Self { physical: address, passage, made: None, size: 12 }
    }
}

/// What a stage 2 translation gives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage2Found {
    pub(super) physical: u64,
    size: u32,
    permissions: Permissions,
    made: Option<u64>,
}

/// A transaction while it looks for its translation. It holds no lock; what it finds is kept, and the access made, only if nothing was invalidated meanwhile.
pub(super) struct Transit<'a> {
    pub(super) smmu: &'a SmmuV3,
    pub(super) control: Control,
    pub(super) subject: Subject,
    pub(super) fills: Vec<Fill>,
    /// Bits of a StreamID below the level 1 descriptor that was read, where one was.
    pub(super) split: u32,
    pub(super) descriptors: u64,
    /// What was found on the way, to be reported if the walk counts.
    offences: Vec<Violation>,
    /// A second look for the oracle: reads memory as the CPU sees it, uses and leaves no trace.
    silent: bool,
    used_cache: bool,
}

impl SmmuV3 {
    /// Takes a transaction; `land` makes the access where it is let through, atomically with the last look at the caches.
    pub(super) fn transact(
        &self,
        stream: StreamId,
        access: &Access,
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
            let mut transit = Transit::new(self, control, stream, access, false);
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
                    if let Some(record) = refusal.record(transit.subject) {
                        state.record(record, &self.memory, self.event_view(), self.index);
                    }
                    Err(Aborted)
                }
            };
            let deliveries = mem::take(&mut state.deliveries);
            drop(state);
            self.deliver(deliveries);
            if let Ok(Target { made: None, size, .. }) = outcome
                && self.policy.speculation
            {
                self.speculate(stream, access, 1 << size);
            }
            return result;
        }
    }

    /// Fetches speculatively: the pages before and after, and the configuration of the neighbouring stream (§3.14, §3.21.3). Faults leave no trace.
    fn speculate(&self, stream: StreamId, access: &Access, size: u64) {
        let neighbour = StreamId::new(stream.raw() ^ 1);
        let address = access.address;
        for (stream, address) in [
            (stream, address.wrapping_sub(size)),
            (stream, address.wrapping_add(size)),
            (neighbour, address),
        ] {
            let (control, epoch) = {
                let state = self.lock();
                (state.control(), state.epoch)
            };
            let access = Access { address, kind: AccessKind::Read, ..*access };
            let mut transit = Transit::new(self, control, stream, &access, false);
            let _found = transit.run();
            let mut state = self.lock();
            if state.epoch == epoch {
                self.keep(&mut state, &mut transit);
            }
        }
    }

    /// Event records of a unit that does not snoop stay out of the CPUs' caches.
    fn event_view(&self) -> View {
        if self.profile.coherent { View::Cpu } else { View::Published }
    }

    fn keep(&self, state: &mut State, transit: &mut Transit<'_>) {
        state.counters.descriptors += transit.descriptors;
        transit.offences.drain(..).for_each(|offence| self.oracle.violated(offence));
        let tlb = self.policy.tlb;
        if transit.split != 0 {
            state.caches.set_split(transit.split);
        }
        for fill in transit.fills.drain(..) {
            let wanted = match fill {
                Fill::Leaf { .. } => tlb.translations,
                Fill::Table { .. } => tlb.tables,
                _ => tlb.configuration,
            };
            if !wanted {
                continue;
            }
            if let Some(address) = state.caches.fill(fill)
                && self.profile.bbml == 0
            {
                let iommu = self.index;
                self.oracle.violated(Violation::TlbConflict { iommu, address });
            }
        }
    }
}

impl State {
    fn control(&self) -> Control {
        let (strtab_base, strtab_cfg) = self.registers.stream_table();
        Control {
            translates: self.registers.translates(),
            aborts_all: self.registers.aborts_all(),
            records_bad_streams: self.registers.records_bad_streams(),
            strtab_base,
            strtab_cfg,
        }
    }
}

impl<'a> Transit<'a> {
    fn new(
        smmu: &'a SmmuV3,
        control: Control,
        stream: StreamId,
        access: &Access,
        silent: bool,
    ) -> Self {
        let subject = Subject {
            stream: stream.raw(),
            substream: access.substream,
            address: access.address,
            kind: access.kind,
            privileged: access.privileged,
        };
        Self {
            smmu,
            control,
            subject,
            fills: Vec::new(),
            split: 0,
            descriptors: 0,
            offences: Vec::new(),
            silent,
            used_cache: false,
        }
    }

    fn run(&mut self) -> Result<Target, Refusal> {
        let address = self.subject.address;
        if !self.control.translates {
            let target = Target::unchanged(address, Passage::GlobalBypass);
            return if self.control.aborts_all { Err(Refusal::Silent) } else { Ok(target) };
        }
        let entry = self.stream_entry()?;
        let stages = match stream::decode(&entry, &self.smmu.profile)? {
            Route::Abort => return Err(Refusal::Silent),
            Route::Bypass => {
                if self.subject.substream.is_some() {
                    return Err(Refusal::Configuration(number::C_BAD_SUBSTREAMID));
                }
                return self.bypass(Passage::StreamBypass);
            }
            Route::Translate(stages) => stages,
        };
        let index = match &stages.contexts {
            Some(table) => self.context_index(table)?.map(|index| (*table, index)),
            None if self.subject.substream.is_some() => {
                return Err(Refusal::Configuration(number::C_BAD_SUBSTREAMID));
            }
            None => None,
        };
        match (index, &stages.stage2) {
            (Some((table, index)), _) => {
                let entry = self.context_entry(&table, &stages, index)?;
                let context = context::decode(&entry, &self.smmu.profile)?;
                self.stage1(&stages, &context)
            }
            (None, Some(table)) => {
                let found = self.stage2(&stages, table, address, class::IN, self.subject.kind)?;
                let cached = found.made.is_some();
                let passage = Passage::Translated { asid: None, vmid: stages.vmid, cached };
                let (physical, size) = (found.physical, found.size);
                Ok(Target { physical, passage, made: found.made, size })
            }
            (None, None) => self.bypass(Passage::StreamBypass),
        }
    }

    /// The address unchanged, if there is such an address at all.
    fn bypass(&self, passage: Passage) -> Result<Target, Refusal> {
        let physical = self.subject.address;
        if physical >> self.smmu.profile.oas_bits != 0 {
            let number = number::F_ADDR_SIZE;
            let fault = Fault { number, stage2: false, class: class::IN, other: 0 };
            return Err(Refusal::Translation(fault));
        }
        Ok(Target::unchanged(physical, passage))
    }

    fn stage1(&mut self, stages: &Stages, context: &Context) -> Result<Target, Refusal> {
        let upper = self.subject.address >> 55 & 1 == 1;
        let table = &context.tables[usize::from(upper)];
        let input = if context.top_byte_ignored[usize::from(upper)] {
            ((self.subject.address << 8) as i64 >> 8) as u64
        } else {
            self.subject.address
        };
        let tag = Tag { regime: Regime::Stage1, vmid: stages.vmid, asid: Some(context.asid) };
        let passage = |cached| Passage::Translated {
            asid: Some(context.asid.into()),
            vmid: stages.vmid,
            cached,
        };
        if let Some((size, leaf)) = self.cached(|caches| caches.translations.leaf(tag, input)) {
            let offset = input & ((1 << size) - 1);
            self.permit(table, leaf.own, class::IN, input)?;
            if let Some(outer) = &stages.stage2 {
                self.permit(outer, leaf.outer, class::IN, leaf.intermediate | offset)?;
            }
            let physical = leaf.physical | offset;
            return Ok(Target { physical, passage: passage(true), made: Some(leaf.epoch), size });
        }
        if table.disabled || !table.covers(input, upper) {
            return Err(refuse(table, number::F_TRANSLATION, class::IN, 0));
        }
        let page = self.walk(stages, table, tag, input, class::IN)?;
        let tag = if page.global { Tag { asid: None, ..tag } } else { tag };
        let mut leaf = Leaf {
            physical: page.output,
            intermediate: page.output,
            own: page.permissions,
            outer: Permissions::ALL,
            level: page.level,
            granule: table.granule,
            epoch: self.smmu.memory.epoch(),
        };
        let Some(outer) = &stages.stage2 else {
            self.fills.push(Fill::Leaf { tag, size: page.size, address: input, leaf });
            self.permit(table, page.permissions, class::IN, input)?;
            let physical = page.output | input & ((1 << page.size) - 1);
            return Ok(Target { physical, passage: passage(false), made: None, size: page.size });
        };
        self.permit(table, page.permissions, class::IN, input)?;
        let intermediate = page.output | input & ((1 << page.size) - 1);
        let found = self.stage2(stages, outer, intermediate, class::IN, self.subject.kind)?;
        let size = page.size.min(found.size);
        leaf.physical = found.physical >> size << size;
        leaf.intermediate = intermediate >> size << size;
        leaf.outer = found.permissions;
        self.fills.push(Fill::Leaf { tag, size, address: input, leaf });
        Ok(Target { physical: found.physical, passage: passage(false), made: None, size })
    }

    /// Translates an intermediate address; `class` says of what.
    pub(super) fn stage2(
        &mut self,
        stages: &Stages,
        table: &Table,
        input: u64,
        class: u64,
        kind: AccessKind,
    ) -> Result<Stage2Found, Refusal> {
        let tag = Tag { regime: Regime::Stage2, vmid: stages.vmid, asid: None };
        let (size, leaf, made) = match self.cached(|caches| caches.translations.leaf(tag, input)) {
            Some((size, leaf)) => (size, leaf, Some(leaf.epoch)),
            None => {
                if !table.covers(input, false) {
                    return Err(refuse(table, number::F_TRANSLATION, class, input));
                }
                let page = self.walk(stages, table, tag, input, class)?;
                let leaf = Leaf {
                    physical: page.output,
                    intermediate: page.output,
                    own: page.permissions,
                    outer: Permissions::ALL,
                    level: page.level,
                    granule: table.granule,
                    epoch: self.smmu.memory.epoch(),
                };
                self.fills.push(Fill::Leaf { tag, size: page.size, address: input, leaf });
                (page.size, leaf, None)
            }
        };
        let allowed = match kind {
            AccessKind::Read => leaf.own.read,
            AccessKind::Write => leaf.own.write,
        };
        if !allowed {
            return Err(refuse(table, number::F_PERMISSION, class, input));
        }
        let physical = leaf.physical | input & ((1 << size) - 1);
        Ok(Stage2Found { physical, size, permissions: leaf.own, made })
    }

    /// Whether the transaction may do what it wants.
    fn permit(
        &self,
        table: &Table,
        permissions: Permissions,
        class: u64,
        input: u64,
    ) -> Result<(), Refusal> {
        let direction = match self.subject.kind {
            AccessKind::Read => permissions.read,
            AccessKind::Write => permissions.write,
        };
        if direction && (permissions.user || self.subject.privileged) {
            return Ok(());
        }
        let other = if table.stage == Stage::Two { input } else { 0 };
        Err(refuse(table, number::F_PERMISSION, class, other))
    }

    /// Asks the caches, unless this is the oracle's second look.
    pub(super) fn cached<T>(&mut self, ask: impl FnOnce(&Caches) -> Option<T>) -> Option<T> {
        if self.silent {
            return None;
        }
        let found = ask(&self.smmu.lock().caches);
        self.used_cache |= found.is_some();
        found
    }

    pub(super) fn keeps_invalid(&self) -> bool {
        self.smmu.policy.tlb.invalid_configuration
    }

    /// Reads one word of memory.
    pub(super) fn word(&mut self, address: u64, what: &'static str) -> Result<u64, BusAbort> {
        if self.silent {
            return Ok(self.smmu.memory.walk_load(address, View::Cpu)?.0);
        }
        let (word, freed) = self.smmu.sight.walk_load(address)?;
        if freed {
            let by = Agent::Iommu(self.smmu.index, what);
            let (address, kind) = (PhysAddr::new(address), AccessKind::Read);
            self.offences.push(Violation::FreedMemory { by, address, kind });
        }
        Ok(word)
    }

    /// Reads an entry of 64 bytes, in pieces. On an abort, its address.
    pub(super) fn entry(&mut self, structure: &'static str, address: u64) -> Result<[u64; 8], u64> {
        let smmu = self.smmu;
        let chunks = &smmu.policy.chunks;
        let words = if self.silent { 8 } else { chunks.bytes / 8 };
        let count = 8 / words;
        let mut order: Vec<usize> = (0..count).collect();
        match chunks.order {
            ChunkOrder::Ascending => {}
            ChunkOrder::Descending => order.reverse(),
            ChunkOrder::Random => {
                for left in (1..count).rev() {
                    order.swap(left, (self.smmu.sight.draw() % (left as u64 + 1)) as usize);
                }
            }
        }
        let mut entry = [0; 8];
        for (read, chunk) in order.into_iter().enumerate() {
            if read > 0 {
                self.smmu.hook.step("smmu", u64::from(self.smmu.index), structure, false);
                if let Some(between) = &chunks.between {
                    let (read, of) = (read as u32, count as u32);
                    between(ChunkPoint { structure, address, read, of });
                }
            }
            let first = chunk * words;
            for (word, value) in (first as u64..).zip(&mut entry[first..first + words]) {
                *value = self.word(address + 8 * word, structure).map_err(|_| address)?;
            }
        }
        Ok(entry)
    }

    /// Whether the tables in memory, looked at now and without caches, no longer lead to `target`.
    fn disagrees(&self, target: &Target) -> bool {
        let Subject { stream, substream, address, kind, privileged } = self.subject;
        let access = Access { address, len: 0, kind, substream, privileged };
        let stream = StreamId::new(stream);
        let mut second = Transit::new(self.smmu, self.control, stream, &access, true);
        second.run().map_or(true, |now| now.physical != target.physical)
    }
}
