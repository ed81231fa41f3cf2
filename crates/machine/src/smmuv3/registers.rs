//! The register file (chapter 6): what is stored, what is read-only, what is guarded by an enable bit, and when a write is in effect.

use super::Profile;
use portcullis_spec::Register;
use portcullis_spec::smmuv3 as spec;
use portcullis_spec::smmuv3::{
    cmdq_base, cmdq_cons, cmdq_prod, cr0, eventq_base, eventq_cons, eventq_prod, gbpa, gerror,
    irq_ctrl, strtab_base,
};

/// A queue's base register taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    pub(super) base: u64,
    pub(super) log2: u32,
}

impl Queue {
    /// `log2` of entries is capped at what the implementation has; the base is aligned to the queue's size, as hardware does.
    fn new(address: u64, log2: u64, most: u8, entry_bytes: u64) -> Self {
        let log2 = log2.min(u64::from(most)) as u32;
        let size = entry_bytes << log2;
        Self { base: address & !(size.max(32) - 1), log2 }
    }

    /// Where entry number `index` (wrap flag included) is.
    pub(super) fn entry(&self, index: u32, entry_bytes: u64) -> u64 {
        self.base + u64::from(index & ((1 << self.log2) - 1)) * entry_bytes
    }

    /// The index after `index`, wrap flag included.
    pub(super) fn next(&self, index: u32) -> u32 {
        (index + 1) & self.mask()
    }

    /// Ones for the index bits and the wrap flag.
    pub(super) fn mask(&self) -> u32 {
        (2 << self.log2) - 1
    }

    pub(super) fn is_full(&self, producer: u32, consumer: u32) -> bool {
        (producer ^ consumer) & self.mask() == 1 << self.log2
    }
}

/// What a write did beyond changing the register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// An enable bit guards the register, so the write was ignored.
    pub(super) guarded: bool,
    /// Transactions may now be treated differently.
    pub(super) changes_translation: bool,
}

/// Message configuration of one interrupt source.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Message {
    pub(super) address: u64,
    pub(super) data: u32,
    attributes: u32,
}

#[derive(Clone, Debug)]
pub(super) struct RegisterFile {
    identification: [(usize, u32); 7],
    cmdq_most: u8,
    eventq_most: u8,
    has_messages: bool,
    has_global_abort: bool,
    cr0: u32,
    cr0_effective: u32,
    cr1: u32,
    cr2: u32,
    gbpa: u32,
    gbpa_next: Option<u32>,
    irq_ctrl: u32,
    irq_effective: u32,
    pub(super) gerror: u32,
    gerrorn: u32,
    strtab_base: u64,
    strtab_cfg: u32,
    cmdq_base: u64,
    pub(super) cmdq_prod: u32,
    pub(super) cmdq_cons: u32,
    eventq_base: u64,
    pub(super) eventq_prod: u32,
    eventq_cons: u32,
    pub(super) gerror_message: Message,
    pub(super) eventq_message: Message,
    /// How many looks it takes until what was written is in effect.
    delay: u32,
}

const CR0_BITS: u32 = (cr0::SMMUEN.mask() | cr0::EVENTQEN.mask() | cr0::CMDQEN.mask()) as u32;
const IRQ_BITS: u32 = (irq_ctrl::GERROR_IRQEN.mask() | irq_ctrl::EVENTQ_IRQEN.mask()) as u32;
const GBPA_UPDATE: u32 = gbpa::UPDATE.mask() as u32;

/// The register's name, for hooks.
pub(super) fn name(offset: usize) -> &'static str {
    spec::REGISTERS.iter().find(|r| covers(r, offset)).map_or("reserved", |r| r.name)
}

fn covers(register: &Register, offset: usize) -> bool {
    (register.offset..register.offset + usize::from(register.bits) / 8).contains(&offset)
}

/// Whether a read of `bytes` at `offset` shows how far commands were consumed.
pub(super) fn shows_consumption(offset: usize, bytes: usize) -> bool {
    let at = [spec::CMDQ_CONS.offset, spec::GERROR.offset];
    at.iter().any(|at| (offset..offset + bytes).contains(at))
}

fn low(word: u64, value: u32) -> u64 {
    word & !0xffff_ffff | u64::from(value)
}

fn high(word: u64, value: u32) -> u64 {
    word & 0xffff_ffff | u64::from(value) << 32
}

impl RegisterFile {
    pub(super) fn reset(profile: &Profile) -> Self {
        let abort = gbpa::ABORT.of(profile.reset_abort.into());
        let global = gbpa::SHCFG.of(spec::shareability::USE_INCOMING) | abort;
        Self {
            identification: [
                (spec::IDR0.offset, profile.idr0()),
                (spec::IDR1.offset, profile.idr1()),
                (spec::IDR3.offset, profile.idr3()),
                (spec::IDR5.offset, profile.idr5()),
                (spec::IIDR.offset, profile.iidr),
                (spec::AIDR.offset, profile.aidr()),
                (spec::IDR2.offset, 0),
            ],
            cmdq_most: profile.cmdq_log2.min(19),
            eventq_most: profile.eventq_log2.min(19),
            has_messages: profile.msi,
            has_global_abort: profile.global_abort,
            cr0: 0,
            cr0_effective: 0,
            cr1: 0,
            cr2: 0,
            gbpa: if profile.global_abort { global as u32 } else { 0 },
            gbpa_next: None,
            irq_ctrl: 0,
            irq_effective: 0,
            gerror: 0,
            gerrorn: 0,
            strtab_base: 0,
            strtab_cfg: 0,
            cmdq_base: 0,
            cmdq_prod: 0,
            cmdq_cons: 0,
            eventq_base: 0,
            eventq_prod: 0,
            eventq_cons: 0,
            gerror_message: Message::default(),
            eventq_message: Message::default(),
            delay: 0,
        }
    }

    pub(super) fn translates(&self) -> bool {
        self.cr0_effective & cr0::SMMUEN.mask() as u32 != 0
    }

    pub(super) fn takes_commands(&self) -> bool {
        self.cr0_effective & cr0::CMDQEN.mask() as u32 != 0
    }

    pub(super) fn writes_events(&self) -> bool {
        self.cr0_effective & cr0::EVENTQEN.mask() as u32 != 0
    }

    pub(super) fn aborts_all(&self) -> bool {
        gbpa::ABORT.is_set(self.gbpa.into())
    }

    pub(super) fn records_bad_streams(&self) -> bool {
        spec::cr2::RECINVSID.is_set(self.cr2.into())
    }

    pub(super) fn stream_table(&self) -> (u64, u32) {
        (strtab_base::ADDR.in_place(self.strtab_base), self.strtab_cfg)
    }

    pub(super) fn interrupts_enabled(&self, bits: u64) -> bool {
        u64::from(self.irq_effective) & bits != 0
    }

    pub(super) fn is_active(&self, error: u64) -> bool {
        u64::from(self.gerror ^ self.gerrorn) & error != 0
    }

    pub(super) fn commands(&self) -> Queue {
        let base = self.cmdq_base;
        let address = cmdq_base::ADDR.in_place(base);
        Queue::new(address, cmdq_base::LOG2SIZE.get(base), self.cmdq_most, 16)
    }

    pub(super) fn events(&self) -> Queue {
        let base = self.eventq_base;
        let address = eventq_base::ADDR.in_place(base);
        Queue::new(address, eventq_base::LOG2SIZE.get(base), self.eventq_most, 32)
    }

    pub(super) fn event_indices(&self) -> (u32, u32) {
        let mask = eventq_prod::WR.mask() as u32;
        (self.eventq_prod & mask, self.eventq_cons & mask)
    }

    /// Whether an event queue overflow is announced and not acknowledged (§7.4).
    pub(super) fn overflow_pending(&self) -> bool {
        eventq_prod::OVFLG.is_set(self.eventq_prod.into())
            != eventq_cons::OVACKFLG.is_set(self.eventq_cons.into())
    }

    pub(super) fn read(&self, offset: usize) -> u32 {
        let halves = |register: Register, value: u64| {
            if offset == register.offset { value as u32 } else { (value >> 32) as u32 }
        };
        match offset {
            o if o == spec::CR0.offset => self.cr0,
            o if o == spec::CR0ACK.offset => self.cr0_effective,
            o if o == spec::CR1.offset => self.cr1,
            o if o == spec::CR2.offset => self.cr2,
            o if o == spec::GBPA.offset => self.gbpa_next.map_or(self.gbpa, |n| n | GBPA_UPDATE),
            o if o == spec::IRQ_CTRL.offset => self.irq_ctrl,
            o if o == spec::IRQ_CTRLACK.offset => self.irq_effective,
            o if o == spec::GERROR.offset => self.gerror,
            o if o == spec::GERRORN.offset => self.gerrorn,
            o if covers(&spec::STRTAB_BASE, o) => halves(spec::STRTAB_BASE, self.strtab_base),
            o if o == spec::STRTAB_BASE_CFG.offset => self.strtab_cfg,
            o if covers(&spec::CMDQ_BASE, o) => halves(spec::CMDQ_BASE, self.cmdq_base),
            o if o == spec::CMDQ_PROD.offset => self.cmdq_prod,
            o if o == spec::CMDQ_CONS.offset => self.cmdq_cons,
            o if covers(&spec::EVENTQ_BASE, o) => halves(spec::EVENTQ_BASE, self.eventq_base),
            o if o == spec::EVENTQ_PROD.offset => self.eventq_prod,
            o if o == spec::EVENTQ_CONS.offset => self.eventq_cons,
            o => self.read_rare(o),
        }
    }

    fn read_rare(&self, offset: usize) -> u32 {
        let message = |message: &Message, cfg0: usize| match offset - cfg0 {
            0 => message.address as u32,
            4 => (message.address >> 32) as u32,
            8 => message.data,
            _ => message.attributes,
        };
        if self.has_messages && message_registers(spec::GERROR_IRQ_CFG0).contains(&offset) {
            return message(&self.gerror_message, spec::GERROR_IRQ_CFG0.offset);
        }
        if self.has_messages && message_registers(spec::EVENTQ_IRQ_CFG0).contains(&offset) {
            return message(&self.eventq_message, spec::EVENTQ_IRQ_CFG0.offset);
        }
        self.identification.iter().find(|(at, _)| *at == offset).map_or(0, |(_, value)| *value)
    }

    /// Writes 32 bits. `delay` is how many looks it takes until an enable is in effect.
    pub(super) fn write(&mut self, offset: usize, value: u32, delay: u32) -> Effect {
        match offset {
            o if o == spec::CR0.offset => {
                self.cr0 = value & CR0_BITS;
                return self.start_update(delay);
            }
            o if o == spec::GBPA.offset => {
                // Only a write with Update set, while no update is under way, counts (§6.3.14).
                let taken = self.has_global_abort && self.gbpa_next.is_none();
                if value & GBPA_UPDATE != 0 && taken {
                    self.gbpa_next = Some(value & !GBPA_UPDATE);
                    return self.start_update(delay);
                }
            }
            o if o == spec::IRQ_CTRL.offset => {
                self.irq_ctrl = value & IRQ_BITS;
                return self.start_update(delay);
            }
            o if o == spec::GERRORN.offset => self.gerrorn = value,
            o if o == spec::CMDQ_PROD.offset => {
                self.cmdq_prod = value & cmdq_prod::WR.mask() as u32;
            }
            o if o == spec::EVENTQ_CONS.offset => {
                let writable = (eventq_cons::RD.mask() | eventq_cons::OVACKFLG.mask()) as u32;
                self.eventq_cons = value & writable;
            }
            o => return self.write_guarded(o, value),
        }
        Effect::default()
    }

    /// Writes a register that an enable bit guards while it is set or takes effect.
    fn write_guarded(&mut self, offset: usize, value: u32) -> Effect {
        let enabled = self.cr0 | self.cr0_effective;
        let [smmuen, cmdqen, eventqen] =
            [cr0::SMMUEN, cr0::CMDQEN, cr0::EVENTQEN].map(|bit| bit.is_set(enabled.into()));
        let halves = |register: Register, old: u64| {
            if offset == register.offset { low(old, value) } else { high(old, value) }
        };
        match offset {
            o if o == spec::CR1.offset => {
                guard(&mut self.cr1, value & 0xfff, smmuen || cmdqen || eventqen)
            }
            o if o == spec::CR2.offset => guard(&mut self.cr2, value & 0xf, smmuen),
            o if covers(&spec::STRTAB_BASE, o) => {
                let new = halves(spec::STRTAB_BASE, self.strtab_base);
                guard(&mut self.strtab_base, new, smmuen)
            }
            o if o == spec::STRTAB_BASE_CFG.offset => guard(&mut self.strtab_cfg, value, smmuen),
            o if covers(&spec::CMDQ_BASE, o) => {
                let new = halves(spec::CMDQ_BASE, self.cmdq_base);
                guard(&mut self.cmdq_base, new, cmdqen)
            }
            o if o == spec::CMDQ_CONS.offset => {
                let writable = (cmdq_cons::RD.mask() | cmdq_cons::ERR.mask()) as u32;
                guard(&mut self.cmdq_cons, value & writable, cmdqen)
            }
            o if covers(&spec::EVENTQ_BASE, o) => {
                let new = halves(spec::EVENTQ_BASE, self.eventq_base);
                guard(&mut self.eventq_base, new, eventqen)
            }
            o if o == spec::EVENTQ_PROD.offset => {
                let writable = (eventq_prod::WR.mask() | eventq_prod::OVFLG.mask()) as u32;
                guard(&mut self.eventq_prod, value & writable, eventqen)
            }
            o => self.write_message(o, value),
        }
    }

    fn write_message(&mut self, offset: usize, value: u32) -> Effect {
        if !self.has_messages {
            return Effect::default();
        }
        let (message, cfg0, enable) = if message_registers(spec::GERROR_IRQ_CFG0).contains(&offset)
        {
            let enable = irq_ctrl::GERROR_IRQEN.mask();
            (&mut self.gerror_message, spec::GERROR_IRQ_CFG0.offset, enable)
        } else if message_registers(spec::EVENTQ_IRQ_CFG0).contains(&offset) {
            let enable = irq_ctrl::EVENTQ_IRQEN.mask();
            (&mut self.eventq_message, spec::EVENTQ_IRQ_CFG0.offset, enable)
        } else {
            return Effect::default();
        };
        let locked = (self.irq_ctrl | self.irq_effective) & enable as u32 != 0;
        let address = message.address;
        match offset - cfg0 {
            0 => guard(&mut message.address, low(address, value), locked),
            4 => guard(&mut message.address, high(address, value), locked),
            8 => guard(&mut message.data, value, locked),
            _ => guard(&mut message.attributes, value, locked),
        }
    }

    fn start_update(&mut self, delay: u32) -> Effect {
        self.delay = delay;
        let changes_translation = delay == 0 && self.take_effect();
        Effect { guarded: false, changes_translation }
    }

    /// Software read `bytes` bytes at `offset`. Returns whether that made a pending write take effect for transactions.
    pub(super) fn looked_at(&mut self, offset: usize, bytes: usize) -> bool {
        let acks = [spec::CR0ACK.offset, spec::IRQ_CTRLACK.offset, spec::GBPA.offset];
        acks.iter().any(|at| (offset..offset + bytes).contains(at)) && self.time_passes()
    }

    /// As [`looked_at`](Self::looked_at) for a moment of time.
    pub(super) fn time_passes(&mut self) -> bool {
        if self.delay == 0 {
            return false;
        }
        self.delay -= 1;
        self.delay == 0 && self.take_effect()
    }

    fn take_effect(&mut self) -> bool {
        let smmuen = cr0::SMMUEN.mask() as u32;
        let mut changed = (self.cr0_effective ^ self.cr0) & smmuen != 0;
        self.cr0_effective = self.cr0;
        self.irq_effective = self.irq_ctrl;
        if let Some(next) = self.gbpa_next.take() {
            self.gbpa = next;
            changed = true;
        }
        changed
    }

    /// Makes a global error active. Returns whether it was not before.
    pub(super) fn raise(&mut self, error: u64) -> bool {
        let fresh = !self.is_active(error);
        if fresh {
            self.gerror ^= error as u32;
        }
        fresh
    }

    /// Stops the command queue at its consumer index with that code.
    pub(super) fn stop_commands(&mut self, code: u32) -> bool {
        let cons = u64::from(self.cmdq_cons);
        self.cmdq_cons = cmdq_cons::ERR.with(cons, code.into()) as u32;
        self.raise(gerror::CMDQ_ERR.mask())
    }

    pub(super) fn set_command_index(&mut self, index: u32) {
        let cons = u64::from(self.cmdq_cons);
        self.cmdq_cons = cmdq_cons::RD.with(cons, index.into()) as u32;
    }

    pub(super) fn command_indices(&self) -> (u32, u32) {
        let mask = self.commands().mask();
        (self.cmdq_prod & mask, self.cmdq_cons & mask)
    }
}

/// CFG0 to CFG2 of one interrupt source: 16 bytes.
fn message_registers(cfg0: Register) -> std::ops::Range<usize> {
    cfg0.offset..cfg0.offset + 16
}

fn guard<T: PartialEq>(register: &mut T, value: T, locked: bool) -> Effect {
    let guarded = locked && *register != value;
    if !locked {
        *register = value;
    }
    Effect { guarded, changes_translation: false }
}
