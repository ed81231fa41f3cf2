//! The register file (3.4): what is stored, what is read-only, when a write is in effect.

use super::AmdViProfile;
use portcullis_spec::Register;
use portcullis_spec::amdvi::{
    self as spec, cmd_buf_base, cmd_buf_head, control, dev_tab_base, exclusion_base,
    exclusion_limit, status,
};

/// A queue in memory, as its registers stand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue {
    base: u64,
    pub(super) head: u64,
    pub(super) tail: u64,
    /// Its bit in the status register.
    pub(super) runs: bool,
    /// An error stopped it until its enable bit was cleared and set again.
    halted: bool,
    /// How many looks it takes until the enable bit is in effect.
    delay: u32,
}

impl Queue {
    /// Lengths below 8 are reserved (3.4): 256 entries.
    fn mask(&self) -> u64 {
        (1 << cmd_buf_base::LEN.get(self.base).max(u64::from(*spec::QUEUE_LOG2.start()))) - 1
    }

    /// Where entry number `index` of 16 bytes is.
    pub(super) fn entry(&self, index: u64) -> u64 {
        cmd_buf_base::BASE.in_place(self.base) + (index & self.mask()) * 16
    }

    pub(super) fn next(&self, index: u64) -> u64 {
        (index + 1) & self.mask()
    }

    pub(super) fn is_full(&self) -> bool {
        self.next(self.tail) == self.head
    }

    /// Whether it is on its way: nobody moves it then.
    fn is_busy(&self, enabled: bool) -> bool {
        self.runs || enabled || self.delay > 0
    }

    /// Its enable bit is what `enabled` says.
    fn enable(&mut self, was: bool, enabled: bool, delay: u32) {
        if was == enabled {
            return;
        }
        self.halted = false;
        self.delay = delay;
        if delay == 0 {
            self.runs = enabled;
        }
    }

    fn tick(&mut self, enabled: bool) {
        if self.delay > 0 {
            self.delay -= 1;
            if self.delay == 0 {
                self.runs = enabled && !self.halted;
            }
        }
    }

    pub(super) fn halt(&mut self) {
        (self.runs, self.halted) = (false, true);
    }
}

/// What a write did beyond changing the register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// The document leaves open what such a write does, so it was ignored.
    pub(super) unspecified: bool,
    /// Transactions may now be treated differently.
    pub(super) changes_translation: bool,
}

#[derive(Clone, Debug)]
pub(super) struct RegisterFile {
    profile: AmdViProfile,
    tables: [u64; 1 + spec::SEGMENT_REGISTERS],
    pub(super) commands: Queue,
    pub(super) events: Queue,
    control: u64,
    exclusion: [u64; 2],
    status: u64,
}

const COMMANDS_ON: u64 = control::IOMMU_EN.mask() | control::CMD_BUF_EN.mask();
const EVENTS_ON: u64 = control::IOMMU_EN.mask() | control::EVENT_LOG_EN.mask();
const EVENTS: u64 =
    status::EVENT_OVERFLOW.mask() | status::EVENT_LOG_INT.mask() | status::COM_WAIT_INT.mask();
/// What each register keeps.
const TABLE_BITS: u64 = dev_tab_base::SIZE.mask() | dev_tab_base::BASE.mask();
const QUEUE_BITS: u64 = cmd_buf_base::BASE.mask() | cmd_buf_base::LEN.mask();

/// The register's name, for hooks.
pub(super) fn name(offset: usize) -> &'static str {
    if segment(offset).is_some_and(|index| index > 0) {
        return spec::DEV_TAB_SEGMENT_1.name;
    }
    spec::REGISTERS.iter().find(|r| r.offset == offset & !7).map_or("reserved", |r| r.name)
}

/// Which segment of the device table the register names.
fn segment(offset: usize) -> Option<usize> {
    if offset & !7 == spec::DEV_TAB_BASE.offset {
        return Some(0);
    }
    let index = offset.checked_sub(spec::DEV_TAB_SEGMENT_1.offset)? / spec::SEGMENT_STRIDE;
    (index < spec::SEGMENT_REGISTERS).then_some(1 + index)
}

/// Whether a read of `bytes` at `offset` shows how far commands were consumed.
pub(super) fn shows_consumption(offset: usize) -> bool {
    [spec::CMD_BUF_HEAD.offset, spec::STATUS.offset].contains(&(offset & !7))
}

impl RegisterFile {
    pub(super) fn reset(profile: &AmdViProfile) -> Self {
        Self {
            profile: profile.clone(),
            tables: [0; 1 + spec::SEGMENT_REGISTERS],
            commands: Queue::default(),
            events: Queue::default(),
            control: 0,
            exclusion: [0; 2],
            status: 0,
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        control::IOMMU_EN.is_set(self.control)
    }

    pub(super) fn segments_log2(&self) -> u32 {
        control::DEV_TBL_SEG_EN.get(self.control) as u32
    }

    /// Where segment number `index` of the device table is, and its bytes.
    pub(super) fn table(&self, index: usize) -> (u64, u64) {
        let register = self.tables[index];
        (dev_tab_base::BASE.in_place(register), (dev_tab_base::SIZE.get(register) + 1) << 12)
    }

    /// Whether `address` is in the exclusion range; whether that holds for all devices.
    pub(super) fn excludes(&self, address: u64) -> Option<bool> {
        let [base, limit] = self.exclusion;
        let first = exclusion_base::BASE.in_place(base);
        let last = exclusion_limit::LIMIT.in_place(limit) | 0xfff;
        let inside = exclusion_base::EX_EN.is_set(base) && (first..=last).contains(&address);
        inside.then(|| exclusion_base::ALLOW.is_set(base))
    }

    fn is_on(&self, bits: u64) -> bool {
        self.control & bits == bits
    }

    pub(super) fn read(&self, offset: usize) -> u64 {
        let at = |register: Register| offset & !7 == register.offset;
        if let Some(index) = segment(offset) {
            self.tables[index]
        } else if at(spec::CMD_BUF_BASE) {
            self.commands.base
        } else if at(spec::EVENT_LOG_BASE) {
            self.events.base
        } else if at(spec::CONTROL) {
            self.control
        } else if at(spec::EXCLUSION_BASE) {
            self.exclusion[0]
        } else if at(spec::EXCLUSION_LIMIT) {
            self.exclusion[1]
        } else if at(spec::EXT_FEATURES) {
            self.profile.features()
        } else if at(spec::CMD_BUF_HEAD) {
            self.commands.head << 4
        } else if at(spec::CMD_BUF_TAIL) {
            self.commands.tail << 4
        } else if at(spec::EVENT_LOG_HEAD) {
            self.events.head << 4
        } else if at(spec::EVENT_LOG_TAIL) {
            self.events.tail << 4
        } else if at(spec::STATUS) {
            let flag = |on: bool| u64::from(on);
            self.status
                | status::CMD_BUF_RUN.of(flag(self.commands.runs))
                | status::EVENT_LOG_RUN.of(flag(self.events.runs))
                | status::PPR_LOG_RUN.of(flag(self.is_on(control::PPR_LOG_EN.mask())))
                | status::GA_LOG_RUN.of(flag(self.is_on(control::GA_LOG_EN.mask())))
        } else {
            0
        }
    }

    /// Writes a register of 64 bits as a whole. `delay` is how many looks it takes until a queue is on or off; `draw` stands for whatever the document leaves unspecified.
    pub(super) fn write(&mut self, offset: usize, value: u64, delay: u32, draw: u64) -> Effect {
        let at = |register: Register| offset & !7 == register.offset;
        let index = cmd_buf_head::PTR.get(value);
        let (commands_on, events_on) = (self.is_on(COMMANDS_ON), self.is_on(EVENTS_ON));
        if let Some(index) = segment(offset) {
            self.tables[index] = value & TABLE_BITS;
            return Effect { changes_translation: true, ..Effect::default() };
        }
        if at(spec::CONTROL) {
            return self.write_control(value, delay);
        }
        if at(spec::CMD_BUF_BASE) {
            return move_queue(&mut self.commands, commands_on, value, draw);
        }
        if at(spec::EVENT_LOG_BASE) {
            return move_queue(&mut self.events, events_on, value, draw);
        }
        let refused = Effect { unspecified: true, ..Effect::default() };
        if at(spec::EXCLUSION_BASE) || at(spec::EXCLUSION_LIMIT) {
            let which = usize::from(at(spec::EXCLUSION_LIMIT));
            let bits = [
                exclusion_base::EX_EN.mask()
                    | exclusion_base::ALLOW.mask()
                    | exclusion_base::BASE.mask(),
                exclusion_limit::LIMIT.mask(),
            ];
            self.exclusion[which] = value & bits[which];
            return Effect { changes_translation: true, ..Effect::default() };
        } else if at(spec::CMD_BUF_HEAD) {
            // The unit's own while it fetches.
            if self.commands.is_busy(commands_on) {
                return refused;
            }
            self.commands.head = index & self.commands.mask();
        } else if at(spec::CMD_BUF_TAIL) {
            self.commands.tail = index & self.commands.mask();
        } else if at(spec::EVENT_LOG_HEAD) {
            self.events.head = index & self.events.mask();
        } else if at(spec::EVENT_LOG_TAIL) {
            if self.events.is_busy(events_on) {
                return refused;
            }
            self.events.tail = index & self.events.mask();
        } else if at(spec::STATUS) {
            self.status &= !(value & EVENTS);
        }
        Effect::default()
    }

    /// The number of segments is chosen while the unit is off.
    fn write_control(&mut self, value: u64, delay: u32) -> Effect {
        let old = self.control;
        let segments = control::DEV_TBL_SEG_EN.get(value);
        let moved = segments != control::DEV_TBL_SEG_EN.get(old) && self.is_enabled();
        if moved || segments > u64::from(self.profile.segments_log2) {
            return Effect { unspecified: true, ..Effect::default() };
        }
        let kept = spec::control::FIELDS.iter().fold(0, |bits, field| bits | field.mask());
        self.control = value & kept;
        let on = |control: u64, bits: u64| control & bits == bits;
        let new = self.control;
        self.commands.enable(on(old, COMMANDS_ON), on(new, COMMANDS_ON), delay);
        self.events.enable(on(old, EVENTS_ON), on(new, EVENTS_ON), delay);
        let changes_translation = (old ^ new) & control::IOMMU_EN.mask() != 0;
        Effect { changes_translation, ..Effect::default() }
    }

    /// Software looks at the register at `offset`, or time passes: what was written before takes effect a little later.
    pub(super) fn tick(&mut self, offset: Option<usize>) {
        if offset.is_none_or(|offset| offset & !7 == spec::STATUS.offset) {
            let (commands, events) = (self.is_on(COMMANDS_ON), self.is_on(EVENTS_ON));
            self.commands.tick(commands);
            self.events.tick(events);
        }
    }

    /// Notes something in the status register; whether an interrupt is due.
    pub(super) fn note(&mut self, bits: u64) -> bool {
        let new = bits & !self.status;
        self.status |= bits;
        let events = status::EVENT_OVERFLOW.mask() | status::EVENT_LOG_INT.mask();
        new & events != 0 && control::EVENT_INT_EN.is_set(self.control)
            || new & status::COM_WAIT_INT.mask() != 0
                && control::COM_WAIT_INT_EN.is_set(self.control)
    }
}

/// A queue is moved while it is off. Its indices are some valid ones then: software sets both.
fn move_queue(queue: &mut Queue, enabled: bool, value: u64, draw: u64) -> Effect {
    if queue.is_busy(enabled) {
        return Effect { unspecified: true, ..Effect::default() };
    }
    queue.base = value & QUEUE_BITS;
    queue.head = draw & queue.mask();
    queue.tail = draw >> 32 & queue.mask();
    Effect::default()
}
