//! One access on its way through the unit.

use super::context::{self, Context};
use super::fault::Cause;
use super::registers::{CONFLICT, INVALID_CONTEXT, NO_SUCH_BANK, RegisterFile, UNIDENTIFIED};
use super::{SmmuV2, SmmuV2Line, State};
use crate::access::{AccessKind, Agent, Passage};
use crate::memory::View;
use crate::model::{Aborted, Access, Grant, Land};
use crate::oracle::Violation;
use crate::vmsa::{
    Leaf, Permissions, Stage, Table, TableEntry, Tag, Translations, WalkFault, Walker,
};
use portcullis_addr::{PhysAddr, StreamId};
use portcullis_spec::Field;
use portcullis_spec::smmuv2::bank::{fsr, sctlr};
use portcullis_spec::smmuv2::global0::{s2cr, scr0};
use portcullis_spec::smmuv2::s2cr_type;
use std::sync::Weak;

/// Why an access is refused.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    /// An earlier fault of the bank is outstanding, and `SCTLR.HUPCF` says to wait.
    Silent,
    /// A fault of the whole unit.
    Global(Field),
    /// A fault of one bank.
    Context(usize, Cause),
}

/// Where an access goes.
#[derive(Clone, Copy, Debug)]
struct Target {
    physical: u64,
    passage: Passage,
    /// Of a TLB hit: the memory's epoch when the translation was made.
    made: Option<u64>,
    /// log2 of the page.
    size: u32,
}

/// What a walk found and may be kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill {
    Table(Tag, u32, u64, TableEntry),
    Leaf(Tag, u32, u64, Leaf),
}

/// An access while it looks for its translation.
struct Transit<'a> {
    unit: &'a SmmuV2,
    file: &'a RegisterFile,
    /// `None` for the oracle's second look, which uses and leaves no trace.
    tlb: Option<&'a Translations>,
    id: u32,
    access: Access,
    fills: Vec<Fill>,
    descriptors: u64,
    offences: Vec<Violation>,
}

impl SmmuV2 {
    /// Takes an access. The lock is held to its end: registers, tables and memory are seen at one moment, and a completed invalidation finds it over.
    pub(super) fn transact(
        &self,
        id: StreamId,
        access: &Access,
        land: Land<'_>,
    ) -> Result<(), Aborted> {
        // It looks at registers, so whoever writes one comes before or after.
        self.hook.step("smmu", u64::from(self.index), "transaction", false);
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.gone {
            return Err(Aborted);
        }
        let (outcome, stale) = self.look(state, id.raw(), access);
        let result = match outcome {
            Ok(target) => {
                state.counters.hits += u64::from(target.made.is_some());
                let Target { physical, passage, made, .. } = target;
                let reused = self.policy.verify_owners
                    && made.is_some_and(|at| self.memory.reallocated_since(physical, at));
                land(Grant { physical, passage, stale, reused }).map_err(|_| Aborted)
            }
            Err(refusal) => {
                state.refuse(refusal, id.raw(), access);
                Err(Aborted)
            }
        };
        if let Ok(Target { made: None, size, .. }) = outcome
            && self.policy.speculation
        {
            self.speculate(state, id.raw(), access, 1 << size);
        }
        let lines = std::mem::take(&mut state.lines);
        let (to_share, sharers) = (std::mem::take(&mut state.to_share), state.sharers.clone());
        drop(guard);
        for sharer in sharers.iter().filter_map(Weak::upgrade) {
            sharer.keep_all(&mut sharer.lock(), &to_share);
        }
        self.raise(lines);
        result
    }

    /// Finds the way of an access, keeps what was found on it, and says whether the caches disagree with memory.
    fn look(&self, state: &mut State, id: u32, access: &Access) -> (Result<Target, Refusal>, bool) {
        if state.passing.contains(&id) && !state.file.global(scr0::CLIENTPD) {
            // The MMU-500 keeps that a stream passes, until told.
            let stale = state.file.matching(id).next().is_none_or(|group| !passes(group.s2cr))
                || self.conflicts(state, id);
            return (Ok(unchanged(access, Passage::StreamBypass)), stale);
        }
        let mut transit = Transit::new(self, &state.file, Some(&state.tlb), id, access);
        let outcome = transit.run();
        let stale = self.policy.verify_hits
            && outcome
                .as_ref()
                .is_ok_and(|target| target.made.is_some() && transit.disagrees(target.physical));
        let Transit { fills, descriptors, offences, .. } = transit;
        state.counters.descriptors += descriptors;
        offences.into_iter().for_each(|offence| self.oracle.violated(offence));
        self.keep(state, fills);
        if let Ok(Target { passage: Passage::StreamBypass, .. }) = outcome {
            state.keep_passing(id);
        }
        (outcome, stale)
    }

    fn conflicts(&self, state: &State, id: u32) -> bool {
        state.file.matching(id).nth(1).is_some()
    }

    fn keep(&self, state: &mut State, fills: Vec<Fill>) {
        self.keep_all(state, &fills);
        if !state.sharers.is_empty() {
            state.to_share.extend(fills);
        }
    }

    fn keep_all(&self, state: &mut State, fills: &[Fill]) {
        let wanted = self.policy.tlb;
        for fill in fills {
            match *fill {
                Fill::Table(tag, size, address, entry) => {
                    if wanted.tables {
                        state.tlb.keep_table(tag, size, address, entry);
                    }
                }
                Fill::Leaf(tag, size, address, leaf) => {
                    let kept = wanted.translations;
                    let conflict = kept && state.tlb.keep(tag, size, address, leaf);
                    if conflict {
                        let iommu = self.index;
                        self.oracle.violated(Violation::TlbConflict { iommu, address });
                    }
                }
            }
        }
    }

    /// Fetches speculatively: the pages before and after. Faults leave no trace.
    fn speculate(&self, state: &mut State, id: u32, access: &Access, size: u64) {
        for address in [access.address.wrapping_sub(size), access.address.wrapping_add(size)] {
            let access = Access { address, kind: AccessKind::Read, ..*access };
            let mut transit = Transit::new(self, &state.file, Some(&state.tlb), id, &access);
            let _found = transit.run();
            let fills = transit.fills;
            self.keep(state, fills);
        }
    }
}

fn passes(s2cr: u32) -> bool {
    s2cr::TYPE.get(s2cr.into()) == s2cr_type::BYPASS
}

fn unchanged(access: &Access, passage: Passage) -> Target {
    Target { physical: access.address, passage, made: None, size: 12 }
}

impl State {
    /// Notes that a stream passes, where the unit keeps such things.
    fn keep_passing(&mut self, id: u32) {
        let (unmatched, bypass) = self.file.keeps_passing();
        let kept = if self.file.matching(id).next().is_none() { unmatched } else { bypass };
        if kept {
            self.passing.insert(id);
        }
    }

    fn refuse(&mut self, refusal: Refusal, id: u32, access: &Access) {
        match refusal {
            Refusal::Silent => self.counters.faults_lost += 1,
            Refusal::Global(kind) => {
                let first = self.file.fault.record(kind, id, access);
                self.count(first);
                if first && self.file.global(scr0::GFIE) {
                    self.lines.push(SmmuV2Line::Global);
                }
            }
            Refusal::Context(index, cause) => {
                let bank = &mut self.file.banks[index];
                let first = bank.fault.record(cause, id, access);
                let raises = first && bank.has(sctlr::CFIE);
                self.count(first);
                if raises {
                    self.lines.push(SmmuV2Line::Context(index as u8));
                }
            }
        }
    }

    fn count(&mut self, first: bool) {
        self.counters.faults += u64::from(first);
        self.counters.faults_lost += u64::from(!first);
    }
}

impl<'a> Transit<'a> {
    fn new(
        unit: &'a SmmuV2,
        file: &'a RegisterFile,
        tlb: Option<&'a Translations>,
        id: u32,
        access: &Access,
    ) -> Self {
        let (fills, offences) = (Vec::new(), Vec::new());
        Self { unit, file, tlb, id, access: *access, fills, descriptors: 0, offences }
    }

    fn run(&mut self) -> Result<Target, Refusal> {
        if self.file.global(scr0::CLIENTPD) {
            return Ok(unchanged(&self.access, Passage::GlobalBypass));
        }
        let mut groups = self.file.matching(self.id);
        let Some(group) = groups.next() else {
            if self.file.global(scr0::USFCFG) {
                return Err(Refusal::Global(UNIDENTIFIED));
            }
            return Ok(unchanged(&self.access, Passage::StreamBypass));
        };
        if groups.next().is_some() {
            let (iommu, stream) = (self.unit.index, StreamId::new(self.id));
            self.offences.push(Violation::MatchConflict { iommu, stream });
            return Err(Refusal::Global(CONFLICT));
        }
        let s2cr = u64::from(group.s2cr);
        match s2cr::TYPE.get(s2cr) {
            s2cr_type::TRANSLATION => self.translate(s2cr::CBNDX.get(s2cr) as usize),
            s2cr_type::BYPASS => Ok(unchanged(&self.access, Passage::StreamBypass)),
            _ => Err(Refusal::Global(INVALID_CONTEXT)),
        }
    }

    fn translate(&mut self, index: usize) -> Result<Target, Refusal> {
        let Some(bank) = self.file.banks.get(index) else {
            return Err(Refusal::Global(NO_SUCH_BANK));
        };
        let address = self.access.address;
        match context::decode(self.file, &self.unit.profile, index, address) {
            Context::Pass => Ok(unchanged(&self.access, Passage::StreamBypass)),
            Context::Invalid => Err(Refusal::Global(INVALID_CONTEXT)),
            Context::Translate { tag, input, table } => {
                let held = bank.fault.is_outstanding() && !bank.has(sctlr::HUPCF);
                if held && self.tlb.is_some() {
                    return Err(Refusal::Silent);
                }
                let format = context::format(bank);
                let fault = |kind, level| {
                    let stage2 = tag.asid.is_none();
                    Refusal::Context(index, Cause { kind, level, walk: false, stage2, format })
                };
                let hit = self.tlb.and_then(|tlb| tlb.leaf(tag, input));
                let (size, leaf, made) = match hit {
                    Some((size, leaf)) => (size, leaf, Some(leaf.epoch)),
                    None => {
                        let table = table.ok_or_else(|| fault(fsr::TF, 1))?;
                        let (size, leaf) = self.walk(index, &table, tag, input, format)?;
                        (size, leaf, None)
                    }
                };
                if !self.permits(leaf.own) {
                    return Err(fault(fsr::PF, leaf.level));
                }
                let physical = leaf.physical | input & ((1 << size) - 1);
                let (asid, vmid, cached) = (tag.asid, tag.vmid, made.is_some());
                let passage = Passage::Translated { asid: asid.map(u32::from), vmid, cached };
                Ok(Target { physical, passage, made, size })
            }
        }
    }

    fn permits(&self, permissions: Permissions) -> bool {
        let direction = match self.access.kind {
            AccessKind::Read => permissions.read,
            AccessKind::Write => permissions.write,
        };
        direction && (permissions.user || self.access.privileged)
    }

    fn walk(
        &mut self,
        index: usize,
        table: &Table,
        tag: Tag,
        input: u64,
        format: u64,
    ) -> Result<(u32, Leaf), Refusal> {
        let cached = self.tlb.and_then(|tlb| tlb.table(tag, input));
        let stage2 = table.stage == Stage::Two;
        let mut steps = Steps { transit: self, index, tag, input, format, stage2 };
        let page = table.walk(input, cached, &mut steps)?;
        let tag = if page.global { Tag { asid: None, ..tag } } else { tag };
        let leaf = Leaf {
            physical: page.output,
            intermediate: page.output,
            own: page.permissions,
            outer: Permissions::ALL,
            level: page.level,
            granule: table.granule,
            epoch: self.unit.memory.epoch(),
        };
        self.fills.push(Fill::Leaf(tag, page.size, input, leaf));
        Ok((page.size, leaf))
    }

    /// Whether tables in memory, looked at now and without caches, no longer lead to `physical`.
    fn disagrees(&self, physical: u64) -> bool {
        let mut second = Transit::new(self.unit, self.file, None, self.id, &self.access);
        second.run().map_or(true, |now| now.physical != physical)
    }
}

/// One walk.
struct Steps<'w, 'a> {
    transit: &'w mut Transit<'a>,
    index: usize,
    tag: Tag,
    input: u64,
    format: u64,
    stage2: bool,
}

impl Steps<'_, '_> {
    fn refusal(&self, kind: Field, level: u32, walk: bool) -> Refusal {
        let (stage2, format) = (self.stage2, self.format);
        Refusal::Context(self.index, Cause { kind, level, walk, stage2, format })
    }
}

impl Walker for Steps<'_, '_> {
    type Refusal = Refusal;

    fn descriptor(&mut self, address: u64, level: u32) -> Result<u64, Refusal> {
        let unit = self.transit.unit;
        let silent = self.transit.tlb.is_none();
        let read = if silent {
            unit.memory.walk_load(address, View::Cpu)
        } else {
            unit.sight.walk_load(address)
        };
        let (word, freed) = read.map_err(|_| self.refusal(fsr::EF, level, true))?;
        self.transit.descriptors += 1;
        if freed && !silent {
            let by = Agent::Iommu(unit.index, "descriptor");
            let (address, kind) = (PhysAddr::new(address), AccessKind::Read);
            self.transit.offences.push(Violation::FreedMemory { by, address, kind });
        }
        Ok(word)
    }

    fn passed(&mut self, size: u32, entry: TableEntry) {
        self.transit.fills.push(Fill::Table(self.tag, size, self.input, entry));
    }

    fn fault(&self, fault: WalkFault, level: u32) -> Refusal {
        let kind = match fault {
            WalkFault::Translation => fsr::TF,
            WalkFault::AddressSize => fsr::ASF,
            WalkFault::AccessFlag => fsr::AFF,
        };
        self.refusal(kind, level, false)
    }
}
