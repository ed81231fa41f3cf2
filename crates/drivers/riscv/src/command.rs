//! Commands as this driver sends them (§3.1).

use portcullis_addr::{Iova, StreamId};
use portcullis_driver_parts::Words;
use portcullis_spec::riscv::command::{
    self as spec, iodir, iodir_func, iofence, iofence_func, iotinval, iotinval_func, opcode,
};

/// One command, as it stands in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Command(pub(crate) [u64; spec::WORDS]);

impl Command {
    const fn new(opcode: u64, function: u64) -> Self {
        Self([spec::OPCODE.of(opcode) | spec::FUNC3.of(function), 0])
    }

    /// Waits for all before it, and for what devices have read and written until then; completion shows in the head (§3.1.2).
    #[inline]
    pub(crate) const fn fence() -> Self {
        let mut command = Self::new(opcode::IOFENCE, iofence_func::C);
        command.0[0] |= iofence::PR.of(1) | iofence::PW.of(1);
        command
    }

    /// Forgets the context of a device (§3.1.3).
    #[inline]
    pub(crate) const fn forget_context(device: StreamId) -> Self {
        let mut command = Self::new(opcode::IODIR, iodir_func::INVAL_DDT);
        command.0[0] |= iodir::DV.of(1) | iodir::DID.of(device.raw() as u64);
        command
    }

    /// Forgets every context and everything that led to one (§3.1.3).
    pub(crate) const fn forget_contexts() -> Self {
        Self::new(opcode::IODIR, iodir_func::INVAL_DDT)
    }

    /// Forgets every translation that has no second stage (§3.1.1).
    pub(crate) const fn forget_hosts() -> Self {
        Self::new(opcode::IOTINVAL, iotinval_func::VMA)
    }

    /// Forgets every translation that has a second stage (§3.1.1).
    pub(crate) const fn forget_guests() -> Self {
        Self::new(opcode::IOTINVAL, iotinval_func::GVMA)
    }

    /// Forgets all of a first stage, tables included (§3.1.1).
    #[inline]
    pub(crate) const fn forget_process(pscid: u16) -> Self {
        let mut command = Self::new(opcode::IOTINVAL, iotinval_func::VMA);
        command.0[0] |= iotinval::PSCV.of(1) | iotinval::PSCID.of(pscid as u64);
        command
    }

    /// Forgets all of a second stage, tables included (§3.1.1).
    #[inline]
    pub(crate) const fn forget_guest(gscid: u16) -> Self {
        let mut command = Self::new(opcode::IOTINVAL, iotinval_func::GVMA);
        command.0[0] |= iotinval::GV.of(1) | iotinval::GSCID.of(gscid as u64);
        command
    }

    /// Only the leaf of one address, of what the command would forget otherwise.
    #[inline]
    pub(crate) const fn at(mut self, address: Iova) -> Self {
        self.0[0] |= iotinval::AV.of(1);
        self.0[1] |= iotinval::ADDR.of(address.raw() >> 12);
        self
    }
}

impl From<Command> for Words {
    #[inline]
    fn from(command: Command) -> Self {
        command.0
    }
}
