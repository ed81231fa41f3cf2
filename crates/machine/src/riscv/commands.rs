//! The command queue (3.1): when a command is taken, whether it is legal, what it makes the caches forget.

use super::caches::Scope;
use super::{RiscvIommu, State};
use crate::access::Agent;
use crate::faults::{CommandError, Consumption};
use portcullis_spec::Layout;
use portcullis_spec::riscv::command::{
    self, FUNC3, OPCODE, iodir, iodir_func, iofence, iofence_func, iotinval, iotinval_func, opcode,
};
use portcullis_spec::riscv::{cqcsr, iommu_mode};
use std::mem;

type Command = [u64; command::WORDS];

/// Why a command stays in the queue: the bit of `cqcsr`.
type Refused = u64;

const ILLEGAL: Refused = cqcsr::CMD_ILL.mask();
const MEMORY: Refused = cqcsr::CQMF.mask();

impl State {
    /// Whether a command could be taken now.
    pub(super) fn may_consume(&self) -> bool {
        let queue = &self.registers.commands;
        let frozen = self.faults.frozen_after.is_some_and(|most| self.commands_since >= most);
        self.registers.takes_commands()
            && queue.head != queue.tail
            && !(frozen || self.hung || self.gone || self.faults.service_failure)
    }

    fn injected_error(&mut self) -> Option<Refused> {
        let nth = self.commands_since + 1;
        let position = self.faults.failing_commands.iter().position(|(at, _)| *at == nth)?;
        Some(match self.faults.failing_commands.swap_remove(position).1 {
            CommandError::Illegal => ILLEGAL,
            CommandError::FetchAbort => MEMORY,
            CommandError::AtcInvalidation => cqcsr::CMD_TO.mask(),
        })
    }
}

impl RiscvIommu {
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
        if let Err(bit) = result {
            let due = state.registers.command_status(bit);
            state.owe(due);
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
        let address = queue.entry(queue.head, command::BYTES as u64);
        let fetch = |at| self.fetch(at, "command").map_err(|_| MEMORY);
        let command = [fetch(address)?, fetch(address + 8)?];
        self.check(state, &command)?;
        if OPCODE.read(&command) == opcode::IOFENCE {
            state.fences_since += 1;
            if state.faults.hang_sync == Some(state.fences_since) {
                state.hung = true;
                return Ok(());
            }
            self.fence(state, &command)?;
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

    /// IOFENCE.C: everything before it takes effect, then it says so (3.1.2).
    fn fence(&self, state: &mut State, command: &Command) -> Result<(), Refused> {
        for owed in mem::take(&mut state.owed) {
            forget(state, &owed);
        }
        if iofence::AV.read(command) == 1 {
            let address = iofence::ADDR.read(command) << 2;
            let data = (iofence::DATA.read(command) as u32).to_le_bytes();
            let by = Agent::Iommu(self.index, "fence");
            self.memory.dma_write(address, &data, by).map_err(|_| MEMORY)?;
        }
        state.counters.fences += 1;
        if iofence::WSI.read(command) == 1 {
            let due = state.registers.command_status(cqcsr::FENCE_W_IP.mask());
            state.owe(due);
        }
        Ok(())
    }

    /// Whether the command is one that this unit knows, with operands that it allows.
    fn check(&self, state: &State, command: &Command) -> Result<(), Refused> {
        let function = FUNC3.read(command);
        let legal = match OPCODE.read(command) {
            opcode::IOTINVAL => {
                let vma = function == iotinval_func::VMA;
                let process = iotinval::PSCV.read(command) == 1;
                let known = vma || function == iotinval_func::GVMA && !process;
                known && unreserved(&iotinval::LAYOUT, command)
            }
            opcode::IOFENCE => {
                let wire = iofence::WSI.read(command) == 0 || state.registers.by_wire();
                function == iofence_func::C && wire && unreserved(&iofence::LAYOUT, command)
            }
            opcode::IODIR => {
                // Process directories are not modelled, so INVAL_PDT has nothing to forget.
                let named = iodir::DV.read(command) == 1;
                let all = function == iodir_func::INVAL_DDT && iodir::PID.read(command) == 0;
                let one = function == iodir_func::INVAL_PDT && named;
                let fits = !named || iodir::DID.read(command) >> self.device_bits(state) == 0;
                (all || one) && fits && unreserved(&iodir::LAYOUT, command)
            }
            _ => false,
        };
        if legal { Ok(()) } else { Err(ILLEGAL) }
    }

    /// Bits of a device id that the mode in effect knows (2.1); all of them where no directory is used.
    pub(super) fn device_bits(&self, state: &State) -> u32 {
        let leaf = self.profile.leaf_bits();
        match state.registers.mode() {
            iommu_mode::LEVELS_1 => leaf,
            iommu_mode::LEVELS_2 => leaf + 9,
            _ => 24,
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
    match (OPCODE.read(command), FUNC3.read(command)) {
        (opcode::IODIR, iodir_func::INVAL_DDT) => {
            let device = iodir::DID.read(command) as u32;
            caches.forget_contexts((iodir::DV.read(command) == 1).then_some(device));
        }
        (opcode::IOTINVAL, function) => {
            let guest = iotinval::GSCID.read(command) as u16;
            let guest = (iotinval::GV.read(command) == 1).then_some(guest);
            let process = iotinval::PSCID.read(command) as u32;
            let process = (iotinval::PSCV.read(command) == 1).then_some(process);
            let address = iotinval::ADDR.read(command) << 12;
            let address = (iotinval::AV.read(command) == 1).then_some(address);
            caches.forget(if function == iotinval_func::VMA {
                Scope::First { guest, process, address }
            } else {
                // Without a guest the address is ignored.
                Scope::Second { guest, address: guest.and(address) }
            });
        }
        _ => {}
    }
    state.epoch += 1;
}
