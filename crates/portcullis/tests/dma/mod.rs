//! DMA handles: what is lent to a device, when it comes back, and what a handle can do after its driver is gone.

mod addresses;
mod lazy;

use super::support::*;
use portcullis::*;
use portcullis_addr::{Iova, IovaRange, PhysAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    let handle = bind(&sub, &x);
    Bound { sub, x, books, handle }
}

fn bind(sub: &Sub, device: &Arc<Device<Host>>) -> DmaHandle<Host> {
    let driver = Arc::new(Keeper::default());
    sub.bind(device, driver.clone()).expect("tried");
    driver.handle.lock().expect("test").take().expect("bound")
}

fn page(number: u64) -> Piece {
    Piece(0x8000_0000 + number * 0x1000, 0x1000)
}

#[test]
fn unbind_waits_for_whoever_is_inside_a_map() {
    let Bound { sub, x, books, handle } = bound();
    let _kept = handle.map(page(0), Both).expect("mapped");
    let unbound = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let other = handle.clone();
        let seen = Arc::clone(&unbound);
        let act = move || {
            // The unbind has begun as soon as the handle is void; this thread is inside a map.
            while other.live_mappings() != 0 {
                std::thread::yield_now();
            }
            assert!(!seen.load(Ordering::SeqCst), "it did not wait");
        };
        let inside = handle.clone();
        let (entered, wait) = std::sync::mpsc::channel();
        let mapper = scope.spawn(move || {
            ON_MAP.set(Some(Box::new(move || {
                entered.send(()).expect("the test waits");
                act();
            })));
            inside.map(page(1), Both)
        });
        wait.recv().expect("the map begins");
        sub.unbind(&x).expect("bound");
        unbound.store(true, Ordering::SeqCst);
        let mapping = mapper.join().expect("no panic").expect("it was inside first");
        assert_eq!(sub.counts().mappings, 0, "and what it mapped did not outlive the bind");
        let address = Iova::new(mapping.device_address());
        assert_eq!(books.translate(address), None, "nor is it in the table");
        assert_eq!(handle.unmap(mapping).expect("removed by the unbind"), page(1));
    });
}

#[test]
fn the_next_drivers_mapping_is_not_touched_through_an_old_handle() {
    let Bound { sub, x, books, handle: old } = bound();
    let stale = old.map(page(0), Both).expect("mapped");
    let address = stale.device_address();
    sub.unbind(&x).expect("bound");
    let new = bind(&sub, &x);
    let fresh = new.map(page(1), Both).expect("mapped");
    assert_eq!(fresh.device_address(), address, "the address is free again, or this tests nothing");
    assert_eq!(old.unmap(stale).expect("its driver is gone"), page(0));
    assert_eq!(books.translate(Iova::new(address)), Some(page(1).0));
    assert_eq!(sub.counts().mappings, 1);
}

#[test]
fn a_group_of_two_keeps_the_others_mappings_when_one_is_unbound() {
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    let y = sub.add_device(behind("/y", &[(A, 1)])).expect("added");
    let books = register(&sub, A);
    let (hx, hy) = (bind(&sub, &x), bind(&sub, &y));
    let first = hx.map(page(0), Both).expect("mapped");
    let other = hy.map(page(1), Both).expect("mapped");
    let last = hx.map(page(2), Both).expect("mapped");
    assert_eq!((hx.live_mappings(), hy.live_mappings()), (2, 1));
    assert!(matches!(hx.unmap(other), Err(UnmapFailure::Foreign(_))), "each its own");
    let before = books.invalidations.load(Ordering::Relaxed);
    sub.unbind(&x).expect("bound");
    assert_eq!(books.invalidations.load(Ordering::Relaxed), before + 1, "one for both mappings");
    assert_eq!(sub.counts().mappings, 1);
    assert_eq!((hx.live_mappings(), hy.live_mappings()), (0, 1));
    for mapping in [first, last] {
        assert_eq!(books.translate(Iova::new(mapping.device_address())), None);
        hx.unmap(mapping).expect("removed with its driver");
    }
    let fresh = bind(&sub, &x).map(page(3), Both).expect("mapped");
    assert_eq!(books.translate(Iova::new(fresh.device_address())), Some(page(3).0));
    assert_eq!(sub.counts().mappings, 2);
}

#[test]
fn a_handle_that_somebody_keeps_pins_neither_table_nor_iommu() {
    let Bound { sub, x, books, handle } = bound();
    let _mapping = handle.map(page(0), Both).expect("mapped");
    let table = {
        let spaces = books.spaces.lock().expect("books");
        Arc::downgrade(spaces.values().next().expect("attached"))
    };
    sub.unbind(&x).expect("bound");
    sub.unregister(A).expect("unused");
    assert!(table.upgrade().is_none(), "the table is freed");
    assert_eq!(Arc::strong_count(&books), 1, "the IOMMU is freed");
    assert_eq!(handle.reach(), Reach::Translated, "the handle is still there");
    assert_eq!(handle.map(page(0), Both).expect_err("void").error(), DmaError::Revoked);
}

#[test]
fn the_width_that_the_description_allows_is_a_ceiling_for_ever() {
    let sub = subsystem();
    let mut direct = DeviceDescription::new("/rtc", DmaPath::Direct);
    direct.address_bits = 32;
    let direct = sub.add_device(direct).expect("added");
    let handle = bind(&sub, &direct);
    assert_eq!(handle.set_address_bits(64), Ok(32));
    let above = Piece(0x1_0000_0000, 0x1000);
    let refused = handle.map(above, ToDevice).expect_err("out of reach");
    let MapFailure::Refused { buffer, error: DmaError::OutOfReach { bits: 32, .. } } = refused
    else {
        panic!("{refused}")
    };
    assert_eq!(buffer, above);
    let last = handle.map(Piece(0xffff_f000, 0x1000), ToDevice).expect("the last page below");
    assert_eq!(last.device_address(), 0xffff_f000);
    assert_eq!(handle.set_address_bits(16), Ok(16));
    assert!(handle.map(Piece(0xffff_f000, 0x1000), ToDevice).is_err());
    assert_eq!(handle.set_address_bits(0), Err(DmaError::AddressBits(0)));
    assert_eq!(handle.set_address_bits(65), Err(DmaError::AddressBits(65)));

    let mut translated = behind("/x", &[(A, 1)]);
    translated.address_bits = 20;
    let translated = sub.add_device(translated).expect("added");
    register(&sub, A);
    let handle = bind(&sub, &translated);
    assert_eq!(handle.set_address_bits(48), Ok(20));
    let mapping = handle.map(page(0), ToDevice).expect("mapped");
    assert!(mapping.device_address() < 1 << 20, "{mapping:?}");
}

#[test]
fn quarantine_ends_with_a_later_confirmation() {
    let Bound { sub, x, books, handle } = bound();
    let mapping = handle.map(page(0), Both).expect("mapped");
    books.fail(Call::Wait, SILENT);
    let Err(UnmapFailure::Quarantined(held)) = handle.unmap(mapping) else { panic!("not held") };
    assert!(matches!(held.error(), DmaError::Quarantined { len: 0x1000, node: A, .. }));
    let held = handle.recover(held).expect_err("still mute");
    assert_eq!((sub.counts().quarantined, sub.counts().mappings), (0x1000, 0));
    books.recover();
    assert_eq!(handle.recover(held).expect("confirmed"), page(0));
    assert_eq!(sub.counts().quarantined, 0);
    // The next time nobody asks before the driver goes, and its end is confirmed.
    let mapping = handle.map(page(1), Both).expect("mapped");
    books.fail(Call::Wait, SILENT);
    let Err(UnmapFailure::Quarantined(held)) = handle.unmap(mapping) else { panic!("not held") };
    books.recover();
    sub.unbind(&x).expect("bound");
    assert_eq!(sub.counts().quarantined, 0);
    assert_eq!(handle.recover(held).expect("confirmed by the unbind"), page(1));
}

#[test]
fn what_an_unbind_could_not_confirm_does_not_come_back() {
    let Bound { sub, x, books, handle } = bound();
    let mapping = handle.map(page(0), Both).expect("mapped");
    books.fail(Call::Wait, SILENT);
    books.fail(Call::UnbindSpace, SILENT);
    assert!(matches!(sub.unbind(&x), Err(BindError::Unconfirmed(_))));
    let refused = handle.unmap(mapping).expect_err("unconfirmed");
    assert!(matches!(refused, UnmapFailure::Quarantined(_)), "{refused}");
}

#[test]
fn giving_the_space_up_may_confirm_what_single_ranges_did_not() {
    let Bound { sub, x, books, handle } = bound();
    let mapping = handle.map(page(0), Both).expect("mapped");
    books.fail(Call::Wait, SILENT);
    assert_eq!(sub.unbind(&x), Ok(()));
    assert!(books.is_empty(), "the space went with its last driver");
    assert_eq!(handle.unmap(mapping).expect("confirmed after all"), page(0));
}

#[test]
fn a_map_that_mapped_nothing_gives_the_buffer_back_though_its_addresses_are_in_quarantine() {
    let Bound { sub, books, handle, .. } = bound();
    books.fail(Call::Wait, SILENT);
    let large = Piece(0x8020_0000, 0x20_0000);
    let refused = handle.map(large, Both).expect_err("an old table is in the way");
    let MapFailure::Refused { buffer, error: DmaError::Unconfirmed(_) } = refused else {
        panic!("{refused}")
    };
    assert_eq!(buffer, large);
    assert_eq!((sub.counts().quarantined, sub.counts().mappings), (0x20_0000, 0));
}

#[test]
fn unbinding_a_device_that_waits_takes_it_off_the_list() {
    let sub = subsystem();
    let before = sub.counts();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    for _ in 0..10 {
        assert_eq!(sub.bind(&x, Arc::new(Keeper::default())), Ok(BindOutcome::Deferred(A)));
        assert_eq!(sub.counts().waiters, 1);
        sub.unbind(&x).expect("waits");
        assert_eq!(sub.counts().waiters, before.waiters);
    }
}

/// `GITS_TRANSLATER` of QEMU's `virt` board.
const DOORBELL: PhysAddr = PhysAddr::new(0x809_0040);

/// A device with a doorbell behind an IOMMU that takes interrupts in `window`, if anywhere.
fn with_doorbell(window: Option<IovaRange>) -> Bound {
    let sub = Arc::new(subsystem());
    let doorbells = vec![DOORBELL];
    let description = DeviceDescription { doorbells, ..behind("/x", &[(A, 1)]) };
    let x = sub.add_device(description).expect("added");
    let books = Books::new();
    *books.window.lock().expect("books") = window;
    sub.register(A, Box::new(BookIommu(books.clone()))).expect("registered");
    sub.run_deferred();
    let handle = bind(&sub, &x);
    Bound { sub, x, books, handle }
}

#[test]
fn a_doorbell_that_is_translated_is_mapped_once_and_until_the_unbind() {
    let Bound { sub, x, books, handle } = with_doorbell(None);
    let address = handle.doorbell(DOORBELL).expect("described");
    assert_eq!(address.raw() & 0xfff, DOORBELL.raw() & 0xfff);
    assert_eq!(books.translate(address), Some(DOORBELL.raw()));
    assert_eq!(handle.doorbell(DOORBELL), Ok(address), "the same answer");
    assert_eq!(handle.live_mappings(), 1);
    let other = PhysAddr::new(DOORBELL.raw() + 4);
    assert_eq!(handle.doorbell(other), Err(DmaError::UnknownDoorbell(other)));
    sub.unbind(&x).expect("bound");
    assert_eq!(books.translate(address), None);
    assert_eq!(handle.doorbell(DOORBELL), Err(DmaError::Revoked));
}

#[test]
fn a_doorbell_of_a_device_without_an_iommu_is_where_it_is() {
    let sub = Arc::new(subsystem());
    let doorbells = vec![DOORBELL];
    let direct = DeviceDescription::new("/direct", DmaPath::Direct);
    let x = sub.add_device(DeviceDescription { doorbells, ..direct }).expect("added");
    let handle = bind(&sub, &x);
    assert_eq!(handle.doorbell(DOORBELL), Ok(Iova::new(DOORBELL.raw())));
}

/// As VT-d and AMD-Vi do: what is written there never reaches a table.
#[test]
fn a_doorbell_in_a_window_of_interrupts_is_where_it_is() {
    let window = IovaRange::new(Iova::new(0x800_0000), 0x10_0000).expect("a window");
    let Bound { books, handle, .. } = with_doorbell(Some(window));
    assert_eq!(handle.doorbell(DOORBELL), Ok(Iova::new(DOORBELL.raw())));
    assert_eq!((handle.live_mappings(), books.translate(Iova::new(DOORBELL.raw()))), (0, None));
}
