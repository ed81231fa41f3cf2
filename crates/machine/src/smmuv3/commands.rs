//! The command queue (chapter 4): when a command is taken, whether it is legal, what it makes the caches forget.

use super::{InterruptLine, Profile, SmmuV3, State, operand_granule};
use crate::faults::{CommandError, Consumption};
use crate::oracle::Violation;
use crate::vmsa::{Regime, Scope, Span};
use portcullis_spec::smmuv3::command::{self, cfgi, opcode, sync, tlbi};
use portcullis_spec::smmuv3::gerror;
use std::mem;

/// A command that stays in the queue.
type Refused = CommandError;

impl State {
    /// Whether a command could be taken now.
    pub(super) fn may_consume(&self) -> bool {
        let (producer, consumer) = self.registers.command_indices();
        let frozen = self.faults.frozen_after.is_some_and(|most| self.commands_since >= most);
        self.registers.takes_commands()
            && !self.registers.is_active(gerror::CMDQ_ERR.mask())
            && producer != consumer
            && !(frozen || self.hung || self.gone || self.faults.service_failure)
    }

    fn injected_error(&mut self) -> Option<CommandError> {
        let nth = self.commands_since + 1;
        let position = self.faults.failing_commands.iter().position(|(at, _)| *at == nth)?;
        Some(self.faults.failing_commands.swap_remove(position).1)
    }
}

impl SmmuV3 {
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

    /// Takes one command, or reports why it cannot. Returns whether another look makes sense.
    pub(super) fn consume_one(&self) -> bool {
        if !self.lock().may_consume() {
            return false;
        }
        self.hook.step("smmu", u64::from(self.index), "command", true);
        let mut state = self.lock();
        if !state.may_consume() {
            return false;
        }
        let result = self.execute_next(&mut state);
        if let Err(error) = result
            && state.registers.stop_commands(error.code())
        {
            state.announce_error();
        }
        let deliveries = mem::take(&mut state.deliveries);
        let again = result.is_ok() && !state.hung;
        drop(state);
        self.deliver(deliveries);
        again
    }

    fn execute_next(&self, state: &mut State) -> Result<(), Refused> {
        let queue = state.registers.commands();
        let (_, index) = state.registers.command_indices();
        if let Some(error) = state.injected_error() {
            state.commands_since += 1;
            return Err(error);
        }
        let address = queue.entry(index, 16);
        let fetch = |at| self.fetch(at, "command").map_err(|_| CommandError::FetchAbort);
        let command = [fetch(address)?, fetch(address + 8)?];
        let operation = command::OPCODE.get(command[0]);
        check(operation, command, &self.profile)?;
        if operation == opcode::SYNC {
            state.syncs_since += 1;
            if state.faults.hang_sync == Some(state.syncs_since) {
                state.hung = true;
                return Ok(());
            }
            for owed in mem::take(&mut state.owed) {
                self.forget(state, owed);
            }
            state.unsynced = None;
            state.counters.syncs += 1;
            self.signal_completion(state, command);
        } else if self.may_follow(state, operation) {
            if self.is_eager() {
                self.forget(state, command);
            } else {
                state.owed.push(command);
            }
        }
        state.commands_since += 1;
        state.counters.commands += 1;
        state.registers.set_command_index(queue.next(index));
        Ok(())
    }

    /// Whether a command has an effect, given those since the last CMD_SYNC ([`Profile::sync_between_kinds`]).
    fn may_follow(&self, state: &mut State, operation: u64) -> bool {
        if [opcode::PREFETCH_CONFIG, opcode::PREFETCH_ADDR].contains(&operation) {
            return true;
        }
        let Some(earlier) = state.unsynced.replace(operation) else { return true };
        if earlier == operation || !self.profile.sync_between_kinds {
            return true;
        }
        let (iommu, opcodes) = (self.index, [earlier, operation]);
        self.oracle.violated(Violation::UnsyncedCommands { iommu, opcodes });
        false
    }

    fn signal_completion(&self, state: &mut State, command: [u64; 2]) {
        if sync::CS.read(&command) != sync::cs::IRQ {
            return;
        }
        let address = if self.profile.msi { sync::MSI_ADDRESS.in_place(command[1]) } else { 0 };
        let data = sync::MSI_DATA.read(&command) as u32;
        state.interrupt(InterruptLine::CommandSync, address, data);
    }

    /// Drops from the caches exactly what the command covers.
    fn forget(&self, state: &mut State, command: [u64; 2]) {
        let operation = command::OPCODE.get(command[0]);
        let stream = cfgi::STREAM_ID.read(&command) as u32;
        let substream = cfgi::SUBSTREAM_ID.read(&command) as u32;
        let leaf = cfgi::LEAF.read(&command) == 1;
        let caches = &mut state.caches;
        match operation {
            opcode::CFGI_STE => caches.forget_stream(stream, leaf),
            opcode::CFGI_STE_RANGE => {
                let bits = cfgi::RANGE.read(&command) + 1;
                caches.forget_streams(stream, bits as u32);
            }
            opcode::CFGI_CD => caches.forget_context(stream, substream, leaf),
            opcode::CFGI_CD_ALL => caches.forget_contexts(stream),
            opcode::PREFETCH_CONFIG | opcode::PREFETCH_ADDR => return,
            _ => match self.scope(operation, command) {
                Some(scope) => caches.translations.forget(&scope),
                None => {
                    let iommu = self.index;
                    self.oracle.violated(Violation::UnpredictableCommand { iommu, command });
                    return;
                }
            },
        }
        state.epoch += 1;
    }

    /// What a TLBI covers; `None` where that is UNPREDICTABLE.
    fn scope(&self, operation: u64, command: [u64; 2]) -> Option<Scope> {
        let vmid = if self.profile.stage2 { tlbi::VMID.read(&command) as u16 } else { 0 };
        let asid = tlbi::ASID.read(&command) as u16;
        let stage1 = Scope::of(Regime::Stage1);
        Some(match operation {
            opcode::TLBI_NH_ALL => stage1.vmid(vmid),
            opcode::TLBI_NH_ASID => stage1.vmid(vmid).asid(asid),
            opcode::TLBI_NH_VA => stage1.vmid(vmid).asid_or_global(asid).span(span(command)?),
            opcode::TLBI_NH_VAA => stage1.vmid(vmid).span(span(command)?),
            opcode::TLBI_S2_IPA => Scope::of(Regime::Stage2).vmid(vmid).span(span(command)?),
            opcode::TLBI_S12_VMALL => Scope::everything().vmid(vmid),
            _ => Scope::everything(),
        })
    }
}

/// The addresses of an address command (§4.4.1.1); `None` for a range whose start is not aligned as its level hint asks.
fn span(command: [u64; 2]) -> Option<Span> {
    let start = tlbi::ADDRESS.in_place(command[1]);
    let leaf = tlbi::LEAF.read(&command) == 1;
    let Some(granule) = operand_granule(tlbi::TG.read(&command)) else {
        return Some(Span { start, last: start | 0xfff, granule: None, level: None, leaf });
    };
    let level = match tlbi::TTL.read(&command) {
        0 => None,
        1 if granule == 14 => None,
        level => Some(level as u32),
    };
    let unit = level.map_or(granule, |level| granule + (granule - 3) * (3 - level));
    if start & ((1 << unit) - 1) != 0 {
        return None;
    }
    let granules = (tlbi::NUM.read(&command) + 1) << tlbi::SCALE.read(&command).min(39);
    let last = start.saturating_add((granules << granule).wrapping_sub(1));
    Some(Span { start, last, granule: Some(granule), level, leaf })
}

/// Whether the command is one that this implementation knows, with operands that it allows.
fn check(operation: u64, command: [u64; 2], profile: &Profile) -> Result<(), Refused> {
    let known = match operation {
        opcode::PREFETCH_CONFIG
        | opcode::PREFETCH_ADDR
        | opcode::CFGI_STE
        | opcode::CFGI_STE_RANGE
        | opcode::TLBI_NSNH_ALL => true,
        opcode::CFGI_CD
        | opcode::CFGI_CD_ALL
        | opcode::TLBI_NH_ALL
        | opcode::TLBI_NH_ASID
        | opcode::TLBI_NH_VAA
        | opcode::TLBI_NH_VA => profile.stage1,
        opcode::TLBI_S12_VMALL | opcode::TLBI_S2_IPA => profile.stage2,
        opcode::SYNC => sync::CS.read(&command) <= sync::cs::SEV,
        _ => false,
    };
    let ranged =
        matches!(operation, opcode::TLBI_NH_VA | opcode::TLBI_NH_VAA | opcode::TLBI_S2_IPA);
    let secure = matches!(operation, opcode::CFGI_STE..=opcode::CFGI_CD_ALL)
        && cfgi::SSEC.read(&command) == 1;
    if !known || secure || ranged && !range_is_legal(command, profile) {
        return Err(CommandError::Illegal);
    }
    Ok(())
}

/// Without range support the range fields are reserved; with it, a granule without level, number and scale is (§4.4.1.1).
fn range_is_legal(command: [u64; 2], profile: &Profile) -> bool {
    let [tg, ttl, num, scale] =
        [tlbi::TG, tlbi::TTL, tlbi::NUM, tlbi::SCALE].map(|field| field.read(&command));
    if !profile.ril {
        return tg | ttl | num | scale == 0;
    }
    let no_level = ttl == 0 || ttl == 1 && tg == tlbi::tg::K16;
    !(tg != tlbi::tg::NONE && no_level && num == 0 && scale == 0)
}
