//! One replay, from a kernel and a schedule to a report.

use crate::ablate::{self, Fix};
use crate::board::{Board, Interrupts};
use crate::error::Error;
use crate::guest::{Guest, build};
use crate::machine::{Boot, Console, ConsoleLine, Machine};
use crate::outcome::{BadEnd, EPROBE_DEFER, Evidence, Outcome, bad_ends};
use crate::package::Kernel;
use crate::plan::{ModelEnd, Named, Plan, Step, Who, compile, protocol_of};
use crate::predict::{Prediction, predict};
use crate::report::{Damage, Deviation, Report, StepReport, Verdict};
use crate::steer::{Ablation, Arrival, At, Devices, Observation, Session, Setup, Stop};
use portcullis_lab::linux::{self, Bus, Commit, Protocol, World};
use portcullis_qemu::Installation;
use std::time::Duration;

/// How long a guest may take to boot: five seconds on an idle machine.
const BOOT: Duration = Duration::from_secs(180);
/// How long an advance may take. Most take a tenth of a second; a driver whose DMA does not work waits for its timeouts.
const ADVANCE: Duration = Duration::from_secs(90);
/// The same where the lab says that the thread will never come.
const NEVER: Duration = Duration::from_secs(10);
/// How long the guest may go on after the schedule.
const FINISH: Duration = Duration::from_secs(180);

/// Functions of the client's probe whose return values tell who refused.
const WATCHED: &[&str] = &[
    "iommu_fwspec_init",
    "iommu_probe_device",
    "of_iommu_configure",
    "iommu_device_use_default_domain",
    "pci_dma_configure",
    "platform_dma_configure",
];

/// What is wanted of a replay.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Load the kernel at a random address.
    pub kaslr: bool,
    /// A fix to go without, by altering a register at one instruction.
    pub ablate: Option<&'static Fix>,
}

/// A schedule as it is asked for.
#[derive(Clone, Debug)]
pub enum Schedule {
    /// One with a name.
    Named(&'static Named),
    /// A string of the lab.
    Lab(String),
}

impl Schedule {
    /// Reads a name, or a schedule as `lab check` prints it.
    ///
    /// # Errors
    /// [`Error::Schedule`] if it is neither; the message lists the names.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if let Some(named) = Named::find(text) {
            return Ok(Self::Named(named));
        }
        if text.contains(':') {
            return Ok(Self::Lab(text.to_owned()));
        }
        let known: Vec<&str> = crate::plan::NAMED.iter().map(|named| named.name).collect();
        Err(Error::Schedule(format!(
            "`{text}` is neither a schedule of the lab nor a name; names are {}",
            known.join(", ")
        )))
    }

    /// The plan on a kernel, and the protocol that it was found on.
    fn plan(&self, version: (u32, u32, u32), board: &Board) -> Result<Plan, Error> {
        match self {
            Self::Named(named) => named.plan(version, board.client.bus),
            Self::Lab(text) => {
                let (protocol, world, trace) =
                    linux::replay(text).map_err(|error| Error::Schedule(error.to_string()))?;
                carries(board, &world)?;
                compile(&protocol, &world, &trace, version)
            }
        }
    }

    /// Does this version have the places that the schedule needs?
    #[must_use]
    pub fn exists_on(&self, version: (u32, u32, u32), board: &Board) -> bool {
        self.plan(version, board).is_ok()
    }

    /// The board that fits the schedule best.
    ///
    /// # Errors
    /// [`Error::Schedule`] if the string cannot be read, [`Error::Board`] if no board is its world.
    pub fn board(&self) -> Result<&'static Board, Error> {
        let Self::Lab(text) = self else { return Board::find("nvme") };
        let (_, world, _) =
            linux::replay(text).map_err(|error| Error::Schedule(error.to_string()))?;
        let fits = |board: &&Board| carries(board, &world).is_ok();
        crate::board::BOARDS.iter().find(fits).ok_or_else(|| {
            Error::Board(format!("no board is the world `{world}`: one client, SMMUv3, devicetree, one SMMU registering"))
        })
    }
}

fn carries(board: &Board, world: &World) -> Result<(), Error> {
    if board.carries(world) {
        return Ok(());
    }
    Err(Error::Board(format!(
        "the board `{}` is the world `{}`; the schedule is for `{world}`",
        board.name,
        board.world()
    )))
}

/// A replay that can be run as often as wanted.
#[derive(Debug)]
pub struct Replay<'a> {
    /// Where it runs.
    pub qemu: &'a Installation,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// A busybox for arm64.
    pub busybox: &'a [u8],
    /// The machine.
    pub board: &'static Board,
    /// The schedule.
    pub schedule: Schedule,
    /// What else is wanted.
    pub options: Options,
}

impl Replay<'_> {
    /// Boots the kernel, forces the schedule, and says what happened.
    ///
    /// # Errors
    /// What keeps it from being done. That the kernel did something else than predicted is no error.
    pub fn run(&self) -> Result<Report, Error> {
        self.board.supported_by(self.qemu)?;
        let plan = self.schedule.plan(self.kernel.version, self.board)?;
        let protocol = self.protocol()?;
        let prediction = predict(&protocol, &self.board.world(), &plan)?;
        let stops = plan.steps.iter().map(stop_of).collect::<Result<Vec<_>, Error>>()?;
        self.check_stops(&stops)?;
        let without = self.options.ablate.map(|fix| ablate::find(fix, &self.kernel.image));
        let without = without.transpose()?;
        let initramfs = self.initramfs()?;
        let boot = Boot {
            kernel: &self.kernel.file,
            initramfs: &initramfs,
            command_line: self.command_line(),
        };
        let mut machine = Machine::start(self.qemu, self.board, &boot)?;
        let client = machine.connect()?;
        let setup = Setup {
            image: &self.kernel.image,
            devices: Devices { client: self.board.client.device, smmu: self.board.registering() },
            reads_doorbell: self.board.client.interrupts_by == Interrupts::Messages,
            watched: WATCHED,
            driver_probe: driver_probe(self.board.client.bus)?,
        };
        let console = machine.console().clone();
        let mut session = Session::begin(client, console.clone(), setup)?;
        self.prepare(&mut session, &stops, without)
            .map_err(|error| with_last_lines(error, &console))?;
        let mut force = Force {
            session: &mut session,
            machine: &machine,
            prediction: &prediction,
            steps: Vec::new(),
            seen: Seen::default(),
        };
        let outcome = force.run(&plan, &stops).map_err(|error| with_last_lines(error, &console))?;
        let steps = force.steps;
        self.report(&mut session, &machine, &plan, &protocol, prediction, (steps, outcome))
    }

    /// The kernel's protocol, less what is ablated.
    fn protocol(&self) -> Result<Protocol, Error> {
        let protocol = protocol_of(self.kernel.version)?;
        let Some(fix) = self.options.ablate else { return Ok(protocol) };
        let commit =
            Commit::find(fix.commit).expect("the lab knows every fix that can be gone without");
        protocol
            .without(commit)
            .map_err(|error| Error::Schedule(format!("this kernel without {commit}: {error}")))
    }

    /// Every stop must be there before anything is booted.
    fn check_stops(&self, stops: &[Option<Stop>]) -> Result<(), Error> {
        let births = births()?;
        let all = stops.iter().flatten().chain(births.iter().map(|(stop, _)| stop));
        for stop in all {
            stop.offset(&self.kernel.image)?;
        }
        Ok(())
    }

    fn initramfs(&self) -> Result<Vec<u8>, Error> {
        build(&Guest {
            busybox: self.busybox,
            modules: &self.kernel.modules,
            gate: "fixed",
            client: self.board.client.module,
            before: self.board.client.before,
        })
    }

    fn command_line(&self) -> String {
        let client = self.board.client;
        let bus = match client.bus {
            Bus::Host1x => "host1x-context".to_owned(),
            bus => bus.to_string(),
        };
        let kaslr = if self.options.kaslr { "" } else { "nokaslr " };
        let wait = if client.probe.is_empty() { 3 } else { 8 };
        format!(
            "console=ttyAMA0 {kaslr}panic=-1 deferred_probe_timeout=-1 replay.client={bus}/devices/{} replay.probe={} replay.irq={} replay.wait={wait} replay.patience=4",
            client.device, client.probe, client.interrupts
        )
    }

    fn prepare(
        &self,
        session: &mut Session<'_>,
        stops: &[Option<Stop>],
        without: Option<Ablation>,
    ) -> Result<(), Error> {
        for (birth, ends_at_end) in births()? {
            session.add_thread(&birth, ends_at_end)?;
        }
        for stop in stops.iter().flatten().filter(|stop| stop.at == At::Return) {
            session.watch(&stop.function)?;
        }
        if let Some(ablation) = without {
            session.ablate(ablation);
        }
        session.arm()?;
        if session.await_births(BOOT)? {
            return Ok(());
        }
        Err(Error::Board("the SMMU's or the client's driver did not begin to probe".into()))
    }

    fn report(
        &self,
        session: &mut Session<'_>,
        machine: &Machine,
        plan: &Plan,
        protocol: &Protocol,
        prediction: Prediction,
        (steps, observed): (Vec<StepReport>, Outcome),
    ) -> Result<Report, Error> {
        let forced = machine.seconds();
        session.release(Who::Smmu.number());
        session.release(Who::Client.number());
        let finished = session.finish(FINISH)?;
        let (stops, parks, packets, ablated) = session.counts();
        let damage =
            Damage::read(&machine.console().since(0), &machine.trace(), self.board, finished);
        let verdict = verdict(&steps, &prediction, &observed);
        Ok(Report {
            kernel: self.kernel.name.clone(),
            board: self.board,
            schedule: plan.name.clone(),
            protocol: protocol.to_string(),
            stock: self.options.ablate.is_none(),
            ablated: self.options.ablate.map(|fix| (fix.commit.to_owned(), ablated)),
            interrupts_predicted: prediction.interrupts(self.board.client.interrupts_by),
            works_predicted: self.board.client.dma_translated.then(|| prediction.works()),
            predicted: prediction.outcome,
            observed,
            verdict,
            steps,
            trace: prediction.trace,
            world: self.board.world(),
            returns: session
                .thread(Who::Client.number())
                .returns
                .iter()
                .map(|returned| (returned.function.clone(), returned.value))
                .collect(),
            damage,
            seconds: (forced, machine.seconds()),
            counts: (stops, parks, packets),
        })
    }
}

/// Where the two threads are born, by number, and whether each ends with the function that it is born in.
fn births() -> Result<[(Stop, bool); 2], Error> {
    Ok([
        ("iommu_device_register?x2=smmu".parse()?, false),
        ("really_probe?x0=client".parse()?, true),
    ])
}

/// Where a client's driver begins.
fn driver_probe(bus: Bus) -> Result<Stop, Error> {
    match bus {
        Bus::Pci => "pci_device_probe".parse(),
        Bus::Platform => "platform_probe".parse(),
        Bus::Amba => "amba_probe".parse(),
        Bus::FslMc => "fsl_mc_driver_probe".parse(),
        Bus::Cdx => "cdx_probe".parse(),
        Bus::Host1x => Err(Error::Board("the context devices of host1x have no driver".into())),
    }
}

fn stop_of(step: &Step) -> Result<Option<Stop>, Error> {
    step.site.stop.map(str::parse).transpose()
}

/// What was seen of the client's thread.
#[derive(Debug, Default)]
struct Seen {
    returned: Option<i32>,
    early: Option<(Who, usize)>,
    died: bool,
}

/// The schedule being forced.
struct Force<'a, 'b> {
    session: &'a mut Session<'b>,
    machine: &'a Machine,
    prediction: &'a Prediction,
    steps: Vec<StepReport>,
    seen: Seen,
}

impl Force<'_, '_> {
    fn run(&mut self, plan: &Plan, stops: &[Option<Stop>]) -> Result<Outcome, Error> {
        for (number, (step, stop)) in plan.steps.iter().zip(stops).enumerate() {
            if self.seen.early.is_some_and(|(who, _)| who == step.who) {
                continue;
            }
            let arrival = self.step(number + 1, step, stop.as_ref())?;
            match arrival {
                Arrival::Reached => {}
                Arrival::Returned(_) => self.seen.early = Some((step.who, number + 1)),
                Arrival::Died => {
                    self.seen.died = true;
                    self.seen.early = Some((step.who, number + 1));
                }
                Arrival::Late | Arrival::GuestEnded => {
                    self.seen.early = Some((step.who, number + 1));
                    break;
                }
            }
        }
        Ok(self.outcome())
    }

    fn step(&mut self, number: usize, step: &Step, stop: Option<&Stop>) -> Result<Arrival, Error> {
        let predicted = self.prediction.steps.get(self.steps.len());
        let never = predicted.is_some_and(|(end, _)| matches!(end, ModelEnd::Blocked(_)));
        let bound = if never { NEVER } else { ADVANCE };
        let (lines, events) = (self.console().len(), self.machine.trace().len());
        let thread = step.who.number();
        let arrival = self.session.advance(thread, stop, bound)?;
        if step.who == Who::Client {
            self.seen.returned = self.session.thread(thread).returned;
        }
        let observed = match arrival {
            Arrival::GuestEnded => None,
            _ => self.session.observe(Who::Client.number())?,
        };
        let comm = self.session.thread(thread).comm.clone();
        let console = self.console().since(lines);
        let trace = self.machine.trace();
        let report = StepReport {
            number,
            who: step.who,
            thread: comm,
            site: step.site.name,
            words: step.site.words,
            stop: step.site.stop.unwrap_or("really_probe:return").to_owned(),
            arrival: arrival.into(),
            expected: predicted.map(|(end, _)| end.clone()),
            predicted: predicted.map(|(_, state)| state.client.clone()),
            observed,
            driver_failed: self.driver_failed(),
            console: telling(&console),
            events: crate::report::events(trace.get(events..).unwrap_or_default()),
        };
        self.steps.push(report);
        Ok(arrival)
    }

    fn console(&self) -> &Console {
        self.machine.console()
    }

    /// The client's driver began, and its own probe failed: its device does not work.
    fn driver_failed(&self) -> bool {
        self.session.at_driver_probe().is_some()
            && self.seen.returned.is_some_and(|value| value != 0)
    }

    fn outcome(&self) -> Outcome {
        let began = self.session.at_driver_probe();
        let returns = &self.session.thread(Who::Client.number()).returns;
        let refused =
            returns.iter().find(|returned| returned.value < 0 && returned.value == EPROBE_DEFER);
        if began.is_none() && self.seen.returned == Some(EPROBE_DEFER) {
            let function = refused.map_or("really_probe", |returned| returned.function.as_str());
            return Outcome::Prevented { function: function.to_owned(), value: EPROBE_DEFER };
        }
        if self.seen.died {
            return Outcome::Occurred { ends: vec![BadEnd::Oops] };
        }
        if let Some((_, step)) = self.seen.early {
            return Outcome::Infeasible { step };
        }
        let Some(last) = self.steps.iter().rev().find_map(|step| step.observed.as_ref()) else {
            return Outcome::Infeasible { step: 1 };
        };
        let bound = began.is_some() && self.seen.returned == Some(0);
        let ends = bad_ends(&Evidence { began: began.map(|seen| seen.path), bound, last });
        if ends.is_empty() { Outcome::Harmless } else { Outcome::Occurred { ends } }
    }
}

/// An error with what the guest said last.
fn with_last_lines(error: Error, console: &Console) -> Error {
    let lines = console.since(console.len().saturating_sub(12));
    let lines: Vec<String> = lines.into_iter().map(|line| format!("\n  | {}", line.text)).collect();
    Error::Board(format!("{error}; the console's last lines:{}", lines.concat()))
}

/// Console lines that say something about the experiment.
fn telling(lines: &[ConsoleLine]) -> Vec<String> {
    let words = [
        "iommu",
        "smmu",
        "nvme",
        "e1000e",
        "virtio",
        "WARN",
        "BUG",
        "Oops",
        "pc : ",
        "Unable to handle",
        "Failed",
        "fail",
    ];
    // An SMMU's event record is four lines of numbers behind the line that counts.
    let record = |line: &&ConsoleLine| line.text.contains("\t0x");
    let told = lines
        .iter()
        .filter(|line| !record(line) && words.iter().any(|word| line.text.contains(word)));
    told.map(|line| line.text.clone()).take(40).collect()
}

/// The first step at which the kernel did something else than the lab said.
fn verdict(steps: &[StepReport], prediction: &Prediction, observed: &Outcome) -> Verdict {
    for step in steps {
        let deviations = step.deviations();
        if !deviations.is_empty() {
            return Verdict::Diverged { step: step.number, deviations };
        }
    }
    let failed = steps.iter().any(|step| step.driver_failed);
    let predicted = if failed {
        prediction.outcome.after_a_failed_driver()
    } else {
        prediction.outcome.clone()
    };
    if predicted == *observed {
        return Verdict::Agrees;
    }
    let deviation = Deviation {
        what: "outcome",
        predicted: predicted.to_string(),
        observed: observed.to_string(),
    };
    Verdict::Diverged { step: steps.len(), deviations: vec![deviation] }
}

/// The fields in which two looks at a client differ. What a driver whose probe failed has given back is not compared.
pub(crate) fn differences(
    predicted: &Observation,
    observed: &Observation,
    driver_failed: bool,
) -> Vec<Deviation> {
    let given_back = ["owner_cnt", "dev->driver", "MSI doorbell"];
    let pairs = predicted.fields().into_iter().zip(observed.fields());
    let differ = pairs.filter(|((name, predicted), (_, observed))| {
        predicted != observed && !(driver_failed && given_back.contains(name))
    });
    differ
        .map(|((what, predicted), (_, observed))| Deviation { what, predicted, observed })
        .collect()
}
