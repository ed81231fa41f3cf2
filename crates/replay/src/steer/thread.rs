//! A kernel thread that takes part in a schedule.

use super::stop::Stop;
use crate::gdb::CoreRegisters;

/// A stop with its address in the running kernel.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The stop.
    pub(crate) stop: Stop,
    /// Its breakpoint.
    pub(crate) address: u64,
}

/// What a thread is to do.
#[derive(Clone, Debug)]
pub(crate) enum Goal {
    /// Stay where it is.
    Held,
    /// Run to a stop. `armed` is where a `:return` waits: address and stack pointer.
    Reach {
        /// The stop.
        target: Target,
        /// Where the return goes to.
        armed: Option<(u64, u64)>,
    },
    /// Run until the function of its birth returns.
    Return,
    /// Run freely.
    Free,
}

/// A function that returned while it was watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Returned {
    /// The function.
    pub(crate) function: String,
    /// Its value, read as an `int`.
    pub(crate) value: i32,
}

/// A call that has not returned yet.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The function.
    pub(crate) function: String,
    /// Where it returns to.
    pub(crate) return_to: u64,
    /// The stack pointer, at entry and at return.
    pub(crate) sp: u64,
}

/// A thread of the schedule.
#[derive(Debug)]
pub(crate) struct Thread {
    /// Where it begins.
    pub(crate) birth: Target,
    /// `current`, once it is born.
    pub(crate) task: Option<u64>,
    /// `comm/pid`.
    pub(crate) comm: String,
    /// The device whose function it began in.
    pub(crate) device: u64,
    /// Where the function of its birth returns to, and the stack pointer there.
    pub(crate) end: (u64, u64),
    /// The registers to go on with, while it is parked.
    pub(crate) parked: Option<CoreRegisters>,
    /// What it is to do.
    pub(crate) goal: Goal,
    /// The end of its first function ends an advance; else the thread lives on behind it.
    pub(crate) ends_at_end: bool,
    /// It has died of an oops.
    pub(crate) died: bool,
    /// The value that the function of its birth returned.
    pub(crate) returned: Option<i32>,
    /// Watched functions that it is in.
    pub(crate) frames: Vec<Frame>,
    /// Watched functions that have returned, in order.
    pub(crate) returns: Vec<Returned>,
}

impl Thread {
    /// A thread that will be born at `birth`.
    pub(crate) fn new(birth: Target) -> Self {
        Self {
            birth,
            task: None,
            comm: String::new(),
            device: 0,
            end: (0, 0),
            parked: None,
            goal: Goal::Held,
            ends_at_end: true,
            died: false,
            returned: None,
            frames: Vec::new(),
            returns: Vec::new(),
        }
    }

    /// Is it this task, and does the schedule still care?
    pub(crate) fn is(&self, task: u64) -> bool {
        self.task == Some(task) && !(matches!(self.goal, Goal::Free) && self.parked.is_none())
    }

    /// Notes that it stands at the entry or the return of a watched function.
    pub(crate) fn note_calls(&mut self, registers: &CoreRegisters, watched: Option<&str>) {
        while let Some(frame) = self.frames.last() {
            if frame.return_to != registers.pc || frame.sp != registers.sp {
                break;
            }
            let value = int(registers.x[0]);
            let function = frame.function.clone();
            self.returns.push(Returned { function, value });
            self.frames.pop();
        }
        if let Some(function) = watched {
            self.frames.push(Frame {
                function: function.to_owned(),
                return_to: registers.x[30],
                sp: registers.sp,
            });
        }
    }

    /// Is it parked at the end of its birth's function?
    pub(crate) fn at_own_end(&self) -> bool {
        self.parked.as_ref().is_some_and(|registers| self.is_at_end(registers))
    }

    /// Does it stand at the end of its birth's function?
    pub(crate) fn is_at_end(&self, registers: &CoreRegisters) -> bool {
        (registers.pc, registers.sp) == self.end
    }
}

/// A register as an `int`.
pub(crate) fn int(register: u64) -> i32 {
    (register as u32).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_returns_come_innermost_first() {
        let target = Target { stop: "f".parse().expect("a stop"), address: 0 };
        let mut thread = Thread::new(target);
        let mut registers = CoreRegisters { x: [0; 31], sp: 100, pc: 1, cpsr: 0 };
        registers.x[30] = 50;
        thread.note_calls(&registers, Some("outer"));
        (registers.sp, registers.x[30]) = (80, 60);
        thread.note_calls(&registers, Some("inner"));
        registers.pc = 60;
        registers.x[0] = 0xffff_fdfb;
        registers.sp = 70;
        thread.note_calls(&registers, None);
        assert!(thread.returns.is_empty(), "another frame that returns to the same place");
        registers.sp = 80;
        thread.note_calls(&registers, None);
        (registers.pc, registers.sp, registers.x[0]) = (50, 100, 0);
        thread.note_calls(&registers, None);
        let returned = |function: &str, value| Returned { function: function.into(), value };
        assert_eq!(thread.returns, [returned("inner", -517), returned("outer", 0)]);
    }
}
