//! The comparison model by hand: one 128-bit integer, and one `match` per thread.

use portcullis_explore::search::{
    Label, Model, Mover, Operation, Property, PropertyKind, PropertySet, Steps, ThreadStatus,
};

/// The whole state. From bit 0: probe lock, one byte with the published IOMMUs, then a byte each for the
/// clients' group locks, groups, domains, DMA flags and deferrals; from bit 56 five bits of position for each
/// of up to eight clients; from bit 96 the registrar's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State(u128);

pub(crate) const PROBE_LOCK: u32 = 0;
pub(crate) const PUBLISHED: u32 = 8;
pub(crate) const GROUP_LOCK: u32 = 16;
pub(crate) const GROUP: u32 = 24;
pub(crate) const DOMAIN: u32 = 32;
pub(crate) const DMA: u32 = 40;
pub(crate) const DEFERRED: u32 = 48;
const CLIENT: u32 = 56;
const REGISTRAR: u32 = 96;

impl State {
    pub(crate) fn bit(self, bit: u32) -> bool {
        self.0 >> bit & 1 == 1
    }

    pub(crate) fn with(self, bit: u32) -> Self {
        Self(self.0 | 1 << bit)
    }

    pub(crate) fn without(self, bit: u32) -> Self {
        Self(self.0 & !(1 << bit))
    }

    pub(crate) fn client(self, d: u32) -> u32 {
        (self.0 >> (CLIENT + 5 * d)) as u32 & 31
    }

    pub(crate) fn at_client(self, d: u32, position: u32) -> Self {
        let shift = CLIENT + 5 * d;
        Self(self.0 & !(31 << shift) | u128::from(position) << shift)
    }

    /// Eight bits from `bit` on.
    pub(crate) fn byte(self, bit: u32) -> u32 {
        (self.0 >> bit) as u32 & 255
    }

    pub(crate) fn with_byte(self, bit: u32, value: u32) -> Self {
        Self(self.0 & !(255 << bit) | u128::from(value) << bit)
    }

    fn registrar(self) -> u32 {
        (self.0 >> REGISTRAR) as u32
    }

    fn at_registrar(self, position: u32) -> Self {
        Self(self.0 & !(u128::MAX << REGISTRAR) | u128::from(position) << REGISTRAR)
    }
}

/// One line of the registrar.
#[derive(Debug, Clone, Copy)]
enum Line {
    Lock(u32),
    Unlock(u32),
    Set(u32, Mover),
    /// Skips the next line if the bit is set.
    SkipIf(u32),
    Drain,
}

/// The model.
#[derive(Debug)]
pub(crate) struct Packed {
    clients: u32,
    iommus: u32,
    fixed: bool,
    registrar: Vec<Line>,
}

impl Packed {
    /// At most eight clients and eight IOMMUs.
    #[must_use]
    pub(crate) fn new(clients: u32, iommus: u32, fixed: bool) -> Self {
        assert!(clients <= 8 && iommus <= 8);
        let mut lines = Vec::new();
        for m in 0..iommus {
            let own = || (0..clients).filter(move |d| d % iommus == m);
            lines.extend([Line::Lock(PROBE_LOCK), Line::Set(PUBLISHED + m, Mover::Both)]);
            lines.push(Line::Unlock(PROBE_LOCK));
            for d in own() {
                lines.extend([Line::Lock(PROBE_LOCK), Line::SkipIf(GROUP + d)]);
                lines.extend([Line::Set(GROUP + d, Mover::Both), Line::Unlock(PROBE_LOCK)]);
            }
            for d in own() {
                lines.extend([Line::Lock(GROUP_LOCK + d), Line::SkipIf(DOMAIN + d)]);
                lines.extend([Line::Set(DOMAIN + d, Mover::Both), Line::Unlock(GROUP_LOCK + d)]);
                lines.push(Line::Set(DMA + d, Mover::Non));
            }
            lines.extend([Line::Lock(PROBE_LOCK), Line::Drain, Line::Unlock(PROBE_LOCK)]);
        }
        Self { clients, iommus, fixed, registrar: lines }
    }

    fn step_registrar(&self, s: State) -> Option<(State, Mover)> {
        let at = s.registrar();
        let next = s.at_registrar(at + 1);
        Some(match *self.registrar.get(at as usize)? {
            Line::Lock(lock) if s.bit(lock) => return None,
            Line::Lock(lock) => (next.with(lock), Mover::Right),
            Line::Unlock(lock) => (next.without(lock), Mover::Left),
            Line::Set(bit, mover) => (next.with(bit), mover),
            Line::SkipIf(bit) if s.bit(bit) => (s.at_registrar(at + 2), Mover::Both),
            Line::SkipIf(_) => (next, Mover::Both),
            Line::Drain => (State(next.0 & !(0xff << DEFERRED)), Mover::Non),
        })
    }

    fn step_client(&self, s: State, d: u32) -> Option<(State, Mover)> {
        let to = |position| s.at_client(d, position);
        let (group, domain, lock) = (GROUP + d, DOMAIN + d, GROUP_LOCK + d);
        Some(match s.client(d) {
            0 | 7 | 12 if s.bit(if s.client(d) == 0 { PROBE_LOCK } else { lock }) => return None,
            0 => (to(1).with(PROBE_LOCK), Mover::Right),
            1 if s.bit(PUBLISHED + d % self.iommus) => (to(5), Mover::Both),
            1 => (to(2), Mover::Both),
            2 => (to(3).with(DEFERRED + d), Mover::Non),
            3 => (to(4).without(PROBE_LOCK), Mover::Left),
            4 if s.bit(DEFERRED + d) => return None,
            4 => (to(0), Mover::Non),
            5 if s.bit(group) => (to(if self.fixed { 11 } else { 17 }), Mover::Both),
            5 => (to(6), Mover::Both),
            6 => (to(7).with(group), Mover::Both),
            7 | 12 => (to(s.client(d) + 1).with(lock), Mover::Right),
            8 | 13 if s.bit(domain) => (to(s.client(d) + 2), Mover::Both),
            8 | 13 => (to(s.client(d) + 1), Mover::Both),
            9 | 14 => (to(s.client(d) + 1).with(domain), Mover::Both),
            10 | 15 => (to(if s.client(d) == 10 { 16 } else { 18 }).with(DMA + d), Mover::Non),
            11 => (to(12).without(PROBE_LOCK), Mover::Left),
            16 => (to(17).without(lock), Mover::Left),
            17 => (to(19).without(PROBE_LOCK), Mover::Left),
            18 => (to(19).without(lock), Mover::Left),
            19 => (to(20), Mover::Non),
            _ => return None,
        })
    }
}

impl Model for Packed {
    type State = State;

    fn initial(&self) -> State {
        State(0)
    }

    fn thread_count(&self) -> usize {
        self.clients as usize + 1
    }

    fn step(&self, state: &State, thread: usize, out: &mut Steps<State>) {
        let Some(d) = (thread as u32).checked_sub(1) else {
            if let Some((next, mover)) = self.step_registrar(*state) {
                out.add(next, mover, PropertySet::EMPTY);
            }
            return;
        };
        if let Some((next, mover)) = self.step_client(*state, d) {
            let wrong = state.client(d) == 19 && !state.bit(DMA + d);
            out.add(next, mover, if wrong { PropertySet::of(0) } else { PropertySet::EMPTY });
        }
    }

    fn status(&self, state: &State, thread: usize) -> ThreadStatus {
        let mut steps = Steps::new();
        self.step(state, thread, &mut steps);
        let finished = match (thread as u32).checked_sub(1) {
            None => state.registrar() as usize == self.registrar.len(),
            Some(d) => state.client(d) == 20,
        };
        match (finished, steps.taken().is_empty()) {
            (true, _) => ThreadStatus::Finished,
            (false, true) => ThreadStatus::Blocked,
            (false, false) => ThreadStatus::Runnable,
        }
    }

    fn label(&self, state: &State, thread: usize) -> Label {
        let why = match (thread as u32).checked_sub(1) {
            None => format!("line {}", state.registrar()),
            Some(d) => format!("line {}", state.client(d)),
        };
        let operation = Operation::Update;
        Label { thread: self.thread_name(thread), operation, why, ..Label::default() }
    }

    fn thread_name(&self, thread: usize) -> String {
        if thread == 0 { "registrar".to_owned() } else { format!("client {thread}") }
    }

    fn properties(&self) -> Vec<Property> {
        let right = Property { name: "right DMA".to_owned(), kind: PropertyKind::Always };
        let bound = Property { name: "all set up".to_owned(), kind: PropertyKind::Eventually };
        vec![right, bound]
    }

    fn unmet(&self, state: &State) -> PropertySet {
        let set_up = (0..self.clients).all(|d| state.bit(DMA + d) && state.bit(DOMAIN + d));
        if set_up { PropertySet::EMPTY } else { PropertySet::of(1) }
    }
}
