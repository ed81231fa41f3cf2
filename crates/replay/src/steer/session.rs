//! The machine that parks threads and lets them go.

use super::observe::{Observation, Offsets};
use super::stop::{At, Devices, Stop, symbol};
use super::thread::{Goal, Target, Thread};
use crate::error::Error;
use crate::gdb::{Client, CoreRegisters, Stop as Halt};
use crate::image::KernelImage;
use crate::machine::Console;
use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Milliseconds that a parked thread sleeps at a time: short beside any timeout of the kernel, long beside the cost of a stop.
const NAP: u64 = 20;
/// How long the guest runs between two looks at whether its vectors are installed.
const POLL: Duration = Duration::from_millis(100);
/// How often that is done: a loaded machine takes a few seconds.
const POLLS: u32 = 600;
/// How long to wait for a stop before looking at the clock.
const TICK: Duration = Duration::from_millis(200);
/// PSTATE.I: interrupts are masked.
const MASKED: u32 = 1 << 7;

/// What a session is about.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    /// The kernel.
    pub(crate) image: &'a KernelImage,
    /// The devices.
    pub(crate) devices: Devices,
    /// The client is a PCI function whose driver allocates MSI-X vectors in its probe: the first message is observed, too.
    pub(crate) reads_doorbell: bool,
    /// Functions whose return values are noted, in threads of the schedule; those that a kernel does not have are left out.
    pub(crate) watched: &'a [&'a str],
    /// Where the client's driver begins its probe: what the device looks like there is noted.
    pub(crate) driver_probe: Stop,
}

/// How an advance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The thread is parked at the stop.
    Reached,
    /// The thread's first function returned before the stop was met; it is parked there.
    Returned(i32),
    /// The thread died of an oops.
    Died,
    /// It is not there in time.
    Late,
    /// The guest ended.
    GuestEnded,
}

/// A register that is altered when a thread of the schedule passes a place: what a kernel would do without a fix.
#[derive(Clone, Debug)]
pub(crate) struct Ablation {
    /// The instruction before which it happens, from the start of the image.
    pub(crate) offset: u64,
    /// Which register.
    pub(crate) register: usize,
    /// Only if it holds this.
    pub(crate) from: u64,
    /// What it then gets.
    pub(crate) to: u64,
}

/// A steered kernel.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    client: Client,
    console: Console,
    setup: Setup<'a>,
    offsets: Offsets,
    /// The address of the image's first byte.
    base: u64,
    msleep: u64,
    driver_probe: u64,
    /// Where a thread goes that dies.
    death: u64,
    watched: BTreeMap<u64, String>,
    breakpoints: BTreeSet<u64>,
    ablation: Option<(u64, Ablation)>,
    threads: Vec<Thread>,
    stops: u64,
    parks: u64,
    ablated: u64,
    at_driver_probe: Option<Observation>,
}

impl<'a> Session<'a> {
    /// Lets the guest run until its place in memory is known (with KASLR or without), and prepares.
    pub(crate) fn begin(
        mut client: Client,
        console: Console,
        setup: Setup<'a>,
    ) -> Result<Self, Error> {
        let image = setup.image;
        let offsets = Offsets::read(&image.btf)?;
        let base = find_base(&mut client, image)?;
        let at = |name: &str, wanted: &str| {
            Ok::<u64, Error>(base.wrapping_add(symbol(image, name, wanted)?))
        };
        let msleep = at("msleep", "parking threads")?;
        let death = at("make_task_dead", "seeing a thread die")?;
        let driver_probe = base.wrapping_add(setup.driver_probe.offset(image)?);
        let found = setup.watched.iter().filter_map(|name| {
            image.symbols.offset(name).map(|offset| (base.wrapping_add(offset), (*name).to_owned()))
        });
        let watched = found.collect();
        Ok(Self {
            client,
            console,
            setup,
            offsets,
            base,
            msleep,
            driver_probe,
            death,
            watched,
            breakpoints: BTreeSet::new(),
            ablation: None,
            threads: Vec::new(),
            stops: 0,
            parks: 0,
            ablated: 0,
            at_driver_probe: None,
        })
    }

    /// Adds a thread that is born, and held, at `birth`.
    /// The end of the function that it is born in ends every advance, if `ends_at_end`.
    pub(crate) fn add_thread(&mut self, birth: &Stop, ends_at_end: bool) -> Result<(), Error> {
        let target = self.target(birth)?;
        self.threads.push(Thread { ends_at_end, ..Thread::new(target) });
        Ok(())
    }

    /// Alters a register whenever a thread of the schedule passes there.
    pub(crate) fn ablate(&mut self, ablation: Ablation) {
        self.ablation = Some((self.base.wrapping_add(ablation.offset), ablation));
    }

    /// Notes the calls of a function too, so that its return can be waited for by a thread that is in it already.
    pub(crate) fn watch(&mut self, function: &str) -> Result<(), Error> {
        let offset = symbol(self.setup.image, function, "waiting for its return")?;
        self.watched.insert(self.base.wrapping_add(offset), function.to_owned());
        Ok(())
    }

    /// Sets the breakpoints that every schedule needs.
    pub(crate) fn arm(&mut self) -> Result<(), Error> {
        let births: Vec<u64> = self.threads.iter().map(|thread| thread.birth.address).collect();
        let watched: Vec<u64> = self.watched.keys().copied().collect();
        let others = [self.driver_probe, self.death]
            .into_iter()
            .chain(self.ablation.as_ref().map(|(at, _)| *at));
        for address in births.into_iter().chain(watched).chain(others) {
            self.breakpoint(address)?;
        }
        Ok(())
    }

    fn breakpoint(&mut self, address: u64) -> Result<(), Error> {
        if self.breakpoints.insert(address) {
            self.client.insert_breakpoint(address)?;
        }
        Ok(())
    }

    fn target(&self, stop: &Stop) -> Result<Target, Error> {
        let address = self.base.wrapping_add(stop.offset(self.setup.image)?);
        Ok(Target { stop: stop.clone(), address })
    }

    /// Lets the guest run until every thread is born and held.
    pub(crate) fn await_births(&mut self, bound: Duration) -> Result<bool, Error> {
        self.pump(bound, |session| session.threads.iter().all(|thread| thread.task.is_some()))
            .map(|arrival| arrival == Arrival::Reached)
    }

    /// Lets thread `number` run to `stop`, or to the end of its first function if there is none.
    pub(crate) fn advance(
        &mut self,
        number: usize,
        stop: Option<&Stop>,
        bound: Duration,
    ) -> Result<Arrival, Error> {
        let goal = match stop {
            None => Goal::Return,
            Some(stop) => {
                let target = self.target(stop)?;
                self.breakpoint(target.address)?;
                let armed = self.armed_already(number, &target)?;
                Goal::Reach { target, armed }
            }
        };
        let before = self.threads[number].returned;
        self.threads[number].goal = goal;
        let end = self.pump(bound, |session| {
            let thread = &session.threads[number];
            matches!(thread.goal, Goal::Held) || thread.died
        })?;
        let thread = &self.threads[number];
        if thread.died {
            return Ok(Arrival::Died);
        }
        Ok(match (end, stop, thread.returned) {
            (Arrival::Reached, Some(_), Some(value))
                if before.is_none() && thread.ends_at_end && thread.at_own_end() =>
            {
                Arrival::Returned(value)
            }
            (end, ..) => end,
        })
    }

    /// A thread that is in a function already has passed where its return would be armed.
    fn armed_already(
        &mut self,
        number: usize,
        target: &Target,
    ) -> Result<Option<(u64, u64)>, Error> {
        if target.stop.at != At::Return {
            return Ok(None);
        }
        let frames = self.threads[number].frames.iter().rev();
        let armed = frames
            .filter(|frame| frame.function == target.stop.function)
            .map(|frame| (frame.return_to, frame.sp))
            .next();
        if let Some((return_to, _)) = armed {
            self.breakpoint(return_to)?;
        }
        Ok(armed)
    }

    /// Lets a thread go for good.
    pub(crate) fn release(&mut self, number: usize) {
        self.threads[number].goal = Goal::Free;
    }

    /// Lets the guest run until it says that it is done.
    pub(crate) fn finish(&mut self, bound: Duration) -> Result<bool, Error> {
        self.pump(bound, |_| false).map(|arrival| arrival == Arrival::GuestEnded)
    }

    /// The client, now; `None` before the thread of its probe is born.
    pub(crate) fn observe(&mut self, number: usize) -> Result<Option<Observation>, Error> {
        let device = self.threads[number].device;
        if device == 0 || !self.select_kernel_cpu()? {
            return Ok(None);
        }
        self.offsets.observe(&mut self.client, device, self.setup.reads_doorbell).map(Some)
    }

    /// Chooses a CPU that runs in the kernel, whose memory the stub can then read.
    fn select_kernel_cpu(&mut self) -> Result<bool, Error> {
        for cpu in [1, 2] {
            self.client.select(cpu)?;
            // PSTATE.M[3:2] is the exception level.
            if self.client.core_registers()?.cpsr & 0b1100 != 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the client looked like when its driver began to probe.
    pub(crate) fn at_driver_probe(&self) -> Option<&Observation> {
        self.at_driver_probe.as_ref()
    }

    /// A thread.
    pub(crate) fn thread(&self, number: usize) -> &Thread {
        &self.threads[number]
    }

    /// How many stops, parks, packets and altered registers there were.
    pub(crate) fn counts(&self) -> (u64, u64, u64, u64) {
        (self.stops, self.parks, self.client.packets(), self.ablated)
    }

    /// The name of a kernel address.
    pub(crate) fn name(&self, address: u64) -> String {
        match self.setup.image.symbols.nearest(address.wrapping_sub(self.base)) {
            Some((name, 0)) => name.to_owned(),
            Some((name, behind)) => format!("{name}+{behind:#x}"),
            None => format!("{address:#x}"),
        }
    }

    /// Runs the guest and serves its stops until `done`, the guest's end, or the bound.
    fn pump(&mut self, bound: Duration, done: impl Fn(&Self) -> bool) -> Result<Arrival, Error> {
        let deadline = Instant::now() + bound;
        loop {
            if done(self) {
                return Ok(Arrival::Reached);
            }
            // Also here: a parked thread stops the machine so often that no wait below would ever time out.
            if self.guest_is_done() {
                return Ok(Arrival::GuestEnded);
            }
            if Instant::now() > deadline {
                return Ok(Arrival::Late);
            }
            match self.client.resume() {
                Err(Error::Closed) => return Ok(Arrival::GuestEnded),
                other => other?,
            }
            let halt = loop {
                if let Some(halt) = self.client.wait(TICK)? {
                    break halt;
                }
                if Instant::now() > deadline || self.guest_is_done() {
                    break self.client.interrupt()?;
                }
            };
            match halt {
                Halt::Gone => return Ok(Arrival::GuestEnded),
                Halt::Trap { cpu } => self.serve(cpu)?,
                Halt::Interrupted { .. } if self.guest_is_done() => return Ok(Arrival::GuestEnded),
                Halt::Interrupted { .. } => return Ok(Arrival::Late),
            }
        }
    }

    fn guest_is_done(&self) -> bool {
        self.console.says("@@@ end") || self.console.says("Kernel panic - not syncing")
    }

    /// One stop of one CPU.
    fn serve(&mut self, cpu: u32) -> Result<(), Error> {
        self.stops += 1;
        self.client.select(cpu)?;
        let registers = self.client.core_registers()?;
        let task = self.client.register("SP_EL0")?;
        let known = self.threads.iter().position(|thread| thread.is(task));
        let stays = match known {
            Some(number) if self.threads[number].parked.is_some() => {
                self.parked_again(number, &registers)?
            }
            Some(number) => self.passed(number, &registers)?,
            None => self.born(&registers, task)?,
        };
        if !stays {
            self.client.step(cpu)?;
        }
        Ok(())
    }

    /// A parked thread is back from its nap, or met some other breakpoint in it. Says whether it stays.
    fn parked_again(&mut self, number: usize, registers: &CoreRegisters) -> Result<bool, Error> {
        let thread = &mut self.threads[number];
        let Some(saved) = thread.parked else { return Ok(false) };
        if (saved.pc, saved.sp) != (registers.pc, registers.sp) {
            return Ok(false);
        }
        if matches!(thread.goal, Goal::Held) {
            self.nap(registers)?;
            return Ok(true);
        }
        thread.parked = None;
        self.client.set_core_registers(&saved)?;
        Ok(false)
    }

    /// A thread of the schedule passes a breakpoint. Says whether it is parked there.
    fn passed(&mut self, number: usize, registers: &CoreRegisters) -> Result<bool, Error> {
        if registers.pc == self.death {
            self.threads[number].died = true;
            self.threads[number].goal = Goal::Free;
            return Ok(false);
        }
        let watched = self.watched.get(&registers.pc).map(String::as_str);
        self.threads[number].note_calls(registers, watched);
        if watched.is_some() {
            self.breakpoint(registers.x[30])?;
        }
        let client = self.setup.devices.client;
        if registers.pc == self.driver_probe
            && self.offsets.device_name(&mut self.client, registers.x[0]) == client
        {
            let (device, doorbell) = (registers.x[0], self.setup.reads_doorbell);
            self.at_driver_probe =
                Some(self.offsets.observe(&mut self.client, device, doorbell)?);
        }
        self.alter(registers)?;
        let arrived = self.arrives(number, registers)?;
        if arrived {
            self.park(number, registers)?;
        }
        Ok(arrived)
    }

    fn alter(&mut self, registers: &CoreRegisters) -> Result<(), Error> {
        let Some((at, ablation)) = &self.ablation else { return Ok(()) };
        if *at != registers.pc || registers.x[ablation.register] != ablation.from {
            return Ok(());
        }
        let mut altered = *registers;
        altered.x[ablation.register] = ablation.to;
        self.ablated += 1;
        self.client.set_core_registers(&altered)
    }

    /// Is the thread where it was to go, or at its end?
    fn arrives(&mut self, number: usize, registers: &CoreRegisters) -> Result<bool, Error> {
        let at_end = self.threads[number].is_at_end(registers);
        if at_end && self.threads[number].returned.is_none() {
            self.threads[number].returned = Some(super::thread::int(registers.x[0]));
        }
        match self.threads[number].goal.clone() {
            Goal::Held | Goal::Free => Ok(false),
            Goal::Return => Ok(at_end),
            Goal::Reach { target, armed } => {
                let here = registers.pc == target.address && self.holds(&target.stop, registers);
                let hit = match (&target.stop.at, armed) {
                    (At::Return, Some(armed)) => armed == (registers.pc, registers.sp),
                    (At::Return, None) if here => {
                        let armed = Some((registers.x[30], registers.sp));
                        self.breakpoint(registers.x[30])?;
                        self.threads[number].goal = Goal::Reach { target: target.clone(), armed };
                        false
                    }
                    (At::Return, None) => false,
                    _ => here,
                };
                Ok(hit || (at_end && self.threads[number].ends_at_end))
            }
        }
    }

    /// Does the stop's register point to the stop's device?
    fn holds(&mut self, stop: &Stop, registers: &CoreRegisters) -> bool {
        let Some((register, role)) = stop.device else { return true };
        let wanted = self.setup.devices.name(role);
        self.offsets.device_name(&mut self.client, registers.x[register]) == wanted
    }

    /// A thread that the schedule does not know yet: is it at a birth? Says whether it stays.
    fn born(&mut self, registers: &CoreRegisters, task: u64) -> Result<bool, Error> {
        let waiting =
            |thread: &Thread| thread.task.is_none() && thread.birth.address == registers.pc;
        let Some(number) = self.threads.iter().position(waiting) else {
            return Ok(false);
        };
        let stop = self.threads[number].birth.stop.clone();
        if !self.holds(&stop, registers) {
            return Ok(false);
        }
        let comm = self.client.text(task + self.offsets.comm, 16)?;
        let pid = self.client.half_word(task + self.offsets.pid)?;
        let device = stop.device.map_or(0, |(register, _)| registers.x[register]);
        let thread = &mut self.threads[number];
        thread.task = Some(task);
        thread.comm = format!("{comm}/{pid}");
        thread.device = device;
        thread.end = (registers.x[30], registers.sp);
        thread.goal = Goal::Held;
        thread.note_calls(registers, self.watched.get(&registers.pc).map(String::as_str));
        self.breakpoint(registers.x[30])?;
        self.park(number, registers)?;
        Ok(true)
    }

    /// Parks a thread at its stop, unless nobody may sleep there.
    fn park(&mut self, number: usize, registers: &CoreRegisters) -> Result<(), Error> {
        let task = self.threads[number].task.unwrap_or_default();
        let preempt_count = self.client.half_word(task + self.offsets.preempt_count)?;
        if registers.cpsr & MASKED != 0 || preempt_count != 0 {
            let why = match registers.cpsr & MASKED {
                0 => format!("preemption is off (preempt_count {preempt_count:#x})"),
                _ => "interrupts are masked".to_owned(),
            };
            return Err(Error::NotParkable { stop: self.name(registers.pc), why });
        }
        let thread = &mut self.threads[number];
        thread.parked = Some(*registers);
        thread.goal = Goal::Held;
        self.nap(registers)
    }

    /// The injected call.
    fn nap(&mut self, registers: &CoreRegisters) -> Result<(), Error> {
        self.parks += 1;
        let mut call = *registers;
        call.x[0] = NAP;
        call.x[30] = registers.pc;
        call.pc = self.msleep;
        self.client.set_core_registers(&call)
    }
}

/// Where the image's first byte is: `VBAR_EL1` points to `vectors`. Early in the boot it may point elsewhere, so the code of `msleep` must be there too.
fn find_base(client: &mut Client, image: &KernelImage) -> Result<u64, Error> {
    let vectors = symbol(image, "vectors", "finding the kernel in memory")?;
    let probe = symbol(image, "msleep", "parking threads")?;
    // Behind the instructions that tracing may patch.
    let probe = probe + 8;
    let start = usize::try_from(probe).unwrap_or(usize::MAX);
    let code = image.bytes.get(start..start.saturating_add(8)).unwrap_or_default();
    for _ in 0..POLLS {
        client.resume()?;
        sleep(POLL);
        if client.interrupt()? == Halt::Gone {
            return Err(Error::Closed);
        }
        client.select(1)?;
        let base = client.register_of(&["VBAR_EL1", "VBAR"])?.wrapping_sub(vectors);
        let there = base >> 48 == 0xffff
            && client.memory(base.wrapping_add(probe), 8).is_ok_and(|bytes| bytes == code);
        if there {
            return Ok(base);
        }
    }
    Err(Error::Image("the running kernel was not found in memory".into()))
}
