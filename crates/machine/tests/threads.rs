//! Many threads at once: no access survives the invalidation that covers it, whatever was under way.

use crate::rig::{self, ASID, LEAF, Rig};
use portcullis_addr::{Iova, PhysAddr, StreamId};
use portcullis_machine::{
    DmaRequest, Machine, MachinePlatform, Policy, Profile, TimeSource, Violation,
};
use portcullis_platform::host::HostThreads;
use portcullis_platform::{Clock, DmaMemory, DmaPages, Platform};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const VA: u64 = 0x5000;

/// Looks until it holds, giving the other threads a turn in between, at most `looks` times.
fn some_time(looks: u32, holds: impl Fn() -> bool) -> bool {
    (0..looks).any(|_| {
        std::thread::yield_now();
        holds()
    })
}

/// Devices write without pause while their page is unmapped together with its table, invalidated and freed, and mapped again elsewhere. With the
/// invalidation nobody is ever seen in freed memory, walkers included; without it somebody is.
fn storm(invalidate: bool) -> Vec<Violation> {
    let policy = Policy { verify_hits: false, ..Policy::default() };
    let mut rig = Rig::new(Profile::qemu10(), policy);
    rig.stage1();
    rig.map(rig.root, 0, VA, 0);
    let level1 = rig.get(rig.root) & !0xfff;
    let level2 = rig.get(level1) & !0xfff;
    rig.put(level2, &[0]);
    let stop = AtomicBool::new(false);
    // Set on the way out of a panic too, or the scope would wait for ever.
    struct StopOnDrop<'a>(&'a AtomicBool);
    impl Drop for StopOnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let landed = AtomicU64::new(0);
    let machine = std::sync::Arc::clone(&rig.machine);
    let device = std::sync::Arc::clone(&rig.device);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let request = DmaRequest::write(Iova::new(VA), b"storm");
                    if machine.dma_of(&device, request).is_completed() {
                        landed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let _stop = StopOnDrop(&stop);
        let page = rig::layout(4096, 4096);
        for _ in 0..40 {
            let frame = rig.memory.allocate(page).expect("one page");
            let table = rig.memory.allocate(page).expect("another");
            rig.put(table.raw() + 8 * (VA >> 12), &[frame.raw() | LEAF]);
            rig.put(level2, &[table.raw() | 3]);
            let before = landed.load(Ordering::Relaxed);
            assert!(some_time(2_000_000, || landed.load(Ordering::Relaxed) > before), "no storm");
            rig.put(level2, &[0]);
            if invalidate {
                rig.commands(&[[0x12 | ASID << 48, VA]]);
            }
            rig.memory.free(frame, page);
            rig.memory.free(table, page);
            // Time for the storm to find the freed frame, if it can.
            let before = landed.load(Ordering::Relaxed);
            some_time(200, || landed.load(Ordering::Relaxed) > before);
        }
    });
    machine.violations()
}

#[test]
fn a_confirmed_invalidation_is_final() {
    let found = storm(true);
    assert!(found.is_empty(), "{} violations, the first: {}", found.len(), found[0]);
}

#[test]
fn without_it_freed_memory_is_reached() {
    let found = storm(false);
    assert!(found.iter().any(|v| matches!(v, Violation::FreedMemory { .. })));
}

#[test]
fn units_work_side_by_side() {
    let machine = rig::machine(Policy::default());
    std::thread::scope(|scope| {
        for index in 0..4u64 {
            let machine = std::sync::Arc::clone(&machine);
            scope.spawn(move || {
                let mut rig = Rig::on(machine, Profile::qemu10());
                rig.stage1();
                for page in 0..200 {
                    let frame = rig.page();
                    rig.map(rig.root, 0, VA + page * 0x1000, frame | LEAF);
                    let word = (index << 32 | page).to_le_bytes();
                    assert!(rig.write(VA + page * 0x1000, &word).is_completed());
                    assert_eq!(rig.get(frame), index << 32 | page);
                    if page % 8 == 0 {
                        rig.commands(&[[0x30, 0]]);
                    }
                }
            });
        }
    });
    assert_eq!(machine.violations(), []);
    assert_eq!(machine.oracle().passed_count(), 800);
}

#[test]
fn it_is_a_platform() {
    let machine =
        Machine::builder().ram(PhysAddr::new(0x8000_0000), 1 << 20).time(TimeSource::Host).build();
    let platform = MachinePlatform::<HostThreads>::new(&machine);
    let layout = portcullis_platform::PageLayout::naturally_aligned(0x3000).expect("not empty");
    let pages = DmaPages::new(platform.memory(), layout).expect("room for 16 KiB");
    assert!(pages.address().is_aligned(0x4000));
    pages.store64(8, 5);
    assert_eq!(platform.memory().load64(PhysAddr::new(pages.address().raw() + 8)), 5);
    assert_eq!(machine.usage().live, 1);
    drop(pages);
    assert_eq!(machine.usage().live, 0);
    let before = platform.clock().now();
    while platform.clock().now() == before {
        platform.clock().relax();
    }
    let free = machine.add_device("d", &[]);
    assert!(free.ports().is_empty() && free.name() == "d");
    assert!(machine.device(free.id()).is_some());
    let smmu = machine.add_smmuv3(Profile::minimal());
    let client = machine.add_client("c", &smmu, StreamId::new(1));
    assert_eq!(client.ports()[0].id, StreamId::new(1));
}
