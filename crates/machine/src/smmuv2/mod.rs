//! A register-level SMMUv2 (Arm IHI 0062), modelled on the MMU-500: its Non-secure programming interface.

mod context;
mod fault;
mod profile;
mod registers;
mod together;
mod translate;

pub use profile::SmmuV2Profile;
pub use together::{Interleaved, share_translations};

use crate::faults::{Consumption, Faults, Policy};
use crate::hook::Hook;
use crate::memory::PhysicalMemory;
use crate::model::{Aborted, Access, IommuModel, Land, RegisterBlock, RegisterModel, Wiring};
use crate::oracle::{Oracle, Violation};
use crate::sight::Sight;
use crate::vmsa::{Scope, Translations};
use portcullis_addr::StreamId;
use portcullis_spec::smmuv2::bank;
use portcullis_spec::smmuv2::global0::STLBGSTATUS;
use registers::{Effect, Issuer, RegisterFile};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use translate::Fill;

/// The interrupt outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SmmuV2Line {
    /// A global fault was recorded.
    Global,
    /// A fault of that context bank was recorded.
    Context(u8),
}

/// A group that firmware programmed before the operating system came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareGroup {
    /// The id that it matches; without stream matching, the group's number.
    pub id: StreamId,
    /// The bits of it that are ignored.
    pub mask: u16,
    /// The bank that it leads to; `None` lets its streams pass.
    pub bank: Option<u8>,
}

/// What an instance has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SmmuV2Counters {
    /// Register accesses, 32 or 64 bits.
    pub register_accesses: u64,
    /// TLB maintenance operations.
    pub invalidations: u64,
    /// Waits for them, global and of banks.
    pub syncs: u64,
    /// Faults recorded.
    pub faults: u64,
    /// Faults that were not recorded because an earlier one was, or that an outstanding one made wait.
    pub faults_lost: u64,
    /// Interrupts raised (or that would have been, where they get lost).
    pub interrupts: u64,
    /// Descriptors read from tables.
    pub descriptors: u64,
    /// Accesses whose translation came from the TLB.
    pub hits: u64,
}

type LineSink = Arc<dyn Fn(SmmuV2Line) + Send + Sync>;

/// A wait for maintenance.
#[derive(Clone, Debug, Default)]
struct Wait {
    /// Looks at the status until it is over; `None`: it never is.
    looks: Option<u32>,
    covers: Vec<(Issuer, Scope)>,
}

/// All the state that changes.
#[derive(Debug)]
struct State {
    file: RegisterFile,
    tlb: Translations,
    /// Streams of which the TLB remembers that they pass untranslated.
    passing: BTreeSet<u32>,
    /// Maintenance that was issued and is not yet in effect.
    owed: Vec<(Issuer, Scope)>,
    waits: BTreeMap<Issuer, Wait>,
    faults: Faults,
    /// Counts since the faults were injected.
    accesses_since: u64,
    syncs_since: u64,
    gone: bool,
    counters: SmmuV2Counters,
    lines: Vec<SmmuV2Line>,
    /// Units that find what this one fetches, and what they have not been told of yet.
    sharers: Vec<Weak<SmmuV2>>,
    to_share: Vec<Fill>,
}

/// One SMMUv2 on the machine's bus.
///
/// It keeps every translation that it ever fetched until maintenance that covers it was *waited for* ([`Policy::consumption`] is [`Late`](Consumption::Late)): an operation without
/// its sync has no effect, and a bank's sync covers the bank's own operations only. Tags are ASID and VMID, not banks: a bank that is used again with the same tags finds what the
/// last user left. After reset clients pass, groups lead to bypass and a bank that is not enabled passes addresses unchanged, so that stores in the wrong order show. A stream that
/// matches two groups faults, and is a [`Violation::MatchConflict`]. What belongs to Secure software reads as zero and ignores writes.
///
/// Of the [`Faults`] it takes stuck registers, a unit that is gone, syncs that never complete and lost interrupts. Those of queues have no effect.
pub struct SmmuV2 {
    index: u32,
    profile: SmmuV2Profile,
    policy: Policy,
    memory: Arc<PhysicalMemory>,
    oracle: Arc<Oracle>,
    hook: Hook,
    sight: Sight,
    state: Mutex<State>,
    sink: Mutex<Option<LineSink>>,
}

impl SmmuV2 {
    pub(crate) fn new(wiring: Wiring, profile: SmmuV2Profile) -> Self {
        let Wiring { index, seed, policy, memory, oracle, hook } = wiring;
        let sight = Sight::new(&memory, profile.coherent, policy.store_order, seed);
        let state = State {
            file: RegisterFile::reset(&profile),
            tlb: Translations::default(),
            passing: BTreeSet::new(),
            owed: Vec::new(),
            waits: BTreeMap::new(),
            faults: Faults::none(),
            accesses_since: 0,
            syncs_since: 0,
            gone: false,
            counters: SmmuV2Counters::default(),
            lines: Vec::new(),
            sharers: Vec::new(),
            to_share: Vec::new(),
        };
        let (state, sink) = (Mutex::new(state), Mutex::new(None));
        Self { index, profile, policy, memory, oracle, hook, sight, state, sink }
    }

    /// What it implements.
    pub fn profile(&self) -> &SmmuV2Profile {
        &self.profile
    }

    /// Its register block, for a driver.
    pub fn registers(self: &Arc<Self>) -> SmmuV2Registers {
        RegisterBlock::new(self)
    }

    /// Calls `sink` for every interrupt, from whichever thread caused it. No lock of the machine is held then.
    pub fn on_interrupt(&self, sink: impl Fn(SmmuV2Line) + Send + Sync + 'static) {
        *self.sink.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(sink));
    }

    /// Breaks it, from now on, in exactly these ways; [`Faults::none`] repairs it (a wait that hangs completes).
    pub fn inject(&self, mut faults: Faults) {
        let mut state = self.lock();
        for (offset, value) in &mut faults.stuck {
            value.get_or_insert(u64::from(state.file.read(*offset & !3)));
        }
        state.faults = faults;
        state.accesses_since = 0;
        state.syncs_since = 0;
        state.gone = false;
        for wait in state.waits.values_mut() {
            wait.looks.get_or_insert(0);
        }
    }

    /// The unit as firmware leaves it that has a device running, the display say: it is on, these groups match (the first ones of the unit, in order), and what matches none passes. No trap of
    /// the profile is in firmware's way, because it is firmware that traps. Banks are programmed by their registers.
    pub fn leave_running(&self, groups: &[FirmwareGroup]) {
        self.lock().file.leave_running(groups);
    }

    fn share_with(&self, sharers: Vec<Weak<Self>>) {
        self.lock().sharers = sharers;
    }

    /// What it has done so far.
    pub fn counters(&self) -> SmmuV2Counters {
        self.lock().counters
    }

    /// Translations in its TLB.
    pub fn cached_translations(&self) -> usize {
        self.lock().tlb.count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the interrupts that became due while the lock was held.
    fn raise(&self, lines: Vec<SmmuV2Line>) {
        if lines.is_empty() {
            return;
        }
        let lost = {
            let mut state = self.lock();
            state.counters.interrupts += lines.len() as u64;
            state.faults.no_interrupts
        };
        let sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sink) = sink.filter(|_| !lost) {
            lines.into_iter().for_each(|line| sink(line));
        }
    }

    fn access<T>(
        &self,
        offset: usize,
        write: bool,
        act: impl FnOnce(&mut State) -> T,
    ) -> Option<T> {
        let name = || self.lock().file.name(offset);
        self.hook.step_named("smmu", u64::from(self.index), name, write);
        let mut state = self.lock();
        state.counters.register_accesses += 1;
        state.accesses_since += 1;
        let accesses = state.accesses_since;
        state.gone |= state.faults.gone_at_access.is_some_and(|nth| accesses >= nth);
        if state.gone { None } else { Some(act(&mut state)) }
    }

    /// The interconnect of some integrations loses accesses of 64 bits.
    fn carries(&self, offset: usize, bytes: usize) -> bool {
        let carried = bytes == 4 || self.profile.wide_access;
        if !carried {
            let iommu = self.index;
            self.oracle.violated(Violation::LostAccess { iommu, offset });
        }
        carried
    }
}

/// Whose status register that is.
fn waited_for(offset: usize, shape: portcullis_spec::smmuv2::BlockShape) -> Option<Issuer> {
    if offset == STLBGSTATUS.offset {
        return Some(None);
    }
    let banks = offset.checked_sub(shape.bank(0))?;
    let (bank, within) = (banks / shape.page(), banks % shape.page());
    (within == bank::TLBSTATUS.offset).then_some(Some(bank as u8))
}

impl State {
    fn carry_out(&mut self, effect: Effect, policy: &Policy) {
        match effect {
            Effect::None => {}
            Effect::Forget(issuer, scope) => {
                self.counters.invalidations += 1;
                self.owed.push((issuer, scope));
                if policy.consumption == Consumption::Eager {
                    self.forget_owed(issuer);
                }
            }
            Effect::Sync(issuer) => {
                self.counters.syncs += 1;
                self.syncs_since += 1;
                let covers = self.covered(issuer);
                let hangs = self.faults.hang_sync.is_some_and(|nth| self.syncs_since >= nth);
                let looks = (!hangs).then_some(policy.update_delay);
                if looks == Some(0) {
                    covers.iter().for_each(|(_, scope)| self.forget(scope));
                } else {
                    let wait = self.waits.entry(issuer).or_default();
                    wait.looks = looks;
                    wait.covers.extend(covers);
                }
            }
        }
    }

    /// What a wait of `issuer` covers: a bank's own operations, the global one's all. Operations that another wait covers too are not over before this one: both wait for them.
    fn covered(&mut self, issuer: Issuer) -> Vec<(Issuer, Scope)> {
        let covers = |by: Issuer| issuer.is_none() || by == issuer;
        let others = self.waits.iter().filter(|(whose, _)| **whose != issuer);
        let pending = others.flat_map(|(_, wait)| wait.covers.iter().copied());
        let mut covered: Vec<_> = pending.filter(|(by, _)| covers(*by)).collect();
        let (taken, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.owed).into_iter().partition(|(by, _)| covers(*by));
        self.owed = rest;
        covered.extend(taken);
        covered
    }

    fn forget_owed(&mut self, issuer: Issuer) {
        for (_, scope) in self.covered(issuer) {
            self.forget(&scope);
        }
    }

    fn forget(&mut self, scope: &Scope) {
        self.tlb.forget(scope);
        if *scope == Scope::everything() {
            self.passing.clear();
        }
    }

    /// A look at a status register: whether the wait still goes on.
    fn is_active(&mut self, issuer: Issuer) -> bool {
        let Some(wait) = self.waits.get_mut(&issuer) else { return false };
        match &mut wait.looks {
            None => true,
            Some(0) => {
                let covers = std::mem::take(&mut wait.covers);
                self.waits.remove(&issuer);
                covers.iter().for_each(|(_, scope)| self.forget(scope));
                false
            }
            Some(looks) => {
                *looks -= 1;
                true
            }
        }
    }
}

impl RegisterModel for SmmuV2 {
    fn read(&self, offset: usize, bytes: usize) -> u64 {
        if !self.carries(offset, bytes) {
            return u64::MAX;
        }
        let shape = self.profile.shape();
        let value = self.access(offset, false, |state| {
            let word = |at: usize| match state.faults.stuck_at(at) {
                Some(stuck) => stuck as u32,
                None => match waited_for(at, shape) {
                    Some(issuer) => state.is_active(issuer).into(),
                    None => state.file.read(at),
                },
            };
            let words: Vec<u32> = (offset..offset + bytes).step_by(4).map(word).collect();
            words.iter().rev().fold(0, |value, word| value << 32 | u64::from(*word))
        });
        value.unwrap_or(u64::MAX >> (64 - 8 * bytes))
    }

    fn write(&self, offset: usize, bytes: usize, value: u64) {
        if !self.carries(offset, bytes) {
            return;
        }
        self.sight.register_written();
        self.access(offset, true, |state| {
            // A maintenance register takes effect with its low half, so the high one goes first.
            for at in (offset..offset + bytes).step_by(4).rev() {
                if state.faults.stuck_at(at).is_none() {
                    let word = (value >> (8 * (at - offset))) as u32;
                    let effect = state.file.write(at, word);
                    state.carry_out(effect, &self.policy);
                }
            }
        });
    }

    fn block_size(&self) -> usize {
        self.profile.shape().len()
    }
}

impl IommuModel for SmmuV2 {
    fn index(&self) -> u32 {
        self.index
    }

    fn translate(&self, id: StreamId, access: &Access, land: Land<'_>) -> Result<(), Aborted> {
        self.transact(id, access, land)
    }

    fn progress(&self) {
        let mut state = self.lock();
        for wait in state.waits.values_mut() {
            wait.looks = wait.looks.map(|looks| looks.saturating_sub(1));
        }
    }

    fn reset(&self) {
        let mut state = self.lock();
        state.file = RegisterFile::reset(&self.profile);
        state.tlb = Translations::default();
        state.passing.clear();
        state.owed.clear();
        state.waits.clear();
    }
}

impl fmt::Debug for SmmuV2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmmuV2")
            .field("index", &self.index)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

/// The register block of one [`SmmuV2`], to be given to a driver.
pub type SmmuV2Registers = RegisterBlock<SmmuV2>;
