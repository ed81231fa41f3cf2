//! Many boots with different seeds: the same picture every time, and every kind of race met on the way.

use super::promises::{Promises, Verdict};
use super::races::{Counts, KINDS};
use super::{BootOptions, Picture, boot};
use crate::screen::count as counted;
use portcullis_firmware::MachineDescription;
use portcullis_testbed::SoftwareMachine;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What many boots came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The board's name.
    pub board: String,
    /// Boots done.
    pub boots: u64,
    /// Boots asked for: more than were done if somebody interrupted them.
    pub asked: u64,
    /// Threads that probed, each time.
    pub cpus: usize,
    /// The first seed; the others follow.
    pub first_seed: u64,
    /// How the promises fared over all of them.
    pub promises: Vec<Verdict>,
    /// How often which kind of meeting was seen.
    pub races: Counts,
    /// The first seed with which a promise was broken.
    pub first_broken: Option<u64>,
    /// Wall time.
    pub elapsed: Duration,
}

impl Summary {
    /// Whether every promise held in every boot.
    pub fn held(&self) -> bool {
        self.promises.iter().all(|verdict| verdict.broken == 0)
    }
}

/// What a boot on one thread in the listed order ends with: what every other boot must end with too (P9).
pub fn calm_picture(description: &MachineDescription) -> Picture {
    boot(description, &SoftwareMachine::new(description, 0), BootOptions::CALM, None).1
}

/// How far `done` of `count` boots are after that time: "86 of 3000, 28 boots a second, 104 s left".
pub fn progress(done: u64, count: u64, passed: Duration) -> String {
    let rate = done as f64 / passed.as_secs_f64().max(1e-9);
    let left = count.saturating_sub(done) as f64 / rate.max(1e-9);
    format!(
        "{done} of {count}, {} a second, {left:.0} s left",
        counted(rate.round() as usize, "boot")
    )
}

/// Boots `count` software machines after `description`, with seeds from `options.seed` on, and compares each picture with that of a boot on one thread in the listed order.
/// `progress` is told after each. Ends early once `stop` is set, after the boot that is under way.
pub fn repeat(
    description: &MachineDescription,
    options: BootOptions,
    count: u64,
    stop: &AtomicBool,
    mut progress: impl FnMut(u64),
) -> Summary {
    let start = Instant::now();
    let expected = calm_picture(description);
    let promises = Promises::default();
    let mut races: Counts = [0; KINDS.len()];
    let mut first_broken = None;
    let mut boots = 0;
    while boots < count && !stop.load(Ordering::Relaxed) {
        let seed = options.seed.wrapping_add(boots);
        let machine = SoftwareMachine::with_preemption(description, seed);
        let machine = options.firmware_streams.apply(machine, description);
        let (report, _) =
            boot(description, &machine, BootOptions { seed, ..options }, Some(&expected));
        promises.absorb(&report.promises);
        races.iter_mut().zip(report.races).for_each(|(sum, seen)| *sum += seen);
        if !report.held() && first_broken.is_none() {
            first_broken = Some(seed);
        }
        boots += 1;
        progress(boots);
    }
    Summary {
        board: description.board.clone(),
        boots,
        asked: count,
        cpus: options.cpus,
        first_seed: options.seed,
        promises: promises.verdicts(),
        races,
        first_broken,
        elapsed: start.elapsed(),
    }
}
