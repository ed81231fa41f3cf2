//! The driver with one kind of invalidation dropped or misdirected.

use crate::bench::{Bench, Client, Failure, Line, SoftwareBench};
use crate::cases::{Scenario, all, named};
use crate::check::Check;
use crate::compare::start_qemu;
use crate::driver::Setup;
use crate::tamper::{CommandFilter, Words};
use portcullis::IommuOps;
use portcullis_addr::{Iova, PhysAddr};
use portcullis_platform::{DmaMemory, Registers};
use portcullis_qemu::Installation;
use portcullis_spec::smmuv3::command::{CFGI_ALL_RANGE, OPCODE, cfgi, opcode, tlbi};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// What is done to a command on its way to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// It is not sent.
    Drop,
    /// It names the pages next to the right ones.
    Neighbour,
    /// A range of several units ends one unit early.
    Shorter,
    /// It names the next ASID or VMID.
    WrongTag,
    /// It names the next stream.
    WrongStream,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drop => "dropped",
            Self::Neighbour => "aimed at the neighbouring pages",
            Self::Shorter => "one unit short",
            Self::WrongTag => "with the next ASID or VMID",
            Self::WrongStream => "with the next stream",
        })
    }
}

/// A broken driver, and the scenario that must notice.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// The command, by the document's name.
    pub command: &'static str,
    /// What is done to it.
    pub action: Action,
    /// The scenario that fails.
    pub killer: &'static str,
}

const fn mutant(command: &'static str, action: Action, killer: &'static str) -> Mutant {
    Mutant { command, action, killer }
}

/// Every invalidation that the driver issues, in every way in which it can be wrong.
pub const MUTANTS: &[Mutant] = &[
    mutant("CMD_CFGI_STE", Action::Drop, "driver-detach"),
    mutant("CMD_CFGI_STE", Action::WrongStream, "driver-detach"),
    mutant("CMD_CFGI_ALL", Action::Drop, "driver-take-over"),
    mutant("CMD_TLBI_NSNH_ALL", Action::Drop, "driver-take-over"),
    mutant("CMD_TLBI_NH_VA", Action::Drop, "driver-unmap"),
    mutant("CMD_TLBI_NH_VA", Action::Neighbour, "driver-unmap"),
    mutant("CMD_TLBI_NH_VA", Action::Shorter, "driver-unmap-range"),
    mutant("CMD_TLBI_NH_VA", Action::WrongTag, "driver-unmap"),
    mutant("CMD_TLBI_NH_ASID", Action::Drop, "driver-space-reuse"),
    mutant("CMD_TLBI_NH_ASID", Action::WrongTag, "driver-unmap-scattered"),
    mutant("CMD_TLBI_S2_IPA", Action::Drop, "driver-stage-two"),
    mutant("CMD_TLBI_S2_IPA", Action::Neighbour, "driver-stage-two"),
    mutant("CMD_TLBI_S2_IPA", Action::Shorter, "driver-stage-two-range"),
    mutant("CMD_TLBI_S2_IPA", Action::WrongTag, "driver-stage-two"),
    mutant("CMD_TLBI_S12_VMALL", Action::Drop, "driver-stage-two-space-reuse"),
    mutant("CMD_TLBI_S12_VMALL", Action::WrongTag, "driver-stage-two-space-reuse"),
];

/// The document's name of a command.
fn name_of(command: &Words) -> &'static str {
    let number = OPCODE.read(command);
    let is_all = number == opcode::CFGI_STE_RANGE && cfgi::RANGE.read(command) == CFGI_ALL_RANGE;
    if is_all {
        return "CMD_CFGI_ALL";
    }
    let known = opcode::CODES.iter().find(|code| code.value == number);
    known.map_or("an unknown command", |code| code.name)
}

/// The ways in which a command can be wrong, whatever its operands.
fn actions_for(command: &Words) -> &'static [Action] {
    use Action::{Drop, Neighbour, Shorter, WrongStream, WrongTag};
    match OPCODE.read(command) {
        opcode::CFGI_STE | opcode::CFGI_CD | opcode::CFGI_CD_ALL => &[Drop, WrongStream],
        opcode::TLBI_NH_VA | opcode::TLBI_S2_IPA => &[Drop, Neighbour, Shorter, WrongTag],
        opcode::TLBI_NH_ASID | opcode::TLBI_S12_VMALL => &[Drop, WrongTag],
        _ => &[Drop],
    }
}

impl Action {
    /// The command after the action; `None` when it is not to be sent.
    fn apply(self, mut words: Words) -> Option<Words> {
        match self {
            Self::Drop => return None,
            Self::Neighbour => words[1] += covered(&words),
            Self::Shorter => {
                let units = tlbi::NUM.read(&words);
                tlbi::NUM.write(&mut words, units.saturating_sub(1));
            }
            Self::WrongTag => {
                let tag = match OPCODE.read(&words) {
                    opcode::TLBI_NH_VA | opcode::TLBI_NH_ASID => tlbi::ASID,
                    _ => tlbi::VMID,
                };
                let wrong = tag.read(&words) + 1;
                tag.write(&mut words, wrong);
            }
            Self::WrongStream => {
                let wrong = cfgi::STREAM_ID.read(&words) + 1;
                cfgi::STREAM_ID.write(&mut words, wrong);
            }
        }
        Some(words)
    }
}

/// Bytes that an address command covers.
fn covered(words: &[u64; 2]) -> u64 {
    let granule = match tlbi::TG.read(words) {
        tlbi::tg::K16 => 14,
        tlbi::tg::K64 => 16,
        _ => 12,
    };
    let units = if tlbi::TG.read(words) == 0 { 1 } else { tlbi::NUM.read(words) + 1 };
    units << tlbi::SCALE.read(words) << granule
}

impl Mutant {
    fn filter(self) -> CommandFilter {
        Arc::new(move |command: Words| {
            if name_of(&command) == self.command {
                self.action.apply(command)
            } else {
                Some(command)
            }
        })
    }

    fn killer(self) -> Result<Scenario, Failure> {
        named(self.killer).ok_or_else(|| Failure(format!("no scenario {}", self.killer)))
    }

    /// What the killer sees of it on QEMU; `None` where this QEMU has no such SMMU.
    ///
    /// # Errors
    ///
    /// When the platform fails.
    pub fn run_on_qemu(self, installation: &Installation) -> Result<Option<Vec<Check>>, Failure> {
        let killer = self.killer()?;
        match start_qemu(&killer, installation)? {
            Some(bench) => self.run(&killer, &bench).map(Some),
            None => Ok(None),
        }
    }

    /// What the killer sees of it on the software machine.
    ///
    /// # Errors
    ///
    /// When the platform fails.
    pub fn run_on_software(self) -> Result<Vec<Check>, Failure> {
        let killer = self.killer()?;
        self.run(&killer, &SoftwareBench::like_qemu(killer.board))
    }

    fn run(self, killer: &Scenario, bench: &dyn Bench) -> Result<Vec<Check>, Failure> {
        (killer.run)(&Tampered { inner: bench, filter: self.filter() })
    }
}

/// The first access that reached memory although it must not have.
pub fn slipped_through(checks: &[Check]) -> Option<&Check> {
    let slipped = |check: &&Check| {
        check.expected.starts_with("blocked") && check.observed.starts_with("landed")
    };
    checks.iter().find(slipped)
}

/// The commands that the driver issues in all its scenarios, with the ways in which each can be wrong. Found on the software machine.
///
/// # Errors
///
/// When the platform fails.
pub fn issued() -> Result<BTreeSet<(&'static str, Action)>, Failure> {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let inbox = Arc::clone(&seen);
    let filter: CommandFilter = Arc::new(move |command: Words| {
        let mut seen = inbox.lock().unwrap_or_else(PoisonError::into_inner);
        seen.extend(actions_for(&command).iter().map(|action| (name_of(&command), *action)));
        Some(command)
    });
    for scenario in all().into_iter().filter(|scenario| scenario.name.starts_with("driver-")) {
        let bench = SoftwareBench::like_qemu(scenario.board);
        (scenario.run)(&Tampered { inner: &bench, filter: Arc::clone(&filter) })?;
    }
    let mut seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    // Not an invalidation; that it must not be missing QEMU cannot show.
    seen.retain(|(name, _)| *name != "CMD_SYNC");
    Ok(seen)
}

/// A platform whose driver's commands go through a filter.
struct Tampered<'a> {
    inner: &'a dyn Bench,
    filter: CommandFilter,
}

impl Bench for Tampered<'_> {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn memory(&self) -> &dyn DmaMemory {
        self.inner.memory()
    }

    fn read_bytes(&self, address: PhysAddr, bytes: &mut [u8]) {
        self.inner.read_bytes(address, bytes);
    }

    fn write_bytes(&self, address: PhysAddr, bytes: &[u8]) {
        self.inner.write_bytes(address, bytes);
    }

    fn smmu(&self) -> &dyn Registers {
        self.inner.smmu()
    }

    fn device_reads(
        &self,
        client: Client,
        iova: Iova,
        offset: usize,
        len: usize,
    ) -> Result<(), Failure> {
        self.inner.device_reads(client, iova, offset, len)
    }

    fn device_writes(
        &self,
        client: Client,
        iova: Iova,
        offset: usize,
        len: usize,
    ) -> Result<(), Failure> {
        self.inner.device_writes(client, iova, offset, len)
    }

    fn take_interrupts(&self) -> Result<Vec<Line>, Failure> {
        self.inner.take_interrupts()
    }

    fn start_driver(&self, setup: &Setup) -> Result<Box<dyn IommuOps>, Failure> {
        self.inner.start_driver(&Setup { filter: Some(Arc::clone(&self.filter)), ..setup.clone() })
    }

    fn records_class(&self) -> bool {
        self.inner.records_class()
    }

    fn offences(&self) -> Vec<String> {
        self.inner.offences()
    }
}
