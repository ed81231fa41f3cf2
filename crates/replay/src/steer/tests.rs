//! The park and step machine against the fake.

use super::fake::{self, CLIENT, CLIENT_DEVICE, FakeThread, Log, Pass, SMMU, SMMU_DEVICE};
use super::{Arrival, Devices, Session, Setup};
use crate::error::Error;
use crate::image::KernelImage;
use crate::machine::Console;
use std::sync::PoisonError;
use std::time::Duration;

const P1: u64 = 0xffff_0000_2000_0000;
const P2: u64 = 0xffff_0000_2001_0000;
/// More than a loaded machine needs for what does come.
const ENOUGH: Duration = Duration::from_secs(60);
/// For what never comes.
const SHORT: Duration = Duration::from_millis(300);

fn pass(at: u64, x0: u64, back: u64, sp: u64) -> Pass {
    Pass { at, x0, back, sp }
}

/// P1 registers and visits the client; P2 probes and is refused with -517 on the way if `refused`.
fn threads(refused: bool, preempt_count: u32) -> Vec<FakeThread> {
    let registration = vec![
        pass(0x2000, SMMU_DEVICE, 0x3010, 0x900),
        pass(0x2200, CLIENT_DEVICE, 0x2040, 0x800),
        pass(0x2040, 0, 0, 0x800),
        pass(0x3010, 0, 0, 0x900),
    ];
    let result = if refused { 0xffff_fdfb } else { 0 };
    let mut probe = vec![
        pass(0x2100, CLIENT_DEVICE, 0x3020, 0xa00),
        pass(0x2400, CLIENT_DEVICE, 0x2140, 0x9f0),
        pass(0x2140, result, 0, 0x9f0),
    ];
    if !refused {
        probe.push(pass(0x2300, CLIENT_DEVICE, 0x2180, 0x9e0));
    }
    probe.push(pass(0x3020, result, 0, 0xa00));
    vec![
        FakeThread { task: P1, path: registration, preempt_count },
        FakeThread { task: P2, path: probe, preempt_count: 0 },
    ]
}

fn session(image: &KernelImage, threads: Vec<FakeThread>) -> (Session<'_>, Log) {
    let (client, log) = fake::connect(image, threads);
    let setup = Setup {
        image,
        devices: Devices { client: CLIENT, smmu: SMMU },
        reads_doorbell: false,
        watched: &["iommu_device_use_default_domain", "not_in_this_kernel"],
        driver_probe: "pci_device_probe".parse().expect("a stop"),
    };
    let mut session = Session::begin(client, Console::default(), setup).expect("the fake's kernel");
    let birth = |text: &str| text.parse().expect("a stop");
    session.add_thread(&birth("iommu_device_register?x2=smmu"), false).expect("it is there");
    session.add_thread(&birth("really_probe?x0=client"), true).expect("it is there");
    session.arm().expect("breakpoints");
    (session, log)
}

fn executed(log: &Log) -> Vec<(u64, u64)> {
    log.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[test]
fn threads_meet_in_the_order_of_the_schedule() {
    let image = fake::kernel();
    let (mut session, log) = session(&image, threads(false, 0));
    assert!(session.await_births(ENOUGH).expect("it runs"));
    assert_eq!(executed(&log), [], "both are held at their births");
    let stop = "probe_iommu_group:return?x0=client".parse().expect("a stop");
    assert_eq!(session.advance(0, Some(&stop), ENOUGH).expect("it runs"), Arrival::Reached);
    assert_eq!(session.advance(1, None, ENOUGH).expect("it runs"), Arrival::Reached);
    assert_eq!(session.thread(1).returned, Some(0));
    let begun = session.at_driver_probe().expect("the driver began");
    assert!(!begun.group, "the fake's device has no group");
    session.release(0);
    session.release(1);
    // Everything ends by itself; nobody says so on the console.
    assert!(!session.finish(SHORT).expect("it runs"));
    let order = executed(&log);
    let at = |who: u64, place: u64| order.iter().position(|step| *step == (who, place));
    let visit = at(P1, 0x2200).expect("P1 visited the client");
    let driver = at(P2, 0x2300).expect("P2's driver began");
    let back = at(P1, 0x2040).expect("P1 went on");
    assert!(visit < driver && driver < back, "{order:x?}");
}

#[test]
fn an_early_end_and_the_function_that_refused_are_told() {
    let image = fake::kernel();
    let (mut session, _) = session(&image, threads(true, 0));
    assert!(session.await_births(ENOUGH).expect("it runs"));
    let stop = "pci_device_probe?x0=client".parse().expect("a stop");
    assert_eq!(session.advance(1, Some(&stop), ENOUGH).expect("it runs"), Arrival::Returned(-517));
    let returns = &session.thread(1).returns;
    assert_eq!(returns.len(), 1);
    assert_eq!(
        (returns[0].function.as_str(), returns[0].value),
        ("iommu_device_use_default_domain", -517)
    );
    assert!(session.at_driver_probe().is_none());
}

#[test]
fn who_never_comes_is_late() {
    let image = fake::kernel();
    let (mut session, _) = session(&image, threads(false, 0));
    assert!(session.await_births(ENOUGH).expect("it runs"));
    // P1 never enters the client's probe.
    let stop = "pci_device_probe?x0=client".parse().expect("a stop");
    assert_eq!(session.advance(0, Some(&stop), SHORT).expect("it runs"), Arrival::Late);
}

#[test]
fn a_thread_that_dies_is_told_from_one_that_never_comes() {
    let image = fake::kernel();
    let mut threads = threads(false, 0);
    // P2 dies where its driver would have begun.
    threads[1].path.truncate(3);
    threads[1].path.push(pass(0x1100, 0, 0, 0x9e0));
    let (mut session, _) = session(&image, threads);
    assert!(session.await_births(ENOUGH).expect("it runs"));
    assert_eq!(session.advance(1, None, ENOUGH).expect("it runs"), Arrival::Died);
    assert_eq!(session.thread(1).returned, None);
}

#[test]
fn nobody_is_parked_where_nobody_may_sleep() {
    let image = fake::kernel();
    let (mut session, _) = session(&image, threads(false, 1));
    let error = session.await_births(ENOUGH).expect_err("preemption is off");
    assert!(matches!(error, Error::NotParkable { .. }), "{error}");
    assert!(error.to_string().contains("iommu_device_register"), "{error}");
}

#[test]
fn a_missing_symbol_is_named() {
    let image = fake::kernel();
    let (mut session, _) = session(&image, threads(false, 0));
    let stop = "probe_iommu_gruop".parse().expect("a stop");
    let error = session.advance(0, Some(&stop), SHORT).expect_err("no such function");
    assert!(error.to_string().contains("no symbol `probe_iommu_gruop`"), "{error}");
}
