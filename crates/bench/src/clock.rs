//! How long work takes, and how busy the machine is meanwhile.
#![expect(
    unsafe_code,
    reason = "the time of one thread and the processor it runs on are system calls"
)]

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Nanoseconds of this thread's processor time: what other programs on the machine take does not count, what they do to the caches does.
pub fn cpu_time() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer leads to a timespec of ours.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    assert_eq!(result, 0, "the clock exists");
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

/// Nanoseconds of processor time for each of `calls` calls that `work` makes.
pub fn time(calls: usize, work: impl FnOnce()) -> f64 {
    let start = cpu_time();
    work();
    (cpu_time() - start) / calls as f64
}

/// Wall time, in nanoseconds, from the first start to the last end of `work` on as many threads as there are `parts`, each on a processor of its own where there are as many. What each works on it has
/// made of its part before, by `prepare`. They begin together: each waits for the others awake, because one that must be woken begins up to 100 us later, and a measurement of that length would see the
/// others run alone.
pub fn wall_time<T: Send, S>(
    parts: Vec<T>,
    prepare: impl Fn(T) -> S + Sync,
    work: impl Fn(&mut S) + Sync,
) -> f64 {
    let (missing, prepare, work) = (&AtomicUsize::new(parts.len()), &prepare, &work);
    let run = move |place: usize, part: T| {
        stay_on(place);
        let mut own = prepare(part);
        missing.fetch_sub(1, Ordering::AcqRel);
        await_awake(|| missing.load(Ordering::Acquire) == 0);
        let from = Instant::now();
        work(&mut own);
        (from, Instant::now())
    };
    let spans: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
        let start = |(place, part)| scope.spawn(move || run(place, part));
        let threads: Vec<_> = parts.into_iter().enumerate().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let from = spans.iter().map(|span| span.0).min();
    let to = spans.iter().map(|span| span.1).max();
    to.zip(from).map_or(0.0, |(to, from)| (to - from).as_nanos() as f64)
}

/// Returns once `done`, without sleeping.
pub(crate) fn await_awake(done: impl Fn() -> bool) {
    /// So many looks, then the processor is left to others: perhaps who is waited for needs it.
    const LOOKS: u32 = 1 << 14;
    let mut looks = 0u32;
    while !done() {
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(LOOKS) { std::thread::yield_now() } else { std::hint::spin_loop() }
    }
}

/// Keeps this thread on one processor, the one with number `place` of those that it may use: two threads in turn on one processor are no measurement of two. Without effect where there are fewer.
#[cfg(target_os = "linux")]
fn stay_on(place: usize) {
    // SAFETY: a set of processors is plain bits, all of whose values are valid; both calls are told its size, and 0 is this thread.
    unsafe {
        let (mut usable, mut one): (libc::cpu_set_t, libc::cpu_set_t) = std::mem::zeroed();
        let size = size_of_val(&usable);
        if libc::sched_getaffinity(0, size, &raw mut usable) != 0 {
            return;
        }
        let mut numbers = (0..size * 8).filter(|&number| libc::CPU_ISSET(number, &usable));
        if let Some(number) = numbers.nth(place) {
            libc::CPU_SET(number, &mut one);
            // Refused: then the measurement is as good as the scheduler.
            let _ = libc::sched_setaffinity(0, size, &raw const one);
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn stay_on(_: usize) {}

/// How busy the machine was during a measurement, for whoever reads the figures. Begin before, print after.
#[derive(Debug)]
pub struct Load {
    start: Instant,
    cpu: f64,
}

impl Load {
    /// From now on.
    pub fn begin() -> Self {
        Self { start: Instant::now(), cpu: cpu_time() }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wall = self.start.elapsed().max(Duration::from_nanos(1)).as_nanos() as f64;
        let had = 100.0 * (cpu_time() - self.cpu) / wall;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        write!(f, "load: {processors} processors")?;
        if let Ok(text) = std::fs::read_to_string("/proc/loadavg") {
            let mut words = text.split(' ');
            let minute = words.next().unwrap_or("?");
            let runnable = words.nth(2).unwrap_or("?");
            write!(f, ", load average {minute}, runnable/all threads {runnable}")?;
        }
        write!(f, "; this thread had a processor for {had:.0} % of the time")
    }
}
