//! The probe protocol, one thread at a time: what each call leaves behind.

mod callbacks;
mod dma;
mod families;
mod plugging;
mod registry;
mod support;
mod unconfirmed;

use portcullis::*;
use portcullis_addr::{Iova, IovaRange, StreamId};
use portcullis_platform::{AllocError, DmaPages, PageLayout, Platform};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use support::*;

/// A device, its driver's handle, and the IOMMU in front of it.
struct Bound {
    sub: Arc<Sub>,
    x: Arc<Device<Host>>,
    books: Arc<Books>,
    handle: DmaHandle<Host>,
}

fn bound() -> Bound {
    let sub = Arc::new(subsystem());
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    let books = register(&sub, A);
    let driver = Arc::new(Keeper::default());
    sub.bind(&x, driver.clone()).expect("bound");
    let handle = driver.handle.lock().expect("test").clone().expect("bound");
    Bound { sub, x, books, handle }
}

fn page() -> Piece {
    Piece(0x8000_0000, 0x1000)
}

#[test]
fn a_client_that_comes_first_waits_and_is_tried_once_more() {
    let sub = subsystem();
    let device = sub.add_device(behind("/usb", &[(A, 7)])).expect("added");
    let driver = Arc::new(Keeper::default());
    assert_eq!(sub.bind(&device, driver.clone()), Ok(BindOutcome::Deferred(A)));
    assert_eq!(sub.run_deferred(), 0, "nothing became ready");
    let books = register(&sub, A);
    assert_eq!(device.stage(), DeviceStage::Waiting(A), "registration does not probe by itself");
    sub.run_deferred();
    assert_eq!(device.stage(), DeviceStage::Bound);
    assert!(matches!(books.target(7), Some(StreamTarget::Space(_))));
    let report = &sub.reports()[0];
    assert_eq!((report.probes, report.defers), (1, 1));
    assert_eq!(report.reach, Reach::Translated);
    assert_eq!(sub.bind(&device, driver), Err(BindError::AlreadyBound));
}

#[test]
fn a_client_that_comes_last_binds_at_once_and_groups_do_not_wait_for_drivers() {
    let sub = subsystem();
    let device = sub.add_device(behind("/usb", &[(A, 7)])).expect("added");
    let books = register(&sub, A);
    sub.run_deferred();
    assert!(matches!(books.target(7), Some(StreamTarget::Space(_))), "attached without a driver");
    let outcome = sub.bind(&device, Arc::new(Keeper::default()));
    assert_eq!(outcome, Ok(BindOutcome::Bound(Reach::Translated)));
}

/// One call for the devices of a bus does for each what a call of its own would, also where one is refused.
#[test]
fn all_devices_of_a_bus_are_told_apart_when_they_are_bound_together() {
    let sub = subsystem();
    let name = |number| format!("/bus/{number:02}");
    let mut devices: Vec<_> = (0..40)
        .map(|number| sub.add_device(behind(&name(number), &[(A, number)])).expect("added"))
        .collect();
    devices.push(sub.add_device(behind("/elsewhere", &[(B, 1)])).expect("added"));
    register(&sub, A);
    sub.run_deferred();
    let driver: Arc<dyn Driver<Host>> = Arc::new(Keeper::default());
    sub.bind(&devices[17], Arc::clone(&driver)).expect("bound");
    sub.remove_device(&devices[33]).expect("removed");
    let mut told = Vec::new();
    sub.bind_all(&devices, &driver, |device, outcome| told.push((device.id(), outcome)));
    let expected = devices.iter().enumerate().map(|(number, device)| {
        let outcome = match number {
            17 => Err(BindError::AlreadyBound),
            33 => Err(BindError::Gone),
            40 => Ok(BindOutcome::Deferred(B)),
            _ => Ok(BindOutcome::Bound(Reach::Translated)),
        };
        (device.id(), outcome)
    });
    assert!(told.iter().eq(expected.collect::<Vec<_>>().iter()), "{told:?}");
    assert_eq!(sub.counts().bound, 39);
}

#[test]
fn direct_only_where_the_description_says_so() {
    let sub = subsystem();
    let direct = sub.add_device(DeviceDescription::new("/rtc", DmaPath::Direct)).expect("added");
    let broken = DmaPath::Unusable("iommus: dangling phandle".into());
    let broken = sub.add_device(DeviceDescription::new("/bad", broken)).expect("added");
    let bind = |device| sub.bind(device, Arc::new(Keeper::default()));
    assert_eq!(bind(&direct), Ok(BindOutcome::Bound(Reach::Direct)));
    let reason = BlockedReason::Description("iommus: dangling phandle".into());
    assert_eq!(bind(&broken), Ok(BindOutcome::Blocked(reason)));
    let nothing = DeviceDescription::new("/x", DmaPath::Translated(FwSpec::default()));
    assert!(matches!(sub.add_device(nothing), Err(AddDeviceError::NoStreams { .. })));
}

#[test]
fn a_device_of_two_iommus_waits_for_each_once_and_shares_one_space() {
    let sub = subsystem();
    let device = sub.add_device(behind("/gpu", &[(A, 1), (B, 2)])).expect("added");
    let driver = Arc::new(Keeper::default());
    assert_eq!(sub.bind(&device, driver.clone()), Ok(BindOutcome::Deferred(A)));
    let a = register(&sub, A);
    sub.run_deferred();
    assert_eq!(device.stage(), DeviceStage::Waiting(B));
    assert_eq!(a.target(1), None, "half a path is no path");
    let b = register(&sub, B);
    sub.run_deferred();
    assert_eq!(device.stage(), DeviceStage::Bound);
    let handle = driver.handle.lock().expect("test").clone().expect("bound");
    let mapping = handle.map(page(), Both).expect("mapped");
    let iova = Iova::new(mapping.device_address());
    for books in [&a, &b] {
        assert_eq!(books.translate(iova), Some(page().0));
    }
    handle.unmap(mapping).expect("unmapped");
    assert_eq!(a.invalidations.load(Ordering::Relaxed), 1);
    assert_eq!(b.invalidations.load(Ordering::Relaxed), 1);
    assert_eq!(sub.reports()[0].defers, 2);
}

#[test]
fn the_domain_is_decided_from_all_members_in_any_order() {
    for first in [0, 1] {
        let sub = subsystem();
        let x = sub.add_device(behind("/x", &[(A, 5)])).expect("added");
        let mut y = behind("/y", &[(A, 5)]);
        y.required_domain = Some(DomainType::Identity);
        let y = sub.add_device(y).expect("added");
        let books = Books::new();
        books.identity.store(true, Ordering::Relaxed);
        sub.register(A, Box::new(BookIommu(Arc::clone(&books)))).expect("free");
        for device in if first == 0 { [&x, &y] } else { [&y, &x] } {
            let outcome = sub.bind(device, Arc::new(Keeper::default()));
            assert_eq!(outcome, Ok(BindOutcome::Bound(Reach::Identity)));
        }
        let reports = sub.reports();
        assert_eq!(reports[0].group, reports[1].group);
    }
}

#[test]
fn members_that_disagree_are_blocked_together() {
    let sub = subsystem();
    let mut x = behind("/x", &[(A, 5)]);
    x.required_domain = Some(DomainType::Dma);
    let mut y = behind("/y", &[(A, 5)]);
    y.required_domain = Some(DomainType::Identity);
    let (x, y) = (sub.add_device(x).expect("added"), sub.add_device(y).expect("added"));
    let books = register(&sub, A);
    for device in [&x, &y] {
        let outcome = sub.bind(device, Arc::new(Keeper::default())).expect("tried");
        let reason = BlockedReason::Disagreement {
            first: "/x".into(),
            first_needs: DomainType::Dma,
            second: "/y".into(),
            second_needs: DomainType::Identity,
        };
        assert_eq!(outcome, BindOutcome::Blocked(reason));
    }
    assert!(books.is_empty());
}

#[test]
fn a_late_member_takes_the_domain_in_use_or_stays_blocked() {
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 5)])).expect("added");
    register(&sub, A);
    sub.bind(&x, Arc::new(Keeper::default())).expect("bound");
    let mut y = behind("/y", &[(A, 5)]);
    y.required_domain = Some(DomainType::Identity);
    let y = sub.add_device(y).expect("added");
    let outcome = sub.bind(&y, Arc::new(Keeper::default())).expect("tried");
    assert!(matches!(outcome, BindOutcome::Blocked(_)), "{outcome:?}");
    let z = sub.add_device(behind("/z", &[(A, 5), (A, 6)])).expect("added");
    let outcome = sub.bind(&z, Arc::new(Keeper::default()));
    assert_eq!(outcome, Ok(BindOutcome::Bound(Reach::Translated)));
}

#[test]
fn a_late_member_that_needs_more_than_the_domain_in_use_has_stays_blocked() {
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 5)])).expect("added");
    register(&sub, A);
    let b = register(&sub, B);
    sub.bind(&x, Arc::new(Keeper::default())).expect("bound");
    let bind = |device| sub.bind(device, Arc::new(Keeper::default())).expect("tried");
    let y = sub.add_device(behind("/y", &[(A, 5), (B, 6)])).expect("added");
    assert_eq!(bind(&y), BindOutcome::Blocked(BlockedReason::GroupLacksIommu(B)));
    let mut z = behind("/z", &[(A, 5)]);
    let range = IovaRange::new(Iova::new(0x8000_0000), 0x1000).expect("a page");
    let region = ReservedRegion { range, kind: ReservedKind::Direct };
    z.reserved.push(region);
    let z = sub.add_device(z).expect("added");
    assert_eq!(bind(&z), BindOutcome::Blocked(BlockedReason::GroupLacksRegion(region)));
    // With nobody in the way the domain is made anew, for all three.
    sub.unbind(&x).expect("bound");
    for device in [&y, &z, &x] {
        assert_eq!(bind(device), BindOutcome::Bound(Reach::Translated));
    }
    assert!(matches!(b.target(6), Some(StreamTarget::Space(_))));
}

#[test]
fn a_device_that_joins_two_groups_merges_them_or_is_refused() {
    let sub = subsystem();
    sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    sub.add_device(behind("/y", &[(A, 2)])).expect("added");
    register(&sub, A);
    sub.run_deferred();
    sub.add_device(behind("/z", &[(A, 1), (A, 2)])).expect("added");
    let groups: Vec<_> = sub.reports().into_iter().map(|report| report.group).collect();
    assert_eq!(groups, [Some(0), Some(0), Some(0)]);
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    sub.add_device(behind("/y", &[(A, 2)])).expect("added");
    register(&sub, A);
    sub.bind(&x, Arc::new(Keeper::default())).expect("bound");
    let z = sub.add_device(behind("/z", &[(A, 1), (A, 2)])).expect("added");
    let outcome = sub.bind(&z, Arc::new(Keeper::default())).expect("tried");
    assert!(matches!(outcome, BindOutcome::Blocked(_)), "{outcome:?}");
}

#[test]
fn stream_masks_overlap() {
    let sub = subsystem();
    let mut x = behind("/x", &[]);
    let stream = FwStream { iommu: A, id: StreamId::new(0x400), mask: 0xf };
    x.dma = DmaPath::Translated(FwSpec { streams: vec![stream] });
    sub.add_device(x).expect("added");
    sub.add_device(behind("/y", &[(A, 0x407)])).expect("added");
    sub.add_device(behind("/z", &[(A, 0x410)])).expect("added");
    let groups: Vec<_> = sub.reports().into_iter().map(|report| report.group).collect();
    assert_eq!(groups, [Some(0), Some(0), Some(1)]);
    assert_eq!(sub.device_of(A, StreamId::new(0x40f)).expect("found").path(), "/x");
}

#[test]
fn unregistering_is_refused_while_in_use_and_leaves_nothing_behind_otherwise() {
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    let books = register(&sub, A);
    sub.bind(&x, Arc::new(Keeper::default())).expect("bound");
    assert_eq!(sub.unregister(A), Err(UnregisterError::Busy { path: "/x".into() }));
    assert!(matches!(books.target(1), Some(StreamTarget::Space(_))), "untouched");
    sub.unbind(&x).expect("bound before");
    assert_eq!(sub.unregister(A), Ok(()));
    assert!(books.is_empty());
    assert!(books.stopped.load(Ordering::Relaxed));
    assert_eq!(sub.unregister(A), Err(UnregisterError::NotRegistered(A)));
    let driver = Arc::new(Keeper::default());
    assert_eq!(sub.bind(&x, driver), Ok(BindOutcome::Deferred(A)));
    register(&sub, A);
    sub.run_deferred();
    assert_eq!(x.stage(), DeviceStage::Bound);
}

#[test]
fn a_second_instance_at_a_node_is_given_back() {
    let sub = subsystem();
    register(&sub, A);
    let error = sub.register(A, Box::new(BookIommu(Books::new()))).expect_err("taken");
    assert_eq!(error.instance.driver_name(), "books");
}

#[test]
fn a_node_that_failed_blocks_with_its_reason_until_it_comes_after_all() {
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    let driver = Arc::new(Keeper::default());
    sub.bind(&x, driver.clone()).expect("tried");
    sub.fail_node(A, "no driver for example,iommu");
    sub.run_deferred();
    let reason = BlockedReason::NodeFailed(A, "no driver for example,iommu".into());
    assert_eq!(x.stage(), DeviceStage::Blocked(reason));
    register(&sub, A);
    sub.run_deferred();
    assert_eq!(x.stage(), DeviceStage::Bound);
}

#[test]
fn unbind_voids_the_handle_and_removes_what_was_left_mapped() {
    let Bound { sub, x, books, handle } = bound();
    let mapping = handle.map(page(), ToDevice).expect("mapped");
    assert_eq!(sub.counts().mappings, 1);
    sub.unbind(&x).expect("bound");
    assert_eq!(sub.counts().mappings, 0);
    assert_eq!(books.invalidations.load(Ordering::Relaxed), 1);
    assert_eq!(handle.unmap(mapping).expect("removed with its driver"), page());
    assert_eq!(handle.map(page(), Both).expect_err("void").error(), DmaError::Revoked);
    assert_eq!(sub.unbind(&x), Err(BindError::NotBound));
}

#[test]
fn a_mapping_of_an_earlier_bind_is_not_taken_for_one_of_this() {
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    register(&sub, A);
    // The second lease may well lie where the first one lay.
    for _ in 0..16 {
        let driver = Arc::new(Keeper::default());
        let map = || {
            let handle = driver.handle.lock().expect("test");
            handle.as_ref().expect("bound").map(page(), Both).expect("mapped")
        };
        sub.bind(&x, driver.clone()).expect("bound");
        let stale = map();
        sub.unbind(&x).expect("bound");
        *driver.handle.lock().expect("test") = None;
        sub.bind(&x, driver.clone()).expect("bound");
        let _fresh = map();
        let handle = driver.handle.lock().expect("test").take().expect("bound");
        let refused = handle.unmap(stale).expect_err("not ours");
        assert!(matches!(refused, UnmapFailure::Foreign(_)), "{refused}");
        assert_eq!(sub.counts().mappings, 1);
        sub.unbind(&x).expect("bound");
    }
}

#[test]
fn a_mapping_that_fails_on_the_way_takes_no_addresses() {
    let Bound { sub, x, handle, .. } = bound();
    let large = Piece(0x8020_0000, 0x20_0000);
    NO_RECLAIM.set(true);
    handle.map(large, Both).expect_err("no room");
    NO_RECLAIM.set(false);
    sub.unbind(&x).expect("bound");
    assert_eq!(sub.counts().attached, 1, "nothing was left that could not be removed");
}

/// Everything in it that can fail is a `?`.
struct Careless(PageLayout);

impl Driver<Host> for Careless {
    fn name(&self) -> &str {
        "careless"
    }

    fn probe(
        &self,
        _: &ProbeContext<'_>,
        dma: DmaHandle<Host>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        let memory = dma.platform().memory();
        let pages = dma.unmap(dma.map(DmaPages::new(memory, self.0)?, Both)?)?;
        let copied = dma.bounce([0; 64])?;
        drop((pages, dma.turn(dma.map(copied, ToDevice)?, FromDevice)?));
        Ok(Box::new(Quiet))
    }
}

struct Quiet;

impl BoundDriver for Quiet {}

#[test]
fn what_fails_in_a_probe_comes_out_of_its_question_marks_with_the_reason() {
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    let books = register(&sub, A);
    let page = PageLayout::new(0x1000, 0x1000).expect("a page");
    let bind = |layout| sub.bind(&x, Arc::new(Careless(layout))).expect("an attempt");
    // No byte can lie there.
    let nowhere = page.within_bits(4);
    let no_memory = DmaError::NoMemory(AllocError { layout: nowhere });
    let BindOutcome::Failed(reason) = bind(nowhere) else { panic!("there is memory") };
    assert!(reason.is_out_of_memory(), "{reason}");
    assert_eq!(reason, FailedReason::Dma { driver: "careless".into(), error: no_memory });
    books.fail(Call::Wait, SILENT);
    let outcome = bind(page);
    let quarantined = |error: &DmaError| matches!(error, DmaError::Quarantined { node: A, .. });
    assert!(
        matches!(&outcome, BindOutcome::Failed(FailedReason::Dma { error, .. }) if quarantined(error)),
        "{outcome}"
    );
    assert_eq!(sub.counts().mappings, 0, "the failed bind has ended");
}

#[test]
fn absurd_sizes_are_refused() {
    let Bound { handle, .. } = bound();
    let error = handle.map(Piece(1, u64::MAX), Both).expect_err("too long").error();
    assert!(matches!(error, DmaError::Iova(_)), "{error}");
    let error = handle.allocate(usize::MAX).expect_err("too long");
    assert!(matches!(error, DmaError::NoMemory(_)), "{error}");
}

#[test]
fn an_unconfirmed_unmap_is_quarantined_and_never_reused() {
    let Bound { sub, books, handle, .. } = bound();
    let first = handle.map(page(), Both).expect("mapped");
    let address = first.device_address();
    books.fail(Call::Wait, SILENT);
    let error = handle.unmap(first).expect_err("unconfirmed").error();
    assert!(matches!(error, DmaError::Quarantined { len: 0x1000, node: A, .. }), "{error}");
    assert_eq!(sub.counts().quarantined, 0x1000);
    let second = handle.map(page(), Both).expect("mapped");
    assert_ne!(second.device_address(), address);
}

#[test]
fn a_table_in_the_way_of_a_large_leaf_is_forgotten_by_hardware_before_the_leaf_is_made() {
    let Bound { sub, books, handle, .. } = bound();
    let _small = handle.map(page(), Both).expect("mapped");
    assert_eq!(books.invalidations.load(Ordering::Relaxed), 0, "small pages disturb nobody");
    let large = Piece(0x8020_0000, 0x20_0000);
    let _large = handle.map(large, Both).expect("mapped");
    assert_eq!(books.invalidations.load(Ordering::Relaxed), 1);
    assert_eq!(sub.counts().mappings, 2);
}

#[test]
fn removal_takes_streams_and_groups_with_it() {
    let sub = subsystem();
    let before = sub.counts();
    let x = sub.add_device(behind("/x", &[(A, 1), (A, 2)])).expect("added");
    let y = sub.add_device(behind("/y", &[(A, 2)])).expect("added");
    let books = register(&sub, A);
    sub.run_deferred();
    sub.bind(&x, Arc::new(Keeper::default())).expect("bound");
    sub.remove_device(&x).expect("there");
    assert_eq!(books.target(1), None, "blocked");
    assert!(matches!(books.target(2), Some(StreamTarget::Space(_))), "y has it too");
    assert_eq!(sub.remove_device(&x), Err(BindError::Gone));
    assert_eq!(sub.bind(&x, Arc::new(Keeper::default())), Err(BindError::Gone));
    sub.remove_device(&y).expect("there");
    assert!(books.is_empty());
    assert_eq!(sub.counts(), before);
    assert!(sub.device_of(A, StreamId::new(2)).is_none());
}

#[test]
fn a_device_without_a_driver_gets_its_domain_also_when_it_comes_late() {
    let sub = subsystem();
    let books = register(&sub, A);
    sub.run_deferred();
    sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    assert_eq!(sub.counts().queued, 1);
    sub.run_deferred();
    assert!(matches!(books.target(1), Some(StreamTarget::Space(_))));
    assert_eq!(sub.reports()[0].reach, Reach::Translated);
    sub.add_device(behind("/y", &[(B, 1)])).expect("added");
    assert_eq!(sub.counts().queued, 0, "its IOMMU is not there");
}

#[test]
fn a_late_member_has_no_part_in_the_domain_before_it_is_bound() {
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    register(&sub, A);
    sub.bind(&x, Arc::new(Keeper::default())).expect("bound");
    sub.add_device(behind("/y", &[(A, 1), (A, 2)])).expect("added");
    assert_eq!(sub.reports()[1].reach, Reach::Blocked);
}

#[test]
fn plugging_a_stream_in_and_out_leaves_the_index_right() {
    let sub = subsystem();
    let books = register(&sub, A);
    for round in 0..100 {
        let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
        let y = sub.add_device(behind("/y", &[(A, 1), (A, 2)])).expect("added");
        sub.bind(&x, Arc::new(Keeper::default())).expect("bound");
        sub.remove_device(&x).expect("there");
        assert_eq!(sub.device_of(A, StreamId::new(1)).expect("y has it").path(), "/y", "{round}");
        assert!(matches!(books.target(2), Some(StreamTarget::Space(_))));
        sub.remove_device(&y).expect("there");
        assert!(books.is_empty());
        assert!(sub.device_of(A, StreamId::new(1)).is_none());
    }
}

#[test]
fn a_device_that_is_removed_while_it_waits_leaves_no_waiter() {
    let sub = subsystem();
    let before = sub.counts();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    sub.bind(&x, Arc::new(Keeper::default())).expect("tried");
    assert_eq!(sub.counts().waiters, 1);
    sub.remove_device(&x).expect("there");
    assert_eq!(sub.counts(), before);
}

#[test]
fn a_driver_may_wait_for_other_suppliers_but_not_for_ever() {
    let clock = FwNode(40);
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    register(&sub, A);
    let driver = Arc::new(Keeper::default());
    driver.needs.lock().expect("test").push(clock);
    assert_eq!(sub.bind(&x, driver), Ok(BindOutcome::Deferred(clock)));
    sub.announce(clock);
    sub.run_deferred();
    assert_eq!(x.stage(), DeviceStage::Bound);
    sub.unbind(&x).expect("bound");
    let stubborn = Arc::new(Keeper { always_needs: Some(clock), ..Keeper::default() });
    sub.bind(&x, stubborn).expect("tried");
    sub.run_deferred();
    assert_eq!(x.stage(), DeviceStage::Failed(FailedReason::DefersOnPresent(clock)));
}

#[test]
fn a_driver_that_defers_on_two_present_suppliers_in_turn_is_given_up() {
    let (clock, reset) = (FwNode(40), FwNode(41));
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    register(&sub, A);
    sub.announce(clock);
    sub.announce(reset);
    sub.run_deferred();
    let driver = Arc::new(Keeper::default());
    *driver.needs.lock().expect("test") = [clock, reset].repeat(50);
    sub.bind(&x, driver).expect("tried");
    assert_eq!(sub.run_deferred(), 2, "each supplier's arrival brings one attempt");
    assert!(matches!(x.stage(), DeviceStage::Failed(_)), "{:?}", x.stage());
}

#[test]
fn a_failing_probe_leaves_no_owner_and_no_mapping() {
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    register(&sub, A);
    let driver = Arc::new(Keeper::default());
    driver.fail.store(true, Ordering::Relaxed);
    let outcome = sub.bind(&x, driver.clone()).expect("tried");
    let reason = FailedReason::Driver { driver: "keeper".into(), words: "no link".into() };
    assert_eq!(outcome, BindOutcome::Failed(reason));
    let handle = driver.handle.lock().expect("test").clone().expect("kept");
    assert_eq!(handle.map(page(), Both).expect_err("void").error(), DmaError::Revoked);
    assert_eq!(sub.claim_group(&x, 9), Ok(()), "no owner is left");
    assert_eq!(sub.release_group(&x, 9), Ok(()));
    driver.fail.store(false, Ordering::Relaxed);
    assert!(matches!(sub.bind(&x, driver), Ok(BindOutcome::Bound(_))));
}

#[test]
fn ownership_is_exclusive_and_counted() {
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    let books = register(&sub, A);
    sub.run_deferred();
    assert_eq!(sub.claim_group(&x, 9), Ok(()));
    assert_eq!(books.target(1), None, "blocked while owned outside");
    assert_eq!(sub.claim_group(&x, 9), Ok(()));
    assert_eq!(sub.claim_group(&x, 8), Err(OwnerError::Busy));
    let outcome = sub.bind(&x, Arc::new(Keeper::default())).expect("tried");
    assert!(matches!(outcome, BindOutcome::Blocked(_)), "{outcome:?}");
    assert_eq!(sub.release_group(&x, 8), Err(OwnerError::NotOwner));
    assert_eq!(sub.release_group(&x, 9), Ok(()));
    assert!(matches!(sub.bind(&x, Arc::new(Keeper::default())), Ok(BindOutcome::Blocked(_))));
    assert_eq!(sub.release_group(&x, 9), Ok(()));
    assert!(matches!(sub.bind(&x, Arc::new(Keeper::default())), Ok(BindOutcome::Bound(_))));
    assert_eq!(sub.claim_group(&x, 9), Err(OwnerError::Busy));
}

#[test]
fn faults_reach_the_driver_of_the_device_that_caused_them() {
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    let books = register(&sub, A);
    let driver = Arc::new(Keeper::default());
    sub.bind(&x, driver.clone()).expect("bound");
    let fault = |id| Fault {
        stream: StreamId::new(id),
        pasid: None,
        reason: FaultReason::Translation,
        iova: None,
        access: None,
        stage: None,
        raw: [0; 4],
    };
    books.faults.lock().expect("books").extend([fault(1), fault(99)]);
    let mut seen = Vec::new();
    let serviced = sub.drain_faults(A, |fault, device| {
        seen.push((fault.fault.stream.raw(), device.map(|device| device.path().to_string())));
    });
    assert_eq!(serviced, Serviced { faults: 2, ..Serviced::default() });
    assert_eq!(seen, [(1, Some("/x".into())), (99, None)]);
    assert_eq!(driver.faults.load(Ordering::Relaxed), 1);
}

#[test]
fn a_failure_at_any_point_of_the_set_up_is_undone_and_the_retry_succeeds() {
    for point in 0.. {
        let sub = subsystem();
        let x = sub.add_device(behind("/x", &[(A, 1), (B, 3)])).expect("added");
        let y = sub.add_device(behind("/y", &[(A, 1)])).expect("added");
        let (a, b) = (register(&sub, A), register(&sub, B));
        let before = sub.counts();
        a.fail_after.store(point, Ordering::Relaxed);
        b.fail_after.store(point, Ordering::Relaxed);
        let outcome = sub.bind(&x, Arc::new(Keeper::default())).expect("tried");
        if matches!(outcome, BindOutcome::Bound(_)) {
            assert!(point > 4, "create, bind, claim and attach at two IOMMUs can each fail");
            break;
        }
        assert!(matches!(outcome, BindOutcome::Blocked(_)), "{outcome:?}");
        assert!(a.is_empty() && b.is_empty(), "point {point} left something behind");
        assert_eq!(sub.counts(), before);
        a.fail_after.store(usize::MAX, Ordering::Relaxed);
        b.fail_after.store(usize::MAX, Ordering::Relaxed);
        for device in [&x, &y] {
            let outcome = sub.bind(device, Arc::new(Keeper::default()));
            assert_eq!(outcome, Ok(BindOutcome::Bound(Reach::Translated)));
        }
    }
}

#[test]
fn what_hardware_does_not_confirm_is_said_by_every_call_that_asked_for_it() {
    let unconfirmed = Unconfirmed { node: A, error: SILENT };
    let Bound { sub, x, books, handle } = bound();
    let _left = handle.map(page(), Both).expect("mapped");
    books.fall_silent();
    assert_eq!(sub.unbind(&x), Err(BindError::Unconfirmed(unconfirmed)));
    assert_eq!(x.stage(), DeviceStage::Described, "the driver is gone all the same");
    books.recover();
    assert_eq!(
        sub.bind(&x, Arc::new(Keeper::default())),
        Ok(BindOutcome::Bound(Reach::Translated))
    );
    sub.unbind(&x).expect("confirmed");
    books.fall_silent();
    assert_eq!(sub.claim_group(&x, 9), Err(OwnerError::Unconfirmed(unconfirmed)));
    books.recover();
    assert_eq!(sub.claim_group(&x, 9), Err(OwnerError::Unconfirmed(unconfirmed)), "still in doubt");
    sub.reconfirm(A).expect("it answers again");
    assert_eq!(sub.claim_group(&x, 9), Ok(()));
    assert_eq!(sub.release_group(&x, 9), Ok(()));
    sub.bind(&x, Arc::new(Keeper::default())).expect("tried");
    books.fall_silent();
    assert_eq!(sub.remove_device(&x), Err(BindError::Unconfirmed(unconfirmed)));
    assert_eq!(x.stage(), DeviceStage::Gone, "it is removed all the same");
    assert_eq!(sub.unregister(A), Err(UnregisterError::Unconfirmed(unconfirmed)));
}
