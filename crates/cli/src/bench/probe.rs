//! `portcullis bench probe`: what the probe protocol itself costs, and how it scales.

use super::null::NullIommu;
use portcullis::{
    BoundDriver, Device, DeviceDescription, DmaHandle, DmaPath, Driver, FwNode, FwSpec, FwStream,
    Policy, ProbeContext, ProbeError, Subsystem,
};
use portcullis_addr::StreamId;
use portcullis_bench::clock::{Load, cpu_time};
use portcullis_platform::host::{HostPlatform, NoMemory};
use portcullis_testbed::Random;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct ProbeBench {
    /// Largest number of clients of the scale runs.
    pub most_clients: usize,
    /// Rounds of which the best counts.
    pub rounds: usize,
}

/// Nothing is mapped here.
type Host = HostPlatform<NoMemory>;

struct FreeDriver;

impl BoundDriver for FreeDriver {}

impl Driver<Host> for FreeDriver {
    fn name(&self) -> &str {
        "free"
    }
    fn probe(
        &self,
        _: &ProbeContext<'_>,
        _: DmaHandle<Host>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        Ok(Box::new(Self))
    }
}

/// One run: who arrives in which order, and what came out.
struct Run {
    clients: usize,
    iommus: usize,
    threads: usize,
    set_up: Duration,
    /// Whether IOMMUs come first rather than anywhere.
    iommus_first: bool,
    /// Whether one call binds all clients that arrive between two IOMMUs.
    together: bool,
}

struct Outcome {
    /// Wall time.
    elapsed: Duration,
    /// Processor time of the calling thread, which is all of it where there is no other: other programs do not count.
    cpu: Duration,
    most_defers: u32,
    unbound: usize,
}

enum Arrival {
    Iommu(FwNode),
    Client(Arc<Device<Host>>),
}

impl Run {
    fn measure(&self, seed: u64) -> Outcome {
        let subsystem = Subsystem::new(Arc::new(Host::new(Arc::default())), Policy::default());
        let mut arrivals: Vec<Arrival> = self
            .clients()
            .map(|client| {
                Arrival::Client(subsystem.add_device(client).expect("a sound description"))
            })
            .collect();
        let mut random = Random::new(seed);
        for last in (1..arrivals.len()).rev() {
            arrivals.swap(last, random.below(last + 1));
        }
        for iommu in 0..self.iommus {
            // Those before stay in front, as swapping with the first client does not move them.
            let at = if self.iommus_first { iommu } else { random.below(arrivals.len() + 1) };
            arrivals.push(Arrival::Iommu(FwNode(iommu as u32)));
            let last = arrivals.len() - 1;
            arrivals.swap(at, last);
        }
        let driver: Arc<dyn Driver<Host>> = Arc::new(FreeDriver);
        let (elapsed, cpu) = if self.together {
            let parts = in_parts(arrivals);
            times(|| self.arrive_together(&subsystem, &parts, &driver))
        } else {
            times(|| self.arrive(&subsystem, &arrivals, &driver))
        };
        let counts = subsystem.counts();
        let most_defers = subsystem.reports().iter().map(|report| report.defers).max().unwrap_or(0);
        Outcome { elapsed, cpu, most_defers, unbound: counts.devices - counts.bound }
    }

    fn clients(&self) -> impl Iterator<Item = DeviceDescription> + '_ {
        (0..self.clients).map(|client| {
            let iommu = FwNode((client % self.iommus) as u32);
            let stream = FwStream::new(iommu, StreamId::new(client as u32));
            let spec = FwSpec { streams: vec![stream] };
            DeviceDescription::new(format!("/client@{client:06}"), DmaPath::Translated(spec))
        })
    }

    fn arrive(
        &self,
        subsystem: &Subsystem<Host>,
        arrivals: &[Arrival],
        driver: &Arc<dyn Driver<Host>>,
    ) {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(arrival) = arrivals.get(next.fetch_add(1, Ordering::Relaxed)) {
                match arrival {
                    Arrival::Iommu(node) => self.register(subsystem, *node),
                    Arrival::Client(device) => {
                        subsystem.bind(device, Arc::clone(driver)).expect("bound once");
                    }
                }
            }
            subsystem.run_deferred();
        };
        if self.threads == 1 {
            return work();
        }
        std::thread::scope(|scope| (0..self.threads).for_each(|_| drop(scope.spawn(work))));
    }

    fn arrive_together(
        &self,
        subsystem: &Subsystem<Host>,
        parts: &[Part],
        driver: &Arc<dyn Driver<Host>>,
    ) {
        for (clients, iommu) in parts {
            subsystem.bind_all(clients, driver, |_, bound| _ = bound.expect("bound once"));
            iommu.iter().for_each(|node| self.register(subsystem, *node));
        }
        subsystem.run_deferred();
    }

    fn register(&self, subsystem: &Subsystem<Host>, node: FwNode) {
        let instance = Box::new(NullIommu::new(self.set_up));
        subsystem.register(node, instance).expect("registered once");
        subsystem.run_deferred();
    }

    fn best(&self, rounds: usize, time: impl Fn(&Outcome) -> Duration) -> Outcome {
        let outcomes = (0..rounds.max(1)).map(|round| self.measure(round as u64 + 1));
        outcomes.min_by_key(time).expect("at least one round")
    }
}

/// What `work` takes: wall time, and processor time of this thread.
fn times(work: impl FnOnce()) -> (Duration, Duration) {
    let (start, cpu) = (Instant::now(), cpu_time());
    work();
    (start.elapsed(), Duration::from_nanos((cpu_time() - cpu) as u64))
}

/// Clients, and the IOMMU that arrives after them; none after the last.
type Part = (Vec<Arc<Device<Host>>>, Option<FwNode>);

/// The same arrivals, cut behind each IOMMU.
fn in_parts(arrivals: Vec<Arrival>) -> Vec<Part> {
    let (mut parts, mut clients) = (Vec::new(), Vec::new());
    for arrival in arrivals {
        match arrival {
            Arrival::Client(device) => clients.push(device),
            Arrival::Iommu(node) => parts.push((std::mem::take(&mut clients), Some(node))),
        }
    }
    parts.push((clients, None));
    parts
}

/// Measures, and writes the tables row by row.
///
/// # Errors
///
/// What `out` says.
pub fn run(bench: &ProbeBench, out: &mut dyn Write) -> fmt::Result {
    let load = Load::begin();
    scale_table(bench, out)?;
    second_thread(bench, out)?;
    speed_up_table(bench, out)?;
    writeln!(out, "\n{load}")
}

/// A run whose set-up costs nothing.
fn free(clients: usize, iommus: usize, threads: usize, together: bool) -> Run {
    let set_up = Duration::ZERO;
    Run { clients, iommus, threads, set_up, iommus_first: false, together }
}

fn scale_table(bench: &ProbeBench, out: &mut dyn Write) -> fmt::Result {
    out.write_str(
        "free set-up, one thread's processor time, random order of clients and IOMMUs\n\
         clients  IOMMUs  ns a device  by bind_all  most deferrals of a device  not bound\n",
    )?;
    let sizes = [10, 100, 1000, 10_000, 100_000];
    for clients in sizes.into_iter().filter(|clients| *clients <= bench.most_clients) {
        for iommus in [1, 4, 16, 64] {
            let best = |together| free(clients, iommus, 1, together).best(bench.rounds, |o| o.cpu);
            let [single, all] = [false, true].map(best);
            let ns = |outcome: &Outcome| outcome.cpu.as_nanos() as f64 / clients as f64;
            writeln!(
                out,
                "{clients:7}  {iommus:6}  {:11.0}  {:11.0}  {:26}  {:9}",
                ns(&single),
                ns(&all),
                single.most_defers.max(all.most_defers),
                single.unbound + all.unbound
            )?;
        }
    }
    Ok(())
}

fn second_thread(bench: &ProbeBench, out: &mut dyn Write) -> fmt::Result {
    let clients = bench.most_clients;
    let run = |threads| {
        let outcome =
            free(clients, 4, threads, false).best(bench.rounds, |outcome| outcome.elapsed);
        outcome.elapsed.as_secs_f64()
    };
    writeln!(
        out,
        "\nfree set-up, {clients} clients behind 4 IOMMUs: a second thread makes it {:.2} times as fast",
        run(1) / run(2)
    )
}

fn speed_up_table(bench: &ProbeBench, out: &mut dyn Write) -> fmt::Result {
    out.write_str(
        "\n20 us of set-up a device, 1000 clients\nIOMMUs  one thread  two threads  speed-up\n",
    )?;
    for iommus in [1, 4, 64] {
        let set_up = Duration::from_micros(20);
        let time = |threads| {
            let run =
                Run { clients: 1000, iommus, threads, set_up, iommus_first: true, together: false };
            run.best(bench.rounds, |outcome| outcome.elapsed).elapsed
        };
        let (one, two) = (time(1), time(2));
        let ratio = one.as_secs_f64() / two.as_secs_f64();
        writeln!(out, "{iommus:6}  {one:>10.2?}  {two:>11.2?}  {ratio:7.2}x")?;
    }
    Ok(())
}
