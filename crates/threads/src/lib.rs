//! Systematic exploration of shipped code.
mod ambient;
#[cfg(test)]
mod crosscheck;
mod dpor;
mod enumerate;
mod execute;
mod explorer;
mod op;
mod random;
mod report;
mod runtime;
mod sample;
mod schedule;
mod sync;
mod tape;
mod trace;
mod world;

pub use ambient::{choose, current, observe, reached, spawn, step, violation};
pub use explorer::{Budget, Explorer, Progress, Replay, Strategy};
pub use report::{LadderStep, Report, Violation};
pub use schedule::{Decision, Schedule, ScheduleError};
pub use sync::{LabEvent, LabLock};
pub use world::World;
