//! Units programmed without a driver, and what scenarios note of them.

use super::Family;
use super::platforms::{Emulated, Hardware, Software};
use crate::check::Check;
use portcullis_addr::PhysAddr;
use portcullis_machine::Policy;
use portcullis_platform::PageLayout;
use portcullis_qemu::{Architecture, Version, for_test_on};
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

/// What a scenario is told with: the machine, and a list of what was seen.
pub struct Desk {
    /// The machine.
    pub hw: Rc<dyn Hardware>,
    checks: RefCell<Vec<Check>>,
}

/// What device number `device` writes: nobody else has it.
fn token(device: usize) -> u64 {
    0x1000_0001 + device as u64
}

impl Desk {
    /// A machine, and each device with a number of its own in its buffer. Devices must reach memory by its physical addresses at that time.
    pub fn new(hw: Rc<dyn Hardware>) -> Self {
        let desk = Self { hw, checks: RefCell::default() };
        let page = desk.page();
        for device in 0..desk.hw.devices().len() {
            desk.store(page, token(device));
            desk.hw.reads(device, page);
        }
        desk
    }

    /// A page of 4 KiB, filled with zeroes.
    pub fn page(&self) -> u64 {
        page_of(&*self.hw, 4096)
    }

    /// Stores a word.
    pub fn store(&self, address: u64, word: u64) {
        self.hw.memory().store64(PhysAddr::new(address), word);
    }

    /// Loads a word.
    pub fn load(&self, address: u64) -> u64 {
        self.hw.memory().load64(PhysAddr::new(address))
    }

    /// Waits for a 32-bit register.
    ///
    /// # Panics
    ///
    /// When it does not get there within 1,000 looks.
    pub fn settle(&self, offset: usize, mask: u32, wanted: u32) {
        let settled = (0..1000).any(|_| self.hw.registers().read32(offset) & mask == wanted);
        assert!(settled, "register {offset:#x} does not settle");
    }

    /// Notes what was looked at, what the specification says, and what was seen.
    pub fn check(&self, what: impl Into<String>, expected: impl ToString, observed: impl ToString) {
        let (what, expected, observed) = (what.into(), expected.to_string(), observed.to_string());
        self.checks.borrow_mut().push(Check { what, expected, observed });
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("checks", &self.checks).finish_non_exhaustive()
    }
}

/// `bytes` of zeroes on their natural boundary.
///
/// # Panics
///
/// When there is no memory.
pub fn page_of(hw: &dyn Hardware, bytes: usize) -> u64 {
    let layout = PageLayout::new(bytes, bytes).expect("a page");
    hw.memory().allocate(layout).expect("memory").raw()
}

/// A unit that a scenario programs by hand.
pub trait ByHand: Sized {
    /// Has the unit pass everything, as out of reset or as nearly so as it can: devices reach memory by its physical addresses.
    fn open(hw: &dyn Hardware);

    /// Takes the unit over: queues installed, no device described.
    fn take(desk: Desk) -> Self;

    /// What the scenario is told with.
    fn desk(&self) -> &Desk;

    /// The faults that the unit has recorded since the last call, in words.
    fn faults(&self) -> Vec<String>;

    /// Lets a device write its number, and looks whether it is at `physical`.
    fn write(&self, device: usize, iova: u64, physical: u64, expected: &str) {
        let desk = self.desk();
        desk.store(physical, 0xeeee_eeee_eeee_eeee);
        desk.hw.writes(device, iova);
        let landed = desk.load(physical) & 0xffff_ffff == token(device);
        let id = desk.hw.devices()[device];
        let what = match iova == physical {
            true => format!("{id:#x}: write a physical address"),
            false => format!("{id:#x}: write {iova:#x}"),
        };
        let seen = match (landed, self.faults().into_iter().next()) {
            (true, None) => "landed".to_owned(),
            (true, Some(fault)) => format!("landed; {fault}"),
            (false, None) => "blocked".to_owned(),
            (false, Some(fault)) => fault,
        };
        desk.check(what, expected, seen);
    }

    /// Lets a device read; what it reads stays in it.
    fn read(&self, device: usize, iova: u64, expected: &str) {
        let desk = self.desk();
        desk.hw.reads(device, iova);
        let seen = self.faults().into_iter().next().unwrap_or_else(|| "no fault".to_owned());
        let id = desk.hw.devices()[device];
        desk.check(format!("{id:#x}: read {iova:#x}"), expected, seen);
    }
}

/// Name, whether something must be refused, what happens.
pub type Scenario<R> = (&'static str, bool, fn(&R));

/// Scenario, what was looked at, what QEMU 10 shows, why.
pub type Difference = (&'static str, &'static str, &'static str, &'static str);

/// What a later version of QEMU shows otherwise than the one whose differences are on record.
#[derive(Clone, Copy, Debug)]
pub struct Later {
    /// The version that was looked at.
    pub version: Version,
    /// Scenarios whose differences on record are gone.
    pub mended: &'static [&'static str],
    /// Differences that are new.
    pub new: &'static [Difference],
}

/// What is expected of a version: the differences that it may show, and whether it must show all of them.
///
/// From `later` on its record holds, and on [`RECORDED`] and before the first one. Nobody looked at those between: they may show either.
fn expected(version: Version, recorded: &[Difference], later: &Later) -> (Vec<Difference>, bool) {
    let lasting = recorded.iter().filter(|known| !later.mended.contains(&known.0));
    if version <= RECORDED {
        return (recorded.to_vec(), true);
    }
    if version >= later.version {
        return (lasting.chain(later.new).copied().collect(), true);
    }
    (recorded.iter().chain(later.new).copied().collect(), false)
}

/// The version of the differences on record.
const RECORDED: Version = Version { major: 10, minor: 0, micro: 2 };

fn told<F: Family>(hw: Rc<dyn Hardware>, scenario: &Scenario<F::Rig>) -> Vec<Check> {
    F::Rig::open(&*hw);
    let rig = F::Rig::take(Desk::new(Rc::clone(&hw)));
    (scenario.2)(&rig);
    let checks = rig.desk().checks.take();
    assert!(hw.offences().is_empty(), "{}: {:?}", scenario.0, hw.offences());
    assert!(!checks.is_empty(), "{} looks at nothing", scenario.0);
    checks
}

/// Tells every scenario on the software machine, with hardware as QEMU's and at its harshest.
///
/// # Panics
///
/// Where it does not do what the scenario says, where fewer than 40 scenarios are told, and where less than half of them are refusals.
pub fn assert_software_does<F: Family>(scenarios: &[Scenario<F::Rig>]) {
    for scenario in scenarios {
        for policy in [Policy::like_qemu(), Policy::default()] {
            let checks = told::<F>(Rc::new(Software::<F>::new(policy)), scenario);
            let wrong: Vec<_> = checks.iter().filter(|check| !check.holds()).collect();
            assert!(wrong.is_empty(), "{}: {wrong:#?}", scenario.0);
        }
    }
    let negative = scenarios.iter().filter(|scenario| scenario.1).count();
    assert!(scenarios.len() >= 40 && 2 * negative >= scenarios.len());
}

/// Tells every scenario on QEMU, whose `differences` are those of 10.0.2 and change as `later` says; `test` is the test's name, for the line that says that it was skipped.
///
/// # Panics
///
/// Where QEMU does not do what the scenario says and `differences` does not know it, or where it does although `differences` says otherwise.
pub fn assert_qemu_does<F: Family>(
    scenarios: &[Scenario<F::Rig>],
    differences: &[Difference],
    later: &Later,
    architecture: Architecture,
    test: &str,
) {
    let Some(qemu) = for_test_on(architecture, test) else { return };
    let (differences, all) = expected(qemu.version(), differences, later);
    let mut complaints = Vec::new();
    for scenario in scenarios {
        let checks = told::<F>(Rc::new(Emulated::<F>::start(qemu)), scenario);
        let mut open: Vec<_> = differences.iter().filter(|known| known.0 == scenario.0).collect();
        for check in checks.iter().filter(|check| !check.holds()) {
            match open.iter().position(|it| it.1 == check.what && it.2 == check.observed) {
                Some(at) => drop(open.remove(at)),
                None => complaints.push(format!("{}: {check}", scenario.0)),
            }
        }
        let gone = open.iter().filter(|_| all);
        complaints.extend(gone.map(|known| format!("no longer differs: {known:?}")));
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_held_to_its_own_record() {
        let recorded = [("a", "x", "1", ""), ("b", "x", "2", "")];
        let later = Later {
            version: Version { micro: 13, ..RECORDED },
            mended: &["a"],
            new: &[("c", "x", "3", "")],
        };
        let of = |micro| {
            let (known, all) = expected(Version { micro, ..RECORDED }, &recorded, &later);
            (known.iter().map(|known| known.0).collect::<Vec<_>>(), all)
        };
        assert_eq!(of(2), (vec!["a", "b"], true));
        assert_eq!(of(13), (vec!["b", "c"], true));
        assert_eq!(of(8), (vec!["a", "b", "c"], false));
    }
}
