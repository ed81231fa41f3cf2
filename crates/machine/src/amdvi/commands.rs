//! The command buffer (2.4): when a command is taken, whether it is legal, what it makes the caches forget.

use super::caches::Scope;
use super::events::Event;
use super::{AmdVi, State};
use crate::access::Agent;
use crate::faults::{CommandError, Consumption};
use portcullis_spec::Layout;
use portcullis_spec::amdvi::command::{
    self, OPCODE, completion_wait, invalidate_entry, invalidate_pages, opcode,
};
use portcullis_spec::amdvi::event::code;
use portcullis_spec::amdvi::status;
use std::mem;

type Command = [u64; command::WORDS];

/// Why a command stops the queue: the event's code.
type Refused = u64;

impl State {
    /// Whether a command could be taken now.
    pub(super) fn may_consume(&self) -> bool {
        let queue = &self.registers.commands;
        let frozen = self.faults.frozen_after.is_some_and(|most| self.commands_since >= most);
        queue.runs
            && queue.head != queue.tail
            && !(frozen || self.hung || self.gone || self.faults.service_failure)
    }

    fn injected_error(&mut self) -> Option<Refused> {
        let nth = self.commands_since + 1;
        let position = self.faults.failing_commands.iter().position(|(at, _)| *at == nth)?;
        Some(match self.faults.failing_commands.swap_remove(position).1 {
            CommandError::Illegal => code::ILLEGAL_COMMAND_ERROR,
            CommandError::FetchAbort => code::COMMAND_HARDWARE_ERROR,
            CommandError::AtcInvalidation => code::IOTLB_INV_TIMEOUT,
        })
    }
}

impl AmdVi {
    /// Takes a few commands, as many as the policy draws.
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

    /// Takes one command, or says why it cannot. Returns whether another look makes sense.
    pub(super) fn consume_one(&self) -> bool {
        if !self.lock().may_consume() {
            return false;
        }
        self.hook.step("iommu", u64::from(self.index), "command", true);
        let mut state = self.lock();
        if !state.may_consume() {
            return false;
        }
        let result = self.execute_next(&mut state);
        if let Err(code) = result {
            // The head stays at the command; the address of the event names it too (2.5.6, 2.5.7).
            let queue = state.registers.commands;
            self.log(&mut state, Event::of_the_unit(code, queue.entry(queue.head)));
            state.registers.commands.halt();
        }
        let due = mem::take(&mut state.due);
        let again = result.is_ok() && !state.hung;
        drop(state);
        self.deliver(due);
        again
    }

    fn execute_next(&self, state: &mut State) -> Result<(), Refused> {
        let queue = state.registers.commands;
        if let Some(error) = state.injected_error() {
            state.commands_since += 1;
            return Err(error);
        }
        let address = queue.entry(queue.head);
        let fetch = |at| self.fetch(at, "command").map_err(|_| code::COMMAND_HARDWARE_ERROR);
        let command = [fetch(address)?, fetch(address + 8)?];
        if !self.is_legal(&command) {
            return Err(code::ILLEGAL_COMMAND_ERROR);
        }
        if OPCODE.read(&command) == opcode::COMPLETION_WAIT {
            state.waits_since += 1;
            if state.faults.hang_sync == Some(state.waits_since) {
                state.hung = true;
                return Ok(());
            }
            self.complete(state, &command)?;
        } else if self.is_eager() {
            forget(state, &command);
        } else {
            state.owed.push(command);
        }
        state.commands_since += 1;
        state.counters.commands += 1;
        state.registers.commands.head = queue.next(queue.head);
        Ok(())
    }

    /// COMPLETION_WAIT: everything before it takes effect, then it says so (2.4.1).
    fn complete(&self, state: &mut State, command: &Command) -> Result<(), Refused> {
        for owed in mem::take(&mut state.owed) {
            forget(state, &owed);
        }
        if completion_wait::S.read(command) == 1 {
            let address = completion_wait::ADDRESS.in_place(command[0]);
            let data = completion_wait::DATA.read(command);
            let (view, by) = (self.own_view(), Agent::Iommu(self.index, "completion"));
            let stored = self.memory.hardware_store(address, data, view, by);
            stored.map_err(|_| code::COMMAND_HARDWARE_ERROR)?;
        }
        state.counters.completions += 1;
        if completion_wait::I.read(command) == 1 {
            state.note(status::COM_WAIT_INT.mask());
        }
        Ok(())
    }

    /// Whether the command is one that this unit knows, with operands that it allows. Those for ATS, page requests and guests belong to features that no unit here has.
    fn is_legal(&self, command: &Command) -> bool {
        match OPCODE.read(command) {
            opcode::COMPLETION_WAIT => unreserved(&completion_wait::LAYOUT, command),
            opcode::INVALIDATE_DEVTAB_ENTRY | opcode::INVALIDATE_INTERRUPT_TABLE => {
                unreserved(&invalidate_entry::LAYOUT, command)
            }
            opcode::INVALIDATE_IOMMU_PAGES => {
                let guest = invalidate_pages::GN.read(command) == 1
                    || invalidate_pages::PASID.read(command) != 0;
                !guest && unreserved(&invalidate_pages::LAYOUT, command)
            }
            opcode::INVALIDATE_IOMMU_ALL => {
                let bare = command[0] == OPCODE.of(opcode::INVALIDATE_IOMMU_ALL) && command[1] == 0;
                self.profile.invalidate_all && bare
            }
            _ => false,
        }
    }
}

/// Whether no bit is set that no field of the command has.
fn unreserved(layout: &Layout, command: &Command) -> bool {
    let known = |word: usize| {
        let fields = layout.fields.iter().filter(|field| field.word() == word);
        fields.fold(0, |bits, field| bits | field.mask())
    };
    (0..command::WORDS).all(|word| command[word] & !known(word) == 0)
}

/// Drops from the caches exactly what the command covers.
fn forget(state: &mut State, command: &Command) {
    let caches = &mut state.caches;
    match OPCODE.read(command) {
        opcode::INVALIDATE_DEVTAB_ENTRY => {
            caches.forget_entry(invalidate_entry::DEVICE.read(command) as u32);
        }
        opcode::INVALIDATE_IOMMU_PAGES => caches.forget(Scope::of(
            invalidate_pages::DOMAIN.read(command) as u16,
            invalidate_pages::ADDRESS.in_place(command[1]),
            invalidate_pages::S.read(command) == 1,
            invalidate_pages::PDE.read(command) == 1,
        )),
        opcode::INVALIDATE_IOMMU_ALL => caches.clear(),
        _ => {}
    }
    state.epoch += 1;
}
