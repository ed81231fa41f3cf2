//! Nodes, groups and owners: who waits where, and what a call leaves of them.

use crate::support::*;
use crate::{Bound, bound, page};
use portcullis::*;
use portcullis_addr::{Iova, IovaRange, StreamId};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova::new(start), len).expect("a range")
}

fn fault(stream: u32) -> Fault {
    Fault {
        stream: StreamId::new(stream),
        pasid: None,
        reason: FaultReason::Translation,
        iova: None,
        access: None,
        stage: None,
        raw: [0; 4],
    }
}

#[test]
fn members_that_name_the_same_direct_region_share_it() {
    let sub = subsystem();
    let add = |path, start, len, kind| {
        let mut device = behind(path, &[(A, 5)]);
        device.reserved.push(ReservedRegion { range: range(start, len), kind });
        sub.add_device(device).expect("added")
    };
    let x = add("/x", 0x9000_0000, 0x4000, ReservedKind::Direct);
    let y = add("/y", 0x9000_0000, 0x4000, ReservedKind::Direct);
    let z = add("/z", 0x9000_2000, 0x4000, ReservedKind::Direct);
    let books = register(&sub, A);
    for device in [&x, &y, &z] {
        let outcome = sub.bind(device, Arc::new(Keeper::default()));
        assert_eq!(outcome, Ok(BindOutcome::Bound(Reach::Translated)));
    }
    for address in [0x9000_0000, 0x9000_3fff, 0x9000_5fff] {
        assert_eq!(books.translate(Iova::new(address)), Some(address));
    }
    assert_eq!(books.translate(Iova::new(0x9000_6000)), None);
}

#[test]
fn regions_that_contradict_each_other_block_the_group_with_both_named() {
    let sub = subsystem();
    let region = |start, kind| ReservedRegion { range: range(start, 0x4000), kind };
    let (direct, reserved) =
        (region(0x9000_0000, ReservedKind::Direct), region(0x9000_2000, ReservedKind::Reserved));
    let mut x = behind("/x", &[(A, 5)]);
    x.reserved.push(direct);
    let mut y = behind("/y", &[(A, 5)]);
    y.reserved.push(reserved);
    let (x, _y) = (sub.add_device(x).expect("added"), sub.add_device(y).expect("added"));
    let books = register(&sub, A);
    let conflict = SetUpError::RegionsConflict(direct, reserved);
    let outcome = sub.bind(&x, Arc::new(Keeper::default())).expect("tried");
    assert_eq!(outcome, BindOutcome::Blocked(BlockedReason::SetUp(conflict)));
    assert!(books.is_empty());
}

#[test]
fn what_hardware_keeps_to_itself_is_never_handed_out() {
    let Bound { sub, x, books, handle } = bound();
    let usual = handle.map(page(), Both).expect("mapped").device_address();
    sub.unbind(&x).expect("bound");
    sub.unregister(A).expect("idle");
    drop(books);
    let books = register(&sub, A);
    // Where the first mapping went, and a page below it.
    let kind = HardwareRegionKind::Reserved;
    let region = HardwareRegion { range: range(usual, 0x1000), kind };
    books.regions.lock().expect("books").push(region);
    *books.window.lock().expect("books") = Some(range(usual - 0x1000, 0x1000));
    let driver = Arc::new(Keeper::default());
    sub.bind(&x, driver.clone()).expect("bound");
    let handle = driver.handle.lock().expect("test").clone().expect("bound");
    let address = handle.map(page(), Both).expect("mapped").device_address();
    assert_eq!(address, usual - 0x2000);
}

#[test]
fn two_iommus_that_walk_different_formats_share_nothing() {
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1), (B, 1)])).expect("added");
    let (_a, b) = (register(&sub, A), register(&sub, B));
    b.second_stage.store(true, Ordering::Relaxed);
    let outcome = sub.bind(&x, Arc::new(Keeper::default())).expect("tried");
    let error = SetUpError::NoCommonGround(NotShared::Format);
    assert_eq!(outcome, BindOutcome::Blocked(BlockedReason::SetUp(error)));
}

#[test]
fn a_refused_unregistration_leaves_everything_as_before() {
    let sub = subsystem();
    // The first in line is the one that nobody uses.
    let _idle = sub.add_device(behind("/idle", &[(A, 2)])).expect("added");
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    let books = register(&sub, A);
    sub.run_deferred();
    sub.bind(&x, Arc::new(Keeper::default())).expect("bound");
    let before = (sub.counts(), books.target(2));
    assert!(matches!(before.1, Some(StreamTarget::Space(_))));
    assert_eq!(sub.unregister(A), Err(UnregisterError::Busy { path: "/x".into() }));
    assert_eq!((sub.counts().attached, books.target(2)), (before.0.attached, before.1));
    sub.run_deferred();
    assert_eq!(sub.counts(), before.0);
}

/// The first look finds nobody; then a driver is bound to a group whose turn has not come, while the idle one is being detached.
#[test]
fn a_driver_that_is_bound_during_the_unregistration_wins_and_the_others_get_their_domains_back() {
    let sub = Arc::new(subsystem());
    let _idle = sub.add_device(behind("/idle", &[(A, 1)])).expect("added");
    let late = sub.add_device(behind("/late", &[(A, 2)])).expect("added");
    let books = register(&sub, A);
    sub.run_deferred();
    let other = Arc::clone(&sub);
    books.within(Call::Release, move || {
        let outcome = other.bind(&late, Arc::new(Keeper::default()));
        assert_eq!(outcome, Ok(BindOutcome::Bound(Reach::Translated)));
    });
    assert_eq!(sub.unregister(A), Err(UnregisterError::Busy { path: "/late".into() }));
    assert_eq!(sub.counts().attached, 2);
    assert!(matches!(books.target(1), Some(StreamTarget::Space(_))));
}

/// As above, and a device that needs the IOMMU comes meanwhile: it waits, because the node is closed, and the refusal must wake it.
#[test]
fn who_waits_for_an_iommu_that_was_to_go_is_tried_when_it_stays() {
    let sub = Arc::new(subsystem());
    let _idle = sub.add_device(behind("/idle", &[(A, 1)])).expect("added");
    let late = sub.add_device(behind("/late", &[(A, 2)])).expect("added");
    let books = register(&sub, A);
    sub.run_deferred();
    let newcomer = sub.add_device(behind("/newcomer", &[(A, 3)])).expect("added");
    let (inside, waiting) = (Arc::clone(&sub), Arc::clone(&newcomer));
    books.within(Call::Release, move || {
        let bind = |device| inside.bind(device, Arc::new(Keeper::default()));
        assert_eq!(bind(&waiting), Ok(BindOutcome::Deferred(A)));
        assert_eq!(bind(&late), Ok(BindOutcome::Bound(Reach::Translated)));
    });
    assert_eq!(sub.unregister(A), Err(UnregisterError::Busy { path: "/late".into() }));
    sub.run_deferred();
    assert_eq!(newcomer.stage(), DeviceStage::Bound);
}

#[test]
fn a_device_waits_once_however_often_it_is_tried() {
    let sub = subsystem();
    let before = sub.counts();
    let x = sub.add_device(behind("/x", &[(A, 1), (B, 1)])).expect("added");
    for _ in 0..10 {
        sub.bind(&x, Arc::new(Keeper::default())).expect("tried");
        assert_eq!(sub.counts().waiters, 1);
        let _a = register(&sub, A);
        sub.run_deferred();
        assert_ne!(x.stage(), DeviceStage::Waiting(A));
        assert_eq!(sub.counts().waiters, 1, "at the other node now");
        sub.unregister(A).expect("idle");
        sub.fail_node(B, "not today");
        sub.run_deferred();
        assert_eq!(sub.counts().waiters, 1);
        sub.unbind(&x).expect("it waited");
        assert_eq!(sub.counts().waiters, 0);
    }
    sub.bind(&x, Arc::new(Keeper::default())).expect("tried");
    sub.remove_device(&x).expect("there");
    assert_eq!(sub.counts(), before);
}

#[test]
fn a_group_that_comes_back_from_its_owner_is_set_up_and_its_devices_are_tried() {
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    let y = sub.add_device(behind("/y", &[(A, 2)])).expect("added");
    let books = register(&sub, A);
    sub.run_deferred();
    for device in [&x, &y] {
        assert_eq!(sub.claim_group(device, 9), Ok(()));
    }
    let outcome = sub.bind(&x, Arc::new(Keeper::default())).expect("tried");
    assert_eq!(outcome, BindOutcome::Blocked(BlockedReason::OwnedOutside));
    for device in [&x, &y] {
        assert_eq!(sub.release_group(device, 9), Ok(()));
    }
    sub.run_deferred();
    assert_eq!(x.stage(), DeviceStage::Bound, "it was refused and gets its retry");
    assert!(matches!(books.target(2), Some(StreamTarget::Space(_))), "it has no driver");
}

/// A driver's set-up of one group waits for hardware; nobody who has nothing to do with that group waits with it.
#[test]
fn nothing_else_waits_while_a_group_waits_for_its_iommu() {
    let sub = Arc::new(subsystem());
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    let healthy = sub.add_device(behind("/healthy", &[(B, 1)])).expect("added");
    let hung = register(&sub, A);
    let reached = Arc::new(AtomicUsize::new(0));
    let (inside, seen) = (Arc::clone(&sub), Arc::clone(&reached));
    // On the same thread: a lock that is held around the call would show as a deadlock.
    hung.within(Call::Attach, move || {
        the_rest_goes_on(&inside, &healthy);
        seen.fetch_add(1, Ordering::Relaxed);
    });
    sub.bind(&x, Arc::new(Keeper::default())).expect("tried");
    assert_eq!(reached.load(Ordering::Relaxed), 1);
}

/// The same while an owner outside claims the group of a unit that hangs: the claim waits until the group's streams are blocked.
#[test]
fn nothing_else_waits_while_a_claim_waits_for_its_iommu() {
    let sub = Arc::new(subsystem());
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    let healthy = sub.add_device(behind("/healthy", &[(B, 1)])).expect("added");
    let hung = register(&sub, A);
    sub.run_deferred();
    let reached = Arc::new(AtomicUsize::new(0));
    let (inside, seen) = (Arc::clone(&sub), Arc::clone(&reached));
    hung.fall_silent();
    hung.within(Call::Release, move || {
        the_rest_goes_on(&inside, &healthy);
        seen.fetch_add(1, Ordering::Relaxed);
    });
    let unconfirmed = Unconfirmed { node: A, error: SILENT };
    assert_eq!(sub.claim_group(&x, 9), Err(OwnerError::Unconfirmed(unconfirmed)));
    assert_eq!(reached.load(Ordering::Relaxed), 1);
}

/// Everything that has nothing to do with the group of stream 1 at A, for which this thread waits.
fn the_rest_goes_on(sub: &Sub, healthy: &Arc<Device<Host>>) {
    sub.add_device(behind("/new", &[(B, 2)])).expect("added");
    sub.add_device(behind("/other", &[(A, 2)])).expect("added");
    let books = register(sub, B);
    let outcome = sub.bind(healthy, Arc::new(Keeper::default()));
    assert_eq!(outcome, Ok(BindOutcome::Bound(Reach::Translated)));
    hung_faults(sub, &books);
    assert_eq!(sub.device_of(A, StreamId::new(1)).expect("there").path(), "/x");
    let _handle = sub.interrupt_handle(A).expect("registered").collect();
}

/// However much is mapped, what waits for hardware is asked as often as for one mapping.
#[test]
fn an_unbind_asks_hardware_once_for_all_mappings() {
    let waits = [1, 500].map(|mappings| {
        let Bound { sub, x, books, handle } = bound();
        let held: Vec<_> =
            (0..mappings).map(|_| handle.map(page(), Both).expect("mapped")).collect();
        books.fall_silent();
        assert!(matches!(sub.unbind(&x), Err(BindError::Unconfirmed(_))));
        let waits = books.refusals();
        for mapping in held {
            let refused = handle.unmap(mapping).expect_err("not confirmed");
            assert!(matches!(refused, UnmapFailure::Quarantined(_)), "{refused}");
        }
        assert_eq!(books.refusals(), waits, "what was mapped is known to be in doubt");
        waits
    });
    assert_eq!(waits, [3, 3], "the ranges, the stream, and the space");
}

fn hung_faults(sub: &Sub, books: &Books) {
    books.faults.lock().expect("books").extend([fault(1), fault(2)]);
    let told = sub.drain_faults(B, |_, device| assert!(device.is_some()));
    assert_eq!(told.faults, 2);
    assert!(!sub.drain_faults(A, |_, _| unreachable!("it has none")).is_ours());
}

/// Two groups become one: their domains are given up, which waits for hardware, and nobody else waits with it.
#[test]
fn merging_groups_waits_for_hardware_alone() {
    let sub = Arc::new(subsystem());
    sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    sub.add_device(behind("/y", &[(A, 2)])).expect("added");
    let books = register(&sub, A);
    sub.run_deferred();
    let inside = Arc::clone(&sub);
    books.within(Call::Release, move || {
        let _books = register(&inside, B);
        let other = inside.add_device(behind("/other", &[(B, 1)])).expect("added");
        let outcome = inside.bind(&other, Arc::new(Keeper::default()));
        assert_eq!(outcome, Ok(BindOutcome::Bound(Reach::Translated)));
    });
    let z = sub.add_device(behind("/z", &[(A, 1), (A, 2)])).expect("added");
    assert_eq!(sub.counts().groups, 2);
    let outcome = sub.bind(&z, Arc::new(Keeper::default()));
    assert_eq!(outcome, Ok(BindOutcome::Bound(Reach::Translated)));
}

#[test]
fn an_interrupt_keeps_what_fits_and_a_thread_delivers_all_of_it() {
    let Bound { sub, books, .. } = bound();
    let handle = sub.interrupt_handle(A).expect("registered");
    books.faults.lock().expect("books").extend((0..100).map(|_| fault(1)));
    books.overflows.store(3, Ordering::Relaxed);
    let told = handle.collect();
    assert_eq!((told.faults, told.overflows, told.more), (64, 3, true));
    let again = handle.collect();
    assert_eq!((again.faults, again.overflows, again.more), (0, 0, true), "no room");
    let mut delivered = 0;
    let told = sub.drain_faults(A, |report, device| {
        assert_eq!((report.iommu, device.map(|it| it.path())), (A, Some("/x")));
        delivered += 1;
    });
    assert_eq!((told.faults, told.overflows, told.more, delivered), (100, 3, false, 100));
}

#[test]
fn an_interrupt_handle_that_somebody_keeps_keeps_nothing_of_the_iommu() {
    let sub = subsystem();
    let books = register(&sub, A);
    let handle = sub.interrupt_handle(A).expect("registered");
    sub.unregister(A).expect("idle");
    assert_eq!(Arc::strong_count(&books), 1, "the instance is gone");
    books.faults.lock().expect("books").push(fault(1));
    assert!(!handle.collect().is_ours());
    assert!(!handle.service(9, &mut |_| unreachable!("it is gone")).is_ours());
    assert!(sub.interrupt_handle(A).is_none());
}

#[test]
fn a_driver_that_misses_a_fault_is_counted() {
    let Bound { sub, x, books, .. } = bound();
    sub.unbind(&x).expect("bound");
    let seen = Arc::new(Mutex::new(0));
    let (inside, faults, told) = (Arc::clone(&sub), Arc::clone(&books), Arc::clone(&seen));
    // Within the set-up of a bind the device is busy.
    sub.claim_group(&x, 9).expect("idle");
    sub.release_group(&x, 9).expect("claimed");
    books.within(Call::Attach, move || {
        faults.faults.lock().expect("books").push(fault(1));
        let _all = inside.drain_faults(A, |_, device| {
            assert!(device.is_some());
            *told.lock().expect("test") += 1;
        });
    });
    sub.bind(&x, Arc::new(Keeper::default())).expect("bound");
    assert_eq!((sub.reports()[0].missed_faults, *seen.lock().expect("test")), (1, 1));
}

/// Groups that are merged one into the next form a chain; each link once cost a stack frame when it was dropped.
#[test]
fn a_long_chain_of_merged_groups_is_followed_and_dropped_without_recursion() {
    const LINKS: u32 = 60_000;
    let sub = subsystem();
    let single = |id: u32| sub.add_device(behind("/single", &[(A, id)])).expect("added");
    let devices: Vec<_> = (0..LINKS).map(single).collect();
    for id in (1..LINKS).rev() {
        sub.add_device(behind("/link", &[(A, id - 1), (A, id)])).expect("added");
    }
    let counts = sub.counts();
    assert_eq!((counts.groups, counts.devices), (1, 2 * LINKS as usize - 1));
    drop(sub);
    drop(devices);
}

#[test]
fn streams_under_masks_are_looked_up_not_compared_one_by_one() {
    const DEVICES: u32 = 20_000;
    let sub = subsystem();
    for n in 0..DEVICES {
        let stream = FwStream { iommu: A, id: StreamId::new(n << 4), mask: 0xf };
        let mut device = behind("/x", &[]);
        device.dma = DmaPath::Translated(FwSpec { streams: vec![stream] });
        sub.add_device(device).expect("added");
        sub.add_device(behind("/y", &[(A, n << 4 | 7)])).expect("added");
    }
    assert_eq!(sub.counts().groups, DEVICES as usize);
    let found = sub.device_of(A, StreamId::new((DEVICES - 1) << 4 | 9)).expect("the masked one");
    assert_eq!(found.id(), sub.device_of(A, StreamId::new((DEVICES - 1) << 4)).expect("same").id());
}

#[test]
fn looking_at_a_node_that_nobody_named_leaves_no_trace() {
    let sub = subsystem();
    for id in 0..1000 {
        assert_eq!(sub.node_state(FwNode(id)), NodeState::Absent);
        assert_eq!(sub.unregister(FwNode(id)), Err(UnregisterError::NotRegistered(FwNode(id))));
        assert!(sub.interrupt_handle(FwNode(id)).is_none());
    }
    assert_eq!(format!("{sub:?}").matches("nodes: 0").count(), 1, "{sub:?}");
}

#[test]
fn plugging_in_and_out_adds_nothing_up() {
    let sub = subsystem();
    register(&sub, A);
    let before = sub.counts();
    for _ in 0..20_000 {
        let x = sub.add_device(behind("/x", &[(A, 1), (A, 2)])).expect("added");
        sub.remove_device(&x).expect("there");
    }
    assert_eq!(sub.counts().devices, before.devices);
    let shown = format!("{sub:?}");
    assert!(shown.contains("devices: 0"), "{shown}");
}

/// Each of these tests fails on a core that lacks the safeguard which it is there for.
#[test]
fn a_safeguard_that_is_left_out_is_missed() {
    use crate::unconfirmed as said;
    let pairs: [(Safeguard, fn()); 7] = [
        (
            Safeguard::SayUnconfirmed,
            said::an_unbind_that_is_not_confirmed_leaves_its_page_in_quarantine_until_hardware_answers,
        ),
        (
            Safeguard::RestoreAfterRefusal,
            a_driver_that_is_bound_during_the_unregistration_wins_and_the_others_get_their_domains_back,
        ),
        (
            Safeguard::WakeAfterRefusal,
            who_waits_for_an_iommu_that_was_to_go_is_tried_when_it_stays,
        ),
        (
            Safeguard::EndAfterPanic,
            crate::callbacks::a_driver_that_panics_loses_its_device_and_nobody_else_does,
        ),
        (Safeguard::WaitOnce, a_device_waits_once_however_often_it_is_tried),
        (
            Safeguard::WakeOnRelease,
            a_group_that_comes_back_from_its_owner_is_set_up_and_its_devices_are_tried,
        ),
        (Safeguard::RefuseWhileBound, a_refused_unregistration_leaves_everything_as_before),
    ];
    for (safeguard, test) in pairs {
        assert!(notices(safeguard, test), "{safeguard}");
    }
}

/// A device with a stream of its own that nothing isolates from the others of `set`.
fn beside(path: &str, stream: u32, set: u64) -> DeviceDescription {
    DeviceDescription { isolation: Some(IsolationSet(set)), ..behind(path, &[(A, stream)]) }
}

#[test]
fn devices_that_nothing_isolates_share_a_group_though_their_streams_differ() {
    let sub = subsystem();
    let add = |device| sub.add_device(device).expect("added");
    let [x, y, other] = [("/x", 1, 7), ("/y", 2, 7), ("/other", 3, 8)]
        .map(|(path, id, set)| add(beside(path, id, set)));
    let alone = add(behind("/alone", &[(A, 4)]));
    let books = register(&sub, A);
    sub.run_deferred();
    let groups: Vec<_> = sub.reports().into_iter().map(|it| (it.path, it.group)).collect();
    let expected = [("/alone", 0), ("/other", 1), ("/x", 2), ("/y", 2)];
    assert_eq!(groups, expected.map(|(path, group)| (path.to_owned(), Some(group))));
    // All of it is led to one space before any driver is there, and what one maps the other reaches.
    let driver = Arc::new(Keeper::default());
    assert_eq!(sub.bind(&x, driver.clone()), Ok(BindOutcome::Bound(Reach::Translated)));
    assert_eq!(books.target(1), books.target(2));
    assert_ne!(books.target(1), books.target(3));
    // Nobody outside gets one of them while a driver here has another.
    assert_eq!(sub.claim_group(&y, 9), Err(OwnerError::Busy));
    assert_eq!(sub.claim_group(&other, 9), Ok(()));
    assert_eq!(sub.claim_group(&alone, 9), Ok(()));
}

#[test]
fn an_isolation_set_joins_groups_of_streams_and_goes_with_its_last_device() {
    let sub = subsystem();
    let add = |device| sub.add_device(device).expect("added");
    let group = |device: &Arc<Device<_>>| {
        let path = device.description().path.clone();
        let report = sub.reports().into_iter().find(|report| report.path == path);
        report.expect("reported").group
    };
    let first = add(behind("/first", &[(A, 1)]));
    let set = add(beside("/set", 2, 7));
    assert_ne!(group(&first), group(&set));
    // One with the stream of the first and the set of the second: all are one.
    let both = add(beside("/both", 1, 7));
    assert_eq!((group(&first), group(&both)), (group(&set), group(&set)));
    for device in [&set, &both] {
        sub.remove_device(device).expect("there");
    }
    let late = add(beside("/late", 3, 7));
    assert_ne!(group(&late), group(&first), "nobody is left whom it is not isolated from");
}

#[test]
fn a_device_that_would_join_a_group_in_use_by_its_set_stays_blocked() {
    let sub = subsystem();
    let add = |device| sub.add_device(device).expect("added");
    let first = add(behind("/first", &[(A, 1)]));
    let _set = add(beside("/set", 2, 7));
    register(&sub, A);
    assert_eq!(
        sub.bind(&first, Arc::new(Keeper::default())),
        Ok(BindOutcome::Bound(Reach::Translated))
    );
    let both = add(beside("/both", 1, 7));
    let blocked = BindOutcome::Blocked(BlockedReason::JoinsGroupsInUse);
    assert_eq!(sub.bind(&both, Arc::new(Keeper::default())), Ok(blocked));
    // It left nothing behind: the set is its own again.
    let late = add(beside("/late", 3, 7));
    assert_eq!(
        sub.bind(&late, Arc::new(Keeper::default())),
        Ok(BindOutcome::Bound(Reach::Translated))
    );
}
