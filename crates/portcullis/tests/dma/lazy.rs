//! Lazy unmaps: when a buffer comes back, and what is asked of hardware for that.

use super::{bind, page};
use crate::support::*;
use portcullis::*;
use portcullis_addr::Iova;
use portcullis_platform::host::HostPlatform;
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
    // Where the test took 10 ms there was one before that.
    assert!(lazy.asked() > before, "the 257th finds no room");
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
