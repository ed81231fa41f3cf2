//! The register file (chapter 5): what is stored, what is read-only, when a write is in effect.

use super::RiscvProfile;
use super::profile::RiscvInterrupts;
use portcullis_spec::Register;
use portcullis_spec::riscv::{
    self as spec, cqb, cqcsr, ddtp, fctl, fqcsr, icvec, iommu_mode, ipsr, msi_addr, msi_vec_ctl,
};

/// Entries of the MSI configuration table.
const VECTORS: usize = 16;

/// One of the two queues, as its registers stand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue {
    base: u64,
    pub(super) head: u32,
    pub(super) tail: u32,
    /// Enable bits and errors, as in the control register.
    pub(super) csr: u32,
    on: bool,
}

impl Queue {
    fn log2(&self) -> u32 {
        cqb::LOG2SZ.get(self.base) as u32 + 1
    }

    fn mask(&self) -> u32 {
        u32::MAX >> (32 - self.log2().min(32))
    }

    /// Where entry number `index` of `bytes` each is.
    pub(super) fn entry(&self, index: u32, bytes: u64) -> u64 {
        let size = (bytes << self.log2()).max(0x1000);
        let base = cqb::PPN.get(self.base) << 12;
        (base & !(size - 1)) + u64::from(index & self.mask()) * bytes
    }

    pub(super) fn next(&self, index: u32) -> u32 {
        index.wrapping_add(1) & self.mask()
    }

    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    pub(super) fn is_full(&self) -> bool {
        self.next(self.tail) == self.head
    }
}

/// Where the message of a vector goes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Message {
    pub(super) address: u64,
    pub(super) data: u32,
    control: u32,
    pending: bool,
}

/// An interrupt that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Wire(u8),
    Message { address: u64, data: u32 },
}

/// What a write did beyond changing the register.
#[derive(Clone, Debug, Default)]
pub(super) struct Effect {
    /// The document leaves open what such a write does, so it was ignored.
    pub(super) unspecified: bool,
    /// Transactions may now be treated differently.
    pub(super) changes_translation: bool,
    /// Interrupts that are due.
    pub(super) due: Vec<Due>,
}

#[derive(Clone, Debug)]
pub(super) struct RegisterFile {
    profile: RiscvProfile,
    fctl: u32,
    /// As written; the mode that is in effect stands beside it.
    ddtp: u64,
    mode: u64,
    pub(super) commands: Queue,
    pub(super) faults: Queue,
    requests: Queue,
    ipsr: u32,
    icvec: u64,
    messages: [Message; VECTORS],
    /// How many looks it takes until what was written is in effect: `ddtp`, `cqcsr`, `fqcsr`, `pqcsr`.
    delays: [u32; 4],
}

const DDTP: usize = 0;
const CQCSR: usize = 1;
const FQCSR: usize = 2;
const PQCSR: usize = 3;

const CSR_ENABLES: u32 = (cqcsr::CQEN.mask() | cqcsr::CIE.mask()) as u32;
const CQ_ERRORS: u32 = (cqcsr::CQMF.mask() | cqcsr::CMD_TO.mask() | cqcsr::CMD_ILL.mask()) as u32;
const CQ_STATUS: u32 = CQ_ERRORS | cqcsr::FENCE_W_IP.mask() as u32;
const FQ_ERRORS: u32 = (fqcsr::FQMF.mask() | fqcsr::FQOF.mask()) as u32;
const IPSR_BITS: u32 =
    (ipsr::CIP.mask() | ipsr::FIP.mask() | ipsr::PMIP.mask() | ipsr::PIP.mask()) as u32;

/// The register's name, for hooks.
pub(super) fn name(offset: usize) -> &'static str {
    spec::REGISTERS.iter().find(|r| covers(r, offset)).map_or("reserved", |r| r.name)
}

fn covers(register: &Register, offset: usize) -> bool {
    (register.offset..register.offset + usize::from(register.bits) / 8).contains(&offset)
}

/// Whether a read of `bytes` at `offset` shows how far commands were consumed.
pub(super) fn shows_consumption(offset: usize, bytes: usize) -> bool {
    let at = [spec::CQH.offset, spec::CQCSR.offset, spec::IPSR.offset];
    at.iter().any(|at| (offset..offset + bytes).contains(at))
}

fn half(register: Register, offset: usize, value: u64) -> u32 {
    if offset == register.offset { value as u32 } else { (value >> 32) as u32 }
}

fn with_half(register: Register, offset: usize, old: u64, value: u32) -> u64 {
    if offset == register.offset {
        old & !0xffff_ffff | u64::from(value)
    } else {
        old & 0xffff_ffff | u64::from(value) << 32
    }
}

impl RegisterFile {
    pub(super) fn reset(profile: &RiscvProfile) -> Self {
        let wires = profile.interrupts == RiscvInterrupts::Wires;
        let mode = if profile.reset_bare { iommu_mode::BARE } else { iommu_mode::OFF };
        Self {
            profile: profile.clone(),
            fctl: fctl::WSI.of(wires.into()) as u32,
            ddtp: mode,
            mode,
            commands: Queue::default(),
            faults: Queue::default(),
            requests: Queue::default(),
            ipsr: 0,
            icvec: 0,
            messages: [Message::default(); VECTORS],
            delays: [0; 4],
        }
    }

    /// The mode in effect.
    pub(super) fn mode(&self) -> u64 {
        self.mode
    }

    /// Where the root directory is.
    pub(super) fn root(&self) -> u64 {
        ddtp::PPN.get(self.ddtp) << 12
    }

    pub(super) fn by_wire(&self) -> bool {
        fctl::WSI.is_set(self.fctl.into())
    }

    /// Whether commands are fetched: the queue is on, and no error stops it.
    pub(super) fn takes_commands(&self) -> bool {
        self.commands.on && self.commands.csr & CQ_ERRORS == 0
    }

    pub(super) fn read(&self, offset: usize) -> u32 {
        let csr = |queue: &Queue, delay: usize| {
            let on = cqcsr::CQON.of(queue.on.into()) as u32;
            queue.csr | on | cqcsr::BUSY.of((self.delays[delay] > 0).into()) as u32
        };
        match offset {
            o if covers(&spec::CAPABILITIES, o) => {
                half(spec::CAPABILITIES, o, self.profile.capabilities())
            }
            o if o == spec::FCTL.offset => self.fctl,
            o if covers(&spec::DDTP, o) => {
                half(spec::DDTP, o, self.ddtp | ddtp::BUSY.of((self.delays[DDTP] > 0).into()))
            }
            o if covers(&spec::CQB, o) => half(spec::CQB, o, self.commands.base),
            o if o == spec::CQH.offset => self.commands.head,
            o if o == spec::CQT.offset => self.commands.tail,
            o if covers(&spec::FQB, o) => half(spec::FQB, o, self.faults.base),
            o if o == spec::FQH.offset => self.faults.head,
            o if o == spec::FQT.offset => self.faults.tail,
            o if o == spec::CQCSR.offset => csr(&self.commands, CQCSR),
            o if o == spec::FQCSR.offset => csr(&self.faults, FQCSR),
            o if o == spec::PQCSR.offset => csr(&self.requests, PQCSR),
            o if o == spec::IPSR.offset => self.ipsr,
            o if covers(&spec::ICVEC, o) => half(spec::ICVEC, o, self.icvec),
            o => self.message_at(o).map_or(0, |(index, at)| {
                let message = &self.messages[index];
                match at {
                    0 => message.address as u32,
                    4 => (message.address >> 32) as u32,
                    8 => message.data,
                    _ => message.control,
                }
            }),
        }
    }

    /// Which entry of the MSI table a register belongs to, and where in it.
    fn message_at(&self, offset: usize) -> Option<(usize, usize)> {
        let at = offset.checked_sub(spec::MSI_ADDR_0.offset)?;
        let index = at / spec::MSI_STRIDE;
        let there = self.profile.interrupts != RiscvInterrupts::Wires;
        let known = 1 << self.profile.vectors_log2.min(4);
        (there && index < known).then_some((index, at % spec::MSI_STRIDE))
    }

    /// Writes 32 bits. `delay` is how many looks it takes until a mode or an enable bit is in effect; `draw` stands for whatever the document leaves unspecified.
    pub(super) fn write(&mut self, offset: usize, value: u32, delay: u32, draw: u32) -> Effect {
        match offset {
            o if o == spec::FCTL.offset => return self.write_fctl(value),
            o if covers(&spec::DDTP, o) => return self.write_ddtp(o, value, delay),
            o if covers(&spec::CQB, o) => return self.write_base(spec::CQB, o, value, draw),
            o if covers(&spec::FQB, o) => return self.write_base(spec::FQB, o, value, draw),
            o if o == spec::CQT.offset => self.commands.tail = value & self.commands.mask(),
            o if o == spec::FQH.offset => self.faults.head = value & self.faults.mask(),
            o if o == spec::CQCSR.offset => return self.write_csr(CQCSR, value, delay),
            o if o == spec::FQCSR.offset => return self.write_csr(FQCSR, value, delay),
            o if o == spec::PQCSR.offset && self.profile.page_requests => {
                return self.write_csr(PQCSR, value, delay);
            }
            o if o == spec::IPSR.offset => {
                self.ipsr &= !(value & IPSR_BITS);
                return Effect { due: self.pend(), ..Effect::default() };
            }
            o if covers(&spec::ICVEC, o) => {
                let writable = (1u64 << self.profile.vectors_log2.min(4)) - 1;
                let writable = icvec::CIV.of(writable)
                    | icvec::FIV.of(writable)
                    | icvec::PMIV.of(writable)
                    | icvec::PIV.of(writable);
                self.icvec = with_half(spec::ICVEC, o, self.icvec, value) & writable;
            }
            o => return self.write_message(o, value),
        }
        Effect::default()
    }

    /// A feature is chosen while the unit and its queues are off (5.4).
    fn write_fctl(&mut self, value: u32) -> Effect {
        let busy = self.ddtp & ddtp::IOMMU_MODE.mask() != iommu_mode::OFF
            || [&self.commands, &self.faults, &self.requests]
                .iter()
                .any(|q| q.on || q.csr & 1 != 0);
        let writable = match self.profile.interrupts {
            RiscvInterrupts::Both => fctl::WSI.mask() as u32,
            RiscvInterrupts::Messages | RiscvInterrupts::Wires => 0,
        };
        let new = self.fctl & !writable | value & writable;
        if busy && new != self.fctl {
            return Effect { unspecified: true, ..Effect::default() };
        }
        self.fctl = new;
        Effect::default()
    }

    /// A mode is changed by way of "off" or "bare" (5.5). The mode stands in the low half, which is written last.
    fn write_ddtp(&mut self, offset: usize, value: u32, delay: u32) -> Effect {
        let new = with_half(spec::DDTP, offset, self.ddtp, value);
        let unspecified = Effect { unspecified: true, ..Effect::default() };
        if self.delays[DDTP] > 0 {
            return unspecified;
        }
        if offset != spec::DDTP.offset {
            self.ddtp = self.ddtp & 0xffff_ffff | new & ddtp::PPN.mask() & !0xffff_ffff;
            return Effect::default();
        }
        let (old_mode, mode) = (ddtp::IOMMU_MODE.get(self.ddtp), ddtp::IOMMU_MODE.get(new));
        let (off, bare) = (iommu_mode::OFF, iommu_mode::BARE);
        let known = match mode {
            iommu_mode::OFF | iommu_mode::BARE => true,
            iommu_mode::LEVELS_1..=iommu_mode::LEVELS_3 => {
                self.profile.levels[(mode - iommu_mode::LEVELS_1) as usize]
            }
            _ => false,
        };
        let mode = if known { mode } else { old_mode };
        if mode != off && ![off, bare].contains(&old_mode) && mode != old_mode
            || mode == bare && old_mode != off && old_mode != bare
        {
            return unspecified;
        }
        self.ddtp = new & ddtp::PPN.mask() | mode;
        self.delays[DDTP] = delay;
        let changes_translation = delay == 0 && self.take_mode();
        Effect { changes_translation, ..Effect::default() }
    }

    fn take_mode(&mut self) -> bool {
        let mode = ddtp::IOMMU_MODE.get(self.ddtp);
        std::mem::replace(&mut self.mode, mode) != mode
    }

    /// A queue is moved while it is off. Its index that software writes is some valid one then (5.6, 5.9).
    fn write_base(&mut self, register: Register, offset: usize, value: u32, draw: u32) -> Effect {
        let (queue, delay) = match register.offset {
            o if o == spec::CQB.offset => (&mut self.commands, self.delays[CQCSR]),
            _ => (&mut self.faults, self.delays[FQCSR]),
        };
        if queue.on || delay > 0 {
            return Effect { unspecified: true, ..Effect::default() };
        }
        let base = with_half(register, offset, queue.base, value);
        let most = u64::from(self.profile.queue_log2.clamp(1, 32)) - 1;
        queue.base = base & cqb::PPN.mask() | cqb::LOG2SZ.of(cqb::LOG2SZ.get(base).min(most));
        let index = draw & queue.mask();
        if register.offset == spec::CQB.offset {
            queue.tail = index
        } else {
            queue.head = index
        }
        Effect::default()
    }

    fn queue(&mut self, which: usize) -> &mut Queue {
        match which {
            CQCSR => &mut self.commands,
            FQCSR => &mut self.faults,
            _ => &mut self.requests,
        }
    }

    fn write_csr(&mut self, which: usize, value: u32, delay: u32) -> Effect {
        if self.delays[which] > 0 {
            return Effect { unspecified: true, ..Effect::default() };
        }
        let queue = self.queue(which);
        let status = if which == CQCSR { CQ_STATUS } else { FQ_ERRORS };
        let was_enabled = queue.csr & 1 != 0;
        queue.csr = queue.csr & !(value & status) & !CSR_ENABLES | value & CSR_ENABLES;
        let enabled = queue.csr & 1 != 0;
        if enabled && !was_enabled {
            queue.csr &= !status;
            if which == CQCSR { queue.head = 0 } else { queue.tail = 0 }
        }
        self.delays[which] = delay;
        if delay == 0 {
            self.queue(which).on = enabled;
        }
        Effect { due: self.pend(), ..Effect::default() }
    }

    fn write_message(&mut self, offset: usize, value: u32) -> Effect {
        let Some((index, at)) = self.message_at(offset) else { return Effect::default() };
        let message = &mut self.messages[index];
        let register = Register { offset: 0, ..spec::MSI_ADDR_0 };
        match at {
            0 | 4 => {
                let new = with_half(register, at, message.address, value);
                message.address = msi_addr::ADDR.in_place(new);
            }
            8 => message.data = value,
            _ => message.control = value & msi_vec_ctl::M.mask() as u32,
        }
        let mut due = Vec::new();
        if message.pending && !msi_vec_ctl::M.is_set(message.control.into()) {
            message.pending = false;
            due.push(Due::Message { address: message.address, data: message.data });
        }
        Effect { due, ..Effect::default() }
    }

    /// Software looks at `bytes` bytes at `offset`: what was written before takes effect a little later. Says whether that changes how transactions are treated.
    pub(super) fn looked_at(&mut self, offset: usize, bytes: usize) -> bool {
        let at = [spec::DDTP.offset, spec::CQCSR.offset, spec::FQCSR.offset, spec::PQCSR.offset];
        let seen = |at: &usize| (offset..offset + bytes).contains(at);
        let which = (0..at.len()).filter(|which| seen(&at[*which])).collect::<Vec<_>>();
        self.tick_all(which)
    }

    /// As [`looked_at`](Self::looked_at) for a moment of time.
    pub(super) fn time_passes(&mut self) -> bool {
        self.tick_all(0..self.delays.len())
    }

    fn tick_all(&mut self, which: impl IntoIterator<Item = usize>) -> bool {
        let changed = which.into_iter().filter(|which| self.tick(*which));
        changed.count() > 0
    }

    fn tick(&mut self, which: usize) -> bool {
        if self.delays[which] == 0 {
            return false;
        }
        self.delays[which] -= 1;
        if self.delays[which] > 0 {
            return false;
        }
        if which == DDTP {
            return self.take_mode();
        }
        let queue = self.queue(which);
        queue.on = queue.csr & 1 != 0;
        false
    }

    /// Sets bits in `cqcsr`, and the interrupt that belongs to them.
    pub(super) fn command_status(&mut self, bits: u64) -> Vec<Due> {
        self.commands.csr |= bits as u32;
        self.pend()
    }

    /// Sets bits in `fqcsr`, and the interrupt that belongs to them.
    pub(super) fn fault_status(&mut self, bits: u64) -> Vec<Due> {
        self.faults.csr |= bits as u32;
        self.pend()
    }

    /// A record was put into the fault queue.
    pub(super) fn recorded(&mut self) -> Vec<Due> {
        self.faults.tail = self.faults.next(self.faults.tail);
        if self.faults.csr & fqcsr::FIE.mask() as u32 == 0 {
            return Vec::new();
        }
        self.raise(ipsr::FIP.mask() as u32, icvec::FIV.get(self.icvec))
    }

    /// Pending bits whose condition holds are set, again and again (5.18).
    fn pend(&mut self) -> Vec<Due> {
        let mut due = Vec::new();
        let command = self.commands.csr & cqcsr::CIE.mask() as u32 != 0;
        if command && self.commands.csr & CQ_STATUS != 0 {
            due.extend(self.raise(ipsr::CIP.mask() as u32, icvec::CIV.get(self.icvec)));
        }
        let fault = self.faults.csr & fqcsr::FIE.mask() as u32 != 0;
        if fault && self.faults.csr & FQ_ERRORS != 0 {
            due.extend(self.raise(ipsr::FIP.mask() as u32, icvec::FIV.get(self.icvec)));
        }
        due
    }

    /// A pending bit becomes 1: the wire rises, or the message goes out once.
    fn raise(&mut self, bit: u32, vector: u64) -> Vec<Due> {
        if self.ipsr & bit != 0 {
            return Vec::new();
        }
        self.ipsr |= bit;
        if self.by_wire() {
            return vec![Due::Wire(vector as u8)];
        }
        let message = &mut self.messages[vector as usize];
        if msi_vec_ctl::M.is_set(message.control.into()) {
            message.pending = true;
            return Vec::new();
        }
        vec![Due::Message { address: message.address, data: message.data }]
    }
}
