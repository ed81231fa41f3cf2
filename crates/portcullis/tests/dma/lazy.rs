//! Lazy unmaps: when a buffer comes back, and what is asked of hardware for that.

use super::{bind, page};
use crate::support::*;
use portcullis::*;
use portcullis_addr::Iova;
use portcullis_platform::host::HostPlatform;
use portcullis_platform::{Clock, Platform};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

struct Lazy {
    sub: Sub,
    x: Arc<Device<Host>>,
    books: Arc<Books>,
    handle: DmaHandle<Host>,
}

fn lazy(untrusted: bool) -> Lazy {
    let policy = Policy { default_domain: DomainType::DmaLazy };
    let sub = Subsystem::new(Arc::new(Host::over(HostPlatform::new(Arc::default()))), policy);
    let description = DeviceDescription { untrusted, ..behind("/x", &[(A, 1)]) };
    let x = sub.add_device(description).expect("added");
    let books = register(&sub, A);
    let handle = bind(&sub, &x);
    Lazy { sub, x, books, handle }
}

impl Lazy {
    fn asked(&self) -> usize {
        self.books.invalidations.load(Ordering::Relaxed)
    }

    fn park(&self, number: u64) -> Parked<Piece, Both> {
        let mapping = self.handle.map(page(number), Both).expect("mapped");
        self.handle.unmap_later(mapping).expect("unmapped")
    }
}

#[test]
fn many_buffers_come_back_by_one_invalidation() {
    let lazy = lazy(false);
    let before = lazy.asked();
    let parked: Vec<_> = (0..100).map(|number| lazy.park(number)).collect();
    assert_eq!(lazy.asked(), before, "nothing is asked for an unmap");
    assert_eq!((lazy.handle.live_mappings(), lazy.sub.counts().mappings), (0, 0));
    for (number, parked) in parked.into_iter().enumerate() {
        assert_eq!(lazy.handle.redeem(parked).expect("confirmed"), page(number as u64));
        assert_eq!(lazy.asked(), before + 1, "one for all");
    }
    assert_eq!(lazy.handle.flush(), Ok(()));
    assert_eq!(lazy.asked(), before + 1, "there is nothing to flush");
}

#[test]
fn addresses_are_not_given_out_again_before_a_flush() {
    let lazy = lazy(false);
    for number in 0..100 {
        // So that addresses come from slabs, the lowest free one first.
        let warm = lazy.handle.map(page(number), Both).expect("mapped");
        lazy.handle.unmap(warm).expect("confirmed");
    }
    let first = lazy.handle.map(page(0), Both).expect("mapped");
    let address = first.device_address();
    let parked = lazy.handle.unmap_later(first).expect("unmapped");
    assert_eq!(lazy.books.translate(Iova::new(address)), None, "it is out of the table");
    let others: Vec<_> =
        (1..10).map(|number| lazy.handle.map(page(number), Both).expect("mapped")).collect();
    let addresses: BTreeSet<_> = others.iter().map(DmaMapping::device_address).collect();
    assert!(!addresses.contains(&address));
    lazy.handle.redeem(parked).expect("confirmed");
    let again: BTreeSet<_> = (100..110)
        .map(|number| lazy.handle.map(page(number), Both).expect("mapped").device_address())
        .collect();
    assert!(again.contains(&address), "free again, or the test above says nothing");
}

#[test]
fn what_a_flush_does_not_confirm_stays_parked_and_comes_back_later() {
    let lazy = lazy(false);
    let parked = lazy.park(0);
    lazy.books.fail(Call::Wait, SILENT);
    let NotRedeemed { parked, error } = lazy.handle.redeem(parked).expect_err("silent");
    assert!(matches!(error, DmaError::Quarantined { len: 0x1000, node: A, .. }), "{error}");
    assert!(matches!(lazy.handle.flush(), Err(DmaError::NotFlushed(_))));
    lazy.books.recover();
    assert_eq!(lazy.handle.redeem(parked).expect("confirmed"), page(0));
}

#[test]
fn an_unbind_confirms_what_is_parked() {
    let lazy = lazy(false);
    let parked: Vec<_> = (0..20).map(|number| lazy.park(number)).collect();
    let before = lazy.asked();
    lazy.sub.unbind(&lazy.x).expect("bound");
    assert_eq!(lazy.asked(), before + 1, "for all of them");
    for (number, parked) in parked.into_iter().enumerate() {
        assert_eq!(lazy.handle.redeem(parked).expect("confirmed"), page(number as u64));
    }
    assert_eq!(lazy.handle.flush(), Err(DmaError::Revoked));
}

#[test]
fn a_cpu_that_has_parked_its_most_flushes() {
    let lazy = lazy(false);
    let before = lazy.asked();
    let parked: Vec<_> = (0..257).map(|number| lazy.park(number)).collect();
    assert!(lazy.asked() > before, "with the 256th");
    let asked = lazy.asked();
    for parked in parked {
        lazy.handle.redeem(parked).expect("confirmed");
    }
    assert!(lazy.asked() <= asked + 1);
}

#[test]
fn strict_is_the_default_and_stays_for_who_is_not_trusted() {
    let untrusted = lazy(true);
    let strict = subsystem();
    let x = strict.add_device(behind("/x", &[(A, 1)])).expect("added");
    let books = register(&strict, A);
    let by_default = Lazy { handle: bind(&strict, &x), sub: strict, x, books };
    for lazy in [untrusted, by_default] {
        let before = lazy.asked();
        let parked = lazy.park(0);
        assert_eq!(lazy.asked(), before + 1, "the unmap itself");
        assert_eq!(lazy.handle.redeem(parked).expect("confirmed"), page(0));
        assert_eq!(lazy.asked(), before + 1);
    }
}

#[test]
fn who_is_not_trusted_does_not_join_a_lazy_group_that_is_in_use() {
    let lazy = lazy(false);
    let late = DeviceDescription { untrusted: true, ..behind("/y", &[(A, 1)]) };
    let late = lazy.sub.add_device(late).expect("added");
    let outcome = lazy.sub.bind(&late, Arc::new(Keeper::default())).expect("tried");
    assert_eq!(outcome, BindOutcome::Blocked(BlockedReason::GroupIsLazy));
}

#[test]
fn a_parked_buffer_is_its_own_handles() {
    let (one, other) = (lazy(false), lazy(false));
    let parked = one.park(0);
    let NotRedeemed { parked, error } = other.handle.redeem(parked).expect_err("not its own");
    assert_eq!(error, DmaError::ForeignMapping);
    assert_eq!(one.handle.redeem(parked).expect("confirmed"), page(0));
}

#[test]
fn many_come_back_at_once_or_none() {
    let (lazy, other) = (lazy(false), lazy(false));
    let mut parked: Vec<_> = (0..100).map(|number| lazy.park(number)).collect();
    let before = lazy.asked();
    let mut back = Vec::new();
    lazy.handle.redeem_all(&mut parked, |piece| back.push(piece)).expect("confirmed");
    assert_eq!(back, (0..100).map(page).collect::<Vec<_>>());
    assert_eq!((parked.len(), lazy.asked()), (0, before + 1), "by one invalidation");
    parked.push(lazy.park(1));
    parked.push(other.park(2));
    let refused = lazy.handle.redeem_all(&mut parked, |_| panic!("one is another handle's"));
    assert_eq!((refused, parked.len()), (Err(DmaError::ForeignMapping), 2));
    assert_eq!(other.handle.redeem(parked.remove(1)).expect("confirmed"), page(2));
    lazy.books.fail(Call::Wait, SILENT);
    let refused = lazy.handle.redeem_all(&mut parked, |_| panic!("nothing is confirmed"));
    assert!(matches!(refused, Err(DmaError::Quarantined { .. })) && parked.len() == 1);
    lazy.books.recover();
    lazy.handle.redeem_all(&mut parked, |piece| assert_eq!(piece, page(1))).expect("confirmed");
}

#[test]
fn what_a_flush_did_not_confirm_counts_as_quarantined_before_anybody_redeems_it() {
    let lazy = lazy(false);
    let parked: Vec<_> = (0..3).map(|number| lazy.park(number)).collect();
    assert_eq!(lazy.sub.counts().quarantined, 0);
    lazy.books.fail(Call::Wait, SILENT);
    assert!(lazy.handle.flush().is_err());
    assert_eq!((lazy.sub.counts().quarantined, lazy.sub.counts().mappings), (0x3000, 0));
    lazy.books.recover();
    lazy.handle.flush().expect("confirmed");
    assert_eq!(lazy.sub.counts().quarantined, 0);
    drop(parked);
}

fn a_driver_that_has_stopped_is_flushed_for() {
    let lazy = lazy(false);
    assert_eq!((lazy.sub.next_flush_due(), lazy.sub.flush_overdue()), (None, 0));
    let parked = lazy.park(0);
    let before = lazy.asked();
    let due = lazy.sub.next_flush_due().expect("something waits");
    while lazy.sub.platform().clock().now() < due {
        std::thread::yield_now();
    }
    assert_eq!((lazy.sub.flush_overdue(), lazy.asked()), (1, before + 1));
    assert_eq!((lazy.sub.next_flush_due(), lazy.sub.flush_overdue()), (None, 0));
    lazy.handle.redeem(parked).expect("confirmed");
    assert_eq!(lazy.asked(), before + 1, "nothing is left to ask");
}

#[test]
fn a_timer_flushes_for_a_driver_that_has_stopped() {
    a_driver_that_has_stopped_is_flushed_for();
    assert!(notices(Safeguard::FlushInTime, a_driver_that_has_stopped_is_flushed_for));
}

#[test]
fn who_serves_deferred_work_is_that_timer() {
    let lazy = lazy(false);
    let before = lazy.asked();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| lazy.sub.serve_deferred(|| lazy.asked() > before));
        let parked = lazy.park(0);
        worker.join().expect("it wakes up and flushes");
        assert_eq!(lazy.sub.next_flush_due(), None);
        lazy.handle.redeem(parked).expect("confirmed");
    });
    assert_eq!(lazy.asked(), before + 1);
}

#[test]
fn a_flush_that_is_not_confirmed_is_due_again() {
    let lazy = lazy(false);
    let _parked = lazy.park(0);
    let due = lazy.sub.next_flush_due().expect("something waits");
    lazy.books.fail(Call::Wait, SILENT);
    while lazy.sub.flush_overdue() == 0 {
        std::thread::yield_now();
    }
    assert!(lazy.sub.next_flush_due().expect("it still waits") > due);
}
