//! A register-level SMMUv3 (Arm IHI 0070), Non-secure programming interface.

mod caches;
mod commands;
mod context;
mod events;
mod profile;
mod registers;
mod stream;
mod translate;
mod walk;

pub use profile::Profile;

use crate::access::Agent;
use crate::faults::{Consumption, Faults, Policy};
use crate::hook::Hook;
use crate::memory::{BusAbort, PhysicalMemory};
use crate::model::{Aborted, Access, IommuModel, Land, RegisterBlock, RegisterModel, Wiring};
use crate::oracle::Oracle;
use crate::random::Random;
use crate::sight::Sight;
use caches::Caches;
use events::Delivery;
use portcullis_addr::StreamId;
use portcullis_spec::smmuv3::{BLOCK_SIZE, command::tlbi, gerror};
use registers::RegisterFile;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The interrupt outputs (§3.18), numbered as QEMU's model numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum InterruptLine {
    /// The event queue is no longer empty.
    EventQueue = 0,
    /// The PRI queue is no longer empty (never raised: no PRI).
    PriQueue = 1,
    /// A CMD_SYNC with `CS` = SIG_IRQ completed.
    CommandSync = 2,
    /// A bit of GERROR became active.
    GlobalError = 3,
}

/// What an instance has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Register accesses, 32 or 64 bits.
    pub register_accesses: u64,
    /// Commands consumed, CMD_SYNC included.
    pub commands: u64,
    /// CMD_SYNCs consumed.
    pub syncs: u64,
    /// Event records written.
    pub events: u64,
    /// Event records lost to a full or disabled queue, or to an abort.
    pub events_lost: u64,
    /// Interrupts raised (or that would have been, where they get lost).
    pub interrupts: u64,
    /// Descriptors read from tables.
    pub descriptors: u64,
    /// Accesses whose translation came from the TLB.
    pub hits: u64,
}

type InterruptSink = Arc<dyn Fn(InterruptLine) + Send + Sync>;

/// All the state that changes, behind one lock that is never held during a hook, an interrupt or a fetch of several words.
#[derive(Debug)]
struct State {
    registers: RegisterFile,
    caches: Caches,
    /// Commands consumed whose invalidation is not yet in effect.
    owed: Vec<[u64; 2]>,
    /// Opcode of the last invalidation since the last CMD_SYNC.
    unsynced: Option<u64>,
    /// Changes whenever a translation that is under way may have used what is no longer true.
    epoch: u64,
    random: Random,
    faults: Faults,
    /// Counts since the faults were injected.
    accesses_since: u64,
    commands_since: u64,
    syncs_since: u64,
    gone: bool,
    hung: bool,
    counters: Counters,
    deliveries: Vec<Delivery>,
}

/// One SMMUv3 on the machine's bus.
///
/// It keeps every configuration entry and translation that it ever fetched until a command covers exactly that entry
/// ([`TlbPolicy`](crate::TlbPolicy)). How late it consumes commands, and in which pieces it reads entries, is up to its [`Policy`].
///
/// The same scenarios run on it and on QEMU's model; `docs/qemu-differences.md` lists where the two differ and what the document says. It is stricter in three
/// points that the scenarios cannot compare. A range TLBI whose start does not fit its level hint (UNPREDICTABLE, §4.4.1.1) invalidates nothing, a write to a register that an enable bit
/// guards (§6.3) is ignored, and both are recorded as violations. An unprivileged access to a page with AP\[1\] clear is refused.
pub struct SmmuV3 {
    index: u32,
    profile: Profile,
    policy: Policy,
    memory: Arc<PhysicalMemory>,
    oracle: Arc<Oracle>,
    hook: Hook,
    sight: Sight,
    state: Mutex<State>,
    sink: Mutex<Option<InterruptSink>>,
}

impl SmmuV3 {
    pub(crate) fn new(wiring: Wiring, profile: Profile) -> Self {
        let Wiring { index, seed, policy, memory, oracle, hook } = wiring;
        let sight = Sight::new(&memory, profile.coherent, policy.store_order, seed);
        let state = State {
            registers: RegisterFile::reset(&profile),
            caches: Caches::default(),
            owed: Vec::new(),
            unsynced: None,
            epoch: 0,
            random: Random::new(seed),
            faults: Faults::none(),
            accesses_since: 0,
            commands_since: 0,
            syncs_since: 0,
            gone: false,
            hung: false,
            counters: Counters::default(),
            deliveries: Vec::new(),
        };
        Self {
            index,
            profile,
            policy,
            memory,
            oracle,
            hook,
            sight,
            state: Mutex::new(state),
            sink: Mutex::new(None),
        }
    }

    /// What it implements.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Its register block (128 KiB: pages 0 and 1), for a driver.
    pub fn registers(self: &Arc<Self>) -> SmmuRegisters {
        RegisterBlock::new(self)
    }

    /// Calls `sink` for every interrupt, from whichever thread caused it. No lock of the machine is held then.
    pub fn on_interrupt(&self, sink: impl Fn(InterruptLine) + Send + Sync + 'static) {
        *self.sink.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(sink));
    }

    /// Breaks it, from now on, in exactly these ways; [`Faults::none`] repairs it (a hanging CMD_SYNC completes, a frozen queue moves on at the next look).
    pub fn inject(&self, faults: Faults) {
        let mut state = self.lock();
        let mut faults = faults;
        for (offset, value) in &mut faults.stuck {
            value.get_or_insert(u64::from(state.registers.read(*offset & !3)));
        }
        state.faults = faults;
        state.accesses_since = 0;
        state.commands_since = 0;
        state.syncs_since = 0;
        state.gone = false;
        state.hung = false;
        if state.faults.service_failure {
            state.epoch += 1;
            state.raise(gerror::SFM_ERR.mask());
        }
        let deliveries = std::mem::take(&mut state.deliveries);
        drop(state);
        self.deliver(deliveries);
    }

    /// What it has done so far.
    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// Translations (leaves of all stages) in its TLB.
    pub fn cached_translations(&self) -> usize {
        self.lock().caches.translations.count()
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

    /// Sends the interrupts that became due while the lock was held.
    fn deliver(&self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            match delivery {
                Delivery::Message { address, data, error } => {
                    let by = Agent::Iommu(self.index, "message");
                    if self.memory.dma_write(address, &data.to_le_bytes(), by).is_err() {
                        self.lock().raise(error);
                        let more = std::mem::take(&mut self.lock().deliveries);
                        self.deliver(more);
                    }
                }
                Delivery::Line(line) => {
                    let sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    if let Some(sink) = sink {
                        sink(line);
                    }
                }
            }
        }
    }

    fn access<T>(
        &self,
        offset: usize,
        write: bool,
        act: impl FnOnce(&mut State) -> T,
    ) -> Option<T> {
        self.hook.step_named("smmu", u64::from(self.index), || registers::name(offset), write);
        let mut state = self.lock();
        state.counters.register_accesses += 1;
        state.accesses_since += 1;
        let accesses = state.accesses_since;
        if state.faults.gone_at_access.is_some_and(|nth| accesses >= nth) && !state.gone {
            state.gone = true;
            state.epoch += 1;
        }
        let result = (!state.gone).then(|| act(&mut state));
        if state.faults.restart_helps && !state.registers.takes_commands() {
            state.hung = false;
        }
        result
    }

    fn after_access(&self) {
        if self.is_eager() && self.lock().may_consume() {
            while self.consume_one() {}
        }
    }
}

impl RegisterModel for SmmuV3 {
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

    fn write(&self, offset: usize, bytes: usize, value: u64) {
        self.sight.register_written();
        let offences = self.access(offset, true, |state| {
            let mut offences = Vec::new();
            for word in (0..bytes).step_by(4) {
                let at = offset + word;
                if state.faults.stuck_at(at).is_some() {
                    continue;
                }
                let delay = self.policy.update_delay;
                let effect = state.registers.write(at, (value >> (8 * word)) as u32, delay);
                if effect.guarded {
                    offences.push(at);
                }
                if effect.changes_translation {
                    state.epoch += 1;
                }
            }
            offences
        });
        for offset in offences.unwrap_or_default() {
            let iommu = self.index;
            self.oracle.violated(crate::Violation::GuardedWrite { iommu, offset });
        }
        self.after_access();
    }

    fn block_size(&self) -> usize {
        BLOCK_SIZE
    }
}

impl IommuModel for SmmuV3 {
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
        state.caches = Caches::default();
        state.owed.clear();
        state.unsynced = None;
        state.epoch += 1;
    }
}

impl fmt::Debug for SmmuV3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmmuV3")
            .field("index", &self.index)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

/// The register block of one [`SmmuV3`], to be given to a driver.
pub type SmmuRegisters = RegisterBlock<SmmuV3>;

/// log2 of the granule that a `TG` operand names; `None` for 0.
fn operand_granule(tg: u64) -> Option<u32> {
    match tg {
        tlbi::tg::K4 => Some(12),
        tlbi::tg::K16 => Some(14),
        tlbi::tg::K64 => Some(16),
        _ => None,
    }
}
