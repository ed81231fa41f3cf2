//! The second protocol for stateright, written from the list of steps.

use stateright::{Model, Property};

/// A state; `p1` and `p2` count lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct State {
    list_lock: bool,
    probe_lock: bool,
    group_lock: bool,
    registered: bool,
    fwspec: bool,
    group: bool,
    default_domain: bool,
    domain: bool,
    dma_ops: bool,
    owner: bool,
    pending: bool,
    bound: bool,
    p1: u8,
    p2: u8,
}

const P1_DONE: u8 = 13;
const P2_DONE: u8 = 40;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Seed66 {
    pub(crate) gate: bool,
}

fn take(lock: &mut bool) -> Option<()> {
    (!std::mem::replace(lock, true)).then_some(())
}

fn p1(mut s: State) -> Option<State> {
    let mut next = s.p1 + 1;
    match s.p1 {
        0 => take(&mut s.list_lock)?,
        1 => s.registered = true,
        2 => s.list_lock = false,
        3 => take(&mut s.probe_lock)?,
        4 if s.group => next = 20,
        5 if !s.fwspec => next = 20,
        4 | 5 => {}
        6 => s.group = true,
        7 => s.probe_lock = false,
        8 => take(&mut s.group_lock)?,
        9 => s.default_domain = true,
        10 => s.domain = true,
        11 => s.group_lock = false,
        12 => s.pending = false,
        // The device is left alone: unlock, nothing to finish.
        20 => {
            s.probe_lock = false;
            next = 12;
        }
        _ => return None,
    }
    s.p1 = next;
    Some(s)
}

impl Seed66 {
    fn p2(self, mut s: State) -> Option<State> {
        let mut next = s.p2 + 1;
        match s.p2 {
            0 => s.pending = true,
            1 => take(&mut s.probe_lock)?,
            2 if s.fwspec => next = 10,
            2 => {}
            3 => take(&mut s.list_lock)?,
            4 if s.registered => next = 6,
            4 => {}
            // Not registered: unlock both, defer.
            5 => (s.list_lock, next) = (false, 8),
            6 => s.list_lock = false,
            7 => (s.fwspec, next) = (true, 11),
            8 => (s.probe_lock, next) = (false, 30),
            // The fwspec was there: no replay.
            10 => (s.probe_lock, next) = (false, 20),
            11 => s.probe_lock = false,
            12 => take(&mut s.probe_lock)?,
            13 if s.group => next = 19,
            13 => {}
            14 => s.group = true,
            15 => take(&mut s.group_lock)?,
            16 => s.default_domain = true,
            17 => s.domain = true,
            18 => s.group_lock = false,
            19 => s.probe_lock = false,
            20 if !s.domain => next = 22,
            20 => {}
            21 => s.dma_ops = true,
            22 => (next, ()) = (if self.gate { 23 } else { 25 }, take(&mut s.group_lock)?),
            23 if s.default_domain => next = 25,
            23 => {}
            24 => (s.group_lock, next) = (false, 30),
            25 => s.owner = true,
            26 => s.group_lock = false,
            27 => (s.bound, next) = (true, P2_DONE),
            30 if s.pending => return None,
            30 => next = 0,
            _ => return None,
        }
        s.p2 = next;
        Some(s)
    }
}

impl Model for Seed66 {
    type State = State;
    type Action = u8;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, _: &State, actions: &mut Vec<u8>) {
        actions.extend([0, 1]);
    }

    fn next_state(&self, last: &State, thread: u8) -> Option<State> {
        if thread == 0 { p1(*last) } else { self.p2(*last) }
    }

    /// Each bad end as something that is `sometimes` reached.
    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::sometimes("no B1: bound with direct DMA behind a domain", |m: &Self, s| {
                end(*m, s) && s.bound && s.domain && !s.dma_ops
            }),
            Property::sometimes("bound", |m: &Self, s| end(*m, s) && !s.bound),
            Property::sometimes("deadlock", |m: &Self, s| {
                end(*m, s) && (s.p1 != P1_DONE || s.p2 != P2_DONE)
            }),
            Property::sometimes("never", |_, _| false),
        ]
    }
}

fn end(model: Seed66, s: &State) -> bool {
    p1(*s).is_none() && model.p2(*s).is_none()
}
