//! What happened in an execution, as a partial order: vector clocks over the dependence of operations.

use crate::op::{Kind, MAX_THREADS, Object, Op};
use crate::random::mix;

/// For each thread, how many of its events are known.
pub(crate) type Clock = [u16; MAX_THREADS];

/// One operation that was carried out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) thread: u8,
    /// Its position among its thread's events, counted from 1.
    pub(crate) index: u16,
    /// The decision that scheduled it.
    pub(crate) node: u32,
    pub(crate) kind: Kind,
    pub(crate) object: Object,
    choices: u64,
}

/// The last events on one object; event numbers are stored plus one, 0 is none.
#[derive(Clone, Debug, Default)]
struct History {
    epoch: u32,
    /// The last change, or the event that released the lock.
    write: u32,
    /// Last successful acquisition.
    acquire: u32,
    /// Reads since the last change.
    reads: Vec<u32>,
}

/// The events of one execution with their clocks.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) events: Vec<Event>,
    clocks: Vec<Clock>,
    now: Vec<Clock>,
    objects: Vec<Vec<History>>,
    epoch: u32,
    /// The events that race with the newest one and could also happen after it.
    pub(crate) races: Vec<u32>,
    /// The clock of the newest event without what it learned from its lock.
    pub(crate) before: Clock,
    /// Whether to keep [`Self::fingerprint_of_all`] up to date.
    pub(crate) hashing: bool,
    hash: u128,
    /// For each thread a name that does not depend on the schedule: its place in the family tree; and how many children it has.
    names: Vec<(u64, u64)>,
}

impl Trace {
    /// Empty, keeping its memory.
    pub(crate) fn reset(&mut self) {
        self.events.clear();
        self.clocks.clear();
        self.now.clear();
        self.names.clear();
        self.races.clear();
        self.epoch = self.epoch.wrapping_add(1);
        self.hash = 0;
    }

    /// A thread comes to life: it knows what its parent knows.
    pub(crate) fn born(&mut self, parent: Option<u8>) {
        let mut clock = parent.map_or([0; MAX_THREADS], |parent| self.now[usize::from(parent)]);
        clock[self.now.len()] = 0;
        self.now.push(clock);
        let name = match parent {
            None => mix(self.names.len() as u64 + 1),
            Some(parent) => {
                let (name, children) = &mut self.names[usize::from(parent)];
                *children += 1;
                mix(name.rotate_left(7) ^ *children)
            }
        };
        self.names.push((name, 0));
    }

    /// Whether event `earlier` happens before event `later`, by program order and dependence.
    pub(crate) fn ordered(&self, earlier: u32, later: u32) -> bool {
        knows(&self.clocks[later as usize], &self.events[earlier as usize])
    }

    pub(crate) fn clock(&self, event: u32) -> &Clock {
        &self.clocks[event as usize]
    }

    /// What `thread` knows now.
    pub(crate) fn knowledge(&self, thread: u8) -> &Clock {
        &self.now[usize::from(thread)]
    }

    /// The acquisition by which `object` is held now, or was held last.
    pub(crate) fn acquisition(&self, object: Object) -> Option<u32> {
        let history = self.objects.get(usize::from(object.row))?.get(object.index as usize)?;
        (history.epoch == self.epoch).then(|| history.acquire.checked_sub(1)).flatten()
    }

    /// Appends `op` of `thread`, with its `outcome`, and finds its races.
    pub(crate) fn push(&mut self, thread: u8, op: &Op, outcome: u64, node: u32) -> u32 {
        let number = self.events.len() as u32;
        let mut clock = self.now[usize::from(thread)];
        self.before = clock;
        let kind = match (op.kind, outcome) {
            (Kind::TryAcquire, 0) => Kind::Read,
            (kind, _) => kind,
        };
        let slot = self.history(op.object);
        let mut history = std::mem::take(&mut self.objects[slot.0][slot.1]);
        self.learn(&mut clock, &history, kind, outcome);
        clock[usize::from(thread)] += 1;
        if kind.is_read() {
            history.reads.push(number + 1);
        } else {
            history.reads.clear();
            history.write = number + 1;
            if matches!(kind, Kind::Acquire | Kind::TryAcquire) {
                history.acquire = number + 1;
            }
        }
        self.objects[slot.0][slot.1] = history;
        self.now[usize::from(thread)] = clock;
        self.clocks.push(clock);
        self.events.push(Event {
            thread,
            index: clock[usize::from(thread)],
            node,
            kind,
            object: op.object,
            choices: 0,
        });
        if self.hashing {
            self.hash = self.hash.wrapping_add(self.fingerprint(number));
        }
        number
    }

    /// Joins into `clock` what the object's history orders before the new event, and notes which of these events could have come later.
    fn learn(&mut self, clock: &mut Clock, history: &History, kind: Kind, outcome: u64) {
        self.races.clear();
        let reads = if kind.is_read() { &[][..] } else { &history.reads };
        for (at, &read) in reads.iter().enumerate() {
            // Only immediate races count, not those with another read in between.
            if !reads[at + 1..].iter().any(|&later| self.ordered(read - 1, later - 1)) {
                self.race(clock, read - 1);
            }
        }
        match kind {
            // An acquisition cannot overtake the release that enabled it; what it can overtake is the acquisition before that.
            Kind::Acquire if history.acquire != 0 => self.race(clock, history.acquire - 1),
            // The notification that ended a wait cannot come after it.
            Kind::Wait(seen) if outcome == seen + 1 => {}
            // Every read since that change already happens after it.
            _ if history.write != 0 && reads.is_empty() => self.race(clock, history.write - 1),
            _ => {}
        }
        for &read in reads {
            join(clock, &self.clocks[read as usize - 1]);
        }
        if history.write != 0 {
            join(clock, &self.clocks[history.write as usize - 1]);
        }
    }

    fn race(&mut self, clock: &Clock, earlier: u32) {
        if !knows(clock, &self.events[earlier as usize]) {
            self.races.push(earlier);
        }
    }

    /// The newest event of `thread` released `object`.
    pub(crate) fn released(&mut self, object: Object) {
        let slot = self.history(object);
        let newest = self.events.len() as u32;
        self.objects[slot.0][slot.1].write = newest;
    }

    /// The newest event made a choice.
    pub(crate) fn chose(&mut self, value: u8) {
        if !self.hashing {
            return;
        }
        let Some(number) = (self.events.len() as u32).checked_sub(1) else {
            // Made before anything was scheduled, so it belongs to the initial state.
            self.hash =
                u128::from(mix((self.hash as u64).wrapping_add(u64::from(value) + 1))) << 32;
            return;
        };
        self.hash = self.hash.wrapping_sub(self.fingerprint(number));
        let event = &mut self.events[number as usize];
        event.choices = mix(event.choices.wrapping_add(u64::from(value) + 1));
        self.hash = self.hash.wrapping_add(self.fingerprint(number));
    }

    /// A number that is the same for two prefixes exactly if they are the same partial order of the same events (up to a collision of 128 bits).
    pub(crate) fn fingerprint_of_all(&self) -> u128 {
        self.hash
    }

    fn fingerprint(&self, number: u32) -> u128 {
        let event = &self.events[number as usize];
        let (mut low, mut high) = (0_u64, 0_u64);
        for (&(name, _), &known) in self.names.iter().zip(&self.clocks[number as usize]) {
            if known != 0 {
                let part = mix(name ^ u64::from(known).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                low = low.wrapping_add(part);
                high = high.wrapping_add(mix(part ^ 0x5851_f42d_4c95_7f2d));
            }
        }
        let (name, _) = self.names[usize::from(event.thread)];
        low = mix(low ^ name ^ event.choices);
        high = mix(high.rotate_left(23) ^ name ^ low);
        u128::from(high) << 64 | u128::from(low)
    }

    fn history(&mut self, object: Object) -> (usize, usize) {
        let (row, index) = (usize::from(object.row), object.index as usize);
        if self.objects.len() <= row {
            self.objects.resize_with(row + 1, Vec::new);
        }
        if self.objects[row].len() <= index {
            self.objects[row].resize_with(index + 1, History::default);
        }
        let history = &mut self.objects[row][index];
        if history.epoch != self.epoch {
            history.epoch = self.epoch;
            history.write = 0;
            history.acquire = 0;
            history.reads.clear();
        }
        (row, index)
    }
}

/// Whether `event` happens before whoever has that clock.
pub(crate) fn knows(clock: &Clock, event: &Event) -> bool {
    clock[usize::from(event.thread)] >= event.index
}

fn join(clock: &mut Clock, other: &Clock) {
    for (mine, theirs) in clock.iter_mut().zip(other) {
        *mine = (*mine).max(*theirs);
    }
}
