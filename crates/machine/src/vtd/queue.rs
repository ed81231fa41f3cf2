//! The invalidation queue (6.5.2): when a descriptor is taken, whether it is legal, what it makes the caches forget.

use super::caches::Scope;
use super::{State, VtdIommu};
use crate::access::Agent;
use crate::faults::{CommandError, Consumption};
use crate::oracle::Violation;
use portcullis_spec::Layout;
use portcullis_spec::vtd::descriptor::{
    self, TYPE, context, context_granularity, iotlb, iotlb_granularity, kind, pasid_cache,
    pasid_cache_granularity, pasid_iotlb, pasid_iotlb_granularity, wait,
};
use portcullis_spec::vtd::{iqei, ttm};
use std::mem;

pub(super) type Descriptor = [u64; descriptor::WORDS];

/// Why the queue stops.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// IQE, with what is behind it.
    Error(u64),
    /// ITE.
    TimedOut,
}

impl State {
    /// Whether something could be done now: a wait completed, or a descriptor taken.
    pub(super) fn may_consume(&self) -> bool {
        let frozen = self.faults.frozen_after.is_some_and(|most| self.commands_since >= most);
        let able = !(self.hung || self.gone || self.faults.service_failure);
        let takes = !frozen && self.registers.takes_descriptors();
        able && (self.open_wait.is_some() || takes)
    }

    fn injected_error(&mut self) -> Option<Stop> {
        let nth = self.commands_since + 1;
        let position = self.faults.failing_commands.iter().position(|(at, _)| *at == nth)?;
        Some(match self.faults.failing_commands.swap_remove(position).1 {
            CommandError::Illegal => Stop::Error(iqei::TYPE),
            CommandError::FetchAbort => Stop::Error(iqei::FETCH),
            CommandError::AtcInvalidation => Stop::TimedOut,
        })
    }
}

impl VtdIommu {
    /// Takes a few descriptors, as many as the policy draws.
    pub(super) fn consume_some(&self) {
        let most = match self.policy.consumption {
            Consumption::Eager => u64::MAX,
            Consumption::Late { most } => {
                let mut state = self.lock();
                if !state.may_consume() {
                    return;
                }
                1 + state.random.below(u64::from(most))
            }
        };
        for _ in 0..most {
            if !self.consume_one() {
                break;
            }
        }
    }

    /// Completes a wait or takes one descriptor, or says why it cannot. Returns whether another look makes sense.
    pub(super) fn consume_one(&self) -> bool {
        if !self.lock().may_consume() {
            return false;
        }
        self.hook.step("iommu", u64::from(self.index), "command", true);
        let mut state = self.lock();
        if !state.may_consume() {
            return false;
        }
        let result = self.consume_next(&mut state);
        match result {
            Ok(()) => {}
            Err(Stop::Error(info)) => {
                let event = state.registers.queue_error(info);
                state.owe(event);
            }
            Err(Stop::TimedOut) => {
                // Waits that were fetched are given up (6.5.2.11); what is in the queue is not.
                state.open_wait = None;
                state.registers.advance();
                let event = state.registers.device_timed_out();
                state.owe(event);
            }
        }
        let due = mem::take(&mut state.due);
        let again = result.is_ok() && !state.hung;
        drop(state);
        self.deliver(due);
        again
    }

    fn consume_next(&self, state: &mut State) -> Result<(), Stop> {
        if let Some(wait) = state.open_wait.take() {
            self.complete(state, &wait);
            return Ok(());
        }
        if let Some(error) = state.injected_error() {
            state.commands_since += 1;
            return Err(error);
        }
        if !state.registers.tail_is_good() {
            return Err(Stop::Error(iqei::TAIL));
        }
        let descriptor = self.fetch_descriptor(state)?;
        self.check(&descriptor)?;
        state.commands_since += 1;
        state.counters.descriptors += 1;
        if TYPE.read(&descriptor) == kind::WAIT {
            state.waits_since += 1;
            if state.faults.hang_sync == Some(state.waits_since) {
                state.hung = true;
                return Ok(());
            }
            state.registers.advance();
            if self.is_eager() {
                self.complete(state, &descriptor);
            } else {
                // The head is behind it already; that it is over shows later.
                state.open_wait = Some(descriptor);
            }
            return Ok(());
        }
        state.registers.advance();
        if self.is_eager() {
            self.carry_out(state, &descriptor);
        } else {
            state.owed.push(descriptor);
        }
        Ok(())
    }

    fn fetch_descriptor(&self, state: &State) -> Result<Descriptor, Stop> {
        let (address, bytes) = (state.registers.descriptor(), state.registers.descriptor_bytes());
        let scalable = state.registers.mode() == ttm::SCALABLE;
        if scalable && bytes == 16 {
            return Err(Stop::Error(iqei::WIDTH));
        }
        let word = |at| self.fetch(at).map_err(|_| Stop::Error(iqei::FETCH));
        if bytes == 32 && (word(address + 16)? | word(address + 24)?) != 0 {
            return Err(Stop::Error(iqei::RESERVED));
        }
        Ok([word(address)?, word(address + 8)?])
    }

    /// A wait is over: everything before it takes effect, then it says so.
    fn complete(&self, state: &mut State, descriptor: &Descriptor) {
        for owed in mem::take(&mut state.owed) {
            self.carry_out(state, &owed);
        }
        state.counters.waits += 1;
        if wait::SW.read(descriptor) == 1 {
            let address = wait::ADDR.read(descriptor) << 2;
            let data = (wait::DATA.read(descriptor) as u32).to_le_bytes();
            // One that goes nowhere is the driver's to miss.
            let _lost = self.memory.dma_write(address, &data, Agent::Iommu(self.index, "wait"));
        }
        if wait::IF.read(descriptor) == 1 {
            let event = state.registers.wait_is_over();
            state.owe(event);
        }
    }

    /// Whether the descriptor is one that this unit knows, with operands that it allows.
    fn check(&self, it: &Descriptor) -> Result<(), Stop> {
        let scalable = self.profile.scalable;
        let (layout, operands) = match TYPE.read(it) {
            kind::CONTEXT => (
                &context::LAYOUT,
                context::G.read(it) != 0 && self.has_domain(context::DID.read(it)),
            ),
            kind::IOTLB => {
                let by_page = iotlb::G.read(it) == iotlb_granularity::PAGE;
                let able = !by_page || self.profile.page_selective;
                let mask = !by_page || iotlb::AM.read(it) <= self.profile.most_mask.into();
                let granularity = iotlb::G.read(it) != 0;
                (
                    &iotlb::LAYOUT,
                    granularity && able && mask && self.has_domain(iotlb::DID.read(it)),
                )
            }
            kind::WAIT => (&wait::LAYOUT, wait::PD.read(it) == 0),
            kind::PASID_IOTLB if scalable => {
                let mask = pasid_iotlb::AM.read(it) <= self.profile.most_mask.into();
                let known = pasid_iotlb::G.read(it) >= pasid_iotlb_granularity::PASID;
                (&pasid_iotlb::LAYOUT, known && mask && self.has_domain(pasid_iotlb::DID.read(it)))
            }
            kind::PASID_CACHE if scalable => {
                let known = pasid_cache::G.read(it) != 2;
                (&pasid_cache::LAYOUT, known && self.has_domain(pasid_cache::DID.read(it)))
            }
            _ => return Err(Stop::Error(iqei::TYPE)),
        };
        let legal = operands && unreserved(layout, it);
        if legal { Ok(()) } else { Err(Stop::Error(iqei::RESERVED)) }
    }

    fn has_domain(&self, domain: u64) -> bool {
        domain >> self.profile.domain_bits == 0
    }

    /// Drops from the caches exactly what the descriptor covers. Write buffers are flushed first (6.8).
    fn carry_out(&self, state: &mut State, it: &Descriptor) {
        if self.profile.write_buffer {
            self.memory.publish_all();
        }
        let scalable = state.registers.mode() != ttm::LEGACY;
        let caches = &mut state.caches;
        match TYPE.read(it) {
            kind::CONTEXT => {
                let domain = context::DID.read(it) as u16;
                match context::G.read(it) {
                    context_granularity::GLOBAL => caches.forget_contexts(),
                    // Contexts of scalable mode have no domain: all of them (6.5.2.1).
                    context_granularity::DOMAIN if scalable => caches.forget_contexts(),
                    context_granularity::DOMAIN => caches.forget_contexts_of(domain),
                    _ => {
                        let ignored = [0, 4, 6, 7][context::FM.read(it) as usize];
                        let source = context::SID.read(it) as u16;
                        caches.forget_context(source, ignored, (!scalable).then_some(domain));
                    }
                }
            }
            kind::IOTLB => {
                let scope = self.iotlb_scope(it);
                caches.forget(scope);
            }
            kind::PASID_IOTLB => {
                let domain = pasid_iotlb::DID.read(it) as u16;
                let pasid = pasid_iotlb::PASID.read(it) as u32;
                let first = pasid_iotlb::ADDR.read(it) << 12;
                let log2 = 12 + pasid_iotlb::AM.read(it) as u32;
                let leaves = pasid_iotlb::IH.read(it) == 1;
                caches.forget(match pasid_iotlb::G.read(it) {
                    pasid_iotlb_granularity::PASID => Scope::Pasid { domain, pasid },
                    _ => Scope::PasidPages { domain, pasid, first, log2, leaves },
                });
                self.note_misaligned(first, log2, it);
            }
            kind::PASID_CACHE => {
                let domain = pasid_cache::DID.read(it) as u16;
                let pasid = pasid_cache::PASID.read(it) as u32;
                match pasid_cache::G.read(it) {
                    pasid_cache_granularity::GLOBAL => caches.forget_pasids(),
                    pasid_cache_granularity::DOMAIN => caches.forget_pasids_of(domain, None),
                    _ => caches.forget_pasids_of(domain, Some(pasid)),
                }
            }
            _ => {}
        }
        state.epoch += 1;
    }

    fn iotlb_scope(&self, it: &Descriptor) -> Scope {
        let domain = iotlb::DID.read(it) as u16;
        match iotlb::G.read(it) {
            iotlb_granularity::GLOBAL => Scope::All,
            iotlb_granularity::DOMAIN => Scope::Domain(domain),
            _ => {
                let (first, log2) = (iotlb::ADDR.read(it) << 12, 12 + iotlb::AM.read(it) as u32);
                self.note_misaligned(first, log2, it);
                Scope::Pages { domain, first, log2, leaves: iotlb::IH.read(it) == 1 }
            }
        }
    }

    /// Address bits under the mask must be 0 (6.5.2.3).
    fn note_misaligned(&self, first: u64, log2: u32, command: &Descriptor) {
        if first & ((1 << log2) - 1) != 0 {
            let (iommu, command) = (self.index, *command);
            self.oracle.violated(Violation::UnpredictableCommand { iommu, command });
        }
    }
}

/// Whether no bit is set that no field of the descriptor has.
fn unreserved(layout: &Layout, descriptor: &Descriptor) -> bool {
    let known = |word: usize| {
        let fields = layout.fields.iter().filter(|field| field.word() == word);
        fields.fold(0, |bits, field| bits | field.mask())
    };
    (0..descriptor::WORDS).all(|word| descriptor[word] & !known(word) == 0)
}
