//! A register-level Intel VT-d unit (specification 4.1).

mod caches;
mod directory;
mod faults;
mod profile;
mod queue;
mod registers;
mod translate;
mod walk;

pub use profile::VtdProfile;

use crate::access::Agent;
use crate::faults::{Consumption, Faults, Policy};
use crate::hook::Hook;
use crate::memory::{BusAbort, PhysicalMemory};
use crate::model::{Aborted, Access, IommuModel, Land, RegisterBlock, RegisterModel, Wiring};
use crate::oracle::{Oracle, Violation};
use crate::random::Random;
use crate::sight::Sight;
use caches::Caches;
use portcullis_addr::StreamId;
use portcullis_spec::vtd::BLOCK_SIZE;
use queue::Descriptor;
use registers::{Effect, Event, RegisterFile};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a unit has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VtdCounters {
    /// Register accesses, 32 or 64 bits.
    pub register_accesses: u64,
    /// Descriptors consumed, waits included.
    pub descriptors: u64,
    /// Waits completed.
    pub waits: u64,
    /// Faults recorded.
    pub faults: u64,
    /// Faults lost for want of a free register.
    pub faults_lost: u64,
    /// Events raised (or that would have been, where they get lost).
    pub interrupts: u64,
    /// Page table entries read.
    pub walked: u64,
    /// Accesses whose translation came from the caches.
    pub hits: u64,
}

type EventSink = Arc<dyn Fn(u64, u32) + Send + Sync>;

/// All the state that changes, behind one lock that is never held during a hook, an interrupt or a fetch of several words.
#[derive(Debug)]
struct State {
    registers: RegisterFile,
    caches: Caches,
    /// Descriptors consumed that are not yet in effect.
    owed: Vec<Descriptor>,
    /// A wait that the head is past and that is not over.
    open_wait: Option<Descriptor>,
    /// Changes whenever a translation that is under way may have used what is no longer true.
    epoch: u64,
    random: Random,
    faults: Faults,
    /// Counts since the faults were injected.
    accesses_since: u64,
    commands_since: u64,
    waits_since: u64,
    gone: bool,
    hung: bool,
    counters: VtdCounters,
    due: Vec<Event>,
}

/// One VT-d unit on the machine's bus.
///
/// It keeps every root, context and PASID entry and every translation that it ever fetched until a descriptor covers exactly that, by the domain id under which it was cached; tables on the way until one covers them that
/// does not say otherwise (`IH`). In caching mode it keeps too what was not present, tagged with domain 0. It takes descriptors as late as its [`Policy`] lets it; what they cover goes when a wait behind them is over, and the head
/// is past that wait before it is. It reads entries in pieces of 16 bytes, in any order. Without `CAP.CM` nothing is kept that is not present, whatever the policy says: the document forbids it (6.1).
///
/// With a write buffer (`CAP.RWBF`) it sees what software stored in its structures only after a flush, by `GCMD.WBF` or before a descriptor is carried out (6.8).
///
/// Wherever the document leaves open what a register write does (two commands at once, a command while another is under way, a queue that is moved or enabled with a tail) the write is ignored and recorded as
/// [`Violation::GuardedWrite`]; a descriptor whose address is not aligned to its mask is [`Violation::UnpredictableCommand`].
///
/// What devices write to the range of interrupts goes nowhere and is not recorded.
pub struct VtdIommu {
    index: u32,
    profile: VtdProfile,
    policy: Policy,
    memory: Arc<PhysicalMemory>,
    oracle: Arc<Oracle>,
    hook: Hook,
    /// How accesses that snoop see memory: the queue's always.
    snooping: Sight,
    /// How the others do.
    apart: Sight,
    state: Mutex<State>,
    sink: Mutex<Option<EventSink>>,
}

impl VtdIommu {
    pub(crate) fn new(wiring: Wiring, profile: VtdProfile) -> Self {
        let Wiring { index, seed, policy, memory, oracle, hook } = wiring;
        let snooping = Sight::new(&memory, true, policy.store_order, seed);
        let apart = Sight::new(&memory, false, policy.store_order, seed);
        let state = State {
            registers: RegisterFile::reset(&profile),
            caches: Caches::default(),
            owed: Vec::new(),
            open_wait: None,
            epoch: 0,
            random: Random::new(seed),
            faults: Faults::none(),
            accesses_since: 0,
            commands_since: 0,
            waits_since: 0,
            gone: false,
            hung: false,
            counters: VtdCounters::default(),
            due: Vec::new(),
        };
        let (state, sink) = (Mutex::new(state), Mutex::new(None));
        Self { index, profile, policy, memory, oracle, hook, snooping, apart, state, sink }
    }

    /// What it implements.
    pub fn profile(&self) -> &VtdProfile {
        &self.profile
    }

    /// Its register block (4 KiB), for a driver.
    pub fn registers(self: &Arc<Self>) -> RegisterBlock<Self> {
        RegisterBlock::new(self)
    }

    /// Calls `sink` with address and data of the message of every event, from whichever thread caused it. No lock of the machine is held then.
    pub fn on_interrupt(&self, sink: impl Fn(u64, u32) + Send + Sync + 'static) {
        *self.sink.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(sink));
    }

    /// Breaks it, from now on, in exactly these ways; [`Faults::none`] repairs it. What the command errors of [`Faults`] are here: an illegal command and an aborted fetch set `IQE`, an ATC invalidation that timed out sets
    /// `ITE`.
    pub fn inject(&self, faults: Faults) {
        let mut state = self.lock();
        let mut faults = faults;
        for (offset, value) in &mut faults.stuck {
            value.get_or_insert(u64::from(state.registers.read(*offset & !3)));
        }
        state.faults = faults;
        state.accesses_since = 0;
        state.commands_since = 0;
        state.waits_since = 0;
        state.gone = false;
        state.hung = false;
        state.epoch += 1;
    }

    /// A device claims to have completed an invalidation that nobody asked it for: `ICE`.
    pub fn receive_stray_completion(&self) {
        let mut state = self.lock();
        let event = state.registers.stray_completion();
        state.owe(event);
        let due = std::mem::take(&mut state.due);
        drop(state);
        self.deliver(due);
    }

    /// What it has done so far.
    pub fn counters(&self) -> VtdCounters {
        self.lock().counters
    }

    /// Translations in its caches.
    pub fn cached_translations(&self) -> usize {
        self.lock().caches.count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it sees its structures, given whether the access snoops.
    fn sight(&self, snoops: bool) -> &Sight {
        if snoops && !self.profile.write_buffer { &self.snooping } else { &self.apart }
    }

    fn draw(&self) -> u64 {
        self.snooping.draw()
    }

    /// Reads a word of the queue, which is always snooped (11.4.3, `C`).
    fn fetch(&self, address: u64) -> Result<u64, BusAbort> {
        self.snooping.maybe_settle(address);
        let (view, by) = (self.snooping.view(), Agent::Iommu(self.index, "descriptor"));
        self.memory.hardware_load(address, view, by)
    }

    fn is_eager(&self) -> bool {
        self.policy.consumption == Consumption::Eager
    }

    fn access<T>(
        &self,
        offset: usize,
        write: bool,
        act: impl FnOnce(&mut State) -> T,
    ) -> Option<T> {
        self.hook.step_named("iommu", u64::from(self.index), || registers::name(offset), write);
        let mut state = self.lock();
        state.counters.register_accesses += 1;
        state.accesses_since += 1;
        let accesses = state.accesses_since;
        if state.faults.gone_at_access.is_some_and(|nth| accesses >= nth) && !state.gone {
            state.gone = true;
            state.epoch += 1;
        }
        let result = (!state.gone).then(|| act(&mut state));
        if !state.registers.queue_is_on() {
            // What was fetched and not waited for is given up.
            state.owed.clear();
            state.open_wait = None;
            state.hung &= !state.faults.restart_helps;
        }
        let due = std::mem::take(&mut state.due);
        drop(state);
        self.deliver(due);
        result
    }

    /// Does what a command or an event that took effect means for the rest of the unit.
    fn apply(&self, state: &mut State, effect: &Effect) {
        if effect.changes_translation {
            state.epoch += 1;
        }
        if effect.flushes && self.profile.write_buffer {
            self.memory.publish_all();
        }
        state.owe(effect.event);
    }

    fn after_access(&self) {
        if self.is_eager() && self.lock().may_consume() {
            while self.consume_one() {}
        }
    }
}

impl RegisterModel for VtdIommu {
    fn read(&self, offset: usize, bytes: usize) -> u64 {
        if !self.is_eager() && registers::shows_consumption(offset, bytes) {
            self.consume_some();
        }
        let value = self.access(offset, false, |state| {
            let mut value = 0;
            for word in (0..bytes).step_by(4) {
                let read = match state.faults.stuck_at(offset + word) {
                    Some(stuck) => stuck as u32,
                    None => state.registers.read(offset + word),
                };
                value |= u64::from(read) << (8 * word);
            }
            let effect = state.registers.looked_at(offset, bytes);
            self.apply(state, &effect);
            value
        });
        self.after_access();
        value.unwrap_or(u64::MAX >> (64 - 8 * bytes))
    }

    /// An access of eight bytes is two of four, the high half first.
    fn write(&self, offset: usize, bytes: usize, value: u64) {
        self.snooping.register_written();
        let delay = self.policy.update_delay;
        let offences = self.access(offset, true, |state| {
            let mut offences = Vec::new();
            for word in (0..bytes).step_by(4).rev() {
                let at = offset + word;
                if state.faults.stuck_at(at).is_some() {
                    continue;
                }
                let effect = state.registers.write(at, (value >> (8 * word)) as u32, delay);
                if effect.unspecified {
                    offences.push(at);
                }
                self.apply(state, &effect);
            }
            offences
        });
        for offset in offences.unwrap_or_default() {
            self.oracle.violated(Violation::GuardedWrite { iommu: self.index, offset });
        }
        self.after_access();
    }

    fn block_size(&self) -> usize {
        BLOCK_SIZE
    }
}

impl IommuModel for VtdIommu {
    fn index(&self) -> u32 {
        self.index
    }

    fn translate(&self, id: StreamId, access: &Access, land: Land<'_>) -> Result<(), Aborted> {
        self.transact(id, access, land)
    }

    fn progress(&self) {
        let changed = {
            let mut state = self.lock();
            let effect = state.registers.time_passes();
            self.apply(&mut state, &effect);
            state.may_consume()
        };
        if changed {
            self.consume_some();
        }
    }

    fn reset(&self) {
        let mut state = self.lock();
        state.registers = RegisterFile::reset(&self.profile);
        state.caches.clear();
        state.owed.clear();
        state.open_wait = None;
        state.epoch += 1;
    }
}

impl fmt::Debug for VtdIommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VtdIommu")
            .field("index", &self.index)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}
