//! A register-level RISC-V IOMMU (version 1.0).

mod caches;
mod commands;
mod directory;
mod faults;
mod profile;
mod registers;
mod translate;
mod walk;

pub use profile::{RiscvInterrupts, RiscvProfile};

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
use portcullis_spec::riscv::BLOCK_SIZE;
use registers::{Due, RegisterFile};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a unit has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RiscvCounters {
    /// Register accesses, 32 or 64 bits.
    pub register_accesses: u64,
    /// Commands consumed, fences included.
    pub commands: u64,
    /// IOFENCE.C consumed.
    pub fences: u64,
    /// Fault records written.
    pub faults: u64,
    /// Fault records lost to a full or disabled queue, or to an abort.
    pub faults_lost: u64,
    /// Interrupts raised (or that would have been, where they get lost).
    pub interrupts: u64,
    /// Page table entries read.
    pub descriptors: u64,
    /// Accesses whose translation came from the caches.
    pub hits: u64,
}

type InterruptSink = Arc<dyn Fn(u8) + Send + Sync>;

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
    fences_since: u64,
    gone: bool,
    hung: bool,
    counters: RiscvCounters,
    due: Vec<Due>,
}

/// One RISC-V IOMMU on the machine's bus.
///
/// It keeps every context and translation that it ever fetched until a command covers exactly that, and a table until a command without an address does. How late it consumes commands, and in which
/// pieces it reads contexts, is up to its [`Policy`]; the effect of a command shows at the latest when a fence after it is consumed. Invalid entries are never kept, whatever the policy says: the
/// document forbids it (2.8).
///
/// Wherever the document says UNSPECIFIED for a register write (a mode changed without going through "off", a queue moved while it is on, a write while `busy` is set) the write is ignored and recorded as
/// [`Violation::GuardedWrite`]. An index register is some valid index after its queue was moved, not 0.
pub struct RiscvIommu {
    index: u32,
    profile: RiscvProfile,
    policy: Policy,
    memory: Arc<PhysicalMemory>,
    oracle: Arc<Oracle>,
    hook: Hook,
    sight: Sight,
    state: Mutex<State>,
    sink: Mutex<Option<InterruptSink>>,
}

impl RiscvIommu {
    pub(crate) fn new(wiring: Wiring, profile: RiscvProfile) -> Self {
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
            fences_since: 0,
            gone: false,
            hung: false,
            counters: RiscvCounters::default(),
            due: Vec::new(),
        };
        let (state, sink) = (Mutex::new(state), Mutex::new(None));
        Self { index, profile, policy, memory, oracle, hook, sight, state, sink }
    }

    /// What it implements.
    pub fn profile(&self) -> &RiscvProfile {
        &self.profile
    }

    /// Its register block (4 KiB), for a driver.
    pub fn registers(self: &Arc<Self>) -> RegisterBlock<Self> {
        RegisterBlock::new(self)
    }

    /// Calls `sink` with the number of the wire for every interrupt by wire, from whichever thread caused it. No lock of the machine is held then.
    pub fn on_interrupt(&self, sink: impl Fn(u8) + Send + Sync + 'static) {
        *self.sink.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(sink));
    }

    /// Breaks it, from now on, in exactly these ways; [`Faults::none`] repairs it. What the command errors of [`Faults`] are here: an illegal command sets `cmd_ill`, an aborted fetch `cqmf`, an ATC
    /// invalidation that timed out `cmd_to`.
    pub fn inject(&self, faults: Faults) {
        let mut state = self.lock();
        let mut faults = faults;
        for (offset, value) in &mut faults.stuck {
            value.get_or_insert(u64::from(state.registers.read(*offset & !3)));
        }
        state.faults = faults;
        state.accesses_since = 0;
        state.commands_since = 0;
        state.fences_since = 0;
        state.gone = false;
        state.hung = false;
        state.epoch += 1;
    }

    /// What it has done so far.
    pub fn counters(&self) -> RiscvCounters {
        self.lock().counters
    }

    /// Translations in its caches.
    pub fn cached_translations(&self) -> usize {
        self.lock().caches.count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        if !state.registers.commands.is_on() {
            // What was fetched and not fenced is given up (5.15).
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

impl RegisterModel for RiscvIommu {
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
            if state.registers.looked_at(offset, bytes) {
                state.epoch += 1;
            }
            value
        });
        self.after_access();
        value.unwrap_or(u64::MAX >> (64 - 8 * bytes))
    }

    /// An access of eight bytes is two of four, the high half first (chapter 5).
    fn write(&self, offset: usize, bytes: usize, value: u64) {
        self.sight.register_written();
        let delay = self.policy.update_delay;
        let offences = self.access(offset, true, |state| {
            let mut offences = Vec::new();
            for word in (0..bytes).step_by(4).rev() {
                let at = offset + word;
                if state.faults.stuck_at(at).is_some() {
                    continue;
                }
                let draw = state.random.below(u64::from(u32::MAX)) as u32;
                let effect = state.registers.write(at, (value >> (8 * word)) as u32, delay, draw);
                if effect.unspecified {
                    offences.push(at);
                }
                if effect.changes_translation {
                    state.epoch += 1;
                }
                state.owe(effect.due);
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

impl IommuModel for RiscvIommu {
    fn index(&self) -> u32 {
        self.index
    }

    fn translate(&self, id: StreamId, access: &Access, land: Land<'_>) -> Result<(), Aborted> {
        self.transact(id, access, land)
    }

    fn progress(&self) {
        let changed = {
            let mut state = self.lock();
            if state.registers.time_passes() {
                state.epoch += 1;
            }
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

impl fmt::Debug for RiscvIommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RiscvIommu")
            .field("index", &self.index)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}
