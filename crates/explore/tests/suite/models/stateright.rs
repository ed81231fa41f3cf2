//! The comparison model for stateright, written from its description, in plain structs.

use stateright::{Model, Property};

/// Where a client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum At {
    Start,
    Locked,
    Defer,
    DeferUnlock,
    Deferred,
    LookAtGroup,
    SetGroup,
    LockGroup { early: bool },
    LookAtDomain { early: bool },
    SetDomain { early: bool },
    SetDma { early: bool },
    UnlockGroup { early: bool },
    Unlock { early: bool },
    LookAtDma,
    Done,
}

/// Where the registrar stands, within one IOMMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Registrar {
    Lock,
    Publish,
    Unlock,
    /// Step 0 to 3 of putting client number `.0` into its group.
    Group(u8, u8),
    /// Step 0 to 4 of giving client number `.0` its domain and DMA flag.
    Domain(u8, u8),
    DrainLock,
    Drain,
    DrainUnlock,
    Done,
}

/// A state; sets of clients and IOMMUs are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    probe_lock: bool,
    published: u8,
    group_locks: u8,
    groups: u8,
    domains: u8,
    dma: u8,
    deferred: u8,
    wrong: bool,
    iommu: u8,
    registrar: Registrar,
    clients: [At; 8],
}

/// The model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comparison {
    pub(crate) clients: u8,
    pub(crate) iommus: u8,
    pub(crate) fixed: bool,
    /// Search on after a violation.
    pub(crate) search_on: bool,
}

impl Comparison {
    /// The first client of `iommu` from `from` on.
    fn own(&self, iommu: u8, from: u8) -> Option<u8> {
        (from..self.clients).find(|d| d % self.iommus == iommu)
    }

    fn domains_from(&self, iommu: u8, from: u8) -> Registrar {
        self.own(iommu, from).map_or(Registrar::DrainLock, |d| Registrar::Domain(d, 0))
    }

    fn groups_from(&self, iommu: u8, from: u8) -> Registrar {
        self.own(iommu, from).map_or(self.domains_from(iommu, 0), |d| Registrar::Group(d, 0))
    }

    fn registrar(&self, last: &State) -> Option<State> {
        let mut s = *last;
        s.registrar = match last.registrar {
            Registrar::Lock | Registrar::DrainLock | Registrar::Group(_, 0) if s.probe_lock => {
                return None;
            }
            Registrar::Lock => {
                s.probe_lock = true;
                Registrar::Publish
            }
            Registrar::Publish => {
                s.published |= 1 << s.iommu;
                Registrar::Unlock
            }
            Registrar::Unlock => {
                s.probe_lock = false;
                self.groups_from(s.iommu, 0)
            }
            Registrar::Group(d, step) => self.group(&mut s, d, step),
            Registrar::Domain(d, 0) if s.group_locks >> d & 1 == 1 => return None,
            Registrar::Domain(d, step) => self.domain(&mut s, d, step),
            Registrar::DrainLock => {
                s.probe_lock = true;
                Registrar::Drain
            }
            Registrar::Drain => {
                s.deferred = 0;
                Registrar::DrainUnlock
            }
            Registrar::DrainUnlock => {
                s.probe_lock = false;
                s.iommu += 1;
                if s.iommu == self.iommus { Registrar::Done } else { Registrar::Lock }
            }
            Registrar::Done => return None,
        };
        Some(s)
    }

    fn group(&self, s: &mut State, d: u8, step: u8) -> Registrar {
        match step {
            0 => s.probe_lock = true,
            1 if s.groups >> d & 1 == 1 => return Registrar::Group(d, 3),
            1 => {}
            2 => s.groups |= 1 << d,
            _ => {
                s.probe_lock = false;
                return match self.own(s.iommu, d + 1) {
                    Some(next) => Registrar::Group(next, 0),
                    None => self.domains_from(s.iommu, 0),
                };
            }
        }
        Registrar::Group(d, step + 1)
    }

    fn domain(&self, s: &mut State, d: u8, step: u8) -> Registrar {
        match step {
            0 => s.group_locks |= 1 << d,
            1 if s.domains >> d & 1 == 1 => return Registrar::Domain(d, 3),
            1 => {}
            2 => s.domains |= 1 << d,
            3 => s.group_locks &= !(1 << d),
            _ => {
                s.dma |= 1 << d;
                return self.domains_from(s.iommu, d + 1);
            }
        }
        Registrar::Domain(d, step + 1)
    }

    fn client(&self, last: &State, d: u8) -> Option<State> {
        let mut s = *last;
        let bit = 1 << d;
        let next = match last.clients[usize::from(d)] {
            At::Start if s.probe_lock => return None,
            At::Start => {
                s.probe_lock = true;
                At::Locked
            }
            At::Locked if s.published >> (d % self.iommus) & 1 == 1 => At::LookAtGroup,
            At::Locked => At::Defer,
            At::Defer => {
                s.deferred |= bit;
                At::DeferUnlock
            }
            At::DeferUnlock => {
                s.probe_lock = false;
                At::Deferred
            }
            At::Deferred if s.deferred & bit != 0 => return None,
            At::Deferred => At::Start,
            At::LookAtGroup if s.groups & bit != 0 => At::Unlock { early: true },
            At::LookAtGroup => At::SetGroup,
            At::SetGroup => {
                s.groups |= bit;
                At::LockGroup { early: false }
            }
            At::LockGroup { .. } if s.group_locks & bit != 0 => return None,
            At::LockGroup { early } => {
                s.group_locks |= bit;
                At::LookAtDomain { early }
            }
            At::LookAtDomain { early } if s.domains & bit != 0 => At::SetDma { early },
            At::LookAtDomain { early } => At::SetDomain { early },
            At::SetDomain { early } => {
                s.domains |= bit;
                At::SetDma { early }
            }
            At::SetDma { early } => {
                s.dma |= bit;
                At::UnlockGroup { early }
            }
            At::UnlockGroup { early } => {
                s.group_locks &= !bit;
                if early { At::LookAtDma } else { At::Unlock { early } }
            }
            At::Unlock { early } => {
                s.probe_lock = false;
                if early && self.fixed { At::LockGroup { early } } else { At::LookAtDma }
            }
            At::LookAtDma => {
                s.wrong |= s.dma & bit == 0;
                At::Done
            }
            At::Done => return None,
        };
        s.clients[usize::from(d)] = next;
        Some(s)
    }
}

impl Model for Comparison {
    type State = State;
    /// The number of the thread.
    type Action = u8;

    fn init_states(&self) -> Vec<State> {
        let nothing = State {
            probe_lock: false,
            published: 0,
            group_locks: 0,
            groups: 0,
            domains: 0,
            dma: 0,
            deferred: 0,
            wrong: false,
            iommu: 0,
            registrar: Registrar::Lock,
            clients: [At::Start; 8],
        };
        vec![nothing]
    }

    fn actions(&self, _: &State, actions: &mut Vec<u8>) {
        actions.extend(0..=self.clients);
    }

    fn next_state(&self, last: &State, thread: u8) -> Option<State> {
        match thread.checked_sub(1) {
            None => self.registrar(last),
            Some(d) => self.client(last, d),
        }
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![Property::always("right DMA", |_, s: &State| !s.wrong)];
        if self.search_on {
            // Never reached, so that the search goes on after the first violation.
            properties.push(Property::sometimes("more", |_, _| false));
        }
        properties
    }
}
