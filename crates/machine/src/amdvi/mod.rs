//! A register-level AMD IOMMU (48882, revision 3).

mod caches;
mod commands;
mod events;
mod profile;
mod registers;
mod translate;
mod walk;

pub use profile::AmdViProfile;

use crate::access::Agent;
use crate::faults::{Consumption, Faults, Policy};
use crate::hook::Hook;
use crate::memory::{BusAbort, PhysicalMemory, View};
use crate::model::{Aborted, Access, IommuModel, Land, RegisterBlock, RegisterModel, Wiring};
use crate::oracle::{Oracle, Violation};
use crate::random::Random;
use crate::sight::Sight;
use caches::Caches;
use portcullis_addr::StreamId;
use portcullis_spec::amdvi::BLOCK_SIZE;
use registers::RegisterFile;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a unit has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AmdViCounters {
    /// Register accesses, 32 or 64 bits.
    pub register_accesses: u64,
    /// Commands consumed, COMPLETION_WAIT included.
    pub commands: u64,
    /// COMPLETION_WAIT consumed.
    pub completions: u64,
    /// Events written.
    pub events: u64,
    /// Events lost to a log that is full or off, or to an abort.
    pub events_lost: u64,
    /// Interrupts raised (or that would have been, where they get lost).
    pub interrupts: u64,
    /// Page table entries read.
    pub descriptors: u64,
    /// Accesses whose translation came from the caches.
    pub hits: u64,
}

type InterruptSink = Arc<dyn Fn() + Send + Sync>;

/// All the state that changes, behind one lock that is never held during a hook, an interrupt or a fetch of several words.
#[derive(Debug)]
struct State {
    registers: RegisterFile,
    caches: Caches,
    /// Commands consumed that are not yet in effect.
    owed: Vec<[u64; 2]>,
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
    counters: AmdViCounters,
    /// Interrupts to be sent.
    due: u64,
}

/// One AMD IOMMU on the machine's bus.
///
/// It keeps every device table entry and translation that it ever fetched until a command covers exactly that, and a table until a command with PDE does. It keeps translations for the domain and for the device: the latter
/// are found without a look at the device's entry, so whoever changes an entry must have the entry *and* the old domain forgotten. How late it consumes commands, and in which pieces it reads
/// entries, is up to its [`Policy`]; the effect of a command shows at the latest when a COMPLETION_WAIT after it is consumed.
///
/// A device whose entry has V = 0 passes everything unchanged, and so does every device while the unit is off: that is the architecture, and what a driver must not let happen.
///
/// Wherever the document leaves open what a register write does (a queue moved, or one of the unit's own indices written, while the queue is on; segments changed while the unit is on) the write is ignored and recorded
/// as [`Violation::GuardedWrite`]. Both indices are some valid ones after a queue was moved, not 0.
pub struct AmdVi {
    index: u32,
    profile: AmdViProfile,
    policy: Policy,
    memory: Arc<PhysicalMemory>,
    oracle: Arc<Oracle>,
    hook: Hook,
    sight: Sight,
    state: Mutex<State>,
    sink: Mutex<Option<InterruptSink>>,
}

impl AmdVi {
    pub(crate) fn new(wiring: Wiring, profile: AmdViProfile) -> Self {
        let Wiring { index, seed, policy, memory, oracle, hook } = wiring;
        let sight = Sight::new(&memory, profile.coherent, policy.store_order, seed);
        let state = State {
            registers: RegisterFile::reset(&profile),
            caches: Caches::default(),
            owed: Vec::new(),
            epoch: 0,
            random: Random::new(seed),
            faults: Faults::none(),
            accesses_since: 0,
            commands_since: 0,
            waits_since: 0,
            gone: false,
            hung: false,
            counters: AmdViCounters::default(),
            due: 0,
        };
        let (state, sink) = (Mutex::new(state), Mutex::new(None));
        Self { index, profile, policy, memory, oracle, hook, sight, state, sink }
    }

    /// What it implements.
    pub fn profile(&self) -> &AmdViProfile {
        &self.profile
    }

    /// Its register block (16 KiB), for a driver.
    pub fn registers(self: &Arc<Self>) -> RegisterBlock<Self> {
        RegisterBlock::new(self)
    }

    /// Calls `sink` for every interrupt, which the unit's PCI function would send as a message, from whichever thread caused it. No lock of the machine is held then.
    pub fn on_interrupt(&self, sink: impl Fn() + Send + Sync + 'static) {
        *self.sink.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(sink));
    }

    /// Breaks it, from now on, in exactly these ways; [`Faults::none`] repairs it. What the command errors of [`Faults`] are here: an illegal command logs ILLEGAL_COMMAND_ERROR, an aborted fetch
    /// COMMAND_HARDWARE_ERROR, an ATC invalidation that timed out IOTLB_INV_TIMEOUT; each stops the queue.
    pub fn inject(&self, faults: Faults) {
        let mut state = self.lock();
        let mut faults = faults;
        for (offset, value) in &mut faults.stuck {
            value.get_or_insert(state.registers.read(*offset));
        }
        state.faults = faults;
        state.accesses_since = 0;
        state.commands_since = 0;
        state.waits_since = 0;
        state.gone = false;
        state.hung = false;
        state.epoch += 1;
    }

    /// What it has done so far.
    pub fn counters(&self) -> AmdViCounters {
        self.lock().counters
    }

    /// Translations in its caches.
    pub fn cached_translations(&self) -> usize {
        self.lock().caches.count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the unit's own stores reach memory: those of one that does not snoop stay out of the CPUs' caches.
    fn own_view(&self) -> View {
        if self.profile.coherent { View::Cpu } else { View::Published }
    }

    /// Reads a word of a queue.
    fn fetch(&self, address: u64, what: &'static str) -> Result<u64, BusAbort> {
        self.sight.maybe_settle(address);
        self.memory.hardware_load(address, self.sight.view(), Agent::Iommu(self.index, what))
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
        if !state.registers.commands.runs {
            // What was fetched and not waited for is given up.
            state.owed.clear();
            state.hung &= !state.faults.restart_helps;
        }
        let due = std::mem::take(&mut state.due);
        drop(state);
        self.deliver(due);
        result
    }

    fn after_access(&self) {
        if self.is_eager() && self.lock().may_consume() {
            while self.consume_one() {}
        }
    }
}

/// Of a register of 64 bits the part that an access of `bytes` at `offset` is about.
fn part(offset: usize, bytes: usize) -> (u32, u64) {
    (8 * (offset as u32 & 7), if bytes == 8 { u64::MAX } else { u64::MAX >> 32 })
}

impl RegisterModel for AmdVi {
    fn read(&self, offset: usize, bytes: usize) -> u64 {
        if !self.is_eager() && registers::shows_consumption(offset) {
            self.consume_some();
        }
        let (shift, mask) = part(offset, bytes);
        let value = self.access(offset, false, |state| {
            let whole = match state.faults.stuck_at(offset & !7) {
                Some(stuck) => stuck,
                None => state.registers.read(offset),
            };
            state.registers.tick(Some(offset));
            whole >> shift & mask
        });
        self.after_access();
        value.unwrap_or(mask)
    }

    /// An access of four bytes changes half of the register, at once.
    fn write(&self, offset: usize, bytes: usize, value: u64) {
        self.sight.register_written();
        let (delay, (shift, mask)) = (self.policy.update_delay, part(offset, bytes));
        let unspecified = self.access(offset, true, |state| {
            if state.faults.stuck_at(offset & !7).is_some() {
                return false;
            }
            let draw = state.random.next_u64();
            let kept = match offset & !7 {
                // What is written 1 to be cleared is not kept.
                at if at == portcullis_spec::amdvi::STATUS.offset => 0,
                _ => state.registers.read(offset) & !(mask << shift),
            };
            let whole = kept | (value & mask) << shift;
            let effect = state.registers.write(offset, whole, delay, draw);
            state.epoch += u64::from(effect.changes_translation);
            effect.unspecified
        });
        if unspecified == Some(true) {
            self.oracle.violated(Violation::GuardedWrite { iommu: self.index, offset });
        }
        self.after_access();
    }

    fn block_size(&self) -> usize {
        BLOCK_SIZE
    }
}

impl IommuModel for AmdVi {
    fn index(&self) -> u32 {
        self.index
    }

    fn translate(&self, id: StreamId, access: &Access, land: Land<'_>) -> Result<(), Aborted> {
        self.transact(id, access, land)
    }

    fn progress(&self) {
        let changed = {
            let mut state = self.lock();
            state.registers.tick(None);
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
        state.epoch += 1;
    }
}

impl fmt::Debug for AmdVi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmdVi")
            .field("index", &self.index)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}
