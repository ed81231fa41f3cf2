//! The SMMUv3 command queue alone: what an invalidation and its CMD_SYNC cost, on registers that act at once.

use crate::clock::{await_awake, time, wall_time};
use crate::instant::{InstantSmmu, platform, unit};
use portcullis::{FormatSupport, IommuOps, SpaceFormat, SpaceRequest, SpaceTag};
use portcullis_addr::{Iova, PageSize, PageSizes};
use portcullis_pgtable::{FlushRange, IotlbGather, TableFormat};
use std::sync::atomic::{AtomicU64, Ordering};

/// A unit with one address space.
#[derive(Debug)]
pub struct Queue {
    unit: InstantSmmu,
    tag: SpaceTag,
}

impl Queue {
    /// `ranges`: a unit with range invalidation; without it each page is a command.
    ///
    /// # Panics
    ///
    /// If the driver refuses the space.
    pub fn new(ranges: bool) -> Self {
        let unit = unit(&platform(), ranges);
        let support = FormatSupport {
            format: SpaceFormat::Table(TableFormat::ArmLpaeStage1),
            page_sizes: PageSizes::from_bitmap(0x4020_1000),
            input_bits: 48,
            output_bits: 48,
        };
        let space = unit.create_space(&SpaceRequest { support, coherent_walk: true });
        let tag = unit.bind_space(&space.expect("the unit walks this format"));
        Self { tag: tag.expect("an ASID is free"), unit }
    }

    /// Invalidates `pages` pages, `calls` times, as the core does after an unmap.
    fn run(&self, pages: u64, calls: usize) {
        for call in 0..calls as u64 {
            let start = Iova::new((call % 4096) << 21);
            let last = Iova::new(start.raw() + pages * 4096 - 1);
            let mut gather = IotlbGather::new();
            gather.add(FlushRange { start, last, leaf: PageSize::SIZE_4K, tables_freed: false });
            self.unit.invalidate(self.tag, &gather).expect("consumed at once");
            drop(gather.confirm());
        }
    }

    /// Nanoseconds a call.
    pub fn calls(&self, pages: u64, calls: usize) -> f64 {
        time(calls, || self.run(pages, calls))
    }

    /// Two threads on the queue: wall nanoseconds a call in total, one thread alone and both at once, best of `rounds`.
    pub fn two_threads(&self, pages: u64, rounds: usize) -> (f64, f64) {
        const CALLS: usize = 20_000;
        let (mut alone, mut together) = (f64::MAX, f64::MAX);
        let (nothing, work) = (|()| (), |(): &mut ()| self.run(pages, CALLS));
        for _ in 0..rounds {
            alone = alone.min(wall_time(vec![()], nothing, work) / CALLS as f64);
            together = together.min(wall_time(vec![(); 2], nothing, work) / (2 * CALLS) as f64);
        }
        (alone, together)
    }
}

/// Nanoseconds until one processor has seen what another has written, and owns the cache line: two threads count in turn, best of `rounds`. No queue in memory can change producers faster.
pub fn hand_over(rounds: usize) -> f64 {
    #[repr(align(128))]
    struct Line(AtomicU64);
    const TURNS: u64 = 4000;
    let round = |_| {
        let line = Line(AtomicU64::new(0));
        let count = |first: &mut u64| {
            for turn in (*first..TURNS).step_by(2) {
                await_awake(|| line.0.load(Ordering::Acquire) == turn);
                line.0.store(turn + 1, Ordering::Release);
            }
        };
        wall_time(vec![0, 1], |first| first, count) / TURNS as f64
    };
    (0..rounds).map(round).fold(f64::MAX, f64::min)
}
