//! The software machine by its registers. One program, so that it is linked once.

mod faults;
mod models;
mod nonsense;
mod punishing;
mod rig;
mod smmuv2;
mod threads;
mod translation;
