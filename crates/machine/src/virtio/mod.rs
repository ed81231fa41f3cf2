//! A virtio-iommu on the memory bus (Virtual I/O Device 1.3, 4.2 and 5.13).

mod domains;
mod profile;
mod queue;
mod registers;

pub use profile::VirtioProfile;

use crate::access::Passage;
use crate::faults::{Faults, Policy};
use crate::hook::Hook;
use crate::memory::PhysicalMemory;
use crate::model::{
    Aborted, Access, Grant, IommuModel, Land, RegisterBlock, RegisterModel, Wiring,
};
use crate::oracle::{Oracle, Violation};
use crate::random::Random;
use domains::{Domains, Way};
use portcullis_addr::StreamId;
use portcullis_spec::virtio::iommu::{config, fault, feature};
use portcullis_spec::virtio::mmio;
use queue::Taken;
use registers::{Effect, RegisterFile, configuration};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a device has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioCounters {
    /// Register accesses.
    pub register_accesses: u64,
    /// Notifications of the queue of requests.
    pub notifications: u64,
    /// Requests answered.
    pub requests: u64,
    /// Fault records written.
    pub faults: u64,
    /// Fault records lost, because no buffer was there or it could not be written.
    pub faults_lost: u64,
    /// Resets.
    pub resets: u64,
}

/// All the state that changes, behind one lock. A transaction holds it until it has landed, so a request is carried out before it or after it.
#[derive(Debug)]
struct State {
    registers: RegisterFile,
    domains: Domains,
    /// The field `bypass`: it outlives a reset of the device.
    bypass: u8,
    /// Requests that were taken and are not given back.
    pending: Vec<Taken>,
    random: Random,
    faults: Faults,
    /// Counts since the faults were injected.
    accesses_since: u64,
    requests_since: u64,
    gone: bool,
    hung: bool,
    counters: VirtioCounters,
}

/// One virtio-iommu on the machine's bus.
///
/// How late it answers, and in which order, is up to its [`Policy`]: with late [consumption](crate::Consumption) it takes requests when it is told, carries out any of them at any later moment, and gives an answer back at yet another one. A mapping is usable from the moment on at
/// which its MAP is carried out, until its UNMAP is. Endpoints that are attached to nothing bypass out of power-on (`boot_bypass`), until the driver has closed that.
///
/// A register that is written when it must not be (a queue in use is moved, features are changed after they were agreed on) keeps its value, and that is recorded as [`Violation::GuardedWrite`].
pub struct VirtioIommu {
    index: u32,
    profile: VirtioProfile,
    policy: Policy,
    memory: Arc<PhysicalMemory>,
    oracle: Arc<Oracle>,
    hook: Hook,
    state: Mutex<State>,
}

impl VirtioIommu {
    pub(crate) fn new(wiring: Wiring, profile: VirtioProfile) -> Self {
        let Wiring { index, seed, policy, memory, oracle, hook } = wiring;
        let state = Mutex::new(State {
            registers: RegisterFile::default(),
            domains: Domains::default(),
            bypass: profile.boot_bypass.into(),
            pending: Vec::new(),
            random: Random::new(seed),
            faults: Faults::none(),
            accesses_since: 0,
            requests_since: 0,
            gone: false,
            hung: false,
            counters: VirtioCounters::default(),
        });
        Self { index, profile, policy, memory, oracle, hook, state }
    }

    /// What it implements.
    pub fn profile(&self) -> &VirtioProfile {
        &self.profile
    }

    /// Its register block, for a driver.
    pub fn registers(self: &Arc<Self>) -> RegisterBlock<Self> {
        RegisterBlock::new(self)
    }

    /// Breaks it, from now on, in exactly these ways; [`Faults::none`] repairs it. A command is a request here: an illegal one is answered with `UNSUPP`, an aborted fetch with `FAULT`, an ATC invalidation with `DEVERR`.
    /// `fail_service` has it ask for a reset.
    pub fn inject(&self, faults: Faults) {
        let mut state = self.lock();
        if faults.service_failure {
            state.registers.status |= portcullis_spec::virtio::status::NEEDS_RESET;
        }
        state.faults = faults;
        state.accesses_since = 0;
        state.requests_since = 0;
        state.gone = false;
        state.hung = false;
    }

    /// Leaves an endpoint attached to a domain that passes everything, as firmware may have.
    pub fn leave_attached(&self, endpoint: StreamId, domain: u32) {
        self.lock().domains.leave_attached(endpoint.raw(), domain);
    }

    /// What it has done so far.
    pub fn counters(&self) -> VirtioCounters {
        self.lock().counters
    }

    /// How many endpoints are attached, and how many mappings there are.
    pub fn holds(&self) -> (usize, usize) {
        self.lock().domains.counts()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        state.gone |= state.faults.gone_at_access.is_some_and(|nth| accesses >= nth);
        state.registers.time_passes();
        (!state.gone).then(|| act(&mut state))
    }

    /// Endpoints that are attached to nothing bypass.
    fn bypasses(&self, state: &State) -> bool {
        if self.profile.features & feature::BYPASS_CONFIG != 0 {
            return state.bypass != 0;
        }
        match state.registers.has_agreed() {
            true => state.registers.accepted & feature::BYPASS != 0,
            false => self.profile.boot_bypass,
        }
    }

    fn apply(&self, state: &mut State, effect: Effect, offset: usize) {
        match effect {
            Effect::None => {}
            Effect::Guarded => {
                self.oracle.violated(Violation::GuardedWrite { iommu: self.index, offset });
            }
            Effect::Reset => {
                state.counters.resets += 1;
                state.domains = Domains::default();
                state.pending.clear();
                state.hung &= !state.faults.restart_helps;
            }
            Effect::Notified(queue) => {
                state.counters.notifications += u64::from(queue == 0);
                self.take_requests(state);
                if self.policy.consumption == crate::faults::Consumption::Eager {
                    self.answer_some(state);
                }
            }
        }
    }
}

impl RegisterModel for VirtioIommu {
    fn read(&self, offset: usize, bytes: usize) -> u64 {
        let value = self.access(offset, false, |state| {
            if let Some(stuck) = state.faults.stuck_at(offset & !3) {
                return stuck >> (8 * (offset & 3));
            }
            if offset < mmio::CONFIG {
                return state.registers.read(&self.profile, offset).into();
            }
            let all = configuration(&self.profile, state.bypass);
            let at = offset - mmio::CONFIG;
            let field = all.get(at..(at + bytes).min(all.len())).unwrap_or(&[]);
            field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
        });
        value.unwrap_or(u64::MAX) & u64::MAX >> (64 - 8 * bytes)
    }

    fn write(&self, offset: usize, bytes: usize, value: u64) {
        if self.policy.store_order == crate::StoreOrder::Late {
            self.memory.publish_all();
        }
        let delay = self.policy.update_delay;
        self.access(offset, true, |state| {
            if state.faults.stuck_at(offset & !3).is_some() {
                return;
            }
            if offset < mmio::CONFIG {
                let effect = state.registers.write(&self.profile, offset, value as u32, delay);
                return self.apply(state, effect, offset);
            }
            // 5.13.4: only `bypass` takes a write, of 8 bits, once the driver has accepted that there is one.
            let known = state.registers.accepted & feature::BYPASS_CONFIG != 0;
            if offset - mmio::CONFIG == config::BYPASS && bytes == 1 && known && value < 2 {
                state.bypass = value as u8;
            }
        });
    }

    fn block_size(&self) -> usize {
        0x200
    }

    fn has_narrow_registers(&self) -> bool {
        true
    }
}

impl IommuModel for VirtioIommu {
    fn index(&self) -> u32 {
        self.index
    }

    fn translate(&self, id: StreamId, access: &Access, land: Land<'_>) -> Result<(), Aborted> {
        let mut state = self.lock();
        if state.gone || state.faults.service_failure {
            return Err(Aborted);
        }
        let (endpoint, Access { address, len, kind, .. }) = (id.raw(), *access);
        let way = match state.domains.way(endpoint, address, len, kind) {
            Way::Unattached if self.bypasses(&state) => Way::Bypass,
            Way::Unattached => Way::Refused(fault::DOMAIN),
            other => other,
        };
        let (physical, passage) = match way {
            Way::Bypass => (address, Passage::StreamBypass),
            Way::Mapped(physical, domain) => {
                let passage = Passage::Translated { asid: Some(domain), vmid: 0, cached: false };
                (physical, passage)
            }
            Way::Refused(reason) => {
                self.record(&mut state, endpoint, address, kind, reason);
                return Err(Aborted);
            }
            Way::Unattached => return Err(Aborted),
        };
        land(Grant { physical, passage, stale: false, reused: false }).map_err(|_| Aborted)
    }

    fn progress(&self) {
        let mut state = self.lock();
        state.registers.time_passes();
        if !state.gone {
            self.answer_some(&mut state);
        }
    }

    fn reset(&self) {
        let mut state = self.lock();
        state.registers = RegisterFile::default();
        state.domains = Domains::default();
        state.pending.clear();
        state.bypass = self.profile.boot_bypass.into();
    }
}

impl fmt::Debug for VirtioIommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioIommu")
            .field("index", &self.index)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}
