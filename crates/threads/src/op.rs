//! The operations at which control may change hands.

use portcullis_platform::LockLabel;
use std::fmt;

/// Threads of one execution, at most: they fit a 32-bit set and one cache line of clock.
pub(crate) const MAX_THREADS: usize = 32;

/// A lock, an event, or a named piece of shared state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Object {
    /// 0 for what the world's builder made, thread + 1 for what a thread made, one reserved value for named state.
    pub(crate) row: u8,
    /// Its index among that creator's objects.
    pub(crate) index: u32,
}

/// What a thread is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Take a lock; possible while it is free.
    Acquire,
    /// Take a lock if it is free, otherwise go on without it.
    TryAcquire,
    /// Release a lock (an operation of its own only where `try_lock` is used; see the crate's documentation).
    Release,
    /// Read an event's generation.
    Generation,
    /// Sleep until an event's generation differs; possible once it does.
    Wait(u64),
    /// Change an event's generation.
    Notify,
    /// Read named shared state.
    Read,
    /// Change named shared state.
    Write,
}

impl Kind {
    /// Whether two of these on one object can be swapped without anybody noticing.
    pub(crate) fn is_read(self) -> bool {
        matches!(self, Self::Generation | Self::Wait(_) | Self::Read)
    }
}

/// One operation of one thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub(crate) kind: Kind,
    pub(crate) object: Object,
    pub(crate) label: LockLabel,
    pub(crate) what: &'static str,
}

impl Op {
    /// Whether the order of the two can matter.
    pub(crate) fn depends_on(&self, kind: Kind, object: Object) -> bool {
        self.object == object && !(self.kind.is_read() && kind.is_read())
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Acquire => write!(f, "lock {}", self.label),
            Kind::TryAcquire => write!(f, "try_lock {}", self.label),
            Kind::Release => write!(f, "unlock {}", self.label),
            Kind::Generation => write!(f, "read the generation of {}", self.label),
            Kind::Wait(_) => write!(f, "wait for {}", self.label),
            Kind::Notify => write!(f, "notify {}", self.label),
            Kind::Read | Kind::Write => write!(f, "{}: {}", self.label, self.what),
        }
    }
}
