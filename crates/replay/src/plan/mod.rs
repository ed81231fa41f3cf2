//! Schedules that can be forced: who goes how far, in terms that the lab and a kernel share.

mod compile;
mod map;
mod model;
mod named;
mod protocol;

pub(crate) use compile::compile;
pub(crate) use map::Site;
pub(crate) use model::{Model, ModelEnd, State};
pub use named::{NAMED, Named};
pub use protocol::protocol_of;

/// A thread of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// The probe of the SMMU that registers; `P1` in reports.
    Smmu,
    /// The probe of the client; `P2`.
    Client,
}

impl Who {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Smmu => "P1",
            Self::Client => "P2",
        }
    }

    /// Its number, in a session and in the lab's worlds of one registering SMMU and one client.
    pub(crate) fn number(self) -> usize {
        match self {
            Self::Smmu => 0,
            Self::Client => 1,
        }
    }
}

/// One advance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Who runs.
    pub(crate) who: Who,
    /// How far.
    pub(crate) site: &'static Site,
}

/// A list of advances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What it is called.
    pub(crate) name: String,
    /// The advances, in order.
    pub(crate) steps: Vec<Step>,
}
