//! Forcing a schedule on a running kernel from outside.
//!
//! A thread that must wait is *parked* by an injected call: at its stop the program counter is set to `msleep` with a return address that is the stop itself.
//! When `msleep` returns, the same breakpoint fires; the thread is parked again, or its registers are restored and it goes on. Only that kernel thread sleeps:
//! CPUs, interrupts, RCU and every other thread run. It keeps the locks that it holds, as a slow thread would.
//!
//! Threads are told apart by `current`, which arm64 keeps in `SP_EL0` (arch/arm64/include/asm/current.h), not by the CPU that they happen to run on.

#[cfg(test)]
mod fake;
mod observe;
mod session;
mod stop;
#[cfg(test)]
mod tests;
mod thread;

pub(crate) use observe::{Doorbell, Observation, Path};
pub(crate) use session::{Ablation, Arrival, Session, Setup};
pub(crate) use stop::{At, Devices, Stop, symbol};
