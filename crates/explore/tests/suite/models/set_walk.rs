//! The comparison model with a registrar that walks a *set*: it takes its clients in any order. So clients behind the same
//! IOMMU are equal, and states that differ by their exchange are one.

use portcullis_explore::search::{
    Label, Model, Mover, Operation, Property, PropertySet, Steps, ThreadStatus,
};

use super::packed::{
    DEFERRED, DMA, DOMAIN, GROUP, GROUP_LOCK, PROBE_LOCK, PUBLISHED, Packed, State,
};

/// In the registrar's word: its line, the client in hand, and the clients that this walk has passed.
const LINE: u32 = 96;
const IN_HAND: u32 = 104;
const PASSED: u32 = 112;
/// Lines of a registration.
pub(crate) const LINES: u32 = 17;
/// The lines that store something, of the registrar and then of the clients, numbered on from the registrar's.
pub(crate) const STORES: [u32; 11] =
    [1, 6, 11, 13, 15, LINES + 2, LINES + 6, LINES + 9, LINES + 10, LINES + 14, LINES + 15];

/// Which states count as equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Equal {
    /// Those that differ by clients behind the same IOMMU.
    Exchanged,
    /// Planted bug: the exchange leaves the deferrals where they are.
    WithoutDeferral,
    /// Planted bug: the exchange leaves the DMA flags where they are.
    WithoutDma,
    /// Planted bug: clients behind different IOMMUs are exchanged, too.
    AcrossIommus,
}

/// The model.
#[derive(Debug)]
pub(crate) struct SetWalk {
    clients: u32,
    iommus: u32,
    threads: Packed,
    equal: Equal,
    /// The lines whose store is left out, a bit each.
    left_out: u64,
}

impl SetWalk {
    /// At most eight clients and eight IOMMUs.
    #[must_use]
    pub(crate) fn new(clients: u32, iommus: u32, fixed: bool, equal: Equal) -> Self {
        let threads = Packed::new(clients, iommus, fixed);
        Self { clients, iommus, threads, equal, left_out: 0 }
    }

    /// The same with stores left out: bits by the numbers of [`STORES`].
    #[must_use]
    pub(crate) fn without(self, left_out: u64) -> Self {
        Self { left_out, ..self }
    }

    fn own(&self, iommu: u32) -> impl Iterator<Item = u32> + use<'_> {
        (0..self.clients).filter(move |d| d % self.iommus == iommu)
    }

    fn step_registrar(&self, s: State, out: &mut Steps<State>) {
        let (at, hand) = (s.byte(LINE), s.byte(IN_HAND));
        let (iommu, line) = (at / LINES, at % LINES);
        if iommu == self.iommus {
            return;
        }
        let to = |line: u32| s.with_byte(LINE, iommu * LINES + line);
        let store = |next: State, bit: u32| {
            if self.left_out >> line & 1 == 1 { next } else { next.with(bit) }
        };
        let (next, mover) = match line {
            3 => return self.pick(s, iommu, (4, 8), out),
            8 => return self.pick(s, iommu, (9, 14), out),
            0 | 4 | 9 | 14 => {
                let lock = if line == 9 { GROUP_LOCK + hand } else { PROBE_LOCK };
                if s.bit(lock) {
                    return;
                }
                (to(line + 1).with(lock), Mover::Right)
            }
            1 => (store(to(2), PUBLISHED + iommu), Mover::Both),
            2 => (to(3).without(PROBE_LOCK), Mover::Left),
            5 => (to(if s.bit(GROUP + hand) { 7 } else { 6 }), Mover::Both),
            6 => (store(to(7), GROUP + hand), Mover::Both),
            7 => (to(3).without(PROBE_LOCK), Mover::Left),
            10 => (to(if s.bit(DOMAIN + hand) { 12 } else { 11 }), Mover::Both),
            11 => (store(to(12), DOMAIN + hand), Mover::Both),
            12 => (to(13).without(GROUP_LOCK + hand), Mover::Left),
            13 => (store(to(8), DMA + hand), Mover::Non),
            15 if self.left_out >> 15 & 1 == 1 => (to(16), Mover::Non),
            15 => (to(16).with_byte(DEFERRED, 0), Mover::Non),
            _ => (to(LINES).without(PROBE_LOCK), Mover::Left),
        };
        out.add(next, mover, PropertySet::EMPTY);
    }

    /// Any client of `iommu` that this walk has not passed; or the walk is over.
    fn pick(&self, s: State, iommu: u32, (body, done): (u32, u32), out: &mut Steps<State>) {
        let to = |line: u32| s.with_byte(LINE, iommu * LINES + line);
        let mut left = self.own(iommu).filter(|d| !s.bit(PASSED + d)).peekable();
        if left.peek().is_none() {
            let next = to(done).with_byte(IN_HAND, 0).with_byte(PASSED, 0);
            out.add(next, Mover::Both, PropertySet::EMPTY);
        }
        for d in left {
            let next = to(body).with_byte(IN_HAND, d).with(PASSED + d);
            out.add(next, Mover::Both, PropertySet::EMPTY);
        }
    }

    /// All that is one client's, in a number.
    fn record(&self, s: State, d: u32) -> u32 {
        let in_hand = matches!(s.byte(LINE) % LINES, 4..=7 | 9..=13) && s.byte(IN_HAND) == d;
        let bits = [GROUP_LOCK, GROUP, DOMAIN, DMA, DEFERRED, PASSED].map(|base| s.bit(base + d));
        let bits = bits.iter().fold(u32::from(in_hand), |all, &bit| all << 1 | u32::from(bit));
        s.client(d) << 7 | bits
    }

    fn with_record(&self, s: State, d: u32, record: u32) -> State {
        let mut s = s.at_client(d, record >> 7);
        for (i, base) in [PASSED, DEFERRED, DMA, DOMAIN, GROUP, GROUP_LOCK].into_iter().enumerate()
        {
            let stays = self.equal == Equal::WithoutDeferral && base == DEFERRED
                || self.equal == Equal::WithoutDma && base == DMA;
            if !stays {
                s = s.without(base + d);
                s = if record >> i & 1 == 1 { s.with(base + d) } else { s };
            }
        }
        if record >> 6 & 1 == 1 { s.with_byte(IN_HAND, d) } else { s }
    }

    /// The state with the clients of each IOMMU in descending order.
    #[must_use]
    pub(crate) fn sorted(&self, state: State) -> State {
        let mut s = state;
        let classes = if self.equal == Equal::AcrossIommus { 1 } else { self.iommus };
        for class in 0..classes {
            let mut found: [u32; 8] = [0; 8];
            let own = || (0..self.clients).filter(move |d| d % classes == class);
            let count = own().count();
            own().enumerate().for_each(|(i, d)| found[i] = self.record(state, d));
            let mut order = found;
            order[..count].sort_unstable_by(|a, b| b.cmp(a));
            // A step has changed one client: most of them stay.
            for (i, d) in own().enumerate().filter(|(i, _)| order[*i] != found[*i]) {
                s = self.with_record(s, d, order[i]);
            }
        }
        s
    }
}

impl Model for SetWalk {
    type State = State;

    fn initial(&self) -> State {
        self.threads.initial()
    }

    fn thread_count(&self) -> usize {
        self.threads.thread_count()
    }

    fn step(&self, state: &State, thread: usize, out: &mut Steps<State>) {
        let Some(d) = (thread as u32).checked_sub(1) else {
            return self.step_registrar(*state, out);
        };
        let line = state.client(d);
        if self.left_out >> (LINES + line) & 1 == 0 {
            return self.threads.step(state, thread, out);
        }
        // The line without its store: the client only goes on.
        let mut steps = Steps::new();
        self.threads.step(state, thread, &mut steps);
        for taken in steps.taken() {
            let next = state.at_client(d, taken.state.client(d));
            out.add(next, taken.mover, taken.hits);
        }
    }

    fn status(&self, state: &State, thread: usize) -> ThreadStatus {
        if thread > 0 {
            return self.threads.status(state, thread);
        }
        let mut steps = Steps::new();
        self.step_registrar(*state, &mut steps);
        match (state.byte(LINE) == LINES * self.iommus, steps.taken().is_empty()) {
            (true, _) => ThreadStatus::Finished,
            (false, true) => ThreadStatus::Blocked,
            (false, false) => ThreadStatus::Runnable,
        }
    }

    fn label(&self, state: &State, thread: usize) -> Label {
        if thread > 0 {
            return self.threads.label(state, thread);
        }
        let why = format!("line {}", state.byte(LINE));
        let operation = Operation::Update;
        Label { thread: self.thread_name(thread), operation, why, ..Label::default() }
    }

    fn thread_name(&self, thread: usize) -> String {
        self.threads.thread_name(thread)
    }

    fn properties(&self) -> Vec<Property> {
        self.threads.properties()
    }

    fn unmet(&self, state: &State) -> PropertySet {
        self.threads.unmet(state)
    }

    fn canonical(&self, state: State) -> State {
        self.sorted(state)
    }
}
