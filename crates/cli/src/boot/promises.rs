//! The promises that a boot checks, with how often, and what broke one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Failures of one promise that are kept in full; more are only counted.
const KEPT: usize = 20;

/// Id and words of every promise that a boot can check.
pub const PROMISES: [(&str, &str); 8] = [
    ("P1", "a driver runs only when its device's DMA path is final, and the path does not change"),
    ("P2", "a device behind an IOMMU reaches memory only through it; errors end blocked"),
    ("P3", "after an unmap the address is refused, and the refusal is reported"),
    ("P4", "no frame is reachable after it went back to its owner"),
    ("P5", "hardware never reads a mixture of two table entries or a register in use"),
    ("P6", "no wake-up is lost, and nobody is retried for nothing"),
    ("P7", "taken down again, every counter is where it was before"),
    ("P9", "any order of arrival gives the same final picture"),
];

/// How one promise fared.
#[derive(Debug, Default)]
struct Tally {
    checked: AtomicU64,
    broken: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// How all promises fared. Shared by the threads of a boot, and summed up over many.
#[derive(Debug, Default)]
pub struct Promises {
    tallies: [Tally; PROMISES.len()],
}

/// One promise's line of the summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `"P1"` to `"P9"`.
    pub id: &'static str,
    /// What is promised.
    pub words: &'static str,
    /// How often it was looked at.
    pub checked: u64,
    /// How often it did not hold.
    pub broken: u64,
    /// What happened, the first few times.
    pub failures: Vec<String>,
}

impl Promises {
    /// Records one look at promise `id`; `what` says what went wrong.
    ///
    /// # Panics
    ///
    /// For an id that is not in [`PROMISES`].
    pub fn check(&self, id: &str, held: bool, what: impl FnOnce() -> String) {
        let index = PROMISES.iter().position(|(known, _)| *known == id).expect("a known promise");
        let tally = &self.tallies[index];
        tally.checked.fetch_add(1, Ordering::Relaxed);
        if !held {
            tally.broken.fetch_add(1, Ordering::Relaxed);
            let mut failures = tally.failures.lock().unwrap_or_else(PoisonError::into_inner);
            if failures.len() < KEPT {
                failures.push(what());
            }
        }
    }

    /// Adds what `other` found.
    pub fn absorb(&self, other: &[Verdict]) {
        for (tally, verdict) in self.tallies.iter().zip(other) {
            tally.checked.fetch_add(verdict.checked, Ordering::Relaxed);
            tally.broken.fetch_add(verdict.broken, Ordering::Relaxed);
            let mut failures = tally.failures.lock().unwrap_or_else(PoisonError::into_inner);
            let room = KEPT.saturating_sub(failures.len());
            failures.extend(verdict.failures.iter().take(room).cloned());
        }
    }

    /// How each fared, in the order of [`PROMISES`].
    pub fn verdicts(&self) -> Vec<Verdict> {
        let verdict = |((id, words), tally): (&(&'static str, &'static str), &Tally)| Verdict {
            id,
            words,
            checked: tally.checked.load(Ordering::Relaxed),
            broken: tally.broken.load(Ordering::Relaxed),
            failures: tally.failures.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        PROMISES.iter().zip(&self.tallies).map(verdict).collect()
    }
}
