//! Where mappings are put, and whose the addresses are, once a lease has slabs.

use super::{Bound, bind, bound, page};
use crate::support::*;
use portcullis::*;
use portcullis_addr::{Iova, IovaRange};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// More than a lease takes from the tree before it has slabs, and than one slab holds.
const MANY: u64 = 300;

/// As [`page`], `count` of them.
fn pages(number: u64, count: u64) -> Piece {
    Piece(page(number).0, count * 0x1000)
}

fn map_many(handle: &DmaHandle<Host>) -> Vec<DmaMapping<Piece, Both>> {
    // One, two and four pages in turn.
    let piece = |number: u64| pages(8 * number, 1 << (number % 3));
    (0..MANY).map(|number| handle.map(piece(number), Both).expect("mapped")).collect()
}

#[test]
fn an_unbind_removes_what_slabs_have_handed_out_with_one_invalidation() {
    let Bound { sub, x, books, handle } = bound();
    let mappings = map_many(&handle);
    let starts: BTreeSet<u64> = mappings.iter().map(DmaMapping::device_address).collect();
    assert_eq!(starts.len(), MANY as usize, "no address twice");
    assert_eq!((handle.live_mappings(), sub.counts().mappings), (MANY as usize, MANY as usize));
    let before = books.invalidations.load(Ordering::Relaxed);
    sub.unbind(&x).expect("bound");
    assert_eq!(books.invalidations.load(Ordering::Relaxed), before + 1);
    assert_eq!(sub.counts().mappings, 0);
    for mapping in mappings {
        assert_eq!(books.translate(Iova::new(mapping.device_address())), None);
        handle.unmap(mapping).expect("removed by the unbind");
    }
}

#[test]
fn two_drivers_of_one_group_have_slabs_of_their_own() {
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    let y = sub.add_device(behind("/y", &[(A, 1)])).expect("added");
    let books = register(&sub, A);
    let (hx, hy) = (bind(&sub, &x), bind(&sub, &y));
    let (of_x, of_y) = (map_many(&hx), map_many(&hy));
    assert_eq!(sub.counts().mappings, 2 * MANY as usize);
    sub.unbind(&x).expect("bound");
    assert_eq!((hy.live_mappings(), sub.counts().mappings), (MANY as usize, MANY as usize));
    for mapping in of_x {
        assert_eq!(books.translate(Iova::new(mapping.device_address())), None);
    }
    for mapping in of_y {
        let led = books.translate(Iova::new(mapping.device_address()));
        let piece = hy.unmap(mapping).expect("its own");
        assert_eq!(led, Some(piece.0));
    }
    assert_eq!(sub.counts().mappings, 0);
}

#[test]
fn a_quarantined_range_of_a_slab_is_counted_and_comes_back() {
    let Bound { sub, books, handle, .. } = bound();
    let mut mappings = map_many(&handle);
    let one = mappings.pop().expect("many");
    let (address, len) = (one.device_address(), one.len());
    books.fail(Call::Wait, SILENT);
    let Err(UnmapFailure::Quarantined(held)) = handle.unmap(one) else { panic!("not held") };
    books.recover();
    assert_eq!((sub.counts().quarantined, handle.live_mappings()), (len, MANY as usize - 1));
    let next = handle.map(pages(4000, len / 0x1000), Both).expect("mapped");
    assert_ne!(next.device_address(), address, "not before it is confirmed");
    handle.recover(held).expect("confirmed");
    assert_eq!(sub.counts().quarantined, 0);
    let again = handle.map(pages(5000, len / 0x1000), Both).expect("mapped");
    assert_eq!(again.device_address(), address, "free again, or the test above says nothing");
}

/// The device's limit, and what firmware keeps for others, hold for slabs as for the tree.
#[test]
fn limits_and_reserved_ranges_hold_when_slabs_serve() {
    let sub = subsystem();
    let kept = IovaRange::new(Iova::new(0x8000_0000), 0x4000_0000).expect("a range");
    let mut described = behind("/x", &[(A, 1)]);
    described.reserved = vec![ReservedRegion { range: kept, kind: ReservedKind::Reserved }];
    let x = sub.add_device(described).expect("added");
    register(&sub, A);
    let handle = bind(&sub, &x);
    let check = |limit: u64| {
        for mapping in map_many(&handle) {
            let range = IovaRange::new(Iova::new(mapping.device_address()), mapping.len());
            let range = range.expect("mapped");
            assert!(!range.overlaps(&kept), "{range} is reserved");
            assert!(range.last().raw() <= limit, "{range} is above {limit:#x}");
            assert!(range.start().is_aligned(range.len()), "{range} is not aligned to its size");
            assert_ne!(range.start().raw(), 0, "the first page is nobody's");
        }
    };
    check(u64::MAX);
    for bits in [40, 32, 31, 24] {
        assert_eq!(handle.set_address_bits(bits), Ok(bits));
        check((1 << bits) - 1);
    }
}

/// A driver that has 4 GiB less a little in one size gets another size out of the chunks that have become free.
#[test]
fn addresses_that_slabs_do_not_use_serve_other_requests() {
    let Bound { handle, .. } = bound();
    assert_eq!(handle.set_address_bits(32), Ok(32));
    let large = 0x40_0000;
    let fill = |piece: u64| {
        let mut held = Vec::new();
        while let Ok(mapping) = handle.map(Piece(0x1_0000_0000, piece), Both) {
            held.push(mapping);
        }
        held
    };
    let first = fill(large);
    // All but the first page, which is nobody's, and what is left of its 4 MiB.
    assert_eq!(first.len(), 1023);
    for mapping in first {
        handle.unmap(mapping).expect("confirmed");
    }
    let small: Vec<_> = fill(0x20_0000);
    assert!(small.len() >= 2046, "{}", small.len());
    for mapping in small {
        handle.unmap(mapping).expect("confirmed");
    }
    assert_eq!(fill(large).len(), 1023, "the chunks of the small ones went back");
}

/// Memory of a kind.
struct Of(Piece, MemoryKind);

// SAFETY: no device of these tests moves data.
#[expect(unsafe_code, reason = "lends addresses without memory")]
unsafe impl Lendable for Of {
    fn range(&self) -> portcullis_addr::PhysRange {
        self.0.range()
    }
    fn kind(&self) -> MemoryKind {
        self.1
    }
}

#[test]
fn memory_of_another_function_is_refused_and_a_list_is_of_one_kind() {
    let Bound { handle, .. } = bound();
    let error = handle.map(Of(page(0), MemoryKind::Peer), Both).map(drop).expect_err("refused");
    assert_eq!(error.error(), DmaError::PeerMemory(page(0).range().start()));
    let mixed = vec![Of(page(0), MemoryKind::Ram), Of(page(1), MemoryKind::Registers)];
    let mixed = BufferList::new(mixed).expect("not empty");
    let error = handle.map_list(mixed, Both).map(drop).expect_err("refused").error();
    assert_eq!(error, DmaError::MixedKinds);
    let peers = vec![Of(page(0), MemoryKind::Ram), Of(page(1), MemoryKind::Peer)];
    let peers = BufferList::new(peers).expect("not empty");
    let error = handle.map_list(peers, Both).map(drop).expect_err("refused").error();
    assert!(matches!(error, DmaError::PeerMemory(_)), "{error}");
    assert!(BufferList::<Piece>::new(Vec::new()).is_none());
    assert_eq!(handle.live_mappings(), 0);
}

/// Without translation a list's segments are where its memory is.
#[test]
fn a_list_of_a_direct_device_is_where_its_memory_is() {
    let sub = subsystem();
    let mut direct = DeviceDescription::new("/rtc", DmaPath::Direct);
    direct.address_bits = 32;
    let direct = sub.add_device(direct).expect("added");
    let handle = bind(&sub, &direct);
    let list = |last: u64| {
        BufferList::new(vec![Piece(0x1000, 0x800), Piece(0x1800, 0x1000), Piece(last, 0x10)])
    };
    let mapping = handle.map_list(list(0x9000).expect("three"), Both).expect("in reach");
    let segments: Vec<_> = mapping.segments().map(|s| (s.address, s.len)).collect();
    assert_eq!(segments, [(0x1000, 0x1800), (0x9000, 0x10)]);
    assert_eq!(handle.unmap(mapping).expect("nothing to do").buffers().len(), 3);
    let far = handle.map_list(list(0x1_0000_0000).expect("three"), Both).map(drop);
    assert!(matches!(far.expect_err("too far").error(), DmaError::OutOfReach { bits: 32, .. }));
}

#[test]
fn addresses_that_cpus_keep_are_given_back_before_a_map_finds_no_room() {
    let Bound { handle, .. } = bound();
    // 255 pages, the first one being nobody's.
    handle.set_address_bits(20).expect("sound");
    let all = |handle: &DmaHandle<Host>| {
        (1..256).map(|number| handle.map(page(number), Both).expect("room")).collect::<Vec<_>>()
    };
    // In an order that leaves what is kept scattered, by threads that have left.
    let (even, odd): (Vec<_>, Vec<_>) =
        all(&handle).into_iter().enumerate().partition(|(number, _)| number % 16 == 0);
    for (_, mapping) in odd {
        handle.unmap(mapping).expect("confirmed");
    }
    std::thread::scope(|scope| {
        let other = handle.clone();
        scope.spawn(move || {
            for (_, mapping) in even {
                other.unmap(mapping).expect("confirmed");
            }
        });
    });
    assert_eq!(handle.live_mappings(), 0, "what is kept is nobody's mapping");
    let run = handle.map(pages(300, 255), Both).expect("all of it is free");
    handle.unmap(run).expect("confirmed");
    assert_eq!(all(&handle).len(), 255);
}
